//! `AuthorizationService`: what a decision costs is spent here, so nothing here waits, spawns or
//! locks for a token that is in memory.

pub mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _, future, stream};
use prost::bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use super::body::Room;
use super::frame::Frame;
use super::frame::service::authorization_service_server::AuthorizationService;
use super::gate::CallerCredential;
use super::status::{item_error, status};
use crate::gateway::request::OverrideHeaders;
use crate::policy::decide::Decision;
use crate::service::access::Audience;
use crate::service::decisions::{AuthorizeInput, Call, MAX_BATCH};
use crate::service::{Error, Result, Services};
use crate::telemetry::request_id;

/// A question of more bytes, and a batch of more bytes, is read and decided apart from the threads of the
/// connections: it takes up to some milliseconds, which other decisions would wait for. An ordinary question has
/// a hundredth of it, a batch of a thousand of them a third.
const LARGE_REQUEST: usize = 64 << 10;
const LARGE_BATCH: usize = 512 << 10;
/// How many of them are worked on at once; others wait for their turn.
pub(super) const LARGE_AT_ONCE: usize = 2;
/// Bytes of them that wait or are worked on; more are refused.
const LARGE_BYTES: usize = 32 << 20;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Authorization {
    services: Arc<Services>,
    stop: CancellationToken,
    /// Streams end when this is cancelled, with `stop` or before it.
    end_streams: CancellationToken,
    runtime: Handle,
    turns: Arc<Semaphore>,
    room: Arc<Semaphore>,
    overrides: Arc<OverrideHeaders>,
}

impl Authorization {
    /// Answers from `services`, what is large on the blocking threads of `runtime`; streams end when `stop`
    /// is cancelled. `overrides` are those of requests that gateways ask about.
    pub(crate) fn new(
        services: Arc<Services>,
        runtime: Handle,
        stop: CancellationToken,
        overrides: Arc<OverrideHeaders>,
    ) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            services,
            end_streams: stop.clone(),
            stop,
            runtime,
            turns: semaphore(LARGE_AT_ONCE),
            room: semaphore(LARGE_BYTES),
            overrides,
        }
    }

    /// The same for a connection whose streams end when `end_streams` is cancelled, which `stop` does, too.
    #[must_use]
    pub(super) fn until(self, end_streams: CancellationToken) -> Self {
        Self { end_streams, ..self }
    }

    pub(super) fn services(&self) -> &Services {
        &self.services
    }

    pub(super) fn overrides(&self) -> &OverrideHeaders {
        &self.overrides
    }

    /// Whether one question is so large that it is worked on [apart](Self::apart).
    pub(super) fn is_large_request(message: &[u8]) -> bool {
        message.len() >= LARGE_REQUEST
    }
}

/// The items of a batch. Rule 2.29 of docs/policy.md.
fn batch_items(message: &[u8]) -> Result<Vec<&[u8]>> {
    let requests = wire::split_batch(message)?;
    let (reason, text) = match requests.len() {
        0 => ("REQUIRED", "is empty: send at least one".to_owned()),
        1..=MAX_BATCH => return Ok(requests),
        many => (
            "TOO_MANY",
            format!("has {many} items; the most is {MAX_BATCH}: send them in several batches"),
        ),
    };
    Err(Error::invalid("requests", reason, text))
}

/// Writes what became of one item. Rule 2.21 of docs/policy.md.
fn put_item(out: &mut Vec<u8>, decided: std::result::Result<&[u8], &Error>) {
    match decided {
        Ok(response) => wire::put_decided(out, |out| out.extend_from_slice(response)),
        Err(error) => wire::put_undecided(out, &item_error(error)),
    }
}

impl Authorization {
    /// Decides on `input` and writes the response.
    async fn answer(&self, input: &AuthorizeInput<'_>, call: Option<&Call>) -> Result<Vec<u8>> {
        match self.answer_from_memory(input, call)? {
            Some(response) => Ok(response),
            // In a box: what a read needs is large, and hits would carry it around.
            None => Box::pin(self.answer_from_store(input, call)).await,
        }
    }

    fn answer_from_memory(
        &self,
        input: &AuthorizeInput<'_>,
        call: Option<&Call>,
    ) -> Result<Option<Vec<u8>>> {
        let Some(context) = self.services.decision_context(call) else { return Ok(None) };
        let decision = context.evaluate(input)?;
        Ok(decision.map(|decision| self.response(&decision, context.revision())))
    }

    async fn answer_from_store(
        &self,
        input: &AuthorizeInput<'_>,
        call: Option<&Call>,
    ) -> Result<Vec<u8>> {
        let evaluation = self.services.evaluate_with_store(input, call).await?;
        Ok(self.response(&evaluation.decision(input)?, evaluation.revision()))
    }

    fn response(&self, decision: &Decision<'_>, revision: i64) -> Vec<u8> {
        wire::response(decision, revision, || self.services.calendar())
    }

    /// Counts an error of a request that was not decided on.
    pub(super) fn undecided<E>(&self, error: E) -> E {
        self.services.metrics().decision_errors.inc();
        error
    }

    /// The answer to one message of a stream, or one question of a batch.
    async fn item(&self, input: &Result<AuthorizeInput<'_>>, call: Option<&Call>) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        match input {
            Ok(input) => put_item(&mut out, self.answer(input, call).await.as_deref()),
            Err(error) => put_item(&mut out, Err(self.undecided(error))),
        }
        out
    }

    async fn batch(&self, message: &[u8], call: Option<&Call>) -> Result<Vec<u8>> {
        let requests = batch_items(message).map_err(|error| self.undecided(error))?;
        let inputs: Vec<_> =
            requests.iter().map(|request| wire::parse_batch_item(request)).collect();
        let (out, missing) = self.batch_from_memory(&inputs, call);
        if missing.is_empty() {
            return Ok(out);
        }
        // All at once, so that tokens which must be read are read together.
        let read =
            missing.iter().map(async |&(at, index)| (at, self.item(&inputs[index], call).await));
        let read = future::join_all(read).await;
        let mut whole = Vec::with_capacity(out.len() + 160 * read.len());
        let mut taken = 0;
        for (at, item) in read {
            whole.extend_from_slice(&out[taken..at]);
            taken = at;
            wire::put_result(&mut whole, |out| out.extend_from_slice(&item));
        }
        whole.extend_from_slice(&out[taken..]);
        Ok(whole)
    }

    /// The results of the questions that can be decided from memory; and of each of the others, where in them its
    /// result belongs, and its index.
    fn batch_from_memory(
        &self,
        inputs: &[Result<AuthorizeInput<'_>>],
        call: Option<&Call>,
    ) -> (Vec<u8>, Vec<(usize, usize)>) {
        let Some(context) = self.services.decision_context(call) else {
            return (Vec::new(), (0..inputs.len()).map(|index| (0, index)).collect());
        };
        let mut out = Vec::with_capacity(160 * inputs.len());
        let mut missing = Vec::new();
        context.evaluate_batch(inputs, |index, evaluated| match (evaluated, &inputs[index]) {
            (Ok(Some(decision)), _) => {
                let response = |out: &mut Vec<u8>| {
                    let calendar = || self.services.calendar();
                    wire::put_response(decision, context.revision(), calendar, out);
                };
                wire::put_result(&mut out, |out| wire::put_decided(out, response));
            }
            (Ok(None), Ok(_)) => missing.push((out.len(), index)),
            (Ok(None), Err(error)) => {
                let error = self.undecided(error);
                wire::put_result(&mut out, |out| put_item(out, Err(error)));
            }
            (Err(error), _) => wire::put_result(&mut out, |out| put_item(out, Err(error))),
        });
        (out, missing)
    }

    /// Works on a message of so many bytes apart from this thread. What is begun goes on to its end, also where the
    /// caller goes away. Boxed, so that ordinary decisions do not carry its state.
    pub(super) fn apart(
        &self,
        bytes: usize,
        work: impl Future<Output = Result<Vec<u8>>> + Send + 'static,
    ) -> BoxFuture<'static, Result<Vec<u8>>> {
        let Self { services, runtime, turns, room, .. } = self.clone();
        Box::pin(async move {
            let bytes = u32::try_from(bytes).map_err(|_| Error::Overloaded)?;
            let Ok(room) = room.try_acquire_many_owned(bytes) else {
                services.metrics().shed.inc();
                return Err(Error::Overloaded);
            };
            // It is closed by nobody.
            let turn = turns.acquire_owned().await.map_err(|_| Error::Internal)?;
            let handle = runtime.clone();
            let work = request_id::carry(work);
            let work = runtime.spawn_blocking(move || {
                let _held = (room, turn);
                handle.block_on(work)
            });
            work.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a large decision panicked");
                Err(Error::Internal)
            })
        })
    }

    /// Answers `Authorize`.
    pub(super) async fn authorize(
        &self,
        message: Bytes,
        call: Option<Box<Call>>,
    ) -> Result<Vec<u8>> {
        match message.len() {
            ..LARGE_REQUEST => self.answer_to(&message, call.as_deref()).await,
            length => {
                let this = self.clone();
                let work = async move { this.answer_to(&message, call.as_deref()).await };
                self.apart(length, work).await
            }
        }
    }

    async fn answer_to(&self, message: &[u8], call: Option<&Call>) -> Result<Vec<u8>> {
        let input = wire::parse(message).map_err(|error| self.undecided(error))?;
        self.answer(&input, call).await
    }

    /// Answers `BatchAuthorize`. The message's bytes count in `room` until the answer is made.
    pub(super) async fn batch_authorize(
        &self,
        message: Bytes,
        room: Room,
        call: Option<Box<Call>>,
    ) -> Result<Vec<u8>> {
        match message.len() {
            ..LARGE_BATCH => self.batch(&message, call.as_deref()).await,
            length => {
                let this = self.clone();
                let work = async move {
                    let _room = room;
                    this.batch(&message, call.as_deref()).await
                };
                self.apart(length, work).await
            }
        }
    }
}

/// Why a stream ends that its caller would go on with.
fn ended(stopping: bool) -> Error {
    let why = if stopping {
        "this replica is stopping: ask another"
    } else {
        "the server ends the connection: open the stream again, on a new one"
    };
    Error::Unavailable { why, retry: Duration::from_millis(100) }
}

#[tonic::async_trait]
impl AuthorizationService for Authorization {
    type StreamAuthorizeStream =
        Pin<Box<dyn Stream<Item = std::result::Result<Frame, Status>> + Send>>;

    /// Rule 6.11 of docs/policy.md.
    async fn stream_authorize(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> std::result::Result<Response<Self::StreamAuthorizeStream>, Status> {
        // The gate puts it there; without it nobody is known, so nothing is decided.
        let Some(&presented) = request.extensions().get::<CallerCredential>() else {
            return Err(status(&Error::Unauthenticated("no caller is known")));
        };
        // Each stream has its own: what streams of several threads counted and locked for each message would cost
        // more than deciding.
        let this = Arc::new(self.clone());
        let call = request.extensions().get::<Arc<Call>>().cloned();
        let end = self.end_streams.child_token();
        let stop = self.stop.clone();
        let answers = request.into_inner().then(move |message| {
            let (this, call) = (this.clone(), call.clone());
            async move {
                let message = message?;
                this.services.ready().await.map_err(|error| status(&error))?;
                // A credential that was revoked meanwhile decides nothing more.
                presented
                    .role(&this.services)
                    .and_then(|role| Audience::Decisions.admit(role))
                    .map_err(|error| status(&error))?;
                let message = message.0;
                Ok(Frame(match message.len() {
                    ..LARGE_REQUEST => {
                        let input = wire::parse_stream_item(&message);
                        let item = this.item(&input, call.as_deref());
                        match call.as_deref().and_then(Call::span) {
                            None => item.await.into(),
                            Some(span) => Box::pin(item.instrument(span.clone())).await.into(),
                        }
                    }
                    length => {
                        let other = this.clone();
                        let work = async move {
                            let input = wire::parse_stream_item(&message);
                            Ok(other.item(&input, call.as_deref()).await)
                        };
                        this.apart(length, work).await.map_err(|error| status(&error))?.into()
                    }
                }))
            }
        });
        // A stream ends after its first error, when the server stops, and some time after its connection was to end.
        let answers = answers.scan(false, |failed, answer| {
            let go_on = !*failed;
            *failed = answer.is_err();
            future::ready(go_on.then_some(answer))
        });
        // What is asked after that is never answered, so the end must not look like an orderly one.
        let ending = stream::once(future::lazy({
            let end = end.clone();
            move |_| end.is_cancelled().then(|| Err(status(&ended(stop.is_cancelled()))))
        }));
        let answers = answers.take_until(end.cancelled_owned()).map(Some).chain(ending);
        // Each message is a part of the same request.
        let answers = request_id::carry(answers.filter_map(future::ready));
        Ok(Response::new(Box::pin(answers)))
    }
}
