//! Decisions without a server: as `grpc` makes them, from memory where that is possible.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use portcullis::cache::Cache;
use portcullis::clock::Clock;
use portcullis::lifecycle::LifecycleStatus;
use portcullis::model::NewToken;
use portcullis::pem::TrustStore;
use portcullis::policy::decide::{Decision, Reason};
use portcullis::policy::destination::InternalHosts;
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::lifecycle;
use portcullis::policy::network::{Limits, Whitelist};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use portcullis::replication::Replicas;
use portcullis::secret::Digest;
use portcullis::service::decisions::AuthorizeInput;
use portcullis::service::{Dependencies, Error, Services, SessionLengths};
use portcullis::store::Store;
use portcullis::telemetry::Metrics;
use portcullis::usage::Usage;
use portcullis::webhooks::Sender;
use portcullis::writes::Writes;
use tokio::runtime::Handle;

/// The services of a server without its sockets, and what they are built over.
#[derive(Debug, Clone)]
pub struct InProcess {
    services: Arc<Services>,
    pub parts: Dependencies,
}

impl InProcess {
    pub fn new(parts: Dependencies) -> Self {
        Self { services: Arc::new(Services::new(parts.clone())), parts }
    }
}

impl Deref for InProcess {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

/// The services of a server over `store`, with the default settings and no mail.
pub fn services(
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    replicas: Replicas,
    metrics: Arc<Metrics>,
) -> InProcess {
    let clock = Arc::new(Clock::starting_at(Timestamp(0)));
    let lifecycle = lifecycle::Settings::default();
    let replicas = Arc::new(replicas);
    let writes = Writes::new(store.clone(), cache.clone(), replicas.clone(), metrics.clone());
    let writes = Arc::new(writes);
    let usage = Usage::new(
        store.clone(),
        cache.clone(),
        writes.clone(),
        clock.clone(),
        metrics.clone(),
        lifecycle.window(),
        Handle::current(),
    );
    let status = LifecycleStatus::new(store.clone(), clock.clone(), metrics.clone());
    InProcess::new(Dependencies {
        token_max_lifetime: None,
        allow_admin_import: false,
        status: Arc::new(status),
        mailbox: None,
        replicas,
        writes,
        cache,
        store,
        usage: Arc::new(usage),
        decision_log: None,
        traces: None,
        clock,
        metrics,
        mails: false,
        outbox_wakeup: Arc::default(),
        sweep_wakeup: Arc::default(),
        webhook_sender: Arc::new(Sender::new(
            TrustStore::public_and(None).expect("public authorities"),
            InternalHosts::default(),
            Duration::from_secs(1),
        )),
        prefix: "pcl".parse().unwrap(),
        limits: Limits::default(),
        lifecycle,
        sessions: SessionLengths::default(),
    })
}

/// A token that may read, from anywhere.
pub fn read_only(id: TokenId, account_id: AccountId, digest: Digest) -> NewToken {
    NewToken {
        labels: Default::default(),
        expires: None,
        id,
        account_id,
        name: "x".into(),
        digest,
        kind: TokenKind::ReadOnly,
        scopes: Vec::new(),
        whitelist: Whitelist::Unrestricted,
    }
}

/// What `read` takes of the decision on `question`.
///
/// # Errors
/// Where no decision is reached.
pub async fn evaluate<T>(
    services: &Services,
    question: &AuthorizeInput<'_>,
    read: impl Fn(&Decision<'_>) -> T,
) -> Result<T, Error> {
    let from_memory = || -> Result<Option<T>, Error> {
        let Some(context) = services.decision_context(None) else { return Ok(None) };
        let decision = context.evaluate(question)?;
        Ok(decision.map(|decision| read(&decision)))
    };
    if let Some(read) = from_memory()? {
        return Ok(read);
    }
    let evaluation = services.evaluate_with_store(question, None).await?;
    Ok(read(&evaluation.decision(question)?))
}

/// The reason of the decision on `question`.
///
/// # Errors
/// Where no decision is reached.
pub async fn reason(services: &Services, question: &AuthorizeInput<'_>) -> Result<Reason, Error> {
    evaluate(services, question, |decision| decision.verdict.reason()).await
}
