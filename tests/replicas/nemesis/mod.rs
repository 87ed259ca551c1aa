//! Several servers, clients that ask all of them all the time, controllers that create, narrow, widen and
//! delete, and somebody who pauses, kills, cuts off, slows down and loses. What happened is checked
//! afterwards: see `history`.
//!
//! `REPLICAS_SECONDS` and `REPLICAS_SEED` say for how long and with which seed.

use std::collections::HashMap;
use std::env;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use portcullis::config::server::BUILT_IN_CATALOG;
use portcullis::failpoint::Failpoint;
use portcullis::grpc::proto::{ApplyCatalogRequest, TokenKind};
use tokio::task::JoinSet;
use tonic::{Request, Status};

use crate::lease::random::Random;
use crate::replicas::history::{Change, History, ObjectId, Seen};
use crate::replicas::proxy::Proxy;
use crate::support::client::{Client, question};
use crate::support::postgres::Cluster;
use crate::support::server::{Server, Setup, random_credential};

mod ask;
mod control;
mod trouble;

const SERVERS: usize = 3;
/// How long a history lasts, unless `REPLICAS_SECONDS` says so.
const SECONDS: u64 = 60;
const LEASE: Duration = Duration::from_secs(1);
/// How long a call may take before its outcome counts as unknown.
const CALL: Duration = Duration::from_secs(8);
const ASK: Duration = Duration::from_secs(2);
/// Tokens that a controller has at once.
const TOKENS: usize = 6;
const HERE: &str = "192.0.2.1";
const ELSEWHERE: &str = "198.51.100.1";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What can be asked about.
#[derive(Clone)]
enum Object {
    /// A token, from [`HERE`].
    Token(String),
    /// A credential, by asking about a token that never changes.
    Credential(String),
    /// A route that the catalogue has or has not.
    Route,
}

struct World {
    cluster: Cluster,
    proxies: Vec<Proxy>,
    servers: Vec<Mutex<Server>>,
    clients: Vec<RwLock<Client>>,
    /// Whether somebody stopped or cut off the server just now.
    down: Vec<AtomicBool>,
    /// Held by whoever troubles the server's wire, and while the server starts: that it does only where it
    /// finds its database.
    wires: Vec<tokio::sync::Mutex<()>>,
    account: String,
    steady: String,
    objects: RwLock<Vec<(ObjectId, Object)>>,
    next: AtomicUsize,
    history: Mutex<History>,
    stop: AtomicBool,
    /// Waits that a dead replica made longer than half a lease.
    outwaited: AtomicUsize,
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn toml(with_route: bool) -> String {
    let route = if with_route { ", \"GET /nemesis/toggled\"" } else { "" };
    format!(
        "{BUILT_IN_CATALOG}\n[[scope]]\nname = \"nemesis\"\naccess = \"read\"\n\
         routes = [\"GET /nemesis/kept\"{route}]\n"
    )
}

fn limited<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

impl World {
    async fn new(failpoint: Option<Failpoint>) -> Arc<Self> {
        let cluster = Cluster::with_fsync();
        let direct = cluster.database();
        let operator = random_credential();
        let mut servers = Vec::new();
        let mut clients = Vec::new();
        let proxies: Vec<_> = (0..SERVERS).map(|_| Proxy::new(cluster.port())).collect();
        for proxy in &proxies {
            let setup = Setup::postgres(&proxy.url(&direct)).operator(&operator);
            let lease = format!("{}ms", LEASE.as_millis());
            let mut setup = setup.flag("--lease", &lease);
            if let Some(failpoint) = failpoint {
                setup = setup.env("FAILPOINT", failpoint.name());
            }
            let server = setup.start();
            clients.push(Client::operator(&server).await);
            servers.push(server);
        }
        let account = clients[0].account().await.account_id;
        let apply = ApplyCatalogRequest { toml: toml(true), ..Default::default() };
        clients[0].catalog().apply_catalog(apply).await.unwrap();
        let (_, steady) = clients[0].token(&account, TokenKind::ReadOnly, &[], &[]).await;
        Arc::new(Self {
            cluster,
            proxies,
            servers: servers.into_iter().map(Mutex::new).collect(),
            clients: clients.into_iter().map(RwLock::new).collect(),
            down: (0..SERVERS).map(|_| AtomicBool::new(false)).collect(),
            wires: (0..SERVERS).map(|_| tokio::sync::Mutex::default()).collect(),
            account,
            steady,
            objects: RwLock::default(),
            next: AtomicUsize::new(0),
            history: Mutex::default(),
            stop: AtomicBool::new(false),
            outwaited: AtomicUsize::new(0),
        })
    }

    fn client(&self, at: usize) -> Client {
        self.clients[at].read().unwrap().clone()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A server that is mostly one that answers.
    fn some_server(&self, random: &mut Random) -> Client {
        let mut at = random.below(SERVERS as u64) as usize;
        for _ in 0..SERVERS {
            if !self.down[at].load(Ordering::Relaxed) || random.in_1000(100) {
                break;
            }
            at = (at + 1) % SERVERS;
        }
        self.client(at)
    }

    fn publish(&self, object: Object, begin: Instant) -> ObjectId {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let created =
            Change { object: id, begin, bound: Some(Instant::now()), leads_to: Seen::Allowed };
        lock(&self.history).changes.push(created);
        self.objects.write().unwrap().push((id, object));
        id
    }

    fn retire(&self, object: ObjectId) {
        self.objects.write().unwrap().retain(|(id, _)| *id != object);
    }

    /// Makes a change and notes it: from before it is asked for, in case nobody ever learns what became
    /// of it. Whether that is known, and whether it is bound.
    async fn change<T>(
        &self,
        object: ObjectId,
        leads_to: Seen,
        call: impl Future<Output = Result<T, Status>>,
        bound: impl FnOnce(&T) -> bool,
    ) -> Option<bool> {
        let begin = Instant::now();
        let at = {
            let mut history = lock(&self.history);
            history.changes.push(Change { object, begin, bound: None, leads_to });
            history.changes.len() - 1
        };
        let answer = call.await.ok()?;
        let bound = bound(&answer);
        if bound {
            lock(&self.history).changes[at].bound = Some(Instant::now());
            if begin.elapsed() > LEASE / 2 {
                self.outwaited.fetch_add(1, Ordering::Relaxed);
            }
        }
        Some(bound)
    }
}

/// Runs it all. What happened, with how often a change outwaited a replica.
async fn run(seed: u64, length: Duration, failpoint: Option<Failpoint>) -> (History, usize) {
    let world = World::new(failpoint).await;
    let random = |of: u64| Random(seed.wrapping_mul(1_000).wrapping_add(of));
    let mut tasks = JoinSet::new();
    for at in 0..3 {
        tasks.spawn(world.clone().control_tokens(random(at)));
    }
    tasks.spawn(world.clone().control_credentials(random(10)));
    tasks.spawn(world.clone().control_catalog(random(11)));
    for server in 0..SERVERS {
        for at in 0..2 {
            let random = random(20 + 2 * server as u64 + at);
            tasks.spawn(world.clone().ask(server, random, at == 1));
        }
    }
    tasks.spawn(world.clone().trouble_processes(random(30)));
    tasks.spawn(world.clone().trouble_wires(random(31)));
    tasks.spawn(world.clone().trouble_store(random(32)));
    tokio::time::sleep(length).await;
    world.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    // All of them come back by themselves.
    for at in 0..SERVERS {
        let (client, begin) = (world.client(at), Instant::now());
        loop {
            let request = question(&world.steady, HERE, "transactions.read");
            if ask::seen(
                client.authorization().authorize(request).await.map(tonic::Response::into_inner),
            ) == Seen::Allowed
            {
                break;
            }
            assert!(begin.elapsed() < 10 * LEASE, "server {at} does not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let history = std::mem::take(&mut *lock(&world.history));
    (history, world.outwaited.load(Ordering::Relaxed))
}

fn told(history: &History, outwaited: usize) -> String {
    let mut counts: HashMap<Seen, usize> = HashMap::new();
    for asked in &history.asked {
        *counts.entry(asked.seen).or_default() += 1;
    }
    let bound = history.changes.iter().filter(|change| change.bound.is_some()).count();
    format!(
        "{} changes, {bound} bound, {outwaited} after more than half a lease; decisions: {counts:?}",
        history.changes.len()
    )
}

fn seed() -> u64 {
    setting("REPLICAS_SEED", u64::from(std::process::id()))
}

async fn history(seed: u64, seconds: u64, failpoint: Option<Failpoint>) -> (Vec<String>, String) {
    println!("REPLICAS_SEED={seed} REPLICAS_SECONDS={seconds}");
    let (history, outwaited) = run(seed, Duration::from_secs(seconds), failpoint).await;
    let told = told(&history, outwaited);
    println!("{told}");
    // It means something only where a lot happened.
    let seconds = seconds as usize;
    let decided = history.asked.iter().filter(|asked| asked.seen != Seen::Nothing).count();
    assert!(decided > 100 * seconds && outwaited > seconds / 20, "{told}");
    let violations = history.violations();
    let shown = violations[..violations.len().min(10)].join("\n");
    let told =
        format!("{} violations with REPLICAS_SEED={seed}; {told}\n{shown}", violations.len());
    (violations, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_decision_rests_on_what_a_bound_change_was_before() {
    let (violations, told) = history(seed(), setting("REPLICAS_SECONDS", SECONDS), None).await;
    assert!(violations.is_empty(), "{told}");
}

/// Servers that break their promise are found out, in one of so many histories. Any violation is the planted
/// error's: without it there are none.
#[cfg(feature = "failpoints")]
mod planted {
    use portcullis::failpoint::Failpoint;

    const HISTORIES: u64 = 10;
    const SECONDS: u64 = 30;

    async fn is_found(failpoint: Failpoint) {
        for seed in super::seed()..super::seed() + HISTORIES {
            let (violations, told) = super::history(seed, SECONDS, Some(failpoint)).await;
            println!("{told}");
            if !violations.is_empty() {
                return;
            }
        }
        panic!("{failpoint:?} is not found in {HISTORIES} histories");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_lease_is_found() {
        is_found(Failpoint::NoLease).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn acknowledged_unapplied_is_found() {
        is_found(Failpoint::AcknowledgedUnapplied).await;
    }
}
