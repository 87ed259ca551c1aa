//! Several servers over one Postgres: what is answered binds on all of them, whatever becomes of one.
//! Rules: docs/policy.md, section 6; protocol: docs/consistency.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and spawn what they await")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../lease/random.rs"]
mod random;

mod binding;
mod failover;
mod history;
mod nemesis;
mod proxy;
mod stage;
