//! `portcullis catalog from-openapi`, as a person uses it, and what a server says of what it prints.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use std::fs;

use crate::support::command::Shell;
use crate::support::server::Setup;

const CARDS: &str = r##"
openapi: 3.1.0
info: { title: Cards, version: "2" }
servers: [{ url: https://bank.example/api/v1 }]
components:
  securitySchemes:
    login: { type: openIdConnect, openIdConnectUrl: https://bank.example/.well-known }
paths:
  /cards:
    get: { operationId: listCards, security: [{ login: ["cards:read"] }] }
    post: { operationId: createCard, security: [{ login: ["cards:write"] }] }
  /cards/{card-id}:freeze:
    post: { security: [{ login: ["cards:write"] }] }
  /files/{path+}:
    get: { tags: [files] }
  /cards/{a}.{b}:
    get: {}
  /status:
    get: { security: [] }
"##;

#[test]
fn a_document_is_printed_as_a_catalogue_that_a_server_takes() {
    let server = Setup::sqlite().start();
    let shell = Shell::operator(&server);
    // Neither a server nor a credential is needed for it.
    let alone = Shell::new();
    fs::write(alone.home().join("cards.yaml"), CARDS).unwrap();
    let made = alone.run(&["catalog", "from-openapi", "cards.yaml"]).exits(0);
    made.shows(&[
        "# A catalogue made from cards.yaml (Cards 2).",
        "name = \"cards.read\"\naccess = \"read\" # review: ",
        "name = \"cards.write\"\naccess = \"write\" # review: ",
        "  \"GET /api/v1/cards\", # listCards\n",
        "  \"POST /api/v1/cards/{card-id}:freeze\",\n",
        "name = \"files.read\"",
        "  \"GET /api/v1/files/{path...}\", # review: was {path+}\n",
        "#   GET /status\n",
    ])
    .tells(&[
        "3 scope(s), 4 route(s)",
        "1 public operation(s)",
        "1 operation(s) can't be expressed",
        "  1: a segment has more than one parameter",
        "    GET /cards/{a}.{b} (/paths/~1cards~1{a}.{b}/get)",
    ]);

    let toml = alone.run_with(&["catalog", "from-openapi", "-"], CARDS).ok() + "\n";
    shell.run_with(&["catalog", "check", "-"], &toml).exits(0).shows(&["cards.write"]);
    shell.run_with(&["catalog", "apply", "-", "--confirm-narrowing"], &toml).exits(0);
    assert_eq!(shell.run(&["catalog", "show", "--toml"]).ok() + "\n", toml);

    let json = alone.run_with(&["catalog", "from-openapi", "-", "--output", "json"], CARDS).json();
    assert_eq!(json["toml"].as_str().unwrap(), toml);
    assert_eq!(json["public_operations"][0], "GET /status");
    assert_eq!(json["left_out"][0]["operation"], "GET /cards/{a}.{b}");
    assert_eq!(json["left_out"][0]["pointer"], "/paths/~1cards~1{a}.{b}/get");
}

#[test]
fn what_is_no_document_is_refused_with_its_place() {
    let shell = Shell::new();
    shell.run(&["catalog", "from-openapi", "missing.yaml"]).exits(2).tells(&["missing.yaml"]);
    let refused = |text: &str| shell.run_with(&["catalog", "from-openapi", "-"], text).exits(1);
    refused("swagger: '2.0'").tells(&["-#/swagger: is OpenAPI 2: convert"]);
    refused("openapi: 3.0.0\npaths: { /a: { $ref: 'b.yaml' } }")
        .tells(&["-#/paths/~1a/$ref: refers to another document, \"b.yaml\": bundle"]);
    let bomb = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |bomb, n| {
        bomb + &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "))
    });
    refused(&bomb).tells(&["more than a million values"]);
    let large = "#".repeat(16 * 1024 * 1024 + 1);
    fs::write(shell.home().join("large.yaml"), large).unwrap();
    let answer = shell.run(&["catalog", "from-openapi", "large.yaml", "--output", "json"]);
    let error = answer.error_json(1);
    assert_eq!(error["code"], "INVALID_ARGUMENT");
    assert_eq!(error["reason"], "FAULTY_OPENAPI");
    assert_eq!(error["violations"][0]["field"], "large.yaml#");
}
