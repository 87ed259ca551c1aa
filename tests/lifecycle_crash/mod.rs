//! `kill -9` at random instants while tokens are created, used, noticed and taken, with a lifecycle of
//! seconds and a mail server that is late, refuses and hangs up. Afterwards, from the database and
//! from the mailbox: each action was announced once and carried out at most once, a whole notice
//! period after the last admin's notice; each notice was mailed, under one Message-ID; no use that
//! was allowed is lost to an action that it cancels, and no token that was created is missing
//! (docs/policy.md, section 5; figures in docs/reliability.md).
//!
//! PORTCULLIS_TEST_KILLS says how many kills, for a longer run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure"
)]

mod evidence;
mod worker;

use std::time::{Duration, Instant};

use crate::support::aiosmtpd::Aiosmtpd;
use crate::support::client::Client;
use crate::support::server::{Server, Setup};
use evidence::{Evidence, MAILS, MailRow};
use portcullis::grpc::proto::{ListTokensRequest, Token, TokenState};
use sqlx::Connection as _;
use tokio::task::JoinSet;
use worker::Worker;

const KILLS: usize = 20;
const WORKERS: usize = 4;
/// How often it is looked whether everything is over.
const LOOK: Duration = Duration::from_millis(200);

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % below
}

fn percent(chance: u64) -> bool {
    random(100) < chance
}

fn kills() -> usize {
    std::env::var("PORTCULLIS_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap())
}

/// Longer than what is left after so many kills should take.
fn patience() -> Duration {
    Duration::from_secs(60 + 2 * kills() as u64)
}

fn setup(setup: Setup, relay: &Aiosmtpd) -> Setup {
    setup
        .flag("--lifecycle-window", "4s")
        .flag("--lifecycle-notice", "1s")
        .flag("--lifecycle-sweep-interval", "100ms")
        .flag("--usage-flush-interval", "100ms")
        .flag("--mail-timeout", "300ms")
        .flag("--mail-retry-initial", "100ms")
        .flag("--mail-retry-max", "1s")
        .flag("--mail-refused-retry", "500ms")
        .flag("--mail-rate", "1000")
        .flag("--mail-from", "portcullis@acme.example")
        .env("PORTCULLIS_SMTP_URL", format!("smtp://127.0.0.1:{}", relay.port()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_takes_twice_or_loses_a_use_on_sqlite() {
    let relay = Aiosmtpd::start("127.0.0.1", "unreliable", None, &[]);
    let server = setup(Setup::sqlite(), &relay).start();
    let file = server.data_dir().join(portcullis::store::sqlite::FILE);
    survives(server, relay, async || {
        let url = format!("sqlite://{}", file.display());
        let mut store = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::query_as(MAILS).fetch_all(&mut store).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_takes_twice_or_loses_a_use_on_postgres() {
    let relay = Aiosmtpd::start("127.0.0.1", "unreliable", None, &[]);
    let url = crate::support::postgres::database();
    let server = setup(Setup::postgres(&url), &relay).start();
    survives(server, relay, async || {
        let mut store = sqlx::PgConnection::connect(&url).await.unwrap();
        sqlx::query_as(MAILS).fetch_all(&mut store).await.unwrap()
    })
    .await;
}

/// `mails` reads them from the store itself.
async fn survives(mut server: Server, relay: Aiosmtpd, mails: impl AsyncFn() -> Vec<MailRow>) {
    let client = Client::operator(&server).await;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker::new(&client).await);
    }
    for _ in 0..kills() {
        let client = Client::operator(&server).await;
        let mut running = JoinSet::new();
        for worker in workers.drain(..) {
            running.spawn(worker.run(client.clone()));
        }
        // Any instant will do.
        tokio::time::sleep(Duration::from_millis(50 + random(900))).await;
        server.kill9();
        workers = running.join_all().await;
        server.restart();
    }

    let client = Client::operator(&server).await;
    let mut tokens = Vec::new();
    for worker in &workers {
        tokens.extend(all_deleted(&client, &worker.account).await);
    }
    let events = client.audit().await;
    // What was carried out last is mailed too.
    let begin = Instant::now();
    while mails().await.iter().any(MailRow::waits) {
        assert!(begin.elapsed() < patience(), "not every mail is sent");
        tokio::time::sleep(LOOK).await;
    }
    assert!(server.terminate().success());
    let evidence = Evidence { events, tokens, mails: mails().await, said: relay.end() };
    println!("{} kills: {}", kills(), evidence.judge(&workers));
}

/// Waits until nothing of the account's is left to be taken: all that it ever had.
async fn all_deleted(client: &Client, account: &str) -> Vec<Token> {
    let begin = Instant::now();
    loop {
        let tokens = list(client, account).await;
        let left: Vec<_> =
            tokens.iter().filter(|token| token.state() == TokenState::Active).collect();
        if left.is_empty() {
            return tokens;
        }
        assert!(begin.elapsed() < patience(), "not taken: {left:#?}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn list(client: &Client, account: &str) -> Vec<Token> {
    let (mut tokens, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTokensRequest {
            account_id: account.to_owned(),
            page_size: 1_000,
            page_token,
            show_deleted: true,
        };
        let page = client.tokens().list_tokens(request).await.unwrap().into_inner();
        tokens.extend(page.tokens);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return tokens;
        }
    }
}
