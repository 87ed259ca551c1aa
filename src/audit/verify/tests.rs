//! Each kind of fault, at each place of a small export, and at some of one with 100,000 events.

use std::fmt::Write as _;

use super::*;

const INSTALLATION: &str = "0192f0c1-7e35-7a51-8d0c-5b1f7e6a9c3d";

/// The lines of an export of as many events.
fn export(events: i64) -> Vec<String> {
    let mut point = ChainPoint::genesis(INSTALLATION);
    let mut lines = vec![json(&Begin::new(INSTALLATION.to_owned(), point))];
    for revision in 1..=events {
        let mut event = EventLine {
            revision,
            time: format!("2026-01-31T12:00:{:02}.{revision:06}Z", revision % 60),
            action: "token.update".to_owned(),
            actor: "crd_0000000000000000000001".to_owned(),
            actor_role: "operator".to_owned(),
            client_address: "192.0.2.7".to_owned(),
            account_id: "acc_0000000000000000000001".to_owned(),
            token_id: String::new(),
            before_json: "{\"name\":\"Zürich \\\"1\\\"\"}".to_owned(),
            after_json: format!("{{\"name\":\"{revision}\"}}"),
            hash: point.hash,
        };
        event.hash = event.fields().hash(&point.hash);
        point = event.point();
        lines.push(json(&event));
    }
    lines.push(json(&End { head: point, last: point }));
    lines
}

fn json(line: &impl serde::Serialize) -> String {
    serde_json::to_string(line).unwrap()
}

fn check(lines: &[String]) -> Result<Report, Fault> {
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{line}").unwrap();
    }
    check_bytes(text.as_bytes())
}

fn check_bytes(bytes: &[u8]) -> Result<Report, Fault> {
    verify(bytes, &BTreeSet::new(), true).unwrap()
}

#[test]
fn a_sound_export_says_how_far_it_goes() {
    let report = check(&export(9)).unwrap();
    assert_eq!((report.events, report.begin.revision, report.last.revision), (9, 0, 9));
    assert_eq!(report.head, Some(report.last));
    assert_eq!(check(&export(0)).unwrap().events, 0);
}

#[test]
fn each_flipped_bit_of_an_export_is_found() {
    let text = export(3).join("\n") + "\n";
    let sound = check_bytes(text.as_bytes()).unwrap();
    for at in 0..text.len() - 1 {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let found = check_bytes(&bytes);
            let before = text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
            let line = before as u64 + 1;
            let fault = found.expect_err(&format!("bit {bit} of byte {at}: {sound:?}"));
            // Where the first line names another beginning, it is the first event that does not follow from it.
            let found = fault.line == line || line == 1 && fault.line == 2;
            assert!(found, "bit {bit} of byte {at}: {fault}");
        }
    }
}

#[test]
fn each_removed_line_is_found() {
    let sound = export(6);
    for at in 0..sound.len() {
        let mut lines = sound.clone();
        lines.remove(at);
        let fault = check(&lines).unwrap_err();
        let revision = at as i64;
        match at {
            0 => assert_eq!(fault.line, 1),
            6 | 7 => {
                assert_eq!((fault.line, fault.kind), (7 + (at as u64 - 6), FaultKind::Truncated))
            }
            _ => assert_eq!(
                (fault.line, fault.kind),
                (at as u64 + 1, FaultKind::Removed(revision, revision))
            ),
        }
    }
}

#[test]
fn each_swapped_and_each_inserted_line_is_found() {
    let sound = export(6);
    for at in 1..6 {
        for with in at + 1..7 {
            let mut lines = sound.clone();
            lines.swap(at, with);
            let fault = check(&lines).unwrap_err();
            let swapped = FaultKind::Swapped(at as i64, with as u64 + 1);
            assert_eq!(fault, Fault { line: at as u64 + 1, kind: swapped });
        }
        let mut lines = sound.clone();
        lines.insert(at + 1, sound[at].clone());
        let repeated = FaultKind::Repeated(at as i64);
        assert_eq!(check(&lines).unwrap_err(), Fault { line: at as u64 + 2, kind: repeated });

        let mut forged: EventLine = serde_json::from_str(&sound[at]).unwrap();
        forged.action = "token.delete".to_owned();
        let mut lines = sound.clone();
        lines.insert(at, json(&forged));
        let inserted = FaultKind::Inserted(at as i64, at as u64 + 2);
        assert_eq!(check(&lines).unwrap_err(), Fault { line: at as u64 + 1, kind: inserted });
    }
    let mut lines = sound.clone();
    lines.push(sound[7].clone());
    assert_eq!(check(&lines).unwrap_err(), Fault { line: 9, kind: FaultKind::AfterEnd });
}

/// A generator of numbers that gives the same ones each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn one_fault_anywhere_in_100_000_events_is_found() {
    // That the fault is found where it is says that all before it is sound.
    let sound = export(100_000);
    let mut random = Random(7);
    let at = 90_000 + random.below(9_999);
    let line = at as u64 + 1;
    let mut lines = sound.clone();
    let mut bytes = std::mem::take(&mut lines[at]).into_bytes();
    // Not the highest bit, so that it stays a text.
    let byte = random.below(bytes.len());
    bytes[byte] ^= 1 << random.below(7);
    lines[at] = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(check(&lines).unwrap_err().line, line, "byte {byte} of line {line}");

    let at = 1 + random.below(50_000);
    let line = at as u64 + 1;
    let mut lines = sound.clone();
    lines.remove(at);
    let removed = FaultKind::Removed(at as i64, at as i64);
    assert_eq!(check(&lines).unwrap_err(), Fault { line, kind: removed });

    let at = 1 + random.below(50_000);
    let line = at as u64 + 1;
    let mut lines = sound;
    lines.swap(at, at + 1);
    let swapped = FaultKind::Swapped(at as i64, line + 1);
    assert_eq!(check(&lines).unwrap_err(), Fault { line, kind: swapped });
}

#[test]
fn a_recomputed_or_cut_chain_is_found_by_an_earlier_point() {
    let report = |lines: &[String]| {
        let revisions = BTreeSet::from([4]);
        verify(lines.join("\n").as_bytes(), &revisions, true).unwrap().unwrap()
    };
    let earlier = check(&export(4)).unwrap().head.unwrap();
    assert_eq!(report(&export(9)).confirms(&earlier), Ok(()));
    assert_eq!(report(&export(3)).confirms(&earlier), Err(AnchorFault::Shorter(4, 3)));
    let other = ChainPoint { hash: ChainHash::genesis("another"), ..earlier };
    assert_eq!(report(&export(9)).confirms(&other), Err(AnchorFault::Different(4)));
    assert_eq!(report(&export(4)).confirms(&other), Err(AnchorFault::Different(4)));

    // What is left of a pruned chain begins after revision 5.
    let whole = export(9);
    let fifth: EventLine = serde_json::from_str(&whole[5]).unwrap();
    let mut pruned = vec![json(&Begin::new(INSTALLATION.to_owned(), fifth.point()))];
    pruned.extend_from_slice(&whole[6..]);
    assert_eq!(report(&pruned).confirms(&earlier), Err(AnchorFault::NotCovered(4)));
    assert_eq!(report(&pruned).confirms(&fifth.point()), Ok(()));
    assert_eq!(report(&pruned).pruned_by, None);
}

#[test]
fn a_file_that_goes_on_needs_no_last_line_where_that_is_allowed() {
    let mut lines = export(3);
    lines.pop();
    let text = lines.join("\n");
    let report = verify(text.as_bytes(), &BTreeSet::new(), false).unwrap().unwrap();
    assert_eq!((report.events, report.head), (3, None));
    assert_eq!(check(&lines).unwrap_err(), Fault { line: 5, kind: FaultKind::Truncated });
}
