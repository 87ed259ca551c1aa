//! An upgrade beside a program that knows nothing of expiries, replacement, suspension and leaks: it decides nothing
//! that this one would not, and changes nothing. Rule 11.4 of docs/policy.md.
//!
//! In a build with the feature `older` alone, since that program has to be built first: `tests/long/run older`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and reads its settings"
)]

use std::path::PathBuf;
use std::time::Duration;

use portcullis::grpc::proto::{
    CreateTokenRequest, Decision, DeleteTokenRequest, ListPendingActionsRequest, Reason,
    ReplaceTokenRequest, SuspendAccountRequest, TokenKind,
};
use tonic::{Code, Status};

use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::postgres::database;
use crate::support::server::{Server, Setup, random_credential};
use crate::support::smtp::Sink;
use crate::support::wait::{until, until_async};

const LEASE: Duration = Duration::from_secs(3);

/// The earlier program.
fn older() -> PathBuf {
    let path = std::env::var_os("PORTCULLIS_TEST_OLDER").map(PathBuf::from);
    let path = path.unwrap_or_else(|| {
        panic!("PORTCULLIS_TEST_OLDER names no program: run tests/long/run older")
    });
    assert!(path.exists(), "{} is not there: run tests/long/run older", path.display());
    path
}

/// A database on which the earlier program serves, and what both programs are started with.
struct Upgrade {
    url: String,
    setup: Setup,
    earlier: Server,
    at_earlier: Client,
    account: String,
    /// A token that may read, made by the earlier program.
    token_id: String,
    secret: String,
}

impl Upgrade {
    async fn begin(change: impl Fn(Setup) -> Setup) -> Self {
        let url = database();
        let lease = format!("{}ms", LEASE.as_millis());
        let setup = Setup::postgres(&url).operator(&random_credential()).flag("--lease", lease);
        let setup = change(setup);
        let earlier = setup.clone().program(&older()).start();
        let at_earlier = Client::operator(&earlier).await;
        let account = at_earlier.account().await.account_id;
        let (token, secret) = at_earlier.token(&account, TokenKind::ReadOnly, &[], &[]).await;
        let begun =
            Self { url, setup, earlier, at_earlier, account, token_id: token.token_id, secret };
        assert_eq!(begun.earlier_decides(&begun.secret).await.unwrap(), Decision::Allow);
        begun
    }

    /// Starts this program beside the earlier one.
    async fn start_later(&self) -> (Server, Client) {
        let later = self.setup.clone().start();
        let client = Client::operator(&later).await;
        (later, client)
    }

    async fn earlier_decides(&self, secret: &str) -> Result<Decision, Status> {
        decide(&self.at_earlier, secret).await.map(|(decision, _)| decision)
    }

    /// That the earlier program answers nothing, now.
    async fn earlier_is_silent(&self, secret: &str) {
        let refused = self.earlier_decides(secret).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    }

    /// Asks the earlier program for as long as it decides.
    async fn earlier_falls_silent(&self) {
        let _ =
            until_async(async || self.earlier_decides(&self.secret).await, Result::is_err).await;
        self.earlier_is_silent(&self.secret).await;
    }

    /// That the earlier program does not start on the database, and says why and what to run.
    fn earlier_is_refused(&self) {
        let (status, printed) = self.setup.clone().program(&older()).refused();
        assert!(!status.success(), "{printed}");
        for part in ["migrated by a newer version", "run that version or a later one"] {
            assert!(printed.contains(part), "`{part}` is missing in:\n{printed}");
        }
    }

    fn migrate(&self) -> String {
        let answer = Shell::new().env("PORTCULLIS_DATABASE_URL", &self.url).run(&["migrate"]);
        answer.exits(0).printed()
    }
}

async fn decide(client: &Client, secret: &str) -> Result<(Decision, Reason), Status> {
    let request = question(secret, "192.0.2.1", "transactions.read");
    let answer = client.authorization().authorize(request).await?.into_inner();
    Ok((answer.decision(), answer.reason()))
}

fn new_token(account: &str, seconds: i64) -> CreateTokenRequest {
    CreateTokenRequest {
        account_id: account.to_owned(),
        name: "short".to_owned(),
        kind: TokenKind::ReadOnly.into(),
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_earlier_replica_beside_a_later_one_loses_its_lease_and_does_not_come_back() {
    let mut upgrade = Upgrade::begin(|setup| setup).await;
    let (later, client) = upgrade.start_later().await;
    let name = format!("process {}", upgrade.earlier.pid());
    let log = later.stderr();
    assert!(log.contains("a replica runs an earlier version") && log.contains(&name), "{log}");
    assert_eq!(decide(&client, &upgrade.secret).await.unwrap().0, Decision::Allow);
    upgrade.earlier_falls_silent().await;
    assert!(
        upgrade.earlier.stderr().contains("the lease has run out"),
        "{}",
        upgrade.earlier.stderr()
    );
    assert!(upgrade.earlier.terminate().success());
    upgrade.earlier_is_refused();
    assert_eq!(decide(&client, &upgrade.secret).await.unwrap().0, Decision::Allow);
}

/// Each right after the later program has started, while the earlier one has its lease.
#[tokio::test]
async fn what_an_earlier_program_does_not_know_is_answered_once_it_decides_nothing() {
    let upgrade = Upgrade::begin(|setup| setup).await;
    let (_later, client) = upgrade.start_later().await;
    let created = client.tokens().create_token(new_token(&upgrade.account, 1)).await.unwrap();
    let secret = created.into_inner().secret;
    upgrade.earlier_is_silent(&secret).await;
    until_async(
        async || decide(&client, &secret).await.unwrap().1,
        |reason| *reason == Reason::TokenExpired,
    )
    .await;

    let other = Upgrade::begin(|setup| setup).await;
    let (_later, client) = other.start_later().await;
    let request = SuspendAccountRequest { account_id: other.account.clone(), ..Default::default() };
    client.accounts().suspend_account(request).await.unwrap();
    other.earlier_is_silent(&other.secret).await;
    assert_eq!(decide(&client, &other.secret).await.unwrap().1, Reason::AccountSuspended);

    let other = Upgrade::begin(|setup| setup).await;
    let (_later, client) = other.start_later().await;
    let request = ReplaceTokenRequest {
        token_id: other.token_id.clone(),
        overlap: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
        ..Default::default()
    };
    let replaced = client.tokens().replace_token(request).await.unwrap().into_inner();
    other.earlier_is_silent(&other.secret).await;
    assert_eq!(decide(&client, &other.secret).await.unwrap().1, Reason::TokenExpired);
    assert_eq!(decide(&client, &replaced.secret).await.unwrap().0, Decision::Allow);
}

#[tokio::test]
async fn an_earlier_replica_that_is_paused_during_the_migration_decides_nothing_after_its_lease() {
    let upgrade = Upgrade::begin(|setup| setup).await;
    upgrade.earlier.signal("STOP");
    let printed = upgrade.migrate();
    let name = format!("process {}", upgrade.earlier.pid());
    for part in
        [&name[..], "runs an earlier version", "Stop it, and start this version", "applied 0008"]
    {
        assert!(printed.contains(part), "`{part}` is missing in:\n{printed}");
    }
    let (_later, client) = upgrade.start_later().await;
    // Answered once the paused one's lease is over.
    let request = DeleteTokenRequest { token_id: upgrade.token_id.clone(), ..Default::default() };
    client.tokens().delete_token(request).await.unwrap();
    upgrade.earlier.signal("CONT");
    for _ in 0..20 {
        upgrade.earlier_is_silent(&upgrade.secret).await;
        tokio::time::sleep(LEASE / 20).await;
    }
}

#[tokio::test]
async fn changes_wait_for_a_killed_earlier_replica_until_its_lease_is_over_and_no_longer() {
    let mut upgrade = Upgrade::begin(|setup| setup).await;
    upgrade.earlier.kill9();
    let (later, client) = upgrade.start_later().await;
    let request = DeleteTokenRequest { token_id: upgrade.token_id.clone(), ..Default::default() };
    let deleted = client.tokens().delete_token(request).await.unwrap().into_inner();
    assert!(deleted.propagation.unwrap().complete);
    let waited_for = "a replica's lease ran out: it is waited for no more";
    until(|| later.stderr(), |log| log.contains(waited_for));
    upgrade.earlier_is_refused();
    assert_eq!(upgrade.migrate(), "The store is up to date.\n");
}

/// Its sweeper needs no lease, and the tables let it write.
#[tokio::test]
async fn an_earlier_replica_announces_nothing_beside_a_later_one() {
    let sink = Sink::start();
    let upgrade = Upgrade::begin(|setup| {
        setup
            .flag("--lifecycle-window", "20s")
            .flag("--lifecycle-notice", "16s")
            .flag("--lifecycle-sweep-interval", "100ms")
            .flag("--usage-flush-interval", "100ms")
            .env("PORTCULLIS_SMTP_URL", sink.url())
            .flag("--mail-from", "portcullis@example.test")
    })
    .await;
    let (later, client) = upgrade.start_later().await;
    upgrade.earlier_falls_silent().await;
    let before = upgrade.earlier.stderr().matches("\"announced\"").count();
    let mut tokens = Vec::new();
    for _ in 0..12 {
        let (token, _) = client.token(&upgrade.account, TokenKind::ReadOnly, &[], &[]).await;
        tokens.push(token.token_id);
    }
    for token_id in &tokens {
        let list = ListPendingActionsRequest { token_id: token_id.clone(), ..Default::default() };
        let pending = async || {
            let listed = client.tokens().list_pending_actions(list.clone()).await.unwrap();
            listed.into_inner().pending_actions.len()
        };
        until_async(pending, |count| *count == 1).await;
    }
    assert!(later.stderr().matches("\"announced\"").count() >= tokens.len(), "{}", later.stderr());
    assert_eq!(upgrade.earlier.stderr().matches("\"announced\"").count(), before);
}

#[tokio::test]
async fn an_earlier_program_keeps_the_embedded_store_from_a_later_one_and_does_not_come_back() {
    let home = tempfile::tempdir().unwrap();
    let setup = Setup::sqlite().data_dir(&home.path().join("data")).operator(&random_credential());
    let mut earlier = setup.clone().program(&older()).start();
    let client = Client::operator(&earlier).await;
    let account = client.account().await;
    let (_, secret) = client.token(&account.account_id, TokenKind::ReadOnly, &[], &[]).await;

    let data = home.path().join("data");
    let shell = Shell::new();
    let migrate = ["migrate", "--data-dir", data.to_str().unwrap()];
    let refused = shell.run(&migrate);
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(
        refused.stderr.contains(&earlier.pid().to_string()),
        "no word of the holder: {refused}"
    );
    assert_eq!(decide(&client, &secret).await.unwrap().0, Decision::Allow);

    assert!(earlier.terminate().success());
    shell.run(&migrate).exits(0).shows(&["applied 0008 token expiry"]);
    let (status, printed) = setup.clone().program(&older()).refused();
    assert!(!status.success() && printed.contains("migrated by a newer version"), "{printed}");
    let later = setup.start();
    let client = Client::operator(&later).await;
    assert_eq!(decide(&client, &secret).await.unwrap().0, Decision::Allow);
}
