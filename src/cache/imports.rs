//! Which tokens are imported: a filter that answers, for a string that is none of the secrets made here, that it is
//! certainly no imported one, so that strangers' strings cost no read of the store.
//!
//! # What it is
//! Bloom filters (`fastbloom`), the layers, each of which has room for a number of tokens. A token is added to the
//! newest layer; where that is full, a layer with twice its room is made. Bits are never cleared: those of a purged
//! token stay until the filter is loaded again. What is added is the random half of the token's id, which follows from
//! the digest under a key of the store ([`crate::secret::KeyRing::imported_half`]): nobody can compute a string that
//! the filter takes for an imported one, and the store need not send any digest.
//!
//! - *Rate*: a full layer takes one of 16,384 strangers for a token ([`RATE`]). A lookup asks every layer. Sixteen
//!   layers, which is room for four billion tokens, stay below one in 1,000; ten million tokens that were
//!   imported into a running server have eight layers, and after its next start one.
//! - *Size*: 20.2 bits for each token that a layer has room for. That is at most 61 bits a token, just after a layer
//!   was added, and 30 after a start.
//! - *Following*: an import is one change. A replica that follows it reads the tokens behind the last position that it
//!   has read ([`ImportPosition`]), and adds them, before the change counts as applied: as with every other fact, an
//!   import that was answered is in the filter of every replica that may decide.
//! - *Closed*: while something that was imported may be missing here ([`Imports::mark_incomplete`]), the filter says of
//!   no string that it is not imported. Such a string gets no decision until the filter is complete again.
//!
//! # Invariants
//! - What was added is found by every lookup that begins later.
//! - An absence that is cached is forgotten when its token is added: see [`Imports::add`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use fastbloom::AtomicBloomFilter;

use crate::model::ImportPosition;
use crate::policy::id::TokenId;

/// How often a full layer takes a string for an imported secret that is none.
const RATE: f64 = 1.0 / 16_384.0;
/// The tokens that the first layer has room for: 160 KiB.
const LEAST: u64 = 1 << 16;

struct Layer {
    bits: AtomicBloomFilter,
    /// How many tokens it has room for, and how many it has.
    room: u64,
    count: AtomicU64,
}

impl Layer {
    fn new(room: u64) -> Self {
        let expected = usize::try_from(room).unwrap_or(usize::MAX);
        let bits = AtomicBloomFilter::with_false_pos(RATE).expected_items(expected);
        Self { bits, room, count: AtomicU64::new(0) }
    }
}

/// Which tokens are imported. See the module.
pub struct Imports {
    /// The newest last; none where no token was ever imported.
    layers: ArcSwap<Vec<Arc<Layer>>>,
    complete: AtomicBool,
}

impl fmt::Debug for Imports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imports").field("count", &self.len()).finish_non_exhaustive()
    }
}

/// What the filter says of a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// It is no imported secret.
    Absent,
    /// It may be one.
    Possible,
    /// That can't be said: something that was imported may be missing here.
    Unknown,
}

/// The bits of a random half that are random. The filter takes places by the highest ones.
fn hash(half: u64) -> u64 {
    half << 2
}

impl Imports {
    /// These tokens, and no others.
    pub fn new(tokens: &[ImportPosition]) -> Self {
        let imports = Self { layers: ArcSwap::default(), complete: AtomicBool::new(true) };
        imports.replace(tokens);
        imports
    }

    /// Knows these from now on, and no others.
    pub(super) fn replace(&self, tokens: &[ImportPosition]) {
        let mut layers = Vec::new();
        if !tokens.is_empty() {
            let count = tokens.len() as u64;
            let layer = Layer::new((count + count / 2).max(LEAST));
            for token in tokens {
                layer.bits.insert_hash(hash(half(token.token_id)));
            }
            layer.count.store(count, Ordering::Relaxed);
            layers.push(Arc::new(layer));
        }
        self.layers.store(Arc::new(layers));
        self.complete.store(true, Ordering::Release);
    }

    /// Adds a token. Whether lookups may have taken it for imported before, so that its absence may be cached: an
    /// absence is cached only where a lookup found all bits, and bits stay. No two calls may overlap.
    pub(super) fn add(&self, id: TokenId) -> bool {
        let hash = hash(half(id));
        let layers = self.layers.load();
        let was_possible = layers.iter().any(|layer| layer.bits.contains_hash(hash));
        let newest = layers.last().filter(|layer| layer.count.load(Ordering::Relaxed) < layer.room);
        if let Some(layer) = newest {
            layer.bits.insert_hash(hash);
            layer.count.fetch_add(1, Ordering::Relaxed);
        } else {
            let layer = Layer::new(layers.last().map_or(LEAST, |layer| layer.room * 2));
            layer.bits.insert_hash(hash);
            layer.count.store(1, Ordering::Relaxed);
            let mut layers = Vec::clone(&layers);
            layers.push(Arc::new(layer));
            self.layers.store(Arc::new(layers));
        }
        was_possible
    }

    /// Everything that was added is found from now on, and nothing that is imported is missing.
    pub(super) fn mark_complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Something that is imported may be missing from now on.
    pub(super) fn mark_incomplete(&self) {
        self.complete.store(false, Ordering::Release);
    }

    /// Whether no token is imported, so that nothing has to be looked up.
    pub fn is_empty(&self) -> bool {
        self.complete.load(Ordering::Acquire) && self.layers.load().is_empty()
    }

    /// What is known of the digest with this random half. Takes no lock.
    pub fn membership(&self, half: u64) -> Membership {
        let complete = self.complete.load(Ordering::Acquire);
        let hash = hash(half);
        let layers = self.layers.load();
        match layers.iter().rev().any(|layer| layer.bits.contains_hash(hash)) {
            true => Membership::Possible,
            false if complete => Membership::Absent,
            false => Membership::Unknown,
        }
    }

    /// How many tokens are in it, purged ones included.
    pub fn len(&self) -> u64 {
        self.layers.load().iter().map(|layer| layer.count.load(Ordering::Relaxed)).sum()
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.layers.load().iter().map(|layer| layer.bits.num_bits() as u64 / 8).sum()
    }
}

/// The random half of a token's id.
pub(super) fn half(id: TokenId) -> u64 {
    id.0.as_u64_pair().1
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::secret::{KeyRing, SecretKey, digest};

    fn id(ring: &KeyRing, number: u32) -> TokenId {
        let half = ring.imported_half(&digest(&number.to_be_bytes()));
        TokenId(Uuid::from_u64_pair(u64::from(number) << 16 | 7 << 12, half))
    }

    fn ring() -> KeyRing {
        KeyRing::new(&[SecretKey::new(1, [3; 32])]).unwrap()
    }

    /// Every token is found while the filter grows and after a new load, and at most one stranger in 1,000 is taken
    /// for one. Rule 10.8 of docs/policy.md.
    #[test]
    fn tokens_are_found_and_few_strangers_are() {
        const TOKENS: u32 = 300_000;
        let ring = ring();
        let ids: Vec<_> = (0..TOKENS).map(|number| id(&ring, number)).collect();
        let grown = Imports::new(&[]);
        assert!(grown.is_empty());
        assert_eq!(grown.membership(half(ids[0])), Membership::Absent);
        for &id in &ids {
            grown.add(id);
        }
        let positions: Vec<_> =
            ids.iter().map(|&token_id| ImportPosition { revision: 1, token_id }).collect();
        let loaded = Imports::new(&positions);
        for (imports, bits) in [(&grown, 61), (&loaded, 31)] {
            assert_eq!(imports.len(), u64::from(TOKENS));
            assert!(imports.bytes() * 8 <= u64::from(TOKENS) * bits, "{}", imports.bytes());
            assert!(ids.iter().all(|&id| imports.membership(half(id)) == Membership::Possible));
            let strangers = (TOKENS..2 * TOKENS).map(|number| id(&ring, number));
            let taken =
                strangers.filter(|&id| imports.membership(half(id)) == Membership::Possible);
            let taken = taken.count() as u32;
            assert!(taken < TOKENS / 1_000, "{taken} of {TOKENS}");
        }
        assert!(grown.layers.load().len() > 1, "it has grown");
    }

    #[test]
    fn absence_is_known_only_of_a_complete_filter() {
        let ring = ring();
        let imports = Imports::new(&[]);
        assert!(!imports.add(id(&ring, 1)));
        assert!(imports.add(id(&ring, 1)), "it is there already");
        imports.mark_incomplete();
        assert_eq!(imports.membership(half(id(&ring, 1))), Membership::Possible);
        assert_eq!(imports.membership(half(id(&ring, 2))), Membership::Unknown);
        assert!(!imports.is_empty());
        imports.mark_complete();
        assert_eq!(imports.membership(half(id(&ring, 2))), Membership::Absent);
        imports.replace(&[]);
        assert_eq!(imports.membership(half(id(&ring, 1))), Membership::Absent);
    }
}
