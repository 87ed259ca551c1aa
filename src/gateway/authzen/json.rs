//! JSON as AuthZEN requests have it: a tree that keeps what could be read in two ways, so that it can be refused.
//!
//! serde_json alone would keep the last of several values with the same name, and another parser, in a component
//! that checked the request before, the first.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::policy::text::quote;

/// Bytes of a name that a message repeats.
const SHOWN: usize = 60;

/// Any JSON. Numbers are kept as that alone: no field is one.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number,
    Text(String),
    Array(Vec<Json>),
    /// Its members in order, also those whose name comes again.
    Object(Vec<(String, Json)>),
}

/// What is wrong with a request, in a sentence that begins with the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Malformed {
    pub(super) fn new(field: &str, sentence: &str) -> Self {
        Self(format!("{field} {sentence}"))
    }
}

impl Json {
    /// Reads a text. Nested at most 127 levels deep, which serde_json sees to.
    ///
    /// # Errors
    /// Where it is no JSON, saying at which line and column.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Malformed> {
        // The texts of serde_json's errors may repeat what stands there, and that may be a secret.
        serde_json::from_slice(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            if error.is_eof() && text.trim_ascii().is_empty() {
                Malformed("The body is empty: send an object.".to_owned())
            } else {
                Malformed(format!("The body is no JSON: see line {line}, column {column}."))
            }
        })
    }

    /// The member `name` of an object at `at`; `None` where there is none.
    ///
    /// # Errors
    /// This is no object, or it has the member twice.
    pub(super) fn member(&self, at: &str, name: &str) -> Result<Option<&Self>, Malformed> {
        let Self::Object(members) = self else {
            return Err(Malformed::new(at, "is no object."));
        };
        let mut found = members.iter().filter(|(own, _)| own == name).map(|(_, value)| value);
        let first = found.next();
        if found.next().is_some() {
            let field = join(at, &quote(name, SHOWN));
            return Err(Malformed::new(&field, "is there more than once: send it once."));
        }
        Ok(first)
    }

    /// The text of the member `name`; `None` also where that is null.
    ///
    /// # Errors
    /// As [`Self::member`], and where it is no text.
    pub(super) fn text(&self, at: &str, name: &str) -> Result<Option<&str>, Malformed> {
        match self.member(at, name)? {
            None | Some(Self::Null) => Ok(None),
            Some(Self::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed::new(&join(at, name), "is no string.")),
        }
    }

    /// The same, which has to be there.
    ///
    /// # Errors
    /// As [`Self::text`], and where there is none.
    pub(super) fn required_text(&self, at: &str, name: &str) -> Result<&str, Malformed> {
        self.text(at, name)?.ok_or_else(|| Malformed::new(&join(at, name), "is required."))
    }

    /// The truth value of the member `name`; false where there is none, or null.
    ///
    /// # Errors
    /// As [`Self::member`], and where it is none.
    pub(super) fn flag(&self, at: &str, name: &str) -> Result<bool, Malformed> {
        match self.member(at, name)? {
            None | Some(Self::Null) => Ok(false),
            Some(Self::Bool(flag)) => Ok(*flag),
            Some(_) => Err(Malformed::new(&join(at, name), "is neither true nor false.")),
        }
    }
}

/// The name of a field within another one.
pub(super) fn join(at: &str, name: &str) -> String {
    match at {
        BODY => name.to_owned(),
        _ => format!("{at}.{name}"),
    }
}

/// The whole request, in messages.
pub(super) const BODY: &str = "The body";

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = entries.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}
