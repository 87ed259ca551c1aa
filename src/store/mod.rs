//! Where everything is kept: a trait of whole use cases for each aggregate, and the two databases behind them.
//!
//! Architecture invariants:
//! - A method is one use case in one transaction. Each management change first takes the head row,
//!   so changes are made one after another and their positions are their order of commit; it then
//!   writes its audit record and its change record in that same transaction.
//! - Rules are asked of `policy` inside the transaction, with the catalogue version checked there:
//!   a change is never made on a catalogue that is not the one in force.
//! - Only digests of secrets come here, never secrets.
//! - Ids that the caller may not see are absent: a method given an account answers for that account
//!   as though no other existed.
//! - Times are the caller's `now`, which `crate::clock` carries forward from [`Store::now`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Stopwatch;
use crate::model::{Context, StoreMode};
use crate::policy::time::Timestamp;
use crate::telemetry::{Metrics, traces};

mod accounts;
mod activity;
mod audit;
mod catalogs;
mod credentials;
mod error;
pub mod inspection;
mod leaks;
mod lifecycle;
mod mails;
mod migration;
pub mod postgres;
pub mod replication;
mod sessions;
pub mod sqlite;
mod tokens;
mod trouble;
mod webhooks;

pub use accounts::AccountStore;
pub use activity::ActivityStore;
pub use audit::AuditStore;
pub use catalogs::CatalogStore;
pub use credentials::CredentialStore;
pub use error::OpenError;
pub use leaks::LeakStore;
pub use lifecycle::LifecycleStore;
pub use mails::MailStore;
pub use replication::Replication;
pub use sessions::SessionStore;
pub use tokens::TokenStore;
pub use trouble::Trouble;
use trouble::Troubles;
pub use webhooks::{MAX_WEBHOOKS, WebhookStore};

/// Why the store gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, is too slow, full, read-only or shutting down: worth another try.
    #[error("the store gives no service{}: {}", trouble::in_brackets(.0), .0)]
    Unavailable(#[source] sqlx::Error),
    /// It gave no answer to the last word of a change, which may have been carried out.
    #[error("whether the store made the change is not known{}: {}", trouble::in_brackets(.0), .0)]
    Unknown(#[source] sqlx::Error),
    /// It answered what it never should: an error of this program or of its data.
    #[error("the store answered what it should not")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The catalogue in force is not the one that the caller decided with. Read it and ask again.
    #[error("the catalogue has changed meanwhile")]
    StaleCatalog,
}

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Measures one use of the store as `operation`, and traces it. A stale catalogue is no failure of the store.
pub async fn timed<T>(
    metrics: &Metrics,
    operation: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let measured = async {
        let watch = Stopwatch::start();
        let result = work.await;
        let failed = matches!(&result, Err(e) if !matches!(e, StoreError::StaleCatalog));
        metrics.stored(operation, watch.elapsed(), failed);
        if failed {
            traces::failed();
        }
        result
    };
    traces::step(operation, measured).await
}

/// Everything that is kept: the aggregates, and what concerns the store as a whole. See the module for what holds of
/// every method.
#[async_trait]
pub trait Store:
    AccountStore
    + TokenStore
    + LifecycleStore
    + ActivityStore
    + MailStore
    + CredentialStore
    + LeakStore
    + SessionStore
    + CatalogStore
    + AuditStore
    + WebhookStore
    + Send
    + Sync
    + std::fmt::Debug
    + 'static
{
    /// The store's own time.
    async fn now(&self) -> Result<Timestamp>;

    /// What the store is marked as, if it was marked.
    async fn mark(&self) -> Result<Option<StoreMode>>;

    /// Marks the store, once. Marking it as what it is already changes nothing.
    async fn set_mark(&self, mark: StoreMode) -> Result<()>;

    /// Waits until every change under way has ended, committed or not: also those of which this
    /// process has lost track. Commits something that changes nothing: what could be read before it is
    /// as safe from a failover as what was answered.
    async fn await_pending_changes(&self, ctx: &Context) -> Result<()>;

    /// What ails the database now, and for how long, as use cases found. Read from memory.
    fn troubles(&self) -> Vec<(Trouble, Duration)>;

    /// Where something ails the database: makes a change that changes nothing, to see whether it lasts.
    async fn probe(&self, ctx: &Context);

    /// What the replicas that share the store exchange through it; `None` where only this
    /// process has it.
    fn replication(&self) -> Option<Arc<dyn Replication>>;

    /// Stops using the store; what is under way ends first.
    async fn close(&self);
}
