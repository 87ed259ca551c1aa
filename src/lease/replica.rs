//! One replica's right to decide.
//!
//! Must stay true: it holds only by a renewal whose row was found, whose head was read after that in
//! the same store, and whose position memory rests on. Work that began under an earlier registration
//! changes nothing. Who has left never decides again.

use super::{Head, Identity, LeaseDuration, MonotonicInstant, Position};

/// Every so many parts of a lease it is renewed.
const RENEWED: u64 = 3;
/// Every so many parts of it an unanswered renewal is tried again: often enough that an outage of half
/// a lease leaves time for one more.
const RETRIED: u64 = 12;

/// Which registration some work belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(u64);

/// A renewal, or a registration, on its way. To be made before it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    epoch: Epoch,
    sent: MonotonicInstant,
    /// Whether to insert a row under a new name, rather than to renew the one there is.
    pub registers: bool,
}

/// What an answer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum RenewalOutcome {
    /// The row is there. Where [`Replica::applied`] is `None`, forget everything that was read before
    /// this answer, then say so with [`Replica::apply`] and the position in it.
    Registered,
    /// The lease goes on, once the changes up to the position in the answer are applied.
    Renewed,
    /// The row is gone, or the store is another one. Nothing may be decided; register again.
    Lost,
    /// It came too late to mean anything. A row that it registered has no owner; others clear it away.
    Late,
}

#[derive(Debug, Clone, Copy)]
struct Renewal {
    ends: MonotonicInstant,
    position: Position,
}

/// See the module.
#[derive(Debug)]
pub struct Replica {
    length: LeaseDuration,
    epoch: Epoch,
    /// The store that has the row, while there is one.
    registered: Option<Identity>,
    /// The changes that memory rests on, and whose they are.
    memory: Option<(Identity, Position)>,
    /// Answered renewals that hold once their position is applied.
    pending: Vec<Renewal>,
    until: MonotonicInstant,
    /// When the newest attempt was made.
    tried: Option<MonotonicInstant>,
    answered: bool,
    left: bool,
}

impl Replica {
    /// One that has no row yet, and nothing in memory.
    pub fn new(length: LeaseDuration) -> Self {
        Self {
            length,
            epoch: Epoch(0),
            registered: None,
            memory: None,
            pending: Vec::new(),
            until: MonotonicInstant(0),
            tried: None,
            answered: false,
            left: false,
        }
    }

    /// Before this instant it may decide. Look at it before the first fact is looked at.
    pub fn until(&self) -> MonotonicInstant {
        self.until
    }

    /// Whether a decision that begins at `now` may be made from memory, as `replication::Replicas::may_decide` says by
    /// the published end.
    pub fn may_decide(&self, now: MonotonicInstant) -> bool {
        now < self.until
    }

    /// Up to where memory follows every change: what to acknowledge, with each renewal as well.
    /// `None` while it must be emptied first.
    pub fn applied(&self) -> Option<Position> {
        self.memory.map(|(_, position)| position)
    }

    /// The store that has the row: every write names it and must hit nothing in another one. `None`
    /// while there is no row.
    pub fn registered(&self) -> Option<Identity> {
        self.registered
    }

    /// What to hand back with whatever begins now.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// When to try next.
    pub fn renew_at(&self) -> MonotonicInstant {
        let part = if self.answered { RENEWED } else { RETRIED };
        self.tried.map_or(MonotonicInstant(0), |tried| tried.plus(self.length.0 / part))
    }

    /// Begins a renewal, or a registration where there is no row.
    pub fn attempt(&mut self, now: MonotonicInstant) -> Attempt {
        self.tried = Some(now);
        self.answered = false;
        Attempt { epoch: self.epoch, sent: now, registers: self.registered.is_none() }
    }

    /// Takes an answer: what stood at the head after the row was written, or `None` where no row was
    /// hit.
    pub fn answer(&mut self, attempt: Attempt, head: Option<Head>) -> RenewalOutcome {
        if self.left || attempt.epoch != self.epoch {
            return RenewalOutcome::Late;
        }
        let Some(head) = head.filter(|head| self.registered.is_none_or(|of| of == head.identity))
        else {
            self.lose();
            return RenewalOutcome::Lost;
        };
        if attempt.registers {
            self.epoch.0 += 1;
            self.registered = Some(head.identity);
            self.memory = self.memory.filter(|&(of, _)| of == head.identity);
        }
        self.answered |= self.tried == Some(attempt.sent);
        self.pending.retain(|renewal| renewal.ends > attempt.sent);
        let ends = attempt.sent.plus(self.length.held());
        self.pending.push(Renewal { ends, position: head.position });
        self.extend_lease();
        if attempt.registers { RenewalOutcome::Registered } else { RenewalOutcome::Renewed }
    }

    /// Memory rests on every change up to `position` from now on, since they are applied, or since
    /// nothing in it was read before that position was.
    pub fn apply(&mut self, epoch: Epoch, position: Position) {
        if let Some(identity) = self.registered
            && epoch == self.epoch
        {
            let applied = self.applied().map_or(position, |applied| applied.max(position));
            self.memory = Some((identity, applied));
            self.extend_lease();
        }
    }

    /// The store is not what it was: all leases are void, and memory is to be emptied before anything is
    /// decided again.
    pub fn void(&mut self, epoch: Epoch) {
        if epoch == self.epoch {
            self.lose();
            self.memory = None;
        }
    }

    /// The process is about to end: all leases are void, and no answer that is still to come gives another one.
    /// Its row may be deleted after that.
    pub fn leave(&mut self) {
        self.lose();
        self.left = true;
    }

    fn extend_lease(&mut self) {
        let Some(applied) = self.applied() else { return };
        let held = self.pending.iter().filter(|renewal| renewal.position <= applied);
        self.until = held.map(|renewal| renewal.ends).fold(self.until, MonotonicInstant::max);
        self.pending.retain(|renewal| renewal.ends > self.until);
    }

    /// Memory stays: it counts again where the same store still has the changes that it lacks.
    /// Rule 6.10 of docs/policy.md.
    fn lose(&mut self) {
        let Self { length, epoch, memory, left, .. } = *self;
        *self = Self { epoch: Epoch(epoch.0 + 1), memory, left, ..Self::new(length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: LeaseDuration = LeaseDuration(1_200);
    const HERE: Identity = Identity { system: 1, timeline: 1, database: 1 };
    const ELSEWHERE: Identity = Identity { system: 1, timeline: 2, database: 1 };

    fn head(position: i64) -> Option<Head> {
        Some(Head { position: Position(position), identity: HERE })
    }

    /// Registered at 1,000, with an empty memory at position 5.
    fn replica() -> Replica {
        let mut replica = Replica::new(LENGTH);
        let attempt = replica.attempt(MonotonicInstant(1_000));
        assert!(attempt.registers);
        assert_eq!(replica.answer(attempt, head(5)), RenewalOutcome::Registered);
        assert!(!replica.may_decide(MonotonicInstant(1_001)), "before memory is known to be empty");
        replica.apply(replica.epoch(), Position(5));
        replica
    }

    #[test]
    fn a_lease_counts_from_its_request_and_is_shortened() {
        let replica = replica();
        assert_eq!(replica.until(), MonotonicInstant(2_188));
        assert!(
            replica.may_decide(MonotonicInstant(2_187))
                && !replica.may_decide(MonotonicInstant(2_188))
        );
    }

    /// Rule 6.7.
    #[test]
    fn a_renewal_holds_once_its_position_is_applied() {
        let mut replica = replica();
        let (first, second) =
            (replica.attempt(MonotonicInstant(1_400)), replica.attempt(MonotonicInstant(1_800)));
        // Answered in the wrong order.
        assert_eq!(replica.answer(second, head(9)), RenewalOutcome::Renewed);
        assert_eq!(replica.answer(first, head(7)), RenewalOutcome::Renewed);
        assert_eq!(replica.until(), MonotonicInstant(2_188));
        replica.apply(replica.epoch(), Position(8));
        assert_eq!(replica.until(), MonotonicInstant(2_588));
        replica.apply(replica.epoch(), Position(9));
        assert_eq!(replica.until(), MonotonicInstant(2_988));
        // Later than the others, and worth less.
        let late = replica.answer(first, head(7));
        assert_eq!((late, replica.until()), (RenewalOutcome::Renewed, MonotonicInstant(2_988)));
        replica.apply(replica.epoch(), Position(6));
        assert_eq!(replica.applied(), Some(Position(9)));
    }

    #[test]
    fn it_is_renewed_in_time_and_sooner_if_unanswered() {
        let mut replica = Replica::new(LENGTH);
        assert_eq!(replica.renew_at(), MonotonicInstant(0));
        let attempt = replica.attempt(MonotonicInstant(1_000));
        assert_eq!(replica.renew_at(), MonotonicInstant(1_100));
        let _ = replica.answer(attempt, head(0));
        assert_eq!(replica.renew_at(), MonotonicInstant(1_400));
    }

    #[test]
    fn a_lost_row_ends_the_lease_and_spares_memory() {
        let mut replica = replica();
        let epoch = replica.epoch();
        let (lost, late) =
            (replica.attempt(MonotonicInstant(1_400)), replica.attempt(MonotonicInstant(1_500)));
        assert_eq!(replica.answer(lost, None), RenewalOutcome::Lost);
        assert_eq!(replica.answer(late, head(5)), RenewalOutcome::Late);
        assert_eq!(
            (replica.until(), replica.renew_at()),
            (MonotonicInstant(0), MonotonicInstant(0))
        );
        replica.apply(epoch, Position(7));
        assert_eq!(replica.applied(), Some(Position(5)), "work of the former registration");
        let (first, second) =
            (replica.attempt(MonotonicInstant(1_600)), replica.attempt(MonotonicInstant(1_700)));
        assert!(first.registers && second.registers);
        assert_eq!(replica.answer(second, head(6)), RenewalOutcome::Registered);
        assert_eq!(replica.answer(first, head(6)), RenewalOutcome::Late);
        assert_eq!(replica.until(), MonotonicInstant(0));
        replica.apply(replica.epoch(), Position(6));
        assert_eq!(replica.until(), MonotonicInstant(2_888));
    }

    #[test]
    fn who_has_left_never_decides_again() {
        let mut replica = replica();
        let epoch = replica.epoch();
        let (renewal, unapplied) =
            (replica.attempt(MonotonicInstant(1_400)), replica.attempt(MonotonicInstant(1_500)));
        assert_eq!(replica.answer(unapplied, head(9)), RenewalOutcome::Renewed);
        replica.leave();
        assert_eq!((replica.until(), replica.registered()), (MonotonicInstant(0), None));
        assert_eq!(replica.answer(renewal, head(5)), RenewalOutcome::Late);
        replica.apply(epoch, Position(9));
        replica.void(replica.epoch());
        let registration = replica.attempt(MonotonicInstant(1_600));
        assert!(registration.registers);
        assert_eq!(replica.answer(registration, head(9)), RenewalOutcome::Late);
        replica.apply(replica.epoch(), Position(9));
        assert_eq!((replica.until(), replica.registered()), (MonotonicInstant(0), None));
    }

    #[test]
    fn a_store_that_went_back_voids_lease_and_memory() {
        let mut replica = replica();
        let epoch = replica.epoch();
        replica.void(epoch);
        assert_eq!((replica.until(), replica.applied()), (MonotonicInstant(0), None));
        let attempt = replica.attempt(MonotonicInstant(1_500));
        assert_eq!(replica.answer(attempt, head(3)), RenewalOutcome::Registered);
        replica.void(epoch);
        assert_eq!(replica.until(), MonotonicInstant(0), "memory is not empty yet");
        replica.apply(replica.epoch(), Position(3));
        assert_eq!(
            replica.until(),
            MonotonicInstant(2_688),
            "what voided the former turn voids no later one"
        );
    }

    #[test]
    fn another_store_voids_lease_and_memory() {
        let mut replica = replica();
        let epoch = replica.epoch();
        let other = Some(Head { position: Position(9), identity: ELSEWHERE });
        let attempt = replica.attempt(MonotonicInstant(1_400));
        assert_eq!(replica.answer(attempt, other), RenewalOutcome::Lost);
        assert_eq!(replica.until(), MonotonicInstant(0));
        let attempt = replica.attempt(MonotonicInstant(1_500));
        assert_eq!(replica.answer(attempt, other), RenewalOutcome::Registered);
        replica.apply(epoch, Position(9));
        assert_eq!(
            (replica.applied(), replica.until()),
            (None, MonotonicInstant(0)),
            "memory is not empty yet"
        );
        replica.apply(replica.epoch(), Position(9));
        assert_eq!(replica.until(), MonotonicInstant(2_688));
    }
}
