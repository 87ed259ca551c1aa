//! Which connections the gRPC server keeps, and what each of them may hold.
//!
//! A connection over which no valid credential has come yet belongs to a stranger. Strangers have a small
//! pool of their own. With the first valid credential a connection leaves it, where its address has room among
//! those that are known. So idle connections of strangers cost little memory, and never keep a client out:
//! where the pool is full, a new connection takes the place of another one.
//!
//! - Where some address has more of them than the newcomer's would have, its oldest one is closed.
//! - Otherwise the oldest of all is closed, but none that is younger than two seconds: clients that connect all at
//!   once, as after a restart, would else close each other's connections before any of them got to its first call.
//!
//! What is said of an address goes for a user of this host, too, whose processes connect through a Unix socket.
//!
//! # Invariants
//! - A connection is in the pool of strangers, or has a permit of the known ones, and never both.
//! - Whatever is counted here is given back when its guard or its connection is dropped.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Stopwatch;
use crate::net::{Limiter, Peer, Permit, with_jitter};
use crate::telemetry::Metrics;

/// Connections that all threads serve at once. Rule 8.13 of docs/policy.md.
pub const CONNECTIONS: usize = 16_384;
/// How many of them may belong to strangers.
pub const STRANGERS: usize = 512;
/// How long a stranger's connection keeps its place before one of an address that has as many.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of a small message: an ordinary question has far fewer. They have room of their own, so that large ones
/// never get in the way of decisions.
pub(super) const SMALL: usize = 16 << 10;

/// How much there may be of something at once.
struct Bound {
    all: usize,
    /// From one address.
    address: usize,
    /// On one connection. At least as much as one of it takes.
    connection: usize,
}

/// Bytes of messages that are awaited, or that wait for the store.
const MESSAGES: Bound = Bound { all: 64 << 20, address: 16 << 20, connection: 8 << 20 };
/// The same of small ones.
const SMALL_MESSAGES: Bound = Bound { all: 32 << 20, address: 8 << 20, connection: 4 << 20 };
/// Bytes of large answers that the client has not read yet.
const ANSWERS: Bound = Bound { all: 128 << 20, address: 24 << 20, connection: 24 << 20 };
/// Calls without a credential that have to wait, or watch the health of the server.
const STRANGERS_CALLS: Bound = Bound { all: 2_048, address: 1_024, connection: 32 };
/// How long streams that are ended have for their last words, and clients to take notice that their connection ends.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often it is looked at most, and at least, which connections are to end.
const SWEEPS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// How often within the idle time it is looked whether a connection was used.
const LOOKS: u32 = 4;

/// How many connections there may be, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// In all: at most [`CONNECTIONS`].
    pub total: usize,
    /// Of one address, or one IPv6 /64, over which valid credentials came.
    pub per_address: usize,
    /// How long a connection without any call is kept.
    pub idle: Duration,
    /// How long any other is kept, give or take a tenth. Rule 8.15 of docs/policy.md.
    pub age: Duration,
    /// How long calls under way may go on once a connection is asked to end.
    pub grace: Duration,
}

impl ConnectionLimits {
    fn strangers(&self) -> usize {
        STRANGERS.min(self.total.div_ceil(4))
    }
}

/// A stranger's connection.
#[derive(Debug)]
struct Stranger {
    since: Stopwatch,
    close: CancellationToken,
}

/// Those of strangers, by address, the oldest first.
#[derive(Debug, Default)]
struct Strangers {
    all: usize,
    by: HashMap<Peer, BTreeMap<u64, Stranger>>,
}

impl Strangers {
    fn insert(&mut self, whose: Peer, number: u64, stranger: Stranger) {
        self.by.entry(whose).or_default().insert(number, stranger);
        self.all += 1;
    }

    fn remove(&mut self, whose: Peer, number: u64) -> Option<Stranger> {
        let theirs = self.by.get_mut(&whose)?;
        let removed = theirs.remove(&number);
        if theirs.is_empty() {
            self.by.remove(&whose);
        }
        self.all -= usize::from(removed.is_some());
        removed
    }

    /// Takes out the connection whose place a new one of `newcomer` gets; `None` where it gets none.
    fn give_way(&mut self, newcomer: Peer, grace: Duration) -> Option<Stranger> {
        let own = self.by.get(&newcomer).map_or(0, BTreeMap::len);
        let oldest = |(&whose, theirs): (&Peer, &BTreeMap<u64, Stranger>)| {
            let (&number, _) = theirs.first_key_value()?;
            Some((theirs.len(), Reverse(number), whose))
        };
        let (most, Reverse(number), whose) = self.by.iter().filter_map(oldest).max()?;
        if most > own + 1 {
            return self.remove(whose, number);
        }
        let all = self.by.iter().filter_map(oldest);
        let (_, Reverse(number), whose) = all.max_by_key(|&(_, number, _)| number)?;
        let oldest = self.by.get(&whose)?.get(&number)?;
        if oldest.since.elapsed() >= grace { self.remove(whose, number) } else { None }
    }
}

/// All connections of the server.
#[derive(Debug)]
pub(super) struct Connections {
    limits: ConnectionLimits,
    next: AtomicU64,
    known: Arc<Limiter>,
    strangers: Mutex<Strangers>,
    open: Mutex<HashMap<u64, Weak<Connection>>>,
    messages: Arc<Limiter>,
    small_messages: Arc<Limiter>,
    answers: Arc<Limiter>,
    strangers_calls: Arc<Limiter>,
    metrics: Arc<Metrics>,
}

impl Bound {
    fn limiter(&self) -> Arc<Limiter> {
        Limiter::new(self.all, self.address)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        let known = limits.total - limits.strangers();
        Arc::new(Self {
            limits,
            next: AtomicU64::new(0),
            known: Limiter::new(known, limits.per_address),
            strangers: Mutex::default(),
            open: Mutex::default(),
            messages: MESSAGES.limiter(),
            small_messages: SMALL_MESSAGES.limiter(),
            answers: ANSWERS.limiter(),
            strangers_calls: STRANGERS_CALLS.limiter(),
            metrics,
        })
    }

    /// A place for a connection from `peer`, which is asked to end when `stop` is cancelled and ends at once
    /// with `hard_stop`; `None` where there is none.
    pub(super) fn enter(
        self: &Arc<Self>,
        peer: Peer,
        stop: &CancellationToken,
        hard_stop: &CancellationToken,
    ) -> Option<Arc<Connection>> {
        let whose = peer.subscriber();
        let mut strangers = lock(&self.strangers);
        if strangers.all >= self.limits.strangers() {
            strangers.give_way(whose, GRACE)?.close.cancel();
        }
        let connection = Arc::new(Connection {
            connections: self.clone(),
            number: self.next.fetch_add(1, Ordering::Relaxed),
            peer: peer.canonical(),
            opened: Stopwatch::start(),
            age: with_jitter(self.limits.age),
            ending: OnceLock::new(),
            last_calls: OnceLock::new(),
            stop: stop.child_token(),
            end_streams: stop.child_token(),
            hard_stop: hard_stop.child_token(),
            known: OnceLock::new(),
            passed_over: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
            small_messages: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            strangers_calls: AtomicUsize::new(0),
        });
        let close = connection.hard_stop.clone();
        strangers.insert(whose, connection.number, Stranger { since: Stopwatch::start(), close });
        drop(strangers);
        lock(&self.open).insert(connection.number, Arc::downgrade(&connection));
        Some(connection)
    }

    /// Ends connections that are idle, until `stop`.
    pub(super) async fn end_idle(&self, stop: CancellationToken) {
        let pause = self.limits.idle / LOOKS;
        let mut seen = HashMap::new();
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            seen = self.look(&seen);
        }
    }

    /// Ends connections that have reached their age, and what is left of those that were asked to end, until `stop`.
    pub(super) async fn end_old(&self, stop: CancellationToken) {
        let ConnectionLimits { age, grace, .. } = self.limits;
        let pause = (age.min(grace) / 20).clamp(SWEEPS.0, SWEEPS.1);
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            self.open().iter().for_each(|connection| connection.end_in_time(grace, LAST_WORDS));
        }
    }

    fn open(&self) -> Vec<Arc<Connection>> {
        lock(&self.open).values().filter_map(Weak::upgrade).collect()
    }

    /// Looks once at all connections, and ends those that were not used at the last looks. `seen` is what the
    /// look before this one returned: how many calls a connection had, and how often in a row it was unused.
    fn look(&self, seen: &HashMap<u64, (u64, u32)>) -> HashMap<u64, (u64, u32)> {
        let open = self.open();
        let looks = open.iter().map(|connection| {
            connection.passed_over.store(false, Ordering::Relaxed);
            let calls = connection.calls.load(Ordering::Relaxed);
            let unused = connection.streams.load(Ordering::Relaxed) == 0;
            let looks = match seen.get(&connection.number) {
                Some(&(before, looks)) if before == calls && unused => looks + 1,
                _ => 0,
            };
            match looks {
                0..LOOKS => {}
                // Its next calls need a new connection: well-behaved clients make one.
                LOOKS => connection.stop.cancel(),
                _ => connection.hard_stop.cancel(),
            }
            (connection.number, (calls, looks))
        });
        looks.collect()
    }
}

/// One connection: whose it is, and what it holds.
#[derive(Debug)]
pub(super) struct Connection {
    connections: Arc<Connections>,
    number: u64,
    peer: Peer,
    opened: Stopwatch,
    /// When it is to end.
    age: Duration,
    /// Since when it is known to be ending.
    ending: OnceLock<Stopwatch>,
    /// How many calls it had when its client had had the time to take notice of that.
    last_calls: OnceLock<u64>,
    /// It is to end once what is under way has ended.
    pub(super) stop: CancellationToken,
    /// Streams of decisions are to end, also where their callers would go on.
    pub(super) end_streams: CancellationToken,
    /// It is to end at once.
    pub(super) hard_stop: CancellationToken,
    known: OnceLock<Permit>,
    /// Whether its address has no room for it among the known ones, for now.
    passed_over: AtomicBool,
    calls: AtomicU64,
    streams: AtomicUsize,
    messages: AtomicUsize,
    small_messages: AtomicUsize,
    answers: AtomicUsize,
    strangers_calls: AtomicUsize,
}

impl Connection {
    /// Takes note of a call. Only the thread that serves the connection does.
    pub(super) fn called(&self) {
        // No read-modify-write: nobody else writes it, and a decision must not pay for a lock of the bus.
        self.calls.store(self.calls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Takes note of a valid credential.
    pub(super) fn recognise(&self) {
        if self.is_known() || self.passed_over.load(Ordering::Relaxed) {
            return;
        }
        let connections = &self.connections;
        let Some(permit) = connections.known.take(self.peer, 1) else {
            self.passed_over.store(true, Ordering::Relaxed);
            return;
        };
        // Where it is just being closed for another one, that stays so.
        if lock(&connections.strangers).remove(self.peer.subscriber(), self.number).is_some() {
            let _ = self.known.set(permit);
        }
    }

    /// Whether a valid credential came over it, and its address has room for it among the known ones.
    pub(super) fn is_known(&self) -> bool {
        self.known.get().is_some()
    }

    /// A stream is open until the guard is dropped: the connection is not idle.
    pub(super) fn stream(self: &Arc<Self>) -> Guard {
        Guard::count(self, |own| &own.streams, 1).0
    }

    /// Room for `bytes` of a message; `None` where too much is under way.
    pub(super) fn message(self: &Arc<Self>, bytes: usize) -> Option<Guard> {
        let all = &self.connections;
        if bytes <= SMALL {
            let (bound, limiter) = (&SMALL_MESSAGES, &all.small_messages);
            return Guard::limited(self, |own| &own.small_messages, bytes, bound, limiter);
        }
        Guard::limited(self, |own| &own.messages, bytes, &MESSAGES, &all.messages)
    }

    /// Room for `bytes` of an answer.
    pub(super) fn answer(self: &Arc<Self>, bytes: usize) -> Option<Guard> {
        let limiter = &self.connections.answers;
        Guard::limited(self, |own| &own.answers, bytes, &ANSWERS, limiter)
    }

    /// Room for a call without a credential that has to wait.
    pub(super) fn strangers_call(self: &Arc<Self>) -> Option<Guard> {
        let limiter = &self.connections.strangers_calls;
        Guard::limited(self, |own| &own.strangers_calls, 1, &STRANGERS_CALLS, limiter)
    }

    /// Asks it to end where it has reached its age. Where it was asked to, for whatever reason, ends its streams after
    /// `grace`, and `last_words` later what is left then; or all of it at once where the client goes on with new calls
    /// later than `last_words` after it was asked to. Rules 8.14 and 8.15 of docs/policy.md.
    fn end_in_time(&self, grace: Duration, last_words: Duration) {
        if !self.stop.is_cancelled() {
            if self.opened.elapsed() < self.age {
                return;
            }
            self.stop.cancel();
        }
        let ending = self.ending.get_or_init(Stopwatch::start).elapsed();
        if ending >= grace {
            self.end_streams.cancel();
        }
        let calls = self.calls.load(Ordering::Relaxed);
        let goes_on = ending >= last_words && calls > *self.last_calls.get_or_init(|| calls);
        if goes_on || ending >= grace + last_words {
            self.hard_stop.cancel();
        }
    }

    /// Who is at its other end.
    pub(super) fn peer(&self) -> Peer {
        self.peer
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_known() {
            lock(&self.connections.strangers).remove(self.peer.subscriber(), self.number);
        }
        lock(&self.connections.open).remove(&self.number);
    }
}

/// Something that a connection holds; given back when it is dropped.
pub(super) struct Guard {
    connection: Arc<Connection>,
    counter: fn(&Connection) -> &AtomicUsize,
    units: usize,
    _permit: Option<Permit>,
}

impl Guard {
    /// Counts `units`, and says how many there were before.
    fn count(
        connection: &Arc<Connection>,
        counter: fn(&Connection) -> &AtomicUsize,
        units: usize,
    ) -> (Self, usize) {
        let before = counter(connection).fetch_add(units, Ordering::Relaxed);
        (Self { connection: connection.clone(), counter, units, _permit: None }, before)
    }

    fn limited(
        connection: &Arc<Connection>,
        counter: fn(&Connection) -> &AtomicUsize,
        units: usize,
        bound: &Bound,
        limiter: &Arc<Limiter>,
    ) -> Option<Self> {
        let (mut guard, before) = Self::count(connection, counter, units);
        if units <= bound.connection.saturating_sub(before) {
            guard._permit = limiter.take(connection.peer, units);
        }
        if guard._permit.is_none() {
            connection.connections.metrics.shed.inc();
            return None;
        }
        Some(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        (self.counter)(&self.connection).fetch_sub(self.units, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
