//! Client addresses, whitelist entries, and changes to a whitelist (rules: docs/policy.md, section 3).
//!
//! What must stay true:
//! - An IPv4-mapped IPv6 address *is* the IPv4 address. Every address is a `u128` with IPv4 at
//!   `::ffff:0:0/96`, so the two spellings are one value and no code can distinguish them.
//! - No [`Cidr`] is or contains an unspecified or a multicast address, and none outside
//!   `::ffff:0:0/96` reaches into it. No setting changes that, so no entry ever means "any address".
//! - [`CidrSet`] is never empty; only [`Whitelist::Unrestricted`] means "from anywhere", and
//!   [`apply`] never gives it to a grant that needs a whitelist.
//! - Text of a caller reaches a message only escaped and cut short.

mod address;
mod change;
mod cidr;
mod error;
mod whitelist;

pub use address::{AddressError, ClientAddr, InvalidAddr};
pub use change::{Change, ChangeError, Changed, apply};
pub use cidr::{Cidr, Limits};
pub use error::CidrError;
pub use whitelist::{CidrSet, ListError, MAX_ERRORS, TooMany, Whitelist, nested, parse_entries};

#[cfg(test)]
mod tests;
