//! Mails that `serve --dev` keeps instead of sending them, for operators.
//!
//! Must stay true: a mail's HTML is a page of its own that runs nothing, loads nothing and sends nothing, and
//! that has no part in the session (`sandbox`).

use std::sync::Arc;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use uuid::Uuid;

use super::answer::{PageError, Result, page};
use super::form::Id;
use super::frame::{Frame, Place};
use super::session::Signed;
use super::view::{When, when};
use crate::service::status::Message;

/// Mails have their styles in their tags.
const SANDBOX: HeaderValue = HeaderValue::from_static(
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'; \
     base-uri 'none'",
);

struct MailItem {
    id: String,
    to: String,
    subject: String,
    date: When,
}

#[derive(Template)]
#[template(path = "page/mails.html")]
struct MailsPage {
    frame: Frame,
    rows: Vec<MailItem>,
}

#[derive(Template)]
#[template(path = "page/mail.html")]
struct MailPage<'a> {
    frame: Frame,
    row: MailItem,
    text: &'a str,
}

fn row(mail: &Message, signed: &Signed) -> MailItem {
    MailItem {
        id: mail.id.to_string(),
        to: mail.to.clone(),
        subject: mail.subject.clone(),
        date: when(mail.date, signed.services().now()),
    }
}

fn find(signed: &Signed, id: &str) -> Result<Arc<Message>> {
    signed.must_be_operator()?;
    let found = Uuid::parse_str(id).ok().and_then(|id| signed.services().kept_mail(id));
    found.ok_or_else(|| {
        PageError::missing(
            "There is no such mail: the newest 100 are kept until this server stops.",
        )
        .at(signed, Place::Mails)
        .with_way("/mails", "All mails")
    })
}

pub(super) async fn list(signed: Signed) -> Result<Response> {
    signed.must_be_operator()?;
    let mails = signed.services().kept_mails();
    let rows = mails.iter().map(|mail| row(mail, &signed)).collect();
    let frame = signed.frame("Mails", Place::Mails);
    Ok(page(StatusCode::OK, &MailsPage { frame, rows }))
}

pub(super) async fn show(signed: Signed, Id(id): Id) -> Result<Response> {
    let mail = find(&signed, &id)?;
    let frame = signed.frame(mail.subject.clone(), Place::Mails);
    Ok(page(StatusCode::OK, &MailPage { frame, row: row(&mail, &signed), text: &mail.text }))
}

pub(super) async fn html(signed: Signed, Id(id): Id) -> Result<Response> {
    let mail = find(&signed, &id)?;
    Ok(([(header::CONTENT_SECURITY_POLICY, SANDBOX)], Html(mail.html.clone())).into_response())
}
