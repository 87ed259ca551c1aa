//! Gateways that ask on behalf of services which can't be changed: adapters to [`crate::service`]
//! (rules: docs/policy.md, section 9).
//!
//! `listener` serves connections, [`caller`] says who asks, [`request`] reads what is asked about, and [`answer`] says
//! what HTTP clients learn of the decision. [`Interfaces`] has the paths.
//!
//! # Invariants
//! - Every interface gives the decision that `Authorize` gives for the same token, address, method and path.
//! - No decision is never an allow.
//! - A caller without a valid credential waits for nothing and has no body read.

pub mod answer;
mod authzen;
mod body;
pub mod caller;
mod forward_auth;
mod listener;
mod own_calls;
pub mod request;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::Value;
use tracing::Instrument as _;

use self::answer::Answer;
use self::body::{AnswerBody, Bodies};
use self::caller::{CallerError, Identified, Presented};
pub use self::listener::{CONNECTIONS, serve};
use self::request::OverrideHeaders;
use crate::net::{Peer, Permit};
use crate::policy::client_certificate::Fingerprint;
use crate::policy::decide::Decision;
use crate::policy::id::CredentialId;
use crate::service::decisions::{self, AuthorizeInput, Call};
use crate::service::{Error, Result, Services};
use crate::telemetry::request_id::{self, REQUEST_ID, RequestId};
use crate::telemetry::traces::TraceHeaders;

/// The header with the gateway's own credential, for forward auth and Envoy.
pub const CREDENTIAL: HeaderName = HeaderName::from_static("portcullis-credential");
/// How long a decision may take where the caller names no deadline of its own.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// What the interfaces are made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether gateways need no credential.
    pub development: bool,
    /// Headers that must not differ from the request.
    pub overrides: OverrideHeaders,
    /// Where gateways and AuthZEN clients reach this server: a scheme and an authority.
    pub public_url: String,
    /// How long a decision for Envoy may take where Envoy names no deadline.
    pub check_timeout: Duration,
}

/// The interfaces for gateways, over the services that they ask.
#[derive(Debug)]
pub struct Interfaces {
    services: Arc<Services>,
    settings: Settings,
    bodies: Bodies,
}

/// Which interface a request is for, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interface {
    ForwardAuth,
    ExtAuthz,
    AuthZen,
    OwnCalls,
}

impl Interface {
    fn word(self) -> &'static str {
        match self {
            Self::ForwardAuth => "forward_auth",
            Self::ExtAuthz => "ext_authz",
            Self::AuthZen => "authzen",
            Self::OwnCalls => "self",
        }
    }

    /// The same in the decision log; `None` where nothing is decided.
    fn logged(self) -> Option<decisions::Interface> {
        match self {
            Self::ForwardAuth => Some(decisions::Interface::ForwardAuth),
            Self::ExtAuthz => Some(decisions::Interface::ExtAuthz),
            Self::AuthZen => Some(decisions::Interface::AuthZen),
            Self::OwnCalls => None,
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
struct PeerIdentity {
    address: Peer,
    /// The client certificate that it proved to have.
    certificate: Option<Fingerprint>,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

type HttpAnswer = Response<AnswerBody>;

impl Interfaces {
    /// The interfaces over `services`.
    pub fn new(services: Arc<Services>, settings: Settings) -> Self {
        Self { services, settings, bodies: Bodies::default() }
    }

    /// Answers one request of `peer`, also where the call panics: a connection that ends without an answer is an error
    /// to gateways, and some let the request pass then. `known` is called once its credential turns out to be valid.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: PeerIdentity,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        // Rule 9.12 of docs/policy.md.
        let none = if request.uri().path().starts_with(forward_auth::EXT_AUTHZ) {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let id = RequestId::read(request.headers());
        let answer = async {
            let answer = AssertUnwindSafe(self.route(request, peer, known)).catch_unwind();
            let answer = answer.await.unwrap_or_else(|_| {
                tracing::error!("a call panicked");
                problem(&Answer::undecided(none, undecided(&Error::Internal)))
            });
            identified(answer)
        };
        id.of(answer).await
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        peer: PeerIdentity,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        let path = request.uri().path();
        if path == forward_auth::FORWARD_AUTH {
            return self.forward_auth(request, peer, known).await;
        }
        if path.starts_with(forward_auth::EXT_AUTHZ) {
            return self.ext_authz(request, peer, known).await;
        }
        match (path, request.method()) {
            (authzen::EVALUATION, &Method::POST) => self.evaluation(request, peer, known).await,
            (authzen::EVALUATIONS, &Method::POST) => self.evaluations(request, peer, known).await,
            (authzen::METADATA, &Method::GET | &Method::HEAD) => self.metadata(),
            (own_calls::OWN_CALLS, &Method::GET | &Method::DELETE) => {
                self.own_call(request, peer, known).await
            }
            (own_calls::OWN_CALLS, _) => not_allowed("GET, DELETE"),
            (authzen::EVALUATION | authzen::EVALUATIONS, _) => not_allowed("POST"),
            (authzen::METADATA, _) => not_allowed("GET, HEAD"),
            _ => problem(&Answer::undecided(StatusCode::NOT_FOUND, "There is no such path.")),
        }
    }

    /// Who asks, with a lease that holds: what is known of credentials may be out of date without one.
    async fn identify(
        &self,
        presented: std::result::Result<Presented, CallerError>,
        known: impl Fn() + Send,
    ) -> std::result::Result<Identified, Unidentified> {
        let presented = presented?;
        // Strangers, as far as this replica knows, wait for nothing.
        presented.gateway(&self.services)?;
        self.services.ready().await.map_err(Unidentified::NotReady)?;
        let gateway = presented.gateway(&self.services)?;
        known();
        Ok(gateway)
    }

    /// What the decision log and the traces are to have of a request with `headers`, where they have anything.
    fn begin_call(
        &self,
        interface: Interface,
        credential: Option<CredentialId>,
        headers: &HeaderMap,
    ) -> Option<Box<Call>> {
        self.services.begin_call(interface.logged()?, credential, || TraceHeaders::of(headers))
    }

    /// Decides from memory, or from the store, and makes an answer of the decision: within the span of `call`, where it is
    /// traced.
    async fn decide<T>(
        &self,
        input: &AuthorizeInput<'_>,
        call: Option<&Call>,
        make: impl FnOnce(&Decision<'_>) -> T + Send,
    ) -> Result<T> {
        let decided = self.decide_untraced(input, call, make);
        match call.and_then(Call::span) {
            None => decided.await,
            Some(span) => Box::pin(decided.instrument(span.clone())).await,
        }
    }

    async fn decide_untraced<T>(
        &self,
        input: &AuthorizeInput<'_>,
        call: Option<&Call>,
        make: impl FnOnce(&Decision<'_>) -> T + Send,
    ) -> Result<T> {
        if let Some(context) = self.services.decision_context(call)
            && let Some(decision) = context.evaluate(input)?
        {
            return Ok(make(&decision));
        }
        // In a box: what a read needs is large, and hits would carry it around.
        let evaluation = Box::pin(self.services.evaluate_with_store(input, call)).await?;
        Ok(make(&evaluation.decision(input)?))
    }

    fn count(&self, interface: Interface, outcome: &'static str) {
        self.services.metrics().gateway_answered(interface.word(), outcome);
    }
}

/// The same answer with the id of its request: the caller's own (AuthZEN 1.0, section 10.1.4), or for what is no
/// success one that is made.
fn identified(mut answer: HttpAnswer) -> HttpAnswer {
    let success = answer.status().is_success();
    let id = if success { request_id::known() } else { request_id::current() };
    if let Some(id) = id {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    answer
}

/// Why there is no answer for a caller.
enum Unidentified {
    Caller(CallerError),
    NotReady(Error),
}

impl From<CallerError> for Unidentified {
    fn from(error: CallerError) -> Self {
        Self::Caller(error)
    }
}

/// What a client learns where no decision was reached: nothing of what is internal.
fn undecided(error: &Error) -> &'static str {
    match error {
        Error::Overloaded => {
            "No decision was reached: too many requests are under way. Try again later."
        }
        Error::DeadlineExceeded => "No decision was reached in time. Try again later.",
        Error::Invalid(_) => {
            "No decision can be reached about what the gateway asks: its operator has to correct its \
             configuration."
        }
        _ => "No decision was reached. Try again later.",
    }
}

/// Waits for `work`, for so long and no longer.
async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::DeadlineExceeded))
}

/// An answer without a decision that allows.
fn problem(answer: &Answer) -> HttpAnswer {
    let mut response = problem_details(answer.status(), answer.detail(), answer.reason());
    response.headers_mut().extend(answer.headers());
    response
}

/// Problem details (RFC 9457).
fn problem_details(status: StatusCode, detail: &str, reason: &str) -> HttpAnswer {
    let text = answer::problem_json(status, detail, reason);
    let mut response = Response::new(AnswerBody::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, answer::PROBLEM);
    no_store(response.headers_mut());
    response
}

/// An answer in JSON, which holds `permit` until it was sent.
fn json_answer(value: &Value, permit: Option<Permit>) -> HttpAnswer {
    let text = value.to_string();
    let mut response = Response::new(match permit {
        Some(permit) => AnswerBody::holding(text, permit),
        None => AnswerBody::from(text),
    });
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    no_store(response.headers_mut());
    response
}

/// No cache may answer for a decision.
fn no_store(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

fn not_allowed(methods: &'static str) -> HttpAnswer {
    let answer = Answer::undecided(StatusCode::METHOD_NOT_ALLOWED, "The path has no such method.");
    let mut response = problem(&answer);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}
