//! Through each gateway: what is allowed, and each kind of denial, as clients see them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::process::{Backends, Gateway, Kind};
use super::stage::{LISTED, Stage, UNLISTED};
use crate::support::wait;

/// What a client is to read where the gateway can pass it on.
async fn allows_and_denies(kind: Kind) {
    let stage = Stage::new().await;
    let gateway = stage.gateway(kind);
    let bearer = |name: &str| format!("Authorization: Bearer {}", stage.token(name));
    let ask = |from, line: &str, headers: &[&str]| stage.ask(&gateway, from, line, headers);

    // Allowed, with everything that the service may want to know.
    let outcome = ask(LISTED, "GET /api/v1/cards?limit=2", &[&bearer("write")]);
    let received = outcome.allowed();
    assert_eq!(received.target(), b"/api/v1/cards?limit=2");
    assert_eq!(received.one("portcullis-scope"), "cards.read");
    assert_eq!(received.one("portcullis-reason"), "ALLOWED");
    assert_eq!(received.one("portcullis-account-id"), stage.account_id());
    assert!(received.one("portcullis-token-id").starts_with("tok_"), "{received:?}");
    assert_eq!(received.one("portcullis-pending-action"), "none");
    assert_eq!(received.one("portcullis-token-expires"), "none");
    assert!(received.all("portcullis-credential").is_empty(), "{received:?}");

    // With a body, which is the service's alone.
    let request = format!(
        "POST /api/v1/cards HTTP/1.1\r\nHost: service.example\r\n{}\r\nContent-Length: 5\r\n\
         Connection: close\r\n\r\nhello",
        bearer("write")
    );
    let outcome = stage.send(&gateway, LISTED, request.as_bytes());
    assert_eq!(outcome.allowed().one("portcullis-scope"), "cards.create");

    // Other forms of the same token (Rule 9.3).
    let prefixed = format!("Authorization: Bearer secret-token:{}", stage.token("read"));
    ask(UNLISTED, "GET /api/v1/accounts", &[&prefixed]).allowed();
    ask(UNLISTED, "HEAD /api/v1/accounts", &[&bearer("read")]).allowed();

    // Each kind of denial.
    let outcome = ask(UNLISTED, "GET /api/v1/accounts", &[]);
    let challenge = outcome.denied(401, "TOKEN_MALFORMED").head.one("www-authenticate").to_owned();
    assert!(challenge.starts_with("Bearer"), "{challenge}");
    assert!(!challenge.contains("error"), "no token was sent, so there is no error: {challenge}");
    let outcome = ask(UNLISTED, "GET /api/v1/accounts", &["Authorization: Bearer garbage"]);
    let challenge = outcome.denied(401, "TOKEN_MALFORMED").head.one("www-authenticate").to_owned();
    assert!(challenge.contains(r#"error="invalid_token""#), "{challenge}");
    let outcome = ask(UNLISTED, "GET /api/v1/accounts", &[&bearer("deleted")]);
    outcome.denied(401, "TOKEN_DELETED");
    let twice = [&*bearer("read"), &*bearer("read")];
    // nginx refuses them itself.
    let outcome = ask(UNLISTED, "GET /api/v1/accounts", &twice);
    if kind == Kind::Nginx {
        assert_eq!(outcome.closed().status, 400, "{outcome:?}");
    } else {
        outcome.denied(401, "TOKEN_MALFORMED");
    }
    let outcome = ask(UNLISTED, "GET /api/v1/nothing", &[&bearer("read")]);
    outcome.denied(403, "NO_MATCHING_ROUTE");
    let outcome = ask(LISTED, "GET /api/v1/accounts", &[&bearer("custom")]);
    let answer = outcome.denied(403, "SCOPE_NOT_GRANTED");
    assert_eq!(answer.head.one("content-type"), "application/problem+json");
    assert!(answer.text().contains("SCOPE_NOT_GRANTED"), "{}", answer.text());
    let outcome = ask(UNLISTED, "GET /api/v1/cards", &[&bearer("write")]);
    outcome.denied(403, "CLIENT_IP_NOT_WHITELISTED");
    let overriding = [&*bearer("read"), "X-HTTP-Method-Override: DELETE"];
    ask(UNLISTED, "GET /api/v1/accounts", &overriding).denied(403, "REQUEST_AMBIGUOUS");
}

/// Without a header that names it, an interface over HTTP knows no address (Rule 9.4).
async fn knows_no_address_without_a_header(kind: Kind) {
    let stage = Stage::new().await;
    let (_, credential) = stage.credential(&[]);
    let gateway = Gateway::start(kind, &stage.backends(&credential));
    let bearer = format!("Authorization: Bearer {}", stage.token("write"));
    let outcome = stage.ask(&gateway, LISTED, "GET /api/v1/cards", &[&bearer]);
    outcome.denied(403, "CLIENT_IP_MISSING");
    let bearer = format!("Authorization: Bearer {}", stage.token("read"));
    stage.ask(&gateway, LISTED, "GET /api/v1/cards", &[&bearer]).allowed();
}

/// `--gateway-listen unix:`, as docs/gateways.md shows it.
#[tokio::test(flavor = "multi_thread")]
async fn nginx_asks_over_a_unix_socket() {
    let home = TempDir::new().unwrap();
    // Its workers run as nobody.
    fs::set_permissions(home.path(), Permissions::from_mode(0o711)).unwrap();
    let socket = home.path().join("gateways.sock");
    let listen = format!("unix:{}?mode=0666", socket.display());
    let mut stage = Stage::with(|setup| setup.flag("--gateway-listen", listen)).await;
    let (_, credential) = stage.credential(Kind::Nginx.client_source());
    let backends = Backends { http_socket: Some(socket), ..stage.backends(&credential) };
    let gateway = Gateway::start(Kind::Nginx, &backends);
    let bearer = format!("Authorization: Bearer {}", stage.token("write"));
    let ask = |stage: &Stage, from| stage.ask(&gateway, from, "GET /api/v1/cards", &[&bearer]);
    ask(&stage, LISTED).allowed();
    ask(&stage, UNLISTED).denied(403, "CLIENT_IP_NOT_WHITELISTED");
    assert!(stage.server.terminate().success());
    ask(&stage, LISTED).closed();
    stage.server.restart();
    wait::until(|| ask(&stage, LISTED).received.len(), |&reached| reached == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_allows_and_denies_with_the_reason() {
    allows_and_denies(Kind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caddy_allows_and_denies_with_the_reason() {
    allows_and_denies(Kind::Caddy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_allows_and_denies_with_the_reason() {
    allows_and_denies(Kind::Traefik).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_over_grpc_allows_and_denies_with_the_reason() {
    allows_and_denies(Kind::EnvoyGrpc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_over_http_allows_and_denies_with_the_reason() {
    allows_and_denies(Kind::EnvoyHttp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_knows_no_address_without_a_header() {
    knows_no_address_without_a_header(Kind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_over_http_knows_no_address_without_a_header() {
    knows_no_address_without_a_header(Kind::EnvoyHttp).await;
}
