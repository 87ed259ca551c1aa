//! What is acknowledged was made effective before: looked at from outside, at the instant when the store has the
//! acknowledgement and the replica has no answer to it.

use std::time::Duration;

use portcullis::policy::id::TokenId;
use portcullis::policy::time::Timestamp;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::{CredentialStore as _, Store as _};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::replicas::proxy::{Proxy, Wire};
use crate::replicas::stage::{Replica, by_system, new_credential, until};
use crate::support::postgres;

/// Long enough that nothing of it ends meanwhile.
const LEASE: Duration = Duration::from_secs(30);

/// A replica behind a wire, and another process that makes changes.
struct Stage {
    url: String,
    proxy: Proxy,
    replica: Replica,
    other: PostgresStore,
}

impl Stage {
    async fn new() -> Self {
        let cluster = postgres::shared();
        let url = cluster.database();
        let proxy = Proxy::new(cluster.port());
        let replica = Replica::join(&proxy.url(&url), PostgresOptions::default(), LEASE).await;
        let other = PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap();
        Self { url, proxy, replica, other }
    }

    fn sql(&self, statement: &str) -> String {
        let (_, database) = self.url.rsplit_once('/').unwrap();
        postgres::shared().sql(database, statement)
    }

    /// Up to where the replica has acknowledged, less the head.
    fn behind(&self) -> i64 {
        self.sql("SELECT h.position - r.applied FROM head h, replica r").parse().unwrap()
    }

    /// Waits until it has acknowledged everything.
    async fn acknowledged(&self) {
        until(|| self.behind(), |behind| *behind == 0).await;
    }

    /// A change to a token, as whoever makes one records it.
    async fn change_token(&self, id: TokenId) {
        let mut database = PgConnection::connect(&self.url).await.unwrap();
        let mut change = database.begin().await.unwrap();
        let head = "UPDATE head SET position = position + 1";
        sqlx::query(head).execute(&mut *change).await.unwrap();
        let record = "INSERT INTO change (position, time, touched, key) \
            SELECT position, 1, 'token', $1 FROM head";
        sqlx::query(record).bind(id.0).execute(&mut *change).await.unwrap();
        change.commit().await.unwrap();
    }
}

/// By a notification, and by the record where those get lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_forgotten_before_its_change_is_acknowledged() {
    let stage = Stage::new().await;
    let id = TokenId(Uuid::now_v7());
    let generation = || stage.replica.cache.tokens.generation(id);
    // The connection for acknowledgements is there then.
    stage.change_token(id).await;
    stage.acknowledged().await;
    for mute in [false, true] {
        let before = generation();
        stage.proxy.set(Wire { unanswered: true, mute, ..Wire::default() });
        stage.change_token(id).await;
        if mute {
            // One that gets through has everything read from the record.
            stage.change_token(id).await;
            stage.proxy.set(Wire { unanswered: true, ..Wire::default() });
            stage.sql("SELECT pg_notify('portcullis_change', 'more')");
        }
        stage.acknowledged().await;
        assert_ne!(generation(), before, "acknowledged before it was made effective, mute: {mute}");
        stage.proxy.set(Wire::default());
        stage.change_token(id).await;
        stage.acknowledged().await;
    }
    stage.other.close().await;
}

/// What has to be read first is acknowledged once it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_is_read_before_its_change_is_acknowledged() {
    let stage = Stage::new().await;
    let (new, digest) = new_credential();
    stage.other.create_credential(&by_system(), &new, &digest).await.unwrap().unwrap();
    stage.acknowledged().await;
    let known = || stage.replica.cache.credentials.by_digest(&digest, || Timestamp(0)).is_some();
    assert!(known());
    let gateway = stage.replica.cache.credentials.gateway(&digest, || Timestamp(0)).unwrap();
    assert_eq!(Some(gateway.client_source), new.client_source);
    let mut database = PgConnection::connect(&stage.url).await.unwrap();
    let mut change = database.begin().await.unwrap();
    for statement in [
        "UPDATE credential SET revoke_time = 1",
        "UPDATE head SET position = position + 1",
        "INSERT INTO change (position, time, touched, key) \
         SELECT position, 1, 'credential', (SELECT credential_id FROM credential) FROM head",
    ] {
        sqlx::query(statement).execute(&mut *change).await.unwrap();
    }
    // Another session has the table when the change is there to be read.
    let mut holder = PgConnection::connect(&stage.url).await.unwrap();
    let mut turn = holder.begin().await.unwrap();
    let hold = sqlx::query("LOCK TABLE credential IN ACCESS EXCLUSIVE MODE");
    let (held, ()) = tokio::join!(hold.execute(&mut *turn), async {
        let waits = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until(|| stage.sql(waits), |count| count == "1").await;
        change.commit().await.unwrap();
    });
    held.unwrap();
    let reads = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock' AND query LIKE '%FROM credential WHERE%'";
    until(|| stage.sql(reads), |count| count != "0").await;
    assert_eq!(stage.behind(), 1, "acknowledged before it was read");
    turn.commit().await.unwrap();
    stage.acknowledged().await;
    assert!(!known());
    stage.other.close().await;
}
