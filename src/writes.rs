//! How everything above the store changes it: commits, makes memory follow, and finds out what became of a commit whose
//! answer is missing. Below it, in the store, every change is one `WriteTx` (`store/sql/change.rs`).
//!
//! Services, sweeper, outbox and the recording of use all change the store through [`Writes`]. Two kinds of writes
//! don't need it: those before memory is loaded (`app::bootstrap`), and those that no decision rests on and that leave
//! no change record, such as recorded uses and claims on mails.
//!
//! # Who waits for propagation
//! [`Writes::commit`] does not: a use case that must (rule 6.3 of docs/policy.md) calls [`Writes::propagation`] after
//! it, as do deletions, whitelists, revocations, the catalogue and new secret keys. Sweeper, outbox and the recording of
//! use do not wait. Every replica knows of an action before its notice is sent
//! (`Replicas::await_propagated_revision`, in the outbox), so one that has not applied a removal yet records a use of
//! what was removed in the store first, and finds it there.
//!
//! # Invariants
//! - Memory follows a change before the change is answered.
//! - Where the outcome of a commit is unknown, a task finds it out and makes memory follow then. Until that, decisions
//!   rest on what was before: no answer has said that anything changed.
//! - A write is in flight until memory follows it, so that no revision is said to be applied before it is (rule 6.12 of
//!   docs/policy.md).
//! - A write never waits for another one here: the store puts them in order.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Cache, REPAIR_PAUSE};
use crate::model::{Context, Invalidation};
use crate::policy::id::TokenId;
use crate::replication::{InFlightWrite, PropagationStatus, Replicas, Wait};
use crate::shutdown;
use crate::store::{self, Store, StoreError};
use crate::telemetry::Metrics;

/// How often a change is tried on a catalogue that is replaced meanwhile.
const MAX_ATTEMPTS: usize = 5;
/// How long a call that created something waits for the replicas to apply it.
const BEST_EFFORT_WAIT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Writes {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    replicas: Arc<Replicas>,
    metrics: Arc<Metrics>,
}

/// What to read back where the outcome of a write is unknown.
#[derive(Debug, Clone, Copy)]
enum Affected {
    One(Invalidation),
    /// Only the answer would have said which tokens.
    SomeTokens,
}

impl Writes {
    /// Changes `store`, which `cache` follows and `replicas` share.
    pub fn new(
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        replicas: Arc<Replicas>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, cache, replicas, metrics }
    }

    /// Commits a change of `changed`, and makes memory follow it. Must run to its end, so callers spawn it.
    ///
    /// # Errors
    /// Those of `change`. After [`StoreError::StaleCatalog`] memory has the catalogue in force: decide and call again.
    pub async fn commit<T>(
        &self,
        operation: &'static str,
        changed: Invalidation,
        ctx: &Context,
        change: impl Future<Output = store::Result<T>>,
    ) -> store::Result<T> {
        self.write(operation, Affected::One(changed), ctx, change, |_| [changed]).await
    }

    /// The same for a change whose answer says which tokens it changed, as `tokens` reads it.
    ///
    /// # Errors
    /// As of [`Self::commit`].
    pub async fn commit_tokens<T>(
        &self,
        operation: &'static str,
        ctx: &Context,
        change: impl Future<Output = store::Result<T>>,
        tokens: impl FnOnce(&T) -> Vec<TokenId>,
    ) -> store::Result<T> {
        let changed = |answer: &T| tokens(answer).into_iter().map(Invalidation::Token);
        self.write(operation, Affected::SomeTokens, ctx, change, changed).await
    }

    async fn write<T, C: IntoIterator<Item = Invalidation>>(
        &self,
        operation: &'static str,
        affected: Affected,
        ctx: &Context,
        change: impl Future<Output = store::Result<T>>,
        changed: impl FnOnce(&T) -> C,
    ) -> store::Result<T> {
        let in_flight = self.replicas.begin_write();
        match self.timed(operation, change).await {
            Ok(answer) => {
                let mut all: BTreeSet<_> = changed(&answer).into_iter().collect();
                // A change to one token may have touched others.
                all.extend(ctx.take_touched());
                for changed in all {
                    self.cache.invalidate(changed).await;
                }
                in_flight.end(ctx.revision());
                Ok(answer)
            }
            // Nothing was changed.
            Err(StoreError::StaleCatalog) => {
                drop(in_flight);
                self.refresh_catalog().await?;
                Err(StoreError::StaleCatalog)
            }
            Err(error) => {
                self.find_out(affected, ctx.clone(), in_flight);
                Err(error)
            }
        }
    }

    /// Waits until the store says what became of a write, which may be committed, or yet be, and makes memory follow.
    fn find_out(&self, affected: Affected, ctx: Context, in_flight: InFlightWrite) {
        let (store, cache) = (self.store.clone(), self.cache.clone());
        shutdown::spawn("write-outcome", async move {
            let _in_flight = in_flight;
            let find_out = async || {
                store.await_pending_changes(&ctx).await?;
                match affected {
                    Affected::One(changed) => cache.refresh(changed).await?,
                    Affected::SomeTokens => cache.tokens.invalidate_all(),
                }
                for touched in ctx.take_touched() {
                    cache.invalidate(touched).await;
                }
                Ok::<_, StoreError>(())
            };
            while let Err(error) = find_out().await {
                tracing::debug!(%error, ?affected, "the outcome of a write is not known yet");
                tokio::time::sleep(REPAIR_PAUSE).await;
            }
        });
    }

    /// Makes memory follow what another replica has changed, before it is notified of it.
    pub async fn follow(&self, changed: Invalidation) {
        self.cache.invalidate(changed).await;
    }

    /// Checks what a change would do, without making it.
    ///
    /// # Errors
    /// As of [`Self::commit`].
    pub async fn check<T>(
        &self,
        operation: &'static str,
        check: impl Future<Output = store::Result<T>>,
    ) -> store::Result<T> {
        let checked = self.timed(operation, check).await;
        if matches!(checked, Err(StoreError::StaleCatalog)) {
            self.refresh_catalog().await?;
        }
        checked
    }

    /// Calls `attempt`, which decides with the catalogue in memory and commits, again where the catalogue was replaced
    /// meanwhile.
    ///
    /// # Errors
    /// Those of `attempt`; [`StoreError::StaleCatalog`] where the catalogue was replaced each time.
    pub async fn retry_on_stale_catalog<T, E, F>(&self, attempt: impl Fn() -> F) -> Result<T, E>
    where
        E: From<StoreError>,
        F: Future<Output = Result<store::Result<T>, E>>,
    {
        for _ in 0..MAX_ATTEMPTS {
            match attempt().await? {
                Err(StoreError::StaleCatalog) => {}
                outcome => return Ok(outcome?),
            }
        }
        Err(StoreError::StaleCatalog.into())
    }

    /// Where a change was found made already: waits for what is under way, and commits something that changes nothing,
    /// so that what was found is as safe from a failover as what was answered. Its propagation can be awaited then.
    ///
    /// # Errors
    /// The store's.
    pub async fn await_pending_changes(&self, ctx: &Context) -> store::Result<()> {
        self.timed("await_pending_changes", self.store.await_pending_changes(ctx)).await
    }

    /// How far what was committed, or found made and secured by [`Self::await_pending_changes`], has propagated. `None`
    /// where that is not known in 25 s, or the store does not list the replicas in 5 s.
    pub async fn propagation(&self, wait: Wait) -> Option<PropagationStatus> {
        self.replicas.propagation(wait).await
    }

    /// Gives the other replicas a second to apply what was created, so that it can be used everywhere at once.
    /// Promises nothing.
    pub async fn await_propagation_best_effort(&self) {
        let _ =
            tokio::time::timeout(BEST_EFFORT_WAIT, self.replicas.propagation(Wait::UntilComplete))
                .await;
    }

    async fn refresh_catalog(&self) -> store::Result<()> {
        self.timed("catalog", self.cache.read_catalog()).await
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = store::Result<T>>,
    ) -> store::Result<T> {
        store::timed(&self.metrics, operation, work).await
    }
}
