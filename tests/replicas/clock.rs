//! Clocks: leases are reckoned by one that nobody sets, so a time of the store that jumps by hours moves none.

use std::time::Duration;

use portcullis::clock::{Clock, Stopwatch};
use portcullis::model::{Actor, Context};
use portcullis::replication::Wait;
use portcullis::store::postgres::PostgresOptions;

use crate::replicas::stage::Replica;
use crate::support::postgres::database;

const LEASE: Duration = Duration::from_secs(2);

fn ctx(clock: &Clock) -> Context {
    Context::new(Actor::System, clock.now(), None)
}

/// Rule 4.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_jumps_by_hours_moves_no_lease() {
    let url = database();
    let Replica { store, replicas: one, .. } =
        Replica::join(&url, PostgresOptions::default(), LEASE).await;
    let Replica { replicas: other, stop, .. } =
        Replica::join(&url, PostgresOptions::default(), LEASE).await;
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
        let propagation = one.propagation(Wait::UntilComplete).await.unwrap();
        assert!(propagation.complete);
    }
    // The other one dies: what that costs is a lease, whatever the time.
    stop.cancel();
    drop(other);
    let watch = Stopwatch::start();
    clock.learn(before.plus(hours), watch);
    store.add_secret_key(&ctx(&clock), &[9; 32], false).await.unwrap();
    assert!(one.propagation(Wait::UntilComplete).await.unwrap().complete);
    let waited = watch.elapsed();
    assert!(waited > LEASE / 2 && waited < LEASE * 2, "{waited:?}");
    store.close().await;
}
