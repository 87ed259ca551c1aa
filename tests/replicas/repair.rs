//! Memory after a change that it can't follow at once: what can't be read back allows nothing until it can, and
//! what became of a commit without an answer is found out. One process, without the record of others, which
//! would make up for it.

use std::sync::Arc;
use std::time::Duration;

use portcullis::cache::Cache;
use portcullis::model::{Account, Credential, Invalidation};
use portcullis::policy::catalog_file;
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenState;
use portcullis::replication::Replicas;
use portcullis::secret::Digest;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::{Store, StoreError};
use portcullis::telemetry::Metrics;
use portcullis::writes::Writes;
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::replicas::proxy::{Proxy, Wire};
use crate::replicas::stage::{by_system, new_credential, until};
use crate::support::{decisions, postgres};

const TOML: &str = "[[scope]]\nname = \"s\"\naccess = \"read\"\n";

/// A store behind a wire, with a catalogue and a credential that are in memory.
struct Stage {
    url: String,
    proxy: Proxy,
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    replicas: Arc<Replicas>,
    writes: Writes,
    credential: Credential,
    digest: Digest,
}

impl Stage {
    async fn new() -> Self {
        let cluster = postgres::shared();
        let url = cluster.database();
        let proxy = Proxy::new(cluster.port());
        let store = PostgresStore::connect(&proxy.url(&url), PostgresOptions::default()).await;
        let store: Arc<dyn Store> = Arc::new(store.unwrap());
        let ctx = by_system();
        store.add_secret_key(&ctx, &[7; 32], true).await.unwrap();
        let (credential, digest) = new_credential();
        store.create_credential(&ctx, &credential, &digest).await.unwrap().unwrap();
        let names: Vec<_> =
            catalog_file::parse(TOML).unwrap().into_iter().map(|scope| scope.name).collect();
        store.apply_catalog(&ctx, None, TOML, &names).await.unwrap().unwrap();
        let metrics = Arc::new(Metrics::new());
        let cache = Cache::load(store.clone(), 100, metrics.clone(), Handle::current()).await;
        let cache = Arc::new(cache.unwrap());
        let replicas = Arc::new(Replicas::alone(cache.clone()));
        let writes = Writes::new(store.clone(), cache.clone(), replicas.clone(), metrics);
        let stage = Self { url, proxy, store, cache, replicas, writes, credential, digest };
        assert!(stage.accepts());
        stage
    }

    fn accepts(&self) -> bool {
        self.cache.credentials.by_digest(&self.digest, || Timestamp(0)).is_some()
    }

    fn sql(&self, statement: &str) -> String {
        let (_, database) = self.url.rsplit_once('/').unwrap();
        postgres::shared().sql(database, statement)
    }

    /// Makes a change of what `touched` says, after which the table can't be read until it has its name again.
    async fn change_and_hide(&self, touched: Invalidation, table: &str) {
        let change = async {
            self.store.await_pending_changes(&by_system()).await?;
            self.sql(&format!("ALTER TABLE {table} RENAME TO hidden"));
            Ok(())
        };
        self.writes.commit("a change", touched, &by_system(), change).await.unwrap();
    }

    /// Connections that died may each cost one call.
    async fn await_propagated_revision(&self) {
        while self.replicas.await_propagated_revision().await.is_err() {}
    }

    fn show(&self, table: &str) {
        self.sql(&format!("ALTER TABLE hidden RENAME TO {table}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_can_not_be_read_back_is_refused_until_it_can() {
    let stage = Stage::new().await;
    stage.change_and_hide(Invalidation::Credential(stage.credential.id), "credential").await;
    assert!(!stage.accepts(), "whether it was revoked is not known");
    stage.show("credential");
    until(|| stage.accepts(), |accepts| *accepts).await;
    // And so it stays where it was revoked.
    stage.store.revoke_credential(&by_system(), stage.credential.id).await.unwrap();
    stage.change_and_hide(Invalidation::Credential(stage.credential.id), "credential").await;
    assert!(!stage.accepts());
    stage.show("credential");
    stage.cache.invalidate(Invalidation::Credential(stage.credential.id)).await;
    assert!(!stage.accepts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalogue_that_can_not_be_read_back_decides_nothing_until_it_can() {
    let stage = Stage::new().await;
    let version = || stage.cache.catalog().map(|in_force| in_force.catalog.version());
    assert_eq!(version(), Some(1));
    stage.change_and_hide(Invalidation::Catalog, "catalog").await;
    assert_eq!(version(), None, "whether it is still in force is not known");
    stage.show("catalog");
    until(version, |version| *version == Some(1)).await;
}

/// Begins a revocation whose commit waits, and loses the connection then. Gives what ends that wait.
async fn revoke_without_an_answer(stage: &Stage) -> PgConnection {
    let statements = [
        "CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER wait AFTER UPDATE ON credential DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION wait_at_commit()",
    ];
    for statement in statements {
        stage.sql(statement);
    }
    let mut holder = PgConnection::connect(&stage.url).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(7)").execute(&mut holder).await.unwrap();
    let (id, context) = (stage.credential.id, by_system());
    let revoke = stage.store.revoke_credential(&context, id);
    let change = stage.writes.commit("revoke", Invalidation::Credential(id), &context, revoke);
    let (changed, ()) = tokio::join!(change, async {
        let waits = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event = 'advisory'";
        until(|| stage.sql(waits), |count| count == "1").await;
        stage.proxy.set(Wire { cut: true, ..Wire::default() });
    });
    assert!(matches!(changed, Err(StoreError::Unknown(_))), "{changed:?}");
    stage.proxy.set(Wire::default());
    holder
}

/// Rule 5.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_found_out() {
    let stage = Stage::new().await;
    let mut holder = revoke_without_an_answer(&stage).await;
    // Nobody was told that it is revoked, and it may not be. Whoever asks what decisions rest on waits.
    assert!(stage.accepts());
    let mut position = Box::pin(stage.await_propagated_revision());
    let early = tokio::time::timeout(Duration::from_millis(700), &mut position).await;
    assert!(early.is_err(), "decisions don't rest on that change yet: {early:?}");
    sqlx::query("SELECT pg_advisory_unlock(7)").execute(&mut holder).await.unwrap();
    until(|| stage.accepts(), |accepts| !accepts).await;
    position.await;
    assert_eq!(stage.sql("SELECT count(*) FROM credential WHERE revoke_time IS NULL"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_not_made_after_all_changes_nothing() {
    let stage = Stage::new().await;
    let _holder = revoke_without_an_answer(&stage).await;
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event = 'advisory'";
    assert_eq!(stage.sql(ended), "1");
    // Waits until that is known.
    stage.await_propagated_revision().await;
    assert!(stage.accepts());
    assert_eq!(stage.sql("SELECT count(*) FROM credential WHERE revoke_time IS NULL"), "1");
}

/// Rule 6.12: the answer would have said which tokens were changed, so all are read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_commit_without_an_answer_are_read_again() {
    let stage = Stage::new().await;
    let (ctx, id) = (by_system(), TokenId(Uuid::now_v7()));
    let account = Account {
        id: AccountId(Uuid::now_v7()),
        name: "x".into(),
        admins: vec!["a@b.c".into()],
        created: Timestamp(0),
        suspended: None,
        closed: None,
    };
    stage.store.create_account(&ctx, &account).await.unwrap();
    let new = decisions::read_only(id, account.id, [1; 32]);
    let active = stage.cache.catalog().unwrap();
    stage.store.create_token(&ctx, &active.catalog, &new).await.unwrap().unwrap();
    let state = async || stage.cache.tokens.read(id).await.unwrap().unwrap().state;
    assert_eq!(state().await, TokenState::Active);
    let before = stage.replicas.revision();
    let lost = async {
        stage.store.delete_token(&ctx, id, None).await?;
        Err::<(), _>(StoreError::Unknown(sqlx::Error::WorkerCrashed))
    };
    let lost = stage.writes.commit_tokens("a change", &ctx, lost, |()| Vec::new()).await;
    assert!(matches!(lost, Err(StoreError::Unknown(_))), "{lost:?}");
    assert_eq!(stage.replicas.revision(), before, "memory does not follow it yet");
    let known = stage.replicas.await_propagated_revision().await.unwrap();
    assert!(matches!(state().await, TokenState::Deleted { .. }));
    assert!(known > before);
}
