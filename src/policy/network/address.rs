//! One address: that of a client, and what keeps a text from being one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Characters of a caller's text that a message repeats.
const EXCERPT: usize = 60;
/// Where IPv4 begins among the 128-bit addresses: `::ffff:0:0`.
pub(super) const MAPPED_START: u128 = 0xffff << 32;

/// The address a request came from. IPv4-mapped IPv6 and IPv4 compare, hash and print alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddr(pub(super) u128);

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self(MAPPED_START | u128::from(v4.to_bits())),
            IpAddr::V6(v6) => Self(v6.to_bits()),
        }
    }
}

impl From<ClientAddr> for IpAddr {
    fn from(ClientAddr(bits): ClientAddr) -> Self {
        Ipv6Addr::from_bits(bits).to_canonical()
    }
}

impl FromStr for ClientAddr {
    type Err = InvalidAddr;

    /// Any IPv4 or IPv6 address, also an unspecified or multicast one.
    fn from_str(text: &str) -> Result<Self, InvalidAddr> {
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
        text.parse::<IpAddr>().map(Self::from).map_err(|_| {
            let fault = match text.split_once('/') {
                _ if text.trim().is_empty() => AddressFault::Empty,
                Some((address, _)) if is_address(address) => AddressFault::Range,
                _ => match diagnose(text) {
                    AddressFault::Wildcard | AddressFault::Span => AddressFault::Range,
                    fault => fault,
                },
            };
            InvalidAddr { text: excerpt(text), fault }
        })
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Debug for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A string that is not one IP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}{}{fault}", if text.is_empty() { "the address" } else { "" })]
pub struct InvalidAddr {
    text: String,
    fault: AddressFault,
}

impl InvalidAddr {
    /// What is wrong, as a stable word in `UPPER_SNAKE`.
    pub fn reason(&self) -> &'static str {
        self.fault.reason()
    }
}

/// Why a text is not an IP address. Displays as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// There is nothing there.
    #[error(" is empty: write one such as 192.0.2.1 or 2001:db8::1")]
    Empty,
    /// Whitespace before, in or after an address.
    #[error(" contains whitespace: leave it out")]
    Whitespace,
    /// An interface after `%`.
    #[error(" has a zone id: leave out the % and what follows it")]
    ZoneId,
    /// `[2001:db8::1]`.
    #[error(" is in brackets: leave them out")]
    Brackets,
    /// A port after the address.
    #[error(" has a port: leave it out")]
    Port,
    /// `010.0.0.1` or `/08`, which some programs read as octal.
    #[error(" has a number with leading zeros, which can be read in two ways: leave them out")]
    LeadingZeros,
    /// A name or URL.
    #[error(" is a host name: write its IP address")]
    HostName,
    /// `10.0.0.*`
    #[error(" has a wildcard: write the range with a prefix length, such as 10.0.0.0/24")]
    Wildcard,
    /// `10.0.0.1-10.0.0.9`
    #[error(
        " is a span from one address to another: write ranges such as 10.0.0.0/24, or each address"
    )]
    Span,
    /// A range where one address is needed.
    #[error(" is a range: write one address, such as 192.0.2.1 or 2001:db8::1")]
    Range,
    /// Anything else.
    #[error(" is not an IP address: write one such as 192.0.2.1 or 2001:db8::1")]
    Malformed,
}

impl AddressFault {
    /// A stable word in `UPPER_SNAKE`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::Whitespace => "WHITESPACE",
            Self::ZoneId => "ZONE_ID",
            Self::Brackets => "BRACKETS",
            Self::Port => "PORT",
            Self::LeadingZeros => "LEADING_ZEROS",
            Self::HostName => "HOST_NAME",
            Self::Wildcard => "WILDCARD",
            Self::Span => "ADDRESS_SPAN",
            Self::Range => "RANGE",
            Self::Malformed => "NOT_AN_ADDRESS",
        }
    }
}

/// What keeps `text`, which does not parse as an address, from being one: the mistake people make
/// most often that fits. Only words a message; it accepts nothing.
pub(super) fn diagnose(text: &str) -> AddressFault {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if digits(port) => (host, true),
        _ => (text, false),
    };
    let dotted = text.rsplit(':').find(|part| part.contains('.')).unwrap_or("");
    let zeros = |octet: &str| octet.len() > 1 && octet.starts_with('0');
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.contains(char::is_whitespace) {
        AddressFault::Whitespace
    } else if text.contains("://") {
        AddressFault::HostName
    } else if text.contains('%') {
        AddressFault::ZoneId
    } else if text.contains(['[', ']']) {
        if text.contains("]:") { AddressFault::Port } else { AddressFault::Brackets }
    } else if text.contains('*') {
        AddressFault::Wildcard
    } else if text.split_once('-').is_some_and(|(first, _)| first.parse::<IpAddr>().is_ok()) {
        AddressFault::Span
    } else if port && host.parse::<Ipv4Addr>().is_ok() {
        AddressFault::Port
    } else if dotted.split('.').all(digits) && dotted.split('.').any(zeros) {
        AddressFault::LeadingZeros
    } else if host.chars().all(in_name) && host.chars().any(char::is_alphabetic) {
        AddressFault::HostName
    } else {
        AddressFault::Malformed
    }
}

/// `text` without surrounding whitespace, control characters escaped, cut to [`EXCERPT`].
pub(super) fn excerpt(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        let escaped = c.escape_debug();
        if out.len() + escaped.len() > EXCERPT {
            out.push('…');
            break;
        }
        out.extend(escaped);
    }
    out
}
