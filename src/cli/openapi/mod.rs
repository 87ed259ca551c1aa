//! A catalogue from an OpenAPI document (3.0 or 3.1): `portcullis catalog from-openapi`.
//!
//! What must stay true: what is printed is a catalogue without errors, the same for the same document;
//! what was derived is marked for review, since what a scope amounts to is a decision of a person
//! (docs/policy.md, rule 1.3); what can't be expressed is left out and named, so that it is denied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::policy::catalog_file::{self, MAX_DESCRIPTION_CHARS};
use crate::policy::route::Route;
use crate::policy::text::{escape, is_hidden};

mod document;
mod paths;
mod scopes;
pub(super) use document::MAX_LEN;

use document::Table;
use scopes::{Need, Origin};

/// The most characters of a document that a comment or a message quotes.
const MAX_QUOTED_CHARS: usize = 120;

/// What keeps a document from being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DocumentError {
    /// Where, as a JSON pointer (RFC 6901); empty for the document as a whole.
    pub(super) pointer: String,
    /// What is wrong, and how to fix it.
    pub(super) message: String,
}

impl DocumentError {
    fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }

    fn whole(message: impl Into<String>) -> Self {
        Self::at("", message)
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.message)
    }
}

/// An operation that the catalogue does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Its method and path, as the document has them.
    pub(super) operation: String,
    /// Where it stands, as a JSON pointer.
    pub(super) pointer: String,
    /// Why no route says it.
    pub(super) reason: String,
}

/// A catalogue, and what somebody should know of it.
#[derive(Debug)]
pub(super) struct Converted {
    /// The file.
    pub(super) toml: String,
    /// How many scopes it has.
    pub(super) scopes: usize,
    /// How many routes it has.
    pub(super) routes: usize,
    /// How many lines are marked for review.
    pub(super) reviews: usize,
    /// Operations that need nothing, so that they are in no scope.
    pub(super) public: Vec<String>,
    /// Operations that can't be expressed.
    pub(super) left_out: Vec<LeftOut>,
    /// Scopes that got another name, since their own was taken: what they are from, and the name.
    pub(super) renamed: Vec<(String, String)>,
}

/// The most reasons that a summary gives, and the most operations that it names for each.
const MAX_REASONS: usize = 20;
const MAX_NAMED: usize = 5;

impl Converted {
    /// What a person should know of it, line by line.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} scope(s), {} route(s); {} line(s) are marked \"review:\"",
            self.scopes, self.routes, self.reviews
        )];
        if !self.public.is_empty() {
            let count = self.public.len();
            lines.push(format!(
                "{count} public operation(s) are in no scope: see the end of the catalogue"
            ));
        }
        for (origin, name) in &self.renamed {
            lines.push(format!("renamed, since its name was taken: {name} ({origin})"));
        }
        let mut by_reason: BTreeMap<&str, Vec<&LeftOut>> = BTreeMap::new();
        for one in &self.left_out {
            by_reason.entry(&one.reason).or_default().push(one);
        }
        if !self.left_out.is_empty() {
            lines.push(format!(
                "{} operation(s) can't be expressed on every server:",
                self.left_out.len()
            ));
        }
        let more = by_reason.len().saturating_sub(MAX_REASONS);
        for (reason, operations) in by_reason.into_iter().take(MAX_REASONS) {
            lines.push(format!("  {}: {reason}", operations.len()));
            let named = operations.iter().take(MAX_NAMED);
            lines.extend(named.map(|one| format!("    {} ({})", one.operation, one.pointer)));
            if operations.len() > MAX_NAMED {
                lines.push(format!("    and {} more", operations.len() - MAX_NAMED));
            }
        }
        if more > 0 {
            lines.push(format!("  and {more} more reasons: --output json has all of them"));
        }
        lines
    }
}

/// The catalogue for the API that `text` describes. `file` is what comments call it.
///
/// # Errors
/// Every reason why there is none; never empty.
pub(super) fn convert(text: &str, file: &str) -> Result<Converted, Vec<DocumentError>> {
    let root = document::parse(text).map_err(|error| vec![error])?;
    check_version(&root).map_err(|error| vec![error])?;
    let mut reader = DocumentReader::new(&root);
    reader.read();
    if !reader.errors.is_empty() {
        return Err(reader.errors);
    }
    let converted = reader.print(file).map_err(|error| vec![error])?;
    match catalog_file::parse(&converted.toml) {
        Ok(_) => Ok(converted),
        // The limits of a file are all that is left: it must be split.
        Err(errors) => Err(vec![DocumentError::whole(format!(
            "makes no catalogue: {}; split the document, by path for instance",
            errors[0].message
        ))]),
    }
}

fn check_version(root: &Value) -> Result<(), DocumentError> {
    if root.get("swagger").is_some() {
        return Err(DocumentError::at(
            "/swagger",
            "is OpenAPI 2: convert the document to OpenAPI 3.0 first",
        ));
    }
    let version = root.get("openapi").map(|version| match version {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    match version {
        Some(version)
            if ["3.0", "3.1"].iter().any(|read| {
                version
                    .strip_prefix(read)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }) =>
        {
            Ok(())
        }
        Some(version) => {
            let message = format!("is {:?}; OpenAPI 3.0 and 3.1 are read", quoted(&version));
            Err(DocumentError::at("/openapi", message))
        }
        None => {
            Err(DocumentError::whole("is no OpenAPI document: it has no \"openapi\", like 3.1.0"))
        }
    }
}

/// The methods of an operation, as a document spells them.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// A scope while it is put together.
#[derive(Default)]
struct ScopeDraft {
    routes: Vec<DraftRoute>,
    writes: bool,
    reads: bool,
}

struct DraftRoute {
    route: Route,
    comment: String,
    review: BTreeSet<String>,
}

struct DocumentReader<'d> {
    root: &'d Value,
    errors: Vec<DocumentError>,
    scopes: BTreeMap<Origin, ScopeDraft>,
    /// By shape: whose the route is, and its place there.
    shapes: BTreeMap<String, (Origin, usize)>,
    public: Vec<String>,
    left_out: Vec<LeftOut>,
}

impl<'d> DocumentReader<'d> {
    fn new(root: &'d Value) -> Self {
        Self {
            root,
            errors: Vec::new(),
            scopes: BTreeMap::new(),
            shapes: BTreeMap::new(),
            public: Vec::new(),
            left_out: Vec::new(),
        }
    }

    fn read(&mut self) {
        let Some(Value::Object(paths)) = self.root.get("paths") else {
            self.errors.push(DocumentError::at("/paths", "must be a table of paths"));
            return;
        };
        for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
            let pointer = format!("/paths{}", document::step(path));
            match Table::read(self.root, item, pointer) {
                Ok(item) => self.item(path, &item),
                Err(error) => self.errors.push(error),
            }
        }
        if self.errors.is_empty() && self.scopes.is_empty() {
            let message = if self.public.is_empty() && self.left_out.is_empty() {
                "has no operation"
            } else {
                "has no operation that a scope could cover: each is public or can't be expressed"
            };
            self.errors.push(DocumentError::at("/paths", message));
        }
    }

    fn item(&mut self, path: &str, item: &Table<'d>) {
        for method in METHODS {
            let Some((operation, pointer)) = item.get(method) else { continue };
            if !operation.is_object() {
                self.errors.push(DocumentError::at(pointer, "must be a table of names and values"));
                continue;
            }
            if method == "head" && item.get("get").is_some() {
                continue;
            }
            self.operation(method, path, item, operation, pointer);
        }
    }

    fn operation(
        &mut self,
        method: &str,
        path: &str,
        item: &Table<'d>,
        operation: &Value,
        pointer: String,
    ) {
        let method = method.to_ascii_uppercase();
        let name = format!("{method} {}", quoted(path));
        let mut leave_out = |reason: String| {
            let pointer = pointer.clone();
            self.left_out.push(LeftOut { operation: name.clone(), pointer, reason });
        };
        if method == "HEAD" {
            leave_out("HEAD follows GET, and this path has none".to_owned());
            return;
        }
        let security = operation.get("security");
        let (security, of_document) = match security {
            Some(security) => (Some(security), false),
            None => (self.root.get("security"), true),
        };
        let (origin, mut review) = match scopes::need(security, of_document) {
            Need::Public => {
                self.public.push(name);
                return;
            }
            Need::Scopes { scopes, review } => (Origin::Security(scopes), review),
            Need::Unknown => {
                let writes = !matches!(&*method, "GET" | "OPTIONS");
                (Origin::Tag { tag: tag(operation, path), writes }, None)
            }
        };
        if scopes::may_be_anonymous(security) {
            review = Some("may also be called by anybody".to_owned());
        }
        let servers = operation
            .get("servers")
            .or_else(|| item.get("servers").map(|(servers, _)| servers))
            .or_else(|| self.root.get("servers"));
        let bases = match paths::bases(servers) {
            Ok(bases) => bases,
            Err(reason) => return leave_out(reason),
        };
        let comment = operation.get("operationId").or(operation.get("summary"));
        let comment = quoted(comment.and_then(Value::as_str).unwrap_or_default());
        let mut failed = None;
        for base in &bases {
            let added = paths::route(&method, base, path).and_then(|(route, note)| {
                let review = review.iter().cloned().chain(note).collect();
                self.add(&origin, DraftRoute { route, comment: comment.clone(), review })
            });
            failed = failed.or(added.err());
        }
        if let Some(reason) = failed {
            self.left_out.push(LeftOut { operation: name, pointer, reason });
        }
    }

    /// Adds a route to its scope.
    ///
    /// # Errors
    /// Another scope has it; its route is marked for review.
    fn add(&mut self, origin: &Origin, draft: DraftRoute) -> Result<(), String> {
        let shape = draft.route.shape();
        if let Some((owner, place)) = self.shapes.get(&shape) {
            if owner != origin
                && let Some(scope) = self.scopes.get_mut(owner)
            {
                let other = &mut scope.routes[*place];
                other.review.insert(format!("also {}, {}", draft.route, origin.describe()));
                return Err(format!("the route is that of {} in another scope", other.route));
            }
            return Ok(());
        }
        let scope = self.scopes.entry(origin.clone()).or_default();
        let reads = matches!(draft.route.method().as_str(), "GET" | "OPTIONS");
        scope.reads |= reads;
        scope.writes |= !reads;
        self.shapes.insert(shape, (origin.clone(), scope.routes.len()));
        scope.routes.push(draft);
        Ok(())
    }

    fn print(self, file: &str) -> Result<Converted, DocumentError> {
        let scopes: BTreeMap<Origin, ScopeDraft> =
            self.scopes.into_iter().filter(|(_, draft)| !draft.routes.is_empty()).collect();
        let (names, renamed) = scopes::names(scopes.keys().cloned());
        let mut toml = format!(
            "# A catalogue made from {}{}.\n#\n# Whatever has \"review:\" in its comment was derived, \
             and a person has to decide it. Above all: access says\n# what an operation amounts to, \
             which its method does not show; requires_whitelist is left out, so that it is\n# true \
             for each write.\n",
            quoted(file),
            title(self.root),
        );
        for (origin, draft) in &scopes {
            let access = if draft.writes { "write" } else { "read" };
            let methods = match (draft.reads, draft.writes) {
                (true, true) => "some of its methods write, others read: two scopes may be better",
                (_, true) => "its methods write",
                (..) => "its methods read",
            };
            toml += &format!("\n# review: {}\n", quoted(&origin.describe()));
            toml += &format!("[[scope]]\nname = \"{}\"\n", names[origin]);
            toml += &format!("access = \"{access}\" # review: {methods}\n");
            if let Some(description) = description(self.root, origin) {
                toml += &format!("description = {}\n", toml::Value::from(description));
            }
            toml += "routes = [\n";
            for DraftRoute { route, comment, review } in &draft.routes {
                toml += &format!("  {},", toml::Value::from(route.to_string()));
                let review = review.iter().map(|text| quoted(text)).collect::<Vec<_>>().join("; ");
                toml += &match (comment.is_empty(), review.is_empty()) {
                    (true, true) => "\n".to_owned(),
                    (false, true) => format!(" # {comment}\n"),
                    (true, false) => format!(" # review: {review}\n"),
                    (false, false) => format!(" # {comment}; review: {review}\n"),
                };
            }
            toml += "]\n";
        }
        if !self.public.is_empty() {
            toml += "\n# In no scope, since the document lets anybody call them (review: is that meant?):\n";
            self.public.iter().for_each(|operation| toml += &format!("#   {operation}\n"));
        }
        let reviews = toml.lines().filter(|line| line.contains("review: ")).count();
        Ok(Converted {
            scopes: scopes.len(),
            routes: scopes.values().map(|draft| draft.routes.len()).sum(),
            reviews,
            public: self.public,
            left_out: self.left_out,
            renamed: renamed.into_iter().map(|(origin, name)| (origin.describe(), name)).collect(),
            toml,
        })
    }
}

/// The first tag of an operation, or the first fixed segment of its path.
fn tag(operation: &Value, path: &str) -> String {
    let tags = operation.get("tags").and_then(Value::as_array).into_iter().flatten();
    let tag = tags.filter_map(Value::as_str).find(|tag| !tag.is_empty());
    let segment = || path.split('/').find(|segment| !segment.is_empty() && !segment.contains('{'));
    tag.or_else(segment).unwrap_or("api").to_owned()
}

/// ` (Pets 1.0.0)`, or nothing.
fn title(root: &Value) -> String {
    let word = |name| root.get("info").and_then(|info| info.get(name)).and_then(Value::as_str);
    match (word("title"), word("version")) {
        (Some(title), Some(version)) => format!(" ({} {})", quoted(title), quoted(version)),
        (Some(title), None) => format!(" ({})", quoted(title)),
        _ => String::new(),
    }
}

/// What the document says of a scope or a tag, as a description may be.
fn description(root: &Value, origin: &Origin) -> Option<String> {
    let text = match origin {
        Origin::Security(scopes) => {
            let name = scopes.iter().next().filter(|_| scopes.len() == 1)?;
            let schemes = root.pointer("/components/securitySchemes")?.as_object()?;
            let flows = schemes.values().filter_map(|scheme| scheme.get("flows")?.as_object());
            let mut scopes = flows.flat_map(|flows| flows.values()).filter_map(|f| f.get("scopes"));
            scopes.find_map(|scopes| scopes.get(name)?.as_str())?
        }
        Origin::Tag { tag, .. } => {
            let mut tags = root.get("tags")?.as_array()?.iter();
            let found =
                tags.find(|known| known.get("name").and_then(Value::as_str) == Some(tag))?;
            found.get("description")?.as_str()?
        }
    };
    let line: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let shown: String = line.chars().filter(|&c| !is_hidden(c)).collect();
    let words = shown.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let text: String = words.chars().take(MAX_DESCRIPTION_CHARS).collect();
    // What begins with a combining mark, for instance, is no description.
    (!text.is_empty() && crate::policy::text::check(&text).is_ok()).then_some(text)
}

/// `text` in one line that no comment and no terminal takes for anything else.
fn quoted(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    let mut shown: String = shown.take(MAX_QUOTED_CHARS + 1).collect();
    if shown.chars().count() > MAX_QUOTED_CHARS {
        shown = shown.chars().take(MAX_QUOTED_CHARS).collect::<String>() + "...";
    }
    escape(&shown).into_owned()
}

#[cfg(test)]
mod tests;
