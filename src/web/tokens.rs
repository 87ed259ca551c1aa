//! The list of tokens: what needs attention first.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::answer::{PageError, Result, page};
use super::form::{PageNumber, Query, link};
use super::frame::{Frame, Place};
use super::session::Signed;
use super::view::{
    Bar, FromWhere, Pages, PendingView, When, bar, ended, from_where, may_words, number,
    pending_of, when,
};
use crate::model::{Token, TokenOrder, TokenShow};
use crate::policy::token::{AccountRestriction, TokenKind};
use crate::service::Error;
use crate::service::lists::TokenQuery;

/// Tokens on a page.
const SIZE: u32 = 25;

/// One token of the list.
struct Row {
    id: String,
    name: String,
    account_id: String,
    may: String,
    from: FromWhere,
    last_use: Option<When>,
    created: When,
    bar: Bar,
    /// The action that takes effect first, and how many there are besides.
    pending: Option<PendingView>,
    more: usize,
    /// When it expires, where it does.
    expires: Option<When>,
    /// Whether its account is suspended: every request with it is denied.
    suspended: bool,
    /// When it ended, and what happened.
    ended: Option<(When, &'static str)>,
}

impl Row {
    /// How much of the window has passed, of what comes first.
    fn bar(&self) -> &Bar {
        self.pending.as_ref().map_or(&self.bar, |pending| &pending.bar)
    }
}

/// What was asked for, as the form shows it.
struct Asked {
    account: String,
    q: String,
    kind: String,
    show: String,
    sort: String,
}

#[derive(Template)]
#[template(path = "page/tokens.html")]
struct TokensPage {
    frame: Frame,
    asked: Asked,
    account_name: String,
    rows: Vec<Row>,
    pages: Pages,
    total: u64,
    operator: bool,
    /// Whether anything narrows the list.
    narrowed: bool,
    new: String,
}

/// The kind that a field names; `None` for any.
pub(super) fn kind(word: &str) -> Option<TokenKind> {
    [TokenKind::ReadOnly, TokenKind::ReadWrite, TokenKind::Custom]
        .into_iter()
        .find(|kind| kind.word() == word)
}

/// Which tokens are listed, and in which order.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ListedQuery {
    account: String,
    q: String,
    kind: String,
    /// `pending`, `unrestricted` or `deleted`; those that are active otherwise.
    show: String,
    /// `name`, `last-use` or `created`; what needs attention first otherwise.
    sort: String,
    page: PageNumber,
}

pub(super) async fn list(signed: Signed, Query(listed): Query<ListedQuery>) -> Result<Response> {
    let operator = signed.is_operator();
    let account = if operator { listed.account.trim() } else { "" };
    let text = listed.q.trim();
    let (show, show_word) = match listed.show.as_str() {
        "pending" => (TokenShow::Pending, "pending"),
        "unrestricted" => (TokenShow::Unrestricted, "unrestricted"),
        "deleted" => (TokenShow::Deleted, "deleted"),
        _ => (TokenShow::Active, ""),
    };
    let (order, sort_word) = match listed.sort.as_str() {
        "name" => (TokenOrder::Name, "name"),
        "last-use" => (TokenOrder::LastUse, "last-use"),
        "created" => (TokenOrder::Created, "created"),
        _ => (TokenOrder::Attention, ""),
    };
    let kind = kind(&listed.kind);
    let PageNumber(at) = listed.page;
    let services = signed.services();
    let found = services
        .search_tokens(
            signed.caller(),
            TokenQuery {
                account_id: account,
                text,
                kind,
                show,
                order,
                offset: (at - 1) * SIZE,
                limit: SIZE,
            },
        )
        .await
        .map_err(|error| match error {
            Error::Invalid(_) => PageError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "That is no account",
                "An account is named by its id, such as acc_035260wjiPcyPryFDV7aCA.",
            )
            .at(&signed, Place::Tokens)
            .with_way("/accounts", "All accounts"),
            other => PageError::from(other).at(&signed, Place::Tokens),
        })?;
    let account_name = match account {
        "" => String::new(),
        id => services
            .get_account(signed.caller(), id)
            .await
            .map_or_else(|_| id.to_owned(), |a| a.name),
    };
    let asked = Asked {
        account: account.to_owned(),
        q: text.to_owned(),
        kind: kind.map_or("", TokenKind::word).to_owned(),
        show: show_word.to_owned(),
        sort: sort_word.to_owned(),
    };
    let in_force = services.in_force()?;
    let outlook = services.outlook();
    let now = outlook.calendar.now;
    let row = |token: &Token| -> Result<Row> {
        let restriction = services.account_restriction(token.account_id);
        let restriction =
            restriction.map_err(|error| PageError::from(error).at(&signed, Place::Tokens))?;
        let mut pending = pending_of(token, &in_force, &outlook).into_iter();
        let first = pending.next();
        Ok(Row {
            id: token.id.to_string(),
            name: token.name.clone(),
            account_id: token.account_id.to_string(),
            may: may_words(token),
            from: from_where(&token.whitelist),
            last_use: token.uses.last.map(|at| when(at, now)),
            created: when(token.created, now),
            bar: bar(token.uses.last.unwrap_or(token.clock_start), &outlook.calendar),
            pending: first,
            more: pending.count(),
            expires: token.expires.map(|at| when(at, now)),
            suspended: matches!(restriction, Some(AccountRestriction::Suspended { .. })),
            ended: ended(token, now).map(|(at, what)| (when(at, now), what)),
        })
    };
    let rows = found.tokens.iter().map(row).collect::<Result<Vec<_>>>()?;
    let pages = pages(at, rows.len(), found.total, SIZE, |page| asked.link(page));
    let how = match account {
        "" => "portcullis token list".to_owned(),
        id => format!("portcullis token list --account {id}"),
    };
    let frame = Frame { how: vec![how], ..signed.frame("Tokens", Place::Tokens) };
    let view = TokensPage {
        frame,
        narrowed: !asked.q.is_empty()
            || !asked.kind.is_empty()
            || !asked.show.is_empty()
            || !asked.account.is_empty(),
        new: link("/tokens/new", &[("account", &asked.account)]),
        asked,
        account_name,
        rows,
        pages,
        total: found.total,
        operator,
    };
    Ok(page(StatusCode::OK, &view))
}

impl Asked {
    fn link(&self, page: u32) -> String {
        let page = if page == 1 { String::new() } else { page.to_string() };
        link(
            "/tokens",
            &[
                ("account", &self.account),
                ("q", &self.q),
                ("kind", &self.kind),
                ("show", &self.show),
                ("sort", &self.sort),
                ("page", &page),
            ],
        )
    }
}

/// Where a page lies in its list.
fn pages(at: u32, shown: usize, total: u64, size: u32, link: impl Fn(u32) -> String) -> Pages {
    let first = u64::from(at - 1) * u64::from(size);
    let last = first + shown as u64;
    let words = match shown {
        0 => String::new(),
        _ => format!("{} to {} of {}", number(first + 1), number(last), number(total)),
    };
    Pages {
        words,
        previous: if at > 1 { link(at - 1) } else { String::new() },
        next: if last < total && shown > 0 { link(at + 1) } else { String::new() },
        ..Pages::default()
    }
}
