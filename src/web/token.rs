//! One token: what it may do and what of that it used, from where, what is planned for it, and what
//! became of it.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use super::activity::{AddressLine, UseChart, address, chart};
use super::answer::{PageError, Result, page};
use super::form::{Done, Id, Query};
use super::frame::{Frame, Place};
use super::history::{Event, covering, event, events};
use super::session::Signed;
use super::view::{
    Bar, NoticeView, PendingView, When, bar, ended, kind_words, notices, pending_of, when,
};
use crate::model::{AuditAction, RecordedAction};
use crate::policy::duration;
use crate::policy::lifecycle::Mode;
use crate::policy::scope::Access;
use crate::policy::token::{AccountRestriction, TokenKind, TokenState};
use crate::service::Error;
use crate::service::explain::{granted, names};
use crate::service::tokens::Described;

/// A scope that it may use.
struct ScopeRow {
    name: String,
    description: String,
    write: bool,
    requires_whitelist: bool,
    last_use: Option<When>,
    /// Of a scope that is taken by itself once it is unused: those of `CUSTOM` tokens (docs/policy.md, rule
    /// 4.3).
    bar: Option<Bar>,
}

#[derive(Template)]
#[template(path = "page/token.html")]
struct TokenPage {
    frame: Frame,
    id: String,
    name: String,
    account_id: String,
    labels: Vec<(String, String)>,
    kind: &'static str,
    downgraded: Option<When>,
    created: When,
    /// When it was imported, where its secret was made elsewhere.
    imported: Option<When>,
    last_use: Option<When>,
    last_write: Option<When>,
    writes: bool,
    /// Of a `READ_WRITE` token: its writes are taken together.
    write_bar: Option<Bar>,
    /// Whether its scopes are taken one by one.
    custom: bool,
    /// How far each admin's notice of its expiry got.
    expiry_notices: Vec<NoticeView>,
    /// Whether the server only observes, and takes nothing.
    observes: bool,
    ended: Option<(When, &'static str)>,
    /// Since when its account is suspended.
    suspended: Option<When>,
    /// When it expires, where it does.
    expires: Option<When>,
    /// The tokens that it replaced, and that replaced it.
    replaces: Option<String>,
    replaced_by: Option<String>,
    bar: Bar,
    pending: Vec<PendingView>,
    scopes: Vec<ScopeRow>,
    /// What downgrades took, with when.
    taken: Vec<(Vec<String>, When)>,
    uses: UseChart,
    addresses: Vec<AddressLine>,
    /// What still covers something that was just removed.
    covering: Vec<String>,
    /// Entries, each with whether nothing matched it for a whole window.
    entries: Vec<(String, bool)>,
    version: i64,
    /// Whether it can't be without a whitelist.
    required: bool,
    events: Vec<Event>,
    more_events: bool,
    operator: bool,
    window: String,
}

/// The token of a path, where the user may see it.
pub(super) async fn find(signed: &Signed, id: &str) -> Result<Described> {
    signed.services().get_token(signed.caller(), id).await.map_err(|error| match error {
        // What is no id is no token either.
        Error::NotFound { .. } | Error::Invalid(_) => {
            PageError::missing("There is no such token, or none that you may see.")
                .at(signed, Place::Tokens)
                .with_way("/tokens", "All tokens")
        }
        other => PageError::from(other).at(signed, Place::Tokens),
    })
}

pub(super) async fn show(
    signed: Signed,
    Id(id): Id,
    Query(Done { done: asked }): Query<Done>,
) -> Result<Response> {
    let Described { token, in_force, outlook } = find(&signed, &id).await?;
    let id = token.id.to_string();
    let (events, more_events) = events(&signed, &id).await?;
    let (services, caller) = (signed.services(), signed.caller());
    let at = |error: Error| PageError::from(error).at(&signed, Place::Tokens);
    let usage = services.token_usage(caller, &id).await.map_err(at)?;
    let seen = services.recent_addresses(caller, &id).await.map_err(at)?;
    let entries = services.entry_uses(caller, token.id, token.whitelist.entries()).await;
    let entries = entries.map_err(at)?.into_iter();
    let now = outlook.calendar.now;
    let calendar = &outlook.calendar;
    let row = |scope: &crate::policy::scope::Scope| {
        let last = token.uses.of(scope.id);
        ScopeRow {
            name: scope.name.to_string(),
            description: scope.description.to_string(),
            write: scope.access == Access::Write,
            requires_whitelist: scope.requires_whitelist,
            last_use: last.map(|at| when(at, now)),
            bar: (token.kind == TokenKind::Custom)
                .then(|| bar(last.unwrap_or(token.clock_start), calendar)),
        }
    };
    let mut scopes: Vec<_> = granted(&token, &in_force, now).map(row).collect();
    // Those that were used, then the others; each by name.
    scopes.sort_by(|a, b| (a.last_use.is_none(), &a.name).cmp(&(b.last_use.is_none(), &b.name)));
    let taken = token.taken.chunk_by(|(_, a), (_, b)| a == b).map(|together| {
        let at = together.first().map_or(token.created, |&(_, at)| at);
        (names(&in_force, together.iter().map(|&(id, _)| id)), when(at, now))
    });
    // Anybody can make such a link: it says nothing that is not so.
    let newest = events.first();
    let (done, covering) = match (asked.as_str(), newest.map(|event| &event.action)) {
        ("whitelist", Some(RecordedAction::Known(AuditAction::WhitelistChange))) => (
            "The whitelist is changed, and the change is in effect on every replica.",
            newest.map(covering).unwrap_or_default(),
        ),
        ("deleted", Some(RecordedAction::Known(AuditAction::TokenDelete))) => {
            ("The token is deleted, on every replica.", Vec::new())
        }
        ("expiry", Some(RecordedAction::Known(AuditAction::TokenSetExpiry))) => {
            ("The expiry is set, on every replica.", Vec::new())
        }
        ("updated", Some(RecordedAction::Known(AuditAction::TokenUpdate))) => {
            ("The name and labels are changed.", Vec::new())
        }
        _ => ("", Vec::new()),
    };
    let frame = Frame {
        done,
        how: vec![
            format!("portcullis token show {id}"),
            format!("portcullis token usage {id}"),
            format!("portcullis audit --token {id}"),
        ],
        ..signed.frame(token.name.clone(), Place::Tokens)
    };
    let restriction = services.account_restriction(token.account_id).map_err(at)?;
    let (suspended, closed) = match restriction {
        Some(AccountRestriction::Suspended { at }) => (Some(at), None),
        Some(AccountRestriction::Closed { at }) => (None, Some((at, "Deleted"))),
        None => (None, None),
    };
    let last_write = token.uses.last_write_in(&in_force.catalog);
    let view = TokenPage {
        frame,
        name: token.name.clone(),
        account_id: token.account_id.to_string(),
        labels: token.labels.clone().into_iter().collect(),
        kind: kind_words(token.kind),
        downgraded: token.downgraded.map(|at| when(at, now)),
        created: when(token.created, now),
        imported: token.imported.map(|at| when(at, now)),
        last_use: token.uses.last.map(|at| when(at, now)),
        last_write: last_write.map(|at| when(at, now)),
        writes: token.kind == TokenKind::ReadWrite,
        write_bar: (token.kind == TokenKind::ReadWrite && token.state == TokenState::Active)
            .then(|| bar(last_write.unwrap_or(token.clock_start), calendar)),
        custom: token.kind == TokenKind::Custom,
        observes: calendar.settings.mode == Mode::Observe,
        suspended: suspended.map(|at| when(at, now)),
        ended: ended(&token, now).or(closed).map(|(at, what)| (when(at, now), what)),
        expires: token.expires.map(|at| when(at, now)),
        expiry_notices: notices(&token.expiry_notices),
        replaces: token.replaces.map(|id| id.to_string()),
        replaced_by: token.replaced_by.map(|id| id.to_string()),
        bar: bar(token.uses.last.unwrap_or(token.clock_start), calendar),
        pending: pending_of(&token, &in_force, &outlook),
        taken: taken.collect(),
        covering,
        entries: entries.map(|used| (used.entry.to_string(), used.unmatched)).collect(),
        uses: chart(&usage, now),
        addresses: seen.iter().map(|seen| address(seen, now)).collect(),
        version: token.whitelist_version,
        required: token.state == TokenState::Active
            && token.grant().requires_whitelist(&in_force.catalog),
        events: events.iter().map(|logged| event(logged, now)).collect(),
        more_events,
        operator: signed.is_operator(),
        window: duration::in_words(calendar.settings.window()),
        scopes,
        id,
    };
    Ok(page(StatusCode::OK, &view))
}
