//! The evidence for an action that was carried out: its audit events, each with the hash of the event before it, so
//! that they can be checked alone, and against an export of the whole chain.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ChainHash, ChainPoint, EventLine, VERSION};

/// The member of `after_json` with what a deletion or a downgrade was based on, in the event that records it.
const BASIS: &str = "evidence";

/// The evidence for an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Of the encoding of events.
    pub version: u32,
    /// The action.
    pub pending_action_id: String,
    /// Whose chain its events are in.
    pub installation_id: String,
    /// What it was based on when it was carried out, copied from its event. `null` where it was not carried out.
    pub basis: Value,
    /// Its events, the oldest first.
    pub events: Vec<EvidenceEvent>,
}

/// An event of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceEvent {
    /// The hash of the event of the revision before.
    pub previous_hash: ChainHash,
    /// The event.
    pub event: EventLine,
}

/// Why evidence is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceFault {
    /// Of another version of the encoding.
    #[error("the evidence has version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// There is no event.
    #[error("the evidence has no event")]
    Empty,
    /// An event is not what its hash covers.
    #[error("the event of revision {0} is changed: its hash is not that of its content")]
    Changed(i64),
    /// An event is about something else.
    #[error("the event of revision {0} is not one of the action, or stands in the wrong place")]
    Foreign(i64),
    /// The basis is not the one of the event.
    #[error("the basis is not the one that the event of what was carried out has")]
    Basis,
    /// It comes from another installation than the export.
    #[error("the evidence is of another installation than the export")]
    Installation,
}

impl Evidence {
    /// The evidence that consists of these events, the oldest first.
    pub fn new(
        pending_action_id: String,
        installation_id: String,
        events: Vec<EvidenceEvent>,
    ) -> Self {
        let basis = basis(&events);
        Self { version: VERSION, pending_action_id, installation_id, basis, events }
    }

    /// The event that records that it was carried out, if it was.
    pub fn carried_out(&self) -> Option<&EventLine> {
        carried_out(&self.events).map(|(event, _)| event)
    }

    /// Checks what can be checked without an export: that each event is what its hash covers and concerns the action,
    /// and that the basis is what the event says.
    ///
    /// # Errors
    /// Names the first event that is wrong.
    pub fn check(&self) -> Result<(), EvidenceFault> {
        if self.version != VERSION {
            return Err(EvidenceFault::Version(self.version));
        }
        if self.events.is_empty() {
            return Err(EvidenceFault::Empty);
        }
        let mut last = 0;
        for EvidenceEvent { previous_hash, event } in &self.events {
            if !event.follows(previous_hash) {
                return Err(EvidenceFault::Changed(event.revision));
            }
            let id = &self.pending_action_id;
            let names = |text: &String| !id.is_empty() && text.contains(id);
            let concerns = [&event.before_json, &event.after_json].into_iter().any(names);
            if event.revision <= last || !concerns {
                return Err(EvidenceFault::Foreign(event.revision));
            }
            last = event.revision;
        }
        if self.basis != basis(&self.events) {
            return Err(EvidenceFault::Basis);
        }
        Ok(())
    }

    /// The places in the chain that an export must confirm, of which those before the events are implied.
    pub fn points(&self) -> impl Iterator<Item = ChainPoint> {
        self.events.iter().map(|event| event.event.point())
    }
}

fn carried_out(events: &[EvidenceEvent]) -> Option<(&EventLine, Value)> {
    events.iter().find_map(|EvidenceEvent { event, .. }| {
        let mut after: Value = serde_json::from_str(&event.after_json).ok()?;
        let basis = after.get_mut(BASIS)?.take();
        Some((event, basis))
    })
}

fn basis(events: &[EvidenceEvent]) -> Value {
    carried_out(events).map_or(Value::Null, |(_, basis)| basis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(previous: &EvidenceEvent, after_json: &str) -> EvidenceEvent {
        let previous = &previous.event;
        let mut event = EventLine {
            revision: previous.revision + 1,
            after_json: after_json.to_owned(),
            ..previous.clone()
        };
        event.hash = event.fields().hash(&previous.hash);
        EvidenceEvent { previous_hash: previous.hash, event }
    }

    fn evidence() -> Evidence {
        let hash = ChainHash::genesis("i");
        let mut first = EventLine {
            revision: 1,
            time: "2026-01-31T12:00:00.000000Z".to_owned(),
            action: "lifecycle.announce".to_owned(),
            actor: "system".to_owned(),
            actor_role: String::new(),
            client_address: String::new(),
            account_id: "acc_1".to_owned(),
            token_id: "tok_1".to_owned(),
            before_json: String::new(),
            after_json: "{\"pending_action_id\":\"act_1\"}".to_owned(),
            hash,
        };
        first.hash = first.fields().hash(&hash);
        let first = EvidenceEvent { previous_hash: hash, event: first };
        let second =
            event(&first, "{\"pending_action_id\":\"act_1\",\"evidence\":{\"admins\":[\"a\"]}}");
        Evidence::new("act_1".to_owned(), "i".to_owned(), vec![first, second])
    }

    #[test]
    fn evidence_is_checked_without_an_export() {
        let sound = evidence();
        assert_eq!(sound.check(), Ok(()));
        assert_eq!(sound.basis, serde_json::json!({ "admins": ["a"] }));
        assert_eq!(sound.carried_out().unwrap().revision, 2);

        let mut changed = sound.clone();
        changed.events[1].event.time.push('0');
        assert_eq!(changed.check(), Err(EvidenceFault::Changed(2)));
        let mut moved = sound.clone();
        moved.events.swap(0, 1);
        assert_eq!(moved.check(), Err(EvidenceFault::Foreign(1)));
        let mut foreign = sound.clone();
        foreign.pending_action_id = "act_2".to_owned();
        assert_eq!(foreign.check(), Err(EvidenceFault::Foreign(1)));
        foreign.pending_action_id.clear();
        assert_eq!(foreign.check(), Err(EvidenceFault::Foreign(1)));
        let mut basis = sound.clone();
        basis.basis["admins"] = serde_json::json!([]);
        assert_eq!(basis.check(), Err(EvidenceFault::Basis));
        let empty = Evidence { events: Vec::new(), ..sound };
        assert_eq!(empty.check(), Err(EvidenceFault::Empty));
    }
}
