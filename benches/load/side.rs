//! The servers that are measured: children of this process, ended with it.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Among the fields of a process behind its name: its parent; its own time for itself and in the kernel, and that of
/// its children that ended.
const PARENT: usize = 1;
const USED: usize = 11;

/// The fields of a process behind its name; `None` where there is none.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn ticks(fields: &[String]) -> Duration {
    let ticks: u64 = fields.iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    // USER_HZ is 100 on every Linux that these run on.
    Duration::from_millis(ticks * 10)
}

/// The process that started another one.
pub fn parent_of(pid: u32) -> u32 {
    stat(pid).expect("its stat")[PARENT].parse().expect("a process id")
}

/// The processor time that a process and its children have used, those that ended included.
pub fn cpu_of_family(parent: u32) -> Duration {
    let own = stat(parent).expect("its stat");
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let children = processes
        .filter_map(|process| stat(process.file_name().to_str()?.parse().ok()?))
        .filter(|child| child[PARENT] == parent.to_string())
        .map(|child| ticks(&child[USED..USED + 2]));
    ticks(&own[USED..USED + 4]) + children.sum::<Duration>()
}

/// The processor time of what this process started and has waited for.
pub fn cpu_of_children() -> Duration {
    ticks(&stat(std::process::id()).expect("its stat")[USED + 2..USED + 4])
}

/// A running server. Killed when dropped.
pub struct Side {
    child: Child,
    pub address: SocketAddr,
    http: SocketAddr,
    /// Where gateways are answered, if anywhere.
    pub gateway: Option<SocketAddr>,
    /// From its start until it said that it serves.
    pub started_in: Duration,
}

impl Side {
    /// Starts `command` and waits for its line `... ready grpc=ADDRESS http=ADDRESS`, and
    /// `gateway=ADDRESS` where gateways are answered.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let log = File::create(log).expect("a log file");
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains(" ready grpc=")));
        let started_in = began.elapsed();
        let line = line.unwrap_or_else(|| panic!("{command:?} ended before it served"));
        assert!(started_in < PATIENCE, "{command:?} took {started_in:?} to start");
        // Nothing more is expected there; if it came, the pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        let address = |name: &str| -> Option<SocketAddr> {
            let (_, rest) = line.split_once(name)?;
            // The first of several.
            rest.split([' ', ',']).next()?.parse().ok()
        };
        let [grpc, http] = ["grpc=", "http="].map(|name| address(name).expect("the ready line"));
        Self { child, address: grpc, http, gateway: address("gateway="), started_in }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Duration {
        ticks(&stat(self.pid()).expect("its stat")[USED..USED + 2])
    }

    /// Its memory, in bytes.
    pub fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kilobytes * 1024
    }

    /// A number of its `/metrics`, such as `cache_misses_total`.
    pub fn metric<N: FromStr<Err: Debug>>(&self, name: &str) -> N {
        let mut socket = TcpStream::connect(self.http).expect("its HTTP");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let ask = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        socket.write_all(ask.as_bytes()).expect("its HTTP");
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("its metrics");
        let prefix = format!("portcullis_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        let line = line.unwrap_or_else(|| panic!("no metric {name} in {text}"));
        line.trim().parse().expect("such a number")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Both fail only where it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps every processor from going idle, at the lowest priority there is: waking one up takes
/// longer than what is to be measured. Ended when dropped.
pub struct Awake(Vec<Child>);

impl Awake {
    pub fn new() -> Self {
        let spin = |_| {
            Command::new("chrt")
                .args(["--idle", "0", "sh", "-c", "while :; do :; done"])
                .spawn()
                .expect("chrt, of util-linux")
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let spinning = (0..processors).map(spin).collect();
        std::thread::sleep(Duration::from_millis(100));
        Self(spinning)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
