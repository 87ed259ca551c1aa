//! The decision log of real servers: what each interface leaves in it, what is dropped and counted, rotation, and
//! `portcullis decisions` (docs/decision-log.md).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]
#![allow(clippy::disallowed_methods, reason = "a variable says how long a long run lasts")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portcullis::grpc::proto::{
    AuthorizeRequest, BatchAuthorizeRequest, ClientSource, CreateCredentialRequest, HttpOperation,
    Role, StreamAuthorizeRequest, TokenKind, authorize_request,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Request;

use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::envoy::{Gateway, Question};
use crate::support::server::{Server, Setup};
use crate::support::tools::succeed;
use crate::support::wait::{until, until_async};

const READ: &str = "transactions.read";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A directory with a log in it.
struct Log {
    home: TempDir,
}

impl Log {
    fn new() -> Self {
        Self { home: TempDir::with_prefix("portcullis-log-").unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("decisions.jsonl")
    }

    fn setup(&self, allows: &str) -> Setup {
        let setup = Setup::sqlite().flag("--decision-log", self.path());
        setup.flag("--decision-log-allows", allows)
    }

    /// The file and those that it was rotated to, the oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.home.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| *path != self.path()).collect();
        files.sort();
        files.extend(self.path().exists().then(|| self.path()));
        files
    }

    fn text(&self) -> String {
        // One that was removed meanwhile had old lines only.
        self.files().iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// Every whole line.
    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    fn decisions(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["event"] == "decision").collect()
    }

    /// Waits until there are so many decisions.
    fn wait_for(&self, count: usize) -> Vec<Value> {
        until(|| self.decisions(), |lines| lines.len() >= count)
    }

    /// How many records were dropped, by cause, of whom and account.
    fn dropped(&self) -> BTreeMap<(String, String, String), u64> {
        let mut dropped = BTreeMap::new();
        for line in self.lines().into_iter().filter(|line| line["event"] == "dropped") {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let key = (text("cause"), text("of"), text("account_id"));
            *dropped.entry(key).or_default() += line["count"].as_u64().unwrap();
        }
        dropped
    }
}

fn dropped_metric(server: &Server, cause: &str) -> u64 {
    let sample = format!("portcullis_decision_log_dropped_total{{cause=\"{cause}\"}}");
    u64::try_from(server.metric(&sample).expect("a metric that is there from the start")).unwrap()
}

fn http(token: &str, address: &str, method: &str, path: &str) -> AuthorizeRequest {
    let operation = HttpOperation { method: method.to_owned(), path: path.to_owned() };
    AuthorizeRequest {
        operation: Some(authorize_request::Operation::Http(operation)),
        ..question(token, address, "")
    }
}

/// `message` with ids of the caller's.
fn with_ids<T>(message: T, request_id: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    request.metadata_mut().insert("x-request-id", request_id.parse().unwrap());
    request
}

async fn batch(client: &Client, requests: Vec<AuthorizeRequest>) {
    let count = requests.len();
    let answer =
        client.authorization().batch_authorize(BatchAuthorizeRequest { requests }).await.unwrap();
    assert_eq!(answer.into_inner().results.len(), count);
}

/// One request of a gateway over HTTP.
fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut stream = TcpStream::connect(server.gateway()).unwrap();
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A line less what differs from run to run, which is checked.
fn comparable(mut line: Value) -> Value {
    let fields = line.as_object_mut().unwrap();
    let time = fields.remove("time").unwrap();
    assert_eq!(time.as_str().unwrap().len(), "2027-01-03T14:05:00.000042Z".len(), "{time}");
    assert!(fields.remove("latency_us").unwrap().is_u64());
    assert!(fields.remove("revision").unwrap().as_i64().unwrap() > 0);
    line
}

/// Rules 13.1, 13.3 and 13.4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_interface_logs_its_decisions_with_every_field() {
    let log = Log::new();
    let server = log.setup("1").flag("--check-timeout", "5s").gateways().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) =
        operator.token(&account, TokenKind::ReadOnly, &[], &["192.0.2.0/24"]).await;
    let source =
        ClientSource { address_header: "x-forwarded-for".to_owned(), ..Default::default() };
    let request = CreateCredentialRequest {
        role: Role::Pep.into(),
        client_source: Some(source),
        ..Default::default()
    };
    let made = operator.credentials().create_credential(request).await.unwrap().into_inner();
    let (pep, pep_id) = (made.secret, made.credential.unwrap().credential_id);
    let client = operator.with(&pep);
    let path = "/api/v1/transactions";
    let ask = |address: &str| http(&secret, address, "GET", &format!("{path}?token={secret}"));
    let bearer = format!("Bearer {secret}");

    let mut wanted = Vec::new();
    let mut logged = |interface: &str, request_id: &str, more: Value| {
        let mut line = json!({
            "event": "decision", "decision": "ALLOW", "reason": "ALLOWED", "token_id": token.token_id,
            "account_id": account, "scope": READ, "route": format!("GET {path}"), "method": "GET",
            "path": path, "client_address": "192.0.2.7", "interface": interface,
            "credential_id": pep_id, "trace_id": TRACE, "request_id": request_id,
        });
        for (name, value) in more.as_object().unwrap() {
            line[name] = value.clone();
            if value.is_null() {
                line.as_object_mut().unwrap().remove(name);
            }
        }
        wanted.push(line);
    };
    let denied = json!({
        "decision": "DENY", "reason": "CLIENT_IP_NOT_WHITELISTED", "client_address": "203.0.113.9",
    });

    // From memory or not: the first one is read from the store.
    for number in 0..2 {
        let id = format!("authorize {number}");
        client.authorization().authorize(with_ids(ask("192.0.2.7"), &id)).await.unwrap();
        logged("authorize", &id, json!({}));
    }
    client.authorization().authorize(with_ids(ask("203.0.113.9"), "denied")).await.unwrap();
    logged("authorize", "denied", denied.clone());
    let dry = AuthorizeRequest { dry_run: true, ..question(&secret, "192.0.2.7", READ) };
    let answer = client.authorization().authorize(dry).await.unwrap();
    let made = answer.metadata().get("x-request-id").unwrap().to_str().unwrap();
    let bare = json!({
        "route": null, "method": null, "path": null, "trace_id": null, "dry_run": true,
    });
    logged("authorize", made, bare);
    // What a decision does not get to is not there.
    let unknown = http("no token", "192.0.2.7", "GET", &format!("{path}/no%20token/x"));
    client.authorization().authorize(with_ids(unknown, "no token")).await.unwrap();
    let malformed = json!({
        "decision": "DENY", "reason": "TOKEN_MALFORMED", "token_id": null, "account_id": null,
        "scope": null, "route": null, "path": "[redacted]", "request_id": "[redacted]",
    });
    logged("authorize", "", malformed);

    let requests = vec![ask("192.0.2.7"), ask("203.0.113.9")];
    let both = BatchAuthorizeRequest { requests: requests.clone() };
    client.authorization().batch_authorize(with_ids(both, "batch")).await.unwrap();
    logged("batch", "batch", json!({}));
    logged("batch", "batch", denied.clone());
    let messages =
        requests.into_iter().map(|request| StreamAuthorizeRequest { request: Some(request) });
    let stream = with_ids(tokio_stream::iter(messages.collect::<Vec<_>>()), "stream");
    let mut answers = client.authorization().stream_authorize(stream).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    logged("stream", "stream", json!({}));
    logged("stream", "stream", denied.clone());

    let gateway = Gateway::connect(server.grpc(), &pep).await;
    let checked = Question::bearer(&secret, "192.0.2.7", "GET", &format!("{path}?a=b"));
    let checked = checked.header("traceparent", TRACEPARENT).header("x-request-id", "envoy");
    assert!(gateway.check(checked.message()).await.allowed);
    logged("envoy", "envoy", json!({}));

    let ids = [("traceparent", TRACEPARENT), ("x-request-id", "gateway")];
    let own = [("portcullis-credential", &*pep), ("authorization", &*bearer)];
    let target = [("x-forwarded-method", "GET"), ("x-forwarded-uri", "/api/v1/transactions?a")];
    let from = |address| [("x-forwarded-for", address)];
    let headers = [&ids[..], &own, &target, &from("192.0.2.7")].concat();
    assert!(send(&server, "GET", "/forward-auth", &headers, "").starts_with("HTTP/1.1 200"));
    logged("forward_auth", "gateway", json!({}));
    let headers = [&ids[..], &own, &from("203.0.113.9")].concat();
    let answer = send(&server, "GET", &format!("/ext-authz{path}?a"), &headers, "");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    logged("ext_authz", "gateway", denied);

    let evaluation = json!({
        "subject": { "type": "token", "id": secret },
        "action": { "name": "GET" },
        "resource": { "type": "route", "id": path },
        "context": { "client_ip": "192.0.2.7" },
    });
    let several = json!({ "evaluations": [evaluation.clone(), evaluation.clone()] });
    let authorization = format!("Bearer {pep}");
    let own = [("authorization", &*authorization), ("content-type", "application/json")];
    for (path, body, count) in
        [("/access/v1/evaluation", evaluation, 1), ("/access/v1/evaluations", several, 2)]
    {
        let answer = send(&server, "POST", path, &[&ids[..], &own].concat(), &body.to_string());
        assert_eq!(answer.matches("\"decision\":true").count(), count, "{answer}");
        (0..count).for_each(|_| logged("authzen", "gateway", json!({})));
    }

    let mut found: Vec<_> = log.wait_for(wanted.len()).into_iter().map(comparable).collect();
    // Threads write to buffers of their own, so that lines of several calls may change places.
    let by_text = |line: &Value| line.to_string();
    found.sort_by_key(by_text);
    wanted.sort_by_key(by_text);
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(&wanted) {
        assert_eq!(found, wanted);
    }
    let text = log.text();
    for secret in [&secret, &pep, server.operator()] {
        assert!(!text.contains(&secret[..secret.len() / 2]), "a secret in {text}");
    }
    assert_eq!(fs::metadata(log.path()).unwrap().permissions().mode() & 0o7777, 0o640);
    for (metric, wanted) in [
        ("portcullis_decision_log_lines_total", wanted.len()),
        ("portcullis_decision_log_size_bytes", text.len()),
    ] {
        // The writer counts what it has written.
        let wanted = i64::try_from(wanted).unwrap();
        until(|| server.metric(metric), |&found| found == Some(wanted));
    }
}

/// Rule 13.2.
#[tokio::test]
async fn requests_of_a_token_are_all_logged_or_none_is() {
    let log = Log::new();
    let mut server = log.setup("0.5").start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let mut tokens = Vec::new();
    for _ in 0..32 {
        tokens.push(operator.token(&account, TokenKind::ReadOnly, &[], &[]).await);
    }
    for _ in 0..3 {
        let asked = tokens.iter().map(|(_, secret)| question(secret, "192.0.2.1", READ));
        batch(&operator, asked.collect()).await;
    }
    // Denials are logged whatever the share is.
    let denied = tokens.iter().map(|(_, secret)| question(secret, "192.0.2.1", "cards.reveal"));
    batch(&operator, denied.collect()).await;
    assert!(server.terminate().success());
    let mut counts = BTreeMap::<_, [usize; 2]>::new();
    for line in log.decisions() {
        let denies = usize::from(line["decision"] == "DENY");
        counts.entry(line["token_id"].as_str().unwrap().to_owned()).or_default()[denies] += 1;
    }
    assert_eq!(counts.len(), 32);
    assert!(counts.values().all(|count| matches!(count, [0 | 3, 1])), "{counts:?}");
    let logged = counts.values().filter(|[allows, _]| *allows == 3).count();
    assert!((1..32).contains(&logged), "{logged} of 32 tokens");
}

/// Rule 13.7.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_denials_has_its_share_and_hides_nothing_of_others() {
    let log = Log::new();
    // A share of 64 KiB.
    let mut server = log.setup("0").flag("--decision-log-max-size", "1MiB").start();
    let operator = Client::operator(&server).await;
    let flooding = operator.account().await.account_id;
    let quiet = operator.account().await.account_id;
    let (_, flood) = operator.token(&flooding, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
    let (victim, its) = operator.token(&quiet, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
    for _ in 0..3 {
        let strangers = (0..1_000).map(|n| question(&format!("stranger {n}"), "192.0.2.9", READ));
        batch(&operator, strangers.collect()).await;
        batch(&operator, vec![question(&flood, "203.0.113.9", READ); 1_000]).await;
    }
    batch(&operator, vec![question(&its, "203.0.113.1", READ)]).await;
    let share = until(|| dropped_metric(&server, "share"), |&count| count > 4_000);
    assert_eq!((dropped_metric(&server, "queue"), dropped_metric(&server, "disk")), (0, 0));
    assert!(server.terminate().success());

    let (mut of_strangers, mut of_flood) = ((0, 0), (0, 0));
    let mut of_victim = 0;
    for line in log.decisions() {
        let bytes = line.to_string().len() + 1;
        let count = match line["account_id"].as_str() {
            None => &mut of_strangers,
            Some(account) if account == flooding => &mut of_flood,
            Some(account) => {
                assert_eq!(
                    (account, line["token_id"].as_str()),
                    (&*quiet, Some(&*victim.token_id))
                );
                of_victim += 1;
                continue;
            }
        };
        *count = (count.0 + 1, count.1 + bytes);
    }
    assert_eq!(of_victim, 1);
    for (lines, bytes) in [of_strangers, of_flood] {
        assert!((100..300).contains(&lines) && bytes <= 64 << 10, "{lines} lines, {bytes} bytes");
    }
    let of =
        |whose: &str, account: &str| ("share".to_owned(), whose.to_owned(), account.to_owned());
    let wanted = BTreeMap::from([
        (of("unknown_tokens", ""), 3_000 - of_strangers.0),
        (of("account", &flooding), 3_000 - of_flood.0),
    ]);
    assert_eq!(log.dropped(), wanted);
    assert_eq!(share, wanted.values().sum::<u64>());
}

/// Runs of `tests/long/run` have more.
const DECISIONS: u32 = 20_000;

/// Rule 13.8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decision_is_found_once_also_by_a_follower_while_files_are_rotated() {
    let decisions = std::env::var("PORTCULLIS_TEST_DECISIONS")
        .map_or(DECISIONS, |count| count.parse().unwrap());
    let log = Log::new();
    // Rotated some four times.
    let size = (u64::from(decisions) * 1_200).to_string();
    let mut server = log.setup("1").flag("--decision-log-max-size", &size).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let followed = log.home.path().join("followed");
    let mut follower = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["decisions", "--follow", "--output", "json"])
        .arg(log.path())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(fs::File::create(&followed).unwrap())
        .stderr(fs::File::create(log.home.path().join("errors")).unwrap())
        .spawn()
        .unwrap();
    let written = || server.metric("portcullis_decision_log_lines_total").unwrap();
    for first in (0..decisions).step_by(1_000) {
        let asked = (first..decisions.min(first + 1_000)).map(|number| {
            let address = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
            question(&secret, &address.to_string(), READ)
        });
        batch(&operator, asked.collect()).await;
        // Nothing is dropped where the log keeps up.
        until_async(async || written(), |&written| written + 2_000 > i64::from(first)).await;
    }
    until_async(async || written(), |&written| written == i64::from(decisions)).await;
    for cause in ["queue", "share", "disk"] {
        assert_eq!(dropped_metric(&server, cause), 0, "{cause}");
    }
    assert!(server.terminate().success());
    let numbers = |lines: &mut dyn Iterator<Item = Value>| -> Vec<u32> {
        let address = |line: Value| line["client_address"].as_str().unwrap().parse::<Ipv4Addr>();
        let mut numbers: Vec<_> = lines.map(|line| address(line).unwrap().to_bits()).collect();
        numbers.sort_unstable();
        numbers
    };
    let wanted: Vec<_> = (0..decisions).map(|number| 10 << 24 | number).collect();
    let count = || fs::read_to_string(&followed).unwrap().lines().count();
    until(count, |&count| count == wanted.len());
    follower.kill().unwrap();
    follower.wait().unwrap();
    let text = fs::read_to_string(&followed).unwrap();
    let by_follower = numbers(&mut text.lines().map(|line| serde_json::from_str(line).unwrap()));
    assert!(by_follower == wanted, "the follower has other lines");
    for name in ["followed", "errors"] {
        fs::remove_file(log.home.path().join(name)).unwrap();
    }
    assert!(log.files().len() > 3, "{:?}", log.files());
    assert!(numbers(&mut log.decisions().into_iter()) == wanted, "the files have other lines");
}

/// Sets the limit of the file sizes of a running server, the soft one: what stands for a full disk.
fn limit_files(server: &Server, bytes: &str) {
    let (pid, limit) = (server.pid().to_string(), format!("--fsize={bytes}:unlimited"));
    succeed(Command::new("prlimit").args(["--pid", &pid, &limit]));
}

/// Rules 13.5 and 13.8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_what_is_counted_and_a_killed_server_leaves_one_part_of_a_line() {
    let log = Log::new();
    let mut server = log.setup("0").start();
    let operator = Client::operator(&server).await;
    let long = format!("/{}", "x".repeat(1_000));
    let strangers = |count| vec![http("stranger", "192.0.2.9", "GET", &long); count];
    batch(&operator, strangers(10)).await;
    log.wait_for(10);
    // In the middle of the next line.
    let size = fs::metadata(log.path()).unwrap().len();
    limit_files(&server, &(size + 100).to_string());
    batch(&operator, strangers(1)).await;
    until(|| server.stderr(), |text| text.contains("cannot write the decision log"));
    assert_eq!(fs::metadata(log.path()).unwrap().len(), size + 100);
    // More than memory has room for.
    for _ in 0..4 {
        batch(&operator, strangers(1_000)).await;
    }
    let lost = dropped_metric(&server, "disk");
    assert!((1..4_000).contains(&lost), "{lost}");
    limit_files(&server, "unlimited");
    until(|| server.stderr(), |text| text.contains("the decision log is written again"));
    let kept = usize::try_from(4_011 - lost).unwrap();
    assert_eq!(log.wait_for(kept).len(), kept, "the line that was cut off goes on");
    assert_eq!(dropped_metric(&server, "queue"), 0);
    assert!(server.metric("portcullis_decision_log_failures_total").unwrap() > 0);
    let whose = ("disk".to_owned(), "unknown_tokens".to_owned(), String::new());
    until(|| log.dropped(), |dropped| *dropped == BTreeMap::from([(whose.clone(), lost)]));

    let size = fs::metadata(log.path()).unwrap().len();
    limit_files(&server, &(size + 100).to_string());
    batch(&operator, strangers(1)).await;
    until(|| fs::metadata(log.path()).unwrap().len(), |&now| now == size + 100);
    server.kill9();
    server.restart();
    let operator = Client::operator(&server).await;
    batch(&operator, vec![question("after the kill", "192.0.2.9", READ)]).await;
    let text = until(
        || log.text(),
        |text| text.contains("192.0.2.9\",\"interface\"") && text.ends_with("}\n"),
    );
    let unreadable: Vec<_> =
        text.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    assert_eq!(unreadable.len(), 1);
    assert_eq!(unreadable[0].len(), 100);
    let path = log.path().display().to_string();
    let number = text.lines().position(|line| line == unreadable[0]).unwrap() + 1;
    let named = format!("unreadable lines: 1 ({path} line {number})");
    Shell::new().run(&["decisions", &path, "--limit", "1"]).exits(0).tells(&[&named]);
}

/// Rule 13.9.
#[tokio::test]
async fn a_renamed_file_is_reopened_on_sighup() {
    let log = Log::new();
    let server = log.setup("0").start();
    let operator = Client::operator(&server).await;
    for number in 0..3 {
        batch(&operator, vec![question("stranger", &format!("192.0.2.{number}"), READ)]).await;
        until(
            || fs::read_to_string(log.path()).unwrap_or_default(),
            |text| text.lines().count() == 1,
        );
        fs::rename(log.path(), log.home.path().join(format!("old.{number}"))).unwrap();
        server.signal("HUP");
        until(|| log.path().exists(), |&exists| exists);
    }
    let addresses: BTreeSet<_> =
        log.decisions().iter().map(|line| line["client_address"].to_string()).collect();
    assert_eq!(addresses.len(), 3);
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_that_names_the_flag_the_path_and_the_cure() {
    let log = Log::new();
    let link = log.home.path().join("link");
    symlink(log.path(), &link).unwrap();
    for (path, cause) in [
        (log.home.path().join("none/log"), "No such file"),
        (link, "symbolic link"),
        (log.home.path().to_owned(), "directory"),
    ] {
        let (status, text) = Setup::sqlite().flag("--decision-log", &path).refused();
        assert_eq!(status.code(), Some(2), "{text}");
        let named = format!("--decision-log: cannot open {}", path.display());
        assert!(text.contains(&named) && text.contains(cause), "{text}");
    }
    assert!(!log.path().exists());
    let (status, text) = Setup::sqlite()
        .flag("--decision-log", "-")
        .flag("--decision-log-allows", "1.5")
        .flag("--decision-log-max-size", "10")
        .refused();
    assert_eq!(status.code(), Some(2), "{text}");
    for part in
        ["--decision-log-allows: \"1.5\" is not a number from 0", "\"10\" is not a size from 1MiB"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn decisions_are_logged_to_standard_output() {
    let mut server = Setup::sqlite().flag("--decision-log", "-").start();
    let operator = Client::operator(&server).await;
    batch(&operator, vec![question("stranger", "192.0.2.1", READ)]).await;
    let out = until(|| server.stdout(), |text| text.contains("TOKEN_MALFORMED"));
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(server.terminate().success());
    let answer = Shell::new().run_with(&["decisions", "-"], &out).exits(0);
    answer
        .shows(&["TOKEN_MALFORMED", READ])
        .tells(&["unreadable lines: 1 (standard input line 1)"]);
}

#[tokio::test]
async fn lines_are_filtered_and_shown_by_the_command() {
    let log = Log::new();
    let server = log.setup("1").start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    for (secret, address) in [
        (&*secret, "192.0.2.1"),
        (&*secret, "192.0.2.2"),
        ("stranger", "192.0.2.3"),
        ("stranger", "2001:db8::1"),
    ] {
        operator.authorization().authorize(question(secret, address, READ)).await.unwrap();
    }
    log.wait_for(4);
    let path = log.path().display().to_string();
    let shell = Shell::new().env("PORTCULLIS_DECISION_LOG", &path);
    let shown = |flags: &[&str]| {
        let answer = shell.run(&[&["decisions", "-o", "json"], flags].concat()).ok();
        let address = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["client_address"].as_str().unwrap().to_owned()
        };
        answer.lines().map(address).collect::<BTreeSet<_>>()
    };
    let set = |addresses: &[&str]| addresses.iter().map(|&text| text.to_owned()).collect();
    let all: BTreeSet<_> = set(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]);
    assert_eq!(shown(&[]), all);
    assert_eq!(shown(&["--token", &token.token_id]), set(&["192.0.2.1", "192.0.2.2"]));
    assert_eq!(shown(&["--account", &account, "--decision", "deny"]), set(&[]));
    assert_eq!(shown(&["--decision", "deny"]), set(&["192.0.2.3", "2001:db8::1"]));
    assert_eq!(shown(&["--address", "192.0.2.2/31"]), set(&["192.0.2.2", "192.0.2.3"]));
    assert_eq!(shown(&["--since", "2020-01-01T00:00:00Z"]), all);
    assert_eq!(shown(&["--until", "2020-01-01T00:00:00Z"]), set(&[]));
    assert_eq!(shown(&["--limit", "1"]).len(), 1);
    let table = shell.run(&["decisions", "--reason", "allowed"]).exits(0);
    assert_eq!(table.stdout.lines().count(), 3, "{table}");
    assert!(table.stdout.starts_with("TIME ") && table.stdout.contains(&token.token_id), "{table}");
    let missing = Path::new(&path).with_file_name("none").display().to_string();
    shell.run(&["decisions", &missing]).exits(2).tells(&["cannot read", &missing]);
}
