//! Webhooks as messages.

use super::time;
use crate::grpc::proto as pb;
use crate::model::{Delivery, Webhook, WebhookState};

pub(in crate::grpc) fn webhook(webhook: Webhook) -> pb::Webhook {
    let state = match webhook.state {
        WebhookState::Enabled => pb::WebhookState::Enabled,
        WebhookState::Disabled => pb::WebhookState::Disabled,
        WebhookState::Gone => pb::WebhookState::Gone,
    };
    let types = webhook.event_types.unwrap_or_default();
    pb::Webhook {
        webhook_id: webhook.id.to_string(),
        name: webhook.name,
        url: webhook.url,
        event_types: types.iter().map(|event| event.as_str().to_owned()).collect(),
        create_time: Some(time(webhook.created)),
        state: state.into(),
        former_secret_expire_time: webhook.former_secret.map(|former| time(former.until)),
        delivery: Some(delivery(webhook.delivery)),
    }
}

fn delivery(delivery: Delivery) -> pb::WebhookDelivery {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let (last_failure_time, last_failure) = delivery.last_failure.unzip();
    pb::WebhookDelivery {
        revision: delivery.position,
        delivered_count: count(delivery.delivered),
        skipped_count: count(delivery.skipped),
        last_success_time: delivery.last_success.map(time),
        last_failure_time: last_failure_time.map(time),
        last_failure: last_failure.unwrap_or_default(),
        failing_start_time: delivery.failing.map(|failing| time(failing.since)),
        failed_attempts: i32::try_from(delivery.attempts).unwrap_or(i32::MAX),
        next_attempt_time: delivery.failing.map(|_| time(delivery.next_attempt)),
    }
}
