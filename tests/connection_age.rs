//! Connections end in order when they are old, so that replicas behind a balancer of connections share the load. Rule
//! 8.15 of docs/policy.md.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use portcullis::grpc::proto::StreamAuthorizeRequest;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::client::Client;
use crate::support::server::Setup;
use crate::support::tools;

fn short_lived() -> Setup {
    Setup::sqlite().flag("--max-connection-age", "1s").flag("--max-connection-age-grace", "1s")
}

#[test]
fn no_call_fails_while_connections_are_replaced() {
    let server = short_lived().start();
    let mut client = tools::python();
    client.arg(tools::source("tests/clients/python/steady.py"));
    let printed = tools::succeed(client.args([&server.grpc().to_string(), "4"]));
    println!("{printed}");
}

#[tokio::test]
async fn stream_goes_on_for_the_grace_and_ends_as_unavailable() {
    let server = short_lived().start();
    let client = Client::operator(&server).await;
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let request = StreamAuthorizeRequest::default;
    ask.send(request()).await.unwrap();
    let mut authorization = client.authorization();
    let stream = authorization.stream_authorize(ReceiverStream::new(asked));
    let mut answers = stream.await.unwrap().into_inner();
    let ended = loop {
        match answers.message().await {
            Ok(Some(_)) => drop(ask.send(request()).await),
            Ok(None) => panic!("the end looks like an orderly one"),
            Err(ended) => break ended,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert!(ended.message().contains("open the stream again"), "{ended:?}");
    // Over a new connection, by itself.
    client.account().await;
}

#[test]
fn gateway_is_notified_with_an_answer_before_its_connection_is_closed() {
    let server = short_lived().gateways().start();
    let mut stream = BufReader::new(TcpStream::connect(server.gateway()).unwrap());
    let mut answers = 0;
    loop {
        let request = b"GET /self HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.get_mut().write_all(request).expect("the connection is open");
        let (mut close, mut length) = (false, 0);
        loop {
            let mut line = String::new();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0, "closed before an answer");
            let line = line.trim_end().to_ascii_lowercase();
            close |= line == "connection: close";
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).unwrap();
        answers += 1;
        if close {
            break;
        }
    }
    assert!(answers > 1, "the first answer closed the connection");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed after the answer that says so");
}
