//! Hears that there are changes, over a connection of its own.
//!
//! What must stay true: it only wakes somebody, who then reads the record; so what it does not hear costs
//! time only, and after a lost connection it wakes, since nobody knows what was.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::replicas::LATE;
use super::timed_out;
use crate::shutdown;

/// What the trigger on the record tells.
const CHANNEL: &str = "portcullis_change";
/// One that was told nothing for so long asks whether its connection lives.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two tries to listen.
const PAUSE: Duration = Duration::from_millis(500);

/// Listens until it is dropped. See the module.
pub(super) struct Listener {
    told: Arc<Notify>,
    _listening: DropGuard,
}

impl Listener {
    pub(super) fn start(options: PgConnectOptions) -> Self {
        let (told, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        shutdown::spawn("listener", {
            let (told, stop) = (told.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(listen(options, &told)).await;
            }
        });
        Self { told, _listening: stop.drop_guard() }
    }

    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}

async fn listen(options: PgConnectOptions, told: &Notify) {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(LATE)
        .test_before_acquire(false)
        .connect_lazy_with(options);
    loop {
        if let Err(error) = listen_once(&pool, told).await {
            tracing::debug!(%error, "changes of other replicas are noticed late");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_once(pool: &PgPool, told: &Notify) -> sqlx::Result<()> {
    let begin = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    let mut listener =
        tokio::time::timeout(LATE, begin).await.unwrap_or_else(|_| Err(timed_out()))?;
    told.notify_one();
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(_))) => told.notify_one(),
            Ok(Ok(None)) => {
                return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
            }
            Ok(Err(error)) => return Err(error),
            // A server that is gone without a word tells of nothing more.
            Err(_) => {
                let asked = sqlx::query("SELECT 1").execute(&mut listener);
                tokio::time::timeout(LATE, asked).await.map_err(|_| timed_out())??;
            }
        }
    }
}
