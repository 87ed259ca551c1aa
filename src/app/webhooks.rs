//! What sends events to webhooks, and its start.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::server::{ServeSettings, WebhookSettings};
use crate::service::Dependencies;
use crate::shutdown;
use crate::webhooks::{Deliverer, Retries, Sender};

/// What sends a message.
pub(super) fn sender(settings: &ServeSettings) -> Arc<Sender> {
    let WebhookSettings { trust, internal, timeout, .. } = &settings.webhooks;
    Arc::new(Sender::new(trust.clone(), internal.clone(), *timeout))
}

/// Starts what delivers events; it ends in order once `stop` is cancelled.
pub(super) fn deliver(
    settings: &ServeSettings,
    parts: &Dependencies,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let WebhookSettings { retry_initial, retry_max, give_up, .. } = settings.webhooks;
    let deliverer = Deliverer {
        store: parts.store.clone(),
        writes: parts.writes.clone(),
        cache: parts.cache.clone(),
        clock: parts.clock.clone(),
        metrics: parts.metrics.clone(),
        sender: parts.webhook_sender.clone(),
        retries: Retries { initial: retry_initial, max: retry_max, give_up },
    };
    let stop = stop.clone();
    shutdown::spawn_essential("webhooks", stop.clone(), async move { deliverer.run(stop).await })
}
