//! Spans on their way to the collector: a bounded queue, and a task that sends what is in it.
//!
//! # Invariants
//! - What ends a span waits for nothing: where the queue is full, the span is dropped and counted. Rule 15.5 of
//!   docs/policy.md.
//! - A collector that is slow, out of reach or hostile costs spans, one connection, and the memory of the queue and of one
//!   batch. gRPC has no redirects: spans go to the endpoint of the settings alone.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Error, Identity};

use super::TraceSettings;

/// How long a connection to the collector may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the last spans may take when the process ends.
const LAST: Duration = Duration::from_secs(2);
/// The largest answer of a collector, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// How much of a collector's message is logged, in bytes.
const MAX_MESSAGE: usize = 200;

/// What became of spans.
#[derive(Debug, Clone, Default)]
pub struct TraceCounters {
    /// Spans that the collector took over.
    pub exported: Counter,
    /// Spans that found no room in the queue, or that the collector did not take.
    pub dropped: Counter,
}

/// The end of the queue that takes spans in.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<SpanData>,
    counters: TraceCounters,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.counters.dropped.inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The other end, and how what comes out is sent.
#[derive(Debug)]
pub struct TraceExport {
    receiver: mpsc::Receiver<SpanData>,
    /// What is sent next.
    batch: Vec<SpanData>,
    settings: TraceSettings,
    resource: Resource,
    counters: TraceCounters,
}

pub(super) fn queue(
    settings: TraceSettings,
    resource: Resource,
    counters: TraceCounters,
) -> (Queue, TraceExport) {
    let (sender, receiver) = mpsc::channel(settings.queue);
    let queue = Queue { sender, counters: counters.clone() };
    (queue, TraceExport { receiver, batch: Vec::new(), settings, resource, counters })
}

impl TraceExport {
    /// Sends spans until `stop`, and then those that are left, for a moment.
    pub async fn run(mut self, stop: CancellationToken) {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "traces cannot be exported");
                return;
            }
        };
        let mut failing = false;
        while stop.run_until_cancelled(self.fill()).await.is_some() {
            let sent = tokio::select! {
                sent = self.send(client.clone()) => sent,
                () = late(&stop) => break,
            };
            match &sent {
                Ok(()) if failing => tracing::info!("the trace collector takes spans again"),
                Err(error) if !failing => {
                    tracing::warn!(
                        error,
                        endpoint = %self.settings.endpoint,
                        "the trace collector takes no spans: they are dropped"
                    );
                }
                _ => {}
            }
            failing = sent.is_err();
            if failing {
                // A collector that refuses at once is not asked again at once.
                stop.run_until_cancelled(tokio::time::sleep(self.settings.delay)).await;
            }
        }
        if !failing {
            // Nobody reads an error any more.
            let _ = tokio::time::timeout(LAST, self.send_rest(client)).await;
        }
    }

    /// Sends what is left, for as long as the collector takes it.
    async fn send_rest(&mut self, client: TraceServiceClient<Channel>) -> Result<(), String> {
        loop {
            while self.batch.len() < self.settings.batch
                && let Ok(span) = self.receiver.try_recv()
            {
                self.batch.push(span);
            }
            if self.batch.is_empty() {
                return Ok(());
            }
            self.send(client.clone()).await?;
        }
    }

    /// Waits for as many spans as a message has, or for those that come within the delay after the first one.
    async fn fill(&mut self) {
        let Self { receiver, batch, settings, .. } = self;
        if batch.is_empty() {
            // The other end lives as long as the log subscriber, which nobody removes.
            let Some(first) = receiver.recv().await else { return std::future::pending().await };
            batch.push(first);
        }
        let more = async {
            while batch.len() < settings.batch {
                receiver.recv_many(batch, settings.batch - batch.len()).await;
            }
        };
        let _ = tokio::time::timeout(settings.delay, more).await;
    }

    /// Sends the batch. It counts as dropped unless the collector says that it took it.
    async fn send(&mut self, mut client: TraceServiceClient<Channel>) -> Result<(), String> {
        let batch = std::mem::take(&mut self.batch);
        let mut left = Dropped { count: batch.len() as u64, counter: &self.counters.dropped };
        let resource = ResourceAttributesWithSchema::from(&self.resource);
        let resource_spans = group_spans_by_resource_and_scope(batch, &resource);
        let mut request = tonic::Request::new(ExportTraceServiceRequest { resource_spans });
        *request.metadata_mut() = MetadataMap::from_headers(self.settings.headers.clone());
        let sent = tokio::time::timeout(self.settings.timeout, client.export(request)).await;
        let answer = sent.map_err(|_| "it took too long".to_owned())?;
        let answer = answer.map_err(|status| {
            let message = status.message();
            let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
            format!("{:?}: {message}", status.code())
        })?;
        let rejected = answer.into_inner().partial_success.map_or(0, |part| part.rejected_spans);
        let rejected = u64::try_from(rejected).unwrap_or_default().min(left.count);
        self.counters.exported.inc_by(left.count - rejected);
        left.count = rejected;
        Ok(())
    }

    fn client(&self) -> Result<TraceServiceClient<Channel>, Error> {
        let TraceSettings { endpoint, tls, timeout, compressed, .. } = &self.settings;
        let mut channel =
            Endpoint::from_shared(endpoint.to_string())?.connect_timeout(CONNECT).timeout(*timeout);
        if let Some(tls) = tls {
            let anchors = tls.trust.roots().roots.clone();
            let mut config = ClientTlsConfig::new().trust_anchors(anchors);
            if let Some((chain, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(chain, key));
            }
            channel = channel.tls_config(config)?;
        }
        let client = TraceServiceClient::new(channel.connect_lazy());
        let client = client.max_decoding_message_size(MAX_ANSWER);
        Ok(match compressed {
            true => client.send_compressed(CompressionEncoding::Gzip),
            false => client,
        })
    }
}

/// Returns a moment after `stop`.
async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST).await;
}

/// Spans that are counted as dropped at the end, also where what sends them is given up.
struct Dropped<'a> {
    count: u64,
    counter: &'a Counter,
}

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.counter.inc_by(self.count);
    }
}
