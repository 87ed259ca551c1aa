//! The log: lines on standard error, and how much of them; through its subscriber go the spans of traces, too.

use std::fmt;
use std::sync::Arc;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, reload};

use super::log_format::IdentifiedLines;
use super::log_lines::LogLines;
use super::traces::{Pipeline, Traces};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Starts logging to standard error at `level` and above; other crates from `warn` on, and the database
/// library from `error` on: what fails there is reported by the caller. Lines are written by a thread of
/// their own, and dropped where nobody takes them: the reader of the log must not be able to hold up a
/// decision. What is under way is written when the guard is dropped. `colours` are for terminals: in a file
/// their codes would be in the way of reading and searching it. The spans of `traces`, where they are recorded, go through
/// the same subscriber.
pub fn init_logs(
    format: LogFormat,
    colours: bool,
    level: tracing::Level,
    traces: Option<&Pipeline>,
) -> Logs {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match format {
        LogFormat::Text => {
            let layer = layer.with_target(false).map_event_format(|inner| IdentifiedLines {
                format,
                // The lines of requests are written to a buffer, which is no terminal.
                inner: inner.with_ansi(colours),
            });
            layer.boxed()
        }
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true);
            layer.map_event_format(|inner| IdentifiedLines { format, inner }).boxed()
        }
    };
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = lines.and_then(LogLines::default()).with_filter(filter);
    let spans = traces.map(|pipeline| pipeline.traces.clone());
    // A second call, as tests make, keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(lines).with(traces.map(Pipeline::layer)).try_init();
    Logs { _guard: guard, level: LogLevel::of(handle), traces: spans }
}

fn filter(level: tracing::Level) -> EnvFilter {
    // h2 warns of connections that it closes for their client's behaviour: anybody could fill the log.
    EnvFilter::new(format!("warn,h2=error,sqlx=error,portcullis={level}"))
}

/// The log. What is under way is written when it is dropped.
#[derive(Debug)]
pub struct Logs {
    _guard: WorkerGuard,
    level: LogLevel,
    traces: Option<Traces>,
}

impl Logs {
    /// What changes how much is logged.
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }

    /// What begins the spans of traces, where they are recorded.
    pub fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }
}

/// Changes how much is logged.
#[derive(Clone)]
pub struct LogLevel(Arc<dyn Fn(EnvFilter) + Send + Sync>);

impl LogLevel {
    fn of<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Self {
        // It fails only where the subscriber is gone: then nothing is logged.
        Self(Arc::new(move |filter| drop(handle.reload(filter))))
    }

    /// Logs at `level` and above from now on.
    pub fn set(&self, level: tracing::Level) {
        (self.0)(filter(level));
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLevel").finish_non_exhaustive()
    }
}
