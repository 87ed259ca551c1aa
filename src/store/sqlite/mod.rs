//! The store in an embedded SQLite file: for exactly one process.
//!
//! What must stay true: the process holds an exclusive lock on the data directory as long as the
//! store is open; what is acknowledged is on disk (`synchronous = FULL`); only the user of the
//! process can read the files. There is one connection that writes, so that writers wait for each
//! other here and not in SQLite.

use std::fs;
use std::future::Future;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection, SqlitePool};

use super::{OpenError, Replication, Result, Store as _, Troubles, migration};

use crate::policy::time::Timestamp;

mod bulk;
mod inspect;
mod lock;
#[path = "../sql/mod.rs"]
#[allow(clippy::duplicate_mod, reason = "one source for two databases, so that they can't drift")]
mod sql;

use SqliteStore as Handle;
pub use inspect::inspect;
use lock::Lock;
use sqlx::Sqlite as Db;

/// To the millisecond: SQLite knows no better.
const NOW: &str = "SELECT CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER) * 1000";

/// A token's name as it is looked for and ordered: its bytes, with `A` to `Z` in lower case. SQLite's `lower`
/// knows no other letters.
const FOLDED_NAME: &str = "lower(t.name) COLLATE BINARY";

/// Where one text begins in another, from 1; 0 where it does not occur.
const FIND: &str = "instr";

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// The file in the data directory.
pub const FILE: &str = "portcullis.db";

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The store in an embedded SQLite file.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    troubles: Troubles,
    /// `None` once closed.
    lock: Mutex<Option<Lock>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in `data_dir`, which is created if need be, and brings its schema up to
    /// date. `holder` says what this process is (`portcullis serve`), for a second one that comes
    /// meanwhile.
    ///
    /// # Errors
    /// A directory in use or not usable, or a schema that is not this program's.
    pub async fn open(data_dir: &Path, holder: &str) -> Result<Self, OpenError> {
        Ok(Self::open_and_migrate(data_dir, holder).await?.0)
    }

    async fn open_and_migrate(
        data_dir: &Path,
        holder: &str,
    ) -> Result<(Self, Vec<String>), OpenError> {
        make_private_dir(data_dir)?;
        let mut lock = Lock::take(data_dir, holder)?;
        let file = data_dir.join(FILE);
        make_private(&file).map_err(OpenError::data_dir(&file))?;
        let opened = Self::open_file(&file).await.map_err(|error| error.of_file(&file))?;
        let (store, now, applied) = opened;
        lock.note_start(now);
        *store.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock);
        Ok((store, applied))
    }

    /// The store, its time, and the migrations that were applied.
    async fn open_file(file: &Path) -> Result<(Self, Timestamp, Vec<String>), OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(false)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writing = options
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = || {
            SqlitePoolOptions::new()
                .acquire_timeout(BUSY_TIMEOUT)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                // A full disk makes SQLite end a transaction by itself, of which sqlx knows nothing:
                // the connection would refuse to begin another one for ever.
                .before_acquire(|connection, _| {
                    let clean = !connection.is_in_transaction();
                    Box::pin(async move { Ok(clean) })
                })
        };
        let writer = pool().max_connections(1).connect_with(writing).await?;
        let mut connection = writer.acquire().await?;
        let applied = migration::run(&MIGRATIONS, &mut *connection, async |_| Ok(i64::MAX)).await?;
        drop(connection);
        let readers = pool().max_connections(READERS).connect_with(options.read_only(true)).await?;
        let troubles = Troubles::default();
        let store = Self { writer, readers, troubles, lock: Mutex::new(None) };
        let now = store.now().await?;
        Ok((store, now, applied))
    }

    /// Readers of a local file wait for nobody.
    async fn decision_connection(&self) -> Result<DecisionConnection> {
        Ok(DecisionConnection(self.readers.acquire().await?))
    }

    fn read(&self) -> SqlitePool {
        self.readers.clone()
    }

    /// All statements of one transaction see the same state.
    async fn read_steadily(&self) -> Result<sqlx::Transaction<'static, Db>> {
        Ok(self.readers.begin().await?)
    }

    /// A transaction that began by reading could not be let write after another's commit.
    async fn write(&self) -> Result<sqlx::Transaction<'static, Db>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A local file answers or fails; there is nothing to give up on.
    async fn within<T>(&self, use_case: impl Future<Output = Result<T>>) -> Result<T> {
        self.troubles.noting(use_case.await)
    }

    /// The lock on the data directory can't be lost.
    fn shared(&self) -> Option<Arc<dyn Replication>> {
        None
    }

    /// The writer last: the last connection to close folds the write-ahead log into the file.
    async fn shut(&self) {
        self.readers.close().await;
        self.writer.close().await;
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A connection for one read of a decision.
struct DecisionConnection(PoolConnection<Db>);

impl DecisionConnection {
    /// It goes back to its pool by itself.
    fn release(self) {}
}

impl Deref for DecisionConnection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0
    }
}

impl DerefMut for DecisionConnection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

/// The numbers of all migrations.
pub(super) fn migration_numbers() -> Vec<i64> {
    MIGRATIONS.iter().map(|migration| migration.version).collect()
}

/// Brings the schema of the store in `data_dir` up to date. What was applied, in order.
///
/// # Errors
/// As [`SqliteStore::open`].
pub async fn migrate(data_dir: &Path) -> Result<Vec<String>, OpenError> {
    let (store, applied) = SqliteStore::open_and_migrate(data_dir, "portcullis migrate").await?;
    store.close().await;
    Ok(applied)
}

/// A directory that was there keeps its mode: its owner may have reasons.
fn make_private_dir(dir: &Path) -> Result<(), OpenError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(OpenError::data_dir(dir))
}

/// Made before SQLite would, with its own idea of a mode; `-wal` and `-shm` take after it.
fn make_private(file: &Path) -> io::Result<()> {
    let file =
        fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(file)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}
