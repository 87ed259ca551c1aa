//! Announcing and carrying out, each kind to its end.

use portcullis::model::{CarriedOut, Invalidation, MailContent, Notice, NoticeState};
use portcullis::policy::lifecycle::{ActionEffect, LiveAction, Mode, Settings};
use portcullis::policy::token::{Grant, PendingActionType, TokenKind, TokenState};
use portcullis::store::StoreError;

use super::{NAMES, Stage, at, day, on};
use crate::store::fixture::{ASK, Fixture, READ, REVEAL, all, page};

on_both!(
    an_unused_token_is_deleted,
    a_token_that_does_not_write_becomes_read_only,
    a_custom_token_loses_what_its_notice_named,
    a_scope_that_falls_idle_later_has_its_own_notice,
    the_deletion_goes_before_the_downgrade,
    after_a_cancelled_deletion_downgrades_are_planned_anew,
    observing_takes_nothing,
    what_was_announced_is_withdrawn,
    what_was_deleted_is_purged,
    active_tokens_are_listed,
);

async fn an_unused_token_is_deleted(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let idle = s.store.idle_tokens(day(0), 10).await.unwrap();
    assert_eq!((idle.len(), idle[0].id, idle[0].idle_since), (1, id, Some(day(0))));
    assert_eq!(idle[0].account_id, s.account);
    assert!(s.store.idle_tokens(on(0).now.minus(super::HOUR), 10).await.unwrap().is_empty());

    let before = s.f.position().await;
    assert_eq!(s.announce(id, 37).await, None);
    assert_eq!(s.f.position().await, before);
    let action = s.announce(id, 38).await.unwrap();
    assert_eq!((action.action(), action.basis), (PendingActionType::Deletion, day(0)));
    assert_eq!((action.token_id, action.account_id), (id, s.account));
    assert_eq!((action.last_use, action.last_use_of_taken), (None, None));
    assert_eq!((action.accepted, action.created), (None, day(38)));
    assert_eq!((&action.taken[..], &action.kept[..]), (&[s.scope(READ)][..], &[][..]));
    let queued =
        |name: &str| Notice { email: format!("{name}@acme.test"), state: NoticeState::Queued };
    assert_eq!(action.notices, [queued("adam"), queued("zoe")]);
    assert_eq!(s.live().await, std::slice::from_ref(&action));
    let (event, change) = s.f.last().await;
    assert_eq!((event.action.as_str(), event.actor.as_str()), ("lifecycle.announce", "system"));
    assert_eq!((event.account_id, event.token_id), (Some(s.account), Some(id)));
    assert_eq!(change.touched, Invalidation::Token(id));
    // Nothing twice, and nothing beside it.
    assert_eq!(s.announce(id, 39).await, None);
    assert!(s.store.idle_tokens(day(999), 10).await.unwrap().is_empty());

    // The first acceptance counts for nothing without the second.
    let mails = s.claim(38).await;
    assert_eq!(mails.len(), 2);
    assert_eq!(s.store.mail_accepted(&on(38), mails[0].id, "250 taken").await.unwrap(), None);
    assert!(s.due(999).await.is_empty());
    assert_eq!(s.carry_out(action.id, 999).await, CarriedOut::Held);
    assert_eq!(s.store.mail_accepted(&on(40), mails[1].id, "250 taken").await.unwrap(), Some(id));
    assert_eq!(s.last_event().await, "lifecycle.noticed");
    let live = LiveAction {
        id: action.id,
        takes: ActionEffect::Token,
        basis: day(0),
        accepted: Some(day(40)),
    };
    assert_eq!(s.facts(id).await.announced, [live]);
    // Accepted once more: nothing new.
    assert_eq!(s.store.mail_accepted(&on(44), mails[1].id, "250 taken").await.unwrap(), None);

    assert!(s.due(46).await.is_empty());
    assert_eq!(s.carry_out(action.id, 46).await, CarriedOut::Held);
    assert_eq!(s.facts(id).await.state, TokenState::Active);
    assert_eq!(s.due(47).await, [action.id]);
    assert_eq!(s.carry_out(action.id, 47).await, CarriedOut::Done);
    assert_eq!(s.last_event().await, "lifecycle.delete");
    assert_eq!(s.carry_out(action.id, 47).await, CarriedOut::ActionEnded);
    let facts = s.facts(id).await;
    assert_eq!(facts.state, TokenState::DeletedUnused { at: day(47) });
    assert_eq!(facts.announced, []);
    assert!(s.live().await.is_empty() && s.due(999).await.is_empty());
    assert_eq!(s.announce(id, 999).await, None);

    let mails = s.claim(47).await;
    let mut recipients: Vec<_> = mails.iter().map(|mail| mail.recipient.as_str()).collect();
    recipients.sort_unstable();
    assert_eq!(recipients, ["adam@acme.test", "zoe@acme.test"]);
    for mail in &mails {
        let MailContent::CarriedOut(_, told) = &mail.content else { panic!("{mail:?}") };
        assert_eq!((told.id, told.ended), (action.id, Some(day(47))));
    }
    s.f.check_record().await;
}

/// Rule 4.9.
async fn a_token_that_does_not_write_becomes_read_only(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadWrite, &[]).await;
    s.record(id, READ, 30).await;
    let action = s.noticed(id, 38).await;
    assert_eq!((&action.takes, action.basis), (&ActionEffect::Writes, day(0)));
    assert_eq!(action.taken, [s.scope(ASK), s.scope(REVEAL)]);
    assert_eq!(action.kept, [s.scope(READ)]);
    assert_eq!((action.last_use, action.last_use_of_taken), (Some(day(30)), None));
    assert_eq!(s.idle(id).await, Some(day(30)));

    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    assert_eq!(s.last_event().await, "lifecycle.downgrade");
    let token = s.read(id).await;
    assert_eq!((token.kind, token.downgraded), (TokenKind::ReadOnly, Some(day(45))));
    assert_eq!(token.taken, [(s.scope(ASK), day(45)), (s.scope(REVEAL), day(45))]);
    assert_eq!((token.state, token.uses.last), (TokenState::Active, Some(day(30))));
    assert!(token.pending.is_empty());
    let facts = s.facts(id).await;
    assert_eq!(facts.grant, Grant::ReadOnly { downgraded: true });
    assert_eq!(facts.whitelist, token.whitelist);
    assert_eq!(s.deliver(45).await.len(), 2);

    // What is left of it goes its own way.
    assert_eq!(s.announce(id, 67).await, None);
    assert_eq!(s.announce(id, 68).await.unwrap().takes, ActionEffect::Token);
    s.f.check_record().await;
}

async fn a_custom_token_loses_what_its_notice_named(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::Custom, &NAMES).await;
    let [read, ask, reveal] = NAMES.map(|name| s.scope(name));
    s.record(id, READ, 30).await;
    s.record(id, REVEAL, 1).await;
    let action = s.noticed(id, 39).await;
    // Two days of last use, one notice, with the newer of both.
    assert_eq!((&action.takes, action.basis), (&ActionEffect::Scopes(vec![ask, reveal]), day(1)));
    assert_eq!((&action.kept[..], action.last_use_of_taken), (&[read][..], Some(day(1))));
    assert_eq!(action.last_use, Some(day(30)));

    // One of them is used.
    assert!(s.record(id, ASK, 40).await);
    assert!(s.store.cancel_overtaken(&on(40), id).await.unwrap());
    assert_eq!(s.last_event().await, "lifecycle.shrink");
    assert!(!s.store.cancel_overtaken(&on(40), id).await.unwrap());
    let [left] = &s.live().await[..] else { panic!() };
    assert_eq!((left.id, &left.takes), (action.id, &ActionEffect::Scopes(vec![reveal])));
    assert_eq!((&left.taken[..], &left.kept[..]), (&[reveal][..], &[read, ask][..]));
    assert_eq!(left.accepted, Some(day(39)));

    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Held);
    assert_eq!(s.carry_out(action.id, 46).await, CarriedOut::Done);
    let facts = s.facts(id).await;
    let set = |ids: &[_]| ids.iter().copied().collect();
    assert_eq!(facts.grant, Grant::Custom { granted: set(&[read, ask]), taken: set(&[reveal]) });
    assert_eq!(s.read(id).await.taken, [(reveal, day(46))]);
    assert_eq!(s.idle(id).await, Some(day(30)));
    s.f.check_record().await;
}

async fn a_scope_that_falls_idle_later_has_its_own_notice(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::Custom, &NAMES).await;
    s.record(id, READ, 30).await;
    s.record(id, ASK, 3).await;
    let first = s.noticed(id, 38).await;
    assert_eq!(first.takes, ActionEffect::Scopes(vec![s.scope(REVEAL)]));
    let second = s.noticed(id, 41).await;
    assert_eq!(second.takes, ActionEffect::Scopes(vec![s.scope(ASK)]));
    assert_eq!(s.due(48).await, [first.id, second.id]);
    assert_eq!(s.carry_out(first.id, 45).await, CarriedOut::Done);
    assert_eq!(s.carry_out(second.id, 47).await, CarriedOut::Held);
    assert_eq!(s.carry_out(second.id, 48).await, CarriedOut::Done);
    assert_eq!(s.read(id).await.scopes, [s.scope(READ)]);
}

/// Rule 4.8.
async fn the_deletion_goes_before_the_downgrade(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadWrite, &[]).await;
    s.record(id, READ, 10).await;
    let downgrade = s.noticed(id, 38).await;
    // The sweeper rests until both are due.
    let deletion = s.noticed(id, 48).await;
    assert_eq!(deletion.takes, ActionEffect::Token);
    assert_eq!(s.due(54).await, [downgrade.id]);
    assert_eq!(s.due(55).await, [deletion.id, downgrade.id]);
    assert_eq!(s.carry_out(downgrade.id, 55).await, CarriedOut::Held);
    assert_eq!(s.carry_out(deletion.id, 55).await, CarriedOut::Done);
    assert_eq!(s.carry_out(downgrade.id, 55).await, CarriedOut::ActionEnded);
    let token = s.read(id).await;
    assert_eq!((token.kind, token.taken), (TokenKind::ReadWrite, vec![]));
    // The mails of the deletion, none of the downgrade.
    for mail in s.claim(60).await {
        let MailContent::CarriedOut(_, told) = mail.content else { panic!() };
        assert_eq!(told.id, deletion.id);
    }
}

async fn after_a_cancelled_deletion_downgrades_are_planned_anew(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadWrite, &[]).await;
    let deletion = s.noticed(id, 38).await;
    assert_eq!(deletion.takes, ActionEffect::Token);
    let used = s.used(id, READ, 44);
    assert_eq!(
        s.store.record_use_of_announced(&on(44), &s.catalog, &used).await.unwrap(),
        Ok(true)
    );
    assert_eq!(s.carry_out(deletion.id, 45).await, CarriedOut::ActionEnded);
    // Overdue for long, and still with its whole notice.
    assert_eq!(s.idle(id).await, Some(day(0)));
    let downgrade = s.noticed(id, 45).await;
    assert_eq!(downgrade.takes, ActionEffect::Writes);
    assert_eq!(s.carry_out(downgrade.id, 51).await, CarriedOut::Held);
    assert_eq!(s.carry_out(downgrade.id, 52).await, CarriedOut::Done);
}

async fn observing_takes_nothing(f: Fixture) {
    let s = Stage::new(f).await;
    let (idle, noticed) =
        (s.token(TokenKind::ReadOnly, &[]).await, s.token(TokenKind::ReadOnly, &[]).await);
    let action = s.noticed(noticed, 38).await;
    let defaults = Settings::default();
    let observe = Settings::new(Mode::Observe, defaults.window(), defaults.notice()).unwrap();
    let before = s.f.position().await;
    let announced = s.store.announce(&on(50), &s.catalog, idle, &observe).await;
    assert_eq!(announced.unwrap(), None);
    assert!(s.store.due_actions(&observe, day(50), 10).await.unwrap().is_empty());
    let carried_out = s.store.carry_out(&on(50), action.id, &s.catalog, &observe).await;
    assert_eq!(carried_out.unwrap(), CarriedOut::Held);
    assert_eq!(s.f.position().await, before);
}

async fn what_was_announced_is_withdrawn(f: Fixture) {
    let s = Stage::new(f).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(s.token(TokenKind::ReadOnly, &[]).await);
    }
    for &id in &ids {
        s.announce(id, 38).await.unwrap();
    }
    assert_eq!(s.store.withdraw_actions(&on(39), 2).await.unwrap(), ids[..2]);
    assert_eq!(s.store.withdraw_actions(&on(39), 2).await.unwrap(), ids[2..]);
    let before = s.f.position().await;
    assert!(s.store.withdraw_actions(&on(39), 2).await.unwrap().is_empty());
    assert_eq!(s.f.position().await, before);
    assert_eq!(s.last_event().await, "lifecycle.withdraw");
    assert!(s.live().await.is_empty() && s.claim(40).await.is_empty());
    // Back to enforcing: a new notice, a new date.
    assert_eq!(s.idle(ids[0]).await, Some(day(0)));
    let again = s.noticed(ids[0], 60).await;
    assert_eq!(s.carry_out(again.id, 66).await, CarriedOut::Held);
    assert_eq!(s.carry_out(again.id, 67).await, CarriedOut::Done);
    s.f.check_record().await;
}

/// Rule 4.10.
async fn what_was_deleted_is_purged(f: Fixture) {
    let s = Stage::new(f).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = s.token(TokenKind::ReadWrite, &[]).await;
        s.record(id, READ, 5).await;
        ids.push(id);
    }
    let action = s.noticed(ids[0], 43).await;
    assert_eq!(s.carry_out(action.id, 50).await, CarriedOut::Done);
    s.store.delete_token(&on(60), ids[1], None).await.unwrap();
    s.set_admins(&["new@acme.test"], 61).await;
    assert_eq!(s.deliver(61).await.len(), 5);

    assert!(s.store.purge(&on(150), day(50), 10).await.unwrap().is_empty());
    // About other admins: to those who were and to those who are.
    let about_none = "SELECT count(*) FROM mail WHERE token_id IS NULL";
    assert_eq!(s.f.number(about_none).await, 3);
    assert_eq!(s.store.purge(&on(150), at(day(60)).now, 10).await.unwrap(), [ids[0]]);
    let (event, change) = s.f.last().await;
    assert_eq!((event.action.as_str(), event.token_id), ("token.purge", Some(ids[0])));
    assert_eq!(change.touched, Invalidation::Token(ids[0]));
    assert_eq!(s.store.token_facts(ids[0]).await.unwrap(), None);
    assert_eq!(s.store.token(ids[0], None).await.unwrap(), None);
    assert_eq!(s.store.purge(&on(150), day(999), 1).await.unwrap(), [ids[1]]);
    assert_eq!(s.f.number(about_none).await, 2);
    let before = s.f.position().await;
    assert!(s.store.purge(&on(150), day(999), 10).await.unwrap().is_empty());
    assert_eq!((s.f.position().await, s.f.number(about_none).await), (before, 0));
    assert_eq!(s.facts(ids[2]).await.state, TokenState::Active);
    // Uses that come too late spoil nothing.
    let uses = [s.used(ids[0], READ, 151), s.used(ids[2], READ, 151)];
    assert!(s.store.record_uses(&uses).await.unwrap().is_empty());
    assert_eq!(s.read(ids[2]).await.uses.last, Some(day(151)));
    s.f.check_record().await;
}

async fn active_tokens_are_listed(f: Fixture) {
    let s = Stage::new(f).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(s.token(TokenKind::Custom, &NAMES).await);
    }
    s.store.delete_token(&on(1), ids[1], None).await.unwrap();
    s.record(ids[2], ASK, 7).await;
    let action = s.announce(ids[2], 40).await.unwrap();
    let list = async |only, page| s.store.active_tokens(only, page).await.unwrap();
    let listed = list(None, all()).await;
    let of = |tokens: &[portcullis::model::IdleToken]| -> Vec<_> {
        tokens.iter().map(|token| token.id).collect()
    };
    assert_eq!(of(&listed), [ids[0], ids[2], ids[3]]);
    assert_eq!(of(&list(Some(s.account), page(Some(ids[0]), 1)).await), [ids[2]]);
    let state = &listed[1].usage_state;
    assert_eq!((state.created, state.uses.last), (day(0), Some(day(7))));
    assert_eq!(state.uses.scopes, [(s.scope(ASK), day(7))]);
    assert_eq!(state.announced.len(), 1);
    assert_eq!((&state.announced[0].takes, state.announced[0].basis), (&action.takes, day(0)));
    let theirs = s.f.account("theirs").await;
    assert!(list(Some(theirs), all()).await.is_empty());
    let stale = s.f.catalog(&[READ, ASK, REVEAL, "more"]).await;
    assert_ne!(stale.version(), s.catalog.version());
    let refused = s.store.announce(&on(50), &s.catalog, ids[0], &s.settings).await;
    assert!(matches!(refused, Err(StoreError::StaleCatalog)));
}
