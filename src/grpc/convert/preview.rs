//! A preview as a message.

use std::time::Duration;

use super::{action_type, first, pb, time};
use crate::model::ActiveCatalog;
use crate::policy::lifecycle::{Mode, Settings};
use crate::service::explain::{Explained, names};
use crate::service::preview::{Coming, Day, Preview, Today};

/// The whole answer.
pub(in crate::grpc) fn response(preview: Preview) -> pb::PreviewLifecycleResponse {
    let settings = preview.calendar.settings;
    let mode = match settings.mode {
        Mode::Enforce => pb::LifecycleMode::Enforce,
        Mode::Observe => pb::LifecycleMode::Observe,
    };
    let actions = |today| actions(today, &preview.in_force, &settings);
    pb::PreviewLifecycleResponse {
        mode: mode.into(),
        time: Some(time(preview.calendar.now)),
        window: Some(length(settings.window())),
        notice: Some(length(settings.notice())),
        token_count: count(preview.tokens),
        announced_today: Some(actions(preview.announced_today)),
        carried_out_today: Some(actions(preview.carried_out_today)),
        days: preview.days.into_iter().map(day).collect(),
    }
}

fn actions(today: Today, in_force: &ActiveCatalog, settings: &Settings) -> pb::PreviewedActions {
    pb::PreviewedActions {
        deletions: count(today.counts.deletions),
        downgrades: count(today.counts.downgrades),
        actions: first(today.named().map(|coming| action(coming, in_force, settings))),
    }
}

fn action(coming: Coming, in_force: &ActiveCatalog, settings: &Settings) -> pb::PreviewedAction {
    let taken = names(in_force, coming.taken);
    let enrich_status = Explained {
        takes: &coming.takes,
        basis: coming.basis,
        used: coming.used,
        taken: &taken,
        settings,
    };
    pb::PreviewedAction {
        token_id: coming.token_id.to_string(),
        token_name: coming.token_name,
        account_id: coming.account_id.to_string(),
        r#type: action_type(coming.takes.action()).into(),
        why: enrich_status.why(),
        scopes_taken: taken,
        notice_time: coming.notice.map(time),
        effective_time: Some(time(coming.effective)),
        pending_action_id: coming.announced.map(|id| id.to_string()).unwrap_or_default(),
    }
}

fn day(day: Day) -> pb::PreviewedDay {
    pb::PreviewedDay {
        start_time: Some(time(day.start)),
        deletions_noticed: count(day.noticed.deletions),
        downgrades_noticed: count(day.noticed.downgrades),
        deletions_carried_out: count(day.carried_out.deletions),
        downgrades_carried_out: count(day.carried_out.downgrades),
    }
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn length(length: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        // Below 1,000,000,000, so it fits.
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or_default(),
    }
}
