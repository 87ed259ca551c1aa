//! The rule of a client's address (docs/policy.md, 9.5) against a slow second implementation, which knows addresses as
//! numbers and elements as what a grammar matches; and against clients that send what they like.
//!
//! What must stay true: the second implementation shares no code with the first, nor its way of reading.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that panics fails"
)]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use portcullis::policy::client_source::{
    ClientSource, ClientSourceFields, MAX_ELEMENTS, MAX_HEADER_BYTES,
};
use portcullis::policy::network::Limits;

/// Random chains for each kind of header.
const CHAINS: usize = 100_000;

/// Trusted proxies: as they are configured, and as the first bits of a number. IPv4 stands at `::ffff:0:0/96`.
const TRUSTED: [(&str, u128, u32); 4] = [
    ("10.0.0.0/8", 0xffff_0a00_0000, 104),
    ("192.0.2.1", 0xffff_c000_0201, 128),
    ("2001:db8:f::/48", 0x2001_0db8_000f << 80, 48),
    ("2001:db8::1", 0x2001_0db8 << 96 | 1, 128),
];

fn source(header: &str) -> ClientSource {
    let proxies = TRUSTED.map(|(text, ..)| text.to_owned());
    let fields = ClientSourceFields {
        address_header: header,
        trusted_proxies: &proxies,
        token_header: "",
        method_header: "",
        uri_header: "",
        forward_token: true,
    };
    ClientSource::parse(&fields, &Limits::default()).unwrap()
}

fn is_trusted(address: u128) -> bool {
    TRUSTED.iter().any(|(_, start, bits)| (address ^ start) >> (128 - bits) == 0)
}

// The second implementation.

/// The address that a header's lines name, as a number.
fn expected(forwarded: bool, start: Option<u128>, lines: &[String]) -> Option<u128> {
    if start.is_some_and(|start| !is_trusted(start)) {
        return start;
    }
    if lines.is_empty() {
        return None;
    }
    let mut list = lines.join(",");
    if list.len() > MAX_HEADER_BYTES {
        return None;
    }
    for _ in 0..MAX_ELEMENTS {
        // The shortest end of the list that is an element, from its beginning or after a comma.
        let mut starts: Vec<usize> = list.match_indices(',').map(|(at, _)| at + 1).collect();
        starts.insert(0, 0);
        let from = match forwarded {
            true => *starts.iter().rev().find(|&&from| pairs(&list[from..]).is_some())?,
            false => *starts.last()?,
        };
        let address = if forwarded {
            let pairs = pairs(&list[from..])?;
            let names: HashSet<_> = pairs.iter().map(|(name, _)| name.to_lowercase()).collect();
            if names.len() < pairs.len() {
                return None;
            }
            let named: Vec<_> =
                pairs.iter().filter(|(name, _)| name.to_lowercase() == "for").collect();
            let [(_, value)] = named[..] else { return None };
            node(value, true)
        } else {
            let element = list[from..].trim_matches([' ', '\t']);
            ipv6(element).or_else(|| node(element, false))
        }?;
        if !is_trusted(address) {
            return Some(address);
        }
        if from == 0 {
            return None;
        }
        list.truncate(from - 1);
    }
    None
}

/// The names and values of an element of RFC 7239; `None` if it is none.
fn pairs(element: &str) -> Option<Vec<(String, String)>> {
    let is_token = |text: &str| {
        let is_tchar = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        !text.is_empty() && text.chars().all(is_tchar)
    };
    // Cut at the semicolons that stand outside quotation marks.
    let mut parts = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for c in element.trim_matches([' ', '\t']).chars() {
        if c == ';' && !quoted {
            parts.push(String::new());
            continue;
        }
        parts.last_mut()?.push(c);
        if escaped {
            escaped = false;
        } else if c == '\\' && quoted {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        }
    }
    let mut pairs = Vec::new();
    for part in &parts {
        if part.is_empty() {
            continue;
        }
        let (name, value) = part.split_once('=')?;
        let value = match value.strip_prefix('"') {
            None => is_token(value).then(|| value.to_owned())?,
            Some(value) => unquoted(value)?,
        };
        if !is_token(name) {
            return None;
        }
        pairs.push((name.to_owned(), value));
    }
    Some(pairs)
}

/// What a quoted string says, from after its first quotation mark to its last, which must end it.
fn unquoted(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(value),
            '\\' => value.push(chars.next()?),
            c if c.is_ascii_control() && c != '\t' => return None,
            c => value.push(c),
        }
    }
}

/// A node of RFC 7239 that is an address, with or without a port.
fn node(text: &str, obfuscated_ports: bool) -> Option<u128> {
    let host_length = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, port) = text.split_at(host_length);
    let numeric = |port: &str| {
        port.len() <= 5
            && port.chars().all(|c| c.is_ascii_digit())
            && port.parse::<u32>().is_ok_and(|port| port < 65_536)
    };
    let hidden = |port: &str| {
        port.len() > 1
            && port.starts_with('_')
            && port[1..].chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => {}
        Some(port) if numeric(port) || (obfuscated_ports && hidden(port)) => {}
        _ => return None,
    }
    match host.strip_prefix('[') {
        Some(host) => ipv6(host.strip_suffix(']')?),
        None => ipv4(host).map(|address| 0xffff << 32 | u128::from(address)),
    }
}

fn ipv4(text: &str) -> Option<u32> {
    let octets: Vec<&str> = text.split('.').collect();
    if octets.len() != 4 {
        return None;
    }
    octets.iter().try_fold(0, |address, octet| {
        let plain = octet.chars().all(|c| c.is_ascii_digit()) && (1..=3).contains(&octet.len());
        let value: u32 = octet.parse().ok()?;
        (plain && value < 256 && value.to_string() == **octet).then_some(address << 8 | value)
    })
}

fn ipv6(text: &str) -> Option<u128> {
    // An IPv4 address at the end stands for the last two groups.
    let mut text = text.to_owned();
    if let Some(tail) = text.rsplit(':').next().filter(|tail| tail.contains('.')) {
        let address = ipv4(tail)?;
        let before = text.len() - tail.len();
        text.replace_range(before.., &format!("{:x}:{:x}", address >> 16, address & 0xffff));
    }
    let groups = |text: &str| -> Option<Vec<u128>> {
        let read = |group: &str| {
            let hex = group.chars().all(|c| c.is_ascii_hexdigit());
            (hex && (1..=4).contains(&group.len()))
                .then(|| u128::from_str_radix(group, 16).unwrap())
        };
        if text.is_empty() { Some(Vec::new()) } else { text.split(':').map(read).collect() }
    };
    let all = match text.split_once("::") {
        None => groups(&text)?,
        Some((before, after)) => {
            let (before, after) = (groups(before)?, groups(after)?);
            let missing = 8usize.checked_sub(before.len() + after.len())?;
            if missing == 0 {
                return None;
            }
            [before, vec![0; missing], after].concat()
        }
    };
    (all.len() == 8).then(|| all.iter().fold(0, |address, group| address << 16 | group))
}

// The cases.

/// SplitMix64: enough to pick cases, and the same for one seed everywhere.
struct Random(u64);

impl Random {
    /// From `ORACLE_SEED`, else from the clock; printed, so that a failure can be repeated.
    fn seeded() -> Self {
        let fresh = || {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(0)
        };
        let given = std::env::var("ORACLE_SEED").ok();
        let seed = given.map_or_else(fresh, |seed| seed.parse().expect("ORACLE_SEED is a u64"));
        println!("ORACLE_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// An address: of the given kind, in any spelling.
fn address(random: &mut Random, trusted: bool) -> u128 {
    let noise = u128::from(random.next()) << 64 | u128::from(random.next());
    if trusted {
        let (_, start, bits) = random.pick(&TRUSTED);
        return start | noise.checked_shr(bits).unwrap_or(0);
    }
    loop {
        let address = match random.below(4) {
            0 => 0xffff << 32 | noise & 0xffff_ffff,
            // Next to the trusted ones.
            1 => 0xffff_c000_0200 | noise & 3,
            2 => 0x2001_0db8 << 96 | noise & 3,
            _ => 0x2001_0db8 << 96 | noise >> 32,
        };
        if !is_trusted(address) {
            return address;
        }
    }
}

/// Text for an address, as a list like `X-Forwarded-For` has it, or without quotation marks as `Forwarded` does.
fn spelled(random: &mut Random, address: u128, forwarded: bool) -> String {
    let ip = Ipv6Addr::from_bits(address);
    let text = match ip.to_ipv4_mapped() {
        Some(v4) if random.below(4) > 0 => v4.to_string(),
        _ => match random.below(4) {
            0 => ip.segments().map(|group| format!("{group:04X}")).join(":"),
            1 => ip.segments().map(|group| format!("{group:x}")).join(":"),
            _ => ip.to_string(),
        },
    };
    let is_v6 = text.contains(':');
    let port = random.pick(&["", "", ":80", ":65535", ":0"]);
    match is_v6 {
        true if forwarded || !port.is_empty() || random.below(2) == 0 => format!("[{text}]{port}"),
        true => text,
        false => format!("{text}{port}"),
    }
}

/// An element for an address, as a proxy writes it.
fn element(random: &mut Random, address: u128, forwarded: bool) -> String {
    let node = spelled(random, address, forwarded);
    if !forwarded {
        return node;
    }
    let quoted = node.contains(':') || random.below(3) == 0;
    let node = match random.below(8) {
        0 if quoted => format!("\"{}\"", node.replace('.', "\\.")),
        _ if quoted => format!("\"{node}\""),
        _ => node,
    };
    let name = random.pick(&["for", "For", "FOR"]);
    let before = random.pick(&["", "", "by=10.0.0.1;", "proto=https;", "x=\"a, \\\"b;c\";"]);
    let after = random.pick(&["", "", ";secure=1", ";host=\"a,b\"", ";y=\"\\\\\"", ";"]);
    format!("{before}{name}={node}{after}")
}

const HOSTILE: [&str; 35] = [
    "",
    " ",
    "\t",
    ",",
    ",,",
    "\"",
    "\\",
    "\\\"",
    "\\\\\"",
    "=",
    ";",
    "for=",
    "for=\"",
    "unknown",
    "for=unknown",
    "for=_hidden",
    "for=\"_x:80\"",
    "for=10.0.0.1",
    "for=\"[2001:db8::1]\"",
    "10.0.0.1",
    "192.0.2.1:99999",
    "[::1",
    "fe80::1%eth0",
    "for=198.51.100.1;for=198.51.100.2",
    "for=198.51.100.1;proto=http;Proto=http",
    "for=198.51.100.1; proto=http",
    "for=198.51.100.1 ;proto=http",
    "x=\"",
    "x=\", for=198.51.100.1",
    "\u{e9}",
    "\u{7f}",
    "for=\"198.51.100.1\"x",
    "010.0.0.1",
    "198.51.100.1 10.0.0.1",
    "[198.51.100.1]",
];

/// What a client sends: elements, and anything else.
fn hostile(random: &mut Random, forwarded: bool) -> String {
    let mut text = String::new();
    for _ in 0..random.below(6) {
        if random.below(3) == 0 {
            let trusted = random.below(2) == 0;
            let address = address(random, trusted);
            text += &element(random, address, forwarded);
        } else {
            text += random.pick(&HOSTILE);
        }
        text += random.pick(&["", ",", ", ", "\", ", "\\"]);
    }
    text
}

/// A header's lines: mostly well-formed, with anything anywhere.
fn chain(random: &mut Random, forwarded: bool) -> Vec<String> {
    let mut lines = vec![String::new()];
    let long = random.below(500) == 0;
    for at in 0..random.below(if long { 2 * MAX_ELEMENTS } else { 6 }) {
        if at > 0 {
            match random.below(5) {
                0 => lines.push(String::new()),
                _ => *lines.last_mut().unwrap() += random.pick(&[",", ", ", " ,\t"]),
            }
        }
        let text = match random.below(12) {
            0 if !long => hostile(random, forwarded),
            1..=3 if !long => {
                let address = address(random, false);
                element(random, address, forwarded)
            }
            _ => {
                let address = address(random, true);
                element(random, address, forwarded)
            }
        };
        *lines.last_mut().unwrap() += &text;
    }
    // One character changed.
    if random.below(4) == 0 {
        let at = random.below(lines.len());
        let line = &mut lines[at];
        let at = random.below(line.len().max(1));
        if line.is_char_boundary(at) && line.is_char_boundary(at + 1) {
            let with = random.pick(&["", "\"", ",", ";", "\\", ":", ".", "0", " ", "]", "="]);
            line.replace_range(at..=at, with);
        }
    }
    lines
}

fn ask(source: &ClientSource, start: Option<u128>, lines: &[String]) -> Option<u128> {
    let start = start.map(|start| Ipv6Addr::from_bits(start).into());
    let found = source.client_address(start, lines.iter().map(String::as_bytes))?;
    Some(match found {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    })
}

/// Rule 9.5 of docs/policy.md.
#[test]
fn random_chains_give_the_address_of_the_second_implementation() {
    let mut random = Random::seeded();
    for (header, forwarded) in [("X-Forwarded-For", false), ("Forwarded", true)] {
        let source = source(header);
        let (mut found, mut stepped) = (0, 0);
        for _ in 0..CHAINS {
            let lines = chain(&mut random, forwarded);
            let start = match random.below(8) {
                0 => Some(address(&mut random, false)),
                1..=3 => Some(address(&mut random, true)),
                _ => None,
            };
            let address = ask(&source, start, &lines);
            assert_eq!(address, expected(forwarded, start, &lines), "{start:x?} {lines:?}");
            assert!(address.is_none_or(|address| !is_trusted(address)), "{lines:?}");
            found += usize::from(address.is_some());
            let last = lines.last().and_then(|line| line.rsplit(',').next()).unwrap_or_default();
            let only_last = expected(forwarded, None, &[last.to_owned()]);
            stepped += usize::from(address.is_some() && address != only_last);
        }
        println!("{header}: {found} addresses of {CHAINS} chains, {stepped} behind proxies");
        // The cases are worth something only if both answers, and steps to the left, are common.
        assert!(found > CHAINS / 5 && found < CHAINS * 4 / 5, "{found}");
        assert!(stepped > CHAINS / 10, "{stepped}");
    }
}

/// Rule 9.5 of docs/policy.md: a thief of a token can't choose its address.
#[test]
fn client_has_the_address_that_the_first_trusted_proxy_saw_whatever_it_sends() {
    let mut random = Random::seeded();
    for (header, forwarded) in [("X-Forwarded-For", false), ("Forwarded", true)] {
        let source = source(header);
        for _ in 0..CHAINS {
            let mut lines: Vec<String> =
                (0..random.below(3)).map(|_| hostile(&mut random, forwarded)).collect();
            let peer = address(&mut random, false);
            // The first proxy appends its peer, and each other one the proxy before it.
            let mut hops = vec![peer];
            hops.extend((0..random.below(4)).map(|_| address(&mut random, true)));
            let start = if random.below(2) == 0 { None } else { hops.pop() };
            for hop in hops {
                let element = element(&mut random, hop, forwarded);
                match lines.last_mut() {
                    Some(last) if random.below(2) == 0 => {
                        *last += random.pick(&[", ", ","]);
                        *last += &element;
                    }
                    _ => lines.push(element),
                }
            }
            assert_eq!(ask(&source, start, &lines), Some(peer), "{start:x?} {lines:?}");
        }
    }
}
