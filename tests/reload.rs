//! Files that change while the server runs: TLS, the operator credential and the mail relay. Rule 8.14 of
//! docs/policy.md.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test spawns what it waits for, and asks the environment how long it is to run"
)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::clock::Stopwatch;
use portcullis::grpc::proto::{GetCatalogRequest, Role, StreamAuthorizeRequest};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::support::calls::credential;
use crate::support::client::Client;
use crate::support::command::Shell;
use crate::support::http::Http;
use crate::support::postgres;
use crate::support::server::{Server, Setup, random_credential, sample_of};
use crate::support::smtp::Sink;
use crate::support::tls::{Authority, Identity};
use crate::support::wait::{PATIENCE, until, until_async};

/// How a client connects that trusts `authority`, presents `identity`, and speaks `protocol`.
fn connector(authority: &Authority, identity: Option<&Identity>, protocol: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(vec![own.der()], own.key_der()).unwrap(),
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn handshake(
    address: SocketAddr,
    connector: &TlsConnector,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// The certificate that the server shows to a new connection.
async fn shown(address: SocketAddr, connector: &TlsConnector) -> CertificateDer<'static> {
    let stream = handshake(address, connector).await.expect("a handshake");
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

/// Waits until new connections are shown `identity`.
async fn until_shown(address: SocketAddr, connector: &TlsConnector, identity: &Identity) {
    let begun = Stopwatch::start();
    while shown(address, connector).await != identity.der() {
        assert!(begun.elapsed() < PATIENCE, "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A page of the HTTP listener, which speaks TLS.
fn page(server: &Server, authority: &Authority, path: &str) -> String {
    String::from_utf8(Http::tls(server, authority).get(path).body).unwrap()
}

fn metric(server: &Server, authority: &Authority, sample: &str) -> Option<i64> {
    sample_of(&page(server, authority, "/metrics"), sample)
}

fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()))
}

/// A number of repetitions: that of CI, unless a long run wants more.
fn repetitions(variable: &str, ordinary: usize) -> usize {
    std::env::var(variable).map_or(ordinary, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_while_connections_come_and_go_and_no_call_fails() {
    let changes = repetitions("PORTCULLIS_TEST_CERTIFICATE_CHANGES", 25);
    let connections = repetitions("PORTCULLIS_TEST_CONNECTIONS", 200);
    let authority = Arc::new(Authority::new("ours"));
    let server = Setup::sqlite().gateways().tls(&authority.server()).start();
    let (address, operator) = (server.grpc(), server.operator().to_owned());

    // One connection stays for the whole time, with a stream on it.
    let connect = || Client::connect_tls(address, &operator, trusting(&authority));
    let kept = connect().await.unwrap();
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let mut authorization = kept.authorization();
    let stream = authorization.stream_authorize(ReceiverStream::new(asked));
    let answer = async |ask: &tokio::sync::mpsc::Sender<_>| {
        ask.send(StreamAuthorizeRequest::default()).await.expect("the stream is open");
    };
    answer(&ask).await;
    let mut answers = stream.await.unwrap().into_inner();
    answers.message().await.unwrap().expect("an answer");

    let (made, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let coming_and_going: Vec<JoinHandle<()>> = (0..4)
        .map(|_| {
            let (authority, operator) = (authority.clone(), operator.clone());
            let (made, stop) = (made.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let client = Client::connect_tls(address, &operator, trusting(&authority));
                    let client = client.await.expect("a connection");
                    for _ in 0..2 {
                        let call = client.catalog().get_catalog(GetCatalogRequest {}).await;
                        call.expect("no call fails");
                    }
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    let connectors = ["h2", "http/1.1"].map(|protocol| connector(&authority, None, protocol));
    let faults = |log: &str| log.matches("files can't be read again").count();
    for change in 0..changes {
        if change % 5 == 0 {
            let before = faults(&server.stderr());
            server.replace_file("server.key", "no key");
            server.signal("HUP");
            until(|| server.stderr(), |log| faults(log) > before);
        }
        let identity = authority.server();
        server.replace_tls(&identity);
        server.signal("HUP");
        until_shown(address, &connectors[0], &identity).await;
        answer(&ask).await;
        answers.message().await.unwrap().expect("an answer");
        let wanted = connections * (change + 1) / changes;
        until_async(async || made.load(Ordering::Relaxed), |&made| made >= wanted).await;
        if change == 0 {
            until_shown(server.http(), &connectors[1], &identity).await;
            until_shown(server.gateway(), &connectors[1], &identity).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in coming_and_going {
        task.await.expect("no connection and no call fails");
    }
    assert_eq!(faults(&server.stderr()), changes.div_ceil(5), "{}", server.stderr());
}

/// As Kubernetes mounts secrets: files are reached through a symbolic link to a directory, which is replaced.
fn mount(home: &Path, name: &str, identity: &Identity) {
    let directory = home.join(name);
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("tls.crt"), identity.certificate()).unwrap();
    fs::write(directory.join("tls.key"), identity.key()).unwrap();
    symlink(&directory, home.join("new")).unwrap();
    fs::rename(home.join("new"), home.join("data")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faulty_files_leave_the_former_in_force_and_are_named_until_they_are_corrected() {
    let authority = Authority::new("ours");
    let (first, second) = (authority.server(), authority.server());
    let home = TempDir::new().unwrap();
    mount(home.path(), "first", &first);
    let server = Setup::sqlite()
        .flag("--tls-cert", home.path().join("data/tls.crt"))
        .flag("--tls-key", home.path().join("data/tls.key"))
        .start();
    let h2 = connector(&authority, None, "h2");
    let warnings = |log: &String| log.matches("files can't be read again").count();
    let failures = "portcullis_reload_failures_total{group=\"tls\"}";
    let successful = "portcullis_config_last_reload_successful{group=\"tls\"}";
    server.signal("HUP");
    until(|| metric(&server, &authority, successful), |&value| value == Some(1));
    assert_eq!(metric(&server, &authority, failures), None);
    let expiry = "portcullis_certificate_expiry_timestamp_seconds{flag=\"tls-cert\"}";
    assert!(metric(&server, &authority, expiry).is_some_and(|end| end > 1_700_000_000));

    // A key of another certificate.
    fs::write(home.path().join("first/tls.key"), second.key()).unwrap();
    server.signal("HUP");
    let log = until(|| server.stderr(), |log| warnings(log) > 0);
    for part in ["--tls-key", "tls.key is not the key of the first certificate", "\"tls\""] {
        assert!(log.contains(part), "{part} is missing:\n{log}");
    }
    let failed = metric(&server, &authority, failures).expect("a failure");
    assert!(failed > 0);
    assert_eq!(metric(&server, &authority, successful), Some(0));
    let health = page(&server, &authority, "/healthz");
    assert!(health.starts_with("ok\n") && health.contains("reload: tls: "), "{health}");
    assert_eq!(page(&server, &authority, "/readyz"), "ready\n");
    assert_eq!(shown(server.grpc(), &h2).await, first.der());

    // Nobody has to send a signal.
    mount(home.path(), "second", &second);
    until_shown(server.grpc(), &h2, &second).await;
    until(|| page(&server, &authority, "/healthz"), |health| !health.contains("reload: "));
    assert_eq!(metric(&server, &authority, successful), Some(1));
    assert_eq!(metric(&server, &authority, failures), Some(failed));

    mount(home.path(), "third", &authority.server_between((2020, 1, 1), (2021, 1, 1)));
    server.signal("HUP");
    until(|| server.stderr(), |log| log.contains("expired at 2021-01-01"));
    assert!(metric(&server, &authority, failures) > Some(failed));
    fs::remove_file(home.path().join("data/tls.key")).unwrap();
    server.signal("HUP");
    until(|| server.stderr(), |log| log.contains("tls.key can't be read"));
    assert_eq!(shown(server.grpc(), &h2).await, second.der());
}

/// An HTTP/2 connection that a client keeps, and what ends when it is closed.
async fn keep(
    server: &Server,
    connector: &TlsConnector,
) -> (SendRequest<Full<Bytes>>, JoinHandle<()>) {
    let stream = TokioIo::new(handshake(server.grpc(), connector).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (sender, connection) = handshake.await.unwrap();
    let closed = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, closed)
}

/// Asks for the server's health over a connection.
async fn health(sender: &mut SendRequest<Full<Bytes>>) -> Option<()> {
    let request = http::Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    let answer = sender.send_request(request).await.ok()?;
    let body = answer.into_body().collect().await.ok()?;
    (body.trailers()?.get("grpc-status")? == "0").then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_removed_client_authority_end_and_no_others() {
    let ours = Authority::new("ours");
    let (leaving, staying) = (Authority::new("leaving"), Authority::new("staying"));
    let setup = Setup::sqlite().gateways().tls(&ours.server()).client_ca(&leaving);
    let server = setup.start();
    let both = format!("{}{}", leaving.pem(), staying.pem());
    server.replace_file("client-ca.crt", &both);
    server.signal("HUP");
    let clients = [leaving.client("a"), staying.client("b")];
    let grpc = [0, 1].map(|at| connector(&ours, Some(&clients[at]), "h2"));
    let http = [0, 1].map(|at| connector(&ours, Some(&clients[at]), "http/1.1"));
    until_async(
        async || {
            let (mut sender, _) = keep(&server, &grpc[1]).await;
            health(&mut sender).await
        },
        Option::is_some,
    )
    .await;

    let (mut leaving_sender, leaving_end) = keep(&server, &grpc[0]).await;
    let (mut staying_sender, staying_end) = keep(&server, &grpc[1]).await;
    health(&mut leaving_sender).await.expect("an answer");
    health(&mut staying_sender).await.expect("an answer");
    let tls = trusting(&ours)
        .identity(tonic::transport::Identity::from_pem(clients[1].certificate(), clients[1].key()));
    let operator = Client::connect_tls(server.grpc(), server.operator(), tls).await.unwrap();
    let (_, pep) = credential(&operator, Role::Pep, "").await;
    let mut gateways = Vec::new();
    for connector in &http {
        let mut stream = handshake(server.gateway(), connector).await.unwrap();
        ask_as_gateway(&mut stream, &pep).await.expect("an answer");
        gateways.push(stream);
    }

    server.replace_file("client-ca.crt", staying.pem());
    server.signal("HUP");
    tokio::time::timeout(PATIENCE, leaving_end).await.expect("the connection ends").unwrap();
    let closed = tokio::time::timeout(PATIENCE, gateways[0].read(&mut [0])).await;
    assert!(matches!(closed.expect("the connection ends"), Ok(0) | Err(_)));
    until(|| server.stderr(), |log| log.contains("\"connections\":2"));

    assert!(!staying_end.is_finished());
    health(&mut staying_sender).await.expect("the other connection stays");
    ask_as_gateway(&mut gateways[1], &pep).await.expect("the other connection stays");
    health(&mut keep(&server, &grpc[1]).await.0).await.expect("a new one, too");
    // In TLS 1.3 a client learns that it is refused when it reads.
    let refused = async {
        let stream = TokioIo::new(handshake(server.grpc(), &grpc[0]).await.ok()?);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (mut sender, connection) = handshake.await.ok()?;
        tokio::spawn(connection);
        health(&mut sender).await
    };
    assert_eq!(refused.await, None, "the removed authority vouches for nobody");
}

/// Asks about a request without a token, as a gateway does; `None` where the connection is closed.
async fn ask_as_gateway(stream: &mut TlsStream<TcpStream>, credential: &str) -> Option<()> {
    let request = format!(
        "GET /forward-auth HTTP/1.1\r\nhost: localhost\r\nportcullis-credential: {credential}\r\n\
         x-forwarded-method: GET\r\nx-forwarded-uri: /\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await.ok()?;
        (read > 0).then_some(())?;
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Some(());
        }
    }
}

/// Rule 8.6.
#[test]
fn operator_credential_is_replaced_on_every_replica_when_its_file_changes() {
    let home = TempDir::new().unwrap();
    let (first, second) = (random_credential(), random_credential());
    let file = home.path().join("operator");
    fs::write(&file, &first).unwrap();
    let url = postgres::database();
    let setup =
        Setup::postgres(&url).without_operator().env("PORTCULLIS_OPERATOR_CREDENTIAL_FILE", &file);
    let servers = [setup.clone().start(), setup.start()];
    let list = |server: &Server, credential: &str| {
        let shell = Shell::reaching(server).env("PORTCULLIS_CREDENTIAL", credential);
        shell.run(&["account", "list"])
    };
    for server in &servers {
        list(server, &first).exits(0);
    }

    fs::write(&file, &second).unwrap();
    servers[0].signal("HUP");
    for server in &servers {
        until(|| list(server, &second), |answer| answer.code == Some(0));
        list(server, &first).exits(2).tells(&["revoked"]);
    }
    // The other one reads the same file, and changes nothing by it.
    servers[1].signal("HUP");
    until(|| servers[1].stderr(), |log| log.contains("what was read again is in force"));
    list(&servers[0], &second).exits(0);

    for (content, part) in [("too-short", "must be 32 to 1024"), (&first, "this one was revoked")] {
        fs::write(&file, content).unwrap();
        servers[0].signal("HUP");
        let log = until(|| servers[0].stderr(), |log| log.contains(part));
        assert!(!log.contains(content), "a secret is logged: {log}");
        list(&servers[0], &second).exits(0);
    }
    let (status, health) = servers[0].get("/healthz");
    assert!(status.contains("200"), "{status}");
    assert!(health.contains("reload: operator_credential: "), "{health}");
}

#[test]
fn level_of_the_log_follows_its_file() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("level");
    fs::write(&file, "error\n").unwrap();
    let server = Setup::sqlite().flag("--log-level-file", &file).start();
    assert!(!server.stderr().contains("serving"), "{}", server.stderr());
    let count = |part: &str| server.stderr().matches(part).count();
    let (in_force, verbose) = ("what was read again is in force", "\"level\":\"DEBUG\"");
    let set = |level: &str| {
        let before = count(in_force);
        fs::write(&file, level).unwrap();
        server.signal("HUP");
        until(|| count(in_force), |&now| now > before);
    };
    // Ends before its first byte, which is worth a line to those alone who debug.
    let connect = || drop(std::net::TcpStream::connect(server.grpc()).unwrap());
    set("debug");
    connect();
    until(|| count(verbose), |&now| now > 0);
    set("info");
    let before = count(verbose);
    connect();
    Shell::operator(&server).run(&["account", "list"]).exits(0);
    assert_eq!(count(verbose), before);
    fs::write(&file, "loud").unwrap();
    server.signal("HUP");
    until(|| server.stderr(), |log| log.contains("does not contain error, warn"));
    let (_, message) = Setup::sqlite().flag("--log-level-file", &file).refused();
    assert!(message.contains("does not contain error, warn, info, debug or trace alone"));
    assert!(!message.contains("loud"), "it may be a secret: {message}");
}

#[test]
fn mails_go_through_another_relay_once_its_file_names_it() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("relay");
    let relays = [Sink::start(), Sink::start()];
    fs::write(&file, relays[0].url()).unwrap();
    let server = Setup::sqlite()
        .flag("--mail-from", "portcullis@example.com")
        .env("PORTCULLIS_SMTP_URL_FILE", &file)
        .start();
    let shell = Shell::operator(&server);
    let create = ["account", "create", "--name", "Acme", "--admin", "ann@acme.example"];
    let account = shell.run(&create).ok();
    let set_admin = |address: &str| {
        let set = ["account", "set-admins", &account, "--admin", address];
        shell.run(&set).exits(0);
    };
    set_admin("bo@acme.example");
    relays[0].wait_for(1);

    fs::write(&file, "smtp://user:hidden@mail.example.com").unwrap();
    server.signal("HUP");
    let log = until(|| server.stderr(), |log| log.contains("files can't be read again"));
    assert!(log.contains("PORTCULLIS_SMTP_URL") && !log.contains("hidden"), "{log}");

    fs::write(&file, relays[1].url()).unwrap();
    server.signal("HUP");
    until(|| server.get("/healthz").1, |health| !health.contains("reload: "));
    set_admin("cy@acme.example");
    relays[1].wait_for(1);
}
