//! The name of a header that a gateway sets.

use std::fmt;

use crate::policy::text::quote;

/// Bytes of a name; none that is used has half as many.
const MAX_LENGTH: usize = 128;
/// Bytes of a caller's text that a message repeats.
const EXCERPT: usize = 60;

/// A header's name in lower case: a token (RFC 9110, 5.6.2) without underscores.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderName(Box<str>);

impl HeaderName {
    /// Reads a name; upper and lower case are one. [`HeaderName::check`] says what it may be named for.
    ///
    /// # Errors
    /// With the cure, if it is no name or has underscores.
    pub fn parse(text: &str) -> Result<Self, HeaderNameError> {
        let excerpt = || quote(text, EXCERPT);
        if text.len() > MAX_LENGTH {
            return Err(HeaderNameError::TooLong);
        }
        if text.is_empty() || !text.bytes().all(is_token_byte) {
            return Err(HeaderNameError::NotAToken(excerpt()));
        }
        if text.contains('_') {
            return Err(HeaderNameError::Underscore(excerpt()));
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// In lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn x_forwarded_for() -> Self {
        Self("x-forwarded-for".into())
    }

    /// Whether it is the header of RFC 7239, which has a syntax of its own.
    pub(super) fn is_forwarded(&self) -> bool {
        self.as_str() == "forwarded"
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text names no header that can be used. Displays as the end of a sentence that began with the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderNameError {
    /// Longer than any header's name.
    #[error("has more than {MAX_LENGTH} bytes: write one name of letters, digits and hyphens")]
    TooLong,
    /// A character that no name has.
    #[error("is {0}, which is no header's name: write one name of letters, digits and hyphens")]
    NotAToken(String),
    /// Servers take `_` and `-` for one another, so that a client could send the same name beside it.
    #[error("is {0}: many servers take _ and - for the same: write the name with -")]
    Underscore(String),
    /// A name that has another meaning.
    #[error("is {name}, which {meaning}: name another header, such as {example}")]
    Reserved {
        /// The name.
        name: HeaderName,
        /// What it is for, as the end of "which ...".
        meaning: &'static str,
        /// A name that would do.
        example: &'static str,
    },
}

impl HeaderNameError {
    /// A stable word in `UPPER_SNAKE`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "TOO_LONG",
            Self::NotAToken(_) => "NOT_A_HEADER_NAME",
            Self::Underscore(_) => "UNDERSCORE",
            Self::Reserved { .. } => "HEADER_NOT_USABLE",
        }
    }
}

/// `tchar` of RFC 9110, 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
