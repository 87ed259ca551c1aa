//! What operators watch: `/metrics` in both of its formats, and the alerts and the dashboard of `deploy/monitoring`.
//!
//! Each alert has tests of its rule (`portcullis.rules.test.yml`); `alerts` brings real servers into most of these
//! states, and a real Prometheus notices.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

mod alerts;
mod prometheus;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis::telemetry::{Exposition, Metrics};

use crate::support::http::{Answer, Http};
use crate::support::server::{Server, Setup};
use crate::support::tools::{self, source};

const RULES: &str = "deploy/monitoring/portcullis.rules.yml";
const RULE_TESTS: &str = "deploy/monitoring/portcullis.rules.test.yml";
const DASHBOARD: &str = "deploy/monitoring/grafana-dashboard.json";

fn read(path: &str) -> String {
    fs::read_to_string(source(path)).unwrap()
}

fn promtool(args: &[&str]) -> Command {
    let mut command = Command::new(tools::tool("TEST_PROMTOOL"));
    command.args(args);
    command
}

fn metrics(server: &Server, accept: &str) -> Answer {
    Http::new(server).send("GET", "/metrics", &[("accept", accept)], b"").says(200)
}

/// The names of all alerts, as `file` has them behind `word`.
fn alert_names(file: &str, word: &str) -> BTreeSet<String> {
    let names = file.lines().filter_map(|line| line.trim_start().strip_prefix(word));
    names.map(|name| name.trim().to_owned()).collect()
}

#[test]
fn metrics_come_in_the_format_that_accept_asks_for_and_pass_promtool() {
    let server = Setup::sqlite().start();
    let text = metrics(&server, "");
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(text.header("vary"), Some("accept"));
    let mut check = promtool(&["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(&text.body).unwrap();
    let checked = check.wait_with_output().unwrap();
    let printed = [checked.stdout, checked.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(checked.status.success() && printed.concat().is_empty(), "{}", printed.concat());

    let open = metrics(&server, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(open.header("content-type"), Some(media_type));
    assert!(open.text().ends_with("# EOF\n"), "{open}");
    for (format, description) in [
        (&text, "# TYPE portcullis_build_info gauge\n"),
        (&open, "# TYPE portcullis_build info\n"),
        (&text, "# TYPE process_cpu_seconds_total counter\n"),
        (&open, "# TYPE process_cpu_seconds counter\n# UNIT process_cpu_seconds seconds\n"),
    ] {
        assert!(format.text().contains(description), "no {description}: {format}");
    }
}

#[test]
fn process_metrics_are_those_of_the_server() {
    let server = Setup::sqlite().start();
    let shown = |sample: &str| -> f64 {
        let (_, text) = server.get("/metrics");
        let line = text.lines().find(|line| line.starts_with(&format!("{sample} ")));
        let line = line.unwrap_or_else(|| panic!("no {sample}: {text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    // Other figures of the same process as the kernel has them elsewhere; they may move between two readings.
    let near = |sample: &str, figure: f64| {
        let shown = shown(sample);
        assert!((figure * 0.8..figure * 1.25).contains(&shown), "{sample}: {shown}, not {figure}");
    };
    near("process_resident_memory_bytes", server.memory("VmRSS") as f64 * 1_024.0);
    near("process_virtual_memory_bytes", server.memory("VmSize") as f64 * 1_024.0);
    let of_process = format!("/proc/{}", server.pid());
    near("process_threads", fs::read_dir(format!("{of_process}/task")).unwrap().count() as f64);
    let limits = fs::read_to_string(format!("{of_process}/limits")).unwrap();
    let limit = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limit: f64 = limit.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(shown("process_max_fds"), limit);
    assert!((5.0..limit).contains(&shown("process_open_fds")));
    assert!(shown("process_cpu_seconds_total") > 0.0);
    // The directory of the process is made when it starts.
    let made = fs::metadata(&of_process).unwrap().modified().unwrap();
    let made = made.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = shown("process_start_time_seconds");
    assert!((made - 600.0..=made + 600.0).contains(&started), "{started}, not {made}");
    let version = format!("portcullis_build_info{{version=\"{}\",", env!("CARGO_PKG_VERSION"));
    assert!(server.get("/metrics").1.contains(&version));
}

#[test]
fn rules_pass_their_tests_and_each_alert_has_one_and_a_row_in_the_docs() {
    tools::succeed(&mut promtool(&["check", "rules", source(RULES).to_str().unwrap()]));
    tools::succeed(&mut promtool(&["test", "rules", source(RULE_TESTS).to_str().unwrap()]));
    let alerts = alert_names(&read(RULES), "- alert: ");
    assert!(alerts.len() > 25, "{alerts:?}");
    assert_eq!(alerts, alert_names(&read(RULE_TESTS), "- name: "));
    let documented = read("docs/operations.md");
    for alert in &alerts {
        assert!(documented.contains(&format!("| `{alert}` |")), "docs/operations.md lacks {alert}");
    }
}

/// An alert names the log lines that stand beside it; what is named nowhere is noticed by its level.
#[test]
fn log_lines_of_alerts_are_rows_of_at_3_am() {
    let rules = read(RULES);
    let documented = read("docs/operations.md");
    let (_, table) = documented.split_once("### Warnings and errors in the log").unwrap();
    let mut named = 0;
    for block in rules.split("log: |\n").skip(1) {
        let lines = block.lines().take_while(|line| line.starts_with("            "));
        for message in lines.map(str::trim) {
            assert!(table.contains(&format!("`{message}`")), "no row for {message}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}

/// All that a server can show: those with labels appear at their first event.
fn all_metrics() -> String {
    let metrics = Metrics::new();
    metrics.stored("token_facts", Duration::ZERO, true);
    metrics.called("CreateToken", "OK");
    metrics.refused("UNAUTHENTICATED");
    metrics.gateway_answered("forward_auth", "undecided");
    metrics.leak_reported("last_operator");
    metrics.leak_alert("accepted");
    metrics.leak_keys_fetched("failed");
    metrics.store_trouble("busy", false);
    metrics.certificate_expiry("tls-cert", 0);
    metrics.reload_failed("tls");
    metrics.pending(0, 0);
    metrics.render(Exposition::Text)
}

#[test]
fn every_metric_of_the_rules_and_the_dashboard_exists() {
    let text = all_metrics();
    let mut known = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        known.insert(name.to_owned());
        if kind == "histogram" {
            known.extend(["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")));
        }
    }
    let dashboard = read(DASHBOARD);
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    for (file, text) in [(RULES, read(RULES)), (DASHBOARD, dashboard)] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics = words
            .filter(|word| word.starts_with("portcullis_") || word.starts_with("process_"))
            .collect::<BTreeSet<_>>();
        assert!(metrics.len() > 15, "{file}: {metrics:?}");
        for metric in metrics {
            assert!(known.contains(metric), "{file} names {metric}, which /metrics lacks");
        }
    }
    // Bounds of buckets that rules name.
    let bucket = "portcullis_change_propagation_seconds_bucket{le=\"1.0\"}";
    assert!(text.contains(bucket), "{text}");
}
