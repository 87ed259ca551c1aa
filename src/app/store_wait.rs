//! Waiting for a database that is not up yet, or is too busy: each step of the start that needs it is tried again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::explain;
use crate::clock::Stopwatch;
use crate::config::server::StoreSettings;
use crate::policy::duration;
use crate::store::{OpenError, StoreError};

/// Between two attempts of a step, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// The start was stopped by a signal.
#[derive(Debug, thiserror::Error)]
#[error("stopped before the server was ready")]
pub(super) struct Stopped;

/// How long all steps of a start may wait for the database together.
#[derive(Debug)]
pub(super) struct StoreWait {
    limit: Duration,
    begun: Stopwatch,
    stop: CancellationToken,
    report: fn(&str, Duration),
}

impl StoreWait {
    /// Waits as long as `settings` say, or until `stop`. Before each further attempt, `report` gets the cause of the last
    /// failure, and the time that is left.
    pub(super) fn new(
        settings: &StoreSettings,
        stop: CancellationToken,
        report: fn(&str, Duration),
    ) -> Self {
        let limit = match settings {
            StoreSettings::Embedded(_) => Duration::ZERO,
            StoreSettings::Postgres { wait, .. } => *wait,
        };
        Self { limit, begun: Stopwatch::start(), stop, report }
    }

    /// Calls `step` until it succeeds, fails for a cause that does not pass by itself, or the time is over. An attempt
    /// is never interrupted, since it may change the store.
    ///
    /// # Errors
    /// The last error of `step`; [`Stopped`].
    pub(super) async fn retry<T>(
        &self,
        step: impl AsyncFn() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut pause = PAUSES.0;
        loop {
            let error = match step().await {
                Err(error) if may_pass(&error) && !self.limit.is_zero() => error,
                outcome => return outcome,
            };
            let left = self.limit.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                let limit = duration::print(self.limit);
                return Err(error.context(format!(
                    "no service of the database within {limit} (--wait-for-store)"
                )));
            }
            (self.report)(&explain(&error), left);
            let paused = tokio::time::sleep(pause.min(left));
            if self.stop.run_until_cancelled(paused).await.is_none() {
                return Err(Stopped.into());
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Whether `error` is one of the store that may pass by itself.
fn may_pass(error: &anyhow::Error) -> bool {
    let of_store = error.chain().find_map(|cause| match cause.downcast_ref::<OpenError>() {
        Some(error) => Some(error.may_pass()),
        None => cause.downcast_ref().map(StoreError::may_pass),
    });
    of_store.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::{Context as _, anyhow};

    use super::*;
    use crate::store::Trouble;

    fn wait(limit: Duration) -> StoreWait {
        let settings =
            StoreSettings::Postgres { url: String::new().into(), connections: 2, wait: limit };
        StoreWait::new(&settings, CancellationToken::new(), |_, _| {})
    }

    fn busy() -> anyhow::Error {
        let source = Box::new(OpenError::Url("unused"));
        let (address, trouble) = ("127.0.0.1:5432".to_owned(), Trouble::Busy);
        anyhow::Error::from(OpenError::Database { address, trouble, source }).context("no cache")
    }

    #[tokio::test]
    async fn step_is_tried_again_while_its_failure_may_pass_and_until_the_time_is_over() {
        let attempts = Cell::new(0);
        let step = async |failures: u32, error: fn() -> anyhow::Error| {
            attempts.set(attempts.get() + 1);
            if attempts.get() <= failures { Err(error()) } else { Ok(attempts.get()) }
        };
        let hour = Duration::from_secs(3_600);
        assert_eq!(wait(hour).retry(async || step(2, busy).await).await.unwrap(), 3);

        attempts.set(0);
        let refused = || anyhow!("another program has the port");
        let error = wait(hour).retry(async || step(3, refused).await).await.unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), attempts.get()),
            ("another program has the port", 1)
        );

        attempts.set(0);
        wait(Duration::ZERO).retry(async || step(3, busy).await).await.unwrap_err();
        assert_eq!(attempts.get(), 1, "0s is no wait");

        attempts.set(0);
        let soon = wait(Duration::from_micros(1));
        let error = soon.retry(async || step(u32::MAX, busy).await).await.unwrap_err();
        let why = "no service of the database within 1us (--wait-for-store): no cache: ";
        assert!(explain(&error).starts_with(why), "{error:#}");
    }

    #[tokio::test]
    async fn wait_ends_with_a_signal_to_stop() {
        let wait = wait(Duration::from_secs(3_600));
        wait.stop.cancel();
        let error = wait.retry(async || Err::<(), _>(busy())).await.unwrap_err();
        assert!(error.is::<Stopped>(), "{error:#}");
        let error = Err::<(), _>(error).context("elsewhere").unwrap_err();
        assert!(error.is::<Stopped>(), "also with a context");
    }
}
