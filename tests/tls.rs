//! Who gets a connection: TLS, mutual TLS, and what may listen without either.

#![allow(clippy::expect_used, reason = "a failure here is the test's failure")]

mod support;

use portcullis::grpc::proto::GetCatalogRequest;
use support::client::Client;
use support::server::{Server, Setup};
use support::tls::{Authority, Identity};
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
