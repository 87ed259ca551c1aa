//! What a catalogue may write as a route; what must stay true is in the module above.

use super::*;
use proptest::prelude::*;

#[test]
fn routes_read_back() {
    for text in [
        "GET /a",
        "PURGE /api/v1/cards/{card_id}/reveal",
        "DELETE /{a}/{a}/{_B2}",
        "POST /v1/things:batch/@me/~x/-._!$&'()+,=/.a/..a/a.",
        "GET /odata/$metadata/Products(1)/:/a:b/v1.0/$count/:1",
        "GET /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16",
        "GET /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/",
        "GET /{card-id}/",
        "POST /{id}:reveal/{a}.json/{b}.tar.gz/{c}-x/{d}_/{e}a/{f}(1)/{g}..a/{h}a.",
        "GET /files/{rest...}",
        "GET /{path-to_file...}/",
    ] {
        let route: Route = text.parse().unwrap();
        assert_eq!(route.to_string(), text);
    }
}

#[test]
fn what_an_earlier_version_accepted_is_readable() {
    for text in ["GET /a;b", "GET /...", "GET /users/:id", "GET /files/*", "GET /(id)/.+"] {
        assert!(text.parse::<Route>().is_err(), "{text}");
        assert_eq!(Route::parse_stored(text).unwrap().to_string(), text);
    }
    for text in ["GET /..;a", "GET /a b", "get /a", "GET /{a:b}", "GET /{a};b", "GET /{a}.."] {
        assert!(Route::parse_stored(text).is_err(), "{text}");
    }
}

/// Rule 2.25.
#[test]
fn nobody_is_advised_to_add_a_route_that_can_not_exist() {
    let deep = "/a".repeat(MAX_PATH_SEGMENTS + 1);
    let long = format!("/{}", "a".repeat(path::MAX_PATH_LEN));
    let messages: Vec<String> = [
        ("GET", "/a//b"),
        ("GET", "/a//"),
        ("GET", "/"),
        ("GET", "http://host/a"),
        ("GET", "/a%2Fb"),
        ("GET", "/a\\b"),
        ("GET", "/a/../b"),
        ("GET", "/a/..%20"),
        ("GET", "/a;b=c/d?e"),
        ("GET", "/a%3Bb"),
        ("GET", "/a/b#c"),
        ("GET", "/a/%3f"),
        ("GET", "/a/%zz"),
        ("GET", "/a/%252f"),
        ("GET", "/a/%C0%AF"),
        ("GET", "/a/%0a"),
        ("GET", "/a/\u{85}"),
        ("GET", "/a/%EF%BC%8F"),
        ("GET", &deep),
        ("GET", &long),
        ("get", "/a"),
        ("head", "/a"),
        ("Get", "/a/"),
        ("G-T", "/a"),
        ("", "/a"),
        (&"A".repeat(MAX_METHOD_LEN + 1), "/a"),
    ]
    .map(|(method, path)| explain_unmatched(method, path))
    .to_vec();
    assert!(messages.iter().all(|message| !message.contains("catalogue")), "{messages:#?}");
    assert!(messages.iter().all(|message| message.len() < 400), "{messages:#?}");
    insta::assert_snapshot!(messages.join("\n"), @r##"
No route can match this request: its path has two "/" side by side: send one (rule 2.11).
No route can match this request: its path has two "/" side by side: send one (rule 2.11).
No route can match this request: its path is "/" alone: send the path of an operation, which has a segment (rule 2.11).
No route can match this request: its path does not begin with "/": send the path alone, without scheme and host (rule 2.11).
No route can match this request: its path has '/' in "a%2Fb", raw or encoded, which some servers take for the end of a segment or of the path: send it without (rules 2.11 and 2.22).
No route can match this request: its path has '\\' in "a\\b", raw or encoded, which some servers take for the end of a segment or of the path: send it without (rules 2.11 and 2.22).
No route can match this request: its path has "..", which some servers take for nothing, for "." or for "..": send the path that is meant (rules 2.11 and 2.22).
No route can match this request: its path has "..%20", which some servers take for nothing, for "." or for "..": send the path that is meant (rules 2.11 and 2.22).
No route can match this request: its path has ';' in "a;b=c", raw or encoded, which some servers take for the end of a segment or of the path: send it without (rules 2.11 and 2.22).
No route can match this request: its path has ';' in "a%3Bb", raw or encoded, which some servers take for the end of a segment or of the path: send it without (rules 2.11 and 2.22).
No route can match this request: its path has '#' in "b#c", raw or encoded, which some servers take for the end of a segment or of the path: send it without (rules 2.11 and 2.22).
No route can match this request: its path has '?' in "%3f", raw or encoded, which some servers take for the end of a segment or of the path: send it without (rules 2.11 and 2.22).
No route can match this request: its path has a "%" in "%zz" without two hexadecimal digits behind it: send "%25" for a percent sign (rule 2.11).
No route can match this request: its path has "%252f", which is encoded twice: encode it once (rule 2.22).
No route can match this request: its path has "%C0%AF", which is not UTF-8 once it is decoded: encode UTF-8 (rule 2.22).
No route can match this request: its path has a control character in "%0a": send it without (rule 2.22).
No route can match this request: its path has a control character in "\u{85}": send it without (rule 2.22).
No route can match this request: its path has '／' in "%EF%BC%8F", which some servers turn into one of / \ ; ? # %: send it without (rule 2.22).
No route can match this request: its path has more than 64 segments, and no route matches so many: send a shorter path (rule 2.28).
No route can match this request: its path is longer than 32768 bytes: send a shorter path (rule 2.24).
No route can match this request: its method "get" is not 1 to 20 upper-case letters: send GET (rules 2.12 and 2.13).
No route can match this request: its method "head" is not 1 to 20 upper-case letters: send HEAD (rules 2.12 and 2.13).
No route can match this request: its method "Get" is not 1 to 20 upper-case letters: send GET (rules 2.12 and 2.13).
No route can match this request: its method "G-T" is not 1 to 20 upper-case letters: send a method such as GET (rules 2.12 and 2.13).
No route can match this request: its method "" is not 1 to 20 upper-case letters: send a method such as GET (rules 2.12 and 2.13).
No route can match this request: its method "AAAAAAAAAAAAAAAAAAAAA" is not 1 to 20 upper-case letters: send a method such as GET (rules 2.12 and 2.13).
"##);

    // And what is advised can be done.
    for (method, path, route) in [
        ("GET", "/a", "GET /a"),
        ("HEAD", "/a", "GET /a"),
        ("GET", "/a/%20x/b", "GET /a/{id}/b"),
        ("GET", "/\u{e9}", "GET /{id}"),
        ("GET", "/a/:id", "GET /a/{id}"),
        ("GET", "/a/{id}", "GET /a/{id}"),
        ("GET", "/a/", "GET /a/"),
        ("HEAD", "/a/%20x/", "GET /a/{id}/"),
        ("GET", &"/a".repeat(MAX_SEGMENTS), &format!("GET {}", "/a".repeat(MAX_SEGMENTS))),
        ("GET", &"/a".repeat(MAX_SEGMENTS + 1), "GET /a/{rest...}"),
    ] {
        let message = explain_unmatched(method, path);
        assert_eq!(message.contains("\"/\" at its end"), route.ends_with('/'), "{message}");
        assert_eq!(message.contains("{rest...}"), route.contains("{rest...}"), "{message}");
        assert!(message.contains("add a route for GET to the catalogue"), "{message}");
        assert_eq!(message.contains("{id}"), route.contains("{id}"), "{message}");
        let mut table = RouteTable::default();
        table.insert(&route.parse().unwrap(), ()).unwrap();
        assert!(table.resolve(method, path, |(), ()| true).is_ok(), "{path}");
    }
}

#[test]
fn an_ambiguous_request_is_explained() {
    let explain = |path, own: &str, other: &str| {
        explain_ambiguous(path, &own.parse().unwrap(), &other.parse().unwrap(), "cards.export")
    };
    insta::assert_snapshot!(explain("/cards/EXPORT.json", "GET /cards/{id}", "GET /cards/export"), @r##"Some servers read "EXPORT.json" in this path as "export" and run GET /cards/export, which needs another scope, cards.export. Send the path as the route that is meant writes it; other spellings are not accepted (rule 2.23)."##);
    insta::assert_snapshot!(explain("/Cards/export", "GET /Cards/export", "GET /cards/export"), @r##"Some servers read "Cards" in this path as "cards" and run GET /cards/export, which needs another scope, cards.export. Have an operator give both routes to one scope, or leave one out (rule 2.23)."##);
    insta::assert_snapshot!(explain("/cards/1.json", "GET /cards/{id}.json", "GET /cards/{id}"), @r##"Some servers read "1.json" in this path as another text and run GET /cards/{id}, which needs another scope, cards.export. Have an operator give both routes to one scope, or leave one out (rule 2.23)."##);
    insta::assert_snapshot!(explain("/cards/1:REVEAL", "GET /cards/{id}", "GET /cards/{id}:reveal"), @r##"Some servers read "1:REVEAL" in this path as a text that ends with ":reveal" and run GET /cards/{id}:reveal, which needs another scope, cards.export. Send the path as the route that is meant writes it; other spellings are not accepted (rule 2.23)."##);
    insta::assert_snapshot!(explain("/cards/A/B", "GET /cards/{rest...}", "GET /cards/{id}/b"), @r##"Some servers read "B" in this path as "b" and run GET /cards/{id}/b, which needs another scope, cards.export. Send the path as the route that is meant writes it; other spellings are not accepted (rule 2.23)."##);
    insta::assert_snapshot!(explain("/cards/a/b.csv", "GET /cards/a/b.csv", "GET /cards/{rest...}"), @r##"Some servers read "b.csv" in this path as another text and run GET /cards/{rest...}, which needs another scope, cards.export. Have an operator give both routes to one scope, or leave one out (rule 2.23)."##);
    insta::assert_snapshot!(explain("/cards/a.csv", "GET /cards/a.csv", "GET /cards/{id}"), @r##"Some servers read "a.csv" in this path as another text and run GET /cards/{id}, which needs another scope, cards.export. Have an operator give both routes to one scope, or leave one out (rule 2.23)."##);
}

/// Rule 12.10 of docs/policy.md.
#[test]
fn an_outline_has_no_query_and_only_plain_words_of_a_path() {
    for (method, path, wanted) in [
        ("GET", "/api/v1/cards/4711/reveal?pin=1234", "GET /api/v1/cards/{}/reveal"),
        ("GET", "/a#b", "GET /a"),
        ("GET", "/v123/v1234/V1/v/a1", "GET /v123/{}/{}/v/{}"),
        ("GET", "/a-b/c_d/e.f/a%20b/\u{fc}", "GET /a-b/c_d/e.f/{}/{}"),
        ("G3T", "/", "{} /"),
    ] {
        assert_eq!(outline(method, path), wanted);
    }
    let (word, secret) = ("x".repeat(20), "x".repeat(21));
    assert_eq!(outline("GET", &format!("/{word}/{secret}")), format!("GET /{word}/{{}}"));
    let (words, many) = ("a-long_word.of-several_parts.abc", "a-long_word.of-several_parts.abcd");
    assert_eq!(outline("GET", &format!("/{words}/{many}")), format!("GET /{words}/{{}}"));
    assert_eq!(outline("GET", &"/word".repeat(1_000)).len(), 160);
}

#[test]
fn shapes_forget_parameter_names_only() {
    let shape = |text: &str| text.parse::<Route>().unwrap().shape();
    assert_eq!(shape("GET /a/{id}/b"), "GET /a/{}/b");
    assert_eq!(shape("GET /a/{id}"), shape("GET /a/{other}"));
    assert_ne!(shape("GET /a/{id}"), shape("POST /a/{id}"));
    assert_ne!(shape("GET /a/{id}"), shape("GET /a/id"));
    assert_ne!(shape("GET /a/b"), shape("GET /a"));
    assert_eq!(shape("GET /a/{id}:b/{rest...}/"), "GET /a/{}:b/{...}/");
    assert_ne!(shape("GET /a/{id}:b"), shape("GET /a/{id}:c"));
    assert_ne!(shape("GET /a/{id...}"), shape("GET /a/{id}"));
    assert_ne!(shape("GET /a/"), shape("GET /a"));
}

/// Rule 1.14.
#[test]
fn every_error_says_what_to_mend() {
    let errors: Vec<String> = [
        "",
        "GET",
        "/a",
        "get /a",
        "GeT /a",
        "GET1 /a",
        " /a",
        "HEAD /a",
        "GET a",
        "GET  /a",
        "GET /",
        "GET //",
        "GET /a//",
        "GET /a//b",
        "GET //a",
        "GET /a/./b",
        "GET /..",
        "GET /..;x",
        "GET /...",
        "GET /a;b",
        "GET /users/:id",
        "GET /users/:id.:format",
        "GET /users/:id(\\d+)",
        "GET /users/:id?",
        "GET /users/<id>",
        "GET /users/<int:user_id>",
        "GET /users/{id:[0-9]+}",
        "GET /users/{id?}",
        "GET /users/{{id}}",
        "GET /users/[id]",
        "GET /users/(id)",
        "GET /users/${id}",
        "GET /users/^id$",
        "GET /files/*",
        "GET /files/**",
        "GET /files/*rest",
        "GET /files/*.json",
        "GET /files/{*rest}",
        "GET /files/{rest...}/x",
        "GET /files/{rest...}.json",
        "GET /files/{...}",
        "GET /files/{rest*}",
        "GET /files/{+rest}",
        "GET /files/{...rest}",
        "GET /files/{rest:.*}",
        "GET /files/{rest:path}",
        "GET /files/<path:rest>",
        "GET /files/{rest}+",
        "GET /files/:rest*",
        "GET /files/[...rest]",
        "GET /files/(.*)",
        "GET /files/.+",
        "GET /a%20b",
        "GET /a?b=c",
        "GET /a b",
        "GET /a\\b",
        "GET /a#b",
        "GET /\u{e9}",
        "GET /a\u{0}",
        "GET /{}",
        "GET /{1}",
        "GET /{-a}",
        "GET /{a b}",
        "GET /{a}.{b}",
        "GET /v{a}",
        "GET /{a}.",
        "GET /{a}...",
        "GET /{a};b",
        "GET /{a}%20",
        "GET /{a}?",
        "GET /{a}.:format",
        "GET /{a}\u{e9}",
        "GET /a{b",
        "GET /{a",
        "GET /}",
        "GET /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17",
    ]
    .map(|text| format!("{text:?}: {}", text.parse::<Route>().unwrap_err()))
    .to_vec();
    insta::assert_snapshot!(errors.join("\n"), @r##"
"": write a method, one space and a path, like "GET /api/v1/cards/{card_id}"
"GET": write a method, one space and a path, like "GET /api/v1/cards/{card_id}"
"/a": write a method, one space and a path, like "GET /api/v1/cards/{card_id}"
"get /a": the method "get" is not 1 to 20 upper-case letters, like GET
"GeT /a": the method "GeT" is not 1 to 20 upper-case letters, like GET
"GET1 /a": the method "GET1" is not 1 to 20 upper-case letters, like GET
" /a": the method "" is not 1 to 20 upper-case letters, like GET
"HEAD /a": HEAD follows GET, leave it out
"GET a": the path must begin with "/", one space after the method
"GET  /a": the path must begin with "/", one space after the method
"GET /": the path "/" has no segment and would match nothing
"GET //": "//" is an empty segment and would match nothing
"GET /a//": "//" is an empty segment and would match nothing
"GET /a//b": "//" is an empty segment and would match nothing
"GET //a": "//" is an empty segment and would match nothing
"GET /a/./b": the dot segment "." would match nothing
"GET /..": the dot segment ".." would match nothing
"GET /..;x": the dot segment "..;x" would match nothing
"GET /...": the dot segment "..." would match nothing
"GET /a;b": the segment "a;b" has a ";" and would match nothing, leave it out
"GET /users/:id": the segment ":id" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/:id.:format": the segment ":id.:format" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/:id(\\d+)": the segment ":id(\\d+)" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/:id?": the segment ":id?" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/<id>": the segment "<id>" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/<int:user_id>": the segment "<int:user_id>" is another router's syntax; a parameter is a name in braces: {user_id}
"GET /users/{id:[0-9]+}": the segment "{id:[0-9]+}" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/{id?}": the segment "{id?}" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/{{id}}": the segment "{{id}}" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/[id]": the segment "[id]" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/(id)": the segment "(id)" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/${id}": the segment "${id}" is another router's syntax; a parameter is a name in braces: {id}
"GET /users/^id$": the segment "^id$" is another router's syntax; a parameter is a name in braces: {id}
"GET /files/*": the segment "*" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/**": the segment "**" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/*rest": the segment "*rest" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/*.json": the segment "*.json" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/{*rest}": the segment "{*rest}" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/{rest...}/x": the catch-all {rest...} is not the last segment; it matches every segment up to the end
"GET /files/{rest...}.json": the segment "{rest...}.json" has more than a catch-all; a catch-all is a whole segment
"GET /files/{...}": the segment "{...}" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/{rest*}": the segment "{rest*}" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/{+rest}": the segment "{+rest}" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/{...rest}": the segment "{...rest}" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/{rest:.*}": the segment "{rest:.*}" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/{rest:path}": the segment "{rest:path}" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/<path:rest>": the segment "<path:rest>" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/{rest}+": the segment "{rest}+" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/:rest*": the segment ":rest*" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/[...rest]": the segment "[...rest]" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/(.*)": the segment "(.*)" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /files/.+": the segment ".+" is another router's wildcard; {rest} matches one segment, and {rest...} at the end of the path one or more
"GET /a%20b": the segment "a%20b" has an escape; literals have none, a parameter matches any segment
"GET /a?b=c": a query string takes no part in matching, leave it out
"GET /a b": the character ' ' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /a\\b": the character '\\' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /a#b": the character '#' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /é": the character 'é' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /a\0": the character '\0' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /{}": the parameter name "" is not 1 to 64 letters, digits, "_" and "-", beginning with a letter or "_"
"GET /{1}": the parameter name "1" is not 1 to 64 letters, digits, "_" and "-", beginning with a letter or "_"
"GET /{-a}": the parameter name "-a" is not 1 to 64 letters, digits, "_" and "-", beginning with a letter or "_"
"GET /{a b}": the parameter name "a b" is not 1 to 64 letters, digits, "_" and "-", beginning with a letter or "_"
"GET /{a}.{b}": the segment "{a}.{b}" has a brace out of place; a segment is a parameter, like {card_id}, or begins with one, like {card_id}.pdf
"GET /v{a}": the segment "v{a}" has a brace out of place; a segment is a parameter, like {card_id}, or begins with one, like {card_id}.pdf
"GET /{a}.": the segment "{a}." ends with dots alone, which some servers remove; leave them out
"GET /{a}...": the segment "{a}..." ends with dots alone, which some servers remove; leave them out
"GET /{a};b": the segment "{a};b" has a ";" and would match nothing, leave it out
"GET /{a}%20": the segment "{a}%20" has an escape; literals have none, a parameter matches any segment
"GET /{a}?": the segment "{a}?" is another router's syntax; a parameter is a name in braces: {a}
"GET /{a}.:format": the segment "{a}.:format" is another router's syntax; a parameter is a name in braces: {a}
"GET /{a}é": the character 'é' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /a{b": the segment "a{b" has a brace out of place; a segment is a parameter, like {card_id}, or begins with one, like {card_id}.pdf
"GET /{a": the segment "{a" has a brace out of place; a segment is a parameter, like {card_id}, or begins with one, like {card_id}.pdf
"GET /}": the segment "}" has a brace out of place; a segment is a parameter, like {card_id}, or begins with one, like {card_id}.pdf
"GET /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17": the path has more than 16 segments
"##);
}

/// The scope that each path goes to, or what stands in the way; scopes are numbered as listed.
fn resolved(scopes: &[&[&str]], paths: &[&str]) -> Vec<String> {
    let mut table = RouteTable::default();
    for (scope, routes) in scopes.iter().enumerate() {
        for route in *routes {
            table.insert(&route.parse().unwrap(), (scope, *route)).unwrap();
        }
    }
    let resolve = |path: &&str| match table.resolve("GET", path, |a, b| a.0 == b.0) {
        Ok((_, route)) => (*route).to_owned(),
        Err(Unresolved::NoRoute) => "none".to_owned(),
        Err(Unresolved::Ambiguous { own, other }) => format!("{} or {}", own.1, other.1),
    };
    paths.iter().map(resolve).collect()
}

/// Rule 2.9 of docs/policy.md.
#[test]
fn what_is_fixed_more_comes_first() {
    let scopes: &[&[&str]] = &[&[
        "GET /a/b.json",
        "GET /a/{x}.v1.json",
        "GET /a/{x}.json",
        "GET /a/{x}",
        "GET /a/{x}:b/c",
        "GET /a/{x...}",
        "GET /a/{x...}/",
        "GET /d/{x}.json/e",
        "GET /d/{x...}",
    ]];
    let deep = format!("/a{}", "/x".repeat(MAX_PATH_SEGMENTS - 1));
    let too_deep = format!("{deep}/x");
    for (path, route) in [
        ("/a/b.json", "GET /a/b.json"),
        ("/a/1.v1.json", "GET /a/{x}.v1.json"),
        ("/a/.v1.json", "GET /a/{x}.json"),
        ("/a/1.json", "GET /a/{x}.json"),
        ("/a/%31%2Ejson", "GET /a/{x}.json"),
        ("/a/.json", "GET /a/{x}"),
        ("/a/1", "GET /a/{x}"),
        ("/a/1/", "GET /a/{x...}/"),
        ("/a/1:b/c", "GET /a/{x}:b/c"),
        ("/a/:b/c", "GET /a/{x...}"),
        ("/a/1:b/d", "GET /a/{x...}"),
        ("/a/1/2/3/", "GET /a/{x...}/"),
        (&deep, "GET /a/{x...}"),
        (&too_deep, "none"),
        ("/a", "none"),
        ("/a/", "none"),
        ("/a/1/../2", "none"),
        ("/a/1//2", "none"),
        ("/a/1/2%2F3", "none"),
        ("/d/1.json/e", "GET /d/{x}.json/e"),
        ("/d/1.json/f", "GET /d/{x...}"),
        ("/d/1.json/e/", "none"),
    ] {
        assert_eq!(resolved(scopes, &[path]), [route], "{path}");
    }
}

/// Rule 2.11 of docs/policy.md.
#[test]
fn a_trailing_slash_counts() {
    let scopes: &[&[&str]] = &[&["GET /a/", "GET /b", "GET /c/{id}/", "GET /d", "GET /d/"]];
    let paths = ["/a", "/a/", "/a/?x", "/b", "/b/", "/c/1", "/c/1/", "/d", "/d/", "/d//", "/"];
    assert_eq!(
        resolved(scopes, &paths),
        [
            "none",
            "GET /a/",
            "GET /a/",
            "GET /b",
            "none",
            "none",
            "GET /c/{id}/",
            "GET /d",
            "GET /d/",
            "none",
            "none"
        ]
    );
}

/// Rule 2.23 of docs/policy.md.
#[test]
fn variants_reach_suffixes_and_catch_alls() {
    let cases: &[(&[&[&str]], &str, &str)] = &[
        // The extension belongs to the route, and some servers drop it.
        (
            &[&["GET /x/{id}.json"], &["GET /x/{id}"]],
            "/x/1.json",
            "GET /x/{id}.json or GET /x/{id}",
        ),
        (&[&["GET /x/{id}.json", "GET /x/{id}"]], "/x/1.json", "GET /x/{id}.json"),
        (&[&["GET /x/{id}.json"], &["GET /x/{id}.xml"]], "/x/1.json", "GET /x/{id}.json"),
        (
            &[&["GET /x/{id}.json"], &["GET /x/{id}.xml"]],
            "/x/1.xml.json",
            "GET /x/{id}.json or GET /x/{id}.xml",
        ),
        // No server cuts at a colon.
        (&[&["GET /x/{id}:run"], &["GET /x/{id}"]], "/x/1:run", "GET /x/{id}:run"),
        (&[&["GET /x/{id}:run"], &["GET /x/{id}"]], "/x/\u{e9}:run", "GET /x/{id}:run"),
        (&[&["GET /x/{id}:run"], &["GET /x/{id}"]], "/x/A%3Arun", "GET /x/{id}:run"),
        (&[&["GET /x/{id}:run"], &["GET /x/{id}"]], "/x/1:RUN", "GET /x/{id} or GET /x/{id}:run"),
        (
            &[&["GET /x/{id}:run"], &["GET /x/{id}"]],
            "/x/1:run.json",
            "GET /x/{id} or GET /x/{id}:run",
        ),
        (
            &[&["GET /x/{id}:run"], &["GET /x/{id}"]],
            "/x/\u{e9}:ru\u{ff4e}",
            "GET /x/{id} or GET /x/{id}:run",
        ),
        (
            &[&["GET /x/{id}:run"], &["GET /x/{id}"]],
            "/x/1:ru\u{ad}n%20",
            "GET /x/{id} or GET /x/{id}:run",
        ),
        (&[&["GET /x/{id}:run"], &["GET /x/{id}"]], "/x/%20:run", "GET /x/{id}:run or GET /x/{id}"),
        (
            &[&["GET /x/{id}:run"], &["GET /x/{id}"]],
            "/x/\u{ad}:run",
            "GET /x/{id}:run or GET /x/{id}",
        ),
        (
            &[&["GET /x/{id}.a:run"], &["GET /x/{id}"]],
            "/x/\u{ad}.a:run",
            "GET /x/{id}.a:run or GET /x/{id}",
        ),
        (
            &[&["GET /x/{id}.a", "GET /x/cards"], &["GET /x/{id}"]],
            "/x/%20cards.a",
            "GET /x/{id}.a or GET /x/{id}",
        ),
        // Nothing is left of the last segment.
        (&[&["GET /x/{id}"], &["GET /x/"]], "/x/..a", "GET /x/{id} or GET /x/"),
        (&[&["GET /x/{id}"], &["GET /x/"]], "/x/%20.a", "GET /x/{id} or GET /x/"),
        (&[&["GET /x/{id}"], &["GET /x/"]], "/x/.a", "GET /x/{id}"),
        (
            &[&["GET /x/{id}/{id}"], &["GET /x/{rest...}/"]],
            "/x/1/..a",
            "GET /x/{id}/{id} or GET /x/{rest...}/",
        ),
        // A server that cuts, and heeds case.
        (
            &[&["GET /x/{id}.json", "GET /x/{id}:run"], &["GET /x/{id}"]],
            "/x/1:RUN.json",
            "GET /x/{id}.json or GET /x/{id}",
        ),
        (
            &[&["GET /x/{id}.json", "GET /x/{id}:run"], &["GET /x/{id}"]],
            "/x/1:ru\u{ad}n.json",
            "GET /x/{id}.json or GET /x/{id}",
        ),
        (
            &[&["GET /x/Sum.csv", "GET /x/sum"], &["GET /x/{id}"]],
            "/x/Sum.csv",
            "GET /x/Sum.csv or GET /x/{id}",
        ),
        (&[&["GET /x/sum.csv", "GET /x/sum"], &["GET /x/{id}"]], "/x/sum.csv", "GET /x/sum.csv"),
        // Every segment that a catch-all matches may be read as a literal.
        (
            &[&["GET /f/{rest...}"], &["GET /f/admin/purge"]],
            "/f/ADMIN/purge",
            "GET /f/{rest...} or GET /f/admin/purge",
        ),
        (
            &[&["GET /f/{rest...}"], &["GET /f/admin/purge"]],
            "/f/admin/purge.json",
            "GET /f/{rest...} or GET /f/admin/purge",
        ),
        (&[&["GET /f/{rest...}"], &["GET /f/admin/purge"]], "/f/admin/purge", "GET /f/admin/purge"),
        (&[&["GET /f/{rest...}"], &["GET /f/admin/purge"]], "/f/ADMIN/purge/x", "GET /f/{rest...}"),
        (&[&["GET /f/{rest...}"], &["GET /f/admin/purge"]], "/f/ADMIN/purge/", "none"),
        (
            &[&["GET /f/{rest...}"], &["GET /f/{id}/a.csv"]],
            "/f/1/a.csv",
            "GET /f/{id}/a.csv or GET /f/{rest...}",
        ),
    ];
    for (scopes, path, expected) in cases {
        assert_eq!(resolved(scopes, &[path]), [*expected], "{path:?} in {scopes:?}");
    }
}

#[test]
fn long_names_are_refused() {
    assert!(format!("{} /a", "A".repeat(MAX_METHOD_LEN)).parse::<Route>().is_ok());
    assert!(format!("{} /a", "A".repeat(MAX_METHOD_LEN + 1)).parse::<Route>().is_err());
    let named = |len| format!("GET /{{{}}}", "a".repeat(len)).parse::<Route>();
    assert!(named(MAX_PARAMETER_LEN).is_ok());
    assert!(named(MAX_PARAMETER_LEN + 1).is_err());
}

proptest! {
    #[test]
    fn no_text_panics_and_what_parses_reads_back(
        text in "(GET|PUT|[A-Za-z]{0,4}) ?(/([a-z.;%]{0,3}|\\{[a-z_0-9-]{0,3}(\\.\\.\\.)?\\}[a-z.:;]{0,3}|\\PC{0,3})){0,18}/?",
    ) {
        if let Ok(route) = text.parse::<Route>() {
            prop_assert_eq!(route.to_string(), text);
        }
    }
}
