//! Client addresses, whitelist entries, and changes to a whitelist (rules: docs/policy.md, section 3).
//!
//! What must stay true:
//! - An IPv4-mapped IPv6 address *is* the IPv4 address. Every address is a `u128` with IPv4 at
//!   `::ffff:0:0/96`, so the two spellings are one value and no code can tell them apart.
//! - No [`Entry`] is or contains an unspecified or a multicast address, and none outside
//!   `::ffff:0:0/96` reaches into it. No setting changes that, so no entry ever means "any address".
//! - [`Entries`] is never empty; only [`Whitelist::Unrestricted`] means "from anywhere", and
//!   [`apply`] never gives it to a grant that needs a whitelist.
//! - Text of a caller reaches a message only escaped and cut short.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Characters of a caller's text that a message repeats.
const EXCERPT: usize = 60;
/// Faults that [`parse_entries`] reports; a list with more of them is refused just the same.
pub const MAX_FAULTS: usize = 100;
/// Where IPv4 begins among the 128-bit addresses: `::ffff:0:0`.
const MAPPED_START: u128 = 0xffff << 32;
/// Prefix bits before an IPv4 prefix: `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

const IPV4: Entry = Entry::new(MAPPED_START, MAPPED_BITS);
const MULTICAST_V4: Entry = Entry::new(MAPPED_START | 0xe000_0000, MAPPED_BITS + 4);
const MULTICAST_V6: Entry = Entry::new(0xff00 << 112, 8);

/// The address a request came from. IPv4-mapped IPv6 and IPv4 compare, hash and print alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddr(u128);

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
fn diagnose(text: &str) -> AddressFault {
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
fn excerpt(text: &str) -> String {
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

/// How large a whitelist and its entries may be. A setting; it bounds what is *added*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The shortest prefix of an IPv4 range.
    pub widest_v4: u8,
    /// The shortest prefix of an IPv6 range.
    pub widest_v6: u8,
    /// Entries that one whitelist holds at most.
    pub max_entries: usize,
}

impl Limits {
    /// No limit: for reading what was accepted under earlier settings (rows of the store, and
    /// entries to be removed). Every rule that is no setting still holds.
    pub const NONE: Self = Self { widest_v4: 0, widest_v6: 0, max_entries: usize::MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self { widest_v4: 8, widest_v6: 32, max_entries: 100 }
    }
}

/// One whitelist entry: a single address, or a range with all bits after its prefix zero.
/// Ordered by first address, wider before narrower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    // The first address. Two halves, not a u128, whose alignment would cost eight bytes more.
    high: u64,
    low: u64,
    // 0..=128; an IPv4 prefix length has 96 added.
    bits: u8,
}

impl Entry {
    /// The range of `bits` prefix bits that `address` lies in.
    const fn new(address: u128, bits: u8) -> Self {
        let start = address & Self::mask(bits);
        Self { high: (start >> 64) as u64, low: start as u64, bits }
    }

    const fn mask(bits: u8) -> u128 {
        match bits {
            0 => 0,
            _ => u128::MAX << (128 - bits as u32),
        }
    }

    fn start(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// Reads one entry: an address, or an address, `/` and a prefix length. Whitespace around it
    /// is ignored.
    ///
    /// # Errors
    /// Names the entry, what is wrong with it, and the cure.
    pub fn parse(text: &str, limits: &Limits) -> Result<Self, EntryError> {
        let text = text.trim();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| EntryError::of_address(text, address))?;
        let ClientAddr(start) = ip.into();
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let length = match prefix {
            None => longest,
            Some(prefix) => read_prefix(prefix, longest)
                .ok_or_else(|| EntryError::of_prefix(text, ip, prefix, longest))?,
        };
        let bits = length + (128 - longest);
        let range = Self::new(start, bits);

        let entry = || excerpt(text);
        let (family, widest, offset) = match IPV4.covers(&range) {
            true => ("IPv4", limits.widest_v4, MAPPED_BITS),
            false => ("IPv6", limits.widest_v6, 0),
        };
        // The order is part of the contract: host bits come last, so that what they suggest is
        // accepted.
        if length == 0 || range == IPV4 {
            Err(EntryError::AnyAddress { entry: entry() })
        } else if range.covers(&IPV4) {
            Err(EntryError::ContainsIpv4 { entry: entry() })
        } else if bits < widest.saturating_add(offset) {
            Err(EntryError::TooWide { entry: entry(), family, widest })
        } else if range.contains(ClientAddr(0)) || range.contains(ClientAddr(MAPPED_START)) {
            Err(EntryError::Unspecified { entry: entry() })
        } else if range.overlaps(&MULTICAST_V4) || range.overlaps(&MULTICAST_V6) {
            Err(EntryError::Multicast { entry: entry() })
        } else if range.start() != start {
            let address = Self::new(start, 128);
            Err(EntryError::HostBits { entry: entry(), network: range, address })
        } else {
            Ok(range)
        }
    }

    /// Whether `address` may pass.
    #[inline]
    pub fn contains(&self, ClientAddr(address): ClientAddr) -> bool {
        (address ^ self.start()) & Self::mask(self.bits) == 0
    }

    /// Whether every address of `other` is in this entry; true of an entry and itself.
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.contains(ClientAddr(other.start()))
    }

    /// Whether any address is in both. Ranges nest or are disjoint: then one covers the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The first address and the prefix length, as they are written.
    fn parts(&self) -> (IpAddr, u8) {
        match IpAddr::from(ClientAddr(self.start())) {
            ip if ip.is_ipv4() => (ip, self.bits.saturating_sub(MAPPED_BITS)),
            ip => (ip, self.bits),
        }
    }

    /// With the prefix length even where it says nothing: `10.0.0.5/32`.
    fn with_prefix(&self) -> String {
        let (ip, length) = self.parts();
        format!("{ip}/{length}")
    }
}

impl fmt::Display for Entry {
    /// Canonical, and read back by [`Entry::parse`] as the same entry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bits, self.parts()) {
            (128, (ip, _)) => write!(f, "{ip}"),
            (_, (ip, length)) => write!(f, "{ip}/{length}"),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A decimal number up to `longest`, without sign or leading zeros.
fn read_prefix(text: &str, longest: u8) -> Option<u8> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|&length| plain && length <= longest)
}

/// Why a text is not a whitelist entry. Displays as a sentence that names the entry and the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "`entry` is the text as given, escaped and cut short")]
pub enum EntryError {
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
    #[error("{entry}{fault}")]
    Address { entry: String, fault: AddressFault },
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
        network: Entry,
        /// The single address.
        address: Entry,
    },
}

impl EntryError {
    fn of_address(text: &str, address: &str) -> Self {
        let entry = excerpt(text);
        if text.is_empty() {
            Self::Empty
        } else if text.contains(',') {
            Self::List { entry }
        } else if text.contains(char::is_whitespace) {
            Self::Whitespace { entry }
        } else {
            let whole = text.contains("://") || text.contains('[');
            let fault = diagnose(if whole { text } else { address });
            Self::Address { entry, fault }
        }
    }

    fn of_prefix(text: &str, ip: IpAddr, prefix: &str, longest: u8) -> Self {
        let entry = excerpt(text);
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        if text.contains(',') {
            Self::List { entry }
        } else if text.contains(char::is_whitespace) {
            Self::Whitespace { entry }
        } else if prefix.contains('%') {
            Self::Address { entry, fault: AddressFault::ZoneId }
        } else if digits && prefix.starts_with('0') {
            Self::Address { entry, fault: AddressFault::LeadingZeros }
        } else if let Ok(mask) = prefix.parse::<IpAddr>() {
            let length = match mask {
                IpAddr::V4(mask) => prefix_of_mask(u128::from(mask.to_bits()) << 96, 32),
                IpAddr::V6(mask) => prefix_of_mask(mask.to_bits(), 128),
            };
            let suggestion = length.filter(|_| ip.is_ipv4() == mask.is_ipv4());
            let suggestion = suggestion.map(|length| format!("{ip}/{length}?")).unwrap_or_default();
            Self::Netmask { entry, suggestion }
        } else {
            Self::Prefix { entry, longest }
        }
    }

    /// What is wrong, as a stable word in `UPPER_SNAKE`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => AddressFault::Empty.reason(),
            Self::List { .. } => "LIST",
            Self::Whitespace { .. } => AddressFault::Whitespace.reason(),
            Self::Address { fault, .. } => fault.reason(),
            Self::Prefix { .. } => "PREFIX_LENGTH",
            Self::Netmask { .. } => "NETMASK",
            Self::AnyAddress { .. } => "ANY_ADDRESS",
            Self::ContainsIpv4 { .. } => "CONTAINS_IPV4",
            Self::TooWide { .. } => "TOO_WIDE",
            Self::Unspecified { .. } => "UNSPECIFIED",
            Self::Multicast { .. } => "MULTICAST",
            Self::HostBits { .. } => "HOST_BITS",
        }
    }
}

/// The prefix length that a mask, in the top `width` bits, stands for: `255.255.255.0`, or the
/// inverse that routers use, `0.0.0.255`.
fn prefix_of_mask(mask: u128, width: u32) -> Option<u32> {
    let all = u128::MAX << (128 - width);
    [mask, !mask & all].into_iter().find_map(|mask| {
        let length = mask.leading_ones();
        (length > 0 && mask << (length - 1) << 1 == 0).then_some(length)
    })
}

/// One thing wrong in a list of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListFault {
    /// Which of the strings, counted from 0.
    pub index: usize,
    /// What is wrong with one entry in it.
    pub error: EntryError,
}

/// Reads strings of which each is an entry or a comma-separated list of entries. Sorted, without
/// duplicates; no strings give no entries. The number of entries is [`apply`]'s to judge.
///
/// # Errors
/// Every fault (the first [`MAX_FAULTS`]), in order.
pub fn parse_entries<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    limits: &Limits,
) -> Result<Vec<Entry>, Vec<ListFault>> {
    let mut entries = Vec::new();
    let mut faults = Vec::new();
    for (index, text) in texts.into_iter().enumerate() {
        for item in text.split(',') {
            match Entry::parse(item, limits) {
                Ok(entry) => entries.push(entry),
                Err(error) => faults.push(ListFault { index, error }),
            }
            if faults.len() == MAX_FAULTS {
                return Err(faults);
            }
        }
    }
    if faults.is_empty() { Ok(set(entries)) } else { Err(faults) }
}

/// Sorted, without duplicates.
fn set(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// Where a token may be used from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whitelist {
    /// From anywhere. Said explicitly, never by an empty list.
    Unrestricted,
    /// From these addresses only.
    Only(Entries),
}

impl Whitelist {
    /// Whether a token with this whitelist may be used from `address`.
    pub fn allows(&self, address: ClientAddr) -> bool {
        match self {
            Self::Unrestricted => true,
            Self::Only(entries) => entries.find(address).is_some(),
        }
    }

    /// The most specific entry that contains `address`. An unrestricted whitelist has no entries,
    /// so that `None` alone is no denial: see [`Self::allows`].
    pub fn find(&self, address: ClientAddr) -> Option<&Entry> {
        match self {
            Self::Unrestricted => None,
            Self::Only(entries) => entries.find(address),
        }
    }

    /// The entries, sorted; `[]` if unrestricted.
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Unrestricted => &[],
            Self::Only(entries) => &entries.entries,
        }
    }
}

/// A non-empty set of entries.
#[derive(Clone, PartialEq, Eq)]
pub struct Entries {
    // Sorted, without duplicates.
    entries: Box<[Entry]>,
    // For each entry the index of the narrowest other one that covers it; out of range for none.
    parents: Box<[u32]>,
}

/// A whitelist with more entries than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the whitelist would have {count} entries, and {max} are allowed: join addresses into ranges, or remove some"
)]
pub struct TooMany {
    /// How many it would have.
    pub count: usize,
    /// How many are allowed.
    pub max: usize,
}

impl Entries {
    /// A set of entries; `None` if there are none. Duplicates count once.
    ///
    /// # Errors
    /// If they are more than `limits` allows.
    pub fn new(entries: Vec<Entry>, limits: &Limits) -> Result<Option<Self>, TooMany> {
        let entries = set(entries);
        let (count, max) = (entries.len(), limits.max_entries);
        if count > max {
            return Err(TooMany { count, max });
        }
        Ok((count > 0).then(|| Self { parents: parents(&entries), entries: entries.into() }))
    }

    /// The entries, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// How many there are; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The most specific entry that contains `address`. Allocates nothing.
    pub fn find(&self, address: ClientAddr) -> Option<&Entry> {
        // An entry that contains the address begins at or before it. Ranges nest or are disjoint,
        // so it is the last entry that does so, or one that covers that entry.
        let after = self.entries.partition_point(|entry| entry.start() <= address.0);
        let mut at = after.checked_sub(1)?;
        loop {
            let entry = self.entries.get(at)?;
            if entry.contains(address) {
                return Some(entry);
            }
            at = *self.parents.get(at)? as usize;
        }
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

fn parents(sorted: &[Entry]) -> Box<[u32]> {
    let mut open: Vec<usize> = Vec::new();
    let mut parents = Vec::with_capacity(sorted.len());
    for (at, entry) in sorted.iter().enumerate() {
        while open.pop_if(|&mut outer| !sorted[outer].covers(entry)).is_some() {}
        // 2^32 entries would need 96 GiB.
        parents.push(open.last().map_or(u32::MAX, |&outer| outer as u32));
        open.push(at);
    }
    parents.into()
}

/// A change to a token's whitelist. Order and duplicates in the lists mean nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Takes entries out and puts entries in.
    Edit {
        /// To put in; those already there change nothing.
        add: Vec<Entry>,
        /// To take out; each must be there.
        remove: Vec<Entry>,
    },
    /// Puts a whole new list in place of the current one.
    Replace {
        /// The new list.
        entries: Vec<Entry>,
        /// Says deliberately that the empty list lifts the restriction.
        allow_any_address: bool,
    },
}

/// What a change comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The whitelist after the change.
    pub whitelist: Whitelist,
    /// Entries of it that overlap one that was removed, sorted: some of what the caller took out
    /// may still pass.
    pub still_covered_by: Vec<Entry>,
    /// Whether the whitelist differs from the one before.
    pub changed: bool,
}

/// Why a change is refused. Displays as a sentence with the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Entries to be removed that are not there, sorted.
    #[error("the whitelist has no entry {}: remove entries exactly as they are listed", Listed(.0))]
    NotPresent(Vec<Entry>),
    /// Entries that are to be added and removed at once, sorted.
    #[error("{} would be both added and removed: name an entry in one of the lists only", Listed(.0))]
    SameEntryAddedAndRemoved(Vec<Entry>),
    /// An edit may not lift the restriction.
    #[error(
        "this would remove the last entry and let the token be used from any address: if that is \
         meant, replace the whitelist with no entries and set allow_any_address"
    )]
    WouldRemoveLast,
    /// The grant needs a whitelist; nothing gets around that.
    #[error("a token that may do this must have a whitelist: leave or name at least one entry")]
    Required,
    /// An empty replacement that does not say what it means.
    #[error(
        "a replacement without entries would let the token be used from any address: name the \
         entries, or set allow_any_address if that is meant"
    )]
    EmptyReplace,
    /// A replacement that says two things.
    #[error("allow_any_address goes with no entries: leave out one or the other")]
    ReplaceNotEmptyWithAllowAny,
    /// More entries than allowed, and the change adds some.
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

impl ChangeError {
    /// What is wrong, as a stable word in `UPPER_SNAKE`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotPresent(_) => "NOT_PRESENT",
            Self::SameEntryAddedAndRemoved(_) => "ADDED_AND_REMOVED",
            Self::WouldRemoveLast => "WOULD_REMOVE_LAST",
            Self::Required => "WHITELIST_REQUIRED",
            Self::EmptyReplace => "EMPTY_REPLACE",
            Self::ReplaceNotEmptyWithAllowAny => "ENTRIES_WITH_ALLOW_ANY_ADDRESS",
            Self::TooMany(_) => "TOO_MANY_ENTRIES",
        }
    }
}

/// The first few entries, and how many more there are.
struct Listed<'a>(&'a [Entry]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        for (at, entry) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{entry}", if at == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Applies `change` to `current`: an edit gives (current - remove) + add. `required` says that the
/// token's grant needs a whitelist.
///
/// # Errors
/// The change is refused whole. A change that only removes is never too many entries, so that a
/// lowered limit does not keep anyone from narrowing a whitelist.
pub fn apply(
    current: &Whitelist,
    change: &Change,
    required: bool,
    limits: &Limits,
) -> Result<Changed, ChangeError> {
    let old = current.entries();
    let has = |set: &[Entry], entry: &Entry| set.binary_search(entry).is_ok();
    let next = match change {
        Change::Edit { add, remove } => {
            let (add, remove) = (set(add.clone()), set(remove.clone()));
            let keep = |keep: &dyn Fn(&Entry) -> bool, of: &[Entry]| -> Vec<Entry> {
                of.iter().copied().filter(keep).collect()
            };
            let both = keep(&|entry| has(&add, entry), &remove);
            if !both.is_empty() {
                return Err(ChangeError::SameEntryAddedAndRemoved(both));
            }
            let absent = keep(&|entry| !has(old, entry), &remove);
            if !absent.is_empty() {
                return Err(ChangeError::NotPresent(absent));
            }
            let mut next = keep(&|entry| !has(&remove, entry), old);
            next.extend(add);
            if next.is_empty() && required {
                return Err(ChangeError::Required);
            } else if next.is_empty() && !old.is_empty() {
                return Err(ChangeError::WouldRemoveLast);
            }
            set(next)
        }
        Change::Replace { entries, allow_any_address } => {
            match (entries.is_empty(), allow_any_address) {
                (true, _) if required => return Err(ChangeError::Required),
                (true, false) => return Err(ChangeError::EmptyReplace),
                (false, true) => return Err(ChangeError::ReplaceNotEmptyWithAllowAny),
                (true, true) | (false, false) => set(entries.clone()),
            }
        }
    };

    let grows = next.iter().any(|entry| !has(old, entry));
    let removed: Vec<&Entry> = old.iter().filter(|entry| !has(&next, entry)).collect();
    let overlaps_removed = |entry: &&Entry| removed.iter().any(|removed| removed.overlaps(entry));
    let still_covered_by = next.iter().filter(overlaps_removed).copied().collect();
    let entries = Entries::new(next, if grows { limits } else { &Limits::NONE })?;
    let whitelist = entries.map_or(Whitelist::Unrestricted, Whitelist::Only);
    let changed = whitelist != *current;
    Ok(Changed { whitelist, still_covered_by, changed })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> ClientAddr {
        text.parse().unwrap()
    }

    fn entry(text: &str) -> Entry {
        Entry::parse(text, &Limits::default()).unwrap()
    }

    fn entries(texts: &[&str]) -> Vec<Entry> {
        texts.iter().map(|text| entry(text)).collect()
    }

    fn only(texts: &[&str]) -> Whitelist {
        let entries = Entries::new(entries(texts), &Limits::default()).unwrap();
        Whitelist::Only(entries.unwrap())
    }

    #[test]
    fn client_addresses_have_one_form() {
        for (text, canonical) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::FFFF:c000:201", "192.0.2.1"),
            ("0:0:0:0:0:ffff:c000:0201", "192.0.2.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("::", "::"),
            ("::ffff:0.0.0.0", "0.0.0.0"),
            ("224.0.0.1", "224.0.0.1"),
            ("ff02::1", "ff02::1"),
            ("255.255.255.255", "255.255.255.255"),
            ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
            ("fe80::1", "fe80::1"),
            ("::1.2.3.4", "::102:304"),
            ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
            ("::ffff:0:1.2.3.4", "::ffff:0:102:304"),
        ] {
            assert_eq!(addr(text).to_string(), canonical, "{text}");
            assert_eq!(addr(text), addr(canonical), "{text}");
            assert_eq!(addr(text), ClientAddr::from(text.parse::<IpAddr>().unwrap()));
        }
    }

    #[test]
    fn what_is_no_client_address_is_named() {
        for (text, reason) in [
            ("", "EMPTY"),
            ("  ", "EMPTY"),
            (" 1.2.3.4", "WHITESPACE"),
            ("1.2.3.4\n", "WHITESPACE"),
            ("1.2.3.4 5.6.7.8", "WHITESPACE"),
            ("localhost", "HOST_NAME"),
            ("api.example.com", "HOST_NAME"),
            ("api.example.com:443", "HOST_NAME"),
            ("https://example.com/", "HOST_NAME"),
            ("https://1.2.3.4/", "HOST_NAME"),
            ("bücher.example", "HOST_NAME"),
            ("1.2.3.4:80", "PORT"),
            ("[::1]:80", "PORT"),
            ("[::1]", "BRACKETS"),
            ("fe80::1%eth0", "ZONE_ID"),
            ("fe80::1%1", "ZONE_ID"),
            ("10.0.0.0/24", "RANGE"),
            ("2001:db8::/32", "RANGE"),
            ("10.0.0.1/32", "RANGE"),
            ("10.0.0.*", "RANGE"),
            ("10.0.0.1-10.0.0.9", "RANGE"),
            ("010.0.0.1", "LEADING_ZEROS"),
            ("1.2.3.00", "LEADING_ZEROS"),
            ("::ffff:1.2.3.04", "LEADING_ZEROS"),
            ("1.2.3", "NOT_AN_ADDRESS"),
            ("1.2.3.256", "NOT_AN_ADDRESS"),
            ("1.2.3.4.", "NOT_AN_ADDRESS"),
            ("-1.2.3.4", "NOT_AN_ADDRESS"),
            (":::", "NOT_AN_ADDRESS"),
            ("12345::", "NOT_AN_ADDRESS"),
            ("16909060", "NOT_AN_ADDRESS"),
            ("١.٢.٣.٤", "NOT_AN_ADDRESS"),
        ] {
            let fault = text.parse::<ClientAddr>().unwrap_err();
            assert_eq!(fault.reason(), reason, "{text:?}: {fault}");
        }
        let fault = "".parse::<ClientAddr>().unwrap_err().to_string();
        assert!(fault.starts_with("the address is empty: "), "{fault}");
        let fault = "my.host".parse::<ClientAddr>().unwrap_err().to_string();
        assert_eq!(fault, "my.host is a host name: write its IP address");
    }

    #[test]
    fn entries_have_one_form() {
        for (text, canonical) in [
            ("192.168.1.1", "192.168.1.1"),
            ("192.168.1.1/32", "192.168.1.1"),
            (" 10.0.0.0/24\t", "10.0.0.0/24"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("2001:db8::1/128", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:0db8:00::/33", "2001:db8::/33"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("::ffff:102:304/128", "1.2.3.4"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/120", "10.0.0.0/24"),
            ("::1.2.3.4", "::102:304"),
            ("::1", "::1"),
            ("64:ff9b::/96", "64:ff9b::/96"),
            ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
            ("0.0.0.1", "0.0.0.1"),
            ("0.1.0.0/16", "0.1.0.0/16"),
            ("223.255.255.0/24", "223.255.255.0/24"),
            ("240.0.0.0/8", "240.0.0.0/8"),
            ("255.255.255.255", "255.255.255.255"),
            ("fe80::/64", "fe80::/64"),
            ("feff:ffff::/32", "feff:ffff::/32"),
            ("::fffe:0:0/96", "::fffe:0:0/96"),
            ("::1:0:0:0/80", "::1:0:0:0/80"),
        ] {
            assert_eq!(entry(text).to_string(), canonical, "{text}");
            assert_eq!(entry(text), entry(canonical), "{text}");
        }
    }

    #[test]
    fn what_is_no_entry_is_named() {
        for (text, reason) in [
            ("", "EMPTY"),
            (" \t ", "EMPTY"),
            ("1.2.3.4,5.6.7.8", "LIST"),
            ("10.0.0.0/8,5.6.7.8", "LIST"),
            ("1.2.3.4 5.6.7.8", "WHITESPACE"),
            ("10.0.0.0 /24", "WHITESPACE"),
            ("10.0.0.0/ 24", "WHITESPACE"),
            ("10.0.0.5/24", "HOST_BITS"),
            ("10.0.0.1/31", "HOST_BITS"),
            ("2001:db8::1/64", "HOST_BITS"),
            ("::ffff:10.0.0.5/120", "HOST_BITS"),
            ("0.0.0.0", "UNSPECIFIED"),
            ("0.0.0.0/32", "UNSPECIFIED"),
            ("0.0.0.0/8", "UNSPECIFIED"),
            ("0.0.0.5/8", "UNSPECIFIED"),
            ("::", "UNSPECIFIED"),
            ("::/128", "UNSPECIFIED"),
            ("::/96", "UNSPECIFIED"),
            ("::ffff:0.0.0.0", "UNSPECIFIED"),
            ("::ffff:0:0/120", "UNSPECIFIED"),
            ("224.0.0.1", "MULTICAST"),
            ("239.255.255.255", "MULTICAST"),
            ("230.0.0.0/8", "MULTICAST"),
            ("::ffff:224.0.0.1", "MULTICAST"),
            ("ff02::1", "MULTICAST"),
            ("ff00::/32", "MULTICAST"),
            ("ffff:ffff::/32", "MULTICAST"),
            ("::/32", "CONTAINS_IPV4"),
            ("::/80", "CONTAINS_IPV4"),
            ("::8000:0:0/81", "CONTAINS_IPV4"),
            ("::fffe:0:0/95", "CONTAINS_IPV4"),
            ("::ffff:10.0.0.0/95", "CONTAINS_IPV4"),
            ("::ffff:10.0.0.0/8", "CONTAINS_IPV4"),
            ("0.0.0.0/0", "ANY_ADDRESS"),
            ("10.0.0.0/0", "ANY_ADDRESS"),
            ("::/0", "ANY_ADDRESS"),
            ("::ffff:0:0/96", "ANY_ADDRESS"),
            ("10.0.0.0/7", "TOO_WIDE"),
            ("128.0.0.0/1", "TOO_WIDE"),
            ("2001:db8::/31", "TOO_WIDE"),
            ("::ffff:10.0.0.0/103", "TOO_WIDE"),
            ("010.0.0.1", "LEADING_ZEROS"),
            ("10.00.0.0/8", "LEADING_ZEROS"),
            ("10.0.0.0/08", "LEADING_ZEROS"),
            ("10.0.0.0/00", "LEADING_ZEROS"),
            ("2001:db8::/032", "LEADING_ZEROS"),
            ("10.0.0.0/", "PREFIX_LENGTH"),
            ("10.0.0.0/33", "PREFIX_LENGTH"),
            ("10.0.0.0/+8", "PREFIX_LENGTH"),
            ("10.0.0.0/-8", "PREFIX_LENGTH"),
            ("10.0.0.0/8/8", "PREFIX_LENGTH"),
            ("10.0.0.0/24:80", "PREFIX_LENGTH"),
            ("10.0.0.0/99999999999", "PREFIX_LENGTH"),
            ("10.0.0.0/eight", "PREFIX_LENGTH"),
            ("2001:db8::/129", "PREFIX_LENGTH"),
            ("1.2.3.0/255.255.255.0", "NETMASK"),
            ("1.2.3.0/0.0.0.255", "NETMASK"),
            ("2001:db8::/ffff:ffff::", "NETMASK"),
            ("fe80::1%eth0", "ZONE_ID"),
            ("fe80::1%eth0/64", "ZONE_ID"),
            ("fe80::/64%eth0", "ZONE_ID"),
            ("1.2.3.4:443", "PORT"),
            ("[2001:db8::1]:443", "PORT"),
            ("[2001:db8::1]", "BRACKETS"),
            ("[2001:db8::]/32", "BRACKETS"),
            ("10.0.0.*", "WILDCARD"),
            ("*", "WILDCARD"),
            ("10.0.0.1-10.0.0.9", "ADDRESS_SPAN"),
            ("10.0.0.1-9", "ADDRESS_SPAN"),
            ("example.com", "HOST_NAME"),
            ("my-host/24", "HOST_NAME"),
            ("http://10.0.0.1/", "HOST_NAME"),
            ("10.0.0", "NOT_AN_ADDRESS"),
            ("10.0.0/24", "NOT_AN_ADDRESS"),
            ("10/8", "NOT_AN_ADDRESS"),
            ("/24", "NOT_AN_ADDRESS"),
            ("10.0.0.256", "NOT_AN_ADDRESS"),
            ("2001:db8:::1", "NOT_AN_ADDRESS"),
        ] {
            let error = Entry::parse(text, &Limits::default()).unwrap_err();
            assert_eq!(error.reason(), reason, "{text:?}: {error}");
            let sentence = error.to_string();
            assert!(sentence.contains(text.trim()) && sentence.contains(": "), "{sentence}");
            // What is no matter of settings is refused under any.
            let unlimited = Entry::parse(text, &Limits::NONE);
            let setting = ["10.0.0.0/7", "2001:db8::/31", "::ffff:10.0.0.0/103"].contains(&text);
            assert_eq!(unlimited.is_ok(), setting, "{text:?}: {unlimited:?}");
        }
    }

    #[test]
    fn errors_tell_the_cure() {
        let error = |text: &str| Entry::parse(text, &Limits::default()).unwrap_err().to_string();
        for (text, sentence) in [
            (
                "10.0.0.5/24",
                "10.0.0.5/24 has host bits set: did you mean 10.0.0.0/24 or 10.0.0.5/32?",
            ),
            (
                "2001:db8::1/64",
                "2001:db8::1/64 has host bits set: did you mean 2001:db8::/64 or 2001:db8::1/128?",
            ),
            (
                "::ffff:10.0.0.5/120",
                "::ffff:10.0.0.5/120 has host bits set: did you mean 10.0.0.0/24 or 10.0.0.5/32?",
            ),
            (
                "1.2.3.0/255.255.255.0",
                "1.2.3.0/255.255.255.0 has a netmask: write a prefix length instead: did you mean 1.2.3.0/24?",
            ),
            (
                "1.2.3.0/0.0.0.255",
                "1.2.3.0/0.0.0.255 has a netmask: write a prefix length instead: did you mean 1.2.3.0/24?",
            ),
            (
                "1.2.3.0/255.0.255.0",
                "1.2.3.0/255.0.255.0 has a netmask: write a prefix length instead, such as /24",
            ),
            (
                "::ffff:10.0.0.0/100",
                "::ffff:10.0.0.0/100 is wider than an IPv4 /8: write narrower ranges",
            ),
            ("2001:d00::/24", "2001:d00::/24 is wider than an IPv6 /32: write narrower ranges"),
            (
                "10.0.0.0/33",
                "10.0.0.0/33 has no valid prefix length: write a number from 1 to 32 after the /",
            ),
            ("1.2.3.4:80", "1.2.3.4:80 has a port: leave it out"),
        ] {
            assert_eq!(error(text), sentence);
        }
    }

    #[test]
    fn messages_repeat_little_of_the_input_and_no_control_characters() {
        for text in
            ["\u{1b}[31mred\r\n\0", "x\u{202e}y\u{2028}", &"\u{1}".repeat(5000), &"é".repeat(5000)]
        {
            let address = text.parse::<ClientAddr>().unwrap_err().to_string();
            let entry = Entry::parse(text, &Limits::default()).unwrap_err().to_string();
            for message in [address, entry] {
                assert!(
                    !message.contains(|c: char| c.is_control() || c == '\u{202e}'),
                    "{message:?}"
                );
                assert!(message.len() < 200, "{message}");
            }
        }
    }

    #[test]
    fn settings_move_the_widest_range() {
        let limits = Limits { widest_v4: 16, widest_v6: 48, max_entries: 1 };
        for (text, accepted) in [
            ("10.0.0.0/15", false),
            ("10.0.0.0/16", true),
            ("2001:db8::/47", false),
            ("2001:db8::/48", true),
        ] {
            assert_eq!(Entry::parse(text, &limits).is_ok(), accepted, "{text}");
        }
        for (text, reason) in [
            ("0.0.0.0/1", "UNSPECIFIED"),
            ("128.0.0.0/1", "MULTICAST"),
            ("8000::/1", "MULTICAST"),
            ("fe00::/7", "MULTICAST"),
        ] {
            assert_eq!(Entry::parse(text, &Limits::NONE).unwrap_err().reason(), reason, "{text}");
        }
    }

    #[test]
    fn lists_are_strings_and_commas_alike() {
        let limits = Limits::default();
        let parsed = parse_entries(["10.0.0.0/8 , 1.2.3.4", "::1", "1.2.3.4/32"], &limits).unwrap();
        assert_eq!(parsed, entries(&["::1", "1.2.3.4", "10.0.0.0/8"]));
        assert_eq!(parse_entries([], &limits), Ok(Vec::new()));
        let faults = parse_entries(["1.2.3.4,,5.6.7.8", "", "::1", "10.0.0.5/24,x"], &limits);
        let faults: Vec<_> =
            faults.unwrap_err().iter().map(|f| (f.index, f.error.reason())).collect();
        assert_eq!(faults, [(0, "EMPTY"), (1, "EMPTY"), (3, "HOST_BITS"), (3, "HOST_NAME")]);
        let commas = ",".repeat(100_000);
        assert_eq!(parse_entries([commas.as_str()], &limits).unwrap_err().len(), MAX_FAULTS);
    }

    #[test]
    fn the_most_specific_entry_matches() {
        let whitelist = only(&[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.1.2.3",
            "10.2.0.0/16",
            "2001:db8::/32",
            "::1",
        ]);
        for (address, matched) in [
            ("10.1.2.3", Some("10.1.2.3")),
            ("::ffff:10.1.2.3", Some("10.1.2.3")),
            ("10.1.2.4", Some("10.1.2.0/24")),
            ("10.1.3.0", Some("10.1.0.0/16")),
            ("10.2.255.255", Some("10.2.0.0/16")),
            ("10.3.0.0", Some("10.0.0.0/8")),
            ("10.255.255.255", Some("10.0.0.0/8")),
            ("11.0.0.0", None),
            ("9.255.255.255", None),
            ("::", None),
            ("::1", Some("::1")),
            ("::10.1.2.3", None),
            ("2001:db8:ffff::", Some("2001:db8::/32")),
            ("2001:db9::", None),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
        ] {
            let found = whitelist.find(addr(address));
            assert_eq!(found, matched.map(entry).as_ref(), "{address}");
            assert_eq!(whitelist.allows(addr(address)), matched.is_some(), "{address}");
        }
        assert!(Whitelist::Unrestricted.allows(addr("::")));
        assert_eq!(Whitelist::Unrestricted.find(addr("::")), None);
    }

    #[test]
    fn a_set_is_never_empty_and_never_too_large() {
        let limits = Limits { max_entries: 2, ..Limits::default() };
        assert_eq!(Entries::new(Vec::new(), &limits), Ok(None));
        let set = Entries::new(entries(&["1.2.3.4", "1.2.3.4", "::1"]), &limits).unwrap().unwrap();
        assert_eq!((set.len(), set.iter().count()), (2, 2));
        let error = Entries::new(entries(&["1.2.3.4", "1.2.3.5", "::1"]), &limits).unwrap_err();
        assert_eq!(error, TooMany { count: 3, max: 2 });
        assert!(size_of::<Entry>() + size_of::<u32>() <= 32);
    }

    fn edit(add: &[&str], remove: &[&str]) -> Change {
        Change::Edit { add: entries(add), remove: entries(remove) }
    }

    fn replace(with: &[&str], allow_any_address: bool) -> Change {
        Change::Replace { entries: entries(with), allow_any_address }
    }

    #[test]
    fn changes() {
        use ChangeError::*;
        use Whitelist::Unrestricted;
        let ok = |whitelist: Whitelist, covered: &[&str], changed| {
            Ok(Changed { whitelist, still_covered_by: entries(covered), changed })
        };
        let ab = || only(&["1.1.1.1", "2.2.2.2"]);
        let nested = || only(&["10.0.0.0/8", "10.1.0.0/16", "10.1.1.1", "11.0.0.0/8"]);
        let (no, yes) = (false, true);
        for (current, change, required, result) in [
            (
                ab(),
                edit(&["3.3.3.3"], &[]),
                no,
                ok(only(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]), &[], yes),
            ),
            (ab(), edit(&["1.1.1.1"], &[]), yes, ok(ab(), &[], no)),
            (ab(), edit(&[], &["1.1.1.1", "1.1.1.1"]), yes, ok(only(&["2.2.2.2"]), &[], yes)),
            (
                ab(),
                edit(&["3.3.3.3"], &["1.1.1.1", "2.2.2.2"]),
                yes,
                ok(only(&["3.3.3.3"]), &[], yes),
            ),
            (ab(), edit(&[], &["3.3.3.3"]), no, Err(NotPresent(entries(&["3.3.3.3"])))),
            (
                ab(),
                edit(&[], &["1.1.1.1", "1.1.1.0/24"]),
                no,
                Err(NotPresent(entries(&["1.1.1.0/24"]))),
            ),
            (
                ab(),
                edit(&["1.1.1.1"], &["1.1.1.1"]),
                no,
                Err(SameEntryAddedAndRemoved(entries(&["1.1.1.1"]))),
            ),
            (ab(), edit(&[], &["1.1.1.1", "2.2.2.2"]), no, Err(WouldRemoveLast)),
            (ab(), edit(&[], &["1.1.1.1", "2.2.2.2"]), yes, Err(Required)),
            (ab(), edit(&[], &[]), yes, ok(ab(), &[], no)),
            (Unrestricted, edit(&[], &["1.1.1.1"]), no, Err(NotPresent(entries(&["1.1.1.1"])))),
            (Unrestricted, edit(&["1.1.1.1"], &[]), yes, ok(only(&["1.1.1.1"]), &[], yes)),
            (Unrestricted, edit(&[], &[]), no, ok(Unrestricted, &[], no)),
            (Unrestricted, edit(&[], &[]), yes, Err(Required)),
            (ab(), replace(&["2.2.2.2", "1.1.1.1"], no), yes, ok(ab(), &[], no)),
            (ab(), replace(&["3.3.3.3"], no), yes, ok(only(&["3.3.3.3"]), &[], yes)),
            (ab(), replace(&[], no), no, Err(EmptyReplace)),
            (ab(), replace(&[], no), yes, Err(Required)),
            (ab(), replace(&[], yes), yes, Err(Required)),
            (Unrestricted, replace(&[], yes), yes, Err(Required)),
            (ab(), replace(&[], yes), no, ok(Unrestricted, &[], yes)),
            (Unrestricted, replace(&[], yes), no, ok(Unrestricted, &[], no)),
            (ab(), replace(&["1.1.1.1"], yes), no, Err(ReplaceNotEmptyWithAllowAny)),
            (
                nested(),
                edit(&[], &["10.1.0.0/16"]),
                no,
                ok(
                    only(&["10.0.0.0/8", "10.1.1.1", "11.0.0.0/8"]),
                    &["10.0.0.0/8", "10.1.1.1"],
                    yes,
                ),
            ),
            (
                nested(),
                replace(&["10.1.0.0/16"], no),
                no,
                ok(only(&["10.1.0.0/16"]), &["10.1.0.0/16"], yes),
            ),
            (
                nested(),
                edit(&["10.5.0.0/16"], &["11.0.0.0/8"]),
                no,
                ok(only(&["10.0.0.0/8", "10.1.0.0/16", "10.1.1.1", "10.5.0.0/16"]), &[], yes),
            ),
        ] {
            let got = apply(&current, &change, required, &Limits::default());
            assert_eq!(got, result, "{current:?} {change:?} {required}");
            if let Err(error) = got {
                assert!(error.to_string().contains(": "), "{error}");
            }
        }
    }

    #[test]
    fn a_lowered_limit_refuses_growth_but_never_narrowing() {
        let limits = Limits { max_entries: 1, ..Limits::default() };
        let current = only(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]);
        assert!(apply(&current, &edit(&[], &["1.1.1.1"]), true, &limits).is_ok());
        assert!(apply(&current, &replace(&["1.1.1.1", "2.2.2.2"], false), true, &limits).is_ok());
        let too_many = Err(ChangeError::TooMany(TooMany { count: 3, max: 1 }));
        assert_eq!(apply(&current, &edit(&["4.4.4.4"], &["1.1.1.1"]), true, &limits), too_many);
        let many: Vec<String> = (1..=101).map(|n| format!("1.1.1.{n}")).collect();
        let many = parse_entries(many.iter().map(String::as_str), &limits).unwrap();
        let change = Change::Edit { add: many.clone(), remove: Vec::new() };
        let error = apply(&Whitelist::Unrestricted, &change, true, &Limits::default());
        assert_eq!(error, Err(ChangeError::TooMany(TooMany { count: 101, max: 100 })));
        let error = ChangeError::NotPresent(many).to_string();
        assert!(error.contains("1.1.1.10 and 91 more: "), "{error}");
    }

    /// Addresses in few places, so that ranges nest and addresses hit them.
    fn bits() -> impl Strategy<Value = u128> {
        let base = prop_oneof![
            Just(MAPPED_START | 0x0a00_0000),
            Just(MAPPED_START),
            Just(MAPPED_START | 0xe000_0000),
            Just(0x2001_0db8_u128 << 96),
            Just(0xff00_u128 << 112),
            Just(0),
            any::<u128>(),
        ];
        (base, any::<u128>(), 0..=128u32, 0..4u128).prop_map(|(base, noise, shift, few)| {
            base ^ (noise.checked_shr(shift).unwrap_or(0) & (few << shift.min(126)))
        })
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        (bits(), 32..=128u8).prop_filter_map("a rule forbids it", |(bits, length)| {
            let text = Entry::new(bits, length).to_string();
            Entry::parse(&text, &Limits::default()).ok()
        })
    }

    fn whitelist() -> impl Strategy<Value = Vec<Entry>> {
        proptest::collection::vec(any_entry(), 1..30)
    }

    fn made(entries: &[Entry]) -> Whitelist {
        let entries = Entries::new(entries.to_vec(), &Limits::NONE).unwrap();
        entries.map_or(Whitelist::Unrestricted, Whitelist::Only)
    }

    /// Addresses in, before and after the entries.
    fn near(entries: &[Entry], noise: u128) -> Vec<ClientAddr> {
        let edges = entries.iter().flat_map(|entry| {
            let host = !Entry::mask(entry.bits);
            let start = entry.start();
            [
                start,
                start.wrapping_sub(1),
                start | host,
                (start | host).wrapping_add(1),
                start | noise & host,
            ]
        });
        edges.chain([noise, 0, u128::MAX]).map(ClientAddr).collect()
    }

    proptest! {
        #[test]
        fn entries_read_back(entry in any_entry()) {
            let limits = Limits::default();
            prop_assert_eq!(Entry::parse(&entry.to_string(), &limits), Ok(entry));
            prop_assert_eq!(Entry::parse(&entry.with_prefix(), &limits), Ok(entry));
        }

        #[test]
        fn addresses_read_back(bits in bits()) {
            let address = ClientAddr(bits);
            prop_assert_eq!(address.to_string().parse::<ClientAddr>(), Ok(address));
            prop_assert_eq!(ClientAddr::from(IpAddr::from(address)), address);
            prop_assert_eq!(ClientAddr::from(IpAddr::from(Ipv6Addr::from_bits(bits))), address);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,50}", odd in "[0-9a-f:./%,\\-\\[\\]* \u{1}-\u{1f}]{0,30}") {
            for text in [text, odd] {
                let _ = text.parse::<ClientAddr>().map_err(|e| e.to_string());
                let _ = Entry::parse(&text, &Limits::default()).map_err(|e| e.to_string());
                let _ = parse_entries([text.as_str()], &Limits::NONE);
            }
        }

        #[test]
        fn a_changed_entry_is_refused_or_means_what_it_says(
            entry in any_entry(), at: prop::sample::Index, with in "[0-9a-f:./%,\\-\\[\\]* ]{0,3}"
        ) {
            let mut text = entry.with_prefix();
            let at = at.index(text.len());
            text.replace_range(at..=at, &with);
            if let Ok(entry) = Entry::parse(&text, &Limits::default()) {
                // Independent of this file: what std reads is where the entry begins and ends.
                let (ip, length) = text.trim().split_once('/').unwrap_or((text.trim(), "128"));
                let ip: IpAddr = ip.parse().unwrap();
                prop_assert!(entry.contains(ip.into()));
                prop_assert_eq!(entry.start(), ClientAddr::from(ip).0);
                let offset = if ip.is_ipv4() { 96 } else { 0 };
                prop_assert_eq!(u32::from(entry.bits), (length.parse::<u32>().unwrap() + offset).min(128));
            }
        }

        #[test]
        fn suggestions_are_accepted(bits in bits(), length in 0..=128u8) {
            let ip = IpAddr::from(Ipv6Addr::from_bits(bits));
            let text = format!("{ip}/{length}");
            let limits = Limits::default();
            if let Err(EntryError::HostBits { network, address, .. }) = Entry::parse(&text, &limits) {
                prop_assert_eq!(Entry::parse(&network.to_string(), &limits), Ok(network));
                prop_assert_eq!(Entry::parse(&address.to_string(), &limits), Ok(address));
                prop_assert!(network.covers(&address));
            }
        }

        #[test]
        fn no_entry_touches_what_is_forbidden(bits in bits(), length in 0..=128u8) {
            let range = Entry::new(bits, length);
            if let Ok(entry) = Entry::parse(&range.with_prefix(), &Limits::NONE) {
                prop_assert!(!entry.contains(addr("::")) && !entry.contains(addr("0.0.0.0")));
                prop_assert!(!entry.overlaps(&MULTICAST_V4) && !entry.overlaps(&MULTICAST_V6));
                prop_assert_eq!(entry.overlaps(&IPV4), IPV4.covers(&entry));
            }
        }

        #[test]
        fn find_is_the_narrowest_of_all(entries in whitelist(), noise in bits()) {
            let whitelist = made(&entries);
            for address in near(&entries, noise) {
                let narrowest = entries.iter().filter(|e| e.contains(address)).max_by_key(|e| e.bits);
                prop_assert_eq!(whitelist.find(address), narrowest);
            }
        }

        #[test]
        fn narrowing_never_allows_more(
            entries in whitelist(), pick: Vec<bool>, noise in bits(), required: bool, by_edit: bool
        ) {
            let before = made(&entries);
            let picked = |entry: &&Entry| {
                let at = before.entries().iter().position(|other| other == *entry);
                at.and_then(|at| pick.get(at)).copied().unwrap_or(false)
            };
            let remove: Vec<Entry> = before.entries().iter().filter(picked).copied().collect();
            let keep: Vec<Entry> = before.entries().iter().filter(|e| !picked(e)).copied().collect();
            let change = match by_edit {
                true => Change::Edit { add: Vec::new(), remove: remove.clone() },
                false => Change::Replace { entries: keep.clone(), allow_any_address: false },
            };
            let limits = Limits { max_entries: 1, ..Limits::default() };
            match apply(&before, &change, required, &limits) {
                Err(ChangeError::Required) => prop_assert!(required && keep.is_empty()),
                Err(_) => prop_assert!(!required && keep.is_empty()),
                Ok(changed) => {
                    prop_assert_eq!(changed.whitelist.entries(), &keep);
                    prop_assert_eq!(changed.changed, !remove.is_empty());
                    for address in near(&entries, noise) {
                        let after = changed.whitelist.allows(address);
                        prop_assert!(before.allows(address) || !after);
                        // What was removed and still passes is told.
                        if after && remove.iter().any(|entry| entry.contains(address)) {
                            let covered = &changed.still_covered_by;
                            prop_assert!(covered.iter().any(|entry| entry.contains(address)));
                        }
                    }
                }
            }
        }

        #[test]
        fn nothing_gets_around_required(
            current in whitelist(), add in whitelist(), which in 0..6, allow: bool, restricted: bool
        ) {
            let before = if restricted { made(&current) } else { Whitelist::Unrestricted };
            let change = match which {
                0 => Change::Edit { add, remove: Vec::new() },
                1 => Change::Edit { add, remove: current },
                2 => Change::Edit { add: Vec::new(), remove: current },
                3 => Change::Edit { add: Vec::new(), remove: Vec::new() },
                4 => Change::Replace { entries: Vec::new(), allow_any_address: allow },
                _ => Change::Replace { entries: add, allow_any_address: allow },
            };
            if let Ok(changed) = apply(&before, &change, true, &Limits::NONE) {
                prop_assert!(matches!(changed.whitelist, Whitelist::Only(_)));
            }
        }
    }
}
