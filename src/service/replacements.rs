//! Replacing a token by a successor, and what a successor needs of what the old token may do.
//!
//! Must stay true: what a successor may do, when it ends and what becomes of what is announced is `policy`'s word,
//! given inside the transaction that stores it. Rules: docs/policy.md, section 11, from 11.30 on.

use std::time::Duration;

use super::accounts::refused_account;
use super::error::{Obstacle, Violation};
use super::explain::names;
use super::tokens::{Described, EXPIRE_TIME, expiry_field, no_token, scope_ids};
use super::validate::{self, FieldErrors};
use super::{Caller, Changed, Error, Propagation, Result, Services};
use crate::clock::id_at;
use crate::model::{
    ActiveCatalog, Invalidation, NotReplaced, Replaced, Replacement, SeenAddress, Token,
};
use crate::policy::duration;
use crate::policy::id::TokenId;
use crate::policy::network::{CidrSet, Whitelist};
use crate::policy::replacement::{
    self, DEFAULT_OVERLAP, MAX_OVERLAP, ReplacementRefused, SuccessorExpiryRefused,
};
use crate::policy::scope::{Catalog, ScopeId};
use crate::policy::time::Timestamp;
use crate::policy::token::RequestedExpiry;
use crate::replication::Wait;
use crate::secret::{Secret, SecretKind};

/// What `ReplaceToken` may be asked for.
#[derive(Debug, Clone, Copy)]
pub struct ReplaceToken<'a> {
    /// The token to be replaced.
    pub token_id: &'a str,
    /// How long it lasts beside the successor; `None` for [`DEFAULT_OVERLAP`].
    pub overlap: Option<Duration>,
    /// Names of the scopes that the successor may use; empty for all that the token may use now.
    pub scopes: &'a [String],
    /// Whitelist entries of the successor; empty for those of the token.
    pub whitelist: &'a [String],
    /// From when on the successor is denied; `None` for the token's expiry.
    pub expires: Option<RequestedExpiry>,
    /// Check only.
    pub validate_only: bool,
    /// Answer before the end of the token has propagated.
    pub no_wait: bool,
}

/// What `ReplaceToken` answers.
#[derive(Debug)]
pub struct ReplacedToken {
    /// The new token; its id means nothing where it was only checked.
    pub successor: Described,
    /// Its secret; `None` where it was only checked.
    pub secret: Option<Secret>,
    /// The old token.
    pub replaced: Described,
    /// What a successor needs.
    pub proposal: Proposal,
    /// How far the change has propagated; `None` where it was only checked, and where that is not known.
    pub propagation: Option<Propagation>,
}

/// What a successor needs, as far as the uses of the old token show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// What was used since then.
    pub used: Vec<ScopeId>,
    /// What else it may use.
    pub unused: Vec<ScopeId>,
    /// A window before now.
    pub since: Timestamp,
    /// From where it was used since then, the latest first.
    pub addresses: Vec<SeenAddress>,
}

impl Services {
    /// Replaces a token. Waits for propagation where the old token ends before that is complete at the latest, unless
    /// `no_wait`: before then, replicas may still allow it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for bad fields, also those in `errors`, and for a missing whitelist; [`Error::Refused`] where
    /// a rule stands in the way; [`Error::NotFound`] for no such token; the store's.
    pub async fn replace_token(
        &self,
        caller: &Caller,
        request: ReplaceToken<'_>,
        mut errors: FieldErrors,
    ) -> Result<Changed<ReplacedToken>> {
        let id = errors.take(validate::id::<TokenId>("token_id", request.token_id));
        if request.overlap.is_some_and(|overlap| overlap > MAX_OVERLAP) {
            let longest = duration::in_words(MAX_OVERLAP);
            let text = format!("is longer than {longest}, which is the most: name a shorter one");
            errors.add("overlap", "TOO_LONG", text);
        }
        errors.take(scope_ids(request.scopes, &self.in_force()?.catalog));
        let entries = errors.take(validate::entries("whitelist", request.whitelist, &self.limits));
        let whitelist = entries.map(|entries| CidrSet::new(entries, &self.limits));
        if let Some(Err(too_many)) = &whitelist {
            errors.add("whitelist", "TOO_MANY_ENTRIES", too_many);
        }
        errors.into_result()?;
        let (Some(id), Some(Ok(whitelist))) = (id, whitelist) else { return Err(Error::Internal) };

        // Before anything is changed: what fails afterwards would lose the secret.
        let addresses = self.recent_addresses(caller, request.token_id).await?;
        let (request, whitelist) = (&request, whitelist.map(Whitelist::Only));
        let attempt = || async {
            let in_force = self.in_force()?;
            let successor = TokenId(id_at(self.clock.now()));
            let secret = self.make_secret(SecretKind::Token, successor.0)?;
            let new = Replacement {
                id: successor,
                digest: secret.digest(),
                overlap: request.overlap.unwrap_or(DEFAULT_OVERLAP),
                scopes: scope_ids(request.scopes, &in_force.catalog)?,
                whitelist: whitelist.clone(),
                expires: request.expires,
                longest: self.token_max_lifetime,
            };
            let ctx = caller.context(self.clock.now());
            let replace = self.store.replace_token(
                &ctx,
                &in_force.catalog,
                id,
                caller.only(),
                &self.lifecycle,
                &new,
                request.validate_only,
            );
            let outcome = if request.validate_only {
                self.writes.check("check_replacement", replace).await
            } else {
                let changed = Invalidation::Token(id);
                self.writes.commit("replace_token", changed, &ctx, replace).await
            };
            Ok::<_, Error>(outcome.map(|outcome| (outcome, secret, in_force, ctx)))
        };
        let (outcome, secret, in_force, ctx) = self.writes.retry_on_stale_catalog(attempt).await?;
        let outcome = outcome.ok_or_else(|| no_token(id))?;
        let Replaced { successor, replaced } = outcome.map_err(|refused| match refused {
            NotReplaced::Account(id, refused) => refused_account(id, refused),
            NotReplaced::Rule(refused) => refusal(id, request, refused, &in_force),
        })?;
        let proposal = self.proposal(&replaced, &in_force.catalog, addresses);
        let ends = replaced.expires;
        let (successor, replaced) = (self.described(successor)?, self.described(replaced)?);
        if request.validate_only {
            let value =
                ReplacedToken { successor, secret: None, replaced, proposal, propagation: None };
            return Ok(Changed { value, revision: 0 });
        }
        self.notify_of_expiry(&replaced.token);
        // Rule 11.33 of docs/policy.md.
        let mut propagation = self.propagation(Wait::No).await.ok();
        let early = match &propagation {
            Some(known) => !known.complete && ends.is_some_and(|ends| ends <= known.complete_by),
            // An error would lose the secret, so that it is for what may still be allowed.
            None => request.overlap.is_some_and(|overlap| overlap < DEFAULT_OVERLAP),
        };
        if early && !request.no_wait {
            propagation = Some(self.propagation(Wait::UntilComplete).await?);
        }
        let value =
            ReplacedToken { successor, secret: Some(secret), replaced, proposal, propagation };
        Ok(Changed::new(value, &ctx))
    }

    /// What a successor of this token needs. Rule 11.38 of docs/policy.md.
    pub fn proposal(
        &self,
        token: &Token,
        catalog: &Catalog,
        addresses: Vec<SeenAddress>,
    ) -> Proposal {
        let calendar = self.calendar();
        let (used, unused) =
            replacement::used_and_unused(&token.grant(), &token.uses, catalog, &calendar);
        Proposal { used, unused, since: calendar.window_start(), addresses }
    }
}

fn refusal(
    id: TokenId,
    request: &ReplaceToken<'_>,
    refused: ReplacementRefused,
    in_force: &ActiveCatalog,
) -> Error {
    let rule = match &refused {
        ReplacementRefused::Deleted => "TOKEN_DELETED",
        ReplacementRefused::Leaked => "TOKEN_REVOKED_LEAKED",
        ReplacementRefused::Expired(_) => "TOKEN_EXPIRED",
        ReplacementRefused::Replaced(_) => "TOKEN_REPLACED",
        ReplacementRefused::TooManyOverlapping => "TOO_MANY_OVERLAPPING",
        ReplacementRefused::NothingLeft => "NO_SCOPES_LEFT",
        ReplacementRefused::NotGranted(scopes) => {
            return not_granted(id, request, scopes, in_force);
        }
        ReplacementRefused::WhitelistRequired => {
            return Error::invalid("whitelist", "WHITELIST_REQUIRED", refused);
        }
        ReplacementRefused::Expiry(expiry) => {
            let field = request.expires.map_or(EXPIRE_TIME, expiry_field);
            let reason = match expiry {
                SuccessorExpiryRefused::Past => "IN_THE_PAST",
                SuccessorExpiryRefused::TooFar
                | SuccessorExpiryRefused::AfterOld(_)
                | SuccessorExpiryRefused::AfterLongest(_) => "TOO_LATE",
            };
            return Error::invalid(field, reason, refused);
        }
    };
    Error::refused(rule, format!("tokens/{id}"), refused)
}

fn not_granted(
    id: TokenId,
    request: &ReplaceToken<'_>,
    scopes: &[ScopeId],
    in_force: &ActiveCatalog,
) -> Error {
    let names = names(in_force, scopes.iter().copied());
    let description = format!(
        "the token may not use {} now, so its successor can't: leave it out, or create a new token",
        names.join(", ")
    );
    let listed = request.scopes.iter().enumerate().filter(|(_, name)| names.contains(name));
    let violation = |(at, _): (usize, &String)| Violation {
        field: format!("scopes[{at}]"),
        description: "is none that the token may use now: leave it out".to_owned(),
        reason: "SCOPE_NOT_GRANTED",
    };
    let violations = listed.map(violation).collect();
    let subject = format!("tokens/{id}");
    Error::Refused(vec![Obstacle { rule: "SCOPE_NOT_GRANTED", subject, description }], violations)
}
