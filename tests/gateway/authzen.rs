//! AuthZEN 1.0: the certification scenario of its working group (Basic Core, Batch Core, Discovery), the decisions of its
//! interoperability test for API gateways, and what else a client may send.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeMap;
use std::path::Path;

use portcullis::grpc::proto::{ApplyCatalogRequest, GetTokenRequest, Role, TokenKind};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::http1::Answer;
use super::stage::{INSIDE, OUTSIDE, Stage, bearer};
use crate::support::client::Client;
use crate::support::postgres;
use crate::support::server::Setup;
use crate::support::wait::until;

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";

fn data(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/authzen").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn post(stage: &Stage, path: &str, more: &[(&str, &str)], body: &str) -> Answer {
    let credential = bearer(&stage.pep);
    let own = [("Authorization", &*credential), ("Content-Type", "application/json")];
    stage.send("POST", path, &[&own, more].concat(), body)
}

/// A stage whose catalogue has the scopes and routes of `data`, and its subjects as tokens by name.
async fn stage_of(data: &Value) -> (Stage, BTreeMap<String, String>) {
    let stage = Stage::over(Setup::sqlite()).await;
    let request = ApplyCatalogRequest {
        toml: data["catalog"].as_str().unwrap().to_owned(),
        confirm_narrowing: true,
        ..Default::default()
    };
    stage.operator.catalog().apply_catalog(request).await.unwrap();
    let mut tokens = BTreeMap::new();
    for (name, scopes) in data["subjects"].as_object().unwrap() {
        let scopes: Vec<_> =
            scopes.as_array().unwrap().iter().map(|scope| scope.as_str().unwrap()).collect();
        let (_, secret) =
            stage.operator.token(&stage.account, TokenKind::Custom, &scopes, &[]).await;
        tokens.insert(name.clone(), secret);
    }
    (stage, tokens)
}

/// `request` with the secrets of the subjects instead of their names.
fn with_tokens(request: &Value, tokens: &BTreeMap<String, String>) -> Value {
    match request {
        Value::String(text) => {
            tokens.get(text).map_or_else(|| request.clone(), |token| json!(token))
        }
        Value::Array(items) => items.iter().map(|item| with_tokens(item, tokens)).collect(),
        Value::Object(members) => {
            let member =
                |(name, value): (&String, &Value)| (name.clone(), with_tokens(value, tokens));
            Value::Object(members.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

/// What of an answer a case names: its decision, or those of a batch.
fn decisions(answer: &Value) -> Value {
    match answer.get("evaluations") {
        None => answer["decision"].clone(),
        Some(evaluations) => {
            evaluations.as_array().unwrap().iter().map(|item| item["decision"].clone()).collect()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certification_scenario_passes() {
    let data = data("certification.json");
    let (stage, tokens) = stage_of(&data).await;
    for case in data["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let body = match &case["body"] {
            Value::String(text) => text.clone(),
            body => with_tokens(body, &tokens).to_string(),
        };
        let content_type =
            case.get("content_type").map_or("application/json", |t| t.as_str().unwrap());
        let credential = bearer(&stage.pep);
        let headers = [
            ("Authorization", &*credential),
            ("Content-Type", content_type),
            ("X-Request-ID", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716"),
        ];
        for _ in 0..2 {
            let answer = stage.send("POST", case["path"].as_str().unwrap(), &headers, &body);
            assert_eq!(
                u64::from(answer.status),
                case["status"].as_u64().unwrap(),
                "{name}: {answer:?}"
            );
            assert_eq!(answer.header("x-request-id"), Some(headers[2].1), "{name}");
            if answer.status == 200 {
                assert_eq!(answer.header("content-type"), Some("application/json"), "{name}");
                assert_eq!(decisions(&answer.json()), case["decision"], "{name}: {answer:?}");
            } else {
                assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interoperability_decisions_of_api_gateways_pass() {
    let data = data("api_gateways.json");
    let (stage, tokens) = stage_of(&data).await;
    let cases = data["decisions"].as_array().unwrap();
    assert_eq!(cases.len(), 25);
    let mut whole = Vec::new();
    for case in cases {
        let [subject, method, path, expected] = &case.as_array().unwrap()[..] else {
            panic!("{case}")
        };
        let request = json!({
            "subject": { "type": "identity", "id": tokens[subject.as_str().unwrap()] },
            "action": { "name": method },
            "resource": { "type": "route", "id": path },
        });
        let answer = post(&stage, EVALUATION, &[], &request.to_string());
        assert_eq!(answer.status, 200, "{case}");
        assert_eq!(answer.json()["decision"], *expected, "{case}");
        whole.push(request);
    }
    let answer = post(&stage, EVALUATIONS, &[], &json!({ "evaluations": whole }).to_string());
    let expected: Value = cases.iter().map(|case| case[3].clone()).collect();
    assert_eq!(decisions(&answer.json()), expected);
}

/// Rule 9.15 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_are_public_and_come_from_the_settings() {
    let setup = Setup::sqlite().flag("--gateway-url", "https://pdp.example.com");
    let stage = Stage::over(setup).await;
    let headers =
        [("Host", "evil.example"), ("X-Forwarded-Host", "evil.example"), ("X-Request-ID", "a b")];
    let mut connection = stage.connect();
    connection
        .write(b"GET /.well-known/authzen-configuration HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    let answer = connection.read();
    let expected = json!({
        "policy_decision_point": "https://pdp.example.com",
        "access_evaluation_endpoint": "https://pdp.example.com/access/v1/evaluation",
        "access_evaluations_endpoint": "https://pdp.example.com/access/v1/evaluations",
    });
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json(), expected);
    let answer = stage.send("GET", "/.well-known/authzen-configuration", &headers[1..], "");
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("x-request-id"), Some("a b"));
    let answer = stage.send("POST", "/.well-known/authzen-configuration", &[], "");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));

    let stage = Stage::new().await;
    let answer = stage.send("GET", "/.well-known/authzen-configuration", &[], "");
    let url = format!("http://{}", stage.server.gateway());
    assert_eq!(answer.json()["policy_decision_point"], *url);
}

fn transactions(token: &str) -> Value {
    json!({
        "subject": { "type": "token", "id": token },
        "action": { "name": "read" },
        "resource": { "type": "transactions", "id": "7" },
    })
}

/// Rule 9.15 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn denial_is_an_answer_with_its_reason_and_an_unknown_scope_is_an_error() {
    let stage = Stage::new().await;
    let reveal = |client: Value| {
        json!({
            "subject": { "type": "token", "id": stage.writer },
            "action": { "name": "reveal" },
            "resource": { "type": "cards", "id": "7" },
            "context": client,
        })
    };
    for (request, decision, reason) in [
        (transactions(&stage.reader), true, "ALLOWED"),
        (transactions("T"), false, "TOKEN_MALFORMED"),
        (reveal(json!({ "client_ip": INSIDE })), true, "ALLOWED"),
        (reveal(json!({ "client_ip": OUTSIDE })), false, "CLIENT_IP_NOT_WHITELISTED"),
        (reveal(json!({})), false, "CLIENT_IP_MISSING"),
    ] {
        let answer = post(&stage, EVALUATION, &[], &request.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        assert_eq!(answer["decision"], decision, "{answer}");
        assert_eq!(answer["context"]["reason"], reason);
        assert!(answer["context"]["message"].as_str().unwrap().ends_with('.'), "{answer}");
    }
    let answer = post(&stage, EVALUATION, &[], &reveal(json!({ "client_ip": INSIDE })).to_string());
    let context = &answer.json()["context"];
    assert_eq!(context["required_scope"], "cards.reveal");
    assert_eq!(context["matched_entry"], INSIDE);
    assert_eq!(context["account_id"], *stage.account);

    // Both tokens, and different ones.
    let mut two = transactions(&stage.reader);
    two["subject"]["properties"] = json!({ "token": stage.writer });
    let answer = post(&stage, EVALUATION, &[], &two.to_string()).json();
    assert_eq!(answer["context"]["reason"], "TOKEN_MALFORMED");

    let mut unknown = transactions(&stage.reader);
    unknown["action"]["name"] = json!("fly");
    let mut address = transactions(&stage.reader);
    address["context"] = json!({ "client_ip": "somewhere" });
    for (request, text) in [(&unknown, "transactions.fly"), (&address, "client_ip")] {
        let answer = post(&stage, EVALUATION, &[], &request.to_string());
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains(text), "{answer:?}");
        let batch = json!({ "evaluations": [request, transactions(&stage.reader)] });
        let answer = post(&stage, EVALUATIONS, &[], &batch.to_string());
        assert_eq!(decisions(&answer.json()), json!([false, true]));
        let error = &answer.json()["evaluations"][0]["context"]["error"];
        assert_eq!(error["status"], 400);
        assert!(error["message"].as_str().unwrap().contains(text), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_malformed_as_a_whole_are_counted() {
    let stage = Stage::new().await;
    let sample = "portcullis_gateway_answers_total{interface=\"authzen\",outcome=\"malformed\"}";
    for (number, body) in ["{", "[]", "{\"evaluations\":1}"].into_iter().enumerate() {
        assert_eq!(post(&stage, EVALUATIONS, &[], body).status, 400);
        assert_eq!(stage.server.metric(sample), Some(number as i64 + 1));
    }
}

/// Rule 9.15 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn batches_end_where_their_semantic_says() {
    let stage = Stage::new().await;
    let (allow, deny) = (json!({}), json!({ "action": { "name": "request" } }));
    let bad = json!({ "resource": {} });
    let run = |semantic: &str, items: &[&Value]| {
        let mut request = transactions(&stage.reader);
        request["options"] = json!({ "evaluations_semantic": semantic, "other": 1 });
        request["evaluations"] = items.iter().map(|item| (*item).clone()).collect();
        let answer = post(&stage, EVALUATIONS, &[], &request.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        decisions(&answer.json())
    };
    let deny = json!({ "subject": { "type": "token", "id": "nobody" }, "x": deny });
    let all = [&allow, &deny, &allow, &bad, &allow];
    assert_eq!(run("execute_all", &all), json!([true, false, true, false, true]));
    assert_eq!(run("deny_on_first_deny", &all), json!([true, false]));
    assert_eq!(run("deny_on_first_deny", &[&allow, &bad, &allow]), json!([true, false]));
    assert_eq!(
        run("permit_on_first_permit", &[&deny, &bad, &allow, &deny]),
        json!([false, false, true])
    );
    assert_eq!(run("permit_on_first_permit", &[&deny, &bad]), json!([false, false]));
}

/// Rules 1.12 and 9.15 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn dry_run_does_not_count_as_use() {
    let stage = Stage::over(Setup::sqlite().flag("--usage-flush-interval", "50ms")).await;
    let last_use = async || {
        let request = GetTokenRequest { token_id: stage.reader_token.token_id.clone() };
        let token = stage.operator.tokens().get_token(request).await.unwrap().into_inner().token;
        token.unwrap().last_use_time
    };
    let mut dry = transactions(&stage.reader);
    dry["context"] = json!({ "dry_run": true });
    assert_eq!(post(&stage, EVALUATION, &[], &dry.to_string()).json()["decision"], true);
    // What another token is used for is written after it, so nothing of the dry run comes later.
    let (other, secret) = stage.operator.token(&stage.account, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(post(&stage, EVALUATION, &[], &transactions(&secret).to_string()).status, 200);
    loop {
        let request = GetTokenRequest { token_id: other.token_id.clone() };
        let token = stage.operator.tokens().get_token(request).await.unwrap().into_inner().token;
        if token.unwrap().last_use_time.is_some() {
            break;
        }
    }
    assert_eq!(last_use().await, None);
    assert_eq!(post(&stage, EVALUATION, &[], &transactions(&stage.reader).to_string()).status, 200);
    while last_use().await.is_none() {}
}

/// Rules 9.12 and 9.15 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn callers_and_requests_that_are_refused_learn_why() {
    let stage = Stage::new().await;
    let body = transactions(&stage.reader).to_string();
    let json = ("Content-Type", "application/json");
    let pep = bearer(&stage.pep);
    let operator = bearer(stage.server.operator());
    let admin = bearer(&stage.credential_of(Role::AccountAdmin).await);
    let cases: [(&[(&str, &str)], u16); 8] = [
        (&[json], 401),
        (&[json, ("Authorization", "Bearer wrong")], 401),
        (&[json, ("Authorization", &pep), ("Authorization", &pep)], 401),
        (&[json, ("Authorization", &pep), ("Portcullis-Credential", &pep)], 401),
        (&[json, ("Authorization", &operator)], 403),
        (&[json, ("Authorization", &admin)], 403),
        (&[("Authorization", &pep)], 400),
        (&[("Authorization", &pep), ("Content-Type", "text/plain"), json], 400),
    ];
    for (headers, status) in cases {
        for path in [EVALUATION, EVALUATIONS] {
            let answer = stage.send("POST", path, headers, &body);
            assert_eq!((answer.status, answer.reason()), (status, "UNDECIDED"), "{headers:?}");
            assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
        }
    }
    for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
        let headers = [("Authorization", &*pep), ("Content-Type", content_type)];
        assert_eq!(stage.send("POST", EVALUATION, &headers, &body).status, 200, "{content_type}");
    }
    // Request ids that could do harm elsewhere are not repeated.
    let long = "x".repeat(129);
    for (id, echoed) in
        [("1", true), (&*"x".repeat(128), true), (&*long, false), ("a\u{e9}", false)]
    {
        let answer = post(&stage, EVALUATION, &[("X-Request-ID", id)], &body);
        assert_eq!(answer.header("x-request-id"), echoed.then_some(id));
    }
    let padding = " ".repeat((1 << 20) - body.len());
    assert_eq!(post(&stage, EVALUATION, &[], &format!("{body}{padding}")).status, 200);
    let answer = post(&stage, EVALUATION, &[], &format!("{body}{padding} "));
    assert_eq!(answer.status, 413);
}

/// Rule 9.15: the deadline is that of the batch. An item that is not started by then is denied, whatever it is about.
#[tokio::test(flavor = "multi_thread")]
async fn items_that_are_not_started_by_the_deadline_are_denied() {
    let url = postgres::database();
    let mut stage = Stage::over(Setup::postgres(&url)).await;
    let (_, other) = stage.operator.token(&stage.account, TokenKind::ReadOnly, &[], &[]).await;
    // Tokens that have to be read wait for longer than the batch may take; the last one is in memory.
    stage.server.restart();
    let (_, warm) = {
        let operator = Client::operator(&stage.server).await;
        operator.token(&stage.account, TokenKind::ReadOnly, &[], &[]).await
    };
    let item = |token: &str| {
        json!({
            "subject": { "type": "token", "id": token },
            "action": { "name": "read" },
            "resource": { "type": "transactions", "id": "" },
        })
    };
    let ask = || {
        let body = json!({
            "options": { "evaluations_semantic": "permit_on_first_permit" },
            "evaluations": [item(&stage.reader), item(&other), item(&warm)],
        });
        post(&stage, EVALUATIONS, &[], &body.to_string()).json()["evaluations"].clone()
    };
    let one = post(&stage, EVALUATION, &[], &item(&warm).to_string()).json();
    assert_eq!(one["decision"], true, "{one}");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut lock = connection.begin().await.unwrap();
    sqlx::query("LOCK TABLE token IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let late = ask();
    let late = late.as_array().unwrap();
    assert_eq!(late.len(), 3, "{late:?}");
    for item in late {
        assert_eq!(item["decision"], false, "{item}");
        assert_eq!(item["context"]["reason"], "UNDECIDED", "{item}");
    }
    lock.rollback().await.unwrap();
    until(ask, |evaluations| evaluations[0]["decision"] == true);
}
