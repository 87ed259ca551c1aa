//! Requests and decisions on the wire: `AuthorizeRequest` read in place, and `AuthorizeResponse`
//! written as it is decided. `proto/portcullis/v1/authorization_service.proto` gives the numbers.
//!
//! # What is accepted
//!
//! A request is read as `super::super::protobuf` says (docs/policy.md, rule 2.26): nobody who checked it with a
//! protobuf library before it came here saw another one than is decided on. Besides:
//!
//! - Every text is UTF-8, also one that a later field replaces, and the token.
//! - The last of several fields counts, but parts of one message are merged, each of them whole by itself: no field
//!   reaches from one part into the next. `http` after `scope`, and the other way round, begins again.
//!
//! Bytes that are no such message are an error of their item alone: of a batch, the other items are
//! decided. `tests/protobuf.rs` compares all of this with both implementations.

use prost::Message as _;
use prost::encoding;
use tonic_types::Status as ItemStatus;

use super::super::protobuf::{Field, Reader, put, put_written};
use super::super::{convert, proto as pb};
use crate::policy::decide::{Decision, Verdict};
use crate::policy::lifecycle::Calendar;
use crate::secret;
use crate::service::decisions::{AuthorizeInput, RequestedOperation};
use crate::service::validate::FieldErrors;
use crate::service::{Error, Result};

/// Bytes of a request with little more than a token: few requests of a batch have fewer.
const USUAL: usize = 96;

/// A field that is text, by its place in [`TEXTS`].
type Text = usize;
const TOKEN: Text = 0;
const CLIENT_IP: Text = 1;
const SCOPE: Text = 2;
const METHOD: Text = 3;
const PATH: Text = 4;
const TEXTS: [&str; 5] = ["token", "client_ip", "scope", "http.method", "http.path"];

/// An `AuthorizeRequest` that is being read, from one part or several.
struct PartialRequest<'a> {
    input: AuthorizeInput<'a>,
    /// Whether a text of each field, even a replaced one, is not UTF-8.
    not_text: [bool; TEXTS.len()],
}

impl<'a> PartialRequest<'a> {
    fn new() -> Self {
        let operation = RequestedOperation::Nothing;
        let input = AuthorizeInput {
            token: &[],
            presented: &[],
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
                1 => {
                    self.input.presented = self.token(message, &field)?;
                    self.input.token = secret::without_mark(self.input.presented);
                }
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
    let mut draft = PartialRequest::new();
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
                draft.get_or_insert_with(PartialRequest::new).merge(part)?;
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
    let mut draft = PartialRequest::new();
    draft.merge(Reader::nested(request))?;
    draft.finish()
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
