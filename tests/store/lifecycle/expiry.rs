//! Tokens that end by themselves: by the time of each transaction, whether or not a sweep has recorded it.

use portcullis::model::{
    AuditFilter, CarriedOut, MailContent, NewToken, NoLongerHeld, Notice, NoticeState, TokenFilter,
};
use portcullis::policy::id::TokenId;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{Expiry, ExpiryRefused, RequestedExpiry, TokenKind, TokenState};

use super::{HOUR, Stage, at, day, on, refused};
use crate::store::fixture::{Fixture, READ, all, new_token};

on_both!(
    an_expiry_is_stored_and_only_brought_nearer,
    an_expired_token_is_neither_announced_nor_taken,
    a_use_after_the_expiry_is_not_recorded,
    an_expiry_is_recorded_once_and_ends_what_is_announced,
    admins_are_mailed_before_an_expiry_and_after_it,
    a_notice_of_an_expiry_that_came_nearer_is_superseded,
    a_notice_of_an_expiry_ends_with_its_token,
    notices_of_an_expiry_follow_the_admins,
    a_failing_notice_of_an_expiry_holds_nothing_back,
    expired_tokens_are_purged_like_deleted_ones,
    a_token_that_was_deleted_before_its_expiry_stays_deleted,
    a_scope_that_only_expired_tokens_have_can_be_dropped,
);

impl Stage {
    /// A token that may read, created on day 0, which expires on that day.
    async fn expiring(&self, n: i64) -> TokenId {
        let new = new_token(self.account, TokenKind::ReadOnly, Vec::new(), "");
        let new = NewToken { expires: Some(day(n)), ..new };
        self.store.create_token(&on(0), &self.catalog, &new).await.unwrap().unwrap().id
    }

    async fn set_expiry(&self, id: TokenId, to: i64, n: i64) -> Result<Expiry, ExpiryRefused> {
        let expiry = RequestedExpiry::At(day(to));
        let set = self.store.set_token_expiry(&on(n), id, None, expiry).await.unwrap().unwrap();
        let token = set?;
        assert_eq!(self.read(id).await, token);
        assert_eq!(self.facts(id).await.expiry.time(), token.expires);
        Ok(token.expires.into())
    }

    /// What the sweep records on that day.
    async fn expire(&self, n: i64) -> Vec<TokenId> {
        self.store.record_expiries(&on(n), 100).await.unwrap()
    }

    /// Of how many tokens the sweep queues notices on that day.
    async fn announce_expiries(&self, n: i64) -> u32 {
        let until = day(n).plus(self.settings.notice());
        self.store.announce_expiries(&on(n), until, 100).await.unwrap()
    }

    /// Who is mailed on that day of which expiry, and whether it is reached; the mail server takes all of them.
    async fn mailed(&self, n: i64) -> Vec<(String, Timestamp, bool)> {
        let mut sent = Vec::new();
        for mail in self.claim(n).await {
            match &mail.content {
                MailContent::ExpiryNotice(_, at) => sent.push((mail.recipient.clone(), *at, false)),
                MailContent::Expired(_, at) => sent.push((mail.recipient.clone(), *at, true)),
                _ => {}
            }
            self.store.mail_accepted(&on(n), mail.id, "250 taken").await.unwrap();
        }
        sent.sort();
        sent
    }
}

/// Rule 11.2.
async fn an_expiry_is_stored_and_only_brought_nearer(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(40).await;
    assert_eq!(s.facts(id).await.expiry.time(), Some(day(40)));
    assert_eq!(s.read(id).await.expires, Some(day(40)));
    assert_eq!(s.set_expiry(id, 41, 1).await, Err(ExpiryRefused::Later(day(40))));
    assert_eq!(s.set_expiry(id, 1, 1).await, Err(ExpiryRefused::Past));
    let before = s.f.position().await;
    assert_eq!(s.set_expiry(id, 40, 1).await, Ok(Some(day(40)).into()));
    assert_eq!(s.f.position().await, before, "the same changes nothing");
    assert_eq!(s.set_expiry(id, 30, 1).await, Ok(Some(day(30)).into()));
    let event = s.f.last().await.0;
    assert_eq!(event.action.as_str(), "token.set_expiry");
    let text = |at: Timestamp| format!(r#"{{"expire_time":"{at}"}}"#);
    assert_eq!((event.before, event.after), (Some(text(day(40))), Some(text(day(30)))));
    // One that ends by itself at no time may get an end.
    let endless = s.token(TokenKind::ReadOnly, &[]).await;
    assert_eq!(s.facts(endless).await.expiry, Expiry::NEVER);
    assert_eq!(s.set_expiry(endless, 50, 1).await, Ok(Some(day(50)).into()));
    // What has ended stays so.
    assert_eq!(s.set_expiry(id, 35, 30).await, Err(ExpiryRefused::Expired(day(30))));
    s.store.delete_token(&on(31), id, None).await.unwrap();
    assert_eq!(s.set_expiry(id, 35, 31).await, Err(ExpiryRefused::Deleted));
    let stranger = s.f.account("other").await;
    let at = RequestedExpiry::At(day(49));
    let hidden = s.store.set_token_expiry(&on(1), endless, Some(stranger), at).await.unwrap();
    assert_eq!(hidden, None);
    s.f.check_record().await;
}

/// Rule 11.5.
async fn an_expired_token_is_neither_announced_nor_taken(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(38).await;
    assert_eq!(s.announce(id, 38).await, None, "the sweep has not recorded its expiry yet");
    let id = s.expiring(40).await;
    let action = s.noticed(id, 38).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::ActionEnded);
    assert_eq!(s.facts(id).await.state, TokenState::Active);
    // One that lives longer is announced as ever.
    let id = s.expiring(46).await;
    assert!(s.announce(id, 38).await.is_some());
    s.f.check_record().await;
}

/// Rule 11.1.
async fn a_use_after_the_expiry_is_not_recorded(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(40).await;
    s.noticed(id, 38).await;
    let late = s.used(id, READ, 40);
    let recorded = s.store.record_use_of_announced(&on(40), &s.catalog, &late).await.unwrap();
    assert_eq!(recorded, Err(NoLongerHeld));
    // Nor one that was decided before it and comes too late to be recorded.
    let early = s.used(id, READ, 39);
    let recorded = s.store.record_use_of_announced(&on(40), &s.catalog, &early).await.unwrap();
    assert_eq!(recorded, Err(NoLongerHeld));
    assert_eq!((s.read(id).await.uses.last, s.live().await.len()), (None, 1));
    let recorded = s.store.record_use_of_announced(&on(39), &s.catalog, &early).await.unwrap();
    assert_eq!(recorded, Ok(true));
    assert_eq!((s.read(id).await.uses.last, s.live().await.len()), (Some(day(39)), 0));
    s.f.check_record().await;
}

/// Rule 11.5.
async fn an_expiry_is_recorded_once_and_ends_what_is_announced(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(40).await;
    let other = s.expiring(50).await;
    s.announce(id, 38).await.unwrap();
    assert!(s.expire(39).await.is_empty());
    assert_eq!(s.expire(40).await, [id]);
    let event = s.f.last().await.0;
    assert_eq!((event.action.as_str(), event.token_id), ("token.expire", Some(id)));
    assert!(s.live().await.is_empty());
    let mails = s.claim(41).await;
    assert!(
        mails.iter().all(|mail| matches!(mail.content, MailContent::Expired(..))),
        "nobody is notified of what can't be kept"
    );
    assert!(s.expire(41).await.is_empty(), "once");
    let idle = s.store.idle_tokens(day(99), 10).await.unwrap();
    assert_eq!(idle.iter().map(|token| token.id).collect::<Vec<_>>(), [other]);
    // Nor does a use that is recorded late bring it back.
    s.record(id, READ, 39).await;
    s.store.reschedule(&[id]).await.unwrap();
    let idle = s.store.idle_tokens(day(99), 10).await.unwrap();
    assert!(idle.iter().all(|token| token.id != id));
    let live = s.store.active_tokens(None, all()).await.unwrap();
    assert_eq!(live.iter().map(|token| token.id).collect::<Vec<_>>(), [other]);
    s.f.check_record().await;
}

/// Both admins of the stage.
fn both(at: Timestamp, reached: bool) -> Vec<(String, Timestamp, bool)> {
    ["adam@acme.test", "zoe@acme.test"].map(|to| (to.to_owned(), at, reached)).to_vec()
}

/// Rule 11.7.
async fn admins_are_mailed_before_an_expiry_and_after_it(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(40).await;
    s.expiring(60).await;
    assert_eq!(s.announce_expiries(32).await, 0);
    assert_eq!(s.announce_expiries(33).await, 1);
    let event = s.f.last().await.0;
    assert_eq!((event.action.as_str(), event.token_id), ("token.expiry_notice", Some(id)));
    let noticed = |state: NoticeState| {
        let of = |email: &str| Notice { email: email.to_owned(), state: state.clone() };
        ["adam@acme.test", "zoe@acme.test"].map(of)
    };
    assert_eq!(s.read(id).await.expiry_notices, noticed(NoticeState::Queued));
    assert_eq!(s.mailed(33).await, both(day(40), false));
    assert_eq!(s.read(id).await.expiry_notices, noticed(NoticeState::Accepted(day(33))));
    assert_eq!(s.announce_expiries(34).await, 0, "once");
    assert_eq!(s.expire(40).await, [id]);
    assert_eq!(s.mailed(40).await, both(day(40), true));
    assert_eq!((s.announce_expiries(41).await, s.expire(41).await.len()), (0, 0));
    assert_eq!(s.mailed(99).await, []);
    // One whose expiry no sweep foresaw gets the second mail alone.
    let late = s.expiring(42).await;
    assert_eq!(s.expire(43).await, [late]);
    assert_eq!(s.announce_expiries(43).await, 0);
    assert_eq!(s.mailed(43).await, both(day(42), true));
    s.f.check_record().await;
}

/// Rule 11.8.
async fn a_notice_of_an_expiry_that_came_nearer_is_superseded(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(40).await;
    // Queued and not sent: nobody reads of the former date.
    s.announce_expiries(33).await;
    s.set_expiry(id, 39, 33).await.unwrap();
    assert_eq!(s.claim(33).await, []);
    assert_eq!(s.read(id).await.expiry_notices, [], "those of the former date");
    assert_eq!(s.announce_expiries(33).await, 1);
    let mails = s.claim(33).await;
    assert_eq!(mails.len(), 2);
    // In the hands of the mail server while the date changes: its acceptance is noted, and another mail follows.
    s.set_expiry(id, 38, 33).await.unwrap();
    let later = day(34);
    assert_eq!(s.store.prolong_claim(&mails[0], later).await.unwrap(), None, "it is taken back");
    s.store.mail_accepted(&on(33), mails[0].id, "250 taken").await.unwrap();
    assert_eq!(s.announce_expiries(34).await, 1);
    assert_eq!(s.mailed(34).await, both(day(38), false));
    // The one that it has is no other.
    s.set_expiry(id, 38, 34).await.unwrap();
    assert_eq!((s.announce_expiries(34).await, s.mailed(35).await.len()), (0, 0));
    s.f.check_record().await;
}

/// Rule 11.8.
async fn a_notice_of_an_expiry_ends_with_its_token(f: Fixture) {
    let s = Stage::new(f).await;
    let (deleted, expired) = (s.expiring(40).await, s.expiring(41).await);
    assert_eq!(s.announce_expiries(35).await, 2);
    s.store.delete_token(&on(36), deleted, None).await.unwrap();
    // Reached, and not yet recorded: nothing is to come.
    assert_eq!(s.claim(41).await, []);
    let before = day(41).minus(HOUR);
    let mails = s.store.claim_mails(before, HOUR / 2, i64::MAX, 9).await.unwrap();
    assert_eq!(mails.len(), 2);
    assert_eq!(s.expire(41).await, [expired]);
    assert_eq!(s.mailed(41).await, both(day(41), true));
    assert_eq!(s.mailed(99).await, []);
    assert_eq!(s.store.mail_state().await.unwrap().waiting, 0);
    s.f.check_record().await;
}

/// Rule 11.8.
async fn notices_of_an_expiry_follow_the_admins(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(40).await;
    s.announce_expiries(33).await;
    // One admin is notified; the other one leaves before.
    for mail in s.claim(33).await {
        if mail.recipient == "adam@acme.test" {
            s.store.mail_accepted(&on(33), mail.id, "250 taken").await.unwrap();
        }
    }
    s.set_admins(&["adam@acme.test", "new@acme.test"], 34).await;
    assert_eq!(s.announce_expiries(34).await, 1);
    assert_eq!(s.mailed(34).await, [("new@acme.test".to_owned(), day(40), false)]);
    // An admin who comes back without having been notified is; the others have been.
    s.set_admins(&["adam@acme.test", "new@acme.test", "zoe@acme.test"], 35).await;
    assert_eq!(s.announce_expiries(35).await, 1);
    assert_eq!(s.mailed(35).await, [("zoe@acme.test".to_owned(), day(40), false)]);
    assert_eq!(s.expire(40).await, [id]);
    assert_eq!(s.mailed(40).await.len(), 3);
    s.set_admins(&["late@acme.test"], 41).await;
    assert_eq!((s.announce_expiries(41).await, s.mailed(42).await.len()), (0, 0));
    s.f.check_record().await;
}

/// Rule 11.9.
async fn a_failing_notice_of_an_expiry_holds_nothing_back(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(40).await;
    s.announce_expiries(33).await;
    for mail in s.claim(33).await {
        s.store.mail_deferred(day(33), &mail, day(34), refused("550 no")).await.unwrap();
    }
    assert_eq!(s.store.mail_state().await.unwrap().failing.len(), 2);
    let failing = NoticeState::Failing("550 no".to_owned());
    assert!(s.read(id).await.expiry_notices.iter().all(|notice| notice.state == failing));
    assert!(s.facts(id).await.expiry.is_reached(day(40)));
    let queued = at(day(40));
    assert_eq!(s.store.record_expiries(&queued, 9).await.unwrap(), [id]);
    assert_eq!(s.store.mail_state().await.unwrap().failing, []);
    assert_eq!(s.mailed(40).await, both(day(40), true));
    s.f.check_record().await;
}

/// Rule 11.6.
async fn expired_tokens_are_purged_like_deleted_ones(f: Fixture) {
    let s = Stage::new(f).await;
    let (expired, deleted, later) =
        (s.expiring(10).await, s.expiring(99).await, s.expiring(12).await);
    s.store.delete_token(&on(11), deleted, None).await.unwrap();
    // What no sweep has recorded yet stays: the audit record is to say that it expired.
    assert_eq!(s.store.purge(&on(13), day(11), 10).await.unwrap(), []);
    s.expire(12).await;
    assert_eq!(s.store.purge(&on(13), day(10), 10).await.unwrap(), []);
    let purged = s.store.purge(&on(13), day(12), 10).await.unwrap();
    assert_eq!(purged.len(), 2);
    assert!(purged.contains(&expired) && purged.contains(&deleted), "{purged:?}");
    assert_eq!(s.store.token_facts(expired).await.unwrap(), None);
    assert!(s.store.token_facts(later).await.unwrap().is_some());
    let filter = AuditFilter { token_id: Some(expired), ..AuditFilter::default() };
    let events = s.store.audit_events(&filter, all()).await.unwrap();
    let purge = events.iter().find(|event| event.action == "token.purge".to_owned().into());
    assert!(purge.unwrap().before.as_deref().unwrap().contains("expired"));
    s.f.check_record().await;
}

/// Rule 11.5.
async fn a_token_that_was_deleted_before_its_expiry_stays_deleted(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.expiring(10).await;
    s.store.delete_token(&on(9), id, None).await.unwrap();
    assert!(s.expire(11).await.is_empty());
    assert_eq!(s.facts(id).await.state, TokenState::Deleted { at: day(9) });
    // An expired one can be deleted too, and is then listed as such.
    let id = s.expiring(10).await;
    s.expire(11).await;
    s.store.delete_token(&on(12), id, None).await.unwrap();
    let all_tokens = TokenFilter { account_id: None, deleted: true };
    let listed = s.store.tokens(&all_tokens, all()).await.unwrap();
    assert!(listed.iter().all(|token| token.state != TokenState::Active));
    s.f.check_record().await;
}

/// Rule 1.7.
async fn a_scope_that_only_expired_tokens_have_can_be_dropped(f: Fixture) {
    let s = Stage::new(f).await;
    let scopes = vec![s.scope(READ)];
    let new = new_token(s.account, TokenKind::Custom, scopes, "10.0.0.1");
    let new = NewToken { expires: Some(day(10)), ..new };
    s.store.create_token(&on(0), &s.catalog, &new).await.unwrap().unwrap();
    assert_eq!(s.store.count_grants().await.unwrap().custom.len(), 1);
    s.expire(10).await;
    assert_eq!(s.store.count_grants().await.unwrap().custom.len(), 0);
}
