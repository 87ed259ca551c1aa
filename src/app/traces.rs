//! Traces of a server: recorded from before its log is started, and exported until everything else has ended.

use tokio_util::sync::CancellationToken;

use crate::config::server::{ServeSettings, StoreSettings};
use crate::shutdown;
use crate::telemetry::traces::Pipeline;

/// What records and exports traces, where `settings` ask for them.
pub(super) fn pipeline(settings: &mut ServeSettings) -> Option<Pipeline> {
    let database = match settings.store {
        StoreSettings::Embedded(_) => "sqlite",
        StoreSettings::Postgres { .. } => "postgresql",
    };
    settings.traces.take().map(|traces| Pipeline::new(traces, database))
}

/// Exports what `pipeline` records while `serve` runs, and then what is left.
pub(super) async fn export<T>(pipeline: Option<Pipeline>, serve: impl Future<Output = T>) -> T {
    let Some(Pipeline { export, .. }) = pipeline else { return serve.await };
    let end = CancellationToken::new();
    let task = shutdown::spawn("trace-export", export.run(end.clone()));
    let served = serve.await;
    end.cancel();
    // A panic of it was logged.
    let _ = task.await;
    served
}
