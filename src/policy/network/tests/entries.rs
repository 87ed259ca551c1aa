//! Entries: one form, what is none, and the error for the caller.

use super::*;
use crate::policy::text::escape;

/// Rules 3.5 and 3.6.
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
        ("64:ff9b::/104", "64:ff9b::/104"),
        ("64:ff9b:2::/48", "64:ff9b:2::/48"),
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
        ("1.2.3.4\t5.6.7.8", "WHITESPACE"),
        ("1.2.3.4\u{a0}5.6.7.8", "WHITESPACE"),
        ("192.0.2.7 gateway", "WHITESPACE"),
        ("\"192.0.2.7\"", "QUOTATION_MARKS"),
        ("'192.0.2.7'", "QUOTATION_MARKS"),
        ("“192.0.2.7”", "QUOTATION_MARKS"),
        ("„10.0.0.0/24“", "QUOTATION_MARKS"),
        ("«2001:db8::1»", "QUOTATION_MARKS"),
        ("`192.0.2.7`", "QUOTATION_MARKS"),
        ("192.0.2.7\"", "QUOTATION_MARKS"),
        ("10.0.0.0/24;", "SEPARATOR"),
        ("192.0.2.7;192.0.2.8", "SEPARATOR"),
        ("192.0.2.7; 192.0.2.8", "SEPARATOR"),
        ("192.0.2.7|192.0.2.8", "SEPARATOR"),
        ("10.0.0.0/24|", "SEPARATOR"),
        ("192.0.2.7，192.0.2.8", "SEPARATOR"),
        ("192.0.2.7、192.0.2.8", "SEPARATOR"),
        ("192.0.2.7.", "NOT_AN_ADDRESS"),
        ("10.0.0.0/24.", "NOT_AN_ADDRESS"),
        ("-192.0.2.7", "NOT_AN_ADDRESS"),
        ("•192.0.2.7", "NOT_AN_ADDRESS"),
        ("=192.0.2.7", "NOT_AN_ADDRESS"),
        ("!10.0.0.0/24", "NOT_AN_ADDRESS"),
        ("2001:db8::1.", "NOT_AN_ADDRESS"),
        ("::1_", "NOT_AN_ADDRESS"),
        ("192.0.2.7 # office", "COMMENT"),
        ("10.0.0.0/24#office", "COMMENT"),
        ("# office", "COMMENT"),
        ("# the office, Berlin", "COMMENT"),
        ("192.0.2.7 // office", "COMMENT"),
        ("192.0.2.7\u{200b}", "HIDDEN_CHARACTER"),
        ("\u{feff}10.0.0.0/24", "HIDDEN_CHARACTER"),
        ("10.0.0.0/24\u{202c}", "HIDDEN_CHARACTER"),
        ("192.0.2\u{ad}.7", "HIDDEN_CHARACTER"),
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
        ("2001:c00::/23", "TOO_WIDE"),
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
        ("(192.0.2.7)", "BRACKETS"),
        ("<10.0.0.0/24>", "BRACKETS"),
        ("{2001:db8::1}", "BRACKETS"),
        ("10.0.0.*", "WILDCARD"),
        ("*", "WILDCARD"),
        ("10.0.0.1-10.0.0.9", "ADDRESS_SPAN"),
        ("10.0.0.1-9", "ADDRESS_SPAN"),
        ("10.0.0.1–10.0.0.9", "ADDRESS_SPAN"),
        ("10.0.0.1 - 10.0.0.9", "ADDRESS_SPAN"),
        ("2001:db8::1 — 2001:db8::9", "ADDRESS_SPAN"),
        ("example.com", "HOST_NAME"),
        ("my-host/24", "HOST_NAME"),
        ("http://10.0.0.1/", "HOST_NAME"),
        ("10.0.0", "NOT_AN_ADDRESS"),
        ("１0.0.0.1", "NOT_AN_ADDRESS"),
        ("10.0.0.0∕24", "NOT_AN_ADDRESS"),
        ("10.0.0.0\\24", "NOT_AN_ADDRESS"),
        ("10.0.0.1+10.0.0.2", "NOT_AN_ADDRESS"),
        ("10.0.0/24", "NOT_AN_ADDRESS"),
        ("10/8", "NOT_AN_ADDRESS"),
        ("/24", "NOT_AN_ADDRESS"),
        ("10.0.0.256", "NOT_AN_ADDRESS"),
        ("2001:db8:::1", "NOT_AN_ADDRESS"),
    ] {
        let error = Cidr::parse(text, &Limits::default()).unwrap_err();
        assert_eq!(error.reason(), reason, "{text:?}: {error}");
        let sentence = error.to_string();
        assert!(sentence.contains(&*escape(text.trim())) && sentence.contains(": "), "{sentence}");
        // What is no matter of settings is refused under any.
        let unlimited = Cidr::parse(text, &Limits::NONE);
        let setting = ["10.0.0.0/7", "2001:c00::/23", "::ffff:10.0.0.0/103"].contains(&text);
        assert_eq!(unlimited.is_ok(), setting, "{text:?}: {unlimited:?}");
    }
}

#[test]
fn errors_tell_the_cure() {
    let error = |text: &str| Cidr::parse(text, &Limits::default()).unwrap_err().to_string();
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
        ("2001:c00::/23", "2001:c00::/23 is wider than an IPv6 /24: write narrower ranges"),
        (
            "10.0.0.0/33",
            "10.0.0.0/33 has no valid prefix length: write a number from 1 to 32 after the /",
        ),
        ("1.2.3.4:80", "1.2.3.4:80 has a port: leave it out"),
        ("office", "“office” is a host name: write its IP address"),
        ("Office", "“Office” is a host name: write its IP address"),
        ("api.example.com", "api.example.com is a host name: write its IP address"),
        ("\"192.0.2.7\"", "“\"192.0.2.7\"” has quotation marks: leave them out"),
        ("10.0.0.0/24;", "“10.0.0.0/24;” has the character “;”: separate entries with commas"),
        (
            "1.2.3.4；5.6.7.8",
            "“1.2.3.4；5.6.7.8” has the character “；” (U+FF1B): separate entries with commas",
        ),
        ("192.0.2.7.", "192.0.2.7. has the stray character “.”: leave it out"),
        ("<192.0.2.7>", "“<192.0.2.7>” is in the brackets < and >: leave them out"),
        ("1.2.3.4 # a", "“1.2.3.4 # a” has a comment: leave it out"),
        (
            "1.2.3.4\u{200b}",
            "“1.2.3.4<U+200B>” has the character U+200B, which can't be seen: leave it out, or type \
             the address again",
        ),
        (
            "１.2.3.4",
            "“１.2.3.4” has the character “１” (U+FF11), which no address has: write one such as \
             192.0.2.1 or 2001:db8::1",
        ),
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
        let entry = Cidr::parse(text, &Limits::default()).unwrap_err().to_string();
        for message in [address, entry] {
            assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'), "{message:?}");
            assert!(message.len() < 200, "{message}");
        }
    }
}

/// Rule 3.15.
#[test]
fn an_address_that_stands_for_an_ipv4_address_is_as_wide_as_that() {
    let (contains, wide) = ("CONTAINS_IPV4", "TOO_WIDE");
    for (text, reason) in [
        ("64:ff9b::/96", contains),
        ("64:ff9b::/95", contains),
        ("64:ff9b::/64", contains),
        ("64:ff9b::/47", contains),
        ("64:ff9b::/32", contains),
        ("64:ff9b::/97", wide),
        ("64:ff9b::a00:0/103", wide),
        ("64:ff9b::192.0.0.0/100", wide),
        ("64:ff9b::a00:0/104", ""),
        ("64:ff9b::192.0.2.0/120", ""),
        ("64:ff9b::192.0.2.1", ""),
        ("64:ff9b:1::/48", contains),
        ("64:ff9b:1::/49", wide),
        ("64:ff9b:1:8000::/64", wide),
        ("64:ff9b:1::/96", wide),
        ("64:ff9b:1::a00:0/104", ""),
        ("::ffff:0:0:0/96", contains),
        ("::ffff:0:0:0/80", contains),
        ("::ffff:0:8000:0/97", wide),
        ("::ffff:0:10.0.0.0/104", ""),
        ("::128.0.0.0/97", wide),
        ("::10.0.0.0/104", ""),
        ("::1", ""),
        ("2001::/32", contains),
        ("2001::/24", contains),
        ("2001:0:4136:e378::/64", wide),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ""),
        ("2002::/24", ""),
        ("2002:a00::/24", ""),
        ("2002:c000:204::/48", ""),
    ] {
        let read = Cidr::parse(text, &Limits::default());
        let found = read.as_ref().map_or_else(CidrError::reason, |_| "");
        assert_eq!(found, reason, "{text}: {read:?}");
        // What was stored under an earlier version stays valid, and can be removed.
        assert!(Cidr::parse(text, &Limits::NONE).is_ok(), "{text}");
    }
    let wider = Limits { widest_v4: 4, widest_v6: 1, ..Limits::default() };
    for (text, reason) in [
        ("2002::/16", contains),
        ("2000::/3", contains),
        ("2002:8000::/19", wide),
        ("2002:a000::/20", ""),
        ("64:ff9b::/99", wide),
        ("64:ff9b::a000:0/100", ""),
    ] {
        let read = Cidr::parse(text, &wider);
        assert_eq!(
            read.as_ref().map_or_else(CidrError::reason, |_| ""),
            reason,
            "{text}: {read:?}"
        );
    }
    let error = |text: &str| Cidr::parse(text, &Limits::default()).unwrap_err().to_string();
    assert_eq!(
        error("64:ff9b::/96"),
        "64:ff9b::/96 contains all IPv4 addresses, as 64:ff9b::/96 (NAT64, RFC 6052): write the \
         addresses or narrower ranges that clients really use"
    );
    assert_eq!(
        error("64:ff9b::/97"),
        "64:ff9b::/97 is wider than an IPv4 /8, since 64:ff9b::/96 (NAT64, RFC 6052) stands for all \
         IPv4 addresses: write ranges of /104 or longer"
    );
    // They are not made one: who may come from the one may not come from the other.
    assert!(!entry("192.0.2.1").contains(addr("64:ff9b::192.0.2.1")));
    assert!(!entry("64:ff9b::192.0.2.1").contains(addr("192.0.2.1")));
    assert!(!entry("192.0.2.1").contains(addr("2002:c000:201::")));
}

/// Ranges that large providers publish: Cloudflare, Google, Akamai, Fastly, AWS, Azure.
#[test]
fn published_ranges_are_accepted() {
    for text in [
        "2a06:98c0::/29",
        "2400:cb00::/32",
        "2600:1900::/28",
        "2001:4860::/32",
        "2600:1400::/24",
        "2a02:26f0::/29",
        "2a04:4e40::/32",
        "2600:1ff2:4000::/40",
        "2603:1000::/25",
        "2620:1ec::/36",
        "34.64.0.0/10",
        "104.64.0.0/10",
        "13.0.0.0/8",
    ] {
        assert_eq!(entry(text).to_string(), text);
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
        assert_eq!(Cidr::parse(text, &limits).is_ok(), accepted, "{text}");
    }
    for (text, reason) in [
        ("0.0.0.0/1", "UNSPECIFIED"),
        ("128.0.0.0/1", "MULTICAST"),
        ("8000::/1", "MULTICAST"),
        ("fe00::/7", "MULTICAST"),
    ] {
        assert_eq!(Cidr::parse(text, &Limits::NONE).unwrap_err().reason(), reason, "{text}");
    }
}

/// Rule 3.4.
#[test]
fn lists_are_strings_and_commas_alike() {
    let limits = Limits::default();
    let parsed = parse_entries(["10.0.0.0/8 , 1.2.3.4", "::1", "1.2.3.4/32"], &limits).unwrap();
    assert_eq!(parsed, entries(&["::1", "1.2.3.4", "10.0.0.0/8"]));
    assert_eq!(parse_entries([], &limits), Ok(Vec::new()));
    let errors = parse_entries(["1.2.3.4,,5.6.7.8", "", "::1", "10.0.0.5/24,x"], &limits);
    let errors: Vec<_> = errors.unwrap_err().iter().map(|f| (f.index, f.error.reason())).collect();
    assert_eq!(errors, [(0, "EMPTY"), (1, "EMPTY"), (3, "HOST_BITS"), (3, "HOST_NAME")]);
    let commas = ",".repeat(100_000);
    assert_eq!(parse_entries([commas.as_str()], &limits).unwrap_err().len(), MAX_ERRORS);
}
