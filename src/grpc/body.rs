//! The body of a request: how large each message in it may be, how long it may take to arrive, and how many
//! bytes of such messages are kept at once.
//!
//! # Invariants
//! - A message is refused by the length that it declares, before any of it is kept.
//! - A call that takes one message is refused with the first byte of a second one.
//! - A message that is not there yet has room reserved for all of it. One that is there when it is looked for,
//!   as those of nearly all decisions are, costs no reservation, no timer and no lock.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use prost::bytes::{Buf as _, Bytes, BytesMut};
use tokio::time::Sleep;
use tonic::Status;

use super::connections::{Connection, Guard, SMALL};
use super::gzip::{self, Encoding};
use super::status::status;
use crate::service::Error;

/// How long a message may take from its first byte to its last.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long the rest of a refused request is awaited at most.
pub(super) const REST: Duration = Duration::from_secs(1);
/// A flag, and the length of the message in four bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(super) const PREFIX: usize = 5;

/// How a call takes its messages.
pub(super) enum Messages {
    /// One, and nothing after it.
    One,
    /// The same, but it is worked on for longer: the room of a large one is kept here.
    Kept(Room),
    /// Any number, each done with when the next one is asked for. The connection is in use until the end.
    Many { _open: Box<Guard> },
}

/// Keeps the room of a message for as long as anybody has a clone.
#[derive(Clone, Default)]
pub(super) struct Room(Arc<Mutex<Vec<Guard>>>);

impl Room {
    fn keep(&self, guard: Guard) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(guard);
    }
}

/// The body of one request. It is moved several times for each decision, so what few of them need is in a box.
pub(super) struct RequestBody {
    body: Incoming,
    connection: Arc<Connection>,
    messages: Messages,
    /// Bytes that a message may have.
    most: usize,
    encoding: Encoding,
    /// Bytes of the last message, as long as the reader of this body may keep them.
    kept: usize,
    /// Whether a message has begun, ever.
    begun: bool,
    /// Of a message that was not there whole when it was looked for.
    arrival: Option<Box<Arrival>>,
}

#[derive(Default)]
struct Arrival {
    prefix: [u8; PREFIX],
    /// How many of the prefix are known. None: no message has begun that has not ended.
    known: usize,
    /// Bytes of the message that are still to come.
    missing: usize,
    reserved: Option<Guard>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// Messages of at most `most` bytes each.
    pub(super) fn new(
        body: Incoming,
        connection: Arc<Connection>,
        messages: Messages,
        most: usize,
    ) -> Self {
        let encoding = Encoding::Identity;
        Self { body, connection, messages, most, encoding, kept: 0, begun: false, arrival: None }
    }

    /// The same with messages that may be encoded so.
    pub(super) fn encoded(self, encoding: Encoding) -> Self {
        Self { encoding, ..self }
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Bytes that a message may have, also inflated.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether a message has begun and not ended.
    fn within(&self) -> bool {
        self.arrival.as_ref().is_some_and(|arrival| arrival.known > 0)
    }

    /// Takes note of what came.
    fn look(&mut self, mut data: &[u8]) -> Result<(), Box<Status>> {
        while !data.is_empty() {
            if !self.within() {
                self.begin()?;
                // Nearly all messages come whole.
                if let Some((&prefix, rest)) = data.split_first_chunk()
                    && let Some(rest) = rest.get(length(prefix)..)
                {
                    self.declare(prefix)?;
                    data = rest;
                    continue;
                }
            }
            let mut arrival = self.arrival.take().unwrap_or_default();
            if arrival.known < PREFIX {
                let length = data.len().min(PREFIX - arrival.known);
                let (prefix, rest) = data.split_at(length);
                arrival.prefix[arrival.known..arrival.known + length].copy_from_slice(prefix);
                arrival.known += length;
                data = rest;
                if arrival.known == PREFIX {
                    arrival.missing = self.declare(arrival.prefix)?;
                }
            }
            if arrival.known == PREFIX {
                let length = data.len().min(arrival.missing);
                data = &data[length..];
                arrival.missing -= length;
                if arrival.missing == 0 {
                    arrival.known = 0;
                    arrival.timer = None;
                }
            }
            self.arrival = Some(arrival);
        }
        Ok(())
    }

    /// A message begins.
    fn begin(&mut self) -> Result<(), Box<Status>> {
        if self.begun && !matches!(self.messages, Messages::Many { .. }) {
            let why = "the call takes one message, and the request has more";
            return Err(Box::new(status(&Error::invalid("", "MALFORMED_MESSAGE", why))));
        }
        self.begun = true;
        Ok(())
    }

    /// How many bytes a message has, where it may have as many.
    fn declare(&mut self, prefix: [u8; PREFIX]) -> Result<usize, Box<Status>> {
        let length = length(prefix);
        if length > self.most {
            return Err(Box::new(status(&Error::TooLarge(self.most))));
        }
        self.kept = match self.encoding {
            Encoding::Identity => length,
            // It may become as much where it is read.
            Encoding::Gzip => length.max(gzip::SMALL.min(self.most)),
        };
        if let Messages::Kept(room) = &self.messages
            && length > SMALL
        {
            room.keep(self.reserve(length)?);
            self.kept = 0;
        }
        Ok(length)
    }

    fn reserve(&self, bytes: usize) -> Result<Guard, Box<Status>> {
        self.connection.message(bytes).ok_or_else(|| Box::new(status(&Error::Overloaded)))
    }

    /// What has to wait costs memory meanwhile, and may wait for so long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Result<(), Box<Status>> {
        if self.kept == 0 && !self.within() {
            return Ok(());
        }
        let mut arrival = self.arrival.take().unwrap_or_default();
        if self.kept > 0 && arrival.reserved.is_none() {
            arrival.reserved = Some(self.reserve(self.kept)?);
        }
        if arrival.known > 0 {
            let timer = arrival.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(ARRIVAL)));
            if timer.as_mut().poll(cx).is_ready() {
                return Err(Box::new(status(&Error::DeadlineExceeded)));
            }
        }
        self.arrival = Some(arrival);
        Ok(())
    }
}

/// The bytes of the message that follows a prefix.
pub(super) fn length([_, length @ ..]: [u8; PREFIX]) -> usize {
    usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
}

/// Reads a body to its end, in one piece.
///
/// # Errors
/// A message that is too large, came too slowly, or is not the only one; and more of them than there is room for.
pub(super) async fn read(body: &mut RequestBody) -> Result<Bytes, Box<Status>> {
    let (mut first, mut joined) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        // Trailers say nothing here.
        let Ok(data) = frame.map_err(unreadable)?.into_data() else { continue };
        if first.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&data);
        }
    }
    // Nearly all come in one frame, which is not copied.
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

/// The same, with its one message as it is where that is compressed.
///
/// # Errors
/// As of [`read`]; and a message that is not in gzip, or larger inflated than it may be.
pub(super) async fn read_inflated(body: &mut RequestBody) -> Result<Bytes, Box<Status>> {
    let mut whole = read(body).await?;
    match whole.first_chunk::<PREFIX>() {
        Some(&prefix) if prefix[0] == 1 && length(prefix) == whole.len() - PREFIX => {
            if body.encoding == Encoding::Identity {
                return Ok(whole);
            }
            whole.advance(PREFIX);
            let (message, reserved) = gzip::inflate(whole, body).await?;
            if let (Some(reserved), Messages::Kept(room)) = (reserved, &body.messages) {
                room.keep(reserved);
            }
            Ok(gzip::prefixed(&message))
        }
        // What is wrong with it is named by who reads it.
        _ => Ok(whole),
    }
}

/// What is wrong with a body that can't be read to its end.
fn unreadable(error: Box<dyn std::error::Error + Send + Sync>) -> Box<Status> {
    error.downcast().unwrap_or_else(|_| {
        Box::new(status(&Error::invalid("", "MALFORMED_MESSAGE", "the request is cut off")))
    })
}

/// Takes in what is left of a request that is refused.
///
/// An answer that is sent before the request ends makes h2 reset the stream and forget it. What comes then counts
/// as an error of the peer, and h2 closes the connection with the 1,025th of them: a client that does nothing
/// but try again during an outage must not get there.
pub(super) async fn discard(mut body: Incoming, within: Duration) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // A client that sends the rest later than that is answered without it.
    let _ = tokio::time::timeout(within, rest).await;
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if matches!(this.messages, Messages::Many { .. }) && !this.within() {
            this.kept = 0;
            this.arrival = None;
        }
        let (frame, checked) = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => match this.wait(cx) {
                Ok(()) => return Poll::Pending,
                Err(error) => (None, Err(error)),
            },
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                let checked = data.map_or(Ok(()), |data| this.look(data));
                (frame, checked)
            }
        };
        Poll::Ready(match checked {
            Ok(()) => frame.map(|frame| frame.map_err(Into::into)),
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
