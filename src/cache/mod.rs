//! What decisions are made from, in memory: token facts, credentials, the catalogue, and the keys of
//! secrets. Facts are cached, decisions never (docs/policy.md, rule 6.2).
//!
//! It only reads. Who changes the store (`crate::writes`, or another replica) calls [`Cache::invalidate`] after it.
//!
//! # Invariants
//! - When an invalidation returns, no decision rests on what was before the change.

mod accounts;
mod credentials;
mod entry;
mod imports;
mod near;
#[cfg(test)]
#[path = "near/scheduled.rs"]
mod near_scheduled;
#[cfg(test)]
#[path = "near/tests.rs"]
mod near_tests;
mod tokens;
mod use_counter;

/// What the near cache synchronises with. `near/scheduled.rs` compiles it with those of shuttle.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize};
    pub(super) use std::sync::{Mutex, MutexGuard};
}

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

pub use accounts::{Accounts, BorrowedAccounts, UnknownAccount};
pub use credentials::{Credentials, GatewayPrincipal, Principal};
pub use entry::{AddressMark, CachedToken, CollectedUses};
pub use imports::{Imports, Membership};
pub use tokens::{CacheEntry, Lookup, ReadError, TokenKey, Tokens};
pub use use_counter::BusyCounters;

/// Between two attempts to read back what was changed.
pub const REPAIR_PAUSE: Duration = Duration::from_millis(500);

/// Positions of imported tokens that are read at once: 24 bytes each, and about as many again on the wire.
const IMPORTS_PAGE: u32 = 50_000;

/// The catalogue in force, if any, while a decision borrows it.
pub type BorrowedCatalog = arc_swap::Guard<Option<Arc<ActiveCatalog>>>;

use crate::model::{ActiveCatalog, ImportPosition, Invalidation};
use crate::policy::token::AccountRestriction;
use crate::secret::KeyRing;
use crate::store::{self, Store, StoreError};
use crate::telemetry::Metrics;

/// What decisions are made from. See the module.
#[derive(Debug)]
pub struct Cache {
    /// Token facts.
    pub tokens: Tokens,
    /// Which accounts are suspended or closed.
    pub accounts: Accounts,
    /// Who may call.
    pub credentials: Credentials,
    /// Which tokens are imported.
    pub imports: Imports,
    /// Up to where they were read. Held while they are.
    imports_read: Mutex<ImportPosition>,
    catalog: ArcSwapOption<ActiveCatalog>,
    keys: ArcSwap<KeyRing>,
    /// Held while something of which there is one, or few, is read and put in memory: reads that
    /// overlapped could be taken over in the wrong order.
    turn: Mutex<()>,
    loaded_revision: i64,
    store: Arc<dyn Store>,
}

impl Cache {
    /// Reads what is kept in memory whole: credentials, catalogue, keys. Tokens come as they are
    /// asked for. `runtime` is where the store is spoken to.
    ///
    /// # Errors
    /// The store's; [`StoreError::Internal`] where it has no key yet.
    pub async fn load(
        store: Arc<dyn Store>,
        capacity: u64,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> store::Result<Self> {
        let loaded_revision = store.position().await?;
        let imported = read_imports(&*store, ImportPosition::START).await?;
        let cache = Self {
            tokens: Tokens::new(store.clone(), capacity, metrics, runtime),
            accounts: Accounts::new(store.restricted_accounts().await?),
            credentials: Credentials::new(store.live_credentials().await?),
            imports: Imports::new(&imported),
            imports_read: Mutex::new(imported.last().copied().unwrap_or(ImportPosition::START)),
            catalog: ArcSwapOption::empty(),
            keys: ArcSwap::from_pointee(read_keys(&*store).await?),
            turn: Mutex::new(()),
            loaded_revision,
            store,
        };
        cache.read_catalog().await?;
        Ok(cache)
    }

    /// The catalogue in force; `None` while it is not known, when nothing can be decided.
    pub fn catalog(&self) -> Option<Arc<ActiveCatalog>> {
        self.catalog.load_full()
    }

    /// The same without counting a reference, for a decision that ends at once.
    pub fn borrow_catalog(&self) -> BorrowedCatalog {
        self.catalog.load()
    }

    /// The keys that secrets are made under.
    pub fn keys(&self) -> arc_swap::Guard<Arc<KeyRing>> {
        self.keys.load()
    }

    /// Reads the catalogue in force from the store.
    ///
    /// # Errors
    /// The store's.
    pub async fn read_catalog(&self) -> store::Result<()> {
        let _turn = self.turn.lock().await;
        self.take_catalog().await
    }

    /// In a turn.
    async fn take_catalog(&self) -> store::Result<()> {
        let stored = self.store.catalog().await?;
        let active = stored.map(ActiveCatalog::read).transpose();
        let active = active.map_err(|error| StoreError::Internal(Box::new(error)))?;
        self.catalog.store(active.map(Arc::new));
        Ok(())
    }

    /// The revision that the store had when this was loaded: memory follows every change up to it.
    pub fn loaded_revision(&self) -> i64 {
        self.loaded_revision
    }

    /// The store's newest revision.
    ///
    /// # Errors
    /// The store's.
    pub async fn store_revision(&self) -> store::Result<i64> {
        self.store.position().await
    }

    /// Makes memory follow a change that was committed. When this returns, no decision rests on what
    /// was before it: what could not be read back allows nothing until it can.
    pub async fn invalidate(self: &Arc<Self>, changed: Invalidation) {
        if let Err(error) = self.refresh(changed).await {
            tracing::warn!(%error, ?changed, "cannot read back what a change touched");
            match changed {
                Invalidation::Credential(id) => self.credentials.set(id, None),
                Invalidation::Account(id) => {
                    let _turn = self.turn.lock().await;
                    self.accounts.forget(id);
                }
                Invalidation::Catalog => self.catalog.store(None),
                Invalidation::Imports => self.imports.mark_incomplete(),
                Invalidation::Token(_) | Invalidation::SecretKeys | Invalidation::Nothing => {}
            }
            self.repair(changed);
        }
    }

    /// Reads back what was changed until that succeeds.
    fn repair(self: &Arc<Self>, changed: Invalidation) {
        let cache = self.clone();
        crate::shutdown::spawn("cache-repair", async move {
            while let Err(error) = cache.refresh(changed).await {
                tracing::debug!(%error, ?changed, "not repaired yet");
                tokio::time::sleep(REPAIR_PAUSE).await;
            }
        });
    }

    /// Replaces what memory has of `changed` by what the store has: at once, or where it is needed next.
    ///
    /// # Errors
    /// The store's; memory is as it was.
    pub async fn refresh(&self, changed: Invalidation) -> store::Result<()> {
        match changed {
            Invalidation::Token(id) => self.tokens.invalidate(id).await,
            Invalidation::Credential(id) => {
                let _turn = self.turn.lock().await;
                self.credentials.set(id, self.store.credential(id).await?);
            }
            Invalidation::Account(id) => {
                let _turn = self.turn.lock().await;
                let restriction = self.store.account_restriction(id).await?;
                self.accounts.set(id, restriction);
                // Rule 11.76 of docs/policy.md.
                if let Some(AccountRestriction::Closed { .. }) = restriction {
                    self.credentials.remove_account(id);
                }
            }
            Invalidation::Catalog => self.read_catalog().await?,
            Invalidation::SecretKeys => {
                let _turn = self.turn.lock().await;
                self.keys.store(Arc::new(read_keys(&*self.store).await?));
            }
            Invalidation::Imports => self.follow_imports().await?,
            Invalidation::Nothing => {}
        }
        Ok(())
    }

    /// Adds what was imported since the last reading. Rule 10.8 of docs/policy.md.
    async fn follow_imports(&self) -> store::Result<()> {
        let mut read = self.imports_read.lock().await;
        let added = read_imports(&*self.store, *read).await?;
        for position in &added {
            if self.imports.add(position.token_id) {
                self.tokens.invalidate(position.token_id).await;
            }
        }
        *read = added.last().copied().unwrap_or(*read);
        self.imports.mark_complete();
        Ok(())
    }

    /// Reads everything again, and forgets what was known before.
    ///
    /// # Errors
    /// The store's; try again, since a part may be known again by then.
    pub async fn reload(&self) -> store::Result<()> {
        let _turn = self.turn.lock().await;
        let restricted = self.store.restricted_accounts().await?;
        let mut imports_read = self.imports_read.lock().await;
        let credentials = self.store.live_credentials().await?;
        let keys = read_keys(&*self.store).await?;
        let imported = read_imports(&*self.store, ImportPosition::START).await?;
        self.take_catalog().await?;
        self.credentials.set_all(credentials);
        self.imports.replace(&imported);
        *imports_read = imported.last().copied().unwrap_or(ImportPosition::START);
        self.keys.store(Arc::new(keys));
        self.tokens.invalidate_all();
        // After the tokens: a closed account may be left out that had active ones in memory.
        self.accounts.set_all(restricted);
        Ok(())
    }
}

/// The positions of all imported tokens behind `after`.
async fn read_imports(
    store: &dyn Store,
    after: ImportPosition,
) -> store::Result<Vec<ImportPosition>> {
    let mut positions = Vec::new();
    loop {
        let last = positions.last().copied().unwrap_or(after);
        let page = store.imported_tokens(last, IMPORTS_PAGE).await?;
        let more = page.len() >= IMPORTS_PAGE as usize;
        positions.extend(page);
        if !more {
            return Ok(positions);
        }
    }
}

async fn read_keys(store: &dyn Store) -> store::Result<KeyRing> {
    KeyRing::new(&store.secret_keys().await?)
        .ok_or_else(|| StoreError::Internal("the store has no secret key".into()))
}
