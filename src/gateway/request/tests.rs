//! Each form of each header, and what makes a request ambiguous.

use super::*;
use crate::policy::client_source::ClientSourceFields;
use crate::policy::network::Limits;

/// Those of `--override-header`.
const OVERRIDE_HEADERS: [&str; 5] = [
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Original-URL",
    "X-Rewrite-URL",
];

const FIELDS: ClientSourceFields<'_> = ClientSourceFields {
    address_header: "X-Forwarded-For",
    trusted_proxies: &[],
    token_header: "",
    method_header: "",
    uri_header: "",
    forward_token: true,
};

fn source(fields: ClientSourceFields<'_>) -> ClientSource {
    ClientSource::parse(&fields, &Limits::default()).unwrap()
}

fn read<'a>(
    source: &ClientSource,
    headers: &[(&'a str, &'a [u8])],
    target: Target<'a>,
) -> Result<ClientRequest<'a>, MissingTarget> {
    let overrides = OverrideHeaders::new(&OVERRIDE_HEADERS);
    let reader = Reader { source, overrides: &overrides, peer: None };
    reader.read(headers.iter().copied(), target)
}

const FORWARDED: [(&str, &[u8]); 2] = [("x-forwarded-method", b"GET"), ("x-forwarded-uri", b"/a")];
const ORIGINAL: [(&str, &[u8]); 2] = [("x-original-method", b"GET"), ("x-original-uri", b"/a")];
const OWN: Target<'_> = Target::Own { method: b"GET", path: b"/a?q" };

#[test]
fn tokens_are_read_in_each_form() {
    const BOTH: &str = "more than one token";
    let source_of_own = source(ClientSourceFields { token_header: "X-Api-Key", ..FIELDS });
    let of = |source: &ClientSource, values: &[&'static [u8]]| {
        let name = if source.token_header.is_some() { "x-api-key" } else { "authorization" };
        let headers: Vec<_> = values.iter().map(|&value| (name, value)).collect();
        match read(source, &headers, OWN).unwrap().token {
            ClientToken::Missing => "missing".to_owned(),
            ClientToken::Malformed(why) => format!("malformed: {why}"),
            token => String::from_utf8(token.secret().to_vec()).unwrap(),
        }
    };
    let usual = source(FIELDS);
    for (value, token) in [
        (&b"Bearer T"[..], "T"),
        (b"bearer   T ", "T"),
        (b"BEARER secret-token:T", "T"),
        (b"Bearer Secret-Token:T", "T"),
        (b"Bearer secret-token:secret-token:T", "secret-token:T"),
        (b"Basic VDo=", "T"),
        (b"basic VDo", "T"),
        (b"Basic VDpwYXNzd29yZA==", "T"),
        (b"Basic c2VjcmV0LXRva2VuOlQ6", "secret-token"),
        (b"", "missing"),
    ] {
        assert_eq!(of(&usual, &[value]), token, "{}", value.escape_ascii());
    }
    for value in [
        &b"T"[..],
        b"Bearer",
        b"Bearer ",
        b"Bearer\tT",
        b"Digest T",
        b"Basic",
        b"Basic !",
        b"Basic Og==",
    ] {
        assert!(of(&usual, &[value]).starts_with("malformed"), "{}", value.escape_ascii());
    }
    for values in [&[&b"Bearer T"[..], b"Bearer T"][..], &[b"Bearer T, Bearer T"], &[b"Bearer T,T"]]
    {
        assert!(of(&usual, values).contains(BOTH));
    }
    assert_eq!(of(&usual, &[]), "missing");

    for (value, token) in
        [(&b"T"[..], "T"), (b"Bearer T", "T"), (b"bearer  secret-token:T", "T"), (b" ", "missing")]
    {
        assert_eq!(of(&source_of_own, &[value]), token, "{}", value.escape_ascii());
    }
    assert!(of(&source_of_own, &[b"T", b"T"]).contains(BOTH));
    assert!(of(&source_of_own, &[b"T T"]).contains(BOTH));
    // `Authorization` is another header then, which nothing is read from.
    let headers = [("authorization", &b"Bearer T"[..])];
    let request = read(&source_of_own, &headers, OWN).unwrap();
    assert!(matches!(request.token, ClientToken::Missing));
}

#[test]
fn one_family_of_headers_is_read_and_never_two() {
    let source = source(FIELDS);
    for family in [FORWARDED, ORIGINAL] {
        let request = read(&source, &family, Target::Headers).unwrap();
        assert_eq!((&*request.method, &*request.path), ("GET", "/a"));
        assert_eq!(request.ambiguity, None);
    }
    let both: Vec<_> = FORWARDED.iter().chain(&ORIGINAL).copied().collect();
    for (at, headers) in [
        &both[..],
        &both[..3],
        &both[1..],
        &[FORWARDED[0], ORIGINAL[1]],
        &[FORWARDED[1], ORIGINAL[0]],
        &[ORIGINAL[0], FORWARDED[1]],
        &[FORWARDED[0], FORWARDED[1], FORWARDED[1]],
        &[FORWARDED[0], FORWARDED[0], FORWARDED[1]],
    ]
    .into_iter()
    .enumerate()
    {
        let request = read(&source, headers, Target::Headers).unwrap();
        assert!(request.ambiguity.is_some(), "{at}");
    }
    for headers in [&[][..], &FORWARDED[..1], &FORWARDED[1..], &ORIGINAL[1..]] {
        assert!(read(&source, headers, Target::Headers).is_err());
    }
    let empty = [FORWARDED[0], ("x-forwarded-uri", &b""[..])];
    assert!(read(&source, &empty, Target::Headers).is_err());
}

#[test]
fn named_headers_are_read_and_the_families_beside_them_are_ambiguous() {
    let own =
        source(ClientSourceFields { method_header: "M", uri_header: "X-Original-URL", ..FIELDS });
    let named = [("m", &b"GET"[..]), ("x-original-url", b"/a")];
    let request = read(&own, &named, Target::Headers).unwrap();
    assert_eq!((&*request.method, &*request.path), ("GET", "/a"));
    assert_eq!(request.ambiguity, None);
    for stray in FORWARDED.into_iter().chain(ORIGINAL) {
        let request = read(&own, &[named[0], named[1], stray], Target::Headers).unwrap();
        assert!(request.ambiguity.is_some(), "{}", stray.0);
    }
    // One that is named decides on the family of the other.
    for (method_header, uri_header) in [("X-Original-Method", ""), ("", "X-Original-URI")] {
        let half = source(ClientSourceFields { method_header, uri_header, ..FIELDS });
        assert_eq!(read(&half, &ORIGINAL, Target::Headers).unwrap().ambiguity, None);
        assert!(read(&half, &FORWARDED, Target::Headers).is_err());
        let mixed = [ORIGINAL[0], FORWARDED[1]];
        assert!(read(&half, &mixed, Target::Headers).unwrap().ambiguity.is_some());
    }
    // A header of no family leaves both.
    let half = source(ClientSourceFields { method_header: "M", ..FIELDS });
    for uri in [FORWARDED[1], ORIGINAL[1]] {
        let request = read(&half, &[("m", b"GET"), uri], Target::Headers).unwrap();
        assert_eq!((&*request.method, &*request.path, request.ambiguity), ("GET", "/a", None));
    }
}

#[test]
fn names_with_underscores_are_ambiguous_where_they_would_be_read() {
    let named = source(ClientSourceFields {
        token_header: "X-Api-Key",
        uri_header: "The-Uri",
        address_header: "CF-Connecting-IP",
        ..FIELDS
    });
    for name in [
        "x_forwarded_for",
        "x-forwarded_for",
        "x_forwarded_host",
        "x_real_ip",
        "x_original_uri",
        "x_http_method_override",
        "x_method-override",
        "x_rewrite_url",
        "portcullis_token_id",
        "portcullis_credential",
        "portcullis-token_id",
        "x_api_key",
        "the_uri",
        "cf_connecting_ip",
    ] {
        let request = read(&named, &[(name, b"x")], OWN).unwrap();
        let sentence = request.ambiguity.unwrap_or_else(|| panic!("{name} is read"));
        assert!(sentence.contains(name), "{sentence}");
    }
    for name in ["x_request_id", "my_header", "x-request-id", "_", "x_"] {
        assert_eq!(read(&named, &[(name, b"x")], OWN).unwrap().ambiguity, None, "{name}");
    }
}

#[test]
fn overrides_must_be_what_they_override() {
    let source = source(FIELDS);
    let ambiguous =
        |name, value: &[u8]| read(&source, &[(name, value)], OWN).unwrap().ambiguity.is_some();
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        assert!(!ambiguous(name, b"GET"), "{name}");
        for value in [&b"DELETE"[..], b"get", b"", b"GET, DELETE", b"/a"] {
            assert!(ambiguous(name, value), "{name}: {}", value.escape_ascii());
        }
    }
    // Those of families are overrides where the gateway names method and path itself.
    for name in ["x-original-url", "x-rewrite-url", "x-original-uri", "x-forwarded-uri"] {
        for value in [&b"/a"[..], b"/a?q", b"/a?r"] {
            assert!(!ambiguous(name, value), "{name}: {}", value.escape_ascii());
        }
        for value in [&b"/b"[..], b"/a/", b"", b"http://h/a", b"GET", b"/a#", b"/%61"] {
            assert!(ambiguous(name, value), "{name}: {}", value.escape_ascii());
        }
    }
    let twice = [("x-original-url", &b"/a"[..]), ("x-original-url", b"/b")];
    assert!(read(&source, &twice, OWN).unwrap().ambiguity.is_some());
    let headers = [FORWARDED[0], FORWARDED[1], ("x-rewrite-url", b"/b")];
    assert!(read(&source, &headers, Target::Headers).unwrap().ambiguity.is_some());

    let few = OverrideHeaders::new(&["X-Action"]);
    let reader = Reader { source: &source, overrides: &few, peer: None };
    for (name, ambiguous) in [("x-action", true), ("x-rewrite-url", false)] {
        let request = reader.read([(name, &b"DELETE"[..])], OWN).unwrap();
        assert_eq!(request.ambiguity.is_some(), ambiguous, "{name}");
    }
}

#[test]
fn paths_are_as_sent_but_for_their_query() {
    let source = source(FIELDS);
    for (sent, path) in [
        (&b"/a?b"[..], "/a"),
        (b"/a?", "/a"),
        (b"?b", "?b"),
        (b"/\xc3\xa9", "/\u{e9}"),
        (b"/\xc3\xa9/\xff?\xff", "/%C3%A9/%FF"),
        (b"http://h/a", "http://h/a"),
    ] {
        let target = Target::Own { method: b"GET", path: sent };
        assert_eq!(read(&source, &[], target).unwrap().path, path, "{}", sent.escape_ascii());
    }
}

#[test]
fn the_address_is_the_last_element_of_all_lines() {
    let headers: [(&str, &[u8]); 3] = [
        ("x-forwarded-for", b"198.51.100.1"),
        ("forwarded", b"for=198.51.100.2"),
        ("x-forwarded-for", b"198.51.100.3, 203.0.113.7"),
    ];
    let of = |fields| read(&source(fields), &headers, OWN).unwrap().address;
    assert_eq!(of(FIELDS), Some("203.0.113.7".parse().unwrap()));
    assert_eq!(of(ClientSourceFields { address_header: "", ..FIELDS }), None);
    let forwarded = ClientSourceFields { address_header: "Forwarded", ..FIELDS };
    assert_eq!(of(forwarded), Some("198.51.100.2".parse().unwrap()));
}
