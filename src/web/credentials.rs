//! Credentials, for operators: a list of all, or of those of an account's admins, and a page that revokes one.
//!
//! Must stay true: no page shows a secret; the store does not have it. Only operators may list and revoke credentials
//! (docs/policy.md, rule 8.3).

use askama::Template;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::accounts;
use super::answer::{PageError, Result, page};
use super::form::{Id, NoFields, Query, link};
use super::frame::{Frame, Place};
use super::session::{Sent, Signed};
use super::view::{Pages, When, when};
use crate::model::{Account, Actor, Credential, Role};
use crate::policy::time::Timestamp;
use crate::service::Error;
use crate::service::lists::{PageItem, Paging};

/// Credentials on a page.
const SIZE: i32 = 50;

struct Row {
    id: String,
    /// May be empty.
    name: String,
    role: &'static str,
    /// Whose admin presents it.
    account: Option<String>,
    created: When,
    last_use: Option<When>,
    expires: Option<When>,
    /// When it ended, and how.
    ended: Option<(&'static str, When)>,
    revoked: bool,
    from_settings: bool,
    /// Whether the reader is signed in with it.
    own: bool,
}

impl Row {
    fn of(credential: Credential, signed: &Signed, now: Timestamp) -> Self {
        let expired = credential.expires.filter(|at| *at <= now);
        let ended = match (credential.revoked, expired) {
            (Some(at), _) => Some(("revoked", when(at, now))),
            (None, Some(at)) => Some(("expired", when(at, now))),
            (None, None) => None,
        };
        let (role, account) = match credential.role {
            Role::Pep => ("service", None),
            Role::AccountAdmin(account) => ("account admin", Some(account.to_string())),
            Role::Operator => ("operator", None),
        };
        let own = matches!(signed.caller().actor, Actor::Credential(id, _) if id == credential.id);
        Self {
            id: credential.id.to_string(),
            name: credential.name,
            role,
            account,
            created: when(credential.created, now),
            last_use: credential.last_use.map(|at| when(at, now)),
            expires: credential.expires.map(|at| when(at, now)),
            ended,
            revoked: credential.revoked.is_some(),
            from_settings: credential.from_settings,
            own,
        }
    }
}

#[derive(Template)]
#[template(path = "page/credentials.html")]
struct CredentialsPage {
    frame: Frame,
    /// Id and name of the account whose credentials these are; `None` for all.
    account: Option<(String, String)>,
    rows: Vec<Row>,
    pages: Pages,
}

#[derive(Template)]
#[template(path = "page/credential_revoke.html")]
struct RevokePage {
    frame: Frame,
    row: Row,
    list: String,
}

/// Where a credential is listed.
fn list_path(account: Option<&str>) -> String {
    account.map_or_else(|| "/credentials".to_owned(), |id| format!("/accounts/{id}/credentials"))
}

/// Which page of a list of credentials is shown, and the one that was just revoked.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ListedQuery {
    page: String,
    revoked: String,
}

pub(super) async fn list(signed: Signed, Query(query): Query<ListedQuery>) -> Result<Response> {
    signed.must_be_operator()?;
    show(&signed, None, &query).await
}

pub(super) async fn of_account(
    signed: Signed,
    Id(id): Id,
    Query(query): Query<ListedQuery>,
) -> Result<Response> {
    let account = accounts::find(&signed, &id).await?;
    show(&signed, Some(account), &query).await
}

async fn show(signed: &Signed, account: Option<Account>, query: &ListedQuery) -> Result<Response> {
    let services = signed.services();
    let paging = Paging { size: SIZE, token: &query.page };
    let only = account.as_ref().map(|account| account.id);
    let found = services.list_credentials(only, paging, PageItem::unmeasured).await;
    let found = found.map_err(|error| PageError::from(error).at(signed, Place::Accounts))?;
    // Anybody can make such a link: it says nothing that is not so.
    let done = match query.revoked.as_str() {
        "" => "",
        id => match services.get_credential(id).await {
            Ok(credential) if credential.revoked.is_some() => {
                "The credential is revoked, on every replica."
            }
            _ => "",
        },
    };
    let account = account.map(|account| (account.id.to_string(), account.name));
    let (title, create) = match &account {
        None => ("Credentials".to_owned(), "--role operator --name NAME".to_owned()),
        Some((id, name)) => {
            (format!("Credentials of {name}"), format!("--role account-admin --account {id}"))
        }
    };
    let path = list_path(account.as_ref().map(|(id, _)| id.as_str()));
    let now = services.now();
    let view = CredentialsPage {
        frame: Frame {
            done,
            how: vec![
                "portcullis credential list".to_owned(),
                format!("portcullis credential create {create}"),
            ],
            ..signed.frame(title, Place::Accounts)
        },
        pages: Pages::onwards(&query.page, &found.next, |page| link(&path, &[("page", page)])),
        rows: found.items.into_iter().map(|one| Row::of(one, signed, now)).collect(),
        account,
    };
    Ok(page(StatusCode::OK, &view))
}

/// The credential of a path, for an operator.
async fn find(signed: &Signed, id: &str) -> Result<Row> {
    signed.must_be_operator()?;
    let found = signed.services().get_credential(id).await.map_err(|error| match error {
        Error::NotFound { .. } | Error::Invalid(_) => {
            PageError::missing("There is no such credential.")
                .at(signed, Place::Accounts)
                .with_way("/credentials", "All credentials")
        }
        other => PageError::from(other).at(signed, Place::Accounts),
    })?;
    Ok(Row::of(found, signed, signed.services().now()))
}

pub(super) async fn ask(signed: Signed, Id(id): Id) -> Result<Response> {
    let row = find(&signed, &id).await?;
    let list = list_path(row.account.as_deref());
    if row.revoked {
        let text = "This credential is revoked already.";
        return Err(PageError::new(StatusCode::CONFLICT, "Revoked already", text)
            .at(&signed, Place::Accounts)
            .with_way(list, "The credentials"));
    }
    let view = RevokePage {
        frame: Frame {
            how: vec![format!("portcullis credential revoke {}", row.id)],
            ..signed.frame("Revoke a credential", Place::Accounts)
        },
        list,
        row,
    };
    Ok(page(StatusCode::OK, &view))
}

pub(super) async fn revoke(Id(id): Id, Sent { signed, .. }: Sent<NoFields>) -> Result<Response> {
    let row = find(&signed, &id).await?;
    let list = list_path(row.account.as_deref());
    let revoked = signed.services().revoke_credential(signed.caller(), &row.id, false).await;
    revoked.map_err(|error| {
        PageError::from(error).at(&signed, Place::Accounts).with_way(&*list, "The credentials")
    })?;
    Ok(Redirect::to(&link(&list, &[("revoked", &row.id)])).into_response())
}
