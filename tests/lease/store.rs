//! The store of the simulation: what each statement does to it, which of it is confirmed by the
//! standby, and what a failover loses.

use portcullis::lease::{Attempt, Epoch, Head, Identity, LeaseDuration, Position, Row, RowId};

/// How many things there are to change.
pub(crate) const KEYS: usize = 3;

/// One statement, in a transaction of its own.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// The first half of a registration. What the head was when it was sent, only a planted fault
    /// looks at.
    Register {
        id: RowId,
        length: LeaseDuration,
        applied: Option<Position>,
        early: Head,
        attempt: Attempt,
    },
    /// The first half of a renewal.
    Renew {
        id: RowId,
        identity: Option<Identity>,
        applied: Option<Position>,
        early: Head,
        attempt: Attempt,
    },
    /// The second half of either. The row that it belongs to, and whether the first half hit it.
    Head {
        id: RowId,
        found: bool,
        attempt: Attempt,
    },
    Acknowledge {
        id: RowId,
        identity: Option<Identity>,
        applied: Position,
    },
    /// An acknowledgement of what was told of, where the record says the same.
    Confirm {
        id: RowId,
        identity: Option<Identity>,
        told: Told,
        epoch: Epoch,
    },
    Changes {
        after: Position,
        epoch: Epoch,
    },
    Fact {
        key: usize,
        generation: u64,
        floor: u64,
    },
    Change {
        op: Op,
    },
    Rows,
    /// Of a row whose lease is over.
    Delete {
        id: RowId,
        renewals: u64,
    },
    /// Of one's own row, at an orderly end.
    Leave {
        id: RowId,
    },
}

/// What somebody tells of a change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) position: Position,
    pub(crate) key: usize,
    /// The nonce of the change, which nobody knows before it is made.
    pub(crate) serial: u64,
}

/// A change that somebody wants made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    pub(crate) number: u32,
    pub(crate) key: usize,
    pub(crate) waits: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Whether a row was hit.
    Row(bool),
    Head(Head),
    Changes {
        head: Position,
        changes: Vec<(Position, usize)>,
    },
    /// The newest change to the key.
    Fact(u64),
    /// It is made: the position to wait for, the newest change to its key, and whether it was before.
    Made {
        position: Position,
        serial: u64,
        repeated: bool,
    },
    /// Each with whether the store's wall clock says that its lease is over.
    Rows(Vec<(Row, bool)>),
}

#[derive(Debug, Clone, Copy)]
struct Change {
    op: u32,
    key: usize,
    /// No two changes have the same, in any history.
    serial: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    row: Row,
    renewed: i64,
}

#[derive(Debug, Clone, Default)]
struct State {
    log: Vec<Change>,
    pruned: usize,
    rows: Vec<Kept>,
}

#[derive(Debug)]
pub(crate) struct Store {
    state: State,
    pub(crate) identity: Identity,
    /// What its wall clock is ahead of true time.
    pub(crate) wall: i64,
    serials: u64,
    /// States after commits, from the last confirmed one on, by their number.
    history: Vec<(u64, State)>,
    commits: u64,
    /// Whether history is kept.
    fails_over: bool,
    /// Planted: writes hit rows whatever store the writer believes in.
    pub(crate) unconditional: bool,
    pub(crate) believes: Believes,
}

/// What is not compared with the record of what was told: planted, but for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Believes {
    Nothing,
    /// That it was told after the change was made.
    When,
    /// That, and what the change was.
    What,
}

impl Store {
    pub(crate) fn new(fails_over: bool) -> Self {
        Self {
            state: State::default(),
            identity: Identity { system: 7, timeline: 1, database: 1 },
            wall: 0,
            serials: 0,
            history: vec![(0, State::default())],
            commits: 0,
            fails_over,
            unconditional: false,
            believes: Believes::Nothing,
        }
    }

    pub(crate) fn head(&self) -> Head {
        Head { position: Position(self.state.log.len() as i64), identity: self.identity }
    }

    fn row(&mut self, id: RowId, identity: Option<Identity>) -> Option<&mut Kept> {
        let here = identity == Some(self.identity) || self.unconditional;
        self.state.rows.iter_mut().find(|kept| kept.row.id == id && here)
    }

    /// The last change, as it is told of.
    pub(crate) fn told(&self) -> Option<Told> {
        let position = self.head().position;
        let told = |change: &Change| Told { position, key: change.key, serial: change.serial };
        self.state.log.last().map(told)
    }

    fn newest(&self, key: usize) -> u64 {
        let of_key = self.state.log.iter().rev().find(|change| change.key == key);
        of_key.map_or(0, |change| change.serial)
    }

    /// Carries a statement out at true time `now`. With the number of its commit where its answer goes
    /// out only once that is confirmed.
    pub(crate) fn carry_out(&mut self, ask: &Ask, now: u64) -> (Reply, Option<u64>) {
        let wall = now as i64 + self.wall;
        let head = self.head().position;
        let reply = match *ask {
            Ask::Register { id, length, applied, .. } => {
                let applied = applied.map_or(head, |applied| applied.min(head));
                let row = Row { id, length, renewals: 0, applied };
                // A name has one row, should anybody use it twice.
                self.state.rows.retain(|kept| kept.row.id != id);
                self.state.rows.push(Kept { row, renewed: wall });
                Reply::Row(true)
            }
            Ask::Renew { id, identity, applied, .. } => {
                let kept = self.row(id, identity);
                Reply::Row(kept.is_some_and(|kept| {
                    kept.row.renewals += 1;
                    kept.row.applied = kept.row.applied.max(applied.unwrap_or_default());
                    kept.renewed = wall;
                    true
                }))
            }
            Ask::Acknowledge { id, identity, applied } => {
                Reply::Row(self.row(id, identity).is_some_and(|kept| {
                    kept.row.applied = kept.row.applied.max(applied);
                    true
                }))
            }
            Ask::Confirm { id, identity, told: Told { position, key, serial }, .. } => {
                let recorded = self.state.log.get(position.0 as usize - 1);
                let same = recorded.is_some_and(|change| match self.believes {
                    Believes::Nothing => (change.key, change.serial) == (key, serial),
                    Believes::When => change.key == key,
                    Believes::What => true,
                });
                let kept = self.row(id, identity).filter(|_| same);
                let kept = kept.filter(|kept| kept.row.applied < position);
                Reply::Row(kept.is_some_and(|kept| {
                    kept.row.applied = position;
                    true
                }))
            }
            Ask::Change { op } => {
                let made = self.state.log.iter().any(|change| change.op == op.number);
                if !made {
                    self.serials += 1;
                    let change = Change { op: op.number, key: op.key, serial: self.serials };
                    self.state.log.push(change);
                }
                let serial = self.newest(op.key);
                Reply::Made { position: self.head().position, serial, repeated: made }
            }
            Ask::Delete { id, renewals } => {
                self.state.rows.retain(|Kept { row, .. }| row.id != id || row.renewals != renewals);
                Reply::Row(true)
            }
            Ask::Leave { id } => {
                self.state.rows.retain(|kept| kept.row.id != id);
                Reply::Row(true)
            }
            // The rest read, and see what is not confirmed yet.
            Ask::Head { .. } => {
                return (Reply::Head(self.head()), None);
            }
            Ask::Changes { after, .. } => {
                let behind = self.state.log.iter().enumerate().skip(self.state.pruned);
                let behind = behind.map(|(at, change)| (Position(at as i64 + 1), change.key));
                let changes = behind.filter(|&(position, _)| position > after).collect();
                return (Reply::Changes { head, changes }, None);
            }
            Ask::Fact { key, .. } => return (Reply::Fact(self.newest(key)), None),
            Ask::Rows => {
                let rows = self.state.rows.iter().map(|kept| {
                    let length = kept.row.length.reckoned() as i64;
                    (kept.row, wall > kept.renewed + length)
                });
                return (Reply::Rows(rows.collect()), None);
            }
        };
        self.commits += 1;
        if self.fails_over {
            self.history.push((self.commits, self.state.clone()));
        }
        // Acknowledgements don't wait for the standby.
        let waits = !matches!(ask, Ask::Acknowledge { .. } | Ask::Confirm { .. });
        (reply, waits.then_some(self.commits))
    }

    /// The standby has everything up to this commit.
    pub(crate) fn confirm(&mut self, commit: u64) {
        let last = self.history.iter().rposition(|&(number, _)| number <= commit);
        self.history.drain(..last.unwrap_or(0));
    }

    /// The standby takes over, with what it has: all that is confirmed, and perhaps more.
    pub(crate) fn fail_over(&mut self, choice: u64) {
        self.history.truncate(choice as usize % self.history.len() + 1);
        self.history.drain(..self.history.len() - 1);
        self.state = self.history[0].1.clone();
        self.identity.timeline += 1;
    }

    /// Forgets the record up to what every replica has applied.
    pub(crate) fn prune(&mut self) {
        let applied = self.state.rows.iter().map(|kept| kept.row.applied).min();
        let head = self.head().position;
        let behind = applied.map_or(head, |applied| applied.min(head)).0 as usize;
        self.state.pruned = self.state.pruned.max(behind);
    }
}
