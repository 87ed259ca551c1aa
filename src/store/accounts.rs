//! Accounts and their admins.

use async_trait::async_trait;

use super::Result;
use crate::model::{Account, AdminsSet, Context, Page};
use crate::policy::id::AccountId;

/// Accounts and their admins.
#[async_trait]
pub trait AccountStore {
    /// Creates an account.
    async fn create_account(&self, ctx: &Context, new: &Account) -> Result<()>;

    /// One account.
    async fn account(&self, id: AccountId) -> Result<Option<Account>>;

    /// Accounts, the oldest first; only `only` where given.
    async fn accounts(
        &self,
        only: Option<AccountId>,
        page: Page<AccountId>,
    ) -> Result<Vec<Account>>;

    /// Replaces an account's admins; `None` where there is no such account. Who joins gets a notice of
    /// each announced action, and holds it until that is accepted; who leaves gets no more of them;
    /// both are notified of the change.
    async fn set_account_admins(
        &self,
        ctx: &Context,
        id: AccountId,
        admins: &[String],
    ) -> Result<Option<AdminsSet>>;
}
