//! The record of changes: audit events for people, change records for replicas.

use async_trait::async_trait;

use super::Result;
use crate::model::{AuditEvent, AuditFilter, ChangeRecord, Page};

/// The record of changes.
#[async_trait]
pub trait AuditStore {
    /// Audit events, the newest first.
    async fn audit_events(&self, filter: &AuditFilter, page: Page<i64>) -> Result<Vec<AuditEvent>>;

    /// The position of the newest change.
    async fn position(&self) -> Result<i64>;

    /// Change records behind `after`, in order.
    async fn changes(&self, after: i64, limit: u32) -> Result<Vec<ChangeRecord>>;
}
