//! Tokens: creation, reading, deletion, whitelists.
//!
//! Must stay true: nothing in here edits what a token may do; whether it may go without a whitelist
//! is `policy`'s word, given inside the transaction that stores it.

use std::sync::Arc;

use uuid::Uuid;

use super::accounts::no_account;
use super::error::{Obstacle, Violation};
use super::lists::{Cursor, Paged, Paging};
use super::validate::{self, Faults};
use super::{Binding, Caller, Error, Result, Services};
use crate::cache::InForce;
use crate::policy::id::{AccountId, TokenId};
use crate::policy::network::{Change, ChangeError, Entries, Limits, Whitelist};
use crate::policy::scope::{Catalog, ScopeId, ScopeSet};
use crate::policy::token::{Grant, TokenKind};
use crate::secret::{Opens, Secret};
use crate::store::{
    NewToken, StoreError, Token, TokenFilter, Touched, WhitelistChanged, WhitelistRefused,
    WhitelistTarget,
};

/// How often a change is tried on a catalogue that is replaced meanwhile.
const TRIES: usize = 5;
/// The most scope names a request may list.
const MAX_SCOPES: usize = 1_000;

/// What `CreateToken` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct CreateToken<'a> {
    /// Its owner.
    pub account_id: &'a str,
    /// A label.
    pub name: &'a str,
    /// What it may do, in a word.
    pub kind: Option<TokenKind>,
    /// Scope names, for `CUSTOM`.
    pub scopes: &'a [String],
    /// Whitelist entries.
    pub whitelist: &'a [String],
    /// Check only.
    pub validate_only: bool,
}

/// What `ManageWhitelist` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct ManageWhitelist<'a> {
    /// The token.
    pub token_id: &'a str,
    /// Entries to add.
    pub add: &'a [String],
    /// Entries to remove.
    pub remove: &'a [String],
    /// The whole new list, and whether it may be empty.
    pub replace: Option<(&'a [String], bool)>,
    /// The version it must have.
    pub expected_version: Option<i64>,
    /// Check only.
    pub validate_only: bool,
}

/// What `ManageWhitelist` answers.
#[derive(Debug)]
pub struct ManagedWhitelist {
    /// The whitelist as it stands, or would stand.
    pub outcome: WhitelistChanged,
    /// Whether the change binds; `None` where there was nothing to bind.
    pub binding: Option<Binding>,
}

/// A token with the catalogue that says what its grant means.
#[derive(Debug)]
pub struct Described {
    /// The token.
    pub token: Token,
    /// The catalogue in force.
    pub in_force: Arc<InForce>,
}

impl Services {
    fn described(&self, token: Token) -> Result<Described> {
        Ok(Described { token, in_force: self.in_force()? })
    }

    /// Creates a token. With `validate_only` the secret is absent, and the id means nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad fields and for a missing whitelist, [`Error::NotFound`] for no
    /// such account; the store's.
    pub async fn create_token(
        &self,
        caller: &Caller,
        request: CreateToken<'_>,
    ) -> Result<(Described, Option<Secret>)> {
        for _ in 0..TRIES {
            let in_force = self.in_force()?;
            let (new, secret) = self.new_token(&request, &in_force.catalog)?;
            if !caller.sees(new.account_id) {
                return Err(no_account(new.account_id));
            }
            if request.validate_only {
                let account = self.store.account(new.account_id);
                self.read("account", account).await?.ok_or_else(|| no_account(new.account_id))?;
                let token = self.as_it_would_be(new);
                return Ok((Described { token, in_force }, None));
            }
            let ctx = caller.context(self.clock.now());
            let create = self.store.create_token(&ctx, &in_force.catalog, &new);
            match self.change("create_token", Touched::Token(new.id), create).await {
                Ok(Ok(token)) => return Ok((Described { token, in_force }, Some(secret))),
                Ok(Err(_)) => return Err(no_account(new.account_id)),
                Err(StoreError::StaleCatalog) => self.catch_up().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::StaleCatalog.into())
    }

    fn new_token(
        &self,
        request: &CreateToken<'_>,
        catalog: &Catalog,
    ) -> Result<(NewToken, Secret)> {
        let mut faults = Faults::default();
        let account_id = faults.take(validate::id::<AccountId>("account_id", request.account_id));
        let name = faults.take(validate::name(request.name, true)).unwrap_or_default();
        if request.kind.is_none() {
            faults.add(
                "kind",
                "REQUIRED",
                "is required: TOKEN_KIND_READ_ONLY, TOKEN_KIND_READ_WRITE or TOKEN_KIND_CUSTOM",
            );
        }
        let scopes = faults.take(scopes(request, catalog));
        let entries = faults.take(validate::entries("whitelist", request.whitelist, &self.limits));
        let entries = entries.map(|entries| Entries::new(entries, &self.limits));
        if let Some(Err(too_many)) = &entries {
            faults.add("whitelist", "TOO_MANY_ENTRIES", too_many);
        }

        // Whether a whitelist is needed is asked only of what is otherwise understood.
        if let (Some(kind), Some(scopes)) = (request.kind, &scopes)
            && request.whitelist.is_empty()
        {
            let grant = match kind {
                TokenKind::ReadOnly => Grant::ReadOnly { downgraded: false },
                TokenKind::ReadWrite => Grant::ReadWrite,
                TokenKind::Custom => Grant::Custom {
                    granted: scopes.iter().copied().collect(),
                    taken: ScopeSet::default(),
                },
            };
            if grant.requires_whitelist(catalog) {
                faults.add("whitelist", "WHITELIST_REQUIRED", needs_whitelist(&grant, catalog));
            }
        }
        faults.settle()?;
        let (Some(account_id), Some(kind), Some(scopes), Some(Ok(entries))) =
            (account_id, request.kind, scopes, entries)
        else {
            return Err(Error::Internal);
        };

        let id = TokenId(Uuid::now_v7());
        let secret = self.make_secret(Opens::Token, id.0)?;
        let new = NewToken {
            id,
            account_id,
            name,
            digest: secret.digest(),
            kind,
            scopes,
            whitelist: entries.map_or(Whitelist::Unrestricted, Whitelist::Only),
        };
        Ok((new, secret))
    }

    fn as_it_would_be(&self, new: NewToken) -> Token {
        Token {
            id: new.id,
            account_id: new.account_id,
            name: new.name,
            state: crate::policy::token::TokenState::Active,
            kind: new.kind,
            downgraded: None,
            scopes: new.scopes,
            taken: Vec::new(),
            whitelist: new.whitelist,
            whitelist_version: 1,
            created: self.clock.now(),
            pending: Vec::new(),
        }
    }

    /// Reads one token.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none that the caller sees; the store's.
    pub async fn get_token(&self, caller: &Caller, id: &str) -> Result<Described> {
        let id: TokenId = validate::id("token_id", id)?;
        let token = self.read("token", self.store.token(id, caller.only())).await?;
        self.described(token.ok_or_else(|| no_token(id))?)
    }

    /// Lists tokens, the oldest first, and the catalogue that says what their grants mean.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad filters or paging; the store's.
    pub async fn list_tokens(
        &self,
        caller: &Caller,
        account_id: &str,
        deleted: bool,
        paging: Paging<'_>,
    ) -> Result<(Paged<Token>, Arc<InForce>)> {
        let ids = self.filter_ids(caller, Faults::default(), account_id, "");
        let cursor = Cursor::new(paging, format!("tokens {account_id} {deleted}"));
        let (ids, cursor) = super::lists::both(ids, cursor)?;
        let in_force = self.in_force()?;
        let Some((account_id, _)) = ids else {
            return Ok((Paged { items: Vec::new(), next: String::new() }, in_force));
        };
        let filter = TokenFilter { account_id, deleted };
        let items = self.read("tokens", self.store.tokens(&filter, cursor.page)).await?;
        Ok((cursor.finish(items, |token| token.id), in_force))
    }

    /// Deletes a token.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none that the caller sees; the store's.
    pub async fn delete_token(&self, caller: &Caller, id: &str) -> Result<(Described, Binding)> {
        let id: TokenId = validate::id("token_id", id)?;
        let ctx = caller.context(self.clock.now());
        let delete = self.store.delete_token(&ctx, id, caller.only());
        let deleted = self.change("delete_token", Touched::Token(id), delete).await?;
        let described = self.described(deleted.ok_or_else(|| no_token(id))?)?;
        Ok((described, self.bound()))
    }

    /// Reads or changes a token's whitelist (docs/policy.md, section 3).
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad entries, [`Error::Refused`] where a rule stands in the way,
    /// [`Error::Aborted`] for a stale version, [`Error::NotFound`] for no such token; the store's.
    pub async fn manage_whitelist(
        &self,
        caller: &Caller,
        request: ManageWhitelist<'_>,
    ) -> Result<ManagedWhitelist> {
        let (target, change) = self.whitelist_change(caller, &request)?;
        let id = target.token_id;
        let Some(change) = change else {
            return self.read_whitelist(target).await;
        };
        for _ in 0..TRIES {
            let ctx = caller.context(self.clock.now());
            let in_force = self.in_force()?;
            let work = self.store.change_whitelist(
                &ctx,
                &in_force.catalog,
                target,
                &change,
                &self.limits,
                request.validate_only,
            );
            let result = if request.validate_only {
                self.stored("check_whitelist", work).await
            } else {
                self.change("change_whitelist", Touched::Token(id), work).await
            };
            match result {
                Ok(None) => return Err(no_token(id)),
                Ok(Some(Ok(outcome))) => {
                    let binding = (!request.validate_only).then(|| self.bound());
                    return Ok(ManagedWhitelist { outcome, binding });
                }
                Ok(Some(Err(refused))) => return Err(refusal(id, &change, refused)),
                Err(StoreError::StaleCatalog) => self.catch_up().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::StaleCatalog.into())
    }

    async fn read_whitelist(&self, target: WhitelistTarget) -> Result<ManagedWhitelist> {
        let id = target.token_id;
        let token = self.read("token", self.store.token(id, target.only)).await?;
        let token = token.ok_or_else(|| no_token(id))?;
        if target.expected_version.is_some_and(|version| version != token.whitelist_version) {
            return Err(stale(token.whitelist_version));
        }
        let outcome = WhitelistChanged {
            whitelist: token.whitelist,
            version: token.whitelist_version,
            still_covered_by: Vec::new(),
            changed: false,
        };
        Ok(ManagedWhitelist { outcome, binding: None })
    }

    fn whitelist_change(
        &self,
        caller: &Caller,
        request: &ManageWhitelist<'_>,
    ) -> Result<(WhitelistTarget, Option<Change>)> {
        let mut faults = Faults::default();
        let token_id = faults.take(validate::id::<TokenId>("token_id", request.token_id));
        if request.expected_version.is_some_and(|version| version < 1) {
            faults.add("expected_version", "NOT_A_VERSION", "is no version; they count from 1");
        }
        let edits = !request.add.is_empty() || !request.remove.is_empty();
        let change = match request.replace {
            Some(_) if edits => {
                faults.add(
                    "replace",
                    "TWO_CHANGES",
                    "goes without add and remove: send one or the other",
                );
                None
            }
            Some((entries, allow_any_address)) => faults
                .take(validate::entries("replace.entries", entries, &self.limits))
                .map(|entries| Change::Replace { entries, allow_any_address }),
            None if edits => {
                let add = faults.take(validate::entries("add", request.add, &self.limits));
                // What was accepted under earlier limits can still be removed.
                let remove =
                    faults.take(validate::entries("remove", request.remove, &Limits::NONE));
                add.zip(remove).map(|(add, remove)| Change::Edit { add, remove })
            }
            None => None,
        };
        faults.settle()?;
        let target = WhitelistTarget {
            token_id: token_id.ok_or(Error::Internal)?,
            only: caller.only(),
            expected_version: request.expected_version,
        };
        Ok((target, change))
    }
}

fn scopes(request: &CreateToken<'_>, catalog: &Catalog) -> Result<Vec<ScopeId>> {
    let names = request.scopes;
    match request.kind {
        Some(TokenKind::Custom) if names.is_empty() => {
            let text = "is required for TOKEN_KIND_CUSTOM: name at least one scope";
            return Err(Error::invalid("scopes", "REQUIRED", text));
        }
        Some(TokenKind::ReadOnly | TokenKind::ReadWrite) if !names.is_empty() => {
            let text = "goes with TOKEN_KIND_CUSTOM only: leave it out";
            return Err(Error::invalid("scopes", "NOT_FOR_THIS_KIND", text));
        }
        _ => {}
    }
    if names.len() > MAX_SCOPES {
        let text = format!("lists {} scopes; the most is {MAX_SCOPES}", names.len());
        return Err(Error::invalid("scopes", "TOO_MANY", text));
    }
    let mut faults = Faults::default();
    let mut ids = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        match catalog.by_name(name) {
            Some(scope) => ids.push(scope.id),
            None => {
                let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                faults.add(
                    format!("scopes[{at}]"),
                    "UNKNOWN_SCOPE",
                    format_args!("the catalogue has no scope {shown}; GetCatalog lists them"),
                );
            }
        }
    }
    faults.settle()?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn needs_whitelist(grant: &Grant, catalog: &Catalog) -> String {
    const CURE: &str = "name the addresses that it will be used from";
    match grant {
        Grant::Custom { granted, .. } => {
            let names: Vec<_> = catalog
                .scopes()
                .iter()
                .filter(|scope| scope.requires_whitelist && granted.contains(scope.id))
                .map(|scope| scope.name.as_str())
                .collect();
            format!("is required for a token with {}: {CURE}", names.join(", "))
        }
        Grant::ReadOnly { .. } | Grant::ReadWrite => {
            format!("is required for a token that may write: {CURE}")
        }
    }
}

fn refusal(id: TokenId, change: &Change, refused: WhitelistRefused) -> Error {
    let rule = match refused {
        WhitelistRefused::Stale { current } => return stale(current),
        WhitelistRefused::Deleted => {
            let text = format!("the token {id} is deleted; its whitelist can't change any more");
            return Error::refused("TOKEN_DELETED", format!("tokens/{id}"), text);
        }
        WhitelistRefused::Rule(rule) => rule,
    };
    let field = match (&rule, change) {
        (ChangeError::NotPresent(_) | ChangeError::WouldRemoveLast, _) => "remove",
        (
            ChangeError::TooMany(_) | ChangeError::SameEntryAddedAndRemoved(_),
            Change::Edit { .. },
        ) => "add",
        (_, Change::Edit { .. }) => "remove",
        (ChangeError::ReplaceNotEmptyWithAllowAny, _) => "replace.allow_any_address",
        (_, Change::Replace { .. }) => "replace.entries",
    };
    let reason = rule.reason();
    let violation = Violation { field: field.to_owned(), description: rule.to_string(), reason };
    match rule {
        // The request contradicts itself, whatever the token is like.
        ChangeError::SameEntryAddedAndRemoved(_)
        | ChangeError::EmptyReplace
        | ChangeError::ReplaceNotEmptyWithAllowAny
        | ChangeError::TooMany(_) => Error::Invalid(vec![violation]),
        // The state of the token stands in the way.
        ChangeError::NotPresent(_) | ChangeError::WouldRemoveLast | ChangeError::Required => {
            let obstacle = Obstacle {
                rule: reason,
                subject: format!("tokens/{id}"),
                description: rule.to_string(),
            };
            Error::Refused(vec![obstacle], vec![violation])
        }
    }
}

fn stale(current: i64) -> Error {
    Error::Aborted(format!(
        "somebody changed the whitelist meanwhile: it has version {current} now; read it, then \
         decide again"
    ))
}

fn no_token(id: TokenId) -> Error {
    Error::NotFound { kind: "token", id: id.to_string() }
}
