//! One address: that of a client, and what keeps a text from being one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::policy::text::{code, is_hidden, quote};

/// Bytes of a caller's text that a message repeats.
const EXCERPT: usize = 60;
/// Where IPv4 begins among the 128-bit addresses: `::ffff:0:0`.
pub(super) const MAPPED_START: u128 = 0xffff << 32;

/// The address a request came from. IPv4-mapped IPv6 and IPv4 compare, hash and print alike.
/// Rule 3.6 of docs/policy.md.
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

    /// Any IPv4 or IPv6 address, also an unspecified or multicast one. Rule 3.12 of docs/policy.md.
    fn from_str(text: &str) -> Result<Self, InvalidAddr> {
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
        text.parse::<IpAddr>().map(Self::from).map_err(|_| {
            let error = match text.split_once('/') {
                _ if text.trim().is_empty() => AddressError::Empty,
                Some((address, _)) if is_address(address) => AddressError::Range,
                _ => match diagnose(text) {
                    AddressError::Wildcard | AddressError::Span => AddressError::Range,
                    AddressError::Separator(_) => AddressError::List,
                    error => error,
                },
            };
            let text = if error == AddressError::Empty { String::new() } else { excerpt(text) };
            InvalidAddr { text, error }
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
#[error("{text}{}{error}", if text.is_empty() { "the address" } else { "" })]
pub struct InvalidAddr {
    text: String,
    error: AddressError,
}

impl InvalidAddr {
    /// What is wrong, as a stable word in `UPPER_SNAKE`.
    pub fn reason(&self) -> &'static str {
        self.error.reason()
    }
}

/// Why a text is not an IP address. Displays as the end of a sentence that began with the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is nothing there.
    #[error(" is empty: write one such as 192.0.2.1 or 2001:db8::1")]
    Empty,
    /// Whitespace before, in or after an address.
    #[error(" contains whitespace: leave it out")]
    Whitespace,
    /// An interface after `%`.
    #[error(" has a zone id: leave out the % and what follows it")]
    ZoneId,
    /// `[2001:db8::1]`, `<192.0.2.1>`: the brackets.
    #[error(" is in the brackets {0} and {1}: leave them out")]
    Brackets(char, char),
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
    /// Several addresses where one is needed.
    #[error(" is a list: write one address, such as 192.0.2.1 or 2001:db8::1")]
    List,
    /// A character that can't be seen.
    #[error(
        " has the character {}, which can't be seen: leave it out, or type the address again", code(*.0)
    )]
    Hidden(char),
    /// `"192.0.2.1"`
    #[error(" has quotation marks: leave them out")]
    Quotes,
    /// `192.0.2.1 # office`
    #[error(" has a comment: leave it out")]
    Comment,
    /// What separates entries elsewhere.
    #[error(" has the character {}: separate entries with commas", named(*.0))]
    Separator(char),
    /// A character before or after what is an address or a range.
    #[error(" has the stray character {}: leave it out", named(*.0))]
    Stray(char),
    /// A character that no address has.
    #[error(
        " has the character {}, which no address has: write one such as 192.0.2.1 or 2001:db8::1",
        named(*.0)
    )]
    Character(char),
    /// Anything else.
    #[error(" is not an IP address: write one such as 192.0.2.1 or 2001:db8::1")]
    Malformed,
}

impl AddressError {
    /// A stable word in `UPPER_SNAKE`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Empty => "EMPTY",
            Self::Whitespace => "WHITESPACE",
            Self::ZoneId => "ZONE_ID",
            Self::Brackets(..) => "BRACKETS",
            Self::Port => "PORT",
            Self::LeadingZeros => "LEADING_ZEROS",
            Self::HostName => "HOST_NAME",
            Self::Wildcard => "WILDCARD",
            Self::Span => "ADDRESS_SPAN",
            Self::Range => "RANGE",
            Self::List => "LIST",
            Self::Hidden(_) => "HIDDEN_CHARACTER",
            Self::Quotes => "QUOTATION_MARKS",
            Self::Comment => "COMMENT",
            Self::Separator(_) => "SEPARATOR",
            Self::Stray(_) | Self::Character(_) | Self::Malformed => "NOT_AN_ADDRESS",
        }
    }
}

/// As a message names a character: itself, and its code where it may be taken for another one.
fn named(c: char) -> String {
    if c.is_ascii() { format!("“{c}”") } else { format!("“{c}” ({})", code(c)) }
}

/// What people write for a hyphen.
const DASHES: [char; 6] = ['-', '‐', '‑', '–', '—', '−'];
const BRACKETS: [(char, char); 4] = [('(', ')'), ('<', '>'), ('{', '}'), ('（', '）')];

/// What keeps `text`, which does not parse as an address, from being one: the mistake people make
/// most often that fits. Only words a message; it accepts nothing.
pub(super) fn diagnose(text: &str) -> AddressError {
    if let Some(error) = find_stray(text) {
        return error;
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if digits(port) => (host, true),
        _ => (text, false),
    };
    let dotted = text.rsplit(':').find(|part| part.contains('.')).unwrap_or("");
    let zeros = |octet: &str| octet.len() > 1 && octet.starts_with('0');
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let in_address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/');
    if text.contains("://") {
        AddressError::HostName
    } else if text.contains('%') {
        AddressError::ZoneId
    } else if text.contains(['[', ']']) {
        if text.contains("]:") { AddressError::Port } else { AddressError::Brackets('[', ']') }
    } else if text.contains('*') {
        AddressError::Wildcard
    } else if text.split_once(DASHES).is_some_and(|(first, _)| first.parse::<IpAddr>().is_ok()) {
        AddressError::Span
    } else if port && host.parse::<Ipv4Addr>().is_ok() {
        AddressError::Port
    } else if dotted.split('.').all(digits) && dotted.split('.').any(zeros) {
        AddressError::LeadingZeros
    } else if host.chars().all(in_name) && host.chars().any(char::is_alphabetic) {
        AddressError::HostName
    } else {
        let odd = text.chars().find(|&c| !in_address(c));
        odd.map_or(AddressError::Malformed, AddressError::Character)
    }
}

/// What stands in, before or after an address or a range and belongs to neither.
pub(super) fn find_stray(text: &str) -> Option<AddressError> {
    let find = |of: &str| text.chars().find(|&c| of.contains(c));
    let is_address = |text: &str| text.trim().parse::<IpAddr>().is_ok();
    let hidden = text.chars().find(|&c| is_hidden(c) && !c.is_whitespace());
    let slashes = text.split("//").next().is_some_and(|before| {
        before.len() < text.len() && (before.is_empty() || before.ends_with(char::is_whitespace))
    });
    let span = text.split_once(DASHES);
    if let Some(c) = hidden {
        Some(AddressError::Hidden(c))
    } else if find("\"'`´“”„‟‘’‚‛«»‹›′″＂＇").is_some() {
        Some(AddressError::Quotes)
    } else if text.contains('#') || slashes {
        Some(AddressError::Comment)
    } else if text.contains(',') {
        Some(AddressError::List)
    } else if let Some(c) = find(";|；，、") {
        Some(AddressError::Separator(c))
    } else if text.contains(char::is_whitespace) {
        let is_span = span.is_some_and(|(first, last)| is_address(first) && is_address(last));
        Some(if is_span { AddressError::Span } else { AddressError::Whitespace })
    } else if let Some((open, close)) = BRACKETS.into_iter().find(|&(a, b)| text.contains([a, b])) {
        Some(AddressError::Brackets(open, close))
    } else {
        // What else an entry is made of says something where it stands.
        let outside = |c: char| !c.is_alphanumeric() && !":/[]%*".contains(c);
        let inner = text.trim_matches(outside);
        let (address, prefix) = inner.split_once('/').unwrap_or((inner, "0"));
        let reads = is_address(address) && prefix.bytes().all(|b| b.is_ascii_digit());
        let stray = text.chars().next().filter(|&c| outside(c)).or(text.chars().next_back());
        stray.filter(|_| reads && inner.len() < text.len()).map(AddressError::Stray)
    }
}

/// `text` as a message repeats it.
pub(super) fn excerpt(text: &str) -> String {
    quote(text, EXCERPT)
}
