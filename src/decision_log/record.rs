//! What is recorded of a decision, as compact as the decision's thread can make it.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;

use crate::clock::Stopwatch;
use crate::policy::decide::{Decision, Operation, Reason, Request};
use crate::policy::id::{AccountId, CredentialId, TokenId};
use crate::policy::network::ClientAddr;
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;

/// The longest request id that is recorded: longer ones are left out.
const MAX_REQUEST_ID: usize = 128;
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
/// The longest line without the texts of its record.
const LINE_WITHOUT_TEXTS: usize = 420;

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

/// The ids that a caller sent with a call, unchecked.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallIds<'a> {
    /// `traceparent` (W3C Trace Context).
    pub traceparent: Option<&'a [u8]>,
    /// `x-request-id`.
    pub request_id: Option<&'a [u8]>,
}

/// The call that a question came with. There is one only where decisions are logged.
#[derive(Debug)]
pub struct Call {
    interface: Interface,
    credential: Option<CredentialId>,
    trace_id: Option<u128>,
    /// Up to 128 printable ASCII characters; empty for none.
    request_id: Box<str>,
}

impl Call {
    /// A call over `interface` by the caller with `credential`: `None` where callers need none.
    pub fn new(interface: Interface, credential: Option<CredentialId>, ids: CallIds<'_>) -> Self {
        let mut call = Self { interface, credential, trace_id: None, request_id: Box::default() };
        call.add(ids);
        call
    }

    /// Takes over ids that the call does not have yet.
    pub fn add(&mut self, ids: CallIds<'_>) {
        self.trace_id = self.trace_id.or_else(|| trace_id(ids.traceparent?));
        if self.request_id.is_empty()
            && let Some(id) = ids.request_id
            && id.len() <= MAX_REQUEST_ID
            && id.iter().all(|byte| (b' '..=b'~').contains(byte))
        {
            // ASCII.
            self.request_id = std::str::from_utf8(id).unwrap_or_default().into();
        }
    }
}

/// The trace id of a `traceparent`: `version-trace id-parent id-flags`, in lower-case hexadecimal (W3C Trace Context,
/// section 3.2.2). Later versions may append more.
fn trace_id(traceparent: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut parts = text.split('-');
    let mut hex = |length: usize| {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        parts.next().filter(|part| part.len() == length && part.bytes().all(is_hex))
    };
    let version = hex(2).filter(|version| *version != "ff")?;
    let trace_id = u128::from_str_radix(hex(32)?, 16).ok().filter(|id| *id != 0)?;
    hex(16)?;
    hex(2)?;
    (version != "00" || parts.next().is_none()).then_some(trace_id)
}

/// What was decided on, beside the decision itself.
#[derive(Debug, Clone, Copy)]
pub struct DecidedRequest<'a> {
    /// The checked arguments.
    pub request: &'a Request<'a>,
    /// What the operation's route is found in.
    pub catalog: &'a Catalog,
    /// The secret as it was presented, which no text of the record may contain.
    pub presented: &'a [u8],
    /// Whether this is no use of the token.
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

/// A text of a record: a part of one that is kept, and what was cut off or replaced.
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
    ) -> Self {
        let mut route = RouteText { bytes: [0; MAX_ROUTE], length: 0 };
        let (mut scope, mut method, mut path) = ("", "", "");
        match decided.request.operation {
            Operation::Scope(asked) => scope = asked.name.as_str(),
            Operation::Http { method: sent, path: target } => {
                (method, path) = (sent, without_query(target));
                if decision.required.is_some()
                    && let Some(taken) = decided.catalog.route(sent, target)
                {
                    // Writing to it can't fail.
                    let _ = write!(route, "{taken}");
                }
            }
            Operation::Ambiguous(_) => {}
        }
        if let Some(required) = decision.required {
            scope = required.name.as_str();
        }
        let secret = Presented(decided.presented);
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
            method: Text::cut(secret.redacted(method), MAX_METHOD),
            path: Text::cut(secret.redacted(path), MAX_PATH),
            request_id: secret.redacted(&call.request_id),
        }
    }

    /// About how many bytes its line has, and not fewer unless many characters are escaped.
    pub(super) fn estimated_line(&self) -> u64 {
        let texts = self.scope.len()
            + self.route.length
            + self.method.text.len()
            + self.path.text.len()
            + self.request_id.len();
        (LINE_WITHOUT_TEXTS + texts) as u64
    }
}

/// The path of a request target.
fn without_query(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}

/// The secret that was presented with a question.
struct Presented<'a>(&'a [u8]);

impl Presented<'_> {
    /// `text`, or that it had the secret in it: as it is, or with escapes.
    fn redacted<'t>(&self, text: &'t str) -> &'t str {
        let Ok(secret) = std::str::from_utf8(self.0) else { return text };
        if secret.len() < SHORTEST_SECRET || text.len() < secret.len() {
            return text;
        }
        let escaped = || {
            let decoded = percent_decode_str(text).decode_utf8_lossy();
            decoded.contains(secret)
        };
        if text.contains(secret) || (text.contains('%') && escaped()) { REDACTED } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_ids_are_those_of_well_formed_headers() {
        let of = |text: &str| trace_id(text.as_bytes());
        let id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        assert_eq!(of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), Some(id));
        assert_eq!(of("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later"), Some(id));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn request_ids_are_printable_and_short_and_the_first_one_counts() {
        let call = |id: &[u8]| {
            let ids = CallIds { request_id: Some(id), traceparent: None };
            Call::new(Interface::Authorize, None, ids)
        };
        assert_eq!(&*call(b"a b~").request_id, "a b~");
        assert_eq!(call(&[b'x'; 128]).request_id.len(), 128);
        for bad in [&[b'x'; 129][..], b"", b"a\tb", b"\xc3\xa4", b"\x7f"] {
            assert_eq!(&*call(bad).request_id, "", "{bad:?}");
        }
        let mut call = call(b"first");
        call.add(CallIds { request_id: Some(b"second"), traceparent: None });
        assert_eq!(&*call.request_id, "first");
    }

    #[test]
    fn texts_with_the_presented_secret_are_redacted() {
        let secret = Presented(b"s3cret+value");
        assert_eq!(secret.redacted("/login/s3cret+value/x"), REDACTED);
        assert_eq!(secret.redacted("/login/s3cret%2Bvalue"), REDACTED);
        assert_eq!(secret.redacted("/login/s3cret"), "/login/s3cret");
        // No secret is so short.
        assert_eq!(Presented(b"api").redacted("/api/v1"), "/api/v1");
        assert_eq!(without_query("/a?token=x"), "/a");
        assert_eq!(without_query("/a#b?c"), "/a");
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let text = Text::cut("aä", 2);
        assert_eq!((text.text, text.cut), ("a", true));
        let text = Text::cut("aä", 3);
        assert_eq!((text.text, text.cut), ("aä", false));
    }
}
