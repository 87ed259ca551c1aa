//! Connections of listeners for HTTP: how many there are at once, in all and of one subscriber, TLS, and their end.
//!
//! # Invariants
//! - One subscriber never holds every place; where its share is used up, its connections are for one request each.
//! - No connection outlives [`serve`] by being served further: it is ended, or was given the time to end by itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use rustix::net::sockopt;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tls::TlsListener;
use super::unread::{self, Unread};
use super::{HANDSHAKE, Limiter, Listener, Peer, accept, log_failed_handshake};
use crate::policy::client_certificate::Fingerprint;
use crate::policy::time::Timestamp;
use crate::{pem, shutdown};

/// What the system keeps of unread answers for each connection, in bytes. Linux doubles it.
const SEND_BUFFER: usize = 32 << 10;
/// How long the system waits for a peer that confirms nothing, or takes nothing, also after the connection's
/// end here, in milliseconds (TCP_USER_TIMEOUT, RFC 5482).
const UNCONFIRMED: u32 = 15_000;

/// Listeners that are to be served.
pub struct HttpListeners {
    /// Where connections come from.
    pub listeners: Vec<Listener>,
    /// How those of addresses are secured; `None` for plain text. Those of Unix sockets are in plain text: nothing but
    /// this host carries them.
    pub tls: Option<Arc<TlsListener>>,
    /// Connections at once, of all listeners; more are closed at once. A fifth of them is a reserve for peers that have
    /// no place among the ordinary ones (all are taken, or their share): each of these is for one request, so that they
    /// are free again soon. One subscriber has at most half of the ordinary ones, and a sixteenth of the reserve.
    pub connections: usize,
    /// How long connections may take to end after the stop.
    pub drain: Duration,
}

/// A connection that has a place.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Where it comes from.
    pub peer: Peer,
    /// The certificate that the peer proved to have, of an authority that the listener accepts.
    pub certificate: Option<PeerCertificate>,
    /// Whether it may carry more than one request.
    pub keep_alive: bool,
    /// When it is to end in order.
    pub stop: CancellationToken,
}

/// A peer's own certificate, which was valid at the handshake.
#[derive(Debug, Clone, Copy)]
pub struct PeerCertificate {
    /// Which one it is.
    pub fingerprint: Fingerprint,
    /// The last instant at which it is valid: connections may last longer.
    pub valid_until: Timestamp,
}

impl PeerCertificate {
    /// That of a certificate in DER; `None` for what is none, which no handshake accepts.
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, until, _) = pem::validity(der)?;
        // Its last second belongs to it (RFC 5280, section 4.1.2.5).
        let valid_until = Timestamp(until.saturating_mul(1_000_000).saturating_add(999_999));
        Some(Self { fingerprint: Fingerprint::of(der), valid_until })
    }
}

/// What serves connections.
pub trait Serve: Clone + Send + Sync + 'static {
    /// Serves one connection until it ends.
    fn serve<S>(self, stream: Unread<S>, accepted: Accepted) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Notes that a connection was refused because there are too many.
    fn refused(&self) {}
}

/// Serves connections until `stop`, then waits for their end as long as the listeners say.
pub async fn serve(listeners: HttpListeners, server: impl Serve, stop: CancellationToken) {
    let HttpListeners { listeners, tls, connections, drain } = listeners;
    let reserved = connections / 5;
    let ordinary = connections - reserved;
    let places = Places {
        ordinary: Limiter::new(ordinary, ordinary.div_ceil(2)),
        reserve: Limiter::new(reserved, reserved.div_ceil(16)),
        unread: unread::room(),
        open: TaskTracker::new(),
        server,
        stop,
    };
    future::join_all(listeners.into_iter().map(async |listener| match listener {
        Listener::Tcp(listener) => {
            // Connections take these over from the listener.
            log_unlimited(
                sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER)
                    .and_then(|()| sockopt::set_tcp_user_timeout(&listener, UNCONFIRMED)),
            );
            let admit = |stream, peer| places.admit(stream, Peer::Ip(peer), tls.clone());
            accept(listener, places.stop.clone(), admit).await;
        }
        Listener::Unix(socket) => {
            let admit = |stream, peer| {
                log_unlimited(sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER));
                places.admit(stream, peer, None);
            };
            accept(socket, places.stop.clone(), admit).await;
        }
    }))
    .await;
    places.open.close();
    // What does not end in time ends with the process.
    let _ = tokio::time::timeout(drain, places.open.wait()).await;
}

fn log_unlimited(limited: rustix::io::Result<()>) {
    if let Err(error) = limited {
        tracing::warn!(%error, "cannot limit what the system keeps for HTTP clients that do not read");
    }
}

/// The places of connections, whichever listener they come through.
struct Places<V> {
    ordinary: Arc<Limiter>,
    reserve: Arc<Limiter>,
    unread: Arc<Limiter>,
    open: TaskTracker,
    server: V,
    stop: CancellationToken,
}

impl<V: Serve> Places<V> {
    /// Serves a connection in a task of its own, where there is a place for it.
    fn admit<S>(&self, stream: S, peer: Peer, tls: Option<Arc<TlsListener>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (place, keep_alive) = match self.ordinary.take(peer, 1) {
            Some(place) => (place, true),
            None => match self.reserve.take(peer, 1) {
                Some(place) => (place, false),
                None => return self.server.refused(),
            },
        };
        let mut accepted =
            Accepted { peer, certificate: None, keep_alive, stop: self.stop.child_token() };
        let (server, unread) = (self.server.clone(), self.unread.clone());
        let token = self.open.token();
        shutdown::spawn("http-connection", async move {
            let _held = (place, token);
            let Some(tls) = tls else {
                return server.serve(Unread::new(stream, unread, peer), accepted).await;
            };
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream, &accepted.stop)).await {
                Ok(Ok((stream, _open))) => {
                    let chain = stream.get_ref().1.peer_certificates();
                    let own = chain.and_then(|chain| chain.first());
                    accepted.certificate = own.and_then(PeerCertificate::read);
                    server.serve(Unread::new(stream, unread, peer), accepted).await;
                }
                Ok(Err(error)) => log_failed_handshake(peer, &error),
                Err(_) => tracing::info!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}
