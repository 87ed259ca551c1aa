//! Which addresses and URLs are refused.

use std::net::IpAddr;

use url::{Host, Url};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn internal(hosts: &[&str]) -> InternalHosts {
    InternalHosts::parse(hosts.iter().copied()).unwrap()
}

/// Rule 14.9.
#[test]
fn only_addresses_of_hosts_on_the_internet_are_public() {
    for public in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "2606:4700::1111",
        "2a00:1450::1",
        "2001:200::1",
        "2003::1",
        "3ffe::1",
    ] {
        assert!(is_public(ip(public)), "{public}");
    }
    for other in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "100::1",
        "2001::1",
        "2001:0:a00:1::",
        "2001:1ff::1",
        "2001:db8::1",
        "2002:808:808::1",
        "2002:a00:1::",
        "2002:7f00:1::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(!is_public(ip(other)), "{other}");
    }
}

/// Rule 14.10.
#[test]
fn internal_addresses_are_reached_only_where_a_setting_names_them() {
    let admitted = |hosts: &[&str], host: &str, address: &str| {
        let url = Url::parse(&format!("https://{host}/")).unwrap();
        internal(hosts).admit(&url.host().unwrap(), ip(address), false).is_ok()
    };
    // Nothing is named.
    assert!(admitted(&[], "a.example", "8.8.8.8"));
    assert!(!admitted(&[], "a.example", "10.0.0.1"));
    assert!(!admitted(&[], "localhost", "127.0.0.1"));
    // A host is named, as it may be written.
    for name in ["Hooks.Internal", "hooks.internal."] {
        for address in ["127.0.0.1", "::1", "10.9.8.7", "192.168.1.1", "100.64.0.1", "fd12::1"] {
            assert!(admitted(&[name], "hooks.internal", address), "{address}");
            assert!(admitted(&[name], "HOOKS.internal.", address), "{address}");
            assert!(!admitted(&[name], "x.hooks.internal", address), "{address}");
        }
    }
    // Not wherever its owner points it.
    for address in [
        "169.254.169.254",
        "100.100.100.200",
        "fd00:ec2::254",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.0.192",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ] {
        assert!(!admitted(&["hooks.internal"], "hooks.internal", address), "{address}");
    }
    // A network is named.
    let networks = ["10.1.0.0/16", "fd00:1::/32", "192.168.7.7", "169.254.1.0/24"];
    for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd00:1::9", "192.168.7.7", "169.254.1.9"] {
        assert!(admitted(&networks, "a.example", address), "{address}");
    }
    for address in ["10.2.0.1", "fd00:2::1", "192.168.7.8", "127.0.0.1", "169.254.169.254"] {
        assert!(!admitted(&networks, "a.example", address), "{address}");
    }
}

#[test]
fn what_names_no_host_is_refused() {
    for text in
        ["", "127.1", "0x7f000001", "a b", "10.0.0.0/33", "0.0.0.0/0", "::/0", "http://a", "a:443"]
    {
        assert!(InternalHosts::parse([text]).is_err(), "{text}");
    }
    let errors = InternalHosts::parse(["a", "10.0.0.1/33", "?"]).unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
}

/// Rule 14.8.
#[test]
fn only_https_urls_are_accepted_unless_the_host_is_named() {
    let hosts = internal(&["hooks.internal", "10.1.0.0/16"]);
    let read = |text: &str| url(text, &hosts);
    for good in [
        "https://hooks.example.com/portcullis?a=b",
        "https://hooks.example.com:8443",
        "https://localhost/",
        "https://8.8.8.8/",
        "https://10.1.2.3/",
        "http://10.1.2.3:8080/",
        "http://hooks.internal/x",
        "HTTP://HOOKS.internal./x",
    ] {
        assert!(read(good).is_ok(), "{good}: {:?}", read(good));
    }
    let refused = |address: &str| InvalidUrl::Refused(RefusedAddress::Internal(ip(address)));
    let long = format!("https://a.example/{}", "x".repeat(MAX_URL));
    let escaped = format!("https://a.example/{}", "ü".repeat(MAX_URL / 4));
    for (text, wanted) in [
        ("", InvalidUrl::Malformed),
        ("hooks.example.com", InvalidUrl::Malformed),
        ("ftp://hooks.example.com/", InvalidUrl::Malformed),
        ("unix:/run/hooks.sock", InvalidUrl::Malformed),
        ("file:///etc/passwd", InvalidUrl::Malformed),
        ("https:///", InvalidUrl::Malformed),
        ("https://ann@hooks.example.com/", InvalidUrl::Login),
        ("https://:pw@hooks.example.com/", InvalidUrl::Login),
        ("https://hooks.example.com/#a", InvalidUrl::Fragment),
        ("http://hooks.example.com/", InvalidUrl::Plaintext),
        ("http://localhost/", InvalidUrl::Plaintext),
        ("http://10.2.0.1/", InvalidUrl::Plaintext),
        ("https://127.0.0.1/", refused("127.0.0.1")),
        ("https://127.1/", refused("127.0.0.1")),
        ("https://2130706433/", refused("127.0.0.1")),
        ("https://0x7f.0.0.1/", refused("127.0.0.1")),
        ("https://0177.0.0.1/", refused("127.0.0.1")),
        ("https://①②⑦.0.0.1/", refused("127.0.0.1")),
        ("https://169.254.169.254/latest", refused("169.254.169.254")),
        ("https://[::1]/", refused("::1")),
        ("https://[::ffff:10.0.0.1]/", refused("10.0.0.1")),
        ("https://[64:ff9b::a00:1]/", refused("64:ff9b::a00:1")),
        (long.as_str(), InvalidUrl::TooLong),
        (escaped.as_str(), InvalidUrl::TooLong),
    ] {
        assert_eq!(read(text), Err(wanted), "{text}");
    }
}

/// Rule 14.8: a named host without TLS is not spoken to across the Internet.
#[test]
fn plaintext_never_goes_to_a_public_address() {
    let hosts = internal(&["hooks.internal"]);
    let host = Host::Domain("hooks.internal");
    assert_eq!(hosts.admit(&host, ip("8.8.8.8"), true), Err(RefusedAddress::Public(ip("8.8.8.8"))));
    assert_eq!(hosts.admit(&host, ip("8.8.8.8"), false), Ok(()));
    assert_eq!(hosts.admit(&host, ip("10.0.0.1"), true), Ok(()));
}

#[test]
fn an_origin_shows_neither_path_nor_query() {
    let origin = |text| Origin(text).to_string();
    assert_eq!(origin("https://a.example/secret?key=1"), "https://a.example");
    assert_eq!(origin("http://a.internal:8080/x"), "http://a.internal:8080");
    assert_eq!(origin("?"), "an unreadable URL");
}
