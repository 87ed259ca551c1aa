//! Why a text is not a whitelist entry, in words with the cure.

use std::net::IpAddr;

use ipnet::ip_mask_to_prefix;

use super::address::{AddressError, diagnose, excerpt, find_stray};
use super::cidr::Cidr;

/// Why a text is not a whitelist entry. Displays as a sentence that names the entry and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "`entry` is the text as given, quoted and cut short")]
pub enum CidrError {
    /// Nothing between two commas, or an empty string.
    #[error("an entry is empty: write an address or a range, and leave out stray commas")]
    Empty,
    /// A list where one entry is needed.
    #[error("{entry} is a list: give its entries one by one")]
    List { entry: String },
    /// Whitespace inside.
    #[error("{entry} contains whitespace: separate entries with commas")]
    Whitespace { entry: String },
    /// What should be an address is none.
    #[error("{entry}{error}")]
    Address { entry: String, error: AddressError },
    /// What follows the `/` is no prefix length. `longest` is the greatest it could be.
    #[error("{entry} has no valid prefix length: write a number from 1 to {longest} after the /")]
    Prefix { entry: String, longest: u8 },
    /// A netmask after the `/`.
    #[error("{entry} has a netmask: write a prefix length instead{}{suggestion}",
        if suggestion.is_empty() { ", such as /24" } else { ": did you mean " })]
    Netmask {
        entry: String,
        /// The same with a prefix length; empty if the mask is no prefix.
        suggestion: String,
    },
    /// Every address there is.
    #[error("{entry} allows every address: write the ranges that clients really use")]
    AnyAddress { entry: String },
    /// An IPv6 range around the IPv4-mapped addresses.
    #[error(
        "{entry} contains all IPv4 addresses, as ::ffff:0:0/96: write IPv4 ranges such as 10.0.0.0/24"
    )]
    ContainsIpv4 { entry: String },
    /// A range that holds a whole prefix in which other addresses stand for IPv4 addresses.
    #[error(
        "{entry} contains all IPv4 addresses, as {prefix} ({protocol}): write the addresses or narrower \
         ranges that clients really use"
    )]
    ContainsTranslated { entry: String, prefix: Cidr, protocol: &'static str },
    /// A range within such a prefix, of more IPv4 addresses than the setting allows.
    #[error(
        "{entry} is wider than an IPv4 /{widest}, since {prefix} ({protocol}) stands for all IPv4 \
         addresses: write ranges of /{longest} or longer"
    )]
    TranslatedTooWide {
        entry: String,
        prefix: Cidr,
        protocol: &'static str,
        /// The shortest prefix of an IPv4 range allowed.
        widest: u8,
        /// The same as the length of a prefix of this entry.
        longest: u8,
    },
    /// A prefix shorter than the setting allows.
    #[error("{entry} is wider than an {family} /{widest}: write narrower ranges")]
    TooWide {
        entry: String,
        /// `IPv4`, also for a mapped range, or `IPv6`.
        family: &'static str,
        /// The shortest prefix allowed, as that family counts.
        widest: u8,
    },
    /// Is or contains `0.0.0.0` or `::`.
    #[error(
        "{entry} is or contains the unspecified address, which no client has: write the addresses that clients have"
    )]
    Unspecified { entry: String },
    /// Is, contains or lies in `224.0.0.0/4` or `ff00::/8`.
    #[error(
        "{entry} is or contains multicast addresses, which no client has: write the addresses that clients have"
    )]
    Multicast { entry: String },
    /// Bits set after the prefix. Both suggestions are valid entries.
    #[error("{entry} has host bits set: did you mean {network} or {}?", address.with_prefix())]
    HostBits {
        entry: String,
        /// The range with those bits cleared.
        network: Cidr,
        /// The single address.
        address: Cidr,
    },
}

impl CidrError {
    pub(super) fn of_address(text: &str, address: &str) -> Self {
        let entry = excerpt(text);
        if text.is_empty() {
            Self::Empty
        } else if let Some(error) = find_stray(text) {
            Self::of_fault(entry, error)
        } else {
            let whole = text.contains("://") || text.contains('[');
            Self::of_fault(entry, diagnose(if whole { text } else { address }))
        }
    }

    fn of_fault(entry: String, error: AddressError) -> Self {
        match error {
            AddressError::List => Self::List { entry },
            AddressError::Whitespace => Self::Whitespace { entry },
            error => Self::Address { entry, error },
        }
    }

    pub(super) fn of_prefix(text: &str, ip: IpAddr, prefix: &str, longest: u8) -> Self {
        let entry = excerpt(text);
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        if let Some(error) = find_stray(text) {
            Self::of_fault(entry, error)
        } else if prefix.contains('%') {
            Self::Address { entry, error: AddressError::ZoneId }
        } else if digits && prefix.starts_with('0') {
            Self::Address { entry, error: AddressError::LeadingZeros }
        } else if let Ok(mask) = prefix.parse::<IpAddr>() {
            let suggestion = prefix_of_mask(mask).filter(|_| ip.is_ipv4() == mask.is_ipv4());
            let suggestion = suggestion.map(|length| format!("{ip}/{length}?")).unwrap_or_default();
            Self::Netmask { entry, suggestion }
        } else {
            Self::Prefix { entry, longest }
        }
    }

    /// What is wrong, as a stable word in `UPPER_SNAKE`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => AddressError::Empty.reason(),
            Self::List { .. } => "LIST",
            Self::Whitespace { .. } => AddressError::Whitespace.reason(),
            Self::Address { error, .. } => error.reason(),
            Self::Prefix { .. } => "PREFIX_LENGTH",
            Self::Netmask { .. } => "NETMASK",
            Self::AnyAddress { .. } => "ANY_ADDRESS",
            Self::ContainsIpv4 { .. } | Self::ContainsTranslated { .. } => "CONTAINS_IPV4",
            Self::TooWide { .. } | Self::TranslatedTooWide { .. } => "TOO_WIDE",
            Self::Unspecified { .. } => "UNSPECIFIED",
            Self::Multicast { .. } => "MULTICAST",
            Self::HostBits { .. } => "HOST_BITS",
        }
    }
}

/// The prefix length that a mask stands for: `255.255.255.0`, or the inverse that routers use, `0.0.0.255`.
fn prefix_of_mask(mask: IpAddr) -> Option<u8> {
    let inverse = match mask {
        IpAddr::V4(mask) => IpAddr::V4(!mask),
        IpAddr::V6(mask) => IpAddr::V6(!mask),
    };
    let mut lengths = [mask, inverse].into_iter().filter_map(|mask| ip_mask_to_prefix(mask).ok());
    lengths.find(|&length| length > 0)
}
