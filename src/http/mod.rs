//! Plain HTTP: what operators' tools read, and the management page.

mod health;
mod page;
mod room;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::clock::Stopwatch;
use crate::lifecycle::Standing;
use crate::service::Services;
use crate::{net, shutdown};
use room::Room;

/// Connections at once; more are closed at once. Of one subscriber at most half of them.
pub const CONNECTIONS: usize = 2_048;
/// How long a client may take for the head of a request, or be silent before the next one.
const SILENCE: Duration = Duration::from_secs(10);

/// Everything that is served over plain HTTP. `secure`: browsers reach it by TLS alone.
pub fn routes(services: Arc<Services>, standing: Arc<Standing>, secure: bool) -> Router {
    let health = {
        let (services, standing) = (services.clone(), standing.clone());
        async move || {
            let has_lease = services.replicas.may_decide(Stopwatch::start());
            let sight = services.replicas.sight().unwrap_or_default();
            health::text(&services.outlook(), standing.known().as_deref(), has_lease, &sight)
        }
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .with_state(services.clone())
        .merge(page::routes(services, standing, secure))
}

async fn metrics(State(services): State<Arc<Services>>) -> impl IntoResponse {
    let entries = i64::try_from(services.cache.tokens.len()).unwrap_or(i64::MAX);
    services.metrics.cache_entries.set(entries);
    if let Some(left) = services.replicas.lease_left() {
        services.metrics.lease_left.set(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
    }
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], services.metrics.render())
}

/// Ready where decisions can be made.
async fn ready(State(services): State<Arc<Services>>) -> (StatusCode, String) {
    match services.can_decide() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// Serves up to `connections` at once until `stop`.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    tls: Option<TlsAcceptor>,
    connections: usize,
    stop: CancellationToken,
) {
    let room = Arc::new(Room::new(connections, connections.div_ceil(2)));
    net::accept(listener, stop.clone(), |stream, peer| {
        let Some(place) = room.enter(peer) else { return };
        let (routes, tls, stop) = (routes.clone(), tls.clone(), stop.clone());
        shutdown::spawn("http-connection", async move {
            let _place = place;
            match tls {
                None => serve_connection(stream, peer, routes, stop).await,
                Some(tls) => match tokio::time::timeout(net::HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => serve_connection(stream, peer, routes, stop).await,
                    Ok(Err(error)) => {
                        tracing::info!(%peer, %error, "a TLS handshake failed");
                    }
                    Err(_) => tracing::info!(%peer, "a TLS handshake took too long"),
                },
            }
        });
    })
    .await;
}

async fn serve_connection<S>(stream: S, peer: IpAddr, routes: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    let service = TowerToHyperService::new(routes.map_request(
        move |mut request: axum::http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(page::Peer(peer));
            request
        },
    ));
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
