//! The accounts whose tokens are denied whatever their own state: all of them in memory, apart from the tokens, so that
//! suspending an account with a million tokens is one change that replaces no cached token.
//!
//! The alternative, the state of its account in each token's facts, would have to find the tokens of one account among
//! all that are cached, or forget all tokens of all accounts. Here a decision looks its token's account up in what is
//! usually an empty set.
//!
//! Suspended accounts are here until they are resumed. Closed ones are here until the next start or reload, both of
//! which leave out those whose tokens are all deleted: by then no token's facts from before that are in memory. So this
//! takes about 64 bytes for each suspended account, and for each one closed since. Only operators add to it.
//!
//! # Invariants
//! - An account that is not in here is neither suspended nor closed, or no token of it is active in the store.
//! - An account that could not be read back allows nothing: its tokens have no decision.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use super::tokens::FoldHasher;
use crate::policy::id::AccountId;
use crate::policy::token::AccountRestriction;

/// An id, hashed by its random half, which this system makes: nobody can choose ids that collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key(AccountId);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0.as_u64_pair().1);
    }
}

/// `None` for an account that was changed and could not be read back.
type Restrictions = HashMap<Key, Option<AccountRestriction>, BuildHasherDefault<FoldHasher>>;

/// An account was changed, and could not be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownAccount;

/// Every account that is suspended or closed. See the module.
#[derive(Debug)]
pub struct Accounts {
    restrictions: ArcSwap<Restrictions>,
    /// Whether there are any: what decisions read where there are none, which costs less than borrowing an empty set.
    any: AtomicBool,
}

/// [`Accounts`] while decisions borrow them.
#[derive(Debug)]
pub struct BorrowedAccounts(Option<arc_swap::Guard<Arc<Restrictions>>>);

impl BorrowedAccounts {
    /// Why no token of the account may be used, if that is so.
    ///
    /// # Errors
    /// [`UnknownAccount`], which allows nothing.
    #[inline]
    pub fn restriction(&self, id: AccountId) -> Result<Option<AccountRestriction>, UnknownAccount> {
        match self.0.as_ref().and_then(|restrictions| restrictions.get(&Key(id))) {
            None => Ok(None),
            Some(Some(restriction)) => Ok(Some(*restriction)),
            Some(None) => Err(UnknownAccount),
        }
    }
}

impl Accounts {
    /// Knows these.
    pub fn new(restricted: Vec<(AccountId, AccountRestriction)>) -> Self {
        let accounts = Self { restrictions: ArcSwap::default(), any: AtomicBool::new(false) };
        accounts.set_all(restricted);
        accounts
    }

    /// What decisions look accounts up in. Borrowed again for each decision, or batch of them.
    #[inline]
    pub fn borrow(&self) -> BorrowedAccounts {
        BorrowedAccounts(self.any.load(Ordering::Acquire).then(|| self.restrictions.load()))
    }

    /// Knows these from now on, and no others. No two calls that write may overlap.
    pub(super) fn set_all(&self, restricted: Vec<(AccountId, AccountRestriction)>) {
        let restricted = restricted.into_iter().map(|(id, why)| (Key(id), Some(why)));
        self.publish(restricted.collect());
    }

    /// Takes over what the store says of `id`. No two calls that write may overlap.
    pub(super) fn set(&self, id: AccountId, restriction: Option<AccountRestriction>) {
        let mut restrictions = Restrictions::clone(&self.restrictions.load());
        match restriction {
            Some(restriction) => restrictions.insert(Key(id), Some(restriction)),
            None => restrictions.remove(&Key(id)),
        };
        self.publish(restrictions);
    }

    /// Allows nothing to the account until it is read back. No two calls that write may overlap.
    pub(super) fn forget(&self, id: AccountId) {
        let mut restrictions = Restrictions::clone(&self.restrictions.load());
        restrictions.insert(Key(id), None);
        self.publish(restrictions);
    }

    fn publish(&self, restrictions: Restrictions) {
        let any = !restrictions.is_empty();
        // A decision that reads `any` as it was before finds either set complete.
        self.restrictions.store(Arc::new(restrictions));
        self.any.store(any, Ordering::Release);
    }

    /// How many are in here.
    pub fn len(&self) -> usize {
        self.restrictions.load().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::policy::time::Timestamp;

    /// Rules 11.70 and 11.75 of docs/policy.md.
    #[test]
    fn restriction_is_found_until_it_is_lifted() {
        let [one, other] = [1, 2].map(|number| AccountId(Uuid::from_u128(number)));
        let suspended = AccountRestriction::Suspended { at: Timestamp(5) };
        let closed = AccountRestriction::Closed { at: Timestamp(6) };
        let accounts = Accounts::new(Vec::new());
        assert!(accounts.is_empty());
        assert_eq!(accounts.borrow().restriction(one), Ok(None));

        accounts.set(one, Some(suspended));
        let borrowed = accounts.borrow();
        assert_eq!(borrowed.restriction(one), Ok(Some(suspended)));
        assert_eq!(borrowed.restriction(other), Ok(None));
        accounts.set(one, Some(closed));
        assert_eq!(accounts.borrow().restriction(one), Ok(Some(closed)));
        accounts.forget(other);
        assert_eq!(accounts.borrow().restriction(other), Err(UnknownAccount));
        assert_eq!(accounts.len(), 2);
        // What is borrowed stays as it was.
        assert_eq!(borrowed.restriction(one), Ok(Some(suspended)));

        accounts.set(other, None);
        assert_eq!(accounts.borrow().restriction(other), Ok(None));
        accounts.set_all(Vec::new());
        assert!(accounts.is_empty());
        assert_eq!(accounts.borrow().restriction(one), Ok(None));
    }
}
