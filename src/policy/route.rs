//! Routes: how a catalogue writes the HTTP operations of a scope.
//!
//! What must stay true: a route that parses can match some request, and reads back as it was
//! written. How a request's path is read is decided in `path`, which route it takes in `table`, and
//! each only there; `explain` says why it takes none.

use std::fmt;
use std::str::FromStr;

mod explain;
mod path;
mod segment;
mod table;
mod variant;
pub use explain::{explain_ambiguous, explain_unmatched, outline};
pub use path::{MAX_PATH_LEN, MAX_PATH_SEGMENTS};
pub use segment::Segment;
pub use table::{RouteTable, Unresolved};

/// The most segments a catalogue's route may have. Deeper request paths match a catch-all or nothing.
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

/// Which rules a catalogue has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// Those of today.
    Today,
    /// Those of the version that was least strict: a catalogue that is stored must be readable.
    Stored,
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
/// One method, one space, and a path of 1 to [`MAX_SEGMENTS`] segments, with a trailing slash or
/// without. Equality heeds parameter names; [`Self::shape`] does not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    method: Method,
    segments: Box<[Segment]>,
    trailing_slash: bool,
}

impl Route {
    /// The method a request must have; `HEAD` counts as `GET`.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, segment by segment: 1 to [`MAX_SEGMENTS`]. A catch-all is the last one.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether the path ends with a slash, so that only a request's path that does so matches.
    pub fn trailing_slash(&self) -> bool {
        self.trailing_slash
    }

    /// The route without its parameters' names: `GET /cards/{}/reveal`. Two routes match the same
    /// requests exactly if their shapes are equal; a catalogue has each shape once.
    pub fn shape(&self) -> String {
        let mut shape = format!("{} ", self.method);
        for segment in &self.segments {
            shape.push('/');
            shape.push_str(&segment.shape());
        }
        if self.trailing_slash {
            shape.push('/');
        }
        shape
    }

    /// The segment that is matched with the one at `place` of a path that this route matches.
    fn segment_at(&self, place: usize) -> Option<&Segment> {
        let last = self.segments.last().filter(|last| matches!(last, Segment::CatchAll(_)));
        self.segments.get(place).or(last)
    }

    /// How many segments a path that it matches has: at least, and at most, if there is a most.
    fn depth(&self) -> (usize, Option<usize>) {
        let count = self.segments.len();
        let open = matches!(self.segments.last(), Some(Segment::CatchAll(_)));
        (count, (!open).then_some(count))
    }

    /// Request paths that stand for all that both routes match: of each number of segments one, which
    /// no third route matches without matching every path of so many segments that both match. The
    /// last one of two catch-alls has more segments than any other route. Empty if no request matches
    /// both. With `self` they are paths of this route alone, unless it has a catch-all.
    ///
    /// Describes what a change of routes does to the requests they share.
    pub(super) fn common_paths(&self, other: &Self) -> Vec<String> {
        let ((least, most), (other_least, other_most)) = (self.depth(), other.depth());
        let least = least.max(other_least);
        let most = [most, other_most].into_iter().flatten().min().unwrap_or(MAX_SEGMENTS + 1);
        let same_form = self.method == other.method && self.trailing_slash == other.trailing_slash;
        if !same_form || least > most {
            return Vec::new();
        }
        let mut path = String::new();
        let mut paths = Vec::new();
        for place in 0..most {
            let text = match (self.segment_at(place), other.segment_at(place)) {
                (Some(a), Some(b)) => a.common_text(b),
                _ => None,
            };
            let Some(text) = text else { return Vec::new() };
            path.push('/');
            path.push_str(&text);
            if place + 1 >= least {
                paths.push(if self.trailing_slash { format!("{path}/") } else { path.clone() });
            }
        }
        paths
    }

    /// The same route with the trailing slash that it lacks, or without the one it has.
    pub(super) fn with_other_ending(&self) -> Self {
        Self { trailing_slash: !self.trailing_slash, ..self.clone() }
    }

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
        let without = path.strip_suffix('/');
        let trailing_slash = without.is_some();
        let path = without.unwrap_or(path);
        if path.split('/').nth(MAX_SEGMENTS).is_some() {
            return Err(InvalidRoute::TooDeep);
        }
        let segments = path.split('/').map(|text| Segment::parse(text, rules));
        let segments = segments.collect::<Result<Box<[_]>, _>>()?;
        if let Some((_, others)) = segments.split_last()
            && let Some(early) = others.iter().find(|other| matches!(other, Segment::CatchAll(_)))
        {
            return Err(InvalidRoute::CatchAllNotLast(early.to_string()));
        }
        Ok(Self { method, segments, trailing_slash })
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
        self.segments.iter().try_for_each(|segment| write!(f, "/{segment}"))?;
        f.write_str(if self.trailing_slash { "/" } else { "" })
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
    /// A segment is another router's wildcard. With the name of a parameter in its place.
    #[error(
        "the segment {0:?} is another router's wildcard; {{{1}}} matches one segment, and {{{1}...}} \
         at the end of the path one or more"
    )]
    Wildcard(String, String),
    /// A catch-all stands before another segment.
    #[error("the catch-all {0} is not the last segment; it matches every segment up to the end")]
    CatchAllNotLast(String),
    /// Something stands behind a catch-all in its segment.
    #[error("the segment {0:?} has more than a catch-all; a catch-all is a whole segment")]
    CatchAllSuffix(String),
    /// A suffix is made of dots.
    #[error("the segment {0:?} ends with dots alone, which some servers remove; leave them out")]
    DotSuffix(String),
    /// A literal has a percent sign.
    #[error("the segment {0:?} has an escape; literals have none, a parameter matches any segment")]
    Escape(String),
    /// There is a question mark.
    #[error("a query string takes no part in matching, leave it out")]
    Query,
    /// A literal has a character that paths do not carry unescaped.
    #[error("the character {0:?} can't stand in a path; letters, digits and -._~!$&'()*+,;=:@ can")]
    Character(char),
    /// A brace stands where none can.
    #[error(
        "the segment {0:?} has a brace out of place; a segment is a parameter, like {{card_id}}, or \
         begins with one, like {{card_id}}.pdf"
    )]
    PartialParameter(String),
    /// A parameter's name is empty, too long or no word.
    #[error(
        "the parameter name {0:?} is not 1 to {MAX_PARAMETER_LEN} letters, digits, \"_\" and \"-\", \
         beginning with a letter or \"_\""
    )]
    ParameterName(String),
}

#[cfg(test)]
mod tests;
