//! Routes of operations: the paths of servers before the path of the operation, its templates in the
//! syntax of a catalogue.
//!
//! What must stay true: what can't be written as a route that matches the same requests is refused
//! with the reason, or marked for review; never guessed.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::policy::route::{MAX_PARAMETER_LEN, Route};

/// The most paths that servers with variables stand for.
const MAX_BASES: usize = 64;

/// What stands before the path of an operation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Base {
    /// Without a slash at its end: `/api/v1`, or nothing.
    pub(super) path: String,
    /// What somebody has to look at.
    pub(super) review: Option<String>,
}

/// The paths of `servers`, each once.
///
/// # Errors
/// Why they can't be known.
pub(super) fn bases(servers: Option<&Value>) -> Result<BTreeSet<Base>, String> {
    let servers = match servers {
        Some(Value::Array(servers)) if !servers.is_empty() => servers,
        // An empty list stands for the default, "/".
        Some(Value::Array(_)) | None => {
            return Ok([Base { path: String::new(), review: None }].into());
        }
        Some(_) => return Err("\"servers\" must be a list".to_owned()),
    };
    let mut bases = BTreeSet::new();
    for server in servers {
        let Some(url) = server.get("url").and_then(Value::as_str) else {
            return Err("a server has no \"url\"".to_owned());
        };
        for (path, review) in expanded(path_of(url), server.get("variables"))? {
            bases.insert(base(&path, review)?);
        }
        if bases.len() > MAX_BASES {
            return Err(format!("its servers stand for more than {MAX_BASES} paths"));
        }
    }
    Ok(bases)
}

/// The path of a URL that may have variables in any part.
fn path_of(url: &str) -> &str {
    let rest = match url.split_once("://") {
        Some((_, rest)) => rest,
        None => match url.strip_prefix("//") {
            Some(rest) => rest,
            None => return url,
        },
    };
    rest.find(['/', '?', '#']).map_or("", |at| &rest[at..])
}

/// `path` with each value that its variables may have, and what is to review of it.
fn expanded(
    path: &str,
    variables: Option<&Value>,
) -> Result<Vec<(String, Option<String>)>, String> {
    let mut paths = vec![(String::new(), None)];
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, behind) = behind.split_once('}').ok_or("a server's \"url\" lacks a \"}\"")?;
        rest = behind;
        let variable = variables.and_then(|variables| variables.get(name));
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let values = variable.and_then(|v| v.get("enum")).and_then(Value::as_array);
        let values: Vec<String> = values.into_iter().flatten().filter_map(text).collect();
        let (values, review) = if values.is_empty() {
            let default = variable.and_then(|v| v.get("default")).and_then(text);
            let default = default
                .ok_or_else(|| format!("the variable {{{name}}} of a server has no default"))?;
            (vec![default], Some(format!("the server's variable {{{name}}} has its default")))
        } else {
            (values, None)
        };
        if paths.len() * values.len() > MAX_BASES {
            return Err(format!("its servers stand for more than {MAX_BASES} paths"));
        }
        let mut longer = Vec::with_capacity(paths.len() * values.len());
        for (path, known) in &paths {
            for value in &values {
                let review = known.clone().or_else(|| review.clone());
                longer.push((format!("{path}{before}{value}"), review));
            }
        }
        paths = longer;
    }
    Ok(paths.into_iter().map(|(path, review)| (path + rest, review)).collect())
}

fn base(path: &str, mut review: Option<String>) -> Result<Base, String> {
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let segments = path.split('/').filter(|segment| *segment != ".");
    let mut whole = String::new();
    for (place, segment) in segments.enumerate() {
        if segment == ".." {
            return Err("the \"url\" of a server has \"..\"".to_owned());
        }
        // Before the first slash there is nothing, unless the URL is relative to the document's.
        if place > 0 || !segment.is_empty() {
            whole += "/";
            whole += segment;
        }
    }
    if !path.is_empty() && !path.starts_with('/') {
        review = Some("the server's URL is relative to that of the document".to_owned());
    }
    Ok(Base { path: whole, review })
}

/// The route for `method` on `path` behind `base`, and what is to review of it.
///
/// # Errors
/// Why no route can say it.
pub(super) fn route(
    method: &str,
    base: &Base,
    path: &str,
) -> Result<(Route, Option<String>), String> {
    if !path.starts_with('/') {
        return Err("the path does not begin with \"/\"".to_owned());
    }
    if path.contains(['?', '#']) {
        return Err(
            "the path has a query string or a fragment, which takes no part in matching".to_owned()
        );
    }
    let mut review = base.review.clone();
    let mut text = format!("{method} ");
    let whole = format!("{}{path}", base.path);
    let segments: Vec<&str> = whole.split('/').skip(1).collect();
    let last = segments.len().saturating_sub(1 + usize::from(whole.ends_with('/')));
    for (place, segment) in segments.iter().enumerate() {
        let (segment, note) = self::segment(segment, place == last)?;
        review = review.or(note);
        text += "/";
        text += &segment;
    }
    let route = text.parse::<Route>().map_err(|error| error.to_string())?;
    Ok((route, review))
}

/// `segment` of a template in the syntax of a catalogue.
fn segment(segment: &str, is_last: bool) -> Result<(String, Option<String>), String> {
    let Some((before, rest)) = segment.split_once('{') else {
        return Ok((decoded(segment)?, None));
    };
    if !before.is_empty() {
        return Err("a parameter does not begin its segment".to_owned());
    }
    let (name, suffix) =
        rest.split_once('}').ok_or_else(|| format!("{segment:?} lacks a \"}}\""))?;
    if suffix.contains(['{', '}']) {
        return Err("a segment has more than one parameter".to_owned());
    }
    // Not part of OpenAPI, but of documents that were made from another router's routes.
    let open = name.starts_with(['*', '+']) || name.ends_with(['*', '+']) || name.ends_with("...");
    let (name, pattern) = name.split_once(':').map_or((name, None), |(n, p)| (n, Some(p)));
    let name = parameter_name(name);
    if open && pattern.is_none() {
        if !is_last || !suffix.is_empty() {
            return Err("a parameter matches several segments, and more follows".to_owned());
        }
        return Ok((format!("{{{name}...}}"), Some(format!("was {segment}"))));
    }
    let note = pattern.map(|_| format!("was {segment}"));
    Ok((format!("{{{name}}}{}", decoded(suffix)?), note))
}

/// A literal without escapes, which catalogues don't have.
fn decoded(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| format!("{text:?} is not UTF-8 once it is decoded"))?;
    if decoded.contains('/') && decoded != text {
        return Err(format!("{text:?} has an encoded \"/\""));
    }
    Ok(decoded.into_owned())
}

/// `name` with the characters that a parameter's name may have.
fn parameter_name(name: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let kept: String = name.trim_matches(['*', '+', '.']).chars().map(word).collect();
    let begins = kept.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let mut name = if begins { kept } else { format!("_{kept}") };
    if name == "_" {
        name = "id".to_owned();
    }
    name.truncate(MAX_PARAMETER_LEN);
    name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(servers: &Value) -> Result<Vec<String>, String> {
        Ok(bases(Some(servers))?.into_iter().map(|base| base.path).collect())
    }

    #[test]
    fn servers_have_these_paths() {
        let urls = |urls: &[&str]| {
            let servers: Vec<Value> = urls.iter().map(|url| json!({ "url": url })).collect();
            paths(&Value::Array(servers))
        };
        assert_eq!(urls(&["https://a.example/v1", "https://b.example/v1/"]).unwrap(), ["/v1"]);
        assert_eq!(urls(&["https://a.example", "/", "", "/v2"]).unwrap(), ["", "/v2"]);
        assert_eq!(urls(&["//a.example:8080/x/y?z#f"]).unwrap(), ["/x/y"]);
        assert_eq!(urls(&["./v1", "api/v2"]).unwrap(), ["/api/v2", "/v1"]);
        assert_eq!(urls(&["https://{host}/v1"]).unwrap(), ["/v1"]);
        assert!(urls(&["../v1"]).unwrap_err().contains("\"..\""));
        assert!(urls(&["https://a.example/{b}"]).unwrap_err().contains("{b}"));
        assert_eq!(bases(Some(&json!([]))), bases(None));
        let relative = bases(Some(&json!([{ "url": "v1" }]))).unwrap();
        assert!(relative.first().unwrap().review.is_some());
    }

    #[test]
    fn variables_of_servers_have_their_values() {
        let servers = json!([{
            "url": "{scheme}://{host}/{stage}/{version}",
            "variables": {
                "scheme": { "default": "https" },
                "stage": { "enum": ["live", "test"], "default": "live" },
                "version": { "default": "v2" }
            }
        }]);
        assert_eq!(paths(&servers).unwrap(), ["/live/v2", "/test/v2"]);
        let bases = bases(Some(&servers)).unwrap();
        assert!(bases.iter().all(|base| base.review.as_deref().unwrap().contains("{version}")));
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        let servers = json!([{ "url": "/{a}/{b}", "variables": {
            "a": { "enum": many, "default": "0" }, "b": { "enum": many, "default": "0" } } }]);
        assert!(paths(&servers).unwrap_err().contains("more than 64"));
    }

    #[test]
    fn templates_become_routes() {
        let at = |base: &str, path: &str| {
            let base = Base { path: base.to_owned(), review: None };
            route("GET", &base, path).map(|(route, review)| (route.to_string(), review))
        };
        let plain = |base, path| {
            let (route, review) = at(base, path).unwrap();
            assert_eq!(review, None, "{path}");
            route
        };
        assert_eq!(plain("/v1", "/pets/{petId}"), "GET /v1/pets/{petId}");
        assert_eq!(plain("", "/pets/{pet-id}.json"), "GET /pets/{pet-id}.json");
        assert_eq!(plain("/v1", "/"), "GET /v1/");
        assert_eq!(plain("", "/pets/"), "GET /pets/");
        assert_eq!(plain("", "/a/{user.id}:run/{1st}"), "GET /a/{user_id}:run/{_1st}");
        assert_eq!(plain("", "/%7Euser/{}"), "GET /~user/{id}");
        assert_eq!(plain("", &format!("/{{{}}}", "x".repeat(99))).len(), 7 + MAX_PARAMETER_LEN);
        let (route, review) = at("", "/files/{proxy+}").unwrap();
        assert_eq!(
            (route.as_str(), review.as_deref()),
            ("GET /files/{proxy...}", Some("was {proxy+}"))
        );
        let (route, review) = at("", "/files/{*rest}/").unwrap();
        assert_eq!((route.as_str(), review.is_some()), ("GET /files/{rest...}/", true));
        let (route, review) = at("", "/a/{id:[0-9]+}/b").unwrap();
        assert_eq!((route.as_str(), review.is_some()), ("GET /a/{id}/b", true));
        for (path, words) in [
            ("pets", "begin with"),
            ("/", "no segment"),
            ("/pets?x=1", "query string"),
            ("/#X-Amz-Target=a", "fragment"),
            ("/v{n}/pets", "does not begin its segment"),
            ("/{a}.{b}", "more than one parameter"),
            ("/{a}{b}", "more than one parameter"),
            ("/{a", "lacks"),
            ("/{rest+}/b", "more follows"),
            ("/a%2Fb", "encoded"),
            ("/a%20b", "' '"),
            ("/%ff", "UTF-8"),
            ("/a//b", "empty segment"),
            ("/a/../b", "dot segment"),
            ("/:id", "another router"),
        ] {
            let error = at("", path).unwrap_err();
            assert!(error.contains(words), "{path}: {error}");
        }
    }
}
