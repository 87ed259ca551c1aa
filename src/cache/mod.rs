//! What decisions are made from, in memory: token facts, credentials, the catalogue, and the keys of
//! secrets. Facts are cached, decisions never (docs/policy.md, rule 6.2).
//!
//! Must stay true: once a change has been answered, no decision rests on what was before it. Every
//! change goes through [`Cache::change`] or [`Cache::changed`], whichever replica made it.

mod changes;
mod credentials;
mod entry;
mod near;
#[cfg(test)]
#[path = "near/scheduled.rs"]
mod near_scheduled;
#[cfg(test)]
#[path = "near/tests.rs"]
mod near_tests;
mod tokens;

/// What the near cache synchronises with. `near/scheduled.rs` compiles it with those of shuttle.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize};
    pub(super) use std::sync::{Mutex, MutexGuard};
}

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use changes::Changes;
pub use changes::UnderWay;
pub use credentials::{Credentials, GatewayPrincipal, Principal};
pub use entry::CachedToken;
pub use tokens::{CacheEntry, Lookup, ReadError, Tokens};

/// The catalogue in force, if any, while a decision borrows it.
pub type BorrowedCatalog = arc_swap::Guard<Option<Arc<ActiveCatalog>>>;

use crate::model::{ActiveCatalog, Context, Invalidation};
use crate::secret::KeyRing;
use crate::store::{self, Store, StoreError};
use crate::telemetry::Metrics;

/// What decisions are made from. See the module.
#[derive(Debug)]
pub struct Cache {
    /// Token facts.
    pub tokens: Tokens,
    /// Who may call.
    pub credentials: Credentials,
    catalog: ArcSwapOption<ActiveCatalog>,
    keys: ArcSwap<KeyRing>,
    /// Held while something of which there is one, or few, is read and put in memory: reads that
    /// overlapped could be taken over in the wrong order.
    turn: Mutex<()>,
    changes: Changes,
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
        let position = store.position().await?;
        let cache = Self {
            tokens: Tokens::new(store.clone(), capacity, metrics, runtime),
            credentials: Credentials::new(store.live_credentials().await?),
            catalog: ArcSwapOption::empty(),
            keys: ArcSwap::from_pointee(read_keys(&*store).await?),
            turn: Mutex::new(()),
            changes: Changes::default(),
            store,
        };
        cache.read_catalog().await?;
        cache.changes.note_followed(position);
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

    /// Makes a change of what `touched` says, and memory follow before it returns: also where the
    /// outcome is not known. Must run to its end, so callers spawn it.
    ///
    /// # Errors
    /// Those of `change`.
    pub async fn change<T>(
        self: &Arc<Self>,
        touched: Invalidation,
        ctx: &Context,
        change: impl Future<Output = store::Result<T>>,
    ) -> store::Result<T> {
        let under_way = self.changes.begin();
        let result = change.await;
        match &result {
            Ok(_) => {
                self.changed(touched).await;
                under_way.end(ctx.revision());
            }
            Err(StoreError::StaleCatalog) => {}
            // What was before it counts, since nobody was told otherwise, until the store has said
            // what holds: it may be committed, or yet be.
            Err(_) => self.repair(touched, Some((ctx.clone(), under_way))),
        }
        result
    }

    /// For a change that says by itself what it touched: to be kept from before it is made until
    /// [`Self::changed`] was called with that.
    pub fn changing(&self) -> UnderWay {
        self.changes.begin()
    }

    /// The position up to which decisions rest on every change.
    ///
    /// # Errors
    /// The store's.
    pub async fn known_position(&self) -> store::Result<i64> {
        let position = self.store.position().await?;
        // Whatever was committed by then had begun before.
        self.changes.followed().await;
        self.changes.note_followed(position);
        Ok(position)
    }

    /// A revision up to which decisions rest on every change, where only this process has the store. Read
    /// from memory; there may be later ones: see [`Self::known_position`].
    pub fn revision(&self) -> i64 {
        self.changes.revision()
    }

    /// Makes memory follow a change that was committed. When this returns, no decision rests on what
    /// was before it: what could not be read back allows nothing until it can.
    pub async fn changed(self: &Arc<Self>, touched: Invalidation) {
        if let Err(error) = self.read_back(touched).await {
            tracing::warn!(%error, ?touched, "cannot read back what a change touched");
            match touched {
                Invalidation::Credential(id) => self.credentials.set(id, None),
                Invalidation::Catalog => self.catalog.store(None),
                Invalidation::Token(_) | Invalidation::SecretKeys | Invalidation::Nothing => {}
            }
            self.repair(touched, None);
        }
    }

    /// Reads everything again, and forgets what was known before.
    ///
    /// # Errors
    /// The store's; try again, since a part may be known again by then.
    pub async fn reload(&self) -> store::Result<()> {
        let _turn = self.turn.lock().await;
        let credentials = self.store.live_credentials().await?;
        let keys = read_keys(&*self.store).await?;
        self.take_catalog().await?;
        self.credentials.set_all(credentials);
        self.keys.store(Arc::new(keys));
        self.tokens.invalidate_all();
        Ok(())
    }

    fn repair(self: &Arc<Self>, touched: Invalidation, unsettled: Option<(Context, UnderWay)>) {
        let cache = self.clone();
        crate::shutdown::spawn("cache-repair", async move {
            loop {
                let settled = match &unsettled {
                    Some((ctx, _)) => cache.store.settle(ctx).await,
                    None => Ok(()),
                };
                let repaired = match settled {
                    Ok(()) => cache.read_back(touched).await,
                    Err(error) => Err(error),
                };
                match repaired {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%error, ?touched, "not repaired yet"),
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }

    async fn read_back(&self, touched: Invalidation) -> store::Result<()> {
        match touched {
            Invalidation::Token(id) => self.tokens.invalidate(id).await,
            Invalidation::Credential(id) => {
                let _turn = self.turn.lock().await;
                self.credentials.set(id, self.store.credential(id).await?);
            }
            Invalidation::Catalog => self.read_catalog().await?,
            Invalidation::SecretKeys => {
                let _turn = self.turn.lock().await;
                self.keys.store(Arc::new(read_keys(&*self.store).await?));
            }
            Invalidation::Nothing => {}
        }
        Ok(())
    }
}

async fn read_keys(store: &dyn Store) -> store::Result<KeyRing> {
    KeyRing::new(&store.secret_keys().await?)
        .ok_or_else(|| StoreError::Internal("the store has no secret key".into()))
}
