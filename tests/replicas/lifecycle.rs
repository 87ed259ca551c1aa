//! The lifecycle with several sweepers: nothing twice, no notice before all know, no rules at odds.

use std::time::{Duration, Instant};

use portcullis::grpc::proto::{GetTokenRequest, ListPendingActionsRequest};

use crate::stage::{LEASE, PATIENCE, Stage, until};
use crate::support::server::Setup;
use crate::support::smtp::Sink;

/// Told after 6 s, gone after 18.
const WINDOW: &str = "18s";
const NOTICE: &str = "12s";

fn quick(setup: Setup, sink: &Sink) -> Setup {
    setup
        .flag("--lifecycle-window", WINDOW)
        .flag("--lifecycle-notice", NOTICE)
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
        let ask = portcullis::grpc::proto::AuthorizeRequest {
            dry_run: true,
            ..crate::support::client::question(&kept_secret, "192.0.2.1", "transactions.read")
        };
        stage.clients[at].authorization().authorize(ask).await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_at_odds_take_nothing_and_say_so() {
    let sink = Sink::start();
    let mut stage = Stage::with(2, |at, setup| {
        let setup = quick(setup, &sink);
        if at == 1 { setup.flag("--deleted-retention", "1d") } else { setup }
    })
    .await;
    let (token, _) = stage.token(0).await;
    for server in &stage.servers {
        until(|| server.metric("portcullis_replicas_at_odds"), |odds| *odds == Some(1)).await;
        assert!(server.get("/healthz").1.contains("other lifecycle settings"));
        assert!(server.log().contains("another replica has other lifecycle settings"));
    }
    // Announced after six seconds, if anybody did.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let get = GetTokenRequest { token_id: token.token_id.clone() };
    let got = stage.clients[0].tokens().get_token(get).await.unwrap().into_inner();
    assert_eq!(got.token.unwrap().pending_actions.len(), 0);
    assert!(stage.servers[1].terminate().success());
    sink.wait_for(1);
    assert_eq!(stage.servers[0].metric("portcullis_replicas_at_odds"), Some(0));
}
