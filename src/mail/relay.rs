//! Handing messages to the relay, one to one recipient at a time, and telling what became of each.
//!
//! lettre writes the commands and reads the answers; the steps are taken here one by one, since its
//! transport doesn't say which of them failed, and everything follows from that.
//!
//! Must stay true: whatever isn't a 5xx answer to RCPT or a 2xx answer to the message is a fault of the
//! relay, and every step has a time limit.

pub(super) mod endpoint;
mod told;
mod wire;

use std::error::Error as _;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Quit, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::{Response, Severity};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::message::{Composed, Message, Sender};
use endpoint::{Authorities, Endpoint};
use told::Withheld;

/// What became of a message. Texts are for operators: one line, at most 200 characters of the relay's
/// own, no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The relay has it and answers for it from here on.
    Accepted,
    /// The relay refused the recipient for good (5xx to RCPT): what it said.
    Refused(String),
    /// Anything else, which is no fault of the recipient's: what, and of which relay. After a
    /// connection that broke, the relay may still have the message.
    Fault(String),
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
    authorities: Authorities,
    sender: Sender,
    limits: Limits,
    hello: ClientId,
    withheld: Withheld,
    kept: Mutex<Option<Session>>,
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

/// Why a step failed.
enum Failure {
    /// The relay answered 4xx or 5xx; the connection is as good as before, unless that was a 421.
    Answered { code: u16, text: String },
    /// There is no connection any more, or none that can be trusted.
    Broken(String),
}

type Step<T> = Result<T, Failure>;

impl Relay {
    /// A relay that will be connected to when there is something to send.
    pub fn new(
        endpoint: Endpoint,
        authorities: Authorities,
        sender: Sender,
        limits: Limits,
    ) -> Self {
        let withheld = Withheld::new(endpoint.login.as_ref());
        let hello = ClientId::default();
        Self { endpoint, authorities, sender, limits, hello, withheld, kept: Mutex::new(None) }
    }

    /// Hands over one message, each step of which has its limit. A second call meanwhile gets a
    /// connection of its own; to drop the future is safe, and leaves open whether the message was
    /// accepted.
    pub async fn send(&self, message: &Message) -> Outcome {
        let composed = match message.compose(&self.sender) {
            Ok(composed) => composed,
            Err(text) => return Outcome::Fault(self.withheld.told(&text)),
        };
        let (session, mut outcome) = self.transact(&composed).await;
        if let Some(session) = session {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        }
        if let Outcome::Fault(text) = &mut outcome {
            *text = format!("{} {text}", self.endpoint);
        }
        outcome
    }

    /// Says goodbye to the relay, where a connection was kept: it need not stand open while there is
    /// nothing to send.
    pub async fn close(&self) {
        if let Some(mut session) = self.take() {
            let _ = timeout(self.limits.command, session.connection.command(Quit)).await;
        }
    }

    fn take(&self) -> Option<Session> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// One transaction, and the connection where it can be used again.
    async fn transact(&self, mail: &Composed) -> (Option<Session>, Outcome) {
        let mut session = match self.begin(mail).await {
            Ok(session) => session,
            Err(failure) => return (None, self.fault(failure, "MAIL")),
        };
        let rcpt = Rcpt::new(mail.to.clone(), Vec::new());
        let (step, done) = match session.command("RCPT", rcpt, Severity::PositiveCompletion).await {
            Err(Failure::Answered { code, text }) if (500..600).contains(&code) => {
                let refused = Outcome::Refused(self.withheld.told(&format!("{code} {text}")));
                return (Some(session), refused);
            }
            Err(failure) => ("RCPT", Err(failure)),
            Ok(()) => match session.command("DATA", Data, Severity::PositiveIntermediate).await {
                Err(failure) => ("DATA", Err(failure)),
                Ok(()) => ("the message", session.content(&mail.bytes).await),
            },
        };
        match done {
            Ok(()) => (Some(session), Outcome::Accepted),
            Err(failure) => {
                let usable = matches!(failure, Failure::Answered { code, .. } if code != 421);
                (usable.then_some(session), self.fault(failure, step))
            }
        }
    }

    /// A connection on which MAIL was accepted.
    async fn begin(&self, mail: &Composed) -> Step<Session> {
        if let Some(mut kept) = self.take()
            && kept.command("RSET", Rset, Severity::PositiveCompletion).await.is_ok()
            && self.mail(&mut kept, mail).await.is_ok()
        {
            return Ok(kept);
        }
        // The relay hung up meanwhile, or has had enough messages over that connection. That says
        // nothing about this message: a new connection does.
        let mut fresh = self.connect().await?;
        self.mail(&mut fresh, mail).await?;
        Ok(fresh)
    }

    async fn mail(&self, session: &mut Session, mail: &Composed) -> Step<()> {
        let mut parameters = Vec::new();
        if mail.utf8 {
            let relay = session.connection.server_info();
            if !relay.supports_feature(Extension::SmtpUtfEight) {
                let text = "doesn't take addresses with letters beyond ASCII (no SMTPUTF8)";
                return Err(Failure::Broken(text.to_owned()));
            }
            parameters.push(MailParameter::SmtpUtfEight);
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let command = Mail::new(Some(self.sender.address().clone()), parameters);
        session.command("MAIL", command, Severity::PositiveCompletion).await
    }

    async fn connect(&self) -> Step<Session> {
        let limit = self.limits.command;
        let wire = wire::connect(
            &self.endpoint,
            &self.authorities,
            &self.hello,
            self.limits.connect,
            limit,
        );
        let wire = wire.await.map_err(Failure::Broken)?;
        let connection = AsyncSmtpConnection::connect_with_transport(Box::new(wire), &self.hello);
        let connection = bounded(limit, "its greeting or EHLO", connection).await?;
        let mut session = Session { connection, limit };
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

    fn fault(&self, failure: Failure, step: &str) -> Outcome {
        let Failure::Broken(text) = failure.broken(step) else {
            return Outcome::Fault(String::new());
        };
        Outcome::Fault(self.withheld.told(&text))
    }
}

impl Failure {
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
struct Session {
    connection: AsyncSmtpConnection,
    limit: Duration,
}

impl Session {
    async fn command(
        &mut self,
        step: &str,
        command: impl fmt::Display,
        wanted: Severity,
    ) -> Step<()> {
        let answer = bounded(self.limit, step, self.connection.command(command)).await?;
        expected(step, &answer, wanted)
    }

    async fn content(&mut self, bytes: &[u8]) -> Step<()> {
        const STEP: &str = "the message";
        let answer = bounded(self.limit, STEP, self.connection.message(bytes)).await?;
        expected(STEP, &answer, Severity::PositiveCompletion)
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
        Err(_) => Err(Failure::Broken(format!("doesn't answer {step} within {limit:?}"))),
    }
}

fn failure(step: &str, error: &Error) -> Failure {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    match error.status() {
        Some(code) => Failure::Answered { code: code.into(), text: cause },
        // lettre's word for an end of the stream.
        None if cause == "incomplete response" => {
            Failure::Broken(format!("hung up instead of answering {step}"))
        }
        None if error.is_response() => {
            Failure::Broken(format!("answers {step} with what is no SMTP"))
        }
        None if cause.is_empty() => Failure::Broken(format!("failed at {step}: {error}")),
        None => Failure::Broken(format!("failed at {step}: {cause}")),
    }
}

fn expected(step: &str, answer: &Response, wanted: Severity) -> Step<()> {
    let code = answer.code();
    if code.severity == wanted {
        return Ok(());
    }
    Err(Failure::Broken(format!("answers {step} with {code}, which is no answer to it")))
}
