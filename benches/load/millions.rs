//! What the lifecycle costs in a store of ten million tokens, beside one of a million of which as many
//! are due: a sweeper's round, how it stands, and a preview with decisions beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::cache::Cache;
use portcullis::clock::Clock;
use portcullis::grpc::proto::PreviewLifecycleRequest;
use portcullis::grpc::proto::token_service_client::TokenServiceClient;
use portcullis::lifecycle::{LifecycleStatus, Sweeper};
use portcullis::policy::lifecycle::Settings;
use portcullis::replication::Replicas;
use portcullis::store::Store;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::telemetry::Metrics;
use portcullis::usage::Usage;
use portcullis::writes::Writes;
use tokio::runtime::Handle;

use super::drive;
use super::fill;
use super::report::{Report, Target, median};
use super::scenario::{Result, UNARY, load, warmed};
use super::seed::Seeded;
use super::side::Side;
use super::{Stand, TOKENS};

/// Rounds of each figure. A round announces and carries out 200 at most, so these end what is due.
const ROUNDS: u32 = fill::DUE / 200;

/// What one of them took, and how many rows Postgres read for it.
struct Cost {
    millis: f64,
    rows: f64,
}

/// Of all tokens: seconds, or what was answered instead; of one account's; and decisions a second.
struct Previews {
    whole: std::result::Result<f64, String>,
    of_one: f64,
    alone: f64,
    beside: f64,
}

/// Measures both.
pub fn measure(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    let small = Filled::new(stand, 1_000_000);
    let large = Filled::new(stand, 10_000_000);
    for (name, what) in [
        ("a round with 400 things due, 10 million tokens over 1 million", What::Due),
        ("a round with nothing due", What::NothingDue),
        ("reading how the lifecycle stands", What::LifecycleStatus),
    ] {
        let turns: Vec<_> =
            (0..ROUNDS).map(|_| (large.cost(stand, what), small.cost(stand, what))).collect();
        for (unit, of) in [("ms", (|cost| cost.millis) as fn(&Cost) -> f64), ("rows", |c| c.rows)] {
            let ours = median(turns.iter().map(|(large, _)| of(large)));
            let other = median(turns.iter().map(|(_, small)| of(small)));
            let said = |figure: f64| format!("{figure:.1} {unit}");
            report.add(name, said(ours), said(other), ours / other, Target::AtMost(1.5));
        }
    }
    for (filled, count) in [(&small, "a million"), (&large, "ten million")] {
        let side = stand.server(&filled.url);
        let Previews { whole, of_one, alone, beside } = previews(stand, &side, &filled.seeded)?;
        let whole = whole.map_or_else(|told| told, |seconds| format!("{seconds:.1} s"));
        let of_one = format!("one account's {:.1} ms", of_one * 1e3);
        report.add(&format!("a preview of {count}"), whole, of_one, f64::NAN, Target::None);
        let what = format!("Authorize beside a preview of {count}, over alone");
        let rate = |rate: f64| format!("{rate:.0}/s");
        report.add(&what, rate(beside), rate(alone), beside / alone, Target::None);
    }
    Ok(())
}

/// A store with so many tokens, and those among them that can be asked about.
struct Filled {
    url: String,
    seeded: Seeded,
}

impl Filled {
    fn new(stand: &Arc<Stand>, count: u32) -> Self {
        let url = stand.cluster.database();
        let seeded = {
            let side = stand.server(&url);
            stand.seed(&side, &url, TOKENS)
        };
        eprintln!("storing {count} tokens");
        stand.runtime.block_on(fill::fill(&url, count));
        Self { url, seeded }
    }

    fn cost(&self, stand: &Stand, what: What) -> Cost {
        stand.execute(&self.url, "SELECT pg_stat_reset()");
        let millis = stand.runtime.block_on(once(&self.url, what));
        // Sessions have ended, and with that have told what they read.
        std::thread::sleep(Duration::from_millis(500));
        Cost { millis, rows: stand.number(&self.url, ROWS_READ) as f64 }
    }
}

const ROWS_READ: &str = "\
    SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint \
    FROM pg_stat_user_tables";

#[derive(Clone, Copy, PartialEq)]
enum What {
    Due,
    NothingDue,
    LifecycleStatus,
}

/// How long it took, in milliseconds.
async fn once(url: &str, what: What) -> f64 {
    let store = PostgresStore::connect(url, PostgresOptions::default()).await.expect("the store");
    let store: Arc<dyn Store> = Arc::new(store);
    let clock = Arc::new(Clock::starting_at(store.now().await.expect("a time")));
    let metrics = Arc::new(Metrics::new());
    let cache = Cache::load(store.clone(), 100_000, metrics.clone(), Handle::current()).await;
    let cache = Arc::new(cache.expect("the store"));
    let settings = Settings::default();
    let replicas = Arc::new(Replicas::alone(cache.clone()));
    let writes = Writes::new(store.clone(), cache.clone(), replicas.clone(), metrics.clone());
    let writes = Arc::new(writes);
    let usage = Usage::new(
        store.clone(),
        cache.clone(),
        writes.clone(),
        clock.clone(),
        metrics.clone(),
        settings.window(),
        Handle::current(),
    );
    let standing = LifecycleStatus::new(store.clone(), clock.clone(), metrics.clone());
    let sweeper = Sweeper {
        store: store.clone(),
        replicas,
        cache,
        writes,
        usage: Arc::new(usage),
        clock,
        metrics,
        settings,
        retention: Duration::from_secs(90 * 24 * 60 * 60),
        audit_retention: None,
        outbox_wakeup: Arc::default(),
        sweep_wakeup: Arc::default(),
    };
    let began = Instant::now();
    if what == What::LifecycleStatus {
        standing.run_once().await.expect("the store");
    } else {
        let swept = sweeper.run_once().await.expect("a round");
        let due = if what == What::Due { fill::DUE / ROUNDS } else { 0 };
        assert_eq!((swept.announced, swept.carried_out), (due, due), "{swept:?}");
    }
    let took = began.elapsed();
    store.close().await;
    took.as_secs_f64() * 1e3
}

/// Previews of all and of one account, and what decisions lose beside the former.
fn previews(stand: &Arc<Stand>, side: &Side, seeded: &Seeded) -> Result<Previews> {
    let turn = load(stand, warmed(side, seeded)?, UNARY);
    let ask = |account: String| {
        let began = Instant::now();
        let told = stand.runtime.block_on(preview(side, &stand.operator, account));
        told.map(|()| began.elapsed().as_secs_f64())
    };
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..stand.options.rounds {
        alone.push(drive::run(side, &turn)?.rate);
        let busy = std::thread::scope(|scope| {
            scope.spawn(|| ask(String::new()));
            drive::run(side, &turn)
        })?;
        beside.push(busy.rate);
    }
    // Those had decisions beside them.
    let whole = ask(String::new());
    let of_one: Vec<f64> = (1..=stand.options.rounds)
        .map(|n| ask(fill::account(n as u32)))
        .collect::<std::result::Result<_, _>>()?;
    let [of_one, alone, beside] = [of_one, alone, beside].map(median);
    Ok(Previews { whole, of_one, alone, beside })
}

async fn preview(side: &Side, operator: &str, account_id: String) -> Result<()> {
    let channel = tonic::transport::Endpoint::new(format!("http://{}", side.address));
    let channel = channel.expect("an address").connect().await.expect("the server");
    let bearer: tonic::metadata::MetadataValue<_> =
        format!("Bearer {operator}").parse().expect("a credential");
    let mut calls = TokenServiceClient::with_interceptor(channel, {
        move |mut request: tonic::Request<()>| {
            request.metadata_mut().insert("authorization", bearer.clone());
            Ok(request)
        }
    });
    let previewed = calls.preview_lifecycle(PreviewLifecycleRequest { account_id }).await;
    previewed.map(drop).map_err(|status| format!("{:?}", status.code()))
}
