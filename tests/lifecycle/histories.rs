//! Thousands of random histories beside the model, on each store.
//!
//! A failure prints its seed and the whole story. Put the seed into [`REGRESSIONS`], and it is run
//! first from then on. PORTCULLIS_TEST_HISTORIES says how many to run, for a longer or shorter run
//! (`tests/long/run`).
//!
//! Faults that were planted to see whether they are found, each within the first 300 histories, by the
//! model and, where it says so, by the witness alone:
//!
//! - a notice that counts from its queueing (the witness: an admin was not notified in time);
//! - a use that cancels nothing (the witness: a scope was taken that was used);
//! - a downgrade announced where a deletion is due too (the model: a mail that nobody queued);
//! - an admin who joins and is ignored (the witness: an admin was not notified in time);
//! - an action that stays open after it was carried out (the witness: it ends twice);
//! - a downgrade that takes every scope of a `CUSTOM` token (the witness: a scope was taken that was
//!   used).
//!
//! Those of [`Planted`] are planted by a test, each time.

use std::sync::Mutex;
use std::thread::available_parallelism;

use crate::lifecycle::batch;
use crate::lifecycle::history::Planted;
use crate::lifecycle::record::Totals;
use crate::lifecycle::world::Place;

/// Seeds that failed once.
const REGRESSIONS: [u64; 0] = [];
/// Histories in one world. Part of what a seed means.
const TOGETHER: usize = 100;

fn run_all(place: fn() -> Place, histories: usize, steps: usize) {
    let more = std::env::var("PORTCULLIS_TEST_HISTORIES");
    let histories = more.map_or(histories, |more| more.parse().unwrap());
    let fresh = (0..histories.div_ceil(TOGETHER) as u64).map(|number| 0x5eed_0000 + number);
    let seeds = Mutex::new(REGRESSIONS.into_iter().chain(fresh));
    let totals = Mutex::new(Totals::default());
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        loop {
            let Some(seed) = seeds.lock().unwrap().next() else { return };
            let run = batch::run(place(), seed, TOGETHER, steps, None);
            totals.lock().unwrap().add(runtime.block_on(run));
        }
    };
    std::thread::scope(|threads| {
        // Two for each processor, since each waits for its store half of the time.
        for _ in 0..2 * available_parallelism().unwrap().get() {
            threads.spawn(run);
        }
    });
    let totals = totals.into_inner().unwrap();
    println!("{histories} histories: {totals:?}");
    let enough = |count: usize, share: usize| count >= histories / share;
    assert!(enough(totals.deletions, 2), "histories in which nothing happens prove nothing");
    assert!(enough(totals.replaced, 3) && enough(totals.expired, 10));
    assert!(enough(totals.imported, 2) && enough(totals.suspended, 10));
    assert!(enough(totals.closed, 100));
    assert!(enough(totals.downgrades, 10) && enough(totals.cancelled + totals.shrunk, 10));
}

/// Each is found within a thousand histories.
#[test]
fn planted_errors_are_found() {
    for planted in Planted::ALL {
        let found = (0..10).any(|number| {
            let run = move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let seed = 0x5eed_0000 + number;
                runtime.block_on(batch::run(Place::sqlite(), seed, TOGETHER, 7, Some(planted)));
            };
            // A thread of its own: what the error leaves behind ends with it.
            std::thread::spawn(run).join().is_err()
        });
        assert!(found, "{planted:?}");
    }
}

#[test]
fn random_histories_on_sqlite() {
    run_all(Place::sqlite, 1_200, 7);
}

#[test]
fn random_histories_on_postgres() {
    run_all(Place::postgres, 150, 20);
}
