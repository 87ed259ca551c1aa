//! The outbox: hands the mails that the store has queued to the relay, and tells the store what became
//! of each.
//!
//! Must stay true: a mail is accepted in the store only after the relay took it over, at an instant
//! read after that; so a crash between the two sends it once more, with the same Message-ID, and
//! never marks one that was not sent. While one is sent nobody else sends it, however long that takes;
//! after a crash it is taken up again once its short claim is over. Only the refusal of a recipient is
//! the recipient's fault; anything else is tried again, later each time.
//!
//! Rules: docs/policy.md, section 4.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::facts;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::mail::{self, Mailbox, Message, Outcome, PublicUrl, Relay};
use crate::policy::lifecycle::{Calendar, Mode, Settings};
use crate::replicas::Replicas;
use crate::store::{self, Actor, Context, Mail, MailContent, Store, Touched};
use crate::telemetry::Metrics;

/// How long a claim on a mail lasts unless it is prolonged: how long a crash while it was sent holds it
/// back.
pub const CLAIM: Duration = Duration::from_secs(30);

/// How long the outbox waits at most when no mail is due: for those that another process queued, and
/// those that are to be tried again.
const IDLE: Duration = Duration::from_secs(1);

/// Who takes mails over: the relay, or a mailbox in memory.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync {
    /// Hands one message over.
    async fn send(&self, message: &Message) -> Outcome;

    /// There is nothing to send for now.
    async fn rest(&self) {}
}

#[async_trait]
impl Transport for Relay {
    async fn send(&self, message: &Message) -> Outcome {
        Relay::send(self, message).await
    }

    async fn rest(&self) {
        self.close().await;
    }
}

#[async_trait]
impl Transport for Mailbox {
    async fn send(&self, message: &Message) -> Outcome {
        self.keep(message.clone());
        Outcome::Accepted
    }
}

/// When mails are tried again.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// After the first fault.
    pub initial: Duration,
    /// At most; each further fault doubles the wait up to here.
    pub max: Duration,
    /// After the relay refused the recipient for good.
    pub refused: Duration,
}

impl Retries {
    /// How long to wait after the fault number `attempts` (from 0) of a mail: between half and the
    /// whole of the doubled wait, so that what failed together is not tried again together.
    fn after(&self, mail: &Mail) -> Duration {
        let doubled = self.initial.saturating_mul(1 << mail.attempts.min(31)).min(self.max);
        let jitter = (mail.id.0.as_u128() >> (mail.attempts % 32)) as u8;
        doubled / 2 + doubled / 2 * u32::from(jitter) / u32::from(u8::MAX)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    /// Where mails wait.
    pub store: Arc<dyn Store>,
    /// What follows an acceptance, which sets a date.
    pub cache: Arc<Cache>,
    /// Who must know of an action before its notice is sent.
    pub replicas: Arc<Replicas>,
    /// The store's time.
    pub clock: Arc<Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What dates are computed with.
    pub settings: Settings,
    /// Who takes mails over.
    pub relay: Arc<dyn Transport>,
    /// When a mail is tried again.
    pub retries: Retries,
    /// How long a claim lasts: [`CLAIM`].
    pub claim: Duration,
    /// Told of each mail that this process queues.
    pub queued: Arc<Notify>,
    /// Where admins find the management page.
    pub public_url: Option<PublicUrl>,
}

impl Outbox {
    /// Sends the mail that waits the longest: what became of it. `None` where none is due.
    ///
    /// # Errors
    /// The store's. A mail that was sent may be sent again, as long as the store does not know.
    pub async fn send_one(&self) -> store::Result<Option<Outcome>> {
        // Whose dates would the mail name?
        if self.replicas.are_at_odds().await? {
            return Ok(None);
        }
        let known = self.replicas.known_position().await?;
        let (mut mail, now) = loop {
            let now = self.clock.now();
            let Some(mail) = self.store.claim_mails(now, self.claim, known, 1).await?.pop() else {
                return Ok(None);
            };
            let notice = matches!(mail.content, MailContent::Notice(..));
            // Where nothing will be taken, the next sweep takes the notice back.
            if !(notice && self.settings.mode == Mode::Observe) {
                break (mail, now);
            }
        };
        let calendar = Calendar { settings: self.settings, now };
        let outcome = match mail::render(&facts::of(&mail, &calendar), self.public_url.as_ref()) {
            Ok(message) => tokio::select! {
                biased;
                outcome = self.relay.send(&message) => outcome,
                () = self.keep(&mut mail) => Outcome::Fault("another took it over".to_owned()),
            },
            Err(error) => Outcome::Fault(format!("the mail can't be written: {error}")),
        };
        let now = self.clock.now();
        match &outcome {
            Outcome::Accepted => {
                self.metrics.mails_accepted.inc();
                let ctx = Context { actor: Actor::System, now, client: None };
                let _under_way = self.cache.changing();
                if let Some(token) = self.store.mail_accepted(&ctx, mail.id).await? {
                    self.cache.changed(Touched::Token(token)).await;
                }
            }
            Outcome::Refused(why) => {
                self.metrics.mails_refused.inc();
                tracing::warn!(mail = %mail.id, to = mail.recipient, why, "the address is refused");
                let next = now.plus(self.retries.refused);
                self.store.mail_deferred(now, &mail, next, Some(why)).await?;
            }
            Outcome::Fault(why) => {
                self.metrics.mail_faults.inc();
                tracing::debug!(mail = %mail.id, why, "the relay did not take a mail over");
                let next = now.plus(self.retries.after(&mail));
                self.store.mail_deferred(now, &mail, next, None).await?;
            }
        }
        Ok(Some(outcome))
    }

    /// Prolongs the claim on `mail` again and again. Ends when it is lost: the mail was taken back, or
    /// this process stood still for so long that another sends it.
    async fn keep(&self, mail: &mut Mail) {
        loop {
            tokio::time::sleep(self.claim / 3).await;
            match self.store.prolong_claim(mail, self.clock.now().plus(self.claim)).await {
                Ok(Some(until)) => mail.claimed = until,
                Ok(None) => return,
                Err(error) => tracing::debug!(%error, mail = %mail.id, "a claim is not prolonged"),
            }
        }
    }

    /// Sends what is due until `stop`, at most `rate` mails a second.
    pub async fn run(&self, rate: u32, stop: CancellationToken) {
        let pause = Duration::from_secs(1) / rate.max(1);
        let (mut failing, mut faulty) = (false, false);
        while !stop.is_cancelled() {
            let sent = self.send_one().await;
            // A line when trouble begins, not one for each mail that waits.
            match &sent {
                Err(error) if !failing => {
                    tracing::warn!(%error, "cannot read or mark mails; notices are late");
                }
                Ok(Some(Outcome::Fault(why))) if !faulty => {
                    tracing::warn!(why, "the relay takes no mail; notices are late");
                }
                Ok(Some(Outcome::Accepted)) if faulty => tracing::info!("the relay takes mail"),
                Ok(None) => self.relay.rest().await,
                _ => {}
            }
            failing = sent.is_err();
            if let Ok(Some(outcome)) = &sent {
                faulty = matches!(outcome, Outcome::Fault(_));
            }
            let rest = async {
                match sent {
                    Ok(Some(_)) => tokio::time::sleep(pause).await,
                    // A mail that is queued from now on, or was since the store was asked.
                    _ => drop(tokio::time::timeout(IDLE, self.queued.notified()).await),
                }
            };
            stop.run_until_cancelled(rest).await;
        }
    }
}
