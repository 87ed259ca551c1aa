//! `portcullis doctor` names what would keep a server from starting or serving well, and changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::command::{Answer, Shell};
use crate::support::postgres;
use crate::support::server::Setup;
use crate::support::smtp::Sink;
use crate::support::tls::{Authority, Identity};
use tempfile::TempDir;

/// Any free port, so that nothing is in the way.
const LISTENERS: [&str; 4] = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];

fn doctor(shell: &Shell, flags: &[&str]) -> Answer {
    shell.run(&[&["doctor"], &LISTENERS[..], flags].concat())
}

fn private(home: &Path, name: &str, text: &str) -> PathBuf {
    let path = home.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn tls(home: &Path, identity: &Identity) -> [String; 4] {
    let cert = private(home, "server.crt", identity.certificate());
    let key = private(home, "server.key", identity.key());
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    ["--tls-cert".to_owned(), text(cert), "--tls-key".to_owned(), text(key)]
}

#[test]
fn sound_installation_has_no_error_and_is_not_changed() {
    let home = TempDir::new().unwrap();
    let url = postgres::database();
    let relay = Sink::start();
    let smtp = private(home.path(), "smtp.url", &relay.url());
    let database_url = private(home.path(), "database.url", &url);
    let config = private(home.path(), "portcullis.toml", &format!("smtp-url-file = {smtp:?}\n"));
    let shell = Shell::new()
        .env("PORTCULLIS_DATABASE_URL_FILE", database_url)
        .env("PORTCULLIS_CONFIG", config);
    let authority = Authority::new("ours");
    let identity = authority.server_between((2020, 1, 1), (4000, 1, 1));
    let tls = tls(home.path(), &identity);
    let mail = ["--mail-from", "portcullis@example.com", "--mail-to", "me@acme.example"];
    let flags = [tls.each_ref().map(String::as_str), mail].concat();
    doctor(&shell, &flags).exits(0).shows(&[
        "ok       settings: ",
        "ok       store: PostgreSQL ",
        "a start makes or migrates its tables",
        "ok       clock: ",
        "ok       listener: --listen",
        "ok       tls: --tls-cert: the certificate of CN=portcullis",
        "ok       permissions: --tls-key: ",
        "ok       permissions: PORTCULLIS_DATABASE_URL_FILE: ",
        "ok       permissions: PORTCULLIS_SMTP_URL_FILE: ",
        "ok       mail: the relay took a test message to me@acme.example",
        " 0 errors, ",
    ]);
    assert_eq!(relay.wait_for(1)[0].to, ["me@acme.example"]);
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let database = url.rsplit('/').next().unwrap();
    assert_eq!(postgres::shared().sql(database, tables).trim(), "0");
}

#[test]
fn each_error_is_named_with_its_cure() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new("ours");
    let tls = tls(home.path(), &authority.server_between((2020, 1, 1), (2021, 1, 1)));
    fs::set_permissions(&tls[3], fs::Permissions::from_mode(0o644)).unwrap();
    let shell = Shell::new()
        .env("PORTCULLIS_DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/d")
        .env("PORTCULLIS_SMTP_URL", "smtp://127.0.0.1:1");
    let mail = ["--mail-from", "portcullis@example.com"];
    let flags = [&tls.each_ref().map(String::as_str)[..], &mail].concat();
    let answer = doctor(&shell, &flags).exits(1).shows(&[
        "error    store: the database at 127.0.0.1:1 is out of reach",
        "PORTCULLIS_DATABASE_URL",
        "error    tls: --tls-cert: the certificate in ",
        "expired at 2021-01-01",
        "error    permissions: --tls-key: ",
        "has mode 0644, so every user of this host can use it: chmod o= ",
        "error    mail: ",
        "cannot be reached",
    ]);
    assert!(!answer.printed().contains("hunter2"), "{answer}");

    let json = [&["--output", "json"], &flags[..]].concat();
    let json: serde_json::Value = serde_json::from_str(&doctor(&shell, &json).stdout).unwrap();
    assert_eq!(json["passed"], false);
    let results = json["checks"].as_array().unwrap().iter().map(|check| &check["result"]);
    assert_eq!(results.filter(|result| *result == "error").count(), 4, "{json}");

    let invalid = doctor(&shell, &["--log-level", "loud", "--token-prefix", "A B"]);
    invalid
        .exits(1)
        .shows(&["error    settings: --log-level:", "error    settings: --token-prefix:"]);
}

#[test]
fn running_server_is_checked_beside_it() {
    let server = Setup::sqlite().start();
    let (grpc, data_dir) = (server.grpc().to_string(), server.data_dir());
    let data_dir = data_dir.to_str().unwrap();
    let flags =
        ["doctor", "--listen", &grpc, "--http-listen", "127.0.0.1:0", "--data-dir", data_dir];
    Shell::new().run(&flags).exits(0).shows(&[
        "ok       store: SQLite ",
        "its tables are those of this version",
        "warning  listener: ",
        "warning  mail: no relay is set",
    ]);
    Shell::operator(&server).run(&["account", "list"]).exits(0);
}
