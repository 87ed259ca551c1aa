//! Entries: one form, what is none, and what the caller is told.

use super::*;

#[test]
fn entries_have_one_form() {
    for (text, canonical) in [
        ("192.168.1.1", "192.168.1.1"),
        ("192.168.1.1/32", "192.168.1.1"),
        (" 10.0.0.0/24\t", "10.0.0.0/24"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:0db8:00::/33", "2001:db8::/33"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::ffff:102:304/128", "1.2.3.4"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.0/120", "10.0.0.0/24"),
        ("::1.2.3.4", "::102:304"),
        ("::1", "::1"),
        ("64:ff9b::/96", "64:ff9b::/96"),
        ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
        ("0.0.0.1", "0.0.0.1"),
        ("0.1.0.0/16", "0.1.0.0/16"),
        ("223.255.255.0/24", "223.255.255.0/24"),
        ("240.0.0.0/8", "240.0.0.0/8"),
        ("255.255.255.255", "255.255.255.255"),
        ("fe80::/64", "fe80::/64"),
        ("feff:ffff::/32", "feff:ffff::/32"),
        ("::fffe:0:0/96", "::fffe:0:0/96"),
        ("::1:0:0:0/80", "::1:0:0:0/80"),
    ] {
        assert_eq!(entry(text).to_string(), canonical, "{text}");
        assert_eq!(entry(text), entry(canonical), "{text}");
    }
}

#[test]
fn what_is_no_entry_is_named() {
    for (text, reason) in [
        ("", "EMPTY"),
        (" \t ", "EMPTY"),
        ("1.2.3.4,5.6.7.8", "LIST"),
        ("10.0.0.0/8,5.6.7.8", "LIST"),
        ("1.2.3.4 5.6.7.8", "WHITESPACE"),
        ("10.0.0.0 /24", "WHITESPACE"),
        ("10.0.0.0/ 24", "WHITESPACE"),
        ("10.0.0.5/24", "HOST_BITS"),
        ("10.0.0.1/31", "HOST_BITS"),
        ("2001:db8::1/64", "HOST_BITS"),
        ("::ffff:10.0.0.5/120", "HOST_BITS"),
        ("0.0.0.0", "UNSPECIFIED"),
        ("0.0.0.0/32", "UNSPECIFIED"),
        ("0.0.0.0/8", "UNSPECIFIED"),
        ("0.0.0.5/8", "UNSPECIFIED"),
        ("::", "UNSPECIFIED"),
        ("::/128", "UNSPECIFIED"),
        ("::/96", "UNSPECIFIED"),
        ("::ffff:0.0.0.0", "UNSPECIFIED"),
        ("::ffff:0:0/120", "UNSPECIFIED"),
        ("224.0.0.1", "MULTICAST"),
        ("239.255.255.255", "MULTICAST"),
        ("230.0.0.0/8", "MULTICAST"),
        ("::ffff:224.0.0.1", "MULTICAST"),
        ("ff02::1", "MULTICAST"),
        ("ff00::/32", "MULTICAST"),
        ("ffff:ffff::/32", "MULTICAST"),
        ("::/32", "CONTAINS_IPV4"),
        ("::/80", "CONTAINS_IPV4"),
        ("::8000:0:0/81", "CONTAINS_IPV4"),
        ("::fffe:0:0/95", "CONTAINS_IPV4"),
        ("::ffff:10.0.0.0/95", "CONTAINS_IPV4"),
        ("::ffff:10.0.0.0/8", "CONTAINS_IPV4"),
        ("0.0.0.0/0", "ANY_ADDRESS"),
        ("10.0.0.0/0", "ANY_ADDRESS"),
        ("::/0", "ANY_ADDRESS"),
        ("::ffff:0:0/96", "ANY_ADDRESS"),
        ("10.0.0.0/7", "TOO_WIDE"),
        ("128.0.0.0/1", "TOO_WIDE"),
        ("2001:db8::/31", "TOO_WIDE"),
        ("::ffff:10.0.0.0/103", "TOO_WIDE"),
        ("010.0.0.1", "LEADING_ZEROS"),
        ("10.00.0.0/8", "LEADING_ZEROS"),
        ("10.0.0.0/08", "LEADING_ZEROS"),
        ("10.0.0.0/00", "LEADING_ZEROS"),
        ("2001:db8::/032", "LEADING_ZEROS"),
        ("10.0.0.0/", "PREFIX_LENGTH"),
        ("10.0.0.0/33", "PREFIX_LENGTH"),
        ("10.0.0.0/+8", "PREFIX_LENGTH"),
        ("10.0.0.0/-8", "PREFIX_LENGTH"),
        ("10.0.0.0/8/8", "PREFIX_LENGTH"),
        ("10.0.0.0/24:80", "PREFIX_LENGTH"),
        ("10.0.0.0/99999999999", "PREFIX_LENGTH"),
        ("10.0.0.0/eight", "PREFIX_LENGTH"),
        ("2001:db8::/129", "PREFIX_LENGTH"),
        ("1.2.3.0/255.255.255.0", "NETMASK"),
        ("1.2.3.0/0.0.0.255", "NETMASK"),
        ("2001:db8::/ffff:ffff::", "NETMASK"),
        ("fe80::1%eth0", "ZONE_ID"),
        ("fe80::1%eth0/64", "ZONE_ID"),
        ("fe80::/64%eth0", "ZONE_ID"),
        ("1.2.3.4:443", "PORT"),
        ("[2001:db8::1]:443", "PORT"),
        ("[2001:db8::1]", "BRACKETS"),
        ("[2001:db8::]/32", "BRACKETS"),
        ("10.0.0.*", "WILDCARD"),
        ("*", "WILDCARD"),
        ("10.0.0.1-10.0.0.9", "ADDRESS_SPAN"),
        ("10.0.0.1-9", "ADDRESS_SPAN"),
        ("example.com", "HOST_NAME"),
        ("my-host/24", "HOST_NAME"),
        ("http://10.0.0.1/", "HOST_NAME"),
        ("10.0.0", "NOT_AN_ADDRESS"),
        ("10.0.0/24", "NOT_AN_ADDRESS"),
        ("10/8", "NOT_AN_ADDRESS"),
        ("/24", "NOT_AN_ADDRESS"),
        ("10.0.0.256", "NOT_AN_ADDRESS"),
        ("2001:db8:::1", "NOT_AN_ADDRESS"),
    ] {
        let error = Entry::parse(text, &Limits::default()).unwrap_err();
        assert_eq!(error.reason(), reason, "{text:?}: {error}");
        let sentence = error.to_string();
        assert!(sentence.contains(text.trim()) && sentence.contains(": "), "{sentence}");
        // What is no matter of settings is refused under any.
        let unlimited = Entry::parse(text, &Limits::NONE);
        let setting = ["10.0.0.0/7", "2001:db8::/31", "::ffff:10.0.0.0/103"].contains(&text);
        assert_eq!(unlimited.is_ok(), setting, "{text:?}: {unlimited:?}");
    }
}

#[test]
fn errors_tell_the_cure() {
    let error = |text: &str| Entry::parse(text, &Limits::default()).unwrap_err().to_string();
    for (text, sentence) in [
        ("10.0.0.5/24", "10.0.0.5/24 has host bits set: did you mean 10.0.0.0/24 or 10.0.0.5/32?"),
        (
            "2001:db8::1/64",
            "2001:db8::1/64 has host bits set: did you mean 2001:db8::/64 or 2001:db8::1/128?",
        ),
        (
            "::ffff:10.0.0.5/120",
            "::ffff:10.0.0.5/120 has host bits set: did you mean 10.0.0.0/24 or 10.0.0.5/32?",
        ),
        (
            "1.2.3.0/255.255.255.0",
            "1.2.3.0/255.255.255.0 has a netmask: write a prefix length instead: did you mean 1.2.3.0/24?",
        ),
        (
            "1.2.3.0/0.0.0.255",
            "1.2.3.0/0.0.0.255 has a netmask: write a prefix length instead: did you mean 1.2.3.0/24?",
        ),
        (
            "1.2.3.0/255.0.255.0",
            "1.2.3.0/255.0.255.0 has a netmask: write a prefix length instead, such as /24",
        ),
        (
            "::ffff:10.0.0.0/100",
            "::ffff:10.0.0.0/100 is wider than an IPv4 /8: write narrower ranges",
        ),
        ("2001:d00::/24", "2001:d00::/24 is wider than an IPv6 /32: write narrower ranges"),
        (
            "10.0.0.0/33",
            "10.0.0.0/33 has no valid prefix length: write a number from 1 to 32 after the /",
        ),
        ("1.2.3.4:80", "1.2.3.4:80 has a port: leave it out"),
    ] {
        assert_eq!(error(text), sentence);
    }
}

#[test]
fn messages_repeat_little_of_the_input_and_no_control_characters() {
    for text in
        ["\u{1b}[31mred\r\n\0", "x\u{202e}y\u{2028}", &"\u{1}".repeat(5000), &"é".repeat(5000)]
    {
        let address = text.parse::<ClientAddr>().unwrap_err().to_string();
        let entry = Entry::parse(text, &Limits::default()).unwrap_err().to_string();
        for message in [address, entry] {
            assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'), "{message:?}");
            assert!(message.len() < 200, "{message}");
        }
    }
}

#[test]
fn settings_move_the_widest_range() {
    let limits = Limits { widest_v4: 16, widest_v6: 48, max_entries: 1 };
    for (text, accepted) in [
        ("10.0.0.0/15", false),
        ("10.0.0.0/16", true),
        ("2001:db8::/47", false),
        ("2001:db8::/48", true),
    ] {
        assert_eq!(Entry::parse(text, &limits).is_ok(), accepted, "{text}");
    }
    for (text, reason) in [
        ("0.0.0.0/1", "UNSPECIFIED"),
        ("128.0.0.0/1", "MULTICAST"),
        ("8000::/1", "MULTICAST"),
        ("fe00::/7", "MULTICAST"),
    ] {
        assert_eq!(Entry::parse(text, &Limits::NONE).unwrap_err().reason(), reason, "{text}");
    }
}

#[test]
fn lists_are_strings_and_commas_alike() {
    let limits = Limits::default();
    let parsed = parse_entries(["10.0.0.0/8 , 1.2.3.4", "::1", "1.2.3.4/32"], &limits).unwrap();
    assert_eq!(parsed, entries(&["::1", "1.2.3.4", "10.0.0.0/8"]));
    assert_eq!(parse_entries([], &limits), Ok(Vec::new()));
    let faults = parse_entries(["1.2.3.4,,5.6.7.8", "", "::1", "10.0.0.5/24,x"], &limits);
    let faults: Vec<_> = faults.unwrap_err().iter().map(|f| (f.index, f.error.reason())).collect();
    assert_eq!(faults, [(0, "EMPTY"), (1, "EMPTY"), (3, "HOST_BITS"), (3, "HOST_NAME")]);
    let commas = ",".repeat(100_000);
    assert_eq!(parse_entries([commas.as_str()], &limits).unwrap_err().len(), MAX_FAULTS);
}
