//! Lists of entries, and the whitelist that a token has.

use std::fmt;

use super::address::ClientAddr;
use super::cidr::{Cidr, Limits};
use super::error::CidrError;

/// Errors that [`parse_entries`] reports; a list with more of them is refused just the same.
pub const MAX_ERRORS: usize = 100;

/// One thing wrong in a list of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListError {
    /// Which of the strings, counted from 0.
    pub index: usize,
    /// What is wrong with one entry in it.
    pub error: CidrError,
}

/// Reads strings of which each is an entry or a comma-separated list of entries. Sorted, without
/// duplicates; no strings give no entries. The number of entries is [`apply`](super::apply)'s to judge.
/// Rule 3.4 of docs/policy.md.
///
/// # Errors
/// Every error (the first [`MAX_ERRORS`]), in order.
pub fn parse_entries<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    limits: &Limits,
) -> Result<Vec<Cidr>, Vec<ListError>> {
    let mut entries = Vec::new();
    let mut errors = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        for item in text.split(',') {
            match Cidr::parse(item, limits) {
                Ok(entry) => entries.push(entry),
                Err(error) => errors.push(ListError { index, error }),
            }
            if errors.len() == MAX_ERRORS {
                return Err(errors);
            }
        }
    }
    // Rule 3.11 of docs/policy.md.
    if errors.is_empty() { Ok(set(entries)) } else { Err(errors) }
}

/// Sorted, without duplicates.
pub(super) fn set(mut entries: Vec<Cidr>) -> Vec<Cidr> {
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// Where a token may be used from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whitelist {
    /// From anywhere. Said explicitly, never by an empty list.
    Unrestricted,
    /// From these addresses only.
    Only(CidrSet),
}

impl Whitelist {
    /// Whether a token with this whitelist may be used from `address`.
    pub fn allows(&self, address: ClientAddr) -> bool {
        match self {
            Self::Unrestricted => true,
            Self::Only(entries) => entries.find(address).is_some(),
        }
    }

    /// The most specific entry that contains `address`. An unrestricted whitelist has no entries,
    /// so that `None` alone is no denial: see [`Self::allows`].
    pub fn find(&self, address: ClientAddr) -> Option<&Cidr> {
        match self {
            Self::Unrestricted => None,
            Self::Only(entries) => entries.find(address),
        }
    }

    /// The entries, sorted; `[]` if unrestricted.
    pub fn entries(&self) -> &[Cidr] {
        match self {
            Self::Unrestricted => &[],
            Self::Only(entries) => entries.as_slice(),
        }
    }
}

/// A non-empty set of entries.
#[derive(Clone, PartialEq, Eq)]
pub struct CidrSet(Repr);

/// Sorted, without duplicates.
#[derive(Clone, PartialEq, Eq)]
enum Repr {
    /// Most whitelists are short. Kept in place, they cost a decision no look elsewhere in memory.
    /// What is not used is a copy of the first.
    Few { count: u8, entries: [Cidr; FEW] },
    Many {
        entries: Box<[Cidr]>,
        /// For each entry the index of the narrowest other one that covers it; out of range for none.
        parents: Box<[u32]>,
    },
}

const FEW: usize = 4;

/// A whitelist with more entries than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the whitelist would have {count} entries, and {max} are allowed (the server's setting \
     --whitelist-max-entries): join addresses into ranges, or remove some"
)]
pub struct TooMany {
    /// How many it would have.
    pub count: usize,
    /// How many are allowed.
    pub max: usize,
}

impl CidrSet {
    /// A set of entries; `None` if there are none. Duplicates count once.
    ///
    /// # Errors
    /// If they are more than `limits` allows.
    pub fn new(entries: Vec<Cidr>, limits: &Limits) -> Result<Option<Self>, TooMany> {
        let entries = set(entries);
        let (count, max) = (entries.len(), limits.max_entries);
        if count > max {
            return Err(TooMany { count, max });
        }
        let Some(&first) = entries.first() else { return Ok(None) };
        Ok(Some(Self(if count <= FEW {
            let mut few = [first; FEW];
            few[..count].copy_from_slice(&entries);
            Repr::Few { count: count as u8, entries: few }
        } else {
            Repr::Many { parents: parents(&entries), entries: entries.into() }
        })))
    }

    fn as_slice(&self) -> &[Cidr] {
        match &self.0 {
            Repr::Few { count, entries } => &entries[..usize::from(*count)],
            Repr::Many { entries, .. } => entries,
        }
    }

    /// The entries, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Cidr> {
        self.as_slice().iter()
    }

    /// How many there are; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// The most specific entry that contains `address`. Allocates nothing.
    pub fn find(&self, address: ClientAddr) -> Option<&Cidr> {
        // Ranges nest or are disjoint, so among those that contain an address the last one in order is
        // the narrowest.
        let (entries, parents) = match &self.0 {
            Repr::Few { .. } => {
                return self.as_slice().iter().rev().find(|entry| entry.contains(address));
            }
            Repr::Many { entries, parents } => (entries, parents),
        };
        // It begins at or before the address: it is the last entry that does so, or one that covers
        // that entry.
        let after = entries.partition_point(|entry| entry.start() <= address.0);
        let mut at = after.checked_sub(1)?;
        loop {
            let entry = entries.get(at)?;
            if entry.contains(address) {
                return Some(entry);
            }
            at = *parents.get(at)? as usize;
        }
    }
}

impl fmt::Debug for CidrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The entries, sorted, each once, with the narrowest other one that covers it.
pub fn nested(entries: Vec<Cidr>) -> Vec<(Cidr, Option<Cidr>)> {
    let sorted = set(entries);
    let parents = parents(&sorted);
    let outer = |&parent: &u32| sorted.get(parent as usize).copied();
    sorted.iter().copied().zip(parents.iter().map(outer)).collect()
}

/// For each the index of the narrowest other one that covers it; out of range for none.
fn parents(sorted: &[Cidr]) -> Box<[u32]> {
    let mut open: Vec<usize> = Vec::new();
    let mut parents = Vec::with_capacity(sorted.len());
    for (at, entry) in sorted.iter().enumerate() {
        while open.pop_if(|&mut outer| !sorted[outer].covers(entry)).is_some() {}
        // 2^32 entries would need 96 GiB.
        parents.push(open.last().map_or(u32::MAX, |&outer| outer as u32));
        open.push(at);
    }
    parents.into()
}
