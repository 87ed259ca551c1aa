//! What a client sends, frame by frame, before h2 sees it: any `:authority`, and so many requests at a time.
//!
//! # Authorities
//!
//! gRPC clients make it of what they were given as their target: several addresses (`127.0.0.1:1%2C127.0.0.1:2`),
//! the path of a Unix socket, or nothing. h2 takes it for a URI's authority (`http::uri::Authority`), which is
//! neither empty nor has an escape, and resets the stream otherwise; there is no setting for that
//! (<https://github.com/hyperium/h2/pull/487>). Nobody here needs it. So where h2 would refuse it, it is left out.
//!
//! Header blocks are compressed, with a table that grows from block to block. A connection is read in one of two
//! modes: at first, every byte is passed on as it is, and only what adds to the table is decoded besides, which
//! is rare. With the first authority that h2 would refuse, this and all later blocks are passed on without
//! compression, so h2's own table is needed no more.
//!
//! # Turns
//!
//! h2 takes in all that came before any of it is answered, and never gives back the memory that the most streams
//! at once took: a client that sends a thousand requests in one piece costs as much as a thousand that wait. So h2
//! gets a turn of them each time that the connection is polled: [`TURN`] of a stranger, all of a known caller.
//!
//! # Invariants
//! - Bytes are passed on unchanged, and not copied, as long as no authority on the connection is one that h2
//!   refuses.
//! - What is kept is bounded by [`MAX_BLOCK`], and the table by HTTP/2's default of 4 KiB.
//! - What is malformed is passed on, for h2 to refuse; a connection whose blocks can't be decoded after they had
//!   to be once is closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::uri::Authority;
use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::preface::PREFACE;

/// Bytes of a header block that are kept, compressed or not, its frames included: far more than the server lets
/// a request have.
const MAX_BLOCK: usize = 64 << 10;
/// The largest frame that HTTP/2 lets a client send unless the server says otherwise (RFC 9113, section 4.2).
const MAX_FRAME: usize = 16 << 10;
/// The default of `SETTINGS_HEADER_TABLE_SIZE`, which the server leaves as it is (RFC 9113, section 6.5.2).
const TABLE: usize = 4_096;
/// Bytes before a frame's payload (RFC 9113, section 4.1).
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Header blocks of a stranger that are passed on before what they ask for is answered, or at least begun.
const TURN: usize = 16;

const AUTHORITY: &[u8] = b":authority";
/// The same in HPACK's Huffman code (RFC 7541, appendix B).
const HUFFMAN_AUTHORITY: &[u8] = b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f";
/// Its number in the static table, and that table's length (RFC 7541, appendix A).
const AUTHORITY_INDEX: usize = 1;
const STATIC_TABLE: usize = 61;

/// What is to happen to bytes at the beginning of what came.
enum Next {
    /// More must come first.
    Wait,
    /// So many are passed on.
    Pass(usize),
    /// These are passed on instead of so many.
    Replace(usize, Vec<u8>),
}

/// A header block that has begun.
struct Block {
    /// Its frames.
    raw: Vec<u8>,
    /// What is in them.
    fragment: Vec<u8>,
    stream: [u8; 4],
    flags: u8,
}

/// Reads frames and leaves authorities out.
struct Filter {
    decoder: Decoder<'static>,
    /// Bytes that are passed on before the next frame begins.
    skip: usize,
    block: Option<Block>,
    /// Whether blocks are passed on uncompressed.
    rewrites: bool,
    /// Whether nothing more is looked at.
    blind: bool,
    /// Header blocks that may begin in this turn.
    turn: usize,
}

impl Filter {
    fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE);
        Self { decoder, skip: 0, block: None, rewrites: false, blind: false, turn: TURN }
    }

    /// How many of the first of `bytes` are passed on before a header block begins or goes on.
    fn without_headers(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        loop {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = &rest[skipped..];
            match rest.first_chunk::<HEAD>() {
                Some(&[a, b, c, kind, ..]) if kind != HEADERS && self.block.is_none() => {
                    self.skip = HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
                }
                _ => return bytes.len() - rest.len(),
            }
        }
    }

    /// What is to happen to the first of `bytes`, which are not empty.
    fn next(&mut self, bytes: &[u8]) -> io::Result<Next> {
        if self.blind {
            return Ok(Next::Pass(bytes.len()));
        }
        let passed = self.without_headers(bytes);
        if passed > 0 {
            return Ok(Next::Pass(passed));
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(Next::Wait) };
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let continues = match &self.block {
            // It is of a header block, or `without_headers` had passed it.
            None => false,
            Some(block) if kind == CONTINUATION && block.stream == stream => true,
            Some(_) => return self.give_up(0),
        };
        let kept = self.block.as_ref().map_or(0, |block| block.raw.len());
        if length > MAX_FRAME || kept + HEAD + length > MAX_BLOCK {
            return self.give_up(0);
        }
        let Some(payload) = rest.get(..length) else { return Ok(Next::Wait) };
        if !continues {
            let Some(left) = self.turn.checked_sub(1) else { return Ok(Next::Wait) };
            self.turn = left;
        }
        let consumed = HEAD + length;
        let fragment = if continues { Some(payload) } else { unpadded(payload, flags) };
        let Some(fragment) = fragment else { return self.give_up(0) };
        if self.block.is_none() && flags & END_HEADERS != 0 {
            return self.whole(fragment, stream, flags, consumed, None);
        }
        let block = self.block.get_or_insert_with(|| Block {
            raw: Vec::new(),
            fragment: Vec::new(),
            stream,
            flags,
        });
        block.raw.extend_from_slice(&bytes[..consumed]);
        block.fragment.extend_from_slice(fragment);
        if flags & END_HEADERS == 0 {
            return Ok(Next::Replace(consumed, Vec::new()));
        }
        match self.block.take() {
            Some(Block { raw, fragment, stream, flags }) => {
                self.whole(&fragment, stream, flags, consumed, Some(raw))
            }
            None => Ok(Next::Wait),
        }
    }

    /// Passes on what was kept, and from there on everything.
    fn give_up(&mut self, consumed: usize) -> io::Result<Next> {
        if self.rewrites {
            let why = "a header block is malformed or too large";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.blind = true;
        Ok(Next::Replace(consumed, self.block.take().map(|block| block.raw).unwrap_or_default()))
    }

    /// Passes a whole block on. `raw` has its frames, where they are not the first `consumed` bytes.
    fn whole(
        &mut self,
        fragment: &[u8],
        stream: [u8; 4],
        flags: u8,
        consumed: usize,
        raw: Option<Vec<u8>>,
    ) -> io::Result<Next> {
        let as_it_is = |raw: Option<Vec<u8>>| match raw {
            None => Next::Pass(consumed),
            Some(raw) => Next::Replace(consumed, raw),
        };
        if !self.rewrites && !matters(fragment) {
            return Ok(as_it_is(raw));
        }
        let (mut plain, mut refused, mut too_large) = (Vec::new(), false, false);
        let decoded = self.decoder.decode_with_cb(fragment, |name, value| {
            if *name == *AUTHORITY {
                refused |= Authority::try_from(&*value).is_err();
            } else if plain.len() + name.len() + value.len() <= MAX_BLOCK {
                put_field(&name, &value, &mut plain);
            } else {
                too_large = true;
            }
        });
        self.rewrites |= refused;
        if !self.rewrites {
            // What we can't decode, h2 can't either.
            self.blind = decoded.is_err();
            return Ok(as_it_is(raw));
        }
        if decoded.is_err() || too_large {
            return self.give_up(consumed);
        }
        Ok(Next::Replace(consumed, frames(&plain, stream, flags)))
    }
}

/// A HEADERS frame's fragment, without padding and priority (RFC 9113, section 6.2).
fn unpadded(mut payload: &[u8], flags: u8) -> Option<&[u8]> {
    if flags & PADDED != 0 {
        let (&padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(padding.into())?)?;
    }
    if flags & PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    Some(payload)
}

/// The frames of a block.
fn frames(block: &[u8], stream: [u8; 4], flags: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len() + 2 * HEAD);
    let mut parts = block.chunks(MAX_FRAME).peekable();
    let mut kind = HEADERS;
    loop {
        let part = parts.next().unwrap_or_default();
        let mut own = if kind == HEADERS { flags & END_STREAM } else { 0 };
        let last = parts.peek().is_none();
        if last {
            own |= END_HEADERS;
        }
        // At most MAX_FRAME.
        let [_, length @ ..] = (part.len() as u32).to_be_bytes();
        out.extend_from_slice(&length);
        out.extend_from_slice(&[kind, own]);
        out.extend_from_slice(&stream);
        out.extend_from_slice(part);
        if last {
            return out;
        }
        kind = CONTINUATION;
    }
}

/// Writes a field that no table is to have (RFC 7541, section 6.2.3).
fn put_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0x10);
    for text in [name, value] {
        put_length(text.len(), out);
        out.extend_from_slice(text);
    }
}

/// A number with a prefix of seven bits (RFC 7541, section 5.1), and no Huffman code.
fn put_length(length: usize, out: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else { return out.push(length as u8) };
    out.push(0x7f);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Whether a block has to be decoded: it adds to the table, changes its size, or may have an authority that did
/// not come from the table. Also where it can't be read.
fn matters(fragment: &[u8]) -> bool {
    let mut rest = fragment;
    while let Some(&first) = rest.first() {
        let read = if first & 0x80 != 0 {
            // From the table. What is in there was looked at when it was put in.
            number(rest, 7).filter(|&(index, _)| index != AUTHORITY_INDEX).map(|(_, rest)| rest)
        } else if first & 0xe0 != 0 {
            // It is put into the table, or changes the table's size.
            None
        } else {
            number(rest, 4).and_then(|(index, rest)| {
                let rest = match index {
                    0 => {
                        let (name, rest) = text(rest)?;
                        let authority = name == AUTHORITY || name == HUFFMAN_AUTHORITY;
                        (!authority).then_some(rest)?
                    }
                    // The names of the other ones are in the decoder's table only.
                    AUTHORITY_INDEX | STATIC_TABLE.. if index != STATIC_TABLE => return None,
                    _ => rest,
                };
                Some(text(rest)?.1)
            })
        };
        let Some(read) = read else { return true };
        rest = read;
    }
    false
}

/// A number with a prefix of so many bits, and what follows it.
fn number(bytes: &[u8], prefix: u32) -> Option<(usize, &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    let mask = (1usize << prefix) - 1;
    let mut value = usize::from(first) & mask;
    if value < mask {
        return Some((value, rest));
    }
    for shift in [0, 7, 14, 21] {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// A text as it is written, and what follows it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes, 7)?;
    rest.split_at_checked(length)
}

/// A connection on which h2 refuses no authority.
pub(super) struct AnyAuthority<S> {
    stream: S,
    filter: Filter,
    /// What came and can't be passed on yet.
    held: Vec<u8>,
    /// What is to be passed on before anything else, and how much of it was.
    out: Vec<u8>,
    given: usize,
}

impl<S> AnyAuthority<S> {
    /// Reads from `stream`, of which the preface was read already: it is passed on first.
    pub(super) fn new(stream: S) -> Self {
        let out = PREFACE.to_vec();
        Self { stream, filter: Filter::new(), held: Vec::new(), out, given: 0 }
    }

    /// A new turn begins: what was asked for in the one before is answered, or under way.
    pub(super) fn turn(&mut self, known: bool) {
        self.filter.turn = if known { usize::MAX } else { TURN };
    }

    /// How many of the first of `bytes` can be passed on as they are. What follows them is held.
    fn pass(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut passed = 0;
        while passed < bytes.len() {
            match self.filter.next(&bytes[passed..])? {
                Next::Pass(length) => passed += length,
                Next::Wait => {
                    self.held.extend_from_slice(&bytes[passed..]);
                    break;
                }
                Next::Replace(length, instead) => {
                    self.out = instead;
                    self.held.extend_from_slice(&bytes[passed + length..]);
                    self.release()?;
                    break;
                }
            }
        }
        Ok(passed)
    }

    /// Passes on what is held, as far as that is possible.
    fn release(&mut self) -> io::Result<()> {
        let mut released = 0;
        while released < self.held.len() {
            let rest = &self.held[released..];
            match self.filter.next(rest)? {
                Next::Wait => break,
                Next::Pass(length) => {
                    self.out.extend_from_slice(&rest[..length]);
                    released += length;
                }
                Next::Replace(length, instead) => {
                    self.out.extend_from_slice(&instead);
                    released += length;
                }
            }
        }
        self.held.drain(..released);
        if self.held.is_empty() {
            // A connection at rest keeps no memory for this.
            self.held = Vec::new();
        }
        Ok(())
    }

    /// Gives what is ready; whether there was any.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let rest = &self.out[self.given..];
        if rest.is_empty() {
            return false;
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.given += length;
        if self.given == self.out.len() {
            (self.out, self.given) = (Vec::new(), 0);
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.held.is_empty() {
            this.release()?;
        }
        loop {
            if this.give(buffer) || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.filter.turn == 0 && !this.held.is_empty() {
                // There may be more in what is held already, and nobody else says so.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.held.is_empty() {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
                let came = &buffer.filled()[before..];
                if came.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let passed = this.pass(came);
                buffer.set_filled(before + *passed.as_ref().unwrap_or(&0));
                let passed = passed?;
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut more = [0; 4 << 10];
                let mut more = ReadBuf::new(&mut more);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut more))?;
                if more.filled().is_empty() {
                    // A frame that is cut off: h2 sees it as it is.
                    this.out = std::mem::take(&mut this.held);
                    this.filter.blind = true;
                    continue;
                }
                this.held.extend_from_slice(more.filled());
                this.release()?;
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
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
mod tests;
