//! Successors by the rules, each by itself.

use uuid::Uuid;

use super::*;
use crate::policy::catalog_file;
use crate::policy::id::PendingActionId;
use crate::policy::lifecycle::Settings;

fn day(n: i64) -> Timestamp {
    Timestamp(n * DAY.as_micros() as i64)
}

/// Of the scopes 1 to 4, of which 3 and 4 are writes.
fn catalog() -> Catalog {
    let scope = |(name, access)| format!("[[scope]]\nname = \"{name}\"\naccess = \"{access}\"\n");
    let toml: String =
        [("a", "read"), ("b", "read"), ("c", "write"), ("d", "write")].map(scope).concat();
    let mut ids = (1..).map(ScopeId);
    Catalog::new(1, catalog_file::parse(&toml).unwrap(), |_| ids.next().unwrap())
}

fn ids(ids: &[u16]) -> Vec<ScopeId> {
    ids.iter().copied().map(ScopeId).collect()
}

fn custom(granted: &[u16], taken: &[u16]) -> Grant {
    let set = |of: &[u16]| of.iter().copied().map(ScopeId).collect();
    Grant::Custom { granted: set(granted), taken: set(taken) }
}

/// Rule 11.30 of docs/policy.md.
#[test]
fn what_has_ended_or_has_a_successor_is_not_replaced() {
    let successor = TokenId(Uuid::from_u128(9));
    let at = |n| Expiry::from(Some(day(n)));
    let deleted = TokenState::Deleted { at: day(1) };
    let unused = TokenState::DeletedUnused { at: day(1) };
    let leaked = TokenState::RevokedLeaked { at: day(1) };
    for (what, state, expiry, replaced_by, wanted) in [
        ("active", TokenState::Active, Expiry::NEVER, None, Ok(())),
        ("before its expiry", TokenState::Active, at(6), None, Ok(())),
        ("deleted", deleted, Expiry::NEVER, None, Err(ReplacementRefused::Deleted)),
        ("unused", unused, Expiry::NEVER, None, Err(ReplacementRefused::Deleted)),
        ("leaked", leaked, Expiry::NEVER, None, Err(ReplacementRefused::Leaked)),
        ("expired", TokenState::Active, at(5), None, Err(ReplacementRefused::Expired(day(5)))),
        (
            "replaced, in the overlap",
            TokenState::Active,
            at(6),
            Some(successor),
            Err(ReplacementRefused::Replaced(successor)),
        ),
        (
            "replaced, without an overlap",
            TokenState::Active,
            at(5),
            Some(successor),
            Err(ReplacementRefused::Replaced(successor)),
        ),
    ] {
        assert_eq!(check(state, expiry, replaced_by, day(5)), wanted, "{what}");
    }
}

/// Rule 11.31 of docs/policy.md.
#[test]
fn a_successor_may_do_what_the_old_token_may_do_now_and_no_more() {
    let refused = |of: &[u16]| Err(ReplacementRefused::NotGranted(ids(of)));
    let downgraded = Grant::ReadOnly { downgraded: true };
    for (what, grant, scopes, wanted) in [
        ("the same", custom(&[1, 3], &[]), &[][..], Ok(custom(&[1, 3], &[]))),
        ("what was taken stays away", custom(&[1], &[3]), &[], Ok(custom(&[1], &[]))),
        ("read write", Grant::ReadWrite, &[], Ok(Grant::ReadWrite)),
        ("downgraded", downgraded.clone(), &[], Ok(Grant::ReadOnly { downgraded: false })),
        ("less", custom(&[1, 3], &[]), &[3], Ok(custom(&[3], &[]))),
        ("less of everything", Grant::ReadWrite, &[1, 4], Ok(custom(&[1, 4], &[]))),
        ("never had", custom(&[1], &[]), &[1, 2, 4], refused(&[2, 4])),
        ("taken", custom(&[1], &[3]), &[3], refused(&[3])),
        ("writes that a downgrade took", downgraded, &[1, 3], refused(&[3])),
        ("not in the catalogue", custom(&[1, 9], &[]), &[9], refused(&[9])),
        ("nothing", custom(&[], &[1]), &[], Err(ReplacementRefused::NothingLeft)),
    ] {
        assert_eq!(successor_grant(&grant, &ids(scopes), &catalog()), wanted, "{what}");
    }
}

/// Rule 11.32 of docs/policy.md.
#[test]
fn a_successor_ends_no_later_than_the_old_token_unless_lifetimes_are_bounded() {
    use SuccessorExpiryRefused as Refused;
    let at = |n| RequestedExpiry::At(day(n));
    let longest = Some(10 * DAY);
    for (what, old, requested, longest, wanted) in [
        ("as before", Some(20), None, None, Ok(Some(20))),
        ("never", None, None, None, Ok(None)),
        ("earlier", Some(20), Some(at(15)), None, Ok(Some(15))),
        ("the first", None, Some(at(90)), None, Ok(Some(90))),
        ("later", Some(20), Some(at(21)), None, Err(Refused::AfterOld(day(20)))),
        ("past", Some(20), Some(at(5)), None, Err(Refused::Past)),
        ("bounded, not asked", Some(8), None, longest, Ok(Some(8))),
        ("bounded, longer before", Some(90), None, longest, Ok(Some(15))),
        ("bounded, without one before", None, None, longest, Ok(Some(15))),
        ("bounded and asked", Some(8), Some(at(15)), longest, Ok(Some(15))),
        ("beyond", Some(90), Some(at(16)), longest, Err(Refused::AfterLongest(day(15)))),
        ("a length", Some(20), Some(RequestedExpiry::After(2 * DAY)), None, Ok(Some(7))),
    ] {
        let found = successor_expiry(old.map(day).into(), requested, longest, day(5));
        assert_eq!(found.map(Expiry::time), wanted.map(|at| at.map(day)), "{what}");
    }
}

fn action(takes: ActionEffect, basis: i64, accepted: Option<i64>) -> LiveAction {
    let id = PendingActionId(Uuid::nil());
    LiveAction { id, takes, basis: day(basis), accepted: accepted.map(day) }
}

/// Rules 11.33 and 11.35 of docs/policy.md.
#[test]
fn the_old_token_ends_after_the_overlap_or_before() {
    let now = day(50);
    let enforce = Settings::default();
    let observe = Settings::new(Mode::Observe, enforce.window(), enforce.notice()).unwrap();
    // Takes effect on day 52.
    let soon = || action(ActionEffect::Scopes(ids(&[1])), 1, Some(45));
    let overdue = || action(ActionEffect::Scopes(ids(&[1])), 1, Some(40));
    for (what, old, overlap, left_out, settings, wanted) in [
        ("the overlap", None, 1, vec![], enforce, 51),
        ("none", None, 0, vec![], enforce, 50),
        ("its own expiry", Some(53), 30, vec![], enforce, 53),
        ("what is left out", None, 30, vec![soon()], enforce, 52),
        ("the overlap is shorter", None, 1, vec![soon()], enforce, 51),
        ("what is overdue", None, 1, vec![overdue()], enforce, 50),
        ("nothing is taken", None, 30, vec![soon()], observe, 80),
    ] {
        let calendar = Calendar { settings, now };
        let end = old_expiry(old.map(day).into(), overlap * DAY, &left_out, &calendar);
        assert_eq!(end.time(), Some(day(wanted)), "{what}");
    }
}

/// Rule 11.35 of docs/policy.md.
#[test]
fn what_is_announced_takes_from_the_successor_what_it_has_of_it() {
    let scopes = |of: &[u16]| ActionEffect::Scopes(ids(of));
    for (what, takes, named, successor, left, whole) in [
        (
            "a deletion",
            ActionEffect::Token,
            &[1, 3][..],
            custom(&[1], &[]),
            Some(ActionEffect::Token),
            true,
        ),
        (
            "writes",
            ActionEffect::Writes,
            &[3, 4],
            Grant::ReadWrite,
            Some(ActionEffect::Writes),
            true,
        ),
        (
            "some writes",
            ActionEffect::Writes,
            &[3, 4],
            custom(&[1, 3], &[]),
            Some(scopes(&[3])),
            false,
        ),
        (
            "all writes",
            ActionEffect::Writes,
            &[3, 4],
            custom(&[3, 4], &[]),
            Some(scopes(&[3, 4])),
            false,
        ),
        ("scopes", scopes(&[1, 3]), &[1, 3], custom(&[1, 2, 3], &[]), Some(scopes(&[1, 3])), true),
        ("some scopes", scopes(&[1, 3]), &[1, 3], custom(&[2, 3], &[]), Some(scopes(&[3])), false),
        ("nothing", scopes(&[1, 3]), &[1, 3], custom(&[2], &[]), None, false),
    ] {
        let found = moved(&takes, &ids(named), &successor);
        assert_eq!(found, Moved { takes: left, whole }, "{what}");
    }
}

/// Rule 11.38 of docs/policy.md.
#[test]
fn a_proposal_has_what_was_used_within_the_window() {
    let mut uses = Uses::default();
    uses.note(ScopeId(1), false, day(56));
    uses.note(ScopeId(3), true, day(55));
    uses.note(ScopeId(4), true, day(90));
    let calendar = Calendar { settings: Settings::default(), now: day(100) };
    for (grant, used, unused) in [
        (Grant::ReadWrite, &[1, 4][..], &[2, 3][..]),
        (Grant::ReadOnly { downgraded: true }, &[1], &[2]),
        (custom(&[2, 4], &[1]), &[4], &[2]),
    ] {
        let found = used_and_unused(&grant, &uses, &catalog(), &calendar);
        assert_eq!(found, (ids(used), ids(unused)), "{grant:?}");
    }
}
