//! Tasks that can't die silently, and the order of the end: stop accepting, drain, stop.
//!
//! This is the only file that spawns a bare task.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::telemetry::request_id;

/// Spawns a task that ends by itself, as a part of the request that this thread works on, if it works on one. A panic in
/// it is logged, with the task's name.
pub fn spawn<F>(name: &'static str, task: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    let task = tokio::spawn(request_id::carry(task));
    #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    tokio::spawn(request_id::carry(async move {
        if let Err(error) = task.await
            && error.is_panic()
        {
            tracing::error!(task = name, "a task panicked");
        }
    }))
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

/// The signals that stop the process in order, caught from when this is made: a signal that comes before
/// anybody waits is not lost, and does not end the process by itself. SIGQUIT and SIGXCPU are among them:
/// by themselves they would write a core file, with secrets in it.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    processor_limit: Signal,
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
            quit: signal(SignalKind::quit())?,
            processor_limit: signal(kind(rustix::process::Signal::XCPU))?,
        })
    }

    /// Waits for one; its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.quit.recv() => "SIGQUIT",
            _ = self.processor_limit.recv() => "SIGXCPU",
        }
    }
}

/// SIGHUP, caught from when this is made: it asks for files to be read again or reopened, and would end the process by
/// itself.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Catches it from now on.
    ///
    /// # Errors
    /// The system refuses to hand out signals.
    pub fn catch() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for one. Several that come before anybody waits are one.
    pub async fn next(&mut self) {
        let _ = self.0.recv().await;
    }
}

/// The signals that are ignored, caught from when this is made: by themselves they would end the process
/// without draining.
#[derive(Debug)]
pub struct IgnoredSignals {
    user_defined1: Signal,
    user_defined2: Signal,
}

impl IgnoredSignals {
    /// Ignores them from now on.
    ///
    /// # Errors
    /// The system refuses to hand out signals.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self {
            user_defined1: signal(SignalKind::user_defined1())?,
            user_defined2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Logs each that comes, without an end.
    pub async fn log(mut self) {
        loop {
            let name = tokio::select! {
                _ = self.user_defined1.recv() => "SIGUSR1",
                _ = self.user_defined2.recv() => "SIGUSR2",
            };
            tracing::warn!(
                signal = name,
                "a signal is ignored: SIGHUP makes the server read its files again, SIGTERM stops it"
            );
        }
    }
}

/// From now on, a write beyond the limit of a file's size (`ulimit -f`) fails with an error, as on a full disk,
/// and does not end the process: SIGXFSZ is ignored. Needs a runtime.
///
/// # Errors
/// The system refuses to hand out signals.
pub fn outlive_file_size_limit() -> std::io::Result<()> {
    // The handler outlives what is dropped here.
    signal(kind(rustix::process::Signal::XFSZ)).map(drop)
}

fn kind(signal: rustix::process::Signal) -> SignalKind {
    SignalKind::from_raw(signal.as_raw())
}
