//! How often an address has presented a secret that is not valid: to sign in, or as the bearer of a token.
//!
//! Must stay true: a right secret always passes, since everybody behind one address would be locked out
//! otherwise by anybody there; a wrong one is answered the same, whatever it is; memory is bounded however many
//! addresses try. Guessing leads nowhere at any rate: secrets have 128 random bits (docs/policy.md,
//! rules 7.3 and 8.11).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::Peer;

/// How long a failure counts, from the first of them.
pub const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Addresses that are remembered; each costs some hundred bytes.
const ADDRESSES: u64 = 100_000;

/// See the module.
#[derive(Debug)]
pub struct Attempts {
    most: u32,
    failures: Cache<Peer, Arc<AtomicU32>>,
}

impl Attempts {
    /// Allows `most` failures from one address, or one IPv6 /64, in [`WINDOW`].
    pub fn new(most: u32) -> Self {
        let failures = Cache::builder().max_capacity(ADDRESSES).time_to_live(WINDOW).build();
        Self { most, failures }
    }

    /// Counts a failed attempt. Whether there were too many before.
    pub fn failed(&self, from: Peer) -> bool {
        let count = self.failures.get_with(from.subscriber(), Arc::default);
        let another = |n| (n < self.most).then_some(n + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another).is_err()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const MOST: u32 = 10;

    #[test]
    fn failures_count_by_subscriber() {
        let ip = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        let attempts = Attempts::new(MOST);
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
