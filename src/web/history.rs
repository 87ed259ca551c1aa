//! What became of a token, from the audit record, in words; and the versions that its whitelist had.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::answer::Result;
use super::session::Signed;
use super::tokens::kind;
use super::view::{When, count, kind_words, listed, when};
use crate::model::{AuditAction, AuditEvent, RecordedAction};
use crate::policy::network::{Change, CidrSet, Limits, Whitelist, apply, parse_entries};
use crate::policy::time::Timestamp;
use crate::service::lists::{AuditQuery, PageItem, Paging};
use crate::service::validate::FieldErrors;

/// Events that are shown.
const SHOWN: i32 = 50;

/// One change.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) when: When,
    pub(super) what: String,
    /// What exactly, a line each.
    pub(super) details: Vec<String>,
    /// Who, and from where.
    pub(super) who: String,
}

/// The newest events about a token, and whether there are more.
pub(super) async fn events(signed: &Signed, id: &str) -> Result<(Vec<AuditEvent>, bool)> {
    let query = AuditQuery {
        account_id: "",
        token_id: id,
        start: None,
        end: None,
        pending_action_id: "",
        oldest_first: false,
        after_revision: 0,
        paging: Paging { size: SHOWN, token: "" },
    };
    let events = signed
        .services()
        .list_audit_events(signed.caller(), query, FieldErrors::default(), PageItem::unmeasured)
        .await?;
    let more = !events.next.is_empty();
    Ok((events.items, more))
}

pub(super) fn event(event: &AuditEvent, now: Timestamp) -> Event {
    let (before, after) = (object(event.before.as_deref()), object(event.after.as_deref()));
    let (what, details) = words(&event.action, &before, &after);
    Event { when: when(event.time, now), what, details, who: who(event) }
}

/// Who made a change, and from where.
pub(super) fn who(event: &AuditEvent) -> String {
    let mut who = match event.actor.as_str() {
        "system" => "Portcullis itself".to_owned(),
        "secret scanning" => "a signed alert of secret scanning".to_owned(),
        "development" => "somebody, without a credential".to_owned(),
        "command line" => "somebody at the command line".to_owned(),
        credential if event.actor_role.is_empty() => credential.to_owned(),
        credential => format!("{} {credential}", event.actor_role.replace('_', " ")),
    };
    if let Some(client) = &event.client {
        who.push_str(" from ");
        who.push_str(client);
    }
    who
}

fn object(json: Option<&str>) -> Map<String, Value> {
    json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

fn list(value: Option<&Value>) -> Vec<&str> {
    let items = value.and_then(Value::as_array);
    items.map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

fn words(
    action: &RecordedAction,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> (String, Vec<String>) {
    let scopes = || {
        let taken = list(after.get("taken"));
        if taken.is_empty() { Vec::new() } else { vec![taken.join(", ")] }
    };
    let text = |name: &str| after.get(name).and_then(Value::as_str).unwrap_or_default();
    let action = match action {
        RecordedAction::Known(action) => *action,
        RecordedAction::Other(name) => return (name.clone(), Vec::new()),
    };
    // Of a token that was replaced: rule 11.36 of docs/policy.md.
    if before.is_empty() && after.contains_key("successor_token_id") {
        let what = match action {
            AuditAction::LifecycleAnnounce => {
                "Something was announced for the token that replaced it"
            }
            _ => "What is announced for the token that replaced it has changed",
        };
        return (what.to_owned(), Vec::new());
    }
    match action {
        AuditAction::TokenCreate => {
            let from = match list(after.get("whitelist")).as_slice() {
                [] => "from any address".to_owned(),
                entries => format!("from {}", listed(entries)),
            };
            let scopes = list(after.get("scopes"));
            let word = text("kind");
            let kind =
                kind(word).map_or_else(|| word.to_owned(), |kind| kind_words(kind).to_owned());
            let may = if scopes.is_empty() {
                kind.to_owned()
            } else {
                format!("{kind}: {}", scopes.join(", "))
            };
            let replaces = after.get("replaces_token_id").and_then(Value::as_str);
            let replaces = replaces.map(|id| format!("in place of {id}"));
            ("Created".to_owned(), [may, from].into_iter().chain(replaces).collect())
        }
        AuditAction::TokenImport => {
            ("Imported, with a secret that was made elsewhere".to_owned(), Vec::new())
        }
        AuditAction::TokenDelete => ("Deleted by its owner".to_owned(), Vec::new()),
        AuditAction::TokenExpire => ("Expired".to_owned(), Vec::new()),
        AuditAction::TokenExpiryNotice => {
            let at = text("expire_time").to_owned();
            ("The admins are notified of its expiry".to_owned(), vec![at])
        }
        AuditAction::TokenRevokeLeaked => {
            let found = ["source", "url"].iter().filter_map(|key| after.get(*key)?.as_str());
            let found = found.filter(|place| !place.is_empty()).map(str::to_owned).collect();
            ("Revoked, as its secret was reported as leaked".to_owned(), found)
        }
        AuditAction::TokenSetExpiry => {
            ("Its expiry was brought nearer".to_owned(), vec![text("expire_time").to_owned()])
        }
        AuditAction::TokenReplace => {
            let by = format!("by {}", text("replaced_by_token_id"));
            ("Replaced".to_owned(), vec![by, format!("it ends at {}", text("expire_time"))])
        }
        AuditAction::TokenUpdate => {
            ("Its name or labels were changed".to_owned(), vec![text("name").to_owned()])
        }
        AuditAction::WhitelistChange => whitelist_words(before, after),
        AuditAction::LifecycleAnnounce => match text("type") {
            "deletion" => ("Its deletion was announced".to_owned(), Vec::new()),
            _ => ("A downgrade was announced".to_owned(), scopes()),
        },
        AuditAction::LifecycleMove => (
            "The token that replaced it ended: what was announced for that now applies to this one"
                .to_owned(),
            Vec::new(),
        ),
        AuditAction::LifecycleNoticed => {
            ("Every admin's notice was accepted".to_owned(), Vec::new())
        }
        AuditAction::LifecycleRenotify => {
            ("Its admins changed: the new ones get a notice first".to_owned(), Vec::new())
        }
        AuditAction::LifecycleCancel => {
            ("A use cancelled what was announced".to_owned(), Vec::new())
        }
        AuditAction::LifecycleShrink => {
            ("A use removed scopes from what was announced".to_owned(), Vec::new())
        }
        AuditAction::LifecycleWithdraw => {
            ("What was announced was withdrawn".to_owned(), Vec::new())
        }
        AuditAction::LifecycleHold => {
            ("What was announced waits for a notice again".to_owned(), Vec::new())
        }
        AuditAction::LifecycleDelete => ("Deleted, as it was not used".to_owned(), Vec::new()),
        AuditAction::LifecycleDowngrade => {
            ("Downgraded: it lost what it did not use".to_owned(), scopes())
        }
        AuditAction::AccountClose
        | AuditAction::AccountCreate
        | AuditAction::AccountResume
        | AuditAction::AccountSetAdmins
        | AuditAction::AccountSuspend
        | AuditAction::AccountUpdate
        | AuditAction::AuditPrune
        | AuditAction::CatalogApply
        | AuditAction::CredentialCreate
        | AuditAction::CredentialReportLeaked
        | AuditAction::CredentialRevoke
        | AuditAction::CredentialRevokeLeaked
        | AuditAction::CredentialUpdate
        | AuditAction::SecretKeyCreate
        | AuditAction::SecretKeyRotate
        | AuditAction::SessionCreate
        | AuditAction::SessionEnd
        | AuditAction::TokenPurge
        | AuditAction::WebhookCreate
        | AuditAction::WebhookDelete
        | AuditAction::WebhookDisable
        | AuditAction::WebhookRotateSecret
        | AuditAction::WebhookUpdate => (action.as_str().to_owned(), Vec::new()),
    }
}

fn whitelist_words(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> (String, Vec<String>) {
    let (old, new) = (list(before.get("whitelist")), list(after.get("whitelist")));
    let only = |a: &[&str], b: &[&str]| -> Vec<String> {
        let b: HashSet<_> = b.iter().collect();
        a.iter().filter(|entry| !b.contains(entry)).map(ToString::to_string).collect()
    };
    let (added, removed) = (only(&new, &old), only(&old, &new));
    let mut details = Vec::new();
    if !added.is_empty() {
        details.push(format!("added {}", listed(&added)));
    }
    if !removed.is_empty() {
        details.push(format!("removed {}", listed(&removed)));
    }
    let version = after.get("version").and_then(Value::as_i64).unwrap_or_default();
    let what = match new.len() {
        0 => format!("Whitelist lifted: any address (version {version})"),
        n => {
            format!("Whitelist changed to {} (version {version})", count(n, "entry"))
        }
    };
    (what, details)
}

/// What still covers, in whole or in part, an entry that a whitelist's change removed.
pub(super) fn covering(event: &AuditEvent) -> Vec<String> {
    let read = |json: Option<&str>| {
        let object = object(json);
        parse_entries(list(object.get("whitelist")), &Limits::NONE).unwrap_or_default()
    };
    let (before, entries) = (read(event.before.as_deref()), read(event.after.as_deref()));
    let Ok(before) = CidrSet::new(before, &Limits::NONE) else { return Vec::new() };
    let before = before.map_or(Whitelist::Unrestricted, Whitelist::Only);
    let change = Change::Replace { allow_any_address: entries.is_empty(), entries };
    let changed = apply(&before, &change, false, &Limits::NONE);
    let covering = changed.map(|changed| changed.still_covered_by).unwrap_or_default();
    covering.iter().map(ToString::to_string).collect()
}

/// A whitelist as it was once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) version: i64,
    /// None for any address.
    pub(super) entries: Vec<String>,
    pub(super) when: When,
    pub(super) who: String,
}

impl Version {
    pub(super) fn listed(&self) -> String {
        listed(&self.entries)
    }
}

/// The versions that `events`, the newest first, record; the newest first.
pub(super) fn versions(events: &[AuditEvent], now: Timestamp) -> Vec<Version> {
    let version = |event: &AuditEvent| {
        let after = object(event.after.as_deref());
        let version = match event.action {
            RecordedAction::Known(AuditAction::TokenCreate) => 1,
            RecordedAction::Known(AuditAction::WhitelistChange) => {
                after.get("version")?.as_i64()?
            }
            _ => return None,
        };
        let entries = list(after.get("whitelist")).into_iter().map(str::to_owned).collect();
        Some(Version { version, entries, when: when(event.time, now), who: who(event) })
    };
    events.iter().filter_map(version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(action: &str, before: &str, after: &str) -> AuditEvent {
        AuditEvent {
            position: 1,
            time: Timestamp(0),
            action: action.to_owned().into(),
            actor: "cred_1".to_owned(),
            actor_role: "account_admin".to_owned(),
            client: Some("192.0.2.1".to_owned()),
            account_id: None,
            token_id: None,
            before: Some(before.to_owned()),
            after: Some(after.to_owned()),
            hash: None,
        }
    }

    #[test]
    fn whitelist_changes_are_described() {
        let create = recorded(
            "token.create",
            "",
            r#"{"kind":"READ_ONLY","scopes":[],"whitelist":["10.0.0.1"]}"#,
        );
        let change = recorded(
            "whitelist.change",
            r#"{"whitelist":["10.0.0.1"],"version":1}"#,
            r#"{"whitelist":["10.0.0.2","10.0.0.3"],"version":2}"#,
        );
        let lift = recorded(
            "whitelist.change",
            r#"{"whitelist":["10.0.0.2","10.0.0.3"],"version":2}"#,
            r#"{"whitelist":null,"version":3}"#,
        );
        let shown = event(&change, Timestamp(0));
        assert_eq!(shown.what, "Whitelist changed to 2 entries (version 2)");
        assert_eq!(shown.details, ["added 10.0.0.2, 10.0.0.3", "removed 10.0.0.1"]);
        assert_eq!(shown.who, "account admin cred_1 from 192.0.2.1");
        let versions = versions(&[lift, change, create], Timestamp(0));
        let versions: Vec<_> = versions.iter().map(|v| (v.version, v.entries.join(" "))).collect();
        let wanted = [(3, ""), (2, "10.0.0.2 10.0.0.3"), (1, "10.0.0.1")];
        assert_eq!(versions, wanted.map(|(n, text)| (n, text.to_owned())));
    }

    #[test]
    fn what_still_covers_a_removed_entry_is_named() {
        let change = recorded(
            "whitelist.change",
            r#"{"whitelist":["10.0.0.0/8","10.1.0.0/16","192.0.2.1"],"version":1}"#,
            r#"{"whitelist":["10.0.0.0/8","192.0.2.1"],"version":2}"#,
        );
        assert_eq!(covering(&change), ["10.0.0.0/8"]);
        assert_eq!(covering(&recorded("whitelist.change", "", "{")), [""; 0]);
    }

    #[test]
    fn what_is_unknown_or_broken_is_shown_as_it_is() {
        let shown = event(&recorded("new.thing", "{", "[]"), Timestamp(0));
        assert_eq!((shown.what.as_str(), shown.details.len()), ("new.thing", 0));
    }
}
