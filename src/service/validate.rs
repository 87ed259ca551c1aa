//! Checks of request fields: every error is collected, so that a caller fixes all of them at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;

use super::error::{Error, Violation};
use crate::mail::{Address, InvalidAddress};
use crate::model::Labels;
use crate::policy::network::{Cidr, Limits, MAX_ERRORS, parse_entries};
use crate::policy::text::{self, Unshowable};

/// The longest label of an account, token or credential, in characters.
pub const MAX_NAME: usize = 200;
/// The most labels of a token, and the longest key of one, in bytes.
const MAX_LABELS: usize = 16;
const MAX_LABEL_KEY: usize = 63;
/// The most admins an account can have.
pub const MAX_ADMINS: usize = 50;

/// Collects what is wrong with a request.
#[derive(Debug, Clone, Default)]
pub struct FieldErrors(Vec<Violation>);

impl FieldErrors {
    /// Notes one error.
    pub fn add(
        &mut self,
        field: impl Into<String>,
        reason: &'static str,
        description: impl std::fmt::Display,
    ) {
        self.0.push(Violation {
            field: field.into(),
            description: description.to_string(),
            reason,
        });
    }

    /// Takes over the errors of a check, and its value where it has one.
    pub fn take<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Error::Invalid(violations)) => {
                self.0.extend(violations);
                None
            }
            // Checks of fields give no other errors.
            Err(other) => {
                self.add("", "INVALID", other);
                None
            }
        }
    }

    /// Nothing, or every error.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is any error.
    pub fn into_result(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Invalid(self.0)) }
    }
}

/// An id that a call acts on.
///
/// # Errors
/// It is missing or no id of that kind.
pub fn id<T>(field: &'static str, text: &str) -> Result<T, Error>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    if text.is_empty() {
        return Err(Error::invalid(field, "REQUIRED", "is required"));
    }
    text.parse().map_err(|error| Error::invalid(field, "NOT_AN_ID", error))
}

/// An id to filter by; empty means no filter.
///
/// # Errors
/// It is no id of that kind.
pub fn filter_id<T>(field: &'static str, text: &str) -> Result<Option<T>, Error>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// A label for people; `required` says whether it may not be empty (docs/policy.md, 1.16).
///
/// # Errors
/// It is missing, longer than [`MAX_NAME`] characters, or can't be shown as it is.
pub fn name(text: &str, required: bool) -> Result<String, Error> {
    let invalid = |reason, text: String| Err(Error::invalid("name", reason, text));
    let trimmed = text.trim();
    if trimmed.is_empty() && required {
        return invalid("REQUIRED", "is required".into());
    }
    let count = trimmed.chars().count();
    if count > MAX_NAME {
        let text = format!("has {count} characters, and {MAX_NAME} is the most: shorten it");
        return invalid("TOO_LONG", text);
    }
    if let Err(error) = text::check(trimmed) {
        return invalid(unshowable(error), error.to_string());
    }
    Ok(trimmed.to_owned())
}

/// An optional text for people, of at most `most` characters.
///
/// # Errors
/// It is longer, or can't be shown as it is.
pub fn remark(field: impl Into<String>, text: &str, most: usize) -> Result<(), Error> {
    let count = text.chars().count();
    if count > most {
        let text = format!("has {count} characters, and {most} is the most: shorten it");
        return Err(Error::invalid(field, "TOO_LONG", text));
    }
    text::check(text.trim()).map_err(|error| Error::invalid(field, unshowable(error), error))
}

fn unshowable(error: Unshowable) -> &'static str {
    match error {
        Unshowable::Hidden(_) => "HIDDEN_CHARACTER",
        Unshowable::StoreMode(_) => "COMBINING_MARK",
    }
}

/// The labels of a token. Rule 11.81 of docs/policy.md.
///
/// # Errors
/// There are too many, a key is none, or a value is longer than [`MAX_NAME`] characters or can't be shown as it is.
pub fn labels(given: &HashMap<String, String>) -> Result<Labels, Error> {
    const FIELD: &str = "labels";
    if given.len() > MAX_LABELS {
        let text =
            format!("has {} labels, and {MAX_LABELS} is the most: leave some out", given.len());
        return Err(Error::invalid(FIELD, "TOO_MANY", text));
    }
    let mut errors = FieldErrors::default();
    let mut labels = Labels::new();
    // In order, so that the errors are.
    for (key, value) in given.iter().collect::<BTreeMap<_, _>>() {
        if !is_label_key(key) {
            let shown = text::quote(key, MAX_LABEL_KEY);
            let text = format!(
                "{shown} is no key of a label: it has 1 to {MAX_LABEL_KEY} of a-z, 0-9, `_`, `-`, `.` and `/`, and begins \
                 with a letter"
            );
            errors.add(FIELD, "INVALID_KEY", text);
            continue;
        }
        let value = value.trim();
        if errors.take(remark(format!("{FIELD}[{key}]"), value, MAX_NAME)).is_some() {
            labels.insert(key.clone(), value.to_owned());
        }
    }
    errors.into_result()?;
    Ok(labels)
}

fn is_label_key(key: &str) -> bool {
    let others =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-./".contains(&byte);
    (1..=MAX_LABEL_KEY).contains(&key.len())
        && key.as_bytes()[0].is_ascii_lowercase()
        && key.bytes().all(others)
}

/// Mail addresses of admins, each in canonical form. Rule 1.1 of docs/policy.md.
///
/// # Errors
/// There is none, there are too many, one is no address, or two are of one mailbox.
pub fn admins(texts: &[String]) -> Result<Vec<String>, Error> {
    const FIELD: &str = "admin_emails";
    if texts.is_empty() {
        return Err(Error::invalid(FIELD, "REQUIRED", "an account has at least one admin"));
    }
    if texts.len() > MAX_ADMINS {
        return Err(Error::invalid(
            FIELD,
            "TOO_MANY",
            format_args!("has {} addresses; the most is {MAX_ADMINS}", texts.len()),
        ));
    }
    let mut errors = FieldErrors::default();
    let mut mailboxes = HashSet::new();
    let mut admins = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let field = || format!("{FIELD}[{at}]");
        match text.trim().parse::<Address>() {
            Err(error @ InvalidAddress::TooLong) => errors.add(field(), "TOO_LONG", error),
            Err(error @ InvalidAddress::Hidden(_)) => {
                errors.add(field(), "HIDDEN_CHARACTER", error);
            }
            Err(error) => errors.add(field(), "NOT_AN_EMAIL", error),
            Ok(address) if mailboxes.insert(address.mailbox()) => admins.push(address.to_string()),
            Ok(_) => errors.add(field(), "DUPLICATE", "is in the list twice: name it once"),
        }
    }
    errors.into_result()?;
    Ok(admins)
}

/// Whitelist entries, each string one entry or a comma-separated list. Sorted, each once: however often
/// one is named, and however it is spelled, it counts as one.
///
/// # Errors
/// Every entry that is none, with the cure, up to [`MAX_ERRORS`]; more than any whitelist can have.
pub fn entries(field: &str, texts: &[String], limits: &Limits) -> Result<Vec<Cidr>, Error> {
    let parsed = parse_entries(texts.iter().map(String::as_str), limits).map_err(|errors| {
        let violation = |error: &crate::policy::network::ListError| Violation {
            field: format!("{field}[{}]", error.index),
            description: error.error.to_string(),
            reason: error.error.reason(),
        };
        let mut violations: Vec<_> = errors.iter().map(violation).collect();
        if violations.len() == MAX_ERRORS {
            let description = format!("is read up to the {MAX_ERRORS}th error: there may be more");
            violations.push(Violation { field: field.to_owned(), description, reason: "MORE" });
        }
        Error::Invalid(violations)
    })?;
    let (count, most) = (parsed.len(), limits.max_entries.min(Limits::MOST_ENTRIES));
    if count > Limits::MOST_ENTRIES {
        let text = format!(
            "has {count} different entries, and a whitelist has at most {most} (the server's setting \
             --whitelist-max-entries): name fewer"
        );
        return Err(Error::invalid(field, "TOO_MANY_ENTRIES", text));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule 11.81 of docs/policy.md.
    #[test]
    fn labels_have_bounds() {
        let one =
            |key: &str, value: &str| labels(&HashMap::from([(key.to_owned(), value.to_owned())]));
        let (longest, longer) = ("k".repeat(63), "k".repeat(64));
        for key in ["a", "team/pay-ments_1.x", longest.as_str()] {
            assert_eq!(one(key, " x ").unwrap()[key], "x");
        }
        for key in ["", "1a", "-a", "Team", "a b", "\u{fc}", longer.as_str()] {
            assert!(one(key, "x").is_err(), "{key}");
        }
        assert!(one("a", "").is_ok());
        assert!(one("a", &"\u{fc}".repeat(200)).is_ok());
        assert!(one("a", &"x".repeat(201)).is_err());
        assert!(one("a", "a\u{202e}b").is_err());
        let many = |count: u32| -> HashMap<String, String> {
            (0..count).map(|n| (format!("k{n}"), String::new())).collect()
        };
        assert!(labels(&many(16)).is_ok());
        assert!(labels(&many(17)).is_err());
    }
}
