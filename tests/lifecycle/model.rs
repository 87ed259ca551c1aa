//! The rules of the lifecycle, stated once more and as plainly as can be: one account, its tokens and
//! its mails, without a database, a crash or a clock.
//!
//! What must stay true: it is written from the rules (docs/policy.md, sections 4, 10 and 11), and shares no code
//! with what it checks.

use std::collections::BTreeSet;

use uuid::Uuid;

pub(crate) use crate::lifecycle::rules::*;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    Notice { token: usize, action: usize, what: What },
    CarriedOut { token: usize, what: What },
    Admins,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MailState {
    Queued,
    Accepted(Time),
    Withdrawn,
}

/// What became of an attempt to send a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted,
    /// The address, for good.
    Refused,
    /// This mail, for good.
    Rejected,
    /// This mail, for now.
    Postponed,
    /// Every mail.
    Fault,
    /// Accepted by the server, and the crash came before that was noted.
    Lost,
    /// Not sent, by a sweep that only observes.
    Held,
}

#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) about: About,
    pub(crate) to: String,
    pub(crate) state: MailState,
    pub(crate) id: Option<Uuid>,
    tried: Option<(Time, Fate)>,
    /// Since when the mail server refuses it for its own sake.
    failing: Option<Time>,
}

/// What an item of an import says.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub(crate) kind: Kind,
    /// Of a `CUSTOM` token.
    pub(crate) listed: BTreeSet<usize>,
    pub(crate) last_use: Option<Time>,
    pub(crate) expires: Option<Time>,
    /// The rule that refuses it, where one does.
    pub(crate) refusal: Option<&'static str>,
}

/// Whether the tokens of an account may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Open,
    Suspended,
    Closed,
}

/// An account. See the module.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) standing: Standing,
    pub(crate) admins: Vec<String>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) mails: Vec<Mail>,
    pub(crate) taken: usize,
    numbers: usize,
}

impl Model {
    pub(crate) fn new(admins: Vec<String>) -> Self {
        let (tokens, mails) = (Vec::new(), Vec::new());
        Self { standing: Standing::Open, admins, tokens, mails, taken: 0, numbers: 0 }
    }

    pub(crate) fn create(&mut self, kind: Kind, listed: &BTreeSet<usize>, now: Time) {
        self.tokens.push(Token::new(kind, listed, now));
    }

    /// Imports a token, unless one of the account, `held`, has its secret. Whether a token was made.
    /// Rules 10.3, 10.4 and 10.6.
    pub(crate) fn import(
        &mut self,
        held: Option<usize>,
        import: &Import,
        now: Time,
    ) -> Result<bool, &'static str> {
        if let Some(held) = held.map(|held| &self.tokens[held]) {
            return held.end.or(held.state(now).end()).map_or(Ok(false), Err);
        }
        if let Some(refusal) = import.refusal {
            return Err(refusal);
        }
        // The other clocks begin with the import.
        self.tokens.push(Token {
            imported: true,
            stated_use: import.last_use,
            expires: import.expires,
            ..Token::new(import.kind, &import.listed, now)
        });
        Ok(true)
    }

    /// Whether an operator or an admin may make a change that does not narrow; if not, why. Rules 11.72 and 11.77.
    pub(crate) fn admits(&self, admin: bool) -> Result<(), &'static str> {
        match self.standing {
            Standing::Closed => Err("ACCOUNT_CLOSED"),
            Standing::Suspended if admin => Err("ACCOUNT_SUSPENDED"),
            Standing::Open | Standing::Suspended => Ok(()),
        }
    }

    /// Suspends the account or resumes it; if it can't be, why, as the API names it. Nothing of its tokens changes.
    /// Rules 11.70, 11.71 and 11.77.
    pub(crate) fn set_suspended(&mut self, suspended: bool) -> Result<(), &'static str> {
        self.admits(false)?;
        self.standing = if suspended { Standing::Suspended } else { Standing::Open };
        Ok(())
    }

    /// Closes the account: every token is deleted, and no mail is sent any more. Rules 11.75 and 11.76.
    pub(crate) fn close(&mut self, now: Time) {
        self.standing = Standing::Closed;
        for token in self.tokens.iter_mut().filter(|token| token.active()) {
            token.state = State::Deleted(now);
            token.actions.clear();
        }
        for mail in self.mails.iter_mut().filter(|mail| mail.state == MailState::Queued) {
            mail.state = MailState::Withdrawn;
        }
    }

    /// Why a token is denied for `scope`, or not, as decisions name it. Rule 11.70.
    pub(crate) fn reason(&self, at: usize, scope: usize, here: bool, now: Time) -> &'static str {
        match self.standing {
            Standing::Suspended if self.tokens[at].live(now) => "AccountSuspended",
            _ => self.tokens[at].reason(scope, here, now),
        }
    }

    /// Asks for a decision, which is a use where it is allowed.
    pub(crate) fn ask(&mut self, at: usize, scope: usize, here: bool, now: Time) -> &'static str {
        let reason = self.reason(at, scope, here, now);
        if reason != "Allowed" {
            return reason;
        }
        let holder = self.tokens[at].heir.unwrap_or(at);
        let token = &mut self.tokens[holder];
        let mut cancels = false;
        let mut ended = Vec::new();
        token.actions.retain_mut(|action| {
            let keep = match &mut action.what {
                What::Deletion => false,
                What::Writes => !writes(scope),
                What::Scopes(named) => {
                    cancels |= named.remove(&scope);
                    !named.is_empty()
                }
            };
            if !keep {
                ended.push(action.number);
            }
            keep
        });
        // A use of a token that was replaced is one of its heir.
        for token in BTreeSet::from([at, holder]) {
            let token = &mut self.tokens[token];
            if cancels || !ended.is_empty() {
                token.recorded[scope] = Some(now);
                token.fresh[scope].clear();
            } else {
                token.fresh[scope].push(now);
            }
        }
        self.take_back(holder, &ended, None);
        reason
    }

    /// Whether a token can be replaced, by one that has `scopes` of it where given; if not, why, as the API names it.
    pub(crate) fn replaceable(
        &self,
        at: usize,
        scopes: Option<&BTreeSet<usize>>,
        admin: bool,
        now: Time,
    ) -> Result<(), &'static str> {
        self.admits(admin)?;
        let token = &self.tokens[at];
        match token.state(now) {
            State::Deleted(_) | State::DeletedUnused(_) => return Err("TOKEN_DELETED"),
            State::Active | State::Expired(_) if token.replaced => return Err("TOKEN_REPLACED"),
            State::Expired(_) => return Err("TOKEN_EXPIRED"),
            State::Active | State::Forgotten => {}
        }
        match scopes {
            Some(scopes) if !scopes.is_subset(&token.scopes) => Err("SCOPE_NOT_GRANTED"),
            None if token.scopes.is_empty() => Err("NO_SCOPES_LEFT"),
            _ => Ok(()),
        }
    }

    /// Replaces a token that can be.
    pub(crate) fn replace(
        &mut self,
        at: usize,
        scopes: Option<BTreeSet<usize>>,
        overlap: Time,
        now: Time,
        observe: bool,
    ) {
        let new = self.tokens.len();
        let old = &self.tokens[at];
        let kind = if scopes.is_some() { Kind::Custom } else { old.kind };
        let held = scopes.unwrap_or_else(|| old.scopes.clone());
        let mut end = old.expires.unwrap_or(Time::MAX).min(now + overlap);
        let (mut moved, mut left) = (Vec::new(), Vec::new());
        let mut shortens = false;
        for action in &old.actions {
            let what = match &action.what {
                What::Deletion => What::Deletion,
                What::Writes if kind == Kind::ReadWrite => What::Writes,
                What::Writes => {
                    What::Scopes(held.iter().copied().filter(|&scope| writes(scope)).collect())
                }
                What::Scopes(named) => What::Scopes(named.intersection(&held).copied().collect()),
            };
            if what != action.what {
                shortens = true;
                if !observe {
                    end = end.min(self.effective(old, action, now).max(now));
                }
            }
            match what {
                What::Scopes(named) if named.is_empty() => left.push(action.number),
                what => moved.push(Action { number: action.number, what }),
            }
        }
        let successor = Token {
            scopes: held,
            actions: moved.clone(),
            recorded: old.recorded,
            fresh: old.fresh.clone(),
            late: old.late.clone(),
            clock: old.clock,
            expires: old.expires,
            stated_use: old.stated_use,
            ..Token::new(kind, &BTreeSet::new(), now)
        };
        self.take_back(at, &left, None);
        self.move_notices(at, new, &moved);
        for older in 0..new {
            if self.tokens[older].heir != Some(at) {
                continue;
            }
            for scope in 0..5 {
                let uses = self.tokens[older].fresh[scope].clone();
                let old = &mut self.tokens[at];
                old.fresh[scope].retain(|used| !uses.contains(used));
                old.late[scope].extend(uses);
            }
        }
        for (place, token) in self.tokens.iter_mut().enumerate() {
            if token.heir == Some(at) {
                token.heir = Some(new);
                if shortens && token.live(now) {
                    token.expires = token.expires.min(Some(end));
                }
            }
            if place == at {
                token.heir = Some(new);
                token.replaced = true;
                token.expires = Some(end);
                token.actions.clear();
            }
        }
        self.tokens.push(successor);
    }

    /// The notices of these actions are about another token from now on.
    fn move_notices(&mut self, from: usize, to: usize, actions: &[Action]) {
        for mail in &mut self.mails {
            if let About::Notice { token, action, .. } = &mut mail.about
                && *token == from
                && actions.iter().any(|moved| moved.number == *action)
            {
                *token = to;
            }
        }
    }

    pub(crate) fn expire(&mut self, at: usize, expires: Time) {
        self.tokens[at].expires = Some(expires);
    }

    /// What a token has announced ends with it, unless one that it replaced lasts longer.
    fn end_lifecycle(&mut self, at: usize, now: Time) {
        let older = (0..self.tokens.len()).filter(|&older| self.tokens[older].heir == Some(at));
        let older: Vec<_> = older.collect();
        let next = older.iter().copied().filter(|&older| self.tokens[older].live(now)).max();
        let Some(next) = next else { return self.end_all(at) };
        let actions = std::mem::take(&mut self.tokens[at].actions);
        let (moved, ended): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| self.tokens[next].loses_to(&action.what));
        let ended: Vec<_> = ended.into_iter().map(|action| action.number).collect();
        self.take_back(at, &ended, None);
        self.move_notices(at, next, &moved);
        self.tokens[next].actions = moved;
        self.tokens[next].heir = None;
        for older in older.into_iter().filter(|&older| older != next) {
            let late = self.tokens[older].expires.is_some_and(|ended| ended > now - DAYS);
            if late {
                self.tokens[older].heir = Some(next);
                let fresh = self.tokens[older].fresh.clone();
                for (scope, uses) in fresh.into_iter().enumerate() {
                    self.tokens[next].fresh[scope].extend(uses);
                }
            }
        }
    }

    /// Notices that were not accepted are not sent any more; of one admin only where given.
    fn take_back(&mut self, token: usize, actions: &[usize], admin: Option<&str>) {
        for mail in &mut self.mails {
            if mail.state == MailState::Queued
                && admin.is_none_or(|admin| admin == mail.to)
                && matches!(&mail.about, About::Notice { token: of, action, .. }
                    if *of == token && actions.contains(action))
            {
                mail.state = MailState::Withdrawn;
            }
        }
    }

    fn queue(&mut self, about: &About, to: &[String]) {
        for to in to {
            self.mails.push(Mail {
                about: about.clone(),
                to: to.clone(),
                state: MailState::Queued,
                id: None,
                tried: None,
                failing: None,
            });
        }
    }

    fn notice(&self, number: usize, admin: &str) -> Option<&Mail> {
        self.mails.iter().find(|mail| {
            mail.to == admin
                && matches!(mail.about, About::Notice { action, .. } if action == number)
        })
    }

    /// Since when every current admin has its notice.
    pub(crate) fn accepted(&self, number: usize) -> Option<Time> {
        let since = |admin: &String| match self.notice(number, admin)?.state {
            MailState::Accepted(at) => Some(at),
            MailState::Queued | MailState::Withdrawn => None,
        };
        self.admins.iter().map(since).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The earliest instant at which it may be carried out, as far as known.
    pub(crate) fn effective(&self, token: &Token, action: &Action, now: Time) -> Time {
        let since = self.accepted(action.number).unwrap_or(now);
        (since + NOTICE).max(token.basis_of(&action.what) + WINDOW)
    }

    pub(crate) fn sweep(&mut self, now: Time, observe: bool) {
        for at in 0..self.tokens.len() {
            let expired = matches!(self.tokens[at].state(now), State::Expired(_));
            if expired && !self.tokens[at].ended {
                self.tokens[at].ended = true;
                self.end_lifecycle(at, now);
            }
        }
        for at in 0..self.tokens.len() {
            if self.tokens[at].live(now) {
                if observe {
                    self.end_all(at);
                } else {
                    self.carry_out(at, now);
                    self.announce(at, now);
                }
            }
        }
        for at in 0..self.tokens.len() {
            let forgets = match self.tokens[at].state(now) {
                State::Deleted(then) | State::DeletedUnused(then) | State::Expired(then) => {
                    then < now - RETENTION
                }
                State::Active | State::Forgotten => false,
            };
            if forgets {
                self.tokens[at].end = self.tokens[at].state(now).end();
                self.tokens[at].state = State::Forgotten;
                self.mails.retain(|mail| match mail.about {
                    About::Notice { token, .. } | About::CarriedOut { token, .. } => token != at,
                    About::Admins => true,
                });
            }
        }
    }

    fn end_all(&mut self, at: usize) {
        let ended: Vec<_> = self.tokens[at].actions.drain(..).map(|action| action.number).collect();
        self.take_back(at, &ended, None);
    }

    fn carry_out(&mut self, at: usize, now: Time) {
        let token = &self.tokens[at];
        let mut due: Vec<_> = token
            .actions
            .iter()
            .filter(|action| self.accepted(action.number).is_some())
            .filter(|action| self.effective(token, action, now) <= now)
            .cloned()
            .collect();
        // The deletion says it all.
        due.sort_by(|a, b| a.what.cmp(&b.what));
        for action in due {
            if !self.tokens[at].live(now) {
                return;
            }
            self.safe(at, &action, now);
            self.taken += 1;
            let token = &mut self.tokens[at];
            token.lose(&action.what, now);
            match &action.what {
                What::Deletion => self.end_all(at),
                What::Writes | What::Scopes(_) => {
                    token.actions.retain(|live| live.number != action.number);
                }
            }
            let older = self.tokens.iter_mut().filter(|token| token.heir == Some(at));
            for token in older.filter(|token| token.live(now) && token.loses_to(&action.what)) {
                token.lose(&action.what, now);
            }
            let admins = self.admins.clone();
            self.queue(&About::CarriedOut { token: at, what: action.what }, &admins);
        }
    }

    /// What must hold whenever something is taken, said without the plan.
    fn safe(&self, at: usize, action: &Action, now: Time) {
        let token = &self.tokens[at];
        for admin in &self.admins {
            let state = self.notice(action.number, admin).map(|mail| mail.state);
            let notified = matches!(state, Some(MailState::Accepted(then)) if then + NOTICE <= now);
            assert!(notified, "{admin} was not notified in time: {state:?}");
        }
        for scope in 0..5 {
            let lost = match &action.what {
                What::Deletion => true,
                What::Writes => writes(scope),
                What::Scopes(named) => named.contains(&scope),
            };
            let used = token.recorded[scope].is_some_and(|used| used + WINDOW > now);
            assert!(!(lost && used), "scope {scope} was used within the window");
        }
    }

    fn announce(&mut self, at: usize, now: Time) {
        if !self.tokens[at].live(now) || self.tokens[at].heir.is_some() {
            return;
        }
        if let Some(what) = self.tokens[at].due(now) {
            self.numbers += 1;
            let number = self.numbers;
            self.tokens[at].actions.push(Action { number, what: what.clone() });
            let admins = self.admins.clone();
            self.queue(&About::Notice { token: at, action: number, what }, &admins);
        }
    }

    pub(crate) fn delete(&mut self, at: usize, now: Time) {
        if self.tokens[at].active() {
            self.tokens[at].state = State::Deleted(now);
            self.end_lifecycle(at, now);
        }
    }

    pub(crate) fn set_admins(&mut self, admins: Vec<String>) {
        let before = std::mem::replace(&mut self.admins, admins.clone());
        let everybody: BTreeSet<_> = before.iter().chain(&admins).cloned().collect();
        if before.iter().collect::<BTreeSet<_>>() == admins.iter().collect() {
            return;
        }
        for at in 0..self.tokens.len() {
            for Action { number, what } in self.tokens[at].actions.clone() {
                for admin in before.iter().filter(|admin| !admins.contains(admin)) {
                    self.take_back(at, &[number], Some(admin));
                }
                for admin in admins.iter().filter(|admin| !before.contains(admin)) {
                    let about = About::Notice { token: at, action: number, what: what.clone() };
                    let known = self.mails.iter_mut().find(|mail| {
                        mail.to == *admin
                            && matches!(mail.about, About::Notice { action, .. } if action == number)
                    });
                    match known {
                        // The same mail once more.
                        Some(mail) if mail.state == MailState::Withdrawn => {
                            mail.state = MailState::Queued;
                            mail.tried = None;
                            mail.failing = None;
                        }
                        Some(_) => {}
                        None => self.queue(&about, std::slice::from_ref(admin)),
                    }
                }
            }
        }
        self.queue(&About::Admins, &everybody.into_iter().collect::<Vec<_>>());
    }

    /// One attempt to send a mail that `is` it where its id is not known yet.
    pub(crate) fn attempt(
        &mut self,
        id: Uuid,
        to: &str,
        is: impl Fn(&About) -> bool,
        fate: Fate,
        now: Time,
    ) -> Result<(), String> {
        let known = self.mails.iter().position(|mail| mail.id == Some(id));
        let fresh = |mail: &Mail| {
            mail.id.is_none() && mail.to == to && mail.state == MailState::Queued && is(&mail.about)
        };
        let place = known.or_else(|| self.mails.iter().position(fresh));
        let place = place.ok_or_else(|| format!("a mail to {to} that nobody queued"))?;
        let mail = &mut self.mails[place];
        let early = match mail.tried {
            Some((then, Fate::Fault | Fate::Rejected | Fate::Postponed)) => now - then < SECOND / 2,
            Some((then, Fate::Refused)) => now - then < DAYS,
            Some((then, Fate::Lost)) => now - then < 600 * SECOND,
            Some((_, Fate::Accepted | Fate::Held)) | None => false,
        };
        if mail.state != MailState::Queued || mail.to != to || early {
            return Err(format!("sent to {to}: {mail:?}"));
        }
        mail.id = Some(id);
        mail.tried = Some((now, fate));
        if fate == Fate::Accepted {
            mail.state = MailState::Accepted(now);
        }
        if matches!(fate, Fate::Refused | Fate::Rejected | Fate::Postponed) {
            let since = *mail.failing.get_or_insert(now);
            // A former admin who can't be reached is not mailed any more.
            let hopeless = fate == Fate::Refused || now - since >= DAYS;
            if hopeless && !self.admins.contains(&mail.to) {
                mail.state = MailState::Withdrawn;
            }
        }
        Ok(())
    }

    /// After everything that is due was sent: whatever had to be tried was.
    pub(crate) fn delivered(&mut self, now: Time, observe: bool) -> Result<(), String> {
        for mail in self.mails.iter_mut().filter(|mail| mail.state == MailState::Queued) {
            if observe && matches!(mail.about, About::Notice { .. }) {
                mail.tried = Some((now, Fate::Held));
                continue;
            }
            let late = match mail.tried {
                None => true,
                Some((then, Fate::Fault | Fate::Postponed)) => {
                    then != now && now - then >= 900 * SECOND
                }
                Some((then, Fate::Refused | Fate::Rejected)) => then != now && now - then >= DAYS,
                Some((then, Fate::Lost | Fate::Held)) => now - then >= 600 * SECOND,
                Some((_, Fate::Accepted)) => true,
            };
            if late {
                return Err(format!("not tried: {mail:?}"));
            }
        }
        Ok(())
    }
}
