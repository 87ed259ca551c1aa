//! Envoy's external authorization (`ext_authz` v3): `envoy.service.auth.v3.Authorization/Check`.
//! Rules: docs/policy.md, section 9.
//!
//! It goes the way of `Authorize` (`super::unary`): nothing here waits, spawns or locks for a token that is in memory.
//!
//! # Invariants
//! - The decision is that of `Authorize` for the same token, address, method and path.
//! - Every call is answered with a message, whatever happens (rules 9.12 and 9.17): a gRPC error would obey Envoy's
//!   `failure_mode_allow`.

mod wire;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use prost::bytes::Bytes;
use smallvec::SmallVec;
use tonic::Code;
use tonic::body::Body;

use self::wire::CheckInput;
use super::authorization::Authorization;
use super::gate::CallerCredential;
use super::status::denial_code;
use super::unary::response;
use crate::gateway::answer::{
    Answer, HEADERS, NONE, Origin, PROBLEM, allow_values, expires_soon, is_warning,
};
use crate::gateway::request::{ClientRequest, OverrideHeaders, Reader, Target, token_header};
use crate::policy::client_source::ClientSource;
use crate::policy::decide::{Decision, Verdict};
use crate::service::decisions::{AuthorizeInput, Call, RequestedOperation};
use crate::service::{Error, Result, Services};
use crate::telemetry::request_id::{self, REQUEST_ID};
use crate::telemetry::traces::TraceHeaders;

/// The path of the call.
pub(super) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What the client of the gateway learns where there is no decision.
const NO_DECISION: &str = "No decision could be reached about this request. Try again later.";
/// Bytes of an ordinary answer.
const USUAL: usize = 768;

/// How Envoy is answered.
#[derive(Debug, Clone)]
pub struct EnvoySettings {
    /// How long a decision may take where the call names no deadline (`grpc-timeout`).
    pub check_timeout: Duration,
    /// Headers that must not differ from the request (Rule 9.11).
    pub overrides: Arc<OverrideHeaders>,
}

impl EnvoySettings {
    /// How long a decision may take of which the caller says that it waits for `asked`: a fifth is left for the way back
    /// (Rule 9.17).
    pub(super) fn time_for_decision(&self, asked: Option<Duration>) -> Duration {
        asked.map_or(self.check_timeout, |asked| asked / 5 * 4)
    }
}

/// The answer where no decision was reached. `cause` is for the gateway's operators.
fn undecided(cause: &str) -> Vec<u8> {
    // So that the call's metadata have an id, as errors of other calls do.
    let _ = request_id::current();
    let answer = Answer::undecided(StatusCode::SERVICE_UNAVAILABLE, NO_DECISION);
    let metadata = [
        ("decision", answer.reason().as_bytes()),
        ("reason", answer.reason().as_bytes()),
        ("cause", cause.as_bytes()),
    ];
    refusal(&answer, Code::Unavailable, cause, &metadata)
}

/// The same as the answer to a call.
pub(super) fn no_decision(error: &Error) -> Response<Body> {
    response(&undecided(&error.to_string()))
}

/// The same where the time for a decision has passed.
pub(super) fn too_late() -> Response<Body> {
    response(&undecided(
        "the decision took longer than four fifths of the time that the gateway waits",
    ))
}

/// The answer to a call that does not have one message which can be read.
pub(super) fn unreadable(status: &tonic::Status) -> Vec<u8> {
    undecided(status.message())
}

/// An answer that lets nothing pass.
fn refusal<const N: usize>(
    answer: &Answer,
    code: Code,
    message: &str,
    metadata: &wire::Metadata<'_, N>,
) -> Vec<u8> {
    let own = [
        (CONTENT_TYPE, PROBLEM),
        // What is denied now may be allowed in a second.
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let headers: SmallVec<[(HeaderName, HeaderValue); 4]> = answer.headers().chain(own).collect();
    let headers = headers.iter().map(|(name, value)| (name, value));
    let body = answer.problem();
    let mut out = Vec::with_capacity(USUAL + body.len());
    let (status, body) = (answer.status(), body.as_bytes());
    wire::put_refusal(code, message, status, headers, body, metadata, &mut out);
    out
}

/// What a gateway asks about its client, read and not yet decided.
struct CheckQuestion<'a> {
    client: ClientRequest<'a>,
    /// The client's address as text; empty where it is missing.
    address: String,
    scope: Option<&'a str>,
    dry_run: bool,
}

impl<'a> CheckQuestion<'a> {
    fn new(
        input: &CheckInput<'a>,
        source: &ClientSource,
        overrides: &OverrideHeaders,
    ) -> Result<Self> {
        let peer =
            input.source.and_then(|text| std::str::from_utf8(text).ok()?.parse::<IpAddr>().ok());
        let target = Target::Own { method: input.method, path: input.path };
        let mut client = Reader { source, overrides, peer }
            .read(input.headers.iter().copied(), target)
            .map_err(|missing| Error::invalid("request.http", "REQUIRED", missing))?;
        if let Some(sentence) = input.ambiguity() {
            client.ambiguity.get_or_insert_with(|| sentence.to_owned());
        }
        // Rule 9.5: it starts at the gateway's peer. One without an address, as on a Unix socket, may have written any
        // header itself.
        let address = client.address.filter(|_| peer.is_some());
        Ok(Self {
            address: address.map_or_else(String::new, |address| address.to_string()),
            client,
            scope: input.scope,
            dry_run: input.dry_run,
        })
    }

    fn input(&self) -> AuthorizeInput<'_> {
        let operation = match (&self.client.ambiguity, self.scope) {
            (Some(sentence), _) => RequestedOperation::Ambiguous(sentence),
            (None, Some(scope)) => RequestedOperation::Scope(scope),
            (None, None) => {
                RequestedOperation::Http { method: &self.client.method, path: &self.client.path }
            }
        };
        AuthorizeInput {
            token: self.client.token.secret(),
            presented: self.client.token.presented(),
            client_ip: &self.address,
            operation,
            dry_run: self.dry_run,
            at_least_as_fresh: 0,
        }
    }

    /// The answer with a decision.
    fn answer(
        &self,
        decision: &Decision<'_>,
        input: &CheckInput<'_>,
        source: &ClientSource,
        services: &Services,
    ) -> Vec<u8> {
        let reason = decision.verdict.reason().word();
        let token = decision.token;
        let mut metadata = [
            ("decision", &b"DENY"[..]),
            ("reason", reason.as_bytes()),
            ("token_id", token.map_or(&[], |token| token.id.text())),
            ("account_id", token.map_or(&[], |token| token.account_id.text())),
            ("scope", decision.required.map_or(&[], |scope| scope.name.as_str().as_bytes())),
        ];
        if let Verdict::Deny(_) = decision.verdict {
            let answer =
                Answer::decided(decision, &self.client.token, Origin::Gateway(source), || {
                    services.calendar()
                });
            let code = denial_code(decision.verdict.reason());
            return refusal(&answer, code, answer.detail(), &metadata);
        }
        metadata[0].1 = b"ALLOW";
        let values = allow_values(decision, || services.calendar());
        let none = NONE;
        let values = values.map(|value| value.unwrap_or(Cow::Borrowed(none.as_bytes())));
        let names = HEADERS;
        let headers =
            || names.iter().map(HeaderName::as_str).zip(values.iter().map(|value| &**value));
        let expires_soon = expires_soon(decision, || services.calendar());
        let warnings = headers().filter(|(name, value)| is_warning(name, value, expires_soon));
        let remove = removed(input, source);
        let mut out = Vec::with_capacity(USUAL);
        wire::put_allow(headers(), remove, warnings, &metadata, &mut out);
        out
    }
}

/// The headers that the service does not get: the client's token where it must not be forwarded (Rule 9.3), and what a
/// client sends as if it were from here.
fn removed<'a>(
    input: &'a CheckInput<'_>,
    source: &'a ClientSource,
) -> impl Iterator<Item = &'a str> {
    let token = token_header(source);
    let forged =
        input.headers.iter().map(|(name, _)| *name).filter(|name| {
            name.starts_with("portcullis-") && !HEADERS.iter().any(|own| own == *name)
        });
    (!source.forward_token).then_some(token).into_iter().chain(forged)
}

/// A header of the client's request, which Envoy sends in the message and not with the call.
fn client_header<'a>(input: &CheckInput<'a>, name: &str) -> Option<&'a [u8]> {
    input.headers.iter().find(|(header, _)| *header == name).map(|&(_, value)| value)
}

/// Takes over the id of the client's request where the call has none.
fn adopt_request_id(input: &CheckInput<'_>) {
    if let Some(id) = client_header(input, REQUEST_ID.as_str()) {
        request_id::adopt(id);
    }
}

impl Authorization {
    /// Answers `Check`: always with a message.
    pub(super) async fn check(
        &self,
        message: Bytes,
        presented: CallerCredential,
        call: Option<Box<Call>>,
    ) -> Vec<u8> {
        let answer = if Self::is_large_request(&message) {
            let this = self.clone();
            let length = message.len();
            let work = async move { this.check_message(&message, presented, call).await };
            self.apart(length, work).await
        } else {
            self.check_message(&message, presented, call).await
        };
        answer.unwrap_or_else(|error| undecided(&error.to_string()))
    }

    async fn check_message(
        &self,
        message: &[u8],
        presented: CallerCredential,
        mut call: Option<Box<Call>>,
    ) -> Result<Vec<u8>> {
        match self.check_from_memory(message, presented, call.as_deref_mut())? {
            Some(answer) => Ok(answer),
            // In a box: what a read needs is large, and hits would carry it around.
            None => Box::pin(self.check_from_store(message, presented, call.as_deref())).await,
        }
    }

    fn check_from_memory(
        &self,
        message: &[u8],
        presented: CallerCredential,
        mut call: Option<&mut Call>,
    ) -> Result<Option<Vec<u8>>> {
        let services = self.services();
        let input = wire::parse(message).map_err(|error| self.undecided(error))?;
        if let Some(call) = &mut call {
            call.add(TraceHeaders::read(|name| client_header(&input, name)));
            adopt_request_id(&input);
        }
        let call = call.as_deref();
        presented.with_client_source(services, |source| {
            let question = CheckQuestion::new(&input, source, self.overrides())
                .map_err(|error| self.undecided(error))?;
            let Some(context) = services.decision_context(call) else { return Ok(None) };
            let authorize = question.input();
            let decision = context.evaluate(&authorize)?;
            Ok(decision.map(|decision| question.answer(&decision, &input, source, services)))
        })
    }

    async fn check_from_store(
        &self,
        message: &[u8],
        presented: CallerCredential,
        call: Option<&Call>,
    ) -> Result<Vec<u8>> {
        let services = self.services();
        let input = wire::parse(message)?;
        let question = presented.with_client_source(services, |source| {
            CheckQuestion::new(&input, source, self.overrides())
        })?;
        adopt_request_id(&input);
        let authorize = question.input();
        let evaluation = services.evaluate_with_store(&authorize, call).await?;
        let decision = evaluation.decision(&authorize)?;
        // A credential that was revoked meanwhile decides nothing more (Rule 8.5).
        presented.with_client_source(services, |source| {
            Ok(question.answer(&decision, &input, source, services))
        })
    }
}
