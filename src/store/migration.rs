//! Brings a database's schema up to date.
//!
//! What must stay true: migrations run one process at a time (the database's own lock where it has
//! one); a schema that a newer program made is never touched, and used only where that program left
//! word that this one can live beside it.

use std::collections::HashSet;

use sqlx::migrate::{Migrate, Migrator};

use super::OpenError;

/// Applies what is missing. What was applied, in order. `oldest` reads from a schema with migrations that
/// this program lacks which one a program must know at least.
pub(super) async fn run<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
    oldest: impl AsyncFnOnce(&mut C) -> sqlx::Result<i64>,
) -> Result<Vec<String>, OpenError> {
    // Where there is nothing to do there is no wait: the holder of the lock may be stuck.
    if is_up_to_date(migrator, connection).await {
        return Ok(Vec::new());
    }
    // The lock is taken again, and released again, by the migrator itself: both databases count.
    connection.lock().await?;
    connection.ensure_migrations_table(TABLE).await?;
    let before: HashSet<i64> = connection
        .list_applied_migrations(TABLE)
        .await?
        .into_iter()
        .map(|applied| applied.version)
        .collect();
    let newest = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    if let Some(&newer) = before.iter().filter(|&&version| version > newest).max() {
        let oldest = oldest(connection).await;
        connection.unlock().await?;
        return if oldest? <= newest { Ok(Vec::new()) } else { Err(OpenError::Newer(newer)) };
    }
    migrator.run_direct(None, connection, false).await?;
    connection.unlock().await?;
    Ok(migrator.iter().filter(|migration| !before.contains(&migration.version)).map(name).collect())
}

/// The number and the description of a migration, such as `0001 base`.
pub(super) fn name(migration: &sqlx::migrate::Migration) -> String {
    format!("{:04} {}", migration.version, migration.description)
}

/// Whether the schema is just this program's.
async fn is_up_to_date<C: Migrate>(migrator: &Migrator, connection: &mut C) -> bool {
    // It fails where there is no schema yet.
    let Ok(applied) = connection.list_applied_migrations(TABLE).await else { return false };
    let same = |ours: &sqlx::migrate::Migration| {
        let found = applied.iter().find(|applied| applied.version == ours.version);
        found.is_some_and(|applied| applied.checksum == ours.checksum)
    };
    applied.len() == migrator.iter().count()
        && migrator.iter().all(same)
        && matches!(connection.dirty_version(TABLE).await, Ok(None))
}

pub(super) const TABLE: &str = "_sqlx_migrations";
