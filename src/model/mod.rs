//! What is kept and shown: accounts, tokens, credentials, actors, pending actions, audit events, mails, sessions.
//! Plain values, with neither a database nor a protocol in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::policy::client_certificate::Fingerprint;
use crate::policy::client_source::ClientSource;
use crate::policy::id::{AccountId, CredentialId, TokenId};
use crate::policy::lifecycle::Uses;
use crate::policy::network::{ChangeError, Cidr, Whitelist};
use crate::policy::scope::{ScopeId, ScopeName};
use crate::policy::time::Timestamp;
use crate::policy::token::{
    AccountRestriction, Expiry, ExpiryRefused, Grant, RequestedExpiry, TokenKind, TokenState,
};
use crate::secret::Digest;

mod activity;
mod audit;
mod catalog;
mod context;
mod import;
mod leak;
mod lifecycle;
mod mail;
mod replacement;
mod search;
mod session;
mod webhook;

pub use activity::*;
pub use audit::*;
pub use catalog::{ActiveCatalog, InvalidStoredCatalog};
pub use context::*;
pub use import::*;
pub use leak::*;
pub use lifecycle::*;
pub use mail::*;
pub use replacement::*;
pub use search::*;
pub use session::*;
pub use webhook::*;

/// What a whole store can be marked as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreMode {
    /// `--dev` made it: it asks for no credentials, so a plain `serve` refuses it.
    Development,
    /// A plain `serve` made it, so `--dev` refuses it.
    Production,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Ask for decisions, nothing else.
    Pep,
    /// Manage the tokens of one account.
    AccountAdmin(AccountId),
    /// Everything.
    Operator,
}

impl Role {
    /// The role's name as the audit record, the command line and messages write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pep => "pep",
            Self::AccountAdmin(_) => "account_admin",
            Self::Operator => "operator",
        }
    }
}

/// Who owns tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// A label.
    pub name: String,
    /// Mail addresses, in the order given; never empty.
    pub admins: Vec<String>,
    /// When it was created.
    pub created: Timestamp,
    /// Since when it is suspended, or was when it was closed; `None` where it is not.
    pub suspended: Option<Timestamp>,
    /// When it was closed, which nothing reverses.
    pub closed: Option<Timestamp>,
}

impl Account {
    /// Why no token of it may be used, if that is so.
    pub fn restriction(&self) -> Option<AccountRestriction> {
        AccountRestriction::of(self.suspended, self.closed)
    }
}

/// Labels of a token by key.
pub type Labels = BTreeMap<String, String>;

/// What is to be changed of a token that no decision rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenUpdate {
    /// Its name.
    pub name: Option<String>,
    /// All its labels.
    pub labels: Option<Labels>,
}

/// Why a token's name and labels stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUpdateRefusal {
    /// It is deleted.
    Deleted,
    /// Its account takes no such change.
    Account(AccountId, AccountRefusal),
}

/// A token that is about to be stored.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its id.
    pub id: TokenId,
    /// Its owner.
    pub account_id: AccountId,
    /// A label.
    pub name: String,
    /// Of its secret.
    pub digest: Digest,
    /// What was asked for.
    pub kind: TokenKind,
    /// For a `CUSTOM` token; empty for others.
    pub scopes: Vec<ScopeId>,
    /// From where it may be used.
    pub whitelist: Whitelist,
    /// From when on it is denied; `None` for never.
    pub expires: Option<Timestamp>,
    /// Its labels.
    pub labels: Labels,
}

impl NewToken {
    /// The token that it becomes at `now`, never used.
    pub fn token(&self, now: Timestamp) -> Token {
        let mut scopes = self.scopes.clone();
        scopes.sort_unstable();
        scopes.dedup();
        Token {
            id: self.id,
            account_id: self.account_id,
            name: self.name.clone(),
            state: TokenState::Active,
            kind: self.kind,
            downgraded: None,
            scopes,
            taken: Vec::new(),
            whitelist: self.whitelist.clone(),
            whitelist_version: 1,
            created: now,
            clock_start: now,
            expires: self.expires,
            replaces: None,
            replaced_by: None,
            imported: None,
            labels: self.labels.clone(),
            uses: Uses::default(),
            pending: Vec::new(),
            expiry_notices: Vec::new(),
        }
    }
}

/// A token as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Its owner.
    pub account_id: AccountId,
    /// A label.
    pub name: String,
    /// Whether it can be used.
    pub state: TokenState,
    /// What it reads as now: a downgraded `READ_WRITE` is `READ_ONLY`.
    pub kind: TokenKind,
    /// When a `READ_WRITE` token became `READ_ONLY`.
    pub downgraded: Option<Timestamp>,
    /// What a `CUSTOM` token may still use, sorted by id; empty for others.
    pub scopes: Vec<ScopeId>,
    /// What downgrades took, oldest first.
    pub taken: Vec<(ScopeId, Timestamp)>,
    /// From where it may be used.
    pub whitelist: Whitelist,
    /// From 1 up.
    pub whitelist_version: i64,
    /// When it was created.
    pub created: Timestamp,
    /// From when on its lifecycle counts what was never used: its creation, or that of the first token of those that it
    /// replaced one after another.
    pub clock_start: Timestamp,
    /// From when on it is denied; `None` for never.
    pub expires: Option<Timestamp>,
    /// The token that it replaced.
    pub replaces: Option<TokenId>,
    /// The token that replaced it.
    pub replaced_by: Option<TokenId>,
    /// When it was imported, if its secret was made elsewhere.
    pub imported: Option<Timestamp>,
    /// Its labels.
    pub labels: Labels,
    /// How it was used, as far as recorded.
    pub uses: Uses,
    /// What is announced for it, in the order of announcement.
    pub pending: Vec<PendingAction>,
    /// The current admins' notices of its expiry, sorted by address. Empty until these are queued, and in lists of
    /// tokens.
    pub expiry_notices: Vec<Notice>,
}

impl Token {
    /// When it expired, if it has by `now` and is not deleted.
    pub fn expired(&self, now: Timestamp) -> Option<Timestamp> {
        let expiry = Expiry::from(self.expires);
        expiry.time().filter(|_| self.state == TokenState::Active && expiry.is_reached(now))
    }

    /// Whether it can be used at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.state == TokenState::Active && self.expired(now).is_none()
    }

    /// What it may do now; meaningless for a deleted token.
    pub fn grant(&self) -> Grant {
        match self.kind {
            TokenKind::ReadOnly => Grant::ReadOnly { downgraded: self.downgraded.is_some() },
            TokenKind::ReadWrite => Grant::ReadWrite,
            TokenKind::Custom => Grant::Custom {
                granted: self.scopes.iter().copied().collect(),
                taken: self.taken.iter().map(|&(id, _)| id).collect(),
            },
        }
    }
}

/// A list of tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenFilter {
    /// Only those of this account.
    pub account_id: Option<AccountId>,
    /// Also deleted ones.
    pub deleted: bool,
}

/// Whose whitelist is to be changed, on what condition.
#[derive(Debug, Clone, Copy)]
pub struct WhitelistTarget {
    /// The token.
    pub token_id: TokenId,
    /// It must be of this account, where given.
    pub only: Option<AccountId>,
    /// It must have this version, where given.
    pub expected_version: Option<i64>,
}

/// What a whitelist change left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhitelistChanged {
    /// The whitelist as it stands now, or would stand.
    pub whitelist: Whitelist,
    /// Its version now; after a dry run that of the whitelist as it is.
    pub version: i64,
    /// What still covers something that was removed.
    pub still_covered_by: Vec<Cidr>,
    /// Whether anything changed.
    pub changed: bool,
}

/// The refusals of a whitelist change that the store finds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhitelistRefused {
    /// `expected_version` is not the version it has.
    #[error("the whitelist has version {current} by now")]
    Stale {
        /// The version it has.
        current: i64,
    },
    /// The token is deleted.
    #[error("the token is deleted")]
    Deleted,
    /// The token has expired.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// Its account is suspended, and an admin of the account calls for more than narrowing.
    #[error("the account {0} is suspended")]
    AccountSuspended(AccountId),
    /// The rules refuse it.
    #[error(transparent)]
    Rule(#[from] ChangeError),
}

/// Why an account takes no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountRefusal {
    /// There is no such account.
    NotFound,
    /// It is closed.
    Closed,
    /// It is suspended, and an admin of it calls for more than reading and narrowing.
    Suspended,
}

/// Tokens of a closed account that one change deletes: other changes wait for it, a few milliseconds for each token.
pub const CLOSURE_STEP: u32 = 50;

/// What was done of what the closure of an account entails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosureStep {
    /// The account.
    pub account_id: AccountId,
    /// The tokens that were deleted.
    pub tokens: Vec<TokenId>,
    /// Whether another step may find more.
    pub more: bool,
}

/// Why an account is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseRefusal {
    /// There is no such account.
    NotFound,
    /// The confirmation is not its name, which is this.
    NotConfirmed(String),
}

/// It is the last credential with which anybody could operate the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastOperatorCredential;

/// What a caller proves who it is with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its id.
    pub id: CredentialId,
    /// What its bearer may do.
    pub role: Role,
    /// A label; may be empty.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// From when on it is refused; `None` for never.
    pub expires: Option<Timestamp>,
    /// When it was last used, up to a minute later than it was, as far as recorded.
    pub last_use: Option<Timestamp>,
    /// Whether the settings brought it.
    pub from_settings: bool,
    /// Where a gateway that presents it reads its client from; only of role `pep` (Rule 9.2 of docs/policy.md).
    pub client_source: Option<Arc<ClientSource>>,
    /// Certificates that identify a gateway as this credential's secret does; only of role `pep` (Rule 9.20 of docs/policy.md).
    pub client_certificates: Vec<Fingerprint>,
}

/// What is to be changed of a credential.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialUpdate {
    /// Its name.
    pub name: Option<String>,
    /// Its end, if that is nearer.
    pub expires: Option<RequestedExpiry>,
}

/// Why a credential stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialUpdateRefusal {
    /// It is revoked.
    Revoked,
    /// It is of role operator, which has no end.
    Operator,
    /// It can't end then.
    Expiry(ExpiryRefused),
}

/// Why a credential is not created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialRefusal {
    /// Its account takes none.
    Account(AccountRefusal),
    /// Another valid credential is bound to this certificate.
    CertificateInUse(Fingerprint),
}

/// What became of the settings' operator credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsCredential {
    /// It was that one already, or none was wanted and none was there.
    Unchanged,
    /// It is stored now, or the former one is revoked now, or both.
    Changed,
    /// That very credential was revoked, or has expired; it stays so, and nothing was changed.
    Ended,
    /// It is the secret of a token, or of a credential with another role; nothing was changed.
    InUse,
}

/// A catalogue as it was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCatalog {
    /// From 1 up.
    pub version: i64,
    /// The file, comments and all.
    pub toml: String,
    /// When it was applied.
    pub applied: Timestamp,
    /// The number of every scope name there ever was.
    pub scope_ids: Vec<(ScopeName, ScopeId)>,
}

/// Scopes that a catalogue would drop although active `CUSTOM` tokens may use them: each with the
/// number of those tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopesInUse(pub Vec<(ScopeName, i64)>);

/// How many active tokens have which grant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantCounts {
    /// `READ_ONLY` ones, downgraded ones included.
    pub read_only: i64,
    /// `READ_WRITE` ones.
    pub read_write: i64,
    /// `CUSTOM` ones by a scope that they may still use: how many in all, and how many of those
    /// have no whitelist.
    pub custom: Vec<(ScopeId, i64, i64)>,
}

/// What a change touched of what replicas cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalidation {
    /// The facts of one token.
    Token(TokenId),
    /// One credential.
    Credential(CredentialId),
    /// Whether an account is suspended or closed. Of a closed one also its credentials.
    Account(AccountId),
    /// The catalogue.
    Catalog,
    /// The keys that secrets are made under.
    SecretKeys,
    /// Which tokens are imported: there are more.
    Imports,
    /// Nothing that is cached: an account's name or admins, a session.
    Nothing,
}

impl Invalidation {
    /// As it is written: a word, and the id of what was touched where the word needs one.
    pub(crate) fn written(self) -> (&'static str, Option<Uuid>) {
        match self {
            Self::Token(id) => ("token", Some(id.0)),
            Self::Credential(id) => ("credential", Some(id.0)),
            Self::Account(id) => ("account", Some(id.0)),
            Self::Catalog => ("catalog", None),
            Self::SecretKeys => ("secret_keys", None),
            Self::Imports => ("imports", None),
            Self::Nothing => ("nothing", None),
        }
    }
}

/// One change, as replicas read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRecord {
    /// Its place in the order of all changes.
    pub position: i64,
    /// What it touched.
    pub touched: Invalidation,
}

impl ChangeRecord {
    /// Reads what [`Invalidation::written`] wrote; `None` where it is something else.
    pub(crate) fn read(position: i64, touched: &str, key: Option<Uuid>) -> Option<Self> {
        let touched = match (touched, key) {
            ("token", Some(id)) => Invalidation::Token(TokenId(id)),
            ("credential", Some(id)) => Invalidation::Credential(CredentialId(id)),
            ("account", Some(id)) => Invalidation::Account(AccountId(id)),
            ("catalog", None) => Invalidation::Catalog,
            ("secret_keys", None) => Invalidation::SecretKeys,
            ("imports", None) => Invalidation::Imports,
            ("nothing", None) => Invalidation::Nothing,
            _ => return None,
        };
        Some(Self { position, touched })
    }
}
