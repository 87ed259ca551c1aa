//! The trace that a caller's request belongs to: W3C Trace Context (<https://www.w3.org/TR/trace-context/>).

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The longest `tracestate` that is taken over, in bytes (section 3.3.1.5); a longer one is left out.
const MAX_TRACE_STATE: usize = 512;
/// The most members of one (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;

/// The headers with which a caller names its trace, unchecked.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceHeaders<'a> {
    /// `traceparent`.
    pub traceparent: Option<&'a [u8]>,
    /// `tracestate`.
    pub tracestate: Option<&'a [u8]>,
}

impl<'a> TraceHeaders<'a> {
    /// Those among headers, of which `header` gives the one value of a name, and `None` where there are several.
    pub fn read(header: impl Fn(&str) -> Option<&'a [u8]>) -> Self {
        Self { traceparent: header("traceparent"), tracestate: header("tracestate") }
    }

    /// The same of `headers`.
    pub fn of(headers: &'a http::HeaderMap) -> Self {
        Self::read(|name| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (Some(value), None) => Some(value.as_bytes()),
                _ => None,
            }
        })
    }

    /// The span of the caller, where the headers are well-formed. Rule 15.2 of docs/policy.md.
    pub fn parent(&self) -> Option<SpanContext> {
        let parent = TraceParent::parse(self.traceparent?)?;
        let flags = if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        let (trace, span) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
        let state = self.tracestate.and_then(trace_state).unwrap_or_default();
        Some(SpanContext::new(trace, span, flags, true, state))
    }
}

/// What a `traceparent` says: `version-trace id-parent id-flags`, in lower-case hexadecimal (section 3.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Of the whole trace; not 0.
    pub trace_id: u128,
    /// Of the caller's span; not 0.
    pub span_id: u64,
    /// Whether the caller records its span.
    pub sampled: bool,
}

impl TraceParent {
    /// Later versions may append more.
    pub fn parse(traceparent: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(traceparent).ok()?;
        let mut parts = text.split('-');
        let mut hex = |length: usize| {
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            parts.next().filter(|part| part.len() == length && part.bytes().all(is_hex))
        };
        let version = hex(2).filter(|version| *version != "ff")?;
        let trace_id = u128::from_str_radix(hex(32)?, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(hex(16)?, 16).ok().filter(|id| *id != 0)?;
        let flags = u8::from_str_radix(hex(2)?, 16).ok()?;
        let parent = Self { trace_id, span_id, sampled: flags & 1 == 1 };
        (version != "00" || parts.next().is_none()).then_some(parent)
    }
}

/// A malformed or too large one is left out, and the trace goes on without it (section 3.3.1.5).
fn trace_state(tracestate: &[u8]) -> Option<TraceState> {
    let text = std::str::from_utf8(tracestate).ok().filter(|text| text.len() <= MAX_TRACE_STATE)?;
    let members = || text.split(',').map(str::trim_ascii).filter(|member| !member.is_empty());
    (members().count() <= MAX_MEMBERS).then_some(())?;
    let pairs: Option<Vec<_>> = members().map(|member| member.split_once('=')).collect();
    TraceState::from_key_value(pairs?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

    #[test]
    fn parents_are_those_of_well_formed_headers() {
        let of = |text: &str| TraceParent::parse(text.as_bytes());
        let parent = TraceParent { trace_id: TRACE, span_id: 0x00f0_67aa_0ba9_02b7, sampled: true };
        assert_eq!(of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), Some(parent));
        assert_eq!(
            of("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-later"),
            Some(parent)
        );
        let unsampled = of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02");
        assert_eq!(unsampled, Some(TraceParent { sampled: false, ..parent }));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    /// Rule 15.2.
    #[test]
    fn states_are_taken_over_within_bounds() {
        let header = |tracestate: &str| {
            let traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
            let tracestate = Some(tracestate.as_bytes());
            let headers = TraceHeaders { traceparent: Some(traceparent), tracestate };
            headers.parent().unwrap().trace_state().header()
        };
        assert_eq!(
            header("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"),
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
        );
        let many =
            |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(header(&many(32)), many(32));
        for bad in
            [many(33), format!("k={}", "v".repeat(511)), "no pair".to_owned(), "K=v".to_owned()]
        {
            assert_eq!(header(&bad), "", "{bad}");
        }
    }

    #[test]
    fn several_parents_are_none() {
        let mut headers = http::HeaderMap::new();
        let value = http::HeaderValue::from_static(
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
        headers.append("traceparent", value.clone());
        assert!(TraceHeaders::of(&headers).parent().is_some());
        headers.append("traceparent", value);
        assert!(TraceHeaders::of(&headers).parent().is_none());
    }
}
