//! The store in Postgres, for any number of processes: see `replicas`.
//!
//! What must stay true: what is acknowledged is on disk (`synchronous_commit` is never off;
//! docs/policy.md, rule 5.1); no call waits longer than its limits, also for a server that is gone
//! without a word; nothing is done through a pooler that drops those limits; no text made here holds
//! the password of the URL.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{Connection as _, Row as _};

use super::{OpenError, Replication, Result, StoreError, Trouble, Troubles, migration};

mod bulk;
mod decision_pool;
mod inspect;
mod listener;
mod management;
mod replicas;
#[path = "../sql/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "one source for two databases, so that they can't drift")]
mod sql;

use PostgresStore as Handle;
use decision_pool::{ConnectionEpoch, DecisionPool, PooledConnection};
pub use inspect::inspect;
use management::Management;
use replicas::{PrimaryIdentity, Replicas};
use sqlx::Postgres as Db;

/// `clock_timestamp()` and not `now()`, which is the beginning of the transaction.
const NOW: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)";

/// A token's name as it is looked for and ordered: its bytes, with `A` to `Z` in lower case. Under "C" that is
/// so whatever the database's locale.
const FOLDED_NAME: &str = "lower(t.name COLLATE \"C\")";

/// Where one text begins in another, from 1; 0 where it does not occur.
const FIND: &str = "strpos";

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Limits of the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostgresOptions {
    /// Connections at most, of which a third are for decisions; and five more for what replicas exchange
    /// each other. Those for management may be twice as many for a moment after a failover.
    pub max_connections: u32,
    /// How long a call waits for a connection, a new one included.
    pub acquire_timeout: Duration,
    /// How long one statement may run, or a transaction stand still.
    pub statement_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            max_connections: 10,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(5),
        }
    }
}

/// The store in Postgres.
pub struct PostgresStore {
    /// Decisions have connections of their own: management must never hold them up.
    decisions: DecisionPool,
    management: Arc<Management>,
    replicas: Arc<Replicas>,
    limit: Duration,
    troubles: Troubles,
    /// How the pool connects, to find out why it could not.
    connect: PgConnectOptions,
    /// One diagnosis at a time.
    diagnosis: tokio::sync::Semaphore,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore")
            .field(
                "connections",
                &(self.decisions.open_connections() + self.management.pool().size() as usize),
            )
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to `url`, and brings the schema up to date.
    ///
    /// # Errors
    /// An invalid URL, a server out of reach, or a schema that is not this program's.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self, OpenError> {
        migrate(url).await?;
        let (epoch, primary) =
            (Arc::new(ConnectionEpoch::default()), Arc::new(PrimaryIdentity::default()));
        let PostgresOptions { max_connections, acquire_timeout, statement_timeout } = options;
        let millis = |duration: Duration| duration.as_millis().to_string();
        let connect = read_url(url)?.options([
            ("statement_timeout", millis(statement_timeout)),
            ("lock_timeout", millis(statement_timeout * 4 / 5)),
            ("idle_in_transaction_session_timeout", millis(statement_timeout)),
            // A search's ten thousand look-ups are estimated to be worth compiling, which takes as long
            // as they do.
            ("jit", "off".to_owned()),
        ]);
        let for_decisions = max_connections.div_ceil(3);
        let decisions =
            DecisionPool::new(connect.clone(), for_decisions, acquire_timeout, epoch.clone())
                .refusing_former(primary.clone());
        let limit = acquire_timeout + statement_timeout;
        let management = Management::new(
            connect.clone(),
            (max_connections - for_decisions).max(1),
            (acquire_timeout, statement_timeout),
            primary.clone(),
        );
        let management = Arc::new(management);
        warn_of_losses(&management.pool())
            .await
            .map_err(|error| OpenError::from(error).of_address(address(&connect)))?;
        warn_of_earlier_programs(&management.pool())
            .await
            .map_err(|error| OpenError::from(error).of_address(address(&connect)))?;
        let replicas = Replicas::new(&connect, epoch, management.clone(), primary);
        let replicas = Arc::new(replicas);
        let diagnosis = tokio::sync::Semaphore::new(1);
        let troubles = Troubles::default();
        Ok(Self { decisions, management, replicas, limit, troubles, connect, diagnosis })
    }

    async fn decision_connection(&self) -> Result<PooledConnection<'_>> {
        Ok(self.decisions.take().await?)
    }

    fn read(&self) -> PgPool {
        self.management.pool()
    }

    /// All statements of one transaction see the same state.
    async fn read_steadily(&self) -> Result<sqlx::Transaction<'static, Db>> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(self.management.pool().begin_with(begin).await?)
    }

    /// Read committed: after the wait for the head row, each statement sees all earlier changes.
    async fn write(&self) -> Result<sqlx::Transaction<'static, Db>> {
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
        Ok(self.management.pool().begin_with(begin).await?)
    }

    /// Gives up a use case that takes longer than waiting for a connection and a statement may
    /// take: the server's own limits don't help against one that says nothing.
    async fn within<T>(&self, use_case: impl Future<Output = Result<T>>) -> Result<T> {
        let result = match tokio::time::timeout(self.limit, use_case).await {
            Ok(Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut))) => {
                Err(StoreError::Unavailable(self.why_no_connection().await))
            }
            Ok(result) => result,
            Err(_) => Err(timed_out().into()),
        };
        self.troubles.noting(result)
    }

    /// Why the pool had no connection in time. It tries again and again where the database refuses, and does
    /// not say why: one attempt beside it does.
    async fn why_no_connection(&self) -> sqlx::Error {
        let Ok(_alone) = self.diagnosis.try_acquire() else { return sqlx::Error::PoolTimedOut };
        let connect = PgConnection::connect_with(&self.connect);
        match tokio::time::timeout(DIAGNOSIS, connect).await {
            Ok(Err(error)) if Trouble::of(&error).is_some_and(Trouble::passes) => error,
            Ok(_) => sqlx::Error::PoolTimedOut,
            Err(_) => timed_out(),
        }
    }

    fn shared(&self) -> Option<Arc<dyn Replication>> {
        Some(self.replicas.clone())
    }

    async fn shut(&self) {
        self.decisions.close().await;
        self.management.close().await;
        self.replicas.close().await;
    }
}

/// What no session can make good.
async fn warn_of_losses(pool: &PgPool) -> sqlx::Result<()> {
    for setting in ["fsync", "full_page_writes"] {
        let value = sqlx::query_scalar("SELECT current_setting($1)").bind(setting);
        let value: String = value.fetch_one(pool).await?;
        if value == "off" {
            tracing::error!(
                setting,
                "the database may lose what it has answered when its host crashes: set this to on"
            );
        }
    }
    Ok(())
}

/// Rule 11.4 of docs/policy.md.
async fn warn_of_earlier_programs(pool: &PgPool) -> sqlx::Result<()> {
    for replica in select_earlier_replicas(&mut *pool.acquire().await?).await? {
        tracing::warn!(
            replica,
            "a replica runs an earlier version: it decides nothing once its lease is over; stop it, and start this \
             version in its place"
        );
    }
    Ok(())
}

/// A commit that was acknowledged must survive a crash of the server, whatever it is configured
/// for. Stricter settings than `on` stay.
const KEEP_COMMITS: &str = "\
    SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";

/// How long an attempt to find out why there is no connection may take.
const DIAGNOSIS: Duration = Duration::from_millis(500);

/// Where the database is, for messages.
fn address(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// How long a migration waits for another one, in milliseconds.
const LOCK_TIMEOUT: &str = "60000";

/// Brings the schema of the database at `url` up to date. What was applied, in order.
///
/// # Errors
/// As [`PostgresStore::connect`].
pub async fn migrate(url: &str) -> Result<Vec<String>, OpenError> {
    let options = read_url(url)?;
    let address = address(&options);
    migrate_at(options).await.map_err(|error| error.of_address(address))
}

async fn migrate_at(options: PgConnectOptions) -> Result<Vec<String>, OpenError> {
    // A migration may take its time, and waits for one that another replica runs.
    let options = options.options([
        ("statement_timeout", "0"),
        ("lock_timeout", LOCK_TIMEOUT),
        ("idle_in_transaction_session_timeout", "60000"),
    ]);
    let connect = PgConnection::connect_with(&options);
    let connect = tokio::time::timeout(PostgresOptions::default().acquire_timeout, connect);
    let mut connection = connect.await.map_err(|_| timed_out())??;
    // By the simple protocol, which leaves nothing behind in a session that others have too.
    let limit = sqlx::raw_sql("SELECT setting FROM pg_settings WHERE name = 'lock_timeout'");
    if limit.fetch_one(&mut connection).await?.try_get::<String, _>(0)? != LOCK_TIMEOUT {
        return Err(OpenError::Pooler("drops settings of a session"));
    }
    let applied = migration::run(&MIGRATIONS, &mut connection, async |connection| {
        sqlx::query_scalar("SELECT oldest_program FROM head WHERE id = 1")
            .fetch_one(connection)
            .await
    });
    let applied = applied.await?;
    connection.close().await?;
    Ok(applied)
}

/// The replicas that are registered in the migrated database at `url` and run a program too old for it, by name: they
/// can't renew their leases. Rule 11.4 of docs/policy.md.
///
/// # Errors
/// As [`PostgresStore::connect`].
pub async fn earlier_replicas(url: &str) -> Result<Vec<String>, OpenError> {
    let options = read_url(url)?;
    let address = address(&options);
    let read = async {
        let mut connection = PgConnection::connect_with(&options).await?;
        let names = select_earlier_replicas(&mut connection).await?;
        connection.close().await?;
        Ok(names)
    };
    let limit = PostgresOptions::default();
    let read = tokio::time::timeout(limit.acquire_timeout + limit.statement_timeout, read).await;
    read.unwrap_or_else(|_| Err(timed_out().into()))
        .map_err(|error: OpenError| error.of_address(address))
}

async fn select_earlier_replicas(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let select =
        "SELECT name FROM replica WHERE program < (SELECT oldest_program FROM head) ORDER BY name";
    sqlx::query_scalar(select).fetch_all(connection).await
}

/// The number of the newest migration that this program knows: its registration says so, since the schema refuses that
/// of programs that would allow more than it does. Rule 11.4 of docs/policy.md.
fn newest_migration() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// The migrations that SQLite does not have, as [`migrate`] names them, in order.
pub fn migrations_of_its_own() -> impl Iterator<Item = String> {
    let others = super::sqlite::migration_numbers();
    MIGRATIONS
        .iter()
        .filter(move |migration| !others.contains(&migration.version))
        .map(migration::name)
}

/// The parameters that a URL may have. sqlx would log others, values and all.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

fn read_url(url: &str) -> Result<PgConnectOptions, OpenError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(OpenError::Url("it must begin with postgres://"));
    }
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let parameters = parameters.split('&').filter(|text| !text.is_empty());
    for parameter in parameters {
        let name = parameter.split('=').next().unwrap_or_default();
        if !PARAMETERS.contains(&name) {
            return Err(OpenError::Url(
                "it has a parameter that is unknown here; if the ? before it belongs to the \
                 password, write it as %3F",
            ));
        }
    }
    let options: PgConnectOptions = url.parse().map_err(|_| {
        OpenError::Url(
            "it can't be read as postgres://user:password@host:port/database; characters such as \
             / # ? % @ in a password are written as %2F %23 %3F %25 %40",
        )
    })?;
    Ok(options.application_name("portcullis"))
}
