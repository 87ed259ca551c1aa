//! Listeners, TLS and limits, for gRPC and HTTP alike.

mod limiter;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use limiter::{Limiter, Permit};

/// How long a client may take for its TLS handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct TlsError {
    path: String,
    why: String,
}

fn read_error(path: &Path, why: impl std::fmt::Display) -> TlsError {
    TlsError { path: path.display().to_string(), why: why.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match certificates {
        Ok(found) if found.is_empty() => Err(read_error(path, "has no PEM certificate")),
        Ok(found) => Ok(found),
        Err(error) => {
            Err(read_error(path, format_args!("is no file of PEM certificates ({error})")))
        }
    }
}

/// What a server proves itself with, speaking the protocols `alpn`; with `client_ca`, clients must
/// prove themselves as well.
///
/// # Errors
/// A file can't be read, or does not hold what it should.
pub fn tls(
    cert: &Path,
    key: &Path,
    client_ca: Option<&Path>,
    alpn: &[&[u8]],
) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| read_error(key, format_args!("is no file of a PEM key ({error})")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| read_error(cert, error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| read_error(path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| read_error(path, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, private)
        .map_err(|error| read_error(cert, format_args!("does not go with the key ({error})")))?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts connections until `stop`, and hands each to `serve`.
pub async fn accept(
    listener: TcpListener,
    stop: CancellationToken,
    mut serve: impl FnMut(TcpStream, IpAddr),
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Answers are small and must not wait for more of them.
                let _ = stream.set_nodelay(true);
                serve(stream, peer.ip());
            }
            Err(error) => {
                // Out of descriptors, most likely: the listener works again once some are closed.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Whom an address belongs to, as far as it tells: whoever has an IPv6 address has a whole /64 of them.
pub fn subscriber(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Binds `address`.
///
/// # Errors
/// The system's, naming the address.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}
