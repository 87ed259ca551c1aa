//! Decisions: the question's arguments are checked, the token's facts found, `policy` asked.
//!
//! Must stay true: a question about a token at hand waits for nothing, takes no lock and reaches
//! no other thread; a forged token never reaches the store.

use std::array;
use std::time::Duration;

use futures_util::FutureExt as _;
use sdd::Guard;

use super::validate::Faults;
use super::{Error, Result, Services, no_catalog};
use crate::cache::{Fact, Known, Lookup, ReadError};
use crate::clock::Stopwatch;
use crate::policy::decide::{self, Decision, Operation, Presented, Request, Verdict};
use crate::policy::id::TokenId;
use crate::policy::lifecycle::{self, LiveAction};
use crate::policy::network::{ClientAddr, InvalidAddr};
use crate::policy::scope::{Catalog, MAX_NAME_LEN, Scope};
use crate::policy::text::quote;
use crate::policy::time::Timestamp;
use crate::replicas::NotFreshEnough;
use crate::secret::{self, Digest, Opens, WellFormed};
use crate::telemetry::Tally;
use crate::usage::Recorded;

/// The most questions in one batch.
pub const MAX_BATCH: usize = 1_000;

/// How many questions of a batch are gone over before any of them is decided: enough that memory answers
/// meanwhile, and few enough that what it answers is still near the processor when it is needed.
const TOGETHER: usize = 32;

/// How often a question is decided anew because its token changed meanwhile.
const TRIES: usize = 4;

/// What was read in less is decided on even if it changes meanwhile: the question and the change were under
/// way at the same time, and nobody can tell which came first.
const LONG: Duration = Duration::from_millis(20);

/// A question as it was asked.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The token's secret, or whatever bytes the client presented as one.
    pub token: &'a [u8],
    /// The client's address; empty where it is not known.
    pub client_ip: &'a str,
    /// What the client wants to do.
    pub operation: Asked<'a>,
    /// Whether this is no use of the token, whatever is decided.
    pub dry_run: bool,
    /// The decision has to rest on every change up to this revision; 0 where any state will do.
    pub at_least_as_fresh: i64,
}

/// What the client wants to do, as it was asked.
#[derive(Clone, Copy)]
pub enum Asked<'a> {
    /// Nothing was said.
    Nothing,
    /// A scope by name.
    Scope(&'a str),
    /// An HTTP request.
    Http {
        /// Its method.
        method: &'a str,
        /// Its path.
        path: &'a str,
    },
}

impl Services {
    /// Decides, and hands the decision to `answer`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for malformed arguments; the store's errors where it had to be asked.
    pub async fn decide<T>(
        &self,
        question: &Question<'_>,
        answer: impl FnOnce(&Decision<'_>) -> T + Copy,
    ) -> Result<T> {
        match self.decide_from_memory(question, answer) {
            Some(decided) => decided,
            // In a box: what a read needs is large, and hits would carry it around.
            None => Box::pin(self.decide_with_store(question, answer)).await,
        }
    }

    /// The same at once; `None` where the store has to be asked first.
    pub fn decide_from_memory<T>(
        &self,
        question: &Question<'_>,
        answer: impl FnOnce(&Decision<'_>) -> T,
    ) -> Option<Result<T>> {
        let watch = Stopwatch::start();
        if !self.replicas.may_decide(watch) || !self.is_fresh_enough(question) {
            return None;
        }
        let in_force = self.cache.borrow_catalog();
        let decided = match &*in_force {
            Some(in_force) => {
                let guard = Guard::new();
                let id = claimed_id(question.token);
                let at_hand = id.and_then(|id| self.cache.tokens.at_hand(id, &guard));
                self.cache.tokens.hits(at_hand.into_iter());
                let at_hand = at_hand.map(|facts| (facts, secret::digest(question.token)));
                let catalog = &in_force.catalog;
                let now = self.clock.at(watch);
                let alike = &mut Alike::default();
                self.try_memory(question, alike, at_hand, catalog, now, answer).transpose()?
            }
            None => Err(no_catalog()),
        };
        Some(self.counted(decided, watch))
    }

    /// The same for many: what they share is spent once, and memory is asked for the facts of all
    /// together. Hands each answer out with its place; `None` where the store has to be asked first.
    pub fn decide_all_from_memory(
        &self,
        questions: &[Result<Question<'_>>],
        mut answer: impl FnMut(usize, Option<std::result::Result<&Decision<'_>, &Error>>),
    ) {
        let watch = Stopwatch::start();
        if !self.replicas.may_decide(watch) {
            return (0..questions.len()).for_each(|place| answer(place, None));
        }
        let now = self.clock.at(watch);
        let in_force = self.cache.borrow_catalog();
        let guard = Guard::new();
        let (mut alike, mut decided) = (Alike::default(), Tally::default());
        let groups = questions.chunks(TOGETHER);
        let at_hand = groups.flat_map(|group| group.iter().zip(self.all_at_hand(group, &guard)));
        for (place, (question, at_hand)) in at_hand.enumerate() {
            let result = match (question, &*in_force) {
                (Ok(question), _) if !self.is_fresh_enough(question) => Ok(None),
                (Ok(question), Some(in_force)) => {
                    let catalog = &in_force.catalog;
                    let answer = |decision: &Decision<'_>| answer(place, Some(Ok(decision)));
                    self.try_memory(question, &mut alike, at_hand, catalog, now, answer)
                }
                (Err(error), _) => {
                    self.metrics.decision_errors.inc();
                    answer(place, Some(Err(error)));
                    continue;
                }
                (_, None) => Err(no_catalog()),
            };
            match result {
                Ok(Some((reason, ()))) => decided.add(reason),
                Ok(None) => answer(place, None),
                Err(error) => {
                    self.metrics.decision_errors.inc();
                    answer(place, Some(Err(&error)));
                }
            }
        }
        self.metrics.decided_together(&decided, watch.elapsed());
    }

    /// What is at hand of the token of each of a group's questions, and the digest of what was presented.
    /// Memory is asked for all of it before any of it is needed, and answers meanwhile. `None` says nothing,
    /// as at one question.
    fn all_at_hand<'g>(
        &self,
        group: &[Result<Question<'_>>],
        guard: &'g Guard,
    ) -> [Option<(&'g Known, Digest)>; TOGETHER] {
        let tokens = &self.cache.tokens;
        let token = |place: usize| Some(group.get(place)?.as_ref().ok()?.token);
        let claimed: [_; TOGETHER] =
            array::from_fn(|place| claimed_id(token(place)?).inspect(|&id| tokens.fetch_place(id)));
        let digests: [_; TOGETHER] = array::from_fn(|place| {
            let id = claimed[place].filter(|&id| tokens.fetch(id, guard))?;
            Some((id, secret::digest(token(place)?)))
        });
        let found = digests.map(|digest| {
            let (id, digest) = digest?;
            Some((tokens.at_hand(id, guard)?, digest))
        });
        tokens.hits(found.iter().flatten().map(|&(facts, _)| facts));
        found
    }

    async fn decide_with_store<T>(
        &self,
        question: &Question<'_>,
        answer: impl FnOnce(&Decision<'_>) -> T + Copy,
    ) -> Result<T> {
        let watch = Stopwatch::start();
        let decided = self.try_store(question, answer).await;
        self.counted(decided, watch)
    }

    fn counted<T>(&self, decided: Result<(decide::Reason, T)>, watch: Stopwatch) -> Result<T> {
        match decided {
            Ok((reason, answer)) => {
                self.metrics.decided(reason, watch.elapsed());
                Ok(answer)
            }
            Err(error) => {
                self.metrics.decision_errors.inc();
                Err(error)
            }
        }
    }

    fn try_memory<'a, T>(
        &'a self,
        question: &'a Question<'a>,
        alike: &mut Alike<'a>,
        at_hand: Option<(&Known, Digest)>,
        catalog: &'a Catalog,
        now: Timestamp,
        answer: impl FnOnce(&Decision<'_>) -> T,
    ) -> Result<Option<(decide::Reason, T)>> {
        let request = arguments(question, catalog, alike)?;
        let asked = Asking { services: self, question, catalog, request, now, recorded: false };
        // What is asked for often is proved by its digest alone, before anything else is read of it.
        if let Some((facts, digest)) = at_hand
            && secret::same(&facts.digest, &digest)
        {
            return Ok(asked.decide(Presented::Token(facts), Some(facts), answer).ok());
        }
        let Some(secret) = WellFormed::parse(question.token, Opens::Token) else {
            return Ok(asked.decide(Presented::Malformed, None, answer).ok());
        };
        // One that was not made here, or another secret of a token that is known.
        if !self.genuine(&secret) || at_hand.is_some() {
            return Ok(asked.decide(Presented::Unknown, None, answer).ok());
        }
        let fact = match self.cache.tokens.look(TokenId(secret.id)).now_or_never() {
            Some(Lookup::Known(fact)) => fact,
            // Not there, or memory is just being put in order.
            Some(Lookup::Unknown) | None => return Ok(None),
        };
        let facts = fact.as_deref();
        Ok(asked.decide(asked.presented(facts), facts, answer).ok())
    }

    async fn try_store<T>(
        &self,
        question: &Question<'_>,
        answer: impl FnOnce(&Decision<'_>) -> T + Copy,
    ) -> Result<(decide::Reason, T)> {
        self.replicas
            .catch_up_to(question.at_least_as_fresh)
            .await
            .map_err(|NotFreshEnough| not_fresh_enough())?;
        let secret = WellFormed::parse(question.token, Opens::Token);
        let mut recorded = false;
        for left in (0..TRIES).rev() {
            self.ready().await?;
            let fact = match &secret {
                None => None,
                Some(secret) => {
                    let id = TokenId(secret.id);
                    let (turn, watch) = (self.cache.tokens.turn(id), Stopwatch::start());
                    let fact = self.fact(id, secret).await?;
                    // A read may take long: the lease may have run out, and what was read may have been
                    // changed, and its change be answered. Where it changes all the time, the last reading
                    // is as good as any.
                    self.ready().await?;
                    let long = watch.elapsed() > LONG && left > 0;
                    if long && turn != self.cache.tokens.turn(id) {
                        continue;
                    }
                    fact
                }
            };
            // The arguments were fine before; they are borrowed from the catalogue that the decision
            // is made with, which may be another one now.
            let in_force = self.cache.catalog().ok_or_else(no_catalog)?;
            let now = self.clock.now();
            let catalog = &in_force.catalog;
            let request = arguments(question, catalog, &mut Alike::default())?;
            let asked = Asking { services: self, question, catalog, request, now, recorded };
            let facts = fact.as_deref();
            let presented = match &secret {
                None => Presented::Malformed,
                Some(_) => asked.presented(facts),
            };
            let (token, scope) = match asked.decide(presented, facts, answer) {
                Ok(decided) => return Ok(decided),
                Err(first) => first,
            };
            // An announced action must know of this use before anybody is told that it is allowed.
            match self.usage.record_first(in_force.clone(), token, scope, now).await {
                Ok(Recorded::Yes) => recorded = true,
                Ok(Recorded::DecideAgain) => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot record a use that cancels");
                    return Err(unrecorded());
                }
            }
        }
        Err(unrecorded())
    }

    /// Whether memory rests on the revision that the question asks for (docs/policy.md, rule 6.12). To be
    /// asked before any fact is looked at.
    fn is_fresh_enough(&self, question: &Question<'_>) -> bool {
        question.at_least_as_fresh <= 0 || question.at_least_as_fresh <= self.replicas.revision()
    }

    /// Whether `secret` was made here. Asked before the cache behind is: forged ones are to cost as little as
    /// can be.
    fn genuine(&self, secret: &WellFormed<'_>) -> bool {
        let made = self.cache.keys().made(secret);
        if !made {
            self.metrics.forged.inc();
        }
        made
    }

    /// The facts of the token that `secret` names; `None` for one that was not made here.
    async fn fact(&self, id: TokenId, secret: &WellFormed<'_>) -> Result<Fact> {
        if !self.genuine(secret) {
            return Ok(None);
        }
        Ok(match self.cache.tokens.look(id).await {
            Lookup::Known(fact) => fact,
            Lookup::Unknown => self.cache.tokens.read(id).await.map_err(|error| match error {
                ReadError::Store(error) => {
                    tracing::debug!(%error, "cannot read the facts of a token");
                    unreachable_store()
                }
                ReadError::Late => unreachable_store(),
                ReadError::Overloaded => {
                    self.metrics.shed.inc();
                    Error::Overloaded
                }
            })?,
        })
    }
}

/// A question with everything but the token's facts.
struct Asking<'a> {
    services: &'a Services,
    question: &'a Question<'a>,
    catalog: &'a Catalog,
    request: Request<'a>,
    now: Timestamp,
    /// Whether its use is recorded already.
    recorded: bool,
}

impl<'a> Asking<'a> {
    /// What a well-formed secret turns out to be, given what is known of the id that it names.
    fn presented<'f>(&self, facts: Option<&'f Known>) -> Presented<'f> {
        let proves =
            |facts: &Known| secret::same(&facts.digest, &secret::digest(self.question.token));
        match facts {
            Some(facts) if proves(facts) => Presented::Token(facts),
            _ => Presented::Unknown,
        }
    }

    /// Decides, and takes note of a use.
    ///
    /// # Errors
    /// The token and the scope, where their use has to be recorded first: it cancels what is
    /// announced, or takes the scope off it.
    fn decide<'f, T>(
        &self,
        presented: Presented<'f>,
        facts: Option<&'f Known>,
        answer: impl FnOnce(&Decision<'_>) -> T,
    ) -> std::result::Result<(decide::Reason, T), (&'f Known, &'f Scope)>
    where
        'a: 'f,
    {
        let decision = decide::decide(presented, self.catalog, &self.request);
        let allowed = matches!(decision.verdict, Verdict::Allow(_));
        // A dry run is no use.
        if allowed
            && !self.question.dry_run
            && let (Some(token), Some(scope)) = (facts, decision.required)
        {
            let fits = |action: &LiveAction| lifecycle::fits(&action.takes, scope);
            if !self.recorded && token.announced.iter().any(fits) {
                return Err((token, scope));
            }
            self.services.usage.note(token, scope, self.now);
        }
        Ok((decision.verdict.reason(), answer(&decision)))
    }
}

fn claimed_id(token: &[u8]) -> Option<TokenId> {
    secret::claimed_id(token, Opens::Token).map(TokenId)
}

fn unrecorded() -> Error {
    Error::Unavailable {
        why: "the use cancels what is announced for the token, and could not be recorded; no \
              decision: deny",
        retry: Duration::from_secs(1),
    }
}

fn not_fresh_enough() -> Error {
    Error::Unavailable {
        why: "this replica has not applied the revision in `at_least_as_fresh`, and could not in time; \
              no decision: deny. Where that stays so, the store has no such revision",
        retry: Duration::from_secs(1),
    }
}

fn unreachable_store() -> Error {
    Error::Unavailable {
        why: "the token could not be read from the store; no decision: deny",
        retry: Duration::from_secs(1),
    }
}

/// What was read of the question before: those of a batch are often of one client, or about one scope.
#[derive(Default)]
struct Alike<'a> {
    client: Option<(&'a str, ClientAddr)>,
    scope: Option<(&'a str, &'a Scope)>,
}

impl<'a> Alike<'a> {
    fn client(&mut self, text: &'a str) -> std::result::Result<ClientAddr, InvalidAddr> {
        match self.client {
            Some((before, client)) if before == text => Ok(client),
            _ => text.parse().inspect(|&client| self.client = Some((text, client))),
        }
    }

    /// Of the same catalogue at every call.
    fn scope(&mut self, name: &'a str, catalog: &'a Catalog) -> Option<&'a Scope> {
        match self.scope {
            Some((before, scope)) if before == name => Some(scope),
            _ => catalog.by_name(name).inspect(|scope| self.scope = Some((name, scope))),
        }
    }
}

/// Checks a question's arguments (docs/policy.md, rule 2.1). Does not allocate where they are fine.
fn arguments<'a>(
    question: &Question<'a>,
    catalog: &'a Catalog,
    alike: &mut Alike<'a>,
) -> Result<Request<'a>> {
    let client = match question.client_ip {
        "" => Ok(None),
        text => alike.client(text).map(Some),
    };
    let operation = match question.operation {
        Asked::Scope(name) if !name.is_empty() => alike.scope(name, catalog).map(Operation::Scope),
        Asked::Http { method, path } if !method.is_empty() && !path.is_empty() => {
            Some(Operation::Http { method, path })
        }
        _ => None,
    };
    if let (Ok(client), Some(operation), 0..) = (&client, operation, question.at_least_as_fresh) {
        return Ok(Request { client: *client, operation });
    }

    let mut faults = Faults::default();
    if let Err(error) = client {
        faults.add("client_ip", error.reason(), error);
    }
    if question.at_least_as_fresh < 0 {
        faults.add("at_least_as_fresh", "NEGATIVE", "is negative: a revision is 1 or more");
    }
    match question.operation {
        Asked::Nothing => faults.add(
            "operation",
            "REQUIRED",
            "is required: name a scope, or an HTTP method and path",
        ),
        Asked::Scope("") => faults.add("scope", "REQUIRED", "is required"),
        Asked::Scope(name) if operation.is_none() => {
            let shown = quote(name, MAX_NAME_LEN);
            faults.add(
                "scope",
                "UNKNOWN_SCOPE",
                format_args!("the catalogue has no scope {shown}: check its spelling"),
            );
        }
        Asked::Scope(_) => {}
        Asked::Http { method, path } => {
            if method.is_empty() {
                faults.add("http.method", "REQUIRED", "is required");
            }
            if path.is_empty() {
                faults.add("http.path", "REQUIRED", "is required");
            }
        }
    }
    faults.settle()?;
    // One of the two was missing, so there was a fault.
    Err(Error::Internal)
}
