//! Requests that gateways, Portcullis and services may read in different ways, made from a seed.

use std::net::Ipv4Addr;

use super::stage::{LISTED, Stage, UNLISTED};
use crate::lifecycle::rng::Rng;

/// A request as bytes, and the address it is sent from.
#[derive(Debug)]
pub(super) struct Hostile {
    pub(super) from: Ipv4Addr,
    pub(super) request: Vec<u8>,
}

const PATHS: [&str; 12] = [
    "/api/v1/accounts",
    "/api/v1/account/acc-1",
    "/api/v1/account/acc-1/statements",
    "/api/v1/cards",
    "/api/v1/cards/card-1",
    "/api/v1/cards/card-1/reveal",
    "/api/v1/cards/card-1/freeze",
    "/api/v1/ar/invoices",
    "/api/v1/ar/invoices/inv-1/pdf",
    "/api/v1/categories",
    "/api/v1/nothing",
    "/",
];

const METHODS: [&str; 18] = [
    "GET", "GET", "GET", "GET", "GET", "GET", "GET", "GET", "POST", "POST", "HEAD", "PUT",
    "DELETE", "PATCH", "OPTIONS", "get", "G3T", "PROPFIND",
];

/// What a segment may become; `S` is the segment.
const SEGMENTS: [&str; 44] = [
    "S;x=1",
    "S%3Bx",
    "S.json",
    "S.",
    "S..",
    "S%20",
    "S%09",
    "S%00",
    "S%2F",
    "S%2f..",
    "S%5C",
    "S\\",
    "S%",
    "S%2",
    "S%zz",
    "S%25",
    "S%252F",
    "S%2525",
    "S%3F",
    "S%23",
    "S#frag",
    "S?q=/../x",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    ".%2e",
    "..%2f",
    "..%5c",
    "...",
    "%E2%80%A5",
    "%EF%BC%8F",
    "S\u{ff0f}x",
    "\u{ff33}S",
    "S\u{301}",
    "%C0%AF",
    "%FF",
    "S*",
    "S:verb",
    "{S}",
    "S~1",
    "S'\"",
    "S|",
    "S@evil",
];

/// Ends of a path.
const ENDS: [&str; 12] =
    ["/", "//", "/.", "/..", "/./", "?", "??", "?a=b&c=/x", "#", ";", "%20", "/%2e%2e/cards"];

const HEADERS: [&str; 40] = [
    "X-Forwarded-For: 127.0.0.2",
    "X-Forwarded-For: 127.0.0.2, 127.0.0.2",
    "x-forwarded-for: \"127.0.0.2\"",
    "X_Forwarded_For: 127.0.0.2",
    "X-Real-IP: 127.0.0.2",
    "X-Client-Address: 127.0.0.2",
    "X-Envoy-External-Address: 127.0.0.2",
    "X-Envoy-Original-Path: /api/v1/accounts",
    "X-Envoy-Internal: true",
    "Forwarded: for=127.0.0.2",
    "Forwarded: for=127.0.0.2;proto=https, for=unknown",
    "X-Forwarded-Uri: /api/v1/accounts",
    "X-Forwarded-Method: GET",
    "X-Original-URI: /api/v1/accounts",
    "X-Original-Uri: /api/v1/accounts",
    "X-Original-Method: GET",
    "X-Original-URL: /api/v1/accounts",
    "X-Rewrite-URL: /api/v1/cards",
    "X-HTTP-Method-Override: DELETE",
    "X-HTTP-Method-Override: GET",
    "X-HTTP-Method: POST",
    "X-Method-Override: PUT",
    "X_HTTP_Method_Override: DELETE",
    "X-HTTP-Method_Override: DELETE",
    "Portcullis-Token-Id: forged",
    "Portcullis_Token_Id: forged",
    "Portcullis-Scope: cards.reveal",
    "Portcullis-Credential: forged",
    "Portcullis-Credential: ",
    "Connection: Authorization",
    "Connection: X-Forwarded-For, Portcullis-Token-Id",
    "Connection: Portcullis-Credential",
    "Connection: X-HTTP-Method-Override, X-Forwarded-Uri",
    "Host: other.example",
    "Content-Length: 0",
    "Expect: nothing",
    "Upgrade: websocket",
    "Range: bytes=0-1",
    "X-Empty:",
    "X-Folded: a\r\n b",
];

/// Headers that are no headers for most servers.
const BROKEN: [&str; 8] = [
    "X-Space : 1",
    "NoColon",
    ": no-name",
    "X-Nul: a\0b",
    "X-Bell: \x07",
    "Authorization\t: Bearer x",
    "X-Utf8: \u{20ac}",
    "Content-Length: 0, 0",
];

/// The next request. Nothing of it depends on anything but `rng` and the stage's tokens.
pub(super) fn request(rng: &mut Rng, stage: &Stage) -> Hostile {
    let from = if rng.percent(50) { LISTED } else { UNLISTED };
    // Without requests that are allowed, one direction is not compared: some have nothing wrong but their headers.
    let line = if rng.percent(20) {
        format!("GET {}", PATHS[rng.below(2)])
    } else {
        format!("{} {}", method(rng), target(rng))
    };
    let mut request = format!("{line} HTTP/1.1\r\n").into_bytes();
    if rng.percent(97) {
        request.extend_from_slice(b"Host: service.example\r\n");
    }
    let mut headers: Vec<Vec<u8>> = Vec::new();
    for _ in 0..1 + usize::from(rng.percent(8)) {
        if rng.percent(96) {
            headers.push(authorization(rng, stage));
        }
    }
    if rng.percent(40) {
        for _ in 0..=rng.below(3) {
            let header = HEADERS[rng.below(HEADERS.len())];
            for _ in 0..1 + usize::from(rng.percent(20)) {
                headers.push(header.as_bytes().to_vec());
            }
        }
    }
    if rng.percent(4) {
        headers.push(BROKEN[rng.below(BROKEN.len())].as_bytes().to_vec());
    }
    if rng.percent(3) {
        let length = [1_000, 7_000, 9_000, 40_000, 70_000][rng.below(5)];
        headers.push(format!("X-Long: {}", "a".repeat(length)).into_bytes());
    }
    if rng.percent(2) {
        let count = [40, 90, 150][rng.below(3)];
        headers.extend((0..count).map(|n| format!("X-Many-{n}: 1").into_bytes()));
    }
    // In any order.
    for at in (1..headers.len()).rev() {
        headers.swap(at, rng.below(at + 1));
    }
    for header in headers {
        request.extend_from_slice(&header);
        request.extend_from_slice(if rng.percent(99) { b"\r\n" } else { b"\n" });
    }
    request.extend_from_slice(b"Connection: close\r\n\r\n");
    Hostile { from, request }
}

fn method(rng: &mut Rng) -> &'static str {
    METHODS[rng.below(METHODS.len())]
}

fn target(rng: &mut Rng) -> String {
    let mut path = PATHS[rng.below(PATHS.len())].to_owned();
    if rng.percent(40) {
        for _ in 0..=rng.below(2) {
            change(rng, &mut path);
        }
    }
    if rng.percent(12) {
        path.push_str(ENDS[rng.below(ENDS.len())]);
    }
    match rng.below(100) {
        0 => format!("http://service.example{path}"),
        1 => format!("http://other.example:80{path}"),
        2 => format!("//service.example{path}"),
        3 => "*".to_owned(),
        4 => path[1..].to_owned(),
        5 => format!("{path}?{}", "a".repeat([100, 9_000, 40_000][rng.below(3)])),
        6 => format!("{path}?limit=1&x=%2e%2e/%00;&y=a+b"),
        _ => path,
    }
}

/// Changes one segment, or what is between two.
fn change(rng: &mut Rng, path: &mut String) {
    let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
    let at = 1 + rng.below(segments.len() - 1);
    let segment = segments[at].clone();
    match rng.below(10) {
        0 => segments[at] = segment.to_ascii_uppercase(),
        1 => segments.insert(at, String::new()),
        2 => segments.insert(at, ".".to_owned()),
        3 => {
            segments.insert(at, "..".to_owned());
            segments.insert(at, "x".to_owned());
        }
        4 => {
            let escaped = segment.bytes().map(|byte| {
                if rng.percent(40) { format!("%{byte:02x}") } else { (byte as char).to_string() }
            });
            segments[at] = escaped.collect();
        }
        _ => segments[at] = SEGMENTS[rng.below(SEGMENTS.len())].replace('S', &segment),
    }
    *path = segments.join("/");
}

fn authorization(rng: &mut Rng, stage: &Stage) -> Vec<u8> {
    let names = ["read", "read", "read", "write", "write", "write", "custom", "other", "deleted"];
    let token = stage.token(names[rng.below(names.len())]);
    let other = stage.token("read");
    let value = match rng.below(40) {
        0 => format!("bearer {token}"),
        1 => format!("BEARER  {token} "),
        2 => format!("Bearer secret-token:{token}"),
        3 => format!("Bearer {token}, Bearer {other}"),
        4 => format!("Bearer {token},{other}"),
        5 => format!("Bearer {token} {other}"),
        6 => format!("Token {token}"),
        7 => token.to_owned(),
        8 => "Bearer".to_owned(),
        9 => String::new(),
        10 => format!("Bearer {}", &token[..token.len() - 1]),
        11 => format!("Bearer {}", token.to_ascii_uppercase()),
        12 => format!("Bearer\t{token}"),
        13 => format!("Bearer \"{token}\""),
        14 => format!("Bearer {token}\u{a0}"),
        _ => format!("Bearer {token}"),
    };
    format!("Authorization: {value}").into_bytes()
}
