//! Whether a change has propagated to every replica: looks at their rows, and who waits for what they say.
//!
//! Must stay true: a change is waited for by looks that were asked for after it was known to be
//! committed; however many changes wait, the store is asked by one task.

use std::sync::Arc;
use std::time::Duration;

use super::{ClusterSummary, ReplicaStatus, ReplicaTask, Replicas, lock};
use crate::clock::{Stopwatch, moment};
use crate::lease::{LeaseDuration, MonotonicInstant, Position, Reading, RowId, Waiting};
use crate::store;
use crate::store::replication::{About, ReplicaRow};

/// Between two looks while somebody waits: this long for so many looks, during which those who are well
/// acknowledge; then longer each time, up to the most.
const SOON: Duration = Duration::from_millis(1);
const SOON_LOOKS: u32 = 12;
const LATER: Duration = Duration::from_millis(64);
/// How long a change waits at most, so that its caller hears of it before the call's own end.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long it waits for the store to say who there is to wait for.
const UNSEEN: Duration = Duration::from_secs(5);
/// How long a notice waits for its action to be known before others are looked at.
const MOMENT: Duration = Duration::from_secs(1);

/// A change that waits for so long is worth a line in the log, but no more than one in so long.
const LONG: u64 = 1_000_000;
const BETWEEN_LINES: u64 = 10_000_000;
/// How long changes may wait still once the process is to stop: their callers are to hear of it.
const LAST: Duration = Duration::from_secs(5);

/// How far a committed change has propagated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// Whether no replica decides on what was before it.
    pub complete: bool,
    /// In how long it is complete at the latest.
    pub within: Duration,
}

/// How long to wait after so many looks.
fn pause(looks: u32) -> Duration {
    (SOON * (1 << looks.saturating_sub(SOON_LOOKS).min(10))).min(LATER)
}

impl Propagation {
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
    fn at_odds(&self, now: MonotonicInstant, ours: &About) -> (Option<&About>, usize) {
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

    pub(super) fn sight(&self, now: MonotonicInstant, ours: &About) -> ClusterSummary {
        ClusterSummary {
            count: self.rows.len(),
            late: self.rows.iter().filter(|row| !self.is_prompt(row, now)).count(),
            at_odds: self.at_odds(now, ours).1,
        }
    }

    /// All of them, by name; `own` is the row of this process.
    pub(super) fn seen(
        &self,
        now: MonotonicInstant,
        ours: &About,
        own: RowId,
    ) -> Vec<ReplicaStatus> {
        let seen = |row: &ReplicaRow| ReplicaStatus {
            lease: Duration::from_micros(row.row.length.0),
            behind: u64::try_from(self.head.0.saturating_sub(row.row.applied.0)).unwrap_or(0),
            late: !self.is_prompt(row, now),
            at_odds: row.about.lifecycle != ours.lifecycle,
            own: row.row.id == own,
            about: row.about.clone(),
        };
        let mut all: Vec<_> = self.rows.iter().map(seen).collect();
        all.sort_by(|a, b| a.about.name.cmp(&b.about.name));
        all
    }
}

impl ReplicaTask {
    /// Reads all rows, and clears away those whose leases are over.
    pub(super) async fn look(&self) -> store::Result<Arc<ClusterSnapshot>> {
        let asked = moment();
        let read = self.store.rows().await?;
        let answered = moment();
        let rows: Vec<_> = read.rows.iter().map(|row| row.row).collect();
        let (reading, ended) = {
            let mut peers = lock(&self.peers);
            let reading = peers.read(asked, answered, &rows);
            (reading, peers.ended(answered).collect::<Vec<_>>())
        };
        let look = Arc::new(ClusterSnapshot { reading, head: read.head, rows: read.rows });
        self.show(&look, answered);
        self.looks.send_replace(Some(look.clone()));
        for (id, renewals) in ended {
            if self.store.remove(id, Some(renewals)).await? {
                let row = look.rows.iter().find(|row| row.row.id == id);
                let replica = row.map_or("", |row| row.about.name.as_str());
                tracing::warn!(replica, "a replica's lease ran out: it is waited for no more");
            }
        }
        Ok(look)
    }

    /// Shows operators who there is, and says in the log when rules begin and cease to be at odds.
    fn show(&self, look: &ClusterSnapshot, now: MonotonicInstant) {
        let (other, count) = look.at_odds(now, &self.about);
        let before = self.metrics.replicas(look.live(now).count() as u64, count as u64);
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

    /// Looks when that is asked for, and then for as long as anybody waits.
    pub(super) async fn look_on_demand(&self) {
        let mut looks = 0;
        loop {
            tokio::select! {
                () = self.demand.notified() => looks = 0,
                () = tokio::time::sleep(pause(looks)), if self.looks.receiver_count() > 0 => looks += 1,
            }
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "cannot see the other replicas");
            }
        }
    }

    /// Says in the log for whom changes wait, but not for each of them.
    fn tell_of(&self, waiting: &Waiting, now: MonotonicInstant) {
        let mut told = lock(&self.told);
        if told.is_some_and(|told| now <= told.plus(BETWEEN_LINES)) {
            return;
        }
        *told = Some(now);
        let Some(look) = self.looks.borrow().clone() else { return };
        let late: Vec<_> = waiting.behind(now).map(|peer| peer.id).collect();
        let late = look.rows.iter().filter(|row| late.contains(&row.row.id));
        let late: Vec<_> = late.map(|row| row.about.name.as_str()).collect();
        tracing::warn!(
            replicas = late.join("; "),
            "changes wait for replicas that have not acknowledged them: at most a lease"
        );
    }

    async fn propagation(&self, wait: bool) -> Option<Propagation> {
        let committed = moment();
        let mut looks = self.looks.subscribe();
        self.demand.notify_one();
        let mut waiting: Option<Waiting> = None;
        let mut told = false;
        let stopping = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST).await;
        };
        let mut stopping = std::pin::pin!(stopping);
        loop {
            let look = looks.borrow_and_update().clone();
            if let Some(look) = look.filter(|look| look.reading.asked() > committed) {
                // The head that the first look shows is the change's position, or a later one.
                let waiting = waiting.get_or_insert_with(|| Waiting::new(look.head, committed));
                waiting.read(&look.reading);
            }
            let now = moment();
            let until = waiting.as_ref().and_then(Waiting::until);
            match (&waiting, until) {
                (Some(waiting), _) if waiting.is_complete(now) => {
                    return Some(Propagation::COMPLETE);
                }
                (_, Some(until)) if !wait => {
                    let within = Duration::from_micros(until.0.saturating_sub(now.0) + 1);
                    return Some(Propagation { complete: false, within });
                }
                _ => {}
            }
            if let Some(waiting) = &waiting
                && now > committed.plus(LONG)
                && !std::mem::replace(&mut told, true)
            {
                self.tell_of(waiting, now);
            }
            let over = until
                .map_or(UNSEEN, |until| Duration::from_micros(until.0.saturating_sub(now.0) + 1));
            // Looked at again when it is worth a line.
            let over = if told { over } else { over.min(Duration::from_micros(LONG)) };
            let patience = if waiting.is_some() { PATIENCE } else { UNSEEN };
            let left = patience.checked_sub(Duration::from_micros(now.0 - committed.0))?;
            tokio::select! {
                _ = looks.changed() => {}
                () = tokio::time::sleep(over.min(left)) => {}
                () = &mut stopping => return None,
            }
        }
    }
}

impl Replicas {
    /// To be called after a change was answered by the store, or found made and something committed
    /// after that: waits until it has propagated to every replica, or says how it stands where not to `wait`.
    /// `None` where that could not be told in 25 s, or the store does not say who there is in 5 s.
    pub async fn propagation(&self, wait: bool) -> Option<Propagation> {
        let Some(member) = &self.member else { return Some(Propagation::COMPLETE) };
        let watch = Stopwatch::start();
        let propagation = member.propagation(wait).await;
        if wait {
            member.metrics.propagated(watch.elapsed());
        }
        propagation
    }

    /// The position up to which every change has propagated. Those of this instant are waited for, but not long.
    ///
    /// # Errors
    /// The store's.
    pub async fn known_position(&self) -> store::Result<i64> {
        let Some(member) = &self.member else {
            let revision = self.cache.store_revision().await?;
            // What was committed by then had begun before.
            self.writes.followed().await;
            self.writes.note_followed(revision);
            return Ok(revision);
        };
        let watch = Stopwatch::start();
        let (mut newest, mut looks) = (None, 0);
        loop {
            let look = member.look().await?;
            let newest = *newest.get_or_insert(look.head);
            let known = look.reading.propagated(moment(), look.head);
            if known >= newest || watch.elapsed() > MOMENT {
                return Ok(known.0);
            }
            tokio::time::sleep(pause(looks)).await;
            looks += 1;
        }
    }

    /// Whether a replica takes unused tokens by other rules than this one: while there is any, nobody takes
    /// anything.
    ///
    /// # Errors
    /// The store's.
    pub async fn are_at_odds(&self) -> store::Result<bool> {
        let Some(member) = &self.member else { return Ok(false) };
        let look = member.look().await?;
        Ok(look.at_odds(moment(), &member.about).1 > 0)
    }
}
