//! Reports of leaked secrets through the server's sockets (docs/policy.md, section 11).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

mod alerts;
mod key_server;
mod report;
