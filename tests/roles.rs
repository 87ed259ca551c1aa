//! Who may do what: every method of every service, called with every kind of credential, as one
//! table (`snapshots/roles__every_call_by_every_caller.snap`); and that an account admin sees one
//! account and cannot tell that others exist (docs/policy.md, section 8).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fmt::Write as _;

use crate::support::calls::{self, World, credential, position};
use crate::support::client::Client;
use crate::support::postgres;
use crate::support::raw::{Answer, Raw};
use crate::support::server::{Setup, random_credential};
use portcullis::grpc::proto::{
    DeleteTokenRequest, GetTokenRequest, ListAccountsRequest, ListAuditEventsRequest,
    ListPendingActionsRequest, ListTokensRequest, PreviewLifecycleRequest, RevokeCredentialRequest,
    Role, TokenKind,
};
use portcullis::policy::id::{AccountId, TokenId};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tonic::Code;
use uuid::Uuid;

fn code(answer: &Answer) -> String {
    answer.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "Ok".to_owned())
}

/// Rules 1.10, 8.2 and 8.3.
#[tokio::test]
async fn every_call_by_every_caller() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let raw = Raw::connect(server.grpc()).await;
    let world = World::new(&operator).await;
    let other = operator.account().await.account_id;

    let bearer = |secret: &str| Some(format!("Bearer {secret}"));
    let (revoked, revoked_secret) = credential(&operator, Role::Operator, "").await;
    let revoke = RevokeCredentialRequest { credential_id: revoked.credential_id, no_wait: false };
    operator.credentials().revoke_credential(revoke).await.unwrap();
    let callers = [
        ("none", None),
        ("wrong", bearer(&random_credential())),
        ("malformed", Some(format!("Basic {}", server.operator()))),
        ("revoked", bearer(&revoked_secret)),
        ("pep", bearer(&credential(&operator, Role::Pep, "").await.1)),
        (
            "its admin",
            bearer(&credential(&operator, Role::AccountAdmin, &world.account_id).await.1),
        ),
        ("other admin", bearer(&credential(&operator, Role::AccountAdmin, &other).await.1)),
        ("operator", bearer(server.operator())),
    ];

    let mut calls = Vec::new();
    for method in calls::methods().iter().chain(&calls::foreign_methods()) {
        let example = &world.examples(method)[0];
        calls.push((calls::path(method), calls::bytes(method, example)));
    }
    // What nobody has thought of yet is for operators, who learn that it does not exist.
    for unknown in ["/portcullis.v1.TokenService/Unknown", "/portcullis.v1.Unknown/Get"] {
        calls.push((unknown.to_owned(), Vec::new()));
    }

    let mut table = String::new();
    let mut row = |head: &str, cells: &[String]| {
        let mut text = format!("{head:66}");
        for cell in cells {
            let _ = write!(text, "{cell:17}");
        }
        let _ = writeln!(table, "{}", text.trim_end());
    };
    row("", &callers.each_ref().map(|(name, _)| (*name).to_owned()));
    for (path, message) in calls {
        let mut cells = Vec::new();
        for (_, authorization) in &callers {
            let answer = raw.call(&path, authorization.as_deref(), message.clone()).await;
            cells.push(code(&answer));
        }
        row(&path[1..], &cells);
    }
    insta::assert_snapshot!(table);
}

#[tokio::test]
async fn who_may_not_call_changes_nothing() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let raw = Raw::connect(server.grpc()).await;
    let world = World::new(&operator).await;
    let pep = format!("Bearer {}", credential(&operator, Role::Pep, "").await.1);

    let before = position(&operator).await;
    for method in calls::methods() {
        let path = calls::path(&method);
        let example = calls::bytes(&method, &world.examples(&method)[0]);
        raw.call(&path, None, example.clone()).await.expect_err(&path);
        if !["AuthorizationService", "SelfService"].contains(&method.parent_service().name()) {
            // Refused before a byte of the message is read: garbage gets the same answer.
            let refused = raw.call(&path, Some(&pep), example).await.expect_err(&path);
            let garbage = raw.call(&path, Some(&pep), &b"\xff\xff"[..]).await.expect_err(&path);
            assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{path}");
            assert_eq!(refused.message(), garbage.message(), "{path}");
        }
    }
    assert_eq!(position(&operator).await, before);
}

/// Requests of an account admin in which `ACCOUNT` and `TOKEN` stand for ids.
fn probes() -> Vec<(&'static str, Value)> {
    let (account, token) = ("ACCOUNT", "TOKEN");
    let create = |more: Value| {
        let mut request = json!({ "account_id": account, "name": "x" });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("TokenService.CreateToken", request)
    };
    let whitelist = |more: Value| {
        let mut request = json!({ "token_id": token });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("TokenService.ManageWhitelist", request)
    };
    vec![
        ("AccountService.GetAccount", json!({ "account_id": account })),
        create(json!({ "kind": "TOKEN_KIND_READ_ONLY" })),
        create(json!({ "kind": "TOKEN_KIND_READ_ONLY", "validate_only": true })),
        create(json!({ "kind": "TOKEN_KIND_READ_WRITE" })),
        create(json!({ "kind": "TOKEN_KIND_CUSTOM", "scopes": ["no.such.scope"] })),
        ("TokenService.GetToken", json!({ "token_id": token })),
        ("TokenService.GetTokenUsage", json!({ "token_id": token })),
        ("TokenService.DeleteToken", json!({ "token_id": token })),
        ("TokenService.DeleteToken", json!({ "token_id": token, "no_wait": true })),
        whitelist(json!({})),
        whitelist(json!({ "expected_version": 1 })),
        whitelist(json!({ "expected_version": 99 })),
        whitelist(json!({ "add": ["198.51.100.1"] })),
        whitelist(json!({ "add": ["198.51.100.1"], "expected_version": 99 })),
        whitelist(json!({ "add": ["198.51.100.1"], "validate_only": true })),
        whitelist(json!({ "add": ["bad"] })),
        whitelist(json!({ "remove": ["10.0.0.0/8"] })),
        whitelist(json!({ "remove": ["198.51.100.1"] })),
        whitelist(json!({ "replace": { "entries": ["198.51.100.1"] } })),
        whitelist(json!({ "replace": {} })),
        whitelist(json!({ "replace": { "allow_any_address": true } })),
        ("TokenService.ListTokens", json!({ "account_id": account })),
        ("TokenService.ListTokens", json!({ "account_id": account, "show_deleted": true })),
        ("TokenService.ListTokens", json!({ "account_id": account, "page_size": -1 })),
        ("TokenService.ListTokens", json!({ "account_id": account, "page_token": "bad" })),
        ("TokenService.ListPendingActions", json!({ "account_id": account })),
        ("TokenService.ListPendingActions", json!({ "token_id": token })),
        ("TokenService.ListPendingActions", json!({ "account_id": account, "token_id": token })),
        ("TokenService.ListDenials", json!({ "account_id": account })),
        ("TokenService.ListDenials", json!({ "token_id": token })),
        ("TokenService.ListDenials", json!({ "account_id": account, "token_id": token })),
        ("TokenService.ListAuditEvents", json!({ "account_id": account, "page_size": 1 })),
        ("TokenService.ListAuditEvents", json!({ "token_id": token, "page_size": 1 })),
        ("TokenService.ListAuditEvents", json!({ "account_id": account, "token_id": token })),
        (
            "AccountService.SetAccountAdmins",
            json!({ "account_id": account, "admin_emails": ["a@b.c"] }),
        ),
        ("CredentialService.CreateCredential", json!({ "role": 2, "account_id": account })),
    ]
}

/// All of an answer, with each id replaced by its name, that of the request too. Ids have one length, so that nothing
/// else shifts.
fn whole(answer: Answer, ids: [&str; 2]) -> String {
    let text = match answer {
        Ok(bytes) => format!("Ok {}", bytes.escape_ascii()),
        Err(status) => {
            let mut headers = status.metadata().clone().into_headers();
            headers.remove("date");
            let request =
                headers.remove("x-request-id").expect("an error has the id of its request");
            let details = status.details().escape_ascii();
            let text = format!("{:?} {} {headers:?} {details}", status.code(), status.message());
            text.replace(request.to_str().unwrap(), "REQUEST")
        }
    };
    text.replace(ids[0], "ACCOUNT").replace(ids[1], "TOKEN")
}

#[tokio::test]
async fn an_account_admin_cannot_tell_another_account_from_none() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let raw = Raw::connect(server.grpc()).await;
    let own = operator.account().await.account_id;
    let admin = format!("Bearer {}", credential(&operator, Role::AccountAdmin, &own).await.1);

    let account = operator.account().await.account_id;
    let (token, _) = operator.token(&account, TokenKind::ReadWrite, &[], &["10.0.0.0/8"]).await;
    let (open, _) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let (deleted, _) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let delete = DeleteTokenRequest { token_id: deleted.token_id.clone(), no_wait: false };
    operator.tokens().delete_token(delete).await.unwrap();
    let never = (AccountId(Uuid::now_v7()).to_string(), TokenId(Uuid::now_v7()).to_string());

    let methods = calls::methods();
    let before = position(&operator).await;
    for (name, probe) in probes() {
        let method = methods.iter().find(|m| m.full_name().ends_with(name)).unwrap();
        let ask = async |account: &str, token: &str| {
            let json = probe.to_string().replace("ACCOUNT", account).replace("TOKEN", token);
            // The kinds of tokens have TOKEN in their names.
            let json = json.replace(&format!("{token}_KIND"), "TOKEN_KIND");
            let message = calls::bytes(method, &serde_json::from_str(&json).unwrap());
            let answer = raw.call(&calls::path(method), Some(&admin), message).await;
            whole(answer, [account, token])
        };
        let none = ask(&never.0, &never.1).await;
        for token in [&token, &open, &deleted] {
            assert_eq!(ask(&account, &token.token_id).await, none, "{name} {probe}");
        }
        // Of lists, the whole answer is empty; of everything else there is none.
        let list = method.name().starts_with("List") && probe["page_size"] != -1;
        let bad = probe["page_token"] == "bad";
        assert_eq!(none == "Ok ", list && !bad, "{name} {probe}: {none}");
    }
    assert_eq!(position(&operator).await, before, "something was changed");
    let got =
        operator.tokens().get_token(GetTokenRequest { token_id: token.token_id.clone() }).await;
    assert_eq!(got.unwrap().into_inner().token, Some(token));
}

#[tokio::test]
async fn an_account_admin_sees_its_account_in_every_list() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let operator = Client::operator(&server).await;
    let own = operator.account().await.account_id;
    let other = operator.account().await.account_id;
    let mut tokens = Vec::new();
    for account in [&own, &other, &own, &other, &own] {
        let (token, _) = operator.token(account, TokenKind::ReadOnly, &[], &[]).await;
        plan_deletion(&url, account, &token.token_id).await;
        tokens.push(token);
    }
    let admin = operator.with(&credential(&operator, Role::AccountAdmin, &own).await.1);
    let own_tokens: Vec<_> = tokens.iter().filter(|t| t.account_id == own).collect();

    // One a page, so that a page's end shows nothing of what comes between.
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTokensRequest { page_size: 1, page_token, ..Default::default() };
        let page = admin.tokens().list_tokens(request).await.unwrap().into_inner();
        assert_eq!(page.tokens.len(), 1);
        seen.extend(page.tokens.into_iter().map(|token| token.token_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(seen.iter().eq(own_tokens.iter().map(|token| &token.token_id)), "{seen:?}");

    let accounts = admin.accounts().list_accounts(ListAccountsRequest::default()).await.unwrap();
    let accounts = accounts.into_inner();
    assert_eq!(accounts.accounts.len(), 1);
    assert_eq!(
        (accounts.accounts[0].account_id.as_str(), accounts.next_page_token),
        (&*own, "".into())
    );

    let pending = ListPendingActionsRequest::default();
    let pending = admin.tokens().list_pending_actions(pending).await.unwrap().into_inner();
    let pending: Vec<_> = pending.pending_actions.iter().map(|action| &action.token_id).collect();
    assert!(
        pending.iter().eq(&own_tokens.iter().map(|t| &t.token_id).collect::<Vec<_>>()),
        "{pending:?}"
    );
    for token in &tokens {
        let request =
            ListPendingActionsRequest { token_id: token.token_id.clone(), ..Default::default() };
        let found = admin.tokens().list_pending_actions(request).await.unwrap().into_inner();
        assert_eq!(found.pending_actions.len(), usize::from(token.account_id == own));
    }

    // A preview looks at no other account's tokens, and can't be made to.
    for (account_id, count) in [("", 3), (&own, 3), (&other, 0)] {
        let request = PreviewLifecycleRequest { account_id: account_id.to_owned() };
        let preview = admin.tokens().preview_lifecycle(request).await.unwrap().into_inner();
        assert_eq!(preview.token_count, count);
        let noticed: i64 = preview.days.iter().map(|day| day.deletions_noticed).sum();
        assert_eq!(noticed, 0, "all of them are announced");
    }

    let events = admin.tokens().list_audit_events(ListAuditEventsRequest::default()).await.unwrap();
    let events = events.into_inner().audit_events;
    assert!(events.iter().all(|event| event.account_id == own), "{events:?}");
    let created = events.iter().filter(|event| event.action == "token.create");
    assert_eq!(created.count(), own_tokens.len());
}

/// Plans a deletion: the sweeper would, and takes longer than a test has.
pub(crate) async fn plan_deletion(url: &str, account: &str, token: &str) {
    let (account, token) =
        (account.parse::<AccountId>().unwrap(), token.parse::<TokenId>().unwrap());
    let mut store = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::query(
        "INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, basis_time, \
         create_time) VALUES ($1, $2, $3, 'token', 4102444800000000, 0)",
    )
    .bind(Uuid::now_v7())
    .bind(token.0)
    .bind(account.0)
    .execute(&mut store)
    .await
    .unwrap();
}

/// docs/policy.md, rule 8.1: of several headers, none counts, wherever the valid one stands.
#[tokio::test]
async fn a_call_with_several_authorization_headers_is_refused() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let world = World::new(&operator).await;
    let raw = Raw::connect(server.grpc()).await;
    let valid = format!("Bearer {}", server.operator());
    let (_, pep) = calls::credential(&operator, Role::Pep, "").await;
    let pep = format!("Bearer {pep}");
    let mut asked: Vec<_> = calls::methods()
        .iter()
        .map(|method| {
            let own = world.own_secret(method).map(|secret| format!("Bearer {secret}"));
            let message = calls::bytes(method, &world.examples(method)[0]);
            (calls::path(method), message, own.unwrap_or_else(|| valid.clone()))
        })
        .collect();
    // `ServerReflectionRequest.list_services`
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        asked.push((path, b"\x3a\x01*".to_vec(), valid.clone()));
    }
    for (path, message, valid) in asked {
        let ask = async |authorizations: &[&str]| {
            let messages = vec![message.clone().into()];
            let mut answers = raw.exchange_as(&path, authorizations, messages).await?;
            answers.message().await
        };
        for authorizations in [
            [&*valid, &*valid],
            [&*valid, "Bearer nobody"],
            ["Bearer nobody", &*valid],
            [&*valid, ""],
            ["", &*valid],
            [&*valid, &*pep],
            [&*pep, &*valid],
        ] {
            let refused = ask(&authorizations).await.expect_err(&path);
            assert_eq!(refused.code(), Code::Unauthenticated, "{path} {refused:?}");
            assert!(refused.message().contains("more than one"), "{path} {refused:?}");
        }
        ask(&[&valid]).await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
    }
}
