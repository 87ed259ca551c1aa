//! A fresh store, and what the tests put into it.

use std::sync::Arc;

use portcullis::model::{
    Account, Actor, AuditEvent, AuditFilter, ChangeRecord, Context, Credential, NewToken, Page,
    Role, StoredCatalog, Token,
};
use portcullis::policy::catalog_file;
use portcullis::policy::id::{AccountId, CredentialId, TokenId};
use portcullis::policy::network::{CidrSet, Limits, Whitelist, parse_entries};
use portcullis::policy::scope::{Catalog, ScopeId, ScopeName};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use portcullis::store::Store;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::store::sqlite::SqliteStore;
use uuid::Uuid;

use crate::support::postgres;

pub(crate) const READ: &str = "transactions.read";
pub(crate) const ASK: &str = "send.request";
pub(crate) const REVEAL: &str = "cards.reveal";

/// The migrations of Postgres, as `migrate` names them.
pub(crate) const MIGRATIONS: [&str; 18] = [
    "0001 base",
    "0002 lifecycle",
    "0003 replicas",
    "0004 sessions",
    "0005 told",
    "0006 client source",
    "0007 client certificates",
    "0008 token expiry",
    "0009 expiry mails",
    "0010 activity",
    "0011 leaks",
    "0012 account state",
    "0013 replacement",
    "0014 import",
    "0015 token labels",
    "0016 credential expiry",
    "0017 audit chain",
    "0018 webhooks",
];

/// Those of SQLite: it has none that is about replicas only.
pub(crate) fn sqlite_migrations() -> Vec<&'static str> {
    let of_replicas = ["0003 replicas", "0005 told"];
    MIGRATIONS.into_iter().filter(|name| !of_replicas.contains(name)).collect()
}

pub(crate) enum Place {
    Sqlite(tempfile::TempDir),
    Postgres(String),
}

pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) place: Place,
}

impl Fixture {
    pub(crate) async fn sqlite() -> Self {
        Self::open(Place::Sqlite(tempfile::tempdir().unwrap())).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::open(Place::Postgres(postgres::database())).await
    }

    async fn open(place: Place) -> Self {
        let store = place.open().await;
        Self { store, place }
    }

    pub(crate) async fn reopen(self) -> Self {
        self.store.close().await;
        Self::open(self.place).await
    }

    /// Past the store: `sql` with `ids` as its parameters.
    pub(crate) async fn execute(&self, sql: &'static str, ids: &[Uuid]) -> Result<(), sqlx::Error> {
        use sqlx::Connection as _;
        match &self.place {
            Place::Sqlite(dir) => {
                let file = dir.path().join(portcullis::store::sqlite::FILE);
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
                let mut connection = sqlx::SqliteConnection::connect_with(&options).await?;
                let query = ids.iter().fold(sqlx::query(sql), |query, id| query.bind(id));
                query.execute(&mut connection).await?;
                connection.close().await
            }
            Place::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await?;
                let query = ids.iter().fold(sqlx::query(sql), |query, id| query.bind(id));
                query.execute(&mut connection).await?;
                connection.close().await
            }
        }
    }

    /// Makes the events those of a store from before the chain.
    pub(crate) async fn forget_hashes(&self) {
        for sql in [
            "UPDATE audit_event SET hash = NULL, pending_action_id = NULL",
            "UPDATE head SET chain_position = 0, chain_hash = NULL",
        ] {
            self.execute(sql, &[]).await.unwrap();
        }
    }

    /// Past the store: the one number that `sql` gives.
    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        use sqlx::Connection as _;
        match &self.place {
            Place::Sqlite(dir) => {
                let file = dir.path().join(portcullis::store::sqlite::FILE);
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
                let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
                sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
            }
            Place::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
            }
        }
    }

    /// Past the store: what sees each commit of another connection.
    pub(crate) async fn commits(&self) -> Commits {
        use sqlx::Connection as _;
        match &self.place {
            Place::Sqlite(dir) => {
                let file = dir.path().join(portcullis::store::sqlite::FILE);
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
                Commits::Sqlite(sqlx::SqliteConnection::connect_with(&options).await.unwrap())
            }
            Place::Postgres(url) => {
                Commits::Postgres(sqlx::PgConnection::connect(url).await.unwrap())
            }
        }
    }

    pub(crate) async fn account(&self, name: &str) -> AccountId {
        let account = new_account(name);
        self.store.create_account(&ctx(1), &account).await.unwrap();
        account.id
    }

    /// Puts a catalogue of these scopes in force.
    pub(crate) async fn catalog(&self, names: &[&str]) -> Catalog {
        let current = self.store.catalog().await.unwrap();
        let current = current.map(|current| current.version);
        let stored =
            self.store.apply_catalog(&ctx(2), current, &toml(names), &scope_names(names)).await;
        read_catalog(&stored.unwrap().unwrap())
    }

    pub(crate) async fn token(&self, catalog: &Catalog, new: &NewToken) -> Token {
        let stored = self.store.create_token(&ctx(3), catalog, new).await;
        stored.unwrap().unwrap()
    }

    /// Every audit event, the oldest first.
    pub(crate) async fn events(&self) -> Vec<AuditEvent> {
        let filter = AuditFilter::default();
        let mut events = self.store.audit_events(&filter, all()).await.unwrap();
        events.reverse();
        events
    }

    /// The newest audit event and change record; both must be of the head's position.
    pub(crate) async fn last(&self) -> (AuditEvent, ChangeRecord) {
        let position = self.store.position().await.unwrap();
        let event = self.events().await.pop().unwrap();
        let changes = self.store.changes(position - 1, 10).await.unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!((event.position, changes[0].position), (position, position));
        (event, changes[0])
    }

    pub(crate) async fn position(&self) -> i64 {
        self.store.position().await.unwrap()
    }

    /// That positions have no gap and each has both its records.
    pub(crate) async fn check_record(&self) {
        let positions: Vec<i64> = (1..=self.position().await).collect();
        let events = self.events().await;
        let events: Vec<i64> = events.iter().map(|event| event.position).collect();
        let changes = self.store.changes(0, 10_000).await.unwrap();
        let changes: Vec<i64> = changes.iter().map(|change| change.position).collect();
        assert_eq!(events, positions);
        assert_eq!(changes, positions);
    }
}

/// A number that is another after each commit of somebody else that took the head row.
pub(crate) enum Commits {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

impl Commits {
    pub(crate) async fn number(&mut self) -> i64 {
        match self {
            Self::Sqlite(connection) => {
                let version = sqlx::query_scalar("PRAGMA data_version");
                version.fetch_one(connection).await.unwrap()
            }
            Self::Postgres(connection) => {
                let xmin = sqlx::query_scalar("SELECT xmin::text::bigint FROM head");
                xmin.fetch_one(connection).await.unwrap()
            }
        }
    }
}

impl Place {
    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(dir) => Arc::new(SqliteStore::open(dir.path(), "a test").await.unwrap()),
            Self::Postgres(url) => {
                let options = PostgresOptions::default();
                Arc::new(PostgresStore::connect(url, options).await.unwrap())
            }
        }
    }
}

/// A change at that instant by an operator from an address.
pub(crate) fn ctx(now: i64) -> Context {
    Context::new(
        Actor::Credential(CredentialId(Uuid::from_u128(7)), Role::Operator),
        Timestamp(now),
        Some("::ffff:192.0.2.7".parse().unwrap()),
    )
}

pub(crate) fn all<K>() -> Page<K> {
    page(None, 10_000)
}

pub(crate) fn page<K>(after: Option<K>, limit: u32) -> Page<K> {
    Page { after, limit }
}

pub(crate) fn new_account(name: &str) -> Account {
    Account {
        id: AccountId(Uuid::now_v7()),
        name: name.into(),
        admins: vec![format!("zoe@{name}.test"), format!("adam@{name}.test")],
        created: Timestamp(1),
        suspended: None,
        closed: None,
    }
}

pub(crate) fn new_token(
    account_id: AccountId,
    kind: TokenKind,
    scopes: Vec<ScopeId>,
    entries: &str,
) -> NewToken {
    let id = Uuid::now_v7();
    NewToken {
        labels: Default::default(),
        expires: None,
        id: TokenId(id),
        account_id,
        name: "a token".into(),
        digest: portcullis::secret::digest(id.as_bytes()),
        kind,
        scopes,
        whitelist: whitelist(entries),
    }
}

pub(crate) fn new_credential(role: Role) -> (Credential, [u8; 32]) {
    let id = Uuid::now_v7();
    let credential = Credential {
        id: CredentialId(id),
        role,
        name: "a credential".into(),
        created: Timestamp(4),
        revoked: None,
        expires: None,
        last_use: None,
        from_settings: false,
        client_source: None,
        client_certificates: Vec::new(),
    };
    (credential, portcullis::secret::digest(id.as_bytes()))
}

/// Of entries joined by commas; none for a token that may be used from anywhere.
pub(crate) fn whitelist(entries: &str) -> Whitelist {
    let texts = Some(entries).filter(|text| !text.is_empty());
    let entries = parse_entries(texts, &Limits::default()).unwrap();
    let entries = CidrSet::new(entries, &Limits::default()).unwrap();
    entries.map_or(Whitelist::Unrestricted, Whitelist::Only)
}

pub(crate) fn toml(names: &[&str]) -> String {
    let scope = |name: &&str| {
        let access = if *name == READ { "read" } else { "write" };
        let required = *name == REVEAL;
        format!(
            "[[scope]]\nname = \"{name}\"\naccess = \"{access}\"\nrequires_whitelist = {required}\n"
        )
    };
    names.iter().map(scope).collect()
}

pub(crate) fn scope_names(names: &[&str]) -> Vec<ScopeName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

pub(crate) fn read_catalog(stored: &StoredCatalog) -> Catalog {
    let defs = catalog_file::parse(&stored.toml).unwrap();
    Catalog::new(stored.version, defs, |name| id_of(stored, name.as_str()))
}

pub(crate) fn id_of(stored: &StoredCatalog, name: &str) -> ScopeId {
    let mut ids = stored.scope_ids.iter();
    ids.find(|(known, _)| known.as_str() == name).unwrap().1
}
