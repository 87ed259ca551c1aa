//! Who may call what: one table, asked before anything of a request is read.
//!
//! Must stay true: what is not in the table is allowed to nobody but operators; an account admin's
//! reach is narrowed again by every call that names an account or token.
//! Rules: docs/policy.md, section 8.

use std::net::IpAddr;

use super::error::Error;
use crate::cache::Principal;
use crate::model::{Actor, Context, Role};
use crate::policy::id::{AccountId, CredentialId};
use crate::policy::time::Timestamp;

/// Who calls, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// For the audit record.
    pub actor: Actor,
    /// What they may do.
    pub role: Role,
    /// Their network address.
    pub client: Option<IpAddr>,
}

impl Caller {
    /// The bearer of a credential.
    pub fn bearer(bearer: Principal, client: Option<IpAddr>) -> Self {
        Self { actor: Actor::Credential(bearer.id, bearer.role), role: bearer.role, client }
    }

    /// Anybody, where the server runs with `--dev`.
    pub fn development(client: Option<IpAddr>) -> Self {
        Self { actor: Actor::Development, role: Role::Operator, client }
    }

    /// The credential; `None` where callers need none.
    pub fn credential(&self) -> Option<CredentialId> {
        match self.actor {
            Actor::Credential(id, _) => Some(id),
            _ => None,
        }
    }

    /// The one account this caller sees; `None` for all of them. Rule 8.4 of docs/policy.md.
    pub fn only(&self) -> Option<AccountId> {
        match self.role {
            Role::AccountAdmin(account) => Some(account),
            Role::Pep | Role::Operator => None,
        }
    }

    /// Whether this caller sees `account`.
    pub fn sees(&self, account: AccountId) -> bool {
        self.only().is_none_or(|only| only == account)
    }

    /// `revision` as this caller may see it: account admins would learn how much happens in other accounts.
    pub fn shown_revision(&self, revision: i64) -> i64 {
        if self.only().is_some() { 0 } else { revision }
    }

    /// What the audit record says of a change that this caller makes at `now`.
    pub fn context(&self, now: Timestamp) -> Context {
        Context::new(self.actor, now, self.client)
    }
}

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Enforcement points, and operators who try things.
    Decisions,
    /// Account admins, within their account, and operators.
    Accounts,
    /// Operators only.
    Operators,
    /// Enforcement points alone: gateways (docs/policy.md, rule 9.1).
    Gateways,
    /// Any caller with a valid credential: what describes the contract itself.
    Anyone,
}

impl Audience {
    /// The audience of a gRPC method by its full path, such as
    /// `/portcullis.v1.TokenService/CreateToken`.
    pub fn of(path: &str) -> Self {
        let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else {
            return Self::Operators;
        };
        match (service, method) {
            ("portcullis.v1.AuthorizationService", _) => Self::Decisions,
            ("envoy.service.auth.v3.Authorization", _) => Self::Gateways,
            (
                "portcullis.v1.TokenService",
                "CreateToken" | "GetToken" | "ListTokens" | "DeleteToken" | "SetTokenExpiry"
                | "ReplaceToken" | "UpdateToken" | "ManageWhitelist" | "ListPendingActions" | "PreviewLifecycle"
                | "GetTokenUsage" | "ListDenials" | "ListAuditEvents"
                // Account admins only where a setting allows it: `Services::import_tokens`.
                | "ImportTokens",
            )
            | ("portcullis.v1.AccountService", "GetAccount" | "ListAccounts")
            | ("portcullis.v1.CatalogService", "GetCatalog") => Self::Accounts,
            (
                "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection",
                _,
            ) => Self::Anyone,
            // Rule 8.3 of docs/policy.md.
            _ => Self::Operators,
        }
    }

    /// Whether `role` belongs to it.
    pub fn includes(self, role: Role) -> bool {
        match (self, role) {
            (Self::Gateways, role) => role == Role::Pep,
            (_, Role::Operator) | (Self::Anyone, _) => true,
            (Self::Decisions, Role::Pep) | (Self::Accounts, Role::AccountAdmin(_)) => true,
            (Self::Decisions | Self::Accounts | Self::Operators, _) => false,
        }
    }

    /// Lets `role` pass.
    ///
    /// # Errors
    /// [`Error::Forbidden`] where it does not belong to this audience.
    pub fn admit(self, role: Role) -> Result<(), Error> {
        if self.includes(role) {
            return Ok(());
        }
        let needed = match self {
            Self::Decisions => "pep or operator",
            Self::Gateways => "pep",
            Self::Accounts => "account_admin or operator",
            Self::Operators | Self::Anyone => "operator",
        };
        Err(Error::Forbidden(format!(
            "this call needs a credential of role {needed}; yours has the role {}",
            role.name()
        )))
    }
}
