//! What happened, and whether it may have: after a change is bound, no decision that begins later rests
//! on what was before it, anywhere; and no decision is such as nothing explains.
//!
//! Each object has one controller, so its changes follow each other. A decision may show the state that
//! a change led to, if that change had begun before the decision ended, and no later change was bound
//! before the decision began.

use std::collections::HashMap;
use std::time::Instant;

/// What is told of an object: of a token, of a credential, or of a route of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Seen {
    Allowed,
    NotWhitelisted,
    Deleted,
    NoRoute,
    Unauthenticated,
    /// A denial for another reason, by its number.
    Other(i32),
    /// No decision.
    Nothing,
}

pub(crate) type ObjectId = usize;

/// A change of an object by its controller.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) object: ObjectId,
    pub(crate) begin: Instant,
    /// When it was known to be bound; `None` where that never was.
    pub(crate) bound: Option<Instant>,
    pub(crate) leads_to: Seen,
}

/// A decision about an object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) object: ObjectId,
    pub(crate) server: usize,
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    pub(crate) seen: Seen,
}

/// What happened. Changes of one object are in order.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) changes: Vec<Change>,
    pub(crate) asked: Vec<Asked>,
}

impl History {
    /// What may not have happened, in words.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut objects: HashMap<ObjectId, Vec<&Change>> = HashMap::new();
        for change in &self.changes {
            objects.entry(change.object).or_default().push(change);
        }
        let wrong = self.asked.iter().filter(|asked| {
            let changes = objects.get(&asked.object).map_or(&[][..], Vec::as_slice);
            asked.seen != Seen::Nothing && !possible(changes, asked).any(|seen| seen == asked.seen)
        });
        wrong.map(|asked| self.told(asked, &objects[&asked.object])).collect()
    }

    fn told(&self, asked: &Asked, changes: &[&Change]) -> String {
        let since = |at: Instant| match at.checked_duration_since(asked.begin) {
            Some(after) => format!("+{after:?}"),
            None => format!("-{:?}", asked.begin.duration_since(at)),
        };
        let mut text = format!(
            "server {} said {:?} of object {} in {:?}; its changes, from when that was asked:",
            asked.server,
            asked.seen,
            asked.object,
            asked.end.duration_since(asked.begin)
        );
        for change in changes {
            let bound = change.bound.map_or("not known to be bound".to_owned(), since);
            text += &format!("\n  {:?}: {} .. {bound}", change.leads_to, since(change.begin));
        }
        text
    }
}

/// What a decision may show, given the changes of its object.
fn possible<'a>(changes: &'a [&Change], asked: &'a Asked) -> impl Iterator<Item = Seen> + 'a {
    let superseded = changes
        .iter()
        .rposition(|change| change.bound.is_some_and(|bound| bound < asked.begin))
        .unwrap_or(0);
    changes[superseded..]
        .iter()
        .filter(|change| change.begin < asked.end)
        .map(|change| change.leads_to)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Created at 0 and bound at 1; forbidden from 10 to 20; allowed again from 30, never known bound.
    fn history(begin: u64, end: u64, seen: Seen) -> usize {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let change = |begin, bound: Option<u64>, leads_to| Change {
            object: 7,
            begin: at(begin),
            bound: bound.map(at),
            leads_to,
        };
        let changes = vec![
            change(0, Some(1), Seen::Allowed),
            change(10, Some(20), Seen::NotWhitelisted),
            change(30, None, Seen::Allowed),
        ];
        let asked = Asked { object: 7, server: 0, begin: at(begin), end: at(end), seen };
        History { changes, asked: vec![asked] }.violations().len()
    }

    #[test]
    fn what_may_be_seen_when() {
        let cases = [
            // Begin, end, whether it may be allowed, whether it may be denied.
            (2, 9, true, false),
            (2, 11, true, true),
            (19, 21, true, true),
            (21, 29, false, true),
            (21, 31, true, true),
            (99, 100, true, true),
        ];
        for (begin, end, allowed, denied) in cases {
            let found = history(begin, end, Seen::Allowed) == 0;
            assert_eq!(found, allowed, "allowed {begin} {end}");
            let found = history(begin, end, Seen::NotWhitelisted) == 0;
            assert_eq!(found, denied, "denied {begin} {end}");
            assert_eq!(history(begin, end, Seen::Other(2)), 1, "unexplained {begin} {end}");
            assert_eq!(history(begin, end, Seen::Nothing), 0, "{begin} {end}");
        }
    }
}
