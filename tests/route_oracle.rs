//! The route table against a slow and obvious matcher written from the rules alone, and the
//! built-in catalogue against what is known of the API it describes.
//!
//! What must stay true: the oracle shares no code with the table; it reads routes from their text.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use portcullis::policy::catalog_file;
use portcullis::policy::route::{Route, RouteTable};
use portcullis::policy::scope::{Access, Catalog, ScopeId};

const CASES: usize = 200_000;
const METHODS: [&str; 5] = ["GET", "POST", "HEAD", "get", "DELETE"];
const WORDS: [&str; 7] = ["a", "b", "ab", "c", "invites", "a.b", ".a."];

/// What a segment of a route may be.
const FORMS: [&str; 7] = ["{x}", "{x}", "{x}", "{x}.a", "{x}b", "{x}a.b", "{x}:b"];

/// The route that the request takes, by trying each.
fn obvious<'r>(routes: &'r [String], method: &str, path: &str) -> Option<&'r String> {
    let path = path.split('?').next().unwrap().strip_prefix('/')?;
    let slash = path.len() > 1 && path.ends_with('/');
    let path = if slash { &path[..path.len() - 1] } else { path };
    let segments: Vec<Vec<u8>> = path.split('/').map(obvious_segment).collect::<Option<_>>()?;
    let method = if method == "HEAD" { "GET" } else { method };
    let matching = routes.iter().filter(|route| {
        let (route_method, pattern) = route.split_once(" /").unwrap();
        let mut pattern: Vec<&str> = pattern.split('/').collect();
        let route_slash = pattern.last() == Some(&"");
        if route_slash {
            pattern.pop();
        }
        // A catch-all is as many parameters as are left, and at least one.
        while pattern.last() == Some(&"{x...}") && pattern.len() < segments.len() {
            pattern.insert(pattern.len() - 1, "{x}");
        }
        route_method == method
            && route_slash == slash
            && pattern.len() == segments.len()
            && segments.len() <= 64
            && pattern.iter().zip(&segments).all(|(p, segment)| match p.split_once('}') {
                None => p.as_bytes() == segment,
                Some((_, end)) => {
                    segment.len() > end.len()
                        && segment[segment.len() - end.len()..] == *end.as_bytes()
                }
            })
    });
    // Literals first, then what ends with more, then parameters, then the rest; left to right.
    matching.min_by_key(|route| {
        let rank = |p: &str| match p {
            "{x...}" => (2, 0),
            p if p.starts_with('{') => (1, 100 - p.len()),
            _ => (0, 0),
        };
        route.split('/').skip(1).map(rank).collect::<Vec<_>>()
    })
}

/// The segment, decoded; `None` where rule 2.11 or 2.22 refuses it. Of Unicode it knows what
/// [`Dice::path`] sends.
fn obvious_segment(raw: &str) -> Option<Vec<u8>> {
    let raw = raw.as_bytes();
    let forbidden = |byte: u8| byte < 32 || b"\x7f\\/;?#".contains(&byte);
    if raw.iter().any(|&byte| forbidden(byte)) {
        return None;
    }
    let mut decoded = Vec::new();
    let mut i = 0;
    while i < raw.len() {
        if raw[i] == b'%' {
            let digits = raw.get(i + 1..i + 3)?;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            let byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
            if forbidden(byte) {
                return None;
            }
            decoded.push(byte);
            i += 3;
        } else {
            decoded.push(raw[i]);
            i += 1;
        }
    }
    let text = std::str::from_utf8(&decoded).ok()?;
    let escapes =
        decoded.windows(3).any(|w| w[0] == b'%' && w[1..].iter().all(u8::is_ascii_hexdigit));
    let nothing = text.trim_matches(['.', ' ']).is_empty();
    (!escapes && !nothing).then_some(decoded)
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 33) % end as u64).unwrap()
    }

    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len())]
    }

    fn routes(&mut self) -> Vec<String> {
        let mut routes = Vec::new();
        for _ in 0..1 + self.below(12) {
            let mut route = format!("{} ", self.pick(&["GET", "GET", "POST", "DELETE"]));
            // Most often few segments of few words, so that routes overlap.
            let depth = if self.once_in(20) { 1 + self.below(16) } else { 1 + self.below(4) };
            let words = if self.once_in(2) { 2 } else { WORDS.len() };
            for _ in 0..depth {
                route.push('/');
                let words = if self.once_in(2) { &FORMS } else { &WORDS[..words] };
                route.push_str(self.pick(words));
            }
            if self.once_in(8) {
                let last = route.rfind('/').unwrap();
                route.truncate(last);
                route.push_str("/{x...}");
            }
            if self.once_in(8) {
                route.push('/');
            }
            routes.push(route);
        }
        routes.sort();
        routes.dedup();
        routes
    }

    /// A path that one of `routes` might match, unless something was done to it.
    fn path(&mut self, routes: &[String]) -> String {
        let route = &routes[self.below(routes.len())];
        let mut path = String::new();
        for segment in route.split('/').skip(1) {
            let depth = if segment == "{x...}" { 1 + self.below(3) } else { 1 };
            let more = if segment == "{x...}" && self.once_in(8) { 50 + self.below(14) } else { 0 };
            let words: Vec<&str> = (0..depth + more).map(|_| self.pick(&WORDS)).collect();
            let word = match segment.split_once('}') {
                _ if self.once_in(8) => words[0].to_owned(),
                _ if segment == "{x...}" => words.join("/"),
                Some((_, end)) if self.once_in(4) => end.to_owned(),
                Some((_, end)) => format!("{}{end}", words[0]),
                None => segment.to_owned(),
            };
            path.push('/');
            for c in word.chars() {
                if c == '/' {
                    path.push(c);
                    continue;
                }
                if self.once_in(12) {
                    path += &format!("%{:02x}", c as u32);
                } else if self.once_in(40) {
                    path += &format!("%{:02X}", c as u32);
                } else {
                    path.push(c);
                }
            }
        }
        if self.once_in(4) {
            let odd = [
                "/", "//", "/.", "/..", "/%2e", "/%2E.", "/.%2e/", "/..;", "..", ".", "%2F", "%2f",
                "%5c", "\\", "%", "%4", "%4g", "%25", "%252e", "%00", "%7F", "\u{7f}", "\n", "#",
                "?", "?a/..", "%3f", "%ff", "%C3%A9", "\u{e9}", ";", "/x", "/x/x", " ", "+", "%2b",
                "%80",
            ];
            let places: Vec<usize> =
                (0..=path.len()).filter(|&at| path.is_char_boundary(at)).collect();
            let at = places[self.below(places.len())];
            path.insert_str(at, self.pick(&odd));
        }
        path
    }
}

#[test]
fn the_table_agrees_with_the_obvious_matcher() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut cases, mut hits, mut overlaps) = (0, 0, 0);
    let (mut suffixes, mut catch_alls, mut slashes) = (0, 0, 0);
    while cases < CASES {
        let routes = dice.routes();
        let mut table = RouteTable::default();
        for text in &routes {
            let route: Route = text.parse().unwrap();
            assert_eq!(&route.to_string(), text);
            table.insert(&route, text).unwrap();
        }
        for _ in 0..40 {
            let method = dice.pick(&METHODS[..]);
            let path = dice.path(&routes);
            let expected = obvious(&routes, method, &path);
            let found = table.resolve(method, &path, |_, _| true).ok().copied();
            assert_eq!(found, expected, "{method} {path:?} in {routes:#?}");
            cases += 1;
            hits += usize::from(found.is_some());
            let form = |has: &dyn Fn(&str) -> bool| usize::from(found.is_some_and(|r| has(r)));
            overlaps += form(&|route| route.contains('{'));
            suffixes += form(&|route| FORMS[3..].iter().any(|form| route.contains(form)));
            catch_alls += form(&|route| route.contains("..."));
            slashes += form(&|route| route.ends_with('/'));
        }
    }
    // The generator must not drift into paths that never match.
    let found = [hits, overlaps, suffixes, catch_alls, slashes];
    let least = [10, 20, 30, 30, 100].map(|part| CASES / part);
    assert!(found.iter().zip(least).all(|(found, least)| *found > least), "{found:?} of {cases}");
}

fn mercury() -> Catalog {
    let defs = catalog_file::parse(include_str!("../catalogs/mercury.toml")).unwrap();
    let mut next = 0;
    Catalog::new(1, defs, |_| {
        next += 1;
        ScopeId(next)
    })
}

/// The columns of a file of facts, without comments and heading.
fn facts(tsv: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    tsv.lines().filter(|l| !l.starts_with('#')).skip(1).map(|line| line.split('\t').collect())
}

/// The bank's label at the end of a description: `See cards [Fetch Cards]`.
fn label(description: &str) -> Option<&str> {
    description.strip_suffix(']')?.rsplit_once('[').map(|(_, label)| label)
}

#[test]
fn mercury_has_the_banks_scopes_with_their_asterisks() {
    let catalog = mercury();
    let labelled: BTreeMap<&str, bool> = catalog
        .scopes()
        .iter()
        .filter_map(|scope| Some((label(&scope.description)?, scope.requires_whitelist)))
        .collect();
    let known: BTreeMap<&str, bool> = facts(include_str!("data/mercury-scopes.tsv"))
        .map(|columns| (columns[1], columns[2] != "no"))
        .collect();
    assert_eq!(known.len(), 27);
    assert_eq!(labelled, known);

    let ours = catalog.scopes().iter().skip(27);
    assert!(catalog.scopes()[..27].iter().all(|scope| label(&scope.description).is_some()));
    assert!(ours.clone().all(|scope| label(&scope.description).is_none()));
    assert!(ours.clone().all(|s| s.requires_whitelist == (s.access == Access::Write)));
    assert_eq!(ours.count(), 8);
    for scope in catalog.scopes() {
        assert!(!scope.description.is_empty() && !scope.routes.is_empty(), "{}", scope.name);
        let fetches = label(&scope.description).is_none_or(|label| label.starts_with("Fetch "));
        assert!(scope.access == Access::Write || fetches, "{}", scope.name);
    }
}

#[test]
fn mercury_covers_each_endpoint_once_and_nothing_else() {
    let catalog = mercury();
    let shapes: Vec<String> =
        catalog.scopes().iter().flat_map(|s| &s.routes).map(Route::shape).collect();
    let known: Vec<String> = facts(include_str!("data/mercury-endpoints.tsv"))
        .map(|c| format!("{} /api/v1{}", c[1], c[2]).parse::<Route>().unwrap().shape())
        .collect();
    assert_eq!((shapes.len(), known.len()), (67, 67));
    assert_eq!(BTreeSet::from_iter(shapes), BTreeSet::from_iter(known));
}

#[test]
fn mercury_resolves_as_its_rules_say() {
    let catalog = mercury();
    let scope = |method, path| catalog.resolve(method, path).ok().map(|scope| scope.name.as_str());
    for (method, path, expected) in [
        ("GET", "/api/v1/recipients/invites", Some("recipients.invites.read")),
        ("GET", "/api/v1/recipients/attachments", Some("recipients.read")),
        ("GET", "/api/v1/cards/3f/reveal", Some("cards.reveal")),
        ("HEAD", "/api/v1/cards/3f/reveal", Some("cards.reveal")),
        ("GET", "/api/v1/cards/3f%2Freveal", None),
        ("GET", "/api/v1/transactions?limit=10", Some("transactions.read")),
        ("POST", "/api/v1/account/7/transactions", Some("transactions.send")),
        ("POST", "/api/v1/account/7/request-send-money", Some("transactions.request")),
        ("PUT", "/api/v1/transactions", None),
        ("GET", "/api/v2/transactions", None),
    ] {
        assert_eq!(scope(method, path), expected, "{method} {path}");
    }
    let by_name = |name| catalog.by_name(name).map(|s| (s.access, s.requires_whitelist));
    assert_eq!(by_name("cards.reveal"), Some((Access::Write, true)));
    assert_eq!(by_name("transactions.request"), Some((Access::Write, false)));
    assert_eq!(by_name("transactions.send"), Some((Access::Write, true)));
    assert_eq!(by_name("transactions.read"), Some((Access::Read, false)));
}
