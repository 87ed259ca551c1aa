//! What goes wrong in a run: the faults of the world, which the protocol must bear, and the planted
//! ones, which must be found.

use portcullis::lease::{DRIFT, LeaseDuration};

use crate::lease::random::Random;

/// A lease, about, in microseconds.
pub(crate) const LEASE: u64 = 1_000_000;
/// The shortest and the longest that a replica takes.
pub(crate) const SHORTEST: u64 = LEASE * 6 / 10;
pub(crate) const LONGEST: u64 = LEASE * 12 / 10;
/// How many changes are made in a run.
pub(crate) const CHANGES: u32 = 10;

/// A planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// A lease counts from the answer to its renewal.
    LeaseFromAnswer,
    /// Both sides take every clock for a perfect one.
    DriftIgnored,
    /// A renewal holds although the changes up to its position are not applied.
    HoldsUnapplied,
    /// The head is read before the row is written.
    HeadReadFirst,
    /// Acknowledged when read, applied after that.
    AcknowledgedUnapplied,
    /// Who finds the change made already does not wait.
    RepeatedNotWaiting,
    /// The rows were asked for before the change was committed.
    RowsBeforeCommit,
    /// A renewal counts as seen when the rows were asked for, not when they came.
    SeenFromQuestion,
    /// The end of others' leases is taken from the store's wall clock.
    WallClock,
    /// A row is deleted when half of its lease is over.
    DeletedEarly,
    /// Who registers anew does so under the old name.
    NameReused,
    /// Facts were read before the replica registered.
    FactsBeforeRow,
    /// Another store is taken for the same one.
    IdentityIgnored,
    /// Writes hit rows of another store than the writer believes in.
    IdentityUnnamed,
    /// The position was pruned, and nobody looks.
    PruningIgnored,
    /// A decision looks at a fact first and at the lease then.
    FactBeforeLease,
    /// A reading that was under way when its fact was changed is kept.
    OldReadKept,
    /// The clock stops while the machine sleeps.
    ClockSleeps,
    /// What was told of a change is acknowledged without a look at the record.
    ToldUnchecked,
    /// It is compared with the record, but may have been told before the change was made.
    ToldEarly,
    /// Who has left goes on deciding while it has a lease.
    LeftGoesOn,
}

impl Fault {
    pub(crate) const PLANTED: &[Self] = &[
        Self::LeaseFromAnswer,
        Self::DriftIgnored,
        Self::HoldsUnapplied,
        Self::HeadReadFirst,
        Self::AcknowledgedUnapplied,
        Self::RepeatedNotWaiting,
        Self::RowsBeforeCommit,
        Self::SeenFromQuestion,
        Self::WallClock,
        Self::DeletedEarly,
        Self::NameReused,
        Self::FactsBeforeRow,
        Self::IdentityIgnored,
        Self::IdentityUnnamed,
        Self::PruningIgnored,
        Self::FactBeforeLease,
        Self::OldReadKept,
        Self::ClockSleeps,
        Self::ToldUnchecked,
        Self::ToldEarly,
        Self::LeftGoesOn,
    ];
}

/// What happens to the world, beside its ordinary course.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blow {
    /// A process stands still for so long.
    Pause {
        node: usize,
        length: u64,
    },
    /// No message comes to or from it for so long.
    Cut {
        node: usize,
        length: u64,
    },
    /// It ends, and another one starts in its place after so long; in order or not.
    End {
        node: usize,
        back: Option<u64>,
        orderly: bool,
    },
    FailOver {
        choice: u64,
        wall: i64,
    },
    StepWall(i64),
}

/// How a run goes.
#[derive(Debug)]
pub(crate) struct Plan {
    /// How many processes serve. One more only makes changes.
    pub(crate) replicas: usize,
    pub(crate) end: u64,
    /// Messages lost, and messages that take long, of a thousand.
    pub(crate) lost: u64,
    pub(crate) late: u64,
    /// Steps inside a process that take long, of a thousand.
    pub(crate) slow: u64,
    /// Notifications lost, of a thousand.
    pub(crate) unnotified: u64,
    /// Notifications that tell of another change than was made, and changes of which somebody tells before
    /// they are made, of a thousand.
    pub(crate) untrue: u64,
    /// Commits that the standby takes long to confirm, of a thousand.
    pub(crate) lagging: u64,
    pub(crate) blows: Vec<(u64, Blow)>,
    /// Where given, no change waits longer, and no lease lapses while its process runs.
    pub(crate) longest_wait: Option<u64>,
}

impl Plan {
    /// Nothing goes wrong.
    pub(crate) fn calm(random: &mut Random) -> Self {
        Self {
            replicas: random.within(2..4) as usize,
            end: 4 * LEASE,
            lost: 0,
            late: 0,
            slow: 0,
            unnotified: 0,
            untrue: 0,
            lagging: 0,
            blows: Vec::new(),
            longest_wait: Some(30_000),
        }
    }

    /// Nothing goes wrong, but that one process dies.
    pub(crate) fn one_dies(random: &mut Random) -> Self {
        let death = Blow::End { node: 0, back: None, orderly: false };
        let longest_lease = LeaseDuration(LONGEST).reckoned() * DRIFT / (DRIFT - 1);
        Self {
            blows: vec![(random.within(LEASE..2 * LEASE), death)],
            longest_wait: Some(longest_lease + 10_000),
            ..Self::calm(random)
        }
    }

    /// Anything may.
    pub(crate) fn rough(random: &mut Random) -> Self {
        let mut plan = Self {
            lost: random.one_of(&[0, 20, 100]),
            late: random.one_of(&[0, 20, 100]),
            slow: random.one_of(&[0, 20, 100]),
            unnotified: random.one_of(&[0, 300, 1000]),
            untrue: random.one_of(&[0, 100, 300]),
            lagging: random.one_of(&[0, 100, 500]),
            longest_wait: None,
            ..Self::calm(random)
        };
        for _ in 0..random.below(7) {
            let node = random.below(plan.replicas as u64 + 1) as usize;
            let length = random.one_of(&[LEASE / 4, LEASE, 3 * LEASE]);
            let length = random.within(1..length);
            let blow = match random.below(8) {
                0..3 => Blow::Pause { node, length },
                3..5 => Blow::Cut { node, length },
                5 => {
                    let back = (random.below(4) > 0).then_some(length);
                    Blow::End { node, back, orderly: random.below(2) == 0 }
                }
                6 => Blow::FailOver { choice: random.next(), wall: wall(random) },
                _ => Blow::StepWall(wall(random)),
            };
            plan.blows.push((random.below(plan.end), blow));
        }
        plan
    }

    /// Failovers that lose what others have seen, again and again, while nobody is told of changes, or some
    /// late.
    pub(crate) fn forgetful(random: &mut Random) -> Self {
        let mut plan = Self {
            lagging: 800,
            unnotified: random.one_of(&[0, 1000]),
            late: random.one_of(&[0, 100]),
            ..Self::rough(random)
        };
        for _ in 0..random.within(1..4) {
            let blow = Blow::FailOver { choice: random.next(), wall: 0 };
            plan.blows.push((random.below(plan.end), blow));
        }
        plan
    }

    pub(crate) fn fails_over(&self) -> bool {
        self.blows.iter().any(|(_, blow)| matches!(blow, Blow::FailOver { .. }))
    }
}

fn wall(random: &mut Random) -> i64 {
    random.within(0..4 * LEASE) as i64 - 2 * LEASE as i64
}
