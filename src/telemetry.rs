//! Logs, metrics and traces, handed to the code that needs them; no globals but the log subscriber.
//!
//! Must stay true: recording a decision takes no lock, allocates nothing, and touches no memory that
//! another thread writes, which would cost more than deciding; no label and no log line
//! carries a secret. Only Portcullis' own log lines can be made verbose: the HTTP/2 and database
//! libraries would print headers and statements.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::policy::decide::Reason;

mod counts;
mod exposition;
mod log_format;
mod log_lines;
mod logs;
mod process;
pub mod request_id;
pub mod traces;
mod webhooks;

use counts::{Decisions, NewLatency, Shown};
pub use counts::{Latency, THREADS, Tally, thread_place};
pub use exposition::Exposition;
use log_lines::LogLineMetrics;
pub use logs::{LogFormat, LogLevel, Logs, init_logs};
use process::ProcessMetrics;
use traces::{TraceCounters, Traces};
pub use webhooks::WebhookMetrics;

/// The labels of store metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    operation: &'static str,
}

/// The labels of call metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    code: &'static str,
}

/// The labels of refusals before a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

/// The labels of answers to gateways.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GatewayLabels {
    interface: &'static str,
    outcome: &'static str,
}

/// The labels of what is counted about leaked secrets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// The labels of troubles of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TroubleLabels {
    kind: &'static str,
}

/// The labels of certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    flag: &'static str,
}

/// The labels of the build.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    architecture: &'static str,
}

/// The labels of files that are read again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    group: &'static str,
}

/// The labels of pending actions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    r#type: &'static str,
}

/// Why a record of the decision log was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropCause {
    /// The queue was full.
    Queue,
    /// Its account, or unknown tokens, had used up their share.
    Share,
    /// The log could not be written.
    Disk,
}

impl DropCause {
    /// Every cause with its stable word.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Queue, "queue"), (Self::Share, "share"), (Self::Disk, "disk")];

    /// Its stable word.
    pub fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// The labels of what the decision log dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Everything that `/metrics` shows.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Decisions,
    /// Requests for a decision that ended in an error.
    pub decision_errors: Counter,
    /// Token facts that had to be read from the store.
    pub cache_misses: Counter,
    /// Token facts in memory.
    pub cache_entries: Gauge,
    /// Accounts in memory that are suspended or closed.
    pub restricted_accounts: Gauge,
    /// Imported tokens in the filter of this replica.
    pub imported_tokens: Gauge,
    /// The size of that filter.
    pub import_filter_bytes: Gauge,
    /// Well-formed tokens that were never made here, recognised without reading the store.
    pub forged: Counter,
    /// Requests refused because too much was under way.
    pub shed: Counter,
    /// Open connections of gateways over HTTP.
    pub gateway_connections: Gauge,
    /// Open gRPC connections.
    pub connections: Gauge,
    /// Uses recorded in the store.
    pub uses_recorded: Counter,
    /// Seen addresses, counts of use and denials that found no room in memory.
    pub activity_dropped: Counter,
    /// The most denials of one token within a minute.
    pub token_denials_max: Gauge,
    /// Actions announced.
    pub actions_announced: Counter,
    /// Actions carried out.
    pub actions_carried_out: Counter,
    /// Rounds of the sweeper that the store ended early, and tokens that it had to pass over.
    pub sweep_failures: Counter,
    /// Mails that the relay took over.
    pub mails_accepted: Counter,
    /// Mails that the relay refused for their own sake.
    pub mails_refused: Counter,
    /// Mails not taken over because the relay takes none.
    pub mail_errors: Counter,
    /// When a sweep last came to its end, in seconds since 1970 by the store's clock; 0 before the
    /// first.
    pub last_sweep: Gauge,
    /// Renewals of the lease that the store did not answer.
    pub renewal_failures: Counter,
    /// How often the lease ran out.
    pub lease_lapses: Counter,
    /// Requests refused because the lease had run out.
    pub lease_rejections: Counter,
    /// Sessions of the management page that began.
    pub sign_ins: Counter,
    /// Attempts to sign in that failed, those that were refused unread included.
    pub sign_in_failures: Counter,
    /// How long pages took.
    pub pages: Latency,
    /// 0 where there can be no others.
    replicas: Gauge,
    lease_remaining: Gauge<f64, AtomicU64>,
    replica_config_mismatches: Gauge,
    change_propagation: Latency,
    pending_actions: Family<TypeLabels, Gauge>,
    mails_waiting: Gauge,
    mails_oldest: Gauge,
    addresses_refused: Gauge,
    store_seconds: Family<StoreLabels, Latency, NewLatency>,
    store_errors: Family<StoreLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    refused: Family<CodeLabels, Counter>,
    gateway_answers: Family<GatewayLabels, Counter>,
    leak_reports: Family<OutcomeLabels, Counter>,
    leak_alerts: Family<OutcomeLabels, Counter>,
    leak_key_fetches: Family<OutcomeLabels, Counter>,
    /// Lines that were written to the decision log.
    pub decision_log_lines: Counter,
    /// Attempts to open or write the decision log that failed.
    pub decision_log_failures: Counter,
    /// In the order of [`DropCause::ALL`]: a family would take a lock for each decision that is dropped.
    decision_log_dropped: [Counter; DropCause::ALL.len()],
    decision_log_size: Gauge,
    /// What is sent to webhooks.
    pub webhooks: WebhookMetrics,
    store_troubles: Family<TroubleLabels, Gauge>,
    certificates: Family<CertificateLabels, Gauge>,
    reload_failures: Family<GroupLabels, Counter>,
    last_reload_successful: Family<GroupLabels, Gauge>,
    failing_reloads: Mutex<BTreeSet<&'static str>>,
    spans: TraceCounters,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that all read zero.
    pub fn new() -> Self {
        Self::with_traces(None)
    }

    /// The same, with what becomes of the spans of `traces`.
    pub fn with_traces(traces: Option<&Traces>) -> Self {
        let spans = traces.map(|traces| traces.counters().clone()).unwrap_or_default();
        let metrics = Self {
            decisions: Decisions::default(),
            decision_errors: Counter::default(),
            cache_misses: Counter::default(),
            cache_entries: Gauge::default(),
            restricted_accounts: Gauge::default(),
            imported_tokens: Gauge::default(),
            import_filter_bytes: Gauge::default(),
            forged: Counter::default(),
            shed: Counter::default(),
            gateway_connections: Gauge::default(),
            connections: Gauge::default(),
            uses_recorded: Counter::default(),
            activity_dropped: Counter::default(),
            token_denials_max: Gauge::default(),
            actions_announced: Counter::default(),
            actions_carried_out: Counter::default(),
            sweep_failures: Counter::default(),
            mails_accepted: Counter::default(),
            mails_refused: Counter::default(),
            mail_errors: Counter::default(),
            last_sweep: Gauge::default(),
            renewal_failures: Counter::default(),
            lease_lapses: Counter::default(),
            lease_rejections: Counter::default(),
            sign_ins: Counter::default(),
            sign_in_failures: Counter::default(),
            pages: Latency::default(),
            replicas: Gauge::default(),
            lease_remaining: Gauge::default(),
            replica_config_mismatches: Gauge::default(),
            change_propagation: Latency::default(),
            pending_actions: Family::default(),
            mails_waiting: Gauge::default(),
            mails_oldest: Gauge::default(),
            addresses_refused: Gauge::default(),
            store_seconds: Family::new_with_constructor(NewLatency),
            store_errors: Family::default(),
            calls: Family::default(),
            refused: Family::default(),
            gateway_answers: Family::default(),
            leak_reports: Family::default(),
            leak_alerts: Family::default(),
            leak_key_fetches: Family::default(),
            decision_log_lines: Counter::default(),
            decision_log_failures: Counter::default(),
            decision_log_dropped: Default::default(),
            decision_log_size: Gauge::default(),
            reload_failures: Family::default(),
            last_reload_successful: Family::default(),
            failing_reloads: Mutex::default(),
            webhooks: WebhookMetrics::default(),
            store_troubles: Family::default(),
            certificates: Family::default(),
            spans,
            registry: Registry::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        self.registry.register_collector(Box::new(ProcessMetrics));
        let r = self.registry.sub_registry_with_prefix("portcullis");
        let build = BuildLabels {
            version: env!("CARGO_PKG_VERSION"),
            architecture: std::env::consts::ARCH,
        };
        r.register("build", "Version and architecture of the program", Info::new(build));
        r.register_collector(Box::new(LogLineMetrics));
        self.webhooks.register(r);
        let time = Unit::Seconds;
        let decisions = &self.decisions;
        r.register("decisions", "Decisions by reason", Shown::Reasons(decisions.clone()));
        r.register_with_unit(
            "decision",
            "Time to reach a decision inside the server",
            time.clone(),
            Shown::Latency(decisions.clone()),
        );
        r.register(
            "decision_errors",
            "Requests for a decision that ended in an error",
            self.decision_errors.clone(),
        );
        r.register("cache_hits", "Token facts found in memory", Shown::Hits(decisions.clone()));
        r.register("cache_misses", "Token facts read from the store", self.cache_misses.clone());
        r.register("cache_entries", "Token facts in memory", self.cache_entries.clone());
        r.register(
            "restricted_accounts",
            "Accounts in memory that are suspended or closed",
            self.restricted_accounts.clone(),
        );
        r.register(
            "imported_tokens",
            "Imported tokens in the filter",
            self.imported_tokens.clone(),
        );
        r.register(
            "import_filter_bytes",
            "Size of the filter of imported tokens",
            self.import_filter_bytes.clone(),
        );
        r.register(
            "forged_tokens",
            "Well-formed tokens that were never made here",
            self.forged.clone(),
        );
        r.register("shed", "Requests refused because too much was under way", self.shed.clone());
        r.register("connections", "Open gRPC connections", self.connections.clone());
        r.register(
            "gateway_connections",
            "Open connections of gateways over HTTP",
            self.gateway_connections.clone(),
        );
        r.register(
            "gateway_answers",
            "Answers to gateways over HTTP, by interface and outcome",
            self.gateway_answers.clone(),
        );
        for (name, help, counter) in [
            ("uses_recorded", "Uses recorded in the store", &self.uses_recorded),
            (
                "activity_dropped",
                "Seen addresses, counts of use and denials that found no room in memory",
                &self.activity_dropped,
            ),
            ("actions_announced", "Downgrades and deletions announced", &self.actions_announced),
            ("actions_carried_out", "Downgrades and deletions done", &self.actions_carried_out),
            (
                "sweep_failures",
                "Sweeps that the store ended early, and tokens passed over",
                &self.sweep_failures,
            ),
            ("mails_accepted", "Mails that the relay took over", &self.mails_accepted),
            (
                "mails_refused",
                "Mails that the relay refused, though it took others",
                &self.mails_refused,
            ),
            ("mail_errors", "Mails not taken over because the relay takes none", &self.mail_errors),
            ("renewal_failures", "Renewals of the lease that failed", &self.renewal_failures),
            ("lease_lapses", "How often the lease ran out", &self.lease_lapses),
            (
                "lease_rejections",
                "Requests refused because the lease had run out",
                &self.lease_rejections,
            ),
            ("sign_ins", "Sessions of the management page that began", &self.sign_ins),
            (
                "sign_in_failures",
                "Attempts to sign in to the management page that failed",
                &self.sign_in_failures,
            ),
            ("decision_log_lines", "Lines of the decision log", &self.decision_log_lines),
            ("spans_exported", "Spans that the trace collector took", &self.spans.exported),
            (
                "spans_dropped",
                "Spans that found no room, or that the trace collector did not take",
                &self.spans.dropped,
            ),
            (
                "decision_log_failures",
                "Attempts to open or write the decision log that failed",
                &self.decision_log_failures,
            ),
        ] {
            r.register(name, help, counter.clone());
        }
        r.register(
            "token_denials_max",
            "Most denials of one token within a minute, this one or the last",
            self.token_denials_max.clone(),
        );
        r.register(
            "store_trouble",
            "1 for each kind of trouble that the store is in, 0 for the others",
            self.store_troubles.clone(),
        );
        r.register_with_unit(
            "certificate_expiry_timestamp",
            "When the first certificate of a file expires, since 1970",
            time.clone(),
            self.certificates.clone(),
        );
        let pending = self.pending_actions.clone();
        r.register("pending_actions", "Downgrades and deletions announced by now", pending);
        for (name, help, gauge) in [
            ("mails_waiting", "Mails that wait to be sent", &self.mails_waiting),
            (
                "addresses_refused",
                "Addresses of admins that the relay takes no mail to",
                &self.addresses_refused,
            ),
            ("replicas", "Replicas whose leases may last, with this one", &self.replicas),
            (
                "replica_config_mismatches",
                "Replicas with other lifecycle settings",
                &self.replica_config_mismatches,
            ),
        ] {
            r.register(name, help, gauge.clone());
        }
        for (name, help, gauge) in [
            ("mails_oldest_age", "Age of the oldest mail that waits", &self.mails_oldest),
            ("last_sweep_timestamp", "When a sweep last succeeded, since 1970", &self.last_sweep),
        ] {
            r.register_with_unit(name, help, time.clone(), gauge.clone());
        }
        r.register_with_unit(
            "lease_remaining",
            "How long the lease still lasts",
            time.clone(),
            self.lease_remaining.clone(),
        );
        r.register_with_unit(
            "change_propagation",
            "Time from a change's commit until every replica decides on it",
            time.clone(),
            self.change_propagation.clone(),
        );
        r.register(
            "reload_failures",
            "Changed files that could not be used, by group",
            self.reload_failures.clone(),
        );
        r.register(
            "config_last_reload_successful",
            "Whether the files of a group are in force as they were read last",
            self.last_reload_successful.clone(),
        );
        let pages = self.pages.clone();
        r.register_with_unit("page", "Time to make a page", time.clone(), pages);
        r.register_with_unit(
            "store",
            "Time that the store took, by operation",
            time,
            self.store_seconds.clone(),
        );
        r.register("store_errors", "Store failures by operation", self.store_errors.clone());
        r.register("calls", "Management calls by result", self.calls.clone());
        r.register(
            "refused_callers",
            "Requests refused for their credential, by code",
            self.refused.clone(),
        );
        for (name, help, family) in [
            (
                "leak_reports",
                "Secrets reported as leaked, by what became of them",
                &self.leak_reports,
            ),
            (
                "leak_alerts",
                "Requests with alerts about leaked secrets, by outcome",
                &self.leak_alerts,
            ),
            (
                "leak_key_fetches",
                "Readings of the keys that alerts about leaked secrets are signed with, by outcome",
                &self.leak_key_fetches,
            ),
        ] {
            r.register(name, help, family.clone());
        }
        let dropped = Family::<CauseLabels, Counter>::default();
        for ((_, cause), counter) in DropCause::ALL.into_iter().zip(&mut self.decision_log_dropped)
        {
            *counter = dropped.get_or_create_owned(&CauseLabels { cause });
        }
        r.register(
            "decision_log_dropped",
            "Decisions that are not in the decision log, by cause",
            dropped,
        );
        r.register_with_unit(
            "decision_log_size",
            "Size of the files of the decision log",
            Unit::Bytes,
            self.decision_log_size.clone(),
        );
        self
    }

    /// Counts records that the decision log dropped.
    pub fn decision_log_dropped(&self, cause: DropCause, count: u64) {
        self.decision_log_dropped[cause as usize].inc_by(count);
    }

    /// Shows how many bytes the files of the decision log have.
    pub fn decision_log_size(&self, bytes: u64) {
        self.decision_log_size.set(gauge(bytes));
    }

    /// Counts a decision.
    pub fn decided(&self, reason: Reason, took: Duration) {
        let mine = self.decisions.mine();
        mine.reasons[reason as usize].fetch_add(1, Ordering::Relaxed);
        mine.latency.observe(took, 1);
    }

    /// Counts decisions that took `all` together.
    pub fn decided_together(&self, tally: &Tally, all: Duration) {
        let mine = self.decisions.mine();
        let Tally(counts) = tally;
        for (cell, &count) in mine.reasons.iter().zip(counts).filter(|(_, count)| **count > 0) {
            cell.fetch_add(count.into(), Ordering::Relaxed);
        }
        let count = counts.iter().sum();
        if count > 0 {
            mine.latency.observe(all / count, count);
        }
    }

    /// Counts token facts that were found in memory; how many there were before, on this thread.
    pub fn hits(&self, count: u64) -> u64 {
        self.decisions.mine().hits.fetch_add(count, Ordering::Relaxed)
    }

    /// Shows how many actions are announced.
    pub fn pending(&self, deletions: u64, downgrades: u64) {
        for (r#type, count) in [("deletion", deletions), ("downgrade", downgrades)] {
            self.pending_actions.get_or_create(&TypeLabels { r#type }).set(gauge(count));
        }
    }

    /// Shows how many mails wait, how many addresses are refused, and for how many seconds the oldest
    /// mail waits.
    pub fn mails(&self, waiting: u64, refused: u64, oldest: i64) {
        self.mails_waiting.set(gauge(waiting));
        self.addresses_refused.set(gauge(refused));
        self.mails_oldest.set(oldest);
    }

    /// Shows whether the store is in the trouble `kind`.
    pub fn store_trouble(&self, kind: &'static str, now: bool) {
        self.store_troubles.get_or_create(&TroubleLabels { kind }).set(now.into());
    }

    /// Shows when the first certificate of the file that `flag` names expires, in seconds since 1970.
    pub fn certificate_expiry(&self, flag: &'static str, seconds: i64) {
        self.certificates.get_or_create(&CertificateLabels { flag }).set(seconds);
    }

    /// Shows how many replicas there are whose leases may last, this one included, and how many take unused
    /// tokens by other rules. How many did when that was shown last.
    pub fn replicas(&self, live: u64, at_odds: u64) -> i64 {
        self.replicas.set(gauge(live));
        self.replica_config_mismatches.set(gauge(at_odds))
    }

    /// Records how long a change waited until it had propagated to every replica.
    pub fn propagated(&self, took: Duration) {
        self.change_propagation.observe(took);
    }

    /// Shows how long the lease still lasts.
    pub fn lease(&self, remaining: Duration) {
        self.lease_remaining.set(remaining.as_secs_f64());
    }

    /// Records one use of the store.
    pub fn stored(&self, operation: &'static str, took: Duration, failed: bool) {
        let labels = StoreLabels { operation };
        self.store_seconds.get_or_create(&labels).observe(took);
        if failed {
            self.store_errors.get_or_create(&labels).inc();
        }
    }

    /// Counts a management call.
    pub fn called(&self, call: &'static str, code: &'static str) {
        self.calls.get_or_create(&CallLabels { call, code }).inc();
    }

    /// Counts an answer to a gateway.
    pub fn gateway_answered(&self, interface: &'static str, outcome: &'static str) {
        self.gateway_answers.get_or_create(&GatewayLabels { interface, outcome }).inc();
    }

    /// Counts a secret that was reported as leaked.
    pub fn leak_reported(&self, outcome: &'static str) {
        self.leak_reports.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Counts a request with alerts about leaked secrets.
    pub fn leak_alert(&self, outcome: &'static str) {
        self.leak_alerts.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Counts a reading of the keys that such requests are signed with.
    pub fn leak_keys_fetched(&self, outcome: &'static str) {
        self.leak_key_fetches.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// The files of a group were read and are in force.
    pub fn reloaded(&self, group: &'static str) {
        self.last_reload_successful.get_or_create(&GroupLabels { group }).set(1);
        self.failing_groups().remove(group);
    }

    /// The files of a group were read and can't be used: what was read before stays in force.
    pub fn reload_failed(&self, group: &'static str) {
        let labels = GroupLabels { group };
        self.reload_failures.get_or_create(&labels).inc();
        self.last_reload_successful.get_or_create(&labels).set(0);
        self.failing_groups().insert(group);
    }

    /// The groups of files that are not in force as they were read last.
    pub fn failing_reloads(&self) -> Vec<&'static str> {
        self.failing_groups().iter().copied().collect()
    }

    fn failing_groups(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.failing_reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that was refused for its credential.
    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&CodeLabels { code }).inc();
    }

    /// Everything, in the format `exposition`.
    pub fn render(&self, exposition: Exposition) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        match exposition {
            Exposition::OpenMetrics => text,
            Exposition::Text => exposition::text_format(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_base_units_and_are_documented() {
        let documented = include_str!("../docs/operations.md");
        let metrics = Metrics::new();
        metrics.lease(Duration::from_millis(2_500));
        let text = metrics.render(Exposition::OpenMetrics);
        assert!(text.contains("portcullis_lease_remaining_seconds 2.5\n"), "{text}");
        let mut count = 0;
        for line in text.lines() {
            let Some(of) = line.strip_prefix("# TYPE ") else { continue };
            let (name, kind) = of.split_once(' ').unwrap();
            let name = match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            };
            let shown = [format!("`{name}`"), format!("`{name}{{")];
            assert!(shown.iter().any(|shown| documented.contains(shown)), "{name} has no row");
            assert!(
                !["milli", "micro", "minutes"].iter().any(|unit| name.contains(unit)),
                "{name}"
            );
            assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
            count += 1;
        }
        assert!(count >= 30, "{text}");
    }
}
