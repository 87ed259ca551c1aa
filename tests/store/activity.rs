//! Recorded addresses, use and matches of whitelist entries: they add up, are bounded, and are deleted in time.

use std::sync::Arc;

use portcullis::model::{
    AddressUse, EntryMatches, MAX_ADDRESSES, SeenAddress, UseCount, WhitelistTarget,
};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::network::{Change, Cidr, ClientAddr, Limits};
use portcullis::policy::scope::{Catalog, ScopeId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use portcullis::store::Store;
use uuid::Uuid;

use crate::store::fixture::{ASK, Fixture, Place, READ, ctx, new_token};

on_both!(
    addresses_merge_to_the_earliest_and_the_latest_time,
    the_latest_fifty_addresses_are_kept,
    counts_add_up_by_day_and_scope,
    what_is_gone_spoils_nothing_else,
    a_match_counts_for_its_entry_since_the_last_change,
    what_is_older_than_the_window_is_forgotten,
    activity_goes_with_its_token_and_its_account,
    what_was_seen_is_erased_when_the_account_is_closed,
    two_writers_lose_nothing,
);

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// A store with an account, and a catalogue.
struct Stage {
    f: Fixture,
    store: Arc<dyn Store>,
    account: AccountId,
    catalog: Catalog,
}

impl Stage {
    async fn new(f: Fixture) -> Self {
        let account = f.account("acme").await;
        let catalog = f.catalog(&[READ, ASK]).await;
        Self { store: f.store.clone(), f, account, catalog }
    }

    async fn token_of(&self, account: AccountId, entries: &str) -> TokenId {
        let new = new_token(account, TokenKind::ReadOnly, Vec::new(), entries);
        self.store.create_token(&ctx(5), &self.catalog, &new).await.unwrap().unwrap().id
    }

    async fn token(&self) -> TokenId {
        self.token_of(self.account, "").await
    }

    fn scope(&self, name: &str) -> ScopeId {
        self.catalog.by_name(name).unwrap().id
    }

    fn count(&self, token_id: TokenId, name: &str, day: i64, count: u64) -> UseCount {
        UseCount { token_id, scope_id: self.scope(name), day, count }
    }

    async fn record(&self, addresses: &[AddressUse]) {
        self.store.record_activity(&[], addresses).await.unwrap();
    }

    async fn seen(&self, id: TokenId, since: i64) -> Vec<(String, i64, i64)> {
        let seen = self.store.seen_addresses(id, None, Timestamp(since)).await.unwrap().unwrap();
        let shown = |seen: SeenAddress| (seen.address.to_string(), seen.first.0, seen.last.0);
        seen.into_iter().map(shown).collect()
    }

    async fn counts(&self, id: TokenId, since: i64) -> Vec<(i64, ScopeId, u64)> {
        let counts = self.store.use_counts(id, None, Timestamp(since), 100).await.unwrap().unwrap();
        counts.into_iter().map(|count| (count.day, count.scope_id, count.count)).collect()
    }
}

fn used(token_id: TokenId, address: &str, first: i64, last: i64) -> AddressUse {
    let address: ClientAddr = address.parse().unwrap();
    let entry = None;
    AddressUse { token_id, address, entry, first: Timestamp(first), last: Timestamp(last) }
}

fn shown(address: &str, first: i64, last: i64) -> (String, i64, i64) {
    (address.to_owned(), first, last)
}

/// Rule 12.2.
async fn addresses_merge_to_the_earliest_and_the_latest_time(f: Fixture) {
    let s = Stage::new(f).await;
    let [a, b] = [s.token().await, s.token().await];
    let before = s.f.position().await;
    s.record(&[used(a, "192.0.2.1", 50, 60), used(b, "192.0.2.1", 1, 2)]).await;
    // By another replica, which noted it earlier and writes it later; one address in another spelling.
    for _ in 0..2 {
        s.record(&[used(a, "::ffff:192.0.2.1", 40, 55), used(a, "2001:db8::1", 70, 70)]).await;
    }
    s.record(&[used(a, "192.0.2.1", 58, 65)]).await;
    assert_eq!(s.seen(a, 0).await, [shown("2001:db8::1", 70, 70), shown("192.0.2.1", 40, 65)]);
    assert_eq!(s.seen(b, 0).await, [shown("192.0.2.1", 1, 2)]);
    assert_eq!(s.seen(a, 66).await, [shown("2001:db8::1", 70, 70)], "since an instant");
    // Nothing caches it, so no replica has to be notified.
    assert_eq!(s.f.position().await, before);
    let other = s.f.account("other").await;
    let hidden = s.store.seen_addresses(a, Some(other), Timestamp(0)).await.unwrap();
    assert_eq!(hidden, None);
    assert_eq!(s.store.use_counts(a, Some(other), Timestamp(0), 9).await.unwrap(), None);
    assert_eq!(s.store.entry_matches(a, Some(other), Timestamp(0)).await.unwrap(), None);
}

/// Rule 12.1.
async fn the_latest_fifty_addresses_are_kept(f: Fixture) {
    let s = Stage::new(f).await;
    let [a, b] = [s.token().await, s.token().await];
    let many: Vec<_> = (0..130i64).map(|n| used(a, &format!("10.0.0.{n}"), n, n)).collect();
    s.record(&[used(b, "10.0.0.1", 0, 0)]).await;
    for some in many.chunks(40) {
        s.record(some).await;
        assert!(s.seen(a, 0).await.len() <= MAX_ADDRESSES);
    }
    let seen = s.seen(a, 0).await;
    assert_eq!((seen.len(), &seen[0].0[..], &seen[49].0[..]), (50, "10.0.0.129", "10.0.0.80"));
    assert_eq!(s.seen(b, 0).await.len(), 1);
    assert_eq!(s.f.number("SELECT count(*) FROM token_address").await, 51);
}

/// Rule 12.5.
async fn counts_add_up_by_day_and_scope(f: Fixture) {
    let s = Stage::new(f).await;
    let [a, b] = [s.token().await, s.token().await];
    let [read, ask] = [READ, ASK].map(|name| s.scope(name));
    let first = [s.count(a, READ, 7, 3), s.count(a, ASK, 7, 1), s.count(b, READ, 7, 9)];
    s.store.record_activity(&first, &[]).await.unwrap();
    s.store.record_activity(&[s.count(a, READ, 7, 40), s.count(a, READ, 8, 2)], &[]).await.unwrap();
    assert_eq!(s.counts(a, 0).await, [(8, read, 2), (7, read, 43), (7, ask, 1)]);
    assert_eq!(s.counts(b, 0).await, [(7, read, 9)]);
    assert_eq!(s.counts(a, 8 * DAY + 5).await, [(8, read, 2)], "the day of an instant is whole");
    let latest = s.store.use_counts(a, None, Timestamp(0), 1).await.unwrap().unwrap();
    assert_eq!(latest, [s.count(a, READ, 8, 2)]);
    s.store.record_activity(&[], &[]).await.unwrap();
}

async fn what_is_gone_spoils_nothing_else(f: Fixture) {
    let s = Stage::new(f).await;
    let [kept, deleted] = [s.token().await, s.token().await];
    s.store.delete_token(&ctx(10), deleted, None).await.unwrap();
    let never = TokenId(Uuid::now_v7());
    let no_scope = UseCount { scope_id: ScopeId(u16::MAX), ..s.count(kept, READ, 1, 1) };
    let counts = [
        s.count(never, READ, 1, 1),
        s.count(deleted, READ, 1, 4),
        no_scope,
        s.count(kept, READ, 1, 2),
    ];
    let addresses = [used(never, "::1", 1, 1), used(deleted, "::1", 1, 1), used(kept, "::1", 1, 1)];
    s.store.record_activity(&counts, &addresses).await.unwrap();
    assert_eq!(s.counts(kept, 0).await, [(1, s.scope(READ), 2)]);
    assert_eq!(s.seen(kept, 0).await.len(), 1);
    // What was counted before the deletion counts; an address that was erased with its account must not come back.
    assert_eq!(s.counts(deleted, 0).await, [(1, s.scope(READ), 4)]);
    assert_eq!(s.seen(deleted, 0).await, []);
    assert_eq!(s.store.seen_addresses(never, None, Timestamp(0)).await.unwrap(), None);
}

/// Rule 12.6.
async fn a_match_counts_for_its_entry_since_the_last_change(f: Fixture) {
    let s = Stage::new(f).await;
    let entry = |text: &str| Cidr::parse(text, &Limits::default()).unwrap();
    let [range, one] = [entry("10.0.0.0/24"), entry("10.0.0.1")];
    let token = s.token_of(s.account, "10.0.0.0/24,10.0.0.1").await;
    let matched = async |since| -> EntryMatches {
        s.store.entry_matches(token, None, Timestamp(since)).await.unwrap().unwrap()
    };
    let started = s.f.number("SELECT start_time FROM activity_record").await;
    let empty = matched(0).await;
    assert_eq!((empty.matches, empty.since), (Vec::new(), Timestamp(started)));
    let through =
        |address, entry, at| AddressUse { entry: Some(entry), ..used(token, address, at, at) };
    s.record(&[through("10.0.0.1", one, 30), through("10.0.0.9", range, 20)]).await;
    s.record(&[through("10.0.0.8", range, 25), through("10.0.0.7", range, 22)]).await;
    s.record(&[through("10.0.0.1", one, 29)]).await;
    let both = matched(0).await;
    assert_eq!(both.matches, [(range, Timestamp(25)), (one, Timestamp(30))]);
    assert_eq!(matched(26).await.matches, [(one, Timestamp(30))]);
    // What an entry that is new by then did not match says nothing.
    let later = started + DAY;
    let change = Change::Edit { add: vec![entry("10.0.1.1")], remove: Vec::new() };
    let target = WhitelistTarget { token_id: token, only: None, expected_version: None };
    let (ctx, limits) = (ctx(later), Limits::default());
    let changed = s.store.change_whitelist(&ctx, &s.catalog, target, &change, &limits, false);
    changed.await.unwrap().unwrap().unwrap();
    assert_eq!(matched(0).await.since, Timestamp(later));
}

/// Rule 12.3.
async fn what_is_older_than_the_window_is_forgotten(f: Fixture) {
    let s = Stage::new(f).await;
    let token = s.token().await;
    let entry = Some(Cidr::parse("10.0.0.0/24", &Limits::default()).unwrap());
    let addresses: Vec<_> = [(1, 3 * DAY), (2, 3 * DAY + 5), (3, 4 * DAY)]
        .map(|(n, last)| AddressUse { entry, ..used(token, &format!("10.0.0.{n}"), 0, last) })
        .to_vec();
    let counts: Vec<_> = (2..5).map(|day| s.count(token, READ, day, 1)).collect();
    s.store.record_activity(&counts, &addresses).await.unwrap();
    let before = Timestamp(3 * DAY + 5);
    assert_eq!(s.store.purge_activity(before, 1).await.unwrap(), 2);
    assert_eq!(s.store.purge_activity(before, 1).await.unwrap(), 0);
    let seen: Vec<_> = s.seen(token, 0).await.into_iter().map(|(address, ..)| address).collect();
    assert_eq!(seen, ["10.0.0.3", "10.0.0.2"]);
    assert_eq!(s.counts(token, 0).await.len(), 2, "a day is forgotten once all of it is");
    assert_eq!(s.store.purge_activity(Timestamp(5 * DAY), 10).await.unwrap(), 5);
    assert_eq!((s.seen(token, 0).await, s.counts(token, 0).await), (Vec::new(), Vec::new()));
}

/// Rules 11.76 and 12.4.
async fn what_was_seen_is_erased_when_the_account_is_closed(f: Fixture) {
    let s = Stage::new(f).await;
    let other = s.f.account("other").await;
    let tokens = [s.token().await, s.token().await];
    let bystander = s.token_of(other, "").await;
    for id in [tokens[0], tokens[1], bystander] {
        s.record(&[used(id, "10.0.0.1", 6, 6)]).await;
    }
    s.store.delete_token(&ctx(7), tokens[0], None).await.unwrap();
    s.store.close_account(&ctx(8), s.account, "acme").await.unwrap().unwrap();
    while s.store.continue_closure(&ctx(9), None, 10).await.unwrap().unwrap().more {}
    assert!(s.store.erase_activity(s.account, None, 10).await.unwrap().is_some());
    assert!(s.store.complete_closure(&ctx(9), s.account).await.unwrap());
    // What a replica has still to write comes too late.
    s.record(&[used(tokens[1], "10.0.0.2", 7, 7)]).await;
    for id in tokens {
        assert_eq!(s.seen(id, 0).await, []);
    }
    assert_eq!(s.seen(bystander, 0).await.len(), 1);
}

/// Rule 12.4.
async fn activity_goes_with_its_token_and_its_account(f: Fixture) {
    let s = Stage::new(f).await;
    let other = s.f.account("other").await;
    let [a, b] = [s.token().await, s.token_of(other, "").await];
    let entry = Some(Cidr::parse("10.0.0.0/24", &Limits::default()).unwrap());
    for id in [a, b] {
        let seen = AddressUse { entry, ..used(id, "10.0.0.1", 6, 6) };
        s.store.record_activity(&[s.count(id, READ, 1, 1)], &[seen]).await.unwrap();
    }
    let c = s.token_of(other, "").await;
    s.store.record_activity(&[], &[used(c, "10.0.0.1", 6, 6)]).await.unwrap();
    // Page by page, and no more than a page.
    let (first, last) = (b.min(c), b.max(c));
    assert_eq!(s.store.erase_activity(other, None, 1).await.unwrap(), Some(first));
    assert_eq!((s.seen(first, 0).await.len(), s.seen(last, 0).await.len()), (0, 1));
    assert_eq!(s.store.erase_activity(other, Some(first), 1).await.unwrap(), Some(last));
    assert_eq!(s.store.erase_activity(other, Some(last), 1).await.unwrap(), None);
    assert_eq!(s.seen(last, 0).await, Vec::new());
    s.store.close_account(&ctx(8), other, "other").await.unwrap().unwrap();
    while s.store.continue_closure(&ctx(8), None, 10).await.unwrap().unwrap().more {}
    assert_eq!((s.seen(a, 0).await.len(), s.seen(b, 0).await.len()), (1, 0));
    assert!(
        s.store.entry_matches(b, None, Timestamp(0)).await.unwrap().unwrap().matches.is_empty()
    );
    s.record(&[used(b, "10.0.0.1", 9, 9)]).await;
    assert_eq!(s.seen(b, 0).await.len(), 0, "a late flush brings nothing back");
    s.store.delete_token(&ctx(10), a, None).await.unwrap();
    assert_eq!(s.seen(a, 0).await.len(), 1, "who used a token is of interest after its end");
    s.store.purge(&ctx(20), Timestamp(15), 10).await.unwrap();
    for count in [
        "SELECT count(*) FROM token_address",
        "SELECT count(*) FROM whitelist_match",
        "SELECT count(*) FROM token_usage",
    ] {
        assert_eq!(s.f.number(count).await, 0, "{count}");
    }
}

/// Rules 12.2 and 12.5: two replicas write for the same tokens, in any order.
async fn two_writers_lose_nothing(f: Fixture) {
    let s = Stage::new(f).await;
    let mut tokens = Vec::new();
    for _ in 0..8 {
        tokens.push(s.token().await);
    }
    // SQLite has one process, and so one store.
    let second = match &s.f.place {
        Place::Sqlite(_) => s.store.clone(),
        place => place.open().await,
    };
    const ROUNDS: i64 = 20;
    let write = async |store: &Arc<dyn Store>, backwards: bool, offset: i64| {
        for round in 0..ROUNDS {
            let mut ids = tokens.clone();
            if backwards {
                ids.reverse();
            }
            let counts: Vec<_> = ids.iter().map(|&id| s.count(id, READ, 1, 1)).collect();
            let at = 2 * round + offset;
            let addresses: Vec<_> = ids.iter().map(|&id| used(id, "192.0.2.1", at, at)).collect();
            store.record_activity(&counts, &addresses).await.unwrap();
        }
    };
    tokio::join!(write(&s.store, false, 1), write(&second, true, 0));
    for id in tokens {
        assert_eq!(s.counts(id, 0).await, [(1, s.scope(READ), 2 * ROUNDS as u64)]);
        assert_eq!(s.seen(id, 0).await, [shown("192.0.2.1", 0, 2 * ROUNDS - 1)]);
    }
}
