//! What a change waits for, told by the servers themselves.

use std::time::{Duration, Instant};

use crate::proxy::{Proxy, Wire};
use crate::stage::{LEASE, Stage};
use crate::support::postgres::{self, Cluster};
use crate::support::server::Setup;

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

/// Without its limits a session that is gone without a word would hold the head row for hours, and where
/// several share one, nobody knows which of them keeps its commits.
#[test]
fn a_pooler_that_drops_settings_is_refused() {
    let cluster = Cluster::new(false);
    let proxy = Proxy::new(cluster.port());
    let url = proxy.url(&cluster.database());
    proxy.set(Wire { unset: true, ..Wire::default() });
    let (status, told) = Setup::postgres(&url).refused();
    assert!(!status.success() && told.contains("a pooler that drops settings"), "{told}");
    proxy.set(Wire::default());
    Setup::postgres(&url).start();
}

/// Each renewal is a commit, so there are to be no more than it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_replica_renews_three_times_in_a_lease() {
    let cluster = Cluster::new(false);
    let url = cluster.database();
    let (_, database) = url.rsplit_once('/').unwrap();
    let _stage = Stage::over(&[&url], |setup| setup).await;
    let renewals = || cluster.sql(database, "SELECT renewals FROM replica").parse::<u32>().unwrap();
    let before = renewals();
    tokio::time::sleep(3 * LEASE).await;
    let made = renewals() - before;
    assert!((3..=12).contains(&made), "{made} renewals in three leases");
}
