//! A store that is gone, for less than a lease and for longer, read-only, out of connections, or slow.

use std::time::{Duration, Instant};

use portcullis::grpc::proto::{CreateTokenRequest, Decision, Reason, TokenKind};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;
use tonic::Code;

use crate::replicas::proxy::Wire;
use crate::replicas::stage::{LEASE, PROMPT, Stage, until};
use crate::support::client::question;
use crate::support::postgres;
use crate::support::server::{Server, Setup, random_credential};

const TOKENS: usize = 50;

/// Tokens that server 0 has in memory.
async fn cached(stage: &Stage) -> Vec<String> {
    let mut secrets = Vec::new();
    for _ in 0..TOKENS {
        let (_, secret) = stage.token(0).await;
        stage.allows(0, &secret).await;
        secrets.push(secret);
    }
    // What it made itself it is told of once more, and reads it anew.
    tokio::time::sleep(PROMPT).await;
    for secret in &secrets {
        stage.allows(0, secret).await;
    }
    secrets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_shorter_than_the_lease_costs_no_decision() {
    // It may have been renewed a third of a lease before the outage, and a busy machine starts a database slowly.
    let stage = Stage::with_own_cluster(Duration::from_secs(15), 1).await;
    let secrets = cached(&stage).await;
    let decides_for = async |length: Duration| {
        let began = Instant::now();
        while began.elapsed() < length {
            for secret in &secrets {
                stage.allows(0, secret).await;
            }
        }
    };
    stage.cluster().kill();
    decides_for(Duration::from_secs(5)).await;
    // It takes a second to be there again.
    stage.cluster().start();
    decides_for(Duration::from_secs(11)).await;
    assert_eq!(stage.servers[0].metric("portcullis_lease_lapses_total"), Some(0));
}

/// Rule 11.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expiry_binds_on_another_replica_while_the_store_is_out_of_reach() {
    let stage = Stage::with_own_cluster(Duration::from_secs(15), 2).await;
    let request = CreateTokenRequest {
        account_id: stage.account.clone(),
        name: "short".to_owned(),
        kind: TokenKind::ReadOnly.into(),
        ttl: Some(prost_types::Duration { seconds: 6, nanos: 0 }),
        ..Default::default()
    };
    let secret = stage.clients[1].tokens().create_token(request).await.unwrap().into_inner().secret;
    stage.allows(0, &secret).await;
    // The change is announced to it once more, and the token read again.
    tokio::time::sleep(PROMPT).await;
    stage.allows(0, &secret).await;
    stage.cluster().kill();
    let began = Instant::now();
    let denied = loop {
        let answer = stage.ask(0, &secret).await.unwrap();
        if answer.decision() == Decision::Deny {
            break answer;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{answer:?}");
    };
    assert_eq!(denied.reason(), Reason::TokenExpired);
    assert_eq!(stage.servers[0].metric("portcullis_lease_lapses_total"), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_long_outage_it_is_back_by_itself_and_reads_nothing_twice() {
    let stage = Stage::with_own_cluster(LEASE, 2).await;
    let secrets = cached(&stage).await;
    let misses = || stage.servers[0].metric("portcullis_cache_misses_total").unwrap();
    let before = misses();
    stage.cluster().kill();
    let closed = until(|| stage.servers[0].get("/readyz").0, |status| status.contains("503")).await;
    assert!(closed.contains("503"));
    let status = stage.ask(0, &secrets[0]).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    stage.cluster().start();
    let took = stage.comes_back(0, &secrets[0]).await;
    assert!(took < 2 * PROMPT, "{took:?}");
    stage.comes_back(1, &secrets[0]).await;
    for secret in &secrets {
        stage.allows(0, secret).await;
    }
    assert_eq!(misses(), before, "what is in memory still counts");
    let (token, secret) = stage.token(1).await;
    stage.allows(0, &secret).await;
    stage.deletes(1, &token.token_id).await;
    stage.denies(0, &secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_store_renews_no_lease() {
    let stage = Stage::with_own_cluster(LEASE, 1).await;
    let secrets = cached(&stage).await;
    let mut admin = PgConnection::connect(&stage.url).await.unwrap();
    let mut set = async |on: &str| {
        sqlx::query("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
            .execute(&mut admin)
            .await
            .unwrap();
        let alter = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
        for statement in [alter.as_str(), "SELECT pg_reload_conf()"] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut admin).await.unwrap();
        }
    };
    set("on").await;
    until(|| stage.servers[0].get("/readyz").0, |status| status.contains("503")).await;
    let refused = stage.ask(0, &secrets[0]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    set("off").await;
    stage.comes_back(0, &secrets[0]).await;
    stage.allows(0, &secrets[1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_who_take_all_connections_end_no_lease() {
    let stage = Stage::with_own_cluster(LEASE, 1).await;
    let secrets = cached(&stage).await;
    let mut greedy = Vec::new();
    while let Ok(connection) = PgConnection::connect(&stage.url).await {
        greedy.push(connection);
    }
    assert!(greedy.len() > 100, "{}", greedy.len());
    let began = Instant::now();
    while began.elapsed() < LEASE * 2 {
        for secret in &secrets {
            stage.allows(0, secret).await;
        }
    }
    assert_eq!(stage.servers[0].metric("portcullis_lease_lapses_total"), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_store_slows_changes_and_no_decision() {
    let stage = Stage::new(2).await;
    let secrets = cached(&stage).await;
    let (token, secret) = stage.token(1).await;
    stage.allows(0, &secret).await;
    stage.wires[0].set(Wire { slow: Duration::from_millis(60), ..Wire::default() });
    let began = Instant::now();
    while began.elapsed() < LEASE * 2 {
        for secret in &secrets {
            let asked = Instant::now();
            let answer = stage.ask(0, secret).await.unwrap();
            assert_eq!(answer.decision(), Decision::Allow);
            assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
        }
    }
    let took = stage.deletes(1, &token.token_id).await;
    assert!(took < LEASE + PROMPT, "{took:?}");
    stage.denies(0, &secret).await;
    assert_eq!(stage.servers[0].metric("portcullis_lease_lapses_total"), Some(0));
}

/// As after a restore into the database that replicas serve from: nothing else would tell them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_goes_back_in_time_is_read_anew() {
    let stage = Stage::new(1).await;
    let (_, kept) = stage.token(0).await;
    let mut database = PgConnection::connect(&stage.url).await.unwrap();
    let (token, lost) = stage.token(0).await;
    for secret in [&kept, &lost] {
        stage.allows(0, secret).await;
    }
    tokio::time::sleep(PROMPT).await;
    let mut undo = database.begin().await.unwrap();
    for statement in [
        "DELETE FROM token_use WHERE token_id = (SELECT max(token_id::text)::uuid FROM token)",
        "DELETE FROM token WHERE token_id = (SELECT max(token_id::text)::uuid FROM token)",
        "DELETE FROM change WHERE position = (SELECT position FROM head)",
        "DELETE FROM audit_event WHERE position = (SELECT position FROM head)",
        "UPDATE head SET position = position - 1",
    ] {
        sqlx::query(statement).execute(&mut *undo).await.unwrap();
    }
    undo.commit().await.unwrap();
    tokio::time::sleep(LEASE / 2).await;
    stage.comes_back(0, &kept).await;
    let answer = stage.ask(0, &lost).await.unwrap();
    assert_eq!(answer.reason(), Reason::TokenNotFound, "{} is gone", token.token_id);
    stage.allows(0, &kept).await;
    assert!(stage.servers[0].log().contains("the store has gone back in time"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_start_at_once_on_an_empty_database() {
    let cluster = postgres::shared();
    let operator = random_credential();
    for _ in 0..5 {
        let url = cluster.database();
        let start = |_| Setup::postgres(&url).operator(&operator).spawn();
        let mut servers: Vec<_> = (0..4).map(start).collect();
        servers.iter_mut().for_each(Server::wait_ready);
    }
}

/// However many wait for the store to read what is not in memory, those that are wait for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_hold_up_no_hit() {
    let stage = Stage::leased(Duration::from_secs(10), 2, |_, setup| setup).await;
    let secrets = cached(&stage).await;
    let mut unknown = Vec::new();
    for _ in 0..300 {
        unknown.push(stage.token(1).await.1);
    }
    stage.wires[0].set(Wire { held: true, ..Wire::default() });
    let mut misses = JoinSet::new();
    for secret in unknown {
        let client = stage.clients[0].clone();
        misses.spawn(async move {
            let request = question(&secret, "192.0.2.1", "transactions.read");
            client.authorization().authorize(request).await
        });
    }
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(2) {
        for secret in &secrets {
            let asked = Instant::now();
            stage.allows(0, secret).await;
            slowest = slowest.max(asked.elapsed());
        }
    }
    assert!(slowest < PROMPT, "{slowest:?}");
    assert!(misses.len() == 300, "they wait still");
    stage.wires[0].set(Wire::default());
    while let Some(answer) = misses.join_next().await {
        match answer.unwrap() {
            Ok(answer) => assert_eq!(answer.into_inner().decision(), Decision::Allow),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
}
