//! The health service: SERVING only where decisions can be made.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::service::Services;

/// How often it is looked at whether decisions can be made.
const INTERVAL: Duration = Duration::from_millis(50);
/// The names that can be asked for: the server as a whole, and the service that decides.
const NAMES: [&str; 2] = ["", "portcullis.v1.AuthorizationService"];

/// The largest request, in bytes: the name of a service.
pub(super) const MAX_MESSAGE: usize = 4 << 10;

/// The service, and the source of its status.
pub fn service() -> (HealthReporter, Routes) {
    let (reporter, service) = tonic_health::server::health_reporter();
    (reporter, Routes::new(service.max_decoding_message_size(MAX_MESSAGE)))
}

/// Keeps the health service truthful until `stop`, after which it says NOT_SERVING.
pub async fn report(reporter: HealthReporter, services: Arc<Services>, stop: CancellationToken) {
    let mut said = None;
    loop {
        let status = match services.can_decide() {
            Ok(()) if !stop.is_cancelled() => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        if said != Some(status) {
            for name in NAMES {
                reporter.set_service_status(name, status).await;
            }
            said = Some(status);
        }
        if stop.is_cancelled() {
            return;
        }
        stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
    }
}
