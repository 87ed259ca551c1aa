//! Previews of tokens that were never in a store.

use uuid::Uuid;

use super::*;
use crate::model::StoredCatalog;
use crate::policy::lifecycle::{Settings, UsageState, Uses};
use crate::policy::token::Grant;

/// The day on which it is now, counted from 1970; a quarter of it is over.
const NOW: i64 = 20_000;

fn day(n: i64) -> Timestamp {
    Timestamp((NOW + n) * DAY + DAY / 4)
}

const TOML: &str = "[[scope]]\nname = \"a.read\"\naccess = \"read\"\n\
                    [[scope]]\nname = \"b.write\"\naccess = \"write\"\n";

fn preview(mode: Mode, tokens: impl IntoIterator<Item = IdleToken>) -> Preview {
    preview_with(TOML, mode, tokens)
}

fn preview_with(toml: &str, mode: Mode, tokens: impl IntoIterator<Item = IdleToken>) -> Preview {
    let scope_ids =
        vec![("a.read".parse().unwrap(), ScopeId(1)), ("b.write".parse().unwrap(), ScopeId(2))];
    let toml = toml.to_owned();
    let stored = StoredCatalog { version: 1, toml, applied: Timestamp(0), scope_ids };
    let rules = Settings::default();
    let settings = Settings::new(mode, rules.window(), rules.notice()).unwrap();
    let calendar = Calendar { settings, now: day(0) };
    let mut preview = Preview::new(Arc::new(ActiveCatalog::read(stored).unwrap()), calendar);
    tokens.into_iter().for_each(|token| preview.add(token));
    preview
}

fn token(number: u128, grant: Grant, uses: &[(u16, i64)], live: Vec<LiveAction>) -> IdleToken {
    let mut known = Uses::default();
    for &(scope, on) in uses {
        known.note(ScopeId(scope), scope == 2, day(on));
    }
    let announced = live.iter().map(LiveAction::announced).collect();
    IdleToken {
        expires: None,
        id: TokenId(Uuid::from_u128(number)),
        account_id: AccountId(Uuid::nil()),
        name: format!("token {number}"),
        idle_since: None,
        usage_state: UsageState { grant, created: day(-200), uses: known, announced },
        live,
    }
}

fn live(takes: ActionEffect, basis: i64, accepted: Option<i64>) -> LiveAction {
    let id = PendingActionId(Uuid::from_u128(7));
    LiveAction { id, takes, basis: day(basis), accepted: accepted.map(day) }
}

const READ_ONLY: Grant = Grant::ReadOnly { downgraded: false };

/// The days on which anything happens: number, noticed and carried out, deletions before downgrades.
fn eventful(preview: &Preview) -> Vec<(usize, [u64; 4])> {
    let numbers = |day: &Day| {
        let (n, c) = (day.noticed, day.carried_out);
        [n.deletions, n.downgrades, c.deletions, c.downgrades]
    };
    let days = preview.days.iter().map(numbers).enumerate();
    days.filter(|(_, numbers)| numbers.iter().any(|&n| n > 0)).collect()
}

/// Rule 4.15.
#[test]
fn the_calendar_has_every_action_on_its_day() {
    let tokens = [
        // Never used, and nobody was notified: late, with its whole notice period.
        token(1, READ_ONLY, &[], Vec::new()),
        // Used yesterday: noticed in 37 days, gone in 44.
        token(2, READ_ONLY, &[(1, -1)], Vec::new()),
        // Used today: it goes after the last day of the calendar.
        token(3, READ_ONLY, &[(1, 0)], Vec::new()),
        // Reads, and has not written for 40 days.
        token(4, Grant::ReadWrite, &[(1, 0), (2, -40)], Vec::new()),
        // Announced and accepted: it is due, and is not announced again.
        token(5, READ_ONLY, &[(1, -50)], vec![live(ActionEffect::Token, -50, Some(-8))]),
        // Announced, and used since.
        token(6, READ_ONLY, &[(1, 0)], vec![live(ActionEffect::Token, -50, Some(-8))]),
    ];
    let preview = preview(Mode::Enforce, tokens);
    assert_eq!((preview.tokens, preview.days.len()), (6, DAYS));
    assert_eq!(preview.days[0].start, Timestamp(NOW * DAY));
    assert_eq!(
        eventful(&preview),
        [
            (0, [1, 1, 1, 0]),
            (7, [0, 0, 1, 1]),
            (37, [1, 0, 0, 0]),
            (38, [3, 0, 0, 0]),
            (44, [0, 0, 1, 0]),
        ]
    );
    assert_eq!(preview.announced_today.counts, Counts { deletions: 1, downgrades: 1 });
    let announced: Vec<_> = preview.announced_today.named().collect();
    assert_eq!(announced[0].token_name, "token 1");
    assert!(!announced[0].used && announced[0].basis == day(-200));
    assert_eq!((announced[1].taken.as_slice(), announced[1].used), (&[ScopeId(2)][..], true));
    assert_eq!(announced[1].effective, day(7));
    let due: Vec<_> = preview.carried_out_today.named().collect();
    assert_eq!((due.len(), due[0].effective, due[0].notice), (1, day(0), None));
    assert_eq!(due[0].announced, Some(PendingActionId(Uuid::from_u128(7))));
}

#[test]
fn a_downgrade_is_not_carried_out_where_the_deletion_goes_first() {
    let token = token(
        1,
        Grant::ReadWrite,
        &[(1, -50)],
        vec![live(ActionEffect::Writes, -50, Some(-7)), live(ActionEffect::Token, -50, Some(-7))],
    );
    assert_eq!(eventful(&preview(Mode::Enforce, [token])), [(0, [0, 0, 1, 0])]);
}

#[test]
fn a_downgrade_that_takes_nothing_is_none() {
    let token =
        || token(1, Grant::ReadWrite, &[(1, 0)], vec![live(ActionEffect::Writes, -50, Some(-8))]);
    assert_eq!(
        eventful(&preview(Mode::Enforce, [token()])),
        [(0, [0, 0, 0, 1]), (38, [1, 0, 0, 0])]
    );
    let reads = TOML.replace("access = \"write\"", "access = \"read\"");
    let preview = preview_with(&reads, Mode::Enforce, [token()]);
    assert_eq!(eventful(&preview), [(38, [1, 0, 0, 0])]);
}

#[test]
fn observing_tells_what_enforcing_would_begin_with() {
    let token = || token(5, READ_ONLY, &[(1, -50)], vec![live(ActionEffect::Token, -50, Some(-8))]);
    // What is announced is withdrawn, so its notice would come again.
    let preview = preview(Mode::Observe, [token()]);
    assert_eq!(eventful(&preview), [(0, [1, 0, 0, 0]), (7, [0, 0, 1, 0])]);
}

#[test]
fn only_the_first_are_named_and_all_are_counted() {
    let many = (0..250).rev().map(|number| token(number, READ_ONLY, &[], Vec::new()));
    let preview = preview(Mode::Enforce, many);
    assert_eq!(preview.announced_today.counts.deletions, 250);
    let named: Vec<_> = preview.announced_today.named().map(|coming| coming.token_id).collect();
    let first = (0..NAMED as u128).map(|number| TokenId(Uuid::from_u128(number)));
    assert!(named.into_iter().eq(first));
}
