//! `CheckRequest` read in place, and `CheckResponse` written as it is decided.
//! `proto/envoy/service/auth/v3/external_auth.proto` and `attribute_context.proto` give the numbers.
//!
//! A request is read as `super::super::protobuf` says. It says more than is decided on: certificates, labels and the
//! body of the client's request are skipped unread, and no text is copied.
//!
//! # Invariants
//! - Every answer that is no allow has a status code other than 0 (docs/policy.md, rule 9.17): Envoy
//!   reads nothing else, and takes a missing code for an allow, also beside `denied_response`.
//! - `error_response` is never written: it would obey `failure_mode_allow`.
//! - Every header says that it overwrites (rule 9.18): Envoy adds others beside those that the client sent.

use http::{HeaderName, HeaderValue, StatusCode};
use prost::encoding::encode_varint;
use smallvec::SmallVec;
use tonic::Code;

use super::super::protobuf::{Field, Reader, malformed, put, put_written};
use crate::service::Result;

/// Headers that most requests have fewer of.
const USUAL_HEADERS: usize = 24;

/// The scope of a route, in `context_extensions`, instead of the one that the catalogue's routes give (Rule 9.16 of
/// docs/policy.md).
const SCOPE: &[u8] = b"scope";
/// Whether a route's requests are no use of a token, in `context_extensions`: `true` or `false`.
const DRY_RUN: &[u8] = b"dry_run";

/// The names of the client's path and method among its headers.
const PATH: &str = ":path";
const METHOD: &str = ":method";

/// What of a `CheckRequest` is decided on.
#[derive(Default)]
pub(super) struct CheckInput<'a> {
    /// The peer of the gateway, where it has an address.
    pub(super) source: Option<&'a [u8]>,
    /// The method as the gateway names it.
    pub(super) method: &'a [u8],
    /// The path and query as the gateway names them.
    pub(super) path: &'a [u8],
    /// The names, in lower case, and values of the client's headers, in the order in which the gateway sent them.
    pub(super) headers: SmallVec<[(&'a str, &'a [u8]); USUAL_HEADERS]>,
    /// The scope that the route's configuration names.
    pub(super) scope: Option<&'a str>,
    /// Whether this is no use of the token, as the route's configuration says.
    pub(super) dry_run: bool,
    /// Where the gateway sent headers in `headers`, and in `header_map`.
    families: [bool; 2],
    /// Whether a header has a `value` and another `raw_value`.
    two_values: bool,
}

/// Reads a `CheckRequest`.
///
/// # Errors
/// [`crate::service::Error::Invalid`] where the bytes are none, the name of a header is no lower-case text, or
/// `context_extensions` has a value that can't be meant.
pub(super) fn parse(message: &[u8]) -> Result<CheckInput<'_>> {
    let mut input = CheckInput::default();
    let mut request = Reader::new(message);
    while let Some(field) = request.next()? {
        match field.number {
            1 => input.attributes(request.message(&field, "attributes", "attributes")?)?,
            _ => request.skip(&field)?,
        }
    }
    Ok(input)
}

impl<'a> CheckInput<'a> {
    /// How services could read the request in another way than it is decided on (Rule 9.19 of docs/policy.md), as
    /// far as Envoy describes it.
    pub(super) fn ambiguity(&self) -> Option<&'static str> {
        if self.families == [true; 2] || self.two_values {
            return Some(
                "The gateway describes a header in two ways, as text and as bytes, which may differ. It has \
                 to send one of them.",
            );
        }
        let mut pseudo = [(PATH, self.path), (METHOD, self.method)].into_iter();
        let differs = |(name, value): (&str, &[u8])| {
            self.headers.iter().any(|(header, own)| *header == name && *own != value)
        };
        if pseudo.any(differs) {
            return Some(
                "The gateway names a path or a method that differs from its client's: bytes that are no \
                 UTF-8, most likely. Escape them.",
            );
        }
        // Envoy writes `!` for each byte that is no UTF-8, and sends the bytes to the service. Only raw headers
        // show which of them the client sent.
        let path = self.path.split(|&byte| byte == b'?').next().unwrap_or_default();
        let forwarded = self.families[1] && self.headers.iter().any(|(name, _)| *name == PATH);
        if path.contains(&b'!') && !forwarded {
            return Some(
                "The path has an exclamation mark, and the gateway writes one in place of any byte that is \
                 no UTF-8, too. Escape it as %21, or let the gateway send raw headers (encode_raw_headers).",
            );
        }
        None
    }

    fn attributes(&mut self, mut attributes: Reader<'a>) -> Result<()> {
        while let Some(field) = attributes.next()? {
            match field.number {
                1 => self.peer(attributes.message(&field, "source", "source")?)?,
                4 => self.request(attributes.message(&field, "request", "request")?)?,
                10 => {
                    let name = "context_extensions";
                    self.extension(attributes.message(&field, name, name)?)?;
                }
                _ => attributes.skip(&field)?,
            }
        }
        Ok(())
    }

    fn peer(&mut self, mut peer: Reader<'a>) -> Result<()> {
        while let Some(field) = peer.next()? {
            match field.number {
                1 => self.address(peer.message(&field, "source.address", "source.address")?)?,
                _ => peer.skip(&field)?,
            }
        }
        Ok(())
    }

    fn address(&mut self, mut address: Reader<'a>) -> Result<()> {
        while let Some(field) = address.next()? {
            match field.number {
                1 => {
                    let name = "source.address.socket_address";
                    let mut socket = address.message(&field, name, name)?;
                    while let Some(field) = socket.next()? {
                        match field.number {
                            2 => self.source = Some(socket.bytes(&field, name)?),
                            _ => socket.skip(&field)?,
                        }
                    }
                }
                // Another kind of address, which replaces the one before.
                2 | 3 => {
                    self.source = None;
                    address.skip(&field)?;
                }
                _ => address.skip(&field)?,
            }
        }
        Ok(())
    }

    fn request(&mut self, mut request: Reader<'a>) -> Result<()> {
        while let Some(field) = request.next()? {
            match field.number {
                2 => self.http(request.message(&field, "request.http", "request.http")?)?,
                _ => request.skip(&field)?,
            }
        }
        Ok(())
    }

    fn http(&mut self, mut http: Reader<'a>) -> Result<()> {
        while let Some(field) = http.next()? {
            match field.number {
                2 => self.method = http.bytes(&field, "request.http.method")?,
                3 => {
                    let name = "request.http.headers";
                    self.families[0] = true;
                    let header = http.message(&field, name, name)?;
                    self.header(header, name, false)?;
                }
                4 => self.path = http.bytes(&field, "request.http.path")?,
                13 => {
                    let name = "request.http.header_map";
                    let mut map = http.message(&field, name, name)?;
                    while let Some(field) = map.next()? {
                        match field.number {
                            1 => {
                                self.families[1] = true;
                                let header = map.message(&field, name, name)?;
                                self.header(header, name, true)?;
                            }
                            _ => map.skip(&field)?,
                        }
                    }
                }
                _ => http.skip(&field)?,
            }
        }
        Ok(())
    }

    /// An entry of `headers`, or a `HeaderValue`, which alone has a third field (`has_raw_value`).
    fn header(
        &mut self,
        mut header: Reader<'a>,
        name: &'static str,
        has_raw_value: bool,
    ) -> Result<()> {
        let (mut key, mut value, mut raw) = (&b""[..], &b""[..], &b""[..]);
        while let Some(field) = header.next()? {
            match field.number {
                1 => key = header.bytes(&field, name)?,
                2 => value = header.bytes(&field, name)?,
                3 if has_raw_value => raw = header.bytes(&field, name)?,
                _ => header.skip(&field)?,
            }
        }
        let key = lower_case(key).ok_or_else(|| {
            malformed(
                name,
                "has a header whose name is not in lower case, as Envoy's interface wants it",
            )
        })?;
        self.two_values |= !value.is_empty() && !raw.is_empty() && value != raw;
        self.headers.push((key, if raw.is_empty() { value } else { raw }));
        Ok(())
    }

    /// An entry of `context_extensions`.
    fn extension(&mut self, mut entry: Reader<'a>) -> Result<()> {
        const NAME: &str = "context_extensions";
        let (mut key, mut value) = (&b""[..], &b""[..]);
        let mut read = |entry: &mut Reader<'a>, field: &Field| -> Result<()> {
            match field.number {
                1 => key = entry.bytes(field, NAME)?,
                2 => value = entry.bytes(field, NAME)?,
                _ => entry.skip(field)?,
            }
            Ok(())
        };
        while let Some(field) = entry.next()? {
            read(&mut entry, &field)?;
        }
        match key {
            SCOPE => {
                let scope = std::str::from_utf8(value).ok().filter(|scope| !scope.is_empty());
                let cause = "has a `scope` that is no name of one";
                let scope = scope.ok_or_else(|| malformed(NAME, cause))?;
                // `Authorize` ignores white space here, but in a route's configuration it is a mistake.
                if scope.trim() != scope {
                    let cause = "has a `scope` with white space around it: leave that out";
                    return Err(malformed(NAME, cause));
                }
                self.scope = Some(scope);
            }
            DRY_RUN => {
                self.dry_run = match value {
                    b"true" => true,
                    b"false" => false,
                    _ => {
                        return Err(malformed(
                            NAME,
                            "has a `dry_run` other than \"true\" or \"false\"",
                        ));
                    }
                };
            }
            _ => {}
        }
        Ok(())
    }
}

/// The name of a header, where it is one that HTTP/2 allows.
fn lower_case(name: &[u8]) -> Option<&str> {
    let lower = !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
    std::str::from_utf8(name).ok().filter(|_| lower)
}

/// What access logs and rate limiters read as dynamic metadata, as names and values.
pub(super) type Metadata<'m, const N: usize> = [(&'static str, &'m [u8]); N];

/// Writes the answer that lets a request go on. `headers` are those that the service gets, `remove` the names of those
/// that it does not, `warnings` headers of the client's response.
pub(super) fn put_allow<'h, const N: usize>(
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    remove: impl IntoIterator<Item = &'h str>,
    warnings: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    metadata: &Metadata<'_, N>,
    out: &mut Vec<u8>,
) {
    // A status without a code: OK.
    out.extend_from_slice(&[1 << 3 | 2, 0]);
    put_written(3, out, |out| {
        headers.into_iter().for_each(|(name, value)| put_header(2, name, value, out));
        remove.into_iter().for_each(|name| put(5, name.as_bytes(), out));
        warnings.into_iter().for_each(|(name, value)| put_header(6, name, value, out));
    });
    put_metadata(metadata, out);
}

/// Writes an answer that refuses a request: the client gets `status`, `headers` and `body`. `code` must not be OK, and
/// `message` is for the gateway alone.
pub(super) fn put_refusal<'h, const N: usize>(
    code: Code,
    message: &str,
    status: StatusCode,
    headers: impl IntoIterator<Item = (&'h HeaderName, &'h HeaderValue)>,
    body: &[u8],
    metadata: &Metadata<'_, N>,
    out: &mut Vec<u8>,
) {
    let code = if code == Code::Ok { Code::Unknown } else { code };
    put_written(1, out, |out| {
        out.extend_from_slice(&[1 << 3, code as u8]);
        put(2, message.as_bytes(), out);
    });
    put_written(2, out, |out| {
        put_written(1, out, |out| {
            out.push(1 << 3);
            encode_varint(status.as_u16().into(), out);
        });
        for (name, value) in headers {
            put_header(2, name.as_str(), value.as_bytes(), out);
        }
        put(3, body, out);
    });
    put_metadata(metadata, out);
}

/// A `HeaderValueOption` that replaces every header of the name.
fn put_header(number: u8, name: &str, value: &[u8], out: &mut Vec<u8>) {
    put_written(number, out, |out| {
        put_written(1, out, |out| {
            put(1, name.as_bytes(), out);
            put(2, value, out);
        });
        // `append: false`, as an empty message, and `append_action: OVERWRITE_IF_EXISTS_OR_ADD`, which replaces it.
        out.extend_from_slice(&[2 << 3 | 2, 0, 3 << 3, 2]);
    });
}

/// A `google.protobuf.Struct` of texts. What has no value is left out.
fn put_metadata<const N: usize>(metadata: &Metadata<'_, N>, out: &mut Vec<u8>) {
    put_written(4, out, |out| {
        for (name, value) in metadata.iter().filter(|(_, value)| !value.is_empty()) {
            put_written(1, out, |out| {
                put(1, name.as_bytes(), out);
                put_written(2, out, |out| put(3, value, out));
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, body.len() as u8], body].concat()
    }

    /// A map's entries have a key and a value; another field is unknown there (protobuf's encoding of maps).
    #[test]
    fn third_field_is_a_value_in_a_header_map_and_unknown_in_headers() {
        let header = [field(1, b"authorization"), field(3, b"Bearer T")].concat();
        for (http, value) in
            [(field(3, &header), &b""[..]), (field(13, &field(1, &header)), b"Bearer T")]
        {
            let message = field(1, &field(4, &field(2, &http)));
            let input = parse(&message).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(input.headers[..], [("authorization", value)]);
        }
    }
}
