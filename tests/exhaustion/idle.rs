//! What does not arrive is given up, and what is idle is closed; what only waits is kept.

use portcullis::grpc::proto::TokenKind;

use super::{AUTHORIZE, BATCH, CHECK, REFLECTION, STREAM, WATCH, attack, begun};
use crate::support::client::{Client, question};
use crate::support::frames::{
    DATA, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, Wire, frame, head, prefix,
};
use crate::support::server::Setup;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_message_is_given_up_and_an_idle_stream_is_not() {
    let server = Setup::sqlite().start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (_, token) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let address = server.grpc();
    let authorization = format!("Bearer {}", server.operator());
    attack(move || {
        let known = [("authorization", authorization.as_str())];
        let mut wires = Vec::new();
        for (path, headers) in [
            (CHECK, &[][..]),
            (WATCH, &[]),
            (STREAM, &known),
            (AUTHORIZE, &known),
            (BATCH, &known),
            (REFLECTION, &known),
            ("/portcullis.v1.TokenService/GetToken", &known),
        ] {
            // Cut off within the message, and within what it begins with.
            for body in [begun(100, 99), vec![0, 0]] {
                let mut wire = Wire::connect(address, 1).unwrap();
                let stream = wire.call(&head(path, headers), &body, 0).unwrap();
                wires.push((path, wire, stream));
            }
        }
        let mut idle = Wire::connect(address, 1).unwrap();
        let message = {
            use prost::Message as _;
            portcullis::grpc::proto::StreamAuthorizeRequest {
                request: Some(question(&token, "192.0.2.1", "transactions.read")),
            }
            .encode_to_vec()
        };
        let message = [&prefix(u32::try_from(message.len()).unwrap())[..], &message].concat();
        let stream = idle.call(&head(STREAM, &known), &message, 0).unwrap();
        idle.until(|frame| frame.kind == DATA && frame.stream == stream);

        for (path, mut wire, stream) in wires {
            let ends = |frame: &Frame| {
                frame.stream == stream
                    && (frame.flags & END_STREAM != 0 && frame.kind <= HEADERS
                        || frame.kind == RST_STREAM)
            };
            let end = wire.until(ends);
            assert_eq!(end.kind, HEADERS, "{path} ends with a status");
        }
        // That took longer than a message may; between two messages there is no such limit.
        idle.send(&frame(DATA, 0, stream, &message)).unwrap();
        idle.until(|frame| frame.kind == DATA && frame.stream == stream);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_and_those_with_streams_are_not() {
    let setup = Setup::sqlite().flag("--grpc-idle", "1s");
    let server = setup.start();
    let client = Client::operator(&server).await;
    let address = server.grpc();
    let authorization = format!("Bearer {}", server.operator());
    attack(move || {
        let known = [("authorization", authorization.as_str())];
        let mut silent = Wire::connect(address, 1).unwrap();
        let mut watches = Wire::connect(address, 1).unwrap();
        let watch = watches.call(&head(WATCH, &[]), &prefix(0), END_STREAM).unwrap();
        watches.until(|frame| frame.kind == DATA && frame.stream == watch);
        let mut asks = Wire::connect(address, 1).unwrap();
        asks.call(&head(STREAM, &known), &[], 0).unwrap();
        let goes = silent.until(|frame| frame.kind == GOAWAY);
        assert_eq!(goes.payload[4..8], [0; 4], "no error");
        assert!(silent.is_closed());
        let mut later = Wire::connect(address, 1).unwrap();
        later.until(|frame| frame.kind == GOAWAY);
        for mut wire in [watches, asks] {
            let another = wire.call(&head(CHECK, &[]), &prefix(0), END_STREAM).unwrap();
            let answer = wire.until(|frame| frame.stream == another || frame.kind == GOAWAY);
            assert_eq!(answer.kind, HEADERS, "a connection with an open stream was idle");
        }
    })
    .await;
    // A client connects again by itself.
    client.account().await;
}
