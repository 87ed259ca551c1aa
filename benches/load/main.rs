//! Measures the server against a bare tonic service, side by side in one run. Started by
//! `benches/run`, which builds both.
//!
//! Must stay true: sides take turns within each figure, so that a disturbance hits both; every answer
//! is checked; all that is started here ends with it.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a measurement that can't be made ends the run and says why"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

mod changes;
mod check;
mod decision_log;
mod drive;
mod fill;
mod flush;
mod h2load;
mod hpack;
mod import;
mod imported;
mod millions;
#[path = "../../tests/support/postgres.rs"]
#[allow(dead_code)]
mod postgres;
mod proxy;
mod questions;
mod replicas;
mod report;
mod scenario;
mod seed;
mod side;
mod wire;

use side::Side;

/// How many tokens the ordinary load draws from.
const TOKENS: usize = 100_000;
/// The part that takes half an hour and 20 GB: only where it is asked for.
const MILLIONS: &str = "millions";
/// How many the large store has.
const MANY: usize = 1_000_000;

/// What the run was asked for.
struct Options {
    server: PathBuf,
    bare: PathBuf,
    /// Another build of the server, to compare with instead of the bare service.
    against: Option<PathBuf>,
    /// Rounds of each figure, and how long each side has its turn.
    rounds: usize,
    turn: Duration,
    many: usize,
    only: Vec<String>,
}

fn options() -> Options {
    let mut options = Options {
        server: PathBuf::new(),
        bare: PathBuf::new(),
        against: None,
        rounds: 5,
        turn: Duration::from_secs(3),
        many: MANY,
        only: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--server" => options.server = value().into(),
            "--bare" => options.bare = value().into(),
            "--against" => options.against = Some(value().into()),
            "--only" => options.only = value().split(',').map(str::to_owned).collect(),
            "--rounds" => options.rounds = value().parse().expect("a number of rounds"),
            "--quick" => {
                options.rounds = 3;
                options.turn = Duration::from_secs(1);
                options.many = 2 * TOKENS;
            }
            // Cargo says it to every benchmark.
            "--bench" => {}
            _ => panic!("no option {arg}"),
        }
    }
    let given = |path: &Path| path.is_file();
    assert!(given(&options.server) && given(&options.bare), "start this through benches/run");
    options
}

/// Postgres, and how servers are started over it.
struct Stand {
    options: Options,
    cluster: postgres::Cluster,
    home: tempfile::TempDir,
    operator: String,
    runtime: tokio::runtime::Runtime,
}

impl Stand {
    fn new(options: Options) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let cluster = postgres::Cluster::new(false);
        let mut operator = [0; 24];
        getrandom::fill(&mut operator).expect("random bytes");
        let operator = operator.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let home = tempfile::TempDir::with_prefix("portcullis-bench-").expect("a directory");
        let stand = Self { options, cluster, home, operator, runtime };
        let preload = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'";
        stand.execute(&stand.cluster.url(), preload);
        stand.cluster.stop();
        stand.cluster.start();
        stand
    }

    /// Whether a part is to be measured.
    fn wants(&self, part: &str) -> bool {
        let only = &self.options.only;
        (only.is_empty() && part != MILLIONS) || only.iter().any(|only| only == part)
    }

    /// Starts Portcullis over the database at `url`.
    fn server(&self, url: &str) -> Side {
        self.server_of(&self.options.server, url)
    }

    fn server_of(&self, program: &Path, url: &str) -> Side {
        self.server_with(program, url, &[])
    }

    fn server_with(&self, program: &Path, url: &str, flags: &[&str]) -> Side {
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .args(["--cache-capacity", &(2 * MANY).to_string()])
            .args(flags)
            .current_dir(self.home.path())
            .env_clear()
            .env("PORTCULLIS_DATABASE_URL", url)
            .env("PORTCULLIS_OPERATOR_CREDENTIAL", &self.operator);
        Side::start(command, &self.home.path().join("server.log"))
    }

    /// Where the server whose Unix socket is measured has it.
    fn unix_socket(&self) -> String {
        self.home.path().join("grpc.sock").display().to_string()
    }

    fn bare(&self) -> Side {
        let mut command = Command::new(&self.options.bare);
        command.env_clear();
        Side::start(command, &self.home.path().join("bare.log"))
    }

    fn seed(&self, side: &Side, url: &str, count: usize) -> seed::Seeded {
        eprintln!("storing {count} tokens");
        self.runtime.block_on(seed::seed(side, &self.operator, url, count))
    }

    fn execute(&self, url: &str, statement: &'static str) {
        self.runtime.block_on(async {
            use sqlx::Connection as _;
            let mut database = sqlx::PgConnection::connect(url).await.expect("Postgres");
            sqlx::query(statement).execute(&mut database).await.expect("a statement");
        });
    }

    /// What a query with one number gives.
    fn number(&self, url: &str, query: &'static str) -> i64 {
        self.runtime.block_on(async {
            use sqlx::Connection as _;
            let mut database = sqlx::PgConnection::connect(url).await.expect("Postgres");
            sqlx::query_scalar(query).fetch_one(&mut database).await.expect("a number")
        })
    }
}

fn main() {
    let options = options();
    let stand = Arc::new(Stand::new(options));
    let report = scenario::run(&stand);
    println!("\n{}", report.table());
    match report.missed {
        0 => println!("All targets are met."),
        missed => println!("{missed} missed."),
    }
}
