//! The simulation: one queue of events in true time. Every step of every process, every message and
//! every commit is one, and after each the promise is checked.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt::Display;
use std::iter::Sum;

use portcullis::lease::{LeaseDuration, MonotonicInstant};

use crate::lease::node::{Decision, Node, Step};
use crate::lease::plan::{Blow, CHANGES, Fault, LEASE, LONGEST, Plan};
use crate::lease::random::Random;
use crate::lease::store::{Ask, Believes, KEYS, Op, Reply, Store, Told};

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) node: usize,
    life: u32,
    /// By its sender's clock.
    pub(crate) asked: MonotonicInstant,
    pub(crate) ask: Ask,
}

#[derive(Debug)]
enum Event {
    Arrives(Message),
    /// The standby has what the message committed.
    Confirmed {
        commit: u64,
        timeline: u32,
        message: Message,
        reply: Reply,
    },
    Answered(Message, Reply),
    Step {
        node: usize,
        life: u32,
        step: Step,
    },
    /// By now a change is bound, as was promised.
    Promised {
        key: usize,
        serial: u64,
    },
    /// Somebody tells of a change to a key that is about to be made.
    Forged {
        key: usize,
    },
    Prune,
    Blow(Blow),
}

/// An event and its instant, the earliest being the greatest. What is scheduled first comes first.
#[derive(Debug)]
struct Queued {
    at: Reverse<(u64, u64)>,
    event: Box<Event>,
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Queued {}

/// What happened in a run, so that nobody trusts one in which nothing did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Stats {
    pub(crate) runs: u64,
    pub(crate) events: u64,
    pub(crate) decisions: u64,
    pub(crate) refused: u64,
    pub(crate) bound: u64,
    /// Bound although a replica had not applied it.
    pub(crate) outwaited: u64,
    pub(crate) longest_wait: u64,
}

impl Sum for Stats {
    fn sum<I: Iterator<Item = Self>>(runs: I) -> Self {
        runs.fold(Self::default(), |sum, run| Self {
            runs: sum.runs + run.runs,
            events: sum.events + run.events,
            decisions: sum.decisions + run.decisions,
            refused: sum.refused + run.refused,
            bound: sum.bound + run.bound,
            outwaited: sum.outwaited + run.outwaited,
            longest_wait: sum.longest_wait.max(run.longest_wait),
        })
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) fault: Fault,
    pub(crate) plan: Plan,
    pub(crate) store: Store,
    pub(crate) nodes: Vec<Node>,
    pub(crate) stats: Stats,
    /// The newest change to each key that was said to be bound.
    pub(crate) bound: [u64; KEYS],
    /// What was broken first.
    broken: Option<String>,
    queue: BinaryHeap<Queued>,
    sequence: u64,
    trace: Option<Vec<String>>,
}

/// One run. What was broken, if anything, with all that led to it.
pub(crate) fn run(seed: u64, plan: fn(&mut Random) -> Plan, fault: Fault) -> Result<Stats, String> {
    let broken = match World::new(seed, plan, fault, false).play() {
        Ok(stats) => return Ok(stats),
        Err((broken, _)) => broken,
    };
    let trace =
        World::new(seed, plan, fault, true).play().map_or_else(|(_, trace)| trace, |_| vec![]);
    Err(format!("{}\nseed {seed}: {broken}", trace.join("\n")))
}

impl World {
    fn new(seed: u64, plan: fn(&mut Random) -> Plan, fault: Fault, traced: bool) -> Self {
        let mut random = Random(seed);
        let plan = plan(&mut random);
        let mut store = Store::new(plan.fails_over());
        store.unconditional = matches!(fault, Fault::IdentityIgnored | Fault::IdentityUnnamed);
        store.believes = match fault {
            Fault::ToldUnchecked => Believes::What,
            Fault::ToldEarly => Believes::When,
            _ => Believes::Nothing,
        };
        let nodes = (0..=plan.replicas).map(|at| Node::new(at < plan.replicas, fault, &mut random));
        let nodes = nodes.collect();
        let mut world = Self {
            now: 0,
            random,
            fault,
            store,
            nodes,
            stats: Stats { runs: 1, ..Stats::default() },
            bound: [0; KEYS],
            broken: None,
            queue: BinaryHeap::new(),
            sequence: 0,
            trace: traced.then(Vec::new),
            plan,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        for node in 0..self.plan.replicas {
            let start = self.random.below(LEASE / 4);
            self.step(node, start, Step::Start);
        }
        for number in 0..CHANGES {
            let key = self.random.below(KEYS as u64) as usize;
            let op = Op { number, key, waits: !self.random.in_1000(200) };
            // Many come when something else happens.
            let blows = self.plan.blows.len() as u64;
            let mut at = match self.random.below(2 * blows + 1) {
                blow if blow < blows => {
                    self.plan.blows[blow as usize].0 + self.random.below(LEASE / 10)
                }
                _ => self.random.within(LEASE / 2..self.plan.end),
            };
            at = at.saturating_sub(self.random.below(LEASE / 20));
            if self.random.in_1000(3 * self.plan.untrue) {
                let early = self.random.below(2_500);
                self.schedule(at.saturating_sub(early), Event::Forged { key });
            }
            // Some are asked for again and again, through whomever.
            loop {
                let node = self.random.below(self.nodes.len() as u64) as usize;
                self.step(node, at, Step::Submit { op });
                if self.random.in_1000(600) {
                    break;
                }
                at += self.random.one_of(&[1_000, 10_000, LEASE / 2]);
            }
        }
        for at in 1..self.plan.end / (LEASE / 2) {
            self.schedule(at * LEASE / 2, Event::Prune);
        }
        for (at, blow) in self.plan.blows.clone() {
            self.schedule(at, Event::Blow(blow));
        }
    }

    fn play(mut self) -> Result<Stats, (String, Vec<String>)> {
        while let Some(Queued { at: Reverse((at, _)), event }) = self.queue.pop() {
            if at > self.plan.end {
                break;
            }
            self.now = at;
            self.stats.events += 1;
            self.happen(*event);
            if let Some(broken) = self.broken.take() {
                return Err((broken, self.trace.unwrap_or_default()));
            }
        }
        Ok(self.stats)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives(message) => self.arrive(message),
            Event::Confirmed { commit, timeline, message, reply } => {
                // A connection does not outlive the server.
                if timeline == self.store.identity.timeline {
                    self.store.confirm(commit);
                    self.travel(Event::Answered(message, reply));
                }
            }
            Event::Answered(Message { node, life, .. }, _) | Event::Step { node, life, .. } => {
                let place = &self.nodes[node];
                if place.life != life {
                    return;
                }
                if self.now < place.paused_until {
                    return self.schedule(place.paused_until, event);
                }
                match event {
                    Event::Answered(message, reply) => self.hear(message, reply),
                    Event::Step { step, .. } => self.take(node, step),
                    _ => {}
                }
                self.check(node);
            }
            Event::Promised { key, serial } => self.bind(key, serial),
            Event::Forged { key } => self.forge(key),
            Event::Prune => self.store.prune(),
            Event::Blow(blow) => self.strike(blow),
        }
    }

    fn arrive(&mut self, message: Message) {
        let (reply, commit) = self.store.carry_out(&message.ask, self.now);
        self.note(|| format!("store: {} asked {:?}: {reply:?}", message.node, message.ask));
        if let Reply::Made { repeated: false, .. } = reply {
            self.notify(self.store.told());
        }
        match commit {
            None => self.travel(Event::Answered(message, reply)),
            Some(commit) => {
                let timeline = self.store.identity.timeline;
                let lags = self.random.in_1000(self.plan.lagging);
                let at = self.now + self.random.within(if lags { 0..LEASE / 8 } else { 50..500 });
                self.schedule(at, Event::Confirmed { commit, timeline, message, reply });
            }
        }
    }

    /// Tells everybody of a change, each in its own time. Some hear of another one, some of none.
    fn notify(&mut self, told: Option<Told>) {
        for node in 0..self.plan.replicas {
            if self.now >= self.nodes[node].cut_until && !self.random.in_1000(self.plan.unnotified)
            {
                let late = self.random.in_1000(self.plan.late);
                let at = if late { self.soon(1_500..LEASE) } else { self.soon(100..1_500) };
                let mut told = told;
                if let Some(told) = told.as_mut()
                    && self.random.in_1000(self.plan.untrue)
                {
                    told.key = self.random.below(KEYS as u64) as usize;
                }
                self.step(node, at, Step::Notified { told });
            }
        }
    }

    /// Somebody tells of the next change before it is made, guesses what it will touch, and asks about that.
    fn forge(&mut self, key: usize) {
        let position = self.store.head().position.next();
        self.notify(Some(Told { position, key, serial: 0 }));
        for node in 0..self.plan.replicas {
            let at = self.soon(500..3_000);
            let decision = Decision { key, floor: self.bound[key] };
            self.step(node, at, Step::CheckLease { decision, fact: None });
        }
    }

    fn strike(&mut self, blow: Blow) {
        self.note(|| format!("{blow:?}"));
        match blow {
            Blow::Pause { node, length } => {
                let place = &mut self.nodes[node];
                place.paused_until = place.paused_until.max(self.now + length);
                if self.fault == Fault::ClockSleeps {
                    place.clock.slept += length;
                }
                // It may decide the moment that it goes on.
                let resumed = place.paused_until;
                self.step(node, resumed, Step::Settle);
            }
            Blow::Cut { node, length } => self.nodes[node].cut_until = self.now + length,
            Blow::End { node, back, orderly } => {
                if orderly {
                    self.step(node, self.now, Step::Leave { back });
                } else {
                    self.end(node, back);
                }
            }
            Blow::FailOver { choice, wall } => {
                self.store.fail_over(choice);
                self.store.wall += wall;
            }
            Blow::StepWall(by) => self.store.wall += by,
        }
    }

    /// The process is gone, and another one may start in its place.
    pub(crate) fn end(&mut self, node: usize, back: Option<u64>) {
        self.nodes[node].end(self.fault);
        if let Some(after) = back {
            self.step(node, self.now + after, Step::Start);
        }
    }

    /// After each step of a process, and for all of them when a change is bound: a decision that
    /// began now would rest on nothing that was before a bound change. Nothing else can make it so:
    /// until then a lease can only end.
    fn check(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.serves || !node.runs || self.now < node.paused_until {
            return;
        }
        let process = &mut node.process;
        if process.replica.may_decide(node.clock.at(self.now)) {
            process.has_decided = true;
            for (key, bound) in self.bound.iter().enumerate() {
                if process.memory[key].is_some_and(|fact| fact < *bound) {
                    self.broken.get_or_insert_with(|| {
                        format!("{at} may decide on {key} as before change {bound}")
                    });
                }
            }
        } else if process.has_decided && self.plan.longest_wait.is_some() {
            self.broken.get_or_insert_with(|| format!("the lease of {at} lapsed"));
        }
    }

    /// A decision was made from this fact.
    pub(crate) fn decided(&mut self, node: usize, floor: u64, fact: u64) {
        self.stats.decisions += 1;
        if fact < floor {
            self.broken.get_or_insert(format!("{node} decided as before change {floor}"));
        }
    }

    /// A change is said to be bound.
    pub(crate) fn bind(&mut self, key: usize, serial: u64) {
        self.note(|| format!("change {serial} to {key} is bound"));
        self.stats.bound += 1;
        self.bound[key] = self.bound[key].max(serial);
        (0..self.plan.replicas).for_each(|node| self.check(node));
    }

    /// A change was waited for so long, and is waited for until then at the latest.
    pub(crate) fn waited(&mut self, since: u64, left: u64) {
        let waited = self.now - since;
        self.stats.longest_wait = self.stats.longest_wait.max(waited);
        if left > LeaseDuration(LONGEST).reckoned() {
            self.broken.get_or_insert(format!("a change waits for {left} us more"));
        }
        if self.plan.longest_wait.is_some_and(|longest| waited > longest) {
            self.broken.get_or_insert(format!("a change has waited for {waited} us"));
        }
    }

    pub(crate) fn send(&mut self, node: usize, ask: Ask) {
        let Node { life, clock, .. } = &self.nodes[node];
        let message = Message { node, life: *life, asked: clock.at(self.now), ask };
        self.travel(Event::Arrives(message));
    }

    /// Sends a message on its way, which may take long or never end.
    fn travel(&mut self, event: Event) {
        let (Event::Arrives(message) | Event::Answered(message, _)) = &event else { return };
        let cut = self.now < self.nodes[message.node].cut_until;
        if cut || self.random.in_1000(self.plan.lost) {
            return;
        }
        let at = if self.random.in_1000(self.plan.late) {
            self.now + self.random.below(LEASE * 3 / 2)
        } else {
            self.now + self.random.within(100..1_500)
        };
        self.schedule(at, event);
    }

    /// An instant that is near, unless the step to it takes long.
    pub(crate) fn soon(&mut self, range: std::ops::Range<u64>) -> u64 {
        let slow = self.random.in_1000(self.plan.slow);
        let range = if slow { 0..self.random.one_of(&[LEASE / 8, LEASE]) } else { range };
        self.now + self.random.within(range)
    }

    pub(crate) fn step(&mut self, node: usize, at: u64, step: Step) {
        let life = self.nodes[node].life;
        self.schedule(at, Event::Step { node, life, step });
    }

    pub(crate) fn promise(&mut self, at: u64, key: usize, serial: u64) {
        self.schedule(at, Event::Promised { key, serial });
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        let at = Reverse((at.max(self.now), self.sequence));
        self.queue.push(Queued { at, event: Box::new(event) });
    }

    pub(crate) fn note<D: Display>(&mut self, text: impl FnOnce() -> D) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9} {}", self.now, text()));
        }
    }
}
