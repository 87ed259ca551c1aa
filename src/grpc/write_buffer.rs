//! What one poll of a connection writes, sent together when that poll is over.
//!
//! HTTP/2 hands each large frame to the connection by itself, and what follows it apart. To send each at
//! once costs a system call and wakes the peer, who then finds half of what it waits for. Without this, two
//! batches of 100 took three system calls, the last of them for twenty bytes of trailers; it is part of what
//! made batches 1.22 times as fast (docs/benchmarks.md). Unnecessary once h2 queues several DATA frames for
//! one write: <https://github.com/hyperium/h2/pull/903>.
//!
//! Must stay true: after each poll of what writes to a [`BufferedIo`], [`Flusher::poll_send`] is called, or
//! what was written stays here.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::pieces;

/// How many bytes wait before they are sent all the same. One more frame may come on top.
const MOST: usize = 64 << 10;

struct WriteBuffer<S> {
    stream: S,
    out: Vec<u8>,
    sent: usize,
}

/// A stream that keeps what is written to it for its [`Flusher`].
pub(super) struct BufferedIo<S>(Arc<Mutex<WriteBuffer<S>>>);

/// Sends what was written to a [`BufferedIo`].
pub(super) struct Flusher<S>(Arc<Mutex<WriteBuffer<S>>>);

/// Takes over `stream`.
pub(super) fn buffered<S>(stream: S) -> (BufferedIo<S>, Flusher<S>) {
    let buffer = Arc::new(Mutex::new(WriteBuffer { stream, out: Vec::new(), sent: 0 }));
    (BufferedIo(buffer.clone()), Flusher(buffer))
}

/// Nobody else ever has it: both halves belong to one task.
fn lock<S>(buffer: &Mutex<WriteBuffer<S>>) -> MutexGuard<'_, WriteBuffer<S>> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> WriteBuffer<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let rest = &self.out[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        // A connection at rest keeps no memory for this.
        (self.out, self.sent) = (Vec::new(), 0);
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S> Flusher<S> {
    /// Does something to the stream itself.
    pub(super) fn with_stream(&self, act: impl FnOnce(&mut S)) {
        act(&mut lock(&self.0).stream);
    }
}

impl<S: AsyncWrite + Unpin> Flusher<S> {
    /// Sends all that was written.
    ///
    /// # Errors
    /// The stream's own.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).poll_send(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BufferedIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BufferedIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = lock(&self.0);
        if buffer.out.len() >= MOST {
            ready!(buffer.poll_send(cx))?;
        }
        let length = slices.iter().map(|slice| slice.len()).sum();
        buffer.out.reserve(length);
        let pieces = slices.iter().flat_map(|slice| pieces(slice));
        pieces.for_each(|piece| buffer.out.extend_from_slice(piece));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// It is the flusher that sends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = lock(&self.0);
        ready!(buffer.poll_send(cx))?;
        Pin::new(&mut buffer.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Takes as many bytes at a time as each number says, and then nothing more.
    #[derive(Default)]
    struct ThrottledPeer {
        takes: std::collections::VecDeque<usize>,
        writes: Vec<Vec<u8>>,
        shut_down: bool,
        broken: bool,
    }

    impl AsyncWrite for ThrottledPeer {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let Some(takes) = self.takes.pop_front() else { return Poll::Pending };
            let taken = takes.min(bytes.len());
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut_down = true;
            Poll::Ready(Ok(()))
        }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn write(
        buffered_io: &mut BufferedIo<ThrottledPeer>,
        slices: &[&[u8]],
    ) -> Poll<io::Result<usize>> {
        let slices: Vec<_> = slices.iter().map(|slice| io::IoSlice::new(slice)).collect();
        Pin::new(buffered_io).poll_write_vectored(&mut cx(), &slices)
    }

    #[test]
    fn what_is_written_in_one_poll_is_sent_in_one_piece() {
        let peer = ThrottledPeer { takes: [usize::MAX; 2].into(), ..ThrottledPeer::default() };
        let (mut buffered_io, flusher) = buffered(peer);
        for _ in 0..2 {
            assert!(matches!(write(&mut buffered_io, &[b"head", b"body"]), Poll::Ready(Ok(8))));
            assert!(Pin::new(&mut buffered_io).poll_flush(&mut cx()).is_ready());
            assert!(matches!(write(&mut buffered_io, &[b"end"]), Poll::Ready(Ok(3))));
            let before = lock(&flusher.0).stream.writes.len();
            assert!(matches!(flusher.poll_send(&mut cx()), Poll::Ready(Ok(()))));
            // Nothing is sent where nothing was written.
            assert!(matches!(flusher.poll_send(&mut cx()), Poll::Ready(Ok(()))));
            assert_eq!(lock(&flusher.0).stream.writes[before..], [b"headbodyend"]);
            assert_eq!(lock(&flusher.0).out.capacity(), 0, "at rest it keeps memory");
        }
    }

    #[test]
    fn a_peer_that_takes_nothing_holds_back_the_writer() {
        let (mut buffered_io, flusher) = buffered(ThrottledPeer::default());
        let frame = [7; 16 << 10];
        let mut written = 0;
        while write(&mut buffered_io, &[&frame]).is_ready() {
            written += frame.len();
            assert!(flusher.poll_send(&mut cx()).is_pending());
            assert!(written < MOST + frame.len(), "it has no end");
        }
        lock(&flusher.0).stream.takes = [usize::MAX].into();
        assert!(write(&mut buffered_io, &[&frame]).is_ready(), "there is room again");
        assert_eq!(lock(&flusher.0).stream.writes.concat().len(), written);
    }

    #[test]
    fn what_was_written_is_sent_before_the_end_and_a_broken_stream_is_an_error() {
        let (mut buffered_io, flusher) = buffered(ThrottledPeer::default());
        assert!(write(&mut buffered_io, &[b"last words"]).is_ready());
        assert!(Pin::new(&mut buffered_io).poll_shutdown(&mut cx()).is_pending());
        assert!(!lock(&flusher.0).stream.shut_down);
        lock(&flusher.0).stream.takes = [4, 0].into();
        let zero = flusher.poll_send(&mut cx());
        assert!(
            matches!(zero, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::WriteZero)
        );
        lock(&flusher.0).stream.takes = [usize::MAX].into();
        assert!(Pin::new(&mut buffered_io).poll_shutdown(&mut cx()).is_ready());
        assert!(lock(&flusher.0).stream.shut_down);
        assert_eq!(lock(&flusher.0).stream.writes.concat(), b"last words");

        assert!(write(&mut buffered_io, &[b"more"]).is_ready());
        lock(&flusher.0).stream.broken = true;
        let broken = flusher.poll_send(&mut cx());
        assert!(
            matches!(broken, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe)
        );
    }

    proptest! {
        #[test]
        fn every_byte_arrives_once_and_in_order(
            pieces in proptest::collection::vec((any::<u8>(), 0usize..40_000), 0..20),
            takes in proptest::collection::vec(1usize..50_000, 0..20),
        ) {
            let peer = ThrottledPeer { takes: takes.into(), ..ThrottledPeer::default() };
            let (mut buffered_io, flusher) = buffered(peer);
            let pieces: Vec<Vec<u8>> = pieces
                .into_iter()
                .map(|(first, length)| (0..length).map(|at| first.wrapping_add(at as u8)).collect())
                .collect();
            for (at, piece) in pieces.iter().enumerate() {
                let (a, b) = piece.split_at(piece.len() / 3);
                loop {
                    match write(&mut buffered_io, &[a, b]) {
                        Poll::Ready(written) => break prop_assert_eq!(written.unwrap(), piece.len()),
                        Poll::Pending => lock(&flusher.0).stream.takes.push_back(30_000),
                    }
                }
                if at % 3 == 0 {
                    let _ = flusher.poll_send(&mut cx());
                }
            }
            while flusher.poll_send(&mut cx()).is_pending() {
                lock(&flusher.0).stream.takes.push_back(usize::MAX);
            }
            prop_assert!(lock(&flusher.0).stream.writes.concat() == pieces.concat());
        }
    }

    #[tokio::test]
    async fn what_the_peer_says_is_read_as_it_comes() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (mut buffered_io, _outlet) = buffered(ours);
        theirs.write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        buffered_io.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"hello");
    }
}
