//! The record of changes: audit events for people, change records for replicas.

use async_trait::async_trait;

use super::Result;
use crate::model::{AuditChain, AuditEvent, AuditFilter, ChangeRecord, Context, Page};
use crate::policy::time::Timestamp;

/// The record of changes.
#[async_trait]
pub trait AuditStore {
    /// Audit events, the newest first unless the filter says otherwise.
    async fn audit_events(&self, filter: &AuditFilter, page: Page<i64>) -> Result<Vec<AuditEvent>>;

    /// How far the chain over them goes.
    async fn audit_chain(&self) -> Result<AuditChain>;

    /// Seals up to `limit` events that have no hash, the oldest first: those from before the chain, and those of
    /// programs that lack it. How many were sealed; changes seal their events themselves once nothing is left.
    async fn seal_audit_events(&self, limit: u32) -> Result<u32>;

    /// Removes up to `limit` of the oldest events, from before `before`, and records where the rest of the chain
    /// begins. Nothing where only records of earlier removals are that old. How many were removed.
    async fn prune_audit_events(&self, ctx: &Context, before: Timestamp, limit: u32)
    -> Result<u32>;

    /// The position of the newest change.
    async fn position(&self) -> Result<i64>;

    /// Change records behind `after`, in order.
    async fn changes(&self, after: i64, limit: u32) -> Result<Vec<ChangeRecord>>;
}
