//! The gRPC server: one thread per core, each with a runtime of its own that serves the connections
//! it was given from their first byte to their last. A decision never changes threads.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tower::ServiceBuilder;

use super::answer;
use super::authority::AnyAuthority;
use super::authorization::Authorization;
use super::connections::{Connection, ConnectionLimits, Connections};
use super::envoy::EnvoySettings;
pub use super::gate::Gate;
use super::gate::{Behind, ConnectionGate, MANAGEMENT_CALLS, MAX_MANAGEMENT_MESSAGE};
use super::management::Management;
use super::preface;
use super::proto::account_service_server::AccountServiceServer;
use super::proto::catalog_service_server::CatalogServiceServer;
use super::proto::credential_service_server::CredentialServiceServer;
use super::proto::token_service_server::TokenServiceServer;
use super::proto::webhook_service_server::WebhookServiceServer;
use super::reflection::Reflection;
use super::write_buffer::buffered;
use crate::net::tls::TlsListener;
use crate::net::{self, Listener, Peer};
use crate::service::Services;

/// Requests that one connection may have under way.
const STREAMS: u32 = 1_024;
/// Bytes of headers that a request may have.
const HEADERS: u32 = 16 << 10;
/// How long a silent peer is waited for before its connection counts as dead, once it has begun.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long requests under way may take when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Everything that the server answers.
///
/// # Errors
/// The descriptors can't be read: an error of the build.
pub fn gate(
    services: &Arc<Services>,
    runtime: Handle,
    health: Routes,
    envoy: EnvoySettings,
    development: bool,
    stop: CancellationToken,
) -> Result<Gate, prost_reflect::DescriptorError> {
    let management = Management::new(services.clone(), runtime.clone());
    let reflection = Reflection::new(services.clone())?;
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service).max_decoding_message_size(MAX_MANAGEMENT_MESSAGE)
        };
    }
    let routes = Routes::new(limited!(TokenServiceServer, management.clone()))
        .add_service(limited!(AccountServiceServer, management.clone()))
        .add_service(limited!(CatalogServiceServer, management.clone()))
        .add_service(limited!(CredentialServiceServer, management.clone()))
        .add_service(limited!(WebhookServiceServer, management))
        .add_service(reflection.v1())
        .add_service(reflection.v1alpha())
        .prepare();
    let behind = Behind {
        authorization: Authorization::new(
            services.clone(),
            runtime.clone(),
            stop,
            envoy.overrides.clone(),
        ),
        management: ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(MANAGEMENT_CALLS)
            .service(routes),
        runtime,
        open: health.prepare(),
    };
    Ok(Gate::new(behind, services.clone(), envoy, development))
}

/// Serves until `stop`, then lets what is under way end. Only TCP connections speak TLS: nobody reads along on a Unix
/// socket.
///
/// # Errors
/// A thread or its runtime can't be started.
pub async fn serve(
    listeners: Vec<Listener>,
    gate: Gate,
    services: Arc<Services>,
    tls: Option<Arc<TlsListener>>,
    threads: usize,
    limits: ConnectionLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    let connections = Connections::new(limits, services.metrics().clone());
    let hard_stop = CancellationToken::new();
    let mut workers = Vec::with_capacity(threads);
    let mut ends = Vec::with_capacity(threads);
    for number in 0..threads {
        let (give, take) = mpsc::unbounded_channel();
        let worker = Worker {
            gate: gate.clone(),
            services: services.clone(),
            tls: tls.clone(),
            hard_stop: hard_stop.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name(format!("grpc-{number}")).spawn(move || {
            runtime.block_on(worker.run(take));
            // Nobody waits where the server was stopped the hard way.
            let _ = ended.send(());
        })?;
        workers.push(give);
        ends.push(end);
    }

    let next = Cell::new(0);
    let hand_over = |stream: io::Result<RuntimeStream>, peer: Peer| {
        next.set((next.get() + 1) % workers.len());
        match stream {
            Ok(stream) => {
                let Some(connection) = connections.enter(peer, &stop, &hard_stop) else {
                    services.metrics().shed.inc();
                    return;
                };
                services.metrics().connections.inc();
                // A worker ends only after `stop`, when the connection is not wanted any more.
                let _ = workers[next.get()].send((stream, connection));
            }
            Err(error) => tracing::warn!(%error, "cannot hand a connection over"),
        }
    };
    let accepted = listeners.into_iter().map(|listener| {
        let (stop, hand_over) = (stop.clone(), &hand_over);
        async move {
            match listener {
                Listener::Tcp(listener) => {
                    net::accept(listener, stop, |stream, peer| {
                        hand_over(stream.into_std().map(RuntimeStream::Tcp), peer.into());
                    })
                    .await;
                }
                Listener::Unix(socket) => {
                    net::accept(socket, stop, |stream, peer| {
                        hand_over(stream.into_std().map(RuntimeStream::Unix), peer);
                    })
                    .await;
                }
            }
        }
    });
    tokio::join!(
        future::join_all(accepted),
        connections.end_idle(stop.clone()),
        connections.end_old(stop.clone())
    );
    drop(workers);
    for end in ends {
        // A worker that panicked has ended, too.
        let _ = end.await;
    }
    Ok(())
}

/// A connection between two runtimes.
enum RuntimeStream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

struct Worker {
    gate: Gate,
    services: Arc<Services>,
    tls: Option<Arc<TlsListener>>,
    hard_stop: CancellationToken,
}

impl Worker {
    async fn run(self, mut take: mpsc::UnboundedReceiver<(RuntimeStream, Arc<Connection>)>) {
        let connections = TaskTracker::new();
        while let Some((stream, own)) = take.recv().await {
            let peer = own.peer();
            let (stop, hard_stop) = (own.stop.clone(), own.hard_stop.clone());
            let gate = self.gate.at(own.clone());
            let tls = self.tls.clone();
            let metrics = self.services.metrics().clone();
            let connection = async move {
                let stream = match stream {
                    RuntimeStream::Tcp(stream) => TcpStream::from_std(stream),
                    RuntimeStream::Unix(stream) => {
                        if let Ok(stream) = UnixStream::from_std(stream) {
                            serve_connection(stream, gate, own).await;
                        }
                        return;
                    }
                };
                let Ok(stream) = stream else { return };
                let Some(tls) = tls else { return serve_connection(stream, gate, own).await };
                let accept = tokio::time::timeout(net::HANDSHAKE, tls.accept(stream, &stop));
                let accepted = tokio::select! {
                    accepted = accept => accepted,
                    () = stop.cancelled() => return,
                };
                match accepted {
                    Ok(Ok((stream, _open))) => serve_connection(stream, gate, own).await,
                    Ok(Err(error)) => net::log_failed_handshake(peer, &error),
                    Err(_) => tracing::info!(%peer, "a TLS handshake took too long"),
                }
            };
            connections.spawn(async move {
                tokio::select! {
                    () = connection => {}
                    () = hard_stop.cancelled() => {}
                }
                metrics.connections.dec();
            });
        }
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "closing connections that did not end");
            self.hard_stop.cancel();
            connections.wait().await;
        }
    }
}

async fn serve_connection<S>(mut stream: S, gate: ConnectionGate, own: Arc<Connection>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(answer::UNCOUNTED)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    let begun = tokio::select! {
        begun = tokio::time::timeout(net::HANDSHAKE, preface::read(&mut stream)) => begun,
        // No request is under way on a connection that has not begun.
        () = own.stop.cancelled() => return,
    };
    match begun {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection did not begin");
            return;
        }
        Err(_) => {
            tracing::debug!("a connection took too long to begin");
            return;
        }
    }
    let (stream, flusher) = buffered(AnyAuthority::new(stream));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), gate));
    let mut stopped = pin!(own.stop.cancelled());
    let mut stopping = false;
    let ended = poll_fn(|cx| {
        if !stopping && stopped.as_mut().poll(cx).is_ready() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        flusher.with_stream(|stream| stream.turn(own.is_known()));
        let ended = connection.as_mut().poll(cx).map_err(io::Error::other);
        match flusher.poll_send(cx) {
            Poll::Ready(Err(error)) if ended.is_pending() => Poll::Ready(Err(error)),
            _ => ended,
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a connection ended early");
    }
}
