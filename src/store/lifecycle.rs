//! Recorded use, and what follows from its absence: announced actions, and the end of tokens.

use async_trait::async_trait;

use super::Result;
use crate::model::{
    CarriedOut, Context, IdleToken, NoLongerHeld, Page, PendingAction, PendingCounts,
    PendingFilter, Use,
};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::lifecycle::Settings;
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;

/// Recorded use, announced actions and what becomes of them. Why the methods are safe against each other: `sql/lifecycle`.
#[async_trait]
pub trait LifecycleStore {
    /// Pending actions that are neither carried out nor cancelled, in the order of their announcement.
    async fn pending_actions(
        &self,
        filter: &PendingFilter,
        page: Page<PendingActionId>,
    ) -> Result<Vec<PendingAction>>;

    /// How many of them there are.
    async fn count_pending(&self) -> Result<PendingCounts>;

    /// Records uses, in any order and as often as one likes: what is known only moves forward. Tokens
    /// that are gone are passed over. Leaves no record. The tokens with an announced action that
    /// recorded use has overtaken: hand each to [`Self::cancel_overtaken`].
    async fn record_uses(&self, uses: &[Use]) -> Result<Vec<TokenId>>;

    /// Ends or shrinks the announced actions that recorded use has overtaken, and takes back their
    /// notices. `false`, and no record, where there was nothing to do.
    async fn cancel_overtaken(&self, ctx: &Context, id: TokenId) -> Result<bool>;

    /// The same for one use that fits an announced action, before its ALLOW is answered: records it and
    /// cancels. Whether anything was overtaken. [`NoLongerHeld`], with nothing recorded, where the token is
    /// deleted or expired, or `catalog`, which must be in force, no longer gives it the scope.
    async fn record_use_of_announced(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        used: &Use,
    ) -> Result<Result<bool, NoLongerHeld>>;

    /// Active tokens that may be idle since `before` or longer, the longest first: candidates for
    /// [`Self::announce`], or for [`Self::reschedule`] where their usage state says that nothing is due. Before
    /// all others those that [`Self::record_uses`] returned and whose actions were not cancelled yet.
    async fn idle_tokens(&self, before: Timestamp, limit: u32) -> Result<Vec<IdleToken>>;

    /// Computes again since when these tokens are idle, so that [`Self::idle_tokens`] does not find
    /// them again before their time. Leaves no record.
    async fn reschedule(&self, ids: &[TokenId]) -> Result<()>;

    /// Plans a token's lifecycle again, and announces what is due with a notice to each admin. `None`
    /// where nothing is, or `settings` only observe. `catalog`, which must be in force, says what is
    /// a write.
    async fn announce(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        id: TokenId,
        settings: &Settings,
    ) -> Result<Option<PendingAction>>;

    /// Announced actions that may be carried out at `now`, with their tokens: deletions first, then
    /// by acceptance. None of them is found again once [`Self::carry_out`] was called with it, except
    /// a downgrade beside a deletion.
    async fn due_actions(
        &self,
        settings: &Settings,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(PendingActionId, TokenId)>>;

    /// Carries an action out, with a mail to each admin, unless a use, an admin or the owner came
    /// between: everything is checked again. `catalog` must be in force.
    async fn carry_out(
        &self,
        ctx: &Context,
        id: PendingActionId,
        catalog: &Catalog,
        settings: &Settings,
    ) -> Result<CarriedOut>;

    /// Withdraws every announced action, for at most `limit` tokens: those.
    async fn withdraw_actions(&self, ctx: &Context, limit: u32) -> Result<Vec<TokenId>>;

    /// Queues a notice to each admin for tokens that expire by `until` and whose present expiry has none, at most
    /// `limit`. How many tokens these were.
    async fn announce_expiries(&self, ctx: &Context, until: Timestamp, limit: u32) -> Result<u32>;

    /// Records that tokens reached their expiry, at most `limit`, with a mail to each admin, and withdraws what is
    /// announced for them, so that [`Self::idle_tokens`] no longer finds them. The tokens.
    async fn record_expiries(&self, ctx: &Context, limit: u32) -> Result<Vec<TokenId>>;

    /// Forgets tokens deleted or expired before `before`, and ended mails about no token that were queued before
    /// it; at most `limit` of each. The tokens.
    async fn purge(&self, ctx: &Context, before: Timestamp, limit: u32) -> Result<Vec<TokenId>>;

    /// Active tokens, the oldest first, as the preview needs them.
    async fn active_tokens(
        &self,
        only: Option<AccountId>,
        page: Page<TokenId>,
    ) -> Result<Vec<IdleToken>>;
}
