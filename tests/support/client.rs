//! Clients of a server under test: the generated ones, with a credential, over plaintext or TLS.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test support: each test uses a part of it, and a failure here is the test's failure"
)]

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use portcullis::grpc::proto::account_service_client::AccountServiceClient;
use portcullis::grpc::proto::authorization_service_client::AuthorizationServiceClient;
use portcullis::grpc::proto::catalog_service_client::CatalogServiceClient;
use portcullis::grpc::proto::credential_service_client::CredentialServiceClient;
use portcullis::grpc::proto::self_service_client::SelfServiceClient;
use portcullis::grpc::proto::token_service_client::TokenServiceClient;
use portcullis::grpc::proto::webhook_service_client::WebhookServiceClient;
use portcullis::grpc::proto::{
    Account, AuditEvent, AuthorizeRequest, CreateAccountRequest, CreateTokenRequest,
    ListAuditEventsRequest, Reason, Token, TokenKind, authorize_request,
};
use portcullis::secret::{KeyRing, SecretKey, SecretKind};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Error};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::server::Server;

/// No answer within this is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the generated clients talk through.
pub type Authorized = InterceptedService<Channel, Principal>;

/// One connection and the credential that every call over it carries.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    bearer: Principal,
}

impl Client {
    /// The operator of `server`, over plaintext.
    pub async fn operator(server: &Server) -> Self {
        Self::connect(server.grpc(), server.operator()).await
    }

    /// Whoever holds `credential`, over plaintext.
    pub async fn connect(address: SocketAddr, credential: &str) -> Self {
        Self::try_connect(address, credential).await.expect("a connection to the server")
    }

    /// Whoever holds `credential`, over a connection that is there.
    pub fn over(channel: Channel, credential: &str) -> Self {
        Self { channel, bearer: Principal::new(credential) }
    }

    /// Whoever holds `credential`, over plaintext.
    ///
    /// # Errors
    /// Where nothing listens there.
    pub async fn try_connect(address: SocketAddr, credential: &str) -> Result<Self, Error> {
        let channel = endpoint(format!("http://{address}")).connect().await?;
        Ok(Self { channel, bearer: Principal::new(credential) })
    }

    /// Whoever holds `credential`, over TLS to `localhost`.
    ///
    /// # Errors
    /// Where the two ends do not accept each other. A server that refuses a client's certificate
    /// may do so only when the first call is made.
    pub async fn connect_tls(
        address: SocketAddr,
        credential: &str,
        tls: ClientTlsConfig,
    ) -> Result<Self, Error> {
        let endpoint =
            endpoint(format!("https://{address}")).tls_config(tls.domain_name("localhost"))?;
        Ok(Self { channel: endpoint.connect().await?, bearer: Principal::new(credential) })
    }

    /// The operator of `server`, who gives it leave to send this many bytes before they are read, at `address`.
    pub async fn roomy(
        server: &Server,
        address: SocketAddr,
        tls: Option<ClientTlsConfig>,
        room: u32,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = endpoint(format!("{scheme}://{address}"))
            .initial_connection_window_size(room)
            .initial_stream_window_size(room);
        let endpoint = match tls {
            None => endpoint,
            Some(tls) => endpoint.tls_config(tls.domain_name("localhost")).expect("settings"),
        };
        let channel = endpoint.connect().await.expect("a connection to the server");
        Self { channel, bearer: Principal::new(server.operator()) }
    }

    /// The same connection with another credential.
    pub fn with(&self, credential: &str) -> Self {
        Self { channel: self.channel.clone(), bearer: Principal::new(credential) }
    }

    /// The same connection with no credential at all.
    pub fn anonymous(&self) -> Self {
        Self { channel: self.channel.clone(), bearer: Principal(None) }
    }

    /// Calls of the AuthorizationService.
    pub fn authorization(&self) -> AuthorizationServiceClient<Authorized> {
        AuthorizationServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Calls of the TokenService.
    pub fn tokens(&self) -> TokenServiceClient<Authorized> {
        TokenServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Calls of the AccountService.
    pub fn accounts(&self) -> AccountServiceClient<Authorized> {
        AccountServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Calls of the CatalogService.
    pub fn catalog(&self) -> CatalogServiceClient<Authorized> {
        CatalogServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Calls of the CredentialService.
    pub fn credentials(&self) -> CredentialServiceClient<Authorized> {
        CredentialServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Calls of the WebhookService.
    pub fn webhooks(&self) -> WebhookServiceClient<Authorized> {
        WebhookServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Calls of the SelfService: the credential is a token's secret.
    pub fn own(&self) -> SelfServiceClient<Authorized> {
        SelfServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// A new account with one admin.
    pub async fn account(&self) -> Account {
        let request = CreateAccountRequest {
            name: "Test".to_owned(),
            admin_emails: vec!["admin@example.com".to_owned()],
        };
        let response = self.accounts().create_account(request).await.expect("an account");
        response.into_inner().account.expect("the answer has the account")
    }

    /// Everything in the audit record, the oldest first.
    pub async fn audit(&self) -> Vec<AuditEvent> {
        let (mut events, mut page_token) = (Vec::new(), String::new());
        loop {
            let request =
                ListAuditEventsRequest { page_size: 1_000, page_token, ..Default::default() };
            let page = self.tokens().list_audit_events(request).await.expect("a page").into_inner();
            events.extend(page.audit_events);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                events.reverse();
                return events;
            }
        }
    }

    /// A new token and its secret.
    pub async fn token(
        &self,
        account_id: &str,
        kind: TokenKind,
        scopes: &[&str],
        whitelist: &[&str],
    ) -> (Token, String) {
        self.try_token(account_id, kind, scopes, whitelist).await.expect("a token")
    }

    /// A new token and its secret.
    ///
    /// # Errors
    /// The server's.
    pub async fn try_token(
        &self,
        account_id: &str,
        kind: TokenKind,
        scopes: &[&str],
        whitelist: &[&str],
    ) -> Result<(Token, String), Status> {
        let request = CreateTokenRequest {
            labels: Default::default(),
            expire_time: None,
            ttl: None,
            account_id: account_id.to_owned(),
            name: "test".to_owned(),
            kind: kind.into(),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            whitelist: whitelist.iter().map(|&entry| entry.to_owned()).collect(),
            validate_only: false,
        };
        let response = self.tokens().create_token(request).await?.into_inner();
        Ok((response.token.expect("the answer has the token"), response.secret))
    }
}

/// May `token` use `scope` from `client_ip`?
pub fn question(token: &str, client_ip: &str, scope: &str) -> AuthorizeRequest {
    AuthorizeRequest {
        token: token.to_owned(),
        client_ip: client_ip.to_owned(),
        operation: Some(authorize_request::Operation::Scope(scope.to_owned())),
        dry_run: false,
        at_least_as_fresh: 0,
    }
}

/// A secret of the right shape that no server has made.
pub fn forged() -> String {
    let keys = KeyRing::new(&[SecretKey::new(0, [7; 32])]).expect("a key");
    let prefix = "pcl".parse().expect("a prefix");
    keys.make(SecretKind::Token, &prefix, Uuid::from_u128(7), &[1; 16]).expose().to_owned()
}

/// The reason of the decision on `secret`, for a scope that reads.
pub async fn reason(client: &Client, secret: &str) -> Reason {
    let ask = question(secret, "192.0.2.1", "transactions.read");
    client.authorization().authorize(ask).await.expect("a decision").into_inner().reason()
}

/// The code of a refusal, and the stable word that says why.
pub fn refusal<T: Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("a refusal");
    let details = status.get_error_details();
    (status.code(), details.error_info().expect("a stable word").reason.clone())
}

/// Puts the credential on every call.
#[derive(Clone)]
pub struct Principal(Option<MetadataValue<Ascii>>);

impl Principal {
    fn new(credential: &str) -> Self {
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {credential}").parse().expect("a credential");
        value.set_sensitive(true);
        Self(Some(value))
    }
}

impl Interceptor for Principal {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

pub(super) fn endpoint(uri: String) -> Endpoint {
    Endpoint::from_shared(uri).expect("an address").connect_timeout(PATIENCE).timeout(PATIENCE)
}
