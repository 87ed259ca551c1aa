//! Leases: how an answered change reaches every replica, also on one that is paused or cut
//! off. State machines without I/O: time, answers and rows go in; who may decide, and whom a change
//! waits for, comes out. The protocol and why it holds: docs/consistency.md.
//!
//! Must stay true: a lease is counted from before its renewal was sent, and shortened by [`DRIFT`];
//! who waits for its end counts from after it saw the renewal, and waits longer by [`DRIFT`]. No
//! clock is ever compared with another one, the store's neither: that is a wall clock, which may be
//! set, and a failover brings another one.

mod replica;
mod waiting;

pub use replica::{Attempt, Epoch, RenewalOutcome, Replica};
pub use waiting::{Peer, Peers, Reading, Waiting};

/// How fast or slow a clock may run: by one part in this many of true time. docs/consistency.md,
/// assumption 1.
pub const DRIFT: u64 = 100;

/// An instant of this machine's own clock, which runs while the machine sleeps: microseconds since
/// it started. No two machines' are comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MonotonicInstant(pub u64);

impl MonotonicInstant {
    /// So many microseconds later.
    #[must_use]
    pub const fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// How long a lease lasts, in microseconds of true time. It stands in the row, and stays while the row
/// does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseDuration(pub u64);

impl LeaseDuration {
    /// For how long its holder relies on it, by a clock that may be slow.
    pub const fn held(self) -> u64 {
        self.0 - self.0.div_ceil(DRIFT)
    }

    /// For how long others reckon with it, by a clock that may be fast.
    pub const fn reckoned(self) -> u64 {
        self.0.saturating_add(self.0.div_ceil(DRIFT))
    }
}

/// How many changes the store has seen: that of the head, or up to which somebody has applied them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub i64);

impl Position {
    /// The one that the next change has.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Whether a reading of the record behind this position lacks nothing: `first` is the first
    /// change that it found, `head` was read in the same snapshot. If not, the record was pruned.
    pub fn is_followed(self, first: Option<Self>, head: Self) -> bool {
        match first {
            Some(first) => first == self.next(),
            None => head <= self,
        }
    }
}

/// Which store it is: another one, or the same on another timeline, may lack what this one had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Postgres' system identifier.
    pub system: u64,
    /// The timeline that it writes.
    pub timeline: u32,
    /// Postgres' numbers of the database and, in the lower 32 bits, of a table in it: others once they were dropped and
    /// restored.
    pub database: u64,
}

/// What stands at the head of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the newest change.
    pub position: Position,
    /// Of the store that said so.
    pub identity: Identity,
}

/// The name of a replica's row. Each attempt to register makes a new one: a row that comes back under
/// an old name would count from when the old one was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u128);

/// A replica as the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub id: RowId,
    /// Of its leases.
    pub length: LeaseDuration,
    /// How often it was renewed: each renewal adds one.
    pub renewals: u64,
    /// Up to where it has said to have applied every change.
    pub applied: Position,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_holder_is_done_before_a_fast_observer() {
        for length in [1, 99, 100, 101, 10_000_000, 86_400_000_000] {
            let (held, reckoned) = (LeaseDuration(length).held(), LeaseDuration(length).reckoned());
            // At 99 % and at 101 % of the true rate.
            assert!(u128::from(held) * 100 <= u128::from(length) * 99, "{length}: {held}");
            assert!(u128::from(reckoned) * 100 >= u128::from(length) * 101, "{length}: {reckoned}");
        }
    }

    #[test]
    fn a_pruned_record_is_noticed() {
        let cases = [
            (Some(6), 9, true),
            (Some(7), 9, false),
            (None, 5, true),
            (None, 6, false),
            // A head that was read earlier than what is applied.
            (None, 4, true),
        ];
        for (first, head, complete) in cases {
            let found = Position(5).is_followed(first.map(Position), Position(head));
            assert_eq!(found, complete, "{first:?} {head}");
        }
    }
}
