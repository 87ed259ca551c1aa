//! A real Postgres (15 or later) for tests: one cluster per test process, a fresh database per call.
//!
//! What must stay true:
//! - Nothing is left behind, however the test process ends. Everything (the directory, `initdb`, the
//!   server) belongs to a guard, a `sh` that reads orders from a pipe whose other end only the test
//!   process holds. When that process is gone, `kill -9` included, the guard reads the end of the
//!   pipe, stops the server and removes the directory.
//! - A missing Postgres is a failure that says what to install, never a skipped test.
//! - Servers write to files only: no reader of the test's own output ever waits for them.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use portcullis::secret::{KeyRing, SecretKey};
use sqlx::{Connection as _, PgConnection, Row as _};

const OLDEST: u32 = 15;
const INSTALL: &str = "these tests need PostgreSQL 15 or later: `apt-get install postgresql` or \
    `brew install postgresql`, or set PG_BIN to the directory of initdb and postgres";

/// Orders come one a line; each is answered with `ok` or `failed`, a failed one after its log.
/// Signals are ignored so that Ctrl-C in a terminal, which reaches the whole group, cannot end the
/// guard before its work; PIPE since nobody reads its answers once the test process is dead.
const GUARD: &str = r#"
trap '' HUP INT TERM PIPE
umask 077
bin=$1 dir=$2 options=$3 pid=
alive() {
    kill -0 "$1" 2>/dev/null || return 1
    # Not so a zombie, which a careless init may keep for ever. It has no command line, but neither has, for a
    # moment, what is just about to run another program.
    ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}
end() {
    [ -n "$pid" ] || return 0
    kill "-$1" "$pid" 2>/dev/null
    kill -CONT "$pid" 2>/dev/null
    wait "$pid"
    pid=
}
crash() {
    [ -n "$pid" ] || return 0
    # Stopped first, so that it forks nothing that would be missed.
    kill -STOP "$pid"
    all="$pid $(cat "/proc/$pid/task/$pid/children" 2>/dev/null || pgrep -P "$pid")"
    kill -KILL $all 2>/dev/null
    for one in $all; do
        while alive "$one"; do sleep 0.01; done
    done
    wait "$pid"
    pid=
}
start() {
    [ -z "$pid" ] || return 0
    "$bin/postgres" -D "$dir/data" -k "$dir" -p "$1" $options </dev/null >>"$dir/log" 2>&1 &
    pid=$!
    until [ "$(sed -n '1p;8p' "$dir/data/postmaster.pid" 2>/dev/null | tr -d ' \n')" = "${pid}ready" ]; do
        if ! alive "$pid"; then
            wait "$pid"
            pid=
            return 1
        fi
        sleep 0.01
    done
}
init() {
    mkdir "$dir" && "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C \
        --no-sync </dev/null >"$dir/log" 2>&1
}
copy() {
    mkdir "$dir" && "$bin/pg_basebackup" -h 127.0.0.1 -p "$1" -U postgres -D "$dir/data" -R -c fast \
        --no-sync </dev/null >"$dir/log" 2>&1
}
promote() {
    "$bin/pg_ctl" promote -D "$dir/data" -t 60 </dev/null >>"$dir/log" 2>&1
}
create() {
    "$bin/createdb" -h "$dir" -p "$1" -U postgres "$2" </dev/null >>"$dir/log" 2>&1
}
while read -r order first second; do
    case $order in
    init) init ;;
    copy) copy "$first" ;;
    promote) promote ;;
    start) start "$first" ;;
    stop) end INT ;;
    crash) crash ;;
    create) create "$first" "$second" ;;
    esac && echo ok || echo failed
done 2>/dev/null
end QUIT
# A server that was crashed, and not started again, leaves its System V segment.
segment=$(sed -n 7p "$dir/data/postmaster.pid" 2>/dev/null | tr -s ' ' | sed 's/^ *//' | cut -d ' ' -f 2)
[ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
rm -rf "$dir"
"#;

/// The cluster that all tests of this process share. Nothing is written durably there: see
/// [`Cluster::with_fsync`]. It is never stopped or reconfigured, and what is read of `pg_stat_activity` or `pg_locks`
/// must be limited to one's own database.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::new(false))
}

/// The URL of a fresh, empty database in the shared cluster. Its user is a superuser.
pub fn database() -> String {
    shared().database()
}

/// A running cluster; stopped and removed when dropped, or when the process ends.
pub struct Cluster {
    dir: PathBuf,
    port: u16,
    guard: Mutex<Guard>,
}

struct Guard {
    child: Child,
    // None only while dropping.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Cluster {
    /// A cluster of one's own that writes durably, for tests that stop or crash it.
    pub fn with_fsync() -> Self {
        Self::new(true)
    }

    /// A cluster of one's own. Without `fsync` it is faster and survives no crash.
    pub fn new(fsync: bool) -> Self {
        Self::made_by("init", fsync)
    }

    /// A standby with all that is here now, and that follows from there. From the return on, nothing
    /// is answered here before it is on the standby's disk.
    pub fn synchronous_standby(&self) -> Self {
        let standby = Self::made_by(&format!("copy {}", self.port), true);
        // After the copy, which would have it too: the standby is to wait for nobody once it leads.
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.sql("postgres", "SELECT pg_reload_conf()");
        let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        for _ in 0..3_000 {
            if self.sql("postgres", synchronous) == "1" {
                return standby;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the standby does not follow");
    }

    fn made_by(order: &str, fsync: bool) -> Self {
        let bin = binaries();
        let dir = std::env::temp_dir().join(format!("pg-{}-{:016x}", std::process::id(), random()));
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c max_connections=300 -c shared_buffers=32MB \
             -c dynamic_shared_memory_type=mmap -c timezone=UTC -c log_timezone=UTC{}",
            if fsync {
                ""
            } else {
                " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
            }
        );
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD, "guard"]).arg(&bin).arg(&dir).arg(options);
        command.current_dir("/").env_clear().env("LC_ALL", "C");
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        if let Some((uid, gid)) = other_user() {
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn().expect("starting sh");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let guard = Mutex::new(Guard { child, orders, answers });
        let mut cluster = Self { dir, port: 0, guard };
        cluster.order(order).unwrap_or_else(|log| panic!("{order} failed: {log}"));
        // Another process may take the port between its choice and its use.
        let mut failure = String::new();
        for _ in 0..5 {
            cluster.port = free_port();
            match cluster.order(&format!("start {}", cluster.port)) {
                Ok(()) => return cluster,
                Err(log) => failure = log,
            }
        }
        panic!("Postgres does not start: {failure}");
    }

    /// The URL of the cluster's first database, `postgres`; the same after every restart.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The URL of a fresh, empty database. The server must be running.
    pub fn database(&self) -> String {
        let name = format!("test_{:016x}", random());
        self.order(&format!("create {} {name}", self.port))
            .unwrap_or_else(|log| panic!("no database created: {log}"));
        self.url_of(&name)
    }

    /// Starts the server on the same port; returns when it takes connections.
    pub fn start(&self) {
        self.order(&format!("start {}", self.port))
            .unwrap_or_else(|log| panic!("Postgres does not start again: {log}"));
    }

    /// Stops the server in good order, breaking off its connections; returns when it has ended.
    pub fn stop(&self) {
        self.order("stop").unwrap_or_else(|log| panic!("Postgres does not stop: {log}"));
    }

    /// Kills all processes of the server at once, as a crash would; returns when they have ended.
    pub fn kill(&self) {
        self.order("crash").unwrap_or_else(|log| panic!("Postgres does not die: {log}"));
    }

    /// Makes a standby the primary; returns when it takes writes.
    pub fn promote(&self) {
        self.order("promote").unwrap_or_else(|log| panic!("the standby does not lead: {log}"));
    }

    /// What one statement in that database gives, as text.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let port = self.port.to_string();
        let mut psql = program("psql");
        psql.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", database]);
        let output = psql.args(["-X", "-A", "-t", "-q", "-c", statement]).output().expect("psql");
        let (out, error) = (output.stdout, String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{statement}: {error}");
        String::from_utf8_lossy(&out).trim().to_owned()
    }

    /// The loopback TCP port, for a proxy in front of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn url_of(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// Carries out one order; the end of the server's log if it failed.
    fn order(&self, order: &str) -> Result<(), String> {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = guard.orders.as_mut().expect("only dropping takes it");
        writeln!(orders, "{order}").expect("the guard reads orders");
        let mut answer = String::new();
        guard.answers.read_line(&mut answer).expect("the guard answers");
        match answer.trim() {
            "ok" => Ok(()),
            _ => {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(20).collect();
                Err(lines.into_iter().rev().fold(String::new(), |all, line| all + "\n" + line))
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let guard = self.guard.get_mut().unwrap_or_else(PoisonError::into_inner);
        guard.orders = None;
        let _ = guard.child.wait();
    }
}

/// A program of Postgres, such as `pg_dump`.
pub fn program(name: &str) -> Command {
    Command::new(program_path(name))
}

/// Where a program of Postgres is.
pub fn program_path(name: &str) -> PathBuf {
    binaries().join(name)
}

/// The directory of initdb and postgres: `PG_BIN`, or the newest of Debian's, or one in `PATH`.
fn binaries() -> PathBuf {
    let complete = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let given = std::env::var_os("PG_BIN").map(PathBuf::from);
    let debian = || {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut versions: Vec<(u32, PathBuf)> = versions
            .filter_map(|version| {
                Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin")))
            })
            .collect();
        versions.sort();
        versions.into_iter().rev().map(|(_, dir)| dir).find(complete)
    };
    let path = || {
        let path: OsString = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(complete)
    };
    let dir = match given {
        Some(given) => complete(&given).then_some(given),
        None => debian().or_else(path),
    };
    let dir = dir.unwrap_or_else(|| panic!("no Postgres found; {INSTALL}"));
    let version = version(&dir);
    assert!(version >= OLDEST, "{} is PostgreSQL {version}; {INSTALL}", dir.display());
    dir
}

/// The major version, as in `postgres (PostgreSQL) 15.10 (Debian 15.10-0)`.
fn version(dir: &Path) -> u32 {
    let output = Command::new(dir.join("postgres")).arg("--version").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}; {INSTALL}", dir.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().find_map(|word| {
        let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    number.unwrap_or_else(|| panic!("{} says its version is {text:?}", dir.display()))
}

/// Postgres refuses to run as root: then, the user and group id of another user.
fn other_user() -> Option<(u32, u32)> {
    let own = fs::metadata("/proc/self").map(|own| own.uid());
    if own.ok() != Some(0) {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
    let find = |name: &str| {
        let mut fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let user = fields.find(|fields| fields.len() > 3 && fields[0] == name)?;
        Some((user[2].parse().ok()?, user[3].parse().ok()?))
    };
    let user = find("postgres").or_else(|| find("nobody"));
    Some(user.expect("tests that run as root need a user postgres or nobody for the server"))
}

/// A port below those that systems give to outgoing connections, which could else take it while a
/// test has the server stopped.
fn free_port() -> u16 {
    loop {
        let port = 15_000 + (random() % 17_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Different in every call of every process.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// The keys that the server over the database at `url` makes secrets with.
pub async fn secret_keys(url: &str) -> KeyRing {
    let mut database = PgConnection::connect(url).await.expect("a connection");
    let rows = sqlx::query("SELECT number, key FROM secret_key").fetch_all(&mut database).await;
    let key = |row: &sqlx::postgres::PgRow| {
        let (number, key): (i32, Vec<u8>) = (row.get("number"), row.get("key"));
        SecretKey::new(number.try_into().expect("a number"), key.try_into().expect("32 bytes"))
    };
    let keys: Vec<_> = rows.expect("the keys").iter().map(key).collect();
    KeyRing::new(&keys).expect("a key")
}
