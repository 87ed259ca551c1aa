//! Plain HTTP: what operators' tools read, and the management page.

mod authority;
mod exposition;
mod health;

use std::future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::alerts::Alerts;
use crate::net::server::{Accepted, HttpListeners, Serve};
use crate::net::tls::TlsListener;
use crate::net::unread::Unread;
use crate::policy::client_source::TrustedProxies;
use crate::service::Services;
use crate::telemetry::request_id::{self, REQUEST_ID, RequestId};
use crate::{alerts, net, web};

/// Connections at once; more are closed at once. See [`HttpListeners`].
pub const CONNECTIONS: usize = 1_280;
/// How long a client may take for the head of a request, or be silent before the next one.
const SILENCE: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes; what is larger is answered 431.
const MAX_HEAD: usize = 16 << 10;

/// Everything that is served over plain HTTP. `secure`: browsers reach it by TLS alone. `proxies` say where
/// browsers are. `alerts` is there where alerts about leaked secrets are received.
pub fn routes(
    services: Arc<Services>,
    secure: bool,
    proxies: TrustedProxies,
    alerts: Option<Arc<Alerts>>,
) -> Router {
    let alerts = alerts.map_or_else(Router::new, alerts::routes);
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .with_state(services.clone())
        .merge(alerts)
        .merge(web::routes(services, secure, proxies))
        .layer(middleware::from_fn(authority::check))
        .layer(middleware::from_fn(identify))
        .layer(middleware::map_response(move |response| {
            future::ready(web::guard(response, secure))
        }))
}

/// Answers a request with its id.
async fn identify(request: Request, next: Next) -> Response {
    let id = RequestId::read(request.headers());
    let answer = async {
        let mut answer = next.run(request).await;
        if let Some(id) = request_id::current() {
            answer.headers_mut().insert(REQUEST_ID, id);
        }
        answer
    };
    id.of(answer).await
}

/// In the format that `Accept` asks for.
async fn metrics(State(services): State<Arc<Services>>, headers: HeaderMap) -> impl IntoResponse {
    let exposition = exposition::accepted(&headers);
    let described = [(header::CONTENT_TYPE, exposition.content_type()), (header::VARY, "accept")];
    (described, services.render_metrics(exposition))
}

/// Always 200 while the process answers: see [`mod@health`].
async fn health(State(services): State<Arc<Services>>) -> String {
    health::text(&services.health())
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
    tls: Option<Arc<TlsListener>>,
    connections: usize,
    stop: CancellationToken,
) {
    // Pages under way end with the process.
    let listeners = vec![net::Listener::Tcp(listener)];
    let listeners = HttpListeners { listeners, tls, connections, drain: Duration::ZERO };
    net::server::serve(listeners, Pages { routes }, stop).await;
}

#[derive(Clone)]
struct Pages {
    routes: Router,
}

impl Serve for Pages {
    async fn serve<S>(self, stream: Unread<S>, accepted: Accepted)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Accepted { peer, keep_alive, stop, .. } = accepted;
        // The listener of pages is an address, so every peer has one.
        let Some(peer) = peer.ip() else { return };
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(SILENCE)
            .max_buf_size(MAX_HEAD)
            .keep_alive(keep_alive);
        let service = TowerToHyperService::new(self.routes.map_request(
            move |mut request: axum::http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(net::Peer::Ip(peer));
                request
            },
        ));
        let mut connection =
            std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_connections_are_those_of_the_code() {
        let (operations, page) =
            (include_str!("../../docs/operations.md"), include_str!("../../docs/page.md"));
        let reserved = CONNECTIONS / 5;
        let ordinary = CONNECTIONS - reserved;
        let ordinary = format!("{},{:03}", ordinary / 1_000, ordinary % 1_000);
        for row in [
            format!("| HTTP connections | {ordinary} | half | |"),
            format!("for one request each | {reserved} | {} | |", reserved.div_ceil(16)),
        ] {
            assert!(operations.contains(&row), "docs/operations.md lacks: {row}");
        }
        for text in [
            format!("half of the {ordinary} connections"),
            format!("{reserved} connections and"),
            format!("at most {} KiB has {} seconds", MAX_HEAD >> 10, SILENCE.as_secs()),
        ] {
            assert!(page.contains(&text), "docs/page.md lacks: {text}");
        }
    }
}
