//! Bodies of answers that hold something until they are sent, or the client is gone.
//!
//! Must stay true: a client that asks and doesn't read can't fill the memory with answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as HttpBody, Frame, SizeHint};
use prost::bytes::Bytes;
use tonic::body::Body;
use tonic::{Code, Status};

use super::connections::{Connection, Guard};
use super::status::status;
use crate::service::Error;

/// Bytes of answers that HTTP/2 takes from a stream before it has sent them. What is not larger is not counted:
/// a connection has a bounded number of streams.
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

/// A body whose large frames count until it ends: HTTP/2 asks for the next frame once it has sent all but
/// [`UNCOUNTED`] bytes of one.
pub(super) struct CountedBody {
    body: Body,
    connection: Arc<Connection>,
    counted: Option<Guard>,
    refused: bool,
}

impl CountedBody {
    pub(super) fn new(body: Body, connection: Arc<Connection>) -> Self {
        Self { body, connection, counted: None, refused: false }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.refused {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let length = frame.as_ref().and_then(|frame| Some(frame.as_ref().ok()?.data_ref()?.len()));
        // What was sent before is gone.
        self.counted = None;
        if let Some(length) = length
            && length > UNCOUNTED
        {
            self.counted = self.connection.answer(length);
            if self.counted.is_none() {
                self.refused = true;
                return Poll::Ready(Some(trailers(&status(&Error::Overloaded))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.refused || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What ends a call whose headers are sent already.
fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers)?;
    debug_assert_ne!(status.code(), Code::Ok);
    Ok(Frame::trailers(headers))
}
