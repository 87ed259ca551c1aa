//! Prost messages on the wire. Differs from tonic's own codec in one thing: bytes that are no valid
//! message are the caller's mistake, and the answer names the field where it is known.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Where a message begins: most are far shorter, and a buffer grows where one is not. Tonic would
/// take 8 KiB for each, twice a call.
const BUFFER: usize = 512;
/// How much a stream of answers gathers before it is sent, as tonic would.
const GATHERED: usize = 32 << 10;

/// For every message.
pub(super) fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER, GATHERED)
}

/// The codec that the generated clients and servers are built with.
#[derive(Debug, Clone)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder(PhantomData)
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct ProstEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ProstEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buf).map_err(|_| Status::internal("the answer does not fit its buffer"))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct ProstDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for ProstDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        match U::decode(&mut *buf) {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                // A stream goes on after this error only if the rest of the message is gone.
                buf.advance(buf.remaining());
                Err(undecodable(&error))
            }
        }
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// `INVALID_ARGUMENT` for bytes that are no message. Prost's text is all it gives, and never quotes
/// the bytes.
fn undecodable(error: &prost::DecodeError) -> Status {
    let (field, cause) = place(&error.to_string());
    let message = if field.is_empty() {
        format!("the request is not a valid message: {cause}")
    } else {
        format!("{field}: {cause}")
    };
    let mut details = ErrorDetails::new();
    details.add_bad_request_violation(field, cause).set_error_info(
        "MALFORMED_MESSAGE",
        "portcullis",
        std::collections::HashMap::new(),
    );
    Status::with_error_details(tonic::Code::InvalidArgument, message, details)
}

/// The field at error as the contract names it, and the cause, from prost's text: any number of
/// `Message.field: `, the innermost first, and the cause.
fn place(text: &str) -> (String, String) {
    let mut rest = text.strip_prefix("failed to decode Protobuf message: ").unwrap_or(text);
    let mut path = String::new();
    while let Some((step, after)) = rest.split_once(": ")
        && let Some((_, field)) = step.split_once('.')
        && !step.contains(' ')
    {
        let field = field.trim_start_matches("r#");
        let dot = if path.is_empty() { "" } else { "." };
        path = format!("{field}{dot}{path}");
        rest = after;
    }
    (path, rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_fault_is_placed_as_the_contract_names_it() {
        const START: &str = "failed to decode Protobuf message: ";
        const WIRE: &str = "invalid wire type: Varint (expected LengthDelimited)";
        for (steps, cause, field) in [
            ("", "buffer underflow", ""),
            ("GetTokenRequest.token_id: ", WIRE, "token_id"),
            ("ListPendingActionsRequest.r#type: ", WIRE, "type"),
            (
                "WhitelistReplacement.entries: ManageWhitelistRequest.replace: ",
                "invalid string value: data is not UTF-8 encoded",
                "replace.entries",
            ),
        ] {
            let found = place(&format!("{START}{steps}{cause}"));
            assert_eq!(found, (field.to_owned(), cause.to_owned()));
        }
    }
}
