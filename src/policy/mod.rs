//! The rules, and nothing else: no async, no I/O, no clock. `now` is an argument.
//!
//! Architecture invariant: this module imports no sibling, and nothing here can block or fail for
//! a reason outside its arguments. Every rule of `docs/policy.md` is decided here and only here.

pub mod catalog_file;
pub mod client_certificate;
pub mod client_source;
pub mod decide;
pub mod destination;
pub mod duration;
pub mod id;
pub mod lifecycle;
pub mod network;
pub mod replacement;
pub mod route;
pub mod scope;
pub mod text;
pub mod time;
pub mod token;
