//! Attacks on memory and connections, with the server's memory and an ordinary client's calls measured beside them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure; how long something took is part of the test"
)]

mod idle;
use std::collections::VecDeque;
use std::fs;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame as BodyFrame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::client::{Client, question};
use crate::support::frames::{
    self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    Wire, frame, head, prefix,
};
use crate::support::raw::Raw;
use crate::support::server::{Server, Setup};
use crate::support::wait;
use portcullis::grpc::proto::{Decision, GetCatalogRequest, TokenKind};
use tokio::task::JoinSet;

/// How much memory an attack may cost, in KiB.
const GROWTH: u64 = 64 << 10;
/// The address of attackers: 127.0.0.2. Ordinary clients come from 127.0.0.1.
const ATTACKER: u8 = 2;
const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const AUTHORIZE: &str = "/portcullis.v1.AuthorizationService/Authorize";
const BATCH: &str = "/portcullis.v1.AuthorizationService/BatchAuthorize";
const STREAM: &str = "/portcullis.v1.AuthorizationService/StreamAuthorize";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// A server under attack, and what an ordinary client sees of it.
struct Siege {
    server: Server,
    before: u64,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    ordinary: tokio::task::JoinHandle<()>,
}

impl Siege {
    async fn of(setup: Setup) -> Self {
        let server = setup.start();
        let client = Client::operator(&server).await;
        let account = client.account().await.account_id;
        let (_, token) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (address, credential) = (server.grpc(), server.operator().to_owned());
        let (ending, done) = (stop.clone(), calls.clone());
        let ordinary = tokio::spawn(async move {
            while !ending.load(Ordering::Relaxed) {
                // Over a connection that was there before, and over a new one.
                let other = Client::connect(address, &credential).await;
                for client in [&client, &other] {
                    let request = question(&token, "192.0.2.1", "transactions.read");
                    let answer = client.authorization().authorize(request).await;
                    let answer = answer.expect("an ordinary call").into_inner();
                    assert_eq!(answer.decision(), Decision::Allow);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // What the first calls cost is no part of the attack.
        while calls.load(Ordering::Relaxed) < 20 {
            assert!(!ordinary.is_finished(), "an ordinary call failed before the attack");
            tokio::task::yield_now().await;
        }
        let before = server.memory("VmHWM");
        Self { server, before, stop, calls, ordinary }
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.server.operator())
    }

    /// Looks at what the attack cost, and ends.
    async fn end(self, attack: &str) {
        let health = self.server.get("/healthz").0;
        assert!(health.contains("200"), "{attack}: {health}");
        let during = self.calls.load(Ordering::Relaxed);
        while self.calls.load(Ordering::Relaxed) < during + 4 && !self.ordinary.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        self.ordinary.await.unwrap_or_else(|error| panic!("{attack}: {error}"));
        let growth = self.server.memory("VmHWM").saturating_sub(self.before);
        println!(
            "{attack}: {growth} KiB more, {} ordinary calls",
            self.calls.load(Ordering::Relaxed)
        );
        assert!(growth < GROWTH, "{attack}: the memory grew by {growth} KiB");
        assert!(!self.server.log().contains("panic"), "{}", self.server.log());
    }
}

/// Runs what blocks where it holds up nobody.
async fn attack<T: Send + 'static>(attack: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(attack).await.unwrap()
}

/// The bytes of a message that says it has `declared` bytes, and has `sent`.
fn begun(declared: u32, sent: usize) -> Vec<u8> {
    let mut bytes = prefix(declared).to_vec();
    bytes.resize(bytes.len() + sent, b'x');
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_strangers_that_never_end_cost_little() {
    let siege = Siege::of(Setup::sqlite()).await;
    let server = siege.server.grpc();
    let held = attack(move || {
        let long = "x".repeat(12 << 10);
        let mut held = Vec::new();
        let refused = [("authorization", "Bearer nobody")];
        for (path, headers, declared, sent) in [
            (CHECK, &[][..], 4 << 10, 4_000),
            (CHECK, &[("x-long", long.as_str())], 4 << 10, 100),
            (CHECK, &[("x-long", long.as_str())], 0, 0),
            (WATCH, &[], 4 << 10, 4_000),
            (WATCH, &[], u32::MAX, 1 << 10),
            (AUTHORIZE, &refused, 4 << 20, 16 << 10),
            (STREAM, &refused, 4 << 20, 16 << 10),
            (REFLECTION, &[], 4 << 20, 16 << 10),
            ("/no.Such/Call", &[], 4 << 20, 16 << 10),
            ("/portcullis.v1.TokenService/CreateToken", &refused, 4 << 20, 16 << 10),
        ] {
            for _ in 0..6 {
                held.push(calls(server, &head(path, headers), &begun(declared, sent)));
            }
        }
        held
    })
    .await;
    // The same by a client that keeps to what the server gives it leave to send.
    flood(server, &[CHECK, WATCH, BATCH, REFLECTION, "/no.Such/Call"], None).await;
    siege.end("messages of strangers").await;
    drop(held);
}

/// The client's window for the body of an answer is 0, and stays so (RFC 9113, section 6.9.2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_strangers_that_are_not_taken_cost_little() {
    let siege = Siege::of(Setup::sqlite()).await;
    let server = siege.server.grpc();
    let held = attack(move || {
        let no_window = [0, 4, 0, 0, 0, 0];
        let mut held = Vec::new();
        for (path, connections) in [(CHECK, 10), (WATCH, 4), (AUTHORIZE, 1), (REFLECTION, 1)] {
            for _ in 0..connections {
                let mut wire = Wire::connect_with(server, ATTACKER, &no_window).unwrap();
                let head = head(path, &[]);
                for _ in 0..1_000 {
                    if wire.call(&head, &prefix(0), END_STREAM).is_err() {
                        break;
                    }
                }
                held.push(wire);
            }
        }
        held
    })
    .await;
    // Of each connection's health checks, 32 hold their places until their answers are taken.
    let shed = || siege.server.metric("portcullis_shed_total");
    wait::until(shed, |shed| *shed >= Some(14 * (1_000 - 32)));
    siege.end("answers that are not taken").await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_callers_that_never_end_cost_little() {
    let siege = Siege::of(Setup::sqlite()).await;
    let (server, authorization) = (siege.server.grpc(), siege.authorization());
    let credential = authorization.clone();
    let held = attack(move || {
        let headers = [("authorization", credential.as_str())];
        let mut held = Vec::new();
        for (path, declared, sent) in [
            (STREAM, 4 << 20, 16 << 10),
            (AUTHORIZE, 4 << 20, 16 << 10),
            (BATCH, 4 << 20, 64 << 10),
            (AUTHORIZE, 64 << 10, 60 << 10),
            (REFLECTION, 64 << 10, 60 << 10),
            ("/portcullis.v1.CatalogService/ApplyCatalog", 2 << 20, 64 << 10),
        ] {
            for _ in 0..4 {
                held.push(calls(server, &head(path, &headers), &begun(declared, sent)));
            }
        }
        held
    })
    .await;
    let paths = [BATCH, STREAM, AUTHORIZE, "/portcullis.v1.TokenService/GetToken"];
    flood(server, &paths, Some(&authorization)).await;
    siege.end("messages of callers").await;
    drop(held);
}

/// A connection with as many calls as it may have, each of whose messages is not sent to its end; as many as the
/// server gives leave to send, which is 1 MiB.
fn calls(server: SocketAddr, head: &[u8], begun: &[u8]) -> Wire {
    let mut wire = Wire::connect(server, ATTACKER).unwrap();
    wire.until(|frame| frame.kind == WINDOW_UPDATE);
    for _ in 0..1_000.min((1 << 20) / begun.len()) {
        // It may be sent away.
        if wire.call(head, begun, 0).is_err() {
            break;
        }
    }
    wire
}

/// Calls each of `paths` over connections of its own, with messages of 4 MiB without their last bytes, and waits
/// for the answers, but not for ever.
async fn flood(server: SocketAddr, paths: &[&str], authorization: Option<&str>) {
    let message = Bytes::from(begun(4 << 20, (4 << 20) - 1));
    let (mut answers, mut connections) = (JoinSet::new(), JoinSet::new());
    for path in paths.repeat(3) {
        let stream = frames::tcp(server, ATTACKER).unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let builder = http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        connections.spawn(async move { drop(connection.await) });
        for _ in 0..50 {
            let parts = (0..message.len()).step_by(16 << 10);
            let parts = parts.map(|at| message.slice(at..message.len().min(at + (16 << 10))));
            let mut request = http::Request::post(format!("http://{server}{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let answer = sender.send_request(request.body(Unfinished(parts.collect())).unwrap());
            answers.spawn(async move {
                let Ok(answer) = answer.await else { return };
                let mut body = answer.into_body();
                while poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_some() {}
            });
        }
        // A connection without a sender would end.
        connections.spawn(async move {
            sender.ready().await.ok();
            std::future::pending().await
        });
    }
    let all = async { while answers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_secs(25), all).await;
}

/// What is sent of a body whose end never comes.
struct Unfinished(VecDeque<Bytes>);

impl Body for Unfinished {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Self::Error>>> {
        match self.0.pop_front() {
            Some(part) => Poll::Ready(Some(Ok(BodyFrame::data(part)))),
            None => Poll::Pending,
        }
    }
}

/// Rule 8.13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_strangers_shut_nobody_out() {
    let siege = Siege::of(Setup::sqlite()).await;
    let server = siege.server.grpc();
    let held = attack(move || {
        let connect = |at: u8| Wire::connect(server, ATTACKER + at % 2).ok();
        (0..6_000).filter_map(|at| connect((at % 2) as u8)).collect::<Vec<_>>()
    })
    .await;
    assert!(held.len() > 5_000, "{}", held.len());
    siege.end("idle connections").await;
    drop(held);
}

/// Of one address, nobody can tell clients from attackers. Those that are idle give way all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_ones_own_address_give_way() {
    let server = Setup::sqlite().start();
    let client = Client::operator(&server).await;
    client.account().await;
    let address = server.grpc();
    let held = attack(move || {
        (0..1_000).filter_map(|_| Wire::connect(address, 1).ok()).collect::<Vec<_>>()
    })
    .await;
    // With a deadline for each attempt, as clients have: the reset of a refused connection may get lost, and then
    // nothing ends the wait for an answer.
    let reach = async || -> Result<(), String> {
        let attempt = async {
            let client = Client::try_connect(address, server.operator()).await;
            let client = client.map_err(|error| format!("{error:?}"))?;
            let catalog = client.catalog().get_catalog(GetCatalogRequest {}).await;
            catalog.map(drop).map_err(|status| format!("{status:?}"))
        };
        let attempt = tokio::time::timeout(Duration::from_secs(5), attempt).await;
        attempt.unwrap_or_else(|_| Err("no answer within 5 seconds".into()))
    };
    // Once they are older than 2 seconds.
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = reach().await {
        assert!(Instant::now() < deadline, "no place beside {} connections: {error}", held.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 0..50 {
        let reached = reach().await;
        reached.unwrap_or_else(|error| panic!("connection {number} got no place: {error}"));
    }
    client.account().await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_cost_little() {
    let siege = Siege::of(Setup::sqlite()).await;
    let (server, authorization) = (siege.server.grpc(), siege.authorization());
    let held = attack(move || {
        let head = head(BATCH, &[("authorization", &authorization)]);
        // A thousand questions without a token, each of which is answered with an error of some hundred bytes.
        let questions = [0x0a, 0].repeat(1_000);
        let body = [&prefix(2_000)[..], &questions].concat();
        // As one connection has of them, without leave to send any answer.
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut wire = Wire::connect(server, ATTACKER).unwrap();
            wire.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
            wire.until(|frame| frame.kind == WINDOW_UPDATE);
            for _ in 0..500 {
                wire.call(&head, &body, END_STREAM).unwrap();
            }
            held.push(wire);
        }
        held
    })
    .await;
    let shed = || siege.server.metric("portcullis_shed_total");
    wait::until(shed, |shed| *shed > Some(0));
    siege.end("answers").await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_blocks_that_never_end_cost_little() {
    let siege = Siege::of(Setup::sqlite()).await;
    let server = siege.server.grpc();
    let held = attack(move || {
        let mut held = Vec::new();
        let long = head(CHECK, &[("x-long", "x".repeat(15 << 10).as_str())]);
        for at in 0..400 {
            let mut wire = Wire::connect(server, ATTACKER).unwrap();
            let sent = match at % 4 {
                // A block whose end does not come, and a frame whose end does not come.
                0 => wire.send(&frame(HEADERS, 0, 1, &long)),
                1 => wire.send(&frame(HEADERS, 0, 1, &long)[..12 << 10]),
                // As much of a block as the server takes.
                2 => wire.send(
                    &[
                        frame(HEADERS, 0, 1, &long),
                        frame(CONTINUATION, 0, 1, &[0; 8]).repeat(1_000),
                    ]
                    .concat(),
                ),
                // Streams that end as soon as they begin.
                _ => (0..2_000).try_for_each(|at| {
                    let stream = 2 * at + 1;
                    wire.send(
                        &[
                            frame(HEADERS, END_HEADERS, stream, &head(CHECK, &[])),
                            frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()),
                        ]
                        .concat(),
                    )
                }),
            };
            // The server sends some of them away.
            drop(sent);
            held.push(wire);
        }
        held
    })
    .await;
    siege.end("header blocks").await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_few_descriptors_both_listeners_stay_reachable() {
    let siege = Siege::of(Setup::sqlite().descriptors(300)).await;
    let log = siege.server.log();
    assert!(log.contains("the limit of open files is too low"), "{log}");
    assert!(log.contains("151 for gRPC instead of 16384"), "{log}");
    let (grpc, http) = (siege.server.grpc(), siege.server.http());
    let held = attack(move || {
        let wires = (0..400).filter_map(|_| Wire::connect(grpc, ATTACKER).ok()).collect::<Vec<_>>();
        let others = (0..400).filter_map(|_| frames::tcp(http, ATTACKER).ok()).collect::<Vec<_>>();
        (wires, others)
    })
    .await;
    let log = siege.server.log();
    assert!(!log.contains("cannot accept"), "it ran out of descriptors: {log}");
    siege.end("few descriptors").await;
    drop(held);
}

/// The processor time of the threads whose name `is` so, in ticks.
fn processor_time(server: &Server, is: impl Fn(&str) -> bool) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let times = tasks.filter_map(|task| {
        // A thread may have ended meanwhile.
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        // `utime` and `stime`, the 14th and 15th field.
        let fields: Vec<_> = rest.split_whitespace().collect();
        let time = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
        Some(if is(name) { time } else { 0 })
    });
    times.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_are_not_read_by_the_threads_that_decide() {
    let server = Setup::sqlite().start();
    let authorization = format!("Bearer {}", server.operator());
    // Fields that no request has, each of two bytes: reading them takes longest.
    let batch = Bytes::from([0x78, 1].repeat((2 << 20) - 8));
    let management = batch.slice(..2 << 20);
    let decides = |name: &str| name.starts_with("grpc-");
    let times =
        || [processor_time(&server, decides), processor_time(&server, |name| !decides(name))];
    let begun = times();
    let mut callers = JoinSet::new();
    for _ in 0..2 {
        let raw = Raw::connect(server.grpc()).await;
        let (batch, management) = (batch.clone(), management.clone());
        let authorization = authorization.clone();
        callers.spawn(async move {
            for _ in 0..8 {
                for (path, message, field) in [
                    (BATCH, &batch, "requests"),
                    (AUTHORIZE, &batch, "scope"),
                    ("/portcullis.v1.TokenService/GetToken", &management, "token_id"),
                ] {
                    let none = raw.call(path, Some(&authorization), message.clone()).await;
                    let none = none.expect_err(path);
                    assert!(none.message().contains(field), "{path}: {none:?}");
                }
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    let ended = times();
    let [deciding, others] = std::array::from_fn(|at| ended[at] - begun[at]);
    println!("{deciding} ticks where decisions are made, {others} elsewhere");
    assert!(others > deciding, "{deciding} ticks where decisions are made, {others} elsewhere");
}
