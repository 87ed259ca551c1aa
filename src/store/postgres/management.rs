//! The connections of management: a pool, and another one in its place when connections are to be made again.
//!
//! What must stay true: what begins after [`Management::again`] uses no connection whose making began before it,
//! however long that took. Such a connection belongs to the former pool, so no clock has a part in this; sqlx'
//! own age of a connection begins when it is made, and stands still while the machine sleeps. No connection is
//! used that leads to a former primary.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::replicas::PrimaryIdentity;
use super::{KEEP_COMMITS, timed_out};

/// See the module.
pub(super) struct Management {
    options: PgPoolOptions,
    connect: PgConnectOptions,
    pool: ArcSwap<PgPool>,
}

impl Management {
    /// At most `count` connections, and as many again for a moment after [`Self::again`]. Each is made when it is
    /// first needed. The limits: how long a call waits for a connection, a new one included, and how long one
    /// statement may run.
    pub(super) fn new(
        connect: PgConnectOptions,
        count: u32,
        (acquire_timeout, statement_timeout): (Duration, Duration),
        primary: Arc<PrimaryIdentity>,
    ) -> Self {
        let options = PgPoolOptions::new()
            .max_connections(count)
            .acquire_timeout(acquire_timeout)
            // Connections that stood idle are tested; one that died in use fails its call and is
            // replaced.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > Duration::from_secs(1) {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(move |connection, _| {
                let primary = primary.clone();
                Box::pin(async move {
                    sqlx::query(KEEP_COMMITS).execute(&mut *connection).await?;
                    primary.note(connection).await
                })
            })
            // What sqlx waits for when a connection comes back has no limit of its own: one whose
            // server is gone without a word would keep its place for a quarter of an hour.
            .after_release(move |connection, _| {
                Box::pin(async move {
                    let ping = tokio::time::timeout(statement_timeout, connection.ping());
                    ping.await.map_err(|_| timed_out())??;
                    Ok(true)
                })
            });
        let pool = options.clone().connect_lazy_with(connect.clone());
        Self { options, connect, pool: ArcSwap::from_pointee(pool) }
    }

    /// For one use case, which asks for it when it begins.
    pub(super) fn pool(&self) -> PgPool {
        PgPool::clone(&self.pool.load())
    }

    /// Makes new connections from now on. The former pool ends, with its connections, when the last use case that
    /// has it does.
    pub(super) fn again(&self) {
        let pool = self.options.clone().connect_lazy_with(self.connect.clone());
        self.pool.store(Arc::new(pool));
    }

    /// Ends when no use case has a connection any more; there are no others afterwards.
    pub(super) async fn close(&self) {
        self.pool().close().await;
    }
}
