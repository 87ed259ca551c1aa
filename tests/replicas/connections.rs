//! Which connections count: none whose making began before a failover, however late it ended, and none that
//! leads to a former primary. Two real servers, of which the former primary goes on running.

use std::sync::Arc;
use std::time::Duration;

use portcullis::lease::{LeaseDuration, RowId};
use portcullis::model::Invalidation;
use portcullis::policy::id::{CredentialId, TokenId};
use portcullis::policy::time::Timestamp;
use portcullis::secret::Digest;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::replication::ReplicaInfo;
use portcullis::store::{CredentialStore as _, Store, StoreError};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::replicas::proxy::{Proxy, Wire};
use crate::replicas::stage::{LEASE, PATIENCE, Replica, by_system, new_credential, until};
use crate::support::postgres::{self, Cluster};

/// One connection for decisions and one for management.
const FEW: PostgresOptions =
    PostgresOptions { max_connections: 2, acquire_timeout: PATIENCE, statement_timeout: PATIENCE };

/// Sessions of a server's store, in the database that is asked.
const SESSIONS: &str = "FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'portcullis'";

/// A replica over a primary with a synchronous standby, and a credential that it knows.
struct Failover {
    primary: Cluster,
    standby: Cluster,
    database: String,
    proxy: Proxy,
    replica: Replica,
    credential: CredentialId,
    digest: Digest,
}

impl Failover {
    async fn new(options: PostgresOptions) -> Self {
        let primary = Cluster::with_fsync();
        let direct = primary.database();
        let (_, database) = direct.rsplit_once('/').unwrap();
        let standby = primary.synchronous_standby();
        let proxy = Proxy::new(primary.port());
        let replica = Replica::join(&proxy.url(&direct), options, LEASE).await;
        let (new, digest) = new_credential();
        let credential = new.id;
        replica.store.create_credential(&by_system(), &new, &digest).await.unwrap().unwrap();
        replica.cache.invalidate(Invalidation::Credential(credential)).await;
        let database = database.to_owned();
        let failover = Self { primary, standby, database, proxy, replica, credential, digest };
        assert!(failover.knows_credential());
        failover
    }

    fn knows_credential(&self) -> bool {
        self.replica.cache.credentials.by_digest(&self.digest, || Timestamp(0)).is_some()
    }

    /// Ends the sessions that the replica has in that server.
    fn end_sessions(&self, cluster: &Cluster) {
        cluster.sql(&self.database, &format!("SELECT count(pg_terminate_backend(pid)) {SESSIONS}"));
    }

    /// The standby leads, the credential is revoked there, and new connections lead there. The former primary
    /// goes on, and answers whoever reads. Returns once the replica has registered with the new one.
    async fn happen(&self) {
        let former = self.primary.sql(&self.database, "SELECT replica_id FROM replica");
        self.standby.promote();
        let url =
            format!("postgres://postgres@127.0.0.1:{}/{}", self.standby.port(), self.database);
        let other = PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap();
        let revoked = other.revoke_credential(&by_system(), self.credential).await.unwrap();
        assert!(revoked.unwrap().unwrap().revoked.is_some());
        other.close().await;
        self.proxy.lead(self.standby.port());
        self.proxy.set(Wire::default());
        self.end_sessions(&self.primary);
        let registered = format!("SELECT count(*) FROM replica WHERE replica_id <> '{former}'");
        until(|| self.standby.sql(&self.database, &registered), |count| count == "1").await;
        let live = format!(
            "SELECT count(*) FROM credential WHERE revoke_time IS NULL AND credential_id = '{}'",
            self.credential.0
        );
        assert_eq!(self.primary.sql(&self.database, &live), "1", "it still shows what was");
        assert_eq!(self.standby.sql(&self.database, &live), "0");
    }

    async fn decides(&self) {
        until(|| self.replica.may_decide(), |may| *may).await;
    }
}

/// Reads through the connection of management until there is an answer.
fn read(store: &Arc<dyn Store>) -> JoinHandle<()> {
    let store = store.clone();
    tokio::spawn(async move { while store.now().await.is_err() {} })
}

/// A connect to the former primary that began before the replica registered with the new one, and ends after
/// that: what is in memory while the lease holds is not read through it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_credential_is_not_read_back_from_the_former_primary() {
    let failover = Failover::new(FEW).await;
    let Failover { proxy, replica, .. } = &failover;
    proxy.set(Wire { withheld: true, ..Wire::default() });
    // That of management ends, and another one is being made.
    let management = format!(
        "SELECT count(pg_terminate_backend(pid)) {SESSIONS} AND query NOT LIKE '%position%' \
         AND query NOT LIKE '%replica%' AND query NOT LIKE 'LISTEN%'"
    );
    replica.store.now().await.unwrap();
    assert_ne!(failover.primary.sql(&failover.database, &management), "0");
    let reading = read(&replica.store);
    until(|| proxy.withheld(), |withheld| *withheld > 0).await;
    assert!(!reading.is_finished());
    failover.happen().await;
    proxy.release();
    failover.decides().await;
    assert!(!failover.knows_credential(), "it was read from the former primary");
    reading.await.unwrap();
    replica.cache.invalidate(Invalidation::Credential(failover.credential)).await;
    assert!(replica.may_decide() && !failover.knows_credential());
}

/// As where a name leads now to one server and now to the other: nothing is read from the former primary, for
/// management or for decisions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_to_the_former_primary_is_refused() {
    let soon = Duration::from_secs(1);
    let failover = Failover::new(PostgresOptions { acquire_timeout: soon, ..FEW }).await;
    failover.happen().await;
    failover.decides().await;
    assert!(!failover.knows_credential());
    let Failover { proxy, replica, primary, standby, .. } = &failover;
    let token = TokenId(Uuid::now_v7());
    proxy.lead(primary.port());
    failover.end_sessions(standby);
    let unavailable = |error| assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    for _ in 0..3 {
        unavailable(replica.store.credential(failover.credential).await.unwrap_err());
        unavailable(replica.store.token_facts(token).await.unwrap_err());
        replica.cache.invalidate(Invalidation::Credential(failover.credential)).await;
        assert!(!failover.knows_credential());
    }
    proxy.lead(standby.port());
    // Connections that died may each cost one call.
    let read = async {
        while replica.store.token_facts(token).await.is_err() {}
        loop {
            if let Ok(read) = replica.store.credential(failover.credential).await {
                break read.unwrap().0;
            }
        }
    };
    let read = tokio::time::timeout(PATIENCE, read).await.expect("the new primary is not found");
    assert!(read.revoked.is_some());
}

/// Which server is the newest is known from the registration, before anything else leads there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_registration_nothing_is_read_from_the_former_primary() {
    let primary = Cluster::with_fsync();
    let direct = primary.database();
    let standby = primary.synchronous_standby();
    let proxy = Proxy::new(primary.port());
    let soon = PostgresOptions { acquire_timeout: Duration::from_secs(1), ..FEW };
    let store = PostgresStore::connect(&proxy.url(&direct), soon).await.unwrap();
    let replication = store.replication().unwrap();
    store.now().await.unwrap();
    standby.promote();
    proxy.lead(standby.port());
    let about =
        ReplicaInfo { name: "here".into(), version: String::new(), lifecycle: String::new() };
    let length = LeaseDuration(1_000_000);
    replication.register(RowId(7), length, None, &about).await.unwrap();
    proxy.lead(primary.port());
    replication.reconnect();
    let refused = store.now().await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    proxy.lead(standby.port());
    store.now().await.unwrap();
    store.close().await;
}

/// The same without a failover, so that nothing but the connection's age tells: no clock has a part in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_under_way_when_connections_are_made_anew_is_not_used_afterwards() {
    let cluster = postgres::shared();
    let direct = cluster.database();
    let proxy = Proxy::new(cluster.port());
    let store = PostgresStore::connect(&proxy.url(&direct), FEW).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let replication = store.replication().unwrap();
    let told =
        async || tokio::time::timeout(PATIENCE, replication.next_notification()).await.unwrap();
    assert_eq!(told().await, None);
    replication.reconnect();
    assert_eq!(told().await, None, "it listens again");
    proxy.set(Wire { withheld: true, ..Wire::default() });
    let reading = read(&store);
    until(|| proxy.withheld(), |withheld| *withheld > 0).await;
    proxy.set(Wire::default());
    replication.reconnect();
    proxy.release();
    reading.await.unwrap();

    let (_, database) = direct.rsplit_once('/').unwrap();
    let last = || {
        let last = format!(
            "SELECT pid {SESSIONS} AND query LIKE '%clock_timestamp%' ORDER BY query_start DESC LIMIT 1"
        );
        cluster.sql(database, &last)
    };
    // It may be closed already.
    let late = last();
    store.now().await.unwrap();
    let used = last();
    assert!(!used.is_empty());
    assert_ne!(used, late, "the late connection was used again");
    store.close().await;
}
