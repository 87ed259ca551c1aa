//! The story of tokens that a company issued before, as an operator lives through it with grpcurl, and with the
//! `portcullis` command: imported, used, seen, replaced, expired, and reported as leaked, on two replicas.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use portcullis::secret::{digest, hex};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::replicas;
use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::server::Server;
use crate::support::tools::grpcurl;
use crate::support::wait::until;

const IMPORTED: usize = 1_000;
const ADDRESS: &str = "198.51.100.9";
const SCOPE: &str = "transactions.read";

/// What a token's operator sees of it.
#[derive(Debug, PartialEq, Eq)]
struct View {
    name: String,
    used: bool,
    addresses: Vec<String>,
    replaced_by: String,
}

/// What the story is lived through with. `at` is one of the two replicas.
trait Tool {
    /// Imports a token for each of `secrets`, named by their order: how many are new, and how many existed already.
    fn import(&self, account: &str, secrets: &[String]) -> (usize, usize);
    /// Names and ids of the account's tokens.
    fn list(&self, account: &str) -> Vec<(String, String)>;
    /// The reason of a decision on a request that counts as use.
    fn ask(&self, at: usize, secret: &str) -> String;
    /// The reason of a decision on one that does not.
    fn check(&self, at: usize, secret: &str) -> String;
    fn show(&self, token_id: &str) -> View;
    /// How many requests were allowed.
    fn usage(&self, token_id: &str) -> u64;
    /// Replaces a token with an overlap of an hour: id and secret of the successor.
    fn replace(&self, token_id: &str) -> (String, String);
    /// Has the token expire in a second.
    fn expire(&self, token_id: &str);
    /// Reports a secret, and the digest of another: the outcomes.
    fn report(&self, secret: &str, of: &str) -> Vec<String>;
}

fn live_through(tool: &impl Tool, account: &str) {
    let issued: Vec<_> = (0..IMPORTED).map(|n| format!("legacy:{n}:{account}")).collect();
    assert_eq!(tool.import(account, &issued), (IMPORTED, 0));
    assert_eq!(tool.import(account, &issued), (0, IMPORTED));
    let listed = tool.list(account);
    assert_eq!(listed.len(), IMPORTED);
    let listed: HashMap<_, _> = listed.into_iter().collect();
    let ids = [0, 1].map(|n| listed[&format!("legacy {n}")].clone());

    // Used.
    let both = |secret: &str| [0, 1].map(|at| tool.check(at, secret));
    let allowed = ["REASON_ALLOWED"; 2];
    for at in [0, 1] {
        assert_eq!(tool.ask(at, &issued[0]), "REASON_ALLOWED", "replica {at}");
    }
    for n in [IMPORTED / 2, IMPORTED - 1] {
        assert_eq!(both(&issued[n]), allowed, "legacy {n}");
    }
    assert!(!both(&hex(&digest(issued[0].as_bytes()))).contains(&"REASON_ALLOWED".to_owned()));

    // Seen.
    until(|| tool.show(&ids[0]), |view| view.used && view.addresses == [ADDRESS]);
    assert_eq!(tool.show(&ids[0]).name, "legacy 0");
    until(|| tool.usage(&ids[0]), |count| *count == 2);
    assert!(!tool.show(&ids[1]).used);

    // Replaced: both work, until the use of the old one has ended and its end is brought nearer.
    let (successor, secret) = tool.replace(&ids[0]);
    assert_eq!(tool.show(&ids[0]).replaced_by, successor);
    assert_eq!(tool.ask(1, &issued[0]), "REASON_ALLOWED");
    until(|| tool.usage(&ids[0]), |count| *count == 3);
    assert_eq!(tool.ask(0, &secret), "REASON_ALLOWED");
    assert_eq!(tool.ask(1, &secret), "REASON_ALLOWED");
    until(|| tool.usage(&successor), |count| *count == 2);
    assert_eq!(tool.usage(&ids[0]), 3, "the old token is used no more");
    tool.expire(&ids[0]);
    until(|| both(&issued[0]), |reasons| *reasons == ["REASON_TOKEN_EXPIRED"; 2]);
    assert_eq!(both(&secret), allowed);

    // Expired.
    assert_eq!(both(&issued[1]), allowed);
    tool.expire(&ids[1]);
    until(|| both(&issued[1]), |reasons| *reasons == ["REASON_TOKEN_EXPIRED"; 2]);

    // Leaked.
    assert_eq!(tool.report(&secret, &issued[2]), ["LEAK_REPORT_OUTCOME_REVOKED"; 2]);
    for leaked in [&secret, &issued[2]] {
        assert_eq!(both(leaked), ["REASON_TOKEN_REVOKED_LEAKED"; 2]);
    }
    assert_eq!(both(&issued[3]), allowed);
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(values: &Value, field: &str) -> Vec<String> {
    values.as_array().into_iter().flatten().map(|value| text(&value[field])).collect()
}

/// Counts are text in the JSON of Protocol Buffers, and numbers in that of the command.
fn sum(usage: &Value) -> u64 {
    let days = usage["days"].as_array().into_iter().flatten();
    days.map(|day| day["count"].as_u64().or_else(|| text(&day["count"]).parse().ok()).unwrap())
        .sum()
}

/// grpcurl, which knows the servers by reflection alone.
struct Grpcurl<'a>(&'a [Server; 2]);

impl Grpcurl<'_> {
    fn call(&self, at: usize, method: &str, request: &Value) -> Value {
        let server = &self.0[at];
        let mut command: Command = grpcurl();
        command.args(["-plaintext", "-max-time", "60", "-max-msg-sz", "8388608", "-d", "@", "-H"]);
        command.arg(format!("authorization: Bearer {}", server.operator()));
        command.arg(server.grpc().to_string()).arg(format!("portcullis.v1.{method}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{method}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn decide(&self, at: usize, secret: &str, dry_run: bool) -> String {
        let request =
            json!({ "token": secret, "client_ip": ADDRESS, "scope": SCOPE, "dry_run": dry_run });
        text(&self.call(at, "AuthorizationService/Authorize", &request)["reason"])
    }
}

impl Tool for Grpcurl<'_> {
    fn import(&self, account: &str, secrets: &[String]) -> (usize, usize) {
        let token = |(n, secret): (usize, &String)| {
            json!({
                "name": format!("legacy {n}"),
                "kind": "TOKEN_KIND_READ_ONLY",
                "secret_sha256": base64(&digest(secret.as_bytes())),
            })
        };
        let tokens: Vec<_> = secrets.iter().enumerate().map(token).collect();
        let request = json!({ "account_id": account, "tokens": tokens });
        let answer = self.call(0, "TokenService/ImportTokens", &request);
        let results = answer["results"].as_array().unwrap();
        assert!(results.iter().all(|result| result["token"].is_object()), "{answer:#}");
        let existed = results.iter().filter(|result| result["alreadyExisted"] == true).count();
        (results.len() - existed, existed)
    }

    fn list(&self, account: &str) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let mut request = json!({ "account_id": account, "page_size": 1_000 });
        loop {
            let page = self.call(1, "TokenService/ListTokens", &request);
            let tokens = &page["tokens"];
            all.extend(texts(tokens, "name").into_iter().zip(texts(tokens, "tokenId")));
            if text(&page["nextPageToken"]).is_empty() {
                return all;
            }
            request["page_token"] = page["nextPageToken"].clone();
        }
    }

    fn ask(&self, at: usize, secret: &str) -> String {
        self.decide(at, secret, false)
    }

    fn check(&self, at: usize, secret: &str) -> String {
        self.decide(at, secret, true)
    }

    fn show(&self, token_id: &str) -> View {
        let token =
            &self.call(1, "TokenService/GetToken", &json!({ "token_id": token_id }))["token"];
        View {
            name: text(&token["name"]),
            used: token["lastUseTime"].is_string(),
            addresses: texts(&token["recentAddresses"], "address"),
            replaced_by: text(&token["replacedByTokenId"]),
        }
    }

    fn usage(&self, token_id: &str) -> u64 {
        sum(&self.call(1, "TokenService/GetTokenUsage", &json!({ "token_id": token_id })))
    }

    fn replace(&self, token_id: &str) -> (String, String) {
        let request = json!({ "token_id": token_id, "overlap": "3600s" });
        let answer = self.call(0, "TokenService/ReplaceToken", &request);
        (text(&answer["token"]["tokenId"]), text(&answer["secret"]))
    }

    fn expire(&self, token_id: &str) {
        let request = json!({ "token_id": token_id, "ttl": "1s" });
        self.call(0, "TokenService/SetTokenExpiry", &request);
    }

    fn report(&self, secret: &str, of: &str) -> Vec<String> {
        let request =
            json!({ "secrets": [secret], "secret_sha256s": [base64(&digest(of.as_bytes()))] });
        texts(&self.call(0, "TokenService/ReportLeakedTokens", &request)["results"], "outcome")
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The `portcullis` command. It has no request that counts as use: these come from a gateway.
struct Cli {
    shells: [Shell; 2],
    gateways: [Client; 2],
    runtime: Runtime,
}

impl Cli {
    fn run(&self, at: usize, args: &[&str], input: &str) -> Value {
        self.shells[at].run_with(&[args, &["--output", "json"]].concat(), input).json()
    }
}

impl Tool for Cli {
    fn import(&self, account: &str, secrets: &[String]) -> (usize, usize) {
        let line = |(n, secret): (usize, &String)| {
            let digest = hex(&digest(secret.as_bytes()));
            json!({ "name": format!("legacy {n}"), "kind": "read-only", "secret_sha256": digest })
                .to_string()
        };
        let lines: Vec<_> = secrets.iter().enumerate().map(line).collect();
        let counts =
            self.run(0, &["token", "import", "--account", account, "-"], &lines.join("\n"));
        assert_eq!(counts["refused"], 0, "{counts}");
        let count = |name: &str| usize::try_from(counts[name].as_u64().unwrap()).unwrap();
        (count("imported"), count("already_existed"))
    }

    fn list(&self, account: &str) -> Vec<(String, String)> {
        let listed = self.run(1, &["token", "list", "--account", account], "");
        let tokens = &listed["tokens"];
        texts(tokens, "name").into_iter().zip(texts(tokens, "token_id")).collect()
    }

    fn ask(&self, at: usize, secret: &str) -> String {
        let mut gateway = self.gateways[at].authorization();
        let answer = self.runtime.block_on(gateway.authorize(question(secret, ADDRESS, SCOPE)));
        answer.unwrap().into_inner().reason().as_str_name().to_owned()
    }

    fn check(&self, at: usize, secret: &str) -> String {
        let args = ["check", "--ip", ADDRESS, "--scope", SCOPE, "--output", "json"];
        let answer = self.shells[at].run_with(&args, secret);
        let decision: Value = serde_json::from_str(&answer.stdout)
            .unwrap_or_else(|error| panic!("{error}: {answer}"));
        let allowed = decision["decision"] == "DECISION_ALLOW";
        assert_eq!(answer.code, Some(i32::from(!allowed)), "{answer}");
        text(&decision["reason"])
    }

    fn show(&self, token_id: &str) -> View {
        let token = &self.run(1, &["token", "show", token_id], "")["token"];
        View {
            name: text(&token["name"]),
            used: token["last_use_time"].is_string(),
            addresses: texts(&token["recent_addresses"], "address"),
            replaced_by: text(&token["replaced_by_token_id"]),
        }
    }

    fn usage(&self, token_id: &str) -> u64 {
        sum(&self.run(1, &["token", "usage", token_id], ""))
    }

    fn replace(&self, token_id: &str) -> (String, String) {
        let answer = self.run(0, &["token", "replace", token_id, "--overlap", "1h"], "");
        (text(&answer["token"]["token_id"]), text(&answer["secret"]))
    }

    fn expire(&self, token_id: &str) {
        self.run(0, &["token", "expire", token_id, "1s", "--yes"], "");
    }

    fn report(&self, secret: &str, of: &str) -> Vec<String> {
        let lines = format!("{secret}\nsha256:{}\n", hex(&digest(of.as_bytes())));
        texts(&self.run(0, &["token", "report-leaked", "--yes"], &lines)["results"], "outcome")
    }
}

#[test]
fn grpcurl_adopts_tokens_on_two_replicas() {
    let servers = replicas();
    let grpcurl = Grpcurl(&servers);
    let request = json!({ "name": "Adoption", "admin_emails": ["ada@example.com"] });
    let created = grpcurl.call(0, "AccountService/CreateAccount", &request);
    live_through(&grpcurl, &text(&created["account"]["accountId"]));
}

#[test]
fn the_command_adopts_tokens_on_two_replicas() {
    let servers = replicas();
    let runtime = Runtime::new().unwrap();
    let gateways = servers.each_ref().map(|server| runtime.block_on(Client::operator(server)));
    let cli = Cli { shells: servers.each_ref().map(Shell::operator), gateways, runtime };
    let create = ["account", "create", "--name", "Adoption", "--admin", "ada@example.com"];
    let created = cli.run(0, &create, "");
    live_through(&cli, &text(&created["account"]["account_id"]));
}
