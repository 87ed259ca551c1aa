//! The lifecycle in tables, and what holds of any history.

use proptest::prelude::*;

use super::*;
use crate::policy::catalog_file;
use crate::policy::scope::ScopeSet;

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

fn day(n: i64) -> Timestamp {
    Timestamp(n * DAY)
}

fn custom(granted: &[u16]) -> Grant {
    let granted = granted.iter().copied().map(ScopeId).collect();
    Grant::Custom { granted, taken: ScopeSet::default() }
}

fn scopes(ids: &[u16]) -> ActionEffect {
    ActionEffect::Scopes(ids.iter().copied().map(ScopeId).collect())
}

fn announced(takes: ActionEffect, basis: i64) -> PendingPlan {
    PendingPlan { takes, basis: day(basis) }
}

/// Created on day 0; `used` are (scope, whether it writes, day).
fn usage_state(grant: Grant, used: &[(u16, bool, i64)], announced: &[PendingPlan]) -> UsageState {
    let mut uses = Uses::default();
    for &(id, write, on) in used {
        uses.note(ScopeId(id), write, day(on));
    }
    UsageState { grant, created: day(0), uses, announced: announced.to_vec() }
}

#[test]
fn settings_make_sense() {
    let settings = |window, notice| {
        Settings::new(Mode::Enforce, Duration::from_micros(window), Duration::from_micros(notice))
    };
    assert!(settings(2, 1).is_ok());
    for (window, notice) in [(1, 1), (1, 2), (1, 0), (0, 0)] {
        assert_eq!(settings(window, notice), Err(InvalidSettings), "{window} {notice}");
    }
    let below_a_microsecond =
        Settings::new(Mode::Enforce, Duration::MAX, Duration::from_nanos(999));
    assert_eq!(below_a_microsecond, Err(InvalidSettings));
    assert!(Settings::new(Mode::Enforce, Duration::MAX, Duration::from_secs(1)).is_err());
    let default = Settings::default();
    assert_eq!(Settings::new(default.mode, default.window(), default.notice()), Ok(default));
    assert_eq!(default.idle_before(day(38)), day(0));
}

#[test]
fn only_what_was_named_is_taken() {
    // Reads one scope, and writes those.
    let catalog = |writes: &[u16]| {
        let names = ["a", "b", "c", "d"];
        let access = |id| if writes.contains(&id) { "write" } else { "read" };
        let scope = |id: u16| {
            format!(
                "[[scope]]\nname = \"{}\"\naccess = \"{}\"\n",
                names[usize::from(id)],
                access(id)
            )
        };
        let toml: String = [0].iter().chain(writes).map(|&id| scope(id)).collect();
        let defs = catalog_file::parse(&toml).unwrap();
        let id = |name: &str| names.iter().position(|&known| known == name).unwrap() as u16;
        Catalog::new(1, defs, |name| ScopeId(id(name.as_str())))
    };
    let ids = |ids: &[u16]| ids.iter().copied().map(ScopeId).collect::<Vec<_>>();
    let read_only = Grant::ReadOnly { downgraded: false };
    for (what, takes, grant, writes, taken) in [
        ("as it was", ActionEffect::Writes, Grant::ReadWrite, &[1, 2][..], Some(&[1, 2][..])),
        ("one is gone", ActionEffect::Writes, Grant::ReadWrite, &[1], Some(&[1])),
        ("one is new", ActionEffect::Writes, Grant::ReadWrite, &[1, 2, 3], None),
        ("none is left", ActionEffect::Writes, Grant::ReadWrite, &[], None),
        ("downgraded already", ActionEffect::Writes, read_only, &[1, 2], None),
        ("custom", scopes(&[1, 2]), custom(&[0, 1, 2]), &[1, 2], Some(&[1, 2])),
        ("custom, whatever it is", scopes(&[1, 2]), custom(&[0, 1, 2]), &[3], Some(&[1, 2])),
        ("taken already", scopes(&[1, 2]), custom(&[0, 1]), &[1, 2], None),
        ("the token", ActionEffect::Token, Grant::ReadWrite, &[3], Some(&[1, 2])),
    ] {
        let found = takes.as_named(&ids(&[1, 2]), &grant, &catalog(writes));
        assert_eq!(found, taken.map(ids), "{what}");
    }
}

#[test]
fn what_is_due_when() {
    let read_only = || Grant::ReadOnly { downgraded: false };
    let read_write = || Grant::ReadWrite;
    let both = || custom(&[1, 2]);
    let cases = [
        ("never used, a day early", usage_state(read_only(), &[], &[]), 37, None),
        ("never used", usage_state(read_only(), &[], &[]), 38, Some((ActionEffect::Token, 0))),
        ("used", usage_state(read_only(), &[(1, false, 10)], &[]), 47, None),
        (
            "unused",
            usage_state(read_only(), &[(1, false, 10)], &[]),
            48,
            Some((ActionEffect::Token, 10)),
        ),
        (
            "the deletion is announced",
            usage_state(read_only(), &[], &[announced(ActionEffect::Token, 0)]),
            400,
            None,
        ),
        (
            "read alone",
            usage_state(read_write(), &[(1, false, 30)], &[]),
            38,
            Some((ActionEffect::Writes, 0)),
        ),
        ("written", usage_state(read_write(), &[(1, true, 5)], &[]), 42, None),
        (
            "unused, both due",
            usage_state(read_write(), &[(1, true, 5)], &[]),
            43,
            Some((ActionEffect::Token, 5)),
        ),
        (
            "the downgrade is announced, the deletion comes later",
            usage_state(read_write(), &[(1, false, 10)], &[announced(ActionEffect::Writes, 0)]),
            47,
            None,
        ),
        (
            "and then",
            usage_state(read_write(), &[(1, false, 10)], &[announced(ActionEffect::Writes, 0)]),
            48,
            Some((ActionEffect::Token, 10)),
        ),
        (
            "no downgrade beside a deletion",
            usage_state(read_write(), &[(1, false, 10)], &[announced(ActionEffect::Token, 10)]),
            400,
            None,
        ),
        (
            "a custom token, unused",
            usage_state(both(), &[], &[]),
            38,
            Some((ActionEffect::Token, 0)),
        ),
        ("one scope used", usage_state(both(), &[(1, false, 9)], &[]), 38, Some((scopes(&[2]), 0))),
        (
            "two scopes unused since different days are one action, with the newer basis",
            usage_state(custom(&[1, 2, 3]), &[(1, false, 30), (2, true, 1)], &[]),
            39,
            Some((scopes(&[2, 3]), 1)),
        ),
        (
            "a scope that falls idle later has its own",
            usage_state(
                custom(&[1, 2, 3]),
                &[(1, false, 30), (2, true, 1)],
                &[announced(scopes(&[3]), 0)],
            ),
            39,
            Some((scopes(&[2]), 1)),
        ),
        (
            "the deletion comes even with every other scope announced",
            usage_state(both(), &[(1, false, 9)], &[announced(scopes(&[2]), 0)]),
            47,
            Some((ActionEffect::Token, 9)),
        ),
    ];
    for (what, usage_state, at, wanted) in cases {
        let due = usage_state.due(&Settings::default(), day(at));
        let wanted = wanted.map(|(takes, basis)| Planned { takes, basis: day(basis) });
        assert_eq!(due, wanted, "{what}");
    }
}

#[test]
fn what_use_makes_of_an_announcement() {
    let usage_state = |used: &[(u16, bool, i64)]| usage_state(custom(&[1, 2]), used, &[]);
    let left = |ids: &[u16]| Superseded::Shrunk(ids.iter().copied().map(ScopeId).collect());
    let cases = [
        (&[][..], announced(ActionEffect::Token, 5), Superseded::No),
        (&[(1, false, 5)][..], announced(ActionEffect::Token, 5), Superseded::No),
        (&[(1, false, 6)][..], announced(ActionEffect::Token, 5), Superseded::Cancelled),
        (&[(1, false, 6)][..], announced(ActionEffect::Writes, 5), Superseded::No),
        (&[(1, true, 6)][..], announced(ActionEffect::Writes, 5), Superseded::Cancelled),
        (&[(9, true, 6)][..], announced(scopes(&[1, 2]), 5), Superseded::No),
        (&[(1, true, 6)][..], announced(scopes(&[1, 2]), 5), left(&[2])),
        (&[(1, true, 6), (2, true, 7)][..], announced(scopes(&[1, 2]), 5), Superseded::Cancelled),
    ];
    for (used, action, wanted) in cases {
        assert_eq!(usage_state(used).overtaken(&action), wanted, "{used:?} {action:?}");
    }
}

#[test]
fn a_use_fits_what_it_would_lose() {
    let toml = "\
        [[scope]]\nname = \"r\"\naccess = \"read\"\nrequires_whitelist = false\n\
        [[scope]]\nname = \"w\"\naccess = \"write\"\nrequires_whitelist = false\n";
    let mut ids = (1..).map(ScopeId);
    let defs = catalog_file::parse(toml).unwrap();
    let catalog = Catalog::new(1, defs, |_| ids.next().unwrap());
    let (read, write) = (catalog.by_name("r").unwrap(), catalog.by_name("w").unwrap());
    for (takes, by_read, by_write) in [
        (ActionEffect::Token, true, true),
        (ActionEffect::Writes, false, true),
        (scopes(&[1, 9]), true, false),
        (scopes(&[9]), false, false),
    ] {
        assert_eq!(
            (takes.is_cancelled_by(read), takes.is_cancelled_by(write)),
            (by_read, by_write),
            "{takes:?}"
        );
    }
    // What was used while it was a read scope is a write by now, and the other way round.
    let mut uses = Uses::default();
    uses.note(read.id, false, day(7));
    assert_eq!(uses.last_write_in(&catalog), None);
    uses.note(read.id, true, day(3));
    assert_eq!(uses.last_write_in(&catalog), Some(day(3)));
    uses.note(write.id, false, day(5));
    assert_eq!(uses.last_write_in(&catalog), Some(day(5)));
}

#[test]
fn a_date_needs_every_acceptance() {
    let settings = Settings::default();
    let cases = [
        // Basis, accepted, now; effective; whether it may be carried out.
        (0, None, 38, 45, false),
        (0, None, 60, 67, false),
        (0, Some(38), 44, 45, false),
        (0, Some(38), 45, 45, true),
        (0, Some(40), 46, 47, false),
        (0, Some(40), 47, 47, true),
        (10, Some(40), 54, 55, false),
    ];
    for (basis, accepted, now, wanted, may) in cases {
        let (basis, accepted, now) = (day(basis), accepted.map(day), day(now));
        assert_eq!(effective(&settings, basis, accepted, now), day(wanted));
        assert_eq!(may_carry_out(&settings, basis, accepted, now), may);
    }
}

#[test]
fn a_forecast_tells_everything_to_the_end() {
    let settings = Settings::default();
    let forecast = |takes, basis, notice_at, effective| Forecast {
        takes,
        basis: day(basis),
        notice_at: day(notice_at),
        effective: day(effective),
    };
    let token = usage_state(custom(&[1, 2, 3]), &[(1, false, 30), (2, true, 1)], &[]);
    assert_eq!(
        token.forecast(&settings, day(31)),
        [
            forecast(scopes(&[3]), 0, 38, 45),
            forecast(scopes(&[2]), 1, 39, 46),
            forecast(ActionEffect::Token, 30, 68, 75),
        ]
    );
    // Late: one notice for all that is due, with its whole period.
    assert_eq!(
        token.forecast(&settings, day(60)),
        [forecast(scopes(&[2, 3]), 1, 60, 67), forecast(ActionEffect::Token, 30, 68, 75)]
    );
    let token = usage_state(Grant::ReadWrite, &[(1, false, 2)], &[]);
    assert_eq!(token.forecast(&settings, day(90)), [forecast(ActionEffect::Token, 2, 90, 97)]);
}

fn grants() -> impl Strategy<Value = Grant> {
    prop_oneof![
        any::<bool>().prop_map(|downgraded| Grant::ReadOnly { downgraded }),
        Just(Grant::ReadWrite),
        prop::collection::vec(0u16..6, 1..6).prop_map(|ids| custom(&ids)),
    ]
}

fn uses() -> impl Strategy<Value = Vec<(u16, bool, i64)>> {
    prop::collection::vec((0u16..6, any::<bool>(), 0i64..100), 0..8)
}

fn actions() -> impl Strategy<Value = Vec<PendingPlan>> {
    let takes = prop_oneof![
        Just(ActionEffect::Token),
        Just(ActionEffect::Writes),
        prop::collection::btree_set(0u16..6, 1..4)
            .prop_map(|ids| ActionEffect::Scopes(ids.into_iter().map(ScopeId).collect())),
    ];
    prop::collection::vec((takes, 0i64..100), 0..3).prop_map(|actions| {
        actions.into_iter().map(|(takes, basis)| announced(takes, basis)).collect()
    })
}

fn usage_states() -> impl Strategy<Value = UsageState> {
    (grants(), uses(), actions())
        .prop_map(|(grant, used, announced)| usage_state(grant, &used, &announced))
}

fn all_settings() -> impl Strategy<Value = Settings> {
    (1u64..50, 1u64..50).prop_map(|(notice, more)| {
        let days = |n| Duration::from_secs(n * 24 * 60 * 60);
        Settings::new(Mode::Enforce, days(notice + more), days(notice)).unwrap()
    })
}

proptest! {
    #[test]
    fn something_is_due_exactly_when_something_is_idle(
        usage_state in usage_states(), settings in all_settings(), now in 0i64..300,
    ) {
        let now = day(now);
        let idle = usage_state.idle_since().is_some_and(|since| since <= settings.idle_before(now));
        prop_assert_eq!(usage_state.due(&settings, now).is_some(), idle);
    }

    #[test]
    fn a_plan_that_was_applied_is_empty(
        usage_state in usage_states(), settings in all_settings(), now in 0i64..300,
    ) {
        let mut usage_state = usage_state;
        if let Some(Planned { takes, basis }) = usage_state.due(&settings, day(now)) {
            let action = PendingPlan { takes, basis };
            prop_assert_eq!(usage_state.overtaken(&action), Superseded::No);
            usage_state.announced.push(action);
        }
        prop_assert_eq!(usage_state.due(&settings, day(now)), None);
    }

    #[test]
    fn the_notice_precedes_the_action_by_the_whole_period(
        usage_state in usage_states(), settings in all_settings(), now in 0i64..300, late in 0i64..100,
    ) {
        if let Some(planned) = usage_state.due(&settings, day(now)) {
            prop_assert!(planned.basis.plus(settings.window() - settings.notice()) <= day(now));
            prop_assert!(!may_carry_out(&settings, planned.basis, None, day(now + late)));
            let accepted = day(now + late);
            let taken = effective(&settings, planned.basis, Some(accepted), accepted);
            prop_assert!(taken >= accepted.plus(settings.notice()));
            prop_assert!(taken >= planned.basis.plus(settings.window()));
            prop_assert!(!may_carry_out(&settings, planned.basis, Some(accepted), Timestamp(taken.0 - 1)));
            prop_assert!(may_carry_out(&settings, planned.basis, Some(accepted), taken));
        }
        for forecast in usage_state.forecast(&settings, day(now)) {
            prop_assert!(forecast.notice_at >= day(now));
            prop_assert!(forecast.effective >= forecast.notice_at.plus(settings.notice()));
        }
    }

    #[test]
    fn a_use_makes_nothing_due_earlier(
        usage_state in usage_states(), settings in all_settings(), used in (0u16..6, any::<bool>(), 0i64..300),
    ) {
        let (id, write, on) = used;
        let mut later = usage_state.clone();
        later.uses.note(ScopeId(id), write, day(on));
        prop_assert!(later.idle_since() >= usage_state.idle_since());
        prop_assert_eq!(later.idle_since().is_some(), usage_state.idle_since().is_some());
        for action in &usage_state.announced {
            // What was cancelled stays so.
            let was = usage_state.overtaken(action);
            let is = later.overtaken(action);
            prop_assert!(was != Superseded::Cancelled || is == Superseded::Cancelled);
            prop_assert!(was == Superseded::No || is != Superseded::No);
        }
        // The deletion that is due for an unused token is never due for the same token, used now.
        let now = day(on);
        let due = later.due(&settings, now).map(|planned| planned.takes);
        prop_assert!(due != Some(ActionEffect::Token));
    }

    #[test]
    fn the_deletion_says_it_all(
        grant in grants(), used in uses(), settings in all_settings(), now in 0i64..300,
    ) {
        let mut usage_state = usage_state(grant, &used, &[]);
        let last = usage_state.uses.last.unwrap_or(usage_state.created);
        let due = usage_state.due(&settings, day(now));
        let unused = last <= settings.idle_before(day(now));
        prop_assert_eq!(due.is_some_and(|planned| planned.takes == ActionEffect::Token), unused);
        usage_state.announced.push(PendingPlan { takes: ActionEffect::Token, basis: last });
        prop_assert_eq!(usage_state.due(&settings, day(400)), None);
        prop_assert_eq!(usage_state.idle_since(), None);
    }

    #[test]
    fn an_unused_custom_token_gets_one_deletion_and_no_downgrade(
        ids in prop::collection::vec(0u16..6, 1..6), settings in all_settings(), now in 0i64..300,
    ) {
        let usage_state = usage_state(custom(&ids), &[], &[]);
        let forecast = usage_state.forecast(&settings, day(now));
        prop_assert_eq!(forecast.len(), 1);
        prop_assert_eq!(&forecast[0].takes, &ActionEffect::Token);
    }

    #[test]
    fn a_downgrade_leaves_a_used_token_something(
        ids in prop::collection::vec(0u16..6, 1..6), used in uses(), settings in all_settings(),
        now in 0i64..300,
    ) {
        let grant = custom(&ids);
        let Grant::Custom { granted, .. } = &grant else { unreachable!() };
        let used: Vec<_> =
            used.into_iter().filter(|&(id, ..)| granted.contains(ScopeId(id))).collect();
        let count = granted.len();
        let usage_state = usage_state(grant.clone(), &used, &[]);
        if let Some(Planned { takes: ActionEffect::Scopes(named), .. }) = usage_state.due(&settings, day(now)) {
            prop_assert!(named.len() < count);
            prop_assert!(named.is_sorted());
        }
    }
}
