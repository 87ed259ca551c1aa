//! What is announced and not yet carried out, with how far each admin's notice got.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::answer::{PageError, Result, page};
use super::form::{Query, link};
use super::frame::{Frame, Place};
use super::session::Signed;
use super::view::{Pages, PendingView, pending};
use crate::policy::duration;
use crate::policy::lifecycle::Mode;
use crate::policy::token::PendingActionType;
use crate::service::lists::{PageItem, Paging, PendingQuery};
use crate::service::validate::FieldErrors;

/// Actions on a page.
const SIZE: i32 = 25;

#[derive(Template)]
#[template(path = "page/pending.html")]
struct PendingPage {
    frame: Frame,
    account: String,
    kind: &'static str,
    actions: Vec<PendingView>,
    pages: Pages,
    operator: bool,
    observes: bool,
    mails: bool,
    window: String,
    notice: String,
}

/// Which actions are listed.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ListedQuery {
    account: String,
    /// `DELETION` or `DOWNGRADE`; both otherwise.
    r#type: String,
    page: String,
}

pub(super) async fn list(signed: Signed, Query(listed): Query<ListedQuery>) -> Result<Response> {
    let operator = signed.is_operator();
    let account = if operator { listed.account.trim() } else { "" };
    let (action, kind) = match listed.r#type.as_str() {
        "DELETION" => (Some(PendingActionType::Deletion), "DELETION"),
        "DOWNGRADE" => (Some(PendingActionType::Downgrade), "DOWNGRADE"),
        _ => (None, ""),
    };
    let services = signed.services();
    let query = PendingQuery {
        account_id: account,
        token_id: "",
        action,
        effective_before: None,
        paging: Paging { size: SIZE, token: &listed.page },
    };
    let found = services
        .list_pending_actions(signed.caller(), query, FieldErrors::default(), PageItem::unmeasured)
        .await;
    let found = found.map_err(|error| PageError::from(error).at(&signed, Place::Pending))?;
    let in_force = services.in_force()?;
    let outlook = services.outlook();
    let settings = outlook.calendar.settings;
    let pages = Pages::onwards(&listed.page, &found.next, |page| {
        link("/pending", &[("account", account), ("type", kind), ("page", page)])
    });
    let view = PendingPage {
        frame: Frame {
            how: vec!["portcullis pending".to_owned(), "portcullis pending --preview".to_owned()],
            ..signed.frame("Pending actions", Place::Pending)
        },
        account: account.to_owned(),
        kind,
        actions: found.items.iter().map(|action| pending(action, &in_force, &outlook)).collect(),
        pages,
        operator,
        observes: settings.mode == Mode::Observe,
        mails: outlook.mails,
        window: duration::in_words(settings.window()),
        notice: duration::in_words(settings.notice()),
    };
    Ok(page(StatusCode::OK, &view))
}
