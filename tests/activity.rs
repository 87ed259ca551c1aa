//! Recorded addresses, use and denials of tokens, through the sockets of servers (docs/policy.md, section 12).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]
#![allow(clippy::disallowed_methods, reason = "a variable says how long a long run lasts")]

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, Decision, DeleteTokenRequest, Denial, GetSelfRequest,
    GetTokenRequest, GetTokenUsageRequest, HttpOperation, ListDenialsRequest,
    ManageWhitelistRequest, Reason, ReplaceTokenRequest, Role, SeenAddress, TokenKind,
    authorize_request, denial_fix,
};

use crate::replicas::stage::Stage;
use crate::support::calls::credential;
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
    // Neither of these is a use.
    let dry = AuthorizeRequest { dry_run: true, ..question(&secret, "192.0.2.99", READ) };
    assert_eq!(ask(&operator, dry).await, Decision::Allow);
    assert_eq!(ask(&operator, question(&secret, "198.51.100.1", READ)).await, Decision::Deny);
    // The last one: once it is counted, nothing of the others is still to be written.
    assert_eq!(ask(&operator, question(&secret, "192.0.2.8", ACCOUNTS)).await, Decision::Allow);

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
    // One without an address is counted, and leaves none.
    for address in ["", "203.0.113.77"] {
        assert_eq!(ask(&operator, question(&bearer, address, READ)).await, Decision::Allow);
    }
    until_async(
        async || used_from(&operator, &open.token_id).await,
        |seen| *seen == ["203.0.113.77"],
    )
    .await;
    let own = operator.with(&bearer).own().get_self(GetSelfRequest {}).await.unwrap().into_inner();
    assert!(!format!("{own:?}").contains("203.0.113.77"), "{own:?}");
    let wanted = counts(&[(READ, 2)]);
    until_async(async || usage(&operator, &open.token_id).await, |found| *found == wanted).await;
    assert_eq!(used_from(&operator, &open.token_id).await, ["203.0.113.77"]);
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

/// Denials of a token, those that began latest first.
async fn denials(client: &Client, token_id: &str) -> Vec<Denial> {
    let request = ListDenialsRequest { token_id: token_id.to_owned(), ..Default::default() };
    client.tokens().list_denials(request).await.unwrap().into_inner().denials
}

/// Rules 12.10 and 12.13.
#[tokio::test]
async fn denials_of_known_tokens_are_listed_with_what_would_allow_them() {
    let server = quick(Setup::sqlite()).start();
    let (operator, account) = stage(&server).await;
    let (token, secret) =
        operator.token(&account, TokenKind::Custom, &[READ], &["192.0.2.0/24"]).await;
    for address in ["198.51.100.1", "::ffff:198.51.100.1"] {
        assert_eq!(ask(&operator, question(&secret, address, READ)).await, Decision::Deny);
    }
    ask(&operator, question(&secret, "192.0.2.1", "cards.reveal")).await;
    ask(&operator, question(&secret, "", READ)).await;
    let http = |path: &str| AuthorizeRequest {
        operation: Some(authorize_request::Operation::Http(HttpOperation {
            method: "GET".to_owned(),
            path: path.to_owned(),
        })),
        ..question(&secret, "192.0.2.1", READ)
    };
    // None of these is kept: an allow, a dry run, and what has no known token.
    ask(&operator, question(&secret, "192.0.2.1", READ)).await;
    let dry = AuthorizeRequest { dry_run: true, ..question(&secret, "198.51.100.9", READ) };
    ask(&operator, dry).await;
    let (_, other) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let forged = format!("{}{}", &secret[..secret.len() - 3], &other[other.len() - 3..]);
    ask(&operator, question(&forged, "198.51.100.10", READ)).await;
    // The last one: once it is listed, nothing of the others is still to be written.
    ask(&operator, http("/api/v1/nothing/4711/at-all?name=bob")).await;

    let listed =
        until_async(async || denials(&operator, &token.token_id).await, |rows| rows.len() == 4)
            .await;
    let by = |reason: Reason| listed.iter().find(|row| row.reason() == reason).unwrap();
    let fix = |row: &Denial| row.fix.clone().unwrap().change;
    let address = by(Reason::ClientIpNotWhitelisted);
    assert_eq!((&*address.client_ip, &*address.scope, address.count), ("198.51.100.1", READ, 2));
    assert_eq!(fix(address), Some(denial_fix::Change::AddAddress("198.51.100.1".to_owned())));
    let scope = by(Reason::ScopeNotGranted);
    assert_eq!(fix(scope), Some(denial_fix::Change::ReplaceWithScope("cards.reveal".to_owned())));
    // A successor could not have it (rule 11.31).
    let text = scope.fix.clone().unwrap().text;
    assert!(text.starts_with("Create another token"), "{text}");
    let replace = ReplaceTokenRequest {
        token_id: token.token_id.clone(),
        scopes: vec!["cards.reveal".to_owned()],
        validate_only: true,
        ..Default::default()
    };
    operator.tokens().replace_token(replace).await.unwrap_err();
    let missing = by(Reason::ClientIpMissing);
    assert_eq!((&*missing.client_ip, fix(missing)), ("", None));
    let route = by(Reason::NoMatchingRoute);
    assert_eq!((&*route.operation, &*route.scope), ("GET /api/v1/nothing/{}/at-all", ""));
    for row in &listed {
        let seconds = |time: &Option<prost_types::Timestamp>| time.as_ref().unwrap().seconds;
        assert_eq!(seconds(&row.hour) % 3600, 0);
        assert!(seconds(&row.first_time) <= seconds(&row.last_time), "{row:?}");
        assert!(!row.fix.as_ref().unwrap().text.is_empty() && !row.others, "{row:?}");
        assert_eq!(row.account_id, account);
    }

    // Of a deleted token it says who still presents it.
    let delete = DeleteTokenRequest { token_id: token.token_id.clone(), no_wait: false };
    operator.tokens().delete_token(delete).await.unwrap();
    ask(&operator, question(&secret, "192.0.2.1", READ)).await;
    until_async(async || denials(&operator, &token.token_id).await, |rows| rows.len() == 5).await;
}

/// Rule 12.14.
#[tokio::test]
async fn an_account_admin_sees_denials_of_the_own_account_only() {
    let server = quick(Setup::sqlite()).start();
    let (operator, account) = stage(&server).await;
    let other = operator.account().await.account_id;
    let mut tokens = Vec::new();
    for account in [&account, &other] {
        let (token, secret) =
            operator.token(account, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
        ask(&operator, question(&secret, "198.51.100.1", READ)).await;
        until_async(async || denials(&operator, &token.token_id).await, |rows| rows.len() == 1)
            .await;
        tokens.push(token.token_id);
    }
    let (_, credential) = credential(&operator, Role::AccountAdmin, &account).await;
    let admin = operator.with(&credential);
    let list = async |account_id: &str, token_id: &str| {
        let request = ListDenialsRequest {
            account_id: account_id.to_owned(),
            token_id: token_id.to_owned(),
            ..Default::default()
        };
        admin.tokens().list_denials(request).await.unwrap().into_inner().denials
    };
    let all = list("", "").await;
    assert_eq!(all.iter().map(|row| &row.token_id).collect::<Vec<_>>(), [&tokens[0]]);
    assert_eq!(list(&other, "").await, []);
    assert_eq!(list("", &tokens[1]).await, []);
}

/// Rule 12.11, as `ListDenials` answers it.
#[tokio::test]
async fn what_goes_beyond_an_accounts_share_is_counted_as_unlisted() {
    const TOKENS: usize = 40;
    const ADDRESSES: usize = 25;
    let server = quick(Setup::sqlite()).start();
    let (operator, account) = stage(&server).await;
    for _ in 0..TOKENS {
        let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
        let request = |n| question(&secret, &format!("198.51.100.{n}"), READ);
        let batch = BatchAuthorizeRequest { requests: (1..=ADDRESSES).map(request).collect() };
        operator.authorization().batch_authorize(batch).await.unwrap();
    }
    let list =
        ListDenialsRequest { account_id: account.clone(), page_size: 1_000, ..Default::default() };
    let listed = until_async(
        async || operator.tokens().list_denials(list.clone()).await.unwrap().into_inner(),
        |listed| {
            let counted: i64 = listed.denials.iter().map(|row| row.count).sum();
            counted + listed.unlisted_count == (TOKENS * ADDRESSES) as i64
        },
    )
    .await;
    assert!(listed.unlisted_count > 0, "{listed:?}");
    let mut rows = BTreeMap::new();
    for row in &listed.denials {
        *rows.entry((&row.token_id, row.hour.as_ref().unwrap().seconds)).or_insert(0) += 1;
    }
    // Twenty, and one for the others.
    assert!(rows.values().all(|rows| *rows <= 21), "{rows:?}");
    // An admin of another account learns nothing of it.
    let other = operator.account().await.account_id;
    let other = ListDenialsRequest { account_id: other, ..list };
    let other = operator.tokens().list_denials(other).await.unwrap().into_inner();
    assert_eq!((other.denials.len(), other.unlisted_count), (0, 0));
}

/// How long denials flood the server: `tests/long/run` has it last for minutes.
const FLOOD_SECONDS: i64 = 3;
/// Denied requests in a second of a flood.
const FLOOD_RATE: i64 = 20_000;
/// How much memory a flood may take, in KiB: twice what all bounds of a full server sum up to (docs/operations.md),
/// with room for the allocator.
const FLOOD_MEMORY: u64 = 128 << 10;

/// Rule 12.11, through the sockets: a flood from random addresses leaves few rows and little in memory, all of it is
/// counted, and other tokens are decided, seen and listed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_denials_is_counted_and_bounded_and_harms_no_other_token() {
    let seconds = std::env::var("PORTCULLIS_TEST_FLOOD_SECONDS")
        .map_or(FLOOD_SECONDS, |seconds| seconds.parse().unwrap());
    let server = quick(Setup::sqlite()).start();
    let (operator, account) = stage(&server).await;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
    let (quiet, its) = operator.token(&account, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
    ask(&operator, question(&its, "192.0.2.1", READ)).await;
    let before = server.memory("VmRSS");
    let mut pace = tokio::time::interval(Duration::from_secs(1) / (FLOOD_RATE / 1_000) as u32);
    for number in 0..seconds * FLOOD_RATE / 1_000 {
        pace.tick().await;
        let requests = (0..1_000).map(|n| {
            let n = number * 1_000 + n;
            let address =
                format!("2001:db8:{:x}:{:x}::{:x}", n >> 32, n >> 16 & 0xffff, n & 0xffff);
            question(&secret, &address, READ)
        });
        let batch = BatchAuthorizeRequest { requests: requests.collect() };
        let answers = operator.authorization().batch_authorize(batch).await.unwrap().into_inner();
        assert_eq!(answers.results.len(), 1_000);
        assert_eq!(ask(&operator, question(&its, "192.0.2.1", READ)).await, Decision::Allow);
    }
    ask(&operator, question(&its, "198.51.100.1", READ)).await;
    until_async(async || denials(&operator, &quiet.token_id).await, |rows| rows.len() == 1).await;
    let sent = seconds * FLOOD_RATE;
    let rows = until_async(
        async || denials(&operator, &token.token_id).await,
        |rows| rows.iter().map(|row| row.count).sum::<i64>() >= sent - 255,
    )
    .await;
    assert!(rows.iter().map(|row| row.count).sum::<i64>() <= sent);
    // Its share in each hour that the flood fell into, and a row of others.
    let hours = 2 + seconds / 3_600;
    assert!(rows.len() as i64 <= 21 * hours, "{}", rows.len());
    assert!(rows.iter().any(|row| row.others && row.reason() == Reason::Unspecified));
    let all = counts(&[(READ, seconds * FLOOD_RATE / 1_000 + 1)]);
    until_async(async || usage(&operator, &quiet.token_id).await, |found| *found == all).await;
    assert_eq!(server.metric("portcullis_activity_dropped_total").unwrap_or(0), 0);
    let grown = server.memory("VmRSS").saturating_sub(before);
    assert!(grown < FLOOD_MEMORY, "{grown} KiB more than before");
}
