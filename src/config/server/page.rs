//! How long sessions of the management page last.

use std::time::Duration;

use super::errors::ConfigErrors;

/// How long sessions last, as written.
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
}

/// How long sessions last.
#[derive(Debug, Clone, Copy)]
pub struct PageSettings {
    /// Without a request.
    pub session_idle: Duration,
    /// In all; at most a week.
    pub session_lifetime: Duration,
}

/// For longer than this nobody should work without signing in again.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

impl PageArgs {
    pub(super) fn resolve(&self, errors: &mut ConfigErrors) -> Option<PageSettings> {
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
        Some(PageSettings { session_idle: idle?, session_lifetime: lifetime? })
    }
}
