//! Bringing the expiry of a token nearer, in two steps: what was typed is shown as an instant, and confirmed.
//!
//! Must stay true: what is set is the instant that was confirmed, however long that took.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::answer::{PageError, Result, page};
use super::form::Id;
use super::frame::{Frame, Place};
use super::session::{Sent, Signed};
use super::token::find;
use super::view::{When, when};
use crate::policy::duration;
use crate::policy::time::Timestamp;
use crate::policy::token::RequestedExpiry;
use crate::service::Error;
use crate::service::error::Violation;
use crate::service::tokens::Described;

#[derive(Template)]
#[template(path = "page/expire.html")]
struct ExpirePage {
    frame: Frame,
    id: String,
    name: String,
    /// The expiry that it has.
    current: Option<When>,
    last_use: Option<When>,
    /// What was typed.
    expires: String,
    errors: Vec<String>,
    /// What is to be confirmed, and its microseconds since 1970.
    confirm: Option<(When, i64)>,
}

/// What the form has in it.
#[derive(Default)]
struct Draft {
    expires: String,
    errors: Vec<String>,
    confirm: Option<Timestamp>,
}

pub(super) async fn ask(signed: Signed, Id(id): Id) -> Result<Response> {
    let described = find(&signed, &id).await?;
    if !described.token.is_live(described.outlook.calendar.now) {
        let text = "This token has ended already.";
        return Err(PageError::new(StatusCode::CONFLICT, "Ended already", text)
            .at(&signed, Place::Tokens)
            .with_way(format!("/tokens/{}", described.token.id), "The token"));
    }
    Ok(form(&signed, described, Draft::default()))
}

fn form(signed: &Signed, Described { token, outlook, .. }: Described, draft: Draft) -> Response {
    let status = match draft.errors.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let now = outlook.calendar.now;
    let id = token.id.to_string();
    let view = ExpirePage {
        frame: Frame {
            how: vec![format!("portcullis token expire {id} 30d")],
            ..signed.frame(format!("Expiry of {}", token.name), Place::Tokens)
        },
        name: token.name,
        current: token.expires.map(|at| when(at, now)),
        last_use: token.uses.last.map(|at| when(at, now)),
        expires: draft.expires,
        errors: draft.errors,
        confirm: draft.confirm.map(|at| (when(at, now), at.0)),
        id,
    };
    page(status, &view)
}

/// The instant that was typed: a day from its beginning, or a length from now on. What is wrong with the field, where
/// it is neither.
fn parse(text: &str, now: Timestamp) -> std::result::Result<Timestamp, String> {
    if text.is_empty() {
        return Err(
            "Expires: name a day, such as 2027-01-31, or a time from now, such as 30d.".to_owned()
        );
    }
    if let Some(day) = Timestamp::parse_day(text) {
        return Ok(day);
    }
    let length = duration::parse(text).map_err(|_| {
        "Expires: is no day, such as 2027-01-31, and no time from now, such as 30d.".to_owned()
    })?;
    let at = RequestedExpiry::After(length).time(now);
    at.ok_or_else(|| "Expires: is after the year 9999; choose an earlier day.".to_owned())
}

/// What was typed, and the instant that is confirmed, in microseconds since 1970.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ExpireForm {
    expires: String,
    confirm: Option<i64>,
}

pub(super) async fn expire(
    Id(id): Id,
    Sent { signed, form: sent }: Sent<ExpireForm>,
) -> Result<Response> {
    let described = find(&signed, &id).await?;
    let id = described.token.id.to_string();
    let services = signed.services();
    let failed = |error| {
        let way = format!("/tokens/{id}");
        PageError::of_change(error).at(&signed, Place::Tokens).with_way(way, "The token")
    };
    // A form made by hand may name an instant after the year 9999, which the API can't express.
    let confirmed = sent.confirm.map(Timestamp);
    let confirmed = confirmed.filter(|&at| at <= Timestamp::LAST);
    let typed = sent.expires.trim().to_owned();
    let again = |described, typed, errors| {
        Ok(form(&signed, described, Draft { expires: typed, errors, confirm: None }))
    };
    let Some(at) = confirmed else {
        let at = match parse(&typed, described.outlook.calendar.now) {
            Ok(at) => at,
            Err(error) => return again(described, typed, vec![error]),
        };
        return match services.check_token_expiry(&described.token, at) {
            Ok(()) => {
                let draft = Draft { expires: typed, confirm: Some(at), ..Draft::default() };
                Ok(form(&signed, described, draft))
            }
            Err(Error::Invalid(violations)) => again(described, typed, errors(&violations)),
            Err(error) => Err(failed(error)),
        };
    };
    let requested = Some(RequestedExpiry::At(at));
    match services.set_token_expiry(signed.caller(), &id, requested, false).await {
        Ok(_) => Ok(Redirect::to(&format!("/tokens/{id}?done=expiry")).into_response()),
        Err(Error::Invalid(violations)) => again(described, typed, errors(&violations)),
        Err(error) => Err(failed(error)),
    }
}

fn errors(violations: &[Violation]) -> Vec<String> {
    let text = |violation: &Violation| match violation.reason {
        "IN_THE_PAST" => {
            "Expires: must lie in the future. To end the token at once, delete it.".to_owned()
        }
        _ => format!("Expires: {}.", violation.description),
    };
    violations.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_and_a_length_are_read_and_other_text_names_field_and_cure() {
        let now = Timestamp(1_000_000);
        assert_eq!(parse("2027-01-31", now), Ok(Timestamp::parse_day("2027-01-31").unwrap()));
        assert_eq!(parse("1h", now), Ok(Timestamp(3_601_000_000)));
        for wrong in ["", "tomorrow", "2027-02-30", "-1d", "30", "999999999d"] {
            let error = parse(wrong, now).unwrap_err();
            assert!(error.starts_with("Expires: "), "{wrong}: {error}");
        }
    }
}
