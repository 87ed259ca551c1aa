//! Which requests take which route; what must stay true is in the module above.

use super::*;
use proptest::prelude::*;

fn table(routes: &[&str]) -> RouteTable<String> {
    let mut table = RouteTable::default();
    for text in routes {
        table.insert(&text.parse().unwrap(), (*text).to_owned()).unwrap();
    }
    table
}

/// The route that a request takes, where all routes have one owner.
fn taken<'t>(table: &'t RouteTable<String>, method: &str, path: &str) -> Option<&'t str> {
    table.resolve(method, path, |_, _| true).ok().map(String::as_str)
}

/// Of `routes`, the one that each request takes.
#[track_caller]
fn check(routes: &[&str], cases: &[(&str, &str, Option<&str>)]) {
    let table = table(routes);
    for &(method, path, expected) in cases {
        let found = taken(&table, method, path);
        assert_eq!(found, expected, "{method} {path:?}");
    }
}

/// Rule 2.9.
#[test]
fn literals_go_before_parameters_from_the_left() {
    let routes = ["GET /a/b", "GET /a/{x}", "GET /{x}/b", "GET /{x}/{y}/c", "GET /a/{x}/d"];
    check(
        &routes,
        &[
            ("GET", "/a/b", Some("GET /a/b")),
            ("GET", "/a/c", Some("GET /a/{x}")),
            ("GET", "/c/b", Some("GET /{x}/b")),
            ("GET", "/c/c", None),
            ("GET", "/a/b/c", Some("GET /{x}/{y}/c")),
            ("GET", "/a/b/d", Some("GET /a/{x}/d")),
            ("GET", "/b/b/d", None),
            ("GET", "/a", None),
            ("GET", "/a/b/c/d", None),
        ],
    );
}

#[test]
fn a_literal_without_the_method_is_left_again() {
    check(
        &["GET /a/{x}", "POST /a/b", "GET /{x}/c/{y}", "DELETE /a/c/d"],
        &[
            ("GET", "/a/b", Some("GET /a/{x}")),
            ("POST", "/a/b", Some("POST /a/b")),
            ("POST", "/a/c", None),
            ("GET", "/a/c/d", Some("GET /{x}/c/{y}")),
        ],
    );
}

#[test]
fn methods_are_case_sensitive_and_head_follows_get() {
    let cases = [
        ("GET", "/a", Some("GET /a")),
        ("HEAD", "/a", Some("GET /a")),
        ("get", "/a", None),
        ("head", "/a", None),
        ("Get", "/a", None),
        ("", "/a", None),
        ("GET ", "/a", None),
        ("HEAD", "/b", None),
    ];
    check(&["GET /a", "POST /b"], &cases);
}

#[test]
fn what_could_be_read_in_two_ways_matches_nothing() {
    let table = table(&["GET /{x}", "GET /a/{x}", "GET /a/{x}/c", "GET /{x}/{y}/{z}/{w}"]);
    for path in [
        "",
        "/",
        "?",
        "/?a",
        "a",
        "a/b",
        "*",
        "http://a/b",
        "//",
        "//a",
        "/a//c",
        "/a/",
        "/a/b/",
        "/a/b/?",
        ".",
        "/.",
        "/..",
        "/a/.",
        "/a/..",
        "/a/../c",
        "/a/./c",
        "/a/%2e",
        "/a/%2E%2e",
        "/a/.%2e/c",
        "/a/%2e./c",
        "/..;",
        "/a/..;x=1/c",
        "/a/.;",
        "/a/..%3b/c",
        "/a%2Fb",
        "/a%2fb",
        "/a/%2f",
        "/a/%5C",
        "/a/%5c",
        "/a/\\",
        "/a\\b",
        "/a/\0",
        "/a/\t",
        "/a/\n",
        "/a/\r",
        "/a/\u{1f}",
        "/a/\u{7f}",
        "/a/%00",
        "/a/%0a",
        "/a/%1F",
        "/a/%7f",
        "/a/%7F",
        "/a/%",
        "/a/%2",
        "/a/%zz",
        "/a/%2g",
        "/a/%+1",
        "/a/%%20",
        "/a/b%",
        "/a/%/2",
        "/a%2",
        "/a/b#c",
        "/a/b#",
        "/a/%u0041",
        // What servers cut off.
        "/a/b;c",
        "/a/b%3Bc",
        "/a/b%3b",
        "/a;/b",
        "/;",
        "/a/%3F",
        "/a/b%3fc",
        "/a/%23",
        // Encoded twice, and more often.
        "/a/%252f",
        "/a/%252F",
        "/c%2561rds",
        "/a/%252e%252e",
        "/a/%252565",
        "/a/%25%32%66",
        "/a/%2%35%32f",
        "/a/%25u002f",
        "/a/%EF%BC%852f",
        "/a/%25%EF%BC%92%EF%BC%A6",
        "/a/%252%C2%ADf",
        // No UTF-8.
        "/a/%C0%AF",
        "/a/%ff%fe",
        "/a/%E9",
        "/a/%C3/%A9",
        "/a/%ED%A0%80",
        "/a/%F4%90%80%80",
        // Control characters beyond ASCII, raw and encoded.
        "/a/%C2%80",
        "/a/\u{85}",
        "/a/%C2%9F",
        "/a/b%E2%80%A8",
        "/a/\u{2029}",
        // What normalises to a delimiter.
        "/a/%EF%BC%8Fb",
        "/a/\u{ff0f}b",
        "/a/\u{ff3c}",
        "/a/\u{ff1b}b",
        "/a/\u{37e}",
        "/a/\u{2048}",
        "/a/\u{2100}",
        "/a/\u{ff03}",
        "/a/\u{fe6a}",
        // What becomes a dot segment, or none.
        "/a/...",
        "/a/%2e%2e%2e",
        "/a/..%20",
        "/a/.. ",
        "/a/%20..",
        "/a/.%20.",
        "/a/%20",
        "/a/%E2%80%A5",
        "/a/\u{2026}",
        "/a/\u{ff0e}\u{ff0e}",
        "/a/.%C2%AD.",
        "/a/%E2%80%8B",
        "/a/%C2%A0",
        "/a/%E2%80%8B/c",
        "/1/2/3/4/5",
    ] {
        assert_eq!(taken(&table, "GET", path), None, "{path:?}");
    }
}

/// Rule 2.8.
#[test]
fn the_query_is_cut_off_first() {
    let b = Some("GET /a/b");
    let cases = [
        ("GET", "/a/b?", b),
        ("GET", "/a/b?c=d", b),
        ("GET", "/a/b?/../%zz\\#\n?x", b),
        ("GET", "/a%3Fb", None),
        ("GET", "/a?/b", Some("GET /{x}")),
    ];
    check(&["GET /a/b", "GET /{x}"], &cases);
}

/// Rule 2.10.
#[test]
fn other_escapes_are_decoded_once() {
    let (cards, one) = (Some("GET /cards/{x}"), Some("GET /{x}"));
    let cases = [
        ("GET", "/c%61rds/1", cards),
        ("GET", "/%63%61%72%64%73/%31", cards),
        ("GET", "/%C3%A9", one),
        ("GET", "/cards/%25", cards),
        ("GET", "/cards/100%25", cards),
        ("GET", "/cards/%25a", cards),
        ("GET", "/cards/%25-%25ux", cards),
        ("GET", "/cards/%20 %c3%a9\u{e9}", cards),
        ("GET", "/cards/..a", cards),
        ("GET", "/cards/a..", cards),
        ("GET", "/cards/%E2%80%8Ba", cards),
        ("GET", "/Cards/1", None),
    ];
    check(&["GET /cards/{x}", "GET /{x}"], &cases);
}

#[test]
fn the_first_of_two_routes_of_a_shape_stays() {
    let mut table = table(&["GET /a/{x}"]);
    let second = "GET /a/{y}".parse().unwrap();
    assert_eq!(table.insert(&second, "second".to_owned()), Err("second".to_owned()));
    assert_eq!(taken(&table, "GET", "/a/b"), Some("GET /a/{x}"));
}

/// Of routes that have an owner each: which are run for a request, `own` first.
#[track_caller]
fn ambiguous(routes: &[&str], cases: &[(&str, Option<&str>)]) {
    let table = table(routes);
    for &(path, expected) in cases {
        let found = match table.resolve("GET", path, |a, b| a == b) {
            Ok(_) => None,
            Err(Unresolved::Ambiguous { other, .. }) => Some(other.as_str()),
            Err(Unresolved::NoRoute) => Some("none"),
        };
        assert_eq!(found, expected, "{path}");
    }
}

#[test]
fn what_a_server_may_read_as_the_path_of_another_owner_is_ambiguous() {
    let (export, read) = (Some("GET /cards/export"), Some("GET /cards/{id}"));
    ambiguous(
        &["GET /cards/{id}", "GET /cards/export", "POST /cards/import"],
        &[
            ("/cards/export", None),
            ("/cards/%65xport", None),
            ("/cards/42", None),
            ("/cards/Export42", None),
            ("/cards/x.export", None),
            ("/cards/exp.ort", None),
            ("/cards/IMPORT", None),
            ("/cards/EXPORT", export),
            ("/cards/export.json", export),
            ("/cards/EXPORT.tar.gz", export),
            ("/cards/export.", export),
            ("/cards/export..", export),
            ("/cards/export%20", export),
            ("/cards/export%20.json", export),
            ("/cards/%20export", export),
            ("/cards/export%C2%A0", export),
            ("/cards/\u{ff25}xport", export),
            ("/cards/ex%C2%ADport", export),
            ("/cards/export%2ejson", export),
            ("/Cards/export", Some("none")),
        ],
    );
    // The literal itself is read as something else.
    ambiguous(&["GET /cards/{id}", "GET /cards/export.csv"], &[("/cards/export.csv", read)]);
    // Where case is all that differs, also a plain path is read as the other one.
    let upper = Some("GET /a/Export");
    ambiguous(&["GET /a/{id}", "GET /a/Export"], &[("/a/export", upper), ("/a/Export", None)]);
    ambiguous(&["GET /a/export", "GET /a/Export"], &[("/a/export", upper)]);
}

#[test]
fn variants_of_several_segments_combine() {
    let routes = ["GET /{a}/{b}/{c}", "GET /x/{b}/z", "GET /x/y/w"];
    ambiguous(
        &routes,
        &[
            ("/X/b/Z", Some("GET /x/{b}/z")),
            ("/X/Y.a/W.", Some("GET /x/y/w")),
            ("/X/b/w", None),
            ("/x/Y/q", None),
            ("/x/Y/z", None),
        ],
    );
    // A literal that leads nowhere is left again, in each of its variants.
    let routes = ["GET /{a}/{b}", "GET /x/y/z", "POST /x/{b}"];
    ambiguous(&routes, &[("/X/Y", None), ("/x/y", None), ("/x/Y.z", None)]);
}

#[test]
fn an_empty_table_matches_nothing() {
    check(&[], &[("GET", "/", None), ("GET", "/a", None), ("GET", "", None)]);
}

#[test]
fn hostile_paths_end_early() {
    let deepest = "GET /{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}";
    let table = table(&[deepest, "GET /{x}"]);
    let size = 64 * 1024;
    for path in ["/".repeat(size), "/a".repeat(size), "/%2e".repeat(size), "/%".repeat(size)] {
        assert_eq!(taken(&table, "GET", &path), None);
    }
    let one = Some("GET /{x}");
    for text in ["a", "%41", ".a", "A", "\u{fdfa}", "a ", "%25", "%C3%9F"] {
        let most = text.repeat((path::MAX_PATH_LEN - 1) / text.len());
        assert_eq!(taken(&table, "GET", &format!("/{most}")), one, "{text}");
        assert_eq!(taken(&table, "GET", &format!("/{most}?{}", "q".repeat(size))), one, "{text}");
        assert_eq!(taken(&table, "GET", &format!("/{most}{text}{text}")), None, "{text}");
    }
    let sixteen = "/a".repeat(MAX_SEGMENTS);
    assert_eq!(taken(&table, "GET", &sixteen), Some(deepest));
}

proptest! {
    #[test]
    fn no_request_panics(method in "\\PC{0,5}|GET", path in "(/[a%./\\\\?#;0-9a-fé]{0,6}){0,5}|\\PC*") {
        let table = table(&["GET /{x}", "GET /a/{x}", "GET /{x}/a/{y}"]);
        let _ = table.resolve(&method, &path, |a, b| a == b);
    }
}
