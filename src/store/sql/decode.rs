//! Reads and writes what columns hold as text. What can't be read is an error, never a default.

use crate::policy::network::{Entries, Limits, Whitelist, parse_entries};
use crate::policy::scope::{ScopeId, ScopeName};
use crate::secret::Digest;
use crate::store::Result;
use crate::store::error::Unreadable;

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
        .map_err(|_| Unreadable("a stored whitelist can't be read"))?;
    match Entries::new(entries, &Limits::NONE) {
        Ok(Some(entries)) => Ok(Whitelist::Only(entries)),
        _ => Err(Unreadable("a stored whitelist is empty").into()),
    }
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest> {
    let digest = bytes.try_into();
    Ok(digest.map_err(|_| Unreadable("a stored digest has not 32 bytes"))?)
}

pub(super) fn scope_id(number: i32) -> Result<ScopeId> {
    let id = u16::try_from(number);
    Ok(ScopeId(id.map_err(|_| Unreadable("a stored scope number is out of range"))?))
}

pub(super) fn scope_name(text: &str) -> Result<ScopeName> {
    let name = text.parse();
    Ok(name.map_err(|_| Unreadable("a stored scope name can't be read"))?)
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
    let mut scopes = scopes.ok_or(Unreadable("the stored scopes can't be read"))?;
    scopes.sort_unstable();
    Ok(scopes)
}
