//! HTTP/1.1 as bytes: what a test sends, from any address of this machine, and what comes back.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// No answer within this is no answer. Traefik waits for Portcullis for 30 s.
const PATIENCE: Duration = Duration::from_secs(45);

/// A start line and headers, as they were received.
#[derive(Clone)]
pub(super) struct Head {
    start: Vec<u8>,
    /// Names in lower case.
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// The first word of a request.
    pub(super) fn method(&self) -> &[u8] {
        self.start.split(|&byte| byte == b' ').next().unwrap_or_default()
    }

    /// What stands between the first and the last space of a request line.
    pub(super) fn target(&self) -> &[u8] {
        let first = self.start.iter().position(|&byte| byte == b' ');
        let last = self.start.iter().rposition(|&byte| byte == b' ');
        match (first, last) {
            (Some(first), Some(last)) if first < last => &self.start[first + 1..last],
            _ => b"",
        }
    }

    /// The values of a header in order; those that aren't UTF-8, with replacements.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let values = self.headers.iter().filter(|(known, _)| known == name);
        values.map(|(_, value)| std::str::from_utf8(value).unwrap_or("\u{fffd}")).collect()
    }

    /// The value of a header that is there once.
    #[track_caller]
    pub(super) fn one(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [value] => value,
            ref other => panic!("{name} is there {} times: {self:?}", other.len()),
        }
    }

    /// Every header, in order.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n    {}", self.start.escape_ascii())?;
        self.headers()
            .try_for_each(|(name, value)| write!(f, "\n    {name}: {}", value.escape_ascii()))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n    {}", self.head, self.text())
    }
}

/// An answer.
pub(super) struct Answer {
    /// Its status.
    pub(super) status: u16,
    /// Its headers.
    pub(super) head: Head,
    /// Its body.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends `request` from `from`, which is an address of this machine. `None` where the connection ends without an
/// answer.
pub(super) fn send(to: SocketAddr, from: Ipv4Addr, request: &[u8]) -> Option<Answer> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of this machine");
    socket.connect_timeout(&to.into(), PATIENCE).ok()?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    // A gateway may answer before it has read everything, and close.
    let _ = stream.write_all(request);
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader)?;
    let status = head.start.split(|&byte| byte == b' ').nth(1)?;
    let status = std::str::from_utf8(status).ok()?.parse().ok()?;
    let body = if request.starts_with(b"HEAD ") || status == 204 || status == 304 {
        Vec::new()
    } else {
        read_body(&mut reader, &head, true).unwrap_or_default()
    };
    Some(Answer { status, head, body })
}

/// A head; `None` at the end of the connection, or where it can't be read.
pub(super) fn read_head(reader: &mut impl BufRead) -> Option<Head> {
    let start = line(reader)?;
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            return Some(Head { start, headers });
        }
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        headers.push((name, line[colon + 1..].trim_ascii().to_vec()));
    }
}

/// A body by its head; to the end of the connection, where nothing says how long it is and `to_end` is set.
pub(super) fn read_body(reader: &mut impl BufRead, head: &Head, to_end: bool) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if head.all("transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = line(reader)?;
            let size = std::str::from_utf8(&size).ok()?.split(';').next()?.trim();
            let size = u64::from_str_radix(size, 16).ok()?;
            if size == 0 {
                while !line(reader)?.is_empty() {}
                return Some(body);
            }
            reader.by_ref().take(size).read_to_end(&mut body).ok()?;
            line(reader)?;
        }
    }
    if let Some(length) = head.all("content-length").first() {
        reader.take(length.parse().ok()?).read_to_end(&mut body).ok()?;
    } else if to_end {
        reader.read_to_end(&mut body).ok()?;
    }
    Some(body)
}

fn line(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok()?;
    line.pop_if(|&mut byte| byte == b'\n')?;
    line.pop_if(|&mut byte| byte == b'\r');
    Some(line)
}
