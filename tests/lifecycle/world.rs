//! Everything that a server has in memory, over a store of its own and a clock that stands still until
//! it is moved. Memory can be lost and built anew, as by a crash.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis::cache::Cache;
use portcullis::clock::Clock;
use portcullis::lifecycle::{LifecycleStatus, Outbox, Retries, Sweeper, Transport};
use portcullis::model::{Actor, Role};
use portcullis::pem::TrustStore;
use portcullis::policy::catalog_file;
use portcullis::policy::decide::Reason;
use portcullis::policy::destination::InternalHosts;
use portcullis::policy::id::{AccountId, CredentialId, TokenId};
use portcullis::policy::lifecycle::Settings;
use portcullis::policy::network::Limits;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{RequestedExpiry, TokenKind, UpcomingAction};
use portcullis::replication::Replicas;
use portcullis::secret;
use portcullis::service::accounts::CloseAccount;
use portcullis::service::decisions::{AuthorizeInput, RequestedOperation};
use portcullis::service::import::{ImportToken, ImportTokens, ImportedToken};
use portcullis::service::replacements::{ReplaceToken, ReplacedToken};
use portcullis::service::tokens::{CreateToken, TokenFields};
use portcullis::service::validate::FieldErrors;
use portcullis::service::{Caller, Dependencies, Error, SessionLengths};
use portcullis::store::Store;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::sqlite::SqliteStore;
use portcullis::telemetry::Metrics;
use portcullis::usage::Usage;
use portcullis::webhooks::Sender;
use portcullis::writes::Writes;
use sqlx::Connection as _;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::support::decisions::{self, InProcess};
use crate::support::postgres;

/// From where every token may be used, and from where none may.
pub(crate) const HERE: &str = "192.0.2.1";
pub(crate) const THERE: &str = "198.51.100.1";
/// 1 January 2027, 00:00 UTC: when each world begins.
pub(crate) const START: Timestamp = Timestamp(1_798_761_600_000_000);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
/// How long a deleted token is told from an unknown one.
pub(crate) const RETENTION: Duration = Duration::from_secs(90 * 86_400);
pub(crate) const RETRIES: Retries = Retries {
    initial: Duration::from_secs(1),
    max: Duration::from_secs(15 * 60),
    refused: Duration::from_secs(86_400),
};
/// How long a mail that is being sent is nobody else's.
pub(crate) const CLAIM: Duration = Duration::from_secs(10 * 60);

/// Where a store keeps what it keeps.
pub(crate) enum Place {
    Sqlite(TempDir),
    Postgres(String),
}

impl Place {
    /// In memory where the system has such a directory, since thousands of commits wait for it.
    pub(crate) fn sqlite() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Self::Sqlite(dir.unwrap())
    }

    pub(crate) fn postgres() -> Self {
        Self::Postgres(postgres::database())
    }

    async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(dir) => Arc::new(SqliteStore::open(dir.path(), "a test").await.unwrap()),
            Self::Postgres(url) => {
                let acquire_timeout = Duration::from_secs(2);
                let options = PostgresOptions { acquire_timeout, ..PostgresOptions::default() };
                Arc::new(PostgresStore::connect(url, options).await.unwrap())
            }
        }
    }
}

/// A token, as its owner has it.
pub(crate) struct Held {
    pub(crate) id: TokenId,
    pub(crate) secret: String,
}

/// A token that was issued elsewhere, as its import states it.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) secret: String,
    pub(crate) name: String,
    pub(crate) kind: TokenKind,
    pub(crate) scopes: Vec<String>,
    pub(crate) whitelist: Vec<String>,
    pub(crate) created: Option<Timestamp>,
    pub(crate) last_use: Option<Timestamp>,
    pub(crate) expires: Option<Timestamp>,
}

/// The rule that refuses a call, as the API names it.
fn rule(error: Error) -> &'static str {
    match error {
        Error::Refused(obstacles, _) => obstacles[0].rule,
        Error::Invalid(violations) => violations[0].reason,
        error => panic!("{error}"),
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) services: InProcess,
    pub(crate) sweeper: Sweeper,
    pub(crate) outbox: Outbox,
    relay: Arc<dyn Transport>,
}

impl World {
    pub(crate) async fn new(
        place: Place,
        catalog: &str,
        settings: Settings,
        relay: Arc<dyn Transport>,
    ) -> Self {
        let store = place.open().await;
        let ctx = Caller::development(None).context(START);
        store.add_secret_key(&ctx, &[7; 32], true).await.unwrap();
        let names: Vec<_> =
            catalog_file::parse(catalog).unwrap().into_iter().map(|scope| scope.name).collect();
        store.apply_catalog(&ctx, None, catalog, &names).await.unwrap().unwrap();
        let clock = Arc::new(Clock::simulated(START));
        let (services, sweeper, outbox) = memory(&store, &clock, settings, &relay).await;
        Self { place, store, clock, services, sweeper, outbox, relay }
    }

    /// Loses everything in memory, and goes on from what is stored, with these settings.
    pub(crate) async fn crash(&mut self, settings: Settings) {
        (self.services, self.sweeper, self.outbox) =
            memory(&self.store, &self.clock, settings, &self.relay).await;
    }

    /// The same in good order.
    pub(crate) async fn restart(&mut self, settings: Settings) {
        self.services.parts.usage.finish().await;
        self.crash(settings).await;
    }

    /// Opens the store once more, after it was closed.
    pub(crate) async fn reopen(&mut self) {
        self.store = self.place.open().await;
        self.crash(self.services.parts.lifecycle).await;
    }

    pub(crate) fn caller() -> Caller {
        Caller::development(None)
    }

    /// An admin of this account, with a credential.
    pub(crate) fn admin(account: AccountId) -> Caller {
        let role = Role::AccountAdmin(account);
        let actor = Actor::Credential(CredentialId(account.0), role);
        Caller { actor, role, client: None }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) async fn account(&self, name: &str, admins: &[String]) -> AccountId {
        self.services.create_account(&Self::caller(), name, admins).await.unwrap().value.id
    }

    pub(crate) async fn set_admins(
        &self,
        account: AccountId,
        admins: &[String],
    ) -> Result<(), &'static str> {
        let (caller, account) = (Self::caller(), account.to_string());
        let set = self.services.set_account_admins(&caller, &account, admins).await;
        set.map(|_| ()).map_err(rule)
    }

    pub(crate) async fn suspend(&self, account: AccountId) -> Result<(), &'static str> {
        let (caller, account) = (Self::caller(), account.to_string());
        let suspended = self.services.suspend_account(&caller, &account, false).await;
        suspended.map(|_| ()).map_err(rule)
    }

    pub(crate) async fn resume(&self, account: AccountId) -> Result<(), &'static str> {
        let (caller, account) = (Self::caller(), account.to_string());
        self.services.resume_account(&caller, &account).await.map(|_| ()).map_err(rule)
    }

    /// Closes an account of this name.
    pub(crate) async fn close(&self, account: AccountId, name: &str) {
        let close = CloseAccount {
            account_id: &account.to_string(),
            confirm_name: name,
            validate_only: false,
            no_wait: false,
        };
        self.services.close_account(&Self::caller(), close).await.unwrap();
    }

    /// A new token that may be used from [`HERE`].
    pub(crate) async fn token(
        &self,
        account: AccountId,
        name: &str,
        kind: TokenKind,
        scopes: &[String],
    ) -> Held {
        self.token_until(account, name, kind, scopes, None).await
    }

    /// The same, which expires then.
    pub(crate) async fn token_until(
        &self,
        account: AccountId,
        name: &str,
        kind: TokenKind,
        scopes: &[String],
        expires: Option<Timestamp>,
    ) -> Held {
        let caller = Self::caller();
        self.create(&caller, account, name, (kind, scopes), expires).await.unwrap()
    }

    /// The same for this caller, with the scopes of a `CUSTOM` token.
    pub(crate) async fn create(
        &self,
        caller: &Caller,
        account: AccountId,
        name: &str,
        (kind, scopes): (TokenKind, &[String]),
        expires: Option<Timestamp>,
    ) -> Result<Held, &'static str> {
        let create = CreateToken {
            expires: expires.map(RequestedExpiry::At),
            account_id: &account.to_string(),
            name,
            kind: Some(kind),
            scopes,
            whitelist: &[HERE.to_owned()],
            labels: None,
            validate_only: false,
        };
        let created = self.services.create_token(caller, create).await;
        let (described, secret) = created.map_err(rule)?.value;
        Ok(Held { id: described.token.id, secret: secret.unwrap().expose().to_owned() })
    }

    /// Imports tokens in one call. What became of each.
    pub(crate) async fn import(
        &self,
        caller: &Caller,
        account: AccountId,
        items: &[Item],
    ) -> Result<Vec<Result<ImportedToken, &'static str>>, &'static str> {
        let digests = items.iter().map(|item| secret::digest(item.secret.as_bytes()));
        let digests: Vec<_> = digests.collect();
        let tokens = items.iter().zip(&digests).map(|(item, digest)| {
            let Item { name, kind, scopes, whitelist, created, last_use, expires, .. } = item;
            let expires = expires.map(RequestedExpiry::At);
            ImportToken {
                fields: TokenFields { name, kind: Some(*kind), scopes, whitelist, expires },
                digest,
                created: *created,
                last_use: *last_use,
                errors: FieldErrors::default(),
            }
        });
        let tokens: Vec<_> = tokens.collect();
        let request = ImportTokens {
            account_id: &account.to_string(),
            tokens: &tokens,
            validate_only: false,
        };
        let imported = self.services.import_tokens(caller, request).await.map_err(rule)?;
        Ok(imported.value.results.into_iter().map(|result| result.map_err(rule)).collect())
    }

    /// Replaces a token, by one that has these scopes of it where any are given.
    pub(crate) async fn replace(
        &self,
        caller: &Caller,
        id: TokenId,
        scopes: &[String],
        overlap: Duration,
    ) -> Result<Held, &'static str> {
        let request = ReplaceToken {
            token_id: &id.to_string(),
            overlap: Some(overlap),
            scopes,
            whitelist: &[],
            expires: None,
            validate_only: false,
            no_wait: false,
        };
        let replaced = self.services.replace_token(caller, request, FieldErrors::default()).await;
        let ReplacedToken { successor, secret, .. } = replaced.map_err(rule)?.value;
        Ok(Held { id: successor.token.id, secret: secret.unwrap().expose().to_owned() })
    }

    pub(crate) async fn expire(&self, caller: &Caller, id: TokenId, at: Timestamp) {
        let expiry = Some(RequestedExpiry::At(at));
        self.services.set_token_expiry(caller, &id.to_string(), expiry, false).await.unwrap();
    }

    /// Changes the store past the server: `sql` with a token's id, and a number where given, as its parameters.
    pub(crate) async fn tamper(&self, sql: &'static str, id: TokenId, number: Option<i64>) {
        match &self.place {
            Place::Sqlite(dir) => {
                let file = dir.path().join(portcullis::store::sqlite::FILE);
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
                let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                let query = sqlx::query(sql).bind(id.0);
                let query = if let Some(number) = number { query.bind(number) } else { query };
                query.execute(&mut connection).await.unwrap();
            }
            Place::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                let query = sqlx::query(sql).bind(id.0);
                let query = if let Some(number) = number { query.bind(number) } else { query };
                query.execute(&mut connection).await.unwrap();
            }
        }
    }

    pub(crate) async fn delete(&self, caller: &Caller, id: TokenId) {
        self.services.delete_token(caller, &id.to_string(), false).await.unwrap();
    }

    /// What is decided, and what is said to happen to the token first.
    pub(crate) async fn ask(
        &self,
        token: &Held,
        scope: &str,
        from: &str,
        dry_run: bool,
    ) -> Result<(Reason, Option<UpcomingAction>), Error> {
        self.ask_with(&token.secret, scope, from, dry_run).await
    }

    /// The same for any string that is presented as a token.
    pub(crate) async fn ask_with(
        &self,
        presented: &str,
        scope: &str,
        from: &str,
        dry_run: bool,
    ) -> Result<(Reason, Option<UpcomingAction>), Error> {
        let presented = presented.as_bytes();
        let question = AuthorizeInput {
            token: secret::without_mark(presented),
            presented,
            client_ip: from,
            operation: RequestedOperation::Scope(scope),
            dry_run,
            at_least_as_fresh: 0,
        };
        let calendar = self.services.calendar();
        let evaluated = decisions::evaluate(&self.services, &question, |decision| {
            let upcoming = decision.token.and_then(|facts| facts.upcoming(&calendar));
            (decision.verdict.reason(), upcoming)
        });
        evaluated.await
    }

    /// Sweeps until there is nothing more to do.
    pub(crate) async fn sweep(&self) {
        while self.sweeper.run_once().await.unwrap().more {}
    }

    /// Sends every mail that is due.
    pub(crate) async fn deliver(&self) {
        while self.outbox.send_one().await.unwrap().is_some() {}
    }
}

async fn memory(
    store: &Arc<dyn Store>,
    clock: &Arc<Clock>,
    settings: Settings,
    relay: &Arc<dyn Transport>,
) -> (InProcess, Sweeper, Outbox) {
    let metrics = Arc::new(Metrics::new());
    let outbox_wakeup = Arc::new(Notify::new());
    let sweep_wakeup = Arc::new(Notify::new());
    let cache = Cache::load(store.clone(), 10_000, metrics.clone(), Handle::current()).await;
    let cache = Arc::new(cache.unwrap());
    let replicas = Arc::new(Replicas::alone(cache.clone()));
    let writes = Writes::new(store.clone(), cache.clone(), replicas.clone(), metrics.clone());
    let writes = Arc::new(writes);
    let usage = Arc::new(Usage::new(
        store.clone(),
        cache.clone(),
        writes.clone(),
        clock.clone(),
        metrics.clone(),
        settings.window(),
        Handle::current(),
    ));
    let status = LifecycleStatus::new(store.clone(), clock.clone(), metrics.clone());
    let services = InProcess::new(Dependencies {
        token_max_lifetime: None,
        allow_admin_import: true,
        status: Arc::new(status),
        mailbox: None,
        store: store.clone(),
        replicas: replicas.clone(),
        cache: cache.clone(),
        writes: writes.clone(),
        usage: usage.clone(),
        decision_log: None,
        traces: None,
        clock: clock.clone(),
        metrics: metrics.clone(),
        prefix: "pcl".parse().unwrap(),
        limits: Limits::default(),
        mails: true,
        outbox_wakeup: outbox_wakeup.clone(),
        sweep_wakeup: sweep_wakeup.clone(),
        webhook_sender: Arc::new(Sender::new(
            TrustStore::public_and(None).expect("public authorities"),
            InternalHosts::default(),
            Duration::from_secs(1),
        )),
        lifecycle: settings,
        sessions: SessionLengths::default(),
    });
    let sweeper = Sweeper {
        store: store.clone(),
        cache,
        writes: writes.clone(),
        replicas: replicas.clone(),
        usage,
        clock: clock.clone(),
        metrics: metrics.clone(),
        settings,
        retention: RETENTION,
        audit_retention: None,
        outbox_wakeup: outbox_wakeup.clone(),
        sweep_wakeup,
    };
    let outbox = Outbox {
        store: store.clone(),
        writes,
        replicas,
        clock: clock.clone(),
        metrics,
        settings,
        token_max_lifetime: None,
        relay: relay.clone(),
        retries: RETRIES,
        claim: CLAIM,
        outbox_wakeup,
        public_url: None,
    };
    (services, sweeper, outbox)
}
