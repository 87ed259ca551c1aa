//! From facts to a message: every value is made fit to be shown here, the words stand in
//! `templates/mail/`.
//!
//! Must stay true: templates get text and nothing else, each name on one line; those of HTML escape it.

use std::fmt;
use std::str::FromStr;

use askama::Template;
use url::Url;

use super::facts::{Action, Expiry, Facts, LeakedOwner, ScopeUse, Subject, Takes, Token};
use super::message::Message;
use super::text::{cut, one_line, scopes, shell_word, wrap};
use crate::policy::duration;
use crate::policy::id::TokenId;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenKind;

/// The longest name in a subject, in characters.
const LONGEST_IN_SUBJECT: usize = 60;

/// Where people find the management page: the value of `--public-url`, a scheme, a host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

/// Why a text is no base for links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublicUrl {
    /// No URL, or not one of a web page.
    #[error(
        "is no base for links: write https:// and a host, such as https://portcullis.example.com"
    )]
    NoWebPage,
    /// The admin who wrote it may take it for a secret: it should not be repeated.
    #[error("has a user name or a password: leave out what stands before the @")]
    Login,
    /// The pages link to each other from the root, and cookies of the name `__Host-` are for all paths.
    #[error(
        "has a path, and the page belongs at the root of its host: give it a host name of its own, such as \
         https://portcullis.example.com"
    )]
    Path,
    /// Links are made by adding a path.
    #[error("has a query or a fragment: leave out what follows the ? or #")]
    Query,
}

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPublicUrl> {
        let text = text.trim();
        // The parser drops tabs and line ends within a URL, and forgives missing slashes.
        let plain =
            text.bytes().all(|b| b > b' ' && b != 0x7f && b != b'\\') && text.contains("://");
        let url = Url::parse(text).ok().filter(|url| plain && url.has_host());
        let url = url.ok_or(InvalidPublicUrl::NoWebPage)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(InvalidPublicUrl::NoWebPage);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidPublicUrl::Login);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidPublicUrl::Query);
        }
        if url.path() != "/" {
            return Err(InvalidPublicUrl::Path);
        }
        Ok(Self(url.origin().ascii_serialization()))
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PublicUrl {
    /// Whether browsers reach it by TLS.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The page of a token.
    pub fn token(&self, id: TokenId) -> String {
        format!("{self}/tokens/{id}")
    }
}

/// The mail that says `facts`, with links below `page` where there is one.
///
/// # Errors
/// A template failed, which is an error of the program.
pub fn render(facts: &Facts, page: Option<&PublicUrl>) -> Result<Message, askama::Error> {
    let (subject, text, html) = match &facts.subject {
        Subject::Notice(notice) => {
            let view = View::new(facts, &notice.action, notice.effective, None, page);
            let (name, day) = (short_name(&view.name), &view.day);
            match notice.action.takes {
                Takes::Token => (
                    format!("{name} will be deleted on {day}"),
                    DeletionNoticeText { v: &view }.render()?,
                    DeletionNoticeHtml { v: &view }.render()?,
                ),
                Takes::Writes => (
                    format!("{name} will become read-only on {day}"),
                    DowngradeNoticeText { v: &view }.render()?,
                    DowngradeNoticeHtml { v: &view }.render()?,
                ),
                Takes::Scopes => (
                    format!("{name} will lose {} on {day}", view.lost.count),
                    DowngradeNoticeText { v: &view }.render()?,
                    DowngradeNoticeHtml { v: &view }.render()?,
                ),
            }
        }
        Subject::CarriedOut { action, at, noticed } => {
            let view = View::new(facts, action, *at, *noticed, page);
            let (name, day) = (short_name(&view.name), &view.day);
            match action.takes {
                Takes::Token => (
                    format!("{name} was deleted on {day}"),
                    DeletedText { v: &view }.render()?,
                    DeletedHtml { v: &view }.render()?,
                ),
                Takes::Writes => (
                    format!("{name} became read-only on {day}"),
                    DowngradedText { v: &view }.render()?,
                    DowngradedHtml { v: &view }.render()?,
                ),
                Takes::Scopes => (
                    format!("{name} lost {} on {day}", view.lost.count),
                    DowngradedText { v: &view }.render()?,
                    DowngradedHtml { v: &view }.render()?,
                ),
            }
        }
        Subject::Expiry(expiry) => {
            let view = ExpiryView::new(facts, expiry, page);
            let (name, day) = (short_name(&view.name), expiry.at.to_day());
            if expiry.reached {
                let (text, html) =
                    (ExpiredText { v: &view }.render()?, ExpiredHtml { v: &view }.render()?);
                (format!("{name} expired on {day}"), text, html)
            } else {
                (
                    format!("{name} expires on {day}"),
                    ExpiryNoticeText { v: &view }.render()?,
                    ExpiryNoticeHtml { v: &view }.render()?,
                )
            }
        }
        Subject::AdminsChanged { before, after, at } => {
            let view = AdminsView::new(facts, before, after, *at);
            (
                format!("The admins of {} changed on {}", quoted(&view.account_name), at.to_day()),
                AdminsChangedText { v: &view }.render()?,
                AdminsChangedHtml { v: &view }.render()?,
            )
        }
        Subject::Leaked { owner, source, url, at } => {
            let view = LeakView::new(facts, owner, (source, url), *at, page);
            let what = if view.is_token() { "Token" } else { "Credential" };
            (
                format!("{what} {} leaked and was revoked on {}", quoted(&view.name), at.to_day()),
                LeakedText { v: &view }.render()?,
                LeakedHtml { v: &view }.render()?,
            )
        }
    };
    Ok(Message {
        id: facts.id,
        to: facts.to.clone(),
        date: facts.date,
        subject: format!("[Portcullis] {subject}"),
        text: wrap(&text),
        html,
    })
}

fn short_name(name: &str) -> String {
    format!("Token {}", quoted(name))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", cut(name, LONGEST_IN_SUBJECT))
}

/// What the mails about a token show.
struct View {
    name: String,
    id: String,
    kind: &'static str,
    created: String,
    last_use: String,
    account_name: String,
    account_id: String,
    /// Whether `READ_WRITE` becomes `READ_ONLY`; else a `CUSTOM` token loses scopes.
    writes: bool,
    /// `since 3 January 2027, 14:05 UTC`, or that it never was used.
    idle: String,
    day: String,
    at: String,
    noticed: Option<String>,
    window: String,
    lost: Scopes,
    kept: Scopes,
    others: Vec<String>,
    page: Option<String>,
    create: String,
    /// What stands in `create` to be replaced, or to be added.
    whitelist: Whitelist,
}

#[derive(PartialEq)]
enum Whitelist {
    Needed,
    Maybe,
    No,
}

impl Whitelist {
    fn of(kind: TokenKind) -> Self {
        match kind {
            TokenKind::ReadOnly => Self::No,
            TokenKind::ReadWrite => Self::Needed,
            TokenKind::Custom => Self::Maybe,
        }
    }
}

fn name_or_id(name: &str, id: &impl ToString) -> String {
    match one_line(name) {
        name if name.is_empty() => id.to_string(),
        name => name,
    }
}

impl View {
    fn new(
        facts: &Facts,
        action: &Action,
        at: Timestamp,
        noticed: Option<Timestamp>,
        page: Option<&PublicUrl>,
    ) -> Self {
        let token = &action.token;
        let idle = match action.last_use_of_lost {
            Some(last) => format!("since {}", last.to_minute()),
            None if action.takes == Takes::Token => {
                format!("since it was created on {}", token.created.to_minute())
            }
            None => format!("since the token was created on {}", token.created.to_minute()),
        };
        let name = name_or_id(&token.name, &token.id);
        Self {
            id: token.id.to_string(),
            kind: token.kind.word(),
            created: token.created.to_minute(),
            last_use: last_use(token.last_use),
            account_name: one_line(&facts.account.name),
            account_id: facts.account.id.to_string(),
            writes: action.takes == Takes::Writes,
            idle,
            day: at.to_day(),
            at: at.to_minute(),
            noticed: noticed.map(Timestamp::to_minute),
            window: duration::in_words(action.window),
            lost: Scopes::new(&action.lost),
            kept: Scopes::new(&action.kept),
            others: others(facts),
            page: page.map(|page| page.token(token.id)),
            create: {
                let scopes = action.lost.iter().chain(&action.kept);
                create(facts, token, &name, scopes.map(|of| of.scope.as_str()))
            },
            whitelist: Whitelist::of(token.kind),
            name,
        }
    }

    fn needs_whitelist(&self) -> bool {
        self.whitelist == Whitelist::Needed
    }

    fn may_need_whitelist(&self) -> bool {
        self.whitelist == Whitelist::Maybe
    }
}

/// Scopes, those that were used by themselves: of many scopes, these are the ones that matter.
struct Scopes {
    count: String,
    /// What stands for `count` in a sentence.
    them: &'static str,
    used: Vec<Used>,
    /// Names, comma-separated; empty for none.
    unused: String,
}

struct Used {
    scope: String,
    at: String,
}

impl Scopes {
    fn new(uses: &[ScopeUse]) -> Self {
        let mut used: Vec<_> =
            uses.iter().filter_map(|of| Some((of.last_use?, one_line(&of.scope)))).collect();
        used.sort_by(|(at, name), (other, other_name)| other.cmp(at).then(name.cmp(other_name)));
        let mut unused: Vec<_> =
            uses.iter().filter(|of| of.last_use.is_none()).map(|of| one_line(&of.scope)).collect();
        unused.sort();
        Self {
            count: scopes(uses.len()),
            them: if uses.len() == 1 { "it" } else { "them" },
            used: used.into_iter().map(|(at, scope)| Used { scope, at: at.to_minute() }).collect(),
            unused: unused.join(", "),
        }
    }

    fn is_empty(&self) -> bool {
        self.used.is_empty() && self.unused.is_empty()
    }
}

/// The command that makes a token like this one was.
fn create<'a>(
    facts: &Facts,
    token: &Token,
    name: &str,
    scopes: impl Iterator<Item = &'a str>,
) -> String {
    let kind = match token.kind {
        TokenKind::ReadOnly => "read-only",
        TokenKind::ReadWrite => "read-write --whitelist ADDRESS",
        TokenKind::Custom => "custom",
    };
    // A name like an option's is not one.
    let equals = if name.starts_with('-') { '=' } else { ' ' };
    let (account, name) = (facts.account.id, shell_word(name));
    let mut command =
        format!("portcullis token create --account {account} --name{equals}{name} --kind {kind}");
    if token.kind == TokenKind::Custom {
        let mut scopes: Vec<_> = scopes.collect();
        scopes.sort_unstable();
        for scope in scopes {
            command.push_str(" --scope ");
            command.push_str(&shell_word(&one_line(scope)));
        }
    }
    command
}

/// What the mails about an expiry show.
struct ExpiryView {
    name: String,
    id: String,
    kind: &'static str,
    created: String,
    last_use: String,
    /// Whether any use of it is recorded.
    used: bool,
    account_name: String,
    account_id: String,
    at: String,
    others: Vec<String>,
    page: Option<String>,
    /// The token that replaced it.
    replaced_by: Option<String>,
    /// The command that replaces it by a token that lasts longer, where that is possible.
    replace: Option<String>,
    create: String,
    /// What stands in `create` to be replaced, or to be added.
    whitelist: Whitelist,
}

impl ExpiryView {
    fn new(facts: &Facts, expiry: &Expiry, page: Option<&PublicUrl>) -> Self {
        let token = &expiry.token;
        let name = name_or_id(&token.name, &token.id);
        Self {
            id: token.id.to_string(),
            kind: token.kind.word(),
            created: token.created.to_minute(),
            last_use: last_use(token.last_use),
            used: token.last_use.is_some(),
            account_name: one_line(&facts.account.name),
            account_id: facts.account.id.to_string(),
            at: expiry.at.to_minute(),
            others: others(facts),
            page: page.map(|page| page.token(token.id)),
            replaced_by: expiry.replaced_by.map(|id| id.to_string()),
            replace: expiry.longest.map(|longest| {
                let longest = duration::print(longest);
                format!("portcullis token replace {} --expires {longest}", token.id)
            }),
            create: create(facts, token, &name, expiry.scopes.iter().map(String::as_str)),
            whitelist: Whitelist::of(token.kind),
            name,
        }
    }

    fn needs_whitelist(&self) -> bool {
        self.whitelist == Whitelist::Needed
    }

    fn may_need_whitelist(&self) -> bool {
        self.whitelist == Whitelist::Maybe
    }
}

/// The others who are notified.
fn others(facts: &Facts) -> Vec<String> {
    facts.notified.iter().filter(|to| **to != facts.to).map(|to| one_line(to)).collect()
}

/// What the mail about admins shows.
struct AdminsView {
    account_name: String,
    account_id: String,
    at: String,
    /// What it means to the recipient.
    standing: Standing,
    now: Vec<String>,
    added: Vec<String>,
    removed: Vec<String>,
    others: Vec<String>,
}

#[derive(PartialEq)]
enum Standing {
    New,
    Former,
    Still,
}

impl AdminsView {
    fn new(facts: &Facts, before: &[String], after: &[String], at: Timestamp) -> Self {
        let shown =
            |admins: Vec<&String>| admins.into_iter().map(|admin| one_line(admin)).collect();
        let less = |these: &'_ [String], those: &[String]| {
            shown(these.iter().filter(|admin| !those.contains(admin)).collect())
        };
        Self {
            account_name: one_line(&facts.account.name),
            account_id: facts.account.id.to_string(),
            at: at.to_minute(),
            standing: match (before.contains(&facts.to), after.contains(&facts.to)) {
                (false, true) => Standing::New,
                (_, false) => Standing::Former,
                (true, true) => Standing::Still,
            },
            now: shown(after.iter().collect()),
            added: less(after, before),
            removed: less(before, after),
            others: others(facts),
        }
    }

    fn is_new(&self) -> bool {
        self.standing == Standing::New
    }

    fn is_former(&self) -> bool {
        self.standing == Standing::Former
    }
}

/// What the mail about a leaked secret shows.
struct LeakView {
    name: String,
    id: String,
    /// What is known of a token; `None` for a credential.
    token: Option<LeakedToken>,
    account_name: String,
    account_id: String,
    at: String,
    /// As reported; `not reported` where that is empty.
    source: String,
    /// As reported; `None` where that is empty.
    url: Option<String>,
    others: Vec<String>,
    page: Option<String>,
}

struct LeakedToken {
    kind: &'static str,
    created: String,
    last_use: String,
}

impl LeakView {
    fn new(
        facts: &Facts,
        owner: &LeakedOwner,
        (source, url): (&str, &str),
        at: Timestamp,
        page: Option<&PublicUrl>,
    ) -> Self {
        let (id, name, token, page) = match owner {
            LeakedOwner::Token(token) => {
                let leaked = LeakedToken {
                    kind: token.kind.word(),
                    created: token.created.to_minute(),
                    last_use: last_use(token.last_use),
                };
                let page = page.map(|page| page.token(token.id));
                (token.id.to_string(), name_or_id(&token.name, &token.id), Some(leaked), page)
            }
            LeakedOwner::Credential { id, name } => {
                (id.to_string(), name_or_id(name, id), None, None)
            }
        };
        let reported = |text: &str| Some(one_line(text)).filter(|text| !text.is_empty());
        Self {
            name,
            id,
            token,
            account_name: one_line(&facts.account.name),
            account_id: facts.account.id.to_string(),
            at: at.to_minute(),
            source: reported(source).unwrap_or_else(|| "not reported".to_owned()),
            url: reported(url),
            others: others(facts),
            page,
        }
    }

    fn is_token(&self) -> bool {
        self.token.is_some()
    }
}

fn last_use(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "never".to_owned(), Timestamp::to_minute)
}

macro_rules! templates {
    ($($view:ty: $text:ident $text_path:literal, $html:ident $html_path:literal;)*) => { $(
        #[derive(Template)]
        #[template(path = $text_path)]
        struct $text<'a> {
            v: &'a $view,
        }

        #[derive(Template)]
        #[template(path = $html_path)]
        struct $html<'a> {
            v: &'a $view,
        }
    )* };
}

templates! {
    View: DeletionNoticeText "mail/deletion_notice.txt", DeletionNoticeHtml "mail/deletion_notice.html";
    View: DowngradeNoticeText "mail/downgrade_notice.txt", DowngradeNoticeHtml "mail/downgrade_notice.html";
    View: DeletedText "mail/deleted.txt", DeletedHtml "mail/deleted.html";
    View: DowngradedText "mail/downgraded.txt", DowngradedHtml "mail/downgraded.html";
    ExpiryView: ExpiryNoticeText "mail/expiry_notice.txt", ExpiryNoticeHtml "mail/expiry_notice.html";
    ExpiryView: ExpiredText "mail/expired.txt", ExpiredHtml "mail/expired.html";
    AdminsView: AdminsChangedText "mail/admins_changed.txt", AdminsChangedHtml "mail/admins_changed.html";
    LeakView: LeakedText "mail/leaked.txt", LeakedHtml "mail/leaked.html";
}

#[cfg(test)]
mod tests;
