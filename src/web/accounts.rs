//! Accounts and their admins, for operators.

use askama::Template;
use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{PageError, Result, page};
use super::form::{Fields, Id, link};
use super::frame::{Frame, Place};
use super::session::Signed;
use super::view::{Pages, When, when};
use crate::model::{Account, FailingAddress};
use crate::service::Error;
use crate::service::lists::{PageItem, Paging};

/// Accounts on a page.
const SIZE: i32 = 50;

struct Row {
    id: String,
    name: String,
    /// Addresses, and what the mail server says of those that it refuses.
    admins: Vec<(String, Option<String>)>,
    created: When,
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
        Row {
            id: account.id.to_string(),
            name: account.name,
            created: when(account.created, self.services().now()),
            admins: account.admins.iter().map(|a| (a.clone(), refusal(a))).collect(),
        }
    }
}

pub(super) async fn list(signed: Signed, RawQuery(query): RawQuery) -> Result<Response> {
    signed.must_be_operator()?;
    let fields = Fields::read(query.unwrap_or_default().as_bytes());
    let paging = Paging { size: SIZE, token: fields.one("page") };
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
        pages: Pages::onwards(fields.one("page"), &found.next, |page| {
            link("/accounts", &[("page", page)])
        }),
        rows: found.items.into_iter().map(|account| signed.row(account)).collect(),
    };
    Ok(page(StatusCode::OK, &view))
}

pub(super) async fn show(signed: Signed, Id(id): Id) -> Result<Response> {
    signed.must_be_operator()?;
    let account = signed.services().get_account(signed.caller(), &id).await;
    let account = account.map_err(|error| match error {
        Error::NotFound { .. } | Error::Invalid(_) => {
            PageError::missing("There is no such account.")
                .at(&signed, Place::Accounts)
                .with_way("/accounts", "All accounts")
        }
        other => PageError::from(other).at(&signed, Place::Accounts),
    })?;
    let row = signed.row(account);
    let view = AccountPage {
        frame: Frame {
            how: vec![
                format!("portcullis account show {}", row.id),
                format!("portcullis account set-admins {} --admin ADDRESS", row.id),
            ],
            ..signed.frame(row.name.clone(), Place::Accounts)
        },
        row,
    };
    Ok(page(StatusCode::OK, &view))
}
