//! What is recorded of a decision, as compact as the decision's thread can make it.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use tracing::Span;

use crate::clock::Stopwatch;
use crate::policy::decide::{Decision, Operation, Reason, Request, Verdict};
use crate::policy::id::{AccountId, CredentialId, TokenId};
use crate::policy::network::ClientAddr;
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;
use crate::secret;
use crate::telemetry::traces::{self, TraceHeaders, TraceParent};

/// The longest method; of a longer one, the beginning is recorded.
const MAX_METHOD: usize = 32;
/// The longest path, in bytes.
const MAX_PATH: usize = 1_024;
/// The longest route, in bytes.
const MAX_ROUTE: usize = 512;
/// What stands in place of a text that has a secret in it.
pub(super) const REDACTED: &str = "[redacted]";
/// The shortest presented secret that a text is searched for: a shorter one is in texts by chance, and no secret.
const SHORTEST_SECRET: usize = 6;
/// The longest line without the texts of its record, but with an ellipsis behind two of them.
const LINE_WITHOUT_TEXTS: usize = 512;

/// Where a question came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// `Authorize`.
    Authorize,
    /// An item of `BatchAuthorize`.
    Batch,
    /// A message of `StreamAuthorize`.
    Stream,
    /// `Check` of Envoy over gRPC.
    Envoy,
    /// Forward auth.
    ForwardAuth,
    /// Envoy's `ext_authz` over HTTP.
    ExtAuthz,
    /// AuthZEN.
    AuthZen,
}

impl Interface {
    /// Its stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Batch => "batch",
            Self::Stream => "stream",
            Self::Envoy => "envoy",
            Self::ForwardAuth => "forward_auth",
            Self::ExtAuthz => "ext_authz",
            Self::AuthZen => "authzen",
        }
    }
}

/// The call that a question came with. There is one only where decisions are logged, or the call is traced.
#[derive(Debug)]
pub struct Call {
    interface: Interface,
    credential: Option<CredentialId>,
    trace_id: Option<u128>,
    span: Option<Span>,
}

impl Call {
    /// A call over `interface` by the caller with `credential`: `None` where callers need none.
    pub fn new(
        interface: Interface,
        credential: Option<CredentialId>,
        headers: TraceHeaders<'_>,
    ) -> Self {
        let mut call = Self { interface, credential, trace_id: None, span: None };
        call.add(headers);
        call
    }

    /// The same, traced in `span`.
    pub fn traced(mut self, span: Option<Span>) -> Self {
        self.span = span;
        self
    }

    /// Its span, where it is traced.
    pub fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }

    /// Takes over the trace that headers name, where the call has none yet.
    pub fn add(&mut self, headers: TraceHeaders<'_>) {
        let named = || Some(TraceParent::parse(headers.traceparent?)?.trace_id);
        self.trace_id = self.trace_id.or_else(named);
    }

    /// Records a decision in the span of the call, where it is traced: one of many as an event.
    pub fn trace(&self, decision: &Decision<'_>) {
        let Some(span) = &self.span else { return };
        let allowed = matches!(decision.verdict, Verdict::Allow(_));
        let reason = decision.verdict.reason().word();
        match self.interface {
            Interface::Batch | Interface::Stream => traces::decided_item(span, allowed, reason),
            _ => traces::decided(span, allowed, reason),
        }
    }
}

/// What a record takes from the request, beside the decision.
#[derive(Debug, Clone, Copy)]
pub struct DecidedRequest<'a> {
    /// The checked arguments.
    pub request: &'a Request<'a>,
    /// What the operation's route is found in.
    pub catalog: &'a Catalog,
    /// The secret as it was presented, which no text of the record may contain.
    pub presented: &'a [u8],
    /// Whether the request does not count as use of the token.
    pub dry_run: bool,
    /// The store's time of the decision.
    pub time: Timestamp,
    /// When its evaluation began.
    pub started: Stopwatch,
    /// The revision that it rests on.
    pub revision: i64,
}

/// What a record has beside its texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) time: Timestamp,
    pub(super) reason: Reason,
    pub(super) token: Option<(TokenId, AccountId)>,
    pub(super) client: Option<ClientAddr>,
    pub(super) interface: Interface,
    pub(super) credential: Option<CredentialId>,
    pub(super) trace_id: Option<u128>,
    pub(super) revision: i64,
    pub(super) latency_us: u32,
    pub(super) dry_run: bool,
}

/// A text of a record, and whether the end of it was cut off.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Text<'a> {
    pub(super) text: &'a str,
    /// Whether it is the beginning of a longer one.
    pub(super) cut: bool,
}

impl<'a> Text<'a> {
    /// The first `most` bytes of `text`, less a character that lies across the end.
    fn cut(text: &'a str, most: usize) -> Self {
        let end = text.floor_char_boundary(most);
        Self { text: &text[..end], cut: end < text.len() }
    }
}

/// The record of one decision, before it is queued.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) facts: Facts,
    pub(super) scope: &'a str,
    /// As the catalogue writes it; empty where no route matched.
    pub(super) route: RouteText,
    pub(super) method: Text<'a>,
    /// Without its query.
    pub(super) path: Text<'a>,
    pub(super) request_id: &'a str,
}

/// A route on the stack.
#[derive(Debug)]
pub(super) struct RouteText {
    bytes: [u8; MAX_ROUTE],
    length: usize,
}

impl RouteText {
    pub(super) fn as_str(&self) -> &str {
        // Only whole texts were appended, or their beginnings up to a character.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl std::fmt::Write for RouteText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let text = &text[..text.floor_char_boundary(MAX_ROUTE - self.length)];
        self.bytes[self.length..][..text.len()].copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

impl<'a> Record<'a> {
    pub(super) fn new(
        call: &'a Call,
        decision: &Decision<'a>,
        decided: &DecidedRequest<'a>,
        request_id: &'a str,
    ) -> Self {
        let mut route = RouteText { bytes: [0; MAX_ROUTE], length: 0 };
        let (mut scope, mut method, mut path) = ("", "", "");
        match decided.request.operation {
            Operation::Scope(named) => scope = named.name.as_str(),
            Operation::Http { method: sent, path: target } => {
                (method, path) = (sent, without_query(target));
                if decision.required.is_some()
                    && let Some(matched) = decided.catalog.route(sent, target)
                {
                    // Writing to it can't fail.
                    let _ = write!(route, "{matched}");
                }
            }
            Operation::Ambiguous(_) => {}
        }
        if let Some(required) = decision.required {
            scope = required.name.as_str();
        }
        let secret = PresentedSecret::new(decided.presented);
        let latency = decided.started.elapsed().as_micros();
        Self {
            facts: Facts {
                time: decided.time,
                reason: decision.verdict.reason(),
                token: decision.token.map(|token| (*token.id, *token.account_id)),
                client: decided.request.client,
                interface: call.interface,
                credential: call.credential,
                trace_id: call.trace_id,
                revision: decided.revision,
                latency_us: u32::try_from(latency).unwrap_or(u32::MAX),
                dry_run: decided.dry_run,
            },
            scope,
            route,
            method: secret.cut(method, MAX_METHOD),
            path: secret.cut(path, MAX_PATH),
            request_id: secret.redacted(request_id),
        }
    }

    /// About how many bytes its line has, and never fewer: clients choose the characters that are escaped in it.
    pub(super) fn estimated_line(&self) -> u64 {
        let texts =
            [self.scope, self.route.as_str(), self.method.text, self.path.text, self.request_id];
        (LINE_WITHOUT_TEXTS + texts.into_iter().map(json_length).sum::<usize>()) as u64
    }
}

/// At least as many bytes as `text` has within a JSON string.
fn json_length(text: &str) -> usize {
    let length = |byte: u8| -> usize {
        match byte {
            b'"' | b'\\' => 2,
            // As `\u001f`.
            ..=0x1f => 6,
            _ => 1,
        }
    };
    text.bytes().map(length).sum()
}

/// Whether `found` is true of `text`, as it is or with its escapes decoded.
pub(super) fn raw_or_decoded(text: &str, found: impl Fn(&str) -> bool) -> bool {
    found(text) || (text.contains('%') && found(&percent_decode_str(text).decode_utf8_lossy()))
}

/// The path of a request target.
fn without_query(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}

/// The secret that was presented with a request, without the prefix of RFC 8959: other texts may not have the prefix.
struct PresentedSecret<'a>(&'a str);

impl<'a> PresentedSecret<'a> {
    fn new(presented: &'a [u8]) -> Self {
        Self(std::str::from_utf8(secret::without_mark(presented)).unwrap_or_default())
    }

    /// Whether `text` has the secret in it: as it is, or with escapes.
    fn is_in(&self, text: &str) -> bool {
        let Self(secret) = *self;
        secret.len() >= SHORTEST_SECRET
            && text.len() >= secret.len()
            && raw_or_decoded(text, |text| text.contains(secret))
    }

    /// `text`, unless it has the secret in it. Rule 13.4 of docs/policy.md.
    fn redacted<'t>(&self, text: &'t str) -> &'t str {
        if self.is_in(text) { REDACTED } else { text }
    }

    /// The first `most` bytes of `text`, redacted if the secret begins in them. No more is searched than such a secret
    /// reaches with each of its bytes escaped, as three: clients choose how long the text is.
    fn cut<'t>(&self, text: &'t str, most: usize) -> Text<'t> {
        let reach = most + 3 * self.0.len();
        let searched = &text[..text.floor_char_boundary(reach)];
        Text::cut(if self.is_in(searched) { REDACTED } else { text }, most)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::decision_log::line::Lines;
    use crate::decision_log::queue::QueuedRecord;

    /// Rule 13.4.
    #[test]
    fn texts_with_the_presented_secret_are_redacted() {
        let secret = PresentedSecret::new(b"s3cret+value");
        assert_eq!(secret.redacted("/login/s3cret+value/x"), REDACTED);
        assert_eq!(secret.redacted("/login/s3cret%2Bvalue"), REDACTED);
        assert_eq!(secret.redacted("/login/s3cret"), "/login/s3cret");
        // No secret is so short.
        assert_eq!(PresentedSecret::new(b"api").redacted("/api/v1"), "/api/v1");
        let marked = PresentedSecret::new(b"secret-token:s3cret+value");
        assert_eq!(marked.redacted("/login/s3cret+value"), REDACTED);
        assert_eq!(without_query("/a?token=x"), "/a");
        assert_eq!(without_query("/a#b?c"), "/a");
    }

    #[test]
    fn a_text_is_redacted_where_a_secret_lies_across_its_end() {
        let secret = PresentedSecret::new(b"s3cret+value");
        for form in ["s3cret+value", "%733cret%2Bvalue", "%73%33%63%72%65%74%2B%76%61%6C%75%65"] {
            let text = format!("/{form}{}", "x".repeat(100));
            let cut = secret.cut(&text, 2);
            assert_eq!((cut.text, cut.cut), (&REDACTED[..2], true), "{form}");
        }
        // What is not recorded has no secret to hide.
        let cut = secret.cut(&format!("/{}s3cret+value", "x".repeat(100)), 2).text.to_owned();
        assert_eq!(cut, "/x");
    }

    #[test]
    fn no_line_is_longer_than_estimated() {
        let mut route = RouteText { bytes: [0; MAX_ROUTE], length: 0 };
        write!(route, "GET /cards/{{id}}").unwrap();
        let record = Record {
            facts: Facts {
                time: Timestamp(0),
                reason: Reason::ClientIpNotWhitelisted,
                token: Some((TokenId(Uuid::nil()), AccountId(Uuid::nil()))),
                client: Some("fd00:1111:2222:3333:4444:5555:6666:7777".parse().unwrap()),
                interface: Interface::ForwardAuth,
                credential: Some(CredentialId(Uuid::nil())),
                trace_id: Some(u128::MAX),
                revision: i64::MAX,
                latency_us: u32::MAX,
                dry_run: true,
            },
            scope: "cards.read",
            route,
            method: Text { text: "G\u{1}", cut: true },
            path: Text { text: "/\u{0}\n\u{1f}\u{7f}\"\\ä", cut: true },
            request_id: "\"",
        };
        let queued = QueuedRecord {
            facts: &record.facts,
            scope: record.scope,
            route: record.route.as_str(),
            method: record.method,
            path: record.path,
            request_id: record.request_id,
        };
        let mut line = Vec::new();
        Lines::default().put_decision(&queued, &mut line);
        assert!(line.len() as u64 <= record.estimated_line(), "{}", line.len());
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let text = Text::cut("aä", 2);
        assert_eq!((text.text, text.cut), ("a", true));
        let text = Text::cut("aä", 3);
        assert_eq!((text.text, text.cut), ("aä", false));
    }
}
