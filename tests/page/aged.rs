//! Accounts whose tokens are months old, so that everything that takes weeks is there to be seen in the
//! default window of 45 days: tokens that were used long ago, notices that were mailed days ago, one that the
//! mail server refuses, and what was taken. Times are moved into the past while the server is down; what
//! follows from them the server does itself.

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis::grpc::proto::{
    CreateCredentialRequest, Decision, DeleteTokenRequest, Role, TokenKind,
};
use portcullis::store::sqlite;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};

use crate::page::stage::{account, named_token};
use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::postgres;
use crate::support::server::{Server, Setup};
use crate::support::smtp::{Sink, Step};
use crate::support::wait::until;

/// The admins of each scene's account.
pub(crate) const ADMINS: [&str; 2] = ["ann@harbour.example", "bo@harbour.example"];
/// Of the account whose notices are held: the mail server refuses the second one for good.
pub(crate) const HELD: [&str; 2] = ["dee@quay.example", "eve@quay.example"];
/// What the mail server says of that one.
pub(crate) const REFUSAL: &str = "550 5.1.1 no such user here";

const DAY: i64 = 86_400_000_000;
const HOUR: i64 = DAY / 24;
/// What the server allows between flushes of use, and some more.
const FLUSHED: Duration = Duration::from_millis(100);

/// A token of each scene: what it is, when it was made and when each scope was last used.
struct Past {
    name: &'static str,
    kind: TokenKind,
    scopes: &'static [&'static str],
    whitelist: &'static [&'static str],
    made: i64,
    uses: &'static [(&'static str, i64)],
}

const fn past(
    name: &'static str,
    kind: TokenKind,
    whitelist: &'static [&'static str],
    made: i64,
    uses: &'static [(&'static str, i64)],
) -> Past {
    Past { name, kind, scopes: &[], whitelist, made, uses }
}

const HERE: &[&str] = &["127.0.0.0/8", "192.0.2.0/24"];

/// What a scene has, but for those that only fill pages.
const TOKENS: [Past; 9] = [
    // Told three days ago; gone in four.
    past("nightly export", TokenKind::ReadOnly, &[], 60 * DAY, &[("transactions.read", 42 * DAY)]),
    // Told just now: it reads, and hasn't written.
    past(
        "payments",
        TokenKind::ReadWrite,
        HERE,
        90 * DAY,
        &[("transactions.read", DAY), ("transactions.send", 41 * DAY)],
    ),
    // It loses the two that it doesn't use.
    Past {
        scopes: &["transactions.read", "cards.read", "cards.reveal"],
        ..past(
            "cards service",
            TokenKind::Custom,
            HERE,
            90 * DAY,
            &[
                ("transactions.read", 2 * HOUR),
                ("cards.read", 41 * DAY),
                ("cards.reveal", 41 * DAY),
            ],
        )
    },
    // Told eight days ago: it became READ_ONLY.
    past(
        "old sync",
        TokenKind::ReadWrite,
        HERE,
        120 * DAY,
        &[("transactions.read", DAY), ("transactions.send", 70 * DAY)],
    ),
    past("edge cache", TokenKind::ReadOnly, &[], 3 * DAY, &[]),
    past("retired", TokenKind::ReadOnly, &[], 30 * DAY, &[("cards.read", 9 * DAY)]),
    past("spare", TokenKind::ReadOnly, &[], 30 * DAY, &[("transactions.read", 2 * DAY)]),
    past("shared list", TokenKind::ReadWrite, HERE, 5 * DAY, &[("transactions.send", HOUR)]),
    past("lent", TokenKind::ReadOnly, &["192.0.2.1"], 5 * DAY, &[]),
];

/// Of the account whose notices are held.
const WAITING: Past =
    past("forgotten", TokenKind::ReadOnly, &[], 80 * DAY, &[("transactions.read", 60 * DAY)]);

/// What fills a list's pages: `till 01` and so on.
const FILLER: Past = past("till", TokenKind::ReadOnly, &["192.0.2.1"], 20 * DAY, &[]);

/// How many of those there are.
const MORE: usize = 30;

pub(crate) struct Aged {
    pub(crate) server: Server,
    /// For the scripts of `browser/`: the accounts and tokens, one account for each scene.
    pub(crate) scenes: Vec<Value>,
    pub(crate) held: Value,
    _sink: Sink,
}

/// Where the server's data is, for whoever goes behind its back.
enum Place {
    Sqlite,
    Postgres(String),
}

impl Aged {
    pub(crate) async fn on_sqlite(scenes: usize) -> Self {
        Self::new(Setup::sqlite(), &Place::Sqlite, scenes).await
    }

    pub(crate) async fn on_postgres(scenes: usize) -> Self {
        let url = postgres::database();
        Self::new(Setup::postgres(&url), &Place::Postgres(url), scenes).await
    }

    async fn new(setup: Setup, place: &Place, count: usize) -> Self {
        let setup = setup
            .flag("--usage-flush-interval", format!("{}ms", FLUSHED.as_millis()))
            .flag("--lifecycle-sweep-interval", "200ms");
        let observing = setup.clone().flag("--lifecycle-mode", "observe");
        let mut server = observing.start();
        let operator = Client::operator(&server).await;
        let mut scenes = Vec::new();
        for number in 1..=count {
            let name = format!("Harbour Books {number}");
            scenes.push(scene(&operator, &name, &ADMINS, &TOKENS, MORE).await);
        }
        let held = scene(&operator, "Quay Holdings", &HELD, &[WAITING], 0).await;
        drop(operator);
        assert!(server.terminate().success());
        for token in TOKENS.iter().chain([&WAITING, &FILLER]) {
            place.execute(&server, &ago(token)).await;
        }

        let sink = Sink::start();
        sink.at(Step::Rcpt).to(HELD[1]).says(REFUSAL);
        let url = sink.url();
        server.restart_with(|_| {
            setup
                .env("PORTCULLIS_SMTP_URL", url)
                .flag("--mail-from", "portcullis@example.test")
                .flag("--mail-rate", "1000")
        });
        let told = 4 * count + 1;
        let shell = Shell::operator(&server);
        until(|| notices(&shell), |(actions, waiting)| (*actions, *waiting) == (told, 1));
        assert!(server.terminate().success());
        place.execute(&server, &told_ago("nightly export", 3 * DAY)).await;
        place.execute(&server, &told_ago("old sync", 8 * DAY)).await;
        server.restart();
        let shell = Shell::operator(&server);
        until(|| notices(&shell).0, |actions| *actions == told - count);
        Self { server, scenes, held, _sink: sink }
    }
}

/// How many actions are announced, and how many of their notices are not accepted.
fn notices(shell: &Shell) -> (usize, usize) {
    let answer = shell.run(&["pending", "--output", "json"]).json();
    let actions = answer["pending_actions"].as_array().unwrap();
    let notices = actions.iter().flat_map(|action| action["notices"].as_array().unwrap());
    (actions.len(), notices.filter(|notice| notice["state"] != "NOTICE_STATE_ACCEPTED").count())
}

impl Place {
    /// Carries out statements behind the server's back, which must be down.
    async fn execute(&self, server: &Server, statements: &str) {
        let sql = AssertSqlSafe(statements.to_owned());
        match self {
            Self::Sqlite => {
                let file = server.data_dir().join(sqlite::FILE);
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
                let mut store = SqliteConnection::connect_with(&options).await.unwrap();
                store.execute(sql).await.unwrap();
                store.close().await.unwrap();
            }
            Self::Postgres(url) => {
                let mut store = PgConnection::connect(url).await.unwrap();
                store.execute(sql).await.unwrap();
                store.close().await.unwrap();
            }
        }
    }
}

/// An account with its tokens, each used as it ever was. All of that happens now.
async fn scene(
    operator: &Client,
    name: &str,
    admins: &[&str],
    tokens: &[Past],
    more: usize,
) -> Value {
    let account = account(operator, name, admins).await;
    let request = CreateCredentialRequest {
        role: Role::AccountAdmin.into(),
        account_id: account.clone(),
        name: "Ann, by night".to_owned(),
        ..Default::default()
    };
    let credential = operator.credentials().create_credential(request).await.unwrap();
    let admin = credential.into_inner().secret;
    let mut ids = BTreeMap::new();
    for token in tokens {
        let Past { name, kind, scopes, whitelist, uses, .. } = *token;
        let (made, secret) = named_token(operator, &account, name, kind, scopes, whitelist).await;
        for (scope, _) in uses {
            let ask = question(&secret, "127.0.0.1", scope);
            let answer = operator.authorization().authorize(ask).await.unwrap().into_inner();
            assert_eq!(answer.decision(), Decision::Allow, "{name} {scope}: {}", answer.message);
        }
        if name == "retired" {
            let token_id = made.token_id.clone();
            let delete = DeleteTokenRequest { token_id, no_wait: false };
            operator.tokens().delete_token(delete).await.unwrap();
        }
        ids.insert(name.to_owned(), made.token_id);
    }
    for number in 1..=more {
        let Past { name, kind, whitelist, .. } = FILLER;
        let name = format!("{name} {number:02}");
        named_token(operator, &account, &name, kind, &[], whitelist).await;
    }
    json!({ "account": account, "account_name": name, "admin": admin, "tokens": ids })
}

/// Statements that move a token's creation and use into the past.
fn ago(token: &Past) -> String {
    let Past { name, made, uses, .. } = token;
    let named = format!("(name = '{name}' OR name LIKE '{name} __')");
    let ids = format!("(SELECT token_id FROM token WHERE {named})");
    let mut sql = format!(
        "UPDATE token SET create_time = create_time - {made} WHERE {named};\
         UPDATE audit_event SET time = time - {made} \
         WHERE action = 'token.create' AND token_id IN {ids};"
    );
    for (scope, ago) in *uses {
        sql.push_str(&format!(
            "UPDATE scope_use SET last_use = last_use - {ago} WHERE token_id IN {ids} \
             AND scope_id = (SELECT scope_id FROM scope WHERE name = '{scope}');"
        ));
    }
    let writes =
        uses.iter().filter(|(scope, _)| !scope.ends_with(".read")).map(|(_, ago)| ago).min();
    let write = writes.map_or("NULL".to_owned(), |ago| format!("last_write_use - {ago}"));
    let any = uses.iter().map(|(_, ago)| ago).min().unwrap_or(&0);
    sql.push_str(&format!(
        "UPDATE token_use SET last_use = last_use - {any}, last_write_use = {write}, \
         idle_since = CASE WHEN idle_since IS NOT NULL THEN idle_since - {made} END \
         WHERE token_id IN {ids};"
    ));
    sql
}

/// Statements by which what is announced of a token was announced, and the notices accepted, that long ago.
fn told_ago(name: &str, ago: i64) -> String {
    let ids = format!("(SELECT token_id FROM token WHERE name = '{name}')");
    format!(
        "UPDATE pending_action SET create_time = create_time - {ago}, \
         accepted_time = accepted_time - {ago} WHERE token_id IN {ids};\
         UPDATE mail SET create_time = create_time - {ago}, accept_time = accept_time - {ago} \
         WHERE token_id IN {ids};\
         UPDATE audit_event SET time = time - {ago} \
         WHERE action IN ('lifecycle.announce', 'lifecycle.noticed') AND token_id IN {ids};"
    )
}
