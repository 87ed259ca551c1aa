//! What it costs that decisions are use, while every token is in use: how long the store takes, whether
//! it keeps up, and what decisions lose by it.

use std::sync::Arc;
use std::time::Duration;

use super::drive::{self, Outcome};
use super::questions::Questions;
use super::report::{Report, Target, median};
use super::scenario::{Result, UNARY, load, middle, said, warmed};
use super::side::Side;
use super::{Stand, TOKENS};

/// How often a use of a token in steady use is written.
struct Case {
    what: &'static str,
    flags: &'static [&'static str],
    lasting: Duration,
    rounds: usize,
}

/// What was told to the store since the server's start.
#[derive(Clone, Copy)]
struct Told {
    rows: u64,
    /// That the store took for it.
    seconds: f64,
}

/// One turn of uses, and one of dry runs.
struct Turn {
    used: Outcome,
    dry: Outcome,
    /// Rows written, and the seconds that took, all told.
    rows: f64,
    seconds: f64,
    /// The part of the turn during which the store was being told, and what was left at its end.
    share: f64,
    left: f64,
}

/// The worst that can be set, and the ordinary setting.
pub fn measure(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    let often = Case {
        what: "written each second",
        // A hundredth of the window. So short a one would announce what the turns leave unused.
        flags: &[
            "--lifecycle-mode",
            "observe",
            "--lifecycle-window",
            "100s",
            "--lifecycle-notice",
            "1s",
        ],
        lasting: stand.options.turn * 5,
        rounds: stand.options.rounds,
    };
    let ordinary = Case {
        what: "written each minute",
        flags: &[],
        lasting: Duration::from_secs(60),
        rounds: stand.options.rounds.min(2),
    };
    often.measure(stand, report)?;
    ordinary.measure(stand, report)
}

impl Case {
    fn measure(&self, stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
        let url = stand.cluster.database();
        let side = stand.server_with(&stand.options.server, &url, self.flags);
        let seeded = stand.seed(&side, &url, TOKENS);
        let all = warmed(&side, &seeded)?;
        let turns: Vec<Turn> =
            (0..self.rounds).map(|_| self.turn(stand, &side, &all)).collect::<Result<_>>()?;

        let of = |figure: fn(&Turn) -> f64| median(turns.iter().map(figure));
        let used = said(&middle(turns.iter().map(|turn| turn.used)));
        let dry = said(&middle(turns.iter().map(|turn| turn.dry)));
        let what = self.what;
        let title = format!("Authorize, {what}, over dry run");
        let ratio = of(|turn| turn.used.rate / turn.dry.rate);
        report.add(&title, used, dry, ratio, Target::None);
        let title = format!("{what}: of each second, flushing");
        let lasting = self.lasting.as_secs_f64();
        let rows = format!("{:.0} rows/s", of(|turn| turn.rows) / lasting);
        let each = format!("{:.1} ms for 1,000", of(|turn| turn.seconds / turn.rows * 1e6));
        report.add(&title, rows, each, of(|turn| turn.share), Target::AtMost(1.0));
        let title = format!("{what}: seconds behind at the end");
        let (first, last) = (turns.first(), turns.last());
        let left = |turn: Option<&Turn>| turn.map_or(0.0, |turn| turn.left);
        let ours = format!("{:.0} rows after the last turn", left(last));
        let other = format!("{:.0} after the first", left(first));
        let behind = of(|turn| turn.left / turn.rows) * lasting;
        report.add(&title, ours, other, behind, Target::AtMost(2.0));
        Ok(())
    }

    fn turn(&self, stand: &Arc<Stand>, side: &Side, all: &Questions) -> Result<Turn> {
        let used = load(stand, all.clone(), UNARY);
        let used = drive::Load { lasting: self.lasting, ..used };
        let dry = Questions { dry_run: true, ..all.clone() };
        let dry = drive::Load { questions: dry, ..used.clone() };
        let before = settled(side);
        let used = drive::run(side, &used)?;
        let ended = told(side);
        let after = settled(side);
        Ok(Turn {
            used,
            dry: drive::run(side, &dry)?,
            rows: (after.rows - before.rows) as f64,
            seconds: after.seconds - before.seconds,
            share: (ended.seconds - before.seconds) / self.lasting.as_secs_f64(),
            left: (after.rows - ended.rows) as f64,
        })
    }
}

fn told(side: &Side) -> Told {
    let seconds = "store_seconds_sum{operation=\"record_uses\"}";
    Told { rows: side.metric("uses_recorded_total"), seconds: side.metric(seconds) }
}

/// Once nothing has been written for some flush intervals.
fn settled(side: &Side) -> Told {
    loop {
        let before: u64 = side.metric("uses_recorded_total");
        std::thread::sleep(Duration::from_millis(2_500));
        let now = told(side);
        if now.rows == before {
            return now;
        }
    }
}
