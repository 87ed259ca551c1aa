//! The hand-written reader of requests against two protobuf implementations, prost and upb (through Python),
//! over 200,000 mutated messages: it reads what both read, as the same values, and refuses the rest.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fs;

use crate::support::tools;
use portcullis::grpc::proto::authorize_request::Operation;
use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, HttpOperation, StreamAuthorizeRequest,
};
use portcullis::grpc::wire;
use portcullis::service::Error;
use portcullis::service::decisions::{AuthorizeInput, RequestedOperation};
use prost::Message;

/// Messages that are compared.
const CASES: usize = 200_000;
/// How often each root, and each verdict of it, is to occur at least, so that the comparison says something.
const ENOUGH: usize = 5_000;

/// The message that bytes are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Single,
    Stream,
    Batch,
}

const ROOTS: [Root; 3] = [Root::Single, Root::Stream, Root::Batch];

/// What is read of a case: a message without unknown fields. An item of a stream without a request has
/// none, one of a batch has any number.
type Requests = Vec<AuthorizeRequest>;

/// Rule 2.26.
#[test]
fn requests_are_read_as_prost_and_upb_both_read_them() {
    let mut random = Random(0x0070_6f72_7463_756c);
    let cases: Vec<(Root, Vec<u8>)> = (0..CASES).map(|_| case(&mut random)).collect();
    let verdicts = upb(&cases);
    assert_eq!(verdicts.len(), CASES);

    let mut counts = [[0; 2]; 3];
    let (mut prost_alone, mut upb_alone) = (0, 0);
    for ((root, bytes), upb) in cases.iter().zip(verdicts) {
        let prost = by_prost(*root, bytes);
        match (&prost, &upb) {
            (Some(prost), Some(upb)) => assert_eq!(prost, upb, "{root:?} {bytes:x?}"),
            (Some(_), None) => prost_alone += 1,
            (None, Some(_)) => upb_alone += 1,
            (None, None) => {}
        }
        let wanted = prost.filter(|_| upb.is_some());
        let read = by_wire(*root, bytes);
        assert_eq!(read, wanted, "{root:?} {bytes:x?}");
        counts[*root as usize][usize::from(read.is_some())] += 1;
    }
    println!(
        "refused, accepted: {counts:?}; accepted by prost alone {prost_alone}, upb alone {upb_alone}"
    );
    assert!(counts.as_flattened().iter().all(|&count| count > ENOUGH), "{counts:?}");
    assert!(prost_alone > 1_000 && upb_alone > 1_000, "{prost_alone} {upb_alone}");
}

fn by_wire(root: Root, bytes: &[u8]) -> Option<Requests> {
    match root {
        Root::Single => Some(vec![message(wire::parse(bytes).ok()?)]),
        Root::Stream => match wire::parse_stream_item(bytes) {
            Ok(question) => Some(vec![message(question)]),
            Err(Error::Invalid(faults)) if faults[0].reason == "REQUIRED" => Some(Vec::new()),
            Err(_) => None,
        },
        // Other than a library, the server refuses a bad item alone.
        Root::Batch => {
            let items = wire::split_batch(bytes).ok()?;
            items.into_iter().map(|item| wire::parse_batch_item(item).ok().map(message)).collect()
        }
    }
}

fn by_prost(root: Root, bytes: &[u8]) -> Option<Requests> {
    match root {
        Root::Single => Some(vec![AuthorizeRequest::decode(bytes).ok()?]),
        Root::Stream => {
            Some(StreamAuthorizeRequest::decode(bytes).ok()?.request.into_iter().collect())
        }
        Root::Batch => Some(BatchAuthorizeRequest::decode(bytes).ok()?.requests),
    }
}

/// What upb makes of each case.
fn upb(cases: &[(Root, Vec<u8>)]) -> Vec<Option<Requests>> {
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("cases"), home.path().join("verdicts"));
    let mut file = Vec::new();
    for (root, bytes) in cases {
        file.push(*root as u8);
        file.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        file.extend_from_slice(bytes);
    }
    fs::write(&from, file).unwrap();
    let script = tools::source("tests/clients/python/upb.py");
    tools::succeed(tools::python().arg(script).arg(&from).arg(&to));

    let file = fs::read(&to).unwrap();
    let mut rest = &file[..];
    let verdict = |(root, _): &(Root, _)| {
        let (accepted, after) = rest.split_first().expect("a verdict on each");
        rest = after;
        (*accepted == 1).then(|| {
            let (length, after) = rest.split_first_chunk().unwrap();
            let (read, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            rest = after;
            by_prost(*root, read).expect("what upb writes is a message")
        })
    };
    let verdicts = cases.iter().map(verdict).collect();
    assert!(rest.is_empty());
    verdicts
}

/// The message that a question came from.
fn message(question: AuthorizeInput<'_>) -> AuthorizeRequest {
    let operation = match question.operation {
        RequestedOperation::Nothing => None,
        RequestedOperation::Scope(name) => Some(Operation::Scope(name.to_owned())),
        RequestedOperation::Http { method, path } => Some(Operation::Http(HttpOperation {
            method: method.to_owned(),
            path: path.to_owned(),
        })),
        RequestedOperation::Ambiguous(_) => panic!("no message says that"),
    };
    AuthorizeRequest {
        token: String::from_utf8(question.token.to_vec()).expect("text"),
        client_ip: question.client_ip.to_owned(),
        dry_run: question.dry_run,
        at_least_as_fresh: question.at_least_as_fresh,
        operation,
    }
}

/// Numbers that are the same at every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    /// True once in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// A message of a root that holds questions, most of them mutated.
fn case(random: &mut Random) -> (Root, Vec<u8>) {
    let root = ROOTS[random.below(3)];
    let mut fields = match root {
        Root::Single => request(random),
        _ => {
            let mut fields = Vec::new();
            for _ in 0..random.below(4) {
                let mut item = request(random);
                mutate_fields(random, &mut item);
                // The parts of one message, or two messages, by the root.
                let parts = if random.once_in(3) { split(random, item) } else { vec![item] };
                fields.extend(parts.into_iter().map(|part| {
                    let bytes = written(random, &part);
                    field(random, 1, &bytes)
                }));
            }
            fields
        }
    };
    mutate_fields(random, &mut fields);
    let mut bytes = written(random, &fields);
    mutate_bytes(random, &mut bytes);
    (root, bytes)
}

/// The bytes of fields one after the other.
fn written(random: &mut Random, fields: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = fields.concat();
    if random.once_in(20) {
        mutate_bytes(random, &mut bytes);
    }
    bytes
}

/// The fields of an `AuthorizeRequest`, each written out.
fn request(random: &mut Random) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    for _ in 0..random.below(6) {
        let next = match random.below(6) {
            0 => text(random, 1),
            1 => text(random, 2),
            2 => text(random, 3),
            3 | 4 => {
                let mut http: Vec<_> = (0..random.below(4))
                    .map(|_| {
                        let number = 1 + random.below(2) as u32;
                        text(random, number)
                    })
                    .collect();
                mutate_fields(random, &mut http);
                let http = written(random, &http);
                field(random, 4, &http)
            }
            _ => {
                let number = 5 + random.below(2) as u32;
                let mut bytes = key(random, number, 0);
                bytes.extend(varint(random, false));
                bytes
            }
        };
        fields.push(next);
    }
    fields
}

fn text(random: &mut Random, number: u32) -> Vec<u8> {
    let good: &[&[u8]] =
        &[b"", b"A", b"GET", b"/cards/42", "bücher".as_bytes(), b"\0", &[b'x'; 200]];
    let bad: &[&[u8]] = &[
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"GET\xe2\x82",
        b"\x80",
        // Text once more bytes follow.
        b"\xf0\x9f\x98",
    ];
    let bytes = if random.once_in(20) { random.pick(bad) } else { random.pick(good) };
    field(random, number, bytes)
}

/// A field with a length.
fn field(random: &mut Random, number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = key(random, number, 2);
    let length = match random.below(200) {
        0 => bytes.len() as u64 + 1,
        1 => (bytes.len() as u64).saturating_sub(1),
        2 => bytes.len() as u64 | 1 << 32,
        3 => u64::MAX - random.below(3) as u64,
        4 => i32::MAX as u64 + random.below(2) as u64,
        _ => bytes.len() as u64,
    };
    field.extend(spelled(random, length));
    field.extend_from_slice(bytes);
    field
}

fn key(random: &mut Random, number: u32, kind: u8) -> Vec<u8> {
    let kind = if random.once_in(200) { random.below(8) as u8 } else { kind };
    let number = if random.once_in(200) { random.below(9) as u32 } else { number };
    let key = u64::from(number) << 3 | u64::from(kind);
    let key = if random.once_in(300) { key | 1 << (32 + random.below(32)) } else { key };
    spelled(random, key)
}

/// A varint, sometimes longer than it needs to be.
fn spelled(random: &mut Random, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(value, &mut bytes);
    if random.once_in(30) {
        for _ in 0..random.below(11) {
            *bytes.last_mut().unwrap() |= 0x80;
            bytes.push(0);
        }
    }
    bytes
}

/// The value of a varint field, around every boundary; `wild` ones may not be varints at all.
fn varint(random: &mut Random, wild: bool) -> Vec<u8> {
    let value = match random.below(4) {
        0 => random.below(3) as u64,
        1 => 1 << random.below(64),
        2 => (1 << random.below(64)) - 1,
        _ => u64::MAX,
    };
    let mut bytes = spelled(random, value);
    if wild || random.once_in(10) {
        bytes = vec![0x80 | random.below(128) as u8; 8 + random.below(4)];
        bytes.push(random.below(128) as u8);
    }
    bytes
}

/// A field that the contract does not know, of any wire type.
fn unknown(random: &mut Random, depth: usize) -> Vec<u8> {
    const NUMBERS: [u32; 6] = [7, 8, 15, 16, 1_000, (1 << 29) - 1];
    let number = NUMBERS[random.below(NUMBERS.len())];
    let kind = random.below(if depth == 0 { 3 } else { 5 });
    match kind {
        0 => {
            let wild = random.once_in(8);
            [key(random, number, 0), varint(random, wild)].concat()
        }
        1 => [key(random, number, 5), vec![0xff; 4]].concat(),
        2 => [key(random, number, 1), vec![0xff; 8]].concat(),
        3 => field(random, number, b"\xff\xfe"),
        _ => {
            let mut group = key(random, number, 3);
            for _ in 0..random.below(3) {
                // Also known fields, which mean nothing in there.
                let inner =
                    if random.once_in(3) { text(random, 3) } else { unknown(random, depth - 1) };
                group.extend(inner);
            }
            group.extend(key(random, number, 4));
            group
        }
    }
}

/// Groups about as deep as any implementation reads them.
fn deep(random: &mut Random) -> Vec<u8> {
    let depth = 96 + random.below(8);
    let inner: &[u8] = random.pick(&[&b""[..], b"\x38\x01", b"\x3a\x01\xff"]);
    [&vec![0x3b; depth][..], inner, &vec![0x3c; depth]].concat()
}

/// Changes of whole fields.
fn mutate_fields(random: &mut Random, fields: &mut Vec<Vec<u8>>) {
    while random.once_in(3) {
        let at = random.below(fields.len() + 1);
        match random.below(7) {
            0 | 1 => fields.insert(at, unknown(random, 3)),
            2 if random.once_in(3) => fields.insert(at, deep(random)),
            3 if at < fields.len() => {
                let again = fields[at].clone();
                fields.insert(random.below(fields.len() + 1), again);
            }
            4 if at < fields.len() => {
                let other = random.below(fields.len());
                fields.swap(at, other);
            }
            5 if at < fields.len() => drop(fields.remove(at)),
            6 if at < fields.len() && fields[at].len() > 1 && random.once_in(4) => {
                let cut = 1 + random.below(fields[at].len() - 1);
                let rest = fields[at].split_off(cut);
                fields.insert(at + 1, rest);
            }
            _ => {}
        }
    }
}

/// Divides the fields of a message in two or three, now and then within a field.
fn split(random: &mut Random, fields: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut parts = vec![fields];
    for _ in 0..1 + random.below(2) {
        let last = parts.last_mut().unwrap();
        let at = random.below(last.len() + 1);
        let mut rest = last.split_off(at);
        if random.once_in(3) && rest.first().is_some_and(|field| field.len() > 1) {
            let cut = 1 + random.below(rest[0].len() - 1);
            let tail = rest[0].split_off(cut);
            last.push(std::mem::replace(&mut rest[0], tail));
        }
        parts.push(rest);
    }
    parts
}

/// Changes of bytes that know nothing of fields.
fn mutate_bytes(random: &mut Random, bytes: &mut Vec<u8>) {
    while random.once_in(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            3 => bytes.insert(at, random.below(256) as u8),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {}
        }
    }
}
