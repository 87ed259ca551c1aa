//! Tokens that were issued elsewhere come in by the digests of their secrets (docs/policy.md, section 10).
//!
//! Must stay true: what is imported keeps every rule of a token that is created here; an item that is refused changes
//! nothing and spoils no other.

use std::sync::{Arc, LazyLock};

use uuid::Uuid;

use super::accounts::{no_account, refused_account};
use super::tokens::TokenFields;
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Error, LifecycleView, Propagation, Result, Services};
use crate::clock::id_at;
use crate::model::{
    ActiveCatalog, ImportItem, ImportOutcome, ImportRefused, Invalidation, NewImport, NewToken,
    Role, Token,
};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenState;
use crate::replication::Wait;
use crate::secret::{self, Digest};

/// The most tokens of one call.
pub const MAX_IMPORT: usize = 1_000;

/// The field of an item with the digest.
const DIGEST: &str = "secret_sha256";

/// What `ImportTokens` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct ImportTokens<'a> {
    /// The owner of all of them.
    pub account_id: &'a str,
    /// The tokens, at most [`MAX_IMPORT`].
    pub tokens: &'a [ImportToken<'a>],
    /// Check only.
    pub validate_only: bool,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct ImportToken<'a> {
    /// What a token that is created here has as well.
    pub fields: TokenFields<'a>,
    /// SHA-256 of its secret.
    pub digest: &'a [u8],
    /// When it was created, as far as known.
    pub created: Option<Timestamp>,
    /// When it was last used, as far as known.
    pub last_use: Option<Timestamp>,
    /// What is known to be wrong with it already.
    pub errors: FieldErrors,
}

/// What became of an import.
#[derive(Debug)]
pub struct Imported {
    /// Of each item, in order.
    pub results: Vec<Result<ImportedToken>>,
    /// The catalogue in force.
    pub in_force: Arc<ActiveCatalog>,
    /// What pending actions are explained with.
    pub outlook: LifecycleView,
    /// How far the import has propagated; `None` where nothing was imported, nor found to be.
    pub propagation: Option<Propagation>,
}

/// A token that an item of an import led to.
#[derive(Debug)]
pub struct ImportedToken {
    /// The token. Its id means nothing where it was only checked.
    pub token: Token,
    /// Whether it was there before, so that nothing was changed.
    pub already_existed: bool,
}

impl Services {
    /// Imports tokens, and waits until every replica knows them. Items are refused one by one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no item, too many of them, and a bad account; [`Error::NotFound`] for no such account;
    /// [`Error::Forbidden`] for account admins, unless a setting allows it; [`Error::NotPropagatedYet`]; the store's.
    pub async fn import_tokens(
        &self,
        caller: &Caller,
        request: ImportTokens<'_>,
    ) -> Result<Changed<Imported>> {
        // Rule 10.1 of docs/policy.md.
        if matches!(caller.role, Role::AccountAdmin(_)) && !self.allow_admin_import {
            return Err(Error::Forbidden(
                "importing tokens needs a credential of role operator; the server's setting --allow-admin-import lets \
                 account admins import too"
                    .to_owned(),
            ));
        }
        let mut errors = FieldErrors::default();
        let account_id = errors.take(validate::id::<AccountId>("account_id", request.account_id));
        match request.tokens.len() {
            0 => errors.add("tokens", "REQUIRED", "is empty: send at least one"),
            1..=MAX_IMPORT => {}
            many => errors.add(
                "tokens",
                "TOO_MANY",
                format_args!(
                    "has {many} items; the most is {MAX_IMPORT}: send them in several calls"
                ),
            ),
        }
        errors.into_result()?;
        let account_id = account_id.ok_or(Error::Internal)?;
        if !caller.sees(account_id) {
            return Err(no_account(account_id));
        }

        let attempt = move || async move {
            let in_force = self.in_force()?;
            let ctx = caller.context(self.clock.now());
            let checked: Vec<_> = request
                .tokens
                .iter()
                .map(|item| self.check_import(account_id, item, &in_force.catalog, ctx.now))
                .collect();
            let items: Vec<_> = checked
                .iter()
                .filter_map(|item| {
                    Some(ImportItem { digest: item.digest?, new: item.new.as_ref().ok().cloned() })
                })
                .collect();
            let catalog = &in_force.catalog;
            let dry_run = request.validate_only;
            let import = self.store.import_tokens(&ctx, catalog, account_id, &items, dry_run);
            let outcomes = match dry_run {
                true => self.writes.check("import_tokens", import).await,
                false => {
                    self.writes.commit("import_tokens", Invalidation::Imports, &ctx, import).await
                }
            };
            Ok::<_, Error>(outcomes.map(|outcomes| (outcomes, checked, in_force, ctx)))
        };
        let (outcomes, checked, in_force, ctx) =
            self.writes.retry_on_stale_catalog(attempt).await?;
        let outcomes = outcomes.map_err(|refused| refused_account(account_id, refused))?;

        // What was found to be imported already may have been answered to nobody. Rules 6.4, 10.3 and 10.8 of
        // docs/policy.md.
        let is_there = |outcome: &ImportOutcome| {
            matches!(outcome, ImportOutcome::Imported(_) | ImportOutcome::AlreadyExisted(_))
        };
        let propagation = match !request.validate_only && outcomes.iter().any(is_there) {
            true => Some(self.propagation(Wait::UntilComplete).await?),
            false => None,
        };
        let mut outcomes = outcomes.into_iter();
        let results = checked.into_iter().map(|item| match item.digest {
            Some(_) => result(outcomes.next().ok_or(Error::Internal)?, item.new.err()),
            None => Err(item.new.err().unwrap_or(Error::Internal)),
        });
        let results = results.collect();
        let imported = Imported { results, in_force, outlook: self.outlook(), propagation };
        Ok(Changed::new(imported, &ctx))
    }

    /// Checks one item. Rules 10.2 to 10.4 of docs/policy.md.
    fn check_import(
        &self,
        account_id: AccountId,
        item: &ImportToken<'_>,
        catalog: &Catalog,
        now: Timestamp,
    ) -> CheckedItem {
        let mut errors = item.errors.clone();
        let digest = errors.take(checked_digest(item.digest));
        let parts = self.check_fields(&item.fields, catalog, &mut errors);
        let created = errors.take(created(item, now));
        let new = errors.into_result().and_then(|()| {
            let (Some(digest), Some(parts), Some(created)) = (digest, parts, created) else {
                return Err(Error::Internal);
            };
            let (first, _) = id_at(now).as_u64_pair();
            let half = self.cache.keys().imported_half(&digest);
            let token = NewToken {
                labels: Default::default(),
                id: TokenId(Uuid::from_u64_pair(first, half)),
                account_id,
                name: parts.name,
                digest,
                kind: parts.kind,
                scopes: parts.scopes,
                whitelist: parts.whitelist,
                expires: parts.expires,
            };
            Ok(NewImport { token, created, last_use: item.last_use })
        });
        CheckedItem { digest, new }
    }
}

/// An item with what is wrong with it, and the digest if that can be looked up all the same.
struct CheckedItem {
    digest: Option<Digest>,
    new: Result<NewImport>,
}

/// Of texts that are no secrets.
static BLANK: LazyLock<[Digest; 6]> = LazyLock::new(|| {
    ["", " ", "\t", "\n", "\r\n", "secret-token:"].map(|text| secret::digest(text.as_bytes()))
});

fn checked_digest(bytes: &[u8]) -> Result<Digest> {
    let Ok(digest) = Digest::try_from(bytes) else {
        let text = format!(
            "has {} bytes: send the 32 bytes of the SHA-256 of the token's secret",
            bytes.len()
        );
        return Err(Error::invalid(DIGEST, "NOT_A_DIGEST", text));
    };
    // A request without any token must never present an imported one, and white space is what is left of a secret by
    // mistake.
    if BLANK.contains(&digest) {
        let text =
            "is the digest of an empty text, or of white space: send that of the token's secret";
        return Err(Error::invalid(DIGEST, "EMPTY_SECRET", text));
    }
    Ok(digest)
}

/// When a token was created elsewhere. Rule 10.4 of docs/policy.md.
fn created(item: &ImportToken<'_>, now: Timestamp) -> Result<Timestamp> {
    let future = |field, at| {
        let text = format!("{at} is after the server's time, {now}");
        Err(Error::invalid(field, "IN_THE_FUTURE", text))
    };
    match (item.created, item.last_use) {
        (_, Some(last_use)) if last_use > now => future("last_use_time", last_use),
        (Some(created), None) if created > now => future("create_time", created),
        (Some(created), Some(last_use)) if created > last_use => Err(Error::invalid(
            "create_time",
            "AFTER_LAST_USE",
            format_args!("{created} is after last_use_time, {last_use}"),
        )),
        (Some(created), _) => Ok(created),
        // The latest that it can be.
        (None, last_use) => Ok(last_use.unwrap_or(now)),
    }
}

fn result(outcome: ImportOutcome, invalid: Option<Error>) -> Result<ImportedToken> {
    match outcome {
        ImportOutcome::Imported(token) => Ok(ImportedToken { token, already_existed: false }),
        ImportOutcome::AlreadyExisted(token) => Ok(ImportedToken { token, already_existed: true }),
        ImportOutcome::Refused(refused) => Err(refusal(refused)),
        ImportOutcome::NotFound => Err(invalid.unwrap_or(Error::Internal)),
    }
}

/// Rules 10.5 and 10.6 of docs/policy.md.
fn refusal(refused: ImportRefused) -> Error {
    const CURE: &str = "what has ended is never imported again: issue a new token";
    let (rule, text) = match refused {
        ImportRefused::Ended(TokenState::DeletedUnused { at }) => (
            "TOKEN_DELETED_UNUSED",
            format!(
                "the token with this secret was deleted at {at}, since it was not used; {CURE}"
            ),
        ),
        ImportRefused::Ended(TokenState::RevokedLeaked { at }) => (
            "TOKEN_REVOKED_LEAKED",
            format!(
                "the token with this secret was revoked at {at}, since the secret leaked; {CURE}"
            ),
        ),
        ImportRefused::Ended(TokenState::Deleted { at }) => {
            ("TOKEN_DELETED", format!("the token with this secret was deleted at {at}; {CURE}"))
        }
        ImportRefused::Expired(at) => {
            ("TOKEN_EXPIRED", format!("the token with this secret expired at {at}; {CURE}"))
        }
        ImportRefused::Ended(TokenState::Active) | ImportRefused::InUse => (
            "DIGEST_IN_USE",
            "this is the digest of another token or credential: issue a new token".to_owned(),
        ),
    };
    Error::refused(rule, DIGEST, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(created: Option<i64>, last_use: Option<i64>) -> ImportToken<'static> {
        ImportToken {
            fields: TokenFields::default(),
            digest: &[],
            created: created.map(Timestamp),
            last_use: last_use.map(Timestamp),
            errors: FieldErrors::default(),
        }
    }

    /// Rule 10.4 of docs/policy.md.
    #[test]
    fn times_are_in_order_and_not_in_the_future() {
        let of = |create, last_use| match created(&item(create, last_use), Timestamp(10)) {
            Ok(at) => Ok(at.0),
            Err(Error::Invalid(errors)) => Err((errors[0].field.clone(), errors[0].reason)),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(of(None, None), Ok(10));
        assert_eq!(of(Some(3), None), Ok(3));
        assert_eq!(of(None, Some(4)), Ok(4));
        for last in [3, 4, 10] {
            assert_eq!(of(Some(3), Some(last)), Ok(3));
        }
        let refused = |field: &str, reason| Err((field.to_owned(), reason));
        assert_eq!(of(Some(5), Some(4)), refused("create_time", "AFTER_LAST_USE"));
        assert_eq!(of(Some(11), None), refused("create_time", "IN_THE_FUTURE"));
        for created in [None, Some(3), Some(12)] {
            assert_eq!(of(created, Some(11)), refused("last_use_time", "IN_THE_FUTURE"));
        }
    }

    /// Rules 10.5 and 10.6 of docs/policy.md.
    #[test]
    fn a_digest_of_what_has_ended_is_refused_with_its_reason() {
        let at = Timestamp(1);
        for (refused, wanted) in [
            (ImportRefused::Ended(TokenState::Deleted { at }), "TOKEN_DELETED"),
            (ImportRefused::Ended(TokenState::DeletedUnused { at }), "TOKEN_DELETED_UNUSED"),
            (ImportRefused::Ended(TokenState::RevokedLeaked { at }), "TOKEN_REVOKED_LEAKED"),
            (ImportRefused::Expired(at), "TOKEN_EXPIRED"),
            (ImportRefused::InUse, "DIGEST_IN_USE"),
        ] {
            match refusal(refused) {
                Error::Refused(obstacles, _) => assert_eq!(obstacles[0].rule, wanted),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn only_the_digest_of_something_is_one() {
        assert!(checked_digest(&secret::digest(b"s")).is_ok());
        for bad in [&secret::digest(b"")[..], &[1; 31], &[1; 33], b""] {
            assert!(checked_digest(bad).is_err(), "{}", bad.len());
        }
    }
}
