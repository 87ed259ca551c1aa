//! One request over HTTP/1.1, on a connection of its own.
//!
//! Must stay true: what a server answers is bounded before it is read: its head here, its body by the reader.

use bytes::Buf;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// What requests of this program name it as.
pub const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));
/// The largest head of an answer, in bytes, and the most headers in it.
const MAX_HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 100;

/// Sends `request` over `stream`; what `read` makes of the answer.
///
/// # Errors
/// There is no answer, or its head is too large, as the end of a sentence; those of `read`.
pub async fn exchange<S, B, T>(
    stream: S,
    request: Request<B>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, String>,
) -> Result<T, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: Body + Unpin + 'static,
    B::Data: Buf + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        read(answer).await
    };
    let drive = async {
        // Its end is noticed by the exchange.
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = exchange => answer,
        () = drive => Err("the connection ended".to_owned()),
    }
}
