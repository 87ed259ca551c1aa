//! The management page: how long its sessions last, and which proxies before it are trusted.

use std::time::Duration;

use super::errors::ConfigErrors;
use crate::policy::client_source::TrustedProxies;
use crate::policy::network::Limits;

/// How long sessions last and which proxies are trusted, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Management page")]
pub struct PageArgs {
    /// How long a session of the management page lasts without a request, at most 7d
    #[arg(
        long,
        env = "PORTCULLIS_SESSION_IDLE",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "30m"
    )]
    session_idle: String,
    /// How long a session of the management page lasts in total, at most 7d
    #[arg(
        long,
        env = "PORTCULLIS_SESSION_LIFETIME",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "8h"
    )]
    session_lifetime: String,
    /// Address or range of a reverse proxy before the management page, whose X-Forwarded-For names the browser's
    /// address; repeat it, or separate several with commas
    #[arg(
        long,
        env = "PORTCULLIS_TRUSTED_PROXY",
        hide_env_values = true,
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    trusted_proxy: Vec<String>,
}

/// How long sessions last, and which proxies are trusted.
#[derive(Debug, Clone)]
pub struct PageSettings {
    /// Without a request.
    pub session_idle: Duration,
    /// In all; at most a week.
    pub session_lifetime: Duration,
    /// The proxies whose `X-Forwarded-For` names a browser's address (Rule 9.8 of docs/policy.md).
    pub trusted_proxies: TrustedProxies,
}

/// For longer than this nobody should work without signing in again.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl PageArgs {
    pub(super) fn resolve(
        &self,
        limits: &Limits,
        errors: &mut ConfigErrors,
    ) -> Option<PageSettings> {
        let idle = errors.duration("session-idle", &self.session_idle);
        let lifetime = errors.duration("session-lifetime", &self.session_lifetime);
        for (flag, text, length) in [
            ("session-idle", &self.session_idle, idle),
            ("session-lifetime", &self.session_lifetime, lifetime),
        ] {
            if length.is_some_and(|length| length > LONGEST) {
                errors.add(format!("--{flag}: {text} is longer than 7d"));
            }
        }
        let trusted_proxies = TrustedProxies::parse(&self.trusted_proxy, limits)
            .map_err(|invalid| {
                errors.extend(invalid.iter().map(|error| format!("--trusted-proxy: {error}")));
            })
            .ok();
        Some(PageSettings {
            session_idle: idle?,
            session_lifetime: lifetime?,
            trusted_proxies: trusted_proxies?,
        })
    }
}
