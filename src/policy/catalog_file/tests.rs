//! Invalid files, whole and by the rule; what must stay true is in the module above.

use super::*;
use proptest::prelude::*;

fn errors(text: &str) -> String {
    let errors = parse(text).unwrap_err();
    errors.iter().map(|error| format!("{error}\n")).collect()
}

/// Rules 1.4, 1.5 and 1.6.
#[test]
fn every_fault_is_named_at_once() {
    let text = r##"
# A scope too many.
title = "x"

[[scope]]
nmae = "a.read"
access = "reed"

[[scope]]
name = "Cards Read"
access = "read"
requires_whitelist = true
description = "two\nlines"
routes = [
  "HEAD /a",
  "GET /a/{id}",
  "GET /a/{other}",
  7,
]

[[scope]]
name = "b"
access = 1
requires_whitelist = "yes"
routes = "GET /x"

[[scope]]
name = "b"
access = "write"
routes = ["GET /a/{x}", "GET /a//", "get /b", "GET  /b", "GET /b%20", "GET /a/../b", "/b"]
colour = "red"
"##;
    insta::assert_snapshot!(errors(text), @r##"
line 3: the catalogue has an unknown key "title"; known here: scope
line 5: the scope on line 5 has no name
line 6: the scope on line 5 has an unknown key "nmae"; did you mean "name"?
line 7: the scope on line 5: access is "reed"; it is "read" or "write"
line 10: "Cards Read" is not a scope name: 1 to 64 of a-z, 0-9, "_", "." and "-"
line 12: scope "Cards Read" requires a whitelist, so its access must be "write"; or leave requires_whitelist out
line 13: scope "Cards Read": the description has the control character '\n'; write one line
line 15: scope "Cards Read": the route "HEAD /a": HEAD follows GET, leave it out
line 17: scope "Cards Read" has the route "GET /a/{other}" already, on line 16 (parameter names make no difference)
line 18: scope "Cards Read": routes must be a list of strings; found: integer
line 23: scope "b": access must be a string; found: integer
line 24: scope "b": requires_whitelist must be true or false; found: string
line 25: scope "b": routes must be a list of strings; found: string
line 28: scope "b" is already on line 22; a name stands once
line 30: scope "b": the route "GET /a/{x}" is already in scope "Cards Read", on line 16 (parameter names make no difference)
line 30: scope "b": the route "GET /a//": "//" is an empty segment and would match nothing
line 30: scope "b": the route "get /b": the method "get" is not 1 to 20 upper-case letters, like GET
line 30: scope "b": the route "GET  /b": the path must begin with "/", one space after the method
line 30: scope "b": the route "GET /b%20": the segment "b%20" has an escape; literals have none, a parameter matches any segment
line 30: scope "b": the route "GET /a/../b": the dot segment ".." would match nothing
line 30: scope "b": the route "/b": write a method, one space and a path, like "GET /api/v1/cards/{card_id}"
line 31: scope "b" has an unknown key "colour"; known here: name, access, requires_whitelist, description, routes
"##);
}

#[test]
fn a_syntax_error_stands_alone_with_its_line() {
    for (text, line) in [
        ("[[scope]]\nname = \"a\"\naccess = read\n", 3),
        ("[[scope]]\nname = \"a\"\nname = \"b\"\n", 3),
        ("\r\n\r\n[[scope]\r\n", 3),
        ("[[scope]]\ndescription = \"\u{0}\"", 2),
    ] {
        let errors = parse(text).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].line, line, "{text:?}: {errors:?}");
        assert!(errors[0].message.starts_with("this is not TOML: "), "{errors:?}");
    }
}

#[test]
fn a_file_without_scopes_is_refused() {
    for text in
        ["", "# nothing\n", "scope = []", "[scope]\nname = \"a\"", "scope = 1", "[[scopes]]"]
    {
        assert!(parse(text).is_err(), "{text:?}");
    }
    insta::assert_snapshot!(errors("[[scopes]]\nname = \"a\""), @r##"
line 1: the catalogue has an unknown key "scopes"; did you mean "scope"?
line 1: the catalogue has no scope; each begins with [[scope]]
"##);
    insta::assert_snapshot!(errors("scope = [1, {}]"), @r##"
line 1: the catalogue: scope must be tables; found: integer
line 1: the scope on line 1 has no name
line 1: the scope on line 1 has no access; it is "read" or "write"
"##);
}

/// Rule 1.4.
#[test]
fn the_least_a_scope_needs() {
    let defs =
        parse("[[scope]]\nname = \"a\"\naccess = \"write\"\n\n[[scope]]\nname='b'\naccess='read'");
    let defs = defs.unwrap();
    assert_eq!(defs.len(), 2);
    assert!(defs[0].requires_whitelist && !defs[1].requires_whitelist);
    assert!(defs[0].routes.is_empty() && defs[0].description.is_empty());
    let asks = "[[scope]]\nname='a'\naccess='write'\nrequires_whitelist=false";
    assert!(!parse(asks).unwrap()[0].requires_whitelist);
}

#[test]
fn hidden_characters_of_descriptions_are_named_beside_all_other_errors() {
    let file = "[[scope]]\nname = \"a\"\naccess = \"sometimes\"\n\
                description = \"pay\\u202Eyap\"\n\n[[scope]]\nname = \"b\"\naccess = \"read\"\n\
                description = \"\\u0301a\"\n";
    insta::assert_snapshot!(errors(file), @r#"
line 3: scope "a": access is "sometimes"; it is "read" or "write"
line 4: scope "a": the description has the character U+202E, which can't be seen or changes the text around it: leave it out, or type the text again
line 9: scope "b": the description begins with the combining mark U+0301: begin with a letter, a digit or a symbol
"#);
    let stored = file.replace("sometimes", "read");
    assert!(parse(&stored).is_err());
    assert_eq!(parse_stored(&stored).unwrap()[0].description, "pay\u{202E}yap");
}

/// Rule 1.3.
#[test]
fn access_is_what_the_file_says_whatever_the_method() {
    let file = "[[scope]]\nname = \"reveal\"\naccess = \"write\"\nroutes = [\"GET /cards/{id}/reveal\"]\n\
                [[scope]]\nname = \"search\"\naccess = \"read\"\nroutes = [\"POST /search\"]\n";
    let access: Vec<_> = parse(file).unwrap().into_iter().map(|scope| scope.access).collect();
    assert_eq!(access, [Access::Write, Access::Read]);
}

/// Rule 1.13.
#[test]
fn sizes_have_bounds() {
    let scope = |i: usize| format!("[[scope]]\nname = \"s{i}\"\naccess = \"read\"\n");
    let scopes = |n| (0..n).map(scope).collect::<String>();
    assert_eq!(parse(&scopes(MAX_SCOPES)).unwrap().len(), MAX_SCOPES);
    assert_eq!(
        errors(&scopes(MAX_SCOPES + 1)),
        "line 3001: 1001 scopes are too many; 1000 is the most\n",
    );

    let routes = |n| {
        let routes = (0..n).map(|i| format!("\"GET /{i}\",\n"));
        format!("{}routes = [\n{}]", scope(0), routes.collect::<String>())
    };
    assert_eq!(parse(&routes(MAX_ROUTES)).unwrap()[0].routes.len(), MAX_ROUTES);
    assert_eq!(errors(&routes(MAX_ROUTES + 2)), "line 10005: there are more than 10000 routes\n");

    let described = |text: &str| format!("{}description = \"{text}\"", scope(0));
    assert!(parse(&described(&"é".repeat(MAX_DESCRIPTION_CHARS))).is_ok());
    assert!(parse(&described(&"é".repeat(MAX_DESCRIPTION_CHARS + 1))).is_err());

    let large = "#".repeat(MAX_TEXT_LEN);
    assert!(errors(&large).contains("no scope"));
    assert!(errors(&format!("{large}#")).contains("1048577 bytes"));
}

#[test]
fn hostile_files_get_short_answers() {
    let long = "x".repeat(900_000);
    for text in [
        format!("{long} = 1"),
        format!("[[scope]]\nname = \"{long}\""),
        format!("[[scope]]\nroutes = [\"{long}\", \"GET /{long}%\", \"GET /{{{long}\"]"),
        (0..90_000).map(|i| format!("k{i} = 1\n")).collect(),
        format!("a = {}", "[".repeat(1_000_000)),
        "[[scope]]\n".repeat(90_000),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
    ] {
        let errors = parse(&text).unwrap_err();
        assert!(!errors.is_empty() && errors.len() <= MAX_ERRORS + 1);
        assert!(errors.iter().all(|f| f.message.chars().count() <= MAX_MESSAGE_CHARS + 3));
    }
}

#[test]
fn every_error_of_a_catalogue_of_errors_is_named() {
    let file = |count| {
        let routes: String = (0..count).map(|i| format!("\"GET /{i}//\",\n")).collect();
        format!("[[scope]]\nname = \"a\"\naccess = \"read\"\nroutes = [\n{routes}]")
    };
    let errors = parse(&file(1_234)).unwrap_err();
    assert_eq!(errors.len(), 1_234);
    assert!(errors.iter().enumerate().all(|(i, error)| error.line == i + 5));

    let keys: String = (0..=MAX_ERRORS).map(|i| format!("k{i} = 1\n")).collect();
    let errors = parse(&keys).unwrap_err();
    assert_eq!(errors.len(), MAX_ERRORS + 1);
    assert!(errors[MAX_ERRORS].message.contains("may be more"), "{:?}", errors[MAX_ERRORS]);
}

/// A stored catalogue was accepted by the version that stored it.
#[test]
fn a_catalogue_of_an_earlier_version_is_readable() {
    let routes = r#"["GET /users/:id", "GET /files/**", "GET /a;b", "GET /..."]"#;
    let file = format!("[[scope]]\nname = \"a\"\naccess = \"read\"\nroutes = {routes}");
    assert_eq!(parse(&file).unwrap_err().len(), 4);
    assert_eq!(parse_stored(&file).unwrap()[0].routes.len(), 4);
    assert!(parse_stored(&file.replace("/a;b", "/a b")).is_err());
}

/// Each number stands in the documents as it is here.
#[test]
fn the_limits_are_documented() {
    let rules = include_str!("../../../docs/policy.md");
    let rule = rules.lines().skip_while(|line| !line.starts_with("**1.13 Limits.**"));
    let rule: String = rule.take_while(|line| !line.is_empty()).map(|l| format!("{l} ")).collect();
    let grouped = |number: usize| {
        let digits = number.to_string();
        let groups = digits.as_bytes().rchunks(3).rev().map(|g| String::from_utf8_lossy(g));
        groups.collect::<Vec<_>>().join(",")
    };
    for (number, what) in [
        (MAX_TEXT_LEN, "bytes"),
        (MAX_SCOPES, "scopes"),
        (MAX_ROUTES, "routes"),
        (MAX_DESCRIPTION_CHARS, "characters"),
    ] {
        let text = format!("{} {what}", grouped(number));
        assert!(rule.contains(&text), "no `{text}` in: {rule}");
        let contract = include_str!("../../../proto/portcullis/v1/catalog_service.proto");
        assert!(what == "characters" || contract.contains(&text), "no `{text}` in the contract");
    }
    assert!(rules.contains(&format!("{} bytes", grouped(crate::policy::route::MAX_PATH_LEN))));
}

fn def() -> impl Strategy<Value = ScopeDef> {
    let route = "[A-GI-Z]{1,5} (/([a-z~!@$&'][a-z~!@:$&']{0,3}|\\{[a-z_][a-z_-]{0,3}\\}(:[a-z]{1,3}|\\.json)?)){1,5}(/\\{r\\.\\.\\.\\})?/?";
    (
        "[a-z0-9_.-]{1,12}",
        any::<(bool, bool)>(),
        "[^\\x00-\\x1f\\x7f-\\x9f]{0,30}"
            .prop_filter("hidden characters", |text| text::check(text).is_ok()),
        prop::collection::vec(route, 0..4),
    )
        .prop_map(|(name, (write, asks), description, routes)| ScopeDef {
            name: name.parse().unwrap(),
            access: if write { Access::Write } else { Access::Read },
            requires_whitelist: write && asks,
            description,
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        })
}

/// What is printed is for people as well.
#[test]
fn printed_scopes_are_separated_by_one_empty_line() {
    let text = "[[scope]]\nname = \"a\"\naccess = \"read\"\nrequires_whitelist = false\n\n[[scope]]\nname = \"b\"\n\
                access = \"write\"\nrequires_whitelist = true\nroutes = [\n  \"GET /b\",\n]\n";
    assert_eq!(print(&parse(text).expect("a catalogue")), text);
}

#[test]
fn a_mistyped_key_is_answered_with_the_nearest_one_or_with_all() {
    let known = ["name", "access", "requires_whitelist", "description", "routes"];
    for (key, nearest_one) in [
        ("nmae", Some("name")),
        ("Name", Some("name")),
        ("acess", Some("access")),
        ("rout", Some("routes")),
        ("paths", None),
        ("requires_whitelists", Some("requires_whitelist")),
        ("require_list", Some("requires_whitelist")),
        ("colour", None),
        ("", None),
    ] {
        assert_eq!(nearest(key, &known), nearest_one, "{key}");
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(defs in prop::collection::vec(def(), 1..6)) {
        let mut names = std::collections::HashSet::new();
        let mut shapes = std::collections::HashSet::new();
        let unique = defs.iter().all(|def| {
            names.insert(def.name.clone()) && def.routes.iter().all(|route| shapes.insert(route.shape()))
        });
        let read = parse(&print(&defs));
        if unique {
            prop_assert_eq!(read, Ok(defs));
        } else {
            prop_assert!(read.is_err());
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC*|([\\[\\]={}\"'.,\n #a0é\u{0}\\\\]|scope|name|routes|\\[\\[scope\\]\\]\n){0,60}") {
        if let Err(errors) = parse(&text) {
            let lines = text.split('\n').count();
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.iter().all(|error| (1..=lines).contains(&error.line)));
        }
    }

    #[test]
    fn no_mangled_catalogue_panics(cuts in prop::collection::vec((any::<prop::sample::Index>(), "\\PC{0,2}|[\"\n\\[\\]={}]{0,2}"), 1..6)) {
        let mut text: Vec<char> = include_str!("../../../catalogs/mercury.toml").chars().collect();
        for (at, put) in cuts {
            let at = at.index(text.len());
            text.splice(at..(at + 1).min(text.len()), put.chars());
        }
        let _ = parse(&text.iter().collect::<String>());
    }
}
