//! Routes: how a catalogue writes the HTTP operations of a scope.
//!
//! What must stay true: a route that parses can match some request, and reads back as it was
//! written. How a request's path is read is decided in `path`, which route it takes in `table`, and
//! each only there; `explain` says why it takes none.

use std::fmt;
use std::str::FromStr;

mod explain;
mod path;
mod table;
mod variant;
pub use explain::{explain_ambiguous, explain_unmatched};
pub use path::MAX_PATH_LEN;
pub use table::{RouteTable, Unresolved};

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

/// Which rules a catalogue has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// Those of today.
    Today,
    /// Those of the version that was least strict: a catalogue that is stored must be readable.
    Stored,
}

impl Segment {
    fn parse(text: &str, rules: Rules) -> Result<Self, InvalidRoute> {
        if text.is_empty() {
            return Err(InvalidRoute::EmptySegment);
        }
        if is_dot_segment(text.as_bytes()) {
            return Err(InvalidRoute::DotSegment(text.into()));
        }
        if rules == Rules::Today {
            if variant::is_dots(text) {
                return Err(InvalidRoute::DotSegment(text.into()));
            }
            if let Some(error) = foreign_syntax(text) {
                return Err(error);
            }
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
        match text.chars().find(|&c| !is_literal(c) || c == ';' && rules == Rules::Today) {
            Some(';') => Err(InvalidRoute::Semicolon(text.into())),
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

/// Refuses a segment in the syntax of another router (rule 1.14). Characters that real paths have
/// stay possible: `things:batch`, `@me`, `~x`, `$metadata`, `Products(1)`.
fn foreign_syntax(text: &str) -> Option<InvalidRoute> {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    if text.contains('*') || inner.is_some_and(|name| name.ends_with("...")) || text == ".+" {
        return Some(InvalidRoute::Wildcard(text.into()));
    }
    let starts = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let parameter = match inner {
        // `{id:[0-9]+}`, `{id?}`, `{{id}}`.
        Some(name) => name.contains([':', '?', '{', '=', '(', '[', '<']),
        // `:id`, `<int:id>`, `[id]`, `(id)`, `^id$`, `${id}`.
        None => {
            text.strip_prefix(':').is_some_and(starts)
                || text.starts_with(['<', '[', '(', '^'])
                || text.starts_with("${")
        }
    };
    parameter.then(|| {
        let words = |text: &str| {
            let word =
                text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').find(|w| starts(w));
            word.map(|word| word[..word.len().min(MAX_PARAMETER_LEN)].to_owned())
        };
        // Where there is a type, it stands before the name: `<int:id>`.
        let named =
            text.strip_prefix('<').and_then(|text| text.rsplit_once(':')).map_or(text, |p| p.1);
        InvalidRoute::ForeignParameter(text.into(), words(named).unwrap_or_else(|| "id".to_owned()))
    })
}

/// Whether `segment`, decoded, is `.` or `..`. Some servers cut `;...` off a segment before they
/// look for dots, so `..;x` counts too.
fn is_dot_segment(segment: &[u8]) -> bool {
    match segment {
        [b'.', b'.', rest @ ..] | [b'.', rest @ ..] => matches!(rest, [] | [b';', ..]),
        _ => false,
    }
}

/// The most characters of a request or a file that a message quotes.
const MAX_QUOTED_CHARS: usize = 80;

/// `text` in quotes and with escapes, cut to what a message can bear.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
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
                // No literal of a catalogue can hold it, and nothing that it may be read as.
                (None, None) => "\u{e9}",
            };
            path.push('/');
            path.push_str(segment);
        }
        Some(path)
    }
}

impl Route {
    /// Reads a route of a catalogue that is stored, which an earlier version may have accepted: it
    /// may have literals that match nothing any more, or that look like another router's syntax.
    ///
    /// # Errors
    /// It is no route in any version.
    pub(super) fn parse_stored(text: &str) -> Result<Self, InvalidRoute> {
        Self::parse(text, Rules::Stored)
    }

    fn parse(text: &str, rules: Rules) -> Result<Self, InvalidRoute> {
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
        let segments = path.split('/').map(|text| Segment::parse(text, rules));
        Ok(Self { method, segments: segments.collect::<Result<_, _>>()? })
    }
}

impl FromStr for Route {
    type Err = InvalidRoute;

    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        Self::parse(text, Rules::Today)
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
    /// A segment is `.` or `..`, alone or before a `;`, or more dots.
    #[error("the dot segment {0:?} would match nothing")]
    DotSegment(String),
    /// A literal has a semicolon.
    #[error("the segment {0:?} has a \";\" and would match nothing, leave it out")]
    Semicolon(String),
    /// A segment is another router's parameter. With the name of a parameter in its place.
    #[error(
        "the segment {0:?} is another router's syntax; a parameter is a name in braces: {{{1}}}"
    )]
    ForeignParameter(String, String),
    /// A segment is another router's wildcard.
    #[error(
        "the segment {0:?} is another router's wildcard; a parameter like {{name}} matches one \
         segment, so write a route for each number of segments"
    )]
    Wildcard(String),
    /// A literal has a percent sign.
    #[error("the segment {0:?} has an escape; literals have none, a parameter matches any segment")]
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

#[cfg(test)]
mod tests;
