//! Why a request takes no route, in words for a person, with the cure.
//!
//! What must stay true: nobody is advised to add a route that a catalogue can't contain. What is
//! wrong with a path is found by the same reader that refused it.

use super::path;
use super::{
    InvalidRoute, MAX_METHOD_LEN, MAX_PATH_SEGMENTS, MAX_SEGMENTS, Method, Route, Rules, Segment,
    quoted,
};

/// Why a request that matches no route matches none (docs/policy.md, rule 2.25).
pub fn explain_unmatched(method: &str, path: &str) -> String {
    let method = match method.parse::<Method>() {
        Ok(_) => method,
        Err(InvalidRoute::Head) => "GET",
        Err(_) => return explain_method(method),
    };
    let mut segments = [b"".as_slice(); MAX_PATH_SEGMENTS];
    let mut decoded = Vec::new();
    let shape = match path::read(path, &mut segments, &mut decoded) {
        Ok(shape) => shape,
        Err(error) => return format!("No route can match this request: its path {error}."),
    };
    let literal =
        |text: &&str| matches!(Segment::parse(text, Rules::Today), Ok(Segment::Literal(_)));
    let other = segments[..shape.count].iter().map(|text| path::text(text)).find(|t| !literal(t));
    let mut form = other.map_or_else(String::new, |text| {
        format!(", with a parameter such as {{id}} in the place of {}", quoted(text))
    });
    if shape.count > MAX_SEGMENTS {
        form = format!(
            ", with a catch-all such as {{rest...}} at its end, since a route has at most \
             {MAX_SEGMENTS} segments"
        );
    }
    let check = if shape.trailing_slash {
        form += ", with \"/\" at its end";
        " (the last \"/\" counts)"
    } else {
        ""
    };
    format!(
        "No scope covers this method and path. Check both for a mistake{check}, or have an operator \
         add a route for {method} to the catalogue{form}."
    )
}

/// The longest outline, in characters.
const OUTLINE: usize = 160;

/// Method and path of a request in short, for a record that people read: without the query, and with `{}` in the place of
/// each segment that is no plain word, so that ids and secrets are not kept.
pub fn outline(method: &str, path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let is_version = |text: &str| {
        text.strip_prefix('v').is_some_and(|number| {
            (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit())
        })
    };
    // No part of a word is as long as a secret of 128 random bits.
    let is_part = |part: &str| part.len() <= 20 && part.bytes().all(|b| b.is_ascii_alphabetic());
    let is_word = |text: &str| text.len() <= 32 && text.split(['-', '_', '.']).all(is_part);
    let shown = |text| if is_word(text) || is_version(text) { text } else { "{}" };
    let method = if is_word(method) { method } else { "{}" };
    let mut outline = format!("{method} ");
    for (at, segment) in path.split('/').take(MAX_PATH_SEGMENTS).enumerate() {
        if at > 0 {
            outline.push('/');
        }
        outline.push_str(shown(segment));
    }
    outline.truncate(OUTLINE);
    outline
}

fn explain_method(method: &str) -> String {
    let upper = method.to_ascii_uppercase();
    let cure = match upper.parse::<Method>() {
        Ok(_) | Err(InvalidRoute::Head) => format!("send {upper}"),
        Err(_) => "send a method such as GET".to_owned(),
    };
    format!(
        "No route can match this request: its method {} is not 1 to {} upper-case letters: {cure} \
         (rules 2.12 and 2.13).",
        quoted(method),
        MAX_METHOD_LEN
    )
}

/// Why a request is given to no route that takes `own`, since another server may take `other`, a
/// route of the scope named `scope` (docs/policy.md, rule 2.23).
pub fn explain_ambiguous(path: &str, own: &Route, other: &Route, scope: &str) -> String {
    let mut segments = [b"".as_slice(); MAX_PATH_SEGMENTS];
    let mut decoded = Vec::new();
    // It was read before, so it can be read.
    let count = path::read(path, &mut segments, &mut decoded).map_or(0, |shape| shape.count);
    // Where the other route's path differs: in what it fixes and the path doesn't spell so, or in a
    // parameter for what its own route fixes, most likely where that can be read in another way.
    let pairs = || {
        segments[..count].iter().enumerate().filter_map(|(place, text)| {
            let (own, other) = (own.segment_at(place)?, other.segment_at(place)?);
            Some((path::text(text), own.is_fixed(), other))
        })
    };
    let opened = || pairs().filter(|(_, fixed, other)| *fixed && !other.is_fixed());
    let plain = |text: &str| text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'));
    let differing = pairs().find(|(text, _, other)| !other.matches(text));
    let differing = differing.or_else(|| opened().find(|(text, ..)| !plain(text)));
    let differing = differing.or_else(|| opened().next());
    let reading = differing.map_or_else(String::new, |(text, _, other)| {
        let text = quoted(text);
        match other {
            Segment::Literal(literal) => format!("read {text} in this path as {literal:?} and "),
            Segment::Suffixed { suffix, .. } => {
                format!("read {text} in this path as a text that ends with {suffix:?} and ")
            }
            _ => format!("read {text} in this path as another text and "),
        }
    });
    let cure = if differing.is_some_and(|(_, fixed, _)| fixed) {
        "Have an operator give both routes to one scope, or leave one out"
    } else {
        "Send the path as the route that is meant writes it; other spellings are not accepted"
    };
    format!(
        "Some servers {reading}run {other}, which needs another scope, {scope}. {cure} (rule 2.23)."
    )
}
