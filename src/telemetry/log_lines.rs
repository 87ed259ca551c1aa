//! How many warnings and errors were logged, so that an alert can notice those that no other metric shows.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tracing::{Event, Level, Subscriber, dispatcher};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The part of the log subscriber that counts.
#[derive(Debug, Default)]
pub(super) struct LogLines {
    errors: AtomicU64,
    warnings: AtomicU64,
}

impl<S: Subscriber> Layer<S> for LogLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        match *event.metadata().level() {
            Level::ERROR => self.errors.fetch_add(1, Ordering::Relaxed),
            Level::WARN => self.warnings.fetch_add(1, Ordering::Relaxed),
            _ => return,
        };
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

/// Shows the counts of the log subscriber in force; zeros where that one doesn't count.
#[derive(Debug)]
pub(super) struct LogLineMetrics;

impl Collector for LogLineMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (errors, warnings) = dispatcher::get_default(|log| {
            log.downcast_ref::<LogLines>().map_or((0, 0), |lines| {
                (lines.errors.load(Ordering::Relaxed), lines.warnings.load(Ordering::Relaxed))
            })
        });
        let help = "Warnings and errors in the log, by level";
        let mut metric = encoder.encode_descriptor("log_lines", help, None, MetricType::Counter)?;
        for (level, count) in [("error", errors), ("warn", warnings)] {
            metric
                .encode_family(&LevelLabels { level })?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn warnings_and_errors_are_counted_by_level() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(LogLineMetrics));
        let shown = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        let log = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
        tracing::subscriber::with_default(log.with(LogLines::default()), || {
            for level in ["error", "info", "warn", "error"] {
                match level {
                    "error" => tracing::event!(Level::ERROR, level),
                    "warn" => tracing::event!(Level::WARN, level),
                    _ => tracing::event!(Level::INFO, level),
                }
            }
            let text = shown();
            for sample in
                ["log_lines_total{level=\"error\"} 2", "log_lines_total{level=\"warn\"} 1"]
            {
                assert!(text.contains(sample), "{text}");
            }
        });
    }
}
