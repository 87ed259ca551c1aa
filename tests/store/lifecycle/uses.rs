//! Recorded use: it moves forward, and cancels what it fits.

use portcullis::model::{CarriedOut, NoLongerHeld, Use};
use portcullis::policy::id::TokenId;
use portcullis::policy::lifecycle::{ActionEffect, Settings};
use portcullis::policy::scope::ScopeId;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use portcullis::store::StoreError;
use uuid::Uuid;

use super::{NAMES, Stage, day, on};
use crate::store::fixture::{ASK, Fixture, READ, REVEAL};

on_both!(
    uses_move_forward_only,
    what_is_gone_spoils_no_other_use,
    only_a_fitting_use_cancels,
    a_use_is_recorded_before_its_allow,
    a_use_of_what_is_gone_is_told_so,
    what_nobody_settled_is_found_again,
    idle_tokens_are_deferred,
);

async fn uses_move_forward_only(f: Fixture) {
    let s = Stage::new(f).await;
    let [a, b] =
        [s.token(TokenKind::ReadWrite, &[]).await, s.token(TokenKind::ReadOnly, &[]).await];
    let before = s.f.position().await;
    let [read, ask] = [READ, ASK].map(|name| s.scope(name));
    // In one batch, out of order, and one of them late.
    let batch = [
        s.used(b, READ, 9),
        s.used(a, ASK, 5),
        s.used(a, READ, 7),
        s.used(a, ASK, 3),
        s.used(a, READ, 2),
    ];
    for _ in 0..2 {
        assert!(s.store.record_uses(&batch).await.unwrap().is_empty());
        let uses = s.read(a).await.uses;
        assert_eq!((uses.last, uses.last_write), (Some(day(7)), Some(day(5))));
        assert_eq!(uses.scopes, [(read, day(7)), (ask, day(5))]);
    }
    s.record(a, ASK, 6).await;
    s.record(a, REVEAL, 1).await;
    s.record(a, READ, 4).await;
    let uses = s.read(a).await.uses;
    assert_eq!((uses.last, uses.last_write), (Some(day(7)), Some(day(6))));
    assert_eq!(uses.scopes, [(read, day(7)), (ask, day(6)), (s.scope(REVEAL), day(1))]);
    assert_eq!(s.read(b).await.uses.scopes, [(read, day(9))]);
    // A first write that is older than the last use.
    s.record(b, ASK, 8).await;
    let uses = s.read(b).await.uses;
    assert_eq!((uses.last, uses.last_write), (Some(day(9)), Some(day(8))));
    assert!(s.store.record_uses(&[]).await.unwrap().is_empty());
    // Nobody caches uses, so there is nothing to tell.
    assert_eq!(s.f.position().await, before);
    let f = s.f.reopen().await;
    assert_eq!(f.store.token(b, None).await.unwrap().unwrap().uses, uses);
}

async fn what_is_gone_spoils_no_other_use(f: Fixture) {
    let s = Stage::new(f).await;
    let [a, b, c] = [
        s.token(TokenKind::ReadWrite, &[]).await,
        s.token(TokenKind::ReadOnly, &[]).await,
        s.token(TokenKind::ReadOnly, &[]).await,
    ];
    s.store.delete_token(&on(1), a, None).await.unwrap();
    s.store.purge(&on(2), day(2), 10).await.unwrap();
    s.store.delete_token(&on(3), b, None).await.unwrap();
    let never = TokenId(Uuid::now_v7());
    let no_scope = Use { scope_id: ScopeId(u16::MAX), ..s.used(c, READ, 6) };
    let batch = [
        s.used(a, READ, 5),
        s.used(never, ASK, 5),
        s.used(b, READ, 5),
        no_scope,
        s.used(c, READ, 5),
    ];
    assert!(s.store.record_uses(&batch).await.unwrap().is_empty());
    assert_eq!(s.read(c).await.uses.scopes, [(s.scope(READ), day(5))]);
    // Deleted and not yet purged: a late use is told, and changes nothing else.
    assert_eq!(s.read(b).await.uses.last, Some(day(5)));
    assert!(s.store.idle_tokens(day(5), 10).await.unwrap().iter().all(|token| token.id == c));
}

/// Rule 4.7.
async fn only_a_fitting_use_cancels(f: Fixture) {
    let s = Stage::new(f).await;
    // What is announced; a use that does not fit, if there is any; and one that does.
    for (kind, scopes, before, takes, unfit, fit) in [
        (TokenKind::ReadOnly, &[][..], None, ActionEffect::Token, None, READ),
        (TokenKind::ReadWrite, &[][..], None, ActionEffect::Token, None, READ),
        (TokenKind::ReadWrite, &[][..], Some(READ), ActionEffect::Writes, Some(READ), ASK),
        (
            TokenKind::Custom,
            &NAMES[..2],
            Some(READ),
            ActionEffect::Scopes(vec![s.scope(ASK)]),
            Some(READ),
            ASK,
        ),
    ] {
        let id = s.token(kind, scopes).await;
        if let Some(name) = before {
            s.record(id, name, 30).await;
        }
        let action = s.announce(id, 40).await.unwrap();
        assert_eq!(action.takes, takes);
        if let Some(name) = unfit {
            assert!(!s.record(id, name, 41).await);
            assert_eq!(s.live().await.len(), 1);
        }
        assert!(s.record(id, fit, 42).await);
        // Until it is settled it is still shown, and found by whoever looks.
        assert_eq!(s.live().await.len(), 1);
        assert!(s.store.cancel_overtaken(&on(42), id).await.unwrap());
        assert_eq!(s.last_event().await, "lifecycle.cancel");
        assert!(s.live().await.is_empty() && s.facts(id).await.announced.is_empty());
        assert!(s.claim(43).await.is_empty());
        assert_eq!(s.carry_out(action.id, 99).await, CarriedOut::ActionEnded);
        assert!(!s.store.cancel_overtaken(&on(43), id).await.unwrap());
        s.store.delete_token(&on(44), id, None).await.unwrap();
    }
    let nobody = TokenId(Uuid::now_v7());
    assert!(!s.store.cancel_overtaken(&on(43), nobody).await.unwrap());
    s.f.check_record().await;
}

async fn a_use_is_recorded_before_its_allow(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::Custom, &NAMES).await;
    s.record(id, READ, 30).await;
    let action = s.noticed(id, 40).await;
    for (name, left) in [(ASK, 1), (REVEAL, 0)] {
        let used = s.used(id, name, 41);
        assert_eq!(
            s.store.record_use_of_announced(&on(41), &s.catalog, &used).await.unwrap(),
            Ok(true)
        );
        assert_eq!(s.live().await.len(), left);
        assert_eq!(s.read(id).await.uses.of(used.scope_id), Some(day(41)));
        // The same by another replica, which did not know yet.
        let before = s.f.position().await;
        let used = s.used(id, name, 42);
        assert_eq!(
            s.store.record_use_of_announced(&on(42), &s.catalog, &used).await.unwrap(),
            Ok(false)
        );
        assert_eq!(s.f.position().await, before);
        assert_eq!(s.read(id).await.uses.of(used.scope_id), Some(day(42)));
    }
    assert_eq!(s.carry_out(action.id, 99).await, CarriedOut::ActionEnded);
    assert_eq!(s.idle(id).await, Some(day(30)));
    s.f.check_record().await;
}

async fn a_use_of_what_is_gone_is_told_so(f: Fixture) {
    let s = Stage::new(f).await;
    let noticed = async |used: &Use| {
        s.store.record_use_of_announced(&on(90), &s.catalog, used).await.unwrap()
    };
    let unused = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.noticed(unused, 38).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    let custom = s.token(TokenKind::Custom, &NAMES[..2]).await;
    let writes = s.token(TokenKind::ReadWrite, &[]).await;
    for id in [custom, writes] {
        s.record(id, READ, 30).await;
        let action = s.noticed(id, 40).await;
        assert_eq!(s.carry_out(action.id, 47).await, CarriedOut::Done);
    }
    let purged = TokenId(Uuid::now_v7());
    let before = s.f.position().await;
    for used in [
        s.used(unused, READ, 90),
        s.used(custom, ASK, 90),
        s.used(writes, ASK, 90),
        s.used(purged, READ, 90),
        Use { scope_id: ScopeId(999), ..s.used(custom, READ, 90) },
    ] {
        assert_eq!(noticed(&used).await, Err(NoLongerHeld), "{used:?}");
    }
    assert_eq!(s.read(unused).await.uses.last, None);
    assert_eq!(s.read(custom).await.uses.last, Some(day(30)));
    assert_eq!(s.f.position().await, before);
    assert_eq!(noticed(&s.used(custom, READ, 90)).await, Ok(false));
    s.f.catalog(&[READ, ASK, REVEAL, "more"]).await;
    let stale =
        s.store.record_use_of_announced(&on(91), &s.catalog, &s.used(custom, READ, 91)).await;
    assert!(matches!(stale, Err(StoreError::StaleCatalog)));
}

/// Whoever recorded the use died before settling it.
async fn what_nobody_settled_is_found_again(f: Fixture) {
    let s = Stage::new(f).await;
    let [a, b] = [s.token(TokenKind::ReadOnly, &[]).await, s.token(TokenKind::ReadOnly, &[]).await];
    let (first, second) = (s.noticed(a, 38).await, s.noticed(b, 38).await);
    let first_of = async |limit| {
        let idle = s.store.idle_tokens(Timestamp(i64::MIN), limit).await.unwrap();
        assert!(idle.iter().all(|token| token.usage_state.is_overtaken()));
        idle.into_iter().map(|token| token.id).collect::<Vec<_>>()
    };
    assert_eq!(first_of(10).await, []);
    // It was late, too: older than the notice, and newer than what the notice rests on.
    assert!(s.record(a, READ, 37).await && s.record(b, READ, 44).await);
    assert_eq!(first_of(10).await, [a, b]);
    // Looked at by anybody who settles nothing, they stay so.
    s.store.reschedule(&[a, b]).await.unwrap();
    assert_eq!(s.announce(a, 99).await, None);
    assert_eq!((first_of(10).await, first_of(1).await), (vec![a, b], vec![a]));
    assert!(s.store.cancel_overtaken(&on(45), b).await.unwrap());
    // Carrying out finds the other one itself.
    assert_eq!(s.carry_out(first.id, 45).await, CarriedOut::Cancelled);
    assert_eq!(s.last_event().await, "lifecycle.cancel");
    assert_eq!(s.carry_out(second.id, 45).await, CarriedOut::ActionEnded);
    assert_eq!((s.idle(a).await, s.idle(b).await), (Some(day(37)), Some(day(44))));
    assert_eq!(first_of(10).await, []);
    s.f.check_record().await;
}

async fn idle_tokens_are_deferred(f: Fixture) {
    let s = Stage::new(f).await;
    let [a, b, c] = [
        s.token(TokenKind::ReadOnly, &[]).await,
        s.token(TokenKind::ReadWrite, &[]).await,
        s.token(TokenKind::ReadOnly, &[]).await,
    ];
    s.store.record_uses(&[s.used(a, READ, 30), s.used(b, READ, 20)]).await.unwrap();
    let settings = Settings::default();
    let idle = async |now| {
        let idle = s.store.idle_tokens(settings.idle_before(day(now)), 10).await.unwrap();
        idle.into_iter().map(|token| token.id).collect::<Vec<_>>()
    };
    // What is stored is a lower bound; the usage state says what holds.
    assert_eq!(idle(38).await, [a, b, c]);
    let tokens = s.store.idle_tokens(day(0), 1).await.unwrap();
    assert_eq!((tokens.len(), tokens[0].usage_state.idle_since()), (1, Some(day(30))));
    let before = s.f.position().await;
    s.store.reschedule(&[b, a, TokenId(Uuid::now_v7()), a]).await.unwrap();
    s.store.reschedule(&[]).await.unwrap();
    // The other one reads, and writes nothing since day 0.
    assert_eq!(idle(38).await, [b, c]);
    assert_eq!(idle(68).await, [b, c, a]);
    assert_eq!((s.idle(a).await, s.idle(b).await), (Some(day(30)), Some(day(0))));
    assert_eq!(s.f.position().await, before);
    // Planned in vain it is deferred as well.
    s.record(c, READ, 33).await;
    assert_eq!(s.announce(c, 38).await, None);
    assert_eq!(s.idle(c).await, Some(day(33)));
    s.store.delete_token(&on(39), c, None).await.unwrap();
    s.store.reschedule(&[c]).await.unwrap();
    assert_eq!(idle(999).await, [b, a]);
}
