//! Secrets that were made elsewhere: a presented string is looked up by its digest (docs/policy.md, section 10).
//!
//! # Invariants
//! - Where no token is imported, nothing of a string is computed here.
//! - A string reaches the store only where the filter of imported tokens takes it for one, and its absence is cached
//!   then.

use futures_util::FutureExt as _;
use smallvec::SmallVec;

use super::{DecisionContext, Services};
use crate::cache::{CachedToken, Lookup, Membership, TokenKey};
use crate::secret::{self, Digest, KeyRing};

/// The longest string that is looked up as an imported secret, in bytes: so that a digest costs no more than a
/// decision. Rule 10.7 of docs/policy.md.
pub const MAX_IMPORTED_SECRET: usize = 4_096;

/// What a presented string may have been imported as: its digest, and the random half of the token's id.
pub(in crate::service) type ImportedKeys = SmallVec<[(Digest, u64); 2]>;

/// What `text` may have been imported as; `None` where it can't be an imported secret.
pub(super) fn imported_key(ring: &KeyRing, text: &[u8]) -> Option<(Digest, u64)> {
    (1..=MAX_IMPORTED_SECRET).contains(&text.len()).then(|| {
        let digest = secret::digest(text);
        (digest, ring.imported_half(&digest))
    })
}

impl Services {
    /// What `presented` may have been imported as: the string as it is, and without a `secret-token:` prefix.
    pub(in crate::service) fn imported_keys(&self, presented: &[u8]) -> ImportedKeys {
        if presented.len() > MAX_IMPORTED_SECRET || self.cache.imports.is_empty() {
            return ImportedKeys::new();
        }
        let ring = self.cache.keys();
        let unmarked = secret::without_mark(presented);
        let candidates = [Some(presented), (unmarked.len() < presented.len()).then_some(unmarked)];
        candidates.into_iter().flatten().filter_map(|text| imported_key(&ring, text)).collect()
    }
}

impl DecisionContext<'_> {
    /// The imported token with this secret, or that there is none; `None` where memory does not know.
    pub(super) fn find_imported<'c>(&'c self, presented: &[u8]) -> Option<Option<&'c CachedToken>> {
        let cache = &self.services.cache;
        for (digest, half) in self.services.imported_keys(presented) {
            if let Some(token) = cache.tokens.get_near_imported(&digest, half, &self.guard) {
                cache.tokens.record_hits(std::iter::once(token));
                return Some(Some(token));
            }
            match cache.imports.membership(half) {
                Membership::Absent => continue,
                Membership::Unknown => return None,
                Membership::Possible => {}
            }
            // `None`: it is not there, or the cache is just being put in order.
            let looked_up = cache.tokens.get(TokenKey::Digest(digest, half)).now_or_never()?;
            let Lookup::Hit(entry) = looked_up else { return None };
            let token = entry.as_ref().map(|token| token.get_guarded_ref(&self.guard));
            if let Some(token) = token.filter(|token| secret::digest_eq(&token.digest, &digest)) {
                return Some(Some(token));
            }
        }
        Some(None)
    }
}
