//! How often an address has failed to sign in.
//!
//! Must stay true: a right credential always signs in, since everybody behind one address would be locked out
//! otherwise by anybody there; a wrong one is answered the same, whatever it is; memory is bounded however many
//! addresses try. Guessing leads nowhere at any rate: credentials have 128 random bits (docs/policy.md,
//! rules 7.3 and 8.11). What is limited is what failures write to the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use crate::net::subscriber;

/// Failures from one address in [`WINDOW`], after which it is asked to wait.
const MOST: u32 = 10;
/// How long a failure counts, from the first of them.
pub(super) const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Addresses that are remembered; each costs some hundred bytes.
const ADDRESSES: u64 = 100_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Attempts(Cache<IpAddr, Arc<AtomicU32>>);

impl Default for Attempts {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(ADDRESSES).time_to_live(WINDOW).build())
    }
}

impl Attempts {
    /// Counts a failed attempt. Whether there were too many before.
    pub(super) fn failed(&self, from: IpAddr) -> bool {
        let count = self.0.get_with(subscriber(from), Arc::default);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < MOST).then_some(n + 1))
            .is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_by_subscriber() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let attempts = Attempts::default();
        for n in 0..MOST {
            assert!(!attempts.failed(ip(&format!("2001:db8::{n}"))));
        }
        assert!(attempts.failed(ip("2001:db8::ffff")));
        assert!(!attempts.failed(ip("2001:db8:0:1::1")));
        for _ in 0..MOST {
            assert!(!attempts.failed(ip("192.0.2.1")));
        }
        assert!(attempts.failed(ip("::ffff:192.0.2.1")));
    }
}
