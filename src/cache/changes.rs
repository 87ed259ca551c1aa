//! Which changes are under way: begun, and memory may not follow them yet.
//!
//! Must stay true: a change never waits here, whatever others wait for; whoever asks until when
//! everything is followed waits for the changes that had begun by then, and for no later one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::watch;

#[derive(Debug, Default)]
struct Open {
    next: u64,
    numbers: BTreeSet<u64>,
    /// The newest revision of those that have ended.
    newest: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Changes {
    open: watch::Sender<Open>,
    /// Memory follows every change up to this revision.
    followed: Arc<AtomicI64>,
}

impl Changes {
    /// To be called before a change is made, and kept until memory follows it.
    pub(super) fn begin(&self) -> UnderWay {
        let mut number = 0;
        self.open.send_modify(|open| {
            number = open.next;
            open.next += 1;
            open.numbers.insert(number);
        });
        let (changes, followed) = (self.open.clone(), self.followed.clone());
        UnderWay { changes, followed, number, revision: 0 }
    }

    /// The revision up to which memory follows every change that this process made. Where only this
    /// process has the store, those are all.
    pub(super) fn revision(&self) -> i64 {
        self.followed.load(Ordering::Acquire)
    }

    /// Takes note that memory follows every change up to `revision`.
    pub(super) fn note_followed(&self, revision: i64) {
        self.followed.fetch_max(revision, Ordering::Release);
    }

    /// Waits until every change that has begun by now is followed.
    pub(super) async fn followed(&self) {
        let mut open = self.open.subscribe();
        let next = open.borrow().next;
        // It ends with an error only where the sender is gone, which is borrowed here.
        let _ = open.wait_for(|open| open.numbers.first().is_none_or(|&first| first >= next)).await;
    }
}

/// A change under way.
#[derive(Debug)]
pub struct UnderWay {
    changes: watch::Sender<Open>,
    followed: Arc<AtomicI64>,
    number: u64,
    revision: i64,
}

impl UnderWay {
    /// Memory follows the change, which made this revision; 0 where it made none.
    pub(super) fn end(mut self, revision: i64) {
        self.revision = revision;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.changes.send_modify(|open| {
            open.numbers.remove(&self.number);
            open.newest = open.newest.max(self.revision);
            // Changes are committed one after another: whatever has an earlier revision had begun before.
            if open.numbers.is_empty() {
                self.followed.fetch_max(open.newest, Ordering::Release);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn only_earlier_changes_are_waited_for_and_no_change_waits() {
        let changes = Changes::default();
        assert!(changes.followed().now_or_never().is_some());
        let (first, second) = (changes.begin(), changes.begin());
        let mut followed = Box::pin(changes.followed());
        assert!(followed.as_mut().now_or_never().is_none());
        // One that never ends, begun while somebody waits.
        let endless = changes.begin();
        drop(second);
        assert!(followed.as_mut().now_or_never().is_none());
        drop(first);
        assert!(followed.now_or_never().is_some());
        assert!(changes.followed().now_or_never().is_none());
        drop(endless);
        assert!(changes.followed().now_or_never().is_some());
    }

    #[test]
    fn a_revision_is_followed_once_nothing_earlier_is_under_way() {
        let changes = Changes::default();
        changes.note_followed(4);
        let (first, second) = (changes.begin(), changes.begin());
        second.end(6);
        assert_eq!(changes.revision(), 4, "the change that made 5 may be under way");
        first.end(5);
        assert_eq!(changes.revision(), 6);
        // One that made nothing.
        changes.begin().end(0);
        assert_eq!(changes.revision(), 6);
    }
}
