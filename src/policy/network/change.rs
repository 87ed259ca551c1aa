//! Changes to a whitelist, and what each comes to.

use std::fmt;

use super::cidr::{Cidr, Limits};
use super::whitelist::{CidrSet, TooMany, Whitelist, set};

/// A change to a token's whitelist. Order and duplicates in the lists mean nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Takes entries out and puts entries in.
    Edit {
        /// To put in; those already there change nothing.
        add: Vec<Cidr>,
        /// To take out; each must be there.
        remove: Vec<Cidr>,
    },
    /// Puts a whole new list in place of the current one.
    Replace {
        /// The new list.
        entries: Vec<Cidr>,
        /// Says deliberately that the empty list lifts the restriction.
        allow_any_address: bool,
    },
}

/// What a change comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The whitelist after the change.
    pub whitelist: Whitelist,
    /// Entries of it that overlap one that was removed, sorted: some of what the caller took out
    /// may still pass.
    pub still_covered_by: Vec<Cidr>,
    /// Whether the whitelist differs from the one before.
    pub changed: bool,
}

/// Why a change is refused. Displays as a sentence with the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Entries to be removed that are not there, sorted.
    #[error("the whitelist has no entry {}: remove entries exactly as they are listed", Listed(.0))]
    NotPresent(Vec<Cidr>),
    /// Entries that are to be added and removed at once, sorted.
    #[error("{} would be both added and removed: name an entry in one of the lists only", Listed(.0))]
    SameEntryAddedAndRemoved(Vec<Cidr>),
    /// An edit may not lift the restriction.
    #[error(
        "this would remove the last entry and let the token be used from any address: if that is \
         meant, replace the whitelist with no entries and set allow_any_address"
    )]
    WouldRemoveLast,
    /// The grant needs a whitelist; nothing gets around that.
    #[error("a token that may do this must have a whitelist: leave or name at least one entry")]
    Required,
    /// An empty replacement that does not say what it means.
    #[error(
        "a replacement without entries would let the token be used from any address: name the \
         entries, or set allow_any_address if that is meant"
    )]
    EmptyReplace,
    /// A replacement that says two things.
    #[error("allow_any_address goes with no entries: leave out one or the other")]
    ReplaceNotEmptyWithAllowAny,
    /// More entries than allowed, and the change adds some.
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

impl ChangeError {
    /// What is wrong, as a stable word in `UPPER_SNAKE`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotPresent(_) => "NOT_PRESENT",
            Self::SameEntryAddedAndRemoved(_) => "ADDED_AND_REMOVED",
            Self::WouldRemoveLast => "WOULD_REMOVE_LAST",
            Self::Required => "WHITELIST_REQUIRED",
            Self::EmptyReplace => "EMPTY_REPLACE",
            Self::ReplaceNotEmptyWithAllowAny => "ENTRIES_WITH_ALLOW_ANY_ADDRESS",
            Self::TooMany(_) => "TOO_MANY_ENTRIES",
        }
    }
}

/// The first few entries, and how many more there are.
struct Listed<'a>(&'a [Cidr]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        for (at, entry) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{entry}", if at == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Those of `entries` that overlap one of `others`; both are sorted, and so is what this gives.
pub(super) fn overlapping(entries: &[Cidr], others: &[Cidr]) -> Vec<Cidr> {
    // Ranges nest or are disjoint. So of the others up to an entry in order, one that overlaps it covers
    // it, and of those after it, the first lies in it if any does.
    let mut after = others.iter().peekable();
    let mut reach = None;
    let overlaps = |entry: &&Cidr| {
        while let Some(other) = after.next_if(|other| *other <= *entry) {
            reach = reach.max(Some(other.end()));
        }
        reach >= Some(entry.start()) || after.peek().is_some_and(|other| entry.covers(other))
    };
    entries.iter().filter(overlaps).copied().collect()
}

/// Applies `change` to `current`: an edit gives (current - remove) + add. `required` says that the
/// token's grant needs a whitelist.
///
/// # Errors
/// The change is refused whole. A change that only removes is never too many entries, so that a
/// lowered limit does not keep anyone from narrowing a whitelist.
pub fn apply(
    current: &Whitelist,
    change: &Change,
    required: bool,
    limits: &Limits,
) -> Result<Changed, ChangeError> {
    let old = current.entries();
    let has = |set: &[Cidr], entry: &Cidr| set.binary_search(entry).is_ok();
    let next = match change {
        Change::Edit { add, remove } => {
            let (add, remove) = (set(add.clone()), set(remove.clone()));
            let keep = |keep: &dyn Fn(&Cidr) -> bool, of: &[Cidr]| -> Vec<Cidr> {
                of.iter().copied().filter(keep).collect()
            };
            // Rule 3.7 of docs/policy.md.
            let both = keep(&|entry| has(&add, entry), &remove);
            if !both.is_empty() {
                return Err(ChangeError::SameEntryAddedAndRemoved(both));
            }
            let absent = keep(&|entry| !has(old, entry), &remove);
            if !absent.is_empty() {
                return Err(ChangeError::NotPresent(absent));
            }
            let mut next = keep(&|entry| !has(&remove, entry), old);
            next.extend(add);
            if next.is_empty() && required {
                return Err(ChangeError::Required);
            } else if next.is_empty() && !old.is_empty() {
                return Err(ChangeError::WouldRemoveLast);
            }
            set(next)
        }
        Change::Replace { entries, allow_any_address } => {
            // Rule 3.3 of docs/policy.md.
            match (entries.is_empty(), allow_any_address) {
                (true, _) if required => return Err(ChangeError::Required),
                (true, false) => return Err(ChangeError::EmptyReplace),
                (false, true) => return Err(ChangeError::ReplaceNotEmptyWithAllowAny),
                (true, true) | (false, false) => set(entries.clone()),
            }
        }
    };

    let grows = next.iter().any(|entry| !has(old, entry));
    let removed: Vec<Cidr> = old.iter().filter(|entry| !has(&next, entry)).copied().collect();
    // Rule 3.8 of docs/policy.md.
    let still_covered_by = overlapping(&next, &removed);
    let entries = CidrSet::new(next, if grows { limits } else { &Limits::NONE })?;
    let whitelist = entries.map_or(Whitelist::Unrestricted, Whitelist::Only);
    let changed = whitelist != *current;
    Ok(Changed { whitelist, still_covered_by, changed })
}
