//! Paths that servers read differently, asked of the real server (docs/policy.md, rules 2.7, 2.9, 2.11, 2.22, 2.23,
//! 2.24, 2.25 and 2.28), and what it says of catalogues with such routes (rules 1.6, 1.13, 1.14, 1.15, 1.17 and 1.18).

#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use crate::support::client::Client;
use crate::support::command::Shell;
use crate::support::server::Setup;
use portcullis::grpc::proto::{
    ApplyCatalogRequest, ApplyCatalogResponse, AuthorizeRequest, AuthorizeResponse, Decision,
    HttpOperation, Reason, TokenKind, authorize_request,
};
use portcullis::model::ActiveCatalog;
use portcullis::model::StoredCatalog;
use portcullis::policy::scope::ScopeId;
use portcullis::policy::time::Timestamp;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const CARDS: &str = r#"
[[scope]]
name = "cards.read"
access = "read"
routes = ["GET /cards/{card_id}", "GET /cards/{card_id}/limits"]

[[scope]]
name = "cards.export"
access = "write"
requires_whitelist = false
routes = ["GET /cards/export", "POST /cards/import"]
"#;

async fn apply(
    operator: &Client,
    toml: &str,
    validate_only: bool,
) -> Result<ApplyCatalogResponse, Status> {
    let request = ApplyCatalogRequest {
        toml: toml.to_owned(),
        validate_only,
        confirm_narrowing: true,
        ..Default::default()
    };
    Ok(operator.catalog().apply_catalog(request).await?.into_inner())
}

async fn ask(client: &Client, token: &str, method: &str, path: &str) -> AuthorizeResponse {
    let http = HttpOperation { method: method.to_owned(), path: path.to_owned() };
    let request = AuthorizeRequest {
        token: token.to_owned(),
        operation: Some(authorize_request::Operation::Http(http)),
        ..Default::default()
    };
    client.authorization().authorize(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn no_spelling_of_a_guarded_route_passes_as_its_sibling() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    apply(&operator, CARDS, false).await.unwrap();
    let account = operator.account().await.account_id;
    let (_, reader) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let scopes = ["cards.read", "cards.export"];
    let (_, both) = operator.token(&account, TokenKind::Custom, &scopes, &[]).await;

    for (path, reason, words) in [
        ("/cards/export;a=1", Reason::NoMatchingRoute, &["\"export;a=1\"", "';'", "2.22"][..]),
        ("/cards/export%3Ba=1", Reason::NoMatchingRoute, &["\"export%3Ba=1\"", "';'"]),
        ("/cards/EXPORT", Reason::RequestAmbiguous, &["\"EXPORT\"", "\"export\"", "2.23"]),
        ("/cards/export.json", Reason::RequestAmbiguous, &["\"export.json\"", "cards.export"]),
        ("/cards/export.", Reason::RequestAmbiguous, &["\"export.\"", "GET /cards/export"]),
        ("/cards/export%20", Reason::RequestAmbiguous, &["\"export \""]),
        ("/cards/%2565xport", Reason::NoMatchingRoute, &["encoded twice"]),
        ("/cards/a%252fb", Reason::NoMatchingRoute, &["encoded twice"]),
        ("/cards/%C0%AF", Reason::NoMatchingRoute, &["UTF-8"]),
        ("/cards/a%3Fb", Reason::NoMatchingRoute, &["'?'"]),
        ("/cards/a%23b", Reason::NoMatchingRoute, &["'#'"]),
        ("/cards/a\u{ff0f}b", Reason::NoMatchingRoute, &["some servers turn into"]),
        ("/cards/a%EF%BC%8Fb", Reason::NoMatchingRoute, &["some servers turn into"]),
        ("/cards/..%20", Reason::NoMatchingRoute, &["\"..%20\""]),
        ("/cards/%E2%80%A5/limits", Reason::NoMatchingRoute, &["\"%E2%80%A5\""]),
        ("/cards//limits", Reason::NoMatchingRoute, &["side by side"]),
        ("/cards/a%2Fb", Reason::NoMatchingRoute, &["'/'"]),
    ] {
        // Whatever the token may do: nobody knows which route the service will run.
        for secret in [&reader, &both] {
            let answer = ask(&operator, secret, "GET", path).await;
            assert_eq!(answer.decision(), Decision::Deny, "{path}");
            assert_eq!(answer.reason(), reason, "{path}");
            assert_eq!(answer.required_scope, "", "{path}");
            for word in words {
                assert!(answer.message.contains(word), "{path}: no {word} in {}", answer.message);
            }
            assert!(!answer.message.contains("add a route"), "{path}: {}", answer.message);
        }
    }
    for (method, path, reason, scope) in [
        ("GET", "/cards/42", Reason::Allowed, "cards.read"),
        ("GET", "/cards/tok_0351kjiHWKb", Reason::Allowed, "cards.read"),
        ("GET", "/cards/statement.2026.pdf", Reason::Allowed, "cards.read"),
        ("HEAD", "/cards/M%C3%BCller%20%26%20Co.", Reason::Allowed, "cards.read"),
        ("GET", "/cards/EXPORT/limits", Reason::Allowed, "cards.read"),
        ("GET", "/cards/IMPORT", Reason::Allowed, "cards.read"),
        ("GET", "/cards/export", Reason::ScopeNotGranted, "cards.export"),
        ("GET", "/cards/%65xport", Reason::ScopeNotGranted, "cards.export"),
    ] {
        let answer = ask(&operator, &reader, method, path).await;
        assert_eq!(answer.reason(), reason, "{path}: {}", answer.message);
        assert_eq!(answer.required_scope, scope, "{path}");
    }
    let lower = ask(&operator, &reader, "get", "/cards/42").await;
    assert!(lower.message.contains("send GET"), "{}", lower.message);
    let slash = ask(&operator, &reader, "GET", "/cards/42/").await;
    assert_eq!(slash.reason(), Reason::NoMatchingRoute);
    assert!(slash.message.contains("the last \"/\" counts"), "{}", slash.message);
    let unknown = ask(&operator, &reader, "GET", "/accounts").await;
    assert!(unknown.message.contains("add a route for GET"), "{}", unknown.message);
    assert_eq!(server.metric("portcullis_decisions_total{reason=\"REQUEST_AMBIGUOUS\"}"), Some(8));
}

/// Rules 1.17, 2.9, 2.11, 2.23 and 2.28: suffixes, catch-alls, hyphens and slashes, as a service sees them.
#[tokio::test]
async fn routes_of_every_form_are_decided() {
    const FILES: &str = r#"
[[scope]]
name = "files.read"
access = "read"
routes = ["GET /files/{file-id}", "GET /tree/{path...}", "GET /list/"]

[[scope]]
name = "files.run"
access = "write"
requires_whitelist = false
routes = ["GET /files/{file-id}:run", "GET /files/{file-id}.json", "GET /tree/admin/purge", "GET /list/all"]
"#;
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let warnings = apply(&operator, FILES, false).await.unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for word in ["GET /files/{file-id}.json", "files.run", "GET /files/{file-id} of", "files.read"]
    {
        assert!(warnings[0].contains(word), "{warnings:?}");
    }
    let account = operator.account().await.account_id;
    let (_, reader) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let deep = format!("/tree{}", "/x".repeat(63));
    let too_deep = format!("{deep}/x");
    for (path, reason, scope) in [
        ("/files/7", Reason::Allowed, "files.read"),
        ("/files/7:stop", Reason::Allowed, "files.read"),
        ("/files/7:run", Reason::ScopeNotGranted, "files.run"),
        ("/files/7%3Arun", Reason::ScopeNotGranted, "files.run"),
        ("/files/7:RUN", Reason::RequestAmbiguous, ""),
        ("/files/7:run.json", Reason::ScopeNotGranted, "files.run"),
        ("/files/7:run.xml", Reason::RequestAmbiguous, ""),
        ("/files/7:run%20", Reason::RequestAmbiguous, ""),
        ("/files/7.json", Reason::RequestAmbiguous, ""),
        ("/files/7.xml", Reason::Allowed, "files.read"),
        ("/tree/a", Reason::Allowed, "files.read"),
        ("/tree/a/b/c.txt", Reason::Allowed, "files.read"),
        (&deep, Reason::Allowed, "files.read"),
        (&too_deep, Reason::NoMatchingRoute, ""),
        ("/tree", Reason::NoMatchingRoute, ""),
        ("/tree/a/", Reason::NoMatchingRoute, ""),
        ("/tree/a/../b", Reason::NoMatchingRoute, ""),
        ("/tree/a/b%2Fc", Reason::NoMatchingRoute, ""),
        ("/tree/a/b;c/d", Reason::NoMatchingRoute, ""),
        ("/tree/admin/purge", Reason::ScopeNotGranted, "files.run"),
        ("/tree/ADMIN/purge", Reason::RequestAmbiguous, ""),
        ("/tree/admin/purge.do", Reason::RequestAmbiguous, ""),
        ("/list/", Reason::Allowed, "files.read"),
        ("/list/?all", Reason::Allowed, "files.read"),
        ("/list", Reason::NoMatchingRoute, ""),
    ] {
        let answer = ask(&operator, &reader, "GET", path).await;
        assert_eq!(answer.reason(), reason, "{path}: {}", answer.message);
        assert_eq!(answer.required_scope, scope, "{path}");
    }

    let apart = FILES.replace("GET /list/all", "GET /list");
    let warnings = apply(&operator, &apart, true).await.unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[1].contains("GET /list/ apart from GET /list of"), "{warnings:?}");
}

/// Rule 1.6: which of two routes comes first is always settled, unless they are the same route.
#[tokio::test]
async fn the_same_route_in_two_scopes_is_refused_with_both_lines() {
    let shell = Shell::new();
    for (one, other) in [
        ("GET /a/{id}:run", "GET /a/{other}:run"),
        ("GET /a/{id}.json/", "GET /a/{other}.json/"),
        ("GET /a/{rest...}", "GET /a/{path...}"),
    ] {
        let toml = format!(
            "[[scope]]\nname = \"a\"\naccess = \"read\"\nroutes = [\"{one}\"]\n\
             [[scope]]\nname = \"b\"\naccess = \"read\"\nroutes = [\"{other}\"]\n"
        );
        let refused = shell.run_with(&["catalog", "check", "-"], &toml).exits(1);
        let words = ["line 8: scope \"b\"", other, "already in scope \"a\", on line 4"];
        assert!(words.iter().all(|word| refused.stderr.contains(word)), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn a_catalogue_is_warned_of_routes_that_are_always_ambiguous() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    assert_eq!(apply(&operator, CARDS, true).await.unwrap().warnings, [""; 0]);
    let toml = CARDS.replace("\"GET /cards/export\"", "\"GET /cards/export.csv\"");
    let warnings = apply(&operator, &toml, true).await.unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for word in ["GET /cards/export.csv", "cards.export", "GET /cards/{card_id}", "cards.read"] {
        assert!(warnings[0].contains(word), "{warnings:?}");
    }
    let shell = Shell::operator(&server);
    let checked = shell.run_with(&["catalog", "check", "-"], &toml).exits(0);
    checked.tells(&["warning: ", "GET /cards/export.csv"]);

    let many: String = (0..150).map(|n| format!("\"GET /cards/e{n}.csv\",")).collect();
    let toml = CARDS.replace("\"GET /cards/export\"", &many).replace(",,", ",");
    let warnings = apply(&operator, &toml, true).await.unwrap().warnings;
    assert_eq!(warnings.len(), 101);
    assert!(warnings[100].contains("50 more warnings"), "{}", warnings[100]);
}

#[tokio::test]
async fn every_error_of_a_catalogue_is_named_or_counted() {
    const COUNT: usize = 300;
    let routes: String = (0..COUNT).map(|n| format!("  \"GET /{n}/:id\",\n")).collect();
    let toml = format!("[[scope]]\nname = \"a\"\naccess = \"read\"\nroutes = [\n{routes}]\n");

    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let refused = apply(&operator, &toml, true).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    let (last, named) = violations.split_last().unwrap();
    assert!(named.len() > 10 && named.iter().all(|named| named.description.contains("{id}")));
    let left = COUNT - named.len();
    assert_eq!(last.description, format!("and at least {left} more: fix these first"));

    // Without a server: nothing is listening where this shell looks for one.
    let shell = Shell::new();
    let checked = shell.run_with(&["catalog", "check", "-"], &toml).exits(1);
    let lines =
        checked.stderr.lines().filter(|line| line.starts_with("error: toml: line ")).count();
    assert_eq!(lines, COUNT, "{}", checked.stderr);
    let checked = shell.run_with(&["catalog", "check", "-", "--output", "json"], &toml);
    assert_eq!(checked.error_json(1)["violations"].as_array().unwrap().len(), COUNT);
}

/// What an earlier version applied stays in force, although this one refuses it in a new file.
#[test]
fn a_stored_catalogue_with_routes_of_another_syntax_is_readable() {
    let toml = "[[scope]]\nname = \"a\"\naccess = \"read\"\n\
                routes = [\"GET /users/:id\", \"GET /files/**\", \"GET /x;y\", \"GET /ok\"]\n";
    let stored = StoredCatalog {
        version: 3,
        toml: toml.to_owned(),
        applied: Timestamp(0),
        scope_ids: vec![("a".parse().unwrap(), ScopeId(1))],
    };
    let catalog = ActiveCatalog::read(stored).unwrap().catalog;
    for (path, found) in [("/ok", true), ("/users/:id", true), ("/users/7", false), ("/x;y", false)]
    {
        assert_eq!(catalog.resolve("GET", path).is_ok(), found, "{path}");
    }
}
