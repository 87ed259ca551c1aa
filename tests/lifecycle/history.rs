//! A random history: an account of its own, with its tokens, that goes through whatever may happen.

use std::collections::{BTreeMap, BTreeSet};

use portcullis::model::Token;
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::scope::ScopeId;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{PendingActionType, TokenKind, TokenState};

use crate::lifecycle::batch::Did;
use crate::lifecycle::model::{About, Fate, Kind, MailState, Model, SCOPES, State, Time, What};
use crate::lifecycle::post::{Attempt, Post};
use crate::lifecycle::rng::Rng;
use crate::lifecycle::seen::{Seen, recorded, seen};
use crate::lifecycle::witness::Witness;
use crate::lifecycle::world::{HERE, Held, THERE, World};

/// See the module.
pub(crate) struct History {
    number: usize,
    account: AccountId,
    tokens: Vec<Held>,
    model: Model,
    witnesses: Vec<Witness>,
    rng: Rng,
    pub(crate) log: Vec<String>,
}

impl History {
    /// The account, with its first token.
    pub(crate) async fn begin(world: &World, seed: u64, number: usize) -> Self {
        let mut rng = Rng(seed ^ (number as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let admins = [format!("a{number}@h.test"), format!("b{number}@h.test")];
        let admins = admins[..1 + usize::from(rng.percent(30))].to_vec();
        let account = world.account("Acme", &admins).await;
        let model = Model::new(admins);
        let (tokens, witnesses, log) = (Vec::new(), Vec::new(), Vec::new());
        let mut history = Self { number, account, tokens, model, witnesses, rng, log };
        history.create(world).await;
        history
    }

    /// How it came to what is wrong.
    pub(crate) fn story(&self, seed: u64) -> String {
        let log = self.log.join("\n");
        format!("seed {seed:#x}, history {}:\n{log}\n{:#?}\n", self.number, self.model)
    }

    async fn create(&mut self, world: &World) {
        let (kind, shown) = match self.rng.below(4) {
            0 => (Kind::ReadOnly, TokenKind::ReadOnly),
            1 => (Kind::ReadWrite, TokenKind::ReadWrite),
            _ => (Kind::Custom, TokenKind::Custom),
        };
        let mut listed: BTreeSet<usize> = (0..5).filter(|_| self.rng.percent(50)).collect();
        listed.insert(self.rng.below(5));
        let names: Vec<_> = listed
            .iter()
            .filter(|_| kind == Kind::Custom)
            .map(|&scope| SCOPES[scope].0.to_owned())
            .collect();
        let name = format!("t{}", self.tokens.len());
        self.tokens.push(world.token(self.account, &name, shown, &names).await);
        self.witnesses.push(Witness::default());
        self.model.create(kind, &listed, world.now().0);
        self.log.push(format!("{} create {name}: {kind:?} {names:?}", world.now()));
    }

    /// What happens to this account alone.
    pub(crate) async fn act(&mut self, world: &World, post: &Post) {
        let now = world.now();
        match self.rng.below(20) {
            0..5 => self.ask(world, HERE, false).await,
            5..7 => {
                self.ask(world, HERE, false).await;
                self.ask(world, HERE, false).await;
            }
            7 => self.ask(world, THERE, false).await,
            8 => self.ask(world, HERE, true).await,
            9 if self.tokens.len() < 3 => self.create(world).await,
            10 if self.rng.percent(50) => {
                let mut admins: Vec<_> = ["a", "b", "c"]
                    .iter()
                    .filter(|_| self.rng.percent(60))
                    .map(|name| format!("{name}{}@h.test", self.number))
                    .collect();
                if admins.is_empty() {
                    admins.push(format!("a{}@h.test", self.number));
                }
                self.log.push(format!("{now} admins {admins:?}"));
                world.set_admins(self.account, &admins).await;
                self.model.set_admins(admins);
            }
            11 if self.rng.percent(15) => {
                let at = self.rng.below(self.tokens.len());
                if self.model.tokens[at].state != State::Forgotten {
                    self.log.push(format!("{now} delete t{at}"));
                    world.delete(self.tokens[at].id).await;
                    self.model.delete(at, now.0);
                }
            }
            12 if self.rng.percent(50) => {
                let name = ["a", "b", "c"][self.rng.below(3)];
                let fates = [
                    Fate::Accepted,
                    Fate::Accepted,
                    Fate::Refused,
                    Fate::Rejected,
                    Fate::Postponed,
                    Fate::Fault,
                ];
                let fate = fates[self.rng.below(fates.len())];
                self.log.push(format!("{now} mail to {name}: {fate:?}"));
                post.script().fates.insert(format!("{name}{}@h.test", self.number), fate);
            }
            _ => {}
        }
    }

    async fn ask(&mut self, world: &World, from: &str, dry_run: bool) {
        let (at, scope) = (self.rng.below(self.tokens.len()), self.rng.below(5));
        let decided = world.ask(&self.tokens[at], SCOPES[scope].0, from, dry_run).await;
        let reason = format!("{:?}", decided.unwrap().0);
        let wanted = match dry_run {
            true => self.model.tokens[at].reason(scope, from == HERE),
            false => self.model.ask(at, scope, from == HERE, world.now().0),
        };
        let dry = if dry_run { " dry" } else { "" };
        self.log.push(format!("{} ask t{at} for {scope}{dry}: {reason}", world.now()));
        assert_eq!(reason, wanted, "{}", self.story(0));
        if reason == "Allowed" && !dry_run {
            self.witnesses[at].used(scope, world.now().0);
        }
    }

    pub(crate) fn follow(
        &mut self,
        did: &[Did],
        tokens: &BTreeMap<TokenId, Token>,
        now: Time,
        observe: bool,
        ids: &[ScopeId],
    ) -> Result<(), String> {
        self.witnessed(did, tokens, now, observe, ids)?;
        if matches!(did.first(), Some(Did::Crash)) {
            self.model.tokens.iter_mut().for_each(crate::lifecycle::model::Token::crash);
        }
        let flushed = did.iter().any(|did| matches!(did, Did::Flush | Did::Sweep));
        for (token, held) in self.model.tokens.iter_mut().zip(&self.tokens) {
            if let Some(real) = tokens.get(&held.id) {
                let micros = |at: Option<Timestamp>| at.map(|at| at.0);
                let (last, last_write) = (micros(real.uses.last), micros(real.uses.last_write));
                token.adopt(recorded(real, ids), last, last_write, flushed)?;
            }
        }
        for did in did {
            match did {
                Did::Flush => {}
                Did::Sweep => self.model.sweep(now, observe),
                Did::Crash => {
                    self.model.tokens.iter_mut().for_each(crate::lifecycle::model::Token::crash)
                }
                Did::Deliver { whole, attempts } => {
                    let domain = self.domain();
                    for attempt in attempts.iter().filter(|mail| mail.to[1..] == domain) {
                        self.attempt(attempt, now)?;
                    }
                    if *whole {
                        self.model.delivered(now, observe)?;
                    }
                }
            }
        }
        for (at, held) in self.tokens.iter().enumerate() {
            let (is, should) = (seen(tokens.get(&held.id), ids), self.expected(at));
            if is != should {
                return Err(format!("t{at} is\n{is:#?}\nand should be\n{should:#?}"));
            }
        }
        Ok(())
    }

    /// What its admins' addresses end with.
    fn domain(&self) -> String {
        format!("{}@h.test", self.number)
    }

    /// What the witnesses say, who know nothing of the model.
    fn witnessed(
        &mut self,
        did: &[Did],
        tokens: &BTreeMap<TokenId, Token>,
        now: Time,
        observe: bool,
        ids: &[ScopeId],
    ) -> Result<(), String> {
        let domain = self.domain();
        let mails = did.iter().flat_map(Did::attempts).filter(|mail| mail.to[1..] == domain);
        let mails: Vec<_> = mails.collect();
        for (held, witness) in self.tokens.iter().zip(&mut self.witnesses) {
            let id = held.id.to_string();
            for mail in mails.iter().filter(|mail| mail.text.contains(&id)) {
                witness.mailed(mail, now)?;
            }
            witness.happened(did, observe);
            let real = tokens.get(&held.id);
            let recorded = real.map_or([None; 5], |real| recorded(real, ids));
            witness.sees(now, &seen(real, ids), real.is_some(), recorded, &self.model.admins)?;
        }
        Ok(())
    }

    /// Whether nothing of it is left to be taken.
    pub(crate) fn over(&self, tokens: &BTreeMap<TokenId, Token>) -> bool {
        let active = |held: &Held| {
            tokens.get(&held.id).is_some_and(|token| token.state == TokenState::Active)
        };
        !self.tokens.iter().any(active)
    }

    fn attempt(&mut self, attempt: &Attempt, now: Time) -> Result<(), String> {
        self.log.push(format!("mail {:?} to {}: {:?}", attempt.subject, attempt.to, attempt.fate));
        let tokens: Vec<_> = self.tokens.iter().map(|held| held.id.to_string()).collect();
        let live: Vec<_> =
            self.model.tokens.iter().flat_map(|token| token.actions.clone()).collect();
        let loses = attempt.text.split("What it loses otherwise").nth(1).unwrap_or_default();
        let (loses, keeps) = loses.split_once("What it keeps").unzip();
        let says = |word: &str| attempt.subject.contains(word);
        let is = |about: &About| match about {
            About::Notice { token, action, .. } if says(" will ") => {
                let what = live.iter().find(|live| live.number == *action).map(|live| &live.what);
                attempt.text.contains(&tokens[*token])
                    && match what {
                        None => false,
                        Some(What::Deletion) => keeps.is_none(),
                        Some(What::Writes) => keeps.is_some(),
                        Some(What::Scopes(named)) => loses.is_some_and(|loses| {
                            (0..5).all(|s| loses.contains(SCOPES[s].0) == named.contains(&s))
                        }),
                    }
            }
            About::Notice { .. } => false,
            About::Admins => says("The admins of "),
            About::CarriedOut { token, .. } => {
                !says(" will ") && attempt.text.contains(&tokens[*token])
            }
        };
        self.model.attempt(attempt.id, &attempt.to, is, attempt.fate, now)
    }

    /// The token as the model has it.
    fn expected(&self, at: usize) -> Seen {
        let token = &self.model.tokens[at];
        if token.state == State::Forgotten {
            return Seen { state: State::Forgotten, ..Seen::default() };
        }
        let mut pending: Vec<_> = token
            .actions
            .iter()
            .map(|action| {
                let notices = self.model.mails.iter().filter_map(|mail| match mail.about {
                    About::Notice { action: of, .. }
                        if of == action.number && self.model.admins.contains(&mail.to) =>
                    {
                        let accepted = match mail.state {
                            MailState::Accepted(at) => Some(at),
                            MailState::Queued | MailState::Withdrawn => None,
                        };
                        Some((mail.to.clone(), accepted))
                    }
                    _ => None,
                });
                (action.what.clone(), self.model.accepted(action.number), notices.collect())
            })
            .collect();
        pending.sort();
        Seen {
            state: token.state,
            kind: Some(token.kind),
            scopes: token.scopes.clone(),
            taken: token.taken.clone(),
            pending,
        }
    }

    /// Decisions agree: why, and what they warn of.
    pub(crate) async fn decides(
        &mut self,
        world: &World,
        now: Time,
        observe: bool,
    ) -> Result<(), String> {
        for (at, held) in self.tokens.iter().enumerate() {
            let token = &self.model.tokens[at];
            let (scope, here) = (self.rng.below(5), self.rng.percent(80));
            let from = if here { HERE } else { THERE };
            let decided = world.ask(held, SCOPES[scope].0, from, true).await;
            let (reason, warning) = decided.map_err(|error| error.to_string())?;
            let wanted = token.reason(scope, here);
            if format!("{reason:?}") != wanted {
                return Err(format!("t{at} for {scope}: {reason:?}, not {wanted}"));
            }
            let dates = token.actions.iter().filter(|_| !observe).map(|action| {
                (self.model.effective(token, action, now), action.what != What::Deletion)
            });
            let warning = warning.map(|warning| {
                (warning.effective.0, warning.action == PendingActionType::Downgrade)
            });
            let first = dates.min();
            if warning != first {
                return Err(format!("t{at} warns of {warning:?}, not {first:?}"));
            }
        }
        Ok(())
    }
}
