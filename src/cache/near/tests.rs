//! The near cache alone and beside real threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use uuid::Uuid;

use sdd::{Guard, Shared};

use super::entry::CachedToken;
use super::near::*;
use crate::policy::decide;
use crate::policy::id::{AccountId, TokenId};
use crate::policy::token::TokenFacts;

fn facts(id: u128) -> Shared<CachedToken> {
    Shared::new(CachedToken::new(decide::tests::facts(id)))
}

fn found(near: &NearCache, facts: &Shared<CachedToken>) -> bool {
    let guard = Guard::new();
    near.get(*facts.id, &guard).is_some_and(|found| std::ptr::eq(found, &raw const **facts))
}

#[test]
fn a_bucket_is_one_cache_line() {
    assert_eq!(size_of::<Bucket>(), 64);
}

proptest! {
    #[test]
    fn every_place_with_the_tag_is_a_candidate(tags: [u8; SLOTS], tag in 1u8..) {
        let mut bytes = [0; 8];
        bytes[..SLOTS].copy_from_slice(&tags);
        let bucket = Bucket::empty();
        bucket.tags.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        let found = bucket.candidates(tag);
        prop_assert_eq!(found & !0x0080_8080_8080_8080, 0, "no place");
        for (slot, &has) in tags.iter().enumerate() {
            prop_assert!(has != tag || found >> (8 * slot) & 0x80 != 0, "{} is missed", slot);
        }
    }
}

#[test]
fn what_is_put_is_found_until_it_is_forgotten() {
    let near = NearCache::new(1_000);
    // One bucket, one tag: only the ids distinguish them.
    let all: Vec<_> = (0..7).map(|n| facts(n << 64 | 0x1234)).collect();
    for facts in &all {
        assert!(near.get(*facts.id, &Guard::new()).is_none());
        near.put(facts.clone(), || true);
    }
    assert!(all.iter().all(|facts| found(&near, facts)));

    let newer = facts(0x1234);
    near.put(newer.clone(), || true);
    assert!(found(&near, &newer) && !found(&near, &all[0]));
    near.forget(*newer.id, Some(&all[0]));
    assert!(found(&near, &newer), "other facts of the same token were to be forgotten");
    near.forget(*newer.id, None);
    assert!(near.get(*newer.id, &Guard::new()).is_none());
    assert!(all[1..].iter().all(|facts| found(&near, facts)));

    near.clear();
    assert!(all.iter().all(|facts| near.get(*facts.id, &Guard::new()).is_none()));
}

/// An id whose random half is this number.
pub(super) fn numbered(number: u64) -> Shared<CachedToken> {
    facts(u128::from(number))
}

#[test]
fn what_is_put_again_after_growing_is_where_it_belongs_and_nowhere_else() {
    let near = NearCache::new(100_000);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let all = std::iter::repeat_with(|| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        numbered(random)
    });
    let all: Vec<_> = all.take(20_000).collect();
    let mut sizes = vec![near.in_use.load(Ordering::Relaxed)];
    for facts in &all {
        near.put(facts.clone(), || true);
        assert!(found(&near, facts));
        sizes.push(near.in_use.load(Ordering::Relaxed));
    }
    sizes.dedup();
    assert_eq!(sizes, [1, 2, 4, 8, 16], "it grows step by step, and keeps three quarters free");

    // Those that were put before it grew last are not all found, until they are asked for again.
    let lost = all.iter().filter(|facts| !found(&near, facts)).count();
    assert!((1..all.len() / 2).contains(&lost), "{lost}");
    all.iter().for_each(|facts| near.put(facts.clone(), || true));
    assert!(all.iter().filter(|facts| found(&near, facts)).count() > all.len() * 999 / 1000);
    assert_eq!(copies(&near), *near.lock(), "what is taken is counted");
    assert!(copies(&near) <= all.len(), "something is kept twice");
    assert_eq!(near.in_use.load(Ordering::Relaxed), 16, "what is put again takes no more room");
}

#[test]
fn what_is_forgotten_is_kept_nowhere_even_where_it_was_before_growing() {
    let near = NearCache::new(100_000);
    // Belongs elsewhere in each size, and is put in the smallest only.
    let early = numbered(u64::MAX << 16 | 0x1234);
    near.put(early.clone(), || true);
    let others = (1..).map(|n: u64| numbered(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let others: Vec<_> = others.take(4 * PAGE * SLOTS).collect();
    others.iter().for_each(|facts| near.put(facts.clone(), || true));
    assert!(near.in_use.load(Ordering::Relaxed) > 4 && !found(&near, &early));

    let before = copies(&near);
    near.forget(*early.id, Some(&others[0]));
    assert_eq!(copies(&near), before, "other facts were to be forgotten");
    near.forget(*early.id, None);
    assert_eq!((copies(&near), *near.lock()), (before - 1, before - 1));
    near.clear();
    assert_eq!((copies(&near), *near.lock()), (0, 0));
}

/// Others put it again, and the table grows under it: facts that stay are found at every look, but for the
/// moment after it grew; what was forgotten is found by none.
#[test]
fn looks_beside_changes_and_growth() {
    let near = NearCache::new(100_000);
    let stays = numbered(u64::MAX << 16 | 0x1234);
    let changes = TokenId(Uuid::from_u128((u64::MAX << 17 | 0x4321).into()));
    let of_turn = |turn: u64| {
        let mut facts = TokenFacts::clone(&facts(changes.0.as_u128()));
        facts.account_id = AccountId(Uuid::from_u128(turn.into())).into();
        Shared::new(CachedToken::new(facts))
    };
    let (turn, done) = (AtomicU64::new(0), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let now = turn.load(Ordering::Acquire);
                    near.put(of_turn(now), || turn.load(Ordering::Acquire) == now);
                    near.put(stays.clone(), || true);
                }
            });
        }
        scope.spawn(|| {
            let (mut looked, mut found_it) = (0_u32, 0_u32);
            while !done.load(Ordering::Acquire) {
                let before = near.in_use.load(Ordering::Acquire);
                near.put(stays.clone(), || true);
                let found = found(&near, &stays);
                looked += 1;
                found_it += u32::from(found);
                assert!(found || before != near.in_use.load(Ordering::Acquire), "it was away");
            }
            assert!(found_it > 0, "{looked} looks");
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let now = turn.fetch_add(1, Ordering::AcqRel) + 1;
                near.forget(changes, None);
                let guard = Guard::new();
                if let Some(found) = near.get(changes, &guard) {
                    let of = found.account_id.0.as_u128();
                    assert!(of >= now.into(), "of turn {of}, forgotten at {now}");
                }
            }
        });
        // Few enough that no bucket of those two is ever full.
        for number in (1..20_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            near.put(numbered(number), || true);
        }
        done.store(true, Ordering::Release);
    });
    assert!(turn.load(Ordering::Acquire) > 1);
    assert_eq!(near.in_use.load(Ordering::Relaxed), 16);
    assert_eq!(copies(&near), *near.lock());
}

/// How many places have facts, found by looking at each.
fn copies(near: &NearCache) -> usize {
    let guard = Guard::new();
    let buckets = near.pages.iter().filter_map(OnceLock::get).flat_map(|page| page.iter());
    let slots = buckets.flat_map(|bucket| (0..SLOTS).map(move |slot| (bucket, slot)));
    slots.filter(|(bucket, slot)| bucket.get(*slot, &guard).is_some()).count()
}

#[test]
fn a_full_bucket_makes_room_and_outdated_facts_stay_out() {
    let near = NearCache::new(10);
    let all: Vec<_> = (0..50).map(|n| facts(n << 64 | 0x1234)).collect();
    all.iter().for_each(|facts| near.put(facts.clone(), || true));
    assert!(found(&near, all.last().unwrap()));
    assert_eq!(all.iter().filter(|facts| found(&near, facts)).count(), SLOTS);
    let outdated = facts(0x5678);
    near.put(outdated.clone(), || false);
    assert!(!found(&near, &outdated));
}
