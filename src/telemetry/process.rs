//! The `process_*` metrics by the names that Prometheus' client libraries share, read from `/proc` at each scrape:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.
//!
//! Must stay true: a figure that can't be read is left out, and the others are shown.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::param::{clock_ticks_per_second, page_size};

/// See the module.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut show = |name: &str, help: &str, unit: Option<&Unit>, figure: &dyn EncodeMetric| {
            let metric = encoder.encode_descriptor(name, help, unit, figure.metric_type())?;
            figure.encode(metric)
        };
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        let ticks = clock_ticks_per_second() as f64;
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        if let Some(stat) = stat {
            let cpu = ConstCounter::new(stat.cpu_ticks as f64 / ticks);
            show("process_cpu", "Processor time, of user and system", seconds, &cpu)?;
            let virtual_memory = ConstGauge::new(stat.virtual_bytes as f64);
            show("process_virtual_memory", "Size of the virtual memory", bytes, &virtual_memory)?;
            let resident = ConstGauge::new(stat.resident_pages as f64 * page_size() as f64);
            show("process_resident_memory", "Size of the resident memory", bytes, &resident)?;
            show("process_threads", "Threads", None, &ConstGauge::new(stat.threads as f64))?;
            let system = fs::read_to_string("/proc/stat").ok();
            if let Some(boot) = system.as_deref().and_then(boot_time) {
                let start = ConstGauge::new(boot as f64 + stat.start_ticks as f64 / ticks);
                show("process_start_time", "Start of the process, since 1970", seconds, &start)?;
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The directory itself is one of them while it is read.
            let open = ConstGauge::new(open.count().saturating_sub(1) as f64);
            show("process_open_fds", "Open file descriptors", None, &open)?;
        }
        if let Ok((most, _)) = rlimit::getrlimit(rlimit::Resource::NOFILE) {
            let most = ConstGauge::new(most as f64);
            show("process_max_fds", "Most file descriptors that may be open", None, &most)?;
        }
        Ok(())
    }
}

/// Some figures of `/proc/PID/stat`: proc_pid_stat(5).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    /// Since the system's boot.
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name may contain spaces and parentheses; all fields behind it are numbers.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The manual counts from 1, and the state, which follows the name, is the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the system was started, in seconds since 1970: `btime` of proc_stat(5).
fn boot_time(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_parentheses() {
        let text = "7 (a) b (c)) S 1 7 7 0 -1 4194560 23 0 0 0 150 50 0 0 20 0 9 0 4711 123456 789 184 1 1";
        let stat = Stat {
            cpu_ticks: 200,
            threads: 9,
            start_ticks: 4_711,
            virtual_bytes: 123_456,
            resident_pages: 789,
        };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("7 (short) S 1 7"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1764423000\nprocesses 9\n"), Some(1_764_423_000));
        assert_eq!(boot_time("cpu 1 2\n"), None);
    }
}
