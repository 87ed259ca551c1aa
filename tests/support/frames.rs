//! HTTP/2 by hand, for clients that no library would be: they withhold, repeat and cut off as they like.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use portcullis::clock::Stopwatch;
use socket2::{Domain, Socket, Type};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A length of HPACK: seven bits, or more.
fn length(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap()];
    }
    let (mut bytes, mut rest) = (vec![127], length - 127);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

/// A header field that is not indexed.
pub fn field(name: &str, value: &[u8]) -> Vec<u8> {
    [&[0][..], &length(name.len()), name.as_bytes(), &length(value.len()), value].concat()
}

/// The header block of a gRPC request.
pub fn head(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = [&[0x83, 0x86][..], &field(":path", path.as_bytes())].concat();
    block.extend(field(":authority", b"localhost"));
    block.extend(field("content-type", b"application/grpc"));
    block.extend(field("te", b"trailers"));
    headers.iter().for_each(|(name, value)| block.extend(field(name, value.as_bytes())));
    block
}

/// What a gRPC message begins with that has, or says it has, so many bytes.
pub fn prefix(length: u32) -> [u8; 5] {
    let [a, b, c, d] = length.to_be_bytes();
    [0, a, b, c, d]
}

/// One connection.
pub struct Wire {
    stream: TcpStream,
    next: u32,
    buffer: Vec<u8>,
}

impl Wire {
    /// Connects from 127.0.0.`host`, which is an address of its own, and begins HTTP/2.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(server: SocketAddr, host: u8) -> std::io::Result<Self> {
        Self::connect_with(server, host, &[])
    }

    /// The same with settings of the client's, as they are in a frame.
    ///
    /// # Errors
    /// The system's.
    pub fn connect_with(server: SocketAddr, host: u8, settings: &[u8]) -> std::io::Result<Self> {
        let mut wire = Self { stream: tcp(server, host)?, next: 1, buffer: Vec::new() };
        let begin = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(SETTINGS, 0, 0, settings),
            frame(SETTINGS, ACK, 0, &[]),
        ];
        wire.send(&begin.concat())?;
        Ok(wire)
    }

    /// Sends bytes; what the server has no room for is not sent.
    ///
    /// # Errors
    /// The system's, other than that the server takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        match self.stream.write_all(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(())
            }
            sent => sent,
        }
    }

    /// Begins a call: its headers, and these bytes of its body. The number of its stream.
    ///
    /// # Errors
    /// The system's.
    pub fn call(&mut self, head: &[u8], body: &[u8], flags: u8) -> std::io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let mut bytes = frame(HEADERS, END_HEADERS, stream, head);
        let mut parts = body.chunks(16 << 10).peekable();
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() { flags } else { 0 };
            bytes.extend(frame(DATA, flags, stream, part));
        }
        self.send(&bytes)?;
        Ok(stream)
    }

    /// The next frame; `None` where the server has closed, or says nothing for `patience`. Pings are answered.
    pub fn receive(&mut self, patience: Duration) -> Option<Frame> {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        loop {
            if let Some((head, rest)) = self.buffer.split_first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if rest.len() >= length {
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let payload = rest[..length].to_vec();
                    let frame = Frame { kind: head[3], flags: head[4], stream, payload };
                    self.buffer.drain(..9 + length);
                    if frame.kind == PING && frame.flags & ACK == 0 {
                        let _ = self.send(&self::frame(PING, ACK, 0, &frame.payload));
                    }
                    return Some(frame);
                }
            }
            let mut more = [0; 16 << 10];
            match self.stream.read(&mut more) {
                Ok(length @ 1..) => self.buffer.extend(&more[..length]),
                _ => return None,
            }
        }
    }

    /// Waits for the first frame that `wanted` says is it.
    ///
    /// # Panics
    /// Where the server closes, or does not send it within 40 s.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let begun = Stopwatch::start();
        loop {
            let frame = self.receive(Duration::from_secs(40)).expect("the server closed");
            if wanted(&frame) {
                return frame;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "it does not come");
        }
    }

    /// Whether the server closes it, while it says nothing more.
    pub fn is_closed(&mut self) -> bool {
        while self.receive(Duration::from_secs(30)).is_some() {}
        self.stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        match self.stream.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// A connection from 127.0.0.`host`.
///
/// # Errors
/// The system's.
pub fn tcp(server: SocketAddr, host: u8) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0).into())?;
    socket.connect(&server.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}
