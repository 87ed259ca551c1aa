//! The lifecycle in real time: a window of 20 seconds and a notice period of 6, the real binary, a
//! client that asks all the while, and a mail server. What the rules promise happens within a second
//! of when it should, and never earlier (docs/policy.md, section 4).
//!
//! Must stay true: each event is looked at from two sides. By the store's time, as answers tell it, it
//! is never early at all. By the client's own clock it can only be seen between two looks; so it is
//! early if it was seen before it was due, and late if it was not seen a second after.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::time::Duration;

use crate::support::client::{Client, question};
use crate::support::mime::Received;
use crate::support::postgres;
use crate::support::server::{Server, Setup};
use crate::support::smtp::Sink;
use portcullis::clock::Stopwatch;
use portcullis::grpc::proto::{
    AuthorizeRequest, AuthorizeResponse, Decision, GetTokenRequest, ListAuditEventsRequest,
    ListPendingActionsRequest, NoticeState, PendingAction, PendingActionType, Reason, TokenKind,
};
use prost_types::Timestamp;
use tokio::sync::Mutex;

const WINDOW: Duration = Duration::from_secs(20);
const NOTICE: Duration = Duration::from_secs(6);
/// How late anything may be.
const LATE: Duration = Duration::from_secs(1);
/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks, and between two uses of a token that is in use.
const PAUSE: Duration = Duration::from_millis(100);
const BETWEEN_USES: Duration = Duration::from_millis(300);

const HERE: &str = "192.0.2.1";
const READ: &str = "transactions.read";
const WRITE: &str = "transactions.send";
const REVEAL: &str = "cards.reveal";

/// When something was, since the test began: not before the one, not after the other.
#[derive(Debug, Clone, Copy)]
struct When {
    earliest: Duration,
    latest: Duration,
}

impl When {
    fn plus(self, by: Duration) -> Self {
        Self { earliest: self.earliest + by, latest: self.latest + by }
    }

    fn max(self, other: Self) -> Self {
        let Self { earliest, latest } = other;
        Self { earliest: self.earliest.max(earliest), latest: self.latest.max(latest) }
    }

    /// That this was not before it was due, and within a second after.
    #[track_caller]
    fn is_on_time(self, what: &str, due: Self) {
        let behind = self.latest.saturating_sub(due.earliest);
        println!("{what}: at most {behind:?} after it was due");
        assert!(self.latest >= due.earliest, "{what}: {self:?} is before {due:?}");
        assert!(self.earliest <= due.latest + LATE, "{what}: {self:?} is late for {due:?}");
    }
}

/// An announced action, and when its notice was accepted.
struct Noticed {
    action: PendingAction,
    accepted: When,
}

struct Stage {
    server: Server,
    sink: Sink,
    client: Client,
    account: String,
    begun: Stopwatch,
}

/// A token whose life is watched.
struct Watched {
    id: String,
    secret: String,
    created: When,
    /// By the store's time.
    create_time: Duration,
}

impl Stage {
    async fn new(setup: Setup) -> Self {
        let sink = Sink::start();
        let server = setup
            .flag("--lifecycle-window", "20s")
            .flag("--lifecycle-notice", "6s")
            .flag("--lifecycle-sweep-interval", "100ms")
            .flag("--usage-flush-interval", "100ms")
            .flag("--mail-from", "portcullis@example.test")
            .flag("--mail-rate", "1000")
            .env("PORTCULLIS_SMTP_URL", sink.url())
            .start();
        let client = Client::operator(&server).await;
        let account = client.account().await.account_id;
        Self { server, sink, client, account, begun: Stopwatch::start() }
    }

    /// What a call answers, and when it was.
    async fn timed<T>(&self, call: impl Future<Output = T>) -> (When, T) {
        let earliest = self.begun.elapsed();
        let answer = call.await;
        (When { earliest, latest: self.begun.elapsed() }, answer)
    }

    /// Asks until there is something: when that came to be, and what.
    async fn when<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> (When, T) {
        let mut earliest = Duration::ZERO;
        let patience = self.begun.elapsed() + PATIENCE;
        loop {
            let (asked, answer) = self.timed(ask()).await;
            if let Some(answer) = answer {
                return (When { earliest, latest: asked.latest }, answer);
            }
            earliest = asked.earliest;
            assert!(earliest < patience, "{what}: still nothing\n{}", self.server.log());
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn token(&self, kind: TokenKind, scopes: &[&str]) -> Watched {
        let whitelist: &[&str] = if kind == TokenKind::ReadOnly { &[] } else { &[HERE] };
        let create = self.client.token(&self.account, kind, scopes, whitelist);
        let (created, (token, secret)) = self.timed(create).await;
        let create_time = since_epoch(token.create_time);
        Watched { id: token.token_id, secret, created, create_time }
    }

    async fn ask(&self, token: &Watched, scope: &str, dry_run: bool) -> AuthorizeResponse {
        let ask = AuthorizeRequest { dry_run, ..question(&token.secret, HERE, scope) };
        self.client.authorization().authorize(ask).await.unwrap().into_inner()
    }

    /// A use, which must be allowed: when it was.
    async fn uses(&self, token: &Watched, scope: &str) -> When {
        let (when, answer) = self.timed(self.ask(token, scope, false)).await;
        assert_eq!(answer.decision(), Decision::Allow, "{answer:?}");
        when
    }

    /// What is listed for the token.
    async fn pending(&self, token: &Watched) -> Vec<PendingAction> {
        let list = ListPendingActionsRequest { token_id: token.id.clone(), ..Default::default() };
        let listed = self.client.tokens().list_pending_actions(list).await.unwrap();
        listed.into_inner().pending_actions
    }

    /// The mails about the token, in order.
    fn mails(&self, token: &Watched) -> Vec<Received> {
        let mut mails = self.sink.messages();
        mails.retain(|mail| mail.text().contains(&token.id));
        mails
    }

    /// The next mail about the token after so many, what its subject must say, and when it came.
    async fn mail(&self, token: &Watched, after: usize, says: &str) -> When {
        let (_, mail) = self.when(says, async || self.mails(token).into_iter().nth(after)).await;
        let subject = mail.header("Subject").unwrap();
        assert!(subject.contains(says), "{subject}");
        let since = mail.came.elapsed();
        let at = self.begun.elapsed() - since;
        When { earliest: at, latest: at }
    }

    /// Waits for the notice of what was `idle` since then, by the store's time since `basis`.
    async fn noticed(
        &self,
        token: &Watched,
        idle: When,
        basis: Duration,
        (mails_before, says): (usize, &str),
    ) -> Noticed {
        let due = idle.plus(WINDOW - NOTICE);
        let (listed, _) =
            self.when("listed", async || self.pending(token).await.into_iter().next()).await;
        listed.is_on_time("listed", due);
        let mailed = self.mail(token, mails_before, says).await;
        mailed.is_on_time("mailed", due);
        let accepted = async || {
            let action = self.pending(token).await.pop().expect("it stays listed");
            let accepted = action.notices[0].state() == NoticeState::Accepted;
            accepted.then_some(action)
        };
        let (accepted, action) = self.when("accepted", accepted).await;
        let accepted = When { latest: accepted.latest, ..mailed };

        let planned = since_epoch(action.create_time);
        let accept_time = since_epoch(action.notices[0].accept_time);
        assert!(basis + WINDOW - NOTICE <= planned, "announced early: {action:?}");
        assert!(planned <= accept_time, "accepted before it was planned: {action:?}");
        assert!(accept_time <= basis + WINDOW - NOTICE + LATE, "accepted late: {action:?}");
        let effective = (basis + WINDOW).max(accept_time + NOTICE);
        assert_eq!(since_epoch(action.effective_time), effective, "{action:?}");
        Noticed { action, accepted }
    }

    /// Waits until what was announced is carried out: until `scope` is denied, for `reason`.
    async fn carried_out(
        &self,
        token: &Watched,
        idle: When,
        noticed: &Noticed,
        (scope, reason, done): (&str, Reason, &str),
        (mails_before, says): (usize, &str),
    ) {
        let due = idle.plus(WINDOW).max(noticed.accepted.plus(NOTICE));
        let denied = async || {
            let answer = self.ask(token, scope, true).await;
            match answer.decision() {
                Decision::Deny => Some(answer),
                _ => {
                    let warned = answer.pending_action.expect("a warning until then");
                    assert_eq!(warned.effective_time, noticed.action.effective_time);
                    None
                }
            }
        };
        let (denied, answer) = self.when("denied", denied).await;
        assert_eq!(answer.reason(), reason, "{answer:?}");
        denied.is_on_time(done, due);
        self.mail(token, mails_before, says).await.is_on_time(says, due);
        assert_eq!(self.pending(token).await, []);

        let list = ListAuditEventsRequest { token_id: token.id.clone(), ..Default::default() };
        let events = self.client.tokens().list_audit_events(list).await.unwrap().into_inner();
        let event = events.audit_events.into_iter().find(|event| event.action == done).unwrap();
        let (at, effective) = (since_epoch(event.time), since_epoch(noticed.action.effective_time));
        assert!(effective <= at, "{done}: {effective:?} is after {at:?}");
        assert!(at <= effective + LATE, "{done}: {at:?} is late for {effective:?}");
    }

    /// Nobody ever uses it.
    async fn never_used(&self) {
        let token = self.token(TokenKind::ReadOnly, &[]).await;
        let (idle, basis) = (token.created, token.create_time);
        let noticed = self.noticed(&token, idle, basis, (0, "will be deleted")).await;
        assert_eq!(noticed.action.r#type(), PendingActionType::Deletion);
        let end = (READ, Reason::TokenDeletedUnused, "lifecycle.delete");
        self.carried_out(&token, idle, &noticed, end, (1, "was deleted")).await;
    }

    /// One use cancels its deletion, which begins anew from there.
    async fn saved_once(&self) {
        let token = self.token(TokenKind::ReadOnly, &[]).await;
        self.noticed(&token, token.created, token.create_time, (0, "will be deleted")).await;
        tokio::time::sleep(NOTICE / 2).await;
        let used = self.uses(&token, READ).await;
        assert_eq!(self.pending(&token).await, []);
        let get = GetTokenRequest { token_id: token.id.clone() };
        let shown = self.client.tokens().get_token(get).await.unwrap().into_inner().token.unwrap();
        let last_use = since_epoch(shown.last_use_time);
        let noticed = self.noticed(&token, used, last_use, (1, "will be deleted")).await;
        let end = (READ, Reason::TokenDeletedUnused, "lifecycle.delete");
        self.carried_out(&token, used, &noticed, end, (2, "was deleted")).await;
    }

    /// It is read with all the time, and never written.
    async fn reader(&self, token: &Watched) {
        let (idle, basis) = (token.created, token.create_time);
        let noticed = self.noticed(token, idle, basis, (0, "will become read-only")).await;
        let end = (WRITE, Reason::ScopeLostInDowngrade, "lifecycle.downgrade");
        self.carried_out(token, idle, &noticed, end, (1, "became read-only")).await;
    }

    /// One of its scopes is used all the time, and the others never.
    async fn specialist(&self, token: &Watched) {
        let (idle, basis) = (token.created, token.create_time);
        let noticed = self.noticed(token, idle, basis, (0, "will lose 2 scopes")).await;
        assert_eq!(noticed.action.scopes_taken, [REVEAL, WRITE]);
        assert_eq!(noticed.action.scopes_kept, [READ]);
        let end = (REVEAL, Reason::ScopeLostInDowngrade, "lifecycle.downgrade");
        self.carried_out(token, idle, &noticed, end, (1, "lost 2 scopes")).await;
    }

    /// Uses these tokens to read, again and again.
    async fn keep_using(&self, tokens: &[&Watched]) {
        loop {
            for token in tokens {
                self.uses(token, READ).await;
            }
            tokio::time::sleep(BETWEEN_USES).await;
        }
    }
}

fn since_epoch(time: Option<Timestamp>) -> Duration {
    let time = time.expect("a time");
    Duration::new(time.seconds.try_into().unwrap(), time.nanos.try_into().unwrap())
}

/// One after the other: beside each other they would take each other's time.
static TURN: Mutex<()> = Mutex::const_new(());

async fn everything_is_on_time(setup: Setup) {
    let _turn = TURN.lock().await;
    let stage = Stage::new(setup).await;
    let reader = stage.token(TokenKind::ReadWrite, &[]).await;
    let specialist = stage.token(TokenKind::Custom, &[READ, WRITE, REVEAL]).await;
    let used = stage.token(TokenKind::ReadOnly, &[]).await;
    let in_use = &[&reader, &specialist, &used];
    let stories = async {
        tokio::join!(
            stage.never_used(),
            stage.saved_once(),
            stage.reader(&reader),
            stage.specialist(&specialist),
        )
    };
    tokio::select! {
        _ = stories => {}
        () = stage.keep_using(in_use) => unreachable!("it never ends"),
    }
    // What was in use all the time is nobody's news, and what was downgraded lost nothing else.
    assert_eq!(stage.mails(&used).len(), 0);
    assert_eq!((stage.mails(&reader).len(), stage.mails(&specialist).len()), (2, 2));
    for token in in_use {
        assert_eq!(stage.pending(token).await, []);
        assert_eq!(stage.ask(token, READ, true).await.pending_action, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_on_time_over_sqlite() {
    everything_is_on_time(Setup::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_on_time_over_postgres() {
    everything_is_on_time(Setup::postgres(&postgres::database())).await;
}
