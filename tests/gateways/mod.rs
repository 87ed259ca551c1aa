//! Real gateways with the configurations of deploy/gateways in front of a service that records what reaches it
//! (Rules 9.1 to 9.13 of docs/policy.md). The files are those that operators copy: tests change nothing in them but
//! addresses, the credential's place, and what a test says it changes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "test support: a failure here is the test's failure"
)]

mod client_certificate;
mod decisions;
mod differential;
mod doctor;
mod documents;
mod exchange;
mod hostile;
mod identity;
mod lifecycle;
mod process;
mod stage;
mod undecided;
mod upstream;
