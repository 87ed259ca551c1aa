//! Webhooks: who receives which events, how far each has received them, and what an event says.

use serde_json::Value;

use super::{AuditAction, AuditEvent, RecordedAction};
use crate::policy::id::{AccountId, CredentialId, PendingActionId, TokenId, WebhookId};
use crate::policy::time::Timestamp;

macro_rules! event_types {
    ($($(#[$doc:meta])* $event:ident = $name:literal from [$($action:ident),+],)*) => {
        /// What an event is about. Rule 14.2 of docs/policy.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum EventType {
            $($(#[$doc])* $event,)*
        }

        impl EventType {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$event,)*];

            /// Its name, such as `token.leaked`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$event => $name,)*
                }
            }

            /// The recorded actions that it is made of.
            pub const fn actions(self) -> &'static [AuditAction] {
                match self {
                    $(Self::$event => &[$(AuditAction::$action,)+],)*
                }
            }
        }
    };
}

event_types! {
    /// An account was closed.
    AccountClosed = "account.closed" from [AccountClose],
    /// An account got other admins.
    AccountAdminsChanged = "account.admins_changed" from [AccountSetAdmins],
    /// A suspended account was resumed.
    AccountResumed = "account.resumed" from [AccountResume],
    /// An account was suspended.
    AccountSuspended = "account.suspended" from [AccountSuspend],
    /// A downgrade or a deletion was announced.
    ActionAnnounced = "action.announced" from [LifecycleAnnounce],
    /// What was announced is not done: by a use, or because it was withdrawn.
    ActionCancelled = "action.cancelled" from [LifecycleCancel, LifecycleWithdraw],
    /// A token was downgraded, or deleted, because it was not used.
    ActionCarriedOut = "action.carried_out" from [LifecycleDelete, LifecycleDowngrade],
    /// A catalogue was applied.
    CatalogApplied = "catalog.applied" from [CatalogApply],
    /// A credential was created.
    CredentialCreated = "credential.created" from [CredentialCreate],
    /// The secret of a credential was reported as leaked; unless it is the last operator's, it is revoked.
    CredentialLeaked = "credential.leaked" from [CredentialRevokeLeaked, CredentialReportLeaked],
    /// A credential was revoked.
    CredentialRevoked = "credential.revoked" from [CredentialRevoke],
    /// Secrets are made under another key from then on.
    SecretKeyRotated = "secret_key.rotated" from [SecretKeyRotate],
    /// A token was created.
    TokenCreated = "token.created" from [TokenCreate],
    /// A token was deleted by its owner.
    TokenDeleted = "token.deleted" from [TokenDelete],
    /// A token reached its expiry.
    TokenExpired = "token.expired" from [TokenExpire],
    /// A token expires within the notice period.
    TokenExpiring = "token.expiring" from [TokenExpiryNotice],
    /// Tokens that were issued elsewhere were imported.
    TokenImported = "token.imported" from [TokenImport],
    /// The secret of a token was reported as leaked, and the token is revoked.
    TokenLeaked = "token.leaked" from [TokenRevokeLeaked],
    /// A token was replaced by another.
    TokenReplaced = "token.replaced" from [TokenReplace],
    /// A webhook was created.
    WebhookCreated = "webhook.created" from [WebhookCreate],
    /// A webhook was deleted, or disabled since its receiver wants no more.
    WebhookEnded = "webhook.ended" from [WebhookDelete, WebhookDisable],
    /// The addresses that a token may be used from were changed.
    WhitelistChanged = "whitelist.changed" from [WhitelistChange],
}

impl EventType {
    /// The type with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| event.as_str() == name)
    }

    fn of(action: AuditAction) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| event.actions().contains(&action))
    }
}

/// What webhooks are sent: ids, and never a secret, a name or an address. Rule 14.3 of docs/policy.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The position of its audit event.
    pub revision: i64,
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub kind: EventType,
    /// The account concerned.
    pub account_id: Option<AccountId>,
    /// The token concerned.
    pub token_id: Option<TokenId>,
    /// The credential concerned.
    pub credential_id: Option<CredentialId>,
    /// The webhook concerned.
    pub webhook_id: Option<WebhookId>,
    /// The pending actions concerned.
    pub actions: Vec<PendingActionId>,
    /// The token that replaced the token concerned.
    pub successor: Option<TokenId>,
}

impl Event {
    /// The event that an audit event is sent as; `None` where it is sent as none.
    pub fn of(recorded: &AuditEvent) -> Option<Self> {
        let RecordedAction::Known(action) = recorded.action else { return None };
        let kind = EventType::of(action)?;
        let part = |text: &Option<String>| -> Value {
            text.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
        };
        let parts = [part(&recorded.after), part(&recorded.before)];
        let mut actions = Vec::new();
        for part in &parts {
            actions.extend(id::<PendingActionId>(part, "pending_action_id"));
            for list in ["cancelled", "withdrawn"] {
                let named = part.get(list).and_then(Value::as_array).into_iter().flatten();
                actions.extend(named.filter_map(|id| id.as_str()?.parse::<PendingActionId>().ok()));
            }
        }
        actions.dedup();
        let of_action = matches!(
            kind,
            EventType::ActionAnnounced | EventType::ActionCancelled | EventType::ActionCarriedOut
        );
        // Such an event is recorded as well of the tokens whose successor has the action.
        if of_action && actions.is_empty() {
            return None;
        }
        let find = |name| parts.iter().find_map(|part| id(part, name));
        Some(Self {
            revision: recorded.position,
            time: recorded.time,
            kind,
            account_id: recorded.account_id,
            token_id: recorded.token_id,
            credential_id: parts.iter().find_map(|part| id(part, "credential_id")),
            webhook_id: parts.iter().find_map(|part| id(part, "webhook_id")),
            actions,
            successor: find("replaced_by_token_id").or_else(|| find("successor_token_id")),
        })
    }
}

/// The id that an audit event's part has under this name.
fn id<T: std::str::FromStr>(part: &Value, name: &str) -> Option<T> {
    part.get(name)?.as_str()?.parse().ok()
}

/// Which secret messages are signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretVersion {
    /// The number of the key that it is derived from.
    pub key: u16,
    /// From 1 up.
    pub version: u32,
}

/// The secret of the version before, which messages are signed with as well for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerSecret {
    /// The number of the key that it is derived from.
    pub key: u16,
    /// From when on messages are not signed with it.
    pub until: Timestamp,
}

/// Whether events are sent to a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookState {
    /// They are.
    Enabled,
    /// Operators disabled it.
    Disabled,
    /// Its receiver answered 410, and is sent nothing more.
    Gone,
}

/// A receiver of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// A label.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// Which events, sorted; `None` for all of them, also those of later versions.
    pub event_types: Option<Vec<EventType>>,
    /// When it was created.
    pub created: Timestamp,
    /// What messages are signed with.
    pub secret: SecretVersion,
    /// And with this one too, while it lasts.
    pub former_secret: Option<FormerSecret>,
    /// Whether events are sent.
    pub state: WebhookState,
    /// How far.
    pub delivery: Delivery,
}

/// How far a webhook has received events, and what is wrong where it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Every event up to this position is delivered, given up, or of another type.
    pub position: i64,
    /// Attempts to deliver the next event that failed.
    pub attempts: u32,
    /// Not before this.
    pub next_attempt: Timestamp,
    /// Until then one replica delivers, and no other does.
    pub claimed_until: Timestamp,
    /// The first failure since the last delivery, and when the event that waits for it happened.
    pub failing: Option<Failing>,
    /// When an event was last received.
    pub last_success: Option<Timestamp>,
    /// When an attempt last failed, and why.
    pub last_failure: Option<(Timestamp, String)>,
    /// Events that were received.
    pub delivered: u64,
    /// Events that were given up.
    pub skipped: u64,
}

/// Since when a webhook receives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    /// The first failure since the last delivery.
    pub since: Timestamp,
    /// When the event happened that is to be delivered next.
    pub event_time: Timestamp,
}

impl Webhook {
    /// The recorded actions that it is sent events of.
    pub fn actions(&self) -> Vec<AuditAction> {
        let types = self.event_types.as_deref().unwrap_or(EventType::ALL);
        types.iter().flat_map(|event| event.actions()).copied().collect()
    }

    /// Whether somebody may deliver to it at `now`.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let Delivery { next_attempt, claimed_until, .. } = self.delivery;
        self.state == WebhookState::Enabled && next_attempt <= now && claimed_until <= now
    }
}

/// What is to be changed of a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookUpdate {
    /// Its name.
    pub name: Option<String>,
    /// Where events are sent.
    pub url: Option<String>,
    /// Which events; `Some(None)` for all of them.
    pub event_types: Option<Option<Vec<EventType>>>,
    /// Whether events are sent. Where they were not, they are sent from then on.
    pub enabled: Option<bool>,
}

/// Audit events of some actions, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditBatch {
    /// The events.
    pub events: Vec<AuditEvent>,
    /// There are no others up to this position.
    pub until: i64,
    /// Events up to this position are removed.
    pub pruned: i64,
    /// Whether there may be more behind `until`.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use uuid::Uuid;

    use super::*;

    fn recorded(action: AuditAction, before: Option<&str>, after: Option<&str>) -> AuditEvent {
        AuditEvent {
            position: 7,
            time: Timestamp(1),
            action: RecordedAction::Known(action),
            actor: "system".to_owned(),
            actor_role: String::new(),
            client: Some("10.0.0.1".to_owned()),
            account_id: Some(AccountId(Uuid::from_u128(1))),
            token_id: Some(TokenId(Uuid::from_u128(2))),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
            hash: None,
        }
    }

    /// Rule 14.2.
    #[test]
    fn no_recorded_action_is_two_events() {
        let mut actions = HashSet::new();
        for &event in EventType::ALL {
            assert_eq!(EventType::parse(event.as_str()), Some(event));
            assert!(!event.actions().is_empty());
            for action in event.actions() {
                assert!(actions.insert(action.as_str()), "{} is in two", action.as_str());
            }
        }
        assert_eq!(EventType::parse("token.update"), None);
    }

    /// Rule 14.3.
    #[test]
    fn an_event_has_the_ids_that_its_audit_event_names() {
        let (one, two) = (PendingActionId(Uuid::from_u128(3)), PendingActionId(Uuid::from_u128(4)));
        let announced = format!(r#"{{"pending_action_id":"{one}","type":"deletion"}}"#);
        let event = Event::of(&recorded(AuditAction::LifecycleAnnounce, None, Some(&announced)));
        let event = event.unwrap();
        assert_eq!((event.kind, event.actions), (EventType::ActionAnnounced, vec![one]));
        assert_eq!(event.revision, 7);

        let cancelled = format!(r#"{{"cancelled":["{one}","{two}"],"shrunk":[]}}"#);
        let event = Event::of(&recorded(AuditAction::LifecycleCancel, Some(&cancelled), None));
        assert_eq!(event.unwrap().actions, [one, two]);

        let successor = TokenId(Uuid::from_u128(9));
        let replaced = format!(r#"{{"name":"n","replaced_by_token_id":"{successor}"}}"#);
        let event = Event::of(&recorded(AuditAction::TokenReplace, None, Some(&replaced)));
        assert_eq!(event.unwrap().successor, Some(successor));

        // Recorded of a replaced token, whose successor has the action.
        let touched = format!(r#"{{"successor_token_id":"{successor}"}}"#);
        assert_eq!(
            Event::of(&recorded(AuditAction::LifecycleAnnounce, None, Some(&touched))),
            None
        );
        // Of no interest to anybody.
        assert_eq!(Event::of(&recorded(AuditAction::SessionCreate, None, None)), None);
        // No id where there is another text.
        let odd = r#"{"credential_id":"pcl_c1_secret","pending_action_id":7}"#;
        let event = Event::of(&recorded(AuditAction::CredentialRevoke, None, Some(odd))).unwrap();
        assert_eq!((event.credential_id, event.actions.len()), (None, 0));
    }
}
