//! What an operator does with grpcurl, who has reflection and a credential, and no proto file.

#![allow(clippy::expect_used, reason = "a failure here is the test's failure")]

use std::process::Command;

use crate::support::server::{Server, Setup};
use crate::support::tools::{fail, grpcurl, succeed};
use serde_json::{Value, json};

#[test]
fn reflection_tells_what_there_is() {
    let server = Setup::sqlite().start();

    let services = succeed(as_operator(&server).arg(address(&server)).arg("list"));
    for service in [
        "portcullis.v1.AuthorizationService",
        "portcullis.v1.TokenService",
        "portcullis.v1.AccountService",
        "portcullis.v1.CatalogService",
        "portcullis.v1.CredentialService",
        "portcullis.v1.WebhookService",
        "grpc.health.v1.Health",
    ] {
        assert!(services.lines().any(|line| line == service), "{service} is not among\n{services}");
    }

    let described = succeed(as_operator(&server).args([
        &address(&server),
        "describe",
        "portcullis.v1.AuthorizationService",
    ]));
    for part in [
        "rpc Authorize ( .portcullis.v1.AuthorizeRequest ) returns ( .portcullis.v1.AuthorizeResponse );",
        "rpc BatchAuthorize (",
        "rpc StreamAuthorize ( stream .portcullis.v1.StreamAuthorizeRequest )",
        // The comments of the proto files come along.
        "A denial is an ordinary response.",
    ] {
        assert!(described.contains(part), "no `{part}` in\n{described}");
    }
    let calls = succeed(as_operator(&server).args([
        &address(&server),
        "list",
        "portcullis.v1.TokenService",
    ]));
    assert!(calls.contains("portcullis.v1.TokenService.PreviewLifecycle"), "{calls}");
}

#[test]
fn a_token_is_made_and_decided_on() {
    let server = Setup::sqlite().start();

    let account = call(
        &server,
        "portcullis.v1.AccountService/CreateAccount",
        &json!({ "name": "Acme", "admin_emails": ["ada@example.com"] }),
    );
    let token = call(
        &server,
        "portcullis.v1.TokenService/CreateToken",
        &json!({
            "account_id": account["account"]["accountId"],
            "name": "grpcurl",
            "kind": "TOKEN_KIND_READ_WRITE",
            "whitelist": ["192.0.2.0/24"],
        }),
    );
    let question = |client_ip| {
        json!({
            "token": token["secret"],
            "client_ip": client_ip,
            "http": { "method": "GET", "path": "/api/v1/cards/42/reveal" },
        })
    };

    let allowed =
        call(&server, "portcullis.v1.AuthorizationService/Authorize", &question("192.0.2.7"));
    assert_eq!(allowed["decision"], "DECISION_ALLOW", "{allowed:#}");
    assert_eq!(allowed["reason"], "REASON_ALLOWED");
    assert_eq!(allowed["tokenId"], token["token"]["tokenId"]);
    assert_eq!(allowed["requiredScope"], "cards.reveal");
    assert_eq!(allowed["matchedEntry"], "192.0.2.0/24");

    let denied =
        call(&server, "portcullis.v1.AuthorizationService/Authorize", &question("198.51.100.1"));
    assert_eq!(denied["decision"], "DECISION_DENY", "{denied:#}");
    assert_eq!(denied["reason"], "REASON_CLIENT_IP_NOT_WHITELISTED");
}

#[test]
fn without_a_credential_there_is_no_reflection() {
    let server = Setup::sqlite().start();
    for command in [["list"].as_slice(), &["describe", "portcullis.v1.TokenService"]] {
        let refusal = fail(plaintext().arg(address(&server)).args(command));
        assert!(refusal.contains("Unauthenticated"), "{refusal}");
    }
}

#[test]
fn health_needs_no_credential() {
    let server = Setup::sqlite().start();
    // grpcurl learns of the message by reflection, which does need one; the call itself goes without.
    let health = succeed(
        plaintext()
            .arg("-reflect-header")
            .arg(authorization(&server))
            .args([&address(&server), "grpc.health.v1.Health/Check"]),
    );
    let health: Value = serde_json::from_str(&health).expect("JSON");
    assert_eq!(health, json!({ "status": "SERVING" }));
}

fn call(server: &Server, method: &str, request: &Value) -> Value {
    let answer = succeed(
        as_operator(server).args(["-d", &request.to_string()]).args([&address(server), method]),
    );
    serde_json::from_str(&answer).expect("JSON")
}

fn plaintext() -> Command {
    let mut command = grpcurl();
    command.args(["-plaintext", "-max-time", "30"]);
    command
}

fn as_operator(server: &Server) -> Command {
    let mut command = plaintext();
    command.arg("-H").arg(authorization(server));
    command
}

fn authorization(server: &Server) -> String {
    format!("authorization: Bearer {}", server.operator())
}

fn address(server: &Server) -> String {
    server.grpc().to_string()
}
