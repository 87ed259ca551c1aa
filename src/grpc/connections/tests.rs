//! Tests: who gets a place, who gives way, and what a connection may hold.

use super::super::{authorization, gate, health, reflection};
use super::*;

fn ip(text: &str) -> Peer {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

struct Stage {
    connections: Arc<Connections>,
    stop: CancellationToken,
}

impl Stage {
    fn new(total: usize, per_address: usize) -> Self {
        let hour = Duration::from_secs(3_600);
        let idle = Duration::from_secs(4);
        Self::with(ConnectionLimits { total, per_address, idle, age: hour, grace: hour })
    }

    fn with(limits: ConnectionLimits) -> Self {
        Self {
            connections: Connections::new(limits, Arc::new(Metrics::new())),
            stop: CancellationToken::new(),
        }
    }

    fn enter(&self, peer: &str) -> Option<Arc<Connection>> {
        self.connections.enter(ip(peer), &self.stop, &self.stop)
    }

    fn strangers(&self) -> usize {
        lock(&self.connections.strangers).all
    }
}

fn closed(connections: &[Arc<Connection>]) -> Vec<usize> {
    let closed = connections.iter().enumerate();
    closed.filter(|(_, one)| one.hard_stop.is_cancelled()).map(|(at, _)| at).collect()
}

#[test]
fn the_documented_figures_are_those_of_the_code() {
    let documented = include_str!("../../../docs/operations.md");
    let count = |number: usize| match number {
        ..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    };
    let size = |bytes: usize| match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    };
    let row = |what: &str, bound: &Bound, shown: fn(usize) -> String| {
        let [all, address, connection] = [bound.all, bound.address, bound.connection].map(shown);
        format!("{what} | {all} | {address} | {connection} |")
    };
    let rows = [
        format!("| gRPC connections | {} |", count(CONNECTIONS)),
        format!("no valid credential has come | {} |", count(STRANGERS)),
        row("or watch the server's health", &STRANGERS_CALLS, count),
        row("or wait for the store", &MESSAGES, size),
        row("the same of messages of at most 16 KiB", &SMALL_MESSAGES, size),
        row("that the client has not read", &ANSWERS, size),
        format!("that are worked on at once; others wait | {} |", authorization::LARGE_AT_ONCE),
        format!("| management calls at once | {} |", gate::MANAGEMENT_CALLS),
        format!("`BatchAuthorize` | {} |", size(gate::MAX_MESSAGE)),
        format!("| management | {} |", size(gate::MAX_MANAGEMENT_MESSAGE)),
        format!("| reflection | {} |", size(reflection::MAX_REQUEST)),
        format!("| health | {} |", size(health::MAX_MESSAGE)),
        format!("younger than {} seconds", GRACE.as_secs()),
    ];
    for row in rows {
        assert!(documented.contains(&row), "docs/operations.md lacks: {row}");
    }
}

/// Rule 8.15.
#[test]
fn old_connections_are_asked_to_end_and_their_streams_end_after_the_grace() {
    let (short, hour) = (Duration::from_millis(1), Duration::from_secs(3_600));
    for (age, grace, ends) in
        [(hour, short, [false; 2]), (short, hour, [true, false]), (short, short, [true; 2])]
    {
        let limits = ConnectionLimits { total: 40, per_address: 40, idle: hour, age, grace };
        let stage = Stage::with(limits);
        let connection = stage.enter("192.0.2.1").unwrap();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(5));
            connection.end_in_time(grace, LAST_WORDS);
        }
        let found =
            [&connection.stop, &connection.end_streams].map(CancellationToken::is_cancelled);
        assert_eq!(found, ends, "{age:?}, {grace:?}");
        assert!(!connection.hard_stop.is_cancelled(), "streams have time for their last words");
    }
}

/// Rule 8.14: whose authority was removed decides nothing by new calls for as long as other calls may take.
#[test]
fn a_client_that_takes_no_notice_of_the_end_is_cut_off_and_another_is_not() {
    let stage = Stage::new(40, 40);
    let (deaf, other) = (stage.enter("192.0.2.1").unwrap(), stage.enter("192.0.2.2").unwrap());
    let (grace, last_words) = (Duration::from_secs(600), Duration::ZERO);
    for connection in [&deaf, &other] {
        connection.called();
        connection.stop.cancel();
        // Calls until now were on their way when the client was asked to make no more.
        connection.called();
        connection.end_in_time(grace, last_words);
    }
    deaf.called();
    for connection in [&deaf, &other] {
        connection.end_in_time(grace, last_words);
    }
    assert!(deaf.hard_stop.is_cancelled() && !other.hard_stop.is_cancelled());
}

#[test]
fn connections_that_began_together_do_not_end_together() {
    let ages: Vec<_> =
        (0..100).map(|_| with_jitter(Duration::from_secs(100)).as_millis()).collect();
    assert!(ages.iter().all(|age| (90_000..=110_000).contains(age)), "{ages:?}");
    let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
    assert!(most - least > 5_000, "{ages:?}");
}

#[test]
fn whoever_has_the_most_gives_way_and_the_oldest_first() {
    let stage = Stage::new(40, 40);
    assert_eq!(stage.connections.limits.strangers(), 10);
    let mut hoard: Vec<_> =
        (0..8).map(|at| stage.enter(&format!("2001:db8::{at:x}")).unwrap()).collect();
    hoard.extend([stage.enter("192.0.2.1"), stage.enter("192.0.2.1")].map(Option::unwrap));
    // They all are young, and those of another /64 have fewer.
    let others: Vec<_> = (0..4).map(|_| stage.enter("2001:db8:0:1::1").expect("a place")).collect();
    assert_eq!(closed(&hoard), [0, 1, 2, 3]);
    // Now it has as many: the young ones keep their places.
    assert!(stage.enter("2001:db8:0:1::2").is_none());
    assert!(stage.enter("2001:db8::9").is_none());
    let another = stage.enter("198.51.100.1").expect("others have more");
    assert_eq!(stage.strangers(), 10);
    drop((hoard, others, another));
    assert_eq!(stage.strangers(), 0);
    assert!(lock(&stage.connections.open).is_empty());
}

#[test]
fn among_equals_the_oldest_gives_way_once_it_is_old_enough() {
    let mut strangers = Strangers::default();
    for number in 0..3 {
        let close = CancellationToken::new();
        let stranger = Stranger { since: Stopwatch::start(), close };
        strangers.insert(ip(&format!("192.0.2.{number}")), number, stranger);
    }
    assert!(strangers.give_way(ip("192.0.2.9"), Duration::from_secs(3_600)).is_none());
    for number in 0..3 {
        assert!(strangers.give_way(ip("192.0.2.9"), Duration::ZERO).is_some());
        assert!(!strangers.by.contains_key(&ip(&format!("192.0.2.{number}"))), "{number}");
    }
    assert!(strangers.give_way(ip("192.0.2.9"), Duration::ZERO).is_none());
    assert_eq!(strangers.all, 0);
}

#[test]
fn a_known_connection_leaves_the_strangers_within_its_share() {
    let stage = Stage::new(40, 2);
    let all: Vec<_> = (0..4).map(|_| stage.enter("192.0.2.1").unwrap()).collect();
    for connection in &all {
        connection.recognise();
        connection.recognise();
    }
    assert_eq!(stage.strangers(), 2, "two are known");
    let other = stage.enter("::ffff:192.0.2.2").unwrap();
    other.recognise();
    assert_eq!(stage.strangers(), 2);
    assert_eq!(stage.connections.known.in_use(), 3);
    // One that is closed for another is not known any more.
    let victim = lock(&stage.connections.strangers).give_way(ip("192.0.2.9"), Duration::ZERO);
    assert!(victim.is_some());
    drop(all);
    assert_eq!((stage.strangers(), stage.connections.known.in_use()), (0, 1));
    let again = stage.enter("192.0.2.1").unwrap();
    again.recognise();
    assert_eq!(stage.connections.known.in_use(), 2);
}

#[test]
fn what_a_connection_holds_has_a_bound_for_it_for_its_address_and_in_all() {
    let stage = Stage::new(400, 400);
    let open = |peer: &str| stage.enter(peer).unwrap();
    let one = open("192.0.2.1");
    let most = one.message(MESSAGES.connection).expect("as much as one may");
    assert!(one.message(SMALL + 1).is_none());
    let second = open("192.0.2.1");
    let share = MESSAGES.address - MESSAGES.connection;
    let held = second.message(share).expect("as much as its address may");
    let third = open("192.0.2.1");
    assert!(third.message(SMALL + 1).is_none());
    let small = third.message(SMALL).expect("there is always room for small ones");
    drop((most, small));
    assert!(third.message(SMALL + 1).is_some());
    assert!(one.message(usize::MAX).is_none());
    let calls: Vec<_> = std::iter::from_fn(|| one.strangers_call()).collect();
    assert_eq!(calls.len(), STRANGERS_CALLS.connection);
    drop((held, calls));
    for counter in [&one.messages, &second.messages, &third.messages, &one.strangers_calls] {
        assert_eq!(counter.load(Ordering::Relaxed), 0);
    }
    assert_eq!(stage.connections.messages.in_use(), 0);
}

#[test]
fn idle_connections_end_and_used_ones_do_not() {
    let stage = Stage::new(40, 40);
    let [idle, used, streams] = ["192.0.2.1"; 3].map(|peer| stage.enter(peer).unwrap());
    let stream = streams.stream();
    let mut seen = HashMap::new();
    for look in 0..=LOOKS {
        assert!(!idle.stop.is_cancelled(), "at look {look}");
        used.called();
        seen = stage.connections.look(&seen);
    }
    assert!(idle.stop.is_cancelled() && !idle.hard_stop.is_cancelled(), "it has time to end");
    used.called();
    seen = stage.connections.look(&seen);
    assert!(idle.hard_stop.is_cancelled());
    assert!(!used.stop.is_cancelled() && !streams.stop.is_cancelled());
    drop(stream);
    for _ in 0..LOOKS {
        seen = stage.connections.look(&seen);
    }
    assert!(used.stop.is_cancelled() && streams.stop.is_cancelled());
}
