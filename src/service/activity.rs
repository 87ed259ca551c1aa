//! What is seen of the requests of a token: the addresses it was used from, how often, and which entries of its whitelist
//! matched (docs/policy.md, section 12).

use std::sync::Arc;

use super::tokens::no_token;
use super::{Caller, Result, Services, validate};
use crate::model::{ActiveCatalog, EntryMatches, SeenAddress, UseCount};
use crate::policy::id::TokenId;
use crate::policy::network::Cidr;
use crate::policy::time::Timestamp;

/// The most counts that are answered: 2 MiB of an answer where each names a scope of the longest name.
const MAX_COUNTS: u32 = 20_000;

/// How often a token was used.
#[derive(Debug)]
pub struct TokenUsage {
    /// The latest day first.
    pub counts: Vec<UseCount>,
    /// From this day on.
    pub since: Timestamp,
    /// What the scopes are called.
    pub in_force: Arc<ActiveCatalog>,
}

/// The use of one entry of a whitelist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryUse {
    /// The entry.
    pub entry: Cidr,
    /// When it last matched, within the window.
    pub last_match: Option<Timestamp>,
    /// Whether nothing matched it for a whole window.
    pub unmatched: bool,
}

impl Services {
    /// The beginning of the window, now.
    fn window_start(&self) -> Timestamp {
        self.clock.now().minus(self.lifecycle.window())
    }

    /// The addresses that a token was used from, the latest first. Rules 12.1 and 12.3 of docs/policy.md.
    ///
    /// # Errors
    /// [`super::Error::NotFound`] where there is no token that the caller sees; the store's.
    pub async fn recent_addresses(&self, caller: &Caller, id: &str) -> Result<Vec<SeenAddress>> {
        let id: TokenId = validate::id("token_id", id)?;
        let seen = self.store.seen_addresses(id, caller.only(), self.window_start());
        self.read("seen_addresses", seen).await?.ok_or_else(|| no_token(id))
    }

    /// How often a token was used. Rule 12.5 of docs/policy.md.
    ///
    /// # Errors
    /// [`super::Error::NotFound`] where there is no token that the caller sees; the store's.
    pub async fn token_usage(&self, caller: &Caller, id: &str) -> Result<TokenUsage> {
        let id: TokenId = validate::id("token_id", id)?;
        let since = self.window_start();
        let counts = self.store.use_counts(id, caller.only(), since, MAX_COUNTS);
        let counts = self.read("use_counts", counts).await?.ok_or_else(|| no_token(id))?;
        Ok(TokenUsage { counts, since, in_force: self.in_force()? })
    }

    /// When each of a whitelist's `entries`, which are sorted, last matched.
    ///
    /// # Errors
    /// [`super::Error::NotFound`] where there is no token that the caller sees; the store's.
    pub async fn entry_uses(
        &self,
        caller: &Caller,
        id: TokenId,
        entries: &[Cidr],
    ) -> Result<Vec<EntryUse>> {
        let since = self.window_start();
        let matches = self.store.entry_matches(id, caller.only(), since);
        let matches = self.read("entry_matches", matches).await?.ok_or_else(|| no_token(id))?;
        Ok(entry_uses(entries, &matches, since))
    }
}

/// Rule 12.6 of docs/policy.md.
fn entry_uses(entries: &[Cidr], matches: &EntryMatches, since: Timestamp) -> Vec<EntryUse> {
    let observed = matches.since <= since;
    let entry_use = |&entry: &Cidr| {
        let found = matches.matches.binary_search_by_key(&entry, |&(entry, _)| entry);
        let last_match = found.ok().map(|at| matches.matches[at].1);
        EntryUse { entry, last_match, unmatched: observed && last_match.is_none() }
    };
    entries.iter().map(entry_use).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::network::Limits;

    /// Rule 12.6.
    #[test]
    fn an_entry_is_unmatched_only_after_a_window_of_observation() {
        let entry = |text| Cidr::parse(text, &Limits::default()).unwrap();
        let entries = [entry("10.0.0.1"), entry("10.0.0.2")];
        let unmatched = |since| {
            let matches = EntryMatches { matches: vec![(entries[1], Timestamp(50))], since };
            let uses = entry_uses(&entries, &matches, Timestamp(20));
            assert_eq!((uses[0].last_match, uses[1].last_match), (None, Some(Timestamp(50))));
            assert!(!uses[1].unmatched);
            uses[0].unmatched
        };
        assert!(unmatched(Timestamp(20)) && unmatched(Timestamp(3)));
        assert!(!unmatched(Timestamp(21)), "the whitelist was changed within the window");
    }
}
