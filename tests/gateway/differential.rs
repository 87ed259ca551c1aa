//! Forward auth against `Authorize`, for requests that nobody has thought of.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, HttpOperation, authorize_request,
    batch_authorize_result,
};

use super::stage::{INSIDE, OUTSIDE, Stage, bearer};
use crate::support::client::question;

/// Numbers that are the same at every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// What paths are made of: pieces of routes, and what servers read in different ways.
const PIECES: &[&str] = &[
    "/api/v1/transactions",
    "/api/v1/cards",
    "/api/v1",
    "/transactions",
    "/cards",
    "/reveal",
    "/7",
    "/",
    "//",
    "/.",
    "/..",
    "/%2e%2e",
    "%2F",
    "%5C",
    "%252F",
    "%73",
    "%00",
    "%",
    "%zz",
    ";x",
    "%3B",
    "?a=b",
    "?",
    "%3F",
    "#",
    "%23",
    "\\",
    ".json",
    ".",
    "%20",
    "a",
    "A",
    "\u{e9}",
    "%C3%A9",
    "%FF",
    "\u{ff0f}",
    "\u{2024}",
    "{id}",
    "*",
    "'",
    "\"",
    "|",
    "~",
];

const METHODS: &[&str] =
    &["GET", "GET", "POST", "HEAD", "PUT", "DELETE", "get", "OPTIONS", "G", "GE T"];

/// Rules 9.10 and 9.13 of docs/policy.md.
#[tokio::test(flavor = "multi_thread")]
async fn forward_auth_decides_as_authorize_does_on_random_requests() {
    let stage = Stage::new().await;
    let deleted = stage.deleted().await;
    let tokens = [&*stage.reader, &stage.reader, &stage.writer, &stage.writer, &deleted, "x"];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut connection = stage.connect();
    let mut reasons = std::collections::BTreeMap::new();
    for _ in 0..4 {
        let mut requests = Vec::new();
        let mut words = Vec::new();
        for _ in 0..500 {
            let method = random.pick(METHODS);
            let path: String = match random.below(2) {
                0 => random.pick(&["/api/v1/transactions", "/api/v1/cards/7/reveal"]).to_owned(),
                _ => (0..=random.below(4)).map(|_| random.pick(PIECES)).collect(),
            };
            let token = random.pick(&tokens);
            let client = random.pick(&[INSIDE, OUTSIDE, ""]);
            let authorization = bearer(token);
            let mut headers = vec![
                ("Portcullis-Credential", &*stage.pep),
                ("Authorization", &authorization),
                ("X-Forwarded-Method", method),
                ("X-Forwarded-Uri", &path),
            ];
            if !client.is_empty() {
                headers.push(("X-Forwarded-For", client));
            }
            let answer = connection.send("GET", "/forward-auth", &headers, "");
            words.push((answer.status, answer.reason().to_owned()));
            // Fields of HTTP have no white space around their values (RFC 9110, 5.5).
            let http = HttpOperation { method: method.to_owned(), path: path.trim().to_owned() };
            requests.push(AuthorizeRequest {
                operation: Some(authorize_request::Operation::Http(http)),
                dry_run: true,
                ..question(token, client, "")
            });
        }
        let batch = BatchAuthorizeRequest { requests: requests.clone() };
        let results = stage.operator.authorization().batch_authorize(batch).await.unwrap();
        for ((result, request), (status, word)) in
            results.into_inner().results.into_iter().zip(&requests).zip(words)
        {
            let Some(batch_authorize_result::Result::Response(response)) = result.result else {
                panic!("{result:?} for {request:?}");
            };
            assert_eq!(response.reason().as_str_name(), format!("REASON_{word}"), "{request:?}");
            assert_eq!(status == 200, word == "ALLOWED");
            *reasons.entry(word).or_insert(0) += 1;
        }
    }
    assert!(reasons.len() >= 6, "the requests are too much alike: {reasons:?}");
    assert!(reasons["ALLOWED"] > 50, "{reasons:?}");
}
