//! Where the keys come from: a file, or a URL that is read over HTTPS.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::keys::{InvalidKeys, PublisherKeys};
use crate::net;
use crate::pem::TrustStore;

/// The largest document of keys, in bytes.
const MAX_DOCUMENT: usize = 256 << 10;
/// How long reading it may take in all.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A place that keys are read from.
#[derive(Debug)]
pub(super) enum KeySource {
    File(PathBuf),
    Url(KeyUrl),
}

/// A URL of `https`, or of `http` on this host, and the authorities that its certificate may be from.
#[derive(Debug)]
pub(super) struct KeyUrl {
    url: Url,
    trust: TrustStore,
}

/// Why keys can't be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableKeys {
    /// The file can't be read.
    #[error("it can't be read: {0}")]
    File(#[from] std::io::Error),
    /// There is no answer from the URL, or none that can be used.
    #[error("{0}")]
    Answer(String),
    /// It took too long.
    #[error("there was no whole answer within 10s")]
    TooSlow,
    /// It contains no usable keys.
    #[error("it {0}")]
    Content(#[from] InvalidKeys),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(KeyUrl { url, .. }) => f.write_str(&url[..url::Position::AfterPath]),
        }
    }
}

impl KeySource {
    pub(super) fn url(url: Url, trust: TrustStore) -> Self {
        Self::Url(KeyUrl { url, trust })
    }

    pub(super) async fn read(&self) -> Result<PublisherKeys, UnreadableKeys> {
        let read = async {
            match self {
                Self::File(path) => file(path).await,
                Self::Url(url) => url.get().await.map_err(UnreadableKeys::Answer),
            }
        };
        let document = tokio::time::timeout(TIMEOUT, read).await;
        let document = document.map_err(|_| UnreadableKeys::TooSlow)??;
        Ok(PublisherKeys::read(&document)?)
    }
}

async fn file(path: &std::path::Path) -> Result<Bytes, UnreadableKeys> {
    let length = tokio::fs::metadata(path).await?.len();
    if length > MAX_DOCUMENT as u64 {
        return Err(UnreadableKeys::Answer(too_large()));
    }
    Ok(tokio::fs::read(path).await?.into())
}

fn too_large() -> String {
    format!("it is larger than {MAX_DOCUMENT} bytes")
}

impl KeyUrl {
    /// The document, in one request on a connection of its own. No redirect is followed: keys come from where the
    /// settings say, and from nowhere else.
    async fn get(&self) -> Result<Bytes, String> {
        let host = self.url.host().ok_or("the URL has no host")?;
        let port = self.url.port_or_known_default().ok_or("the URL has no port")?;
        let name = match &host {
            Host::Domain(name) => (*name).to_owned(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        };
        let stream = TcpStream::connect((name.as_str(), port)).await;
        let stream = stream.map_err(|error| format!("there is no connection: {error}"))?;
        if self.url.scheme() == "http" {
            return self.exchange(stream).await;
        }
        let server = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(self.trust.client());
        let stream = connector.connect(server, stream).await;
        self.exchange(stream.map_err(|error| format!("there is no TLS connection: {error}"))?).await
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let target = &self.url[url::Position::BeforePath..url::Position::AfterQuery];
        let authority = &self.url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = target.parse().map_err(|_| "the URL has no path")?;
        let headers = request.headers_mut();
        let host = HeaderValue::try_from(authority).map_err(|_| "the host fits no header")?;
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // GitHub refuses requests without it.
        headers.insert(USER_AGENT, HeaderValue::from_static(net::USER_AGENT));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }

    async fn exchange<S>(&self, stream: S) -> Result<Bytes, String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        net::exchange(stream, self.request()?, async |answer| {
            if answer.status() != StatusCode::OK {
                return Err(format!(
                    "the answer is {}; redirects are not followed",
                    answer.status().as_u16()
                ));
            }
            let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    too_large()
                } else {
                    error.to_string()
                }
            })
        })
        .await
    }
}
