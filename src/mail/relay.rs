//! Handing messages to the relay, one to one recipient at a time, and reporting what became of each.
//!
//! lettre writes the commands and reads the answers; the steps are taken here one by one, since its
//! transport doesn't say which of them failed, and everything follows from that.
//!
//! Must stay true: nothing but a 2xx answer to the message is an acceptance; what went wrong before the
//! relay took MAIL concerns the relay, and what went wrong after that one message, as far as one attempt can
//! show (rule 4.12 of docs/policy.md); every step has a time limit.

pub(super) mod endpoint;
mod redact;
mod wire;

use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Quit, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::{Response, Severity};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::message::{Composed, Message, Sender};
use crate::pem::TrustStore;
use endpoint::Endpoint;
use redact::Redactor;

/// Steps that decide what a failure means, as texts for operators name them.
const RCPT: &str = "RCPT";
const CONTENT: &str = "the message";

/// What became of a message. Texts are for operators: one line, at most 200 characters of the relay's
/// own, no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The relay has it and answers for it from here on: what it said.
    Accepted(String),
    /// The relay refused the recipient for good (5xx to RCPT): what it said.
    RecipientRefused(String),
    /// The relay will not take this message to this recipient as things are: a 5xx answer to DATA or to the
    /// message, or an address that the relay has no way to take. What it said.
    MessageRefused(String),
    /// The relay did not take this message this time: a 4xx answer to RCPT, DATA or the message, or no
    /// proper answer to one of them. What it said. After a connection that broke, the relay may still have
    /// the message.
    Postponed(String),
    /// The relay takes nothing, for any recipient: what is wrong, and with which relay.
    RelayError(String),
}

/// How long a relay may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For finding its address and reaching it.
    pub connect: Duration,
    /// For each later step: TLS, greeting, login, each command, taking the message.
    pub command: Duration,
}

impl Limits {
    /// As long for the one as for the other.
    pub fn each(limit: Duration) -> Self {
        Self { connect: limit, command: limit }
    }
}

/// A relay, and the connection that was kept from the message before.
pub struct Relay {
    endpoint: Endpoint,
    trust: TrustStore,
    sender: Sender,
    limits: Limits,
    hello: ClientId,
    redactor: Redactor,
    kept: Mutex<Option<SmtpSession>>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("endpoint", &self.endpoint)
            .field("sender", &self.sender)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A relay that can be replaced by another one. A mail that is being handed over stays with the one it began with.
#[derive(Debug)]
pub struct ReplaceableRelay(ArcSwap<Relay>);

impl ReplaceableRelay {
    /// Begins with `relay`.
    pub fn new(relay: Relay) -> Self {
        Self(ArcSwap::from_pointee(relay))
    }

    /// The one in use.
    pub fn current(&self) -> Arc<Relay> {
        self.0.load_full()
    }

    /// Uses `relay` from the next mail on.
    pub async fn replace(&self, relay: Relay) {
        self.0.swap(Arc::new(relay)).close().await;
    }
}

/// Why a step failed.
enum StepFailure {
    /// The relay answered 4xx or 5xx; the connection is as good as before, unless that was a 421.
    Answered { code: u16, text: String },
    /// There is no connection any more, or none that can be trusted.
    Broken(String),
}

type Step<T> = Result<T, StepFailure>;

impl Relay {
    /// A relay that will be connected to when there is something to send.
    pub fn new(endpoint: Endpoint, trust: TrustStore, sender: Sender, limits: Limits) -> Self {
        let redactor = Redactor::new(endpoint.login.as_ref());
        let hello = ClientId::default();
        Self { endpoint, trust, sender, limits, hello, redactor, kept: Mutex::new(None) }
    }

    /// Hands over one message, each step of which has its limit. A second call meanwhile gets a
    /// connection of its own; to drop the future is safe, and leaves open whether the message was
    /// accepted.
    pub async fn send(&self, message: &Message) -> Outcome {
        let composed = match message.compose(&self.sender) {
            Ok(composed) => composed,
            Err(text) => return Outcome::MessageRefused(self.redactor.redact(&text)),
        };
        let (session, mut outcome) = self.transact(&composed).await;
        if let Some(session) = session {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        }
        if let Outcome::RelayError(text) = &mut outcome {
            *text = format!("{} {text}", self.endpoint);
        }
        outcome
    }

    /// Connects to the relay, and logs in where the settings have a login.
    ///
    /// # Errors
    /// What is wrong, and with which relay.
    pub async fn check(&self) -> Result<(), String> {
        let mut session = self.connect().await.map_err(|failure| {
            let text = match self.error(failure, "the login") {
                Outcome::RelayError(text) => text,
                _ => String::new(),
            };
            format!("{} {text}", self.endpoint)
        })?;
        let _ = timeout(self.limits.command, session.connection.command(Quit)).await;
        Ok(())
    }

    /// Says goodbye to the relay, where a connection was kept: it need not stand open while there is
    /// nothing to send.
    pub async fn close(&self) {
        if let Some(mut session) = self.take() {
            let _ = timeout(self.limits.command, session.connection.command(Quit)).await;
        }
    }

    fn take(&self) -> Option<SmtpSession> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// One transaction, and the connection where it can be used again.
    async fn transact(&self, mail: &Composed) -> (Option<SmtpSession>, Outcome) {
        let mut session = match self.begin(mail).await {
            Ok(session) => session,
            Err((session, outcome)) => return (session, outcome),
        };
        let rcpt = Rcpt::new(mail.to.clone(), Vec::new());
        let (step, done) = match session.command(RCPT, rcpt, Severity::PositiveCompletion).await {
            Err(failure) => (RCPT, Err(failure)),
            Ok(_) => match session.command("DATA", Data, Severity::PositiveIntermediate).await {
                Err(failure) => ("DATA", Err(failure)),
                Ok(_) => (CONTENT, session.content(&mail.bytes).await),
            },
        };
        match done {
            Ok(answer) => {
                let answer = self.redactor.redact(&answer);
                (Some(session), Outcome::Accepted(answer))
            }
            Err(failure) => {
                let session = failure.leaves_usable().then_some(session);
                (session, self.concerns_message(failure, step))
            }
        }
    }

    /// A connection on which MAIL was accepted; else what is left of it, and what that means.
    async fn begin(&self, mail: &Composed) -> Result<SmtpSession, (Option<SmtpSession>, Outcome)> {
        if let Some(mut kept) = self.take()
            && kept.command("RSET", Rset, Severity::PositiveCompletion).await.is_ok()
            && kept.takes(mail)
            && self.mail(&mut kept, mail).await.is_ok()
        {
            return Ok(kept);
        }
        // The relay hung up meanwhile, or has had enough messages over that connection. That says
        // nothing about this message: a new connection does.
        let connected = self.connect().await;
        let mut fresh = connected.map_err(|failure| (None, self.error(failure, "MAIL")))?;
        if !fresh.takes(mail) {
            let text = "it doesn't take addresses with letters beyond ASCII (no SMTPUTF8)";
            return Err((Some(fresh), Outcome::MessageRefused(text.to_owned())));
        }
        match self.mail(&mut fresh, mail).await {
            Ok(_) => Ok(fresh),
            Err(failure) => {
                // MAIL asks for more where the recipient's address needs it, so an answer to that says
                // nothing about other recipients.
                if mail.utf8 && failure.leaves_usable() {
                    Err((Some(fresh), self.concerns_message(failure, "MAIL")))
                } else {
                    Err((None, self.error(failure, "MAIL")))
                }
            }
        }
    }

    async fn mail(&self, session: &mut SmtpSession, mail: &Composed) -> Step<String> {
        let mut parameters = Vec::new();
        if mail.utf8 {
            parameters.push(MailParameter::SmtpUtfEight);
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let command = Mail::new(Some(self.sender.address().clone()), parameters);
        session.command("MAIL", command, Severity::PositiveCompletion).await
    }

    async fn connect(&self) -> Step<SmtpSession> {
        let limit = self.limits.command;
        let wire =
            wire::connect(&self.endpoint, &self.trust, &self.hello, self.limits.connect, limit);
        let wire = wire.await.map_err(StepFailure::Broken)?;
        let connection = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &self.hello);
        let connection = bounded(limit, "its greeting or EHLO", connection).await?;
        let mut session = SmtpSession { connection, limit };
        if let Some(login) = &self.endpoint.login {
            let credentials =
                Credentials::new(login.user.clone(), login.password.expose_secret().to_owned());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            let answer = session.connection.auth(&mechanisms, &credentials);
            let answer = bounded(limit, "AUTH", answer).await;
            // Whatever it answers, this connection is not what the settings ask for.
            let answer = answer.map_err(|failure| failure.broken("AUTH"))?;
            expected("AUTH", &answer, Severity::PositiveCompletion)?;
        }
        Ok(session)
    }

    /// What a failure of `step` means, which came after the relay had taken MAIL: so it takes mail.
    fn concerns_message(&self, failure: StepFailure, step: &str) -> Outcome {
        let (code, text) = match failure {
            // A login is asked for on behalf of all messages (RFC 4954, section 6).
            StepFailure::Answered { code: 530 | 534 | 535 | 538, .. } => {
                return self.error(failure, step);
            }
            StepFailure::Answered { code, text } => (code, text),
            StepFailure::Broken(text) => {
                return Outcome::Postponed(self.redactor.redact(&format!("it {text}")));
            }
        };
        let answer = format!("{code} {text}");
        let for_good = (500..600).contains(&code);
        match step {
            RCPT if for_good => Outcome::RecipientRefused(self.redactor.redact(&answer)),
            RCPT => Outcome::Postponed(self.redactor.redact(&answer)),
            step if for_good => {
                Outcome::MessageRefused(self.redactor.redact(&format!("{answer} (to {step})")))
            }
            step => Outcome::Postponed(self.redactor.redact(&format!("{answer} (to {step})"))),
        }
    }

    fn error(&self, failure: StepFailure, step: &str) -> Outcome {
        let StepFailure::Broken(text) = failure.broken(step) else {
            return Outcome::RelayError(String::new());
        };
        Outcome::RelayError(self.redactor.redact(&text))
    }
}

impl Outcome {
    /// Whether the relay has the message.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_))
    }
}

impl StepFailure {
    /// Whether another message can go over the same connection.
    fn leaves_usable(&self) -> bool {
        matches!(self, Self::Answered { code, .. } if *code != 421)
    }

    /// The same, as something that ends the connection.
    fn broken(self, step: &str) -> Self {
        match self {
            Self::Answered { code, text } => {
                Self::Broken(format!("answers {step} with {code} {text}"))
            }
            broken @ Self::Broken(_) => broken,
        }
    }
}

/// A connection that was greeted and logged in.
struct SmtpSession {
    connection: AsyncSmtpConnection,
    limit: Duration,
}

impl SmtpSession {
    /// Whether the relay knows how to take a message to such an address.
    fn takes(&self, mail: &Composed) -> bool {
        !mail.utf8 || self.connection.server_info().supports_feature(Extension::SmtpUtfEight)
    }

    async fn command(
        &mut self,
        step: &str,
        command: impl fmt::Display,
        wanted: Severity,
    ) -> Step<String> {
        let answer = bounded(self.limit, step, self.connection.command(command)).await?;
        expected(step, &answer, wanted)
    }

    async fn content(&mut self, bytes: &[u8]) -> Step<String> {
        let answer = bounded(self.limit, CONTENT, self.connection.message(bytes)).await?;
        expected(CONTENT, &answer, Severity::PositiveCompletion)
    }
}

/// The answer to a step, which must come within `limit`.
async fn bounded<T>(
    limit: Duration,
    step: &str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Step<T> {
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failure(step, &error)),
        Err(_) => Err(StepFailure::Broken(format!("doesn't answer {step} within {limit:?}"))),
    }
}

fn failure(step: &str, error: &Error) -> StepFailure {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    match error.status() {
        Some(code) => StepFailure::Answered { code: code.into(), text: cause },
        // lettre's word for an end of the stream.
        None if cause == "incomplete response" => {
            StepFailure::Broken(format!("hung up instead of answering {step}"))
        }
        None if error.is_response() => {
            StepFailure::Broken(format!("answers {step} with what is no SMTP"))
        }
        None if cause.is_empty() => StepFailure::Broken(format!("failed at {step}: {error}")),
        None => StepFailure::Broken(format!("failed at {step}: {cause}")),
    }
}

/// The text of an answer of the wanted kind.
fn expected(step: &str, answer: &Response, wanted: Severity) -> Step<String> {
    let code = answer.code();
    if code.severity == wanted {
        let text: Vec<&str> = answer.message().collect();
        return Ok(format!("{code} {}", text.join(" ")).trim_end().to_owned());
    }
    Err(StepFailure::Broken(format!("answers {step} with {code}, which is no answer to it")))
}
