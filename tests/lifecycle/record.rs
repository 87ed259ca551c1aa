//! The audit record of many histories: each action is announced once, and ends once; how much
//! happened.

use std::collections::{BTreeMap, BTreeSet};

use portcullis::model::AuditEvent;
use serde_json::Value;

/// How much happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) announced: usize,
    pub(crate) cancelled: usize,
    pub(crate) shrunk: usize,
    pub(crate) withdrawn: usize,
    pub(crate) downgrades: usize,
    pub(crate) deletions: usize,
    pub(crate) replaced: usize,
    pub(crate) expired: usize,
    pub(crate) imported: usize,
    pub(crate) suspended: usize,
    pub(crate) closed: usize,
}

impl Totals {
    pub(crate) fn add(&mut self, other: Self) {
        self.announced += other.announced;
        self.cancelled += other.cancelled;
        self.shrunk += other.shrunk;
        self.withdrawn += other.withdrawn;
        self.downgrades += other.downgrades;
        self.deletions += other.deletions;
        self.replaced += other.replaced;
        self.expired += other.expired;
        self.imported += other.imported;
        self.suspended += other.suspended;
        self.closed += other.closed;
    }
}

/// Reads the audit record, the oldest event first: each action is announced once, and ends once.
pub(crate) fn read(events: &[AuditEvent]) -> Result<Totals, String> {
    let mut totals = Totals::default();
    let (mut deleted, mut taken) = (BTreeSet::new(), BTreeSet::new());
    // Whether it has ended, by its id.
    let mut actions: BTreeMap<String, bool> = BTreeMap::new();
    for event in events {
        let json = |text: &Option<String>| -> Value {
            text.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
        };
        let (before, after) = (json(&event.before), json(&event.after));
        let id = |of: &Value| of["pending_action_id"].as_str().map(str::to_owned);
        let texts = |of: &Value| -> Vec<String> {
            let texts = of.as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        // What is announced for a successor, and taken from it, concerns the tokens that it replaced as well.
        let of_old = !after["successor_token_id"].is_null();
        let mut ended = Vec::new();
        match event.action.as_str() {
            "token.replace" => totals.replaced += 1,
            "token.expire" => totals.expired += 1,
            "token.import" => totals.imported += texts(&after["token_ids"]).len(),
            "account.suspend" => totals.suspended += 1,
            "account.close" => totals.closed += 1,
            _ if of_old => continue,
            "lifecycle.announce" => {
                totals.announced += 1;
                if actions.insert(id(&after).unwrap(), false).is_some() {
                    return Err(format!("announced twice: {event:?}"));
                }
            }
            "lifecycle.delete" => {
                totals.deletions += 1;
                if !deleted.insert(event.token_id) {
                    return Err(format!("deleted twice: {event:?}"));
                }
                ended.extend(id(&after));
            }
            "lifecycle.downgrade" => {
                totals.downgrades += 1;
                ended.extend(id(&after));
                for scope in texts(&after["taken"]) {
                    if !taken.insert((event.token_id, scope)) {
                        return Err(format!("taken twice: {event:?}"));
                    }
                }
            }
            "lifecycle.cancel" | "lifecycle.shrink" => {
                ended = texts(&before["cancelled"]);
                totals.cancelled += ended.len();
                totals.shrunk += texts(&before["shrunk"]).len();
            }
            "lifecycle.withdraw" => {
                ended = texts(&before["withdrawn"]);
                ended.extend(id(&before));
                totals.withdrawn += ended.len();
            }
            _ => {}
        }
        for id in ended {
            match actions.insert(id, true) {
                Some(false) => {}
                Some(true) => return Err(format!("ended twice: {event:?}")),
                None => return Err(format!("never announced: {event:?}")),
            }
        }
    }
    Ok(totals)
}
