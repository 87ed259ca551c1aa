//! `kill -9` in the middle of a thousand changes, of the server and of its database: whatever was
//! answered OK is there afterwards, with its record, and nothing is there half.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is the test's failure"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::client::{Client, question};
use crate::support::postgres::Cluster;
use crate::support::server::{Server, Setup};
use portcullis::clock::Stopwatch;
use portcullis::grpc::proto::{
    AuditEvent, Decision, DeleteTokenRequest, GetAccountRequest, GetTokenRequest,
    ListTokensRequest, ManageWhitelistRequest, Reason, SetAccountAdminsRequest, Token, TokenKind,
    TokenState, WhitelistReplacement,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// Who write at once.
const WRITERS: usize = 8;
/// Changes that are answered OK before each of the two kills.
const ANSWERED: usize = 500;
/// What every token may always be used from.
const HOME: &str = "192.0.2.1";

/// What one writer was told, and so what must be there.
#[derive(Default)]
struct Ledger {
    account: String,
    /// How many changes of the admins were answered; the last one is the number in the address.
    admins: usize,
    tokens: Vec<Known>,
    /// The change that got no answer, if any: it is there as a whole, or not at all.
    unknown: Option<Step>,
}

struct Known {
    id: String,
    secret: String,
    whitelist: BTreeSet<String>,
    deleted: bool,
    /// What the record must say, the oldest first.
    actions: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Admins,
    Create,
    Add(String),
    Remove(String),
    Delete,
}

/// What a writer does, over and over: a token's life and a change of admins.
fn step(number: usize) -> Step {
    let entry = |n| format!("198.51.100.{n}");
    match number % 7 {
        0 => Step::Create,
        1 => Step::Add(entry(1)),
        2 => Step::Add(entry(2)),
        3 => Step::Remove(entry(1)),
        4 => Step::Admins,
        5 => Step::Add(entry(3)),
        // One token in two is deleted.
        _ if number % 14 == 6 => Step::Delete,
        _ => Step::Remove(entry(2)),
    }
}

fn admin(number: usize) -> String {
    format!("admin{number}@example.com")
}

impl Ledger {
    /// Makes a change, and notes it once it is answered.
    async fn take(&mut self, client: &Client, step: &Step) -> Result<(), Status> {
        match step {
            Step::Create => {
                let token =
                    client.try_token(&self.account, TokenKind::ReadOnly, &[], &[HOME]).await?;
                self.tokens.push(Known {
                    id: token.0.token_id,
                    secret: token.1,
                    whitelist: BTreeSet::from([HOME.to_owned()]),
                    deleted: false,
                    actions: vec!["token.create"],
                });
            }
            Step::Admins => {
                let request = SetAccountAdminsRequest {
                    account_id: self.account.clone(),
                    admin_emails: vec![admin(self.admins + 1), "second@example.com".to_owned()],
                };
                client.accounts().set_account_admins(request).await?;
                self.admins += 1;
            }
            Step::Add(_) | Step::Remove(_) | Step::Delete => {
                let known = self.tokens.last_mut().expect("a token comes first");
                let mut request =
                    ManageWhitelistRequest { token_id: known.id.clone(), ..Default::default() };
                match step {
                    Step::Delete => {
                        let token_id = known.id.clone();
                        let request = DeleteTokenRequest { token_id, no_wait: false };
                        client.tokens().delete_token(request).await?;
                    }
                    Step::Add(entry) => {
                        request.add = vec![entry.clone()];
                        client.tokens().manage_whitelist(request).await?;
                    }
                    Step::Remove(entry) => {
                        request.remove = vec![entry.clone()];
                        client.tokens().manage_whitelist(request).await?;
                    }
                    Step::Create | Step::Admins => {}
                }
                known.note(step);
            }
        }
        Ok(())
    }
}

impl Known {
    fn note(&mut self, step: &Step) {
        self.actions.push(match step {
            Step::Add(entry) => {
                self.whitelist.insert(entry.clone());
                "whitelist.change"
            }
            Step::Remove(entry) => {
                self.whitelist.remove(entry);
                "whitelist.change"
            }
            Step::Delete => {
                self.deleted = true;
                "token.delete"
            }
            Step::Create | Step::Admins => panic!("no change of a token that is there: {step:?}"),
        });
    }
}

/// Changes, one after another, until one gets no answer.
async fn write(client: Client, account: String, answered: UnboundedSender<()>) -> Ledger {
    let mut ledger = Ledger { account, ..Ledger::default() };
    for number in 0.. {
        let step = step(number);
        if let Err(status) = ledger.take(&client, &step).await {
            // The kill may show as any of these; a refusal may not.
            let lost = [
                Code::Unavailable,
                Code::Unknown,
                Code::Internal,
                Code::Cancelled,
                // Made, and nobody is there to say whether it binds.
                Code::DeadlineExceeded,
            ];
            assert!(lost.contains(&status.code()), "{step:?}: {status:?}");
            ledger.unknown = Some(step);
            break;
        }
        // Nobody counts any more once it is enough.
        let _ = answered.send(());
    }
    ledger
}

/// Lets the writers write until enough changes are answered, then `kill`s what they write to.
async fn write_until_killed(server: &mut Server, kill: impl FnOnce(&mut Server)) -> Vec<Ledger> {
    let mut writers = JoinSet::new();
    let (answered, mut count) = unbounded_channel();
    for _ in 0..WRITERS {
        let client = Client::operator(server).await;
        let account = client.account().await.account_id;
        writers.spawn(write(client, account, answered.clone()));
    }
    drop(answered);
    for done in 0..ANSWERED {
        assert!(count.recv().await.is_some(), "all writers gave up after {done} changes");
    }
    kill(server);
    let ledgers = writers.join_all().await;
    assert!(ledgers.iter().any(|ledger| ledger.unknown.is_some()));
    ledgers
}

/// Compares what is there with what was answered, and takes note of what the unanswered changes did.
async fn verify(server: &Server, ledgers: &mut [Ledger]) {
    let client = Client::operator(server).await;
    let events = client.audit().await;
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event.revision, at as i64 + 1, "a position is missing or twice: {event:?}");
    }
    for ledger in ledgers {
        verify_account(&client, &events, ledger).await;
        let listed = all_tokens(&client, &ledger.account).await;
        settle_creation(&listed, ledger);
        let created = |event: &&AuditEvent| {
            event.account_id == ledger.account && event.action == "token.create"
        };
        assert_eq!(events.iter().filter(created).count(), listed.len(), "tokens and their record");
        for known in &mut ledger.tokens {
            let request = GetTokenRequest { token_id: known.id.clone() };
            let token =
                client.tokens().get_token(request).await.expect("a token that was answered");
            let token = token.into_inner().token.unwrap();
            let mine = |event: &&AuditEvent| event.token_id == known.id;
            let events: Vec<_> = events.iter().filter(mine).collect();
            if events.len() > known.actions.len() {
                // Only the change without an answer can have happened beyond those that had one.
                let unknown = ledger.unknown.take().expect("more changes than were asked for");
                known.note(&unknown);
            }
            let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
            assert_eq!(actions, known.actions, "token {}", known.id);
            assert_eq!(BTreeSet::from_iter(token.whitelist.clone()), known.whitelist);
            let changes = actions.iter().filter(|&&action| action == "whitelist.change").count();
            assert_eq!(token.whitelist_version, changes as i64 + 1);
            assert_eq!(token.state() != TokenState::Active, known.deleted);
            decides(&client, known).await;
        }
    }
}

async fn verify_account(client: &Client, events: &[AuditEvent], ledger: &mut Ledger) {
    let request = GetAccountRequest { account_id: ledger.account.clone() };
    let account = client.accounts().get_account(request).await.unwrap().into_inner();
    let admins = account.account.unwrap().admin_emails;
    let changed = |event: &&AuditEvent| {
        event.account_id == ledger.account && event.action == "account.set_admins"
    };
    let changes = events.iter().filter(changed).count();
    if changes > ledger.admins {
        assert_eq!(ledger.unknown.take(), Some(Step::Admins));
        ledger.admins += 1;
    }
    assert_eq!(changes, ledger.admins);
    if ledger.admins > 0 {
        assert_eq!(admins, [admin(ledger.admins), "second@example.com".to_owned()]);
    }
}

/// The tokens of an account are those that were answered, and at most the one that was not.
fn settle_creation(listed: &[Token], ledger: &mut Ledger) {
    let known: BTreeSet<_> = ledger.tokens.iter().map(|known| known.id.as_str()).collect();
    let others: Vec<_> =
        listed.iter().filter(|token| !known.contains(token.token_id.as_str())).collect();
    assert_eq!(listed.len() - others.len(), known.len(), "an answered token is not listed");
    match others.as_slice() {
        [] => {}
        [orphan] => {
            assert!(matches!(ledger.unknown, Some(Step::Create) | None), "{:?}", ledger.unknown);
            ledger.unknown = None;
            assert_eq!(orphan.whitelist, [HOME]);
        }
        _ => panic!("tokens that nobody asked for: {others:?}"),
    }
}

async fn all_tokens(client: &Client, account: &str) -> Vec<Token> {
    let request = ListTokensRequest {
        account_id: account.to_owned(),
        page_size: 1_000,
        show_deleted: true,
        ..Default::default()
    };
    client.tokens().list_tokens(request).await.unwrap().into_inner().tokens
}

/// Decisions agree with what was answered.
async fn decides(client: &Client, known: &Known) {
    let asked = |ip: &str| question(&known.secret, ip, "transactions.read");
    for ip in [HOME, "198.51.100.1", "198.51.100.2", "198.51.100.3"] {
        let answer = client.authorization().authorize(asked(ip)).await.unwrap().into_inner();
        let wanted = match (known.deleted, known.whitelist.contains(ip)) {
            (true, _) => Reason::TokenDeleted,
            (false, true) => Reason::Allowed,
            (false, false) => Reason::ClientIpNotWhitelisted,
        };
        assert_eq!(answer.reason(), wanted, "from {ip}: {answer:?}");
        assert_eq!(answer.decision() == Decision::Allow, wanted == Reason::Allowed);
    }
}

async fn survives_kills(mut server: Server) {
    let mut all = Vec::new();
    for _ in 0..2 {
        let mut ledgers = write_until_killed(&mut server, Server::kill9).await;
        server.restart();
        verify(&server, &mut ledgers).await;
        all.extend(ledgers);
    }
    server.kill9();
    server.restart();
    verify(&server, &mut all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_answered_is_lost_when_the_server_is_killed_on_sqlite() {
    survives_kills(Setup::sqlite().start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_answered_is_lost_when_the_server_is_killed_on_postgres() {
    let cluster = Cluster::with_fsync();
    survives_kills(Setup::postgres(&cluster.database()).start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_answered_is_lost_when_the_database_is_killed() {
    let cluster = Cluster::with_fsync();
    let mut server = Setup::postgres(&cluster.database()).start();
    let mut ledgers = write_until_killed(&mut server, |_| cluster.kill()).await;
    cluster.start();
    // The server was not restarted, and finds its way back by itself.
    let began = Stopwatch::start();
    while !server.get("/readyz").0.contains("200") {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    verify(&server, &mut ledgers).await;
    let mut more = write_until_killed(&mut server, |_| cluster.kill()).await;
    cluster.start();
    server.restart();
    more.extend(ledgers);
    verify(&server, &mut more).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_one_is_told_on_sqlite() {
    two_writers(&Setup::sqlite().start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_one_is_told_on_postgres() {
    two_writers(&Setup::postgres(&crate::support::postgres::database()).start()).await;
}

/// Two admins change one whitelist on the version that they read, and read again when told that the
/// other one was faster.
async fn two_writers(server: &Server) {
    const ENTRIES: usize = 30;
    let client = Client::operator(server).await;
    let account = client.account().await.account_id;
    let (token, _) = client.token(&account, TokenKind::ReadWrite, &[], &[HOME]).await;

    // Both on version 1: exactly one of them is told.
    let both = |entry: &str| {
        let (mut tokens, token_id) = (client.tokens(), token.token_id.clone());
        let replace =
            WhitelistReplacement { entries: vec![entry.to_owned()], allow_any_address: false };
        let request = ManageWhitelistRequest {
            token_id,
            replace: Some(replace),
            expected_version: Some(1),
            ..Default::default()
        };
        async move { tokens.manage_whitelist(request).await }
    };
    let (one, other) = tokio::join!(both("10.9.9.1"), both("10.9.9.2"));
    let (won, lost) = if one.is_ok() { (one, other) } else { (other, one) };
    let won = won.expect("one of them wins").into_inner();
    let lost = lost.expect_err("the other one does not");
    assert_eq!(lost.code(), Code::Aborted, "{lost:?}");
    assert!(lost.message().contains("version 2"), "{lost:?}");

    let mut writers = JoinSet::new();
    for writer in 0..2 {
        let (client, token_id) = (client.clone(), token.token_id.clone());
        writers.spawn(async move {
            let mut aborted = 0;
            for entry in 0..ENTRIES {
                loop {
                    let mut request =
                        ManageWhitelistRequest { token_id: token_id.clone(), ..Default::default() };
                    let read = client.tokens().manage_whitelist(request.clone()).await.unwrap();
                    let mut entries = read.get_ref().entries.clone();
                    entries.push(format!("10.0.{writer}.{entry}"));
                    request.expected_version = Some(read.get_ref().version);
                    request.replace =
                        Some(WhitelistReplacement { entries, allow_any_address: false });
                    match client.tokens().manage_whitelist(request).await {
                        Ok(_) => break,
                        Err(status) if status.code() == Code::Aborted => aborted += 1,
                        Err(status) => panic!("{status:?}"),
                    }
                }
            }
            aborted
        });
    }
    writers.join_all().await;

    let request = ManageWhitelistRequest { token_id: token.token_id.clone(), ..Default::default() };
    let list = client.tokens().manage_whitelist(request).await.unwrap().into_inner();
    let mut wanted = BTreeSet::from([won.entries[0].clone()]);
    for writer in 0..2 {
        wanted.extend((0..ENTRIES).map(|entry| format!("10.0.{writer}.{entry}")));
    }
    assert_eq!(BTreeSet::from_iter(list.entries), wanted);
    assert_eq!(list.version, 2 + 2 * ENTRIES as i64, "one version for each change, no more");
    let mine = |event: &AuditEvent| event.token_id == token.token_id;
    let events = client.audit().await.into_iter().filter(mine).count();
    assert_eq!(events, 2 + 2 * ENTRIES, "one event for each change, no more");
}
