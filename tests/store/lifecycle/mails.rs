//! Mails: claimed, taken over, refused, and what they say.

use portcullis::model::{
    CarriedOut, FailingAddress, Mail, MailContent, MailFailure, MailState, Notice, NoticeState,
    Token,
};
use portcullis::policy::lifecycle::ActionEffect;
use portcullis::policy::token::TokenKind;

use super::{HOUR, NAMES, Stage, day, on, refused};
use crate::store::fixture::{ASK, Fixture, READ, REVEAL};

on_both!(
    a_mail_is_claimed_for_a_while,
    a_claim_is_prolonged_by_its_holder_alone,
    a_notice_waits_until_its_action_is_known,
    a_refused_address_holds_the_action,
    a_refused_address_of_no_admin_is_given_up,
    a_mail_to_a_former_admin_is_tried_for_a_day,
    a_mail_that_fails_waits_for_all_others,
    a_relay_that_fails_says_nothing_of_an_address,
    what_was_taken_back_may_be_accepted_all_the_same,
    a_notice_says_what_it_takes,
    who_has_other_admins_is_told,
);

async fn a_mail_is_claimed_for_a_while(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(id, 38).await.unwrap();
    assert!(s.claim(37).await.is_empty());
    let first = s.store.claim_mails(day(38), HOUR, i64::MAX, 1).await.unwrap();
    let second = s.store.claim_mails(day(38), HOUR, i64::MAX, 9).await.unwrap();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first[0].id, second[0].id);
    assert_eq!((first[0].attempts, first[0].created), (0, day(38)));
    // While it is claimed nobody else gets it; then the same mail, with the same id.
    assert!(s.store.claim_mails(day(38), HOUR, i64::MAX, 9).await.unwrap().is_empty());
    s.store.mail_accepted(&on(38), second[0].id, "250 taken").await.unwrap();
    let later = s.store.claim_mails(day(38).plus(HOUR), HOUR, i64::MAX, 9).await.unwrap();
    assert_eq!((later.len(), later[0].id), (1, first[0].id));
    // Tried in vain.
    let mail = &later[0];
    s.store.mail_deferred(day(39), mail, day(41), None).await.unwrap();
    assert!(s.claim(40).await.is_empty());
    let again = s.claim(41).await;
    assert_eq!((again.len(), again[0].id, again[0].attempts), (1, mail.id, 1));
    assert_eq!(s.store.mail_accepted(&on(41), mail.id, "250 taken").await.unwrap(), Some(id));
    // Late words about it change nothing.
    s.store.mail_deferred(day(41), &again[0], day(42), refused("550 no")).await.unwrap();
    assert_eq!(s.live().await[0].accepted, Some(day(41)));
    assert!(s.claim(99).await.is_empty());
    assert_eq!(s.store.mail_state().await.unwrap(), MailState::default());
}

async fn a_claim_is_prolonged_by_its_holder_alone(f: Fixture) {
    let s = Stage::new(f).await;
    s.set_admins(&["adam@acme.test"], 1).await;
    s.deliver(1).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(id, 38).await.unwrap();
    let claim = async |now| s.store.claim_mails(now, HOUR, i64::MAX, 9).await.unwrap().pop();
    let prolong = async |mail: &Mail, until| s.store.prolong_claim(mail, until).await.unwrap();
    let mut slow = claim(day(38)).await.unwrap();
    assert_eq!(slow.claimed, day(38).plus(HOUR));
    assert_eq!(prolong(&slow, day(39)).await, Some(day(39)));
    slow.claimed = day(39);
    // Never back.
    assert_eq!(prolong(&slow, day(38)).await, Some(day(39)));
    assert_eq!(claim(day(39).minus(HOUR)).await, None);
    // Over, and nobody came.
    assert_eq!(prolong(&slow, day(41)).await, Some(day(41)));
    slow.claimed = day(41);
    assert_eq!(claim(day(40)).await, None);
    // Over, and somebody came: whoever had it has no say any more, except that it was taken over.
    let quick = claim(day(41)).await.unwrap();
    assert_eq!(quick.id, slow.id);
    assert_eq!(prolong(&slow, day(50)).await, None);
    s.store.mail_deferred(day(41), &slow, day(41), refused("550 no")).await.unwrap();
    assert_eq!(claim(day(41)).await, None);
    assert_eq!(s.store.mail_state().await.unwrap().failing, []);
    s.store.mail_deferred(day(41), &quick, day(42), None).await.unwrap();
    let last = claim(day(42)).await.unwrap();
    assert_eq!(last.attempts, 1);
    assert_eq!(s.store.mail_accepted(&on(42), slow.id, "250 taken").await.unwrap(), Some(id));
    assert_eq!(prolong(&last, day(50)).await, None);
    // Taken back, and queued anew: another claim.
    let other = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(other, 43).await.unwrap();
    let mail = claim(day(43)).await.unwrap();
    s.set_admins(&["zoe@acme.test"], 43).await;
    assert_eq!(prolong(&mail, day(50)).await, None);
    s.set_admins(&["adam@acme.test"], 44).await;
    assert_eq!(prolong(&mail, day(50)).await, None);
}

async fn a_notice_waits_until_its_action_is_known(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(id, 38).await.unwrap();
    let position = s.f.position().await;
    let claim = async |known| s.store.claim_mails(day(38), HOUR, known, 9).await.unwrap().len();
    assert_eq!(claim(position - 1).await, 0);
    // Who joins is told of what everybody knows, and both lists of their change.
    s.set_admins(&["zoe@acme.test", "adam@acme.test", "new@acme.test"], 38).await;
    assert_eq!(claim(position - 1).await, 4);
    assert_eq!(claim(position).await, 2);
}

async fn a_refused_address_holds_the_action(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.announce(id, 38).await.unwrap();
    let other = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(other, 39).await.unwrap();
    for mail in s.claim(39).await {
        if mail.recipient.starts_with("zoe@") {
            let text = format!("550 no such user {}", mail.created.0);
            s.store.mail_deferred(day(39), &mail, day(40), refused(&text)).await.unwrap();
        } else {
            s.store.mail_accepted(&on(39), mail.id, "250 taken").await.unwrap();
        }
    }
    let failing = Notice {
        email: "zoe@acme.test".into(),
        state: NoticeState::Failing(format!("550 no such user {}", day(38).0)),
    };
    assert_eq!(s.live().await[0].notices[1], failing);
    let state = s.store.mail_state().await.unwrap();
    let [FailingAddress { address, failure, since }] = &state.failing[..] else { panic!() };
    assert_eq!((address.as_str(), *since), ("zoe@acme.test", day(39)));
    assert!(failure.starts_with("550 no such user"));
    assert_eq!((state.waiting, state.oldest), (0, None));
    assert!(s.due(999).await.is_empty());
    assert_eq!(s.carry_out(action.id, 999).await, CarriedOut::Held);

    // Tried daily, and at last taken.
    let again = s.claim(40).await;
    assert_eq!(again.len(), 2);
    s.store.mail_deferred(day(40), &again[0], day(41), refused("550 still none")).await.unwrap();
    let state = s.store.mail_state().await.unwrap();
    assert_eq!(state.failing[0].since, day(39));
    for mail in s.claim(60).await {
        s.store.mail_accepted(&on(60), mail.id, "250 taken").await.unwrap();
    }
    assert_eq!(s.store.mail_state().await.unwrap(), MailState::default());
    assert_eq!(s.carry_out(action.id, 66).await, CarriedOut::Held);
    assert_eq!(s.carry_out(action.id, 67).await, CarriedOut::Done);
}

/// Its mails would be refused for ever, and nothing waits for them.
async fn a_refused_address_of_no_admin_is_given_up(f: Fixture) {
    let s = Stage::new(f).await;
    let refuse = async |n| {
        for mail in s.claim(n).await {
            let failure =
                refused("550 no such user").filter(|_| mail.recipient.starts_with("zoe@"));
            s.store.mail_deferred(day(n), &mail, day(n + 1), failure).await.unwrap();
        }
        s.store.mail_state().await.unwrap().failing.len()
    };
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.noticed(id, 38).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    assert_eq!(refuse(45).await, 1, "what is told of the end");
    s.set_admins(&["adam@acme.test"], 45).await;
    assert_eq!(s.store.mail_state().await.unwrap().failing, []);
    assert_eq!(refuse(45).await, 0, "what is told of the change");
    // What was told of the end is refused once more.
    assert_eq!(refuse(46).await, 0);
    assert!(s.claim(99).await.iter().all(|mail| mail.recipient == "adam@acme.test"));
}

/// A second change of the admins must not keep a former admin from being notified of the first.
async fn a_mail_to_a_former_admin_is_tried_for_a_day(f: Fixture) {
    let s = Stage::new(f).await;
    s.set_admins(&["adam@acme.test"], 1).await;
    let busy = Some(MailFailure { text: "450 busy", address_refused: false });
    let half = |halves: i64| day(1).plus(HOUR * 12 * halves as u32);
    let mut tried = 0;
    for halves in 0..9 {
        let now = half(halves);
        for mail in s.store.claim_mails(now, HOUR, i64::MAX, 9).await.unwrap() {
            if mail.recipient == "zoe@acme.test" {
                tried += 1;
                assert_eq!(mail.failing, halves > 0);
                s.store.mail_deferred(now, &mail, half(halves + 1), busy).await.unwrap();
                assert_eq!(s.store.mail_state().await.unwrap().failing, [], "no admin any more");
            } else {
                s.store.mail_accepted(&on(1), mail.id, "250 taken").await.unwrap();
            }
        }
        if halves == 0 {
            s.set_admins(&["adam@acme.test", "new@acme.test"], 1).await;
        }
    }
    assert_eq!(tried, 3, "at once, and until it has failed for a day");
}

/// A relay may take its time to refuse: nobody else's mail waits for that.
async fn a_mail_that_fails_waits_for_all_others(f: Fixture) {
    let s = Stage::new(f).await;
    for n in [38, 39] {
        let id = s.token(TokenKind::ReadOnly, &[]).await;
        s.announce(id, n).await.unwrap();
    }
    let claim = async |limit| s.store.claim_mails(day(40), HOUR, i64::MAX, limit).await.unwrap();
    for mail in claim(9).await {
        let failure = refused("554 no").filter(|_| mail.recipient.starts_with("zoe@"));
        // What fails for its own sake is due first.
        let next = if failure.is_some() { day(39) } else { day(40) };
        s.store.mail_deferred(day(40), &mail, next, failure).await.unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        order.extend(claim(1).await.into_iter().map(|mail| (mail.failing, mail.recipient)));
    }
    let [zoe, adam] = ["zoe@acme.test", "adam@acme.test"].map(str::to_owned);
    let expected = [(false, adam.clone()), (false, adam), (true, zoe.clone()), (true, zoe)];
    assert_eq!(order, expected);
}

async fn a_relay_that_fails_says_nothing_of_an_address(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(id, 38).await.unwrap();
    let mails = s.claim(38).await;
    s.store.mail_deferred(day(38), &mails[0], day(40), None).await.unwrap();
    s.store.mail_deferred(day(38), &mails[1], day(40), refused("550 no")).await.unwrap();
    for mail in s.claim(40).await {
        s.store.mail_deferred(day(40), &mail, day(41), None).await.unwrap();
    }
    let state = s.store.mail_state().await.unwrap();
    assert_eq!((state.waiting, state.oldest), (1, Some(day(38))));
    assert_eq!(state.failing.len(), 1);
    assert_eq!((state.failing[0].failure.as_str(), state.failing[0].since), ("550 no", day(38)));
}

async fn what_was_taken_back_may_be_accepted_all_the_same(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.announce(id, 38).await.unwrap();
    let mails = s.claim(38).await;
    s.store.delete_token(&on(39), id, None).await.unwrap();
    let before = s.f.position().await;
    for mail in &mails {
        assert_eq!(s.store.mail_accepted(&on(40), mail.id, "250 taken").await.unwrap(), None);
    }
    s.store.mail_deferred(day(40), &mails[0], day(41), refused("550 no")).await.unwrap();
    assert_eq!(s.f.position().await, before);
    assert!(s.claim(99).await.is_empty());
    assert_eq!(s.store.mail_state().await.unwrap(), MailState::default());
    s.f.check_record().await;
}

async fn a_notice_says_what_it_takes(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::Custom, &NAMES).await;
    s.record(id, READ, 30).await;
    s.record(id, REVEAL, 1).await;
    let action = s.announce(id, 39).await.unwrap();
    let names = |names: &[&str]| crate::store::fixture::scope_names(names);
    for mail in s.claim(39).await {
        assert_eq!((mail.account.id, mail.account.name.as_str()), (s.account, "acme"));
        assert_eq!(mail.account.admins, ["zoe@acme.test", "adam@acme.test"]);
        let MailContent::Notice(token, told) = &mail.content else { panic!("{mail:?}") };
        assert_eq!((token.id, token.name.as_str()), (id, "a token"));
        assert_eq!((token.kind, token.created), (TokenKind::Custom, day(0)));
        assert_eq!(token.last_use, Some(day(30)));
        let uses: Vec<_> = token.uses.iter().map(|(name, at)| (name.as_str(), *at)).collect();
        assert_eq!(uses, [(REVEAL, day(1)), (READ, day(30))]);
        assert_eq!((told.id, &told.takes), (action.id, &action.takes));
        assert!(matches!(told.takes, ActionEffect::Scopes(_)));
        assert_eq!((&told.taken, &told.kept), (&names(&[REVEAL, ASK]), &names(&[READ])));
        assert_eq!((told.basis, told.last_use_of_taken), (day(1), Some(day(1))));
        assert_eq!((told.created, told.accepted, told.ended), (day(39), None, None));
        s.store.mail_accepted(&on(39), mail.id, "250 taken").await.unwrap();
    }
    assert_eq!(s.carry_out(action.id, 46).await, CarriedOut::Done);
    let mails = s.claim(46).await;
    assert_eq!(mails.len(), 2);
    for mail in mails {
        let MailContent::CarriedOut(_, told) = &mail.content else { panic!("{mail:?}") };
        assert_eq!((&told.taken, told.ended), (&names(&[REVEAL, ASK]), Some(day(46))));
        assert_eq!(told.accepted, Some(day(39)));
    }
    let token: Token = s.read(id).await;
    assert_eq!(token.scopes, [s.scope(READ)]);
}

/// Rule 4.10.
async fn who_has_other_admins_is_told(f: Fixture) {
    let s = Stage::new(f).await;
    assert!(s.set_admins(&["adam@acme.test", "zoe@acme.test"], 1).await.is_empty());
    assert!(s.claim(1).await.is_empty(), "another order is nobody's news");
    assert!(s.set_admins(&["adam@acme.test", "new@acme.test"], 2).await.is_empty());
    let mut mails = s.claim(2).await;
    mails.sort_by(|a, b| a.recipient.cmp(&b.recipient));
    let recipients: Vec<_> = mails.iter().map(|mail| mail.recipient.as_str()).collect();
    assert_eq!(recipients, ["adam@acme.test", "new@acme.test", "zoe@acme.test"]);
    for mail in mails {
        let MailContent::AdminsChanged { before, after } = mail.content else { panic!() };
        assert_eq!(before, ["adam@acme.test", "zoe@acme.test"]);
        assert_eq!(after, ["adam@acme.test", "new@acme.test"]);
        assert_eq!(mail.account.admins, after);
        assert_eq!(s.store.mail_accepted(&on(2), mail.id, "250 taken").await.unwrap(), None);
    }
    // Another change, other mails.
    s.set_admins(&["zoe@acme.test"], 3).await;
    assert_eq!(s.deliver(3).await, ["adam@acme.test", "new@acme.test", "zoe@acme.test"]);
    s.f.check_record().await;
}
