//! The whitelist editor: each entry is understood or refused before anything is saved; whoever saves over
//! somebody else's change is told and loses nothing; any former version can be brought back.
//!
//! Must stay true: what is saved is based on the version that its page showed, and nothing is saved
//! where one entry is refused.

use askama::Template;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Redirect, Response};

use super::answer::{Fault, Result, page, sentence};
use super::form::{Fields, Id};
use super::frame::{Frame, Place};
use super::history::{Event, Version, event, versions};
use super::session::{Sent, Signed};
use super::token::{events, find};
use super::view::count;
use crate::policy::network::Entry;
use crate::policy::token::TokenState;
use crate::service::Error;
use crate::service::tokens::Described;
use crate::service::whitelists::{ManageWhitelist, ManagedWhitelist};
use crate::store::AuditEvent;

/// What somebody is about to change.
#[derive(Debug, Clone, Default)]
struct Draft {
    /// The version that it is based on.
    version: i64,
    /// As it was pasted.
    add: String,
    /// Entries to take out, as they are listed.
    remove: Vec<String>,
}

impl Draft {
    fn of(fields: &Fields) -> Self {
        Self {
            version: fields.one("version").parse().unwrap_or_default(),
            add: fields.one("add").to_owned(),
            remove: fields.all("remove"),
        }
    }

    fn is_empty(&self) -> bool {
        self.add.trim().is_empty() && self.remove.is_empty()
    }
}

/// An entry as it was pasted.
struct Item {
    text: String,
    /// `new`, `present`, `covered` or `refused`.
    tone: &'static str,
    words: String,
}

/// What a draft comes to.
#[derive(Template)]
#[template(path = "page/review.html")]
pub(super) struct Review {
    items: Vec<Item>,
    removed: Vec<String>,
    /// The list as it would be; `None` where the draft is refused.
    result: Option<Vec<String>>,
    /// What still covers something that is removed.
    covering: Vec<String>,
    faults: Vec<String>,
}

/// What somebody else changed meanwhile.
struct Conflict {
    theirs: Vec<Event>,
    /// What the draft was to remove, and is gone already.
    gone: Vec<String>,
}

#[derive(Template)]
#[template(path = "page/whitelist.html")]
struct EditorPage<'a> {
    frame: Frame,
    id: &'a str,
    name: &'a str,
    /// Each entry, and whether it is to be removed.
    entries: Vec<(String, bool)>,
    version: i64,
    add: &'a str,
    required: bool,
    review: Option<&'a Review>,
    fault: &'a str,
    conflict: Option<&'a Conflict>,
    /// The version that is brought back.
    restored: Option<i64>,
    versions: Vec<Version>,
    address: String,
}

/// A token whose whitelist is edited.
struct Editor {
    signed: Signed,
    id: String,
    described: Described,
    events: Vec<AuditEvent>,
}

impl Editor {
    async fn open(signed: Signed, id: &str) -> Result<Self> {
        let described = find(&signed, id).await?;
        let id = described.token.id.to_string();
        if described.token.state != TokenState::Active {
            let text = "This token is deleted: its whitelist can't change any more.";
            return Err(Fault::new(StatusCode::CONFLICT, "Deleted already", text)
                .at(&signed, Place::Tokens)
                .with_way(format!("/tokens/{id}"), "The token"));
        }
        let (events, _) = events(&signed, &id).await?;
        Ok(Self { signed, id, described, events })
    }

    /// As the whitelist is now.
    fn version(&self) -> i64 {
        self.described.token.whitelist_version
    }

    fn current(&self) -> Vec<String> {
        self.described.token.whitelist.entries().iter().map(ToString::to_string).collect()
    }

    fn required(&self) -> bool {
        self.described.token.grant().requires_whitelist(&self.described.in_force.catalog)
    }

    fn request<'a>(&'a self, draft: &'a Draft, add: &'a [String]) -> ManageWhitelist<'a> {
        ManageWhitelist {
            token_id: &self.id,
            add,
            remove: &draft.remove,
            replace: None,
            expected_version: Some(draft.version),
            validate_only: false,
            no_wait: false,
        }
    }

    /// What a draft comes to, on the whitelist as it is now.
    async fn review(&self, draft: &Draft) -> Result<Review> {
        let services = self.signed.services();
        let current = self.described.token.whitelist.entries();
        let pasted = services.read_entries(&draft.add);
        let refused = pasted.refused();
        let mut review = Review {
            removed: draft.remove.clone(),
            result: None,
            covering: Vec::new(),
            faults: Vec::new(),
            items: Vec::new(),
        };
        if let Some(most) = pasted.too_many_for {
            review.faults.push(format!(
                "That is far more than a whitelist holds, which is {most} entries: nothing of it is \
                 saved. Name ranges instead of their addresses."
            ));
            return Ok(review);
        }
        let add = pasted.texts();
        let covers = Covers::new(current.iter().copied().chain(pasted.read()));
        review.items = pasted
            .entries
            .into_iter()
            .map(|(text, entry)| match entry {
                Err(cure) => Item { text, tone: "refused", words: sentence(&cure) },
                Ok(entry) => judged(text, entry, current, &covers),
            })
            .collect();
        if refused > 0 {
            let what = count(refused, "entry").replace("entrys", "entries");
            review.faults.push(format!(
                "{what} can't be read: nothing is saved until each is mended or taken out."
            ));
            return Ok(review);
        }
        let request = ManageWhitelist { validate_only: true, ..self.request(draft, &add) };
        if add.is_empty() && draft.remove.is_empty() {
            return Ok(review);
        }
        match services.manage_whitelist(self.signed.caller(), request).await {
            Ok(managed) => {
                let entries = |entries: &[Entry]| entries.iter().map(ToString::to_string).collect();
                review.result = Some(entries(managed.outcome.whitelist.entries()));
                review.covering = entries(&managed.outcome.still_covered_by);
            }
            Err(error) => review.faults = self.words(error)?,
        }
        Ok(review)
    }

    /// A refusal in the words of this page; what is none goes on as it is.
    fn words(&self, error: Error) -> Result<Vec<String>> {
        let violations = match error {
            Error::Invalid(violations) | Error::Refused(_, violations)
                if !violations.is_empty() =>
            {
                violations
            }
            Error::Aborted(text) => return Ok(vec![sentence(&text)]),
            other => {
                let way = format!("/tokens/{}/whitelist", self.id);
                let fault = Fault::of_change(other).at(&self.signed, Place::Tokens);
                return Err(fault.with_way(way, "The whitelist as it is"));
            }
        };
        let words = |violation: &crate::service::error::Violation| {
            match violation.reason {
            "WHITELIST_REQUIRED" => "This token may do what needs a whitelist, so it can't be without \
                 one: keep at least one entry, or add the addresses that it will be used from before \
                 you remove the last. A token that is not to be used any more is better deleted."
                .to_owned(),
            "WOULD_REMOVE_LAST" => "This would remove the last entry, and let the token be used from \
                 any address. If that is meant, use \u{201c}Allow any address\u{201d} below."
                .to_owned(),
            _ => sentence(&violation.description),
        }
        };
        Ok(violations.iter().map(words).collect())
    }

    fn show(
        &self,
        status: StatusCode,
        draft: &Draft,
        review: Option<&Review>,
        conflict: Option<&Conflict>,
        fault: &str,
        restored: Option<i64>,
    ) -> Response {
        let id = &self.id;
        let now = self.described.outlook.calendar.now;
        let token = &self.described.token;
        let entries = self.current().into_iter().map(|entry| {
            let removed = draft.remove.contains(&entry);
            (entry, removed)
        });
        let frame = Frame {
            how: vec![
                format!("portcullis whitelist show {id}"),
                format!("portcullis whitelist add {id} 192.0.2.7 2001:db8::/48"),
                format!("portcullis whitelist remove {id} 192.0.2.7"),
            ],
            scripted: true,
            ..self.signed.frame(format!("Whitelist of {}", token.name), Place::Tokens)
        };
        let view = EditorPage {
            frame,
            id,
            name: &token.name,
            entries: entries.collect(),
            version: self.version(),
            add: &draft.add,
            required: self.required(),
            review,
            fault,
            conflict,
            restored,
            versions: versions(&self.events, now)
                .into_iter()
                .filter(|version| version.version != self.version())
                .collect(),
            address: self.signed.address().map(|ip| ip.to_string()).unwrap_or_default(),
        };
        page(status, &view)
    }

    /// What came between the version that a draft is based on and the whitelist as it is.
    fn conflict(&self, draft: &mut Draft) -> Option<Conflict> {
        let now = self.described.outlook.calendar.now;
        if draft.version == self.version() {
            return None;
        }
        let based = draft.version;
        let newer = versions(&self.events, now).into_iter().filter(|v| v.version > based).count();
        let changes = self.events.iter().filter(|event| event.action == "whitelist.change");
        let current = self.current();
        let (there, gone) = draft.remove.drain(..).partition(|entry| current.contains(entry));
        draft.remove = there;
        draft.version = self.version();
        Some(Conflict { theirs: changes.take(newer).map(|told| event(told, now)).collect(), gone })
    }
}

/// Which entry of a list lies within which other one.
struct Covers(Vec<(Entry, Option<Entry>)>);

impl Covers {
    /// Ranges nest or are disjoint, and the wider stands before the narrower: one pass finds them all.
    fn new(entries: impl Iterator<Item = Entry>) -> Self {
        let mut sorted: Vec<_> = entries.collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut open: Vec<Entry> = Vec::new();
        let within = |entry: Entry| {
            while open.last().is_some_and(|wider| !wider.covers(&entry)) {
                open.pop();
            }
            let wider = open.last().copied();
            open.push(entry);
            (entry, wider)
        };
        Self(sorted.into_iter().map(within).collect())
    }

    /// The narrowest other one that covers `entry`.
    fn wider(&self, entry: Entry) -> Option<Entry> {
        let place = self.0.binary_search_by_key(&entry, |&(entry, _)| entry).ok()?;
        self.0[place].1
    }
}

/// How an entry that can be read stands to the list, and to what was pasted with it.
fn judged(text: String, entry: Entry, current: &[Entry], covers: &Covers) -> Item {
    let reads =
        if text == entry.to_string() { String::new() } else { format!("Reads as {entry}. ") };
    if current.binary_search(&entry).is_ok() {
        return Item { text, tone: "present", words: format!("{reads}Is in the list already.") };
    }
    match covers.wider(entry) {
        Some(wider) => Item {
            text,
            tone: "covered",
            words: format!("{reads}Is added, though {wider} covers it."),
        },
        None => Item { text, tone: "new", words: format!("{reads}Is added.") },
    }
}

pub(super) async fn ask(signed: Signed, Id(id): Id, RawQuery(query): RawQuery) -> Result<Response> {
    let editor = Editor::open(signed, &id).await?;
    let fields = Fields::read(query.unwrap_or_default().as_bytes());
    let mut draft = Draft { version: editor.version(), ..Draft::default() };
    let Ok(restore) = fields.one("restore").parse::<i64>() else {
        return Ok(editor.show(StatusCode::OK, &draft, None, None, "", None));
    };
    let now = editor.described.outlook.calendar.now;
    let former = versions(&editor.events, now).into_iter().find(|v| v.version == restore);
    let Some(former) = former else {
        let fault = "There is no such version, or none that is known any more.";
        return Ok(editor.show(StatusCode::NOT_FOUND, &draft, None, None, fault, None));
    };
    let current = editor.current();
    let lacking: Vec<_> = former.entries.iter().filter(|e| !current.contains(e)).cloned().collect();
    draft.add = lacking.join("\n");
    draft.remove = current.into_iter().filter(|entry| !former.entries.contains(entry)).collect();
    let review = editor.review(&draft).await?;
    Ok(editor.show(StatusCode::OK, &draft, Some(&review), None, "", Some(restore)))
}

pub(super) async fn change(Id(id): Id, Sent { signed, fields }: Sent) -> Result<Response> {
    let editor = Editor::open(signed, &id).await?;
    let mut draft = Draft::of(&fields);
    match fields.one("step") {
        "save" => editor.save(draft).await,
        "lift" => editor.lift(&draft, fields.one("confirm") == "on").await,
        step => {
            if step == "add-mine"
                && let Some(address) = editor.signed.address()
            {
                let address = address.to_string();
                if !draft.add.split([',', ' ', '\n', '\r']).any(|item| item == address) {
                    let gap = if draft.add.trim().is_empty() { "" } else { "\n" };
                    draft.add = format!("{}{gap}{address}", draft.add.trim_end());
                }
            }
            let conflict = editor.conflict(&mut draft);
            let review = editor.review(&draft).await?;
            let fault = if draft.is_empty() { "Nothing is to be changed yet." } else { "" };
            Ok(editor.show(StatusCode::OK, &draft, Some(&review), conflict.as_ref(), fault, None))
        }
    }
}

impl Editor {
    async fn save(&self, mut draft: Draft) -> Result<Response> {
        const OVERTAKEN: &str = "This whitelist was changed meanwhile. Nothing of yours is saved, and \
                                 nothing of it is lost: it stands below, on the list as it is now.";
        const NOTHING: &str =
            "Nothing is to be changed: add an address, or tick one to be removed.";
        if let Some(conflict) = self.conflict(&mut draft) {
            let review = self.review(&draft).await?;
            let status = StatusCode::CONFLICT;
            return Ok(self.show(status, &draft, Some(&review), Some(&conflict), OVERTAKEN, None));
        }
        let refuse = async |fault: &str| -> Result<Response> {
            let review = self.review(&draft).await?;
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Ok(self.show(status, &draft, Some(&review), None, fault, None))
        };
        if draft.is_empty() {
            return refuse(NOTHING).await;
        }
        let pasted = self.signed.services().read_entries(&draft.add);
        if pasted.refused() > 0 || pasted.too_many_for.is_some() {
            return refuse("Nothing is saved: see what is refused below.").await;
        }
        let add = pasted.texts();
        if add.is_empty() && draft.remove.is_empty() {
            return refuse(NOTHING).await;
        }
        let managed = self
            .signed
            .services()
            .manage_whitelist(self.signed.caller(), self.request(&draft, &add));
        match managed.await {
            Ok(managed) => Ok(self.saved(&managed)),
            // It came between the reading and the change.
            Err(Error::Aborted(_)) => {
                let editor = Self::open(self.signed.clone(), &self.id).await?;
                let conflict = editor.conflict(&mut draft);
                let review = editor.review(&draft).await?;
                let status = StatusCode::CONFLICT;
                Ok(editor.show(status, &draft, Some(&review), conflict.as_ref(), OVERTAKEN, None))
            }
            Err(error) => {
                let words = self.words(error)?.join(" ");
                refuse(&words).await
            }
        }
    }

    fn saved(&self, managed: &ManagedWhitelist) -> Response {
        if managed.outcome.changed {
            return Redirect::to(&format!("/tokens/{}?done=whitelist", self.id)).into_response();
        }
        let draft = Draft { version: self.version(), ..Draft::default() };
        let fault = "Nothing is changed: that is how the list was already.";
        self.show(StatusCode::OK, &draft, None, None, fault, None)
    }

    /// Lets the token be used from anywhere.
    async fn lift(&self, draft: &Draft, confirmed: bool) -> Result<Response> {
        let refuse = |status, fault: &str| Ok(self.show(status, draft, None, None, fault, None));
        if !confirmed {
            let fault = "Tick the box to say that any address is meant.";
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, fault);
        }
        if !draft.is_empty() {
            let fault = "Any address goes with no entries: one or the other.";
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, fault);
        }
        if draft.version != self.version() {
            let fault = "This whitelist was changed meanwhile: look at it, then decide again.";
            return refuse(StatusCode::CONFLICT, fault);
        }
        let request = ManageWhitelist {
            add: &[],
            remove: &[],
            replace: Some((&[], true)),
            ..self.request(draft, &[])
        };
        match self.signed.services().manage_whitelist(self.signed.caller(), request).await {
            Ok(managed) => Ok(self.saved(&managed)),
            Err(Error::Aborted(text)) => refuse(StatusCode::CONFLICT, &sentence(&text)),
            Err(error) => {
                let words = self.words(error)?.join(" ");
                refuse(StatusCode::UNPROCESSABLE_ENTITY, &words)
            }
        }
    }
}

/// The review alone, for the script.
pub(super) async fn preview(Id(id): Id, Sent { signed, fields }: Sent) -> Result<Response> {
    let editor = Editor::open(signed, &id).await?;
    let mut draft = Draft::of(&fields);
    // Who saves is told of others' changes; who types is not.
    draft.version = editor.version();
    let review = editor.review(&draft).await?;
    match review.render() {
        Ok(text) => Ok(Html(text).into_response()),
        Err(error) => {
            tracing::error!(%error, "a template failed");
            Err(Error::Internal.into())
        }
    }
}
