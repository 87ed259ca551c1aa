//! One replica's right to decide.
//!
//! Must stay true: it holds only by a renewal whose row was found, whose head was read after that in
//! the same store, and whose position memory rests on. Work that began under an earlier registration
//! changes nothing. Who has left never decides again.

use super::{Head, Identity, Length, Moment, Position};

/// Every so many parts of a lease it is renewed.
const RENEWED: u64 = 3;
/// Every so many parts of it an unanswered renewal is tried again: often enough that an outage of half
/// a lease leaves time for one more.
const RETRIED: u64 = 12;

/// Which registration some work belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn(u64);

/// A renewal, or a registration, on its way. To be made before it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    turn: Turn,
    sent: Moment,
    /// Whether to insert a row under a new name, rather than to renew the one there is.
    pub registers: bool,
}

/// What an answer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Heard {
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
    ends: Moment,
    position: Position,
}

/// See the module.
#[derive(Debug)]
pub struct Replica {
    length: Length,
    turn: Turn,
    /// The store that has the row, while there is one.
    registered: Option<Identity>,
    /// The changes that memory rests on, and whose they are.
    memory: Option<(Identity, Position)>,
    /// Answered renewals that hold once their position is applied.
    pending: Vec<Renewal>,
    until: Moment,
    /// When the newest attempt was made.
    tried: Option<Moment>,
    answered: bool,
    left: bool,
}

impl Replica {
    /// One that has no row yet, and nothing in memory.
    pub fn new(length: Length) -> Self {
        Self {
            length,
            turn: Turn(0),
            registered: None,
            memory: None,
            pending: Vec::new(),
            until: Moment(0),
            tried: None,
            answered: false,
            left: false,
        }
    }

    /// Before this instant it may decide. Look at it before the first fact is looked at.
    pub fn until(&self) -> Moment {
        self.until
    }

    /// Whether a decision that begins at `now` may be made from memory.
    pub fn may_decide(&self, now: Moment) -> bool {
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
    pub fn turn(&self) -> Turn {
        self.turn
    }

    /// When to try next.
    pub fn renew_at(&self) -> Moment {
        let part = if self.answered { RENEWED } else { RETRIED };
        self.tried.map_or(Moment(0), |tried| tried.plus(self.length.0 / part))
    }

    /// Begins a renewal, or a registration where there is no row.
    pub fn attempt(&mut self, now: Moment) -> Attempt {
        self.tried = Some(now);
        self.answered = false;
        Attempt { turn: self.turn, sent: now, registers: self.registered.is_none() }
    }

    /// Takes an answer: what stood at the head after the row was written, or `None` where no row was
    /// hit.
    pub fn answer(&mut self, attempt: Attempt, head: Option<Head>) -> Heard {
        if self.left || attempt.turn != self.turn {
            return Heard::Late;
        }
        let Some(head) = head.filter(|head| self.registered.is_none_or(|of| of == head.identity))
        else {
            self.lose();
            return Heard::Lost;
        };
        if attempt.registers {
            self.turn.0 += 1;
            self.registered = Some(head.identity);
            self.memory = self.memory.filter(|&(of, _)| of == head.identity);
        }
        self.answered |= self.tried == Some(attempt.sent);
        self.pending.retain(|renewal| renewal.ends > attempt.sent);
        let ends = attempt.sent.plus(self.length.held());
        self.pending.push(Renewal { ends, position: head.position });
        self.settle();
        if attempt.registers { Heard::Registered } else { Heard::Renewed }
    }

    /// Memory rests on every change up to `position` from now on, since they are applied, or since
    /// nothing in it was read before that position was.
    pub fn apply(&mut self, turn: Turn, position: Position) {
        if let Some(identity) = self.registered
            && turn == self.turn
        {
            let applied = self.applied().map_or(position, |applied| applied.max(position));
            self.memory = Some((identity, applied));
            self.settle();
        }
    }

    /// The store is not what it was: all leases are void, and memory is to be emptied before anything is
    /// decided again.
    pub fn void(&mut self, turn: Turn) {
        if turn == self.turn {
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

    fn settle(&mut self) {
        let Some(applied) = self.applied() else { return };
        let held = self.pending.iter().filter(|renewal| renewal.position <= applied);
        self.until = held.map(|renewal| renewal.ends).fold(self.until, Moment::max);
        self.pending.retain(|renewal| renewal.ends > self.until);
    }

    /// Memory stays: it counts again where the same store still has the changes that it lacks.
    fn lose(&mut self) {
        let Self { length, turn, memory, left, .. } = *self;
        *self = Self { turn: Turn(turn.0 + 1), memory, left, ..Self::new(length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Length = Length(1_200);
    const HERE: Identity = Identity { system: 1, timeline: 1, database: 1 };
    const ELSEWHERE: Identity = Identity { system: 1, timeline: 2, database: 1 };

    fn head(position: i64) -> Option<Head> {
        Some(Head { position: Position(position), identity: HERE })
    }

    /// Registered at 1,000, with an empty memory at position 5.
    fn replica() -> Replica {
        let mut replica = Replica::new(LENGTH);
        let attempt = replica.attempt(Moment(1_000));
        assert!(attempt.registers);
        assert_eq!(replica.answer(attempt, head(5)), Heard::Registered);
        assert!(!replica.may_decide(Moment(1_001)), "before memory is known to be empty");
        replica.apply(replica.turn(), Position(5));
        replica
    }

    #[test]
    fn a_lease_counts_from_its_request_and_is_shortened() {
        let replica = replica();
        assert_eq!(replica.until(), Moment(2_188));
        assert!(replica.may_decide(Moment(2_187)) && !replica.may_decide(Moment(2_188)));
    }

    #[test]
    fn a_renewal_holds_once_its_position_is_applied() {
        let mut replica = replica();
        let (first, second) = (replica.attempt(Moment(1_400)), replica.attempt(Moment(1_800)));
        // Answered in the wrong order.
        assert_eq!(replica.answer(second, head(9)), Heard::Renewed);
        assert_eq!(replica.answer(first, head(7)), Heard::Renewed);
        assert_eq!(replica.until(), Moment(2_188));
        replica.apply(replica.turn(), Position(8));
        assert_eq!(replica.until(), Moment(2_588));
        replica.apply(replica.turn(), Position(9));
        assert_eq!(replica.until(), Moment(2_988));
        // Later than the others, and worth less.
        let late = replica.answer(first, head(7));
        assert_eq!((late, replica.until()), (Heard::Renewed, Moment(2_988)));
        replica.apply(replica.turn(), Position(6));
        assert_eq!(replica.applied(), Some(Position(9)));
    }

    #[test]
    fn it_is_renewed_in_time_and_sooner_if_unanswered() {
        let mut replica = Replica::new(LENGTH);
        assert_eq!(replica.renew_at(), Moment(0));
        let attempt = replica.attempt(Moment(1_000));
        assert_eq!(replica.renew_at(), Moment(1_100));
        let _ = replica.answer(attempt, head(0));
        assert_eq!(replica.renew_at(), Moment(1_400));
    }

    #[test]
    fn a_lost_row_ends_the_lease_and_spares_memory() {
        let mut replica = replica();
        let turn = replica.turn();
        let (lost, late) = (replica.attempt(Moment(1_400)), replica.attempt(Moment(1_500)));
        assert_eq!(replica.answer(lost, None), Heard::Lost);
        assert_eq!(replica.answer(late, head(5)), Heard::Late);
        assert_eq!((replica.until(), replica.renew_at()), (Moment(0), Moment(0)));
        replica.apply(turn, Position(7));
        assert_eq!(replica.applied(), Some(Position(5)), "work of the former registration");
        let (first, second) = (replica.attempt(Moment(1_600)), replica.attempt(Moment(1_700)));
        assert!(first.registers && second.registers);
        assert_eq!(replica.answer(second, head(6)), Heard::Registered);
        assert_eq!(replica.answer(first, head(6)), Heard::Late);
        assert_eq!(replica.until(), Moment(0));
        replica.apply(replica.turn(), Position(6));
        assert_eq!(replica.until(), Moment(2_888));
    }

    #[test]
    fn who_has_left_never_decides_again() {
        let mut replica = replica();
        let turn = replica.turn();
        let (renewal, unapplied) = (replica.attempt(Moment(1_400)), replica.attempt(Moment(1_500)));
        assert_eq!(replica.answer(unapplied, head(9)), Heard::Renewed);
        replica.leave();
        assert_eq!((replica.until(), replica.registered()), (Moment(0), None));
        assert_eq!(replica.answer(renewal, head(5)), Heard::Late);
        replica.apply(turn, Position(9));
        replica.void(replica.turn());
        let registration = replica.attempt(Moment(1_600));
        assert!(registration.registers);
        assert_eq!(replica.answer(registration, head(9)), Heard::Late);
        replica.apply(replica.turn(), Position(9));
        assert_eq!((replica.until(), replica.registered()), (Moment(0), None));
    }

    #[test]
    fn a_store_that_went_back_voids_lease_and_memory() {
        let mut replica = replica();
        let turn = replica.turn();
        replica.void(turn);
        assert_eq!((replica.until(), replica.applied()), (Moment(0), None));
        let attempt = replica.attempt(Moment(1_500));
        assert_eq!(replica.answer(attempt, head(3)), Heard::Registered);
        replica.void(turn);
        assert_eq!(replica.until(), Moment(0), "memory is not empty yet");
        replica.apply(replica.turn(), Position(3));
        assert_eq!(
            replica.until(),
            Moment(2_688),
            "what voided the former turn voids no later one"
        );
    }

    #[test]
    fn another_store_voids_lease_and_memory() {
        let mut replica = replica();
        let turn = replica.turn();
        let other = Some(Head { position: Position(9), identity: ELSEWHERE });
        let attempt = replica.attempt(Moment(1_400));
        assert_eq!(replica.answer(attempt, other), Heard::Lost);
        assert_eq!(replica.until(), Moment(0));
        let attempt = replica.attempt(Moment(1_500));
        assert_eq!(replica.answer(attempt, other), Heard::Registered);
        replica.apply(turn, Position(9));
        assert_eq!(
            (replica.applied(), replica.until()),
            (None, Moment(0)),
            "memory is not empty yet"
        );
        replica.apply(replica.turn(), Position(9));
        assert_eq!(replica.until(), Moment(2_688));
    }
}
