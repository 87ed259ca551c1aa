//! Those who ask all the time: one by one, in batches, on streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::grpc::proto::{
    AuthorizeRequest, AuthorizeResponse, BatchAuthorizeRequest, HttpOperation, Reason,
    StreamAuthorizeRequest, authorize_request, batch_authorize_result, stream_authorize_response,
};
use tonic::{Code, Status};

use super::{ASK, HERE, Object, World, limited, lock};
use crate::lease::random::Random;
use crate::replicas::history::{Asked, ObjectId, Seen};
use crate::support::client::{Client, question};

impl World {
    fn asks(&self, object: &Object) -> AuthorizeRequest {
        match object {
            Object::Token(secret) => question(secret, HERE, "transactions.read"),
            Object::Credential(_) => question(&self.steady, HERE, "transactions.read"),
            Object::Route => AuthorizeRequest {
                operation: Some(authorize_request::Operation::Http(HttpOperation {
                    method: "GET".to_owned(),
                    path: "/nemesis/toggled".to_owned(),
                })),
                ..question(&self.steady, HERE, "")
            },
        }
    }

    /// Asks one server all the time: one by one, in batches, or on a stream.
    pub(super) async fn ask(self: Arc<Self>, server: usize, mut random: Random, streams: bool) {
        let mut asked = Vec::new();
        while self.goes_on() {
            let some: Vec<_> = {
                let objects = self.objects.read().unwrap();
                let count = if random.in_1000(100) { 6 } else { 1 };
                (0..count.min(objects.len()))
                    .map(|_| objects[random.below(objects.len() as u64) as usize].clone())
                    .collect()
            };
            let client = self.client(server);
            let before = asked.len();
            if streams && random.in_1000(300) {
                self.stream(&client, server, &some, &mut asked).await;
            } else if let [(object, what)] = some.as_slice() {
                let client = match what {
                    Object::Credential(secret) => client.with(secret),
                    _ => client,
                };
                let begin = Instant::now();
                let answer = client.authorization().authorize(limited(self.asks(what), ASK)).await;
                let seen = seen(answer.map(tonic::Response::into_inner));
                asked.push(Asked { object: *object, server, begin, end: Instant::now(), seen });
            } else if !some.is_empty() {
                self.batch(&client, server, &some, &mut asked).await;
            }
            if asked[before..].iter().all(|asked| asked.seen == Seen::Nothing) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        lock(&self.history).asked.append(&mut asked);
    }

    async fn batch(
        &self,
        client: &Client,
        server: usize,
        some: &[(ObjectId, Object)],
        asked: &mut Vec<Asked>,
    ) {
        // A batch is asked by one caller.
        let some: Vec<_> =
            some.iter().filter(|(_, what)| !matches!(what, Object::Credential(_))).collect();
        let requests = some.iter().map(|(_, what)| self.asks(what)).collect();
        let begin = Instant::now();
        let request = limited(BatchAuthorizeRequest { requests }, ASK);
        let Ok(answer) = client.authorization().batch_authorize(request).await else { return };
        let end = Instant::now();
        for ((object, _), result) in some.into_iter().zip(answer.into_inner().results) {
            let seen = match result.result.unwrap() {
                batch_authorize_result::Result::Response(answer) => seen(Ok(*answer)),
                batch_authorize_result::Result::Error(_) => Seen::Nothing,
            };
            asked.push(Asked { object: *object, server, begin, end, seen });
        }
    }

    /// A stream that is asked for a while, slowly.
    async fn stream(
        &self,
        client: &Client,
        server: usize,
        some: &[(ObjectId, Object)],
        asked: &mut Vec<Asked>,
    ) {
        let Some((object, what)) = some.first() else { return };
        let client = match what {
            Object::Credential(secret) => client.with(secret),
            _ => client.clone(),
        };
        let (send, requests) = tokio::sync::mpsc::channel::<StreamAuthorizeRequest>(1);
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let ask = StreamAuthorizeRequest { request: Some(self.asks(what)) };
        let mut begin = Instant::now();
        let _ = send.send(ask.clone()).await;
        let mut authorization = client.authorization();
        let opened = tokio::time::timeout(ASK, authorization.stream_authorize(requests)).await;
        let Ok(opened) = opened else { return };
        let mut answers = match opened {
            Ok(answers) => answers.into_inner(),
            Err(status) => {
                let seen = seen(Err(status));
                asked.push(Asked { object: *object, server, begin, end: Instant::now(), seen });
                return;
            }
        };
        for _ in 0..20 {
            let Ok(answer) = tokio::time::timeout(ASK, answers.message()).await else { return };
            let end = Instant::now();
            let seen = match answer {
                Ok(Some(answer)) => match answer.result.unwrap() {
                    stream_authorize_response::Result::Response(answer) => seen(Ok(answer)),
                    stream_authorize_response::Result::Error(_) => Seen::Nothing,
                },
                Ok(None) => return,
                Err(status) => seen(Err(status)),
            };
            let ended = matches!(seen, Seen::Nothing | Seen::Unauthenticated);
            asked.push(Asked { object: *object, server, begin, end, seen });
            if ended || !self.goes_on() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            begin = Instant::now();
            if send.send(ask.clone()).await.is_err() {
                return;
            }
        }
    }
}

pub(super) fn seen(answer: Result<AuthorizeResponse, Status>) -> Seen {
    match answer {
        Ok(answer) => match answer.reason() {
            Reason::Allowed => Seen::Allowed,
            Reason::ClientIpNotWhitelisted => Seen::NotWhitelisted,
            Reason::TokenDeleted => Seen::Deleted,
            Reason::NoMatchingRoute => Seen::NoRoute,
            other => Seen::Other(other.into()),
        },
        Err(status) if status.code() == Code::Unauthenticated => Seen::Unauthenticated,
        Err(_) => Seen::Nothing,
    }
}
