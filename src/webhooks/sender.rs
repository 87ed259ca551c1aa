//! Sends a message to a webhook's URL: over HTTPS, to an address that is judged before each connection.
//!
//! # Invariants
//! - A connection is made only to an address that [`InternalHosts::admit`] admits, and it is the address that was judged:
//!   the name is not resolved again for the connection.
//! - No redirect is followed, and nothing of an answer's body is kept, shown or logged.
//! - All of it ends within one time limit, however a receiver or a name server behaves.
//!
//! Rules 14.8, 14.9, 14.10 and 14.11 of docs/policy.md.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use super::message::Message;
use crate::net;
use crate::pem::TrustStore;
use crate::policy::destination::{self, InternalHosts};

/// How much of an answer's body is read, in bytes, so that a receiver can end it in order.
const MAX_ANSWER: usize = 16 << 10;
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was received: the answer's status is 2xx.
    Received(u16),
    /// The receiver wants no more: 410.
    Gone,
    /// The receiver takes exception to this message, and may take others: 400, 413 or 422.
    Refused(u16),
    /// Anything else: the end of a sentence for operators.
    Failed(String),
}

/// See the module.
#[derive(Debug)]
pub struct Sender {
    trust: TrustStore,
    internal: InternalHosts,
    timeout: Duration,
}

impl Sender {
    /// Sends to receivers whose certificates are from authorities in `trust`, to public addresses and those of
    /// `internal`, each message within `timeout`.
    pub fn new(trust: TrustStore, internal: InternalHosts, timeout: Duration) -> Self {
        Self { trust, internal, timeout }
    }

    /// Internal hosts that may be sent to.
    pub fn internal(&self) -> &InternalHosts {
        &self.internal
    }

    /// How long one message may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) async fn send(&self, url: &str, message: &Message) -> Outcome {
        let answer = tokio::time::timeout(self.timeout, self.post(url, message)).await;
        match answer {
            Err(_) => Outcome::Failed(format!(
                "there was no answer within {}",
                crate::policy::duration::print(self.timeout)
            )),
            Ok(Err(why)) => Outcome::Failed(why),
            Ok(Ok(status)) => outcome(status),
        }
    }

    async fn post(&self, url: &str, message: &Message) -> Result<StatusCode, String> {
        // Settings may have changed since it was accepted.
        let url =
            destination::url(url, &self.internal).map_err(|error| format!("the URL {error}"))?;
        let host = url.host().ok_or("the URL has no host")?;
        let request = request(&url, message)?;
        let stream = self.connect(&url, &host).await?;
        if url.scheme() == "http" {
            return exchange(stream, request).await;
        }
        let server = match &host {
            Host::Domain(name) => ServerName::try_from((*name).to_owned())
                .map_err(|error| format!("the host fits no certificate: {error}"))?,
            Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
            Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
        };
        let stream = TlsConnector::from(self.trust.client()).connect(server, stream).await;
        let stream = stream.map_err(|error| format!("there is no TLS connection: {error}"))?;
        exchange(stream, request).await
    }

    /// Resolves the host and connects to the first of its addresses that may be sent to. Rules 14.9 and 14.10 of
    /// docs/policy.md.
    async fn connect(&self, url: &Url, host: &Host<&str>) -> Result<TcpStream, String> {
        let port = url.port_or_known_default().ok_or("the URL has no port")?;
        let addresses: Vec<SocketAddr> = match host {
            Host::Ipv4(ip) => vec![(*ip, port).into()],
            Host::Ipv6(ip) => vec![(*ip, port).into()],
            Host::Domain(name) => {
                let found = lookup_host((*name, port)).await;
                found.map_err(|error| format!("the host can't be resolved: {error}"))?.collect()
            }
        };
        let plaintext = url.scheme() == "http";
        let mut why = "the host has no address".to_owned();
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            if let Err(refused) = self.internal.admit(host, address.ip(), plaintext) {
                why = refused.to_string();
                continue;
            }
            // A share of the time for each, so that one that does not answer leaves some for the next.
            let connect = tokio::time::timeout(self.timeout / 3, TcpStream::connect(address)).await;
            match connect {
                Ok(Ok(stream)) => {
                    let peer = stream.peer_addr().map_err(|error| error.to_string())?;
                    let admitted = self.internal.admit(host, peer.ip(), plaintext);
                    return admitted.map(|()| stream).map_err(|refused| refused.to_string());
                }
                Ok(Err(error)) => why = format!("there is no connection to {address}: {error}"),
                Err(_) => why = format!("there is no connection to {address} in time"),
            }
        }
        Err(why)
    }
}

fn request(url: &Url, message: &Message) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(message.body.clone()));
    *request.method_mut() = Method::POST;
    let target = &url[Position::BeforePath..Position::AfterQuery];
    *request.uri_mut() = target.parse().map_err(|_| "the URL has no path")?;
    let authority = &url[Position::BeforeHost..Position::AfterPort];
    let value = |text: &str| {
        HeaderValue::try_from(text).map_err(|_| "the message fits no header".to_owned())
    };
    let headers = request.headers_mut();
    headers.insert(HOST, value(authority)?);
    headers.insert(USER_AGENT, HeaderValue::from_static(net::USER_AGENT));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ID, value(&message.id)?);
    headers.insert(TIMESTAMP, message.seconds.into());
    headers.insert(SIGNATURE, value(&message.signatures)?);
    Ok(request)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    net::exchange(stream, request, async |answer| {
        let status = answer.status();
        // What it says is of no interest, and neither is how it ends.
        let _ = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        Ok(status)
    })
    .await
    .map_err(|error| format!("there is no answer: {error}"))
}

/// Rules 14.12 and 14.14 of docs/policy.md.
fn outcome(status: StatusCode) -> Outcome {
    let number = status.as_u16();
    match status {
        StatusCode::GONE => Outcome::Gone,
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY => Outcome::Refused(number),
        status if status.is_success() => Outcome::Received(number),
        status if status.is_redirection() => {
            Outcome::Failed(format!("the answer is {number}, and redirects are not followed"))
        }
        _ => Outcome::Failed(format!("the answer is {number}")),
    }
}
