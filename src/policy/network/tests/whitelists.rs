//! Whitelists: what matches, and what changes come to.

use super::*;

#[test]
fn the_most_specific_entry_matches() {
    let whitelist = only(&[
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3",
        "10.2.0.0/16",
        "2001:db8::/32",
        "::1",
    ]);
    for (address, matched) in [
        ("10.1.2.3", Some("10.1.2.3")),
        ("::ffff:10.1.2.3", Some("10.1.2.3")),
        ("10.1.2.4", Some("10.1.2.0/24")),
        ("10.1.3.0", Some("10.1.0.0/16")),
        ("10.2.255.255", Some("10.2.0.0/16")),
        ("10.3.0.0", Some("10.0.0.0/8")),
        ("10.255.255.255", Some("10.0.0.0/8")),
        ("11.0.0.0", None),
        ("9.255.255.255", None),
        ("::", None),
        ("::1", Some("::1")),
        ("::10.1.2.3", None),
        ("2001:db8:ffff::", Some("2001:db8::/32")),
        ("2001:db9::", None),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
    ] {
        let found = whitelist.find(addr(address));
        assert_eq!(found, matched.map(entry).as_ref(), "{address}");
        assert_eq!(whitelist.allows(addr(address)), matched.is_some(), "{address}");
    }
    assert!(Whitelist::Unrestricted.allows(addr("::")));
    assert_eq!(Whitelist::Unrestricted.find(addr("::")), None);
}

#[test]
fn a_set_is_never_empty_and_never_too_large() {
    let limits = Limits { max_entries: 2, ..Limits::default() };
    assert_eq!(CidrSet::new(Vec::new(), &limits), Ok(None));
    let set = CidrSet::new(entries(&["1.2.3.4", "1.2.3.4", "::1"]), &limits).unwrap().unwrap();
    assert_eq!((set.len(), set.iter().count()), (2, 2));
    let error = CidrSet::new(entries(&["1.2.3.4", "1.2.3.5", "::1"]), &limits).unwrap_err();
    assert_eq!(error, TooMany { count: 3, max: 2 });
    assert!(size_of::<Cidr>() + size_of::<u32>() <= 32);
}

/// A whitelist of the greatest number of entries. What was quadratic took a minute here.
#[test]
fn the_largest_whitelist_is_changed_and_searched() {
    let limits = Limits { max_entries: Limits::MOST_ENTRIES, ..Limits::default() };
    let addresses = |first: u32| {
        let texts = (0..10_000).map(move |n| std::net::Ipv4Addr::from(first + n).to_string());
        texts.collect::<Vec<_>>()
    };
    let read = |texts: &[String]| parse_entries(texts.iter().map(String::as_str), &limits).unwrap();
    let (old, new) = (read(&addresses(0x0a00_0000)), read(&addresses(0x0b00_0000)));
    let replace =
        |entries: &[Cidr]| Change::Replace { entries: entries.to_vec(), allow_any_address: false };
    let first = apply(&Whitelist::Unrestricted, &replace(&old), true, &limits).unwrap().whitelist;
    assert!(first.allows(addr("10.0.0.0")) && first.allows(addr("10.0.39.15")));
    assert!(!first.allows(addr("10.0.39.16")));
    let second = apply(&first, &replace(&new), true, &limits).unwrap();
    assert_eq!((second.still_covered_by.len(), second.whitelist.entries().len()), (0, 10_000));
    let wider = Change::Edit { add: entries(&["10.0.0.0/8"]), remove: old };
    let covered = apply(&first, &wider, true, &limits).unwrap().still_covered_by;
    assert_eq!(covered, entries(&["10.0.0.0/8"]));
    let one_more = Change::Edit { add: entries(&["192.0.2.1"]), remove: Vec::new() };
    let error = apply(&first, &one_more, true, &limits).unwrap_err().to_string();
    assert!(error.contains("10001 entries, and 10000 are allowed"), "{error}");
    assert!(error.contains("--whitelist-max-entries"), "{error}");
}

fn edit(add: &[&str], remove: &[&str]) -> Change {
    Change::Edit { add: entries(add), remove: entries(remove) }
}

fn replace(with: &[&str], allow_any_address: bool) -> Change {
    Change::Replace { entries: entries(with), allow_any_address }
}

#[test]
fn changes() {
    use ChangeError::*;
    use Whitelist::Unrestricted;
    let ok = |whitelist: Whitelist, covered: &[&str], changed| {
        Ok(Changed { whitelist, still_covered_by: entries(covered), changed })
    };
    let ab = || only(&["1.1.1.1", "2.2.2.2"]);
    let nested = || only(&["10.0.0.0/8", "10.1.0.0/16", "10.1.1.1", "11.0.0.0/8"]);
    let (no, yes) = (false, true);
    for (current, change, required, result) in [
        (ab(), edit(&["3.3.3.3"], &[]), no, ok(only(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]), &[], yes)),
        (ab(), edit(&["1.1.1.1"], &[]), yes, ok(ab(), &[], no)),
        (ab(), edit(&[], &["1.1.1.1", "1.1.1.1"]), yes, ok(only(&["2.2.2.2"]), &[], yes)),
        (ab(), edit(&["3.3.3.3"], &["1.1.1.1", "2.2.2.2"]), yes, ok(only(&["3.3.3.3"]), &[], yes)),
        (ab(), edit(&[], &["3.3.3.3"]), no, Err(NotPresent(entries(&["3.3.3.3"])))),
        (
            ab(),
            edit(&[], &["1.1.1.1", "1.1.1.0/24"]),
            no,
            Err(NotPresent(entries(&["1.1.1.0/24"]))),
        ),
        (
            ab(),
            edit(&["1.1.1.1"], &["1.1.1.1"]),
            no,
            Err(SameEntryAddedAndRemoved(entries(&["1.1.1.1"]))),
        ),
        (ab(), edit(&[], &["1.1.1.1", "2.2.2.2"]), no, Err(WouldRemoveLast)),
        (ab(), edit(&[], &["1.1.1.1", "2.2.2.2"]), yes, Err(Required)),
        (ab(), edit(&[], &[]), yes, ok(ab(), &[], no)),
        (Unrestricted, edit(&[], &["1.1.1.1"]), no, Err(NotPresent(entries(&["1.1.1.1"])))),
        (Unrestricted, edit(&["1.1.1.1"], &[]), yes, ok(only(&["1.1.1.1"]), &[], yes)),
        (Unrestricted, edit(&[], &[]), no, ok(Unrestricted, &[], no)),
        (Unrestricted, edit(&[], &[]), yes, Err(Required)),
        (ab(), replace(&["2.2.2.2", "1.1.1.1"], no), yes, ok(ab(), &[], no)),
        (ab(), replace(&["3.3.3.3"], no), yes, ok(only(&["3.3.3.3"]), &[], yes)),
        (ab(), replace(&[], no), no, Err(EmptyReplace)),
        (ab(), replace(&[], no), yes, Err(Required)),
        (ab(), replace(&[], yes), yes, Err(Required)),
        (Unrestricted, replace(&[], yes), yes, Err(Required)),
        (ab(), replace(&[], yes), no, ok(Unrestricted, &[], yes)),
        (Unrestricted, replace(&[], yes), no, ok(Unrestricted, &[], no)),
        (ab(), replace(&["1.1.1.1"], yes), no, Err(ReplaceNotEmptyWithAllowAny)),
        (
            nested(),
            edit(&[], &["10.1.0.0/16"]),
            no,
            ok(only(&["10.0.0.0/8", "10.1.1.1", "11.0.0.0/8"]), &["10.0.0.0/8", "10.1.1.1"], yes),
        ),
        (
            nested(),
            replace(&["10.1.0.0/16"], no),
            no,
            ok(only(&["10.1.0.0/16"]), &["10.1.0.0/16"], yes),
        ),
        (
            nested(),
            edit(&["10.5.0.0/16"], &["11.0.0.0/8"]),
            no,
            ok(only(&["10.0.0.0/8", "10.1.0.0/16", "10.1.1.1", "10.5.0.0/16"]), &[], yes),
        ),
    ] {
        let got = apply(&current, &change, required, &Limits::default());
        assert_eq!(got, result, "{current:?} {change:?} {required}");
        if let Err(error) = got {
            assert!(error.to_string().contains(": "), "{error}");
        }
    }
}

#[test]
fn a_lowered_limit_refuses_growth_but_never_narrowing() {
    let limits = Limits { max_entries: 1, ..Limits::default() };
    let current = only(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]);
    assert!(apply(&current, &edit(&[], &["1.1.1.1"]), true, &limits).is_ok());
    assert!(apply(&current, &replace(&["1.1.1.1", "2.2.2.2"], false), true, &limits).is_ok());
    let too_many = Err(ChangeError::TooMany(TooMany { count: 3, max: 1 }));
    assert_eq!(apply(&current, &edit(&["4.4.4.4"], &["1.1.1.1"]), true, &limits), too_many);
    let many: Vec<String> = (1..=101).map(|n| format!("1.1.1.{n}")).collect();
    let many = parse_entries(many.iter().map(String::as_str), &limits).unwrap();
    let change = Change::Edit { add: many.clone(), remove: Vec::new() };
    let error = apply(&Whitelist::Unrestricted, &change, true, &Limits::default());
    assert_eq!(error, Err(ChangeError::TooMany(TooMany { count: 101, max: 100 })));
    let error = ChangeError::NotPresent(many).to_string();
    assert!(error.contains("1.1.1.10 and 91 more: "), "{error}");
}
