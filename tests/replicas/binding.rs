//! What a change waits for, told by the servers themselves.

use std::time::{Duration, Instant};

use crate::stage::{LEASE, Stage};
use crate::support::postgres;

/// How long anything takes that waits for nobody who is gone.
const PROMPT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_binds_everywhere_before_it_is_answered() {
    let url = postgres::database();
    let stage = Stage::over(&[&url, &url, &url], |setup| setup).await;
    for round in 0..20 {
        let (token, secret) = stage.token(round % 3).await;
        for at in 0..3 {
            stage.allows(at, &secret).await;
        }
        let began = Instant::now();
        let deleted = stage.delete(round % 3, &token.token_id, false).await.unwrap();
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
        assert!(deleted.binding.unwrap().bound);
        for at in 0..3 {
            stage.denies(at, &secret).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_replica_is_outwaited_and_renews_before_it_answers() {
    let url = postgres::database();
    let stage = Stage::over(&[&url, &url], |setup| setup).await;
    let (token, secret) = stage.token(0).await;
    stage.allows(1, &secret).await;
    stage.servers[1].signal("STOP");
    let began = Instant::now();
    let early = stage.delete(0, &token.token_id, true).await.unwrap().binding.unwrap();
    assert!(!early.bound, "nobody has heard of it: {early:?}");
    // Found made already, it waits just the same.
    let bound = stage.delete(0, &token.token_id, false).await.unwrap().binding.unwrap();
    assert!(bound.bound);
    let waited = began.elapsed();
    assert!(waited > LEASE / 2 && waited < LEASE * 2, "{waited:?}");
    stage.denies(0, &secret).await;
    stage.servers[1].signal("CONT");
    stage.denies(1, &secret).await;
}
