//! The stand-in for the service: records the headers of this command's own requests, and answers no others.
//!
//! # Invariants
//! - What is kept is bounded: one request for each id that is expected, and only while it is.
//! - It is known by an id that nobody can guess, so that a stranger's request is never taken for a probe.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::super::failure::Failure;

/// The header with the id of a request. Gateways pass on headers that they don't know.
pub(super) const ID: &str = "x-portcullis-doctor";
/// Connections at once; a gateway keeps a few.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// How long a head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The id that is waited for, and what came with it.
#[derive(Debug, Default)]
struct Expected {
    id: String,
    received: Option<HeaderMap>,
}

/// A listener that serves until it is dropped.
#[derive(Debug)]
pub(super) struct Echo {
    expected: Arc<Mutex<Expected>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Echo {
    /// Listens at `address`.
    pub(super) async fn start(address: SocketAddr) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::Usage(format!(
                "--echo: {address} can't be listened on: {error}; stop the service that has it, or point the \
                 gateway's route at another address and name that one"
            ))
        })?;
        let expected = Arc::<Mutex<Expected>>::default();
        #[expect(
            clippy::disallowed_methods,
            reason = "a command has no supervisor: the task ends with its handle, and a panic fails the check"
        )]
        let serving = tokio::spawn(serve(listener, expected.clone()));
        Ok(Self { expected, serving })
    }

    /// From here on, a request with `id` is recorded.
    pub(super) fn expect(&self, id: &str) {
        *lock(&self.expected) = Expected { id: id.to_owned(), received: None };
    }

    /// The headers of the request that was expected, where it came.
    pub(super) fn take(&self) -> Option<HeaderMap> {
        std::mem::take(&mut *lock(&self.expected)).received
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(expected: &Mutex<Expected>) -> std::sync::MutexGuard<'_, Expected> {
    expected.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, expected: Arc<Mutex<Expected>>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: the next attempt may find one.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let expected = expected.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &expected);
                async { Ok::<_, Infallible>(response) }
            });
            let mut connection = http1::Builder::new();
            connection
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD);
            // A gateway that breaks off is no error of the check: the probe is missing then.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, expected: &Mutex<Expected>) -> Response<Full<Bytes>> {
    let mut expected = lock(expected);
    let id = request.headers().get(ID).map(http::HeaderValue::as_bytes);
    let known = !expected.id.is_empty() && id == Some(expected.id.as_bytes());
    let (status, text) = if known {
        expected.received = Some(request.headers().clone());
        (StatusCode::OK, "portcullis doctor received this request\n")
    } else {
        (StatusCode::NOT_FOUND, "portcullis doctor runs here, and answers its own requests alone\n")
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
