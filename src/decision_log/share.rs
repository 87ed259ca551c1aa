//! The share of the log that the denials of one account have, and those of unknown tokens: so that a flood of them
//! neither pushes older lines out nor hides those of others. Rule 13.7 of docs/policy.md.
//!
//! Each share is a token bucket of bytes, kept as one number: the instant at which the bucket is full again (the
//! generic cell rate algorithm, ITU-T I.371).
//!
//! # Invariants
//! - An account's denials take at most a sixteenth of the log's size at once, and as much again in each hour after
//!   that.
//! - Memory is bounded: there are [`BUCKETS`] buckets, however many accounts there are. Accounts with the same bucket
//!   have one share together. A hash with a random key chooses the bucket, so that nobody can aim at another account's.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Stopwatch;
use crate::policy::id::AccountId;
use crate::telemetry::DropCause;

/// Shares of accounts.
const BUCKETS: usize = 1 << 12;
/// A share is the log's size divided by this.
const PART: u64 = 16;
/// How long an empty bucket takes to be full again.
const REFILL: Duration = Duration::from_secs(60 * 60);

/// One account's share, or that of unknown tokens.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    /// When it is full again, in microseconds of the monotonic clock.
    full_at: AtomicU64,
    /// How many records were dropped and are not reported in the log yet, by cause.
    dropped: [AtomicU64; DropCause::ALL.len()],
    /// The account whose record was dropped last, in two halves.
    owner: [AtomicU64; 2],
}

impl Bucket {
    /// Whether `cost`, in microseconds of its refilling, is left of `burst` at `now`.
    fn admit(&self, cost: u64, burst: u64, now: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        self.full_at
            .fetch_update(relaxed, relaxed, |full_at| {
                let full_at = full_at.max(now) + cost;
                (full_at - now <= burst).then_some(full_at)
            })
            .is_ok()
    }
}

/// Records that were dropped: of which account, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DroppedRecords {
    /// The account; `None` for unknown tokens.
    pub(super) account: Option<AccountId>,
    pub(super) cause: DropCause,
    pub(super) count: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    accounts: Box<[Bucket]>,
    unknown: Bucket,
    hasher: RandomState,
    /// Bytes of one share.
    bytes: u64,
}

impl Shares {
    /// The shares of a log of `max_size` bytes.
    pub(super) fn new(max_size: u64) -> Self {
        let accounts = (0..BUCKETS).map(|_| Bucket::default()).collect();
        let bytes = (max_size / PART).max(1);
        Self { accounts, unknown: Bucket::default(), hasher: RandomState::new(), bytes }
    }

    fn bucket(&self, account: Option<AccountId>) -> &Bucket {
        match account {
            None => &self.unknown,
            Some(account) => &self.accounts[self.hasher.hash_one(account) as usize % BUCKETS],
        }
    }

    /// Whether a line of so many bytes is within the account's share; if so, it is taken from the share. `None` stands
    /// for unknown tokens.
    pub(super) fn admit(&self, account: Option<AccountId>, bytes: u64, now: Stopwatch) -> bool {
        let refill = REFILL.as_micros() as u64;
        // In 128 bits: a share may have terabytes, and an hour has billions of microseconds.
        let cost = u128::from(bytes) * u128::from(refill) / u128::from(self.bytes);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        self.bucket(account).admit(cost, refill, now.moment().0)
    }

    /// Counts a record that was dropped, to be reported in the log.
    pub(super) fn dropped(&self, account: Option<AccountId>, cause: DropCause) {
        self.dropped_many(&DroppedRecords { account, cause, count: 1 });
    }

    /// The same for several.
    pub(super) fn dropped_many(&self, dropped: &DroppedRecords) {
        let bucket = self.bucket(dropped.account);
        if let Some(AccountId(id)) = dropped.account {
            let (high, low) = id.as_u64_pair();
            bucket.owner[0].store(high, Ordering::Relaxed);
            bucket.owner[1].store(low, Ordering::Relaxed);
        }
        bucket.dropped[dropped.cause as usize].fetch_add(dropped.count, Ordering::Relaxed);
    }

    /// What was dropped since the last call. Of accounts that share a bucket, one is named.
    pub(super) fn take_dropped(&self) -> Vec<DroppedRecords> {
        let mut all = Vec::new();
        for bucket in self.accounts.iter().chain([&self.unknown]) {
            for (cause, _) in DropCause::ALL {
                let counter = &bucket.dropped[cause as usize];
                if counter.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                let count = counter.swap(0, Ordering::Relaxed);
                let [high, low] = [0, 1].map(|half| bucket.owner[half].load(Ordering::Relaxed));
                let account = (!std::ptr::eq(bucket, &self.unknown))
                    .then(|| AccountId(Uuid::from_u64_pair(high, low)));
                all.push(DroppedRecords { account, cause, count });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(number: u128) -> Option<AccountId> {
        Some(AccountId(Uuid::from_u128(number)))
    }

    #[test]
    fn a_flood_takes_its_share_and_leaves_those_of_others() {
        let shares = Shares::new(16_000);
        let now = Stopwatch::start();
        let admitted = (0..1_000).filter(|_| shares.admit(account(1), 100, now)).count();
        assert_eq!(admitted, 10, "1,000 bytes at once");
        let admitted = (0..1_000).filter(|_| shares.admit(None, 100, now)).count();
        assert_eq!(admitted, 10, "unknown tokens have a share of their own");
        // Accounts that fall into the bucket of the first one are few.
        let others = (2..1_002).filter(|&number| shares.admit(account(number), 100, now)).count();
        assert!(others >= 990, "{others}");
    }

    #[test]
    fn a_share_fills_up_again_within_the_hour() {
        let bucket = Bucket::default();
        let hour = REFILL.as_micros() as u64;
        let tenth = hour / 10;
        let start = 1_000_000;
        assert_eq!((0..100).filter(|_| bucket.admit(tenth, hour, start)).count(), 10);
        assert!(!bucket.admit(tenth, hour, start + tenth - 1));
        assert!(bucket.admit(tenth, hour, start + tenth));
        assert!(!bucket.admit(tenth, hour, start + tenth));
        assert_eq!((0..100).filter(|_| bucket.admit(tenth, hour, start + 3 * hour)).count(), 10);
    }

    #[test]
    fn a_line_larger_than_a_share_is_refused_and_nothing_overflows() {
        let shares = Shares::new(1);
        assert!(!shares.admit(account(1), u64::MAX, Stopwatch::start()));
        let shares = Shares::new(u64::MAX);
        assert!(shares.admit(account(1), 1 << 30, Stopwatch::start()));
    }

    #[test]
    fn dropped_records_are_reported_once_by_account_and_cause() {
        let shares = Shares::new(16_000);
        for cause in [DropCause::Share, DropCause::Share, DropCause::Queue] {
            shares.dropped(account(7), cause);
        }
        shares.dropped(None, DropCause::Disk);
        let mut dropped = shares.take_dropped();
        dropped.sort_by_key(|dropped| (dropped.account, dropped.count));
        let record = |account, cause, count| DroppedRecords { account, cause, count };
        let wanted = [
            record(None, DropCause::Disk, 1),
            record(account(7), DropCause::Queue, 1),
            record(account(7), DropCause::Share, 2),
        ];
        assert_eq!(dropped, wanted);
        assert_eq!(shares.take_dropped(), []);
    }
}
