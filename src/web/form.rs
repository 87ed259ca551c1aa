//! What browsers send: the fields of a form, or of a query.

use std::convert::Infallible;
use std::fmt::Write as _;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::form_urlencoded;

/// The fields of a form or a query, in their order (WHATWG URL, `application/x-www-form-urlencoded`).
/// Bytes that are no UTF-8 read as U+FFFD.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn read(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The first of that name; empty where there is none.
    pub(super) fn one(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// All of that name.
    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// The page number that a list was asked for, from 1.
    pub(super) fn page(&self) -> u32 {
        self.one("page").parse().unwrap_or(1).clamp(1, 1_000_000)
    }
}

/// The id in a path; what is no text is none.
pub(super) struct Id(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(id.map(|Path(id)| id).unwrap_or_default()))
    }
}

/// A path with these fields as its query, less the empty ones.
pub(super) fn link(path: &str, fields: &[(&str, &str)]) -> String {
    let mut link = path.to_owned();
    let mut mark = '?';
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a String can't fail.
        let _ = write!(link, "{mark}{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        mark = '&';
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_browsers_send_them() {
        let fields = Fields::read(b"a=1&b=x+y%2Cz&a=2&c&page=7&d=%ff");
        assert_eq!((fields.one("a"), fields.one("b"), fields.one("c")), ("1", "x y,z", ""));
        assert_eq!((fields.one("none"), fields.one("d")), ("", "\u{fffd}"));
        assert_eq!(fields.all("a"), ["1", "2"]);
        assert_eq!(fields.page(), 7);
        for odd in [&b"page=0"[..], b"page=-1", b"page=x", b""] {
            assert_eq!(Fields::read(odd).page(), 1);
        }
    }

    #[test]
    fn a_link_carries_any_text() {
        assert_eq!(link("/tokens", &[("q", ""), ("kind", "")]), "/tokens");
        let link = link("/tokens", &[("q", "a&b=\u{e9} \"<"), ("page", "2")]);
        assert_eq!(link, "/tokens?q=a%26b%3D%C3%A9%20%22%3C&page=2");
        let fields = Fields::read(link.split_once('?').unwrap().1.as_bytes());
        assert_eq!(fields.one("q"), "a&b=\u{e9} \"<");
    }
}
