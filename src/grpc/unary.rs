//! Calls with one message each way that stay bytes: decisions are read where they lie and written as they are made.
//!
//! Other calls go through tonic's own server (`tonic::server::Grpc`), which makes a decoder, a stream, a request
//! and an encoder of each: docs/benchmarks.md says what decisions save without it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use hyper::body::{Body as HttpBody, Frame};
use prost::bytes::{Buf as _, Bytes};
use tonic::Status;
use tonic::body::Body;

use super::answer::{UNCOUNTED, counted};
use super::body::{PREFIX, RequestBody, length, read};
use super::gzip::{self, Encoding, ReadMessage};
use super::status::status;
use crate::service::{Error, Result};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Answers a request with what `work` makes of its message.
pub(super) async fn unary<F>(mut body: RequestBody, work: impl FnOnce(Bytes) -> F) -> Response<Body>
where
    F: Future<Output = Result<Vec<u8>>>,
{
    let (message, _reserved) = match message(&mut body).await {
        Ok(message) => message,
        Err(status) => return status.into_http(),
    };
    match work(message).await {
        Ok(answer) => counted(response(&answer), answer.len(), body.connection()),
        Err(error) => status(&error).into_http(),
    }
}

/// The same for a call that never ends with an error of gRPC: `refuse` makes an answer of what is wrong with the message.
/// Answers are small, so nothing counts them.
pub(super) async fn answered<F>(
    mut body: RequestBody,
    work: impl FnOnce(Bytes) -> F,
    refuse: impl FnOnce(&Status) -> Vec<u8>,
) -> Response<Body>
where
    F: Future<Output = Vec<u8>>,
{
    let answer = match message(&mut body).await {
        Ok((message, _reserved)) => work(message).await,
        Err(status) => refuse(&status),
    };
    debug_assert!(answer.len() <= UNCOUNTED);
    response(&answer)
}

/// A response with one message.
pub(super) fn response(message: &[u8]) -> Response<Body> {
    let mut response = Response::new(Body::new(UnaryBody::Message(gzip::prefixed(message))));
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The one message of a request, once the request has ended.
async fn message(body: &mut RequestBody) -> ReadMessage {
    let mut whole = read(body).await?;
    let malformed = |why| Err(Box::new(status(&Error::invalid("", "MALFORMED_MESSAGE", why))));
    let Some(&prefix) = whole.first_chunk::<PREFIX>() else {
        return malformed("the request has no message, or it is cut off");
    };
    whole.advance(PREFIX);
    match prefix[0] {
        _ if whole.len() != length(prefix) => malformed("the message is cut off"),
        0 => Ok((whole, None)),
        1 if body.encoding() == Encoding::Gzip => gzip::inflate(whole, body).await,
        1 => Err(Box::new(status(&Error::Compressed))),
        _ => malformed("the first byte is neither 0 nor 1, as before a gRPC message"),
    }
}

/// The body of an answer: its message, then the status.
enum UnaryBody {
    Message(Bytes),
    Status,
    End,
}

impl HttpBody for UnaryBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let (frame, rest) = match std::mem::replace(&mut *self, Self::End) {
            Self::Message(bytes) => (Frame::data(bytes), Self::Status),
            Self::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(STATUS, OK);
                (Frame::trailers(trailers), Self::End)
            }
            Self::End => return Poll::Ready(None),
        };
        *self = rest;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::End)
    }
}
