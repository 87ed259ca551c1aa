//! Requests in gzip: read as others are, with a bound on what they inflate to. Rule 2.27 of docs/policy.md.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]
#![allow(clippy::disallowed_methods, reason = "a connection is served beside its test")]

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, CreateAccountRequest, StreamAuthorizeRequest,
    authorize_request,
};
use prost::Message;
use tokio::net::TcpStream;

use crate::support::server::{Server, Setup};
use crate::support::tools;

const AUTHORIZE: &str = "/portcullis.v1.AuthorizationService/Authorize";
const BATCH: &str = "/portcullis.v1.AuthorizationService/BatchAuthorize";
const STREAM: &str = "/portcullis.v1.AuthorizationService/StreamAuthorize";
const CREATE_ACCOUNT: &str = "/portcullis.v1.AccountService/CreateAccount";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Codes of gRPC.
const OK: &str = "0";
const INVALID_ARGUMENT: &str = "3";
const RESOURCE_EXHAUSTED: &str = "8";
const UNIMPLEMENTED: &str = "12";

fn question(token: &str) -> AuthorizeRequest {
    let operation = authorize_request::Operation::Scope("transactions.read".to_owned());
    AuthorizeRequest { token: token.to_owned(), operation: Some(operation), ..Default::default() }
}

fn account() -> CreateAccountRequest {
    let admin_emails = vec!["ann@acme.example".to_owned()];
    CreateAccountRequest { name: "a".repeat(60), admin_emails }
}

fn streamed(token: &str) -> StreamAuthorizeRequest {
    StreamAuthorizeRequest { request: Some(question(token)) }
}

#[test]
fn client_that_compresses_is_answered() {
    let server = Setup::sqlite().start();
    let token = "a".repeat(200);
    let batch = BatchAuthorizeRequest { requests: vec![question(&token); 100] };
    let calls = [
        (HEALTH, Vec::new()),
        (AUTHORIZE, question(&token).encode_to_vec()),
        (BATCH, batch.encode_to_vec()),
        (STREAM, streamed(&token).encode_to_vec()),
        (CREATE_ACCOUNT, account().encode_to_vec()),
    ];
    let calls = calls.map(|(path, message)| {
        let digits = message.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        format!("{path}={digits}")
    });
    let mut client = tools::python();
    client.arg(tools::source("tests/clients/python/compressed.py"));
    client.arg(server.grpc().to_string()).args(calls);
    println!("{}", tools::succeed(client.env("TEST_CREDENTIAL", server.operator())));
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// A connection that sends any bytes as a message.
struct Caller {
    sender: SendRequest<Full<Bytes>>,
    authorization: String,
}

impl Caller {
    async fn connect(server: &Server) -> Self {
        let stream = TokioIo::new(TcpStream::connect(server.grpc()).await.unwrap());
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        Self { sender, authorization: format!("Bearer {}", server.operator()) }
    }

    /// Sends one message with a compressed flag, and gives the headers of the answer and its trailers together.
    async fn call(&mut self, path: &str, encoding: Option<&str>, message: &[u8]) -> HeaderMap {
        let mut body = BytesMut::new();
        body.put_u8(1);
        body.put_u32(u32::try_from(message.len()).unwrap());
        body.put_slice(message);
        let mut request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", &self.authorization);
        if let Some(encoding) = encoding {
            request = request.header("grpc-encoding", encoding);
        }
        let request = request.body(Full::new(body.freeze())).unwrap();
        let answer = self.sender.send_request(request).await.expect("an answer");
        let mut fields = answer.headers().clone();
        let body = answer.into_body().collect().await.expect("all of the answer");
        fields.extend(body.trailers().cloned().unwrap_or_default());
        fields
    }
}

#[tokio::test]
async fn messages_are_read_in_gzip_and_refused_in_any_other_encoding() {
    let server = Setup::sqlite().start();
    let mut caller = Caller::connect(&server).await;
    let token = "a".repeat(200);
    let ordinary = compressed(&question(&token).encode_to_vec());
    // On the thread of the connection, and apart from it.
    let large = compressed(&question(&"a".repeat(1 << 20)).encode_to_vec());
    let batch = BatchAuthorizeRequest { requests: vec![question(&token); 1_000] };
    let item = compressed(&streamed(&token).encode_to_vec());
    let (batch, account) = (batch.encode_to_vec(), compressed(&account().encode_to_vec()));
    let empty = compressed(b"");
    let (gzip, cut_off) = (Some("gzip"), &ordinary[..ordinary.len() - 4]);
    let two = [&ordinary[..], &ordinary].concat();
    for (what, path, encoding, message, wanted) in [
        ("a question", AUTHORIZE, gzip, &ordinary[..], OK),
        ("a large question", AUTHORIZE, gzip, &large, OK),
        ("a batch", BATCH, gzip, &compressed(&batch), OK),
        ("an item of a stream", STREAM, gzip, &item, OK),
        ("a management call", CREATE_ACCOUNT, gzip, &account, OK),
        ("health", HEALTH, gzip, &empty, OK),
        ("cut off", AUTHORIZE, gzip, cut_off, INVALID_ARGUMENT),
        ("two in gzip as one", AUTHORIZE, gzip, &two, INVALID_ARGUMENT),
        ("no gzip", CREATE_ACCOUNT, gzip, b"hello", INVALID_ARGUMENT),
        ("another encoding", AUTHORIZE, Some("deflate"), &ordinary, UNIMPLEMENTED),
        ("another encoding of a batch", BATCH, Some("br"), &batch, UNIMPLEMENTED),
        ("another encoding of a stream", STREAM, Some("snappy"), &item, UNIMPLEMENTED),
        ("another encoding of management", CREATE_ACCOUNT, Some("zstd"), &account, UNIMPLEMENTED),
        ("none named", AUTHORIZE, None, &ordinary, UNIMPLEMENTED),
        ("reflection", REFLECTION, gzip, &empty, UNIMPLEMENTED),
    ] {
        let fields = caller.call(path, encoding, message).await;
        assert_eq!(fields["grpc-status"], wanted, "{what}: {fields:?}");
        if wanted == UNIMPLEMENTED {
            assert_eq!(fields["grpc-accept-encoding"], "identity,gzip", "{what}: {fields:?}");
        }
    }
}

#[tokio::test]
async fn bombs_are_refused_and_keep_no_memory() {
    let server = Setup::sqlite().start();
    let mut caller = Caller::connect(&server).await;
    // Each would be 32 MiB.
    let bomb = compressed(&vec![0; 32 << 20]);
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    caller.call(AUTHORIZE, Some("gzip"), &bomb).await;
    let before = server.memory("VmHWM");
    for path in [AUTHORIZE, BATCH, STREAM, CREATE_ACCOUNT, HEALTH] {
        for _ in 0..20 {
            let fields = caller.call(path, Some("gzip"), &bomb).await;
            assert_eq!(fields["grpc-status"], RESOURCE_EXHAUSTED, "{path}: {fields:?}");
        }
    }
    let grown = server.memory("VmHWM") - before;
    // All together would be 3 GiB. Each thread that inflates keeps some MiB of what it once had.
    assert!(grown < 100 << 10, "{grown} KiB more");
}
