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
use std::sync::atomic::Ordering;
use std::sync::{OnceLock, PoisonError};

use prefetch_index::prefetch_index;
use sdd::{AtomicShared, Guard, Shared, Tag};
use uuid::Uuid;

use super::entry::CachedToken;
use super::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard};
use crate::policy::id::TokenId;
use crate::secret::Digest;

/// Slots of a bucket, which with their tags fill a cache line.
pub(super) const SLOTS: usize = 7;
/// Buckets that are made at once, when the first of them is needed: so many that what leads to them stays in
/// the processor's cache.
pub(super) const PAGE: usize = 1024;
/// The most facts there is room for, however many tokens may be cached.
const MOST: u64 = 1 << 24;

#[repr(align(64))]
pub(super) struct Bucket {
    /// A byte for each place, which is 0 where the place is empty.
    pub(super) tags: AtomicU64,
    slots: [AtomicShared<CachedToken>; SLOTS],
}

impl Bucket {
    pub(super) fn empty() -> Self {
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
    pub(super) fn candidates(&self, tag: u8) -> u64 {
        const EACH: u64 = 0x0001_0101_0101_0101;
        let others = self.tags.load(Ordering::Acquire) ^ (EACH * u64::from(tag));
        others.wrapping_sub(EACH) & !others & (EACH << 7)
    }

    /// For writers, which may rely on the tags.
    fn place_of(&self, id: TokenId, tag: u8, guard: &Guard) -> Option<usize> {
        let tags = self.tags.load(Ordering::Relaxed).to_le_bytes();
        let of_it = |slot| self.get(slot, guard).is_some_and(|facts| *facts.id == id);
        (0..SLOTS).find(|&slot| tags[slot] == tag && of_it(slot))
    }

    pub(super) fn get<'g>(&self, slot: usize, guard: &'g Guard) -> Option<&'g CachedToken> {
        self.slots[slot].load(Ordering::Acquire, guard).as_ref()
    }
}

/// See the module.
pub(super) struct NearCache {
    /// As many as there may ever be; a power of two.
    pub(super) pages: Box<[OnceLock<Box<[Bucket; PAGE]>>]>,
    /// How many of them are looked into: a power of two that only grows. Written under the lock of `taken`.
    pub(super) in_use: AtomicUsize,
    /// How many places are taken. Held by the writer.
    taken: Mutex<usize>,
}

impl fmt::Debug for NearCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NearCache").field("pages", &self.pages.len()).finish_non_exhaustive()
    }
}

/// Where an id belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BucketAddress {
    page: usize,
    bucket: usize,
    tag: u8,
}

impl BucketAddress {
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

    fn address(&self, id: TokenId) -> BucketAddress {
        BucketAddress::of(id, self.in_use.load(Ordering::Acquire))
    }

    fn bucket(&self, address: BucketAddress) -> Option<&Bucket> {
        Some(&self.pages[address.page].get()?[address.bucket])
    }

    /// Prefetches the bucket of `id`.
    pub(super) fn prefetch_bucket(&self, id: TokenId) {
        let BucketAddress { page, bucket, .. } = self.address(id);
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

    /// The entry of `id` with a reference of its own.
    pub(super) fn shared(&self, id: TokenId) -> Option<Shared<CachedToken>> {
        let guard = Guard::new();
        let address = self.address(id);
        let bucket = self.bucket(address)?;
        let slot = bucket.place_of(id, address.tag, &guard)?;
        bucket.slots[slot].load(Ordering::Acquire, &guard).get_shared()
    }

    /// An id with this random half, which alone says where its entry is.
    pub(super) fn of_half(half: u64) -> TokenId {
        TokenId(Uuid::from_u64_pair(0, half))
    }

    /// As [`Self::get`], for the token that was imported with `digest`, the random half of whose id is `half`.
    pub(super) fn get_imported<'g>(
        &self,
        digest: &Digest,
        half: u64,
        guard: &'g Guard,
    ) -> Option<&'g CachedToken> {
        self.candidates(Self::of_half(half), guard)
            .inspect(|facts| facts.fetch())
            .find(|facts| facts.is_imported_as(digest, half))
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
            let address = BucketAddress::of(id, pages);
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

    pub(super) fn lock(&self) -> MutexGuard<'_, usize> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
