//! Bad input: every field of every call with every kind of wrong value, and bytes that are no
//! message. What is wrong is `INVALID_ARGUMENT` and names the field, changes nothing, and leaves the
//! server alive. The faults are made from the descriptors: see `support/faults.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeSet;

use crate::support::calls::{self, World, position};
use crate::support::client::{Client, question};
use crate::support::faults::{Fault, paths, wrong_bytes, wrong_values};
use crate::support::raw::{Answer, Raw};
use crate::support::server::{Server, Setup};
use bytes::Bytes;
use portcullis::grpc::proto::{
    ApplyCatalogRequest, AuthorizeResponse, BatchAuthorizeResponse, CreateAccountRequest,
    CreateCredentialRequest, CreateTokenRequest, Decision, ImportTokensResponse,
    ListAccountsRequest, ListAuditEventsRequest, ListTokensRequest, Reason, Role,
    SetAccountAdminsRequest, StreamAuthorizeResponse, TokenKind, batch_authorize_result,
    import_token_result, stream_authorize_response,
};
use portcullis::policy::text::is_hidden;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::{Status as ItemStatus, StatusExt as _};

/// Most clients accept so many bytes of headers, counted as HTTP/2 does.
const MAX_HEADERS: usize = 8 << 10;

/// What is not a fault although it looks like one: the end of the method's name, the field, the
/// wrong value (empty: any), and the answer. The first that fits counts; everything else, and every
/// wrong encoding, is `INVALID_ARGUMENT`.
const ALLOWED: &[(&str, &str, &str, Code)] = &[
    // Any token that is text is a decision, and so is any method and path that is given.
    ("Authorize", "token", "", Code::Ok),
    ("Authorize", "http.method", "empty", Code::InvalidArgument),
    ("Authorize", "http.method", "", Code::Ok),
    ("Authorize", "http.path", "empty", Code::InvalidArgument),
    ("Authorize", "http.path", "", Code::Ok),
    ("Authorize", "client_ip", "empty", Code::Ok),
    // Labels are for people, in any language.
    ("", "name", "wrong", Code::Ok),
    ("", "name", "not ASCII", Code::Ok),
    ("CreateCredential", "name", "empty", Code::Ok),
    ("CreateCredential", "name", "blank", Code::Ok),
    // What a gateway's client is read from has defaults.
    ("CreateCredential", "client_source", "left out", Code::Ok),
    ("CreateCredential", "client_source.address_header", "empty", Code::Ok),
    ("CreateCredential", "client_source.trusted_proxies", "left out", Code::Ok),
    ("CreateCredential", "client_source.token_header", "empty", Code::Ok),
    ("CreateCredential", "client_source.method_header", "empty", Code::Ok),
    ("CreateCredential", "client_source.uri_header", "empty", Code::Ok),
    // A token need not end by itself.
    ("CreateToken", "expire_time", "left out", Code::Ok),
    ("CreateToken", "ttl", "left out", Code::Ok),
    ("ImportTokens", "whitelist", "left out", Code::Ok),
    ("ImportTokens", "create_time", "left out", Code::Ok),
    ("ImportTokens", "last_use_time", "left out", Code::Ok),
    ("ImportTokens", "expire_time", "left out", Code::Ok),
    // A successor is like its predecessor.
    ("ReplaceToken", "overlap", "left out", Code::Ok),
    ("ReplaceToken", "scopes", "left out", Code::Ok),
    ("ReplaceToken", "whitelist", "left out", Code::Ok),
    ("ReplaceToken", "expire_time", "left out", Code::Ok),
    ("ReplaceToken", "ttl", "left out", Code::Ok),
    // A filter that is not set.
    ("ListTokens", "account_id", "empty", Code::Ok),
    ("ListPendingActions", "account_id", "empty", Code::Ok),
    ("ListPendingActions", "token_id", "empty", Code::Ok),
    ("ListPendingActions", "type", "unspecified", Code::Ok),
    ("ListPendingActions", "effective_before", "left out", Code::Ok),
    ("PreviewLifecycle", "account_id", "empty", Code::Ok),
    ("ListDenials", "account_id", "empty", Code::Ok),
    ("ListDenials", "token_id", "empty", Code::Ok),
    ("ListAuditEvents", "account_id", "empty", Code::Ok),
    ("ListAuditEvents", "token_id", "empty", Code::Ok),
    ("ListAuditEvents", "start_time", "left out", Code::Ok),
    ("ListAuditEvents", "end_time", "left out", Code::Ok),
    ("", "page_token", "empty", Code::Ok),
    // Less of a change is a change, too; the last entry stays.
    ("ManageWhitelist", "add", "left out", Code::Ok),
    ("ManageWhitelist", "remove", "left out", Code::Ok),
    ("ManageWhitelist", "replace", "left out", Code::Ok),
    ("ManageWhitelist", "replace.entries", "left out", Code::FailedPrecondition),
    // A comment in any language.
    ("ApplyCatalog", "toml", "right-to-left override", Code::Ok),
    ("ApplyCatalog", "toml", "soft hyphen", Code::Ok),
    ("ApplyCatalog", "toml", "tag", Code::Ok),
    // However often an entry is named, it is one.
    ("CreateToken", "whitelist", "10,000 times the same", Code::Ok),
    ("ReplaceToken", "whitelist", "10,000 times the same", Code::Ok),
    ("ImportTokens", "whitelist", "10,000 times the same", Code::Ok),
    ("ManageWhitelist", "add", "10,000 times the same", Code::Ok),
    ("ManageWhitelist", "replace.entries", "10,000 times the same", Code::Ok),
    ("ManageWhitelist", "remove", "10,000 times the same", Code::Ok),
    // They are not there.
    ("ManageWhitelist", "remove", "10,000 items", Code::FailedPrecondition),
    ("ManageWhitelist", "remove", "10,000 items in one", Code::FailedPrecondition),
    // Without a mask, what is set is changed; and an expiry is one of several changes.
    ("UpdateToken", "update_mask", "left out", Code::Ok),
    ("UpdateToken", "update_mask.paths", "left out", Code::Ok),
    ("UpdateCredential", "name", "empty", Code::Ok),
    ("UpdateCredential", "name", "blank", Code::Ok),
    ("UpdateCredential", "expire_time", "left out", Code::Ok),
    ("CreateCredential", "expire_time", "left out", Code::Ok),
    ("CreateCredential", "ttl", "left out", Code::Ok),
    ("CreateWebhook", "event_types", "left out", Code::Ok),
    ("CreateWebhook", "name", "empty", Code::Ok),
    ("CreateWebhook", "name", "blank", Code::Ok),
    ("UpdateWebhook", "event_types.names", "left out", Code::Ok),
    ("UpdateWebhook", "event_types", "left out", Code::Ok),
    ("UpdateWebhook", "name", "empty", Code::Ok),
    ("UpdateWebhook", "name", "blank", Code::Ok),
    ("RotateWebhookSecret", "overlap", "left out", Code::Ok),
    // Any text may be somebody's secret; what is known of the place is free text.
    ("ReportLeakedTokens", "secrets", "blank", Code::Ok),
    ("ReportLeakedTokens", "secrets", "wrong", Code::Ok),
    ("ReportLeakedTokens", "secrets", "NUL", Code::Ok),
    ("ReportLeakedTokens", "secrets", "control characters", Code::Ok),
    ("ReportLeakedTokens", "secrets", "right-to-left override", Code::Ok),
    ("ReportLeakedTokens", "secrets", "soft hyphen", Code::Ok),
    ("ReportLeakedTokens", "secrets", "tag", Code::Ok),
    ("ReportLeakedTokens", "secrets", "invisible", Code::Ok),
    ("ReportLeakedTokens", "secrets", "not ASCII", Code::Ok),
    ("ReportLeakedTokens", "secrets", "left out", Code::Ok),
    ("ReportLeakedTokens", "secret_sha256s", "left out", Code::Ok),
    ("ReportLeakedTokens", "source", "empty", Code::Ok),
    ("ReportLeakedTokens", "source", "blank", Code::Ok),
    ("ReportLeakedTokens", "source", "wrong", Code::Ok),
    ("ReportLeakedTokens", "source", "not ASCII", Code::Ok),
    ("ReportLeakedTokens", "url", "empty", Code::Ok),
    ("ReportLeakedTokens", "url", "blank", Code::Ok),
    ("ReportLeakedTokens", "url", "wrong", Code::Ok),
    ("ReportLeakedTokens", "url", "not ASCII", Code::Ok),
];

struct Stage {
    server: Server,
    operator: Client,
    raw: Raw,
    world: World,
    bearer: String,
}

impl Stage {
    async fn set() -> Self {
        let server = Setup::sqlite().start();
        let operator = Client::operator(&server).await;
        let raw = Raw::connect(server.grpc()).await;
        let world = World::new(&operator).await;
        let bearer = format!("Bearer {}", server.operator());
        Self { server, operator, raw, world, bearer }
    }

    async fn call(&self, method: &MethodDescriptor, message: impl Into<Bytes>) -> Answer {
        let own = self.world.own_secret(method).map(|secret| format!("Bearer {secret}"));
        let bearer = own.as_ref().unwrap_or(&self.bearer);
        let answer = self.raw.call(&calls::path(method), Some(bearer), message).await;
        answer.and_then(|bytes| match item_error(method, &bytes) {
            Some(error) => Err(error),
            None => Ok(bytes),
        })
    }

    /// That good requests are still answered as they were.
    async fn is_alive(&self) {
        let ask = question(&self.world.secret, "10.1.2.3", "transactions.read");
        let answer = self.operator.authorization().authorize(ask).await.unwrap().into_inner();
        assert_eq!(answer.decision(), Decision::Allow, "{answer:?}");
        assert!(!self.server.log().contains("panic"), "{}", self.server.log());
    }
}

/// The first error of an item of a batch or a stream.
fn item_error(method: &MethodDescriptor, answer: &Bytes) -> Option<Status> {
    let error = match method.name() {
        "BatchAuthorize" => {
            let answer = BatchAuthorizeResponse::decode(&answer[..]).unwrap();
            answer.results.into_iter().find_map(|item| match item.result {
                Some(batch_authorize_result::Result::Error(error)) => Some(error),
                _ => None,
            })?
        }
        "ImportTokens" => {
            let answer = ImportTokensResponse::decode(&answer[..]).unwrap();
            answer.results.into_iter().find_map(|item| match item.result {
                Some(import_token_result::Result::Error(error)) => Some(error),
                _ => None,
            })?
        }
        "StreamAuthorize" => match StreamAuthorizeResponse::decode(&answer[..]).unwrap().result? {
            stream_authorize_response::Result::Error(error) => error,
            stream_authorize_response::Result::Response(_) => return None,
        },
        _ => return None,
    };
    let details = error.encode_to_vec().into();
    Some(Status::with_details(error.code.into(), error.message, details))
}

/// The fields that `status` blames, without indices.
fn blamed(status: &Status) -> Vec<String> {
    let violations =
        status.get_details_bad_request().map(|fault| fault.field_violations).unwrap_or_default();
    let name = |field: &str| field.split('[').next().unwrap_or_default().to_owned();
    violations.iter().map(|violation| name(&violation.field)).collect()
}

/// The name of a field within its item, where the request is a list of items.
fn of_item(field: &str) -> &str {
    let lists = ["requests.", "request.", "tokens."];
    lists.iter().find_map(|list| field.strip_prefix(list)).unwrap_or(field)
}

/// What is wrong with an answer; nothing where it is as it must be.
fn judge(method: &MethodDescriptor, fault: &Fault, answer: &Answer) -> Option<String> {
    let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
    // An item's error speaks of the item's own fields.
    let field = of_item(&fault.field);
    let allowed = |&&(end, of, what, _): &&(&str, &str, &str, Code)| {
        method.name().ends_with(end)
            && of == field
            && (what == fault.what || what.is_empty() && !fault.encoding)
    };
    let expected =
        ALLOWED.iter().find(allowed).map_or(Code::InvalidArgument, |&(_, _, _, code)| code);
    if code != expected {
        return Some(format!("{code:?} instead of {expected:?}"));
    }
    let Err(status) = answer else { return None };
    let size: usize = status
        .clone()
        .into_http::<()>()
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum();
    if size > MAX_HEADERS {
        return Some(format!("{size} bytes of headers"));
    }
    if status.message().chars().any(is_hidden) {
        return Some(format!("a message that repeats what is hostile: {:?}", status.message()));
    }
    let blamed = blamed(status);
    // Of a oneof, nothing tells which member was meant.
    let names = |blamed: &String| {
        let blamed = of_item(blamed);
        blamed == field || blamed == "operation" && ["scope", "http", "token"].contains(&field)
    };
    let named = field.is_empty() || blamed.iter().any(names);
    (code == Code::InvalidArgument && !named).then(|| format!("blames {blamed:?}"))
}

#[tokio::test]
async fn every_field_of_every_call() {
    let stage = Stage::set().await;
    let mut wrong = Vec::new();
    let mut cases = 0;
    for method in calls::methods() {
        let mut seen = BTreeSet::new();
        for example in stage.world.examples(&method) {
            let good = calls::message(&method, &example);
            let answer = stage.call(&method, good.encode_to_vec()).await;
            assert!(answer.is_ok(), "{} {example}: {answer:?}", method.name());
            let mut before = position(&stage.operator).await;
            let mut faults = wrong_values(&good);
            faults.extend(wrong_bytes(&method.input(), &good.encode_to_vec()));
            // An empty value where the example has none changes nothing.
            faults.retain(|fault| fault.bytes != good.encode_to_vec());
            for fault in faults {
                cases += 1;
                let answer = stage.call(&method, fault.bytes.clone()).await;
                let after = position(&stage.operator).await;
                let changed = (answer.is_err() && after != before)
                    .then(|| "an error, and yet something was changed".to_owned());
                for complaint in judge(&method, &fault, &answer).into_iter().chain(changed) {
                    let Fault { field, what, .. } = &fault;
                    wrong.push(format!("{}.{field} ({what}): {complaint}", method.name()));
                }
                before = after;
                seen.insert(fault.field);
            }
        }
        let missed: Vec<_> =
            paths(&method.input()).into_iter().filter(|path| !seen.contains(path)).collect();
        assert!(missed.is_empty(), "{}: no example sets {missed:?}", method.name());
    }
    println!("{cases} cases");
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
    stage.is_alive().await;
}

/// A bad item is its own error, even where its bytes are no message: the others are decided, and a
/// stream goes on. Rule 2.21.
#[tokio::test]
async fn a_bad_item_spoils_no_other() {
    let stage = Stage::set().await;
    let good = question(&stage.world.secret, "10.1.2.3", "transactions.read").encode_to_vec();
    let no_text = |number: u8| [&good[..], &[number << 3 | 2, 2, 0xff, 0xfe]].concat();
    // Each with the reason or the field at fault.
    let items = [
        (good.clone(), Ok(Reason::Allowed)),
        (no_text(1), Err("token")),
        (no_text(2), Err("client_ip")),
        (vec![0x1a, 200], Err("scope")),
        (vec![0x07], Err("")),
        (Vec::new(), Err("operation")),
        (good.clone(), Ok(Reason::Allowed)),
    ];
    let framed = |item: &[u8]| {
        let mut framed = vec![0x0a];
        prost::encoding::encode_varint(item.len() as u64, &mut framed);
        [framed, item.to_vec()].concat()
    };
    let judge = |how: &str, result: Result<AuthorizeResponse, ItemStatus>, wanted| match wanted {
        Ok(reason) => assert_eq!(result.unwrap().reason(), reason, "{how}"),
        Err(field) => {
            let error = result.unwrap_err();
            assert_eq!(error.code, i32::from(Code::InvalidArgument), "{how}");
            let status = Status::with_details(
                Code::InvalidArgument,
                error.message.clone(),
                error.encode_to_vec().into(),
            );
            assert_eq!(blamed(&status), [field], "{how}: {}", error.message);
        }
    };
    let path = |call: &str| format!("/portcullis.v1.AuthorizationService/{call}");

    let whole: Vec<u8> = items.iter().flat_map(|(item, _)| framed(item)).collect();
    let answer = stage.raw.call(&path("BatchAuthorize"), Some(&stage.bearer), whole).await.unwrap();
    let results = BatchAuthorizeResponse::decode(answer).unwrap().results;
    assert_eq!(results.len(), items.len());
    for (result, (item, wanted)) in results.into_iter().zip(&items) {
        let result = match result.result.unwrap() {
            batch_authorize_result::Result::Response(response) => Ok(*response),
            batch_authorize_result::Result::Error(error) => Err(error),
        };
        judge(&format!("in a batch: {item:x?}"), result, *wanted);
    }

    let messages = items.iter().map(|(item, _)| framed(item).into()).collect();
    let stream = path("StreamAuthorize");
    let mut answers = stage.raw.exchange(&stream, Some(&stage.bearer), messages).await.unwrap();
    for (item, wanted) in &items {
        let answer = answers.message().await.unwrap().expect("an answer to each");
        let result = match StreamAuthorizeResponse::decode(answer).unwrap().result.unwrap() {
            stream_authorize_response::Result::Response(response) => Ok(response),
            stream_authorize_response::Result::Error(error) => Err(error),
        };
        judge(&format!("in a stream: {item:x?}"), result, *wanted);
    }
    assert_eq!(answers.message().await.unwrap(), None);
    stage.is_alive().await;
}

/// All bad fields are named at once, not the first. Rules 2.1 and 2.15.
#[tokio::test]
async fn all_faults_of_a_request_are_named() {
    let stage = Stage::set().await;
    // The method, and each field with a wrong value. What is written as JSON can't hold some of
    // them: a time gets its fault afterwards.
    let cases = [
        ("Authorize", json!({ "client_ip": "x", "scope": "no.such" })),
        ("Authorize", json!({ "client_ip": "x", "http": { "method": "", "path": "" } })),
        (
            "CreateToken",
            json!({ "account_id": "x", "name": "", "kind": 99, "scopes": ["x"], "whitelist": ["x"] }),
        ),
        ("ListTokens", json!({ "account_id": "x", "page_size": -1, "page_token": "x" })),
        ("ManageWhitelist", json!({ "token_id": "x", "add": ["x"], "remove": ["x"] })),
        ("ManageWhitelist", json!({ "token_id": "x", "replace": { "entries": ["x"] } })),
        (
            "ListPendingActions",
            json!({
                "account_id": "x", "token_id": "x", "type": 99, "effective_before": SOME_TIME,
                "page_size": -1, "page_token": "x",
            }),
        ),
        (
            "ListAuditEvents",
            json!({
                "account_id": "x", "token_id": "x", "start_time": SOME_TIME,
                "end_time": SOME_TIME, "page_size": -1, "page_token": "x",
            }),
        ),
        ("CreateAccount", json!({ "name": "", "admin_emails": ["x", "a@b.c"] })),
        ("SetAccountAdmins", json!({ "account_id": "x", "admin_emails": ["x"] })),
        ("ListAccounts", json!({ "page_size": -1, "page_token": "x" })),
        ("CreateCredential", json!({ "role": 0, "name": "a\u{0}" })),
        (
            "CreateWebhook",
            json!({ "url": "http://10.0.0.1/", "event_types": ["x"], "name": "a\u{0}" }),
        ),
        (
            "CreateCredential",
            json!({ "role": "ROLE_ACCOUNT_ADMIN", "account_id": "x", "name": "a\u{0}" }),
        ),
    ];
    let methods = calls::methods();
    for (name, json) in cases {
        let method = methods.iter().find(|method| method.name() == name).unwrap();
        let mut request = calls::message(method, &json);
        spoil_times(&mut request);
        let status = stage.call(method, request.encode_to_vec()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name} {json}");
        let blamed = blamed(&status);
        let mut wanted = Vec::new();
        for (field, value) in json.as_object().unwrap() {
            match value.as_object() {
                // Good, so that the account is asked for.
                _ if value == "ROLE_ACCOUNT_ADMIN" => {}
                Some(within) => wanted.extend(within.keys().map(|key| format!("{field}.{key}"))),
                None => wanted.push(field.clone()),
            }
        }
        let missing: Vec<_> = wanted.iter().filter(|field| !blamed.contains(field)).collect();
        assert!(missing.is_empty(), "{name} {json}: {missing:?} not in {blamed:?}");
    }
}

const SOME_TIME: &str = "2026-01-01T00:00:00Z";

fn spoil_times(request: &mut DynamicMessage) {
    for (_, value) in request.fields_mut() {
        if let Some(time) = value.as_message_mut()
            && time.has_field_by_name("seconds")
        {
            time.set_field_by_name("nanos", prost_reflect::Value::I32(-1));
        }
    }
}

/// Rule 2.27.
#[tokio::test]
async fn an_oversized_message_is_refused_by_every_call() {
    let stage = Stage::set().await;
    let before = position(&stage.operator).await;
    // Field 1,000, which no message has, with 4 MiB of anything: what is unknown is skipped, unless
    // it is too large.
    let unknown = |length: usize| {
        let mut message = vec![0xc2, 0x3e];
        prost::encoding::encode_varint(length as u64, &mut message);
        message.resize(message.len() + length, b'x');
        message
    };
    for method in calls::methods() {
        let good = calls::bytes(&method, &stage.world.examples(&method)[0]);
        let path = calls::path(&method);
        let status = stage.call(&method, [good, unknown(4 << 20)].concat()).await.expect_err(&path);
        let expected = [Code::ResourceExhausted, Code::OutOfRange];
        assert!(expected.contains(&status.code()), "{path}: {status:?}");
    }
    assert_eq!(position(&stage.operator).await, before);
    // What fits is read: docs/operations.md, "Limits".
    for (call, most) in [
        ("AuthorizationService.Authorize", 4 << 20),
        ("AuthorizationService.StreamAuthorize", 4 << 20),
        ("AuthorizationService.BatchAuthorize", 4 << 20),
        ("TokenService.GetToken", 2 << 20),
    ] {
        let methods = calls::methods();
        let method = methods.iter().find(|method| method.full_name().ends_with(call)).unwrap();
        let good = calls::bytes(method, &stage.world.examples(method)[0]);
        let longest = [good.clone(), unknown(most - good.len() - 6)].concat();
        assert!((most - 4..=most).contains(&longest.len()));
        stage.call(method, longest).await.unwrap_or_else(|error| panic!("{call}: {error:?}"));
        let longer = [good.clone(), unknown(most - good.len())].concat();
        let refused = stage.call(method, longer).await.expect_err(call);
        assert_eq!(refused.code(), Code::ResourceExhausted, "{call}: {refused:?}");
        assert!(refused.message().contains(&most.to_string()), "{call}: {refused:?}");
    }
    stage.is_alive().await;
}

/// A page token works with the list and the filters that it came from, and with no other.
#[tokio::test]
async fn a_page_token_of_another_list_is_refused() {
    let stage = Stage::set().await;
    let other = stage.operator.account().await.account_id;
    for account in [&stage.world.account_id, &other] {
        for _ in 0..2 {
            stage.operator.token(account, TokenKind::ReadOnly, &[], &[]).await;
        }
    }
    let mut tokens = stage.operator.tokens();
    let mut list = async |account_id: &str, show_deleted, page_token: &str| {
        let (account_id, page_token) = (account_id.to_owned(), page_token.to_owned());
        let request = ListTokensRequest { account_id, page_size: 1, page_token, show_deleted };
        tokens.list_tokens(request).await.map(|page| page.into_inner().next_page_token)
    };
    let own = list(&stage.world.account_id, false, "").await.unwrap();
    list(&stage.world.account_id, false, &own).await.expect("it goes on with the same filters");
    let mut refused = vec![
        list(&other, false, &own).await.unwrap_err(),
        list("", false, &own).await.unwrap_err(),
        list(&stage.world.account_id, true, &own).await.unwrap_err(),
        list(&stage.world.account_id, false, &own[1..]).await.unwrap_err(),
        list(&stage.world.account_id, false, &format!("{own}0")).await.unwrap_err(),
    ];
    let audit = ListAuditEventsRequest { page_token: own.clone(), ..Default::default() };
    refused.push(stage.operator.tokens().list_audit_events(audit).await.unwrap_err());
    let accounts = ListAccountsRequest { page_token: own, ..Default::default() };
    refused.push(stage.operator.accounts().list_accounts(accounts).await.unwrap_err());
    for status in refused {
        assert_eq!(
            (status.code(), blamed(&status)),
            (Code::InvalidArgument, vec!["page_token".into()])
        );
    }
}

/// Rule 1.16: what people read can be seen, and shows nothing else than it is.
#[tokio::test]
async fn what_is_shown_to_people_has_no_hidden_characters() {
    let stage = Stage::set().await;
    let account_id = stage.world.account_id.clone();
    let create = async |name: &str| {
        let request = CreateAccountRequest {
            name: name.to_owned(),
            admin_emails: vec!["ann@acme.example".to_owned()],
        };
        stage.operator.accounts().create_account(request).await.map(|answer| answer.into_inner())
    };
    for hidden in [
        '\u{ad}',
        '\u{34f}',
        '\u{61c}',
        '\u{115f}',
        '\u{17b4}',
        '\u{180b}',
        '\u{180e}',
        '\u{200b}',
        '\u{200d}',
        '\u{2028}',
        '\u{202e}',
        '\u{2060}',
        '\u{2066}',
        '\u{2800}',
        '\u{3164}',
        '\u{e000}',
        '\u{fe00}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{ffa0}',
        '\u{fff9}',
        '\u{ffff}',
        '\u{1d173}',
        '\u{e0041}',
        '\u{e0100}',
    ] {
        let code = format!("U+{:04X}", u32::from(hidden));
        for name in [format!("{hidden}{hidden}x"), format!("Acme{hidden}Ltd")] {
            // White space around it is cut off, what separates lines too.
            if name.trim() != name {
                continue;
            }
            let token = CreateTokenRequest {
                account_id: account_id.clone(),
                name: name.clone(),
                kind: TokenKind::ReadOnly.into(),
                ..Default::default()
            };
            let credential = CreateCredentialRequest {
                role: Role::Pep.into(),
                name: name.clone(),
                ..Default::default()
            };
            let admins = SetAccountAdminsRequest {
                account_id: account_id.clone(),
                admin_emails: vec![format!("{name}@acme.example")],
            };
            let toml =
                format!("[[scope]]\nname = \"a\"\naccess = \"read\"\ndescription = \"{name}\"");
            let catalog = ApplyCatalogRequest { toml, validate_only: true, ..Default::default() };
            let operator = &stage.operator;
            for (field, status) in [
                ("name", create(&name).await.unwrap_err()),
                ("name", operator.tokens().create_token(token).await.unwrap_err()),
                ("name", operator.credentials().create_credential(credential).await.unwrap_err()),
                ("admin_emails", operator.accounts().set_account_admins(admins).await.unwrap_err()),
                ("toml", operator.catalog().apply_catalog(catalog).await.unwrap_err()),
            ] {
                assert_eq!(status.code(), Code::InvalidArgument, "{code}: {status:?}");
                assert_eq!(blamed(&status), [field], "{code}");
                assert!(status.message().contains(&code), "{code}: {}", status.message());
            }
        }
    }
    for name in ["\u{301}", " \u{302}\u{303} ", "\u{338}Acme"] {
        let status = create(name).await.unwrap_err();
        assert!(status.message().contains("combining mark"), "{}", status.message());
    }
    for blank in ["", " \u{a0}\u{3000}\t"] {
        let status = create(blank).await.unwrap_err();
        assert!(status.message().contains("is required"), "{}", status.message());
    }
    for (typed, kept) in [
        (" Zoë & Söhne ", "Zoë & Söhne"),
        ("給与", "給与"),
        ("\u{2764}\u{fe0f}", "\u{2764}\u{fe0f}"),
    ] {
        assert_eq!(create(typed).await.unwrap().account.unwrap().name, kept);
    }
}

/// Valid by the letter of RFC 5321, and of no use: no mail would ever reach them.
#[tokio::test]
async fn an_admin_is_somebody_who_can_be_mailed() {
    let stage = Stage::set().await;
    for email in ["\"a b\"@acme.example", "\"<b>\"@acme.example", "a@[192.0.2.1]", "a@b@c", "a"] {
        let admin_emails = vec!["ann@acme.example".to_owned(), email.to_owned()];
        let request = CreateAccountRequest { name: "Acme".to_owned(), admin_emails };
        let status = stage.operator.accounts().create_account(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{email}");
        assert!(status.message().starts_with("admin_emails[1]: "), "{status:?}");
    }
}

/// Rule 1.1: each of these is a spelling of the first admin's mailbox.
#[tokio::test]
async fn one_mailbox_in_two_spellings_is_one_admin() {
    let stage = Stage::set().await;
    const FIRST: &str = "Joe@b\u{fc}cher.example";
    let create = async |admins: &[&str]| {
        let admin_emails = admins.iter().map(|&admin| admin.to_owned()).collect();
        let request = CreateAccountRequest { name: "Acme".to_owned(), admin_emails };
        stage.operator.accounts().create_account(request).await
    };
    let account = create(&[FIRST]).await.unwrap().into_inner().account.unwrap();
    assert_eq!(account.admin_emails, ["Joe@xn--bcher-kva.example"]);
    for same in [
        "joe@xn--bcher-kva.example",
        "joe@XN--BCHER-KVA.EXAMPLE",
        "joe@bu\u{308}cher.example",
        "joe@b\u{fc}cher\u{ff0e}example",
        "joe@b\u{fc}\u{ad}cher.example",
        "joe@b\u{fc}cher.example.",
        "\u{ff4a}oe@b\u{fc}cher.example",
    ] {
        let set = SetAccountAdminsRequest {
            account_id: account.account_id.clone(),
            admin_emails: vec![FIRST.to_owned(), same.to_owned()],
        };
        let set = stage.operator.accounts().set_account_admins(set).await;
        for status in [create(&[FIRST, same]).await.unwrap_err(), set.unwrap_err()] {
            assert_eq!(status.code(), Code::InvalidArgument, "{same}");
            let message = status.message();
            assert_eq!(message, "admin_emails[1]: is in the list twice: name it once", "{same}");
        }
    }
    let hidden = create(&[FIRST, "jo\u{ad}e@acme.example"]).await.unwrap_err();
    assert!(hidden.message().contains("hidden character (U+00AD)"), "{hidden:?}");
}

/// Who speaks no gRPC would not find a status in an answer's trailers.
#[tokio::test]
async fn what_is_no_grpc_is_told_so() {
    let stage = Stage::set().await;
    let path = "/portcullis.v1.AuthorizationService/Authorize";
    for (content_type, status) in [("", 415), ("application/json", 415), ("application/grpc", 200)]
    {
        assert_eq!(stage.raw.status(path, content_type).await, status, "{content_type:?}");
    }
}
