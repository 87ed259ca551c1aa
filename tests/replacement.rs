//! `ReplaceToken` through its socket: what it answers and refuses, and what a crash leaves of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis::grpc::proto::{
    CreateTokenRequest, DeleteTokenRequest, GetTokenRequest, ListTokensRequest, Reason,
    ReplaceTokenRequest, ReplaceTokenResponse, Token, TokenKind, TokenState,
};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::replicas::stage::Stage;
use crate::support::client::{Client, question};
use crate::support::postgres;
use crate::support::server::Setup;
use crate::support::wait::until_async;

const HOME: &str = "192.0.2.1";
const READ: &str = "transactions.read";
const WRITE: &str = "cards.create";

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn request(token_id: &str) -> ReplaceTokenRequest {
    ReplaceTokenRequest { token_id: token_id.to_owned(), ..Default::default() }
}

async fn replace(
    client: &Client,
    request: ReplaceTokenRequest,
) -> Result<ReplaceTokenResponse, Status> {
    Ok(client.tokens().replace_token(request).await?.into_inner())
}

async fn read(client: &Client, token_id: &str) -> Token {
    let request = GetTokenRequest { token_id: token_id.to_owned() };
    let token = client.tokens().get_token(request).await.unwrap().into_inner().token.unwrap();
    // Which no other answer has.
    Token { recent_addresses: Vec::new(), ..token }
}

async fn ask(client: &Client, secret: &str, scope: &str) -> Reason {
    let answer = client.authorization().authorize(question(secret, HOME, scope)).await.unwrap();
    answer.into_inner().reason()
}

/// Code, and the rules in the way, or the fields that are wrong.
fn refusal(answer: Result<ReplaceTokenResponse, Status>) -> (Code, Vec<String>) {
    let status = answer.unwrap_err();
    let details = status.get_error_details();
    let rules = details.precondition_failure().map(|failure| failure.violations.clone());
    let rules: Vec<_> = rules.unwrap_or_default().into_iter().map(|rule| rule.r#type).collect();
    let fields = details.bad_request().map(|bad| bad.field_violations.clone());
    let fields = fields.unwrap_or_default().into_iter().map(|bad| bad.field);
    let words = if rules.is_empty() { fields.collect() } else { rules };
    (status.code(), words)
}

/// Rules 11.30 to 11.33 and 11.38 of docs/policy.md.
#[tokio::test]
async fn a_token_is_replaced_without_an_outage() {
    let server = Setup::sqlite().flag("--usage-flush-interval", "50ms").start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (old, old_secret) =
        operator.token(&account, TokenKind::Custom, &[READ, WRITE], &[HOME]).await;
    assert_eq!(ask(&operator, &old_secret, READ).await, Reason::Allowed);
    let addresses = async || {
        let request = GetTokenRequest { token_id: old.token_id.clone() };
        let token = operator.tokens().get_token(request).await.unwrap().into_inner().token.unwrap();
        token.recent_addresses.len()
    };
    until_async(addresses, |&count| count == 1).await;

    let check = ReplaceTokenRequest { validate_only: true, ..request(&old.token_id) };
    let checked = replace(&operator, check).await.unwrap();
    let proposal = checked.proposal.unwrap();
    assert_eq!(
        (proposal.scopes, proposal.unused_scopes),
        (vec![READ.to_owned()], vec![WRITE.to_owned()])
    );
    assert_eq!(proposal.recent_addresses[0].address, HOME);
    assert_eq!((checked.secret.as_str(), checked.token.unwrap().token_id.as_str()), ("", ""));
    assert!(checked.propagation.is_none());
    assert_eq!(read(&operator, &old.token_id).await.replaced_by_token_id, "");

    let narrow = ReplaceTokenRequest {
        scopes: vec![READ.to_owned()],
        overlap: seconds(3_600),
        ..request(&old.token_id)
    };
    let replaced = replace(&operator, narrow).await.unwrap();
    let (new, old) = (replaced.token.unwrap(), replaced.replaced_token.unwrap());
    assert_eq!(new, read(&operator, &new.token_id).await);
    assert_eq!(old, read(&operator, &old.token_id).await);
    assert_eq!((&new.name, &new.whitelist), (&old.name, &old.whitelist));
    assert_eq!((&new.replaces_token_id, &old.replaced_by_token_id), (&old.token_id, &new.token_id));
    assert_eq!(new.granted_scopes, [READ]);
    assert_eq!(new.last_use_time, old.last_use_time);
    let created = new.create_time.unwrap().seconds;
    assert_eq!(old.expire_time.unwrap().seconds, created + 3_600);
    // Both work, each for what it may do.
    assert_eq!(ask(&operator, &replaced.secret, READ).await, Reason::Allowed);
    assert_eq!(ask(&operator, &replaced.secret, WRITE).await, Reason::ScopeNotGranted);
    assert_eq!(ask(&operator, &old_secret, WRITE).await, Reason::Allowed);

    // Without an overlap the old one is denied from the answer on.
    let now = ReplaceTokenRequest { overlap: seconds(0), ..request(&new.token_id) };
    let newest = replace(&operator, now).await.unwrap();
    assert!(newest.propagation.unwrap().complete);
    assert_eq!(ask(&operator, &replaced.secret, READ).await, Reason::TokenExpired);
    assert_eq!(ask(&operator, &newest.secret, READ).await, Reason::Allowed);
    assert_eq!(newest.replaced_token.unwrap().state(), TokenState::Expired);
}

/// Rule 11.33 of docs/policy.md: beside a replica that acknowledges nothing until its lease is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_waits_where_the_old_token_may_end_before_every_replica_knows() {
    let lease = Duration::from_secs(8);
    let stage = Stage::leased(lease, 2, |_, setup| setup).await;
    let operator = &stage.clients[0];
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(stage.token(0).await.0.token_id);
    }
    let expiring = CreateTokenRequest {
        account_id: stage.account.clone(),
        name: "expiring".to_owned(),
        kind: TokenKind::ReadOnly.into(),
        ttl: seconds(3_600),
        ..Default::default()
    };
    let expiring = operator.tokens().create_token(expiring).await.unwrap().into_inner();
    let expiring = expiring.token.unwrap();

    stage.cut(1, true);
    // A day is longer than the lease: no wait.
    let replaced = replace(operator, request(&tokens[0])).await.unwrap();
    assert!(!replaced.propagation.unwrap().complete, "it waited for the other replica");
    let old = replaced.replaced_token.unwrap();
    let created = replaced.token.unwrap().create_time.unwrap().seconds;
    assert_eq!(old.expire_time.unwrap().seconds, created + 86_400);
    let no_wait = ReplaceTokenRequest { overlap: seconds(0), no_wait: true, ..request(&tokens[1]) };
    assert!(!replace(operator, no_wait).await.unwrap().propagation.unwrap().complete);
    // The expiry that it has is nearer than the end of the overlap.
    let replaced = replace(operator, request(&expiring.token_id)).await.unwrap();
    assert_eq!(replaced.replaced_token.unwrap().expire_time, expiring.expire_time);
    // Shorter than the lease: the answer comes when that is over.
    let short = ReplaceTokenRequest { overlap: seconds(1), ..request(&tokens[2]) };
    assert!(replace(operator, short).await.unwrap().propagation.unwrap().complete);
}

/// Rules 11.30 to 11.33 of docs/policy.md.
#[tokio::test]
async fn each_refusal_names_its_rule_or_field_and_changes_nothing() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, _) = operator.token(&account, TokenKind::Custom, &[READ, WRITE], &[HOME]).await;
    let id = token.token_id.clone();
    let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let scopes = |name: &str| vec![name.to_owned()];
    let plain = || request(&id);
    for (request, code, words) in [
        (request(""), Code::InvalidArgument, vec!["token_id"]),
        (request("tok_00000000000000000000000000"), Code::InvalidArgument, vec!["token_id"]),
        (
            ReplaceTokenRequest { overlap: duration(-1, 0), ..plain() },
            Code::InvalidArgument,
            vec!["overlap.seconds"],
        ),
        (
            ReplaceTokenRequest { overlap: duration(0, -1), ..plain() },
            Code::InvalidArgument,
            vec!["overlap.nanos"],
        ),
        (
            ReplaceTokenRequest {
                overlap: duration(30 * 86_400, 1_000),
                whitelist: scopes("10.0.0.1/8"),
                ..plain()
            },
            Code::InvalidArgument,
            vec!["overlap", "whitelist[0]"],
        ),
        (
            ReplaceTokenRequest { scopes: scopes("no.such"), ..plain() },
            Code::InvalidArgument,
            vec!["scopes[0]"],
        ),
        (
            ReplaceTokenRequest { scopes: scopes("cards.reveal"), ..plain() },
            Code::FailedPrecondition,
            vec!["SCOPE_NOT_GRANTED"],
        ),
        (
            ReplaceTokenRequest { expire_time: time(1), ..plain() },
            Code::InvalidArgument,
            vec!["expire_time"],
        ),
        (
            ReplaceTokenRequest { ttl: duration(i64::MAX, 0), ..plain() },
            Code::InvalidArgument,
            vec!["ttl"],
        ),
        (
            ReplaceTokenRequest { expire_time: time(1), ttl: duration(1, 0), ..plain() },
            Code::InvalidArgument,
            vec!["ttl"],
        ),
    ] {
        let shown = format!("{request:?}");
        let words: Vec<_> = words.into_iter().map(str::to_owned).collect();
        assert_eq!(refusal(replace(&operator, request).await), (code, words), "{shown}");
    }
    assert_eq!(read(&operator, &id).await, token);

    let new = replace(&operator, plain()).await.unwrap().token.unwrap();
    let again = refusal(replace(&operator, plain()).await);
    assert_eq!(again, (Code::FailedPrecondition, vec!["TOKEN_REPLACED".to_owned()]));
    let delete = DeleteTokenRequest { token_id: new.token_id.clone(), no_wait: false };
    operator.tokens().delete_token(delete).await.unwrap();
    let deleted = refusal(replace(&operator, request(&new.token_id)).await);
    assert_eq!(deleted, (Code::FailedPrecondition, vec!["TOKEN_DELETED".to_owned()]));
    let again = refusal(replace(&operator, plain()).await);
    assert_eq!(again, (Code::FailedPrecondition, vec!["TOKEN_REPLACED".to_owned()]));
}

/// Every token of the account, by its id.
async fn tokens(client: &Client, account: &str) -> BTreeMap<String, Token> {
    let request = ListTokensRequest {
        account_id: account.to_owned(),
        page_size: 1_000,
        show_deleted: true,
        ..Default::default()
    };
    let page = client.tokens().list_tokens(request).await.unwrap().into_inner();
    assert_eq!(page.next_page_token, "");
    page.tokens.into_iter().map(|token| (token.token_id.clone(), token)).collect()
}

/// Each token names its successor exactly if that one names it.
fn check_pairs(tokens: &BTreeMap<String, Token>) -> usize {
    let mut pairs = 0;
    for (id, token) in tokens {
        if !token.replaced_by_token_id.is_empty() {
            assert_eq!(&tokens[&token.replaced_by_token_id].replaces_token_id, id);
            assert!(token.expire_time.is_some());
            pairs += 1;
        }
        if !token.replaces_token_id.is_empty() {
            assert_eq!(&tokens[&token.replaces_token_id].replaced_by_token_id, id);
        }
    }
    pairs
}

/// Killed while the old token's end is written and the successor's announcements are not.
#[cfg(feature = "failpoints")]
async fn half_a_replacement_is_none(setup: Setup) {
    let mut server = setup.clone().env("FAILPOINT", "half-replaced").start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (token, secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let events = client.audit().await.len();
    let call = {
        let (client, request) = (client.clone(), request(&token.token_id));
        tokio::spawn(async move { replace(&client, request).await })
    };
    // It stops with its transaction open, which nothing outside the server shows.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!call.is_finished(), "the call is answered although it stops half-way");
    server.kill9();
    assert!(call.await.unwrap().is_err());
    server.restart_with(|_| setup);
    let client = Client::operator(&server).await;
    let tokens = tokens(&client, &account).await;
    let tokens: Vec<_> = tokens.into_values().collect();
    assert_eq!(tokens, std::slice::from_ref(&token));
    assert_eq!(client.audit().await.len(), events);
    assert_eq!(ask(&client, &secret, READ).await, Reason::Allowed);
    replace(&client, request(&token.token_id)).await.unwrap();
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_in_the_middle_of_a_replacement_leaves_neither_on_sqlite() {
    half_a_replacement_is_none(Setup::sqlite()).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_in_the_middle_of_a_replacement_leaves_neither_on_postgres() {
    half_a_replacement_is_none(Setup::postgres(&postgres::database())).await;
}

/// Replacements at every instant, killed at any: what was answered is there, and nothing is there half.
async fn kills_leave_pairs(setup: Setup) {
    let mut server = setup.start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let mut answered = Vec::new();
    let (sender, mut receiver) = unbounded_channel();
    for round in 0..5 {
        let client = Client::operator(&server).await;
        let mut chains = JoinSet::new();
        for _ in 0..4 {
            let (client, account, sender) = (client.clone(), account.clone(), sender.clone());
            chains.spawn(async move {
                let mut answered = Vec::new();
                let Ok((token, _)) =
                    client.try_token(&account, TokenKind::ReadOnly, &[], &[]).await
                else {
                    return answered;
                };
                let mut id = token.token_id;
                while let Ok(replaced) = replace(&client, request(&id)).await {
                    let new = replaced.token.unwrap().token_id;
                    answered.push((std::mem::replace(&mut id, new.clone()), new));
                    sender.send(()).unwrap();
                }
                answered
            });
        }
        // Any instant will do, once some are answered: the others are under way.
        for _ in 0..5 + round {
            receiver.recv().await.unwrap();
        }
        server.kill9();
        answered.extend(chains.join_all().await.into_iter().flatten());
        server.restart();
    }
    let client = Client::operator(&server).await;
    let tokens = tokens(&client, &account).await;
    let pairs = check_pairs(&tokens);
    assert!(!answered.is_empty() && pairs >= answered.len(), "{pairs} of {}", answered.len());
    for (old, new) in answered {
        assert_eq!(tokens[&old].replaced_by_token_id, new);
    }
    let events = client.audit().await;
    let replaced = events.iter().filter(|event| event.action == "token.replace").count();
    assert_eq!(replaced, pairs, "there is an event for each, and none without");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_leave_both_tokens_or_neither_on_sqlite() {
    kills_leave_pairs(Setup::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_leave_both_tokens_or_neither_on_postgres() {
    kills_leave_pairs(Setup::postgres(&postgres::database())).await;
}
