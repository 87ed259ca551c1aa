//! The decision log: where it is written, how much of it, and how large it may be.

use std::path::PathBuf;

use super::errors::ConfigErrors;
use crate::policy::text::in_quotes;

/// The decision log, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Decision log")]
pub struct DecisionLogArgs {
    /// File that decisions are logged to, one JSON object per line, or - for standard output. Its directory must exist.
    /// Without it, no decision is logged
    #[arg(long, env = "PORTCULLIS_DECISION_LOG", hide_env_values = true, value_name = "FILE")]
    decision_log: Option<PathBuf>,
    /// Share of the tokens whose allowed requests are logged, as a number such as 0.05: 0 for none, 1 for all. Denied
    /// requests are logged in any case
    #[arg(
        long,
        env = "PORTCULLIS_DECISION_LOG_ALLOWS",
        hide_env_values = true,
        value_name = "SHARE",
        default_value = "0"
    )]
    decision_log_allows: String,
    /// Size of the decision log, the files that it was rotated to included, such as 500MB or 2GiB: 1MiB or more. The oldest
    /// are removed
    #[arg(
        long,
        env = "PORTCULLIS_DECISION_LOG_MAX_SIZE",
        hide_env_values = true,
        value_name = "SIZE",
        default_value = "1GiB"
    )]
    decision_log_max_size: String,
}

/// Where the decision log is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecisionLogTarget {
    /// To standard output.
    Stdout,
    /// To this file.
    File(PathBuf),
}

/// The decision log.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionLogSettings {
    /// Where it is written.
    pub target: DecisionLogTarget,
    /// The share of the tokens whose allows are logged, from 0 to 1.
    pub allows: f64,
    /// Bytes of all its files together.
    pub max_size: u64,
}

/// The smallest log: its parts have to have room for some lines.
const SMALLEST: u64 = 1 << 20;
/// The largest.
const LARGEST: u64 = 1 << 50;

impl DecisionLogArgs {
    /// `Some(None)` for no log.
    pub(super) fn resolve(&self, errors: &mut ConfigErrors) -> Option<Option<DecisionLogSettings>> {
        let allows = self.decision_log_allows.trim().parse::<f64>().ok();
        let allows = allows.filter(|share| (0.0..=1.0).contains(share));
        if allows.is_none() {
            let text = in_quotes(&self.decision_log_allows);
            errors.add(format!(
                "--decision-log-allows: {text} is not a number from 0, for none, to 1, for all, such as 0.05"
            ));
        }
        let max_size = parse_size(self.decision_log_max_size.trim());
        let max_size = max_size.filter(|size| (SMALLEST..=LARGEST).contains(size));
        if max_size.is_none() {
            let text = in_quotes(&self.decision_log_max_size);
            errors.add(format!(
                "--decision-log-max-size: {text} is not a size from 1MiB to 1024TiB, such as 500MB or 2GiB"
            ));
        }
        let target = match &self.decision_log {
            None => None,
            Some(path) if path.as_os_str() == "-" => Some(DecisionLogTarget::Stdout),
            Some(path) if path.file_name().is_none() => {
                errors.add("--decision-log: name a file, or - for standard output");
                None
            }
            Some(path) => Some(DecisionLogTarget::File(path.clone())),
        };
        let (allows, max_size) = (allows?, max_size?);
        Some(target.map(|target| DecisionLogSettings { target, allows, max_size }))
    }
}

/// A number of bytes: digits, and a unit of thousands (`MB`) or of 1,024 (`MiB`, `M`), in any case of letters.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("500MB", Some(500_000_000)),
            ("2GiB", Some(2 << 30)),
            ("2 gib", Some(2 << 30)),
            ("3k", Some(3 << 10)),
            ("", None),
            ("GiB", None),
            ("1.5GiB", None),
            ("-1", None),
            ("10 parsecs", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
