//! The token management page, as a thief and as people use it: the real binary, real stores, and for the
//! stories a real browser (docs/policy.md, sections 3, 4, 7 and 8).
//!
//! What thieves try stands in `strangers`, `forgery`, `sign_in`, `sessions`, `scripts`, `bodies`, `told` and
//! `secrets`, and is told over a socket. What people do is told by Debian's Chromium: `stories` starts the scripts of
//! `browser/`. `many` is about accounts with 10,000 tokens.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure"
)]

mod accounts;
mod activity;
mod aged;
mod bodies;
mod checks;
mod claims;
mod credentials;
mod expiry;
mod floods;
mod forgery;
mod hosts;
mod mails;
mod many;
mod proxies;
mod replacement;
mod scripts;
mod secrets;
mod sessions;
mod sign_in;
mod stage;
mod stories;
mod strangers;
mod told;
