//! Verifying an export, without a server: whether each line follows from the one before, and which is the first that
//! does not.
//!
//! One line is in memory at a time. After the first fault, the rest of the file is read only to say what kind it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, Read as _};

use super::{Begin, ChainHash, ChainPoint, End, EventLine, VERSION};

/// The longest line that is read, in bytes: far more than gRPC lets an event have.
const LONGEST_LINE: u64 = 64 << 20;

/// What an export that is sound says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whose chain it is.
    pub installation_id: String,
    /// The event before the first one of the file.
    pub begin: ChainPoint,
    /// The last event of the file; `begin` where it has none.
    pub last: ChainPoint,
    /// How far the chain went when it was exported; `None` where that line is missing, which is then allowed.
    pub head: Option<ChainPoint>,
    /// How many events it has.
    pub events: u64,
    /// The newest event of the file that records that what was before it was pruned, up to where the file begins.
    pub pruned_by: Option<i64>,
    /// The hashes at the revisions that were asked for, as far as the file has them.
    found: BTreeMap<i64, ChainHash>,
}

/// Why an export can't be the whole truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1 up.
    pub line: u64,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// What is wrong with a line, as far as the file shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// It can't be read as the line that belongs there.
    Unreadable(String),
    /// The encoding of another version of this program.
    Version(u32),
    /// An installation's chain does not begin with this hash.
    Genesis,
    /// The hash of an event is not that of its content.
    Changed(i64),
    /// An event stands here that does not belong to the chain: the right one of its revision follows in that line.
    Inserted(i64, u64),
    /// Events are missing before this line: the first and the last of them.
    Removed(i64, i64),
    /// The event that belongs here stands in a later line.
    Swapped(i64, u64),
    /// The revision was there before.
    Repeated(i64),
    /// The last line is missing, or names another last event than the file has.
    Truncated,
    /// A line follows the last one.
    AfterEnd,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.kind {
            FaultKind::Unreadable(why) => write!(f, "is changed: it can't be read: {why}"),
            FaultKind::Version(version) => {
                write!(f, "has version {version}; this program reads version {VERSION}")
            }
            FaultKind::Genesis => {
                f.write_str("is changed: the chain of this installation begins with another hash")
            }
            FaultKind::Changed(revision) => write!(
                f,
                "the event of revision {revision} is changed, or another one was removed before it: \
                 its hash is not that of its content"
            ),
            FaultKind::Inserted(revision, line) => {
                write!(f, "is inserted: the event of revision {revision} stands in line {line}")
            }
            FaultKind::Removed(first, last) if first == last => {
                write!(f, "the event of revision {first} is removed before this line")
            }
            FaultKind::Removed(first, last) => {
                write!(f, "the events of revisions {first} to {last} are removed before this line")
            }
            FaultKind::Swapped(revision, line) => write!(
                f,
                "lines are swapped: the event of revision {revision}, which belongs here, stands in \
                 line {line}"
            ),
            FaultKind::Repeated(revision) => {
                write!(f, "is inserted: an event of revision {revision} stands in a line before")
            }
            FaultKind::Truncated => f.write_str(
                "the end of the file is removed: its last line must be the head that the export \
                 ended with",
            ),
            FaultKind::AfterEnd => f.write_str("is inserted after the last line"),
        }
    }
}

/// Why an earlier point of the chain is not confirmed by an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnchorFault {
    /// The chain has another event there.
    #[error("the chain has another hash at revision {0}: what led to it was changed")]
    Different(i64),
    /// The chain is shorter now.
    #[error("the chain ends at revision {1}, before revision {0}: its newest events were removed")]
    Shorter(i64, i64),
    /// The file does not have that part of the chain.
    #[error(
        "the file does not have revision {0}, so that this can't be compared: export it with an \
         earlier --since or without --until"
    )]
    NotCovered(i64),
}

impl Report {
    /// Checks that the chain still has an earlier point. Its revision must have been asked for.
    ///
    /// # Errors
    /// Says why that is not so, or can't be seen.
    pub fn confirms(&self, anchor: &ChainPoint) -> Result<(), AnchorFault> {
        let revision = anchor.revision;
        let head = self.head.unwrap_or(self.last);
        let here = [self.begin, self.last].into_iter().find(|point| point.revision == revision);
        let here = here.map(|point| point.hash).or_else(|| self.found.get(&revision).copied());
        match here {
            Some(hash) if hash == anchor.hash => Ok(()),
            Some(_) => Err(AnchorFault::Different(revision)),
            // Nothing in the file leads to a head after its last event, so that an equal one confirms nothing.
            None if revision == head.revision && head.hash != anchor.hash => {
                Err(AnchorFault::Different(revision))
            }
            None if revision > head.revision => Err(AnchorFault::Shorter(revision, head.revision)),
            None => Err(AnchorFault::NotCovered(revision)),
        }
    }
}

/// Verifies an export. `revisions` are those whose hashes the report is to have. `whole` demands the last line, without
/// which nobody knows whether events are missing at the end.
///
/// # Errors
/// Where `file` can't be read. What is wrong with what was read is the inner error.
pub fn verify(
    file: impl BufRead,
    revisions: &BTreeSet<i64>,
    whole: bool,
) -> io::Result<Result<Report, Fault>> {
    let mut lines = Lines { file, number: 0 };
    let mut report = match lines.next()? {
        None => return Ok(fault(1, FaultKind::Unreadable("the file is empty".to_owned()))),
        Some(line) => match begin(&line) {
            Err(kind) => return Ok(fault(1, kind)),
            Ok(begin) => Report {
                installation_id: begin.installation_id().to_owned(),
                begin: begin.point(),
                last: begin.point(),
                head: None,
                events: 0,
                pruned_by: None,
                found: BTreeMap::new(),
            },
        },
    };
    while let Some(line) = lines.next()? {
        let number = lines.number;
        if report.head.is_some() {
            return Ok(fault(number, FaultKind::AfterEnd));
        }
        let step = if line.starts_with(End::PREFIX) {
            report.end(&line)
        } else {
            report.event(&line, revisions)
        };
        match step {
            Ok(()) => {}
            Err(Step::Fault(kind)) => return Ok(fault(number, kind)),
            Err(Step::Unexpected(event)) => {
                let kind = report.explain(&event, &mut lines)?;
                return Ok(fault(number, kind));
            }
        }
    }
    if whole && report.head.is_none() {
        return Ok(fault(lines.number + 1, FaultKind::Truncated));
    }
    Ok(Ok(report))
}

fn fault(line: u64, kind: FaultKind) -> Result<Report, Fault> {
    Err(Fault { line, kind })
}

fn begin(line: &str) -> Result<Begin, FaultKind> {
    if !line.starts_with(Begin::PREFIX) {
        let why = "the first line must say where the export begins, as `audit export` writes it";
        return Err(FaultKind::Unreadable(why.to_owned()));
    }
    let begin: Begin = serde_json::from_str(line).map_err(unreadable)?;
    if begin.version() != VERSION {
        return Err(FaultKind::Version(begin.version()));
    }
    let point = begin.point();
    if point.revision < 0
        || point.revision == 0 && point != ChainPoint::genesis(begin.installation_id())
    {
        return Err(FaultKind::Genesis);
    }
    Ok(begin)
}

fn unreadable(error: serde_json::Error) -> FaultKind {
    FaultKind::Unreadable(error.to_string())
}

/// Why a line is not the next one.
enum Step {
    Fault(FaultKind),
    /// Another event than the next one.
    Unexpected(Box<EventLine>),
}

/// While it is made: it has what was verified so far.
impl Report {
    fn event(&mut self, line: &str, revisions: &BTreeSet<i64>) -> Result<(), Step> {
        let event: EventLine =
            serde_json::from_str(line).map_err(|error| Step::Fault(unreadable(error)))?;
        if event.revision != self.last.revision.saturating_add(1) || !event.follows(&self.last.hash)
        {
            return Err(Step::Unexpected(Box::new(event)));
        }
        self.last = event.point();
        self.events += 1;
        if revisions.contains(&event.revision) {
            self.found.insert(event.revision, event.hash);
        }
        if event.action == PRUNE && pruned(&event) == Some(self.begin) {
            self.pruned_by = Some(event.revision);
        }
        Ok(())
    }

    fn end(&mut self, line: &str) -> Result<(), Step> {
        let end: End =
            serde_json::from_str(line).map_err(|error| Step::Fault(unreadable(error)))?;
        // Two places of a chain have the same hash exactly if they are one.
        let is_last = end.head.revision == end.last.revision;
        if end.last != self.last
            || end.head.revision < end.last.revision
            || is_last != (end.head.hash == end.last.hash)
        {
            return Err(Step::Fault(FaultKind::Truncated));
        }
        self.head = Some(end.head);
        Ok(())
    }

    /// What `event`, which stands in the wrong place, and the rest of the file show.
    fn explain<R: BufRead>(
        &self,
        event: &EventLine,
        lines: &mut Lines<R>,
    ) -> io::Result<FaultKind> {
        let last = self.last;
        let expected = last.revision.saturating_add(1);
        if event.revision < expected {
            return Ok(FaultKind::Repeated(event.revision));
        }
        while let Some(line) = lines.next()? {
            let Ok(later) = serde_json::from_str::<EventLine>(&line) else { continue };
            if later.revision == expected && later.follows(&last.hash) {
                return Ok(if event.revision == expected {
                    FaultKind::Inserted(expected, lines.number)
                } else {
                    FaultKind::Swapped(expected, lines.number)
                });
            }
        }
        Ok(if event.revision == expected {
            FaultKind::Changed(expected)
        } else {
            FaultKind::Removed(expected, event.revision - 1)
        })
    }
}

/// The action of an event that records what was pruned.
const PRUNE: &str = "audit.prune";

/// Up to where an event says that the record was pruned.
fn pruned(event: &EventLine) -> Option<ChainPoint> {
    let after: serde_json::Value = serde_json::from_str(&event.after_json).ok()?;
    let hash = after.get("hash")?.as_str()?.parse().ok()?;
    Some(ChainPoint { revision: after.get("revision")?.as_i64()?, hash })
}

/// The lines of a file, and the number of the last one that was read.
struct Lines<R> {
    file: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        (&mut self.file).take(LONGEST_LINE).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        // What is no UTF-8 is not what was exported: an empty line can't be read either.
        Ok(Some(String::from_utf8(bytes).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests;
