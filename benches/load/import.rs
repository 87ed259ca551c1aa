//! Imports: how fast they are beside a plain `COPY` of the same rows, and what decisions lose beside them.
//!
//! Must stay true: what is imported is new each time, since what exists already costs less.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::drive::{self, Load, Outcome};
use super::postgres::Cluster;
use super::replicas::account;
use super::report::{Report, Target, median};
use super::scenario::{Result, UNARY, load, warmed};
use super::side::{Side, cpu_of_children, cpu_of_family};
use super::{Stand, TOKENS};

/// How long an import may take until its first tokens are known.
const PATIENCE: Duration = Duration::from_secs(30);
/// More than any import reads in a second.
const LINES_A_SECOND: usize = 60_000;
/// `COPY` gets this much at once.
const CHUNK: usize = 1 << 20;

/// Decisions and an import at once.
struct Case {
    what: &'static str,
    /// Decisions and imported tokens a second; as many as go without.
    load: Option<u64>,
    import: Option<u32>,
    /// Of what is decided without the import.
    over_none: Target,
}

/// Where all of it shares the processors, and none is left, decisions lose what an import takes: so it is compared with
/// one elsewhere, and bounded.
const CASES: [Case; 3] = [
    Case {
        what: "20,000 decisions/s",
        load: Some(20_000),
        import: None,
        over_none: Target::AtLeast(0.9),
    },
    Case {
        what: "as many decisions as possible",
        load: None,
        import: None,
        over_none: Target::None,
    },
    Case {
        what: "as many decisions as possible, --rate 5000",
        load: None,
        import: Some(5_000),
        over_none: Target::AtLeast(0.9),
    },
];

/// The tables that an import writes, with the condition of its rows: those behind position `$`. The record of changes
/// is left out: replicas prune it meanwhile, and it has a row for a thousand tokens.
const WRITTEN: [(&str, &str); 4] = [
    ("token", "SELECT t.* FROM token t WHERE t.import_revision > $ ORDER BY t.ctid"),
    (
        "token_use",
        "SELECT u.* FROM token_use u JOIN token t USING (token_id) WHERE t.import_revision > $ ORDER BY u.ctid",
    ),
    (
        "token_scope",
        "SELECT s.* FROM token_scope s JOIN token t USING (token_id) WHERE t.import_revision > $ ORDER BY s.ctid",
    ),
    ("audit_event", "SELECT a.* FROM audit_event a WHERE a.position > $ ORDER BY a.ctid"),
];

/// Processor time, in seconds.
#[derive(Clone, Copy, Default)]
struct Processors {
    client: f64,
    server: f64,
    database: f64,
}

/// What an import and the `COPY` of its rows took, in seconds.
struct Turn {
    import: f64,
    processors: Processors,
    copy: f64,
    copy_database: f64,
}

/// Imports of a million tokens in all, each followed by a `COPY` of its rows into another database.
pub fn measure(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    // Both sides write durably, unlike the other parts: an import commits each thousand tokens.
    let cluster = Cluster::with_fsync();
    let (url, copied) = (cluster.database(), cluster.database());
    let side = stand.server(&url);
    // It makes the schema and the catalogue.
    drop(stand.server(&copied));
    let account = account(stand, &side);
    let family = postmaster(stand, &url);
    let rounds = stand.options.rounds;
    let each = (stand.options.many / rounds).next_multiple_of(1_000);
    let mut turns = Vec::new();
    for round in 0..rounds {
        let lines = Lines::write(stand, each);
        let before: i64 = stand.number(&url, "SELECT position FROM head");
        let used = |client| Processors {
            client,
            server: side.cpu().as_secs_f64(),
            database: cpu_of_family(family).as_secs_f64(),
        };
        let (start, began) = (used(cpu_of_children().as_secs_f64()), Instant::now());
        lines.import(stand, &side, &account, None).wait_for_end()?;
        let import = began.elapsed().as_secs_f64();
        let end = used(cpu_of_children().as_secs_f64());
        let rows = stand.runtime.block_on(read_rows(&url, before, round == 0));
        let before_copy = cpu_of_family(family);
        let copy = stand.runtime.block_on(write_rows(&copied, &rows));
        turns.push(Turn {
            import,
            processors: Processors {
                client: end.client - start.client,
                server: end.server - start.server,
                database: end.database - start.database,
            },
            copy,
            copy_database: (cpu_of_family(family) - before_copy).as_secs_f64(),
        });
    }
    let counts = [&url, &copied].map(|url| stand.number(url, "SELECT count(*) FROM token"));
    if counts != [(each * rounds) as i64; 2] {
        return Err(format!("{counts:?} tokens, where {} were meant", each * rounds));
    }
    let of = |figure: fn(&Turn) -> f64| median(turns.iter().map(figure));
    let rate = |seconds: f64| format!("{:.0}/s", each as f64 / seconds);
    let what = format!("an import of {each} tokens over COPY of the same rows");
    let (ours, other) = (rate(of(|turn| turn.import)), rate(of(|turn| turn.copy)));
    report.add(&what, ours, other, of(|turn| turn.copy / turn.import), Target::AtLeast(0.5));
    let what = "processor time for an imported token, over COPY";
    let micros = |seconds: f64| seconds * 1e6 / each as f64;
    let ours = format!(
        "client {:.1}, server {:.1}, database {:.1} us",
        micros(of(|turn| turn.processors.client)),
        micros(of(|turn| turn.processors.server)),
        micros(of(|turn| turn.processors.database)),
    );
    let other = format!("database {:.1} us", micros(of(|turn| turn.copy_database)));
    let ratio = of(|turn| {
        let Processors { client, server, database } = turn.processors;
        (client + server + database) / turn.copy_database
    });
    report.add(what, ours, other, ratio, Target::None);
    let what = format!("seconds to import {} tokens", each * rounds);
    let seconds: f64 = turns.iter().map(|turn| turn.import).sum();
    let million = seconds * 1e6 / (each * rounds) as f64;
    let filter = side.metric::<u64>("import_filter_bytes");
    let (ours, other) = (format!("{seconds:.1} s"), format!("filter {} KiB", filter >> 10));
    report.add(&what, ours, other, million, Target::AtMost(120.0));
    Ok(())
}

/// The process that all sessions of the cluster at `url` belong to.
fn postmaster(stand: &Stand, url: &str) -> u32 {
    // The session ends before its process is looked at, so the answer names one that lives on.
    let checkpointer =
        "SELECT pid::bigint FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let pid = stand.number(url, checkpointer);
    super::side::parent_of(u32::try_from(pid).expect("a process id"))
}

/// The rows of the imports behind position `before`, table by table, as `COPY` writes them. The first time with those
/// that they refer to.
async fn read_rows(url: &str, before: i64, first: bool) -> Vec<(&'static str, Vec<u8>)> {
    let mut database = PgConnection::connect(url).await.expect("the database");
    let account = [("account", "SELECT * FROM account ORDER BY ctid")];
    let mut rows = Vec::new();
    for (table, select) in account.into_iter().filter(|_| first).chain(WRITTEN) {
        let select = select.replace('$', &before.to_string());
        let mut copy = database
            .copy_out_raw(&format!("COPY ({select}) TO STDOUT"))
            .await
            .unwrap_or_else(|error| panic!("{select}: {error}"));
        let mut bytes = Vec::new();
        while let Some(part) = copy.try_next().await.expect("rows") {
            bytes.extend_from_slice(&part);
        }
        rows.push((table, bytes));
    }
    rows
}

/// Copies them into the database at `url`. How many seconds that took, but for the account.
async fn write_rows(url: &str, rows: &[(&str, Vec<u8>)]) -> f64 {
    let mut database = PgConnection::connect(url).await.expect("the database");
    let mut seconds = 0.0;
    for (table, bytes) in rows {
        let began = Instant::now();
        let statement = format!("COPY {table} FROM STDIN");
        let mut copy = database.copy_in_raw(&statement).await.expect("COPY");
        for part in bytes.chunks(CHUNK) {
            copy.send(part).await.expect("rows");
        }
        copy.finish().await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        if *table != "account" {
            seconds += began.elapsed().as_secs_f64();
        }
    }
    seconds
}

/// A file of tokens that nothing has yet; removed when dropped.
struct Lines(PathBuf);

impl Lines {
    /// Of each ten, four are `READ_ONLY`, three `READ_WRITE`, and three `CUSTOM` with two scopes.
    fn write(stand: &Stand, count: usize) -> Self {
        let path = stand.home.path().join("tokens.jsonl");
        let mut file = BufWriter::new(File::create(&path).expect("a file"));
        let now = OffsetDateTime::now_utc();
        let at = |days: i64| {
            let at = now - time::Duration::days(days);
            at.format(&Rfc3339).expect("a time that can be written")
        };
        let created = at(400);
        let mut line = String::new();
        for number in 0..count {
            let mut digest = [0; 32];
            getrandom::fill(&mut digest).expect("random bytes");
            let kind = match number % 10 {
                0..4 => "\"read-only\"",
                4..7 => "\"read-write\"",
                _ => "\"custom\",\"scopes\":[\"transactions.read\",\"accounts.treasury.read\"]",
            };
            let last_use = at((number % 30) as i64);
            line.clear();
            let _ = write!(
                line,
                "{{\"name\":\"import {number}\",\"kind\":{kind},\"whitelist\":[\"10.0.0.0/24\",\"192.0.2.7\"],\
                 \"create_time\":\"{created}\",\"last_use_time\":\"{last_use}\",\"secret_sha256\":\"",
            );
            digest.iter().for_each(|byte| line.push_str(&format!("{byte:02x}")));
            line.push_str("\"}\n");
            file.write_all(line.as_bytes()).expect("a line");
        }
        file.flush().expect("the file");
        Self(path)
    }

    /// Imports them through `side`, at most `rate` a second.
    fn import(&self, stand: &Stand, side: &Side, account: &str, rate: Option<u32>) -> Import {
        let mut command = Command::new(&stand.options.server);
        command
            .args(["token", "import", "--server", &format!("http://{}", side.address)])
            .args(["--account", account])
            .args(rate.map(|rate| format!("--rate={rate}")))
            .arg(&self.0)
            .env_clear()
            .env("PORTCULLIS_CREDENTIAL", &stand.operator)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Import(command.spawn().expect("the command"))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A running `token import`; ended when dropped.
struct Import(Child);

impl Import {
    fn wait_for_end(mut self) -> Result<()> {
        let status = self.0.wait().map_err(|error| error.to_string())?;
        status.success().then_some(()).ok_or_else(|| format!("the import ended with {status}"))
    }

    fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with an account that tokens are imported into.
struct Importer<'a> {
    side: &'a Side,
    account: String,
}

impl<'a> Importer<'a> {
    fn new(stand: &Stand, side: &'a Side) -> Self {
        Self { side, account: account(stand, side) }
    }

    fn imported(&self) -> u64 {
        self.side.metric("imported_tokens")
    }
}

/// Decisions of `side` while an import runs through `importer`, and how many tokens it imported a second.
fn beside(
    stand: &Stand,
    side: &Side,
    load: &Load,
    importer: &Importer<'_>,
    pace: Option<u32>,
) -> Result<(Outcome, f64)> {
    let count = LINES_A_SECOND * (load.lasting.as_secs() as usize + 2);
    let lines = Lines::write(stand, count);
    let start = importer.imported();
    let mut import = lines.import(stand, importer.side, &importer.account, pace);
    let began = Instant::now();
    while importer.imported() == start {
        if began.elapsed() > PATIENCE || !import.is_running() {
            return Err("the import does not begin".to_owned());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let (first, began) = (importer.imported(), Instant::now());
    let outcome = drive::run(side, load)?;
    let rate = (importer.imported() - first) as f64 / began.elapsed().as_secs_f64();
    if !import.is_running() {
        return Err("the import ended before the load".to_owned());
    }
    drop(import);
    // What was under way.
    let mut before = 0;
    while before != importer.imported() {
        before = importer.imported();
        thread::sleep(Duration::from_millis(300));
    }
    Ok((outcome, rate))
}

/// What decisions lose beside an import through the same server: compared with none, and with one through another
/// server into another database, which takes as much of the machine.
pub fn beside_decisions(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    let url = stand.cluster.database();
    let side = stand.server(&url);
    let seeded = stand.seed(&side, &url, TOKENS);
    let questions = warmed(&side, &seeded)?;
    let elsewhere = stand.server(&stand.cluster.database());
    let (own, other) = (Importer::new(stand, &side), Importer::new(stand, &elsewhere));
    for case in CASES {
        let lasting = stand.options.turn * 2;
        let load = Load { rate: case.load, lasting, ..load(stand, questions.clone(), UNARY) };
        let mut turns = Vec::new();
        for _ in 0..stand.options.rounds {
            let quiet = drive::run(&side, &load)?;
            let own = beside(stand, &side, &load, &own, case.import)?;
            let other = beside(stand, &side, &load, &other, case.import)?;
            turns.push([(quiet, 0.0), own, other]);
        }
        let said = |place: usize| {
            let of = |figure: fn(&Outcome) -> f64| {
                median(turns.iter().map(|turn| figure(&turn[place].0)))
            };
            let (rate, p99) = (of(|outcome| outcome.rate), of(|outcome| outcome.p99));
            let imported = median(turns.iter().map(|turn| turn[place].1));
            format!("{rate:.0}/s (p99 {p99:.0} us), {imported:.0} imported/s")
        };
        let over =
            |place: usize| median(turns.iter().map(|turn| turn[1].0.rate / turn[place].0.rate));
        let what = format!("decisions beside an import over none, {}", case.what);
        report.add(&what, said(1), said(0), over(0), case.over_none);
        let what = format!("the same over an import elsewhere, {}", case.what);
        report.add(&what, said(1), said(2), over(2), Target::AtLeast(0.9));
    }
    Ok(())
}
