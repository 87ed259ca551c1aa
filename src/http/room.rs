//! How many places of a kind there are (connections, pages, pieces of forms), and one subscriber's share.
//!
//! Must stay true: a client that takes its whole share leaves places to others, such as health checks.

use std::net::IpAddr;
use std::sync::Arc;

use crate::net::{Limiter, Permit};

/// Who has places.
#[derive(Debug)]
pub(super) struct Room(Arc<Limiter>);

/// One place; free again once it is dropped.
pub(super) type Seat = Permit;

impl Room {
    /// `all` places, of which one subscriber gets at most `share`.
    pub(super) fn new(all: usize, share: usize) -> Self {
        Self(Limiter::new(all, share))
    }

    /// A place for `peer`; `None` where there is none.
    pub(super) fn enter(&self, peer: IpAddr) -> Option<Seat> {
        self.0.take(peer, 1)
    }
}
