//! What replicas exchange through Postgres: rows, the record, and notifications.
//!
//! What must stay true: leases have connections of their own, so that nothing else can hold up a
//! renewal; an acknowledgement need not be on disk, a renewal must; rows are read where this process writes, or where that was taken over.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, Postgres};
use sqlx::{AssertSqlSafe, FromRow};
use uuid::Uuid;

use super::decision_pool::{ConnectionEpoch, DecisionPool};
use super::listener::Listener;
use super::management::Management;
use super::timed_out;
use crate::lease::{Head, Identity, LeaseDuration, Position, Row, RowId};
use crate::model::ChangeRecord;
use crate::store::Result;
use crate::store::error::CorruptRow;
use crate::store::replication::{
    ChangeLogPage, ChangeNotification, ReplicaInfo, ReplicaRow, Replication, Rows,
};

/// How many statements about leases run at once: one that hangs holds up no other.
const LEASES: u32 = 3;
/// How long any of it may take; others are tried meanwhile.
pub(super) const LATE: Duration = Duration::from_secs(3);
/// How many changes the record keeps at least, for those who come back.
const KEPT: i64 = 10_000;
/// How many are forgotten at once.
const PRUNED: i64 = 10_000;

/// Which store this is: its system identifier, the timeline that it writes, and the numbers of the database and of its
/// table `head`, which `pg_restore --clean` creates again. Fails on a standby. The table is looked up at each run
/// (`to_regclass`), so that a statement prepared before a restore names the new one.
const IDENTITY: &str = "\
    (SELECT system_identifier FROM pg_control_system()), \
    ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer, \
    (SELECT oid::bigint << 32 | coalesce(to_regclass('head')::oid::bigint, 0) \
     FROM pg_database WHERE datname = current_database())";

/// One at a time for each name. A primary that waits for its standby lets no commit end, also of those
/// who gave up: without the lock they would take all of its sessions, and leave a row each.
///
/// The position of a memory of another store may be one that this store has yet to give to a change: no row
/// claims more than the head has. (`least` passes over NULL.)
const REGISTER: &str = "\
    WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtextextended($4, 0))) \
    INSERT INTO replica \
        (replica_id, lease, renewals, applied, name, version, create_time, lifecycle, program) \
    SELECT $1, $2, 0, least($3, (SELECT position FROM head WHERE id = 1)), $4, $5, \
        CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT), $6, $7 \
    FROM turn \
    RETURNING ";

const RENEW: &str = "\
    UPDATE replica SET renewals = renewals + 1, applied = greatest(applied, coalesce($2, 0)) \
    WHERE replica_id = $1 AND ($3, $4, $5) = ";

const ACKNOWLEDGE: &str = "\
    UPDATE replica SET applied = $2 WHERE replica_id = $1 AND applied < $2 AND ($3, $4, $5) = ";

/// Behind [`ACKNOWLEDGE`]: if the record says the same of the change as its notification.
const IF_AS_NOTIFIED: &str = " \
    AND EXISTS ( \
        SELECT FROM change \
        WHERE position = $2 AND nonce = $6 AND writer = $7 \
            AND touched = $8 AND key IS NOT DISTINCT FROM $9 \
    )";

const SELECT_ROWS: &str = "\
    SELECT h.position, r.replica_id, r.lease, r.renewals, r.applied, r.name, r.version, r.lifecycle, \
        s.system, s.timeline, s.database \
    FROM head h LEFT JOIN replica r ON true, ";

const SELECT_RECORD: &str = "\
    SELECT h.position AS head, c.position, c.touched, c.key \
    FROM head h LEFT JOIN LATERAL ( \
        SELECT position, touched, key FROM change WHERE position > $1 ORDER BY position LIMIT $2 \
    ) c ON true \
    WHERE h.id = 1 AND ($3, $4, $5) = ";

const REMOVE: &str = "DELETE FROM replica WHERE replica_id = $1 AND ($2 IS NULL OR renewals = $2)";

const PRUNE: &str = "\
    WITH bound AS ( \
        SELECT least(h.position - $1, (SELECT min(applied) FROM replica)) AS position \
        FROM head h WHERE h.id = 1 \
    ), oldest AS (SELECT min(position) AS position FROM change) \
    DELETE FROM change c USING bound, oldest \
    WHERE c.position <= bound.position AND c.position < oldest.position + $2";

/// Where this process writes: the newest store that one of its connections leads to, or that it has registered
/// in. A connection to a former primary may live on beside one to its successor, and a new one may still be led
/// there. It shows rows as they were, by which a change that was made in the successor would be called propagated; and
/// facts as they were, such as a credential that was revoked since.
#[derive(Debug, Default)]
pub(super) struct PrimaryIdentity(Mutex<Option<Identity>>);

impl PrimaryIdentity {
    fn newest(&self) -> MutexGuard<'_, Option<Identity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called with each new connection that facts are read or changes are made through. Which store it
    /// leads to does not change as long as it lasts.
    ///
    /// # Errors
    /// The database's; a standby's, which is none to write in; those of [`Self::accept`].
    pub(super) async fn note(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let named = sqlx::query_as(AssertSqlSafe(format!("SELECT {IDENTITY}")));
        self.accept(identity(named.fetch_one(connection).await?))
    }

    /// Takes over which store that is.
    ///
    /// # Errors
    /// [`FormerPrimary`], where a later timeline of it was seen before.
    fn accept(&self, found: Identity) -> sqlx::Result<()> {
        let mut newest = self.newest();
        match *newest {
            Some(newest) if supersedes(newest, found) => {
                let former = FormerPrimary { found: found.timeline, newest: newest.timeline };
                Err(std::io::Error::new(std::io::ErrorKind::NotConnected, former).into())
            }
            _ => {
                *newest = Some(found);
                Ok(())
            }
        }
    }

    /// Whether rows of that store say whom a change waits for that was made before they were asked for.
    fn is_visible_from(&self, store: Identity) -> bool {
        self.newest().is_none_or(|newest| newest == store || supersedes(store, newest))
    }
}

/// Where a connection leads that nothing may be read or written through.
#[derive(Debug, thiserror::Error)]
#[error(
    "the connection leads to a former primary: to timeline {found} of the database, of which this process has \
     seen timeline {newest}; if an older state was restored on purpose, restart this process"
)]
struct FormerPrimary {
    found: u32,
    newest: u32,
}

/// Whether one store took over from the other: timelines of a system only grow.
fn supersedes(one: Identity, other: Identity) -> bool {
    one.system == other.system && one.database == other.database && one.timeline > other.timeline
}

/// See the module.
pub(super) struct Replicas {
    leases: DecisionPool,
    /// These wait for no disk.
    acknowledgements: DecisionPool,
    /// Of these, and of those that read facts for decisions.
    epoch: Arc<ConnectionEpoch>,
    management: Arc<Management>,
    primary: Arc<PrimaryIdentity>,
    listener: Listener,
}

impl std::fmt::Debug for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replicas").finish_non_exhaustive()
    }
}

#[derive(FromRow)]
struct SelectedReplica {
    #[sqlx(rename = "position")]
    head: i64,
    replica_id: Option<Uuid>,
    lease: Option<i64>,
    renewals: Option<i64>,
    applied: Option<i64>,
    name: Option<String>,
    version: Option<String>,
    lifecycle: Option<String>,
    system: i64,
    timeline: i32,
    database: i64,
}

impl SelectedReplica {
    /// `None` for the row that stands for no replica at all.
    fn read(self) -> Option<ReplicaRow> {
        Some(ReplicaRow {
            row: Row {
                id: RowId(self.replica_id?.as_u128()),
                length: LeaseDuration(self.lease?.cast_unsigned()),
                renewals: self.renewals?.cast_unsigned(),
                applied: Position(self.applied?),
            },
            about: ReplicaInfo {
                name: self.name?,
                version: self.version?,
                lifecycle: self.lifecycle?,
            },
        })
    }
}

#[derive(FromRow)]
struct SelectedChange {
    head: i64,
    position: Option<i64>,
    touched: Option<String>,
    key: Option<Uuid>,
}

type Named = (i64, i32, i64);

fn identity((system, timeline, database): Named) -> Identity {
    Identity {
        system: system.cast_unsigned(),
        timeline: timeline.cast_unsigned(),
        database: database.cast_unsigned(),
    }
}

fn named(Identity { system, timeline, database }: Identity) -> Named {
    (system.cast_signed(), timeline.cast_signed(), database.cast_signed())
}

fn uuid(id: RowId) -> Uuid {
    Uuid::from_u128(id.0)
}

impl Replicas {
    /// Connects with `options` when it is first needed. Listens from now on.
    pub(super) fn new(
        options: &PgConnectOptions,
        epoch: Arc<ConnectionEpoch>,
        management: Arc<Management>,
        primary: Arc<PrimaryIdentity>,
    ) -> Self {
        let decision_pool = |options, count| DecisionPool::new(options, count, LATE, epoch.clone());
        let quick = options.clone().options([("synchronous_commit", "off")]);
        Self {
            leases: decision_pool(options.clone(), LEASES).durable(),
            acknowledgements: decision_pool(quick, 1).skip_ping(),
            epoch,
            management,
            primary,
            listener: Listener::start(options.clone()),
        }
    }

    /// Whether the row was hit.
    async fn acknowledged(&self, statement: Statement) -> Result<bool> {
        within(async {
            let mut conn = self.acknowledgements.take().await?;
            let acknowledged = statement.execute(&mut *conn).await?;
            conn.release();
            Ok(acknowledged.rows_affected() == 1)
        })
        .await
    }

    pub(super) async fn close(&self) {
        self.leases.close().await;
        self.acknowledgements.close().await;
    }
}

type Statement = sqlx::query::Query<'static, Postgres, PgArguments>;

fn acknowledging(statement: String, id: RowId, store: Identity, applied: Position) -> Statement {
    let (system, timeline, database) = named(store);
    sqlx::query(AssertSqlSafe(statement))
        .bind(uuid(id))
        .bind(applied.0)
        .bind(system)
        .bind(timeline)
        .bind(database)
}

async fn within<T>(statement: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(LATE, statement).await.unwrap_or_else(|_| Err(timed_out().into()))
}

async fn head(connection: &mut PgConnection) -> Result<Head> {
    let query = format!("SELECT position, {IDENTITY} FROM head WHERE id = 1");
    let (position, system, timeline, database) =
        sqlx::query_as(AssertSqlSafe(query)).fetch_one(connection).await?;
    let identity = identity((system, timeline, database));
    Ok(Head { position: Position(position), identity })
}

#[async_trait]
impl Replication for Replicas {
    async fn register(
        &self,
        id: RowId,
        length: LeaseDuration,
        applied: Option<Position>,
        about: &ReplicaInfo,
    ) -> Result<Head> {
        within(async {
            let mut conn = self.leases.take().await?;
            let written: Named = sqlx::query_as(AssertSqlSafe(format!("{REGISTER}{IDENTITY}")))
                .bind(uuid(id))
                .bind(length.0.cast_signed())
                .bind(applied.map(|position| position.0))
                .bind(&about.name)
                .bind(&about.version)
                .bind(&about.lifecycle)
                .bind(super::newest_migration())
                .fetch_one(&mut *conn)
                .await?;
            let head = head(&mut conn).await?;
            conn.release();
            // A row that another store got says nothing in this one.
            if identity(written) != head.identity {
                return Err(sqlx::Error::Io(std::io::ErrorKind::NotConnected.into()).into());
            }
            self.primary.accept(head.identity)?;
            Ok(head)
        })
        .await
    }

    async fn renew(
        &self,
        id: RowId,
        store: Identity,
        applied: Option<Position>,
    ) -> Result<Option<Head>> {
        within(async {
            let mut conn = self.leases.take().await?;
            let (system, timeline, database) = named(store);
            let renewed = sqlx::query(AssertSqlSafe(format!("{RENEW}({IDENTITY})")))
                .bind(uuid(id))
                .bind(applied.map(|position| position.0))
                .bind(system)
                .bind(timeline)
                .bind(database)
                .execute(&mut *conn)
                .await?;
            // That there is no row is known now, whatever becomes of another statement.
            let head = match renewed.rows_affected() {
                1 => Some(head(&mut conn).await?),
                _ => None,
            };
            conn.release();
            Ok(head)
        })
        .await
    }

    async fn acknowledge(&self, id: RowId, store: Identity, applied: Position) -> Result<()> {
        let statement = format!("{ACKNOWLEDGE}({IDENTITY})");
        self.acknowledged(acknowledging(statement, id, store, applied)).await?;
        Ok(())
    }

    async fn acknowledge_notified(
        &self,
        id: RowId,
        store: Identity,
        notification: ChangeNotification,
    ) -> Result<bool> {
        let statement = format!("{ACKNOWLEDGE}({IDENTITY}){IF_AS_NOTIFIED}");
        let (touched, key) = notification.change.touched.written();
        let confirming =
            acknowledging(statement, id, store, Position(notification.change.position))
                .bind(notification.nonce)
                .bind(notification.writer)
                .bind(touched)
                .bind(key);
        self.acknowledged(confirming).await
    }

    async fn rows(&self) -> Result<Rows> {
        within(async {
            let mut conn = self.leases.take().await?;
            let rows: Vec<SelectedReplica> = sqlx::query_as(AssertSqlSafe(format!(
                "{SELECT_ROWS}(SELECT {IDENTITY}) s (system, timeline, database) WHERE h.id = 1"
            )))
            .fetch_all(&mut *conn)
            .await?;
            let first = rows.first().ok_or(CorruptRow("the store has no head"))?;
            let head = first.head;
            let store = identity((first.system, first.timeline, first.database));
            if !self.primary.is_visible_from(store) {
                return Err(sqlx::Error::Io(std::io::ErrorKind::NotConnected.into()).into());
            }
            conn.release();
            let rows = rows.into_iter().filter_map(SelectedReplica::read).collect();
            Ok(Rows { rows, head: Position(head) })
        })
        .await
    }

    async fn behind(
        &self,
        after: Position,
        store: Identity,
        limit: u32,
    ) -> Result<Option<ChangeLogPage>> {
        within(async {
            let mut conn = self.leases.take().await?;
            let (system, timeline, database) = named(store);
            let rows: Vec<SelectedChange> =
                sqlx::query_as(AssertSqlSafe(format!("{SELECT_RECORD}({IDENTITY}) ORDER BY 2")))
                    .bind(after.0)
                    .bind(i64::from(limit))
                    .bind(system)
                    .bind(timeline)
                    .bind(database)
                    .fetch_all(&mut *conn)
                    .await?;
            conn.release();
            let Some(head) = rows.first().map(|row| row.head) else { return Ok(None) };
            let changes = rows.into_iter().filter_map(|row| {
                let change = ChangeRecord::read(row.position?, row.touched?.as_str(), row.key);
                Some(change.ok_or(CorruptRow("a change record can't be read")))
            });
            Ok(Some(ChangeLogPage {
                changes: changes.collect::<std::result::Result<_, _>>()?,
                head: Position(head),
            }))
        })
        .await
    }

    async fn remove(&self, id: RowId, renewals: Option<u64>) -> Result<bool> {
        within(async {
            let mut conn = self.leases.take().await?;
            let removed = sqlx::query(REMOVE)
                .bind(uuid(id))
                .bind(renewals.map(u64::cast_signed))
                .execute(&mut *conn)
                .await?;
            conn.release();
            Ok(removed.rows_affected() == 1)
        })
        .await
    }

    async fn prune(&self) -> Result<u64> {
        within(async {
            let mut conn = self.leases.take().await?;
            let pruned = sqlx::query(PRUNE).bind(KEPT).bind(PRUNED).execute(&mut *conn).await?;
            conn.release();
            Ok(pruned.rows_affected())
        })
        .await
    }

    async fn next_notification(&self) -> Option<ChangeNotification> {
        self.listener.next_notification().await
    }

    fn reconnect(&self) {
        self.epoch.again();
        self.management.again();
        self.listener.reconnect();
    }
}
