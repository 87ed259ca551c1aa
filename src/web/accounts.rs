//! Accounts and their admins, for operators.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::answer::{PageError, Result, page};
use super::form::{Done, Id, NoFields, PageQuery, Query, link};
use super::frame::{Frame, Place};
use super::session::{Sent, Signed};
use super::view::{Pages, When, when};
use crate::model::{Account, FailingAddress};
use crate::policy::token::AccountRestriction;
use crate::service::Error;
use crate::service::accounts::CloseAccount;
use crate::service::lists::{PageItem, Paging};

/// Accounts on a page.
const SIZE: i32 = 50;

struct Row {
    id: String,
    name: String,
    /// Addresses, and what the mail server says of those that it refuses.
    admins: Vec<(String, Option<String>)>,
    created: When,
    suspended: Option<When>,
    closed: Option<When>,
}

/// What an operator can do to an account, after a page that says what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Suspend,
    Resume,
    Close,
}

impl Change {
    /// The last part of its path.
    fn path(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Close => "close",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
            Self::Close => "Close",
        }
    }

    fn button(self) -> String {
        format!("{} the account", self.verb())
    }

    /// The command that does the same.
    fn command(self, id: &str) -> String {
        match self {
            Self::Close => format!("portcullis account close {id} --confirm-name NAME"),
            Self::Suspend | Self::Resume => format!("portcullis account {} {id}", self.path()),
        }
    }
}

#[derive(Template)]
#[template(path = "page/account_change.html")]
struct ChangePage {
    frame: Frame,
    id: String,
    name: String,
    change: Change,
    /// How many tokens a closure deletes, in words.
    tokens: String,
    /// Why the form that was sent was refused.
    refused: Option<String>,
}

#[derive(Template)]
#[template(path = "page/accounts.html")]
struct AccountsPage {
    frame: Frame,
    rows: Vec<Row>,
    pages: Pages,
}

#[derive(Template)]
#[template(path = "page/account.html")]
struct AccountPage {
    frame: Frame,
    row: Row,
}

impl Signed {
    fn row(&self, account: Account) -> Row {
        let known = self.services().lifecycle_status();
        let failing: &[FailingAddress] = known.as_ref().map_or(&[], |known| &known.mails.failing);
        let refusal = |address: &str| {
            let found = failing.iter().find(|failing| failing.address == address);
            found.map(|failing| failing.failure.clone())
        };
        let now = self.services().now();
        let suspended = match account.restriction() {
            Some(AccountRestriction::Suspended { at }) => Some(when(at, now)),
            Some(AccountRestriction::Closed { .. }) | None => None,
        };
        Row {
            id: account.id.to_string(),
            name: account.name,
            created: when(account.created, now),
            suspended,
            closed: account.closed.map(|at| when(at, now)),
            admins: account.admins.iter().map(|a| (a.clone(), refusal(a))).collect(),
        }
    }
}

pub(super) async fn list(signed: Signed, Query(query): Query<PageQuery>) -> Result<Response> {
    signed.must_be_operator()?;
    let paging = Paging { size: SIZE, token: &query.page };
    let found =
        signed.services().list_accounts(signed.caller(), paging, PageItem::unmeasured).await;
    let found = found.map_err(|error| PageError::from(error).at(&signed, Place::Accounts))?;
    let view = AccountsPage {
        frame: Frame {
            how: vec![
                "portcullis account list".to_owned(),
                "portcullis account create --name NAME --admin ADDRESS".to_owned(),
            ],
            ..signed.frame("Accounts", Place::Accounts)
        },
        pages: Pages::onwards(&query.page, &found.next, |page| {
            link("/accounts", &[("page", page)])
        }),
        rows: found.items.into_iter().map(|account| signed.row(account)).collect(),
    };
    Ok(page(StatusCode::OK, &view))
}

/// The account of a path, for an operator.
pub(super) async fn find(signed: &Signed, id: &str) -> Result<Account> {
    signed.must_be_operator()?;
    signed.services().get_account(signed.caller(), id).await.map_err(|error| match error {
        Error::NotFound { .. } | Error::Invalid(_) => {
            PageError::missing("There is no such account.")
                .at(signed, Place::Accounts)
                .with_way("/accounts", "All accounts")
        }
        other => PageError::from(other).at(signed, Place::Accounts),
    })
}

pub(super) async fn show(
    signed: Signed,
    Id(id): Id,
    Query(Done { done }): Query<Done>,
) -> Result<Response> {
    let account = find(&signed, &id).await?;
    // Anybody can make such a link: it says nothing that is not so.
    let done = match (done.as_str(), account.restriction()) {
        ("suspend", Some(AccountRestriction::Suspended { .. })) => {
            "The account is suspended, on every replica."
        }
        ("resume", None) => "The account is resumed.",
        ("close", Some(AccountRestriction::Closed { .. })) => {
            "The account is closed, on every replica."
        }
        _ => "",
    };
    let row = signed.row(account);
    let mut how = vec![
        format!("portcullis account show {}", row.id),
        format!("portcullis account set-admins {} --admin ADDRESS", row.id),
    ];
    if row.closed.is_none() {
        let change = if row.suspended.is_some() { Change::Resume } else { Change::Suspend };
        how.push(change.command(&row.id));
    }
    let view = AccountPage {
        frame: Frame { done, how, ..signed.frame(row.name.clone(), Place::Accounts) },
        row,
    };
    Ok(page(StatusCode::OK, &view))
}

/// Says what a change means, and asks for it.
async fn ask(
    signed: &Signed,
    id: &str,
    change: Change,
    refused: Option<String>,
) -> Result<Response> {
    let account = find(signed, id).await?;
    let id = account.id.to_string();
    if account.closed.is_some() {
        let text = "This account is closed, which nothing reverses.";
        return Err(PageError::new(StatusCode::CONFLICT, "Closed already", text)
            .at(signed, Place::Accounts)
            .with_way(format!("/accounts/{id}"), "The account"));
    }
    let tokens = match change {
        Change::Suspend | Change::Resume => String::new(),
        Change::Close => {
            let close = close_request(&id, "", true);
            let checked = signed.services().close_account(signed.caller(), close).await;
            let checked =
                checked.map_err(|error| PageError::from(error).at(signed, Place::Accounts))?;
            match checked.value.token_count {
                1 => "1 token".to_owned(),
                count => format!("{count} tokens"),
            }
        }
    };
    let status = if refused.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let view = ChangePage {
        frame: Frame {
            how: vec![change.command(&id)],
            ..signed.frame(format!("{} {}", change.verb(), account.name), Place::Accounts)
        },
        name: account.name,
        change,
        tokens,
        refused,
        id,
    };
    Ok(page(status, &view))
}

fn close_request<'a>(id: &'a str, confirm_name: &'a str, validate_only: bool) -> CloseAccount<'a> {
    CloseAccount { account_id: id, confirm_name, validate_only, no_wait: false }
}

/// Where a change leads: the account, which says that it is made.
fn changed(id: &str, change: Change) -> Response {
    Redirect::to(&format!("/accounts/{id}?done={}", change.path())).into_response()
}

fn failed(signed: &Signed, id: &str, error: Error) -> PageError {
    let way = format!("/accounts/{id}");
    PageError::from(error).at(signed, Place::Accounts).with_way(way, "The account")
}

/// The new name of an account.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RenameForm {
    name: String,
}

pub(super) async fn rename(
    Id(id): Id,
    Sent { signed, form }: Sent<RenameForm>,
) -> Result<Response> {
    let id = find(&signed, &id).await?.id.to_string();
    let renamed = signed.services().update_account(signed.caller(), &id, &form.name).await;
    renamed.map_err(|error| failed(&signed, &id, error))?;
    Ok(Redirect::to(&format!("/accounts/{id}")).into_response())
}

pub(super) async fn ask_suspend(signed: Signed, Id(id): Id) -> Result<Response> {
    ask(&signed, &id, Change::Suspend, None).await
}

pub(super) async fn ask_resume(signed: Signed, Id(id): Id) -> Result<Response> {
    ask(&signed, &id, Change::Resume, None).await
}

pub(super) async fn ask_close(signed: Signed, Id(id): Id) -> Result<Response> {
    ask(&signed, &id, Change::Close, None).await
}

pub(super) async fn suspend(Id(id): Id, Sent { signed, .. }: Sent<NoFields>) -> Result<Response> {
    let id = find(&signed, &id).await?.id.to_string();
    let suspended = signed.services().suspend_account(signed.caller(), &id, false).await;
    suspended.map_err(|error| failed(&signed, &id, error))?;
    Ok(changed(&id, Change::Suspend))
}

pub(super) async fn resume(Id(id): Id, Sent { signed, .. }: Sent<NoFields>) -> Result<Response> {
    let id = find(&signed, &id).await?.id.to_string();
    let resumed = signed.services().resume_account(signed.caller(), &id).await;
    resumed.map_err(|error| failed(&signed, &id, error))?;
    Ok(changed(&id, Change::Resume))
}

/// The confirmation that an account is to be closed.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct CloseForm {
    /// The account's name, typed again.
    confirm_name: String,
}

pub(super) async fn close(Id(id): Id, Sent { signed, form }: Sent<CloseForm>) -> Result<Response> {
    let id = find(&signed, &id).await?.id.to_string();
    let close = close_request(&id, form.confirm_name.trim(), false);
    match signed.services().close_account(signed.caller(), close).await {
        Ok(_) => Ok(changed(&id, Change::Close)),
        Err(Error::Invalid(_)) => {
            let text = "This is not the account's name: nothing was changed.".to_owned();
            ask(&signed, &id, Change::Close, Some(text)).await
        }
        Err(error) => Err(failed(&signed, &id, error)),
    }
}
