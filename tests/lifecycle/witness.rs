//! What must hold of every history, checked without the model: from what was asked and answered, from
//! the mails that the server took over, and from what the store says of tokens afterwards.
//!
//! - Nothing is taken without a notice that every current admin accepted a notice period before.
//! - Only what that notice named is taken.
//! - Nothing is taken whose use was recorded within the window.
//! - Nothing is taken twice, and no action ends twice.
//! - An expiry is only ever brought nearer, and a token that was replaced ends with its overlap.
//! - A successor may do no more than the token that it replaced.
//! - What was last used was used then, or so says its import.
//! - Nothing is allowed in an account that is suspended or closed.
//! - What is due is taken, once the mail works: see `Batch::settle`.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::lifecycle::batch::Did;
use crate::lifecycle::model::{Fate, NOTICE, SCOPES, State, Time, WINDOW, What, writes};
use crate::lifecycle::post::Attempt;
use crate::lifecycle::rules::GRAIN;
use crate::lifecycle::seen::{RecordedUses, Seen};

/// A notice that the mail server accepted: whom it notifies of what, and since when.
#[derive(Clone)]
struct AcceptedNotice {
    to: String,
    names: BTreeSet<usize>,
    deletion: bool,
    at: Time,
}

/// A token, as it was seen.
#[derive(Default)]
pub(crate) struct Witness {
    notices: Vec<AcceptedNotice>,
    /// Of each scope, the last use that must be on record, and one since that a crash may lose.
    used: [Option<Time>; 5],
    fresh: [Option<Time>; 5],
    /// What a use would take off the announced actions: its own, and those of its successors.
    pub(crate) announced: BTreeSet<usize>,
    scopes: Option<BTreeSet<usize>>,
    state: Option<State>,
    /// Who was notified that it was deleted, by which message.
    deleted: BTreeMap<String, Uuid>,
    expires: Option<Time>,
    /// When the overlap ends, of a token that was replaced.
    deadline: Option<Time>,
    /// When it was used, as its import states and as decisions were answered.
    uses: BTreeSet<Time>,
    /// Whether its account is suspended or closed.
    pub(crate) restricted: bool,
}

impl Witness {
    /// It was imported, and last used then.
    pub(crate) fn imported(last_use: Option<Time>) -> Self {
        Self { uses: last_use.into_iter().collect(), ..Self::default() }
    }

    /// It was replaced, and lasts for so long: the successor, which has `scopes` of it where given, goes on as though
    /// it were this one.
    pub(crate) fn replaced(
        &mut self,
        now: Time,
        overlap: Time,
        scopes: Option<BTreeSet<usize>>,
    ) -> Self {
        self.deadline = Some(now + overlap);
        Self {
            notices: self.notices.clone(),
            used: self.used,
            fresh: self.fresh,
            announced: self.announced.clone(),
            scopes: scopes.or_else(|| self.scopes.clone()),
            expires: self.expires,
            uses: self.uses.clone(),
            ..Self::default()
        }
    }

    /// A decision allowed something.
    pub(crate) fn allowed(&self, now: Time) -> Result<(), String> {
        if self.restricted {
            return Err(format!("allowed at {now}, in an account that is suspended or closed"));
        }
        let end = self.deadline.into_iter().chain(self.expires).min();
        match end.filter(|&end| end <= now) {
            Some(end) => Err(format!("allowed at {now}, and it ended at {end}")),
            None => Ok(()),
        }
    }

    /// A use was allowed.
    pub(crate) fn used(&mut self, scope: usize, now: Time) {
        self.uses.insert(now);
        if self.announced.contains(&scope) {
            self.used[scope] = Some(now);
            // What it cancelled needs no other use on record.
            self.announced.clear();
        } else {
            self.fresh[scope] = Some(now);
        }
    }

    /// A message about this token was handed over.
    pub(crate) fn mailed(&mut self, mail: &Attempt, now: Time) -> Result<(), String> {
        if mail.fate != Fate::Accepted {
            return Ok(());
        }
        if mail.subject.contains(" will ") {
            let deletion = mail.subject.contains(" will be deleted ");
            let loses = mail.text.split("What it loses otherwise").nth(1).unwrap_or_default();
            let loses = loses.split("What it keeps").next().unwrap_or_default();
            let named = |scope: &usize| deletion || loses.contains(SCOPES[*scope].0);
            let names = (0..5).filter(named).collect();
            let to = mail.to.clone();
            self.notices.push(AcceptedNotice { to, names, deletion, at: now });
            return Ok(());
        }
        if mail.subject.contains(" was deleted ")
            && self.deleted.insert(mail.to.clone(), mail.id).is_some_and(|other| other != mail.id)
        {
            return Err(format!("deleted twice: {mail:?}"));
        }
        Ok(())
    }

    /// What happened to everybody, in its order.
    pub(crate) fn happened(&mut self, did: &[Did], observe: bool) {
        for did in did {
            match did {
                Did::Flush | Did::Sweep => {
                    for (used, fresh) in self.used.iter_mut().zip(&mut self.fresh) {
                        *used = (*used).max(fresh.take().map(|fresh| fresh - GRAIN));
                    }
                    if observe && matches!(did, Did::Sweep) {
                        self.notices.clear();
                    }
                }
                Did::Crash => self.fresh = [None; 5],
                Did::Deliver { .. } => {}
            }
        }
    }

    /// What the store says now, beside what it said before.
    pub(crate) fn sees(
        &mut self,
        now: Time,
        is: &Seen,
        exists: bool,
        uses: RecordedUses,
        admins: &[String],
    ) -> Result<(), String> {
        let RecordedUses { last, scopes: recorded } = uses;
        if let Some(last) = last.filter(|last| !self.uses.contains(last)) {
            return Err(format!("it was last used at {last}, when nobody used it"));
        }
        if exists {
            let bound = self.expires.into_iter().chain(self.deadline).min();
            if bound.is_some_and(|bound| is.expires.is_none_or(|is| is > bound)) {
                return Err(format!("it ends at {:?}, not by {bound:?}", is.expires));
            }
            self.expires = is.expires;
        }
        let was = self.scopes.replace(is.scopes.clone());
        let before = self.state.replace(is.state);
        self.announced = is.pending.iter().flat_map(|(what, ..)| ended_by(what)).collect();
        match (before, exists) {
            (Some(State::Active), true) | (None, _) => {}
            (Some(State::Active), false) => return Err("it is forgotten".to_owned()),
            (Some(_), false) => return Ok(()),
            (Some(before), true) if before == is.state => return Ok(()),
            (Some(State::Expired(_)), true) if matches!(is.state, State::Deleted(_)) => {
                return Ok(());
            }
            (Some(before), true) => return Err(format!("{before:?} became {:?}", is.state)),
        }
        let was = was.unwrap_or_else(|| is.scopes.clone());
        let deleted = matches!(is.state, State::DeletedUnused(_));
        let lost: BTreeSet<usize> =
            if deleted { (0..5).collect() } else { was.difference(&is.scopes).copied().collect() };
        if !is.scopes.is_subset(&was) {
            return Err(format!("{was:?} became more: {:?}", is.scopes));
        }
        if lost.is_empty() {
            return Ok(());
        }
        for &scope in &lost {
            let last = recorded[scope].max(self.used[scope]);
            if last.is_some_and(|last| last + WINDOW > now) {
                return Err(format!("scope {scope} was taken, and used at {last:?}"));
            }
            for admin in admins {
                let notified = self.notices.iter().any(|notice| {
                    notice.to == *admin
                        && notice.names.contains(&scope)
                        && notice.deletion == deleted
                        && notice.at + NOTICE <= now
                        && self.used[scope].is_none_or(|used| notice.at >= used)
                });
                if !notified {
                    return Err(format!("{admin} was not notified in time that {scope} is taken"));
                }
            }
        }
        Ok(())
    }
}

/// The scopes whose use ends or shrinks it.
fn ended_by(what: &What) -> BTreeSet<usize> {
    match what {
        What::Deletion => (0..5).collect(),
        What::Writes => (0..5).filter(|&scope| writes(scope)).collect(),
        What::Scopes(named) => named.clone(),
    }
}
