//! Routes: how a catalogue writes the HTTP operations of a scope, and which route a request takes.
//!
//! What must stay true: a request path is read in one way only. Whatever two programs might read
//! differently (dot segments, encoded slashes, empty segments, bad escapes) matches no route, and
//! what matches no route is denied. The work for one request is linear in its path, plus at most
//! one visit to each node of the table, and needs no memory unless the path has escapes.

use std::fmt;
use std::str::FromStr;

/// The most segments a catalogue's route may have; deeper request paths match nothing.
pub const MAX_SEGMENTS: usize = 16;

/// The longest method a catalogue may name, in bytes.
pub const MAX_METHOD_LEN: usize = 20;

/// The longest parameter name, in bytes.
pub const MAX_PARAMETER_LEN: usize = 64;

/// The method of a catalogue's route: 1 to [`MAX_METHOD_LEN`] upper-case ASCII letters and not
/// `HEAD`, which follows `GET`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(Box<str>);

impl Method {
    /// The method as it is written in a request.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = InvalidRoute;

    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        if text == "HEAD" {
            return Err(InvalidRoute::Head);
        }
        let valid = (1..=MAX_METHOD_LEN).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_uppercase());
        if !valid {
            return Err(InvalidRoute::Method(text.into()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One segment of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// Matches exactly this text, once escapes are decoded. Unreserved characters, sub-delimiters,
    /// `:` and `@` of RFC 3986; never a dot segment.
    Literal(Box<str>),
    /// Matches any one segment. The name is for people: it plays no part in matching, and need not
    /// be unique within the route.
    Parameter(Box<str>),
}

impl Segment {
    fn parse(text: &str) -> Result<Self, InvalidRoute> {
        if text.is_empty() {
            return Err(InvalidRoute::EmptySegment);
        }
        if is_dot_segment(text.as_bytes()) {
            return Err(InvalidRoute::DotSegment(text.into()));
        }
        if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !starts || !word || name.len() > MAX_PARAMETER_LEN {
                return Err(InvalidRoute::ParameterName(name.into()));
            }
            return Ok(Self::Parameter(name.into()));
        }
        if text.contains(['{', '}']) {
            return Err(InvalidRoute::PartialParameter(text.into()));
        }
        match text.chars().find(|&c| !is_literal(c)) {
            Some('%') => Err(InvalidRoute::Escape(text.into())),
            Some('?') => Err(InvalidRoute::Query),
            Some(character) => Err(InvalidRoute::Character(character)),
            None => Ok(Self::Literal(text.into())),
        }
    }

    fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            Self::Parameter(_) => None,
        }
    }
}

/// What a catalogue's literal segment may be made of: `pchar` of RFC 3986 without escapes.
fn is_literal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c)
}

/// Whether `segment`, decoded, is `.` or `..`. Some servers cut `;...` off a segment before they
/// look for dots, so `..;x` counts too.
fn is_dot_segment(segment: &[u8]) -> bool {
    match segment {
        [b'.', b'.', rest @ ..] | [b'.', rest @ ..] => matches!(rest, [] | [b';', ..]),
        _ => false,
    }
}

/// An HTTP operation as a catalogue writes it: `GET /api/v1/cards/{card_id}/reveal`.
///
/// One method, one space, and a path of 1 to [`MAX_SEGMENTS`] segments, each a literal or a
/// parameter. Equality heeds parameter names; [`Self::shape`] does not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    method: Method,
    segments: Box<[Segment]>,
}

impl Route {
    /// The method a request must have; `HEAD` counts as `GET`.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, segment by segment: 1 to [`MAX_SEGMENTS`].
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The route without its parameters' names: `GET /cards/{}/reveal`. Two routes match the same
    /// requests exactly if their shapes are equal; a catalogue has each shape once.
    pub fn shape(&self) -> String {
        let mut shape = self.method.0.to_string();
        shape.push(' ');
        for segment in &self.segments {
            shape.push('/');
            shape.push_str(segment.literal().unwrap_or("{}"));
        }
        shape
    }

    /// A request path that both routes match and that no third route matches without matching every
    /// path both of them match; `None` if no request matches both. With `self` it is a path of this
    /// route alone. Tells what a change of routes does to the requests they share.
    pub(super) fn meet(&self, other: &Self) -> Option<String> {
        if self.method != other.method || self.segments.len() != other.segments.len() {
            return None;
        }
        let mut path = String::new();
        for (a, b) in self.segments.iter().zip(&other.segments) {
            let segment = match (a.literal(), b.literal()) {
                (Some(a), Some(b)) if a != b => return None,
                (Some(literal), _) | (None, Some(literal)) => literal,
                // No literal of a catalogue can hold a space.
                (None, None) => " ",
            };
            path.push('/');
            path.push_str(segment);
        }
        Some(path)
    }
}

impl FromStr for Route {
    type Err = InvalidRoute;

    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        let (method, path) = text.split_once(' ').ok_or(InvalidRoute::Form)?;
        let method = method.parse()?;
        let path = path.strip_prefix('/').ok_or(InvalidRoute::NoLeadingSlash)?;
        if path.is_empty() {
            return Err(InvalidRoute::EmptyPath);
        }
        if path.ends_with('/') {
            return Err(InvalidRoute::TrailingSlash);
        }
        if path.split('/').nth(MAX_SEGMENTS).is_some() {
            return Err(InvalidRoute::TooDeep);
        }
        let segments = path
            .split('/')
            .map(Segment::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { method, segments })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.method)?;
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Parameter(name) => write!(f, "/{{{name}}}"),
        })
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A text that is not a route of a catalogue. Reads after "the route ...: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRoute {
    /// There is no space between a method and a path.
    #[error("write a method, one space and a path, like \"GET /api/v1/cards/{{card_id}}\"")]
    Form,
    /// The method is `HEAD`.
    #[error("HEAD follows GET, leave it out")]
    Head,
    /// The method is not made of upper-case letters.
    #[error("the method {0:?} is not 1 to {MAX_METHOD_LEN} upper-case letters, like GET")]
    Method(String),
    /// The path does not begin with a slash.
    #[error("the path must begin with \"/\", one space after the method")]
    NoLeadingSlash,
    /// The path is a slash alone.
    #[error("the path \"/\" has no segment and would match nothing")]
    EmptyPath,
    /// The path ends with a slash.
    #[error("a path that ends with \"/\" would match nothing, leave the last \"/\" out")]
    TrailingSlash,
    /// Two slashes stand side by side.
    #[error("\"//\" is an empty segment and would match nothing")]
    EmptySegment,
    /// There are more than [`MAX_SEGMENTS`] segments.
    #[error("the path has more than {MAX_SEGMENTS} segments")]
    TooDeep,
    /// A segment is `.` or `..`, alone or before a `;`.
    #[error("the dot segment {0:?} would match nothing")]
    DotSegment(String),
    /// A literal has a percent sign.
    #[error("the segment {0:?} has an escape; write the character itself")]
    Escape(String),
    /// There is a question mark.
    #[error("a query string takes no part in matching, leave it out")]
    Query,
    /// A literal has a character that paths do not carry unescaped.
    #[error("the character {0:?} can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can")]
    Character(char),
    /// A brace stands within a segment.
    #[error("the segment {0:?} has a brace; a parameter is a whole segment, like {{card_id}}")]
    PartialParameter(String),
    /// A parameter's name is empty, too long or no word.
    #[error(
        "the parameter name {0:?} is not 1 to {MAX_PARAMETER_LEN} letters, digits and \"_\", \
         beginning with a letter or \"_\""
    )]
    ParameterName(String),
}

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
    const EMPTY: Self = Self {
        literals: Vec::new(),
        parameter: None,
        routes: Vec::new(),
    };

    fn literal(&self, segment: &[u8]) -> Result<usize, usize> {
        self.literals.binary_search_by(|(text, _)| {
            // By length first: it settles most comparisons without a look at the text.
            text.len()
                .cmp(&segment.len())
                .then_with(|| text.as_bytes().cmp(segment))
        })
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::EMPTY],
            deepest: 0,
        }
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
            return routes
                .find(|(m, _)| *m.0 == *method)
                .map(|(_, value)| value);
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
    let mut split = Split {
        count: 0,
        escaped: false,
    };
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
