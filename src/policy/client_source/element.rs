//! One hop: an element of `X-Forwarded-For` and its like, or of `Forwarded` (RFC 7239).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::header_name::is_token_byte;
use crate::policy::network::ClientAddr;

/// An address, also with a port, an IPv6 one also in brackets. White space around it counts for nothing.
pub(super) fn address(element: &[u8]) -> Option<ClientAddr> {
    let text = str::from_utf8(trim(element)).ok()?;
    match text.parse::<Ipv6Addr>() {
        Ok(ip) => Some(IpAddr::V6(ip).into()),
        Err(_) => node(text, is_port),
    }
}

/// The address in the `for` of an element of `Forwarded` (RFC 7239, 4). `None` for an element that breaks its syntax,
/// has no `for` or a parameter twice, or whose `for` is `unknown` or an obfuscated name.
pub(super) fn forwarded_for(element: &[u8]) -> Option<ClientAddr> {
    let mut rest = trim(element);
    let mut names: SmallVec<[&[u8]; 4]> = SmallVec::new();
    let mut found = None;
    while !rest.is_empty() {
        // Empty pairs between semicolons are allowed; white space around them is not.
        if let Some(after) = rest.strip_prefix(b";") {
            rest = after;
            continue;
        }
        let (name, after) = take_token(rest)?;
        let (value, after) = take_value(after.strip_prefix(b"=")?)?;
        if !after.is_empty() && after[0] != b';' {
            return None;
        }
        names.push(name);
        if name.eq_ignore_ascii_case(b"for") {
            found = Some(value);
        }
        rest = after;
    }
    if has_duplicates(&mut names) {
        return None;
    }
    let found = found?;
    node(str::from_utf8(&found).ok()?, |port| is_port(port) || is_obfuscated(port))
}

/// Whether two names differ in case at most. Sorted first: a client may send thousands.
fn has_duplicates(names: &mut [&[u8]]) -> bool {
    names.sort_unstable_by(|a, b| {
        a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
    });
    names.windows(2).any(|pair| pair[0].eq_ignore_ascii_case(pair[1]))
}

/// `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn node(text: &str, is_port: impl Fn(&str) -> bool) -> Option<ClientAddr> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']')?;
            (IpAddr::V6(host.parse::<Ipv6Addr>().ok()?), rest)
        }
        None => {
            let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            (IpAddr::V4(host.parse::<Ipv4Addr>().ok()?), rest)
        }
    };
    let valid = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
    valid.then(|| host.into())
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 5 && text.parse::<u16>().is_ok()
}

/// `obfport` of RFC 7239, 6.3.
fn is_obfuscated(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.strip_prefix('_').is_some_and(|name| !name.is_empty() && name.bytes().all(is_part))
}

/// Without the white space around it that HTTP allows (`OWS`, RFC 9110, 5.6.3).
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn take_token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token or a quoted string, without its quotation marks and backslashes (RFC 9110, 5.6.4), and what follows it.
fn take_value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let (token, rest) = take_token(text)?;
        return Some((Cow::Borrowed(token), rest));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        let byte = match byte {
            b'"' => return Some((Cow::Owned(value), &quoted[at + 1..])),
            b'\\' => *bytes.next()?.1,
            byte => byte,
        };
        // HTAB, SP, VCHAR or obs-text.
        if byte.is_ascii_control() && byte != b'\t' {
            return None;
        }
        value.push(byte);
    }
    None
}
