//! The near cache compiled with shuttle's primitives, so that shuttle decides which thread runs at each access to a
//! tag, to the number of pages and to the lock. What `sdd` does counts as one step.

use sdd::{Guard, Shared};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::{Config, Runner, thread};

use self::near::NearCache;
use super::entry::{self, CachedToken};
use super::near_tests::numbered;
use crate::policy::id::AccountId;
use crate::policy::token::TokenFacts;

mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicU64, AtomicUsize};
    pub(super) use shuttle::sync::{Mutex, MutexGuard};
}

#[path = "../near.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "compiled once more, over shuttle; it uses a part"
)]
mod near;

const SCHEDULES: usize = 1_000;
const CHANGES: u64 = 3;

/// A token in a store, and what of it is in memory, as `cache::Tokens` has it: its account stands for the
/// state that a change makes.
struct Stage {
    near: NearCache,
    token: Shared<CachedToken>,
    stored: AtomicU64,
    generation: AtomicU64,
}

impl Stage {
    fn new() -> Self {
        Self {
            near: NearCache::new(10_000),
            token: numbered(u64::MAX << 16 | 0x1234),
            stored: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// Reads the token and puts it in, as a miss does. `checked`: unless its generation is another by then.
    fn fill(&self, checked: bool) {
        let generation = self.generation.load(Ordering::Acquire);
        let mut facts = TokenFacts::clone(&self.token);
        facts.account_id = AccountId(uuid::Uuid::from_u128(self.read().into())).into();
        self.near.put(Shared::new(CachedToken::new(facts)), || {
            !checked || self.generation.load(Ordering::Acquire) == generation
        });
    }

    fn read(&self) -> u64 {
        self.stored.load(Ordering::Acquire)
    }

    /// Makes a change and invalidates what is in memory. The state from then on.
    fn change(&self) -> u64 {
        let state = self.stored.fetch_add(1, Ordering::AcqRel) + 1;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.near.forget(*self.token.id, None);
        state
    }

    /// A lookup that begins now finds nothing older than `state`.
    fn look_up(&self, state: u64) {
        let guard = Guard::new();
        if let Some(found) = self.near.get(*self.token.id, &guard) {
            let found = found.account_id.0.as_u128();
            assert!(found >= state.into(), "state {found} is found after {state} was answered");
        }
    }
}

/// Two threads fill, one changes and looks up, one looks up what was answered so far; the table grows under them.
fn fills_beside_changes(checked: bool) {
    let stage = Arc::new(Stage::new());
    let answered = Arc::new(AtomicU64::new(0));
    let fills = (0..2).map(|_| {
        let stage = stage.clone();
        thread::spawn(move || (0..CHANGES).for_each(|_| stage.fill(checked)))
    });
    let mut threads: Vec<_> = fills.collect();
    threads.push({
        let (stage, answered) = (stage.clone(), answered.clone());
        thread::spawn(move || {
            for _ in 0..CHANGES {
                let state = stage.change();
                answered.store(state, Ordering::Release);
                stage.look_up(state);
            }
        })
    });
    threads.push({
        let stage = stage.clone();
        thread::spawn(move || {
            let grown = stage.near.in_use.load(Ordering::Acquire) * 2;
            stage.near.in_use.store(grown, Ordering::Release);
        })
    });
    for _ in 0..CHANGES {
        let state = answered.load(Ordering::Acquire);
        stage.look_up(state);
    }
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    stage.look_up(CHANGES);
}

/// Runs `test` under schedules from `scheduler`. A page of buckets is made on the stack, so that has to be large.
fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 8 << 20;
    Runner::new(scheduler, config).run(test);
}

#[test]
fn no_schedule_finds_what_was_invalidated() {
    run(RandomScheduler::new(SCHEDULES), || fills_beside_changes(true));
    run(PctScheduler::new(3, SCHEDULES), || fills_beside_changes(true));
}

/// The check finds what it is for: entries that are put in although their generation is another one by then.
#[test]
#[should_panic(expected = "was answered")]
fn an_entry_that_is_not_refused_although_outdated_is_found() {
    run(RandomScheduler::new(SCHEDULES), || fills_beside_changes(false));
}
