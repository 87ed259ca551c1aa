//! Traces: spans from the caller's own to the statement, for known callers alone, at a collector's convenience.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is the test's failure"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;

use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, GetTokenRequest, StreamAuthorizeRequest, TokenKind,
};
use tempfile::TempDir;
use tonic::Request;

use crate::support::client::{Client, question};
use crate::support::collector::{Collector, Seen};
use crate::support::http::Http;
use crate::support::server::{Server, Setup, random_credential};
use crate::support::tls::Authority;
use crate::support::wait::{until, until_async};
use crate::support::{postgres, tools};

const READ: &str = "transactions.read";
const CALLER: &str = "00f067aa0ba902b7";

/// The id of a trace for each purpose.
fn trace(number: u32) -> String {
    format!("4bf92f3577b34da6a3ce929d{number:08x}")
}

/// `message` within the caller's span of the trace.
fn within<T>(message: T, trace: &str, sampled: bool) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{trace}-{CALLER}-0{}", u8::from(sampled));
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=value".parse().unwrap());
    request
}

/// The one span with that name.
#[track_caller]
fn named<'a>(spans: &'a [Seen], name: &str) -> &'a Seen {
    let mut found = spans.iter().filter(|span| span.name == name);
    let one = found.next().unwrap_or_else(|| panic!("no span {name} in {spans:#?}"));
    assert!(found.next().is_none(), "two spans {name} in {spans:#?}");
    one
}

fn has(name: &str) -> impl Fn(&Vec<Seen>) -> bool {
    move |spans| spans.iter().any(|span| span.name == name)
}

/// Rule 15.4.
async fn calls_lead_from_the_caller_to_the_statement(
    setup: Setup,
    system: &str,
    placeholder: &str,
) {
    let collector = Collector::start().await;
    let mut server = collector.traced(setup).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;

    let read = GetTokenRequest { token_id: token.token_id.clone() };
    operator.tokens().get_token(within(read, &trace(1), true)).await.unwrap();
    let spans = collector.trace(&trace(1), has("GetToken")).await;
    let call = named(&spans, "GetToken");
    assert_eq!((&*call.parent, &*call.state), (CALLER, "vendor=value"));
    assert_eq!(call.attributes["rpc.method"], "GetToken");
    assert_eq!(call.attributes["rpc.grpc.status_code"], "0");
    let use_case = named(&spans, "token");
    assert_eq!(use_case.parent, call.id);
    let statement = spans.iter().find(|span| span.parent == use_case.id).expect("a statement");
    assert_eq!(statement.name, "SELECT");
    assert_eq!(statement.attributes["db.system.name"], system);
    let text = &statement.attributes["db.query.text"];
    assert!(text.contains("FROM token"), "{text}");
    assert!(text.ends_with(&format!("t.token_id = {placeholder}")), "no value: {text}");

    // A decision on a token that is not in memory.
    server.restart();
    let operator = Client::operator(&server).await;
    let ask = || question(&secret, "192.0.2.1", READ);
    for (number, spans_of) in [(2, 3), (3, 1)] {
        operator.authorization().authorize(within(ask(), &trace(number), true)).await.unwrap();
        let spans = collector.trace(&trace(number), has("Authorize")).await;
        let decision = named(&spans, "Authorize");
        assert_eq!(decision.parent, CALLER);
        assert_eq!(decision.attributes["portcullis.decision"], "ALLOW");
        assert_eq!(decision.attributes["portcullis.reason"], "ALLOWED");
        assert!(spans.len() >= spans_of && (spans_of > 1 || spans.len() == 1), "{spans:#?}");
        if number == 2 {
            let read = named(&spans, "token_facts");
            assert_eq!(read.parent, decision.id);
            let statement = spans.iter().find(|span| span.parent == read.id).expect("a statement");
            assert_eq!(statement.name, "SELECT");
        }
    }

    let denied = question(&secret, "192.0.2.1", "cards.reveal");
    let requests = vec![ask(), denied];
    let batch = within(BatchAuthorizeRequest { requests: requests.clone() }, &trace(4), true);
    operator.authorization().batch_authorize(batch).await.unwrap();
    let messages =
        requests.into_iter().map(|request| StreamAuthorizeRequest { request: Some(request) });
    let stream = tokio_stream::iter(messages.collect::<Vec<_>>());
    let stream = operator.authorization().stream_authorize(within(stream, &trace(5), true)).await;
    let mut answers = stream.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    for (number, name) in [(4, "BatchAuthorize"), (5, "StreamAuthorize")] {
        let spans = collector.trace(&trace(number), has(name)).await;
        let reasons: Vec<_> =
            named(&spans, name).events.iter().map(|event| &*event["portcullis.reason"]).collect();
        assert_eq!(reasons, ["ALLOWED", "SCOPE_NOT_GRANTED"], "{name}");
    }

    let raw = collector.raw();
    for secret in [secret.as_str(), server.operator()] {
        assert!(!raw.contains(secret), "a secret left the process");
    }
    until(|| server.metric("portcullis_spans_exported_total").unwrap(), |&count| count > 0);
    assert_eq!(server.metric("portcullis_spans_dropped_total"), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_lead_from_the_caller_to_the_statement_on_sqlite() {
    calls_lead_from_the_caller_to_the_statement(Setup::sqlite(), "sqlite", "?").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_lead_from_the_caller_to_the_statement_on_postgres() {
    let setup = Setup::postgres(&postgres::database());
    calls_lead_from_the_caller_to_the_statement(setup, "postgresql", "$1").await;
}

/// Rule 15.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_sampled_and_of_a_known_caller_is_traced() {
    let collector = Collector::start().await;
    let setup = Setup::sqlite().env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let server = collector.traced(setup).start();
    let operator = Client::operator(&server).await;
    let ask = || question("nothing", "192.0.2.1", READ);
    let read = || GetTokenRequest { token_id: "tok_1".to_owned() };

    let stranger = operator.with("wrong");
    stranger.authorization().authorize(within(ask(), &trace(1), true)).await.unwrap_err();
    stranger.tokens().get_token(within(read(), &trace(1), true)).await.unwrap_err();
    operator.authorization().authorize(within(ask(), &trace(2), false)).await.unwrap();
    operator.authorization().authorize(ask()).await.unwrap();
    operator.tokens().get_token(read()).await.unwrap_err();
    let mut malformed = Request::new(ask());
    malformed.metadata_mut().insert("traceparent", "00-1-2-01".parse().unwrap());
    operator.authorization().authorize(malformed).await.unwrap();

    // Whatever was recorded before this is there before it.
    operator.authorization().authorize(within(ask(), &trace(3), true)).await.unwrap();
    collector.trace(&trace(3), has("Authorize")).await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == trace(3)), "{spans:#?}");
    assert_eq!(named(&spans, "Authorize").attributes["portcullis.reason"], "TOKEN_MALFORMED");
}

/// Rules 15.3 and 15.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_traced_once_their_session_is_known() {
    let collector = Collector::start().await;
    let server = collector.traced(Setup::sqlite()).start();
    let mut browser = Http::new(&server);
    browser.get("/sign-in?next=hunter2");
    browser.get("/tokens?search=hunter2");
    let mut browser = Http::new(&server).sign_in(server.operator());
    browser.get("/tokens?search=hunter2").says(200);
    let spans = async || collector.spans();
    let pages = until_async(spans, has("GET /tokens")).await;
    let page = named(&pages, "GET /tokens");
    let wanted = BTreeMap::from([
        ("http.request.method", "GET"),
        ("http.route", "/tokens"),
        ("http.response.status_code", "200"),
    ]);
    for (name, value) in wanted {
        assert_eq!(page.attributes[name], value, "{page:#?}");
    }
    let spans = collector.trace(&page.trace, |spans| spans.len() > 2).await;
    assert!(spans.iter().any(|span| span.parent == page.id), "{spans:#?}");
    let traces: Vec<_> = collector.spans().into_iter().map(|span| span.trace).collect();
    assert!(traces.iter().all(|trace| *trace == page.trace), "strangers have no spans");
    assert!(!collector.raw().contains("hunter2"), "a query left the process");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_has_to_be_of_a_trusted_authority() {
    let home = TempDir::with_prefix("portcullis-traces-").unwrap();
    let (authority, other) = (Authority::new("collectors"), Authority::new("others"));
    let collector = Collector::start_tls(&authority.server()).await;
    for (trusted, taken) in [(&other, false), (&authority, true)] {
        let ca = home.path().join("ca.pem");
        fs::write(&ca, trusted.pem()).unwrap();
        let setup = Setup::sqlite()
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=for%20the%20collector");
        let server = collector.traced(setup).start();
        let operator = Client::operator(&server).await;
        operator.authorization().authorize(question("nothing", "192.0.2.1", READ)).await.unwrap();
        let [exported, dropped] = ["exported", "dropped"].map(|what| {
            let metric = format!("portcullis_spans_{what}_total");
            let server = &server;
            move || server.metric(&metric).unwrap() > 0
        });
        if taken {
            until(exported, |&some| some);
            assert!(collector.raw().contains("for the collector"), "its headers are sent");
        } else {
            until(dropped, |&some| some);
            assert!(!exported() && collector.raw().is_empty(), "{}", collector.raw());
        }
    }
}

/// Rule 15.5. A collector that is not there costs spans and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_dropped_and_counted_where_no_collector_takes_them() {
    let setup = Setup::sqlite()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env("OTEL_BSP_SCHEDULE_DELAY", "20");
    let server = setup.start();
    let operator = Client::operator(&server).await;
    for _ in 0..20 {
        let ask = AuthorizeRequest { ..question("nothing", "192.0.2.1", READ) };
        operator.authorization().authorize(ask).await.unwrap();
    }
    let dropped = |server: &Server| server.metric("portcullis_spans_dropped_total").unwrap();
    until(|| dropped(&server), |&count| count >= 20);
    until(|| server.stderr().matches("takes no spans").count(), |&count| count == 1);
}

/// A client of OpenTelemetry's own SDK, and a collector of its own service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_clients_span_leads_to_the_statement() {
    let operator = random_credential();
    let mut python = tools::python();
    python.arg(tools::source("tests/clients/python/traced.py")).env("TEST_CREDENTIAL", &operator);
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut python = python.spawn().unwrap();
    let mut printed = BufReader::new(python.stdout.take().unwrap());
    let mut port = String::new();
    printed.read_line(&mut port).unwrap();
    let mut server = Setup::postgres(&postgres::database())
        .operator(&operator)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", port.trim()))
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (token, secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    // So that the token is not in memory.
    server.restart();
    let mut input = python.stdin.take().unwrap();
    writeln!(input, "{}\n{}\n{secret}", server.grpc(), token.token_id).unwrap();
    let mut rest = String::new();
    printed.read_to_string(&mut rest).unwrap();
    assert!(python.wait().unwrap().success(), "{rest}\n{}", server.log());
    assert!(rest.ends_with("the whole trace held\n"), "{rest}");
}
