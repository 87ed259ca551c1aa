//! Protobuf messages read in place and written as they are made, without a value in between.
//!
//! # What is accepted
//!
//! Bytes are read exactly where two independent implementations, prost and upb, both read them, and then as the same
//! values. In detail, the stricter of both counts:
//!
//! - A key or a length is a varint of at most 5 bytes and 32 bits (upb). Any other varint has at most 10 bytes
//!   and 64 bits (prost). Longer spellings of a number than it needs are accepted within these bounds.
//! - Field number 0, the wire types 6 and 7, and an end of a group that did not begin are refused, also within
//!   a group that is skipped (prost).
//! - A known field of another wire type than the contract's is refused (prost; upb takes it for unknown).
//! - Messages and groups lie at most 100 deep, the request's own levels included.
//! - Fields come in any order, unknown ones are skipped.

use prost::encoding::{self, WireType};

use crate::service::{Error, Result};

/// What is wrong with bytes whose fields can't be separated.
const NO_MESSAGE: &str = "the request is no message: a field is cut off or unknown to protobuf";
/// What is wrong with a known field of another wire type.
const OTHER_TYPE: &str = "has another type on the wire than the contract says";

/// How deep messages and groups lie within each other at most.
const MAX_DEPTH: u32 = 100;
/// The most bytes of a key or a length.
const MAX_SHORT_VARINT: usize = 5;

/// The rest of a message that is being read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// The field that the message is the value of; empty for the request itself.
    within: &'static str,
    /// How many levels of messages and groups it may contain.
    depth: u32,
}

/// A field whose value comes next.
pub(super) struct Field {
    pub(super) number: u32,
    kind: WireType,
}

/// An error of one field, or of the message's bytes where `field` is empty.
pub(super) fn malformed(field: &str, cause: &'static str) -> Error {
    Error::invalid(field, "MALFORMED_MESSAGE", cause)
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message, within: "", depth: MAX_DEPTH }
    }

    /// The same of bytes that were the value of a field before.
    pub(super) fn nested(message: &'a [u8]) -> Self {
        Self { depth: MAX_DEPTH - 1, ..Self::new(message) }
    }

    pub(super) fn next(&mut self) -> Result<Option<Field>> {
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
    pub(super) fn bytes(&mut self, field: &Field, name: &str) -> Result<&'a [u8]> {
        if field.kind != WireType::LengthDelimited {
            return Err(malformed(name, OTHER_TYPE));
        }
        self.delimited().ok_or_else(|| malformed(name, "is cut off"))
    }

    /// A message within this one.
    pub(super) fn message(
        &mut self,
        field: &Field,
        name: &str,
        within: &'static str,
    ) -> Result<Self> {
        Ok(Self { rest: self.bytes(field, name)?, within, depth: self.depth - 1 })
    }

    pub(super) fn number(&mut self, field: &Field, name: &str) -> Result<u64> {
        if field.kind != WireType::Varint {
            return Err(malformed(name, OTHER_TYPE));
        }
        self.varint().ok_or_else(|| malformed(name, "is cut off"))
    }

    /// Skips a field that this version does not know.
    pub(super) fn skip(&mut self, field: &Field) -> Result<()> {
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

/// The key of a field with a length.
fn key(number: u8) -> u8 {
    number << 3 | 2
}

pub(super) fn put_length(length: usize, out: &mut Vec<u8>) {
    encoding::encode_varint(length as u64, out);
}

pub(super) fn put(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(key(number));
        put_length(bytes.len(), out);
        out.extend_from_slice(bytes);
    }
}

/// The same for what is written in its place: its length is known afterwards, and nearly always one
/// byte.
pub(super) fn put_written(number: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
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
