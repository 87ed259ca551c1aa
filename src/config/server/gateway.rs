//! Where gateways ask over HTTP, and how their requests are read.

use std::time::Duration;

use url::Url;

use super::errors::ConfigErrors;
use super::listen::ListenSetting;
use crate::policy::client_source::{HeaderName, Purpose};

/// The listener for gateways, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Gateways")]
pub struct GatewayArgs {
    /// Address of a listener for gateways, as --listen takes it: forward auth, Envoy over HTTP, AuthZEN and the calls
    /// of bearers. Can be given several times [default: none; with --dev: 127.0.0.1:8081]
    #[arg(
        long,
        env = "PORTCULLIS_GATEWAY_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    gateway_listen: Vec<String>,
    /// URL at which AuthZEN clients reach these listeners, such as `https://pdp.example.com`; the metadata name it
    /// [default: the first listener that is an address]
    #[arg(long, env = "PORTCULLIS_GATEWAY_URL", hide_env_values = true, value_name = "URL")]
    gateway_url: Option<String>,
    /// Request header that some services take a method or a path from instead of the request itself. A request that
    /// has it with another value than its own is denied. One that ends in -URL, -URI or -Path is that of a path.
    /// Repeatable; the variable separates names with commas
    #[arg(
        long,
        env = "PORTCULLIS_OVERRIDE_HEADER",
        hide_env_values = true,
        value_name = "NAME",
        value_delimiter = ',',
        default_values_t = crate::config::server::OVERRIDE_HEADERS.map(str::to_owned)
    )]
    override_header: Vec<String>,
    /// How long a decision for Envoy may take where Envoy names no deadline, at most 5s: less than its own timeout,
    /// which is 200ms by default
    #[arg(
        long,
        env = "PORTCULLIS_CHECK_TIMEOUT",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "160ms"
    )]
    check_timeout: String,
}

/// The headers that override a method or a path for many frameworks.
pub const OVERRIDE_HEADERS: [&str; 5] = [
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Original-URL",
    "X-Rewrite-URL",
];

/// Where `--dev` serves gateways.
const DEVELOPMENT: &str = "127.0.0.1:8081";
/// The longest `--check-timeout`.
const LONGEST: Duration = Duration::from_secs(5);

/// The listener for gateways, checked.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Where gateways are served; empty for nowhere.
    pub listen: Vec<ListenSetting>,
    /// Where AuthZEN clients reach it: a scheme, a host and maybe a port.
    pub url: Option<String>,
    /// Names of headers that must not differ from the request.
    pub override_headers: Vec<String>,
    /// How long a decision for Envoy may take where Envoy names no deadline.
    pub check_timeout: Duration,
}

impl GatewayArgs {
    pub(super) fn resolve(
        &self,
        development: bool,
        errors: &mut ConfigErrors,
    ) -> Option<GatewaySettings> {
        let mut texts = self.gateway_listen.clone();
        if texts.is_empty() && development {
            texts.push(DEVELOPMENT.to_owned());
        }
        let listen = errors.listeners("gateway-listen", &texts);
        let url = self.gateway_url.as_deref().map(|text| {
            let url = base(text);
            if url.is_none() {
                errors.add(
                    "--gateway-url: write https:// and a host, such as https://pdp.example.com, without a user \
                     name, path, query or fragment",
                );
            }
            url
        });
        for name in &self.override_header {
            // One with underscores is denied in any case.
            let checked =
                HeaderName::parse(name).and_then(|header| header.check(Purpose::Override));
            if let Err(error) = checked {
                errors.add(format!("--override-header {error}"));
            }
        }
        let check_timeout = errors.duration("check-timeout", &self.check_timeout);
        if check_timeout.is_some_and(|timeout| timeout > LONGEST) {
            errors.add(format!("--check-timeout: {} is longer than 5s", self.check_timeout));
        }
        Some(GatewaySettings {
            listen: listen?,
            url: match url {
                Some(url) => Some(url?),
                None => None,
            },
            override_headers: self.override_header.clone(),
            check_timeout: check_timeout?,
        })
    }
}

/// A URL without anything behind its host and port: clients add paths to it.
fn base(text: &str) -> Option<String> {
    let text = text.trim();
    // The parser drops tabs and line ends within a URL, and forgives missing slashes.
    let is_plain =
        text.bytes().all(|b| b > b' ' && b != 0x7f && b != b'\\') && text.contains("://");
    let url = Url::parse(text).ok().filter(|url| is_plain && url.has_host())?;
    let is_base = matches!(url.scheme(), "https" | "http")
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    is_base.then(|| url.origin().ascii_serialization())
}
