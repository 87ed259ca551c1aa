//! Which failures of a database are worth another try, and why a store can't be opened.
//!
//! What must stay true: only what may pass by itself is [`StoreError::Unavailable`]; the rest is a
//! fault that nobody should try again. No text here holds a database password.

use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;
use sqlx::sqlite::SqliteError;

use super::StoreError;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if passes(&error) { Self::Unavailable(error) } else { Self::Internal(error.into()) }
    }
}

/// An answer of the database that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreadable(pub(super) &'static str);

impl From<Unreadable> for StoreError {
    fn from(error: Unreadable) -> Self {
        Self::Internal(error.into())
    }
}

fn passes(error: &sqlx::Error) -> bool {
    use sqlx::Error;
    match error {
        Error::Io(_)
        | Error::Tls(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed => true,
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            if error.try_downcast_ref::<SqliteError>().is_some() {
                passes_in_sqlite(&code)
            } else {
                passes_in_postgres(&code)
            }
        }
        _ => false,
    }
}

/// By result code: BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN, whatever their extension.
fn passes_in_sqlite(code: &str) -> bool {
    let primary = code.parse::<u32>().map(|code| code & 0xff);
    matches!(primary, Ok(5 | 6 | 8 | 10 | 13 | 14))
}

/// By SQLSTATE: lost connections (08), lack of resources (53), interventions and time limits (57),
/// a standby (25006), a transaction that stood still too long, as when this process was paused
/// (25P03), locks not had in time (55P03), conflicts (40001, 40P01).
fn passes_in_postgres(code: &str) -> bool {
    ["08", "53", "57"].iter().any(|class| code.starts_with(class))
        || ["25006", "25P03", "55P03", "40001", "40P01"].contains(&code)
}

/// Why a store can't be opened. Displays as a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the embedded store open.
    #[error(
        "the data directory {} is in use by {holder}: one process at a time; stop that one, or \
         choose another --data-dir",
        dir.display()
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Who holds it, with its process id.
        holder: String,
    },
    /// The data directory or a file in it can't be made or used.
    #[error("can't use {}", path.display())]
    DataDir {
        /// What exactly.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database turns this user away, or there is no such database.
    #[error(
        "the database refuses: {0}; check user, password and database name in \
         PORTCULLIS_DATABASE_URL"
    )]
    Refused(String),
    /// What answers is not Postgres itself, and keeps from it what a session needs.
    #[error(
        "the database URL leads to a pooler that {0}: portcullis needs sessions of its own, with \
         their limits, their locks and what they listen to; name the address of Postgres itself"
    )]
    Pooler(&'static str),
    /// Not a usable `postgres://` URL. Never quotes it: it may hold a password.
    #[error("the database URL is faulty: {0}")]
    Url(&'static str),
    /// A newer program has changed the store's schema.
    #[error(
        "the store was migrated by a newer version of portcullis (it has migration {0}, which \
         this version does not know): run that version or a later one"
    )]
    Newer(i64),
    /// A migration that was applied is not the one of this program.
    #[error(
        "migration {0} was applied with another content than this version of portcullis has: the \
         store was made by a different build, or altered"
    )]
    Altered(i64),
    /// The schema can't be brought up to date.
    #[error("the store can't be migrated")]
    Migrate(#[source] MigrateError),
    /// The database gave no usable answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OpenError {
    pub(super) fn data_dir(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::DataDir { path: path.clone(), source }
    }
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(refusal) if refuses(refusal.code().as_deref()) => {
                Self::Refused(refusal.message().to_owned())
            }
            // Poolers speak like this; Postgres itself has other words for it.
            sqlx::Error::Database(refusal)
                if refusal.message().starts_with("unsupported startup parameter") =>
            {
                Self::Pooler("refuses settings of a session")
            }
            _ => Self::Store(error.into()),
        }
    }
}

/// By SQLSTATE: the login (28), the database (3D000), a right that is missing (42501).
fn refuses(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("28") || code == "3D000" || code == "42501")
}

impl From<MigrateError> for OpenError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(version) => Self::Newer(version),
            MigrateError::VersionMismatch(version) => Self::Altered(version),
            MigrateError::Execute(error) => error.into(),
            MigrateError::ExecuteMigration(error, _) if passes(&error) => error.into(),
            other => Self::Migrate(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{passes_in_postgres, passes_in_sqlite};

    #[test]
    fn codes() {
        for code in ["08006", "53300", "57014", "57P01", "25006", "40P01"] {
            assert!(passes_in_postgres(code), "{code}");
        }
        for code in ["23505", "42P01", "25P02", "28P01", ""] {
            assert!(!passes_in_postgres(code), "{code}");
        }
        for code in ["5", "517", "6", "8", "1032", "10", "778", "13", "14"] {
            assert!(passes_in_sqlite(code), "{code}");
        }
        for code in ["1", "19", "2067", "11", ""] {
            assert!(!passes_in_sqlite(code), "{code}");
        }
    }
}
