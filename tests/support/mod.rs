//! What the integration tests share. Nothing here decides what is right; it only sets the stage.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "also compiled with some of the tests alone: see tests/long/mutants"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a fixture that fails fails its test"
)]

pub mod aiosmtpd;
pub mod calls;
pub mod client;
pub mod collector;
pub mod command;
pub mod decisions;
pub mod envoy;
pub mod faults;
pub mod frames;
pub mod html;
pub mod http;
pub mod mime;
pub mod postgres;
pub mod raw;
pub mod server;
pub mod smtp;
pub mod tls;
pub mod tools;
pub mod wait;
