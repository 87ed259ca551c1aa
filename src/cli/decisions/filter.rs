//! Which lines of a decision log are selected, and how they are shown.

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use prost_types::Timestamp;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::output::{clean, parse_time};
use crate::policy::decide::Reason;
use crate::policy::id::{AccountId, TokenId};

/// The filters.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Only those about this token
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    token: Option<String>,
    /// Only those about tokens of this account
    #[arg(long, value_name = "ACCOUNT", value_parser = account)]
    account: Option<String>,
    /// Only those with this reason, such as CLIENT_IP_NOT_WHITELISTED; repeat it for several
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<String>,
    /// Only those that allow, or that deny
    #[arg(long, value_name = "DECISION")]
    decision: Option<DecisionWord>,
    /// Only those about a client at this address, or in this range
    #[arg(long, value_name = "CIDR", value_parser = range)]
    address: Option<IpNet>,
    /// Only those at this time or later, such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Only those before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DecisionWord {
    Allow,
    Deny,
}

impl DecisionWord {
    /// As lines have it.
    fn word(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        }
    }
}

fn token(text: &str) -> Result<String, String> {
    text.parse::<TokenId>().map(|id| id.to_string()).map_err(|error| error.to_string())
}

fn account(text: &str) -> Result<String, String> {
    text.parse::<AccountId>().map(|id| id.to_string()).map_err(|error| error.to_string())
}

/// A reason in any form in which one is shown: `REASON_TOKEN_DELETED`, `TOKEN_DELETED`, `token-deleted`.
fn reason(text: &str) -> Result<String, String> {
    let word = text.to_ascii_uppercase().replace('-', "_");
    let word = word.strip_prefix("REASON_").unwrap_or(&word);
    match Reason::ALL.iter().find(|(_, known)| *known == word) {
        Some((_, known)) => Ok((*known).to_owned()),
        None => Err("is no reason: docs/policy.md, section 2, has all of them".to_owned()),
    }
}

fn range(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
        "is not an address or a range, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32".to_owned()
    })
}

/// The fields of a line that filters and rows need.
#[derive(Debug, Deserialize)]
pub(super) struct LogLine {
    event: String,
    time: String,
    #[serde(default)]
    decision: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    token_id: String,
    #[serde(default)]
    account_id: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    path: String,
    client_address: Option<IpAddr>,
    #[serde(default)]
    interface: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    count: u64,
}

impl FilterArgs {
    /// Whether a line matches. A line about dropped records has a time and perhaps an account, and matches no filter by
    /// anything else.
    pub(super) fn matches(&self, line: &LogLine) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        let is_in =
            |range: IpNet| line.client_address.is_some_and(|address| range.contains(&address));
        is(&self.token, &line.token_id)
            && is(&self.account, &line.account_id)
            && (self.reason.is_empty() || self.reason.contains(&line.reason))
            && self.decision.is_none_or(|decision| decision.word() == line.decision)
            && self.address.is_none_or(is_in)
            && self.is_in_time(line)
    }

    fn is_in_time(&self, line: &LogLine) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Ok(time) = OffsetDateTime::parse(&line.time, &Rfc3339) else { return false };
        let nanos =
            |time: &Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        let time = time.unix_timestamp_nanos();
        self.since.as_ref().is_none_or(|since| time >= nanos(since))
            && self.until.as_ref().is_none_or(|until| time < nanos(until))
    }
}

/// The columns of a row but the last one, and how wide they are: rows are printed as they are read.
const COLUMNS: [(&str, usize); 6] = [
    ("TIME", 27),
    ("DECISION", 8),
    ("REASON", 25),
    ("TOKEN", 26),
    ("ADDRESS", 15),
    ("INTERFACE", 12),
];

fn columns(cells: [&str; 6], last: &str) -> String {
    let mut row = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let cell = if cell.is_empty() { "-" } else { cell };
        let cell = clean(cell);
        row.push_str(&cell);
        row.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
    }
    row.push_str(&clean(if last.is_empty() { "-" } else { last }));
    row
}

/// The names of the columns.
pub(super) fn header() -> String {
    columns(COLUMNS.map(|(name, _)| name), "OPERATION")
}

impl LogLine {
    /// The line as a row for people.
    pub(super) fn row(&self) -> String {
        if self.event == "dropped" {
            let whose =
                if self.account_id.is_empty() { "unknown tokens" } else { &self.account_id };
            let what = format!("{} of {whose}", self.count);
            return columns([&self.time, "DROPPED", &self.cause, "", "", ""], &what);
        }
        let address = self.client_address.map_or_else(String::new, |address| address.to_string());
        let mut operation = match (self.path.as_str(), self.scope.as_str()) {
            ("", scope) => scope.to_owned(),
            (path, "") => format!("{} {path}", self.method),
            (path, scope) => format!("{} {path} ({scope})", self.method),
        };
        if self.dry_run {
            operation.push_str(" [dry run]");
        }
        let cells =
            [&self.time, &self.decision, &self.reason, &self.token_id, &address, &self.interface];
        columns(cells.map(String::as_str), &operation)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        filter: FilterArgs,
    }

    fn matches(flags: &[&str], line: &str) -> bool {
        let command = Command::parse_from([&["x"], flags].concat());
        command.filter.matches(&serde_json::from_str(line).unwrap())
    }

    #[test]
    fn each_filter_leaves_the_lines_that_it_names() {
        let id = |prefix: &str| format!("{prefix}_{}", "0".repeat(22));
        let line = format!(
            r#"{{"event":"decision","time":"2027-01-03T14:05:00.5Z","decision":"DENY","reason":"TOKEN_DELETED",
                "token_id":"{}","account_id":"{}","client_address":"192.0.2.7","interface":"batch"}}"#,
            id("tok"),
            id("acc")
        );
        let other = |prefix: &str| format!("{prefix}_{}1", "0".repeat(21));
        for (flag, yes, no) in [
            ("--token", id("tok"), other("tok")),
            ("--account", id("acc"), other("acc")),
            ("--reason", "token-deleted".to_owned(), "TOKEN_EXPIRED".to_owned()),
            ("--reason", "REASON_TOKEN_DELETED".to_owned(), "ALLOWED".to_owned()),
            ("--decision", "deny".to_owned(), "allow".to_owned()),
            ("--address", "192.0.2.0/24".to_owned(), "192.0.3.0/24".to_owned()),
            ("--address", "192.0.2.7".to_owned(), "2001:db8::/32".to_owned()),
            ("--since", "2027-01-03T14:05:00Z".to_owned(), "2027-01-03T14:05:01Z".to_owned()),
            (
                "--until",
                "2027-01-03T15:05:01+01:00".to_owned(),
                "2027-01-03T14:05:00.5Z".to_owned(),
            ),
        ] {
            assert!(matches(&[flag, &yes], &line), "{flag} {yes}");
            assert!(!matches(&[flag, &no], &line), "{flag} {no}");
        }
        let dropped =
            r#"{"event":"dropped","time":"2027-01-03T14:05:00Z","cause":"share","count":3}"#;
        assert!(matches(&["--since", "2027-01-03T14:05:00Z"], dropped));
        assert!(!matches(&["--decision", "deny"], dropped));
    }

    #[test]
    fn rows_align_and_show_no_escape_sequence() {
        let line = r#"{"event":"decision","time":"2027-01-03T14:05:00.000000Z","decision":"DENY","reason":"NO_MATCHING_ROUTE",
            "method":"GET","path":"/\u001b[2J","interface":"authorize","dry_run":true}"#;
        let row = serde_json::from_str::<LogLine>(line).unwrap().row();
        assert!(row.ends_with("GET /<U+001B>[2J [dry run]"), "{row}");
        assert_eq!(row.find("GET"), header().find("OPERATION"));
    }
}
