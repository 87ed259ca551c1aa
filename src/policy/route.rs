//! Routes: how a catalogue writes the HTTP operations of a scope.
//!
//! What must stay true: a route that parses can match some request, and reads back as it was
//! written. Which route a request takes is decided in `table`, and only there.

use std::fmt;
use std::str::FromStr;

mod table;
pub use table::RouteTable;

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
        let segments = path.split('/').map(Segment::parse).collect::<Result<_, _>>()?;
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn routes_read_back() {
        for text in [
            "GET /a",
            "PURGE /api/v1/cards/{card_id}/reveal",
            "DELETE /{a}/{a}/{_B2}",
            "POST /v1/things:batch/@me/~x/-._!$&'()*+,;=/.../.a/..a",
            "GET /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16",
        ] {
            let route: Route = text.parse().unwrap();
            assert_eq!(route.to_string(), text);
        }
    }

    #[test]
    fn shapes_forget_parameter_names_only() {
        let shape = |text: &str| text.parse::<Route>().unwrap().shape();
        assert_eq!(shape("GET /a/{id}/b"), "GET /a/{}/b");
        assert_eq!(shape("GET /a/{id}"), shape("GET /a/{other}"));
        assert_ne!(shape("GET /a/{id}"), shape("POST /a/{id}"));
        assert_ne!(shape("GET /a/{id}"), shape("GET /a/id"));
        assert_ne!(shape("GET /a/b"), shape("GET /a"));
    }

    #[test]
    fn every_error_says_what_to_mend() {
        let errors: Vec<String> = [
            "",
            "GET",
            "/a",
            "get /a",
            "GeT /a",
            "GET1 /a",
            " /a",
            "HEAD /a",
            "GET a",
            "GET  /a",
            "GET /",
            "GET //",
            "GET /a/",
            "GET /a//b",
            "GET //a",
            "GET /a/./b",
            "GET /..",
            "GET /..;x",
            "GET /a%20b",
            "GET /a?b=c",
            "GET /a b",
            "GET /a\\b",
            "GET /a#b",
            "GET /\u{e9}",
            "GET /a\u{0}",
            "GET /{}",
            "GET /{1}",
            "GET /{a-b}",
            "GET /{a}.pdf",
            "GET /a{b",
            "GET /}",
            "GET /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17",
        ]
        .map(|text| format!("{text:?}: {}", text.parse::<Route>().unwrap_err()))
        .to_vec();
        insta::assert_snapshot!(errors.join("\n"), @r##"
"": write a method, one space and a path, like "GET /api/v1/cards/{card_id}"
"GET": write a method, one space and a path, like "GET /api/v1/cards/{card_id}"
"/a": write a method, one space and a path, like "GET /api/v1/cards/{card_id}"
"get /a": the method "get" is not 1 to 20 upper-case letters, like GET
"GeT /a": the method "GeT" is not 1 to 20 upper-case letters, like GET
"GET1 /a": the method "GET1" is not 1 to 20 upper-case letters, like GET
" /a": the method "" is not 1 to 20 upper-case letters, like GET
"HEAD /a": HEAD follows GET, leave it out
"GET a": the path must begin with "/", one space after the method
"GET  /a": the path must begin with "/", one space after the method
"GET /": the path "/" has no segment and would match nothing
"GET //": a path that ends with "/" would match nothing, leave the last "/" out
"GET /a/": a path that ends with "/" would match nothing, leave the last "/" out
"GET /a//b": "//" is an empty segment and would match nothing
"GET //a": "//" is an empty segment and would match nothing
"GET /a/./b": the dot segment "." would match nothing
"GET /..": the dot segment ".." would match nothing
"GET /..;x": the dot segment "..;x" would match nothing
"GET /a%20b": the segment "a%20b" has an escape; literals have none, a parameter matches any segment
"GET /a?b=c": a query string takes no part in matching, leave it out
"GET /a b": the character ' ' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /a\\b": the character '\\' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /a#b": the character '#' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /é": the character 'é' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /a\0": the character '\0' can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can
"GET /{}": the parameter name "" is not 1 to 64 letters, digits and "_", beginning with a letter or "_"
"GET /{1}": the parameter name "1" is not 1 to 64 letters, digits and "_", beginning with a letter or "_"
"GET /{a-b}": the parameter name "a-b" is not 1 to 64 letters, digits and "_", beginning with a letter or "_"
"GET /{a}.pdf": the segment "{a}.pdf" has a brace; a parameter is a whole segment, like {card_id}
"GET /a{b": the segment "a{b" has a brace; a parameter is a whole segment, like {card_id}
"GET /}": the segment "}" has a brace; a parameter is a whole segment, like {card_id}
"GET /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17": the path has more than 16 segments
"##);
    }

    #[test]
    fn long_names_are_refused() {
        assert!(format!("{} /a", "A".repeat(MAX_METHOD_LEN)).parse::<Route>().is_ok());
        assert!(format!("{} /a", "A".repeat(MAX_METHOD_LEN + 1)).parse::<Route>().is_err());
        let named = |len| format!("GET /{{{}}}", "a".repeat(len)).parse::<Route>();
        assert!(named(MAX_PARAMETER_LEN).is_ok());
        assert!(named(MAX_PARAMETER_LEN + 1).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_reads_back(
            text in "(GET|PUT|[A-Za-z]{0,4}) ?(/([a-z.;%]{0,3}|\\{[a-z_0-9]{0,3}\\}|\\PC{0,3})){0,18}",
        ) {
            if let Ok(route) = text.parse::<Route>() {
                prop_assert_eq!(route.to_string(), text);
            }
        }
    }
}
