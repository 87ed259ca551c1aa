//! Webhooks through the server's sockets: real receivers over HTTPS on loopback, which the server's settings name
//! (docs/policy.md, section 14).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

mod receiver;

use std::collections::HashSet;
use std::path::PathBuf;

use portcullis::grpc::proto::{
    DeleteTokenRequest, ListWebhooksRequest, SuspendAccountRequest, TokenKind,
};
use serde_json::Value;
use tempfile::TempDir;
use tonic::Code;

use crate::support::client::Client;
use crate::support::command::Shell;
use crate::support::postgres;
use crate::support::server::{Server, Setup};
use crate::support::smtp::Sink;
use crate::support::tls::Authority;
use crate::support::wait::until;
use receiver::{Message, Receiver, Step};

/// An authority that the servers of one test trust, and its file.
struct Trust {
    authority: Authority,
    file: PathBuf,
    _directory: TempDir,
}

impl Trust {
    fn new() -> Self {
        let authority = Authority::new("receivers");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, authority.pem()).unwrap();
        Self { authority, file, _directory: directory }
    }

    fn receiver(&self) -> Receiver {
        Receiver::tls(&self.authority.server())
    }

    /// A server that may send to this host, and tries again at once.
    fn setup(&self, setup: Setup) -> Setup {
        setup
            .flag("--webhook-internal", "localhost")
            .flag("--webhook-ca", &self.file)
            .flag("--webhook-retry-initial", "50ms")
            .flag("--webhook-retry-max", "200ms")
    }
}

/// Creates a webhook by the command: its id and its secret.
fn create(shell: &Shell, args: &[&str]) -> (String, String) {
    let args = [&["webhook", "create", "--output", "json"], args].concat();
    let answer = shell.run(&args).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&answer["webhook"]["webhook_id"]), text(&answer["secret"]))
}

fn show(shell: &Shell, id: &str) -> Value {
    shell.run(&["webhook", "show", id, "--output", "json"]).json()["webhook"].clone()
}

fn kinds(messages: &[Message]) -> Vec<String> {
    messages.iter().map(Message::kind).collect()
}

fn revisions(messages: &[Message]) -> Vec<i64> {
    messages.iter().map(|message| message.json()["data"]["revision"].as_i64().unwrap()).collect()
}

/// Rules 14.2, 14.3, 14.4, 14.6 and 14.12: one story over each store.
async fn events_arrive_in_order(setup: Setup) {
    let trust = Trust::new();
    let receiver = trust.receiver();
    let mut server = trust.setup(setup).start();
    let shell = Shell::operator(&server);
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (id, secret) = create(&shell, &[&receiver.url()]);

    let (token, token_secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let delete = DeleteTokenRequest { token_id: token.token_id.clone(), ..Default::default() };
    client.tokens().delete_token(delete).await.unwrap();
    let suspend = SuspendAccountRequest { account_id: account.clone(), no_wait: true };
    client.accounts().suspend_account(suspend).await.unwrap();
    let messages = receiver.wait_for(4);
    // The account was created before the webhook.
    let wanted = ["webhook.created", "token.created", "token.deleted", "account.suspended"];
    assert_eq!(kinds(&messages), wanted);
    for message in &messages {
        assert_eq!(message.signatures_of(&secret), 1, "{message:?}");
        assert_eq!(message.headers["content-type"], "application/json");
        assert!(!message.id().contains('.'), "{}", message.id());
        assert!(!message.body.contains(&token_secret) && !message.body.contains(&secret[6..]));
    }
    let deleted = messages[2].json();
    let data = serde_json::json!({
        "revision": deleted["data"]["revision"], "account_id": account, "token_id": token.token_id,
    });
    assert_eq!(deleted["data"], data);
    assert_eq!(deleted.as_object().unwrap().len(), 3, "{deleted}");
    assert_eq!(deleted["timestamp"].as_str().unwrap().len(), "2026-01-31T12:00:00.500000Z".len());

    // Two secrets, until the overlap is over.
    let rotated = shell.run(&["webhook", "rotate-secret", &id]).ok();
    client.account().await;
    shell.run(&["credential", "create", "--role", "pep"]).ok();
    let both = receiver.wait_for(5).pop().unwrap();
    assert_eq!(both.kind(), "credential.created");
    assert_eq!((both.signatures_of(&secret), both.signatures_of(&rotated)), (1, 1));
    let last = shell.run(&["webhook", "rotate-secret", &id, "--overlap", "0s"]).ok();
    // One more event, while the receiver does not accept any; then the server is restarted.
    receiver.answer_always(Some(Step::Status(503)));
    shell.run(&["credential", "create", "--role", "pep"]).ok();
    until(|| receiver.received().len(), |&count| count >= 7);
    let shown =
        until(|| show(&shell, &id), |shown| !shown["delivery"]["failing_start_time"].is_null());
    assert_eq!(shown["delivery"]["last_failure"], "the answer is 503");
    assert!(server.terminate().success());
    receiver.answer_always(None);
    server.restart();
    let messages = receiver.wait_for(6);
    assert_eq!(messages.len(), 6, "{messages:?}");
    let only = &messages[5];
    assert_eq!(only.kind(), "credential.created");
    let of = |secret| only.signatures_of(secret);
    assert_eq!((of(&secret), of(&rotated), of(&last)), (0, 0, 1));
    // Each was accepted once, in the order in which it happened, and was sent with the same id each time.
    let ids: HashSet<_> = messages.iter().map(Message::id).collect();
    assert_eq!(ids.len(), 6);
    assert!(revisions(&messages).is_sorted(), "{messages:?}");
    let again = receiver.received().into_iter().filter(|sent| sent.id() == only.id()).count();
    assert!(again >= 2, "{again}");
    let shell = Shell::operator(&server);
    until(|| show(&shell, &id)["delivery"].clone(), |delivery| delivery["delivered_count"] == 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_signed_in_order_and_a_restart_sends_the_rest_sqlite() {
    events_arrive_in_order(Setup::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_signed_in_order_and_a_restart_sends_the_rest_postgres() {
    events_arrive_in_order(Setup::postgres(&postgres::database())).await;
}

/// Rules 14.11, 14.13, 14.14, 14.16 and 14.17.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_fails_is_tried_again_and_one_that_is_gone_is_not() {
    let trust = Trust::new();
    let (receiver, other) = (trust.receiver(), trust.receiver());
    let server = trust.setup(Setup::sqlite()).start();
    let shell = Shell::operator(&server);
    receiver.answer(&[
        Step::Status(500),
        Step::Status(404),
        Step::Redirect(other.url()),
        Step::EndlessHead,
        Step::EndlessBody,
    ]);
    let (id, secret) = create(&shell, &[&receiver.url(), "--event", "webhook.created"]);
    // The last one is accepted, whatever follows its head.
    let accepted = receiver.wait_for(1);
    assert_eq!(accepted[0].signatures_of(&secret), 1);
    let sent = receiver.received();
    assert_eq!(sent.len(), 5, "{sent:?}");
    assert!(sent.iter().all(|message| message.id() == accepted[0].id()));
    assert_eq!(other.connections(), 0);
    let healthy = |shown: &Value| shown["delivery"]["failing_start_time"].is_null();
    let shown = until(|| show(&shell, &id), healthy);
    assert!(shown["delivery"]["last_failure"].as_str().unwrap().starts_with("there is no answer"));
    assert_eq!(server.metric("portcullis_webhook_events_delivered_total"), Some(1));
    assert_eq!(server.metric("portcullis_webhook_failures_total"), Some(4));
    let log = server.stderr();
    assert!(log.contains("a webhook's receiver does not accept events"), "{log}");
    assert!(log.contains("a webhook's receiver accepts events again"), "{log}");

    // A type that it is not sent changes nothing; one that it is, is answered 410.
    receiver.answer(&[Step::Status(410)]);
    shell.run(&["account", "create", "--name", "a", "--admin", "a@example.com"]).ok();
    create(&shell, &[&other.url(), "--event", "token.leaked"]);
    let shown = until(|| show(&shell, &id), |shown| shown["state"] == "WEBHOOK_STATE_GONE");
    assert!(shown["delivery"]["last_failure"].as_str().unwrap().contains("410"));
    until(|| server.metric("portcullis_webhooks_failing"), |&failing| failing == Some(1));
    shell.run(&["webhook", "list"]).exits(0).shows(&[&id, "gone", "webhook.created"]);
    create(&shell, &[&other.url(), "--event", "token.leaked"]);
    // Tried by hand, also while it is gone; then it is sent what happens from then on.
    shell.run(&["webhook", "test", &id]).exits(0).tells(&["was received: the answer is 200"]);
    receiver.answer(&[Step::Status(500)]);
    shell.run(&["webhook", "test", &id]).exits(1).tells(&["was not received: the answer is 500"]);
    shell.run(&["webhook", "enable", &id]).ok();
    let (last, _) = create(&shell, &[&other.url(), "--event", "token.leaked"]);
    let accepted = receiver.wait_for(3);
    let webhooks: Vec<_> = accepted
        .iter()
        .map(|message| message.json()["data"]["webhook_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(webhooks, [id.clone(), id.clone(), last]);
    assert_eq!(kinds(&accepted), ["webhook.created", "webhook.test", "webhook.created"]);
    shell.run(&["webhook", "delete", &id]).ok();
    shell.run(&["webhook", "delete", &id]).exits(1).tells(&["no webhook"]);
}

/// Rules 14.8, 14.9 and 14.10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_receiver_is_refused_unless_a_setting_names_it() {
    let trust = Trust::new();
    let (receiver, plain) = (trust.receiver(), Receiver::plain());
    let server = Setup::sqlite().flag("--webhook-ca", &trust.file).start();
    let shell = Shell::operator(&server);
    for (url, why) in [
        ("https://127.0.0.1/hook", "127.0.0.1 is no public address"),
        ("https://[::ffff:10.0.0.1]/hook", "10.0.0.1 is no public address"),
        ("https://0x7f.1/hook", "127.0.0.1 is no public address"),
        ("https://169.254.169.254/latest", "169.254.169.254 is no public address"),
        (plain.url().as_str(), "is not https"),
        ("https://ann:pw@hooks.example.com/", "a user name or a password"),
    ] {
        shell.run(&["webhook", "create", url]).exits(1).tells(&["url", why]);
    }
    shell
        .run(&["webhook", "create", "https://a.example/", "--event", "token.update"])
        .exits(1)
        .tells(&["event_types[0]", "is no type of event", "token.leaked"]);
    // A name is resolved when something is sent: then its address is refused, and nobody is connected to.
    let (id, _) = create(&shell, &[&receiver.url()]);
    let failed = |shown: &Value| !shown["delivery"]["failing_start_time"].is_null();
    let shown = until(|| show(&shell, &id), failed);
    let why = shown["delivery"]["last_failure"].as_str().unwrap();
    assert!(why.contains("is no public address") && why.contains("--webhook-internal"), "{why}");
    shell.run(&["webhook", "test", &id]).exits(1).tells(&["is no public address"]);
    assert_eq!((receiver.connections(), plain.connections()), (0, 0));
    until(|| server.metric("portcullis_webhooks_failing"), |&failing| failing == Some(1));
    drop(server);

    // Named, as a host and as a network: also without TLS.
    for named in ["localhost", "127.0.0.0/8,::1"] {
        let server = Setup::sqlite()
            .flag("--webhook-internal", named)
            .flag("--webhook-ca", &trust.file)
            .start();
        let shell = Shell::operator(&server);
        let (id, _) = create(&shell, &[&receiver.url(), "--event", "token.leaked"]);
        shell.run(&["webhook", "test", &id]).exits(0);
        let created = shell.run(&["webhook", "create", &plain.url(), "--event", "token.leaked"]);
        assert_eq!(created.code, Some(i32::from(named != "localhost")), "{created}");
    }
    // A certificate of an authority that is not trusted.
    let server = Setup::sqlite().flag("--webhook-internal", "localhost").start();
    let shell = Shell::operator(&server);
    let (id, _) = create(&shell, &[&receiver.url(), "--event", "token.leaked"]);
    let answers = receiver.received().len();
    shell.run(&["webhook", "test", &id]).exits(1).tells(&["there is no TLS connection"]);
    assert_eq!(receiver.received().len(), answers);
}

/// Rules 14.7 and 14.12.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_never_answers_holds_up_nothing() {
    let trust = Trust::new();
    let (silent, other) = (trust.receiver(), trust.receiver());
    silent.answer_always(Some(Step::Silence));
    let sink = Sink::start();
    let server = trust
        .setup(Setup::sqlite())
        .env("PORTCULLIS_SMTP_URL", sink.url())
        .flag("--mail-from", "portcullis@example.test")
        .flag("--lifecycle-window", "4s")
        .flag("--lifecycle-notice", "2s")
        .flag("--lifecycle-sweep-interval", "100ms")
        .flag("--webhook-timeout", "30s")
        .start();
    let shell = Shell::operator(&server);
    let (first, _) = create(&shell, &[&silent.url()]);
    until(|| silent.received().len(), |&count| count == 1);
    let types = ["action.announced", "action.carried_out"];
    create(&shell, &[&other.url(), "--event", types[0], "--event", types[1]]);
    let client = Client::operator(&server).await;
    let account = client.account().await.account_id;
    let (token, _) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let messages = other.wait_for(2);
    assert_eq!(kinds(&messages), types);
    let (announced, done) = (messages[0].json(), messages[1].json());
    assert_eq!(announced["data"]["token_id"], token.token_id);
    assert_eq!(announced["data"]["pending_action_ids"], done["data"]["pending_action_ids"]);
    assert_eq!(done["data"]["pending_action_ids"].as_array().unwrap().len(), 1);
    // The notice was a mail: the webhook counts for nothing.
    assert!(!sink.wait_for(1).is_empty());
    // Still within its time, and one at a time.
    assert_eq!(silent.received().len(), 1);
    assert_eq!(show(&shell, &first)["delivery"]["delivered_count"], 0);
}

/// Rules 14.1 and 14.18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_delivers_each_event_and_another_takes_over() {
    let trust = Trust::new();
    let receiver = trust.receiver();
    let database = postgres::database();
    let mut one = trust.setup(Setup::postgres(&database)).start();
    let two = trust.setup(Setup::postgres(&database)).operator(one.operator()).start();
    let shell = Shell::operator(&two);
    let types = ["--event", "credential.created", "--event", "token.created"];
    let (id, _) = create(&shell, &[&[receiver.url().as_str()], &types[..]].concat());
    let (first, second) = (Client::operator(&one).await, Client::operator(&two).await);
    let account = first.account().await.account_id;
    for at in 0..20 {
        let client = if at % 2 == 0 { &first } else { &second };
        client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    }
    receiver.wait_for(20);
    // An answer that is not stored yet when a replica ends would be asked for again.
    until(|| show(&shell, &id)["delivery"]["delivered_count"].clone(), |count| *count == 20);
    assert!(one.terminate().success());
    for _ in 0..5 {
        second.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    }
    let messages = receiver.wait_for(25);
    assert_eq!(messages.len(), 25, "each is delivered once: {:?}", kinds(&messages));
    let in_order = revisions(&messages);
    assert!(in_order.is_sorted_by(|one, next| one < next), "{in_order:?}");

    // There can be 16.
    let url = receiver.url();
    for _ in 1..16 {
        create(&shell, &[&url, "--event", "token.leaked"]);
    }
    let refused = shell.run(&["webhook", "create", &url, "--output", "json"]).error_json(1);
    assert!(refused.to_string().contains("TOO_MANY_WEBHOOKS"), "{refused}");
    // Account admins see none of it.
    let admin =
        shell.run(&["credential", "create", "--role", "account-admin", "--account", &account]);
    let admin = second.with(&admin.ok());
    let refused = admin.webhooks().list_webhooks(ListWebhooksRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// Rule 14.15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_given_up_where_nothing_is_received_for_long() {
    let trust = Trust::new();
    let receiver = trust.receiver();
    receiver.answer_always(Some(Step::Status(500)));
    let setup = trust.setup(Setup::sqlite()).flag("--webhook-give-up", "500ms");
    let server = setup.start();
    let shell = Shell::operator(&server);
    let types = ["--event", "webhook.created", "--event", "credential.created"];
    let (id, _) = create(&shell, &[&[receiver.url().as_str()], &types[..]].concat());
    let skipped = |shown: &Value| shown["delivery"]["skipped_count"] == 1;
    let shown = until(|| show(&shell, &id), skipped);
    // It fails until something is received.
    assert!(!shown["delivery"]["failing_start_time"].is_null(), "{shown}");
    assert_eq!(server.metric("portcullis_webhook_events_skipped_total"), Some(1));
    until(|| server.stderr(), |log| log.contains("events for a webhook were given up"));
    receiver.answer_always(None);
    shell.run(&["credential", "create", "--role", "pep"]).ok();
    let accepted = receiver.wait_for(1);
    assert_eq!(kinds(&accepted), ["credential.created"]);
    assert_eq!(show(&shell, &id)["delivery"]["skipped_count"], 1);
}

/// Rules 14.12 and 14.18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_being_sent_when_the_server_was_killed_is_sent_again() {
    let trust = Trust::new();
    let receiver = trust.receiver();
    receiver.answer(&[Step::Silence]);
    let mut server = trust.setup(Setup::sqlite()).flag("--webhook-timeout", "1s").start();
    let (_, secret) = create(&Shell::operator(&server), &[&receiver.url()]);
    until(|| receiver.received().len(), |&count| count == 1);
    server.kill9();
    server.restart();
    let accepted = receiver.wait_for(1);
    let sent = receiver.received();
    assert_eq!((accepted.len(), sent.len()), (1, 2));
    assert_eq!(accepted[0].id(), sent[0].id());
    assert_eq!((sent[0].signatures_of(&secret), sent[1].signatures_of(&secret)), (1, 1));
}

/// What the log, the audit record and the metrics have of a webhook: no secret, and of its URL the origin alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_its_secret_nor_its_path_is_recorded() {
    let trust = Trust::new();
    let receiver = trust.receiver();
    let server: Server = trust.setup(Setup::sqlite()).log("debug").start();
    let shell = Shell::operator(&server);
    let (id, secret) = create(&shell, &[&receiver.url(), "--name", "alerts"]);
    let rotated = shell.run(&["webhook", "rotate-secret", &id]).ok();
    let renamed = ["webhook", "update", &id, "--name", "pager", "--all-events"];
    shell.run(&renamed).exits(0).shows(&["pager", "all"]);
    receiver.wait_for(1);
    let audit = shell.run(&["audit", "--output", "json"]).ok();
    for action in ["webhook.create", "webhook.rotate_secret", "webhook.update"] {
        assert!(audit.contains(action), "{audit}");
    }
    assert!(audit.contains(receiver.url().split("/hook").next().unwrap()), "{audit}");
    for text in [audit, server.log(), server.get("/metrics").1] {
        for hidden in [&secret[6..], &rotated[6..], "/hook", "key=value"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
    }
}
