//! Mail over real sockets: what the relay says decides what becomes of a message, and no password gets
//! out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

mod aiosmtpd;
mod faults;
mod settings;
mod steps;

use std::time::Duration;

use portcullis::mail::{Endpoint, Limits, Message, Outcome, Relay};
use portcullis::pem::TrustStore;
use portcullis::policy::time::Timestamp;
use uuid::Uuid;

/// A relay of our own making, with time enough.
fn relay(url: &str) -> Relay {
    relay_with(url, None, Limits::each(Duration::from_secs(30)))
}

fn relay_with(url: &str, ca: Option<&str>, limits: Limits) -> Relay {
    Relay::new(
        Endpoint::parse(&url.to_owned().into()).unwrap(),
        TrustStore::public_and(ca.map(str::as_bytes)).unwrap(),
        "Portcullis <portcullis@acme.example>".parse().unwrap(),
        limits,
    )
}

/// Limits for relays that stall.
fn hasty() -> Limits {
    Limits { connect: Duration::from_secs(10), command: Duration::from_secs(1) }
}

fn message(to: &str) -> Message {
    Message {
        id: Uuid::from_u128(7),
        to: to.to_owned(),
        date: Timestamp(1_798_985_100_000_000),
        subject: "Hello".to_owned(),
        text: "Hello there\n".to_owned(),
        html: "<p>Hello there</p>\n".to_owned(),
    }
}

/// What a relay said of one message.
#[track_caller]
fn of_message(outcome: Outcome) -> String {
    match outcome {
        Outcome::RecipientRefused(text)
        | Outcome::MessageRefused(text)
        | Outcome::Postponed(text) => text,
        other => panic!("{other:?} does not concern one message"),
    }
}

/// The text of a fault.
#[track_caller]
fn fault(outcome: Outcome) -> String {
    match outcome {
        Outcome::RelayError(text) => text,
        other => panic!("{other:?} is no fault"),
    }
}
