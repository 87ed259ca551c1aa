//! Lifecycles of tokens whose account is suspended or closed.

use portcullis::model::{CarriedOut, NoLongerHeld};
use portcullis::policy::token::{TokenKind, TokenState};

use super::{Stage, day, on};
use crate::store::fixture::{Fixture, READ};

on_both!(
    lifecycles_go_on_in_a_suspended_account_and_no_use_saves_a_token,
    nothing_falls_due_in_a_closed_account_and_no_mail_of_it_is_handed_out,
);

/// Rule 11.71.
async fn lifecycles_go_on_in_a_suspended_account_and_no_use_saves_a_token(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.store.suspend_account(&on(1), s.account).await.unwrap().unwrap();
    let action = s.noticed(id, 38).await;
    // A replica that has not applied the suspension yet would allow this.
    let used = s.used(id, READ, 39);
    let recorded = s.store.record_use_of_announced(&on(39), &s.catalog, &used).await.unwrap();
    assert_eq!(recorded, Err(NoLongerHeld));
    assert_eq!((s.read(id).await.uses.last, s.live().await.len()), (None, 1));
    s.store.resume_account(&on(40), s.account).await.unwrap().unwrap();
    let used = s.used(id, READ, 40);
    let recorded = s.store.record_use_of_announced(&on(40), &s.catalog, &used).await.unwrap();
    assert_eq!(recorded, Ok(true));

    s.store.suspend_account(&on(41), s.account).await.unwrap().unwrap();
    assert_eq!(s.carry_out(action.id, 60).await, CarriedOut::ActionEnded, "it was cancelled");
    let action = s.noticed(id, 80).await;
    assert_eq!(s.carry_out(action.id, 87).await, CarriedOut::Done);
    assert_eq!(s.facts(id).await.state, TokenState::DeletedUnused { at: day(87) });
    s.f.check_record().await;
}

/// Rules 11.75 and 11.76.
async fn nothing_falls_due_in_a_closed_account_and_no_mail_of_it_is_handed_out(f: Fixture) {
    let s = Stage::new(f).await;
    let (announced, noticed) =
        (s.token(TokenKind::ReadOnly, &[]).await, s.token(TokenKind::ReadOnly, &[]).await);
    let idle = s.token(TokenKind::ReadOnly, &[]).await;
    let other = s.f.account("other").await;
    let due = s.noticed(noticed, 38).await;
    assert!(s.announce(announced, 38).await.is_some());
    let admins = ["new@other.test".to_owned()];
    s.store.set_account_admins(&on(38), other, &admins).await.unwrap().unwrap();
    s.store.close_account(&on(39), s.account, "acme").await.unwrap().unwrap();

    assert_eq!(s.announce(idle, 39).await, None);
    assert_eq!(s.carry_out(due.id, 50).await, CarriedOut::ActionEnded);
    let used = s.used(noticed, READ, 39);
    let recorded = s.store.record_use_of_announced(&on(39), &s.catalog, &used).await.unwrap();
    assert_eq!(recorded, Err(NoLongerHeld));
    let claimed = s.claim(39).await;
    assert!(!claimed.is_empty(), "those of the other account");
    assert!(claimed.iter().all(|mail| mail.recipient.ends_with("other.test")), "{claimed:?}");
    let waiting = s.store.mail_state().await.unwrap().waiting;

    let step = s.store.continue_closure(&on(40), None, 100).await.unwrap().unwrap();
    assert_eq!(step.tokens.len(), 3);
    assert!(s.live().await.is_empty());
    assert!(s.store.mail_state().await.unwrap().waiting < waiting);
    for id in [announced, noticed, idle] {
        assert_eq!(s.facts(id).await.state, TokenState::Deleted { at: day(39) });
        assert_eq!(s.announce(id, 60).await, None);
    }
    assert!(s.store.idle_tokens(day(100), 10).await.unwrap().is_empty());
    assert!(s.store.complete_closure(&on(41), s.account).await.unwrap());
    s.f.check_record().await;
}
