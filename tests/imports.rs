//! Tokens that were issued elsewhere: their import, and decisions on them (docs/policy.md, section 10).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::time::Duration;

use portcullis::grpc::proto::batch_authorize_result::Result as BatchItem;
use portcullis::grpc::proto::import_token_result::Result as ItemResult;
use portcullis::grpc::proto::{
    BatchAuthorizeRequest, BatchAuthorizeResult, Decision, DeleteTokenRequest, GetSelfRequest,
    ImportToken, ImportTokenResult, ImportTokensRequest, ImportTokensResponse, ListTokensRequest,
    Reason, RevokeSelfRequest, Role, Token, TokenKind, TokenState,
};
use portcullis::secret::{KeyRing, SecretKey, SecretKind, digest, hex};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::replicas::stage::Stage;
use crate::support::calls::credential;
use crate::support::client::{Client, question, reason};
use crate::support::postgres;
use crate::support::server::{Server, Setup};
use crate::support::wait::until_async;

const READ: &str = "transactions.read";

/// A token with this secret that may read.
fn item(secret: &str) -> ImportToken {
    ImportToken {
        name: "elsewhere".to_owned(),
        kind: TokenKind::ReadOnly.into(),
        secret_sha256: digest(secret.as_bytes()).to_vec(),
        ..Default::default()
    }
}

async fn try_import(
    client: &Client,
    account_id: &str,
    tokens: Vec<ImportToken>,
) -> Result<ImportTokensResponse, Status> {
    let account_id = account_id.to_owned();
    let request = ImportTokensRequest { account_id, tokens, validate_only: false };
    Ok(client.tokens().import_tokens(request).await?.into_inner())
}

async fn import(
    client: &Client,
    account: &str,
    tokens: Vec<ImportToken>,
) -> Vec<ImportTokenResult> {
    let count = tokens.len();
    let answer = try_import(client, account, tokens).await.unwrap();
    assert_eq!(answer.results.len(), count);
    answer.results
}

fn token(result: &ImportTokenResult) -> &Token {
    match &result.result {
        Some(ItemResult::Token(token)) => token,
        other => panic!("{other:?}"),
    }
}

/// The stable word of a refusal.
fn refusal(result: &ImportTokenResult) -> String {
    let Some(ItemResult::Error(error)) = &result.result else { panic!("{result:?}") };
    let code = Code::from_i32(error.code);
    let details = prost::Message::encode_to_vec(error);
    let status = Status::with_details(code, error.message.clone(), details.into());
    status.get_error_details().error_info().unwrap().reason.clone()
}

/// A secret as another installation makes it.
fn of_another_installation(number: u128) -> String {
    let ring = KeyRing::new(&[SecretKey::new(1, [9; 32])]).unwrap();
    let prefix = "acme".parse().unwrap();
    let id = Uuid::from_u128(number << 80 | 7 << 76 | 2 << 62 | number);
    ring.make(SecretKind::Token, &prefix, id, &[5; 16]).expose().to_owned()
}

/// Rules 10.2 and 10.7.
#[tokio::test]
async fn a_secret_of_any_shape_is_found_by_its_digest_and_a_digest_is_none() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let secrets = [
        "5f4dcc3b5aa765d61d8327deb882cf99".to_owned(),
        "secret-token:E92FB7EB-D882-47A4-A265-A0B6135DC842".to_owned(),
        "ghp_with,comma and blank \u{1f511}".to_owned(),
        of_another_installation(7),
        format!("secret-token:{}", of_another_installation(8)),
        "x".repeat(4_096),
    ];
    for secret in &secrets {
        assert_ne!(reason(&operator, secret).await, Reason::Allowed, "not imported yet");
    }
    let results = import(&operator, &account, secrets.iter().map(|s| item(s)).collect()).await;
    for (secret, result) in secrets.iter().zip(&results) {
        let answer = operator.authorization().authorize(question(secret, "", READ)).await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.decision(), Decision::Allow, "{secret}: {answer:?}");
        assert_eq!(answer.token_id, token(result).token_id);
        assert!(!result.already_existed && token(result).import_time.is_some());
        // Again, from memory.
        assert_eq!(reason(&operator, secret).await, Reason::Allowed);
        let hexadecimal = hex(&digest(secret.as_bytes()));
        for not_a_token in [hexadecimal.clone(), format!("sha256:{hexadecimal}")] {
            assert_eq!(reason(&operator, &not_a_token).await, Reason::TokenMalformed);
        }
    }
    // Behind a prefix, which one of them has already.
    let marked = format!("Secret-Token:{}", secrets[0]);
    assert_eq!(reason(&operator, &marked).await, Reason::Allowed);
    assert_eq!(
        reason(&operator, "E92FB7EB-D882-47A4-A265-A0B6135DC842").await,
        Reason::TokenMalformed
    );
    // Its digest says nothing of its length; a request with it is refused.
    import(&operator, &account, vec![item(&"x".repeat(4_097))]).await;
    for stranger in ["", "secret-token:", &"x".repeat(4_095), &"x".repeat(4_097)] {
        assert_eq!(reason(&operator, stranger).await, Reason::TokenMalformed);
    }
    let forged = of_another_installation(9);
    assert_eq!(reason(&operator, &forged).await, Reason::TokenNotFound);
    // Among others in a batch, from memory.
    let misses = server.metric("portcullis_cache_misses_total");
    let strings = secrets.iter().chain([&forged]);
    let requests = strings.map(|secret| question(secret, "", READ)).collect();
    let batch = BatchAuthorizeRequest { requests };
    let answer = operator.authorization().batch_authorize(batch).await.unwrap().into_inner();
    let reason_of = |item: &BatchAuthorizeResult| match &item.result {
        Some(BatchItem::Response(response)) => response.reason(),
        other => panic!("{other:?}"),
    };
    let reasons: Vec<_> = answer.results.iter().map(reason_of).collect();
    let mut wanted = vec![Reason::Allowed; secrets.len()];
    wanted.push(Reason::TokenNotFound);
    assert_eq!(reasons, wanted);
    assert_eq!(server.metric("portcullis_cache_misses_total"), misses);
}

/// Rule 10.7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_import_brings_back_a_secret_that_was_made_here() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (live, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    // As that of a token that was purged.
    let keys = postgres::secret_keys(&url).await;
    let id = Uuid::parse_str("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
    let purged = keys.make(SecretKind::Token, &"pcl".parse().unwrap(), id, &[1; 16]);
    let purged = purged.expose().to_owned();
    let marked = |secret: &str| format!("secret-token:{secret}");
    let secrets = [purged.clone(), marked(&purged), marked(&secret)];
    let results = import(&operator, &account, secrets.iter().map(|s| item(s)).collect()).await;
    let imported: Vec<_> = results.iter().map(|result| &token(result).token_id).collect();
    for _ in 0..2 {
        for gone in [&purged, &marked(&purged)] {
            assert_eq!(reason(&operator, gone).await, Reason::TokenNotFound, "{gone}");
        }
        for own in [&secret, &marked(&secret)] {
            let answer = operator.authorization().authorize(question(own, "", READ)).await;
            assert_eq!(answer.unwrap().into_inner().token_id, live.token_id);
        }
    }
    let strings = [&purged, &marked(&purged), &marked(&secret), &secret];
    let requests = strings.map(|secret| question(secret, "", READ)).to_vec();
    let batch = BatchAuthorizeRequest { requests };
    let answer = operator.authorization().batch_authorize(batch).await.unwrap().into_inner();
    let ids = answer.results.iter().map(|item| match &item.result {
        Some(BatchItem::Response(response)) => response.token_id.as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(ids.collect::<Vec<_>>(), ["", "", &live.token_id, &live.token_id]);
    for gone in [&purged, &marked(&purged)] {
        operator.with(gone).own().get_self(GetSelfRequest {}).await.unwrap_err();
    }
    assert!(!imported.contains(&&live.token_id));
}

/// Rules 10.2 to 10.5.
#[tokio::test]
async fn items_are_refused_one_by_one_and_keep_the_rules_of_creation() {
    let server = Setup::postgres(&postgres::database()).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let other = operator.account().await.account_id;
    let (_, own) = operator.token(&other, TokenKind::ReadOnly, &[], &[]).await;
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let named = |secret: &str, change: fn(&mut ImportToken)| {
        let mut item = item(secret);
        change(&mut item);
        item
    };
    let mut late = item("late");
    (late.create_time, late.last_use_time) = (at(20), at(10));
    let mut future = item("future");
    future.last_use_time = at(32_503_680_000);
    let mut good = item("good");
    (good.create_time, good.last_use_time) = (at(1_700_000_000), at(1_700_000_100));
    let items = vec![
        named("write", |item| item.kind = TokenKind::ReadWrite.into()),
        named("sensitive", |item| {
            item.kind = TokenKind::Custom.into();
            item.scopes = vec!["cards.reveal".to_owned()];
        }),
        named("nameless", |item| item.name.clear()),
        named("kindless", |item| item.kind = 0),
        named("scope", |item| {
            item.kind = TokenKind::Custom.into();
            item.scopes = vec!["none".to_owned()];
        }),
        named("digest", |item| item.secret_sha256.truncate(31)),
        item(""),
        late,
        future,
        named("past", |item| {
            item.expire_time = Some(prost_types::Timestamp { seconds: 10, nanos: 0 });
        }),
        item(&own),
        item(server.operator()),
        good,
    ];
    let words = [
        "WHITELIST_REQUIRED",
        "WHITELIST_REQUIRED",
        "REQUIRED",
        "REQUIRED",
        "UNKNOWN_SCOPE",
        "NOT_A_DIGEST",
        "EMPTY_SECRET",
        "AFTER_LAST_USE",
        "IN_THE_FUTURE",
        "IN_THE_PAST",
        "DIGEST_IN_USE",
        "DIGEST_IN_USE",
    ];
    let results = import(&operator, &account, items.clone()).await;
    for ((result, word), item) in results.iter().zip(words).zip(&items) {
        assert_eq!(refusal(result), word, "{item:?}");
    }
    let imported = token(&results[words.len()]);
    assert_eq!(
        (imported.create_time, imported.last_use_time),
        (at(1_700_000_000), at(1_700_000_100))
    );
    let request = ListTokensRequest { account_id: account.clone(), ..Default::default() };
    let all = operator.tokens().list_tokens(request).await.unwrap().into_inner().tokens;
    assert_eq!(all.len(), 1, "{all:?}");

    // What exists is found, whatever is wrong with the item by now.
    let again = import(&operator, &account, vec![named("good", |item| item.kind = 0)]).await;
    assert!(again[0].already_existed);
    assert_eq!(token(&again[0]).token_id, imported.token_id);
    let token_id = imported.token_id.clone();
    let request = DeleteTokenRequest { token_id, no_wait: false };
    operator.tokens().delete_token(request).await.unwrap();
    assert_eq!(refusal(&import(&operator, &account, vec![item("good")]).await[0]), "TOKEN_DELETED");
    assert_eq!(refusal(&import(&operator, &other, vec![item("good")]).await[0]), "DIGEST_IN_USE");
    assert_eq!(reason(&operator, "good").await, Reason::TokenDeleted);

    for tokens in [Vec::new(), vec![item("x"); 1_001]] {
        let refused = try_import(&operator, &account, tokens).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

/// Rule 10.1.
#[tokio::test]
async fn account_admins_import_only_where_a_setting_allows_it() {
    for allowed in [false, true] {
        let setup = Setup::sqlite();
        let setup = if allowed { setup.switch("--allow-admin-import") } else { setup };
        let server = setup.start();
        let operator = Client::operator(&server).await;
        let account = operator.account().await.account_id;
        let other = operator.account().await.account_id;
        let (_, secret) = credential(&operator, Role::AccountAdmin, &account).await;
        let admin = operator.with(&secret);
        let imported = try_import(&admin, &account, vec![item("a")]).await;
        if !allowed {
            assert_eq!(imported.unwrap_err().code(), Code::PermissionDenied);
            continue;
        }
        let imported = imported.unwrap();
        assert_eq!((imported.results.len(), imported.revision), (1, 0));
        assert_eq!(token(&imported.results[0]).account_id, account);
        let elsewhere = try_import(&admin, &other, vec![item("b")]).await.unwrap_err();
        assert_eq!(elsewhere.code(), Code::NotFound);
    }
}

/// Rules 10.8 and 11.20.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_knows_what_was_imported_when_that_is_answered() {
    let stage = Stage::new(2).await;
    for round in 0..20 {
        let (from, to) = (round % 2, (round + 1) % 2);
        let secrets: Vec<_> = (0..50).map(|number| format!("secret {round} {number}")).collect();
        // What was asked for before must not count for longer.
        assert_eq!(reason(&stage.clients[to], &secrets[0]).await, Reason::TokenMalformed);
        let items = secrets.iter().map(|secret| item(secret)).collect();
        let results = import(&stage.clients[from], &stage.account, items).await;
        for secret in &secrets[..5] {
            assert_eq!(reason(&stage.clients[to], secret).await, Reason::Allowed);
        }
        let own = stage.clients[to].with(&secrets[0]);
        let read = own.own().get_self(GetSelfRequest {}).await.unwrap().into_inner();
        assert_eq!(read.token.unwrap().token_id, token(&results[0]).token_id);
        let revoked = own.own().revoke_self(RevokeSelfRequest {}).await.unwrap().into_inner();
        assert_eq!(revoked.token.unwrap().state(), TokenState::Deleted);
        assert_eq!(reason(&stage.clients[from], &secrets[0]).await, Reason::TokenDeleted);
        stage.deletes(from, &token(&results[1]).token_id).await;
        assert_eq!(reason(&stage.clients[to], &secrets[1]).await, Reason::TokenDeleted);
    }
    let stranger = stage.clients[0].with("stranger");
    let refused = stranger.own().get_self(GetSelfRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

/// Rule 10.8.
#[tokio::test]
async fn unknown_strings_cost_no_read_and_imported_tokens_are_found_after_a_restart() {
    let mut server = Setup::postgres(&postgres::database()).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let secrets: Vec<_> = (0..1_000).map(|number| format!("secret {number}")).collect();
    let items: Vec<_> = secrets.iter().map(|secret| item(secret)).collect();
    import(&operator, &account, items).await;
    for restarted in [false, true] {
        if restarted {
            server.terminate();
            server.restart();
        }
        let operator = Client::operator(&server).await;
        let reads = |server: &Server| server.metric("portcullis_cache_misses_total").unwrap();
        let before = reads(&server);
        for number in 0..2_000 {
            let stranger = format!("stranger {number}");
            assert_eq!(reason(&operator, &stranger).await, Reason::TokenMalformed);
        }
        let read = reads(&server) - before;
        assert!(read <= 2, "{read} of 2000 strangers reached the store");
        for secret in secrets.iter().step_by(50) {
            assert_eq!(reason(&operator, secret).await, Reason::Allowed);
        }
        assert_eq!(server.metric("portcullis_imported_tokens"), Some(1_000));
    }
}

/// The secrets that one importer sends, call by call, until a call fails.
async fn send_all(client: &Client, account: &str, secrets: &[String]) -> usize {
    let mut made = 0;
    for part in secrets.chunks(100) {
        let items = part.iter().map(|secret| item(secret)).collect();
        match try_import(client, account, items).await {
            Ok(answer) => {
                let is_new = |result: &&ImportTokenResult| {
                    token(result);
                    !result.already_existed
                };
                made += answer.results.iter().filter(is_new).count();
            }
            Err(_) => break,
        }
    }
    made
}

async fn names(client: &Client, account: &str) -> Vec<String> {
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let account_id = account.to_owned();
        let request =
            ListTokensRequest { account_id, page_size: 1_000, page_token, ..Default::default() };
        let page = client.tokens().list_tokens(request).await.unwrap().into_inner();
        names.extend(page.tokens.into_iter().map(|token| token.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

/// Rule 10.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_a_kill_interrupts_is_resumed_with_each_token_once() {
    const TOKENS: usize = 3_000;
    let url = postgres::database();
    for mut server in [Setup::sqlite().start(), Setup::postgres(&url).start()] {
        let operator = Client::operator(&server).await;
        let account = operator.account().await.account_id;
        let secrets: Vec<_> = (0..TOKENS).map(|number| format!("secret {number}")).collect();
        let mut importer = JoinSet::new();
        {
            let (operator, account, secrets) = (operator.clone(), account.clone(), secrets.clone());
            importer.spawn(async move { send_all(&operator, &account, &secrets).await });
        }
        until_async(async || names(&operator, &account).await.len(), |&n| n >= 300).await;
        server.kill9();
        importer.join_all().await;
        server.restart();
        let operator = Client::operator(&server).await;
        let there = names(&operator, &account).await.len();
        assert!(there >= 300 && there.is_multiple_of(100), "{there}");
        // Two at once go on.
        let mut importers = JoinSet::new();
        for _ in 0..2 {
            let (operator, account, secrets) = (operator.clone(), account.clone(), secrets.clone());
            importers.spawn(async move { send_all(&operator, &account, &secrets).await });
        }
        let made: usize = importers.join_all().await.into_iter().sum();
        assert_eq!(made, TOKENS - there);
        assert_eq!(names(&operator, &account).await.len(), TOKENS);
        let allowed = tokio::time::timeout(Duration::from_secs(20), async {
            for secret in secrets.iter().step_by(100) {
                assert_eq!(reason(&operator, secret).await, Reason::Allowed, "{secret}");
            }
        });
        allowed.await.unwrap();
    }
}
