//! Traces: spans from the interface to the statement, for a collector that speaks OTLP over gRPC.
//!
//! A request of a known caller begins a span ([`Traces::begin`]) if the [`Sampler`] includes it; the steps of its work are
//! spans within that ([`step`]), and so are its statements (`statements`). What is not traced makes no span at all: outside
//! a traced request, a step is none. Ended spans go through a bounded queue to the collector (`export`).
//!
//! # Invariants
//! - A caller without a valid credential begins no span, whatever its `traceparent` says. Where the headers of a gateway's
//!   own clients arrive with its request, they choose at most `FORWARDED_SPANS` a second. Rule 15.3 of docs/policy.md.
//! - No attribute has a secret, a value of a statement, or the query of a URL. Rule 15.4 of docs/policy.md.
//! - Where traces are not recorded, there is no [`Traces`], and nobody makes a span.

mod context;
mod export;
mod late;
mod sampler;
mod statements;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Uri};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use secrecy::{ExposeSecret as _, SecretString};
use tracing::field::Empty;
use tracing::instrument::Instrumented;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument as _, Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::DynFilterFn;
use tracing_subscriber::layer::{Context as LayerContext, Filter};
use tracing_subscriber::registry::LookupSpan;

pub use self::context::{TraceHeaders, TraceParent};
pub use self::export::{TraceCounters, TraceExport};
pub use self::late::{LateSpan, WithinLateSpan};
pub use self::sampler::Sampler;
use self::statements::Statements;
use super::request_id;
use crate::clock::Stopwatch;
use crate::pem::TrustStore;

/// The targets of spans. No log line shows them: the filter of the log is for targets that begin with `portcullis`.
const REQUEST: &str = "trace::request";
const STEP: &str = "trace::step";

/// Spans that headers which may be of strangers begin in a second at most.
const FORWARDED_SPANS: u32 = 100;

/// How traces are recorded and exported.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// The collector: a URL of `http` or `https`.
    pub endpoint: Uri,
    /// How the collector is known, where its URL is of `https`.
    pub tls: Option<CollectorTls>,
    /// What is sent with each message; may have secrets.
    pub headers: HeaderMap,
    /// Whether messages are compressed.
    pub compressed: bool,
    /// How long an export may take.
    pub timeout: Duration,
    /// Which requests are traced.
    pub sampler: Sampler,
    /// Whether callers' `traceparent` and `tracestate` are read.
    pub reads_context: bool,
    /// Spans that wait to be exported at most.
    pub queue: usize,
    /// Spans in one message at most.
    pub batch: usize,
    /// How long a span waits for others to be exported with.
    pub delay: Duration,
    /// What describes this process.
    pub resource: Vec<(String, String)>,
}

/// How a collector is known, and how this process shows who it is.
#[derive(Debug, Clone)]
pub struct CollectorTls {
    /// The authorities that its certificate may be from.
    pub trust: TrustStore,
    /// The PEM text of a client certificate and of its key.
    pub identity: Option<(Vec<u8>, ClientKey)>,
}

/// The PEM text of a private key.
#[derive(Debug, Clone)]
pub struct ClientKey(pub SecretString);

impl AsRef<[u8]> for ClientKey {
    fn as_ref(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

/// What begins spans.
#[derive(Debug, Clone)]
pub struct Traces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sampler: Sampler,
    reads_context: bool,
    forwarded: Mutex<(Stopwatch, u32)>,
    counters: TraceCounters,
}

/// What a request is, as its span says.
#[derive(Debug, Clone, Copy)]
pub enum TracedRequest<'a> {
    /// A call of gRPC, by its method.
    Call(&'a str),
    /// A request for a decision that came over HTTP, by its interface.
    Decision(&'a str),
    /// A request for a page: its method, and its path as the routes have it.
    Page(&'a str, &'a str),
}

/// Whose headers say which trace a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderOrigin {
    /// The caller's alone.
    Caller,
    /// Those of a gateway's client may be among them.
    Forwarded,
}

/// The parts of tracing before anything runs: what begins spans, what records them, and what exports them.
#[derive(Debug)]
pub struct Pipeline {
    /// What begins spans.
    pub traces: Traces,
    /// What exports them.
    pub export: TraceExport,
    provider: SdkTracerProvider,
    database: &'static str,
}

impl Pipeline {
    /// Tracing by `settings`, of a server over the database system `database`.
    pub fn new(settings: TraceSettings, database: &'static str) -> Self {
        let counters = TraceCounters::default();
        let attributes = settings.resource.iter();
        let attributes = attributes.map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let resource = Resource::builder_empty().with_attributes(attributes).build();
        let traces = Traces(Arc::new(Shared {
            sampler: settings.sampler,
            reads_context: settings.reads_context,
            forwarded: Mutex::new((Stopwatch::start(), 0)),
            counters: counters.clone(),
        }));
        let (queue, export) = export::queue(settings, resource.clone(), counters);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_resource(resource)
            // What is not to be traced makes no span.
            .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOn)
            .build();
        Self { traces, export, provider, database }
    }

    /// The part of the log subscriber that records spans.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let spans = tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("portcullis"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        let statements = Statements::new(&self.provider, self.database);
        spans.with_filter(filter(STEP)).and_then(statements.with_filter(filter(statements::TARGET)))
    }
}

/// Spans of requests, and steps within them; and where `within` is the target of events, these within them.
fn filter<S>(within: &'static str) -> impl Filter<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_within = move |metadata: &Metadata<'_>| -> bool {
        metadata.target() == STEP || metadata.target() == within
    };
    DynFilterFn::new(move |metadata: &Metadata<'_>, context: &LayerContext<'_, S>| {
        match metadata.target() {
            REQUEST => true,
            _ => is_within(metadata) && context.lookup_current().is_some(),
        }
    })
    .with_callsite_filter(move |metadata: &'static Metadata<'static>| match metadata.target() {
        REQUEST => tracing::subscriber::Interest::always(),
        _ if is_within(metadata) => tracing::subscriber::Interest::sometimes(),
        _ => tracing::subscriber::Interest::never(),
    })
    .with_max_level_hint(LevelFilter::DEBUG)
}

impl Traces {
    /// What became of spans.
    pub fn counters(&self) -> &TraceCounters {
        &self.0.counters
    }

    /// The span of a request whose caller has a valid credential; `None` where it is not traced.
    pub fn begin(
        &self,
        request: TracedRequest<'_>,
        headers: TraceHeaders<'_>,
        origin: HeaderOrigin,
    ) -> Option<Span> {
        let parent = self.0.reads_context.then(|| headers.parent()).flatten();
        if !self.0.sampler.includes(parent.as_ref()) {
            return None;
        }
        if origin == HeaderOrigin::Forwarded && parent.is_some() && !self.0.admit_forwarded() {
            return None;
        }
        let id = request_id::current();
        let id = id.as_ref().and_then(|id| id.to_str().ok());
        let name = match request {
            TracedRequest::Call(name) | TracedRequest::Decision(name) => name.to_owned(),
            TracedRequest::Page(method, route) => format!("{method} {route}"),
        };
        let span = tracing::info_span!(
            target: REQUEST,
            "request",
            otel.name = name,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system = Empty,
            rpc.method = Empty,
            rpc.grpc.status_code = Empty,
            http.request.method = Empty,
            http.route = Empty,
            http.response.status_code = Empty,
            portcullis.request_id = id,
            portcullis.decision = Empty,
            portcullis.reason = Empty,
        );
        match request {
            TracedRequest::Call(method) => {
                span.record("rpc.system", "grpc").record("rpc.method", method);
            }
            TracedRequest::Decision(_) => {}
            TracedRequest::Page(method, route) => {
                span.record("http.request.method", method).record("http.route", route);
            }
        }
        if let Some(parent) = parent {
            // It fails where the span has begun already, or no layer records it.
            let _ = span.set_parent(Context::new().with_remote_span_context(parent));
        }
        Some(span)
    }
}

impl Shared {
    /// Whether there is room within this second.
    fn admit_forwarded(&self) -> bool {
        let mut forwarded = self.forwarded.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut *forwarded;
        if since.elapsed() >= Duration::from_secs(1) {
            (*since, *count) = (Stopwatch::start(), 0);
        }
        *count += 1;
        *count <= FORWARDED_SPANS
    }
}

/// `work` as a step of the traced request that this thread works on, if it works on one.
pub fn step<F: Future>(name: &'static str, work: F) -> Instrumented<F> {
    work.instrument(
        tracing::info_span!(target: STEP, "step", otel.name = name, otel.status_code = Empty),
    )
}

/// Records that the step which this thread works on has failed.
pub fn failed() {
    Span::current().record("otel.status_code", "ERROR");
}

/// Records how a call of gRPC ended: with the number and the name of its code.
pub fn ended_with_code(span: &Span, code: i32) {
    span.record("rpc.grpc.status_code", code);
    // Those that OpenTelemetry calls errors of a server: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE
    // and DATA_LOSS.
    if matches!(code, 2 | 4 | 12 | 13 | 14 | 15) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Records how a request over HTTP was answered.
pub fn ended_with_status(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// Records a decision in the span of its request.
pub fn decided(span: &Span, allowed: bool, reason: &'static str) {
    span.record("portcullis.decision", if allowed { "ALLOW" } else { "DENY" });
    span.record("portcullis.reason", reason);
}

/// Records one of many decisions of a request as an event of its span, which has a bounded number of them.
pub fn decided_item(span: &Span, allowed: bool, reason: &'static str) {
    let decision = if allowed { "ALLOW" } else { "DENY" };
    tracing::info!(
        target: STEP,
        parent: span,
        { portcullis.decision = decision, portcullis.reason = reason },
        "decision"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule 15.3.
    #[test]
    fn headers_that_may_be_of_strangers_begin_few_spans() {
        let settings = TraceSettings {
            endpoint: Uri::from_static("http://localhost"),
            tls: None,
            headers: HeaderMap::new(),
            compressed: false,
            timeout: Duration::from_secs(1),
            sampler: Sampler { parent_based: true, share: 1.0 },
            reads_context: true,
            queue: 1,
            batch: 1,
            delay: Duration::from_secs(1),
            resource: Vec::new(),
        };
        let traces = Pipeline::new(settings, "sqlite").traces;
        let traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let named = TraceHeaders { traceparent: Some(traceparent), tracestate: None };
        let request = TracedRequest::Decision("forward_auth");
        let begun = |headers, origin| {
            let all = (0..1_000).map(|_| traces.begin(request, headers, origin));
            all.filter(Option::is_some).count()
        };
        // More where the machine is so slow that seconds pass.
        let forwarded = begun(named, HeaderOrigin::Forwarded);
        assert!((100..1_000).contains(&forwarded), "{forwarded}");
        assert_eq!(begun(TraceHeaders::default(), HeaderOrigin::Forwarded), 1_000);
        assert_eq!(begun(named, HeaderOrigin::Caller), 1_000);
    }
}
