//! The hash chain over audit events: how an event is hashed, how an export is written and verified, and the evidence
//! for an action. What it proves, and what not, is in docs/audit.md.
//!
//! # Invariants
//! - A hash covers exactly what an export shows of an event, so that a verifier needs nothing else.
//! - What is hashed never changes for a version of the encoding: old exports must verify for as long as somebody keeps
//!   them.

mod evidence;
mod export;
mod verify;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use evidence::{Evidence, EvidenceEvent, EvidenceFault};
pub use export::{Begin, End, EventLine};
pub use verify::{AnchorFault, Fault, FaultKind, Report, verify};

/// The version of the encoding, as the first line of an export names it.
pub const VERSION: u32 = 1;

/// What is hashed first, so that no hash of something else can be taken for one of a chain.
const DOMAIN: &[u8] = b"portcullis audit 1\0";

/// A link of the chain. Displays as 64 lower-case hexadecimal digits, and reads no others: upper case would be another
/// text of the same hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChainHash([u8; 32]);

impl ChainHash {
    /// What the first event of an installation follows. `installation_id` is its UUID with hyphens, in lower case.
    pub fn genesis(installation_id: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        add(&mut hash, installation_id);
        Self(hash.finalize().into())
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for ChainHash {
    type Error = InvalidHash;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidHash> {
        Ok(Self(bytes.try_into().map_err(|_| InvalidHash)?))
    }
}

impl TryFrom<String> for ChainHash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl From<ChainHash> for String {
    fn from(hash: ChainHash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChainHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 64 || !text.bytes().all(|byte| digit(&byte)) {
            return Err(InvalidHash);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| InvalidHash)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidHash)?;
        }
        Ok(Self(bytes))
    }
}

/// What is no hash. Displays as the end of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no hash: 64 digits of 0 to 9 and a to f")]
pub struct InvalidHash;

/// How far a chain goes. Displays as `HASH@REVISION`, which is also how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainPoint {
    /// The revision of its last event; 0 before the first.
    pub revision: i64,
    /// That event's hash; the genesis before the first.
    pub hash: ChainHash,
}

impl ChainPoint {
    /// The beginning of the chain of an installation.
    pub fn genesis(installation_id: &str) -> Self {
        Self { revision: 0, hash: ChainHash::genesis(installation_id) }
    }
}

impl fmt::Display for ChainPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.hash, self.revision)
    }
}

impl FromStr for ChainPoint {
    type Err = InvalidPoint;

    fn from_str(text: &str) -> Result<Self, InvalidPoint> {
        let (hash, revision) = text.split_once('@').ok_or(InvalidPoint)?;
        let hash = hash.parse().map_err(|_| InvalidPoint)?;
        let revision = revision.parse().ok().filter(|revision| *revision >= 0);
        Ok(Self { revision: revision.ok_or(InvalidPoint)?, hash })
    }
}

/// What is no point of a chain. Displays as the end of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no HASH@REVISION: 64 digits of 0 to 9 and a to f, an @ and a revision, as the last line of an export has them"
)]
pub struct InvalidPoint;

/// What the hash of an event covers, as texts. What is absent is empty.
#[derive(Debug, Clone, Copy)]
pub struct EventFields<'a> {
    /// Its place in the order of all changes, from 1 up.
    pub revision: i64,
    /// RFC 3339 in UTC with six decimals.
    pub time: &'a str,
    /// Such as `token.create`.
    pub action: &'a str,
    /// Who did it.
    pub actor: &'a str,
    /// In which role.
    pub actor_role: &'a str,
    /// From where.
    pub client_address: &'a str,
    /// The account concerned.
    pub account_id: &'a str,
    /// The token concerned.
    pub token_id: &'a str,
    /// What was before, as a JSON object, byte by byte.
    pub before_json: &'a str,
    /// What is afterwards, as a JSON object, byte by byte.
    pub after_json: &'a str,
}

impl EventFields<'_> {
    /// The hash of this event after one with the hash `previous`: SHA-256 of the domain, the 32 bytes of `previous`,
    /// and each field in the order of declaration, as the length of its UTF-8 text in four bytes, most significant
    /// first, and that text. The revision is a decimal number.
    pub fn hash(&self, previous: &ChainHash) -> ChainHash {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(previous.0);
        for field in [
            self.revision.to_string().as_str(),
            self.time,
            self.action,
            self.actor,
            self.actor_role,
            self.client_address,
            self.account_id,
            self.token_id,
            self.before_json,
            self.after_json,
        ] {
            add(&mut hash, field);
        }
        ChainHash(hash.finalize().into())
    }
}

/// A text behind its length, so that no two lists of texts are the same bytes.
fn add(hash: &mut Sha256, text: &str) {
    // No text of an event has 4 GiB: the database and gRPC take far less.
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    hash.update(length.to_be_bytes());
    hash.update(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with another implementation: `hashlib` of Python, as docs/audit.md shows it.
    #[test]
    fn hashes_are_those_of_the_documented_encoding() {
        let genesis = ChainHash::genesis("00000000-0000-0000-0000-000000000000");
        assert_eq!(genesis.to_string(), GENESIS);
        let event = EventFields {
            revision: 1,
            time: "2026-01-31T12:00:00.500000Z",
            action: "account.create",
            actor: "system",
            actor_role: "",
            client_address: "",
            account_id: "acc_0000000000000000000000",
            token_id: "",
            before_json: "",
            after_json: "{\"name\":\"Zürich\"}",
        };
        assert_eq!(event.hash(&genesis).to_string(), FIRST);
    }

    const GENESIS: &str = "0bfacf4a028b1090a3c01de5dfb5df1ffc4ca8bd6878b49197c93ba6eb2f752e";
    const FIRST: &str = "b47afb1df37312b99d6a87efd8ffce49a6af86650b56f8e34d441fdb9a3bbb6d";

    #[test]
    fn a_text_moved_to_the_next_field_is_another_event() {
        let genesis = ChainHash::genesis("a");
        let event = |actor, actor_role| EventFields {
            revision: 1,
            time: "",
            action: "",
            actor,
            actor_role,
            client_address: "",
            account_id: "",
            token_id: "",
            before_json: "",
            after_json: "",
        };
        assert_ne!(event("ab", "c").hash(&genesis), event("a", "bc").hash(&genesis));
        assert_ne!(event("ab", "").hash(&genesis), event("", "ab").hash(&genesis));
    }

    #[test]
    fn only_one_text_is_read_as_a_point() {
        let point = ChainPoint::genesis("a");
        assert_eq!(point.to_string().parse(), Ok(point));
        let hash = point.hash.to_string();
        for wrong in [
            String::new(),
            hash.clone(),
            format!("{hash}@"),
            format!("{hash}@-1"),
            format!("{}@1", hash.to_uppercase()),
            format!("{}@1", &hash[1..]),
            format!("{hash}0@1"),
        ] {
            assert_eq!(wrong.parse::<ChainPoint>(), Err(InvalidPoint), "{wrong}");
        }
    }
}
