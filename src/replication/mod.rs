//! How this process stands to the other replicas: whether it may decide, and whether a change has propagated to
//! all of them. What drives the machines of `lease` over the store and memory. The protocol, and why it
//! holds: docs/consistency.md.
//!
//! The verbs here: memory *follows* a change when it forgets, or reads again, what the change touched
//! (`make_effective`); it has then *applied* the change (`applied`), which is *acknowledged* in the store. `catch_up`
//! reads the record and follows all of it; `catch_up_to` waits, for one request, until a revision is applied. The cache
//! *invalidates* one fact, *refreshes* it by reading it again, and *reloads* everything.
//!
//! Must stay true: a decision asks [`Replicas::may_decide`] first and reads facts after that;
//! memory follows a change before that is acknowledged. Where only this process has the store, all of
//! it is so at once.

mod driver;
mod in_flight;
mod propagation;

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use in_flight::InFlightWrite;
use in_flight::InFlightWrites;
use propagation::ClusterSnapshot;
pub use propagation::{PropagationStatus, Wait};

use crate::cache::Cache;
use crate::clock::{Stopwatch, moment};
use crate::failpoint::{self, Failpoint};
use crate::lease::{LeaseDuration, MonotonicInstant, Peers, Position, Replica, RowId};
use crate::shutdown;
use crate::store::replication::{ReplicaInfo, Replication};
use crate::store::{self, Store};
use crate::telemetry::Metrics;

/// How long a request waits for a lease that lapsed while the store may be in reach.
const LEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a request waits until memory rests on the revision that it asks for.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// The lease ran out, and the store is out of reach: nothing can be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica's lease has run out, and the store is out of reach")]
pub struct LeaseExpired;

/// This replica has not applied the revision that was asked for, and could not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this replica has not applied the revision that was asked for")]
pub struct NotFreshEnough;

/// Until when this process may decide, and on which changes, in a place that nothing else is written to.
#[derive(Debug)]
#[repr(align(128))]
struct LeaseDeadline {
    moment: AtomicU64,
    /// Memory rests on every change up to this revision; 0 where it rests on nothing.
    revision: AtomicI64,
}

impl LeaseDeadline {
    fn new(moment: u64) -> Self {
        Self { moment: AtomicU64::new(moment), revision: AtomicI64::new(0) }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Replicas {
    until: Arc<LeaseDeadline>,
    cache: Arc<Cache>,
    writes: InFlightWrites,
    /// `None` where only this process has the store.
    member: Option<Arc<ReplicaTask>>,
    /// What keeps the lease, and until when.
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// One of many, as this process sees itself.
struct ReplicaTask {
    about: ReplicaInfo,
    store: Arc<dyn Replication>,
    metrics: Arc<Metrics>,
    length: LeaseDuration,
    until: Arc<LeaseDeadline>,
    state: Mutex<LeaseState>,
    /// Somebody needs a lease now.
    wanted: Notify,
    /// There may be changes that memory does not follow yet.
    behind: Notify,
    /// A change waits for a snapshot of the replicas.
    demand: Notify,
    /// Since when attempts to renew have failed; woken whenever one ends, or a lease begins to hold.
    failing: watch::Sender<Option<Stopwatch>>,
    /// Woken whenever memory has followed more changes.
    applied: watch::Sender<()>,
    peers: Mutex<Peers>,
    /// When it was last logged that changes wait.
    logged: Mutex<Option<MonotonicInstant>>,
    /// The process is to stop.
    stop: CancellationToken,
    snapshots: watch::Sender<Option<Arc<ClusterSnapshot>>>,
}

struct LeaseState {
    replica: Replica,
    /// The row that [`Replica::registered`] speaks of.
    row: RowId,
    /// The head when that was registered: where an empty memory rests.
    registered_at: Position,
}

impl fmt::Debug for ReplicaTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaTask").field("about", &self.about).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that has a row, and nothing in memory yet.
#[derive(Debug)]
pub struct RegisteredReplica(Option<Arc<ReplicaTask>>);

impl RegisteredReplica {
    /// Registers this process where others may share the store. To be called before the first fact is
    /// read. `lease` is how long it may decide without the store; once `stop` is cancelled, changes wait no
    /// longer than the end of the process can.
    ///
    /// # Errors
    /// The store's.
    pub async fn register(
        store: &dyn Store,
        lease: Duration,
        about: ReplicaInfo,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> store::Result<Self> {
        let Some(store) = store.replication() else { return Ok(Self(None)) };
        let length = LeaseDuration(u64::try_from(lease.as_micros()).unwrap_or(u64::MAX));
        let member = Arc::new(ReplicaTask {
            about,
            store,
            metrics,
            length,
            until: Arc::new(LeaseDeadline::new(0)),
            state: Mutex::new(LeaseState {
                replica: Replica::new(length),
                row: RowId(0),
                registered_at: Position(0),
            }),
            wanted: Notify::new(),
            behind: Notify::new(),
            demand: Notify::new(),
            failing: watch::channel(None).0,
            applied: watch::channel(()).0,
            peers: Mutex::default(),
            logged: Mutex::default(),
            stop,
            snapshots: watch::channel(None).0,
        });
        let attempt = member.attempt().await;
        member.receive(attempt).await?;
        Ok(Self(Some(member)))
    }

    /// Goes on with `cache`, of which nothing was read before the registration, until `stop`, or until it
    /// leaves.
    pub fn serve(self, cache: Arc<Cache>, stop: &CancellationToken) -> Replicas {
        let Self(Some(member)) = self else { return Replicas::alone(cache) };
        {
            let mut state = lock(&member.state);
            let (epoch, position) = (state.replica.epoch(), state.registered_at);
            state.replica.apply(epoch, position);
            member.publish(&state);
        }
        let tasks = TaskTracker::new();
        for (name, task) in member.clone().tasks(&cache) {
            let ends = stop.clone();
            let task = async move {
                ends.run_until_cancelled(task).await;
            };
            shutdown::spawn_essential(name, stop.clone(), tasks.track_future(task));
        }
        tasks.close();
        let (until, stop) = (member.until.clone(), stop.clone());
        let writes = InFlightWrites::following(cache.loaded_revision());
        Replicas { until, cache, writes, member: Some(member), tasks, stop }
    }
}

/// A summary of the replicas for operators, this one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClusterSummary {
    /// How many there are.
    pub count: usize,
    /// How many have not renewed their leases when they should have.
    pub late: usize,
    /// How many take unused tokens by other rules than this one.
    pub at_odds: usize,
}

/// One replica as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// What it said of itself.
    pub about: ReplicaInfo,
    /// How long it may decide without the store.
    pub lease: Duration,
    /// How many changes it has not applied yet.
    pub behind: u64,
    /// Whether it has not renewed its lease when it should have.
    pub late: bool,
    /// Whether it takes unused tokens by other rules than this one.
    pub at_odds: bool,
    /// Whether it is this one.
    pub own: bool,
}

impl Replicas {
    /// For a process that has the store for itself.
    pub fn alone(cache: Arc<Cache>) -> Self {
        Self {
            until: Arc::new(LeaseDeadline::new(u64::MAX)),
            writes: InFlightWrites::following(cache.loaded_revision()),
            cache,
            member: None,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Whether a decision that begins with `watch` may be made from memory. To be asked before the first
    /// fact is looked at. Rule 6.7 of docs/policy.md.
    pub fn may_decide(&self, watch: Stopwatch) -> bool {
        watch.moment().0 < self.until.moment.load(Ordering::Acquire)
            || failpoint::is_active(Failpoint::NoLease)
    }

    /// For how long it may decide without the store; `None` where it needs no lease.
    pub fn lease_left(&self) -> Option<Duration> {
        self.member.as_ref()?;
        let until = self.until.moment.load(Ordering::Acquire);
        Some(Duration::from_micros(until.saturating_sub(moment().0)))
    }

    /// Returns where it may decide. A lease that lapsed is renewed first, where the store is in reach.
    ///
    /// # Errors
    /// [`LeaseExpired`], at once where the store is known to be out of reach.
    pub async fn ready(&self) -> Result<(), LeaseExpired> {
        let Some(member) = &self.member else { return Ok(()) };
        if self.may_decide(Stopwatch::start()) {
            return Ok(());
        }
        // In a box, so that callers with a lease, which are nearly all, do not carry it around.
        let renewed = Box::pin(tokio::time::timeout(LEASE_TIMEOUT, self.renewed(member))).await;
        let ready = renewed.unwrap_or(Err(LeaseExpired));
        if ready.is_err() {
            member.metrics.lease_rejections.inc();
        }
        ready
    }

    /// To be called before a write is made, and kept until memory follows it.
    pub fn begin_write(&self) -> InFlightWrite {
        self.writes.begin()
    }

    /// A decision that begins now rests on every change up to this revision, and maybe on later ones. To be
    /// asked before the first fact is looked at.
    pub fn revision(&self) -> i64 {
        match &self.member {
            Some(_) => self.until.revision.load(Ordering::Acquire),
            None => self.writes.revision(),
        }
    }

    /// Returns once decisions rest on every change up to `revision`.
    ///
    /// # Errors
    /// [`NotFreshEnough`] where that is not so within a second.
    pub async fn catch_up_to(&self, revision: i64) -> Result<(), NotFreshEnough> {
        if revision <= self.revision() {
            return Ok(());
        }
        let followed = async {
            match &self.member {
                Some(member) => self.await_applied(member, revision).await,
                None => match self.catch_up_alone().await {
                    Ok(known) => known >= revision,
                    Err(error) => {
                        tracing::debug!(%error, "cannot read the store's revision");
                        false
                    }
                },
            }
        };
        match tokio::time::timeout(CATCH_UP_TIMEOUT, followed).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(NotFreshEnough),
        }
    }

    /// Has changes applied until memory rests on `revision`, which may be never.
    async fn await_applied(&self, member: &ReplicaTask, revision: i64) -> bool {
        let mut applied = member.applied.subscribe();
        member.behind.notify_one();
        while self.revision() < revision {
            // It ends with an error only where the sender is gone, which is borrowed here.
            let _ = applied.changed().await;
        }
        true
    }

    async fn renewed(&self, member: &ReplicaTask) -> Result<(), LeaseExpired> {
        let mut failing = member.failing.subscribe();
        while !self.may_decide(Stopwatch::start()) {
            let since = *failing.borrow_and_update();
            if since.is_some_and(|since| since.elapsed() > LEASE_TIMEOUT) {
                return Err(LeaseExpired);
            }
            member.wanted.notify_one();
            // It ends with an error only where the sender is gone, which is borrowed here.
            let _ = failing.changed().await;
        }
        Ok(())
    }

    /// A summary of the last snapshot; `None` where there can be no others, or the snapshot is older than half a
    /// lease.
    pub fn summary(&self) -> Option<ClusterSummary> {
        let member = self.member.as_ref()?;
        let snapshot = member.snapshots.borrow().clone()?;
        snapshot.is_fresh(member.length).then(|| snapshot.summary(moment(), &member.about))
    }

    /// The replicas of the last snapshot, by name; `None` as for [`Self::summary`].
    pub fn statuses(&self) -> Option<Vec<ReplicaStatus>> {
        let member = self.member.as_ref()?;
        let snapshot = member.snapshots.borrow().clone()?;
        let own = lock(&member.state).row;
        snapshot.is_fresh(member.length).then(|| snapshot.statuses(moment(), &member.about, own))
    }

    /// Whether this process shares its store with none that could decide beside it.
    pub fn is_alone(&self) -> bool {
        self.member.is_none()
    }

    /// Stops deciding, for good, and then notifies the others that nobody need wait for this process any more.
    /// Does nothing where only this process has the store.
    pub async fn leave(&self) {
        let Some(member) = &self.member else { return };
        let row = {
            let mut state = lock(&member.state);
            let row = state.replica.registered().map(|_| state.row);
            state.replica.leave();
            member.publish(&state);
            row
        };
        // What is under way would register again: a row that everybody would wait for.
        self.stop.cancel();
        self.tasks.wait().await;
        if let Some(row) = row
            && let Err(error) = member.store.remove(row, None).await
        {
            tracing::debug!(%error, "others wait until the lease of this process has run out");
        }
    }
}
