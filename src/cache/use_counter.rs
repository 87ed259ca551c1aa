//! Counts of allowed requests that wait to be collected.
//!
//! A counter is a number in the cached token, next to what a use reads anyway. Adding to it makes other processors
//! fetch its cache line again, which costs more than deciding where many threads use one token: then the counter is
//! *busy*, and each thread adds to a number of its own. The collector decides that.
//!
//! # Invariants
//! - Adding takes no lock, allocates nothing and waits for nothing.
//! - What was added is collected once, also where others add, collect or change the counter meanwhile.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::telemetry::{THREADS, thread_place};

/// Set in the number of a busy counter; behind it the slot, and what was added before everybody knew.
const BUSY: u32 = 1 << 31;
const SLOT_SHIFT: u32 = 16;
const LATE: u32 = (1 << SLOT_SHIFT) - 1;

/// One count.
#[derive(Debug, Default)]
pub(super) struct UseCounter(AtomicU32);

/// What one thread adds to busy counters. Two cache lines apart from the next thread's, since processors fetch lines in
/// pairs.
#[derive(Debug)]
#[repr(align(128))]
struct ThreadCounts([AtomicU64; BusyCounters::SLOTS]);

/// The numbers behind busy counters.
#[derive(Debug)]
pub struct BusyCounters(Box<[ThreadCounts]>);

impl Default for BusyCounters {
    fn default() -> Self {
        let thread = || ThreadCounts([const { AtomicU64::new(0) }; Self::SLOTS]);
        Self((0..THREADS).map(|_| thread()).collect())
    }
}

impl BusyCounters {
    /// How many counters can be busy at once. Further ones are correct, and slower.
    pub const SLOTS: usize = 64;

    fn add(&self, slot: usize) {
        self.0[thread_place()].0[slot].fetch_add(1, Ordering::Relaxed);
    }

    /// What all threads have added since it was taken last.
    pub fn rest(&self, slot: usize) -> u64 {
        let cells = self.0.iter().map(|thread| &thread.0[slot]);
        // Most are zero, and reading takes no cache line away from its thread.
        let used = cells.filter(|cell| cell.load(Ordering::Relaxed) > 0);
        used.map(|cell| cell.swap(0, Ordering::Relaxed)).sum()
    }
}

fn slot_of(word: u32) -> Option<usize> {
    (word & BUSY != 0).then_some(((word & !BUSY) >> SLOT_SHIFT) as usize % BusyCounters::SLOTS)
}

impl UseCounter {
    pub(super) fn add(&self, busy: &BusyCounters) {
        match slot_of(self.0.load(Ordering::Relaxed)) {
            None => drop(self.0.fetch_add(1, Ordering::Relaxed)),
            Some(slot) => busy.add(slot),
        }
    }

    /// What was added since it was collected last. A busy counter stays so.
    pub(super) fn take(&self, busy: &BusyCounters) -> u64 {
        match slot_of(self.0.load(Ordering::Relaxed)) {
            None => self.clear(busy),
            Some(_) => counted(self.0.fetch_and(!LATE, Ordering::Relaxed), busy),
        }
    }

    /// The same; it is not busy afterwards.
    pub(super) fn clear(&self, busy: &BusyCounters) -> u64 {
        // Read first: a counter that nobody uses keeps its cache line.
        if self.0.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        counted(self.0.swap(0, Ordering::Relaxed), busy)
    }

    /// Makes it busy, with a slot that no other counter has. What was added since it was collected last.
    pub(super) fn make_busy(&self, slot: usize, busy: &BusyCounters) -> u64 {
        let word = BUSY | (slot as u32) << SLOT_SHIFT;
        counted(self.0.swap(word, Ordering::Relaxed), busy)
    }

    /// The slot, where it is busy.
    pub(super) fn busy_slot(&self) -> Option<usize> {
        slot_of(self.0.load(Ordering::Relaxed))
    }
}

fn counted(word: u32, busy: &BusyCounters) -> u64 {
    match slot_of(word) {
        None => word.into(),
        Some(slot) => u64::from(word & LATE) + busy.rest(slot),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn every_use_is_collected_once_while_the_counter_changes() {
        let (busy, counter) = (BusyCounters::default(), UseCounter::default());
        let done = AtomicBool::new(false);
        const EACH: u64 = 100_000;
        let collected: u64 = std::thread::scope(|scope| {
            let adding: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..EACH).for_each(|_| counter.add(&busy))))
                .collect();
            let collecting = scope.spawn(|| {
                let mut sum = 0;
                while !done.load(Ordering::Acquire) {
                    sum += counter.take(&busy);
                    sum += counter.make_busy(5, &busy);
                    sum += counter.take(&busy);
                    sum += counter.clear(&busy);
                }
                sum
            });
            adding.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::Release);
            collecting.join().unwrap()
        });
        // A thread that has read the slot just before may add to it after the last clear.
        let rest = counter.clear(&busy) + busy.rest(5);
        assert_eq!(collected + rest, 4 * EACH);
    }

    #[test]
    fn a_busy_counter_stays_busy_until_it_is_cleared() {
        let (busy, counter) = (BusyCounters::default(), UseCounter::default());
        counter.add(&busy);
        assert_eq!((counter.make_busy(63, &busy), counter.busy_slot()), (1, Some(63)));
        counter.add(&busy);
        counter.add(&busy);
        assert_eq!((counter.take(&busy), counter.busy_slot()), (2, Some(63)));
        counter.add(&busy);
        assert_eq!((counter.clear(&busy), counter.busy_slot()), (1, None));
        assert_eq!(counter.take(&busy), 0);
    }
}
