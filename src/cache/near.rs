//! The near cache: the tokens that decisions ask for again and again, one cache line and a pointer away.
//!
//! The second-level cache has everything that is cached and decides what to evict. Among many tokens at random it waits
//! for main memory several times, the near cache about once. A bucket is one cache line: seven slots, and a tag
//! for each, which says whether following the slot's pointer is worth it. An entry whose bucket is full replaces another
//! one, which is then found in the second-level cache.
//!
//! There are as few buckets as possible: the smaller the table, the more of it stays in the processor's caches. When
//! a quarter of the slots is taken, the number of buckets doubles. Half of the entries belong elsewhere then: they are
//! looked up there, and are put there from the second-level cache. Where they were before, nothing looks any more.
//!
//! Memory is reclaimed by epochs, so many lookups under one guard cost no more than the loads themselves.
//!
//! # Invariants
//! - A lookup takes no lock and writes nothing that is shared.
//! - An entry that was removed before a lookup began is not found by it.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use prefetch_index::prefetch_index;
use sdd::{AtomicShared, Guard, Shared, Tag};

use super::entry::CachedToken;
use crate::policy::id::TokenId;

/// Slots of a bucket, which with their tags fill a cache line.
const SLOTS: usize = 7;
/// Buckets that are made at once, when the first of them is needed: so many that what leads to them stays in
/// the processor's cache.
const PAGE: usize = 1024;
/// The most facts there is room for, however many tokens may be cached.
const MOST: u64 = 1 << 24;

#[repr(align(64))]
struct Bucket {
    /// A byte for each place, which is 0 where the place is empty.
    tags: AtomicU64,
    slots: [AtomicShared<CachedToken>; SLOTS],
}

impl Bucket {
    fn empty() -> Self {
        Self { tags: AtomicU64::new(0), slots: [const { AtomicShared::null() }; SLOTS] }
    }

    /// Gives how many more places are taken by it: one, none, or one less.
    fn set(&self, slot: usize, tag: u8, facts: Option<Shared<CachedToken>>) -> isize {
        // Readers believe the facts and never the tag, so the order of the two does not matter.
        let now = isize::from(facts.is_some());
        let (before, _) = self.slots[slot].swap((facts, Tag::None), Ordering::AcqRel);
        let mut tags = self.tags.load(Ordering::Relaxed).to_le_bytes();
        tags[slot] = tag;
        self.tags.store(u64::from_le_bytes(tags), Ordering::Release);
        now - isize::from(before.is_some())
    }

    /// The places that may have the facts of an id with this tag, mostly one: a bit of each one's byte. Found
    /// without a branch, which would be guessed wrong nearly always.
    fn candidates(&self, tag: u8) -> u64 {
        const EACH: u64 = 0x0001_0101_0101_0101;
        let others = self.tags.load(Ordering::Acquire) ^ (EACH * u64::from(tag));
        others.wrapping_sub(EACH) & !others & (EACH << 7)
    }

    /// Asked by whoever writes, who may believe the tags.
    fn place_of(&self, id: TokenId, tag: u8, guard: &Guard) -> Option<usize> {
        let tags = self.tags.load(Ordering::Relaxed).to_le_bytes();
        let of_it = |slot| self.get(slot, guard).is_some_and(|facts| *facts.id == id);
        (0..SLOTS).find(|&slot| tags[slot] == tag && of_it(slot))
    }

    fn get<'g>(&self, slot: usize, guard: &'g Guard) -> Option<&'g CachedToken> {
        self.slots[slot].load(Ordering::Acquire, guard).as_ref()
    }
}

/// See the module.
pub(super) struct NearCache {
    /// As many as there may ever be; a power of two.
    pages: Box<[OnceLock<Box<[Bucket; PAGE]>>]>,
    /// How many of them are looked into: a power of two that only grows. Written by whoever holds `taken`.
    in_use: AtomicUsize,
    /// How many places are taken. Held by whoever writes.
    taken: Mutex<usize>,
}

impl fmt::Debug for NearCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NearCache").field("pages", &self.pages.len()).finish_non_exhaustive()
    }
}

/// Where an id belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Address {
    page: usize,
    bucket: usize,
    tag: u8,
}

impl Address {
    /// Where `id` belongs among `pages`, a power of two. All from its random half, which no caller can choose
    /// (see `secret`).
    fn of(id: TokenId, pages: usize) -> Self {
        let random = id.0.as_u64_pair().1;
        let tag = (random & 0xff) as u8;
        let bucket = (random >> 8) as usize;
        Self { page: (bucket / PAGE) & (pages - 1), bucket: bucket % PAGE, tag: tag.max(1) }
    }
}

impl NearCache {
    /// Room for about `capacity` facts at the most. Two thirds of all places stay free then, so that few
    /// buckets are ever full.
    pub(super) fn new(capacity: u64) -> Self {
        let buckets = (capacity.min(MOST) * 3 / SLOTS as u64).next_power_of_two();
        let pages = usize::try_from(buckets).unwrap_or(PAGE).div_ceil(PAGE);
        Self {
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            in_use: AtomicUsize::new(1),
            taken: Mutex::default(),
        }
    }

    fn address(&self, id: TokenId) -> Address {
        Address::of(id, self.in_use.load(Ordering::Acquire))
    }

    fn bucket(&self, address: Address) -> Option<&Bucket> {
        Some(&self.pages[address.page].get()?[address.bucket])
    }

    /// Prefetches the bucket of `id`.
    pub(super) fn prefetch_bucket(&self, id: TokenId) {
        let Address { page, bucket, .. } = self.address(id);
        if let Some(page) = self.pages[page].get() {
            prefetch_index(page.as_slice(), bucket);
        }
    }

    /// Prefetches the entry of `id`; `false` where there is none.
    pub(super) fn prefetch_entry(&self, id: TokenId, guard: &Guard) -> bool {
        self.candidates(id, guard).inspect(|facts| facts.fetch()).count() > 0
    }

    /// The entry of `id`, if there is one. It stays as long as the guard does.
    pub(super) fn get<'g>(&self, id: TokenId, guard: &'g Guard) -> Option<&'g CachedToken> {
        // The first access waits for one of its cache lines; so all of them are prefetched.
        self.candidates(id, guard).inspect(|facts| facts.fetch()).find(|facts| *facts.id == id)
    }

    /// The entries in the bucket of `id` that have its tag.
    fn candidates<'g>(
        &self,
        id: TokenId,
        guard: &'g Guard,
    ) -> impl Iterator<Item = &'g CachedToken> {
        let address = self.address(id);
        let bucket = self.bucket(address);
        let mut left = bucket.map_or(0, |bucket| bucket.candidates(address.tag));
        std::iter::from_fn(move || {
            let slot = (left != 0).then(|| left.trailing_zeros() as usize / 8)?;
            left &= left - 1;
            Some(bucket?.get(slot, guard))
        })
        .flatten()
    }

    /// Puts `facts` in, unless they are not `current` any more. That is checked while nothing else writes, so a
    /// caller that makes them outdated first and then removes them leaves nothing behind.
    pub(super) fn put(&self, facts: Shared<CachedToken>, current: impl FnOnce() -> bool) {
        let id = *facts.id;
        let mut taken = self.lock();
        if !current() {
            return;
        }
        let in_use = self.in_use.load(Ordering::Relaxed);
        if in_use < self.pages.len() && *taken > in_use * PAGE * SLOTS / 4 {
            self.in_use.store(in_use * 2, Ordering::Release);
        }
        let address = self.address(id);
        let page = self.pages[address.page]
            .get_or_init(|| Box::new(std::array::from_fn(|_| Bucket::empty())));
        let bucket = &page[address.bucket];
        let guard = Guard::new();
        // Replaced in place: a concurrent lookup finds the one or the other.
        let slot = bucket.place_of(id, address.tag, &guard).unwrap_or_else(|| {
            // From where it belonged before.
            self.take_out(id, None, &mut taken);
            let tags = bucket.tags.load(Ordering::Relaxed).to_le_bytes();
            let free = tags[..SLOTS].iter().position(|&tag| tag == 0);
            free.unwrap_or((id.0.as_u64_pair().1 >> 40) as usize % SLOTS)
        });
        if !bucket.get(slot, &guard).is_some_and(|found| std::ptr::eq(&raw const *facts, found)) {
            let more = bucket.set(slot, address.tag, Some(facts));
            *taken = taken.saturating_add_signed(more);
        }
    }

    /// Forgets `id`, or only these facts of it.
    pub(super) fn forget(&self, id: TokenId, only: Option<&Shared<CachedToken>>) {
        self.take_out(id, only, &mut self.lock());
    }

    /// Wherever it is or was, which is at one place at most: what nobody finds any more would still take that,
    /// and memory.
    fn take_out(&self, id: TokenId, only: Option<&Shared<CachedToken>>, taken: &mut usize) {
        let guard = Guard::new();
        let mut before = None;
        let mut pages = self.in_use.load(Ordering::Relaxed);
        while pages > 0 {
            let address = Address::of(id, pages);
            pages /= 2;
            // Fewer pages often mean the same one.
            if before.replace(address) == Some(address) {
                continue;
            }
            let Some(bucket) = self.bucket(address) else { continue };
            if let Some(slot) = bucket.place_of(id, address.tag, &guard)
                && let Some(found) = bucket.get(slot, &guard)
                && only.is_none_or(|only| std::ptr::eq(&raw const **only, found))
            {
                *taken = taken.saturating_add_signed(bucket.set(slot, 0, None));
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut taken = self.lock();
        for bucket in self.pages.iter().filter_map(OnceLock::get).flat_map(|page| page.iter()) {
            (0..SLOTS).for_each(|slot| {
                bucket.set(slot, 0, None);
            });
        }
        *taken = 0;
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::policy::id::AccountId;
    use crate::policy::network::Whitelist;
    use crate::policy::token::{Grant, TokenFacts, TokenState};

    fn facts(id: u128) -> Shared<CachedToken> {
        Shared::new(CachedToken::new(TokenFacts {
            id: TokenId(Uuid::from_u128(id)).into(),
            account_id: AccountId(Uuid::from_u128(1)).into(),
            digest: [0; 32],
            state: TokenState::Active,
            grant: Grant::ReadWrite,
            whitelist: Whitelist::Unrestricted,
            announced: Vec::new(),
        }))
    }

    fn found(near: &NearCache, facts: &Shared<CachedToken>) -> bool {
        let guard = Guard::new();
        near.get(*facts.id, &guard).is_some_and(|found| std::ptr::eq(found, &raw const **facts))
    }

    #[test]
    fn a_bucket_is_one_cache_line() {
        assert_eq!(size_of::<Bucket>(), 64);
    }

    proptest! {
        #[test]
        fn every_place_with_the_tag_is_a_candidate(tags: [u8; SLOTS], tag in 1u8..) {
            let mut bytes = [0; 8];
            bytes[..SLOTS].copy_from_slice(&tags);
            let bucket = Bucket::empty();
            bucket.tags.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            let found = bucket.candidates(tag);
            prop_assert_eq!(found & !0x0080_8080_8080_8080, 0, "no place");
            for (slot, &has) in tags.iter().enumerate() {
                prop_assert!(has != tag || found >> (8 * slot) & 0x80 != 0, "{} is missed", slot);
            }
        }
    }

    #[test]
    fn what_is_put_is_found_until_it_is_forgotten() {
        let near = NearCache::new(1_000);
        // One bucket, one tag: nothing but the ids tells them apart.
        let all: Vec<_> = (0..7).map(|n| facts(n << 64 | 0x1234)).collect();
        for facts in &all {
            assert!(near.get(*facts.id, &Guard::new()).is_none());
            near.put(facts.clone(), || true);
        }
        assert!(all.iter().all(|facts| found(&near, facts)));

        let newer = facts(0x1234);
        near.put(newer.clone(), || true);
        assert!(found(&near, &newer) && !found(&near, &all[0]));
        near.forget(*newer.id, Some(&all[0]));
        assert!(found(&near, &newer), "other facts of the same token were to be forgotten");
        near.forget(*newer.id, None);
        assert!(near.get(*newer.id, &Guard::new()).is_none());
        assert!(all[1..].iter().all(|facts| found(&near, facts)));

        near.clear();
        assert!(all.iter().all(|facts| near.get(*facts.id, &Guard::new()).is_none()));
    }

    /// An id whose random half is this number.
    fn numbered(number: u64) -> Shared<CachedToken> {
        facts(u128::from(number))
    }

    #[test]
    fn what_is_put_again_after_growing_is_where_it_belongs_and_nowhere_else() {
        let near = NearCache::new(100_000);
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let all = std::iter::repeat_with(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            numbered(random)
        });
        let all: Vec<_> = all.take(20_000).collect();
        let mut sizes = vec![near.in_use.load(Ordering::Relaxed)];
        for facts in &all {
            near.put(facts.clone(), || true);
            assert!(found(&near, facts));
            sizes.push(near.in_use.load(Ordering::Relaxed));
        }
        sizes.dedup();
        assert_eq!(sizes, [1, 2, 4, 8, 16], "it grows step by step, and keeps three quarters free");

        // Those that were put before it grew last are not all found, until they are asked for again.
        let lost = all.iter().filter(|facts| !found(&near, facts)).count();
        assert!((1..all.len() / 2).contains(&lost), "{lost}");
        all.iter().for_each(|facts| near.put(facts.clone(), || true));
        assert!(all.iter().filter(|facts| found(&near, facts)).count() > all.len() * 999 / 1000);
        assert_eq!(copies(&near), *near.lock(), "what is taken is counted");
        assert!(copies(&near) <= all.len(), "something is kept twice");
        assert_eq!(near.in_use.load(Ordering::Relaxed), 16, "what is put again takes no more room");
    }

    #[test]
    fn what_is_forgotten_is_kept_nowhere_even_where_it_was_before_growing() {
        let near = NearCache::new(100_000);
        // Belongs elsewhere in each size, and is put in the smallest only.
        let early = numbered(u64::MAX << 16 | 0x1234);
        near.put(early.clone(), || true);
        let others = (1..).map(|n: u64| numbered(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let others: Vec<_> = others.take(4 * PAGE * SLOTS).collect();
        others.iter().for_each(|facts| near.put(facts.clone(), || true));
        assert!(near.in_use.load(Ordering::Relaxed) > 4 && !found(&near, &early));

        let before = copies(&near);
        near.forget(*early.id, Some(&others[0]));
        assert_eq!(copies(&near), before, "other facts were to be forgotten");
        near.forget(*early.id, None);
        assert_eq!((copies(&near), *near.lock()), (before - 1, before - 1));
        near.clear();
        assert_eq!((copies(&near), *near.lock()), (0, 0));
    }

    /// Others put it again, and the table grows under it: facts that stay are found at every look, but for the
    /// moment after it grew; what was forgotten is found by none.
    #[test]
    fn looks_beside_changes_and_growth() {
        let near = NearCache::new(100_000);
        let stays = numbered(u64::MAX << 16 | 0x1234);
        let changes = TokenId(Uuid::from_u128((u64::MAX << 17 | 0x4321).into()));
        let of_turn = |turn: u64| {
            let mut facts = TokenFacts::clone(&facts(changes.0.as_u128()));
            facts.account_id = AccountId(Uuid::from_u128(turn.into())).into();
            Shared::new(CachedToken::new(facts))
        };
        let (turn, done) = (AtomicU64::new(0), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Acquire) {
                        let now = turn.load(Ordering::Acquire);
                        near.put(of_turn(now), || turn.load(Ordering::Acquire) == now);
                        near.put(stays.clone(), || true);
                    }
                });
            }
            scope.spawn(|| {
                let (mut looked, mut found_it) = (0_u32, 0_u32);
                while !done.load(Ordering::Acquire) {
                    let before = near.in_use.load(Ordering::Acquire);
                    near.put(stays.clone(), || true);
                    let found = found(&near, &stays);
                    looked += 1;
                    found_it += u32::from(found);
                    assert!(found || before != near.in_use.load(Ordering::Acquire), "it was away");
                }
                assert!(found_it > 0, "{looked} looks");
            });
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let now = turn.fetch_add(1, Ordering::AcqRel) + 1;
                    near.forget(changes, None);
                    let guard = Guard::new();
                    if let Some(found) = near.get(changes, &guard) {
                        let of = found.account_id.0.as_u128();
                        assert!(of >= now.into(), "of turn {of}, forgotten at {now}");
                    }
                }
            });
            // Few enough that no bucket of those two is ever full.
            for number in (1..20_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
                near.put(numbered(number), || true);
            }
            done.store(true, Ordering::Release);
        });
        assert!(turn.load(Ordering::Acquire) > 1);
        assert_eq!(near.in_use.load(Ordering::Relaxed), 16);
        assert_eq!(copies(&near), *near.lock());
    }

    /// How many places have facts, found by looking at each.
    fn copies(near: &NearCache) -> usize {
        let guard = Guard::new();
        let buckets = near.pages.iter().filter_map(OnceLock::get).flat_map(|page| page.iter());
        let slots = buckets.flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)));
        slots.filter(|(bucket, slot)| bucket.get(*slot, &guard).is_some()).count()
    }

    #[test]
    fn a_full_bucket_makes_room_and_outdated_facts_stay_out() {
        let near = NearCache::new(10);
        let all: Vec<_> = (0..50).map(|n| facts(n << 64 | 0x1234)).collect();
        all.iter().for_each(|facts| near.put(facts.clone(), || true));
        assert!(found(&near, all.last().unwrap()));
        assert_eq!(all.iter().filter(|facts| found(&near, facts)).count(), SLOTS);
        let outdated = facts(0x5678);
        near.put(outdated.clone(), || false);
        assert!(!found(&near, &outdated));
    }
}
