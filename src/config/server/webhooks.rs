//! How events are sent to webhooks, which operators create while the server runs.

use std::path::PathBuf;
use std::time::Duration;

use super::errors::ConfigErrors;
use crate::pem::TrustStore;
use crate::policy::destination::InternalHosts;
use crate::policy::text::in_quotes;

/// How events are sent to webhooks, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookArgs {
    /// Internal host that webhooks may be sent to: a name, an address, or a range of addresses. Can be given several
    /// times. Without it, only public addresses are sent to, over https; a named host may also have an http:// URL
    #[arg(
        long,
        env = "PORTCULLIS_WEBHOOK_INTERNAL",
        hide_env_values = true,
        value_name = "HOST",
        value_delimiter = ','
    )]
    webhook_internal: Vec<String>,
    /// PEM file with authorities that the certificates of webhooks' receivers may be from, besides the public ones
    #[arg(long, env = "PORTCULLIS_WEBHOOK_CA", hide_env_values = true, value_name = "FILE")]
    webhook_ca: Option<PathBuf>,
    /// Time limit for one message, from resolving the host to the answer: from 1s to 30s
    #[arg(
        long,
        env = "PORTCULLIS_WEBHOOK_TIMEOUT",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "20s"
    )]
    webhook_timeout: String,
    /// How long after a failure an event is sent again; doubled with each retry
    #[arg(
        long,
        env = "PORTCULLIS_WEBHOOK_RETRY_INITIAL",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "5s"
    )]
    webhook_retry_initial: String,
    /// Longest time between two retries
    #[arg(
        long,
        env = "PORTCULLIS_WEBHOOK_RETRY_MAX",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "1h"
    )]
    webhook_retry_max: String,
    /// How long a webhook's receiver may fail before events that are as old are given up
    #[arg(
        long,
        env = "PORTCULLIS_WEBHOOK_GIVE_UP",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "3d"
    )]
    webhook_give_up: String,
}

/// How events are sent to webhooks. All durations are longer than nothing.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Internal hosts that may be sent to.
    pub internal: InternalHosts,
    /// The authorities that receivers' certificates may be from.
    pub trust: TrustStore,
    /// How long one message may take.
    pub timeout: Duration,
    /// How long after a failure an event is sent again, at first.
    pub retry_initial: Duration,
    /// And at last.
    pub retry_max: Duration,
    /// How long a receiver fails before events that are as old are given up.
    pub give_up: Duration,
}

/// The shortest and the longest time that one message may take.
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30);

impl WebhookArgs {
    pub(super) fn resolve(&self, errors: &mut ConfigErrors) -> Option<WebhookSettings> {
        let internal = InternalHosts::parse(self.webhook_internal.iter().map(String::as_str));
        let internal = internal
            .map_err(|invalid| {
                errors.extend(invalid.iter().map(|error| format!("--webhook-internal: {error}")));
            })
            .ok();
        let trust = self.trust(errors);
        let timeout = errors.duration("webhook-timeout", &self.webhook_timeout);
        if timeout.is_some_and(|timeout| !TIMEOUTS.contains(&timeout)) {
            errors
                .add(format!("--webhook-timeout: {} is not from 1s to 30s", self.webhook_timeout));
        }
        let retry_initial = errors.duration("webhook-retry-initial", &self.webhook_retry_initial);
        let retry_max = errors.duration("webhook-retry-max", &self.webhook_retry_max);
        let give_up = errors.duration("webhook-give-up", &self.webhook_give_up);
        if let (Some(initial), Some(max)) = (retry_initial, retry_max)
            && initial > max
        {
            errors.add(format!(
                "--webhook-retry-initial: {} is more than --webhook-retry-max, {}: shorten one or lengthen the other",
                self.webhook_retry_initial, self.webhook_retry_max
            ));
        }
        Some(WebhookSettings {
            internal: internal?,
            trust: trust?,
            timeout: timeout?,
            retry_initial: retry_initial?,
            retry_max: retry_max?,
            give_up: give_up?,
        })
    }

    fn trust(&self, errors: &mut ConfigErrors) -> Option<TrustStore> {
        let pem = match &self.webhook_ca {
            None => None,
            Some(path) => Some(errors.file("webhook-ca", path)?),
        };
        TrustStore::public_and(pem.as_deref())
            .map_err(|error| {
                let path = self.webhook_ca.as_ref().map(|path| path.display().to_string());
                errors
                    .add(format!("--webhook-ca: {} {error}", in_quotes(&path.unwrap_or_default())));
            })
            .ok()
    }
}
