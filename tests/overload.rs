//! What happens when the store is away, when too much is asked, and when peers misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure; how long an answer took is part of the test"
)]

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::client::{Client, question};
use crate::support::frames::{DATA, END_STREAM, GOAWAY, HEADERS, Wire, frame, head};
use crate::support::postgres::{self, Cluster};
use crate::support::server::{Server, Setup};
use crate::support::tls::Authority;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::grpc::proto::{
    CreateCredentialRequest, Decision, GetCatalogRequest, ListAccountsRequest, Reason, Role,
    StreamAuthorizeRequest, TokenKind, stream_authorize_response,
};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;
use tonic::transport::{Certificate, ClientTlsConfig};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// How long a server may take to say that it can't answer.
const SOON: Duration = Duration::from_secs(10);
/// How long a replica decides without its store, as is the default.
const LEASE: Duration = Duration::from_secs(10);
/// Requests that one connection may have under way.
const STREAMS: usize = 1_024;
/// Management calls that may run at once.
const MANAGEMENT_CALLS: usize = 256;

/// That `call` is told soon to come back later, in words that tell nothing of what is inside.
async fn is_put_off<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Status>>) -> Status {
    let began = Instant::now();
    let status = call.await.expect_err("there is nobody who could answer");
    assert!(began.elapsed() < SOON, "it took {:?}: {status:?}", began.elapsed());
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let retry = status.get_error_details().retry_info().cloned().expect("RetryInfo");
    assert!(retry.retry_delay.is_some_and(|delay| delay > Duration::ZERO), "{retry:?}");
    let shown = format!("{status:?}").to_lowercase();
    for inside in ["sqlx", "postgres", "os error", "refused", "pool", "127.0.0.1", "select", "src/"]
    {
        assert!(!shown.contains(inside), "`{inside}` is told to a caller: {shown}");
    }
    status
}

/// Waits until `call` succeeds; `what` says for what, should it never.
async fn comes_back<T, F>(what: &str, mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, Status>>,
{
    let began = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(status) if began.elapsed() < 3 * SOON => {
                assert_eq!(status.code(), Code::Unavailable, "{what}: {status:?}");
            }
            Err(status) => panic!("{what} does not work again: {status:?}"),
        }
    }
}

/// Rules 6.8 and 6.9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_it_decides_from_memory_and_comes_back_by_itself() {
    let cluster = Cluster::with_fsync();
    let server = Setup::postgres(&cluster.database()).start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (_, cached) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let (_, uncached) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let decide = async |token: &str| {
        let request = question(token, "192.0.2.1", "transactions.read");
        client.authorization().authorize(request).await.map(tonic::Response::into_inner)
    };
    let list = async || client.accounts().list_accounts(ListAccountsRequest::default()).await;
    assert_eq!(decide(&cached).await.unwrap().decision(), Decision::Allow);

    for kill in [false, true] {
        if kill {
            cluster.kill()
        } else {
            cluster.stop()
        }
        assert_eq!(decide(&cached).await.unwrap().decision(), Decision::Allow);
        assert_eq!(decide("nonsense").await.unwrap().reason(), Reason::TokenMalformed);
        client.catalog().get_catalog(GetCatalogRequest {}).await.expect("it is in memory");
        if !kill {
            is_put_off(decide(&uncached)).await;
        }
        is_put_off(list()).await;
        let name = "n".to_owned();
        let create = portcullis::grpc::proto::CreateAccountRequest {
            name,
            admin_emails: vec!["ann@acme.example".to_owned()],
        };
        is_put_off(client.accounts().create_account(create)).await;
        // Many at once don't take longer than one.
        let mut many = JoinSet::new();
        for _ in 0..50 {
            let mut accounts = client.accounts();
            many.spawn(async move {
                is_put_off(accounts.list_accounts(ListAccountsRequest::default())).await;
            });
        }
        many.join_all().await;
        // Cut off for too long, it can't know what other replicas have changed: closed.
        let began = Instant::now();
        while let Ok(answer) = decide(&cached).await {
            assert_eq!(answer.decision(), Decision::Allow);
            assert!(began.elapsed() < LEASE, "it goes on deciding");
        }
        is_put_off(decide(&cached)).await;

        cluster.start();
        comes_back("management", list).await;
        let answer = comes_back("deciding", || decide(&uncached)).await;
        assert_eq!(answer.decision(), Decision::Allow);
        assert_eq!(decide(&cached).await.unwrap().decision(), Decision::Allow);
        client.account().await;
    }
}

/// An open transaction that holds back whatever needs accounts.
async fn hold_accounts(url: &str) -> PgConnection {
    let mut holder = PgConnection::connect(url).await.unwrap();
    for statement in ["BEGIN", "LOCK TABLE account IN ACCESS EXCLUSIVE MODE"] {
        sqlx::query(statement).execute(&mut holder).await.unwrap();
    }
    holder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_a_call_and_not_the_server() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let client = Client::operator(&server).await;
    let mut holder = hold_accounts(&url).await;

    // A client of tonic's would give up by itself: this one has no clock.
    let stream = tokio::net::TcpStream::connect(server.grpc()).await.unwrap();
    let (mut sender, connection) =
        http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    for timeout in ["1m", "1n", "0m", "20m"] {
        let request = http::Request::post(format!(
            "http://{}/portcullis.v1.AccountService/ListAccounts",
            server.grpc()
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {}", server.operator()))
        .header("grpc-timeout", timeout)
        .body("\0\0\0\0\0".to_owned())
        .unwrap();
        let began = Instant::now();
        let answer = sender.send_request(request).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{timeout}: {:?}", began.elapsed());
        let deadline_exceeded = (Code::DeadlineExceeded as i32).to_string();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["grpc-status"], deadline_exceeded.as_str(), "{timeout}");
    }
    sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
    client.account().await;
    assert!(!server.log().contains("panic"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_management_calls_are_shed_and_decisions_go_on() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (_, token) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let ask = || question(&token, "192.0.2.1", "transactions.read");
    let mut holder = hold_accounts(&url).await;

    let mut calls = JoinSet::new();
    for _ in 0..2 * MANAGEMENT_CALLS {
        let mut accounts = client.accounts();
        calls.spawn(async move {
            is_put_off(accounts.list_accounts(ListAccountsRequest::default())).await
        });
    }
    // Those for which there is no room are told at once, while the others still wait.
    let mut shed = 0;
    while shed < MANAGEMENT_CALLS {
        let status = calls.join_next().await.unwrap().unwrap();
        assert!(status.message().contains("too many requests"), "{status:?}");
        shed += 1;
    }
    // Also on a token that is not in memory: management does not hold up the connections for it.
    let answer = client.authorization().authorize(ask()).await.unwrap().into_inner();
    assert_eq!(answer.decision(), Decision::Allow);
    sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
    calls.abort_all();
    comes_back("management", async || {
        client.accounts().list_accounts(ListAccountsRequest::default()).await
    })
    .await;
}

/// Sends calls over one connection, of which the message comes later than the headers, and checks that each is
/// answered with `expected`.
fn each_is_refused(server: &Server, credential: &str, path: &str, message: &[u8], expected: Code) {
    let authorization = format!("Bearer {credential}");
    let head = head(path, &[("authorization", &authorization)]);
    let expected = (expected as i32).to_string();
    let mut wire = Wire::connect(server.grpc(), 1).unwrap();
    let mut decoder = loona_hpack::Decoder::new();
    for _ in 0..60 {
        let calls: Vec<u32> = (0..30).map(|_| wire.call(&head, &[], 0).unwrap()).collect();
        std::thread::sleep(Duration::from_millis(20));
        let messages = calls.iter().map(|&call| frame(DATA, END_STREAM, call, message));
        wire.send(&messages.collect::<Vec<_>>().concat()).unwrap();
        for _ in &calls {
            let answer = wire.until(|frame| {
                assert_ne!(frame.kind, GOAWAY, "{path}: {frame:?}");
                frame.kind == HEADERS
            });
            let fields = decoder.decode(&answer.payload).unwrap();
            let status = fields.iter().find(|(name, _)| name == b"grpc-status").unwrap();
            assert_eq!(String::from_utf8_lossy(&status.1), expected, "{path}");
        }
    }
}

/// HTTP/2 resets a request that is answered before it ends, and h2 closes a connection with too many of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_of_refusals_ends_a_connection() {
    let server = Setup::sqlite().start();
    let client = Client::operator(&server).await;
    let pep = CreateCredentialRequest {
        name: "pep".to_owned(),
        role: Role::Pep.into(),
        ..CreateCredentialRequest::default()
    };
    let pep = client.credentials().create_credential(pep).await.unwrap().into_inner().secret;
    let (authorize, list, unknown) = (
        "/portcullis.v1.AuthorizationService/Authorize",
        "/portcullis.v1.AccountService/ListAccounts",
        "/portcullis.v1.AccountService/ListNothing",
    );
    let operator = server.operator();
    let (one, two) = (&[0; 5][..], &[0; 10][..]);
    for (credential, path, message, expected) in [
        ("nonsense", authorize, one, Code::Unauthenticated),
        (&pep, list, one, Code::PermissionDenied),
        (operator, unknown, one, Code::Unimplemented),
        (operator, authorize, two, Code::InvalidArgument),
        (operator, list, two, Code::InvalidArgument),
    ] {
        each_is_refused(&server, credential, path, message, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_so_many_streams_and_the_next_one_waits() {
    let server = Setup::sqlite().start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (_, token) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let ask = StreamAuthorizeRequest {
        request: Some(question(&token, "192.0.2.1", "transactions.read")),
    };

    let mut open = Vec::new();
    for _ in 0..STREAMS {
        let (send, requests) = tokio::sync::mpsc::channel(1);
        send.send(ask.clone()).await.unwrap();
        let requests = futures_util::stream::unfold(requests, async |mut requests| {
            requests.recv().await.map(|request| (request, requests))
        });
        let answers = client.authorization().stream_authorize(requests).await.unwrap();
        let mut answers = answers.into_inner();
        assert!(answers.message().await.unwrap().is_some());
        open.push((send, answers));
    }
    let another = async || client.catalog().get_catalog(GetCatalogRequest {}).await;
    let waits = tokio::time::timeout(Duration::from_millis(300), another()).await;
    assert!(waits.is_err(), "there was room for one more: {waits:?}");
    // Other connections have room, and so has this one once a stream ends.
    let other = Client::operator(&server).await;
    other.catalog().get_catalog(GetCatalogRequest {}).await.unwrap();
    drop(open.pop());
    another().await.expect("a stream ended");
    for (send, answers) in &mut open {
        send.send(ask.clone()).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap().result.unwrap();
        let stream_authorize_response::Result::Response(answer) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(answer.decision(), Decision::Allow);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_peers_hold_nobody_back() {
    let authority = Authority::new("ours");
    for mut server in [Setup::sqlite().start(), Setup::sqlite().tls(&authority.server()).start()] {
        let mut silent = Vec::new();
        for at in 0..500 {
            let mut stream = TcpStream::connect(server.grpc()).unwrap();
            // Some say nothing at all, some a part of what begins HTTP/2, or TLS.
            match at % 3 {
                0 => {}
                1 => stream.write_all(b"PRI * HTTP/2.0").unwrap(),
                _ => stream.write_all(b"\x16\x03\x01\x02\x00").unwrap(),
            }
            silent.push(stream);
            silent.push(TcpStream::connect(server.http()).unwrap());
        }
        let client = reach(&server, &authority).await;
        let began = Instant::now();
        for _ in 0..20 {
            client.catalog().get_catalog(GetCatalogRequest {}).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        drop(client);
        // Nor do they hold back its end.
        let began = Instant::now();
        assert_eq!(server.terminate().code(), Some(0));
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        drop(silent);
    }
}

#[test]
fn a_peer_that_never_begins_is_let_go() {
    let authority = Authority::new("ours");
    for server in [Setup::sqlite().start(), Setup::sqlite().tls(&authority.server()).start()] {
        let mut silent = TcpStream::connect(server.grpc()).unwrap();
        silent.set_read_timeout(Some(3 * SOON)).unwrap();
        assert_eq!(silent.read(&mut [0]).unwrap(), 0, "the server says nothing, and closes");
    }
}

/// Its operator, whether it speaks TLS or not.
async fn reach(server: &Server, authority: &Authority) -> Client {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
    match Client::connect_tls(server.grpc(), server.operator(), tls).await {
        Ok(client) => client,
        Err(_) => Client::operator(server).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_own_connection_only() {
    let authority = Authority::new("ours");
    for server in [Setup::sqlite().start(), Setup::sqlite().tls(&authority.server()).start()] {
        let client = reach(&server, &authority).await;
        let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let mut huge_frame = settings.to_vec();
        huge_frame.extend(b"\xff\xff\xff\x01\x04\0\0\0\x01");
        let mut bad_headers = settings.to_vec();
        bad_headers.extend(b"\0\0\x08\x01\x05\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xff");
        for garbage in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"POST /portcullis.v1.TokenService/ListTokens HTTP/1.1\r\nHost: x\r\n\r\n",
            &[0; 4_096],
            &[0xff; 4_096],
            b"\x16\x03\x01\x00\x05hello",
            &huge_frame,
            &bad_headers,
        ] {
            let mut stream = TcpStream::connect(server.grpc()).unwrap();
            stream.set_read_timeout(Some(3 * SOON)).unwrap();
            // The server may close while more is being sent.
            let _ = stream.write_all(garbage);
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
            }
            client.catalog().get_catalog(GetCatalogRequest {}).await.unwrap();
        }
        assert!(!server.log().contains("panic"), "{}", server.log());
    }
}
