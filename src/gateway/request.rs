//! A question about a gateway's client, read from headers: its token, address, method and path
//! (docs/policy.md, section 9).
//!
//! The same for every interface: forward auth reads method and path from headers, Envoy names them itself.
//!
//! # Invariants
//! - Whatever a service might read in another way than it is decided on is an [ambiguity](ClientRequest::ambiguity):
//!   a header that is there twice, of another family, spelled with underscores, or that overrides method or path.
//! - No header is read but those that the gateway's [`ClientSource`] names.

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, percent_encode};
use smallvec::{SmallVec, smallvec};
use zeroize::Zeroizing;

use crate::policy::client_source::ClientSource;
use crate::policy::text::quote;
use crate::secret;

/// Bytes of a header's name that a message repeats.
const SHOWN_NAME: usize = 60;

/// The headers that gateways describe a request with: one family at a time.
const FAMILIES: [Family; 2] = [
    Family { method: "x-forwarded-method", uri: "x-forwarded-uri" },
    Family { method: "x-original-method", uri: "x-original-uri" },
];

/// Names that are refused where underscores stand for their hyphens, beside those that are read: by their beginning.
const HYPHENATED: [&str; 5] =
    ["x-forwarded-", "x-original-", "x-http-method", "x-real-ip", "portcullis-"];

/// A pair of headers with the method and the URI of the client's request.
struct Family {
    method: &'static str,
    uri: &'static str,
}

/// What an override header changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Method,
    Path,
}

impl Part {
    fn word(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
        }
    }
}

/// The headers that some services take a method or a path from instead of the request's own (Rule 9.11 of
/// docs/policy.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideHeaders(Vec<(String, Part)>);

impl OverrideHeaders {
    /// Headers by name, upper and lower case alike. A name that ends in `-url`, `-uri` or `-path` is that of a path,
    /// any other one that of a method.
    pub fn new<T: AsRef<str>>(names: &[T]) -> Self {
        let header = |name: &T| {
            let name = name.as_ref().to_ascii_lowercase();
            let ends = |end| name.ends_with(end);
            let part = if ["-url", "-uri", "-path"].into_iter().any(ends) {
                Part::Path
            } else {
                Part::Method
            };
            (name, part)
        };
        Self(names.iter().map(header).collect())
    }

    fn part(&self, name: &str) -> Option<Part> {
        self.0.iter().find(|(own, _)| own == name).map(|&(_, part)| part)
    }
}

/// Where the method and the path of the client's request are.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// In the headers that the client source names.
    Headers,
    /// The gateway names them itself.
    Own {
        /// The method.
        method: &'a [u8],
        /// The path, with or without its query.
        path: &'a [u8],
    },
}

/// How the requests of one gateway are read.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'r> {
    /// Where its credential says that the client is read from.
    pub source: &'r ClientSource,
    /// Headers that must not differ from the request.
    pub overrides: &'r OverrideHeaders,
    /// The peer as a gateway over gRPC reports it; `None` over HTTP.
    pub peer: Option<IpAddr>,
}

/// The client's token as it was sent.
#[derive(Debug)]
pub enum ClientToken<'a> {
    /// No token was sent.
    Missing,
    /// What was sent can't be one token, and why.
    Malformed(&'static str),
    /// This may be one.
    Plain(&'a [u8]),
    /// The same, from a header in base64.
    Decoded(Zeroizing<Vec<u8>>),
}

impl ClientToken<'_> {
    /// What is decided on, without a prefix `secret-token:`; empty where nothing can be. Rule 9.9 of docs/policy.md.
    pub fn secret(&self) -> &[u8] {
        secret::without_mark(self.presented())
    }

    /// The same as it was sent: an imported secret may begin with that prefix.
    pub fn presented(&self) -> &[u8] {
        match self {
            Self::Missing | Self::Malformed(_) => b"",
            Self::Plain(token) => token,
            Self::Decoded(token) => token,
        }
    }
}

/// What a gateway asks about.
#[derive(Debug)]
pub struct ClientRequest<'a> {
    /// The client's token.
    pub token: ClientToken<'a>,
    /// The client's address, where it is known.
    pub address: Option<IpAddr>,
    /// The method, as sent.
    pub method: Cow<'a, str>,
    /// The path, as sent but for its query.
    pub path: Cow<'a, str>,
    /// How services could read the request in another way, in a sentence with the cure.
    pub ambiguity: Option<String>,
}

/// Why there is nothing to decide on: the gateway's configuration leaves something out. Displays with the cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("The gateway sent no {0} header: its configuration has to set it for each request.")]
pub struct MissingTarget(String);

impl Reader<'_> {
    /// Reads a request. `headers` are their names, in lower case, and values, in order; one that is there several
    /// times comes several times.
    ///
    /// # Errors
    /// [`MissingTarget`] where no header names the method or the path.
    pub fn read<'a>(
        &self,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        target: Target<'a>,
    ) -> Result<ClientRequest<'a>, MissingTarget> {
        let names = Names::of(self.source);
        let mut found = Found::default();
        for (name, value) in headers {
            self.sort(&names, name, value, &mut found);
        }
        let mut ambiguity = found.underscore.map(|name| {
            format!(
                "The header {} has underscores, and many servers read them as hyphens: leave it out.",
                quote(name, SHOWN_NAME)
            )
        });
        let (method, path) = match target {
            Target::Own { method, path } => (method, path),
            Target::Headers => match found.target(&names) {
                Ok(target) => target,
                Err(NoTarget::Missing(missing)) => return Err(missing),
                // The credential is checked before the operation, so the token is decided on all the same.
                Err(NoTarget::Ambiguous(sentence)) => {
                    ambiguity.get_or_insert(sentence);
                    (&b""[..], &b""[..])
                }
            },
        };
        let overrides = match target {
            Target::Own { .. } => &found.targets[..],
            Target::Headers => &[],
        };
        let differing = overrides.iter().chain(&found.overrides).find(|header| {
            let own = match header.part {
                Part::Method => method,
                Part::Path => without_query(path),
            };
            let value = match header.part {
                Part::Method => header.value,
                Part::Path => without_query(header.value),
            };
            value != own
        });
        if ambiguity.is_none()
            && let Some(Header { name, part, .. }) = differing
        {
            ambiguity = Some(format!(
                "The header {} names another {} than the request has, and some servers follow it: leave it out.",
                quote(name, SHOWN_NAME),
                part.word()
            ));
        }
        let path = match without_query(path) {
            // Rule 2.1 refuses an empty path, and a path that is nothing but a query is no empty one.
            b"" => path,
            cut => cut,
        };
        Ok(ClientRequest {
            token: found.token(names.token),
            address: self.source.client_address(self.peer, found.addresses),
            method: text(method),
            path: text(path),
            ambiguity,
        })
    }

    fn sort<'a>(&self, names: &Names<'_>, name: &'a str, value: &'a [u8], found: &mut Found<'a>) {
        if name == names.token {
            found.tokens.push(value);
        } else if names.address == Some(name) {
            found.addresses.push(value);
        } else if let Some(part) = names.part(name) {
            found.targets.push(Header { name, value, part });
        } else if let Some(part) = self.overrides.part(name) {
            found.overrides.push(Header { name, value, part });
        } else if name.contains('_') && self.reads_hyphenated(names, name) {
            found.underscore = Some(name);
        }
    }

    /// Whether the name that servers may make of `name` is that of a header which is read, here or by services.
    fn reads_hyphenated(&self, names: &Names<'_>, name: &str) -> bool {
        let name = &*name.replace('_', "-");
        HYPHENATED.iter().any(|start| name.starts_with(start))
            || name == names.token
            || names.address == Some(name)
            || names.part(name).is_some()
            || self.overrides.part(name).is_some()
    }
}

/// The header with the client's token, in lower case.
pub fn token_header(source: &ClientSource) -> &str {
    source.token_header.as_ref().map_or("authorization", |name| name.as_str())
}

/// The headers that one client source names.
struct Names<'s> {
    token: &'s str,
    address: Option<&'s str>,
    method: Option<&'s str>,
    uri: Option<&'s str>,
}

impl<'s> Names<'s> {
    fn of(source: &'s ClientSource) -> Self {
        Self {
            token: token_header(source),
            address: source.address_header.as_ref().map(|name| name.as_str()),
            method: source.method_header.as_ref().map(|name| name.as_str()),
            uri: source.uri_header.as_ref().map(|name| name.as_str()),
        }
    }

    /// What a header describes that is named, or belongs to a family.
    fn part(&self, name: &str) -> Option<Part> {
        let of = |part, configured: Option<&str>, usual: fn(&Family) -> &'static str| {
            let is_usual = FAMILIES.iter().any(|family| usual(family) == name);
            (configured == Some(name) || is_usual).then_some(part)
        };
        of(Part::Method, self.method, |family| family.method)
            .or_else(|| of(Part::Path, self.uri, |family| family.uri))
    }

    /// The headers that may be read: a method's and a URI's, of which one pair is to be there.
    fn pairs(&self) -> SmallVec<[(&str, &str); 2]> {
        let family = |name: &str| FAMILIES.iter().find(|f| f.method == name || f.uri == name);
        match (self.method, self.uri) {
            (Some(method), Some(uri)) => smallvec![(method, uri)],
            (Some(method), None) => match family(method) {
                Some(family) => smallvec![(method, family.uri)],
                None => FAMILIES.iter().map(|family| (method, family.uri)).collect(),
            },
            (None, Some(uri)) => match family(uri) {
                Some(family) => smallvec![(family.method, uri)],
                None => FAMILIES.iter().map(|family| (family.method, uri)).collect(),
            },
            (None, None) => FAMILIES.iter().map(|family| (family.method, family.uri)).collect(),
        }
    }
}

/// A header that describes a method or a path.
struct Header<'a> {
    name: &'a str,
    value: &'a [u8],
    part: Part,
}

/// What the headers of one request have.
#[derive(Default)]
struct Found<'a> {
    tokens: SmallVec<[&'a [u8]; 1]>,
    addresses: SmallVec<[&'a [u8]; 2]>,
    /// Those that are named, and those of every family.
    targets: SmallVec<[Header<'a>; 2]>,
    overrides: SmallVec<[Header<'a>; 1]>,
    underscore: Option<&'a str>,
}

/// Why the headers give no method and path.
enum NoTarget {
    Missing(MissingTarget),
    Ambiguous(String),
}

impl<'a> Found<'a> {
    fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.targets.iter().find(|header| header.name == name).map(|header| header.value)
    }

    /// The method and the URI (Rule 9.10 of docs/policy.md).
    fn target(&self, names: &Names<'_>) -> Result<(&'a [u8], &'a [u8]), NoTarget> {
        let ambiguous = |sentence: String| Err(NoTarget::Ambiguous(sentence));
        let pairs = names.pairs();
        let there = |name: &str| self.targets.iter().any(|header| header.name == name);
        let whole = pairs.iter().find(|(method, uri)| there(method) && there(uri));
        let used = whole.or_else(|| pairs.iter().find(|(method, uri)| there(method) || there(uri)));
        let Some(&(method, uri)) = used else {
            let (first, rest) = (pairs[0].1, &pairs[1..]);
            let missing =
                rest.iter().fold(shown(first), |all, (_, uri)| format!("{all} or {}", shown(uri)));
            return Err(NoTarget::Missing(MissingTarget(missing)));
        };
        for (at, header) in self.targets.iter().enumerate() {
            let name = shown(header.name);
            if header.name != method && header.name != uri {
                return ambiguous(format!(
                    "The headers {name} and {} both describe the request: the gateway has to remove one of them.",
                    shown(if header.part == Part::Method { method } else { uri })
                ));
            }
            if self.targets[..at].iter().any(|earlier| earlier.name == header.name) {
                return ambiguous(format!(
                    "The header {name} is there more than once: the gateway has to overwrite what its client sent."
                ));
            }
        }
        let value = |name: &str| match self.value(name) {
            None | Some(b"") => Err(NoTarget::Missing(MissingTarget(shown(name)))),
            Some(value) => Ok(value),
        };
        Ok((value(method)?, value(uri)?))
    }

    /// The client's token (Rules 9.3 and 9.9 of docs/policy.md).
    fn token(&self, header: &str) -> ClientToken<'a> {
        match self.tokens.as_slice() {
            [] => ClientToken::Missing,
            [value] if header == "authorization" => from_authorization(value),
            [value] => from_own_header(value),
            _ => ClientToken::Malformed(TWO_TOKENS),
        }
    }
}

const TWO_TOKENS: &str = "The request has more than one token: send one.";

/// A header's name as people write it: `X-Forwarded-Uri`.
pub(super) fn shown(name: &str) -> String {
    let mut start = true;
    let capital = |c: char| {
        let shown = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        shown
    };
    name.chars().map(capital).collect()
}

/// `Bearer T` (RFC 6750, 2.1), or `Basic` with T as the user name (RFC 7617).
fn from_authorization(value: &[u8]) -> ClientToken<'_> {
    let value = value.trim_ascii();
    if value.is_empty() {
        return ClientToken::Missing;
    }
    let end = value.iter().position(|&byte| byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return one_token(rest.trim_ascii());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return ClientToken::Malformed(
            "The Authorization header is neither “Bearer <token>” nor “Basic” with the token as user name.",
        );
    }
    let Ok(decoded) = BASE64.decode(rest.trim_ascii()).map(Zeroizing::new) else {
        return ClientToken::Malformed(
            "What follows “Basic” in the Authorization header is not base64.",
        );
    };
    let user = decoded.split(|&byte| byte == b':').next().unwrap_or_default();
    match one_token(user) {
        ClientToken::Plain(token) => ClientToken::Decoded(Zeroizing::new(token.to_vec())),
        ClientToken::Malformed(cause) => ClientToken::Malformed(cause),
        ClientToken::Missing | ClientToken::Decoded(_) => ClientToken::Missing,
    }
}

/// Base64 with or without the padding at its end, which some clients leave out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A token in a header of its own: bare, or as `Bearer T`.
fn from_own_header(value: &[u8]) -> ClientToken<'_> {
    let value = value.trim_ascii();
    match value.split_at_checked(7) {
        _ if value.is_empty() => ClientToken::Missing,
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
            one_token(token.trim_ascii())
        }
        _ => one_token(value),
    }
}

/// One token. Proxies join the values of headers that are there several times with commas, and no token has a comma or
/// white space.
fn one_token(token: &[u8]) -> ClientToken<'_> {
    if token.is_empty() {
        return ClientToken::Malformed("The request's token is empty.");
    }
    if token.iter().any(|&byte| byte == b',' || byte.is_ascii_whitespace()) {
        return ClientToken::Malformed(TWO_TOKENS);
    }
    ClientToken::Plain(token)
}

fn without_query(path: &[u8]) -> &[u8] {
    let end = path.iter().position(|&byte| byte == b'?').unwrap_or(path.len());
    &path[..end]
}

/// The bytes that are escaped in what is no UTF-8: the others mean the same raw and escaped (Rule 2.22).
const NOT_TEXT: &AsciiSet = &AsciiSet::EMPTY;

/// Bytes as text: those of a method or path that is no UTF-8 with escapes, so that Rule 2.22 is asked about them.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => percent_encode(bytes, NOT_TEXT).into(),
    }
}

#[cfg(test)]
mod tests;
