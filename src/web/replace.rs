//! Replacing a token: what of it is used stands in the form, and the new secret in the answer, once.
//!
//! Must stay true: the secret stands in the answer to the form and nowhere else. A form that is sent twice replaces
//! nothing twice, since a token has one successor.

use std::time::Duration;

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::answer::{PageError, Result, page};
use super::form::Id;
use super::frame::{Frame, Place};
use super::session::{Sent, Signed};
use super::token::find;
use super::view::{FromWhere, When, from_where, kind_words, when};
use crate::policy::duration;
use crate::policy::replacement::{DEFAULT_OVERLAP, MAX_OVERLAP};
use crate::policy::scope::Access;
use crate::policy::text::sentence;
use crate::service::Error;
use crate::service::explain::granted;
use crate::service::replacements::{ReplaceToken, ReplacedToken};
use crate::service::tokens::Described;
use crate::service::validate::FieldErrors;

struct ScopeChoice {
    name: String,
    write: bool,
    requires_whitelist: bool,
    last_use: Option<When>,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "page/replace.html")]
struct ReplacePage {
    frame: Frame,
    id: String,
    name: String,
    kind: &'static str,
    /// Whether the scopes below are chosen.
    choose: bool,
    overlap: String,
    longest: String,
    scopes: Vec<ScopeChoice>,
    window: String,
    pending: bool,
    errors: Vec<String>,
}

#[derive(Template)]
#[template(path = "page/replaced.html")]
struct ReplacedPage<'a> {
    frame: Frame,
    id: String,
    name: String,
    kind: &'static str,
    from: FromWhere,
    secret: &'a str,
    old_id: String,
    ends: Option<When>,
}

/// What was sent, as it is shown again.
#[derive(Default)]
struct Draft {
    choose: bool,
    overlap: Option<String>,
    /// `None` for what the token used.
    scopes: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ReplaceForm {
    /// `chosen` for the scopes of the form, instead of those of the token.
    what: String,
    overlap: String,
    scope: Vec<String>,
}

impl From<ReplaceForm> for Draft {
    fn from(form: ReplaceForm) -> Self {
        Self {
            choose: form.what == "chosen",
            overlap: Some(form.overlap.trim().to_owned()),
            scopes: Some(form.scope),
        }
    }
}

pub(super) async fn ask(signed: Signed, Id(id): Id) -> Result<Response> {
    let described = find(&signed, &id).await?;
    let token = &described.token;
    if token.replaced_by.is_some() || !token.is_live(described.outlook.calendar.now) {
        let text = "This token has ended or was replaced already.";
        return Err(PageError::new(StatusCode::CONFLICT, "Can't be replaced", text)
            .at(&signed, Place::Tokens)
            .with_way(format!("/tokens/{}", token.id), "The token"));
    }
    Ok(form(&signed, StatusCode::OK, described, Draft::default(), Vec::new()))
}

fn form(
    signed: &Signed,
    status: StatusCode,
    Described { token, in_force, outlook }: Described,
    draft: Draft,
    errors: Vec<String>,
) -> Response {
    let now = outlook.calendar.now;
    let used = signed.services().proposal(&token, &in_force.catalog, Vec::new()).used;
    let choice = |scope: &crate::policy::scope::Scope| ScopeChoice {
        name: scope.name.to_string(),
        write: scope.access == Access::Write,
        requires_whitelist: scope.requires_whitelist,
        last_use: token.uses.of(scope.id).map(|at| when(at, now)),
        chosen: match &draft.scopes {
            Some(chosen) => chosen.iter().any(|name| *name == scope.name.as_str()),
            None => used.contains(&scope.id),
        },
    };
    let mut scopes: Vec<_> = granted(&token, &in_force, now).map(choice).collect();
    scopes.sort_by(|a, b| (a.last_use.is_none(), &a.name).cmp(&(b.last_use.is_none(), &b.name)));
    let id = token.id.to_string();
    let view = ReplacePage {
        frame: Frame {
            how: vec![
                format!("portcullis token replace {id} --dry-run"),
                format!("portcullis token replace {id} --overlap 24h"),
            ],
            ..signed.frame(format!("Replace {}", token.name), Place::Tokens)
        },
        name: token.name.clone(),
        kind: kind_words(token.kind),
        choose: draft.choose,
        overlap: draft.overlap.unwrap_or_else(|| "24h".to_owned()),
        longest: duration::in_words(MAX_OVERLAP),
        scopes,
        window: duration::in_words(outlook.calendar.settings.window()),
        pending: !token.pending.is_empty(),
        errors,
        id,
    };
    page(status, &view)
}

pub(super) async fn replace(
    Id(id): Id,
    Sent { signed, form: sent }: Sent<ReplaceForm>,
) -> Result<Response> {
    let described = find(&signed, &id).await?;
    let id = described.token.id.to_string();
    let draft = Draft::from(sent);
    let again = |draft, described, errors| {
        Ok(form(&signed, StatusCode::UNPROCESSABLE_ENTITY, described, draft, errors))
    };
    let overlap = match overlap(draft.overlap.as_deref().unwrap_or_default()) {
        Ok(overlap) => overlap,
        Err(error) => return again(draft, described, vec![error]),
    };
    let scopes = draft.scopes.clone().filter(|_| draft.choose).unwrap_or_default();
    if draft.choose && scopes.is_empty() {
        return again(draft, described, vec!["Choose at least one scope.".to_owned()]);
    }
    let request = ReplaceToken {
        token_id: &id,
        overlap: Some(overlap),
        scopes: &scopes,
        whitelist: &[],
        expires: None,
        validate_only: false,
        no_wait: false,
    };
    let services = signed.services();
    let replaced =
        match services.replace_token(signed.caller(), request, FieldErrors::default()).await {
            Ok(replaced) => replaced.value,
            Err(Error::Invalid(violations)) => {
                let text = |violation: &crate::service::error::Violation| match violation.reason {
                    "WHITELIST_REQUIRED" => {
                        "The token needs a whitelist and has none: set one first.".to_owned()
                    }
                    _ => sentence(&violation.description),
                };
                return again(draft, described, violations.iter().map(text).collect());
            }
            Err(error) => {
                let way = format!("/tokens/{id}");
                let error = PageError::of_change(error).at(&signed, Place::Tokens);
                return Err(error.with_way(way, "The token"));
            }
        };
    let ReplacedToken { successor, secret, replaced, .. } = replaced;
    let Some(secret) = secret else { return Err(Error::Internal.into()) };
    let token = successor.token;
    let now = successor.outlook.calendar.now;
    let new_id = token.id.to_string();
    let view = ReplacedPage {
        frame: Frame {
            how: vec![
                format!("portcullis token show {id}"),
                format!("portcullis token show {new_id}"),
            ],
            scripted: true,
            ..signed.frame("Token replaced", Place::Tokens)
        },
        name: token.name.clone(),
        kind: kind_words(token.kind),
        from: from_where(&token.whitelist),
        secret: secret.expose(),
        old_id: id,
        ends: replaced.token.expires.map(|at| when(at, now)),
        id: new_id,
    };
    Ok(page(StatusCode::OK, &view))
}

/// The overlap as it was typed.
fn overlap(text: &str) -> std::result::Result<Duration, String> {
    match text {
        "" => Ok(DEFAULT_OVERLAP),
        "0" => Ok(Duration::ZERO),
        text => duration::parse(text).map_err(|error| format!("The overlap: {error}.")),
    }
}
