//! Every call there is, from the descriptors, each with examples of a valid request. A method
//! without an example fails the tests that go through all of them, so none is forgotten.

use portcullis::grpc::proto::{
    Account, CreateCredentialRequest, CreateWebhookRequest, Credential, GetCatalogRequest, Role,
    TokenKind,
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde_json::{Value, json};

use super::client::Client;

/// The package's own methods, in the order of the files.
pub fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(portcullis::grpc::proto::DESCRIPTORS).expect("descriptors");
    every_method(&pool)
}

/// The methods of health and reflection.
pub fn foreign_methods() -> Vec<MethodDescriptor> {
    let sets = [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    sets.iter()
        .flat_map(|set| every_method(&DescriptorPool::decode(*set).expect("descriptors")))
        .collect()
}

fn every_method(pool: &DescriptorPool) -> Vec<MethodDescriptor> {
    pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
}

/// `/portcullis.v1.TokenService/GetToken`
pub fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// A request message from its JSON form.
pub fn message(method: &MethodDescriptor, json: &Value) -> DynamicMessage {
    DynamicMessage::deserialize(method.input(), json.clone())
        .unwrap_or_else(|error| panic!("{} {json}: {error}", method.full_name()))
}

/// The same, as bytes on the wire.
pub fn bytes(method: &MethodDescriptor, json: &Value) -> Vec<u8> {
    message(method, json).encode_to_vec()
}

/// What the examples speak of. Nobody is denied an example for want of what it names.
pub struct World {
    /// An account.
    pub account_id: String,
    /// A READ_WRITE token of it with the whitelist 10.0.0.0/8, 192.0.2.1.
    pub token_id: String,
    /// That token's secret.
    pub secret: String,
    /// A token of the account that may be deleted.
    pub spare_token_id: String,
    /// A credential that may be revoked.
    pub spare_credential_id: String,
    /// The catalogue in force.
    pub toml: String,
    /// The secret of a token that may be used from anywhere, for its bearer's own calls.
    pub bearer: String,
    /// The same for a token that its bearer may revoke.
    pub spare_bearer: String,
    /// An account that may be suspended.
    pub spare_account_id: String,
    /// An account that may be closed.
    pub closing_account: Account,
    /// A webhook, to whose receiver nothing can be sent.
    pub webhook_id: String,
    /// A webhook that may be deleted.
    pub spare_webhook_id: String,
}

impl World {
    /// Makes everything that the examples speak of.
    pub async fn new(operator: &Client) -> Self {
        let account = operator.account().await.account_id;
        let whitelist = ["10.0.0.0/8", "192.0.2.1"];
        let (token, secret) = operator.token(&account, TokenKind::ReadWrite, &[], &whitelist).await;
        let (spare, _) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let (credential, _) = credential(operator, Role::Pep, "").await;
        let (_, bearer) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let (_, spare_bearer) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let catalog = operator.catalog().get_catalog(GetCatalogRequest {}).await;
        Self {
            account_id: account,
            token_id: token.token_id,
            secret,
            spare_token_id: spare.token_id,
            spare_credential_id: credential.credential_id,
            toml: catalog.expect("the catalogue").into_inner().toml,
            bearer,
            spare_bearer,
            spare_account_id: operator.account().await.account_id,
            closing_account: operator.account().await,
            webhook_id: webhook(operator).await,
            spare_webhook_id: webhook(operator).await,
        }
    }

    /// The secret that `method` is called with instead of a credential, if it is.
    pub fn own_secret(&self, method: &MethodDescriptor) -> Option<&str> {
        match method.full_name().trim_start_matches("portcullis.v1.") {
            "SelfService.GetSelf" => Some(&self.bearer),
            "SelfService.RevokeSelf" => Some(&self.spare_bearer),
            _ => None,
        }
    }

    /// Valid requests, which together set every field. All can be repeated.
    pub fn examples(&self, method: &MethodDescriptor) -> Vec<Value> {
        let Self {
            account_id,
            token_id,
            secret,
            spare_token_id,
            spare_credential_id,
            toml,
            spare_account_id,
            closing_account,
            webhook_id,
            spare_webhook_id,
            ..
        } = self;
        let ask = json!({
            "token": secret, "client_ip": "10.1.2.3", "scope": "transactions.read", "dry_run": true,
        });
        let ask_http = json!({
            "token": secret, "client_ip": "10.1.2.3",
            "http": { "method": "GET", "path": "/api/v1/transactions" },
        });
        let since = "2020-01-01T00:00:00Z";
        let until = "2999-01-01T00:00:00Z";
        let emails = ["ada@example.com", "bob@example.com"];
        match method.full_name().trim_start_matches("portcullis.v1.") {
            "AuthorizationService.Authorize" => vec![ask, ask_http],
            "AuthorizationService.BatchAuthorize" => {
                vec![json!({ "requests": [ask] }), json!({ "requests": [ask_http] })]
            }
            "AuthorizationService.StreamAuthorize" => {
                vec![json!({ "request": ask }), json!({ "request": ask_http })]
            }
            "TokenService.CreateToken" => vec![
                json!({
                    "account_id": account_id, "name": "example", "kind": "TOKEN_KIND_CUSTOM",
                    "scopes": ["transactions.read", "cards.reveal"], "whitelist": ["10.0.0.0/8"],
                    "validate_only": true, "expire_time": until, "labels": { "team": "payments" },
                }),
                json!({
                    "account_id": account_id, "name": "example", "kind": "TOKEN_KIND_READ_ONLY",
                    "validate_only": true, "ttl": "3600s",
                }),
            ],
            // Only checked: the second time the token would exist.
            "TokenService.ImportTokens" => vec![json!({
                "account_id": account_id, "validate_only": true,
                "tokens": [{
                    "name": "example", "kind": "TOKEN_KIND_CUSTOM", "scopes": ["transactions.read"],
                    "whitelist": ["10.0.0.0/8"], "expire_time": until, "create_time": since,
                    "last_use_time": since,
                    "secret_sha256": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
                }],
            })],
            "TokenService.GetToken" => vec![json!({ "token_id": token_id })],
            "TokenService.ListTokens" => vec![json!({
                "account_id": account_id, "page_size": 10, "show_deleted": true,
            })],
            "TokenService.DeleteToken" => {
                vec![json!({ "token_id": spare_token_id, "no_wait": true })]
            }
            // The token ends sooner than the length says, which then changes nothing.
            "TokenService.SetTokenExpiry" => vec![
                json!({ "token_id": token_id, "expire_time": until, "no_wait": true }),
                json!({ "token_id": token_id, "ttl": "220000000000s" }),
            ],
            "TokenService.ReplaceToken" => vec![
                json!({
                    "token_id": token_id, "overlap": "3600s", "scopes": ["transactions.read"],
                    "whitelist": ["10.0.0.0/8"], "expire_time": "2030-01-01T00:00:00Z",
                    "validate_only": true, "no_wait": true,
                }),
                json!({ "token_id": token_id, "ttl": "3600s", "validate_only": true }),
            ],
            // Unknown secrets, so that nothing that other examples need is revoked.
            "TokenService.ReportLeakedTokens" => vec![json!({
                "secrets": ["secret-token:unknown"],
                "secret_sha256s": ["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],
                "source": "commit", "url": "https://git.example/1", "no_wait": true,
            })],
            "TokenService.UpdateToken" => vec![
                json!({
                    "token_id": token_id, "name": "renamed", "labels": { "team": "payments" },
                    "update_mask": "name,labels",
                }),
                json!({ "token_id": token_id, "labels": { "env": "prod" } }),
            ],
            "TokenService.ManageWhitelist" => vec![
                json!({
                    "token_id": token_id, "add": ["10.0.0.0/8"], "remove": ["192.0.2.1"],
                    "expected_version": "1", "validate_only": true, "no_wait": true,
                }),
                json!({
                    "token_id": token_id, "validate_only": true,
                    "replace": { "entries": ["10.0.0.0/8"] },
                }),
            ],
            "TokenService.ListPendingActions" => vec![json!({
                "account_id": account_id, "token_id": token_id, "page_size": 10,
                "type": "PENDING_ACTION_TYPE_DELETION", "effective_before": until,
            })],
            "TokenService.PreviewLifecycle" => vec![json!({ "account_id": account_id })],
            "TokenService.ListDenials" => vec![json!({
                "account_id": account_id, "token_id": token_id, "page_size": 10,
            })],
            "TokenService.GetTokenUsage" => vec![json!({ "token_id": token_id })],
            "TokenService.ListAuditEvents" => vec![json!({
                "account_id": account_id, "token_id": token_id, "page_size": 10,
                "start_time": since, "end_time": until,
            })],
            "AccountService.CreateAccount" => {
                vec![json!({ "name": "example", "admin_emails": emails })]
            }
            "AccountService.GetAccount" => vec![json!({ "account_id": account_id })],
            "AccountService.ListAccounts" => vec![json!({ "page_size": 10 })],
            "AccountService.SetAccountAdmins" => {
                vec![json!({ "account_id": account_id, "admin_emails": emails })]
            }
            "AccountService.UpdateAccount" => {
                vec![json!({ "account_id": account_id, "name": "renamed" })]
            }
            "AccountService.SuspendAccount" => {
                vec![json!({ "account_id": spare_account_id, "no_wait": true })]
            }
            "AccountService.ResumeAccount" => vec![json!({ "account_id": spare_account_id })],
            "AccountService.CloseAccount" => vec![
                json!({ "account_id": closing_account.account_id, "validate_only": true }),
                json!({
                    "account_id": closing_account.account_id,
                    "confirm_name": closing_account.name, "no_wait": true,
                }),
            ],
            "CatalogService.GetCatalog" => vec![json!({})],
            "CatalogService.ApplyCatalog" => vec![json!({
                "toml": toml, "validate_only": true, "confirm_narrowing": true, "no_wait": true,
            })],
            "CredentialService.CreateCredential" => vec![
                json!({
                    "role": "ROLE_ACCOUNT_ADMIN", "account_id": account_id, "name": "example",
                    "expire_time": until,
                }),
                json!({
                    "role": "ROLE_PEP", "ttl": "3600s",
                    "client_source": {
                        "address_header": "Forwarded", "trusted_proxies": ["10.0.0.0/8"],
                        "token_header": "X-Api-Key", "method_header": "X-Method",
                        "uri_header": "X-Uri", "forward_token": false,
                    },
                }),
            ],
            "CredentialService.ListCredentials" => vec![json!({ "page_size": 10 })],
            "CredentialService.UpdateCredential" => vec![
                json!({
                    "credential_id": spare_credential_id, "name": "renamed", "expire_time": until,
                    "no_wait": true,
                }),
                json!({ "credential_id": spare_credential_id, "ttl": "220000000000s" }),
            ],
            "CredentialService.RevokeCredential" => {
                vec![json!({ "credential_id": spare_credential_id, "no_wait": true })]
            }
            "CredentialService.RotateSecretKey" => vec![json!({})],
            "WebhookService.CreateWebhook" => vec![json!({
                "url": "https://hooks.example/portcullis", "event_types": ["token.leaked"],
                "name": "example", "validate_only": true,
            })],
            "WebhookService.GetWebhook" | "WebhookService.TestWebhook" => {
                vec![json!({ "webhook_id": webhook_id })]
            }
            "WebhookService.ListWebhooks" => vec![json!({ "page_size": 10 })],
            "WebhookService.UpdateWebhook" => vec![json!({
                "webhook_id": webhook_id, "url": NOWHERE, "name": "renamed", "enabled": true,
                "event_types": { "names": ["token.leaked"] },
            })],
            "WebhookService.RotateWebhookSecret" => {
                vec![json!({ "webhook_id": webhook_id, "overlap": "3600s" })]
            }
            "WebhookService.DeleteWebhook" => {
                vec![json!({ "webhook_id": spare_webhook_id, "allow_missing": true })]
            }
            "SelfService.GetSelf" | "SelfService.RevokeSelf" => vec![json!({})],
            "grpc.health.v1.Health.Check"
            | "grpc.health.v1.Health.List"
            | "grpc.health.v1.Health.Watch" => vec![json!({})],
            "grpc.reflection.v1.ServerReflection.ServerReflectionInfo"
            | "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo" => {
                vec![json!({ "list_services": "" })]
            }
            other => panic!("{other} has no example: write one here"),
        }
    }
}

/// A URL of this host, which nothing is sent to.
const NOWHERE: &str = "https://localhost/";

/// A new webhook that is sent nothing.
async fn webhook(operator: &Client) -> String {
    let event_types = vec!["token.leaked".to_owned()];
    let request =
        CreateWebhookRequest { url: NOWHERE.to_owned(), event_types, ..Default::default() };
    let made = operator.webhooks().create_webhook(request).await.expect("a webhook").into_inner();
    made.webhook.expect("the answer has the webhook").webhook_id
}

/// A new credential and its secret.
pub async fn credential(operator: &Client, role: Role, account_id: &str) -> (Credential, String) {
    let request = CreateCredentialRequest {
        role: role.into(),
        account_id: account_id.to_owned(),
        name: "test".to_owned(),
        ..Default::default()
    };
    let made = operator.credentials().create_credential(request).await.expect("a credential");
    let made = made.into_inner();
    (made.credential.expect("the answer has the credential"), made.secret)
}

/// Position of the newest change; the same as before exactly if nothing was changed since.
pub async fn position(operator: &Client) -> i64 {
    let request =
        portcullis::grpc::proto::ListAuditEventsRequest { page_size: 1, ..Default::default() };
    let events = operator.tokens().list_audit_events(request).await.expect("the audit record");
    events.into_inner().audit_events.first().map_or(0, |event| event.revision)
}
