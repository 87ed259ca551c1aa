//! Imports run one way. Reads which module of `src/` names which other one, in `use` lines and in
//! paths, and fails on what the tables below do not allow.
//!
//! It reads tokens, not types: a macro that makes paths out of parts would escape it.

#![allow(clippy::expect_used, clippy::panic, reason = "a failure here is the test's failure")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every top-level module, and what it may name, space-separated. Not in the row: the module itself.
/// An entry may be a path: then only what lies below it.
///
/// The order is `{policy, audit} <- model <- store <- cache <- replication <- writes <- usage <- lifecycle <- service
/// <- {gateway <- grpc, {web, alerts} <- http} <- app <- main`, with `mail` beside the store, and `decision_log` and
/// `webhooks` beside `usage`; what lies to the left of an arrow may be named, what stands beside one in braces may not.
/// Fronts name `policy`, `model` and `service`, with what serves every module: nothing that keeps or changes state.
#[rustfmt::skip] // A row a line.
const MODULES: &[(&str, &str)] = &[
    ("policy", ""),
    ("html", "policy"),
    ("audit", ""),
    ("secret", "policy"),
    ("lease", ""),
    ("failpoint", ""),
    ("model", "policy audit secret"),
    ("clock", "policy lease"),
    ("telemetry", "policy secret pem clock::Stopwatch"),
    ("shutdown", "policy telemetry"),
    ("pem", ""),
    ("files", ""),
    ("net", "policy pem files shutdown"),
    ("config", "policy secret telemetry mail pem files"),
    ("store", "policy audit failpoint secret lease model clock telemetry shutdown"),
    ("cache", "policy secret model clock telemetry shutdown store"),
    ("replication", "policy failpoint model lease clock telemetry shutdown store cache"),
    ("writes", "policy model telemetry shutdown store cache replication"),
    ("usage", "policy model clock telemetry store cache writes"),
    ("decision_log", "policy secret clock telemetry"),
    ("mail", "policy pem"),
    ("lifecycle", "policy secret model clock telemetry shutdown store cache replication writes usage mail"),
    ("webhooks", "policy secret model clock telemetry pem net store cache writes"),
    ("service", "policy failpoint secret model clock telemetry shutdown net store cache replication writes usage decision_log mail lifecycle webhooks"),
    ("gateway", "policy secret model clock::Stopwatch telemetry shutdown net service"),
    ("grpc", "policy audit secret model clock::Stopwatch telemetry shutdown net service gateway"),
    ("web", "policy secret model clock::Stopwatch telemetry shutdown html net service"),
    ("alerts", "policy secret model clock::Stopwatch telemetry shutdown pem net service"),
    ("http", "policy secret model clock::Stopwatch telemetry shutdown net service web alerts"),
    ("app", "policy failpoint secret model clock telemetry shutdown pem files net config store cache replication writes usage decision_log mail lifecycle webhooks service gateway grpc web alerts http"),
    // A client of the server: it knows the protocol, not the server.
    ("cli", "policy audit config pem grpc::proto decision_log::rotation"),
    ("main", "app cli config telemetry shutdown"),
];

/// Crates that stay in some modules. A name stands for its family too: `tonic` for `tonic_types`.
const CRATES: &[(&str, &[&str])] = &[
    ("tonic", &["grpc", "cli", "telemetry"]),
    ("prost", &["grpc", "cli"]),
    ("sqlx", &["store"]),
    ("axum", &["alerts", "http", "web"]),
    ("anyhow", &["app", "cli", "main"]),
];

/// Crates that do I/O or keep time, which these modules must not even name.
const PURE: &[&str] = &["policy", "audit", "secret", "lease"];
const IMPURE: &[&str] =
    &["tokio", "futures_util", "async_trait", "hyper", "tower", "moka", "tracing"];

#[test]
fn imports_run_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut breaches = Vec::new();
    for file in rust_files(&src) {
        let name = file.strip_prefix(&src).expect("a file of src");
        let text = fs::read_to_string(&file).expect("a readable file");
        breaches.extend(check(name, &text));
    }
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn a_breach_is_found_however_it_is_written() {
    // The file, what stands in it, and what is found: "" for nothing.
    let cases = [
        ("store/mod.rs", "use crate::policy::token::Token;", ""),
        ("policy/token.rs", "use super::scope::Scope; use self::x; use std::net::IpAddr;", ""),
        ("service/mod.rs", "// use crate::grpc;\n/* crate::grpc::x /* */ */", ""),
        (
            "service/mod.rs",
            r##"const A: &str = "crate::grpc::x"; const B: &str = r#""crate::grpc"#;"##,
            "",
        ),
        ("service/mod.rs", "fn f<'a>(x: &'a str) -> char { 'x' }", ""),
        ("grpc/mod.rs", "use tonic::Status; #[tonic::async_trait] impl X {}", ""),
        ("cli/mod.rs", "use crate::grpc::proto::Token;", ""),
        ("cache.rs", "mod tests { use super::*; }", ""),
        ("cache.rs", "mod tests { mod deep { use super::super::CacheEntry; } }", ""),
        ("lib.rs", "pub mod grpc; pub use grpc::server;", ""),
        ("main.rs", "use portcullis::app;", ""),
        // The order.
        ("policy/token.rs", "use crate::store::Store;", "store"),
        ("policy/token.rs", "use super::super::clock::now;", "clock"),
        ("policy/mod.rs", "fn f() { super::clock::now(); }", "clock"),
        ("store/sqlite/mod.rs", "fn f() -> crate::service::Error {}", "service"),
        ("store/sqlite/mod.rs", "fn f() -> Vec<crate::cache::Entry> {}", "cache"),
        ("cache.rs", "use crate::{policy::id, usage};", "usage"),
        ("cache.rs", "mod tests { use super::super::usage; }", "usage"),
        (
            "cache.rs",
            "mod tests { mod deep { fn f() { super::super::super::usage::x() } } }",
            "usage",
        ),
        ("cache.rs", "mod tests { } fn f() { super::usage::x() }", "usage"),
        (
            "service/tokens.rs",
            "pub(crate) use crate::{\n    store::{self, Facts},\n    http::page as p,\n};",
            "http",
        ),
        ("grpc/mod.rs", "let x = \"\\\"\"; use crate::http;", "http"),
        ("grpc/mod.rs", "use crate::store::Trouble;", "store::Trouble"),
        ("web/mod.rs", "use crate::cache::Cache;", "cache::Cache"),
        ("cli/mod.rs", "use crate::grpc::{proto, convert};", "grpc::convert"),
        ("cli/mod.rs", "use crate::app;", "app"),
        ("main.rs", "use portcullis::store::Store;", "store"),
        ("cache.rs", "use crate::*;", "the crate root"),
        ("cache.rs", "use crate::novelty::X;", "novelty"),
        ("novelty.rs", "", "novelty"),
        // The crates.
        ("service/mod.rs", "use tonic::Status;", "tonic"),
        ("service/mod.rs", "fn f(s: ::tonic::Status) {}", "tonic"),
        ("service/mod.rs", "use {std::fmt, tonic_types as t};", "tonic_types"),
        ("service/mod.rs", "extern crate prost;", "prost"),
        ("cache.rs", "#[derive(Debug, sqlx::FromRow)] struct X;", "sqlx"),
        ("grpc/mod.rs", "fn f() -> Result<(), axum::Error> {}", "axum"),
        ("service/mod.rs", "use anyhow::Context as _;", "anyhow"),
        ("policy/decide.rs", "async fn f() { tokio::task::yield_now().await }", "tokio"),
        ("lease/mod.rs", "use crate::clock::Clock;", "clock"),
        ("lease/replica.rs", "use tokio::time::Instant;", "tokio"),
    ];
    for (file, text, wanted) in cases {
        let found = check(Path::new(file), text);
        match wanted {
            "" => assert!(found.is_empty(), "{file}: {text}\nfound {found:?}"),
            _ => {
                assert_eq!(found.len(), 1, "{file}: {text}\nfound {found:?}");
                assert!(
                    found[0].contains(&format!("`{wanted}")),
                    "{file}: {text}\nfound {found:?}"
                );
            }
        }
    }
}

/// The breaches in one file of `src/`.
fn check(file: &Path, text: &str) -> Vec<String> {
    let home = module_of(file);
    let top = home.first().map_or("main", String::as_str);
    if file == Path::new("lib.rs") {
        // It declares the modules and belongs to none.
        return Vec::new();
    }
    let Some((_, allowed)) = MODULES.iter().find(|(module, _)| *module == top) else {
        return vec![format!(
            "src/{}: `{top}` is not in the table of tests/layers.rs",
            file.display()
        )];
    };
    let mut breaches = Vec::new();
    for Named { line, path } in names(&home, &tokens(text)) {
        if let Some(cause) = breach(top, allowed, &path) {
            breaches.push(format!("src/{}:{line}: {cause}", file.display()));
        }
    }
    breaches
}

/// Why module `top` may not name `path`, if it may not.
fn breach(top: &str, allowed: &str, path: &Reference) -> Option<String> {
    match path {
        Reference::Own(path) => {
            let first = path.first().map(String::as_str);
            let written = path.join("::");
            match first {
                None | Some("*" | "self") => {
                    Some("names `the crate root`: name the module".to_owned())
                }
                Some(first) if first == top => None,
                Some(_) => {
                    let below = |entry: &str| {
                        written == *entry || written.starts_with(&format!("{entry}::"))
                    };
                    (!allowed.split(' ').any(below))
                        .then(|| format!("`{written}` is not for `{top}`: see architecture.md and tests/layers.rs"))
                }
            }
        }
        Reference::Foreign(name) => {
            let of_family =
                |family: &str| name == family || name.starts_with(&format!("{family}_"));
            let elsewhere =
                CRATES.iter().find(|(family, places)| of_family(family) && !places.contains(&top));
            if let Some((_, places)) = elsewhere {
                return Some(format!("crate `{name}` stays in {}", places.join(", ")));
            }
            (PURE.contains(&top) && IMPURE.contains(&name.as_str()))
                .then(|| format!("crate `{name}` has no place in `{top}`, which does no I/O"))
        }
    }
}

/// The module that a file of `src/` is: `store/sqlite/mod.rs` is `store::sqlite`.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "main" || last == "lib") {
        module.pop();
    }
    module
}

/// Something that a file names, and where.
struct Named {
    line: usize,
    path: Reference,
}

enum Reference {
    /// A path of this crate, from its root.
    Own(Vec<String>),
    /// What may be another crate.
    Foreign(String),
}

/// Everything that `tokens`, which stand in module `home`, name from outside their own module.
fn names(home: &[String], tokens: &[Token]) -> Vec<Named> {
    let mut module = home.to_vec();
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if inline.last() == Some(&depth) {
                    inline.pop();
                    module.pop();
                }
            }
            "mod" if text(tokens, at + 2) == "{" => {
                module.push(text(tokens, at + 1).to_owned());
                inline.push(depth);
                at += 1;
            }
            "use" => {
                let mut paths = Vec::new();
                at = use_tree(tokens, at + 1, &[], &mut paths);
                found.extend(paths.into_iter().filter_map(|path| named(&module, token.line, path)));
                continue;
            }
            "crate" if at > 0 && text(tokens, at - 1) == "extern" => {
                found.extend(named(&module, token.line, vec![text(tokens, at + 1).to_owned()]));
            }
            word if is_word(word) && text(tokens, at + 1) == "::" && begins_path(tokens, at) => {
                let mut path = vec![word.to_owned()];
                while text(tokens, at + 1) == "::" && is_word(text(tokens, at + 2)) {
                    path.push(text(tokens, at + 2).to_owned());
                    at += 2;
                }
                found.extend(named(&module, token.line, path));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Collects the paths of a `use` tree that begins at `at`; gives the place after it.
fn use_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match text(tokens, at) {
            "::" => at += 1,
            "{" => {
                at += 1;
                while !matches!(text(tokens, at), "}" | "") {
                    at = use_tree(tokens, at, &path, paths);
                    if text(tokens, at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            word if is_word(word) || word == "*" => {
                path.push(word.to_owned());
                at += 1;
            }
            _ => {
                if path.len() > prefix.len() {
                    paths.push(path);
                    return at;
                }
                // No tree at all, as in `impl Trait + use<'a>`.
                return at + 1;
            }
        }
    }
}

/// Where a path leads that stands in `module`. `None`: to that module or below it.
fn named(module: &[String], line: usize, mut path: Vec<String>) -> Option<Named> {
    let up = path.iter().take_while(|part| *part == "super").count();
    let path = match path[0].as_str() {
        "crate" | "portcullis" => Reference::Own(path.split_off(1)),
        "super" => {
            let kept = module.len().saturating_sub(up);
            let mut absolute = module[..kept].to_vec();
            absolute.extend(path.split_off(up));
            Reference::Own(absolute)
        }
        "self" | "Self" => return None,
        _ => Reference::Foreign(path.swap_remove(0)),
    };
    Some(Named { line, path })
}

/// Whether the word at `at` begins a path, rather than going on with one.
fn begins_path(tokens: &[Token], at: usize) -> bool {
    let Some(before) = at.checked_sub(1) else {
        return true;
    };
    match text(tokens, before) {
        "." => false,
        "::" => before
            .checked_sub(1)
            .is_none_or(|further| !is_word(text(tokens, further)) && text(tokens, further) != ">"),
        _ => true,
    }
}

/// A word, `::`, or any other character.
struct Token {
    line: usize,
    text: String,
}

fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| &token.text)
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Rust source without comments, strings and characters.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest) {
            length
        } else if first == '\'' {
            character(rest)
        } else if is_word(rest) {
            let length = rest
                .find(|next: char| !next.is_alphanumeric() && next != '_')
                .unwrap_or(rest.len());
            tokens.push(Token { line, text: rest[..length].to_owned() });
            length
        } else if first.is_whitespace() {
            first.len_utf8()
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            tokens.push(Token { line, text: rest[..length].to_owned() });
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a string that begins here, of whatever kind.
fn string(rest: &str) -> Option<usize> {
    let body = rest.trim_start_matches(['b', 'c']);
    if rest.len() - body.len() > 1 {
        return None;
    }
    let prefix = rest.len() - body.len();
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let inner = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = inner.find(&end).map_or(inner.len(), |found| found + end.len());
        return Some(prefix + 1 + hashes + 1 + length);
    }
    let inner = body.strip_prefix('"')?;
    Some(prefix + 1 + until_quote(inner, '"'))
}

/// The length of a character or of a lifetime's quote.
fn character(rest: &str) -> usize {
    let inner = &rest[1..];
    let mut next = inner.chars();
    match (next.next(), next.next()) {
        (Some('\\'), _) => 1 + until_quote(inner, '\''),
        (Some(one), Some('\'')) => 1 + one.len_utf8() + 1,
        _ => 1,
    }
}

/// The length up to and with the next `quote` that no backslash stands before.
fn until_quote(inner: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, next) in inner.char_indices() {
        match next {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if next == quote => return at + next.len_utf8(),
            _ => {}
        }
    }
    inner.len()
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
