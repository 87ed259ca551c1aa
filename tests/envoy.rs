//! Envoy's external authorization over gRPC: what a gateway does with each answer, and that every call has one.
//! (tests/gateways has a real Envoy.)

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure; how long an answer took is part of the test"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use portcullis::grpc::proto::{
    AuthorizeRequest, ClientSource, CreateCredentialRequest, Decision, DeleteTokenRequest,
    GetTokenRequest, RevokeCredentialRequest, Role, TokenKind, authorize_request,
};
use prost::Message as _;
use sqlx::{Connection as _, PgConnection};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::support::calls::credential;
use crate::support::client::Client;
use crate::support::envoy::{
    Address, CheckRequest, CheckResponse, Gateway, HeaderMap, HeaderValue, Outcome, Pipe, Question,
    address, http, outcome,
};
use crate::support::postgres::{self, Cluster};
use crate::support::raw::Raw;
use crate::support::server::{Server, Setup, random_credential};
use crate::support::wait::until_async;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const PATH: &str = "/api/v1/transactions";
const SERVICE_HEADERS: [&str; 6] = [
    "portcullis-token-id",
    "portcullis-account-id",
    "portcullis-scope",
    "portcullis-reason",
    "portcullis-pending-action",
    "portcullis-token-expires",
];
/// gRPC codes.
const PERMISSION_DENIED: i32 = 7;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// A server that is given time: how long calls take is the subject of some tests only.
fn patient() -> Setup {
    Setup::sqlite().flag("--check-timeout", "5s")
}

struct Stage {
    server: Server,
    operator: Client,
    account: String,
}

impl Stage {
    async fn new(setup: Setup) -> Self {
        let server = setup.start();
        let operator = Client::operator(&server).await;
        let account = operator.account().await.account_id;
        Self { server, operator, account }
    }

    async fn gateway(&self, source: Option<ClientSource>) -> (Gateway, String) {
        let request = CreateCredentialRequest {
            role: Role::Pep.into(),
            name: "gateway".to_owned(),
            client_source: source,
            ..Default::default()
        };
        let made =
            self.operator.credentials().create_credential(request).await.unwrap().into_inner();
        let gateway = Gateway::connect(self.server.grpc(), &made.secret).await;
        (gateway, made.credential.unwrap().credential_id)
    }

    async fn token(
        &self,
        kind: TokenKind,
        scopes: &[&str],
        whitelist: &[&str],
    ) -> (String, String) {
        let (token, secret) = self.operator.token(&self.account, kind, scopes, whitelist).await;
        (token.token_id, secret)
    }
}

fn get(token: &str) -> Question {
    Question::bearer(token, "203.0.113.7", "GET", PATH)
}

/// That nothing was decided, and nothing passes.
#[track_caller]
fn assert_undecided(outcome: &Outcome, cause: &str) {
    assert!(!outcome.allowed);
    assert_eq!((outcome.code, outcome.status), (UNAVAILABLE, 503), "{outcome:?}");
    assert_eq!(outcome.header("portcullis-reason"), Some("UNDECIDED"));
    assert_eq!(outcome.metadata("reason"), "UNDECIDED");
    assert!(outcome.metadata("cause").contains(cause), "`{cause}` is not the cause: {outcome:?}");
    // The client learns nothing of it.
    assert!(outcome.body.contains("\"reason\":\"UNDECIDED\""), "{outcome:?}");
    assert!(!outcome.body.contains(outcome.metadata("cause")), "{outcome:?}");
}

/// Rules 9.14 and 9.18.
#[tokio::test]
async fn an_allow_has_every_header_each_replacing_what_the_client_sent() {
    let stage = Stage::new(patient()).await;
    let (gateway, _) = stage.gateway(None).await;
    let (id, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let forged = SERVICE_HEADERS
        .iter()
        .fold(get(&secret), |question, name| question.header(name, "forged").header(name, "twice"));
    let forged = forged.header("portcullis-other", "forged");
    for (question, removed) in [(get(&secret), &[][..]), (forged, &["portcullis-other"][..])] {
        let outcome = gateway.ask(&question).await;
        assert!(outcome.allowed, "{outcome:?}");
        let values = [&id, &stage.account, "transactions.read", "ALLOWED", "none", "none"];
        let wanted: Vec<_> = SERVICE_HEADERS
            .iter()
            .zip(values)
            .map(|(name, value)| ((*name).to_owned(), value.to_owned()))
            .collect();
        assert_eq!(outcome.headers, wanted);
        assert_eq!(outcome.removed, removed);
        assert_eq!(outcome.warnings, []);
        let metadata = ["decision", "reason", "token_id", "account_id", "scope"];
        let metadata = metadata.map(|name| outcome.metadata(name).to_owned());
        assert_eq!(metadata, ["ALLOW", "ALLOWED", &id, &stage.account, "transactions.read"]);
    }
}

/// Rules 9.3 and 9.9.
#[tokio::test]
async fn the_token_is_read_where_the_credential_says_and_removed_where_it_must_not_go_on() {
    let stage = Stage::new(patient()).await;
    let (_, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let removing = ClientSource { forward_token: Some(false), ..Default::default() };
    let (gateway, _) = stage.gateway(Some(removing.clone())).await;
    let outcome = gateway.ask(&get(&secret)).await;
    assert!(outcome.allowed);
    assert_eq!(outcome.removed, ["authorization"]);

    let own = ClientSource { token_header: "X-Api-Key".to_owned(), ..removing };
    let (gateway, _) = stage.gateway(Some(own)).await;
    let outcome = gateway.ask(&get("nonsense").header("x-api-key", &secret)).await;
    assert!(outcome.allowed);
    assert_eq!(outcome.removed, ["x-api-key"]);
    assert_eq!(gateway.ask(&get(&secret)).await.metadata("reason"), "TOKEN_MALFORMED");
}

/// Rule 9.13: each reason with its status. A wrong one of these would be an allow, or a login prompt for nothing.
#[tokio::test]
async fn each_denial_has_its_code_status_and_problem() {
    let stage = Stage::new(patient()).await;
    let (gateway, _) = stage.gateway(None).await;
    let (_, open) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let (_, tied) = stage.token(TokenKind::ReadWrite, &[], &["192.0.2.0/24"]).await;
    let (gone_id, gone) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let delete = DeleteTokenRequest { token_id: gone_id, no_wait: false };
    stage.operator.tokens().delete_token(delete).await.unwrap();
    let mut from_a_socket = get(&tied).message();
    let attributes = from_a_socket.attributes.as_mut().unwrap();
    let pipe =
        address::Address::Pipe(Pipe { path: "/run/envoy.sock".to_owned(), ..Default::default() });
    attributes.source.as_mut().unwrap().address = Some(Address { address: Some(pipe) });

    let without_token = Question { headers: Vec::new(), ..get("") };
    for (message, reason, code, challenge) in [
        (without_token.message(), "TOKEN_MALFORMED", 401, "Bearer realm=\"portcullis\""),
        (get("nonsense").message(), "TOKEN_MALFORMED", 401, "error=\"invalid_token\""),
        (get(&format!("{open}x")).message(), "TOKEN_MALFORMED", 401, "error=\"invalid_token\""),
        (get(&gone).message(), "TOKEN_DELETED", 401, "error=\"invalid_token\""),
        (
            Question { method: "POST".to_owned(), ..get(&open) }.message(),
            "NO_MATCHING_ROUTE",
            403,
            "",
        ),
        (
            Question { path: "/api/v1/Transactions/../transactions".to_owned(), ..get(&open) }
                .message(),
            "NO_MATCHING_ROUTE",
            403,
            "",
        ),
        (
            get(&open).header("x-http-method-override", "DELETE").message(),
            "REQUEST_AMBIGUOUS",
            403,
            "",
        ),
        (
            get(&open).extension("scope", "cards.reveal").message(),
            "SCOPE_NOT_GRANTED",
            403,
            "error=\"insufficient_scope\", scope=\"cards.reveal\"",
        ),
        (get(&tied).message(), "CLIENT_IP_NOT_WHITELISTED", 403, ""),
        (from_a_socket, "CLIENT_IP_MISSING", 403, ""),
    ] {
        let outcome = gateway.check(message).await;
        assert!(!outcome.allowed);
        assert_eq!(outcome.metadata("reason"), reason, "{outcome:?}");
        assert_eq!(outcome.status, code, "{outcome:?}");
        assert_eq!(outcome.code, if code == 401 { UNAUTHENTICATED } else { PERMISSION_DENIED });
        assert_eq!(outcome.header("portcullis-reason"), Some(reason));
        assert_eq!(outcome.header("content-type"), Some("application/problem+json"));
        let header = outcome.header("www-authenticate").unwrap_or_default();
        assert!(
            header.contains(challenge) && header.is_empty() == challenge.is_empty(),
            "{header}"
        );
        let problem: serde_json::Value = serde_json::from_str(&outcome.body).unwrap();
        assert_eq!((&problem["status"], &problem["reason"]), (&code.into(), &reason.into()));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert_eq!(outcome.metadata("decision"), "DENY");
        assert!(outcome.removed.is_empty() && outcome.warnings.is_empty());
    }
}

/// Rules 9.1, 9.12 and 9.17, for who calls and what: an error of gRPC would let the request pass where Envoy may fail open.
#[tokio::test]
async fn whatever_is_wrong_with_a_call_it_is_answered_and_lets_nothing_pass() {
    let stage = Stage::new(patient()).await;
    let address = stage.server.grpc();
    let (gateway, _) = stage.gateway(None).await;
    let (_, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    assert!(gateway.ask(&get(&secret)).await.allowed);

    let admin = credential(&stage.operator, Role::AccountAdmin, &stage.account).await.1;
    for (credential, cause) in [
        ("", "needs a credential"),
        (&random_credential(), "is not valid: mistyped, expired, or revoked"),
        (&secret, "is not valid"),
        (&admin, "needs a credential of role pep"),
        (stage.server.operator(), "needs a credential of role pep"),
    ] {
        let other = Gateway::connect(address, credential).await;
        assert_undecided(&other.ask(&get(&secret)).await, cause);
    }
    let mut twice = gateway.request(get(&secret).message());
    twice.metadata_mut().append("authorization", "Bearer other".parse().unwrap());
    assert_undecided(&gateway.try_check(twice).await.unwrap(), "more than one authorization");
    let mut basic = gateway.request(get(&secret).message());
    basic.metadata_mut().insert("authorization", "Basic other".parse().unwrap());
    assert_undecided(&gateway.try_check(basic).await.unwrap(), "not of the form");

    let mut zipped = gateway.request(get(&secret).message());
    zipped.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
    assert_undecided(&gateway.try_check(zipped).await.unwrap(), "is compressed");

    let mut large = get(&secret).message();
    http(&mut large).raw_body = vec![7; 5 << 20];
    assert_undecided(&gateway.check(large.clone()).await, "is larger than 4194304 bytes");
    // One that is worked on apart from the threads of the connections, in contrast.
    http(&mut large).raw_body = vec![7; 1 << 20];
    assert!(gateway.check(large).await.allowed);

    let named = |name: &str| {
        let mut message = get(&secret).message();
        http(&mut message).headers.insert(name.to_owned(), "value".to_owned());
        message
    };
    let mut no_path = get(&secret);
    no_path.path.clear();
    for (message, cause) in [
        (Default::default(), "is required"),
        (no_path.message(), "http.path: is required"),
        (named("Authorization"), "not in lower case"),
        (named(""), "not in lower case"),
        (get(&secret).extension("scope", "no.such").message(), "the catalogue has no scope"),
        (get(&secret).extension("scope", "").message(), "no name of one"),
        (get(&secret).extension("scope", " cards.reveal").message(), "white space around it"),
        (get(&secret).extension("dry_run", "yes").message(), "other than \"true\" or \"false\""),
    ] {
        assert_undecided(&gateway.check(message).await, cause);
    }

    let (_, pep) = credential(&stage.operator, Role::Pep, "").await;
    let (raw, bearer) = (Raw::connect(address).await, format!("Bearer {pep}"));
    let message = Bytes::from(get(&secret).message().encode_to_vec());
    for (messages, cause) in [
        (vec![], "no message"),
        (vec![message.slice(..message.len() - 1)], "cut off"),
        (vec![Bytes::from_static(b"\xff\xff")], "no message"),
        (vec![message.clone(), message.clone()], "takes one message"),
    ] {
        let mut answers = raw.exchange(CHECK, Some(&bearer), messages).await.expect("an answer");
        let answer = answers.message().await.expect("no error of gRPC").expect("a message");
        assert_undecided(&outcome(&CheckResponse::decode(answer).unwrap()), cause);
    }
}

/// Rule 8.5: with the answer to the revocation, the gateway gets no decision any more, and no error of gRPC.
#[tokio::test]
async fn a_credential_that_is_revoked_decides_nothing_from_then_on() {
    let stage = Stage::new(patient()).await;
    let (gateway, id) = stage.gateway(None).await;
    let (_, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    assert!(gateway.ask(&get(&secret)).await.allowed);
    let revoke = RevokeCredentialRequest { credential_id: id, no_wait: false };
    stage.operator.credentials().revoke_credential(revoke).await.unwrap();
    assert_undecided(&gateway.ask(&get(&secret)).await, "not valid: mistyped, expired, or revoked");
}

/// Rules 9.9, 9.10, 9.11 and 9.19, in both families of headers.
#[tokio::test]
async fn what_a_service_may_read_in_another_way_is_denied() {
    let stage = Stage::new(patient()).await;
    let (gateway, _) = stage.gateway(None).await;
    let (_, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let (_, other) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    for (name, value, reason) in [
        ("authorization", &*format!("Bearer {other}"), "TOKEN_MALFORMED"),
        ("authorization", &*format!("Bearer {secret}"), "TOKEN_MALFORMED"),
        ("x-original-url", "/api/v1/cards", "REQUEST_AMBIGUOUS"),
        ("x-rewrite-url", "/api/v1/cards", "REQUEST_AMBIGUOUS"),
        ("x-http-method", "POST", "REQUEST_AMBIGUOUS"),
        ("x-forwarded-uri", "/api/v1/cards", "REQUEST_AMBIGUOUS"),
        ("portcullis_token_id", "forged", "REQUEST_AMBIGUOUS"),
        ("x_http_method_override", "POST", "REQUEST_AMBIGUOUS"),
        ("x-http-method-override", "GET", "ALLOWED"),
        ("x-original-url", PATH, "ALLOWED"),
        ("x-request-id", "7", "ALLOWED"),
    ] {
        let outcome = gateway.ask(&get(&secret).header(name, value)).await;
        assert_eq!(outcome.metadata("reason"), reason, "{name}: {value}");
        assert_eq!(outcome.allowed, reason == "ALLOWED");
    }

    let reason = async |message| gateway.check(message).await.metadata("reason").to_owned();
    // A header in both families, and one with two values.
    let mut both = get(&secret).message();
    let header = |key: &str, value: &str, raw: &str| HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        raw_value: raw.as_bytes().to_vec(),
    };
    let map = |header| Some(HeaderMap { headers: vec![header] });
    http(&mut both).header_map = map(header("x-request-id", "", "7"));
    assert_eq!(reason(both.clone()).await, "REQUEST_AMBIGUOUS");
    let token = format!("Bearer {secret}");
    http(&mut both).header_map = map(header("authorization", "", &token));
    assert_eq!(reason(both.clone()).await, "TOKEN_MALFORMED");
    http(&mut both).headers.clear();
    assert_eq!(reason(both.clone()).await, "ALLOWED");
    http(&mut both).header_map = map(header("authorization", &token, ""));
    assert_eq!(reason(both.clone()).await, "ALLOWED");
    let two_values = header("x-request-id", "7", "8");
    let headers = vec![header("authorization", "", &token), two_values];
    http(&mut both).header_map = Some(HeaderMap { headers });
    assert_eq!(reason(both).await, "REQUEST_AMBIGUOUS");

    // The path and method that the gateway names must be the client's.
    for (name, value) in
        [(":path", "/api/v1/cards"), (":method", "POST"), (":path", "/api/v1/transactions?x")]
    {
        let mut message = get(&secret).message();
        http(&mut message).headers.insert(name.to_owned(), value.to_owned());
        assert_eq!(reason(message).await, "REQUEST_AMBIGUOUS", "{name}: {value}");
    }
    // Envoy writes `!` for what is no UTF-8; only raw headers tell whether the client did.
    let exclaimed = Question { path: "/api/v1/account/a!b".to_owned(), ..get(&secret) };
    assert_eq!(reason(exclaimed.message()).await, "REQUEST_AMBIGUOUS");
    assert_eq!(reason(exclaimed.raw_message()).await, "ALLOWED");
    let queried = Question { path: format!("{PATH}?a!b=c"), ..get(&secret) };
    assert_eq!(gateway.ask(&queried).await.metadata("reason"), "ALLOWED");
    let mut replaced = exclaimed.raw_message();
    let headers = &mut http(&mut replaced).header_map.as_mut().unwrap().headers;
    let path = headers.iter_mut().find(|header| header.key == ":path").unwrap();
    path.raw_value = b"/api/v1/account/a\xffb".to_vec();
    assert_eq!(reason(replaced).await, "REQUEST_AMBIGUOUS");
}

/// Rule 9.5: what a client writes into the header never becomes its address.
#[tokio::test]
async fn the_address_starts_at_the_peer_that_envoy_reports() {
    let stage = Stage::new(patient()).await;
    let (_, tied) = stage.token(TokenKind::ReadWrite, &[], &["198.51.100.9"]).await;
    let source = ClientSource {
        address_header: "X-Forwarded-For".to_owned(),
        trusted_proxies: vec!["10.0.0.0/8".to_owned()],
        ..Default::default()
    };
    let (behind, _) = stage.gateway(Some(source)).await;
    let (direct, _) = stage.gateway(None).await;
    for (gateway, source, forwarded, allowed) in [
        (&direct, "198.51.100.9", "", true),
        (&direct, "::ffff:198.51.100.9", "", true),
        (&direct, "203.0.113.7", "198.51.100.9", false),
        (&direct, "10.0.0.1", "198.51.100.9", false),
        (&behind, "198.51.100.9", "203.0.113.7", true),
        (&behind, "10.0.0.1", "198.51.100.9", true),
        (&behind, "10.0.0.1", "203.0.113.7, 198.51.100.9, 10.0.0.2", true),
        (&behind, "10.0.0.1", "198.51.100.9, 203.0.113.7", false),
        (&behind, "203.0.113.7", "198.51.100.9", false),
        (&behind, "not an address", "198.51.100.9", false),
        (&behind, "", "198.51.100.9", false),
    ] {
        let mut question = Question { source: source.to_owned(), ..get(&tied) };
        if !forwarded.is_empty() {
            question = question.header("x-forwarded-for", forwarded);
        }
        let outcome = gateway.ask(&question).await;
        assert_eq!(outcome.allowed, allowed, "{source}, {forwarded}: {outcome:?}");
    }
}

/// Rule 9.16: a route's configuration may name a scope, and say that its requests are no use.
#[tokio::test]
async fn a_route_may_name_a_scope_and_be_a_dry_run() {
    let stage = Stage::new(patient().flag("--usage-flush-interval", "50ms")).await;
    let (gateway, _) = stage.gateway(None).await;
    let (id, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let elsewhere = Question { path: "/not/in/the/catalogue".to_owned(), ..get(&secret) };
    assert_eq!(gateway.ask(&elsewhere).await.metadata("reason"), "NO_MATCHING_ROUTE");
    let scoped = elsewhere.extension("scope", "transactions.read").extension("dry_run", "true");
    let outcome = gateway.ask(&scoped).await;
    assert!(outcome.allowed, "{outcome:?}");
    assert_eq!(outcome.header("portcullis-scope"), Some("transactions.read"));
    // Such a header means as much to the service as without the extension.
    let overridden = scoped.clone().header("x-http-method-override", "DELETE");
    assert_eq!(gateway.ask(&overridden).await.metadata("reason"), "REQUEST_AMBIGUOUS");

    let last_use = async || {
        let request = GetTokenRequest { token_id: id.clone() };
        let token = stage.operator.tokens().get_token(request).await.unwrap().into_inner();
        token.token.unwrap().last_use_time
    };
    let (_, marker) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let written = stage.server.metric("portcullis_uses_recorded_total").unwrap();
    assert!(gateway.ask(&get(&marker)).await.allowed);
    until_async(
        async || stage.server.metric("portcullis_uses_recorded_total").unwrap(),
        |now| *now > written,
    )
    .await;
    assert_eq!(last_use().await, None, "a dry run counted");
    assert!(gateway.ask(&get(&secret)).await.allowed);
    until_async(last_use, Option::is_some).await;
}

/// Rule 9.17. The time that is left for the way back is a fifth: Envoy's own timeout would be an error that it may fail open with.
#[tokio::test]
async fn a_read_that_takes_too_long_is_answered_in_time() {
    let url = postgres::database();
    let mut stage = Stage::new(Setup::postgres(&url).flag("--check-timeout", "800ms")).await;
    let (_, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let (_, pep) = credential(&stage.operator, Role::Pep, "").await;
    stage.server.restart();
    let gateway = Gateway::connect(stage.server.grpc(), &pep).await;
    let mut holder = PgConnection::connect(&url).await.unwrap();
    for statement in ["BEGIN", "LOCK TABLE token IN ACCESS EXCLUSIVE MODE"] {
        sqlx::query(statement).execute(&mut holder).await.unwrap();
    }
    for (asked, within) in [(Some(500), 400), (None, 800)] {
        let mut request = gateway.request(get(&secret).message());
        if let Some(asked) = asked {
            request.set_timeout(Duration::from_millis(asked));
        }
        let began = Instant::now();
        let outcome = gateway.try_check(request).await.expect("an answer before the deadline");
        assert_undecided(&outcome, "took longer than four fifths");
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(within - 5), "it gave up after {took:?}");
    }
    sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
    let outcome = until_async(
        async || gateway.check(get(&secret).message()).await,
        |outcome: &Outcome| outcome.allowed,
    );
    outcome.await;
}

/// Rule 9.12: the store gone for longer than the lease.
#[tokio::test]
async fn without_a_lease_every_call_is_answered_and_nothing_passes() {
    let cluster = Cluster::new(false);
    let setup =
        Setup::postgres(&cluster.database()).flag("--lease", "2s").flag("--check-timeout", "400ms");
    let stage = Stage::new(setup).await;
    let (gateway, _) = stage.gateway(None).await;
    let (_, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let check = async || gateway.check(get(&secret).message()).await;
    until_async(check, |outcome| outcome.allowed).await;
    cluster.kill();
    until_async(check, |outcome| !outcome.allowed).await;
    let unknown = Gateway::connect(stage.server.grpc(), &random_credential()).await;
    for _ in 0..10 {
        for gateway in [&gateway, &unknown] {
            assert_undecided(&gateway.check(get(&secret).message()).await, "");
        }
    }
}

/// Callers that are not known and never end their requests get an answer each, and in time.
#[tokio::test]
async fn strangers_who_hold_their_requests_open_are_answered() {
    let server = patient().start();
    let raw = Raw::connect(server.grpc()).await;
    let mut open = Vec::new();
    let mut answers = Vec::new();
    // More than may wait on one connection.
    for _ in 0..40 {
        let (sender, messages) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        open.push(sender);
        answers.push(raw.open(CHECK, &[], UnboundedReceiverStream::new(messages)));
    }
    for answers in futures_util::future::join_all(answers).await {
        let answer =
            answers.expect("an answer").message().await.expect("no error of gRPC").unwrap();
        assert_undecided(&outcome(&CheckResponse::decode(answer).unwrap()), "needs a credential");
    }
}

/// A generator of questions (xorshift64*), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.next()).unwrap() % of.len()]
    }
}

/// Rule 9.17, for bytes that no gateway sends. What is allowed is what a protobuf library reads in them.
#[tokio::test]
async fn changed_bytes_are_answered_and_allow_nothing_that_they_do_not_say() {
    let stage = Stage::new(patient()).await;
    let (gateway, _) = stage.gateway(None).await;
    let (_, secret) = stage.token(TokenKind::ReadOnly, &[], &[]).await;
    let (_, pep) = credential(&stage.operator, Role::Pep, "").await;
    let (raw, bearer) = (Raw::connect(stage.server.grpc()).await, format!("Bearer {pep}"));
    let question = get(&secret).header("x-request-id", "7").extension("dry_run", "true");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut allowed = 0;
    for round in 0..2_000 {
        let message = if round % 2 == 0 { question.message() } else { question.raw_message() };
        let mut bytes = message.encode_to_vec();
        for _ in 0..=random.next() % 2 {
            let place = usize::try_from(random.next()).unwrap() % bytes.len();
            let end = place + usize::try_from(random.next() % 8).unwrap().min(bytes.len() - place);
            match random.next() % 5 {
                0 => bytes.truncate(place.max(1)),
                1 => bytes[place] ^= 1 << (random.next() % 8),
                2 => bytes.insert(place, random.next() as u8),
                3 => drop(bytes.splice(place..end, [])),
                _ => bytes.extend_from_within(place..end),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        let answer = raw.call(CHECK, Some(&bearer), bytes.clone()).await;
        let answer = answer.unwrap_or_else(|status| panic!("{status:?} for {bytes:?}"));
        let outcome = outcome(&CheckResponse::decode(answer).unwrap());
        if outcome.allowed
            && let Ok(read) = CheckRequest::decode(&bytes[..])
        {
            allowed += 1;
            assert!(gateway.check(read.clone()).await.allowed, "{read:?}");
        }
    }
    assert!(allowed > 100, "hardly any question is still one: {allowed}");
}

/// What paths are made of: what the catalogue has, and what some servers read in another way.
const PIECES: [&str; 34] = [
    "/api",
    "/v1",
    "/transactions",
    "/account",
    "/cards",
    "/statements",
    "/7",
    "/a",
    "/",
    "//",
    "/.",
    "/..",
    "/%2e%2e",
    "%2f",
    "%5c",
    ";x",
    "%3b",
    "%253b",
    "%00",
    "%c0%af",
    "%ff",
    "\u{ff0f}",
    "%ef%bc%8f",
    "\u{17f}",
    "/TRANSACTIONS",
    ".json",
    ".",
    "%20",
    "%23",
    "?q=1",
    "#f",
    "\\",
    "\u{e9}",
    "/api/v1/transactions",
];

/// Rule 9.1 and the heart of section 9: the decision is that of `Authorize`, in both directions.
#[tokio::test]
async fn the_decision_is_that_of_authorize() {
    let stage = Stage::new(patient()).await;
    let (gateway, _) = stage.gateway(None).await;
    let mut tokens = vec![String::new(), "nonsense".to_owned()];
    for (kind, scopes, whitelist) in [
        (TokenKind::ReadOnly, &[][..], &[][..]),
        (TokenKind::ReadWrite, &[], &["203.0.113.0/24"]),
        (
            TokenKind::Custom,
            &["transactions.read", "cards.reveal"],
            &["2001:db8::/32", "192.0.2.1"],
        ),
    ] {
        tokens.push(stage.token(kind, scopes, whitelist).await.1);
    }
    let methods = ["GET", "POST", "get", "PUT", "HEAD", "DELETE", "PATCH", "\u{e9}"];
    let sources = ["203.0.113.7", "192.0.2.1", "2001:db8::7", "::ffff:192.0.2.1", "198.51.100.1"];
    let seed = 0x9e37_79b9_7f4a_7c15;
    let mut random = Random(seed);
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..3_000 {
        let token = random.pick(&tokens).clone();
        let source = *random.pick(&sources);
        let method = *random.pick(&methods);
        let mut path =
            (*random.pick(&["/api/v1/transactions", "/api/v1", "/api/v1/account/7", ""]))
                .to_owned();
        for _ in 0..random.next() % 4 {
            let piece: &&str = random.pick(&PIECES);
            path.push_str(piece);
        }
        if path.is_empty() {
            path.push('/');
        }
        let question = Question::bearer(&token, source, method, &path);
        let outcome = gateway.check(question.raw_message()).await;
        let without_query = path.split('?').next().unwrap();
        let authorize = AuthorizeRequest {
            token,
            client_ip: source.to_owned(),
            operation: Some(authorize_request::Operation::Http(
                portcullis::grpc::proto::HttpOperation {
                    method: method.to_owned(),
                    path: if without_query.is_empty() { &path } else { without_query }.to_owned(),
                },
            )),
            ..Default::default()
        };
        let answer =
            stage.operator.authorization().authorize(authorize).await.unwrap().into_inner();
        let reason = answer.reason().as_str_name().trim_start_matches("REASON_").to_owned();
        assert_eq!(
            outcome.metadata("reason"),
            reason,
            "round {round}: {method} {path} from {source}"
        );
        assert_eq!(outcome.allowed, answer.decision() == Decision::Allow);
        let scope = outcome.metadata("scope");
        assert_eq!(scope, answer.required_scope, "round {round}: {method} {path}");
        *seen.entry(reason).or_insert(0) += 1;
    }
    assert!(seen.len() > 4, "the questions are all alike: {seen:?}");
}
