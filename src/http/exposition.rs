//! Which format of `/metrics` a request asks for: RFC 9110, section 12.5.1.

use axum::http::{HeaderMap, header};

use crate::telemetry::Exposition;

/// OpenMetrics where `Accept` names a supported version of it and prefers nothing else; otherwise the text format, also
/// without `Accept`.
pub(super) fn accepted(headers: &HeaderMap) -> Exposition {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let (mut open_metrics, mut text, mut any) = (0, None, 0);
    for range in lines.flat_map(|line| line.split(',')) {
        let MediaRange { name, version, quality } = MediaRange::parse(range);
        match (name.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => {
                open_metrics = open_metrics.max(quality);
            }
            ("text/plain", None | Some("0.0.4")) => text = text.max(Some(quality)),
            ("text/*" | "*/*", _) => any = any.max(quality),
            _ => {}
        }
    }
    if open_metrics > 0 && open_metrics >= text.unwrap_or(any) {
        Exposition::OpenMetrics
    } else {
        Exposition::Text
    }
}

/// One of the media types that a client accepts.
struct MediaRange<'a> {
    /// In lower case.
    name: String,
    version: Option<&'a str>,
    /// In thousandths; 0 for one that it does not accept.
    quality: u16,
}

impl<'a> MediaRange<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut range = Self { name, version: None, quality: 1_000 };
        for (parameter, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match parameter.trim().to_ascii_lowercase().as_str() {
                "version" => range.version = Some(value),
                "q" => {
                    let quality = value.parse().unwrap_or(0.0_f32).clamp(0.0, 1.0);
                    range.quality = (quality * 1_000.0) as u16;
                }
                _ => {}
            }
        }
        range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_chooses_the_format() {
        use Exposition::{OpenMetrics, Text};
        for (accept, format) in [
            (&[][..], Text),
            (&["*/*"], Text),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Text),
            (&["text/plain"], Text),
            (&["application/json"], Text),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\" ; Q=1"], OpenMetrics),
            (&["application/openmetrics-text;version=0.0.1"], Text),
            (&["application/openmetrics-text;version=2.0.0;q=0.9,text/plain;q=0.1"], Text),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=NaN"], Text),
            (&["application/openmetrics-text;q=0.4,text/plain;version=0.0.4;q=0.5"], Text),
            (&["application/openmetrics-text;q=0.4,*/*;q=0.5"], Text),
            (&["text/plain;q=0.5", "application/openmetrics-text;q=0.6"], OpenMetrics),
            // What Prometheus 2.42 sends, and what Prometheus 3 does.
            (
                &[
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ],
                OpenMetrics,
            ),
            (
                &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                   application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;\
                   q=0.3,text/plain;version=0.0.4;q=0.2,/;q=0.1"],
                OpenMetrics,
            ),
        ] {
            let mut headers = HeaderMap::new();
            for line in accept {
                headers.append(header::ACCEPT, line.parse().unwrap());
            }
            assert_eq!(accepted(&headers), format, "{accept:?}");
        }
    }
}
