//! What a process does: the lease machine driven as a server would drive it, but for the planted
//! faults.

use portcullis::lease::{
    Attempt, Epoch, Head, LeaseDuration, MonotonicInstant, Position, RenewalOutcome, Row, RowId,
    Waiting,
};

use crate::lease::node::{Decision, Process, Step, Wait};
use crate::lease::plan::{Fault, LEASE};
use crate::lease::store::{Ask, KEYS, Op, Reply};
use crate::lease::world::{Message, World};

impl World {
    fn local(&self, node: usize) -> MonotonicInstant {
        self.nodes[node].clock.at(self.now)
    }

    fn process(&mut self, node: usize) -> &mut Process {
        &mut self.nodes[node].process
    }

    fn shortly(&mut self, node: usize, step: Step) {
        let at = self.soon(2..50);
        self.step(node, at, step);
    }

    pub(crate) fn take(&mut self, node: usize, step: Step) {
        match step {
            Step::Start => {
                self.nodes[node].runs = true;
                let mut first = self.now;
                if self.fault == Fault::FactsBeforeRow {
                    (0..KEYS).for_each(|key| self.look_up(node, Decision { key, floor: 0 }));
                    first += self.random.below(LEASE / 2);
                }
                self.step(node, first, Step::Renew);
                self.shortly(node, Step::Decide);
            }
            Step::Renew => {
                self.renew(node);
                let due = self.process(node).replica.renew_at();
                let at = self.nodes[node].clock.when(due);
                self.step(node, at.max(self.now + 1), Step::Renew);
            }
            Step::RenewAtOnce => self.renew(node),
            Step::Notified { told } => {
                let process = self.process(node);
                let (row, replica) = (process.row, &process.replica);
                match (replica.applied(), told) {
                    (Some(applied), Some(told)) if applied.next() == told.position => {
                        let (epoch, identity) = (replica.epoch(), replica.registered());
                        self.shortly(node, Step::Follow { told, epoch, row, identity });
                    }
                    (applied, Some(told)) if applied == Some(told.position) => {}
                    _ => self.catch_up(node),
                }
            }
            Step::Follow { told, epoch, row, identity } => {
                self.process(node).forget(told.key);
                self.shortly(node, Step::Confirm { told, epoch, row, identity });
            }
            Step::Confirm { told, epoch, row, identity } => {
                if let Some(id) = row {
                    self.send(node, Ask::Confirm { id, identity, told, epoch });
                }
            }
            Step::Forget { keys, epoch, position } => {
                (0..KEYS).filter(|&key| keys[key]).for_each(|key| self.process(node).forget(key));
                self.shortly(node, Step::Applied { epoch, position });
            }
            Step::Applied { epoch, position } => {
                self.process(node).replica.apply(epoch, position);
                self.acknowledge(node, position);
            }
            Step::Decide => {
                let key = self.random.below(KEYS as u64) as usize;
                let decision = Decision { key, floor: self.bound[key] };
                let first = match self.fault {
                    Fault::FactBeforeLease => Step::LookAtFact { decision },
                    _ => Step::CheckLease { decision, fact: None },
                };
                self.shortly(node, first);
                let next = self.now + self.random.within(LEASE / 15..LEASE / 5);
                self.step(node, next, Step::Decide);
            }
            Step::CheckLease { decision, fact } => {
                let now = self.local(node);
                match fact {
                    _ if !self.process(node).replica.may_decide(now) => self.stats.refused += 1,
                    Some(fact) => self.decided(node, decision.floor, fact),
                    None => self.shortly(node, Step::LookAtFact { decision }),
                }
            }
            Step::LookAtFact { decision } => match self.nodes[node].process.memory[decision.key] {
                None => self.look_up(node, decision),
                fact if self.fault == Fault::FactBeforeLease => {
                    self.shortly(node, Step::CheckLease { decision, fact });
                }
                Some(fact) => self.decided(node, decision.floor, fact),
            },
            Step::Submit { op } => {
                if self.nodes[node].runs {
                    self.process(node).open.push(op.number);
                    self.submit(node, op);
                }
            }
            Step::Retry { op } => {
                if self.process(node).open.contains(&op.number) {
                    self.submit(node, op);
                }
            }
            Step::Settle => self.settle(node),
            Step::Leave { back } => {
                let goes_on = self.fault == Fault::LeftGoesOn;
                let process = self.process(node);
                let row = process.row;
                if !goes_on {
                    process.replica.leave();
                    process.row = None;
                }
                if let Some(id) = row {
                    self.send(node, Ask::Leave { id });
                }
                let gone = self.now + self.random.below(LEASE / 2);
                self.step(node, gone, Step::End { back });
            }
            Step::End { back } => self.end(node, back),
            Step::Poll => {
                self.settle(node);
                if !self.process(node).waits.is_empty() {
                    self.send(node, Ask::Rows);
                    self.process(node).polls += 1;
                    let pause = 2_000 << self.process(node).polls.min(6);
                    self.step(node, self.now + pause, Step::Poll);
                }
            }
        }
    }

    fn renew(&mut self, node: usize) {
        let (now, fault) = (self.local(node), self.fault);
        let due = self.process(node).replica.renew_at();
        if now >= due {
            let fresh = RowId(u128::from(self.random.next()));
            let early = self.store.head();
            let process = self.process(node);
            let attempt = process.replica.attempt(now);
            let applied = process.replica.applied();
            let identity = process.replica.registered();
            let length = process.length;
            let ask = match (attempt.registers, process.row) {
                (false, Some(id)) => Ask::Renew { id, identity, applied, early, attempt },
                _ => {
                    let id = if fault == Fault::NameReused { RowId(node as u128) } else { fresh };
                    Ask::Register { id, length, applied, early, attempt }
                }
            };
            self.send(node, ask);
        }
    }

    fn submit(&mut self, node: usize, op: Op) {
        if self.fault == Fault::RowsBeforeCommit {
            self.send(node, Ask::Rows);
        }
        self.send(node, Ask::Change { op });
        self.step(node, self.now + LEASE / 4, Step::Retry { op });
    }

    fn look_up(&mut self, node: usize, Decision { key, floor }: Decision) {
        let generation = self.process(node).generations[key];
        self.send(node, Ask::Fact { key, generation, floor });
    }

    /// Asks for the changes that it lacks.
    fn catch_up(&mut self, node: usize) {
        let replica = &self.process(node).replica;
        if let Some(after) = replica.applied() {
            let epoch = replica.epoch();
            self.send(node, Ask::Changes { after, epoch });
        }
    }

    fn acknowledge(&mut self, node: usize, applied: Position) {
        let process = self.process(node);
        if let Some(id) = process.row {
            let identity = process.replica.registered();
            self.send(node, Ask::Acknowledge { id, identity, applied });
        }
    }

    pub(crate) fn hear(&mut self, message: Message, reply: Reply) {
        let node = message.node;
        match (message.ask, reply) {
            (
                Ask::Register { id, early, attempt, .. } | Ask::Renew { id, early, attempt, .. },
                Reply::Row(found),
            ) => match self.fault {
                Fault::HeadReadFirst => self.renewed(node, id, attempt, found, early),
                // That there is no row is known, whatever becomes of another statement.
                _ if !found => self.renewed(node, id, attempt, found, early),
                _ => self.send(node, Ask::Head { id, found, attempt }),
            },
            (Ask::Confirm { told, epoch, .. }, Reply::Row(true)) => {
                self.process(node).replica.apply(epoch, told.position);
            }
            (Ask::Confirm { .. }, Reply::Row(false)) => self.catch_up(node),
            (Ask::Head { id, found, attempt }, Reply::Head(head)) => {
                self.renewed(node, id, attempt, found, head);
            }
            (Ask::Changes { after, epoch }, Reply::Changes { head, changes }) => {
                self.read_changes(node, after, epoch, head, &changes);
            }
            (Ask::Fact { key, generation, floor }, Reply::Fact(fact)) => {
                self.decided(node, floor, fact);
                let kept = self.fault == Fault::OldReadKept;
                let process = self.process(node);
                if kept || process.generations[key] == generation {
                    process.memory[key] = Some(fact);
                }
            }
            (Ask::Change { op }, Reply::Made { position, serial, repeated }) => {
                self.made(node, op, position, serial, repeated);
            }
            (Ask::Rows, Reply::Rows(rows)) => self.read_rows(node, message.asked, rows),
            _ => {}
        }
    }

    fn renewed(&mut self, node: usize, id: RowId, attempt: Attempt, found: bool, mut head: Head) {
        let (now, fault) = (self.local(node), self.fault);
        let process = self.process(node);
        let replica = &mut process.replica;
        let mut attempt = attempt;
        if fault == Fault::LeaseFromAnswer && attempt.registers == replica.registered().is_none() {
            attempt = replica.attempt(now);
        }
        if let (Fault::IdentityIgnored, Some(known)) = (fault, replica.registered()) {
            head.identity = known;
        }
        let mut said = head;
        if let (Fault::HoldsUnapplied, Some(applied)) = (fault, replica.applied()) {
            said.position = applied;
        }
        let heard = replica.answer(attempt, found.then_some(said));
        let (epoch, applied) = (replica.epoch(), replica.applied());
        match heard {
            RenewalOutcome::Late => return,
            RenewalOutcome::Lost => process.row = None,
            RenewalOutcome::Registered => process.row = Some(id),
            RenewalOutcome::Renewed => {}
        }
        self.note(|| format!("{node}: {heard:?}, applied {applied:?}"));
        match heard {
            RenewalOutcome::Lost => self.shortly(node, Step::RenewAtOnce),
            RenewalOutcome::Registered if applied.is_none() => {
                let keys = [fault != Fault::FactsBeforeRow; KEYS];
                self.shortly(node, Step::Forget { keys, epoch, position: head.position });
            }
            _ if applied < Some(head.position) => self.catch_up(node),
            _ => {}
        }
        // Everybody looks at everybody now and then.
        self.send(node, Ask::Rows);
    }

    fn read_changes(
        &mut self,
        node: usize,
        after: Position,
        epoch: Epoch,
        head: Position,
        changes: &[(Position, usize)],
    ) {
        let first = changes.first().map(|&(position, _)| position);
        let ignored = self.fault == Fault::PruningIgnored;
        let (keys, position) = match changes.last() {
            _ if !ignored && !after.is_followed(first, head) => ([true; KEYS], head),
            None => return,
            Some(&(last, _)) => {
                let touched = |key| changes.iter().any(|&(_, touched)| touched == key);
                (std::array::from_fn(touched), last)
            }
        };
        if self.fault == Fault::AcknowledgedUnapplied {
            self.acknowledge(node, position);
        }
        self.shortly(node, Step::Forget { keys, epoch, position });
    }

    fn made(&mut self, node: usize, op: Op, position: Position, serial: u64, repeated: bool) {
        if repeated && self.fault == Fault::RepeatedNotWaiting {
            return self.bind(op.key, serial);
        }
        let (now, since) = (self.local(node), self.now);
        let early = self.fault == Fault::RowsBeforeCommit;
        let process = self.process(node);
        process.open.retain(|&number| number != op.number);
        let mut waiting = Waiting::new(position, if early { MonotonicInstant(0) } else { now });
        if let (true, Some(reading)) = (early, &process.last_reading) {
            waiting.read(reading);
        }
        process.waits.push(Wait { op, serial, since, waiting });
        process.polls = 0;
        self.shortly(node, Step::Poll);
    }

    fn read_rows(&mut self, node: usize, asked: MonotonicInstant, mut rows: Vec<(Row, bool)>) {
        let (now, fault) = (self.local(node), self.fault);
        if fault == Fault::WallClock {
            rows.retain(|(_, over)| !over);
        }
        let mut rows: Vec<Row> = rows.into_iter().map(|(row, _)| row).collect();
        if fault == Fault::DriftIgnored {
            rows.iter_mut().for_each(|row| row.length = LeaseDuration(row.length.0 * 100 / 101));
        }
        let came = if fault == Fault::SeenFromQuestion { asked } else { now };
        let process = self.process(node);
        let reading = process.peers.read(asked, came, &rows);
        process.waits.iter_mut().for_each(|wait| wait.waiting.read(&reading));
        process.last_reading = Some(reading);
        let over = if fault == Fault::DeletedEarly { now.plus(LEASE / 2) } else { now };
        let ended: Vec<_> = process.peers.ended(over).collect();
        for (id, renewals) in ended {
            self.send(node, Ask::Delete { id, renewals });
        }
        self.settle(node);
    }

    /// Answers whatever is bound, or need not be.
    fn settle(&mut self, node: usize) {
        let now = self.local(node);
        let waits = std::mem::take(&mut self.process(node).waits);
        for wait in waits {
            let Wait { op, serial, since, ref waiting } = wait;
            let until = waiting.until();
            self.waited(since, until.map_or(0, |until| until.0.saturating_sub(now.0)));
            let end = until.map(|until| self.nodes[node].clock.when(until.plus(1)));
            match end {
                Some(_) if waiting.is_complete(now) => {
                    self.stats.outwaited += u64::from(waiting.until() > Some(MonotonicInstant(0)));
                    self.bind(op.key, serial);
                }
                Some(end) if !op.waits => self.promise(end, op.key, serial),
                Some(end) => {
                    self.step(node, end, Step::Settle);
                    self.process(node).waits.push(wait);
                }
                None => self.process(node).waits.push(wait),
            }
        }
    }
}
