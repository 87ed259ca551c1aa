//! The status of the server as operators see it. Read from memory: no number of readers burdens the store.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{LifecycleView, Services};
use crate::clock::Stopwatch;
pub use crate::lifecycle::{REFRESH, StatusSnapshot};
pub use crate::mail::Message;
pub use crate::replication::{ClusterSummary, ReplicaStatus};
pub use crate::store::Trouble;
use crate::telemetry::Exposition;

/// Everything that `/healthz` reports.
#[derive(Debug, Clone)]
pub struct Health {
    /// The lifecycle's settings and time, and whether mails can be sent.
    pub outlook: LifecycleView,
    /// The last status of the lifecycle; `None` until the store was read.
    pub lifecycle: Option<Arc<StatusSnapshot>>,
    /// Whether this replica may decide from memory.
    pub has_lease: bool,
    /// The replicas; zeros where there can be no others, or none was seen lately.
    pub replicas: ClusterSummary,
    /// What is wrong with the store, and for how long.
    pub troubles: Vec<(Trouble, Duration)>,
    /// The groups of files that were read again and can't be used, by name.
    pub failing_reloads: Vec<&'static str>,
}

impl Services {
    /// Everything that `/healthz` reports.
    pub fn health(&self) -> Health {
        Health {
            outlook: self.outlook(),
            lifecycle: self.lifecycle_status(),
            has_lease: self.has_lease(),
            replicas: self.replicas.summary().unwrap_or_default(),
            troubles: self.status.troubles(),
            failing_reloads: self.metrics.failing_reloads(),
        }
    }

    /// The last status of the lifecycle; `None` until the store was read.
    pub fn lifecycle_status(&self) -> Option<Arc<StatusSnapshot>> {
        self.status.known()
    }

    /// Whether this replica may decide from memory: one number in memory.
    pub fn has_lease(&self) -> bool {
        self.replicas.may_decide(Stopwatch::start())
    }

    /// Whether decisions can be made now.
    ///
    /// # Errors
    /// Why not, in words for operators.
    pub fn can_decide(&self) -> Result<(), &'static str> {
        if !self.has_lease() {
            return Err("the lease has run out and the store is out of reach");
        }
        self.in_force().map(|_| ()).map_err(|_| "the catalogue in force is not known")
    }

    /// Whether this process shares its store with none that could decide beside it.
    pub fn is_alone(&self) -> bool {
        self.replicas.is_alone()
    }

    /// The replicas by name; `None` where there can be no others, or none was seen for half a lease.
    pub fn replicas(&self) -> Option<Vec<ReplicaStatus>> {
        self.replicas.statuses()
    }

    /// All metrics, in the format `exposition`.
    pub fn render_metrics(&self, exposition: Exposition) -> String {
        let entries = i64::try_from(self.cache.tokens.len()).unwrap_or(i64::MAX);
        self.metrics.cache_entries.set(entries);
        let restricted = i64::try_from(self.cache.accounts.len()).unwrap_or(i64::MAX);
        self.metrics.restricted_accounts.set(restricted);
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.imported_tokens.set(gauge(self.cache.imports.len()));
        self.metrics.import_filter_bytes.set(gauge(self.cache.imports.bytes()));
        if let Some(left) = self.replicas.lease_left() {
            self.metrics.lease(left);
        }
        self.metrics.token_denials_max.set(gauge(self.usage.token_denials_max()));
        let troubles = self.status.troubles();
        for kind in Trouble::KINDS {
            let now = troubles.iter().any(|(trouble, _)| trouble.name() == kind);
            self.metrics.store_trouble(kind, now);
        }
        self.metrics.render(exposition)
    }

    /// Whether mails are kept for operators to read, instead of being sent.
    pub fn keeps_mails(&self) -> bool {
        self.mailbox.is_some()
    }

    /// The mails that are kept, the newest first.
    pub fn kept_mails(&self) -> Vec<Arc<Message>> {
        self.mailbox.as_ref().map(|mailbox| mailbox.newest_first()).unwrap_or_default()
    }

    /// One of them.
    pub fn kept_mail(&self, id: Uuid) -> Option<Arc<Message>> {
        self.mailbox.as_ref()?.get(id)
    }
}
