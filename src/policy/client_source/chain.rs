//! The hops that a header names, read from the last one back to the client.
//!
//! From the right, also where quotation marks hide commas: what a client sends stands to the left, so nothing in it
//! can move the ends of the elements that proxies append. A parser that began at the left would let a client's open
//! quotation mark swallow them.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::TrustedProxies;
use super::element;
use super::header_name::HeaderName;
use crate::policy::network::ClientAddr;

/// Bytes of the header's values, joined. A longer header names no address.
pub const MAX_HEADER_BYTES: usize = 8_192;

/// Elements that are read. A header that has more trusted proxies at its end names no address.
pub const MAX_ELEMENTS: usize = 64;

/// The last address in the header `name` that is not a trusted proxy.
pub(super) fn first_untrusted<'a>(
    name: &HeaderName,
    values: impl IntoIterator<Item = &'a [u8]>,
    trusted: &TrustedProxies,
) -> Option<ClientAddr> {
    let joined = join(values)?;
    let is_forwarded = name.is_forwarded();
    let mut rest = Some(&joined[..]);
    for _ in 0..MAX_ELEMENTS {
        let (before, last) = split_last(rest?, is_forwarded)?;
        let address =
            if is_forwarded { element::forwarded_for(last) } else { element::address(last) }?;
        if !trusted.contain(address) {
            return Some(address);
        }
        rest = before;
    }
    None
}

/// Several lines of one header are one list (RFC 9110, 5.3). `None` if it is too long.
fn join<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Cow<'a, [u8]>> {
    let mut lines: SmallVec<[&[u8]; 4]> = SmallVec::new();
    let mut length = 0;
    for value in values {
        // With the comma after it, so that many empty lines are too long as well.
        length += value.len() + 1;
        if length > MAX_HEADER_BYTES + 1 {
            return None;
        }
        lines.push(value);
    }
    match lines.as_slice() {
        [] => None,
        [line] => Some(Cow::Borrowed(line)),
        lines => Some(Cow::Owned(lines.join(&b','))),
    }
}

/// The last element of a list, and what stands before its comma if it has one. With `quotes`, a comma between
/// quotation marks separates nothing (RFC 9110, 5.6.4); `None` where the last one has no partner.
fn split_last(list: &[u8], quotes: bool) -> Option<(Option<&[u8]>, &[u8])> {
    let mut quoted = false;
    for (at, &byte) in list.iter().enumerate().rev() {
        match byte {
            // Inside a quoted string, one after an odd number of backslashes belongs to the text.
            b'"' if quotes => {
                let before = &list[..at];
                let slashes = before.iter().rev().take_while(|&&byte| byte == b'\\').count();
                quoted ^= !quoted || slashes % 2 == 0;
            }
            b',' if !quoted => return Some((Some(&list[..at]), &list[at + 1..])),
            _ => {}
        }
    }
    (!quoted).then_some((None, list))
}
