//! Reports that a secret leaked: whose it is, where it was found, and what became of it.

use super::Role;
use crate::policy::id::{AccountId, CredentialId, TokenId};
use crate::policy::token::TokenState;

/// What a secret opens, live or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretOwner {
    /// A token.
    Token(TokenId),
    /// A credential of a caller.
    Credential(CredentialId),
}

/// Where a leaked secret was found, as its reporter says. Contains no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeakLocation {
    /// What kind of place it was, such as `commit`; empty where it is not known.
    pub source: String,
    /// Its address; empty where it is not known.
    pub url: String,
}

/// What a report led to, by the secret's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeakOutcome {
    /// No token and no credential has this secret.
    Unknown,
    /// It is a token's.
    Token {
        /// The token.
        id: TokenId,
        /// Its owner.
        account_id: AccountId,
        /// How it stands now: never active.
        state: TokenState,
        /// Whether this report revoked it; else it had ended before.
        revoked: bool,
    },
    /// It is a credential's.
    Credential {
        /// The credential.
        id: CredentialId,
        /// What its bearer may do.
        role: Role,
        /// What became of it.
        outcome: LeakedCredential,
    },
}

/// What became of a credential whose secret was reported as leaked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeakedCredential {
    /// It was revoked.
    Revoked,
    /// It had been revoked before.
    RevokedBefore,
    /// It stays valid: without it nobody could operate the server.
    LastOperator,
}
