//! What is counted and measured of webhooks.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// See the module.
#[derive(Debug, Default)]
pub struct WebhookMetrics {
    /// Events that receivers accepted.
    pub delivered: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Events that were given up.
    pub skipped: Counter,
    failing: Gauge,
    lag: Gauge,
}

impl WebhookMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "webhook_events_delivered",
                "Events that receivers of webhooks accepted",
                &self.delivered,
            ),
            ("webhook_failures", "Attempts to deliver to a webhook that failed", &self.failures),
            ("webhook_events_skipped", "Events for webhooks that were given up", &self.skipped),
        ] {
            registry.register(name, help, counter.clone());
        }
        let help = "Webhooks whose receivers do not accept events, or want no more";
        registry.register("webhooks_failing", help, self.failing.clone());
        let help = "Age of the oldest event that a failing webhook waits for";
        registry.register_with_unit("webhook_lag", help, Unit::Seconds, self.lag.clone());
    }

    /// Shows how many webhooks fail, and how old the oldest event is that one of them waits for, in seconds.
    pub fn show(&self, failing: u64, lag: i64) {
        self.failing.set(super::gauge(failing));
        self.lag.set(lag);
    }
}
