//! What a single token has coming, by the rules (docs/policy.md, sections 4, 10 and 11) and nothing else: see
//! `model`.

use std::collections::BTreeSet;

/// Microseconds.
pub(crate) type Time = i64;
pub(crate) const SECOND: Time = 1_000_000;
pub(crate) const DAYS: Time = 86_400 * SECOND;
pub(crate) const WINDOW: Time = 45 * DAYS;
pub(crate) const NOTICE: Time = 7 * DAYS;
pub(crate) const RETENTION: Time = 90 * DAYS;
/// A use so soon after the recorded one need not be written.
pub(crate) const GRAIN: Time = 60 * SECOND;

/// The catalogue: names, and which of them write.
pub(crate) const SCOPES: [(&str, bool); 5] = [
    ("s.alpha", false),
    ("s.beta", false),
    ("s.gamma", true),
    ("s.delta", true),
    ("s.omega", true),
];

pub(crate) fn writes(scope: usize) -> bool {
    SCOPES[scope].1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ReadOnly,
    ReadWrite,
    Custom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    Deleted(Time),
    DeletedUnused(Time),
    Expired(Time),
    Forgotten,
}

impl State {
    /// Why a token in this state is not imported again, as the API names it.
    pub(crate) fn end(self) -> Option<&'static str> {
        match self {
            Self::Active | Self::Forgotten => None,
            Self::Deleted(_) => Some("TOKEN_DELETED"),
            Self::DeletedUnused(_) => Some("TOKEN_DELETED_UNUSED"),
            Self::Expired(_) => Some("TOKEN_EXPIRED"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Deletion,
    Writes,
    Scopes(BTreeSet<usize>),
}

/// What is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) number: usize,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) scopes: BTreeSet<usize>,
    pub(crate) taken: BTreeSet<usize>,
    pub(crate) actions: Vec<Action>,
    /// Of each scope, the last use on record.
    pub(crate) recorded: [Option<Time>; 5],
    /// And those since, which a crash may lose.
    pub(crate) fresh: [Vec<Time>; 5],
    /// Uses of tokens before it that were in memory when it was replaced: recorded for its heir, and for it or not.
    pub(crate) late: [Vec<Time>; 5],
    /// From when on it counts what was never used: its creation, or that of the first token of its chain.
    pub(crate) clock: Time,
    pub(crate) expires: Option<Time>,
    /// Whether a sweep has recorded that it expired.
    pub(crate) ended: bool,
    pub(crate) replaced: bool,
    /// The newest token that replaced it, which has its actions.
    pub(crate) heir: Option<usize>,
    /// Whether its secret was made elsewhere.
    pub(crate) imported: bool,
    /// The last use that its import states, or that of the first token of its chain: of the token, and of no scope.
    pub(crate) stated_use: Option<Time>,
    /// Why it had ended when it was forgotten: of an imported token that is kept for good.
    pub(crate) end: Option<&'static str>,
}

impl Token {
    /// A new token with these scopes, where it is `CUSTOM`.
    pub(crate) fn new(kind: Kind, listed: &BTreeSet<usize>, now: Time) -> Self {
        let scopes = match kind {
            Kind::ReadOnly => (0..5).filter(|&scope| !writes(scope)).collect(),
            Kind::ReadWrite => (0..5).collect(),
            Kind::Custom => listed.clone(),
        };
        Self {
            kind,
            state: State::Active,
            scopes,
            taken: BTreeSet::new(),
            actions: Vec::new(),
            recorded: [None; 5],
            fresh: Default::default(),
            late: Default::default(),
            clock: now,
            expires: None,
            ended: false,
            replaced: false,
            heir: None,
            imported: false,
            stated_use: None,
            end: None,
        }
    }

    pub(crate) fn active(&self) -> bool {
        self.state == State::Active
    }

    /// As it is seen at `now`.
    pub(crate) fn state(&self, now: Time) -> State {
        match self.expires {
            Some(at) if self.active() && at <= now => State::Expired(at),
            _ => self.state,
        }
    }

    /// Whether it can be used.
    pub(crate) fn live(&self, now: Time) -> bool {
        self.state(now) == State::Active
    }

    /// Whether an action that takes this from its heir takes anything from it.
    pub(crate) fn loses_to(&self, what: &What) -> bool {
        match what {
            What::Deletion => true,
            What::Writes => self.kind == Kind::ReadWrite,
            What::Scopes(named) => self.kind == Kind::Custom && !self.scopes.is_disjoint(named),
        }
    }

    /// Takes this from it, as far as it has it.
    pub(crate) fn lose(&mut self, what: &What, now: Time) {
        match what {
            What::Deletion => self.state = State::DeletedUnused(now),
            What::Writes => {
                self.kind = Kind::ReadOnly;
                self.taken = self.scopes.extract_if(.., |scope| writes(*scope)).collect();
            }
            What::Scopes(named) => {
                self.taken.extend(self.scopes.intersection(named));
                self.scopes.retain(|scope| !named.contains(scope));
            }
        }
    }

    fn basis(&self, mut scopes: impl Iterator<Item = usize>) -> Time {
        // Of several scopes, the one used last; what was never used counts from the creation.
        let last = scopes.by_ref().filter_map(|scope| self.recorded[scope]).max();
        last.unwrap_or(self.clock)
    }

    pub(crate) fn basis_of(&self, what: &What) -> Time {
        match what {
            // A use before the import is none of a scope, and earlier than each of those.
            What::Deletion => match self.stated_use {
                Some(stated) if self.recorded.iter().all(Option::is_none) => stated,
                _ => self.basis(0..5),
            },
            What::Writes => self.basis((0..5).filter(|&scope| writes(scope))),
            What::Scopes(named) => self.basis(named.iter().copied()),
        }
    }

    /// What is to be announced at `now`.
    pub(crate) fn due(&self, now: Time) -> Option<What> {
        let idle = |what: &What| self.basis_of(what) + WINDOW - NOTICE <= now;
        if self.actions.iter().any(|action| action.what == What::Deletion) {
            return None;
        }
        if idle(&What::Deletion) {
            return Some(What::Deletion);
        }
        match self.kind {
            Kind::ReadOnly => None,
            Kind::ReadWrite => {
                let announced = self.actions.iter().any(|action| action.what == What::Writes);
                (!announced && idle(&What::Writes)).then_some(What::Writes)
            }
            Kind::Custom => {
                let announced = |scope: &usize| {
                    self.actions.iter().any(
                        |action| matches!(&action.what, What::Scopes(named) if named.contains(scope)),
                    )
                };
                let scopes = self.scopes.iter().copied().filter(|scope| !announced(scope));
                let idle: BTreeSet<_> =
                    scopes.filter(|&scope| idle(&What::Scopes(BTreeSet::from([scope])))).collect();
                (!idle.is_empty()).then_some(What::Scopes(idle))
            }
        }
    }

    /// Why it is denied for `scope`, or not, as decisions name it.
    pub(crate) fn reason(&self, scope: usize, from_here: bool, now: Time) -> &'static str {
        match self.state(now) {
            // A secret that was not made here has no shape.
            State::Forgotten if self.imported => "TokenMalformed",
            State::Forgotten => "TokenNotFound",
            State::Deleted(_) => "TokenDeleted",
            State::DeletedUnused(_) => "TokenDeletedUnused",
            State::Expired(_) => "TokenExpired",
            State::Active if self.taken.contains(&scope) => "ScopeLostInDowngrade",
            State::Active if !self.scopes.contains(&scope) => "ScopeNotGranted",
            State::Active if !from_here => "ClientIpNotWhitelisted",
            State::Active => "Allowed",
        }
    }

    /// Takes over what is on record, where it may be that. `flushed`: everything had to be written.
    pub(crate) fn adopt(
        &mut self,
        real: [Option<Time>; 5],
        last: Option<Time>,
        last_write: Option<Time>,
        flushed: bool,
    ) -> Result<(), String> {
        let memory = self.fresh.iter_mut().zip(&mut self.late);
        for (scope, (&was, (fresh, late))) in self.recorded.iter().zip(memory).enumerate() {
            let is = real[scope];
            let noted = |is: Time| fresh.contains(&is) || late.contains(&is);
            let moved = flushed && is.is_some_and(noted);
            if was != is && !moved {
                return Err(format!("use of scope {scope}: {is:?} on record, not {was:?}"));
            }
            if flushed {
                let newest = fresh.iter().max().copied();
                if newest.is_some_and(|newest| is.is_none_or(|is| newest - is >= GRAIN)) {
                    return Err(format!("use of scope {scope} at {newest:?} lost; {is:?} known"));
                }
                fresh.clear();
                late.clear();
            }
        }
        self.recorded = real;
        let newest = |all: bool| {
            (0..5).filter(|&scope| all || writes(scope)).filter_map(|scope| real[scope]).max()
        };
        if (last, last_write) != (newest(true).or(self.stated_use), newest(false)) {
            let stated = self.stated_use;
            let uses = format!("{real:?}, and {stated:?} before its import");
            return Err(format!("last use {last:?}, last write {last_write:?} of {uses}"));
        }
        Ok(())
    }

    /// What is in memory only is lost.
    pub(crate) fn crash(&mut self) {
        self.fresh.iter_mut().chain(&mut self.late).for_each(Vec::clear);
    }
}
