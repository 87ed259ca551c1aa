//! Where no decision is reached, no request reaches the service (Rule 9.10 of docs/policy.md).

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use portcullis::grpc::proto::BatchAuthorizeRequest;
use portcullis::secret::SecretKind;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;
use tokio::time;
use uuid::Uuid;

use super::process::{Backends, Changes, Gateway, Kind, address};
use super::stage::{Outcome, Stage, UNLISTED};
use crate::support::client::question;
use crate::support::postgres::{self, Cluster};
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

/// All of them in front of one server.
fn all_gateways(stage: &Stage) -> Vec<Gateway> {
    let of = |kind: Kind| gateways(stage, kind, &stage.credential(kind.client_source()).1);
    Kind::ALL.into_iter().flat_map(of).collect()
}

/// More reads than the server makes at once are under way, and more are refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_server_lets_nothing_pass() {
    // Many small batches, so that reads that end are followed by others at once.
    const BATCH: u128 = 100;
    const BATCHES: u128 = 24;
    const PAUSE: Duration = Duration::from_millis(200);
    let url = postgres::database();
    let mut stage = Stage::with(|setup| setup.env("PORTCULLIS_DATABASE_URL", &url)).await;
    let gateways = all_gateways(&stage);
    // Nothing is in memory then, so each token has to be read.
    stage.server.restart();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut lock = connection.begin().await.unwrap();
    sqlx::query("LOCK TABLE token IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let keys = postgres::secret_keys(&url).await;
    let prefix = "pcl".parse().unwrap();
    let operator = stage.operator().await;
    let mut load = JoinSet::new();
    for batch in 0..BATCHES {
        let secret = |n| {
            let id = Uuid::from_u128(batch * BATCH + n);
            keys.make(SecretKind::Token, &prefix, id, &[1; 16]).expose().to_owned()
        };
        let requests = (0..BATCH).map(|n| question(&secret(n), "192.0.2.1", "transactions.read"));
        let requests: Vec<_> = requests.collect();
        let mut decisions = operator.authorization();
        load.spawn(async move {
            loop {
                let batch = BatchAuthorizeRequest { requests: requests.clone() };
                let _ = decisions.batch_authorize(batch).await;
                // Batches that are refused return at once; the server needs time for the gateways.
                time::sleep(PAUSE).await;
            }
        });
    }
    let says = "too many requests are under way";
    for gateway in &gateways {
        let text = || ask(&stage, gateway).closed().text();
        match gateway.kind {
            // These pass on what Portcullis says.
            Kind::Caddy | Kind::Traefik | Kind::EnvoyHttp => {
                wait::until(text, |text| text.contains(says));
            }
            _ => (0..3).for_each(|_| drop(text())),
        }
    }
    load.shutdown().await;
    lock.rollback().await.unwrap();
    for gateway in &gateways {
        wait::until(|| ask(&stage, gateway).received.len(), |&reached| reached == 1);
    }
}

/// A failure of Portcullis's own is no decision, and no error that a gateway may fail open on.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_panics_lets_nothing_pass() {
    let stage = Stage::with(|setup| setup.env("FAILPOINT", "decision-panic")).await;
    for gateway in all_gateways(&stage) {
        let outcome = ask(&stage, &gateway);
        let status = outcome.closed().status;
        // As without a decision at any time, and not the gateway's own answer to a connection that broke.
        let usual = if gateway.kind == Kind::EnvoyHttp { 403 } else { 503 };
        assert_eq!(status, usual, "{:?}: {outcome:?}", gateway.kind);
    }
    assert!(stage.server.log().contains("panicked"));
}

/// What HTTP refuses before Portcullis sees it: a bare 400 or 431, without a reason.
#[tokio::test(flavor = "multi_thread")]
async fn bare_refusals_of_http_let_nothing_pass() {
    let stage = Stage::new().await;
    for refusal in ["400 Bad Request", "431 Request Header Fields Too Large"] {
        let answer =
            format!("HTTP/1.1 {refusal}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let listener = TcpListener::bind(address(8081)).unwrap();
        let refusing = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let answer = answer.clone();
                thread::spawn(move || {
                    let _ = stream.read(&mut [0; 65_536]);
                    let _ = stream.write_all(answer.as_bytes());
                });
            }
        });
        for kind in Kind::ALL {
            let (_, credential) = stage.credential(kind.client_source());
            let backends =
                Backends { grpc: refusing, http: refusing, ..stage.backends(&credential) };
            ask(&stage, &Gateway::start(kind, &backends)).closed();
            if kind == Kind::EnvoyHttp {
                // A 4xx is a denial, also where errors pass.
                let changes = Changes { replaced: OPEN, ..Changes::default() };
                ask(&stage, &Gateway::start_with(kind, &backends, changes)).closed();
            }
        }
    }
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
