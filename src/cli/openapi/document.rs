//! Reads an OpenAPI document, JSON or YAML, as one tree of values.
//!
//! What must stay true: whatever the file, time and memory are bounded: by its length, and for YAML by
//! the number of values once aliases are expanded. Nothing outside the file is read: a reference into
//! another file or host is an error.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

use super::DocumentError;

/// The largest document, in bytes.
pub(in crate::cli) const MAX_LEN: usize = 16 * 1024 * 1024;

/// The most values of a YAML document, aliases expanded.
const MAX_VALUES: usize = 1_000_000;

/// The deepest that values are nested, as serde_json has it.
const MAX_DEPTH: usize = 128;

/// The most references that follow one another.
const MAX_REFERENCES: usize = 16;

/// The root of a document. JSON is what begins with a brace.
pub(super) fn parse(text: &str) -> Result<Value, DocumentError> {
    if text.len() > MAX_LEN {
        let message = format!("the document has {} bytes; {MAX_LEN} is the most", text.len());
        return Err(DocumentError::whole(message));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let root = if text.trim_start().starts_with('{') {
        serde_json::from_str(text)
            .map_err(|error| DocumentError::whole(format!("is not JSON: {error}")))?
    } else {
        parse_yaml(text)?
    };
    match root {
        Value::Object(_) => Ok(root),
        _ => Err(DocumentError::whole(
            "is no OpenAPI document: it is not a table of names and values",
        )),
    }
}

/// A list or a table of a YAML document that has not ended.
enum Open {
    List(Vec<Value>),
    /// With the name that the next value is for.
    Table(Map<String, Value>, Option<String>),
}

struct Started {
    open: Open,
    anchor: usize,
    /// How many values there were before.
    before: usize,
}

/// Puts a YAML document together.
#[derive(Default)]
struct Loader {
    started: Vec<Started>,
    /// What an alias stands for, with the number of its values.
    anchors: HashMap<usize, (Value, usize)>,
    values: usize,
    root: Option<Value>,
}

fn parse_yaml(text: &str) -> Result<Value, DocumentError> {
    let mut loader = Loader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| DocumentError::whole(format!("is not YAML: {error}")))?;
        let at_line =
            |message| DocumentError::whole(format!("line {}: {message}", span.start.line()));
        if loader.root.is_some() && matches!(event, Event::DocumentStart(_)) {
            return Err(at_line("a second document begins here; leave one"));
        }
        loader.take(event).map_err(at_line)?;
    }
    Ok(loader.root.unwrap_or(Value::Null))
}

impl Loader {
    fn take(&mut self, event: Event<'_>) -> Result<(), &'static str> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                self.count(1)?;
                let value = match (&*text, style) {
                    ("" | "~" | "null", ScalarStyle::Plain) => Value::Null,
                    ("true", ScalarStyle::Plain) => true.into(),
                    ("false", ScalarStyle::Plain) => false.into(),
                    (text, _) => text.into(),
                };
                // A name is text, whatever it looks like: `null: 1`, `200: ...`.
                if let Some(Started { open: Open::Table(_, name @ None), .. }) =
                    self.started.last_mut()
                {
                    *name = Some(text.into_owned());
                    return Ok(());
                }
                self.note(anchor, &value, 1);
                self.put(value)
            }
            Event::SequenceStart(anchor, _) => self.start(Open::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => self.start(Open::Table(Map::new(), None), anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Started { open, anchor, before }) = self.started.pop() else {
                    return Ok(());
                };
                let value = match open {
                    Open::List(values) => Value::Array(values),
                    Open::Table(table, _) => Value::Object(merged(table)),
                };
                self.note(anchor, &value, self.values - before);
                self.put(value)
            }
            Event::Alias(anchor) => {
                let (value, count) =
                    self.anchors.get(&anchor).ok_or("the alias is part of itself")?;
                let (value, count) = (value.clone(), *count);
                self.count(count)?;
                self.put(value)
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, open: Open, anchor: usize) -> Result<(), &'static str> {
        if let Some(Started { open: Open::Table(_, None), .. }) = self.started.last() {
            return Err("the name of a value must be text");
        }
        if self.started.len() == MAX_DEPTH {
            return Err("values are nested too deep");
        }
        let before = self.values;
        self.count(1)?;
        self.started.push(Started { open, anchor, before });
        Ok(())
    }

    /// Keeps what has an anchor for its aliases.
    fn note(&mut self, anchor: usize, value: &Value, count: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, (value.clone(), count));
        }
    }

    /// Counts values before they are made.
    fn count(&mut self, count: usize) -> Result<(), &'static str> {
        self.values = self.values.saturating_add(count);
        if self.values > MAX_VALUES {
            return Err(
                "the document has more than a million values once its aliases are expanded",
            );
        }
        Ok(())
    }

    fn put(&mut self, value: Value) -> Result<(), &'static str> {
        match self.started.last_mut().map(|started| &mut started.open) {
            None => self.root = Some(value),
            Some(Open::List(values)) => values.push(value),
            Some(Open::Table(table, name)) => match name.take() {
                None => return Err("the name of a value must be text"),
                Some(name) => {
                    if table.insert(name, value).is_some() {
                        return Err("the table has this name already; leave one");
                    }
                }
            },
        }
        Ok(())
    }
}

/// A table with what its merge key (`<<`) brings.
fn merged(mut table: Map<String, Value>) -> Map<String, Value> {
    let others = match table.remove("<<") {
        Some(Value::Array(others)) => others,
        Some(other) => vec![other],
        None => return table,
    };
    for other in others {
        if let Value::Object(other) = other {
            for (name, value) in other {
                table.entry(name).or_insert(value);
            }
        }
    }
    table
}

/// A JSON pointer's step for `name` (RFC 6901).
pub(super) fn step(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A path item, or another table that may refer to one elsewhere in the document.
pub(super) struct Table<'d> {
    /// The table itself first, then what it refers to: the first that has a name has it.
    layers: Vec<(&'d Map<String, Value>, String)>,
}

impl<'d> Table<'d> {
    /// The table at `pointer`, which is `value`.
    ///
    /// # Errors
    /// A reference leads out of the document, or nowhere, or in a circle.
    pub(super) fn read(
        root: &'d Value,
        value: &'d Value,
        pointer: String,
    ) -> Result<Self, DocumentError> {
        let mut layers = Vec::new();
        let (mut value, mut pointer) = (value, pointer);
        loop {
            let Value::Object(table) = value else {
                return Err(DocumentError::at(pointer, "must be a table of names and values"));
            };
            layers.push((table, pointer.clone()));
            let Some(reference) = table.get("$ref") else { return Ok(Self { layers }) };
            let pointer_of_reference = format!("{pointer}/$ref");
            let Value::String(reference) = reference else {
                return Err(DocumentError::at(pointer_of_reference, "must be text"));
            };
            let Some(target) = reference.strip_prefix('#') else {
                return Err(DocumentError::at(
                    pointer_of_reference,
                    format!(
                        "refers to another document, {reference:?}: bundle the documents into one \
                         file first"
                    ),
                ));
            };
            let target = percent_decode_str(target).decode_utf8_lossy().into_owned();
            let found = root.pointer(&target).filter(|_| layers.len() <= MAX_REFERENCES);
            value = found.ok_or_else(|| {
                let message =
                    format!("refers to {reference:?}, which leads to nothing in the document, or in a circle");
                DocumentError::at(pointer_of_reference, message)
            })?;
            pointer = target;
        }
    }

    /// The value called `name`, with its pointer.
    pub(super) fn get(&self, name: &str) -> Option<(&'d Value, String)> {
        self.layers.iter().find_map(|(table, pointer)| {
            Some((table.get(name)?, format!("{pointer}{}", step(name))))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn yaml_and_json_are_the_same_tree() {
        let yaml = "\
openapi: 3.0.0
paths:
  /a:
    get: &get
      tags: [x, 'null', ~]
      deprecated: true
      responses: {200: {description: ok}}
    post:
      <<: *get
      tags: [y]
";
        let get = json!({"tags": ["x", "null", null], "deprecated": true,
            "responses": {"200": {"description": "ok"}}});
        let mut post = get.clone();
        post["tags"] = json!(["y"]);
        let tree = json!({"openapi": "3.0.0", "paths": {"/a": {"get": get, "post": post}}});
        assert_eq!(parse(yaml).unwrap(), tree);
        assert_eq!(parse(&tree.to_string()).unwrap(), tree);
    }

    #[test]
    fn what_is_no_document_is_named_with_its_line() {
        for (text, words) in [
            ("", "not a table"),
            ("[]", "not a table"),
            ("{\"a\": }", "is not JSON"),
            ("{\"a\": 1}x", "line 1"),
            ("a: [", "is not YAML"),
            ("a: 1\na: 2\n", "line 2: the table has this name already"),
            ("a: 1\n---\nb: 1\n", "line 2: a second document"),
            ("a: &a [*a]\n", "line 1: the alias is part of itself"),
            ("? [a]\n: b\n", "line 1: the name of a value must be text"),
        ] {
            assert!(error(text).contains(words), "{text:?}: {}", error(text));
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
        }
        assert!(error(&bomb).contains("more than a million values"), "{}", error(&bomb));
        let deep = format!("a: {}", "[".repeat(1_000));
        assert!(!error(&deep).is_empty());
        let deep = format!("{{\"a\": {}", "[".repeat(1_000));
        assert!(error(&deep).contains("recursion"), "{}", error(&deep));
        let large = format!("a: {}", "x".repeat(MAX_LEN));
        assert!(error(&large).contains("16777216 is the most"), "{}", error(&large));
    }
}
