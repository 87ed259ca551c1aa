//! The lifecycle of unused tokens through the server's sockets, in seconds instead of weeks: the real
//! binary, a real SMTP server, and what operators see of it (docs/policy.md, section 4).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::time::Duration;

use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::server::{Server, Setup};
use crate::support::smtp::{Received, Sink, Step};
use crate::support::wait::until;
use portcullis::clock::Stopwatch;
use portcullis::grpc::proto::{
    AuthorizeRequest, AuthorizeResponse, Decision, PendingActionType, Reason,
    SetAccountAdminsRequest, TokenKind,
};
use serde_json::{Value, json};

/// A server whose lifecycle takes seconds: told after 4, gone after 12.
fn setup() -> Setup {
    Setup::sqlite()
        .flag("--lifecycle-window", "12s")
        .flag("--lifecycle-notice", "8s")
        .flag("--lifecycle-sweep-interval", "200ms")
        .flag("--usage-flush-interval", "100ms")
}

fn mailing(setup: Setup, sink: &Sink) -> Setup {
    setup
        .env("PORTCULLIS_SMTP_URL", sink.url())
        .flag("--mail-from", "portcullis@example.test")
        .flag("--mail-rate", "1000")
}

fn pending(shell: &Shell) -> Vec<Value> {
    let answer = shell.run(&["pending", "--output", "json"]).json();
    answer["pending_actions"].as_array().unwrap().clone()
}

fn preview(shell: &Shell) -> Value {
    shell.run(&["pending", "--preview", "--output", "json"]).json()
}

async fn ask(client: &Client, secret: &str, dry_run: bool) -> AuthorizeResponse {
    let ask = AuthorizeRequest { dry_run, ..question(secret, "192.0.2.1", "transactions.read") };
    client.authorization().authorize(ask).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_lifecycle() {
    let sink = Sink::start();
    let server = mailing(setup(), &sink).start();
    let client = Client::operator(&server).await;
    let shell = Shell::operator(&server);
    let account = client.account().await.account_id;
    let (kept, kept_secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let (lost, lost_secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;

    // Both are announced, and mailed.
    let notices = sink.wait_for(2);
    for (notice, token) in notices.iter().zip([&kept, &lost]) {
        assert_eq!(notice.to, ["admin@example.com"]);
        assert!(notice.text().contains("Make one request with it"), "{}", notice.text());
        assert!(notices.iter().any(|notice| notice.text().contains(&token.token_id)));
    }
    let accepted = |actions: &Vec<Value>| {
        let accepted = |action: &Value| action["notices"][0]["state"] == "NOTICE_STATE_ACCEPTED";
        actions.len() == 2 && actions.iter().all(accepted)
    };
    let actions = until(|| pending(&shell), accepted);
    for action in &actions {
        let why = action["why"].as_str().unwrap();
        assert!(why.contains("never used") && why.contains("12 seconds"), "{why}");
        assert!(action["how_to_keep"].as_str().unwrap().contains("Use the token once"));
        assert_eq!(action["held_because"], "");
    }
    let listed = shell.run(&["pending"]).exits(0);
    listed.shows(&[&kept.token_id, &lost.token_id, "1 of 1 accepted", "deletion"]);
    shell.run(&["token", "show", &lost.token_id]).exits(0).shows(&["how to keep it", "SCOPE"]);
    until(|| server.metric("portcullis_pending_actions{type=\"deletion\"}"), |n| *n == Some(2));

    // Trying one warns, and is no use; using it cancels.
    let tried = ask(&client, &kept_secret, true).await;
    assert_eq!(tried.decision(), Decision::Allow);
    let warning = tried.pending_action.expect("a warning");
    assert_eq!(warning.r#type(), PendingActionType::Deletion);
    assert!(warning.effective_time.is_some());
    assert_eq!(pending(&shell).len(), 2);
    let used = ask(&client, &kept_secret, false).await;
    assert_eq!(used.decision(), Decision::Allow);
    let left = pending(&shell);
    assert_eq!((left.len(), &left[0]["token_id"]), (1, &json!(lost.token_id)));
    assert_eq!(ask(&client, &kept_secret, true).await.pending_action, None);
    let shown = shell.run(&["token", "show", &kept.token_id, "--output", "json"]).json();
    assert_eq!(shown["token"]["scope_uses"][0]["scope"], "transactions.read");
    // Its deletion begins anew; the other's goes on.
    let before = preview(&shell);
    assert_eq!(before["mode"], "LIFECYCLE_MODE_ENFORCE");
    assert_eq!(before["token_count"], 2);

    // The other one goes, with a mail.
    let told = |mails: &[crate::support::mime::Received]| {
        mails.iter().any(|mail| {
            mail.header("Subject").is_some_and(|subject| subject.contains("was deleted"))
                && mail.text().contains(&lost.token_id)
        })
    };
    sink.wait_until(told);
    let denied = ask(&client, &lost_secret, false).await;
    assert_eq!(denied.reason(), Reason::TokenDeletedUnused, "{denied:?}");
    shell.run(&["token", "show", &lost.token_id]).exits(0).shows(&["deleted-unused"]);
    let shown = shell.run(&["audit", "--token", &lost.token_id]).exits(0);
    shown.shows(&["lifecycle.announce", "lifecycle.noticed", "lifecycle.delete"]);
    assert!(server.metric("portcullis_last_sweep_timestamp_seconds").unwrap() > 1_700_000_000);
    let (status, health) = server.get("/healthz");
    assert_eq!((status.as_str(), health.as_str()), ("HTTP/1.1 200 OK", "ok\n"));
}

/// Rules 11.7 and 11.9: within the notice period the mail does not wait for the next sweep, and the token for no mail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_soon_is_mailed_at_once() {
    let sink = Sink::start();
    let server = mailing(
        Setup::sqlite()
            .flag("--lifecycle-sweep-interval", "1h")
            .flag("--token-max-lifetime", "90d"),
        &sink,
    )
    .start();
    let client = Client::operator(&server).await;
    let shell = Shell::operator(&server);
    let account = client.account().await.account_id;
    // The first sweep, which is at the start, is over.
    until(
        || server.metric("portcullis_last_sweep_timestamp_seconds"),
        |at| at.is_some_and(|at| at > 0),
    );
    let create =
        ["token", "create", "--account", &account, "--name", "short", "--kind", "read-only"];
    let created =
        shell.run(&[&create[..], &["--expires", "1h", "--output", "json"]].concat()).json();
    let id = created["token"]["token_id"].as_str().unwrap();
    let mails = sink.wait_for(1);
    assert!(mails[0].header("Subject").unwrap().contains("\"short\" expires on"));
    assert!(mails[0].text().contains(&format!("portcullis token replace {id} --expires 90d")));
    // The mail server has it a moment before that is known.
    let shown = || shell.run(&["token", "show", id]).ok();
    until(shown, |shown| shown.contains("1 of 1 accepted"));
    // Brought nearer: the mail with the new date follows, and then the one of the end.
    shell.run(&["token", "expire", id, "3s", "--yes"]).exits(0);
    let mails = sink.wait_for(2);
    assert!(mails[1].header("Subject").unwrap().contains("expires on"));
    assert_ne!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));
    shell.run(&["audit", "--token", id]).exits(0).shows(&["token.expiry_notice"]);
}

/// Rule 4.13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observing_shows_everything_and_does_nothing() {
    let sink = Sink::start();
    let setup = mailing(setup(), &sink).flag("--lifecycle-mode", "observe");
    let server = setup.start();
    let client = Client::operator(&server).await;
    let shell = Shell::operator(&server);
    let account = client.account().await.account_id;
    let (token, secret) = client.token(&account, TokenKind::ReadWrite, &[], &["192.0.2.1"]).await;

    // Once its notice is due, the preview has it before a real one would.
    let due = |preview: &Value| {
        let actions = preview["announced_today"]["actions"].as_array().unwrap();
        actions.iter().any(|action| action["notice_time"] == preview["time"])
    };
    let shown = until(|| preview(&shell), due);
    assert_eq!(shown["mode"], "LIFECYCLE_MODE_OBSERVE");
    assert_eq!((&shown["window"], &shown["notice"]), (&json!("12s"), &json!("8s")));
    assert_eq!(shown["days"].as_array().unwrap().len(), 45);
    let action = &shown["announced_today"]["actions"][0];
    assert_eq!(
        (&action["token_id"], &action["token_name"]),
        (&json!(token.token_id), &json!("test"))
    );
    assert_eq!(action["type"], "PENDING_ACTION_TYPE_DELETION");
    assert!(action["why"].as_str().unwrap().contains("never used"), "{action}");
    let sum = |what: &str| -> i64 {
        shown["days"].as_array().unwrap().iter().map(|day| day[what].as_i64().unwrap()).sum()
    };
    assert_eq!((sum("deletions_noticed"), sum("deletions_carried_out")), (1, 1));
    let table = shell.run(&["pending", "--preview"]).exits(0);
    let table = table.tells(&["only observes", "1 live token"]);
    table.shows(&["announce", &token.token_id, "DAY", "DELETIONS NOTICED"]);

    // Sweeps go by, and nothing comes of it.
    let swept = || server.metric("portcullis_last_sweep_timestamp_seconds").unwrap();
    let first = swept();
    until(swept, |last| *last >= first + 3);
    assert_eq!(pending(&shell), Vec::<Value>::new());
    assert_eq!(ask(&client, &secret, true).await.pending_action, None);
    assert_eq!((sink.connections(), sink.messages().len()), (0, 0));
    let (status, health) = server.get("/healthz");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(health.starts_with("ok\nlifecycle: observe: "), "{health}");
    assert_eq!(server.metric("portcullis_actions_announced_total"), Some(0));
}

/// An orderly end writes what was used, whatever the interval (docs/policy.md, rule 5.6).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_end_records_the_last_uses() {
    let mut server = Setup::sqlite().flag("--usage-flush-interval", "1m").start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (token, secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(ask(&client, &secret, false).await.decision(), Decision::Allow);
    let last_use = |server: &Server| {
        let shown =
            Shell::operator(server).run(&["token", "show", &token.token_id, "--output", "json"]);
        shown.json()["token"]["last_use_time"].clone()
    };
    assert_eq!(last_use(&server), Value::Null, "it is written behind");
    assert!(server.terminate().success());
    server.restart();
    assert!(last_use(&server).is_string());
}

/// Who can't be told holds back what is announced, and operators see who and why. Rule 4.11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_back_is_told() {
    let server = setup().start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let health = until(|| server.get("/healthz").1, |health| health.contains("no mail server"));
    assert!(health.starts_with("ok\n") && health.contains("held: 1"), "{health}");
    Shell::operator(&server).run(&["pending"]).exits(0).tells(&["No mail server is configured"]);
    until(|| server.metric("portcullis_mails_waiting"), |waiting| *waiting == Some(1));
    drop(server);

    let sink = Sink::start();
    sink.at(Step::Rcpt).says("550 5.1.1 no such user");
    let server = mailing(setup(), &sink).start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let refused = |health: &String| health.contains("addresses that mails do not reach: 1");
    let health = until(|| server.get("/healthz").1, refused);
    assert!(!health.contains("admin@example.com"), "anybody may read it: {health}");
    assert_eq!(server.metric("portcullis_addresses_refused"), Some(1));
    let shell = Shell::operator(&server);
    let told = shell.run(&["pending"]).exits(0).shows(&["0 of 1 accepted, 1 failing"]);
    told.tells(&["is held back", "does not take the mail to admin@example.com", "no such user"]);
}

/// A relay that refuses one admin's mails, at whatever step, is no relay that takes no mail (rule 4.12).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_admins_trouble_is_reported_as_that_and_holds_up_nobody_else() {
    const BOB: &str = "bob@example.com";
    for (step, answer) in
        [(Step::Content, "554 5.7.1 refused by policy"), (Step::Rcpt, "452 4.2.2 mailbox full")]
    {
        let sink = Sink::start();
        sink.at(step).to(BOB).says(answer);
        let server = mailing(setup(), &sink).start();
        let client = Client::operator(&server).await;
        let account = client.account().await.account_id;
        let admin_emails = vec!["ann@example.com".to_owned(), BOB.to_owned()];
        let set = SetAccountAdminsRequest { account_id: account.clone(), admin_emails };
        client.accounts().set_account_admins(set).await.unwrap();
        client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let told = |mails: &[Received]| {
            mails.iter().any(|mail| {
                mail.to == ["ann@example.com"]
                    && mail.header("Subject").unwrap().contains("will be")
            })
        };
        sink.wait_until(told);
        let shell = Shell::operator(&server);
        let shown = |actions: &Vec<Value>| {
            actions.iter().flat_map(|action| action["notices"].as_array().unwrap()).any(|notice| {
                notice["email"] == BOB
                    && notice["state"] == "NOTICE_STATE_FAILING"
                    && notice["failure"].as_str().unwrap().starts_with(answer)
            })
        };
        until(|| pending(&shell), shown);
        let health = |health: &String| health.contains("addresses that mails do not reach: 1");
        until(|| server.get("/healthz").1, health);
        let log = server.log();
        assert!(!log.contains("the relay takes no mail"), "{log}");
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains("does not take a mail to this")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains(BOB) && lines[0].contains(answer), "{log}");
    }
}

/// A kill holds back the mail that was being sent for no longer than a short claim (rule 5.4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_that_a_kill_broke_off_goes_out_soon() {
    let sink = Sink::start();
    let mut server = mailing(setup(), &sink).start();
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    sink.at(Step::Content).times(1).stalls();
    client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    until(|| sink.everything(), |mails| !mails.is_empty());
    server.kill9();
    let killed = Stopwatch::start();
    server.restart();
    sink.wait_for(1);
    assert!(killed.elapsed() < Duration::from_secs(32), "{:?}", killed.elapsed());
    let ids: Vec<_> = sink.everything().iter().map(|mail| mail.header("Message-ID")).collect();
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
}
