//! The connection to a relay: TCP, TLS before or after STARTTLS, and what comes over it made fit to be
//! read.
//!
//! Must stay true:
//! - With STARTTLS, nothing that came before TLS is read as if it came through it: what is left
//!   unread at that moment ends the attempt (it was put there by somebody on the way).
//! - Answers reach the parser as short lines that it can read. Relays do answer in Latin-1, or with a
//!   code and no text.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lettre::transport::smtp::client::AsyncTokioStream;
use lettre::transport::smtp::extension::ClientId;
use rustls::pki_types::ServerName;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
    ReadBuf,
};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::endpoint::{Endpoint, Security};
use crate::pem::TrustStore;

/// What a connection greets with that was greeted before STARTTLS already.
const GREETED: &[u8] = b"220 ready\r\n";
/// The longest answer, in bytes. The parser starts over with each line of it, so this is also what keeps
/// a relay from keeping it busy.
const LONGEST_ANSWER: usize = 16_384;
/// The most bytes of a line; a longer one is none.
const LONGEST_LINE: usize = 4_096;

/// Bytes from and to a relay.
pub(super) struct Wire {
    stream: Box<dyn SmtpStream>,
    peer: SocketAddr,
    /// A line that was begun.
    line: Vec<u8>,
    /// Lines that were not yet read by the parser.
    ready: VecDeque<u8>,
    /// How much came since something was last written.
    answered: usize,
}

trait SmtpStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> SmtpStream for T {}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Connects; `limit` holds for finding and reaching the host, and again for each later step.
///
/// # Errors
/// What went wrong, as a sentence about the relay.
pub(super) async fn connect(
    endpoint: &Endpoint,
    trust: &TrustStore,
    hello: &ClientId,
    connect_limit: Duration,
    limit: Duration,
) -> Result<Wire, String> {
    let stream = match timeout(connect_limit, reach(endpoint, connect_limit)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(format!("cannot be reached: {error}")),
        Err(_) => return Err(format!("cannot be reached within {connect_limit:?}")),
    };
    let peer = stream.peer_addr().map_err(|error| format!("cannot be reached: {error}"))?;
    // Commands are short, and each waits for its answer.
    let _ = stream.set_nodelay(true);
    let wire = |stream, greeting: &[u8]| {
        let ready = greeting.iter().copied().collect();
        Wire { stream, peer, line: Vec::new(), ready, answered: 0 }
    };
    match endpoint.security {
        Security::Plain => Ok(wire(Box::new(stream), b"")),
        Security::Tls => {
            let stream = encrypt(stream, endpoint, trust, limit).await?;
            Ok(wire(stream, b""))
        }
        Security::StartTls => {
            let stream = timeout(limit, ask_for_tls(stream, hello))
                .await
                .map_err(|_| format!("does not get to STARTTLS within {limit:?}"))??;
            let stream = encrypt(stream, endpoint, trust, limit).await?;
            Ok(wire(stream, GREETED))
        }
    }
}

/// Tries each address of the host; all of them share the limit, so that one that swallows packets
/// doesn't hide the next.
async fn reach(endpoint: &Endpoint, limit: Duration) -> io::Result<TcpStream> {
    let found: Vec<_> = lookup_host((endpoint.host.as_str(), endpoint.port)).await?.collect();
    let share = limit / u32::try_from(found.len().max(1)).unwrap_or(u32::MAX);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in found {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
        }
    }
    Err(last)
}

async fn encrypt(
    stream: TcpStream,
    endpoint: &Endpoint,
    trust: &TrustStore,
    limit: Duration,
) -> Result<Box<dyn SmtpStream>, String> {
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| "has a name that no certificate can have".to_owned())?;
    let connector = TlsConnector::from(trust.client());
    match timeout(limit, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(format!("does not agree on TLS: {error}")),
        Err(_) => Err(format!("does not agree on TLS within {limit:?}")),
    }
}

/// What is said before TLS.
async fn ask_for_tls(stream: TcpStream, hello: &ClientId) -> Result<TcpStream, String> {
    let mut stream = BufReader::new(stream);
    answer(&mut stream, 220, "its greeting").await?;
    send(&mut stream, format!("EHLO {hello}\r\n")).await?;
    let offered = answer(&mut stream, 250, "EHLO").await?;
    if !offered.iter().any(|line| line.eq_ignore_ascii_case("STARTTLS")) {
        return Err("does not offer STARTTLS, which PORTCULLIS_SMTP_URL asks for".to_owned());
    }
    send(&mut stream, "STARTTLS\r\n".to_owned()).await?;
    answer(&mut stream, 220, "STARTTLS").await?;
    if !stream.buffer().is_empty() {
        return Err("answered more than it was asked before TLS began".to_owned());
    }
    Ok(stream.into_inner())
}

async fn send(stream: &mut BufReader<TcpStream>, line: String) -> Result<(), String> {
    stream
        .write_all(line.as_bytes())
        .await
        .map_err(|error| format!("cannot be written to before TLS: {error}"))
}

/// The text of each line of an answer, which must have `code`.
async fn answer(
    stream: &mut BufReader<TcpStream>,
    code: u16,
    to: &str,
) -> Result<Vec<String>, String> {
    let mut stream = stream.take(LONGEST_ANSWER as u64);
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = stream
            .read_until(b'\n', &mut line)
            .await
            .map_err(|error| format!("cannot be read from before TLS: {error}"))?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Err(format!("broke off its answer to {to}"));
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if line.get(..3) != Some(code.to_string().as_str()) {
            return Err(format!("answers {to} with {line}"));
        }
        lines.push(line.get(4..).unwrap_or_default().to_owned());
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(lines);
        }
    }
}

impl AsyncTokioStream for Wire {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl Wire {
    /// Takes over what was read, and makes the lines that are whole fit for the parser: ASCII, ended
    /// as SMTP ends lines, and with the space that it wants after a code that stands alone.
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(if byte.is_ascii() { *byte } else { b'?' });
                continue;
            }
            let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
            self.ready.extend(line);
            if line.len() == 3 {
                self.ready.push_back(b' ');
            }
            self.ready.extend(b"\r\n");
            self.line.clear();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            let mut bytes = [0; 1_024];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                // The end. A line that was begun is no answer.
                return Poll::Ready(Ok(()));
            }
            this.take(read.filled());
            this.answered += read.filled().len();
            if this.line.len() > LONGEST_LINE || this.answered > LONGEST_ANSWER {
                let error = io::Error::new(io::ErrorKind::InvalidData, "its answer has no end");
                return Poll::Ready(Err(error));
            }
        }
        let (front, _) = this.ready.as_slices();
        let count = front.len().min(into.remaining());
        into.put_slice(&front[..count]);
        this.ready.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.answered = 0;
        Pin::new(&mut this.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
