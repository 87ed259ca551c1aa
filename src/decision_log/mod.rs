//! The decision log: one JSON line for each denial, and for a share of the allows (docs/decision-log.md).
//!
//! A decision appends a compact record to a bounded queue (`queue`, `record`). One thread (`writer`) formats records as
//! lines (`line`) and writes them to a file that it rotates, or to standard output (`file`). Denials of one account, and
//! those of unknown tokens, have a share of the log's size (`share`).
//!
//! # Invariants
//! - A decision waits for nothing: where there is no room for its record, the record is dropped and counted.
//! - What is dropped is counted by cause in `/metrics`, and in the log itself by account.
//! - No line has the presented secret, or another one that was made here, nor the query of a path.
//! - The files together never exceed the size that the settings name.

mod file;
mod line;
mod queue;
mod record;
pub mod rotation;
mod share;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::sync::watch;

use self::file::Output;
use self::queue::{Push, Queue};
use self::record::Record;
pub use self::record::{Call, DecidedRequest, Interface};
use self::share::Shares;
use self::writer::Writer;
use crate::clock::Clock;
use crate::policy::decide::{Decision, Verdict};
use crate::policy::id::{AccountId, TokenId};
use crate::telemetry::{DropCause, Metrics, request_id};

/// How long the rest of the queue may take to be written when the process ends.
const FINAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the log is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To standard output.
    Stdout,
    /// To this file, which is rotated.
    File(PathBuf),
}

/// How the log is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where.
    pub target: Target,
    /// The share of the tokens whose allows are logged, from 0 to 1.
    pub allows: f64,
    /// Bytes of all files together; of standard output, what shares are computed from.
    pub max_size: u64,
}

/// Which allows are logged: those of the tokens whose hash is below a bound, so that the requests of a token are all in
/// the log or none is, on every replica. Rule 13.2 of docs/policy.md.
#[derive(Debug, Clone, Copy)]
enum Allows {
    None,
    Below(u64),
    All,
}

impl Allows {
    fn new(share: f64) -> Self {
        match share {
            share if share <= 0.0 => Self::None,
            share if share >= 1.0 => Self::All,
            // Rounded to 53 bits, which is finer than any share that people write.
            share => Self::Below((share * 2f64.powi(64)) as u64),
        }
    }

    fn includes(self, token: TokenId) -> bool {
        match self {
            Self::None => false,
            Self::Below(bound) => token_hash(token) < bound,
            Self::All => true,
        }
    }
}

/// A hash of a token's id that is the same in every process: the last step of splitmix64 over both halves.
fn token_hash(TokenId(id): TokenId) -> u64 {
    let (high, low) = id.as_u64_pair();
    let mixed = low ^ high.rotate_left(32);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What the writer and its callers share.
#[derive(Debug, Default)]
struct Control {
    stop: AtomicBool,
    reopen: AtomicBool,
    /// Whether the last attempt to write failed: then the disk is the cause of records being dropped.
    failing: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Control {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// The log, as decisions and the process see it.
#[derive(Debug)]
pub struct DecisionLog {
    allows: Allows,
    queue: Arc<Queue>,
    shares: Arc<Shares>,
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    /// Holds `true` once the writer has ended in order.
    ended: watch::Receiver<bool>,
}

/// The output of a log, opened before anything is written to it.
#[derive(Debug)]
pub struct OpenedLog {
    output: Output,
    settings: Settings,
}

impl OpenedLog {
    /// Opens the output that `settings` name. A file is created with the permissions 0640.
    ///
    /// # Errors
    /// Names the path and the cure.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let output = Output::open(&settings)?;
        Ok(Self { output, settings })
    }

    /// Starts the thread that writes.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(self, clock: Arc<Clock>, metrics: Arc<Metrics>) -> io::Result<DecisionLog> {
        let Self { output, settings } = self;
        let queue = Arc::new(Queue::default());
        let shares = Arc::new(Shares::new(settings.max_size));
        let control = Arc::new(Control::default());
        let (sender, ended) = watch::channel(false);
        let writer = Writer::new(
            output,
            queue.clone(),
            shares.clone(),
            control.clone(),
            clock,
            metrics.clone(),
        );
        let thread = thread::Builder::new().name("decision-log".to_owned()).spawn(move || {
            writer.run();
            let _ = sender.send(true);
        })?;
        let _ = control.thread.set(thread.thread().clone());
        let allows = Allows::new(settings.allows);
        Ok(DecisionLog { allows, queue, shares, control, metrics, ended })
    }
}

impl DecisionLog {
    /// Whether a decision is to be logged. Rule 13.1 of docs/policy.md.
    #[inline]
    pub fn includes(&self, decision: &Decision<'_>) -> bool {
        match (decision.verdict, decision.token) {
            (Verdict::Deny(_), _) => true,
            (Verdict::Allow(_), Some(token)) => self.allows.includes(*token.id),
            (Verdict::Allow(_), None) => false,
        }
    }

    /// Logs a decision that is [included](Self::includes). Waits for nothing. Rule 13.5 of docs/policy.md.
    #[inline(never)]
    pub fn record(&self, call: &Call, decision: &Decision<'_>, request: &DecidedRequest<'_>) {
        let account = decision.token.map(|token| *token.account_id);
        let is_denial = matches!(decision.verdict, Verdict::Deny(_));
        let id = request_id::current();
        let id = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
        let record = Record::new(call, decision, request, id);
        // An operator chooses which allows are logged; nobody chooses how many denials strangers cause.
        if is_denial && !self.shares.admit(account, record.estimated_line(), request.started) {
            self.count_dropped(DropCause::Share, account);
            return;
        }
        match self.queue.push(&record) {
            Push::Queued => {}
            Push::HalfFull => self.control.wake(),
            Push::Full => {
                let failing = self.control.failing.load(Ordering::Relaxed);
                let cause = if failing { DropCause::Disk } else { DropCause::Queue };
                self.count_dropped(cause, account);
            }
        }
    }

    fn count_dropped(&self, cause: DropCause, account: Option<AccountId>) {
        self.metrics.decision_log_dropped(cause, 1);
        self.shares.dropped(account, cause);
    }

    /// Has the writer reopen its file: for programs that rename it, such as logrotate. Rule 13.9 of docs/policy.md.
    pub fn reopen(&self) {
        self.control.reopen.store(true, Ordering::Release);
        self.control.wake();
    }

    /// Waits until the writer has ended, which it does in [`Self::finish`] only, unless it panics.
    pub async fn ended(&self) {
        // An error says that it has panicked.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Writes what is still queued and ends the writer: to be called when no decision is under way any more.
    pub async fn finish(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.control.wake();
        if tokio::time::timeout(FINAL_TIMEOUT, self.ended()).await.is_err() {
            tracing::error!(
                "the last decisions are not in the decision log: its disk takes too long"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::OwnedFd;

    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::clock::Stopwatch;
    use crate::policy::decide::{Operation, Presented, Request, decide};
    use crate::policy::scope::{Catalog, ScopeId};
    use crate::policy::time::Timestamp;
    use crate::telemetry::Exposition;
    use crate::telemetry::traces::TraceHeaders;

    fn tokens() -> impl Iterator<Item = TokenId> {
        // As ids are made: a time in the upper half, random bits in the lower one.
        (0..100_000u128).map(|n| TokenId(Uuid::from_u128(0x0192_0000_0000_7000 << 64 | n << 3)))
    }

    /// Rule 13.2.
    #[test]
    fn a_share_of_the_tokens_is_chosen_and_a_larger_share_includes_a_smaller_one() {
        let [tenth, half] = [0.1, 0.5].map(Allows::new);
        let chosen: Vec<_> = tokens().filter(|&token| tenth.includes(token)).collect();
        assert!((9_500..10_500).contains(&chosen.len()), "{}", chosen.len());
        assert!(chosen.iter().all(|&token| half.includes(token)));
        assert_eq!(tokens().filter(|&token| Allows::new(0.0).includes(token)).count(), 0);
        assert_eq!(tokens().filter(|&token| Allows::new(1.0).includes(token)).count(), 100_000);
    }

    /// Rule 13.5. A pipe that nobody reads stands for a slow disk.
    #[tokio::test]
    async fn a_slow_output_holds_up_no_decision_and_loses_what_is_counted() {
        const DECISIONS: u64 = 20_000;
        let (mut reader, writer) = io::pipe().unwrap();
        let settings = Settings { target: Target::Stdout, allows: 0.0, max_size: 1 << 30 };
        let output = Output::Stdout(File::from(OwnedFd::from(writer)));
        let metrics = Arc::new(Metrics::new());
        let clock = Arc::new(Clock::simulated(Timestamp(0)));
        let log = OpenedLog { output, settings }.start(clock, metrics.clone()).unwrap();

        let catalog = Catalog::new(1, Vec::new(), |_| ScopeId(1));
        let operation = Operation::Http { method: "GET", path: "/api/v1/transactions?query" };
        let request = Request { client: None, operation };
        let decision = decide(Presented::Malformed, &catalog, &request, Timestamp(0));
        let call = Call::new(Interface::Authorize, None, TraceHeaders::default());
        assert!(log.includes(&decision));
        for revision in 1..=DECISIONS {
            let decided = DecidedRequest {
                request: &request,
                catalog: &catalog,
                presented: b"stranger",
                dry_run: false,
                time: Timestamp(0),
                started: Stopwatch::start(),
                revision: revision.cast_signed(),
            };
            log.record(&call, &decision, &decided);
        }
        let reads = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        log.finish().await;
        let text = reads.join().unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (decisions, dropped): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| line["event"] == "decision");
        let mut revisions: Vec<_> =
            decisions.iter().map(|line| line["revision"].as_u64().unwrap()).collect();
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), decisions.len(), "a line that is there twice");
        let lost: u64 = dropped.iter().map(|line| line["count"].as_u64().unwrap()).sum();
        assert!(lost > 0 && dropped.iter().all(|line| line["cause"] == "queue"), "{dropped:?}");
        assert_eq!(decisions.len() as u64 + lost, DECISIONS);
        let counted = format!("decision_log_dropped_total{{cause=\"queue\"}} {lost}\n");
        assert!(metrics.render(Exposition::Text).contains(&counted), "{counted}");
    }
}
