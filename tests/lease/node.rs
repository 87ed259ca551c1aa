//! A process of the simulation: its clock, what it has in memory, and what it waits for.

use portcullis::lease::{
    Epoch, Identity, LeaseDuration, MonotonicInstant, Peers, Position, Reading, Replica, RowId,
    Waiting,
};

use crate::lease::plan::{Fault, LEASE, LONGEST, SHORTEST};
use crate::lease::random::Random;
use crate::lease::store::{KEYS, Op, Told};

/// A clock that runs at a rate of its own, from where it likes.
#[derive(Debug)]
pub(crate) struct Clock {
    offset: u64,
    /// Microseconds in a million of true time.
    rate: u64,
    /// For how long it stood still.
    pub(crate) slept: u64,
}

impl Clock {
    fn any(random: &mut Random) -> Self {
        let rate = random.one_of(&[990_001, 1_000_000, 1_009_999]);
        Self { offset: random.within(1_000..100 * LEASE), rate, slept: 0 }
    }

    pub(crate) fn at(&self, now: u64) -> MonotonicInstant {
        MonotonicInstant(self.offset + now.saturating_sub(self.slept) * self.rate / 1_000_000)
    }

    /// The first instant of true time at which it shows `moment`.
    pub(crate) fn when(&self, moment: MonotonicInstant) -> u64 {
        (moment.0.saturating_sub(self.offset) * 1_000_000).div_ceil(self.rate) + self.slept
    }
}

/// A step inside a process. Between any two it may stand still, or end.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Start,
    Renew,
    RenewAtOnce,
    /// Was told of a change: which one it was, says somebody.
    Notified {
        told: Option<Told>,
    },
    /// Makes it effective, for the row that there was when it was the next.
    Follow {
        told: Told,
        epoch: Epoch,
        row: Option<RowId>,
        identity: Option<Identity>,
    },
    /// Has it compared with the record, and acknowledged.
    Confirm {
        told: Told,
        epoch: Epoch,
        row: Option<RowId>,
        identity: Option<Identity>,
    },
    /// Makes changes effective: what was known of these keys is forgotten.
    Forget {
        keys: [bool; KEYS],
        epoch: Epoch,
        position: Position,
    },
    /// Says so to the machine and to the store.
    Applied {
        epoch: Epoch,
        position: Position,
    },
    Decide,
    CheckLease {
        decision: Decision,
        fact: Option<u64>,
    },
    LookAtFact {
        decision: Decision,
    },
    Submit {
        op: Op,
    },
    Retry {
        op: Op,
    },
    Poll,
    Settle,
    /// Ends in order: it deletes its row, and hears what was under way until it is gone.
    Leave {
        back: Option<u64>,
    },
    End {
        back: Option<u64>,
    },
}

/// A decision under way, and the newest change to its key that was bound when it began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decision {
    pub(crate) key: usize,
    pub(crate) floor: u64,
}

/// A change that is waited for.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) op: Op,
    /// Everything up to this change to its key is bound with it.
    pub(crate) serial: u64,
    pub(crate) since: u64,
    pub(crate) waiting: Waiting,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) serves: bool,
    pub(crate) clock: Clock,
    pub(crate) paused_until: u64,
    pub(crate) cut_until: u64,
    /// Of the process that runs in this place, or ran last.
    pub(crate) life: u32,
    pub(crate) runs: bool,
    pub(crate) process: Process,
}

/// What is gone when a process ends.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) length: LeaseDuration,
    pub(crate) replica: Replica,
    pub(crate) row: Option<RowId>,
    /// The newest change to each key when its fact was read.
    pub(crate) memory: [Option<u64>; KEYS],
    /// Raised when a fact is forgotten, so that older readings of it are not kept.
    pub(crate) generations: [u64; KEYS],
    pub(crate) peers: Peers,
    pub(crate) waits: Vec<Wait>,
    /// Changes sent and not answered.
    pub(crate) open: Vec<u32>,
    pub(crate) polls: u32,
    pub(crate) has_decided: bool,
    /// What a planted fault goes by.
    pub(crate) last_reading: Option<Reading>,
}

impl Process {
    fn new(length: LeaseDuration, fault: Fault) -> Self {
        let believed = match fault {
            Fault::DriftIgnored => LeaseDuration((length.0 * 100).div_ceil(99)),
            _ => length,
        };
        Self {
            length,
            replica: Replica::new(believed),
            row: None,
            memory: [None; KEYS],
            generations: [0; KEYS],
            peers: Peers::default(),
            waits: Vec::new(),
            open: Vec::new(),
            polls: 0,
            has_decided: false,
            last_reading: None,
        }
    }

    pub(crate) fn forget(&mut self, key: usize) {
        self.memory[key] = None;
        self.generations[key] += 1;
    }
}

impl Node {
    pub(crate) fn new(serves: bool, fault: Fault, random: &mut Random) -> Self {
        Self {
            serves,
            clock: Clock::any(random),
            paused_until: 0,
            cut_until: 0,
            life: 0,
            runs: true,
            process: Process::new(LeaseDuration(random.within(SHORTEST..LONGEST)), fault),
        }
    }

    /// The process ends; the one that may follow knows nothing of it.
    pub(crate) fn end(&mut self, fault: Fault) {
        self.life += 1;
        self.runs = false;
        self.process = Process::new(self.process.length, fault);
    }
}
