//! Log lines with the id of the request that they are about.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{LogFormat, request_id};

/// Lines as `inner` writes them, and where a request is worked on, with its id: as the field `request_id` of a JSON
/// object, or behind a line for people.
#[derive(Debug)]
pub(super) struct IdentifiedLines<F> {
    pub(super) format: LogFormat,
    pub(super) inner: F,
}

impl<S, N, F> FormatEvent<S, N> for IdentifiedLines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(id) = request_id::current() else {
            return self.inner.format_event(ctx, writer, event);
        };
        let id = id.to_str().unwrap_or_default();
        let mut line = String::new();
        self.inner.format_event(ctx, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match (self.format, line.strip_prefix('{')) {
            (LogFormat::Json, Some(rest)) => {
                let id = serde_json::Value::from(id);
                writeln!(writer, "{{\"request_id\":{id},{rest}")
            }
            _ => writeln!(writer, "{line} request_id={id:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use http::{HeaderMap, HeaderValue};
    use tracing_subscriber::fmt::MakeWriter;

    use super::super::request_id::{REQUEST_ID, RequestId};
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Written {
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    fn logged(log: impl Into<tracing::Dispatch>) {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("a \"b\""));
        tracing::dispatcher::with_default(&log.into(), || {
            tracing::info!(count = 1, "outside");
            RequestId::read(&headers).scope(|| tracing::info!(count = 2, "inside"));
        });
    }

    #[test]
    fn lines_of_requests_have_their_id() {
        let written = Written::default();
        let builder = tracing_subscriber::fmt().with_writer(written.clone()).json();
        let identified = |inner| IdentifiedLines { format: LogFormat::Json, inner };
        logged(builder.flatten_event(true).map_event_format(identified).finish());
        let lines: Vec<serde_json::Value> =
            written.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["count"], lines[0].get("request_id")), (&1.into(), None));
        assert_eq!((&lines[1]["count"], &lines[1]["request_id"]), (&2.into(), &"a \"b\"".into()));
        assert_eq!(lines[1]["message"], "inside");

        let written = Written::default();
        let builder = tracing_subscriber::fmt().with_writer(written.clone()).with_ansi(false);
        let identified = |inner| IdentifiedLines { format: LogFormat::Text, inner };
        logged(builder.map_event_format(identified).finish());
        let lines = written.lines();
        assert!(lines[0].ends_with("outside count=1"), "{lines:?}");
        assert!(lines[1].ends_with("inside count=2 request_id=\"a \\\"b\\\"\""), "{lines:?}");
    }
}
