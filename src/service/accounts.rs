//! Accounts and their admins.

use super::lists::{Cursor, PageItem, Paged, Paging};
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Error, Result, Services};
use crate::clock::id_at;
use crate::model::{Account, AdminsSet, Invalidation};
use crate::policy::id::AccountId;

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
        let touched = |set: &Option<AdminsSet>| match set {
            Some(set) => set.touched.clone(),
            None => Vec::new(),
        };
        let set = self.writes.commit_tokens("set_account_admins", &ctx, set, touched).await?;
        let set = set.filter(|_| caller.sees(id)).ok_or_else(|| no_account(id))?;
        self.outbox_wakeup.notify_one();
        Ok(Changed::new(set.account, &ctx))
    }
}

/// The same for an account that does not exist and for one that the caller may not know of.
pub(super) fn no_account(id: AccountId) -> Error {
    Error::NotFound { kind: "account", id: id.to_string() }
}
