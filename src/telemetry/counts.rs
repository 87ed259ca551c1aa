//! What is counted on the decision path: each thread counts for itself, and a reader sums up.
//!
//! Must stay true: counting takes no lock, allocates nothing, and touches no memory that another thread
//! writes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::family::MetricConstructor;
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::policy::decide::Reason;

/// How many threads count apart from each other; further ones share.
pub const THREADS: usize = 32;

/// Where this thread counts, less than [`THREADS`].
pub fn thread_place() -> usize {
    PLACE.with(|place| *place)
}

thread_local! {
    /// Where this thread counts.
    static PLACE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % THREADS
    };
}

/// Upper bounds of the latency buckets, in seconds.
const BOUNDS: [f64; 17] = [
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1.0,
    5.0, 15.0,
];

/// A histogram of seconds that takes no lock: the library's own one takes a mutex per observation,
/// which the decision path can't afford.
#[derive(Debug, Clone, Default)]
pub struct Latency(Arc<LatencyCells>);

#[derive(Debug, Default)]
pub(super) struct LatencyCells {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl LatencyCells {
    pub(super) fn observe(&self, took: Duration, times: u32) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(times.into(), Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos.saturating_mul(times.into()), Ordering::Relaxed);
    }
}

fn encode_latency<'a>(
    cells: impl Iterator<Item = &'a LatencyCells> + Clone,
    mut encoder: MetricEncoder<'_>,
) -> Result<(), fmt::Error> {
    let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds
        .enumerate()
        .map(|(i, bound)| {
            (bound, cells.clone().map(|cells| cells.buckets[i].load(Ordering::Relaxed)).sum())
        })
        .collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    let nanos: u64 = cells.map(|cells| cells.nanos.load(Ordering::Relaxed)).sum();
    encoder.encode_histogram::<NoLabelSet>(nanos as f64 / 1e9, count, &buckets, None)
}

impl Latency {
    /// Records one duration.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took, 1);
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        encode_latency(std::iter::once(&*self.0), encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

/// Decisions by their reasons, added up before they are counted: what others see at once is slow to write.
#[derive(Debug, Default)]
pub struct Tally(pub(super) [u32; Reason::ALL.len()]);

impl Tally {
    /// One more.
    pub fn add(&mut self, reason: Reason) {
        self.0[reason as usize] += 1;
    }
}

/// What one thread counts of decisions. Two cache lines apart from the next thread's, since
/// processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct DecisionCells {
    /// In the order of [`Reason::ALL`].
    pub(super) reasons: [AtomicU64; Reason::ALL.len()],
    pub(super) hits: AtomicU64,
    pub(super) latency: LatencyCells,
}

/// Everything that a decision counts, each thread for itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Decisions(Arc<[DecisionCells; THREADS]>);

impl Decisions {
    pub(super) fn mine(&self) -> &DecisionCells {
        &self.0[thread_place()]
    }

    fn sum(&self, of: impl Fn(&DecisionCells) -> &AtomicU64) -> u64 {
        self.0.iter().map(|cells| of(cells).load(Ordering::Relaxed)).sum()
    }
}

/// A view of [`Decisions`] that `/metrics` shows.
#[derive(Debug)]
pub(super) enum Shown {
    Reasons(Decisions),
    Hits(Decisions),
    Latency(Decisions),
}

impl EncodeMetric for Shown {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Reasons(decisions) => Reason::ALL.into_iter().try_for_each(|(reason, word)| {
                let count = decisions.sum(|cells| &cells.reasons[reason as usize]);
                let labels = ReasonLabels { reason: word };
                encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
            }),
            Self::Hits(decisions) => {
                let count = decisions.sum(|cells| &cells.hits);
                encoder.encode_counter::<NoLabelSet, _, u64>(&count, None)
            }
            Self::Latency(decisions) => {
                encode_latency(decisions.0.iter().map(|cells| &cells.latency), encoder)
            }
        }
    }

    fn metric_type(&self) -> MetricType {
        match self {
            Self::Reasons(_) | Self::Hits(_) => MetricType::Counter,
            Self::Latency(_) => MetricType::Histogram,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct NewLatency;

impl MetricConstructor<Latency> for NewLatency {
    fn new_metric(&self) -> Latency {
        Latency::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}
