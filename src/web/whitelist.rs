//! The whitelist editor: each entry is understood or refused before anything is saved; a save over
//! somebody else's change is refused with a message and loses nothing; any former version can be brought back.
//!
//! Must stay true: what is saved is based on the version that its page showed, and nothing is saved
//! where one entry is refused.

mod review;

use std::collections::HashSet;
use std::net::IpAddr;

use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::answer::{PageError, Result, page};
use super::form::{Id, Query};
use super::frame::{Frame, Place};
use super::history::{Event, Version, event, events, versions};
use super::session::{Sent, Signed};
use super::token::find;
use super::view::listed;
use crate::model::{AuditAction, AuditEvent, RecordedAction};
use crate::policy::text::sentence;
use crate::policy::token::TokenState;
use crate::service::Error;
use crate::service::tokens::Described;
use crate::service::whitelists::{ManageWhitelist, ManagedWhitelist};
use review::Review;

/// What somebody is about to change.
#[derive(Debug, Clone, Default)]
struct WhitelistDraft {
    /// The version that it is based on.
    version: i64,
    /// As it was pasted.
    add: String,
    /// Entries to take out, as they are listed.
    remove: Vec<String>,
}

/// A [`WhitelistDraft`], and what is to be done with it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WhitelistForm {
    version: i64,
    add: String,
    remove: Vec<String>,
    /// `save`, `lift`, `add-mine`; the draft is reviewed otherwise.
    step: String,
    /// `on` where lifting the restriction is confirmed.
    confirm: String,
}

/// A former version that is to be restored.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RestoreQuery {
    restore: Option<i64>,
}

impl WhitelistDraft {
    fn is_empty(&self) -> bool {
        self.add.trim().is_empty() && self.remove.is_empty()
    }

    fn add_address(&mut self, address: Option<IpAddr>) {
        let Some(address) = address.map(|address| address.to_string()) else { return };
        let separates = |c: char| c == ',' || c.is_whitespace();
        if self.add.split(separates).any(|item| item == address) {
            return;
        }
        let gap = if self.add.trim().is_empty() { "" } else { "\n" };
        self.add = format!("{}{gap}{address}", self.add.trim_end());
    }
}

/// What came between the version that a draft was based on and the whitelist as it is.
struct Overtaken {
    /// That version.
    based: i64,
    /// What the draft was to remove, and is gone already.
    gone: Vec<String>,
}

/// The same with what others did.
struct Conflict {
    theirs: Vec<Event>,
    /// Empty for nothing.
    gone: String,
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
    error: &'a str,
    conflict: Option<&'a Conflict>,
    /// The version that is brought back.
    restored: Option<i64>,
    versions: Vec<Version>,
    address: String,
}

/// What the page shows beside the list.
#[derive(Default)]
struct ListView<'a> {
    draft: WhitelistDraft,
    review: Option<Review>,
    overtaken: Option<Overtaken>,
    error: &'a str,
    /// The version that is brought back.
    restored: Option<i64>,
}

/// A token whose whitelist is edited.
struct Editor {
    signed: Signed,
    id: String,
    described: Described,
    events: OnceCell<Vec<AuditEvent>>,
}

impl Editor {
    async fn open(signed: Signed, id: &str) -> Result<Self> {
        let described = find(&signed, id).await?;
        let id = described.token.id.to_string();
        // Rule 3.14 of docs/policy.md.
        let ended = if described.token.state != TokenState::Active {
            Some(("Deleted already", "This token is deleted: its whitelist can't change any more."))
        } else if described.token.expired(described.outlook.calendar.now).is_some() {
            Some((
                "Expired already",
                "This token has expired: its whitelist can't change any more.",
            ))
        } else {
            None
        };
        if let Some((title, text)) = ended {
            return Err(PageError::new(StatusCode::CONFLICT, title, text)
                .at(&signed, Place::Tokens)
                .with_way(format!("/tokens/{id}"), "The token"));
        }
        Ok(Self { signed, id, described, events: OnceCell::new() })
    }

    /// What became of the token, read where it is shown.
    async fn events(&self) -> Result<&[AuditEvent]> {
        let read = async || Ok::<_, PageError>(events(&self.signed, &self.id).await?.0);
        Ok(self.events.get_or_try_init(read).await?)
    }

    /// The whitelist's former versions, and the one that it has, the newest first.
    async fn versions(&self) -> Result<Vec<Version>> {
        Ok(versions(self.events().await?, self.described.outlook.calendar.now))
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

    fn request<'a>(&'a self, draft: &'a WhitelistDraft, add: &'a [String]) -> ManageWhitelist<'a> {
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

    /// Brings a draft onto the whitelist as it is now; `None` where it was based on that.
    fn rebase(&self, draft: &mut WhitelistDraft) -> Option<Overtaken> {
        let based = std::mem::replace(&mut draft.version, self.version());
        if based == self.version() {
            return None;
        }
        let current: HashSet<_> = self.current().into_iter().collect();
        let (there, gone) = draft.remove.drain(..).partition(|entry| current.contains(entry));
        draft.remove = there;
        Some(Overtaken { based, gone })
    }

    async fn show(&self, status: StatusCode, shown: ListView<'_>) -> Result<Response> {
        let id = &self.id;
        let now = self.described.outlook.calendar.now;
        let token = &self.described.token;
        let mut versions = self.versions().await?;
        let conflict = match shown.overtaken {
            None => None,
            Some(Overtaken { based, gone }) => {
                let newer = versions.iter().filter(|version| version.version > based).count();
                let changes = self.events().await?.iter();
                let changes = changes.filter(|event| {
                    event.action == RecordedAction::Known(AuditAction::WhitelistChange)
                });
                let theirs = changes.take(newer).map(|change| event(change, now)).collect();
                Some(Conflict { theirs, gone: listed(&gone) })
            }
        };
        versions.retain(|version| version.version != self.version());
        let removed: HashSet<_> = shown.draft.remove.iter().collect();
        let entries = self.current().into_iter().map(|entry| {
            let removed = removed.contains(&entry);
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
            add: &shown.draft.add,
            required: self.required(),
            review: shown.review.as_ref(),
            error: shown.error,
            conflict: conflict.as_ref(),
            restored: shown.restored,
            versions,
            address: self.signed.address().map(|ip| ip.to_string()).unwrap_or_default(),
        };
        Ok(page(status, &view))
    }

    /// Shows a draft with what it comes to.
    async fn show_reviewed(&self, status: StatusCode, shown: ListView<'_>) -> Result<Response> {
        let review = Some(self.review(&shown.draft).await?);
        self.show(status, ListView { review, ..shown }).await
    }
}

/// Those of `entries` that are not among `others`.
fn without(entries: &[String], others: &[String]) -> Vec<String> {
    let others: HashSet<_> = others.iter().collect();
    entries.iter().filter(|entry| !others.contains(entry)).cloned().collect()
}

pub(super) async fn ask(
    signed: Signed,
    Id(id): Id,
    Query(RestoreQuery { restore }): Query<RestoreQuery>,
) -> Result<Response> {
    let editor = Editor::open(signed, &id).await?;
    let Some(restored) = restore else {
        return editor.show(StatusCode::OK, ListView::default()).await;
    };
    let versions = editor.versions().await?;
    let Some(former) = versions.into_iter().find(|version| version.version == restored) else {
        let error = "There is no such version, or none that is known any more.";
        return editor.show(StatusCode::NOT_FOUND, ListView { error, ..ListView::default() }).await;
    };
    let (current, former) = (editor.current(), former.entries);
    let draft = WhitelistDraft {
        version: editor.version(),
        add: without(&former, &current).join("\n"),
        remove: without(&current, &former),
    };
    let shown = ListView { draft, restored: Some(restored), ..ListView::default() };
    editor.show_reviewed(StatusCode::OK, shown).await
}

pub(super) async fn change(
    Id(id): Id,
    Sent { signed, form }: Sent<WhitelistForm>,
) -> Result<Response> {
    let editor = Editor::open(signed, &id).await?;
    let WhitelistForm { version, add, remove, step, confirm } = form;
    let mut draft = WhitelistDraft { version, add, remove };
    match step.as_str() {
        "save" => return editor.save(draft).await,
        "lift" => return editor.lift(draft, confirm == "on").await,
        "add-mine" => draft.add_address(editor.signed.address()),
        _ => {}
    }
    let overtaken = editor.rebase(&mut draft);
    let error = if draft.is_empty() { "Nothing is to be changed yet." } else { "" };
    let shown = ListView { draft, overtaken, error, ..ListView::default() };
    editor.show_reviewed(StatusCode::OK, shown).await
}

impl Editor {
    async fn save(&self, mut draft: WhitelistDraft) -> Result<Response> {
        let overtaken = self.rebase(&mut draft);
        if overtaken.is_some() {
            return self.show_overtaken(draft, overtaken).await;
        }
        let services = self.signed.services();
        let pasted = services.read_entries(&draft.add);
        let add = pasted.texts();
        let error = if add.is_empty() && draft.remove.is_empty() {
            "Nothing is to be changed: add an address, or tick one to be removed.".to_owned()
        } else if pasted.refused > 0 || pasted.too_many.is_some() {
            "Nothing is saved: see what is refused below.".to_owned()
        } else {
            let request = self.request(&draft, &add);
            match services.manage_whitelist(self.signed.caller(), request).await {
                Ok(managed) => return self.saved(&managed).await,
                // It came between the reading and the change.
                Err(Error::Aborted(_)) => {
                    let now = Self::open(self.signed.clone(), &self.id).await?;
                    let overtaken = now.rebase(&mut draft);
                    return now.show_overtaken(draft, overtaken).await;
                }
                Err(error) => self.words(error)?.join(" "),
            }
        };
        let shown = ListView { draft, error: &error, ..ListView::default() };
        self.show_reviewed(StatusCode::UNPROCESSABLE_ENTITY, shown).await
    }

    async fn show_overtaken(
        &self,
        draft: WhitelistDraft,
        overtaken: Option<Overtaken>,
    ) -> Result<Response> {
        let error = "This whitelist was changed meanwhile. Nothing of yours is saved, and nothing of it is \
                     lost: it stands below, on the list as it is now.";
        let shown = ListView { draft, overtaken, error, ..ListView::default() };
        self.show_reviewed(StatusCode::CONFLICT, shown).await
    }

    async fn saved(&self, managed: &ManagedWhitelist) -> Result<Response> {
        if managed.outcome.changed {
            let path = format!("/tokens/{}?done=whitelist", self.id);
            return Ok(Redirect::to(&path).into_response());
        }
        let error = "Nothing is changed: that is how the list was already.";
        self.show(StatusCode::OK, ListView { error, ..ListView::default() }).await
    }

    /// Lets the token be used from anywhere.
    async fn lift(&self, draft: WhitelistDraft, confirmed: bool) -> Result<Response> {
        let (status, error) = if !confirmed {
            let error = "Tick the box to say that any address is meant.".to_owned();
            (StatusCode::UNPROCESSABLE_ENTITY, error)
        } else if !draft.is_empty() {
            let error = "Any address goes with no entries: one or the other.".to_owned();
            (StatusCode::UNPROCESSABLE_ENTITY, error)
        } else if draft.version != self.version() {
            let error = "This whitelist was changed meanwhile: look at it, then decide again.";
            (StatusCode::CONFLICT, error.to_owned())
        } else {
            let request =
                ManageWhitelist { replace: Some((&[], true)), ..self.request(&draft, &[]) };
            match self.signed.services().manage_whitelist(self.signed.caller(), request).await {
                Ok(managed) => return self.saved(&managed).await,
                Err(Error::Aborted(text)) => (StatusCode::CONFLICT, sentence(&text)),
                Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, self.words(error)?.join(" ")),
            }
        };
        self.show(status, ListView { draft, error: &error, ..ListView::default() }).await
    }
}

/// The review alone, for the script.
pub(super) async fn preview(
    Id(id): Id,
    Sent { signed, form }: Sent<WhitelistForm>,
) -> Result<Response> {
    let editor = Editor::open(signed, &id).await?;
    let WhitelistForm { add, remove, .. } = form;
    // A save reports changes by others; a preview does not.
    let draft = WhitelistDraft { version: editor.version(), add, remove };
    let review = editor.review(&draft).await?;
    match review.render() {
        Ok(text) => Ok(Html(text).into_response()),
        Err(error) => {
            tracing::error!(%error, "a template failed");
            Err(Error::Internal.into())
        }
    }
}
