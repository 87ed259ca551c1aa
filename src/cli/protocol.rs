//! What a port speaks, found out after a call failed: `http://` written for a TLS port, or `https://` for a
//! plaintext one, fails in ways that name neither.
//!
//! Must stay true: nothing secret is sent; no certificate is trusted, and none of what is read is used but for
//! the kind that it is. Blocks its thread: the command has nothing else to do.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use http::Uri;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::pem::TrustStore;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How every HTTP/2 connection begins, with the empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Whether TLS is spoken at `server`: a handshake succeeds, or fails over who the server is or what it wants.
pub(super) fn speaks_tls(server: &Uri) -> bool {
    use rustls::Error;
    let handshake = || {
        let host = server.host()?.trim_start_matches('[').trim_end_matches(']');
        let config = TrustStore::public_and(None).ok()?.client();
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let mut client = ClientConnection::new(config, name).ok()?;
        Some(client.complete_io(&mut connect(server)?))
    };
    match handshake() {
        Some(Ok(_)) => true,
        Some(Err(error)) => matches!(
            error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()),
            Some(Error::InvalidCertificate(_) | Error::AlertReceived(_))
        ),
        None => false,
    }
}

/// Whether HTTP is spoken at `server` without TLS.
pub(super) fn speaks_plaintext(server: &Uri) -> bool {
    let begin = || {
        let mut stream = connect(server)?;
        stream.write_all(BEGINNING).ok()?;
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).ok()?;
        // A SETTINGS frame of the whole connection, or the answer of an HTTP/1 server.
        Some((frame[3] == 4 && frame[5..] == [0; 4]) || frame.starts_with(b"HTTP/1."))
    };
    begin().unwrap_or(false)
}

fn connect(server: &Uri) -> Option<TcpStream> {
    let host = server.host()?.trim_start_matches('[').trim_end_matches(']');
    let default = if server.scheme_str() == Some("https") { 443 } else { 80 };
    let addresses = (host, server.port_u16().unwrap_or(default)).to_socket_addrs().ok()?;
    let stream = addresses
        .into_iter()
        .find_map(|address| TcpStream::connect_timeout(&address, PATIENCE).ok())?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}
