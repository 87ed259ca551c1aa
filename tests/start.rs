//! How a server starts, refuses to start, and stops.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use portcullis::grpc::proto::{CreateAccountRequest, ListAccountsRequest};
use sqlx::{Connection as _, PgConnection};
use support::client::Client;
use support::command::Shell;
use support::postgres;
use support::server::{Setup, random_credential};
use support::tools::{grpcurl, succeed};
use tempfile::TempDir;
use tonic::Code;

fn dev() -> Setup {
    Setup::sqlite().without_operator().switch("--dev")
}

#[test]
fn what_dev_prints_works_when_pasted() {
    let mut server = dev().start();
    for _ in 0..2 {
        let printed = server.stdout();
        let mut pasted = 0;
        let mut promise = "";
        let mut lines = printed.lines();
        while let Some(line) = lines.next() {
            if let Some(comment) = line.trim_start().strip_prefix("# ") {
                promise = comment;
            } else if line.trim_start().starts_with("grpcurl ") {
                let mut command = line.to_owned();
                while command.ends_with('\\') {
                    command = format!("{command}\n{}", lines.next().expect("the line goes on"));
                }
                let answer = paste(&command);
                let promised = match promise.split([':', ',']).next() {
                    Some("allowed") => "\"decision\": \"DECISION_ALLOW\"",
                    Some("denied") => "\"decision\": \"DECISION_DENY\"",
                    _ => "portcullis.v1.TokenService",
                };
                assert!(answer.contains(promised), "# {promise}\n{command}\n{answer}");
                assert!(!promise.contains("whitelist entry") || answer.contains("matchedEntry"));
                pasted += 1;
            }
        }
        assert_eq!(pasted, 5, "{printed}");
        let page = format!("\n  http://{}\n", server.http());
        assert!(printed.contains(&page), "{printed}");
        // The command needs no credential either; and every start makes fresh tokens.
        let shell = Shell::reaching(&server);
        let tokens = shell.run(&["token", "list", "--output", "json"]).json();
        assert_eq!(tokens["tokens"].as_array().unwrap().len(), 3);
        let earlier = printed;
        server.restart();
        let line = |text: &str| text.lines().find(|l| l.contains("pcl_t1_")).unwrap().to_owned();
        assert_ne!(line(&earlier), line(&server.stdout()));
    }
}

fn paste(command: &str) -> String {
    let program = grpcurl().get_program().to_owned();
    let script = format!("grpcurl() {{ \"$GRPCURL\" \"$@\"; }}\n{command}");
    succeed(Command::new("sh").args(["-c", &script]).env("GRPCURL", program))
}

#[test]
fn a_dev_store_and_a_real_one_are_never_taken_for_each_other() {
    let home = TempDir::new().unwrap();
    let directory = home.path().join("store");
    drop(dev().data_dir(&directory).start());
    let (status, message) = Setup::sqlite().data_dir(&directory).refused();
    assert_eq!(status.code(), Some(2), "{message}");
    assert!(message.contains("made by `serve --dev`"), "{message}");

    let directory = home.path().join("real");
    drop(Setup::sqlite().data_dir(&directory).start());
    let (status, message) = dev().data_dir(&directory).refused();
    assert_eq!(status.code(), Some(2), "{message}");
    assert!(message.contains("in use without --dev"), "{message}");

    let (_, message) = dev().env("PORTCULLIS_DATABASE_URL", "postgres://h/d").refused();
    assert!(message.contains("--dev"), "{message}");
}

#[test]
fn all_faults_of_the_settings_are_told_in_one_message() {
    let (status, message) = Setup::sqlite()
        .env("PORTCULLIS_LISTNE", "x")
        .env("PORTCULLIS_COLOUR", "x")
        .env("PORTCULLIS_CACHE_CAPACITY", "many")
        .env("PORTCULLIS_TOKEN_PREFIX", "A B")
        .flag("--log-level", "loud")
        .flag("--catalog", "absent.toml")
        .operator("too-short")
        .refused();
    assert_eq!(status.code(), Some(2), "{message}");
    for part in [
        "7 settings are at fault",
        "PORTCULLIS_LISTNE is not a setting; did you mean PORTCULLIS_LISTEN?",
        "PORTCULLIS_COLOUR is not a setting",
        "--cache-capacity:",
        "--token-prefix:",
        "--log-level:",
        "--catalog: cannot read absent.toml",
        "PORTCULLIS_OPERATOR_CREDENTIAL: must be 32 to 1024",
    ] {
        assert!(message.contains(part), "`{part}` is missing:\n{message}");
    }
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
    assert!(!message.contains("too-short"), "a secret is repeated: {message}");

    let (status, message) = Setup::sqlite().env("PORTCULLIS_LISTNE", "x").refused();
    assert_eq!(status.code(), Some(2));
    assert!(message.contains("error: PORTCULLIS_LISTNE is not a setting"), "{message}");
}

#[test]
fn secrets_come_from_files_as_well() {
    let home = TempDir::new().unwrap();
    let operator = random_credential();
    let file = home.path().join("operator");
    fs::write(&file, format!("{operator}\n")).unwrap();
    let url_file = home.path().join("url");
    fs::write(&url_file, postgres::database()).unwrap();
    let server = Setup::sqlite()
        .without_operator()
        .env("PORTCULLIS_OPERATOR_CREDENTIAL_FILE", &file)
        .env("PORTCULLIS_DATABASE_URL_FILE", &url_file)
        .start();
    let shell = Shell::reaching(&server).env("PORTCULLIS_CREDENTIAL_FILE", &file);
    shell.run(&["account", "list"]).exits(0);
    assert!(server.stderr().contains("postgres"), "{}", server.stderr());

    let both = Setup::sqlite().env("PORTCULLIS_OPERATOR_CREDENTIAL_FILE", &file);
    assert!(both.refused().1.contains("are both set"));
}

#[test]
fn a_second_server_on_the_same_data_names_the_first() {
    let server = Setup::sqlite().start();
    let (status, message) = Setup::sqlite().data_dir(&server.data_dir()).refused();
    assert_eq!(status.code(), Some(2), "{message}");
    let holder = format!("in use by portcullis serve, process {}", server.pid());
    assert!(message.contains(&holder), "{message}");
    Shell::operator(&server).run(&["account", "list"]).exits(0);
    let migrate = Shell::new().env("PORTCULLIS_DATA_DIR", server.data_dir());
    migrate.run(&["migrate"]).exits(2).tells(&[&holder]);
}

#[test]
fn another_operator_credential_revokes_the_former() {
    for setup in [Setup::sqlite(), Setup::postgres(&postgres::database())] {
        let mut server = setup.start();
        let former = server.operator().to_owned();
        server.restart();
        Shell::operator(&server).run(&["account", "list"]).exits(0);
        server.restart_with(|setup| setup.operator(&random_credential()));
        Shell::operator(&server).run(&["account", "list"]).exits(0);
        let shell = Shell::reaching(&server).env("PORTCULLIS_CREDENTIAL", &former);
        shell.run(&["account", "list"]).exits(2).tells(&["revoked"]);

        // It stays revoked, and the settings can't bring it back.
        assert!(server.terminate().success());
        let (status, message) = server.refuses_with(|setup| setup.operator(&former));
        assert_eq!(status.code(), Some(2), "{message}");
        assert!(message.contains("was revoked; choose another"), "{message}");
        assert!(!message.contains(&former), "{message}");
    }
}

#[test]
fn a_port_in_use_is_told_before_anything_is_written() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = TempDir::new().unwrap();
    let directory = home.path().join("store");
    for setup in [Setup::sqlite().listen(&address), Setup::sqlite().http_listen(&address)] {
        let (status, message) = setup.data_dir(&directory).refused();
        assert_eq!(status.code(), Some(2), "{message}");
        assert!(message.contains(&format!("cannot listen on {address}: ")), "{message}");
        assert!(message.contains("in use"), "{message}");
        assert!(!directory.exists(), "the store was made");
    }
}

#[test]
fn a_signal_stops_it_with_status_0() {
    for signal in ["TERM", "INT"] {
        for mut server in [Setup::sqlite().start(), Setup::postgres(&postgres::database()).start()]
        {
            server.signal(signal);
            let status = server.wait_end();
            assert_eq!(status.code(), Some(0), "SIG{signal}");
            assert!(server.stderr().contains("stopped"), "{}", server.stderr());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_are_finished() {
    for signal in ["TERM", "INT"] {
        let url = postgres::database();
        let mut server = Setup::postgres(&url).start();
        let client = Client::operator(&server).await;

        // Somebody else's transaction holds the call back.
        let mut holder = PgConnection::connect(&url).await.unwrap();
        let mut blocking = holder.begin().await.unwrap();
        sqlx::query("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *blocking)
            .await
            .unwrap();
        let mut calls = tokio::task::JoinSet::new();
        let mut accounts = client.accounts();
        calls.spawn(async move {
            let request = CreateAccountRequest {
                name: "late".to_owned(),
                admin_emails: vec!["ann@acme.example".to_owned()],
            };
            accounts.create_account(request).await
        });
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut *blocking).await.unwrap() == 0 {}

        server.signal(signal);
        // Soon it takes no connection any more; should it go on, the test would never end.
        while Client::try_connect(server.grpc(), server.operator()).await.is_ok() {}
        blocking.rollback().await.unwrap();
        let answer = calls.join_next().await.unwrap().unwrap().expect("the call is answered");
        let account = answer.into_inner().account.unwrap().account_id;
        assert_eq!(server.wait_end().code(), Some(0));
        // Log lines are written behind; by the end all of them are.
        assert!(server.stderr().contains("stopping"), "{}", server.stderr());

        let after = client.accounts().list_accounts(ListAccountsRequest::default()).await;
        assert_eq!(after.unwrap_err().code(), Code::Unavailable);
        server.restart();
        Shell::operator(&server).run(&["account", "show", &account]).exits(0);
    }
}

/// Secrets are in its memory. Whether others may read it is set together with this, and shown nowhere.
#[test]
fn a_server_dumps_no_core() {
    let server = Setup::sqlite().start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(core, ["0", "0"]);
}
