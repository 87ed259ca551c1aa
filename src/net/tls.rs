//! TLS of listeners: what the server proves itself with, which clients it accepts, and how both are replaced while
//! connections are open.
//!
//! # Invariants
//! - Each error of a file names its flag.
//! - A connection keeps what it began with. Only those end, in order, whose client's certificate no authority of the
//!   replacement vouches for (rule 8.14 of docs/policy.md); none of these is missed, whenever its handshake ends.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::files;
use crate::pem::{self, InvalidAuthorities, TrustStore};

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: {path} {why}")]
pub struct TlsError {
    flag: &'static str,
    path: String,
    why: String,
}

/// The content of a file, and the flag that names it. Wiped when it is dropped: it may be a private key.
pub struct NamedFile {
    flag: &'static str,
    path: PathBuf,
    content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamedFile({}, {})", self.flag, self.path.display())
    }
}

impl NamedFile {
    /// Reads the file.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(flag: &'static str, path: &Path) -> Result<Self, TlsError> {
        let file = Self { flag, path: path.to_owned(), content: Zeroizing::default() };
        match files::read(path) {
            Ok(content) => Ok(Self { content, ..file }),
            Err(error) => Err(file.error(format_args!("can't be read: {error}"))),
        }
    }

    fn error(&self, why: impl fmt::Display) -> TlsError {
        TlsError { flag: self.flag, path: self.path.display().to_string(), why: why.to_string() }
    }

    fn parse<T>(&self, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, TlsError> {
        parse(&self.content).map_err(|why| self.error(why))
    }

    /// The certificates in it.
    ///
    /// # Errors
    /// There are none, or they are damaged.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        self.parse(pem::certificates)
    }

    /// The flag that names it.
    pub fn flag(&self) -> &'static str {
        self.flag
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The files of the server's TLS, read together.
#[derive(Debug)]
pub struct TlsFiles {
    /// The chain of certificates, the server's own first.
    pub cert: NamedFile,
    /// The private key of that one.
    pub key: NamedFile,
    /// The authorities that may have issued certificates of clients.
    pub client_ca: Option<NamedFile>,
}

/// Whether clients are asked for a certificate, where the settings name authorities for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No.
    None,
    /// A client may present one; a wrong one ends the handshake.
    Optional,
    /// A client has to present one.
    Required,
}

/// Who may have issued the certificates of clients.
struct Authorities {
    roots: Arc<RootCertStore>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// What a listener proves itself with, and whom it accepts.
pub struct TlsConfig {
    server: Arc<ServerConfig>,
    authorities: Option<Authorities>,
}

impl TlsConfig {
    /// Checks the files, for a listener that speaks the protocols `alpn`.
    ///
    /// # Errors
    /// A file does not hold what it should.
    pub fn new(
        files: &TlsFiles,
        client_auth: ClientAuth,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let TlsFiles { cert, key, client_ca } = files;
        let chain = cert.certificates()?;
        let private = key.parse(pem::private_key)?;
        if !pem::belongs(&chain, &private) {
            return Err(key.error(format_args!(
                "is not the key of the first certificate in {}, the file of --tls-cert: name the key that \
                 the certificate was made for, and put the server's own certificate first",
                cert.path.display()
            )));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| cert.error(error))?;
        let authorities = match client_ca {
            Some(file) if client_auth != ClientAuth::None => {
                Some(Authorities::read(file, client_auth, provider)?)
            }
            _ => None,
        };
        let builder = match &authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => builder.with_client_cert_verifier(authorities.verifier.clone()),
        };
        let mut server =
            builder.with_single_cert(chain, private).map_err(|error| cert.error(error))?;
        if client_auth == ClientAuth::Optional && authorities.is_some() {
            // A resumed session keeps its certificate, also once that has expired: here, it identifies the caller.
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
        }
        server.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Self { server: Arc::new(server), authorities })
    }

    /// Whether a client would have been accepted at `handshake` that presented `chain`.
    fn accepts(&self, chain: &[CertificateDer<'_>], handshake: UnixTime) -> bool {
        match (&self.authorities, chain) {
            (Some(authorities), [own, rest @ ..]) => {
                authorities.verifier.verify_client_cert(own, rest, handshake).is_ok()
            }
            _ => true,
        }
    }

    /// Whether every client that `former` accepts is accepted.
    fn includes(&self, former: &Self) -> bool {
        match (&self.authorities, &former.authorities) {
            (Some(new), Some(former)) => {
                former.roots.roots.iter().all(|root| new.roots.roots.contains(root))
            }
            _ => true,
        }
    }
}

impl Authorities {
    fn read(
        file: &NamedFile,
        client_auth: ClientAuth,
        provider: Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let unusable =
            |error: &dyn fmt::Display| format!("has an authority that can't be used: {error}");
        let trust = file.parse(|pem| {
            TrustStore::only(pem).map_err(|error| match error {
                InvalidAuthorities::Pem(why) => why,
                InvalidAuthorities::Unusable(error) => unusable(&error),
            })
        })?;
        let roots = trust.roots();
        let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
        let builder = match client_auth {
            ClientAuth::Optional => builder.allow_unauthenticated(),
            ClientAuth::None | ClientAuth::Required => builder,
        };
        let verifier = builder.build().map_err(|error| file.error(unusable(&error)))?;
        Ok(Self { roots, verifier })
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig").finish_non_exhaustive()
    }
}

/// The client at the other end of an open connection, by its certificate.
#[derive(Debug, Clone)]
struct Client {
    chain: Arc<[CertificateDer<'static>]>,
    handshake: UnixTime,
    stop: CancellationToken,
}

/// The open connections whose clients presented a certificate, by a number of their own.
#[derive(Debug, Default)]
struct Clients {
    next: u64,
    open: HashMap<u64, Client>,
}

/// The TLS of one listener.
#[derive(Debug)]
pub struct TlsListener {
    current: ArcSwap<TlsConfig>,
    clients: Mutex<Clients>,
}

impl TlsListener {
    /// Begins with `config`.
    pub fn new(config: TlsConfig) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(config), clients: Mutex::default() })
    }

    /// Does the handshake of a connection. Keep what comes with it for as long as the connection is open: `stop` is
    /// cancelled where the client's authority is removed meanwhile.
    ///
    /// # Errors
    /// The handshake failed, or the client's authority was removed during it.
    pub async fn accept<S>(
        self: &Arc<Self>,
        stream: S,
        stop: &CancellationToken,
    ) -> io::Result<(TlsStream<S>, Option<OpenClient>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.current.load_full();
        let stream = TlsAcceptor::from(config.server.clone()).accept(stream).await?;
        let client = match stream.get_ref().1.peer_certificates() {
            None => None,
            Some(chain) => {
                let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
                let time = config.server.time_provider.current_time();
                let handshake = time.ok_or_else(|| io::Error::other("the system has no time"))?;
                let client = Client { chain, handshake, stop: stop.clone() };
                Some(self.enter(client, config)?)
            }
        };
        Ok((stream, client))
    }

    /// Notes a client that `config` has accepted.
    fn enter(
        self: &Arc<Self>,
        client: Client,
        mut config: Arc<TlsConfig>,
    ) -> io::Result<OpenClient> {
        loop {
            let mut clients = self.clients();
            let current = self.current.load_full();
            if Arc::ptr_eq(&current, &config) {
                let number = clients.next;
                clients.next += 1;
                clients.open.insert(number, client);
                return Ok(OpenClient { listener: self.clone(), number });
            }
            // Replaced during the handshake. Not checked under the lock, which other threads wait for.
            drop(clients);
            if !current.accepts(&client.chain, client.handshake) {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the authority of the client's certificate was removed",
                ));
            }
            config = current;
        }
    }

    /// Secures new connections by `config` from now on, and ends those in order whose client's authority is not in it
    /// any more; how many these are. Checks signatures, so it belongs on a thread that may be kept.
    pub fn replace(&self, config: TlsConfig) -> usize {
        let config = Arc::new(config);
        let (former, open) = {
            let clients = self.clients();
            let former = self.current.swap(config.clone());
            (former, clients.open.values().cloned().collect::<Vec<_>>())
        };
        if config.includes(&former) {
            return 0;
        }
        // Many connections present the same certificate.
        let mut accepted = HashMap::new();
        let refused = open.iter().filter(|client| {
            !*accepted
                .entry(&client.chain)
                .or_insert_with(|| config.accepts(&client.chain, client.handshake))
        });
        refused.inspect(|client| client.stop.cancel()).count()
    }

    /// What a panic elsewhere leaves is consistent.
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place among the open ones, given back when it is dropped.
#[derive(Debug)]
pub struct OpenClient {
    listener: Arc<TlsListener>,
    number: u64,
}

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.listener.clients().open.remove(&self.number);
    }
}
