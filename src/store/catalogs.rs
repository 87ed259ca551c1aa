//! The catalogue of scopes and routes.

use async_trait::async_trait;

use super::Result;
use crate::model::{Context, GrantCounts, ScopesInUse, StoredCatalog};
use crate::policy::scope::ScopeName;

/// The catalogue of scopes and routes.
#[async_trait]
pub trait CatalogStore {
    /// The catalogue in force; `None` where none was ever applied.
    async fn catalog(&self) -> Result<Option<StoredCatalog>>;

    /// Puts a catalogue in force that `policy` found faultless. `names` are all its scopes: known
    /// ones keep their numbers, new ones get numbers that no other name ever had. `current` is the
    /// version that the caller compared it with, `None` for none; another one is
    /// [`StaleCatalog`](super::StoreError::StaleCatalog). Refused where an active `CUSTOM` token may use a scope that
    /// `names` lacks.
    async fn apply_catalog(
        &self,
        ctx: &Context,
        current: Option<i64>,
        toml: &str,
        names: &[ScopeName],
    ) -> Result<Result<StoredCatalog, ScopesInUse>>;

    /// How many active tokens have which grant: what narrowing and widening are counted by. Read
    /// outside the transaction of `apply_catalog`, which checks the rule that must hold by itself.
    async fn count_grants(&self) -> Result<GrantCounts>;
}
