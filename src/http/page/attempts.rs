//! How often somebody may try to sign in.
//!
//! Must stay true: whoever has failed too often is refused before their credential is looked at, so that
//! trying on tells them nothing; memory is bounded however many addresses try.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use crate::net::subscriber;

/// Failures from one address in [`WINDOW`], after which it is refused.
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
    /// Counts an attempt as failed until [`Self::succeeded`] says otherwise: several at once are so many.
    /// Whether it may be made.
    pub(super) fn begin(&self, from: IpAddr) -> bool {
        let count = self.0.get_with(subscriber(from), Arc::default);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < MOST).then_some(n + 1))
            .is_ok()
    }

    /// The attempt was none of those that count.
    pub(super) fn succeeded(&self, from: IpAddr) {
        if let Some(count) = self.0.get(&subscriber(from)) {
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_by_subscriber() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let attempts = Attempts::default();
        for n in 0..100 {
            assert!(attempts.begin(ip("2001:db8::1")), "{n}");
            attempts.succeeded(ip("2001:db8::2"));
        }
        for n in 0..MOST {
            assert!(attempts.begin(ip(&format!("2001:db8::{n}"))));
        }
        assert!(!attempts.begin(ip("2001:db8::ffff")));
        assert!(attempts.begin(ip("2001:db8:0:1::1")));
        assert!(attempts.begin(ip("192.0.2.1")));
        assert!(attempts.begin(ip("::ffff:192.0.2.1")));
    }
}
