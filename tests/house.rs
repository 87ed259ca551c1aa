//! House rules that no compiler knows: each file says what it is for, none is too long, and only
//! `src/config` reads settings.

#![allow(clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fs;
use std::path::{Path, PathBuf};

/// A file is to have about 400 lines at most; past this it must be divided.
const MOST_LINES: usize = 500;

/// What reads a setting: the environment itself, and clap's way to it.
const READS_SETTING: &[&str] =
    &["env::var", "env = \"PORTCULLIS_", "env=\"PORTCULLIS_", ".env(\"PORTCULLIS_"];

#[test]
fn files_keep_the_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut breaches = Vec::new();
    for file in rust_files(&root.join("src")) {
        let name = file.strip_prefix(root).expect("a file of the crate");
        let text = fs::read_to_string(&file).expect("a readable file");
        breaches.extend(check(name, &text));
    }
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn a_breach_is_found() {
    let long = "//! Long.\n".repeat(MOST_LINES);
    let longer = "//! Longer.\n".repeat(MOST_LINES + 1);
    let cases = [
        ("src/cache.rs", "//! Facts.\n", 0),
        ("src/cache.rs", long.as_str(), 0),
        ("src/config/mod.rs", "//! Settings.\n#[arg(env = \"PORTCULLIS_LISTEN\")]", 0),
        ("src/config.rs", "//! Settings.\nstd::env::var(\"PORTCULLIS_LISTEN\")", 0),
        ("src/cache.rs", "//! Facts.\n// Not env::var.\n\"set PORTCULLIS_LISTEN\"", 0),
        ("src/cache.rs", "use std::fmt;\n", 1),
        ("src/cache.rs", "", 1),
        ("src/cache.rs", longer.as_str(), 1),
        ("src/cache.rs", "//! Facts.\nstd::env::var_os(\"PORTCULLIS_LISTEN\")", 1),
        ("src/cli/mod.rs", "//! Calls.\n#[arg(env = \"PORTCULLIS_SERVER\")]", 1),
    ];
    for (file, text, wanted) in cases {
        let found = check(Path::new(file), text);
        assert_eq!(found.len(), wanted, "{file}: {found:?}");
    }
}

fn check(file: &Path, text: &str) -> Vec<String> {
    let name = file.display();
    let mut breaches = Vec::new();
    if !text.starts_with("//!") {
        breaches.push(format!("{name}: begin with `//!`: its job, and what must stay true"));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        breaches.push(format!("{name}: {lines} lines, {MOST_LINES} at most: divide it"));
    }
    if !file.starts_with("src/config") && file != Path::new("src/config.rs") {
        for (number, line) in text.lines().enumerate() {
            let comment = line.trim_start().starts_with("//");
            if !comment && READS_SETTING.iter().any(|read| line.contains(read)) {
                breaches
                    .push(format!("{name}:{}: settings are read in src/config alone", number + 1));
            }
        }
    }
    breaches
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
