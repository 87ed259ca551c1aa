//! Enough of HTML to look for what a browser would run, and for what a form holds. It reads as browsers
//! do where that matters here: what a page must not have is found however it is spelled.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "test support: each test uses a part of it, and a failure here is the test's failure"
)]

/// A tag as it stands in a page, with what follows up to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// In lower case; of an end tag with `/` before it.
    pub name: String,
    /// Names in lower case, values as a browser reads them.
    pub attributes: Vec<(String, String)>,
    /// The text behind it, as a browser reads it.
    pub text: String,
}

impl Tag {
    /// An attribute's value; empty where it has none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether an attribute has this value.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == Some(value)
    }
}

/// Every tag of a page, in order.
pub fn tags(html: &str) -> Vec<Tag> {
    let mut tags: Vec<Tag> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let (text, from) = rest.split_at(at);
        follow(&mut tags, text);
        let inner = &from[1..];
        if let Some(comment) = inner.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, rest)| rest);
        } else if inner.starts_with(['!', '?']) {
            rest = inner.split_once('>').map_or("", |(_, rest)| rest);
        } else if inner
            .strip_prefix('/')
            .unwrap_or(inner)
            .starts_with(|c: char| c.is_ascii_alphabetic())
        {
            let (tag, behind) = tag(inner);
            rest = behind;
            // In these, no tag is one but their own end.
            let raw = ["script", "style", "textarea", "title"].contains(&tag.name.as_str());
            let end = format!("</{}", tag.name);
            tags.push(tag);
            if raw {
                let length = rest.to_ascii_lowercase().find(&end).unwrap_or(rest.len());
                follow(&mut tags, &rest[..length]);
                rest = &rest[length..];
            }
        } else {
            follow(&mut tags, "<");
            rest = inner;
        }
    }
    follow(&mut tags, rest);
    tags
}

/// All that a person reads, with one space for any gap.
pub fn words(html: &str) -> String {
    let mut text = String::new();
    for tag in tags(html).iter().filter(|tag| !["script", "style"].contains(&tag.name.as_str())) {
        text.push_str(&tag.text);
        text.push(' ');
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Adds text behind the last tag.
fn follow(tags: &mut [Tag], text: &str) {
    if let Some(last) = tags.last_mut() {
        last.text.push_str(&unescape(text));
    }
}

/// Reads a tag, whose `<` is gone, and gives what is behind its `>`.
fn tag(text: &str) -> (Tag, &str) {
    let ends = |c: char| c.is_ascii_whitespace() || c == '>' || c == '/';
    let slash = usize::from(text.starts_with('/'));
    let length = text[slash..].find(ends).map_or(text.len(), |at| at + slash);
    let name = text[..length].to_ascii_lowercase();
    let mut attributes = Vec::new();
    let mut rest = &text[length..];
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        if rest.is_empty() {
            break;
        }
        if let Some(behind) = rest.strip_prefix('>') {
            rest = behind;
            break;
        }
        let length = 1 + rest[1..].find(|c| ends(c) || c == '=').unwrap_or(rest.len() - 1);
        let name = rest[..length].to_ascii_lowercase();
        rest = rest[length..].trim_start();
        let mut value = "";
        if let Some(behind) = rest.strip_prefix('=') {
            (value, rest) = self::value(behind.trim_start());
        }
        attributes.push((name, unescape(value)));
    }
    (Tag { name, attributes, text: String::new() }, rest)
}

/// An attribute's value, and what is behind it.
fn value(text: &str) -> (&str, &str) {
    for quote in ['"', '\''] {
        if let Some(quoted) = text.strip_prefix(quote) {
            return quoted.split_once(quote).unwrap_or((quoted, ""));
        }
    }
    text.split_at(text.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(text.len()))
}

/// With its character references resolved: those that a page of ours may have.
pub fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, from)) = rest.split_once('&') {
        plain.push_str(before);
        match from.split_once(';').and_then(|(name, behind)| Some((character(name)?, behind))) {
            Some((character, behind)) => {
                plain.push(character);
                rest = behind;
            }
            None => {
                plain.push('&');
                rest = from;
            }
        }
    }
    plain + rest
}

fn character(name: &str) -> Option<char> {
    let number = name.strip_prefix('#');
    if let Some(hex) = number.and_then(|number| number.strip_prefix(['x', 'X'])) {
        return char::from_u32(u32::from_str_radix(hex, 16).ok()?);
    }
    if let Some(number) = number {
        return char::from_u32(number.parse().ok()?);
    }
    Some(match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "middot" => '·',
        "hellip" => '…',
        "ndash" => '–',
        "mdash" => '—',
        _ => return None,
    })
}
