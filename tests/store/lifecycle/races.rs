//! Two at once: on both databases as it happens, and on Postgres in either order, held by a session
//! of the test's own.

use std::pin::pin;
use std::time::Duration;

use portcullis::model::{CarriedOut, NoLongerHeld};
use portcullis::policy::id::{PendingActionId, TokenId};
use portcullis::policy::token::{TokenKind, TokenState};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{Stage, day, on};
use crate::store::fixture::{ASK, Fixture, Place, READ};

on_both!(
    two_sweepers_announce_once,
    two_sweepers_carry_out_once,
    two_sweepers_purge_and_withdraw_once,
    a_use_and_a_carrying_out_exclude_each_other,
    a_recorded_use_and_a_notice_know_of_each_other,
    an_owner_and_a_sweeper_delete_once,
    an_admin_and_a_carrying_out_exclude_each_other,
    many_at_once_wait_in_no_circle,
);

const ROUNDS: usize = 12;

async fn tokens(s: &Stage, kind: TokenKind) -> Vec<TokenId> {
    let mut ids = Vec::new();
    for _ in 0..ROUNDS {
        ids.push(s.token(kind, &[]).await);
    }
    ids
}

async fn two_sweepers_announce_once(f: Fixture) {
    let s = Stage::new(f).await;
    for id in tokens(&s, TokenKind::ReadWrite).await {
        let (a, b) = tokio::join!(s.announce(id, 38), s.announce(id, 38));
        assert!(a.is_some() != b.is_some(), "{a:?} {b:?}");
    }
    assert_eq!(s.live().await.len(), ROUNDS);
    assert_eq!(s.claim(38).await.len(), 2 * ROUNDS);
    s.f.check_record().await;
}

async fn two_sweepers_carry_out_once(f: Fixture) {
    let s = Stage::new(f).await;
    for id in tokens(&s, TokenKind::ReadOnly).await {
        let action = s.noticed(id, 38).await;
        let (a, b) = tokio::join!(s.carry_out(action.id, 45), s.carry_out(action.id, 45));
        let mut outcomes = [a, b];
        outcomes.sort_by_key(|outcome| *outcome != CarriedOut::Done);
        assert_eq!(outcomes, [CarriedOut::Done, CarriedOut::ActionEnded]);
        // One mail for each admin.
        assert_eq!(s.deliver(45).await.len(), 2);
    }
    s.f.check_record().await;
}

async fn two_sweepers_purge_and_withdraw_once(f: Fixture) {
    let s = Stage::new(f).await;
    for id in tokens(&s, TokenKind::ReadOnly).await {
        s.announce(id, 38).await.unwrap();
        let context = on(39);
        let (a, b) = tokio::join!(
            s.store.withdraw_actions(&context, 10),
            s.store.withdraw_actions(&context, 10),
        );
        assert_eq!([a.unwrap(), b.unwrap()].concat(), [id]);
        s.store.delete_token(&on(40), id, None).await.unwrap();
        let context = on(150);
        let (a, b) = tokio::join!(
            s.store.purge(&context, day(41), 10),
            s.store.purge(&context, day(41), 10),
        );
        assert_eq!([a.unwrap(), b.unwrap()].concat(), [id]);
    }
    for action in ["lifecycle.withdraw", "token.purge"] {
        let events = s.f.events().await;
        assert_eq!(events.iter().filter(|event| event.action.as_str() == action).count(), ROUNDS);
    }
    s.f.check_record().await;
}

async fn a_use_and_a_carrying_out_exclude_each_other(f: Fixture) {
    let s = Stage::new(f).await;
    for (round, id) in tokens(&s, TokenKind::ReadWrite).await.into_iter().enumerate() {
        s.record(id, READ, 30).await;
        let action = s.noticed(id, 38).await;
        let write = s.used(id, ASK, 45);
        let context = on(45);
        let (using, carrying) = (
            s.store.record_use_of_announced(&context, &s.catalog, &write),
            s.carry_out(action.id, 45),
        );
        // Who is asked first is not always who comes first.
        let (used, carried_out) = if round % 2 == 0 {
            tokio::join!(using, carrying)
        } else {
            let (carried_out, used) = tokio::join!(carrying, using);
            (used, carried_out)
        };
        match used.unwrap() {
            Ok(cancelled) => {
                assert!(cancelled);
                assert_eq!(carried_out, CarriedOut::ActionEnded);
                assert_eq!(s.read(id).await.kind, TokenKind::ReadWrite);
                assert_eq!(s.read(id).await.uses.last_write, Some(day(45)));
            }
            Err(NoLongerHeld) => {
                assert_eq!(carried_out, CarriedOut::Done);
                assert_eq!(s.read(id).await.kind, TokenKind::ReadOnly);
                assert_eq!(s.read(id).await.uses.last_write, None);
            }
        }
        s.deliver(45).await;
    }
    s.f.check_record().await;
}

async fn a_recorded_use_and_a_notice_know_of_each_other(f: Fixture) {
    let s = Stage::new(f).await;
    for id in tokens(&s, TokenKind::ReadOnly).await {
        let (announced, overtaken) = tokio::join!(s.announce(id, 38), s.record(id, READ, 38));
        // Either the plan knew of the use, or whoever recorded it hears of the plan.
        assert_eq!(announced.is_some(), overtaken);
        assert_eq!(s.store.cancel_overtaken(&on(38), id).await.unwrap(), overtaken);
        assert!(s.facts(id).await.announced.is_empty());
        assert_eq!(s.idle(id).await, Some(day(38)));
    }
    assert!(s.live().await.is_empty());
    s.f.check_record().await;
}

async fn an_owner_and_a_sweeper_delete_once(f: Fixture) {
    let s = Stage::new(f).await;
    for id in tokens(&s, TokenKind::ReadOnly).await {
        let action = s.noticed(id, 38).await;
        let context = on(46);
        let (deleted, carried_out) =
            tokio::join!(s.store.delete_token(&context, id, None), s.carry_out(action.id, 45));
        let deleted = deleted.unwrap().unwrap().state;
        assert_eq!(deleted, s.facts(id).await.state);
        match carried_out {
            CarriedOut::Done => assert_eq!(deleted, TokenState::DeletedUnused { at: day(45) }),
            CarriedOut::ActionEnded => assert_eq!(deleted, TokenState::Deleted { at: day(46) }),
            other => panic!("{other:?}"),
        }
        s.deliver(46).await;
    }
    s.f.check_record().await;
}

async fn an_admin_and_a_carrying_out_exclude_each_other(f: Fixture) {
    let s = Stage::new(f).await;
    for (round, id) in tokens(&s, TokenKind::ReadOnly).await.into_iter().enumerate() {
        let action = s.noticed(id, 38).await;
        let joined = format!("new{round}@acme.test");
        let admins = ["zoe@acme.test", "adam@acme.test", &joined];
        let (touched, carried_out) =
            tokio::join!(s.set_admins(&admins, 45), s.carry_out(action.id, 45));
        match carried_out {
            CarriedOut::Done => assert!(touched.is_empty()),
            CarriedOut::Held => assert_eq!(touched, [id]),
            other => panic!("{other:?}"),
        }
        s.store.delete_token(&on(45), id, None).await.unwrap();
        s.set_admins(&["zoe@acme.test", "adam@acme.test"], 45).await;
        s.deliver(45).await;
    }
    s.f.check_record().await;
}

/// Batches in any order of ids beside changes that take several tokens.
async fn many_at_once_wait_in_no_circle(f: Fixture) {
    let s = Stage::new(f).await;
    let ids = tokens(&s, TokenKind::ReadWrite).await;
    for round in 0..5 {
        let now = 38 + round;
        let uses = |ids: &mut dyn Iterator<Item = &TokenId>| -> Vec<_> {
            ids.map(|&id| s.used(id, READ, round)).collect()
        };
        let (forth, back) = (uses(&mut ids.iter()), uses(&mut ids.iter().rev()));
        let back_ids: Vec<_> = ids.iter().rev().copied().collect();
        let context = on(now);
        for &id in &ids[..3] {
            s.announce(id, now).await;
        }
        let done = tokio::join!(
            s.store.record_uses(&forth),
            s.store.record_uses(&back),
            s.store.reschedule(&back_ids),
            s.store.withdraw_actions(&context, 10),
            s.announce(ids[5], now),
            s.store.cancel_overtaken(&context, ids[5]),
            s.store.reschedule(&ids),
        );
        let (forth, back, first, withdrawn, _, settled, second) = done;
        assert!(forth.is_ok() && back.is_ok() && first.is_ok() && second.is_ok());
        assert!(withdrawn.is_ok() && settled.is_ok());
    }
    let uses = s.read(ids[0]).await.uses;
    assert_eq!(uses.last, Some(day(4)));
    s.f.check_record().await;
}

// In either order, on Postgres.

fn url(s: &Stage) -> String {
    match &s.f.place {
        Place::Postgres(url) => url.clone(),
        Place::Sqlite(_) => unreachable!("only Postgres has other sessions"),
    }
}

/// Waits until a session of the database waits for a lock.
async fn until_blocked(url: &str) {
    let mut watcher = PgConnection::connect(url).await.unwrap();
    let count = "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(count).fetch_one(&mut watcher).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What comes of a call that waits for another's transaction, which ends then. A call that does not wait fails
/// the test at once.
async fn blocked_until<T>(
    url: &str,
    end: impl Future<Output = sqlx::Result<()>>,
    call: impl Future<Output = T>,
) -> T {
    let mut call = pin!(call);
    tokio::select! {
        () = until_blocked(url) => {}
        _ = &mut call => panic!("it did not wait for the transaction under way"),
    }
    end.await.unwrap();
    call.await
}

/// The same for a transaction that is committed.
async fn waiting_for<T>(
    url: &str,
    tx: sqlx::Transaction<'_, sqlx::Postgres>,
    call: impl Future<Output = T>,
) -> T {
    blocked_until(url, tx.commit(), call).await
}

/// What `record_uses` does, not yet committed.
const USE: &str = "UPDATE token_use SET last_use = $2 WHERE token_id = $1";

#[tokio::test]
async fn a_notice_waits_for_a_use_under_way_and_knows_of_it() {
    let s = Stage::new(Fixture::postgres().await).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let url = url(&s);
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    sqlx::query(USE).bind(id.0).bind(day(37).0).execute(&mut *tx).await.unwrap();
    let announced = waiting_for(&url, tx, s.announce(id, 38)).await;
    assert_eq!(announced, None);
    assert_eq!(s.idle(id).await, Some(day(37)));
}

#[tokio::test]
async fn a_use_waits_for_a_notice_under_way_and_overtakes_it() {
    let s = Stage::new(Fixture::postgres().await).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let url = url(&s);
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    let lock = "SELECT 1 FROM token_use WHERE token_id = $1 FOR NO KEY UPDATE";
    sqlx::query(lock).bind(id.0).execute(&mut *tx).await.unwrap();
    let insert = "INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, \
                  basis_time, create_time) VALUES ($1, $2, $3, 'token', 0, 1)";
    let insert = sqlx::query(insert).bind(Uuid::now_v7()).bind(id.0).bind(s.account.0);
    insert.execute(&mut *tx).await.unwrap();
    let overtaken = waiting_for(&url, tx, s.record(id, READ, 38)).await;
    assert!(overtaken);
    assert!(s.store.cancel_overtaken(&on(38), id).await.unwrap());
    assert!(s.live().await.is_empty());
}

/// Rule 5.7.
#[tokio::test]
async fn carrying_out_waits_for_a_use_under_way_and_gives_way() {
    let s = Stage::new(Fixture::postgres().await).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.noticed(id, 38).await;
    let url = url(&s);
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    // By a replica that was slow to record it.
    sqlx::query(USE).bind(id.0).bind(day(37).0).execute(&mut *tx).await.unwrap();
    let carried_out = waiting_for(&url, tx, s.carry_out(action.id, 45)).await;
    assert_eq!(carried_out, CarriedOut::Cancelled);
    assert_eq!(s.facts(id).await.state, TokenState::Active);
    assert_eq!(s.last_event().await, "lifecycle.cancel");
}

/// What `carry_out` does to a token, not yet committed.
async fn deletion_under_way(other: &mut PgConnection, id: TokenId, action: PendingActionId) {
    for sql in [
        "UPDATE head SET position = position + 1 WHERE id = 1",
        "UPDATE token_use SET idle_since = NULL WHERE token_id = $1",
        "UPDATE token SET delete_time = 1, delete_cause = 'unused' WHERE token_id = $1",
    ] {
        let query = sqlx::query(sql);
        let query = if sql.contains("$1") { query.bind(id.0) } else { query };
        query.execute(&mut *other).await.unwrap();
    }
    let end = "UPDATE pending_action SET end_time = 1, outcome = 'carried_out' \
               WHERE pending_action_id = $1";
    sqlx::query(end).bind(action.0).execute(other).await.unwrap();
}

#[tokio::test]
async fn a_use_waits_for_a_carrying_out_under_way_and_is_told_so() {
    let s = Stage::new(Fixture::postgres().await).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.noticed(id, 38).await;
    let url = url(&s);
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    deletion_under_way(&mut tx, id, action.id).await;
    let (context, read) = (on(45), s.used(id, READ, 45));
    let using = s.store.record_use_of_announced(&context, &s.catalog, &read);
    let used = waiting_for(&url, tx, using).await;
    assert_eq!(used.unwrap(), Err(NoLongerHeld));
    assert_eq!(s.read(id).await.uses.last, None);
}

/// A sweeper that died in the middle of it: nothing of it is left, and the next one does it.
#[tokio::test]
async fn who_dies_while_carrying_out_leaves_nothing() {
    let s = Stage::new(Fixture::postgres().await).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.noticed(id, 38).await;
    let url = url(&s);
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    deletion_under_way(&mut tx, id, action.id).await;
    let carried_out = blocked_until(&url, tx.rollback(), s.carry_out(action.id, 45)).await;
    assert_eq!(carried_out, CarriedOut::Done);
    assert_eq!(s.facts(id).await.state, TokenState::DeletedUnused { at: day(45) });
    s.f.check_record().await;
}

/// The database itself refuses a second deletion of a token.
#[tokio::test]
async fn a_token_has_one_live_deletion() {
    let s = Stage::new(Fixture::postgres().await).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(id, 38).await.unwrap();
    let insert = "INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, \
                  basis_time, create_time) VALUES ($1, $2, $3, 'token', 0, 1)";
    let ids = [Uuid::now_v7(), id.0, s.account.0];
    assert!(s.f.execute(insert, &ids).await.is_err());
}

/// Sweepers of every replica look often; where there is nothing to do they hold up no change, nor wait for one.
#[tokio::test]
async fn who_finds_nothing_to_do_takes_no_turn() {
    let s = Stage::new(Fixture::postgres().await).await;
    s.token(TokenKind::ReadOnly, &[]).await;
    let mut other = PgConnection::connect(&url(&s)).await.unwrap();
    let mut turn = other.begin().await.unwrap();
    sqlx::query("SELECT position FROM head FOR UPDATE").execute(&mut *turn).await.unwrap();
    let looks = async {
        assert!(s.store.purge(&on(150), day(150), 10).await.unwrap().is_empty());
        assert!(s.store.withdraw_actions(&on(39), 10).await.unwrap().is_empty());
    };
    tokio::time::timeout(Duration::from_secs(2), looks).await.expect("it waits for the head row");
    turn.rollback().await.unwrap();
}
