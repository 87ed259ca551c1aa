//! The first bytes of an HTTP/2 connection, awaited for so long and no longer.
//!
//! hyper waits for them without an end: peers that open connections and say nothing would keep their
//! places for ever, and hold back the end of the server. Unnecessary once hyper has a timeout for the HTTP/2
//! handshake, as proposed in <https://github.com/hyperium/hyper/pull/4172>. It is read once a connection, so
//! that no figure of a decision has it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Its bytes.
pub(super) const LENGTH: usize = PREFACE.len();

/// A connection whose preface was read, and is given once more to who serves it.
#[derive(Debug)]
pub(super) struct Prefaced<S> {
    stream: S,
    given: usize,
}

/// Reads the preface from `stream`.
///
/// # Errors
/// The connection's own; [`io::ErrorKind::InvalidData`] for a peer that speaks something else.
pub(super) async fn begin<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Prefaced<S>> {
    let mut read = [0; PREFACE.len()];
    let mut length = 0;
    while length < read.len() {
        match stream.read(&mut read[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
        if read[..length] != PREFACE[..length] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer speaks no HTTP/2"));
        }
    }
    Ok(Prefaced { stream, given: 0 })
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefaced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &PREFACE[self.given..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        self.given += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefaced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_is_given_again_and_then_the_rest() {
        let sent = [&PREFACE[..], b"frames"].concat();
        let mut begun = begin(&sent[..]).await.unwrap();
        let mut first = [0; 10];
        begun.read_exact(&mut first).await.unwrap();
        let mut rest = Vec::new();
        begun.read_to_end(&mut rest).await.unwrap();
        assert_eq!([&first[..], &rest].concat(), sent);
    }

    #[tokio::test]
    async fn other_protocols_are_told_at_once() {
        for sent in [&b"G"[..], b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01"] {
            // More might follow, and is not waited for.
            let stream = sent.chain(tokio::io::empty().chain(Pending));
            assert_eq!(begin(stream).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let ended = begin(&PREFACE[..20]).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[derive(Debug)]
    struct Pending;

    impl AsyncRead for Pending {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }
}
