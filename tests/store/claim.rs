//! What only Postgres does: one process has the database for itself.

use std::time::Duration;

use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::{CLAIM_LEASE, Claim, OpenError, Store as _};
use sqlx::{Connection as _, PgConnection};

use crate::fixture::ctx;
use crate::support::postgres::{Cluster, database};

async fn connect(url: &str) -> Result<PostgresStore, OpenError> {
    PostgresStore::connect(url, PostgresOptions::default()).await
}

#[tokio::test]
async fn a_second_process_is_refused_until_the_first_is_gone() {
    let url = database();
    let first = connect(&url).await.unwrap();
    let refused = connect(&url).await.unwrap_err();
    let message = refused.to_string();
    assert!(matches!(refused, OpenError::Claimed(_)), "{message}");
    assert!(message.contains("from 127.0.0.1, since 2"), "{message}");
    first.close().await;
    connect(&url).await.unwrap().close().await;
}

#[tokio::test]
async fn who_is_slow_to_go_is_waited_for() {
    let url = database();
    let first = connect(&url).await.unwrap();
    let waiting = tokio::spawn(async move { connect(&url).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!waiting.is_finished());
    first.close().await;
    waiting.await.unwrap().unwrap().close().await;
}

/// A session that the database ended is taken anew, unless another process came first.
#[tokio::test]
async fn a_lost_claim_is_noticed() {
    const SESSIONS: &str = "\
        SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_locks \
        WHERE locktype = 'advisory' AND granted \
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) t";
    let url = database();
    let first = connect(&url).await.unwrap();
    let mut thief = PgConnection::connect(&url).await.unwrap();
    let ended: i64 = sqlx::query_scalar(SESSIONS).fetch_one(&mut thief).await.unwrap();
    assert_eq!(ended, 1);
    let key = i64::from_be_bytes(*b"portcull");
    let mut taken = false;
    while !taken {
        let take = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(key);
        taken = take.fetch_one(&mut thief).await.unwrap();
    }
    let mut claim = first.claim();
    let told = claim.wait_for(|claim| *claim == Claim::Lost);
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("it is told").unwrap();
    first.close().await;
}

#[tokio::test]
async fn a_claim_that_cannot_be_confirmed_is_doubtful_until_it_is_taken_anew() {
    let cluster = Cluster::with_fsync();
    let store = connect(&cluster.url()).await.unwrap();
    let mut claim = store.claim();
    cluster.stop();
    let begin = std::time::Instant::now();
    let told = claim.wait_for(|claim| *claim == Claim::Doubtful);
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("it is told").unwrap();
    assert!(begin.elapsed() < CLAIM_LEASE, "{:?}", begin.elapsed());
    cluster.start();
    let told = claim.wait_for(|claim| *claim == Claim::Held(1));
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("it is told").unwrap();
    store.close().await;
}

#[tokio::test]
async fn settling_waits_for_a_change_under_way() {
    let url = database();
    let store = connect(&url).await.unwrap();
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut change = other.begin().await.unwrap();
    sqlx::query("UPDATE head SET position = position").execute(&mut *change).await.unwrap();
    let context = ctx(1);
    let early = tokio::time::timeout(Duration::from_millis(500), store.settle(&context)).await;
    assert!(early.is_err(), "it did not wait");
    change.commit().await.unwrap();
    store.settle(&context).await.unwrap();
    assert_eq!(store.position().await.unwrap(), 0, "settling changes nothing");
    store.close().await;
}
