//! The connections of decisions: a few, each for one read at a time, apart from the pool of management.
//!
//! What must stay true: a read costs one round trip, since a connection is asked whether it lives only
//! after it stood idle, if at all; one whose read failed or was given up is dropped, so that no answer is ever
//! taken for another's; nobody waits longer than the limit for a connection, a new one included; one
//! whose making began before a failover is not used after it. What writes through one and must outlive a crash
//! says so: [`DecisionPool::durable`].

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::replicas::PrimaryIdentity;
use super::{KEEP_COMMITS, timed_out};
use crate::clock::{Stopwatch, moment};

/// For how long a connection may stand idle before it is asked whether it still lives.
const FRESH: Duration = Duration::from_secs(1);

/// Since when connections count: those whose making began earlier may lead to a store that is none any
/// more.
#[derive(Debug, Default)]
pub(super) struct ConnectionEpoch(AtomicU64);

impl ConnectionEpoch {
    fn is_current(&self, made: Stopwatch) -> bool {
        made.moment().0 >= self.0.load(Ordering::Acquire)
    }

    /// Only those whose making begins after this call count.
    pub(super) fn again(&self) {
        self.0.fetch_max(moment().0 + 1, Ordering::AcqRel);
    }
}

/// See the module.
pub(super) struct DecisionPool {
    options: PgConnectOptions,
    acquire_timeout: Duration,
    permits: Semaphore,
    /// Those that stand idle, the last used last.
    idle: Mutex<Vec<Idle>>,
    epoch: Arc<ConnectionEpoch>,
    /// Carried out on each new connection.
    first: Option<&'static str>,
    /// Where given, no new connection may lead to a former primary.
    primary: Option<Arc<PrimaryIdentity>>,
    /// [`FRESH`], or for ever.
    fresh: Duration,
}

struct Idle {
    connection: PgConnection,
    made: Stopwatch,
    since: Stopwatch,
}

impl DecisionPool {
    /// At most `count` connections; each is made when it is first needed.
    pub(super) fn new(
        options: PgConnectOptions,
        count: u32,
        acquire_timeout: Duration,
        epoch: Arc<ConnectionEpoch>,
    ) -> Self {
        let permits = Semaphore::new(count.max(1) as usize);
        Self {
            options,
            acquire_timeout,
            permits,
            idle: Mutex::default(),
            epoch,
            first: None,
            primary: None,
            fresh: FRESH,
        }
    }

    /// For writes: what is answered survives a crash, whatever the default of the database is.
    pub(super) fn durable(self) -> Self {
        Self { first: Some(KEEP_COMMITS), ..self }
    }

    /// For facts: a connection that leads to a former primary, which may show what was, is an error.
    pub(super) fn refusing_former(self, primary: Arc<PrimaryIdentity>) -> Self {
        Self { primary: Some(primary), ..self }
    }

    /// For what is soon done again where it fails: no connection is asked first whether it lives, however
    /// long it stood idle.
    pub(super) fn skip_ping(self) -> Self {
        Self { fresh: Duration::MAX, ..self }
    }

    fn idle(&self) -> impl DerefMut<Target = Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for one read. After it succeeded: [`PooledConnection::release`].
    pub(super) async fn take(&self) -> sqlx::Result<PooledConnection<'_>> {
        let permit = self.permits.acquire();
        let taking = async {
            let permit = permit.await.map_err(|_| sqlx::Error::PoolClosed)?;
            self.connection().await.map(|(connection, made)| (permit, connection, made))
        };
        let taken = tokio::time::timeout(self.acquire_timeout, taking).await;
        let (permit, connection, made) = taken.map_err(|_| timed_out())??;
        Ok(PooledConnection { decision_pool: self, connection, made, _permit: permit })
    }

    async fn connection(&self) -> sqlx::Result<(PgConnection, Stopwatch)> {
        loop {
            let Some(Idle { mut connection, made, since }) = self.idle().pop() else { break };
            if self.epoch.is_current(made)
                && (since.elapsed() < self.fresh || connection.ping().await.is_ok())
            {
                return Ok((connection, made));
            }
        }
        let made = Stopwatch::start();
        let mut connection = PgConnection::connect_with(&self.options).await?;
        if let Some(first) = self.first {
            sqlx::query(first).execute(&mut connection).await?;
        }
        if let Some(primary) = &self.primary {
            primary.note(&mut connection).await?;
        }
        Ok((connection, made))
    }

    /// Ends when no read is under way any more; there are no others afterwards.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle());
        for Idle { connection, .. } in idle {
            // A server that is gone takes its end of it along.
            let _ = tokio::time::timeout(self.acquire_timeout, connection.close()).await;
        }
    }

    /// How many stand idle.
    pub(super) fn open_connections(&self) -> usize {
        self.idle().len()
    }
}

/// A connection in use. Dropped, it is closed.
pub(super) struct PooledConnection<'l> {
    decision_pool: &'l DecisionPool,
    connection: PgConnection,
    made: Stopwatch,
    _permit: SemaphorePermit<'l>,
}

impl PooledConnection<'_> {
    /// Keeps the connection for the next read: this one got its whole answer.
    pub(super) fn release(self) {
        if !self.decision_pool.permits.is_closed() {
            let Self { connection, made, .. } = self;
            self.decision_pool.idle().push(Idle { connection, made, since: Stopwatch::start() });
        }
    }
}

impl Deref for PooledConnection<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for PooledConnection<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
