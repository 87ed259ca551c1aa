//! Request ids: the caller's own or a new one, in every error, in log lines about the request, and in the decision log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is the test's failure"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use portcullis::grpc::proto::authorize_request::Operation;
use portcullis::grpc::proto::{
    AuthorizeRequest, GetTokenRequest, StreamAuthorizeRequest, TokenKind,
};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::support::client::Client;
use crate::support::http::Http;
use crate::support::postgres;
use crate::support::server::{Server, Setup};
use crate::support::wait::until;

const ID: &str = "x-request-id";

fn with_id<T>(message: T, id: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(ID, id.parse().unwrap());
    request
}

/// The id that an error has in its metadata and in its details alike.
fn id_of(status: &Status) -> String {
    let id = status.metadata().get(ID).expect("an error has an id").to_str().unwrap().to_owned();
    assert_eq!(status.get_details_request_info().unwrap().request_id, id, "{status:?}");
    id
}

fn is_made(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// The lines of the log that have the id and begin their message with `message`.
fn lines(server: &Server, id: &str, message: &str) -> Vec<Value> {
    let lines = server.stderr();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let matches = |line: &Value| {
        line["request_id"] == id
            && line["message"].as_str().is_some_and(|text| text.starts_with(message))
    };
    lines.filter(matches).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_the_callers_id_or_a_new_one() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let missing = || GetTokenRequest { token_id: format!("tok_{}", "0".repeat(26)) };

    let refused = operator.tokens().get_token(with_id(missing(), "a \"b\"")).await.unwrap_err();
    assert_eq!(id_of(&refused), "a \"b\"");
    let refused = operator.tokens().get_token(missing()).await.unwrap_err();
    let first = id_of(&refused);
    let refused = operator.tokens().get_token(with_id(missing(), &"x".repeat(129))).await;
    let second = id_of(&refused.unwrap_err());
    assert!(is_made(&first) && is_made(&second) && first != second, "{first} {second}");

    // Of callers that are turned away, and of questions.
    let stranger = operator.anonymous();
    let refused = stranger.tokens().get_token(with_id(missing(), "stranger")).await.unwrap_err();
    assert_eq!(id_of(&refused), "stranger");
    let malformed = AuthorizeRequest { client_ip: "nowhere".to_owned(), ..scope("x") };
    let refused = operator.authorization().authorize(with_id(malformed.clone(), "question")).await;
    assert_eq!(id_of(&refused.unwrap_err()), "question");
    assert!(is_made(&id_of(&operator.authorization().authorize(malformed).await.unwrap_err())));
    let refused = operator.own().get_self(with_id(Default::default(), "own")).await.unwrap_err();
    assert_eq!(id_of(&refused), "own");

    // Successes repeat it; a decision has none where nothing needed one.
    let answer = operator.accounts().list_accounts(with_id(Default::default(), "list")).await;
    assert_eq!(answer.unwrap().metadata().get(ID).unwrap(), "list");
    let answer = operator.authorization().authorize(with_id(scope("x"), "decision")).await.unwrap();
    assert_eq!(answer.metadata().get(ID).unwrap(), "decision");
    let answer = operator.authorization().authorize(scope("x")).await.unwrap();
    assert!(answer.metadata().get(ID).is_none(), "{answer:?}");
    let message = StreamAuthorizeRequest { request: Some(scope("x")) };
    let stream = with_id(tokio_stream::iter([message]), "stream");
    let mut answers = operator.authorization().stream_authorize(stream).await.unwrap();
    assert_eq!(answers.metadata().get(ID).unwrap(), "stream");
    assert!(answers.get_mut().message().await.unwrap().is_some());
}

fn scope(token: &str) -> AuthorizeRequest {
    let operation = Some(Operation::Scope("transactions.read".to_owned()));
    AuthorizeRequest {
        token: token.to_owned(),
        client_ip: "192.0.2.1".to_owned(),
        operation,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_have_the_id_of_the_request_that_they_are_about() {
    let database = postgres::database();
    let server = Setup::postgres(&database).log("debug").start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let mut owner = PgConnection::connect(&database).await.unwrap();
    sqlx::query("ALTER TABLE token RENAME TO gone").execute(&mut owner).await.unwrap();

    let read = GetTokenRequest { token_id: token.token_id };
    let failed = operator.tokens().get_token(with_id(read, "managed")).await.unwrap_err();
    assert_eq!((failed.code(), id_of(&failed)), (Code::Internal, "managed".to_owned()));
    // Its token has to be read, which another task does.
    let failed = operator.authorization().authorize(scope(&secret)).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    let decided = id_of(&failed);
    let wrong = [("credential", "wrong")];
    let mut browser = Http::new(&server);
    let answer = browser.post("/sign-in", &wrong).says(401);
    let signed = answer.header(ID).unwrap().to_owned();
    for (id, message) in [
        ("managed", "the store answered what it should not"),
        (&decided, "cannot read the facts of a token"),
        (&signed, "an attempt to sign in failed"),
    ] {
        until(|| lines(&server, id, message).len(), |&count| count == 1);
    }
    let text = server.stderr();
    let started = text.lines().find(|line| line.contains("\"serving\"")).unwrap();
    assert!(!started.contains("request_id"), "no request is under way: {started}");
}

/// A gateway's client can name the id of what it was denied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_of_a_gateway_has_the_id_of_its_line_in_the_decision_log() {
    let home = TempDir::with_prefix("portcullis-ids-").unwrap();
    let log = home.path().join("decisions");
    let server = Setup::sqlite().switch("--dev").flag("--decision-log", &log).start();
    let ask = |id: &str| {
        let request = format!(
            "GET /forward-auth HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{id}\
             x-forwarded-method: GET\r\nx-forwarded-uri: /\r\n\r\n"
        );
        let mut stream = TcpStream::connect(server.gateway()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: "));
        id.expect("a denial has an id").to_owned()
    };
    let ids = [ask("x-request-id: gateway\r\n"), ask("")];
    assert!(ids[0] == "gateway" && is_made(&ids[1]), "{ids:?}");
    until(
        || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines
                .filter_map(|line| Some(line["request_id"].as_str()?.to_owned()))
                .collect::<Vec<_>>()
        },
        |logged| *logged == ids,
    );
}
