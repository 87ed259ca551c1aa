//! Decisions that have to wait: the token is not in memory, its use has to be recorded first, memory does not rest on
//! the requested revision yet, or this replica has no lease.
//!
//! A use that cancels an announced action takes two rounds of the loop: the first decides and records it in the store,
//! the second decides on the facts as they are after that.

use std::sync::Arc;
use std::time::Duration;

use sdd::Shared;
use smallvec::SmallVec;

use super::arguments::{self, Memo};
use super::{AuthorizeInput, is_secret_of};
use crate::cache::{
    CacheEntry, CachedToken, Lookup, Membership, ReadError, TokenKey, UnknownAccount,
};
use crate::clock::Stopwatch;
use crate::decision_log::{Call, DecidedRequest};
use crate::model::ActiveCatalog;
use crate::policy::decide::{self, Decision, Presented, Request};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::time::Timestamp;
use crate::policy::token::AccountRestriction;
use crate::replication::NotFreshEnough;
use crate::secret::{self, ParsedSecret, SecretKind};
use crate::service::{Error, Result, Services, no_catalog};
use crate::usage::UseOutcome;

/// How often a question is evaluated because its token changed meanwhile.
const MAX_ATTEMPTS: usize = 4;

/// What was read in less is decided on even if it changes meanwhile: the question and the change were under
/// way at the same time, and nobody can know which came first.
const LONG_READ: Duration = Duration::from_millis(20);

/// What a decision that had to wait was made with. It owns its facts, and computes the decision, which borrows them,
/// once for the metrics and once for the caller.
pub struct OwnedEvaluation {
    in_force: Arc<ActiveCatalog>,
    found: Found,
    /// What restricts the account of the token that was found.
    account: Option<AccountRestriction>,
    /// The store's time that it was made at.
    now: Timestamp,
    revision: i64,
}

/// What a presented secret turned out to be.
enum Found {
    /// It has not the shape and checksum of one that was made here.
    Malformed,
    Unknown,
    Token(Shared<CachedToken>),
}

/// What was read of the cache, each with its generation before.
type Reads = SmallVec<[(TokenKey, u64); 3]>;

impl OwnedEvaluation {
    /// The revision that the decision rests on, 0 where none is known.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The decision: the same at each call.
    ///
    /// # Errors
    /// [`Error::Invalid`] for malformed arguments.
    pub fn decision<'e>(&'e self, input: &AuthorizeInput<'e>) -> Result<Decision<'e>> {
        self.request(input).map(|request| self.decide(&request))
    }

    fn request<'e>(&'e self, input: &AuthorizeInput<'e>) -> Result<Request<'e>> {
        arguments::check(input, &self.in_force.catalog, &mut Memo::default())
    }

    fn decide<'e>(&'e self, request: &Request<'e>) -> Decision<'e> {
        let presented = match &self.found {
            Found::Malformed => Presented::Malformed,
            Found::Unknown => Presented::Unknown,
            Found::Token(token) => Presented::token(token, self.account),
        };
        decide::decide(presented, &self.in_force.catalog, request, self.now)
    }
}

impl Services {
    /// Decides, reading the token from the store where it is not in memory. `call` is from [`Self::begin_call`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for malformed arguments; [`Error::Unavailable`] and [`Error::Overloaded`] where no decision
    /// was reached.
    pub async fn evaluate_with_store(
        &self,
        input: &AuthorizeInput<'_>,
        call: Option<&Call>,
    ) -> Result<OwnedEvaluation> {
        let started = Stopwatch::start();
        let evaluated = self.try_store(input).await.and_then(|evaluation| {
            let request = evaluation.request(input)?;
            let decision = evaluation.decide(&request);
            let reason = decision.verdict.reason();
            if let Some(call) = call {
                let decided = DecidedRequest {
                    request: &request,
                    catalog: &evaluation.in_force.catalog,
                    presented: input.presented,
                    dry_run: input.dry_run,
                    time: evaluation.now,
                    started,
                    revision: evaluation.revision,
                };
                self.log(call, &decision, &decided);
            }
            Ok((reason, evaluation))
        });
        match evaluated {
            Ok((reason, evaluation)) => {
                self.metrics.decided(reason, started.elapsed());
                Ok(evaluation)
            }
            Err(error) => {
                self.metrics.decision_errors.inc();
                Err(error)
            }
        }
    }

    async fn try_store(&self, input: &AuthorizeInput<'_>) -> Result<OwnedEvaluation> {
        // Read before any fact is. The decision is not made before what the question asks for is applied.
        let revision = self.revision().max(input.at_least_as_fresh);
        let caught_up = self.replicas.catch_up_to(input.at_least_as_fresh).await;
        caught_up.map_err(|NotFreshEnough| not_fresh_enough())?;
        let secret = ParsedSecret::parse(input.token, SecretKind::Token);
        let mut persisted = false;
        for left in (0..MAX_ATTEMPTS).rev() {
            self.ready().await?;
            let watch = Stopwatch::start();
            let (found, reads) = self.find(input, secret.as_ref()).await?;
            // A read may take long: the lease may have run out, and what was read may have been
            // changed, and its change be answered. Where it changes all the time, the last reading
            // is as good as any.
            self.ready().await?;
            let changed = |&(key, generation)| generation != self.cache.tokens.generation(key);
            if watch.elapsed() > LONG_READ && left > 0 && reads.iter().any(changed) {
                continue;
            }
            let in_force = self.cache.catalog().ok_or_else(no_catalog)?;
            let now = self.clock.now();
            // After the token was read, which may have taken long.
            let account = match &found {
                Found::Token(token) => self.account_restriction(*token.account_id)?,
                Found::Malformed | Found::Unknown => None,
            };
            let evaluation = OwnedEvaluation { in_force, found, account, now, revision };
            let request = evaluation.request(input)?;
            let decision = evaluation.decide(&request);
            if input.dry_run {
                return Ok(evaluation);
            }
            let token = match &evaluation.found {
                Found::Token(token) => Some(&**token),
                Found::Malformed | Found::Unknown => None,
            };
            let Err((token, scope)) = self.note(&decision, token, &request, now, persisted) else {
                return Ok(evaluation);
            };
            // An announced action must know of this use before any caller learns that it is allowed.
            let catalog = evaluation.in_force.clone();
            match self.usage.record_use_of_announced(catalog, token, scope, now).await {
                Ok(UseOutcome::Recorded) => persisted = true,
                Ok(UseOutcome::DecideAgain) => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot record a use that cancels");
                    return Err(use_not_persisted());
                }
            }
        }
        Err(use_not_persisted())
    }

    /// Why no token of the account may be used, if that is so.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where that is not known.
    pub fn account_restriction(&self, id: AccountId) -> Result<Option<AccountRestriction>> {
        let restriction = self.cache.accounts.borrow().restriction(id);
        restriction.map_err(|UnknownAccount| unknown_account())
    }

    /// What the presented secret turns out to be, and what was read for it.
    async fn find(
        &self,
        input: &AuthorizeInput<'_>,
        secret: Option<&ParsedSecret<'_>>,
    ) -> Result<(Found, Reads)> {
        let mut reads = Reads::new();
        let mut read = async |key: TokenKey| {
            reads.push((key, self.cache.tokens.generation(key)));
            self.read_facts(key).await
        };
        // What was made here is no imported secret. Rule 10.7 of docs/policy.md.
        if let Some(secret) = secret.filter(|secret| self.verify_tag(secret)) {
            let token = read(TokenId(secret.id).into()).await?;
            let token = token.filter(|token| is_secret_of(input.token, token));
            return Ok((token.map_or(Found::Unknown, Found::Token), reads));
        }
        for (digest, half) in self.imported_keys(input.presented) {
            match self.cache.imports.membership(half) {
                Membership::Absent => continue,
                Membership::Unknown => return Err(imports_unknown()),
                Membership::Possible => {}
            }
            if let Some(token) = read(TokenKey::Digest(digest, half)).await?
                && secret::digest_eq(&token.digest, &digest)
            {
                return Ok((Found::Token(token), reads));
            }
        }
        if secret.is_none() {
            return Ok((Found::Malformed, reads));
        }
        self.metrics.forged.inc();
        Ok((Found::Unknown, reads))
    }

    /// What is known of the token with this key, from memory or from the store; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::Overloaded`] where that can't be said.
    pub(in crate::service) async fn read_facts(&self, key: TokenKey) -> Result<CacheEntry> {
        Ok(match self.cache.tokens.get(key).await {
            Lookup::Hit(entry) => entry,
            Lookup::Miss => self.cache.tokens.read(key).await.map_err(|error| match error {
                ReadError::Store(error) => {
                    tracing::debug!(%error, "cannot read the facts of a token");
                    store_unavailable()
                }
                ReadError::Late => store_unavailable(),
                ReadError::Overloaded => {
                    self.metrics.shed.inc();
                    Error::Overloaded
                }
            })?,
        })
    }
}

fn use_not_persisted() -> Error {
    Error::Unavailable {
        why: "the use cancels what is announced for the token, and could not be recorded; no \
              decision: deny",
        retry: Duration::from_secs(1),
    }
}

fn unknown_account() -> Error {
    Error::Unavailable {
        why: "the token's account was changed, and can't be read from the store now; no decision: deny",
        retry: Duration::from_secs(1),
    }
}

/// Rule 10.8 of docs/policy.md.
pub(in crate::service) fn imports_unknown() -> Error {
    Error::Unavailable {
        why: "this replica could not read from the store which tokens are imported, and this may be one of them; no \
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

/// Rule 6.9 of docs/policy.md.
fn store_unavailable() -> Error {
    Error::Unavailable {
        why: "the token could not be read from the store; no decision: deny",
        retry: Duration::from_secs(1),
    }
}
