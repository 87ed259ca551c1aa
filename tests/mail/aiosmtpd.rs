//! A mail server that is not ours, and Python's reading of what it gets.

use std::time::Duration;

use portcullis::mail::{
    Account, Action, Facts, Limits, Notice, Outcome, ScopeUse, Subject, Takes, Token, render,
};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use serde_json::Value;
use uuid::Uuid;

use super::{fault, message, relay_with};
use crate::support::aiosmtpd::Aiosmtpd;
use crate::support::tls::Authority;

fn limits() -> Limits {
    Limits::each(Duration::from_secs(20))
}

fn notice() -> Facts {
    let at = Timestamp(1_798_985_100_000_000);
    let token = Token {
        id: TokenId(Uuid::from_u128(3)),
        name: "Gehälter \u{1f4b0} <給与>".to_owned(),
        kind: TokenKind::Custom,
        created: Timestamp(0),
        last_use: None,
    };
    let action = Action {
        token,
        takes: Takes::Token,
        lost: vec![ScopeUse { scope: "payments.send".to_owned(), last_use: None }],
        kept: Vec::new(),
        last_use_of_lost: None,
        window: Duration::from_secs(45 * 86_400),
    };
    Facts {
        id: Uuid::from_u128(9),
        to: "ann@acme.example".to_owned(),
        date: at,
        account: Account { id: AccountId(Uuid::from_u128(2)), name: "Büro Zürich".to_owned() },
        notified: vec!["ann@acme.example".to_owned()],
        subject: Subject::Notice(Notice { action, effective: at }),
    }
}

#[tokio::test]
async fn mails_arrive_as_they_were_written() {
    let authority = Authority::new("ours");
    for (mode, scheme) in [("plain", "smtp"), ("starttls", "smtp+starttls"), ("smtps", "smtps")] {
        let server = Aiosmtpd::start("127.0.0.1", mode, Some(&authority), &[]);
        for host in ["localhost", "127.0.0.1"] {
            let url = format!("{scheme}://{host}:{}", server.port());
            let relay = relay_with(&url, Some(authority.pem()), limits());
            let mail = render(&notice(), None).unwrap();
            for _ in 0..2 {
                assert!(relay.send(&mail).await.is_accepted(), "{url}");
                let got = server.next();
                assert_eq!(got["defects"], Value::Array(Vec::new()));
                assert_eq!(got["tls"], mode != "plain");
                assert_eq!(got["from"], "portcullis@acme.example");
                assert_eq!(got["to"], serde_json::json!(["ann@acme.example"]));
                let header = |name: &str| got["headers"][name].as_str().unwrap().to_owned();
                assert_eq!(header("Subject"), mail.subject);
                assert!(header("Subject").contains("Gehälter \u{1f4b0} <給与>"));
                let id = "<00000000-0000-0000-0000-000000000009@acme.example>";
                assert_eq!(header("Message-ID"), id);
                assert_eq!(header("Auto-Submitted"), "auto-generated");
                let part = |name: &str| got[name].as_str().unwrap().replace("\r\n", "\n");
                assert_eq!(part("text").trim_end(), mail.text.trim_end());
                assert_eq!(part("html").trim_end(), mail.html.trim_end());
                assert!(mail.html.contains("&#60;給与&#62;") && mail.text.contains("<給与>"));
            }
            relay.close().await;
        }
    }
}

#[tokio::test]
async fn a_relay_that_cannot_prove_itself_gets_nothing() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    for (mode, scheme) in [("starttls", "smtp+starttls"), ("smtps", "smtps")] {
        // Of an authority that is unknown, and of another name.
        for (address, ca) in [
            ("127.0.0.1", None),
            ("127.0.0.1", Some(others.pem())),
            ("127.0.0.2", Some(ours.pem())),
        ] {
            let server = Aiosmtpd::start(address, mode, Some(&ours), &["user", "hunter2"]);
            let url = format!("{scheme}://user:hunter2@{address}:{}", server.port());
            let relay = relay_with(&url, ca, limits());
            let text = fault(relay.send(&message("ann@acme.example")).await);
            assert!(text.contains("does not agree on TLS: "), "{text}");
            assert!(text.contains("ertificate"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_login_is_right_or_a_fault() {
    let authority = Authority::new("ours");
    let password = "p@ss/wört %";
    for (mode, scheme) in [("plain", "smtp"), ("starttls", "smtp+starttls"), ("smtps", "smtps")] {
        let server = Aiosmtpd::start("127.0.0.1", mode, Some(&authority), &["user", password]);
        let relay = |login: &str| {
            let url = format!("{scheme}://{login}127.0.0.1:{}", server.port());
            relay_with(&url, Some(authority.pem()), limits())
        };
        let right = relay("user:p%40ss%2Fw%C3%B6rt%20%25@");
        let wrong = relay("user:hunter2@");
        let none = relay("");
        assert!(right.send(&message("ann@acme.example")).await.is_accepted());
        let text = fault(wrong.send(&message("ann@acme.example")).await);
        assert!(text.contains("answers AUTH with 535 ") && !text.contains("hunter2"), "{text}");
        let text = fault(none.send(&message("ann@acme.example")).await);
        assert!(text.contains("answers MAIL with 530 "), "{text}");
        assert_eq!(server.next()["authenticated"], true);
    }
}

/// What is wrong with a mail to one recipient says nothing about the relay, which takes the next one.
#[tokio::test]
async fn a_relay_that_refuses_one_recipients_mails_takes_the_others() {
    let server = Aiosmtpd::start("127.0.0.1", "picky", None, &[]);
    let relay = relay_with(&format!("smtp://127.0.0.1:{}", server.port()), None, limits());
    for _ in 0..2 {
        let bob = relay.send(&message("bob@acme.example")).await;
        let text = "554 5.7.1 message refused by policy (to the message)".to_owned();
        assert_eq!(bob, Outcome::MessageRefused(text));
        let zoe = relay.send(&message("zo\u{eb}@acme.example")).await;
        assert!(
            matches!(&zoe, Outcome::MessageRefused(text) if text.contains("no SMTPUTF8")),
            "{zoe:?}"
        );
        assert!(relay.send(&message("ann@acme.example")).await.is_accepted());
        assert_eq!(server.next()["to"], serde_json::json!(["ann@acme.example"]));
    }
}
