//! The audit record: events and their actions.

use crate::audit::{ChainHash, ChainPoint};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::time::Timestamp;

macro_rules! audit_actions {
    ($($(#[$doc:meta])* $action:ident = $name:literal,)*) => {
        /// What a change did. Each has a stable name in the audit record.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum AuditAction {
            $($(#[$doc])* $action,)*
        }

        impl AuditAction {
            /// Every action.
            pub const ALL: &[Self] = &[$(Self::$action,)*];

            /// Its name, such as `token.create`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)*
                }
            }
        }
    };
}

audit_actions! {
    /// An account was closed.
    AccountClose = "account.close",
    /// An account was created.
    AccountCreate = "account.create",
    /// A suspended account was resumed.
    AccountResume = "account.resume",
    /// An account got other admins.
    AccountSetAdmins = "account.set_admins",
    /// An account was suspended.
    AccountSuspend = "account.suspend",
    /// An account got another name.
    AccountUpdate = "account.update",
    /// The oldest events were removed.
    AuditPrune = "audit.prune",
    /// A catalogue was applied.
    CatalogApply = "catalog.apply",
    /// A credential was created.
    CredentialCreate = "credential.create",
    /// The last operator credential was reported as leaked, and stays valid.
    CredentialReportLeaked = "credential.report_leaked",
    /// A credential was revoked.
    CredentialRevoke = "credential.revoke",
    /// A credential was revoked because its secret was reported as leaked.
    CredentialRevokeLeaked = "credential.revoke_leaked",
    /// A credential got another name or an earlier end.
    CredentialUpdate = "credential.update",
    /// An action of the lifecycle was announced.
    LifecycleAnnounce = "lifecycle.announce",
    /// A use cancelled what was announced.
    LifecycleCancel = "lifecycle.cancel",
    /// An unused token was deleted.
    LifecycleDelete = "lifecycle.delete",
    /// A token lost what it did not use.
    LifecycleDowngrade = "lifecycle.downgrade",
    /// What was announced waits for a notice again.
    LifecycleHold = "lifecycle.hold",
    /// What was announced for a token's successor, which has ended, is announced for the token again.
    LifecycleMove = "lifecycle.move",
    /// Every admin's notice was accepted.
    LifecycleNoticed = "lifecycle.noticed",
    /// New admins get a notice of what was announced before.
    LifecycleRenotify = "lifecycle.renotify",
    /// A use took scopes off what was announced.
    LifecycleShrink = "lifecycle.shrink",
    /// What was announced was withdrawn.
    LifecycleWithdraw = "lifecycle.withdraw",
    /// The first key that secrets are made under.
    SecretKeyCreate = "secret_key.create",
    /// Another key that secrets are made under from then on.
    SecretKeyRotate = "secret_key.rotate",
    /// A session of the management page began.
    SessionCreate = "session.create",
    /// One ended.
    SessionEnd = "session.end",
    /// A token was created.
    TokenCreate = "token.create",
    /// Its owner deleted a token.
    TokenDelete = "token.delete",
    /// A token reached its expiry.
    TokenExpire = "token.expire",
    /// The admins are to be notified of a token's expiry.
    TokenExpiryNotice = "token.expiry_notice",
    /// Tokens that were issued elsewhere were imported, as many as one call has.
    TokenImport = "token.import",
    /// A deleted or expired token's row was removed.
    TokenPurge = "token.purge",
    /// A token was replaced by another.
    TokenReplace = "token.replace",
    /// A token was revoked because its secret was reported as leaked.
    TokenRevokeLeaked = "token.revoke_leaked",
    /// A token's expiry was brought nearer.
    TokenSetExpiry = "token.set_expiry",
    /// A token got another name or other labels.
    TokenUpdate = "token.update",
    /// A webhook was created.
    WebhookCreate = "webhook.create",
    /// A webhook was deleted.
    WebhookDelete = "webhook.delete",
    /// A webhook's receiver answered that it wants no more (410), and gets no more.
    WebhookDisable = "webhook.disable",
    /// A webhook got another secret.
    WebhookRotateSecret = "webhook.rotate_secret",
    /// A webhook got another name, URL or other events, or was disabled or enabled.
    WebhookUpdate = "webhook.update",
    /// A whitelist was changed.
    WhitelistChange = "whitelist.change",
}

/// An action as the store has it: a newer version of this software, of which replicas run beside this one
/// during an upgrade, may know others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedAction {
    /// One that this version knows.
    Known(AuditAction),
    /// The name of another one.
    Other(String),
}

impl RecordedAction {
    /// Its name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(action) => action.as_str(),
            Self::Other(name) => name,
        }
    }
}

impl From<String> for RecordedAction {
    fn from(name: String) -> Self {
        let known = AuditAction::ALL.iter().find(|action| action.as_str() == name);
        known.map_or(Self::Other(name), |&action| Self::Known(action))
    }
}

/// One change in the audit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// Its place in the order of all changes, from 1 up.
    pub position: i64,
    /// When.
    pub time: Timestamp,
    /// What was done.
    pub action: RecordedAction,
    /// The id of the credential, or of the token whose bearer acted; else `system`, `secret scanning`, `command line`
    /// or `development`.
    pub actor: String,
    /// The actor's role; empty for what has none.
    pub actor_role: String,
    /// From where; `None` for what came from no network.
    pub client: Option<String>,
    /// The account concerned.
    pub account_id: Option<AccountId>,
    /// The token concerned.
    pub token_id: Option<TokenId>,
    /// What the changed part was before, as a JSON object.
    pub before: Option<String>,
    /// What it is afterwards, as a JSON object.
    pub after: Option<String>,
    /// Its link in the chain (docs/audit.md); `None` until it is sealed, as are events of programs without a chain.
    pub hash: Option<ChainHash>,
}

/// How far the chain over audit events goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditChain {
    /// The UUID of this installation.
    pub installation_id: String,
    /// The last event that was pruned; the genesis where none was.
    pub begin: ChainPoint,
    /// The last event that has its hash; `begin` where none has.
    pub head: ChainPoint,
}

/// A list of audit events.
#[derive(Debug, Clone, Copy, Default)]
pub struct AuditFilter {
    /// Only those of this account.
    pub account_id: Option<AccountId>,
    /// Only those of this token.
    pub token_id: Option<TokenId>,
    /// Only at this instant or after it.
    pub start: Option<Timestamp>,
    /// Only before this instant.
    pub end: Option<Timestamp>,
    /// Only those of this action.
    pub pending_action_id: Option<PendingActionId>,
    /// The oldest first, instead of the newest.
    pub oldest_first: bool,
    /// Only those after this position.
    pub after: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_name_reads_back() {
        for &action in AuditAction::ALL {
            assert_eq!(
                RecordedAction::from(action.as_str().to_owned()),
                RecordedAction::Known(action)
            );
        }
        let newer = RecordedAction::from("token.split".to_owned());
        assert_eq!(newer, RecordedAction::Other("token.split".to_owned()));
        assert_eq!(newer.as_str(), "token.split");
    }
}
