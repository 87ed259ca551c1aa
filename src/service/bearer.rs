//! The bearer's own calls: reading what a token is, and revoking it, with the token's secret and no credential
//! (docs/policy.md, section 11).
//!
//! # Invariants
//! - A forged secret costs an HMAC: it waits for nothing, and reaches neither the second-level cache nor the store.
//! - What is answered has nothing of the whitelist, the account or its admins: [`SelfToken`] has no place for it.
//! - No call here records a use.

use std::net::IpAddr;

use super::explain::{describe, granted, names};
use super::{Error, Propagation, Result, Services};
use crate::model::{Actor, Context, Invalidation, Token};
use crate::net::{ATTEMPTS_WINDOW, Peer};
use crate::policy::decide::{self, Decision, Presented, Reason, Verdict};
use crate::policy::id::TokenId;
use crate::policy::time::Timestamp;
use crate::policy::token::{PendingActionType, TokenKind, TokenState};
use crate::secret::{self, Digest, ParsedSecret, SecretKind};

/// Failures of one address within [`ATTEMPTS_WINDOW`], after which further ones are answered
/// [`Error::TooManyFailures`].
pub(super) const MAX_FAILURES: u32 = 20;

/// Somebody who presented a secret that was made here. Whether it is a token's is checked by each call.
#[derive(Debug, Clone, Copy)]
pub struct Bearer {
    id: TokenId,
    digest: Digest,
    client: Option<IpAddr>,
    from: Peer,
}

/// A token as its bearer may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfToken {
    /// Its id.
    pub id: TokenId,
    /// A label.
    pub name: String,
    /// What it reads as now.
    pub kind: TokenKind,
    /// Whether it can be used.
    pub state: TokenState,
    /// The names of the scopes that it may use now, sorted; none for a deleted token.
    pub scopes: Vec<String>,
    /// From when on it is denied; `None` where it never expires.
    pub expires: Option<Timestamp>,
    /// What is announced for it, the earliest first.
    pub pending: Vec<SelfPendingAction>,
}

/// A pending action as the token's bearer may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfPendingAction {
    /// What it takes, in one word.
    pub action: PendingActionType,
    /// The names of the scopes that it takes, sorted.
    pub taken: Vec<String>,
    /// When it takes effect at the earliest.
    pub effective: Timestamp,
    /// Why, in a sentence.
    pub why: String,
    /// What keeps it all, in a sentence.
    pub how_to_keep: String,
}

impl Services {
    /// Checks that `secret` was made here, without waiting. `client` is the bearer's address, where it is known; failures
    /// count for `from`. Rules 11.20 and 11.21 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::TokenDenied`] with [`Reason::TokenNotFound`] for any other secret, [`Error::TooManyFailures`] where
    /// there were too many of them, [`Error::Unavailable`] for it on a replica without a lease.
    pub fn bearer(&self, secret: &[u8], client: Option<IpAddr>, from: Peer) -> Result<Bearer> {
        match ParsedSecret::parse(secret, SecretKind::Token) {
            Some(parsed) if self.verify_tag(&parsed) => {
                let (id, digest) = (TokenId(parsed.id), secret::digest(secret));
                Ok(Bearer { id, digest, client, from })
            }
            // It may be made under a key that this replica does not know of.
            _ if !self.has_lease() => Err(super::no_lease()),
            _ => Err(self.unknown_bearer(from)),
        }
    }

    /// What the token is. Rule 11.22 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::TokenDenied`] where a decision would be denied for the token's state or the address; those of
    /// [`Self::bearer`]; the store's.
    pub async fn get_self(&self, bearer: &Bearer) -> Result<SelfToken> {
        self.permit(bearer).await?;
        let token = self.read("token", self.store.token(bearer.id, None)).await?;
        // A read may take long, and the token may have changed meanwhile.
        self.permit(bearer).await?;
        self.shown_to_bearer(token.ok_or_else(|| self.unknown_bearer(bearer.from))?)
    }

    /// Deletes the token, and waits until that has propagated. A deleted one stays as it is. Must run to its end, so
    /// callers spawn it. Rule 11.23 of docs/policy.md.
    ///
    /// # Errors
    /// Those of [`Self::bearer`]; [`Error::NotPropagatedYet`]; the store's.
    pub async fn revoke_self(&self, bearer: &Bearer) -> Result<(SelfToken, Propagation)> {
        let Bearer { id, client, from, .. } = *bearer;
        self.with_facts(bearer, |_| ()).await?;
        let ctx = Context::new(Actor::Bearer(id), self.clock.now(), client);
        let delete = self.store.delete_token(&ctx, id, None);
        let deleted =
            self.writes.commit("delete_token", Invalidation::Token(id), &ctx, delete).await?;
        let token = self.shown_to_bearer(deleted.ok_or_else(|| self.unknown_bearer(from))?)?;
        Ok((token, self.propagation(false).await?))
    }

    async fn permit(&self, bearer: &Bearer) -> Result<()> {
        let client = bearer.client.map(Into::into);
        let now = self.clock.now();
        self.with_facts(bearer, |presented| {
            permitted(&decide::decide_for_bearer(presented, client, now))
        })
        .await?
    }

    /// What `make` makes of the token whose secret was presented.
    async fn with_facts<T>(
        &self,
        bearer: &Bearer,
        make: impl FnOnce(Presented<'_>) -> T,
    ) -> Result<T> {
        self.ready().await?;
        let entry = self.read_facts(bearer.id).await?;
        match entry.as_deref() {
            Some(facts) if secret::digest_eq(&facts.digest, &bearer.digest) => {
                Ok(make(Presented::Token(facts)))
            }
            _ => Err(self.unknown_bearer(bearer.from)),
        }
    }

    /// Counts a failure: one answer for every secret that is no token's. Rule 11.21 of docs/policy.md.
    fn unknown_bearer(&self, from: Peer) -> Error {
        if self.failed_bearers.failed(from) {
            return Error::TooManyFailures { retry: ATTEMPTS_WINDOW };
        }
        let decision = decide::decide_for_bearer(Presented::Unknown, None, self.clock.now());
        permitted(&decision).err().unwrap_or(Error::Internal)
    }

    fn shown_to_bearer(&self, token: Token) -> Result<SelfToken> {
        let (in_force, outlook) = (self.in_force()?, self.outlook());
        let scopes = names(
            &in_force,
            granted(&token, &in_force, outlook.calendar.now).map(|scope| scope.id),
        );
        let pending = token.pending.iter().map(|action| {
            let view = describe(action, &in_force, &outlook);
            SelfPendingAction {
                action: action.action(),
                taken: view.taken,
                effective: view.effective,
                why: view.why,
                how_to_keep: view.how_to_keep,
            }
        });
        let mut pending: Vec<_> = pending.collect();
        pending.sort_by_key(|action| action.effective);
        let Token { id, name, kind, state, expires, .. } = token;
        Ok(SelfToken { id, name, kind, state, scopes, expires, pending })
    }
}

fn permitted(decision: &Decision<'_>) -> Result<()> {
    let reason = decision.verdict.reason();
    let message = match decision.verdict {
        Verdict::Allow(_) => return Ok(()),
        // The decision's own sentence speaks to the caller of Authorize.
        Verdict::Deny(_) if reason == Reason::ClientIpMissing => {
            "This token may be used from whitelisted addresses only, and your address is not known: a gateway on the way \
             does not name it, or you use a Unix socket."
                .into()
        }
        Verdict::Deny(_) => decision.message(),
    };
    Err(Error::TokenDenied { reason, message })
}
