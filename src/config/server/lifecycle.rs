//! What happens to tokens that nobody uses, and when.

use std::time::Duration;

use super::errors::ConfigErrors;
use crate::policy::lifecycle::{Mode, Settings};
use crate::policy::text::in_quotes;

/// A kill may lose that much use (docs/policy.md, rule 5.6).
const LONGEST_FLUSH_INTERVAL: Duration = Duration::from_secs(60);

/// What happens to unused tokens, as written.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Lifecycle")]
pub struct LifecycleArgs {
    /// What happens to unused tokens: enforce, or observe, which shows what is due and changes nothing
    #[arg(
        long,
        env = "PORTCULLIS_LIFECYCLE_MODE",
        hide_env_values = true,
        value_name = "MODE",
        default_value = "enforce"
    )]
    lifecycle_mode: String,
    /// How long a token or a scope must be unused before it is removed
    #[arg(
        long,
        env = "PORTCULLIS_LIFECYCLE_WINDOW",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "45d"
    )]
    lifecycle_window: String,
    /// How long before that every admin of the account must have been notified; less than
    /// --lifecycle-window
    #[arg(
        long,
        env = "PORTCULLIS_LIFECYCLE_NOTICE",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "7d"
    )]
    lifecycle_notice: String,
    /// Interval between two sweeps, which look up and carry out what is due
    #[arg(
        long,
        env = "PORTCULLIS_LIFECYCLE_SWEEP_INTERVAL",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "60s"
    )]
    lifecycle_sweep_interval: String,
    /// How long a deleted token is denied as deleted, and an expired one as expired; after that it is unknown
    #[arg(
        long,
        env = "PORTCULLIS_DELETED_RETENTION",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "90d"
    )]
    deleted_retention: String,
    /// How long audit events are kept; older ones are removed, and the chain goes on. Without it, all are kept
    #[arg(
        long,
        env = "PORTCULLIS_AUDIT_RETENTION",
        hide_env_values = true,
        value_name = "DURATION"
    )]
    audit_retention: Option<String>,
    /// The longest that a new token may last: the expiry of one that is created without any, and the latest
    /// that may be asked for. Without it, tokens need not expire
    #[arg(
        long,
        env = "PORTCULLIS_TOKEN_MAX_LIFETIME",
        hide_env_values = true,
        value_name = "DURATION"
    )]
    token_max_lifetime: Option<String>,
    /// How long a use may wait to be written to the store, at most 1m; one that cancels a pending action
    /// does not wait
    #[arg(
        long,
        env = "PORTCULLIS_USAGE_FLUSH_INTERVAL",
        hide_env_values = true,
        value_name = "DURATION",
        default_value = "1s"
    )]
    usage_flush_interval: String,
}

/// What happens to unused tokens. All durations are longer than nothing, and the notice is shorter than
/// the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleSettings {
    /// Whether and when anything is removed.
    pub rules: Settings,
    /// How often it is looked for what is due.
    pub sweep_interval: Duration,
    /// How long a deleted or expired token keeps a reason of its own.
    pub deleted_retention: Duration,
    /// How long audit events are kept; `None` for all of them.
    pub audit_retention: Option<Duration>,
    /// The longest that a new token may last; `None` for no bound.
    pub token_max_lifetime: Option<Duration>,
    /// How long a use may wait to be written.
    pub usage_flush_interval: Duration,
}

impl LifecycleArgs {
    pub(super) fn resolve(&self, errors: &mut ConfigErrors) -> Option<LifecycleSettings> {
        let mode = match self.lifecycle_mode.as_str() {
            "enforce" => Some(Mode::Enforce),
            "observe" => Some(Mode::Observe),
            other => {
                let other = in_quotes(other);
                errors.add(format!("--lifecycle-mode: {other} is not enforce or observe"));
                None
            }
        };
        let window = errors.duration("lifecycle-window", &self.lifecycle_window);
        let notice = errors.duration("lifecycle-notice", &self.lifecycle_notice);
        let sweep_interval =
            errors.duration("lifecycle-sweep-interval", &self.lifecycle_sweep_interval);
        let deleted_retention = errors.duration("deleted-retention", &self.deleted_retention);
        let audit_retention = match &self.audit_retention {
            None => Some(None),
            Some(text) => errors.duration("audit-retention", text).map(Some),
        };
        let token_max_lifetime = match &self.token_max_lifetime {
            None => Some(None),
            Some(text) => errors.duration("token-max-lifetime", text).map(Some),
        };
        let usage_flush_interval =
            errors.duration("usage-flush-interval", &self.usage_flush_interval);
        if usage_flush_interval.is_some_and(|interval| interval > LONGEST_FLUSH_INTERVAL) {
            errors.add(format!(
                "--usage-flush-interval: {} is longer than 1m: a kill would lose that much use",
                self.usage_flush_interval
            ));
        }
        if let (Some(window), Some(notice)) = (window, notice)
            && notice >= window
        {
            errors.add(format!(
                "--lifecycle-notice: {} is not less than --lifecycle-window, {}: notice is given \
                 within the window; shorten one or lengthen the other",
                self.lifecycle_notice, self.lifecycle_window
            ));
        }
        Some(LifecycleSettings {
            // What they could refuse is an error already.
            rules: Settings::new(mode?, window?, notice?).ok()?,
            sweep_interval: sweep_interval?,
            deleted_retention: deleted_retention?,
            audit_retention: audit_retention?,
            token_max_lifetime: token_max_lifetime?,
            usage_flush_interval: usage_flush_interval?,
        })
    }
}
