//! Reads catalogue files (TOML), and writes them.
//!
//! What must stay true: a file is taken as a whole or not at all, every error is named with its
//! line at once (a TOML syntax error alone hides the others), no input panics, and every rule a
//! [`Catalog`](super::scope::Catalog) relies on is checked here: names and route shapes occur once,
//! and what requires a whitelist is a write.

use std::collections::HashMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::route::{InvalidRoute, Route, quoted};
use super::scope::{Access, ScopeDef, ScopeName};
use super::text;

/// The largest file, in bytes. Rule 1.13 of docs/policy.md.
pub const MAX_TEXT_LEN: usize = 1024 * 1024;
/// The most scopes in a file.
pub const MAX_SCOPES: usize = 1_000;
/// The most routes in a file, of all scopes.
pub const MAX_ROUTES: usize = 10_000;
/// The longest description, in characters.
pub const MAX_DESCRIPTION_CHARS: usize = 500;
/// The most errors that are named; a last one says that there may be more. It bounds memory: a file
/// of [`MAX_TEXT_LEN`] has room for many times as many.
pub const MAX_ERRORS: usize = 10_000;

/// How much of an invalid text a message repeats, in characters.
const MAX_MESSAGE_CHARS: usize = 400;

const SCOPE_KEYS: [&str; 5] = ["name", "access", "requires_whitelist", "description", "routes"];

/// Something wrong with a catalogue file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and how to fix it, in at most a few hundred characters.
    pub message: String,
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Reads a catalogue file: its scopes, in file order.
///
/// `description` and `routes` may be left out (a scope without routes is asked for by name), and
/// `requires_whitelist` too: then it is true exactly if `access` is write. Rule 1.5 of docs/policy.md.
///
/// # Errors
/// Everything that is wrong with the file, by line; never empty.
pub fn parse(text: &str) -> Result<Vec<ScopeDef>, Vec<CatalogError>> {
    read(text, Rules::Current)
}

/// Reads a catalogue file that is stored: the rules for routes and descriptions were less strict in earlier
/// versions, and what was accepted then is still readable. What can match nothing matches nothing.
///
/// # Errors
/// As [`parse`].
pub fn parse_stored(text: &str) -> Result<Vec<ScopeDef>, Vec<CatalogError>> {
    read(text, Rules::Stored)
}

/// Which rules a file has to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    Current,
    /// Those of the version that stored it.
    Stored,
}

impl Rules {
    fn parse_route(self, text: &str) -> Result<Route, InvalidRoute> {
        match self {
            Self::Current => text.parse(),
            Self::Stored => Route::parse_stored(text),
        }
    }
}

fn read(text: &str, rules: Rules) -> Result<Vec<ScopeDef>, Vec<CatalogError>> {
    if text.len() > MAX_TEXT_LEN {
        let message = format!("the catalogue has {} bytes; {MAX_TEXT_LEN} is the most", text.len());
        return Err(vec![CatalogError { line: 1, message }]);
    }
    let mut reader = CatalogReader::new(text, rules);
    let defs = match DeTable::parse(text) {
        Ok(document) => reader.document(document.get_ref()),
        Err(error) => {
            // An error without a place is one of the text as a whole.
            let at = error.span().map_or(0, |span| span.start);
            reader.error(at, format!("this is not TOML: {}", error.message()));
            Vec::new()
        }
    };
    if reader.errors.is_empty() { Ok(defs) } else { Err(reader.into_errors()) }
}

/// Writes the catalogue file that [`parse`] reads as `defs`.
pub fn print(defs: &[ScopeDef]) -> String {
    let quote = |text: &str| toml::Value::from(text).to_string();
    let mut file = String::new();
    for def in defs {
        if !file.is_empty() {
            file.push('\n');
        }
        file += &format!("[[scope]]\nname = \"{}\"\naccess = \"{}\"\n", def.name, def.access);
        file += &format!("requires_whitelist = {}\n", def.requires_whitelist);
        if !def.description.is_empty() {
            file += &format!("description = {}\n", quote(&def.description));
        }
        if !def.routes.is_empty() {
            let routes =
                def.routes.iter().map(|route| format!("  {},\n", quote(&route.to_string())));
            file += &format!("routes = [\n{}]\n", routes.collect::<String>());
        }
    }
    file
}

/// What was read so far, and where each thing that must be unique was first.
struct CatalogReader {
    /// Where each line after the first begins.
    line_starts: Vec<usize>,
    rules: Rules,
    errors: Vec<CatalogError>,
    /// Whether there are errors beyond [`MAX_ERRORS`].
    more_faults: bool,
    names: HashMap<ScopeName, usize>,
    /// By shape: the scope as messages call it, and the line.
    routes: HashMap<String, (String, usize)>,
    route_count: usize,
}

impl CatalogReader {
    fn new(text: &str, rules: Rules) -> Self {
        let newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        Self {
            line_starts: newlines.map(|(at, _)| at + 1).collect(),
            rules,
            errors: Vec::new(),
            more_faults: false,
            names: HashMap::new(),
            routes: HashMap::new(),
            route_count: 0,
        }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.line_starts.partition_point(|&start| start <= at)
    }

    fn error(&mut self, at: usize, message: impl AsRef<str>) {
        if self.errors.len() == MAX_ERRORS {
            self.more_faults = true;
            return;
        }
        let message = shortened(message.as_ref(), MAX_MESSAGE_CHARS);
        self.errors.push(CatalogError { line: self.line(at), message });
    }

    fn into_errors(self) -> Vec<CatalogError> {
        let mut errors = self.errors;
        errors.sort_by_key(|error| error.line);
        if self.more_faults {
            let line = errors.last().map_or(1, |error| error.line);
            let message = format!("there may be more than these {MAX_ERRORS} errors");
            errors.push(CatalogError { line, message });
        }
        errors
    }

    fn document(&mut self, document: &DeTable<'_>) -> Vec<ScopeDef> {
        self.unknown_keys("the catalogue", document, &["scope"]);
        let Some(scopes) = document.get("scope") else {
            self.error(0, "the catalogue has no scope; each begins with [[scope]]");
            return Vec::new();
        };
        let DeValue::Array(tables) = scopes.get_ref() else {
            let found = scopes.get_ref().type_str();
            let message = format!("\"scope\" is one {found}; begin each scope with [[scope]]");
            self.error(scopes.span().start, message);
            return Vec::new();
        };
        if tables.is_empty() {
            self.error(
                scopes.span().start,
                "the catalogue has no scope; each begins with [[scope]]",
            );
        }
        if let Some(table) = tables.get(MAX_SCOPES) {
            let message = format!("{} scopes are too many; {MAX_SCOPES} is the most", tables.len());
            self.error(table.span().start, message);
        }
        let tables = tables.iter().take(MAX_SCOPES);
        let mut defs = Vec::with_capacity(tables.len());
        for table in tables {
            match table.get_ref() {
                DeValue::Table(scope) => defs.extend(self.scope(table.span().start, scope)),
                other => self.wrong_type("the catalogue", "scope", "tables", table, other),
            }
        }
        defs
    }

    /// `None` if something it cannot do without is missing or wrong; an error says so then.
    fn scope(&mut self, at: usize, table: &DeTable<'_>) -> Option<ScopeDef> {
        let label = match table.get("name").map(Spanned::get_ref) {
            Some(DeValue::String(name)) => format!("scope {}", quoted(name)),
            _ => format!("the scope on line {}", self.line(at)),
        };
        self.unknown_keys(&label, table, &SCOPE_KEYS);
        let name = self.name(&label, at, table);
        let access = self.access(&label, at, table);
        let requires_whitelist = self.requires_whitelist(&label, table, access);
        let description = self.description(&label, table);
        let routes = self.routes(&label, table);
        Some(ScopeDef { name: name?, access: access?, requires_whitelist, description, routes })
    }

    fn name(&mut self, label: &str, at: usize, table: &DeTable<'_>) -> Option<ScopeName> {
        let Some((at, text)) = self.string(label, "name", table)? else {
            self.error(at, format!("{label} has no name"));
            return None;
        };
        let name: ScopeName = match text.parse() {
            Ok(name) => name,
            Err(error) => {
                self.error(at, format!("{} {error}", quoted(text)));
                return None;
            }
        };
        let line = self.line(at);
        match self.names.get(&name) {
            Some(first) => {
                let message = format!("{label} is already on line {first}; a name stands once");
                self.error(at, message);
            }
            None => {
                self.names.insert(name.clone(), line);
            }
        }
        Some(name)
    }

    fn access(&mut self, label: &str, at: usize, table: &DeTable<'_>) -> Option<Access> {
        match self.string(label, "access", table)? {
            Some((_, "read")) => Some(Access::Read),
            Some((_, "write")) => Some(Access::Write),
            Some((at, other)) => {
                let other = quoted(other);
                self.error(at, format!("{label}: access is {other}; it is \"read\" or \"write\""));
                None
            }
            None => {
                self.error(at, format!("{label} has no access; it is \"read\" or \"write\""));
                None
            }
        }
    }

    fn requires_whitelist(
        &mut self,
        label: &str,
        table: &DeTable<'_>,
        access: Option<Access>,
    ) -> bool {
        // Rule 1.4 of docs/policy.md.
        let default = access == Some(Access::Write);
        let Some(value) = table.get("requires_whitelist") else {
            return default;
        };
        match value.get_ref() {
            DeValue::Boolean(true) if access == Some(Access::Read) => {
                let message = format!(
                    "{label} requires a whitelist, so its access must be \"write\"; or leave \
                     requires_whitelist out"
                );
                self.error(value.span().start, message);
                default
            }
            DeValue::Boolean(required) => *required,
            other => {
                self.wrong_type(label, "requires_whitelist", "true or false", value, other);
                default
            }
        }
    }

    fn description(&mut self, label: &str, table: &DeTable<'_>) -> String {
        let Some(Some((at, text))) = self.string(label, "description", table) else {
            return String::new();
        };
        let count = text.chars().count();
        if count > MAX_DESCRIPTION_CHARS {
            let message = format!(
                "{label}: the description has {count} characters; {MAX_DESCRIPTION_CHARS} is the most"
            );
            self.error(at, message);
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            let message = format!(
                "{label}: the description has the control character {control:?}; write one line"
            );
            self.error(at, message);
        } else if self.rules == Rules::Current
            && let Err(error) = text::check(text)
        {
            self.error(at, format!("{label}: the description {error}"));
        }
        text.to_owned()
    }

    fn routes(&mut self, label: &str, table: &DeTable<'_>) -> Vec<Route> {
        let Some(value) = table.get("routes") else {
            return Vec::new();
        };
        let DeValue::Array(values) = value.get_ref() else {
            self.wrong_type(label, "routes", "a list of strings", value, value.get_ref());
            return Vec::new();
        };
        let mut routes = Vec::new();
        for value in values.iter() {
            let at = value.span().start;
            self.route_count += 1;
            if self.route_count == MAX_ROUTES + 1 {
                self.error(at, format!("there are more than {MAX_ROUTES} routes"));
            }
            if self.route_count > MAX_ROUTES {
                break;
            }
            let DeValue::String(text) = value.get_ref() else {
                self.wrong_type(label, "routes", "a list of strings", value, value.get_ref());
                continue;
            };
            match self.rules.parse_route(text) {
                Ok(route) => {
                    self.claim(label, at, &route);
                    routes.push(route);
                }
                Err(error) => {
                    self.error(at, format!("{label}: the route {}: {error}", quoted(text)));
                }
            }
        }
        routes
    }

    /// Notes whose `route` is, or whose it is already. Rule 1.6 of docs/policy.md.
    fn claim(&mut self, label: &str, at: usize, route: &Route) {
        let line = self.line(at);
        let shape = route.shape();
        let Some((owner, first)) = self.routes.get(&shape) else {
            self.routes.insert(shape, (label.to_owned(), line));
            return;
        };
        let route = quoted(&route.to_string());
        let message = if owner == label {
            format!("{label} has the route {route} already, on line {first}")
        } else {
            format!("{label}: the route {route} is already in {owner}, on line {first}")
        };
        self.error(at, message + " (parameter names make no difference)");
    }

    /// The string under `key` and its place; `Some(None)` if the key is absent, `None` if its value
    /// is no string.
    fn string<'t>(
        &mut self,
        label: &str,
        key: &str,
        table: &'t DeTable<'_>,
    ) -> Option<Option<(usize, &'t str)>> {
        let Some(value) = table.get(key) else {
            return Some(None);
        };
        match value.get_ref() {
            DeValue::String(text) => Some(Some((value.span().start, text))),
            other => {
                self.wrong_type(label, key, "a string", value, other);
                None
            }
        }
    }

    fn wrong_type(
        &mut self,
        label: &str,
        key: &str,
        wanted: &str,
        at: &Spanned<DeValue<'_>>,
        found: &DeValue<'_>,
    ) {
        let found = found.type_str();
        self.error(at.span().start, format!("{label}: {key} must be {wanted}; found: {found}"));
    }

    fn unknown_keys(&mut self, label: &str, table: &DeTable<'_>, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let mut message = format!("{label} has an unknown key {}", quoted(key.get_ref()));
            match nearest(key.get_ref(), known) {
                Some(near) => message += &format!("; did you mean \"{near}\"?"),
                None => message += &format!("; known here: {}", known.join(", ")),
            }
            self.error(key.span().start, message);
        }
    }
}

fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The known key that `key` was probably meant to be: the one with the fewest edits of one letter, if those are few
/// for its length.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key: String = key.chars().take(64).flat_map(char::to_lowercase).collect();
    let distances = known.iter().map(|&word| (strsim::damerau_levenshtein(&key, word), word));
    let (distance, word) = distances.min()?;
    (distance <= word.len().div_ceil(3)).then_some(word)
}

#[cfg(test)]
mod tests;
