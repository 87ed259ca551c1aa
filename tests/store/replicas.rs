//! What only Postgres does: what replicas tell each other, statement by statement (docs/consistency.md).

use std::sync::Arc;
use std::time::Duration;

use portcullis::lease::{Identity, LeaseDuration, Position, RowId};
use portcullis::model::{ChangeRecord, Invalidation, Role};
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::replication::{ChangeNotification, ReplicaInfo};
use portcullis::store::{AuditStore as _, CredentialStore as _, Replication, Store as _};
use sqlx::migrate::Migrate as _;
use sqlx::{Connection as _, PgConnection};

use crate::store::fixture::{ctx, new_credential};
use crate::support::postgres::database;

const LENGTH: LeaseDuration = LeaseDuration(1_000_000);

fn about() -> ReplicaInfo {
    ReplicaInfo { name: "here".into(), version: "1".into(), lifecycle: "as usual".into() }
}

async fn open() -> (PostgresStore, Arc<dyn Replication>, String) {
    let url = database();
    let store = PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap();
    let replication = store.replication().unwrap();
    (store, replication, url)
}

/// Makes so many changes.
async fn change(store: &PostgresStore, count: u8) {
    for at in 0..count {
        store.add_secret_key(&ctx(1), &[at; 32], false).await.unwrap();
    }
}

async fn told(replication: &Arc<dyn Replication>) -> Option<ChangeNotification> {
    tokio::time::timeout(Duration::from_secs(10), replication.next_notification()).await.unwrap()
}

async fn rows(replication: &Arc<dyn Replication>) -> Vec<(u128, u64, i64)> {
    let read = replication.rows().await.unwrap().rows;
    let mut rows: Vec<_> =
        read.iter().map(|read| (read.row.id.0, read.row.renewals, read.row.applied.0)).collect();
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn a_row_is_registered_renewed_and_removed() {
    let (store, replication, _) = open().await;
    change(&store, 3).await;
    let head = replication.register(RowId(7), LENGTH, None, &about()).await.unwrap();
    assert_eq!(head.position, Position(3));
    let read = replication.rows().await.unwrap();
    assert_eq!((read.head, read.rows.len()), (Position(3), 1));
    assert_eq!((read.rows[0].row.length, &read.rows[0].about), (LENGTH, &about()));
    assert_eq!(rows(&replication).await, [(7, 0, 3)]);
    change(&store, 1).await;
    let renewed = replication.renew(RowId(7), head.identity, Some(Position(4))).await.unwrap();
    assert_eq!(renewed.unwrap().position, Position(4));
    // What is acknowledged stays so.
    for applied in [None, Some(Position(2))] {
        replication.renew(RowId(7), head.identity, applied).await.unwrap().unwrap();
    }
    replication.acknowledge(RowId(7), head.identity, Position(1)).await.unwrap();
    assert_eq!(rows(&replication).await, [(7, 3, 4)]);
    // It was renewed since it was seen to be over.
    assert!(!replication.remove(RowId(7), Some(2)).await.unwrap());
    assert!(replication.remove(RowId(7), Some(3)).await.unwrap());
    assert!(replication.renew(RowId(7), head.identity, None).await.unwrap().is_none());
    store.close().await;
}

/// A lease that is void ends at once, also where nothing more can be read.
#[tokio::test]
async fn a_renewal_that_hits_no_row_says_so_whatever_can_be_read_then() {
    let (store, replication, url) = open().await;
    let head = replication.register(RowId(7), LENGTH, None, &about()).await.unwrap();
    let mut database = PgConnection::connect(&url).await.unwrap();
    let hide = "ALTER TABLE head RENAME COLUMN position TO hidden";
    sqlx::query(hide).execute(&mut database).await.unwrap();
    let elsewhere = Identity { timeline: head.identity.timeline + 1, ..head.identity };
    assert_eq!(replication.renew(RowId(8), head.identity, None).await.unwrap(), None);
    assert_eq!(replication.renew(RowId(7), elsewhere, None).await.unwrap(), None);
    // A row that was hit gives a lease only by what is read after that.
    replication.renew(RowId(7), head.identity, None).await.unwrap_err();
    store.close().await;
}

/// The position of what was read from another store may be one that this one has yet to give away.
#[tokio::test]
async fn no_row_claims_what_the_store_has_yet_to_see() {
    let (store, replication, _) = open().await;
    change(&store, 2).await;
    for (id, applied, claimed) in [(1, Some(1), 1), (2, Some(2), 2), (3, Some(9), 2), (4, None, 2)]
    {
        let applied = applied.map(Position);
        replication.register(RowId(id), LENGTH, applied, &about()).await.unwrap();
        let (_, _, found) = rows(&replication).await[id as usize - 1];
        assert_eq!(found, claimed, "{applied:?}");
    }
    store.close().await;
}

#[tokio::test]
async fn another_store_is_not_written_to() {
    let (store, replication, _) = open().await;
    let head = replication.register(RowId(7), LENGTH, None, &about()).await.unwrap();
    change(&store, 1).await;
    let Identity { system, timeline, database } = head.identity;
    let others = [
        Identity { system: system + 1, ..head.identity },
        Identity { timeline: timeline + 1, ..head.identity },
        Identity { database: database + 1, ..head.identity },
    ];
    for other in others {
        assert!(replication.renew(RowId(7), other, Some(Position(1))).await.unwrap().is_none());
        replication.acknowledge(RowId(7), other, Position(1)).await.unwrap();
        assert!(replication.behind(Position(0), other, 10).await.unwrap().is_none());
    }
    assert_eq!(rows(&replication).await, [(7, 0, 0)]);
    replication.acknowledge(RowId(7), head.identity, Position(1)).await.unwrap();
    assert_eq!(rows(&replication).await, [(7, 0, 1)]);
    store.close().await;
}

#[tokio::test]
async fn the_record_is_read_in_parts_and_told_of() {
    let (store, replication, _) = open().await;
    let head = replication.register(RowId(7), LENGTH, None, &about()).await.unwrap();
    let told = async || told(&replication).await.map(|told| told.change);
    // Whoever begins to listen is told once, since nobody knows what was before.
    assert_eq!(told().await, None);
    for position in 1..=3 {
        change(&store, 1).await;
        assert_eq!(
            told().await,
            Some(ChangeRecord { position, touched: Invalidation::SecretKeys })
        );
    }
    // Over another connection from now on.
    replication.reconnect();
    assert_eq!(told().await, None);
    let read = replication.behind(Position(1), head.identity, 1).await.unwrap().unwrap();
    assert_eq!(read.head, Position(3));
    assert_eq!(read.changes, [ChangeRecord { position: 2, touched: Invalidation::SecretKeys }]);
    let read = replication.behind(Position(3), head.identity, 10).await.unwrap().unwrap();
    assert!(read.changes.is_empty());
    store.close().await;
}

/// What is told may be untrue, or early; the record is not.
#[tokio::test]
async fn what_was_told_counts_as_acknowledged_if_the_record_says_the_same() {
    let (store, replication, _) = open().await;
    let head = replication.register(RowId(7), LENGTH, None, &about()).await.unwrap();
    assert_eq!(told(&replication).await, None);
    change(&store, 1).await;
    let first = told(&replication).await.unwrap();
    let (made, digest) = new_credential(Role::Pep);
    store.create_credential(&ctx(1), &made, &digest).await.unwrap().unwrap();
    let second = told(&replication).await.unwrap();
    assert_ne!(first.nonce, second.nonce);

    let confirm = async |row, identity, position, touched, nonce| {
        let told =
            ChangeNotification { change: ChangeRecord { position, touched }, nonce, ..first };
        replication.acknowledge_notified(RowId(row), identity, told).await.unwrap()
    };
    let (here, keys) = (head.identity, Invalidation::SecretKeys);
    let elsewhere = Identity { timeline: here.timeline + 1, ..here };
    let (other, _) = new_credential(Role::Pep);
    let untrue = [
        (7, here, 1, Invalidation::Nothing, first.nonce),
        (7, here, 1, Invalidation::Credential(made.id), first.nonce),
        (7, here, 2, Invalidation::Credential(other.id), second.nonce),
        // ChangeNotification by somebody who could not know of it.
        (7, here, 1, keys, second.nonce),
        (7, here, 1, keys, uuid::Uuid::nil()),
        // Not made yet.
        (7, here, 3, keys, first.nonce),
        (7, elsewhere, 1, keys, first.nonce),
        (8, here, 1, keys, first.nonce),
    ];
    for (row, identity, position, touched, nonce) in untrue {
        let confirmed = confirm(row, identity, position, touched, nonce).await;
        assert!(!confirmed, "{row} {identity:?} {position} {touched:?} {nonce}");
        assert_eq!(rows(&replication).await, [(7, 0, 0)]);
    }
    // By another session than the one that made it.
    let another = ChangeNotification { writer: first.writer + 1, ..first };
    assert!(!replication.acknowledge_notified(RowId(7), here, another).await.unwrap());
    assert_eq!(rows(&replication).await, [(7, 0, 0)]);
    assert!(confirm(7, here, 1, keys, first.nonce).await);
    assert_eq!(rows(&replication).await, [(7, 0, 1)]);
    assert!(replication.acknowledge_notified(RowId(7), here, second).await.unwrap());
    assert_eq!(rows(&replication).await, [(7, 0, 2)]);
    // Once is enough.
    assert!(!confirm(7, here, 1, keys, first.nonce).await);
    assert_eq!(rows(&replication).await, [(7, 0, 2)]);
    store.close().await;
}

/// What an earlier program recorded before the upgrade has no nonce: nobody can tell of it.
#[tokio::test]
async fn changes_without_a_nonce_are_read_from_the_record() {
    let (store, replication, url) = open().await;
    let head = replication.register(RowId(7), LENGTH, None, &about()).await.unwrap();
    change(&store, 1).await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE change SET nonce = NULL").execute(&mut database).await.unwrap();
    let change = ChangeRecord { position: 1, touched: Invalidation::SecretKeys };
    let told = ChangeNotification { change, writer: 0, nonce: uuid::Uuid::nil() };
    assert!(!replication.acknowledge_notified(RowId(7), head.identity, told).await.unwrap());
    let read = replication.behind(Position(0), head.identity, 10).await.unwrap().unwrap();
    assert_eq!(read.changes, [change]);
    store.close().await;
}

/// Pruned is what all have applied, but for the newest ten thousand.
#[tokio::test]
async fn the_record_is_pruned_behind_the_slowest() {
    let (store, replication, url) = open().await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    for statement in [
        "INSERT INTO change (position, time, touched) \
         SELECT n, 1, 'nothing' FROM generate_series(1, 35000) n",
        "UPDATE head SET position = 35000",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
    let register = async |id, applied| {
        replication.register(RowId(id), LENGTH, applied, &about()).await.unwrap()
    };
    register(1, None).await;
    register(2, Some(Position(12_000))).await;
    let left = async |database: &mut PgConnection| {
        let count = sqlx::query_scalar("SELECT min(position) FROM change");
        count.fetch_one(database).await.unwrap()
    };
    let mut seen: Vec<i64> = Vec::new();
    for _ in 0..3 {
        replication.prune().await.unwrap();
        seen.push(left(&mut database).await);
    }
    assert_eq!(seen, [10_001, 12_001, 12_001]);
    replication.remove(RowId(2), None).await.unwrap();
    for _ in 0..3 {
        replication.prune().await.unwrap();
    }
    assert_eq!(left(&mut database).await, 25_001);
    store.close().await;
}

#[tokio::test]
async fn settling_waits_for_a_change_under_way_and_commits() {
    let (store, _, url) = open().await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut change = other.begin().await.unwrap();
    sqlx::query("UPDATE head SET position = position").execute(&mut *change).await.unwrap();
    let context = ctx(1);
    let early =
        tokio::time::timeout(Duration::from_millis(500), store.await_pending_changes(&context))
            .await;
    assert!(early.is_err(), "it did not wait");
    change.commit().await.unwrap();
    let written = async |database: &mut PgConnection| -> i64 {
        let xmin = sqlx::query_scalar("SELECT xmin::text::bigint FROM head");
        xmin.fetch_one(database).await.unwrap()
    };
    let before = written(&mut other).await;
    store.await_pending_changes(&context).await.unwrap();
    assert_eq!(store.position().await.unwrap(), 0, "settling changes nothing");
    assert!(written(&mut other).await > before, "nothing was committed");
    store.close().await;
}

/// An earlier version knows of no replicas: it may not go on beside this one.
#[tokio::test]
async fn an_earlier_version_that_serves_still_stops_the_upgrade() {
    let url = database();
    let mut earlier = PgConnection::connect(&url).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(i64::from_be_bytes(*b"portcull"))
        .execute(&mut earlier)
        .await
        .unwrap();
    let refused = PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap_err();
    let told = format!("{refused:?}");
    assert!(told.contains("a server of an earlier version still serves"), "{told}");
    earlier.close().await.unwrap();
    PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap().close().await;
}

/// Whoever holds the lock may be a replica that stands still in the middle of its start.
#[tokio::test]
async fn a_start_with_nothing_to_migrate_waits_for_nobody() {
    let url = database();
    PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap().close().await;
    let mut stuck = PgConnection::connect(&url).await.unwrap();
    stuck.lock().await.unwrap();
    let start = PostgresStore::connect(&url, PostgresOptions::default());
    let store = tokio::time::timeout(Duration::from_secs(10), start).await.expect("it waits");
    store.unwrap().close().await;
}
