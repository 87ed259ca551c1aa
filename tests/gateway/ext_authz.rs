//! Envoy's `ext_authz` over HTTP, as Envoy asks: the client's own method and path behind `/ext-authz`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use portcullis::grpc::proto::ClientSource;

use super::http1::Answer;
use super::stage::{INSIDE, OUTSIDE, Stage, bearer};

fn check(stage: &Stage, method: &str, path: &str, more: &[(&str, &str)]) -> Answer {
    let own = [("Portcullis-Credential", &*stage.pep)];
    stage.send(method, &format!("/ext-authz{path}"), &[&own, more].concat(), "")
}

/// Rule 9.10 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn decision_is_that_of_authorize_for_the_clients_own_method_and_path() {
    let stage = Stage::new().await;
    for (method, path) in [
        ("GET", "/api/v1/transactions"),
        ("HEAD", "/api/v1/transactions?a=b"),
        ("POST", "/api/v1/cards"),
        ("get", "/api/v1/transactions"),
        ("GET", "/api/v1/transactions/"),
        ("GET", "/api/v1//transactions"),
        ("GET", "/api/v1/%74ransactions"),
        ("GET", "/api/v1/Transactions"),
        ("GET", "/api/v1/transactions;x"),
        ("GET", "/../forward-auth"),
        ("GET", "/forward-auth"),
        ("GET", "api/v1/transactions"),
        ("GET", ""),
        ("GET", "?a"),
    ] {
        for (token, client) in
            [(&stage.reader, INSIDE), (&stage.writer, INSIDE), (&stage.writer, OUTSIDE)]
        {
            let headers = [("Authorization", &*bearer(token)), ("X-Forwarded-For", client)];
            let answer = check(&stage, method, path, &headers);
            if path.is_empty() {
                // Envoy always names a path.
                assert_eq!(answer.outcome(), (403, "UNDECIDED"));
                assert!(answer.body.contains("nothing behind /ext-authz"), "{answer:?}");
                continue;
            }
            let same = stage.authorize(token, client, method, path).await;
            assert_eq!(answer.reason(), same, "{method} {path}");
            assert_eq!(answer.status == 200, same == "ALLOWED");
        }
    }
}

/// Rules 9.10 and 9.11 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_name_another_method_or_path_are_denied() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let ask = |name: &str, value: &str| {
        let headers = [("Authorization", &*token), (name, value)];
        check(&stage, "GET", "/api/v1/transactions?a", &headers).reason().to_owned()
    };
    for name in ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Uri", "X-Original-URI"] {
        assert_eq!(ask(name, "/api/v1/transactions"), "ALLOWED", "{name}");
        assert_eq!(ask(name, "/api/v1/cards"), "REQUEST_AMBIGUOUS", "{name}");
    }
    for name in ["X-HTTP-Method-Override", "X-Forwarded-Method", "X-Original-Method"] {
        assert_eq!(ask(name, "GET"), "ALLOWED", "{name}");
        assert_eq!(ask(name, "POST"), "REQUEST_AMBIGUOUS", "{name}");
    }
    assert_eq!(ask("X_Forwarded_For", INSIDE), "REQUEST_AMBIGUOUS");
}

/// Rule 9.12 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn no_decision_is_403_so_that_envoy_never_counts_an_error() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let path = "/ext-authz/api/v1/transactions";
    for credential in [&[][..], &[("Portcullis-Credential", "wrong")]] {
        let headers = [&[("Authorization", &*token)], credential].concat();
        let answer = stage.send("GET", path, &headers, "");
        assert_eq!(answer.outcome(), (403, "UNDECIDED"));
        assert_eq!(answer.json()["status"], 403);
    }
    stage.revoke_pep().await;
    let answer = check(&stage, "GET", "/api/v1/transactions", &[("Authorization", &token)]);
    assert_eq!(answer.outcome(), (403, "UNDECIDED"));
}

/// Rule 9.3 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn token_that_must_not_go_on_is_named_to_envoy_on_an_allow() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let plain = stage.gateway(ClientSource::default()).await;
    let source = |token_header: &str| ClientSource {
        token_header: token_header.to_owned(),
        forward_token: Some(false),
        ..Default::default()
    };
    let (usual, own) = (stage.gateway(source("")).await, stage.gateway(source("X-Key")).await);
    for (pep, header, path, removed) in [
        (&plain, "Authorization", "/api/v1/transactions", None),
        (&usual, "Authorization", "/api/v1/transactions", Some("authorization")),
        (&own, "X-Key", "/api/v1/transactions", Some("x-key")),
        (&usual, "Authorization", "/nowhere", None),
    ] {
        let headers = [("Portcullis-Credential", &**pep), (header, &*token)];
        let answer = stage.send("GET", &format!("/ext-authz{path}"), &headers, "");
        assert_eq!(answer.header("x-envoy-auth-headers-to-remove"), removed, "{header} {path}");
        assert_eq!(answer.status == 200, path != "/nowhere");
    }
}
