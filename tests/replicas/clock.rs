//! Clocks: leases are reckoned by one that nobody sets, so a time of the store that jumps by hours moves none.

use std::sync::Arc;
use std::time::Duration;

use portcullis::cache::Cache;
use portcullis::clock::{Clock, Stopwatch};
use portcullis::policy::time::Timestamp;
use portcullis::replicas::{Joined, Replicas};
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::replication::About;
use portcullis::store::{Actor, Context, Store};
use portcullis::telemetry::Metrics;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::support::postgres::database;

const LEASE: Duration = Duration::from_secs(2);

async fn join(url: &str) -> (Arc<dyn Store>, Replicas, CancellationToken) {
    let store = PostgresStore::connect(url, PostgresOptions::default()).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let ctx = Context { actor: Actor::System, now: Timestamp(0), client: None };
    store.add_secret_key(&ctx, &[7; 32], true).await.unwrap();
    let about = About { name: "here".to_owned(), version: String::new(), lifecycle: String::new() };
    let metrics = Arc::new(Metrics::new());
    let joined = Joined::register(&*store, LEASE, about, metrics.clone(), CancellationToken::new());
    let joined = joined.await.unwrap();
    let cache = Cache::load(store.clone(), 100, metrics, Handle::current()).await.unwrap();
    let stop = CancellationToken::new();
    (store, joined.serve(Arc::new(cache), &stop), stop)
}

fn ctx(clock: &Clock) -> Context {
    Context { actor: Actor::System, now: clock.now(), client: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_jumps_by_hours_moves_no_lease() {
    let url = database();
    let (store, one, _running) = join(&url).await;
    let (_, other, stop) = join(&url).await;
    let clock = Clock::starting_at(store.now().await.unwrap());
    let before = clock.now();
    let hours = Duration::from_secs(5 * 60 * 60);
    for jumped in [before.plus(hours), before, before.minus(hours)] {
        clock.learn(jumped, Stopwatch::start());
        assert!(clock.now() >= jumped && clock.now() < jumped.plus(LEASE));
        store.add_secret_key(&ctx(&clock), &[8; 32], false).await.unwrap();
        for replicas in [&one, &other] {
            assert!(replicas.may_decide(Stopwatch::start()));
            assert!(replicas.lease_left().unwrap() <= LEASE);
        }
        let bound = one.bind(true).await.unwrap();
        assert!(bound.bound);
    }
    // The other one dies: what that costs is a lease, whatever the time.
    stop.cancel();
    drop(other);
    let watch = Stopwatch::start();
    clock.learn(before.plus(hours), watch);
    store.add_secret_key(&ctx(&clock), &[9; 32], false).await.unwrap();
    assert!(one.bind(true).await.unwrap().bound);
    let waited = watch.elapsed();
    assert!(waited > LEASE / 2 && waited < LEASE * 2, "{waited:?}");
    store.close().await;
}
