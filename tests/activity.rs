//! What is seen of the requests of tokens, through the sockets of servers (docs/policy.md, section 12).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeMap;

use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, Decision, GetSelfRequest, GetTokenRequest,
    GetTokenUsageRequest, ManageWhitelistRequest, SeenAddress, TokenKind,
};

use crate::replicas::stage::Stage;
use crate::support::client::{Client, question};
use crate::support::server::{Server, Setup};
use crate::support::wait::until_async;

const READ: &str = "transactions.read";
const ACCOUNTS: &str = "accounts.statements.read";

fn quick(setup: Setup) -> Setup {
    setup.flag("--usage-flush-interval", "100ms")
}

async fn ask(client: &Client, request: AuthorizeRequest) -> Decision {
    client.authorization().authorize(request).await.unwrap().into_inner().decision()
}

async fn addresses(client: &Client, token_id: &str) -> Vec<SeenAddress> {
    let request = GetTokenRequest { token_id: token_id.to_owned() };
    let token = client.tokens().get_token(request).await.unwrap().into_inner().token.unwrap();
    token.recent_addresses
}

/// Where a token was used from, sorted.
async fn used_from(client: &Client, token_id: &str) -> Vec<String> {
    let seen = addresses(client, token_id).await;
    let mut seen: Vec<_> = seen.into_iter().map(|seen| seen.address).collect();
    seen.sort_unstable();
    seen
}

/// Allowed requests of each scope, on all days.
async fn usage(client: &Client, token_id: &str) -> BTreeMap<String, i64> {
    let request = GetTokenUsageRequest { token_id: token_id.to_owned() };
    let answer = client.tokens().get_token_usage(request).await.unwrap().into_inner();
    let mut counts = BTreeMap::new();
    for day in answer.days {
        assert!(day.day >= answer.start_day && day.day.len() == "2027-01-31".len(), "{day:?}");
        *counts.entry(day.scope).or_default() += day.count;
    }
    counts
}

fn counts(wanted: &[(&str, i64)]) -> BTreeMap<String, i64> {
    wanted.iter().map(|&(scope, count)| (scope.to_owned(), count)).collect()
}

async fn stage(server: &Server) -> (Client, String) {
    let operator = Client::operator(server).await;
    let account = operator.account().await.account_id;
    (operator, account)
}

/// Rules 12.1, 12.5 and 12.7.
#[tokio::test]
async fn allowed_requests_are_seen_and_counted_and_nothing_else_is() {
    let server = quick(Setup::sqlite()).start();
    let (operator, account) = stage(&server).await;
    let (token, secret) = operator
        .token(&account, TokenKind::ReadOnly, &[], &["192.0.2.0/24", "2001:db8::/32"])
        .await;
    for _ in 0..3 {
        for address in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"] {
            assert_eq!(ask(&operator, question(&secret, address, READ)).await, Decision::Allow);
        }
    }
    assert_eq!(ask(&operator, question(&secret, "192.0.2.8", ACCOUNTS)).await, Decision::Allow);
    // Neither of these is a use.
    let dry = AuthorizeRequest { dry_run: true, ..question(&secret, "192.0.2.99", READ) };
    assert_eq!(ask(&operator, dry).await, Decision::Allow);
    assert_eq!(ask(&operator, question(&secret, "198.51.100.1", READ)).await, Decision::Deny);

    let wanted = counts(&[(ACCOUNTS, 1), (READ, 9)]);
    until_async(async || usage(&operator, &token.token_id).await, |found| *found == wanted).await;
    let seen = used_from(&operator, &token.token_id).await;
    assert_eq!(seen, ["192.0.2.7", "192.0.2.8", "2001:db8::1"]);
    for seen in addresses(&operator, &token.token_id).await {
        let [first, last] = [seen.first_time, seen.last_time].map(Option::unwrap);
        assert!((first.seconds, first.nanos) <= (last.seconds, last.nanos), "{seen:?}");
    }

    // The bearer is shown nothing of it, and asking is no use.
    let (open, bearer) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    ask(&operator, question(&bearer, "203.0.113.77", READ)).await;
    until_async(
        async || used_from(&operator, &open.token_id).await,
        |seen| *seen == ["203.0.113.77"],
    )
    .await;
    let own = operator.with(&bearer).own().get_self(GetSelfRequest {}).await.unwrap().into_inner();
    assert!(!format!("{own:?}").contains("203.0.113.77"), "{own:?}");
    assert_eq!(usage(&operator, &open.token_id).await, counts(&[(READ, 1)]));
}

/// Rule 12.5: also where the items of a batch are of one token, and where a token is used all the time.
#[tokio::test]
async fn every_item_of_a_batch_is_counted() {
    let server = quick(Setup::sqlite()).start();
    let (operator, account) = stage(&server).await;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let requests: Vec<_> = (0..1_000)
        .map(|n| question(&secret, "192.0.2.1", if n % 5 == 0 { ACCOUNTS } else { READ }))
        .collect();
    const BATCHES: i64 = 60;
    for _ in 0..BATCHES {
        let batch = BatchAuthorizeRequest { requests: requests.clone() };
        let answer = operator.authorization().batch_authorize(batch).await.unwrap().into_inner();
        assert_eq!(answer.results.len(), 1_000);
    }
    let wanted = counts(&[(ACCOUNTS, 200 * BATCHES), (READ, 800 * BATCHES)]);
    until_async(async || usage(&operator, &token.token_id).await, |found| *found == wanted).await;
}

/// Rule 12.2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_record_one_history() {
    let stage = Stage::with(2, |_, setup| quick(setup)).await;
    let (token, secret) = stage.token(0).await;
    for (at, address) in [(0, "192.0.2.1"), (1, "192.0.2.1"), (1, "192.0.2.2")] {
        for _ in 0..5 {
            let allowed = ask(&stage.clients[at], question(&secret, address, READ)).await;
            assert_eq!(allowed, Decision::Allow);
        }
    }
    for client in &stage.clients {
        let all = counts(&[(READ, 15)]);
        until_async(async || usage(client, &token.token_id).await, |found| *found == all).await;
        until_async(
            async || used_from(client, &token.token_id).await,
            |seen| *seen == ["192.0.2.1", "192.0.2.2"],
        )
        .await;
    }
}

/// Rule 12.8.
#[tokio::test]
async fn an_orderly_end_writes_everything_and_a_kill_loses_what_was_not_written() {
    let mut server = Setup::sqlite().flag("--usage-flush-interval", "1m").start();
    let (operator, account) = stage(&server).await;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    for _ in 0..7 {
        ask(&operator, question(&secret, "192.0.2.1", READ)).await;
    }
    server.terminate();
    server.restart();
    let operator = Client::operator(&server).await;
    assert_eq!(usage(&operator, &token.token_id).await, counts(&[(READ, 7)]));
    assert_eq!(used_from(&operator, &token.token_id).await, ["192.0.2.1"]);
    for _ in 0..4 {
        ask(&operator, question(&secret, "192.0.2.2", READ)).await;
    }
    server.kill9();
    server.restart();
    let operator = Client::operator(&server).await;
    // Nothing is counted twice, and what was written stays.
    assert_eq!(usage(&operator, &token.token_id).await, counts(&[(READ, 7)]));
    assert_eq!(used_from(&operator, &token.token_id).await, ["192.0.2.1"]);
}

/// Rules 12.3 and 12.6: the window of this server is a few seconds.
#[tokio::test]
async fn an_entry_that_nothing_matched_for_a_window_is_marked() {
    let server = quick(Setup::sqlite())
        .flag("--lifecycle-mode", "observe")
        .flag("--lifecycle-window", "3s")
        .flag("--lifecycle-notice", "1s")
        .flag("--lifecycle-sweep-interval", "100ms")
        .start();
    let (operator, account) = stage(&server).await;
    let whitelist = ["10.0.0.0/8", "10.0.0.1", "192.0.2.1"];
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &whitelist).await;
    let entries = async || {
        let request =
            ManageWhitelistRequest { token_id: token.token_id.clone(), ..Default::default() };
        let answer = operator.tokens().manage_whitelist(request).await.unwrap().into_inner();
        assert_eq!(answer.entries, answer.entry_uses.iter().map(|e| &*e.entry).collect::<Vec<_>>());
        answer.entry_uses
    };
    assert!(
        entries().await.iter().all(|entry| !entry.unmatched && entry.last_match_time.is_none())
    );
    let unmatched = async || -> Vec<String> {
        ask(&operator, question(&secret, "10.0.0.1", READ)).await;
        let unmatched = entries().await.into_iter().filter(|entry| entry.unmatched);
        unmatched.map(|entry| entry.entry).collect()
    };
    until_async(unmatched, |found| *found == ["10.0.0.0/8", "192.0.2.1"]).await;
    let used: Vec<_> =
        entries().await.into_iter().filter(|e| e.last_match_time.is_some()).collect();
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].entry, "10.0.0.1");
    // Unused for the window, the address is forgotten; nothing else has changed.
    until_async(async || used_from(&operator, &token.token_id).await, Vec::is_empty).await;
    assert_eq!(entries().await.len(), 3);
}
