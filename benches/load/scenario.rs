//! What is measured, in order.

use std::sync::Arc;
use std::time::Duration;

use super::drive::{self, Load, Outcome};
use super::proxy::Proxy;
use super::questions::{ALLOWED, Expected, NOT_GRANTED, Plan, Questions, Token, UNKNOWN};
use super::report::{Report, Target, median};
use super::seed::{Seeded, forge};
use super::side::{Awake, Side};
use super::{
    MILLIONS, Stand, TOKENS, changes, decision_log, flush, h2load, import, imported, millions,
    replicas,
};

pub const CLIENT_IP: &str = "198.51.100.23";
pub const READ: &str = "transactions.read";
pub const GUARDED: &str = "cards.reveal";
/// The constant answer's.
const BARE_ID: &str = "tok_0000000000000000000000";
/// Of an allow: two numbers, the message, two ids, the scope and the entry, each with its heads.
const ANSWER: usize = 2 + 2 + (2 + 8) + 2 * (2 + 26) + (2 + 17) + (2 + 15);
const CONNECTIONS: usize = 8;
pub const UNARY: Plan = Plan::Unary { under_way: 32 };
pub const BATCH: Plan = Plan::Batch { under_way: 2, size: 100 };
const STREAM: Plan = Plan::Stream { under_way: 256 };
/// Forged tokens a second beside the ordinary load.
pub const FORGED: u64 = 20_000;

pub type Result<T> = std::result::Result<T, String>;

type Apart = fn(&Arc<Stand>, &mut Report) -> Result<()>;

/// Measures everything that was asked for.
pub fn run(stand: &Arc<Stand>) -> Report {
    let mut report = Report::default();
    // Parts with stores of their own.
    let apart: [(&str, Apart); 8] = [
        ("flush", flush::measure),
        ("replicas", replicas::measure),
        ("changes", changes::measure),
        ("import", import::measure),
        ("beside-import", import::beside_decisions),
        ("imported-memory", imported::memory),
        ("decision-log", decision_log::measure),
        (MILLIONS, millions::measure),
    ];
    for (name, part) in apart {
        if stand.wants(name)
            && let Err(why) = part(stand, &mut report)
        {
            report.failed(name, &why);
        }
    }
    side_by_side(stand, &mut report);
    report
}

/// What is measured over one store of 100,000 tokens.
fn side_by_side(stand: &Arc<Stand>, report: &mut Report) {
    let mut parts: Vec<(&str, Part<'_>)> = vec![
        ("unary", Scene::unary),
        ("recording", Scene::recording),
        ("h2load", h2load::authorize),
        ("check", h2load::check),
        ("forward-auth", h2load::forward_auth),
        ("unix", h2load::unix_socket),
        ("latency", Scene::latency),
        ("misses", Scene::misses),
        ("forged", Scene::forged),
        ("imported", imported::decisions),
        ("many", Scene::many),
    ];
    parts.retain(|(name, _)| stand.wants(name));
    if parts.is_empty() {
        return;
    }
    let url = stand.cluster.database();
    stand.execute(&url, "CREATE EXTENSION pg_stat_statements");
    let socket = stand.unix_socket();
    let flags = ["--gateway-listen", "127.0.0.1:0", "--listen", &format!("unix:{socket}")];
    let ours = stand.server_with(&stand.options.server, &url, &flags);
    let seeded = stand.seed(&ours, &url, TOKENS);
    let questions = warmed(&ours, &seeded).expect("every token is allowed");
    let (other, other_questions) = match &stand.options.against {
        None => (stand.bare(), Questions { constant_id: Some(BARE_ID), ..questions.clone() }),
        // Another build has a database of its own.
        Some(program) => {
            let url = stand.cluster.database();
            let side = stand.server_of(program, &url);
            let seeded = stand.seed(&side, &url, TOKENS);
            let questions = warmed(&side, &seeded).expect("every token is allowed");
            (side, questions)
        }
    };
    let scene = Scene { stand, url: &url, ours, bare: other, seeded, questions, other_questions };
    for (name, part) in parts {
        if let Err(why) = part(&scene, report) {
            report.failed(name, &why);
        }
    }
}

pub fn questions(
    seeded: &Seeded,
    tokens: Arc<[Token]>,
    expected: Expected,
    scope: &'static str,
) -> Questions {
    Questions {
        drawn: tokens.len(),
        tokens,
        client_ip: CLIENT_IP,
        scope,
        credential: seeded.credential.clone(),
        expected,
        dry_run: false,
        constant_id: None,
        answer_size: (expected == ALLOWED).then_some(ANSWER),
        right: None,
        seed: 0x9e37_79b9_7f4a_7c15,
        once: None,
    }
}

/// As much as goes, for a turn.
pub fn load(stand: &Stand, questions: Questions, plan: Plan) -> Load {
    Load {
        questions,
        plan,
        connections: CONNECTIONS,
        lasting: stand.options.turn,
        rate: None,
        most: u64::MAX,
    }
}

/// In no order that a server could know: tokens that are asked for together were not stored together,
/// nor read together into its memory.
fn shuffled(tokens: &[Token]) -> Arc<[Token]> {
    let mut tokens = tokens.to_vec();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for place in (1..tokens.len()).rev() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        tokens.swap(place, seed as usize % (place + 1));
    }
    tokens.into()
}

/// Questions about all the tokens of a store, which are in memory by then.
pub fn warmed(side: &Side, seeded: &Seeded) -> Result<Questions> {
    let all = questions(seeded, seeded.tokens.clone(), ALLOWED, READ);
    warm(side, &all, 0, TOKENS)?;
    Ok(Questions { tokens: shuffled(&all.tokens), ..all })
}

/// Asks for `count` tokens from the `first` on, each once.
pub fn warm(side: &Side, questions: &Questions, first: usize, count: usize) -> Result<Outcome> {
    const SIZE: usize = 500;
    let load = Load {
        questions: Questions { once: Some(first), ..questions.clone() },
        plan: Plan::Batch { under_way: 1, size: SIZE },
        connections: 1,
        lasting: Duration::from_secs(600),
        rate: None,
        most: (count / SIZE) as u64,
    };
    drive::run(side, &load)
}

type Part<'a> = fn(&Scene<'a>, &mut Report) -> Result<()>;

pub struct Scene<'a> {
    pub stand: &'a Arc<Stand>,
    url: &'a str,
    pub ours: Side,
    pub bare: Side,
    seeded: Seeded,
    pub questions: Questions,
    /// The same for the other side.
    other_questions: Questions,
}

impl Scene<'_> {
    pub fn load(&self, plan: Plan) -> Load {
        load(self.stand, self.questions.clone(), plan)
    }

    /// The same for the other side.
    fn constant(&self, load: &Load) -> Load {
        Load { questions: self.other_questions.clone(), ..load.clone() }
    }

    /// Single calls beside the ordinary load, paced.
    pub fn flood(&self) -> Load {
        let load = self.load(Plan::Unary { under_way: 512 });
        Load { connections: 4, rate: Some(FORGED), ..load }
    }

    /// As many turns as there are rounds.
    pub fn turns<T>(&self, mut turn: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
        (0..self.stand.options.rounds).map(|_| turn()).collect()
    }

    /// Unary calls on both sides, and the stream and the batch beside them.
    fn unary(&self, report: &mut Report) -> Result<()> {
        let (unary, stream, batch) = (self.load(UNARY), self.load(STREAM), self.load(BATCH));
        let turns = self.turns(|| {
            Ok([
                drive::run(&self.ours, &unary)?,
                drive::run(&self.bare, &self.constant(&unary))?,
                drive::run(&self.ours, &stream)?,
                drive::run(&self.bare, &self.constant(&stream))?,
                drive::run(&self.ours, &batch)?,
                drive::run(&self.bare, &self.constant(&batch))?,
            ])
        })?;
        let [a, b, stream, bare_stream, batch, bare_batch] =
            [0, 1, 2, 3, 4, 5].map(|side| middle(turns.iter().map(|turn| turn[side])));
        let of = |x: usize, y: usize, of: fn(&Outcome) -> f64| {
            median(turns.iter().map(|turn| of(&turn[x]) / of(&turn[y])))
        };
        let rate = |outcome: &Outcome| outcome.rate;
        let cpu = |outcome: &Outcome| outcome.cpu;
        let what = "Authorize, 100,000 tokens at random, over bare";
        report.add(what, said(&a), said(&b), of(0, 1, rate), Target::AtLeast(1.0));
        let (ours, other) = (format!("{:.2} us", a.cpu), format!("{:.2} us", b.cpu));
        let what = "the server's CPU per decision, bare over ours";
        report.add(what, ours, other, of(1, 0, cpu), Target::None);
        let (what, target) = ("StreamAuthorize over Authorize", Target::AtLeast(3.0));
        report.add(what, said(&stream), said(&a), of(2, 0, rate), target);
        let (what, target) = ("BatchAuthorize of 100 over Authorize", Target::AtLeast(10.0));
        report.add(what, said(&batch), said(&a), of(4, 0, rate), target);
        let what = "CPU per decision, Authorize over StreamAuthorize";
        let (ours, other) = (format!("{:.2} us", stream.cpu), format!("{:.2} us", a.cpu));
        report.add(what, ours, other, of(0, 2, cpu), Target::None);
        let what = "CPU per decision, Authorize over BatchAuthorize";
        let (ours, other) = (format!("{:.2} us", batch.cpu), format!("{:.2} us", a.cpu));
        report.add(what, ours, other, of(0, 4, cpu), Target::None);
        let what = "StreamAuthorize over bare";
        report.add(what, said(&stream), said(&bare_stream), of(2, 3, rate), Target::None);
        let what = "BatchAuthorize of 100 over bare";
        report.add(what, said(&batch), said(&bare_batch), of(4, 5, rate), Target::None);
        Ok(())
    }

    /// What it costs that allowed decisions are use: dry runs are none.
    fn recording(&self, report: &mut Report) -> Result<()> {
        let used = self.load(UNARY);
        let dry = Questions { dry_run: true, ..used.questions.clone() };
        let dry = Load { questions: dry, ..used.clone() };
        let turns =
            self.turns(|| Ok([drive::run(&self.ours, &used)?, drive::run(&self.ours, &dry)?]))?;
        let ratio = median(turns.iter().map(|[used, dry]| used.cpu / dry.cpu));
        let cpu =
            |side: usize| format!("{:.2} us", median(turns.iter().map(|turn| turn[side].cpu)));
        let what = "CPU per decision, recorded over dry run";
        report.add(what, cpu(0), cpu(1), ratio, Target::AtMost(1.03));
        Ok(())
    }

    /// One request under way, with the processors kept awake.
    fn latency(&self, report: &mut Report) -> Result<()> {
        let _awake = Awake::new();
        let constant = self.constant(&self.load(UNARY)).questions;
        let turn = self.stand.options.turn;
        let turns = self.turns(|| {
            let ours = drive::one_by_one(&self.ours, self.questions.clone(), turn)?;
            Ok((ours, drive::one_by_one(&self.bare, constant.clone(), turn)?))
        })?;
        let ours = middle(turns.iter().map(|turn| turn.0));
        let bare = middle(turns.iter().map(|turn| turn.1));
        let more = median(turns.iter().map(|(ours, bare)| ours.median - bare.median));
        let said = |o: &Outcome| format!("median {:.1} us, p99 {:.1} us", o.median, o.p99);
        let what = "one under way: microseconds more than bare, median";
        report.add(what, said(&ours), said(&bare), more, Target::AtMost(10.0));
        Ok(())
    }

    /// Round trips to the database for each token that is not in memory.
    fn misses(&self, report: &mut Report) -> Result<()> {
        const MISSES: u64 = 4_000;
        let proxy = self.stand.runtime.block_on(Proxy::start(self.stand.cluster.port()));
        let port = format!(":{}/", self.stand.cluster.port());
        let url = self.stand.cluster.database();
        let through = url.replace(&port, &format!(":{}/", proxy.address.port()));
        let server = self.stand.server(&through);
        let seeded = self.stand.seed(&server, &url, MISSES as usize + 1_000);
        let asked = questions(&seeded, seeded.tokens.clone(), ALLOWED, READ);
        let load = |first: u64, count: u64| Load {
            questions: Questions { once: Some(first as usize), ..asked.clone() },
            plan: Plan::Unary { under_way: 4 },
            connections: 1,
            lasting: Duration::from_secs(60),
            rate: None,
            most: count,
        };
        // Opens the connections and prepares the statement.
        drive::run(&server, &load(0, 1_000))?;
        let (misses, trips) = (server.metric::<u64>("cache_misses_total"), proxy.trips());
        let outcome = drive::run(&server, &load(1_000, MISSES))?;
        let misses = server.metric::<u64>("cache_misses_total") - misses;
        let trips = proxy.trips() - trips;
        if misses != MISSES {
            return Err(format!("{misses} misses, where {MISSES} were meant"));
        }
        let ours = format!("{trips} round trips, median {:.0} us", outcome.median);
        let ratio = trips as f64 / misses as f64;
        let what = "database round trips for each miss";
        // The clock's and the pool's own ones are among them.
        report.add(what, ours, format!("{misses} misses"), ratio, Target::AtMost(1.05));
        Ok(())
    }

    /// Forged tokens beside ordinary load, and known tokens that are denied instead of them.
    fn forged(&self, report: &mut Report) -> Result<()> {
        let turn = self.stand.options.turn;
        let count = FORGED as usize * turn.as_secs() as usize * self.stand.options.rounds;
        let forged = forge(self.seeded.key_number, count);
        let read_only: Arc<[Token]> =
            self.seeded.tokens.iter().skip(1).step_by(2).cloned().collect();
        let forged = questions(&self.seeded, forged, UNKNOWN, READ);
        let denied = questions(&self.seeded, read_only, NOT_GRANTED, GUARDED);
        let beside = |questions: &Questions| -> Result<(Outcome, Outcome)> {
            let other = Load { questions: questions.clone(), ..self.flood() };
            std::thread::scope(|scope| {
                let other = scope.spawn(|| drive::run(&self.ours, &other));
                let ordinary = drive::run(&self.ours, &self.load(UNARY));
                Ok((ordinary?, other.join().map_err(|_| "a thread panicked")??))
            })
        };
        let reads = || self.ours.metric::<u64>("cache_misses_total");
        let statements = || self.stand.number(self.url, FACTS_READ);
        let before = (reads(), statements());
        let turns = self.turns(|| Ok((beside(&forged)?, beside(&denied)?)))?;
        let read = (reads() - before.0, statements() - before.1);
        let ours = middle(turns.iter().map(|turn| turn.0.0));
        let other = middle(turns.iter().map(|turn| turn.1.0));
        let paced = |outcome: Outcome| format!("{:.0}/s", outcome.rate);
        let ratio = median(turns.iter().map(|(forged, denied)| forged.0.rate / denied.0.rate));
        let beside = (
            paced(middle(turns.iter().map(|turn| turn.0.1))),
            paced(middle(turns.iter().map(|turn| turn.1.1))),
        );
        let ours = format!("{} beside {} forged", said(&ours), beside.0);
        let other = format!("{} beside {} denied", said(&other), beside.1);
        report.add("ordinary load beside forged tokens", ours, other, ratio, Target::AtLeast(1.0));
        let (told, counted) = (format!("{} cache misses", read.0), format!("{} reads", read.1));
        let most = read.0.max(read.1.unsigned_abs()) as f64;
        report.add("database reads for forged tokens", told, counted, most, Target::AtMost(0.0));
        Ok(())
    }

    /// A store with many more tokens.
    fn many(&self, report: &mut Report) -> Result<()> {
        let many = self.stand.options.many;
        let url = self.stand.cluster.database();
        let seeded = self.stand.seed(&self.stand.server(&url), &url, many);
        let small = self.stand.cluster.database();
        self.stand.seed(&self.stand.server(&small), &small, TOKENS);

        let start = |url: &str| {
            // Until the database has noticed that the former process is gone.
            std::thread::sleep(Duration::from_millis(500));
            self.stand.server(url).started_in
        };
        let starts = self.turns(|| Ok((start(&url), start(&small))))?;
        std::thread::sleep(Duration::from_millis(500));
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let ratio = median(starts.iter().map(|(many, few)| many.div_duration_f64(*few)));
        let ours = format!("{:.0} ms", median(starts.iter().map(|start| millis(start.0))));
        let other = format!("{:.0} ms", median(starts.iter().map(|start| millis(start.1))));
        let what = &format!("start with {many} tokens stored, over 100,000");
        report.add(what, ours, other, ratio, Target::AtMost(1.2));

        let server = self.stand.server(&url);
        let fresh = server.resident();
        let all = questions(&seeded, seeded.tokens.clone(), ALLOWED, READ);
        warm(&server, &all, 0, TOKENS)?;
        let unary = |drawn: usize| {
            let questions = Questions { drawn, ..all.clone() };
            Load { questions, ..self.load(UNARY) }
        };
        let against = |drawn: usize| -> Result<(f64, Outcome, Outcome)> {
            let turns = self.turns(|| {
                let large = drive::run(&server, &unary(drawn))?;
                Ok((large, drive::run(&self.ours, &self.load(UNARY))?))
            })?;
            let ratio = median(turns.iter().map(|(large, small)| large.rate / small.rate));
            let middle = |side: fn(&(Outcome, Outcome)) -> Outcome| middle(turns.iter().map(side));
            Ok((ratio, middle(|turn| turn.0), middle(|turn| turn.1)))
        };
        let (ratio, large, small) = against(TOKENS)?;
        let what = &format!("Authorize with {many} stored, over 100,000 stored");
        report.add(what, said(&large), said(&small), ratio, Target::AtLeast(0.95));

        let warmed = warm(&server, &all, TOKENS, many - TOKENS)?;
        let grown = server.resident().saturating_sub(fresh);
        let (ratio, large, small) = against(many)?;
        let what = &format!("Authorize with {many} in memory, over 100,000");
        report.add(what, said(&large), said(&small), ratio, Target::None);
        let each = grown as f64 / many as f64;
        let ours = format!("{} MiB for {many}", grown >> 20);
        let other = format!("filled at {:.0}/s", warmed.rate);
        report.add("bytes for each token in memory", ours, other, each, Target::AtMost(1024.0));
        Ok(())
    }
}

/// How often facts of a token were read.
pub const FACTS_READ: &str = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements \
    WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND query LIKE 'SELECT t.token_id, t.account_id, t.kind, t.digest%'";

/// Each figure's median.
pub fn middle(outcomes: impl Iterator<Item = Outcome>) -> Outcome {
    let outcomes: Vec<Outcome> = outcomes.collect();
    let of = |figure: fn(&Outcome) -> f64| median(outcomes.iter().map(figure));
    Outcome {
        rate: of(|o| o.rate),
        seconds: of(|o| o.seconds),
        median: of(|o| o.median),
        p99: of(|o| o.p99),
        cpu: of(|o| o.cpu),
    }
}

pub fn said(outcome: &Outcome) -> String {
    format!("{:.0}/s (p50 {:.0}, p99 {:.0} us)", outcome.rate, outcome.median, outcome.p99)
}
