//! The first bytes of an HTTP/2 connection, awaited for so long and no longer.
//!
//! hyper waits for them without an end: peers that open connections and say nothing would keep their
//! places for ever, and hold back the end of the server. Unnecessary once hyper has a timeout for the HTTP/2
//! handshake, as proposed in <https://github.com/hyperium/hyper/pull/4172>. It is read once a connection, so
//! that no figure of a decision has it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads the preface from `stream`, and no more.
///
/// # Errors
/// The connection's own; [`io::ErrorKind::InvalidData`] for a peer that speaks another protocol.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    #[tokio::test]
    async fn what_follows_the_preface_is_left() {
        let sent = [&PREFACE[..], b"frames"].concat();
        let mut stream = &sent[..];
        read(&mut stream).await.unwrap();
        assert_eq!(stream, b"frames");
    }

    #[tokio::test]
    async fn other_protocols_are_told_at_once() {
        for sent in [&b"G"[..], b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01"] {
            // More might follow, and is not waited for.
            let mut stream = sent.chain(tokio::io::empty().chain(Pending));
            assert_eq!(read(&mut stream).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        let ended = read(&mut &PREFACE[..20]).await.unwrap_err();
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
