//! Servers over one database, each through a wire of its own, and what is asked of them; and a replica in this
//! process.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::cache::Cache;
use portcullis::clock::Stopwatch;
use portcullis::grpc::proto::{
    AuthorizeRequest, AuthorizeResponse, Decision, DeleteTokenRequest, DeleteTokenResponse, Reason,
    Token, TokenKind,
};
use portcullis::model::{Actor, Context, Credential, Role};
use portcullis::policy::client_source::ClientSource;
use portcullis::policy::id::CredentialId;
use portcullis::policy::time::Timestamp;
use portcullis::replication::{RegisteredReplica, Replicas};
use portcullis::secret::{Digest, digest};
use portcullis::store::Store;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::replication::ReplicaInfo;
use portcullis::telemetry::Metrics;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::replicas::proxy::{Proxy, Wire};
use crate::support::client::{Client, question};
use crate::support::postgres::{self, Cluster};
use crate::support::server::{Server, Setup, random_credential};

/// How long the leases are here, unless told otherwise.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// How long anything takes that waits for nobody who is gone, on a busy machine.
pub(crate) const PROMPT: Duration = Duration::from_millis(1_500);
/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Servers over one database, each with a client of role operator.
pub(crate) struct Stage {
    pub(crate) servers: Vec<Server>,
    pub(crate) clients: Vec<Client>,
    pub(crate) wires: Vec<Proxy>,
    pub(crate) account: String,
    cluster: Option<Cluster>,
    pub(crate) url: String,
}

impl Stage {
    pub(crate) async fn new(count: usize) -> Self {
        Self::with(count, |_, setup| setup).await
    }

    pub(crate) async fn with(count: usize, change: impl Fn(usize, Setup) -> Setup) -> Self {
        Self::leased(LEASE, count, change).await
    }

    /// So many servers over a cluster of their own, which may be stopped and reconfigured.
    pub(crate) async fn with_own_cluster(lease: Duration, count: usize) -> Self {
        let cluster = Cluster::with_fsync();
        let stage = Self::wired(&cluster, lease, count, |_, setup| setup).await;
        Self { cluster: Some(cluster), ..stage }
    }

    pub(crate) async fn leased(
        lease: Duration,
        count: usize,
        change: impl Fn(usize, Setup) -> Setup,
    ) -> Self {
        Self::wired(postgres::shared(), lease, count, change).await
    }

    /// So many servers over a database of that cluster, each through a wire of its own.
    async fn wired(
        cluster: &Cluster,
        lease: Duration,
        count: usize,
        change: impl Fn(usize, Setup) -> Setup,
    ) -> Self {
        let url = cluster.database();
        let wires: Vec<_> = (0..count).map(|_| Proxy::new(cluster.port())).collect();
        let urls: Vec<_> = wires.iter().map(|wire| wire.url(&url)).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let stage = Self::leased_over(lease, &urls, change).await;
        Self { wires, url, ..stage }
    }

    /// A server over each of these.
    pub(crate) async fn leased_over(
        lease: Duration,
        urls: &[&str],
        change: impl Fn(usize, Setup) -> Setup,
    ) -> Self {
        let operator = random_credential();
        let lease = format!("{}ms", lease.as_millis());
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for (at, url) in urls.iter().enumerate() {
            let setup = Setup::postgres(url).operator(&operator).flag("--lease", &lease);
            let server = change(at, setup).start();
            clients.push(Client::operator(&server).await);
            servers.push(server);
        }
        let account = clients[0].account().await.account_id;
        let url = urls[0].to_owned();
        Self { servers, clients, wires: Vec::new(), account, cluster: None, url }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().expect("a cluster of its own")
    }

    /// Carries out a statement in its database.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let (_, database) = self.url.rsplit_once('/').expect("a database");
        self.cluster.as_ref().unwrap_or_else(|| postgres::shared()).sql(database, statement)
    }

    /// A token that may read, from anywhere.
    pub(crate) async fn token(&self, at: usize) -> (Token, String) {
        self.clients[at].token(&self.account, TokenKind::ReadOnly, &[], &[]).await
    }

    /// What the server `at` says of `secret`.
    pub(crate) async fn ask(&self, at: usize, secret: &str) -> Result<AuthorizeResponse, Status> {
        let request = question(secret, "192.0.2.1", "transactions.read");
        self.clients[at].authorization().authorize(request).await.map(tonic::Response::into_inner)
    }

    /// What the server `at` would say of `secret`, which is no use of it.
    pub(crate) async fn try_dry(&self, at: usize, secret: &str) -> AuthorizeResponse {
        let ask = question(secret, "192.0.2.1", "transactions.read");
        let ask = AuthorizeRequest { dry_run: true, ..ask };
        self.clients[at].authorization().authorize(ask).await.unwrap().into_inner()
    }

    pub(crate) async fn allows(&self, at: usize, secret: &str) {
        let answer = self.ask(at, secret).await.unwrap();
        assert_eq!(answer.decision(), Decision::Allow, "server {at}: {answer:?}");
    }

    pub(crate) async fn denies(&self, at: usize, secret: &str) {
        let answer = self.ask(at, secret).await.unwrap();
        assert_eq!(answer.reason(), Reason::TokenDeleted, "server {at}: {answer:?}");
    }

    pub(crate) async fn denies_unused(&self, at: usize, secret: &str) {
        let answer = self.ask(at, secret).await.unwrap();
        assert_eq!(answer.reason(), Reason::TokenDeletedUnused, "server {at}: {answer:?}");
    }

    /// Asks the server `at` until it decides again; how long that took. Until then it says that it
    /// can't.
    pub(crate) async fn comes_back(&self, at: usize, secret: &str) -> Duration {
        let began = Instant::now();
        loop {
            match self.ask(at, secret).await {
                Ok(_) => return began.elapsed(),
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
            }
            assert!(began.elapsed() < PATIENCE, "server {at} does not come back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn delete(
        &self,
        at: usize,
        token_id: &str,
        no_wait: bool,
    ) -> Result<DeleteTokenResponse, Status> {
        let request = DeleteTokenRequest { token_id: token_id.to_owned(), no_wait };
        self.clients[at].tokens().delete_token(request).await.map(tonic::Response::into_inner)
    }

    /// Deletes, and says how long that took to bind.
    pub(crate) async fn deletes(&self, at: usize, token_id: &str) -> Duration {
        let began = Instant::now();
        let deleted = self.delete(at, token_id, false).await.unwrap();
        assert!(deleted.propagation.unwrap().complete);
        began.elapsed()
    }

    /// Cuts the server `at` off; or joins it again.
    pub(crate) fn cut(&self, at: usize, cut: bool) {
        self.wires[at].set(Wire { cut, ..Wire::default() });
    }
}

/// What a server has of the replication, without the rest of it, in this process.
pub(crate) struct Replica {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) replicas: Replicas,
    /// Ends what keeps the lease, as if the process had died.
    pub(crate) stop: CancellationToken,
}

impl Replica {
    pub(crate) async fn join(url: &str, options: PostgresOptions, lease: Duration) -> Self {
        let store: Arc<dyn Store> = Arc::new(PostgresStore::connect(url, options).await.unwrap());
        store.add_secret_key(&by_system(), &[7; 32], true).await.unwrap();
        let about = ReplicaInfo {
            name: "here".to_owned(),
            version: String::new(),
            lifecycle: String::new(),
        };
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        let joined = RegisteredReplica::register(
            &*store,
            lease,
            about,
            metrics.clone(),
            CancellationToken::new(),
        );
        let joined = joined.await.unwrap();
        let cache = Cache::load(store.clone(), 100, metrics, Handle::current()).await;
        let cache = Arc::new(cache.unwrap());
        let replicas = joined.serve(cache.clone(), &stop);
        Self { store, cache, replicas, stop }
    }

    pub(crate) fn may_decide(&self) -> bool {
        self.replicas.may_decide(Stopwatch::start())
    }
}

/// A credential of role `pep`, not stored yet.
pub(crate) fn new_credential() -> (Credential, Digest) {
    let id = Uuid::now_v7();
    let credential = Credential {
        id: CredentialId(id),
        role: Role::Pep,
        name: "gateway".to_owned(),
        created: by_system().now,
        revoked: None,
        expires: None,
        last_use: None,
        from_settings: false,
        client_source: Some(Arc::new(ClientSource::development())),
        client_certificates: Vec::new(),
    };
    (credential, digest(id.as_bytes()))
}

pub(crate) fn by_system() -> Context {
    Context::new(Actor::System, Timestamp(0), None)
}

/// Looks until it is as wanted.
pub(crate) async fn until<T: Debug>(mut look: impl FnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let began = Instant::now();
    loop {
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        assert!(began.elapsed() < PATIENCE, "still {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
