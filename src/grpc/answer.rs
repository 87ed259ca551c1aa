//! Bodies of answers that hold something until they are sent, or the client is gone.
//!
//! Must stay true: a client that asks and doesn't read can't fill the memory with answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use prost::bytes::Bytes;
use tonic::Status;
use tonic::body::Body;

use super::connections::Connection;
use super::status::status;
use crate::service::Error;

/// Bytes of answers that HTTP/2 takes from a stream before it has sent them: it asks for what follows once it has
/// sent all but these. What is not larger is not counted: a connection has a bounded number of streams.
pub(super) const UNCOUNTED: usize = 64 << 10;

/// A body that keeps `G` until it ends.
pub(super) struct HeldBody<G> {
    body: Body,
    _held: G,
}

impl<G> HeldBody<G> {
    pub(super) fn new(body: Body, held: G) -> Self {
        Self { body, _held: held }
    }
}

impl<G: Unpin> HttpBody for HeldBody<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a large answer of so many bytes until it is sent, or refuses it.
pub(super) fn counted(
    answer: Response<Body>,
    length: usize,
    connection: &Arc<Connection>,
) -> Response<Body> {
    if length <= UNCOUNTED {
        return answer;
    }
    match connection.answer(length) {
        Some(counted) => answer.map(|body| Body::new(HeldBody::new(body, counted))),
        None => status(&Error::Overloaded).into_http(),
    }
}

/// Bytes of an answer of tonic's, in its extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerLength(pub(super) usize);
