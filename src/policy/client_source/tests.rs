//! The rule of a client's address and the fields that it is configured with, case by case.

#![allow(clippy::unwrap_used, reason = "a test that panics fails")]

use std::net::IpAddr;

use super::*;

const NONE: ClientSourceFields<'_> = ClientSourceFields {
    address_header: "",
    trusted_proxies: &[],
    token_header: "",
    method_header: "",
    uri_header: "",
    forward_token: true,
};

fn source(header: &str, proxies: &[&str]) -> ClientSource {
    let proxies: Vec<String> = proxies.iter().map(|&text| text.to_owned()).collect();
    let fields = ClientSourceFields { address_header: header, trusted_proxies: &proxies, ..NONE };
    ClientSource::parse(&fields, &Limits::default()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The address that `source` reads from `lines` of its header.
fn read(source: &ClientSource, start: Option<&str>, lines: &[&str]) -> Option<String> {
    let values = lines.iter().map(|line| line.as_bytes());
    source.client_address(start.map(ip), values).map(|address| address.to_string())
}

/// Rule 9.5 of docs/policy.md, with `192.0.2.0/24` and `2001:db8:f::/48` as trusted proxies.
#[test]
fn client_address_is_the_last_element_that_is_not_a_trusted_proxy() {
    let cases: &[(&str, &[&str], &str)] = &[
        // One element.
        ("x-forwarded-for", &["198.51.100.7"], "198.51.100.7"),
        ("x-forwarded-for", &[" \t198.51.100.7\t "], "198.51.100.7"),
        ("x-forwarded-for", &["198.51.100.7:4711"], "198.51.100.7"),
        ("x-forwarded-for", &["2001:db8::7"], "2001:db8::7"),
        ("x-forwarded-for", &["[2001:db8::7]"], "2001:db8::7"),
        ("x-forwarded-for", &["[2001:db8::7]:4711"], "2001:db8::7"),
        ("x-forwarded-for", &["2001:DB8:0::7"], "2001:db8::7"),
        ("x-forwarded-for", &["::ffff:198.51.100.7"], "198.51.100.7"),
        ("x-forwarded-for", &["[::ffff:c633:6407]:80"], "198.51.100.7"),
        ("x-real-ip", &["198.51.100.7"], "198.51.100.7"),
        ("cf-connecting-ip", &["198.51.100.7"], "198.51.100.7"),
        // Steps to the left.
        ("x-forwarded-for", &["203.0.113.1, 198.51.100.7, 192.0.2.1"], "198.51.100.7"),
        ("x-forwarded-for", &["203.0.113.1,198.51.100.7,192.0.2.1,192.0.2.9:8"], "198.51.100.7"),
        ("x-forwarded-for", &["198.51.100.7, ::ffff:192.0.2.1"], "198.51.100.7"),
        ("x-forwarded-for", &["198.51.100.7, [2001:db8:f::1]:443, 2001:db8:f::2"], "198.51.100.7"),
        ("x-forwarded-for", &["203.0.113.1", "198.51.100.7, 192.0.2.1"], "198.51.100.7"),
        ("x-forwarded-for", &["198.51.100.7", "192.0.2.1", "192.0.2.2"], "198.51.100.7"),
        // What stands left of the answer is not read.
        ("x-forwarded-for", &["unknown, \", ,,198.51.100.7"], "198.51.100.7"),
        ("x-forwarded-for", &["192.0.2.1, 198.51.100.7"], "198.51.100.7"),
        // Nothing there, or only trusted proxies.
        ("x-forwarded-for", &[], ""),
        ("x-forwarded-for", &[""], ""),
        ("x-forwarded-for", &["192.0.2.1"], ""),
        ("x-forwarded-for", &["192.0.2.1, 192.0.2.2"], ""),
        // What can't be parsed ends the search.
        ("x-forwarded-for", &["198.51.100.7,"], ""),
        ("x-forwarded-for", &["198.51.100.7", ""], ""),
        ("x-forwarded-for", &["198.51.100.7, unknown, 192.0.2.1"], ""),
        ("x-forwarded-for", &["198.51.100.7, ,192.0.2.1"], ""),
        ("x-forwarded-for", &["198.51.100.7 203.0.113.1"], ""),
        ("x-forwarded-for", &["\"198.51.100.7\""], ""),
        ("x-forwarded-for", &["198.51.100.07"], ""),
        ("x-forwarded-for", &["198.51.100"], ""),
        ("x-forwarded-for", &["0x7f000001"], ""),
        ("x-forwarded-for", &["198.51.100.7:"], ""),
        ("x-forwarded-for", &["198.51.100.7:65536"], ""),
        ("x-forwarded-for", &["198.51.100.7:+80"], ""),
        ("x-forwarded-for", &["198.51.100.7:_http"], ""),
        ("x-forwarded-for", &["198.51.100.7/32"], ""),
        ("x-forwarded-for", &["[198.51.100.7]"], ""),
        ("x-forwarded-for", &["[2001:db8::7"], ""),
        ("x-forwarded-for", &["2001:db8::7]"], ""),
        ("x-forwarded-for", &["[2001:db8::7]80"], ""),
        ("x-forwarded-for", &["fe80::1%eth0"], ""),
        ("x-forwarded-for", &["[fe80::1%25eth0]:80"], ""),
        ("x-forwarded-for", &["198.51.100.7\u{a0}"], ""),
        ("x-forwarded-for", &["for=198.51.100.7"], ""),
        // RFC 7239.
        ("forwarded", &["for=198.51.100.7"], "198.51.100.7"),
        ("forwarded", &["For=\"198.51.100.7:4711\""], "198.51.100.7"),
        (
            "forwarded",
            &["by=192.0.2.1;FOR=198.51.100.7;proto=https;host=\"a,b;c\""],
            "198.51.100.7",
        ),
        ("forwarded", &["for=\"[2001:db8::7]\""], "2001:db8::7"),
        ("forwarded", &["for=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
        ("forwarded", &["for=\"[::ffff:198.51.100.7]:_obf-1.x\""], "198.51.100.7"),
        ("forwarded", &["for=\"198.51.100\\.7\""], "198.51.100.7"),
        ("forwarded", &[" for=198.51.100.7;proto=http;by=_a "], "198.51.100.7"),
        ("forwarded", &["for=198.51.100.7;;proto=http;"], "198.51.100.7"),
        ("forwarded", &["for=198.51.100.7;ext=\"\\\", for=203.0.113.1\""], "198.51.100.7"),
        ("forwarded", &["for=203.0.113.1, for=198.51.100.7, for=192.0.2.1"], "198.51.100.7"),
        (
            "forwarded",
            &["for=198.51.100.7", "for=\"[2001:db8:f::1]:9\";by=\"a,b\""],
            "198.51.100.7",
        ),
        // An open quotation mark to the left hides nothing.
        ("forwarded", &["for=203.0.113.1;x=\", for=198.51.100.7"], "198.51.100.7"),
        (
            "forwarded",
            &["for=203.0.113.1;x=\"\\, for=198.51.100.7, for=\"192.0.2.1\""],
            "198.51.100.7",
        ),
        ("forwarded", &[], ""),
        ("forwarded", &["for=192.0.2.1"], ""),
        ("forwarded", &["198.51.100.7"], ""),
        ("forwarded", &["proto=https"], ""),
        ("forwarded", &["for=unknown"], ""),
        ("forwarded", &["for=198.51.100.7, for=Unknown, for=192.0.2.1"], ""),
        ("forwarded", &["for=\"unknown:80\""], ""),
        ("forwarded", &["for=_hidden"], ""),
        ("forwarded", &["for=\"_198.51.100.7\""], ""),
        ("forwarded", &["for=198.51.100.7;for=203.0.113.1"], ""),
        ("forwarded", &["for=198.51.100.7;For=198.51.100.7"], ""),
        ("forwarded", &["by=_a;for=198.51.100.7;proto=http;By=_b"], ""),
        ("forwarded", &["ext=1;for=198.51.100.7;ext=1"], ""),
        ("forwarded", &["for=198.51.100.7; proto=http"], ""),
        ("forwarded", &["for=198.51.100.7 ;proto=http"], ""),
        ("forwarded", &["for=198.51.100.7;\t"], "198.51.100.7"),
        ("forwarded", &["for=198.51.100.7; ;"], ""),
        ("forwarded", &["for=198.51.100.7:80"], ""),
        ("forwarded", &["for=[2001:db8::7]"], ""),
        ("forwarded", &["for=\"2001:db8::7\""], ""),
        ("forwarded", &["for=\"[2001:db8::7%25eth0]\""], ""),
        ("forwarded", &["for =198.51.100.7"], ""),
        ("forwarded", &["for= 198.51.100.7"], ""),
        ("forwarded", &["for=\" 198.51.100.7\""], ""),
        ("forwarded", &["for=198.51.100.7 proto=http"], ""),
        ("forwarded", &["for=\"198.51.100.7"], ""),
        ("forwarded", &["for=198.51.100.7\""], ""),
        ("forwarded", &["for=\"198.51.100.7\"x"], ""),
        ("forwarded", &["for=\"198.51.100.7\\"], ""),
        ("forwarded", &["for=198.51.100.7;x=\"a", "b\""], "198.51.100.7"),
        ("forwarded", &["for=198.51.100.7;x=\"\u{1}\""], ""),
        ("forwarded", &["for=198.51.100.7,"], ""),
    ];
    for (header, lines, wanted) in cases {
        let source = source(header, &["192.0.2.0/24", "2001:db8:f::/48"]);
        assert_eq!(read(&source, None, lines).unwrap_or_default(), *wanted, "{header}: {lines:?}");
    }
}

/// Rule 9.5 of docs/policy.md.
#[test]
fn grpc_gateways_start_at_the_peer_they_report() {
    let trusting = source("x-forwarded-for", &["192.0.2.0/24"]);
    let forged = ["203.0.113.1"];
    assert_eq!(read(&trusting, Some("198.51.100.7"), &forged).unwrap(), "198.51.100.7");
    assert_eq!(read(&trusting, Some("::ffff:198.51.100.7"), &forged).unwrap(), "198.51.100.7");
    assert_eq!(read(&trusting, Some("192.0.2.1"), &forged).unwrap(), "203.0.113.1");
    assert_eq!(read(&trusting, Some("::ffff:192.0.2.1"), &forged).unwrap(), "203.0.113.1");
    assert_eq!(read(&trusting, Some("192.0.2.1"), &[]), None);
    assert_eq!(read(&source("", &["192.0.2.0/24"]), Some("192.0.2.1"), &forged), None);
    assert_eq!(read(&source("", &[]), Some("192.0.2.1"), &forged).unwrap(), "192.0.2.1");
}

/// Rule 9.4 of docs/policy.md.
#[test]
fn address_is_missing_where_no_header_is_named() {
    assert_eq!(read(&source("", &[]), None, &["198.51.100.7"]), None);
    assert_eq!(read(&ClientSource::default(), None, &["198.51.100.7"]), None);
    assert_eq!(
        read(&ClientSource::development(), None, &["203.0.113.1, 198.51.100.7"]).unwrap(),
        "198.51.100.7"
    );
}

#[test]
fn header_beyond_the_bounds_names_no_address() {
    let (forwarded, source) =
        (source("forwarded", &[]), source("x-forwarded-for", &["192.0.2.0/24"]));
    let chain = |trusted: usize| format!("198.51.100.7{}", ", 192.0.2.1".repeat(trusted));
    assert_eq!(read(&source, None, &[&chain(MAX_ELEMENTS - 1)]).unwrap(), "198.51.100.7");
    assert_eq!(read(&source, None, &[&chain(MAX_ELEMENTS)]), None);
    let padded = |length: usize| format!("{:>length$}", ",198.51.100.7");
    assert_eq!(read(&source, None, &[&padded(MAX_HEADER_BYTES)]).unwrap(), "198.51.100.7");
    assert_eq!(read(&source, None, &[&padded(MAX_HEADER_BYTES + 1)]), None);
    let mut lines = vec![""; MAX_HEADER_BYTES - 12];
    lines.push("198.51.100.7");
    assert_eq!(read(&source, None, &lines).unwrap(), "198.51.100.7");
    lines.insert(0, "");
    assert_eq!(read(&source, None, &lines), None);
    // Quotation marks and backslashes cost no more than one pass for each.
    let hostile = format!("for=198.51.100.7;x=\"{}", "\\\"".repeat(4_000));
    assert_eq!(read(&forwarded, None, &[&hostile]), None);
}

#[test]
fn bytes_that_are_no_text_are_no_address() {
    let (forwarded, source) = (source("forwarded", &[]), source("x-forwarded-for", &[]));
    assert_eq!(source.client_address(None, [&b"198.51.100.7\xff"[..]]), None);
    assert_eq!(source.client_address(None, [&b"\xff, 198.51.100.7"[..]]), Some(ip("198.51.100.7")));
    let text = &b"for=198.51.100.7;x=\"\xff\""[..];
    assert_eq!(forwarded.client_address(None, [text]), Some(ip("198.51.100.7")));
}

/// Rule 9.2 of docs/policy.md.
#[test]
fn every_bad_field_is_named_with_its_cure() {
    let proxies: Vec<String> =
        ["0.0.0.0/0", "10.0.0.1/8", "192.0.2.1", "2002::/20", "proxy.example"]
            .map(String::from)
            .into();
    let fields = ClientSourceFields {
        address_header: "X_Forwarded_For",
        trusted_proxies: &proxies,
        token_header: "Portcullis-Token",
        method_header: "X Method",
        uri_header: "Transfer-Encoding",
        forward_token: false,
    };
    let errors = ClientSource::parse(&fields, &Limits::default()).unwrap_err();
    let found: Vec<_> = errors.iter().map(|e| (e.field, e.index, e.reason)).collect();
    let proxy = |index, reason| ("trusted_proxies", Some(index), reason);
    assert_eq!(
        found,
        [
            ("address_header", None, "UNDERSCORE"),
            ("token_header", None, "HEADER_NOT_USABLE"),
            ("method_header", None, "NOT_A_HEADER_NAME"),
            ("uri_header", None, "HEADER_NOT_USABLE"),
            proxy(0, "ANY_ADDRESS"),
            proxy(1, "HOST_BITS"),
            proxy(3, "TOO_WIDE"),
            proxy(4, "HOST_NAME"),
        ]
    );
    assert!(errors.iter().all(|error| error.description.contains(": ")), "{errors:?}");
}

#[test]
fn a_header_serves_one_purpose() {
    let bad = |fields: ClientSourceFields<'_>| {
        let errors = ClientSource::parse(&fields, &Limits::default()).unwrap_err();
        errors.into_iter().map(|error| (error.field, error.reason)).collect::<Vec<_>>()
    };
    let same = ClientSourceFields { address_header: "X-Client", token_header: "x-client", ..NONE };
    assert_eq!(bad(same), [("token_header", "DUPLICATE")]);
    for (name, field) in [
        ("Authorization", "address_header"),
        ("X-Forwarded-Uri", "address_header"),
        ("X-Original-Method", "address_header"),
    ] {
        let fields = ClientSourceFields { address_header: name, ..NONE };
        assert_eq!(bad(fields), [(field, "HEADER_NOT_USABLE")], "{name}");
    }
    let fields = ClientSourceFields { token_header: "X-Forwarded-For", ..NONE };
    assert_eq!(bad(fields), [("token_header", "HEADER_NOT_USABLE")]);
    let fields = ClientSourceFields { method_header: "Authorization", ..NONE };
    assert_eq!(bad(fields), [("method_header", "HEADER_NOT_USABLE")]);
    for name in ["X-Forwarded-Method", "X-Rewrite-URL", "X-Real-IP", "Content-Length"] {
        let fields = ClientSourceFields { uri_header: name, ..NONE };
        assert_eq!(bad(fields), [("uri_header", "HEADER_NOT_USABLE")], "{name}");
    }
    for name in ["X-HTTP-Method-Override", "X-Original-URL", "Connection", "Portcullis-Reason"] {
        let fields = ClientSourceFields { method_header: name, ..NONE };
        assert_eq!(bad(fields), [("method_header", "HEADER_NOT_USABLE")], "{name}");
    }
}

/// Rule 9.2 of docs/policy.md.
#[test]
fn header_with_another_meaning_is_refused_for_every_field() {
    let names = "Accept Accept-Language Access-Control-Request-Method Baggage Cache-Control Connection Content-Length \
                 Content-Type Cookie Date Expect From Grpc-Timeout Host If-Match If-None-Match Keep-Alive Link Origin \
                 Portcullis-Credential Proxy-Authorization Proxy-Connection Range Referer Sec-Fetch-Mode Set-Cookie TE \
                 Traceparent Tracestate Transfer-Encoding Upgrade User-Agent Via WWW-Authenticate X-B3-TraceId \
                 X-Envoy-Expected-Rq-Timeout-Ms X-Forwarded-Host X-Forwarded-Proto X-Request-Id";
    for name in names.split_whitespace() {
        for (field, fields) in [
            ("address_header", ClientSourceFields { address_header: name, ..NONE }),
            ("token_header", ClientSourceFields { token_header: name, ..NONE }),
            ("method_header", ClientSourceFields { method_header: name, ..NONE }),
            ("uri_header", ClientSourceFields { uri_header: name, ..NONE }),
        ] {
            let errors = ClientSource::parse(&fields, &Limits::default()).unwrap_err();
            let [error] = &errors[..] else { panic!("{name}: {errors:?}") };
            assert_eq!((error.field, error.reason), (field, "HEADER_NOT_USABLE"), "{name}");
            let cure = ": name another header, such as ";
            assert!(error.description.contains(cure), "{}", error.description);
        }
        let name = HeaderName::parse(name).unwrap();
        assert!(name.check(Purpose::Override).is_err(), "{name}");
    }
    let error = HeaderName::parse("Set-Cookie").unwrap().check(Purpose::Token).unwrap_err();
    assert_eq!(
        error.to_string(),
        "is set-cookie, which is for answers, not for requests: name another header, such as \
         Authorization or X-Api-Key"
    );
}

#[test]
fn names_are_kept_in_lower_case() {
    let fields = ClientSourceFields {
        address_header: "X-Forwarded-For",
        token_header: "Authorization",
        method_header: "X-Forwarded-Method",
        uri_header: "X-Original-URL",
        ..NONE
    };
    let parsed = ClientSource::parse(&fields, &Limits::default()).unwrap();
    assert_eq!(parsed.address_header.unwrap().as_str(), "x-forwarded-for");
    assert_eq!(parsed.token_header.unwrap().as_str(), "authorization");
    assert_eq!(parsed.method_header.unwrap().as_str(), "x-forwarded-method");
    assert_eq!(parsed.uri_header.unwrap().as_str(), "x-original-url");
    for bad in ["", " x", "x\n", "x:", "é", &"x".repeat(129)] {
        assert!(HeaderName::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn trusted_proxies_are_never_everything() {
    // Also where the settings admit wider whitelist entries.
    let wide = Limits { widest_v4: 1, widest_v6: 1, max_entries: 10_000 };
    for text in ["64.0.0.0/2", "10.0.0.0/7", "2000::/3", "2001:db8::/23", "64:ff9b::/96", "::/0"] {
        assert!(TrustedProxies::parse(&[text], &wide).is_err(), "{text}");
    }
    let narrow = Limits { widest_v4: 24, ..Limits::default() };
    assert!(TrustedProxies::parse(&["10.0.0.0/16"], &narrow).is_err());
    assert!(TrustedProxies::read_stored(&["10.0.0.0/16"]).is_ok());
    let many: Vec<_> = (0..=MAX_TRUSTED_PROXIES).map(|at| format!("10.0.{at}.1")).collect();
    assert_eq!(
        TrustedProxies::parse(&many, &wide),
        Err(vec![ProxyError::TooMany { count: MAX_TRUSTED_PROXIES + 1 }])
    );
    let most = TrustedProxies::parse(&many[1..], &wide).unwrap();
    assert_eq!(most.entries().count(), MAX_TRUSTED_PROXIES);
    assert!(TrustedProxies::parse::<&str>(&[], &wide).unwrap().is_empty());
}
