//! Requests against prost, and each rule of the reader by example. `tests/protobuf.rs` has many more,
//! and a second implementation.

use proptest::prelude::*;

use super::*;

use pb::authorize_request::Operation;

/// The message that a question came from.
fn message(question: AuthorizeInput<'_>) -> pb::AuthorizeRequest {
    let operation = match question.operation {
        RequestedOperation::Nothing => None,
        RequestedOperation::Scope(name) => Some(Operation::Scope(name.to_owned())),
        RequestedOperation::Http { method, path } => Some(Operation::Http(pb::HttpOperation {
            method: method.to_owned(),
            path: path.to_owned(),
        })),
        RequestedOperation::Ambiguous(_) => panic!("no message says that"),
    };
    pb::AuthorizeRequest {
        token: String::from_utf8(question.token.to_vec()).unwrap(),
        client_ip: question.client_ip.to_owned(),
        dry_run: question.dry_run,
        at_least_as_fresh: question.at_least_as_fresh,
        operation,
    }
}

fn read(bytes: &[u8]) -> Result<pb::AuthorizeRequest> {
    parse(bytes).map(message)
}

fn operation() -> impl Strategy<Value = Option<Operation>> {
    prop_oneof![
        Just(None),
        ".{0,10}".prop_map(|name| Some(Operation::Scope(name))),
        (".{0,10}", ".{0,200}").prop_map(|(method, path)| {
            Some(Operation::Http(pb::HttpOperation { method, path }))
        }),
    ]
}

prop_compose! {
    fn request()(
        token in ".{0,100}", client_ip in ".{0,40}", operation in operation(), dry_run: bool,
        at_least_as_fresh: i64
    ) -> pb::AuthorizeRequest {
        pb::AuthorizeRequest { token, client_ip, dry_run, operation, at_least_as_fresh }
    }
}

proptest! {
    /// Also two messages one after the other, which protobuf reads as one (merging).
    #[test]
    fn questions_read_as_the_library_reads_them(first in request(), second in request()) {
        let mut bytes = first.encode_to_vec();
        prop_assert_eq!(read(&bytes).unwrap(), first);
        second.encode(&mut bytes).unwrap();
        let merged = pb::AuthorizeRequest::decode(&bytes[..]).unwrap();
        prop_assert_eq!(read(&bytes).unwrap(), merged);
    }

    #[test]
    fn what_the_library_refuses_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(read) = read(&bytes) {
            prop_assert_eq!(read, pb::AuthorizeRequest::decode(&bytes[..]).unwrap());
        }
    }

    #[test]
    fn a_cut_or_changed_question_panics_nowhere(request in request(), at: usize, to: u8) {
        let mut bytes = request.encode_to_vec();
        if !bytes.is_empty() {
            let at = at % bytes.len();
            let _ = read(&bytes[..at]);
            bytes[at] = to;
            let _ = read(&bytes);
        }
    }
}

#[test]
fn a_fault_is_placed_as_the_contract_names_it() {
    let errors: Vec<String> = [
        &[0x08, 1][..],
        &[0x12, 2, 0xff, 0xfe],
        &[0x22, 3, 0x0a, 1, 0xff],
        &[0x22, 2, 0x12, 9],
        &[0x1a, 200],
        &[0x28],
        &[0x2a, 0],
        &[0x30],
        &[0x32, 0],
        &[0x07],
        &[0x22, 1, 0x07],
        // All of them, and each once.
        &[0x12, 1, 0xff, 0x0a, 1, 0xff, 0x0a, 1, 0xff],
    ]
    .map(|bytes| parse(bytes).map(drop).unwrap_err().to_string())
    .to_vec();
    insta::assert_snapshot!(errors.join("\n"), @r"
    token: has another type on the wire than the contract says
    client_ip: is not UTF-8
    http.method: is not UTF-8
    http.path: is cut off
    scope: is cut off
    dry_run: is cut off
    dry_run: has another type on the wire than the contract says
    at_least_as_fresh: is cut off
    at_least_as_fresh: has another type on the wire than the contract says
    the request is no message: a field is cut off or unknown to protobuf
    http: the request is no message: a field is cut off or unknown to protobuf
    token: is not UTF-8; client_ip: is not UTF-8
    ");
}

/// `bytes` as the value of a field.
fn within(key: u8, bytes: &[u8]) -> Vec<u8> {
    [&[key, bytes.len() as u8][..], bytes].concat()
}

/// So many groups of the unknown field 7, one within the other, around `inner`.
fn groups(depth: usize, inner: &[u8]) -> Vec<u8> {
    [&vec![0x3b; depth][..], inner, &vec![0x3c; depth]].concat()
}

#[test]
fn what_protobuf_refuses_is_refused() {
    let overlong =
        |last: &[u8], length: usize| [&last[..1], &vec![0x80; length - 2], &[0x00]].concat();
    for (what, bytes) in [
        ("a key of six bytes", [&overlong(&[0x9a], 6)[..], &[1, b'A']].concat()),
        ("a key of ten bytes", [&overlong(&[0x9a], 10)[..], &[1, b'A']].concat()),
        ("a key of 33 bits", vec![0x9a, 0x80, 0x80, 0x80, 0x10, 1, b'A']),
        ("a length of six bytes", [&[0x1a][..], &overlong(&[0x81], 6), b"A"].concat()),
        ("a length of 33 bits", vec![0x1a, 0x81, 0x80, 0x80, 0x80, 0x10, b'A']),
        ("an unknown field's length of six bytes", [&[0x3a], &overlong(&[0x80], 6)[..]].concat()),
        ("a flag of 65 bits", [&[0x28][..], &[0x80; 9], &[0x02]].concat()),
        ("a flag of eleven bytes", [&[0x28][..], &[0x80; 10], &[0x01]].concat()),
        ("a revision of 65 bits", [&[0x30][..], &[0xff; 9], &[0x7f]].concat()),
        ("an unknown varint of 65 bits", [&[0x38][..], &[0xff; 9], &[0x7f]].concat()),
        ("field 0", vec![0x00, 0x01]),
        ("field 0 in a group", groups(1, &[0x00, 0x01])),
        ("wire type 6", vec![0x36, 1]),
        ("wire type 7", vec![0x37, 1]),
        ("a group without an end", vec![0x3b]),
        ("a group with the end of another", vec![0x3b, 0x43, 0x3c, 0x44]),
        ("an end without a group", vec![0x3c]),
        ("a group for a text", vec![0x1b, 0x1c]),
        ("101 groups", groups(101, &[])),
        ("100 groups around a field", groups(100, &[0x38, 1])),
        ("100 groups in http", [&[0x22, 200, 1][..], &groups(100, &[])].concat()),
        ("a group that ends behind its message", vec![0x22, 1, 0x3b, 0x3c]),
        ("replaced text", vec![0x1a, 1, 0xff, 0x1a, 1, b'A']),
        ("replaced text of a oneof", vec![0x1a, 1, 0xff, 0x22, 0]),
        ("a replaced token", vec![0x0a, 1, 0xff, 0x0a, 1, b'A']),
        ("a token", vec![0x0a, 1, 0xff]),
        ("a surrogate", vec![0x1a, 3, 0xed, 0xa0, 0x80]),
        ("a NUL of two bytes", vec![0x1a, 2, 0xc0, 0x80]),
        ("parts that are whole together alone", vec![0x22, 2, 0x0a, 2, 0x22, 2, b'A', b'B']),
    ] {
        assert!(parse(&bytes).is_err(), "{what}: {bytes:x?}");
        assert!(parse_batch_item(&bytes).is_err(), "{what} in a batch: {bytes:x?}");
        if bytes.len() < 0x80 {
            assert!(
                parse_stream_item(&within(0x0a, &bytes)).is_err(),
                "{what} in a stream: {bytes:x?}"
            );
        }
    }
}

#[test]
fn what_protobuf_accepts_is_accepted() {
    let scope = |name: &str| Some(Operation::Scope(name.to_owned()));
    let http = |method: &str, path: &str| {
        let (method, path) = (method.to_owned(), path.to_owned());
        Some(Operation::Http(pb::HttpOperation { method, path }))
    };
    for (what, bytes, operation) in [
        ("a long key", vec![0x9a, 0x80, 0x80, 0x80, 0x00, 1, b'A'], scope("A")),
        ("a long length", vec![0x1a, 0x81, 0x80, 0x80, 0x80, 0x00, b'A'], scope("A")),
        ("groups", groups(99, &[0x38, 1]), None),
        ("more groups", groups(100, &[]), None),
        ("unknown bytes", vec![0x3a, 1, 0xff], None),
        ("a negative revision", [&[0x30][..], &[0xff; 9], &[0x01]].concat(), None),
        ("an unknown varint", [&[0x38][..], &[0xff; 9], &[0x01]].concat(), None),
        ("an unknown fixed32", vec![0x3d, 1, 2, 3, 4], None),
        ("an unknown fixed64", vec![0x39, 1, 2, 3, 4, 5, 6, 7, 8], None),
        ("the largest number", vec![0xf8, 0xff, 0xff, 0xff, 0x0f, 0x01], None),
        ("parts", vec![0x22, 3, 0x0a, 1, b'A', 0x22, 3, 0x12, 1, b'B'], http("A", "B")),
        ("http, then scope", vec![0x22, 3, 0x0a, 1, b'A', 0x1a, 1, b'B'], scope("B")),
        (
            "http, scope, http",
            vec![0x22, 3, 0x0a, 1, b'A', 0x1a, 1, b'B', 0x22, 3, 0x12, 1, b'C'],
            http("", "C"),
        ),
        ("an empty http", vec![0x22, 0], http("", "")),
    ] {
        assert_eq!(read(&bytes).unwrap().operation, operation, "{what}");
    }
}

/// The parts of the request of a stream's item are merged, and each is whole by itself.
#[test]
fn parts_of_a_streamed_request_are_merged_and_not_joined() {
    let whole = b"\x0a\x05token\x1a\x06scopes";
    for cut in 1..whole.len() {
        let (first, second) = whole.split_at(cut);
        let parts = [within(0x0a, first), within(0x0a, second)].concat();
        let library = pb::StreamAuthorizeRequest::decode(&parts[..]);
        match parse_stream_item(&parts) {
            Ok(read) => assert_eq!(Some(message(read)), library.unwrap().request),
            Err(_) => assert!(library.is_err(), "cut at {cut}: {library:?}"),
        }
        assert_eq!(parse_stream_item(&parts).is_ok(), cut == 7, "cut at {cut}");
    }
    let none = parse_stream_item(&[]).map(drop).unwrap_err().to_string();
    assert_eq!(none, "request: is required");
}
