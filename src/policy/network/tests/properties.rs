//! What holds for every address, entry, whitelist and change.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use proptest::prelude::*;

use super::*;
use crate::policy::network::address::MAPPED_START;
use crate::policy::network::change::overlapping;
use crate::policy::network::cidr::{IPV4, MULTICAST_V4, MULTICAST_V6, TRANSLATED};
use crate::policy::network::whitelist::set;

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

fn network(bits: u128, length: u8) -> Cidr {
    Ipv6Net::new(bits.into(), length).map(IpNet::from).unwrap().into()
}

/// The bits after the prefix of an entry, not from the library under it.
fn host_bits(entry: &Cidr) -> u128 {
    u128::MAX.checked_shr(entry.bits.into()).unwrap_or(0)
}

fn any_entry() -> impl Strategy<Value = Cidr> {
    (bits(), 32..=128u8).prop_filter_map("a rule forbids it", |(bits, length)| {
        let text = network(bits, length).to_string();
        Cidr::parse(&text, &Limits::default()).ok()
    })
}

fn whitelist() -> impl Strategy<Value = Vec<Cidr>> {
    proptest::collection::vec(any_entry(), 1..30)
}

fn made(entries: &[Cidr]) -> Whitelist {
    let entries = CidrSet::new(entries.to_vec(), &Limits::NONE).unwrap();
    entries.map_or(Whitelist::Unrestricted, Whitelist::Only)
}

/// Addresses in, before and after the entries.
fn near(entries: &[Cidr], noise: u128) -> Vec<ClientAddr> {
    let edges = entries.iter().flat_map(|entry| {
        let host = host_bits(entry);
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
        prop_assert_eq!(Cidr::parse(&entry.to_string(), &limits), Ok(entry));
        prop_assert_eq!(Cidr::parse(&entry.with_prefix(), &limits), Ok(entry));
        let mut written = Vec::new();
        entry.write(&mut written);
        prop_assert_eq!(String::from_utf8(written).unwrap(), entry.to_string());
    }

    /// The comparison of a decision is written by hand; all else is the library's.
    #[test]
    fn an_entry_contains_what_its_network_does(entry in any_entry(), noise in bits()) {
        for ClientAddr(address) in near(&[entry], noise) {
            let net = Ipv6Net::new(entry.start().into(), entry.bits).unwrap();
            let contained = net.contains(&Ipv6Addr::from_bits(address));
            prop_assert_eq!(entry.contains(ClientAddr(address)), contained);
        }
    }

    #[test]
    fn entries_nest_in_the_narrowest(entries in whitelist()) {
        let nested = nested(entries.clone());
        let each: Vec<_> = nested.iter().map(|&(entry, _)| entry).collect();
        let whitelist = made(&entries);
        prop_assert_eq!(each.as_slice(), whitelist.entries());
        for (entry, outer) in nested {
            let covering = entries.iter().filter(|other| **other != entry && other.covers(&entry));
            prop_assert_eq!(outer, covering.max_by_key(|other| other.bits).copied());
        }
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
            let _ = Cidr::parse(&text, &Limits::default()).map_err(|e| e.to_string());
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
        if let Ok(entry) = Cidr::parse(&text, &Limits::default()) {
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
        if let Err(CidrError::HostBits { network, address, .. }) = Cidr::parse(&text, &limits) {
            prop_assert_eq!(Cidr::parse(&network.to_string(), &limits), Ok(network));
            prop_assert_eq!(Cidr::parse(&address.to_string(), &limits), Ok(address));
            prop_assert!(network.covers(&address));
        }
    }

    #[test]
    fn no_entry_touches_what_is_forbidden(bits in bits(), length in 0..=128u8) {
        let range = network(bits, length);
        if let Ok(entry) = Cidr::parse(&range.with_prefix(), &Limits::NONE) {
            prop_assert!(!entry.contains(addr("::")) && !entry.contains(addr("0.0.0.0")));
            prop_assert!(!entry.overlaps(&MULTICAST_V4) && !entry.overlaps(&MULTICAST_V6));
            prop_assert_eq!(entry.overlaps(&IPV4), IPV4.covers(&entry));
        }
    }

    /// Rule 3.15, counted: an entry holds no more addresses that stand for IPv4 addresses than the widest
    /// IPv4 range has.
    #[test]
    fn no_entry_holds_more_translated_addresses_than_ipv4_ones(
        which in 0..TRANSLATED.len(), noise: u128, length in 1..=128u8, widest_v4 in 1..=32u8
    ) {
        let (prefix, offset, _) = TRANSLATED[which];
        let bits = prefix.start() | (noise & host_bits(&prefix));
        let range = network(bits, length);
        let limits = Limits { widest_v4, widest_v6: 1, ..Limits::default() };
        if let Ok(entry) = Cidr::parse(&range.with_prefix(), &limits) {
            // Which of the 32 bits of an IPv4 address, where it stands in this prefix, may be any.
            let free = (0..32).filter(|bit| {
                let flipped = entry.start() ^ (1_u128 << (127 - u32::from(offset) - bit));
                entry.contains(ClientAddr(flipped))
            });
            prop_assert!(free.count() <= usize::from(32 - widest_v4), "{entry}");
        }
        prop_assert_eq!(
            Cidr::parse(&range.with_prefix(), &Limits::NONE).is_ok(),
            length > 0 && !range.contains(ClientAddr(0)) && !range.covers(&IPV4)
                && !range.overlaps(&MULTICAST_V6)
        );
    }

    #[test]
    fn overlaps_are_those_of_each_with_each(entries in whitelist(), others in whitelist()) {
        let (entries, others) = (set(entries), set(others));
        let overlaps = |entry: &&Cidr| others.iter().any(|other| other.overlaps(entry));
        let slow: Vec<_> = entries.iter().filter(overlaps).copied().collect();
        prop_assert_eq!(overlapping(&entries, &others), slow);
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
        let picked = |entry: &&Cidr| {
            let at = before.entries().iter().position(|other| other == *entry);
            at.and_then(|at| pick.get(at)).copied().unwrap_or(false)
        };
        let remove: Vec<Cidr> = before.entries().iter().filter(picked).copied().collect();
        let keep: Vec<Cidr> = before.entries().iter().filter(|e| !picked(e)).copied().collect();
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
                    // What was removed and still passes is reported.
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
