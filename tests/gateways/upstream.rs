//! The service behind a gateway: answers every request, and keeps what it received, byte for byte.

use std::collections::HashMap;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::exchange::{Head, read_body, read_head};

/// The header by which a test finds its own request again. Gateways pass it on.
pub(super) const ID: &str = "x-test-id";

/// The header of every answer: what has it was not answered by a gateway itself.
pub(super) const MARK: &str = "x-upstream";

/// A service that serves until the process ends.
#[derive(Clone)]
pub(super) struct Upstream {
    address: SocketAddr,
    received: Arc<Mutex<HashMap<String, Vec<Head>>>>,
}

impl Upstream {
    /// Serves at `address`.
    pub(super) fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("an address for the upstream");
        let upstream = Self { address, received: Arc::default() };
        let serving = upstream.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(&stream));
            }
        });
        upstream
    }

    /// Where it serves.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the requests with this id that have reached it.
    pub(super) fn take(&self, id: &str) -> Vec<Head> {
        self.received.lock().unwrap().remove(id).unwrap_or_default()
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        // A gateway that sends what can't be read gets no answer, which fails the test.
        while let Some(head) = read_head(&mut reader) {
            if head.all("expect").is_empty() && read_body(&mut reader, &head, false).is_none() {
                return;
            }
            let id = head.all(ID).first().map(|&id| id.to_owned()).unwrap_or_default();
            let is_head = head.method() == b"HEAD";
            self.received.lock().unwrap().entry(id).or_default().push(head);
            let body = if is_head { "" } else { "reached" };
            let answer = format!(
                "HTTP/1.1 200 OK\r\n{MARK}: reached\r\ncontent-type: text/plain\r\ncontent-length: 7\r\n\r\n{body}"
            );
            let mut stream: &TcpStream = reader.get_ref();
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
