//! A mail server that is not ours: aiosmtpd in a process of its own, see `tests/mail/relay.py`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::tls::Authority;
use super::tools;

/// Longer than any test should wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module. It ends when it is dropped.
pub struct Aiosmtpd {
    process: Child,
    said: Receiver<Value>,
    port: u16,
    _home: TempDir,
}

impl Aiosmtpd {
    /// Starts one on a free port of `address`; `authority` vouches for it where `mode` wants TLS.
    pub fn start(address: &str, mode: &str, authority: Option<&Authority>, login: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let mut command = tools::python();
        command.arg(tools::source("tests/mail/relay.py")).args([address, mode]);
        if let Some(authority) = authority.filter(|_| mode != "plain") {
            let identity = authority.server();
            for (name, pem) in [("cert", identity.certificate()), ("key", identity.key())] {
                let path = home.path().join(name);
                fs::write(&path, pem).expect("a file");
                command.arg(path);
            }
        }
        command.args(login).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("Python starts");
        let stdout = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let (saying, said) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // Whoever has heard enough hangs up.
                let _ = saying.send(serde_json::from_str(&line).expect("a line of JSON"));
            }
        });
        let mut server = Self { process, said, port: 0, _home: home };
        server.port = server.next().as_u64().expect("its port") as u16;
        server
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next thing that it says: a message that it took over, or a fault.
    ///
    /// # Panics
    /// Where it says nothing for a minute.
    pub fn next(&self) -> Value {
        match self.said.recv_timeout(PATIENCE) {
            Ok(said) => said,
            Err(RecvTimeoutError::Disconnected) => panic!("the mail server has ended"),
            Err(RecvTimeoutError::Timeout) => panic!("the mail server says nothing"),
        }
    }

    /// Ends it. What it has said and nobody has heard yet.
    pub fn end(mut self) -> Vec<Value> {
        self.process.kill().expect("kill");
        self.said.iter().collect()
    }
}

impl Drop for Aiosmtpd {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
