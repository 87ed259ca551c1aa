//! The decision log of a server: opened before anything is decided, watched, and reopened on SIGHUP.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::server::{DecisionLogSettings, DecisionLogTarget};
use crate::decision_log::{DecisionLog, OpenedLog, Settings, Target};
use crate::shutdown::{self, Hangup};
use crate::telemetry::Metrics;

/// Opens the log that `settings` name.
///
/// # Errors
/// Names the flag, the path and the cure.
pub(super) fn open(settings: &DecisionLogSettings) -> anyhow::Result<OpenedLog> {
    let (target, path) = match &settings.target {
        DecisionLogTarget::Stdout => (Target::Stdout, Path::new("-")),
        DecisionLogTarget::File(path) => (Target::File(path.clone()), path.as_path()),
    };
    let own = Settings { target, allows: settings.allows, max_size: settings.max_size };
    OpenedLog::open(own).with_context(|| {
        format!(
            "--decision-log: cannot open {}: its directory must exist, and the server's user may create files there; \
             the file itself must be a regular one that this user may read and write, or none, and no symbolic link",
            path.display()
        )
    })
}

/// Starts the writer, and the task that notifies it of SIGHUP. If the writer ends early, the process stops.
///
/// # Errors
/// The system gives no thread, or no signals.
pub(super) fn start(
    opened: OpenedLog,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<DecisionLog>> {
    let mut hangup = Hangup::catch().context("cannot wait for signals")?;
    let log = opened.start(clock, metrics).context("cannot start the decision log")?;
    let log = Arc::new(log);
    shutdown::spawn_essential("decision-log", stop.clone(), {
        let log = log.clone();
        async move { log.ended().await }
    });
    shutdown::spawn_essential("decision-log-reopen", stop.clone(), {
        let (log, stop) = (log.clone(), stop.clone());
        async move {
            while stop.run_until_cancelled(hangup.next()).await.is_some() {
                log.reopen();
            }
        }
    });
    Ok(log)
}
