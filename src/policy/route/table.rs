//! Which route a request takes.
//!
//! What must stay true: a request path is read in one way only. Whatever two programs might read
//! differently (dot segments, encoded slashes, empty segments, bad escapes) matches no route, and
//! what matches no route is denied. The work for one request is linear in its path, plus at most
//! one visit to each node of the table, and needs no memory unless the path has escapes.

use super::{MAX_SEGMENTS, Method, Route, is_dot_segment};

/// Routes with a value each, as a tree of segments.
#[derive(Debug, Clone)]
pub struct RouteTable<T> {
    /// Never empty: the first node is the root. A node's children come after it.
    nodes: Vec<Node<T>>,
    /// Segments of the deepest route; at most [`MAX_SEGMENTS`], which bounds the recursion too.
    deepest: usize,
}

#[derive(Debug, Clone)]
struct Node<T> {
    /// Children by literal, sorted by [`order`].
    literals: Vec<(Box<str>, usize)>,
    parameter: Option<usize>,
    /// The routes that end here, by method.
    routes: Vec<(Method, T)>,
}

impl<T> Node<T> {
    const EMPTY: Self = Self { literals: Vec::new(), parameter: None, routes: Vec::new() };

    fn literal(&self, segment: &[u8]) -> Result<usize, usize> {
        self.literals.binary_search_by(|(text, _)| {
            // By length first: it settles most comparisons without a look at the text.
            text.len().cmp(&segment.len()).then_with(|| text.as_bytes().cmp(segment))
        })
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::EMPTY], deepest: 0 }
    }
}

impl<T> RouteTable<T> {
    /// Adds `route` with `value`.
    ///
    /// # Errors
    /// The table has a route of the same shape: it keeps that one, and `value` comes back.
    pub fn insert(&mut self, route: &Route, value: T) -> Result<(), T> {
        let mut at = 0;
        for segment in &route.segments {
            let next = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match segment.literal() {
                None => *node.parameter.get_or_insert(next),
                Some(text) => match node.literal(text.as_bytes()) {
                    Ok(i) => node.literals[i].1,
                    Err(i) => {
                        node.literals.insert(i, (text.into(), next));
                        next
                    }
                },
            };
            if at == next {
                self.nodes.push(Node::EMPTY);
            }
        }
        let routes = &mut self.nodes[at].routes;
        if routes.iter().any(|(method, _)| *method == route.method) {
            return Err(value);
        }
        routes.push((route.method.clone(), value));
        self.deepest = self.deepest.max(route.segments.len());
        Ok(())
    }

    /// The value of the route that a request takes, if it takes any.
    ///
    /// `path` is the request's target as received: escaped, and with its query string, if any. It
    /// is cut there, split at `/`, and each segment decoded once. Segments are matched left to
    /// right, a literal before a parameter; a branch that leads to no route for `method` is left
    /// again. Methods are case-sensitive, and `HEAD` takes `GET`'s routes.
    ///
    /// `None` also for every path with a dot segment, `%2F`, `%5C`, `\`, a control byte (encoded or
    /// not), a bad escape, a raw `#`, an empty segment or a trailing slash.
    pub fn resolve(&self, method: &str, path: &str) -> Option<&T> {
        let method = if method == "HEAD" { "GET" } else { method };
        let mut segments = [b"".as_slice(); MAX_SEGMENTS];
        let split = split(path.as_bytes(), &mut segments[..self.deepest])?;
        let segments = &mut segments[..split.count];
        let decoded: Vec<u8>;
        if split.escaped {
            let mut ends = [0; MAX_SEGMENTS];
            decoded = decode(segments, &mut ends)?;
            let mut start = 0;
            for (segment, end) in segments.iter_mut().zip(ends) {
                *segment = &decoded[start..end];
                start = end;
            }
        }
        if segments.iter().any(|segment| is_dot_segment(segment)) {
            return None;
        }
        self.search(0, method, segments)
    }

    /// Recurses once per segment, so [`MAX_SEGMENTS`] deep at most.
    fn search(&self, at: usize, method: &str, segments: &[&[u8]]) -> Option<&T> {
        let node = &self.nodes[at];
        let Some((segment, rest)) = segments.split_first() else {
            let mut routes = node.routes.iter();
            return routes.find(|(m, _)| *m.0 == *method).map(|(_, value)| value);
        };
        let by_literal = match node.literal(segment) {
            Ok(i) => self.search(node.literals[i].1, method, rest),
            Err(_) => None,
        };
        by_literal.or_else(|| self.search(node.parameter?, method, rest))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Ordinary,
    Slash,
    Percent,
    Query,
    /// Control bytes; `\`, which some servers take for `/`; `#`, after which some read no further.
    Refused,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Ordinary; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = Class::Refused;
        byte += 1;
    }
    table[0x7f] = Class::Refused;
    table[b'\\' as usize] = Class::Refused;
    table[b'#' as usize] = Class::Refused;
    table[b'/' as usize] = Class::Slash;
    table[b'%' as usize] = Class::Percent;
    table[b'?' as usize] = Class::Query;
    table
};

struct Split {
    count: usize,
    escaped: bool,
}

/// Cuts `path` into `segments`, still escaped. `None` if it must match nothing, or has more
/// segments than there is room for; it reads no further then.
fn split<'p>(path: &'p [u8], segments: &mut [&'p [u8]]) -> Option<Split> {
    let path = path.strip_prefix(b"/")?;
    let mut split = Split { count: 0, escaped: false };
    let mut start = 0;
    let mut end = path.len();
    for (i, &byte) in path.iter().enumerate() {
        match CLASS[usize::from(byte)] {
            Class::Ordinary => {}
            Class::Percent => split.escaped = true,
            Class::Refused => return None,
            Class::Query => {
                end = i;
                break;
            }
            Class::Slash => {
                if i == start {
                    return None;
                }
                *segments.get_mut(split.count)? = &path[start..i];
                split.count += 1;
                start = i + 1;
            }
        }
    }
    if end == start {
        return None;
    }
    *segments.get_mut(split.count)? = &path[start..end];
    split.count += 1;
    Some(split)
}

/// Decodes `segments` into one buffer, where `ends` says how far each reaches. `None` for a bad
/// escape and for an escaped byte that must not occur.
fn decode(segments: &[&[u8]], ends: &mut [usize; MAX_SEGMENTS]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(segments.iter().map(|s| s.len()).sum());
    for (segment, end) in segments.iter().zip(ends) {
        let mut bytes = segment.iter();
        while let Some(&byte) = bytes.next() {
            if byte != b'%' {
                decoded.push(byte);
                continue;
            }
            let byte = hex(*bytes.next()?)? << 4 | hex(*bytes.next()?)?;
            if byte < 0x20 || matches!(byte, 0x7f | b'/' | b'\\') {
                return None;
            }
            decoded.push(byte);
        }
        *end = decoded.len();
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(routes: &[&str]) -> RouteTable<String> {
        let mut table = RouteTable::default();
        for text in routes {
            table.insert(&text.parse().unwrap(), (*text).to_owned()).unwrap();
        }
        table
    }

    /// Of `routes`, the one that each request takes.
    #[track_caller]
    fn check(routes: &[&str], cases: &[(&str, &str, Option<&str>)]) {
        let table = table(routes);
        for &(method, path, expected) in cases {
            let found = table.resolve(method, path).map(String::as_str);
            assert_eq!(found, expected, "{method} {path:?}");
        }
    }

    #[test]
    fn literals_go_before_parameters_from_the_left() {
        let routes = ["GET /a/b", "GET /a/{x}", "GET /{x}/b", "GET /{x}/{y}/c", "GET /a/{x}/d"];
        check(
            &routes,
            &[
                ("GET", "/a/b", Some("GET /a/b")),
                ("GET", "/a/c", Some("GET /a/{x}")),
                ("GET", "/c/b", Some("GET /{x}/b")),
                ("GET", "/c/c", None),
                ("GET", "/a/b/c", Some("GET /{x}/{y}/c")),
                ("GET", "/a/b/d", Some("GET /a/{x}/d")),
                ("GET", "/b/b/d", None),
                ("GET", "/a", None),
                ("GET", "/a/b/c/d", None),
            ],
        );
    }

    #[test]
    fn a_literal_without_the_method_is_left_again() {
        check(
            &["GET /a/{x}", "POST /a/b", "GET /{x}/c/{y}", "DELETE /a/c/d"],
            &[
                ("GET", "/a/b", Some("GET /a/{x}")),
                ("POST", "/a/b", Some("POST /a/b")),
                ("POST", "/a/c", None),
                ("GET", "/a/c/d", Some("GET /{x}/c/{y}")),
            ],
        );
    }

    #[test]
    fn methods_are_case_sensitive_and_head_follows_get() {
        let cases = [
            ("GET", "/a", Some("GET /a")),
            ("HEAD", "/a", Some("GET /a")),
            ("get", "/a", None),
            ("head", "/a", None),
            ("Get", "/a", None),
            ("", "/a", None),
            ("GET ", "/a", None),
            ("HEAD", "/b", None),
        ];
        check(&["GET /a", "POST /b"], &cases);
    }

    #[test]
    fn what_could_be_read_in_two_ways_matches_nothing() {
        let table = table(&["GET /{x}", "GET /a/{x}", "GET /a/{x}/c", "GET /{x}/{y}/{z}/{w}"]);
        for path in [
            "",
            "/",
            "?",
            "/?a",
            "a",
            "a/b",
            "*",
            "http://a/b",
            "//",
            "//a",
            "/a//c",
            "/a/",
            "/a/b/",
            "/a/b/?",
            ".",
            "/.",
            "/..",
            "/a/.",
            "/a/..",
            "/a/../c",
            "/a/./c",
            "/a/%2e",
            "/a/%2E%2e",
            "/a/.%2e/c",
            "/a/%2e./c",
            "/..;",
            "/a/..;x=1/c",
            "/a/.;",
            "/a/..%3b/c",
            "/a%2Fb",
            "/a%2fb",
            "/a/%2f",
            "/a/%5C",
            "/a/%5c",
            "/a/\\",
            "/a\\b",
            "/a/\0",
            "/a/\t",
            "/a/\n",
            "/a/\r",
            "/a/\u{1f}",
            "/a/\u{7f}",
            "/a/%00",
            "/a/%0a",
            "/a/%1F",
            "/a/%7f",
            "/a/%7F",
            "/a/%",
            "/a/%2",
            "/a/%zz",
            "/a/%2g",
            "/a/%+1",
            "/a/%%20",
            "/a/b%",
            "/a/%/2",
            "/a%2",
            "/a/b#c",
            "/a/b#",
            "/a/%u0041",
            "/1/2/3/4/5",
        ] {
            assert_eq!(table.resolve("GET", path), None, "{path:?}");
        }
    }

    #[test]
    fn the_query_is_cut_off_first() {
        let b = Some("GET /a/b");
        let cases = [
            ("GET", "/a/b?", b),
            ("GET", "/a/b?c=d", b),
            ("GET", "/a/b?/../%zz\\#\n?x", b),
            ("GET", "/a%3Fb", Some("GET /{x}")),
            ("GET", "/a?/b", Some("GET /{x}")),
        ];
        check(&["GET /a/b", "GET /{x}"], &cases);
    }

    #[test]
    fn other_escapes_are_decoded_once() {
        let (cards, one) = (Some("GET /cards/{x}"), Some("GET /{x}"));
        let cases = [
            ("GET", "/c%61rds/1", cards),
            ("GET", "/%63%61%72%64%73/%31", cards),
            ("GET", "/c%2561rds", one),
            ("GET", "/c%2561rds/1", None),
            ("GET", "/cards/%252e%252e", cards),
            ("GET", "/cards/%252f", cards),
            ("GET", "/cards/%25", cards),
            ("GET", "/cards/%ff%fe", cards),
            ("GET", "/cards/%20 %c3%a9\u{e9}", cards),
            ("GET", "/cards/...", cards),
            ("GET", "/cards/..a", cards),
            ("GET", "/cards/.%2e.", cards),
            ("GET", "/cards/%23%3f", cards),
            ("GET", "/Cards/1", None),
        ];
        check(&["GET /cards/{x}", "GET /{x}"], &cases);
    }

    #[test]
    fn the_first_of_two_routes_of_a_shape_stays() {
        let mut table = table(&["GET /a/{x}"]);
        let second = "GET /a/{y}".parse().unwrap();
        assert_eq!(table.insert(&second, "second".to_owned()), Err("second".to_owned()));
        assert_eq!(table.resolve("GET", "/a/b").map(String::as_str), Some("GET /a/{x}"));
    }

    #[test]
    fn an_empty_table_matches_nothing() {
        check(&[], &[("GET", "/", None), ("GET", "/a", None), ("GET", "", None)]);
    }

    #[test]
    fn hostile_paths_end_early() {
        let deepest = "GET /{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}/{a}";
        let table = table(&[deepest, "GET /{x}"]);
        let size = 64 * 1024;
        for path in ["/".repeat(size), "/a".repeat(size), "/%2e".repeat(size), "/%".repeat(size)] {
            assert_eq!(table.resolve("GET", &path), None);
        }
        let one = format!("/{}", "%41".repeat(size));
        assert_eq!(table.resolve("GET", &one).map(String::as_str), Some("GET /{x}"));
        let sixteen = "/a".repeat(MAX_SEGMENTS);
        assert_eq!(table.resolve("GET", &sixteen).map(String::as_str), Some(deepest));
    }

    proptest! {
        #[test]
        fn no_request_panics(method in "\\PC{0,5}|GET", path in "(/[a%./\\\\?#;0-9a-fé]{0,6}){0,5}|\\PC*") {
            let table = table(&["GET /{x}", "GET /a/{x}", "GET /{x}/a/{y}"]);
            let _ = table.resolve(&method, &path);
        }
    }
}
