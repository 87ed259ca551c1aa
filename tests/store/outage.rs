//! What only Postgres does: it may be away.

use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::store::postgres::{PostgresOptions, PostgresStore, migrate};
use portcullis::store::{
    AccountStore as _, AuditStore as _, OpenError, Store, StoreError, Trouble,
};

use crate::store::fixture::{Fixture, MIGRATIONS, all, ctx, new_account};
use crate::support::postgres::{Cluster, database, shared};

async fn connect(url: &str) -> PostgresStore {
    let options = PostgresOptions::default();
    PostgresStore::connect(url, options).await.unwrap()
}

fn chain(error: &dyn Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn an_outage_is_told_and_survived() {
    let cluster = Cluster::with_fsync();
    let options =
        PostgresOptions { acquire_timeout: Duration::from_millis(500), ..Default::default() };
    let store = PostgresStore::connect(&cluster.url(), options).await.unwrap();
    for stop in [Cluster::stop, Cluster::kill] {
        let kept = new_account("kept");
        store.create_account(&ctx(1), &kept).await.unwrap();
        stop(&cluster);
        for _ in 0..3 {
            let begin = Instant::now();
            let read = store.account(kept.id).await;
            assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
            let lost = new_account("lost");
            let written = store.create_account(&ctx(1), &lost).await;
            assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
            assert!(begin.elapsed() < Duration::from_secs(3));
        }
        cluster.start();
        // Connections that died in the pool may each cost one call, but never an answer.
        loop {
            match store.account(kept.id).await {
                Ok(read) => break assert_eq!(read, Some(kept)),
                Err(StoreError::Unavailable(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        store.create_account(&ctx(2), &new_account("late")).await.unwrap();
    }
    assert_eq!(store.position().await.unwrap(), 4);
    assert_eq!(store.accounts(None, all()).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://u:hunter2@127.0.0.1:{port}/d");
    let begin = Instant::now();
    let options = PostgresOptions::default();
    let refused = PostgresStore::connect(&url, options).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(5));
    let OpenError::Database { address, trouble: Trouble::OutOfReach, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(url.contains(address), "{refused}");
    assert!(refused.to_string().contains(address), "{refused}");
    assert!(refused.to_string().contains("PORTCULLIS_DATABASE_URL"), "{refused}");
    assert!(!chain(&refused).contains("hunter2"));
}

/// Forwards connections to `port`; those that were made before a `silence` say nothing any more,
/// and are not closed either, like those through a router that forgot them.
async fn forgetful_router(port: u16, silence: tokio::sync::watch::Receiver<u32>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut silence = silence.clone();
            silence.mark_unchanged();
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
                let mut server = server.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = silence.changed() => std::future::pending().await,
                }
            });
        }
    });
    own_port
}

#[tokio::test]
async fn connections_that_fall_silent_are_replaced() {
    let cluster = shared();
    let (silence, silent) = tokio::sync::watch::channel(0);
    let port = forgetful_router(cluster.port(), silent).await;
    let options = PostgresOptions {
        max_connections: 1,
        acquire_timeout: Duration::from_millis(500),
        statement_timeout: Duration::from_millis(500),
    };
    let url = cluster.database().replace(&cluster.port().to_string(), &port.to_string());
    let store = PostgresStore::connect(&url, options).await.unwrap();
    store.now().await.unwrap();
    silence.send_modify(|n| *n += 1);
    let begin = Instant::now();
    let mut failures = 0;
    while let Err(error) = store.create_account(&ctx(1), &new_account("acme")).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        failures += 1;
    }
    assert!(failures > 0, "the connection did not fall silent");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(store.position().await.unwrap(), 1);
}

#[tokio::test]
async fn a_held_head_row_is_waited_for_in_bounds() {
    use sqlx::Connection as _;
    let url = database();
    let options =
        PostgresOptions { statement_timeout: Duration::from_millis(500), ..Default::default() };
    let store = PostgresStore::connect(&url, options).await.unwrap();
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    let hold = sqlx::raw_sql("BEGIN; UPDATE head SET position = position");
    hold.execute(&mut other).await.unwrap();
    let waited = store.create_account(&ctx(1), &new_account("acme")).await;
    assert!(matches!(waited, Err(StoreError::Unavailable(_))), "{waited:?}");
    assert_eq!(store.position().await.unwrap(), 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    store.create_account(&ctx(1), &new_account("acme")).await.unwrap();
}

#[tokio::test]
async fn urls_are_judged_without_quoting_them() {
    let options = PostgresOptions::default();
    for url in [
        "mysql://u:hunter2@localhost/d",
        "hunter2",
        "postgres://u:hunter2@localhost:port/d",
        "postgres://u:12?hunter2@localhost/d",
        "postgres://u@localhost/d?pasword=hunter2",
        "postgres://u:hunter2@localhost/d?sslmode=hunter2",
        "postgres://u:hunter2#x@localhost/d",
    ] {
        let refused = PostgresStore::connect(url, options).await.unwrap_err();
        assert!(!chain(&refused).contains("hunter2"), "{refused:?}");
        assert!(matches!(refused, OpenError::Url(_)), "{url}: {refused:?}");
    }
    let url = database().replace("postgres@", "nobody:hunter2@");
    let refused = PostgresStore::connect(&url, options).await.unwrap_err();
    assert!(!chain(&refused).contains("hunter2"));
}

#[tokio::test]
async fn sessions_are_as_promised() {
    use sqlx::Connection as _;
    let url = database();
    let store = connect(&url).await;
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    // The cluster has it off; a trigger sees what the store's sessions have.
    let spy = "CREATE TABLE seen (name TEXT, value TEXT);
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen SELECT name, current_setting(name) FROM unnest(ARRAY[
                'synchronous_commit', 'statement_timeout', 'lock_timeout',
                'idle_in_transaction_session_timeout', 'application_name']) AS name;
            RETURN NEW; END $$;
        CREATE TRIGGER look AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION look();";
    sqlx::raw_sql(spy).execute(&mut other).await.unwrap();
    store.create_account(&ctx(1), &new_account("acme")).await.unwrap();
    let seen: Vec<(String, String)> = sqlx::query_as("SELECT name, value FROM seen ORDER BY name")
        .fetch_all(&mut other)
        .await
        .unwrap();
    let seen: Vec<_> = seen.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("application_name", "portcullis"),
            ("idle_in_transaction_session_timeout", "5s"),
            ("lock_timeout", "4s"),
            ("statement_timeout", "5s"),
            ("synchronous_commit", "on"),
        ]
    );
}

#[tokio::test]
async fn migrating_twice_or_at_once_is_harmless() {
    let url = database();
    let (first, second) = tokio::join!(migrate(&url), migrate(&url));
    let mut applied = first.unwrap();
    applied.extend(second.unwrap());
    assert_eq!(applied, MIGRATIONS);
    assert!(migrate(&url).await.unwrap().is_empty());
    let _: Arc<dyn Store> = Arc::new(connect(&url).await);
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let f = Fixture::postgres().await;
    let newer = "INSERT INTO _sqlx_migrations VALUES (9999, 'later', now(), true, '', 0)";
    f.execute(newer, &[]).await.unwrap();
    let crate::store::fixture::Place::Postgres(url) = &f.place else {
        unreachable!("it was just made")
    };
    // It says that this version can live beside it, and then that it can't.
    assert!(migrate(url).await.unwrap().is_empty());
    let breaking = "UPDATE head SET oldest_program = 9999";
    f.execute(breaking, &[]).await.unwrap();
    let refused = migrate(url).await.unwrap_err();
    assert!(matches!(refused, OpenError::Newer(9999)), "{refused:?}");
}
