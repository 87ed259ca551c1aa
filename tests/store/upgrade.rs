//! A store of an earlier version is brought up to date, with what it holds.

use std::path::Path;

use portcullis::model::Use;
use portcullis::policy::time::Timestamp;
use portcullis::store::Store;
use portcullis::store::sqlite::FILE;
use sqlx::Connection as _;
use sqlx::migrate::Migrator;
use uuid::Uuid;

use crate::store::fixture::{MIGRATIONS, Place, sqlite_migrations};
use crate::support::postgres::database;

const LIVE: Uuid = Uuid::from_u128(1);
const DELETED: Uuid = Uuid::from_u128(2);
const ACCOUNT: Uuid = Uuid::from_u128(3);

/// These migrations alone.
async fn only(database: &str, files: &[&str]) -> Migrator {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
    for file in files {
        std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    Migrator::new(dir.path()).await.unwrap()
}

/// A new database in `dir` that these migrations alone made.
async fn old_sqlite(dir: &Path, files: &[&str]) -> sqlx::SqliteConnection {
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(dir.join(FILE)).create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    only("sqlite", files).await.run(&mut old).await.unwrap();
    old
}

/// The URL of a new database that these migrations alone made, and a connection to it.
async fn old_postgres(files: &[&str]) -> (String, sqlx::PgConnection) {
    let url = database();
    let mut old = sqlx::PgConnection::connect(&url).await.unwrap();
    only("postgres", files).await.run(&mut old).await.unwrap();
    (url, old)
}

const FIRST: [&str; 1] = ["0001_base.sql"];

const FILL: [&str; 4] = [
    "INSERT INTO account (account_id, name, create_time) VALUES ($1, 'acme', 5)",
    "INSERT INTO account_admin (account_id, ordinal, email) VALUES ($1, 0, 'zoe@acme.test')",
    "INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, whitelist_version, \
        create_time) \
     VALUES ($2, $1, 'live', 'READ_ONLY', $4, 'any', 1, 7)",
    "INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, whitelist_version, \
        create_time, delete_time, delete_cause) \
     VALUES ($3, $1, 'gone', 'READ_ONLY', $4, 'any', 1, 8, 9, 'owner')",
];

macro_rules! fill {
    ($connection:expr) => {
        for sql in FILL {
            let query = sqlx::query(sql).bind(ACCOUNT);
            let query = if sql.contains("$4") {
                // No two have one digest.
                let digest = [u8::from(sql.contains("'gone'")); 32];
                query.bind(LIVE).bind(DELETED).bind(digest.to_vec())
            } else {
                query
            };
            query.execute(&mut $connection).await.unwrap();
        }
    };
}

async fn check(store: &dyn Store) {
    let idle = store.idle_tokens(Timestamp(100), 10).await.unwrap();
    let [token] = &idle[..] else { panic!("{idle:?}") };
    assert_eq!((token.id.0, token.idle_since), (LIVE, Some(Timestamp(7))));
    assert_eq!(token.usage_state.created, Timestamp(7));
    for id in [LIVE, DELETED].map(portcullis::policy::id::TokenId) {
        assert!(store.token(id, None).await.unwrap().is_some());
        let used = Use {
            token_id: id,
            scope_id: portcullis::policy::scope::ScopeId(0),
            write: false,
            time: Timestamp(50),
        };
        store.record_uses(&[used]).await.unwrap();
        let uses = store.token(id, None).await.unwrap().unwrap().uses;
        assert_eq!(uses.last, Some(Timestamp(50)));
    }
}

#[tokio::test]
async fn tokens_of_the_first_version_have_a_lifecycle_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = old_sqlite(dir.path(), &FIRST).await;
    fill!(old);
    old.close().await.unwrap();
    check(&*Place::Sqlite(dir).open().await).await;
}

#[tokio::test]
async fn tokens_of_the_first_version_have_a_lifecycle_in_postgres() {
    let (url, mut old) = old_postgres(&FIRST).await;
    fill!(old);
    old.close().await.unwrap();
    check(&*Place::Postgres(url).open().await).await;
}

/// What came before the management page.
const BEFORE_SESSIONS: [&str; 2] = ["0001_base.sql", "0002_lifecycle.sql"];

#[tokio::test]
async fn sessions_come_to_an_earlier_store_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let old = old_sqlite(dir.path(), &BEFORE_SESSIONS).await;
    old.close().await.unwrap();
    let applied = portcullis::store::sqlite::migrate(dir.path()).await.unwrap();
    assert_eq!(applied, sqlite_migrations()[BEFORE_SESSIONS.len()..]);
}

#[tokio::test]
async fn sessions_come_to_an_earlier_store_in_postgres() {
    let replicas = [&BEFORE_SESSIONS[..], &["0003_replicas.sql"]].concat();
    let (url, _old) = old_postgres(&replicas).await;
    let applied = portcullis::store::postgres::migrate(&url).await.unwrap();
    assert_eq!(applied, MIGRATIONS[replicas.len()..]);
}

/// A dump reads the record for long, and a statement that waits to alter it holds up every change meanwhile.
#[tokio::test]
async fn an_upgrade_beside_a_dump_gives_up_soon_and_changes_nothing() {
    let sessions = [&BEFORE_SESSIONS[..], &["0003_replicas.sql", "0004_sessions.sql"]].concat();
    let (url, mut old) = old_postgres(&sessions).await;
    let mut dump = old.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM change").execute(&mut *dump).await.unwrap();
    let began = std::time::Instant::now();
    let refused = portcullis::store::postgres::migrate(&url).await.unwrap_err();
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(format!("{refused} {cause}").contains("lock timeout"), "{refused}: {cause}");
    dump.rollback().await.unwrap();
    let applied = portcullis::store::postgres::migrate(&url).await.unwrap();
    assert_eq!(applied, MIGRATIONS[sessions.len()..]);
}

/// Rule 11.4.
#[tokio::test]
async fn programs_that_ignore_expiry_neither_start_nor_keep_their_lease() {
    let before = [
        "0003_replicas.sql",
        "0004_sessions.sql",
        "0005_told.sql",
        "0006_client_source.sql",
        "0007_client_certificates.sql",
    ];
    let (url, mut old) = old_postgres(&[&BEFORE_SESSIONS[..], &before].concat()).await;
    let register = "INSERT INTO replica (replica_id, lease, renewals, applied, name, version, create_time, \
                    lifecycle) VALUES (gen_random_uuid(), 1, 0, 0, 'old', '0', 0, '')";
    sqlx::query(register).execute(&mut old).await.unwrap();
    portcullis::store::postgres::migrate(&url).await.unwrap();
    let oldest: i64 =
        sqlx::query_scalar("SELECT oldest_program FROM head").fetch_one(&mut old).await.unwrap();
    assert_eq!(oldest, 16);
    // As an earlier program renews, and comes back.
    let renew = "UPDATE replica SET renewals = renewals + 1";
    for refused in [renew, register] {
        let error = sqlx::query(refused).execute(&mut old).await.unwrap_err();
        assert!(error.to_string().contains("replica_knows_"), "{error}");
    }
    // Its row can be removed once its lease is over.
    sqlx::query("DELETE FROM replica").execute(&mut old).await.unwrap();
}

/// What came before mails about expiries.
const BEFORE_EXPIRY_MAILS: [&str; 6] = [
    "0001_base.sql",
    "0002_lifecycle.sql",
    "0004_sessions.sql",
    "0006_client_source.sql",
    "0007_client_certificates.sql",
    "0008_token_expiry.sql",
];

const QUEUED: &str = "\
    INSERT INTO mail (mail_id, kind, account_id, recipient, position, payload_json, create_time, state, attempts, \
        next_time) \
    VALUES ($2, 'admins_changed', $1, 'zoe@acme.test', 0, '{\"before\":[],\"after\":[\"zoe@acme.test\"]}', 5, \
        'queued', 3, 6)";

/// SQLite can't change a constraint, so the migration makes another table and copies the rows.
#[tokio::test]
async fn mails_that_wait_survive_the_upgrade_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = old_sqlite(dir.path(), &BEFORE_EXPIRY_MAILS).await;
    fill!(old);
    sqlx::query(QUEUED).bind(ACCOUNT).bind(LIVE).execute(&mut old).await.unwrap();
    old.close().await.unwrap();
    let store = Place::Sqlite(dir).open().await;
    let claim = std::time::Duration::from_secs(1);
    let mails = store.claim_mails(Timestamp(7), claim, 0, 9).await.unwrap();
    let [mail] = &mails[..] else { panic!("{mails:?}") };
    assert_eq!((mail.id.0, mail.attempts, mail.created), (LIVE, 3, Timestamp(5)));
    assert_eq!(mail.recipient, "zoe@acme.test");
}

/// Events from before the chain are sealed after the upgrade, and a change of the upgraded program continues the chain.
async fn check_sealed(store: &dyn Store) {
    use crate::store::fixture::{ctx, new_account, page};
    use portcullis::audit::ChainHash;
    use portcullis::model::AuditFilter;
    assert_eq!(store.seal_audit_events(100).await.unwrap(), 1);
    store.create_account(&ctx(9), &new_account("acme")).await.unwrap();
    let filter = AuditFilter { oldest_first: true, ..AuditFilter::default() };
    let events = store.audit_events(&filter, page(None, 9)).await.unwrap();
    let chain = store.audit_chain().await.unwrap();
    assert_eq!(chain.begin.hash, ChainHash::genesis(&chain.installation_id));
    assert!(!chain.installation_id.starts_with("00000000-"), "{}", chain.installation_id);
    assert_eq!((chain.head.revision, Some(chain.head.hash)), (2, events[1].hash));
    assert!(events[0].hash.is_some());
}

const EVENT_OF_BEFORE: &str = "INSERT INTO audit_event (position, time, action, actor, actor_role) \
    VALUES (1, 5, 'account.create', 'system', '')";

#[tokio::test]
async fn events_of_before_the_chain_are_sealed_in_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = old_sqlite(dir.path(), &BEFORE_SESSIONS).await;
    sqlx::query(EVENT_OF_BEFORE).execute(&mut old).await.unwrap();
    sqlx::query("UPDATE head SET position = 1").execute(&mut old).await.unwrap();
    old.close().await.unwrap();
    check_sealed(&*Place::Sqlite(dir).open().await).await;
}

#[tokio::test]
async fn events_of_before_the_chain_are_sealed_in_postgres() {
    let replicas = [&BEFORE_SESSIONS[..], &["0003_replicas.sql"]].concat();
    let (url, mut old) = old_postgres(&replicas).await;
    sqlx::query(EVENT_OF_BEFORE).execute(&mut old).await.unwrap();
    sqlx::query("UPDATE head SET position = 1").execute(&mut old).await.unwrap();
    old.close().await.unwrap();
    check_sealed(&*Place::Postgres(url).open().await).await;
}
