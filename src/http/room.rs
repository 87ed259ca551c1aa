//! How many connections may be open.
//!
//! Must stay true: whoever hoards connections leaves some to others, who watch this server's health by them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::net;

/// Connections at once; more are closed at once. Of one subscriber at most half of them.
const CONNECTIONS: usize = 2_048;

/// Who has connections open.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place; free again once it is dropped.
pub(super) struct Seat {
    room: Arc<Room>,
    whose: IpAddr,
}

impl Room {
    /// A place for a connection from `peer`; `None` where there is none.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let whose = net::subscriber(peer);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let theirs = open.entry(whose).or_default();
        if all >= CONNECTIONS || *theirs >= CONNECTIONS / 2 {
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
        let mut open = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        assert!(room.0.lock().unwrap().is_empty());
    }
}
