//! The one transaction by which the store's use cases change anything: it takes the head row first and leaves an audit
//! record and a change record for each position it takes. The layer above that also makes memory follow is
//! `crate::writes`.
//!
//! A change holds one position that it may use. How it goes on:
//!
//! | call | records | position | transaction |
//! | --- | --- | --- | --- |
//! | [`WriteTx::record_part`] | one part, at the position | the next one is taken | goes on |
//! | [`WriteTx::commit`] | the rest, at the position | used | committed |
//! | [`WriteTx::finish`] | nothing | given back: nobody has seen it | committed |
//! | [`WriteTx::undo`] | nothing, not even parts | given back | rolled back |
//!
//! `commit` and `finish` store the revision that was reached in the [`Context`], from which the caller reads it.
//!
//! What must stay true: changes are made one after another, because each holds the head row until it
//! ends; a position is in the record exactly if its change was committed; what is dropped half-way
//! is rolled back. Rule 5.2 of docs/policy.md.

use std::time::Duration;

use serde_json::Value;
use sqlx::FromRow;

use super::audit::{Chain, ChainRow};
use super::{Db, Handle, Transaction};
use crate::model::{Actor, AuditAction, AuditEvent, Context, Invalidation, RecordedAction};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::scope::Catalog;
use crate::store::{Result, StoreError};

/// How long the database may take to make a change final. Less than a use case may take in all, so that
/// this is what a slow one is reported as.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A change under way.
pub(super) struct WriteTx<'c> {
    /// In which everything is read and written.
    pub(super) tx: Transaction,
    store: &'c Handle,
    pub(super) ctx: &'c Context,
    /// Of the catalogue in force; 0 for none.
    pub(super) catalog_version: i64,
    position: i64,
    /// As the head row has it, which this change holds: no other can extend it from the same event.
    pub(super) chain: Chain,
}

/// What a change says of itself.
pub(super) struct Record {
    pub(super) action: AuditAction,
    pub(super) touched: Invalidation,
    pub(super) account_id: Option<AccountId>,
    pub(super) token_id: Option<TokenId>,
    /// The changed part, before and after. Never a digest or a key.
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

const TAKE_HEAD: &str = "\
    UPDATE head SET position = position + 1 WHERE id = 1 \
    RETURNING position, catalog_version, installation_id, chain_position, chain_hash";

const GIVE_BACK: &str = "UPDATE head SET position = position - 1 WHERE id = 1";

/// A trigger on the table moves the head of the chain to an event that has a hash
/// (`migrations/postgres/0017_audit_chain.sql`).
const INSERT_AUDIT_EVENT: &str = "\
    INSERT INTO audit_event (position, time, action, actor, actor_role, client_address, \
        account_id, token_id, before_json, after_json, hash, pending_action_id) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

/// On Postgres the columns `writer` and `nonce` have defaults, and a trigger on the table notifies the replicas
/// (`migrations/postgres/0005_told.sql`).
const INSERT_CHANGE: &str =
    "INSERT INTO change (position, time, touched, key) VALUES ($1, $2, $3, $4)";

/// Waits until every change that took the head row before this call has ended.
pub(super) async fn await_pending_changes(store: &Handle, ctx: &Context) -> Result<()> {
    WriteTx::begin(store, ctx).await?.finish().await
}

impl<'c> WriteTx<'c> {
    /// Waits until no other change is under way.
    pub(super) async fn begin(store: &'c Handle, ctx: &'c Context) -> Result<Self> {
        let mut tx = store.write().await?;
        let HeadRow { position, catalog_version, chain } = take_head(&mut tx).await?;
        Ok(Self { tx, store, ctx, catalog_version, position, chain: chain.read()? })
    }

    /// What the next record of this change will have.
    pub(super) fn position(&self) -> i64 {
        self.position
    }

    /// Fails unless `catalog` is the one in force; it stays so until this change ends.
    pub(super) fn must_be_in_force(&self, catalog: &Catalog) -> Result<()> {
        if catalog.version() == self.catalog_version {
            Ok(())
        } else {
            Err(StoreError::StaleCatalog)
        }
    }

    /// Ends a change that is refused, or that changed nothing. Where the caller is answered that the state is as wanted
    /// already, [`Self::finish`] is called instead, which secures that. A failed rollback changes nothing either.
    pub(super) async fn undo(self) {
        if let Err(error) = self.tx.rollback().await {
            tracing::debug!(%error, "a rollback failed; the database ends the transaction itself");
        }
    }

    /// Makes the change final, with its record.
    pub(super) async fn commit(mut self, record: Record) -> Result<()> {
        self.record(record).await?;
        let revision = self.position;
        self.end(revision).await
    }

    /// Commits without another record, for one of three reasons: the change was recorded in parts; nobody caches what it
    /// changed; or the state was found as wanted, which a failover could lose until something is committed after it.
    /// Gives the unused position back.
    pub(super) async fn finish(mut self) -> Result<()> {
        sqlx::query::<Db>(GIVE_BACK).execute(&mut *self.tx).await?;
        let revision = self.position - 1;
        self.end(revision).await
    }

    /// Everything up to `revision` is committed when this succeeds.
    async fn end(self, revision: i64) -> Result<()> {
        let late = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        let committed = tokio::time::timeout(COMMIT_TIMEOUT, self.tx.commit()).await;
        match committed.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {
                self.store.troubles.changed();
                self.ctx.committed(revision);
                Ok(())
            }
            // An answer of the database is certain: it says that the change was not made.
            Err(error @ sqlx::Error::Database(_)) => Err(error.into()),
            // Rule 5.3 of docs/policy.md.
            Err(error) => Err(StoreError::Unknown(error)),
        }
    }

    /// Records a part of the change that replicas must learn of by itself, and takes the next
    /// position for the rest.
    pub(super) async fn record_part(&mut self, record: Record) -> Result<()> {
        self.record(record).await?;
        let HeadRow { position, chain, .. } = take_head(&mut self.tx).await?;
        (self.position, self.chain) = (position, chain.read()?);
        Ok(())
    }

    async fn record(&mut self, record: Record) -> Result<()> {
        let ctx = self.ctx;
        let (actor, role) = match ctx.actor {
            Actor::Credential(id, role) => (id.to_string(), role.name()),
            Actor::Bearer(id) => (id.to_string(), "bearer"),
            Actor::Development => ("development".into(), ""),
            Actor::System => ("system".into(), ""),
            Actor::SecretScanning => ("secret scanning".into(), ""),
            Actor::CommandLine => ("command line".into(), ""),
        };
        let action = [&record.after, &record.before].into_iter().flatten().find_map(action_of);
        let mut event = AuditEvent {
            position: self.position,
            time: ctx.now,
            action: RecordedAction::Known(record.action),
            actor,
            actor_role: role.to_owned(),
            client: ctx.client.map(|client| client.to_canonical().to_string()),
            account_id: record.account_id,
            token_id: record.token_id,
            before: record.before.map(|json| json.to_string()),
            after: record.after.map(|json| json.to_string()),
            hash: None,
        };
        event.hash = self.chain.next(&event);
        sqlx::query::<Db>(INSERT_AUDIT_EVENT)
            .bind(event.position)
            .bind(event.time.0)
            .bind(event.action.as_str())
            .bind(&event.actor)
            .bind(&event.actor_role)
            .bind(&event.client)
            .bind(event.account_id.map(|id| id.0))
            .bind(event.token_id.map(|id| id.0))
            .bind(&event.before)
            .bind(&event.after)
            .bind(event.hash.as_ref().map(|hash| hash.as_bytes().to_vec()))
            .bind(action.map(|id| id.0))
            .execute(&mut *self.tx)
            .await?;
        ctx.touch(record.touched);
        let (touched, key) = record.touched.written();
        sqlx::query::<Db>(INSERT_CHANGE)
            .bind(self.position)
            .bind(ctx.now.0)
            .bind(touched)
            .bind(key)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}

#[derive(FromRow)]
struct HeadRow {
    position: i64,
    catalog_version: i64,
    #[sqlx(flatten)]
    chain: ChainRow,
}

/// The action that a part of a record names; the first one, where a use cancelled or shrank several.
pub(super) fn action_of(part: &Value) -> Option<PendingActionId> {
    let first = |name| part.get(name)?.as_array()?.first();
    let named = part.get("pending_action_id");
    let id = named.or_else(|| first("cancelled")).or_else(|| first("shrunk"))?;
    id.as_str()?.parse().ok()
}

async fn take_head(tx: &mut Transaction) -> Result<HeadRow> {
    Ok(sqlx::query_as(TAKE_HEAD).fetch_one(&mut **tx).await?)
}
