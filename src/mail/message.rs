//! A mail before it is sent: what stands in it, and how that is written on the wire.
//!
//! Must stay true: what is written is a function of the message and the sender alone, is ASCII unless
//! the recipient's address isn't, and has no line longer than SMTP takes.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use lettre::Address;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use uuid::Uuid;

use super::text::one_line;
use crate::policy::time::Timestamp;

/// One mail to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Makes its `Message-ID`: the same for each attempt to send it.
    pub id: Uuid,
    /// The recipient's mail address.
    pub to: String,
    /// Its `Date`.
    pub date: Timestamp,
    /// One line.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The same, as HTML.
    pub html: String,
}

/// Who mails: the value of `--mail-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    mailbox: Mailbox,
    /// That of its address, in ASCII.
    domain: String,
}

/// A text that names no sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no mail address: write portcullis@example.com, or Portcullis <portcullis@example.com>")]
pub struct InvalidSender;

impl FromStr for Sender {
    type Err = InvalidSender;

    fn from_str(text: &str) -> Result<Self, InvalidSender> {
        if one_line(text) != text {
            return Err(InvalidSender);
        }
        let Mailbox { name, email } = text.parse().map_err(|_| InvalidSender)?;
        // Relays that don't know SMTPUTF8 must be able to take it.
        let email = in_ascii(&email).filter(|email| email.user().is_ascii());
        let email = email.ok_or(InvalidSender)?;
        let domain = email.domain().to_owned();
        Ok(Self { mailbox: Mailbox::new(name, email), domain })
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mailbox.fmt(f)
    }
}

impl Sender {
    pub(super) fn address(&self) -> &Address {
        &self.mailbox.email
    }
}

/// The address with its domain in ASCII (`bücher.example` as `xn--bcher-kva.example`).
fn in_ascii(address: &Address) -> Option<Address> {
    if address.domain().is_ascii() {
        return Some(address.clone());
    }
    Address::new(address.user(), idna::domain_to_ascii(address.domain()).ok()?).ok()
}

/// A message as it is sent.
pub(super) struct Composed {
    pub(super) to: Address,
    /// Whether the recipient's address has letters beyond ASCII before the `@`.
    pub(super) utf8: bool,
    pub(super) bytes: Vec<u8>,
}

impl Message {
    /// The message with its headers, as `sender` sends it.
    ///
    /// # Errors
    /// The recipient's address is none, or the message can't be written.
    pub(super) fn compose(&self, sender: &Sender) -> Result<Composed, String> {
        let to = self.to.parse().ok().and_then(|address| in_ascii(&address));
        let to: Address = to.ok_or_else(|| "was given no mail address to send to".to_owned())?;
        let header = |name: &'static str, value: String| {
            HeaderValue::dangerous_new_pre_encoded(
                HeaderName::new_from_ascii_str(name),
                value.clone(),
                value,
            )
        };
        let part = |kind: ContentType, text: &str| {
            SinglePart::builder().header(kind).body(text.to_owned())
        };
        let parts = MultiPart::alternative()
            .boundary(format!("portcullis-{}", self.id.simple()))
            .singlepart(part(ContentType::TEXT_PLAIN, &self.text))
            .singlepart(part(ContentType::TEXT_HTML, &self.html));
        let message = lettre::Message::builder()
            .raw_header(header("Message-ID", format!("<{}@{}>", self.id, sender.domain)))
            .date(system_time(self.date))
            .from(sender.mailbox.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(one_line(&self.subject))
            .raw_header(header("Auto-Submitted", "auto-generated".to_owned()))
            .multipart(parts)
            .map_err(|error| format!("can't be given this message: {error}"))?;
        Ok(Composed { utf8: !to.user().is_ascii(), to, bytes: message.formatted() })
    }
}

/// Within the years that a mail's date can be of, 1970 to 9999.
fn system_time(at: Timestamp) -> SystemTime {
    const END: u64 = 253_402_300_799;
    let seconds = u64::try_from(at.0.div_euclid(1_000_000)).unwrap_or(0).min(END);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
