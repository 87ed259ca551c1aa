//! Our arithmetic of networks against Postgres' own (`cidr`, `inet`, `<<=`): which entry lets an
//! address in, what is a network at all, and how it is written.
//!
//! What must stay true: the expectation comes from bytes and Postgres alone. Postgres takes
//! `::ffff:1.2.3.4` for IPv6, so it is given the IPv4 form, made here and not by the code under test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that panics fails"
)]

use portcullis::policy::network::{Cidr, CidrSet, ClientAddr, Limits, Whitelist, parse_entries};
use sqlx::{Connection, PgConnection, Row};

const WHITELISTS: usize = 2_500;
const ADDRESSES: usize = 50;

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

    fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.next().to_be_bytes());
        bytes
    }
}

/// A network as bytes: 4 of them or 16, and a prefix length. An address has all bits as prefix.
#[derive(Clone, Debug)]
struct Net {
    bytes: Vec<u8>,
    length: usize,
}

impl Net {
    fn width(&self) -> usize {
        self.bytes.len() * 8
    }

    /// The same with every bit after the prefix taken from `fill`.
    fn filled(&self, fill: impl Fn(usize) -> bool) -> Net {
        let mut net = self.clone();
        for bit in self.length..self.width() {
            let mask = 0x80 >> (bit % 8);
            net.bytes[bit / 8] &= !mask;
            if fill(bit) {
                net.bytes[bit / 8] |= mask;
            }
        }
        net
    }

    /// The address after (or before) this one, around the end if need be.
    fn step(&self, forward: bool) -> Net {
        let mut net = self.clone();
        for byte in net.bytes.iter_mut().rev() {
            let (next, carry) = match forward {
                true => byte.overflowing_add(1),
                false => byte.overflowing_sub(1),
            };
            *byte = next;
            if !carry {
                break;
            }
        }
        net
    }

    /// IPv4 bytes if these are an IPv4-mapped address.
    fn unmapped(mut self) -> Net {
        if self.bytes.len() == 16 && self.bytes[..10] == [0; 10] && self.bytes[10..12] == [255; 2] {
            self.bytes.drain(..12);
            self.length = self.length.saturating_sub(96);
        }
        self
    }

    fn address_text(&self) -> String {
        match self.bytes.len() {
            4 => self.bytes.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
            _ => groups(&self.bytes).join(":"),
        }
    }

    /// For Postgres: no mapped form, always with the prefix length.
    fn oracle_text(&self) -> String {
        format!("{}/{}", self.address_text(), self.length)
    }

    /// For us: one of the spellings that mean the same.
    fn spelled(&self, random: &mut Random) -> String {
        let last = self.length == self.width();
        let (address, length) = match (self.bytes.len(), random.below(4)) {
            (4, 0) => (format!("::ffff:{}", self.address_text()), self.length + 96),
            (4, 1) => {
                (format!("0:0:0:0:0:FFFF:{}", groups(&self.bytes).join(":")), self.length + 96)
            }
            (16, 0) => (self.address_text().to_uppercase(), self.length),
            _ => (self.address_text(), self.length),
        };
        if last && random.below(2) == 0 { address } else { format!("{address}/{length}") }
    }
}

fn groups(bytes: &[u8]) -> Vec<String> {
    bytes.chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect()
}

/// A network that no rule forbids, with bits after its prefix cleared. Few places, so that they nest.
fn network(random: &mut Random, others: &[Net]) -> Net {
    let noise = random.bytes();
    let mut net = match random.below(8) {
        0..=3 if !others.is_empty() => {
            // Inside, around or beside another one.
            let other = others[random.below(others.len())].clone();
            let keep = random.below(other.width() + 1);
            let near = Net { length: keep, ..other };
            let edge = random.below(3);
            near.filled(|bit| match edge {
                0 => bit % 7 == 0 && noise[bit / 8] & 1 == 1,
                1 => noise[bit / 8] >> (bit % 8) & 1 == 1,
                _ => true,
            })
        }
        0 | 4 => Net { bytes: vec![10, noise[0] % 4, noise[1] % 4, noise[2]], length: 0 },
        1 | 5 => Net { bytes: noise[..4].to_vec(), length: 0 },
        2 | 6 => Net {
            bytes: [&[0x20, 1, 0x0d, 0xb8, 0, noise[0] % 4], &noise[..10]].concat(),
            length: 0,
        },
        3 => Net { bytes: noise.to_vec(), length: 0 },
        // Close to where the mapped addresses are.
        _ => Net { bytes: [&[0; 9][..], &[1, 0xff, 0xfe], &noise[..4]].concat(), length: 0 },
    };
    if net.bytes.len() == 4 {
        net.length = 8 + random.below(25);
        if net.bytes[0] == 0 || net.bytes[0] >= 224 {
            net.bytes[0] = 11;
        }
    } else {
        net.length = 32 + random.below(97);
        // Neither around IPv4 or the unspecified address, nor multicast.
        if net.bytes[..4] == [0; 4] {
            net.length = net.length.max(88);
        }
        if net.bytes[..10] == [0; 10] {
            net.bytes[9] = 2;
        }
        if net.bytes[0] == 255 {
            net.bytes[0] = 0x20;
        }
        // Nor Teredo: those are looked at by themselves.
        if net.bytes[..4] == [0x20, 1, 0, 0] {
            net.bytes[2] = 0x0d;
        }
    }
    net.filled(|_| false)
}

/// An address at, inside or just outside the edges of a network, or anywhere.
fn address(random: &mut Random, nets: &[Net]) -> Net {
    let noise = random.bytes();
    let net = &nets[random.below(nets.len())];
    let address = match random.below(8) {
        0 => net.filled(|_| false),
        1 => net.filled(|_| true),
        2 => net.filled(|_| false).step(false),
        3 => net.filled(|_| true).step(true),
        4 | 5 => net.filled(|bit| noise[bit / 8] >> (bit % 8) & 1 == 1),
        6 if net.bytes.len() == 4 => Net { bytes: noise[..4].to_vec(), length: 32 },
        // The bytes of an IPv4 address, as an IPv6 address that is not mapped.
        7 if net.bytes.len() == 4 => {
            Net { bytes: [&[0; 12], &net.bytes[..]].concat(), length: 128 }
        }
        _ => Net { bytes: noise.to_vec(), length: 128 },
    };
    let length = address.width();
    Net { length, ..address }.unmapped()
}

fn with_postgres<T>(work: impl AsyncFnOnce(PgConnection) -> sqlx::Result<T>) -> T {
    let url = crate::support::postgres::database();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async { work(PgConnection::connect(&url).await?).await });
    result.expect("Postgres answers")
}

/// Rule 2.18.
#[test]
fn the_entry_that_lets_an_address_in_is_the_one_postgres_finds() {
    const QUERY: &str = "
        WITH lists AS (
            SELECT list, array_agg(net::cidr) AS nets
            FROM unnest($1::int[], $2::text[]) AS entries (list, net) GROUP BY list)
        SELECT address <<= ANY (nets) AS inside,
            (SELECT net::text FROM unnest(nets) AS net
             WHERE address <<= net ORDER BY masklen(net) DESC LIMIT 1) AS best
        FROM (SELECT list, address::inet, at
              FROM unnest($3::int[], $4::text[]) WITH ORDINALITY AS probes (list, address, at)) probes
        JOIN lists USING (list) ORDER BY at";
    let mut random = Random::seeded();
    let (mut lists, mut nets) = (Vec::new(), Vec::new());
    let (mut probed, mut addresses) = (Vec::new(), Vec::new());
    let mut ours = Vec::new();
    for list in 0..WHITELISTS as i32 {
        let mut own: Vec<Net> = Vec::new();
        for _ in 0..=random.below(if list % 10 == 0 { 100 } else { 20 }) {
            let net = network(&mut random, &own);
            own.push(net);
        }
        let texts: Vec<String> = own.iter().map(|net| net.spelled(&mut random)).collect();
        let limits = Limits::default();
        let entries = parse_entries(texts.iter().map(String::as_str), &limits)
            .unwrap_or_else(|faults| panic!("{faults:?}"));
        let whitelist = Whitelist::Only(CidrSet::new(entries, &limits).unwrap().unwrap());
        for _ in 0..ADDRESSES {
            let address = address(&mut random, &own);
            let text = Net::spelled(&address, &mut random);
            let text = text.split('/').next().unwrap();
            let seen: ClientAddr = text.parse().unwrap_or_else(|error| panic!("{error}"));
            ours.push((text.to_owned(), whitelist.find(seen).copied(), whitelist.allows(seen)));
            probed.push(list);
            addresses.push(address.address_text());
        }
        for net in own {
            lists.push(list);
            nets.push(net.oracle_text());
        }
    }
    assert!(ours.len() >= 100_000);

    let rows = with_postgres(async |mut postgres| {
        let query = sqlx::query(QUERY).bind(&lists).bind(&nets).bind(&probed).bind(&addresses);
        query.fetch_all(&mut postgres).await
    });
    assert_eq!(rows.len(), ours.len());
    let mut inside = 0;
    for (at, (row, (text, found, allowed))) in rows.iter().zip(&ours).enumerate() {
        let about = || {
            let own = lists.iter().zip(&nets).filter(|(list, _)| **list == probed[at]);
            format!("{text} in {:?}", own.map(|(_, net)| net).collect::<Vec<_>>())
        };
        assert_eq!(row.get::<bool, _>("inside"), *allowed, "{}", about());
        let best: Option<String> = row.get("best");
        let best = best.map(|best| Cidr::parse(&best, &Limits::default()).unwrap());
        assert_eq!(best, *found, "{}", about());
        inside += usize::from(*allowed);
    }
    println!("{} addresses, {inside} of them inside, {} entries", ours.len(), nets.len());
    // The cases are worth something only if both answers are common.
    assert!(inside > ours.len() / 5 && inside < ours.len() * 4 / 5, "{inside}");
}

#[test]
fn what_we_accept_is_a_network_to_postgres_and_is_written_alike() {
    const IS_CIDR: &str = "
        CREATE FUNCTION is_cidr(text text) RETURNS bool LANGUAGE plpgsql AS $$
            BEGIN PERFORM text::cidr; RETURN true; EXCEPTION WHEN others THEN RETURN false; END $$";
    // As inet, since that leaves out /32 and /128; by format(), since the cast to text does not.
    const QUERY: &str = "
        SELECT is_cidr(net) AS accepted,
            CASE WHEN is_cidr(net) THEN format('%s', net::cidr::inet) END AS canonical
        FROM unnest($1::text[]) WITH ORDINALITY AS nets (net, at) ORDER BY at";
    let mut random = Random::seeded();
    let limits = Limits::default();
    let mut oracle = Vec::new();
    let mut ours = Vec::new();
    for _ in 0..10_000 {
        // With or without bits after the prefix, in every spelling.
        let mut net = network(&mut random, &[]);
        if random.below(2) == 0 {
            let noise = random.bytes();
            net = net.filled(|bit| noise[bit / 8] >> (bit % 8) & 1 == 1);
        }
        let text = net.spelled(&mut random);
        oracle.push(net.oracle_text());
        let parsed = Cidr::parse(&text, &limits).map_err(|error| {
            assert_eq!(error.reason(), "HOST_BITS", "{error}");
        });
        ours.push((text, parsed.ok().map(|entry| entry.to_string())));
    }
    let networks = ours.len();
    for _ in 0..20_000 {
        // One character changed: whatever we then accept, Postgres does too.
        let mut text = network(&mut random, &[]).oracle_text();
        let at = random.below(text.len());
        let with = ["", "0", "1", "9", ".", ":", "/", "f", " ", "%", "00"][random.below(11)];
        text.replace_range(at..=at, with);
        if let Ok(entry) = Cidr::parse(&text, &limits) {
            oracle.push(text.trim().to_owned());
            ours.push((text, Some(entry.to_string())));
        }
    }
    assert!(ours.len() > networks + 1_000, "{}", ours.len());

    let rows = with_postgres(async |mut postgres| {
        sqlx::query(IS_CIDR).execute(&mut postgres).await?;
        sqlx::query(QUERY).bind(&oracle).fetch_all(&mut postgres).await
    });
    assert_eq!(rows.len(), ours.len());
    for (row, (text, canonical)) in rows.iter().zip(&ours) {
        assert_eq!(row.get::<bool, _>("accepted"), canonical.is_some(), "{text}");
        assert_eq!(row.get::<Option<String>, _>("canonical"), *canonical, "{text}");
    }
}

/// Rule 3.15: where an IPv6 range stands for more than an IPv4 /8, by Postgres' own overlap and lengths.
#[test]
fn ranges_of_translated_addresses_are_refused_where_postgres_finds_them_wide() {
    // Each prefix, and the bits before an IPv4 prefix in it, once more and by hand.
    const QUERY: &str = "
        SELECT bool_or(net::cidr && prefix::cidr AND masklen(net::cidr) < before + 8) AS wide,
            bool_or(net::cidr && prefix::cidr) AS within
        FROM unnest($1::text[]) WITH ORDINALITY AS nets (net, at), (VALUES
            ('::/96', 96), ('0:0:0:0:ffff::/96', 96), ('64:ff9b::/96', 96), ('64:ff9b:1::/48', 96),
            ('2001::/32', 96), ('2002::/16', 16)) AS prefixes (prefix, before)
        GROUP BY at ORDER BY at";
    const STARTS: [&[u8]; 7] = [
        &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        &[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0x64, 0xff, 0x9b, 0, 1],
        &[0x20, 0x01, 0, 0],
        &[0x20, 0x02],
        &[0x20, 0x01, 0x0d, 0xb8],
    ];
    let mut random = Random::seeded();
    // Only what is looked at here is to be refused for its width.
    let limits = Limits { widest_v6: 1, ..Limits::default() };
    let (mut ours, mut oracle) = (Vec::new(), Vec::new());
    while ours.len() < 20_000 {
        let start = STARTS[random.below(STARTS.len())];
        let noise = random.bytes();
        let bytes = [start, &noise[start.len()..]].concat();
        // Around the edges of what is wide, and anywhere.
        let length = match random.below(4) {
            0 => 100 + random.below(8),
            1 => (start.len() * 8).saturating_sub(2) + random.below(5),
            2 => 16 + random.below(16),
            _ => 1 + random.below(128),
        };
        let net = Net { bytes, length }.filled(|_| false);
        let text = net.spelled(&mut random);
        let refused = match Cidr::parse(&text, &limits) {
            Ok(_) => false,
            Err(error) if ["UNSPECIFIED", "MULTICAST", "ANY_ADDRESS"].contains(&error.reason()) => {
                continue;
            }
            Err(error) if error.to_string().contains("as ::ffff:0:0/96:") => continue,
            Err(error) => {
                assert!(["CONTAINS_IPV4", "TOO_WIDE"].contains(&error.reason()), "{error}");
                true
            }
        };
        assert!(Cidr::parse(&text, &Limits::NONE).is_ok(), "{text} is not valid any more");
        ours.push((text, refused));
        oracle.push(net.oracle_text());
    }
    let rows = with_postgres(async |mut postgres| {
        sqlx::query(QUERY).bind(&oracle).fetch_all(&mut postgres).await
    });
    assert_eq!(rows.len(), ours.len());
    let (mut wide, mut narrow) = (0, 0);
    for (row, (text, refused)) in rows.iter().zip(&ours) {
        assert_eq!(row.get::<bool, _>("wide"), *refused, "{text}");
        wide += usize::from(*refused);
        narrow += usize::from(row.get::<bool, _>("within") && !refused);
    }
    assert!(wide > 1_000 && narrow > 1_000, "{wide} refused, {narrow} within and not");
}
