//! A small HTTP server that publishes keys, and counts its requests.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::tls::Identity;

/// See the module. It ends with the test's process.
pub(super) struct KeyServer {
    address: SocketAddr,
    scheme: &'static str,
    answer: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
}

impl KeyServer {
    /// Publishes `document`.
    pub(super) fn start(document: &str) -> Self {
        Self::serve(document, None)
    }

    /// The same over TLS, as `identity`.
    pub(super) fn start_tls(document: &str, identity: &Identity) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.der()], identity.key_der())
            .unwrap();
        Self::serve(document, Some(Arc::new(config)))
    }

    fn serve(document: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            scheme: if tls.is_some() { "https" } else { "http" },
            answer: Arc::default(),
            requests: Arc::default(),
        };
        server.publish(document);
        let (answer, requests) = (server.answer.clone(), server.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                match &tls {
                    None => respond(stream, &answer, &requests),
                    Some(config) => {
                        let connection = ServerConnection::new(config.clone()).unwrap();
                        respond(StreamOwned::new(connection, stream), &answer, &requests);
                    }
                }
            }
        });
        server
    }

    /// Publishes another document.
    pub(super) fn publish(&self, document: &str) {
        self.answer("200 OK", "content-type: application/json\r\n", document);
    }

    /// Answers with this status, these header lines and this body.
    pub(super) fn answer(&self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        *self.answer.lock().unwrap() =
            format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
    }

    /// For `--leak-keys`.
    pub(super) fn url(&self) -> String {
        format!("{}://localhost:{}/keys", self.scheme, self.address.port())
    }

    /// How often it was asked.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Answers one request. A client that does not trust the certificate sends none.
fn respond(mut stream: impl Read + Write, answer: &Mutex<String>, requests: &AtomicUsize) {
    let mut lines = BufReader::new(&mut stream).lines();
    let first = lines.next().and_then(Result::ok);
    let is_get = first.is_some_and(|line| line == "GET /keys HTTP/1.1");
    let headers: Vec<_> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    if !is_get {
        return;
    }
    let agent = |line: &String| line.to_ascii_lowercase().starts_with("user-agent: portcullis");
    assert!(headers.iter().any(agent), "{headers:?}");
    requests.fetch_add(1, Ordering::SeqCst);
    let answer = answer.lock().unwrap().clone();
    // It may have gone away.
    let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
}
