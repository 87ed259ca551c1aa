//! Facts with the uses that were noted of them lately, so that a token in steady use is not noted
//! again and again.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use prefetch_index::prefetch_index;

use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenFacts;

/// Scopes that are remembered at once. A token that uses more of them in turn is noted more often
/// than need be, and nothing else.
const SCOPES: usize = 4;
const TIME: u64 = (1 << 48) - 1;

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
    /// A scope's number, and the time of the noted use in milliseconds.
    noted: [AtomicU64; SCOPES],
}

impl CachedToken {
    /// Nothing noted yet.
    pub fn new(facts: TokenFacts) -> Self {
        Self { lines: [], facts, noted: [const { AtomicU64::new(0) }; SCOPES] }
    }

    /// Prefetches all of it but what it points to, and waits for nothing: facts at rest lie on several
    /// cache lines, which then come together.
    pub(super) fn fetch(&self) {
        (0..size_of::<Self>() / size_of::<Line>()).for_each(|at| prefetch_index(&self.lines, at));
    }

    /// Marks a use of `scope` at `now` as noted. `false`, and nothing is marked, where one was noted within `grain`
    /// microseconds before.
    pub fn try_mark_noted(&self, scope: ScopeId, now: Timestamp, grain: i64) -> bool {
        let millis = |micros: i64| u64::try_from(micros / 1_000).unwrap_or(0) & TIME;
        let now = millis(now.0);
        let place = self
            .noted
            .iter()
            .position(|noted| noted.load(Ordering::Relaxed) >> 48 == u64::from(scope.0))
            .unwrap_or(usize::from(scope.0) % SCOPES);
        let noted = self.noted[place].load(Ordering::Relaxed);
        let news = noted >> 48 != u64::from(scope.0)
            || now < noted & TIME
            || now - (noted & TIME) >= millis(grain).max(1);
        if news {
            self.noted[place].store(u64::from(scope.0) << 48 | now, Ordering::Relaxed);
        }
        news
    }
}

impl Deref for CachedToken {
    type Target = TokenFacts;

    fn deref(&self) -> &TokenFacts {
        &self.facts
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::policy::id::{AccountId, TokenId};
    use crate::policy::network::Whitelist;
    use crate::policy::token::{Expiry, Grant, TokenState};

    #[test]
    fn facts_begin_with_a_cache_line_and_end_with_one() {
        assert_eq!(std::mem::offset_of!(CachedToken, lines), 0);
        assert_eq!(
            (align_of::<CachedToken>(), size_of::<CachedToken>() % size_of::<Line>()),
            (64, 0)
        );
    }

    #[test]
    fn a_use_is_news_once_a_grain() {
        let known = CachedToken::new(TokenFacts {
            id: TokenId(Uuid::from_u128(1)).into(),
            account_id: AccountId(Uuid::from_u128(1)).into(),
            digest: [0; 32],
            state: TokenState::Active,
            expiry: Expiry::NEVER,
            grant: Grant::ReadWrite,
            whitelist: Whitelist::Unrestricted,
            announced: Vec::new(),
        });
        let at = |scope, seconds: i64| {
            known.try_mark_noted(ScopeId(scope), Timestamp(seconds * 1_000_000), 60_000_000)
        };
        // Scopes 1 and 5 share a place; 0 looks like a place that is empty.
        for scope in [0, 1, 65_535] {
            assert!(at(scope, 1_000), "{scope}: the first use");
            assert!(!at(scope, 1_059), "{scope}: within the grain");
            assert!(at(scope, 1_060), "{scope}: after it");
            assert!(!at(scope, 1_060), "{scope}: at the same time");
        }
        assert!(at(5, 1_061) && at(1, 1_062), "two scopes in turn");
        assert!(at(1, 900), "a clock that was set back");
    }
}
