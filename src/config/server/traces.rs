//! Traces: the standard variables of OpenTelemetry
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::env;
use std::fs;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::errors::ConfigErrors;
use crate::pem::{self, TrustStore};
use crate::policy::text::in_quotes;
use crate::telemetry::traces::{ClientKey, CollectorTls, Sampler, TraceSettings};

/// A variable of OpenTelemetry that is read, or a pair of them, of which the first wins.
#[derive(Debug)]
pub struct TraceVariable {
    /// Its name, or the name of the one that is for traces alone.
    pub name: &'static str,
    /// The name of the one that is for all signals, where there is one.
    pub general: Option<&'static str>,
    /// What holds without it.
    pub default: &'static str,
    /// What it is, written as the help of a flag.
    pub help: &'static str,
}

const fn variable(name: &'static str, default: &'static str, help: &'static str) -> TraceVariable {
    TraceVariable { name, general: None, default, help }
}

const fn pair(
    name: &'static str,
    general: &'static str,
    default: &'static str,
    help: &'static str,
) -> TraceVariable {
    TraceVariable { name, general: Some(general), default, help }
}

const DISABLED: TraceVariable =
    variable("OTEL_SDK_DISABLED", "false", "true records no traces, whatever else is set");
const EXPORTER: TraceVariable = variable(
    "OTEL_TRACES_EXPORTER",
    "otlp where an endpoint is set, else none",
    "otlp, or none for no traces",
);
const ENDPOINT: TraceVariable = pair(
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "http://localhost:4317 with otlp",
    "URL of the collector: https, or http without TLS. With it, traces are recorded",
);
const PROTOCOL: TraceVariable = pair(
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "grpc",
    "Only grpc is known here",
);
const HEADERS: TraceVariable = pair(
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "none",
    "What is sent with each export, as name=value pairs with commas between them and escapes of URLs; may be secret",
);
const CERTIFICATE: TraceVariable = pair(
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "the public ones",
    "PEM file with the authorities that the collector's certificate may be from",
);
const CLIENT_CERTIFICATE: TraceVariable = pair(
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "none",
    "PEM file with the certificate chain that is shown to the collector",
);
const CLIENT_KEY: TraceVariable = pair(
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "none",
    "PEM file with the private key of that",
);
const COMPRESSION: TraceVariable = pair(
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "none",
    "gzip, or none",
);
const TIMEOUT: TraceVariable = pair(
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "10000",
    "Milliseconds that an export may take, from 1 to 60000",
);
const SAMPLER: TraceVariable = variable(
    "OTEL_TRACES_SAMPLER",
    "parentbased_always_on",
    "Which requests are traced: always_on, always_off, traceidratio, or the same behind parentbased_, where the choice \
     of the caller's trace comes first",
);
const SAMPLER_ARG: TraceVariable = variable(
    "OTEL_TRACES_SAMPLER_ARG",
    "1.0",
    "Share of the requests for the samplers with traceidratio, from 0 to 1",
);
const PROPAGATORS: TraceVariable = variable(
    "OTEL_PROPAGATORS",
    "tracecontext",
    "Names with commas between them: with tracecontext, spans belong to the trace of the caller; others have no effect",
);
const SERVICE_NAME: TraceVariable =
    variable("OTEL_SERVICE_NAME", "portcullis", "Name of this service in traces");
const RESOURCE: TraceVariable = variable(
    "OTEL_RESOURCE_ATTRIBUTES",
    "none",
    "What else describes this process, as name=value pairs with commas between them and escapes of URLs",
);
const QUEUE: TraceVariable = variable(
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "2048",
    "Spans that wait to be exported at most, from 1 to 65536; more are dropped",
);
const BATCH: TraceVariable = variable(
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "512",
    "Spans in one export at most, from 1 to 65536",
);
const DELAY: TraceVariable = variable(
    "OTEL_BSP_SCHEDULE_DELAY",
    "5000",
    "Milliseconds that a span waits for others to be exported with, from 1 to 60000",
);

/// The variables of OpenTelemetry that are read.
pub const TRACE_VARIABLES: [&TraceVariable; 18] = [
    &ENDPOINT,
    &EXPORTER,
    &DISABLED,
    &PROTOCOL,
    &HEADERS,
    &CERTIFICATE,
    &CLIENT_CERTIFICATE,
    &CLIENT_KEY,
    &COMPRESSION,
    &TIMEOUT,
    &SAMPLER,
    &SAMPLER_ARG,
    &PROPAGATORS,
    &SERVICE_NAME,
    &RESOURCE,
    &QUEUE,
    &BATCH,
    &DELAY,
];

/// The settings of traces, from the environment; `Some(None)` where none are recorded.
pub(super) fn resolve(errors: &mut ConfigErrors) -> Option<Option<TraceSettings>> {
    Variables { read: |name: &str| env::var(name).ok(), errors }.resolve()
}

/// The variables, as `read` finds them.
struct Variables<'e, R> {
    read: R,
    errors: &'e mut ConfigErrors,
}

impl<R: Fn(&str) -> Option<String>> Variables<'_, R> {
    /// The name of the variable that is set, and its value. An empty one counts as not set (OpenTelemetry).
    fn get(&self, variable: &TraceVariable) -> Option<(&'static str, String)> {
        let names = [Some(variable.name), variable.general].into_iter().flatten();
        names.into_iter().find_map(|name| {
            let value = (self.read)(name)?.trim().to_owned();
            (!value.is_empty()).then_some((name, value))
        })
    }

    fn value(&self, variable: &TraceVariable) -> Option<String> {
        self.get(variable).map(|(_, value)| value)
    }

    fn resolve(mut self) -> Option<Option<TraceSettings>> {
        if self.value(&DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Some(None);
        }
        let named = self.get(&ENDPOINT);
        let asked = match self.get(&EXPORTER) {
            None => false,
            Some((_, value)) if value == "none" => return Some(None),
            Some((_, value)) if value == "otlp" => true,
            Some((name, value)) => {
                self.errors.add(format!("{name}: {} is not otlp or none", in_quotes(&value)));
                return None;
            }
        };
        if named.is_none() && !asked {
            return Some(None);
        }
        if let Some((name, value)) = self.get(&PROTOCOL)
            && value != "grpc"
        {
            self.errors.add(format!(
                "{name}: {} is not known here, only grpc: name the collector's endpoint for gRPC, or set {} to none",
                in_quotes(&value),
                EXPORTER.name
            ));
        }
        let endpoint = self.endpoint(named);
        let encrypted = endpoint.as_ref().is_some_and(|url| url.scheme_str() == Some("https"));
        let tls = if encrypted { self.tls().map(Some) } else { Some(None) };
        let headers = self.headers();
        let compressed = match self.get(&COMPRESSION) {
            None => Some(false),
            Some((_, value)) if value == "none" => Some(false),
            Some((_, value)) if value == "gzip" => Some(true),
            Some((name, value)) => {
                self.errors.add(format!("{name}: {} is not gzip or none", in_quotes(&value)));
                None
            }
        };
        let sampler = self.sampler();
        let propagators = self.value(&PROPAGATORS);
        let reads_context = propagators
            .is_none_or(|names| names.split(',').any(|name| name.trim() == "tracecontext"));
        let resource = self.resource();
        let timeout = self.number(&TIMEOUT, 10_000, 60_000);
        let delay = self.number(&DELAY, 5_000, 60_000);
        let queue = self.number(&QUEUE, 2_048, 65_536);
        let batch = self.number(&BATCH, 512, 65_536);
        Some(Some(TraceSettings {
            endpoint: endpoint?,
            tls: tls?,
            headers: headers?,
            compressed: compressed?,
            timeout: Duration::from_millis(timeout?),
            sampler: sampler?,
            reads_context,
            queue: queue? as usize,
            batch: batch?.min(queue?) as usize,
            delay: Duration::from_millis(delay?),
            resource: resource?,
        }))
    }

    fn endpoint(&mut self, named: Option<(&'static str, String)>) -> Option<Uri> {
        let Some((name, text)) = named else {
            return Some(Uri::from_static("http://localhost:4317"));
        };
        let url = text.parse::<Uri>().ok().filter(|url| {
            let plain = url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            plain
                && matches!(url.scheme_str(), Some("http" | "https"))
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
        });
        if url.is_none() {
            self.errors.add(format!(
                "{name}: is no URL of a collector's gRPC endpoint: write http:// or https://, a host and a port, such \
                 as http://localhost:4317"
            ));
        }
        url
    }

    fn tls(&mut self) -> Option<CollectorTls> {
        let trust = match self.file(&CERTIFICATE)? {
            None => TrustStore::public_and(None),
            Some((_, pem)) => TrustStore::only(&pem),
        };
        let trust = match trust {
            Ok(trust) => Some(trust),
            Err(error) => {
                let name = self.get(&CERTIFICATE).map_or(CERTIFICATE.name, |(name, _)| name);
                self.errors.add(format!("{name}: the file {error}"));
                None
            }
        };
        let chain = self.file(&CLIENT_CERTIFICATE)?;
        let key = self.file(&CLIENT_KEY)?;
        let identity = match (chain, key) {
            (None, None) => Some(None),
            (Some((_, chain)), Some((name, key))) => match pem::private_key(&key) {
                Err(error) => {
                    self.errors.add(format!("{name}: the file {error}"));
                    None
                }
                // It is PEM, which is text.
                Ok(_) => {
                    let key = SecretString::from(String::from_utf8_lossy(&key).into_owned());
                    Some(Some((chain, ClientKey(key))))
                }
            },
            _ => {
                let (one, other) = (CLIENT_CERTIFICATE.name, CLIENT_KEY.name);
                self.errors.add(format!("{one} and {other}: go together, one is missing"));
                None
            }
        };
        Some(CollectorTls { trust: trust?, identity: identity? })
    }

    /// `Some(None)` where the variable is not set.
    #[allow(clippy::option_option, reason = "not set, and set and not readable, are not the same")]
    fn file(&mut self, variable: &TraceVariable) -> Option<Option<(&'static str, Vec<u8>)>> {
        let Some((name, path)) = self.get(variable) else { return Some(None) };
        match fs::read(&path) {
            Ok(content) => Some(Some((name, content))),
            Err(error) => {
                self.errors.add(format!("{name}: cannot read {path}: {error}"));
                None
            }
        }
    }

    /// Says nothing of the values, which may be secret.
    fn headers(&mut self) -> Option<HeaderMap> {
        let Some((name, text)) = self.get(&HEADERS) else { return Some(HeaderMap::new()) };
        let headers: Option<HeaderMap> = pairs(&text)
            .map(|pair| {
                let (name, value) = pair?;
                let mut value = HeaderValue::try_from(value).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::try_from(name).ok()?, value))
            })
            .collect();
        if headers.is_none() {
            self.errors.add(format!("{name}: is not of the form name=value,name=value"));
        }
        headers
    }

    fn resource(&mut self) -> Option<Vec<(String, String)>> {
        let mut attributes = vec![
            ("service.name".to_owned(), "portcullis".to_owned()),
            ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let named = self.value(&SERVICE_NAME).map(|name| ("service.name".to_owned(), name));
        let others = match self.get(&RESOURCE) {
            None => Some(Vec::new()),
            Some((name, text)) => {
                let others = pairs(&text).collect::<Option<Vec<_>>>();
                if others.is_none() {
                    self.errors.add(format!("{name}: is not of the form name=value,name=value"));
                }
                others
            }
        };
        for (name, value) in others?.into_iter().chain(named) {
            attributes.retain(|(known, _)| *known != name);
            attributes.push((name, value));
        }
        Some(attributes)
    }

    fn sampler(&mut self) -> Option<Sampler> {
        let (name, text) = self.get(&SAMPLER).unwrap_or((SAMPLER.name, SAMPLER.default.to_owned()));
        let (parent_based, root) = match text.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, &*text),
        };
        let share = match root {
            "always_on" => Some(1.0),
            "always_off" => Some(0.0),
            "traceidratio" => match self.get(&SAMPLER_ARG) {
                None => Some(1.0),
                Some((name, text)) => {
                    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
                    if share.is_none() {
                        let text = in_quotes(&text);
                        self.errors.add(format!("{name}: {text} is not a number from 0 to 1"));
                    }
                    share
                }
            },
            _ => {
                self.errors.add(format!(
                    "{name}: {} is not known here: write always_on, always_off or traceidratio, or one of them behind \
                     parentbased_",
                    in_quotes(&text)
                ));
                None
            }
        };
        Some(Sampler { parent_based, share: share? })
    }

    fn number(&mut self, variable: &TraceVariable, default: u64, most: u64) -> Option<u64> {
        let Some((name, text)) = self.get(variable) else { return Some(default) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        if number.is_none() {
            let text = in_quotes(&text);
            self.errors.add(format!("{name}: {text} is not a whole number from 1 to {most}"));
        }
        number
    }
}

/// Names and values, with the escapes of URLs in both (W3C Baggage, as OpenTelemetry has them); `None` for what is none.
fn pairs(text: &str) -> impl Iterator<Item = Option<(String, String)>> + '_ {
    let decoded = |text: &str| {
        percent_decode_str(text.trim()).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    };
    text.split(',').filter(|pair| !pair.trim().is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=')?;
        let name = decoded(name).filter(|name| !name.is_empty())?;
        Some((name, decoded(value)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(set: &[(&str, &str)]) -> Result<Option<TraceSettings>, String> {
        let mut errors = ConfigErrors::default();
        let read = |name: &str| {
            set.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
        };
        let resolved = Variables { read, errors: &mut errors }.resolve();
        errors.into_result(|| resolved).map_err(|error| error.to_string())
    }

    const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn traces_are_recorded_where_a_collector_is_named() {
        for off in [
            &[][..],
            &[("OTEL_SERVICE_NAME", "pdp")],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[COLLECTOR, ("OTEL_TRACES_EXPORTER", "none")],
            &[COLLECTOR, ("OTEL_SDK_DISABLED", "true")],
        ] {
            assert!(settings(off).unwrap().is_none(), "{off:?}");
        }
        let on = settings(&[COLLECTOR]).unwrap().unwrap();
        assert_eq!(on.endpoint, "http://collector:4317");
        assert!(on.tls.is_none() && on.headers.is_empty() && on.reads_context && !on.compressed);
        assert_eq!((on.queue, on.batch), (2_048, 512));
        assert_eq!((on.timeout.as_secs(), on.delay.as_secs()), (10, 5));
        assert_eq!(on.sampler, Sampler { parent_based: true, share: 1.0 });
        assert!(on.resource.contains(&("service.name".to_owned(), "portcullis".to_owned())));
        let on = settings(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().unwrap();
        assert_eq!(on.endpoint, "http://localhost:4317");
    }

    #[test]
    fn what_is_for_traces_alone_comes_first() {
        let set = settings(&[
            COLLECTOR,
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b, x-other = 1"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_SERVICE_NAME", "pdp"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=test"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ]);
        let set = set.unwrap().unwrap();
        assert_eq!(set.endpoint, "https://traces.example");
        assert!(set.tls.is_some() && set.compressed && !set.reads_context);
        assert_eq!(set.headers["x-key"], "a b");
        assert_eq!(set.headers["x-other"], "1");
        assert!(!format!("{set:?}").contains("a b"), "headers may be secret");
        assert_eq!(set.timeout, Duration::from_millis(1_500));
        assert_eq!(set.sampler, Sampler { parent_based: false, share: 0.25 });
        assert_eq!((set.queue, set.batch, set.delay.as_millis()), (100, 100, 50));
        let resource: Vec<_> =
            set.resource.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert!(resource.contains(&"service.name=pdp".to_owned()), "{resource:?}");
        assert!(resource.contains(&"deployment.environment.name=test".to_owned()), "{resource:?}");
        assert_eq!(resource.len(), 3, "{resource:?}");
    }

    #[test]
    fn errors_name_the_variable_and_no_secret() {
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://u:hunter2@collector:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hunter2"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_RESOURCE_ATTRIBUTES", "x"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ] {
            let error = settings(&[COLLECTOR, (name, value)]).unwrap_err();
            assert!(
                error.starts_with(name) && !error.contains("hunter2"),
                "{name}={value}: {error}"
            );
        }
        let ratio = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
        let error = settings(&[COLLECTOR, ratio, ("OTEL_TRACES_SAMPLER_ARG", "2")]).unwrap_err();
        assert!(error.starts_with("OTEL_TRACES_SAMPLER_ARG"), "{error}");
        let https = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector");
        let missing = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent");
        let error = settings(&[https, missing]).unwrap_err();
        assert!(error.starts_with("OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read"), "{error}");
        let lone = ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/dev/null");
        assert!(settings(&[https, lone]).unwrap_err().contains("go together"));
    }
}
