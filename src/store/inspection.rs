//! What a look at a store finds, without changing anything in it.

use std::collections::HashSet;

use sqlx::migrate::{Migrate, Migrator};

use super::migration;
use crate::policy::time::Timestamp;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Host and port of the database, or its file.
    pub place: String,
    /// What runs there, such as `PostgreSQL 15.4`.
    pub version: String,
    /// Its time.
    pub now: Timestamp,
    /// Migrations that the next start applies; of an empty database all.
    pub pending: usize,
    /// The newest migration, where this program does not know it.
    pub newer: Option<i64>,
    /// What keeps a server from using it, with the cure.
    pub errors: Vec<String>,
    /// What endangers the data, with the cure.
    pub warnings: Vec<String>,
}

/// How many migrations are missing, and the newest one that this program lacks.
pub(super) async fn migrations<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> (usize, Option<i64>) {
    // It fails where there is no schema yet.
    let applied = connection.list_applied_migrations(migration::TABLE).await.unwrap_or_default();
    let applied: HashSet<i64> = applied.iter().map(|applied| applied.version).collect();
    let own: HashSet<i64> = migrator.iter().map(|migration| migration.version).collect();
    (own.difference(&applied).count(), applied.difference(&own).max().copied())
}
