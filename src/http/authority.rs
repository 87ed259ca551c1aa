//! Which host a request is for: said once, and in one way (RFC 9112, section 3.2).
//!
//! Must stay true: no request gets further whose host is missing, doubtful, or two. Parties that read such a
//! request differently (a proxy, a cache, this server) are what request smuggling lives on.

use std::net::Ipv6Addr;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// The longest name of a host, in bytes (RFC 1035, section 2.3.4).
const LONGEST: usize = 253;

/// Answers 400 where the host of a request is not plain.
pub(super) async fn check(request: Request, next: Next) -> Response {
    match error(request.version(), request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// What is wrong with the host of a request.
fn error(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Some("The request has more than one Host header: send one."),
        // Simple probes speak HTTP/1.0, which has none.
        (None, None) if version < Version::HTTP_11 => None,
        (None, None) => return Some("The request has no Host header: send one."),
        (Some(host), None) => match host.to_str().ok().filter(|host| is_authority(host)) {
            Some(host) => Some(host),
            None => {
                return Some(
                    "The Host header is no name or address of a host, with or without a port.",
                );
            }
        },
    };
    match (uri.authority(), host) {
        (Some(target), Some(host)) if !target.as_str().eq_ignore_ascii_case(host) => {
            Some("The request's target and its Host header name different hosts.")
        }
        (Some(target), None) if !is_authority(target.as_str()) => {
            Some("The request's target is no name or address of a host.")
        }
        _ => None,
    }
}

/// A name of ASCII letters, digits, `-`, `_` and `.`, or an IPv6 address in brackets; a port may follow
/// (RFC 9110, section 7.2). Narrower than RFC 3986, whose names may hold commas and escapes.
fn is_authority(text: &str) -> bool {
    let (is_host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((ip, port)) => (ip.parse::<Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (is_name(name), port)
        }
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.bytes().all(|b| b.is_ascii_digit())
                && (digits.is_empty() || digits.parse::<u16>().is_ok())
        }
    };
    is_host && is_port
}

fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in [
            "localhost",
            "localhost:8080",
            "tokens.example",
            "TOKENS.example.:443",
            "a_b-c.example",
            "192.0.2.1:8080",
            "[::1]",
            "[2001:db8::1]:8080",
            "h:",
        ] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "",
            ":8080",
            "a,b",
            "a, b",
            "a b",
            "a/b",
            "u@a",
            "u:p@a",
            "a:b",
            "a:1:2",
            "a:65536",
            "a:+1",
            "http://a",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[]",
            "[a]",
            "[fe80::1%eth0]",
            "a%2eb",
            "a\\b",
            "a?b",
            "a#b",
            "b\u{fc}cher",
            "a\tb",
            "\"a\"",
            &"a".repeat(254),
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }

    #[test]
    fn a_request_says_its_host_once() {
        let of = |version, target: &str, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, axum::http::HeaderValue::from_static(host));
            }
            error(version, &target.parse().unwrap(), &headers).is_none()
        };
        assert!(of(Version::HTTP_11, "/", &["h"]));
        assert!(of(Version::HTTP_10, "/", &[]));
        assert!(of(Version::HTTP_10, "/", &["h"]));
        assert!(of(Version::HTTP_11, "http://h:1/x", &["H:1"]));
        assert!(of(Version::HTTP_10, "http://h:1/x", &[]));
        assert!(!of(Version::HTTP_11, "/", &[]));
        assert!(!of(Version::HTTP_11, "/", &["h", "h"]));
        assert!(!of(Version::HTTP_10, "/", &["h", "i"]));
        assert!(!of(Version::HTTP_11, "/", &["h, h"]));
        assert!(!of(Version::HTTP_11, "http://h:1/x", &["h"]));
        assert!(!of(Version::HTTP_11, "http://u@h/x", &["h"]));
        assert!(!of(Version::HTTP_10, "http://u@h/x", &[]));
        assert!(!of(Version::HTTP_11, "http://h/x", &[]));
    }
}
