//! Every numbered rule of `docs/policy.md` is cited by the code that enforces it and by a test that fails without it.
//!
//! A citation is "rule 2.4", or "rules 2.4, 2.5 and 2.6", in a comment or a message. A range ("2.4 to 2.6") cites its
//! first rule only. Whether the code near a citation does enforce the rule is for people to judge.

#![allow(clippy::expect_used, reason = "a failure here is the test's failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_rule_is_cited_by_code_and_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/policy.md")).expect("a readable file");
    let rules: BTreeSet<&str> = document.lines().filter_map(rule).collect();
    assert!(rules.len() > 100, "docs/policy.md has its rules in another form: {rules:?}");
    let (mut code, mut tests) = (BTreeMap::new(), BTreeMap::new());
    for file in rust_files(&root.join("src")).into_iter().chain(rust_files(&root.join("tests"))) {
        let name = file.strip_prefix(root).expect("a file of the crate").display().to_string();
        // Its own examples are no citations.
        if name == "tests/rules.rs" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a readable file");
        let (before, after) = code_and_tests(&name, &text);
        for (part, cited) in [(before, &mut code), (after, &mut tests)] {
            for rule in citations(part) {
                cited.entry(rule).or_insert_with(|| name.clone());
            }
        }
    }
    let mut breaches = Vec::new();
    for rule in &rules {
        if !code.contains_key(*rule) {
            breaches.push(format!("rule {rule} is cited by no code: cite it where it is enforced"));
        }
        if !tests.contains_key(*rule) {
            breaches.push(format!(
                "rule {rule} is cited by no test: cite it at one that fails without it"
            ));
        }
    }
    for (rule, file) in code.iter().chain(&tests) {
        if !rules.contains(rule.as_str()) {
            breaches.push(format!("{file} cites rule {rule}, which docs/policy.md does not have"));
        }
    }
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn citations_are_found_however_they_are_written() {
    let found = |text: &str| citations(text).into_iter().collect::<Vec<_>>().join(" ");
    for (text, cited) in [
        ("// Rule 6.12 of docs/policy.md.", "6.12"),
        ("//! See docs/policy.md, rules 2.4 and\n    //! 2.5.", "2.4 2.5"),
        ("/// Rules 2.4, 2.5 and 2.6.", "2.4 2.5 2.6"),
        ("\"send it once (rules 2.11 and 2.22)\"", "2.11 2.22"),
        ("rules 2.4 to 2.6", "2.4"),
        ("rule 2.4. Rule 3.1", "2.4 3.1"),
        ("RFC 9110, section 3.2; version 1.2; the rule of 2.4", ""),
    ] {
        assert_eq!(found(text), cited, "{text}");
    }
    assert_eq!(rule("**2.11** A path"), Some("2.11"));
    assert_eq!(rule("**2.11 Paths.** A path"), Some("2.11"));
    assert_eq!(rule("As **2.11** says"), None);
    let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n    // Rule 2.4.\n}\n";
    assert_eq!(code_and_tests("src/a.rs", source).0, "fn a() {}\n");
    assert_eq!(code_and_tests("src/a/tests.rs", source).0, "");
    assert_eq!(
        code_and_tests("src/a.rs", "#[cfg(test)]\nmod tests;\n").0,
        "#[cfg(test)]\nmod tests;\n"
    );
}

/// The number of the rule that a line of the document begins.
fn rule(line: &str) -> Option<&str> {
    let (number, _) = line.strip_prefix("**")?.split_once([' ', '*'])?;
    is_rule(number).then_some(number)
}

fn is_rule(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(section, rule)| is_number(section) && is_number(rule))
}

/// A source of `src` or `tests`: its code, and its tests.
fn code_and_tests<'t>(name: &str, text: &'t str) -> (&'t str, &'t str) {
    if name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs") {
        return ("", text);
    }
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(at) => text.split_at(at),
        None => (text, ""),
    }
}

/// The rules that a source cites.
fn citations(text: &str) -> BTreeSet<String> {
    // Comments go on over lines.
    let words: Vec<&str> = text.split_whitespace().filter(|word| !is_comment_mark(word)).collect();
    let mut cited = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let word = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        if !["rule", "rules", "Rule", "Rules"].contains(&word) {
            continue;
        }
        let mut rest = words[at + 1..].iter();
        while let Some(next) = rest.next() {
            let number = next.trim_end_matches(|c: char| !c.is_ascii_digit());
            let number = number.split([')', ';', ':']).next().unwrap_or_default();
            if !is_rule(number) {
                break;
            }
            cited.insert(number.to_owned());
            // A list goes on behind a comma and behind "and" or "or".
            let comma = *next == format!("{number},");
            let and = matches!(rest.clone().next(), Some(&"and" | &"or"));
            if and {
                rest.next();
            } else if !comma {
                break;
            }
        }
    }
    cited
}

fn is_comment_mark(word: &str) -> bool {
    matches!(word, "//" | "///" | "//!")
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
