//! Mails about the expiry of tokens: in each mode of the lifecycle, without a mail server, and after a crash.

use std::pin::pin;
use std::time::Duration;

use portcullis::policy::decide::Reason;
use portcullis::policy::lifecycle::{Mode, Settings};
use portcullis::policy::token::{RequestedExpiry, TokenKind::ReadOnly};

use crate::lifecycle::story::{ANN, BOB, READ, Story, on_both};
use crate::lifecycle::world::{CLAIM, DAY, START, World};
use crate::support::smtp::Step;

on_both!(
    admins_are_mailed_a_notice_period_ahead_and_at_the_end,
    tokens_expire_with_mails_also_where_the_lifecycle_only_observes,
    a_token_expires_while_no_mail_is_taken,
    a_notice_that_waits_never_states_a_former_date,
    a_crash_while_a_notice_is_sent_sends_it_once_more,
);

/// The first lines of what was mailed since the last call: the day, the recipient and the subject.
fn headings(s: &mut Story) -> Vec<String> {
    let mails = s.mails();
    mails.lines().filter(|line| line.starts_with("=== ")).map(str::to_owned).collect()
}

/// Rule 11.7.
async fn admins_are_mailed_a_notice_period_ahead_and_at_the_end(mut s: Story) {
    let token = s.expiring("partner", 30).await;
    s.live_until(20).await;
    s.uses(&token, READ).await;
    s.live_until(22).await;
    assert_eq!(s.mails(), "");
    s.live_until(30).await;
    assert_eq!(s.would(&token, READ).await, Reason::TokenExpired);
    insta::assert_snapshot!("an_expiring_token", s.mails());
    // No notices of the lifecycle follow.
    s.live_until(100).await;
    assert_eq!(s.mails(), "");
}

/// Rule 11.7.
async fn tokens_expire_with_mails_also_where_the_lifecycle_only_observes(mut s: Story) {
    s.world.restart(Settings::new(Mode::Observe, DAY * 45, DAY * 7).unwrap()).await;
    s.expiring("partner", 50).await;
    s.token("idle", ReadOnly, &[]).await;
    s.live_until(42).await;
    assert_eq!(headings(&mut s), [""; 0]);
    s.live_until(60).await;
    assert_eq!(
        headings(&mut s),
        [
            "=== day 43 to ann@acme.example: [Portcullis] Token \"partner\" expires on 20 February 2027",
            "=== day 43 to bob@acme.example: [Portcullis] Token \"partner\" expires on 20 February 2027",
            "=== day 50 to ann@acme.example: [Portcullis] Token \"partner\" expired on 20 February 2027",
            "=== day 50 to bob@acme.example: [Portcullis] Token \"partner\" expired on 20 February 2027",
        ]
    );
}

/// Rule 11.9: in contrast to what the lifecycle announces, an expiry waits for no notice.
async fn a_token_expires_while_no_mail_is_taken(mut s: Story) {
    let token = s.expiring("partner", 30).await;
    let refused = "550 5.1.1 no such user";
    s.sink.at(Step::Rcpt).to(BOB).says(refused);
    s.live_until(29).await;
    assert_eq!(headings(&mut s).len(), 1, "Ann is mailed all the same");
    let failing = s.world.store.mail_state().await.unwrap().failing;
    assert_eq!((failing.len(), failing[0].failure.as_str()), (1, refused));
    s.uses(&token, READ).await;
    s.live_until(32).await;
    assert_eq!(s.would(&token, READ).await, Reason::TokenExpired);
    // Once it takes mail to Bob, he reads what happened, and not what was to come.
    s.sink.behave();
    s.live_until(34).await;
    let mails = headings(&mut s);
    assert_eq!(mails.len(), 2, "{mails:?}");
    assert!(mails.iter().all(|mail| mail.contains("expired on")), "{mails:?}");
}

/// Rule 11.8.
async fn a_notice_that_waits_never_states_a_former_date(mut s: Story) {
    let token = s.expiring("partner", 30).await;
    s.sleep_until(24);
    s.world.sweep().await;
    assert_eq!(s.world.store.mail_state().await.unwrap().waiting, 2);
    let nearer = RequestedExpiry::At(START.plus(DAY * 28));
    let id = token.held.id.to_string();
    let set = s.world.services.set_token_expiry(&World::caller(), &id, Some(nearer), true).await;
    set.unwrap();
    s.deliver().await;
    assert_eq!(headings(&mut s), [""; 0]);
    s.round().await;
    let mails = headings(&mut s);
    assert_eq!(mails.len(), 2);
    assert!(mails.iter().all(|mail| mail.ends_with("expires on 29 January 2027")), "{mails:?}");
    // Nor is an expiry announced that was reached before the next sweep.
    let late = s.expiring("late", 30).await;
    s.world.sweep().await;
    s.sleep_until(31);
    s.deliver().await;
    assert_eq!(headings(&mut s), [""; 0]);
    assert_eq!(s.would(&late, READ).await, Reason::TokenExpired);
    s.round().await;
    let mails = headings(&mut s);
    assert_eq!(mails.iter().filter(|mail| mail.contains("expired on")).count(), 4, "{mails:?}");
    assert_eq!(mails.len(), 4);
}

/// Rules 5.4 and 11.9.
async fn a_crash_while_a_notice_is_sent_sends_it_once_more(mut s: Story) {
    s.admins(&[ANN]).await;
    s.world.deliver().await;
    let before = s.sink.everything().len();
    s.expiring("partner", 5).await;
    s.world.sweep().await;
    s.sink.at(Step::Content).times(1).stalls();
    {
        let mut sending = pin!(s.world.outbox.send_one());
        let received = async {
            while s.sink.everything().len() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            sent = &mut sending => panic!("{sent:?}"),
            () = received => {}
        }
        // Nothing ends as a kill does: no word to the store.
    }
    s.world.crash(Settings::default()).await;
    s.world.sweep().await;
    s.world.deliver().await;
    assert_eq!(s.sink.everything().len(), before + 1, "it is claimed");
    s.world.clock.advance(CLAIM);
    s.world.deliver().await;
    let mails = s.sink.everything();
    let ids: Vec<_> = mails[before..].iter().map(|mail| mail.header("Message-ID")).collect();
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
    s.world.sweep().await;
    s.world.deliver().await;
    assert_eq!(s.sink.everything().len(), before + 2);
}
