//! Clients that hoard what the HTTP listener has (connections, forms that don't arrive, answers that nobody
//! reads), from two addresses at once, against the real server. Meanwhile ordinary clients from elsewhere use
//! the page, its health and gRPC, of which nothing may fail; memory stays bounded; and in the end the hoards
//! are given up.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis::grpc::proto::Decision;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::page::stage::Stage;
use crate::support::client::question;
use crate::support::http::Http;
use crate::support::server::{Server, Setup};
use crate::support::tls::Authority;

/// Connections of each attacker: more than there are places for.
const HOARD: usize = 1_100;
/// Attackers' addresses.
const THIEVES: [&str; 2] = ["127.0.0.66", "127.0.0.67"];
/// How much memory an attack may take, in KiB.
const GROWTH: u64 = 64 << 10;
/// Descriptors that the server may open for its store meanwhile.
const OWN: usize = 16;
/// Every limit of the listener has done its work by then.
const GIVEN_UP: Duration = Duration::from_secs(90);

/// What an attacker does with a connection.
#[derive(Clone)]
enum Ploy {
    /// Sends this, and reads nothing.
    Send(Vec<u8>),
    /// Sends this, and goes on with a byte of it now and then.
    Trickle(Vec<u8>),
    /// Sends this, and reads a little now and then, so that the system sees progress.
    Sip(Vec<u8>),
}

/// Connections that are held until this is dropped.
struct Hoard {
    _tasks: JoinSet<()>,
    /// How many descriptors the server had open before.
    before: usize,
}

impl Hoard {
    async fn new(server: &Server, ploy: impl Fn(usize) -> Ploy) -> Self {
        rlimit::increase_nofile_limit(u64::MAX).unwrap();
        let before = descriptors(server);
        let mut tasks = JoinSet::new();
        for from in THIEVES {
            for number in 0..HOARD {
                let (stream, ploy) = (connect(from, server.http()).await, ploy(number));
                tasks.spawn(hold(stream, ploy));
            }
        }
        Self { _tasks: tasks, before }
    }

    /// Waits until the server has given up every connection, while the attackers still hold their ends.
    async fn given_up(self, server: &Server, what: &str) {
        let all = async {
            while descriptors(server) > self.before + OWN {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let in_time = tokio::time::timeout(GIVEN_UP, all).await;
        let still = descriptors(server).saturating_sub(self.before);
        assert!(in_time.is_ok(), "{what}: {still} connections are still held");
    }
}

/// How many files and sockets a server has open.
fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count()
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    // What this side takes without being asked must not hide that nobody reads.
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(to).await.unwrap()
}

/// Holds a connection for as long as the server lets it, and longer where that can't be known.
async fn hold(mut stream: TcpStream, ploy: Ploy) {
    let pause = Duration::from_millis(500);
    match ploy {
        Ploy::Send(bytes) => {
            let _ = stream.write_all(&bytes).await;
            std::future::pending::<()>().await;
        }
        Ploy::Trickle(bytes) => {
            let (head, rest) = bytes.split_at(bytes.len() / 2);
            let mut sent = stream.write_all(head).await;
            for byte in rest {
                if sent.is_err() {
                    break;
                }
                tokio::time::sleep(pause).await;
                sent = stream.write_all(&[*byte]).await;
            }
        }
        Ploy::Sip(bytes) => {
            let _ = stream.write_all(&bytes).await;
            while stream.read(&mut [0; 256]).await.is_ok_and(|read| read > 0) {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// What ordinary people and programs do all the time. None of it may fail.
async fn ordinary(stage: &Stage, stranger: &Http, rounds: usize) {
    for _ in 0..rounds {
        let (mut browser, credential) = (stranger.stranger(), stage.ours.admin.clone());
        let pages = tokio::task::spawn_blocking(move || {
            for path in ["/healthz", "/readyz", "/metrics"] {
                browser.get(path).says(200);
            }
            let mut browser = browser.sign_in(&credential);
            browser.get("/tokens").says(200);
            let long = "192.0.2.1 ".repeat(2_000);
            let page = browser.get("/tokens/new").says(200);
            let (csrf, once) = (page.field("csrf"), page.field("form"));
            let form = [("csrf", &csrf), ("form", &once), ("whitelist", &long)];
            let form = form.map(|(name, value)| (name, value.as_str()));
            browser.post("/tokens/new", &form).says(422);
            browser.post("/sign-out", &[("csrf", &csrf)]).says(303);
        });
        let ask = question(&stage.ours.secret, "192.0.2.1", "transactions.read");
        let answer = stage.operator.authorization().authorize(ask).await.unwrap().into_inner();
        assert_eq!(answer.decision(), Decision::Allow);
        pages.await.unwrap();
    }
}

/// One attack after another on a server of its own each, since what one takes would hide what the next does.
async fn withstands(name: &str, ploy: impl Fn(usize) -> Ploy) {
    let stage = Stage::new().await;
    let elsewhere = stage.stranger().from("127.0.0.77");
    ordinary(&stage, &elsewhere, 3).await;
    let before = stage.server.memory("VmRSS");
    let hoard = Hoard::new(&stage.server, ploy).await;
    for round in 0..5 {
        ordinary(&stage, &elsewhere, 1).await;
        let grown = stage.server.memory("VmRSS").saturating_sub(before);
        println!("{name}: round {round}: {grown} KiB more");
        assert!(grown < GROWTH, "{name}: memory grows by {grown} KiB");
    }
    hoard.given_up(&stage.server, name).await;
    ordinary(&stage, &elsewhere, 1).await;
    // The attackers themselves are let in again.
    ordinary(&stage, &stage.stranger().from(THIEVES[0]), 1).await;
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// A form's head with what follows it.
fn post(path: &str, length: &str, body: &str) -> Ploy {
    Ploy::Send(
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n{length}\r\n\r\n{body}"
        )
        .into_bytes(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads() {
    withstands("metrics", |_| Ploy::Send(get("/metrics").repeat(50).into_bytes())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_sipped() {
    let paths = ["/metrics", "/sign-in", "/", "/healthz"];
    withstands("sips", |n| Ploy::Sip(get(paths[n % paths.len()]).repeat(200).into_bytes())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_that_do_not_arrive() {
    let token = "tok_0000000000e008000000000000";
    let paths = [
        "/sign-in".to_owned(),
        "/sign-out".to_owned(),
        "/tokens/new".to_owned(),
        format!("/tokens/{token}/whitelist"),
        format!("/tokens/{token}/whitelist/preview"),
        format!("/tokens/{token}/delete"),
        "/nothing".to_owned(),
    ];
    let most = "x".repeat(250 << 10);
    withstands("forms", |n| {
        let path = &paths[n % paths.len()];
        match n % 4 {
            0 => post(path, "Content-Length: 2000", "credential=x"),
            1 => post(path, "Content-Length: 262144", &most),
            2 => post(path, "Transfer-Encoding: chunked", "5\r\ncsrf=\r\n"),
            _ => {
                post(path, "Transfer-Encoding: chunked", &format!("{:x}\r\n{most}\r\n", most.len()))
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_do_not_end() {
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(15 << 10));
    withstands("heads", |n| match n % 4 {
        // Half-open: nothing at all.
        0 => Ploy::Send(Vec::new()),
        1 => Ploy::Send(long.clone().into_bytes()),
        2 => Ploy::Trickle(format!("GET /{} HTTP/1.1", "x".repeat(1_000)).into_bytes()),
        // More than was declared: the rest is the next request, which never ends.
        _ => Ploy::Send(
            format!(
                "POST /sign-in HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n{}",
                "x".repeat(9_000)
            )
            .into_bytes(),
        ),
    })
    .await;
}

/// From the one address that everybody has behind a proxy: forms that don't arrive take no place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_forms_hold_nobody_back_at_their_own_address() {
    let stage = Stage::new().await;
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = connect("127.0.0.1", stage.server.http()).await;
        let Ploy::Send(bytes) = post("/sign-in", "Content-Length: 100", "credential=") else {
            unreachable!()
        };
        stream.write_all(&bytes).await.unwrap();
        slow.push(stream);
    }
    ordinary(&stage, &stage.stranger(), 3).await;
    // Nor does a form that takes its time and arrives get lost.
    let mut last = slow.pop().unwrap();
    last.write_all("x".repeat(89).as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    last.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    // One that does not is given up, in words.
    let mut answer = Vec::new();
    slow.pop().unwrap().read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_end() {
    let authority = Authority::new("ours");
    let server = Setup::sqlite().tls(&authority.server()).start();
    let mut elsewhere = Http::tls(&server, &authority);
    elsewhere.get("/healthz").says(200);
    let before = server.memory("VmRSS");
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    let hoard =
        Hoard::new(&server, |n| Ploy::Send(if n % 2 == 0 { Vec::new() } else { hello.clone() }))
            .await;
    for _ in 0..5 {
        for path in ["/healthz", "/metrics"] {
            elsewhere.get(path).says(200);
        }
        let mut browser = elsewhere.stranger().sign_in(server.operator());
        browser.get("/tokens").says(200);
        let grown = server.memory("VmRSS").saturating_sub(before);
        assert!(grown < GROWTH, "memory grows by {grown} KiB");
    }
    hoard.given_up(&server, "handshakes").await;
}
