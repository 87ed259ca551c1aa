//! Backup and restore as docs/operations.md has them: its commands are carried out as they stand there, for both stores.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is the test's failure"
)]

use std::fs;
use std::path::Path;

use portcullis::grpc::proto::{
    DeleteTokenRequest, ListPendingActionsRequest, Reason, Role, Token, TokenKind,
};
use tonic::{Code, Status};

use crate::support::calls::credential;
use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::http::Http;
use crate::support::postgres::{self, Cluster};
use crate::support::server::{Server, Setup, random_credential};
use crate::support::smtp::Sink;
use crate::support::wait::until_async;

const DOCUMENT: &str = include_str!("../docs/operations.md");
const HERE: &str = "192.0.2.1";
const THERE: &str = "198.51.100.1";

/// The commands below a heading.
fn commands(heading: &str) -> Vec<&'static str> {
    let (_, section) = DOCUMENT.split_once(&format!("### {heading}\n")).unwrap();
    let section = section.split("\n### ").next().unwrap();
    let mut blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next());
    let commands = blocks.by_ref().flatten().flat_map(str::lines).map(str::trim);
    commands.filter(|command| !command.is_empty()).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Sqlite,
    Postgres,
}

impl Store {
    /// Whether a command is for this store.
    fn takes(self, command: &str) -> bool {
        match command.split_whitespace().next().unwrap() {
            "pg_dump" | "createdb" | "pg_restore" => self == Self::Postgres,
            "sqlite3" | "mkdir" | "cp" => self == Self::Sqlite,
            _ => true,
        }
    }
}

/// Variables by which the programs of Postgres reach `cluster`.
fn reaching(shell: Shell, cluster: &Cluster) -> Shell {
    let shell = shell.env("PGHOST", "127.0.0.1").env("PGUSER", "postgres");
    shell.env("PGPORT", cluster.port().to_string())
}

/// The URL of the database that the document names.
fn url(cluster: &Cluster) -> String {
    format!("{}/portcullis", cluster.url().strip_suffix("/postgres").unwrap())
}

async fn decides(client: &Client, secret: &str, address: &str) -> Result<Reason, Status> {
    let request = question(secret, address, "transactions.read");
    Ok(client.authorization().authorize(request).await?.into_inner().reason())
}

async fn is_announced(client: &Client, token: &Token) -> bool {
    let request =
        ListPendingActionsRequest { token_id: token.token_id.clone(), ..Default::default() };
    let listed = client.tokens().list_pending_actions(request).await.unwrap();
    !listed.into_inner().pending_actions.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored_and_what_came_after_it_repeated_on_sqlite() {
    let home = Shell::new();
    let setup = Setup::sqlite().data_dir(&home.home().join("portcullis-data"));
    drill(Store::Sqlite, setup, home, |shell| {
        let restored = shell.home().join("restored");
        (shell, Setup::sqlite().data_dir(&restored))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored_and_what_came_after_it_repeated_on_postgres() {
    let former = Cluster::new(false);
    let shell = reaching(Shell::new(), &former);
    assert_eq!(shell.sh("createdb portcullis").ok(), "");
    let setup = Setup::postgres(&url(&former));
    drill(Store::Postgres, setup, shell, |shell| {
        let other = postgres::shared();
        (reaching(shell, other), Setup::postgres(&url(other)))
    })
    .await;
}

/// What there was at the backup, and what is done to it afterwards.
struct Stock {
    kept: String,
    deleted: (Token, String),
    leaked: (Token, String),
    narrowed: (Token, String),
    /// Announced for deletion at the backup, and used afterwards.
    used: (Token, String),
    suspended: (String, String),
    revoked: (String, String),
}

impl Stock {
    async fn new(client: &Client) -> Self {
        let account = client.account().await.account_id;
        let token = async |whitelist: &[&str]| {
            client.token(&account, TokenKind::ReadOnly, &[], whitelist).await
        };
        let other = client.account().await.account_id;
        let (_, of_other) = client.token(&other, TokenKind::ReadOnly, &[], &[]).await;
        let (pep, pep_secret) = credential(client, Role::Pep, "").await;
        Self {
            kept: token(&[]).await.1,
            deleted: token(&[]).await,
            leaked: token(&[]).await,
            narrowed: token(&[HERE, THERE]).await,
            used: token(&[]).await,
            suspended: (other, of_other),
            revoked: (pep.credential_id, pep_secret),
        }
    }

    async fn is_as_at_the_backup(&self, client: &Client) {
        for secret in [&self.kept, &self.deleted.1, &self.leaked.1, &self.suspended.1] {
            assert_eq!(decides(client, secret, HERE).await.unwrap(), Reason::Allowed);
        }
        assert_eq!(decides(client, &self.narrowed.1, THERE).await.unwrap(), Reason::Allowed);
        let pep = client.with(&self.revoked.1);
        assert_eq!(decides(&pep, &self.kept, HERE).await.unwrap(), Reason::Allowed);
    }

    /// `leaked` is the reason of the leaked token.
    async fn is_narrowed(&self, client: &Client, leaked: Reason) {
        for (secret, address, reason) in [
            (&self.kept, HERE, Reason::Allowed),
            (&self.used.1, HERE, Reason::Allowed),
            (&self.deleted.1, HERE, Reason::TokenDeleted),
            (&self.leaked.1, HERE, leaked),
            (&self.narrowed.1, HERE, Reason::Allowed),
            (&self.narrowed.1, THERE, Reason::ClientIpNotWhitelisted),
            (&self.suspended.1, HERE, Reason::AccountSuspended),
        ] {
            assert_eq!(decides(client, secret, address).await.unwrap(), reason);
        }
        let refused = decides(&client.with(&self.revoked.1), &self.kept, HERE).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }

    fn narrow(&self, shell: &Shell) {
        let run = |args: &[&str]| shell.run(args).exits(0);
        run(&["token", "delete", &self.deleted.0.token_id, "--yes"]);
        shell.run_with(&["token", "report-leaked", "--yes"], &self.leaked.1).exits(0);
        run(&["whitelist", "remove", &self.narrowed.0.token_id, THERE]);
        run(&["account", "suspend", &self.suspended.0]);
        run(&["credential", "revoke", &self.revoked.0, "--yes"]);
    }
}

/// `restore` gives the shell and the setup of the server that serves from what is restored.
async fn drill(
    store: Store,
    setup: Setup,
    shell: Shell,
    restore: impl FnOnce(Shell) -> (Shell, Setup),
) {
    let sink = Sink::start();
    let mailing = |setup: Setup| {
        let setup = setup.flag("--lifecycle-window", "60s").flag("--lifecycle-notice", "58s");
        let setup = setup.flag("--lifecycle-sweep-interval", "100ms");
        let setup = setup.flag("--usage-flush-interval", "100ms");
        setup.env("PORTCULLIS_SMTP_URL", sink.url()).flag("--mail-from", "portcullis@example.test")
    };
    let mut former = mailing(setup).start();
    let client = Client::operator(&former).await;
    let mut shell = shell
        .env("PORTCULLIS_SERVER", format!("http://{}", former.grpc()))
        .env("PORTCULLIS_CREDENTIAL", former.operator());
    let stock = Stock::new(&client).await;
    until_async(async || is_announced(&client, &stock.used.0).await, |announced| *announced).await;
    let mut browser = Http::new(&former).sign_in(former.operator());
    browser.get("/tokens").says(200);
    stock.is_as_at_the_backup(&client).await;

    let mut newer = None;
    for command in commands("Backing up").into_iter().filter(|command| store.takes(command)) {
        if command.starts_with("portcullis audit export") {
            // The record goes on after the backup.
            stock.narrow(&shell);
            assert_eq!(decides(&client, &stock.used.1, HERE).await.unwrap(), Reason::Allowed);
            let announced = async || is_announced(&client, &stock.used.0).await;
            until_async(announced, |announced| !announced).await;
            newer = Some(client.token(&stock.suspended.0, TokenKind::ReadOnly, &[], &[]).await);
            stock.is_narrowed(&client, Reason::TokenRevokedLeaked).await;
        }
        shell.sh(command).exits(0);
    }
    let (_, newer) = newer.expect("an export of the record");
    assert!(former.terminate().success());

    let setup;
    (shell, setup) = restore(shell);
    let mut setup = Some(mailing(setup));
    let mut restored = None;
    for command in commands("Restoring").into_iter().filter(|command| store.takes(command)) {
        if let Some(variable) = command.strip_prefix("export ") {
            let (name, value) = variable.split_once('=').unwrap();
            let value = shell.home().join(value);
            setup = setup.map(|setup| setup.env(name, &value));
            shell = shell.without("PORTCULLIS_CREDENTIAL").env(name, value);
        } else if let Some(flags) =
            command.strip_prefix("portcullis serve --listen 127.0.0.1:50051 ")
        {
            let setup = setup.take().unwrap().without_operator();
            let server = flags.split(' ').fold(setup, Setup::switch).start();
            shell = shell.env("PORTCULLIS_SERVER", format!("http://{}", server.grpc()));
            restored = Some(at_restored(server, shell.home(), &stock, &newer, &browser).await);
        } else if command.starts_with("portcullis audit verify") {
            shell.sh(command).exits(1).tells(&["the chain"]);
        } else if command.contains("audit lost") && !command.contains("--commands") {
            let lost = shell.sh(command).exits(0);
            lost.shows(&["token.delete", &stock.deleted.0.token_id, "is unknown now"]);
        } else {
            shell.sh(command).exits(0);
        }
    }
    let (_server, client) = restored.expect("a server that was started");
    stock.is_narrowed(&client, Reason::TokenDeleted).await;
    assert!(!is_announced(&client, &stock.used.0).await, "its use is lost, and nothing follows");
}

/// That a restored store has nothing of what came after the backup, as the document says.
async fn at_restored(
    server: Server,
    home: &Path,
    stock: &Stock,
    newer: &str,
    browser: &Http,
) -> (Server, Client) {
    let operator = fs::read_to_string(home.join("operator.credential")).unwrap();
    let client = Client::connect(server.grpc(), operator.trim()).await;
    let announced = async || is_announced(&client, &stock.used.0).await;
    until_async(announced, |announced| !announced).await;
    stock.is_as_at_the_backup(&client).await;
    assert_eq!(decides(&client, newer, HERE).await.unwrap(), Reason::TokenNotFound);
    let (name, value) = browser.cookies().iter().next().unwrap();
    Http::new(&server).with_cookie(name, value).get("/tokens").says(303);
    (server, client)
}

/// The replica stands still meanwhile, so that it can't see that the record was shorter for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_restored_under_a_running_replica_are_another_store_for_it() {
    let url = postgres::database();
    let setup = Setup::postgres(&url).operator(&random_credential()).flag("--lease", "3s");
    let replica = setup.clone().start();
    let client = Client::operator(&replica).await;
    let account = client.account().await.account_id;
    let (token, secret) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(decides(&client, &secret, HERE).await.unwrap(), Reason::Allowed);
    let shell = Shell::new().env("URL", &url);
    shell.sh("pg_dump -Fc -f portcullis.dump \"$URL\"").exits(0);
    for _ in 0..3 {
        client.account().await;
    }
    replica.signal("STOP");
    let restore = "pg_restore --clean --if-exists --single-transaction --exit-on-error -d \"$URL\" portcullis.dump";
    shell.sh(restore).exits(0);
    let other = setup.start();
    let at_other = Client::operator(&other).await;
    let delete = DeleteTokenRequest { token_id: token.token_id, ..Default::default() };
    // Once the lease is over that the dump has of the replica.
    at_other.tokens().delete_token(delete).await.unwrap();
    for _ in 0..3 {
        at_other.account().await;
    }
    replica.signal("CONT");
    let decided = until_async(async || decides(&client, &secret, HERE).await, Result::is_ok).await;
    assert_eq!(decided.unwrap(), Reason::TokenDeleted);
}
