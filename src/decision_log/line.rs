//! The lines of the log: JSON objects, whose fields docs/decision-log.md describes.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::queue::QueuedRecord;
use super::record::{REDACTED, Text, raw_or_decoded};
use super::share::DroppedRecords;
use crate::policy::decide::Reason;
use crate::policy::id::RenderedId;
use crate::policy::time::Timestamp;
use crate::secret;

const SECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
/// What follows a text that was cut.
const ELLIPSIS: &str = "…";

/// A decision. What is absent is left out. Rule 13.3 of docs/policy.md.
#[derive(Serialize)]
struct DecisionLine<'a> {
    event: &'static str,
    time: &'a str,
    decision: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    route: &'a str,
    #[serde(skip_serializing_if = "CutText::is_empty")]
    method: CutText<'a>,
    #[serde(skip_serializing_if = "CutText::is_empty")]
    path: CutText<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_address: Option<IpAddr>,
    interface: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    revision: i64,
    latency_us: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// Records that were dropped.
#[derive(Serialize)]
struct DroppedLine<'a> {
    event: &'static str,
    time: &'a str,
    cause: &'static str,
    count: u64,
    of: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<&'a str>,
}

/// A text, with an ellipsis where it was cut.
struct CutText<'a>(Text<'a>);

impl CutText<'_> {
    fn is_empty(&self) -> bool {
        self.0.text.is_empty()
    }
}

impl Serialize for CutText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Text { text, cut: false } => serializer.serialize_str(text),
            Text { text, cut: true } => serializer.collect_str(&format_args!("{text}{ELLIPSIS}")),
        }
    }
}

/// Writes lines. Keeps the text of the second that it wrote last.
#[derive(Debug)]
pub(super) struct Lines {
    second: i64,
    time: String,
    trace_id: String,
}

impl Default for Lines {
    fn default() -> Self {
        Self { second: i64::MIN, time: String::new(), trace_id: String::new() }
    }
}

impl Lines {
    /// Appends the line of a decision.
    pub(super) fn put_decision(&mut self, record: &QueuedRecord<'_>, out: &mut Vec<u8>) {
        let facts = record.facts;
        self.set_time(facts.time);
        let token = facts
            .token
            .map(|(token, account)| (RenderedId::from(token), RenderedId::from(account)));
        let credential = facts.credential.map(RenderedId::from);
        self.trace_id.clear();
        if let Some(id) = facts.trace_id {
            // Writing to a string can't fail.
            let _ = write!(self.trace_id, "{id:032x}");
        }
        let line = DecisionLine {
            event: "decision",
            time: &self.time,
            decision: if facts.reason == Reason::Allowed { "ALLOW" } else { "DENY" },
            reason: facts.reason.word(),
            token_id: token.as_ref().map(|(token, _)| ascii(token.text())),
            account_id: token.as_ref().map(|(_, account)| ascii(account.text())),
            scope: record.scope,
            route: record.route,
            method: without_secret(record.method),
            path: without_secret(record.path),
            client_address: facts.client.map(IpAddr::from),
            interface: facts.interface.word(),
            credential_id: credential.as_ref().map(|id| ascii(id.text())),
            trace_id: facts.trace_id.map(|_| self.trace_id.as_str()),
            request_id: without_secret(Text { text: record.request_id, cut: false }).0.text,
            revision: facts.revision,
            latency_us: facts.latency_us,
            dry_run: facts.dry_run,
        };
        put(&line, out);
    }

    /// Appends the line about dropped records.
    pub(super) fn put_dropped(
        &mut self,
        dropped: &DroppedRecords,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) {
        self.set_time(now);
        let account = dropped.account.map(RenderedId::from);
        let line = DroppedLine {
            event: "dropped",
            time: &self.time,
            cause: dropped.cause.word(),
            count: dropped.count,
            of: if account.is_some() { "account" } else { "unknown_tokens" },
            account_id: account.as_ref().map(|id| ascii(id.text())),
        };
        put(&line, out);
    }

    /// RFC 3339 in UTC, to the microsecond.
    fn set_time(&mut self, time: Timestamp) {
        let second = time.0.div_euclid(1_000_000);
        if second != self.second {
            self.second = second;
            self.time.clear();
            let text = OffsetDateTime::from_unix_timestamp(second).ok();
            let text = text.and_then(|time| time.format(SECOND).ok());
            self.time.push_str(text.as_deref().unwrap_or("1970-01-01T00:00:00"));
        }
        self.time.truncate(self.time.find('.').unwrap_or(self.time.len()));
        let _ = write!(self.time, ".{:06}Z", time.0.rem_euclid(1_000_000));
    }
}

/// An id's text, whose digits are ASCII.
fn ascii(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}

fn put(line: &impl Serialize, out: &mut Vec<u8>) {
    let before = out.len();
    // Texts and numbers are always JSON, and memory takes everything.
    if serde_json::to_writer(&mut *out, line).is_err() {
        out.truncate(before);
        return;
    }
    out.push(b'\n');
}

/// A text, unless a secret that was made here is in it, as it is or with escapes: a client may send another token's.
fn without_secret(text: Text<'_>) -> CutText<'_> {
    CutText(if raw_or_decoded(text.text, secret::resembles_secret) {
        Text { text: REDACTED, cut: false }
    } else {
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::decision_log::record::{Facts, Interface};
    use crate::policy::id::{AccountId, CredentialId, TokenId};
    use crate::telemetry::DropCause;

    fn facts() -> Facts {
        Facts {
            time: Timestamp(1_798_985_100_000_042),
            reason: Reason::TokenMalformed,
            token: None,
            client: None,
            interface: Interface::Authorize,
            credential: None,
            trace_id: None,
            revision: 7,
            latency_us: 12,
            dry_run: false,
        }
    }

    fn line(facts: &Facts, texts: [&str; 5]) -> Value {
        let [scope, route, method, path, request_id] = texts;
        let [method, path] = [method, path].map(|text| Text { text, cut: false });
        let record = QueuedRecord { facts, scope, route, method, path, request_id };
        let mut out = Vec::new();
        Lines::default().put_decision(&record, &mut out);
        assert_eq!(out.pop(), Some(b'\n'));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn lines_have_what_is_known_and_nothing_else() {
        let wanted = json!({
            "event": "decision", "time": "2027-01-03T14:05:00.000042Z", "decision": "DENY",
            "reason": "TOKEN_MALFORMED", "interface": "authorize", "revision": 7, "latency_us": 12,
        });
        assert_eq!(line(&facts(), [""; 5]), wanted);
        let full = Facts {
            reason: Reason::Allowed,
            token: Some((TokenId(Uuid::nil()), AccountId(Uuid::nil()))),
            client: Some("2001:db8::1".parse().unwrap()),
            credential: Some(CredentialId(Uuid::nil())),
            trace_id: Some(0xabc),
            dry_run: true,
            ..facts()
        };
        let found = line(&full, ["cards.read", "GET /cards/{id}", "GET", "/cards/\"1\"\n", "r 1"]);
        let zeros = "0".repeat(22);
        let wanted = json!({
            "event": "decision", "time": "2027-01-03T14:05:00.000042Z", "decision": "ALLOW",
            "reason": "ALLOWED", "token_id": format!("tok_{zeros}"),
            "account_id": format!("acc_{zeros}"), "scope": "cards.read",
            "route": "GET /cards/{id}", "method": "GET", "path": "/cards/\"1\"\n",
            "client_address": "2001:db8::1", "interface": "authorize",
            "credential_id": format!("crd_{zeros}"), "trace_id": format!("{:032x}", 0xabc),
            "request_id": "r 1", "revision": 7, "latency_us": 12, "dry_run": true,
        });
        assert_eq!(found, wanted);
    }

    #[test]
    fn times_of_one_second_and_of_another_are_written_alike() {
        let mut lines = Lines::default();
        for (micros, text) in [
            (1_798_985_100_000_042, "2027-01-03T14:05:00.000042Z"),
            (1_798_985_100_999_999, "2027-01-03T14:05:00.999999Z"),
            (1_798_985_101_000_000, "2027-01-03T14:05:01.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
        ] {
            lines.set_time(Timestamp(micros));
            assert_eq!(lines.time, text);
        }
    }

    #[test]
    fn secrets_of_any_token_are_left_out() {
        let secret = format!("pcl_t1_{}", "0Aa".repeat(21));
        for text in [
            format!("/login/{secret}"),
            format!("x{secret}"),
            secret[..20].to_owned(),
            format!("/login/{}", secret.replace('_', "%5F")),
        ] {
            let found = line(&facts(), ["", "", "", &text, &text]);
            assert_eq!(
                (&found["path"], &found["request_id"]),
                (&json!(REDACTED), &json!(REDACTED))
            );
        }
        let found = line(&facts(), ["", "", "", "/api/_t1_/x", ""]);
        assert_eq!(found["path"], "/api/_t1_/x");
    }

    #[test]
    fn dropped_records_say_whose_they_were() {
        let dropped = |account| DroppedRecords { account, cause: DropCause::Share, count: 3 };
        let mut out = Vec::new();
        let mut lines = Lines::default();
        lines.put_dropped(&dropped(None), Timestamp(0), &mut out);
        lines.put_dropped(&dropped(Some(AccountId(Uuid::nil()))), Timestamp(0), &mut out);
        let text = String::from_utf8(out).unwrap();
        let zeros = "0".repeat(22);
        assert_eq!(
            text,
            format!(
                "{{\"event\":\"dropped\",\"time\":\"1970-01-01T00:00:00.000000Z\",\"cause\":\"share\",\
                 \"count\":3,\"of\":\"unknown_tokens\"}}\n\
                 {{\"event\":\"dropped\",\"time\":\"1970-01-01T00:00:00.000000Z\",\"cause\":\"share\",\
                 \"count\":3,\"of\":\"account\",\"account_id\":\"acc_{zeros}\"}}\n"
            )
        );
    }
}
