//! Decisions that have to wait: the token is not in memory, its use has to be recorded first, memory does not rest on
//! the requested revision yet, or this replica has no lease.
//!
//! A use that cancels an announced action takes two rounds of the loop: the first decides and records it in the store,
//! the second decides on the facts as they are after that.

use std::sync::Arc;
use std::time::Duration;

use super::arguments::{self, Memo};
use super::{AuthorizeInput, proven};
use crate::cache::{CacheEntry, Lookup, ReadError, UnknownAccount};
use crate::clock::Stopwatch;
use crate::model::ActiveCatalog;
use crate::policy::decide::{self, Decision, Presented};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::time::Timestamp;
use crate::policy::token::AccountRestriction;
use crate::replication::NotFreshEnough;
use crate::secret::{ParsedSecret, SecretKind};
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
    /// Whether the secret has the shape and checksum of one.
    well_formed: bool,
    entry: CacheEntry,
    /// What restricts the account of the token in it.
    account: Option<AccountRestriction>,
    /// The store's time that it was made at.
    now: Timestamp,
}

impl OwnedEvaluation {
    /// The decision: the same at each call.
    ///
    /// # Errors
    /// [`Error::Invalid`] for malformed arguments.
    pub fn decision<'e>(&'e self, input: &AuthorizeInput<'e>) -> Result<Decision<'e>> {
        let catalog = &self.in_force.catalog;
        let request = arguments::check(input, catalog, &mut Memo::default())?;
        let presented = match self.well_formed {
            true => match proven(input, self.entry.as_deref()) {
                Some(token) => Presented::token(token, self.account),
                None => Presented::Unknown,
            },
            false => Presented::Malformed,
        };
        Ok(decide::decide(presented, catalog, &request, self.now))
    }
}

impl Services {
    /// Decides, reading the token from the store where it is not in memory.
    ///
    /// # Errors
    /// [`Error::Invalid`] for malformed arguments; [`Error::Unavailable`] and [`Error::Overloaded`] where no decision
    /// was reached.
    pub async fn evaluate_with_store(&self, input: &AuthorizeInput<'_>) -> Result<OwnedEvaluation> {
        let started = Stopwatch::start();
        let evaluated = self.try_store(input).await.and_then(|evaluation| {
            let reason = evaluation.decision(input)?.verdict.reason();
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
        let caught_up = self.replicas.catch_up_to(input.at_least_as_fresh).await;
        caught_up.map_err(|NotFreshEnough| not_fresh_enough())?;
        let secret = ParsedSecret::parse(input.token, SecretKind::Token);
        let mut persisted = false;
        for left in (0..MAX_ATTEMPTS).rev() {
            self.ready().await?;
            let entry = match &secret {
                None => None,
                Some(secret) => {
                    let id = TokenId(secret.id);
                    let (generation, watch) =
                        (self.cache.tokens.generation(id), Stopwatch::start());
                    let entry = self.read_token(id, secret).await?;
                    // A read may take long: the lease may have run out, and what was read may have been
                    // changed, and its change be answered. Where it changes all the time, the last reading
                    // is as good as any.
                    self.ready().await?;
                    let long = watch.elapsed() > LONG_READ && left > 0;
                    if long && generation != self.cache.tokens.generation(id) {
                        continue;
                    }
                    entry
                }
            };
            let in_force = self.cache.catalog().ok_or_else(no_catalog)?;
            let now = self.clock.now();
            let well_formed = secret.is_some();
            // After the token was read, which may have taken long.
            let account = match &entry {
                Some(token) => self.account_restriction(*token.account_id)?,
                None => None,
            };
            let evaluation = OwnedEvaluation { in_force, well_formed, entry, account, now };
            let decision = evaluation.decision(input)?;
            if input.dry_run {
                return Ok(evaluation);
            }
            let token = evaluation.entry.as_deref();
            // The decision was reached, so that it is missing or an address.
            let client = input.client_ip.parse().ok();
            let used = self.note_use(&decision, token, client, now, persisted);
            let Err((token, scope)) = used else {
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

    /// The token that `secret` names; `None` for a secret that was not made here, and where there is none.
    async fn read_token(&self, id: TokenId, secret: &ParsedSecret<'_>) -> Result<CacheEntry> {
        if !self.verify_tag(secret) {
            return Ok(None);
        }
        self.read_facts(id).await
    }

    /// What is known of the token with this id, from memory or from the store; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::Overloaded`] where that can't be said.
    pub(in crate::service) async fn read_facts(&self, id: TokenId) -> Result<CacheEntry> {
        Ok(match self.cache.tokens.get(id).await {
            Lookup::Hit(entry) => entry,
            Lookup::Miss => self.cache.tokens.read(id).await.map_err(|error| match error {
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
