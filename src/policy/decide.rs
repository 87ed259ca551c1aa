//! The decision: `(what is known of the token, the catalogue, the request) -> Decision`.
//!
//! Must stay true: the checks run in the order of docs/policy.md, rule 2.3, and the first that fails
//! names the reason; nothing is allowed that no rule here allows; nothing allocates before
//! [`Decision::message`] is asked for.

use std::borrow::Cow;

use super::network::{Cidr, CidrSet, ClientAddr, Whitelist};
use super::route::{Unresolved, explain_ambiguous, explain_unmatched};
use super::scope::{Catalog, Scope, ScopeRoute};
use super::time::Timestamp;
use super::token::{AccountRestriction, ScopeStatus, TokenFacts, TokenState};

/// What the presented secret turned out to be.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// No secret by its shape or checksum.
    Malformed,
    /// Well-formed, and of no token known here.
    Unknown,
    /// The secret of this token; its digest was compared.
    Token(&'a TokenFacts),
    /// The same, where the token's account is suspended or closed.
    Restricted(&'a TokenFacts, AccountRestriction),
}

impl<'a> Presented<'a> {
    /// The secret of `token`, whose account is restricted so.
    pub fn token(token: &'a TokenFacts, account: Option<AccountRestriction>) -> Self {
        match account {
            None => Self::Token(token),
            Some(restriction) => Self::Restricted(token, restriction),
        }
    }

    /// The token and what restricts its account.
    fn known(self) -> Result<(&'a TokenFacts, Option<AccountRestriction>), Denial> {
        match self {
            Self::Malformed => Err(Denial::TokenMalformed),
            Self::Unknown => Err(Denial::TokenNotFound),
            Self::Token(token) => Ok((token, None)),
            Self::Restricted(token, restriction) => Ok((token, Some(restriction))),
        }
    }
}

/// What the client wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// Something that requires this scope.
    Scope(&'a Scope),
    /// An HTTP request, whose scope the catalogue's routes give.
    Http {
        /// The method, as sent.
        method: &'a str,
        /// The path, as sent.
        path: &'a str,
    },
    /// An HTTP request that a service may read in another way than the caller did, for the reason that this
    /// sentence gives with the cure (docs/policy.md, rules 9.10 and 9.11).
    Ambiguous(&'a str),
}

/// A question, its arguments already checked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where the client is; `None` where the caller does not know.
    pub client: Option<ClientAddr>,
    /// What it wants to do.
    pub operation: Operation<'a>,
}

/// The answer. Rule 2.18 of docs/policy.md.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// Allow or deny, and why.
    pub verdict: Verdict,
    /// The token, where one is known.
    pub token: Option<&'a TokenFacts>,
    /// The scope that the operation requires, where the checks got that far.
    pub required: Option<&'a Scope>,
    /// Why the operation requires none, where no route gives it.
    unresolved: Option<UnresolvedHttp<'a>>,
}

/// An HTTP request whose scope the catalogue's routes don't give, and why.
#[derive(Debug, Clone, Copy)]
enum UnresolvedHttp<'a> {
    /// Its method or its path.
    Route { method: &'a str, path: &'a str, cause: Unresolved<ScopeRoute<'a>> },
    /// Another part of it, as the caller says.
    Ambiguous(&'a str),
}

/// Allow or deny, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every check passed. Carries the whitelist entry that let the client through; `None` for a
    /// token without a whitelist.
    Allow(Option<Cidr>),
    /// The first check that failed.
    Deny(Denial),
}

/// The first check that failed, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// Wrong shape or checksum.
    TokenMalformed,
    /// Never issued here, forged, or purged.
    TokenNotFound,
    /// Deleted by its owner or an operator.
    TokenDeleted(Timestamp),
    /// Deleted for disuse.
    TokenDeletedUnused(Timestamp),
    /// Its secret was reported as leaked.
    TokenRevokedLeaked(Timestamp),
    /// It ended at the instant that its owner set.
    TokenExpired(Timestamp),
    /// Operators suspended its account.
    AccountSuspended(Timestamp),
    /// The method and path match no route.
    NoMatchingRoute,
    /// The path matches a route, and some servers read the request so that they run a route of another scope.
    RequestAmbiguous,
    /// The required scope was never granted.
    ScopeNotGranted,
    /// The required scope was granted once, and a downgrade took it.
    ScopeLostInDowngrade,
    /// The grant requires a whitelist and the token has none.
    WhitelistRequired,
    /// The token has a whitelist and the request names no address.
    ClientIpMissing,
    /// The address is outside the whitelist.
    ClientIpNotWhitelisted(ClientAddr),
}

/// Why a decision is what it is, as callers and metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the verdict of the same name")]
pub enum Reason {
    Allowed,
    TokenMalformed,
    TokenNotFound,
    TokenDeleted,
    TokenDeletedUnused,
    TokenRevokedLeaked,
    TokenExpired,
    AccountSuspended,
    NoMatchingRoute,
    RequestAmbiguous,
    ScopeNotGranted,
    ScopeLostInDowngrade,
    WhitelistRequired,
    ClientIpMissing,
    ClientIpNotWhitelisted,
}

impl Reason {
    /// Every reason, in the order in which the checks run, with its stable word.
    pub const ALL: [(Self, &'static str); 15] = [
        (Self::Allowed, "ALLOWED"),
        (Self::TokenMalformed, "TOKEN_MALFORMED"),
        (Self::TokenNotFound, "TOKEN_NOT_FOUND"),
        (Self::TokenDeleted, "TOKEN_DELETED"),
        (Self::TokenDeletedUnused, "TOKEN_DELETED_UNUSED"),
        (Self::TokenRevokedLeaked, "TOKEN_REVOKED_LEAKED"),
        (Self::TokenExpired, "TOKEN_EXPIRED"),
        (Self::AccountSuspended, "ACCOUNT_SUSPENDED"),
        (Self::NoMatchingRoute, "NO_MATCHING_ROUTE"),
        (Self::RequestAmbiguous, "REQUEST_AMBIGUOUS"),
        (Self::ScopeNotGranted, "SCOPE_NOT_GRANTED"),
        (Self::ScopeLostInDowngrade, "SCOPE_LOST_IN_DOWNGRADE"),
        (Self::WhitelistRequired, "WHITELIST_REQUIRED"),
        (Self::ClientIpMissing, "CLIENT_IP_MISSING"),
        (Self::ClientIpNotWhitelisted, "CLIENT_IP_NOT_WHITELISTED"),
    ];

    /// Its stable word.
    pub fn word(self) -> &'static str {
        // Metrics count by the same place in the list.
        Self::ALL[self as usize].1
    }
}

impl Verdict {
    /// Why, in a word.
    pub fn reason(&self) -> Reason {
        let Self::Deny(denial) = self else {
            return Reason::Allowed;
        };
        match denial {
            Denial::TokenMalformed => Reason::TokenMalformed,
            Denial::TokenNotFound => Reason::TokenNotFound,
            Denial::TokenDeleted(_) => Reason::TokenDeleted,
            Denial::TokenDeletedUnused(_) => Reason::TokenDeletedUnused,
            Denial::TokenRevokedLeaked(_) => Reason::TokenRevokedLeaked,
            Denial::TokenExpired(_) => Reason::TokenExpired,
            Denial::AccountSuspended(_) => Reason::AccountSuspended,
            Denial::NoMatchingRoute => Reason::NoMatchingRoute,
            Denial::RequestAmbiguous => Reason::RequestAmbiguous,
            Denial::ScopeNotGranted => Reason::ScopeNotGranted,
            Denial::ScopeLostInDowngrade => Reason::ScopeLostInDowngrade,
            Denial::WhitelistRequired => Reason::WhitelistRequired,
            Denial::ClientIpMissing => Reason::ClientIpMissing,
            Denial::ClientIpNotWhitelisted(_) => Reason::ClientIpNotWhitelisted,
        }
    }
}

/// Decides at `now`, the store's time (docs/policy.md, section 2).
pub fn decide<'a>(
    presented: Presented<'a>,
    catalog: &'a Catalog,
    request: &Request<'a>,
    now: Timestamp,
) -> Decision<'a> {
    let verdict = Verdict::Allow(None);
    let mut decision = Decision { verdict, token: None, required: None, unresolved: None };
    decision.verdict = match check(presented, catalog, request, now, &mut decision) {
        Ok(entry) => Verdict::Allow(entry),
        Err(denial) => Verdict::Deny(denial),
    };
    decision
}

fn check<'a>(
    presented: Presented<'a>,
    catalog: &'a Catalog,
    request: &Request<'a>,
    now: Timestamp,
    seen: &mut Decision<'a>,
) -> Result<Option<Cidr>, Denial> {
    // Rule 2.4 of docs/policy.md.
    let (token, account) = presented.known()?;
    seen.token = Some(token);
    check_state(token, account, now)?;

    // Rule 2.7 of docs/policy.md.
    let scope = match request.operation {
        Operation::Scope(scope) => scope,
        Operation::Http { method, path } => catalog.resolve(method, path).map_err(|cause| {
            seen.unresolved = Some(UnresolvedHttp::Route { method, path, cause });
            match cause {
                Unresolved::NoRoute => Denial::NoMatchingRoute,
                Unresolved::Ambiguous { .. } => Denial::RequestAmbiguous,
            }
        })?,
        Operation::Ambiguous(cause) => {
            seen.unresolved = Some(UnresolvedHttp::Ambiguous(cause));
            return Err(Denial::RequestAmbiguous);
        }
    };
    seen.required = Some(scope);

    // Rule 2.14 of docs/policy.md.
    match token.grant.holding(scope) {
        ScopeStatus::Granted => {}
        ScopeStatus::Taken => return Err(Denial::ScopeLostInDowngrade),
        ScopeStatus::NotGranted => return Err(Denial::ScopeNotGranted),
    }

    match &token.whitelist {
        // Rule 2.17 of docs/policy.md.
        Whitelist::Unrestricted if token.grant.requires_whitelist(catalog) => {
            Err(Denial::WhitelistRequired)
        }
        // Rule 1.11 of docs/policy.md.
        Whitelist::Unrestricted => Ok(None),
        Whitelist::Only(entries) => check_address(entries, request.client).map(Some),
    }
}

fn check_state(
    token: &TokenFacts,
    account: Option<AccountRestriction>,
    now: Timestamp,
) -> Result<(), Denial> {
    match token.state {
        TokenState::Active => {}
        TokenState::Deleted { at } => return Err(Denial::TokenDeleted(at)),
        TokenState::DeletedUnused { at } => return Err(Denial::TokenDeletedUnused(at)),
        // Rule 11.50 of docs/policy.md.
        TokenState::RevokedLeaked { at } => return Err(Denial::TokenRevokedLeaked(at)),
    }
    // The reason that the token has once its deletion is recorded. Rule 11.75 of docs/policy.md.
    if let Some(AccountRestriction::Closed { at }) = account {
        return Err(Denial::TokenDeleted(at));
    }
    // Rule 11.1 of docs/policy.md.
    if token.expiry.is_reached(now) {
        return Err(Denial::TokenExpired(token.expiry.time().unwrap_or(now)));
    }
    // Rule 11.70 of docs/policy.md.
    if let Some(AccountRestriction::Suspended { at }) = account {
        return Err(Denial::AccountSuspended(at));
    }
    Ok(())
}

/// Rules 2.16 and 3.2 of docs/policy.md.
fn check_address(entries: &CidrSet, client: Option<ClientAddr>) -> Result<Cidr, Denial> {
    let client = client.ok_or(Denial::ClientIpMissing)?;
    entries.find(client).copied().ok_or(Denial::ClientIpNotWhitelisted(client))
}

/// Decides whether the bearer of a token may read what it is: the checks of [`decide`] that don't depend on an operation.
/// Rule 11.22 of docs/policy.md.
pub fn decide_for_bearer(
    presented: Presented<'_>,
    client: Option<ClientAddr>,
    now: Timestamp,
) -> Decision<'_> {
    let known = presented.known().ok();
    let verdict = match known.ok_or(Denial::TokenNotFound).and_then(|(token, account)| {
        check_state(token, account, now)?;
        match &token.whitelist {
            Whitelist::Unrestricted => Ok(None),
            Whitelist::Only(entries) => check_address(entries, client).map(Some),
        }
    }) {
        Ok(entry) => Verdict::Allow(entry),
        Err(denial) => Verdict::Deny(denial),
    };
    let token = known.map(|(token, _)| token);
    Decision { verdict, token, required: None, unresolved: None }
}

impl Decision<'_> {
    /// The decision in a sentence for a person. A denial names what is missing and the cure.
    /// Rule 2.19 of docs/policy.md.
    pub fn message(&self) -> Cow<'static, str> {
        let scope = self.required.map_or("", |scope| scope.name.as_ref());
        let denial = match self.verdict {
            Verdict::Allow(_) => return "Allowed.".into(),
            Verdict::Deny(denial) => denial,
        };
        match denial {
            Denial::TokenMalformed => {
                "This is not a token: its shape or checksum is wrong. Check that it was copied whole.".into()
            }
            Denial::TokenNotFound => {
                "No such token. It was never issued here, or was deleted long ago; create a new one.".into()
            }
            Denial::TokenDeleted(at) => {
                format!("This token was deleted at {at}. Create a new one.").into()
            }
            Denial::TokenDeletedUnused(at) => format!(
                "This token was deleted at {at} because it had not been used. Create a new one."
            ).into(),
            Denial::TokenRevokedLeaked(at) => format!(
                "This token was revoked at {at} because its secret was reported as leaked. Create a new \
                 one, and keep its secret where nobody else can read it."
            ).into(),
            Denial::TokenExpired(at) => {
                format!("This token expired at {at}. Create a new one.").into()
            }
            Denial::AccountSuspended(at) => format!(
                "The account of this token has been suspended since {at}. A new token does not help: ask those who \
                 operate this service to resume the account."
            ).into(),
            Denial::NoMatchingRoute | Denial::RequestAmbiguous => {
                self.unresolved.map_or_else(String::new, |http| http.message()).into()
            }
            Denial::ScopeNotGranted => format!(
                "This token was not granted the scope {scope}. Scopes can't be added to a token: \
                 create a new one that has it."
            ).into(),
            Denial::ScopeLostInDowngrade => format!(
                "This token lost the scope {scope} in a downgrade, because it had not used it. \
                 Create a new token that has it."
            ).into(),
            Denial::WhitelistRequired => {
                "What this token may do requires an IP whitelist, and it has none. Set one.".into()
            }
            Denial::ClientIpMissing => {
                "This token may be used from whitelisted addresses only, and the request named no \
                 client address. Send client_ip.".into()
            }
            Denial::ClientIpNotWhitelisted(client) => format!(
                "The address {client} is not in this token's whitelist. Add it, or call from a \
                 whitelisted address."
            ).into(),
        }
    }
}

impl UnresolvedHttp<'_> {
    fn message(&self) -> String {
        match *self {
            Self::Route { method, path, cause: Unresolved::NoRoute } => {
                explain_unmatched(method, path)
            }
            Self::Route { path, cause: Unresolved::Ambiguous { own, other }, .. } => {
                explain_ambiguous(path, own.route, other.route, other.scope.name.as_str())
            }
            Self::Ambiguous(cause) => cause.to_owned(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::policy::id::{AccountId, TokenId};
    use crate::policy::network::Limits;
    use crate::policy::token::{Expiry, Grant};

    /// Facts of an active `READ_WRITE` token that lacks the whitelist it requires, for tests of other modules too.
    pub(crate) fn facts(id: u128) -> TokenFacts {
        TokenFacts {
            id: TokenId(Uuid::from_u128(id)).into(),
            account_id: AccountId(Uuid::from_u128(1)).into(),
            digest: [0; 32],
            state: TokenState::Active,
            expiry: Expiry::NEVER,
            grant: Grant::ReadWrite,
            whitelist: Whitelist::Unrestricted,
            announced: Vec::new(),
        }
    }

    /// Rule 11.22 of docs/policy.md.
    #[test]
    fn a_bearer_needs_the_whitelist_that_there_is_and_not_the_one_that_is_missing() {
        let open = facts(1);
        let entry = Cidr::parse("192.0.2.1", &Limits::default()).unwrap();
        let entries = CidrSet::new(vec![entry], &Limits::default()).unwrap().unwrap();
        let listed = TokenFacts { whitelist: Whitelist::Only(entries), ..open.clone() };
        for (token, client, wanted) in [
            (&open, None, Reason::Allowed),
            (&open, Some("198.51.100.1"), Reason::Allowed),
            (&listed, None, Reason::ClientIpMissing),
            (&listed, Some("198.51.100.1"), Reason::ClientIpNotWhitelisted),
            (&listed, Some("192.0.2.1"), Reason::Allowed),
        ] {
            let client = client.map(|text: &str| text.parse().unwrap());
            let decision = decide_for_bearer(Presented::Token(token), client, Timestamp(5));
            assert_eq!(decision.verdict.reason(), wanted, "{client:?}");
        }
    }
}
