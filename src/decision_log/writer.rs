//! The thread that takes records from the queue and writes their lines.
//!
//! # Invariants
//! - A record that left the queue is written once, or counted as dropped (rule 13.8 of docs/policy.md).
//! - What can't be written waits, and with it the queue: memory does not grow.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::Control;
use super::file::Output;
use super::line::Lines;
use super::queue::{Batch, Queue};
use super::share::Shares;
use crate::clock::{Clock, Stopwatch};
use crate::telemetry::{DropCause, Metrics};

/// How long records wait in the queue at most, where the output takes them.
const PERIOD: Duration = Duration::from_millis(100);
/// Between two attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// How often the file's place is checked.
const CHECK: Duration = Duration::from_secs(1);
/// How often dropped records are reported.
const REPORT: Duration = Duration::from_secs(10);
/// Bytes of one write, about.
const SLICE: usize = 64 << 10;
/// The most lines about dropped records at once: accounts beyond them are reported next time.
const DROPPED_LINES: usize = 64;

/// Lines that are not written yet.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// How many of the bytes are written.
    written: usize,
    /// How many of the lines are decisions, of which none is written yet.
    decisions: u64,
}

impl Pending {
    fn is_at_line_start(&self) -> bool {
        self.written == 0 || self.bytes[self.written - 1] == b'\n'
    }

    /// Whole lines to write next, about [`SLICE`] bytes, or the rest of a line.
    fn slice(&self) -> &[u8] {
        let rest = &self.bytes[self.written..];
        let least =
            if self.is_at_line_start() { SLICE.min(rest.len()).saturating_sub(1) } else { 0 };
        // Every line has an end.
        let end = rest[least..].iter().position(|&byte| byte == b'\n');
        &rest[..end.map_or(rest.len(), |end| least + end + 1)]
    }

    fn advance(&mut self, written: usize) -> u64 {
        let new = &self.bytes[self.written..][..written];
        let lines = new.iter().filter(|&&byte| byte == b'\n').count();
        self.written += written;
        // Lines about what was dropped are never beside others.
        self.decisions = self.decisions.saturating_sub(lines as u64);
        lines as u64
    }

    /// Goes back to the beginning of a line of which only a part is written: the next file gets the whole line.
    fn rewind(&mut self) {
        let start = self.bytes[..self.written].iter().rposition(|&byte| byte == b'\n');
        self.written = start.map_or(0, |end| end + 1);
    }

    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.written, self.decisions) = (0, 0);
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    output: Output,
    queue: Arc<Queue>,
    shares: Arc<Shares>,
    control: Arc<Control>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    lines: Lines,
    pending: Pending,
    checked: Stopwatch,
    reported: Stopwatch,
}

impl Writer {
    pub(super) fn new(
        output: Output,
        queue: Arc<Queue>,
        shares: Arc<Shares>,
        control: Arc<Control>,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.decision_log_size(output.size());
        Self {
            output,
            queue,
            shares,
            control,
            clock,
            metrics,
            lines: Lines::default(),
            pending: Pending::default(),
            checked: Stopwatch::start(),
            reported: Stopwatch::start(),
        }
    }

    /// Writes until it is stopped, and then what waits.
    pub(super) fn run(mut self) {
        let mut batch = Batch::default();
        loop {
            // Before the queue is emptied for the last time: what was queued before the stop is in it.
            let stops = self.control.stop.load(Ordering::Acquire);
            let written = self.round(&mut batch, stops);
            self.observe(&written);
            if stops {
                if written.is_err() {
                    self.give_up(&mut batch);
                }
                return;
            }
            thread::park_timeout(if written.is_ok() { PERIOD } else { RETRY });
        }
    }

    /// Writes what waits.
    fn round(&mut self, batch: &mut Batch, last: bool) -> io::Result<()> {
        let reopens = self.control.reopen.swap(false, Ordering::AcqRel);
        let checks = self.checked.elapsed() >= CHECK;
        if checks {
            self.checked = Stopwatch::start();
        }
        if reopens || (checks && self.output.is_replaced()) {
            self.pending.rewind();
            self.output.reopen().inspect_err(|_| {
                self.control.reopen.store(true, Ordering::Release);
            })?;
        }
        self.flush()?;
        let mut place = 0;
        while let Some(taken) = self.queue.take(place, batch) {
            self.put(batch);
            place = taken + 1;
            self.flush()?;
        }
        if last || self.reported.elapsed() >= REPORT {
            self.reported = Stopwatch::start();
            self.put_dropped();
            self.flush()?;
        }
        Ok(())
    }

    /// Formats the records of a batch.
    fn put(&mut self, batch: &mut Batch) {
        for record in batch.records() {
            self.lines.put_decision(&record, &mut self.pending.bytes);
            self.pending.decisions += 1;
        }
        batch.clear();
    }

    /// Formats lines about the records that were dropped.
    fn put_dropped(&mut self) {
        let now = self.clock.now();
        let mut dropped = self.shares.take_dropped();
        dropped.sort_unstable_by_key(|dropped| std::cmp::Reverse(dropped.count));
        for (place, dropped) in dropped.iter().enumerate() {
            if place >= DROPPED_LINES {
                self.shares.dropped_many(dropped);
                continue;
            }
            self.lines.put_dropped(dropped, now, &mut self.pending.bytes);
        }
    }

    /// Writes the formatted lines.
    fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            let slice = self.pending.slice();
            if self.pending.is_at_line_start() {
                self.output.prepare(slice.len() as u64, self.clock.now())?;
            }
            let written = self.output.write(slice)?;
            let lines = self.pending.advance(written);
            self.metrics.decision_log_lines.inc_by(lines);
        }
        self.pending.clear();
        self.metrics.decision_log_size(self.output.size());
        Ok(())
    }

    /// Logs where writing begins to fail, and where it works again.
    fn observe(&mut self, written: &io::Result<()>) {
        let failed_before = self.control.failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Ok(()) if failed_before => tracing::info!("the decision log is written again"),
            Ok(()) => {}
            Err(error) => {
                self.metrics.decision_log_failures.inc();
                if !failed_before {
                    tracing::warn!(
                        %error,
                        "cannot write the decision log; what finds no room in memory is dropped"
                    );
                }
            }
        }
    }

    /// Counts the records that will never be written.
    fn give_up(&mut self, batch: &mut Batch) {
        let mut lost = self.pending.decisions;
        let mut place = 0;
        while let Some(taken) = self.queue.take(place, batch) {
            lost += batch.len() as u64;
            batch.clear();
            place = taken + 1;
        }
        self.metrics.decision_log_dropped(DropCause::Disk, lost);
        tracing::error!(
            lost,
            "the last decisions are not in the decision log: it can't be written"
        );
    }
}
