//! Tokens: creation, reading, deletion.
//!
//! Must stay true: nothing in here edits what a token may do (docs/policy.md, rule 1.10); whether it
//! may go without a whitelist is `policy`'s word, given inside the transaction that stores it.

use std::collections::HashMap;
use std::sync::Arc;

use super::accounts::{no_account, refused_account};
use super::lists::{Cursor, PageItem, Paged, Paging};
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Error, LifecycleView, Propagation, Result, Services, wait_unless};
use crate::clock::id_at;
use crate::model::{
    AccountRefusal, ActiveCatalog, Invalidation, NewToken, Token, TokenFilter, TokenUpdate,
    TokenUpdateRefusal,
};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::network::{CidrSet, Whitelist};
use crate::policy::scope::{Catalog, MAX_NAME_LEN, ScopeId, ScopeSet};
use crate::policy::text::quote;
use crate::policy::time::Timestamp;
use crate::policy::token::{
    AccountRestriction, Expiry, ExpiryRefused, Grant, RequestedExpiry, TokenKind, TokenState,
};
use crate::secret::{Secret, SecretKind};

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
    /// From when on it is denied; `None` for as long as the settings allow.
    pub expires: Option<RequestedExpiry>,
    /// Labels by key; `None` for none.
    pub labels: Option<&'a HashMap<String, String>>,
    /// Check only.
    pub validate_only: bool,
}

/// What a new token is to be, wherever its secret is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenFields<'a> {
    /// A label.
    pub name: &'a str,
    /// What it may do, in a word.
    pub kind: Option<TokenKind>,
    /// Scope names, for `CUSTOM`.
    pub scopes: &'a [String],
    /// Whitelist entries.
    pub whitelist: &'a [String],
    /// From when on it is denied; `None` for as long as the settings allow.
    pub expires: Option<RequestedExpiry>,
}

/// The same, checked.
pub(super) struct TokenParts {
    pub(super) name: String,
    pub(super) kind: TokenKind,
    /// Sorted, each once.
    pub(super) scopes: Vec<ScopeId>,
    pub(super) whitelist: Whitelist,
    pub(super) expires: Option<Timestamp>,
}

/// What `UpdateToken` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct UpdateToken<'a> {
    /// The token.
    pub token_id: &'a str,
    /// Its name from now on.
    pub name: &'a str,
    /// Its labels from now on.
    pub labels: &'a HashMap<String, String>,
    /// Which of these is changed; none for each that is not empty.
    pub update_mask: &'a [String],
}

/// A token with the catalogue that says what its grant means.
#[derive(Debug)]
pub struct Described {
    /// The token.
    pub token: Token,
    /// The catalogue in force.
    pub in_force: Arc<ActiveCatalog>,
    /// What its pending actions are explained with.
    pub outlook: LifecycleView,
}

/// The field of a request with the expiry as an instant.
pub(super) const EXPIRE_TIME: &str = "expire_time";

/// The field of a request that an expiry came from.
pub(super) fn expiry_field(requested: RequestedExpiry) -> &'static str {
    match requested {
        RequestedExpiry::At(_) => EXPIRE_TIME,
        RequestedExpiry::After(_) => "ttl",
    }
}

/// An expiry that no token can have, or not this one.
fn invalid_expiry(requested: RequestedExpiry, refused: &ExpiryRefused) -> Error {
    let reason = if *refused == ExpiryRefused::Past { "IN_THE_PAST" } else { "TOO_LATE" };
    Error::invalid(expiry_field(requested), reason, refused)
}

/// Why a token keeps its expiry.
fn expiry_refused(id: TokenId, requested: RequestedExpiry, refused: ExpiryRefused) -> Error {
    let rule = match refused {
        ExpiryRefused::Past | ExpiryRefused::TooFar | ExpiryRefused::Later(_) => {
            return invalid_expiry(requested, &refused);
        }
        ExpiryRefused::Expired(_) => "TOKEN_EXPIRED",
        ExpiryRefused::Deleted => "TOKEN_DELETED",
    };
    Error::refused(rule, format!("tokens/{id}"), refused)
}

impl Services {
    pub(super) fn described(&self, token: Token) -> Result<Described> {
        Ok(Described { token, in_force: self.in_force()?, outlook: self.outlook() })
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
    ) -> Result<Changed<(Described, Option<Secret>)>> {
        if request.validate_only {
            return self.check_token(caller, &request).await;
        }
        let request = &request;
        let attempt = move || async move {
            let in_force = self.in_force()?;
            let (new, secret) = self.new_token(caller, request, &in_force.catalog)?;
            let ctx = caller.context(self.clock.now());
            let create = self.store.create_token(&ctx, &in_force.catalog, &new);
            let changed = Invalidation::Token(new.id);
            let created = self.writes.commit("create_token", changed, &ctx, create).await;
            Ok::<_, Error>(created.map(|token| (token, new.account_id, secret, in_force, ctx)))
        };
        let (token, account_id, secret, in_force, ctx) =
            self.writes.retry_on_stale_catalog(attempt).await?;
        let token = token.map_err(|refused| refused_account(account_id, refused))?;
        self.notify_of_expiry(&token);
        self.await_early_expiry(token.expires).await?;
        let described = Described { token, in_force, outlook: self.outlook() };
        Ok(Changed::new((described, Some(secret)), &ctx))
    }

    /// What [`Self::create_token`] would create.
    async fn check_token(
        &self,
        caller: &Caller,
        request: &CreateToken<'_>,
    ) -> Result<Changed<(Described, Option<Secret>)>> {
        let in_force = self.in_force()?;
        let (new, _) = self.new_token(caller, request, &in_force.catalog)?;
        let account = self.read("account", self.store.account(new.account_id)).await?;
        let account = account.ok_or_else(|| no_account(new.account_id))?;
        let refused = match account.restriction() {
            Some(AccountRestriction::Closed { .. }) => Some(AccountRefusal::Closed),
            Some(AccountRestriction::Suspended { .. }) if caller.only().is_some() => {
                Some(AccountRefusal::Suspended)
            }
            Some(AccountRestriction::Suspended { .. }) | None => None,
        };
        if let Some(refused) = refused {
            return Err(refused_account(account.id, refused));
        }
        let token = self.as_it_would_be(new);
        let described = Described { token, in_force, outlook: self.outlook() };
        Ok(Changed { value: (described, None), revision: 0 })
    }

    fn new_token(
        &self,
        caller: &Caller,
        request: &CreateToken<'_>,
        catalog: &Catalog,
    ) -> Result<(NewToken, Secret)> {
        let mut errors = FieldErrors::default();
        let account_id = errors.take(validate::id::<AccountId>("account_id", request.account_id));
        let &CreateToken { name, kind, scopes, whitelist, expires, .. } = request;
        let fields = TokenFields { name, kind, scopes, whitelist, expires };
        let parts = self.check_fields(&fields, catalog, &mut errors);
        let labels = request.labels.and_then(|labels| errors.take(validate::labels(labels)));
        let labels = labels.unwrap_or_default();
        errors.into_result()?;
        let (Some(account_id), Some(parts)) = (account_id, parts) else {
            return Err(Error::Internal);
        };
        if !caller.sees(account_id) {
            return Err(no_account(account_id));
        }

        let id = TokenId(id_at(self.clock.now()));
        let secret = self.make_secret(SecretKind::Token, id.0)?;
        let TokenParts { name, kind, scopes, whitelist, expires } = parts;
        let digest = secret.digest();
        let new =
            NewToken { id, account_id, name, digest, kind, scopes, whitelist, expires, labels };
        Ok((new, secret))
    }

    /// Checks what a new token is to be; `None` with an error in `errors`.
    pub(super) fn check_fields(
        &self,
        fields: &TokenFields<'_>,
        catalog: &Catalog,
        errors: &mut FieldErrors,
    ) -> Option<TokenParts> {
        let name = errors.take(validate::name(fields.name, true));
        if fields.kind.is_none() {
            errors.add(
                "kind",
                "REQUIRED",
                "is required: TOKEN_KIND_READ_ONLY, TOKEN_KIND_READ_WRITE or TOKEN_KIND_CUSTOM",
            );
        }
        let scopes = errors.take(scopes(fields, catalog));
        let entries = errors.take(validate::entries("whitelist", fields.whitelist, &self.limits));
        let entries = entries.map(|entries| CidrSet::new(entries, &self.limits));
        if let Some(Err(too_many)) = &entries {
            errors.add("whitelist", "TOO_MANY_ENTRIES", too_many);
        }

        let expires = errors.take(self.new_expiry(fields.expires));

        // Whether a whitelist is needed is asked only of what is otherwise understood.
        if let (Some(kind), Some(scopes)) = (fields.kind, &scopes)
            && fields.whitelist.is_empty()
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
                errors.add("whitelist", "WHITELIST_REQUIRED", needs_whitelist(&grant, catalog));
                return None;
            }
        }
        Some(TokenParts {
            name: name?,
            kind: fields.kind?,
            scopes: scopes?,
            whitelist: entries?.ok()?.map_or(Whitelist::Unrestricted, Whitelist::Only),
            expires: expires?,
        })
    }

    /// The expiry of a new token that was asked for with this one. Rules 11.2 and 11.3 of docs/policy.md.
    fn new_expiry(&self, requested: Option<RequestedExpiry>) -> Result<Option<Timestamp>> {
        let now = self.clock.now();
        let latest = self.token_max_lifetime.map(|lifetime| now.plus(lifetime));
        let Some(requested) = requested else { return Ok(latest) };
        let asked = Expiry::NEVER.shorten(requested, now);
        let asked = asked.map_err(|refused| invalid_expiry(requested, &refused))?.time();
        match (asked, latest) {
            (Some(asked), Some(latest)) if asked > latest => Err(Error::invalid(
                expiry_field(requested),
                "TOO_LATE",
                format_args!(
                    "is later than this server allows, {latest} (setting --token-max-lifetime): name an \
                     earlier time, or none for the latest"
                ),
            )),
            (Some(asked), _) => Ok(Some(asked)),
            (None, latest) => Ok(latest),
        }
    }

    fn as_it_would_be(&self, new: NewToken) -> Token {
        Token {
            id: new.id,
            account_id: new.account_id,
            name: new.name,
            state: TokenState::Active,
            kind: new.kind,
            downgraded: None,
            scopes: new.scopes,
            taken: Vec::new(),
            whitelist: new.whitelist,
            whitelist_version: 1,
            created: self.clock.now(),
            clock_start: self.clock.now(),
            replaces: None,
            replaced_by: None,
            expires: new.expires,
            imported: None,
            labels: new.labels,
            uses: Default::default(),
            pending: Vec::new(),
            expiry_notices: Vec::new(),
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

    /// Lists tokens, the oldest first. `show` gets the catalogue that says what their grants mean.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad filters or paging; the store's.
    pub async fn list_tokens<U>(
        &self,
        caller: &Caller,
        account_id: &str,
        deleted: bool,
        paging: Paging<'_>,
        mut show: impl FnMut(Token, &ActiveCatalog) -> PageItem<U>,
    ) -> Result<Paged<U>> {
        let ids = self.filter_ids(caller, FieldErrors::default(), account_id, "");
        let cursor =
            Cursor::new(paging, format!("tokens {account_id} {deleted}"), self.page_keys());
        let (ids, cursor) = super::lists::both(ids, cursor)?;
        let in_force = self.in_force()?;
        let Some((account_id, _)) = ids else {
            return Ok(Paged { items: Vec::new(), next: String::new() });
        };
        let filter = TokenFilter { account_id, deleted };
        let read = |page| self.read("tokens", self.store.tokens(&filter, page));
        cursor.collect(read, |token| token.id, |token| show(token, &in_force)).await
    }

    /// Deletes a token; with `no_wait`, answers before that has propagated.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none that the caller sees; the store's.
    pub async fn delete_token(
        &self,
        caller: &Caller,
        id: &str,
        no_wait: bool,
    ) -> Result<Changed<(Described, Propagation)>> {
        let id: TokenId = validate::id("token_id", id)?;
        let ctx = caller.context(self.clock.now());
        let delete = self.store.delete_token(&ctx, id, caller.only());
        let deleted =
            self.writes.commit("delete_token", Invalidation::Token(id), &ctx, delete).await?;
        let described = self.described(deleted.ok_or_else(|| no_token(id))?)?;
        let propagation = self.propagation(wait_unless(no_wait)).await?;
        Ok(Changed::new((described, propagation), &ctx))
    }

    /// Brings a token's expiry nearer; with `no_wait`, answers before that has propagated. Rule 11.2 of
    /// docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no time, a past one, or one after the token's expiry; [`Error::Refused`] for a token that
    /// has ended; [`Error::NotFound`] where there is none that the caller sees; the store's.
    pub async fn set_token_expiry(
        &self,
        caller: &Caller,
        id: &str,
        expires: Option<RequestedExpiry>,
        no_wait: bool,
    ) -> Result<Changed<(Described, Propagation)>> {
        let mut errors = FieldErrors::default();
        let id = errors.take(validate::id::<TokenId>("token_id", id));
        if expires.is_none() {
            errors.add(EXPIRE_TIME, "REQUIRED", "is required: an expiry can't be removed");
            errors.add("ttl", "REQUIRED", "is required where there is no expire_time");
        }
        errors.into_result()?;
        let (Some(id), Some(expires)) = (id, expires) else { return Err(Error::Internal) };
        let ctx = caller.context(self.clock.now());
        let set = self.store.set_token_expiry(&ctx, id, caller.only(), expires);
        let set =
            self.writes.commit("set_token_expiry", Invalidation::Token(id), &ctx, set).await?;
        let token = set.ok_or_else(|| no_token(id))?;
        let token = token.map_err(|refused| expiry_refused(id, expires, refused))?;
        self.notify_of_expiry(&token);
        let described = self.described(token)?;
        let propagation = self.propagation(wait_unless(no_wait)).await?;
        Ok(Changed::new((described, propagation), &ctx))
    }

    /// Whether [`Self::set_token_expiry`] would take this one, as far as the token as it was read says.
    ///
    /// # Errors
    /// As there.
    pub fn check_token_expiry(&self, token: &Token, expires: Timestamp) -> Result<()> {
        let requested = RequestedExpiry::At(expires);
        if token.state != TokenState::Active {
            return Err(expiry_refused(token.id, requested, ExpiryRefused::Deleted));
        }
        let shortened = Expiry::from(token.expires).shorten(requested, self.clock.now());
        shortened.map(|_| ()).map_err(|refused| expiry_refused(token.id, requested, refused))
    }

    /// Has the admins mailed without waiting for the next sweep, where the token's expiry is nearer than the notice
    /// period. Rule 11.7 of docs/policy.md.
    pub(super) fn notify_of_expiry(&self, token: &Token) {
        let soon = self.clock.now().plus(self.lifecycle.notice());
        if token.expires.is_some_and(|at| at <= soon) {
            self.sweep_wakeup.notify_one();
        }
    }

    /// Changes a token's name and labels. Rule 11.80 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad fields, [`Error::NotFound`] where there is none that the caller sees,
    /// [`Error::Refused`] for a deleted token, and where its account stands in the way; the store's.
    pub async fn update_token(
        &self,
        caller: &Caller,
        request: UpdateToken<'_>,
    ) -> Result<Changed<Described>> {
        let mut errors = FieldErrors::default();
        let id = errors.take(validate::id::<TokenId>("token_id", request.token_id));
        let update = token_update(&request, &mut errors);
        errors.into_result()?;
        let id = id.ok_or(Error::Internal)?;
        let ctx = caller.context(self.clock.now());
        let work = self.store.update_token(&ctx, id, caller.only(), &update);
        let updated = self.writes.commit("update_token", Invalidation::Nothing, &ctx, work).await?;
        let token = updated.ok_or_else(|| no_token(id))?.map_err(|refused| match refused {
            TokenUpdateRefusal::Account(account, refused) => refused_account(account, refused),
            TokenUpdateRefusal::Deleted => Error::refused(
                "TOKEN_DELETED",
                format!("tokens/{id}"),
                format_args!(
                    "the token {id} is deleted; its name and labels can't change any more"
                ),
            ),
        })?;
        Ok(Changed::new(self.described(token)?, &ctx))
    }
}

/// What an update asks for: the fields that it names, or those that are set. Rule 11.80 of docs/policy.md.
fn token_update(request: &UpdateToken<'_>, errors: &mut FieldErrors) -> TokenUpdate {
    const MASK: &str = "update_mask";
    /// More than there are fields.
    const MAX_PATHS: usize = 16;
    let (mut name, mut labels) = match request.update_mask {
        [] => (!request.name.is_empty(), !request.labels.is_empty()),
        _ => (false, false),
    };
    if request.update_mask.len() > MAX_PATHS {
        let count = request.update_mask.len();
        let text = format!("has {count} paths, and {MAX_PATHS} is the most: name each field once");
        errors.add(format!("{MASK}.paths"), "TOO_MANY", text);
        return TokenUpdate::default();
    }
    for (index, path) in request.update_mask.iter().enumerate() {
        match path.as_str() {
            "name" => name = true,
            "labels" => labels = true,
            "*" => (name, labels) = (true, true),
            other => {
                let shown = quote(other, MAX_NAME_LEN);
                let text = format!(
                    "names {shown}, which this call does not change: it changes name and labels"
                );
                errors.add(format!("{MASK}.paths[{index}]"), "UNKNOWN_FIELD", text);
            }
        }
    }
    if request.update_mask.is_empty() && !name && !labels {
        let text = "is required where neither name nor labels is set: say which of them is changed";
        errors.add(MASK, "REQUIRED", text);
    }
    TokenUpdate {
        name: name.then(|| errors.take(validate::name(request.name, true))).flatten(),
        labels: labels.then(|| errors.take(validate::labels(request.labels))).flatten(),
    }
}

fn scopes(fields: &TokenFields<'_>, catalog: &Catalog) -> Result<Vec<ScopeId>> {
    let names = fields.scopes;
    match fields.kind {
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
    scope_ids(names, catalog)
}

/// The ids of scopes that a request lists in `scopes`, sorted, each once.
///
/// # Errors
/// Every name that the catalogue does not have; more than any request may list.
pub(super) fn scope_ids(names: &[String], catalog: &Catalog) -> Result<Vec<ScopeId>> {
    if names.len() > MAX_SCOPES {
        let text = format!("lists {} scopes; the most is {MAX_SCOPES}", names.len());
        return Err(Error::invalid("scopes", "TOO_MANY", text));
    }
    let mut errors = FieldErrors::default();
    let mut ids = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        match catalog.by_name(name) {
            Some(scope) => ids.push(scope.id),
            None => {
                let shown = quote(name, MAX_NAME_LEN);
                errors.add(
                    format!("scopes[{at}]"),
                    "UNKNOWN_SCOPE",
                    format_args!("the catalogue has no scope {shown}: check its spelling"),
                );
            }
        }
    }
    errors.into_result()?;
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

pub(super) fn no_token(id: TokenId) -> Error {
    Error::NotFound { kind: "token", id: id.to_string() }
}
