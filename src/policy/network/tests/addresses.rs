//! Client addresses: one form, and what is none.

use std::net::IpAddr;

use super::*;

#[test]
fn client_addresses_have_one_form() {
    for (text, canonical) in [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("0:0:0:0:0:ffff:c000:0201", "192.0.2.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::"),
        ("::ffff:0.0.0.0", "0.0.0.0"),
        ("224.0.0.1", "224.0.0.1"),
        ("ff02::1", "ff02::1"),
        ("255.255.255.255", "255.255.255.255"),
        ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("fe80::1", "fe80::1"),
        ("::1.2.3.4", "::102:304"),
        ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
        ("::ffff:0:1.2.3.4", "::ffff:0:102:304"),
    ] {
        assert_eq!(addr(text).to_string(), canonical, "{text}");
        assert_eq!(addr(text), addr(canonical), "{text}");
        assert_eq!(addr(text), ClientAddr::from(text.parse::<IpAddr>().unwrap()));
    }
}

#[test]
fn what_is_no_client_address_is_named() {
    for (text, reason) in [
        ("", "EMPTY"),
        ("  ", "EMPTY"),
        (" 1.2.3.4", "WHITESPACE"),
        ("1.2.3.4\n", "WHITESPACE"),
        ("1.2.3.4 5.6.7.8", "WHITESPACE"),
        ("1.2.3.4, 5.6.7.8", "LIST"),
        ("1.2.3.4;5.6.7.8", "LIST"),
        ("\"1.2.3.4\"", "QUOTATION_MARKS"),
        ("1.2.3.4\u{200e}", "HIDDEN_CHARACTER"),
        ("<1.2.3.4>", "BRACKETS"),
        ("localhost", "HOST_NAME"),
        ("api.example.com", "HOST_NAME"),
        ("api.example.com:443", "HOST_NAME"),
        ("https://example.com/", "HOST_NAME"),
        ("https://1.2.3.4/", "HOST_NAME"),
        ("bücher.example", "HOST_NAME"),
        ("1.2.3.4:80", "PORT"),
        ("[::1]:80", "PORT"),
        ("[::1]", "BRACKETS"),
        ("fe80::1%eth0", "ZONE_ID"),
        ("fe80::1%1", "ZONE_ID"),
        ("10.0.0.0/24", "RANGE"),
        ("2001:db8::/32", "RANGE"),
        ("10.0.0.1/32", "RANGE"),
        ("10.0.0.*", "RANGE"),
        ("10.0.0.1-10.0.0.9", "RANGE"),
        ("010.0.0.1", "LEADING_ZEROS"),
        ("1.2.3.00", "LEADING_ZEROS"),
        ("::ffff:1.2.3.04", "LEADING_ZEROS"),
        ("1.2.3", "NOT_AN_ADDRESS"),
        ("1.2.3.256", "NOT_AN_ADDRESS"),
        ("1.2.3.4.", "NOT_AN_ADDRESS"),
        ("-1.2.3.4", "NOT_AN_ADDRESS"),
        (":::", "NOT_AN_ADDRESS"),
        ("12345::", "NOT_AN_ADDRESS"),
        ("16909060", "NOT_AN_ADDRESS"),
        ("١.٢.٣.٤", "NOT_AN_ADDRESS"),
    ] {
        let error = text.parse::<ClientAddr>().unwrap_err();
        assert_eq!(error.reason(), reason, "{text:?}: {error}");
    }
    let error = "".parse::<ClientAddr>().unwrap_err().to_string();
    assert!(error.starts_with("the address is empty: "), "{error}");
    let error = "my.host".parse::<ClientAddr>().unwrap_err().to_string();
    assert_eq!(error, "my.host is a host name: write its IP address");
    let error = "Office".parse::<ClientAddr>().unwrap_err().to_string();
    assert_eq!(error, "“Office” is a host name: write its IP address");
}
