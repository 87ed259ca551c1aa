//! The addresses of allowed requests, noted once a grain and written behind.
//!
//! # Invariants
//! - An address that was noted a moment ago costs a look at the cached token, or one into a table that is not written.
//! - Memory is bounded, however many addresses come: by the table, and by what may wait for the store.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use super::{SHARDS, shard_of};
use crate::cache::{AddressMark, CachedToken};
use crate::model::{AddressUse, MAX_ADDRESSES};
use crate::policy::id::TokenId;
use crate::policy::network::{Cidr, ClientAddr};
use crate::policy::time::Timestamp;

/// Pairs of token and address that are remembered beside each token's last address: 512 KiB. Pairs that share a place
/// are noted more often than need be, and nothing else.
const REMEMBERED: usize = 1 << 16;
/// Addresses that may wait in one shard; 8,192 in all, which is also what a flush writes at the most.
const MAX_WAITING: usize = 1 << 9;

type Waiting = BTreeMap<(TokenId, ClientAddr), (Timestamp, Timestamp, Option<Cidr>)>;

/// See the module.
#[derive(Debug)]
pub(super) struct Addresses {
    remembered: Box<[AtomicU64]>,
    /// Nobody who chooses addresses can foresee which of them share a mark.
    keys: (u64, u64),
    waiting: [Mutex<Waiting>; SHARDS],
}

/// What became of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressOutcome {
    /// It was noted a moment ago.
    Known,
    /// It waits for the store.
    Waits,
    /// Too many wait. One was dropped, which is noted again when it is used after a grain.
    Dropped,
}

impl Default for Addresses {
    fn default() -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self {
            remembered: (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect(),
            keys: (random(), random()),
            waiting: Default::default(),
        }
    }
}

impl Addresses {
    /// Takes note that `token` was used from `address`, unless that is known since less than `grain` microseconds.
    pub(super) fn note(
        &self,
        token: &CachedToken,
        address: ClientAddr,
        entry: Option<Cidr>,
        now: Timestamp,
        grain: i64,
    ) -> AddressOutcome {
        let hash = self.hash(*token.id, address);
        let mark = AddressMark::new(hash, now);
        if token.knows_address(mark, grain) {
            return AddressOutcome::Known;
        }
        let remembered = &self.remembered[hash as usize % REMEMBERED];
        if mark.is_fresh_in(remembered, grain) {
            return AddressOutcome::Known;
        }
        mark.put_into(remembered);
        token.note_address(mark);
        let (token_id, first, last) = (*token.id, now, now);
        match self.buffer(AddressUse { token_id, address, entry, first, last }) {
            true => AddressOutcome::Waits,
            false => AddressOutcome::Dropped,
        }
    }

    /// Keeps what the store is to be given. Whether there was room, for this token and in all; otherwise an address was
    /// dropped. Rule 12.1 of docs/policy.md.
    pub(super) fn buffer(&self, seen: AddressUse) -> bool {
        let waiting = &self.waiting[shard_of(seen.token_id)];
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own = || waiting.range(all_of(seen.token_id));
        let full = waiting.len() >= MAX_WAITING || own().nth(MAX_ADDRESSES - 1).is_some();
        // Where there is no room, the token's address that was seen longest ago gives way: what is shown are those
        // that were seen last.
        let oldest = full.then(|| own().min_by_key(|(_, (_, last, _))| *last)).flatten();
        let oldest = oldest.filter(|(_, (_, last, _))| *last <= seen.last).map(|(&key, _)| key);
        match waiting.entry((seen.token_id, seen.address)) {
            Entry::Occupied(mut known) => {
                let (first, last, entry) = known.get_mut();
                *entry = if seen.last >= *last { seen.entry } else { *entry };
                (*first, *last) = (seen.first.min(*first), seen.last.max(*last));
            }
            Entry::Vacant(_) if full && oldest.is_none() => return false,
            Entry::Vacant(place) => {
                place.insert((seen.first, seen.last, seen.entry));
                if let Some(oldest) = oldest {
                    waiting.remove(&oldest);
                    return false;
                }
            }
        }
        true
    }

    /// Everything that waits.
    pub(super) fn take(&self) -> Vec<AddressUse> {
        let mut taken = Vec::new();
        for waiting in &self.waiting {
            let waiting =
                std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
            taken.extend(waiting.into_iter().map(|((token_id, address), (first, last, entry))| {
                AddressUse { token_id, address, entry, first, last }
            }));
        }
        taken
    }

    fn hash(&self, token_id: TokenId, address: ClientAddr) -> u64 {
        let bits = match IpAddr::from(address) {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            (product >> 64) as u64 ^ product as u64
        };
        // The low half of an id is random.
        let id = token_id.0.as_u64_pair().1;
        let address = fold(bits as u64 ^ self.keys.0, (bits >> 64) as u64 ^ self.keys.1);
        fold(address ^ id, self.keys.1 | 1)
    }
}

fn all_of(id: TokenId) -> std::ops::RangeInclusive<(TokenId, ClientAddr)> {
    let address = |bits| ClientAddr::from(IpAddr::V6(Ipv6Addr::from_bits(bits)));
    (id, address(0))..=(id, address(u128::MAX))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::policy::id::AccountId;
    use crate::policy::network::Whitelist;
    use crate::policy::token::{Expiry, Grant, TokenFacts, TokenState};

    const MINUTE: i64 = 60_000_000;

    fn token(id: u128) -> CachedToken {
        CachedToken::new(TokenFacts {
            id: TokenId(Uuid::from_u128(
                id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
            ))
            .into(),
            account_id: AccountId(Uuid::nil()).into(),
            digest: [0; 32],
            state: TokenState::Active,
            expiry: Expiry::NEVER,
            grant: Grant::ReadWrite,
            whitelist: Whitelist::Unrestricted,
            announced: Vec::new(),
        })
    }

    fn address(number: u128) -> ClientAddr {
        IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | number)).into()
    }

    /// Rule 12.1.
    #[test]
    fn an_address_is_noted_once_a_grain_also_beside_others() {
        let (addresses, token) = (Addresses::default(), token(1));
        let note = |number, seconds: i64| {
            addresses.note(&token, address(number), None, Timestamp(seconds * 1_000_000), MINUTE)
        };
        for number in 0..3 {
            assert_eq!(note(number, 1_000), AddressOutcome::Waits);
        }
        for number in (0..3).chain(0..3) {
            assert_eq!(note(number, 1_059), AddressOutcome::Known, "{number}");
        }
        assert_eq!(
            (note(0, 1_060), note(1, 1_070)),
            (AddressOutcome::Waits, AddressOutcome::Waits)
        );
        let seen: Vec<_> =
            addresses.take().into_iter().map(|seen| (seen.first, seen.last)).collect();
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        assert_eq!(seen, [(at(1_000), at(1_060)), (at(1_000), at(1_070)), (at(1_000), at(1_000))]);
        assert_eq!(addresses.take().len(), 0);
    }

    /// Rule 12.1.
    #[test]
    fn of_many_addresses_those_seen_last_are_kept() {
        let (addresses, token) = (Addresses::default(), token(1));
        for number in 0..60 {
            let now = Timestamp(1_000_000_000 + number);
            addresses.note(&token, address(number.unsigned_abs().into()), None, now, MINUTE);
        }
        let kept: Vec<_> = addresses.take().into_iter().map(|seen| seen.address).collect();
        assert_eq!(kept, (10..60).map(address).collect::<Vec<_>>());
    }

    #[test]
    fn a_flood_of_addresses_takes_a_share_of_each_token_and_no_more_than_there_is_room_for() {
        let addresses = Addresses::default();
        let (flooded, other) = (token(1), token(2));
        let now = Timestamp(1_000_000_000);
        let waits = |token: &CachedToken, number| {
            addresses.note(token, address(number), None, now, MINUTE) == AddressOutcome::Waits
        };
        let taken = (0..20_000).filter(|&number| waits(&flooded, number)).count();
        assert_eq!(taken, MAX_ADDRESSES);
        assert!(waits(&other, 0), "another token has its share");
        for id in 3..1_000 {
            let token = token(id);
            (0..100).for_each(|number| {
                waits(&token, number);
            });
        }
        assert_eq!(addresses.take().len(), MAX_WAITING * SHARDS);
    }
}
