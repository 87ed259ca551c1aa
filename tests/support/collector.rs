//! A collector of traces: the receiver of OTLP that OpenTelemetry's own definitions generate.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "test support: each test uses a part of it, and a failure here is the test's failure"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::server::Setup;
use super::tls::Identity;
use super::wait::until_async;

/// A span as tests look at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub state: String,
    pub attributes: BTreeMap<String, String>,
    pub events: Vec<BTreeMap<String, String>>,
    pub is_error: bool,
}

/// A collector that keeps what it receives.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    spans: Arc<Mutex<Vec<Seen>>>,
    /// Everything that was sent, as text, with the metadata.
    raw: Arc<Mutex<String>>,
    url: String,
}

impl Collector {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::serve(Server::builder(), "http").await
    }

    /// The same over TLS, as `identity`.
    pub async fn start_tls(identity: &Identity) -> Self {
        let own = tonic::transport::Identity::from_pem(identity.certificate(), identity.key());
        let tls = ServerTlsConfig::new().identity(own);
        Self::serve(Server::builder().tls_config(tls).unwrap(), "https").await
    }

    async fn serve(mut server: Server, scheme: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let collector = Self { url, ..Self::default() };
        let service = TraceServiceServer::new(collector.clone());
        let service = service.accept_compressed(CompressionEncoding::Gzip);
        let server = server.add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        collector
    }

    /// A server that sends its spans here, soon.
    pub fn traced(&self, setup: Setup) -> Setup {
        setup.env("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url).env("OTEL_BSP_SCHEDULE_DELAY", "20")
    }

    pub fn spans(&self) -> Vec<Seen> {
        self.spans.lock().unwrap().clone()
    }

    /// Everything that was sent, as text.
    pub fn raw(&self) -> String {
        self.raw.lock().unwrap().clone()
    }

    /// The spans of the trace, once `wanted` is true of them.
    pub async fn trace(&self, trace: &str, wanted: impl Fn(&Vec<Seen>) -> bool) -> Vec<Seen> {
        let of_trace = async || {
            let spans = self.spans();
            spans.into_iter().filter(|span| span.trace == trace).collect::<Vec<_>>()
        };
        until_async(of_trace, wanted).await
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        *self.raw.lock().unwrap() += &format!("{request:?}\n");
        let received = request.into_inner().resource_spans.into_iter();
        let spans =
            received.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.spans.lock().unwrap().extend(spans.map(seen));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seen(span: Span) -> Seen {
    let attributes = |attributes: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>| {
        let text = |value: Option<Value>| match value {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        attributes
            .into_iter()
            .map(|pair| (pair.key, text(pair.value.and_then(|value| value.value))))
            .collect::<BTreeMap<_, _>>()
    };
    Seen {
        name: span.name,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        state: span.trace_state,
        attributes: attributes(span.attributes),
        events: span.events.into_iter().map(|event| attributes(event.attributes)).collect(),
        is_error: span.status.is_some_and(|status| status.code == 2),
    }
}
