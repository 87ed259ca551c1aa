//! What would become of unused tokens, computed without doing any of it.
//!
//! Must stay true: nothing is changed, in either mode; what is announced and when it takes effect is
//! `policy`'s word, computed here for each token by itself; memory is bounded by one page of tokens
//! and the actions that are named, however many tokens there are.
//!
//! Rule 4.15 of docs/policy.md.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::validate::FieldErrors;
use super::{Caller, Error, Result, Services};
use crate::clock::Stopwatch;
use crate::model::{ActiveCatalog, IdleToken, Page};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::lifecycle::{ActionEffect, Calendar, LiveAction, Mode, Superseded};
use crate::policy::scope::{Catalog, ScopeId};
use crate::policy::time::Timestamp;
use crate::policy::token::{Expiry, PendingActionType};

/// How many days the calendar has, the one of `now` included.
pub const DAYS: usize = 45;
/// How many actions of a kind are named.
pub const NAMED: usize = 100;
/// Tokens that are read at once.
const PAGE: u32 = 500;
/// How long a preview may read; less than a call may take, so that it never reads for nobody.
const PATIENCE: Duration = Duration::from_secs(25);

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// What becomes of unused tokens.
#[derive(Debug)]
pub struct Preview {
    /// The settings, and when this holds.
    pub calendar: Calendar,
    /// What names scopes.
    pub in_force: Arc<ActiveCatalog>,
    /// How many tokens were looked at.
    pub tokens: u64,
    /// What is announced until the day ends.
    pub announced_today: Today,
    /// What is carried out until the day ends.
    pub carried_out_today: Today,
    /// One for each day, the first being that of `now`.
    pub days: Vec<Day>,
}

/// Numbers of actions by type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens that are deleted.
    pub deletions: u64,
    /// Tokens that lose something.
    pub downgrades: u64,
}

impl Counts {
    fn add(&mut self, action: PendingActionType) {
        match action {
            PendingActionType::Deletion => self.deletions += 1,
            PendingActionType::Downgrade => self.downgrades += 1,
        }
    }
}

/// One day of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// When it begins.
    pub start: Timestamp,
    /// What is announced.
    pub noticed: Counts,
    /// What is carried out.
    pub carried_out: Counts,
}

/// Actions of today: all of them counted, the first named.
#[derive(Debug, Default)]
pub struct Today {
    /// All of them.
    pub counts: Counts,
    first: BTreeMap<(Timestamp, TokenId, Timestamp), Coming>,
}

impl Today {
    fn add(&mut self, at: Timestamp, coming: &Coming) {
        self.counts.add(coming.takes.action());
        let key = (at, coming.token_id, coming.effective);
        let last = self.first.last_key_value();
        if self.first.len() < NAMED || last.is_some_and(|(last, _)| key < *last) {
            self.first.insert(key, coming.clone());
            if self.first.len() > NAMED {
                self.first.pop_last();
            }
        }
    }

    /// The first [`NAMED`] of them, the earliest first.
    pub fn named(self) -> impl Iterator<Item = Coming> {
        self.first.into_values()
    }
}

/// An action to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coming {
    /// The token it concerns.
    pub token_id: TokenId,
    /// That token's label.
    pub token_name: String,
    /// Its owner.
    pub account_id: AccountId,
    /// What it takes.
    pub takes: ActionEffect,
    /// The scopes it takes, by id.
    pub taken: Vec<ScopeId>,
    /// Since when that is unused: its last use, or the token's creation.
    pub basis: Timestamp,
    /// Whether it ever was used.
    pub used: bool,
    /// When it is announced; `None` for what is.
    pub notice: Option<Timestamp>,
    /// When it takes effect.
    pub effective: Timestamp,
    /// What it is announced as.
    pub announced: Option<PendingActionId>,
    /// Whether it comes to that: not where the token's deletion goes first.
    carried_out: bool,
}

impl Services {
    /// What becomes of the unused tokens of an account, or of all that the caller sees. Reads each
    /// of them once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no account's id; [`Error::Unavailable`] where there are more
    /// tokens than can be read in one call; the store's.
    pub async fn preview_lifecycle(&self, caller: &Caller, account_id: &str) -> Result<Preview> {
        let ids = self.filter_ids(caller, FieldErrors::default(), account_id, "")?;
        let mut preview = Preview::new(self.in_force()?, self.calendar());
        let Some((only, _)) = ids else { return Ok(preview) };
        let watch = Stopwatch::start();
        let mut after = None;
        loop {
            let page = self.store.active_tokens(only, Page { after, limit: PAGE });
            let page = self.read("active_tokens", page).await?;
            let full = page.len() == PAGE as usize;
            after = page.last().map(|token| token.id);
            page.into_iter().for_each(|token| preview.add(token));
            if !full {
                return Ok(preview);
            }
            if watch.elapsed() > PATIENCE {
                return Err(Error::Unavailable {
                    why: "there are more tokens than one call has the time to read: ask for one \
                          account at a time",
                    retry: Duration::from_secs(60),
                });
            }
        }
    }
}

impl Preview {
    fn new(in_force: Arc<ActiveCatalog>, calendar: Calendar) -> Self {
        let first = calendar.now.0.div_euclid(DAY) * DAY;
        let day = |start| Day {
            start: Timestamp(start),
            noticed: Counts::default(),
            carried_out: Counts::default(),
        };
        Self {
            calendar,
            in_force,
            tokens: 0,
            announced_today: Today::default(),
            carried_out_today: Today::default(),
            days: (0..).map(|n| day(first + n * DAY)).take(DAYS).collect(),
        }
    }

    fn add(&mut self, token: IdleToken) {
        // Rule 11.5 of docs/policy.md.
        if Expiry::from(token.expires).is_reached(self.calendar.now) {
            return;
        }
        self.tokens += 1;
        for coming in coming(token, &self.in_force.catalog, &self.calendar) {
            let action = coming.takes.action();
            if let Some(at) = coming.notice {
                if let Some(day) = self.day(at) {
                    self.days[day].noticed.add(action);
                }
                if self.day(at) == Some(0) {
                    self.announced_today.add(at, &coming);
                }
            }
            if coming.carried_out {
                let at = coming.effective;
                if let Some(day) = self.day(at) {
                    self.days[day].carried_out.add(action);
                }
                if self.day(at) == Some(0) {
                    self.carried_out_today.add(at, &coming);
                }
            }
        }
    }

    /// The day of the calendar that `at` is on; what is late is done today.
    fn day(&self, at: Timestamp) -> Option<usize> {
        let first = self.days.first()?.start;
        let day = usize::try_from((at.0 - first.0).max(0) / DAY).ok()?;
        (day < self.days.len()).then_some(day)
    }
}

/// Everything that happens to a token that nobody uses any more.
fn coming(token: IdleToken, catalog: &Catalog, calendar: &Calendar) -> Vec<Coming> {
    let IdleToken { id, account_id, name, mut usage_state, live, expires, .. } = token;
    // As the store counts writes when it announces.
    usage_state.uses.last_write = usage_state.uses.last_write_in(catalog);
    let mut standing: Vec<LiveAction> = Vec::new();
    // What is still announced where nothing is taken is about to be withdrawn.
    for mut action in live.into_iter().filter(|_| calendar.settings.mode == Mode::Enforce) {
        match usage_state.overtaken(&action.announced()) {
            Superseded::Cancelled => continue,
            Superseded::Shrunk(left) => action.takes = ActionEffect::Scopes(left),
            Superseded::No => {}
        }
        standing.push(action);
    }
    usage_state.announced = standing.iter().map(LiveAction::announced).collect();
    let forecast = usage_state.forecast(&calendar.settings, calendar.now);

    let new = |takes: ActionEffect, basis, notice, effective, announced| {
        let used = match &takes {
            ActionEffect::Token => usage_state.uses.last,
            ActionEffect::Writes => usage_state.uses.last_write,
            ActionEffect::Scopes(named) => {
                named.iter().filter_map(|&id| usage_state.uses.of(id)).max()
            }
        };
        Coming {
            token_id: id,
            token_name: name.clone(),
            account_id,
            taken: takes.taken_and_kept(&usage_state.grant, catalog).0,
            takes,
            basis,
            used: used.is_some(),
            notice,
            effective,
            announced,
            carried_out: true,
        }
    };
    let live = standing.iter().map(|action| {
        let effective = action.effective(calendar).max(calendar.now);
        new(action.takes.clone(), action.basis, None, effective, Some(action.id))
    });
    let planned = forecast.into_iter().map(|planned| {
        new(planned.takes, planned.basis, Some(planned.notice_at), planned.effective, None)
    });
    let mut coming: Vec<Coming> = live.chain(planned).collect();
    // Nothing is announced for an expired token, and nothing of it carried out.
    coming.retain(|coming| {
        let begins = coming.notice.unwrap_or(calendar.now);
        expires.is_none_or(|expiry| begins < expiry)
    });
    for coming in &mut coming {
        coming.carried_out = expires.is_none_or(|expiry| coming.effective < expiry);
    }
    // Where the catalogue has nothing to write with, no downgrade is announced or carried out.
    coming.retain(|coming| coming.takes != ActionEffect::Writes || !coming.taken.is_empty());
    // The deletion says it all: it ends every downgrade that is not due before it.
    let deletion = coming.iter().filter(|coming| coming.takes == ActionEffect::Token);
    if let Some(deletion) = deletion.map(|coming| coming.effective).min() {
        for coming in coming.iter_mut().filter(|coming| coming.takes != ActionEffect::Token) {
            coming.carried_out &= coming.effective < deletion;
        }
    }
    coming
}

#[cfg(test)]
mod tests;
