//! The primary dies and its synchronous standby leads: what was answered is still there, whoever hears of
//! it forgets what it knew, and whoever does not is outwaited as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portcullis::grpc::proto::{
    AuthorizeResponse, Decision, DeleteTokenRequest, Reason, Token, TokenKind,
};
use tonic::{Code, Status};

use crate::replicas::proxy::{Proxy, Wire};
use crate::replicas::stage::{LEASE, Stage};
use crate::support::client::Client;
use crate::support::postgres::Cluster;

/// How long anything may take that comes by itself, on a machine that has a lot to do.
const SOON: Duration = Duration::from_secs(20);
/// A lease that lasts longer than a failover does, so that there is something to outwait after it.
const LONG: Duration = Duration::from_secs(8);
/// Changes that are made before the primary dies, at least.
const CHANGES: usize = 20;
const LOST: &str = "registering again";
const REGISTERED: &str = "registered as a replica";

/// Two servers, each with its own way to the primary, of two databases that are one.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    /// The name of the database.
    database: String,
    proxies: Vec<Proxy>,
    stage: Stage,
}

impl Pair {
    async fn new(lease: Duration) -> Self {
        let primary = Cluster::with_fsync();
        let direct = primary.database();
        let (_, database) = direct.rsplit_once('/').unwrap();
        // What a database is told to do by default takes nothing from what a server promises.
        primary.sql("postgres", &format!("ALTER DATABASE {database} SET synchronous_commit = off"));
        let standby = primary.synchronous_standby();
        let proxies: Vec<_> = (0..2).map(|_| Proxy::new(primary.port())).collect();
        let urls: Vec<_> = proxies.iter().map(|proxy| proxy.url(&direct)).collect();
        let urls: Vec<_> = urls.iter().map(String::as_str).collect();
        let stage = Stage::leased_over(lease, &urls, |_, setup| setup).await;
        Self { primary, standby, database: database.to_owned(), proxies, stage }
    }

    /// How often the server has said so.
    fn said(&self, at: usize, words: &str) -> usize {
        self.stage.servers[at].stderr().matches(words).count()
    }

    /// Waits until the server has found out that it is another store.
    async fn noticed(&self, at: usize) {
        let begin = Instant::now();
        while self.said(at, LOST) == 0 || self.said(at, REGISTERED) < 2 {
            assert!(begin.elapsed() < SOON, "server {at} does not notice");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the server decides about `secret`: its answer.
    async fn decides(&self, at: usize, secret: &str) -> AuthorizeResponse {
        let begin = Instant::now();
        loop {
            match self.stage.ask(at, secret).await {
                Ok(answer) => return answer,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
            }
            assert!(begin.elapsed() < SOON, "server {at} does not decide again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Creates tokens and deletes every other one, counting, until told to stop or an answer is missing: what
/// was answered, and whether that was a deletion.
async fn change(
    client: Client,
    account: String,
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Vec<(String, bool)> {
    let mut answered = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok((token, secret)) = client.try_token(&account, TokenKind::ReadOnly, &[], &[]).await
        else {
            break;
        };
        if answered.len() % 2 == 0 {
            answered.push((secret, false));
        } else {
            let request = DeleteTokenRequest { token_id: token.token_id, no_wait: false };
            let Ok(deleted) = client.tokens().delete_token(request).await else { break };
            assert!(deleted.into_inner().propagation.unwrap().complete);
            answered.push((secret, true));
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    answered
}

/// Rule 6.10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_outlives_the_primary_and_memory_does_not() {
    let pair = Pair::new(LEASE).await;
    let stage = &pair.stage;
    let (mut kept, mut deleted) = (Vec::new(), Vec::new());
    for at in 0..2 {
        kept.push(stage.token(at).await.1);
        let (token, secret) = stage.token(at).await;
        assert!(
            stage.delete(at, &token.token_id, false).await.unwrap().propagation.unwrap().complete
        );
        deleted.push(secret);
    }
    // One that both have in memory, and that the new primary will know as deleted without a word of it in
    // the record: such as a position that another change has after a failover.
    let (_, changed) =
        stage.clients[0].token(&stage.account, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
    for at in 0..2 {
        for secret in kept.iter().chain([&changed]) {
            stage.allows(at, secret).await;
        }
        for secret in &deleted {
            stage.denies(at, secret).await;
        }
    }
    let audit = stage.clients[0].audit().await;

    let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (client, account) = (stage.clients[0].clone(), stage.account.clone());
    let changes = tokio::spawn(change(client, account, count.clone(), stop.clone()));
    let begin = Instant::now();
    while count.load(Ordering::Relaxed) < CHANGES {
        assert!(begin.elapsed() < 2 * SOON, "{CHANGES} changes take so long");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pair.primary.kill();
    pair.standby.promote();
    let delete = "UPDATE token SET delete_time = 1, delete_cause = 'owner' \
        WHERE whitelist LIKE '192.0.2.1%' RETURNING 'deleted'";
    assert_eq!(pair.standby.sql(&pair.database, delete), "deleted");
    stop.store(true, Ordering::Relaxed);
    for proxy in &pair.proxies {
        proxy.point(pair.standby.port());
    }
    for at in 0..2 {
        pair.noticed(at).await;
        let answer = pair.decides(at, &changed).await;
        assert_eq!(answer.reason(), Reason::TokenDeleted, "server {at} forgot nothing: {answer:?}");
    }

    for (secret, is_deleted) in changes.await.unwrap() {
        (if is_deleted { &mut deleted } else { &mut kept }).push(secret);
    }
    assert!(kept.len() + deleted.len() >= 4 + CHANGES);
    let (token, secret) = stage.token(1).await;
    for at in 0..2 {
        stage.allows(at, &secret).await;
    }
    assert!(stage.delete(0, &token.token_id, false).await.unwrap().propagation.unwrap().complete);
    deleted.push(secret);
    for at in 0..2 {
        for secret in &kept {
            stage.allows(at, secret).await;
        }
        for secret in &deleted {
            stage.denies(at, secret).await;
        }
    }
    assert!(stage.clients[1].audit().await.starts_with(&audit));
}

/// What a server said to those who asked it all the time: when each began, and what it was told.
type Told = Vec<(Instant, Result<AuthorizeResponse, Status>)>;

/// Asks the server 1 until the other has answered `deletion`, and a little longer: when that was, how long
/// it took, and what was told.
async fn ask_while_deleting(pair: &Pair, token: &Token, secret: &str) -> (Instant, Told) {
    let answered = AtomicBool::new(false);
    let delete = async {
        let deleted = pair.stage.delete(0, &token.token_id, false).await;
        let at = Instant::now();
        answered.store(true, Ordering::Relaxed);
        assert!(deleted.unwrap().propagation.unwrap().complete);
        at
    };
    let ask = async {
        let (mut told, mut after) = (Vec::new(), 0);
        while after < 3 {
            after += usize::from(answered.load(Ordering::Relaxed));
            told.push((Instant::now(), pair.stage.ask(1, secret).await));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        told
    };
    tokio::join!(delete, ask)
}

/// The server 1 hears nothing of the new primary. `part` says how.
async fn is_outwaited(part: impl FnOnce(&Pair)) {
    let pair = Pair::new(LONG).await;
    let stage = &pair.stage;
    let (token, secret) = stage.token(0).await;
    for at in 0..2 {
        stage.allows(at, &secret).await;
    }
    part(&pair);
    pair.standby.promote();
    pair.proxies[0].point(pair.standby.port());
    pair.noticed(0).await;
    assert_eq!(pair.decides(0, &secret).await.decision(), Decision::Allow);
    stage.allows(1, &secret).await;

    let early = stage.delete(0, &token.token_id, true).await.unwrap().propagation.unwrap();
    assert!(!early.complete, "server 1 has heard of nothing: {early:?}");
    let (answered, told) = ask_while_deleting(&pair, &token, &secret).await;
    let allowed: Vec<_> = told
        .iter()
        .filter(|(_, told)| told.as_ref().is_ok_and(|told| told.decision() == Decision::Allow))
        .collect();
    assert!(!allowed.is_empty(), "it had a lease, and what it knew in memory");
    for (begin, _) in &allowed {
        assert!(*begin < answered, "allowed {:?} after the answer", begin.duration_since(answered));
    }
    for (begin, told) in &told {
        if *begin > answered {
            assert_eq!(told.as_ref().unwrap_err().code(), Code::Unavailable, "{told:?}");
        }
    }
    stage.denies(0, &secret).await;
    assert_eq!(stage.ask(1, &secret).await.unwrap_err().code(), Code::Unavailable);

    pair.primary.kill();
    pair.proxies[1].set(Wire::default());
    pair.proxies[1].point(pair.standby.port());
    pair.noticed(1).await;
    assert_eq!(pair.decides(1, &secret).await.reason(), Reason::TokenDeleted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_through_a_failover_is_outwaited_by_the_new_primary() {
    is_outwaited(|pair| {
        pair.proxies[1].set(Wire { cut: true, ..Wire::default() });
        pair.primary.kill();
    })
    .await;
}

/// The former primary lives, and a server reaches it and nothing else. It can commit nothing without its
/// standby, so no lease either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sees_the_former_primary_alone_is_outwaited_too() {
    is_outwaited(|_| {}).await;
}

/// A primary that waits for a standby that never comes: whoever gives up leaves a session behind that waits
/// on, so there must be few of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_can_commit_nothing_is_not_filled_with_sessions() {
    let pair = Pair::new(LEASE).await;
    let (_, secret) = pair.stage.token(0).await;
    for at in 0..2 {
        pair.stage.allows(at, &secret).await;
    }
    pair.primary.kill();
    pair.standby.promote();
    pair.standby.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    pair.standby.sql("postgres", "SELECT pg_reload_conf()");
    for proxy in &pair.proxies {
        proxy.point(pair.standby.port());
    }
    tokio::time::sleep(5 * LEASE).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let waiting: usize = pair.standby.sql("postgres", waiting).parse().unwrap();
    assert!((1..=8).contains(&waiting), "{waiting} sessions wait");
    for at in 0..2 {
        assert_eq!(pair.stage.ask(at, &secret).await.unwrap_err().code(), Code::Unavailable);
    }
    pair.standby.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
    pair.standby.sql("postgres", "SELECT pg_reload_conf()");
    for at in 0..2 {
        pair.noticed(at).await;
        assert_eq!(pair.decides(at, &secret).await.decision(), Decision::Allow);
    }
}

/// As where a name leads to the new primary and nobody closes what there was: management has made new
/// connections, leases still have those to the former primary, which lives and shows what it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_primary_that_can_be_read_makes_nothing_bound() {
    let pair = Pair::new(LONG).await;
    let stage = &pair.stage;
    let (token, secret) = stage.token(0).await;
    for at in 0..2 {
        stage.allows(at, &secret).await;
    }
    pair.standby.promote();
    pair.proxies[0].lead(pair.standby.port());
    let management = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE application_name = 'portcullis' AND query NOT LIKE '%position%' \
        AND query NOT LIKE '%replica%' AND query NOT LIKE 'LISTEN%'";
    assert_ne!(pair.primary.sql(&pair.database, management), "0");
    // The first may find connections that were ended.
    let begin = Instant::now();
    let deleted = loop {
        match stage.delete(0, &token.token_id, false).await {
            Ok(deleted) => break deleted,
            Err(status) => assert!(begin.elapsed() < 2 * LONG, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(deleted.propagation.unwrap().complete);
    let asked = stage.ask(1, &secret).await;
    assert_eq!(asked.unwrap_err().code(), Code::Unavailable);
    stage.denies(0, &secret).await;
}
