//! How the path of a request is read: cut into segments, each decoded once (docs/policy.md, rules
//! 2.8 to 2.11, 2.22 and 2.24).
//!
//! What must stay true: a path that two servers may cut into different segments, or decode to
//! different text, is refused; what is refused matches no route. The work is linear in the path,
//! and a plain path needs no memory.

use smallvec::SmallVec;

use super::variant;
use super::{MAX_SEGMENTS, quoted};
use crate::policy::text::is_control;

/// The longest path that can match a route, in bytes, without its query string (rule 2.24).
pub const MAX_PATH_LEN: usize = 32 * 1024;

/// The most segments of a path that can match a route; more than [`MAX_SEGMENTS`] only a catch-all.
pub const MAX_PATH_SEGMENTS: usize = 64;

/// Why a path can match no route, with what is wrong and the cure. Reads after "its path".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidPath<'p> {
    #[error("does not begin with \"/\": send the path alone, without scheme and host (rule 2.11)")]
    NoLeadingSlash,
    #[error("is \"/\" alone: send the path of an operation, which has a segment (rule 2.11)")]
    NoSegment,
    #[error("has two \"/\" side by side: send one (rule 2.11)")]
    EmptySegment,
    #[error(
        "has more than {MAX_PATH_SEGMENTS} segments, and no route matches so many: send a shorter \
         path (rule 2.28)"
    )]
    TooDeep,
    #[error("is longer than {MAX_PATH_LEN} bytes: send a shorter path (rule 2.24)")]
    TooLong,
    #[error("has a control character in {}: send it without (rule 2.22)", quoted(.0))]
    Control(&'p str),
    #[error(
        "has {1:?} in {segment}, raw or encoded, which some servers take for the end of a segment or \
         of the path: send it without (rules 2.11 and 2.22)",
        segment = quoted(.0)
    )]
    Delimiter(&'p str, char),
    #[error(
        "has {1:?} in {segment}, which some servers turn into one of / \\ ; ? # %: send it without \
         (rule 2.22)",
        segment = quoted(.0)
    )]
    Lookalike(&'p str, char),
    #[error(
        "has a \"%\" in {} without two hexadecimal digits behind it: send \"%25\" for a percent sign \
         (rule 2.11)",
        quoted(.0)
    )]
    Escape(&'p str),
    #[error("has {}, which is encoded twice: encode it once (rule 2.22)", quoted(.0))]
    EncodedTwice(&'p str),
    #[error("has {}, which is not UTF-8 once it is decoded: encode UTF-8 (rule 2.22)", quoted(.0))]
    NotUtf8(&'p str),
    #[error(
        "has {}, which some servers take for nothing, for \".\" or for \"..\": send the path that is \
         meant (rules 2.11 and 2.22)",
        quoted(.0)
    )]
    Dots(&'p str),
}

/// How a path was read.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// How many segments there are, at least 1.
    pub(super) count: usize,
    /// The segments that may be read as another text than their own (rule 2.23), a bit each.
    pub(super) variable: u64,
    /// Whether the path ends with a slash.
    pub(super) trailing_slash: bool,
}

/// Reads `path` into `segments`, decoded: bytes of UTF-8. What had escapes is decoded into `decoded`.
///
/// # Errors
/// What is wrong with the path; [`InvalidPath::TooDeep`] where it has more segments than there is
/// room for.
#[inline]
pub(super) fn read<'p>(
    path: &'p str,
    segments: &mut [&'p [u8]],
    decoded: &'p mut Vec<u8>,
) -> Result<Shape, InvalidPath<'p>> {
    let split = split(path, segments)?;
    if split.variable != 0 {
        let segments = &mut segments[..split.count];
        if split.escaped {
            decoded.reserve(path.len());
            decode_all(segments, decoded)?;
        } else {
            segments.iter().try_for_each(|segment| check(text(segment), text(segment)))?;
        }
    }
    let Split { count, variable, trailing_slash, .. } = split;
    Ok(Shape { count, variable, trailing_slash })
}

fn decode_all<'p>(
    segments: &mut [&'p [u8]],
    decoded: &'p mut Vec<u8>,
) -> Result<(), InvalidPath<'p>> {
    let mut ends = SmallVec::<[usize; MAX_SEGMENTS]>::new();
    for segment in segments.iter() {
        decode(text(segment), decoded)?;
        ends.push(decoded.len());
    }
    let mut start = 0;
    for (segment, end) in segments.iter_mut().zip(ends) {
        let raw = text(segment);
        // Each by itself: half a character and its other half behind the slash are none.
        let bytes = &decoded[start..end];
        check(raw, std::str::from_utf8(bytes).map_err(|_| InvalidPath::NotUtf8(raw))?)?;
        *segment = bytes;
        start = end;
    }
    Ok(())
}

/// A segment as text. It was cut out of text at ASCII characters, or checked when it was decoded.
pub(super) fn text(segment: &[u8]) -> &str {
    std::str::from_utf8(segment).unwrap_or_default()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    /// Nothing is wrong with it, but other servers may read another text out of a segment with it:
    /// upper case, dots, spaces, what is not ASCII.
    Variable,
    Slash,
    Percent,
    Query,
    Control,
    /// `\`, which some servers take for `/`; `;` and `#`, after which some read no further.
    Delimiter,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Plain; 256];
    let mut byte = 0;
    while byte < 256 {
        if byte < 0x20 || byte == 0x7f {
            table[byte] = Class::Control;
        } else if byte >= 0x80 || b'A' as usize <= byte && byte <= b'Z' as usize {
            table[byte] = Class::Variable;
        }
        byte += 1;
    }
    table[b'.' as usize] = Class::Variable;
    table[b' ' as usize] = Class::Variable;
    table[b'\\' as usize] = Class::Delimiter;
    table[b';' as usize] = Class::Delimiter;
    table[b'#' as usize] = Class::Delimiter;
    table[b'/' as usize] = Class::Slash;
    table[b'%' as usize] = Class::Percent;
    table[b'?' as usize] = Class::Query;
    table
};

struct Split {
    count: usize,
    escaped: bool,
    /// As in [`Shape`].
    variable: u64,
    trailing_slash: bool,
}

const _: () = assert!(MAX_PATH_SEGMENTS <= u64::BITS as usize);

/// Cuts `path` into `segments`, still escaped, and its query string off. Reads no further than the
/// first thing that is wrong.
fn split<'p>(path: &'p str, segments: &mut [&'p [u8]]) -> Result<Split, InvalidPath<'p>> {
    let Some(path) = path.strip_prefix('/') else {
        return Err(InvalidPath::NoLeadingSlash);
    };
    let bytes = path.as_bytes();
    // With its first slash.
    let most = &bytes[..bytes.len().min(MAX_PATH_LEN)];
    let mut split = Split { count: 0, escaped: false, variable: 0, trailing_slash: false };
    let mut start = 0;
    let mut end = bytes.len();
    for (i, &byte) in most.iter().enumerate() {
        match CLASS[usize::from(byte)] {
            Class::Plain => {}
            // Where there are too many segments, the path is refused, whatever the bit.
            Class::Variable => split.variable |= 1 << (split.count % MAX_PATH_SEGMENTS),
            Class::Percent => {
                split.escaped = true;
                split.variable |= 1 << (split.count % MAX_PATH_SEGMENTS);
            }
            Class::Control => return Err(InvalidPath::Control(around(path, start, i))),
            Class::Delimiter => {
                return Err(InvalidPath::Delimiter(around(path, start, i), byte.into()));
            }
            Class::Query => {
                end = i;
                break;
            }
            Class::Slash => {
                if i == start {
                    return Err(InvalidPath::EmptySegment);
                }
                *segments.get_mut(split.count).ok_or(InvalidPath::TooDeep)? = &bytes[start..i];
                split.count += 1;
                start = i + 1;
            }
        }
    }
    if end >= MAX_PATH_LEN {
        return Err(InvalidPath::TooLong);
    }
    if end == start {
        if split.count == 0 {
            return Err(InvalidPath::NoSegment);
        }
        split.trailing_slash = true;
        return Ok(split);
    }
    *segments.get_mut(split.count).ok_or(InvalidPath::TooDeep)? = &bytes[start..end];
    split.count += 1;
    Ok(split)
}

/// The segment from `start` that the ASCII byte at `i` is in.
#[cold]
fn around(path: &str, start: usize, i: usize) -> &str {
    let rest = &path[i..];
    &path[start..i + rest.find(['/', '?']).unwrap_or(rest.len())]
}

/// Appends the bytes of `segment`, its escapes decoded. Rule 2.10 of docs/policy.md.
fn decode<'p>(segment: &'p str, decoded: &mut Vec<u8>) -> Result<(), InvalidPath<'p>> {
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(hex).ok_or(InvalidPath::Escape(segment));
                digit()? << 4 | digit()?
            }
            byte => byte,
        };
        match byte {
            0..0x20 | 0x7f => return Err(InvalidPath::Control(segment)),
            b'/' | b'\\' | b';' | b'?' | b'#' => {
                return Err(InvalidPath::Delimiter(segment, byte.into()));
            }
            _ => decoded.push(byte),
        }
    }
    Ok(())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Refuses what a server that decodes or normalises once more takes for something else. `raw` is
/// the segment as it was sent, `text` decoded.
fn check<'p>(raw: &'p str, text: &str) -> Result<(), InvalidPath<'p>> {
    if !text.is_ascii() {
        for c in text.chars().filter(|c| !c.is_ascii()) {
            if is_control(c) {
                return Err(InvalidPath::Control(raw));
            }
            if variant::becomes_delimiter(c) {
                return Err(InvalidPath::Lookalike(raw, c));
            }
        }
    }
    if variant::is_dots(text) {
        return Err(InvalidPath::Dots(raw));
    }
    let mut percents = text.match_indices('%');
    if percents.any(|(at, _)| variant::is_escape(&text[at + 1..])) {
        return Err(InvalidPath::EncodedTwice(raw));
    }
    Ok(())
}
