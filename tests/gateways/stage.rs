//! Portcullis, a service, and tokens that differ in what they may do.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis::grpc::proto::{DeleteTokenRequest, RevokeCredentialRequest, TokenKind};

use super::exchange::{self, Answer, Head};
use super::process::{Backends, Gateway, Kind, address};
use super::upstream::{ID, MARK, Upstream};
use crate::support::client::Client;
use crate::support::command::Shell;
use crate::support::server::{Server, Setup};

/// The address that the whitelisted tokens may be used from.
pub(super) const LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// An address that no whitelist has.
pub(super) const UNLISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A server with an account, tokens, and a service for gateways to protect.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) upstream: Upstream,
    grpc: SocketAddr,
    http: SocketAddr,
    account_id: String,
    tokens: BTreeMap<&'static str, String>,
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What the client got, where it got anything.
    pub(super) answer: Option<Answer>,
    /// What the service received of it.
    pub(super) received: Vec<Head>,
}

impl Stage {
    /// A server over the embedded store.
    pub(super) async fn new() -> Self {
        Self::with(|setup| setup).await
    }

    /// The same with other settings.
    pub(super) async fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let (grpc, http) = (address(50051), address(8081));
        let setup =
            Setup::sqlite().listen(&grpc.to_string()).flag("--gateway-listen", http.to_string());
        let server = change(setup).start();
        let upstream = Upstream::start(address(9000));
        let operator = Client::connect(grpc, server.operator()).await;
        let account_id = operator.account().await.account_id;
        let mut tokens = BTreeMap::new();
        let listed = LISTED.to_string();
        let kinds: [(_, _, &[&str], &[&str]); 5] = [
            ("read", TokenKind::ReadOnly, &[], &[]),
            ("write", TokenKind::ReadWrite, &[], &[&listed]),
            ("custom", TokenKind::Custom, &["cards.read"], &[&listed]),
            ("other", TokenKind::ReadOnly, &[], &["192.0.2.1"]),
            ("deleted", TokenKind::ReadOnly, &[], &[]),
        ];
        for (name, kind, scopes, whitelist) in kinds {
            let (token, secret) = operator.token(&account_id, kind, scopes, whitelist).await;
            if name == "deleted" {
                let request = DeleteTokenRequest { token_id: token.token_id, no_wait: false };
                operator.tokens().delete_token(request).await.expect("a deletion");
            }
            tokens.insert(name, secret);
        }
        Self { server, upstream, grpc, http, account_id, tokens }
    }

    /// The secret of a token, by its name here.
    pub(super) fn token(&self, name: &str) -> &str {
        &self.tokens[name]
    }

    /// The account of all tokens.
    pub(super) fn account_id(&self) -> &str {
        &self.account_id
    }

    /// The operator's client.
    pub(super) async fn operator(&self) -> Client {
        Client::connect(self.grpc, self.server.operator()).await
    }

    /// A new credential for a gateway: its id and its secret.
    pub(super) fn credential(&self, client_source: &[&str]) -> (String, String) {
        let mut command = vec!["credential", "create", "--role", "pep", "--output", "json"];
        command.extend(client_source);
        let shell = Shell::new()
            .env("PORTCULLIS_SERVER", format!("http://{}", self.grpc))
            .env("PORTCULLIS_CREDENTIAL", self.server.operator());
        let made = shell.run(&command).json();
        let id = made["credential"]["credential_id"].as_str().expect("an id").to_owned();
        (id, made["secret"].as_str().expect("a secret").to_owned())
    }

    /// Revokes a credential.
    pub(super) async fn revoke(&self, credential_id: &str) {
        let request = RevokeCredentialRequest {
            credential_id: credential_id.to_owned(),
            ..Default::default()
        };
        let operator = self.operator().await;
        operator.credentials().revoke_credential(request).await.expect("a revocation");
    }

    /// What a gateway with this credential stands between.
    pub(super) fn backends(&self, credential: &str) -> Backends {
        Backends {
            grpc: self.grpc,
            http: self.http,
            http_socket: None,
            upstream: self.upstream.address(),
            credential: credential.to_owned(),
            client_tls: None,
        }
    }

    /// A gateway with the shipped configuration and a credential as docs/gateways.md creates it.
    pub(super) fn gateway(&self, kind: Kind) -> Gateway {
        let (_, credential) = self.credential(kind.client_source());
        Gateway::start(kind, &self.backends(&credential))
    }

    /// Sends a request through a gateway from `from`: a start line and headers, less those that every request has.
    pub(super) fn ask(
        &self,
        gateway: &Gateway,
        from: Ipv4Addr,
        line: &str,
        headers: &[&str],
    ) -> Outcome {
        let mut request = format!("{line} HTTP/1.1\r\nHost: service.example\r\n");
        for header in headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str("Connection: close\r\n\r\n");
        self.send(gateway, from, request.as_bytes())
    }

    /// Sends bytes through a gateway from `from`.
    pub(super) fn send(&self, gateway: &Gateway, from: Ipv4Addr, request: &[u8]) -> Outcome {
        send(&self.upstream, gateway, from, request)
    }
}

/// Sends bytes through a gateway from `from`, with an id behind their first line by which `upstream` knows them.
pub(super) fn send(
    upstream: &Upstream,
    gateway: &Gateway,
    from: Ipv4Addr,
    request: &[u8],
) -> Outcome {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
    let end = request.iter().position(|&byte| byte == b'\n').map_or(request.len(), |at| at + 1);
    let mut bytes = request[..end].to_vec();
    bytes.extend_from_slice(format!("{ID}: {id}\r\n").as_bytes());
    bytes.extend_from_slice(&request[end..]);
    let answer = exchange::send(gateway.address(), from, &bytes);
    Outcome { answer, received: upstream.take(&id) }
}

impl Outcome {
    /// The answer.
    #[track_caller]
    pub(super) fn answer(&self) -> &Answer {
        self.answer.as_ref().expect("an answer")
    }

    /// That the request was allowed; gives what the service received.
    #[track_caller]
    pub(super) fn allowed(&self) -> &Head {
        assert_eq!(self.answer().status, 200, "{self:?}");
        assert_eq!(self.answer().head.all(MARK), ["reached"], "{self:?}");
        assert_eq!(self.received.len(), 1, "{self:?}");
        &self.received[0]
    }

    /// That the request was denied with this status and reason, and never reached the service.
    #[track_caller]
    pub(super) fn denied(&self, status: u16, reason: &str) -> &Answer {
        let answer = self.closed();
        assert_eq!(answer.status, status, "{self:?}");
        assert_eq!(answer.head.one("portcullis-reason"), reason, "{self:?}");
        answer
    }

    /// That the request never reached the service.
    #[track_caller]
    pub(super) fn closed(&self) -> &Answer {
        assert!(self.received.is_empty(), "it reached the service: {self:?}");
        let answer = self.answer();
        assert!(answer.status >= 400, "{self:?}");
        answer
    }
}
