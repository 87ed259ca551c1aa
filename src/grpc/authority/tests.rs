//! Tests: whatever the authority, and however its bytes come, all other fields arrive.

use std::collections::VecDeque;

use proptest::prelude::*;
use tokio::io::AsyncReadExt as _;

use super::*;

const GOOD: [&str; 5] = ["localhost", "127.0.0.1:50051", "[::1]:1", "bank.example", "a,b"];
const BAD: [&str; 6] = ["127.0.0.1:1%2C127.0.0.1:2", "", "/run/a.sock", "%2Frun", "a:1,b:2", "a^b"];

/// Gives one piece at a time.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

async fn through(bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let pieces = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
    let mut out = Vec::new();
    AnyAuthority::new(Pieces(pieces)).read_to_end(&mut out).await?;
    assert_eq!(out[..PREFACE.len()], PREFACE);
    Ok(out.split_off(PREFACE.len()))
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The frames as a receiver understands them: blocks decoded, others as they are.
fn understood(mut bytes: &[u8]) -> Vec<(u8, u8, Vec<u8>, Fields)> {
    let (mut decoder, mut block, mut all) = (Decoder::new(), Vec::new(), Vec::new());
    let mut end_stream = 0;
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let [a, b, c, kind, flags, .., stream] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        assert!(length <= MAX_FRAME);
        let (payload, rest) = rest.split_at(length);
        bytes = rest;
        if kind != HEADERS && kind != CONTINUATION {
            all.push((kind, stream, payload.to_vec(), Vec::new()));
            continue;
        }
        if kind == HEADERS {
            block = unpadded(payload, flags).unwrap().to_vec();
            end_stream = flags & END_STREAM;
        } else {
            block.extend_from_slice(payload);
        }
        if flags & END_HEADERS != 0 {
            all.push((
                kind.min(HEADERS),
                stream,
                vec![end_stream],
                decoder.decode(&block).unwrap(),
            ));
        }
    }
    assert!(bytes.is_empty());
    all
}

/// How a client may write its authority.
#[derive(Debug, Clone, Copy)]
enum Written {
    Indexed,
    IndexedByName,
    Plain,
    Never,
    PlainByName,
    Huffman,
}

/// Writes requests as a client does, with a table of its own.
#[derive(Default)]
struct Client {
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl Client {
    fn put(&mut self, first: u8, name: Option<&[u8]>, field: (&str, &str), out: &mut Vec<u8>) {
        out.push(first);
        if let Some(name) = name {
            out.extend_from_slice(name);
        }
        put_length(field.1.len(), out);
        out.extend_from_slice(field.1.as_bytes());
        if first & 0xc0 == 0x40 {
            self.table.push_front((field.0.into(), field.1.into()));
        }
    }

    fn request(&mut self, authority: &str, written: Written, extra: &str) -> Vec<u8> {
        let mut out = vec![0x83, 0x86];
        let known = (b":authority".to_vec(), authority.as_bytes().to_vec());
        let literal = [&[10][..], AUTHORITY].concat();
        let huffman = [&[0x88][..], HUFFMAN_AUTHORITY].concat();
        let field = (":authority", authority);
        if let Some(at) = self.table.iter().position(|entry| *entry == known) {
            out.push(0x80 | u8::try_from(62 + at).unwrap());
        } else if authority.is_empty() && matches!(written, Written::Indexed) {
            out.push(0x81);
        } else {
            match written {
                Written::Indexed => self.put(0x41, None, field, &mut out),
                Written::IndexedByName => self.put(0x40, Some(&literal), field, &mut out),
                Written::Plain => self.put(0x01, None, field, &mut out),
                Written::Never => self.put(0x11, None, field, &mut out),
                Written::PlainByName => self.put(0x00, Some(&literal), field, &mut out),
                Written::Huffman => self.put(0x40, Some(&huffman), field, &mut out),
            }
        }
        self.put(0x04, None, (":path", "/x"), &mut out);
        let known = (b"te".to_vec(), b"trailers".to_vec());
        match self.table.iter().position(|entry| *entry == known) {
            Some(at) => out.push(0x80 | u8::try_from(62 + at).unwrap()),
            None => self.put(0x40, Some(b"\x02te"), ("te", "trailers"), &mut out),
        }
        self.put(0x00, Some(b"\x01x"), ("x", extra), &mut out);
        out
    }
}

fn written() -> impl Strategy<Value = Written> {
    use Written::*;
    prop::sample::select(vec![Indexed, IndexedByName, Plain, Never, PlainByName, Huffman])
}

fn authority(bad: bool) -> impl Strategy<Value = &'static str> {
    let all = GOOD.into_iter().chain(BAD.into_iter().filter(move |_| bad));
    prop::sample::select(all.collect::<Vec<_>>())
}

/// A client's bytes: the requests in frames that are padded, prioritized and continued, and data between them.
fn client(bad: bool) -> impl Strategy<Value = Vec<u8>> {
    let request = (authority(bad), written(), "[a-z]{0,200}", 0u8..8, prop::option::of(0usize..60));
    prop::collection::vec(request, 1..8).prop_map(|requests| {
        let (mut client, mut bytes) = (Client::default(), frame(4, 0, 0, &[]));
        for (at, (authority, written, extra, flags, cut)) in requests.into_iter().enumerate() {
            let stream = u8::try_from(2 * at + 1).unwrap();
            let block = client.request(authority, written, &extra);
            let (first, rest) = block.split_at(cut.map_or(block.len(), |cut| cut.min(block.len())));
            let (mut payload, mut own) = (Vec::new(), flags & END_STREAM);
            if flags & 2 != 0 {
                own |= PADDED;
                payload.push(7);
            }
            if flags & 4 != 0 {
                own |= PRIORITY;
                payload.extend([0, 0, 0, 0, 15]);
            }
            payload.extend_from_slice(first);
            if flags & 2 != 0 {
                payload.extend([0; 7]);
            }
            let end = if cut.is_none() { END_HEADERS } else { 0 };
            bytes.extend(frame(HEADERS, own | end, stream, &payload));
            if cut.is_some() {
                let (second, third) = rest.split_at(rest.len() / 2);
                bytes.extend(frame(CONTINUATION, 0, stream, second));
                bytes.extend(frame(CONTINUATION, END_HEADERS, stream, third));
            }
            bytes.extend(frame(0, 1, stream, &vec![7; extra.len() * 3]));
        }
        bytes
    })
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #[test]
    fn what_h2_accepts_passes_unchanged(bytes in client(false), piece in 1usize..300) {
        prop_assert_eq!(run(through(&bytes, piece)).unwrap(), bytes);
    }

    #[test]
    fn all_but_refused_authorities_arrives(bytes in client(true), piece in 1usize..300) {
        let out = run(through(&bytes, piece)).unwrap();
        let (sent, came) = (understood(&bytes), understood(&out));
        prop_assert_eq!(sent.len(), came.len());
        let mut rewrites = false;
        for ((kind, stream, payload, mut fields), came) in sent.into_iter().zip(came) {
            rewrites |= fields.iter().any(|(name, value)| {
                name == AUTHORITY && Authority::try_from(&**value).is_err()
            });
            if rewrites {
                fields.retain(|(name, _)| name != AUTHORITY);
            }
            prop_assert_eq!((kind, stream, payload, fields), came);
        }
    }

    #[test]
    fn no_bytes_panic(
        mut bytes in client(true),
        at in any::<prop::sample::Index>(),
        to: u8,
        piece in 1usize..300,
    ) {
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = run(through(&bytes, piece));
    }
}

#[test]
fn what_is_cut_off_passes_as_it_is() {
    let mut client = Client::default();
    let block = client.request("localhost", Written::Indexed, "");
    let whole = frame(HEADERS, END_HEADERS, 1, &block);
    for length in 0..whole.len() {
        assert_eq!(run(through(&whole[..length], 7)).unwrap(), &whole[..length]);
    }
}

#[test]
fn what_is_kept_of_a_block_has_a_bound() {
    let endless =
        [frame(HEADERS, 0, 1, &[0; 100]), frame(CONTINUATION, 0, 1, &[0; 10_000]).repeat(100)]
            .concat();
    // h2 sees it from the beginning, and closes the connection.
    assert_eq!(run(through(&endless, 5_000)).unwrap(), endless);
    let mut client = Client::default();
    let refused = frame(HEADERS, END_HEADERS, 1, &client.request("", Written::Indexed, ""));
    let error = run(through(&[refused.clone(), endless].concat(), 5_000)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    // A block that grows to far more than it was on the wire.
    let mut bomb = vec![0x40, 1, b'y'];
    put_length(4_000, &mut bomb);
    bomb.extend([b'z'; 4_000]);
    bomb.extend([0xbe; 10_000]);
    let bomb = frame(HEADERS, END_HEADERS, 3, &bomb);
    let error = run(through(&[refused, bomb].concat(), 5_000)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_large_block_is_continued() {
    let mut client = Client::default();
    let block = client.request("", Written::Plain, &"x".repeat(16_000));
    let fields = [block, field(b"y", &[b'y'; 16_000])].concat();
    let (first, rest) = fields.split_at(MAX_FRAME);
    let bytes = [
        frame(HEADERS, END_STREAM, 1, first),
        frame(CONTINUATION, END_HEADERS, 1, rest),
        frame(0, 1, 1, b"data"),
    ]
    .concat();
    let came = understood(&run(through(&bytes, 4_096)).unwrap());
    assert_eq!(came.len(), 2);
    assert_eq!(came[0].2, [END_STREAM]);
    assert_eq!(came[0].3.last().unwrap().1.len(), 16_000);
}

fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_field(name, value, &mut out);
    out
}

#[test]
fn a_turn_has_so_many_requests() {
    let mut client = Client::default();
    let requests: Vec<_> = (0..3 * TURN)
        .map(|at| {
            let authority = if at < TURN { "localhost" } else { "" };
            frame(HEADERS, END_HEADERS, 1, &client.request(authority, Written::Plain, ""))
        })
        .collect();
    let pieces = Pieces([requests.concat()].into());
    let mut stream = AnyAuthority::new(pieces);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut came = Vec::new();
    for turn in 1..=3 {
        stream.turn(false);
        loop {
            let mut bytes = [0; 1_000];
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut stream).poll_read(&mut cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => break,
                Poll::Ready(Ok(())) => came.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => break,
            }
        }
        assert_eq!(understood(&came[PREFACE.len()..]).len(), turn * TURN);
    }
}
