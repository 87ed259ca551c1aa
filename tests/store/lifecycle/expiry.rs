//! Tokens that end by themselves: by the time of each transaction, whether or not a sweep has recorded it.

use portcullis::model::{AuditFilter, CarriedOut, NewToken, TokenFilter, TokenGone};
use portcullis::policy::id::TokenId;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{Expiry, ExpiryRefused, RequestedExpiry, TokenKind, TokenState};

use super::{Stage, day, on};
use crate::store::fixture::{Fixture, READ, all, new_token};

on_both!(
    an_expiry_is_stored_and_only_brought_nearer,
    an_expired_token_is_neither_announced_nor_taken,
    a_use_after_the_expiry_is_not_recorded,
    an_expiry_is_recorded_once_and_ends_what_is_announced,
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
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::TokenGone);
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
    assert_eq!(recorded, Err(TokenGone));
    // Nor one that was decided before it and comes too late to be recorded.
    let early = s.used(id, READ, 39);
    let recorded = s.store.record_use_of_announced(&on(40), &s.catalog, &early).await.unwrap();
    assert_eq!(recorded, Err(TokenGone));
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
    assert!(s.claim(41).await.is_empty(), "nobody is notified of what can't be kept");
    assert!(s.expire(41).await.is_empty(), "once");
    let idle = s.store.idle_tokens(day(99), 10).await.unwrap();
    assert_eq!(idle.iter().map(|token| token.id).collect::<Vec<_>>(), [other]);
    // Nor does a use that is recorded late bring it back.
    s.record(id, READ, 39).await;
    s.store.reschedule(&[id]).await.unwrap();
    let idle = s.store.idle_tokens(day(99), 10).await.unwrap();
    assert!(idle.iter().all(|token| token.id != id));
    let live = s.store.subjects(None, all()).await.unwrap();
    assert_eq!(live.iter().map(|token| token.id).collect::<Vec<_>>(), [other]);
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
