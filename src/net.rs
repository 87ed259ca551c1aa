//! Listeners, TLS and limits, for gRPC and HTTP alike. Must stay true: each error of a TLS file names its flag.

mod attempts;
mod limiter;
mod peer;
pub mod server;
mod unix;
pub mod unread;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::pem::{self, InvalidAuthorities, TrustStore};
pub use attempts::{Attempts, WINDOW as ATTEMPTS_WINDOW};
pub use limiter::{Limiter, Permit};
pub use peer::Peer;
pub use unix::UnixSocket;

/// How long a client may take for its TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: {path} {why}")]
pub struct TlsError {
    flag: &'static str,
    path: String,
    why: String,
}

/// A file, and the flag that names it.
#[derive(Clone, Copy)]
struct NamedFile<'p>(&'static str, &'p Path);

impl NamedFile<'_> {
    fn error(self, why: impl std::fmt::Display) -> TlsError {
        let Self(flag, path) = self;
        TlsError { flag, path: path.display().to_string(), why: why.to_string() }
    }

    fn read<T>(self, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, TlsError> {
        let bytes = std::fs::read(self.1)
            .map(zeroize::Zeroizing::new)
            .map_err(|error| self.error(format_args!("can't be read: {error}")))?;
        parse(&bytes).map_err(|why| self.error(why))
    }
}

/// Whether clients are asked for a certificate, and the file with the authorities that may have issued it.
#[derive(Debug, Clone, Copy)]
pub enum ClientAuth<'p> {
    /// No.
    None,
    /// A client may present one; a wrong one ends the handshake.
    Optional(&'p Path),
    /// A client has to present one.
    Required(&'p Path),
}

/// What a server proves itself with, speaking the protocols `alpn`.
///
/// # Errors
/// A file can't be read, or does not hold what it should.
pub fn tls(
    cert: &Path,
    key: &Path,
    client_auth: ClientAuth<'_>,
    alpn: &[&[u8]],
) -> Result<TlsAcceptor, TlsError> {
    let (cert, key) = (NamedFile("tls-cert", cert), NamedFile("tls-key", key));
    let chain = cert.read(pem::certificates)?;
    let private = key.read(pem::private_key)?;
    if !pem::belongs(&chain, &private) {
        return Err(key.error(format_args!(
            "is not the key of the first certificate in {}, the file of --tls-cert: name the key that \
             the certificate was made for, and put the server's own certificate first",
            cert.1.display()
        )));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| cert.error(error))?;
    let builder = match client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(path) | ClientAuth::Required(path) => {
            let file = NamedFile("tls-client-ca", path);
            let unusable = |error: &dyn std::fmt::Display| {
                format!("has an authority that can't be used: {error}")
            };
            let trust = file.read(|pem| {
                TrustStore::only(pem).map_err(|error| match error {
                    InvalidAuthorities::Pem(why) => why,
                    InvalidAuthorities::Unusable(error) => unusable(&error),
                })
            })?;
            let verifier = WebPkiClientVerifier::builder_with_provider(trust.roots(), provider);
            let verifier = match client_auth {
                ClientAuth::Optional(_) => verifier.allow_unauthenticated(),
                ClientAuth::None | ClientAuth::Required(_) => verifier,
            };
            let verifier = verifier.build().map_err(|error| file.error(unusable(&error)))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|error| cert.error(error))?;
    if let ClientAuth::Optional(_) = client_auth {
        // A resumed session keeps its certificate, also once that has expired: here, it identifies the caller.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Logs why a client's TLS handshake failed, with the cure where that is known.
pub fn log_failed_handshake(peer: impl Into<Peer>, error: &io::Error) {
    use rustls::{Error, InvalidMessage};
    let peer = peer.into();
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    if matches!(cause, Some(Error::InvalidMessage(InvalidMessage::InvalidContentType))) {
        tracing::info!(
            %peer,
            "a client speaks plain text to this TLS listener: its address must begin with https://"
        );
    } else {
        tracing::info!(%peer, %error, "a TLS handshake failed");
    }
}

/// What accepts connections.
pub trait Accept {
    /// A connection.
    type Stream;
    /// Who is at its other end.
    type Peer;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    type Peer = IpAddr;

    async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        // Answers are small and must not wait for more of them.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer.ip()))
    }
}

/// A listener of either kind.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a path, for processes of this host.
    Unix(UnixSocket),
}

impl Listener {
    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<ListenerAddress> {
        Ok(match self {
            Self::Tcp(listener) => ListenerAddress::Tcp(listener.local_addr()?),
            Self::Unix(socket) => ListenerAddress::Unix(socket.path().to_owned()),
        })
    }
}

/// Where a listener is, written as `--listen` and `--server` take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Accepts connections until `stop`, and hands each to `serve`. The listener is closed then.
pub async fn accept<L: Accept>(
    listener: L,
    stop: CancellationToken,
    mut serve: impl FnMut(L::Stream, L::Peer),
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => serve(stream, peer),
            Err(error) => {
                // Out of descriptors, most likely: the listener works again once some are closed.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Whom an address belongs to, as far as it shows: a host with an IPv6 address has a whole /64 of them.
pub fn subscriber(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Binds the first of `addresses` that this host has: a host name may stand for several, of which one is of a
/// family that is switched off. One that is in use is an error, since clients would find another server there.
///
/// # Errors
/// The system's, naming `flag` and the address.
pub async fn bind(flag: &str, addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut addresses = addresses.iter().peekable();
    while let Some(address) = addresses.next() {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if is_absent(&error) && addresses.peek().is_some() => {}
            Err(error) => {
                let text = format!("--{flag}: cannot listen on {address}: {error}");
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }
    Err(io::Error::other(format!("--{flag}: names no address")))
}

/// Whether this host has no such address: none at all, or none of that family.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}
