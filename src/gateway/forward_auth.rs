//! Forward auth (nginx `auth_request`, Caddy, Traefik, APISIX) and Envoy's `ext_authz` over HTTP: a request about each
//! request of the gateway's client, with its headers.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::answer::{Answer, Origin};
use super::body::{AnswerBody, discard};
use super::caller::{Identified, Presented};
use super::request::{Reader, Target, token_header};
use super::{
    CREDENTIAL, DEADLINE, HttpAnswer, Interface, Interfaces, PeerIdentity, Unidentified, in_time,
    no_store, problem, undecided,
};
use crate::policy::client_source::ClientSource;
use crate::policy::decide::Decision;
use crate::service::Result;
use crate::service::decisions::{AuthorizeInput, Call, RequestedOperation};

/// The path of forward auth, for any method.
pub(super) const FORWARD_AUTH: &str = "/forward-auth";
/// What the paths of Envoy's requests begin with; the rest is the client's own.
pub(super) const EXT_AUTHZ: &str = "/ext-authz";

/// Names the headers that Envoy takes off the request which goes on (`ext_authz`, HTTP service).
const HEADERS_TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

const NO_PATH: &str = "The path has nothing behind /ext-authz: the gateway has to append that of its client's request \
                       (path_prefix of Envoy).";

/// The share of its deadline that Envoy waits for an answer in, in percent.
const SHARE: u32 = 80;

impl Interfaces {
    pub(super) async fn forward_auth(
        &self,
        request: Request<Incoming>,
        peer: PeerIdentity,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        let (head, body) = request.into_parts();
        discard(&head.headers, body).await;
        let interface = Interface::ForwardAuth;
        let (answer, _) =
            self.ask(interface, &head.headers, peer, Target::Headers, DEADLINE, known).await;
        self.http_answer(interface, &answer)
    }

    pub(super) async fn ext_authz(
        &self,
        request: Request<Incoming>,
        peer: PeerIdentity,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        let (head, body) = request.into_parts();
        discard(&head.headers, body).await;
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let path = path.strip_prefix(EXT_AUTHZ).unwrap_or_default();
        // Envoy appends the client's path, which is never empty.
        if path.is_empty() {
            let answer = Answer::undecided(StatusCode::FORBIDDEN, NO_PATH);
            return self.http_answer(Interface::ExtAuthz, &answer);
        }
        let target = Target::Own { method: head.method.as_str().as_bytes(), path: path.as_bytes() };
        let limit = envoy_timeout(&head.headers).unwrap_or(self.settings.check_timeout);
        let interface = Interface::ExtAuthz;
        let (answer, source) = self.ask(interface, &head.headers, peer, target, limit, known).await;
        let mut response = self.http_answer(interface, &answer);
        // Rule 9.3 of docs/policy.md. Other gateways know no way to say it, so their configuration does.
        if let Some(source) = source.filter(|source| answer.is_allow() && !source.forward_token)
            && let Ok(name) = HeaderValue::from_str(token_header(&source))
        {
            response.headers_mut().insert(HEADERS_TO_REMOVE, name);
        }
        response
    }

    /// Decides on the request that `headers` describe, for the caller whose client source is with the answer.
    async fn ask(
        &self,
        interface: Interface,
        headers: &HeaderMap,
        peer: PeerIdentity,
        target: Target<'_>,
        limit: Duration,
        known: impl Fn() + Send,
    ) -> (Answer, Option<Arc<ClientSource>>) {
        let presented = Presented::read(
            headers.get_all(CREDENTIAL),
            peer.certificate,
            self.settings.development,
        );
        let none = status_without_decision(interface);
        let asked = in_time(limit, async {
            match self.identify(presented, known).await {
                Ok(Identified { source, credential }) => {
                    let call = self.begin_call(interface, credential, headers);
                    let call = call.as_deref();
                    let answer = self.decide_on(headers, target, &source, none, call).await?;
                    Ok((answer, Some(source)))
                }
                Err(Unidentified::Caller(error)) => {
                    Ok((Answer::undecided(none, error.to_string()), None))
                }
                Err(Unidentified::NotReady(error)) => Err(error),
            }
        });
        asked.await.unwrap_or_else(|error| (Answer::undecided(none, undecided(&error)), None))
    }

    async fn decide_on(
        &self,
        headers: &HeaderMap,
        target: Target<'_>,
        source: &ClientSource,
        none: StatusCode,
        call: Option<&Call>,
    ) -> Result<Answer> {
        let reader = Reader { source, overrides: &self.settings.overrides, peer: None };
        let all = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let client = match reader.read(all, target) {
            Ok(client) => client,
            Err(missing) => return Ok(Answer::undecided(none, missing.to_string())),
        };
        let address = client.address.map(|address| address.to_string());
        let input = AuthorizeInput {
            token: client.token.secret(),
            presented: client.token.presented(),
            client_ip: address.as_deref().unwrap_or_default(),
            operation: match &client.ambiguity {
                Some(sentence) => RequestedOperation::Ambiguous(sentence),
                None => RequestedOperation::Http { method: &client.method, path: &client.path },
            },
            dry_run: false,
            at_least_as_fresh: 0,
        };
        let calendar = || self.services.calendar();
        let origin = Origin::Gateway(source);
        let answer =
            |decision: &Decision<'_>| Answer::decided(decision, &client.token, origin, calendar);
        self.decide(&input, call, answer).await
    }

    fn http_answer(&self, interface: Interface, answer: &Answer) -> HttpAnswer {
        self.count(interface, answer.outcome());
        if !answer.is_allow() {
            return problem(answer);
        }
        let mut response = Response::new(AnswerBody::empty());
        response.headers_mut().extend(answer.headers());
        no_store(response.headers_mut());
        response
    }
}

/// The status of an answer without a decision.
fn status_without_decision(interface: Interface) -> StatusCode {
    match interface {
        // A 5xx counts as an error, and Envoy may let requests pass then.
        Interface::ExtAuthz => StatusCode::FORBIDDEN,
        // nginx answers its client 500 then, the others pass it on: none of them lets the request pass.
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// What is left of Envoy's own deadline to decide in.
fn envoy_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("x-envoy-expected-rq-timeout-ms")?.to_str().ok()?;
    let milliseconds: u32 = value.parse().ok()?;
    let asked = Duration::from_millis(milliseconds.into()) * SHARE / 100;
    Some(asked.min(DEADLINE))
}
