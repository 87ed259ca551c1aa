//! Reads and writes what columns hold as text. What can't be read is an error, never a default.

use uuid::Uuid;

use crate::model::{Labels, NoticeState, Role};
use crate::policy::client_certificate::Fingerprint;
use crate::policy::id::AccountId;
use crate::policy::lifecycle::ActionEffect;
use crate::policy::network::{CidrSet, Limits, Whitelist, parse_entries};
use crate::policy::scope::{ScopeId, ScopeName};
use crate::policy::time::Timestamp;
use crate::secret::Digest;
use crate::store::Result;
use crate::store::error::CorruptRow;

/// How a token without a whitelist is written. No entry reads so.
pub(super) const ANY_ADDRESS: &str = "any";

pub(super) fn whitelist_text(whitelist: &Whitelist) -> String {
    match whitelist {
        Whitelist::Unrestricted => ANY_ADDRESS.to_owned(),
        Whitelist::Only(entries) => {
            let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
            entries.join(",")
        }
    }
}

pub(super) fn whitelist(text: &str) -> Result<Whitelist> {
    if text == ANY_ADDRESS {
        return Ok(Whitelist::Unrestricted);
    }
    let entries = parse_entries([text], &Limits::NONE)
        .map_err(|_| CorruptRow("a stored whitelist can't be read"))?;
    match CidrSet::new(entries, &Limits::NONE) {
        Ok(Some(entries)) => Ok(Whitelist::Only(entries)),
        _ => Err(CorruptRow("a stored whitelist is empty").into()),
    }
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest> {
    let digest = bytes.try_into();
    Ok(digest.map_err(|_| CorruptRow("a stored digest has not 32 bytes"))?)
}

/// The certificates that a credential is bound to; `None` where there is none.
pub(super) fn client_certificates_text(certificates: &[Fingerprint]) -> Option<String> {
    let texts: Vec<String> = certificates.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

pub(super) fn client_certificates(text: &str) -> Result<Vec<Fingerprint>> {
    let certificates = text.split(',').map(str::parse).collect::<std::result::Result<_, _>>();
    Ok(certificates.map_err(|_| CorruptRow("a stored certificate's fingerprint can't be read"))?)
}

/// A credential's role; of an account's admins, with the account.
pub(super) fn role(word: &str, account_id: Option<Uuid>) -> Result<Role> {
    match (word, account_id) {
        ("pep", None) => Ok(Role::Pep),
        ("operator", None) => Ok(Role::Operator),
        ("account_admin", Some(id)) => Ok(Role::AccountAdmin(AccountId(id))),
        _ => Err(CorruptRow("a credential's stored role can't be read").into()),
    }
}

pub(super) fn scope_id(number: i32) -> Result<ScopeId> {
    let id = u16::try_from(number);
    Ok(ScopeId(id.map_err(|_| CorruptRow("a stored scope number is out of range"))?))
}

pub(super) fn scope_name(text: &str) -> Result<ScopeName> {
    let name = text.parse();
    Ok(name.map_err(|_| CorruptRow("a stored scope name can't be read"))?)
}

/// Reads `3:,7:1700000000000000`: scopes with a number of each, where it has one. Sorted by id.
pub(super) fn numbered_scopes(text: Option<&str>) -> Result<Vec<(ScopeId, Option<i64>)>> {
    let read = |item: &str| {
        let (id, number) = item.split_once(':')?;
        let number = match number {
            "" => None,
            number => Some(number.parse().ok()?),
        };
        Some((ScopeId(id.parse().ok()?), number))
    };
    let items = text.into_iter().flat_map(|text| text.split(','));
    let scopes: Option<Vec<_>> = items.map(read).collect();
    let mut scopes = scopes.ok_or(CorruptRow("the stored scopes can't be read"))?;
    scopes.sort_unstable();
    Ok(scopes)
}

/// Reads `3:1700000000000000,7:1700000000000001`: scopes with an instant each. Sorted by id.
pub(super) fn scope_times(text: Option<&str>) -> Result<Vec<(ScopeId, Timestamp)>> {
    let timed = numbered_scopes(text)?.into_iter().map(|(id, time)| Some((id, Timestamp(time?))));
    let timed: Option<Vec<_>> = timed.collect();
    Ok(timed.ok_or(CorruptRow("a stored use has no time"))?)
}

/// Reads `3,7`: scopes, sorted by id.
pub(super) fn scope_ids(text: Option<&str>) -> Result<Vec<ScopeId>> {
    let items = text.into_iter().flat_map(|text| text.split(','));
    let ids: Option<Vec<_>> = items.map(|item| Some(ScopeId(item.parse().ok()?))).collect();
    let mut ids = ids.ok_or(CorruptRow("the stored scopes can't be read"))?;
    ids.sort_unstable();
    Ok(ids)
}

/// How far a notice got that was not withdrawn.
pub(super) fn notice_state(
    state: Option<&str>,
    accepted: Option<i64>,
    failure: Option<String>,
) -> Result<NoticeState> {
    match (state, accepted, failure) {
        (Some("queued"), None, None) => Ok(NoticeState::Queued),
        (Some("accepted"), Some(at), None) => Ok(NoticeState::Accepted(Timestamp(at))),
        (Some("failing"), None, Some(failure)) => Ok(NoticeState::Failing(failure)),
        _ => Err(CorruptRow("a notice can't be read").into()),
    }
}

/// What an action takes; of scopes, these.
pub(super) fn takes(word: &str, scopes: &[ScopeId]) -> Result<ActionEffect> {
    match word {
        "token" => Ok(ActionEffect::Token),
        "writes" => Ok(ActionEffect::Writes),
        "scopes" if !scopes.is_empty() => Ok(ActionEffect::Scopes(scopes.to_vec())),
        _ => Err(CorruptRow("what a pending action takes can't be read").into()),
    }
}

pub(super) fn takes_word(takes: &ActionEffect) -> &'static str {
    match takes {
        ActionEffect::Token => "token",
        ActionEffect::Writes => "writes",
        ActionEffect::Scopes(_) => "scopes",
    }
}

/// As they are stored, the keys in order.
pub(super) fn labels_text(labels: &Labels) -> String {
    serde_json::json!(labels).to_string()
}

pub(super) fn labels(text: &str) -> Result<Labels> {
    serde_json::from_str(text).map_err(|_| CorruptRow("a token's labels can't be read").into())
}
