//! One whitelist entry: a single address or a range, in one form only.

use std::fmt;
use std::io;
use std::net::IpAddr;

use super::address::{ClientAddr, MAPPED_START, excerpt};
use super::fault::EntryError;

/// Prefix bits before an IPv4 prefix: `::ffff:0:0/96`.
pub(super) const MAPPED_BITS: u8 = 96;

pub(super) const IPV4: Entry = Entry::new(MAPPED_START, MAPPED_BITS);
pub(super) const MULTICAST_V4: Entry = Entry::new(MAPPED_START | 0xe000_0000, MAPPED_BITS + 4);
pub(super) const MULTICAST_V6: Entry = Entry::new(0xff00 << 112, 8);

/// Prefixes whose addresses stand for IPv4 addresses, the bits that an IPv4 prefix has before it there,
/// and the protocol. Where a range lies in one, it is as wide as that IPv4 range (docs/policy.md, 3.15).
/// Of `64:ff9b:1::/48` each network takes a part of its own choice: counted as though it were the last
/// /96, no choice is wider than allowed. ISATAP has no prefix.
pub(super) const TRANSLATED: [(Entry, u8, &str); 6] = [
    (Entry::new(0, 96), 96, "IPv4-compatible, RFC 4291"),
    (Entry::new(0xffff << 48, 96), 96, "SIIT, RFC 2765"),
    (Entry::new(0x0064_ff9b << 96, 96), 96, "NAT64, RFC 6052"),
    (Entry::new(0x0064_ff9b_0001 << 80, 48), 96, "NAT64, RFC 8215"),
    (Entry::new(0x2001_0000 << 96, 32), 96, "Teredo, RFC 4380"),
    (Entry::new(0x2002 << 112, 16), 16, "6to4, RFC 3056"),
];

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
    /// No limit: for reading what was accepted under earlier settings and versions (rows of the store,
    /// and entries to be removed). Every rule that is not about width or number still holds.
    pub const NONE: Self = Self { widest_v4: 0, widest_v6: 0, max_entries: usize::MAX };

    /// The greatest `max_entries` that a setting may give (docs/policy.md, 3.10): a whitelist of so many
    /// entries fits a message, a form and a page.
    pub const MOST_ENTRIES: usize = 10_000;
}

impl Default for Limits {
    fn default() -> Self {
        Self { widest_v4: 8, widest_v6: 24, max_entries: 100 }
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
    pub(super) bits: u8,
}

impl Entry {
    /// The range of `bits` prefix bits that `address` lies in.
    pub(super) const fn new(address: u128, bits: u8) -> Self {
        let start = address & Self::mask(bits);
        Self { high: (start >> 64) as u64, low: start as u64, bits }
    }

    #[inline]
    pub(super) const fn mask(bits: u8) -> u128 {
        match bits {
            0 => 0,
            _ => u128::MAX << (128 - bits as u32),
        }
    }

    #[inline]
    pub(super) fn start(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// The last address.
    #[inline]
    pub(super) fn end(&self) -> u128 {
        self.start() | !Self::mask(self.bits)
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
        } else if let Some(error) = range.too_wide_translated(&entry, limits) {
            Err(error)
        } else if range.start() != start {
            let address = Self::new(start, 128);
            Err(EntryError::HostBits { entry: entry(), network: range, address })
        } else {
            Ok(range)
        }
    }

    /// Why this range is refused, if it is, for the IPv4 addresses that others in it stand for. A matter
    /// of width, so that `limits` without any refuse nothing.
    fn too_wide_translated(
        &self,
        entry: &impl Fn() -> String,
        limits: &Limits,
    ) -> Option<EntryError> {
        let widest = limits.widest_v4;
        let (prefix, offset, protocol) = TRANSLATED.into_iter().find(|(prefix, offset, _)| {
            widest > 0 && self.bits < offset + widest && self.overlaps(prefix)
        })?;
        let entry = entry();
        Some(if self.covers(&prefix) {
            EntryError::ContainsTranslated { entry, prefix, protocol }
        } else {
            let longest = offset + widest;
            EntryError::TranslatedTooWide { entry, prefix, protocol, widest, longest }
        })
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
    pub(super) fn with_prefix(&self) -> String {
        let (ip, length) = self.parts();
        format!("{ip}/{length}")
    }
}

impl Entry {
    /// Appends the same as `to_string` gives. Decisions carry it, so IPv4 takes no detour through
    /// formatting.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (ip, length) = self.parts();
        let IpAddr::V4(ip) = ip else {
            // Writing to a Vec can't fail.
            let _ = io::Write::write_fmt(out, format_args!("{self}"));
            return;
        };
        let mut text = [0; 20];
        let mut at = 0;
        let mut put = |number: u8, after: u8| {
            let (digits, length) = DECIMAL[usize::from(number)];
            text[at..at + digits.len()].copy_from_slice(&digits);
            at += usize::from(length);
            text[at] = after;
            at += 1;
        };
        let [a, b, c, d] = ip.octets();
        for (octet, after) in [(a, b'.'), (b, b'.'), (c, b'.'), (d, b'/')] {
            put(octet, after);
        }
        if self.bits < 128 {
            put(length, 0);
        }
        // Nothing follows the last one.
        out.extend_from_slice(&text[..at - 1]);
    }
}

/// Each number's digits, and how many those are.
const DECIMAL: [([u8; 3], u8); 256] = {
    let mut numbers = [([0; 3], 0); 256];
    let mut number = 0;
    while number < 256 {
        let [hundreds, tens, ones] = [number / 100, number / 10 % 10, number % 10];
        let [hundreds, tens, ones] = [b'0' + hundreds as u8, b'0' + tens as u8, b'0' + ones as u8];
        numbers[number] = match number {
            0..10 => ([ones, 0, 0], 1),
            10..100 => ([tens, ones, 0], 2),
            _ => ([hundreds, tens, ones], 3),
        };
        number += 1;
    }
    numbers
};

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
