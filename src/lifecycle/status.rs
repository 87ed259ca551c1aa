//! The status of the lifecycle for operators: read from the store now and then, kept in memory.
//!
//! # Invariants
//! - Health and metrics are answered from memory. Only this task reads the store, so that no number of readers
//!   can burden it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::{Actor, Context, MailState, PendingCounts};
use crate::policy::time::Timestamp;
use crate::store::{self, Store, Trouble};
use crate::telemetry::Metrics;

/// How often the store is asked.
pub const REFRESH: Duration = Duration::from_secs(15);

/// What the store said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSnapshot {
    /// How many actions are announced.
    pub pending: PendingCounts,
    /// How the mails stand.
    pub mails: MailState,
    /// When that was so.
    pub read: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub struct LifecycleStatus {
    store: Arc<dyn Store>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    known: ArcSwapOption<StatusSnapshot>,
}

impl LifecycleStatus {
    /// Nothing known yet.
    pub fn new(store: Arc<dyn Store>, clock: Arc<Clock>, metrics: Arc<Metrics>) -> Self {
        Self { store, clock, metrics, known: ArcSwapOption::empty() }
    }

    /// What is known; `None` until the store was read.
    pub fn known(&self) -> Option<Arc<StatusSnapshot>> {
        self.known.load_full()
    }

    /// What ails the store now, and for how long.
    pub fn troubles(&self) -> Vec<(Trouble, Duration)> {
        self.store.troubles()
    }

    /// Reads the store.
    ///
    /// # Errors
    /// The store's; what was known stays.
    pub async fn run_once(&self) -> store::Result<()> {
        let pending = self.store.count_pending().await?;
        let mails = self.store.mail_state().await?;
        let read = self.clock.now();
        let oldest = mails.oldest.map_or(0, |since| (read.0 - since.0).max(0) / 1_000_000);
        self.metrics.pending(pending.deletions, pending.downgrades);
        self.metrics.mails(mails.waiting, mails.failing.len() as u64, oldest);
        self.known.store(Some(Arc::new(StatusSnapshot { pending, mails, read })));
        Ok(())
    }

    /// Reads it every `interval` until `stop`.
    pub async fn run(&self, interval: Duration, stop: CancellationToken) {
        let mut failing = false;
        while !stop.is_cancelled() {
            let read = self.run_once().await;
            if let Err(error) = &read
                && !failing
            {
                tracing::warn!(%error, "cannot read how the lifecycle stands");
            }
            failing = read.is_err();
            // Nobody else may have anything to change for hours, and so to see that it works again.
            self.store.probe(&Context::new(Actor::System, self.clock.now(), None)).await;
            stop.run_until_cancelled(tokio::time::sleep(interval)).await;
        }
    }
}
