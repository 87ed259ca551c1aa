//! The outbox by itself: when it looks for mails, whose a mail is while it is sent, and how fast it goes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use portcullis::cache::Cache;
use portcullis::clock::Stopwatch;
use portcullis::policy::token::TokenKind::ReadOnly;
use portcullis::replication::{RegisteredReplica, Replicas};
use portcullis::store::replication::ReplicaInfo;
use portcullis::telemetry::Metrics;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::story::{ANN, BOB, Story, Token, on_both};
use crate::lifecycle::world::{DAY, Place};
use crate::support::smtp::Step;

on_both!(a_mail_that_is_queued_wakes_the_outbox, a_mail_is_nobody_elses_while_it_is_sent);

/// It sleeps for a second when nothing is due: eight mails one after the other would take as many.
async fn a_mail_that_is_queued_wakes_the_outbox(mut s: Story) {
    const RATE: u32 = 10_000;
    let token = s.token("idle", ReadOnly, &[]).await;
    let stop = CancellationToken::new();
    let watch = Stopwatch::start();
    let sent = async |count| {
        while s.sink.messages().len() < count
            || s.world.store.mail_state().await.unwrap().waiting > 0
        {
            tokio::task::yield_now().await;
        }
        count + 2
    };
    tokio::join!(s.world.outbox.run(RATE, stop.clone()), async {
        let mut count = 2;
        for admins in [&[ANN][..], &[ANN, BOB], &[BOB], &[BOB, ANN], &[ANN], &[ANN, BOB]] {
            s.admins(admins).await;
            count = sent(count).await;
        }
        // The notices, and the mails of the end.
        for days in [38, 7] {
            s.world.clock.advance(DAY * days);
            s.world.sweep().await;
            count = sent(count).await;
        }
        stop.cancel();
    });
    assert!(watch.elapsed() < Duration::from_secs(4), "{:?}", watch.elapsed());
    assert_eq!(s.state(&token).await, "deleted unused on day 45");
}

/// The claim is short, so that a crash holds a mail back for no longer; and it is prolonged, so that a
/// slow relay has all the time that it takes.
async fn a_mail_is_nobody_elses_while_it_is_sent(mut s: Story) {
    const CLAIM: Duration = Duration::from_secs(3);
    const STEP: Duration = Duration::from_millis(500);
    s.world.outbox.claim = CLAIM;
    s.admins(&[ANN]).await;
    s.world.deliver().await;
    s.token("idle", ReadOnly, &[]).await;
    s.sleep_until(38);
    s.world.sweep().await;
    let told = s.sink.messages().len();
    let claim = async || {
        let mut mails = s.world.store.claim_mails(s.world.now(), CLAIM, i64::MAX, 1).await.unwrap();
        mails.pop()
    };
    s.sink.at(Step::Content).times(1).stalls();
    {
        let mut sending = pin!(s.world.outbox.send_one());
        for _ in 0..10 {
            let sent = tokio::time::timeout(STEP, &mut sending).await;
            assert!(sent.is_err(), "{sent:?}");
            s.world.clock.advance(STEP);
            tokio::select! {
                sent = &mut sending => panic!("{sent:?}"),
                claimed = claim() => assert_eq!(claimed, None),
            }
        }
        // Nothing ends as a kill does: no word to the store.
    }
    s.world.clock.advance(CLAIM);
    s.world.deliver().await;
    let mails = s.sink.everything();
    let ids: Vec<_> = mails[told..].iter().map(|mail| mail.header("Message-ID")).collect();
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
    assert_eq!(s.sink.messages().len(), told + 1);
}

/// However many wait, no more are sent than the rate allows, the longest waiting first.
#[tokio::test]
async fn mails_are_sent_at_their_rate_oldest_first() {
    const RATE: u32 = 4;
    let mut s = Story::new(Place::sqlite()).await;
    let first = s.token("first", ReadOnly, &[]).await;
    s.sleep_until(1);
    let second = s.token("second", ReadOnly, &[]).await;
    for day in [38, 39] {
        s.sleep_until(day);
        s.world.sweep().await;
    }
    let stop = CancellationToken::new();
    let watch = Stopwatch::start();
    let (_, mails) = tokio::join!(s.world.outbox.run(RATE, stop.clone()), async {
        while s.sink.messages().len() < 4 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        s.sink.messages()
    });
    assert!(watch.elapsed() >= Duration::from_secs(1) / RATE * 3, "{:?}", watch.elapsed());
    let about = |token: &Token| {
        mails.iter().filter(|mail| mail.text().contains(&token.held.id.to_string())).count()
    };
    assert_eq!((about(&first), about(&second)), (2, 2));
    assert!(mails[..2].iter().all(|mail| mail.text().contains(&first.held.id.to_string())));
}

/// A replica of the same store, with these rules of the lifecycle.
async fn join(s: &Story, lifecycle: &str, cache: Arc<Cache>) -> (Replicas, CancellationToken) {
    let about = ReplicaInfo {
        name: lifecycle.to_owned(),
        version: String::new(),
        lifecycle: lifecycle.to_owned(),
    };
    let stop = CancellationToken::new();
    let metrics = Arc::new(Metrics::new());
    let lease = Duration::from_secs(60);
    let joined =
        RegisteredReplica::register(&*s.world.store, lease, about, metrics, stop.clone()).await;
    (joined.unwrap().serve(cache, &stop), stop)
}

/// Rule 4.16: the dates in a mail would be those of one replica alone.
#[tokio::test]
async fn no_mail_is_sent_while_replicas_have_other_rules() {
    let mut s = Story::new(Place::postgres()).await;
    let (ours, _running) = join(&s, "ours", s.world.services.parts.cache.clone()).await;
    s.world.outbox.replicas = Arc::new(ours);
    s.admins(&[ANN]).await;
    let cache = Cache::load(
        s.world.store.clone(),
        100,
        s.world.outbox.metrics.clone(),
        tokio::runtime::Handle::current(),
    );
    let (other, stop) = join(&s, "others", Arc::new(cache.await.unwrap())).await;
    for _ in 0..3 {
        assert_eq!(s.world.outbox.send_one().await.unwrap(), None);
    }
    assert_eq!(s.sink.connections(), 0);
    assert_eq!(s.world.store.mail_state().await.unwrap().waiting, 2);
    stop.cancel();
    other.leave().await;
    s.world.deliver().await;
    assert_eq!(s.sink.messages().len(), 2);
    assert_eq!(s.world.store.mail_state().await.unwrap().waiting, 0);
}
