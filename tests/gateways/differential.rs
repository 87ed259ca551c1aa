//! Hostile requests through real gateways give the decision that `Authorize` gives for what the gateway's service
//! receives (Rule 9.10 of docs/policy.md), in both directions:
//!
//! - what reached the service is asked about as the service received it, and must be allowed;
//! - what was denied is sent again through the same gateway without authorization, to learn what the service would have
//!   received; `Authorize` must deny that, or the request must be ambiguous (Rules 9.10 and 9.11).
//!
//! What the gateway refuses itself is counted apart. `PORTCULLIS_TEST_GATEWAY_REQUESTS` sets how many requests are sent.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use portcullis::grpc::proto::{
    AuthorizeRequest, AuthorizeResponse, Decision, HttpOperation, authorize_request,
};
use tokio::runtime::Handle;

use super::exchange::Head;
use super::hostile::{self, Hostile};
use super::process::{Changes, Gateway, Kind};
use super::stage::{Outcome, Stage, send};
use super::upstream::Upstream;
use crate::lifecycle::rng::Rng;
use crate::support::client::Client;

/// Requests in CI. tests/long/run sends more.
const REQUESTS: usize = 2_000;
/// Requests under way at once.
const WORKERS: usize = 6;
/// A request from here on may have more headers, or longer ones, than can be asked about: no decision.
const OVERSIZED: usize = 6_000;

/// Headers that name another method or path for some services.
const OVERRIDES: [&str; 9] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-forwarded-method",
    "x-forwarded-uri",
    "x-original-method",
    "x-original-uri",
];

/// What became of the requests.
#[derive(Debug, Default)]
struct Counts {
    allowed: usize,
    denied: usize,
    /// Of the denied: as ambiguous, where `Authorize` allows what the service would have received.
    ambiguous: usize,
    /// Portcullis denied it, and without authorization the gateway refuses it.
    denied_and_refused: usize,
    /// The gateway refused it, with and without authorization: by the status that it gave, 0 for none.
    refused: BTreeMap<u16, usize>,
    /// No decision, because the request is too large, or has what no header or target may have (RFC 9110, section 5.5;
    /// RFC 9112, section 3.2).
    undecided: usize,
}

/// The gateways, and whom to ask.
struct Comparison {
    upstream: Upstream,
    guarded: Gateway,
    unguarded: Gateway,
    client: Client,
    runtime: Handle,
}

impl Comparison {
    /// Compares one request; an error describes the difference.
    fn compare(&self, hostile: &Hostile, counts: &Mutex<Counts>) -> Result<(), String> {
        let outcome = send(&self.upstream, &self.guarded, hostile.from, &hostile.request);
        let status = outcome.answer.as_ref().map_or(0, |answer| answer.status);
        let count = |add: fn(&mut Counts, u16)| {
            add(&mut counts.lock().unwrap(), status);
            Ok(())
        };
        if let [received, ..] = &outcome.received[..] {
            let decision = self.authorize(received, hostile.from)?;
            if decision.decision() != Decision::Allow {
                return Err(format!(
                    "allowed, but {}: {received:?}",
                    decision.reason().as_str_name()
                ));
            }
            if must_be_denied(received) {
                return Err(format!("allowed with an override header: {received:?}"));
            }
            let own = ["portcullis-token-id", "portcullis-scope"].map(|name| received.one(name));
            if own != [decision.token_id.as_str(), decision.required_scope.as_str()] {
                return Err(format!("another identity than {decision:?}: {received:?}"));
            }
            return count(|counts, _| counts.allowed += 1);
        }
        let passed = send(&self.upstream, &self.unguarded, hostile.from, &hostile.request);
        if reason(&passed).is_some() {
            return Err(format!("the gateway without authorization asks Portcullis: {passed:?}"));
        }
        let Some(received) = passed.received.first() else {
            return match reason(&outcome) {
                // What the gateway's router refuses comes after its authorization in some gateways.
                Some(_) => count(|counts, _| counts.denied_and_refused += 1),
                None => count(|counts, status| *counts.refused.entry(status).or_default() += 1),
            };
        };
        match reason(&outcome) {
            Some(denial) if denial != "UNDECIDED" => {
                let decision = self.authorize(received, hostile.from)?;
                if decision.decision() != Decision::Allow {
                    return count(|counts, _| counts.denied += 1);
                }
                if denial == "REQUEST_AMBIGUOUS" && may_be_ambiguous(received) {
                    return count(|counts, _| counts.ambiguous += 1);
                }
                Err(format!("denied as {denial}, but Authorize allows {received:?}"))
            }
            _ if hostile.request.len() > OVERSIZED
                || headers(&hostile.request) > 60
                || has_control(&hostile.request)
                || !is_target(received.target()) =>
            {
                count(|counts, _| counts.undecided += 1)
            }
            _ => Err(format!(
                "no decision: {:?}, but the service would get {received:?}",
                outcome.answer
            )),
        }
    }

    /// What `Authorize` decides on a request that a service received.
    fn authorize(&self, received: &Head, from: Ipv4Addr) -> Result<AuthorizeResponse, String> {
        let request = AuthorizeRequest {
            token: token(received).unwrap_or_default(),
            client_ip: from.to_string(),
            operation: Some(authorize_request::Operation::Http(HttpOperation {
                method: escaped(received.method()),
                path: escaped(received.target()),
            })),
            dry_run: true,
            ..AuthorizeRequest::default()
        };
        let answer = self.runtime.block_on(self.client.authorization().authorize(request));
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(format!("Authorize: {status} about {received:?}")),
        }
    }
}

/// The token of a request as Rule 9.9 describes it; none where there is no single one.
fn token(received: &Head) -> Option<String> {
    let values = received.all("authorization");
    let [value] = values[..] else { return None };
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_ascii();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    Some(token.strip_prefix("secret-token:").unwrap_or(token).to_owned())
}

/// Text of bytes: those that are not UTF-8 as their escapes.
fn escaped(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map(str::to_owned).unwrap_or_else(|_| {
        bytes.iter().fold(String::new(), |mut text, &byte| {
            if byte.is_ascii() {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
            text
        })
    })
}

/// Whether a header names another method or path than the request, for a service that follows it.
fn must_be_denied(received: &Head) -> bool {
    let path =
        |target: &[u8]| target.split(|&byte| byte == b'?').next().unwrap_or_default().to_vec();
    received.headers().any(|(name, value)| match name {
        "x-http-method-override" | "x-http-method" | "x-method-override" => {
            value != received.method()
        }
        "x-original-url" | "x-rewrite-url" => path(value) != path(received.target()),
        _ => false,
    })
}

/// Whether there is a header for which a request may be denied that is allowed without it.
fn may_be_ambiguous(received: &Head) -> bool {
    received.headers().any(|(name, _)| name.contains('_') || OVERRIDES.contains(&name))
}

/// The reason that Portcullis gave, where the answer is its own.
fn reason(outcome: &Outcome) -> Option<&str> {
    outcome.answer.as_ref()?.head.all("portcullis-reason").first().copied()
}

/// Whether a byte is there that HTTP allows nowhere. nginx passes it on, and Portcullis refuses the request.
fn has_control(request: &[u8]) -> bool {
    request.iter().any(|&byte| byte.is_ascii_control() && !b"\r\n\t".contains(&byte))
}

/// Whether it has a form that a target of a GET or POST may have (RFC 9112, section 3.2). Of `api:v1/cards` Caddy sends
/// `v1/cards`, to the service and to Portcullis alike, which refuses it.
fn is_target(target: &[u8]) -> bool {
    target.starts_with(b"/") || target.windows(3).any(|part| part == b"://")
}

fn headers(request: &[u8]) -> usize {
    request.iter().filter(|&&byte| byte == b'\n').count()
}

/// Sends `total` requests through a gateway with `replaced` in its files; what became of them, and each difference.
async fn compare_all(
    kind: Kind,
    replaced: &'static [(&'static str, &'static str)],
    total: usize,
) -> (Counts, Vec<String>) {
    let stage = Stage::new().await;
    let (_, credential) = stage.credential(kind.client_source());
    let backends = stage.backends(&credential);
    let comparison = Comparison {
        upstream: stage.upstream.clone(),
        guarded: Gateway::start_with(kind, &backends, Changes { replaced, unguarded: false }),
        unguarded: Gateway::start_with(kind, &backends, Changes { replaced: &[], unguarded: true }),
        client: Client::connect(backends.grpc, stage.server.operator()).await,
        runtime: Handle::current(),
    };
    let requests: Vec<_> =
        (0..total).map(|seed| hostile::request(&mut Rng(seed as u64), &stage)).collect();
    let (next, counts, differences) =
        (AtomicUsize::new(0), Mutex::default(), Mutex::new(Vec::new()));
    tokio::task::block_in_place(|| {
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let Some(hostile) = requests.get(seed) else { return };
                        if let Err(difference) = comparison.compare(hostile, &counts) {
                            let request = String::from_utf8_lossy(&hostile.request);
                            let text = format!("seed {seed}: {difference}\n{request}");
                            differences.lock().unwrap().push(text);
                        }
                    }
                });
            }
        });
    });
    (counts.into_inner().unwrap(), differences.into_inner().unwrap())
}

async fn gives_the_decision_of_authorize(kind: Kind) {
    let total = env::var("PORTCULLIS_TEST_GATEWAY_REQUESTS")
        .map_or(REQUESTS, |count| count.parse().expect("a number"));
    let (counts, differences) = compare_all(kind, &[], total).await;
    println!("{kind:?}, {total} requests: {counts:?}");
    let shown: Vec<_> = differences.iter().take(10).cloned().collect();
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), shown.join("\n"));
    // A comparison of requests that are all refused would find nothing.
    assert!(counts.allowed > total / 20, "{counts:?}");
    assert!(counts.denied > total / 10, "{counts:?}");
}

/// A check that can't fail checks nothing: with nginx's own reading of the path, and with an address that the client
/// chooses, there are differences.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_configurations_are_found() {
    let wrong: [&'static [(&str, &str)]; 2] = [
        &[("X-Original-URI $request_uri", "X-Original-URI $uri")],
        &[("X-Forwarded-For $remote_addr", "X-Forwarded-For $http_x_forwarded_for")],
    ];
    for replaced in wrong {
        let (counts, differences) = compare_all(Kind::Nginx, replaced, REQUESTS).await;
        assert!(!differences.is_empty(), "{replaced:?}: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_gives_the_decision_of_authorize() {
    gives_the_decision_of_authorize(Kind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_gives_the_decision_of_authorize() {
    gives_the_decision_of_authorize(Kind::Caddy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_gives_the_decision_of_authorize() {
    gives_the_decision_of_authorize(Kind::Traefik).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_over_grpc_gives_the_decision_of_authorize() {
    gives_the_decision_of_authorize(Kind::EnvoyGrpc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_over_http_gives_the_decision_of_authorize() {
    gives_the_decision_of_authorize(Kind::EnvoyHttp).await;
}
