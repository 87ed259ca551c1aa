//! Webhooks: sends lifecycle and security events to the receivers that operators name, each in the order of the audit
//! record, which is the queue as well: a webhook has a position in it, and nothing is queued twice or can grow.
//!
//! # Invariants
//! - An event is delivered at least once, with the same id each time: the position moves on only after an answer of the
//!   receiver, or where the event is given up, which is counted and logged.
//! - One replica delivers to a webhook at a time: it has claimed it. After a crash the claim ends by itself.
//! - A receiver that fails, or never answers, holds up nothing but its own events: no change, no action, no other webhook.
//! - A webhook is no notice: nothing waits for it, and nothing is carried out because of it.
//!
//! Rules 14.7, 14.12, 14.15 and 14.18 of docs/policy.md.

mod message;
mod retry;
mod sender;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::clock::{Clock, id_at};
use crate::model::{Actor, Context, Event, Invalidation, Page, Webhook, WebhookState};
use crate::policy::time::Timestamp;
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::writes::Writes;
use message::{Message, UnknownKey};
pub use retry::Retries;
use sender::Outcome;
pub use sender::Sender;

/// How long the deliverer waits at most for new events.
const IDLE: Duration = Duration::from_secs(1);
/// Events that are delivered under one claim.
const BATCH: u32 = 50;
/// How many positions without an event for a webhook are read again rather than noted.
const UNNOTED: i64 = 64;
/// How much longer than a message a claim lasts: how long a crash while one was sent holds events back.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);
/// The most characters of a failure that are kept.
const MAX_FAILURE: usize = 300;

/// What became of a test message. Rule 14.16 of docs/policy.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The id it was sent with.
    pub message_id: String,
    /// The status of the answer where it was received, else why it was not, as the end of a sentence.
    pub outcome: Result<u16, String>,
}

impl Sender {
    /// Sends a test message to `webhook`. `None` where this replica lacks the key of its secret.
    pub async fn try_out(&self, webhook: &Webhook, cache: &Cache, now: Timestamp) -> Option<Tried> {
        let message = Message::test(id_at(now), webhook, &cache.keys().clone(), now).ok()?;
        let outcome = match self.send(&webhook.url, &message).await {
            Outcome::Received(status) => Ok(status),
            Outcome::Gone => {
                Err("the answer is 410: the receiver wants no messages any more".to_owned())
            }
            Outcome::Refused(status) => Err(format!("the answer is {status}")),
            Outcome::Failed(why) => Err(cut(why)),
        };
        Some(Tried { message_id: message.id, outcome })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Deliverer {
    /// Where events and webhooks are.
    pub store: Arc<dyn Store>,
    /// What commits that a webhook is gone.
    pub writes: Arc<Writes>,
    /// What has the keys of the webhooks' secrets.
    pub cache: Arc<Cache>,
    /// The store's time.
    pub clock: Arc<Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What sends.
    pub sender: Arc<Sender>,
    /// When a webhook is tried again.
    pub retries: Retries,
}

impl Deliverer {
    /// Delivers until `stop`: to each webhook by itself, so that none waits for another.
    pub async fn run(&self, stop: CancellationToken) {
        let mut busy = HashSet::new();
        let mut turns = FuturesUnordered::new();
        let mut failing = false;
        while !stop.is_cancelled() {
            let all = self.store.webhooks(Page { after: None, limit: store::MAX_WEBHOOKS }).await;
            let mut result = all.map(|all| {
                self.show(&all);
                let now = self.clock.now();
                for webhook in all {
                    if webhook.is_due(now) && busy.insert(webhook.id) {
                        let (id, stop) = (webhook.id, &stop);
                        turns.push(async move { (id, self.deliver(webhook, stop).await) });
                    }
                }
            });
            let rest = tokio::time::sleep(IDLE);
            tokio::pin!(rest);
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = &mut rest => break,
                    Some((id, delivered)) = turns.next() => {
                        busy.remove(&id);
                        match delivered {
                            Ok(true) => break,
                            Ok(false) => {}
                            Err(error) => result = Err(error),
                        }
                    }
                }
            }
            if let Err(error) = &result
                && !failing
            {
                tracing::warn!(%error, "cannot read or mark webhooks; events are late");
            }
            failing = result.is_err();
        }
        // Each ends its claim, so that another process need not wait for that.
        while turns.next().await.is_some() {}
    }

    /// Shows how far the webhooks are behind.
    fn show(&self, all: &[Webhook]) {
        let now = self.clock.now();
        let enabled = || all.iter().filter(|webhook| webhook.state == WebhookState::Enabled);
        let waits = enabled().filter_map(|webhook| webhook.delivery.failing);
        let lag = waits.map(|failing| now.0.saturating_sub(failing.event_time.0) / 1_000_000);
        let gone = all.iter().filter(|webhook| webhook.state == WebhookState::Gone).count();
        let failing = enabled().filter(|webhook| webhook.delivery.failing.is_some()).count() + gone;
        self.metrics.webhooks.show(failing as u64, lag.max().unwrap_or(0));
    }

    /// Delivers what waits for `webhook`, up to a batch, until something fails. Whether there may be more at once.
    async fn deliver(&self, webhook: Webhook, stop: &CancellationToken) -> store::Result<bool> {
        let (id, position) = (webhook.id, webhook.delivery.position);
        let batch = self.store.audit_events_of(&webhook.actions(), position, BATCH).await?;
        let events: Vec<Event> = batch.events.iter().filter_map(Event::of).collect();
        if events.is_empty() {
            if batch.more || batch.until - position >= UNNOTED {
                self.store.pass_events(id, position, batch.until).await?;
            }
            return Ok(batch.more);
        }
        let now = self.clock.now();
        let claimed = self.store.claim_webhook(id, position, now, self.claim(now)).await?;
        let Some(mut webhook) = claimed else { return Ok(false) };
        if batch.pruned > position && webhook.delivery.failing.is_some() {
            tracing::warn!(
                webhook = %id,
                after = position,
                until = batch.pruned,
                "audit events were removed before a webhook received them: --audit-retention is shorter than it failed"
            );
        }
        for at in 0..events.len() {
            let outcome = tokio::select! {
                // What was answered already is stored.
                biased;
                outcome = self.send(&webhook, &events[at]) => outcome,
                () = stop.cancelled() => {
                    self.release(&mut webhook).await?;
                    return Ok(false);
                }
            };
            let received = matches!(outcome, Outcome::Received(_));
            if !self.settle(&mut webhook, &events[at..], outcome).await? || !received {
                // Where events were given up, the next one is tried at once.
                return Ok(webhook.is_due(self.clock.now()));
            }
        }
        webhook.delivery.position = webhook.delivery.position.max(batch.until);
        self.release(&mut webhook).await?;
        Ok(batch.more)
    }

    /// Until when a message that is sent from `now` on is this replica's alone.
    fn claim(&self, now: Timestamp) -> Timestamp {
        now.plus(self.sender.timeout() + CLAIM_MARGIN)
    }

    async fn send(&self, webhook: &Webhook, event: &Event) -> Outcome {
        let message = Message::of(event, webhook, &self.cache.keys().clone(), self.clock.now());
        match message {
            Ok(message) => self.sender.send(&webhook.url, &message).await,
            Err(UnknownKey) => Outcome::Failed(
                "this replica does not have the key of the webhook's secret yet".to_owned(),
            ),
        }
    }

    /// Stores what became of the first of `events`. False where the webhook was changed meanwhile, or is another's.
    async fn settle(
        &self,
        webhook: &mut Webhook,
        events: &[Event],
        outcome: Outcome,
    ) -> store::Result<bool> {
        let id = webhook.id;
        let now = self.clock.now();
        let claimed = webhook.delivery.claimed_until;
        let delivery = &mut webhook.delivery;
        let (refused, why) = match outcome {
            Outcome::Received(_) => {
                self.metrics.webhooks.delivered.inc();
                let failing = delivery.failing.take();
                delivery.position =
                    events.first().map_or(delivery.position, |event| event.revision);
                delivery.attempts = 0;
                delivery.last_success = Some(now);
                delivery.delivered += 1;
                delivery.claimed_until = self.claim(now);
                let stored = self.store.save_delivery(id, claimed, delivery).await?;
                if stored && failing.is_some() {
                    tracing::info!(webhook = %id, "a webhook's receiver accepts events again");
                }
                return Ok(stored);
            }
            Outcome::Gone => return self.disable(webhook, now).await,
            Outcome::Refused(status) => (true, format!("the answer is {status}")),
            Outcome::Failed(why) => (false, cut(why)),
        };
        self.metrics.webhooks.failures.inc();
        let begins = delivery.failing.is_none();
        let given_up = self.retries.failed(delivery, id, events, refused, why.clone(), now);
        delivery.claimed_until = Timestamp(0);
        if !self.store.save_delivery(id, claimed, delivery).await? {
            return Ok(false);
        }
        if begins {
            tracing::warn!(webhook = %id, why, "a webhook's receiver does not accept events; they are sent again");
        } else {
            tracing::debug!(webhook = %id, why, "a webhook's receiver does not accept events");
        }
        if given_up > 0 {
            self.metrics.webhooks.skipped.inc_by(given_up as u64);
            tracing::warn!(webhook = %id, events = given_up, why, "events for a webhook were given up");
        }
        Ok(true)
    }

    /// Rule 14.14 of docs/policy.md.
    async fn disable(&self, webhook: &mut Webhook, now: Timestamp) -> store::Result<bool> {
        let (id, claimed) = (webhook.id, webhook.delivery.claimed_until);
        self.metrics.webhooks.failures.inc();
        webhook.delivery.last_failure =
            Some((now, "the answer is 410: the receiver wants no events any more".to_owned()));
        webhook.delivery.claimed_until = Timestamp(0);
        let ctx = Context::new(Actor::System, now, None);
        let disable = self.store.disable_gone_webhook(&ctx, id, claimed, &webhook.delivery);
        let nothing = Invalidation::Nothing;
        let disabled = self.writes.commit("disable_gone_webhook", nothing, &ctx, disable).await?;
        if disabled {
            webhook.state = WebhookState::Gone;
            tracing::warn!(webhook = %id, "a webhook's receiver answered 410, and is sent no more events");
        }
        Ok(disabled)
    }

    async fn release(&self, webhook: &mut Webhook) -> store::Result<()> {
        let claimed = webhook.delivery.claimed_until;
        webhook.delivery.claimed_until = Timestamp(0);
        self.store.save_delivery(webhook.id, claimed, &webhook.delivery).await?;
        Ok(())
    }
}

/// A name server or a library may have said it.
fn cut(why: String) -> String {
    if why.chars().count() <= MAX_FAILURE {
        return why;
    }
    why.chars().take(MAX_FAILURE).collect()
}
