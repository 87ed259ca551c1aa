//! What people read about tokens: the names of scopes, and the sentences about pending actions: why, how
//! to keep what would be taken, and what holds them back. Each sentence is whole by itself, with its
//! dates, so that any client can show it as it is.

use super::LifecycleView;
use crate::model::{ActiveCatalog, NoticeState, PendingAction, Token};
use crate::policy::duration;
use crate::policy::lifecycle::{ActionEffect, Settings};
use crate::policy::scope::{Scope, ScopeId};
use crate::policy::time::Timestamp;
use crate::policy::token::ScopeStatus;

/// The names of these scopes, sorted.
pub fn names(in_force: &ActiveCatalog, ids: impl IntoIterator<Item = ScopeId>) -> Vec<String> {
    let mut names: Vec<String> =
        ids.into_iter().filter_map(|id| in_force.name_of(id)).map(ToString::to_string).collect();
    names.sort_unstable();
    names
}

/// What `token` may do at `now`, in the catalogue's order; nothing where it is deleted or expired.
pub fn granted<'a>(
    token: &Token,
    in_force: &'a ActiveCatalog,
    now: Timestamp,
) -> impl Iterator<Item = &'a Scope> {
    let grant = token.is_live(now).then(|| token.grant());
    let scopes = in_force.catalog.scopes().iter();
    scopes.filter(move |scope| {
        grant.as_ref().is_some_and(|grant| grant.holding(scope) == ScopeStatus::Granted)
    })
}

/// A pending action as it is explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingActionView {
    /// The names of the scopes that it takes, sorted. What became a read scope since the notice stays,
    /// and its use keeps nothing.
    pub taken: Vec<String>,
    /// The names of those that stay, sorted.
    pub kept: Vec<String>,
    /// Why.
    pub why: String,
    /// What keeps them.
    pub how_to_keep: String,
    /// What it waits for beside its date; `None` once all of its notices are accepted.
    pub held_because: Option<String>,
    /// The earliest instant at which it takes effect, as far as known now.
    pub effective: Timestamp,
}

/// Explains `action`.
pub fn describe(
    action: &PendingAction,
    in_force: &ActiveCatalog,
    outlook: &LifecycleView,
) -> PendingActionView {
    let still = |&id: &ScopeId| {
        in_force.catalog.by_id(id).is_some_and(|scope| action.takes.is_cancelled_by(scope))
    };
    let (taken, spared): (Vec<_>, Vec<_>) = action.taken.iter().copied().partition(still);
    let taken = names(in_force, taken);
    let explained = Explained {
        takes: &action.takes,
        basis: action.basis,
        used: action.last_use_of_taken.is_some(),
        taken: &taken,
        settings: &outlook.calendar.settings,
    };
    let effective = action.live().effective(&outlook.calendar);
    PendingActionView {
        why: explained.why(),
        how_to_keep: explained.how_to_keep(effective),
        held_because: held_because(action, outlook),
        kept: names(in_force, action.kept.iter().copied().chain(spared)),
        effective,
        taken,
    }
}

/// What the sentences of one action are made of.
#[derive(Debug, Clone, Copy)]
pub struct Explained<'a> {
    /// What it takes.
    pub takes: &'a ActionEffect,
    /// Since when that is unused.
    pub basis: Timestamp,
    /// Whether that is a use; if not, it is the token's creation.
    pub used: bool,
    /// The names of the scopes it takes.
    pub taken: &'a [String],
    /// How long things may go unused.
    pub settings: &'a Settings,
}

impl Explained<'_> {
    /// Why, and after how long.
    pub fn why(&self) -> String {
        let basis = self.basis;
        let window = duration::in_words(self.settings.window());
        match (self.takes, self.used) {
            (ActionEffect::Token, true) => format!(
                "The token was last used at {basis}; one that is not used for {window} is deleted."
            ),
            (ActionEffect::Token, false) => format!(
                "The token was never used since it was created at {basis}; one that is not used \
                 for {window} is deleted."
            ),
            (ActionEffect::Writes, true) => format!(
                "The token was last used to write at {basis}; a READ_WRITE token that writes \
                 nothing for {window} becomes READ_ONLY."
            ),
            (ActionEffect::Writes, false) => format!(
                "The token has written nothing since it was created at {basis}; a READ_WRITE \
                 token that writes nothing for {window} becomes READ_ONLY."
            ),
            (ActionEffect::Scopes(_), true) => format!(
                "The token has used none of {} since {basis}; a CUSTOM token loses what it does \
                 not use for {window}.",
                self.taken()
            ),
            (ActionEffect::Scopes(_), false) => format!(
                "The token has used none of {} since it was created at {basis}; a CUSTOM token \
                 loses what it does not use for {window}.",
                self.taken()
            ),
        }
    }

    /// What keeps it, and until when that surely works.
    fn how_to_keep(&self, effective: Timestamp) -> String {
        const COUNTS: &str = "A denied request and a dry run are no use.";
        match self.takes {
            ActionEffect::Token => format!(
                "Use the token once, for anything that it may do, before {effective}: that cancels \
                 the deletion. {COUNTS}"
            ),
            ActionEffect::Writes => format!(
                "Use the token once to write, for any of {}, before {effective}: that cancels the \
                 whole downgrade. Reading does not. {COUNTS}",
                self.taken()
            ),
            ActionEffect::Scopes(_) => format!(
                "Use each scope that is to stay once before {effective}: it comes off the list, \
                 and the others still go. {COUNTS}"
            ),
        }
    }

    /// The names, the first few of many.
    fn taken(&self) -> String {
        const SHOWN: usize = 5;
        let shown = self.taken.len().min(SHOWN);
        let more = self.taken.len() - shown;
        let names = self.taken[..shown].join(", ");
        if more == 0 { names } else { format!("{names} and {more} more") }
    }
}

/// What an action waits for beside its dates; `None` once all of its notices are accepted.
fn held_because(action: &PendingAction, outlook: &LifecycleView) -> Option<String> {
    if action.accepted.is_some() {
        return None;
    }
    let notice = duration::in_words(outlook.calendar.settings.notice());
    if !outlook.mails {
        return Some(
            "No mail server is configured, so no admin can be notified, and nothing is removed."
                .into(),
        );
    }
    let failing = action.notices.iter().filter_map(|notice| match &notice.state {
        NoticeState::Failing(why) => Some(format!("{} ({why})", notice.email)),
        NoticeState::Queued | NoticeState::Accepted(_) => None,
    });
    let failing: Vec<_> = failing.collect();
    if !failing.is_empty() {
        return Some(format!(
            "The mail server does not take the mail to {}. Set other admins, or have the address \
             fixed: the action takes effect {notice} after the last admin's notice is accepted.",
            failing.join(", ")
        ));
    }
    let waiting = action.notices.iter().filter(|notice| notice.state == NoticeState::Queued);
    Some(format!(
        "{} of {} notices not accepted by the mail server yet: the action takes effect {notice} \
         after the last one is.",
        waiting.count(),
        action.notices.len()
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::model::Notice;
    use crate::policy::id::{AccountId, PendingActionId, TokenId};
    use crate::policy::lifecycle::{Calendar, Mode};
    use crate::policy::scope::ScopeId;

    const DAY: i64 = 24 * 60 * 60 * 1_000_000;

    fn sentences(takes: ActionEffect, used: bool, taken: &[&str]) -> String {
        let taken: Vec<_> = taken.iter().map(|&name| name.to_owned()).collect();
        let settings = Settings::default();
        let basis = Timestamp(20_000 * DAY);
        let explained =
            Explained { takes: &takes, basis, used, taken: &taken, settings: &settings };
        format!("{}\n{}", explained.why(), explained.how_to_keep(Timestamp(20_045 * DAY)))
    }

    #[test]
    fn each_type_says_exactly_why_and_what_keeps_it() {
        let several = ["a.write", "b.write", "c.write", "d.write", "e.write", "f.write", "g.write"];
        let scopes = || ActionEffect::Scopes(vec![ScopeId(1)]);
        let all = [
            sentences(ActionEffect::Token, true, &["a.read"]),
            sentences(ActionEffect::Token, false, &["a.read"]),
            sentences(ActionEffect::Writes, true, &several),
            sentences(ActionEffect::Writes, false, &several[..2]),
            sentences(scopes(), true, &several[..2]),
            sentences(scopes(), false, &several[..1]),
        ];
        insta::assert_snapshot!(all.join("\n\n"));
    }

    #[test]
    fn what_holds_it_back_is_told() {
        let notice = |email: &str, state| Notice { email: email.to_owned(), state };
        let mut action = PendingAction {
            id: PendingActionId(Uuid::nil()),
            token_id: TokenId(Uuid::nil()),
            token_name: String::new(),
            account_id: AccountId(Uuid::nil()),
            takes: ActionEffect::Token,
            taken: Vec::new(),
            kept: Vec::new(),
            last_use: None,
            last_use_of_taken: None,
            basis: Timestamp(0),
            accepted: None,
            created: Timestamp(0),
            notices: vec![
                notice("ann@acme.test", NoticeState::Accepted(Timestamp(0))),
                notice("bo@acme.test", NoticeState::Queued),
            ],
        };
        let settings =
            Settings::new(Mode::Enforce, Duration::from_secs(60), Duration::from_secs(20)).unwrap();
        let calendar = Calendar { settings, now: Timestamp(0) };
        let explained = |action: &PendingAction, mails| {
            held_because(action, &LifecycleView { calendar, mails }).unwrap_or_default()
        };
        assert_eq!(
            explained(&action, true),
            "1 of 2 notices not accepted by the mail server yet: the action takes effect 20 \
             seconds after the last one is."
        );
        assert!(explained(&action, false).starts_with("No mail server is configured"));
        action.notices[1].state = NoticeState::Failing("550 no such user".into());
        assert!(
            explained(&action, true)
                .starts_with("The mail server does not take the mail to bo@acme.test (550 no such")
        );
        action.accepted = Some(Timestamp(0));
        assert_eq!(explained(&action, false), "");
    }
}
