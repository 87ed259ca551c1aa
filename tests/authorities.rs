//! Any `:authority` that a gRPC client sends: by hand, and by clients in other languages.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use crate::support::frames::{DATA, END_STREAM, HEADERS, RST_STREAM, Wire, field, prefix};
use crate::support::server::{Server, Setup};
use crate::support::tools;

const AUTHORITIES: [&str; 12] = [
    "localhost",
    "127.0.0.1:50051",
    "127.0.0.1:1%2C127.0.0.1:2",
    "[::1]:50051%2C[::1]:50052",
    "",
    "/run/portcullis.sock",
    "%2Frun%2Fportcullis.sock",
    "10.0.0.1:1,10.0.0.2:2",
    "user@",
    "a b",
    "bücher.example",
    "a^b{c}\\d\"e<f>",
];

/// The header block of a call of the health service. `authority` is how that field is written.
fn head(authority: &[u8]) -> Vec<u8> {
    let mut block = [&[0x83, 0x86][..], authority].concat();
    block.extend(field(":path", b"/grpc.health.v1.Health/Check"));
    block.extend(field("content-type", b"application/grpc"));
    block.extend(field("te", b"trailers"));
    block
}

fn is_answered(wire: &mut Wire, block: &[u8], what: &str) {
    let stream = wire.call(block, &prefix(0), END_STREAM).unwrap();
    let end = wire.until(|frame| frame.stream == stream && frame.kind != HEADERS);
    assert_ne!(end.kind, RST_STREAM, "{what}");
    assert_eq!(
        (end.kind, &end.payload[..]),
        (DATA, &b"\0\0\0\0\x02\x08\x01"[..]),
        "{what}: SERVING"
    );
}

#[test]
fn every_authority_is_accepted_however_it_is_written() {
    let server = Setup::sqlite().start();
    for authority in AUTHORITIES {
        let value = [&[u8::try_from(authority.len()).unwrap()], authority.as_bytes()].concat();
        for (first, reference) in [
            // Put into the table, and referred to then; by the name's number and by its name.
            (vec![0x41], Some(0xbe)),
            (b"\x40\x0a:authority".to_vec(), Some(0xbe)),
            (b"\x40\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f".to_vec(), Some(0xbe)),
            // Not put into it.
            (vec![0x01], None),
            (vec![0x11], None),
            (b"\x00\x0a:authority".to_vec(), None),
        ] {
            let what = format!("{authority:?} as {first:x?}");
            let mut wire = Wire::connect(server.grpc(), 1).unwrap();
            let written = [first, value.clone()].concat();
            is_answered(&mut wire, &head(&written), &what);
            for _ in 0..3 {
                let again = reference.map_or(written.clone(), |index| vec![index]);
                is_answered(&mut wire, &head(&again), &what);
            }
            // Others on the same connection, such as a proxy has.
            is_answered(&mut wire, &head(b"\x41\x09localhost"), &what);
            is_answered(&mut wire, &head(b"\x81"), &what);
            is_answered(&mut wire, &head(b""), &what);
            is_answered(&mut wire, &head(b"\xbe"), &what);
        }
    }
    assert!(!server.log().contains("panic"), "{}", server.log());
}

/// Calls over a Unix socket before `server`.
fn unix(server: SocketAddr, path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(server).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let (mut from, mut to) = (server, client);
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
}

fn reaches(mut client: std::process::Command, script: &str, server: &Server) {
    let home = tempfile::TempDir::with_prefix("portcullis-test-").unwrap();
    let socket = home.path().join("a.sock");
    unix(server.grpc(), &socket);
    let address = server.grpc();
    let said = tools::succeed(
        client
            .arg(tools::source(script))
            .env("TEST_CREDENTIAL", server.operator())
            .arg(format!("ipv4:{address}"))
            .arg(format!("ipv4:{address},{address}"))
            .arg(format!("unix:{}", socket.display()))
            .arg(format!("dns:///localhost:{}", address.port())),
    );
    assert_eq!(said, "answered\n".repeat(4));
}

#[test]
fn python_clients_reach_it_by_several_addresses_and_a_unix_socket() {
    reaches(tools::python(), "tests/clients/python/targets.py", &Setup::sqlite().start());
}

#[test]
fn node_clients_reach_it_by_several_addresses_and_a_unix_socket() {
    reaches(tools::node(), "tests/clients/node/targets.js", &Setup::sqlite().start());
}
