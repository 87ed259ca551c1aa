//! House rules that no compiler knows: each file says what it is for, none is too long, only `src/config` reads
//! settings, and the tables of docs/operations.md have what the program says, and nothing else.

#![allow(clippy::expect_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis::store::Trouble;

/// A file may be as long as it is about one thing; past this it must be divided.
const MOST_LINES: usize = 800;

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

/// The table of `docs/operations.md` with every warning and error, and the one with some lines of level info.
const LOG_TABLES: [(&[&str], &str); 2] = [
    (&["warn", "error"], "### Warnings and errors in the log"),
    (&["info"], "Lines of level `info` that answer questions:"),
];

#[test]
fn every_warning_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/operations.md")).expect("a readable file");
    let mut messages = Vec::new();
    for file in rust_files(&root.join("src")) {
        let name = file.strip_prefix(root).expect("a file of the crate").display().to_string();
        let text = fs::read_to_string(&file).expect("a readable file");
        messages
            .extend(log_lines(&text).into_iter().map(|(level, text)| (level, text, name.clone())));
    }
    let mut breaches = Vec::new();
    for (levels, heading) in LOG_TABLES {
        let documented = table_below(&document, heading);
        assert!(documented.len() > 3, "docs/operations.md has no table below `{heading}`");
        let logged: Vec<_> =
            messages.iter().filter(|(level, ..)| levels.contains(&level.as_str())).collect();
        for (level, text, file) in &logged {
            if levels != ["info"] && !documented.iter().any(|known| text.starts_with(known)) {
                breaches.push(format!(
                    "{file}: the {level} `{text}` is not in docs/operations.md: add a row to the table \
                     below `{heading}`, with its cause and cure"
                ));
            }
        }
        for known in &documented {
            if !logged.iter().any(|(_, text, _)| text.starts_with(known)) {
                breaches.push(format!(
                    "docs/operations.md, below `{heading}`: nothing in src logs `{known}` at level \
                     {}: remove the row, or write the message as it begins in the source",
                    levels.join(" or ")
                ));
            }
        }
    }
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn log_lines_are_found_however_they_are_written() {
    let text = r#"
        tracing::warn!(%error, name = f("x, \"y\" ("), "goes \
            on {}", of("z"));
        warn!("short"); // warn!("a comment")
        Err(_) => tracing::error!(
            task,
            "with a (parenthesis"
        ),
        tracing::info!("known"); tracing::debug!("left out"); my_warn!("another macro");
    "#;
    let found = log_lines(text);
    let found: Vec<_> = found.iter().map(|(level, text)| (level.as_str(), text.as_str())).collect();
    assert_eq!(
        found,
        [
            ("warn", "goes on {}"),
            ("warn", "short"),
            ("error", "with a (parenthesis"),
            ("info", "known")
        ]
    );
    let table =
        "intro\n\n# H\n\n| message | |\n| --- | --- |\n| `a`, `b` | `c` |\n| `d` | |\n\n| `e` |";
    assert_eq!(table_below(table, "# H"), ["a", "b", "d"]);
}

/// The tables of `docs/operations.md` with what the program says elsewhere than in its log.
const MESSAGE_TABLES: [&str; 3] =
    ["What the server says at its start (status 2):", "## Envoy", "What clients see:"];
/// Ends of messages that are the system's.
const OF_SYSTEM: [&str; 3] =
    ["Address already in use", "No such file or directory", "Permission denied"];

#[test]
fn every_documented_message_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/operations.md")).expect("a readable file");
    let mut program: String =
        rust_files(&root.join("src")).iter().map(|file| texts(file)).collect();
    let migrations = fs::read_dir(root.join("migrations/postgres")).expect("a directory");
    let sql = migrations.map(|entry| fs::read_to_string(entry.expect("an entry").path()));
    program.extend(sql.map(|text| text.expect("a readable file")));
    let mut breaches = Vec::new();
    for heading in MESSAGE_TABLES {
        let documented = table_below(&document, heading);
        assert!(documented.len() > 5, "docs/operations.md has no table below `{heading}`");
        for message in documented {
            for part in fixed_parts(&message) {
                if !OF_SYSTEM.contains(&&*part) && !program.contains(&part) {
                    breaches.push(format!(
                        "docs/operations.md, below `{heading}`: nothing in src says `{part}` of `{message}`: \
                         remove the row, or write the message as it is in the source, with ... for what differs"
                    ));
                }
            }
        }
    }
    let kinds: BTreeSet<_> =
        table_below(&document, "### Troubles of the database").into_iter().collect();
    let known: BTreeSet<_> = Trouble::KINDS.into_iter().map(str::to_owned).collect();
    assert_eq!(kinds, known, "the kinds of troubles in docs/operations.md");
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn every_line_of_healthz_is_documented_and_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/operations.md")).expect("a readable file");
    let documented = table_below(&document, "to your own network.");
    let code = texts(&root.join("src/http/health.rs"));
    let calls = ["format_args!(", "writeln!("].into_iter();
    let said: Vec<_> = calls
        .flat_map(|call| code.split(call).skip(1))
        .filter_map(message)
        .filter(|line| line.contains(": "))
        .collect();
    assert!(said.len() > 8, "src/http/health.rs says its lines in another form: {said:?}");
    let is_said = |documented: &str, line: &str| {
        let parts = fixed_parts(documented);
        let mut rest = line;
        parts.iter().enumerate().all(|(at, part)| match rest.find(part.as_str()) {
            Some(found) if at > 0 || found == 0 => {
                rest = &rest[found + part.len()..];
                true
            }
            _ => false,
        })
    };
    for line in &said {
        let known = documented.iter().any(|row| is_said(row, line));
        assert!(known, "docs/operations.md lacks the line of /healthz `{line}`");
    }
    for row in &documented {
        let known = said.iter().any(|line| is_said(row, line));
        assert!(known, "/healthz never says `{row}`, which docs/operations.md has");
    }
}

#[test]
fn documented_messages_have_their_fixed_parts() {
    for (message, parts) in [
        ("cannot listen on unix:...: Permission denied", "cannot listen on unix|Permission denied"),
        ("replicas: N of M do not renew: ...", "replicas|of|do not renew"),
        ("mail: waiting: N, since ...", "mail|waiting|since"),
        ("store: KIND, for N s: ...", "store|for|s"),
        ("the database at HOST:PORT refuses: ...", "the database at|refuses"),
        ("... settings are invalid:", "settings are invalid"),
    ] {
        assert_eq!(fixed_parts(message).join("|"), parts, "{message}");
    }
}

/// What a documented message has in common with all that it stands for: `...`, `N`, `M`, `KIND` and `HOST:PORT` stand
/// for what differs, and behind a colon a message may go on with one of another place in the source.
fn fixed_parts(message: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for word in message.split(' ') {
        if ["N", "M", "KIND", "HOST:PORT"].contains(&word.trim_matches([',', ':'])) {
            parts.push(String::new());
            continue;
        }
        for (at, fixed) in word.split("...").enumerate() {
            if at > 0 {
                parts.push(String::new());
            }
            if let Some(part) = parts.last_mut() {
                part.push_str(fixed);
            }
        }
        match (word.ends_with(':'), parts.last_mut()) {
            (false, Some(part)) => part.push(' '),
            _ => parts.push(String::new()),
        }
    }
    let parts = parts.iter().map(|part| part.trim_matches([' ', ':', ',']).to_owned());
    parts.filter(|part| !part.is_empty()).collect()
}

/// The code of a file without comments and unit tests, its texts in one line each.
fn texts(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a readable file");
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut joined = String::new();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        match joined.strip_suffix("\\\n").map(str::len) {
            // A text that goes on: its indentation is no part of it.
            Some(end) => {
                joined.truncate(end);
                joined.push_str(line.trim_start());
            }
            None => joined.push_str(line),
        }
        joined.push('\n');
    }
    joined
}

/// What docs/scaling.md says is from the benchmarks stands in docs/benchmarks.md.
#[test]
fn quoted_benchmarks_are_those_that_were_measured() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let read = |name| fs::read_to_string(root.join(name)).expect("a readable file");
    let (quoting, measured) = (read("scaling.md"), read("benchmarks.md"));
    let mut figures = Vec::new();
    for row in quoting.lines().filter(|line| line.ends_with("| benchmarks |")) {
        let words: Vec<&str> = row.split_whitespace().collect();
        let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
        let with_unit = words.windows(2).filter(|pair| {
            is_number(pair[0]) && matches!(pair[1].trim_end_matches(','), "us" | "bytes" | "MiB")
        });
        figures.extend(with_unit.map(|pair| pair.join(" ").trim_end_matches(',').to_owned()));
        let rates = words.iter().filter(|word| is_number(word) && word.ends_with("/s"));
        figures.extend(rates.map(|&rate| rate.to_owned()));
    }
    assert!(figures.len() >= 4, "docs/scaling.md has its figures in another form: {figures:?}");
    for figure in figures {
        assert!(
            measured.contains(&figure),
            "docs/scaling.md quotes {figure}, docs/benchmarks.md has none such"
        );
    }
}

/// The levels and messages of the log lines of level info and above in a source.
fn log_lines(source: &str) -> Vec<(String, String)> {
    let code: String = source
        .lines()
        .map(|line| if line.trim_start().starts_with("//") { "" } else { line })
        .flat_map(|line| [line.split("; //").next().unwrap_or(line), "\n"])
        .collect();
    let mut found = Vec::new();
    for level in ["warn", "error", "info"] {
        for (at, start) in code.match_indices(&format!("{level}!(")) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            if let Some(message) = message(&code[at + start.len()..]) {
                found.push((at, (level.to_owned(), message)));
            }
        }
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, line)| line).collect()
}

/// The first argument that is a literal, of a macro whose arguments `rest` begins with.
fn message(rest: &str) -> Option<String> {
    let (mut depth, mut begins_argument) = (0, true);
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let mut literal = String::new();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            // A line that goes on: its indentation is no part of it.
                            '\n' => {
                                let left = chars.as_str().trim_start();
                                chars = left.chars();
                            }
                            escaped => literal.push(escaped),
                        },
                        other => literal.push(other),
                    }
                }
                if depth == 0 && begins_argument {
                    return Some(literal);
                }
                begins_argument = false;
            }
            ')' | ']' | '}' if depth == 0 => return None,
            ')' | ']' | '}' => depth -= 1,
            '(' | '[' | '{' => depth += 1,
            ',' if depth == 0 => begins_argument = true,
            c if c.is_whitespace() => {}
            _ => begins_argument = false,
        }
    }
    None
}

/// What stands in backquotes in the first column of the first table below `heading`.
fn table_below(document: &str, heading: &str) -> Vec<String> {
    let (_, below) = document.split_once(heading).expect(heading);
    let rows = below
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2);
    rows.flat_map(|row| {
        let first = row.split('|').nth(1).unwrap_or_default();
        first.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    })
    .collect()
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
