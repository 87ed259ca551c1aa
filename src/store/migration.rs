//! Brings a database's schema up to date.
//!
//! What must stay true: migrations run one process at a time (the database's own lock where it has
//! one), and a schema that a newer program made is never touched.

use std::collections::HashSet;

use sqlx::migrate::{Migrate, Migrator};

use super::OpenError;

/// Applies what is missing. What was applied, in order.
pub(super) async fn run<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> Result<Vec<String>, OpenError> {
    // The lock is taken again, and released again, by the migrator itself: both databases count.
    connection.lock().await?;
    connection.ensure_migrations_table(TABLE).await?;
    let before: HashSet<i64> = connection
        .list_applied_migrations(TABLE)
        .await?
        .into_iter()
        .map(|applied| applied.version)
        .collect();
    migrator.run_direct(None, connection, false).await?;
    connection.unlock().await?;
    Ok(migrator
        .iter()
        .filter(|migration| !before.contains(&migration.version))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect())
}

const TABLE: &str = "_sqlx_migrations";
