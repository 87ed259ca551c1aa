//! A token as its owner sees it, in the model's words.

use std::collections::{BTreeMap, BTreeSet};

use portcullis::model::{NoticeState, Token};
use portcullis::policy::lifecycle::ActionEffect;
use portcullis::policy::scope::ScopeId;
use portcullis::policy::token::{TokenKind, TokenState};

use crate::lifecycle::model::{Kind, SCOPES, State, Time, What};

/// What is announced, since when all admins are told, and since when each is.
pub(crate) type Pending = (What, Option<Time>, BTreeMap<String, Option<Time>>);

/// A token as its owner sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) kind: Option<Kind>,
    pub(crate) scopes: BTreeSet<usize>,
    pub(crate) taken: BTreeSet<usize>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) expires: Option<Time>,
}

impl Default for Seen {
    fn default() -> Self {
        let (scopes, taken) = (BTreeSet::new(), BTreeSet::new());
        Self { state: State::Active, kind: None, scopes, taken, pending: Vec::new(), expires: None }
    }
}

/// The last use on record, of the token and of each scope.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RecordedUses {
    pub(crate) last: Option<Time>,
    pub(crate) scopes: [Option<Time>; 5],
}

pub(crate) fn recorded(real: &Token, ids: &[ScopeId]) -> RecordedUses {
    let scopes = std::array::from_fn(|scope| real.uses.of(ids[scope]).map(|at| at.0));
    RecordedUses { last: real.uses.last.map(|at| at.0), scopes }
}

pub(crate) fn seen(real: Option<&Token>, ids: &[ScopeId], now: Time) -> Seen {
    let Some(real) = real else {
        return Seen { state: State::Forgotten, ..Seen::default() };
    };
    let places = |of: &[ScopeId]| -> BTreeSet<usize> {
        (0..ids.len()).filter(|&at| of.contains(&ids[at])).collect()
    };
    let writes = (0..5).filter(|&scope| SCOPES[scope].1);
    let (kind, scopes) = match real.kind {
        TokenKind::ReadOnly => (Kind::ReadOnly, (0..5).filter(|&scope| !SCOPES[scope].1).collect()),
        TokenKind::ReadWrite => (Kind::ReadWrite, (0..5).collect()),
        TokenKind::Custom => (Kind::Custom, places(&real.scopes)),
    };
    let mut pending: Vec<Pending> = real
        .pending
        .iter()
        .map(|action| {
            let what = match &action.takes {
                ActionEffect::Token => What::Deletion,
                ActionEffect::Writes => What::Writes,
                ActionEffect::Scopes(_) => What::Scopes(places(&action.taken)),
            };
            let all: BTreeSet<_> = places(&action.taken);
            assert!(what != What::Writes || all == writes.clone().collect());
            // A downgrade may have come first; and what was announced for a successor, which may do less, is the
            // token's once the successor has ended. Rule 11.37.
            let named = real.replaced_by.is_some() || all.is_superset(&scopes);
            assert!(what != What::Deletion || named);
            let notices = action.notices.iter().map(|notice| {
                let accepted = match notice.state {
                    NoticeState::Accepted(at) => Some(at.0),
                    NoticeState::Queued | NoticeState::Failing(_) => None,
                };
                (notice.email.clone(), accepted)
            });
            (what, action.accepted.map(|at| at.0), notices.collect())
        })
        .collect();
    pending.sort();
    let taken: Vec<_> = real.taken.iter().map(|&(id, _)| id).collect();
    Seen {
        state: match real.state {
            TokenState::Active => match real.expires {
                Some(at) if at.0 <= now => State::Expired(at.0),
                _ => State::Active,
            },
            TokenState::Deleted { at } => State::Deleted(at.0),
            TokenState::DeletedUnused { at } => State::DeletedUnused(at.0),
            TokenState::RevokedLeaked { .. } => panic!("nobody reports a leak here"),
        },
        kind: Some(kind),
        scopes,
        taken: places(&taken),
        pending,
        expires: real.expires.map(|at| at.0),
    }
}
