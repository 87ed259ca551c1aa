//! A token's bearer over HTTP: directly, and through a gateway that names its address.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use portcullis::grpc::proto::{ClientSource, TokenKind};
use sqlx::{Connection as _, PgConnection};

use super::http1::{Answer, Connection};
use super::stage::{INSIDE, OUTSIDE, Stage, bearer};
use crate::support::client::Client;
use crate::support::postgres;
use crate::support::server::Setup;
use crate::support::wait::until;

fn own(stage: &Stage, method: &str, secret: &str, more: &[(&str, &str)]) -> Answer {
    let authorization = bearer(secret);
    let own = [("Authorization", &*authorization)];
    stage.send(method, "/self", &[&own, more].concat(), "")
}

/// The reason in the body of problem details.
fn refused(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status);
    (answer.status, problem["reason"].as_str().unwrap().to_owned())
}

/// Rules 11.20 and 11.25.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_are_bounded_also_once_their_clients_have_gone_away() {
    let url = postgres::database();
    let stage = Stage::over(Setup::postgres(&url)).await;
    // In memory, so that its bearer waits for nothing but the store.
    let (_, other) = stage.operator.token(&stage.account, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(own(&stage, "GET", &other, &[]).status, 200);
    let mut lock = PgConnection::connect(&url).await.unwrap();
    let locked = "BEGIN; LOCK TABLE token IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(locked).execute(&mut lock).await.unwrap();
    let head = format!(
        "GET /self HTTP/1.1\r\nHost: portcullis\r\nAuthorization: {}\r\n\r\n",
        bearer(&stage.reader)
    );
    // One more each time: a question meanwhile may have taken the last place.
    let mut waiting = Vec::new();
    let refusal = until(
        || {
            let mut connection = stage.connect();
            connection.write(head.as_bytes());
            waiting.push(connection);
            own(&stage, "GET", &other, &[])
        },
        |answer| answer.status == 503,
    );
    drop(waiting);
    assert_eq!(refused(&refusal), (503, "UNDECIDED".to_owned()));
    assert_eq!(refusal.header("retry-after"), Some("1"));
    for _ in 0..3 {
        assert_eq!(own(&stage, "GET", &other, &[]).status, 503);
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    until(|| own(&stage, "GET", &stage.reader, &[]).status, |status| *status == 200);
}

/// Rules 11.22, 11.23 and 11.25.
#[tokio::test(flavor = "multi_thread")]
async fn the_bearer_reads_and_revokes_its_token_in_json() {
    let stage = Stage::new().await;
    let answer = own(&stage, "GET", &stage.reader, &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let token = &answer.json()["token"];
    assert_eq!(token["token_id"], *stage.reader_token.token_id);
    assert_eq!(
        (&token["kind"], &token["state"]),
        (&"TOKEN_KIND_READ_ONLY".into(), &"TOKEN_STATE_ACTIVE".into())
    );
    assert!(token["granted_scopes"].as_array().unwrap().contains(&"transactions.read".into()));

    for _ in 0..2 {
        let answer = own(&stage, "DELETE", &stage.reader, &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["token"]["state"], "TOKEN_STATE_DELETED");
        assert_eq!(answer["propagation"]["complete"], true);
    }
    let answer = own(&stage, "GET", &stage.reader, &[]);
    assert_eq!(refused(&answer), (401, "TOKEN_DELETED".to_owned()));
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer realm=\"portcullis\", error=\"invalid_token\""));
    assert_eq!(stage.ask(&[("Authorization", &bearer(&stage.reader))]).reason(), "TOKEN_DELETED");

    let answer = stage.send("GET", "/self", &[], "");
    assert_eq!(refused(&answer), (401, "TOKEN_MALFORMED".to_owned()));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"portcullis\""));
    let answer = own(&stage, "POST", &stage.reader, &[]);
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, DELETE")));
}

/// Rule 11.24.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_gateway_its_client_source_names_the_bearer_s_address() {
    let stage = Stage::new().await;
    let denied = (403, "CLIENT_IP_NOT_WHITELISTED".to_owned());
    let ask = |more: &[(&str, &str)]| own(&stage, "GET", &stage.writer, more);
    // Directly, what the client writes is not believed.
    assert_eq!(refused(&ask(&[("X-Forwarded-For", INSIDE)])), denied);
    let pep = ("Portcullis-Credential", &*stage.pep);
    assert_eq!(ask(&[pep, ("X-Forwarded-For", INSIDE)]).status, 200);
    assert_eq!(refused(&ask(&[pep, ("X-Forwarded-For", OUTSIDE)])), denied);
    assert_eq!(refused(&ask(&[pep])), (403, "CLIENT_IP_MISSING".to_owned()));
    let wrong = ("Portcullis-Credential", "nobody");
    let unidentified = (403, "GATEWAY_NOT_IDENTIFIED".to_owned());
    assert_eq!(refused(&ask(&[wrong, ("X-Forwarded-For", INSIDE)])), unidentified);

    let source = ClientSource {
        address_header: "X-Real-Ip".to_owned(),
        token_header: "X-Api-Key".to_owned(),
        ..Default::default()
    };
    let gateway = stage.gateway(source).await;
    let headers = [
        ("Portcullis-Credential", &*gateway),
        ("X-Real-Ip", INSIDE),
        ("X-Api-Key", &*stage.writer),
    ];
    assert_eq!(stage.send("GET", "/self", &headers, "").status, 200);

    // Nobody's word about the gateway keeps a bearer from revoking.
    assert_eq!(own(&stage, "DELETE", &stage.writer, &[wrong]).status, 200);
    let (_, secret) =
        stage.operator.token(&stage.account, TokenKind::ReadWrite, &[], &[INSIDE]).await;
    let revoke = own(&stage, "DELETE", &secret, &[pep, ("X-Forwarded-For", OUTSIDE)]);
    assert_eq!(revoke.status, 200, "{revoke:?}");
    let event = stage.operator.audit().await.pop().unwrap();
    assert_eq!((&*event.actor_role, &*event.client_address), ("bearer", OUTSIDE));
}

/// Rule 11.21.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_limited_by_the_address_that_the_gateway_names() {
    let stage = Stage::over(Setup::sqlite()).await;
    let pep = ("Portcullis-Credential", &*stage.pep);
    let ask =
        |secret: &str, from: &str| own(&stage, "GET", secret, &[pep, ("X-Forwarded-For", from)]);
    let unknown = (401, "TOKEN_NOT_FOUND".to_owned());
    let first = ask("x", OUTSIDE);
    assert_eq!(refused(&first), unknown);
    for at in 1..20 {
        let other = ask(&format!("a secret, number {at}"), OUTSIDE);
        assert_eq!((other.status, &other.body), (401, &first.body));
    }
    let limited = ask("x", OUTSIDE);
    assert_eq!(refused(&limited), (429, "TOO_MANY_FAILURES".to_owned()));
    assert_eq!(limited.header("retry-after"), Some("300"));
    assert_eq!(refused(&ask("x", INSIDE)), unknown);
    assert_eq!(ask(&stage.reader, OUTSIDE).status, 200);
}

/// Rule 11.24.
#[tokio::test(flavor = "multi_thread")]
async fn development_server_takes_the_address_from_the_header_or_else_the_peer() {
    let server = Setup::sqlite().without_operator().switch("--dev").start();
    let anyone = Client::connect(server.grpc(), "x").await.anonymous();
    let account = anyone.account().await.account_id;
    let (_, inside) = anyone.token(&account, TokenKind::ReadWrite, &[], &[INSIDE]).await;
    let (_, here) = anyone.token(&account, TokenKind::ReadWrite, &[], &["127.0.0.1"]).await;
    let status = |secret: &str, forwarded: Option<&str>| {
        let authorization = bearer(secret);
        let mut headers = vec![("Authorization", &*authorization)];
        headers.extend(forwarded.map(|address| ("X-Forwarded-For", address)));
        Connection::open(server.gateway()).send("GET", "/self", &headers, "").status
    };
    assert_eq!((status(&inside, Some(INSIDE)), status(&inside, Some(OUTSIDE))), (200, 403));
    assert_eq!((status(&inside, None), status(&here, None)), (403, 200));
    assert_eq!(status(&here, Some(INSIDE)), 403);
}
