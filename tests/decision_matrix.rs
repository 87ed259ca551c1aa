//! Every decision in one table that a person can audit: what the token is, where it may be used
//! from, where the request comes from, and what it asks for (docs/policy.md, section 2).
//!
//! The table is `snapshots/it__decision_matrix__matrix.snap`. Each scope is asked for by name and by its
//! route; a cell holds both answers where they differ. Lines that do not depend on the address, or
//! on the whitelist and the address, are written once, with `any`.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use portcullis::policy::catalog_file;
use portcullis::policy::decide::{
    Decision, Operation, Presented, Reason, Request, Verdict, decide,
};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::network::{CidrSet, Limits, Whitelist, parse_entries};
use portcullis::policy::scope::{Catalog, ScopeId, ScopeSet};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{AccountRestriction, Expiry, Grant, TokenFacts, TokenState};
use uuid::Uuid;

const CATALOG: &str = r#"
[[scope]]
name = "read"
access = "read"
routes = ["GET /things/{id}"]

[[scope]]
name = "write"
access = "write"
requires_whitelist = false
routes = ["POST /things"]

[[scope]]
name = "sensitive"
access = "write"
requires_whitelist = true
routes = ["GET /things/{id}/secret", "GET /things/export"]
"#;

/// What is asked for: the column, the scope by name, and an HTTP request.
const OPERATIONS: [(&str, Option<&str>, (&str, &str)); 5] = [
    ("read", Some("read"), ("GET", "/things/7")),
    ("write", Some("write"), ("POST", "/things")),
    ("sensitive", Some("sensitive"), ("GET", "/things/7/secret")),
    ("no route", None, ("DELETE", "/things/7")),
    ("ambiguous", None, ("GET", "/things/EXPORT")),
];

const ADDRESSES: [(&str, Option<&str>); 4] = [
    ("absent", None),
    ("10.1.2.3", Some("10.1.2.3")),
    ("::ffff:10.1.2.3", Some("::ffff:10.1.2.3")),
    ("192.0.2.1", Some("192.0.2.1")),
];

const WHITELISTS: [&[&str]; 3] = [&[], &["10.0.0.0/8", "10.1.2.0/24"], &["2001:db8::/32"]];

const AT: Timestamp = Timestamp(1_790_000_000_000_000);

fn catalog() -> Catalog {
    let defs = catalog_file::parse(CATALOG).unwrap();
    let mut next = 0;
    Catalog::new(1, defs, |_| {
        next += 1;
        ScopeId(next)
    })
}

fn grants(catalog: &Catalog) -> Vec<(&'static str, Grant)> {
    let set = |names: &[&str]| -> ScopeSet {
        names.iter().map(|name| catalog.by_name(name).unwrap().id).collect()
    };
    let custom = |granted: &[&str], taken: &[&str]| Grant::Custom {
        granted: set(granted),
        taken: set(taken),
    };
    vec![
        ("READ_ONLY", Grant::ReadOnly { downgraded: false }),
        ("READ_ONLY, downgraded from READ_WRITE", Grant::ReadOnly { downgraded: true }),
        ("READ_WRITE", Grant::ReadWrite),
        ("CUSTOM read", custom(&["read"], &[])),
        ("CUSTOM read write", custom(&["read", "write"], &[])),
        ("CUSTOM read sensitive", custom(&["read", "sensitive"], &[])),
        ("CUSTOM read, downgrade took sensitive", custom(&["read"], &["sensitive"])),
        ("CUSTOM sensitive, downgrade took read", custom(&["sensitive"], &["read"])),
        ("CUSTOM, downgrades took read write", custom(&[], &["read", "write"])),
    ]
}

fn whitelist(texts: &[&str]) -> Whitelist {
    let entries = parse_entries(texts.iter().copied(), &Limits::default()).unwrap();
    let entries = CidrSet::new(entries, &Limits::default()).unwrap();
    entries.map_or(Whitelist::Unrestricted, Whitelist::Only)
}

fn facts(state: TokenState, expiry: Expiry, grant: &Grant, texts: &[&str]) -> TokenFacts {
    TokenFacts {
        id: TokenId(Uuid::from_u128(1)).into(),
        account_id: AccountId(Uuid::from_u128(2)).into(),
        digest: [0; 32],
        state,
        expiry,
        grant: grant.clone(),
        whitelist: whitelist(texts),
        announced: Vec::new(),
    }
}

/// What occurs, for the list of sentences and the check that every reason does.
#[derive(Default)]
struct Seen(Vec<(Reason, String)>);

impl Seen {
    fn cell(&mut self, decision: &Decision<'_>) -> String {
        let reason = decision.verdict.reason();
        if !self.0.iter().any(|(seen, _)| *seen == reason) {
            self.0.push((reason, decision.message().into_owned()));
        }
        match decision.verdict {
            Verdict::Allow(None) => "allow".to_owned(),
            Verdict::Allow(Some(entry)) => format!("allow by {entry}"),
            Verdict::Deny(_) => word(reason).to_owned(),
        }
    }

    /// The answers to every operation.
    fn row(
        &mut self,
        catalog: &Catalog,
        presented: Presented<'_>,
        ip: Option<&str>,
    ) -> Vec<String> {
        let client = ip.map(|ip| ip.parse().unwrap());
        let cells = OPERATIONS.map(|(_, scope, (method, path))| {
            let mut ask = |operation| {
                self.cell(&decide(presented, catalog, &Request { client, operation }, AT))
            };
            let by_route = ask(Operation::Http { method, path });
            let by_name = scope.map(|name| ask(Operation::Scope(catalog.by_name(name).unwrap())));
            match by_name {
                Some(by_name) if by_name != by_route => format!("{by_name} / {by_route}"),
                _ => by_route,
            }
        });
        cells.into()
    }
}

fn word(reason: Reason) -> &'static str {
    Reason::ALL.iter().find(|(known, _)| *known == reason).unwrap().1
}

fn line(table: &mut String, head: [&str; 2], cells: &[String]) {
    let mut text = format!("  {:24}{:17}", head[0], head[1]);
    for cell in cells {
        let _ = write!(text, "{cell:27}");
    }
    let _ = writeln!(table, "{}", text.trim_end());
}

/// `rows` under `label`: one line for each, or one for all where all are alike.
fn lines(table: &mut String, label: &str, rows: &[(&str, Vec<String>)]) {
    match rows {
        [(_, first), rest @ ..] if rest.iter().all(|(_, row)| row == first) => {
            line(table, [label, "any"], first);
        }
        rows => rows.iter().for_each(|(address, row)| line(table, [label, address], row)),
    }
}

/// Rules 1.9, 1.11, 2.4, 2.14, 2.16, 2.17, 2.19, 3.2, 11.1, 11.70 and 11.75.
#[test]
fn matrix() {
    let catalog = catalog();
    let mut seen = Seen::default();
    let mut table = String::new();
    let columns = OPERATIONS.map(|(name, _, _)| name.to_owned());
    line(&mut table, ["whitelist", "client address"], &columns);

    let all = |presented: Presented<'_>, seen: &mut Seen| {
        ADDRESSES.map(|(name, ip)| (name, seen.row(&catalog, presented, ip)))
    };
    for (title, presented) in
        [("malformed token", Presented::Malformed), ("unknown token", Presented::Unknown)]
    {
        let _ = writeln!(table, "\n{title}");
        lines(&mut table, "any", &all(presented, &mut seen));
    }
    for (title, grant) in grants(&catalog) {
        let later = Some(AT.plus(std::time::Duration::from_micros(1)));
        let suspended = Some(AccountRestriction::Suspended { at: AT });
        let closed = Some(AccountRestriction::Closed { at: AT });
        let (deleted, unused) =
            (TokenState::Deleted { at: AT }, TokenState::DeletedUnused { at: AT });
        for (state, of, expiry, account) in [
            ("active", TokenState::Active, None, None),
            ("active, expires later", TokenState::Active, later, None),
            ("expired", TokenState::Active, Some(AT), None),
            ("deleted", deleted, None, None),
            ("deleted, expired", deleted, Some(AT), None),
            ("deleted unused", unused, None, None),
            ("revoked as leaked", TokenState::RevokedLeaked { at: AT }, None, None),
            ("revoked as leaked, expired", TokenState::RevokedLeaked { at: AT }, Some(AT), None),
            ("active, account suspended", TokenState::Active, None, suspended),
            ("expired, account suspended", TokenState::Active, Some(AT), suspended),
            ("deleted, account suspended", deleted, None, suspended),
            ("active, account closed", TokenState::Active, None, closed),
            ("expired, account closed", TokenState::Active, Some(AT), closed),
            ("deleted unused, account closed", unused, None, closed),
        ] {
            let _ = writeln!(table, "\n{title}; {state}");
            let rows: Vec<_> = WHITELISTS
                .iter()
                .map(|texts| {
                    let token = facts(of, expiry.into(), &grant, texts);
                    (texts.join(" "), all(Presented::token(&token, account), &mut seen))
                })
                .collect();
            let flat: BTreeSet<_> = rows.iter().flat_map(|(_, r)| r.iter().map(|r| &r.1)).collect();
            if flat.len() == 1 {
                lines(&mut table, "any", &rows[0].1);
                continue;
            }
            for (texts, rows) in &rows {
                let label = if texts.is_empty() { "none" } else { texts };
                lines(&mut table, label, rows);
            }
        }
    }

    let _ = writeln!(table, "\nIn words");
    for (reason, name) in Reason::ALL {
        let (_, sentence) = seen
            .0
            .iter()
            .find(|(seen, _)| *seen == reason)
            .unwrap_or_else(|| panic!("no decision of the matrix has the reason {name}"));
        let _ = writeln!(table, "  {name:28}{sentence}");
    }
    insta::assert_snapshot!(table);
}
