//! Tasks that can't die silently, and the order of the end: stop accepting, drain, stop.
//!
//! This is the only file that spawns a bare task.

use std::future::Future;

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

/// Waits for Ctrl-C or SIGTERM.
///
/// # Errors
/// The system refuses to hand out signals.
pub async fn signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.map(|()| "SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}
