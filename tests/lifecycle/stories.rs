//! Whole lives of tokens, day by day. The window is 45 days and the notice period 7 where a story
//! says nothing else: what falls idle is noticed on day 38 and taken on day 45.

use portcullis::policy::decide::Reason;
use portcullis::policy::lifecycle::{Mode, Settings};
use portcullis::policy::token::TokenKind::{Custom, ReadOnly, ReadWrite};

use crate::lifecycle::story::{ANN, BALANCE, BOB, READ, REVEAL, SEND, Story, on_both};
use crate::lifecycle::world::{DAY, THERE, World};
use crate::support::smtp::Step;

on_both!(
    a_read_only_token,
    a_read_write_token,
    a_custom_token,
    a_read_write_token_that_only_reads,
    a_custom_token_that_drops_its_scopes_one_by_one,
    an_unused_custom_token_gets_one_notice,
    admins_join_leave_and_come_back,
    an_address_is_refused_and_mended,
    one_recipients_trouble_holds_up_nobody_else,
    the_mail_server_is_down_for_a_month,
    the_sweeper_is_stopped_for_a_month,
    observing_and_enforcing_in_turn,
    another_window,
    denials_and_dry_runs_keep_nothing,
    a_downgrade_that_waits_beside_a_deletion,
    a_crash_between_any_two_steps,
);

async fn a_read_only_token(mut s: Story) {
    let token = s.token("reports", ReadOnly, &[]).await;
    s.live_until(37).await;
    assert_eq!(s.state(&token).await, "READ_ONLY");
    assert_eq!(s.warning(&token).await, "none");
    s.live_until(38).await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 45");
    assert_eq!(s.warning(&token).await, "deletion on day 45");

    // Cancelled by a use, and noticed again.
    s.live_until(44).await;
    s.uses(&token, READ).await;
    assert_eq!(s.state(&token).await, "READ_ONLY");
    assert_eq!(s.warning(&token).await, "none");
    s.live_until(81).await;
    assert_eq!(s.state(&token).await, "READ_ONLY");
    s.live_until(82).await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 89");
    s.live_until(88).await;
    assert_eq!(s.would(&token, READ).await, Reason::Allowed);
    s.live_until(89).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 89");
    assert_eq!(s.would(&token, READ).await, Reason::TokenDeletedUnused);

    // Forgotten.
    s.live_until(89 + 90).await;
    assert_eq!(s.would(&token, READ).await, Reason::TokenDeletedUnused);
    s.live_until(89 + 91).await;
    assert_eq!(s.state(&token).await, "unknown");
    assert_eq!(s.would(&token, READ).await, Reason::TokenNotFound);
    insta::assert_snapshot!("a_read_only_token", s.mails());
}

async fn a_read_write_token(mut s: Story) {
    let token = s.token("payroll", ReadWrite, &[]).await;
    s.live_using(&token, READ, 38).await;
    let noticed = "READ_WRITE; loses send.request cards.reveal on day 45";
    assert_eq!(s.state(&token).await, noticed);
    s.uses(&token, READ).await;
    assert_eq!(s.state(&token).await, noticed, "reading keeps no writes");
    s.uses(&token, SEND).await;
    assert_eq!(s.state(&token).await, "READ_WRITE", "one write keeps them all");

    // Noticed again 38 days later, and downgraded.
    s.live_using(&token, READ, 76).await;
    assert_eq!(s.warning(&token).await, "downgrade on day 83");
    s.live_using(&token, READ, 83).await;
    assert_eq!(s.state(&token).await, "READ_ONLY since day 83");
    assert_eq!(s.would(&token, READ).await, Reason::Allowed);
    assert_eq!(s.would(&token, SEND).await, Reason::ScopeLostInDowngrade);
    assert_eq!(s.would(&token, REVEAL).await, Reason::ScopeLostInDowngrade);
    let (decided, _) = s.world.ask(&token.held, READ, THERE, true).await.unwrap();
    assert_eq!(decided, Reason::ClientIpNotWhitelisted, "it keeps its whitelist");

    // Its last use was on day 82.
    s.live_until(82 + 38).await;
    assert_eq!(s.state(&token).await, "READ_ONLY since day 83; deletion on day 127");
    s.live_until(127).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 127");
    s.live_until(127 + 91).await;
    assert_eq!(s.would(&token, READ).await, Reason::TokenNotFound);
    insta::assert_snapshot!("a_read_write_token", s.mails());
}

async fn a_custom_token(mut s: Story) {
    let token = s.token("sync", Custom, &[READ, SEND]).await;
    s.live_using(&token, READ, 38).await;
    let both = "CUSTOM transactions.read send.request";
    assert_eq!(s.state(&token).await, format!("{both}; loses send.request on day 45"));
    s.uses(&token, SEND).await;
    assert_eq!(s.state(&token).await, both);
    s.live_using(&token, READ, 76).await;
    assert_eq!(s.state(&token).await, format!("{both}; loses send.request on day 83"));
    s.live_using(&token, READ, 83).await;
    assert_eq!(s.state(&token).await, "CUSTOM transactions.read");
    assert_eq!(s.would(&token, SEND).await, Reason::ScopeLostInDowngrade);
    assert_eq!(s.would(&token, BALANCE).await, Reason::ScopeNotGranted);
    s.live_until(82 + 45).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 127");
    s.live_until(127 + 91).await;
    assert_eq!(s.would(&token, READ).await, Reason::TokenNotFound);
    insta::assert_snapshot!("a_custom_token", s.mails());
}

async fn a_read_write_token_that_only_reads(mut s: Story) {
    let token = s.token("reader", ReadWrite, &[]).await;
    s.live_using(&token, READ, 45).await;
    assert_eq!(s.state(&token).await, "READ_ONLY since day 45");
    // It is used, so nothing more becomes of it.
    s.live_using(&token, READ, 200).await;
    assert_eq!(s.state(&token).await, "READ_ONLY since day 45");
    insta::assert_snapshot!("a_read_write_token_that_only_reads", s.mails());
}

async fn a_custom_token_that_drops_its_scopes_one_by_one(mut s: Story) {
    let token = s.token("dropper", Custom, &[READ, BALANCE, SEND, REVEAL]).await;
    s.sleep_until(5);
    s.uses(&token, SEND).await;
    s.sleep_until(10);
    s.uses(&token, BALANCE).await;
    s.live_using(&token, READ, 38).await;
    let all = "CUSTOM transactions.read accounts.read send.request cards.reveal";
    assert_eq!(s.state(&token).await, format!("{all}; loses cards.reveal on day 45"));
    s.live_using(&token, READ, 43).await;
    // What falls idle later gets a notice of its own.
    let two = "; loses cards.reveal on day 45; loses send.request on day 50";
    assert_eq!(s.state(&token).await, format!("{all}{two}"));
    assert_eq!(s.warning(&token).await, "downgrade on day 45");
    s.live_using(&token, READ, 45).await;
    let three = "CUSTOM transactions.read accounts.read send.request";
    assert_eq!(s.state(&token).await, format!("{three}; loses send.request on day 50"));
    assert_eq!(s.would(&token, SEND).await, Reason::Allowed, "not named in the first notice");
    s.live_using(&token, READ, 50).await;
    let last = "CUSTOM transactions.read accounts.read; loses accounts.read on day 55";
    assert_eq!(s.state(&token).await, last);
    s.live_using(&token, READ, 55).await;
    assert_eq!(s.state(&token).await, "CUSTOM transactions.read");
    for (scope, reason) in [
        (READ, Reason::Allowed),
        (BALANCE, Reason::ScopeLostInDowngrade),
        (SEND, Reason::ScopeLostInDowngrade),
        (REVEAL, Reason::ScopeLostInDowngrade),
    ] {
        assert_eq!(s.would(&token, scope).await, reason, "{scope}");
    }
    insta::assert_snapshot!("a_custom_token_that_drops_its_scopes_one_by_one", s.mails());
}

async fn an_unused_custom_token_gets_one_notice(mut s: Story) {
    let token = s.token("forgotten", Custom, &[READ, SEND]).await;
    s.live_until(44).await;
    let scopes = "CUSTOM transactions.read send.request";
    assert_eq!(s.state(&token).await, format!("{scopes}; deletion on day 45"));
    assert_eq!(s.sink.messages().len(), 2, "one for each admin");

    // Cancelled by the use of one scope: the other one has its whole notice period from now.
    s.uses(&token, READ).await;
    s.round().await;
    assert_eq!(s.state(&token).await, format!("{scopes}; loses send.request on day 51"));
    s.live_until(51).await;
    assert_eq!(s.state(&token).await, "CUSTOM transactions.read");
    s.live_until(44 + 45).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 89");
    insta::assert_snapshot!("an_unused_custom_token_gets_one_notice", s.mails());
}

async fn admins_join_leave_and_come_back(mut s: Story) {
    let token = s.token("shared", ReadOnly, &[]).await;
    s.live_until(40).await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 45");
    s.sleep_until(42);
    s.admins(&[ANN, BOB, "cy@acme.example"]).await;
    let held = "READ_ONLY; deletion, held, cy@acme.example not told";
    assert_eq!(s.state(&token).await, held);
    s.live_until(43).await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 50", "who joins delays it");
    s.live_until(45).await;
    // Who leaves waits for nothing.
    s.admins(&[ANN, BOB]).await;
    s.round().await;
    assert_eq!(s.state(&token).await, "deleted unused on day 45");

    let token = s.token("other", ReadOnly, &[]).await;
    s.live_until(45 + 38).await;
    s.live_until(85).await;
    // Cy was told of the first token, not of this one. Bob was.
    s.admins(&["cy@acme.example", ANN]).await;
    s.round().await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 92");
    s.live_until(86).await;
    s.admins(&[ANN, BOB]).await;
    s.round().await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 90", "Bob was told on day 83");
    s.admins(&[ANN, "cy@acme.example"]).await;
    s.round().await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 92", "Cy was told on day 85");
    s.live_until(91).await;
    assert_eq!(s.would(&token, READ).await, Reason::Allowed);
    s.live_until(92).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 92");
    insta::assert_snapshot!("admins_join_leave_and_come_back", s.mails());
}

async fn an_address_is_refused_and_mended(mut s: Story) {
    let token = s.token("held", ReadOnly, &[]).await;
    s.sink.at(Step::Rcpt).to(BOB).says("550 5.1.1 no such user");
    s.live_until(60).await;
    let refused = "READ_ONLY; deletion, held, bob@acme.example refused: 550 5.1.1 no such user";
    assert_eq!(s.state(&token).await, refused);
    let failing = s.world.store.mail_state().await.unwrap().failing;
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0].address, BOB);
    assert_eq!(failing[0].since, crate::lifecycle::world::START.plus(DAY * 38));
    let tried = s.sink.commands().iter().filter(|said| said.starts_with("RCPT TO:<bob@")).count();
    assert_eq!(tried, 23, "once a day since day 38");

    s.sink.behave();
    s.live_until(61).await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 68");
    assert!(s.world.store.mail_state().await.unwrap().failing.is_empty());
    s.live_until(67).await;
    assert_eq!(s.would(&token, READ).await, Reason::Allowed);
    s.live_until(68).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 68");
    insta::assert_snapshot!("an_address_is_refused_and_mended", s.mails());
}

/// Whatever the relay says to Bob's mails, Ann gets hers, and operators see whose trouble it is (rule 4.12).
async fn one_recipients_trouble_holds_up_nobody_else(mut s: Story) {
    for (day, step, answer) in [
        (0, Step::Content, "554 5.7.1 message refused by policy (to the message)"),
        (38, Step::Rcpt, "452 4.2.2 mailbox full"),
        (76, Step::Data, "421 4.3.2 going down (to DATA)"),
    ] {
        s.sink.behave();
        s.sink.at(step).to(BOB).says(answer.split(" (").next().unwrap());
        let token = s.token("held", ReadOnly, &[]).await;
        s.live_until(day + 38).await;
        let held = format!("READ_ONLY; deletion, held, bob@acme.example refused: {answer}");
        assert_eq!(s.state(&token).await, held);
        let state = s.world.store.mail_state().await.unwrap();
        assert_eq!(state.waiting, 0, "{state:?}");
        assert!(state.failing.iter().any(|failing| failing.address == BOB), "{state:?}");
        s.world.delete(&World::caller(), token.held.id).await;
    }
}

async fn the_mail_server_is_down_for_a_month(mut s: Story) {
    let unused = s.token("unused", ReadOnly, &[]).await;
    let kept = s.token("kept", ReadOnly, &[]).await;
    s.sink.at(Step::Greeting).says("421 4.3.2 down");
    s.live_until(70).await;
    let held = "READ_ONLY; deletion, held, ann@acme.example not told, bob@acme.example not told";
    assert_eq!(s.state(&unused).await, held);
    // It could not be taken before seven days from now.
    assert_eq!(s.warning(&unused).await, "deletion on day 77");
    s.uses(&kept, READ).await;
    s.sink.behave();
    s.live_until(71).await;
    assert_eq!(s.state(&unused).await, "READ_ONLY; deletion on day 78");
    assert_eq!(s.state(&kept).await, "READ_ONLY");
    s.live_until(77).await;
    assert_eq!(s.would(&unused, READ).await, Reason::Allowed);
    s.live_until(78).await;
    assert_eq!(s.state(&unused).await, "deleted unused on day 78");
    // Nobody was told of a deletion that was cancelled before they could be.
    insta::assert_snapshot!("the_mail_server_is_down_for_a_month", s.mails());
}

/// Rule 4.14.
async fn the_sweeper_is_stopped_for_a_month(mut s: Story) {
    let never = s.token("never", ReadOnly, &[]).await;
    s.sleep_until(3);
    let noticed = s.token("noticed", ReadOnly, &[]).await;
    s.sleep_until(5);
    s.uses(&never, READ).await;
    s.live_until(41).await;
    assert_eq!(s.state(&noticed).await, "READ_ONLY; deletion on day 48");
    // Stopped: nothing is due by itself.
    s.sleep_until(71);
    assert_eq!(s.would(&noticed, READ).await, Reason::Allowed);
    s.round().await;
    assert_eq!(s.state(&noticed).await, "deleted unused on day 71");
    assert_eq!(s.state(&never).await, "READ_ONLY; deletion on day 78", "a whole notice period");
    s.live_until(78).await;
    assert_eq!(s.state(&never).await, "deleted unused on day 78");
    insta::assert_snapshot!("the_sweeper_is_stopped_for_a_month", s.mails());
}

async fn observing_and_enforcing_in_turn(mut s: Story) {
    let observe = Settings::new(Mode::Observe, DAY * 45, DAY * 7).unwrap();
    let enforce = Settings::default();
    let token = s.token("watched", ReadOnly, &[]).await;
    s.world.restart(observe).await;
    s.live_until(50).await;
    assert_eq!(s.state(&token).await, "READ_ONLY");
    assert_eq!(s.warning(&token).await, "none");
    assert_eq!(s.mails(), "");

    s.world.restart(enforce).await;
    s.world.sweep().await;
    // Back before anything was mailed: nothing is mailed any more.
    s.world.restart(observe).await;
    s.deliver().await;
    assert_eq!(s.mails(), "", "an observer mails nothing");
    s.round().await;
    assert_eq!(s.state(&token).await, "READ_ONLY");

    s.world.restart(enforce).await;
    s.round().await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 57");
    s.live_until(55).await;
    s.world.restart(observe).await;
    assert_eq!(s.warning(&token).await, "none", "nothing will be taken");
    s.live_until(60).await;
    assert_eq!(s.state(&token).await, "READ_ONLY", "withdrawn");
    s.world.restart(enforce).await;
    s.live_until(61).await;
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 68", "notices start anew");
    s.live_until(67).await;
    assert_eq!(s.would(&token, READ).await, Reason::Allowed);
    s.live_until(68).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 68");
    insta::assert_snapshot!("observing_and_enforcing_in_turn", s.mails());
}

async fn another_window(mut s: Story) {
    let token = s.token("moved", ReadOnly, &[]).await;
    s.live_until(40).await;
    assert_eq!(s.warning(&token).await, "deletion on day 45");
    // Longer: what is announced waits for the new date, whatever was mailed.
    let longer = Settings::new(Mode::Enforce, DAY * 60, DAY * 7).unwrap();
    s.world.restart(longer).await;
    assert_eq!(s.warning(&token).await, "deletion on day 60");
    s.live_until(59).await;
    assert_eq!(s.would(&token, READ).await, Reason::Allowed);
    // A longer notice period binds what is announced too.
    let patient = Settings::new(Mode::Enforce, DAY * 60, DAY * 30).unwrap();
    s.world.restart(patient).await;
    assert_eq!(s.warning(&token).await, "deletion on day 68");
    s.live_until(67).await;
    assert_eq!(s.would(&token, READ).await, Reason::Allowed);
    // Shorter: never before the notice is as old as it has to be.
    let other = s.token("other", ReadOnly, &[]).await;
    let shorter = Settings::new(Mode::Enforce, DAY * 10, DAY * 3).unwrap();
    s.world.restart(shorter).await;
    s.round().await;
    assert_eq!(s.state(&token).await, "deleted unused on day 67");
    s.live_until(74).await;
    assert_eq!(s.state(&other).await, "READ_ONLY; deletion on day 77");
    s.live_until(77).await;
    assert_eq!(s.state(&other).await, "deleted unused on day 77");
}

/// Rule 1.12.
async fn denials_and_dry_runs_keep_nothing(mut s: Story) {
    let token = s.token("stolen", ReadOnly, &[]).await;
    for day in 0..45 {
        s.live_until(day).await;
        let (decided, _) = s.world.ask(&token.held, READ, THERE, false).await.unwrap();
        assert_eq!(decided, Reason::ClientIpNotWhitelisted);
        assert_eq!(s.try_use(&token, SEND).await.unwrap(), Reason::ScopeNotGranted);
        assert_eq!(s.would(&token, READ).await, Reason::Allowed);
    }
    assert_eq!(s.state(&token).await, "READ_ONLY; deletion on day 45");
    s.live_until(45).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 45");
    assert_eq!(s.try_use(&token, READ).await.unwrap(), Reason::TokenDeletedUnused);
}

async fn a_downgrade_that_waits_beside_a_deletion(mut s: Story) {
    let token = s.token("both", ReadWrite, &[]).await;
    s.sink.at(Step::Rcpt).to(BOB).says("550 5.1.1 no such user");
    s.live_using(&token, READ, 40).await;
    s.live_until(77).await;
    let both = "READ_WRITE; loses send.request cards.reveal, held, bob@acme.example refused: \
                550 5.1.1 no such user; deletion, held, bob@acme.example refused: 550 5.1.1 no \
                such user";
    assert_eq!(s.state(&token).await, both);
    s.admins(&[ANN]).await;
    s.round().await;
    // Ann was told of the downgrade long ago, and of the deletion today.
    assert_eq!(s.state(&token).await, "READ_ONLY since day 77; deletion on day 84");
    s.live_until(84).await;
    assert_eq!(s.state(&token).await, "deleted unused on day 84");
    insta::assert_snapshot!("a_downgrade_that_waits_beside_a_deletion", s.mails());
}

async fn a_crash_between_any_two_steps(mut s: Story) {
    let settings = Settings::default();
    let token = s.token("tough", ReadWrite, &[]).await;
    for day in 1..=37 {
        s.sleep_until(day);
        s.uses(&token, READ).await;
        s.world.services.parts.usage.flush().await.unwrap();
        s.world.crash(settings).await;
        s.world.sweep().await;
        s.world.crash(settings).await;
        s.deliver().await;
    }
    s.sleep_until(38);
    // Not flushed yet, and it cancels nothing: a crash may lose it.
    s.uses(&token, READ).await;
    s.world.crash(settings).await;
    s.world.sweep().await;
    s.world.crash(settings).await;
    s.deliver().await;
    let noticed = "READ_WRITE; loses send.request cards.reveal on day 45";
    assert_eq!(s.state(&token).await, noticed);
    // It cancels, so no crash loses it.
    s.uses(&token, SEND).await;
    s.world.crash(settings).await;
    assert_eq!(s.state(&token).await, "READ_WRITE");
    for day in 39..=83 {
        s.sleep_until(day);
        s.world.crash(settings).await;
        s.world.sweep().await;
        s.world.crash(settings).await;
        s.deliver().await;
    }
    // Last used on day 38, and noticed of that on day 76.
    assert_eq!(s.state(&token).await, "deleted unused on day 83");
    assert_eq!(s.sink.messages().len(), 2 + 2 + 2, "each mail once");
}
