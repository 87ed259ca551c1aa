//! Which scope an operation belongs to, and what scopes are called.
//!
//! What must stay true: the scope of an operation never lets a token do what the document asks more
//! for; two scopes of the document never share a name in the catalogue.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::policy::scope::MAX_NAME_LEN;

/// Where a scope of the catalogue comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The scopes of a security requirement, all of which it asks for; at least one.
    Security(BTreeSet<String>),
    /// A tag, or the first word of the path where there is none.
    Tag {
        /// As the document has it.
        tag: String,
        /// Whether its operations have other methods than `GET`, `HEAD` and `OPTIONS`.
        writes: bool,
    },
}

impl Origin {
    /// What a comment says of it.
    pub(super) fn describe(&self) -> String {
        let quoted = |scopes: &BTreeSet<String>| {
            scopes.iter().map(|scope| format!("{scope:?}")).collect::<Vec<_>>().join(" and ")
        };
        match self {
            Self::Security(scopes) if scopes.len() == 1 => {
                format!("from the security scope {}", quoted(scopes))
            }
            Self::Security(scopes) => {
                format!("for operations that need all of the security scopes {}", quoted(scopes))
            }
            Self::Tag { tag, writes } => format!(
                "from the tag or path {tag:?}, methods that {}; the document names no security scope",
                if *writes { "write" } else { "read" }
            ),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Security(scopes) => normalized(
                &scopes.iter().map(|scope| word(scope)).collect::<Vec<_>>().join("-and-"),
            ),
            Self::Tag { tag, writes } => {
                // The ending stays where the tag is cut.
                let ending = if *writes { ".write" } else { ".read" };
                let tag = shortened(&filled(&word(tag)), MAX_NAME_LEN - ending.len());
                tag + ending
            }
        }
    }
}

/// What an operation needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: anybody may call it.
    Public,
    /// The document does not say.
    Unknown,
    /// All of these scopes.
    Scopes {
        /// At least one.
        scopes: BTreeSet<String>,
        /// What somebody has to look at.
        review: Option<String>,
    },
}

/// What the security requirements of an operation ask for. Of alternatives the one with the fewest
/// scopes, the first of several: a token that has these may call it.
pub(super) fn need(security: Option<&Value>, of_document: bool) -> Need {
    let Some(Value::Array(alternatives)) = security else { return Need::Unknown };
    let alternatives: Vec<BTreeSet<String>> = alternatives.iter().filter_map(scopes_of).collect();
    let Some(first) = alternatives.iter().min_by_key(|scopes| (scopes.is_empty(), scopes.len()))
    else {
        // Of a whole document it says no more than if it were left out.
        let asks_nothing = alternatives.is_empty() && !of_document;
        return if asks_nothing { Need::Public } else { Need::Unknown };
    };
    if first.is_empty() {
        return Need::Unknown;
    }
    let others: Vec<String> = alternatives
        .iter()
        .filter(|other| *other != first)
        .map(|other| match other.len() {
            0 => "other credentials without a scope".to_owned(),
            _ => other.iter().map(|scope| format!("{scope:?}")).collect::<Vec<_>>().join(" and "),
        })
        .collect();
    let review = (!others.is_empty()).then(|| format!("instead, also {}", others.join(", or ")));
    Need::Scopes { scopes: first.clone(), review }
}

/// Whether one of the alternatives is to need nothing.
pub(super) fn may_be_anonymous(security: Option<&Value>) -> bool {
    let alternatives = security.and_then(Value::as_array).into_iter().flatten();
    alternatives.filter_map(Value::as_object).any(serde_json::Map::is_empty)
}

/// The scopes of a security requirement, of all its schemes; `None` of one that needs nothing.
fn scopes_of(requirement: &Value) -> Option<BTreeSet<String>> {
    let schemes = requirement.as_object().filter(|schemes| !schemes.is_empty())?;
    let scopes = schemes.values().filter_map(Value::as_array).flatten();
    Some(scopes.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// A name for each origin, no two alike, and what was renamed since others have its name.
pub(super) fn names(
    origins: impl Iterator<Item = Origin>,
) -> (BTreeMap<Origin, String>, Vec<(Origin, String)>) {
    let mut names = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut renamed = Vec::new();
    for origin in origins {
        let wanted = origin.name();
        let mut name = wanted.clone();
        let mut number = 1;
        while !used.insert(name.clone()) {
            number += 1;
            let ending = format!("-{number}");
            name = shortened(&wanted, MAX_NAME_LEN - ending.len()) + &ending;
        }
        if name != wanted {
            renamed.push((origin.clone(), name.clone()));
        }
        names.insert(origin, name);
    }
    (names, renamed)
}

/// `text` in the characters of a scope's name, without any at its ends that only separate.
fn word(text: &str) -> String {
    let text = text.strip_prefix("https://").or(text.strip_prefix("http://")).unwrap_or(text);
    let character = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '-' | '.') => c,
        ':' | '/' => '.',
        _ => '_',
    };
    let word: String = text.chars().map(character).collect();
    word.trim_matches(['.', '_', '-']).to_owned()
}

fn filled(word: &str) -> String {
    if word.is_empty() { "scope".to_owned() } else { word.to_owned() }
}

fn normalized(word: &str) -> String {
    shortened(&filled(word), MAX_NAME_LEN)
}

/// `name`, which is ASCII, in at most `most` bytes: where it is cut, a checksum distinguishes it from others.
fn shortened(name: &str, most: usize) -> String {
    if name.len() <= most {
        return name.to_owned();
    }
    let checksum = format!("-{:08x}", crc32fast::hash(name.as_bytes()));
    format!("{}{checksum}", &name[..most - checksum.len()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::policy::scope::ScopeName;

    fn security(scopes: &[&str]) -> Origin {
        Origin::Security(scopes.iter().map(|&scope| scope.to_owned()).collect())
    }

    #[test]
    fn scopes_are_called() {
        let tag = |tag: &str, writes| Origin::Tag { tag: tag.to_owned(), writes };
        for (origin, name) in [
            (security(&["read:pets"]), "read.pets"),
            (security(&["write:pets", "read:pets"]), "read.pets-and-write.pets"),
            (
                security(&["https://www.googleapis.com/auth/cloud-platform"]),
                "www.googleapis.com.auth.cloud-platform",
            ),
            (security(&["\u{e9}"]), "scope"),
            (tag("User Accounts", false), "user_accounts.read"),
            (tag("pets/", true), "pets.write"),
            (tag("", true), "scope.write"),
        ] {
            assert_eq!(origin.name(), name, "{origin:?}");
        }
        let long = tag(&"x".repeat(100), true).name();
        assert_eq!(long.len(), MAX_NAME_LEN);
        assert!(long.ends_with(".write"), "{long}");
    }

    #[test]
    fn requirements_need() {
        let needed = |security: Value| need(Some(&security), false);
        let scopes = |scopes: &[&str], review: Option<&str>| Need::Scopes {
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            review: review.map(str::to_owned),
        };
        assert_eq!(need(None, false), Need::Unknown);
        assert_eq!(needed(json!([])), Need::Public);
        assert_eq!(needed(json!([{}])), Need::Public);
        assert_eq!(need(Some(&json!([])), true), Need::Unknown);
        assert_eq!(needed(json!([{ "key": [] }])), Need::Unknown);
        assert_eq!(needed(json!([{ "oauth": ["a"] }])), scopes(&["a"], None));
        assert_eq!(needed(json!([{ "key": [], "oauth": ["b", "a"] }])), scopes(&["a", "b"], None));
        assert_eq!(
            needed(json!([{ "oauth": ["a", "b"] }, { "oauth": ["c"] }, { "oauth": ["d"] }])),
            scopes(&["c"], Some("instead, also \"a\" and \"b\", or \"d\""))
        );
        assert_eq!(
            needed(json!([{ "key": [] }, { "oauth": ["a"] }, {}])),
            scopes(&["a"], Some("instead, also other credentials without a scope"))
        );
        assert!(may_be_anonymous(Some(&json!([{ "oauth": ["a"] }, {}]))));
        assert!(!may_be_anonymous(Some(&json!([{ "oauth": ["a"] }]))));
    }

    proptest! {
        #[test]
        fn names_are_names_and_differ(
            scopes in prop::collection::btree_set(
                prop::collection::btree_set("[a-cA-C:/ ._\u{e9}-]{0,4}|x{60,70}", 1..3), 1..20),
            tags in prop::collection::btree_set(("[a-c :]{0,3}|y{55,70}", any::<bool>()), 0..20),
        ) {
            let origins: BTreeSet<Origin> = scopes
                .into_iter()
                .map(Origin::Security)
                .chain(tags.into_iter().map(|(tag, writes)| Origin::Tag { tag, writes }))
                .collect();
            let (names, renamed) = names(origins.iter().cloned());
            prop_assert_eq!(names.len(), origins.len());
            let different: BTreeSet<&String> = names.values().collect();
            prop_assert_eq!(different.len(), origins.len());
            for name in names.values() {
                prop_assert!(name.parse::<ScopeName>().is_ok(), "{}", name);
            }
            for (origin, name) in renamed {
                prop_assert_eq!(&names[&origin], &name);
            }
        }
    }
}
