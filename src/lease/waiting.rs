//! Whom a change waits for.
//!
//! Must stay true: only rows that were asked for after the change was known to be committed count.
//! One that such a reading lacks, or shows with a later renewal, belongs to a replica that must apply
//! the change before it decides again; so a later reading can only shorten the wait.

use std::collections::HashMap;

use super::{MonotonicInstant, Position, Row, RowId};

#[derive(Debug, Clone, Copy)]
struct Sighting {
    renewals: u64,
    /// When it was no longer than this that the lease counted from.
    ends: MonotonicInstant,
}

/// Until when the leases in the store last, as seen from here: each from when its renewal was first
/// seen.
#[derive(Debug, Default)]
pub struct Peers(HashMap<RowId, Sighting>);

/// A replica as a reading showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The name of its row.
    pub id: RowId,
    /// What it acknowledged.
    pub applied: Position,
    /// After this instant it decides nothing by any renewal that the reading showed.
    pub ends: MonotonicInstant,
}

/// All rows, as they stood at one instant between asking and answer.
#[derive(Debug, Clone)]
pub struct Reading {
    asked: MonotonicInstant,
    peers: Vec<Peer>,
}

impl Reading {
    /// When it was asked for.
    pub fn asked(&self) -> MonotonicInstant {
        self.asked
    }

    /// The position up to which every change has propagated at `now`; `head` was read in the same snapshot.
    pub fn propagated(&self, now: MonotonicInstant, head: Position) -> Position {
        let live = self.peers.iter().filter(|peer| peer.ends >= now);
        live.map(|peer| peer.applied).fold(head, Position::min)
    }

    /// The names of the rows whose leases may not be over at `now`.
    pub fn live(&self, now: MonotonicInstant) -> impl Iterator<Item = RowId> {
        self.peers.iter().filter(move |peer| peer.ends >= now).map(|peer| peer.id)
    }
}

impl Peers {
    /// Takes a reading of all rows. `asked` was taken before it was sent, `answered` after its answer.
    pub fn read(
        &mut self,
        asked: MonotonicInstant,
        answered: MonotonicInstant,
        rows: &[Row],
    ) -> Reading {
        self.0.retain(|id, _| rows.iter().any(|row| row.id == *id));
        let peers = rows.iter().map(|row| {
            let Row { id, length, renewals, applied } = *row;
            let fresh = Sighting { renewals, ends: answered.plus(length.reckoned()) };
            let seen = self.0.entry(id).or_insert(fresh);
            if seen.renewals < renewals {
                *seen = fresh;
            }
            Peer { id, applied, ends: seen.ends }
        });
        Reading { asked, peers: peers.collect() }
    }

    /// Rows whose leases are over: each to be deleted if it still has so many renewals, and only then.
    pub fn ended(&self, now: MonotonicInstant) -> impl Iterator<Item = (RowId, u64)> {
        let over = self.0.iter().filter(move |(_, seen)| now > seen.ends);
        over.map(|(&id, seen)| (id, seen.renewals))
    }
}

/// A change that waits until no replica decides on what was before it.
#[derive(Debug)]
pub struct Waiting {
    position: Position,
    committed: MonotonicInstant,
    /// Those still waited for; `None` until the first reading.
    peers: Option<Vec<Peer>>,
}

impl Waiting {
    /// For the change at `position`, known at `committed` to be committed; where the change was found
    /// made already, `position` is the head's then.
    pub fn new(position: Position, committed: MonotonicInstant) -> Self {
        Self { position, committed, peers: None }
    }

    /// Takes a reading; one that was asked for too early says nothing.
    pub fn read(&mut self, reading: &Reading) {
        if reading.asked <= self.committed {
            return;
        }
        let behind = reading.peers.iter().filter(|peer| peer.applied < self.position);
        self.peers = Some(match &self.peers {
            None => behind.copied().collect(),
            Some(before) => behind
                .filter_map(|peer| {
                    let before = before.iter().find(|before| before.id == peer.id)?;
                    Some(Peer { ends: before.ends.min(peer.ends), ..*peer })
                })
                .collect(),
        });
    }

    /// Whether no replica decides any more on what was before the change.
    pub fn is_complete(&self, now: MonotonicInstant) -> bool {
        self.until().is_some_and(|until| now > until)
    }

    /// After this instant it is complete whatever happens, which may be long ago. `None` until there was
    /// a reading.
    pub fn until(&self) -> Option<MonotonicInstant> {
        let ends = self.peers.as_ref()?.iter().map(|peer| peer.ends);
        Some(ends.max().unwrap_or_default())
    }

    /// The replicas that it waits for at `now`.
    pub fn behind(&self, now: MonotonicInstant) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten().filter(move |peer| peer.ends >= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseDuration;

    const LENGTH: LeaseDuration = LeaseDuration(1_000);

    fn row(id: u128, renewals: u64, applied: i64) -> Row {
        Row { id: RowId(id), length: LENGTH, renewals, applied: Position(applied) }
    }

    /// Seen at 100; asked for at 90.
    fn seen(rows: &[Row]) -> (Peers, Reading) {
        let mut peers = Peers::default();
        let reading = peers.read(MonotonicInstant(90), MonotonicInstant(100), rows);
        (peers, reading)
    }

    #[test]
    fn a_lease_counts_from_when_its_renewal_was_first_seen() {
        let (mut peers, _) = seen(&[row(1, 5, 0)]);
        peers.read(MonotonicInstant(490), MonotonicInstant(500), &[row(1, 5, 0)]);
        assert_eq!(peers.ended(MonotonicInstant(1_110)).count(), 0);
        assert_eq!(peers.ended(MonotonicInstant(1_111)).collect::<Vec<_>>(), [(RowId(1), 5)]);
        peers.read(MonotonicInstant(590), MonotonicInstant(600), &[row(1, 6, 0)]);
        // An older reading that comes late takes nothing back.
        peers.read(MonotonicInstant(491), MonotonicInstant(700), &[row(1, 5, 0)]);
        assert_eq!(peers.ended(MonotonicInstant(1_611)).collect::<Vec<_>>(), [(RowId(1), 6)]);
    }

    #[test]
    fn a_change_waits_for_those_behind_until_they_are_over() {
        let (_, reading) = seen(&[row(1, 5, 6), row(2, 5, 7)]);
        let mut waiting = Waiting::new(Position(7), MonotonicInstant(50));
        assert_eq!((waiting.until(), waiting.is_complete(MonotonicInstant(9_999))), (None, false));
        waiting.read(&reading);
        assert_eq!(waiting.until(), Some(MonotonicInstant(1_110)));
        let behind: Vec<_> = waiting.behind(MonotonicInstant(1_110)).map(|peer| peer.id).collect();
        assert_eq!(behind, [RowId(1)]);
        assert!(
            !waiting.is_complete(MonotonicInstant(1_110))
                && waiting.is_complete(MonotonicInstant(1_111))
        );
        assert_eq!(waiting.behind(MonotonicInstant(1_111)).count(), 0);
    }

    #[test]
    fn what_all_have_applied_binds_and_the_dead_hold_nothing_back() {
        let (_, reading) = seen(&[row(1, 5, 6), row(2, 5, 9)]);
        assert_eq!(reading.propagated(MonotonicInstant(1_110), Position(8)), Position(6));
        assert_eq!(reading.live(MonotonicInstant(1_110)).count(), 2);
        assert_eq!(reading.propagated(MonotonicInstant(1_111), Position(8)), Position(8));
        assert_eq!(reading.live(MonotonicInstant(1_111)).count(), 0);
    }

    #[test]
    fn what_was_asked_for_before_the_commit_says_nothing() {
        let (_, reading) = seen(&[]);
        for (committed, complete) in [(89, true), (90, false), (95, false)] {
            let mut waiting = Waiting::new(Position(7), MonotonicInstant(committed));
            waiting.read(&reading);
            assert_eq!(waiting.is_complete(MonotonicInstant(100)), complete, "{committed}");
        }
    }

    #[test]
    fn a_later_reading_only_shortens_the_wait() {
        let (mut peers, first) = seen(&[row(1, 5, 6), row(2, 5, 6), row(3, 5, 6)]);
        let mut waiting = Waiting::new(Position(7), MonotonicInstant(50));
        waiting.read(&first);
        // One renews, one has applied it, one is gone, one is new.
        let rows = [row(1, 6, 6), row(2, 5, 7), row(4, 0, 6)];
        waiting.read(&peers.read(MonotonicInstant(190), MonotonicInstant(200), &rows));
        let behind: Vec<_> =
            waiting.behind(MonotonicInstant(0)).map(|peer| (peer.id, peer.ends)).collect();
        assert_eq!(behind, [(RowId(1), MonotonicInstant(1_110))]);
        // A reading of before the first one that counts, answered late, brings nobody back.
        waiting.read(&first);
        assert_eq!(waiting.behind(MonotonicInstant(0)).count(), 1);
        let last = peers.read(MonotonicInstant(290), MonotonicInstant(300), &[row(4, 0, 6)]);
        assert_eq!(last.asked(), MonotonicInstant(290));
        waiting.read(&last);
        assert!(waiting.is_complete(MonotonicInstant(300)));
    }
}
