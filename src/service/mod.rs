//! The use cases: one method a call, without a word of gRPC or HTTP in it.
//!
//! Every change runs through [`crate::writes`], which makes memory follow the store before the answer. Callers are
//! narrowed to what they may see in here; what they may call at all is [`access`]'s table.

pub mod access;
pub mod accounts;
pub mod activity;
pub mod bearer;
pub mod catalogs;
pub mod credentials;
pub mod decisions;
pub mod error;
pub mod explain;
pub mod import;
pub mod leaks;
pub mod lists;
pub mod preview;
pub mod replacements;
pub mod sessions;
pub mod status;
pub mod tokens;
pub mod validate;
pub mod webhooks;
pub mod whitelists;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use crate::cache::{GatewayPrincipal, Principal};
pub use access::Caller;
pub use error::Error;
pub use sessions::SessionLengths;

use tokio::sync::Notify;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::decision_log::DecisionLog;
use crate::lifecycle::LifecycleStatus;
use crate::mail::Mailbox;
use crate::model::{ActiveCatalog, Context};
use crate::policy::client_certificate::Fingerprint;
use crate::policy::client_source::ClientSource;
use crate::policy::lifecycle::{self, Calendar};
use crate::policy::network::Limits;
use crate::policy::time::Timestamp;
use crate::replication::{LeaseExpired, Replicas, Wait};
use crate::secret::{Digest, Prefix};
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::telemetry::traces::Traces;
use crate::usage::Usage;
use crate::webhooks::Sender;
use crate::writes::Writes;

/// More than `--lease` may be.
const LONGER_THAN_LEASES: Duration = Duration::from_secs(2 * 3_600);

/// A result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

/// What a change led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed<T> {
    /// What is answered.
    pub value: T,
    /// The revision of the store that includes the change; 0 where nothing was to be changed.
    pub revision: i64,
}

impl<T> Changed<T> {
    fn new(value: T, ctx: &Context) -> Self {
        Self { value, revision: ctx.revision() }
    }
}

/// How far a change has propagated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// Whether every replica decides on the new state.
    pub complete: bool,
    /// When it does at the latest.
    pub complete_by: Timestamp,
}

/// What is needed to explain a pending action: its dates, and what holds it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifecycleView {
    /// What dates are computed with.
    pub calendar: Calendar,
    /// Whether anybody can be mailed.
    pub mails: bool,
}

/// What the use cases are built over.
#[derive(Debug, Clone)]
pub struct Dependencies {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// What decisions are made from.
    pub cache: Arc<Cache>,
    /// The other replicas, and this one's lease.
    pub replicas: Arc<Replicas>,
    /// What changes the store.
    pub writes: Arc<Writes>,
    /// What records the use of tokens.
    pub usage: Arc<Usage>,
    /// Where decisions are logged; `None` for nowhere.
    pub decision_log: Option<Arc<DecisionLog>>,
    /// What begins the spans of traced requests; `None` where no traces are recorded.
    pub traces: Option<Traces>,
    /// The last status of the lifecycle that was read.
    pub status: Arc<LifecycleStatus>,
    /// The store's time.
    pub clock: Arc<Clock>,
    /// What counts and measures.
    pub metrics: Arc<Metrics>,
    /// What new secrets begin with.
    pub prefix: Prefix,
    /// How large whitelists may be.
    pub limits: Limits,
    /// The longest that a new token may last; `None` for no bound.
    pub token_max_lifetime: Option<Duration>,
    /// Whether account admins may import tokens.
    pub allow_admin_import: bool,
    /// Whether mails can be sent; if not, announced actions are held.
    pub mails: bool,
    /// Where mails are kept instead of being sent, with `--dev` only.
    pub mailbox: Option<Arc<Mailbox>>,
    /// Wakes the outbox when mails are queued.
    pub outbox_wakeup: Arc<Notify>,
    /// Wakes the sweeper where a token expires within the notice period.
    pub sweep_wakeup: Arc<Notify>,
    /// How long things may go unused.
    pub lifecycle: lifecycle::Settings,
    /// How long sessions of the management page last.
    pub sessions: SessionLengths,
    /// What sends to webhooks.
    pub webhook_sender: Arc<Sender>,
}

/// The use cases: what fronts call, and nothing below it.
#[derive(Debug)]
pub struct Services {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    replicas: Arc<Replicas>,
    writes: Arc<Writes>,
    usage: Arc<Usage>,
    decision_log: Option<Arc<DecisionLog>>,
    traces: Option<Traces>,
    status: Arc<LifecycleStatus>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    prefix: Prefix,
    limits: Limits,
    token_max_lifetime: Option<Duration>,
    allow_admin_import: bool,
    mails: bool,
    mailbox: Option<Arc<Mailbox>>,
    outbox_wakeup: Arc<Notify>,
    sweep_wakeup: Arc<Notify>,
    lifecycle: lifecycle::Settings,
    sessions: SessionLengths,
    webhook_sender: Arc<Sender>,
    bearers: bearer::Bounds,
}

impl Services {
    /// The use cases over `dependencies`.
    pub fn new(dependencies: Dependencies) -> Self {
        let Dependencies {
            store,
            cache,
            replicas,
            writes,
            usage,
            decision_log,
            traces,
            status,
            clock,
            metrics,
            prefix,
            limits,
            token_max_lifetime,
            allow_admin_import,
            mails,
            mailbox,
            outbox_wakeup,
            sweep_wakeup,
            lifecycle,
            sessions,
            webhook_sender,
        } = dependencies;
        Self {
            store,
            cache,
            replicas,
            writes,
            usage,
            decision_log,
            traces,
            status,
            clock,
            metrics,
            prefix,
            limits,
            token_max_lifetime,
            allow_admin_import,
            mails,
            mailbox,
            outbox_wakeup,
            sweep_wakeup,
            lifecycle,
            sessions,
            webhook_sender,
            bearers: bearer::Bounds::default(),
        }
    }

    /// The store's time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What counts and measures.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What begins the spans of traced requests; `None` where no traces are recorded.
    pub fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }

    /// How large whitelists may be.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The longest that a new token may last; `None` for no bound.
    pub fn token_max_lifetime(&self) -> Option<Duration> {
        self.token_max_lifetime
    }

    /// How long sessions of the management page last.
    pub fn session_lengths(&self) -> SessionLengths {
        self.sessions
    }

    /// The principal of the valid credential with this digest; `None` for a wrong or revoked one.
    pub fn principal(&self, digest: &Digest) -> Option<Principal> {
        self.cache.credentials.by_digest(digest, || self.clock.now())
    }

    /// The same for a gateway, with where its client is read from (docs/policy.md, section 9).
    pub fn gateway_principal(&self, digest: &Digest) -> Option<GatewayPrincipal> {
        self.cache.credentials.gateway(digest, || self.clock.now())
    }

    /// The same for the valid credential that is bound to this certificate; `None` where there is none.
    pub fn gateway_principal_by_certificate(
        &self,
        certificate: &Fingerprint,
    ) -> Option<GatewayPrincipal> {
        self.cache.credentials.gateway_by_certificate(certificate, || self.clock.now())
    }

    /// What `read` makes of [`Self::gateway_principal`]; it runs while the credentials are borrowed, so it must not wait.
    /// `None` for a wrong or revoked credential.
    pub fn with_client_source<T>(
        &self,
        digest: &Digest,
        read: impl FnOnce(&ClientSource) -> T,
    ) -> Option<T> {
        self.cache.credentials.with_client_source(digest, || self.clock.now(), read)
    }

    /// Reads.
    async fn read<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = store::Result<T>>,
    ) -> Result<T> {
        Ok(store::timed(&self.metrics, operation, work).await?)
    }

    /// The catalogue in force.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it is not known.
    pub fn in_force(&self) -> Result<Arc<ActiveCatalog>> {
        self.cache.catalog().ok_or_else(no_catalog)
    }

    /// What dates are computed with, now.
    pub fn calendar(&self) -> Calendar {
        Calendar { settings: self.lifecycle, now: self.clock.now() }
    }

    /// What pending actions are explained with, now.
    pub fn outlook(&self) -> LifecycleView {
        LifecycleView { calendar: self.calendar(), mails: self.mails }
    }

    /// How far a change has propagated that was committed, or found made, after the wait that `wait` says. Rules 6.3,
    /// 6.5 and 6.6 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::NotPropagatedYet`] where that takes longer than a call may.
    async fn propagation(&self, wait: Wait) -> Result<Propagation> {
        let status = self.writes.propagation(wait).await.ok_or(Error::NotPropagatedYet)?;
        let complete_by = self.clock.now().plus(status.within);
        Ok(Propagation { complete: status.complete, complete_by })
    }

    /// Waits for what was created with an expiry, where that is reached before the creation has propagated: a replica of an
    /// earlier program, which decides until its lease is over, would allow it after its expiry. Rule 11.4 of
    /// docs/policy.md.
    ///
    /// # Errors
    /// As [`Self::propagation`]; whatever was created has no known secret then.
    async fn await_early_expiry(&self, expires: Option<Timestamp>) -> Result<()> {
        let Some(expires) = expires else { return Ok(()) };
        let early = match self.propagation(Wait::No).await {
            Ok(known) => !known.complete && expires <= known.complete_by,
            Err(_) => expires <= self.clock.now().plus(LONGER_THAN_LEASES),
        };
        if early {
            self.propagation(Wait::UntilComplete).await?;
        }
        Ok(())
    }

    /// Returns where decisions may be made: see [`Replicas::ready`]. Rule 6.8 of docs/policy.md.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where the lease has run out.
    pub async fn ready(&self) -> Result<()> {
        self.replicas.ready().await.map_err(|LeaseExpired| no_lease())
    }

    /// A decision that begins now rests on every change up to this revision, and maybe on later ones; 0
    /// where none is known.
    pub fn revision(&self) -> i64 {
        self.replicas.revision()
    }
}

fn no_lease() -> Error {
    Error::Unavailable {
        why: "this replica could not reach the store for longer than its lease: it decides nothing \
              and answers no call",
        retry: Duration::from_secs(1),
    }
}

/// What the field `no_wait` of a call asks for.
fn wait_unless(no_wait: bool) -> Wait {
    if no_wait { Wait::No } else { Wait::UntilComplete }
}

fn no_catalog() -> Error {
    Error::Unavailable {
        why: "the catalogue in force is not known yet; try again",
        retry: Duration::from_secs(1),
    }
}
