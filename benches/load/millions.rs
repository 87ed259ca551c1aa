//! What the lifecycle costs in a store of ten million tokens, beside one of a million of which as many
//! are due: a sweeper's round, how it stands, and a preview with decisions beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::cache::Cache;
use portcullis::clock::Clock;
use portcullis::grpc::proto::PreviewLifecycleRequest;
use portcullis::grpc::proto::token_service_client::TokenServiceClient;
use portcullis::lifecycle::{Standing, Sweeper};
use portcullis::policy::lifecycle::Settings;
use portcullis::store::Store;
use portcullis::store::postgres::{PostgresOptions, PostgresStore};
use portcullis::telemetry::Metrics;
use portcullis::usage::Usage;
use tokio::runtime::Handle;

use super::drive;
use super::fill;
use super::questions::{ALLOWED, Questions};
use super::report::{Report, Target, median};
use super::scenario::{READ, Result, UNARY, load, questions, shuffled, warm};
use super::seed::Seeded;
use super::side::Side;
use super::{Stand, TOKENS};

/// Rounds of each figure. A round announces and carries out 200 at most, so these end what is due.
const ROUNDS: u32 = fill::DUE / 200;

/// Median time of a round, in milliseconds, and the rows of all rounds that Postgres read.
struct Cost {
    millis: f64,
    rows: f64,
}

/// Everything of one store.
struct Sized {
    busy: Cost,
    idle: Cost,
    standing: Cost,
    /// Of all tokens: seconds, or what was answered instead; and of one account's.
    preview: std::result::Result<f64, String>,
    of_one: f64,
    /// Decisions beside a preview, over decisions alone.
    beside: f64,
}

/// Measures both.
pub fn measure(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    let small = sized(stand, 1_000_000)?;
    let large = sized(stand, 10_000_000)?;
    let mut compare = |what: &str, of: fn(&Sized) -> &Cost| {
        let (large, small) = (of(&large), of(&small));
        let millis = |cost: &Cost| format!("{:.1} ms", cost.millis);
        let ratio = large.millis / small.millis;
        report.add(what, millis(large), millis(small), ratio, Target::AtMost(1.5));
        let rows = |cost: &Cost| format!("{:.0} rows", cost.rows);
        let (what, ratio) = (format!("{what}, rows read"), large.rows / small.rows);
        report.add(&what, rows(large), rows(small), ratio, Target::AtMost(1.5));
    };
    compare("a round with 400 things due, 10 million tokens over 1 million", |sized| &sized.busy);
    compare("a round with nothing due", |sized| &sized.idle);
    compare("reading how the lifecycle stands", |sized| &sized.standing);
    let said = |sized: &Sized| match &sized.preview {
        Ok(seconds) => format!("{seconds:.1} s"),
        Err(told) => told.clone(),
    };
    report.add("a preview of all", said(&large), said(&small), f64::NAN, Target::None);
    let millis = |sized: &Sized| format!("{:.1} ms", sized.of_one * 1e3);
    let ratio = large.of_one / small.of_one;
    report.add("a preview of one account", millis(&large), millis(&small), ratio, Target::None);
    for (sized, count) in [(&small, "a million"), (&large, "ten million")] {
        let what = format!("Authorize beside a preview of {count}, over alone");
        report.add(&what, String::new(), String::new(), sized.beside, Target::None);
    }
    Ok(())
}

fn sized(stand: &Arc<Stand>, count: u32) -> Result<Sized> {
    let url = stand.cluster.database();
    let seeded = {
        let side = stand.server(&url);
        stand.seed(&side, &url, TOKENS)
    };
    eprintln!("storing {count} tokens");
    stand.runtime.block_on(fill::fill(&url, count));
    let cost = |rounds, what| {
        stand.execute(&url, "SELECT pg_stat_reset()");
        let millis = stand.runtime.block_on(repeat(&url, rounds, what));
        // Sessions have ended, and with that have told what they read.
        std::thread::sleep(Duration::from_millis(500));
        eprintln!("{count} tokens: {millis:.1?} ms");
        Cost { millis: median(millis), rows: stand.number(&url, ROWS_READ) as f64 }
    };
    let busy = cost(ROUNDS, What::Due);
    let idle = cost(ROUNDS, What::NothingDue);
    let standing = cost(ROUNDS, What::Standing);
    let side = stand.server(&url);
    let (preview, of_one, beside) = previews(stand, &side, &seeded)?;
    Ok(Sized { busy, idle, standing, preview, of_one, beside })
}

const ROWS_READ: &str = "\
    SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint \
    FROM pg_stat_user_tables";

#[derive(Clone, Copy, PartialEq)]
enum What {
    Due,
    NothingDue,
    Standing,
}

/// How long each took, in milliseconds.
async fn repeat(url: &str, rounds: u32, what: What) -> Vec<f64> {
    let store = PostgresStore::connect(url, PostgresOptions::default()).await.expect("the store");
    let store: Arc<dyn Store> = Arc::new(store);
    let clock = Arc::new(Clock::starting_at(store.now().await.expect("a time")));
    let metrics = Arc::new(Metrics::new());
    let cache = Cache::load(store.clone(), 100_000, metrics.clone(), Handle::current()).await;
    let cache = Arc::new(cache.expect("the store"));
    let settings = Settings::default();
    let usage = Usage::new(
        store.clone(),
        cache.clone(),
        clock.clone(),
        metrics.clone(),
        settings.window(),
        Handle::current(),
    );
    let standing = Standing::new(store.clone(), clock.clone(), metrics.clone());
    let sweeper = Sweeper {
        store: store.clone(),
        cache,
        usage: Arc::new(usage),
        clock,
        metrics,
        settings,
        retention: Duration::from_secs(90 * 24 * 60 * 60),
        queued: Arc::default(),
    };
    let mut took = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        if what == What::Standing {
            standing.run_once().await.expect("the store");
        } else {
            let swept = sweeper.run_once().await.expect("a round");
            let due = if what == What::Due { fill::DUE / ROUNDS } else { 0 };
            assert_eq!((swept.announced, swept.carried_out), (due, due), "{swept:?}");
        }
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    store.close().await;
    took
}

type Previews = (std::result::Result<f64, String>, f64, f64);

/// Previews of all and of one account, and what decisions lose beside the former.
fn previews(stand: &Arc<Stand>, side: &Side, seeded: &Seeded) -> Result<Previews> {
    let all = questions(seeded, seeded.tokens.clone(), ALLOWED, READ);
    warm(side, &all, 0, TOKENS)?;
    let all = Questions { tokens: shuffled(&all.tokens), ..all };
    let turn = load(stand, all, UNARY);
    let ask = |account: String| {
        let began = Instant::now();
        let told = stand.runtime.block_on(preview(side, &stand.operator, account));
        told.map(|()| began.elapsed().as_secs_f64())
    };
    let mut beside = Vec::new();
    for _ in 0..stand.options.rounds {
        let alone = drive::run(side, &turn)?;
        let busy = std::thread::scope(|scope| {
            scope.spawn(|| ask(String::new()));
            drive::run(side, &turn)
        })?;
        beside.push(busy.rate / alone.rate);
    }
    // Those had decisions beside them.
    let whole = ask(String::new());
    let of_one: Vec<f64> = (1..=stand.options.rounds)
        .map(|n| ask(fill::account(n as u32)))
        .collect::<std::result::Result<_, _>>()?;
    Ok((whole, median(of_one), median(beside)))
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
