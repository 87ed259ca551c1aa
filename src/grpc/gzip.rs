//! Compressed requests (gRPC over HTTP/2, "Compression"): messages in gzip, and how much may become of each. Answers are
//! never compressed: what an attacker chooses and what is secret would share one stream (RFC 7457, section 2.6).
//!
//! # Invariants
//! - Of no message more is inflated than the call's limit and one byte. Rule 2.27 of docs/policy.md.
//! - What is large inflated is inflated apart from the threads of the connections, and has room reserved before.
//! - What is not compressed pays nothing.

use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flate2::bufread::GzDecoder;
use futures_util::future::BoxFuture;
use http::HeaderName;
use http::header::HeaderMap;
use hyper::body::{Body, Frame};
use prost::bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tonic::Status;

use super::body::{PREFIX, RequestBody, length};
use super::connections::Guard;
use super::status::status;
use crate::service::Error;

/// Names the encoding of a request's messages. Not a constant, which each request would make again.
pub(super) static ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// In an answer: the encodings that requests may have.
pub(super) const ACCEPTED: (&str, &str) = ("grpc-accept-encoding", "identity,gzip");
/// Bytes that a message may inflate to on the thread of its connection, and in a stream of decisions at all: that takes
/// less than a millisecond.
pub(super) const SMALL: usize = 64 << 10;

/// How the messages of a request may be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As they are.
    Identity,
    /// Each as it is, or in gzip.
    Gzip,
}

impl Encoding {
    /// That which the headers of a request name.
    ///
    /// # Errors
    /// [`Error::Compressed`] for any other.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        match headers.get(&ENCODING).map(http::HeaderValue::as_bytes) {
            None | Some(b"identity") => Ok(Self::Identity),
            Some(b"gzip") => Ok(Self::Gzip),
            Some(_) => Err(Error::Compressed),
        }
    }
}

/// A message as it is, and the room that is reserved for it where it is large and was compressed.
pub(super) type ReadMessage = Result<(Bytes, Option<Guard>), Box<Status>>;

/// What a compressed message of a request holds.
pub(super) fn inflate(message: Bytes, body: &RequestBody) -> BoxFuture<'static, ReadMessage> {
    let (connection, most) = (body.connection().clone(), body.most());
    Box::pin(async move {
        let refused = |error| Box::new(status(&error));
        if let Some(small) = inflated(&message, SMALL.min(most)).map_err(refused)? {
            return Ok((small, None));
        }
        if most <= SMALL {
            return Err(refused(Error::TooLarge(most)));
        }
        let reserved = connection.message(most).ok_or_else(|| refused(Error::Overloaded))?;
        let work = tokio::task::spawn_blocking(move || inflated(&message, most));
        let inflated = work.await.unwrap_or(Err(Error::Internal)).map_err(refused)?;
        let inflated = inflated.ok_or_else(|| refused(Error::TooLarge(most)))?;
        Ok((inflated, Some(reserved)))
    })
}

/// What `message` holds; `None` where that is more than `most` bytes.
fn inflated(message: &[u8], most: usize) -> Result<Option<Bytes>, Error> {
    let why = "the message is not in gzip, is cut off, or has something behind it";
    let malformed = || Error::invalid("", "MALFORMED_MESSAGE", why);
    let mut out = Vec::new();
    let mut decoder = GzDecoder::new(message).take(most as u64 + 1);
    decoder.read_to_end(&mut out).map_err(|_| malformed())?;
    if out.len() > most {
        return Ok(None);
    }
    // Other programs would read on (RFC 1952, section 2.2), and see another message than this one.
    if !decoder.into_inner().into_inner().is_empty() {
        return Err(malformed());
    }
    Ok(Some(out.into()))
}

/// A body of messages that may be compressed, as one of the same messages as they are. It is read on the thread of its
/// connection, so each of them may have [`SMALL`] bytes.
pub(super) struct InflatedBody {
    body: RequestBody,
    buffer: BytesMut,
}

impl InflatedBody {
    pub(super) fn new(body: RequestBody) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next message, where all of it is there.
    fn next(&mut self) -> Result<Option<Bytes>, Box<Status>> {
        let Some(&prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let end = PREFIX.saturating_add(length(prefix));
        if self.buffer.len() < end {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(end).freeze();
        if prefix[0] != 1 {
            return Ok(Some(message));
        }
        message.advance(PREFIX);
        let most = SMALL.min(self.body.most());
        let refused = |error| Box::new(status(&error));
        let small = inflated(&message, most).map_err(refused)?;
        small.map(|small| Some(prefixed(&small))).ok_or_else(|| refused(Error::TooLarge(most)))
    }
}

impl Body for InflatedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            match this.next() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers say nothing here.
                    if let Ok(data) = frame.into_data() {
                        this.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if this.buffer.is_empty() => return Poll::Ready(None),
                // What is cut off is named by who reads it.
                None => {
                    let rest = this.buffer.split().freeze();
                    return Poll::Ready(Some(Ok(Frame::data(rest))));
                }
            }
        }
    }
}

/// A message as it is, with its prefix.
pub(super) fn prefixed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.len());
    bytes.put_u8(0);
    // Less than 4 GiB: no call's limit is more.
    bytes.put_u32(message.len() as u32);
    super::frame::pieces(message).for_each(|piece| bytes.put_slice(piece));
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn compressed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Rule 2.27.
    #[test]
    fn no_more_than_the_limit_is_inflated() {
        let content = vec![0; 1_000];
        let message = compressed(&content);
        assert!(message.len() < 100);
        assert_eq!(inflated(&message, 1_000).unwrap().unwrap(), content);
        assert_eq!(inflated(&message, 999).unwrap(), None);
        assert_eq!(inflated(&compressed(b""), 0).unwrap().unwrap(), b""[..]);
    }

    #[test]
    fn what_is_no_gzip_is_refused() {
        let message = compressed(b"hello");
        let mut flipped = message.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let twice = message.repeat(2);
        for bad in [&b""[..], b"hello", &message[..message.len() - 1], &flipped, &twice] {
            assert!(inflated(bad, 1_000).is_err(), "{bad:?}");
        }
    }
}
