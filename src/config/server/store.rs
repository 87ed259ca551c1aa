//! Where the store is. Must stay true: a database's password never comes as a flag, and no message
//! repeats it.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::errors::ConfigErrors;
use super::variables::{DATABASE_URL, DATABASE_URL_FILE};
use crate::policy::duration;
use crate::policy::text::in_quotes;

/// Where the store is, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// The database's URL, as the configuration file has it.
    #[arg(skip)]
    pub(super) configured_url: Option<String>,
    /// File with that URL, as the configuration file names it.
    #[arg(skip)]
    pub(super) configured_url_file: Option<PathBuf>,
    /// Directory of the embedded SQLite store, which is used if no database is set
    #[arg(
        long,
        env = "PORTCULLIS_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "portcullis-data"
    )]
    data_dir: PathBuf,
    /// URL of the Postgres database, such as postgres://user@host/database; with a password only in a
    /// variable or a file, since `ps` shows flags [env: PORTCULLIS_DATABASE_URL; a file with it:
    /// PORTCULLIS_DATABASE_URL_FILE]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Connections to the database, from 2 to 1000
    #[arg(
        long,
        env = "PORTCULLIS_DATABASE_CONNECTIONS",
        hide_env_values = true,
        value_name = "COUNT",
        default_value = "10"
    )]
    database_connections: String,
    /// How long a start waits for a database that is out of reach, starting or busy; 0s for not at all. What does not
    /// pass by itself, such as a wrong password, ends the start at once
    #[arg(
        long,
        env = "PORTCULLIS_WAIT_FOR_STORE",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "60s"
    )]
    wait_for_store: String,
}

/// Where the store is.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// SQLite in this directory.
    Embedded(PathBuf),
    /// Postgres.
    Postgres {
        /// `postgres://...`, which may hold a password.
        url: SecretString,
        /// Connections at most.
        connections: u32,
        /// How long it is waited for where it is not up yet.
        wait: Duration,
    },
}

impl StoreArgs {
    /// The embedded store in `data_dir`, unless the environment names a database.
    pub(super) fn in_directory(data_dir: PathBuf) -> Self {
        Self {
            configured_url: None,
            configured_url_file: None,
            data_dir,
            database_url: None,
            database_connections: "2".to_owned(),
            // Somebody waits at a terminal.
            wait_for_store: "0s".to_owned(),
        }
    }

    pub(super) fn resolve(&self, errors: &mut ConfigErrors) -> Option<StoreSettings> {
        let connections =
            errors.number("database-connections", &self.database_connections, 2, 1_000);
        // Not `ConfigErrors::duration`: 0s is a setting here.
        let wait = duration::parse(self.wait_for_store.trim()).unwrap_or_else(|error| {
            errors.add(format!("--wait-for-store: {} {error}", in_quotes(&self.wait_for_store)));
            Duration::ZERO
        });
        let file = self.configured_url_file.as_deref();
        let variable = errors.secret(DATABASE_URL, DATABASE_URL_FILE, file);
        let url = match (&self.database_url, variable) {
            (Some(flag), _) => {
                if has_password(flag) {
                    errors.add(format!(
                        "--database-url: has a password, and `ps` shows flags: set {DATABASE_URL} \
                         instead, or name a file in {DATABASE_URL_FILE}"
                    ));
                }
                Some(SecretString::from(flag.clone()))
            }
            (None, Some(variable)) => Some(variable),
            (None, None) => self.configured_url.clone().map(SecretString::from),
        };
        let Some(url) = url else {
            return Some(StoreSettings::Embedded(self.data_dir.clone()));
        };
        let text = url.expose_secret();
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            errors.add(format!(
                "{DATABASE_URL}: must be postgres://user:password@host/database; leave it out for \
                 the embedded store"
            ));
            return None;
        }
        Some(StoreSettings::Postgres { url, connections: connections as u32, wait })
    }
}

/// Whether a URL has a password before its host, or as a parameter.
pub(super) fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
        || rest.to_ascii_lowercase().contains("password=")
}
