//! Servers over one database, and what is asked of them.

use std::time::Duration;

use portcullis::grpc::proto::{
    AuthorizeResponse, Decision, DeleteTokenRequest, DeleteTokenResponse, Reason, Token, TokenKind,
};
use tonic::Status;

use crate::support::client::{Client, question};
use crate::support::server::{Server, Setup, random_credential};

/// How long the leases are here, unless told otherwise.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// Servers over one database, each with a client of role operator.
pub(crate) struct Stage {
    pub(crate) servers: Vec<Server>,
    pub(crate) clients: Vec<Client>,
    pub(crate) account: String,
    /// What every server is started with.
    pub(crate) setup: Setup,
}

impl Stage {
    pub(crate) async fn over(urls: &[&str], change: impl Fn(Setup) -> Setup) -> Self {
        Self::leased(LEASE, urls, change).await
    }

    pub(crate) async fn leased(
        lease: Duration,
        urls: &[&str],
        change: impl Fn(Setup) -> Setup,
    ) -> Self {
        let operator = random_credential();
        let lease = format!("{}ms", lease.as_millis());
        let setup =
            |url: &str| change(Setup::postgres(url).operator(&operator).flag("--lease", &lease));
        let mut servers = Vec::new();
        let mut clients = Vec::new();
        for url in urls {
            let server = setup(url).start();
            clients.push(Client::operator(&server).await);
            servers.push(server);
        }
        let account = clients[0].account().await.account_id;
        Self { servers, clients, account, setup: setup(urls[0]) }
    }

    /// A token that may read, from anywhere.
    pub(crate) async fn token(&self, at: usize) -> (Token, String) {
        self.clients[at].token(&self.account, TokenKind::ReadOnly, &[], &[]).await
    }

    /// What the server `at` says of `secret`.
    pub(crate) async fn ask(&self, at: usize, secret: &str) -> Result<AuthorizeResponse, Status> {
        let request = question(secret, "192.0.2.1", "transactions.read");
        self.clients[at].authorization().authorize(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn allows(&self, at: usize, secret: &str) {
        let answer = self.ask(at, secret).await.unwrap();
        assert_eq!(answer.decision(), Decision::Allow, "server {at}: {answer:?}");
    }

    pub(crate) async fn denies(&self, at: usize, secret: &str) {
        let answer = self.ask(at, secret).await.unwrap();
        assert_eq!(answer.reason(), Reason::TokenDeleted, "server {at}: {answer:?}");
    }

    pub(crate) async fn delete(
        &self,
        at: usize,
        token_id: &str,
        no_wait: bool,
    ) -> Result<DeleteTokenResponse, Status> {
        let request = DeleteTokenRequest { token_id: token_id.to_owned(), no_wait };
        self.clients[at].tokens().delete_token(request).await.map(tonic::Response::into_inner)
    }
}
