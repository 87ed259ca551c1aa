//! The programs of others that tests drive the server with. `./test` installs them and says where
//! they are; a missing one fails the test, never skips it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "test support: each test uses a part of it, and a failure here is the test's failure"
)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Python with grpcio, grpcio-tools, grpcio-status and aiosmtpd.
pub fn python() -> Command {
    Command::new(tool("TEST_PYTHON"))
}

/// Node.js with the packages of `tests/clients/node`.
pub fn node() -> Command {
    let mut command = Command::new(tool("TEST_NODE"));
    command.env("NODE_PATH", tool("TEST_NODE_MODULES"));
    command
}

/// Node.js as before, with Debian's Chromium for Playwright to drive.
pub fn browser() -> Command {
    let mut command = node();
    command.env("TEST_CHROMIUM", tool("TEST_CHROMIUM"));
    command
}

/// grpcurl, which knows a server by reflection alone.
pub fn grpcurl() -> Command {
    Command::new(tool("TEST_GRPCURL"))
}

/// A file of the source tree.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs `command` to its end.
///
/// # Panics
/// With all that it printed, where it fails.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}\n{}", output.status, printed(&output));
    String::from_utf8(output.stdout).expect("UTF-8 on stdout")
}

/// Runs `command`, which must fail, and gives all that it printed.
pub fn fail(command: &mut Command) -> String {
    let output = command.output().expect("the program starts");
    assert!(!output.status.success(), "should have failed:\n{}", printed(&output));
    printed(&output)
}

fn printed(output: &Output) -> String {
    let [stdout, stderr] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{stdout}{stderr}")
}

/// The program or directory that `variable` names.
pub fn tool(variable: &str) -> PathBuf {
    let path = env::var_os(variable).map(PathBuf::from);
    match path {
        Some(path) if path.exists() => path,
        Some(path) => panic!("{variable} names {}, which is not there: run ./test", path.display()),
        None => panic!("{variable} is not set: run ./test"),
    }
}
