//! Decisions: the question's arguments are checked, the token's facts found, `policy` asked.
//!
//! Must stay true: a question about a token in memory waits for nothing, takes no lock and reaches
//! no other thread; a forged token never reaches the store.

use std::time::Duration;

use super::validate::Faults;
use super::{Error, Result, Services, no_catalog};
use crate::cache::{Lookup, ReadError};
use crate::clock::Stopwatch;
use crate::policy::decide::{self, Decision, Operation, Presented, Request};
use crate::policy::id::TokenId;
use crate::policy::network::ClientAddr;
use crate::policy::scope::Catalog;
use crate::secret::{self, Opens, WellFormed};

/// The most questions in one batch.
pub const MAX_BATCH: usize = 1_000;

/// A question as it was asked.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The token's secret, or whatever the client presented as one.
    pub token: &'a str,
    /// The client's address; empty where it is not known.
    pub client_ip: &'a str,
    /// What the client wants to do.
    pub operation: Asked<'a>,
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
        answer: impl FnOnce(&Decision<'_>) -> T,
    ) -> Result<T> {
        let watch = Stopwatch::start();
        let decided = self.decide_now(question, answer).await;
        match decided {
            Ok((reason, answer)) => {
                self.metrics.decided(reason, watch.elapsed());
                Ok(answer)
            }
            Err(error) => {
                self.metrics.undecided.inc();
                Err(error)
            }
        }
    }

    async fn decide_now<T>(
        &self,
        question: &Question<'_>,
        answer: impl FnOnce(&Decision<'_>) -> T,
    ) -> Result<(decide::Reason, T)> {
        // The arguments are checked before anything is looked up, and once more borrowed from the
        // catalogue that the decision is made with: the store may have been asked in between.
        arguments(question, &self.cache.borrow_catalog().as_ref().ok_or_else(no_catalog)?.catalog)?;
        let (fact, malformed) = match WellFormed::parse(question.token, Opens::Token) {
            None => (None, true),
            Some(secret) => (self.fact(&secret).await?, false),
        };
        let in_force = self.cache.borrow_catalog();
        let catalog = &in_force.as_ref().ok_or_else(no_catalog)?.catalog;
        let request = arguments(question, catalog)?;
        let presented = match &fact {
            Some(facts) => Presented::Token(facts),
            None if malformed => Presented::Malformed,
            None => Presented::Unknown,
        };
        let decision = decide::decide(presented, catalog, &request);
        Ok((decision.verdict.reason(), answer(&decision)))
    }

    /// The facts of the token that `secret` opens; `None` for one that opens none.
    async fn fact(&self, secret: &WellFormed<'_>) -> Result<crate::cache::Fact> {
        let id = TokenId(secret.id);
        let fact = match self.cache.tokens.look(id).await {
            Lookup::Known(fact) => {
                self.metrics.hit();
                fact
            }
            Lookup::Unknown if !self.cache.keys().made(secret) => {
                self.metrics.forged.inc();
                None
            }
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
        };
        Ok(fact.filter(|facts| secret::same(&facts.digest, &secret.digest())))
    }
}

fn unreachable_store() -> Error {
    Error::Unavailable {
        why: "the token could not be read from the store; no decision: deny",
        retry: Duration::from_secs(1),
    }
}

/// Checks a question's arguments (docs/policy.md, rule 2.1). Does not allocate where they are fine.
fn arguments<'a>(question: &Question<'a>, catalog: &'a Catalog) -> Result<Request<'a>> {
    let client = match question.client_ip {
        "" => Ok(None),
        text => text.parse::<ClientAddr>().map(Some),
    };
    let operation = match question.operation {
        Asked::Scope(name) if !name.is_empty() => catalog.by_name(name).map(Operation::Scope),
        Asked::Http { method, path } if !method.is_empty() && !path.is_empty() => {
            Some(Operation::Http { method, path })
        }
        _ => None,
    };
    if let (Ok(client), Some(operation)) = (&client, operation) {
        return Ok(Request { client: *client, operation });
    }

    let mut faults = Faults::default();
    if let Err(error) = client {
        faults.add("client_ip", error.reason(), error);
    }
    match question.operation {
        Asked::Nothing => faults.add(
            "operation",
            "REQUIRED",
            "is required: name a scope, or an HTTP method and path",
        ),
        Asked::Scope("") => faults.add("scope", "REQUIRED", "is required"),
        Asked::Scope(name) if operation.is_none() => {
            let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
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
