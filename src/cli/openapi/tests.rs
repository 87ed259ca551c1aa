//! What documents become; what must stay true is in the module above.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::scope::Access;

const PETS: &str = r##"
openapi: 3.0.3
info: { title: Pets, version: "1.0" }
servers:
  - url: https://pets.example/v1
  - url: https://{stage}.pets.example/{stage}
    variables: { stage: { enum: [live, test], default: live } }
tags:
  - { name: owners, description: "Who  owns\n\u200bpets" }
security: [{ oauth: ["read:pets"] }]
components:
  securitySchemes:
    oauth:
      type: oauth2
      flows:
        implicit:
          authorizationUrl: https://pets.example/auth
          scopes: { "read:pets": See pets, "write:pets": Change pets }
  pathItems:
    Pet:
      get: { operationId: getPet }
      put: { security: [{ oauth: ["write:pets", "read:pets"] }] }
x-internal: true
paths:
  x-note: ignored
  /pets:
    get: { operationId: listPets, x-extension: {} }
    head: { operationId: headPets }
    post: { operationId: "make\npet\u202e", security: [{ oauth: ["write:pets"] }, { key: [] }] }
  /pets/{pet.id}: { $ref: "#/components/pathItems/Pet" }
  /pets/{petId}.json:
    get: { security: [{ oauth: ["read:pets"] }, {}] }
  /pets/{petId}:feed:
    post: { security: [{ oauth: ["write:pets"] }] }
  /owners/:
    servers: [{ url: / }]
    get: { tags: [owners], security: [{ key: [] }] }
    post: { tags: [owners], security: [{ key: [] }] }
  /health:
    get: { security: [] }
  /pets/{a}-{b}:
    get: {}
  /pets?sort=name:
    get: {}
  /head-only:
    head: {}
  /pets/{other}:
    get: { security: [{ oauth: ["write:pets"] }] }
"##;

#[test]
fn a_document_becomes_a_catalogue() {
    let converted = convert(PETS, "pets.yaml").unwrap();
    insta::assert_snapshot!(converted.toml, @r##"
# A catalogue made from pets.yaml (Pets 1.0).
#
# Whatever has "review:" in its comment was derived, and a person has to decide it. Above all: access says
# what an operation amounts to, which its method does not show; requires_whitelist is left out, so that it is
# true for each write.

# review: from the security scope "read:pets"
[[scope]]
name = "read.pets"
access = "read" # review: its methods read
description = "See pets"
routes = [
  "GET /live/pets", # listPets
  "GET /test/pets", # listPets
  "GET /v1/pets", # listPets
  "GET /live/pets/{petId}.json", # review: may also be called by anybody
  "GET /test/pets/{petId}.json", # review: may also be called by anybody
  "GET /v1/pets/{petId}.json", # review: may also be called by anybody
]

# review: for operations that need all of the security scopes "read:pets" and "write:pets"
[[scope]]
name = "read.pets-and-write.pets"
access = "write" # review: its methods write
routes = [
  "PUT /live/pets/{pet_id}",
  "PUT /test/pets/{pet_id}",
  "PUT /v1/pets/{pet_id}",
]

# review: from the security scope "write:pets"
[[scope]]
name = "write.pets"
access = "write" # review: some of its methods write, others read: two scopes may be better
description = "Change pets"
routes = [
  "POST /live/pets", # make pet<U+202E>; review: instead, also other credentials without a scope
  "POST /test/pets", # make pet<U+202E>; review: instead, also other credentials without a scope
  "POST /v1/pets", # make pet<U+202E>; review: instead, also other credentials without a scope
  "GET /live/pets/{other}", # review: also GET /live/pets/{pet_id}, from the security scope "read:pets"
  "GET /test/pets/{other}", # review: also GET /test/pets/{pet_id}, from the security scope "read:pets"
  "GET /v1/pets/{other}", # review: also GET /v1/pets/{pet_id}, from the security scope "read:pets"
  "POST /live/pets/{petId}:feed",
  "POST /test/pets/{petId}:feed",
  "POST /v1/pets/{petId}:feed",
]

# review: from the tag or path "owners", methods that read; the document names no security scope
[[scope]]
name = "owners.read"
access = "read" # review: its methods read
description = "Who owns pets"
routes = [
  "GET /owners/",
]

# review: from the tag or path "owners", methods that write; the document names no security scope
[[scope]]
name = "owners.write"
access = "write" # review: its methods write
description = "Who owns pets"
routes = [
  "POST /owners/",
]

# In no scope, since the document lets anybody call them (review: is that meant?):
#   GET /health
"##);
    insta::assert_snapshot!(converted.summary().join("\n"), @r##"
5 scope(s), 20 route(s); 20 line(s) are marked "review:"
1 public operation(s) are in no scope: see the end of the catalogue
4 operation(s) can't be expressed on every server:
  1: HEAD follows GET, and this path has none
    HEAD /head-only (/paths/~1head-only/head)
  1: a segment has more than one parameter
    GET /pets/{a}-{b} (/paths/~1pets~1{a}-{b}/get)
  1: the path has a query string or a fragment, which takes no part in matching
    GET /pets?sort=name (/paths/~1pets?sort=name/get)
  1: the route is that of GET /live/pets/{other} in another scope
    GET /pets/{pet.id} (/components/pathItems/Pet/get)
"##);
    let defs = catalog_file::parse(&converted.toml).unwrap();
    assert_eq!((defs.len(), converted.scopes), (5, 5));
    assert_eq!(defs.iter().map(|def| def.routes.len()).sum::<usize>(), converted.routes);
    for def in defs {
        assert_eq!(def.requires_whitelist, def.access == Access::Write, "{}", def.name);
    }
}

#[test]
fn the_same_document_in_json_makes_the_same_catalogue() {
    let json = document::parse(PETS).unwrap().to_string();
    assert_eq!(convert(&json, "x").unwrap().toml, convert(PETS, "x").unwrap().toml);
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_cure() {
    let with_paths = |paths: Value| json!({ "openapi": "3.1.0", "paths": paths }).to_string();
    let errors: Vec<String> = [
        "{}".to_owned(),
        json!({ "swagger": "2.0" }).to_string(),
        json!({ "openapi": "3.2.0" }).to_string(),
        json!({ "openapi": 3.0 }).to_string(),
        json!({ "openapi": "3.1.0" }).to_string(),
        with_paths(json!({})),
        with_paths(json!({ "/a": { "get": { "security": [] } } })),
        with_paths(json!({ "/a": 1, "/b": { "get": 7 }, "/c": { "$ref": 7 } })),
        with_paths(json!({ "/a~b/c": { "$ref": "other.yaml#/paths/~1a" } })),
        with_paths(json!({ "/a": { "$ref": "https://x.example/y.json" } })),
        with_paths(json!({ "/a": { "$ref": "#/components/pathItems/A" } })),
        with_paths(json!({ "/a": { "$ref": "#/paths/~1b" }, "/b": { "$ref": "#/paths/~1a" } })),
    ]
    .iter()
    .map(|text| {
        let errors = convert(text, "x").unwrap_err();
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
    })
    .collect();
    insta::assert_snapshot!(errors.join("\n"), @r##"
is no OpenAPI document: it has no "openapi", like 3.1.0
/swagger: is OpenAPI 2: convert the document to OpenAPI 3.0 first
/openapi: is "3.2.0"; OpenAPI 3.0 and 3.1 are read
/paths: must be a table of paths
/paths: must be a table of paths
/paths: has no operation
/paths: has no operation that a scope could cover: each is public or can't be expressed
/paths/~1a: must be a table of names and values | /paths/~1b/get: must be a table of names and values | /paths/~1c/$ref: must be text
/paths/~1a~0b~1c/$ref: refers to another document, "other.yaml#/paths/~1a": bundle the documents into one file first
/paths/~1a/$ref: refers to another document, "https://x.example/y.json": bundle the documents into one file first
/paths/~1a/$ref: refers to "#/components/pathItems/A", which leads to nothing in the document, or in a circle
/paths/~1a/$ref: refers to "#/paths/~1b", which leads to nothing in the document, or in a circle | /paths/~1b/$ref: refers to "#/paths/~1a", which leads to nothing in the document, or in a circle
"##);
}

#[test]
fn what_does_not_fit_in_a_catalogue_is_refused() {
    let paths: serde_json::Map<String, Value> =
        (0..10_001).map(|n| (format!("/{n}"), json!({ "get": { "tags": ["a"] } }))).collect();
    let errors = convert(&json!({ "openapi": "3.0.0", "paths": paths }).to_string(), "x");
    let message = errors.unwrap_err()[0].to_string();
    assert!(message.contains("more than 10000 routes; split"), "{message}");
}

/// The document can't write lines of its own into the catalogue, or hide text in it.
#[test]
fn no_text_of_a_document_leaves_its_comment_or_string() {
    let hostile = "a\"\n[[scope]]\nname = \"evil\"\naccess = \"read\" # \u{202e}\u{0}\r\"\"\"'''\\";
    let document = json!({
        "openapi": "3.0.0",
        "info": { "title": hostile, "version": hostile },
        "tags": [{ "name": hostile, "description": hostile }],
        "components": { "securitySchemes": { "o": { "flows": { "f": { "scopes": { hostile: hostile } } } } } },
        "paths": {
            "/a": { "get": { "operationId": hostile, "tags": [hostile] } },
            "/b": { "get": { "summary": hostile, "security": [{ "o": [hostile] }, { "o": [hostile, "b"] }] } },
            format!("/{hostile}"): { "get": { "security": [] }, "put": {} },
        }
    });
    let converted = convert(&document.to_string(), hostile).unwrap();
    let defs = catalog_file::parse(&converted.toml).unwrap();
    assert_eq!(defs.len(), 2, "{}", converted.toml);
    assert!(defs.iter().all(|def| def.name.as_str() != "evil"));
    assert!(!converted.toml.contains(['\u{202e}', '\0', '\r']));
}

fn set(table: &mut Value, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        table[name] = value;
    }
}

/// Part of a document: paths, servers and requirements, likely and unlikely ones.
fn any_document() -> impl Strategy<Value = Value> {
    let word = || prop::sample::select(vec!["a", "b", "A:b", "https://x.example/y", "", "\u{e9}"]);
    let segment = prop_oneof![
        4 => "[a-c]{1,2}",
        2 => "\\{[a-z.0-9-]{0,4}\\}",
        1 => "\\{[a-c]\\}[.:][a-c]{1,3}",
        1 => "\\{\\*?[a-c]\\+?\\}",
        1 => "[{}%a:*;. ?#]{0,3}",
    ];
    let path =
        (prop::collection::vec(segment, 1..5), any::<bool>()).prop_map(|(segments, slash)| {
            format!("/{}{}", segments.join("/"), if slash { "/" } else { "" })
        });
    let requirement =
        prop::collection::btree_map(word(), prop::collection::vec(word(), 0..3), 0..3);
    let security = prop::option::of(prop::collection::vec(requirement, 0..3));
    let url = prop::sample::select(vec![
        "/",
        "",
        "https://x.example/v1",
        "/v%31",
        "../v",
        "{u}/w",
        "/{v}",
        "x",
    ]);
    let variable = prop::collection::vec("[a-c/]{0,3}", 0..3);
    let servers = prop::option::of((url, variable).prop_map(|(url, values)| {
        let default = values.first().cloned().unwrap_or_default();
        json!([{ "url": url, "variables": { "v": { "enum": values, "default": default } } }])
    }));
    let operation = (security.clone(), servers.clone(), prop::option::of(word())).prop_map(
        |(security, servers, tag)| {
            let mut operation = json!({ "operationId": "x\ny" });
            set(&mut operation, "security", security.map(|security| json!(security)));
            set(&mut operation, "servers", servers);
            set(&mut operation, "tags", tag.map(|tag| json!([tag])));
            operation
        },
    );
    let methods = prop::sample::select(METHODS.to_vec());
    let item = prop::collection::btree_map(methods, operation, 0..4);
    let paths = prop::collection::btree_map(path, item, 0..12);
    (paths, security, servers).prop_map(|(paths, security, servers)| {
        let mut document = json!({ "openapi": "3.1.0", "paths": paths });
        set(&mut document, "security", security.map(|security| json!(security)));
        set(&mut document, "servers", servers);
        document
    })
}

proptest! {
    /// Every operation is in the catalogue, or public, or named with the reason.
    #[test]
    fn what_is_printed_is_a_catalogue(document in any_document()) {
        let text = document.to_string();
        let Ok(converted) = convert(&text, "x") else { return Ok(()) };
        let defs = catalog_file::parse(&converted.toml);
        prop_assert!(defs.is_ok(), "{:?}\n{}", defs, converted.toml);
        let routes: usize = defs.iter().flatten().map(|def| def.routes.len()).sum();
        prop_assert_eq!(routes, converted.routes);
        prop_assert_eq!(&convert(&text, "x").unwrap().toml, &converted.toml);
        let defs = catalog_file::parse(&converted.toml).unwrap();
        let shapes: BTreeSet<String> =
            defs.iter().flat_map(|def| &def.routes).map(Route::shape).collect();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let pointer = format!("/paths{}/{method}", document::step(path));
                let method = method.to_uppercase();
                let named = converted.left_out.iter().any(|one| one.pointer == pointer);
                let public = converted.public.contains(&format!("{method} {}", quoted(path)));
                if named || public || method == "HEAD" && item.get("get").is_some() {
                    continue;
                }
                let servers = operation.get("servers").or(document.get("servers"));
                for base in paths::bases(servers).unwrap() {
                    let (route, _) = paths::route(&method, &base, path).unwrap();
                    prop_assert!(shapes.contains(&route.shape()), "{route} in\n{}", converted.toml);
                }
            }
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC*|[{}\\[\\]\":,&*!|>a-c \n#-]{0,80}") {
        let _ = convert(&text, "x");
        let _ = convert(&format!("openapi: 3.0.0\npaths:\n  {}", text.replace('\n', "\n  ")), "x");
    }
}
