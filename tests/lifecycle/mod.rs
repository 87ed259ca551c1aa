//! What becomes of tokens that nobody uses, from creation to oblivion, in simulated time and over both
//! stores: whole lives told as stories, and thousands of random ones beside a model of the rules.
//!
//! What must stay true: decisions are asked with real secrets, changes go the way that calls take,
//! and nothing here waits for time to pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure"
)]

mod batch;
mod expiry;
mod histories;
mod history;
mod imports;
mod model;
mod outages;
mod outbox;
mod post;
mod record;
pub(crate) mod rng;
mod rules;
mod seen;
mod stories;
mod story;
mod witness;
mod world;
