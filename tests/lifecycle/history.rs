//! A random history: an account of its own, with its tokens, that goes through whatever may happen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portcullis::model::Token;
use portcullis::policy::decide::Reason;
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::scope::ScopeId;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::PendingActionType;
use portcullis::secret;
use portcullis::service::Caller;

use crate::lifecycle::batch::Did;
use crate::lifecycle::imports::{STRANGER, Shape, foreign_secret, random_item};
use crate::lifecycle::model::{About, Fate, MailState, Model, SCOPES, Standing, State, Time, What};
use crate::lifecycle::post::{Attempt, Post};
use crate::lifecycle::rng::Rng;
use crate::lifecycle::seen::{Seen, recorded, seen};
use crate::lifecycle::witness::Witness;
use crate::lifecycle::world::{DAY, HERE, Held, Item, THERE, World};

/// An error that a history plants, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A successor has no last use, and its clocks start with it.
    NewClock,
    /// An old token lasts longer than was asked for.
    LongerOverlap,
    /// The expiry of an old token is moved later.
    LaterExpiry,
    /// An import counts as a use.
    ImportedUse,
    /// A request that is denied because the account is suspended counts as a use.
    SuspendedUse,
    /// What was never used is not counted while the account is suspended.
    StoppedClocks,
}

impl Planted {
    pub(crate) const ALL: [Self; 6] = [
        Self::NewClock,
        Self::LongerOverlap,
        Self::LaterExpiry,
        Self::ImportedUse,
        Self::SuspendedUse,
        Self::StoppedClocks,
    ];
}

/// What accounts are named.
const NAME: &str = "Acme";

const SET_LAST_USE: &str = "UPDATE token_use SET last_use = $2 WHERE token_id = $1";

const MOVE_CLOCK: &str = "\
    UPDATE token SET clock_time = coalesce(clock_time, create_time) + $2 WHERE token_id = $1";

/// See the module.
pub(crate) struct History {
    number: usize,
    account: AccountId,
    tokens: Vec<Held>,
    model: Model,
    witnesses: Vec<Witness>,
    /// Of each token, the one that replaced it.
    successors: Vec<Option<usize>>,
    /// Since when the account is suspended or closed.
    restricted: Option<Timestamp>,
    /// How many secrets were made elsewhere.
    foreign: usize,
    planted: Option<Planted>,
    rng: Rng,
    pub(crate) log: Vec<String>,
}

impl History {
    /// The account, with its first token.
    pub(crate) async fn begin(
        world: &World,
        seed: u64,
        number: usize,
        planted: Option<Planted>,
    ) -> Self {
        let mut rng = Rng(seed ^ (number as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let admins = [format!("a{number}@h.test"), format!("b{number}@h.test")];
        let admins = admins[..1 + usize::from(rng.percent(30))].to_vec();
        let account = world.account(NAME, &admins).await;
        let mut history = Self {
            number,
            account,
            tokens: Vec::new(),
            model: Model::new(admins),
            witnesses: Vec::new(),
            successors: Vec::new(),
            restricted: None,
            foreign: 0,
            planted,
            rng,
            log: Vec::new(),
        };
        if history.rng.percent(30) {
            history.import(world).await;
        }
        if history.tokens.is_empty() {
            history.create(world).await;
        }
        history
    }

    /// How it came to what is wrong.
    pub(crate) fn story(&self, seed: u64) -> String {
        let log = self.log.join("\n");
        format!("seed {seed:#x}, history {}:\n{log}\n{:#?}\n", self.number, self.model)
    }

    /// An operator, or an admin of the account.
    fn caller(&mut self) -> (bool, Caller) {
        match self.rng.percent(30) {
            true => (true, World::admin(self.account)),
            false => (false, World::caller()),
        }
    }

    fn add(&mut self, held: Held, mut witness: Witness) {
        witness.restricted = self.restricted.is_some();
        self.tokens.push(held);
        self.witnesses.push(witness);
        self.successors.push(None);
    }

    async fn create(&mut self, world: &World) {
        let Shape { kind, shown, listed, names } = Shape::random(&mut self.rng);
        let name = format!("t{}", self.tokens.len());
        let (admin, caller) = self.caller();
        let created = world.create(&caller, self.account, &name, (shown, &names), None).await;
        let wanted = self.model.admits(admin);
        let outcome = created.as_ref().map(|_| ()).map_err(|rule| *rule);
        self.log.push(format!("{} create {name}: {kind:?} {names:?}: {outcome:?}", world.now()));
        assert_eq!(outcome, wanted, "{}", self.story(0));
        let Ok(held) = created else { return };
        self.model.create(kind, &listed, world.now().0);
        self.add(held, Witness::default());
    }

    /// Imports tokens: new ones, and some that are there already, have ended, or are of another account.
    async fn import(&mut self, world: &World) {
        let now = world.now();
        let (mut items, mut imports): (Vec<Item>, Vec<_>) = (Vec::new(), Vec::new());
        for place in 0..1 + self.rng.below(3) {
            // What was made here and is forgotten would be imported as though it were new.
            let known = self.rng.below(self.tokens.len().max(1));
            let known = self.tokens.get(known).filter(|_| {
                let token = &self.model.tokens[known];
                token.imported || token.state != State::Forgotten
            });
            let secret = match (self.rng.below(20), known) {
                (0, _) => STRANGER.to_owned(),
                (1..4, _) if place > 0 => items[self.rng.below(place)].secret.clone(),
                (4..9, Some(held)) => held.secret.clone(),
                _ => {
                    self.foreign += 1;
                    foreign_secret(&mut self.rng, self.number * 1_000 + self.foreign)
                }
            };
            let name = format!("t{}", self.tokens.len() + place);
            let (item, import) = random_item(&mut self.rng, secret, name, now);
            items.push(item);
            imports.push(import);
        }
        let (admin, caller) = self.caller();
        let imported = world.import(&caller, self.account, &items).await;
        let answered = imported.as_ref().map(|_| ()).map_err(|rule| *rule);
        self.log.push(format!("{now} import of {}: {answered:?}", items.len()));
        assert_eq!(answered, self.model.admits(admin), "{}", self.story(0));
        for (result, (item, import)) in
            imported.into_iter().flatten().zip(items.iter().zip(imports))
        {
            let held = self.tokens.iter().position(|held| held.secret == item.secret);
            let wanted = match item.secret == STRANGER {
                true => Err("DIGEST_IN_USE"),
                false => self.model.import(held, &import, now.0),
            };
            let outcome =
                result.as_ref().map(|result| !result.already_existed).map_err(|rule| *rule);
            self.log.push(format!("{now} import {item:?}: {outcome:?}"));
            assert_eq!(outcome, wanted, "{}", self.story(0));
            let Ok(result) = result else { continue };
            if let Some(held) = held {
                assert_eq!(result.token.id, self.tokens[held].id, "{}", self.story(0));
                continue;
            }
            let token = result.token;
            let created = item.created.or(item.last_use).unwrap_or(now);
            let stated = (created, item.last_use, item.expires, Some(now));
            let shown = (token.created, token.uses.last, token.expires, token.imported);
            assert_eq!(shown, stated, "{}", self.story(0));
            if self.planted == Some(Planted::ImportedUse) {
                world.tamper(SET_LAST_USE, token.id, Some(now.0)).await;
            }
            let witness = Witness::imported(item.last_use.map(|at| at.0));
            self.add(Held { id: token.id, secret: item.secret.clone() }, witness);
        }
    }

    /// Suspends the account or resumes it, also where that changes nothing.
    async fn suspend(&mut self, world: &World) {
        let now = world.now();
        let suspends = match self.model.standing {
            Standing::Open => self.rng.percent(90),
            Standing::Suspended => self.rng.percent(10),
            Standing::Closed => self.rng.percent(50),
        };
        let outcome = match suspends {
            true => world.suspend(self.account).await,
            false => world.resume(self.account).await,
        };
        self.log.push(format!("{now} suspended {suspends}: {outcome:?}"));
        let wanted = self.model.set_suspended(suspends);
        assert_eq!(outcome, wanted, "{}", self.story(0));
        if outcome.is_err() {
            return;
        }
        let since = self.restricted.filter(|_| !suspends);
        if let (Some(Planted::StoppedClocks), Some(since)) = (self.planted, since) {
            for held in &self.tokens {
                world.tamper(MOVE_CLOCK, held.id, Some(now.0 - since.0)).await;
            }
        }
        self.restrict(suspends.then(|| self.restricted.unwrap_or(now)));
    }

    fn restrict(&mut self, since: Option<Timestamp>) {
        self.restricted = since;
        for witness in &mut self.witnesses {
            witness.restricted = since.is_some();
        }
    }

    async fn close(&mut self, world: &World) {
        let now = world.now();
        self.log.push(format!("{now} close"));
        world.close(self.account, NAME).await;
        if self.model.standing != Standing::Closed {
            self.model.close(now.0);
            self.restrict(Some(now));
        }
    }

    /// What happens to this account alone.
    pub(crate) async fn act(&mut self, world: &World, post: &Post, observe: bool) {
        let now = world.now();
        if self.model.standing == Standing::Suspended && self.rng.percent(20) {
            self.suspend(world).await;
        }
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
                let set = world.set_admins(self.account, &admins).await;
                self.log.push(format!("{now} admins {admins:?}: {set:?}"));
                assert_eq!(set, self.model.admits(false), "{}", self.story(0));
                if set.is_ok() {
                    self.model.set_admins(admins);
                }
            }
            11 if self.rng.percent(15) => {
                let at = self.rng.below(self.tokens.len());
                if self.model.tokens[at].state != State::Forgotten {
                    self.log.push(format!("{now} delete t{at}"));
                    let (_, caller) = self.caller();
                    world.delete(&caller, self.tokens[at].id).await;
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
            13..15 if self.tokens.len() < 8 => self.replace(world, observe).await,
            15 if self.rng.percent(20) => self.expire(world).await,
            16 if self.tokens.len() < 5 => self.import(world).await,
            17 => self.suspend(world).await,
            18 if self.rng.percent(15) => self.close(world).await,
            _ => {}
        }
    }

    /// Replaces a token by one that has all of it, or a part.
    async fn replace(&mut self, world: &World, observe: bool) {
        let now = world.now();
        let at = self.rng.below(self.tokens.len());
        if self.model.tokens[at].state == State::Forgotten {
            return;
        }
        let scopes: Option<BTreeSet<usize>> = self.rng.percent(35).then(|| {
            let others = self.rng.percent(10);
            let held = self.model.tokens[at].scopes.clone();
            let some = (0..5).filter(|scope| others || held.contains(scope));
            some.filter(|_| self.rng.percent(60)).collect()
        });
        let scopes = scopes.filter(|scopes| !scopes.is_empty());
        let overlap = DAY * [0, 0, 1, 1, 6, 14, 29][self.rng.below(7)];
        let asked = match self.planted {
            Some(Planted::LongerOverlap) => overlap + Duration::from_secs(60),
            _ => overlap,
        };
        let names: Vec<_> = scopes.iter().flatten().map(|&at| SCOPES[at].0.to_owned()).collect();
        let (admin, caller) = self.caller();
        let replaced = world.replace(&caller, self.tokens[at].id, &names, asked).await;
        let wanted = self.model.replaceable(at, scopes.as_ref(), admin, now.0);
        let outcome = match &replaced {
            Ok(_) => format!("t{}", self.tokens.len()),
            Err(rule) => (*rule).to_owned(),
        };
        self.log.push(format!("{now} replace t{at} {names:?} for {overlap:?}: {outcome}"));
        let answered = replaced.as_ref().map(|_| ()).map_err(|rule| *rule);
        assert_eq!(answered, wanted, "{}", self.story(0));
        let Ok(held) = replaced else { return };
        self.plant(world, self.tokens[at].id, held.id).await;
        let micros = overlap.as_micros() as Time;
        let witness = self.witnesses[at].replaced(now.0, micros, scopes.clone());
        self.model.replace(at, scopes, micros, now.0, observe);
        self.successors[at] = Some(self.tokens.len());
        self.add(held, witness);
    }

    /// What a replacement is to do wrong.
    async fn plant(&self, world: &World, old: TokenId, new: TokenId) {
        match self.planted {
            Some(Planted::NewClock) => {
                for sql in [
                    "UPDATE token SET clock_time = create_time WHERE token_id = $1",
                    "DELETE FROM scope_use WHERE token_id = $1",
                    "UPDATE token_use SET last_use = NULL, last_write_use = NULL WHERE token_id = $1",
                ] {
                    world.tamper(sql, new, None).await;
                }
            }
            Some(Planted::LaterExpiry) => {
                let later =
                    "UPDATE token SET expire_time = expire_time + 86400000000 WHERE token_id = $1";
                world.tamper(later, old, None).await;
            }
            _ => {}
        }
    }

    /// Brings an expiry nearer, where that is possible.
    async fn expire(&mut self, world: &World) {
        let now = world.now();
        let at = self.rng.below(self.tokens.len());
        let expires = now.plus(Duration::from_secs(3_600) * (1 + self.rng.below(1_000) as u32));
        let token = &self.model.tokens[at];
        if token.live(now.0) && token.expires.is_none_or(|old| old >= expires.0) {
            self.log.push(format!("{now} expire t{at} at {expires}"));
            let (_, caller) = self.caller();
            world.expire(&caller, self.tokens[at].id, expires).await;
            self.model.expire(at, expires.0);
        }
    }

    /// The tokens that replaced it, one after another.
    fn chain(&self, at: usize) -> Vec<usize> {
        std::iter::successors(self.successors[at], |&next| self.successors[next]).collect()
    }

    async fn ask(&mut self, world: &World, from: &str, dry_run: bool) {
        let (at, scope) = (self.rng.below(self.tokens.len()), self.rng.below(5));
        let presented = match self.rng.percent(20) {
            true => format!("Secret-Token:{}", self.tokens[at].secret),
            false => self.tokens[at].secret.clone(),
        };
        let decided = world.ask_with(&presented, SCOPES[scope].0, from, dry_run).await;
        let reason = format!("{:?}", decided.unwrap().0);
        let wanted = match dry_run {
            true => self.model.reason(at, scope, from == HERE, world.now().0),
            false => self.model.ask(at, scope, from == HERE, world.now().0),
        };
        let dry = if dry_run { " dry" } else { "" };
        self.log.push(format!("{} ask t{at} for {scope}{dry}: {reason}", world.now()));
        assert_eq!(reason, wanted, "{}", self.story(0));
        if self.planted == Some(Planted::SuspendedUse) && reason == "AccountSuspended" && !dry_run {
            world.tamper(SET_LAST_USE, self.tokens[at].id, Some(world.now().0)).await;
        }
        if reason == "Allowed" {
            let allowed = self.witnesses[at].allowed(world.now().0);
            assert_eq!(allowed, Ok(()), "{}", self.story(0));
        }
        if reason == "Allowed" && !dry_run {
            self.witnesses[at].used(scope, world.now().0);
            for next in self.chain(at) {
                self.witnesses[next].used(scope, world.now().0);
            }
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
                token.adopt(recorded(real, ids).scopes, last, last_write, flushed)?;
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
                    let ours = attempts.iter().filter(|mail| mail.to[1..] == domain);
                    for attempt in ours.filter(|mail| !mail.is_about_expiry()) {
                        self.attempt(attempt, now)?;
                    }
                    if *whole {
                        self.model.delivered(now, observe)?;
                    }
                }
            }
        }
        for (at, held) in self.tokens.iter().enumerate() {
            let (is, should) = (seen(tokens.get(&held.id), ids, now), self.expected(at, now));
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
        for at in 0..self.tokens.len() {
            let chain = self.chain(at);
            // A notice about a successor is one about the token: it takes from both.
            let named: Vec<_> = std::iter::once(&at)
                .chain(&chain)
                .map(|&at| self.tokens[at].id.to_string())
                .collect();
            let (held, witness) = (&self.tokens[at], &mut self.witnesses[at]);
            for mail in mails.iter().filter(|mail| !mail.is_about_expiry()) {
                let own = mail.text.contains(&named[0]);
                let notice = mail.subject.contains(" will ");
                if own || notice && named.iter().any(|id| mail.text.contains(id)) {
                    witness.mailed(mail, now)?;
                }
            }
            witness.happened(did, observe);
            let real = tokens.get(&held.id);
            let uses = real.map(|real| recorded(real, ids)).unwrap_or_default();
            let is = seen(real, ids, now);
            witness.sees(now, &is, real.is_some(), uses, &self.model.admins)?;
        }
        for at in 0..self.tokens.len() {
            for next in self.chain(at) {
                let announced = self.witnesses[next].announced.clone();
                self.witnesses[at].announced.extend(announced);
            }
        }
        Ok(())
    }

    /// Whether nothing of it is left to be taken.
    pub(crate) fn over(&self, tokens: &BTreeMap<TokenId, Token>, now: Timestamp) -> bool {
        let active = |held: &Held| tokens.get(&held.id).is_some_and(|token| token.is_live(now));
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
    fn expected(&self, at: usize, now: Time) -> Seen {
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
            state: token.state(now),
            expires: token.expires,
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
            let wanted = self.model.reason(at, scope, here, now);
            if format!("{reason:?}") != wanted {
                return Err(format!("t{at} for {scope}: {reason:?}, not {wanted}"));
            }
            if wanted == "Allowed" {
                self.witnesses[at].allowed(now)?;
            }
            // Of a token that was replaced: what is announced for the newest takes from it as well.
            let holder = &self.model.tokens[token.heir.unwrap_or(at)];
            let shown = token.live(now) && !observe;
            let dates = holder.actions.iter().filter(|_| shown).map(|action| {
                (self.model.effective(holder, action, now), action.what != What::Deletion)
            });
            let warning = warning.map(|warning| {
                (warning.effective.0, warning.action == PendingActionType::Downgrade)
            });
            let first = dates.min();
            if warning != first {
                return Err(format!("t{at} warns of {warning:?}, not {first:?}"));
            }
            // Nobody who knows the digest of a secret has the token. Rule 10.7.
            if token.imported && self.rng.percent(10) {
                let digest = secret::hex(&secret::digest(held.secret.as_bytes()));
                let decided = world.ask_with(&digest, SCOPES[scope].0, from, true).await;
                let (reason, _) = decided.map_err(|error| error.to_string())?;
                if reason != Reason::TokenMalformed {
                    return Err(format!("the digest of t{at} is presented: {reason:?}"));
                }
            }
        }
        Ok(())
    }
}
