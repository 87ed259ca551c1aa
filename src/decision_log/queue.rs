//! Records that wait to be written: a buffer for each thread that decides, handed over as a whole.
//!
//! # Invariants
//! - No decision waits: a buffer that another thread holds is passed over. The record is dropped where all are held, or
//!   where the first one that is not is full.
//! - The buffers have a bound together: [`SHARDS`] times [`SHARD_BYTES`].

use std::mem;
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::record::{Facts, Record, Text};
use crate::telemetry::{THREADS, thread_place};

/// One for each thread that counts by itself.
const SHARDS: usize = THREADS;
/// Bytes of one buffer: at 100,000 records a second, those of 30 milliseconds.
const SHARD_BYTES: usize = 1 << 20;

/// A record whose texts stand in the buffer, one behind the other.
#[derive(Debug, Clone, Copy)]
struct Entry {
    facts: Facts,
    /// Bytes of scope, route, method, path and request id.
    lengths: [u16; 5],
    method_cut: bool,
    path_cut: bool,
}

/// Records and their texts, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    texts: String,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.entries.len() * size_of::<Entry>() + self.texts.len()
    }

    fn push(&mut self, record: &Record<'_>) {
        let texts = [
            record.scope,
            record.route.as_str(),
            record.method.text,
            record.path.text,
            record.request_id,
        ];
        // Each has a bound far below that (`record`; a scope's name in the catalogue).
        let lengths = texts.map(|text| u16::try_from(text.len()).unwrap_or_default());
        for (text, &length) in texts.iter().zip(&lengths) {
            self.texts.push_str(&text[..length.into()]);
        }
        self.entries.push(Entry {
            facts: record.facts,
            lengths,
            method_cut: record.method.cut,
            path_cut: record.path.cut,
        });
    }

    /// The records.
    pub(super) fn records(&self) -> impl Iterator<Item = QueuedRecord<'_>> {
        let mut rest = self.texts.as_str();
        self.entries.iter().map(move |entry| {
            let [scope, route, method, path, request_id] = entry.lengths.map(|length| {
                let (text, behind) = rest.split_at(length.into());
                rest = behind;
                text
            });
            QueuedRecord {
                facts: &entry.facts,
                scope,
                route,
                method: Text { text: method, cut: entry.method_cut },
                path: Text { text: path, cut: entry.path_cut },
                request_id,
            }
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.texts.clear();
    }
}

/// A record as it was queued.
#[derive(Debug)]
pub(super) struct QueuedRecord<'b> {
    pub(super) facts: &'b Facts,
    pub(super) scope: &'b str,
    pub(super) route: &'b str,
    pub(super) method: Text<'b>,
    pub(super) path: Text<'b>,
    pub(super) request_id: &'b str,
}

/// What happened to a record that was to be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    Queued,
    /// The same, and the writer should not wait for the end of its interval.
    HalfFull,
    Full,
}

/// One buffer, two cache lines apart from the next one, since processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Batch>);

impl Shard {
    /// The buffer; `None` where another thread holds it.
    fn try_lock(&self) -> Option<MutexGuard<'_, Batch>> {
        match self.0.try_lock() {
            Ok(batch) => Some(batch),
            // A batch is whole between two pushes, and a push allocates at most.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    shards: [Shard; SHARDS],
}

impl Default for Queue {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Shard::default()) }
    }
}

impl Queue {
    /// Appends a record to this thread's buffer, or to another one while the writer takes that.
    pub(super) fn push(&self, record: &Record<'_>) -> Push {
        let place = thread_place();
        for offset in 0..SHARDS {
            let Some(mut batch) = self.shards[(place + offset) % SHARDS].try_lock() else {
                continue;
            };
            let before = batch.bytes();
            if before >= SHARD_BYTES {
                return Push::Full;
            }
            batch.push(record);
            let crossed = before < SHARD_BYTES / 2 && batch.bytes() >= SHARD_BYTES / 2;
            return if crossed { Push::HalfFull } else { Push::Queued };
        }
        Push::Full
    }

    /// Exchanges `empty` for the records of the first buffer that has any, from the place `first` on, and returns the
    /// place of that buffer; `None` where no buffer has any.
    pub(super) fn take(&self, first: usize, empty: &mut Batch) -> Option<usize> {
        debug_assert!(empty.is_empty(), "what it has would be lost");
        for place in first..SHARDS {
            let mut batch = match self.shards[place].0.lock() {
                Ok(batch) => batch,
                Err(poisoned) => poisoned.into_inner(),
            };
            if !batch.is_empty() {
                mem::swap(&mut *batch, empty);
                return Some(place);
            }
        }
        None
    }
}
