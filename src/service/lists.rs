//! Paging, and the lists that no other file owns: pending actions and the audit record.
//!
//! Must stay true: a page token works with the list and the filters it came from, and with no other,
//! and says nothing to its bearer; filters never reveal whether something exists. Pages are bounded by items and
//! by bytes; whatever ends a page, the next one begins behind its last item.

use std::fmt::Display;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;

use subtle::ConstantTimeEq as _;

use super::validate::{FieldErrors, filter_id};
use super::{Caller, Error, Result, Services};
use crate::model::{
    AuditChain, AuditEvent, AuditFilter, FoundTokens, Page, PendingAction, PendingFilter,
    TokenOrder, TokenSearch, TokenShow,
};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::time::Timestamp;
use crate::policy::token::{PendingActionType, TokenKind};
use crate::secret::{self, KeyRing};

const DEFAULT_SIZE: u32 = 50;
const MAX_SIZE: u32 = 1_000;
/// The most bytes of a page that has more than one item. gRPC clients read 4 MiB; the largest item, a token
/// with 10,000 whitelist entries and all that is announced for it, has less than 3 MiB.
pub const PAGE_BYTES: usize = 1 << 20;
/// Items that are read before it is known how large they are: enough for a page of the default size.
const FIRST_READ: u32 = 64;

/// How much of a list was asked for, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Paging<'a> {
    /// As asked: 0 for the default.
    pub size: i32,
    /// As the former page gave it; empty for the beginning.
    pub token: &'a str,
}

/// A page of a list.
#[derive(Debug)]
pub struct Paged<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// How to go on; empty on the last page.
    pub next: String,
}

/// An item as it is answered.
#[derive(Debug)]
pub struct PageItem<T> {
    /// The item.
    pub item: T,
    /// How many bytes it adds to the answer.
    pub bytes: usize,
}

impl<T> PageItem<T> {
    /// An item of a page that is bounded by its number of items alone.
    pub fn unmeasured(item: T) -> Self {
        Self { item, bytes: 0 }
    }
}

/// A page that is about to be read.
pub struct Cursor<K> {
    after: Option<K>,
    /// How many items the caller wants at most.
    size: usize,
    list: String,
    keys: Arc<KeyRing>,
}

impl<K: Copy + Display + FromStr> Cursor<K> {
    /// Reads `paging`. `list` names the list and its filters; `keys` seal the page tokens.
    ///
    /// # Errors
    /// A negative size, or a page token that is not one of this list.
    pub fn new(paging: Paging<'_>, list: String, keys: Arc<KeyRing>) -> Result<Self> {
        let mut errors = FieldErrors::default();
        let size = match u32::try_from(paging.size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_) => {
                errors.add("page_size", "NEGATIVE", "is negative; 0 means 50");
                DEFAULT_SIZE
            }
        };
        let after = match paging.token {
            "" => None,
            token => {
                let key = read_token(token, &list, &keys);
                if key.is_none() {
                    errors.add(
                        "page_token",
                        "NOT_A_PAGE_TOKEN",
                        "is not a next_page_token of this list with these filters: begin again \
                         without one",
                    );
                }
                key
            }
        };
        errors.into_result()?;
        Ok(Self { after, size: size as usize, list, keys })
    }

    /// Reads items until the page is full: each as `show` makes it, up to [`PAGE_BYTES`] and at least one. Reads
    /// about as many as fit, so that a page of large items costs no more memory than one of small ones.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn collect<T, U, F>(
        mut self,
        mut read: impl FnMut(Page<K>) -> F,
        key: impl Fn(&T) -> K,
        mut show: impl FnMut(T) -> PageItem<U>,
    ) -> Result<Paged<U>>
    where
        F: Future<Output = Result<Vec<T>>>,
    {
        let (mut items, mut bytes) = (Vec::new(), 0);
        let mut limit = FIRST_READ;
        loop {
            // One more than the caller wants, to see whether there is more.
            let left = self.size - items.len() + 1;
            limit = limit.min(u32::try_from(left).unwrap_or(u32::MAX));
            let found = read(Page { after: self.after, limit }).await?;
            let last = found.len() < limit as usize;
            for item in found {
                let key = key(&item);
                if items.len() == self.size {
                    return Ok(self.page(items));
                }
                let shown = show(item);
                if !items.is_empty() && bytes + shown.bytes > PAGE_BYTES {
                    return Ok(self.page(items));
                }
                bytes += shown.bytes;
                items.push(shown.item);
                self.after = Some(key);
            }
            if last {
                return Ok(Paged { items, next: String::new() });
            }
            // There were some, or this read would have been the last.
            let mean = (bytes / items.len().max(1)).max(1);
            let fit = PAGE_BYTES.saturating_sub(bytes) / mean + 1;
            limit = u32::try_from(fit).unwrap_or(u32::MAX);
        }
    }

    /// A page after which the list goes on.
    fn page<T>(&self, items: Vec<T>) -> Paged<T> {
        let key = self.after.map(|key| key.to_string().into_bytes()).unwrap_or_default();
        Paged { items, next: write_token(key, &self.list, &self.keys) }
    }
}

/// A seal over the list and the key, and behind it the key, hidden under what only the seal and the
/// server's keys give; all in hexadecimal.
fn write_token(mut key: Vec<u8>, list: &str, keys: &KeyRing) -> String {
    let seal = keys.seal(&[b"page ", list.as_bytes(), b"\0", &key].concat());
    hide(&mut key, seal, keys);
    secret::hex(&[&seal[..], &key].concat())
}

fn read_token<K: FromStr>(token: &str, list: &str, keys: &KeyRing) -> Option<K> {
    if !token.is_ascii() || token.len() > 128 || !token.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> = (0..token.len() / 2)
        .map(|at| u8::from_str_radix(token.get(2 * at..2 * at + 2)?, 16).ok())
        .collect();
    let bytes = bytes?;
    let (seal, key) = bytes.split_first_chunk::<8>()?;
    let mut key = key.to_vec();
    hide(&mut key, *seal, keys);
    let expected = keys.seal(&[b"page ", list.as_bytes(), b"\0", &key].concat());
    if !bool::from(expected.ct_eq(seal)) {
        return None;
    }
    String::from_utf8(key).ok()?.parse().ok()
}

/// Hides `key`, or shows a hidden one.
fn hide(key: &mut [u8], seal: [u8; 8], keys: &KeyRing) {
    for (at, chunk) in key.chunks_mut(8).enumerate() {
        let pad = keys.seal(&[b"hide ", &seal[..], &at.to_be_bytes()].concat());
        chunk.iter_mut().zip(pad).for_each(|(byte, pad)| *byte ^= pad);
    }
}

/// What the management page may look tokens up by.
#[derive(Debug, Clone, Copy)]
pub struct TokenQuery<'a> {
    /// Only this account's; empty for every account.
    pub account_id: &'a str,
    /// Part of a name, or an id.
    pub text: &'a str,
    /// Only those that read as this kind.
    pub kind: Option<TokenKind>,
    /// Only those in this state.
    pub show: TokenShow,
    /// Which comes first.
    pub order: TokenOrder,
    /// How many to leave out.
    pub offset: u32,
    /// How many to find at most.
    pub limit: u32,
}

/// What `ListPendingActions` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct PendingQuery<'a> {
    /// Only this account's; empty for every account.
    pub account_id: &'a str,
    /// Only this token's; empty for every token.
    pub token_id: &'a str,
    /// Only of this type.
    pub action: Option<PendingActionType>,
    /// Only what takes effect before this instant.
    pub effective_before: Option<Timestamp>,
    /// How much of it.
    pub paging: Paging<'a>,
}

/// What `ListAuditEvents` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct AuditQuery<'a> {
    /// Only what concerns this account; empty for all.
    pub account_id: &'a str,
    /// Only what concerns this token; empty for all.
    pub token_id: &'a str,
    /// Only at this instant or after it.
    pub start: Option<Timestamp>,
    /// Only before this instant.
    pub end: Option<Timestamp>,
    /// Only of this pending action; empty for all.
    pub pending_action_id: &'a str,
    /// The oldest first.
    pub oldest_first: bool,
    /// Only behind this revision; 0 for all. For operators alone.
    pub after_revision: i64,
    /// How much of it.
    pub paging: Paging<'a>,
}

impl Services {
    /// What page tokens are sealed with.
    pub(super) fn page_keys(&self) -> Arc<KeyRing> {
        self.cache.keys().clone()
    }

    /// The ids to filter by: `None` in place of everything where the caller asked for an account
    /// that they don't see, so that the list is empty and reveals nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] with `errors`, found in other filters already, and those of the ids.
    pub(super) fn filter_ids(
        &self,
        caller: &Caller,
        mut errors: FieldErrors,
        account_id: &str,
        token_id: &str,
    ) -> Result<Option<(Option<AccountId>, Option<TokenId>)>> {
        let account = errors.take(filter_id::<AccountId>("account_id", account_id)).flatten();
        let token = errors.take(filter_id::<TokenId>("token_id", token_id)).flatten();
        errors.into_result()?;
        match (account, caller.only()) {
            (Some(asked), Some(only)) if asked != only => Ok(None),
            (asked, only) => Ok(Some((asked.or(only), token))),
        }
    }

    /// Looks tokens up, for people: in any order, from any place, with how many there are in all.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no account's id; the store's.
    pub async fn search_tokens(
        &self,
        caller: &Caller,
        query: TokenQuery<'_>,
    ) -> Result<FoundTokens> {
        let ids = self.filter_ids(caller, FieldErrors::default(), query.account_id, "")?;
        let Some((account_id, _)) = ids else { return Ok(FoundTokens::default()) };
        let search = TokenSearch {
            account_id,
            text: query.text.to_owned(),
            kind: query.kind,
            show: query.show,
            order: query.order,
        };
        let calendar = self.calendar();
        let found = self.store.search_tokens(&search, &calendar, query.offset, query.limit);
        self.read("search_tokens", found).await
    }

    /// Lists downgrades and deletions that are planned or announced, in the order of their planning.
    /// `errors` were found in the query's filters already. Rule 4.11 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad filters or paging; the store's.
    pub async fn list_pending_actions<U>(
        &self,
        caller: &Caller,
        query: PendingQuery<'_>,
        errors: FieldErrors,
        show: impl FnMut(PendingAction) -> PageItem<U>,
    ) -> Result<Paged<U>> {
        let ids = self.filter_ids(caller, errors, query.account_id, query.token_id);
        let list = format!(
            "pending {} {} {:?} {:?}",
            query.account_id, query.token_id, query.action, query.effective_before
        );
        let cursor = both(ids, Cursor::new(query.paging, list, self.page_keys()))?;
        let (Some((account_id, token_id)), cursor) = cursor else {
            return Ok(Paged { items: Vec::new(), next: String::new() });
        };
        let filter = PendingFilter {
            account_id,
            token_id,
            action: query.action,
            effective_before: query.effective_before.map(|before| (before, self.calendar())),
        };
        let read = |page| self.read("pending_actions", self.store.pending_actions(&filter, page));
        cursor.collect(read, |action| action.id, show).await
    }

    /// Lists who changed what, the newest first unless `query` says otherwise. `errors` were found in the query's filters already.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad filters or paging; the store's.
    pub async fn list_audit_events<U>(
        &self,
        caller: &Caller,
        query: AuditQuery<'_>,
        mut errors: FieldErrors,
        show: impl FnMut(AuditEvent) -> PageItem<U>,
    ) -> Result<Paged<U>> {
        let action = filter_id::<PendingActionId>("pending_action_id", query.pending_action_id);
        let pending_action_id = errors.take(action).flatten();
        if query.after_revision < 0 {
            errors.add("after_revision", "NEGATIVE", "is negative; 0 means all events");
        }
        // By asking for one revision after the other, an account admin would learn how much happens in other accounts.
        if query.after_revision != 0 && caller.only().is_some() {
            errors.add("after_revision", "OPERATORS_ONLY", "is for operators: use page_token");
        }
        let ids = self.filter_ids(caller, errors, query.account_id, query.token_id);
        let list = format!(
            "audit {} {} {:?} {:?} {} {} {}",
            query.account_id,
            query.token_id,
            query.start,
            query.end,
            query.pending_action_id,
            query.oldest_first,
            query.after_revision
        );
        let (Some((account_id, token_id)), cursor) =
            both(ids, Cursor::new(query.paging, list, self.page_keys()))?
        else {
            return Ok(Paged { items: Vec::new(), next: String::new() });
        };
        let filter = AuditFilter {
            account_id,
            token_id,
            start: query.start,
            end: query.end,
            pending_action_id,
            oldest_first: query.oldest_first,
            after: Some(query.after_revision).filter(|&revision| revision > 0),
        };
        let read = |page| self.read("audit_events", self.store.audit_events(&filter, page));
        cursor.collect(read, |event| event.position, show).await
    }

    /// How far the chain over audit events goes; `None` for account admins.
    ///
    /// # Errors
    /// The store's.
    pub async fn audit_chain(&self, caller: &Caller) -> Result<Option<AuditChain>> {
        match caller.only() {
            Some(_) => Ok(None),
            None => self.read("audit_chain", self.store.audit_chain()).await.map(Some),
        }
    }
}

/// Both values, or the errors of both.
pub(super) fn both<A, B>(a: Result<A>, b: Result<B>) -> Result<(A, B)> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(Error::Invalid(mut a)), Err(Error::Invalid(b))) => {
            a.extend(b);
            Err(Error::Invalid(a))
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}
