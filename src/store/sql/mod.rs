//! The use cases of the store, written once and compiled for each database.
//!
//! The module that mounts this one provides:
//! - `Db`, the database's type for sqlx, and `Handle`, the store that implements [`Store`] and the aggregates;
//! - `Handle::{decide, read, read_steadily, write, within, shared, shut}`: connections, transactions, the
//!   time limit of a use case, what replicas share, and closing;
//! - `NOW`, the statement that reads the database's clock in microseconds;
//! - `FOLDED_NAME`, a token's name as it is looked for and ordered, and `FIND`, what finds a text in it;
//! - `bulk`, what each database does its own way: row locks, and many rows at once.
//!
//! What must stay true: the SQL here means the same to both databases. `$1` is a placeholder in both;
//! ids are bound as UUIDs and never compared or cast as text; times are integers; texts are ordered
//! in Rust or by their bytes (`FOLDED_NAME`), never by a collation that the database chose. What a row says
//! is checked when it is read: an unreadable one is an error, never a default.

/// The condition that a row of a table, or of its alias, is not of a closed account. Rule 11.75 of docs/policy.md.
macro_rules! not_of_closed_account {
    ($table:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM account a WHERE a.account_id = ",
            $table,
            ".account_id AND a.close_time IS NOT NULL)"
        )
    };
}

mod account;
mod activity;
mod audit;
mod catalog;
mod change;
mod client_source;
mod credential;
mod decode;
mod denial;
pub(super) mod import;
mod leak;
mod lifecycle;
mod mail;
mod pending;
mod search;
mod secret_key;
mod session;
mod token;
mod usage;
mod webhook;
mod whitelist;

use super::{Db, FIND, FOLDED_NAME, Handle, NOW, bulk};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::model::{
    Account, AccountRefusal, AddressUse, AdminsSet, AuditChain, AuditEvent, AuditFilter,
    CarriedOut, ChangeRecord, CloseRefusal, ClosureStep, Context, Credential, CredentialRefusal,
    CredentialUpdate, CredentialUpdateRefusal, Denial, DenialCount, DenialFilter, DenialRest,
    EntryMatches, FoundTokens, GrantCounts, IdleToken, ImportItem, ImportOutcome, ImportPosition,
    LastOperatorCredential, LeakLocation, LeakOutcome, Mail, MailFailure, MailState, NewSession,
    NewToken, NoLongerHeld, NotReplaced, Page, PendingAction, PendingCounts, PendingFilter,
    Replaced, Replacement, ScopesInUse, SecretOwner, SeenAddress, Session, SettingsCredential,
    StoreMode, StoredCatalog, Token, TokenFilter, TokenSearch, TokenUpdate, TokenUpdateRefusal,
    Use, UseCount, WhitelistChanged, WhitelistRefused, WhitelistTarget,
};
use crate::policy::id::{AccountId, CredentialId, DenialId, MailId, PendingActionId, TokenId};
use crate::policy::lifecycle::{Calendar, Settings};
use crate::policy::network::{Change, Limits};
use crate::policy::scope::{Catalog, ScopeName};
use crate::policy::time::Timestamp;
use crate::policy::token::{AccountRestriction, ExpiryRefused, RequestedExpiry, TokenFacts};
use crate::secret::{Digest, SecretKey};
use crate::store::{
    AccountStore, ActivityStore, AuditStore, CatalogStore, CredentialStore, LeakStore,
    LifecycleStore, MailStore, Replication, Result, SessionStore, Store, StoreError, TokenStore,
    Trouble,
};

type Connection = <Db as sqlx::Database>::Connection;
type Transaction = sqlx::Transaction<'static, Db>;
type QueryBuilder = sqlx::QueryBuilder<Db>;

/// How many rows or ids one statement binds: far below what either database can.
const IDS_AT_ONCE: usize = 1_000;

/// Counts must not be added again where the time limit ended a use case that may have been committed.
fn unknown_where_timed_out(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(sqlx::Error::Io(error))
            if error.kind() == std::io::ErrorKind::TimedOut =>
        {
            StoreError::Unknown(sqlx::Error::Io(error))
        }
        error => error,
    }
}

/// Into a list in parentheses.
fn push_ids(query: &mut QueryBuilder, ids: impl IntoIterator<Item = Uuid>) {
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id);
    }
}

#[async_trait]
impl AccountStore for Handle {
    async fn create_account(&self, ctx: &Context, new: &Account) -> Result<()> {
        self.within(account::create(self, ctx, new)).await
    }

    async fn account(&self, id: AccountId) -> Result<Option<Account>> {
        self.within(account::one(self, id)).await
    }

    async fn accounts(
        &self,
        only: Option<AccountId>,
        page: Page<AccountId>,
    ) -> Result<Vec<Account>> {
        self.within(account::list(self, only, page)).await
    }

    async fn restricted_accounts(&self) -> Result<Vec<(AccountId, AccountRestriction)>> {
        self.within(account::all_restricted(self)).await
    }

    async fn account_restriction(&self, id: AccountId) -> Result<Option<AccountRestriction>> {
        self.within(account::one_restriction(self, id)).await
    }

    async fn count_tokens(&self, id: AccountId) -> Result<u64> {
        self.within(account::count_tokens(self, id)).await
    }

    async fn update_account(
        &self,
        ctx: &Context,
        id: AccountId,
        name: &str,
    ) -> Result<Result<Account, AccountRefusal>> {
        self.within(account::update(self, ctx, id, name)).await
    }

    async fn suspend_account(
        &self,
        ctx: &Context,
        id: AccountId,
    ) -> Result<Result<Account, AccountRefusal>> {
        self.within(account::set_suspended(self, ctx, id, true)).await
    }

    async fn resume_account(
        &self,
        ctx: &Context,
        id: AccountId,
    ) -> Result<Result<Account, AccountRefusal>> {
        self.within(account::set_suspended(self, ctx, id, false)).await
    }

    async fn close_account(
        &self,
        ctx: &Context,
        id: AccountId,
        confirmation: &str,
    ) -> Result<Result<Account, CloseRefusal>> {
        self.within(account::close(self, ctx, id, confirmation)).await
    }

    async fn continue_closure(
        &self,
        ctx: &Context,
        only: Option<AccountId>,
        limit: u32,
    ) -> Result<Option<ClosureStep>> {
        self.within(account::continue_closure(self, ctx, only, limit)).await
    }

    async fn complete_closure(&self, ctx: &Context, id: AccountId) -> Result<bool> {
        self.within(account::complete_closure(self, ctx, id)).await
    }

    async fn set_account_admins(
        &self,
        ctx: &Context,
        id: AccountId,
        admins: &[String],
    ) -> Result<Result<AdminsSet, AccountRefusal>> {
        self.within(account::set_admins(self, ctx, id, admins)).await
    }
}

#[async_trait]
impl TokenStore for Handle {
    async fn token_facts(&self, id: TokenId) -> Result<Option<TokenFacts>> {
        self.within(token::facts(self, id)).await
    }

    async fn create_token(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        new: &NewToken,
    ) -> Result<Result<Token, AccountRefusal>> {
        self.within(token::create(self, ctx, catalog, new)).await
    }

    async fn token(&self, id: TokenId, only: Option<AccountId>) -> Result<Option<Token>> {
        self.within(token::one(self, id, only)).await
    }

    async fn tokens(&self, filter: &TokenFilter, page: Page<TokenId>) -> Result<Vec<Token>> {
        self.within(token::list(self, filter, page)).await
    }

    async fn search_tokens(
        &self,
        search: &TokenSearch,
        calendar: &Calendar,
        offset: u32,
        limit: u32,
    ) -> Result<FoundTokens> {
        self.within(search::tokens(self, search, calendar, offset, limit)).await
    }

    async fn delete_token(
        &self,
        ctx: &Context,
        id: TokenId,
        only: Option<AccountId>,
    ) -> Result<Option<Token>> {
        self.within(token::delete(self, ctx, id, only)).await
    }

    async fn set_token_expiry(
        &self,
        ctx: &Context,
        id: TokenId,
        only: Option<AccountId>,
        expires: RequestedExpiry,
    ) -> Result<Option<Result<Token, ExpiryRefused>>> {
        self.within(token::set_expiry(self, ctx, id, only, expires)).await
    }

    async fn replace_token(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        id: TokenId,
        only: Option<AccountId>,
        settings: &Settings,
        new: &Replacement,
        dry_run: bool,
    ) -> Result<Option<Result<Replaced, NotReplaced>>> {
        let replace = lifecycle::replace(self, ctx, catalog, id, only, settings, new, dry_run);
        self.within(replace).await
    }

    async fn imported_token_facts(&self, digest: &Digest) -> Result<Option<TokenFacts>> {
        self.within(token::imported_facts(self, digest)).await
    }

    async fn import_tokens(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        account_id: AccountId,
        items: &[ImportItem],
        dry_run: bool,
    ) -> Result<Result<Vec<ImportOutcome>, AccountRefusal>> {
        self.within(import::import(self, ctx, catalog, account_id, items, dry_run)).await
    }

    async fn imported_tokens(
        &self,
        after: ImportPosition,
        limit: u32,
    ) -> Result<Vec<ImportPosition>> {
        self.within(import::imported(self, after, limit)).await
    }

    async fn update_token(
        &self,
        ctx: &Context,
        id: TokenId,
        only: Option<AccountId>,
        update: &TokenUpdate,
    ) -> Result<Option<Result<Token, TokenUpdateRefusal>>> {
        self.within(token::update(self, ctx, id, only, update)).await
    }

    async fn change_whitelist(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        target: WhitelistTarget,
        change: &Change,
        limits: &Limits,
        dry_run: bool,
    ) -> Result<Option<Result<WhitelistChanged, WhitelistRefused>>> {
        self.within(whitelist::change(self, ctx, catalog, target, change, limits, dry_run)).await
    }
}

#[async_trait]
impl LifecycleStore for Handle {
    async fn pending_actions(
        &self,
        filter: &PendingFilter,
        page: Page<PendingActionId>,
    ) -> Result<Vec<PendingAction>> {
        self.within(pending::list(self, filter, page)).await
    }

    async fn count_pending(&self) -> Result<PendingCounts> {
        self.within(pending::count(self)).await
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<Vec<TokenId>> {
        self.within(usage::record(self, uses)).await
    }

    async fn cancel_overtaken(&self, ctx: &Context, id: TokenId) -> Result<bool> {
        self.within(usage::cancel_overtaken(self, ctx, id)).await
    }

    async fn record_use_of_announced(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        used: &Use,
    ) -> Result<Result<bool, NoLongerHeld>> {
        self.within(usage::record_use_of_announced(self, ctx, catalog, used)).await
    }

    async fn idle_tokens(&self, before: Timestamp, limit: u32) -> Result<Vec<IdleToken>> {
        self.within(lifecycle::idle_tokens(self, before, limit)).await
    }

    async fn reschedule(&self, ids: &[TokenId]) -> Result<()> {
        self.within(usage::reschedule(self, ids)).await
    }

    async fn announce(
        &self,
        ctx: &Context,
        catalog: &Catalog,
        id: TokenId,
        settings: &Settings,
    ) -> Result<Option<PendingAction>> {
        self.within(lifecycle::announce(self, ctx, catalog, id, settings)).await
    }

    async fn due_actions(
        &self,
        settings: &Settings,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<(PendingActionId, TokenId)>> {
        self.within(lifecycle::due_actions(self, settings, now, limit)).await
    }

    async fn carry_out(
        &self,
        ctx: &Context,
        id: PendingActionId,
        catalog: &Catalog,
        settings: &Settings,
    ) -> Result<CarriedOut> {
        self.within(lifecycle::carry_out(self, ctx, id, catalog, settings)).await
    }

    async fn withdraw_actions(&self, ctx: &Context, limit: u32) -> Result<Vec<TokenId>> {
        self.within(lifecycle::withdraw_actions(self, ctx, limit)).await
    }

    async fn announce_expiries(&self, ctx: &Context, until: Timestamp, limit: u32) -> Result<u32> {
        self.within(lifecycle::announce_expiries(self, ctx, until, limit)).await
    }

    async fn record_expiries(&self, ctx: &Context, limit: u32) -> Result<Vec<TokenId>> {
        self.within(lifecycle::record_expiries(self, ctx, limit)).await
    }

    async fn purge(&self, ctx: &Context, before: Timestamp, limit: u32) -> Result<Vec<TokenId>> {
        self.within(lifecycle::purge(self, ctx, before, limit)).await
    }

    async fn active_tokens(
        &self,
        only: Option<AccountId>,
        page: Page<TokenId>,
    ) -> Result<Vec<IdleToken>> {
        self.within(lifecycle::active_tokens(self, only, page)).await
    }
}

#[async_trait]
impl ActivityStore for Handle {
    async fn record_activity(&self, counts: &[UseCount], addresses: &[AddressUse]) -> Result<()> {
        let record = activity::record(self, counts, addresses);
        self.within(record).await.map_err(unknown_where_timed_out)
    }

    async fn seen_addresses(
        &self,
        id: TokenId,
        only: Option<AccountId>,
        since: Timestamp,
    ) -> Result<Option<Vec<SeenAddress>>> {
        self.within(activity::addresses(self, id, only, since)).await
    }

    async fn entry_matches(
        &self,
        id: TokenId,
        only: Option<AccountId>,
        since: Timestamp,
    ) -> Result<Option<EntryMatches>> {
        self.within(activity::matches(self, id, only, since)).await
    }

    async fn use_counts(
        &self,
        id: TokenId,
        only: Option<AccountId>,
        since: Timestamp,
        limit: u32,
    ) -> Result<Option<Vec<UseCount>>> {
        self.within(activity::counts(self, id, only, since, limit)).await
    }

    async fn purge_activity(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.within(activity::purge(self, before, limit)).await
    }

    async fn record_denials(&self, denials: &[DenialCount], rests: &[DenialRest]) -> Result<()> {
        self.within(denial::record(self, denials, rests)).await.map_err(unknown_where_timed_out)
    }

    async fn denials(&self, filter: &DenialFilter, page: Page<DenialId>) -> Result<Vec<Denial>> {
        self.within(denial::list(self, filter, page)).await
    }

    async fn denial_rest(&self, only: Option<AccountId>, since: Timestamp) -> Result<u64> {
        self.within(denial::rest(self, only, since)).await
    }

    async fn purge_denials(&self, before: Timestamp, limit: u32) -> Result<u64> {
        self.within(denial::purge(self, before, limit)).await
    }

    async fn erase_activity(
        &self,
        account: AccountId,
        after: Option<TokenId>,
        limit: u32,
    ) -> Result<Option<TokenId>> {
        self.within(activity::erase_of_account(self, account, after, limit)).await
    }
}

#[async_trait]
impl MailStore for Handle {
    async fn claim_mails(
        &self,
        now: Timestamp,
        claim: Duration,
        known: i64,
        limit: u32,
    ) -> Result<Vec<Mail>> {
        self.within(mail::claim(self, now, claim, known, limit)).await
    }

    async fn prolong_claim(&self, mail: &Mail, until: Timestamp) -> Result<Option<Timestamp>> {
        self.within(mail::prolong(self, mail, until)).await
    }

    async fn mail_accepted(
        &self,
        ctx: &Context,
        id: MailId,
        answer: &str,
    ) -> Result<Option<TokenId>> {
        self.within(mail::accepted(self, ctx, id, answer)).await
    }

    async fn mail_deferred(
        &self,
        now: Timestamp,
        mail: &Mail,
        next: Timestamp,
        failure: Option<MailFailure<'_>>,
    ) -> Result<()> {
        self.within(mail::deferred(self, now, mail, next, failure)).await
    }

    async fn mail_state(&self) -> Result<MailState> {
        self.within(mail::state(self)).await
    }
}

#[async_trait]
impl CredentialStore for Handle {
    async fn credential(&self, id: CredentialId) -> Result<Option<(Credential, Digest)>> {
        self.within(credential::one(self, id)).await
    }

    async fn live_credentials(&self) -> Result<Vec<(Credential, Digest)>> {
        self.within(credential::live(self)).await
    }

    async fn create_credential(
        &self,
        ctx: &Context,
        new: &Credential,
        digest: &Digest,
    ) -> Result<Result<(), CredentialRefusal>> {
        self.within(credential::create(self, ctx, new, digest)).await
    }

    async fn create_first_credential(
        &self,
        ctx: &Context,
        new: &Credential,
        digest: &Digest,
    ) -> Result<bool> {
        self.within(credential::create_first(self, ctx, new, digest)).await
    }

    async fn set_settings_credential(
        &self,
        ctx: &Context,
        wanted: Option<(&Credential, &Digest)>,
    ) -> Result<SettingsCredential> {
        self.within(credential::set_of_settings(self, ctx, wanted)).await
    }

    async fn credentials(
        &self,
        only: Option<AccountId>,
        page: Page<CredentialId>,
    ) -> Result<Vec<Credential>> {
        self.within(credential::list(self, only, page)).await
    }

    async fn revoke_credential(
        &self,
        ctx: &Context,
        id: CredentialId,
    ) -> Result<Option<Result<Credential, LastOperatorCredential>>> {
        self.within(credential::revoke(self, ctx, id)).await
    }

    async fn update_credential(
        &self,
        ctx: &Context,
        id: CredentialId,
        update: &CredentialUpdate,
    ) -> Result<Option<Result<Credential, CredentialUpdateRefusal>>> {
        self.within(credential::update(self, ctx, id, update)).await
    }

    async fn record_credential_uses(&self, ids: &[CredentialId], now: Timestamp) -> Result<()> {
        self.within(credential::record_uses(self, ids, now)).await
    }

    async fn secret_keys(&self) -> Result<Vec<SecretKey>> {
        self.within(secret_key::all(self)).await
    }

    async fn add_secret_key(&self, ctx: &Context, key: &[u8; 32], only_first: bool) -> Result<u16> {
        self.within(secret_key::add(self, ctx, key, only_first)).await
    }
}

#[async_trait]
impl LeakStore for Handle {
    async fn secret_owners(&self, digests: &[Digest]) -> Result<Vec<(Digest, SecretOwner)>> {
        self.within(leak::owners(self, digests)).await
    }

    async fn revoke_leaked(
        &self,
        ctx: &Context,
        owner: SecretOwner,
        location: &LeakLocation,
    ) -> Result<LeakOutcome> {
        self.within(leak::revoke(self, ctx, owner, location)).await
    }
}

#[async_trait]
impl SessionStore for Handle {
    async fn create_session(&self, ctx: &Context, new: &NewSession) -> Result<bool> {
        self.within(session::create(self, ctx, new)).await
    }

    async fn session(
        &self,
        digest: &Digest,
        now: Timestamp,
        idle: Duration,
    ) -> Result<Option<Session>> {
        self.within(session::one(self, digest, now, idle)).await
    }

    async fn end_session(&self, ctx: &Context, digest: &Digest, everywhere: bool) -> Result<u64> {
        self.within(session::end(self, ctx, digest, everywhere)).await
    }

    async fn use_form(&self, session: &Digest, form: &[u8; 16]) -> Result<bool> {
        self.within(session::use_form(self, session, form)).await
    }
}

#[async_trait]
impl CatalogStore for Handle {
    async fn catalog(&self) -> Result<Option<StoredCatalog>> {
        self.within(catalog::in_force(self)).await
    }

    async fn apply_catalog(
        &self,
        ctx: &Context,
        current: Option<i64>,
        toml: &str,
        names: &[ScopeName],
    ) -> Result<Result<StoredCatalog, ScopesInUse>> {
        self.within(catalog::apply(self, ctx, current, toml, names)).await
    }

    async fn count_grants(&self) -> Result<GrantCounts> {
        self.within(catalog::count_grants(self)).await
    }
}

#[async_trait]
impl AuditStore for Handle {
    async fn audit_events(&self, filter: &AuditFilter, page: Page<i64>) -> Result<Vec<AuditEvent>> {
        self.within(audit::events(self, filter, page)).await
    }

    async fn audit_chain(&self) -> Result<AuditChain> {
        self.within(audit::chain(self)).await
    }

    async fn seal_audit_events(&self, limit: u32) -> Result<u32> {
        self.within(audit::seal(self, limit)).await
    }

    async fn prune_audit_events(
        &self,
        ctx: &Context,
        before: Timestamp,
        limit: u32,
    ) -> Result<u32> {
        self.within(audit::prune(self, ctx, before, limit)).await
    }

    async fn position(&self) -> Result<i64> {
        self.within(audit::position(self)).await
    }

    async fn changes(&self, after: i64, limit: u32) -> Result<Vec<ChangeRecord>> {
        self.within(audit::changes(self, after, limit)).await
    }
}

#[async_trait]
impl Store for Handle {
    async fn now(&self) -> Result<Timestamp> {
        self.within(async {
            let micros = sqlx::query_scalar(NOW).fetch_one(&self.read()).await?;
            Ok(Timestamp(micros))
        })
        .await
    }

    async fn mark(&self) -> Result<Option<StoreMode>> {
        self.within(audit::mark(self)).await
    }

    async fn set_mark(&self, mark: StoreMode) -> Result<()> {
        self.within(audit::set_mark(self, mark)).await
    }

    async fn await_pending_changes(&self, ctx: &Context) -> Result<()> {
        self.within(change::await_pending_changes(self, ctx)).await
    }

    fn troubles(&self) -> Vec<(Trouble, Duration)> {
        self.troubles.current()
    }

    async fn probe(&self, ctx: &Context) {
        if !self.troubles.current().is_empty() && self.await_pending_changes(ctx).await.is_ok() {
            self.troubles.probed();
        }
    }

    fn replication(&self) -> Option<Arc<dyn Replication>> {
        self.shared()
    }

    async fn close(&self) {
        self.shut().await;
    }
}
