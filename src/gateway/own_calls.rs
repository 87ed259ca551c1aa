//! `GET /self` and `DELETE /self`: what the bearer of a token asks with its secret, directly or through a gateway
//! (Rules 11.20, 11.24 and 11.25 of docs/policy.md).
//!
//! # Invariants
//! - The address of the bearer is never a gateway's: where a gateway presents a credential, its client source applies.
//! - A secret that was not made here, and a gateway's credential that is not valid, wait for nothing.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::answer::{self, action_word, quotable};
use super::body::discard;
use super::caller::{CallerError, Presented};
use super::request::{ClientToken, Reader, Target};
use super::{
    CREDENTIAL, HttpAnswer, Interface, Interfaces, PeerIdentity, Unidentified, json_answer,
    problem_details,
};
use crate::net::Peer;
use crate::policy::client_source::ClientSource;
use crate::policy::decide::Reason;
use crate::policy::text::sentence;
use crate::policy::token::TokenState;
use crate::service::bearer::{Bearer, BearerCall, SelfPendingAction, SelfToken};
use crate::service::{Error, Result, Services};
use crate::shutdown;

/// The path of both calls.
pub(super) const OWN_CALLS: &str = "/self";
/// How long one may take: a revocation waits until it has propagated.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why there is no answer for a bearer.
enum Refused {
    /// The gateway on the way presents a credential that is not valid.
    Gateway(CallerError),
    /// No token was sent.
    NoToken,
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Interfaces {
    /// Answers a call of a token's bearer.
    pub(super) async fn own_call(
        &self,
        request: Request<Incoming>,
        peer: PeerIdentity,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        let (head, body) = request.into_parts();
        let call = match head.method {
            Method::DELETE => BearerCall::Revoke,
            _ => BearerCall::Get,
        };
        let request = Request::from_parts(head, ());
        let identified = self.identify_bearer(&request, peer, call, known).await;
        discard(request.headers(), body).await;
        let answered = match identified {
            Ok(bearer) => run(&self.services, bearer, call).await.map_err(Refused::from),
            Err(refused) => Err(refused),
        };
        let (outcome, answer) = match answered {
            Ok(value) => ("allow", json_answer(&value, None)),
            Err(refused) => refusal(&refused),
        };
        self.count(Interface::OwnCalls, outcome);
        answer
    }

    /// Who asks, and from where. Rule 11.24 of docs/policy.md.
    async fn identify_bearer(
        &self,
        request: &Request<()>,
        peer: PeerIdentity,
        call: BearerCall,
        known: impl Fn() + Send,
    ) -> std::result::Result<Bearer, Refused> {
        let headers = request.headers();
        let development = self.settings.development;
        let presented = Presented::read(headers.get_all(CREDENTIAL), peer.certificate, development);
        let source = match self.identify(presented, known).await {
            Ok(gateway) => Some(gateway.source),
            // The bearer itself: it has no credential.
            Err(Unidentified::Caller(CallerError::Missing | CallerError::UnboundCertificate)) => {
                None
            }
            // A valid secret can always revoke. The address is for the audit record alone.
            Err(_) if call == BearerCall::Revoke => None,
            Err(Unidentified::Caller(error)) => return Err(Refused::Gateway(error)),
            Err(Unidentified::NotReady(error)) => return Err(error.into()),
        };
        let direct = source.is_none() || development && !headers.contains_key("x-forwarded-for");
        let source = source.unwrap_or_else(|| Arc::new(ClientSource::default()));
        let reader = Reader {
            source: &source,
            overrides: &self.settings.overrides,
            peer: peer.address.ip().filter(|_| direct),
        };
        let all = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let target = Target::Own {
            method: request.method().as_str().as_bytes(),
            path: request.uri().path().as_bytes(),
        };
        let missing = |_| Refused::Error(Error::Internal);
        let client = reader.read(all, target).map_err(missing)?;
        if let ClientToken::Missing = client.token {
            return Err(Refused::NoToken);
        }
        let from = client.address.map_or(peer.address, Peer::Ip);
        let (secret, presented) = (client.token.secret(), client.token.presented());
        Ok(self.services.bearer(secret, presented, client.address, from)?)
    }
}

/// Makes the call, to its end also where the client goes away meanwhile: a change that was committed must reach memory.
async fn run(services: &Arc<Services>, bearer: Bearer, call: BearerCall) -> Result<Value> {
    let bearer = services.admit_bearer(bearer, call).await?;
    let services = services.clone();
    let (answer, answered) = oneshot::channel();
    shutdown::spawn("own-call", async move {
        let made = match call {
            BearerCall::Get => {
                services.get_self(&bearer).await.map(|token| json!({ "token": shown(&token) }))
            }
            BearerCall::Revoke => {
                services.revoke_self(&bearer).await.map(|(token, propagation)| {
                    json!({
                        "token": shown(&token),
                        "propagation": {
                            "complete": propagation.complete,
                            "complete_by_time": propagation.complete_by.to_string(),
                        },
                    })
                })
            }
        };
        // Nobody receives it where the client has gone.
        let _ = answer.send(made);
    });
    match tokio::time::timeout(DEADLINE, answered).await {
        Ok(made) => made.unwrap_or(Err(Error::Internal)),
        Err(_) => Err(Error::DeadlineExceeded),
    }
}

/// The JSON form of `SelfToken` (proto/portcullis/v1/self_service.proto), with the fields' own names.
fn shown(token: &SelfToken) -> Value {
    let (state, deleted) = match token.state {
        TokenState::Active => ("TOKEN_STATE_ACTIVE", None),
        TokenState::Deleted { at } => ("TOKEN_STATE_DELETED", Some(at)),
        TokenState::DeletedUnused { at } => ("TOKEN_STATE_DELETED_UNUSED", Some(at)),
        TokenState::RevokedLeaked { at } => ("TOKEN_STATE_REVOKED_LEAKED", Some(at)),
    };
    let pending = |action: &SelfPendingAction| {
        json!({
            "type": format!("PENDING_ACTION_TYPE_{}", action_word(action.action)),
            "scopes_taken": action.taken,
            "effective_time": action.effective.to_string(),
            "why": action.why,
            "how_to_keep": action.how_to_keep,
        })
    };
    let mut shown = json!({
        "token_id": token.id.to_string(),
        "name": token.name,
        "kind": format!("TOKEN_KIND_{}", token.kind.word()),
        "state": state,
        "granted_scopes": token.scopes,
        "pending_actions": token.pending.iter().map(pending).collect::<Vec<_>>(),
    });
    for (name, at) in [("delete_time", deleted), ("expire_time", token.expires)] {
        if let Some(at) = at {
            shown[name] = at.to_string().into();
        }
    }
    shown
}

/// Problem details (RFC 9457), and the outcome as metrics name it. Rule 11.25 of docs/policy.md.
fn refusal(refused: &Refused) -> (&'static str, HttpAnswer) {
    const REALM: &str = "Bearer realm=\"portcullis\"";
    let invalid = |detail: &str| {
        let detail = quotable(detail);
        format!("{REALM}, error=\"invalid_token\", error_description=\"{detail}\"")
    };
    let (status, reason, detail, challenge) = match refused {
        Refused::Gateway(error) => {
            (StatusCode::FORBIDDEN, "GATEWAY_NOT_IDENTIFIED", error.to_string(), None)
        }
        Refused::NoToken => (
            StatusCode::UNAUTHORIZED,
            Reason::TokenMalformed.word(),
            "No token was sent. Send its secret as “Authorization: Bearer <secret>”.".to_owned(),
            Some(REALM.to_owned()),
        ),
        Refused::Error(Error::TokenDenied { reason, message }) => {
            let status = answer::status(*reason);
            let challenge = (status == StatusCode::UNAUTHORIZED).then(|| invalid(message));
            (status, reason.word(), message.clone().into_owned(), challenge)
        }
        Refused::Error(error @ Error::TooManyFailures { .. }) => {
            (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_FAILURES", sentence(&error.to_string()), None)
        }
        Refused::Error(error @ (Error::NotPropagatedYet | Error::OutcomeUnknown)) => {
            (StatusCode::GATEWAY_TIMEOUT, answer::UNDECIDED, sentence(&error.to_string()), None)
        }
        Refused::Error(_) => {
            let text = "The call could not be answered. Try again later.".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, answer::UNDECIDED, text, None)
        }
    };
    let outcome = if reason == answer::UNDECIDED { "undecided" } else { "deny" };
    let mut response = problem_details(status, &detail, reason);
    let headers = response.headers_mut();
    if let Some(challenge) = challenge.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    let retry = match refused {
        Refused::Error(Error::TooManyFailures { retry } | Error::Unavailable { retry, .. }) => {
            Some(retry.as_secs().max(1))
        }
        Refused::Error(Error::Overloaded) => Some(1),
        _ => None,
    };
    if let Some(seconds) = retry {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    (outcome, response)
}
