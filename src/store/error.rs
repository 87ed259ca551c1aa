//! Which failures of a database are worth another try, and why a store can't be opened.
//!
//! What must stay true: only what may pass by itself is [`StoreError::Unavailable`]; the rest is a
//! error that nobody should try again. No text here holds a database password.

use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;

use super::{StoreError, Trouble};

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if passes(&error) { Self::Unavailable(error) } else { Self::Internal(error.into()) }
    }
}

/// An answer of the database that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct CorruptRow(pub(super) &'static str);

impl From<CorruptRow> for StoreError {
    fn from(error: CorruptRow) -> Self {
        Self::Internal(error.into())
    }
}

impl StoreError {
    /// As [`OpenError::may_pass`].
    pub fn may_pass(&self) -> bool {
        self.trouble().is_some_and(Trouble::passes) && !self.is_of_tls()
    }

    fn is_of_tls(&self) -> bool {
        match self {
            Self::Unavailable(error) | Self::Unknown(error) => fails_tls(error),
            Self::Internal(_) | Self::StaleCatalog => false,
        }
    }
}

/// Whether a TLS handshake failed, by what either side says of it. A connection that is lost meanwhile is another case.
fn fails_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.get_ref().is_some_and(|cause| cause.is::<rustls::Error>()),
        _ => false,
    }
}

fn passes(error: &sqlx::Error) -> bool {
    Trouble::of(error).is_some_and(Trouble::passes)
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
    /// The file of the embedded store is damaged, or is none of SQLite.
    #[error(
        "the store's file {} is damaged or is no SQLite database ({cause}): restore a backup into an empty \
         data directory, see `Backup and restore` in docs/operations.md; `sqlite3 FILE .recover` prints \
         what can still be read",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        cause: String,
    },
    /// The file of the embedded store can't be used, for what ails its disk.
    #[error("can't use the store's file {}: {trouble}: {}", path.display(), trouble.cure())]
    File {
        /// The file.
        path: PathBuf,
        /// What it is.
        trouble: Trouble,
        /// What SQLite says.
        #[source]
        source: Box<OpenError>,
    },
    /// The database gives no service.
    #[error(
        "the database at {address} is {trouble}: {}; the address comes from the database URL \
         (PORTCULLIS_DATABASE_URL, its _FILE or --database-url)",
        trouble.cure()
    )]
    Database {
        /// Host and port, or the socket's path.
        address: String,
        /// What it is.
        trouble: Trouble,
        /// How that showed.
        #[source]
        source: Box<OpenError>,
    },
    /// The database turns this user away, or there is no such database.
    #[error(
        "the database at {address} refuses: {why}; check user, password and database name in the database \
         URL (PORTCULLIS_DATABASE_URL, its _FILE or --database-url)"
    )]
    Refused {
        /// Host and port, or the socket's path.
        address: String,
        /// What the database says.
        why: String,
    },
    /// What answers is not Postgres itself, and keeps from it what a session needs.
    #[error(
        "the database URL leads to a pooler that {0}: portcullis needs sessions of its own, with \
         their limits, their locks and what they listen to; name the address of Postgres itself"
    )]
    Pooler(&'static str),
    /// Not a usable `postgres://` URL. Never quotes it: it may hold a password.
    #[error("the database URL is invalid: {0}")]
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
    /// The same, naming the file of an embedded store where that is what it is about.
    pub(super) fn of_file(self, path: &Path) -> Self {
        let path = path.to_owned();
        match self.trouble() {
            Some((Trouble::Damaged, cause)) => Self::Damaged { path, cause },
            Some((trouble, _)) => Self::File { path, trouble, source: Box::new(self) },
            None => self,
        }
    }

    /// The same, naming the address of the database where that is what it is about.
    pub(super) fn of_address(self, address: String) -> Self {
        match (self, address) {
            (Self::Refused { why, .. }, address) => Self::Refused { address, why },
            (error, address) => match error.trouble() {
                Some((trouble, _)) => Self::Database { address, trouble, source: Box::new(error) },
                None => error,
            },
        }
    }

    /// Whether another attempt may succeed without any change of the settings or of the database: it is not up yet, is
    /// busy, or its name can't be resolved yet. TLS that fails needs such a change.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Database { trouble, source, .. } => trouble.passes() && !source.is_of_tls(),
            Self::Store(error) => error.may_pass(),
            _ => false,
        }
    }

    fn is_of_tls(&self) -> bool {
        match self {
            Self::Database { source, .. } | Self::File { source, .. } => source.is_of_tls(),
            Self::Store(error) => error.is_of_tls(),
            _ => false,
        }
    }

    /// What ails the database, and what it says.
    fn trouble(&self) -> Option<(Trouble, String)> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<sqlx::Error>() {
                return Trouble::of(error).map(|trouble| (trouble, error.to_string()));
            }
            if let Some(error) = error.downcast_ref::<StoreError>()
                && let Some(trouble) = error.trouble()
            {
                let said = std::error::Error::source(error).map(ToString::to_string);
                return Some((trouble, said.unwrap_or_default()));
            }
            cause = error.source();
        }
        None
    }

    pub(super) fn data_dir(path: &Path) -> impl Fn(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::DataDir { path: path.clone(), source }
    }
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(refusal) if refuses(refusal.code().as_deref()) => Self::Refused {
                address: "an unknown address".to_owned(),
                why: refusal.message().to_owned(),
            },
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
    use std::io;

    use super::*;

    #[test]
    fn only_failures_that_pass_by_themselves_are_worth_another_attempt() {
        let io = |kind: io::ErrorKind| sqlx::Error::Io(kind.into());
        let unresolved = sqlx::Error::Io(io::Error::other("failed to look up address information"));
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let untrusted = sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidData, untrusted));
        for (error, passes) in [
            (io(io::ErrorKind::ConnectionRefused), true),
            (io(io::ErrorKind::UnexpectedEof), true),
            (unresolved, true),
            (sqlx::Error::PoolTimedOut, true),
            (sqlx::Error::Tls("server does not support TLS".into()), false),
            (untrusted, false),
            (sqlx::Error::RowNotFound, false),
        ] {
            let text = error.to_string();
            let error = OpenError::from(error);
            assert_eq!(error.may_pass(), passes, "{text}");
            let error = error.of_address("127.0.0.1:5432".to_owned());
            assert_eq!(error.may_pass(), passes, "{text}, with the address");
        }
        let refused = OpenError::Refused { address: String::new(), why: String::new() };
        for error in [refused, OpenError::Newer(99), OpenError::Altered(1), OpenError::Url("bad")] {
            assert!(!error.may_pass(), "{error}");
        }
    }
}
