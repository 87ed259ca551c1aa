//! The lifecycle with several sweepers: nothing twice, no notice before all know, no rules at odds.

use std::time::{Duration, Instant};

use portcullis::grpc::proto::{Decision, ListPendingActionsRequest};

use crate::replicas::stage::{LEASE, PATIENCE, Stage, until};
use crate::support::client::Client;
use crate::support::server::{Server, Setup};
use crate::support::smtp::Sink;

/// Told after 6 s, gone after 18.
const WINDOW: &str = "18s";
const NOTICE: &str = "12s";

fn quick(setup: Setup, sink: &Sink) -> Setup {
    timed(setup, sink, WINDOW, NOTICE)
}

fn timed(setup: Setup, sink: &Sink, window: &str, notice: &str) -> Setup {
    setup
        .flag("--lifecycle-window", window)
        .flag("--lifecycle-notice", notice)
        .flag("--lifecycle-sweep-interval", "100ms")
        .flag("--usage-flush-interval", "100ms")
        .env("PORTCULLIS_SMTP_URL", sink.url())
        .flag("--mail-from", "portcullis@example.test")
        .flag("--mail-rate", "1000")
}

async fn pending(stage: &Stage, at: usize, token_id: &str) -> usize {
    let list = ListPendingActionsRequest { token_id: token_id.to_owned(), ..Default::default() };
    let listed = stage.clients[at].tokens().list_pending_actions(list).await.unwrap();
    listed.into_inner().pending_actions.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_use_on_any_replica_keeps_a_token_and_nobody_is_told_twice() {
    let sink = Sink::start();
    let stage = Stage::with(3, |_, setup| quick(setup, &sink)).await;
    let (kept, kept_secret) = stage.token(0).await;
    let (lost, lost_secret) = stage.token(1).await;
    // In every memory before it is announced; a dry run is no use.
    for at in 0..3 {
        stage.try_dry(at, &kept_secret).await;
    }
    let notices = sink.wait_for(2);
    for token in [&kept, &lost] {
        let told = notices.iter().filter(|notice| notice.text().contains(&token.token_id));
        assert_eq!(told.count(), 1);
    }
    stage.allows(2, &kept_secret).await;
    for at in 0..3 {
        assert_eq!(pending(&stage, at, &kept.token_id).await, 0, "server {at}");
    }
    // The other one is taken, once, and all know. Whoever is used is not announced again.
    let began = Instant::now();
    while sink.messages().len() < 3 {
        stage.allows(2, &kept_secret).await;
        assert!(began.elapsed() < PATIENCE, "nothing is taken");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for at in 0..3 {
        stage.denies_unused(at, &lost_secret).await;
        stage.allows(at, &kept_secret).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mails = sink.everything();
    assert_eq!(mails.len(), 3, "{:?}", mails.iter().map(|mail| mail.text()).collect::<Vec<_>>());
    let done: i64 = stage
        .servers
        .iter()
        .map(|server| server.metric("portcullis_actions_carried_out_total").unwrap())
        .sum();
    assert_eq!(done, 1);
}

/// Rule 4.17.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_before_every_replica_knows() {
    let sink = Sink::start();
    let stage = Stage::with(2, |_, setup| quick(setup, &sink)).await;
    let (token, _) = stage.token(0).await;
    // Stopped some time before the announcement is due, and for less than a lease.
    tokio::time::sleep(Duration::from_millis(5_200)).await;
    stage.servers[1].signal("STOP");
    let announced = loop {
        if pending(&stage, 0, &token.token_id).await == 1 {
            break Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    tokio::time::sleep(LEASE / 4).await;
    assert!(sink.messages().is_empty(), "server 1 knows nothing of it");
    sink.wait_for(1);
    assert!(announced.elapsed() < LEASE * 2, "its lease has run out: {:?}", announced.elapsed());
    stage.servers[1].signal("CONT");
}

/// Other rules on one of two, from when a deletion was announced until after it is due: nothing is taken, announced
/// or mailed, and both say so; it goes on once there is only one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_at_odds_take_nothing_and_say_so() {
    let sink = Sink::start();
    // Long enough for the restart of a server between notice and deletion.
    let mut stage = Stage::with(2, |_, setup| timed(setup, &sink, "24s", "18s")).await;
    let odds = "portcullis_replica_config_mismatches";
    let says = |server: &Server| server.get("/healthz").1.contains("other lifecycle settings");
    assert!(!says(&stage.servers[0]));
    let (due, secret) = stage.token(0).await;
    sink.wait_for(1);
    let noticed = Instant::now();
    stage.servers[1].restart_with(|setup| setup.flag("--deleted-retention", "1d"));
    stage.clients[1] = Client::operator(&stage.servers[1]).await;
    let (idle, _) = stage.token(0).await;
    for server in &stage.servers {
        until(|| server.metric(odds), |odds| *odds == Some(1)).await;
        until(|| says(server), |says| *says).await;
        assert!(server.log().contains("another replica has other lifecycle settings"));
    }
    // Due 18 s after its notice, and the other one announced 6 s after its creation, if anybody did that.
    assert!(noticed.elapsed() < Duration::from_secs(18), "the machine is too slow to tell");
    tokio::time::sleep(Duration::from_secs(24).saturating_sub(noticed.elapsed())).await;
    for at in 0..2 {
        assert_eq!(pending(&stage, at, &due.token_id).await, 1, "server {at}: it stays announced");
        assert_eq!(pending(&stage, at, &idle.token_id).await, 0, "server {at}");
        let answer = stage.try_dry(at, &secret).await;
        assert_eq!(answer.decision(), Decision::Allow, "server {at}: it was taken");
    }
    let mails = sink.everything();
    assert_eq!(mails.len(), 1, "{:?}", mails.iter().map(|mail| mail.text()).collect::<Vec<_>>());

    assert!(stage.servers[1].terminate().success());
    until(|| stage.servers[0].metric(odds), |odds| *odds == Some(0)).await;
    until(|| says(&stage.servers[0]), |says| !says).await;
    // The deletion, and the notice.
    let mails = sink.wait_for(3);
    for token in [&due, &idle] {
        assert!(mails[1..].iter().any(|mail| mail.text().contains(&token.token_id)));
    }
    stage.denies_unused(0, &secret).await;
    assert_eq!(pending(&stage, 0, &idle.token_id).await, 1);
}

/// Rules 4.16 and 11.3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_bound_the_lifetime_of_tokens_differently_say_so() {
    let mut stage = Stage::with(2, |_, setup| setup).await;
    let odds = "portcullis_replica_config_mismatches";
    let differ = async |stage: &Stage, wanted: i64| {
        for server in &stage.servers {
            until(|| server.metric(odds), |odds| *odds == Some(wanted)).await;
            let warns = |health: &String| health.contains("other lifecycle settings");
            until(|| server.get("/healthz").1, |health| warns(health) == (wanted > 0)).await;
        }
    };
    differ(&stage, 0).await;
    stage.servers[1].restart_with(|setup| setup.flag("--token-max-lifetime", "90d"));
    differ(&stage, 1).await;
    stage.servers[0].restart_with(|setup| setup.flag("--token-max-lifetime", "90d"));
    differ(&stage, 0).await;
}
