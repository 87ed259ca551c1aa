//! How many places of a kind there are (connections, pages, pieces of forms), and one subscriber's share.
//!
//! Must stay true: whoever hoards places leaves some to others, who watch this server's health by them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::net;

/// Connections at once; more are closed at once. Of one subscriber at most half of them.
const CONNECTIONS: usize = 1_024;

/// Who has places.
#[derive(Debug)]
pub(super) struct Room {
    all: usize,
    share: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One place; free again once it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    room: Arc<Room>,
    whose: IpAddr,
}

impl Default for Room {
    /// For connections.
    fn default() -> Self {
        Self::new(CONNECTIONS, CONNECTIONS / 2)
    }
}

impl Room {
    /// `all` places, of which one subscriber gets at most `share`.
    pub(super) fn new(all: usize, share: usize) -> Self {
        Self { all, share, taken: Mutex::default() }
    }

    /// A place for `peer`; `None` where there is none.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let whose = net::subscriber(peer);
        let mut open = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let theirs = open.entry(whose).or_default();
        if all >= self.all || *theirs >= self.share {
            if *theirs == 0 {
                open.remove(&whose);
            }
            return None;
        }
        *theirs += 1;
        Some(Seat { room: self.clone(), whose })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = open.get_mut(&self.whose) {
            *theirs -= 1;
            if *theirs == 0 {
                open.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_connections() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let room = Arc::new(Room::default());
        let mut hoard: Vec<_> =
            (0..CONNECTIONS).map_while(|n| room.enter(ip(&format!("2001:db8::{n:x}")))).collect();
        assert_eq!(hoard.len(), CONNECTIONS / 2);
        assert!(room.enter(ip("2001:db8:0:1::1")).is_some());
        hoard.pop();
        assert!(room.enter(ip("2001:db8::1")).is_some());
        drop(hoard);
        assert!(room.taken.lock().unwrap().is_empty());
    }
}
