//! What every store must do, over SQLite and over a real Postgres: each body in `on_both!` runs on
//! both.
//!
//! What must stay true: bodies see the store through the trait only, and reach past it with plain
//! SQL only to set a stage that no use case sets yet.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and spawn what they await")]

mod fixture;

/// Runs each body on a fresh store in each database.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::store::fixture::Fixture::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::store::fixture::Fixture::postgres().await).await;
            })*
        }
    };
}

mod accounts;
mod activity;
mod audit_chain;
mod catalog;
mod credentials;
mod denials;
mod embedded;
mod imports;
mod leaks;
mod lifecycle;
mod outage;
mod pending;
mod record;
mod replicas;
mod search;
mod sessions;
mod tokens;
mod upgrade;
mod webhooks;
mod whitelist;
