//! Traefik that identifies itself by a client certificate (Rules 9.20 and 9.21 of docs/policy.md).

use portcullis::grpc::proto::{
    ClientSource, CreateCredentialRequest, RevokeCredentialRequest, Role, TokenKind,
};
use portcullis::policy::client_certificate::Fingerprint;
use std::net::Ipv4Addr;
use tonic::transport::{Certificate, ClientTlsConfig};

use super::process::{Backends, Changes, ClientTls, Gateway, Kind, address};
use super::stage::{LISTED, Outcome, UNLISTED, send};
use super::upstream::Upstream;
use crate::support::client::Client;
use crate::support::server::{Server, Setup};
use crate::support::tls::{Authority, Identity};

/// What passes on a client's own credential.
const UNDELETED: &[(&str, &str)] = &[("          Portcullis-Credential: \"\"\n", "")];

struct Stage {
    server: Server,
    operator: Client,
    upstream: Upstream,
    authority: Authority,
    clients: Authority,
    /// May read, from anywhere.
    reader: String,
    /// May do anything, from [`LISTED`].
    writer: String,
}

impl Stage {
    async fn new() -> Self {
        let (authority, clients) = (Authority::new("server"), Authority::new("clients"));
        let setup = Setup::sqlite().tls(&authority.server()).client_ca(&clients).gateways();
        let server = setup.start();
        let own = clients.client("operator");
        let own = tonic::transport::Identity::from_pem(own.certificate(), own.key());
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority.pem()))
            .identity(own);
        let operator = Client::connect_tls(server.grpc(), server.operator(), tls).await.unwrap();
        let account = operator.account().await.account_id;
        let (_, reader) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let listed = LISTED.to_string();
        let (_, writer) = operator.token(&account, TokenKind::ReadWrite, &[], &[&listed]).await;
        let upstream = Upstream::start(address(9000));
        Self { server, operator, upstream, authority, clients, reader, writer }
    }

    /// A credential: its id and its secret.
    async fn credential(&self, address_header: &str, bound: Option<&Identity>) -> (String, String) {
        let sha256s = bound.iter().map(|own| Fingerprint::of(&own.der()).as_bytes().to_vec());
        let request = CreateCredentialRequest {
            role: Role::Pep.into(),
            client_source: Some(ClientSource {
                address_header: address_header.to_owned(),
                ..Default::default()
            }),
            client_certificate_sha256s: sha256s.collect(),
            ..Default::default()
        };
        let made = self.operator.credentials().create_credential(request).await.unwrap();
        let made = made.into_inner();
        (made.credential.unwrap().credential_id, made.secret)
    }

    fn traefik(
        &self,
        own: &Identity,
        replaced: &'static [(&'static str, &'static str)],
    ) -> Gateway {
        let backends = Backends {
            grpc: self.server.grpc(),
            http_socket: None,
            http: self.server.gateway(),
            upstream: self.upstream.address(),
            credential: String::new(),
            client_tls: Some(ClientTls {
                server_ca: self.authority.pem().to_owned(),
                certificate: own.certificate().to_owned(),
                key: own.key().to_owned(),
            }),
        };
        let changes = Changes { replaced, ..Changes::default() };
        Gateway::start_with(Kind::TraefikCertificate, &backends, changes)
    }

    fn ask(
        &self,
        gateway: &Gateway,
        from: Ipv4Addr,
        line: &str,
        token: &str,
        more: &str,
    ) -> Outcome {
        let request = format!(
            "{line} HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer {token}\r\n{more}\
             Connection: close\r\n\r\n"
        );
        send(&self.upstream, gateway, from, request.as_bytes())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_with_a_bound_certificate_allows_and_denies_until_its_credential_is_revoked() {
    let stage = Stage::new().await;
    let own = stage.clients.client("traefik");
    let (id, _) = stage.credential("X-Forwarded-For", Some(&own)).await;
    let gateway = stage.traefik(&own, &[]);
    let ask = |from, line: &str, token: &str| stage.ask(&gateway, from, line, token, "");

    let outcome = ask(LISTED, "GET /api/v1/cards?limit=2", &stage.writer);
    let received = outcome.allowed();
    assert_eq!(received.one("portcullis-scope"), "cards.read");
    assert!(received.all("portcullis-credential").is_empty(), "{received:?}");
    let outcome = ask(UNLISTED, "GET /api/v1/cards", &stage.writer);
    outcome.denied(403, "CLIENT_IP_NOT_WHITELISTED");
    ask(LISTED, "POST /api/v1/cards", &stage.reader).denied(403, "SCOPE_NOT_GRANTED");
    ask(LISTED, "GET /api/v1/cards", "none").denied(401, "TOKEN_MALFORMED");

    let request = RevokeCredentialRequest { credential_id: id, no_wait: false };
    stage.operator.credentials().revoke_credential(request).await.unwrap();
    ask(LISTED, "GET /api/v1/cards", &stage.writer).denied(503, "UNDECIDED");
    // A successor with the same certificate takes over without a change at the gateway.
    stage.credential("X-Forwarded-For", Some(&own)).await;
    ask(LISTED, "GET /api/v1/cards", &stage.writer).allowed();
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_with_a_certificate_that_is_not_accepted_or_not_bound_is_closed() {
    let stage = Stage::new().await;
    stage.credential("X-Forwarded-For", Some(&stage.clients.client("another"))).await;
    let unbound = stage.traefik(&stage.clients.client("traefik"), &[]);
    let outcome = stage.ask(&unbound, LISTED, "GET /api/v1/cards", &stage.reader, "");
    outcome.denied(503, "UNDECIDED");
    for refused in
        [Authority::new("clients").client("traefik"), stage.clients.expired_client("traefik")]
    {
        stage.credential("X-Forwarded-For", Some(&refused)).await;
        let gateway = stage.traefik(&refused, &[]);
        stage.ask(&gateway, LISTED, "GET /api/v1/cards", &stage.reader, "").closed();
    }
}

/// Another gateway's credential, which names no header that Traefik sets, so that a client could choose its address.
#[tokio::test(flavor = "multi_thread")]
async fn credential_that_a_client_of_traefik_sends_is_never_that_of_the_request() {
    let stage = Stage::new().await;
    let own = stage.clients.client("traefik");
    stage.credential("X-Forwarded-For", Some(&own)).await;
    let (_, other) = stage.credential("X-Chosen", None).await;
    let more = |name: &str| format!("{name}: {other}\r\nX-Chosen: {LISTED}\r\n");

    // Deleted as shipped; beside the certificate no decision where it is not.
    let gateway = stage.traefik(&own, &[]);
    let undeleted = stage.traefik(&own, UNDELETED);
    for (gateway, wanted) in
        [(&gateway, (403, "CLIENT_IP_NOT_WHITELISTED")), (&undeleted, (503, "UNDECIDED"))]
    {
        let ask = |name: &str| {
            let more = more(name);
            stage.ask(gateway, UNLISTED, "GET /api/v1/cards", &stage.writer, &more)
        };
        ask("Portcullis-Credential").denied(wanted.0, wanted.1);
        ask("portcullis_credential").closed();
    }
    let outcome = stage.ask(
        &gateway,
        LISTED,
        "GET /api/v1/cards",
        &stage.writer,
        &more("Portcullis-Credential"),
    );
    assert!(outcome.allowed().all("portcullis-credential").is_empty());
}
