//! Clients that ask and don't read: their answers wait, nobody else does, and the server ends all the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure; how long an end took is part of the test"
)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::{Client, question};
use crate::support::http::Http;
use crate::support::server::{Server, Setup, sample_of};
use crate::support::tls::Authority;
use crate::support::wait;
use portcullis::grpc::proto::batch_authorize_result::Result as Item;
use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, BatchAuthorizeResponse, Decision, GetCatalogRequest,
    TokenKind,
};
use portcullis::service::decisions::MAX_BATCH;
use tokio::task::JoinSet;
use tonic::transport::{Certificate, ClientTlsConfig};
use tonic::{Response, Status};

/// Of small questions and large answers, far more of these than the system keeps for a connection.
const CALLS: usize = 60;
/// Bytes of answers that a client usually gives leave to send before it has read them, and more than all.
const ROOMS: [u32; 2] = [65_535, 1 << 30];
/// How long requests under way may take when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Passes on what a client sends, and what the server answers only while nobody holds it back.
struct Late {
    address: SocketAddr,
    held: Arc<(Mutex<bool>, Condvar)>,
}

impl Late {
    fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let held = Arc::new((Mutex::new(false), Condvar::new()));
        let while_held = held.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(server).unwrap();
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                let while_held = while_held.clone();
                thread::spawn(move || answers(server, client, &while_held));
            }
        });
        Self { address, held }
    }

    fn hold(&self, held: bool) {
        *self.held.0.lock().unwrap() = held;
        self.held.1.notify_all();
    }
}

fn answers(mut server: TcpStream, mut client: TcpStream, (held, change): &(Mutex<bool>, Condvar)) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = server.read(&mut bytes) {
        drop(change.wait_while(held.lock().unwrap(), |held| *held).unwrap());
        if client.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Write);
}

/// A server that has answered, or would if anybody read, all that a client asks which doesn't.
struct Held {
    server: Server,
    http: Http,
    late: Late,
    client: Client,
    tls: Option<ClientTlsConfig>,
    token_id: String,
    under_way: JoinSet<Result<Response<BatchAuthorizeResponse>, Status>>,
}

async fn held(tls: bool, room: u32) -> Held {
    let authority = Authority::new("ours");
    let setup = Setup::sqlite();
    let setup = if tls { setup.tls(&authority.server()) } else { setup };
    let server = setup.start();
    let http = if tls { Http::tls(&server, &authority) } else { Http::new(&server) };
    let trusting = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
    let tls = tls.then(trusting);
    let late = Late::before(server.grpc());
    let client = Client::roomy(&server, late.address, tls.clone(), room).await;
    let account = client.account().await.account_id;
    let (token, secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let mut requests = vec![AuthorizeRequest::default(); MAX_BATCH - 1];
    requests.push(question(&secret, "192.0.2.1", "transactions.read"));

    late.hold(true);
    let mut under_way = JoinSet::new();
    for _ in 0..CALLS {
        let (mut decisions, requests) = (client.authorization(), requests.clone());
        under_way.spawn(async move {
            decisions.batch_authorize(BatchAuthorizeRequest { requests }).await
        });
    }
    let held = Held { server, http, late, client, tls, token_id: token.token_id, under_way };
    // Until it has come to rest.
    let mut before = None;
    let looks = || (std::mem::replace(&mut before, held.decided()), before);
    wait::until(looks, |(before, now)| before == now && *now > Some(0));
    held
}

impl Held {
    fn decided(&self) -> Option<i64> {
        let allowed = "portcullis_decisions_total{reason=\"ALLOWED\"}";
        sample_of(self.http.stranger().get("/metrics").text(), allowed)
    }

    /// Lets the answers through, and reads them all.
    async fn every_answer_is_right(&mut self) {
        self.late.hold(false);
        let mut answers = 0;
        while let Some(answer) = self.under_way.join_next().await {
            let results = answer.unwrap().expect("an answer").into_inner().results;
            assert_eq!(results.len(), MAX_BATCH);
            let faults = results
                .iter()
                .filter(|item| matches!(&item.result, Some(Item::Error(error)) if error.code == 3));
            assert_eq!(faults.count(), MAX_BATCH - 1);
            let Some(Item::Response(answer)) = &results[MAX_BATCH - 1].result else { panic!() };
            assert_eq!((answer.decision(), &answer.token_id), (Decision::Allow, &self.token_id));
            answers += 1;
        }
        assert_eq!(answers, CALLS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_comes_in_the_end_and_nobody_else_waits_for_it() {
    for (tls, room) in [(false, ROOMS[0]), (false, ROOMS[1]), (true, ROOMS[1])] {
        let mut held = held(tls, room).await;
        // One of so many at least is served by the thread that serves the late one.
        for _ in 0..thread::available_parallelism().unwrap().get() {
            let address = held.server.grpc();
            let other = Client::roomy(&held.server, address, held.tls.clone(), ROOMS[0]).await;
            other.catalog().get_catalog(GetCatalogRequest {}).await.expect("others are served");
        }
        held.every_answer_is_right().await;
        assert_eq!(held.decided(), i64::try_from(CALLS).ok(), "each is decided once");
        held.client.catalog().get_catalog(GetCatalogRequest {}).await.expect("it goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_at_the_end_is_answered_to_whoever_reads_in_time() {
    for tls in [false, true] {
        let mut held = held(tls, ROOMS[1]).await;
        held.server.signal("TERM");
        while TcpStream::connect(held.server.grpc()).is_ok() {}
        held.every_answer_is_right().await;
        assert_eq!(held.server.wait_end().code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_never_reads_does_not_hold_back_the_end() {
    let mut held = held(false, ROOMS[1]).await;
    let began = Instant::now();
    assert_eq!(held.server.terminate().code(), Some(0));
    let took = began.elapsed();
    assert!(took < DRAIN + Duration::from_secs(5), "{took:?}");
    held.under_way.abort_all();
    held.late.hold(false);
}
