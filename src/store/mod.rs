//! Where everything is kept: one trait of whole use cases, and the two databases behind it.
//!
//! Architecture invariants:
//! - A method is one use case in one transaction. Each management change first takes the head row,
//!   so changes are made one after another and their positions are their order of commit; it then
//!   writes its audit record and its change record in that same transaction.
//! - Rules are asked of `policy` inside the transaction, with the catalogue version checked there:
//!   a change is never made on a catalogue that is not the one in force.
//! - Only digests of secrets come here, never secrets.
//! - Ids that the caller may not see are absent: a method given an account answers for that account
//!   as though no other existed.
//! - Times are the caller's `now`, which `crate::clock` carries forward from [`Store::now`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Stopwatch;
use crate::model::{
    Account, AccountNotFound, AdminsSet, AuditEvent, AuditFilter, CarriedOut, ChangeRecord,
    Context, Credential, FoundTokens, Gone, GrantCounts, IdleToken, LastOperatorCredential, Mail,
    MailFailure, MailState, NewSession, NewToken, Page, PendingAction, PendingCounts,
    PendingFilter, ScopesInUse, Session, SettingsCredential, StoreMode, StoredCatalog, Token,
    TokenFilter, TokenSearch, Use, WhitelistChanged, WhitelistRefused, WhitelistTarget,
};
use crate::policy::id::{AccountId, CredentialId, MailId, PendingActionId, TokenId};
use crate::policy::lifecycle::{Calendar, Settings};
use crate::policy::network::{Change, Limits};
use crate::policy::scope::{Catalog, ScopeName};
use crate::policy::time::Timestamp;
use crate::policy::token::TokenFacts;
use crate::secret::{Digest, SecretKey};
use crate::telemetry::Metrics;

mod error;
mod migration;
pub mod postgres;
pub mod replication;
pub mod sqlite;
mod trouble;

pub use error::OpenError;
pub use replication::Replication;
pub use trouble::Trouble;
use trouble::Troubles;

/// Why the store gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, is too slow, full, read-only or shutting down: worth another try.
    #[error("the store gives no service{}: {}", trouble::in_brackets(.0), .0)]
    Unavailable(#[source] sqlx::Error),
    /// It gave no answer to the last word of a change, which may have been carried out.
    #[error("whether the store made the change is not known{}: {}", trouble::in_brackets(.0), .0)]
    Unknown(#[source] sqlx::Error),
    /// It answered what it never should: an error of this program or of its data.
    #[error("the store answered what it should not")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The catalogue in force is not the one that the caller decided with. Read it and ask again.
    #[error("the catalogue has changed meanwhile")]
    StaleCatalog,
}

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Measures one use of the store as `operation`. A stale catalogue is no failure of the store.
pub async fn timed<T>(
    metrics: &Metrics,
    operation: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let watch = Stopwatch::start();
    let result = work.await;
    let failed = matches!(&result, Err(e) if !matches!(e, StoreError::StaleCatalog));
    metrics.stored(operation, watch.elapsed(), failed);
    result
}

/// Everything that is kept. See the module for what holds of every method.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// The store's own time.
    async fn now(&self) -> Result<Timestamp>;

    /// What the store is marked as, if it was marked.
    async fn mark(&self) -> Result<Option<StoreMode>>;

    /// Marks the store, once. Whoever marks it as what it is already changes nothing.
    async fn set_mark(&self, mark: StoreMode) -> Result<()>;

    // What decisions read. One round trip each.

    /// The facts of one token; `None` where there is none. Deleted tokens have facts until purged.
    async fn token_facts(&self, id: TokenId) -> Result<Option<TokenFacts>>;

    /// One credential with its digest, revoked ones included.
    async fn credential(&self, id: CredentialId) -> Result<Option<(Credential, Digest)>>;

    /// Every credential that is not revoked, with its digest.
    async fn live_credentials(&self) -> Result<Vec<(Credential, Digest)>>;

    /// Every key that secrets were made under.
    async fn secret_keys(&self) -> Result<Vec<SecretKey>>;

    /// The catalogue in force; `None` where none was ever applied.
    async fn catalog(&self) -> Result<Option<StoredCatalog>>;

    // Accounts.

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
    /// both are told of the change.
    async fn set_account_admins(
        &self,
        ctx: &Context,
        id: AccountId,
        admins: &[String],
    ) -> Result<Option<AdminsSet>>;

    // Tokens.

    /// Stores a token that `policy` was asked about with `catalog`.
    async fn create_token(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        new: &NewToken,
    ) -> Result<Result<Token, AccountNotFound>>;

    /// One token, of `only` where given.
    async fn token(&self, id: TokenId, only: Option<AccountId>) -> Result<Option<Token>>;

    /// Tokens, the oldest first.
    async fn tokens(&self, filter: &TokenFilter, page: Page<TokenId>) -> Result<Vec<Token>>;

    /// Tokens, `limit` of them (1,000 at most) behind the first `offset`, and how many there are in all.
    /// `calendar` says what takes effect first.
    async fn search_tokens(
        &self,
        search: &TokenSearch,
        calendar: &Calendar,
        offset: u32,
        limit: u32,
    ) -> Result<FoundTokens>;

    /// Deletes a token, with what is announced for it. A deleted one stays as it is. `None` where there
    /// is none.
    async fn delete_token(
        &self,
        ctx: &Context,
        id: TokenId,
        only: Option<AccountId>,
    ) -> Result<Option<Token>>;

    /// Changes a token's whitelist as `policy::network::apply` says; `None` where there is no such
    /// token. A change that changes nothing keeps the version and leaves no record. With
    /// `dry_run` everything is checked and nothing written.
    #[allow(clippy::too_many_arguments, reason = "one use case, each argument a fact of it")]
    async fn change_whitelist(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        target: WhitelistTarget,
        change: &Change,
        limits: &Limits,
        dry_run: bool,
    ) -> Result<Option<Result<WhitelistChanged, WhitelistRefused>>>;

    /// Pending actions that are neither carried out nor cancelled, in the order of their announcement.
    async fn pending_actions(
        &self,
        filter: &PendingFilter,
        page: Page<PendingActionId>,
    ) -> Result<Vec<PendingAction>>;

    /// How many of them there are.
    async fn count_pending(&self) -> Result<PendingCounts>;

    // The lifecycle. Why these are safe against each other is told in `sql/lifecycle`.

    /// Records uses, in any order and as often as one likes: what is known only moves forward. Tokens
    /// that are gone are passed over. Leaves no record. The tokens with an announced action that
    /// recorded use has overtaken: hand each to [`Self::settle_uses`].
    async fn record_uses(&self, uses: &[Use]) -> Result<Vec<TokenId>>;

    /// Ends or shrinks the announced actions that recorded use has overtaken, and takes back their
    /// notices. `false`, and no record, where there was nothing to do.
    async fn settle_uses(&self, ctx: &Context, id: TokenId) -> Result<bool>;

    /// The same for one use that fits an announced action, before its ALLOW is answered: records it and
    /// settles. Whether anything was overtaken. [`Gone`], with nothing recorded, where the token is
    /// deleted or `catalog`, which must be in force, no longer gives it the scope.
    async fn use_noticed(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        used: &Use,
    ) -> Result<Result<bool, Gone>>;

    /// Active tokens that may be idle since `before` or longer, the longest first: candidates for
    /// [`Self::announce`], or for [`Self::defer`] where their subject says that nothing is due. Before
    /// all others those that [`Self::record_uses`] told somebody of who did not get to settle them.
    async fn idle_tokens(&self, before: Timestamp, limit: u32) -> Result<Vec<IdleToken>>;

    /// Computes again since when these tokens are idle, so that [`Self::idle_tokens`] does not find
    /// them again before their time. Leaves no record.
    async fn defer(&self, ids: &[TokenId]) -> Result<()>;

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

    /// Withdraws whatever is announced, for at most `limit` tokens: those.
    async fn withdraw_actions(&self, ctx: &Context, limit: u32) -> Result<Vec<TokenId>>;

    /// Forgets tokens deleted before `before`, and ended mails about no token that were queued before
    /// it; at most `limit` of each. The tokens.
    async fn purge(&self, ctx: &Context, before: Timestamp, limit: u32) -> Result<Vec<TokenId>>;

    /// Active tokens, the oldest first, as the preview needs them.
    async fn subjects(
        &self,
        only: Option<AccountId>,
        page: Page<TokenId>,
    ) -> Result<Vec<IdleToken>>;

    // Mail.

    /// Mails that are to be sent at `now`: first those that did not fail for their own sake so far, the
    /// longest waiting first, so that a failing recipient holds up nobody else's. Nobody else gets them for so
    /// long as `claim`, or until [`Self::prolong_claim`] moved that to; then they are as they were.
    /// `known` is the position up to which every decision rests on the changes made: a notice is not
    /// sent before its action is known.
    async fn claim_mails(
        &self,
        now: Timestamp,
        claim: Duration,
        known: i64,
        limit: u32,
    ) -> Result<Vec<Mail>>;

    /// Prolongs the claim on `mail` to `until`, or leaves it where it ends later: when it ends now.
    /// `None`, and nothing changed, where it is another's by now, or the mail was taken back.
    async fn prolong_claim(&self, mail: &Mail, until: Timestamp) -> Result<Option<Timestamp>>;

    /// Notes that the mail server took a mail over. `ctx.now` must have been read after its answer:
    /// the notice counts from there. The token whose facts changed, where it was the last notice that
    /// an action waited for.
    async fn mail_accepted(&self, ctx: &Context, id: MailId) -> Result<Option<TokenId>>;

    /// Notes an attempt that failed at `now`, the next being at `next`; nothing where the claim on
    /// `mail` is another's by now. `failure` is why the mail server did not take this mail; `None` where
    /// it took none at all, which leaves a failing mail failing. A failing mail to nobody's admin is
    /// withdrawn: at once where the address is refused, else after a day of failing (docs/policy.md, 4.12).
    async fn mail_deferred(
        &self,
        now: Timestamp,
        mail: &Mail,
        next: Timestamp,
        failure: Option<MailFailure<'_>>,
    ) -> Result<()>;

    /// How the mails stand.
    async fn mail_state(&self) -> Result<MailState>;

    // Credentials and keys.

    /// Stores a credential.
    async fn create_credential(
        &self,
        ctx: &Context,
        new: &Credential,
        digest: &Digest,
    ) -> Result<Result<(), AccountNotFound>>;

    /// Stores the very first credential; `false`, and nothing stored, where there are any already
    /// (revoked ones count).
    async fn create_first_credential(
        &self,
        ctx: &Context,
        new: &Credential,
        digest: &Digest,
    ) -> Result<bool>;

    /// Makes the operator credential of the settings the one with `digest`, or none: a former one is
    /// revoked. Changes nothing where it is that one already. A digest that was revoked before stays
    /// revoked, and the answer says so.
    async fn set_settings_credential(
        &self,
        ctx: &Context,
        wanted: Option<(&Credential, &Digest)>,
    ) -> Result<SettingsCredential>;

    /// Credentials, the oldest first, revoked ones included.
    async fn credentials(&self, page: Page<CredentialId>) -> Result<Vec<Credential>>;

    /// Revokes a credential. A revoked one stays as it is. `None` where there is none; refused for the
    /// last valid one of role operator.
    async fn revoke_credential(
        &self,
        ctx: &Context,
        id: CredentialId,
    ) -> Result<Option<Result<Credential, LastOperatorCredential>>>;

    /// Stores `key` under the next free number, of which there are `secret::MAX_KEY_NUMBER + 1`;
    /// with `only_first`, only where there is no key yet. The number it got, or the newest that
    /// was there.
    async fn add_secret_key(&self, ctx: &Context, key: &[u8; 32], only_first: bool) -> Result<u16>;

    // Sessions of the management page.

    /// Begins a session, and forgets those whose time is over. `false`, and nothing stored, where its
    /// credential is revoked or there is none.
    async fn create_session(&self, ctx: &Context, new: &NewSession) -> Result<bool>;

    /// A session that is live at `now`: not past its end, not idle for as long as `idle`, its credential
    /// not revoked. Notes that it was seen, at most once in a tenth of `idle`, so that it may be taken for
    /// idle by so much too early; that this can't be noted is no error.
    async fn session(
        &self,
        digest: &Digest,
        now: Timestamp,
        idle: Duration,
    ) -> Result<Option<Session>>;

    /// Ends a session that is not past its end, or with `everywhere` all such sessions of its
    /// credential. How many; no record where there is none.
    async fn end_session(&self, ctx: &Context, digest: &Digest, everywhere: bool) -> Result<u64>;

    /// Notes that a form was sent in a session; `false` where it was before, or there is no such
    /// session. Whether that is live is not asked. Leaves no record.
    async fn use_form(&self, session: &Digest, form: &[u8; 16]) -> Result<bool>;

    // The catalogue.

    /// Puts a catalogue in force that `policy` found faultless. `names` are all its scopes: known
    /// ones keep their numbers, new ones get numbers that no other name ever had. `current` is the
    /// version that the caller compared it with, `None` for none; another one is
    /// [`StoreError::StaleCatalog`]. Refused where an active `CUSTOM` token may use a scope that
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

    // The record.

    /// Audit events, the newest first.
    async fn audit_events(&self, filter: &AuditFilter, page: Page<i64>) -> Result<Vec<AuditEvent>>;

    /// The position of the newest change.
    async fn position(&self) -> Result<i64>;

    /// Change records behind `after`, in order.
    async fn changes(&self, after: i64, limit: u32) -> Result<Vec<ChangeRecord>>;

    /// Waits until every change under way has ended, committed or not: also those of which this
    /// process has lost track. Commits something that changes nothing: what could be read before it is
    /// as safe from a failover as what was answered.
    async fn settle(&self, ctx: &Context) -> Result<()>;

    /// What ails the database now, and for how long, as use cases found. Read from memory.
    fn troubles(&self) -> Vec<(Trouble, Duration)>;

    /// Where something ails the database: makes a change that changes nothing, to see whether it lasts.
    async fn probe(&self, ctx: &Context);

    /// What the replicas that share the store tell each other through it; `None` where only this
    /// process has it.
    fn replication(&self) -> Option<Arc<dyn Replication>>;

    /// Stops using the store; what is under way ends first.
    async fn close(&self);
}
