//! Denied requests: they add up, tokens and accounts have their shares, and they are forgotten in time.

use std::sync::Arc;

use portcullis::model::{
    Denial, DenialCount, DenialFilter, DenialRest, MAX_ACCOUNT_DENIALS, MAX_TOKEN_DENIALS,
};
use portcullis::policy::decide::Reason;
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::scope::{Catalog, ScopeId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use portcullis::store::Store;
use uuid::Uuid;

use crate::store::fixture::{Fixture, READ, all, ctx, new_token, page};

on_both!(
    denials_of_an_hour_are_one_row,
    a_tokens_share_is_kept_and_the_others_are_counted,
    an_accounts_share_is_kept_and_the_rest_is_counted,
    denials_are_listed_by_token_and_account_the_latest_first,
    denials_are_forgotten_and_go_with_their_token_and_account,
);

const HOUR: i64 = 60 * 60 * 1_000_000;

struct Stage {
    f: Fixture,
    store: Arc<dyn Store>,
    account: AccountId,
    catalog: Catalog,
}

impl Stage {
    async fn new(f: Fixture) -> Self {
        let account = f.account("acme").await;
        let catalog = f.catalog(&[READ]).await;
        Self { store: f.store.clone(), f, account, catalog }
    }

    async fn token_of(&self, account: AccountId) -> TokenId {
        let new = new_token(account, TokenKind::ReadOnly, Vec::new(), "10.0.0.1");
        self.store.create_token(&ctx(5), &self.catalog, &new).await.unwrap().unwrap().id
    }

    fn denied(&self, token_id: TokenId, number: u32, hour: i64) -> DenialCount {
        let at = Timestamp(hour * HOUR + i64::from(number) + 1);
        DenialCount {
            token_id,
            account_id: self.account,
            hour,
            reason: Some(Reason::ClientIpNotWhitelisted),
            address: Some(std::net::IpAddr::from(number.to_be_bytes()).into()),
            scope_id: Some(ScopeId(0)),
            operation: String::new(),
            count: 1,
            first: at,
            last: at,
        }
    }

    async fn record(&self, denials: &[DenialCount]) {
        self.store.record_denials(denials, &[]).await.unwrap();
    }

    async fn list(&self, account_id: Option<AccountId>, token_id: Option<TokenId>) -> Vec<Denial> {
        let filter = DenialFilter { account_id, token_id, since: Timestamp(0) };
        self.store.denials(&filter, all()).await.unwrap()
    }

    async fn rest(&self, only: Option<AccountId>) -> u64 {
        self.store.denial_rest(only, Timestamp(0)).await.unwrap()
    }
}

/// Rule 12.10.
async fn denials_of_an_hour_are_one_row(f: Fixture) {
    let s = Stage::new(f).await;
    let token = s.token_of(s.account).await;
    let before = s.f.position().await;
    let first = DenialCount { operation: "GET /x".to_owned(), ..s.denied(token, 7, 3) };
    let at = |offset| Timestamp(3 * HOUR + offset);
    let later = DenialCount { count: 5, first: at(2), last: at(90), ..s.denied(token, 7, 3) };
    s.record(std::slice::from_ref(&first)).await;
    s.record(&[later]).await;
    let listed = s.list(None, None).await;
    let [row] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(row.denied, DenialCount { count: 6, first: at(2), last: at(90), ..first.clone() });
    // What differs in any of these is another row.
    let bare = DenialCount {
        address: None,
        scope_id: None,
        reason: Some(Reason::NoMatchingRoute),
        ..first.clone()
    };
    let reason = DenialCount { reason: Some(Reason::ScopeNotGranted), ..first.clone() };
    s.record(&[bare.clone(), reason, s.denied(token, 8, 3), s.denied(token, 7, 4)]).await;
    let listed = s.list(None, None).await;
    assert_eq!(listed.len(), 5);
    assert!(listed.iter().any(|row| row.denied == bare));
    assert_eq!(s.f.position().await, before, "nobody caches it");
    let gone = s.denied(TokenId(Uuid::now_v7()), 1, 3);
    s.record(&[gone]).await;
    s.store.record_denials(&[], &[]).await.unwrap();
    assert_eq!(s.list(None, None).await.len(), 5);
}

/// Rule 12.11.
async fn a_tokens_share_is_kept_and_the_others_are_counted(f: Fixture) {
    let s = Stage::new(f).await;
    let [flooded, quiet] = [s.token_of(s.account).await, s.token_of(s.account).await];
    for round in 0..3 {
        let denials: Vec<_> = (0..50).map(|n| s.denied(flooded, 50 * round + n, 3)).collect();
        s.record(&denials).await;
    }
    s.record(&[s.denied(quiet, 1, 3), s.denied(flooded, 1, 4)]).await;
    let listed = s.list(None, Some(flooded)).await;
    let hour: Vec<_> = listed.iter().filter(|row| row.denied.hour == 3).collect();
    assert_eq!(hour.len(), MAX_TOKEN_DENIALS + 1);
    let others: Vec<_> = hour.iter().filter(|row| row.denied.reason.is_none()).collect();
    let [others] = &others[..] else { panic!("{hour:?}") };
    assert_eq!((others.denied.count, others.denied.address), (130, None));
    assert_eq!(hour.iter().map(|row| row.denied.count).sum::<u64>(), 150);
    assert_eq!(listed.len(), hour.len() + 1, "another hour has its own share");
    assert_eq!(s.list(None, Some(quiet)).await.len(), 1);
    // A row that is there counts on.
    s.record(&[s.denied(flooded, 0, 3)]).await;
    assert_eq!(s.list(None, Some(flooded)).await.len(), listed.len());
    assert_eq!(s.rest(None).await, 0);
}

/// Rule 12.11.
async fn an_accounts_share_is_kept_and_the_rest_is_counted(f: Fixture) {
    let s = Stage::new(f).await;
    let other = s.f.account("other").await;
    let mut denials = Vec::new();
    for _ in 0..20 {
        let token = s.token_of(s.account).await;
        denials.extend((0..15).map(|n| s.denied(token, n, 3)));
    }
    let (first, second) = denials.split_at(120);
    s.record(first).await;
    s.record(second).await;
    let listed = s.list(Some(s.account), None).await;
    assert_eq!(listed.len(), MAX_ACCOUNT_DENIALS);
    assert_eq!(s.rest(None).await, 300 - MAX_ACCOUNT_DENIALS as u64);
    let theirs = s.token_of(other).await;
    s.record(&[DenialCount { account_id: other, ..s.denied(theirs, 1, 3) }]).await;
    assert_eq!(s.list(Some(other), None).await.len(), 1, "another account has its share");
    let rest = |account_id, count| DenialRest {
        account_id,
        hour: 4,
        count,
        first: Timestamp(4 * HOUR),
        last: Timestamp(4 * HOUR),
    };
    let nobody = AccountId(Uuid::now_v7());
    for _ in 0..2 {
        s.store.record_denials(&[], &[rest(other, 7), rest(nobody, 1)]).await.unwrap();
    }
    assert_eq!((s.rest(Some(other)).await, s.rest(None).await), (14, 114));
    assert_eq!(s.f.number("SELECT count(*) FROM denial_rest").await, 2);
    let later = s.store.denial_rest(None, Timestamp(4 * HOUR + 5)).await.unwrap();
    assert_eq!(later, 14, "from the hour of an instant on");
}

async fn denials_are_listed_by_token_and_account_the_latest_first(f: Fixture) {
    let s = Stage::new(f).await;
    let other = s.f.account("other").await;
    let [a, b] = [s.token_of(s.account).await, s.token_of(s.account).await];
    let c = s.token_of(other).await;
    s.record(&[s.denied(a, 1, 5), s.denied(b, 2, 6), s.denied(a, 3, 7)]).await;
    s.record(&[DenialCount { account_id: other, ..s.denied(c, 1, 8) }]).await;
    let hours = |rows: &[Denial]| rows.iter().map(|row| row.denied.hour).collect::<Vec<_>>();
    assert_eq!(hours(&s.list(None, None).await), [8, 7, 6, 5]);
    assert_eq!(hours(&s.list(Some(s.account), None).await), [7, 6, 5]);
    assert_eq!(hours(&s.list(Some(s.account), Some(a)).await), [7, 5]);
    assert_eq!(hours(&s.list(Some(other), Some(a)).await), [0; 0]);
    let filter = |since| DenialFilter { account_id: None, token_id: None, since: Timestamp(since) };
    let since = s.store.denials(&filter(7 * HOUR + 5), all()).await.unwrap();
    assert_eq!(hours(&since), [8, 7]);
    let first = s.store.denials(&filter(0), page(None, 3)).await.unwrap();
    assert_eq!(hours(&first), [8, 7, 6]);
    let next = s.store.denials(&filter(0), page(Some(first[2].id), 3)).await.unwrap();
    assert_eq!(hours(&next), [5]);
}

/// Rule 12.12.
async fn denials_are_forgotten_and_go_with_their_token_and_account(f: Fixture) {
    let s = Stage::new(f).await;
    let other = s.f.account("other").await;
    let [a, theirs] = [s.token_of(s.account).await, s.token_of(other).await];
    let old: Vec<_> = (3..6).map(|hour| s.denied(a, 1, hour)).collect();
    s.record(&old).await;
    s.record(&[DenialCount { account_id: other, ..s.denied(theirs, 1, 9) }]).await;
    let rest = DenialRest {
        account_id: other,
        hour: 3,
        count: 1,
        first: Timestamp(3 * HOUR),
        last: Timestamp(3 * HOUR),
    };
    s.store.record_denials(&[], &[rest, DenialRest { hour: 9, ..rest }]).await.unwrap();
    assert_eq!(s.store.purge_denials(Timestamp(5 * HOUR + 7), 1).await.unwrap(), 2);
    assert_eq!(s.store.purge_denials(Timestamp(5 * HOUR + 7), 10).await.unwrap(), 1);
    assert_eq!((s.list(None, None).await.len(), s.rest(None).await), (2, 1));
    s.store.close_account(&ctx(8), other, "other").await.unwrap().unwrap();
    while s.store.continue_closure(&ctx(8), None, 10).await.unwrap().unwrap().more {}
    assert!(s.store.erase_activity(other, None, 10).await.unwrap().is_some());
    assert_eq!((s.list(None, None).await.len(), s.rest(None).await), (1, 0));
    s.record(&[DenialCount { account_id: other, ..s.denied(theirs, 1, 9) }]).await;
    s.store.record_denials(&[], &[DenialRest { hour: 9, ..rest }]).await.unwrap();
    assert_eq!((s.list(None, None).await.len(), s.rest(None).await), (1, 0), "of a closed account");
    // Who still presents a deleted token is of interest; what is purged is unknown.
    s.store.delete_token(&ctx(10), a, None).await.unwrap();
    s.record(&[s.denied(a, 2, 8)]).await;
    assert_eq!(s.list(None, None).await.len(), 2);
    s.store.purge(&ctx(20), Timestamp(15), 10).await.unwrap();
    assert_eq!(s.list(None, None).await.len(), 0);
    s.record(&[s.denied(a, 2, 8)]).await;
    assert_eq!(s.list(None, None).await.len(), 0);
}
