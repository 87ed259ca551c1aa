//! Decisions on tokens that have to be read first: the whole secret is compared with what was read, and a
//! read that outlives the lease decides nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure"
)]

use std::sync::Arc;
use std::time::Duration;

use crate::support::client::{Client, question};
use crate::support::decisions::{self, InProcess};
use crate::support::server::Setup;
use crate::support::{postgres, wait};
use futures_util::{StreamExt as _, stream};
use portcullis::cache::Cache;
use portcullis::clock::Stopwatch;
use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, Reason, StreamAuthorizeRequest, TokenKind,
    batch_authorize_result, stream_authorize_response,
};
use portcullis::model::Account;
use portcullis::policy::catalog_file;
use portcullis::policy::decide;
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::time::Timestamp;
use portcullis::replication::RegisteredReplica;
use portcullis::secret::{Secret, SecretKind};
use portcullis::service::decisions::{AuthorizeInput, RequestedOperation};
use portcullis::service::{Caller, Error};
use portcullis::store::Store;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::replication::ReplicaInfo;
use portcullis::telemetry::Metrics;
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const SCOPE: &str = "transactions.read";

/// The reason for one request, by each call that there is.
async fn reasons(client: &Client, call: &str, secret: &str) -> Reason {
    let request = question(secret, "192.0.2.1", SCOPE);
    match call {
        "Authorize" => {
            client.authorization().authorize(request).await.unwrap().into_inner().reason()
        }
        "BatchAuthorize" => {
            // Beside one that is no token, which needs no reading.
            let requests =
                vec![AuthorizeRequest { token: String::new(), ..request.clone() }, request];
            let batch = BatchAuthorizeRequest { requests };
            let batch = client.authorization().batch_authorize(batch).await.unwrap().into_inner();
            match batch.results[1].result.as_ref().unwrap() {
                batch_authorize_result::Result::Response(response) => response.reason(),
                batch_authorize_result::Result::Error(error) => panic!("no decision: {error:?}"),
            }
        }
        _ => {
            let item = StreamAuthorizeRequest { request: Some(request) };
            let answers = client.authorization().stream_authorize(stream::iter([item])).await;
            let answer = answers.unwrap().into_inner().next().await.unwrap().unwrap();
            match answer.result.unwrap() {
                stream_authorize_response::Result::Response(response) => response.reason(),
                stream_authorize_response::Result::Error(error) => panic!("no decision: {error:?}"),
            }
        }
    }
}

/// A secret of the right id, made under the right key, that is not the token's: only its digest tells.
/// Rules 2.5 and 7.6.
#[tokio::test]
async fn a_secret_with_a_right_tag_and_a_wrong_digest_opens_no_token_that_is_read_first() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let keys = postgres::secret_keys(&url).await;
    for call in ["Authorize", "BatchAuthorize", "StreamAuthorize"] {
        let (token, secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let id: TokenId = token.token_id.parse().unwrap();
        let prefix = secret.split_once('_').unwrap().0.parse().unwrap();
        let other = keys.make(SecretKind::Token, &prefix, id.0, &[1; 16]);
        let misses = server.metric("portcullis_cache_misses_total").unwrap();
        let forged = server.metric("portcullis_forged_tokens_total");
        // First before anything is known of the token, then when it is.
        for _ in 0..2 {
            assert_eq!(
                reasons(&client, call, other.expose()).await,
                Reason::TokenNotFound,
                "{call}"
            );
        }
        assert!(server.metric("portcullis_cache_misses_total") > Some(misses), "{call}");
        assert_eq!(server.metric("portcullis_forged_tokens_total"), forged, "its tag is right");
        assert_eq!(reasons(&client, call, &secret).await, Reason::Allowed, "{call}");
    }
}

fn about(secret: &str) -> AuthorizeInput<'_> {
    let operation = RequestedOperation::Scope(SCOPE);
    AuthorizeInput {
        token: secret.as_bytes(),
        presented: secret.as_bytes(),
        client_ip: "",
        operation,
        dry_run: false,
        at_least_as_fresh: 0,
    }
}

/// Services over a Postgres store, with one token that isn't in memory.
struct Stage {
    services: InProcess,
    id: TokenId,
    secret: Secret,
    url: String,
}

impl Stage {
    /// Services whose lease is never renewed: it holds for `lease` and is over then.
    async fn leased(lease: Duration) -> Self {
        let url = postgres::database();
        let store = PostgresStore::connect(&url, PostgresOptions::default()).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let ctx = Caller::development(None).context(Timestamp(0));
        store.add_secret_key(&ctx, &[7; 32], true).await.unwrap();
        let toml = format!("[[scope]]\nname = \"{SCOPE}\"\naccess = \"read\"\n");
        let names: Vec<_> =
            catalog_file::parse(&toml).unwrap().into_iter().map(|scope| scope.name).collect();
        store.apply_catalog(&ctx, None, &toml, &names).await.unwrap().unwrap();
        let account = Account {
            id: AccountId(Uuid::now_v7()),
            name: "x".into(),
            admins: vec!["a@b.example".into()],
            created: Timestamp(0),
            suspended: None,
            closed: None,
        };
        store.create_account(&ctx, &account).await.unwrap();

        let metrics = Arc::new(Metrics::new());
        let about =
            ReplicaInfo { name: "test".into(), version: "1".into(), lifecycle: String::new() };
        let joined = RegisteredReplica::register(
            &*store,
            lease,
            about,
            metrics.clone(),
            CancellationToken::new(),
        );
        let joined = joined.await.unwrap();
        let cache = Cache::load(store.clone(), 1_000, metrics.clone(), Handle::current()).await;
        let cache = Arc::new(cache.unwrap());
        // What would renew the lease has stopped.
        let stopped = CancellationToken::new();
        stopped.cancel();
        let replicas = joined.serve(cache.clone(), &stopped);

        let id = TokenId(Uuid::now_v7());
        let prefix = "pcl".parse().unwrap();
        let secret = cache.keys().make(SecretKind::Token, &prefix, id.0, &[1; 16]);
        let new = decisions::read_only(id, account.id, secret.digest());
        let in_force = cache.catalog().unwrap();
        store.create_token(&ctx, &in_force.catalog, &new).await.unwrap().unwrap();
        let services = decisions::services(store, cache, replicas, metrics);
        Self { services, id, secret, url }
    }

    fn question(&self) -> AuthorizeInput<'_> {
        about(self.secret.expose())
    }

    /// Asks for a decision, whose read waits for as long as `meanwhile` takes.
    async fn decide_while(
        &self,
        meanwhile: impl AsyncFnOnce(&InProcess),
    ) -> Result<decide::Reason, Error> {
        let mut database = PgConnection::connect(&self.url).await.unwrap();
        let mut watcher = PgConnection::connect(&self.url).await.unwrap();
        let mut held = database.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE token IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *held)
            .await
            .unwrap();
        let asked = tokio::spawn({
            let (services, secret) = (self.services.clone(), self.secret.expose().to_owned());
            async move {
                let question = about(&secret);
                decisions::reason(&services, &question).await
            }
        });
        // Until the read waits: it began under a lease.
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted \
                     AND relation = 'token'::regclass \
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        loop {
            let waiting: i64 = sqlx::query_scalar(waits).fetch_one(&mut watcher).await.unwrap();
            if waiting > 0 {
                break;
            }
            assert!(!asked.is_finished(), "decided without a read: {:?}", asked.await);
        }
        meanwhile(&self.services).await;
        held.rollback().await.unwrap();
        asked.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_ends_under_the_lease_decides() {
    let stage = Stage::leased(Duration::from_secs(600)).await;
    let decided = stage.decide_while(async |_| {}).await;
    assert_eq!(decided.unwrap(), decide::Reason::Allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_outlives_the_lease_decides_nothing() {
    // Longer than the stage takes to be set, and shorter than a read may take.
    let stage = Stage::leased(Duration::from_secs(4)).await;
    let decided = stage
        .decide_while(async |services| {
            let left = || services.parts.replicas.lease_left();
            tokio::task::block_in_place(|| wait::until(left, |left| *left == Some(Duration::ZERO)));
        })
        .await;
    let undecided = |decided| match decided {
        Err(Error::Unavailable { why, .. }) => assert!(why.contains("lease"), "{why}"),
        other => panic!("{other:?}"),
    };
    undecided(decided);

    // The token is in memory now, and neither one question nor many are decided from there.
    let services = &stage.services;
    let question = stage.question();
    assert!(services.decision_context(None).is_none());
    undecided(decisions::reason(services, &question).await);
}

/// What was read may be out of date where the token changed during a long read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_read_of_a_token_that_changed_meanwhile_is_made_again() {
    let stage = Stage::leased(Duration::from_secs(600)).await;
    let misses = || stage.services.parts.metrics.cache_misses.get();
    for (changes, reads) in [(false, 1), (true, 2)] {
        stage.services.parts.cache.tokens.invalidate(stage.id).await;
        let before = misses();
        let decided = stage
            .decide_while(async |services| {
                let begun = Stopwatch::start();
                if changes {
                    services.parts.cache.tokens.invalidate(stage.id).await;
                }
                // What is short is taken as it is.
                let long = |elapsed: &Duration| *elapsed > Duration::from_millis(100);
                tokio::task::block_in_place(|| wait::until(|| begun.elapsed(), long));
            })
            .await;
        assert_eq!(decided.unwrap(), decide::Reason::Allowed);
        assert_eq!(misses() - before, reads, "changes: {changes}");
    }
}
