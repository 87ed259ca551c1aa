//! The two text formats of `/metrics`: OpenMetrics 1.0 as the library writes it, and the older text format of
//! Prometheus, 0.0.4, which is made of it.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>

use std::fmt::Write as _;

/// A format of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Text format 0.0.4: every program that reads metrics takes it.
    Text,
}

impl Exposition {
    /// Its media type, with its version.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// `open_metrics` in the text format 0.0.4. There, a metric is described by the name of its samples, units and the
/// end are not marked, and the type `info` is unknown.
pub(super) fn text_format(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(description) = line.strip_prefix("# HELP ") {
            help = description.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(description) = line.strip_prefix("# TYPE ") {
            let (name, kind) = description.split_once(' ').unwrap_or((description, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            // Writing to a String can't fail.
            let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_format_describes_samples_by_their_own_names() {
        let open_metrics = "\
# HELP a_build Version.
# TYPE a_build info
a_build_info{version=\"1\"} 1
# HELP a_cpu_seconds Time.
# TYPE a_cpu_seconds counter
# UNIT a_cpu_seconds seconds
a_cpu_seconds_total 1.5
# HELP a_page_seconds Time.
# TYPE a_page_seconds histogram
# UNIT a_page_seconds seconds
a_page_seconds_sum 0.0
a_page_seconds_count 0
a_page_seconds_bucket{le=\"+Inf\"} 0
# EOF
";
        assert_eq!(
            text_format(open_metrics),
            "\
# HELP a_build_info Version.
# TYPE a_build_info gauge
a_build_info{version=\"1\"} 1
# HELP a_cpu_seconds_total Time.
# TYPE a_cpu_seconds_total counter
a_cpu_seconds_total 1.5
# HELP a_page_seconds Time.
# TYPE a_page_seconds histogram
a_page_seconds_sum 0.0
a_page_seconds_count 0
a_page_seconds_bucket{le=\"+Inf\"} 0
"
        );
    }
}
