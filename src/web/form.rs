//! What browsers send: forms and queries, read into types.

use std::convert::Infallible;
use std::fmt::Write as _;

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::PageError;

/// Reads a form or a query (WHATWG URL, `application/x-www-form-urlencoded`) into the fields of `T`, which have the
/// names of the form's. Names that `T` does not have are ignored, and bytes that are no UTF-8 read as U+FFFD.
///
/// # Errors
/// A field that `T` has once comes twice, or is not of its type: 400. No page of ours sends such a form.
pub(super) fn read<T: DeserializeOwned>(encoded: &[u8]) -> Result<T, PageError> {
    serde_html_form::from_bytes(encoded).map_err(|error| {
        let text = format!(
            "What was sent can't be read ({error}), so nothing was done: load the page again."
        );
        PageError::new(StatusCode::BAD_REQUEST, "Not like this", text)
    })
}

/// The query of an address, as [`read`] reads it; an empty one where there is none.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, PageError> {
        read(parts.uri.query().unwrap_or_default().as_bytes()).map(Self)
    }
}

/// A form without fields of its own: what it does is in its address.
#[derive(Deserialize)]
pub(super) struct NoFields {}

/// The query of a list whose pages have names.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct PageQuery {
    /// The name of the page; empty for the first.
    pub(super) page: String,
}

/// The query with which a page is shown after a change.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Done {
    /// The change; empty where none was made.
    pub(super) done: String,
}

/// The number of a page, from 1 to 1,000,000. What is no such number reads as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(super) struct PageNumber(pub(super) u32);

impl Default for PageNumber {
    fn default() -> Self {
        Self(1)
    }
}

impl From<String> for PageNumber {
    fn from(text: String) -> Self {
        Self(text.parse().unwrap_or(1).clamp(1, 1_000_000))
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

    #[derive(Deserialize, Default, Debug, PartialEq)]
    #[serde(default)]
    struct Sample {
        name: String,
        scope: Vec<String>,
        version: Option<i64>,
        page: PageNumber,
    }

    fn sample(encoded: &str) -> Option<Sample> {
        read(encoded.as_bytes()).ok()
    }

    #[test]
    fn fields_are_read_as_browsers_send_them() {
        let read = sample("scope=1&name=x+y%2Cz%ff&scope=2&other=3&version=-4&page=7");
        let scope = vec!["1".to_owned(), "2".to_owned()];
        let expected = Sample {
            name: "x y,z\u{fffd}".to_owned(),
            scope,
            version: Some(-4),
            page: PageNumber(7),
        };
        assert_eq!(read, Some(expected));
        for empty in ["", "name", "name=&version=", "page=0", "page=-1", "page=x", "page="] {
            assert_eq!(sample(empty), Some(Sample::default()), "{empty}");
        }
    }

    #[test]
    fn a_field_that_comes_twice_or_is_of_another_type_is_refused() {
        for odd in ["name=a&name=b", "name=a&scope=1&name=a", "version=x", "page=1&page=2"] {
            assert_eq!(sample(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_link_carries_any_text() {
        assert_eq!(link("/tokens", &[("q", ""), ("kind", "")]), "/tokens");
        let link = link("/tokens", &[("q", "a&b=\u{e9} \"<"), ("page", "2")]);
        assert_eq!(link, "/tokens?q=a%26b%3D%C3%A9%20%22%3C&page=2");
        let fields: Vec<(String, String)> =
            serde_html_form::from_str(link.split_once('?').unwrap().1).unwrap();
        assert_eq!(fields[0], ("q".to_owned(), "a&b=\u{e9} \"<".to_owned()));
    }
}
