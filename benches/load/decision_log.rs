//! What the decision log costs, and that it has every decision.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::drive::{self, Load};
use super::questions::{ALLOWED, NOT_GRANTED, Questions, Token};
use super::report::{Report, Target, median};
use super::scenario::{GUARDED, READ, Result, UNARY, load, questions, warmed};
use super::seed::Seeded;
use super::side::Side;
use super::{Stand, TOKENS};

/// Of this many decisions, one is a denial.
const DENIED: f64 = 100.0;
/// Decisions of which the log must have each exactly once, and how many of them a second.
const COUNTED: usize = 1_000_000;
const RATE: u64 = 20_000;

/// A server with a decision log, or without.
struct Logged {
    side: Side,
    allowed: Questions,
    denied: Questions,
}

impl Logged {
    fn start(stand: &Stand, url: &str, seeded: &Seeded, flags: &[&str]) -> Result<Self> {
        let side = stand.server_with(&stand.options.server, url, flags);
        let allowed = warmed(&side, seeded)?;
        let read_only: Arc<[Token]> = seeded.tokens.iter().skip(1).step_by(2).cloned().collect();
        Ok(Self { side, allowed, denied: questions(seeded, read_only, NOT_GRANTED, GUARDED) })
    }

    /// The server's processor time for a decision, in microseconds, with as many allows as it can answer and `denials`
    /// denials a second beside them.
    fn cpu(&self, stand: &Stand, denials: u64) -> Result<(f64, f64)> {
        let allowed = load(stand, self.allowed.clone(), UNARY);
        let denied = Load {
            questions: self.denied.clone(),
            connections: 1,
            rate: Some(denials),
            ..allowed.clone()
        };
        let before = self.side.cpu();
        let (allowed, denied) = std::thread::scope(|scope| {
            let denied = scope.spawn(|| drive::run(&self.side, &denied));
            let allowed = drive::run(&self.side, &allowed);
            Ok::<_, String>((allowed?, denied.join().map_err(|_| "a thread panicked")??))
        })?;
        let cpu = self.side.cpu() - before;
        let count = |outcome: drive::Outcome| outcome.rate * outcome.seconds;
        let decisions = count(allowed) + count(denied);
        Ok((cpu.as_secs_f64() * 1e6 / decisions, count(denied) / decisions))
    }
}

/// How many decisions the log of a server has not.
fn dropped(side: &Side) -> u64 {
    let metric = |cause| format!("decision_log_dropped_total{{cause=\"{cause}\"}}");
    ["queue", "share", "disk"].iter().map(|cause| side.metric::<u64>(&metric(cause))).sum()
}

/// The costs of denials alone and of every decision, and a million decisions that are counted.
pub fn measure(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    let url = stand.cluster.database();
    let seeded = stand.seed(&stand.server(&url), &url, TOKENS);
    let log = |name: &str| stand.home.path().join(name).display().to_string();
    let (denials, all) = (log("denials.jsonl"), log("all.jsonl"));
    let without = Logged::start(stand, &url, &seeded, &[])?;
    let flags = ["--decision-log", &denials, "--decision-log-max-size", "8GiB"];
    let denials = Logged::start(stand, &url, &seeded, &flags)?;
    let flags =
        ["--decision-log", &all, "--decision-log-max-size", "8GiB", "--decision-log-allows", "1"];
    let every = Logged::start(stand, &url, &seeded, &flags)?;

    let rate = drive::run(&without.side, &load(stand, without.allowed.clone(), UNARY))?.rate;
    let rate = (rate / DENIED) as u64;
    let mut turns = Vec::new();
    for _ in 0..stand.options.rounds {
        let turn = [&without, &denials, &every].map(|logged| logged.cpu(stand, rate));
        let [without, denials, every] = turn;
        turns.push((without?, denials?, every?));
    }
    let micros = |of: &dyn Fn(&Turn) -> f64| format!("{:.2} us", median(turns.iter().map(of)));
    let without_log = micros(&|turn| turn.0.0);
    let denied = median(turns.iter().map(|turn| turn.1.1)) * 100.0;
    let what = format!("CPU per decision, {denied:.1} % denials logged, over no log");
    let ratio = median(turns.iter().map(|turn| turn.1.0 / turn.0.0));
    report.add(&what, micros(&|turn| turn.1.0), without_log.clone(), ratio, Target::AtMost(1.03));
    let what = "CPU per decision, every decision logged, over no log";
    let ratio = median(turns.iter().map(|turn| turn.2.0 / turn.0.0));
    let dropped = format!("{}, {} dropped", micros(&|turn| turn.2.0), dropped(&every.side));
    report.add(what, dropped, without_log, ratio, Target::AtMost(1.35));

    drop((without, denials, every));
    counted(stand, report, &url, &seeded)
}

/// The processor time and the share of denials, for each of the three servers.
type Turn = ((f64, f64), (f64, f64), (f64, f64));

/// Asks about each token equally often, and counts the lines of each.
fn counted(stand: &Arc<Stand>, report: &mut Report, url: &str, seeded: &Seeded) -> Result<()> {
    let log = stand.home.path().join("counted");
    fs::create_dir(&log).map_err(|error| error.to_string())?;
    let file = log.join("decisions.jsonl").display().to_string();
    let flags =
        ["--decision-log", &file, "--decision-log-max-size", "4GiB", "--decision-log-allows", "1"];
    let side = stand.server_with(&stand.options.server, url, &flags);
    let asked = questions(seeded, seeded.tokens.clone(), ALLOWED, READ);
    let each = Load {
        connections: 1,
        lasting: Duration::from_secs(600),
        rate: Some(RATE),
        most: TOKENS as u64,
        ..load(stand, Questions { once: Some(0), ..asked }, UNARY)
    };
    for _ in 0..COUNTED / TOKENS {
        drive::run(&side, &each)?;
    }
    let dropped = dropped(&side);
    // A record is written within a tenth of a second.
    std::thread::sleep(Duration::from_secs(1));
    drop(side);
    let (lines, tokens) = count(&log).map_err(|error| error.to_string())?;
    let right = tokens.values().filter(|&&count| count == COUNTED / TOKENS).count();
    let ours = format!("{lines} lines, {dropped} dropped, {right} tokens as often as asked about");
    let other = format!("{COUNTED} decisions on {TOKENS} tokens at {RATE}/s");
    let missing = (TOKENS - right) as f64 + (lines as f64 - COUNTED as f64).abs();
    let what = "decisions that the log has not exactly once";
    report.add(what, ours, other, missing, Target::AtMost(0.0));
    Ok(())
}

/// The lines of all files of the log in `directory`, and how many each token has.
fn count(directory: &Path) -> std::io::Result<(usize, HashMap<String, usize>)> {
    let (mut lines, mut tokens) = (0, HashMap::new());
    for file in fs::read_dir(directory)? {
        for line in BufReader::new(File::open(file?.path())?).lines() {
            let line: serde_json::Value = serde_json::from_str(&line?)?;
            lines += 1;
            let token = line["token_id"].as_str().unwrap_or_default().to_owned();
            *tokens.entry(token).or_default() += 1;
        }
    }
    Ok((lines, tokens))
}
