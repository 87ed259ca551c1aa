//! Accounts and their admins.

use async_trait::async_trait;

use super::Result;
use crate::model::{Account, AccountRefusal, AdminsSet, CloseRefusal, ClosureStep, Context, Page};
use crate::policy::id::AccountId;
use crate::policy::token::AccountRestriction;

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

    /// Every account that is suspended, or closed with tokens that are not deleted yet.
    async fn restricted_accounts(&self) -> Result<Vec<(AccountId, AccountRestriction)>>;

    /// Why no token of an account may be used; `None` where that is not so, and where there is no such account.
    async fn account_restriction(&self, id: AccountId) -> Result<Option<AccountRestriction>>;

    /// How many tokens of an account are not deleted.
    async fn count_tokens(&self, id: AccountId) -> Result<u64>;

    /// Gives an account another name. The one that it has leaves no record.
    async fn update_account(
        &self,
        ctx: &Context,
        id: AccountId,
        name: &str,
    ) -> Result<Result<Account, AccountRefusal>>;

    /// Suspends an account. A suspended one stays as it is.
    async fn suspend_account(
        &self,
        ctx: &Context,
        id: AccountId,
    ) -> Result<Result<Account, AccountRefusal>>;

    /// Ends its suspension. One that is not suspended stays as it is.
    async fn resume_account(
        &self,
        ctx: &Context,
        id: AccountId,
    ) -> Result<Result<Account, AccountRefusal>>;

    /// Closes an account, and revokes its admins' credentials, where `confirmation` is its name. A closed one stays as
    /// it is. Its tokens are deleted by [`Self::continue_closure`]; until then no decision allows them
    /// anything, since it is restricted.
    async fn close_account(
        &self,
        ctx: &Context,
        id: AccountId,
        confirmation: &str,
    ) -> Result<Result<Account, CloseRefusal>>;

    /// Withdraws mails and deletes tokens, at most `limit` of each, of a closed account: of `only`, or of any whose closure
    /// is not complete; `None` where there is none.
    async fn continue_closure(
        &self,
        ctx: &Context,
        only: Option<AccountId>,
        limit: u32,
    ) -> Result<Option<ClosureStep>>;

    /// Marks the closure of an account as complete, once its tokens are deleted and its mails withdrawn, and
    /// [`ActivityStore::erase_activity`](super::ActivityStore::erase_activity) is done. `false` where something is left.
    async fn complete_closure(&self, ctx: &Context, id: AccountId) -> Result<bool>;

    /// Replaces an account's admins; refused for a closed account. Who joins gets a notice of
    /// each announced action, and holds it until that is accepted; who leaves gets no more of them;
    /// both are notified of the change.
    async fn set_account_admins(
        &self,
        ctx: &Context,
        id: AccountId,
        admins: &[String],
    ) -> Result<Result<AdminsSet, AccountRefusal>>;
}
