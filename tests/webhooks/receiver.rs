//! A receiver of webhooks: a small HTTP server that keeps what it is sent, and answers as a test says.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::support::tls::Identity;
use crate::support::wait::until;

/// How a request is answered.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// With this status.
    Status(u16),
    /// With 302 and this place to go to.
    Redirect(String),
    /// Never.
    Silence,
    /// With 200 and a body that does not end.
    EndlessBody,
    /// With 200 and headers that do not end.
    EndlessHead,
}

/// A message as it was received.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Message {
    pub(super) fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The type of its event.
    pub(super) fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    /// How many of its signatures are those of `secret`, with another library than the server's.
    pub(super) fn signatures_of(&self, secret: &str) -> usize {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        let signed = format!("{}.{}.{}", self.id(), self.headers["webhook-timestamp"], self.body);
        let signatures = self.headers["webhook-signature"].split(' ');
        let is_of = |signature: &str| {
            let signature = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            ring::hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
        };
        signatures.filter(|signature| is_of(signature)).count()
    }
}

/// See the module. It ends with the test's process.
pub(super) struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// What was received and answered with 200, and everything that was sent.
    accepted: Mutex<Vec<Message>>,
    received: Mutex<Vec<Message>>,
    steps: Mutex<VecDeque<Step>>,
    /// What is answered where no step is left; 200 where there is none.
    rest: Mutex<Option<Step>>,
    connections: AtomicUsize,
}

impl Receiver {
    /// Over TLS, as `identity`.
    pub(super) fn tls(identity: &Identity) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.der()], identity.key_der())
            .unwrap();
        Self::serve("https", Some(Arc::new(config)))
    }

    /// Without TLS.
    pub(super) fn plain() -> Self {
        Self::serve("http", None)
    }

    fn serve(scheme: &'static str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let (state, tls) = (shared.clone(), tls.clone());
                thread::spawn(move || match tls {
                    None => state.answer(stream),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        state.answer(StreamOwned::new(connection, stream));
                    }
                });
            }
        });
        Self { address, scheme, state }
    }

    /// Its URL, at `localhost`.
    pub(super) fn url(&self) -> String {
        format!("{}://localhost:{}/hook?key=value", self.scheme, self.address.port())
    }

    /// Answers the next requests like this, and those after them with 200.
    pub(super) fn answer(&self, steps: &[Step]) {
        self.state.steps.lock().unwrap().extend(steps.iter().cloned());
    }

    /// Answers every request like this from now on; `None` for 200.
    pub(super) fn answer_always(&self, step: Option<Step>) {
        *self.state.rest.lock().unwrap() = step;
    }

    /// Everything that was answered with 2xx.
    pub(super) fn accepted(&self) -> Vec<Message> {
        self.state.accepted.lock().unwrap().clone()
    }

    /// Everything that was sent.
    pub(super) fn received(&self) -> Vec<Message> {
        self.state.received.lock().unwrap().clone()
    }

    /// Waits for so many that were answered with 2xx.
    #[track_caller]
    pub(super) fn wait_for(&self, count: usize) -> Vec<Message> {
        until(|| self.accepted(), |accepted| accepted.len() >= count)
    }

    /// How often somebody connected.
    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl State {
    fn answer(&self, mut stream: impl Read + Write) {
        let Some(message) = read(&mut stream) else { return };
        let step = self.steps.lock().unwrap().pop_front();
        let step = step.or_else(|| self.rest.lock().unwrap().clone());
        self.received.lock().unwrap().push(message.clone());
        let head = match step.unwrap_or(Step::Status(200)) {
            Step::Status(status) => {
                if (200..300).contains(&status) {
                    self.accepted.lock().unwrap().push(message);
                }
                format!("HTTP/1.1 {status} X\r\ncontent-length: 6\r\n\r\nanswer")
            }
            Step::Redirect(url) => {
                format!("HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n")
            }
            Step::Silence => {
                // Until the other end goes away.
                let _ = stream.read(&mut [0; 1]);
                thread::sleep(Duration::from_secs(60));
                return;
            }
            Step::EndlessBody => {
                self.accepted.lock().unwrap().push(message);
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                return flood(&mut stream, head, "400\r\n", 1_024);
            }
            Step::EndlessHead => {
                return flood(&mut stream, "HTTP/1.1 200 OK\r\n", "x-long: ", 1_024);
            }
        };
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.flush());
    }
}

/// Writes parts of `length` bytes until the other end goes away.
fn flood(stream: &mut impl Write, head: &str, before: &str, length: usize) {
    let part = format!("{before}{}\r\n", "x".repeat(length));
    let mut written = stream.write_all(head.as_bytes());
    while written.is_ok() {
        written = stream.write_all(part.as_bytes()).and_then(|()| stream.flush());
    }
}

/// Reads a request. A client that does not trust the certificate sends none.
fn read(stream: &mut impl Read) -> Option<Message> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&length| length > 0)?;
    assert_eq!(line, "POST /hook?key=value HTTP/1.1\r\n");
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        let before = headers.insert(name.to_ascii_lowercase(), value.to_owned());
        assert_eq!(before, None, "{name} is there twice");
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some(Message { headers, body: String::from_utf8(body).unwrap() })
}
