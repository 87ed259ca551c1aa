//! Several servers over one Postgres: what is answered binds on all of them, whatever becomes of one.
//! Rules: docs/policy.md, section 6; protocol: docs/consistency.md.
//!
//! The check of what happened is tried itself: in a build with the feature `failpoints`, servers that break their
//! promise must be found out (`nemesis::planted`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and spawn what they await")]

mod accounts;
mod acknowledgement;
mod binding;
mod clock;
mod connections;
mod failover;
mod freshness;
mod history;
mod leaving;
mod lifecycle;
mod nemesis;
mod outages;
pub(crate) mod proxy;
mod repair;
pub(crate) mod stage;
