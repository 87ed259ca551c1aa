//! The outbox: hands the mails that the store has queued to the relay, and records in the store what became
//! of each.
//!
//! Must stay true: a mail is accepted in the store only after the relay took it over, at an instant
//! read after that; so a crash between the two sends it once more, with the same Message-ID, and
//! never marks one that was not sent. While one is sent nobody else sends it, however long that takes;
//! after a crash it is taken up again once its short claim is over. What failed is tried again; why one
//! mail fails while others may be taken is kept with it, to be shown as what holds an action back.
//!
//! Rules 4.12 and 5.4 of docs/policy.md.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::facts;
use crate::clock::Clock;
use crate::mail::{self, Mailbox, Message, Outcome, PublicUrl, ReplaceableRelay};
use crate::model::{Actor, Context, Mail, MailContent, MailFailure};
use crate::policy::id::MailId;
use crate::policy::lifecycle::{Calendar, Mode, Settings};
use crate::replication::Replicas;
use crate::store::{self, Store};
use crate::telemetry::Metrics;
use crate::writes::Writes;

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
impl Transport for ReplaceableRelay {
    async fn send(&self, message: &Message) -> Outcome {
        self.current().send(message).await
    }

    async fn rest(&self) {
        self.current().close().await;
    }
}

#[async_trait]
impl Transport for Mailbox {
    async fn send(&self, message: &Message) -> Outcome {
        self.keep(message.clone());
        Outcome::Accepted(String::new())
    }
}

/// When mails are tried again.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// After the first failure.
    pub initial: Duration,
    /// At most; each further failure doubles the wait up to here.
    pub max: Duration,
    /// After the relay refused the recipient for good; and at most, where it refused the mail for good.
    pub refused: Duration,
}

impl Retries {
    /// How long to wait after the failure number `attempts` (from 0) of a mail: between half and the
    /// whole of the doubled wait, so that what failed together is not tried again together.
    fn after(&self, mail: &Mail, max: Duration) -> Duration {
        let doubled = self.initial.saturating_mul(1 << mail.attempts.min(31)).min(max);
        let jitter = (mail.id.0.as_u128() >> (mail.attempts % 32)) as u8;
        doubled / 2 + doubled / 2 * u32::from(jitter) / u32::from(u8::MAX)
    }
}

/// A mail that was handed over, or was to be.
struct Delivery {
    mail: MailId,
    to: String,
    outcome: Outcome,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    /// Where mails wait.
    pub store: Arc<dyn Store>,
    /// What commits an acceptance, which sets a date.
    pub writes: Arc<Writes>,
    /// Who must know of an action before its notice is sent.
    pub replicas: Arc<Replicas>,
    /// The store's time.
    pub clock: Arc<Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What dates are computed with.
    pub settings: Settings,
    /// How long a new token may last, where that is bounded: what can be done about an expiry.
    pub token_max_lifetime: Option<Duration>,
    /// Who takes mails over.
    pub relay: Arc<dyn Transport>,
    /// When a mail is tried again.
    pub retries: Retries,
    /// How long a claim lasts: [`CLAIM`].
    pub claim: Duration,
    /// Notified of each mail that this process queues.
    pub outbox_wakeup: Arc<Notify>,
    /// Where admins find the management page.
    pub public_url: Option<PublicUrl>,
}

impl Outbox {
    /// Sends the mail that waits the longest: what became of it. `None` where none is due.
    ///
    /// # Errors
    /// The store's. A mail that was sent may be sent again, as long as the store does not know.
    pub async fn send_one(&self) -> store::Result<Option<Outcome>> {
        Ok(self.attempt().await?.map(|attempt| attempt.outcome))
    }

    async fn attempt(&self) -> store::Result<Option<Delivery>> {
        // Whose dates would the mail name?
        if self.replicas.has_config_mismatch().await? {
            return Ok(None);
        }
        // Rule 4.17 of docs/policy.md.
        let known = self.replicas.await_propagated_revision().await?;
        let (mut mail, now) = loop {
            let now = self.clock.now();
            let Some(mail) = self.store.claim_mails(now, self.claim, known, 1).await?.pop() else {
                return Ok(None);
            };
            let notice = matches!(mail.content, MailContent::Notice(..));
            // Where nothing will be taken, the next sweep takes the notice back. Tokens expire in either mode.
            if !(notice && self.settings.mode == Mode::Observe) {
                break (mail, now);
            }
        };
        let calendar = Calendar { settings: self.settings, now };
        let outcome = match mail::render(
            &facts::of(&mail, &calendar, self.token_max_lifetime),
            self.public_url.as_ref(),
        ) {
            Ok(message) => tokio::select! {
                biased;
                outcome = self.relay.send(&message) => outcome,
                () = self.keep(&mut mail) => {
                    tracing::debug!(mail = %mail.id, "the claim on a mail is lost: another sends it");
                    return Ok(None);
                }
            },
            Err(error) => Outcome::MessageRefused(format!("the mail can't be written: {error}")),
        };
        let now = self.clock.now();
        let counter = match &outcome {
            Outcome::Accepted(_) => &self.metrics.mails_accepted,
            Outcome::RecipientRefused(_) | Outcome::MessageRefused(_) | Outcome::Postponed(_) => {
                &self.metrics.mails_refused
            }
            Outcome::RelayError(_) => &self.metrics.mail_errors,
        };
        counter.inc();
        let Retries { max, refused, .. } = self.retries;
        let (wait, failure) = match &outcome {
            Outcome::Accepted(answer) => {
                let ctx = Context::new(Actor::System, now, None);
                let accept = self.store.mail_accepted(&ctx, mail.id, answer);
                let token = |changed: &Option<_>| changed.iter().copied().collect();
                self.writes.commit_tokens("mail_accepted", &ctx, accept, token).await?;
                return Ok(Some(Delivery { mail: mail.id, to: mail.recipient, outcome }));
            }
            Outcome::RecipientRefused(text) => {
                (refused, Some(MailFailure { text, address_refused: true }))
            }
            // At first soon, since a relay that was set up wrongly may reject every mail.
            Outcome::MessageRefused(text) => {
                let wait = self.retries.after(&mail, max.max(refused));
                (wait, Some(MailFailure { text, address_refused: false }))
            }
            Outcome::Postponed(text) => {
                (self.retries.after(&mail, max), Some(MailFailure { text, address_refused: false }))
            }
            Outcome::RelayError(_) => (self.retries.after(&mail, max), None),
        };
        self.store.mail_deferred(now, &mail, now.plus(wait), failure).await?;
        Ok(Some(Delivery { mail: mail.id, to: mail.recipient, outcome }))
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
        let mut failing = false;
        let mut log = DeliveryLog::default();
        while !stop.is_cancelled() {
            let sent = self.attempt().await;
            match &sent {
                Err(error) if !failing => {
                    tracing::warn!(%error, "cannot read or mark mails; notices are late");
                }
                Ok(Some(attempt)) => log.note(attempt),
                Ok(None) => self.relay.rest().await,
                Err(_) => {}
            }
            failing = sent.is_err();
            let rest = async {
                match sent {
                    Ok(Some(_)) => tokio::time::sleep(pause).await,
                    // A mail that is queued from now on, or was since the store was asked.
                    _ => drop(tokio::time::timeout(IDLE, self.outbox_wakeup.notified()).await),
                }
            };
            stop.run_until_cancelled(rest).await;
        }
    }
}

/// So many recipients of whom none was accepted lately are no coincidence: it is the relay.
const COINCIDENCE: usize = 3;
/// How many recipients are remembered as logged.
const REMEMBERED: usize = 10_000;

/// What is wrong with mail, for the log: a line where trouble begins, not one for each mail that waits.
#[derive(Default)]
struct DeliveryLog {
    /// Why no mail is taken, as the log has it.
    relay: Option<FailureCause>,
    /// Those whose mails failed for their own sake since the relay last took a mail, up to
    /// [`COINCIDENCE`].
    in_a_row: BTreeSet<String>,
    /// Those whose trouble the log has, until a mail to them is accepted.
    logged: HashSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailureCause {
    Error,
    TakesNobody,
}

impl DeliveryLog {
    fn note(&mut self, Delivery { mail, to, outcome }: &Delivery) {
        match outcome {
            Outcome::Accepted(_) => {
                self.in_a_row.clear();
                self.logged.remove(to);
                if self.relay.take().is_some() {
                    tracing::info!("the relay takes mail");
                }
            }
            Outcome::RelayError(why) => {
                tracing::debug!(%mail, why, "the relay did not take a mail over");
                if self.relay.replace(FailureCause::Error) != Some(FailureCause::Error) {
                    tracing::warn!(why, "the relay takes no mail; notices are late");
                }
            }
            Outcome::RecipientRefused(why) => {
                if self.begins(to) {
                    tracing::warn!(%mail, to, why, "the address is refused");
                }
                self.failed(to, why);
            }
            Outcome::MessageRefused(why) | Outcome::Postponed(why) => {
                if self.begins(to) {
                    tracing::warn!(%mail, to, why, "the relay does not take a mail to this address");
                }
                self.failed(to, why);
            }
        }
    }

    /// Whether the log has nothing of this recipient yet.
    fn begins(&mut self, to: &str) -> bool {
        if self.logged.len() >= REMEMBERED {
            self.logged.clear();
        }
        self.logged.insert(to.to_owned())
    }

    /// A mail failed that says nothing about others, unless many do.
    fn failed(&mut self, to: &str, why: &str) {
        if self.in_a_row.len() < COINCIDENCE {
            self.in_a_row.insert(to.to_owned());
        }
        if self.in_a_row.len() < COINCIDENCE {
            self.relay = None;
        } else if self.relay.replace(FailureCause::TakesNobody) != Some(FailureCause::TakesNobody) {
            tracing::warn!(why, "the relay takes no mail to anybody; notices are late");
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn noted(log: &mut DeliveryLog, to: &str, outcome: Outcome) -> Option<FailureCause> {
        log.note(&Delivery { mail: MailId(Uuid::nil()), to: to.to_owned(), outcome });
        log.relay
    }

    fn accepted() -> Outcome {
        Outcome::Accepted("250 taken".to_owned())
    }

    fn postponed() -> Outcome {
        Outcome::Postponed("450 busy".to_owned())
    }

    #[test]
    fn one_recipient_is_no_trouble_of_the_relay() {
        let mut log = DeliveryLog::default();
        for _ in 0..9 {
            for (to, outcome) in [
                ("ann", Outcome::RecipientRefused("550 no".to_owned())),
                ("bob", Outcome::MessageRefused("554 no".to_owned())),
                ("ann", postponed()),
            ] {
                assert_eq!(noted(&mut log, to, outcome), None);
            }
        }
    }

    #[test]
    fn many_recipients_in_a_row_are_trouble_of_the_relay() {
        let mut log = DeliveryLog::default();
        for to in ["ann", "bob"] {
            assert_eq!(noted(&mut log, to, postponed()), None);
        }
        assert_eq!(noted(&mut log, "cy", postponed()), Some(FailureCause::TakesNobody));
        assert_eq!(noted(&mut log, "ann", postponed()), Some(FailureCause::TakesNobody));
        assert_eq!(noted(&mut log, "bob", accepted()), None);
        assert_eq!(noted(&mut log, "cy", postponed()), None);
    }

    #[test]
    fn a_fault_is_trouble_of_the_relay_until_it_answers() {
        let mut log = DeliveryLog::default();
        let error = || Outcome::RelayError("cannot be reached".to_owned());
        assert_eq!(noted(&mut log, "ann", error()), Some(FailureCause::Error));
        assert_eq!(noted(&mut log, "ann", postponed()), None);
        assert_eq!(noted(&mut log, "ann", error()), Some(FailureCause::Error));
        assert_eq!(noted(&mut log, "ann", accepted()), None);
    }

    #[test]
    fn a_recipient_is_logged_once_until_a_mail_is_accepted() {
        let mut log = DeliveryLog::default();
        assert!(log.begins("ann") && log.begins("bob") && !log.begins("ann"));
        noted(&mut log, "ann", accepted());
        assert!(log.begins("ann") && !log.begins("bob"));
    }
}
