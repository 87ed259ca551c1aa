//! Which requests are traced.

use std::hash::{BuildHasher as _, RandomState};

use opentelemetry::trace::SpanContext;

/// Which requests are traced: `OTEL_TRACES_SAMPLER` and its argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Whether the caller's own choice counts, where it makes one.
    pub parent_based: bool,
    /// The share of the others, from 0 for none to 1 for all.
    pub share: f64,
}

impl Sampler {
    /// Whether a request within the span `parent` of its caller is traced. It is asked once a request, before any span is
    /// made, so that what is not traced makes none.
    pub(super) fn includes(&self, parent: Option<&SpanContext>) -> bool {
        match parent {
            Some(parent) if self.parent_based => parent.is_sampled(),
            // As OpenTelemetry does: services with the same share choose the same traces.
            Some(parent) => self.includes_id(u128::from_be_bytes(parent.trace_id().to_bytes())),
            None if self.share >= 1.0 => true,
            None if self.share <= 0.0 => false,
            None => self.includes_id(RandomState::new().hash_one(0_u8).into()),
        }
    }

    fn includes_id(&self, trace_id: u128) -> bool {
        // 63 bits, as OpenTelemetry's TraceIdRatioBased has it.
        let number = (trace_id as u64) >> 1;
        self.share >= 1.0 || number < (self.share * (1_u64 << 63) as f64) as u64
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};

    use super::*;

    fn parent(trace_id: u128, flags: TraceFlags) -> SpanContext {
        let (trace, span) = (TraceId::from(trace_id), SpanId::from(1_u64));
        SpanContext::new(trace, span, flags, true, TraceState::NONE)
    }

    #[test]
    fn the_callers_choice_counts_where_it_is_asked_for() {
        let (yes, no) = (parent(1, TraceFlags::SAMPLED), parent(1, TraceFlags::NOT_SAMPLED));
        for share in [0.0, 0.5, 1.0] {
            let sampler = Sampler { parent_based: true, share };
            assert!(sampler.includes(Some(&yes)) && !sampler.includes(Some(&no)), "{share}");
        }
        let always = Sampler { parent_based: false, share: 1.0 };
        assert!(always.includes(Some(&no)) && always.includes(None));
        let never = Sampler { parent_based: false, share: 0.0 };
        assert!(!never.includes(Some(&yes)) && !never.includes(None));
    }

    #[test]
    fn a_share_is_chosen_by_the_trace_and_at_random_without_one() {
        let half = Sampler { parent_based: false, share: 0.5 };
        let low = parent(7, TraceFlags::NOT_SAMPLED);
        let high = parent(u128::from(u64::MAX), TraceFlags::SAMPLED);
        assert!(half.includes(Some(&low)) && !half.includes(Some(&high)));
        let chosen = (0..10_000).filter(|_| half.includes(None)).count();
        assert!((4_500..5_500).contains(&chosen), "{chosen}");
    }
}
