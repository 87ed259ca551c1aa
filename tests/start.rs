//! How a server starts, refuses to start, and stops.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use crate::support::client::Client;
use crate::support::command::Shell;
use crate::support::postgres;
use crate::support::server::{Server, Setup, random_credential};
use crate::support::tools::{grpcurl, succeed};
use crate::support::wait::until;
use portcullis::grpc::proto::{CreateAccountRequest, ListAccountsRequest};
use sqlx::{Connection as _, PgConnection};
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
            } else if ["grpcurl ", "curl "].iter().any(|tool| line.trim_start().starts_with(tool)) {
                let mut command = line.to_owned();
                while command.ends_with('\\') {
                    command = format!("{command}\n{}", lines.next().expect("the line goes on"));
                }
                let answer = paste(&command);
                let promised = match promise.split([':', ',']).next() {
                    Some("allowed") => "\"decision\": \"DECISION_ALLOW\"",
                    Some("denied") => "\"decision\": \"DECISION_DENY\"",
                    Some("as a gateway asks about a request of its client") => {
                        "portcullis-reason: ALLOWED"
                    }
                    _ => "portcullis.v1.TokenService",
                };
                assert!(answer.contains(promised), "# {promise}\n{command}\n{answer}");
                assert!(!promise.contains("whitelist entry") || answer.contains("matchedEntry"));
                pasted += 1;
            }
        }
        assert_eq!(pasted, 6, "{printed}");
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

/// Rule 8.7.
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
        "7 settings are invalid",
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

/// As the kubelet sets them in a pod beside a Service named `portcullis` with two ports.
const SERVICE: [(&str, &str); 14] = [
    ("PORTCULLIS_SERVICE_HOST", "10.96.13.7"),
    ("PORTCULLIS_SERVICE_PORT", "50051"),
    ("PORTCULLIS_SERVICE_PORT_GRPC", "50051"),
    ("PORTCULLIS_SERVICE_PORT_DNS_SCTP", "53"),
    ("PORTCULLIS_PORT", "tcp://10.96.13.7:50051"),
    ("PORTCULLIS_PORT_50051_TCP", "tcp://10.96.13.7:50051"),
    ("PORTCULLIS_PORT_50051_TCP_PROTO", "tcp"),
    ("PORTCULLIS_PORT_50051_TCP_PORT", "50051"),
    ("PORTCULLIS_PORT_50051_TCP_ADDR", "10.96.13.7"),
    ("PORTCULLIS_PORT_53_UDP", "udp://10.96.13.7:53"),
    ("PORTCULLIS_PORT_53_UDP_PROTO", "udp"),
    ("PORTCULLIS_PORT_53_UDP_PORT", "53"),
    ("PORTCULLIS_PORT_53_UDP_ADDR", "10.96.13.7"),
    ("PORTCULLIS_PORT_53_SCTP", "sctp://10.96.13.7:53"),
];

#[test]
fn service_named_portcullis_in_kubernetes_stops_no_command() {
    let within = |setup: Setup| SERVICE.iter().fold(setup, |s, (name, value)| s.env(name, value));
    let server = within(Setup::sqlite()).start();
    let operator = Shell::operator(&server);
    let shell = SERVICE.iter().fold(operator, |shell, (name, value)| shell.env(name, value));
    shell.run(&["account", "list"]).exits(0);
    shell.run(&["migrate"]).exits(0);

    let (status, message) =
        within(Setup::sqlite()).env("PORTCULLIS_HTTP_SERVICE_HOST", "10.96.13.8").refused();
    assert_eq!(status.code(), Some(2), "{message}");
    assert!(message.contains("PORTCULLIS_HTTP_SERVICE_HOST is not a setting"), "{message}");
    assert!(message.contains("enableServiceLinks: false"), "{message}");
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

/// Rule 6.1.
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

/// Rule 8.6.
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
        assert!(message.contains("was revoked, or has expired; choose another"), "{message}");
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

#[test]
fn other_signals_stop_it_in_order_read_files_again_or_are_ignored() {
    let mut server = Setup::sqlite().start();
    // Rule 8.14: it makes the server read its files again.
    server.signal("HUP");
    until(|| server.stderr(), |log| log.contains("reading files again"));
    Shell::operator(&server).run(&["account", "list"]).exits(0);
    for signal in ["USR1", "USR2"] {
        server.signal(signal);
        let line = format!("\"signal\":\"SIG{signal}\"");
        until(|| server.stderr(), |log| log.contains("a signal is ignored") && log.contains(&line));
        Shell::operator(&server).run(&["account", "list"]).exits(0);
    }
    for signal in ["QUIT", "XCPU"] {
        server.signal(signal);
        assert_eq!(server.wait_end().code(), Some(0), "SIG{signal}");
        server.restart();
    }
}

/// A limit of the file size stands for a full disk: it fails the same writes, and signals besides.
#[test]
fn full_disk_is_named_to_callers_and_operators() {
    let server = Setup::sqlite().flag("--lifecycle-sweep-interval", "200ms").start();
    let shell = Shell::operator(&server);
    let create = ["account", "create", "--name", "Acme", "--admin", "ann@acme.example"];
    let account = shell.run(&create).ok();
    limit_files(&server, "0");
    shell.run(&create).exits(2).tells(&["the disk of the store is full", "made room"]);
    let error = shell.run(&[&create[..], &["-o", "json"]].concat()).error_json(2);
    assert_eq!(error["code"], "UNAVAILABLE");
    let (status, health) = server.get("/healthz");
    assert!(status.contains("200") && health.contains("store: disk full, for "), "{health}");
    // What was written before is still read, and nothing was half done.
    shell.run(&["account", "show", &account]).exits(0);
    limit_files(&server, "unlimited");
    until(|| server.get("/healthz").1, |health| !health.contains("store: "));
    shell.run(&create).exits(0);
    let accounts = shell.run(&["account", "list", "-o", "json"]).json();
    assert_eq!(accounts["accounts"].as_array().unwrap().len(), 2);
}

/// Sets the limit of the file sizes of a running server, the soft one.
fn limit_files(server: &Server, bytes: &str) {
    let (pid, limit) = (server.pid().to_string(), format!("--fsize={bytes}:unlimited"));
    succeed(Command::new("prlimit").args(["--pid", &pid, &limit]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_table_is_named_to_callers_operators_and_the_log() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let shell = Shell::operator(&server);
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut locking = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *locking)
        .await
        .unwrap();
    let create = ["account", "create", "--name", "Acme", "--admin", "ann@acme.example"];
    shell.run(&create).exits(2).tells(&["holds a lock that this needs"]);
    let (_, health) = server.get("/healthz");
    assert!(health.contains("store: locked, for "), "{health}");
    until(
        || server.stderr(),
        |log| {
            let mut lines = log.lines();
            lines.any(|line| {
                line.contains("the database is in trouble") && line.contains("lock timeout")
            })
        },
    );
    locking.rollback().await.unwrap();
    shell.run(&create).exits(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_out_of_connections_is_named() {
    let url = postgres::database();
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let database = url.rsplit('/').next().unwrap().to_owned();
    let user = format!("user_{database}");
    let run = async |admin: &mut PgConnection, sql: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(admin).await.unwrap();
    };
    run(&mut admin, format!("CREATE USER {user}; ALTER DATABASE {database} OWNER TO {user}")).await;
    let own = url.replace("postgres@", &format!("{user}@"));
    // Once the lease is over, calls are refused for that.
    let server = Setup::postgres(&own).flag("--lease", "60s").start();
    let shell = Shell::operator(&server);
    shell.run(&["account", "list"]).exits(0);
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'");
    run(&mut admin, format!("ALTER USER {user} CONNECTION LIMIT 0; {end}")).await;
    // A connection that was ended may cost a call of its own.
    until(
        || shell.run(&["account", "list"]).stderr,
        |told| told.contains("the store takes no more connections"),
    );
    assert!(server.get("/healthz").1.contains("store: out of connections, for "));
    let (status, message) = Setup::postgres(&own).flag("--wait-for-store", "0s").refused();
    assert_eq!(status.code(), Some(2), "{message}");
    assert!(message.contains("is out of connections: raise max_connections"), "{message}");
    let mut second = Setup::postgres(&own).operator(server.operator()).spawn();
    until_waiting(&second, "out of connections");
    run(&mut admin, format!("ALTER USER {user} CONNECTION LIMIT -1")).await;
    second.wait_ready();
    until(|| shell.run(&["account", "list"]).code, |code| *code == Some(0));
}

#[test]
fn missing_database_is_named_with_its_address_and_setting() {
    let url = postgres::database();
    let (server, _) = url.rsplit_once('/').unwrap();
    let address = server.rsplit('@').next().unwrap();
    // Only the first may pass by itself: the others end a start at once, whatever it may wait.
    for (url, wait, address, part) in [
        ("postgres://u:hunter2@127.0.0.1:1/d".to_owned(), "0s", "127.0.0.1:1", "is out of reach"),
        (format!("{server}/absent"), "1h", address, "does not exist"),
        (format!("{url}?sslmode=require"), "1h", address, "server does not support TLS"),
    ] {
        let (status, message) = Setup::postgres(&url).flag("--wait-for-store", wait).refused();
        assert_eq!(status.code(), Some(2), "{message}");
        for part in [address, part, "PORTCULLIS_DATABASE_URL", "--database-url"] {
            assert!(message.contains(part), "{part} is missing:\n{message}");
        }
        assert!(!message.contains("hunter2"), "{message}");
        let migrate = Shell::new().env("PORTCULLIS_DATABASE_URL", &url);
        let answer = migrate.run(&["migrate", "--wait-for-store", wait]);
        answer.exits(2).tells(&[address, "PORTCULLIS_DATABASE_URL"]);
    }
}

/// Waits until a server that starts reports that it waits for a database with such a trouble.
fn until_waiting(server: &Server, trouble: &str) {
    let waits = |line: &str| line.contains("waiting for the database") && line.contains(trouble);
    until(|| server.stderr(), |log| log.lines().any(waits));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_that_is_down_or_locked_is_waited_for() {
    let cluster = postgres::Cluster::new(false);
    let url = cluster.database();
    cluster.stop();
    let mut server = Setup::postgres(&url).spawn();
    until_waiting(&server, "out of reach");
    cluster.start();
    server.wait_ready();

    // What the steps after the first connection find is waited for as well.
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut locking = other.begin().await.unwrap();
    let lock = "LOCK TABLE account IN ACCESS EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *locking).await.unwrap();
    let mut second = Setup::postgres(&url).operator(server.operator()).spawn();
    until_waiting(&second, "locked");
    locking.rollback().await.unwrap();
    second.wait_ready();
}

#[test]
fn wait_for_a_database_ends_after_its_setting_or_with_a_signal() {
    let absent = Setup::postgres("postgres://u@127.0.0.1:1/d");
    let late = "no service of the database within 500ms (--wait-for-store)";
    let (status, message) = absent.clone().flag("--wait-for-store", "500ms").refused();
    assert_eq!(status.code(), Some(2), "{message}");
    for part in [late, "127.0.0.1:1 is out of reach"] {
        assert!(message.contains(part), "{part} is missing:\n{message}");
    }
    let migrate = Shell::new().env("PORTCULLIS_DATABASE_URL", "postgres://u@127.0.0.1:1/d");
    let waiting = "waiting 0 s for the database: the database at 127.0.0.1:1";
    migrate.run(&["migrate", "--wait-for-store", "500ms"]).exits(2).tells(&[waiting, late]);

    for signal in ["TERM", "INT"] {
        let mut waiting = absent.clone().flag("--wait-for-store", "1h").spawn();
        until_waiting(&waiting, "out of reach");
        // Files are read again once they were used: until then, it is only noted.
        waiting.signal("HUP");
        waiting.signal(signal);
        assert_eq!(waiting.wait_end().code(), Some(0), "SIG{signal}");
    }
    let (_, message) = absent.flag("--wait-for-store", "soon").refused();
    assert!(message.contains("--wait-for-store: \"soon\""), "{message}");
}

#[test]
fn damaged_file_is_named_with_the_cure() {
    const PAGE: usize = 4_096;
    for (what, damage) in [
        ("no database", (|file| file.fill(b'x')) as fn(&mut Vec<u8>)),
        ("a header only", |file| file.truncate(100)),
        ("half of a file", |file| file.truncate(file.len() / 2)),
        ("pages of junk", |file| file[PAGE..].fill(0xa5)),
    ] {
        let mut server = Setup::sqlite().start();
        assert!(server.terminate().success());
        let path = server.data_dir().join("portcullis.db");
        let mut file = fs::read(&path).unwrap();
        assert!(file.len() > 2 * PAGE);
        damage(&mut file);
        fs::write(&path, &file).unwrap();
        let (status, message) = server.refuses_with(|setup| setup);
        assert_eq!(status.code(), Some(2), "{what}: {message}");
        for part in [path.to_str().unwrap(), "is damaged", "restore a backup", ".recover"] {
            assert!(message.contains(part), "{what}: {part} is missing:\n{message}");
        }
    }
}

#[test]
fn listener_takes_a_host_name() {
    let server = Setup::sqlite().listen("localhost:0").http_listen("localhost:0").start();
    assert!(server.grpc().ip().is_loopback() && server.http().ip().is_loopback());
    Shell::operator(&server).run(&["account", "list"]).exits(0);
}

#[test]
fn log_file_has_no_colour_codes() {
    let mut server = Setup::sqlite().flag("--log-format", "text").start();
    assert!(server.terminate().success());
    let log = server.stderr();
    assert!(log.contains("serving") && !log.contains('\u{1b}'), "{log:?}");
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
        let waiting = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
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
/// Rule 7.10.
#[test]
fn a_server_dumps_no_core() {
    let server = Setup::sqlite().start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let core: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(core, ["0", "0"]);
}
