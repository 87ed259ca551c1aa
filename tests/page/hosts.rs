//! Which host a request is for (RFC 9112, section 3.2), on every path of the listener, and that browsers never
//! leave TLS where it is spoken (RFC 6797).

use crate::page::checks::guarded;
use crate::support::http::Http;
use crate::support::server::Setup;
use crate::support::tls::Authority;

const PATHS: [&str; 7] =
    ["/healthz", "/readyz", "/metrics", "/sign-in", "/tokens", "/nothing-here", "/favicon.ico"];

/// The status of what comes back for a request with these header lines.
fn status(browser: &Http, line: &str, headers: &[&str]) -> u16 {
    let mut request = format!("{line}\r\nConnection: close\r\n");
    for header in headers {
        request.push_str(&format!("{header}\r\n"));
    }
    request.push_str("\r\n");
    let answer = browser.exchange(request.as_bytes());
    let status =
        answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    status.unwrap_or_else(|| panic!("{line}: {}", String::from_utf8_lossy(&answer)))
}

#[test]
fn a_request_says_its_host_once() {
    let server = Setup::sqlite().start();
    let browser = Http::new(&server);
    let own = format!("Host: {}", browser.host());
    for path in PATHS {
        let get = format!("GET {path} HTTP/1.1");
        let usual = status(&browser, &get, &[&own]);
        assert_ne!(usual, 400, "{path}");
        for good in ["Host: localhost", "host:\t[::1]:8080 ", "HOST: pc_1.test.:8080"] {
            assert_eq!(status(&browser, &get, &[good]), usual, "{path} {good}");
        }
        for bad in [
            &[][..],
            &["Host:"],
            &["Host: "],
            &[&own, &own],
            &[&own, "host: evil.example"],
            &["host: evil.example", &own],
            &[&own, "Host:"],
            &["Host: a, b"],
            &["Host: a,b"],
            &["Host: a b"],
            &["Host: user@a"],
            &["Host: http://a"],
            &["Host: a/b"],
            &["Host: a:b"],
            &["Host: a:99999"],
            &["Host: [::1"],
            &["Host: b\u{fc}cher.example"],
            &["Host: a\u{1}"],
            &["Host : a"],
        ] {
            assert_eq!(status(&browser, &get, bad), 400, "{path} {bad:?}");
            // Whatever the method.
            let post = format!("POST {path} HTTP/1.1");
            assert_eq!(status(&browser, &post, bad), 400, "{path} {bad:?}");
        }
        // A target that names a host itself names the same one.
        let absolute = format!("GET http://{}{path} HTTP/1.1", browser.host());
        assert_eq!(status(&browser, &absolute, &[&own]), usual, "{path}");
        for bad in [&["Host: evil.example"][..], &[], &[&own, &own]] {
            assert_eq!(status(&browser, &absolute, bad), 400, "{path} {bad:?}");
        }
        let user = format!("GET http://user@{}{path} HTTP/1.1", browser.host());
        assert_eq!(status(&browser, &user, &[&own]), 400, "{path}");
        // Simple probes speak HTTP/1.0, which has no Host.
        let old = format!("GET {path} HTTP/1.0");
        assert_eq!(status(&browser, &old, &[]), usual, "{path}");
        assert_eq!(status(&browser, &old, &[&own, &own]), 400, "{path}");
    }
    // Targets that are no path.
    for line in ["CONNECT a.example:443 HTTP/1.1", "OPTIONS * HTTP/1.1"] {
        let got = status(&browser, line, &[&own]);
        assert!((400..500).contains(&got), "{line}: {got}");
    }
    assert!(!server.log().contains("panic"), "{}", server.log());
}

#[tokio::test]
async fn browsers_stay_with_tls_where_it_is_spoken() {
    let authority = Authority::new("ours");
    let tls = Setup::sqlite().tls(&authority.server()).start();
    let proxied = Setup::sqlite().flag("--public-url", "https://tokens.example").start();
    let plain = Setup::sqlite().flag("--public-url", "http://tokens.example").start();
    for (mut browser, says) in [
        (Http::tls(&tls, &authority), Some("max-age=31536000")),
        (Http::new(&proxied), Some("max-age=31536000")),
        (Http::new(&plain), None),
    ] {
        for path in PATHS {
            for (method, headers) in [
                ("GET", &[][..]),
                ("HEAD", &[]),
                ("POST", &[]),
                ("PUT", &[]),
                ("GET", &[("host", "a, b")]),
            ] {
                let answer = browser.send(method, path, headers, b"");
                assert_eq!(answer.header("strict-transport-security"), says, "{answer}");
            }
        }
        guarded(&browser.get("/sign-in"));
    }
}
