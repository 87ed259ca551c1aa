//! Where no decision is reached, no request reaches the service (Rule 9.10 of docs/policy.md).

use sqlx::{Connection as _, PgConnection};

use super::process::{Changes, Gateway, Kind};
use super::stage::{Outcome, Stage, UNLISTED};
use crate::support::postgres::Cluster;
use crate::support::wait;

/// Envoy lets requests pass on errors of its authorization. It waits longer than is shipped: an answer that is on its way
/// when it gives up is an error too, and a busy machine of the tests needs more than 100 ms for that way.
const OPEN: &[(&str, &str)] =
    &[("failure_mode_allow: false", "failure_mode_allow: true"), ("timeout: 0.5s", "timeout: 5s")];

fn ask(stage: &Stage, gateway: &Gateway) -> Outcome {
    let bearer = format!("Authorization: Bearer {}", stage.token("read"));
    stage.ask(gateway, UNLISTED, "GET /api/v1/accounts", &[&bearer])
}

/// With the shipped settings, and, where a gateway could fail open, with that setting.
fn gateways(stage: &Stage, kind: Kind, credential: &str) -> Vec<Gateway> {
    let backends = stage.backends(credential);
    let mut gateways = vec![Gateway::start(kind, &backends)];
    if matches!(kind, Kind::EnvoyGrpc | Kind::EnvoyHttp) {
        let changes = Changes { replaced: OPEN, ..Changes::default() };
        gateways.push(Gateway::start_with(kind, &backends, changes));
    }
    gateways
}

async fn wrong_and_revoked_credentials_close(kind: Kind) {
    let stage = Stage::new().await;
    let (id, credential) = stage.credential(kind.client_source());
    let operator = stage.server.operator().to_owned();
    for wrong in ["", "pclpep_wrong", operator.as_str(), stage.token("read")] {
        if wrong.is_empty() && !matches!(kind, Kind::Nginx | Kind::Caddy) {
            // The others do not start with an empty one.
            continue;
        }
        for gateway in gateways(&stage, kind, wrong) {
            ask(&stage, &gateway).closed();
        }
    }
    let gateways = gateways(&stage, kind, &credential);
    for gateway in &gateways {
        ask(&stage, gateway).allowed();
    }
    stage.revoke(&id).await;
    for gateway in &gateways {
        ask(&stage, gateway).closed();
    }
}

/// A client's request can't make a question that Portcullis refuses: too many headers, or too long ones.
async fn oversized_requests_close(kind: Kind) {
    let stage = Stage::new().await;
    let (_, credential) = stage.credential(kind.client_source());
    let bearer = format!("Authorization: Bearer {}", stage.token("write"));
    for gateway in gateways(&stage, kind, &credential) {
        for length in [4_000, 16_000, 60_000, 200_000] {
            let long = format!("X-Long: {}", "a".repeat(length));
            let outcome = stage.ask(&gateway, UNLISTED, "GET /api/v1/cards", &[&bearer, &long]);
            assert!(outcome.received.is_empty(), "{length}: {outcome:?}");
        }
        for count in [90, 200, 1_000] {
            let many: Vec<String> = (0..count).map(|n| format!("X-Many-{n}: 1")).collect();
            let mut headers = vec![bearer.as_str()];
            headers.extend(many.iter().map(String::as_str));
            let outcome = stage.ask(&gateway, UNLISTED, "GET /api/v1/cards", &headers);
            assert!(outcome.received.is_empty(), "{count}: {outcome:?}");
        }
    }
}

async fn a_server_that_stops_or_hangs_closes(kind: Kind) {
    let mut stage = Stage::new().await;
    let gateway = stage.gateway(kind);
    ask(&stage, &gateway).allowed();
    stage.server.signal("STOP");
    ask(&stage, &gateway).closed();
    stage.server.signal("CONT");
    // What waited meanwhile is answered first.
    wait::until(|| ask(&stage, &gateway).received.len(), |&reached| reached == 1);
    assert!(stage.server.terminate().success());
    for _ in 0..3 {
        ask(&stage, &gateway).closed();
    }
    stage.server.restart();
    wait::until(|| ask(&stage, &gateway).received.len(), |&reached| reached == 1);
}

/// The store is gone for longer than the lease; then it is there, and answers too late.
async fn no_lease_and_slow_reads_close(kind: Kind) {
    let cluster = Cluster::new(false);
    let url = cluster.database();
    let mut stage =
        Stage::with(|setup| setup.env("PORTCULLIS_DATABASE_URL", &url).flag("--lease", "3s")).await;
    let (_, credential) = stage.credential(kind.client_source());
    let gateways = gateways(&stage, kind, &credential);
    for gateway in &gateways {
        ask(&stage, gateway).allowed();
    }
    cluster.stop();
    wait::until(|| ask(&stage, &gateways[0]).received.len(), |&reached| reached == 0);
    for gateway in gateways.iter().cycle().take(20) {
        ask(&stage, gateway).closed();
    }
    cluster.start();
    wait::until(|| ask(&stage, &gateways[0]).received.len(), |&reached| reached == 1);

    // Nothing is in memory after a restart, so the token has to be read.
    stage.server.restart();
    wait::until(
        || stage.ask(&gateways[0], UNLISTED, "GET /", &[]).answer.map(|answer| answer.status),
        |status| *status == Some(401),
    );
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    let mut lock = connection.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE token IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    for gateway in &gateways {
        ask(&stage, gateway).closed();
    }
    lock.rollback().await.expect("the end of the lock");
    for gateway in &gateways {
        wait::until(|| ask(&stage, gateway).received.len(), |&reached| reached == 1);
    }
}

macro_rules! each_gateway {
    ($($module:ident $kind:ident),+) => {$(
        mod $module {
            use super::super::process::Kind;

            #[tokio::test(flavor = "multi_thread")]
            async fn wrong_and_revoked_credentials_reach_nothing() {
                super::wrong_and_revoked_credentials_close(Kind::$kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn oversized_requests_are_never_allowed() {
                super::oversized_requests_close(Kind::$kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_stopped_server_lets_nothing_pass() {
                super::a_server_that_stops_or_hangs_closes(Kind::$kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_store_that_is_gone_or_slow_lets_nothing_pass() {
                super::no_lease_and_slow_reads_close(Kind::$kind).await;
            }
        }
    )+};
}

each_gateway!(nginx Nginx, caddy Caddy, traefik Traefik, envoy_grpc EnvoyGrpc, envoy_http EnvoyHttp);
