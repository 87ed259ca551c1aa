//! A token's bearer over gRPC: reads what the token is, and revokes it (docs/policy.md, section 11).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::net::IpAddr;
use std::time::Duration;

use futures_util::{future, stream};
use portcullis::grpc::proto::{
    DeleteTokenRequest, GetSelfRequest, GetTokenRequest, PendingActionType, RevokeSelfRequest,
    RevokeSelfResponse, SelfToken, SetTokenExpiryRequest, TokenKind, TokenState,
};
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::replicas::stage::Stage;
use crate::roles::plan_deletion;
use crate::support::client::{Client, refusal};
use crate::support::postgres;
use crate::support::raw::Raw;
use crate::support::server::{Server, Setup, random_credential};
use crate::support::wait::until_async;

/// Failures after which an address is limited.
const MOST: usize = 20;
/// Calls of one address at once.
const AT_ONCE: usize = 16;

async fn get(client: &Client, secret: &str) -> Result<SelfToken, Status> {
    let answer = client.with(secret).own().get_self(GetSelfRequest {}).await?;
    Ok(answer.into_inner().token.unwrap())
}

async fn revoke(client: &Client, secret: &str) -> Result<RevokeSelfResponse, Status> {
    let answer = client.with(secret).own().revoke_self(RevokeSelfRequest {}).await?;
    Ok(answer.into_inner())
}

async fn delete(operator: &Client, token_id: &str) {
    let request = DeleteTokenRequest { token_id: token_id.to_owned(), no_wait: false };
    operator.tokens().delete_token(request).await.unwrap();
}

/// A connection from another address of this host.
async fn from(server: &Server, address: &str) -> Client {
    let address: IpAddr = address.parse().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc())).unwrap();
    Client::over(endpoint.local_address(Some(address)).connect().await.unwrap(), "nobody")
}

/// Rules 11.20 and 11.22.
#[tokio::test]
async fn the_bearer_learns_what_the_token_is_and_nothing_of_that_is_a_use() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) =
        operator.token(&account, TokenKind::Custom, &["transactions.read"], &["127.0.0.1"]).await;
    plan_deletion(&url, &account, &token.token_id).await;
    let stored = async || {
        let request = GetTokenRequest { token_id: token.token_id.clone() };
        operator.tokens().get_token(request).await.unwrap().into_inner().token.unwrap()
    };
    let before = stored().await;
    assert_eq!(before.pending_actions.len(), 1);

    let own = get(&operator, &secret).await.unwrap();
    assert_eq!(
        (&own.token_id, &own.name, own.kind(), own.state(), &own.granted_scopes[..]),
        (
            &token.token_id,
            &token.name,
            TokenKind::Custom,
            TokenState::Active,
            &["transactions.read".to_owned()][..]
        )
    );
    let [action] = &own.pending_actions[..] else { panic!("{own:?}") };
    assert_eq!(action.r#type(), PendingActionType::Deletion);
    assert!(action.effective_time.is_some() && !action.how_to_keep.is_empty(), "{action:?}");
    let all = format!("{own:?}");
    assert!(!all.contains("127.0.0.1") && !all.contains("example.com"), "{all}");
    assert!(!all.contains(&account), "{all}");

    // Uses are written every second, and the last ones when the server ends.
    let mut server = server;
    server.terminate();
    server.restart();
    let operator = Client::operator(&server).await;
    let request = GetTokenRequest { token_id: token.token_id.clone() };
    let after = operator.tokens().get_token(request).await.unwrap().into_inner().token.unwrap();
    assert_eq!((after.last_use_time, after.pending_actions.len()), (None, 1));
}

/// Rules 11.1, 11.20 and 11.22.
#[tokio::test]
async fn the_bearer_learns_when_the_token_expires_and_can_revoke_it_after_that() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(get(&operator, &secret).await.unwrap().expire_time, None);

    let ttl = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    let token_id = token.token_id;
    let request = SetTokenExpiryRequest { token_id, ttl, ..Default::default() };
    let changed = operator.tokens().set_token_expiry(request).await.unwrap().into_inner();
    let expires = changed.token.unwrap().expire_time;
    assert!(expires.is_some());
    match get(&operator, &secret).await {
        Ok(own) => assert_eq!(own.expire_time, expires),
        // Where this took longer than two seconds.
        denied => assert_eq!(refusal(denied).1, "TOKEN_EXPIRED"),
    }
    until_async(async || get(&operator, &secret).await.is_err(), |denied| *denied).await;
    let expired = (Code::Unauthenticated, "TOKEN_EXPIRED".to_owned());
    assert_eq!(refusal(get(&operator, &secret).await), expired);
    assert!(revoke(&operator, &secret).await.unwrap().propagation.unwrap().complete);
}

/// Rule 11.22.
#[tokio::test]
async fn reading_obeys_the_whitelist_and_the_state_and_revoking_neither() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (elsewhere, secret) =
        operator.token(&account, TokenKind::ReadWrite, &[], &["192.0.2.1"]).await;
    assert_eq!(
        refusal(get(&operator, &secret).await),
        (Code::PermissionDenied, "CLIENT_IP_NOT_WHITELISTED".to_owned())
    );
    let (deleted, gone) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    get(&operator, &gone).await.unwrap();
    delete(&operator, &deleted.token_id).await;
    let denied = (Code::Unauthenticated, "TOKEN_DELETED".to_owned());
    assert_eq!(refusal(get(&operator, &gone).await), denied);

    // Rule 11.23.
    for (token, secret) in [(&elsewhere, &secret), (&deleted, &gone)] {
        for _ in 0..2 {
            let revoked = revoke(&operator, secret).await.unwrap();
            let own = revoked.token.unwrap();
            assert_eq!((&own.token_id, own.state()), (&token.token_id, TokenState::Deleted));
            assert!(own.delete_time.is_some() && own.granted_scopes.is_empty(), "{own:?}");
            assert!(revoked.propagation.unwrap().complete);
        }
        assert_eq!(refusal(get(&operator, secret).await), denied);
    }
    let events = operator.audit().await;
    let deletions: Vec<_> = events.iter().filter(|event| event.action == "token.delete").collect();
    let [by_operator, by_bearer] = &deletions[..] else { panic!("{deletions:?}") };
    assert_eq!((&*by_operator.actor_role, &by_operator.token_id), ("operator", &deleted.token_id));
    assert_eq!(
        (&*by_bearer.actor, &*by_bearer.actor_role, &*by_bearer.client_address),
        (&*elsewhere.token_id, "bearer", "127.0.0.1")
    );
}

/// Rule 11.20.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_are_bounded_by_address_also_once_their_callers_have_gone_away() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let (_, revoked_secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let elsewhere = from(&server, "127.0.0.2").await;

    let mut lock = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE token IN ACCESS EXCLUSIVE MODE")
        .execute(&mut lock)
        .await
        .unwrap();
    let overloaded = (Code::Unavailable, "OVERLOADED".to_owned());
    let refused = until_async(
        async || {
            let impatient =
                || tokio::time::timeout(Duration::from_millis(200), get(&operator, &secret));
            future::join_all((0..=AT_ONCE).map(|_| impatient())).await
        },
        |answers| {
            let refused = |answer: &_| matches!(answer, Ok(Err(_)));
            answers.iter().any(refused)
        },
    )
    .await;
    let refused = refused.into_iter().find_map(|answer| answer.ok()?.err()).unwrap();
    assert_eq!(refusal::<()>(Err(refused)), overloaded);

    // Another address has its share, and a revocation needs none.
    let waiting =
        async { tokio::join!(get(&elsewhere, &secret), revoke(&operator, &revoked_secret)) };
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    };
    let ((read, revoked), ()) = tokio::join!(waiting, release);
    read.unwrap();
    revoked.unwrap();
}

/// Rule 11.20.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_message_is_withheld_keep_nobody_from_revoking() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (known, of_thief) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    delete(&operator, &known.token_id).await;
    let bearer = format!("Bearer {of_thief}");
    let raw = Raw::connect(server.grpc()).await;
    let mut withheld = JoinSet::new();
    for call in 0..2 * AT_ONCE {
        let (raw, bearer) = (raw.clone(), bearer.clone());
        let path = ["/portcullis.v1.SelfService/GetSelf", "/portcullis.v1.SelfService/RevokeSelf"];
        withheld.spawn(async move {
            raw.open(path[call % 2], &[&bearer], stream::pending()).await.map(drop)
        });
    }
    // They have arrived once the server has no room for more of them, or all are there.
    let ended = tokio::time::timeout(Duration::from_millis(300), withheld.join_next()).await;
    assert!(ended.is_err(), "{ended:?}");
    // More at once than may read.
    let secrets = future::join_all(
        (0..2 * AT_ONCE)
            .map(async |_| operator.token(&account, TokenKind::ReadOnly, &[], &[]).await.1),
    );
    let secrets = secrets.await;
    let answers = secrets.iter().map(|secret| revoke(&operator, secret));
    for answer in future::join_all(answers).await {
        answer.unwrap();
    }
    get(&operator, &of_thief).await.unwrap_err();
    withheld.abort_all();
}

/// Rules 10.7 and 11.20.
#[tokio::test]
async fn a_secret_behind_its_scheme_opens_the_same_token() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let marked = format!("Secret-Token:{secret}");
    assert_eq!(get(&operator, &marked).await.unwrap().token_id, token.token_id);
    revoke(&operator, &marked).await.unwrap();
    let deleted = (Code::Unauthenticated, "TOKEN_DELETED".to_owned());
    assert_eq!(refusal(get(&operator, &secret).await), deleted);
}

/// Rule 11.20.
#[tokio::test]
async fn a_request_has_at_most_one_kibibyte() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let raw = Raw::connect(server.grpc()).await;
    let bearer = format!("Bearer {secret}");
    // A field that the message does not have: its tag, its length in two bytes, and the rest.
    let message = |length: usize| {
        let rest = length - 3;
        [vec![15 << 3 | 2, (rest & 0x7f) as u8 | 0x80, (rest >> 7) as u8], vec![0; rest]].concat()
    };
    let path = "/portcullis.v1.SelfService/GetSelf";
    raw.call(path, Some(&bearer), message(1 << 10)).await.unwrap();
    let refused = raw.call(path, Some(&bearer), message((1 << 10) + 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
}

/// Rule 11.21.
#[tokio::test]
async fn strangers_get_one_answer_and_are_limited_by_address_and_bearers_are_not() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let elsewhere = Setup::sqlite().start();
    let other = Client::operator(&elsewhere).await;
    let other_account = other.account().await.account_id;
    let (_, forged) = other.token(&other_account, TokenKind::ReadOnly, &[], &[]).await;
    let mut mistyped = secret.clone();
    mistyped.replace_range(30..31, if &secret[30..31] == "0" { "1" } else { "0" });

    let stranger = from(&server, "127.0.0.2").await;
    let reads = server.metric("portcullis_cache_misses_total");
    let strange =
        [forged, mistyped, "x".to_owned(), random_credential(), server.operator().to_owned()];
    let mut answers = Vec::new();
    for secret in &strange {
        for status in [
            get(&stranger, secret).await.unwrap_err(),
            revoke(&stranger, secret).await.unwrap_err(),
        ] {
            let mut headers = status.metadata().clone().into_headers();
            headers.remove("date");
            // Each has its own.
            assert!(headers.remove("x-request-id").is_some(), "{headers:?}");
            answers.push((status.code(), status.message().to_owned(), headers));
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let unknown = (Code::Unauthenticated, "TOKEN_NOT_FOUND".to_owned());
    assert_eq!(refusal(get(&stranger, "x").await), unknown);
    assert_eq!(server.metric("portcullis_cache_misses_total"), reads, "a stranger was looked up");

    for _ in answers.len() + 1..MOST {
        assert_eq!(refusal(get(&stranger, &strange[0]).await), unknown);
    }
    for secret in &strange {
        let status = revoke(&stranger, secret).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.get_error_details().retry_info().unwrap().retry_delay.is_some());
    }
    // Another address, and a valid secret from the same one.
    assert_eq!(refusal(get(&from(&server, "127.0.0.3").await, "x").await), unknown);
    get(&stranger, &secret).await.unwrap();
    revoke(&stranger, &secret).await.unwrap();
}

/// Rules 11.20 and 11.23.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_binds_on_every_replica_and_one_without_a_lease_answers_nothing() {
    let stage = Stage::new(2).await;
    let (_, secret) = stage.token(0).await;
    let (_, kept) = stage.token(0).await;
    stage.allows(1, &secret).await;
    assert!(revoke(&stage.clients[0], &secret).await.unwrap().propagation.unwrap().complete);
    stage.denies(1, &secret).await;

    // From memory, for as long as the lease holds.
    stage.allows(1, &kept).await;
    stage.cut(1, true);
    let undecided = |answer: &Result<_, Status>| {
        answer.as_ref().is_err_and(|status| status.code() == Code::Unavailable)
    };
    let answer = until_async(async || stage.ask(1, &kept).await, undecided).await;
    assert!(undecided(&answer));
    for secret in [&*kept, "x"] {
        let refused = get(&stage.clients[1], secret).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        let refused = revoke(&stage.clients[1], secret).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    }
    stage.cut(1, false);
    stage.comes_back(1, &kept).await;
    get(&stage.clients[1], &kept).await.unwrap();
}
