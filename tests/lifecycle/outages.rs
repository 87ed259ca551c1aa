//! Uses while the store can't keep them: one that would cancel is not allowed and not counted, and one that is
//! allowed is kept as soon as the store takes it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use portcullis::policy::decide::Reason;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind::{ReadOnly, ReadWrite};
use portcullis::service::Error;
use portcullis::store::sqlite;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::lifecycle::story::{ANN, BALANCE, READ, REVEAL, SEND, Story, Token};
use crate::lifecycle::world::{DAY, Place, START, World};
use crate::support::postgres::Cluster;

/// Longer than any answer should take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection of the test's own to the story's file.
async fn open(s: &Story) -> SqliteConnection {
    let Place::Sqlite(dir) = &s.world.place else { unreachable!("it was opened there") };
    let options = SqliteConnectOptions::new().filename(dir.path().join(sqlite::FILE));
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// A token with an announced deletion, and one with an announced downgrade that is read with.
async fn announced(s: &mut Story) -> (Token, Token) {
    let idle = s.token("idle", ReadOnly, &[]).await;
    let reader = s.token("reader", ReadWrite, &[]).await;
    s.live_using(&reader, READ, 38).await;
    // Decisions know both.
    assert_eq!(s.warning(&idle).await, "deletion on day 45");
    assert_eq!(s.warning(&reader).await, "downgrade on day 45");
    (idle, reader)
}

/// What is used while the store refuses to keep it.
async fn refused(s: &Story, (idle, reader): &(Token, Token)) {
    for _ in 0..3 {
        for (token, scope) in [(idle, READ), (reader, SEND)] {
            let decided = tokio::time::timeout(PATIENCE, s.try_use(token, scope)).await;
            let decided = decided.expect("it is answered");
            assert!(matches!(decided, Err(Error::Unavailable { .. })), "{decided:?}");
        }
        // What cancels nothing is decided from memory, and noted there.
        assert_eq!(s.would(idle, READ).await, Reason::Allowed);
        s.uses(reader, READ).await;
        assert_eq!(s.warning(idle).await, "deletion on day 45");
    }
    assert!(s.world.services.parts.usage.flush().await.is_err());
}

/// The store takes uses again: those that were allowed at that instant are kept, and no others.
async fn kept(s: &Story, (idle, reader): &(Token, Token), at: Timestamp) {
    // Connections that died may each cost one call, but never an answer.
    while s.world.services.parts.usage.flush().await.is_err() {}
    let uses =
        async |token: &Token| s.world.store.token(token.held.id, None).await.unwrap().unwrap().uses;
    assert_eq!(uses(idle).await.last, None, "it was not allowed");
    let reader = uses(reader).await;
    assert_eq!((reader.last, reader.last_write), (Some(at), None));
}

async fn cut_off(s: &Story, tokens: &(Token, Token)) {
    // Changes of which nobody knows what became, and an outbox that waits to know: what waits for the
    // store holds up nobody else.
    let (account, admins) = (s.account.to_string(), [ANN.to_owned()]);
    let services = &s.world.services;
    let caller = World::caller();
    let change = services.set_account_admins(&caller, &account, &admins);
    let changed = tokio::time::timeout(PATIENCE, change).await.expect("it is answered");
    assert!(matches!(changed, Err(Error::Unavailable { .. })));
    let mut sending = pin!(s.world.outbox.send_one());
    let sent = tokio::time::timeout(Duration::from_millis(50), &mut sending).await;
    assert!(!matches!(sent, Ok(Ok(_))), "{sent:?}");
    refused(s, tokens).await;
}

async fn back(s: &mut Story, (idle, reader): (Token, Token)) {
    assert_eq!(s.state(&idle).await, "READ_ONLY; deletion on day 45", "no use was counted");
    let downgrade = "READ_WRITE; loses send.request cards.reveal on day 45";
    assert_eq!(s.state(&reader).await, downgrade, "no use was counted");
    s.uses(&reader, SEND).await;
    assert_eq!(s.state(&reader).await, "READ_WRITE");
    s.live_until(45).await;
    assert_eq!(s.state(&idle).await, "deleted unused on day 45");
    assert_eq!(s.state(&reader).await, "READ_WRITE");
}

/// Rule 5.5.
#[tokio::test]
async fn no_use_is_allowed_that_sqlite_can_not_keep() {
    let mut s = Story::new(Place::sqlite()).await;
    let tokens = announced(&mut s).await;
    // SQLite says no to each use.
    let mut database = open(&s).await;
    for refuse in [
        "CREATE TRIGGER refuse BEFORE UPDATE ON token_use BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER refuse_scope BEFORE INSERT ON scope_use BEGIN SELECT RAISE(ABORT, 'no'); END",
    ] {
        sqlx::query(refuse).execute(&mut database).await.unwrap();
    }
    let at = s.world.now();
    refused(&s, &tokens).await;
    for accept in ["DROP TRIGGER refuse", "DROP TRIGGER refuse_scope"] {
        sqlx::query(accept).execute(&mut database).await.unwrap();
    }
    database.close().await.unwrap();
    kept(&s, &tokens, at).await;
    // Once it is known what became of the uses that were refused, decisions know both tokens again.
    s.world.services.parts.replicas.await_propagated_revision().await.unwrap();
    assert_eq!(s.warning(&tokens.0).await, "deletion on day 45");
    assert_eq!(s.warning(&tokens.1).await, "downgrade on day 45");
    // It answers nothing at all, and the process ends before it does again.
    s.world.clock.advance(Duration::from_secs(3_600));
    s.world.store.close().await;
    cut_off(&s, &tokens).await;
    s.world.reopen().await;
    back(&mut s, tokens).await;
}

#[tokio::test]
async fn no_use_is_allowed_that_postgres_can_not_keep() {
    let cluster = Arc::new(Cluster::with_fsync());
    let mut s = Story::new(Place::Postgres(cluster.database())).await;
    let tokens = announced(&mut s).await;
    let at = s.world.now();
    cluster.stop();
    cut_off(&s, &tokens).await;
    cluster.start();
    kept(&s, &tokens, at).await;
    back(&mut s, tokens).await;
}

/// What the store refuses for one token stays that token's trouble.
#[tokio::test]
async fn a_token_that_can_not_be_announced_holds_up_no_other() {
    let mut s = Story::new(Place::sqlite()).await;
    let ill = s.token("ill", ReadOnly, &[]).await;
    let sound = s.token("sound", ReadOnly, &[]).await;
    let mut database = open(&s).await;
    let refuse = format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON pending_action WHEN NEW.token_id = x'{}' \
         BEGIN SELECT RAISE(ABORT, 'no'); END",
        ill.held.id.0.simple()
    );
    sqlx::query(AssertSqlSafe(refuse)).execute(&mut database).await.unwrap();
    s.live_until(39).await;
    assert_eq!(s.state(&ill).await, "READ_ONLY");
    assert_eq!(s.state(&sound).await, "READ_ONLY; deletion on day 45");
    sqlx::query("DROP TRIGGER refuse").execute(&mut database).await.unwrap();
    s.live_until(40).await;
    assert_eq!(s.state(&ill).await, "READ_ONLY; deletion on day 47");
}

/// Rule 5.6: what the store refuses stays noted until it takes it, with what was used meanwhile.
#[tokio::test]
async fn uses_that_the_store_refuses_are_recorded_once_it_takes_them() {
    /// With four scopes each, so many have more uses than the store is notified of at once.
    const TOKENS: usize = 251;
    let mut s = Story::new(Place::sqlite()).await;
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        tokens.push(s.token("used", ReadWrite, &[]).await);
    }
    tokens.sort_by_key(|token| token.held.id);
    let Place::Sqlite(dir) = &s.world.place else { unreachable!("it was opened there") };
    let options = SqliteConnectOptions::new().filename(dir.path().join(sqlite::FILE));
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    // Of the second lot alone: uses are recorded by id.
    let refuse = format!(
        "CREATE TRIGGER refuse BEFORE UPDATE OF last_use ON token_use WHEN NEW.token_id = x'{}' \
         BEGIN SELECT RAISE(ABORT, 'no'); END",
        tokens[TOKENS - 1].held.id.0.simple()
    );
    sqlx::query(AssertSqlSafe(refuse)).execute(&mut database).await.unwrap();
    s.sleep_until(1);
    for token in &tokens {
        for scope in [READ, BALANCE, SEND, REVEAL] {
            s.uses(token, scope).await;
        }
    }
    let last = async |token: &Token| {
        let token = s.world.store.token(token.held.id, None).await.unwrap().unwrap();
        token.uses.last
    };
    let recorded = || s.world.outbox.metrics.uses_recorded.get();
    assert!(s.world.services.parts.usage.flush().await.is_err());
    assert_eq!(recorded(), 1_000);
    assert_eq!(last(&tokens[TOKENS - 1]).await, None);
    s.sleep_until(2);
    s.uses(&tokens[0], READ).await;
    assert!(s.world.services.parts.usage.flush().await.is_err());

    sqlx::query("DROP TRIGGER refuse").execute(&mut database).await.unwrap();
    s.world.services.parts.usage.flush().await.unwrap();
    let day = |day| Some(START.plus(DAY * day));
    assert_eq!(last(&tokens[TOKENS - 1]).await, day(1), "what was refused is lost");
    assert_eq!(last(&tokens[0]).await, day(2), "what was used meanwhile is lost");
    assert_eq!(recorded(), 1_005, "each use once");
}
