//! Bad requests, made from good ones: every field of a message with every kind of wrong value, and
//! bytes that are no message at all.

use std::collections::HashMap;

use prost::Message as _;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};

/// One bad request.
pub struct Fault {
    /// The field at fault, such as `replace.entries`.
    pub field: String,
    /// What is wrong with it, in a few words.
    pub what: &'static str,
    /// Whether the bytes themselves are wrong, rather than a value.
    pub encoding: bool,
    /// The request.
    pub bytes: Vec<u8>,
}

const MANY: u32 = 10_000;
/// Larger than any field may be, and smaller than a message may be.
const LONG: usize = 1_000_000;
/// 0001-01-01T00:00:00Z, and the first second after 9999-12-31.
const TIMES: [i64; 2] = [-62_135_596_800, 253_402_300_800];

/// Wrong values for each field of `good`, one at a time.
pub fn wrong_values(good: &DynamicMessage) -> Vec<Fault> {
    let mut faults = Vec::new();
    for field in good.descriptor().fields() {
        // Of a oneof, and of messages within, each example has its own.
        let optional = field.containing_oneof().is_some() || field.kind().as_message().is_some();
        if optional && !field.is_list() && !good.has_field(&field) {
            continue;
        }
        for (below, what, value) in wrong(&field, &good.get_field(&field)) {
            let mut bad = good.clone();
            match value {
                Some(value) => bad.set_field(&field, value),
                None => bad.clear_field(&field),
            }
            let dot = if below.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{below}", field.name());
            faults.push(Fault { field: path, what, encoding: false, bytes: bad.encode_to_vec() });
        }
    }
    faults
}

/// Where below the field the fault is, what it is, and the field's value (none: left out).
type Wrong = (String, &'static str, Option<Value>);

fn wrong(field: &FieldDescriptor, good: &Value) -> Vec<Wrong> {
    let here = |what, value| (String::new(), what, Some(value));
    if field.is_map() {
        return wrong_map(good);
    }
    if field.is_list() {
        let items = good.as_list().unwrap_or_default();
        let first = items.first();
        let of_item = first.map_or_else(Vec::new, |item| wrong_item(field, item));
        let mut all: Vec<Wrong> = of_item
            .into_iter()
            .filter_map(|(below, what, item)| Some((below, what, Some(Value::List(vec![item?])))))
            .collect();
        all.push((String::new(), "left out", None));
        if let Some(Value::Message(_)) = first {
            let copies = vec![first.cloned().unwrap_or_else(|| unreachable!()); 1_001];
            all.push(here("1,001 items", Value::List(copies)));
        } else if let Some(Value::String(first)) = first {
            let many = (0..MANY).map(|n| Value::String(like(field.name(), n)));
            all.push(here("10,000 items", Value::List(many.collect())));
            let same = vec![Value::String(first.clone()); MANY as usize];
            all.push(here("10,000 times the same", Value::List(same)));
            let joined: Vec<_> = (0..MANY).map(|n| like(field.name(), n)).collect();
            let joined = Value::List(vec![Value::String(joined.join(","))]);
            all.push(here("10,000 items in one", joined));
        }
        return all;
    }
    let mut all = wrong_item(field, good);
    if matches!(good, Value::Message(_)) {
        all.push((String::new(), "left out", None));
    }
    all
}

/// Wrong keys, wrong values, and too many of both.
fn wrong_map(good: &Value) -> Vec<Wrong> {
    let Some((MapKey::String(key), Value::String(value))) =
        good.as_map().and_then(|map| map.iter().next())
    else {
        return Vec::new();
    };
    let one = |key: String, value: String| {
        Value::Map(HashMap::from([(MapKey::String(key), Value::String(value))]))
    };
    let many = (0..MANY).map(|n| (MapKey::String(format!("k{n}")), Value::String(String::new())));
    [
        ("empty key", one(String::new(), value.clone())),
        ("NUL in a key", one(with(key, "\0"), value.clone())),
        ("right-to-left override in a key", one(with(key, "\u{202e}"), value.clone())),
        ("key of 1 MB", one("a".repeat(LONG), value.clone())),
        ("NUL", one(key.clone(), with(value, "\0"))),
        ("right-to-left override", one(key.clone(), with(value, "\u{202e}"))),
        ("1 MB", one(key.clone(), "a".repeat(LONG))),
        ("10,000 items", Value::Map(many.collect())),
    ]
    .map(|(what, value)| (String::new(), what, Some(value)))
    .into()
}

/// The nth of many values that are all right by themselves.
fn like(field: &str, n: u32) -> String {
    match field {
        "admin_emails" => format!("a{n}@example.com"),
        "scopes" => format!("scope.{n}"),
        _ => std::net::Ipv4Addr::from(0x0a00_0001 + n).to_string(),
    }
}

fn wrong_item(field: &FieldDescriptor, good: &Value) -> Vec<Wrong> {
    let here = |(what, value)| (String::new(), what, Some(value));
    match good {
        Value::String(good) => [
            ("empty", String::new()),
            ("blank", " \t ".to_owned()),
            ("wrong", "neither this nor that".to_owned()),
            ("NUL", with(good, "\0")),
            ("control characters", with(good, "\u{7}\r\n\u{1b}[31m")),
            ("right-to-left override", with(good, "\u{202e}")),
            ("soft hyphen", with(good, "\u{ad}")),
            ("tag", with(good, "\u{e0041}")),
            ("invisible", "\u{3164}\u{2800}\u{200b}".to_owned()),
            ("not ASCII", "\u{ff11}\u{ff10}.\u{e9}\u{1f512}".to_owned()),
            ("1 MB", "a".repeat(LONG)),
            ("1 MB of NUL", "\0".repeat(LONG)),
            ("1 MB of commas", ",".repeat(LONG)),
        ]
        .map(|(what, text)| here((what, Value::String(text))))
        .into(),
        Value::EnumNumber(_) => [("unspecified", 0), ("unknown number", 99), ("negative", -1)]
            .map(|(what, number)| here((what, Value::EnumNumber(number))))
            .into(),
        Value::I32(_) => [("negative", -1), ("most negative", i32::MIN)]
            .map(|(what, number)| here((what, Value::I32(number))))
            .into(),
        Value::I64(_) => [("negative", -1), ("most negative", i64::MIN)]
            .map(|(what, number)| here((what, Value::I64(number))))
            .into(),
        Value::Message(message) if message.descriptor().full_name() == TIMESTAMP => [
            ("before year 1", TIMES[0] - 1, 0),
            ("after year 9999", TIMES[1], 0),
            ("latest", i64::MAX, 999_999_999),
            ("earliest", i64::MIN, 0),
            ("negative nanoseconds", 0, -1),
            ("a second of nanoseconds", 0, 1_000_000_000),
        ]
        .map(|(what, seconds, nanos)| {
            let mut time = message.clone();
            time.set_field_by_name("seconds", Value::I64(seconds));
            time.set_field_by_name("nanos", Value::I32(nanos));
            here((what, Value::Message(time)))
        })
        .into(),
        Value::Bytes(good) => {
            [("no bytes", 0), ("a byte less", good.len() - 1), ("a byte more", good.len() + 1)]
                .map(|(what, length)| here((what, Value::Bytes(vec![0; length].into()))))
                .into()
        }
        Value::Message(message) => fields_of(message),
        Value::Bool(_) => Vec::new(),
        other => panic!("{}: no wrong values for {other:?}: add some", field.full_name()),
    }
}

/// A good value with something bad in it.
fn with(good: &str, bad: &str) -> String {
    let good = if good.is_empty() { "ab" } else { good };
    let (first, rest) = good.split_at(good.chars().next().map_or(0, char::len_utf8));
    format!("{first}{bad}{rest}")
}

const TIMESTAMP: &str = "google.protobuf.Timestamp";

/// The same for each field of a message within.
fn fields_of(message: &DynamicMessage) -> Vec<Wrong> {
    let mut all = Vec::new();
    for fault in wrong_values(message) {
        let inner = DynamicMessage::decode(message.descriptor(), fault.bytes.as_slice());
        let inner = inner.expect("it was encoded here");
        all.push((fault.field, fault.what, Some(Value::Message(inner))));
    }
    all
}

/// Bytes that are no message of this kind, each with one field at fault, added to a good one.
pub fn wrong_bytes(message: &MessageDescriptor, good: &[u8]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (field, what, bad) in wrong_encodings(message) {
        faults.push(Fault { field, what, encoding: true, bytes: [good, &bad].concat() });
    }
    // The last byte of a message always belongs to its last field.
    let cut = good.split_last().map_or(&[0x0a, 5, b'a'][..], |(_, rest)| rest);
    for (what, bytes) in [("cut short", cut.to_owned()), ("no message", vec![0xff; 32])] {
        faults.push(Fault { field: String::new(), what, encoding: true, bytes });
    }
    faults
}

fn wrong_encodings(message: &MessageDescriptor) -> Vec<(String, &'static str, Vec<u8>)> {
    const VARINT: u32 = 0;
    const BYTES: u32 = 2;
    const FIXED32: u32 = 5;
    let mut all = Vec::new();
    for field in message.fields() {
        let key = |wire_type| varint(field.number() << 3 | wire_type);
        let name = || field.name().to_owned();
        let sized =
            |bytes: &[u8]| [key(BYTES), varint(bytes.len() as u32), bytes.to_vec()].concat();
        match field.kind() {
            Kind::String => {
                for bad in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80", b"\xc0\xaf"] {
                    all.push((name(), "invalid UTF-8", sized(bad)));
                }
                all.push((name(), "wrong wire type", [key(VARINT), vec![1]].concat()));
            }
            Kind::Message(within) => {
                all.push((name(), "wrong wire type", [key(VARINT), vec![1]].concat()));
                if within.full_name() != TIMESTAMP {
                    for (below, what, bad) in wrong_encodings(&within) {
                        // An error names the map: its entries are messages of the encoding only.
                        let path = match field.is_map() {
                            true => name(),
                            false => format!("{}.{below}", field.name()),
                        };
                        all.push((path, what, sized(&bad)));
                    }
                }
            }
            _ => {
                all.push((name(), "wrong wire type", [key(FIXED32), vec![1, 2, 3, 4]].concat()));
            }
        }
    }
    all
}

fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Every field that can be wrong, by its path.
pub fn paths(message: &MessageDescriptor) -> Vec<String> {
    let mut all = Vec::new();
    for field in message.fields() {
        match field.kind() {
            Kind::Bool if field.cardinality() != Cardinality::Repeated => {}
            _ if field.is_map() => all.push(field.name().to_owned()),
            Kind::Message(within) if within.full_name() != TIMESTAMP => {
                all.extend(paths(&within).iter().map(|below| format!("{}.{below}", field.name())));
                all.push(field.name().to_owned());
            }
            _ => all.push(field.name().to_owned()),
        }
    }
    all
}
