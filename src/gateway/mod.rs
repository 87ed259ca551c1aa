//! Gateways that ask on behalf of services which can't be changed: adapters to [`crate::service`]
//! (rules: docs/policy.md, section 9).
//!
//! # Invariants
//! - Every interface gives the decision that `Authorize` gives for the same token, address, method and path.
//! - No decision is never an allow.

pub mod answer;
pub mod request;
