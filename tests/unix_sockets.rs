//! gRPC and gateways on Unix sockets: who may connect, what is replaced or refused, and what is left at the end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use portcullis::grpc::proto::{
    AuditEvent, ClientSource, CreateCredentialRequest, Decision, GetSelfRequest, Role, TokenKind,
};
use tempfile::TempDir;
use tonic::transport::Endpoint;
use tonic_types::StatusExt as _;

use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::server::{Server, Setup};
use crate::support::tls::Authority;

struct Place {
    home: TempDir,
    socket: PathBuf,
}

impl Place {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let socket = home.path().join("grpc.sock");
        Self { home, socket }
    }

    fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// What is left in the directory.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert!(metadata.file_type().is_socket());
    metadata.permissions().mode() & 0o7777
}

/// The operator of `server`, through its socket.
async fn operator(address: &str, server: &Server) -> Client {
    let channel = Endpoint::from_shared(address.to_owned()).unwrap().connect().await;
    Client::over(channel.expect("a connection to the socket"), server.operator())
}

/// A change and a decision through the socket; gives the event of the change.
async fn use_it(address: &str, server: &Server) -> AuditEvent {
    let client = operator(address, server).await;
    let account = client.account().await.account_id;
    let (_, secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let question = question(&secret, "192.0.2.1", "transactions.read");
    let answer = client.authorization().authorize(question).await.unwrap().into_inner();
    assert_eq!(answer.decision(), Decision::Allow);
    client.audit().await.pop().unwrap()
}

#[tokio::test]
async fn socket_serves_beside_an_address_and_clients_have_no_address() {
    let place = Place::new();
    let mut server = Setup::sqlite().flag("--listen", place.address()).start();
    let line = format!("grpc={},{} http=", server.grpc(), place.address());
    assert!(server.stdout().contains(&line), "{}", server.stdout());
    assert_eq!(mode(&place.socket), 0o600);
    assert_eq!(use_it(&place.address(), &server).await.client_address, "");
    let over_tcp = Client::operator(&server).await;
    over_tcp.account().await;
    assert_eq!(over_tcp.audit().await.pop().unwrap().client_address, "127.0.0.1");

    let shell = Shell::new()
        .env("PORTCULLIS_SERVER", place.address())
        .env("PORTCULLIS_CREDENTIAL", server.operator());
    shell.run(&["account", "list"]).exits(0);

    server.restart();
    use_it(&place.address(), &server).await;
    assert!(server.terminate().success());
    assert_eq!(place.files(), Vec::<String>::new());
    shell.run(&["account", "list"]).tells(&[&format!("no server answers at {}", place.address())]);
}

#[tokio::test]
async fn socket_alone_is_enough_and_the_variable_takes_commas() {
    let (one, other) = (Place::new(), Place::new());
    let addresses = format!("{}?mode=0666,{}", one.address(), other.address());
    let server = Setup::sqlite().listen_by_variable(&addresses).start();
    assert_eq!((mode(&one.socket), mode(&other.socket)), (0o666, 0o600));
    use_it(&one.address(), &server).await;
    use_it(&other.address(), &server).await;
}

#[tokio::test]
async fn development_mode_prints_what_reaches_the_socket() {
    let place = Place::new();
    let server =
        Setup::sqlite().without_operator().switch("--dev").listen(&place.address()).start();
    let printed = server.stdout();
    let socket = place.socket.display();
    assert!(printed.contains(&format!("grpcurl -plaintext -unix {socket} list")), "{printed}");
    assert!(printed.contains(&format!("pending --server unix:{socket}")), "{printed}");
    let shell = Shell::new().env("PORTCULLIS_SERVER", place.address());
    shell.run(&["token", "list"]).exits(0);
}

#[tokio::test]
async fn socket_of_a_killed_server_is_replaced() {
    let place = Place::new();
    let mut server = Setup::sqlite().listen(&place.address()).start();
    server.kill9();
    assert_eq!(place.files(), ["grpc.sock", "grpc.sock.lock"]);
    server.restart();
    use_it(&place.address(), &server).await;
}

#[tokio::test]
async fn socket_in_use_is_refused_and_stays() {
    let place = Place::new();
    let server = Setup::sqlite().listen(&place.address()).start();
    let message = format!("cannot listen on {}: another server listens there", place.address());
    let (status, log) = Setup::sqlite().listen(&place.address()).refused();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains(&message), "{log}");
    use_it(&place.address(), &server).await;

    // Of a program that takes no lock.
    let foreign = Place::new();
    let _listener = UnixListener::bind(&foreign.socket).unwrap();
    let (_, log) = Setup::sqlite().listen(&foreign.address()).refused();
    assert!(log.contains(&format!("{}: another server listens there", foreign.address())), "{log}");
    assert_eq!(foreign.files(), ["grpc.sock"]);
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let place = Place::new();
    fs::write(&place.socket, "precious").unwrap();
    let (status, log) = Setup::sqlite().listen(&place.address()).refused();
    assert_eq!(status.code(), Some(2), "{log}");
    let wanted = format!("cannot listen on {}: what stands there is not a socket", place.address());
    assert!(log.contains(&wanted), "{log}");
    assert_eq!(fs::read_to_string(&place.socket).unwrap(), "precious");

    // A link is none either, wherever it leads.
    let link = Place::new();
    std::os::unix::fs::symlink(link.home.path().join("elsewhere"), &link.socket).unwrap();
    let (_, log) = Setup::sqlite().listen(&link.address()).refused();
    assert!(log.contains("is not a socket"), "{log}");
    assert_eq!(link.files(), ["grpc.sock"]);
}

#[test]
fn start_that_fails_later_leaves_no_socket() {
    let place = Place::new();
    let first = Setup::sqlite().start();
    let (_, log) = Setup::sqlite().listen(&place.address()).data_dir(&first.data_dir()).refused();
    assert!(log.contains("in use by portcullis serve"), "{log}");
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn invalid_sockets_are_named_with_the_other_settings() {
    let (status, log) = Setup::sqlite()
        .flag("--listen", "unix:relative.sock")
        .flag("--listen", "unix:/run/p.sock?mode=99")
        .flag("--log-level", "loud")
        .refused();
    assert_eq!(status.code(), Some(2), "{log}");
    for part in ["3 settings are invalid", "unix:relative.sock", "has no valid mode", "--log-level"]
    {
        assert!(log.contains(part), "`{part}` is missing:\n{log}");
    }
}

#[tokio::test]
async fn socket_speaks_no_tls_where_addresses_do() {
    let place = Place::new();
    let identity = Authority::new("tests").server();
    let server = Setup::sqlite().tls(&identity).flag("--listen", place.address()).start();
    use_it(&place.address(), &server).await;
}

impl Place {
    /// The status, and the rest of the answer, to one request of a gateway or a bearer through the socket.
    fn ask(&self, line: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = format!("{line} HTTP/1.1\r\nHost: portcullis\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut stream = UnixStream::connect(&self.socket).expect("a connection to the socket");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }
}

/// A credential of a gateway that names its client's address in `X-Forwarded-For`.
async fn gateway_credential(operator: &Client) -> String {
    let request = CreateCredentialRequest {
        role: Role::Pep.into(),
        client_source: Some(ClientSource {
            address_header: "X-Forwarded-For".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    operator.credentials().create_credential(request).await.unwrap().into_inner().secret
}

#[tokio::test]
async fn gateways_are_served_on_a_socket_beside_an_address() {
    let (place, open) = (Place::new(), Place::new());
    let listen = format!("{},{}?mode=0660", place.address(), open.address());
    let mut server = Setup::sqlite().gateways().flag("--gateway-listen", listen).start();
    let gateways =
        format!(" gateway={},{},{}\n", server.gateway(), place.address(), open.address());
    assert!(server.stdout().contains(&gateways), "{}", server.stdout());
    assert_eq!((mode(&place.socket), mode(&open.socket)), (0o600, 0o660));
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
    let (credential, bearer) = (gateway_credential(&operator).await, format!("Bearer {secret}"));
    for place in [&place, &open] {
        let ask = |more: &[(&str, &str)]| {
            let own = [
                ("Authorization", bearer.as_str()),
                ("X-Forwarded-Method", "GET"),
                ("X-Forwarded-Uri", "/api/v1/accounts"),
            ];
            place.ask("GET /forward-auth", &[&own, more].concat())
        };
        let gateway = ("Portcullis-Credential", credential.as_str());
        assert_eq!(ask(&[gateway, ("X-Forwarded-For", "192.0.2.1")]).0, 200);
        let (status, answer) = ask(&[gateway, ("X-Forwarded-For", "192.0.2.2")]);
        assert_eq!(status, 403, "{answer}");
        assert!(answer.contains("CLIENT_IP_NOT_WHITELISTED"), "{answer}");
        // Access to the file alone makes no client a gateway.
        assert_eq!(ask(&[("X-Forwarded-For", "192.0.2.1")]).0, 503);
    }
    assert!(server.terminate().success());
    assert_eq!((place.files(), open.files()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn socket_of_gateways_in_use_is_refused_and_a_stale_one_replaced() {
    let place = Place::new();
    let gateways = || Setup::sqlite().flag("--gateway-listen", place.address());
    let mut server = gateways().start();
    let message = format!(
        "--gateway-listen: cannot listen on {}: another server listens there",
        place.address()
    );
    let (status, log) = gateways().refused();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains(&message), "{log}");
    // Nor do gRPC and gateways share one.
    let other = Place::new();
    let both = Setup::sqlite().flag("--listen", other.address());
    let (_, log) = both.flag("--gateway-listen", other.address()).refused();
    assert!(log.contains("another server listens there"), "{log}");
    server.kill9();
    assert_eq!(place.files(), ["grpc.sock", "grpc.sock.lock"]);
    server.restart();
    assert_eq!(place.ask("GET /forward-auth", &[]).0, 503);
}

#[tokio::test]
async fn socket_of_gateways_speaks_no_tls_where_addresses_do() {
    let place = Place::new();
    let identity = Authority::new("tests").server();
    let setup = Setup::sqlite().tls(&identity);
    let _server = setup.flag("--gateway-listen", place.address()).start();
    assert_eq!(place.ask("GET /forward-auth", &[]).0, 503);
    let (status, metadata) = place.ask("GET /.well-known/authzen-configuration", &[]);
    assert!(status == 200 && metadata.contains("\"http://localhost/access/v1/"), "{metadata}");
}

/// Rule 11.24.
#[tokio::test]
async fn bearers_have_no_address_on_a_socket() {
    let (grpc, gateways) = (Place::new(), Place::new());
    let setup = Setup::sqlite().flag("--listen", grpc.address());
    let server = setup.flag("--gateway-listen", gateways.address()).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (open, anywhere) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let (_, listed) = operator.token(&account, TokenKind::ReadOnly, &[], &["127.0.0.1"]).await;

    let channel = Endpoint::from_shared(grpc.address()).unwrap().connect().await.unwrap();
    let get = async |secret: &str| {
        let own = Client::over(channel.clone(), secret).own().get_self(GetSelfRequest {}).await;
        own.map(|answer| answer.into_inner().token.unwrap().token_id)
    };
    assert_eq!(get(&anywhere).await.unwrap(), open.token_id);
    let denied = get(&listed).await.unwrap_err();
    let details = denied.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "CLIENT_IP_MISSING", "{denied:?}");

    let own = |secret: &str, more: &[(&str, &str)]| {
        let bearer = format!("Bearer {secret}");
        gateways.ask("GET /self", &[&[("Authorization", bearer.as_str())], more].concat())
    };
    let (status, answer) = own(&anywhere, &[]);
    assert!(status == 200 && answer.contains(&open.token_id), "{answer}");
    // A bearer's header is not believed; that of a gateway is.
    let forged = ("X-Forwarded-For", "127.0.0.1");
    let (status, answer) = own(&listed, &[forged]);
    assert!(status == 403 && answer.contains("CLIENT_IP_MISSING"), "{answer}");
    let credential = gateway_credential(&operator).await;
    assert_eq!(own(&listed, &[forged, ("Portcullis-Credential", &credential)]).0, 200);
    // A secret can be revoked from anywhere (Rule 11.23).
    let bearer = format!("Bearer {listed}");
    assert_eq!(gateways.ask("DELETE /self", &[("Authorization", &bearer)]).0, 200);
}
