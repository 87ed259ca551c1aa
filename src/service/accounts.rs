//! Accounts and their admins.

use super::lists::{Cursor, PageItem, Paged, Paging};
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Error, Propagation, Result, Services, wait_unless};
use crate::clock::id_at;
use crate::model::{
    Account, AccountRefusal, AdminsSet, CLOSURE_STEP, CloseRefusal, ClosureStep, Invalidation,
};
use crate::policy::id::AccountId;
use crate::policy::text::quote;

/// What `CloseAccount` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct CloseAccount<'a> {
    /// The account.
    pub account_id: &'a str,
    /// Its name, repeated.
    pub confirm_name: &'a str,
    /// Check only.
    pub validate_only: bool,
    /// Answer before it has propagated.
    pub no_wait: bool,
}

/// A closed account, or one that would be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedAccount {
    /// The account.
    pub account: Account,
    /// How many tokens were not deleted when the call began.
    pub token_count: u64,
    /// How far the closure has propagated; `None` where nothing was to be changed.
    pub propagation: Option<Propagation>,
}

impl Services {
    /// Creates an account.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name or address; the store's.
    pub async fn create_account(
        &self,
        caller: &Caller,
        name: &str,
        admins: &[String],
    ) -> Result<Changed<Account>> {
        let mut errors = FieldErrors::default();
        let name = errors.take(validate::name(name, true));
        let admins = errors.take(validate::admins(admins));
        errors.into_result()?;
        let now = self.clock.now();
        let account = Account {
            id: AccountId(id_at(now)),
            name: name.unwrap_or_default(),
            admins: admins.unwrap_or_default(),
            created: now,
            suspended: None,
            closed: None,
        };
        let ctx = caller.context(now);
        let create = self.store.create_account(&ctx, &account);
        self.writes.commit("create_account", Invalidation::Nothing, &ctx, create).await?;
        Ok(Changed::new(account, &ctx))
    }

    /// Reads one account.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none that the caller sees; the store's.
    pub async fn get_account(&self, caller: &Caller, id: &str) -> Result<Account> {
        let id: AccountId = validate::id("account_id", id)?;
        if !caller.sees(id) {
            return Err(no_account(id));
        }
        self.read("account", self.store.account(id)).await?.ok_or_else(|| no_account(id))
    }

    /// Lists accounts, the oldest first.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad paging; the store's.
    pub async fn list_accounts<U>(
        &self,
        caller: &Caller,
        paging: Paging<'_>,
        show: impl FnMut(Account) -> PageItem<U>,
    ) -> Result<Paged<U>> {
        let cursor = Cursor::new(paging, "accounts".to_owned(), self.page_keys())?;
        let read = |page| self.read("accounts", self.store.accounts(caller.only(), page));
        cursor.collect(read, |account| account.id, show).await
    }

    /// Gives an account another name. Rule 11.82 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad name, [`Error::NotFound`] for no such account, [`Error::Refused`] for a closed
    /// one; the store's.
    pub async fn update_account(
        &self,
        caller: &Caller,
        id: &str,
        name: &str,
    ) -> Result<Changed<Account>> {
        let mut errors = FieldErrors::default();
        let id = errors.take(validate::id::<AccountId>("account_id", id));
        let name = errors.take(validate::name(name, true)).unwrap_or_default();
        errors.into_result()?;
        let id = id.ok_or(Error::Internal)?;
        let ctx = caller.context(self.clock.now());
        let update = self.store.update_account(&ctx, id, &name);
        let updated =
            self.writes.commit("update_account", Invalidation::Nothing, &ctx, update).await?;
        let account = updated.map_err(|refused| refused_account(id, refused))?;
        Ok(Changed::new(account, &ctx))
    }

    /// Suspends an account: its tokens are denied until it is resumed. With `no_wait`, answers before that has
    /// propagated. Rules 11.70 and 11.71 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::NotFound`] for no such account, [`Error::Refused`] for a closed one; the store's.
    pub async fn suspend_account(
        &self,
        caller: &Caller,
        id: &str,
        no_wait: bool,
    ) -> Result<Changed<(Account, Propagation)>> {
        let id: AccountId = validate::id("account_id", id)?;
        let ctx = caller.context(self.clock.now());
        let suspend = self.store.suspend_account(&ctx, id);
        let changed = Invalidation::Account(id);
        let suspended = self.writes.commit("suspend_account", changed, &ctx, suspend).await?;
        let account = suspended.map_err(|refused| refused_account(id, refused))?;
        let propagation = self.propagation(wait_unless(no_wait)).await?;
        Ok(Changed::new((account, propagation), &ctx))
    }

    /// Ends an account's suspension. Rule 11.73 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::NotFound`] for no such account, [`Error::Refused`] for a closed one; the store's.
    pub async fn resume_account(&self, caller: &Caller, id: &str) -> Result<Changed<Account>> {
        let id: AccountId = validate::id("account_id", id)?;
        let ctx = caller.context(self.clock.now());
        let resume = self.store.resume_account(&ctx, id);
        let changed = Invalidation::Account(id);
        let resumed = self.writes.commit("resume_account", changed, &ctx, resume).await?;
        let account = resumed.map_err(|refused| refused_account(id, refused))?;
        self.writes.await_propagation_best_effort().await;
        Ok(Changed::new(account, &ctx))
    }

    /// Closes an account for good. Rules 11.74, 11.75, 11.76 and 11.77 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the name does not confirm it, [`Error::NotFound`] for no such account; the store's.
    pub async fn close_account(
        &self,
        caller: &Caller,
        request: CloseAccount<'_>,
    ) -> Result<Changed<ClosedAccount>> {
        let id: AccountId = validate::id("account_id", request.account_id)?;
        let token_count = self.read("count_tokens", self.store.count_tokens(id)).await?;
        if request.validate_only {
            let account = self.read("account", self.store.account(id)).await?;
            let account = account.ok_or_else(|| no_account(id))?;
            if !request.confirm_name.is_empty() && request.confirm_name != account.name {
                return Err(not_confirmed(&account.name));
            }
            let closed = ClosedAccount { account, token_count, propagation: None };
            return Ok(Changed { value: closed, revision: 0 });
        }
        let ctx = caller.context(self.clock.now());
        let close = self.store.close_account(&ctx, id, request.confirm_name);
        let changed = Invalidation::Account(id);
        let closed = self.writes.commit("close_account", changed, &ctx, close).await?;
        let account = closed.map_err(|refused| match refused {
            CloseRefusal::NotFound => no_account(id),
            CloseRefusal::NotConfirmed(name) => not_confirmed(&name),
        })?;
        // Most accounts are dealt with by this one step; the sweeper does the others.
        let step_ctx = caller.context(self.clock.now());
        let step = self.store.continue_closure(&step_ctx, Some(id), CLOSURE_STEP);
        let deleted = |step: &Option<ClosureStep>| {
            step.as_ref().map_or_else(Vec::new, |step| step.tokens.clone())
        };
        let step = self.writes.commit_tokens("continue_closure", &step_ctx, step, deleted).await;
        if let Err(error) = step {
            tracing::debug!(%error, account = %id, "the sweeper goes on with the closure");
        }
        self.sweep_wakeup.notify_one();
        let propagation = Some(self.propagation(wait_unless(request.no_wait)).await?);
        Ok(Changed::new(ClosedAccount { account, token_count, propagation }, &ctx))
    }

    /// Replaces an account's admins.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad addresses, [`Error::NotFound`] for no such account; the store's.
    pub async fn set_account_admins(
        &self,
        caller: &Caller,
        id: &str,
        admins: &[String],
    ) -> Result<Changed<Account>> {
        let mut errors = FieldErrors::default();
        let id = errors.take(validate::id::<AccountId>("account_id", id));
        let admins = errors.take(validate::admins(admins)).unwrap_or_default();
        errors.into_result()?;
        let id = id.ok_or(Error::Internal)?;
        let ctx = caller.context(self.clock.now());
        let set = self.store.set_account_admins(&ctx, id, &admins);
        let touched = |set: &std::result::Result<AdminsSet, AccountRefusal>| match set {
            Ok(set) => set.touched.clone(),
            Err(_) => Vec::new(),
        };
        let set = self.writes.commit_tokens("set_account_admins", &ctx, set, touched).await?;
        let set = set.map_err(|refused| refused_account(id, refused))?;
        self.outbox_wakeup.notify_one();
        Ok(Changed::new(set.account, &ctx))
    }
}

fn not_confirmed(name: &str) -> Error {
    let shown = quote(name, validate::MAX_NAME);
    Error::invalid(
        "confirm_name",
        "NOT_CONFIRMED",
        format_args!(
            "closing deletes every token of the account, and nothing reverses it: repeat the account's name, {shown}, to \
             confirm; validate_only shows how many tokens there are"
        ),
    )
}

/// Why an account, or anything of it, does not change.
pub(super) fn refused_account(id: AccountId, refused: AccountRefusal) -> Error {
    match refused {
        AccountRefusal::NotFound => no_account(id),
        AccountRefusal::Closed => Error::refused(
            "ACCOUNT_CLOSED",
            format!("accounts/{id}"),
            format_args!(
                "the account {id} is closed, which nothing reverses: create another account"
            ),
        ),
        AccountRefusal::Suspended => Error::refused(
            "ACCOUNT_SUSPENDED",
            format!("accounts/{id}"),
            "the account is suspended: until operators resume it, its admins may read, delete tokens, bring expiries \
             nearer and remove whitelist entries, and nothing else",
        ),
    }
}

/// The same for an account that does not exist and for one that the caller may not know of.
pub(super) fn no_account(id: AccountId) -> Error {
    Error::NotFound { kind: "account", id: id.to_string() }
}
