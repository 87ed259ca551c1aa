//! Facts with what was recorded of their use lately, so that a token in steady use costs a few loads: the last noted
//! use of each scope, uses that wait to be counted, and the last noted address.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use prefetch_index::prefetch_index;

use super::imports;
use super::use_counter::{BusyCounters, UseCounter};
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenFacts;
use crate::secret::{self, Digest};

/// Scopes that are remembered at once. A token that uses more of them in turn is noted more often
/// than need be, and nothing else.
const SCOPES: usize = 4;
const TIME: u64 = (1 << 48) - 1;
const DAY_MILLIS: u64 = 24 * 60 * 60 * 1_000;

/// A cache line.
#[derive(Debug)]
#[repr(align(64))]
#[expect(dead_code, reason = "only where it would lie counts")]
struct Line([u8; 64]);

/// The facts of a token, as they are cached.
#[derive(Debug)]
#[repr(C)]
pub struct CachedToken {
    /// None: all of this begins with a cache line, and here is where.
    lines: [Line; 0],
    facts: TokenFacts,
    // What follows fills the last cache line: a use reads and writes no other one. One more byte would need another.
    /// A scope's number, and the time of the noted use in milliseconds.
    noted: [AtomicU64; SCOPES],
    /// Uses of the scope at the same place, on the day of UTC of the noted one, that nobody has collected.
    counts: [UseCounter; SCOPES],
    /// The last noted address.
    address: AtomicU64,
}

/// Uses of a cached token that were collected: of one scope, on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectedUses {
    /// What was used.
    pub scope_id: ScopeId,
    /// As [`Timestamp::day`] counts.
    pub day: i64,
    /// How often; at least 1.
    pub count: u64,
}

/// An address as caches remember it: 24 bits of a keyed hash, and the time in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct AddressMark(u64);

impl AddressMark {
    const TIME: u64 = (1 << 40) - 1;

    /// Of an address with this hash at `now`. The lower half of the hash stays free for a place in a table.
    pub fn new(hash: u64, now: Timestamp) -> Self {
        Self((hash & !Self::TIME) | (millis(now.0) & Self::TIME))
    }

    /// Whether `cell` has the same address with a time that is less than `grain` microseconds before.
    pub fn is_fresh_in(self, cell: &AtomicU64, grain: i64) -> bool {
        let noted = cell.load(Ordering::Relaxed);
        // A clock that was set back makes it old.
        let age = self.0.wrapping_sub(noted) & Self::TIME;
        (self.0 ^ noted) & !Self::TIME == 0 && age < millis(grain).max(1)
    }

    /// Replaces what `cell` has.
    pub fn put_into(self, cell: &AtomicU64) {
        cell.store(self.0, Ordering::Relaxed);
    }
}

fn millis(micros: i64) -> u64 {
    u64::try_from(micros / 1_000).unwrap_or(0) & TIME
}

impl CachedToken {
    /// Places that count.
    pub const PLACES: usize = SCOPES;

    /// Nothing noted yet.
    pub fn new(facts: TokenFacts) -> Self {
        Self {
            lines: [],
            facts,
            noted: [const { AtomicU64::new(0) }; SCOPES],
            counts: Default::default(),
            address: AtomicU64::new(0),
        }
    }

    /// Whether it is the token that was imported with this digest, from which `half`, the random half of its id,
    /// follows. The id of a token that was made here does not follow from its digest.
    pub(super) fn is_imported_as(&self, digest: &Digest, half: u64) -> bool {
        imports::half(*self.id) == half && secret::digest_eq(&self.digest, digest)
    }

    /// Prefetches all of it but what it points to, and waits for nothing: facts at rest lie on several
    /// cache lines, which then come together.
    pub(super) fn fetch(&self) {
        (0..size_of::<Self>() / size_of::<Line>()).for_each(|at| prefetch_index(&self.lines, at));
    }

    /// Counts a use of `scope` at `now`. `Some` where it is to be noted: no use was within `grain` microseconds before,
    /// or none on this day of UTC. Takes note that it is; the uses that were counted until then are collected.
    pub fn count_use(
        &self,
        scope: ScopeId,
        now: Timestamp,
        grain: i64,
        busy: &BusyCounters,
    ) -> Option<Option<CollectedUses>> {
        let now = millis(now.0);
        let place = self
            .noted
            .iter()
            .position(|noted| noted.load(Ordering::Relaxed) >> 48 == u64::from(scope.0))
            .unwrap_or_else(|| self.oldest_place());
        let (noted, counter) = (self.noted[place].load(Ordering::Relaxed), &self.counts[place]);
        let (same, time) = (noted >> 48 == u64::from(scope.0), noted & TIME);
        let day_start = now - now % DAY_MILLIS;
        if same && (day_start..=now).contains(&time) && now - time < millis(grain).max(1) {
            counter.add(busy);
            return None;
        }
        let count = if same { counter.take(busy) } else { counter.clear(busy) };
        self.noted[place].store(u64::from(scope.0) << 48 | now, Ordering::Relaxed);
        counter.add(busy);
        Some(collected(noted, count))
    }

    /// The place that is free, or was noted longest ago: scopes displace each other only where more are in use.
    fn oldest_place(&self) -> usize {
        let time = |&place: &usize| self.noted[place].load(Ordering::Relaxed) & TIME;
        (0..SCOPES).min_by_key(time).unwrap_or(0)
    }

    /// Whether `mark` is the last noted address, noted less than `grain` microseconds before.
    pub fn knows_address(&self, mark: AddressMark, grain: i64) -> bool {
        mark.is_fresh_in(&self.address, grain)
    }

    /// Takes note of an address.
    pub fn note_address(&self, mark: AddressMark) {
        mark.put_into(&self.address);
    }

    /// The uses that were counted since they were collected last, with their places.
    pub fn collect(&self, busy: &BusyCounters) -> impl Iterator<Item = (usize, CollectedUses)> {
        let both = self.noted.iter().zip(&self.counts).enumerate();
        both.filter_map(|(place, (noted, counter))| {
            let noted = noted.load(Ordering::Relaxed);
            Some((place, collected(noted, counter.take(busy))?))
        })
    }

    /// Has each thread count for itself at `place`. `slot` is of no other counter.
    pub fn make_busy(
        &self,
        place: usize,
        slot: usize,
        busy: &BusyCounters,
    ) -> Option<CollectedUses> {
        let noted = self.noted[place].load(Ordering::Relaxed);
        collected(noted, self.counts[place].make_busy(slot, busy))
    }

    /// Ends that.
    pub fn end_busy(&self, place: usize, busy: &BusyCounters) -> Option<CollectedUses> {
        let noted = self.noted[place].load(Ordering::Relaxed);
        collected(noted, self.counts[place].clear(busy))
    }

    /// The slot in which threads count at `place`, if they do.
    pub fn busy_slot(&self, place: usize) -> Option<usize> {
        self.counts[place].busy_slot()
    }
}

/// Uses that were counted under this note.
fn collected(noted: u64, count: u64) -> Option<CollectedUses> {
    let scope_id = ScopeId((noted >> 48) as u16);
    let day = (noted & TIME) / DAY_MILLIS;
    (count > 0).then_some(CollectedUses { scope_id, day: day as i64, count })
}

impl Deref for CachedToken {
    type Target = TokenFacts;

    fn deref(&self) -> &TokenFacts {
        &self.facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::decide::tests::facts;

    #[test]
    fn facts_begin_with_a_cache_line_and_end_with_one() {
        assert_eq!(std::mem::offset_of!(CachedToken, lines), 0);
        assert_eq!(
            (align_of::<CachedToken>(), size_of::<CachedToken>() % size_of::<Line>()),
            (64, 0)
        );
        // What a use reads and writes is on one line, and no line is there for a few bytes of it.
        let last_line = size_of::<CachedToken>() / size_of::<Line>() - 1;
        assert_eq!(std::mem::offset_of!(CachedToken, noted) / size_of::<Line>(), last_line);
    }

    const MINUTE: i64 = 60_000_000;

    fn token() -> CachedToken {
        CachedToken::new(facts(1))
    }

    #[test]
    fn a_use_is_news_once_a_grain() {
        let (known, busy) = (token(), BusyCounters::default());
        let at = |scope, seconds: i64| {
            known.count_use(ScopeId(scope), Timestamp(seconds * 1_000_000), MINUTE, &busy).is_some()
        };
        // 0 looks like a place that is empty.
        for scope in [0, 1, 65_535] {
            assert!(at(scope, 1_000), "{scope}: the first use");
            assert!(!at(scope, 1_059), "{scope}: within the grain");
            assert!(at(scope, 1_060), "{scope}: after it");
            assert!(!at(scope, 1_060), "{scope}: at the same time");
        }
        assert!(at(5, 1_061) && !at(1, 1_062), "there is a place for each of four scopes");
        assert!(at(9, 1_063) && at(0, 1_064), "of five, the one noted longest ago gives way");
        assert!(at(9, 900), "a clock that was set back");
        let midnight = 86_400;
        assert!(at(2, midnight - 1) && at(2, midnight), "another day");
    }

    #[test]
    fn each_use_is_counted_once_for_its_scope_and_day() {
        let (known, busy) = (token(), BusyCounters::default());
        let mut counts = std::collections::BTreeMap::new();
        let mut keep = |collected: CollectedUses| {
            *counts.entry((collected.day, collected.scope_id.0)).or_insert(0) += collected.count;
        };
        let midnight = 86_400;
        // More scopes than places.
        let uses = [(1, -3), (1, -2), (5, -2), (1, -1), (2, -1), (7, -1), (9, -1)]
            .into_iter()
            .chain([(1, 0), (1, 1), (2, 1), (2, 2)]);
        for (scope, seconds) in uses {
            let now = Timestamp((midnight + seconds) * 1_000_000);
            known.count_use(ScopeId(scope), now, MINUTE, &busy).flatten().map(&mut keep);
        }
        known.collect(&busy).for_each(|(_, collected)| keep(collected));
        assert_eq!(known.collect(&busy).count(), 0);
        let first = [((0, 1), 3), ((0, 2), 1), ((0, 5), 1), ((0, 7), 1), ((0, 9), 1)];
        let wanted = first.into_iter().chain([((1, 1), 2), ((1, 2), 2)]).collect();
        assert_eq!(counts, wanted);
    }

    #[test]
    fn an_address_is_known_for_a_grain() {
        let known = token();
        let mark =
            |hash: u64, seconds: i64| AddressMark::new(hash << 40, Timestamp(seconds * 1_000_000));
        let is_known = |hash, seconds| known.knows_address(mark(hash, seconds), MINUTE);
        assert!(!is_known(7, 1_000));
        known.note_address(mark(7, 1_000));
        assert!(is_known(7, 1_000) && is_known(7, 1_059));
        assert!(!is_known(7, 1_060) && !is_known(8, 1_001) && !is_known(7, 999));
    }
}
