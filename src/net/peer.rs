//! Who is at the other end of a connection, and against whose share it counts.

use std::fmt;
use std::net::IpAddr;

use super::subscriber;

/// The other end of a connection: an address, or a user of this host where it came through a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Its address.
    Ip(IpAddr),
    /// The user id of the process that connected, as the system gives it (`SO_PEERCRED`).
    User(u32),
}

impl Peer {
    /// The address; `None` for a user of this host.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(ip),
            Self::User(_) => None,
        }
    }

    /// The same with IPv4-mapped IPv6 addresses as IPv4 ones.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::Ip(ip) => Self::Ip(ip.to_canonical()),
            user @ Self::User(_) => user,
        }
    }

    /// Whose share it counts against: see [`subscriber`]. Each user of this host has a share of its own.
    #[must_use]
    pub fn subscriber(self) -> Self {
        match self {
            Self::Ip(ip) => Self::Ip(subscriber(ip)),
            user @ Self::User(_) => user,
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::User(id) => write!(f, "user {id} of this host"),
        }
    }
}
