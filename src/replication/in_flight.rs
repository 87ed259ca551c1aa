//! The writes of this process that are in flight: begun, and memory may not follow them yet.
//!
//! # Invariants
//! - A write never waits here. A reader of the revision waits for the writes that had begun by then, and for no later
//!   one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::watch;

#[derive(Debug, Default)]
struct State {
    next: u64,
    numbers: BTreeSet<u64>,
    /// The newest revision of those that have ended.
    newest: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InFlightWrites {
    state: watch::Sender<State>,
    /// Memory follows every change up to this revision.
    followed: Arc<AtomicI64>,
}

impl InFlightWrites {
    /// None in flight, where memory follows every change up to `revision`.
    pub(super) fn following(revision: i64) -> Self {
        let writes = Self::default();
        writes.note_followed(revision);
        writes
    }

    /// To be called before a write is made, and kept until memory follows it.
    pub(super) fn begin(&self) -> InFlightWrite {
        let mut number = 0;
        self.state.send_modify(|state| {
            number = state.next;
            state.next += 1;
            state.numbers.insert(number);
        });
        let (writes, followed) = (self.state.clone(), self.followed.clone());
        InFlightWrite { writes, followed, number, revision: 0 }
    }

    /// The revision up to which memory follows every change that this process made. Where only this
    /// process has the store, those are all.
    pub(super) fn revision(&self) -> i64 {
        self.followed.load(Ordering::Acquire)
    }

    /// Notes that memory follows every change up to `revision`.
    pub(super) fn note_followed(&self, revision: i64) {
        self.followed.fetch_max(revision, Ordering::Release);
    }

    /// Waits until memory follows every write that has begun by now.
    pub(super) async fn await_followed(&self) {
        let mut state = self.state.subscribe();
        let next = state.borrow().next;
        // It ends with an error only where the sender is gone, which is borrowed here.
        let _ =
            state.wait_for(|state| state.numbers.first().is_none_or(|&first| first >= next)).await;
    }
}

/// A write in flight. It ends when this is dropped.
#[derive(Debug)]
pub struct InFlightWrite {
    writes: watch::Sender<State>,
    followed: Arc<AtomicI64>,
    number: u64,
    revision: i64,
}

impl InFlightWrite {
    /// Memory follows the write, which made this revision; 0 where it made none.
    pub fn end(mut self, revision: i64) {
        self.revision = revision;
    }
}

impl Drop for InFlightWrite {
    fn drop(&mut self) {
        self.writes.send_modify(|state| {
            state.numbers.remove(&self.number);
            state.newest = state.newest.max(self.revision);
            // Changes are committed one after another: a change with an earlier revision had begun before.
            if state.numbers.is_empty() {
                self.followed.fetch_max(state.newest, Ordering::Release);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn only_earlier_writes_are_awaited_and_no_write_waits() {
        let writes = InFlightWrites::default();
        assert!(writes.await_followed().now_or_never().is_some());
        let (first, second) = (writes.begin(), writes.begin());
        let mut followed = Box::pin(writes.await_followed());
        assert!(followed.as_mut().now_or_never().is_none());
        // One that never ends, begun while somebody waits.
        let endless = writes.begin();
        drop(second);
        assert!(followed.as_mut().now_or_never().is_none());
        drop(first);
        assert!(followed.now_or_never().is_some());
        assert!(writes.await_followed().now_or_never().is_none());
        drop(endless);
        assert!(writes.await_followed().now_or_never().is_some());
    }

    #[test]
    fn a_revision_is_followed_once_no_earlier_write_is_in_flight() {
        let writes = InFlightWrites::following(4);
        let (first, second) = (writes.begin(), writes.begin());
        second.end(6);
        assert_eq!(writes.revision(), 4, "the write that made 5 may be in flight");
        first.end(5);
        assert_eq!(writes.revision(), 6);
        // One that made nothing.
        writes.begin().end(0);
        assert_eq!(writes.revision(), 6);
    }
}
