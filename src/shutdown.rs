//! Tasks that can't die silently, and the order of the end: stop accepting, drain, stop.
//!
//! This is the only file that spawns a bare task.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Spawns a task that ends by itself. A panic in it is logged, with the task's name.
pub fn spawn<F>(name: &'static str, task: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    let task = tokio::spawn(task);
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    tokio::spawn(async move {
        if let Err(error) = task.await
            && error.is_panic()
        {
            tracing::error!(task = name, "a task panicked");
        }
    })
}

/// Spawns a task that runs until `stop`; when it ends earlier, for whatever reason, the process is
/// stopped.
pub fn spawn_essential<F>(name: &'static str, stop: CancellationToken, task: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    let task = tokio::spawn(task);
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    tokio::spawn(async move {
        let ended = task.await;
        if !stop.is_cancelled() {
            tracing::error!(task = name, panicked = ended.is_err(), "a task ended early: stopping");
            stop.cancel();
        }
    })
}

/// Ctrl-C and SIGTERM, caught from when this is made: a signal that comes before anybody waits is not
/// lost, and does not end the process by itself.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// The system refuses to hand out signals.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
