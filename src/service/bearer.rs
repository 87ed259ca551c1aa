//! The bearer's own calls: reading what a token is, and revoking it, with the token's secret and no credential
//! (docs/policy.md, section 11).
//!
//! # Invariants
//! - A forged secret costs an HMAC or two: it waits for nothing, and reaches neither the second-level cache nor the
//!   store, unless the filter of imported tokens takes it for one.
//! - What is answered has nothing of the whitelist, the account or its admins: [`SelfToken`] has no place for it.
//! - No call here records a use.
//! - A call that reads has one of `PLACES` until it has ended, also where its caller has gone away. Revocations have
//!   none, which the holders of other secrets could fill: of one token there is one at a time, and the next one waits.
//! - However many there are, most connections to the store are left to others (`TURNS`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::{self, OwnedMutexGuard, Semaphore, SemaphorePermit};

use super::decisions::imports_unknown;
use super::explain::{describe, granted, names};
use super::{Error, Propagation, Result, Services};
use crate::cache::{Membership, TokenKey};
use crate::model::{Actor, Context, Invalidation, Token};
use crate::net::{ATTEMPTS_WINDOW, Attempts, Limiter, Peer, Permit};
use crate::policy::decide::{self, Decision, Presented, Reason, Verdict};
use crate::policy::id::TokenId;
use crate::policy::time::Timestamp;
use crate::policy::token::{
    AccountRestriction, PendingActionType, TokenFacts, TokenKind, TokenState,
};
use crate::replication::Wait;
use crate::secret::{self, Digest, ParsedSecret, SecretKind};

/// Failures of one address within [`ATTEMPTS_WINDOW`], after which further ones are answered
/// [`Error::TooManyFailures`].
const MAX_FAILURES: u32 = 20;
/// Reading calls that are under way at once, and those of one address: each may wait for the store.
const PLACES: (usize, usize) = (256, 16);
/// Calls that read from the store at once, and as many that change it; others wait for their turn.
const TURNS: usize = 2;
/// How long a call waits for its turn at most.
const MAX_TURN_WAIT: Duration = Duration::from_secs(5);

/// What bounds the calls of bearers.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Secrets that were no token's.
    failures: Attempts,
    places: Arc<Limiter>,
    /// Of the tokens that are being revoked.
    revocations: Mutex<HashMap<TokenKey, Weak<sync::Mutex<()>>>>,
    reads: Semaphore,
    changes: Semaphore,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            failures: Attempts::new(MAX_FAILURES),
            places: Limiter::new(PLACES.0, PLACES.1),
            revocations: Mutex::default(),
            reads: Semaphore::new(TURNS),
            changes: Semaphore::new(TURNS),
        }
    }
}

impl Bounds {
    /// What a revocation of the token with this key holds until it has ended.
    fn revocation(&self, key: TokenKey) -> Arc<sync::Mutex<()>> {
        // What a panic elsewhere leaves is consistent.
        let mut locks = self.revocations.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = locks.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}

/// Somebody who presented a secret that was made here or may be imported. Whether it is a token's is checked by the
/// call.
#[derive(Debug)]
pub struct Bearer {
    /// What the token is looked up by, and the digest that it has to have.
    keys: BearerKeys,
    client: Option<IpAddr>,
    from: Peer,
}

/// What a bearer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BearerCall {
    /// What the token is.
    Get,
    /// Its end.
    Revoke,
}

/// A bearer whose call may be made.
#[derive(Debug)]
pub struct AdmittedBearer {
    bearer: Bearer,
    _place: Place,
}

/// What a call holds until it has ended.
#[derive(Debug)]
enum Place {
    Read { _permit: Permit },
    Revocation { _guard: OwnedMutexGuard<()> },
}

/// The token that a secret names, and those that may be imported with it.
type BearerKeys = SmallVec<[(TokenKey, Digest); 1]>;

/// A token as its bearer may see it: without the addresses that it was used from. Rule 12.7 of docs/policy.md.
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
    /// Checks that `secret` was made here, or that `presented` may be an imported one, without waiting. The two differ
    /// as in [`super::decisions::AuthorizeInput`]. `client` is the bearer's address, where it is known; failures count
    /// for `from`. Rules 11.20 and 11.21 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::TokenDenied`] with [`Reason::TokenNotFound`] for any other secret, [`Error::TooManyFailures`] where
    /// there were too many of them, [`Error::Unavailable`] for it on a replica without a lease.
    pub fn bearer(
        &self,
        secret: &[u8],
        presented: &[u8],
        client: Option<IpAddr>,
        from: Peer,
    ) -> Result<Bearer> {
        let keys = self.bearer_keys(secret, presented)?;
        if !keys.is_empty() {
            return Ok(Bearer { keys, client, from });
        }
        // It may be made under a key that this replica does not know of, or imported since.
        if self.has_lease() { Err(self.unknown_bearer(from)) } else { Err(super::no_lease()) }
    }

    /// Admits the call of a bearer once its whole request is there: before that it holds nothing here. Rule 11.20 of
    /// docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Overloaded`] for a read where the address, or all of them, have too many under way; for a revocation
    /// where others of the same token take long.
    pub async fn admit_bearer(&self, bearer: Bearer, call: BearerCall) -> Result<AdmittedBearer> {
        let place = match call {
            BearerCall::Get => {
                let permit = self.bearers.places.take(bearer.from, 1).ok_or_else(|| self.shed())?;
                Place::Read { _permit: permit }
            }
            BearerCall::Revoke => {
                let (key, _) = *bearer.keys.first().ok_or(Error::Internal)?;
                let lock = self.bearers.revocation(key).lock_owned();
                let guard = tokio::time::timeout(MAX_TURN_WAIT, lock).await;
                Place::Revocation { _guard: guard.map_err(|_| self.shed())? }
            }
        };
        Ok(AdmittedBearer { bearer, _place: place })
    }

    fn bearer_keys(&self, secret: &[u8], presented: &[u8]) -> Result<BearerKeys> {
        let mut keys = BearerKeys::new();
        if let Some(parsed) = ParsedSecret::parse(secret, SecretKind::Token) {
            if self.verify_tag(&parsed) {
                keys.push((TokenId(parsed.id).into(), secret::digest(secret)));
                return Ok(keys);
            }
            self.metrics.forged.inc();
        }
        for (digest, half) in self.imported_keys(presented) {
            match self.cache.imports.membership(half) {
                Membership::Possible => keys.push((TokenKey::Digest(digest, half), digest)),
                Membership::Unknown => return Err(imports_unknown()),
                Membership::Absent => {}
            }
        }
        Ok(keys)
    }

    /// What the token is. Rule 11.22 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::TokenDenied`] where a decision would be denied for the token's state or the address; those of
    /// [`Self::bearer`]; the store's.
    pub async fn get_self(
        &self,
        AdmittedBearer { bearer, .. }: &AdmittedBearer,
    ) -> Result<SelfToken> {
        let id = self.permit(bearer).await?;
        let turn = self.turn(&self.bearers.reads).await?;
        let token = self.read("token", self.store.token(id, None)).await?;
        drop(turn);
        // A read may take long, and the token may have changed meanwhile.
        self.permit(bearer).await?;
        self.shown_to_bearer(token.ok_or_else(|| self.unknown_bearer(bearer.from))?)
    }

    /// Deletes the token, and waits until that has propagated. A deleted one stays as it is. Must run to its end, so
    /// callers spawn it. Rule 11.23 of docs/policy.md.
    ///
    /// # Errors
    /// Those of [`Self::bearer`]; [`Error::NotPropagatedYet`]; the store's.
    pub async fn revoke_self(
        &self,
        AdmittedBearer { bearer, .. }: &AdmittedBearer,
    ) -> Result<(SelfToken, Propagation)> {
        let Bearer { client, from, .. } = *bearer;
        let id = self.with_facts(bearer, |facts, _| *facts.id).await?;
        let turn = self.turn(&self.bearers.changes).await?;
        let ctx = Context::new(Actor::Bearer(id), self.clock.now(), client);
        let delete = self.store.delete_token(&ctx, id, None);
        let deleted =
            self.writes.commit("delete_token", Invalidation::Token(id), &ctx, delete).await?;
        drop(turn);
        let token = self.shown_to_bearer(deleted.ok_or_else(|| self.unknown_bearer(from))?)?;
        Ok((token, self.propagation(Wait::UntilComplete).await?))
    }

    /// Waits for one of the turns at the store.
    async fn turn<'t>(&self, turns: &'t Semaphore) -> Result<SemaphorePermit<'t>> {
        match tokio::time::timeout(MAX_TURN_WAIT, turns.acquire()).await {
            Ok(turn) => turn.map_err(|_| Error::Internal),
            Err(_) => Err(self.shed()),
        }
    }

    fn shed(&self) -> Error {
        self.metrics.shed.inc();
        Error::Overloaded
    }

    /// The token, where a decision would not be denied for its state or the address.
    async fn permit(&self, bearer: &Bearer) -> Result<TokenId> {
        let client = bearer.client.map(Into::into);
        let now = self.clock.now();
        self.with_facts(bearer, |facts, account| {
            let presented = Presented::token(facts, account);
            permitted(&decide::decide_for_bearer(presented, client, now))?;
            Ok(*facts.id)
        })
        .await?
    }

    /// What `make` makes of the token whose secret was presented.
    async fn with_facts<T>(
        &self,
        bearer: &Bearer,
        make: impl FnOnce(&TokenFacts, Option<AccountRestriction>) -> T,
    ) -> Result<T> {
        self.ready().await?;
        for &(key, digest) in &bearer.keys {
            let entry = self.read_facts(key).await?;
            if let Some(facts) = entry.filter(|facts| secret::digest_eq(&facts.digest, &digest)) {
                let account = self.account_restriction(*facts.account_id)?;
                return Ok(make(&facts, account));
            }
        }
        Err(self.unknown_bearer(bearer.from))
    }

    /// Counts a failure: one answer for every secret that is no token's. Rule 11.21 of docs/policy.md.
    fn unknown_bearer(&self, from: Peer) -> Error {
        if self.bearers.failures.failed(from) {
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
