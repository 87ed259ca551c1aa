//! What receives alerts about leaked secrets.

use std::sync::Arc;

use crate::alerts::{self, Alerts, KeyLocation};
use crate::config::server::{LeakKeys, LeakSettings, ServeSettings};
use crate::service::Services;

/// What receives alerts about leaked secrets, where the settings name a publisher.
pub(super) async fn receiver(
    settings: &ServeSettings,
    services: &Arc<Services>,
) -> anyhow::Result<Option<Arc<Alerts>>> {
    let Some(LeakSettings { keys, key_id_header, signature_header }) = &settings.leaks else {
        return Ok(None);
    };
    let own = alerts::Settings {
        keys: match keys {
            LeakKeys::File(path) => KeyLocation::File(path.clone()),
            LeakKeys::Url(url, trust) => KeyLocation::Url(url.clone(), trust.clone()),
        },
        key_id_header: key_id_header.clone(),
        signature_header: signature_header.clone(),
        proxies: settings.page.trusted_proxies.clone(),
    };
    let alerts = Alerts::new(services.clone(), own).await;
    let alerts = alerts.map_err(|error| match keys {
        LeakKeys::File(path) => anyhow::anyhow!("--leak-keys: {}: {error}", path.display()),
        LeakKeys::Url(..) => anyhow::anyhow!("--leak-keys: {error}"),
    })?;
    Ok(Some(Arc::new(alerts)))
}
