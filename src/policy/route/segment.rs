//! One segment of a route, and the syntax of other routers, which is refused.
//!
//! What must stay true: a segment that parses can match some segment of a request, reads back as it
//! was written, and is fixed at its end only, so that of two that match one text, one comes first
//! (docs/policy.md, rules 1.17 and 2.9).

use std::borrow::Cow;
use std::fmt;

use super::{InvalidRoute, MAX_PARAMETER_LEN, Rules, variant};

/// One segment of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// Matches exactly this text, once escapes are decoded. Unreserved characters, sub-delimiters,
    /// `:` and `@` of RFC 3986; never a dot segment.
    Literal(Box<str>),
    /// `{id}:verb`, `{id}.json`: matches any one segment that ends with the suffix and has something
    /// before it. The suffix is made of the characters of a literal, and not of dots alone.
    Suffixed {
        /// As that of a [`Self::Parameter`].
        name: Box<str>,
        /// At least one character.
        suffix: Box<str>,
    },
    /// Matches any one segment. The name is for people: it plays no part in matching, and need not
    /// be unique within the route.
    Parameter(Box<str>),
    /// `{rest...}`: matches one or more segments up to the end of the path. Only the last segment of
    /// a route.
    CatchAll(Box<str>),
}

impl Segment {
    pub(super) fn parse(text: &str, rules: Rules) -> Result<Self, InvalidRoute> {
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
        let Some((name, suffix)) = split(text) else {
            check_literal(text, text, rules)?;
            return Ok(Self::Literal(text.into()));
        };
        if let Some(name) = name.strip_suffix("...") {
            check_name(name)?;
            if !suffix.is_empty() {
                return Err(InvalidRoute::CatchAllSuffix(text.into()));
            }
            return Ok(Self::CatchAll(name.into()));
        }
        check_name(name)?;
        if suffix.is_empty() {
            return Ok(Self::Parameter(name.into()));
        }
        // No earlier version had suffixes, so they keep the rules of today.
        check_literal(text, suffix, Rules::Today)?;
        if variant::is_dots(suffix) {
            return Err(InvalidRoute::DotSuffix(text.into()));
        }
        Ok(Self::Suffixed { name: name.into(), suffix: suffix.into() })
    }

    /// What the text of a segment that this one matches ends with, and whether that is all of it.
    fn end(&self) -> (&str, bool) {
        match self {
            Self::Literal(text) => (text, true),
            Self::Suffixed { suffix, .. } => (suffix, false),
            Self::Parameter(_) | Self::CatchAll(_) => ("", false),
        }
    }

    /// Whether it fixes the text of a segment, or the end of it.
    pub(super) fn is_fixed(&self) -> bool {
        matches!(self, Self::Literal(_) | Self::Suffixed { .. })
    }

    /// Whether it matches a segment of a path that is `text`, decoded.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self.end() {
            (literal, true) => literal == text,
            (suffix, false) => text.len() > suffix.len() && text.ends_with(suffix),
        }
    }

    /// A text that both segments match, and that a third one matches only if it matches every text
    /// that both match; `None` if they share none.
    pub(super) fn common_text<'s>(&'s self, other: &'s Self) -> Option<Cow<'s, str>> {
        let (a, b) = (self.end(), other.end());
        // What is fixed more comes first.
        let ((long, whole), (short, also_whole)) =
            if (a.1, a.0.len()) < (b.1, b.0.len()) { (b, a) } else { (a, b) };
        match (whole, also_whole) {
            (true, true) => (long == short).then_some(long.into()),
            (true, false) => {
                (long.len() > short.len() && long.ends_with(short)).then_some(long.into())
            }
            // No literal of a catalogue can begin with it, and nothing that it may be read as.
            _ => long.ends_with(short).then(|| format!("\u{e9}{long}").into()),
        }
    }

    /// The segment without its parameter's name.
    pub(super) fn shape(&self) -> Cow<'_, str> {
        match self {
            Self::Literal(text) => Cow::Borrowed(text),
            Self::Suffixed { suffix, .. } => format!("{{}}{suffix}").into(),
            Self::Parameter(_) => "{}".into(),
            Self::CatchAll(_) => "{...}".into(),
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Suffixed { name, suffix } => write!(f, "{{{name}}}{suffix}"),
            Self::Parameter(name) => write!(f, "{{{name}}}"),
            Self::CatchAll(name) => write!(f, "{{{name}...}}"),
        }
    }
}

/// `{name}suffix`: what stands in the first braces, and what behind them.
fn split(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('{')?.split_once('}')
}

fn check_name(name: &str) -> Result<(), InvalidRoute> {
    let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if !begins_word(name) || !word || name.len() > MAX_PARAMETER_LEN {
        return Err(InvalidRoute::ParameterName(name.into()));
    }
    Ok(())
}

fn begins_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Refuses what can't stand in `fixed`, which is all of `segment` or its end.
fn check_literal(segment: &str, fixed: &str, rules: Rules) -> Result<(), InvalidRoute> {
    if fixed.contains(['{', '}']) {
        return Err(InvalidRoute::PartialParameter(segment.into()));
    }
    match fixed.chars().find(|&c| !is_literal(c) || c == ';' && rules == Rules::Today) {
        Some(';') => Err(InvalidRoute::Semicolon(segment.into())),
        Some('%') => Err(InvalidRoute::Escape(segment.into())),
        Some('?') => Err(InvalidRoute::Query),
        Some(character) => Err(InvalidRoute::Character(character)),
        None => Ok(()),
    }
}

/// What a catalogue's literal segment may be made of: `pchar` of RFC 3986 without escapes.
fn is_literal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c)
}

/// Refuses a segment in the syntax of another router (rule 1.14). Characters that real paths have
/// stay possible: `things:batch`, `@me`, `~x`, `$metadata`, `Products(1)`.
fn foreign_syntax(text: &str) -> Option<InvalidRoute> {
    let braces = split(text);
    // The first word, without what stands before it: `<int:id>`, `(?P<id>`.
    let word = |text: &str, otherwise: &str| {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let word = words.find(|word| begins_word(word)).unwrap_or(otherwise);
        word[..word.len().min(MAX_PARAMETER_LEN)].to_owned()
    };
    let wildcard = match braces {
        // `{*rest}`, `{rest*}`, `{rest:.*}`, `{+rest}`, `{...rest}`, `{rest:path}`, `{rest}+`.
        Some((name, suffix)) => {
            text.contains('*')
                || name.starts_with(['+', '.'])
                || name.ends_with('+') && !name.contains(':')
                || name.ends_with(":path")
                || suffix == "+"
        }
        // `*`, `**`, `*rest`, `<path:rest>`, `[...rest]`, `(.*)`, `.+`.
        None => {
            text.contains('*')
                || text == ".+"
                || text.starts_with("<path:")
                || text.starts_with("[...")
                || text.starts_with("[[...")
        }
    };
    if wildcard {
        // In `*.json`, the word is no name.
        let named = if text.starts_with("*.") { "" } else { text };
        let named = named.strip_prefix("<path:").unwrap_or(named);
        return Some(InvalidRoute::Wildcard(text.into(), word(named, "rest")));
    }
    let parameter = match braces {
        // `{id:[0-9]+}`, `{id?}`, `{{id}}`, `{/id}`, `{id}?`, `{id}.:format`.
        Some((name, suffix)) => {
            name.contains([':', '?', '{', '=', '(', '[', '<', '#', ';', '&'])
                || suffix == "?"
                || suffix.split_once(".:").is_some_and(|(_, rest)| begins_word(rest))
        }
        // `:id`, `<int:id>`, `[id]`, `(id)`, `^id$`, `${id}`.
        None => {
            text.strip_prefix(':').is_some_and(begins_word)
                || text.starts_with(['<', '[', '(', '^'])
                || text.starts_with("${")
        }
    };
    parameter.then(|| {
        // Where there is a type, it stands before the name: `<int:id>`.
        let named =
            text.strip_prefix('<').and_then(|text| text.rsplit_once(':')).map_or(text, |p| p.1);
        InvalidRoute::ForeignParameter(text.into(), word(named, "id"))
    })
}

/// Whether `segment`, decoded, is `.` or `..`. Some servers cut `;...` off a segment before they
/// search for dots, so `..;x` counts too.
fn is_dot_segment(segment: &[u8]) -> bool {
    match segment {
        [b'.', b'.', rest @ ..] | [b'.', rest @ ..] => matches!(rest, [] | [b';', ..]),
        _ => false,
    }
}
