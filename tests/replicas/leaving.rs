//! Who has left: it decides nothing more, whatever was under way, since nobody waits for it any more.

use std::time::{Duration, Instant};

use portcullis::store::postgres::PostgresOptions;
use sqlx::{Connection as _, PgConnection};

use crate::replicas::stage::{Replica, until};
use crate::support::postgres;

const LEASE: Duration = Duration::from_secs(2);

/// A replica over a cluster of its own, and a way to look into its database.
struct Stage {
    url: String,
    replica: Replica,
}

impl Stage {
    async fn new() -> Self {
        let url = postgres::database();
        let replica = Replica::join(&url, PostgresOptions::default(), LEASE).await;
        assert!(replica.may_decide());
        Self { url, replica }
    }

    fn sql(&self, statement: &str) -> String {
        let (_, database) = self.url.rsplit_once('/').unwrap();
        postgres::shared().sql(database, statement)
    }

    fn waiting_for_lock(&self, statement: &str) -> String {
        self.sql(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND wait_event_type = 'Lock' AND query LIKE '{statement}%'"
        ))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_left_decides_nothing_and_nobody_waits_for_it() {
    let stage = Stage::new().await;
    assert_eq!(stage.sql("SELECT count(*) FROM replica"), "1");
    stage.replica.replicas.leave().await;
    assert!(!stage.replica.may_decide());
    assert_eq!(stage.replica.replicas.lease_left(), Some(Duration::ZERO));
    assert_eq!(stage.sql("SELECT count(*) FROM replica"), "0");
    assert!(stage.replica.replicas.ready().await.is_err(), "it registers no more");
    assert!(!stage.replica.may_decide());
    assert_eq!(stage.sql("SELECT count(*) FROM replica"), "0");
}

/// The answer to a renewal that was sent before comes after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_under_way_gives_no_lease_to_a_replica_that_left() {
    let stage = Stage::new().await;
    let anew = format!(
        "SELECT count(*) FROM replica WHERE replica_id <> '{}'",
        stage.sql("SELECT replica_id FROM replica")
    );
    let mut other = PgConnection::connect(&stage.url).await.unwrap();
    let mut turn = other.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM replica FOR UPDATE").execute(&mut *turn).await.unwrap();
    until(|| stage.waiting_for_lock("UPDATE replica"), |count| count != "0").await;
    let replica = &stage.replica;
    tokio::join!(replica.replicas.leave(), async {
        // It has stopped deciding before it says that nobody need wait.
        until(|| stage.waiting_for_lock("DELETE FROM replica"), |count| count != "0").await;
        assert!(!replica.may_decide());
        turn.commit().await.unwrap();
    });
    let left = Instant::now();
    while left.elapsed() < LEASE {
        assert!(!replica.may_decide(), "after {:?}", left.elapsed());
        assert_eq!(stage.sql(&anew), "0", "it registered anew after {:?}", left.elapsed());
    }
}
