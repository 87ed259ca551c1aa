//! Counts of use: how many requests of each token are allowed, by scope and day of UTC.
//!
//! They are counted in the cached tokens themselves ([`CachedToken::count_use`]). Here is the list of tokens to collect
//! them from. A token joins it when one of its uses is noted, so that counting needs no more than recording does.
//!
//! # Invariants
//! - A token leaves only when its next use is noted again, so that no count stays behind.
//! - Memory is bounded by [`MAX_ACTIVE`] and [`MAX_ARRIVALS`], and what one collection writes by its caller.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sdd::Shared;

use super::{SHARDS, shard_of};
use crate::cache::{BusyCounters, CachedToken, CollectedUses};
use crate::model::UseCount;
use crate::policy::id::TokenId;
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;

/// Tokens that counts are collected from. The uses of further ones are collected when their next one is noted, and are
/// lost where the cache forgets the token before that. Each keeps a cached token in memory for two minutes: 30 MiB.
const MAX_ACTIVE: usize = 1 << 16;
/// Tokens that may join one shard between two collections.
const MAX_ARRIVALS: usize = 1 << 10;
/// Counts that wait in one shard because the store did not take them, or their place was needed.
const MAX_WAITING: usize = 1 << 12;
/// Uses in a second from which on each thread counts a token and scope for itself, and below which it no longer does.
const BUSY_RATE: (u64, u64) = (10_000, 2_000);

/// Counts that wait, by token, scope and day.
pub(super) type Counts = BTreeMap<(TokenId, ScopeId, i64), u64>;

/// See the module.
#[derive(Debug)]
pub(super) struct ActiveTokens {
    /// The numbers behind the counters of busy tokens.
    pub(super) busy: BusyCounters,
    shards: [Mutex<Shard>; SHARDS],
    rotation: Mutex<Rotation>,
}

#[derive(Debug, Default)]
struct Shard {
    arrivals: Vec<(Shared<CachedToken>, Timestamp)>,
    waiting: Counts,
}

/// The tokens to collect from, in turn. Only the collector locks it.
#[derive(Debug)]
struct Rotation {
    tokens: Vec<ActiveToken>,
    /// Where each stands, by its address in memory, which stays as long as it is here.
    places: HashMap<usize, usize>,
    next: usize,
    slots: [Slot; BusyCounters::SLOTS],
}

#[derive(Debug)]
struct ActiveToken {
    token: Shared<CachedToken>,
    /// From then on, a use is noted again.
    until: Timestamp,
    collected: Timestamp,
}

/// Which counter has a slot of [`BusyCounters`].
#[derive(Debug)]
enum Slot {
    Free,
    Taken {
        token: Shared<CachedToken>,
        place: usize,
        last: CollectedUses,
    },
    /// Threads that read it before it was left may still add to it.
    Left {
        token_id: TokenId,
        last: CollectedUses,
    },
}

impl Default for ActiveTokens {
    fn default() -> Self {
        let rotation = Rotation {
            tokens: Vec::new(),
            places: HashMap::new(),
            next: 0,
            slots: [const { Slot::Free }; BusyCounters::SLOTS],
        };
        Self {
            busy: BusyCounters::default(),
            shards: Default::default(),
            rotation: Mutex::new(rotation),
        }
    }
}

impl ActiveTokens {
    fn shard(&self, id: TokenId) -> &Mutex<Shard> {
        &self.shards[shard_of(id)]
    }

    /// A use of the token was noted; until `until`, further ones are not. Where there is no room, it joins with its
    /// next noted use.
    pub(super) fn join(&self, token: Shared<CachedToken>, until: Timestamp) {
        let mut shard = self.shard(*token.id).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.arrivals.len() < MAX_ARRIVALS {
            shard.arrivals.push((token, until));
        }
    }

    /// Keeps a count until the next collection. Whether there was room.
    pub(super) fn buffer(&self, count: &UseCount) -> bool {
        let mut shard = self.shard(count.token_id).lock().unwrap_or_else(PoisonError::into_inner);
        let key = (count.token_id, count.scope_id, count.day);
        if shard.waiting.len() >= MAX_WAITING && !shard.waiting.contains_key(&key) {
            return false;
        }
        *shard.waiting.entry(key).or_default() += count.count;
        true
    }

    /// What one write of the store takes: what waits, and then of each active token in turn, until there are `most`.
    /// Those that had nothing, and whose next use is noted, leave.
    pub(super) fn collect(&self, now: Timestamp, most: usize) -> Vec<UseCount> {
        let mut counts = Counts::new();
        let mut rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let arrivals = std::mem::take(&mut shard.arrivals);
            while counts.len() < most
                && let Some((key, count)) = shard.waiting.pop_first()
            {
                counts.insert(key, count);
            }
            drop(shard);
            arrivals.into_iter().for_each(|(token, until)| rotation.join(token, until, now));
        }
        rotation.settle_slots(&self.busy, &mut counts);
        for _ in 0..rotation.tokens.len() {
            if counts.len() >= most {
                break;
            }
            rotation.visit_next(&self.busy, now, &mut counts);
        }
        let count =
            |((token_id, scope_id, day), count)| UseCount { token_id, scope_id, day, count };
        counts.into_iter().map(count).collect()
    }

    /// How many tokens there are.
    pub(super) fn len(&self) -> usize {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner).tokens.len()
    }
}

impl Rotation {
    fn join(&mut self, token: Shared<CachedToken>, until: Timestamp, now: Timestamp) {
        let address = (&raw const *token).addr();
        match self.places.get(&address) {
            Some(&at) => self.tokens[at].until = until.max(self.tokens[at].until),
            None if self.tokens.len() < MAX_ACTIVE => {
                self.places.insert(address, self.tokens.len());
                self.tokens.push(ActiveToken { token, until, collected: now });
            }
            None => {}
        }
    }

    fn visit_next(&mut self, busy: &BusyCounters, now: Timestamp, counts: &mut Counts) {
        self.next = if self.next < self.tokens.len() { self.next } else { 0 };
        let Some(active) = self.tokens.get_mut(self.next) else { return };
        let seconds = (now.0 - active.collected.0).max(1_000_000) as u64 / 1_000_000;
        active.collected = now;
        let (token, until) = (active.token.clone(), active.until);
        let mut used = false;
        for (place, collected) in token.collect(busy) {
            used = true;
            add(counts, *token.id, collected);
            let rate = collected.count / seconds;
            match token.busy_slot(place) {
                None if rate >= BUSY_RATE.0 => {
                    self.make_busy(&token, place, collected, busy, counts)
                }
                Some(slot) if rate < BUSY_RATE.1 => {
                    self.end_busy(&token, place, slot, collected, busy, counts);
                }
                _ => {}
            }
        }
        if used || now < until {
            self.next += 1;
            return;
        }
        for place in 0..CachedToken::PLACES {
            let Some(slot) = token.busy_slot(place) else { continue };
            if let Slot::Taken { last, .. } = self.slots[slot] {
                self.end_busy(&token, place, slot, last, busy, counts);
            }
        }
        self.remove(self.next);
    }

    fn make_busy(
        &mut self,
        token: &Shared<CachedToken>,
        place: usize,
        last: CollectedUses,
        busy: &BusyCounters,
        counts: &mut Counts,
    ) {
        let free = self.slots.iter().position(|slot| matches!(slot, Slot::Free));
        let Some(slot) = free else { return };
        self.slots[slot] = Slot::Taken { token: token.clone(), place, last };
        let until_now = token.make_busy(place, slot, busy);
        until_now.into_iter().for_each(|collected| add(counts, *token.id, collected));
    }

    /// Has all threads count in the token again. Some may still add to the slot.
    fn end_busy(
        &mut self,
        token: &Shared<CachedToken>,
        place: usize,
        slot: usize,
        last: CollectedUses,
        busy: &BusyCounters,
        counts: &mut Counts,
    ) {
        let rest = token.end_busy(place, busy);
        rest.into_iter().for_each(|rest| add(counts, *token.id, rest));
        self.slots[slot] = Slot::Left { token_id: *token.id, last };
    }

    /// Frees the slots that were left a collection ago, and leaves those whose counter is another scope's by now.
    fn settle_slots(&mut self, busy: &BusyCounters, counts: &mut Counts) {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            match slot {
                Slot::Free => {}
                Slot::Taken { token, place, last } => {
                    if token.busy_slot(*place) != Some(at) {
                        *slot = Slot::Left { token_id: *token.id, last: *last };
                    }
                }
                Slot::Left { token_id, last } => {
                    let count = busy.rest(at);
                    if count > 0 {
                        add(counts, *token_id, CollectedUses { count, ..*last });
                    }
                    *slot = Slot::Free;
                }
            }
        }
    }

    fn remove(&mut self, at: usize) {
        let removed = self.tokens.swap_remove(at);
        self.places.remove(&(&raw const *removed.token).addr());
        if let Some(moved) = self.tokens.get(at) {
            self.places.insert((&raw const *moved.token).addr(), at);
        }
    }
}

fn add(counts: &mut Counts, token_id: TokenId, collected: CollectedUses) {
    let CollectedUses { scope_id, day, count } = collected;
    *counts.entry((token_id, scope_id, day)).or_default() += count;
}

/// How many counts one write takes at the least, and within which time each active token has its turn. Uses are noted
/// once a minute as well: counting them writes no more rows than that, and up to the first number at once.
const WRITE: (usize, Duration) = (256, Duration::from_secs(60));

/// How many counts a write takes that is repeated after `interval`, with so many active tokens.
pub(super) fn share(active: usize, interval: Duration) -> usize {
    let turns = (WRITE.1.as_secs_f64() / interval.as_secs_f64().max(0.001)).max(1.0);
    WRITE.0.max((active as f64 / turns).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::policy::id::AccountId;
    use crate::policy::network::Whitelist;
    use crate::policy::token::{Expiry, Grant, TokenFacts, TokenState};

    const MINUTE: i64 = 60_000_000;
    const SCOPE: ScopeId = ScopeId(1);

    fn token(id: u128) -> Shared<CachedToken> {
        Shared::new(CachedToken::new(TokenFacts {
            id: TokenId(Uuid::from_u128(id)).into(),
            account_id: AccountId(Uuid::nil()).into(),
            digest: [0; 32],
            state: TokenState::Active,
            expiry: Expiry::NEVER,
            grant: Grant::ReadWrite,
            whitelist: Whitelist::Unrestricted,
            announced: Vec::new(),
        }))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    /// As `Usage::note` does it.
    fn note(active: &ActiveTokens, token: &Shared<CachedToken>, seconds: i64) {
        if token.count_use(SCOPE, at(seconds), MINUTE, &active.busy).is_some() {
            active.join(token.clone(), at(seconds + 61));
        }
    }

    fn sum(counts: &[UseCount]) -> u64 {
        counts.iter().map(|count| count.count).sum()
    }

    #[test]
    fn a_token_leaves_after_its_uses_are_collected_and_comes_back() {
        let (active, token) = (ActiveTokens::default(), token(1));
        (0..3).for_each(|_| note(&active, &token, 100));
        assert_eq!(sum(&active.collect(at(101), 10)), 3);
        note(&active, &token, 159);
        assert_eq!(sum(&active.collect(at(160), 10)), 1, "a use that was not noted");
        assert_eq!(sum(&active.collect(at(160), 10)), 0);
        assert_eq!(active.len(), 1, "its next use may not be noted yet");
        assert_eq!(sum(&active.collect(at(161), 10)), 0);
        assert_eq!(active.len(), 0);
        note(&active, &token, 161);
        assert_eq!(sum(&active.collect(at(162), 10)), 1);
    }

    #[test]
    fn a_write_takes_no_more_than_it_is_asked_for_and_each_token_has_its_turn() {
        let active = ActiveTokens::default();
        let tokens: Vec<_> = (0..500).map(token).collect();
        tokens.iter().for_each(|token| note(&active, token, 100));
        let mut collected = std::collections::BTreeSet::new();
        for round in 0..5 {
            let counts = active.collect(at(101 + round), 100);
            assert_eq!(counts.len(), 100);
            collected.extend(counts.iter().map(|count| count.token_id));
        }
        assert_eq!(collected.len(), 500);
        assert_eq!(share(500, Duration::from_secs(1)), 256);
        assert_eq!(share(60_000, Duration::from_secs(1)), 1_000);
        assert_eq!(share(60_000, Duration::from_millis(100)), 256);
    }

    /// The counter of a busy token is each thread's own; it stays right, and ends with the load.
    #[test]
    fn a_busy_token_is_counted_by_each_thread_for_itself() {
        let (active, token) = (ActiveTokens::default(), token(1));
        let mut counted = 0;
        for second in 0..4 {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        (0..BUSY_RATE.0).for_each(|_| note(&active, &token, 100 + second));
                    });
                }
            });
            counted += sum(&active.collect(at(101 + second), 10));
            assert!(token.busy_slot(0).is_some());
        }
        note(&active, &token, 105);
        counted += sum(&active.collect(at(106), 10));
        assert_eq!(token.busy_slot(0), None);
        counted += sum(&active.collect(at(107), 10));
        assert_eq!(counted, 4 * 4 * BUSY_RATE.0 + 1);
        // Unused, it leaves, and its slot is free again.
        let mut slots = active.rotation.lock().unwrap();
        slots.settle_slots(&active.busy, &mut Counts::new());
        assert!(slots.slots.iter().all(|slot| matches!(slot, Slot::Free)));
    }

    #[test]
    fn what_was_not_written_waits_within_bounds() {
        let active = ActiveTokens::default();
        let count = |id: u128| UseCount {
            token_id: TokenId(Uuid::from_u128(id)),
            scope_id: SCOPE,
            day: 1,
            count: 2,
        };
        let kept = (0..100_000).filter(|&id| active.buffer(&count(id))).count();
        assert_eq!(kept, MAX_WAITING * SHARDS);
        assert!(active.buffer(&count(0)), "what waits already needs no more room");
        let counts = active.collect(at(0), usize::MAX);
        assert_eq!((counts.len(), sum(&counts)), (kept, 2 * kept as u64 + 2));
    }
}
