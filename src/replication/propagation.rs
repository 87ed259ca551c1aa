//! Whether a change has propagated to every replica: snapshots of their rows, and the changes that wait for them.
//!
//! # Invariants
//! - A change waits for snapshots that were requested after it was known to be committed.
//! - However many changes wait, one task reads the store.

use std::sync::Arc;
use std::time::Duration;

use super::{ClusterSummary, ReplicaStatus, ReplicaTask, Replicas, lock};
use crate::clock::{Stopwatch, moment};
use crate::lease::{LeaseDuration, MonotonicInstant, Position, Reading, RowId, Waiting};
use crate::store;
use crate::store::replication::{ReplicaInfo, ReplicaRow};

/// Between two snapshots while a change waits: this long for so many polls, during which healthy replicas
/// acknowledge; then longer each time, up to the most.
const POLL_FAST: Duration = Duration::from_millis(1);
const FAST_POLLS: u32 = 12;
const POLL_SLOW: Duration = Duration::from_millis(64);
/// How long a change waits at most, so that its caller is answered before the call's own deadline.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(25);
/// How long it waits for the first snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the changes of one instant are waited for where the position up to which all have propagated is read.
const POSITION_TIMEOUT: Duration = Duration::from_secs(1);

/// A change that waits for so long is worth a line in the log, but no more than one in so long.
const LOG_AFTER: u64 = 1_000_000;
const LOG_INTERVAL: u64 = 10_000_000;
/// How long changes may wait once the process is to stop, so that their callers are answered.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How far a committed change has propagated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PropagationStatus {
    /// Whether no replica decides on what was before it.
    pub complete: bool,
    /// In how long it is complete at the latest.
    pub within: Duration,
}

/// Whether the caller of a change waits until it has propagated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until no replica decides on what was before the change.
    UntilComplete,
    /// Only until it is known by when that is so at the latest.
    No,
}

/// How long to wait after so many polls.
fn pause(polls: u32) -> Duration {
    (POLL_FAST * (1 << polls.saturating_sub(FAST_POLLS).min(10))).min(POLL_SLOW)
}

impl PropagationStatus {
    const COMPLETE: Self = Self { complete: true, within: Duration::ZERO };
}

/// All replicas, as they stood at one instant.
pub(super) struct ClusterSnapshot {
    reading: Reading,
    head: Position,
    rows: Vec<ReplicaRow>,
}

impl ClusterSnapshot {
    pub(super) fn is_fresh(&self, length: LeaseDuration) -> bool {
        moment() < self.reading.asked().plus(length.0 / 2)
    }

    /// Those whose leases may last at `now`.
    fn live(&self, now: MonotonicInstant) -> impl Iterator<Item = &ReplicaRow> {
        let live: Vec<_> = self.reading.live(now).collect();
        self.rows.iter().filter(move |row| live.contains(&row.row.id))
    }

    /// The first of those whose rules for unused tokens are others than `ours`, and how many there are.
    fn at_odds(&self, now: MonotonicInstant, ours: &ReplicaInfo) -> (Option<&ReplicaInfo>, usize) {
        let others = self.live(now).map(|row| &row.about);
        let mut others = others.filter(|theirs| theirs.lifecycle != ours.lifecycle);
        let first = others.next();
        (first, usize::from(first.is_some()) + others.count())
    }

    /// Whether a replica renewed its lease when it should have.
    fn is_prompt(&self, row: &ReplicaRow, now: MonotonicInstant) -> bool {
        // A renewal every third of a lease is seen a third of one later at most.
        let soon = now.plus(row.row.length.0 / 4);
        self.reading.live(soon).any(|id| id == row.row.id)
    }

    pub(super) fn summary(&self, now: MonotonicInstant, ours: &ReplicaInfo) -> ClusterSummary {
        ClusterSummary {
            count: self.rows.len(),
            late: self.rows.iter().filter(|row| !self.is_prompt(row, now)).count(),
            at_odds: self.at_odds(now, ours).1,
        }
    }

    /// All of them, by name; `own` is the row of this process.
    pub(super) fn statuses(
        &self,
        now: MonotonicInstant,
        ours: &ReplicaInfo,
        own: RowId,
    ) -> Vec<ReplicaStatus> {
        let statuses = |row: &ReplicaRow| ReplicaStatus {
            lease: Duration::from_micros(row.row.length.0),
            behind: u64::try_from(self.head.0.saturating_sub(row.row.applied.0)).unwrap_or(0),
            late: !self.is_prompt(row, now),
            at_odds: row.about.lifecycle != ours.lifecycle,
            own: row.row.id == own,
            about: row.about.clone(),
        };
        let mut all: Vec<_> = self.rows.iter().map(statuses).collect();
        all.sort_by(|a, b| a.about.name.cmp(&b.about.name));
        all
    }
}

impl ReplicaTask {
    /// Reads all rows, and clears away those whose leases are over.
    pub(super) async fn snapshot(&self) -> store::Result<Arc<ClusterSnapshot>> {
        let asked = moment();
        let read = self.store.rows().await?;
        let answered = moment();
        let rows: Vec<_> = read.rows.iter().map(|row| row.row).collect();
        let (reading, ended) = {
            let mut peers = lock(&self.peers);
            let reading = peers.read(asked, answered, &rows);
            (reading, peers.ended(answered).collect::<Vec<_>>())
        };
        let snapshot = Arc::new(ClusterSnapshot { reading, head: read.head, rows: read.rows });
        self.show(&snapshot, answered);
        self.snapshots.send_replace(Some(snapshot.clone()));
        for (id, renewals) in ended {
            if self.store.remove(id, Some(renewals)).await? {
                let row = snapshot.rows.iter().find(|row| row.row.id == id);
                let replica = row.map_or("", |row| row.about.name.as_str());
                tracing::warn!(replica, "a replica's lease ran out: it is waited for no more");
            }
        }
        Ok(snapshot)
    }

    /// Shows operators who there is, and says in the log when rules begin and cease to be at odds.
    fn show(&self, snapshot: &ClusterSnapshot, now: MonotonicInstant) {
        let (other, count) = snapshot.at_odds(now, &self.about);
        let before = self.metrics.replicas(snapshot.live(now).count() as u64, count as u64);
        match other {
            Some(other) if before == 0 => tracing::error!(
                replica = other.name,
                theirs = other.lifecycle,
                ours = self.about.lifecycle,
                "another replica has other lifecycle settings: nothing is announced, mailed or taken \
                 until all are alike"
            ),
            None if before != 0 => tracing::info!("all replicas have the same lifecycle settings"),
            _ => {}
        }
    }

    /// Takes a snapshot on demand, and then for as long as a change waits.
    pub(super) async fn poll_on_demand(&self) {
        let mut polls = 0;
        loop {
            tokio::select! {
                () = self.demand.notified() => polls = 0,
                () = tokio::time::sleep(pause(polls)), if self.snapshots.receiver_count() > 0 => polls += 1,
            }
            if let Err(error) = self.snapshot().await {
                tracing::debug!(%error, "cannot see the other replicas");
            }
        }
    }

    /// Logs the replicas that changes wait for, but not for each change.
    fn log_waiting(&self, waiting: &Waiting, now: MonotonicInstant) {
        let mut logged = lock(&self.logged);
        if logged.is_some_and(|logged| now <= logged.plus(LOG_INTERVAL)) {
            return;
        }
        *logged = Some(now);
        let Some(snapshot) = self.snapshots.borrow().clone() else { return };
        let late: Vec<_> = waiting.behind(now).map(|peer| peer.id).collect();
        let late = snapshot.rows.iter().filter(|row| late.contains(&row.row.id));
        let late: Vec<_> = late.map(|row| row.about.name.as_str()).collect();
        tracing::warn!(
            replicas = late.join("; "),
            "changes wait for replicas that have not acknowledged them: at most a lease"
        );
    }

    async fn wait_for_rows(&self, wait: Wait) -> Option<PropagationStatus> {
        let committed = moment();
        let mut snapshots = self.snapshots.subscribe();
        self.demand.notify_one();
        let mut waiting: Option<Waiting> = None;
        let mut logged = false;
        let stopping = async {
            self.stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        let mut stopping = std::pin::pin!(stopping);
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.reading.asked() > committed)
            {
                // The head that the first snapshot shows is the change's position, or a later one.
                let waiting = waiting.get_or_insert_with(|| Waiting::new(snapshot.head, committed));
                waiting.read(&snapshot.reading);
            }
            let now = moment();
            let until = waiting.as_ref().and_then(Waiting::until);
            match (&waiting, until) {
                (Some(waiting), _) if waiting.is_complete(now) => {
                    return Some(PropagationStatus::COMPLETE);
                }
                (_, Some(until)) if wait == Wait::No => {
                    let within = Duration::from_micros(until.0.saturating_sub(now.0) + 1);
                    return Some(PropagationStatus { complete: false, within });
                }
                _ => {}
            }
            if let Some(waiting) = &waiting
                && now > committed.plus(LOG_AFTER)
                && !std::mem::replace(&mut logged, true)
            {
                self.log_waiting(waiting, now);
            }
            let over = until.map_or(SNAPSHOT_TIMEOUT, |until| {
                Duration::from_micros(until.0.saturating_sub(now.0) + 1)
            });
            // Looked at again when it is worth a line.
            let over = if logged { over } else { over.min(Duration::from_micros(LOG_AFTER)) };
            let timeout = if waiting.is_some() { PROPAGATION_TIMEOUT } else { SNAPSHOT_TIMEOUT };
            let left = timeout.checked_sub(Duration::from_micros(now.0 - committed.0))?;
            tokio::select! {
                _ = snapshots.changed() => {}
                () = tokio::time::sleep(over.min(left)) => {}
                () = &mut stopping => return None,
            }
        }
    }
}

impl Replicas {
    /// To be called after a change was answered by the store, or found made and something committed
    /// after that: how far it has propagated, after the wait that `wait` says. `None` where that is not known in 25 s,
    /// or the store does not list the replicas in 5 s.
    pub async fn propagation(&self, wait: Wait) -> Option<PropagationStatus> {
        let Some(member) = &self.member else { return Some(PropagationStatus::COMPLETE) };
        let watch = Stopwatch::start();
        let status = member.wait_for_rows(wait).await;
        if wait == Wait::UntilComplete {
            member.metrics.propagated(watch.elapsed());
        }
        status
    }

    /// The revision up to which every change has propagated. Waits for the changes of this instant, for a second at
    /// most; then the revision may be an earlier one.
    ///
    /// # Errors
    /// The store's.
    pub async fn await_propagated_revision(&self) -> store::Result<i64> {
        let Some(member) = &self.member else { return self.catch_up_alone().await };
        let watch = Stopwatch::start();
        let (mut newest, mut polls) = (None, 0);
        loop {
            let snapshot = member.snapshot().await?;
            let newest = *newest.get_or_insert(snapshot.head);
            let known = snapshot.reading.propagated(moment(), snapshot.head);
            if known >= newest || watch.elapsed() > POSITION_TIMEOUT {
                return Ok(known.0);
            }
            tokio::time::sleep(pause(polls)).await;
            polls += 1;
        }
    }

    /// Waits until memory follows the revision that the store has now, and notes it: where only this process has the
    /// store.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn catch_up_alone(&self) -> store::Result<i64> {
        let revision = self.cache.store_revision().await?;
        // What was committed by then had begun before.
        self.writes.await_followed().await;
        self.writes.note_followed(revision);
        Ok(revision)
    }

    /// Whether a replica takes unused tokens by other rules than this one: while there is any, nobody takes
    /// anything.
    ///
    /// # Errors
    /// The store's.
    pub async fn has_config_mismatch(&self) -> store::Result<bool> {
        let Some(member) = &self.member else { return Ok(false) };
        let snapshot = member.snapshot().await?;
        Ok(snapshot.at_odds(moment(), &member.about).1 > 0)
    }
}
