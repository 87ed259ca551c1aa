//! Creating a token: what it may do, from where, and its secret, which is shown once.
//!
//! Must stay true: a form makes one token at most, however often it is sent; the secret stands in the
//! answer to it and nowhere else.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::answer::{PageError, Result, page};
use super::form::Query;
use super::frame::{Frame, Place};
use super::session::{Sent, Signed};
use super::tokens::kind;
use super::view::{FromWhere, from_where, kind_words};
use crate::model::Role;
use crate::policy::duration;
use crate::policy::scope::Access;
use crate::policy::text::sentence;
use crate::policy::time::Timestamp;
use crate::policy::token::{RequestedExpiry, TokenKind};
use crate::service::error::Violation;
use crate::service::lists::{PageItem, Paging};
use crate::service::sessions::FormId;
use crate::service::tokens::{CreateToken, Described};
use crate::service::{Caller, Error};

/// What was typed, as it is shown again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Draft {
    account: String,
    name: String,
    kind: String,
    #[serde(rename = "scope")]
    scopes: Vec<String>,
    whitelist: String,
    expires: String,
    /// Which form it is, so that what is sent twice makes one token.
    form: String,
}

/// The account that a new token is to belong to.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct OwnerQuery {
    account: String,
}

struct ScopeChoice {
    name: String,
    description: String,
    write: bool,
    requires_whitelist: bool,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "page/new.html")]
struct NewPage {
    frame: Frame,
    /// This form, and no other.
    form: FormId,
    draft: Draft,
    /// Operators say whose it is.
    operator: bool,
    /// All accounts, where those are few: ids and names.
    accounts: Option<Vec<(String, String)>>,
    scopes: Vec<ScopeChoice>,
    /// What is wrong, by field.
    errors: FormErrors,
    window: String,
    /// The most entries.
    entries: usize,
    /// The longest that a token may last, in words.
    lifetime: Option<String>,
    address: String,
}

/// What is wrong with which field.
#[derive(Debug, Clone, Default)]
struct FormErrors {
    account: Vec<String>,
    name: Vec<String>,
    kind: Vec<String>,
    scopes: Vec<String>,
    whitelist: Vec<String>,
    expires: Vec<String>,
    other: Vec<String>,
}

impl FormErrors {
    fn of(violations: &[Violation]) -> Self {
        let mut errors = Self::default();
        for violation in violations {
            let field = violation.field.split('[').next().unwrap_or_default();
            let place = match field {
                "account_id" => &mut errors.account,
                "name" => &mut errors.name,
                "kind" => &mut errors.kind,
                "scopes" => &mut errors.scopes,
                "whitelist" => &mut errors.whitelist,
                "expire_time" => &mut errors.expires,
                _ => &mut errors.other,
            };
            place.push(match (violation.reason, field) {
                ("REQUIRED", "kind") => "Choose what the token may do.".to_owned(),
                ("REQUIRED", "scopes") => "Choose at least one scope.".to_owned(),
                ("REQUIRED", "name") => "Give it a name.".to_owned(),
                ("REQUIRED", "account_id") => "Say which account will own it.".to_owned(),
                ("WHITELIST_REQUIRED", _) => {
                    sentence(&format!("a whitelist {}", violation.description))
                }
                ("IN_THE_PAST", _) => "Choose a day in the future.".to_owned(),
                _ => sentence(&violation.description),
            });
        }
        errors
    }

    fn any(&self) -> bool {
        let Self { account, name, kind, scopes, whitelist, expires, other } = self;
        [account, name, kind, scopes, whitelist, expires, other]
            .iter()
            .any(|errors| !errors.is_empty())
    }
}

#[derive(Template)]
#[template(path = "page/created.html")]
struct CreatedPage<'a> {
    frame: Frame,
    id: String,
    name: String,
    kind: &'static str,
    from: FromWhere,
    secret: &'a str,
}

pub(super) async fn ask(
    signed: Signed,
    Query(OwnerQuery { account }): Query<OwnerQuery>,
) -> Result<Response> {
    let draft = Draft { account, ..Draft::default() };
    form(&signed, StatusCode::OK, draft, FormErrors::default()).await
}

/// Accounts that are offered to be chosen from; where there are more, their ids are asked for.
const OFFERED: i32 = 50;

/// Those of them that there are; `None` where they are more, or nobody chooses.
async fn accounts(signed: &Signed) -> Result<Option<Vec<(String, String)>>> {
    if !signed.is_operator() {
        return Ok(None);
    }
    let paging = Paging { size: OFFERED, token: "" };
    let found =
        signed.services().list_accounts(signed.caller(), paging, PageItem::unmeasured).await?;
    let accounts = found.items.into_iter().map(|account| (account.id.to_string(), account.name));
    Ok(found.next.is_empty().then(|| accounts.collect()))
}

async fn form(
    signed: &Signed,
    status: StatusCode,
    draft: Draft,
    errors: FormErrors,
) -> Result<Response> {
    let services = signed.services();
    let accounts = accounts(signed).await?;
    let in_force = services.in_force()?;
    let scopes = in_force.catalog.scopes().iter().map(|scope| ScopeChoice {
        name: scope.name.to_string(),
        description: scope.description.to_string(),
        write: scope.access == Access::Write,
        requires_whitelist: scope.requires_whitelist,
        chosen: draft.scopes.iter().any(|chosen| *chosen == scope.name.as_str()),
    });
    // What gives least stands first.
    let mut scopes: Vec<_> = scopes.collect();
    scopes.sort_by(|a, b| {
        (a.requires_whitelist, a.write, &a.name).cmp(&(b.requires_whitelist, b.write, &b.name))
    });
    let view = NewPage {
        frame: Frame {
            how: vec![
                "portcullis token create --account ACCOUNT --name NAME --kind custom --scope SCOPE"
                    .to_owned(),
                "portcullis catalog show".to_owned(),
            ],
            scripted: true,
            ..signed.frame("New token", Place::Tokens)
        },
        form: FormId::make()?,
        draft,
        operator: signed.is_operator(),
        accounts,
        scopes,
        errors,
        window: duration::in_words(services.calendar().settings.window()),
        entries: services.limits().max_entries,
        lifetime: services.token_max_lifetime().map(duration::in_words),
        address: signed.address().map(|ip| ip.to_string()).unwrap_or_default(),
    };
    Ok(page(status, &view))
}

/// Whose a token is to be: an account admin's is of their account where the form does not say.
fn owner(caller: &Caller, asked: &str) -> String {
    match caller.role {
        Role::AccountAdmin(id) if asked.is_empty() => id.to_string(),
        _ => asked.trim().to_owned(),
    }
}

/// The form again, with what is wrong beside each field; what is no error of it goes on as it is.
async fn refused(signed: &Signed, draft: Draft, error: Error) -> Result<Response> {
    let errors = match error {
        Error::Invalid(violations) | Error::Refused(_, violations) if !violations.is_empty() => {
            FormErrors::of(&violations)
        }
        Error::NotFound { .. } => {
            let text = vec!["There is no such account.".to_owned()];
            // Nobody else sees the field.
            if signed.is_operator() {
                FormErrors { account: text, ..FormErrors::default() }
            } else {
                FormErrors { other: text, ..FormErrors::default() }
            }
        }
        other => return Err(PageError::of_change(other).at(signed, Place::Tokens)),
    };
    form(signed, StatusCode::UNPROCESSABLE_ENTITY, draft, errors).await
}

pub(super) async fn create(Sent { signed, form }: Sent<Draft>) -> Result<Response> {
    let draft = Draft {
        account: owner(signed.caller(), &form.account),
        expires: form.expires.trim().to_owned(),
        ..form
    };
    let Some(form_id) = FormId::read(&draft.form) else {
        let text = "This form is not whole, so nothing was done: load its page again.";
        return Err(PageError::new(StatusCode::FORBIDDEN, "Not from here", text)
            .at(&signed, Place::Tokens)
            .with_way("/tokens/new", "New token"));
    };
    let services = signed.services();
    let kind = kind(&draft.kind);
    // Scopes that were ticked before another kind was chosen mean nothing.
    let none = Vec::new();
    let scopes = if kind == Some(TokenKind::Custom) { &draft.scopes } else { &none };
    let whitelist = services.read_entries(&draft.whitelist).texts();
    let expires = match draft.expires.as_str() {
        "" => None,
        day => match Timestamp::parse_day(day) {
            Some(day) => Some(RequestedExpiry::At(day)),
            None => {
                let text = "is no day, such as 2027-01-31";
                let error = Error::invalid("expire_time", "NOT_A_TIME", text);
                return refused(&signed, draft, error).await;
            }
        },
    };
    let request = CreateToken {
        account_id: &draft.account,
        name: &draft.name,
        kind,
        scopes,
        whitelist: &whitelist,
        expires,
        labels: None,
        validate_only: false,
    };
    // A form with errors makes nothing, and can be sent again.
    let check = CreateToken { validate_only: true, ..request };
    if let Err(error) = services.create_token(signed.caller(), check).await {
        return refused(&signed, draft, error).await;
    }
    if !signed.use_form(form_id).await? {
        let text = "This form was sent before, so nothing was done now. If it made a token, that is in the \
                    list; its secret was shown once, and can't be shown again: where it is lost, delete \
                    the token and make another.";
        return Err(PageError::new(StatusCode::CONFLICT, "Sent before", text)
            .at(&signed, Place::Tokens)
            .with_way("/tokens?sort=created", "The newest tokens"));
    }
    let created = services.create_token(signed.caller(), request).await;
    let (token, secret) = match created.map(|created| created.value) {
        Ok((Described { token, .. }, Some(secret))) => (token, secret),
        Ok((_, None)) => return Err(Error::Internal.into()),
        Err(error) => return refused(&signed, draft, error).await,
    };
    let id = token.id.to_string();
    let view = CreatedPage {
        frame: Frame {
            how: vec![format!("portcullis token show {id}"), "portcullis check --help".to_owned()],
            scripted: true,
            ..signed.frame("Token created", Place::Tokens)
        },
        name: token.name.clone(),
        kind: kind_words(token.kind),
        from: from_where(&token.whitelist),
        secret: secret.expose(),
        id,
    };
    Ok(page(StatusCode::OK, &view))
}
