//! Who gets a connection: TLS, mutual TLS, and what may listen without either.

#![allow(clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fs;

use crate::support::client::Client;
use crate::support::command::Shell;
use crate::support::server::{Server, Setup};
use crate::support::tls::{Authority, Identity};
use crate::support::wait::until;
use portcullis::grpc::proto::GetCatalogRequest;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig};

#[tokio::test]
async fn a_client_that_knows_the_authority_gets_through() {
    let authority = Authority::new("ours");
    let server = Setup::sqlite().tls(&authority.server()).start();
    assert_eq!(call(&server, trusting(&authority)).await, Ok(()));
}

#[tokio::test]
async fn a_client_that_knows_another_authority_turns_away() {
    let server = Setup::sqlite().tls(&Authority::new("ours").server()).start();
    turned_away(call(&server, trusting(&Authority::new("another"))).await);
}

#[tokio::test]
async fn a_plaintext_client_gets_nothing_from_a_tls_server() {
    let authority = Authority::new("ours");
    let server = Setup::sqlite().tls(&authority.server()).start();

    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc()));
    let plaintext = match endpoint.expect("an address").connect().await {
        Err(error) => Err(format!("{error:?}")),
        // A connection is not yet an answer.
        Ok(_) => catalog(&Client::connect(server.grpc(), server.operator()).await).await,
    };
    turned_away(plaintext);

    assert_eq!(call(&server, trusting(&authority)).await, Ok(()), "and still serves others");
}

#[tokio::test]
async fn mutual_tls_lets_in_who_has_a_certificate_of_the_client_authority() {
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let server = Setup::sqlite().tls(&ours.server()).client_ca(&clients).start();

    let with = |client: Identity| trusting(&ours).identity(identity(&client));
    assert_eq!(call(&server, with(clients.client("gateway"))).await, Ok(()));

    turned_away(call(&server, trusting(&ours)).await);
    turned_away(call(&server, with(ours.client("gateway"))).await);
    turned_away(call(&server, with(Authority::new("clients").client("gateway"))).await);
    turned_away(call(&server, with(clients.expired_client("gateway"))).await);

    assert_eq!(
        call(&server, with(clients.client("another"))).await,
        Ok(()),
        "and still serves others"
    );
}

#[tokio::test]
async fn a_certificate_does_not_stand_in_for_a_credential() {
    let authority = Authority::new("ours");
    let server = Setup::sqlite().tls(&authority.server()).client_ca(&authority).start();
    let tls = trusting(&authority).identity(identity(&authority.client("gateway")));
    let client = Client::connect_tls(server.grpc(), server.operator(), tls).await;
    let client = client.expect("a connection").anonymous();
    let refused = client.catalog().get_catalog(GetCatalogRequest {}).await;
    assert_eq!(refused.map(|_| ()).map_err(|status| status.code()), Err(Code::Unauthenticated));
}

/// Rule 8.12.
#[test]
fn no_listener_but_loopback_goes_without_tls() {
    for setup in [
        Setup::sqlite().listen("0.0.0.0:0"),
        Setup::sqlite().listen("[::]:0"),
        Setup::sqlite().http_listen("0.0.0.0:0"),
    ] {
        refuses(setup, &["--plaintext", "--tls-cert"]);
    }
}

#[test]
fn plaintext_says_so() {
    let server = Setup::sqlite().listen("0.0.0.0:0").switch("--plaintext").start();
    assert!(server.grpc().ip().is_unspecified());
}

#[test]
fn half_of_the_tls_settings_is_none() {
    refuses(Setup::sqlite().flag("--tls-cert", "server.crt"), &["--tls-key"]);
    refuses(Setup::sqlite().flag("--tls-key", "server.key"), &["--tls-cert"]);
    refuses(Setup::sqlite().flag("--tls-client-ca", "ca.crt"), &["--tls-cert"]);
}

#[test]
fn command_names_the_wrong_protocol() {
    let authority = Authority::new("ours");
    let tls = Setup::sqlite().tls(&authority.server()).start();
    let mutual = Setup::sqlite().tls(&authority.server()).client_ca(&authority).start();
    let plain = Setup::sqlite().start();
    let list = |server: &Server, scheme: &str| {
        let shell = Shell::operator(server)
            .env("PORTCULLIS_SERVER", format!("{scheme}://{}", server.grpc()));
        shell.run(&["account", "list"]).exits(2)
    };
    for server in [&tls, &mutual] {
        list(server, "http").tells(&["speaks TLS: write https:// instead of http://"]);
    }
    list(&plain, "https").tells(&["speaks no TLS: write http:// instead of https://"]);
    // Also HTTP/1, as at the port of the page.
    let shell =
        Shell::operator(&plain).env("PORTCULLIS_SERVER", format!("https://{}", plain.http()));
    shell.run(&["account", "list"]).exits(2).tells(&["speaks no TLS"]);
    let gone = Shell::operator(&plain).env("PORTCULLIS_SERVER", "https://127.0.0.1:1");
    gone.run(&["account", "list"]).exits(2).tells(&["no server answers at https://127.0.0.1:1"]);
    let untrusted = list(&tls, "https");
    assert!(!untrusted.stderr.contains("speaks"), "{untrusted}");
    until(|| tls.stderr(), |log| log.contains("speaks plain text to this TLS listener"));
}

#[test]
fn each_bad_tls_file_is_named_with_its_flag() {
    let home = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    let authority = Authority::new("ours");
    let (one, other) = (authority.server(), authority.server());
    let cert = file("cert.pem", one.certificate());
    let key = file("key.pem", one.key());
    let empty = file("empty.pem", "");
    let p521 = |name: &str| {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
    };
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = file("encrypted.pem", encrypted);
    let another = file("other.pem", other.key());
    let absent = home.path().join("absent.pem");
    let cases = [
        (&empty, &key, &cert, "--tls-cert: ", "empty.pem", "it is empty"),
        (&key, &key, &cert, "--tls-cert: ", "key.pem", "PRIVATE KEY instead"),
        (&absent, &key, &cert, "--tls-cert: ", "absent.pem", "No such file"),
        (&cert, &empty, &cert, "--tls-key: ", "empty.pem", "it is empty"),
        (&cert, &cert, &cert, "--tls-key: ", "cert.pem", "CERTIFICATE instead"),
        (&cert, &encrypted, &cert, "--tls-key: ", "encrypted.pem", "is encrypted"),
        (&cert, &another, &cert, "--tls-key: ", "other.pem", "cert.pem, the file of --tls-cert"),
        (&p521("p521.crt"), &p521("p521.key"), &cert, "--tls-key: ", "p521.key", "curve P-521"),
        (&cert, &key, &empty, "--tls-client-ca: ", "empty.pem", "it is empty"),
        (&cert, &key, &key, "--tls-client-ca: ", "key.pem", "PRIVATE KEY instead"),
        (&cert, &key, &p521("p521.crt"), "--tls-client-ca: ", "p521.crt", "curve P-521"),
    ];
    for (cert, key, client_ca, flag, path, part) in cases {
        let setup = Setup::sqlite()
            .flag("--tls-cert", cert)
            .flag("--tls-key", key)
            .flag("--tls-client-ca", client_ca);
        refuses(setup, &[flag, path, part]);
        let flags = [("--client-cert", cert), ("--client-key", key), ("--server-ca", client_ca)];
        let flags = flags.map(|(flag, path)| [flag, path.to_str().expect("text")]).concat();
        let run = [&["--server", "https://127.0.0.1:1", "account", "list"], &flags[..]].concat();
        let flag = flag.replace("--tls-client-ca", "--server-ca").replace("--tls-", "--client-");
        let part = part.replace("--tls-cert", "--client-cert");
        Shell::new().run(&run).exits(2).tells(&[&flag, path, &part]);
    }
    refuses(
        Setup::sqlite()
            .flag("--smtp-ca", &empty)
            .flag("--mail-from", "a@acme.example")
            .env("PORTCULLIS_SMTP_URL", "smtps://mail.acme.example"),
        &["--smtp-ca: ", "empty.pem", "it is empty"],
    );
}

#[test]
fn certificate_near_or_past_its_end_is_warned_of() {
    let authority = Authority::new("ours");
    let year = |year| authority.server_between((year, 1, 1), (year + 1, 1, 1));
    for (identity, part) in [
        (year(2020), Some("a certificate has expired: put a new one")),
        (year(4000), Some("a certificate is not valid yet")),
        (authority.server_between((2020, 1, 1), (4000, 1, 1)), None),
    ] {
        let mut server = Setup::sqlite().tls(&identity).start();
        assert!(server.terminate().success());
        let log = server.stderr();
        match part {
            Some(part) => {
                for part in [part, "tls-cert", "server.crt", "CN=portcullis"] {
                    assert!(log.contains(part), "{part} is missing:\n{log}");
                }
            }
            None => assert!(!log.contains("a certificate"), "{log}"),
        }
    }
}

fn refuses(setup: Setup, named: &[&str]) {
    let (status, message) = setup.refused();
    assert!(!status.success(), "refused with status 0: {message}");
    for part in named {
        assert!(message.contains(part), "the message does not name {part}: {message}");
    }
}

fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()))
}

fn identity(client: &Identity) -> tonic::transport::Identity {
    tonic::transport::Identity::from_pem(client.certificate(), client.key())
}

/// Connects and makes a call, as the operator.
async fn call(server: &Server, tls: ClientTlsConfig) -> Result<(), String> {
    let client = Client::connect_tls(server.grpc(), server.operator(), tls).await;
    catalog(&client.map_err(|error| format!("{error:?}"))?).await
}

/// Makes a call. The error begins with its code.
async fn catalog(client: &Client) -> Result<(), String> {
    match client.catalog().get_catalog(GetCatalogRequest {}).await {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("{:?} {}", status.code(), status.message())),
    }
}

/// That no call went through, and not because the server, asked, said no.
fn turned_away(outcome: Result<(), String>) {
    let error = outcome.expect_err("the call went through");
    for answer in [Code::Unauthenticated, Code::PermissionDenied, Code::InvalidArgument] {
        assert!(!error.starts_with(&format!("{answer:?} ")), "the server answered: {error}");
    }
}
