//! Bodies of requests and answers, within bounds.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::net::{Limiter, Peer, Permit};

/// The largest AuthZEN request, in bytes.
pub(super) const MAX_REQUEST: usize = 1 << 20;
/// Bytes of them that are read or answered at once, and of one subscriber at most.
const READ: (usize, usize) = (16 << 20, 8 << 20);
/// How long one may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// The bytes of a body that nobody needs which are read, so that the connection can be used again; and for how long.
const DISCARDED: u64 = 64 << 10;
const DISCARD: Duration = Duration::from_secs(2);

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    /// It has more than [`MAX_REQUEST`] bytes.
    TooLarge,
    /// It took longer than [`ARRIVAL`], or its connection failed.
    CutOff,
    /// Too many are being read.
    Overloaded,
}

/// The bodies of AuthZEN requests that are in memory.
#[derive(Debug)]
pub(super) struct Bodies(Arc<Limiter>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Limiter::new(READ.0, READ.1))
    }
}

impl Bodies {
    /// Reads a body whole. Its room is taken until the permit is dropped.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        peer: Peer,
    ) -> Result<(Bytes, Permit), BodyError> {
        let announced =
            content_length(headers).map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        let most = announced.unwrap_or(MAX_REQUEST);
        if most > MAX_REQUEST {
            return Err(BodyError::TooLarge);
        }
        let permit = self.0.take(peer, most).ok_or(BodyError::Overloaded)?;
        let read = tokio::time::timeout(ARRIVAL, collect(body, most)).await;
        Ok((read.unwrap_or(Err(BodyError::CutOff))?, permit))
    }
}

async fn collect(body: Incoming, most: usize) -> Result<Bytes, BodyError> {
    let mut body = pin!(body);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::CutOff)?.into_data() else { continue };
        if whole.len() + data.len() > most {
            return Err(BodyError::TooLarge);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Reads a body that nobody needs to its end, where it is small. Otherwise the connection ends with the answer.
pub(super) async fn discard(headers: &HeaderMap, mut body: Incoming) {
    if body.is_end_stream() || content_length(headers).is_some_and(|length| length > DISCARDED) {
        return;
    }
    let read = async {
        let mut left = DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length as u64) else { return };
            left = rest;
        }
    };
    let _ = tokio::time::timeout(DISCARD, read).await;
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The body of an answer, with what is held until it was sent.
#[derive(Debug)]
pub(super) struct AnswerBody {
    body: Full<Bytes>,
    _held: Option<Permit>,
}

impl AnswerBody {
    pub(super) fn empty() -> Self {
        Self::from(String::new())
    }

    /// The same, holding `permit`.
    pub(super) fn holding(text: String, permit: Permit) -> Self {
        Self { _held: Some(permit), ..Self::from(text) }
    }
}

impl From<String> for AnswerBody {
    fn from(text: String) -> Self {
        Self { body: Full::new(text.into()), _held: None }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
