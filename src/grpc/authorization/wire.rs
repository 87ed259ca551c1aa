//! Questions and decisions on the wire: `AuthorizeRequest` read in place, and `AuthorizeResponse`
//! written as it is decided. `proto/portcullis/v1/authorization_service.proto` gives the numbers.
//!
//! Must stay true: what is read and written here means to any protobuf library what the contract
//! says: fields come in any order, the last of the same one counts, unknown ones are passed over.
//! Bytes that are no message, or no text, are the fault of their item alone.

use prost::Message as _;
use prost::encoding::{self, DecodeContext, WireType};
use tonic_types::Status as ItemStatus;

use super::super::{convert, proto as pb};
use crate::policy::decide::{Decision, Verdict};
use crate::policy::lifecycle::Calendar;
use crate::service::decisions::{Asked, Question};
use crate::service::validate::Faults;
use crate::service::{Error, Result};

/// What is wrong with bytes whose fields can't be told apart.
const NO_MESSAGE: &str = "the request is no message: a field is cut off or unknown to protobuf";

/// Bytes of a request with little more than a token: few requests of a batch have fewer.
const USUAL: usize = 96;

/// What is left of a message that is being read, and what names it in faults.
struct Reader<'a> {
    rest: &'a [u8],
    within: &'static str,
}

/// A field whose value comes next.
struct Field {
    number: u32,
    kind: WireType,
}

impl<'a> Reader<'a> {
    /// A fault of the message's bytes, or of one field's.
    fn malformed(&self, field: &str, cause: &'static str) -> Error {
        let dot = if self.within.is_empty() || field.is_empty() { "" } else { "." };
        Error::invalid(format!("{}{dot}{field}", self.within), "MALFORMED_MESSAGE", cause)
    }

    fn next(&mut self) -> Result<Option<Field>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        match encoding::decode_key(&mut self.rest) {
            Ok((number, kind)) => Ok(Some(Field { number, kind })),
            Err(_) => Err(self.malformed("", NO_MESSAGE)),
        }
    }

    /// The bytes of a text or a message.
    fn bytes(&mut self, field: &Field, name: &str) -> Result<&'a [u8]> {
        if field.kind != WireType::LengthDelimited {
            return Err(self.malformed(name, "has another type on the wire than the contract says"));
        }
        let length = encoding::decode_varint(&mut self.rest).ok();
        let length = length.and_then(|length| usize::try_from(length).ok());
        match length.and_then(|length| self.rest.split_at_checked(length)) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.malformed(name, "is cut off")),
        }
    }

    fn flag(&mut self, field: &Field, name: &str) -> Result<bool> {
        if field.kind != WireType::Varint {
            return Err(self.malformed(name, "has another type on the wire than the contract says"));
        }
        match encoding::decode_varint(&mut self.rest) {
            Ok(value) => Ok(value != 0),
            Err(_) => Err(self.malformed(name, "is cut off")),
        }
    }

    /// Passes over a field that this version does not know.
    fn skip(&mut self, field: &Field) -> Result<()> {
        let context = DecodeContext::default();
        encoding::skip_field(field.kind, field.number, &mut self.rest, context)
            .map_err(|_| self.malformed("", NO_MESSAGE))
    }
}

/// What is within each `requests` of a `BatchAuthorizeRequest`, or the `request` of a
/// `StreamAuthorizeRequest`: both have the number 1.
///
/// # Errors
/// [`Error::Invalid`] where the bytes are no such message.
pub(super) fn requests<'a>(message: &'a [u8], name: &str) -> Result<Vec<&'a [u8]>> {
    let mut reader = Reader { rest: message, within: "" };
    let mut requests = Vec::with_capacity(message.len() / USUAL);
    while let Some(field) = reader.next()? {
        match field.number {
            1 => requests.push(reader.bytes(&field, name)?),
            _ => reader.skip(&field)?,
        }
    }
    Ok(requests)
}

/// Reads an `AuthorizeRequest`.
///
/// # Errors
/// [`Error::Invalid`] where the bytes are none, or a text but the token is not UTF-8.
pub(super) fn question(message: &[u8]) -> Result<Question<'_>> {
    enum Operation<'a> {
        Nothing,
        Scope(&'a [u8]),
        Http { method: &'a [u8], path: &'a [u8] },
    }
    let (mut token, mut client_ip, mut dry_run) = (&[][..], &[][..], false);
    let mut operation = Operation::Nothing;
    let mut reader = Reader { rest: message, within: "" };
    while let Some(field) = reader.next()? {
        match field.number {
            1 => token = reader.bytes(&field, "token")?,
            2 => client_ip = reader.bytes(&field, "client_ip")?,
            3 => operation = Operation::Scope(reader.bytes(&field, "scope")?),
            4 => {
                // Parts of one message may come apart; they are one.
                let (mut method, mut path) = match operation {
                    Operation::Http { method, path } => (method, path),
                    _ => (&[][..], &[][..]),
                };
                let mut http = Reader { rest: reader.bytes(&field, "http")?, within: "http" };
                while let Some(field) = http.next()? {
                    match field.number {
                        1 => method = http.bytes(&field, "method")?,
                        2 => path = http.bytes(&field, "path")?,
                        _ => http.skip(&field)?,
                    }
                }
                operation = Operation::Http { method, path };
            }
            5 => dry_run = reader.flag(&field, "dry_run")?,
            _ => reader.skip(&field)?,
        }
    }

    let mut faults = Faults::default();
    let mut text = |name: &str, bytes| {
        std::str::from_utf8(bytes).unwrap_or_else(|_| {
            faults.add(name, "NOT_UTF8", "is not UTF-8");
            ""
        })
    };
    let client_ip = text("client_ip", client_ip);
    let operation = match operation {
        Operation::Nothing => Asked::Nothing,
        Operation::Scope(name) => Asked::Scope(text("scope", name)),
        Operation::Http { method, path } => {
            Asked::Http { method: text("http.method", method), path: text("http.path", path) }
        }
    };
    faults.settle()?;
    Ok(Question { token, client_ip, operation, dry_run })
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

/// Writes an `AuthorizeResponse`. `calendar` is asked only where something is announced.
pub(super) fn put_response(
    decision: &Decision<'_>,
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
}

/// A whole `AuthorizeResponse`.
pub(super) fn response(decision: &Decision<'_>, calendar: impl FnOnce() -> Calendar) -> Vec<u8> {
    // Room for any allow and most denials.
    let mut out = Vec::with_capacity(256);
    put_response(decision, calendar, &mut out);
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(
        request: &pb::AuthorizeRequest,
    ) -> (Vec<u8>, String, Option<pb::authorize_request::Operation>, bool) {
        (
            request.token.clone().into_bytes(),
            request.client_ip.clone(),
            request.operation.clone(),
            request.dry_run,
        )
    }

    fn read(
        bytes: &[u8],
    ) -> Result<(Vec<u8>, String, Option<pb::authorize_request::Operation>, bool)> {
        use pb::authorize_request::Operation;
        let question = question(bytes)?;
        let operation = match question.operation {
            Asked::Nothing => None,
            Asked::Scope(name) => Some(Operation::Scope(name.to_owned())),
            Asked::Http { method, path } => Some(Operation::Http(pb::HttpOperation {
                method: method.to_owned(),
                path: path.to_owned(),
            })),
        };
        Ok((question.token.to_vec(), question.client_ip.to_owned(), operation, question.dry_run))
    }

    fn operation() -> impl Strategy<Value = Option<pb::authorize_request::Operation>> {
        use pb::authorize_request::Operation;
        prop_oneof![
            Just(None),
            ".{0,10}".prop_map(|name| Some(Operation::Scope(name))),
            (".{0,10}", ".{0,200}").prop_map(|(method, path)| {
                Some(Operation::Http(pb::HttpOperation { method, path }))
            }),
        ]
    }

    prop_compose! {
        fn request()(
            token in ".{0,100}", client_ip in ".{0,40}", operation in operation(), dry_run: bool
        ) -> pb::AuthorizeRequest {
            pb::AuthorizeRequest { token, client_ip, dry_run, operation }
        }
    }

    proptest! {
        /// Also two messages one after the other, which protobuf reads as one (merging).
        #[test]
        fn questions_read_as_the_library_reads_them(first in request(), second in request()) {
            let mut bytes = first.encode_to_vec();
            prop_assert_eq!(read(&bytes).unwrap(), asked(&first));
            second.encode(&mut bytes).unwrap();
            let merged = pb::AuthorizeRequest::decode(&bytes[..]).unwrap();
            prop_assert_eq!(read(&bytes).unwrap(), asked(&merged));
        }

        #[test]
        fn what_the_library_refuses_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let library = pb::AuthorizeRequest::decode(&bytes[..]);
            match read(&bytes) {
                Ok(read) => {
                    // A token of any bytes is a question; of text, the same question.
                    if std::str::from_utf8(&read.0).is_ok() {
                        prop_assert_eq!(read, asked(&library.unwrap()));
                    }
                }
                Err(_) => prop_assert!(library.is_err(), "{:?}", library.map(|read| asked(&read))),
            }
        }

        #[test]
        fn a_cut_or_changed_question_panics_nowhere(request in request(), at: usize, to: u8) {
            let mut bytes = request.encode_to_vec();
            if !bytes.is_empty() {
                let at = at % bytes.len();
                let _ = read(&bytes[..at]);
                bytes[at] = to;
                let _ = read(&bytes);
            }
        }
    }

    #[test]
    fn a_fault_is_placed_as_the_contract_names_it() {
        let faults: Vec<String> = [
            &[0x08, 1][..],
            &[0x12, 2, 0xff, 0xfe],
            &[0x22, 3, 0x0a, 1, 0xff],
            &[0x22, 2, 0x12, 9],
            &[0x1a, 200],
            &[0x28],
            &[0x2a, 0],
            &[0x07],
        ]
        .map(|bytes| question(bytes).map(drop).unwrap_err().to_string())
        .to_vec();
        insta::assert_snapshot!(faults.join("\n"), @r"
token: has another type on the wire than the contract says
client_ip: is not UTF-8
http.method: is not UTF-8
http.path: is cut off
scope: is cut off
dry_run: is cut off
dry_run: has another type on the wire than the contract says
the request is no message: a field is cut off or unknown to protobuf
");
    }
}
