//! The second-level cache of tokens: bounded, and read once for all requests for one token, absent ones included.
//!
//! How an invalidation and a read already under way never leave the old fact behind: every id falls
//! into one of many slots, each with a generation. A fact is stored under (id, generation at the
//! start of its read), and looked up under (id, generation now). An invalidation raises the
//! generation after the change was committed, so whatever was read before it is never found again,
//! however late it is stored, and a later reader never joins an earlier reader's read. Other ids of
//! the same slot are read once more, which costs a round trip and nothing else.
//!
//! Tokens that are asked for often are in the near cache as well (`near`): put there only while their generation is the
//! current one, and taken out by an invalidation before it returns.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use moka::future::Cache;
use moka::notification::RemovalCause;
use sdd::{Guard, Shared};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::entry::CachedToken;
use super::imports::half;
use super::near::NearCache;
use crate::policy::id::TokenId;
use crate::secret::Digest;
use crate::store::{self, Store, StoreError};
use crate::telemetry::{Metrics, request_id};

const SLOTS: usize = 1 << 16;
/// How many reads may wait for the store at once; more are refused, so that a store in trouble is
/// not made to bear a queue as well.
const READS: usize = 1024;
/// How long a read may take in all.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Of so many hits in the near cache, one counts in the second-level cache, which evicts what is asked for least.
const SAMPLE_EVERY: u64 = 256;

/// What is known of an id: its facts, or that there is no such token.
pub type CacheEntry = Option<Shared<CachedToken>>;

/// What a token is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKey {
    /// Its id, which a secret that was made here names.
    Id(TokenId),
    /// The digest that it was imported with, and the random half of its id, which follows from that
    /// ([`crate::secret::KeyRing::imported_half`]).
    Digest(Digest, u64),
}

impl From<TokenId> for TokenKey {
    fn from(id: TokenId) -> Self {
        Self::Id(id)
    }
}

impl TokenKey {
    /// The random half of the token's id.
    fn half(self) -> u64 {
        match self {
            Self::Id(id) => half(id),
            Self::Digest(_, half) => half,
        }
    }
}

/// Of one token, whatever it is looked up by, `half` is the same, and so is the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    /// The other half of the id, or a part of the digest with the version of no id, so that the two are never alike.
    first: u64,
    half: u64,
    generation: u64,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The low half of a version 7 UUID is random, made by this system: it is a hash already.
        // An attacker can't choose it, since ids get in here only behind the keyed check, and digests as what
        // a keyed hash makes of them.
        state.write_u64(self.half.wrapping_add(self.generation << 48));
    }
}

/// Spreads the bits of the one number that a [`Key`] hashes to.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct FoldHasher(u64);

impl Hasher for FoldHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// What a look into memory found.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// It is in memory, or it is known that there is none.
    Hit(CacheEntry),
    /// The store must be asked.
    Miss,
}

/// Why a read gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The store's own reason.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// Too many reads wait already.
    #[error("too many reads wait for the store")]
    Overloaded,
    /// The store took too long.
    #[error("the store took too long")]
    Late,
}

/// Token facts in memory. See the module.
#[derive(Debug)]
pub struct Tokens {
    near: Arc<NearCache>,
    facts: Cache<Key, CacheEntry, BuildHasherDefault<FoldHasher>>,
    generations: Box<[AtomicU64]>,
    store: Arc<dyn Store>,
    reads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

impl Tokens {
    /// An empty cache for at most `capacity` tokens over `store`, which is spoken to on `runtime`.
    pub fn new(
        store: Arc<dyn Store>,
        capacity: u64,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Self {
        let near = Arc::new(NearCache::new(capacity));
        let evicted = {
            let near = near.clone();
            move |_: Arc<Key>, fact: CacheEntry, _: RemovalCause| {
                if let Some(facts) = fact {
                    near.forget(*facts.id, Some(&facts));
                }
            }
        };
        Self {
            near,
            facts: Cache::builder()
                .max_capacity(capacity)
                .eviction_listener(evicted)
                .build_with_hasher(BuildHasherDefault::default()),
            generations: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            store,
            reads: Arc::new(Semaphore::new(READS)),
            metrics,
            runtime,
        }
    }

    fn generation_counter(&self, key: TokenKey) -> &AtomicU64 {
        &self.generations[key.half() as usize % SLOTS]
    }

    fn key(&self, key: TokenKey) -> Key {
        /// Where a UUID has its version.
        const VERSION: u64 = 0xf000;
        let first = match key {
            TokenKey::Id(id) => id.0.as_u64_pair().0,
            TokenKey::Digest(digest, _) => {
                digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first)) & !VERSION
            }
        };
        let generation = self.generation_counter(key).load(Ordering::Acquire);
        Key { first, half: key.half(), generation }
    }

    /// Prefetches the bucket of the near cache that has `id`, if any has.
    pub fn prefetch_bucket(&self, id: TokenId) {
        self.near.prefetch_bucket(id);
    }

    /// Prefetches the entry of `id` in a prefetched bucket. `false` where there is none.
    pub fn prefetch_entry(&self, id: TokenId, guard: &Guard) -> bool {
        self.near.prefetch_entry(id, guard)
    }

    /// The token, where the near cache has it. `None` says nothing: ask [`Self::get`]. A caller that decides on
    /// it calls [`Self::record_hits`].
    pub fn get_near<'g>(&self, id: TokenId, guard: &'g Guard) -> Option<&'g CachedToken> {
        self.near.get(id, guard)
    }

    /// The cached token with a reference of its own; `None` where memory has forgotten it.
    pub fn shared(&self, token: &CachedToken) -> Option<Shared<CachedToken>> {
        let same = |found: &Shared<CachedToken>| std::ptr::eq(&raw const **found, token);
        self.near.shared(*token.id).filter(same).or_else(|| self.second_level(token).filter(same))
    }

    /// What the second-level cache has of a cached token, whichever of its keys it was looked up by; most have their id
    /// as key. Not awaited: while the cache is doing its maintenance, nothing is found.
    fn second_level(&self, token: &CachedToken) -> CacheEntry {
        let by_digest = TokenKey::Digest(token.digest, half(*token.id));
        let keys = [TokenKey::Id(*token.id), by_digest];
        keys.into_iter().find_map(|key| self.facts.get(&self.key(key)).now_or_never()??)
    }

    /// Prefetches the bucket of the near cache that has imported tokens, the random half of whose ids is `half`.
    pub fn prefetch_imported_bucket(&self, half: u64) {
        self.near.prefetch_bucket(NearCache::of_half(half));
    }

    /// Prefetches their entries in a prefetched bucket.
    pub fn prefetch_imported_entry(&self, half: u64, guard: &Guard) {
        self.near.prefetch_entry(NearCache::of_half(half), guard);
    }

    /// As [`Self::get_near`], for the token that was imported with `digest`, the random half of whose id is `half`.
    pub fn get_near_imported<'g>(
        &self,
        digest: &Digest,
        half: u64,
        guard: &'g Guard,
    ) -> Option<&'g CachedToken> {
        self.near.get_imported(digest, half, guard)
    }

    /// Counts hits in the near cache, and samples them for the second-level cache (`SAMPLE_EVERY`).
    pub fn record_hits<'g>(&self, found: impl Iterator<Item = &'g CachedToken> + Clone) {
        let before = self.metrics.hits(found.clone().count() as u64);
        for (facts, _) in
            found.zip(before..).filter(|(_, number)| number.is_multiple_of(SAMPLE_EVERY))
        {
            // Looking it up is the sample. One of many may be lost.
            let _ = self.second_level(facts);
        }
    }

    /// A number that grows whenever the entry of `key` is invalidated.
    pub fn generation(&self, key: impl Into<TokenKey>) -> u64 {
        self.generation_counter(key.into()).load(Ordering::Acquire)
    }

    /// Looks into memory only.
    pub async fn get(&self, token: impl Into<TokenKey>) -> Lookup {
        let token = token.into();
        let key = self.key(token);
        match self.facts.get(&key).await {
            Some(fact) => {
                self.metrics.hits(1);
                self.promote(token, key, &fact);
                Lookup::Hit(fact)
            }
            None => Lookup::Miss,
        }
    }

    fn promote(&self, token: TokenKey, key: Key, fact: &CacheEntry) {
        if let Some(facts) = fact {
            self.near.put(facts.clone(), || self.key(token) == key);
        }
    }

    /// Reads what memory does not have; concurrent calls for the same token share the read.
    ///
    /// # Errors
    /// The store's, and those of [`ReadError`]. None is remembered.
    pub async fn read(&self, token: impl Into<TokenKey>) -> Result<CacheEntry, ReadError> {
        let token = token.into();
        self.metrics.cache_misses.inc();
        let read = async {
            let permit = self.reads.clone().try_acquire_owned();
            let permit = permit.map_err(|_| ReadError::Overloaded)?;
            let store = self.store.clone();
            let metrics = self.metrics.clone();
            // Connections belong to the runtime that opened them, so the store has one of its own.
            let read = self.runtime.spawn(request_id::carry(async move {
                let _permit = permit;
                store::timed(&metrics, "token_facts", read_token(&*store, token)).await
            }));
            match tokio::time::timeout(READ_TIMEOUT, read).await {
                Ok(Ok(Ok(fact))) => Ok(fact.map(Shared::new)),
                Ok(Ok(Err(error))) => Err(ReadError::Store(Arc::new(error))),
                Ok(Err(panic)) => {
                    Err(ReadError::Store(Arc::new(StoreError::Internal(Box::new(panic)))))
                }
                Err(_) => Err(ReadError::Late),
            }
        };
        let key = self.key(token);
        let fact = self.facts.try_get_with(key, read).await.map_err(|error| (*error).clone())?;
        self.promote(token, key, &fact);
        Ok(fact)
    }

    /// Forgets what was known of `id`: calls from now on are answered from a read that began after
    /// this one.
    ///
    /// What is cached under the digest of an imported token is never found again either; it stays in memory until it is
    /// evicted.
    pub async fn invalidate(&self, id: TokenId) {
        let token = TokenKey::Id(id);
        let before = self.key(token);
        self.generation_counter(token).fetch_add(1, Ordering::AcqRel);
        self.near.forget(id, None);
        self.facts.invalidate(&before).await;
    }

    /// Forgets everything in the same sense.
    pub fn invalidate_all(&self) {
        for generation in &self.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
        self.near.clear();
        self.facts.invalidate_all();
    }

    /// How many facts are in memory, about.
    pub fn len(&self) -> u64 {
        self.facts.entry_count()
    }

    /// Whether none are, about.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

async fn read_token(store: &dyn Store, token: TokenKey) -> store::Result<Option<CachedToken>> {
    match token {
        TokenKey::Id(id) => Ok(store.token_facts(id).await?.map(CachedToken::new)),
        TokenKey::Digest(digest, expected) => {
            let facts = store.imported_token_facts(&digest).await?;
            // The id leads to all that memory has of the token: another one would not be found for an invalidation.
            match facts {
                Some(facts) if half(*facts.id) != expected => Err(StoreError::Internal(
                    "an imported token has the id of another store: the keys of secrets are not those it was imported \
                     under"
                        .into(),
                )),
                facts => Ok(facts.map(CachedToken::new)),
            }
        }
    }
}
