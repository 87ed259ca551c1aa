//! What only the embedded store does: it is one process' alone, and nobody else's to read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use portcullis::store::sqlite::{FILE, SqliteStore, migrate};
use portcullis::store::{AccountStore as _, OpenError, Store as _};

use crate::store::fixture::{Fixture, Place, ctx, new_account, sqlite_migrations};

fn dir(f: &Fixture) -> &Path {
    match &f.place {
        Place::Sqlite(dir) => dir.path(),
        Place::Postgres(_) => unreachable!("these tests are SQLite's"),
    }
}

#[tokio::test]
async fn a_second_opener_learns_who_is_first() {
    let f = Fixture::sqlite().await;
    let refused = SqliteStore::open(dir(&f), "another").await.unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }));
    let message = refused.to_string();
    let pid = format!("a test, process {}, since 2", std::process::id());
    assert!(message.contains(&pid), "{message}");
    assert!(message.contains(&dir(&f).display().to_string()), "{message}");
    f.store.close().await;
    let second = SqliteStore::open(dir(&f), "another").await.unwrap();
    second.close().await;
}

#[tokio::test]
async fn a_dropped_store_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    drop(SqliteStore::open(dir.path(), "a test").await.unwrap());
    SqliteStore::open(dir.path(), "a test").await.unwrap();
}

#[tokio::test]
async fn the_files_are_private() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("made/for/it");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let store = SqliteStore::open(&dir, "a test").await.unwrap();
    store.create_account(&ctx(1), &new_account("acme")).await.unwrap();
    assert_eq!(mode(&dir), 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 4, "the database, its -wal and -shm, and the lock");
    store.close().await;

    // One that came from elsewhere is made private.
    let file = dir.join(FILE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = SqliteStore::open(&dir, "a test").await.unwrap();
    assert_eq!(mode(&file), 0o600);
    store.close().await;
}

#[tokio::test]
async fn commits_are_durable() {
    let f = Fixture::sqlite().await;
    f.store.create_account(&ctx(1), &new_account("acme")).await.unwrap();
    let wal = dir(&f).join(format!("{FILE}-wal"));
    assert!(wal.metadata().unwrap().len() > 0, "not in WAL mode");
}

#[tokio::test]
async fn migrating_twice_is_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let applied = migrate(dir.path()).await.unwrap();
    assert_eq!(applied, sqlite_migrations());
    assert!(migrate(dir.path()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let f = Fixture::sqlite().await;
    let newer = "INSERT INTO _sqlx_migrations VALUES (9999, 'later', 0, 1, x'00', 0)";
    f.execute(newer, &[]).await.unwrap();
    f.store.close().await;
    let refused = SqliteStore::open(dir(&f), "a test").await.unwrap_err();
    assert!(matches!(refused, OpenError::Newer(9999)), "{refused:?}");
    assert!(refused.to_string().contains("newer version"));
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = SqliteStore::open(&file.join("dir"), "a test").await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, OpenError::DataDir { .. }), "{refused:?}");
    assert!(refused.to_string().contains("file/dir"));
}
