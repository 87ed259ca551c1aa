//! The audit record as its chain: exported, followed and verified with the command, from real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use portcullis::grpc::proto::{
    CreateAccountRequest, ListAuditEventsRequest, Role, SetAccountAdminsRequest, TokenKind,
};
use serde_json::Value;
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::calls::credential;
use crate::support::client::{Client, refusal};
use crate::support::command::Shell;
use crate::support::postgres;
use crate::support::server::{Server, Setup, random_credential};
use crate::support::smtp::Sink;
use crate::support::wait::{until, until_async};

fn new_account(name: &str) -> CreateAccountRequest {
    CreateAccountRequest {
        name: name.to_owned(),
        admin_emails: vec!["admin@example.com".to_owned()],
    }
}

async fn account(client: &Client, name: &str) -> String {
    client
        .accounts()
        .create_account(new_account(name))
        .await
        .unwrap()
        .into_inner()
        .account
        .unwrap()
        .account_id
}

/// The lines of an export of all events.
fn export(shell: &Shell) -> Vec<String> {
    shell.run(&["audit", "export"]).ok().lines().map(str::to_owned).collect()
}

/// Writes lines to a file in the shell's directory.
fn write(shell: &Shell, name: &str, lines: &[String]) {
    fs::write(shell.home().join(name), lines.join("\n") + "\n").unwrap();
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// `HASH@REVISION` of the head that an export ends with.
fn head(lines: &[String]) -> String {
    let head = &json(lines.last().unwrap())["head"];
    format!("{}@{}", head["hash"].as_str().unwrap(), head["revision"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_verified_and_what_was_tampered_with_is_found_on_sqlite() {
    exports(&Setup::sqlite().start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_verified_and_what_was_tampered_with_is_found_on_postgres() {
    exports(&Setup::postgres(&postgres::database()).start()).await;
}

async fn exports(server: &Server) {
    let client = Client::operator(server).await;
    let shell = Shell::operator(server);
    for name in ["Zürich \"1\"", "b", "c"] {
        account(&client, name).await;
    }
    let former = export(&shell);
    let anchor = head(&former);
    write(&shell, "former.jsonl", &former);
    for name in ["d", "e"] {
        account(&client, name).await;
    }
    shell.run(&["audit", "export", "--file", "audit.jsonl"]).exits(0);
    // It is not written over.
    shell.run(&["audit", "export", "--file", "audit.jsonl"]).exits(2).tells(&["--file"]);
    let sound = export(&shell);
    assert_eq!(
        fs::read_to_string(shell.home().join("audit.jsonl")).unwrap(),
        sound.join("\n") + "\n"
    );
    let verify = |extra: &[&str]| shell.run(&[&["audit", "verify", "audit.jsonl"], extra].concat());
    let head = head(&sound);
    verify(&[]).exits(0).shows(&["with the first event of the installation", &head]);
    verify(&["--anchor", &anchor, "--former", "former.jsonl"]).exits(0);
    let report = verify(&["--output", "json"]).json();
    assert_eq!((&report["sound"], &report["events"]), (&true.into(), &(sound.len() - 2).into()));

    // As after a restore of a backup from the time of the former export.
    let lost = |former: &str, restored: &str| shell.run(&["audit", "lost", former, restored]);
    lost("former.jsonl", "audit.jsonl").exits(0).tells(&["nothing was lost"]);
    let events = lost("audit.jsonl", "former.jsonl").exits(0).ok();
    assert_eq!(events.matches("account.create").count(), 2, "{events}");
    let commands = shell.run(&["audit", "lost", "audit.jsonl", "former.jsonl", "--commands"]).ok();
    assert!(
        commands.lines().all(|line| line.starts_with("# ") && line.contains(" acc_")),
        "{commands}"
    );
    let mut later = sound.clone();
    let (hash, revision) = anchor.split_once('@').unwrap();
    later.splice(1..former.len() - 1, []);
    later[0] = later[0].replace("\"revision\":0", &format!("\"revision\":{revision}"));
    let genesis = json(&sound[0])["chain"]["hash"].as_str().unwrap().to_owned();
    later[0] = later[0].replace(&genesis, hash);
    write(&shell, "later.jsonl", &later);
    assert_eq!(lost("later.jsonl", "former.jsonl").exits(0).ok(), events);
    write(&shell, "shorter.jsonl", &[&former[..2], &[]].concat());
    lost("later.jsonl", "shorter.jsonl").exits(2).tells(&["name an export that begins earlier"]);
    let mut foreign = sound[..1].to_vec();
    let id = json(&sound[0])["chain"]["installation_id"].as_str().unwrap().to_owned();
    let other = "00000000-0000-0000-0000-000000000000";
    let begin = portcullis::audit::ChainPoint::genesis(other).hash.to_string();
    foreign[0] = foreign[0].replace(&id, other).replace(&genesis, &begin);
    write(&shell, "foreign.jsonl", &foreign);
    lost("foreign.jsonl", "audit.jsonl").exits(1).tells(&["another installation"]);

    // Another implementation, as the documentation has it.
    let document = include_str!("../docs/audit.md");
    let (_, script) = document.split_once("```python\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let python = |file: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", script, file]).current_dir(shell.home()).output().unwrap()
    };
    let output = python("audit.jsonl");
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, format!("sound up to {}\n", sound.len() - 2));

    // Each of these is the first line that is wrong.
    let tampered = |lines: Vec<String>, message: &str| {
        write(&shell, "audit.jsonl", &lines);
        verify(&[]).exits(1).tells(&[message]);
    };
    let mut lines = sound.clone();
    lines[2] = lines[2].replacen("operator", "operatos", 1).replacen("system", "systen", 1);
    tampered(lines, "line 3: the event of revision 2 is changed");
    assert!(!python("audit.jsonl").status.success());
    let mut lines = sound.clone();
    lines.remove(2);
    tampered(lines, "line 3: the event of revision 2 is removed");
    let mut lines = sound.clone();
    lines.swap(2, 3);
    tampered(lines, "line 3: lines are swapped");
    let mut lines = sound.clone();
    lines.remove(sound.len() - 2);
    tampered(lines, "the end of the file is removed");

    // A chain that was cut, and one with another hash at the anchor.
    write(&shell, "audit.jsonl", &former);
    verify(&["--anchor", &head]).exits(1).tells(&["its newest events were removed"]);
    let other = head.replacen(|digit| digit != '0', "0", 1);
    write(&shell, "audit.jsonl", &sound);
    verify(&["--anchor", &other]).exits(1).tells(&["has another hash at revision"]);
    verify(&["--anchor", "abc"]).exits(2).tells(&["is no HASH@REVISION"]);
    shell.run(&["audit", "verify", "nothing.jsonl"]).exits(2).tells(&["nothing.jsonl"]);

    // A part from a time on begins after the event before it.
    let fifth = json(&sound[5]);
    let time = fifth["time"].as_str().unwrap();
    let part = shell.run(&["audit", "export", "--since", time]).ok();
    let part: Vec<_> = part.lines().map(str::to_owned).collect();
    assert_eq!((json(&part[0])["chain"]["revision"].as_i64(), &part[1..]), (Some(4), &sound[5..]));
    write(&shell, "audit.jsonl", &part);
    verify(&[]).exits(0).shows(&["after revision 4"]);
    verify(&["--former", "former.jsonl"]).exits(0);
    let part = shell.run(&["audit", "export", "--until", time]).ok();
    let part: Vec<_> = part.lines().map(str::to_owned).collect();
    assert_eq!(part[..5], sound[..5]);
    assert_eq!(part.len(), 6);
    write(&shell, "audit.jsonl", &part);
    for later in [&head, &anchor] {
        verify(&["--anchor", later]).exits(1).tells(&["so that this can't be compared"]);
    }

    // Other formats have the same events.
    let ocsf = shell.run(&["audit", "export", "--format", "ocsf"]).ok();
    assert_eq!(ocsf.lines().count(), sound.len() - 2);
    assert!(ocsf.lines().all(|line| json(line)["class_uid"] == 6003));
    let cef = shell.run(&["audit", "export", "--format", "cef"]).ok();
    assert!(cef.lines().all(|line| line.starts_with("CEF:0|Portcullis|")), "{cef}");
    assert_eq!(cef.lines().count(), sound.len() - 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_admin_exports_its_account_without_revisions_and_hashes() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let (ours, theirs) = (account(&operator, "ours").await, account(&operator, "theirs").await);
    operator.token(&ours, TokenKind::ReadOnly, &[], &[]).await;
    let (_, secret) = credential(&operator, Role::AccountAdmin, &ours).await;
    let shell = Shell::reaching(&server).env("PORTCULLIS_CREDENTIAL", &secret);
    let exported = shell.run(&["audit", "export"]).exits(0).tells(&["can be verified"]);
    let events: Vec<Value> = exported.stdout.lines().map(json).collect();
    assert!(events.len() >= 2, "{events:?}");
    for event in &events {
        assert_eq!(event["account_id"], *ours);
        assert_eq!((&event["hash"], &event["revision"]), (&Value::Null, &Value::Null));
    }
    assert!(!exported.stdout.contains(&theirs));
    shell.run(&["audit", "follow"]).exits(1).tells(&["only operators"]);
    shell.run(&["evidence", "act_0000000000000000000000"]).exits(1).tells(&["only operators"]);

    let admin = operator.with(&secret);
    let oldest = ListAuditEventsRequest { oldest_first: true, ..Default::default() };
    let answer = admin.tokens().list_audit_events(oldest.clone()).await.unwrap().into_inner();
    assert_eq!(answer.chain, None);
    assert!(answer.audit_events.iter().all(|event| event.hash.is_empty() && event.revision == 0));
    // It would reveal how much happens in other accounts.
    let probe = ListAuditEventsRequest { after_revision: 1, ..oldest.clone() };
    let (code, _) = refusal(admin.tokens().list_audit_events(probe).await);
    assert_eq!(code, Code::InvalidArgument);
    let negative = ListAuditEventsRequest { after_revision: -1, ..oldest };
    let (code, _) = refusal(operator.tokens().list_audit_events(negative).await);
    assert_eq!(code, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_events_are_followed_as_they_come_and_from_where_it_ended() {
    let server = Setup::sqlite().start();
    let client = Client::operator(&server).await;
    let shell = Shell::operator(&server);
    account(&client, "before").await;
    let sound = export(&shell);
    let last = json(&sound[sound.len() - 2])["revision"].as_i64().unwrap();

    let follow = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["audit", "follow"]).args(args).env_clear();
        command.env("PORTCULLIS_SERVER", format!("http://{}", server.grpc()));
        command.env("PORTCULLIS_CREDENTIAL", server.operator());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines.map(Result::unwrap))
    };
    let (mut child, mut lines) = follow(&[]);
    let begin = lines.next().unwrap();
    assert_eq!(json(&begin)["chain"]["revision"], last);
    account(&client, "first").await;
    let first = lines.next().unwrap();
    account(&client, "second").await;
    let second = lines.next().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(json(&second)["revision"], last + 2);

    // What came meanwhile is not left out.
    account(&client, "third").await;
    let (mut child, mut lines) = follow(&["--after", &(last + 2).to_string()]);
    let third = lines.next().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let followed = [begin, first, second, third];
    assert_eq!(followed[1..], export(&shell)[sound.len() - 1..sound.len() + 2]);
    write(&shell, "followed.jsonl", &followed);
    shell.run(&["audit", "verify", "followed.jsonl"]).exits(1).tells(&["line 5"]);
    let verify = ["audit", "verify", "followed.jsonl", "--without-head", "--anchor"];
    shell.run(&[&verify[..], &[&head(&sound)]].concat()).exits(0).shows(&["3 events"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_change_at_the_same_time_make_one_chain() {
    let (url, operator) = (postgres::database(), random_credential());
    let servers: Vec<_> =
        (0..2).map(|_| Setup::postgres(&url).operator(&operator).start()).collect();
    let mut tasks = JoinSet::new();
    for server in &servers {
        let client = Client::operator(server).await;
        for _ in 0..4 {
            let client = client.clone();
            tasks.spawn(async move {
                for at in 0..8 {
                    account(&client, &format!("a{at}")).await;
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for server in &servers {
        let shell = Shell::operator(server);
        shell.run(&["audit", "export", "--file", "audit.jsonl"]).exits(0);
        let report = shell.run(&["audit", "verify", "audit.jsonl", "--output", "json"]).json();
        assert!(report["events"].as_i64().unwrap() >= 64, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_during_changes_leaves_a_sound_chain_on_sqlite() {
    kills(Setup::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_during_changes_leaves_a_sound_chain_on_postgres() {
    kills(Setup::postgres(&postgres::database())).await;
}

async fn kills(setup: Setup) {
    let mut server = setup.start();
    let mut anchors: Vec<String> = Vec::new();
    for _ in 0..2 {
        let client = Client::operator(&server).await;
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            let client = client.clone();
            tasks.spawn(async move {
                // Until the server is gone.
                loop {
                    if client.accounts().create_account(new_account("acme")).await.is_err() {
                        break;
                    }
                }
            });
        }
        let revision = async || crate::support::calls::position(&client).await;
        let before = revision().await;
        until_async(revision, |&now| now > before + 20).await;
        server.kill9();
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        server.restart();
        let shell = Shell::operator(&server);
        let lines = export(&shell);
        write(&shell, "audit.jsonl", &lines);
        let mut verify = vec!["audit", "verify", "audit.jsonl"];
        for anchor in &anchors {
            verify.extend(["--anchor", anchor]);
        }
        shell.run(&verify).exits(0);
        anchors.push(head(&lines));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pruned_leaves_a_sound_chain_that_says_so() {
    let server = Setup::sqlite()
        .flag("--audit-retention", "1s")
        .flag("--lifecycle-sweep-interval", "100ms")
        .start();
    let client = Client::operator(&server).await;
    let shell = Shell::operator(&server);
    account(&client, "early").await;
    // An export that events were pruned from meanwhile is refused, and repeated.
    let attempt = || {
        let answer = shell.run(&["audit", "export"]);
        let lines: Vec<String> = answer.stdout.lines().map(str::to_owned).collect();
        (answer.code, answer.stderr, lines)
    };
    let exported = |wanted: &dyn Fn(i64) -> bool| {
        let (_, _, lines) = until(attempt, |(code, stderr, lines)| {
            assert!(*code == Some(0) || stderr.contains("pruned while"), "{stderr}");
            *code == Some(0) && wanted(json(&lines[0])["chain"]["revision"].as_i64().unwrap())
        });
        lines
    };
    let lines = exported(&|begin| begin > 0);
    write(&shell, "audit.jsonl", &lines);
    shell.run(&["audit", "verify", "audit.jsonl"]).exits(0).shows(&["was pruned, as revision"]);
    let former = head(&lines);
    account(&client, "late").await;
    write(&shell, "audit.jsonl", &exported(&|_| true));
    let verified = shell.run(&["audit", "verify", "audit.jsonl", "--anchor", &former]);
    // What the former one ended with may be pruned by now.
    assert!(
        verified.code == Some(0) || verified.stderr.contains("can't be compared"),
        "{verified}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_evidence_of_a_deletion_is_verified_against_an_export() {
    let sink = Sink::start();
    let server = Setup::sqlite()
        .flag("--lifecycle-window", "5s")
        .flag("--lifecycle-notice", "3s")
        .flag("--lifecycle-sweep-interval", "100ms")
        .flag("--usage-flush-interval", "100ms")
        .env("PORTCULLIS_SMTP_URL", sink.url())
        .flag("--mail-from", "portcullis@example.test")
        .flag("--mail-rate", "1000")
        .start();
    let client = Client::operator(&server).await;
    let shell = Shell::operator(&server);
    let owner = account(&client, "acme").await;
    let (token, _) = client.token(&owner, TokenKind::ReadOnly, &[], &[]).await;
    let list = ["audit", "--token", &token.token_id, "--output", "json"];
    let deletion = until(
        || {
            let listed = shell.run(&list).json();
            let events = listed["audit_events"].as_array().unwrap().clone();
            events.into_iter().find(|event| event["action"] == "lifecycle.delete")
        },
        Option::is_some,
    );
    let after = json(deletion.unwrap()["after_json"].as_str().unwrap());
    let action = after["pending_action_id"].as_str().unwrap().to_owned();
    // What happens afterwards changes nothing of it.
    let others = SetAccountAdminsRequest {
        account_id: owner.clone(),
        admin_emails: vec!["new@example.com".to_owned()],
    };
    client.accounts().set_account_admins(others).await.unwrap();

    let shown = shell.run(&["evidence", &action]).exits(0);
    let parts = ["lifecycle.delete", "never", "window 5s, notice 3s", "admin@example.com", "250"];
    shown.shows(&parts);
    let evidence = shell.run(&["evidence", &action, "--output", "json"]).json();
    assert_eq!(evidence["basis"]["admins"], serde_json::json!(["admin@example.com"]));
    let notice = &evidence["basis"]["notices"][0];
    assert!(notice["answer"].as_str().unwrap().starts_with("250"), "{notice}");
    let actions: Vec<_> = evidence["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["event"]["action"])
        .collect();
    assert_eq!(actions, ["lifecycle.announce", "lifecycle.noticed", "lifecycle.delete"]);

    shell.run(&["audit", "export", "--file", "audit.jsonl"]).exits(0);
    let verify = |evidence: &Value| {
        fs::write(shell.home().join("evidence.json"), evidence.to_string()).unwrap();
        shell.run(&["audit", "verify", "audit.jsonl", "--evidence", "evidence.json"])
    };
    verify(&evidence).exits(0);
    let mut forged = evidence.clone();
    forged["basis"]["admins"] = serde_json::json!(["new@example.com"]);
    verify(&forged).exits(1).tells(&["the basis is not the one"]);
    let mut forged = evidence.clone();
    forged["events"][1]["event"]["time"] = "2020-01-01T00:00:00.000000Z".into();
    verify(&forged).exits(1).tells(&["is changed"]);
    // Of another chain, in which all of it was made to fit.
    let other = Setup::sqlite().start();
    let elsewhere = Shell::operator(&other).run(&["audit", "export"]).ok();
    fs::write(shell.home().join("audit.jsonl"), elsewhere + "\n").unwrap();
    verify(&evidence).exits(1).tells(&["of another installation"]);

    shell.run(&["evidence", "act_0000000000000000000000"]).exits(1).tells(&["has no event"]);
    shell.run(&["evidence", "nonsense"]).exits(1).tells(&["pending_action_id"]);
}
