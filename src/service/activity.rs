//! What is seen of the requests of a token: the addresses it was used from, how often, which entries of its whitelist
//! matched, and what was denied (docs/policy.md, section 12).

use std::sync::Arc;
use std::time::Duration;

use super::lists::{Cursor, PageItem, Paged, Paging, both};
use super::tokens::no_token;
use super::validate::FieldErrors;
use super::{Caller, Result, Services, validate};
use crate::model::{
    ActiveCatalog, Denial, DenialCount, DenialFilter, EntryMatches, SeenAddress, UseCount,
};
use crate::policy::decide::Reason;
use crate::policy::id::TokenId;
use crate::policy::network::{Cidr, ClientAddr, Limits};
use crate::policy::time::Timestamp;

/// The most counts that are answered: 2 MiB of an answer where each names a scope of the longest name.
const MAX_COUNTS: u32 = 20_000;

/// How often a token was used.
#[derive(Debug)]
pub struct TokenUsage {
    /// The latest day first.
    pub counts: Vec<UseCount>,
    /// From this day on.
    pub since: Timestamp,
    /// What the scopes are called.
    pub in_force: Arc<ActiveCatalog>,
}

/// The use of one entry of a whitelist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryUse {
    /// The entry.
    pub entry: Cidr,
    /// When it last matched, within the window.
    pub last_match: Option<Timestamp>,
    /// Whether nothing matched it for a whole window.
    pub unmatched: bool,
}

/// How long denials are kept. Rule 12.12 of docs/policy.md.
pub const DENIALS_KEPT: Duration = crate::usage::DENIALS_KEPT;

/// What `ListDenials` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct DenialQuery<'a> {
    /// Only those of this account's tokens; empty for every account.
    pub account_id: &'a str,
    /// Only those of this token; empty for every token.
    pub token_id: &'a str,
    /// How much of it.
    pub paging: Paging<'a>,
}

/// A page of denials.
#[derive(Debug)]
pub struct ListedDenials<T> {
    /// What is on it.
    pub page: Paged<T>,
    /// How many more there were that got no row, of every account asked for.
    pub unlisted: u64,
}

/// What a denial needs, for a person to decide on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenialFix {
    /// What could be done, where one change to the token would allow the request.
    pub change: Option<DenialChange>,
    /// The same in a sentence; empty where there are several reasons.
    pub text: String,
}

/// A change that would allow a denied request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenialChange {
    /// To add this address to the whitelist.
    AddAddress(ClientAddr),
    /// To use another token instead, which is created with this scope: a successor may do no more than this one.
    ReplaceWithScope(String),
}

/// What would allow what was denied. Rule 12.13 of docs/policy.md.
pub fn fix(denied: &DenialCount, in_force: &ActiveCatalog, limits: &Limits) -> DenialFix {
    let scope = denied.scope_id.and_then(|scope| in_force.name_of(scope)).map(ToString::to_string);
    let (change, text) = match (denied.reason, denied.address, scope) {
        (None, ..) => (None, String::new()),
        (Some(Reason::ClientIpNotWhitelisted), Some(address), _)
            if Cidr::parse(&address.to_string(), limits).is_ok() =>
        {
            let text = format!(
                "Add {address} to the whitelist, if you know whose it is; else somebody may have stolen the token."
            );
            (Some(DenialChange::AddAddress(address)), text)
        }
        (Some(Reason::ScopeNotGranted | Reason::ScopeLostInDowngrade), _, Some(scope)) => {
            let text = format!(
                "Create another token that has the scope {scope}, and use that one: scopes can't be added to a token, \
                 and a successor gets no more than the token has."
            );
            (Some(DenialChange::ReplaceWithScope(scope)), text)
        }
        (Some(reason), ..) => (None, cure(reason).to_owned()),
    };
    DenialFix { change, text }
}

fn cure(reason: Reason) -> &'static str {
    match reason {
        Reason::WhitelistRequired => "Set a whitelist.",
        Reason::ClientIpMissing => "Have the service send the client's address.",
        Reason::NoMatchingRoute => {
            "Check method and path, or have an operator add the route to the catalogue."
        }
        Reason::RequestAmbiguous => {
            "Send the path as the route writes it, and no header that changes it."
        }
        Reason::ClientIpNotWhitelisted => "Call from a whitelisted address.",
        _ => "The token itself can't be used now, as the reason says: use another one.",
    }
}

impl Services {
    /// Lists what was denied, the latest first. Rules 12.10 and 12.14 of docs/policy.md.
    ///
    /// # Errors
    /// [`super::Error::Invalid`] for bad filters or paging; the store's.
    pub async fn list_denials<U>(
        &self,
        caller: &Caller,
        query: DenialQuery<'_>,
        mut show: impl FnMut(Denial, DenialFix, &ActiveCatalog) -> PageItem<U>,
    ) -> Result<ListedDenials<U>> {
        let ids = self.filter_ids(caller, FieldErrors::default(), query.account_id, query.token_id);
        let list = format!("denials {} {}", query.account_id, query.token_id);
        let (ids, cursor) = both(ids, Cursor::new(query.paging, list, self.page_keys()))?;
        let in_force = self.in_force()?;
        let Some((account_id, token_id)) = ids else {
            let page = Paged { items: Vec::new(), next: String::new() };
            return Ok(ListedDenials { page, unlisted: 0 });
        };
        let since = self.clock.now().minus(DENIALS_KEPT);
        let filter = DenialFilter { account_id, token_id, since };
        let read = |page| self.read("denials", self.store.denials(&filter, page));
        let shown = |denial: Denial| {
            let fix = fix(&denial.denied, &in_force, &self.limits);
            show(denial, fix, &in_force)
        };
        let page = cursor.collect(read, |denial| denial.id, shown).await?;
        // Of one token, everything is listed or counted among its others, unless its account has no room either.
        let unlisted = match token_id {
            Some(_) => 0,
            None => self.read("denial_rest", self.store.denial_rest(account_id, since)).await?,
        };
        Ok(ListedDenials { page, unlisted })
    }

    /// The beginning of the window, now.
    fn window_start(&self) -> Timestamp {
        self.calendar().window_start()
    }

    /// The addresses that a token was used from, the latest first. Rules 12.1 and 12.3 of docs/policy.md.
    ///
    /// # Errors
    /// [`super::Error::NotFound`] where there is no token that the caller sees; the store's.
    pub async fn recent_addresses(&self, caller: &Caller, id: &str) -> Result<Vec<SeenAddress>> {
        let id: TokenId = validate::id("token_id", id)?;
        let seen = self.store.seen_addresses(id, caller.only(), self.window_start());
        self.read("seen_addresses", seen).await?.ok_or_else(|| no_token(id))
    }

    /// How often a token was used. Rule 12.5 of docs/policy.md.
    ///
    /// # Errors
    /// [`super::Error::NotFound`] where there is no token that the caller sees; the store's.
    pub async fn token_usage(&self, caller: &Caller, id: &str) -> Result<TokenUsage> {
        let id: TokenId = validate::id("token_id", id)?;
        let since = self.window_start();
        let counts = self.store.use_counts(id, caller.only(), since, MAX_COUNTS);
        let counts = self.read("use_counts", counts).await?.ok_or_else(|| no_token(id))?;
        Ok(TokenUsage { counts, since, in_force: self.in_force()? })
    }

    /// When each of a whitelist's `entries`, which are sorted, last matched.
    ///
    /// # Errors
    /// [`super::Error::NotFound`] where there is no token that the caller sees; the store's.
    pub async fn entry_uses(
        &self,
        caller: &Caller,
        id: TokenId,
        entries: &[Cidr],
    ) -> Result<Vec<EntryUse>> {
        let since = self.window_start();
        let matches = self.store.entry_matches(id, caller.only(), since);
        let matches = self.read("entry_matches", matches).await?.ok_or_else(|| no_token(id))?;
        Ok(entry_uses(entries, &matches, since))
    }
}

/// Rule 12.6 of docs/policy.md.
fn entry_uses(entries: &[Cidr], matches: &EntryMatches, since: Timestamp) -> Vec<EntryUse> {
    let observed = matches.since <= since;
    let entry_use = |&entry: &Cidr| {
        let found = matches.matches.binary_search_by_key(&entry, |&(entry, _)| entry);
        let last_match = found.ok().map(|at| matches.matches[at].1);
        EntryUse { entry, last_match, unmatched: observed && last_match.is_none() }
    };
    entries.iter().map(entry_use).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::StoredCatalog;
    use crate::policy::id::AccountId;
    use crate::policy::scope::ScopeId;

    /// Rule 12.13.
    #[test]
    fn a_denial_names_the_one_change_that_would_allow_it() {
        let toml = "[[scope]]\nname = \"a.read\"\naccess = \"read\"\n".to_owned();
        let scope_ids = vec![("a.read".parse().unwrap(), ScopeId(1))];
        let stored = StoredCatalog { version: 1, toml, applied: Timestamp(0), scope_ids };
        let in_force = ActiveCatalog::read(stored).unwrap();
        let fix_of = |reason: Option<Reason>, client: &str| {
            let denied = DenialCount {
                token_id: TokenId(Uuid::nil()),
                account_id: AccountId(Uuid::nil()),
                hour: 0,
                reason,
                address: Some(client.parse().unwrap()),
                scope_id: Some(ScopeId(1)),
                operation: String::new(),
                count: 1,
                first: Timestamp(0),
                last: Timestamp(0),
            };
            fix(&denied, &in_force, &Limits::default())
        };
        let home = "192.0.2.1";
        let added = DenialChange::AddAddress(home.parse().unwrap());
        assert_eq!(fix_of(Some(Reason::ClientIpNotWhitelisted), home).change, Some(added));
        for reason in [Reason::ScopeNotGranted, Reason::ScopeLostInDowngrade] {
            let replaced = DenialChange::ReplaceWithScope("a.read".to_owned());
            assert_eq!(fix_of(Some(reason), home).change, Some(replaced));
        }
        // No entry can be this address.
        let outside = fix_of(Some(Reason::ClientIpNotWhitelisted), "::");
        assert!(outside.change.is_none() && !outside.text.is_empty());
        let deleted = fix_of(Some(Reason::TokenDeleted), home);
        assert!(deleted.change.is_none() && !deleted.text.is_empty());
        let others = fix_of(None, home);
        assert!(others.change.is_none() && others.text.is_empty());
    }

    /// Rule 12.6.
    #[test]
    fn an_entry_is_unmatched_only_after_a_window_of_observation() {
        let entry = |text| Cidr::parse(text, &Limits::default()).unwrap();
        let entries = [entry("10.0.0.1"), entry("10.0.0.2")];
        let unmatched = |since| {
            let matches = EntryMatches { matches: vec![(entries[1], Timestamp(50))], since };
            let uses = entry_uses(&entries, &matches, Timestamp(20));
            assert_eq!((uses[0].last_match, uses[1].last_match), (None, Some(Timestamp(50))));
            assert!(!uses[1].unmatched);
            uses[0].unmatched
        };
        assert!(unmatched(Timestamp(20)) && unmatched(Timestamp(3)));
        assert!(!unmatched(Timestamp(21)), "the whitelist was changed within the window");
    }
}
