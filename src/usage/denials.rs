//! Denied requests of known tokens, added up by hour and written behind.
//!
//! # Invariants
//! - Recording never waits: what is beyond a token's budget of a second costs one addition.
//! - Memory is bounded, and each token and each account has a share of it, so that a flood hides nothing of others.
//!   What goes beyond a share is counted all the same: as others of the token, or as the rest of its account.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{SHARDS, shard_of};
use crate::model::{DenialCount, DenialRest, MAX_TOKEN_DENIALS};
use crate::policy::decide::Reason;
use crate::policy::id::{AccountId, TokenId};
use crate::policy::network::ClientAddr;
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;

/// Denials of one token in a second that are recorded by themselves; further ones are counted as others.
const BUDGET: u32 = 256;
/// So many of those are counted at once; up to so many at the end of a flood are not.
const OTHERS_AT_ONCE: u32 = 256;
/// Tokens whose budgets are apart from each other; further ones share: 128 KiB.
const BUDGETS: usize = 1 << 12;
/// What may wait in one shard, and of that what is of one account; 8,192 in all.
const MAX_WAITING: (usize, usize) = (1 << 9, 1 << 7);
/// Accounts whose rest may wait in one shard.
const MAX_RESTS: usize = 1 << 8;

/// Which denials are one row.
type Key = (TokenId, i64, Option<Reason>, Option<ClientAddr>, Option<ScopeId>);

/// One denied request.
#[derive(Debug, Clone, Copy)]
pub struct DeniedRequest {
    /// The token.
    pub token_id: TokenId,
    /// Its owner.
    pub account_id: AccountId,
    /// Why.
    pub reason: Reason,
    /// Where it came from, where that is known.
    pub address: Option<ClientAddr>,
    /// What it required, where the checks got that far.
    pub scope_id: Option<ScopeId>,
    /// When.
    pub time: Timestamp,
}

/// How often, and when.
#[derive(Debug, Clone, Copy)]
struct Tally {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

#[derive(Debug, Default)]
struct Shard {
    waiting: BTreeMap<Key, (AccountId, Tally, String)>,
    /// How many of those are each account's.
    accounts: HashMap<AccountId, usize>,
    rests: BTreeMap<(AccountId, i64), Tally>,
}

impl Shard {
    /// Counts what gets no row of its own for its account and hour. How many denials found no room.
    fn add_rest(&mut self, key: (AccountId, i64), tally: Tally) -> u64 {
        let room = self.rests.len() < MAX_RESTS;
        match self.rests.get_mut(&key) {
            Some(known) => known.add(tally),
            None if room => drop(self.rests.insert(key, tally)),
            None => return tally.count,
        }
        0
    }
}

/// The second of `time` in 32 bits.
fn second_of(time: Timestamp) -> u64 {
    (time.0 / 1_000_000) as u64 & u64::from(u32::MAX)
}

/// A token's budget of the current second.
#[derive(Debug, Default)]
struct Budget {
    /// Whose it is: the random half of the token's id.
    owner: AtomicU64,
    /// The second, and how many denials there were in it.
    spent: AtomicU64,
    /// A minute and the denials in it, less those of the second in `spent`.
    minute: AtomicU64,
    /// The same of a minute before that.
    former_minute: AtomicU64,
}

impl Budget {
    /// Adds the denials of a second that has ended to those of its minute. Of two threads that do this at once one may
    /// lose what it adds: it is shown, and decides nothing.
    fn end_second(&self, spent: u64) {
        let (minute, count) = ((spent >> 32) / 60, spent & u64::from(u32::MAX));
        if self.minute.load(Ordering::Relaxed) >> 32 == minute {
            self.minute.fetch_add(count, Ordering::Relaxed);
        } else {
            let former = self.minute.swap(minute << 32 | count, Ordering::Relaxed);
            self.former_minute.store(former, Ordering::Relaxed);
        }
    }

    /// The denials in a minute.
    fn denials_in(&self, minute: u64) -> u64 {
        let count = |packed: &AtomicU64, seconds: u64| {
            let packed = packed.load(Ordering::Relaxed);
            if (packed >> 32) / seconds == minute { packed & u64::from(u32::MAX) } else { 0 }
        };
        count(&self.spent, 60) + count(&self.minute, 1) + count(&self.former_minute, 1)
    }
}

/// What becomes of a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Admission {
    /// Whether it is recorded by itself; else it is counted with others.
    detailed: bool,
    /// So many are counted as others now.
    others: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Denials {
    budgets: Box<[Budget]>,
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Denials {
    fn default() -> Self {
        let budgets = (0..BUDGETS).map(|_| Budget::default()).collect();
        Self { budgets, shards: Default::default() }
    }
}

impl Denials {
    /// Takes note of a denied request; `operation` says what it was, where no scope does. How many denials found no
    /// room.
    pub(super) fn note(&self, denied: DeniedRequest, operation: impl FnOnce() -> String) -> u64 {
        let tally =
            |count: u32| Tally { count: count.into(), first: denied.time, last: denied.time };
        let (token_id, account_id, hour) = (denied.token_id, denied.account_id, denied.time.hour());
        let Admission { detailed, others } = self.admit(token_id, denied.time);
        let mut dropped = 0;
        if others > 0 {
            let key = (token_id, hour, None, None, None);
            dropped += self.buffer(key, account_id, tally(others), String::new);
        }
        if detailed {
            let DeniedRequest { reason, address, scope_id, .. } = denied;
            let key = (token_id, hour, Some(reason), address, scope_id);
            dropped += self.buffer(key, account_id, tally(1), operation);
        }
        dropped
    }

    fn admit(&self, id: TokenId, now: Timestamp) -> Admission {
        let owner = id.0.as_u64_pair().1;
        // Bits that the shards do not go by.
        let budget = &self.budgets[(owner >> 8) as usize % BUDGETS];
        let second = second_of(now);
        let spent = budget.spent.load(Ordering::Relaxed);
        if spent >> 32 != second {
            let (began, relaxed) = (second << 32 | 1, Ordering::Relaxed);
            let mut others = 0;
            if budget.spent.compare_exchange(spent, began, relaxed, relaxed).is_ok() {
                budget.end_second(spent);
                if budget.owner.swap(owner, Ordering::Relaxed) == owner {
                    others = (spent as u32).saturating_sub(BUDGET) % OTHERS_AT_ONCE;
                }
            }
            return Admission { detailed: true, others };
        }
        let before = budget.spent.fetch_add(1, Ordering::Relaxed) as u32;
        if before < BUDGET {
            return Admission { detailed: true, others: 0 };
        }
        // They are not counted for another token that shares the budget.
        let counted = (before - BUDGET + 1).is_multiple_of(OTHERS_AT_ONCE)
            && budget.owner.load(Ordering::Relaxed) == owner;
        Admission { detailed: false, others: if counted { OTHERS_AT_ONCE } else { 0 } }
    }

    /// The most denials of one token in the minute of `now` or the one before. Tokens that share a budget count as one.
    pub(super) fn most_in_a_minute(&self, now: Timestamp) -> u64 {
        let minute = second_of(now) / 60;
        let most = |budget: &Budget| {
            budget.denials_in(minute).max(budget.denials_in(minute.saturating_sub(1)))
        };
        self.budgets.iter().map(most).max().unwrap_or(0)
    }

    /// Keeps what the store is to be given. How many denials found no room.
    fn buffer(
        &self,
        key: Key,
        account_id: AccountId,
        tally: Tally,
        operation: impl FnOnce() -> String,
    ) -> u64 {
        let (token_id, hour, reason, ..) = key;
        let shard = &self.shards[shard_of(token_id)];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known, _)) = shard.waiting.get_mut(&key) {
            known.add(tally);
            return 0;
        }
        let others = (token_id, hour, None, None, None);
        if reason.is_some() {
            // `None` comes before every reason, and every hour has its own share.
            let of_token = shard
                .waiting
                .range(others..)
                .take_while(|((id, at, ..), _)| (*id, *at) == (token_id, hour))
                .filter(|((_, _, reason, ..), _)| reason.is_some());
            if of_token.count() >= MAX_TOKEN_DENIALS {
                drop(shard);
                return self.buffer(others, account_id, tally, String::new);
            }
        }
        let of_account = shard.accounts.get(&account_id).copied().unwrap_or(0);
        if shard.waiting.len() < MAX_WAITING.0 && of_account < MAX_WAITING.1 {
            shard.waiting.insert(key, (account_id, tally, operation()));
            *shard.accounts.entry(account_id).or_default() += 1;
            return 0;
        }
        if let Some((_, known, _)) = shard.waiting.get_mut(&others) {
            known.add(tally);
            return 0;
        }
        shard.add_rest((account_id, hour), tally)
    }

    /// Everything that waits.
    pub(super) fn take(&self) -> (Vec<DenialCount>, Vec<DenialRest>) {
        let (mut denials, mut rests) = (Vec::new(), BTreeMap::new());
        for shard in &self.shards {
            let Shard { waiting, rests: more, .. } =
                std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            for (key, (account_id, tally, operation)) in waiting {
                let (token_id, hour, reason, address, scope_id) = key;
                let Tally { count, first, last } = tally;
                denials.push(DenialCount {
                    token_id,
                    account_id,
                    hour,
                    reason,
                    address,
                    scope_id,
                    operation,
                    count,
                    first,
                    last,
                });
            }
            for (key, tally) in more {
                rests.entry(key).and_modify(|known: &mut Tally| known.add(tally)).or_insert(tally);
            }
        }
        let rest = |((account_id, hour), Tally { count, first, last })| DenialRest {
            account_id,
            hour,
            count,
            first,
            last,
        };
        (denials, rests.into_iter().map(rest).collect())
    }

    /// Keeps what the store did not take. How many denials found no room.
    pub(super) fn restore(&self, denials: Vec<DenialCount>, rests: Vec<DenialRest>) -> u64 {
        let mut dropped = 0;
        for denial in denials {
            let DenialCount { token_id, account_id, hour, reason, address, scope_id, .. } = denial;
            let tally = Tally { count: denial.count, first: denial.first, last: denial.last };
            let key = (token_id, hour, reason, address, scope_id);
            dropped += self.buffer(key, account_id, tally, || denial.operation);
        }
        for rest in rests {
            let tally = Tally { count: rest.count, first: rest.first, last: rest.last };
            // Any shard will do.
            let mut shard = self.shards[0].lock().unwrap_or_else(PoisonError::into_inner);
            dropped += shard.add_rest((rest.account_id, rest.hour), tally);
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn denied(token: u128, account: u128, address: u32, time: i64) -> DeniedRequest {
        DeniedRequest {
            token_id: TokenId(Uuid::from_u128(token)),
            account_id: AccountId(Uuid::from_u128(account)),
            reason: Reason::ClientIpNotWhitelisted,
            address: Some(std::net::IpAddr::from(address.to_be_bytes()).into()),
            scope_id: Some(ScopeId(1)),
            time: Timestamp(time),
        }
    }

    fn sum(denials: &[DenialCount], rests: &[DenialRest]) -> u64 {
        denials.iter().map(|denial| denial.count).sum::<u64>()
            + rests.iter().map(|rest| rest.count).sum::<u64>()
    }

    /// Rule 12.10.
    #[test]
    fn denials_that_are_alike_are_one_row_with_the_first_and_the_last_time() {
        let denials = Denials::default();
        for time in [7, 5, 9] {
            assert_eq!(denials.note(denied(1, 1, 1, time), || "GET /x".to_owned()), 0);
        }
        denials.note(denied(1, 1, 2, 6), String::new);
        let (rows, rests) = denials.take();
        assert_eq!((rows.len(), rests.len()), (2, 0));
        assert_eq!((rows[0].count, rows[0].first, rows[0].last), (3, Timestamp(5), Timestamp(9)));
        assert_eq!(rows[0].operation, "GET /x");
        assert_eq!(denials.take().0.len(), 0);
    }

    /// 20,000 denials in a second of one token, each from another address.
    #[test]
    fn a_flood_is_counted_and_takes_its_share_only() {
        let denials = Denials::default();
        for number in 0..20_000 {
            assert_eq!(denials.note(denied(1, 1, number, 5_000_000), String::new), 0);
        }
        // Of a token with a budget of its own.
        denials.note(denied(2 << 8, 2, 1, 5_000_000), String::new);
        let (rows, rests) = denials.take();
        let flooded: Vec<_> =
            rows.iter().filter(|row| row.account_id.0 == Uuid::from_u128(1)).cloned().collect();
        assert_eq!(flooded.len(), MAX_TOKEN_DENIALS + 1, "its share, and one row of others");
        assert_eq!(rows.len(), flooded.len() + 1, "another token's denial has its row");
        let counted = sum(&flooded, &rests);
        assert!((20_000 - u64::from(OTHERS_AT_ONCE)..=20_000).contains(&counted), "{counted}");
    }

    #[test]
    fn most_denials_of_a_token_are_of_this_minute_or_the_last() {
        let denials = Denials::default();
        let second = |second: i64| second * 1_000_000;
        let most = |at: i64| denials.most_in_a_minute(Timestamp(second(at)));
        assert_eq!(most(0), 0);
        // 40 denials in four seconds of a minute, which come in turn; another token has 5.
        for number in 0..40 {
            denials.note(denied(1 << 8, 1, 1, second(600 + number % 4)), String::new);
        }
        for _ in 0..5 {
            denials.note(denied(2 << 8, 1, 1, second(601)), String::new);
        }
        assert_eq!(most(610), 40);
        assert_eq!(most(660), 40, "the minute before counts");
        for _ in 0..300 {
            denials.note(denied(1 << 8, 1, 1, second(665)), String::new);
        }
        assert_eq!(most(670), 300, "beyond the budget of a second, too");
        denials.note(denied(1 << 8, 1, 1, second(800)), String::new);
        assert_eq!(most(800), 1, "what is older does not count");
        assert_eq!(most(1_000), 0);
    }

    /// Many tokens of one account, and many accounts: memory has its bound, and nothing goes uncounted before that.
    #[test]
    fn accounts_have_shares_and_memory_has_a_bound() {
        let denials = Denials::default();
        // Two tokens that share a budget are apart here: it has another second for each.
        for token in 0..5_000 {
            denials.note(denied(token << 8, 1, 1, token as i64 * 1_000), String::new);
        }
        let (rows, rests) = denials.take();
        assert!(rows.len() <= MAX_WAITING.1 * SHARDS, "{}", rows.len());
        assert_eq!(sum(&rows, &rests), 5_000);
        let mut dropped = 0;
        for number in 0..100_000u128 {
            dropped += denials.note(denied(number, number, 1, 5), String::new);
        }
        let (rows, rests) = denials.take();
        assert_eq!((rows.len(), rests.len()), (MAX_WAITING.0 * SHARDS, MAX_RESTS * SHARDS));
        assert_eq!(sum(&rows, &rests) + dropped, 100_000);
        assert_eq!(denials.restore(rows, rests), MAX_RESTS as u64 * (SHARDS as u64 - 1));
    }
}
