//! The `portcullis` command as a person uses it: run to its end, with what it printed and its status.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "test support: each test uses a part of it, and a failure here is the test's failure"
)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::postgres;
use super::server::Server;

/// A shell to run the command in: a directory of its own, and no variables but those it is given.
pub struct Shell {
    home: TempDir,
    env: Vec<(String, OsString)>,
}

impl Shell {
    /// One without any variable.
    pub fn new() -> Self {
        let home = TempDir::with_prefix("portcullis-shell-").expect("a temporary directory");
        Self { home, env: Vec::new() }
    }

    /// One that reaches `server`, with no credential.
    pub fn reaching(server: &Server) -> Self {
        Self::new().env("PORTCULLIS_SERVER", format!("http://{}", server.grpc()))
    }

    /// One that reaches `server` as its operator.
    pub fn operator(server: &Server) -> Self {
        Self::reaching(server).env("PORTCULLIS_CREDENTIAL", server.operator())
    }

    /// The same with one more variable, or another value of it.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The same without a variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self
    }

    /// Its directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs `portcullis` with `args`, and nothing on its standard input.
    pub fn run(&self, args: &[&str]) -> Answer {
        self.run_with(args, "")
    }

    /// Runs `portcullis` with `args`, and `input` on its standard input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(args).env_clear();
        self.output(command, args, input)
    }

    /// Carries out a line of a document with `sh`: `portcullis` is this program, and the programs of Postgres are there.
    pub fn sh(&self, line: &str) -> Answer {
        let programs =
            [Path::new(env!("CARGO_BIN_EXE_portcullis")), &postgres::program_path("psql")];
        let programs = programs.map(|path| path.parent().expect("a directory").to_owned());
        let system = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
        let path = env::join_paths(programs.into_iter().chain(system)).expect("a path");
        let mut command = Command::new("/bin/sh");
        command.env_clear().env("PATH", path);
        command.args(["-c", line]);
        self.output(command, &[line], "")
    }

    /// Runs `portcullis` with `args`, which no shell would split, on a terminal where somebody types `input` and then
    /// ends it. All that it prints stands in `stdout`.
    pub fn run_on_terminal(&self, args: &[&str], input: &str) -> Answer {
        // Of bsdutils, which is essential on Debian.
        let mut command = Command::new("script");
        let line = format!("{} {}", env!("CARGO_BIN_EXE_portcullis"), args.join(" "));
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.env_clear();
        self.output(command, args, input)
    }

    /// Of a command whose variables are set already, but for those of this shell.
    fn output(&self, mut command: Command, args: &[&str], input: &str) -> Answer {
        command.current_dir(self.home.path());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        // It may end without reading it.
        let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("its output");
        let [stdout, stderr] = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8(bytes).expect("UTF-8 from the command"));
        let command = format!("portcullis {}", args.join(" "));
        Answer { command, code: output.status.code(), stdout, stderr }
    }
}

/// What the command printed, and its status.
#[derive(Debug)]
pub struct Answer {
    command: String,
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Answer {
    /// That it exited with `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Standard output of what exited with 0, less its last line end.
    #[track_caller]
    pub fn ok(self) -> String {
        let answer = self.exits(0);
        answer.stdout.strip_suffix('\n').unwrap_or(&answer.stdout).to_owned()
    }

    /// Standard output of what exited with 0, which must be one JSON object.
    #[track_caller]
    pub fn json(self) -> Value {
        let answer = self.exits(0);
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Standard error of what exited with `code`, which must be one JSON object and all there is.
    #[track_caller]
    pub fn error_json(self, code: i32) -> Value {
        let answer = self.exits(code);
        assert_eq!(answer.stdout, "", "an error beside an answer: {answer}");
        serde_json::from_str(&answer.stderr).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// That it printed each of `parts` to standard error.
    #[track_caller]
    pub fn tells(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not told: {self}");
        }
        self
    }

    /// That it printed each of `parts` to standard output.
    #[track_caller]
    pub fn shows(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stdout.contains(part), "`{part}` is not shown: {self}");
        }
        self
    }

    /// Both streams.
    pub fn printed(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "{command}\nexit code {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}
