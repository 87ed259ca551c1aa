//! The `portcullis` command as a person uses it, against a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fs;
use std::time::Duration;

use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::postgres;
use crate::support::server::{Server, Setup, random_credential};
use crate::support::tls::Authority;
use clap::CommandFactory as _;
use portcullis::clock::Stopwatch;
use portcullis::grpc::proto::Reason;
use portcullis::policy::client_certificate::Fingerprint;
use serde_json::Value;

#[test]
fn everything_that_operators_do_on_sqlite() {
    everything(&Setup::sqlite().start());
}

#[test]
fn everything_that_operators_do_on_postgres() {
    everything(&Setup::postgres(&postgres::database()).start());
}

fn everything(server: &Server) {
    let shell = Shell::operator(server);
    let account = accounts(&shell);
    let (read_only, secret) = tokens(&shell, &account);
    whitelists(&shell, &account);
    decisions(&shell, &secret);
    catalogs(&shell);
    credentials(server, &shell, &account);
    records(&shell, &account, &read_only, &secret);
}

/// Rules 11.20 and 11.23.
#[test]
fn a_bearer_reads_and_revokes_its_token_without_a_credential() {
    let server = Setup::sqlite().start();
    let operator = Shell::operator(&server);
    let account = accounts(&operator);
    let create = ["token", "create", "--account", &account, "--name", "n", "--kind", "read-only"];
    let secret = operator.run(&create).exits(0).ok();
    let bearer = Shell::reaching(&server);
    let own = bearer.run_with(&["token", "self"], &secret).exits(0);
    own.shows(&["tok_", "read-only", "active", "transactions.read"]);
    bearer.run_with(&["token", "self"], "nobody").exits(2).tells(&["No such token"]);
    bearer.run_with(&["token", "self"], "").exits(2).tells(&["no token was given"]);
    for _ in 0..2 {
        let revoked = bearer.run_with(&["token", "revoke-self", "--yes"], &secret).exits(0);
        revoked.tells(&["was deleted at", "in effect on every replica"]);
    }
    let revoked = ["token", "revoke-self", "--yes", "--output", "json"];
    let revoked = bearer.run_with(&revoked, &secret).json();
    assert_eq!(revoked["token"]["state"], "TOKEN_STATE_DELETED");
    bearer.run_with(&["token", "self"], &secret).exits(2).tells(&["was deleted"]);
}

/// The commands that end a token or a credential for good, with what each is run with.
fn ending_commands<'a>(token: &'a str, credential: &'a str, file: &'a str) -> [Vec<&'a str>; 6] {
    [
        vec!["token", "expire", token, "1h"],
        vec!["token", "delete", token],
        vec!["token", "revoke-self", "--token-file", file],
        vec!["token", "report-leaked", file],
        vec!["credential", "update", credential, "--expires", "1h"],
        vec!["credential", "revoke", credential],
    ]
}

#[test]
fn commands_that_nothing_reverses_need_a_confirmation_and_change_nothing_without_it() {
    let server = Setup::sqlite().start();
    let shell = Shell::operator(&server);
    let account = accounts(&shell);
    let create = ["token", "create", "--account", &account, "--name", "n", "--kind", "read-only"];
    let made = json(&shell, &create);
    let token = made["token"]["token_id"].as_str().unwrap();
    let file = shell.home().join("secret.txt");
    fs::write(&file, made["secret"].as_str().unwrap()).unwrap();
    let pep = json(&shell, &["credential", "create", "--role", "pep"]);
    let credential = pep["credential"]["credential_id"].as_str().unwrap();
    let commands = ending_commands(token, credential, file.to_str().unwrap());
    let events = || json(&shell, &["audit"])["audit_events"].as_array().unwrap().len();
    let before = events();
    for command in &commands {
        let refused = shell.run(command).exits(2);
        refused.tells(&["nothing was changed", "no terminal to ask on", "--yes"]);
        let refused = shell.run(&[&command[..], &["--output", "json"]].concat()).error_json(2);
        assert_eq!(refused["code"], "USAGE");
        for answer in ["n\n", "\n", ""] {
            let declined = shell.run_on_terminal(command, answer).exits(2);
            declined.shows(&["[y/N]", "nothing was changed"]);
        }
    }
    assert_eq!(events(), before);
    shell.run(&["credential", "update", credential, "--name", "renamed"]).exits(0);
    shell.run_on_terminal(&commands[0], "y\n").exits(0).shows(&[token, "in 1h", "expires at"]);
    shell.run_on_terminal(&commands[1], "yes\n").exits(0).shows(&["[y/N]", "was deleted at"]);
    for command in &commands {
        shell.run(&[&command[..], &["--yes"]].concat());
    }
    let listed = json(&shell, &["credential", "list"]);
    let revoked = listed["credentials"]
        .as_array()
        .unwrap()
        .iter()
        .find(|of| of["credential_id"] == credential && of["revoke_time"].is_string());
    assert!(revoked.is_some(), "{listed}");

    // So that the list above is the whole one.
    let mut found = commands_with_yes("", &portcullis::cli::Cli::command());
    let mut known: Vec<_> = commands.iter().map(|command| command[..2].join(" ")).collect();
    found.sort_unstable();
    known.sort_unstable();
    assert_eq!(found, known);
}

fn commands_with_yes(name: &str, command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().any(|arg| arg.get_long() == Some("yes"));
    let inner = command
        .get_subcommands()
        .flat_map(|inner| commands_with_yes(format!("{name} {}", inner.get_name()).trim(), inner));
    own.then(|| name.to_owned()).into_iter().chain(inner).collect()
}

/// Rules 10.2 and 10.3.
#[test]
fn a_file_of_tokens_is_imported_and_what_is_refused_is_named_by_its_line() {
    const DIGEST: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    let server = Setup::sqlite().start();
    let shell = Shell::operator(&server);
    let account = accounts(&shell);
    let line = |number: usize, kind: &str| {
        let digest = portcullis::secret::digest(format!("secret {number}").as_bytes());
        let digest = portcullis::secret::hex(&digest);
        format!(r#"{{"name":"t{number}","kind":"{kind}","secret_sha256":"sha256:{digest}"}}"#)
    };
    let mut lines: Vec<_> = (0..2_500).map(|number| line(number, "read-only")).collect();
    lines.insert(3, String::new());
    lines.insert(1_200, line(9_999, "read-write"));
    lines.insert(2_000, "nothing".to_owned());
    // That of "password".
    lines.push(format!(r#"{{"name":"p","kind":"read-only","secret_sha256":"{DIGEST}"}}"#));
    let file = shell.home().join("tokens.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    let import = ["token", "import", "--account", &account];
    let checked = shell.run(&[&import[..], &["--dry-run", file]].concat()).exits(1);
    checked.tells(&["2501 would be imported, 0 already existed, 2 refused"]);
    assert!(!shell.run(&["token", "list"]).exits(0).printed().contains("t7"));

    let began = Stopwatch::start();
    let imported = shell.run(&[&import[..], &["--rate", "5000", file]].concat()).exits(1);
    assert!(began.elapsed() >= Duration::from_millis(400), "three calls, 200 ms apart");
    let imported =
        imported.tells(&["line 1201: whitelist: ", "line 2001: ", "2 lines were refused"]);
    imported.tells(&["2501 imported, 0 already existed, 2 refused"]);
    let check = ["check", "--scope", "transactions.read", "--token-file", "-"];
    shell.run_with(&check, "secret 2499").exits(0);
    shell.run_with(&check, "password").exits(0);
    shell.run_with(&check, DIGEST).exits(1);

    // From standard input, and again.
    let again = shell.run_with(&[&import[..], &["-", "--output", "json"]].concat(), &lines[0]);
    assert_eq!(
        again.json(),
        serde_json::json!({ "imported": 0, "already_existed": 1, "refused": 0 })
    );
    shell.run(&[&import[..], &["absent.jsonl"]].concat()).exits(2).tells(&["can't be read"]);
    shell.run(&[&import[..], &["--rate", "0", file]].concat()).exits(2).tells(&["--rate"]);
    let nobody = ["token", "import", "--account", "acc_1", "-"];
    shell.run_with(&nobody, &lines[0]).exits(1).tells(&["account_id"]);
}

fn json(shell: &Shell, args: &[&str]) -> Value {
    shell.run(&[args, &["--output", "json"]].concat()).json()
}

fn accounts(shell: &Shell) -> String {
    let create = ["account", "create", "--name", "Acme", "--admin", "ann@acme.example"];
    let made = shell.run(&create).exits(0).tells(&["created the account"]);
    let account = made.ok();
    assert!(account.starts_with("acc_") && !account.contains('\n'), "{account}");
    shell.run(&["account", "show", &account]).exits(0).shows(&[&account, "Acme", "ann@acme"]);
    let shown = json(shell, &["account", "show", &account]);
    assert_eq!(shown["account"]["account_id"], account.as_str());

    let set = ["account", "set-admins", &account, "--admin", "bo@acme.example"];
    shell.run(&set).exits(0).shows(&["bo@acme.example"]);
    let set = json(shell, &set);
    assert_eq!(set["account"]["admin_emails"], serde_json::json!(["bo@acme.example"]));

    let second = json(shell, &create)["account"]["account_id"].as_str().unwrap().to_owned();
    shell.run(&["account", "list"]).exits(0).shows(&["ACCOUNT", &account, &second]);
    assert_eq!(json(shell, &["account", "list"])["accounts"].as_array().unwrap().len(), 2);
    let cut = shell.run(&["account", "list", "--limit", "1"]).exits(0).tells(&["--limit"]);
    assert!(!cut.stdout.contains(&second), "{cut}");

    let bad = shell.run(&["account", "create", "--name", "x", "--admin", "nobody"]);
    bad.exits(1).tells(&["error: admin_emails[0]:"]);
    let missing = ["account", "show", "acc_0000000000000000000000", "--output", "json"];
    assert_eq!(shell.run(&missing).error_json(1)["code"], "NOT_FOUND");
    account
}

/// A read-only token's id and secret.
fn tokens(shell: &Shell, account: &str) -> (String, String) {
    let of = |kind| vec!["token", "create", "--account", account, "--name", "n", "--kind", kind];
    let dry = [of("read-only"), vec!["--dry-run"]].concat();
    shell.run(&dry).exits(0).tells(&["nothing was created"]).shows(&["read-only"]);
    shell.run(&["token", "list"]).exits(0).tells(&["no tokens"]);

    let made = shell.run(&of("read-only")).exits(0).tells(&["shown this once", "tok_"]);
    let secret = made.ok();
    assert!(secret.starts_with("pcl_t1_") && !secret.contains('\n'), "{secret}");

    let refused = shell.run(&of("read-write")).exits(1);
    refused.tells(&["error: whitelist:", "name the addresses"]);
    let error = shell.run(&[of("read-write"), vec!["--output", "json"]].concat()).error_json(1);
    assert_eq!(error["code"], "INVALID_ARGUMENT");
    assert_eq!(error["violations"][0]["field"], "whitelist");

    let custom = [of("custom"), vec!["--scope", "transactions.read", "--scope", "cards.reveal"]];
    let custom = [custom.concat(), vec!["--whitelist", "192.0.2.7,10.1.0.0/16"]].concat();
    let made = json(shell, &custom);
    assert_eq!(made["token"]["kind"], "TOKEN_KIND_CUSTOM");
    assert!(made["secret"].as_str().unwrap().starts_with("pcl_t1_"));

    let list = json(shell, &["token", "list", "--account", account]);
    let tokens = list["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2);
    let id = tokens[0]["token_id"].as_str().unwrap().to_owned();
    shell.run(&["token", "show", &id]).exits(0).shows(&["read-only", "active", "none recorded"]);
    assert_eq!(json(shell, &["token", "show", &id])["token"]["whitelist"], serde_json::json!([]));
    shell.run(&["token", "list"]).exits(0).shows(&["TOKEN", &id, "2 entries"]);
    (id, secret)
}

fn whitelists(shell: &Shell, account: &str) {
    let create = ["token", "create", "--account", account, "--name", "w", "--kind", "read-write"];
    let made = json(shell, &[&create[..], &["--whitelist", "192.0.2.1"]].concat());
    let token = made["token"]["token_id"].as_str().unwrap();
    let run = |verb, rest: &[&str]| shell.run(&[&["whitelist", verb, token], rest].concat());

    assert_eq!(run("show", &[]).exits(0).tells(&["version 1"]).ok(), "192.0.2.1");
    assert_eq!(run("add", &["192.0.2.0/24", "--dry-run"]).exits(0).stdout.lines().count(), 2);
    run("add", &["192.0.2.0/24", "2001:db8::/48"]).exits(0).tells(&["version 2"]);
    let removed = run("remove", &["192.0.2.1"]).exits(0);
    removed.tells(&["still covered by 192.0.2.0/24", "version 3", "in effect on every replica"]);
    run("remove", &["192.0.2.1"]).exits(1).tells(&["192.0.2.1", "rule: NOT_PRESENT"]);
    run("add", &["10.0.0.5/24"]).exits(1).tells(&["did you mean 10.0.0.0/24 or 10.0.0.5/32?"]);
    let stale = ["198.51.100.1", "--expected-version", "2", "--output", "json"];
    let stale = run("replace", &stale).error_json(1);
    assert_eq!(stale["code"], "ABORTED");
    run("replace", &["198.51.100.1", "--expected-version", "3"]).exits(0).tells(&["version 4"]);
    run("replace", &["--allow-any-address"]).exits(1).tells(&["must have a whitelist"]);
    let shown = json(shell, &["whitelist", "show", token]);
    assert_eq!(shown["entries"], serde_json::json!(["198.51.100.1"]));
    assert_eq!(shown["version"], 4);
}

/// Rule 3.16: as many entries as the setting allows, in one call; what is refused is shown as typed.
#[test]
fn a_list_of_ranges_is_one_call() {
    let server = Setup::sqlite().flag("--whitelist-max-entries", "10000").start();
    let shell = Shell::operator(&server);
    let create = ["account", "create", "--name", "Acme", "--admin", "ann@acme.example"];
    let account = shell.run(&create).ok();
    let of = ["token", "create", "--account", &account, "--name", "n", "--kind", "read-only"];
    let token = &json(&shell, &of)["token"]["token_id"].as_str().unwrap().to_owned();
    let ranges: Vec<String> =
        (0..10_000).map(|n| format!("2001:db8:{:x}:{:x}::/64", n / 100, n % 100)).collect();
    let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
    let run = |verb, rest: &[&str]| shell.run(&[&["whitelist", verb, token], rest].concat());
    let replaced = run("replace", &ranges).exits(0).ok();
    assert_eq!(replaced.lines().count(), 10_000);
    run("add", &["192.0.2.1"]).exits(1).tells(&["10001 entries, and 10000 are allowed"]);
    assert_eq!(run("remove", &ranges[1..]).exits(0).ok().trim(), "2001:db8::/64");
    for (typed, told) in [
        ("office", "error: add[0]: “office” is a host name"),
        ("\"192.0.2.7\"", "error: add[0]: “\"192.0.2.7\"” has quotation marks"),
        ("10.0.0.0/24;", "error: add[0]: “10.0.0.0/24;” has the character “;”: separate"),
        ("192.0.2.7\u{200b}", "“192.0.2.7<U+200B>” has the character U+200B"),
    ] {
        run("add", &[typed]).exits(1).tells(&[told]);
    }
}

fn decisions(shell: &Shell, secret: &str) {
    let check = |rest: &[&str], input: &str| {
        shell.run_with(&[&["check", "--ip", "203.0.113.7"], rest].concat(), input)
    };
    let read = ["--scope", "transactions.read"];
    check(&read, secret).exits(0).shows(&["allow", "REASON_ALLOWED", "transactions.read"]);
    check(&read, &format!("{secret}\n")).exits(0);
    check(&["--http", "GET /api/v1/cards/42/reveal"], secret).exits(1).shows(&["deny"]);
    check(&read, "x").exits(1).shows(&["REASON_TOKEN_MALFORMED"]);
    no_token(shell);
    let file = shell.home().join("token.txt");
    fs::write(&file, format!("{secret}\n")).unwrap();
    let answer = check(&["--scope", "transactions.read", "--token-file", "token.txt"], "").exits(0);
    assert!(!answer.printed().contains(secret), "{answer}");
    let json = check(&["--scope", "cards.reveal", "-o", "json"], secret).exits(1);
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["decision"], "DECISION_DENY");

    // No decision is never taken for a denial.
    check(&["--scope", "no.such.scope"], secret).exits(2).tells(&["no scope no.such.scope"]);
    check(&["--scope", "transactions.read", "--ip", "here"], secret).exits(2);
    check(&["--scope", "transactions.read", "--server", "http://127.0.0.1:1"], secret)
        .exits(2)
        .tells(&["no server answers at http://127.0.0.1:1"]);
    check(&[], secret).exits(2).tells(&["Usage:"]);
}

/// What is empty is no token, wherever it comes from, and without one there is no decision.
fn no_token(shell: &Shell) {
    let read = ["check", "--scope", "transactions.read"];
    for input in ["", "\n", "\r\n", " \n"] {
        let answer = shell.run_with(&read, input).exits(2).tells(&["no token was given"]);
        assert_eq!(answer.stdout, "", "{answer}");
    }
    fs::write(shell.home().join("empty.txt"), "\n").unwrap();
    let from_file = [&read[..], &["--token-file", "empty.txt"]].concat();
    shell.run(&from_file).exits(2).tells(&["no token was given"]);
    shell
        .run(&[&read[..], &["--token-file", "-"]].concat())
        .exits(2)
        .tells(&["no token was given"]);
    let error = shell.run(&[&read[..], &["-o", "json"]].concat()).error_json(2);
    assert_eq!(error["code"], "USAGE");
}

fn catalogs(shell: &Shell) {
    shell.run(&["catalog", "show"]).exits(0).shows(&["SCOPE", "transactions.read"]);
    assert_eq!(json(shell, &["catalog", "show"])["version"], 1);
    let toml = shell.run(&["catalog", "show", "--toml"]).ok();
    shell.run_with(&["catalog", "check", "-"], &toml).exits(0).tells(&["nothing differs"]);

    let narrower = toml.replacen("access = \"read\"", "access = \"write\"", 1);
    assert_ne!(narrower, toml);
    let file = shell.home().join("narrower.toml");
    fs::write(&file, &narrower).unwrap();
    shell.run(&["catalog", "check", "narrower.toml"]).exits(0).tells(&["--confirm-narrowing"]);
    shell.run(&["catalog", "apply", "narrower.toml"]).exits(1).tells(&["error:"]);
    let apply = ["catalog", "apply", "narrower.toml", "--confirm-narrowing"];
    shell.run(&apply).exits(0).tells(&["version 2 is in force"]);
    shell.run(&["catalog", "apply", "absent.toml"]).exits(2).tells(&["absent.toml"]);
    let faulty = shell.run_with(&["catalog", "apply", "-"], "[[scope]]\nname = 1\n").exits(1);
    faulty.tells(&["error:"]);
}

fn credentials(server: &Server, shell: &Shell, account: &str) {
    let made = shell.run(&["credential", "create", "--role", "pep", "--name", "checkout"]).exits(0);
    let pep = made.tells(&["shown this once", "crd_"]).ok();
    assert!(pep.starts_with("pcl_c1_"), "{pep}");
    let admin = ["credential", "create", "--role", "account-admin", "--account", account];
    let made = json(shell, &admin);
    let (admin, admin_id) = (&made["secret"], &made["credential"]["credential_id"]);
    let admin = Shell::reaching(server).env("PORTCULLIS_CREDENTIAL", admin.as_str().unwrap());
    assert_eq!(json(&admin, &["account", "list"])["accounts"].as_array().unwrap().len(), 1);

    let asks = Shell::reaching(server).env("PORTCULLIS_CREDENTIAL", &pep);
    asks.run(&["token", "list"]).exits(1).tells(&["pep"]);
    asks.run_with(&["check", "--scope", "transactions.read"], "x").exits(1);
    let wrong = Shell::reaching(server).env("PORTCULLIS_CREDENTIAL", random_credential());
    wrong.run(&["token", "list"]).exits(2).tells(&["not valid", "PORTCULLIS_CREDENTIAL"]);
    Shell::reaching(server).run(&["token", "list"]).exits(2).tells(&["credential"]);

    shell.run(&["credential", "list"]).exits(0).shows(&["pep", "checkout", "settings"]);
    shell.run(&["credential", "rotate-key"]).exits(0).tells(&["new key"]);
    let revoke = ["credential", "revoke", admin_id.as_str().unwrap(), "--yes"];
    shell.run(&revoke).exits(0).tells(&["revoked", "in effect on every replica"]);
    assert_eq!(json(shell, &revoke)["propagation"]["complete"], true);
    admin.run(&["account", "list"]).exits(2).tells(&["revoked"]);
}

/// Rule 9.20 of docs/policy.md.
#[test]
fn client_certificates_are_named_by_file_or_fingerprint_and_not_copied() {
    let server = Setup::sqlite().start();
    let shell = Shell::reaching(&server).env("PORTCULLIS_CREDENTIAL", server.operator());
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("gateway.pem");
    let identity = Authority::new("clients").client("gateway");
    // As many keep them: with the key, which is not read.
    std::fs::write(&file, format!("{}{}", identity.key(), identity.certificate())).unwrap();
    let file = file.to_str().unwrap();
    let other = format!("sha256:{}", "ab".repeat(32));
    let create = ["credential", "create", "--role", "pep", "--client-certificate"];
    let both = [&create[..], &[file, "--client-certificate", &other]].concat();
    let fingerprint = Fingerprint::of(&identity.der()).to_string();
    shell.run(&both).exits(0).tells(&[file, &fingerprint]);
    shell
        .run(&["credential", "list"])
        .exits(0)
        .shows(&[&format!("certificate={fingerprint} certificate={other}")]);
    shell.run(&[&create[..], &[&other]].concat()).exits(1).tells(&["another valid credential"]);
    for wrong in ["sha256:ab", "absent.pem", &format!("{file}/"), "/dev/null"] {
        shell.run(&[&create[..], &[wrong]].concat()).exits(2).tells(&["--client-certificate"]);
    }

    let listed = json(&shell, &["credential", "list"]);
    let id = listed["credentials"][1]["credential_id"].as_str().unwrap();
    let copied = json(&shell, &["credential", "create", "--like", id]);
    assert_eq!(copied["credential"]["client_certificate_sha256s"], serde_json::json!([]));
}

/// Rules 9.2 and 9.7 of docs/policy.md.
#[test]
fn gateway_credential_is_created_listed_and_replaced() {
    let server = Setup::sqlite().start();
    let shell = Shell::reaching(&server).env("PORTCULLIS_CREDENTIAL", server.operator());
    let create = ["credential", "create", "--role", "pep", "--name", "nginx"];
    let flags = [
        "--client-address-header",
        "X-Forwarded-For",
        "--trusted-proxy",
        "10.0.0.0/8,192.0.2.1",
        "--trusted-proxy",
        "2001:db8::/32",
        "--client-token-header",
        "X-Api-Key",
        "--client-method-header",
        "X-Original-Method",
        "--client-uri-header",
        "X-Original-URI",
        "--forward-client-token",
        "false",
    ];
    let first = json(&shell, &[&create[..], &flags].concat());
    let source = &first["credential"]["client_source"];
    assert_eq!(
        *source,
        serde_json::json!({
            "address_header": "x-forwarded-for",
            "trusted_proxies": ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"],
            "token_header": "x-api-key",
            "method_header": "x-original-method",
            "uri_header": "x-original-uri",
            "forward_token": false,
        })
    );
    shell.run(&["credential", "list"]).exits(0).shows(&[
        "address=x-forwarded-for token=x-api-key method=x-original-method uri=x-original-uri \
         proxies=10.0.0.0/8,192.0.2.1,2001:db8::/32 forward-token=false",
    ]);

    let id = first["credential"]["credential_id"].as_str().unwrap();
    let second = json(&shell, &["credential", "create", "--like", id]);
    assert_ne!(second["secret"], first["secret"]);
    for field in ["role", "name", "client_source"] {
        assert_eq!(second["credential"][field], first["credential"][field], "{field}");
    }
    let named = json(&shell, &["credential", "create", "--like", id, "--name", "caddy"]);
    assert_eq!(named["credential"]["name"], "caddy");
    shell.run(&["credential", "revoke", id, "--yes"]).exits(0);
    json(&shell, &["credential", "create", "--like", id]);
    shell
        .run(&["credential", "create", "--like", "crd_x"])
        .exits(2)
        .tells(&["no credential crd_x"]);
    let both = ["credential", "create", "--like", id, "--trusted-proxy", "192.0.2.1"];
    shell.run(&both).exits(2).tells(&["cannot be used with"]);

    let kept = json(&shell, &[&create[..], &["--forward-client-token"]].concat());
    assert_eq!(kept["credential"]["client_source"]["forward_token"], true);
    assert!(json(&shell, &create)["credential"]["client_source"].is_null());
    let bad = ["--client-address-header", "X_Forwarded_For", "--trusted-proxy", "0.0.0.0/0"];
    let tells = [
        "client_source.address_header",
        "_ and -",
        "client_source.trusted_proxies[0]",
        "every address",
    ];
    shell.run(&[&create[..], &bad].concat()).exits(1).tells(&tells);
}

fn records(shell: &Shell, account: &str, token: &str, secret: &str) {
    shell.run(&["pending"]).exits(0).tells(&["nothing is pending"]);
    assert_eq!(
        json(shell, &["pending", "--token", token])["pending_actions"],
        Value::Array(vec![])
    );

    let preview = shell.run(&["pending", "--preview", "--account", account]).exits(0);
    preview.tells(&["The lifecycle enforces", "window of 45d"]).shows(&["DAY"]);
    let preview = json(shell, &["pending", "--preview"]);
    assert_eq!(preview["days"].as_array().unwrap().len(), 45);
    assert_eq!(preview["token_count"], 3);
    shell.run(&["pending", "--preview", "--token", token]).exits(2).tells(&["cannot be used"]);

    let deleted = shell.run(&["token", "delete", token, "--yes"]).exits(0);
    deleted.tells(&["was deleted at", "in effect on every replica"]);
    shell.run(&["token", "delete", token, "--yes"]).exits(0);
    shell.run(&["whitelist", "add", token, "::1"]).exits(1).tells(&["deleted"]);
    let read = ["check", "--scope", "transactions.read"];
    shell.run_with(&read, secret).exits(1).shows(&["REASON_TOKEN_DELETED"]);
    let listed = shell.run(&["token", "list", "--account", account]).exits(0);
    assert!(!listed.stdout.contains(token), "{listed}");
    shell.run(&["token", "list", "--deleted"]).exits(0).shows(&[token]);

    shell
        .run(&["audit", "--token", token])
        .exits(0)
        .shows(&["kind=READ_ONLY", "state=active→deleted"]);
    let events = json(shell, &["audit", "--token", token])["audit_events"].clone();
    let actions: Vec<_> = events.as_array().unwrap().iter().map(|e| &e["action"]).collect();
    assert_eq!(actions, ["token.delete", "token.create"]);
    assert_eq!(events[0]["client_address"], "127.0.0.1");
    assert_eq!(events[0]["actor_role"], "operator");
    let none = ["audit", "--until", "2020-01-01T00:00:00Z"];
    shell.run(&none).exits(0).tells(&["no events"]);
}

/// Each example of the help texts and the documents can be tried as it stands.
#[test]
fn examples_name_scopes_and_routes_of_the_built_in_catalogue() {
    let server = Setup::sqlite().start();
    let shell = Shell::operator(&server);
    let catalog = json(&shell, &["catalog", "show"]);
    let scopes = catalog["scopes"].as_array().unwrap();
    let names: Vec<_> = scopes.iter().map(|scope| scope["name"].as_str().unwrap()).collect();
    let routes = scopes.iter().flat_map(|scope| scope["routes"].as_array().unwrap());
    let routes: Vec<_> = routes.map(|route| route.as_str().unwrap()).collect();
    let covers = |route: &str, asked: &str| {
        let (route, asked) = (route.split(['/', ' ']), asked.split(['/', ' ']));
        let same = |(part, asked): (&str, &str)| part == asked || part.starts_with('{');
        route.clone().count() == asked.clone().count() && route.zip(asked).all(same)
    };

    let mut texts = help_texts(&mut portcullis::cli::Cli::command());
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|e| e == "md"));
    for path in docs.chain([root.join("README.md")]) {
        texts.push(fs::read_to_string(path).unwrap());
    }
    let mut tried = 0;
    for text in texts {
        let after = |mark: &'static str, end: fn(char) -> bool| {
            let rest = text.split(mark).skip(1).map(str::to_owned).collect::<Vec<_>>();
            rest.into_iter().map(move |rest| rest.split(end).next().unwrap().to_owned())
        };
        let is_end = |c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c));
        let named = after("--scope ", is_end).chain(after("\"scope\": \"", is_end));
        for name in named.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase())) {
            assert!(names.contains(&name.as_str()), "no scope {name} in:\n{text}");
            tried += 1;
        }
        for asked in after("--http \"", |c| c == '"') {
            assert!(routes.iter().any(|route| covers(route, &asked)), "{asked} in:\n{text}");
            tried += 1;
        }
    }
    assert!(tried >= 10, "only {tried} examples were found");
}

fn help_texts(command: &mut clap::Command) -> Vec<String> {
    let mut texts = vec![command.render_long_help().to_string()];
    for command in command.get_subcommands_mut() {
        texts.extend(help_texts(command));
    }
    texts
}

#[test]
fn audit_shows_what_a_token_of_a_thousand_scopes_changed() {
    let server = Setup::sqlite().start();
    let shell = Shell::operator(&server);
    let scopes = (0..1_000).map(|n| {
        format!(
            "[[scope]]\nname = \"{}.{n:03}\"\naccess = \"read\"\ndescription = \"d\"\nroutes = []\n",
            "s".repeat(60)
        )
    });
    let apply = ["catalog", "apply", "-", "--confirm-narrowing"];
    shell.run_with(&apply, &scopes.collect::<String>()).exits(0);
    let account =
        shell.run(&["account", "create", "--name", "Acme", "--admin", "ann@acme.example"]).ok();
    let names: Vec<_> = (0..1_000).map(|n| format!("{}.{n:03}", "s".repeat(60))).collect();
    let mut create = vec!["token", "create", "--account", &account, "--name", "n"];
    create.extend(["--kind", "custom"]);
    create.extend(names.iter().flat_map(|name| ["--scope", name.as_str()]));
    shell.run(&create).exits(0);
    let shown = shell.run(&["audit"]).exits(0).shows(&["token.create", "kind=CUSTOM", "…"]);
    assert!(shown.stdout.lines().all(|line| line.chars().count() < 2_000), "{shown}");
}

#[test]
fn version_and_usage() {
    let shell = Shell::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(shell.run(&["version"]).ok(), format!("portcullis {version}"));
    assert_eq!(json(&shell, &["version"])["version"], version);
    assert_eq!(shell.run(&["--version"]).ok(), format!("portcullis {version}"));
    shell.run(&["--help"]).exits(0).shows(&["serve", "whitelist", "check"]);
    shell.run(&["help", "token", "create"]).exits(0).shows(&["portcullis token create --account"]);
    shell.run(&[]).exits(2);
    shell.run(&["frobnicate"]).exits(2).tells(&["frobnicate"]);
    shell.run(&["token", "list", "--frob"]).exits(2).tells(&["--frob"]);
    let json = shell.env("PORTCULLIS_OUTPUT", "json");
    assert_eq!(json.run(&["version"]).json()["version"], version);
    assert_eq!(json.run(&["token", "list", "--server", "ftp://x"]).error_json(2)["code"], "USAGE");
    assert_eq!(
        json.run(&["token", "list", "--server", "http://127.0.0.1:1"]).error_json(2)["code"],
        "UNAVAILABLE"
    );
}

#[test]
fn a_first_start_leaves_a_credential_that_the_command_finds() {
    use std::os::unix::fs::PermissionsExt as _;

    let mut server = Setup::sqlite().without_operator().start();
    let file = server.data_dir().join("operator-credential");
    let stdout = server.stdout();
    assert!(stdout.contains(file.to_str().unwrap()), "the path is not printed: {stdout}");
    let secret = fs::read_to_string(&file).unwrap();
    assert!(!server.log().contains(secret.trim()), "the credential itself is printed");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(server.data_dir()).unwrap().permissions().mode() & 0o777, 0o700);

    let data_dir = server.data_dir();
    let shell = Shell::reaching(&server).env("PORTCULLIS_DATA_DIR", &data_dir);
    shell.run(&["account", "list"]).exits(0).tells(&["no accounts"]);
    let shell = Shell::reaching(&server);
    shell.run(&["account", "list", "--data-dir", data_dir.to_str().unwrap()]).exits(0);
    shell.run(&["account", "list"]).exits(2).tells(&["credential"]);
    let file_named = ["account", "list", "--credential-file", file.to_str().unwrap()];
    shell.run(&file_named).exits(0);
    shell.env("PORTCULLIS_CREDENTIAL_FILE", &file).run(&["account", "list"]).exits(0);

    server.restart();
    assert_eq!(fs::read_to_string(&file).unwrap(), secret, "another start makes no other");
    assert!(!server.stdout().contains("operator-credential"), "and says nothing");
    let shell = Shell::reaching(&server).env("PORTCULLIS_DATA_DIR", &data_dir);
    shell.run(&["account", "list"]).exits(0);
}

#[test]
fn the_first_credential_of_a_postgres_store_needs_no_server() {
    let url = postgres::database();
    let shell = Shell::new()
        .env("PORTCULLIS_DATABASE_URL", &url)
        .env("PORTCULLIS_SERVER", "http://127.0.0.1:1");
    shell.run(&["credential", "create", "--role", "pep"]).exits(2).tells(&["no server answers"]);
    let create = ["credential", "create", "--role", "operator", "--name", "first"];
    let secret = shell.run(&create).exits(0).tells(&["opening the store", "crd_"]).ok();
    assert!(secret.starts_with("pcl_c1_"), "{secret}");
    let again = shell.run(&create).exits(2).tells(&["has credentials already"]);
    assert_eq!(again.stdout, "");
    let error = shell.run(&[&create[..], &["--output", "json"]].concat());
    assert_eq!(error.code, Some(2));
    assert!(error.stderr.contains("\"STORE\""), "{error}");

    let server = Setup::postgres(&url).without_operator().start();
    let shell = Shell::reaching(&server).env("PORTCULLIS_CREDENTIAL", secret);
    shell.run(&["credential", "list"]).exits(0).shows(&["first", "operator"]);
    shell.run(&["audit"]).exits(0).shows(&["command line"]);
}

#[test]
fn the_first_credential_of_an_embedded_store_needs_no_server() {
    let shell = Shell::new().env("PORTCULLIS_SERVER", "http://127.0.0.1:1");
    let create = ["credential", "create", "--role", "operator"];
    let secret = shell.run(&create).ok();
    shell.run(&create).exits(2).tells(&["has credentials already"]);
    let data_dir = shell.home().join("portcullis-data");
    let server = Setup::sqlite().without_operator().data_dir(&data_dir).start();
    assert!(!data_dir.join("operator-credential").exists(), "it has one already");
    let shell = Shell::reaching(&server).env("PORTCULLIS_CREDENTIAL", secret);
    shell.run(&["account", "list"]).exits(0);
}

#[test]
fn migrate_prepares_either_store() {
    let url = postgres::database();
    for (shell, its_own) in [
        (Shell::new(), "left out 0003 replicas: Postgres only"),
        (Shell::new().env("PORTCULLIS_DATABASE_URL", &url), "applied 0003 replicas"),
    ] {
        let printed = shell.run(&["migrate"]).exits(0).shows(&["applied ", its_own]).ok();
        for (line, number) in printed.lines().zip(1..) {
            assert!(line.contains(&format!(" {number:04} ")), "a number is missing:\n{printed}");
        }
        assert_eq!(shell.run(&["migrate"]).ok(), "The store is up to date.");
    }
    let nowhere = Shell::new().env("PORTCULLIS_DATABASE_URL", "postgres://u@127.0.0.1:1/d");
    let answer = nowhere.run(&["migrate", "--wait-for-store", "0s"]).exits(2);
    assert!(answer.stderr.starts_with("error: "), "{answer}");
    Setup::postgres(&url).start();
}

/// Rules 11.1, 11.2 and 11.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_expire_and_their_expiry_only_comes_nearer() {
    let server = Setup::sqlite().flag("--token-max-lifetime", "90d").start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let shell = Shell::operator(&server);
    let create = ["token", "create", "--account", &account, "--name", "a", "--kind", "read-only"];
    let created = |more: &[&str]| shell.run(&[&create[..], more, &["--output", "json"]].concat());
    // Without an expiry it gets the latest one; a later one is refused, naming the setting.
    let bounded = created(&[]).json();
    assert!(bounded["token"]["expire_time"].is_string(), "{bounded}");
    let refused = created(&["--expires", "91d"]);
    assert!(refused.stderr.contains("--token-max-lifetime"), "{}", refused.stderr);
    // The field is that which was sent.
    assert!(refused.stderr.contains("\"ttl\""), "{}", refused.stderr);
    let refused = created(&["--expires", "2020-01-01T00:00:00Z"]);
    assert!(refused.stderr.contains("must lie in the future"), "{}", refused.stderr);
    assert!(refused.stderr.contains("\"expire_time\""), "{}", refused.stderr);

    let answer = created(&["--expires", "60d"]).json();
    let (id, secret) = (answer["token"]["token_id"].as_str(), answer["secret"].as_str());
    let (id, secret) = (id.unwrap().to_owned(), secret.unwrap().to_owned());
    let expires = answer["token"]["expire_time"].as_str().unwrap();
    shell.run(&["token", "show", &id]).exits(0).shows(&["expires"]);
    shell.run(&["token", "list"]).exits(0).shows(&["EXPIRES"]);
    shell.run(&["token", "expire", &id, expires, "--yes"]).exits(0).shows(&[]);
    let later = shell.run(&["token", "expire", &id, "2999-01-01T00:00:00Z", "--yes"]);
    assert!(later.stderr.contains("brought nearer"), "{}", later.stderr);
    let past = shell.run(&["token", "expire", &id, "2020-01-01T00:00:00Z", "--yes"]);
    assert!(past.stderr.contains("DeleteToken"), "{}", past.stderr);

    shell.run(&["token", "expire", &id, "2s", "--yes"]).exits(0);
    let ask = async || {
        let ask = question(&secret, "192.0.2.1", "transactions.read");
        client.authorization().authorize(ask).await.unwrap().into_inner()
    };
    assert_eq!(ask().await.reason(), Reason::Allowed);
    let began = portcullis::clock::Stopwatch::start();
    while ask().await.reason() == Reason::Allowed {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "it goes on");
    }
    let denied = ask().await;
    assert_eq!(denied.reason(), Reason::TokenExpired, "{denied:?}");
    shell.run(&["token", "show", &id]).exits(0).shows(&["expired"]);
}

/// Rules 11.70, 11.74, 11.80, 11.83 and 11.84.
#[test]
fn accounts_are_suspended_and_closed_and_names_and_labels_changed() {
    let server = Setup::sqlite().start();
    let shell = Shell::operator(&server);
    let account = accounts(&shell);
    let create = [
        "token",
        "create",
        "--account",
        &account,
        "--name",
        "n",
        "--kind",
        "read-only",
        "--label",
        "team=payments",
        "--output",
        "json",
    ];
    let made = shell.run(&create).json();
    let (token, secret) =
        (made["token"]["token_id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert_eq!(made["token"]["labels"]["team"], "payments");
    shell.run(&["token", "list"]).exits(0).shows(&["LABELS", "team=payments"]);
    let update = ["token", "update", token, "--name", "renamed", "--label", "env=prod"];
    let updated = shell.run(&update).exits(0).shows(&["renamed", "env=prod"]);
    assert!(!updated.stdout.contains("team=payments"), "{updated}");
    shell.run(&["token", "update", token, "--no-labels"]).exits(0).shows(&["renamed"]);
    shell.run(&["token", "update", token]).exits(2).tells(&["--name", "--label"]);
    shell.run(&["token", "update", token, "--label", "x"]).exits(2).tells(&["KEY=VALUE"]);
    let twice = ["token", "update", token, "--label", "a=1", "--label", "a=2"];
    shell.run(&twice).exits(2).tells(&["a is there twice"]);
    let bad = shell.run(&["token", "update", token, "--label", "A=1"]);
    bad.exits(1).tells(&["labels", "begins with a letter"]);

    let rename = ["account", "update", &account, "--name", "Acme GmbH"];
    shell.run(&rename).exits(0).shows(&["Acme GmbH", "active"]);
    let suspend = shell.run(&["account", "suspend", &account]).exits(0);
    suspend.tells(&["its tokens are denied", "in effect on every replica"]).shows(&["suspended"]);
    shell.run(&["account", "list"]).exits(0).shows(&["STATE", "suspended"]);
    let check = ["check", "--scope", "transactions.read", "--output", "json"];
    shell.run_with(&check, secret).exits(1).shows(&["REASON_ACCOUNT_SUSPENDED"]);
    shell.run(&["account", "resume", &account]).exits(0).shows(&["active"]);

    let preview = shell.run(&["account", "close", &account]).exits(0);
    preview.tells(&["nothing was changed", "would delete 1 token"]).shows(&["active"]);
    let wrong = ["account", "close", &account, "--confirm-name", "Acme"];
    shell.run(&wrong).exits(1).tells(&["confirm_name", "Acme GmbH"]);
    let close = ["account", "close", &account, "--confirm-name", "Acme GmbH"];
    let closed = shell.run(&close).exits(0).tells(&["closed the account", "1 token"]);
    closed.shows(&["closed at"]);
    let refused = shell.run(&["account", "resume", &account]).exits(1);
    refused.tells(&["is closed, which nothing reverses"]);

    let create = [
        "credential",
        "create",
        "--role",
        "pep",
        "--name",
        "gate",
        "--expires",
        "90d",
        "--output",
        "json",
    ];
    let made = shell.run(&create).json();
    let id = made["credential"]["credential_id"].as_str().unwrap();
    let update = ["credential", "update", id, "--name", "gateway", "--expires", "30d", "--yes"];
    let updated = shell.run(&update).exits(0).shows(&["gateway", "expires"]);
    updated.tells(&["in effect on every replica"]);
    shell.run(&["credential", "list"]).exits(0).shows(&["LAST USE", "EXPIRES", "gateway"]);
    shell.run(&["credential", "update", id]).exits(2).tells(&["--name", "--expires"]);
    let operator = ["credential", "create", "--role", "operator", "--expires", "30d"];
    shell.run(&operator).exits(1).tells(&["error: ttl:", "operator"]);
}
