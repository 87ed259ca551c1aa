//! How much of something may be in use at once: in all, and by one subscriber (see [`Peer::subscriber`]).
//!
//! Must stay true: one subscriber never takes more than its share, so what it hoards leaves some to others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Peer;

#[derive(Debug, Default)]
struct Occupancy {
    all: usize,
    by: HashMap<Peer, usize>,
}

/// A number of units (connections, bytes) of which so many may be in use.
#[derive(Debug)]
pub struct Limiter {
    total: usize,
    share: usize,
    used: Mutex<Occupancy>,
}

/// Units in use; free again once this is dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<Limiter>,
    whose: Peer,
    units: usize,
}

impl Limiter {
    /// At most `total` units at once, and of one subscriber at most `share` of them.
    pub fn new(total: usize, share: usize) -> Arc<Self> {
        Arc::new(Self { total, share: share.min(total), used: Mutex::default() })
    }

    /// Takes `units` for `peer`; `None` where that would be too many.
    pub fn take(self: &Arc<Self>, peer: impl Into<Peer>, units: usize) -> Option<Permit> {
        let whose = peer.into().subscriber();
        let mut used = self.lock();
        let theirs = used.by.get(&whose).copied().unwrap_or(0);
        if units > self.total.saturating_sub(used.all) || units > self.share.saturating_sub(theirs)
        {
            return None;
        }
        used.all += units;
        used.by.insert(whose, theirs + units);
        Some(Permit { limiter: self.clone(), whose, units })
    }

    /// Units in use.
    pub fn in_use(&self) -> usize {
        self.lock().all
    }

    /// What a panic elsewhere leaves is consistent: nothing in here panics halfway.
    fn lock(&self) -> MutexGuard<'_, Occupancy> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.limiter.lock();
        used.all -= self.units;
        if let Some(theirs) = used.by.get_mut(&self.whose) {
            *theirs -= self.units;
            if *theirs == 0 {
                used.by.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> std::net::IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_subscriber_takes_its_share_and_no_more() {
        let limiter = Limiter::new(10, 5);
        // A whole /64 of IPv6 is one subscriber, and an IPv4-mapped address is the IPv4 address.
        for (mine, other) in [("2001:db8::", "2001:db8:0:1::1"), ("::ffff:192.0.2.", "192.0.2.9")] {
            let addresses = (1..10).map(|last| match mine.strip_suffix("::") {
                Some(network) => ip(&format!("{network}::{last}")),
                None => ip(&format!("{mine}1")),
            });
            let mut hoard: Vec<_> = addresses.filter_map(|peer| limiter.take(peer, 1)).collect();
            assert_eq!(hoard.len(), 5, "{mine}");
            let others = limiter.take(ip(other), 5).expect("what is left to others");
            assert!(limiter.take(ip("198.51.100.1"), 1).is_none(), "all are in use");
            hoard.pop();
            let again = if mine.contains('.') { "192.0.2.1" } else { "2001:db8::ffff" };
            assert!(limiter.take(ip(again), 2).is_none());
            assert!(limiter.take(ip(again), 1).is_some());
            drop((hoard, others));
            assert_eq!(limiter.in_use(), 0);
            assert!(limiter.lock().by.is_empty(), "nothing is kept of who has nothing");
        }
    }

    #[test]
    fn more_than_there_is_is_refused() {
        let limiter = Limiter::new(8, usize::MAX);
        for units in [9, usize::MAX] {
            assert!(limiter.take(ip("192.0.2.1"), units).is_none());
        }
        assert!(limiter.take(ip("192.0.2.1"), 8).is_some());
    }
}
