//! What keeps the lease: renewals by one task, and changes applied and acknowledged by another, so that
//! neither waits for the other.
//!
//! Must stay true: everything that was read is handed to the machine with the epoch in which it was
//! requested; what is published as the lease's end is what the machine says, under its lock.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::{LeaseState, ReplicaTask, lock};
use crate::cache::Cache;
use crate::clock::{Stopwatch, id_at, moment};
use crate::failpoint::{self, Failpoint};
use crate::lease::{Attempt, Epoch, Head, Identity, Position, RenewalOutcome, RowId};
use crate::model::Invalidation;
use crate::policy::time::Timestamp;
use crate::store;
use crate::store::replication::{ChangeLogPage, ChangeNotification};

/// Attempts under way at most.
const MAX_ATTEMPTS: usize = 3;
/// Between two attempts at most while they fail, so that a store that is back is found soon.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Between two attempts at least, however many wait for one.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Between two tries to apply changes.
const APPLY_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Changes that are read at once.
const PAGE: u32 = 1_000;
/// How often the record is pruned.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The result of an attempt: its row, and the store's answer.
pub(super) struct AttemptResult {
    attempt: Attempt,
    row: RowId,
    answer: store::Result<Option<Head>>,
}

impl ReplicaTask {
    /// What must run for as long as this process may decide.
    pub(super) fn tasks(self: Arc<Self>, cache: &Arc<Cache>) -> [(&'static str, Task); 4] {
        let (renew, follow, poll) = (self.clone(), self.clone(), self.clone());
        let cache = cache.clone();
        [
            ("lease", Box::pin(async move { renew.renew().await })),
            ("changes", Box::pin(async move { follow.follow(&cache).await })),
            ("replicas", Box::pin(async move { poll.poll_on_demand().await })),
            ("record", Box::pin(async move { self.prune().await })),
        ]
    }

    /// Shows until when decisions may be made, and on which changes.
    pub(super) fn publish(&self, state: &LeaseState) {
        let revision = state.replica.applied().map_or(0, |applied| applied.0);
        self.until.revision.store(revision, Ordering::Release);
        self.until.moment.store(state.replica.until().0, Ordering::Release);
    }

    /// Sends a renewal, or a registration where there is no row. It counts as made from now on, not from
    /// when it is first polled: a caller that asks then when the next is due would make it twice.
    pub(super) fn attempt(&self) -> impl Future<Output = AttemptResult> {
        let (attempt, row, registered, applied) = {
            let mut state = lock(&self.state);
            let attempt = state.replica.attempt(moment());
            let row = if attempt.registers {
                // Of no time at all: only that it is new counts.
                RowId(id_at(Timestamp(0)).as_u128())
            } else {
                state.row
            };
            (attempt, row, state.replica.registered(), state.replica.applied())
        };
        async move {
            let answer = match registered {
                Some(store) => self.store.renew(row, store, applied).await,
                None => self.store.register(row, self.length, applied, &self.about).await.map(Some),
            };
            AttemptResult { attempt, row, answer }
        }
    }

    /// Receives the result of an attempt.
    ///
    /// # Errors
    /// The store's, where there was none.
    pub(super) async fn receive(
        &self,
        AttemptResult { attempt, row, answer }: AttemptResult,
    ) -> store::Result<()> {
        let head = match answer {
            Ok(head) => head,
            Err(error) => {
                self.metrics.renewal_failures.inc();
                let since = self.failing.borrow().or_else(|| Some(Stopwatch::start()));
                if self.failing.send_replace(since).is_none() {
                    tracing::warn!(
                        %error,
                        "the lease can't be renewed: decisions go on for as long as it lasts"
                    );
                }
                return Err(error);
            }
        };
        let outcome = {
            let mut state = lock(&self.state);
            let outcome = state.replica.answer(attempt, head);
            if let (RenewalOutcome::Registered, Some(head)) = (outcome, head) {
                state.row = row;
                state.registered_at = head.position;
                if state.replica.applied().is_none() {
                    // What is read from now on must be read from that store.
                    self.store.reconnect();
                }
            }
            self.publish(&state);
            outcome
        };
        match outcome {
            RenewalOutcome::Registered => tracing::info!("registered as a replica"),
            RenewalOutcome::Lost => tracing::warn!(
                "this replica was away for longer than its lease, or the database failed over: \
                 registering again"
            ),
            RenewalOutcome::Late if attempt.registers => {
                // A row that nobody owns, and that everybody would wait for.
                if let Err(error) = self.store.remove(row, None).await {
                    tracing::debug!(%error, "a row without an owner is left to the others");
                }
            }
            RenewalOutcome::Renewed | RenewalOutcome::Late => {}
        }
        if self.failing.send_replace(None).is_some() {
            tracing::info!("the store answers again");
        }
        self.behind.notify_one();
        Ok(())
    }

    /// Renews in time, and sooner where somebody waits for it.
    async fn renew(&self) {
        let mut attempts = FuturesUnordered::new();
        let mut lapsed = false;
        let (mut wanted, mut sent) = (false, Stopwatch::start());
        loop {
            let now = moment();
            let (until, due) = {
                let state = lock(&self.state);
                (state.replica.until(), state.replica.renew_at())
            };
            if std::mem::replace(&mut lapsed, now >= until) != lapsed {
                if lapsed {
                    self.metrics.lease_lapses.inc();
                    tracing::error!(
                        "the lease has run out: nothing is decided until it is renewed"
                    );
                } else {
                    tracing::info!("the lease is renewed: decisions go on");
                }
            }
            let pause = Duration::from_micros(due.0.saturating_sub(now.0));
            let pause =
                if self.failing.borrow().is_some() { pause.min(RETRY_INTERVAL) } else { pause };
            let soon = MIN_INTERVAL.saturating_sub(sent.elapsed());
            let pause = if wanted && attempts.is_empty() { pause.min(soon) } else { pause };
            // Looked at again when it may have run out.
            let ends = Duration::from_micros(until.0.saturating_sub(now.0));
            let room = attempts.len() < MAX_ATTEMPTS;
            tokio::select! {
                () = tokio::time::sleep(pause), if room => {
                    (wanted, sent) = (false, Stopwatch::start());
                    attempts.push(self.attempt());
                }
                () = tokio::time::sleep(ends), if !lapsed => {}
                Some(ended) = attempts.next() => {
                    if self.receive(ended).await.is_ok() {
                        // A replica that died is known by the time that a change has to wait for it.
                        self.demand.notify_one();
                    }
                }
                () = self.wanted.notified() => wanted = true,
            }
        }
    }

    /// Makes memory follow what others change.
    async fn follow(&self, cache: &Arc<Cache>) {
        loop {
            let followed = match self.catch_up(cache).await {
                Ok(()) => self.follow_notifications(cache).await,
                Err(error) => Err(error),
            };
            if let Err(error) = followed {
                tracing::debug!(%error, "changes are not applied yet");
                tokio::time::sleep(APPLY_RETRY_INTERVAL).await;
            }
        }
    }

    /// Applies changes by their notifications, one at a time, until the record has to be read.
    async fn follow_notifications(&self, cache: &Arc<Cache>) -> store::Result<()> {
        loop {
            let notification = tokio::select! {
                () = self.behind.notified() => None,
                notification = self.store.next_notification() => notification,
            };
            let Some(notification) = notification else { return Ok(()) };
            if !self.follow_one(cache, notification).await? {
                return Ok(());
            }
        }
    }

    /// Makes memory follow a change by its notification, if it is the next one, and to forget what it touched
    /// costs no more than a miss. Whether that is all there is to do. A notification may be untrue, or come
    /// early: it counts as applied only once the record, compared with it in the statement that acknowledges
    /// it, says the same, of the same writer, with the nonce that nobody knew before the commit.
    async fn follow_one(
        &self,
        cache: &Arc<Cache>,
        notification: ChangeNotification,
    ) -> store::Result<bool> {
        let position = Position(notification.change.position);
        match notification.change.touched {
            Invalidation::Token(_) | Invalidation::Nothing => {}
            // What must be read at once stays as it is until the record says that it changed.
            Invalidation::Credential(_)
            | Invalidation::Account(_)
            | Invalidation::Catalog
            | Invalidation::SecretKeys
            | Invalidation::Imports => {
                return Ok(false);
            }
        }
        let (epoch, row, store) = {
            let state = lock(&self.state);
            let replica = &state.replica;
            match (replica.registered(), replica.applied()) {
                (Some(store), Some(applied)) if applied.next() == position => {
                    (replica.epoch(), state.row, store)
                }
                // One before that may be of a store that went back in time.
                (_, applied) => return Ok(applied == Some(position)),
            }
        };
        make_effective(cache, [notification.change.touched]).await;
        if !self.store.acknowledge_notified(row, store, notification).await? {
            return Ok(false);
        }
        self.mark_applied(epoch, position);
        Ok(true)
    }

    /// Marks that memory rests on `position` from now on; a lease may begin to hold by that.
    fn mark_applied(&self, epoch: Epoch, position: Position) {
        let mut state = lock(&self.state);
        state.replica.apply(epoch, position);
        self.publish(&state);
        drop(state);
        self.failing.send_modify(|_| {});
        self.applied.send_replace(());
    }

    async fn catch_up(&self, cache: &Arc<Cache>) -> store::Result<()> {
        loop {
            let (epoch, row, registered, applied, registered_at) = {
                let state = lock(&self.state);
                let replica = &state.replica;
                let (registered, applied) = (replica.registered(), replica.applied());
                (replica.epoch(), state.row, registered, applied, state.registered_at)
            };
            let Some(store) = registered else { return Ok(()) };
            let (position, more) = match applied {
                Some(applied) => match self.apply(cache, epoch, store, applied).await? {
                    Some(followed) => followed,
                    None => return Ok(()),
                },
                None => {
                    cache.reload().await?;
                    (registered_at, true)
                }
            };
            self.mark_applied(epoch, position);
            self.store.acknowledge(row, store, position).await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Makes memory follow what is behind `applied`: up to where it does then, and whether there is more.
    /// `None` where there is nothing to do, or memory is of no use any more.
    async fn apply(
        &self,
        cache: &Arc<Cache>,
        epoch: Epoch,
        store: Identity,
        applied: Position,
    ) -> store::Result<Option<(Position, bool)>> {
        let Some(ChangeLogPage { changes, head }) = self.store.behind(applied, store, PAGE).await?
        else {
            // The next renewal says so.
            self.wanted.notify_one();
            return Ok(None);
        };
        if head < applied {
            tracing::error!(
                was = applied.0,
                is = head.0,
                "the store has gone back in time, as one that was restored: everything is read again, \
                 and what was changed since is lost"
            );
            let mut state = lock(&self.state);
            state.replica.void(epoch);
            self.publish(&state);
            self.wanted.notify_one();
            return Ok(None);
        }
        let first = changes.first().map(|change| Position(change.position));
        if !applied.is_followed(first, head) {
            tracing::info!("the record was pruned: everything is read again");
            cache.reload().await?;
            return Ok(Some((head, true)));
        }
        let Some(last) = changes.last().map(|change| Position(change.position)) else {
            return Ok(None);
        };
        let touched: BTreeSet<Invalidation> = changes.iter().map(|change| change.touched).collect();
        make_effective(cache, touched).await;
        Ok(Some((last, last < head)))
    }

    /// Forgets, now and then, what every replica has applied.
    async fn prune(&self) {
        loop {
            tokio::time::sleep(PRUNE_INTERVAL).await;
            if let Err(error) = self.store.prune().await {
                tracing::debug!(%error, "the record is not pruned yet");
            }
        }
    }
}

async fn make_effective(cache: &Arc<Cache>, touched: impl IntoIterator<Item = Invalidation>) {
    if failpoint::is_active(Failpoint::AcknowledgedUnapplied) {
        return;
    }
    for touched in touched {
        cache.invalidate(touched).await;
    }
}
