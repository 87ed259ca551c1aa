//! One whitelist entry: a single address or a range, in one form only.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::address::{ClientAddr, MAPPED_START, excerpt};
use super::error::CidrError;

/// Prefix bits before an IPv4 prefix: `::ffff:0:0/96`.
pub(super) const MAPPED_BITS: u8 = 96;

pub(super) const IPV4: Cidr = network([0, 0, 0, 0, 0, 0xffff, 0, 0], MAPPED_BITS);
pub(super) const MULTICAST_V4: Cidr = network([0, 0, 0, 0, 0, 0xffff, 0xe000, 0], MAPPED_BITS + 4);
pub(super) const MULTICAST_V6: Cidr = network([0xff00, 0, 0, 0, 0, 0, 0, 0], 8);

/// Prefixes whose addresses stand for IPv4 addresses, the bits that an IPv4 prefix has before it there,
/// and the protocol. Where a range lies in one, it is as wide as that IPv4 range (docs/policy.md, rule 3.15).
/// Of `64:ff9b:1::/48` each network takes a part of its own choice: counted as though it were the last
/// /96, no choice is wider than allowed. ISATAP has no prefix.
pub(super) const TRANSLATED: [(Cidr, u8, &str); 6] = [
    (network([0, 0, 0, 0, 0, 0, 0, 0], 96), 96, "IPv4-compatible, RFC 4291"),
    (network([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), 96, "SIIT, RFC 2765"),
    (network([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), 96, "NAT64, RFC 6052"),
    (network([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), 96, "NAT64, RFC 8215"),
    (network([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), 96, "Teredo, RFC 4380"),
    (network([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), 16, "6to4, RFC 3056"),
];

/// A network whose address, in groups of 16 bits, has no bits set after its prefix.
const fn network([a, b, c, d, e, f, g, h]: [u16; 8], bits: u8) -> Cidr {
    Cidr::of_network(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), bits))
}

/// How large a whitelist and its entries may be. A setting; it bounds what is *added*.
/// Rule 3.10 of docs/policy.md.
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

    /// The greatest `max_entries` that a setting may give (docs/policy.md, rules 3.10 and 3.16): a
    /// whitelist of so many entries fits a message, a form and a page.
    pub const MOST_ENTRIES: usize = 10_000;
}

impl Default for Limits {
    fn default() -> Self {
        Self { widest_v4: 8, widest_v6: 24, max_entries: 100 }
    }
}

/// One whitelist entry: a single address, or a range with all bits after its prefix zero.
/// Ordered by first address, wider before narrower.
///
/// IPv4 networks are kept as the IPv4-mapped ones that they are, so that one comparison serves both
/// families and no address has two forms.
///
/// It is an [`Ipv6Net`] in the form that a decision compares fastest: numbers of the machine instead of
/// bytes in the order of the network. To find an address among 4 entries takes 9 ns, with
/// `Ipv6Net::contains` 33 ns; among 100 entries 14 ns, with `Ipv6Net` kept as it is 18 ns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    // The first address. Two halves, not a u128, whose alignment would cost eight bytes more.
    high: u64,
    low: u64,
    // 0..=128; an IPv4 prefix length has 96 added.
    pub(super) bits: u8,
}

impl From<IpNet> for Cidr {
    /// The network that an address with a prefix lies in.
    fn from(net: IpNet) -> Self {
        let net = match net {
            IpNet::V4(net) => {
                Ipv6Net::new_assert(net.addr().to_ipv6_mapped(), MAPPED_BITS + net.prefix_len())
            }
            IpNet::V6(net) => net,
        };
        Self::of_network(net.trunc())
    }
}

impl From<Cidr> for IpNet {
    /// As it is written: an IPv4 network where it is one.
    fn from(entry: Cidr) -> Self {
        let net = entry.net();
        let v4 = net.addr().to_ipv4_mapped().zip(net.prefix_len().checked_sub(MAPPED_BITS));
        match v4.map(|(ip, length)| Ipv4Net::new(ip, length)) {
            Some(Ok(net)) => Self::V4(net),
            _ => Self::V6(net),
        }
    }
}

impl Cidr {
    /// `net` has no bits set after its prefix.
    const fn of_network(net: Ipv6Net) -> Self {
        let start = net.addr().to_bits();
        Self { high: (start >> 64) as u64, low: start as u64, bits: net.prefix_len() }
    }

    fn net(&self) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::from_bits(self.start()), self.bits)
    }

    #[inline]
    pub(super) fn start(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    /// The last address.
    pub(super) fn end(&self) -> u128 {
        self.net().broadcast().to_bits()
    }

    /// Reads one entry: an address, or an address, `/` and a prefix length. Whitespace around it
    /// is ignored. Rule 3.9 of docs/policy.md.
    ///
    /// # Errors
    /// Names the entry, what is wrong with it, and the cure.
    pub fn parse(text: &str, limits: &Limits) -> Result<Self, CidrError> {
        let text = text.trim();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        // Not ipnet's own parser: it takes 010.0.0.1, which some programs read as 8.0.0.1, for 10.0.0.1,
        // and /08 for /8.
        let ip: IpAddr = address.parse().map_err(|_| CidrError::of_address(text, address))?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let net = match prefix {
            None => IpNet::from(ip),
            Some(prefix) => read_prefix(prefix)
                .and_then(|length| IpNet::new(ip, length).ok())
                .ok_or_else(|| CidrError::of_prefix(text, ip, prefix, longest))?,
        };
        let range = Self::from(net);
        let address = Self::from(IpNet::from(ip));
        let bits = range.bits;

        let entry = || excerpt(text);
        let (family, widest, offset) = match IPV4.covers(&range) {
            true => ("IPv4", limits.widest_v4, MAPPED_BITS),
            false => ("IPv6", limits.widest_v6, 0),
        };
        // The order is part of the contract: host bits come last, so that what they suggest is
        // accepted.
        if net.prefix_len() == 0 || range == IPV4 {
            Err(CidrError::AnyAddress { entry: entry() })
        } else if range.covers(&IPV4) {
            Err(CidrError::ContainsIpv4 { entry: entry() })
        } else if bits < widest.saturating_add(offset) {
            Err(CidrError::TooWide { entry: entry(), family, widest })
        } else if range.contains(ClientAddr(0)) || range.contains(ClientAddr(MAPPED_START)) {
            Err(CidrError::Unspecified { entry: entry() })
        } else if range.overlaps(&MULTICAST_V4) || range.overlaps(&MULTICAST_V6) {
            Err(CidrError::Multicast { entry: entry() })
        } else if let Some(error) = range.too_wide_translated(&entry, limits) {
            Err(error)
        } else if range.start() != address.start() {
            Err(CidrError::HostBits { entry: entry(), network: range, address })
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
    ) -> Option<CidrError> {
        let widest = limits.widest_v4;
        let (prefix, offset, protocol) = TRANSLATED.into_iter().find(|(prefix, offset, _)| {
            widest > 0 && self.bits < offset + widest && self.overlaps(prefix)
        })?;
        let entry = entry();
        Some(if self.covers(&prefix) {
            CidrError::ContainsTranslated { entry, prefix, protocol }
        } else {
            let longest = offset + widest;
            CidrError::TranslatedTooWide { entry, prefix, protocol, widest, longest }
        })
    }

    /// Whether `address` may pass.
    #[inline]
    pub fn contains(&self, ClientAddr(address): ClientAddr) -> bool {
        let mask = match self.bits {
            0 => 0,
            bits => u128::MAX << (128 - u32::from(bits)),
        };
        (address ^ self.start()) & mask == 0
    }

    /// Whether every address of `other` is in this entry; true of an entry and itself.
    pub fn covers(&self, other: &Self) -> bool {
        self.net().contains(&other.net())
    }

    /// Whether any address is in both. Ranges nest or are disjoint: then one covers the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// With the prefix length even where it says nothing: `10.0.0.5/32`.
    pub(super) fn with_prefix(&self) -> String {
        IpNet::from(*self).to_string()
    }
}

impl Cidr {
    /// Appends the same as `to_string` gives. Decisions carry it, so IPv4 takes no detour through
    /// formatting.
    pub fn write(&self, out: &mut Vec<u8>) {
        let IpNet::V4(net) = IpNet::from(*self) else {
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
        let [a, b, c, d] = net.addr().octets();
        for (octet, after) in [(a, b'.'), (b, b'.'), (c, b'.'), (d, b'/')] {
            put(octet, after);
        }
        if net.prefix_len() < net.max_prefix_len() {
            put(net.prefix_len(), 0);
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

/// Rule 3.5 of docs/policy.md.
impl fmt::Display for Cidr {
    /// Canonical, and read back by [`Cidr::parse`] as the same entry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match IpNet::from(*self) {
            net if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            net => write!(f, "{net}"),
        }
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A decimal number without sign or leading zeros.
fn read_prefix(text: &str) -> Option<u8> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}
