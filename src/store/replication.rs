//! What the replicas that share a store exchange through it. The protocol: docs/consistency.md.
//!
//! Must stay true: each call answers or fails within some seconds; each write names the store that its writer believes in, and changes nothing in
//! another one; the head is read after the row was written, in a statement of its own.

use async_trait::async_trait;
use uuid::Uuid;

use super::Result;
use crate::lease::{Head, Identity, LeaseDuration, Position, Row, RowId};
use crate::model::ChangeRecord;

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Its name, for people.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// The lifecycle settings: those of all replicas must be the same.
    pub lifecycle: String,
}

/// A replica as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaRow {
    /// What the protocol needs.
    pub row: Row,
    /// What it said of itself.
    pub about: ReplicaInfo,
}

/// All rows and the head's position, as they stood at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Every replica.
    pub rows: Vec<ReplicaRow>,
    /// Of the newest change.
    pub head: Position,
}

/// A notification of a change, sent by the store or by anybody else who may connect to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeNotification {
    /// The change.
    pub change: ChangeRecord,
    /// The session that sent it. Only the change's writer is believed, which sends nothing before it is visible.
    pub writer: i32,
    /// A random value that nobody knows before it is committed: it distinguishes changes that two servers gave the same
    /// position.
    pub nonce: Uuid,
}

/// A part of the record, and the head's position at the same instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeLogPage {
    /// Changes in order.
    pub changes: Vec<ChangeRecord>,
    /// Of the newest change.
    pub head: Position,
}

/// See the module.
#[async_trait]
pub trait Replication: Send + Sync + std::fmt::Debug + 'static {
    /// Inserts a row under a new name, resting on `applied`, or on the head where that is `None`;
    /// then reads the head.
    async fn register(
        &self,
        id: RowId,
        length: LeaseDuration,
        applied: Option<Position>,
        about: &ReplicaInfo,
    ) -> Result<Head>;

    /// Adds one to the row's renewals, and acknowledges `applied`; then reads the head. `None` at once where
    /// there is no such row in that store.
    async fn renew(
        &self,
        id: RowId,
        store: Identity,
        applied: Option<Position>,
    ) -> Result<Option<Head>>;

    /// Acknowledges `applied`. Changes nothing where there is no such row in that store.
    async fn acknowledge(&self, id: RowId, store: Identity, applied: Position) -> Result<()>;

    /// Acknowledges one change that was made effective after its notification, if the record says the same of
    /// it. Whether it did; `false` as well where there is no such row in that store.
    async fn acknowledge_notified(
        &self,
        id: RowId,
        store: Identity,
        notification: ChangeNotification,
    ) -> Result<bool>;

    /// Every row, in one statement with the head.
    async fn rows(&self) -> Result<Rows>;

    /// At most `limit` changes behind `after`, in one statement with the head; `None` where it is
    /// another store.
    async fn behind(
        &self,
        after: Position,
        store: Identity,
        limit: u32,
    ) -> Result<Option<ChangeLogPage>>;

    /// Deletes a row; with `renewals` only if it has that many.
    async fn remove(&self, id: RowId, renewals: Option<u64>) -> Result<bool>;

    /// Forgets a part of the record that every replica has applied, and keeps the newest of it. How many
    /// changes were forgotten.
    async fn prune(&self) -> Result<u64>;

    /// Waits until the store notifies of changes: of which one, where it was one; `None` where there may be more
    /// than that. Notifications may be missing, repeated and late, and anybody who may connect to the
    /// database can send an untrue one.
    async fn next_notification(&self) -> Option<ChangeNotification>;

    /// Makes new connections from now on, for reads and notifications: those that there are, and those that
    /// are being made, may lead to a store that is none any more.
    fn reconnect(&self);
}
