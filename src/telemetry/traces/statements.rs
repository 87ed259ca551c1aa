//! The statements of traced requests as spans.
//!
//! sqlx makes an event of each statement when it has ended, within the span that it was asked for in, also on the threads
//! of SQLite. An event has the statement's text with its placeholders, never a value.

use std::fmt;
use std::time::Duration;

use opentelemetry::trace::{Span as _, SpanKind, Tracer as _, TracerProvider as _};
use opentelemetry::{KeyValue, time};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The target of the events.
pub(super) const TARGET: &str = "sqlx::query";
/// Bytes of a statement's text that are recorded.
const MAX_TEXT: usize = 2_048;

/// The part of the subscriber that makes spans of statements.
#[derive(Debug)]
pub(super) struct Statements {
    tracer: SdkTracer,
    /// The name of the database system (OpenTelemetry, `db.system.name`).
    system: &'static str,
}

impl Statements {
    pub(super) fn new(provider: &SdkTracerProvider, system: &'static str) -> Self {
        Self { tracer: provider.tracer("portcullis"), system }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        if event.metadata().target() != TARGET || ctx.lookup_current().is_none() {
            return;
        }
        let mut statement = Statement::default();
        event.record(&mut statement);
        let end = time::now();
        let start = end.checked_sub(statement.took).unwrap_or(end);
        let text = statement.text();
        let operation = text.split_ascii_whitespace().next().unwrap_or("statement").to_owned();
        let attributes = vec![
            KeyValue::new("db.system.name", self.system),
            KeyValue::new("db.operation.name", operation.clone()),
            KeyValue::new("db.query.text", text.to_owned()),
            KeyValue::new("db.response.returned_rows", statement.returned),
        ];
        let parent = tracing::Span::current().context();
        let builder = self.tracer.span_builder(operation).with_kind(SpanKind::Client);
        let builder = builder.with_start_time(start).with_attributes(attributes);
        builder.start_with_context(&self.tracer, &parent).end_with_timestamp(end);
    }
}

/// What an event says.
#[derive(Debug, Default)]
struct Statement {
    /// The text, where it is a few words.
    summary: String,
    /// The text, where it is longer.
    whole: String,
    returned: i64,
    took: Duration,
}

impl Statement {
    fn text(&self) -> &str {
        let whole = self.whole.trim_ascii();
        let text = if whole.is_empty() { &self.summary } else { whole };
        &text[..text.floor_char_boundary(MAX_TEXT)]
    }
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.whole),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "rows_returned" {
            self.returned = i64::try_from(value).unwrap_or(i64::MAX);
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "elapsed_secs" {
            self.took = Duration::try_from_secs_f64(value).unwrap_or_default();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
