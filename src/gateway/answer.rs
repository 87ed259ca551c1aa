//! What HTTP clients learn of a decision: the one table of [`Reason`] to status, the same at every interface
//! (Rule 9.13 of docs/policy.md), with the headers that services and clients read.
//!
//! # Invariants
//! - An allow has every header of [`HEADERS`]: some gateways keep a client's own header where the answer lacks it.
//! - No decision is never an allow, and says nothing about causes within this server.
//! - Values of headers are visible ASCII and spaces.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use super::request::{ClientToken, shown, token_header};
use crate::policy::client_source::ClientSource;
use crate::policy::decide::{Decision, Reason, Verdict};
use crate::policy::lifecycle::Calendar;
use crate::policy::token::PendingActionType;

/// The reason where no decision was reached.
pub const UNDECIDED: &str = "UNDECIDED";
/// The value of a header that has nothing to say.
pub const NONE: HeaderValue = HeaderValue::from_static("none");
/// The media type of a denial's body (RFC 9457).
pub const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

const TOKEN_ID: HeaderName = HeaderName::from_static("portcullis-token-id");
const ACCOUNT_ID: HeaderName = HeaderName::from_static("portcullis-account-id");
const SCOPE: HeaderName = HeaderName::from_static("portcullis-scope");
const REASON: HeaderName = HeaderName::from_static("portcullis-reason");
const PENDING_ACTION: HeaderName = HeaderName::from_static("portcullis-pending-action");
const TOKEN_EXPIRES: HeaderName = HeaderName::from_static("portcullis-token-expires");

const COUNT: usize = 6;
/// The headers of every allow (Rule 9.14 of docs/policy.md). Of these, a denial has the reason alone.
pub const HEADERS: [HeaderName; COUNT] =
    [TOKEN_ID, ACCOUNT_ID, SCOPE, REASON, PENDING_ACTION, TOKEN_EXPIRES];
/// The place of the reason among them.
const REASON_AT: usize = 3;
/// Those of them that a client is to see on its response, where the gateway can pass them on.
const WARNINGS: [HeaderName; 2] = [PENDING_ACTION, TOKEN_EXPIRES];

/// What is wrong, as far as the status says (Rule 9.13 of docs/policy.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Nothing.
    Allowed,
    /// The token: another one may be allowed.
    Token,
    /// What the token may do.
    Permission,
    /// The address, the whitelist or the request itself.
    Request,
}

fn cause(reason: Reason) -> Cause {
    match reason {
        Reason::Allowed => Cause::Allowed,
        Reason::TokenMalformed
        | Reason::TokenNotFound
        | Reason::TokenDeleted
        | Reason::TokenDeletedUnused
        | Reason::TokenRevokedLeaked
        | Reason::TokenExpired => Cause::Token,
        Reason::ScopeNotGranted | Reason::ScopeLostInDowngrade => Cause::Permission,
        Reason::NoMatchingRoute
        | Reason::RequestAmbiguous
        | Reason::AccountSuspended
        | Reason::WhitelistRequired
        | Reason::ClientIpMissing
        | Reason::ClientIpNotWhitelisted => Cause::Request,
    }
}

/// The status that a decision with this reason has: 200, 401 or 403.
pub fn status(reason: Reason) -> StatusCode {
    match cause(reason) {
        Cause::Allowed => StatusCode::OK,
        Cause::Token => StatusCode::UNAUTHORIZED,
        Cause::Permission | Cause::Request => StatusCode::FORBIDDEN,
    }
}

/// Where a client's token and address were read from, so that a sentence names the cure there.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'s> {
    /// From what the gateway's credential names.
    Gateway(&'s ClientSource),
    /// From the body of an AuthZEN request.
    AuthZen,
}

/// What one decision comes to for HTTP clients, or that there is none.
#[derive(Debug, Clone)]
pub struct Answer {
    reason: Option<Reason>,
    status: StatusCode,
    detail: Cow<'static, str>,
    /// `WWW-Authenticate` (RFC 6750, section 3).
    challenge: Option<HeaderValue>,
    /// Whether the token expires within the notice period.
    expires_soon: bool,
    /// Those of [`HEADERS`], in their order; a denial has the reason alone.
    values: [Option<HeaderValue>; COUNT],
}

impl Answer {
    /// The answer with a decision about `token`, which came from `origin`. `calendar` is called only where something
    /// is announced, and for a token that expires.
    pub fn decided(
        decision: &Decision<'_>,
        token: &ClientToken<'_>,
        origin: Origin<'_>,
        calendar: impl Fn() -> Calendar,
    ) -> Self {
        let reason = decision.verdict.reason();
        let word = HeaderValue::from_static(reason.word());
        let mut values = [const { None }; COUNT];
        if let Verdict::Allow(_) = decision.verdict {
            values = allow_values(decision, &calendar)
                .map(|value| Some(value.map_or(NONE, |text| header_value(&text))));
        } else {
            values[REASON_AT] = Some(word);
        }
        let detail = detail(decision, token, origin);
        Self {
            reason: Some(reason),
            status: status(reason),
            expires_soon: expires_soon(decision, calendar),
            challenge: challenge(decision, token, &detail),
            detail,
            values,
        }
    }

    /// The answer where no decision was reached, with the status of the interface. `detail` says why in a sentence
    /// for strangers.
    pub fn undecided(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut values = [const { None }; COUNT];
        values[REASON_AT] = Some(HeaderValue::from_static(UNDECIDED));
        let detail = detail.into();
        Self { reason: None, status, detail, challenge: None, expires_soon: false, values }
    }

    /// Whether the client's request may go on.
    pub fn is_allow(&self) -> bool {
        self.reason == Some(Reason::Allowed)
    }

    /// The same in a word, as metrics name it.
    pub fn outcome(&self) -> &'static str {
        match self.reason {
            Some(Reason::Allowed) => "allow",
            Some(_) => "deny",
            None => "undecided",
        }
    }

    /// The reason, or [`UNDECIDED`].
    pub fn reason(&self) -> &'static str {
        self.reason.map_or(UNDECIDED, Reason::word)
    }

    /// The status for the client: 200 for an allow.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Why, in a sentence for a person.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The headers: on an allow, those that the service learns the decision from, [`HEADERS`]; otherwise those of the
    /// client's response, without the media type of its [body](Self::problem).
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
        let own = HEADERS.into_iter().zip(&self.values);
        let own = own.filter_map(|(name, value)| Some((name, value.clone()?)));
        own.chain(self.challenge.clone().map(|value| (http::header::WWW_AUTHENTICATE, value)))
    }

    /// The announced action and the expiry, where there is something to say about them.
    pub fn warnings(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
        self.headers().filter(|(name, value)| {
            self.is_allow() && is_warning(name.as_str(), value.as_bytes(), self.expires_soon)
        })
    }

    /// Problem details in JSON, for what is no allow.
    pub fn problem(&self) -> String {
        problem_json(self.status, &self.detail, self.reason())
    }
}

/// Problem details (RFC 9457) in JSON.
pub(super) fn problem_json(status: StatusCode, detail: &str, reason: &str) -> String {
    json!({
        // What the status means says it all (RFC 9457, section 4.2.1).
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Denied"),
        "status": status.as_u16(),
        "detail": detail,
        "reason": reason,
    })
    .to_string()
}

/// The values of [`HEADERS`] on an allow, in their order; `None` where one has nothing to say and is [`NONE`].
/// `calendar` is called only where something is announced. Does not allocate where nothing is, and the
/// token has no expiry.
pub fn allow_values<'d>(
    decision: &Decision<'d>,
    calendar: impl FnOnce() -> Calendar,
) -> [Option<Cow<'d, [u8]>>; COUNT] {
    let facts = decision.token;
    let announced = facts.filter(|facts| !facts.announced.is_empty());
    let pending = announced.and_then(|facts| facts.upcoming(&calendar())).map(|action| {
        let word = action_word(action.action);
        format!("{word}; effective-time={}", action.effective).into_bytes()
    });
    [
        facts.map(|facts| Cow::Borrowed(facts.id.text())),
        facts.map(|facts| Cow::Borrowed(facts.account_id.text())),
        decision.required.map(|scope| Cow::Borrowed(scope.name.as_str().as_bytes())),
        Some(Cow::Borrowed(decision.verdict.reason().word().as_bytes())),
        pending.map(Cow::Owned),
        facts
            .and_then(|facts| facts.expiry.time())
            .map(|at| Cow::Owned(at.to_string().into_bytes())),
    ]
}

/// Whether the token expires within the notice period, so that its client is to be warned. `calendar` is called only
/// where it expires at all.
pub fn expires_soon(decision: &Decision<'_>, calendar: impl FnOnce() -> Calendar) -> bool {
    let expiry = decision.token.and_then(|facts| facts.expiry.time());
    expiry.is_some_and(|at| {
        let Calendar { settings, now } = calendar();
        at <= now.plus(settings.notice())
    })
}

/// Whether a header of an allow is to be on the client's response too. Rule 9.14 of docs/policy.md.
pub fn is_warning(name: &str, value: &[u8], expires_soon: bool) -> bool {
    WARNINGS.iter().any(|own| own == name)
        && value != NONE.as_bytes()
        && (expires_soon || TOKEN_EXPIRES != name)
}

/// A value of ids, names, words and dates, which are ASCII.
fn header_value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).ok().filter(|value| value.to_str().is_ok()).unwrap_or(NONE)
}

pub(super) fn action_word(action: PendingActionType) -> &'static str {
    match action {
        PendingActionType::Downgrade => "DOWNGRADE",
        PendingActionType::Deletion => "DELETION",
    }
}

/// The decision's own sentence, but for those that name fields of `Authorize`.
pub(super) fn detail(
    decision: &Decision<'_>,
    token: &ClientToken<'_>,
    origin: Origin<'_>,
) -> Cow<'static, str> {
    match (decision.verdict.reason(), token) {
        (Reason::TokenMalformed, ClientToken::Missing) => match origin {
            Origin::Gateway(source) if source.token_header.is_some() => {
                let header = shown(token_header(source));
                format!("No token was sent. Send one in the header {header}.").into()
            }
            Origin::Gateway(_) => {
                "No token was sent. Send one as “Authorization: Bearer <token>”.".into()
            }
            Origin::AuthZen => "No token was sent. Send one as subject.id.".into(),
        },
        (Reason::TokenMalformed, ClientToken::Malformed(cause)) => (*cause).into(),
        (Reason::ClientIpMissing, _) => no_address(origin),
        _ => decision.message(),
    }
}

/// The sentence of [`Reason::ClientIpMissing`].
fn no_address(origin: Origin<'_>) -> Cow<'static, str> {
    const WHITELISTED: &str = "This token may be used from whitelisted addresses only, and";
    match origin {
        Origin::AuthZen => {
            format!("{WHITELISTED} the request names no address. Send context.client_ip.").into()
        }
        Origin::Gateway(ClientSource { address_header: Some(name), .. }) => {
            let header = shown(name.as_str());
            format!(
                "{WHITELISTED} the header {header} of the gateway names no address of its client. The \
                 gateway's operator has to have it set for each request, and to trust only proxies \
                 that append to it."
            )
            .into()
        }
        Origin::Gateway(_) => format!(
            "{WHITELISTED} the gateway names no address of its client. Its operator has to set \
             client_source.address_header and trusted_proxies of the gateway's credential."
        )
        .into(),
    }
}

/// What the client needs to be allowed, where another token would do. No error code where none was sent (RFC 6750,
/// section 3.1).
fn challenge(
    decision: &Decision<'_>,
    token: &ClientToken<'_>,
    detail: &str,
) -> Option<HeaderValue> {
    const REALM: &str = "Bearer realm=\"portcullis\"";
    let scope = decision.required.map_or("", |scope| scope.name.as_str());
    let challenge = match (cause(decision.verdict.reason()), token) {
        (Cause::Token, ClientToken::Missing) => REALM.to_owned(),
        (Cause::Token, _) => {
            let detail = quotable(detail);
            format!("{REALM}, error=\"invalid_token\", error_description=\"{detail}\"")
        }
        (Cause::Permission, _) => {
            format!("{REALM}, error=\"insufficient_scope\", scope=\"{scope}\"")
        }
        (Cause::Allowed | Cause::Request, _) => return None,
    };
    Some(header_value(challenge.as_bytes()))
}

/// A sentence with the characters that `error_description` may have (RFC 6750, section 3).
pub(super) fn quotable(text: &str) -> String {
    let character = |c| match c {
        '“' | '”' | '"' => '\'',
        '\\' => '/',
        ' '..='~' => c,
        _ => '?',
    };
    text.chars().map(character).collect()
}

#[cfg(test)]
mod tests;
