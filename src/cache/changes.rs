//! Which changes are under way: begun, and memory may not follow them yet.
//!
//! Must stay true: a change never waits here, whatever others wait for; whoever asks until when
//! everything is followed waits for the changes that had begun by then, and for no later one.

use std::collections::BTreeSet;

use tokio::sync::watch;

#[derive(Debug, Default)]
struct Open {
    next: u64,
    numbers: BTreeSet<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Changes(watch::Sender<Open>);

impl Changes {
    /// To be called before a change is made, and kept until memory follows it.
    pub(super) fn begin(&self) -> UnderWay {
        let mut number = 0;
        self.0.send_modify(|open| {
            number = open.next;
            open.next += 1;
            open.numbers.insert(number);
        });
        UnderWay { changes: self.0.clone(), number }
    }

    /// Waits until every change that has begun by now is followed.
    pub(super) async fn followed(&self) {
        let mut open = self.0.subscribe();
        let next = open.borrow().next;
        // It ends with an error only where the sender is gone, which is borrowed here.
        let _ = open.wait_for(|open| open.numbers.first().is_none_or(|&first| first >= next)).await;
    }
}

/// A change under way.
#[derive(Debug)]
pub struct UnderWay {
    changes: watch::Sender<Open>,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.changes.send_modify(|open| {
            open.numbers.remove(&self.number);
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
}
