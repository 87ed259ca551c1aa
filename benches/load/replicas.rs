//! Several replicas over one store: how soon a change binds, what company costs a decision, how a fresh one
//! comes up among loaded ones, and what an outage that outlasts the lease is like.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis::grpc::proto::account_service_client::AccountServiceClient;
use portcullis::grpc::proto::authorization_service_client::AuthorizationServiceClient;
use portcullis::grpc::proto::token_service_client::TokenServiceClient;
use portcullis::grpc::proto::{
    AuthorizeRequest, CreateAccountRequest, CreateTokenRequest, DeleteTokenRequest, TokenKind,
    authorize_request,
};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::drive::{self, Load, Outcome};
use super::questions::Questions;
use super::report::{Report, Target, median};
use super::scenario::{Result, UNARY, load, said, warmed};
use super::side::Side;
use super::{Stand, TOKENS};

const REPLICAS: usize = 3;
/// Changes whose propagation is timed.
const CHANGES: usize = 1_000;
/// How long the long outage lasts; the lease is 10 s.
const OUTAGE: Duration = Duration::from_secs(60);
const LEASE: f64 = 10.0;

type Principal = Box<dyn FnMut(Request<()>) -> std::result::Result<Request<()>, Status> + Send>;
pub type Bound = InterceptedService<Channel, Principal>;

fn bearer(operator: &str) -> Principal {
    let value: tonic::metadata::MetadataValue<_> =
        format!("Bearer {operator}").parse().expect("a credential");
    Box::new(move |mut request| {
        request.metadata_mut().insert("authorization", value.clone());
        Ok(request)
    })
}

async fn connect(side: &Side) -> Channel {
    let endpoint = Endpoint::new(format!("http://{}", side.address)).expect("an address");
    endpoint.connect().await.expect("the server")
}

pub async fn tokens(side: &Side, operator: &str) -> TokenServiceClient<Bound> {
    TokenServiceClient::with_interceptor(connect(side).await, bearer(operator))
}

/// An account with nothing in it.
pub fn account(stand: &Stand, side: &Side) -> String {
    stand.runtime.block_on(async {
        let channel = connect(side).await;
        let mut accounts = AccountServiceClient::with_interceptor(channel, bearer(&stand.operator));
        let create = CreateAccountRequest {
            name: "changes".to_owned(),
            admin_emails: vec!["admin@example.com".to_owned()],
        };
        let created = accounts.create_account(create).await.expect("an account");
        created.into_inner().account.expect("an account").account_id
    })
}

/// A token that may read; its id and its secret.
pub async fn token(tokens: &mut TokenServiceClient<Bound>, account: &str) -> (String, String) {
    let create = CreateTokenRequest {
        account_id: account.to_owned(),
        name: "change".to_owned(),
        kind: TokenKind::ReadOnly.into(),
        ..Default::default()
    };
    let created = tokens.create_token(create).await.expect("a token").into_inner();
    (created.token.expect("a token").token_id, created.secret)
}

struct Scene<'a> {
    stand: &'a Arc<Stand>,
    sides: Vec<Side>,
    questions: Questions,
    account: String,
}

/// Measures it all.
pub fn measure(stand: &Arc<Stand>, report: &mut Report) -> Result<()> {
    let url = stand.cluster.database();
    let start = || stand.server(&url);
    let mut sides = vec![start()];
    let seeded = stand.seed(&sides[0], &url, TOKENS);
    sides.extend((1..REPLICAS).map(|_| start()));
    let mut questions = None;
    for side in &sides {
        questions = Some(warmed(side, &seeded)?);
    }
    let account = account(stand, &sides[0]);
    let questions = questions.ok_or("no replica")?;
    let mut scene = Scene { stand, sides, questions, account };
    let whole = scene.whole()?;
    let part = |part: f64| (whole * part / REPLICAS as f64) as u64;
    scene.propagation(part(0.2), report)?;
    scene.company(part(0.5), report)?;
    scene.cold_start(part(0.2), start, report)?;
    scene.dead(report);
    scene.outage(report)
}

/// Does something while `sides` are loaded, again and again.
fn beside<T>(sides: &[Side], load: &Load, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let stopped = AtomicBool::new(false);
    let again = &|side: &Side| {
        while !stopped.load(Ordering::Relaxed) {
            drive::run(side, load)?;
        }
        Ok::<_, String>(())
    };
    thread::scope(|scope| {
        let loads: Vec<_> = sides.iter().map(|side| scope.spawn(move || again(side))).collect();
        let done = work();
        stopped.store(true, Ordering::Relaxed);
        for ended in loads {
            ended.join().map_err(|_| "a load died")??;
        }
        done
    })
}

impl Scene<'_> {
    fn load(&self, rate: Option<u64>, lasting: Duration) -> Load {
        Load { rate, lasting, ..load(self.stand, self.questions.clone(), UNARY) }
    }

    /// Drives these at once.
    fn together(&self, sides: &[&Side], load: &Load) -> Result<Vec<Outcome>> {
        thread::scope(|scope| {
            let run = |side| scope.spawn(move || drive::run(side, load));
            let running: Vec<_> = sides.iter().map(|side| run(*side)).collect();
            running.into_iter().map(|ended| ended.join().map_err(|_| "a load died")?).collect()
        })
    }

    /// Decisions a second that all of them carry together.
    fn whole(&self) -> Result<f64> {
        let all: Vec<_> = self.sides.iter().collect();
        let outcomes = self.together(&all, &self.load(None, self.stand.options.turn))?;
        let whole: f64 = outcomes.iter().map(|outcome| outcome.rate).sum();
        eprintln!("{REPLICAS} replicas carry {whole:.0}/s together");
        Ok(whole)
    }

    /// Changes that were waited for, and how many of them were bound on every replica within 10 ms of
    /// their commit, as the servers count them.
    fn bound(&self) -> (u64, u64) {
        let sum = |metric| self.sides.iter().map(|side| side.metric::<u64>(metric)).sum();
        (
            sum("change_propagation_seconds_count"),
            sum("change_propagation_seconds_bucket{le=\"0.01\"}"),
        )
    }

    /// How long a deletion takes from when it is asked for until it is answered as bound everywhere, in
    /// milliseconds.
    async fn deletions(&self, count: usize, through: &[&Side]) -> Vec<f64> {
        let mut clients = Vec::new();
        for side in through {
            clients.push(tokens(side, &self.stand.operator).await);
        }
        let mut took = Vec::new();
        for at in 0..count {
            let client = &mut clients[at % through.len()];
            let (token_id, _) = token(client, &self.account).await;
            let began = Instant::now();
            let request = DeleteTokenRequest { token_id, no_wait: false };
            let deleted = client.delete_token(request).await.expect("a deletion").into_inner();
            took.push(began.elapsed().as_secs_f64() * 1e3);
            assert!(
                deleted.propagation.expect("the propagation").complete,
                "an OK before the change has propagated"
            );
        }
        took.sort_by(f64::total_cmp);
        took
    }

    fn propagation(&self, rate: u64, report: &mut Report) -> Result<()> {
        let all: Vec<_> = self.sides.iter().collect();
        let load = self.load(Some(rate), Duration::from_millis(500));
        let before = self.bound();
        let took = beside(&self.sides, &load, || {
            thread::sleep(Duration::from_secs(1));
            Ok(self.stand.runtime.block_on(self.deletions(CHANGES, &all)))
        })?;
        let after = self.bound();
        let (all, soon) = (after.0 - before.0, after.1 - before.1);
        let at = |part: f64| took[((took.len() as f64 * part) as usize).min(took.len() - 1)];
        let what = format!(
            "bound on {REPLICAS} within 10 ms of the commit, at a fifth of their load: part of all"
        );
        let whole = format!("asked to bound: p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99));
        let share = soon as f64 / all as f64;
        report.add(&what, format!("{soon} of {all}"), whole, share, Target::AtLeast(0.99));
        Ok(())
    }

    fn company(&self, rate: u64, report: &mut Report) -> Result<()> {
        let load = self.load(Some(rate), self.stand.options.turn * 3);
        let all: Vec<_> = self.sides.iter().collect();
        let mut ratios = Vec::new();
        let mut last = (Outcome::default(), 0.0);
        for _ in 0..self.stand.options.rounds {
            let alone = drive::run(&self.sides[0], &load)?;
            let loaded = self.together(&all, &load)?;
            let mean = loaded.iter().map(|outcome| outcome.cpu).sum::<f64>() / all.len() as f64;
            ratios.push(mean / alone.cpu);
            last = (alone, mean);
        }
        let what = format!("CPU per decision, {REPLICAS} loaded over one, {rate}/s each");
        let (one, three) = (format!("{:.2} us", last.0.cpu), format!("{:.2} us", last.1));
        report.add(&what, three, one, median(ratios), Target::AtMost(1.1));
        Ok(())
    }

    fn cold_start(&self, rate: u64, start: impl Fn() -> Side, report: &mut Report) -> Result<()> {
        let second = self.load(Some(rate), Duration::from_secs(1));
        beside(&self.sides[..2], &second, || {
            let ordinary = drive::run(&self.sides[2], &second)?;
            let fresh = start();
            let mut windows = Vec::new();
            let mut settled = None;
            for window in 0..40_u32 {
                // Other tokens each time.
                let mut second = second.clone();
                second.questions.seed += u64::from(window + 1) << 32;
                let outcome = drive::run(&fresh, &second)?;
                windows.push(outcome.p99);
                if settled.is_none() && outcome.p99 < 1.5 * ordinary.p99 {
                    settled = Some(window + 1);
                }
            }
            let misses: u64 = fresh.metric("cache_misses_total");
            let what = "cold start among loaded replicas: reads for each of 100,000 tokens";
            let reads =
                format!("{misses} reads, ready in {:.0} ms", fresh.started_in.as_secs_f64() * 1e3);
            report.add(
                what,
                reads,
                String::new(),
                misses as f64 / TOKENS as f64,
                Target::AtMost(1.0),
            );
            let what = "cold start: seconds until p99 is within half of that of the others";
            let first = format!("p99 {:.0} us in the first second", windows[0]);
            let figure = settled.map_or(f64::NAN, f64::from);
            report.add(what, first, said(&ordinary), figure, Target::None);
            Ok(())
        })
    }

    /// The last replica dies: what the next change waits, and the one after that.
    fn dead(&mut self, report: &mut Report) {
        drop(self.sides.pop());
        let all: Vec<_> = self.sides.iter().collect();
        let first = self.stand.runtime.block_on(self.deletions(1, &all))[0] / 1e3;
        let next = self.stand.runtime.block_on(self.deletions(1, &all))[0];
        let what = "deletion after a replica was killed: seconds, of a lease of 10";
        let next = format!("the next one {next:.1} ms");
        report.add(what, format!("{first:.2} s"), next, first, Target::AtMost(LEASE * 1.05));
    }

    fn outage(&self, report: &mut Report) -> Result<()> {
        let side = &self.sides[0];
        let (mut authorize, secret) = self.stand.runtime.block_on(async {
            let mut tokens = tokens(side, &self.stand.operator).await;
            let (_, secret) = token(&mut tokens, &self.account).await;
            let channel = connect(side).await;
            let client =
                AuthorizationServiceClient::with_interceptor(channel, bearer(&self.stand.operator));
            (client, secret)
        });
        let mut decides = || {
            let request = AuthorizeRequest {
                token: secret.clone(),
                client_ip: "192.0.2.1".to_owned(),
                operation: Some(authorize_request::Operation::Scope(
                    "transactions.read".to_owned(),
                )),
                dry_run: true,
                at_least_as_fresh: 0,
            };
            self.stand.runtime.block_on(async { authorize.authorize(request).await.is_ok() })
        };
        while !decides() {
            thread::sleep(Duration::from_millis(10));
        }
        let before: u64 = side.metric("cache_misses_total");
        self.stand.cluster.kill();
        let gone = Instant::now();
        let mut closed = None;
        while gone.elapsed() < OUTAGE {
            match (decides(), closed) {
                (false, None) => closed = Some(gone.elapsed()),
                (true, Some(_)) => return Err("it decided after its lease".to_owned()),
                _ => {}
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.stand.cluster.start();
        let there = Instant::now();
        while !decides() {
            thread::sleep(Duration::from_millis(2));
        }
        let back = there.elapsed().as_secs_f64();
        // Every token once: all are in memory still.
        let again = self.load(None, self.stand.options.turn);
        drive::run(side, &again)?;
        let reads = side.metric::<u64>("cache_misses_total") - before;
        let closed = closed.ok_or("it never closed")?.as_secs_f64();
        let what = "outage of 60 s: seconds until it closed, of a lease of 10";
        report.add(what, format!("{closed:.2} s"), String::new(), closed, Target::AtMost(LEASE));
        let what = "outage of 60 s: seconds from the store's return until it decides";
        report.add(
            what,
            format!("{back:.3} s"),
            format!("{reads} reads"),
            back,
            Target::AtMost(1.0),
        );
        Ok(())
    }
}
