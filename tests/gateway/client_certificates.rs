//! Gateways that identify themselves by a TLS client certificate (docs/policy.md, rules 9.20 and 9.21), over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use portcullis::grpc::proto::{
    ClientSource, CreateCredentialRequest, RevokeCredentialRequest, Role,
};
use portcullis::policy::client_certificate::Fingerprint;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{AlertDescription, ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use tonic::transport::{Certificate, ClientTlsConfig};

use super::http1::{Answer, Connection};
use super::stage::{INSIDE, Stage, bearer};
use crate::support::client::Client;
use crate::support::server::Setup;
use crate::support::tls::{Authority, Identity};
use crate::support::wait::until;

/// A server with TLS that accepts certificates of `clients`.
struct Secured {
    stage: Stage,
    server: Authority,
    clients: Authority,
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Secured {
    async fn new() -> Self {
        let (server, clients) = (Authority::new("server"), Authority::new("clients"));
        let setup = Setup::sqlite().tls(&server.server()).client_ca(&clients).gateways();
        let running = setup.start();
        let operator = clients.client("operator");
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(server.pem()))
            .identity(tonic::transport::Identity::from_pem(operator.certificate(), operator.key()));
        let operator = Client::connect_tls(running.grpc(), running.operator(), tls).await.unwrap();
        Self { stage: Stage::of(running, operator).await, server, clients }
    }

    /// A new credential that is bound to the certificates: its id and its secret.
    async fn bind(&self, certificates: &[&Identity]) -> (String, String) {
        let request = CreateCredentialRequest {
            role: Role::Pep.into(),
            client_source: Some(ClientSource {
                address_header: "X-Real-IP".to_owned(),
                ..Default::default()
            }),
            client_certificate_sha256s: certificates
                .iter()
                .map(|identity| Fingerprint::of(&identity.der()).as_bytes().to_vec())
                .collect(),
            ..Default::default()
        };
        let made = self.stage.operator.credentials().create_credential(request).await;
        let made = made.unwrap().into_inner();
        (made.credential.unwrap().credential_id, made.secret)
    }

    async fn revoke(&self, credential_id: String) {
        let request = RevokeCredentialRequest { credential_id, no_wait: false };
        self.stage.operator.credentials().revoke_credential(request).await.unwrap();
    }

    fn config(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        config(&self.server, identity)
    }

    fn connect(&self, identity: Option<&Identity>) -> Connection {
        let config = self.config(identity);
        let socket = TcpStream::connect(self.stage.server.gateway()).unwrap();
        Connection::secured(socket, |socket| secure(socket, config))
    }

    /// Forward auth for the token that is allowed from [`INSIDE`] alone.
    fn ask(&self, connection: &mut Connection, more: &[(&str, &str)]) -> Answer {
        ask(&self.stage, connection, more)
    }

    /// What ends a connection with this certificate before it carries anything.
    fn refusal(&self, identity: &Identity) -> AlertDescription {
        let socket = TcpStream::connect(self.stage.server.gateway()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // TLS 1.3 checks a client's certificate after the client's part of the handshake.
        let error = secure(socket, self.config(Some(identity))).read(&mut [0]).unwrap_err();
        match error.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("no alert: {error:?}"),
        }
    }
}

fn config(server: &Authority, identity: Option<&Identity>) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(vec![own.der()], own.key_der()).unwrap(),
    })
}

fn secure(socket: TcpStream, config: Arc<ClientConfig>) -> TlsStream {
    let name = "localhost".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket)
}

fn ask(stage: &Stage, connection: &mut Connection, more: &[(&str, &str)]) -> Answer {
    let token = bearer(&stage.writer);
    let own = [
        ("Authorization", &*token),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/api/v1/cards"),
        ("X-Real-IP", INSIDE),
    ];
    connection.send("GET", "/forward-auth", &[&own, more].concat(), "")
}

/// Rule 9.21 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn bound_certificate_identifies_its_gateway_at_every_interface() {
    let secured = Secured::new().await;
    let [old, new] = ["old", "new"].map(|name| secured.clients.client(name));
    secured.bind(&[&old, &new]).await;
    let token = bearer(&secured.stage.writer);
    for identity in [&old, &new] {
        let mut connection = secured.connect(Some(identity));
        // The address is read where the bound credential says.
        assert_eq!(secured.ask(&mut connection, &[]).outcome(), (200, "ALLOWED"));
        let headers = [("Authorization", &*token), ("X-Real-IP", INSIDE)];
        let answer = connection.send("GET", "/ext-authz/api/v1/cards", &headers, "");
        assert_eq!(answer.outcome(), (200, "ALLOWED"));
        let evaluation = serde_json::json!({
            "subject": { "type": "token", "id": secured.stage.reader },
            "action": { "name": "GET" },
            "resource": { "type": "route", "id": "/api/v1/cards" },
        });
        let headers = [("Content-Type", "application/json")];
        for path in ["/access/v1/evaluation", "/access/v1/evaluations"] {
            let answer = connection.send("POST", path, &headers, &evaluation.to_string());
            assert_eq!((answer.status, &answer.json()["decision"]), (200, &true.into()), "{path}");
        }
    }
}

/// Rules 9.21 and 11.24 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn bearer_s_address_is_read_where_the_bound_credential_says() {
    let secured = Secured::new().await;
    let gateway = secured.clients.client("gateway");
    secured.bind(&[&gateway]).await;
    let token = bearer(&secured.stage.writer);
    let ask = |identity: &Identity, address: &[(&str, &str)]| {
        let own = [("Authorization", &*token)];
        let headers = [&own, address].concat();
        secured.connect(Some(identity)).send("GET", "/self", &headers, "")
    };
    let inside = [("X-Real-IP", INSIDE)];
    let answer = ask(&gateway, &inside);
    assert_eq!(answer.status, 200, "{answer:?}");
    // Its own address is not its client's.
    let answer = ask(&gateway, &[]);
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str()),
        (403, Some("CLIENT_IP_MISSING")),
        "{answer:?}"
    );
    // One that is bound to no credential is the bearer's own: what it writes is not believed.
    let answer = ask(&secured.clients.client("stranger"), &inside);
    assert_eq!(
        (answer.status, answer.json()["reason"].as_str()),
        (403, Some("CLIENT_IP_NOT_WHITELISTED")),
        "{answer:?}"
    );
}

/// Rules 9.1 and 9.21 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn certificate_that_is_bound_to_no_credential_is_none() {
    let secured = Secured::new().await;
    let (_, secret) = secured.bind(&[&secured.clients.client("another")]).await;
    let unbound = secured.clients.client("unbound");
    for identity in [Some(&unbound), None] {
        let mut connection = secured.connect(identity);
        let answer = secured.ask(&mut connection, &[]);
        assert_eq!(answer.outcome(), (503, "UNDECIDED"));
        let cure = if identity.is_some() { "--client-certificate" } else { "role pep" };
        assert!(answer.body.contains(cure), "{answer:?}");
        let headers = [("Content-Type", "application/json")];
        let answer = connection.send("POST", "/access/v1/evaluation", &headers, "{}");
        assert_eq!(answer.status, 401);
        // A header still does.
        let answer = secured.ask(&mut connection, &[("Portcullis-Credential", &secret)]);
        assert_eq!(answer.outcome(), (200, "ALLOWED"));
    }
}

/// Rule 9.21 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn header_and_certificate_of_different_credentials_are_no_decision() {
    let secured = Secured::new().await;
    let identity = secured.clients.client("gateway");
    let (_, secret) = secured.bind(&[&identity]).await;
    let mut connection = secured.connect(Some(&identity));
    let answer = secured.ask(&mut connection, &[("Portcullis-Credential", &secret)]);
    assert_eq!(answer.outcome(), (200, "ALLOWED"));
    let operator = secured.stage.server.operator().to_owned();
    for other in [&*secured.stage.pep, "forged", "", &*operator] {
        let answer = secured.ask(&mut connection, &[("Portcullis-Credential", other)]);
        assert_eq!(answer.outcome(), (503, "UNDECIDED"), "{other}");
    }
    let answer = secured.ask(&mut connection, &[("Portcullis-Credential", &secured.stage.pep)]);
    assert!(answer.body.contains("more than one credential"), "{answer:?}");
}

/// Rules 9.20 and 9.21 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn revoked_credential_ends_its_certificate_on_open_connections() {
    let secured = Secured::new().await;
    let [one, other] = ["one", "other"].map(|name| secured.clients.client(name));
    let (id, secret) = secured.bind(&[&one]).await;
    secured.bind(&[&other]).await;
    let mut connections = [&one, &other].map(|identity| secured.connect(Some(identity)));
    for connection in &mut connections {
        assert_eq!(secured.ask(connection, &[]).status, 200);
    }
    secured.revoke(id).await;
    let [ended, goes_on] = &mut connections;
    assert_eq!(secured.ask(ended, &[]).outcome(), (503, "UNDECIDED"));
    let answer = secured.ask(ended, &[("Portcullis-Credential", &secret)]);
    assert_eq!(answer.outcome(), (503, "UNDECIDED"));
    assert_eq!(secured.ask(goes_on, &[]).status, 200);
    // A successor may take the certificate over.
    secured.bind(&[&one]).await;
    assert_eq!(secured.ask(ended, &[]).status, 200);
}

/// Rule 9.21 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn expired_certificate_and_one_of_another_authority_end_the_handshake() {
    let secured = Secured::new().await;
    let expired = secured.clients.expired_client("gateway");
    let foreign = Authority::new("clients").client("gateway");
    secured.bind(&[&expired, &foreign]).await;
    assert_eq!(secured.refusal(&expired), AlertDescription::CertificateExpired);
    let alert = secured.refusal(&foreign);
    assert!(
        matches!(alert, AlertDescription::UnknownCA | AlertDescription::DecryptError),
        "{alert:?}"
    );
}

/// Rule 9.21 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn certificate_that_expires_on_an_open_connection_counts_no_longer() {
    let secured = Secured::new().await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let identity = secured.clients.client_until("gateway", now + 4);
    let (_, secret) = secured.bind(&[&identity]).await;
    let mut connection = secured.connect(Some(&identity));
    assert_eq!(secured.ask(&mut connection, &[]).outcome(), (200, "ALLOWED"));
    until(|| secured.ask(&mut connection, &[]).status, |&status| status == 503);
    // The connection itself stays, for a credential in a header.
    let answer = secured.ask(&mut connection, &[("Portcullis-Credential", &secret)]);
    assert_eq!(answer.outcome(), (200, "ALLOWED"));
}

/// A resumed session would keep a certificate that has expired meanwhile (Rule 9.21 of docs/policy.md).
#[tokio::test(flavor = "multi_thread")]
async fn each_connection_proves_its_certificate_anew() {
    let secured = Secured::new().await;
    let identity = secured.clients.client("gateway");
    let config = secured.config(Some(&identity));
    for _ in 0..2 {
        let socket = TcpStream::connect(secured.stage.server.gateway()).unwrap();
        let mut stream = secure(socket, config.clone());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
        let mut connection = Connection::secured(stream.sock.try_clone().unwrap(), |_| stream);
        assert_eq!(secured.ask(&mut connection, &[]).status, 503);
    }
}

/// Rule 9.21 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_is_asked_for_without_an_authority() {
    let (server, clients) = (Authority::new("server"), Authority::new("clients"));
    let running = Setup::sqlite().tls(&server.server()).gateways().start();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(server.pem()));
    let operator = Client::connect_tls(running.grpc(), running.operator(), tls).await.unwrap();
    let stage = Stage::of(running, operator).await;
    let identity = clients.client("gateway");
    let request = CreateCredentialRequest {
        role: Role::Pep.into(),
        client_certificate_sha256s: vec![Fingerprint::of(&identity.der()).as_bytes().to_vec()],
        ..Default::default()
    };
    stage.operator.credentials().create_credential(request).await.unwrap();
    let socket = TcpStream::connect(stage.server.gateway()).unwrap();
    let config = config(&server, Some(&identity));
    let mut connection = Connection::secured(socket, |socket| secure(socket, config));
    assert_eq!(ask(&stage, &mut connection, &[]).outcome(), (503, "UNDECIDED"));
}
