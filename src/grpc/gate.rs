//! The gate that every request passes before anything of its body is read: who calls, whether they
//! may, and whether there is room.
//!
//! Must stay true: only the health service is open, and the calls of a token's bearer need the token's secret instead
//! of a credential. The lease is looked at before any credential: what is known of those may be out of date without
//! one. A decision takes no detour: it goes straight to its service, without routing, queueing or a change of thread.
//! Decisions come before management, which is limited and shed by itself, and is read and done on other threads.
//! Whatever has to wait for a caller, known or not, has a bound and a share ([`super::connections`]).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::service::Service as HyperService;
use tokio::runtime::Handle;
use tokio::time::Sleep;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::limit::ConcurrencyLimit;
use tower::load_shed::LoadShed;
use tower::{Service, ServiceExt as _};
use tracing::{Instrument as _, Span};

use super::answer::{AnswerLength, HeldBody, counted};
use super::authorization::Authorization;
use super::body::{self, Messages, REST, RequestBody, Room, discard};
use super::connections::Connection;
use super::envoy::{self, CHECK, EnvoySettings};
use super::frame::service::authorization_service_server::AuthorizationServiceServer;
use super::gzip::{ENCODING, Encoding, InflatedBody};
use super::own_calls;
use super::status::{code_name, status};
use super::unary::{answered, unary};
use super::{health, reflection};
use crate::model::Role;
use crate::policy::client_source::ClientSource;
use crate::secret::{self, Digest};
use crate::service::access::Audience;
use crate::service::bearer::BearerCall;
use crate::service::decisions::{Call, Interface};
use crate::service::{Caller, Error, Services};
use crate::telemetry::request_id::{self, REQUEST_ID, RequestId};
use crate::telemetry::traces::{self, TraceHeaders};

/// How many management calls run at once; more are refused at once rather than queued.
pub(crate) const MANAGEMENT_CALLS: usize = 256;
/// The largest message that is read, in bytes: a question, or a batch of them. Rule 2.27 of docs/policy.md.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;
/// The largest management request, in bytes: twice the largest catalogue, or whitelist.
pub(crate) const MAX_MANAGEMENT_MESSAGE: usize = 2 << 20;
/// Bytes of reflection's answers that a stream has at most: a file, with its comments.
const REFLECTION_ANSWER: usize = 128 << 10;
/// The longest credential that there can be: one of the settings.
const MAX_CREDENTIAL: usize = 1_024;
/// How long a management call may take where the caller sets no earlier deadline.
const DEADLINE: Duration = Duration::from_secs(30);

type Answer = Response<Body>;

const NO_TOKEN: Error =
    Error::Unauthenticated("this call needs a token's secret: send authorization: Bearer <secret>");
const REVOKED: Error = Error::Unauthenticated("the credential is not valid any more");

/// What the caller presented, for calls that check it again later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallerCredential(Option<Digest>);

impl CallerCredential {
    /// What `read` makes of where a gateway's client is read from (Rule 9.2 of docs/policy.md).
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where the credential is not, or no longer, valid; those of `read`.
    pub(crate) fn with_client_source<T>(
        &self,
        services: &Services,
        read: impl FnOnce(&ClientSource) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &self.0 {
            None => read(&ClientSource::development()),
            Some(digest) => services.with_client_source(digest, read).unwrap_or(Err(REVOKED)),
        }
    }

    /// The role it has now.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] where it is not, or no longer, valid.
    pub(crate) fn role(&self, services: &Services) -> Result<Role, Error> {
        match &self.0 {
            None => Ok(Role::Operator),
            Some(digest) => {
                services.principal(digest).map(|principal| principal.role).ok_or(REVOKED)
            }
        }
    }
}

/// The services behind the gate.
#[derive(Clone)]
pub(crate) struct Behind {
    /// Decisions.
    pub authorization: Authorization,
    /// Everything else that needs a credential.
    pub management: LoadShed<ConcurrencyLimit<Routes>>,
    /// Where the latter is read and done.
    pub runtime: Handle,
    /// What needs none.
    pub open: Routes,
}

/// The gate, before it stands at a connection.
#[derive(Clone)]
pub struct Gate {
    behind: Behind,
    services: Arc<Services>,
    envoy: EnvoySettings,
    development: bool,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate before `behind`. With `development`, callers without a credential are operators.
    pub(crate) fn new(
        behind: Behind,
        services: Arc<Services>,
        envoy: EnvoySettings,
        development: bool,
    ) -> Self {
        Self { behind, services, envoy, development }
    }

    /// The gate for one connection.
    pub(super) fn at(&self, connection: Arc<Connection>) -> ConnectionGate {
        let decisions = self.behind.authorization.clone().until(connection.end_streams.clone());
        let decisions = Arc::new(decisions);
        let streams = AuthorizationServiceServer::from_arc(decisions.clone())
            .max_decoding_message_size(MAX_MESSAGE);
        ConnectionGate { gate: self.clone(), decisions, streams, connection }
    }
}

/// The gate for one connection. Nothing of it is shared with another thread but what the services
/// share: counting references of the same thing on two threads costs more than a decision.
#[derive(Clone)]
pub(super) struct ConnectionGate {
    gate: Gate,
    decisions: Arc<Authorization>,
    streams: AuthorizationServiceServer<Authorization>,
    connection: Arc<Connection>,
}

impl ConnectionGate {
    /// Who calls, if they may. Rule 8.1 of docs/policy.md.
    fn admit<B>(&self, request: &Request<B>) -> Result<(Caller, CallerCredential), Error> {
        let header = authorization(request)?;
        let peer = self.connection.peer().ip();
        let (caller, presented) = match header {
            // May make every call.
            None if self.gate.development => (Caller::development(peer), CallerCredential(None)),
            None => {
                return Err(Error::Unauthenticated(
                    "this call needs a credential: send authorization: Bearer <credential>",
                ));
            }
            Some(header) => {
                let secret = bearer(header.as_bytes()).ok_or(Error::Unauthenticated(
                    "the authorization header is not of the form: Bearer <credential>",
                ))?;
                let digest = (secret.len() <= MAX_CREDENTIAL).then(|| secret::digest(secret));
                let services = &self.gate.services;
                let known = digest.and_then(|digest| Some((services.principal(&digest)?, digest)));
                let (bearer, digest) =
                    known.ok_or(Error::Unauthenticated(if self.gate.development {
                        "the credential is not valid here: this server runs with --dev, so leave \
                         it out"
                    } else {
                        "the credential is not valid: mistyped, expired, or revoked"
                    }))?;
                let caller = Caller::bearer(bearer, peer);
                Audience::of(request.uri().path()).admit(caller.role)?;
                (caller, CallerCredential(Some(digest)))
            }
        };
        Ok((caller, presented))
    }
}

/// Whether a caller who is refused for this has a valid credential, as far as this replica knows.
fn is_known(error: &Error) -> bool {
    !matches!(error, Error::Unauthenticated(_))
}

/// The one `authorization` header, if there is any.
fn authorization<B>(request: &Request<B>) -> Result<Option<&HeaderValue>, Error> {
    let mut headers = request.headers().get_all(AUTHORIZATION).iter();
    let header = headers.next();
    match headers.next() {
        None => Ok(header),
        Some(_) => {
            Err(Error::Unauthenticated("there is more than one authorization header: send one"))
        }
    }
}

/// What follows `Bearer` (RFC 6750, section 2.1; the scheme's case does not matter, RFC 9110).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = header.split_at_checked(6)?;
    let secret = rest.trim_ascii();
    let well_formed = rest.first() == Some(&b' ') && !secret.is_empty();
    (scheme.eq_ignore_ascii_case(b"bearer") && well_formed).then_some(secret)
}

/// The beginning of the paths of reflection.
const REFLECTION: &str = "/grpc.reflection.";
/// The beginning of the paths of a bearer's own calls.
const OWN_CALLS: &str = "/portcullis.v1.SelfService/";
/// The beginning of the paths of decisions.
const DECISIONS: &str = "/portcullis.v1.AuthorizationService/";

/// Whether the requests of a method have any number of messages, so that their end says nothing.
fn streams(path: &str) -> bool {
    path.strip_prefix(DECISIONS) == Some("StreamAuthorize") || path.starts_with(REFLECTION)
}

/// Whether a request says that it is gRPC (gRPC over HTTP/2, "Requests").
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// For a client that would not understand a gRPC status.
fn unsupported_media_type() -> Answer {
    let text = "This port speaks gRPC: send POST requests of the content type application/grpc.\n";
    let mut answer = Answer::new(Body::new(text.to_owned()));
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

fn reject(error: &Error) -> Answer {
    status(error).into_http()
}

impl HyperService<Request<Incoming>> for ConnectionGate {
    type Response = Answer;
    type Error = Infallible;
    type Future = DeadlineFuture;

    fn call(&self, request: Request<Incoming>) -> DeadlineFuture {
        self.connection.called();
        let mut id = RequestId::read(request.headers());
        let answer = id.scope(|| self.dispatch(request));
        DeadlineFuture { id, ..answer }
    }
}

impl ConnectionGate {
    fn dispatch(&self, request: Request<Incoming>) -> DeadlineFuture {
        if !is_grpc(&request) {
            let answer = std::future::ready(Ok(unsupported_media_type()));
            return DeadlineFuture::new(Box::pin(answer), None);
        }
        if request.uri().path() == CHECK {
            return self.check(request);
        }
        if let Some(method) = request.uri().path().strip_prefix("/grpc.health.v1.Health/") {
            let watches = method == "Watch";
            return self.health(request, watches);
        }
        if let Some(method) = request.uri().path().strip_prefix(OWN_CALLS) {
            let call = own_calls::named(method);
            return self.own_call(request, call);
        }
        if self.gate.services.has_lease() {
            return self.pass(request);
        }
        // Who is not known, as far as this replica knows, waits with the other strangers.
        let place = match self.admit(&request) {
            Ok(_) => None,
            Err(_) => match self.connection.strangers_call() {
                Some(place) => Some(place),
                None => return Self::shed(),
            },
        };
        let gate = self.clone();
        let answer = async move {
            let _place = place;
            match gate.gate.services.ready().await {
                Ok(()) => gate.pass(request).await,
                Err(error) => {
                    if !streams(request.uri().path()) {
                        discard(request.into_body(), REST).await;
                    }
                    Ok(reject(&error))
                }
            }
        };
        DeadlineFuture::new(Box::pin(answer), Some(DEADLINE))
    }

    fn shed() -> DeadlineFuture {
        DeadlineFuture::new(Box::pin(std::future::ready(Ok(reject(&Error::Overloaded)))), None)
    }

    fn body(&self, body: Incoming, messages: Messages, most: usize) -> RequestBody {
        RequestBody::new(body, self.connection.clone(), messages, most)
    }

    /// Refuses a caller who may not make this call.
    fn turn_away(&self, request: Request<Incoming>, error: &Error) -> DeadlineFuture {
        self.turn_away_as(is_known(error), request, error)
    }

    /// The same. A caller who is not `known` to have a valid credential waits with the other strangers.
    fn turn_away_as(
        &self,
        known: bool,
        request: Request<Incoming>,
        error: &Error,
    ) -> DeadlineFuture {
        let refusal = status(error);
        self.gate.services.metrics().refused(code_name(refusal.code()));
        DeadlineFuture::new(self.refuse(request, REST, known, refusal.into_http()), None)
    }

    /// Gives `answer` once the request has ended, or so much time has passed.
    fn refuse(
        &self,
        request: Request<Incoming>,
        within: Duration,
        known: bool,
        answer: Answer,
    ) -> Inner {
        let place = if known { None } else { self.connection.strangers_call() };
        let waits = (known || place.is_some()) && !streams(request.uri().path());
        Box::pin(async move {
            let _place = place;
            if waits {
                discard(request.into_body(), within).await;
            }
            Ok(answer)
        })
    }

    /// Answers a `Check` of Envoy: with a message, whatever happens, and in time (Rule 9.17 of docs/policy.md).
    fn check(&self, request: Request<Incoming>) -> DeadlineFuture {
        let time = self.gate.envoy.time_for_decision(timeout(&request)).min(DEADLINE);
        let in_time = |answer| DeadlineFuture {
            late: envoy::too_late,
            ..DeadlineFuture::new(answer, Some(time))
        };
        if self.gate.services.has_lease() {
            return in_time(self.pass_check(request, time));
        }
        // As for other calls: who is not known waits with the other strangers.
        let place = match self.admit(&request) {
            Ok(_) => None,
            Err(_) => match self.connection.strangers_call() {
                Some(place) => Some(place),
                None => {
                    let answer = envoy::no_decision(&Error::Overloaded);
                    return in_time(Box::pin(std::future::ready(Ok(answer))));
                }
            },
        };
        let gate = self.clone();
        in_time(Box::pin(async move {
            let _place = place;
            match gate.gate.services.ready().await {
                Ok(()) => gate.pass_check(request, time).await,
                Err(error) => {
                    let answer = envoy::no_decision(&error);
                    gate.refuse(request, REST.min(time / 2), is_known(&error), answer).await
                }
            }
        }))
    }

    /// The same with a lease that held when the request came. It may take so much `time`.
    fn pass_check(&self, request: Request<Incoming>, time: Duration) -> Inner {
        let admitted =
            self.admit(&request).and_then(|admitted| match Encoding::of(request.headers())? {
                Encoding::Identity => Ok(admitted),
                Encoding::Gzip => Err(Error::Compressed),
            });
        let (caller, presented) = match admitted {
            Ok(presented) => presented,
            Err(error) => {
                self.gate.services.metrics().refused(code_name(status(&error).code()));
                // Half of the time, so that the answer says why and not only that it is late.
                let within = REST.min(time / 2);
                let answer = envoy::no_decision(&error);
                return self.refuse(request, within, is_known(&error), answer);
            }
        };
        self.connection.recognise();
        let call = self.begin_call(Interface::Envoy, &caller, &request);
        let body = self.body(request.into_body(), Messages::One, MAX_MESSAGE);
        let decisions = self.decisions.clone();
        let span = call.as_deref().and_then(Call::span).cloned();
        traced(span, async move {
            let work = |message| decisions.check(message, presented, call);
            let answer = AssertUnwindSafe(answered(body, work, envoy::unreadable)).catch_unwind();
            // A panic would end the call with an error of gRPC.
            Ok(answer.await.unwrap_or_else(|_| {
                tracing::error!("a call panicked");
                envoy::no_decision(&Error::Internal)
            }))
        })
    }

    /// Lets a request of the health service pass: anybody's. One that is answered at once takes no place.
    fn health(&self, request: Request<Incoming>, watches: bool) -> DeadlineFuture {
        let deadline = timeout(&request).map_or(DEADLINE, |asked| asked.min(DEADLINE));
        let encoding = match Encoding::of(request.headers()) {
            Ok(encoding) => encoding,
            Err(error) => return self.turn_away_as(false, request, &error),
        };
        let body = |body| self.body(body, Messages::One, health::MAX_MESSAGE).encoded(encoding);
        let mut request = request.map(body);
        // Nothing else of them is read, and they may be far larger than the message.
        let mut headers = std::mem::take(request.headers_mut());
        if let Some(value) = headers.remove(&CONTENT_TYPE) {
            request.headers_mut().insert(CONTENT_TYPE, value);
        }
        drop(headers);
        let connection = self.connection.clone();
        let open = self.gate.behind.open.clone();
        let answer = async move {
            let request = match encoding {
                Encoding::Identity => request.map(Body::new),
                Encoding::Gzip => request.map(|body| Body::new(InflatedBody::new(body))),
            };
            let mut answer = pin!(open.oneshot(request));
            let mut place = None;
            let shed = || reject(&Error::Overloaded);
            let answer = poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Pending if place.is_none() => {
                    place = connection.strangers_call();
                    if place.is_some() { Poll::Pending } else { Poll::Ready(Ok(shed())) }
                }
                answer => answer,
            })
            .await?;
            // Until the client has taken it: HTTP/2 lets it withhold room for the answer.
            let Some(place) = place.or_else(|| connection.strangers_call()) else {
                return Ok(shed());
            };
            let held = (place, watches.then(|| connection.stream()));
            Ok(answer.map(|body| Body::new(HeldBody::new(body, held))))
        };
        DeadlineFuture::new(Box::pin(answer), Some(deadline))
    }

    /// Answers a call of a token's bearer. One whose secret was not made here is refused before it waits for anything;
    /// the others wait with the strangers. Rule 11.20 of docs/policy.md.
    fn own_call(&self, request: Request<Incoming>, call: Option<BearerCall>) -> DeadlineFuture {
        let Gate { services, behind, .. } = &self.gate;
        let peer = self.connection.peer();
        let bearer = authorization(&request).and_then(|header| {
            let secret = header.and_then(|header| bearer(header.as_bytes()));
            let presented = secret.ok_or(NO_TOKEN)?;
            services.bearer(secret::without_mark(presented), presented, peer.ip(), peer)
        });
        let admitted = bearer.and_then(|bearer| {
            Ok((bearer, call.ok_or(Error::UnknownCall)?, Encoding::of(request.headers())?))
        });
        let (bearer, call, encoding) = match admitted {
            Ok(admitted) => admitted,
            // Without a credential, whatever the error.
            Err(error) => return self.turn_away_as(false, request, &error),
        };
        let Some(place) = self.connection.strangers_call() else { return Self::shed() };
        let deadline = timeout(&request).map_or(DEADLINE, |asked| asked.min(DEADLINE));
        let body = self.body(request.into_body(), Messages::One, own_calls::MAX_MESSAGE);
        let body = body.encoded(encoding);
        let (services, runtime) = (services.clone(), behind.runtime.clone());
        let work = move |message| own_calls::answer(services, runtime, bearer, call, message);
        let answer = async move {
            let _place = place;
            Ok(unary(body, work).await)
        };
        DeadlineFuture::new(Box::pin(answer), Some(deadline))
    }

    /// What the decision log and the traces are to have of a request that asks for decisions, where they have anything.
    fn begin_call(
        &self,
        interface: Interface,
        caller: &Caller,
        request: &Request<Incoming>,
    ) -> Option<Box<Call>> {
        let headers = || TraceHeaders::of(request.headers());
        self.gate.services.begin_call(interface, caller.credential(), headers)
    }

    fn authorize(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
        deadline: Option<Duration>,
    ) -> DeadlineFuture {
        let encoding = match Encoding::of(request.headers()) {
            Ok(encoding) => encoding,
            Err(error) => return self.turn_away(request, &error),
        };
        let call = self.begin_call(Interface::Authorize, caller, &request);
        let body = self.body(request.into_body(), Messages::One, MAX_MESSAGE).encoded(encoding);
        let decisions = self.decisions.clone();
        let span = call.as_deref().and_then(Call::span).cloned();
        let answer =
            async move { Ok(unary(body, |message| decisions.authorize(message, call)).await) };
        DeadlineFuture::new(traced(span, answer), deadline)
    }

    fn batch_authorize(
        &self,
        request: Request<Incoming>,
        caller: &Caller,
        deadline: Option<Duration>,
    ) -> DeadlineFuture {
        let encoding = match Encoding::of(request.headers()) {
            Ok(encoding) => encoding,
            Err(error) => return self.turn_away(request, &error),
        };
        let call = self.begin_call(Interface::Batch, caller, &request);
        let room = Room::default();
        let body = self.body(request.into_body(), Messages::Kept(room.clone()), MAX_MESSAGE);
        let body = body.encoded(encoding);
        let decisions = self.decisions.clone();
        let span = call.as_deref().and_then(Call::span).cloned();
        let answer = async move {
            Ok(unary(body, |message| decisions.batch_authorize(message, room, call)).await)
        };
        DeadlineFuture::new(traced(span, answer), deadline)
    }

    fn stream_authorize(
        &self,
        mut request: Request<Incoming>,
        (caller, presented): (&Caller, CallerCredential),
        deadline: Option<Duration>,
    ) -> DeadlineFuture {
        let encoding = match Encoding::of(request.headers()) {
            Ok(encoding) => encoding,
            Err(error) => return self.turn_away(request, &error),
        };
        // It is checked again before each decision.
        request.extensions_mut().insert(presented);
        if let Some(call) = self.begin_call(Interface::Stream, caller, &request) {
            request.extensions_mut().insert::<Arc<Call>>(call.into());
        }
        let messages = Messages::Many { _open: Box::new(self.connection.stream()) };
        let body = |body| self.body(body, messages, MAX_MESSAGE).encoded(encoding);
        let mut streams = self.streams.clone();
        let answer = match encoding {
            Encoding::Identity => streams.call(request.map(body)),
            Encoding::Gzip => {
                request.headers_mut().remove(&ENCODING);
                streams.call(request.map(|incoming| InflatedBody::new(body(incoming))))
            }
        };
        DeadlineFuture::new(answer, deadline)
    }

    /// Lets a request pass, or not, with a lease that held when it came.
    fn pass(&self, mut request: Request<Incoming>) -> DeadlineFuture {
        let asked = timeout(&request);
        let (caller, presented) = match self.admit(&request) {
            Ok(admitted) => admitted,
            Err(error) => return self.turn_away(request, &error),
        };
        self.connection.recognise();
        let deadline = Some(asked.map_or(DEADLINE, |asked| asked.min(DEADLINE)));
        let path = request.uri().path();
        let reflects = path.starts_with(REFLECTION);
        if let Some(method) = path.strip_prefix(DECISIONS) {
            return match method {
                "Authorize" => self.authorize(request, &caller, deadline),
                "BatchAuthorize" => self.batch_authorize(request, &caller, deadline),
                "StreamAuthorize" => self.stream_authorize(request, (&caller, presented), deadline),
                _ => self.turn_away(request, &Error::UnknownCall),
            };
        }

        let encoding = match Encoding::of(request.headers()) {
            Ok(Encoding::Gzip) if reflects => Err(Error::Compressed),
            encoding => encoding,
        };
        let encoding = match encoding {
            Ok(encoding) => encoding,
            Err(error) => return self.turn_away(request, &error),
        };
        // Messages are inflated before they are read further.
        request.headers_mut().remove(&ENCODING);
        request.extensions_mut().insert(caller);
        // For reflection, whose streams check it again.
        request.extensions_mut().insert(presented);
        let mut held = None;
        let (messages, most) = if reflects {
            held = self.connection.answer(REFLECTION_ANSWER);
            if held.is_none() {
                return Self::shed();
            }
            (Messages::Many { _open: Box::new(self.connection.stream()) }, reflection::MAX_REQUEST)
        } else {
            let room = Room::default();
            request.extensions_mut().insert(room.clone());
            (Messages::Kept(room), MAX_MANAGEMENT_MESSAGE)
        };
        let management = self.gate.behind.management.clone();
        let metrics = self.gate.services.metrics().clone();
        let connection = self.connection.clone();
        let request = request.map(|body| self.body(body, messages, most).encoded(encoding));
        let work = self.gate.behind.runtime.spawn(request_id::carry(async move {
            let request = if reflects {
                request.map(Body::new)
            } else {
                // Once all of it is there: what is answered before that is reset, see `discard`.
                let (head, mut body) = request.into_parts();
                match body::read_inflated(&mut body).await {
                    Ok(whole) => Request::from_parts(head, Body::new(Full::new(whole))),
                    Err(status) => return status.into_http(),
                }
            };
            management.oneshot(request).await.unwrap_or_else(|_overloaded| {
                metrics.shed.inc();
                reject(&Error::Overloaded)
            })
        }));
        let work = AbortOnDropHandle::new(work);
        let answer = async move {
            let mut answer = match work.await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::error!(%error, "a call panicked");
                    reject(&Error::Internal)
                }
            };
            let length = answer.extensions_mut().remove::<AnswerLength>();
            Ok(match held {
                None => counted(answer, length.map_or(0, |length| length.0), &connection),
                Some(held) => answer.map(|body| Body::new(HeldBody::new(body, held))),
            })
        };
        DeadlineFuture::new(Box::pin(answer), deadline)
    }
}

type Inner = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

/// An answer that is worked on within `span`, where there is one.
fn traced(
    span: Option<Span>,
    answer: impl Future<Output = Result<Answer, Infallible>> + Send + 'static,
) -> Inner {
    let Some(span) = span else { return Box::pin(answer) };
    let recorded = async {
        let answer = answer.await;
        if let Ok(answer) = &answer {
            let status = Status::from_header_map(answer.headers());
            let code = status.map_or(Code::Ok, |status| status.code());
            traces::ended_with_code(&Span::current(), code.into());
        }
        answer
    };
    Box::pin(recorded.instrument(span))
}

/// An answer under way, for so long and no longer. A call that is answered at once, as decisions on
/// tokens in memory are, costs no timer.
pub(super) struct DeadlineFuture {
    inner: Inner,
    deadline: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The answer after that.
    late: fn() -> Answer,
    /// Of the request, whose work it is.
    id: RequestId,
}

impl DeadlineFuture {
    fn new(inner: Inner, deadline: Option<Duration>) -> Self {
        let late = || reject(&Error::DeadlineExceeded);
        Self { inner, deadline, timer: None, late, id: RequestId::default() }
    }
}

impl Future for DeadlineFuture {
    type Output = Result<Answer, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { inner, deadline, timer, late, id } = &mut *self;
        if let Poll::Ready(Ok(answer)) = id.scope(|| inner.as_mut().poll(cx)) {
            // An error that ends a call before its first message stands in the headers, and nothing follows.
            let mut answer = match answer.body().is_end_stream() {
                true => id.scope(|| enrich_status(answer)),
                false => answer,
            };
            if let Some(id) = id.known() {
                answer.headers_mut().insert(REQUEST_ID, id.clone());
            }
            return Poll::Ready(Ok(answer));
        }
        let Some(deadline) = *deadline else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(deadline)));
        timer.as_mut().poll(cx).map(|()| Ok(id.scope(*late)))
    }
}

/// Gives an answer that tonic made by itself, before any service of ours was asked, a code that says
/// whose error it is, and the details that the contract promises.
fn enrich_status(answer: Answer) -> Answer {
    let Some(code) = answer.headers().get(Status::GRPC_STATUS) else { return answer };
    if code == "0" || answer.headers().contains_key(Status::GRPC_STATUS_DETAILS) {
        return answer;
    }
    let Some(bare) = Status::from_header_map(answer.headers()) else { return answer };
    let error = match bare.code() {
        Code::OutOfRange => Error::TooLarge(MAX_MESSAGE),
        Code::Unimplemented if bare.message().is_empty() => Error::UnknownCall,
        Code::Unimplemented => Error::Compressed,
        Code::Internal => {
            Error::invalid("", "MALFORMED_MESSAGE", "the request is cut off or empty")
        }
        _ => return answer,
    };
    reject(&error)
}

/// The caller's deadline (gRPC over HTTP/2: `grpc-timeout`, at most eight digits and a unit).
fn timeout<B>(request: &Request<B>) -> Option<Duration> {
    const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
    let text = request.headers().get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearers() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for bad in [&b""[..], b"Bearer", b"Bearer ", b"Bearerabc", b"Basic abc"] {
            assert_eq!(bearer(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn deadlines() {
        let of = |text: &str| {
            timeout(&Request::builder().header("grpc-timeout", text).body(()).unwrap())
        };
        assert_eq!(of("100m"), Some(Duration::from_millis(100)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "1", "999999999S", "-1S", "1x"] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
