//! Relays that refuse, stall, hang up, talk nonsense, or repeat our password.

use std::time::Duration;

use portcullis::mail::{Limits, Outcome};

use super::{fault, hasty, message, of_message, relay, relay_with};
use crate::support::smtp::{Sink, Step};

const EVERY_STEP: [Step; 7] =
    [Step::Greeting, Step::Ehlo, Step::Auth, Step::Mail, Step::Rcpt, Step::Data, Step::Content];

fn with_login(sink: &Sink) -> String {
    sink.offer(&["AUTH PLAIN LOGIN"]);
    sink.url().replace("://", "://user:hunter2@")
}

#[tokio::test]
async fn a_code_is_an_answer_without_a_text() {
    let sink = Sink::start();
    let relay = relay(&sink.url());
    for (step, answer) in [(Step::Mail, "250"), (Step::Content, "250")] {
        sink.at(step).says(answer);
    }
    sink.at(Step::Rcpt).to("bob@acme.example").says("550");
    let refused = relay.send(&message("bob@acme.example")).await;
    assert_eq!(refused, Outcome::RecipientRefused("550".to_owned()));
    assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
}

#[tokio::test]
async fn a_recipient_that_is_refused_for_good_is_the_only_refusal() {
    let sink = Sink::start();
    let relay = relay(&sink.url());
    sink.at(Step::Rcpt).to("bob@acme.example").says("550 5.1.1 no such user");
    let refused = relay.send(&message("bob@acme.example")).await;
    assert_eq!(refused, Outcome::RecipientRefused("550 5.1.1 no such user".to_owned()));
    // The connection is as good as before.
    assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
    assert_eq!(sink.connections(), 1);
    let asked = sink.commands();
    assert_eq!(asked.iter().filter(|command| *command == "DATA").count(), 1);
}

/// Before the relay has taken MAIL, nothing is known of the recipient.
const OF_THE_RELAY: [Step; 4] = [Step::Greeting, Step::Ehlo, Step::Auth, Step::Mail];
/// After that, what goes wrong may be due to the recipient or the message.
const OF_THE_MESSAGE: [Step; 3] = [Step::Rcpt, Step::Data, Step::Content];

#[tokio::test]
async fn what_fails_before_a_recipient_is_named_is_a_fault_and_passes() {
    for step in OF_THE_RELAY {
        for answer in ["421 4.3.0 later", "450 4.2.1 busy", "550 5.7.1 no", "530 5.7.0 who?"] {
            let sink = Sink::start();
            let relay = relay(&with_login(&sink));
            sink.at(step).times(1).says(answer);
            let text = fault(relay.send(&message("ann@acme.example")).await);
            assert!(text.starts_with(&sink.address().to_string()), "{step:?}: {text}");
            assert!(text.ends_with(answer), "{step:?}: {text}");
            assert_eq!(sink.messages().len(), 0);
            let outcome = relay.send(&message("ann@acme.example")).await;
            assert!(outcome.is_accepted(), "{step:?} {answer}");
        }
    }
}

#[tokio::test]
async fn what_fails_after_that_concerns_one_message() {
    for step in OF_THE_MESSAGE {
        for answer in [
            "421 4.3.0 later",
            "450 4.2.1 busy",
            "452 4.2.2 mailbox full",
            "552 5.3.4 too big",
            "553 5.1.3 no such syntax",
            "554 5.7.1 no",
        ] {
            let sink = Sink::start();
            let relay = relay(&with_login(&sink));
            sink.at(step).to("bob@acme.example").says(answer);
            let outcome = relay.send(&message("bob@acme.example")).await;
            let as_expected = match (step, answer.starts_with('5')) {
                (Step::Rcpt, true) => matches!(outcome, Outcome::RecipientRefused(_)),
                (_, true) => matches!(outcome, Outcome::MessageRefused(_)),
                (_, false) => matches!(outcome, Outcome::Postponed(_)),
            };
            assert!(as_expected, "{step:?} {answer}: {outcome:?}");
            let text = of_message(outcome);
            assert!(text.starts_with(answer), "{step:?}: {text}");
            // Account admins read it too: where the relay is, is not for them.
            assert!(!text.contains("127.0.0.1"), "{step:?}: {text}");
            let others = relay.send(&message("ann@acme.example")).await;
            assert!(others.is_accepted(), "{step:?} {answer}");
            let taken: Vec<_> = sink.messages().into_iter().flat_map(|mail| mail.to).collect();
            assert_eq!(taken, ["ann@acme.example"], "{step:?} {answer}");
        }
    }
}

/// A relay that wants a login wants it whoever the recipient is (RFC 4954, section 6).
#[tokio::test]
async fn a_login_asked_for_late_is_a_fault() {
    for step in OF_THE_MESSAGE {
        for answer in ["530 5.7.0 who?", "535 5.7.8 not you", "538 5.7.11 not like that"] {
            let sink = Sink::start();
            let relay = relay(&sink.url());
            sink.at(step).times(1).says(answer);
            let text = fault(relay.send(&message("ann@acme.example")).await);
            assert!(text.ends_with(answer), "{step:?}: {text}");
        }
    }
}

/// MAIL asks for SMTPUTF8 on behalf of one recipient.
#[tokio::test]
async fn mail_that_is_refused_for_an_address_beyond_ascii_concerns_that_message() {
    for (answer, for_good) in [("555 5.5.4 no such parameter", true), ("452 4.3.1 later", false)] {
        let sink = Sink::start();
        let relay = relay(&sink.url());
        sink.at(Step::Mail).times(1).says(answer);
        let outcome = relay.send(&message("zo\u{eb}@acme.example")).await;
        assert_eq!(matches!(outcome, Outcome::MessageRefused(_)), for_good, "{outcome:?}");
        assert!(of_message(outcome).starts_with(answer));
        assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
        assert_eq!(sink.connections(), 1);
    }
}

#[tokio::test]
async fn a_relay_that_stalls_is_given_up() {
    let stall = async |step| {
        let sink = Sink::start();
        let relay = relay_with(&with_login(&sink), None, hasty());
        sink.at(step).times(1).stalls();
        let outcome = relay.send(&message("ann@acme.example")).await;
        let text = if OF_THE_RELAY.contains(&step) { fault(outcome) } else { of_message(outcome) };
        assert!(text.contains("within 1s"), "{step:?}: {text}");
        // Nothing of it is kept.
        sink.wait_for_open(0);
        assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
    };
    futures_util::future::join_all(EVERY_STEP.map(stall)).await;
}

#[tokio::test]
async fn a_relay_that_hangs_up_has_not_accepted() {
    for step in EVERY_STEP {
        let sink = Sink::start();
        let relay = relay(&with_login(&sink));
        sink.at(step).times(1).hangs_up();
        let outcome = relay.send(&message("ann@acme.example")).await;
        let text = if OF_THE_RELAY.contains(&step) { fault(outcome) } else { of_message(outcome) };
        assert!(text.contains("hung up") || text.contains("failed at"), "{step:?}: {text}");
        assert_eq!(sink.messages().len(), 0);
        // Whether it got the message is known to nobody: the next attempt is the same message.
        assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
        let everything = sink.everything();
        assert_eq!(everything.len(), if step == Step::Content { 2 } else { 1 });
        assert_eq!(everything[0].bytes, everything.last().unwrap().bytes);
    }
}

#[tokio::test]
async fn answers_that_are_none_are_no_acceptance() {
    let endless = format!("250 {}", "x".repeat(10_000));
    let many = format!("{}250 ok", "250-more\r\n".repeat(20_000));
    for (step, answer) in [
        (Step::Greeting, "SSH-2.0-OpenSSH"),
        (Step::Ehlo, "nonsense"),
        (Step::Mail, ""),
        (Step::Mail, "354 go ahead"),
        (Step::Rcpt, "354 go ahead"),
        (Step::Rcpt, "999 what"),
        (Step::Data, "250 ok"),
        (Step::Content, "354 go ahead"),
        (Step::Content, "\u{0}\u{1}"),
        (Step::Content, &endless),
        (Step::Content, &many),
    ] {
        let sink = Sink::start();
        let relay = relay(&sink.url());
        sink.at(step).times(1).says(answer);
        let outcome = relay.send(&message("ann@acme.example")).await;
        let text = match outcome {
            Outcome::RelayError(text) if OF_THE_RELAY.contains(&step) => text,
            Outcome::Postponed(text) if OF_THE_MESSAGE.contains(&step) => text,
            _ => panic!("{outcome:?} after {:?} to {step:?}", answer.get(..20)),
        };
        assert!(text.chars().count() < 250, "{step:?}: {text}");
        // Whatever it meant, the next message starts afresh.
        assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
    }
}

#[tokio::test]
async fn texts_of_a_relay_are_one_short_line() {
    let sink = Sink::start();
    let relay = relay(&sink.url());
    let answer =
        format!("550-no\u{7}\r\n550-such\u{1b}[31m \u{202e}user ü\r\n550 {}", "x".repeat(900));
    sink.at(Step::Rcpt).times(1).says(&answer);
    let Outcome::RecipientRefused(text) = relay.send(&message("ann@acme.example")).await else {
        panic!("it was refused");
    };
    assert!(text.starts_with("550 no such[31m ???user ?? xxx"), "{text}");
    assert_eq!(text.len(), 200);
}

#[tokio::test]
async fn a_password_that_a_relay_repeats_is_not_shown() {
    let sink = Sink::start();
    let url = with_login(&sink);
    let relay = relay(&url);
    // As it is, and as AUTH LOGIN and AUTH PLAIN send it.
    let forms = ["hunter2", "aHVudGVyMg==", "AHVzZXIAaHVudGVyMg=="];
    for step in EVERY_STEP {
        relay.close().await;
        sink.at(step).times(1).says(&format!("550 you said {}", forms.join(" ")));
        let outcome = relay.send(&message("ann@acme.example")).await;
        let text = if OF_THE_RELAY.contains(&step) { fault(outcome) } else { of_message(outcome) };
        assert!(text.contains("you said [withheld] [withheld] [withheld]"), "{step:?}: {text}");
    }
    let shown = format!("{relay:?} {relay:#?}");
    assert!(shown.contains("127.0.0.1"), "{shown}");
    for form in forms {
        assert!(!shown.contains(form), "{shown}");
    }
    // And it was really sent.
    assert!(sink.commands().iter().any(|command| command.ends_with(forms[2])));
}

#[tokio::test]
async fn a_login_that_is_not_offered_is_a_fault() {
    let sink = Sink::start();
    let url = with_login(&sink);
    sink.offer(&["AUTH CRAM-MD5"]);
    let text = fault(relay(&url).send(&message("ann@acme.example")).await);
    assert!(text.contains("AUTH"), "{text}");
    assert_eq!(sink.messages().len(), 0);
}

#[tokio::test]
async fn starttls_is_never_left_out() {
    let go_on = "220 2.0.0 go ahead";
    let injected = format!("{go_on}\r\n250-evil\r\n250 AUTH PLAIN");
    for (offers, answer, part) in [
        (&["8BITMIME"][..], None, "does not offer STARTTLS"),
        (&["STARTTLS"], None, "answers STARTTLS with 502"),
        (&["STARTTLS"], Some("454 4.7.0 not now"), "answers STARTTLS with 454"),
        (&["STARTTLS"], Some("250 sure"), "answers STARTTLS with 250"),
        (&["STARTTLS"], Some(injected.as_str()), "more than it was asked"),
        (&["STARTTLS"], Some(go_on), "does not agree on TLS"),
    ] {
        let sink = Sink::start();
        sink.offer(offers);
        if let Some(answer) = answer {
            sink.at(Step::StartTls).says(answer);
        }
        let url = sink.url().replace("smtp://", "smtp+starttls://user:hunter2@");
        let limits = Limits { command: Duration::from_secs(2), connect: Duration::from_secs(30) };
        let text = fault(relay_with(&url, None, limits).send(&message("ann@acme.example")).await);
        assert!(text.contains(part), "{text}");
        let told = sink.commands().join("\n");
        assert!(!told.contains("AUTH") && !told.contains("MAIL"), "{told}");
    }
}

#[tokio::test]
async fn tls_is_not_left_out_either() {
    let sink = Sink::start();
    let url = sink.url().replace("smtp://", "smtps://user:hunter2@");
    let text = fault(relay(&url).send(&message("ann@acme.example")).await);
    assert!(text.contains("does not agree on TLS"), "{text}");
    assert!(!sink.commands().join("\n").contains("MAIL"));
}

#[tokio::test]
async fn a_relay_out_of_reach_is_a_fault() {
    // Bound and not listening: nobody else can take the port meanwhile.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let text = fault(relay(&format!("smtp://{address}")).send(&message("a@b.example")).await);
    assert!(text.starts_with(&format!("{address} cannot be reached: ")), "{text}");
    let text = fault(relay("smtp://mail.invalid").send(&message("a@b.example")).await);
    assert!(text.starts_with("mail.invalid:25 cannot be reached"), "{text}");
}
