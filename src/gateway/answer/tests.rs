//! Each reason as a status, headers and a body.

use std::fmt::Write as _;

use uuid::Uuid;

use super::*;
use crate::policy::catalog_file;
use crate::policy::decide::{Operation, Presented, Request, decide};
use crate::policy::id::{AccountId, PendingActionId, TokenId};
use crate::policy::lifecycle::{ActionEffect, LiveAction, Settings};
use crate::policy::network::{CidrSet, Limits, Whitelist, parse_entries};
use crate::policy::scope::{Catalog, ScopeId};
use crate::policy::time::Timestamp;
use crate::policy::token::{Expiry, Grant, TokenFacts, TokenState};

const AT: Timestamp = Timestamp(1_790_000_000_000_000);
const TOKEN: ClientToken<'_> = ClientToken::Plain(b"T");

fn calendar() -> Calendar {
    Calendar { settings: Settings::default(), now: AT }
}

fn catalog() -> Catalog {
    let text = "[[scope]]\nname = \"read\"\naccess = \"read\"\nroutes = [\"GET /things/{id}\"]\n\
                [[scope]]\nname = \"write\"\naccess = \"write\"\nroutes = [\"PUT /things/{id}\"]\n";
    let mut next = 0;
    Catalog::new(1, catalog_file::parse(text).unwrap(), |_| {
        next += 1;
        ScopeId(next)
    })
}

fn facts() -> TokenFacts {
    TokenFacts {
        id: TokenId(Uuid::from_u128(1)).into(),
        account_id: AccountId(Uuid::from_u128(2)).into(),
        digest: [0; 32],
        state: TokenState::Active,
        expiry: Expiry::NEVER,
        grant: Grant::ReadOnly { downgraded: false },
        whitelist: Whitelist::Unrestricted,
        announced: Vec::new(),
    }
}

fn answer(presented: Presented<'_>, operation: Operation<'_>, token: &ClientToken<'_>) -> Answer {
    let catalog = catalog();
    let decision = decide(presented, &catalog, &Request { client: None, operation }, AT);
    Answer::decided(&decision, token, Origin::Gateway(&ClientSource::default()), calendar)
}

fn text(answer: &Answer) -> String {
    let mut text = format!("{}\n", answer.status());
    for (name, value) in answer.headers() {
        writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
    }
    if !answer.is_allow() {
        writeln!(text, "{}", answer.problem()).unwrap();
    }
    text
}

const READ: Operation<'_> = Operation::Http { method: "GET", path: "/things/7" };

#[test]
fn every_reason_has_a_status_that_the_rules_name() {
    let documented = include_str!("../../../docs/policy.md");
    let mut table = String::new();
    for (reason, word) in Reason::ALL {
        assert_eq!(reason.word(), word);
        let challenge = match cause(reason) {
            Cause::Token => "`invalid_token`; none where no token was sent",
            Cause::Permission => "`insufficient_scope`",
            Cause::Allowed | Cause::Request => "",
        };
        let row = format!("| `{word}` | {} | {challenge} |\n", status(reason).as_u16());
        let row = row.replace("|  |", "| |");
        assert!(documented.contains(&row), "docs/policy.md lacks the row {row}");
        table.push_str(&row);
    }
    insta::assert_snapshot!(table);
}

#[test]
fn an_allow_has_every_header_and_its_warnings() {
    let mut facts = facts();
    let plain = answer(Presented::Token(&facts), READ, &TOKEN);
    assert_eq!(plain.warnings().count(), 0);
    facts.announced.push(LiveAction {
        id: PendingActionId(Uuid::nil()),
        takes: ActionEffect::Token,
        basis: AT,
        accepted: None,
    });
    let announced = answer(Presented::Token(&facts), READ, &TOKEN);
    assert_eq!(announced.warnings().count(), 1);
    for answer in [&plain, &announced] {
        let names: Vec<_> = answer.headers().map(|(name, _)| name).collect();
        assert_eq!(names, HEADERS);
    }
    insta::assert_snapshot!([text(&plain), text(&announced)].join("\n"));
}

/// Rules 9.14 and 11.1.
#[test]
fn an_expiry_is_a_header_of_each_allow_and_a_warning_within_the_notice_period() {
    let mut facts = facts();
    let notice = calendar().settings.notice();
    let second = std::time::Duration::from_secs(1);
    let soon = AT.plus(notice);
    for (expiry, warns) in [(soon, true), (soon.plus(second), false)] {
        facts.expiry = Some(expiry).into();
        let answer = answer(Presented::Token(&facts), READ, &TOKEN);
        let expires = answer.headers().find(|(name, _)| *name == TOKEN_EXPIRES).unwrap().1;
        assert_eq!(expires.to_str().unwrap(), expiry.to_string());
        let warnings: Vec<_> = answer.warnings().collect();
        let expected = if warns { vec![(TOKEN_EXPIRES, expires)] } else { Vec::new() };
        assert_eq!(warnings, expected);
    }
    facts.expiry = Some(AT).into();
    let expired = answer(Presented::Token(&facts), READ, &TOKEN);
    assert_eq!((expired.status(), expired.reason()), (StatusCode::UNAUTHORIZED, "TOKEN_EXPIRED"));
    assert_eq!(expired.warnings().count(), 0);
}

#[test]
fn a_denial_says_what_the_client_can_do_and_nothing_about_the_token() {
    let mut facts = facts();
    let unknown = answer(Presented::Unknown, READ, &TOKEN);
    let missing = answer(Presented::Malformed, READ, &ClientToken::Missing);
    let two = answer(Presented::Malformed, READ, &ClientToken::Malformed("Two “tokens”."));
    let write = Operation::Http { method: "PUT", path: "/things/7" };
    let scope = answer(Presented::Token(&facts), write, &TOKEN);
    let ambiguous = answer(Presented::Token(&facts), Operation::Ambiguous("Leave X out."), &TOKEN);
    let entries = parse_entries(["192.0.2.1"], &Limits::default()).unwrap();
    let entries = CidrSet::new(entries, &Limits::default()).unwrap().unwrap();
    facts.whitelist = Whitelist::Only(entries);
    let address = answer(Presented::Token(&facts), READ, &TOKEN);
    let undecided = Answer::undecided(StatusCode::SERVICE_UNAVAILABLE, "No decision.");
    let all = [unknown, missing, two, scope, ambiguous, address, undecided];
    for denial in &all {
        assert!(!denial.is_allow());
        assert_eq!(denial.warnings().count(), 0);
        let reasons = denial.headers().filter(|(name, _)| HEADERS.contains(name));
        assert_eq!(reasons.count(), 1, "{}", text(denial));
    }
    insta::assert_snapshot!(all.map(|denial| text(&denial)).join("\n"));
}

#[test]
fn an_ambiguous_request_is_denied_after_its_token() {
    let ambiguous = Operation::Ambiguous("Leave X out.");
    assert_eq!(answer(Presented::Unknown, ambiguous, &TOKEN).reason(), "TOKEN_NOT_FOUND");
    let facts = facts();
    let denial = answer(Presented::Token(&facts), ambiguous, &TOKEN);
    assert_eq!((denial.reason(), denial.detail()), ("REQUEST_AMBIGUOUS", "Leave X out."));
}
