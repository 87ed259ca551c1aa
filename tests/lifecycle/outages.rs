//! A use that would cancel, while the store is out of reach: there is no ALLOW, and no use.

use std::sync::Arc;

use portcullis::policy::decide::Reason;
use portcullis::policy::token::TokenKind::{ReadOnly, ReadWrite};
use portcullis::service::Error;

use crate::story::{READ, SEND, Story, Token};
use crate::support::postgres::Cluster;
use crate::world::Place;

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

async fn cut_off(s: &Story, (idle, reader): &(Token, Token)) {
    for _ in 0..3 {
        for (token, scope) in [(idle, READ), (reader, SEND)] {
            let decided = s.try_use(token, scope).await;
            assert!(matches!(decided, Err(Error::Unavailable { .. })), "{decided:?}");
        }
        // What cancels nothing is decided from memory.
        assert_eq!(s.would(idle, READ).await, Reason::Allowed);
        s.uses(reader, READ).await;
        assert_eq!(s.warning(idle).await, "deletion on day 45");
    }
    assert!(s.world.services.usage.flush().await.is_err());
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

#[tokio::test]
async fn no_use_is_allowed_that_sqlite_can_not_keep() {
    let mut s = Story::new(Place::sqlite()).await;
    let tokens = announced(&mut s).await;
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
    cluster.stop();
    cut_off(&s, &tokens).await;
    cluster.start();
    // Connections that died may each cost one call, but never an answer.
    while s.world.services.usage.flush().await.is_err() {}
    back(&mut s, tokens).await;
}
