//! Spikes of denials: a warning about a token that is denied very often, once in an hour.
//!
//! Fed with what is written behind, so that no decision pays for it; that has known tokens only, so that a stranger with
//! random strings leaves nothing here. The alert `PortcullisTokenDenials` says that there is a spike; this says whose.
//!
//! # Invariants
//! - Memory is bounded whatever is denied: [`MAX_TOKENS`], with [`MAX_ADDRESSES`] each. Beyond that, those with the
//!   fewest denials are forgotten.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::model::DenialCount;
use crate::policy::decide::Reason;
use crate::policy::id::{AccountId, TokenId};
use crate::policy::network::ClientAddr;
use crate::policy::time::Timestamp;

/// More denials than that within a minute are a spike; the alert's bound as well.
const SPIKE: u64 = 300;
/// Between two warnings about one token.
const QUIET: Duration = Duration::from_secs(60 * 60);
/// Tokens that are followed at once: 64 KiB, and 4 MiB where each has all its addresses.
const MAX_TOKENS: usize = 1 << 10;
/// Addresses of one token that are counted separately.
const MAX_ADDRESSES: usize = 1 << 6;

/// What a warning says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spike {
    /// The token.
    pub(super) token_id: TokenId,
    /// Its owner.
    pub(super) account_id: AccountId,
    /// Denials within the minute so far.
    pub(super) count: u64,
    /// The denials that were recorded by themselves, by reason: the most frequent first.
    pub(super) reasons: Vec<(Reason, u64)>,
    /// From how many addresses these came, as far as they are counted separately.
    pub(super) addresses: usize,
}

/// A token's denials of the current minute.
#[derive(Debug)]
struct Followed {
    account_id: AccountId,
    count: u64,
    reasons: BTreeMap<Reason, u64>,
    addresses: HashSet<ClientAddr>,
    warned: Option<Timestamp>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spikes {
    minute: i64,
    tokens: HashMap<TokenId, Followed>,
}

impl Spikes {
    /// Takes note of denials of known tokens that were recorded at `now`. The tokens that are to be warned of.
    pub(super) fn note(&mut self, denials: &[DenialCount], now: Timestamp) -> Vec<Spike> {
        let minute = now.0.div_euclid(60_000_000);
        if self.minute != minute {
            self.minute = minute;
            self.begin_minute(now);
        }
        for denial in denials {
            let followed = self.tokens.entry(denial.token_id).or_insert_with(|| Followed {
                account_id: denial.account_id,
                count: 0,
                reasons: BTreeMap::new(),
                addresses: HashSet::new(),
                warned: None,
            });
            followed.count += denial.count;
            if let Some(reason) = denial.reason {
                *followed.reasons.entry(reason).or_default() += denial.count;
            }
            if let Some(address) = denial.address
                && followed.addresses.len() < MAX_ADDRESSES
            {
                followed.addresses.insert(address);
            }
        }
        let mut spikes = Vec::new();
        for (&token_id, followed) in &mut self.tokens {
            if followed.count > SPIKE && followed.warned.is_none() {
                followed.warned = Some(now);
                spikes.push(followed.spike(token_id));
            }
        }
        self.forget_beyond_bound();
        spikes
    }

    /// Forgets the counts of the minute before, and the tokens that may be warned of again.
    fn begin_minute(&mut self, now: Timestamp) {
        self.tokens.retain(|_, followed| {
            followed.count = 0;
            followed.reasons = BTreeMap::new();
            followed.addresses = HashSet::new();
            followed.warned.is_some_and(|at| now < at.plus(QUIET))
        });
    }

    fn forget_beyond_bound(&mut self) {
        let Some(beyond) = self.tokens.len().checked_sub(MAX_TOKENS).filter(|&beyond| beyond > 0)
        else {
            return;
        };
        let mut ranks: Vec<_> = self
            .tokens
            .iter()
            .map(|(&id, followed)| (followed.warned.is_some(), followed.count, id))
            .collect();
        ranks.sort_unstable();
        for (.., id) in &ranks[..beyond] {
            self.tokens.remove(id);
        }
    }
}

impl Followed {
    fn spike(&self, token_id: TokenId) -> Spike {
        let mut reasons: Vec<_> = self.reasons.iter().map(|(&reason, &n)| (reason, n)).collect();
        reasons.sort_by_key(|&(reason, n)| (std::cmp::Reverse(n), reason));
        let (account_id, count) = (self.account_id, self.count);
        Spike { token_id, account_id, count, reasons, addresses: self.addresses.len() }
    }
}

impl Spike {
    /// Logs the warning.
    pub(super) fn warn(&self) {
        let reasons = self.reasons.iter().map(|(reason, n)| format!("{} {n}", reason.word()));
        tracing::warn!(
            token = %self.token_id,
            account = %self.account_id,
            denials = self.count,
            reasons = reasons.collect::<Vec<_>>().join(", "),
            addresses = self.addresses,
            cure = format!(
                "see `portcullis denials --token {}`: correct the client, or delete the token where a thief has it",
                self.token_id
            ),
            "a token is denied very often"
        );
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn denied(token: u128, address: u32, reason: Option<Reason>, count: u64) -> DenialCount {
        DenialCount {
            token_id: TokenId(Uuid::from_u128(token)),
            account_id: AccountId(Uuid::from_u128(9)),
            hour: 0,
            reason,
            address: Some(std::net::IpAddr::from(address.to_be_bytes()).into()),
            scope_id: None,
            operation: String::new(),
            count,
            first: Timestamp(0),
            last: Timestamp(0),
        }
    }

    #[test]
    fn a_spike_is_warned_of_once_in_an_hour_with_what_is_known_of_it() {
        let mut spikes = Spikes::default();
        let (listed, scope) = (Reason::ClientIpNotWhitelisted, Reason::ScopeNotGranted);
        let first = [denied(1, 1, Some(listed), 200), denied(2, 1, Some(listed), 300)];
        assert_eq!(spikes.note(&first, Timestamp(0)), []);
        let second = [denied(1, 2, Some(scope), 10), denied(1, 3, None, 91)];
        let [spike] = &spikes.note(&second, Timestamp(10 * SECOND))[..] else { panic!() };
        assert_eq!((spike.token_id.0.as_u128(), spike.account_id.0.as_u128()), (1, 9));
        assert_eq!((spike.count, spike.addresses), (301, 3));
        assert_eq!(spike.reasons, [(listed, 200), (scope, 10)]);
        let again = [denied(1, 1, Some(listed), 900)];
        assert_eq!(spikes.note(&again, Timestamp(20 * SECOND)), []);
        assert_eq!(spikes.note(&again, Timestamp(3_600 * SECOND)), []);
        assert_eq!(spikes.note(&again, Timestamp(3_660 * SECOND)).len(), 1, "an hour later");
        // A minute's denials are not added to those of the next.
        let slow = [denied(3, 1, Some(listed), 300)];
        for minute in 70..75 {
            assert_eq!(spikes.note(&slow, Timestamp(minute * 60 * SECOND)), []);
        }
    }

    #[test]
    fn many_tokens_take_bounded_memory_and_hide_no_spike() {
        let mut spikes = Spikes::default();
        let reason = Some(Reason::TokenExpired);
        for round in 0..3 {
            let first = round * 4_000;
            let mut rows: Vec<_> =
                (0..4_000).map(|n| denied(1_000 + first + n, 1, reason, 1)).collect();
            rows.extend((0..101).map(|address| denied(1, address, reason, 1)));
            let found = spikes.note(&rows, Timestamp(0));
            assert_eq!(found.len(), usize::from(round == 2));
            assert!(spikes.tokens.len() <= MAX_TOKENS);
            let followed = spikes.tokens.values();
            assert!(followed.clone().all(|of| of.addresses.len() <= MAX_ADDRESSES));
        }
    }
}
