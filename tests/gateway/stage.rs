//! A server with tokens of each kind, and a gateway with its credential.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use portcullis::grpc::proto::{
    ClientSource, CreateCredentialRequest, Credential, DeleteTokenRequest, HttpOperation,
    RevokeCredentialRequest, Role, Token, TokenKind, authorize_request,
};

use super::http1::{Answer, Connection};
use crate::support::client::{Client, question};
use crate::support::server::{Server, Setup};

/// A client's address that the whitelists have, and one that they have not.
pub(super) const INSIDE: &str = "198.51.100.7";
pub(super) const OUTSIDE: &str = "203.0.113.9";

/// A server, who manages it, and a gateway before the services.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) operator: Client,
    pub(super) account: String,
    /// The gateway's credential, which reads addresses from `X-Forwarded-For`.
    pub(super) pep: String,
    pub(super) pep_id: String,
    /// A token that may read, from anywhere.
    pub(super) reader: String,
    pub(super) reader_token: Token,
    /// A token that may do anything, from [`INSIDE`].
    pub(super) writer: String,
}

impl Stage {
    pub(super) async fn new() -> Self {
        Self::over(Setup::sqlite()).await
    }

    pub(super) async fn over(setup: Setup) -> Self {
        let server = setup.gateways().start();
        let operator = Client::operator(&server).await;
        Self::of(server, operator).await
    }

    /// The same with a server that runs.
    pub(super) async fn of(server: Server, operator: Client) -> Self {
        let account = operator.account().await.account_id;
        let (reader_token, reader) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let (_, writer) = operator.token(&account, TokenKind::ReadWrite, &[], &[INSIDE]).await;
        let source =
            ClientSource { address_header: "X-Forwarded-For".to_owned(), ..Default::default() };
        let (credential, pep) = credential(&operator, Role::Pep, "", Some(source)).await;
        let pep_id = credential.credential_id;
        Self { server, operator, account, pep, pep_id, reader, reader_token, writer }
    }

    /// A gateway with another client source.
    pub(super) async fn gateway(&self, source: ClientSource) -> String {
        credential(&self.operator, Role::Pep, "", Some(source)).await.1
    }

    pub(super) async fn credential_of(&self, role: Role) -> String {
        let account = if role == Role::AccountAdmin { &*self.account } else { "" };
        credential(&self.operator, role, account, None).await.1
    }

    pub(super) async fn revoke_pep(&self) {
        let request =
            RevokeCredentialRequest { credential_id: self.pep_id.clone(), ..Default::default() };
        self.operator.credentials().revoke_credential(request).await.unwrap();
    }

    /// The secret of a token that was deleted.
    pub(super) async fn deleted(&self) -> String {
        let (token, secret) =
            self.operator.token(&self.account, TokenKind::ReadOnly, &[], &[]).await;
        let request = DeleteTokenRequest { token_id: token.token_id, ..Default::default() };
        self.operator.tokens().delete_token(request).await.unwrap();
        secret
    }

    pub(super) fn connect(&self) -> Connection {
        Connection::open(self.server.gateway())
    }

    /// One request over a connection of its own.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.connect().send(method, path, headers, body)
    }

    /// Forward auth about `GET /api/v1/transactions` with the gateway's own headers, and `more`.
    pub(super) fn ask(&self, more: &[(&str, &str)]) -> Answer {
        self.ask_about("GET", "/api/v1/transactions", more)
    }

    pub(super) fn ask_about(&self, method: &str, uri: &str, more: &[(&str, &str)]) -> Answer {
        let own = [
            ("Portcullis-Credential", &*self.pep),
            ("X-Forwarded-Method", method),
            ("X-Forwarded-Uri", uri),
        ];
        self.send("GET", "/forward-auth", &[&own, more].concat(), "")
    }

    /// What `Authorize` says of the same facts: the reason's word.
    pub(super) async fn authorize(
        &self,
        token: &str,
        client_ip: &str,
        method: &str,
        path: &str,
    ) -> String {
        let mut request = question(token, client_ip, "");
        let http = HttpOperation { method: method.to_owned(), path: path.to_owned() };
        request.operation = Some(authorize_request::Operation::Http(http));
        request.dry_run = true;
        let decision = self.operator.authorization().authorize(request).await.unwrap().into_inner();
        let name = decision.reason().as_str_name();
        name.strip_prefix("REASON_").unwrap().to_owned()
    }
}

pub(super) async fn credential(
    operator: &Client,
    role: Role,
    account: &str,
    client_source: Option<ClientSource>,
) -> (Credential, String) {
    let request = CreateCredentialRequest {
        role: role.into(),
        account_id: account.to_owned(),
        client_source,
        ..Default::default()
    };
    let made = operator.credentials().create_credential(request).await.unwrap().into_inner();
    (made.credential.unwrap(), made.secret)
}

/// `Authorization: Bearer`
pub(super) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}
