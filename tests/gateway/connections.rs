//! The listener for gateways: HTTP/1.1 and HTTP/2, with and without TLS, its bounds and its end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::clock::Stopwatch;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_rustls::TlsConnector;

use super::http1::Connection;
use super::stage::{Stage, bearer};
use crate::replicas::proxy::{Proxy, Wire};
use crate::support::postgres;
use crate::support::server::Setup;
use crate::support::tls::Authority;
use crate::support::wait::until;

fn headers<'a>(pep: &'a str, token: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("Portcullis-Credential", pep),
        ("Authorization", token),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/api/v1/transactions"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_carries_one_request_after_another_with_small_bodies() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let own = headers(&stage.pep, &token);
    let mut connection = stage.connect();
    for _ in 0..3 {
        assert_eq!(connection.send("GET", "/forward-auth", &own, "").status, 200);
        let body = "x".repeat(60 << 10);
        assert_eq!(connection.send("POST", "/forward-auth", &own, &body).status, 200);
    }
    // Several at once, answered in their order.
    let mut many = String::new();
    for path in ["/api/v1/transactions", "/nowhere", "/api/v1/transactions"] {
        let mut request = "GET /forward-auth HTTP/1.1\r\nHost: h\r\n".to_owned();
        for (name, value) in own {
            let value = if name == "X-Forwarded-Uri" { path } else { value };
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        many.push_str(&request);
        many.push_str("\r\n");
    }
    connection.write(many.as_bytes());
    let statuses = [(); 3].map(|()| connection.read().status);
    assert_eq!(statuses, [200, 403, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_body_is_answered_and_ends_the_connection() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    for (length, sent) in [("100000000", 0), ("70000", 100)] {
        let mut connection = stage.connect();
        let mut head = "POST /forward-auth HTTP/1.1\r\nHost: h\r\n".to_owned();
        for (name, value) in headers(&stage.pep, &token) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
        connection.write(head.as_bytes());
        connection.write(&vec![b'x'; sent]);
        assert_eq!(connection.read().status, 200, "{length}");
        assert!(connection.ends(), "{length}");
    }
    // One that never ends costs no more than a small one.
    let mut connection = stage.connect();
    let mut head =
        "POST /forward-auth HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n".to_owned();
    for (name, value) in headers(&stage.pep, &token) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n10\r\n0123456789abcdef\r\n");
    connection.write(head.as_bytes());
    let watch = Stopwatch::start();
    assert_eq!(connection.read().status, 200);
    assert!(watch.elapsed() < Duration::from_secs(20));
    assert!(connection.ends());
}

#[tokio::test(flavor = "multi_thread")]
async fn head_that_is_too_large_is_refused() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let cookie = "x".repeat(48 << 10);
    let with = |cookie: &str| {
        let own = headers(&stage.pep, &token);
        stage.send("GET", "/forward-auth", &[&own[..], &[("Cookie", cookie)]].concat(), "").status
    };
    assert_eq!(with(&cookie), 200, "what gateways accept themselves");
    assert_eq!(with(&cookie.repeat(2)), 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_with_prior_knowledge() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let stream = tokio::net::TcpStream::connect(stage.server.gateway()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    portcullis::shutdown::spawn("client", async {
        let _ = connection.await;
    });
    let request = |path: &str| {
        let mut request = Request::get(format!("http://portcullis{path}"));
        for (name, value) in headers(&stage.pep, &token) {
            request = request.header(name, value);
        }
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let mut answers = Vec::new();
    for path in ["/forward-auth", "/ext-authz/api/v1/transactions", "/nowhere"] {
        answers.push(sender.send_request(request(path)));
    }
    let mut statuses = Vec::new();
    for answer in answers {
        let answer = answer.await.unwrap();
        statuses.push(answer.status().as_u16());
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(statuses, [200, 200, 404]);
}

/// Rule 8.13 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_connections_end_soon_and_a_gateways_stays() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let own = headers(&stage.pep, &token);
    let mut known = stage.connect();
    assert_eq!(known.send("GET", "/forward-auth", &own, "").status, 200);
    // Silent, with half a head, with half a preface of HTTP/2, and with a credential that is none.
    let strangers =
        ["", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
    let mut strangers: Vec<_> = strangers
        .iter()
        .map(|sent| {
            let mut connection = stage.connect();
            connection.write(sent.as_bytes());
            connection
        })
        .collect();
    let mut wrong = stage.connect();
    assert_eq!(wrong.send("GET", "/forward-auth", &own[1..], "").status, 503);
    strangers.push(wrong);
    let watch = Stopwatch::start();
    for connection in &mut strangers {
        while connection.try_read().is_some() {}
        assert!(watch.elapsed() < Duration::from_secs(25), "{:?}", watch.elapsed());
    }
    assert!(watch.elapsed() > Duration::from_secs(8), "{:?}", watch.elapsed());
    assert_eq!(known.send("GET", "/forward-auth", &own, "").status, 200);
}

/// Rule 8.13 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn one_address_leaves_connections_to_others() {
    let stage = Stage::over(Setup::sqlite().descriptors(512)).await;
    let token = bearer(&stage.reader);
    // An eighth of the descriptors, of which one address has half and a share of the reserve.
    let hoard: Vec<_> =
        (0..64).map(|_| TcpStream::connect(stage.server.gateway()).unwrap()).collect();
    let from = std::net::SocketAddr::from(([127, 0, 0, 77], 0));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&stage.server.gateway().into()).unwrap();
    let mut other = Connection::over(socket.into());
    let answer = other.send("GET", "/forward-auth", &headers(&stage.pep, &token), "");
    assert_eq!(answer.status, 200);
    drop(hoard);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_answers_what_is_under_way_and_ends_idle_connections() {
    let mut stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let own = headers(&stage.pep, &token);
    let mut idle = stage.connect();
    assert_eq!(idle.send("GET", "/forward-auth", &own, "").status, 200);
    // Its body has not arrived: it is answered once that took too long.
    let mut busy = stage.connect();
    let mut head = "POST /forward-auth HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n".to_owned();
    for (name, value) in own {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    busy.write(format!("{head}\r\nab").as_bytes());
    let address = stage.server.gateway();
    until(|| stage.server.metric("portcullis_gateway_connections"), |open| *open == Some(2));
    thread::scope(|scope| {
        let stopped = scope.spawn(|| stage.server.terminate());
        assert!(idle.ends());
        busy.write(b"cde");
        assert_eq!(busy.read().status, 200);
        assert!(busy.ends());
        assert!(stopped.join().unwrap().success());
    });
    assert!(TcpStream::connect(address).is_err(), "a stopped server answers nothing");
}

/// Rule 9.12 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn store_out_of_reach_is_no_decision_at_any_interface_once_the_lease_is_over() {
    let cluster = postgres::shared();
    let proxy = Proxy::new(cluster.port());
    let setup = Setup::postgres(&proxy.url(&cluster.database())).flag("--lease", "1s");
    let stage = Stage::over(setup).await;
    let token = bearer(&stage.reader);
    let own = headers(&stage.pep, &token);
    assert_eq!(stage.send("GET", "/forward-auth", &own, "").status, 200);
    proxy.set(Wire { cut: true, ..Wire::default() });
    until(|| stage.send("GET", "/forward-auth", &own, "").status, |status| *status != 200);
    let answer = stage.send("GET", "/forward-auth", &own, "");
    assert_eq!(answer.outcome(), (503, "UNDECIDED"));
    let answer = stage.send("GET", "/ext-authz/api/v1/transactions", &own[..2], "");
    assert_eq!(answer.outcome(), (403, "UNDECIDED"));
    let authzen = [("Authorization", &*bearer(&stage.pep)), ("Content-Type", "application/json")];
    let evaluation = serde_json::json!({
        "subject": { "type": "token", "id": stage.reader },
        "action": { "name": "read" },
        "resource": { "type": "transactions", "id": "1" },
    });
    let answer = stage.send("POST", "/access/v1/evaluation", &authzen, &evaluation.to_string());
    assert_eq!(answer.outcome(), (503, "UNDECIDED"));
    let mut batch = evaluation;
    batch["evaluations"] = serde_json::json!([{}, { "subject": 1 }]);
    let answer = stage.send("POST", "/access/v1/evaluations", &authzen, &batch.to_string());
    assert_eq!(answer.status, 200);
    let evaluations = &answer.json()["evaluations"];
    assert_eq!(evaluations[0]["decision"], false);
    assert_eq!(evaluations[0]["context"]["reason"], "UNDECIDED");
    assert_eq!(evaluations[1]["decision"], false);
    proxy.set(Wire::default());
    until(|| stage.send("GET", "/forward-auth", &own, "").status, |status| *status == 200);
}

/// Rule 9.12 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn decision_that_takes_longer_than_its_deadline_is_no_decision() {
    let cluster = postgres::shared();
    let proxy = Proxy::new(cluster.port());
    let setup = Setup::postgres(&proxy.url(&cluster.database())).flag("--lease", "1m");
    let mut stage = Stage::over(setup).await;
    let token = bearer(&stage.reader);
    let pep = stage.pep.clone();
    let own = headers(&pep, &token);
    // Nothing is in memory then.
    stage.server.restart();
    proxy.set(Wire { held: true, ..Wire::default() });
    let envoy = ("X-Envoy-Expected-Rq-Timeout-Ms", "500");
    let path = "/ext-authz/api/v1/transactions";
    let watch = Stopwatch::start();
    let answer = stage.send("GET", path, &[own[0], own[1], envoy], "");
    let took = watch.elapsed();
    assert_eq!(answer.outcome(), (403, "UNDECIDED"));
    assert!(took >= Duration::from_millis(400), "{took:?}: 80 % of the caller's deadline");
    let watch = Stopwatch::start();
    assert_eq!(stage.send("GET", path, &own[..2], "").outcome(), (403, "UNDECIDED"));
    assert!(watch.elapsed() < Duration::from_secs(3), "--check-timeout: {:?}", watch.elapsed());
    let watch = Stopwatch::start();
    assert_eq!(stage.send("GET", "/forward-auth", &own, "").outcome(), (503, "UNDECIDED"));
    assert!(watch.elapsed() < Duration::from_secs(15), "{:?}", watch.elapsed());
    proxy.set(Wire::default());
    until(|| stage.send("GET", "/forward-auth", &own, "").status, |status| *status == 200);
}

/// Rule 8.12 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn tls_carries_both_versions_of_http() {
    let authority = Authority::new("ours");
    let server = Setup::sqlite().tls(&authority.server()).gateways().start();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    for (alpn, spoken) in [(&b"h2"[..], Version::HTTP_2), (b"http/1.1", Version::HTTP_11)] {
        let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = tokio::net::TcpStream::connect(server.gateway()).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        let request = Request::get("https://localhost/.well-known/authzen-configuration")
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = if spoken == Version::HTTP_2 {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            portcullis::shutdown::spawn("client", async {
                let _ = connection.await;
            });
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            portcullis::shutdown::spawn("client", async {
                let _ = connection.await;
            });
            sender.send_request(request).await.unwrap()
        };
        assert_eq!((answer.status().as_u16(), answer.version()), (200, spoken));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let metadata: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let url = format!("https://{}", server.gateway());
        assert_eq!(metadata["policy_decision_point"], *url);
    }
}
