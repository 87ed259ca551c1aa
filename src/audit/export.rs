//! The lines of an export: where it begins, one line for each event, and how far the chain went.

use serde::{Deserialize, Serialize};

use super::{ChainHash, ChainPoint, EventFields, VERSION};

/// The first line: what the first event of the file follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// See [`BeginPoint`].
    chain: BeginPoint,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginPoint {
    version: u32,
    installation_id: String,
    revision: i64,
    hash: ChainHash,
}

impl Begin {
    /// What a line of this kind begins with.
    pub(super) const PREFIX: &str = "{\"chain\":";

    /// The first line of an export of this installation that begins after `point`.
    pub fn new(installation_id: String, point: ChainPoint) -> Self {
        let ChainPoint { revision, hash } = point;
        Self { chain: BeginPoint { version: VERSION, installation_id, revision, hash } }
    }

    /// The version of the encoding.
    pub fn version(&self) -> u32 {
        self.chain.version
    }

    /// Whose chain it is.
    pub fn installation_id(&self) -> &str {
        &self.chain.installation_id
    }

    /// The event before the first one of the file.
    pub fn point(&self) -> ChainPoint {
        ChainPoint { revision: self.chain.revision, hash: self.chain.hash }
    }
}

/// The last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// How far the whole chain went when this was exported: what to keep, and to compare later exports with.
    pub head: ChainPoint,
    /// The last event of the file, or the point where it begins if it has none.
    pub last: ChainPoint,
}

impl End {
    /// What a line of this kind begins with.
    pub(super) const PREFIX: &str = "{\"head\":";
}

/// An event, with its hash. What is absent is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventLine {
    /// Its place in the order of all changes, from 1 up.
    pub revision: i64,
    /// RFC 3339 in UTC with six decimals.
    pub time: String,
    /// Such as `token.create`.
    pub action: String,
    /// Who did it.
    pub actor: String,
    /// In which role.
    pub actor_role: String,
    /// From where.
    pub client_address: String,
    /// The account concerned.
    pub account_id: String,
    /// The token concerned.
    pub token_id: String,
    /// What was before, as a JSON object in a text: its hash covers each byte.
    pub before_json: String,
    /// What is afterwards, in the same way.
    pub after_json: String,
    /// See [`EventFields::hash`].
    pub hash: ChainHash,
}

impl EventLine {
    /// What its hash covers.
    pub fn fields(&self) -> EventFields<'_> {
        EventFields {
            revision: self.revision,
            time: &self.time,
            action: &self.action,
            actor: &self.actor,
            actor_role: &self.actor_role,
            client_address: &self.client_address,
            account_id: &self.account_id,
            token_id: &self.token_id,
            before_json: &self.before_json,
            after_json: &self.after_json,
        }
    }

    /// Whether its hash is that of its content after `previous`.
    pub fn follows(&self, previous: &ChainHash) -> bool {
        self.fields().hash(previous) == self.hash
    }

    /// Its place in the chain.
    pub fn point(&self) -> ChainPoint {
        ChainPoint { revision: self.revision, hash: self.hash }
    }
}
