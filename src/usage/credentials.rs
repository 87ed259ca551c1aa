//! When credentials were last used: a flag for each in memory, written behind once a minute.
//!
//! Must stay true: a use waits for nothing and never fails; what could not be recorded is recorded a minute later. So
//! a time is up to a minute too late, and never too early. Rule 11.85 of docs/policy.md.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::store::{self, Store};
use crate::telemetry::Metrics;

/// How often uses are recorded: the grain of their times.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long the last recording may take when the process ends.
const FINAL_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct CredentialUses {
    /// Where the times are kept.
    pub store: Arc<dyn Store>,
    /// What has the flags.
    pub cache: Arc<Cache>,
    /// The store's time.
    pub clock: Arc<Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl CredentialUses {
    /// Records what was used since the last call. How many credentials these were.
    ///
    /// # Errors
    /// The store's; what was not recorded is recorded by the next call.
    pub async fn run_once(&self) -> store::Result<usize> {
        let used = self.cache.credentials.take_used();
        if used.is_empty() {
            return Ok(0);
        }
        let record = self.store.record_credential_uses(&used, self.clock.now());
        let recorded = store::timed(&self.metrics, "record_credential_uses", record).await;
        if recorded.is_err() {
            self.cache.credentials.put_back_used(&used);
        }
        recorded.map(|()| used.len())
    }

    /// Records every minute until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            if let Err(error) = self.run_once().await {
                tracing::debug!(%error, "when credentials were used is not recorded yet");
            }
        }
    }

    /// The last recording: to be called when no call is under way any more.
    pub async fn finish(&self) {
        if !matches!(tokio::time::timeout(FINAL_TIMEOUT, self.run_once()).await, Ok(Ok(_))) {
            tracing::debug!("when credentials were last used is not recorded");
        }
    }
}
