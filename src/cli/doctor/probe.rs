//! One request through the gateway, over a connection of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::failure::Failure;
use super::echo::{Echo, ID};
use crate::pem::TrustStore;
use crate::policy::duration;

/// The gateway that is checked.
pub(super) struct Gateway {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    timeout: Duration,
}

/// What is sent, beside the id and the host, and what is expected of it.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// What is checked, in a few words.
    pub(super) check: String,
    /// Header names and values that are shown to people. Without the token.
    pub(super) shown: Vec<(String, String)>,
    /// Values of `Authorization`.
    pub(super) authorization: Vec<HeaderValue>,
    /// What must not happen.
    pub(super) expectation: Expectation,
}

/// What must be true of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expectation {
    /// It reaches the service with every header of Portcullis.
    Allowed,
    /// It is denied.
    Denied,
    /// If it reaches the service, the forged value doesn't, and Portcullis's own does.
    OwnValue,
    /// If it reaches the service, no header of this name does.
    Removed,
    /// If it reaches the service, the forged value doesn't.
    NotForged,
    /// The same, but a service that follows the header has itself to blame.
    NotForgedOrWarned,
    /// If it reaches the service, the forged value is not the last element.
    NotLast,
}

/// What came of a probe.
#[derive(Debug)]
pub(super) struct Sent {
    /// The gateway's answer.
    pub(super) status: u16,
    /// `Portcullis-Reason` of the answer, where it has one.
    pub(super) reason: Option<String>,
    /// What the service received, where it reached it.
    pub(super) received: Option<HeaderMap>,
}

impl Probe {
    /// A request with the token that nothing is wrong with.
    pub(super) fn allowed(token: &str) -> Self {
        Self::new("a token that is allowed", &[], Expectation::Allowed).with_token(token)
    }

    /// A request with these headers and no token.
    pub(super) fn new(check: &str, headers: &[(&str, &str)], expectation: Expectation) -> Self {
        let shown = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            check: check.to_owned(),
            shown: shown.collect(),
            authorization: Vec::new(),
            expectation,
        }
    }

    /// The same with another `Authorization: Bearer`. A token that no header can carry is sent as none.
    pub(super) fn with_token(mut self, token: &str) -> Self {
        if let Ok(mut value) = HeaderValue::try_from(format!("Bearer {token}")) {
            value.set_sensitive(true);
            self.authorization.push(value);
        }
        self
    }
}

impl Sent {
    /// Why nothing can be checked: an allowed request did not reach the stand-in.
    pub(super) fn not_reached(&self, echo: SocketAddr) -> String {
        let reason = self.reason.as_deref();
        match (self.status, reason) {
            (status, Some(reason)) => format!(
                "the gateway denies the token with {status} {reason}, so nothing could be checked: the token must be \
                 allowed to GET this URL from here"
            ),
            (status, None) => format!(
                "the gateway answered {status}, but nothing reached {echo}: point the gateway's route for this URL \
                 there, or name with --echo where it points"
            ),
        }
    }
}

impl Gateway {
    pub(super) fn new(url: &str, trust: &TrustStore, timeout: Duration) -> Result<Self, Failure> {
        let usage = |cause: &str| {
            Failure::Usage(format!("URL: {cause}, such as http://127.0.0.1:8000/api"))
        };
        let uri: Uri = url.parse().map_err(|_| usage("it is no URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(trust.client()),
            _ => return Err(usage("it must begin with http:// or https://")),
        };
        if timeout.is_zero() {
            return Err(Failure::Usage("--probe-timeout must be longer than 0s".to_owned()));
        }
        let host = uri.host().ok_or_else(|| usage("it must name a host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        Ok(Self { host, port, tls, timeout, uri })
    }

    /// Sends one probe and waits for the gateway's answer.
    pub(super) async fn send(&self, probe: &Probe, echo: &Echo) -> Result<Sent, Failure> {
        let no_answer = |cause: String| Failure::NoServer {
            message: format!("the gateway at {}:{} gives no answer: {cause}", self.host, self.port),
            refused: false,
        };
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| no_answer(error.to_string()))?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        echo.expect(&id);
        let request = self.request(probe, &id)?;
        let (status, reason) = tokio::time::timeout(self.timeout, self.exchange(request))
            .await
            .map_err(|_| no_answer(format!("not within {}", duration::print(self.timeout))))?
            .map_err(no_answer)?;
        Ok(Sent { status, reason, received: echo.take() })
    }

    fn request(&self, probe: &Probe, id: &str) -> Result<Request<Empty<Bytes>>, Failure> {
        let unsendable = |_| Failure::Usage("URL: its host fits no header".to_owned());
        let mut request = Request::new(Empty::new());
        let target = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        *request.uri_mut() =
            target.parse().map_err(|_| Failure::Usage("URL: no path".to_owned()))?;
        let headers = request.headers_mut();
        let authority =
            self.uri.authority().map_or(self.host.as_str(), http::uri::Authority::as_str);
        headers.insert(HOST, HeaderValue::try_from(authority).map_err(unsendable)?);
        headers.insert(ID, HeaderValue::try_from(id).map_err(unsendable)?);
        for value in &probe.authorization {
            headers.append(AUTHORIZATION, value.clone());
        }
        for (name, value) in &probe.shown {
            // Constants of this module's neighbour.
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
            {
                headers.append(name, value);
            }
        }
        if !headers.contains_key(CONNECTION) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(request)
    }

    async fn exchange(
        &self,
        request: Request<Empty<Bytes>>,
    ) -> Result<(u16, Option<String>), String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port));
        let stream = stream.await.map_err(|error| error.to_string())?;
        match &self.tls {
            None => answer(stream, request).await,
            Some(config) => {
                let name =
                    ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
                let connector = TlsConnector::from(config.clone());
                let stream =
                    connector.connect(name, stream).await.map_err(|error| error.to_string())?;
                answer(stream, request).await
            }
        }
    }
}

/// The status of the answer, and Portcullis's reason in it.
async fn answer<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
) -> Result<(u16, Option<String>), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connected = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let reason = response.headers().get("portcullis-reason");
        let reason = reason.and_then(|reason| reason.to_str().ok()).map(str::to_owned);
        Ok((response.status().as_u16(), reason))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => match exchange.await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(ended.err().map_or(error, |error| error.to_string())),
        },
    }
}
