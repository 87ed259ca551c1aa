//! Admins who come and go within a notice period.

use portcullis::model::{CarriedOut, Invalidation, MailContent};
use portcullis::policy::id::TokenId;
use portcullis::policy::token::TokenKind;

use super::{Stage, day, on, refused};
use crate::store::fixture::Fixture;

on_both!(
    who_joins_is_told_and_delays,
    who_leaves_holds_nothing,
    who_comes_back_was_told,
    who_comes_back_untold_is_told,
    ended_actions_are_nobodys_news,
);

const ZOE: &str = "zoe@acme.test";
const ADAM: &str = "adam@acme.test";
const NEW: &str = "new@acme.test";

async fn stage(f: Fixture) -> (Stage, TokenId) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    (s, id)
}

/// Who is to get a notice that day.
async fn notices(s: &Stage, n: i64) -> Vec<String> {
    let mut recipients = Vec::new();
    for mail in s.claim(n).await {
        if matches!(mail.content, MailContent::Notice(..)) {
            recipients.push(mail.recipient.clone());
        }
        s.store.mail_accepted(&on(n), mail.id, "250 taken").await.unwrap();
    }
    recipients.sort();
    recipients
}

/// Rule 4.5.
async fn who_joins_is_told_and_delays(f: Fixture) {
    let (s, id) = stage(f).await;
    let other = s.token(TokenKind::ReadOnly, &[]).await;
    let (action, more) = (s.noticed(id, 38).await, s.noticed(other, 38).await);
    assert_eq!(s.due(45).await.len(), 2);
    let before = s.f.position().await;
    assert_eq!(s.set_admins(&[ZOE, ADAM, NEW], 44).await, [id, other]);
    // One record for the account, and one for each token.
    let changes = s.store.changes(before, 10).await.unwrap();
    let touched: Vec<_> = changes.iter().map(|change| change.touched).collect();
    assert_eq!(
        touched,
        [Invalidation::Nothing, Invalidation::Token(id), Invalidation::Token(other)]
    );
    assert!(s.due(999).await.is_empty());
    assert_eq!(s.facts(id).await.announced[0].accepted, None);
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Held);
    assert_eq!(s.live().await[0].notices.len(), 3);

    assert_eq!(notices(&s, 50).await, [NEW, NEW]);
    assert_eq!(s.live().await[0].accepted, Some(day(50)));
    assert_eq!(s.carry_out(action.id, 56).await, CarriedOut::Held);
    assert_eq!(s.carry_out(action.id, 57).await, CarriedOut::Done);
    assert_eq!(s.carry_out(more.id, 57).await, CarriedOut::Done);
    // Everybody who is an admin now hears of the end.
    assert_eq!(s.deliver(57).await.len(), 6);
    s.f.check_record().await;
}

async fn who_leaves_holds_nothing(f: Fixture) {
    let (s, id) = stage(f).await;
    let action = s.announce(id, 38).await.unwrap();
    for mail in s.claim(38).await {
        if mail.recipient == ADAM {
            s.store.mail_accepted(&on(38), mail.id, "250 taken").await.unwrap();
        } else {
            s.store.mail_deferred(day(38), &mail, day(39), refused("550 no")).await.unwrap();
        }
    }
    assert_eq!(s.set_admins(&[ADAM], 60).await, [id]);
    // The one who stayed was told long ago.
    let [live] = &s.live().await[..] else { panic!() };
    assert_eq!((live.accepted, live.notices.len()), (Some(day(38)), 1));
    assert!(s.store.mail_state().await.unwrap().failing.is_empty());
    assert_eq!(notices(&s, 61).await, <[String; 0]>::default());
    assert_eq!(s.carry_out(action.id, 61).await, CarriedOut::Done);
    assert_eq!(s.deliver(62).await, [ADAM]);
}

async fn who_comes_back_was_told(f: Fixture) {
    let (s, id) = stage(f).await;
    let action = s.noticed(id, 38).await;
    s.set_admins(&[ADAM], 40).await;
    assert_eq!(s.live().await[0].notices.len(), 1);
    s.set_admins(&[ADAM, ZOE], 42).await;
    assert_eq!(notices(&s, 43).await, <[String; 0]>::default());
    assert_eq!(s.live().await[0].accepted, Some(day(38)));
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
}

async fn who_comes_back_untold_is_told(f: Fixture) {
    let (s, id) = stage(f).await;
    let action = s.announce(id, 38).await.unwrap();
    let mails = s.claim(38).await;
    let [zoe, adam] = [ZOE, ADAM].map(|who| mails.iter().find(|m| m.recipient == who).unwrap());
    s.store.mail_accepted(&on(38), adam.id, "250 taken").await.unwrap();
    s.set_admins(&[ADAM], 39).await;
    s.set_admins(&[ADAM, ZOE], 40).await;
    assert_eq!(s.live().await[0].accepted, None);
    // The same mail, by its id.
    let again = s.claim(41).await;
    let again: Vec<_> =
        again.iter().filter(|mail| matches!(mail.content, MailContent::Notice(..))).collect();
    assert_eq!((again.len(), again[0].id), (1, zoe.id));
    assert_eq!(s.store.mail_accepted(&on(41), zoe.id, "250 taken").await.unwrap(), Some(id));
    assert_eq!(s.carry_out(action.id, 47).await, CarriedOut::Held);
    assert_eq!(s.carry_out(action.id, 48).await, CarriedOut::Done);

    // Taken over by the mail server while he was gone: he was told then.
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(id, 50).await.unwrap();
    let mails = s.claim(50).await;
    let notice = |who| {
        let to = mails.iter().filter(move |mail| mail.recipient == who);
        to.clone().find(|mail| matches!(mail.content, MailContent::Notice(..))).unwrap().id
    };
    s.set_admins(&[ADAM], 50).await;
    assert_eq!(s.store.mail_accepted(&on(51), notice(ZOE), "250 taken").await.unwrap(), None);
    assert_eq!(s.store.mail_accepted(&on(52), notice(ADAM), "250 taken").await.unwrap(), Some(id));
    s.set_admins(&[ADAM, ZOE], 53).await;
    assert_eq!(s.live().await[0].accepted, Some(day(52)));
}

async fn ended_actions_are_nobodys_news(f: Fixture) {
    let (s, id) = stage(f).await;
    s.announce(id, 38).await.unwrap();
    s.store.withdraw_actions(&on(39), 10).await.unwrap();
    assert!(s.set_admins(&[ADAM, NEW], 40).await.is_empty());
    assert_eq!(notices(&s, 41).await, <[String; 0]>::default());
    // Another account's admins are another matter.
    let theirs = s.f.account("theirs").await;
    s.announce(id, 42).await.unwrap();
    let set = s.store.set_account_admins(&on(43), theirs, &[NEW.to_owned()]).await;
    assert!(set.unwrap().unwrap().touched.is_empty());
    assert_eq!(notices(&s, 44).await, [ADAM, NEW]);
}
