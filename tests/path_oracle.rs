//! The route table against slow and obvious models of services that read a path further than
//! Portcullis does (docs/policy.md, rules 2.22 and 2.23): whatever the table gives to a scope, no such
//! service may run a route of another scope for it.
//!
//! What must stay true: the models share no code with the table. They change the whole path, step by
//! step, and then try each route; Unicode comes from another library.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use portcullis::policy::route::{Route, RouteTable, Unresolved};
use unicode_normalization::UnicodeNormalization as _;

/// What a service does to a path before it looks for a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// Decodes escapes once more, also IIS's `%uXXXX`.
    Decode,
    /// Servlet containers.
    CutAtSemicolons,
    /// What reads the path as a URL again.
    CutAtQuestionMark,
    CutAtHash,
    /// What keeps paths as C strings, or writes them into lines.
    CutAtControls,
    BackslashesToSlashes,
    Nfkc,
    DropInvisible,
    MergeSlashes,
    ResolveDots,
    LowerCase,
    /// A locale in which the capital of `i` has a dot.
    TurkishLowerCase,
    UpperCaseAndBack,
    /// IIS and Windows.
    TrimDotsAndSpaces,
    TrimSpaces,
    /// Rails and Spring: the last dot of segments, by the bits.
    DropExtensions(u8),
}

/// Those that come before routing, in any order.
const NORMALISING: [Step; 15] = [
    Step::Decode,
    Step::CutAtSemicolons,
    Step::CutAtQuestionMark,
    Step::CutAtHash,
    Step::CutAtControls,
    Step::BackslashesToSlashes,
    Step::Nfkc,
    Step::DropInvisible,
    Step::MergeSlashes,
    Step::ResolveDots,
    Step::LowerCase,
    Step::TurkishLowerCase,
    Step::UpperCaseAndBack,
    Step::TrimDotsAndSpaces,
    Step::TrimSpaces,
];

impl Step {
    fn apply(self, path: &str) -> String {
        let each = |change: &dyn Fn(&str) -> String| {
            path.split('/').map(change).collect::<Vec<_>>().join("/")
        };
        let until = |end: &dyn Fn(char) -> bool| path.split(end).next().unwrap().to_owned();
        match self {
            Self::Decode => decode(path),
            Self::CutAtSemicolons => each(&|s| s.split(';').next().unwrap().to_owned()),
            Self::CutAtQuestionMark => until(&|c| c == '?'),
            Self::CutAtHash => until(&|c| c == '#'),
            Self::CutAtControls => until(&|c| c.is_control() || "\u{2028}\u{2029}".contains(c)),
            Self::BackslashesToSlashes => path.replace('\\', "/"),
            Self::Nfkc => path.nfkc().collect(),
            Self::DropInvisible => path.replace(
                ['\u{ad}', '\u{200b}', '\u{200d}', '\u{feff}', '\u{fe0f}', '\u{202e}'],
                "",
            ),
            // The last slash stays: it is part of the routes that have one (rule 1.18).
            Self::MergeSlashes => {
                let mut merged = path.to_owned();
                while merged.contains("//") {
                    merged = merged.replace("//", "/");
                }
                merged
            }
            Self::ResolveDots => {
                let mut kept = Vec::new();
                for segment in path.split('/') {
                    match segment {
                        "." => {}
                        ".." => drop(kept.pop()),
                        segment => kept.push(segment),
                    }
                }
                kept.join("/")
            }
            Self::LowerCase => path.to_lowercase(),
            Self::TurkishLowerCase => path.replace(['\u{130}', '\u{131}'], "i").to_lowercase(),
            Self::UpperCaseAndBack => path.to_uppercase().to_lowercase(),
            Self::TrimDotsAndSpaces => each(&|s| s.trim_end_matches(['.', ' ']).to_owned()),
            Self::TrimSpaces => each(&|s| s.trim().to_owned()),
            Self::DropExtensions(bits) => {
                let segments = path.split('/').enumerate().map(|(i, segment)| {
                    let dot = segment.rfind('.').filter(|&at| at > 0 && bits >> (i % 8) & 1 == 1);
                    &segment[..dot.unwrap_or(segment.len())]
                });
                segments.collect::<Vec<_>>().join("/")
            }
        }
    }
}

fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let (mut decoded, mut i) = (Vec::new(), 0);
    let number = |range: std::ops::Range<usize>| {
        let digits = path.get(range)?;
        let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| u32::from_str_radix(digits, 16).unwrap())
    };
    while i < bytes.len() {
        if bytes[i] == b'%' {
            if let Some(byte) = number(i + 1..i + 3) {
                decoded.push(u8::try_from(byte).unwrap());
                i += 3;
                continue;
            }
            let wide = path[i + 1..].starts_with('u').then(|| number(i + 2..i + 6)).flatten();
            if let Some(c) = wide.and_then(char::from_u32) {
                decoded.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                i += 6;
                continue;
            }
        }
        decoded.push(bytes[i]);
        i += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A service: its steps, and whether it compares literals without regard to case (Express, ASP.NET).
/// One that changes case does so too: it could never run its own routes otherwise.
#[derive(Debug)]
struct Service {
    steps: Vec<Step>,
    ignores_case: bool,
}

impl Service {
    /// The scope whose route it runs.
    fn run(&self, routes: &Routes, path: &str) -> Option<usize> {
        let path = path.split('?').next().unwrap().to_owned();
        let path = self.steps.iter().fold(path, |path, step| step.apply(&path));
        let changes_case = [Step::LowerCase, Step::TurkishLowerCase, Step::UpperCaseAndBack];
        let changes_case = self.steps.iter().any(|step| changes_case.contains(step));
        obvious(routes, &path, self.ignores_case || changes_case)
    }
}

type Routes = BTreeMap<String, usize>;

/// The scope of the route that `path` takes as it stands, by trying each.
fn obvious(routes: &Routes, path: &str, ignores_case: bool) -> Option<usize> {
    let path = path.strip_prefix('/')?;
    let slash = path.ends_with('/');
    let segments: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    if segments.contains(&"") {
        return None;
    }
    let alike = |a: &str, b: &str| {
        a == b
            || ignores_case
                && (a.to_lowercase() == b.to_lowercase() || a.to_uppercase() == b.to_uppercase())
    };
    // How well a segment of a route matches one of the path, best first: a literal, then what fixes
    // more of the end; of those that differ in case, what is written so.
    let rank = |pattern: &str, segment: &str| match pattern.split_once('}') {
        None => alike(pattern, segment).then(|| (0, 0, pattern != segment)),
        Some((_, end)) => {
            let mut ends = segment.char_indices().skip(1).map(|(at, _)| &segment[at..]);
            let found = if end.is_empty() { Some("") } else { ends.find(|s| alike(s, end)) };
            found.map(|found| (1, 100 - end.len(), found != end))
        }
    };
    let ranks = |route: &str| {
        let route_slash = route.ends_with('/');
        let route = route.strip_suffix('/').unwrap_or(route);
        let pattern: Vec<&str> = route.split('/').skip(1).collect();
        let open = pattern.last() == Some(&"{x...}");
        let fixed = if open { &pattern[..pattern.len() - 1] } else { &pattern[..] };
        let depth = if open { segments.len() > fixed.len() } else { segments.len() == fixed.len() };
        if route_slash != slash || !depth {
            return None;
        }
        let ranks = fixed.iter().zip(&segments).map(|(p, s)| rank(p, s));
        ranks.chain(open.then_some(Some((2, 0, false)))).collect::<Option<Vec<_>>>()
    };
    let matching = routes.iter().filter_map(|(route, scope)| Some((ranks(route)?, scope)));
    matching.min_by_key(|(ranks, _)| ranks.clone()).map(|(_, scope)| *scope)
}

/// Numbers that are the same in every run.
struct Dice(u64);

const WORDS: [&str; 14] = [
    "a",
    "b",
    "ab",
    "export",
    "cards",
    "Export",
    "a.b",
    "export.csv",
    "v1.0",
    "keys",
    "list",
    "office",
    "strasse",
    ".a",
];

const SUFFIXED: [&str; 8] =
    ["{x}.a", "{x}.csv", "{x}:list", "{x}:List", "{x}:list.csv", "{x}a", "{x}-keys", "{x}.a.csv"];

/// What may stand anywhere in a path.
const HOSTILE: [&str; 48] = [
    ".",
    "..",
    ".json",
    ".tar.gz",
    " ",
    "%20",
    "%2e",
    ";",
    ";a=1",
    "%3B",
    "%3b",
    "%253b",
    "%2f",
    "%252f",
    "%25252f",
    "%5c",
    "\\",
    "%255c",
    "?",
    "%3f",
    "%253F",
    "#",
    "%23",
    "%2523",
    "%00",
    "\u{85}",
    "\u{2028}",
    "/",
    "//",
    "/.",
    "/..",
    "/./",
    "%u002f",
    "%25u002e",
    "\u{ff0f}",
    "\u{ff0e}",
    "\u{2024}",
    "\u{2025}",
    "\u{ff1b}",
    "\u{ff05}2e",
    "\u{ad}",
    "\u{200b}",
    "%E2%80%8D",
    "\u{a0}",
    "%C3%A9",
    "%C0%AF",
    "%ff",
    "%",
];

/// What may stand in the place of a whole segment: some service takes it for `..`, `.` or nothing.
const DOTS: [&str; 10] = [
    "..%20",
    "%20..",
    ". .",
    "...",
    "%E2%80%A5",
    "\u{ff0e}\u{ff0e}",
    ".%C2%AD.",
    "%E2%80%8B",
    "%C2%A0",
    "%252e%252e",
];

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

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn routes(&mut self) -> Routes {
        let mut routes = Routes::new();
        // Few words, so that routes overlap.
        let words = [self.pick(&WORDS), self.pick(&WORDS), self.pick(&WORDS)];
        for _ in 0..2 + self.below(8) {
            let mut route = String::new();
            for _ in 0..1 + self.below(3) {
                route += "/";
                route += match self.below(6) {
                    0..2 => "{x}",
                    2 => self.pick(&SUFFIXED),
                    _ => self.pick(&words),
                };
            }
            if self.once_in(6) {
                route += "/{x...}";
            }
            if self.once_in(6) {
                route += "/";
            }
            let scope = self.below(3);
            routes.insert(route, scope);
        }
        routes
    }

    /// A path that means one of the routes, disguised.
    fn path(&mut self, routes: &Routes) -> String {
        let names: Vec<&String> = routes.keys().collect();
        let route = self.pick(&names);
        let mut path = String::new();
        for segment in route.split('/').skip(1) {
            let word = match segment.split_once('}') {
                None => segment.to_owned(),
                // Another route's end, so that a suffix stands where another route has a parameter.
                Some((_, "")) if self.once_in(3) => {
                    self.pick(&WORDS).to_owned() + self.pick(&SUFFIXED).trim_start_matches("{x}")
                }
                Some((_, end)) => {
                    self.pick(&["", "\u{e9}", " ", "\u{ad}", "x."]).to_owned()
                        + self.pick(&WORDS)
                        + end
                }
            };
            let word = if segment == "{x...}" && self.once_in(2) {
                word + "/" + self.pick(&WORDS)
            } else {
                word
            };
            if segment == "{x}" && self.once_in(8) {
                path = format!("{path}/{}", self.pick(&DOTS));
                continue;
            }
            let disguised = self.once_in(2);
            path.push('/');
            for c in word.chars() {
                if c == '/' {
                    path.push(c);
                    continue;
                }
                let c = if disguised && self.once_in(4) { self.disguise(c) } else { c.to_string() };
                path += &if self.once_in(12) { self.encode(&c) } else { c };
            }
            if self.once_in(3) {
                path += self.pick(&HOSTILE);
            }
        }
        if self.once_in(3) {
            let places: Vec<usize> = path.char_indices().map(|(at, _)| at).collect();
            let at = self.pick(&places);
            path.insert_str(at, self.pick(&HOSTILE));
        }
        path
    }

    /// A character that some service takes for `c`.
    fn disguise(&mut self, c: char) -> String {
        let special = match c {
            'k' => "\u{212a}",
            's' => "\u{17f}",
            'i' => self.pick(&["\u{131}", "\u{130}", "I"]),
            'f' => "\u{1d41f}",
            _ => "",
        };
        let wide = char::from_u32(c as u32 + 0xfee0).filter(|_| c.is_ascii_graphic());
        match self.below(4) {
            0 if !special.is_empty() => special.to_owned(),
            1 => wide.unwrap_or(c).to_string(),
            2 => format!("{c}\u{ad}"),
            _ if c.is_lowercase() => c.to_uppercase().to_string(),
            _ => c.to_lowercase().to_string(),
        }
    }

    fn encode(&mut self, text: &str) -> String {
        let percent = self.pick(&["%", "%", "%", "%25", "%2525"]);
        text.bytes().map(|byte| format!("{percent}{byte:02X}")).collect()
    }

    /// Each decodes once, as Portcullis does, and then does more.
    fn service(&mut self) -> Service {
        let mut steps: Vec<Step> = (0..self.below(6)).map(|_| self.pick(&NORMALISING)).collect();
        steps.insert(self.below(steps.len() + 1), Step::Decode);
        for _ in 0..self.below(4) {
            let bits = u8::try_from(self.below(256)).unwrap();
            steps.push(self.pick(&[
                Step::DropExtensions(bits),
                Step::DropExtensions(bits),
                Step::TrimDotsAndSpaces,
                Step::TrimSpaces,
                Step::Nfkc,
                Step::LowerCase,
            ]));
        }
        Service { steps, ignores_case: self.once_in(2) }
    }
}

fn table(routes: &Routes) -> RouteTable<usize> {
    let mut table = RouteTable::default();
    for (path, scope) in routes {
        let route: Route = format!("GET {path}").parse().unwrap();
        table.insert(&route, *scope).unwrap();
    }
    table
}

#[test]
fn no_service_runs_a_route_of_another_scope() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut given, mut ambiguous, mut ran) = (0, 0, 0);
    for _ in 0..6_000 {
        let routes = dice.routes();
        let table = table(&routes);
        for _ in 0..25 {
            let path = dice.path(&routes);
            let scope = match table.resolve("GET", &path, |a, b| a == b) {
                Ok(&scope) => scope,
                Err(Unresolved::Ambiguous { .. }) => {
                    ambiguous += 1;
                    continue;
                }
                Err(Unresolved::NoRoute) => continue,
            };
            given += 1;
            for _ in 0..8 {
                let service = dice.service();
                let run = service.run(&routes, &path);
                ran += usize::from(run.is_some());
                assert!(
                    run.is_none_or(|run| run == scope),
                    "{path:?} is given to scope {scope}, and {service:?} runs {run:?}: {routes:#?}"
                );
            }
        }
    }
    // The generator must not drift into paths that are never given to anything.
    assert!(given > 20_000 && ambiguous > 2_500 && ran > 100_000, "{given} {ambiguous} {ran}");
}

/// What Portcullis did before rules 2.22 and 2.23: each kind of service finds a path that it gave to
/// one scope and the service runs for another.
#[test]
fn every_kind_of_service_breaks_a_table_without_these_rules() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let before = |routes: &Routes, path: &str| {
        let path = path.split('?').next().unwrap();
        let slashes = ["%2f", "%2F", "%5c", "%5C", "\\", "#", "%00"];
        if slashes.iter().any(|slash| path.contains(slash)) {
            return None;
        }
        let decoded = decode(path);
        let dots = |s: &str| [".", ".."].contains(&s.split(';').next().unwrap());
        (!decoded.split('/').any(dots)).then(|| obvious(routes, &decoded, false)).flatten()
    };
    let mut kinds: Vec<(String, Service)> = NORMALISING
        .iter()
        .chain([&Step::DropExtensions(255)])
        .map(|&step| {
            let mut steps = vec![Step::Decode, step];
            if [Step::BackslashesToSlashes, Step::ResolveDots, Step::MergeSlashes].contains(&step) {
                // These find nothing where nothing makes them slashes or dots.
                steps = vec![Step::Decode, Step::Decode, Step::Nfkc, step, Step::ResolveDots];
            }
            (format!("{step:?}"), Service { steps, ignores_case: false })
        })
        .collect();
    kinds.push(("case".into(), Service { steps: vec![Step::Decode], ignores_case: true }));
    let mut found = vec![0; kinds.len()];
    for _ in 0..3_000 {
        let routes = dice.routes();
        for _ in 0..20 {
            let path = dice.path(&routes);
            let Some(scope) = before(&routes, &path) else { continue };
            for ((_, service), found) in kinds.iter().zip(&mut found) {
                *found += usize::from(service.run(&routes, &path).is_some_and(|run| run != scope));
            }
        }
    }
    for ((kind, _), found) in kinds.iter().zip(&found) {
        assert!(*found > 0, "{kind} found nothing");
    }
}

#[test]
fn ordinary_paths_are_given_to_their_route() {
    let mut dice = Dice(0xd1b5_4a32_d192_ed03);
    // Whatever is done to an id of these, no word comes out.
    let ids: Vec<char> = "QZ79_~-".chars().collect();
    let mut given = 0;
    for _ in 0..4_000 {
        let routes = dice.routes();
        if routes.keys().any(|route| route.replace("...", "").contains(['.', 'E', 'L'])) {
            continue;
        }
        let table = table(&routes);
        for _ in 0..10 {
            let names: Vec<&String> = routes.keys().collect();
            let mut path = String::new();
            for segment in dice.pick(&names).split('/').skip(1) {
                path.push('/');
                let Some((_, end)) = segment.split_once('}') else {
                    path += segment;
                    continue;
                };
                if end.is_empty() && dice.once_in(4) {
                    path += dice.pick(&["a", "b", "42"]);
                    continue;
                }
                path.push(dice.pick(&ids));
                path.extend((0..dice.below(8)).map(|_| dice.pick(&ids)));
                // An id with an extension before a suffix is one that some servers cut off with it.
                let ends = ["", ".", ".pdf", ".tar.gz", " ", "%20x"];
                path += if end.is_empty() { dice.pick(&ends) } else { end };
                if segment == "{x...}" && dice.once_in(2) {
                    path += "/Q/7";
                }
            }
            let expected = obvious(&routes, &decode(&path), false);
            assert!(expected.is_some(), "{path} in {routes:#?}");
            let found = table.resolve("GET", &path, |a, b| a == b);
            assert_eq!(found.ok().copied(), expected, "{path} in {routes:#?}");
            given += 1;
        }
    }
    assert!(given > 5_000, "{given}");
}
