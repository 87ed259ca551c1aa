//! Decisions on what a token may do: the way of one question through memory.
//!
//! 1. [`Services::decision_context`] borrows the catalogue in force, where this replica may decide.
//! 2. [`DecisionContext::evaluate`] checks the arguments (`arguments`), finds the token in the near cache or the
//!    second-level cache, and has [`crate::policy::decide`] decide.
//! 3. A string that is the secret of no token made here is looked up among imported ones (`imported`).
//! 4. Where the store is needed, [`Services::evaluate_with_store`] does the same with what it reads (`stored`).
//!
//! Many questions together are evaluated by [`DecisionContext::evaluate_batch`] (`batch`).
//!
//! # Invariants
//! - A question about a token in the near cache waits for nothing and reaches no other thread. The one lock that it may
//!   take is that of a map in which a use, an address or a denial is noted (`crate::usage`): where the same was not
//!   noted within the last minute, and for 256 denials of a token in a second.
//! - Where decisions are logged, each is recorded once, and nothing waits for that (`crate::decision_log`). The same holds
//!   of the spans of those that are traced (`crate::telemetry::traces`).
//! - A forged token reaches the store only where the filter of imported tokens takes it for one, once.

mod arguments;
mod batch;
mod imported;
mod stored;

use futures_util::FutureExt as _;
use sdd::Guard;

use self::arguments::Memo;
pub use self::imported::MAX_IMPORTED_SECRET;
pub use self::stored::OwnedEvaluation;
pub(super) use self::stored::imports_unknown;
use super::{Result, Services, no_catalog};
use crate::cache::{BorrowedAccounts, BorrowedCatalog, CachedToken, Lookup};
use crate::clock::Stopwatch;
use crate::decision_log::DecidedRequest;
pub use crate::decision_log::{Call, Interface};
use crate::failpoint::{self, Failpoint};
use crate::policy::decide::{self, Decision, Operation, Presented, Request, Verdict};
use crate::policy::id::{CredentialId, TokenId};
use crate::policy::lifecycle::LiveAction;
use crate::policy::route::outline;
use crate::policy::scope::{Catalog, Scope};
use crate::policy::time::Timestamp;
use crate::secret::{self, Digest, ParsedSecret, SecretKind};
use crate::telemetry::traces::{HeaderOrigin, TraceHeaders, TracedRequest};
use crate::usage::DeniedRequest;

/// The most questions in one batch.
pub const MAX_BATCH: usize = 1_000;

/// A question as it was asked.
#[derive(Clone, Copy)]
pub struct AuthorizeInput<'a> {
    /// The token's secret, or whatever bytes the client presented as one.
    pub token: &'a [u8],
    /// The same as it was sent: with a `secret-token:` prefix that is not in `token`. An imported secret may have one.
    pub presented: &'a [u8],
    /// The client's address; empty where it is not known.
    pub client_ip: &'a str,
    /// What the client wants to do.
    pub operation: RequestedOperation<'a>,
    /// Whether this is no use of the token, whatever is decided.
    pub dry_run: bool,
    /// The decision has to rest on every change up to this revision; 0 where any state will do.
    pub at_least_as_fresh: i64,
}

/// What the client wants to do, as it was asked.
#[derive(Clone, Copy)]
pub enum RequestedOperation<'a> {
    /// Nothing was said.
    Nothing,
    /// A scope by name.
    Scope(&'a str),
    /// An HTTP request.
    Http {
        /// Its method.
        method: &'a str,
        /// Its path.
        path: &'a str,
    },
    /// An HTTP request that services may read in several ways: the sentence that says why, with the cure.
    Ambiguous(&'a str),
}

/// What decisions from memory are made with. It holds what they borrow, so it is dropped before anything is awaited.
pub struct DecisionContext<'s> {
    services: &'s Services,
    /// What is logged and traced of the call, where it is.
    call: Option<&'s Call>,
    catalog: BorrowedCatalog,
    accounts: BorrowedAccounts,
    /// Cached tokens stay where they are as long as it lives.
    guard: Guard,
    started: Stopwatch,
    /// Memory follows every change up to here.
    revision: i64,
}

impl Services {
    /// What the decision log and the traces are to have of a call over `interface` whose caller has a valid credential;
    /// `None` where decisions are not logged and the call is not traced. `headers` are asked for only where either may be.
    /// `credential` is `None` where callers need none.
    #[inline]
    pub fn begin_call<'a>(
        &self,
        interface: Interface,
        credential: Option<CredentialId>,
        headers: impl FnOnce() -> TraceHeaders<'a>,
    ) -> Option<Box<Call>> {
        if self.decision_log.is_none() && self.traces.is_none() {
            return None;
        }
        self.observed_call(interface, credential, headers())
    }

    #[inline(never)]
    fn observed_call(
        &self,
        interface: Interface,
        credential: Option<CredentialId>,
        headers: TraceHeaders<'_>,
    ) -> Option<Box<Call>> {
        let span = self.traces.as_ref().and_then(|traces| {
            let (request, origin) = traced_request(interface);
            traces.begin(request, headers, origin)
        });
        (span.is_some() || self.decision_log.is_some())
            .then(|| Box::new(Call::new(interface, credential, headers).traced(span)))
    }

    /// What to decide from memory with; `None` where this replica has no lease now, so that
    /// [`Self::evaluate_with_store`] has to wait for one. `call` is from [`Self::begin_call`].
    pub fn decision_context<'s>(&'s self, call: Option<&'s Call>) -> Option<DecisionContext<'s>> {
        let started = Stopwatch::start();
        self.replicas.may_decide(started).then(|| DecisionContext {
            services: self,
            call,
            // Before any fact is looked at.
            revision: self.revision(),
            catalog: self.cache.borrow_catalog(),
            accounts: self.cache.accounts.borrow(),
            guard: Guard::new(),
            started,
        })
    }

    /// Whether `secret` was made here. Checked before the second-level cache is asked: forged ones are to cost as
    /// little as can be. Rule 2.6 of docs/policy.md.
    pub(super) fn verify_tag(&self, secret: &ParsedSecret<'_>) -> bool {
        self.cache.keys().made(secret)
    }

    /// Notes in memory what was decided on a known token: the use that an allowed decision is (docs/policy.md, rule
    /// 1.12), or the denial.
    ///
    /// # Errors
    /// The token and the scope, where their use has to be persisted first: it cancels an announced action, or takes
    /// the scope off it.
    fn note<'d>(
        &self,
        decision: &Decision<'d>,
        token: Option<&'d CachedToken>,
        request: &Request<'_>,
        now: Timestamp,
        persisted: bool,
    ) -> std::result::Result<(), (&'d CachedToken, &'d Scope)> {
        let Some(token) = token else { return Ok(()) };
        let Verdict::Allow(entry) = decision.verdict else {
            self.note_denial(token, decision, request, now);
            return Ok(());
        };
        if let Some(scope) = decision.required {
            let cancels = |action: &LiveAction| action.takes.is_cancelled_by(scope);
            if !persisted && token.announced.iter().any(cancels) {
                return Err((token, scope));
            }
            self.usage.note(token, scope, (request.client, entry), now);
        }
        Ok(())
    }

    /// Traces a decision, and logs it where it is one that the log is to have.
    fn log(&self, call: &Call, decision: &Decision<'_>, decided: &DecidedRequest<'_>) {
        call.trace(decision);
        if let Some(log) = self.decision_log.as_ref().filter(|log| log.includes(decision)) {
            log.record(call, decision, decided);
        }
    }

    /// Takes note of a denied request of a known token, for people: nothing depends on it. Apart, so that what is
    /// allowed is not slower.
    #[inline(never)]
    fn note_denial(
        &self,
        token: &CachedToken,
        decision: &Decision<'_>,
        request: &Request<'_>,
        now: Timestamp,
    ) {
        let denied = DeniedRequest {
            token_id: *token.id,
            account_id: *token.account_id,
            reason: decision.verdict.reason(),
            address: request.client,
            scope_id: decision.required.map(|scope| scope.id),
            time: now,
        };
        self.usage.note_denial(denied, || match request.operation {
            Operation::Http { method, path } if decision.required.is_none() => {
                outline(method, path)
            }
            _ => String::new(),
        });
    }
}

impl DecisionContext<'_> {
    /// The revision that its decisions rest on, 0 where none is known.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Decides from memory. `None` where that is not possible, for one of four reasons: the token is not in memory; its
    /// use has to be recorded first, since it cancels an announced action; its account could not be read back after a
    /// change; or memory does not rest on the revision that `at_least_as_fresh` names.
    /// [`Services::evaluate_with_store`] then finds out itself which it is.
    ///
    /// # Errors
    /// [`super::Error::Invalid`] for malformed arguments, [`super::Error::Unavailable`] without a catalogue.
    pub fn evaluate<'c>(&'c self, input: &AuthorizeInput<'c>) -> Result<Option<Decision<'c>>> {
        assert!(!failpoint::is_active(Failpoint::DecisionPanic), "a planted error");
        let near = peek_id(input.token).and_then(|id| {
            let token = self.services.cache.tokens.get_near(id, &self.guard)?;
            Some((token, secret::digest(input.token)))
        });
        self.services.cache.tokens.record_hits(near.iter().map(|&(token, _)| token));
        let now = self.services.clock.at(self.started);
        let evaluated = self.decide(input, &mut Memo::default(), near, now);
        match &evaluated {
            Ok(Some(decision)) => {
                self.services.metrics.decided(decision.verdict.reason(), self.started.elapsed());
            }
            Ok(None) => {}
            Err(_) => {
                self.services.metrics.decision_errors.inc();
            }
        }
        evaluated
    }

    /// Decides with what the near cache has of the token, and records its use.
    #[inline]
    fn decide<'c>(
        &'c self,
        input: &AuthorizeInput<'c>,
        memo: &mut Memo<'c>,
        near: Option<(&'c CachedToken, Digest)>,
        now: Timestamp,
    ) -> Result<Option<Decision<'c>>> {
        // Rule 6.12 of docs/policy.md.
        if input.at_least_as_fresh > self.revision {
            return Ok(None);
        }
        let catalog = &(*self.catalog).as_ref().ok_or_else(no_catalog)?.catalog;
        let request = arguments::check(input, catalog, memo)?;
        let Some((presented, token)) = self.present(input, near) else { return Ok(None) };
        let decision = decide::decide(presented, catalog, &request, now);
        if !input.dry_run && self.services.note(&decision, token, &request, now, false).is_err() {
            return Ok(None);
        }
        if let Some(call) = self.call {
            self.log(call, input, catalog, &decision, &request, now);
        }
        Ok(Some(decision))
    }

    /// Logs and traces a decision. Apart, so that nothing is slower where that is not done.
    #[inline(never)]
    fn log(
        &self,
        call: &Call,
        input: &AuthorizeInput<'_>,
        catalog: &Catalog,
        decision: &Decision<'_>,
        request: &Request<'_>,
        time: Timestamp,
    ) {
        let decided = DecidedRequest {
            request,
            catalog,
            presented: input.presented,
            dry_run: input.dry_run,
            time,
            started: self.started,
            revision: self.revision,
        };
        self.services.log(call, decision, &decided);
    }

    /// What the presented secret turns out to be; `None` where memory does not know.
    fn present<'c>(
        &'c self,
        input: &AuthorizeInput<'c>,
        near: Option<(&'c CachedToken, Digest)>,
    ) -> Option<(Presented<'c>, Option<&'c CachedToken>)> {
        // The digest proves the whole secret, so nothing else of it is read.
        // Rules 7.5 and 7.6 of docs/policy.md.
        if let Some((token, digest)) = near
            && secret::digest_eq(&token.digest, &digest)
        {
            return self.known(token);
        }
        let (unknown, forged) = match ParsedSecret::parse(input.token, SecretKind::Token) {
            None => (Presented::Malformed, false),
            Some(secret) if !self.services.verify_tag(&secret) => (Presented::Unknown, true),
            // What was made here is no imported secret, whatever digests were imported: so no import brings back a
            // token that was purged. Rule 10.7 of docs/policy.md. Here it is another secret of a known token.
            Some(_) if near.is_some() => return Some((Presented::Unknown, None)),
            Some(secret) => {
                // `None`: it is not there, or the cache is just being put in order.
                let looked_up =
                    self.services.cache.tokens.get(TokenId(secret.id)).now_or_never()?;
                let Lookup::Hit(entry) = looked_up else { return None };
                let token = entry.as_ref().map(|token| token.get_guarded_ref(&self.guard));
                return match token.filter(|token| is_secret_of(input.token, token)) {
                    Some(token) => self.known(token),
                    None => Some((Presented::Unknown, None)),
                };
            }
        };
        if let Some(token) = self.find_imported(input.presented)? {
            return self.known(token);
        }
        if forged {
            self.services.metrics.forged.inc();
        }
        Some((unknown, None))
    }

    /// A token whose secret was presented; `None` where its account could not be read back.
    fn known<'c>(
        &self,
        token: &'c CachedToken,
    ) -> Option<(Presented<'c>, Option<&'c CachedToken>)> {
        let account = self.accounts.restriction(*token.account_id).ok()?;
        Some((Presented::token(token, account), Some(token)))
    }
}

/// What a call is in a trace, and who chose its headers: gateways pass those of their own clients on.
fn traced_request(interface: Interface) -> (TracedRequest<'static>, HeaderOrigin) {
    match interface {
        Interface::Authorize => (TracedRequest::Call("Authorize"), HeaderOrigin::Caller),
        Interface::Batch => (TracedRequest::Call("BatchAuthorize"), HeaderOrigin::Caller),
        Interface::Stream => (TracedRequest::Call("StreamAuthorize"), HeaderOrigin::Caller),
        Interface::Envoy => (TracedRequest::Call("Check"), HeaderOrigin::Caller),
        Interface::AuthZen => (TracedRequest::Decision("authzen"), HeaderOrigin::Caller),
        Interface::ForwardAuth => {
            (TracedRequest::Decision("forward_auth"), HeaderOrigin::Forwarded)
        }
        Interface::ExtAuthz => (TracedRequest::Decision("ext_authz"), HeaderOrigin::Forwarded),
    }
}

/// Whether `presented` is the secret of `token`.
fn is_secret_of(presented: &[u8], token: &CachedToken) -> bool {
    secret::digest_eq(&token.digest, &secret::digest(presented))
}

fn peek_id(token: &[u8]) -> Option<TokenId> {
    secret::peek_id(token, SecretKind::Token).map(TokenId)
}
