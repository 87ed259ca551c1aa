//! What comes between a notice and its action: the owner, and another catalogue.

use portcullis::model::{CarriedOut, MailContent};
use portcullis::policy::lifecycle::ActionEffect;
use portcullis::policy::token::{Grant, TokenKind, TokenState};
use portcullis::store::StoreError;

use super::{NAMES, Stage, day, on};
use crate::store::fixture::{ASK, Fixture, READ, REVEAL};

on_both!(
    the_owner_was_quicker,
    a_scope_that_became_a_write_is_not_taken_unannounced,
    what_was_used_before_it_was_a_write_counts,
    a_new_scope_is_not_taken_unannounced,
    a_write_that_became_a_read_stays,
    where_there_is_nothing_to_write_with_nothing_is_taken,
    a_stale_catalogue_is_refused,
);

async fn the_owner_was_quicker(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.announce(id, 38).await.unwrap();
    s.store.delete_token(&on(39), id, None).await.unwrap();
    assert!(s.live().await.is_empty() && s.claim(40).await.is_empty());
    assert_eq!(s.carry_out(action.id, 99).await, CarriedOut::ActionEnded);
    assert_eq!(s.announce(id, 99).await, None);
    assert!(s.store.idle_tokens(day(99), 10).await.unwrap().is_empty());
    assert!(s.due(999).await.is_empty());
    assert_eq!(s.facts(id).await.state, TokenState::Deleted { at: day(39) });
    s.f.check_record().await;
}

/// Rule 4.6.
async fn a_scope_that_became_a_write_is_not_taken_unannounced(f: Fixture) {
    let mut s = Stage::new(f).await;
    s.apply(&[REVEAL]).await;
    let id = s.token(TokenKind::ReadWrite, &[]).await;
    s.record(id, READ, 30).await;
    let action = s.noticed(id, 38).await;
    assert_eq!(action.kept, [s.scope(READ), s.scope(ASK)]);
    // The notice said that this one stays.
    s.apply(&[REVEAL, ASK]).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Cancelled);
    assert_eq!(s.last_event().await, "lifecycle.withdraw");
    assert_eq!(s.facts(id).await.grant, Grant::ReadWrite);
    // A notice that names it, and another whole period.
    let action = s.noticed(id, 45).await;
    assert_eq!(action.taken, [s.scope(ASK), s.scope(REVEAL)]);
    assert_eq!(s.carry_out(action.id, 51).await, CarriedOut::Held);
    assert_eq!(s.carry_out(action.id, 52).await, CarriedOut::Done);
    s.f.check_record().await;
}

/// Rule 4.4.
async fn what_was_used_before_it_was_a_write_counts(f: Fixture) {
    let mut s = Stage::new(f).await;
    s.apply(&[REVEAL]).await;
    let [a, b] =
        [s.token(TokenKind::ReadWrite, &[]).await, s.token(TokenKind::ReadWrite, &[]).await];
    let uses = [s.used(a, ASK, 30), s.used(b, READ, 30)];
    s.store.record_uses(&uses).await.unwrap();
    let action = s.noticed(a, 38).await;
    assert_eq!(action.takes, ActionEffect::Writes);
    s.apply(&[REVEAL, ASK, READ]).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Cancelled);
    // And where nothing was announced yet.
    for id in [a, b] {
        assert_eq!(s.announce(id, 67).await, None);
        assert_eq!(s.idle(id).await, Some(day(30)));
        assert_eq!(s.read(id).await.uses.last_write, Some(day(30)));
        assert_eq!(s.announce(id, 68).await.unwrap().takes, ActionEffect::Token);
    }
}

async fn a_new_scope_is_not_taken_unannounced(f: Fixture) {
    let mut s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadWrite, &[]).await;
    s.record(id, READ, 30).await;
    let action = s.noticed(id, 38).await;
    s.catalog = s.f.catalog(&[READ, ASK, REVEAL, "cards.freeze"]).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Cancelled);
    assert_eq!(s.facts(id).await.grant, Grant::ReadWrite);
    let action = s.noticed(id, 45).await;
    let scopes = [ASK, REVEAL, "cards.freeze"].map(|name| s.scope(name));
    assert_eq!(action.taken, scopes);
    assert_eq!(s.carry_out(action.id, 51).await, CarriedOut::Held);
    assert_eq!(s.carry_out(action.id, 52).await, CarriedOut::Done);
    assert_eq!(s.read(id).await.taken, scopes.map(|scope| (scope, day(52))));
}

async fn a_write_that_became_a_read_stays(f: Fixture) {
    let mut s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadWrite, &[]).await;
    s.record(id, READ, 30).await;
    let action = s.noticed(id, 38).await;
    s.apply(&[REVEAL]).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    assert_eq!(s.read(id).await.taken, [(s.scope(REVEAL), day(45))]);
    let mails = s.claim(45).await;
    let MailContent::CarriedOut(_, told) = &mails[0].content else { panic!("{mails:?}") };
    assert_eq!(told.taken, [REVEAL.parse().unwrap()]);
    for mail in &mails {
        s.store.mail_accepted(&on(45), mail.id, "250 taken").await.unwrap();
    }
    // To a custom token it makes no difference what a scope is.
    let id = s.token(TokenKind::Custom, &NAMES).await;
    s.record(id, READ, 30).await;
    let action = s.noticed(id, 46).await;
    s.apply(&[ASK]).await;
    assert_eq!(s.carry_out(action.id, 53).await, CarriedOut::Done);
    assert_eq!(s.read(id).await.scopes, [s.scope(READ)]);
}

async fn where_there_is_nothing_to_write_with_nothing_is_taken(f: Fixture) {
    let mut s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadWrite, &[]).await;
    s.record(id, READ, 30).await;
    let action = s.noticed(id, 38).await;
    s.apply(&[]).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Cancelled);
    assert_eq!(s.announce(id, 45).await, None);
    assert_eq!(s.idle(id).await, Some(day(30)), "it is looked at again when it is idle itself");
    // What it could write with from now on is announced when it is looked at again.
    s.record(id, READ, 60).await;
    s.apply(&[REVEAL]).await;
    assert_eq!(s.announce(id, 68).await.unwrap().taken, [s.scope(REVEAL)]);
    s.f.check_record().await;
}

async fn a_stale_catalogue_is_refused(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.noticed(id, 38).await;
    s.f.catalog(&[READ, ASK, REVEAL, "more"]).await;
    let before = s.f.position().await;
    let refused = s.store.carry_out(&on(45), action.id, &s.catalog, &s.settings).await;
    assert!(matches!(refused, Err(StoreError::StaleCatalog)));
    assert_eq!(s.f.position().await, before);
    assert_eq!(s.facts(id).await.state, TokenState::Active);
}
