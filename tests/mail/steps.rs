//! What a relay that works is told and what arrives: connections, addresses, letters, lines.

use portcullis::mail::{Message, Outcome, Sender};

use super::{message, relay};
use crate::support::smtp::{Sink, Step};

#[tokio::test]
async fn one_connection_serves_many_messages() {
    let sink = Sink::start();
    let relay = relay(&sink.url());
    for to in ["ann@acme.example", "bob@acme.example", "cy@acme.example"] {
        assert!(relay.send(&message(to)).await.is_accepted());
    }
    let messages = sink.messages();
    let to: Vec<_> = messages.iter().map(|message| message.to.join(" ")).collect();
    assert_eq!(to, ["ann@acme.example", "bob@acme.example", "cy@acme.example"]);
    assert!(messages.iter().all(|message| message.from == "portcullis@acme.example"));
    assert_eq!(sink.connections(), 1);
    relay.close().await;
    sink.wait_for_open(0);
    assert_eq!(sink.commands().last().unwrap(), "QUIT");
    relay.close().await;
    assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
    assert_eq!(sink.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_ended_meanwhile_is_made_anew() {
    for (step, answer) in [
        (Step::Rset, None),
        (Step::Rset, Some("421 4.4.2 idle for too long")),
        (Step::Mail, None),
        (Step::Mail, Some("421 4.3.2 going down")),
        (Step::Mail, Some("452 4.5.3 too many messages")),
    ] {
        let sink = Sink::start();
        let relay = relay(&sink.url());
        assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
        match answer {
            None => sink.at(step).times(1).hangs_up(),
            Some(answer) => sink.at(step).times(1).says(answer),
        }
        assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
        assert_eq!(sink.connections(), 2, "{step:?} {answer:?}");
        assert_eq!(sink.messages().len(), 2);
    }
}

#[tokio::test]
async fn messages_at_once_do_not_wait_for_each_other() {
    let sink = Sink::start();
    let relay = relay(&sink.url());
    let (one, other) = (message("ann@acme.example"), message("bob@acme.example"));
    let outcomes = tokio::join!(relay.send(&one), relay.send(&other));
    assert!(outcomes.0.is_accepted() && outcomes.1.is_accepted(), "{outcomes:?}");
    assert_eq!(sink.messages().len(), 2);
    // One of the connections is kept.
    sink.wait_for_open(1);
}

#[tokio::test]
async fn a_message_that_was_given_up_leaves_nothing_behind() {
    let sink = Sink::start();
    let relay = relay(&sink.url());
    sink.at(Step::Rcpt).times(1).stalls();
    let given_up = message("ann@acme.example");
    tokio::select! {
        biased;
        outcome = relay.send(&given_up) => panic!("{outcome:?}"),
        () = told(&sink, "RCPT") => {}
    }
    sink.wait_for_open(0);
    assert!(relay.send(&message("bob@acme.example")).await.is_accepted());
    assert_eq!(sink.messages()[0].to, ["bob@acme.example"]);
}

/// Returns once the sink was told so.
async fn told(sink: &Sink, command: &str) {
    while !sink.commands().iter().any(|told| told.starts_with(command)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_letter_and_line_arrives() {
    let sink = Sink::start();
    // Nothing but plain SMTP is needed for it.
    sink.offer(&[]);
    let relay = relay(&sink.url());
    let long = "word ".repeat(1_000);
    for text in [
        "plain\n".to_owned(),
        "Zoë, 給与, \u{1f600}\n".to_owned(),
        format!("{long}\n{}\n", "x".repeat(3_000)),
        ".\n..\n.a\n\nFrom here\n.\n".to_owned(),
        "給与".repeat(800) + "\n",
        "no line end".to_owned(),
        "trailing \t\n=3D = \n".to_owned(),
    ] {
        let message = Message {
            subject: format!("Zoë \u{1f600} {}", "long ".repeat(60)),
            html: format!("<p>{text}</p>\n"),
            text,
            ..message("ann@acme.example")
        };
        assert!(relay.send(&message).await.is_accepted());
        let received = sink.messages().pop().unwrap();
        assert_eq!(received.text().trim_end(), message.text.trim_end());
        assert_eq!(received.html().trim_end(), message.html.trim_end());
        assert_eq!(received.header("Subject").unwrap(), message.subject.trim_end());
        assert!(received.raw().is_ascii());
        assert!(received.raw().split("\r\n").all(|line| line.len() <= 998));
        assert!(!received.raw().replace("\r\n", "").contains(['\r', '\n']));
    }
}

#[tokio::test]
async fn the_same_message_is_the_same_bytes() {
    let sink = Sink::start();
    let relay = relay(&sink.url());
    for _ in 0..2 {
        assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
    }
    let messages = sink.messages();
    assert_eq!(messages[0].bytes, messages[1].bytes);
    let headers = messages[0].headers();
    let headers: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        headers,
        [
            ("Message-ID", "<00000000-0000-0000-0000-000000000007@acme.example>"),
            ("Date", "Sun, 03 Jan 2027 14:05:00 +0000"),
            ("From", "Portcullis <portcullis@acme.example>"),
            ("To", "ann@acme.example"),
            ("Subject", "Hello"),
            ("Auto-Submitted", "auto-generated"),
            ("MIME-Version", "1.0"),
            (
                "Content-Type",
                "multipart/alternative; boundary=\"portcullis-00000000000000000000000000000007\""
            ),
        ]
    );
}

#[tokio::test]
async fn addresses_may_have_other_letters() {
    let sink = Sink::start();
    let relay = relay(&sink.url());
    // A domain has an ASCII form that every relay knows.
    assert!(relay.send(&message("zoe@bücher.example")).await.is_accepted());
    let received = sink.messages().pop().unwrap();
    assert_eq!(received.to, ["zoe@xn--bcher-kva.example"]);
    assert_eq!(received.header("To").unwrap(), "zoe@xn--bcher-kva.example");
    assert!(sink.commands().iter().all(|command| !command.contains("SMTPUTF8")));
    // What stands before the @ has none.
    assert!(relay.send(&message("zoë@acme.example")).await.is_accepted());
    assert_eq!(sink.messages().pop().unwrap().to, ["zoë@acme.example"]);
    assert!(sink.commands().iter().any(|command| command.ends_with("> SMTPUTF8 BODY=8BITMIME")));

    sink.offer(&["8BITMIME"]);
    relay.close().await;
    // Neither says anything about other recipients.
    for (to, why) in [("zoë@acme.example", "no SMTPUTF8"), ("nobody", "no mail address")] {
        let outcome = relay.send(&message(to)).await;
        assert!(
            matches!(&outcome, Outcome::MessageRefused(text) if text.contains(why)),
            "{outcome:?}"
        );
    }
    assert_eq!(sink.messages().len(), 2);
}

#[test]
fn senders_are_addresses() {
    for (text, shown) in [
        ("a@b.example", "a@b.example"),
        ("Portcullis <a@b.example>", "Portcullis <a@b.example>"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
    ] {
        assert_eq!(text.parse::<Sender>().unwrap().to_string(), shown);
    }
    for text in ["", "nobody", "a@b.example, c@d.example", "zoë@b.example", "x\n<a@b.example>"] {
        assert!(text.parse::<Sender>().is_err(), "{text}");
    }
}
