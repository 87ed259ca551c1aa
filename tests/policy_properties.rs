//! What must hold of every token, catalogue and request, tried on random ones. A failure prints the
//! smallest case found and the seed that gives it again.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis::policy::catalog_file;
use portcullis::policy::decide::{Operation, Presented, Reason, Request, Verdict, decide};
use portcullis::policy::id::{AccountId, CredentialId, PendingActionId, TokenId};
use portcullis::policy::network::{Cidr, CidrSet, ClientAddr, Limits, Whitelist, parse_entries};
use portcullis::policy::route::Route;
use portcullis::policy::scope::{Access, Catalog, ScopeDef, ScopeId, ScopeName, ScopeSet};
use portcullis::policy::text;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{
    AccountRestriction, Expiry, ExpiryRefused, Grant, RequestedExpiry, TokenFacts, TokenState,
};
use portcullis::secret::{KeyRing, ParsedSecret, Prefix, SecretKey, SecretKind, peek_id};
use proptest::prelude::*;
use uuid::Uuid;

/// Scopes of every catalogue here: `s0` to `s4`, each with the route `POST /s<n>/{x}`.
const SCOPES: u16 = 5;

/// 0: reads; 1: writes; 2: writes and requires a whitelist.
fn catalog() -> impl Strategy<Value = Catalog> {
    prop::collection::vec(0..3u8, usize::from(SCOPES)).prop_map(|sensitivities| {
        let defs = sensitivities.iter().enumerate().map(|(n, sensitivity)| ScopeDef {
            name: format!("s{n}").parse().unwrap(),
            access: if *sensitivity == 0 { Access::Read } else { Access::Write },
            requires_whitelist: *sensitivity == 2,
            description: String::new(),
            routes: vec![format!("POST /s{n}/{{x}}").parse().unwrap()],
        });
        Catalog::new(1, defs.collect(), |name| ScopeId(name.as_str()[1..].parse().unwrap()))
    })
}

fn scopes(held: &[u8], wanted: u8) -> ScopeSet {
    let ids = (0..SCOPES).zip(held).filter(|&(_, &how)| how == wanted);
    ids.map(|(id, _)| ScopeId(id)).collect()
}

fn grant() -> impl Strategy<Value = Grant> {
    let custom = prop::collection::vec(0..3u8, usize::from(SCOPES))
        .prop_map(|held| Grant::Custom { granted: scopes(&held, 1), taken: scopes(&held, 2) });
    prop_oneof![
        1 => any::<bool>().prop_map(|downgraded| Grant::ReadOnly { downgraded }),
        1 => Just(Grant::ReadWrite),
        3 => custom,
    ]
}

fn state() -> impl Strategy<Value = TokenState> {
    prop_oneof![
        8 => Just(TokenState::Active),
        1 => Just(TokenState::Deleted { at: Timestamp(1) }),
        1 => Just(TokenState::DeletedUnused { at: Timestamp(1) }),
        1 => Just(TokenState::RevokedLeaked { at: Timestamp(1) }),
    ]
}

/// When every question is asked.
const NOW: Timestamp = Timestamp(1_000);

fn expiry() -> impl Strategy<Value = Expiry> {
    let close = (NOW.0 - 2..=NOW.0 + 2).prop_map(|at| Some(Timestamp(at)).into());
    prop_oneof![4 => Just(Expiry::NEVER), 1 => close]
}

/// Entries and addresses in few places, so that addresses hit and ranges nest.
const ENTRIES: [&str; 8] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3",
    "192.0.2.0/24",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::1",
];
const ADDRESSES: [&str; 7] = [
    "10.1.2.3",
    "::ffff:10.1.2.3",
    "10.1.9.9",
    "10.9.9.9",
    "192.0.2.1",
    "2001:db8:1::1",
    "2001:db9::",
];

fn only(picked: &[&str]) -> Whitelist {
    let limits = Limits::default();
    let entries = parse_entries(picked.iter().copied(), &limits).unwrap();
    CidrSet::new(entries, &limits).unwrap().map_or(Whitelist::Unrestricted, Whitelist::Only)
}

fn entries() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(&ENTRIES[..], 0..=4)
}

fn token() -> impl Strategy<Value = TokenFacts> {
    (grant(), state(), expiry(), entries()).prop_map(|(grant, state, expiry, entries)| TokenFacts {
        id: TokenId(Uuid::from_u128(1)).into(),
        account_id: AccountId(Uuid::from_u128(2)).into(),
        digest: [0; 32],
        state,
        expiry,
        grant,
        whitelist: only(&entries),
        announced: Vec::new(),
    })
}

/// A request as it is asked: an address, and a scope by name or by route, or no route at all.
#[derive(Debug, Clone)]
struct Question {
    ip: Option<&'static str>,
    scope: u16,
    by_name: bool,
}

fn question() -> impl Strategy<Value = Question> {
    let ip = prop::option::weighted(0.8, prop::sample::select(&ADDRESSES[..]));
    // Scope 5 is none.
    (ip, 0..=SCOPES, any::<bool>()).prop_map(|(ip, scope, by_name)| Question { ip, scope, by_name })
}

impl Question {
    fn ask(&self, catalog: &Catalog, presented: Presented<'_>) -> Verdict {
        self.ask_at(catalog, presented, NOW)
    }

    fn ask_at(&self, catalog: &Catalog, presented: Presented<'_>, now: Timestamp) -> Verdict {
        let path = format!("/s{}/x", self.scope);
        let operation = match catalog.by_id(ScopeId(self.scope)) {
            Some(scope) if self.by_name => Operation::Scope(scope),
            _ => Operation::Http { method: "POST", path: &path },
        };
        let client = self.ip.map(|ip| ip.parse().unwrap());
        decide(presented, catalog, &Request { client, operation }, now).verdict
    }

    fn reason(&self, catalog: &Catalog, token: &TokenFacts) -> Reason {
        self.ask(catalog, Presented::Token(token)).reason()
    }
}

/// Every check that fails, each looked at by itself and in no order.
fn failing(catalog: &Catalog, token: &TokenFacts, question: &Question) -> BTreeSet<Reason> {
    let mut failing = BTreeSet::new();
    match token.state {
        TokenState::Active => {}
        TokenState::Deleted { .. } => drop(failing.insert(Reason::TokenDeleted)),
        TokenState::DeletedUnused { .. } => drop(failing.insert(Reason::TokenDeletedUnused)),
        TokenState::RevokedLeaked { .. } => drop(failing.insert(Reason::TokenRevokedLeaked)),
    }
    if token.expiry.time().is_some_and(|at| at <= NOW) {
        failing.insert(Reason::TokenExpired);
    }
    let scope = catalog.by_id(ScopeId(question.scope));
    let reads = scope.is_some_and(|scope| scope.access == Access::Read);
    match (scope, &token.grant) {
        (None, _) => drop(failing.insert(Reason::NoMatchingRoute)),
        (_, Grant::ReadOnly { .. }) if reads => {}
        (_, Grant::ReadOnly { downgraded: true }) => {
            failing.insert(Reason::ScopeLostInDowngrade);
        }
        (_, Grant::ReadOnly { downgraded: false }) => drop(failing.insert(Reason::ScopeNotGranted)),
        (_, Grant::ReadWrite) => {}
        (Some(scope), Grant::Custom { granted, taken }) if !granted.contains(scope.id) => {
            failing.insert(match taken.contains(scope.id) {
                true => Reason::ScopeLostInDowngrade,
                false => Reason::ScopeNotGranted,
            });
        }
        (_, Grant::Custom { .. }) => {}
    }
    let sensitive = |scope: &portcullis::policy::scope::Scope| scope.requires_whitelist;
    let required = match &token.grant {
        Grant::ReadOnly { .. } => false,
        Grant::ReadWrite => true,
        Grant::Custom { granted, taken } => {
            let listed = |id| granted.contains(id) || taken.contains(id);
            catalog.scopes().iter().any(|scope| listed(scope.id) && sensitive(scope))
        }
    };
    let entries = token.whitelist.entries();
    if entries.is_empty() && required {
        failing.insert(Reason::WhitelistRequired);
    }
    if !entries.is_empty() {
        match question.ip.map(|ip| ip.parse::<ClientAddr>().unwrap()) {
            None => drop(failing.insert(Reason::ClientIpMissing)),
            Some(ip) if entries.iter().any(|entry| entry.contains(ip)) => {}
            Some(_) => drop(failing.insert(Reason::ClientIpNotWhitelisted)),
        }
    }
    failing
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// docs/policy.md, section 2: the first check that fails names the reason. Rule 2.3.
    #[test]
    fn the_first_failing_check_names_the_reason(
        catalog in catalog(), token in token(), question in question()
    ) {
        // `Reason` is ordered as the checks are.
        let expected = failing(&catalog, &token, &question).first().copied();
        let reason = question.reason(&catalog, &token);
        prop_assert_eq!(reason, expected.unwrap_or(Reason::Allowed));
        let verdict = question.ask(&catalog, Presented::Malformed);
        prop_assert_eq!(verdict.reason(), Reason::TokenMalformed);
        let verdict = question.ask(&catalog, Presented::Unknown);
        prop_assert_eq!(verdict.reason(), Reason::TokenNotFound);
    }

    /// From its expiry on a token is denied, whatever else is true of it and of the request. Rule 11.1.
    #[test]
    fn an_expired_token_is_never_allowed(
        catalog in catalog(), token in token(), question in question(), late in 0..i64::MAX - NOW.0
    ) {
        let at = token.expiry.time().unwrap_or(NOW);
        let token = TokenFacts { expiry: Some(at).into(), ..token };
        let now = Timestamp(at.0.saturating_add(late));
        let verdict = question.ask_at(&catalog, Presented::Token(&token), now);
        prop_assert_ne!(verdict.reason(), Reason::Allowed);
        // And an instant before it, the expiry makes no difference.
        let before = Timestamp(at.0 - 1);
        let endless = TokenFacts { expiry: Expiry::NEVER, ..token.clone() };
        prop_assert_eq!(
            question.ask_at(&catalog, Presented::Token(&token), before),
            question.ask_at(&catalog, Presented::Token(&endless), before)
        );
    }

    /// Whatever else is true, no token of a suspended or closed account is allowed anything, and one that is ended is
    /// denied for its own reason where the account is suspended. Rules 11.70 and 11.75.
    #[test]
    fn no_token_of_a_restricted_account_is_allowed(
        catalog in catalog(), token in token(), question in question()
    ) {
        let suspended = AccountRestriction::Suspended { at: NOW };
        let reason = question.ask(&catalog, Presented::Restricted(&token, suspended)).reason();
        let ended = [
            Reason::TokenDeleted,
            Reason::TokenDeletedUnused,
            Reason::TokenRevokedLeaked,
            Reason::TokenExpired,
        ];
        let own = question.reason(&catalog, &token);
        let expected = if ended.contains(&own) { own } else { Reason::AccountSuspended };
        prop_assert_eq!(reason, expected);

        let closed = AccountRestriction::Closed { at: NOW };
        let reason = question.ask(&catalog, Presented::Restricted(&token, closed)).reason();
        let expected = match own {
            Reason::TokenDeletedUnused | Reason::TokenRevokedLeaked => own,
            _ => Reason::TokenDeleted,
        };
        prop_assert_eq!(reason, expected);
    }

    /// A change of the expiry only ever brings it nearer, and into the future. Rule 11.2.
    #[test]
    fn an_expiry_is_only_brought_nearer(token in token(), new in NOW.0 - 4..=NOW.0 + 4) {
        let new = Timestamp(new);
        if new > NOW {
            let length = RequestedExpiry::After(Duration::from_micros((new.0 - NOW.0) as u64));
            if !token.expiry.is_reached(NOW) {
                let shortened = token.expiry.shorten(length, NOW);
                prop_assert_eq!(shortened, Ok(token.expiry.min(Some(new).into())));
            }
        }
        match token.expiry.shorten(RequestedExpiry::At(new), NOW) {
            Ok(expiry) => {
                prop_assert!(expiry <= token.expiry);
                prop_assert_eq!(expiry.time(), Some(new));
                prop_assert!(expiry == token.expiry || new > NOW);
            }
            Err(ExpiryRefused::Past) => prop_assert!(new <= NOW),
            Err(ExpiryRefused::Later(at)) => prop_assert!(token.expiry.time() == Some(at) && new > at),
            Err(ExpiryRefused::Expired(at)) => {
                prop_assert!(token.expiry.time() == Some(at) && at <= NOW);
            }
            Err(ExpiryRefused::Deleted | ExpiryRefused::TooFar) => prop_assert!(false),
        }
    }

    /// Taking scopes never opens anything, also not a `CUSTOM` token that lacks the whitelist that its
    /// grant requires: what was taken still requires it. A `READ_WRITE` token is never without one.
    #[test]
    fn narrowing_a_grant_never_turns_deny_into_allow(
        catalog in catalog(), token in token(), question in question(), take: [bool; 5]
    ) {
        prop_assume!(token.grant != Grant::ReadWrite || token.whitelist != Whitelist::Unrestricted);
        let mut narrowed = token.clone();
        narrowed.grant = match &token.grant {
            Grant::ReadOnly { .. } => token.grant.clone(),
            Grant::ReadWrite => Grant::ReadOnly { downgraded: true },
            Grant::Custom { granted, taken } => {
                let lost: ScopeSet = (0..SCOPES)
                    .map(ScopeId)
                    .filter(|id| take[usize::from(id.0)] && granted.contains(*id))
                    .collect();
                Grant::Custom { granted: granted.difference(&lost), taken: taken.union(&lost) }
            }
        };
        let (before, after) = (question.reason(&catalog, &token), question.reason(&catalog, &narrowed));
        prop_assert!(after != Reason::Allowed || before == Reason::Allowed, "{before:?}");
        prop_assert_eq!(
            narrowed.grant.requires_whitelist(&catalog),
            token.grant != Grant::ReadWrite && token.grant.requires_whitelist(&catalog)
        );
    }

    /// Removing entries, replacing one by a part of it, or setting a first whitelist never opens
    /// anything but a token that was denied for want of one.
    #[test]
    fn narrowing_a_whitelist_never_turns_deny_into_allow(
        catalog in catalog(), token in token(), question in question(),
        keep: [bool; 8], first in entries(), narrower: bool
    ) {
        let old = token.whitelist.entries();
        let mut narrowed = token.clone();
        if old.is_empty() {
            narrowed.whitelist = only(&first);
        } else {
            let part = |entry: &Cidr| {
                ENTRIES.iter().copied().rfind(|text| {
                    let other = Cidr::parse(text, &Limits::default()).unwrap();
                    other == *entry || narrower && entry.covers(&other)
                }).unwrap()
            };
            let kept: Vec<_> =
                old.iter().zip(keep).filter(|&(_, keep)| keep).map(|(entry, _)| part(entry)).collect();
            // The last entry is not removed, as the service sees to.
            let kept = if kept.is_empty() { vec![part(&old[0])] } else { kept };
            narrowed.whitelist = only(&kept);
        }
        let (before, after) = (question.reason(&catalog, &token), question.reason(&catalog, &narrowed));
        if after == Reason::Allowed && before != Reason::Allowed {
            prop_assert_eq!(before, Reason::WhitelistRequired);
        }
    }

    #[test]
    fn what_requires_a_whitelist_and_has_none_is_denied(
        catalog in catalog(), token in token(), question in question()
    ) {
        let bare = TokenFacts { whitelist: Whitelist::Unrestricted, ..token };
        let reason = question.reason(&catalog, &bare);
        if bare.grant.requires_whitelist(&catalog) {
            prop_assert_ne!(reason, Reason::Allowed);
        } else {
            prop_assert_ne!(reason, Reason::WhitelistRequired);
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address(
        catalog in catalog(), token in token(), scope in 0..SCOPES, ip: [u8; 4]
    ) {
        let v4 = std::net::Ipv4Addr::from(ip);
        let ask = |text: String| {
            let client = Some(text.parse().unwrap());
            let operation = Operation::Scope(catalog.by_id(ScopeId(scope)).unwrap());
            decide(Presented::Token(&token), &catalog, &Request { client, operation }, NOW).verdict
        };
        prop_assert_eq!(ask(v4.to_string()), ask(format!("::ffff:{v4}")));
    }

    /// Whatever strings a client sends, a decision comes out, and none is an allow. Rule 2.2.
    #[test]
    fn no_input_panics(
        catalog in catalog(), mut token in token(), secret in text(), ip in text(), method in text(),
        path in text()
    ) {
        token.whitelist = only(&ENTRIES[..1]);
        let presented = match ParsedSecret::parse(secret.as_bytes(), SecretKind::Token) {
            None => Presented::Malformed,
            Some(_) => Presented::Unknown,
        };
        let client = ip.parse::<ClientAddr>().map_err(|error| error.to_string()).ok();
        for (method, path) in [(method.as_str(), path.as_str()), ("POST", &path), (&method, "/s0/x")] {
            let request = Request { client, operation: Operation::Http { method, path } };
            for presented in [presented, Presented::Token(&token)] {
                let decision = decide(presented, &catalog, &request, NOW);
                prop_assert!(!decision.message().is_empty());
                prop_assert!(client.is_some() || decision.verdict.reason() != Reason::Allowed);
            }
        }
    }

    #[test]
    fn what_parses_prints_the_same(text in text()) {
        let limits = Limits::default();
        if let Ok(entry) = Cidr::parse(&text, &limits) {
            prop_assert_eq!(Cidr::parse(&entry.to_string(), &limits), Ok(entry));
        }
        if let Ok(address) = text.parse::<ClientAddr>() {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
        if let Ok(route) = text.parse::<Route>() {
            prop_assert_eq!(route.to_string(), text.as_str());
        }
        if let Ok(name) = text.parse::<ScopeName>() {
            prop_assert_eq!(name.as_str(), text.as_str());
        }
        // Of each id there is one spelling.
        if let Ok(id) = text.parse::<TokenId>() {
            prop_assert_eq!(id.to_string(), text.as_str());
        }
        if let Ok(defs) = catalog_file::parse(&text) {
            prop_assert_eq!(catalog_file::parse(&catalog_file::print(&defs)), Ok(defs));
        }
    }

    #[test]
    fn ids_read_back_and_are_of_one_kind(value: u128) {
        let uuid = Uuid::from_u128(value);
        let ids = [
            TokenId(uuid).to_string(),
            AccountId(uuid).to_string(),
            CredentialId(uuid).to_string(),
            PendingActionId(uuid).to_string(),
        ];
        let kinds = |id: &str| [
            id.parse() == Ok(TokenId(uuid)),
            id.parse() == Ok(AccountId(uuid)),
            id.parse() == Ok(CredentialId(uuid)),
            id.parse() == Ok(PendingActionId(uuid)),
        ];
        for (at, id) in ids.iter().enumerate() {
            let mut expected = [false; 4];
            expected[at] = true;
            prop_assert_eq!(kinds(id), expected, "{}", id);
        }
    }

    #[test]
    fn routes_and_entries_read_back(route in route(), entry in "(10\\.[0-9]{1,2}\\.0\\.0/16|2001:db8:[1-9a-f]{1,4}::/48)") {
        let parsed: Route = route.parse().unwrap();
        prop_assert_eq!(parsed.to_string(), route);
        // Without a leading zero, which is refused, each is canonical already.
        if let Ok(parsed) = Cidr::parse(&entry, &Limits::default()) {
            prop_assert_eq!(parsed.to_string(), entry);
        }
    }

    #[test]
    fn catalogue_files_read_back(defs in defs()) {
        let file = catalog_file::print(&defs);
        prop_assert_eq!(catalog_file::parse(&file), Ok(defs), "{}", file);
    }

    #[test]
    fn secrets_read_back(id: u128, random: [u8; 16], prefix in "[a-z][a-z0-9]{1,15}", number in 0..3844u16) {
        let ring = KeyRing::new(&[SecretKey::new(number, [7; 32])]).unwrap();
        let id = Uuid::from_u128(id);
        for (opens, other) in [(SecretKind::Token, SecretKind::Credential), (SecretKind::Credential, SecretKind::Token)] {
            let secret = ring.make(opens, &prefix.parse::<Prefix>().unwrap(), id, &random);
            let read = ParsedSecret::parse(secret.expose().as_bytes(), opens).unwrap();
            prop_assert_eq!(read.id, id);
            prop_assert!(ring.made(&read));
            prop_assert_eq!(peek_id(secret.expose().as_bytes(), opens), Some(id));
            prop_assert!(ParsedSecret::parse(secret.expose().as_bytes(), other).is_none());
        }
    }
}

/// Text of any kind, and text that is nearly right.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,60}",
        any::<String>(),
        "[A-Z]{1,5} /[a-z{}/%.]{0,20}",
        "/(s[0-5]|%73[0-5]|\\.\\.|%2[ef]|x)(/(x|%00|\\.|))?",
        "[0-9a-f:./%, \\[\\]]{0,30}",
        "(tok|acc|crd|act)_[0-9A-Za-z]{21,23}",
        "[a-z]{2,4}_[tc]1_[0-9A-Za-z]{62,64}",
        "[a-z0-9_.-]{1,65}",
        "\\[\\[scope\\]\\]\nname = \"[a-z]{1,3}\"\naccess = \"(read|write)\"\n(routes = \\[\"GET /[a-z]{1,3}\"\\])?",
    ]
}

fn route() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        "[a-zA-Z0-9~_@-][a-zA-Z0-9~_:@-]{0,7}",
        "\\{[a-z_][a-z0-9_-]{0,8}\\}(:[a-zA-Z]{1,4}|\\.[a-z]{1,4})?"
    ];
    let end =
        prop_oneof![4 => Just(""), 1 => Just("/"), 1 => Just("/{rest...}"), 1 => Just("/{r...}/")];
    let path = (prop::collection::vec(segment, 1..=15), end)
        .prop_map(|(segments, end)| segments.join("/") + end);
    let method = "[A-Z]{1,20}".prop_filter("HEAD follows GET", |method| method != "HEAD");
    (method, path).prop_map(|(method, path)| format!("{method} /{path}"))
}

fn defs() -> impl Strategy<Value = Vec<ScopeDef>> {
    let description = "[^\\p{Cc}]{0,40}".prop_filter("hidden", |text| text::check(text).is_ok());
    let def = (0..3u8, description, prop::collection::vec(route(), 0..3));
    prop::collection::btree_map("[a-z0-9_.-]{1,64}", def, 1..5).prop_map(|defs| {
        let mut shapes = BTreeSet::new();
        defs.into_iter()
            .map(|(name, (sensitivity, description, routes))| ScopeDef {
                name: name.parse().unwrap(),
                access: if sensitivity == 0 { Access::Read } else { Access::Write },
                requires_whitelist: sensitivity == 2,
                description,
                routes: routes
                    .iter()
                    .map(|route| route.parse::<Route>().unwrap())
                    .filter(|route| shapes.insert(route.shape()))
                    .collect(),
            })
            .collect()
    })
}
