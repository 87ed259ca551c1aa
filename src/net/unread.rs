//! Answers that a peer does not take: for how long they wait, and how many of one subscriber.
//!
//! hyper writes one answer at a time and reads no further request before it is written, so a peer that never
//! reads costs one answer. It has no limit for how long that may take: this stream has.
//!
//! Must stay true: every answer is taken within `TAKE`, or its connection ends, however slowly the peer
//! reads; so no connection keeps its place by not reading.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::{Limiter, Peer, Permit};

/// How long a peer may take for an answer, from when it no longer fits into the system's buffer: a page of
/// 300 KB arrives at 20 KB a second.
const TAKE: Duration = Duration::from_secs(15);
/// Answers that wait for their peers, of which each costs its size in memory; of one subscriber a quarter.
const WAITING: usize = 128;

/// How many answers may wait.
pub fn room() -> Arc<Limiter> {
    Limiter::new(WAITING, WAITING / 4)
}

/// An answer that waits for its peer.
#[derive(Debug)]
struct UnreadAnswer {
    _seat: Permit,
    end: Pin<Box<Sleep>>,
}

/// A stream whose peer must take what is written. See the module.
#[derive(Debug)]
pub struct Unread<S> {
    stream: S,
    room: Arc<Limiter>,
    peer: Peer,
    take: Duration,
    waiting: Option<UnreadAnswer>,
}

impl<S: Unpin> Unread<S> {
    /// `stream`, whose answers wait in `room`.
    pub fn new(stream: S, room: Arc<Limiter>, peer: Peer) -> Self {
        Self { stream, room, peer, take: TAKE, waiting: None }
    }

    /// What a step of writing comes to: an error where the peer has let it wait for too long.
    fn bounded<T>(
        &mut self,
        step: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if step.is_ready() {
            return step;
        }
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            none => {
                let Some(seat) = self.room.take(self.peer, 1) else {
                    let text = "too many answers wait for this peer, or for all";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, text)));
                };
                none.insert(UnreadAnswer {
                    _seat: seat,
                    end: Box::pin(tokio::time::sleep(self.take)),
                })
            }
        };
        match waiting.end.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unread<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unread<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(step, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.bounded(step, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once it has handed over all of an answer: when that is done, the peer has it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_flush(cx);
        let step = self.bounded(step, cx);
        if step.is_ready() {
            self.waiting = None;
        }
        step
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let step = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(step, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn ip(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    fn unread<S: Unpin>(stream: S, take: Duration) -> Unread<S> {
        Unread { take, ..Unread::new(stream, room(), ip("192.0.2.1")) }
    }

    #[tokio::test]
    async fn an_answer_that_trickles_away_ends_in_time() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut stream = unread(ours, Duration::from_millis(100));
        let reader = async {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let error = tokio::select! {
            ended = stream.write_all(&[0; 1 << 20]) => ended.unwrap_err(),
            () = reader => panic!("the stream ended by itself"),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_end_of_a_connection_waits_no_longer() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = unread(tokio::io::BufWriter::new(ours), Duration::from_millis(10));
        stream.write_all(&[0; 32]).await.unwrap();
        assert_eq!(stream.shutdown().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_answer_that_is_taken_waits_no_more() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut stream = unread(ours, TAKE);
        for _ in 0..3 {
            let write = async {
                stream.write_all(&[0; 32]).await.unwrap();
                assert!(stream.waiting.is_some());
                stream.flush().await.unwrap();
                assert!(stream.waiting.is_none());
            };
            let read = async {
                theirs.read_exact(&mut [0; 32]).await.unwrap();
            };
            tokio::join!(write, read);
        }
    }

    #[tokio::test]
    async fn a_subscriber_lets_so_many_answers_wait() {
        let room = room();
        let mut kept = Vec::new();
        let mut stall = async |peer: &str| {
            let (ours, theirs) = tokio::io::duplex(1);
            let mut stream = Unread::new(ours, room.clone(), ip(peer));
            let write = tokio::time::timeout(Duration::ZERO, stream.write_all(b"answer")).await;
            kept.push((stream, theirs));
            write.is_ok_and(|ended| ended.is_err())
        };
        for _ in 0..WAITING / 4 {
            assert!(!stall("2001:db8::1").await);
        }
        assert!(stall("2001:db8::2").await, "one subscriber holds more than a share");
        assert!(!stall("192.0.2.1").await);
    }
}
