//! The connections of gateways: HTTP/1.1 and HTTP/2 on one listener, also without TLS ("prior knowledge").
//!
//! # Invariants
//! - A connection that has carried no valid credential ends after [`STRANGER_IDLE`] without a request, and any other
//!   after [`IDLE`]; no peer keeps one by sending a head, or an HTTP/2 preface, byte by byte.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{Interfaces, PeerIdentity};
use crate::clock::Stopwatch;
use crate::net::server::{Accepted, HttpListeners, PeerCertificate, Serve};
use crate::net::tls::TlsListener;
use crate::net::unread::Unread;
use crate::net::{self, Listener};

/// Connections at once; more are closed at once. See [`HttpListeners`].
pub const CONNECTIONS: usize = 2_048;
/// How long a connection without a valid credential may be without a request.
const STRANGER_IDLE: Duration = Duration::from_secs(10);
/// How long any other may: longer than gateways keep connections that they do not use.
const IDLE: Duration = Duration::from_secs(300);
/// How often that is checked.
const CHECK: Duration = Duration::from_secs(2);
/// How long requests under way may take when the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// How long a connection may go on that was asked to end: longer than any request takes. A peer may not take notice.
const ENDING: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes; what is larger is answered 431. Gateways send all headers of a client,
/// which nginx, Envoy and Caddy limit to as much or more.
const MAX_HEAD: usize = 64 << 10;
/// Requests that one HTTP/2 connection may have under way.
const STREAMS: u32 = 256;
/// Bytes that a peer may send of one request's body, and of all on a connection, before they are read.
const WINDOWS: (u32, u32) = (64 << 10, 256 << 10);
/// Bytes of answers that an HTTP/2 stream keeps for a peer that takes none.
const SEND_BUFFER: usize = 64 << 10;
/// How long a silent peer is waited for before its HTTP/2 connection counts as dead.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Serves `interfaces` to up to `connections` at once until `stop`. A connection that is in use ends in order after `age`,
/// give or take a tenth (rule 8.15 of docs/policy.md).
pub async fn serve(
    listeners: Vec<Listener>,
    tls: Option<Arc<TlsListener>>,
    connections: usize,
    interfaces: Arc<Interfaces>,
    age: Duration,
    stop: CancellationToken,
) {
    let listeners = HttpListeners { listeners, tls, connections, drain: DRAIN };
    net::server::serve(listeners, Server { interfaces, age }, stop).await;
}

#[derive(Clone)]
struct Server {
    interfaces: Arc<Interfaces>,
    age: Duration,
}

impl Serve for Server {
    async fn serve<S>(self, stream: Unread<S>, accepted: Accepted)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let metrics = self.interfaces.services.metrics();
        metrics.gateway_connections.inc();
        self.serve_connection(stream, accepted).await;
        metrics.gateway_connections.dec();
    }

    fn refused(&self) {
        self.interfaces.services.metrics().shed.inc();
    }
}

impl Server {
    async fn serve_connection<S>(&self, stream: Unread<S>, accepted: Accepted)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Accepted { peer, certificate, keep_alive, stop } = accepted;
        let activity = Arc::new(Activity::new());
        let service = service_fn({
            let (interfaces, activity) = (self.interfaces.clone(), activity.clone());
            move |request| {
                // Rule 9.21 of docs/policy.md: a connection may outlive its certificate.
                let is_valid = |own: &PeerCertificate| interfaces.services.now() <= own.valid_until;
                let certificate = certificate.filter(is_valid).map(|own| own.fingerprint);
                let peer = PeerIdentity { address: peer, certificate };
                answer(interfaces.clone(), activity.clone(), peer, request)
            }
        });
        let builder = builder(keep_alive);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let (opened, age) = (Stopwatch::start(), net::with_jitter(self.age));
        let check_interval = CHECK.min(self.age / 4);
        let mut ending: Option<Stopwatch> = None;
        let ended = loop {
            let check = tokio::time::sleep(check_interval);
            tokio::select! {
                ended = &mut connection => break ended,
                () = stop.cancelled(), if ending.is_none() => {
                    ending = Some(Stopwatch::start());
                    connection.as_mut().graceful_shutdown();
                }
                () = check => match (activity.is_idle(), ending) {
                    (true, Some(_)) => return,
                    (false, Some(since)) if since.elapsed() >= ENDING => return,
                    (false, Some(_)) => {}
                    (idle, None) if idle || opened.elapsed() >= age => {
                        // HTTP/2 notifies the peer (GOAWAY), so that none of its requests is lost. In HTTP/1.1, to close
                        // a connection in use between two requests could lose the one that is just being sent.
                        if idle || activity.is_http2() {
                            ending = Some(Stopwatch::start());
                            connection.as_mut().graceful_shutdown();
                        } else {
                            activity.last.store(true, Ordering::Relaxed);
                        }
                    }
                    (_, None) => {}
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a gateway's connection ended early");
        }
    }
}

fn builder(keep_alive: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HEAD)
        .keep_alive(keep_alive);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    // A connection of the reserve is for one request, which HTTP/2 has no way to say.
    if keep_alive { builder } else { builder.http1_only() }
}

async fn answer(
    interfaces: Arc<Interfaces>,
    activity: Arc<Activity>,
    peer: PeerIdentity,
    request: Request<Incoming>,
) -> Result<super::HttpAnswer, Infallible> {
    let _busy = activity.begin();
    let is_http2 = request.version() == Version::HTTP_2;
    activity.http2.store(is_http2, Ordering::Relaxed);
    let known = || activity.known.store(true, Ordering::Relaxed);
    let mut answer = interfaces.answer(request, peer, known).await;
    if !is_http2 && activity.last.load(Ordering::Relaxed) {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

/// What a connection has done.
#[derive(Debug)]
struct Activity {
    /// Requests under way.
    busy: AtomicUsize,
    /// Whether it has carried a valid credential.
    known: AtomicBool,
    /// Whether its requests come over HTTP/2.
    http2: AtomicBool,
    /// Whether its next answer is to be its last one.
    last: AtomicBool,
    /// Since when there is no request.
    since: Mutex<Stopwatch>,
}

impl Activity {
    fn new() -> Self {
        let since = Mutex::new(Stopwatch::start());
        let [known, http2, last] = std::array::from_fn(|_| AtomicBool::new(false));
        Self { busy: AtomicUsize::new(0), known, http2, last, since }
    }

    fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    fn begin(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    fn is_idle(&self) -> bool {
        let limit = if self.known.load(Ordering::Relaxed) { IDLE } else { STRANGER_IDLE };
        self.busy.load(Ordering::Relaxed) == 0 && self.since().elapsed() >= limit
    }

    /// What a panic elsewhere leaves is consistent.
    fn since(&self) -> std::sync::MutexGuard<'_, Stopwatch> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way.
struct Busy<'a>(&'a Activity);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.since() = Stopwatch::start();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
