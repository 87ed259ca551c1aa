//! HTTP/1.1 as a gateway sends it, byte by byte: headers as they are given, in their order and as often.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No answer within this is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Answer {
    /// The value of a header that is there at most once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(own, _)| own == name);
        let first = values.next().map(|(_, value)| &**value);
        assert!(values.next().is_none(), "two headers {name}: {self:?}");
        first
    }

    /// `Portcullis-Reason`.
    pub(super) fn reason(&self) -> &str {
        self.header("portcullis-reason").unwrap_or_else(|| panic!("no reason: {self:?}"))
    }

    /// Status and reason.
    pub(super) fn outcome(&self) -> (u16, &str) {
        (self.status, self.reason())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Bytes in both directions, with TLS or without.
pub(super) trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A connection that stays open.
pub(super) struct Connection {
    reader: BufReader<Box<dyn Stream>>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the gateway listener"))
    }

    pub(super) fn over(stream: TcpStream) -> Self {
        Self::secured(stream, |stream| stream)
    }

    /// Over what `secure` makes of a stream.
    pub(super) fn secured<S: Stream + 'static>(
        stream: TcpStream,
        secure: impl FnOnce(TcpStream) -> S,
    ) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { reader: BufReader::new(Box::new(secure(stream))) }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// Sends one request and reads its answer. `Content-Length` is added where there is a body.
    pub(super) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: portcullis\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body);
        self.write(request.as_bytes());
        self.try_read_to(method).expect("an answer")
    }

    /// Reads one answer.
    pub(super) fn read(&mut self) -> Answer {
        self.try_read().expect("an answer")
    }

    /// Reads one answer; `None` where the connection ends instead.
    pub(super) fn try_read(&mut self) -> Option<Answer> {
        self.try_read_to("GET")
    }

    fn try_read_to(&mut self, method: &str) -> Option<Answer> {
        let mut line = || {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) => None,
                Ok(_) => Some(line.trim_end().to_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("no answer after {PATIENCE:?}")
                }
                Err(_) => None,
            }
        };
        let status = line()?;
        let status = status.split(' ').nth(1).expect("a status").parse().expect("a number");
        let mut headers = Vec::new();
        loop {
            let header = line()?;
            let Some((name, value)) = header.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length.filter(|_| method != "HEAD");
        let length = length.map_or(0, |(_, length)| length.parse().expect("a length"));
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).ok()?;
        Some(Answer { status, headers, body: String::from_utf8(body).expect("text") })
    }

    /// Whether the peer has ended the connection; waits until it has.
    pub(super) fn ends(&mut self) -> bool {
        matches!(self.reader.read(&mut [0]), Ok(0) | Err(_))
    }
}
