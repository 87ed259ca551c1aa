//! Tokens that end or lose scopes, as services and clients behind each gateway see it (Rules 9.13 and 9.14).

use portcullis::grpc::proto::{
    ApplyCatalogRequest, CreateTokenRequest, GetTokenRequest, SetTokenExpiryRequest, Token,
    TokenKind, TokenState,
};

use super::process::{Gateway, Kind};
use super::stage::{LISTED, Outcome, Stage, UNLISTED};
use crate::support::client::Client;
use crate::support::smtp::Sink;
use crate::support::{tools, wait};

/// A scope that writes and needs no whitelist, with its place in the built-in catalogue, and a request for it.
const SCOPE: &str = "transactions.request";
const WITHOUT_WHITELIST: &str =
    "name = \"transactions.request\"\naccess = \"write\"\nrequires_whitelist = false";
const WITH_WHITELIST: &str =
    "name = \"transactions.request\"\naccess = \"write\"\nrequires_whitelist = true";
const WRITES: &str = "POST /api/v1/account/acc-1/request-send-money";
const READS: &str = "GET /api/v1/accounts";

/// All gateways in front of one server.
fn gateways(stage: &Stage) -> Vec<Gateway> {
    Kind::ALL.into_iter().map(|kind| stage.gateway(kind)).collect()
}

/// Asks with the token `secret`.
fn ask(stage: &Stage, gateway: &Gateway, line: &str, secret: &str) -> Outcome {
    let bearer = format!("Authorization: Bearer {secret}");
    let from = if line == WRITES { LISTED } else { UNLISTED };
    stage.ask(gateway, from, line, &[&bearer, "Content-Length: 0"])
}

/// That the service got a value of `header`, and the client the same where the gateway can pass it on: all but Traefik
/// can (docs/gateways.md).
#[track_caller]
fn warned(gateway: &Gateway, outcome: &Outcome, header: &str) -> String {
    let value = outcome.allowed().one(header).to_owned();
    assert_ne!(value, "none", "{:?}: {outcome:?}", gateway.kind);
    let warnings = outcome.answer().head.all(header);
    if gateway.kind == Kind::Traefik {
        assert!(warnings.is_empty(), "{outcome:?}");
    } else {
        assert_eq!(warnings, [value.as_str()], "{:?}: {outcome:?}", gateway.kind);
    }
    value
}

async fn state(operator: &Client, token: &Token) -> TokenState {
    let request = GetTokenRequest { token_id: token.token_id.clone() };
    let token = operator.tokens().get_token(request).await.unwrap().into_inner().token;
    token.unwrap().state()
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_gateway_warns_of_an_expiry_and_denies_with_its_reason() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let gateways = gateways(&stage);
    let create = CreateTokenRequest {
        account_id: stage.account_id().to_owned(),
        name: "short".to_owned(),
        kind: TokenKind::Custom.into(),
        scopes: vec!["accounts.depository.read".to_owned(), SCOPE.to_owned()],
        ttl: seconds(3_600),
        ..Default::default()
    };
    let created = operator.tokens().create_token(create).await.unwrap().into_inner();
    let (token, secret) = (created.token.unwrap(), created.secret);
    for gateway in &gateways {
        let outcome = ask(&stage, gateway, READS, &secret);
        let expires = warned(gateway, &outcome, "portcullis-token-expires");
        assert!(expires.ends_with('Z') && expires.contains('T'), "{expires}");
        ask(&stage, gateway, WRITES, &secret).allowed();
    }

    // Once a scope of it requires a whitelist, a token without one is denied everywhere (Rule 2.17).
    let path = tools::source("catalogs").join("mercury.toml");
    let built_in = std::fs::read_to_string(path).unwrap();
    let toml = built_in.replace(WITHOUT_WHITELIST, WITH_WHITELIST);
    assert_ne!(toml, built_in);
    let apply = ApplyCatalogRequest { toml, confirm_narrowing: true, ..Default::default() };
    operator.catalog().apply_catalog(apply).await.unwrap();
    for gateway in &gateways {
        ask(&stage, gateway, READS, &secret).denied(403, "WHITELIST_REQUIRED");
    }

    let expiry = SetTokenExpiryRequest {
        token_id: token.token_id.clone(),
        ttl: seconds(1),
        ..Default::default()
    };
    operator.tokens().set_token_expiry(expiry).await.unwrap();
    wait::until_async(
        async || state(&operator, &token).await,
        |state| *state == TokenState::Expired,
    )
    .await;
    for gateway in &gateways {
        let outcome = ask(&stage, gateway, READS, &secret);
        let answer = outcome.denied(401, "TOKEN_EXPIRED");
        let challenge = answer.head.one("www-authenticate");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_gateway_warns_of_an_announced_action_and_denies_what_it_took() {
    let sink = Sink::start();
    // Announced after 4 s, and carried out after 12 s.
    let stage = Stage::with(|setup| {
        setup
            .flag("--lifecycle-window", "12s")
            .flag("--lifecycle-notice", "8s")
            .flag("--lease", "2s")
            .flag("--lifecycle-sweep-interval", "100ms")
            .flag("--usage-flush-interval", "100ms")
            .env("PORTCULLIS_SMTP_URL", sink.url())
            .flag("--mail-from", "portcullis@example.test")
            .flag("--mail-rate", "1000")
    })
    .await;
    let operator = stage.operator().await;
    let gateways = gateways(&stage);
    let account = stage.account_id();
    let anywhere = [LISTED.to_string(), UNLISTED.to_string()];
    let anywhere: Vec<_> = anywhere.iter().map(String::as_str).collect();
    let (_, reads) = operator.token(account, TokenKind::ReadWrite, &[], &anywhere).await;
    let (idle, unused) = operator.token(account, TokenKind::ReadOnly, &[], &[]).await;

    // It is read with all the time, so that it keeps what reads; what writes is announced.
    let pending = |gateway: &Gateway| {
        let outcome = ask(&stage, gateway, READS, &reads);
        outcome.allowed().one("portcullis-pending-action").to_owned()
    };
    wait::until(|| pending(&gateways[0]), |value| value.starts_with("DOWNGRADE; effective-time="));
    for gateway in &gateways {
        let outcome = ask(&stage, gateway, READS, &reads);
        let action = warned(gateway, &outcome, "portcullis-pending-action");
        assert!(action.starts_with("DOWNGRADE; effective-time="), "{action}");
    }
    wait::until(|| pending(&gateways[0]), |value| value == "none");
    for gateway in &gateways {
        ask(&stage, gateway, WRITES, &reads).denied(403, "SCOPE_LOST_IN_DOWNGRADE");
    }
    wait::until_async(
        async || state(&operator, &idle).await,
        |state| *state == TokenState::DeletedUnused,
    )
    .await;
    for gateway in &gateways {
        ask(&stage, gateway, READS, &unused).denied(401, "TOKEN_DELETED_UNUSED");
    }
}
