//! Requests and decisions on the wire: `AuthorizeRequest` read in place, and `AuthorizeResponse`
//! written as it is decided. `proto/portcullis/v1/authorization_service.proto` gives the numbers.
//!
//! # What is accepted
//!
//! A request is read exactly where two independent protobuf implementations, prost and upb, both read it,
//! and then as the same values (docs/policy.md, rule 2.26). Nobody who checked a request with a
//! protobuf library before it came here saw another one than is decided on. In detail, the stricter
//! of both counts:
//!
//! - A key or a length is a varint of at most 5 bytes and 32 bits (upb). Any other varint has at most 10 bytes
//!   and 64 bits (prost). Longer spellings of a number than it needs are accepted within these bounds.
//! - Field number 0, the wire types 6 and 7, and an end of a group that did not begin are refused, also within
//!   a group that is skipped (prost).
//! - A known field of another wire type than the contract's is refused (prost; upb takes it for unknown).
//! - Every text is UTF-8, also one that a later field replaces, and the token.
//! - Messages and groups lie at most 100 deep, the request's own levels included.
//! - Fields come in any order, unknown ones are skipped. The last of several counts, but parts of one
//!   message are merged, each of them whole by itself: no field reaches from one part into the next.
//!   `http` after `scope`, and the other way round, begins again.
//!
//! Bytes that are no such message are an error of their item alone: of a batch, the other items are
//! decided. `tests/protobuf.rs` compares all of this with both implementations.

use prost::Message as _;
use prost::encoding::{self, WireType};
use tonic_types::Status as ItemStatus;

use super::super::{convert, proto as pb};
use crate::policy::decide::{Decision, Verdict};
use crate::policy::lifecycle::Calendar;
use crate::service::decisions::{AuthorizeInput, RequestedOperation};
use crate::service::validate::FieldErrors;
use crate::service::{Error, Result};

/// What is wrong with bytes whose fields can't be separated.
const NO_MESSAGE: &str = "the request is no message: a field is cut off or unknown to protobuf";
/// What is wrong with a known field of another wire type.
const OTHER_TYPE: &str = "has another type on the wire than the contract says";

/// Bytes of a request with little more than a token: few requests of a batch have fewer.
const USUAL: usize = 96;

/// How deep messages and groups lie within each other at most.
const MAX_DEPTH: u32 = 100;
/// The most bytes of a key or a length.
const MAX_SHORT_VARINT: usize = 5;

/// The rest of a message that is being read.
struct Reader<'a> {
    rest: &'a [u8],
    /// The field that the message is the value of; empty for the request itself.
    within: &'static str,
    /// How many levels of messages and groups it may contain.
    depth: u32,
}

/// A field whose value comes next.
struct Field {
    number: u32,
    kind: WireType,
}

/// An error of one field, or of the message's bytes where `field` is empty.
fn malformed(field: &str, cause: &'static str) -> Error {
    Error::invalid(field, "MALFORMED_MESSAGE", cause)
}

impl<'a> Reader<'a> {
    fn new(message: &'a [u8]) -> Self {
        Self { rest: message, within: "", depth: MAX_DEPTH }
    }

    fn next(&mut self) -> Result<Option<Field>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.key().map(Some).ok_or_else(|| malformed(self.within, NO_MESSAGE))
    }

    fn key(&mut self) -> Option<Field> {
        let key = self.short_varint()?;
        let kind = WireType::try_from(u64::from(key & 7)).ok()?;
        let number = key >> 3;
        (number != 0).then_some(Field { number, kind })
    }

    /// A key or a length.
    fn short_varint(&mut self) -> Option<u32> {
        // Nearly all of them are one byte.
        if let [byte @ ..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Some(u32::from(*byte));
        }
        let before = self.rest.len();
        let value = self.varint()?;
        let short = before - self.rest.len() <= MAX_SHORT_VARINT;
        u32::try_from(value).ok().filter(|_| short)
    }

    fn varint(&mut self) -> Option<u64> {
        encoding::decode_varint(&mut self.rest).ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// What has a length before it.
    fn delimited(&mut self) -> Option<&'a [u8]> {
        let length = self.short_varint()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// The bytes of a text or a message.
    fn bytes(&mut self, field: &Field, name: &str) -> Result<&'a [u8]> {
        if field.kind != WireType::LengthDelimited {
            return Err(malformed(name, OTHER_TYPE));
        }
        self.delimited().ok_or_else(|| malformed(name, "is cut off"))
    }

    /// A message within this one.
    fn message(&mut self, field: &Field, name: &str, within: &'static str) -> Result<Self> {
        Ok(Self { rest: self.bytes(field, name)?, within, depth: self.depth - 1 })
    }

    fn number(&mut self, field: &Field, name: &str) -> Result<u64> {
        if field.kind != WireType::Varint {
            return Err(malformed(name, OTHER_TYPE));
        }
        self.varint().ok_or_else(|| malformed(name, "is cut off"))
    }

    /// Skips a field that this version does not know.
    fn skip(&mut self, field: &Field) -> Result<()> {
        self.skip_value(field, self.depth).ok_or_else(|| malformed(self.within, NO_MESSAGE))
    }

    fn skip_value(&mut self, field: &Field, depth: u32) -> Option<()> {
        // Prost counts a value within a group as a level, too.
        let within = depth.checked_sub(1)?;
        match field.kind {
            WireType::Varint => self.varint().map(drop),
            WireType::ThirtyTwoBit => self.take(4).map(drop),
            WireType::SixtyFourBit => self.take(8).map(drop),
            WireType::LengthDelimited => self.delimited().map(drop),
            WireType::StartGroup => loop {
                let inner = self.key()?;
                if inner.kind == WireType::EndGroup {
                    return (inner.number == field.number).then_some(());
                }
                self.skip_value(&inner, within)?;
            },
            WireType::EndGroup => None,
        }
    }
}

/// A field that is text, by its place in [`TEXTS`].
type Text = usize;
const TOKEN: Text = 0;
const CLIENT_IP: Text = 1;
const SCOPE: Text = 2;
const METHOD: Text = 3;
const PATH: Text = 4;
const TEXTS: [&str; 5] = ["token", "client_ip", "scope", "http.method", "http.path"];

/// An `AuthorizeRequest` that is being read, from one part or several.
struct Draft<'a> {
    input: AuthorizeInput<'a>,
    /// Whether a text of each field, even a replaced one, is not UTF-8.
    not_text: [bool; TEXTS.len()],
}

impl<'a> Draft<'a> {
    fn new() -> Self {
        let operation = RequestedOperation::Nothing;
        let input = AuthorizeInput {
            token: &[],
            client_ip: "",
            operation,
            dry_run: false,
            at_least_as_fresh: 0,
        };
        Self { input, not_text: [false; TEXTS.len()] }
    }

    fn text(&mut self, message: &mut Reader<'a>, field: &Field, text: Text) -> Result<&'a str> {
        let bytes = message.bytes(field, TEXTS[text])?;
        Ok(std::str::from_utf8(bytes).unwrap_or_else(|_| {
            self.not_text[text] = true;
            ""
        }))
    }

    /// The token stays bytes: nearly all are ASCII, which is quick to check.
    fn token(&mut self, message: &mut Reader<'a>, field: &Field) -> Result<&'a [u8]> {
        let bytes = message.bytes(field, TEXTS[TOKEN])?;
        self.not_text[TOKEN] |= !bytes.is_ascii() && std::str::from_utf8(bytes).is_err();
        Ok(bytes)
    }

    /// Merges a whole part.
    fn merge(&mut self, mut message: Reader<'a>) -> Result<()> {
        let message = &mut message;
        while let Some(field) = message.next()? {
            match field.number {
                1 => self.input.token = self.token(message, &field)?,
                2 => self.input.client_ip = self.text(message, &field, CLIENT_IP)?,
                3 => {
                    self.input.operation =
                        RequestedOperation::Scope(self.text(message, &field, SCOPE)?);
                }
                4 => self.merge_http(message.message(&field, "http", "http")?)?,
                5 => self.input.dry_run = message.number(&field, "dry_run")? != 0,
                6 => {
                    let number = message.number(&field, "at_least_as_fresh")?;
                    self.input.at_least_as_fresh = number.cast_signed();
                }
                _ => message.skip(&field)?,
            }
        }
        Ok(())
    }

    fn merge_http(&mut self, mut http: Reader<'a>) -> Result<()> {
        let (mut method, mut path) = match self.input.operation {
            RequestedOperation::Http { method, path } => (method, path),
            _ => ("", ""),
        };
        while let Some(field) = http.next()? {
            match field.number {
                1 => method = self.text(&mut http, &field, METHOD)?,
                2 => path = self.text(&mut http, &field, PATH)?,
                _ => http.skip(&field)?,
            }
        }
        self.input.operation = RequestedOperation::Http { method, path };
        Ok(())
    }

    fn finish(self) -> Result<AuthorizeInput<'a>> {
        if self.not_text == [false; TEXTS.len()] {
            return Ok(self.input);
        }
        let mut errors = FieldErrors::default();
        for (name, _) in TEXTS.iter().zip(self.not_text).filter(|(_, not_text)| *not_text) {
            errors.add(*name, "NOT_UTF8", "is not UTF-8");
        }
        errors.into_result()?;
        // There was one.
        Err(Error::Internal)
    }
}

/// Reads an `AuthorizeRequest`.
///
/// # Errors
/// [`Error::Invalid`] where the bytes are none (see the module), or a text is not UTF-8.
pub fn parse(message: &[u8]) -> Result<AuthorizeInput<'_>> {
    let mut draft = Draft::new();
    draft.merge(Reader::new(message))?;
    draft.finish()
}

/// Reads the `request` of a `StreamAuthorizeRequest`.
///
/// # Errors
/// [`Error::Invalid`] where the bytes are none, a text is not UTF-8, or there is no request.
pub fn parse_stream_item(message: &[u8]) -> Result<AuthorizeInput<'_>> {
    let mut reader = Reader::new(message);
    let mut draft = None;
    while let Some(field) = reader.next()? {
        match field.number {
            1 => {
                let part = reader.message(&field, "request", "")?;
                draft.get_or_insert_with(Draft::new).merge(part)?;
            }
            _ => reader.skip(&field)?,
        }
    }
    draft.ok_or_else(|| Error::invalid("request", "REQUIRED", "is required"))?.finish()
}

/// The bytes of each of the `requests` of a `BatchAuthorizeRequest`, for [`parse_batch_item`].
///
/// # Errors
/// [`Error::Invalid`] where the bytes are no such message.
pub fn split_batch(message: &[u8]) -> Result<Vec<&[u8]>> {
    let mut reader = Reader::new(message);
    let mut requests = Vec::with_capacity(message.len() / USUAL);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => requests.push(reader.bytes(&field, "requests")?),
            _ => reader.skip(&field)?,
        }
    }
    Ok(requests)
}

/// Reads an `AuthorizeRequest` that is an item of a batch, as [`split_batch`] gives them.
///
/// # Errors
/// As [`parse`].
pub fn parse_batch_item(request: &[u8]) -> Result<AuthorizeInput<'_>> {
    let mut draft = Draft::new();
    draft.merge(Reader { depth: MAX_DEPTH - 1, ..Reader::new(request) })?;
    draft.finish()
}

/// The key of a field with a length.
fn key(number: u8) -> u8 {
    number << 3 | 2
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    encoding::encode_varint(length as u64, out);
}

fn put(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(key(number));
        put_length(bytes.len(), out);
        out.extend_from_slice(bytes);
    }
}

/// The same for what is written in its place: its length is known afterwards, and nearly always one
/// byte.
fn put_written(number: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&[key(number), 0]);
    let start = out.len();
    write(out);
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length as u8;
    } else {
        let mut bytes = Vec::with_capacity(encoding::encoded_len_varint(length as u64));
        put_length(length, &mut bytes);
        out.splice(start - 1..start, bytes);
    }
}

/// Writes an `AuthorizeResponse` of a decision that rests on `revision`, 0 where none is known. `calendar` is
/// called only where something is announced.
pub(super) fn put_response(
    decision: &Decision<'_>,
    revision: i64,
    calendar: impl FnOnce() -> Calendar,
    out: &mut Vec<u8>,
) {
    let (answer, matched) = match decision.verdict {
        Verdict::Allow(entry) => (pb::Decision::Allow, entry),
        Verdict::Deny(_) => (pb::Decision::Deny, None),
    };
    // Both enums are small, so each is one byte.
    let reason = convert::reason(decision.verdict.reason());
    out.extend_from_slice(&[1 << 3, answer as u8, 2 << 3, reason as u8]);
    put(3, decision.message().as_bytes(), out);
    if let Some(token) = decision.token {
        put(4, token.id.text(), out);
        put(5, token.account_id.text(), out);
    }
    if let Some(scope) = decision.required {
        put(6, scope.name.as_str().as_bytes(), out);
    }
    if let Some(entry) = matched {
        put_written(7, out, |out| entry.write(out));
    }
    let token = decision.token.filter(|token| !token.announced.is_empty());
    if let Some(action) = token.and_then(|token| token.upcoming(&calendar())) {
        let action = pb::UpcomingAction {
            pending_action_id: action.id.to_string(),
            r#type: convert::action_type(action.action).into(),
            effective_time: Some(convert::time(action.effective)),
        };
        put(8, &action.encode_to_vec(), out);
    }
    if revision > 0 {
        out.push(9 << 3);
        encoding::encode_varint(revision.cast_unsigned(), out);
    }
}

/// A whole `AuthorizeResponse`.
pub(super) fn response(
    decision: &Decision<'_>,
    revision: i64,
    calendar: impl FnOnce() -> Calendar,
) -> Vec<u8> {
    // Room for any allow and most denials.
    let mut out = Vec::with_capacity(256);
    put_response(decision, revision, calendar, &mut out);
    out
}

/// Writes the response in a `StreamAuthorizeResponse` or `BatchAuthorizeResult`, which are alike.
pub(super) fn put_decided(out: &mut Vec<u8>, response: impl FnOnce(&mut Vec<u8>)) {
    put_written(1, out, response);
}

/// Writes the error in one of them.
pub(super) fn put_undecided(out: &mut Vec<u8>, error: &ItemStatus) {
    put_written(2, out, |out| error.encode_raw(out));
}

/// Writes one of the `results` of a `BatchAuthorizeResponse`.
pub(super) fn put_result(out: &mut Vec<u8>, item: impl FnOnce(&mut Vec<u8>)) {
    put_written(1, out, item);
}

#[cfg(test)]
mod tests;
