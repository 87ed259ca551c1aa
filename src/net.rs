//! Listeners, TLS and limits, for gRPC and HTTP alike.

mod attempts;
mod exchange;
mod limiter;
mod peer;
pub mod server;
pub mod tls;
mod unix;
pub mod unread;

use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub use attempts::{Attempts, WINDOW as ATTEMPTS_WINDOW};
pub use exchange::{USER_AGENT, exchange};
pub use limiter::{Limiter, Permit};
pub use peer::Peer;
pub use unix::UnixSocket;

/// How long a client may take for its TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

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

/// `age` give or take a tenth, at random: connections that began together, as after a start, don't end together.
pub fn with_jitter(age: Duration) -> Duration {
    // Each of them has keys of its own.
    let random = RandomState::new().build_hasher().finish();
    age.mul_f64(0.9 + 0.2 * (random as f64 / u64::MAX as f64))
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
