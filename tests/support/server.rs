//! The real binary as a child process: started, awaited, killed, started again on the same data.
//!
//! Once it serves, the server prints one line to stdout, and that line is all that is waited for:
//! `portcullis ready grpc=ADDRESS:PORT http=ADDRESS:PORT`, and `gateway=ADDRESS:PORT` where gateways are served.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "test support: each test uses a part of it, and a failure here is the test's failure"
)]

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::tls::{Authority, Identity};
use super::wait::until;

/// Stands for the address of a server that listens on Unix sockets only.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// How long a start or a stop may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server is started with. Unless told otherwise: an embedded store in a fresh directory,
/// free ports on loopback, plaintext, an operator credential of its own.
#[derive(Clone)]
pub struct Setup {
    listen: String,
    http_listen: String,
    gateway_listen: Option<String>,
    flags: Vec<OsString>,
    env: Vec<(String, OsString)>,
    tls: Option<Identity>,
    client_ca: Option<String>,
    operator: Option<String>,
    data_dir: Option<PathBuf>,
    descriptors: Option<u32>,
    program: PathBuf,
}

impl Setup {
    /// A server over the embedded store.
    pub fn sqlite() -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            http_listen: "127.0.0.1:0".to_owned(),
            gateway_listen: None,
            flags: Vec::new(),
            env: Vec::new(),
            tls: None,
            client_ca: None,
            operator: Some(random_credential()),
            data_dir: None,
            descriptors: None,
            program: env!("CARGO_BIN_EXE_portcullis").into(),
        }
    }

    /// A server over the Postgres database at `url`.
    pub fn postgres(url: &str) -> Self {
        Self::sqlite().env("PORTCULLIS_DATABASE_URL", url)
    }

    /// Another gRPC address.
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// No flag for the gRPC address: the variable counts.
    pub fn listen_by_variable(mut self, addresses: &str) -> Self {
        self.listen.clear();
        self.env("PORTCULLIS_LISTEN", addresses)
    }

    /// Another HTTP address.
    pub fn http_listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.http_listen);
        self
    }

    /// Serves gateways over HTTP, too. A server with `--dev` does so in any case, on a port of its own.
    pub fn gateways(mut self) -> Self {
        self.gateway_listen = Some("127.0.0.1:0".to_owned());
        self
    }

    /// One more argument, such as `--plaintext`.
    pub fn switch(mut self, flag: impl AsRef<OsStr>) -> Self {
        self.flags.push(flag.as_ref().to_owned());
        if flag.as_ref() == "--dev" { self.gateways() } else { self }
    }

    /// One more flag with its value.
    pub fn flag(self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.switch(flag).switch(value)
    }

    /// One more environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Serves TLS as `identity`.
    pub fn tls(mut self, identity: &Identity) -> Self {
        self.tls = Some(identity.clone());
        self
    }

    /// Asks clients for a certificate of `authority`.
    pub fn client_ca(mut self, authority: &Authority) -> Self {
        self.client_ca = Some(authority.pem().to_owned());
        self
    }

    /// How much to log: `error` to `trace`.
    pub fn log(self, level: &str) -> Self {
        self.flag("--log-level", level)
    }

    /// Another data directory, which outlives the server. Where several servers get the same one,
    /// the later ones must refuse to start.
    pub fn data_dir(mut self, directory: &Path) -> Self {
        self.data_dir = Some(directory.to_owned());
        self
    }

    /// So many open files at most, which it can't change.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Another build of the server.
    pub fn program(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.program);
        self
    }

    /// Another first operator credential; two servers over one database need the same.
    pub fn operator(mut self, credential: &str) -> Self {
        self.operator = Some(credential.to_owned());
        self
    }

    /// No operator credential in the settings.
    pub fn without_operator(mut self) -> Self {
        self.operator = None;
        self
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Server {
        let mut server = self.spawn();
        server.wait_ready();
        server
    }

    /// Starts it and does not wait.
    pub fn spawn(self) -> Server {
        let home = TempDir::with_prefix("portcullis-test-").expect("a temporary directory");
        let process = Process::spawn(&self, home.path(), 0);
        Server { setup: self, home, process, starts: 1, addresses: None }
    }

    /// Starts what must refuse to start; gives its status and its stdout and stderr.
    pub fn refused(self) -> (ExitStatus, String) {
        self.spawn().refusal()
    }
}

/// A running server. Killed when dropped; a test that fails prints its log.
pub struct Server {
    setup: Setup,
    home: TempDir,
    process: Process,
    starts: usize,
    addresses: Option<Addresses>,
}

impl Server {
    /// Waits until it serves.
    ///
    /// # Panics
    /// With its log, where it ends first or takes longer than 30 s.
    pub fn wait_ready(&mut self) {
        match self.process.ready.recv_timeout(PATIENCE) {
            Ok(addresses) => self.addresses = Some(addresses),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.child.wait().expect("its status");
                panic!("the server ended before it was ready: {status}")
            }
            Err(RecvTimeoutError::Timeout) => panic!("the server is not ready after {PATIENCE:?}"),
        }
    }

    /// Where it serves gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.addresses.expect("wait_ready comes first").grpc
    }

    /// Where it serves HTTP.
    pub fn http(&self) -> SocketAddr {
        self.addresses.expect("wait_ready comes first").http
    }

    /// Where it serves gateways.
    pub fn gateway(&self) -> SocketAddr {
        let addresses = self.addresses.expect("wait_ready comes first");
        addresses.gateway.expect("a server that was set up with `gateways`")
    }

    /// The status line and the body of a page.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.http()).expect("the HTTP listener");
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    /// One sample of `/metrics`, such as `portcullis_mails_waiting`.
    pub fn metric(&self, sample: &str) -> Option<i64> {
        sample_of(&self.get("/metrics").1, sample)
    }

    /// The operator credential it was started with.
    pub fn operator(&self) -> &str {
        self.setup.operator.as_deref().expect("a server without operator credential")
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.setup, self.home.path())
    }

    /// Puts another file in the place of one that its settings name, in one step: `server.crt`, `server.key` or
    /// `client-ca.crt`.
    pub fn replace_file(&self, name: &str, text: &str) {
        let new = write(self.home.path(), &format!("{name}.new"), text);
        fs::rename(new, self.home.path().join(name)).expect("a file of the test");
    }

    /// Serves TLS as `identity` from when its files are read again.
    pub fn replace_tls(&self, identity: &Identity) {
        self.replace_file("server.crt", identity.certificate());
        self.replace_file("server.key", identity.key());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// A figure of its process in KiB, such as `VmRSS`.
    pub fn memory(&self, figure: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = status.lines().find(|line| line.starts_with(figure)).expect("the figure");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    /// What it printed to stdout since its last start.
    pub fn stdout(&self) -> String {
        read(&self.process.stdout)
    }

    /// What it printed to stderr since its last start.
    pub fn stderr(&self) -> String {
        read(&self.process.stderr)
    }

    /// All that it printed, from the first start on.
    pub fn log(&self) -> String {
        let mut log = String::new();
        for start in 0..self.starts {
            for stream in ["stdout", "stderr"] {
                let text = read(&output(self.home.path(), start, stream));
                if !text.is_empty() {
                    let _ = writeln!(log, "--- {stream} of start {}\n{text}", start + 1);
                }
            }
        }
        log
    }

    /// Ends it with SIGKILL, at once.
    pub fn kill9(&mut self) {
        self.process.child.kill().expect("kill");
        self.process.child.wait().expect("its status");
    }

    /// Sends a signal, such as `STOP`, `CONT` or `TERM`. After `STOP` every thread stands still: on a busy machine the
    /// others go on until the one that takes the signal has its turn.
    pub fn signal(&self, signal: &str) {
        // The shell's own `kill`: the crate forbids unsafe code, and a minimal Debian has no other.
        let sent = Command::new("sh")
            .args(["-c", r#"kill -s "$1" "$2""#, "sh", signal, &self.pid().to_string()])
            .status()
            .expect("sh");
        assert!(sent.success(), "SIG{signal} could not be sent");
        if signal == "STOP" {
            until(|| self.thread_states(), |states| states.iter().all(|state| *state == 'T'));
        }
    }

    /// The state of each thread, as /proc names it: `T` is stopped.
    fn thread_states(&self) -> Vec<char> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("its threads");
        // A thread may end meanwhile.
        let stats =
            tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        // The name before the state is in parentheses, and may have some itself.
        stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    /// Asks it to stop with SIGTERM and waits until it has.
    ///
    /// # Panics
    /// With its log, where that takes longer than 30 s.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_end()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// With its log, where that takes longer than 30 s.
    pub fn wait_end(&mut self) -> ExitStatus {
        loop {
            match self.process.ready.recv_timeout(PATIENCE) {
                Ok(_) => {}
                // Its stdout was closed, which is to say that it is gone.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the server still runs after {PATIENCE:?}")
                }
            }
        }
        self.process.child.wait().expect("its status")
    }

    /// As [`Self::restart`], with settings that `change` makes of the former.
    pub fn restart_with(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
        self.restart();
    }

    /// Starts what has ended again, with settings that `change` makes of the former and that it must
    /// refuse; gives its status and all that was printed.
    pub fn refuses_with(&mut self, change: impl FnOnce(Setup) -> Setup) -> (ExitStatus, String) {
        self.setup = change(self.setup.clone());
        self.process = Process::spawn(&self.setup, self.home.path(), self.starts);
        self.starts += 1;
        self.refusal()
    }

    fn refusal(&mut self) -> (ExitStatus, String) {
        match self.process.ready.recv_timeout(PATIENCE) {
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.process.child.wait().expect("its status");
                (status, self.log())
            }
            Ok(_) => panic!("the server started, and should have refused to"),
            Err(RecvTimeoutError::Timeout) => panic!("neither started nor refused to"),
        }
    }

    /// Starts it again on the same data and waits until it serves. It may have been killed before;
    /// where it still runs it is asked to stop, and must do so with status 0. The ports are new.
    pub fn restart(&mut self) {
        if self.process.child.try_wait().expect("its status").is_none() {
            let status = self.terminate();
            assert!(status.success(), "SIGTERM ended the server with {status}");
        }
        self.addresses = None;
        self.process = Process::spawn(&self.setup, self.home.path(), self.starts);
        self.starts += 1;
        self.wait_ready();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only where it is gone already.
        let _ = self.process.child.kill();
        let _ = self.process.child.wait();
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

struct Process {
    child: Child,
    /// Gives the addresses of the ready line; disconnected once stdout is closed.
    ready: Receiver<Addresses>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    fn spawn(setup: &Setup, home: &Path, start: usize) -> Self {
        let stdout = output(home, start, "stdout");
        let stderr = output(home, start, "stderr");
        let mut command = match setup.descriptors {
            None => Command::new(&setup.program),
            Some(most) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
                shell.args(["-c", &script]).arg(&setup.program);
                shell
            }
        };
        command
            .arg("serve")
            .args((!setup.listen.is_empty()).then_some("--listen"))
            .args((!setup.listen.is_empty()).then_some(&setup.listen))
            .args(["--http-listen", &setup.http_listen])
            .arg("--data-dir")
            .arg(data_dir(setup, home))
            .args(setup.gateway_listen.iter().flat_map(|listen| ["--gateway-listen", listen]))
            .args(&setup.flags)
            .env_clear()
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).expect("a file for stderr"));
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(operator) = &setup.operator {
            command.env("PORTCULLIS_OPERATOR_CREDENTIAL", operator);
        }
        if let Some(identity) = &setup.tls {
            command
                .arg("--tls-cert")
                .arg(write(home, "server.crt", identity.certificate()))
                .arg("--tls-key")
                .arg(write(home, "server.key", identity.key()));
        }
        if let Some(authority) = &setup.client_ca {
            command.arg("--tls-client-ca").arg(write(home, "client-ca.crt", authority));
        }
        command.envs(setup.env.iter().map(|(name, value)| (name, value)));

        let mut child = command.spawn().expect("the server's binary starts");
        let pipe = child.stdout.take().expect("stdout is piped");
        let mut copy = File::create(&stdout).expect("a file for stdout");
        let (sender, ready) = channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                // Whoever waits for the line may want to read it in the file.
                let _ = writeln!(copy, "{line}");
                if let Some(addresses) = parse_ready(&line) {
                    let _ = sender.send(addresses);
                }
            }
        });
        Self { child, ready, stdout, stderr }
    }
}

/// Where a server listens.
#[derive(Clone, Copy)]
struct Addresses {
    grpc: SocketAddr,
    http: SocketAddr,
    gateway: Option<SocketAddr>,
}

/// Where a server listens (of several listeners, the first that is an address), where `line` is the line of one
/// that is ready.
fn parse_ready(line: &str) -> Option<Addresses> {
    let (grpc, rest) = line.strip_prefix("portcullis ready grpc=")?.split_once(" http=")?;
    let (http, gateway) = match rest.split_once(" gateway=") {
        None => (rest, None),
        Some((http, gateways)) => {
            (http, gateways.split(',').find_map(|address| address.parse().ok()))
        }
    };
    let grpc = grpc.split(',').find_map(|address| address.parse().ok());
    Some(Addresses { grpc: grpc.unwrap_or(NO_ADDRESS), http: http.parse().ok()?, gateway })
}

/// One sample of what `/metrics` shows.
pub fn sample_of(metrics: &str, sample: &str) -> Option<i64> {
    let mut lines = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(name, _)| *name == sample).map(|(_, value)| value.parse().expect("a number"))
}

/// 48 printable characters that nobody else has.
pub fn random_credential() -> String {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn data_dir(setup: &Setup, home: &Path) -> PathBuf {
    setup.data_dir.clone().unwrap_or_else(|| home.join("data"))
}

fn output(home: &Path, start: usize, stream: &str) -> PathBuf {
    home.join(format!("{start}.{stream}"))
}

fn write(home: &Path, name: &str, text: &str) -> PathBuf {
    let path = home.join(name);
    fs::write(&path, text).expect("a file of the test");
    path
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
