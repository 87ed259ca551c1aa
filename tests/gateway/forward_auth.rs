//! Forward auth, as nginx, Caddy, Traefik and APISIX ask.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portcullis::grpc::proto::{ClientSource, Role, Token, TokenKind};

use super::http1::Connection;
use super::stage::{INSIDE, OUTSIDE, Stage, bearer, credential};
use crate::support::client::{Client, forged};
use crate::support::command::Shell;
use crate::support::server::Setup;

/// Every header that a service learns a decision from.
const HEADERS: [&str; 6] = [
    "portcullis-token-id",
    "portcullis-account-id",
    "portcullis-scope",
    "portcullis-reason",
    "portcullis-pending-action",
    "portcullis-token-expires",
];

/// Rule 9.14 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn allow_has_every_header_whatever_the_client_sent_itself() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let forged = HEADERS.map(|name| (name, "forged"));
    for more in [&[][..], &forged] {
        let answer = stage.ask(&[more, &[("Authorization", &token)]].concat());
        assert_eq!(answer.outcome(), (200, "ALLOWED"));
        assert_eq!(answer.body, "");
        let values = HEADERS.map(|name| answer.header(name).unwrap().to_owned());
        let Token { token_id, account_id, .. } = &stage.reader_token;
        assert_eq!(
            values,
            [&**token_id, account_id, "transactions.read", "ALLOWED", "none", "none"]
        );
    }
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PURGE"] {
        let headers = [
            ("Portcullis-Credential", &*bearer(&stage.pep)),
            ("Authorization", &token),
            ("X-Original-Method", "GET"),
            ("X-Original-URI", "/api/v1/transactions?limit=1"),
        ];
        let status = stage.send(method, "/forward-auth", &headers, "").status;
        assert_eq!(status, 200, "{method}");
    }
}

/// Rule 9.13 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_denial_has_its_status_challenge_and_problem() {
    let stage = Stage::new().await;
    let deleted = stage.deleted().await;
    let unknown = forged();
    let cases = [
        (Some(unknown.as_str()), INSIDE, ("GET", "/api/v1/transactions"), 401, "TOKEN_NOT_FOUND"),
        (Some("pcl_x"), INSIDE, ("GET", "/api/v1/transactions"), 401, "TOKEN_MALFORMED"),
        (None, INSIDE, ("GET", "/api/v1/transactions"), 401, "TOKEN_MALFORMED"),
        (Some(&deleted), INSIDE, ("GET", "/api/v1/transactions"), 401, "TOKEN_DELETED"),
        (Some(&stage.reader), INSIDE, ("GET", "/nowhere"), 403, "NO_MATCHING_ROUTE"),
        (
            Some(&stage.reader),
            INSIDE,
            ("GET", "/api/v1/cards/RECENT/../x"),
            403,
            "NO_MATCHING_ROUTE",
        ),
        (Some(&stage.reader), INSIDE, ("POST", "/api/v1/cards"), 403, "SCOPE_NOT_GRANTED"),
        (Some(&stage.writer), OUTSIDE, ("POST", "/api/v1/cards"), 403, "CLIENT_IP_NOT_WHITELISTED"),
        (Some(&stage.writer), "unknown", ("POST", "/api/v1/cards"), 403, "CLIENT_IP_MISSING"),
        (Some(&stage.writer), INSIDE, ("POST", "/api/v1/cards"), 200, "ALLOWED"),
    ];
    for (token, client, (method, path), status, reason) in cases {
        let authorization = token.map(bearer);
        let mut headers = vec![("X-Forwarded-For", client)];
        headers.extend(authorization.iter().map(|value| ("Authorization", &**value)));
        let answer = stage.ask_about(method, path, &headers);
        assert_eq!(answer.outcome(), (status, reason), "{method} {path} from {client}");
        // The decision is that of `Authorize` for the same facts.
        let known = if client == "unknown" { "" } else { client };
        let same = stage.authorize(token.unwrap_or_default(), known, method, path).await;
        assert_eq!(same, reason);

        let challenge = answer.header("www-authenticate");
        match (token, status, reason) {
            (None, ..) => assert_eq!(challenge, Some("Bearer realm=\"portcullis\"")),
            (_, 401, _) => assert!(challenge.unwrap().contains("error=\"invalid_token\"")),
            (.., "SCOPE_NOT_GRANTED") => {
                assert!(challenge.unwrap().contains("error=\"insufficient_scope\""));
            }
            _ => assert_eq!(challenge, None),
        }
        if status == 200 {
            continue;
        }
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["reason"], reason);
        assert!(problem["detail"].as_str().unwrap().ends_with('.'), "{problem}");
        for name in HEADERS.iter().filter(|name| **name != "portcullis-reason") {
            assert_eq!(answer.header(name), None, "a denial says who the token is");
        }
    }
}

/// Rules 9.3 and 9.9 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_as_bearer_or_basic_or_in_the_named_header_and_once() {
    let stage = Stage::new().await;
    let basic = |user: &str| format!("Basic {}", BASE64_STANDARD.encode(user));
    let reader = &*stage.reader;
    for value in [
        bearer(reader),
        format!("bearer {reader}"),
        bearer(&format!("secret-token:{reader}")),
        basic(&format!("{reader}:")),
        basic(reader),
        basic(&format!("{reader}:ignored")),
        basic(&format!("{reader}:")).replace('=', ""),
    ] {
        assert_eq!(stage.ask(&[("Authorization", &value)]).outcome(), (200, "ALLOWED"), "{value}");
    }
    for value in [reader.to_owned(), format!("Digest {reader}"), basic(&format!(":{reader}"))] {
        let answer = stage.ask(&[("Authorization", &value)]);
        assert_eq!(answer.outcome(), (401, "TOKEN_MALFORMED"), "{value}");
    }
    let token = bearer(reader);
    let both = [("Authorization", &*token), ("Authorization", &*token)];
    let joined = format!("{token}, {token}");
    for headers in [&both[..], &[("Authorization", &joined)]] {
        let answer = stage.ask(headers);
        assert_eq!(answer.outcome(), (401, "TOKEN_MALFORMED"));
        assert!(answer.body.contains("more than one token"), "{answer:?}");
    }

    let named = ClientSource { token_header: "X-Api-Key".to_owned(), ..Default::default() };
    let gateway = stage.gateway(named).await;
    let own = [
        ("Portcullis-Credential", &*gateway),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/api/v1/transactions"),
    ];
    let ask = |more: &[(&str, &str)]| {
        stage.send("GET", "/forward-auth", &[&own, more].concat(), "").outcome().1.to_owned()
    };
    assert_eq!(ask(&[("X-Api-Key", reader)]), "ALLOWED");
    assert_eq!(ask(&[("X-Api-Key", &token)]), "ALLOWED");
    assert_eq!(ask(&[("X-Api-Key", reader), ("Authorization", "Bearer x")]), "ALLOWED");
    assert_eq!(ask(&[("Authorization", &token)]), "TOKEN_MALFORMED");
    let none = stage.send("GET", "/forward-auth", &own, "");
    assert!(none.body.contains("Send one in the header X-Api-Key."), "{none:?}");
    assert_eq!(ask(&[("X-Api-Key", reader), ("X-Api-Key", reader)]), "TOKEN_MALFORMED");
}

/// Rules 9.10 and 9.11 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_service_may_read_in_another_way_is_denied() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let ambiguous = |more: &[(&str, &str)]| {
        let answer = stage.ask(&[&[("Authorization", &*token)], more].concat());
        assert_eq!(answer.outcome(), (403, "REQUEST_AMBIGUOUS"), "{more:?}");
        // The token comes first (rule 2.3).
        assert_eq!(stage.ask(more).outcome(), (401, "TOKEN_MALFORMED"), "{more:?}");
    };
    for more in [
        ("X-Forwarded-Uri", "/api/v1/transactions"),
        ("X-Forwarded-Method", "GET"),
        ("X-Original-URI", "/api/v1/transactions"),
        ("X-Original-Method", "GET"),
        ("X_Forwarded_For", INSIDE),
        ("X_Forwarded_Uri", "/api/v1/transactions"),
        ("X-Original_URI", "/api/v1/transactions"),
        ("Portcullis_Token_Id", "forged"),
        ("Portcullis_Credential", "forged"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-HTTP-Method", "DELETE"),
        ("X-Method-Override", "DELETE"),
        ("X_HTTP_Method_Override", "GET"),
        ("X-Original-URL", "/api/v1/cards"),
        ("X-Rewrite-URL", "/api/v1/cards"),
    ] {
        ambiguous(&[more]);
    }
    for more in [
        ("X-HTTP-Method-Override", "GET"),
        ("X-Rewrite-URL", "/api/v1/transactions?x=1"),
        ("X-Forwarded-Host", "evil.example"),
        ("X_Request_Id", "1"),
    ] {
        let answer = stage.ask(&[("Authorization", &token), more]);
        assert_eq!(answer.outcome(), (200, "ALLOWED"), "{more:?}");
    }
    // One family alone, each with its own method and URI.
    let send = |headers: &[(&str, &str)]| {
        let own = [("Portcullis-Credential", &*stage.pep), ("Authorization", &token)];
        stage.send("GET", "/forward-auth", &[&own, headers].concat(), "")
    };
    let mixed = [("X-Forwarded-Method", "GET"), ("X-Original-URI", "/api/v1/transactions")];
    assert_eq!(send(&mixed).outcome(), (403, "REQUEST_AMBIGUOUS"));
    for missing in [&[][..], &mixed[..1], &mixed[1..], &[mixed[0], ("X-Forwarded-Uri", "")]] {
        let answer = send(missing);
        assert_eq!(answer.outcome(), (503, "UNDECIDED"), "{missing:?}");
        assert!(answer.body.contains("its configuration has to set it"), "{answer:?}");
    }
}

/// Rule 9.11 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn override_headers_are_a_setting() {
    let setup = Setup::sqlite().flag("--override-header", "X-Action,X-Real-Path");
    let stage = Stage::over(setup).await;
    let token = bearer(&stage.reader);
    for (more, reason) in [
        (("X-Action", "DELETE"), "REQUEST_AMBIGUOUS"),
        (("X-Action", "GET"), "ALLOWED"),
        (("X-Real-Path", "/api/v1/cards"), "REQUEST_AMBIGUOUS"),
        (("X-Real-Path", "/api/v1/transactions"), "ALLOWED"),
        (("X-HTTP-Method-Override", "DELETE"), "ALLOWED"),
    ] {
        assert_eq!(stage.ask(&[("Authorization", &token), more]).reason(), reason, "{more:?}");
    }
}

/// Rules 9.4 and 9.5 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn clients_choose_no_address_of_their_own() {
    let stage = Stage::new().await;
    let token = bearer(&stage.writer);
    let ask = |credential: &str, addresses: &[(&str, &str)]| {
        let own = [
            ("Portcullis-Credential", credential),
            ("Authorization", &*token),
            ("X-Forwarded-Method", "POST"),
            ("X-Forwarded-Uri", "/api/v1/cards"),
        ];
        stage.send("GET", "/forward-auth", &[&own, addresses].concat(), "").reason().to_owned()
    };
    let first_then_last = format!("{INSIDE}, {OUTSIDE}");
    let last = format!("{OUTSIDE}, {INSIDE}");
    for (addresses, reason) in [
        (&[][..], "CLIENT_IP_MISSING"),
        (&[("X-Forwarded-For", INSIDE)], "ALLOWED"),
        (&[("X-Forwarded-For", &first_then_last)], "CLIENT_IP_NOT_WHITELISTED"),
        (&[("X-Forwarded-For", &last)], "ALLOWED"),
        (&[("X-Forwarded-For", INSIDE), ("X-Forwarded-For", OUTSIDE)], "CLIENT_IP_NOT_WHITELISTED"),
        (&[("X-Real-IP", INSIDE), ("Forwarded", "for=198.51.100.7")], "CLIENT_IP_MISSING"),
        (&[("X-Forwarded-For", OUTSIDE), ("X-Real-IP", INSIDE)], "CLIENT_IP_NOT_WHITELISTED"),
    ] {
        assert_eq!(ask(&stage.pep, addresses), reason, "{addresses:?}");
    }
    // Without a header in its client source, a gateway knows no address.
    let silent = stage.gateway(ClientSource::default()).await;
    assert_eq!(ask(&silent, &[("X-Forwarded-For", INSIDE)]), "CLIENT_IP_MISSING");
    let proxied = stage
        .gateway(ClientSource {
            address_header: "Forwarded".to_owned(),
            trusted_proxies: vec!["203.0.113.0/24".to_owned()],
            ..Default::default()
        })
        .await;
    let forwarded = [("Forwarded", "for=192.0.2.1, for=198.51.100.7, for=203.0.113.9")];
    assert_eq!(ask(&proxied, &forwarded), "ALLOWED");
}

/// Rules 9.1 and 9.12 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_without_one_valid_credential_of_its_role_gets_no_decision() {
    let stage = Stage::new().await;
    let token = bearer(&stage.reader);
    let operator = stage.server.operator().to_owned();
    let admin = stage.credential_of(Role::AccountAdmin).await;
    let twice = format!("{0}, {0}", stage.pep);
    let cases: [&[&str]; 9] = [
        &[],
        &[""],
        &["Bearer"],
        &["wrong"],
        &[&operator],
        &[&admin],
        &[&stage.reader],
        &[&stage.pep, &stage.pep],
        &[&twice],
    ];
    for credentials in cases {
        let mut headers = vec![
            ("Authorization", &*token),
            ("X-Forwarded-Method", "GET"),
            ("X-Forwarded-Uri", "/api/v1/transactions"),
        ];
        headers.extend(credentials.iter().map(|credential| ("Portcullis-Credential", *credential)));
        let answer = stage.send("GET", "/forward-auth", &headers, "");
        assert_eq!(answer.outcome(), (503, "UNDECIDED"), "{credentials:?}");
        assert_eq!(answer.json()["reason"], "UNDECIDED");
        assert!(!answer.body.contains(&stage.pep), "{answer:?}");
    }

    // Revoked while it is in use, also on a connection that it opened.
    let mut connection = stage.connect();
    let headers = [
        ("Portcullis-Credential", &*stage.pep),
        ("Authorization", &token),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Uri", "/api/v1/transactions"),
    ];
    assert_eq!(connection.send("GET", "/forward-auth", &headers, "").status, 200);
    stage.revoke_pep().await;
    let answer = connection.send("GET", "/forward-auth", &headers, "");
    assert_eq!(answer.outcome(), (503, "UNDECIDED"));
}

/// Rule 9.1 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn development_server_asks_gateways_for_no_credential() {
    let server = Setup::sqlite().without_operator().switch("--dev").start();
    let anyone = Client::connect(server.grpc(), "x").await.anonymous();
    let account = anyone.account().await.account_id;
    let (_, secret) = anyone.token(&account, TokenKind::ReadWrite, &[], &[INSIDE]).await;
    let token = bearer(&secret);
    let mut headers = vec![
        ("Authorization", &*token),
        ("X-Forwarded-For", INSIDE),
        ("X-Forwarded-Method", "POST"),
        ("X-Forwarded-Uri", "/api/v1/cards"),
    ];
    let send = |headers: &[(&str, &str)]| {
        Connection::open(server.gateway()).send("GET", "/forward-auth", headers, "")
    };
    assert_eq!(send(&headers).outcome(), (200, "ALLOWED"));
    headers[1].1 = OUTSIDE;
    assert_eq!(send(&headers).outcome(), (403, "CLIENT_IP_NOT_WHITELISTED"));
    headers.push(("Portcullis-Credential", "x"));
    assert_eq!(send(&headers).outcome(), (503, "UNDECIDED"));

    // One that is valid is used: it names another header for the address.
    let source = ClientSource { address_header: "X-Real-IP".to_owned(), ..Default::default() };
    let (_, pep) = credential(&anyone, Role::Pep, "", Some(source)).await;
    headers[4].1 = &pep;
    assert_eq!(send(&headers).outcome(), (403, "CLIENT_IP_MISSING"));
    headers.push(("X-Real-IP", INSIDE));
    assert_eq!(send(&headers).outcome(), (200, "ALLOWED"));

    let body = r#"{"subject": {"type": "token", "id": "x"}, "action": {"name": "GET"},
                   "resource": {"type": "route", "id": "/api/v1/transactions"}}"#;
    let evaluate = |credential: &str| {
        let headers = [("Portcullis-Credential", credential), ("Content-Type", "application/json")];
        let mut connection = Connection::open(server.gateway());
        connection.send("POST", "/access/v1/evaluation", &headers, body).status
    };
    assert_eq!((evaluate(&pep), evaluate("x")), (200, 401));
}

/// Rule 9.7 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_credential_is_replaced_without_a_restart() {
    let stage = Stage::new().await;
    let shell = Shell::reaching(&stage.server);
    let shell = shell.env("PORTCULLIS_CREDENTIAL", stage.server.operator());
    let create = ["credential", "create", "--like", &stage.pep_id];
    let replacement = shell.run(&create).exits(0).ok();

    let token = bearer(&stage.writer);
    let ask = |connection: &mut Connection, credential: &str| {
        let headers = [
            ("Portcullis-Credential", credential),
            ("Authorization", &*token),
            ("X-Forwarded-Method", "POST"),
            ("X-Forwarded-Uri", "/api/v1/cards"),
            ("X-Forwarded-For", INSIDE),
        ];
        connection.send("GET", "/forward-auth", &headers, "").reason().to_owned()
    };
    // One gateway still has the former credential, another one has the new one.
    let (mut before, mut after) = (stage.connect(), stage.connect());
    for _ in 0..3 {
        assert_eq!(ask(&mut before, &stage.pep), "ALLOWED");
        assert_eq!(ask(&mut after, &replacement), "ALLOWED");
    }
    stage.revoke_pep().await;
    for _ in 0..3 {
        assert_eq!(ask(&mut before, &stage.pep), "UNDECIDED");
        assert_eq!(ask(&mut after, &replacement), "ALLOWED");
    }
    assert_eq!(ask(&mut before, &replacement), "ALLOWED");
}
