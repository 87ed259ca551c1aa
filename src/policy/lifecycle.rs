//! What becomes of what is not used: when a notice is due, what it takes, what cancels it, and when
//! it may be carried out. Rules: docs/policy.md, section 4.
//!
//! Must stay true: nothing is due that was used within the window less the notice period; nothing is
//! carried out before the whole notice period after its notices were accepted; an action takes what
//! it named and no more. Every date is computed here from facts (uses, bases, acceptances) and the
//! settings: no fact depends on a setting, so settings may change at any time.

use std::time::Duration;

use super::id::PendingActionId;
use super::scope::{Access, Catalog, Scope, ScopeId};
use super::time::Timestamp;
use super::token::{Grant, PendingActionType, ScopeStatus};

#[cfg(test)]
mod tests;

/// Whether the lifecycle acts, or only says what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It announces, mails and takes.
    Enforce,
    /// It shows what it would do, and stores, mails, warns of and takes nothing.
    Observe,
}

/// How long things may go unused, and how long before the end their owners are notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether it acts.
    pub mode: Mode,
    window: Duration,
    notice: Duration,
}

/// A window that leaves no time to be unused in before the notice, or a notice period of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the window must be longer than the notice period, and that longer than nothing")]
pub struct InvalidSettings;

impl Default for Settings {
    /// Enforced, 45 days, 7 days.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { mode: Mode::Enforce, window: 45 * DAY, notice: 7 * DAY }
    }
}

impl Settings {
    /// Settings that make sense.
    ///
    /// # Errors
    /// Unless `window > notice > 0`, in whole microseconds.
    pub fn new(mode: Mode, window: Duration, notice: Duration) -> Result<Self, InvalidSettings> {
        let whole = |length: Duration| {
            let micros = u64::try_from(length.as_micros()).map_err(|_| InvalidSettings)?;
            Ok(Duration::from_micros(micros))
        };
        let (window, notice) = (whole(window)?, whole(notice)?);
        if notice.is_zero() || window <= notice {
            return Err(InvalidSettings);
        }
        Ok(Self { mode, window, notice })
    }

    /// How long a thing may go unused.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// How long before the end every admin has been notified.
    pub fn notice(&self) -> Duration {
        self.notice
    }

    /// What was last used at this instant or before it is due to be announced at `now`.
    pub fn idle_before(&self, now: Timestamp) -> Timestamp {
        now.minus(self.window - self.notice)
    }
}

/// The settings and an instant: what dates are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// The settings.
    pub settings: Settings,
    /// The store's time.
    pub now: Timestamp,
}

impl Calendar {
    /// The beginning of the window that ends now.
    pub fn window_start(&self) -> Timestamp {
        self.now.minus(self.settings.window)
    }
}

/// What is known of a token's use. Times only ever move forward.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses {
    /// Of the token.
    pub last: Option<Timestamp>,
    /// Of a scope that was a write scope at that time.
    pub last_write: Option<Timestamp>,
    /// Of each scope that was ever used, sorted by id.
    pub scopes: Vec<(ScopeId, Timestamp)>,
}

impl Uses {
    /// The last use of one scope.
    pub fn of(&self, scope: ScopeId) -> Option<Timestamp> {
        let place = self.scopes.binary_search_by_key(&scope, |&(id, _)| id).ok()?;
        Some(self.scopes[place].1)
    }

    /// Takes note of a use; one that is older than what is known changes nothing.
    pub fn note(&mut self, scope: ScopeId, write: bool, time: Timestamp) {
        self.last = self.last.max(Some(time));
        if write {
            self.last_write = self.last_write.max(Some(time));
        }
        match self.scopes.binary_search_by_key(&scope, |&(id, _)| id) {
            Ok(place) => self.scopes[place].1 = self.scopes[place].1.max(time),
            Err(place) => self.scopes.insert(place, (scope, time)),
        }
    }

    /// Takes note of all of these.
    pub fn merge(&mut self, other: &Self) {
        for &(scope, time) in &other.scopes {
            self.note(scope, false, time);
        }
        self.last = self.last.max(other.last);
        self.last_write = self.last_write.max(other.last_write);
    }

    /// The last use of a scope that is a write scope in `catalog` or was one when it was used. A
    /// scope that became a write scope later was used for what is a write now: a user who does so
    /// would lose it, so it counts.
    pub fn last_write_in(&self, catalog: &Catalog) -> Option<Timestamp> {
        let writes = |id| catalog.by_id(id).is_some_and(|scope| scope.access == Access::Write);
        let scopes = self.scopes.iter().filter(|&&(id, _)| writes(id)).map(|&(_, time)| time);
        self.last_write.max(scopes.max())
    }
}

/// What an action takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionEffect {
    /// The token: a deletion.
    Token,
    /// A `READ_WRITE` token's write scopes: it becomes `READ_ONLY`.
    Writes,
    /// These scopes of a `CUSTOM` token, sorted by id; never none.
    Scopes(Vec<ScopeId>),
}

impl ActionEffect {
    /// What it takes, in a word.
    pub fn action(&self) -> PendingActionType {
        match self {
            Self::Token => PendingActionType::Deletion,
            Self::Writes | Self::Scopes(_) => PendingActionType::Downgrade,
        }
    }

    /// What may be taken as the catalogue stands, of an action whose notice named `named`; `None` where
    /// that is not all of what would be taken, or nothing would be (docs/policy.md, rule 4.6). A scope
    /// that was added since, or became a write scope, would go with a `READ_WRITE` token's writes,
    /// unannounced; one that became a read scope stays.
    pub fn as_named(
        &self,
        named: &[ScopeId],
        grant: &Grant,
        catalog: &Catalog,
    ) -> Option<Vec<ScopeId>> {
        let (taken, _) = self.taken_and_kept(grant, catalog);
        let held = match (self, grant) {
            // The whole token goes, whatever it may do.
            (Self::Token, _) => return Some(named.to_vec()),
            (Self::Writes, Grant::ReadWrite) => true,
            (Self::Scopes(_), Grant::Custom { granted, .. }) => {
                taken.iter().all(|&id| granted.contains(id))
            }
            _ => false,
        };
        let announced = taken.iter().all(|id| named.contains(id));
        (held && announced && !taken.is_empty()).then_some(taken)
    }

    /// Whether a use of `scope` cancels the action, or takes that scope off it.
    pub fn is_cancelled_by(&self, scope: &Scope) -> bool {
        match self {
            Self::Token => true,
            Self::Writes => scope.access == Access::Write,
            Self::Scopes(named) => named.contains(&scope.id),
        }
    }

    /// What its notice names: the scopes that a token with `grant` would lose, and those that would
    /// stay, both sorted by id.
    pub fn taken_and_kept(&self, grant: &Grant, catalog: &Catalog) -> (Vec<ScopeId>, Vec<ScopeId>) {
        let held =
            catalog.scopes().iter().filter(|scope| grant.holding(scope) == ScopeStatus::Granted);
        let (taken, kept): (Vec<_>, Vec<_>) = held.partition(|scope| self.is_cancelled_by(scope));
        let ids = |scopes: Vec<&Scope>| {
            let mut ids: Vec<_> = scopes.into_iter().map(|scope| scope.id).collect();
            ids.sort_unstable();
            ids
        };
        match self {
            // What is to be taken is what the plan names, whatever the catalogue says of it.
            Self::Scopes(named) => (named.clone(), ids(kept)),
            Self::Token | Self::Writes => (ids(taken), ids(kept)),
        }
    }
}

/// An announced action as the plan sees it: neither carried out nor cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingPlan {
    /// What it takes.
    pub takes: ActionEffect,
    /// The last use of what it takes when it was announced, or the token's creation. Of several
    /// scopes the newest. A use after it cancels.
    pub basis: Timestamp,
}

/// An announced action as decisions know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveAction {
    /// Its id.
    pub id: PendingActionId,
    /// What it takes.
    pub takes: ActionEffect,
    /// See [`PendingPlan::basis`].
    pub basis: Timestamp,
    /// When the last notice of the current admins was accepted; `None` until all are.
    pub accepted: Option<Timestamp>,
}

impl LiveAction {
    /// The earliest instant at which it takes effect, as far as known now.
    pub fn effective(&self, calendar: &Calendar) -> Timestamp {
        effective(&calendar.settings, self.basis, self.accepted, calendar.now)
    }

    /// The same as the plan sees it.
    pub fn announced(&self) -> PendingPlan {
        PendingPlan { takes: self.takes.clone(), basis: self.basis }
    }
}

/// What is to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What it takes.
    pub takes: ActionEffect,
    /// See [`PendingPlan::basis`].
    pub basis: Timestamp,
}

/// What became of an announced action through recorded use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Superseded {
    /// Nothing: what it takes was not used.
    No,
    /// It takes only these scopes by now: the others were used.
    Shrunk(Vec<ScopeId>),
    /// It takes nothing any more.
    Cancelled,
}

/// What would happen if nobody used the token any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// What would be taken.
    pub takes: ActionEffect,
    /// See [`PendingPlan::basis`].
    pub basis: Timestamp,
    /// When the notice would be due.
    pub notice_at: Timestamp,
    /// When it would be taken, were the notices accepted at once.
    pub effective: Timestamp,
}

/// The facts of one active token that its lifecycle rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageState {
    /// What it may do.
    pub grant: Grant,
    /// From when on what was never used counts: its creation, or that of the first token of those that it replaced.
    pub created: Timestamp,
    /// How it was used.
    pub uses: Uses,
    /// What is announced for it.
    pub announced: Vec<PendingPlan>,
}

impl UsageState {
    /// What is to be announced at `now`: the deletion where it is due, since it says it all; else
    /// the downgrade with everything that is due and not announced. Nothing where the deletion is
    /// announced already. Rule 4.8 of docs/policy.md.
    pub fn due(&self, settings: &Settings, now: Timestamp) -> Option<Planned> {
        let before = settings.idle_before(now);
        let token = self.token_basis()?;
        if token <= before {
            return Some(Planned { takes: ActionEffect::Token, basis: token });
        }
        if let Some(basis) = self.writes_basis().filter(|&basis| basis <= before) {
            return Some(Planned { takes: ActionEffect::Writes, basis });
        }
        let due: Vec<_> =
            self.scope_bases().into_iter().filter(|&(_, basis)| basis <= before).collect();
        let basis = due.iter().map(|&(_, basis)| basis).max()?;
        let takes = ActionEffect::Scopes(due.into_iter().map(|(id, _)| id).collect());
        Some(Planned { takes, basis })
    }

    /// The oldest basis of what is not announced: [`Self::due`] finds something exactly from when
    /// this is at or before [`Settings::idle_before`]. `None` where nothing ever falls due without a
    /// change. Depends on no setting, so it can be stored.
    pub fn idle_since(&self) -> Option<Timestamp> {
        let token = self.token_basis()?;
        let scopes = self.scope_bases().into_iter().map(|(_, basis)| basis);
        scopes.chain(self.writes_basis()).chain([token]).min()
    }

    /// What became of an announced action, given the recorded uses. Rule 4.7 of docs/policy.md.
    pub fn overtaken(&self, action: &PendingPlan) -> Superseded {
        let used = |last: Option<Timestamp>| last.is_some_and(|last| last > action.basis);
        match &action.takes {
            ActionEffect::Token if used(self.uses.last) => Superseded::Cancelled,
            ActionEffect::Writes if used(self.uses.last_write) => Superseded::Cancelled,
            ActionEffect::Token | ActionEffect::Writes => Superseded::No,
            ActionEffect::Scopes(named) => {
                let left: Vec<_> =
                    named.iter().copied().filter(|&id| !used(self.uses.of(id))).collect();
                match left.len() {
                    0 => Superseded::Cancelled,
                    n if n == named.len() => Superseded::No,
                    _ => Superseded::Shrunk(left),
                }
            }
        }
    }

    /// Whether recorded use ends or shrinks anything that is announced.
    pub fn is_overtaken(&self) -> bool {
        self.announced.iter().any(|action| self.overtaken(action) != Superseded::No)
    }

    /// Everything not announced yet that would happen if nobody used the token any more, in the
    /// order of the notices.
    pub fn forecast(&self, settings: &Settings, now: Timestamp) -> Vec<Forecast> {
        let mut then = self.clone();
        let mut forecasts = Vec::new();
        // Each round announces something that was not, so this ends.
        while let Some(idle) = then.idle_since() {
            let notice_at = idle.plus(settings.window - settings.notice).max(now);
            let Some(Planned { takes, basis }) = then.due(settings, notice_at) else { break };
            let effective = effective(settings, basis, Some(notice_at), now);
            then.announced.push(PendingPlan { takes: takes.clone(), basis });
            forecasts.push(Forecast { takes, basis, notice_at, effective });
        }
        forecasts
    }

    /// Since when the token is unused; `None` where its deletion is announced, beside which nothing
    /// else is.
    fn token_basis(&self) -> Option<Timestamp> {
        let announced = self.announced.iter().any(|action| action.takes == ActionEffect::Token);
        (!announced).then(|| self.uses.last.unwrap_or(self.created))
    }

    /// Since when a `READ_WRITE` token writes nothing, unless that is announced.
    fn writes_basis(&self) -> Option<Timestamp> {
        let announced = self.announced.iter().any(|action| action.takes == ActionEffect::Writes);
        (self.grant == Grant::ReadWrite && !announced)
            .then(|| self.uses.last_write.unwrap_or(self.created))
    }

    /// Since when each scope of a `CUSTOM` token is unused, except those that are announced. By id.
    fn scope_bases(&self) -> Vec<(ScopeId, Timestamp)> {
        let Grant::Custom { granted, .. } = &self.grant else { return Vec::new() };
        let announced = |id| {
            let named = |action: &PendingPlan| match &action.takes {
                ActionEffect::Scopes(named) => named.contains(&id),
                ActionEffect::Token | ActionEffect::Writes => false,
            };
            self.announced.iter().any(named)
        };
        granted
            .iter()
            .filter(|&id| !announced(id))
            .map(|id| (id, self.uses.of(id).unwrap_or(self.created)))
            .collect()
    }
}

/// The earliest instant at which an action takes effect, as far as known at `now`: it can't be known
/// before its notices are `accepted`, and is taken as if that were now.
pub fn effective(
    settings: &Settings,
    basis: Timestamp,
    accepted: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    basis.plus(settings.window).max(accepted.unwrap_or(now).plus(settings.notice))
}

/// Whether an action may be carried out at `now`: its notices are accepted, and both the window and
/// the notice period are over. Rules 4.5 and 4.14 of docs/policy.md.
pub fn may_carry_out(
    settings: &Settings,
    basis: Timestamp,
    accepted: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    accepted.is_some() && effective(settings, basis, accepted, now) <= now
}
