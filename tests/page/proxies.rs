//! The page behind reverse proxies: where a browser is (docs/policy.md, rule 9.8).
//!
//! The tester's browser stands for a proxy: it connects from an address of its own, and says what it likes.

use crate::page::stage::Stage;
use crate::support::http::{Http, form};
use crate::support::server::Setup;

/// Trusted, as is all of `127.9.0.0/16`.
const PROXY: &str = "127.0.0.2";

async fn stage() -> Stage {
    let setup = Setup::sqlite().env("PORTCULLIS_TRUSTED_PROXY", "127.0.0.2,127.9.0.0/16");
    Stage::with(setup).await
}

/// The status of an attempt to sign in with a wrong credential.
fn guess(from: &Http, said: &[&str]) -> u16 {
    attempt(from, "wrong", said).status
}

fn attempt(from: &Http, credential: &str, said: &[&str]) -> crate::support::http::Answer {
    let headers: Vec<_> = said.iter().map(|said| ("x-forwarded-for", *said)).collect();
    let body = form(&[("credential", credential), ("next", "")]);
    from.clone().send("POST", "/sign-in", &headers, body.as_bytes())
}

/// Guesses from there until no more are answered.
fn use_up(from: &Http, said: &[&str]) {
    for number in 0..10 {
        assert_eq!(guess(from, said), 401, "{number}: {said:?}");
    }
    assert_eq!(guess(from, said), 429, "{said:?}");
}

/// Rule 9.8 of docs/policy.md.
#[tokio::test]
async fn stranger_behind_a_trusted_proxy_uses_up_only_its_own_attempts() {
    let stage = stage().await;
    let proxy = stage.stranger().from(PROXY);
    // Whatever it says before what the proxy appends, it is one and the same.
    for number in 0..10 {
        let forged = format!("203.0.113.{number}, 198.51.100.7");
        assert_eq!(guess(&proxy, &[&forged]), 401);
    }
    for said in [
        &["198.51.100.7"][..],
        &["203.0.113.77", "198.51.100.7"],
        &["192.0.2.1, ::ffff:198.51.100.7"],
        &["192.0.2.1, 198.51.100.7:4711"],
        // Through a second trusted proxy.
        &["192.0.2.1, 198.51.100.7, 127.9.0.3"],
        &["198.51.100.7", "127.9.0.3"],
    ] {
        assert_eq!(guess(&proxy, said), 429, "{said:?}");
    }
    // Others go on, at the same proxy and elsewhere.
    assert_eq!(guess(&proxy, &["198.51.100.8"]), 401);
    assert_eq!(guess(&proxy, &["2001:db8::1"]), 401);
    assert_eq!(guess(&proxy, &[]), 401);
    assert_eq!(guess(&stage.stranger(), &["198.51.100.7"]), 401);
    let logged = stage.server.log();
    assert!(logged.contains("198.51.100.7") && !logged.contains("203.0.113."), "{logged}");
}

/// Rule 9.8 of docs/policy.md.
#[tokio::test]
async fn other_peers_have_their_own_address_whatever_they_say() {
    let stage = stage().await;
    let thief = stage.stranger().from("127.0.0.3");
    for number in 0..10 {
        assert_eq!(guess(&thief, &[&format!("198.51.100.{number}")]), 401);
    }
    assert_eq!(guess(&thief, &["198.51.100.77"]), 429);
    // A victim that it named is not held to account.
    let proxy = stage.stranger().from(PROXY);
    assert_eq!(guess(&proxy, &["198.51.100.1"]), 401);
}

/// Rule 9.8 of docs/policy.md.
#[tokio::test]
async fn browsers_whose_address_is_missing_share_that_of_the_proxy() {
    let stage = stage().await;
    let proxy = stage.stranger().from(PROXY);
    use_up(&proxy, &[]);
    let long = format!("{}, 198.51.100.7", "x".repeat(8_192));
    for said in [
        &["unknown"][..],
        &["127.0.0.2"],
        &["198.51.100.7, unknown"],
        &["198.51.100.7, "],
        &["\"198.51.100.7\""],
        &["127.9.0.1, 127.0.0.2"],
        &[&long],
        &["fe80::1%eth0"],
    ] {
        assert_eq!(guess(&proxy, said), 429, "{said:?}");
    }
    // `Forwarded` is not read.
    let body = form(&[("credential", "wrong"), ("next", "")]);
    let headers = [("forwarded", "for=198.51.100.7"), ("x_forwarded_for", "198.51.100.7")];
    let answer = proxy.clone().send("POST", "/sign-in", &headers, body.as_bytes());
    assert_eq!(answer.status, 429);
    // A right credential always signs in.
    assert_eq!(attempt(&proxy, &stage.ours.admin, &["unknown"]).status, 303);
}

/// Rule 9.8 of docs/policy.md.
#[tokio::test]
async fn audit_record_and_forms_have_the_address_of_the_browser() {
    let stage = stage().await;
    let said = [("x-forwarded-for", "203.0.113.9, 198.51.100.7")];
    let signed_in = attempt(&stage.stranger().from(PROXY), &stage.ours.admin, &[said[0].1]);
    let (name, value) = signed_in.header("set-cookie").unwrap().split_once('=').unwrap();
    let value = value.split(';').next().unwrap();
    let mut browser = stage.stranger().from(PROXY).with_cookie(name, value);
    let event = stage.operator.audit().await.pop().unwrap();
    assert_eq!(
        (event.action.as_str(), event.client_address.as_str()),
        ("session.create", "198.51.100.7")
    );

    let whitelist = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
    let page = browser.send("GET", &whitelist, &said, b"").says(200);
    assert!(page.text().contains("198.51.100.7") && !page.text().contains("203.0.113.9"), "{page}");
    // That of the proxy is nobody's, and is not proposed to be added.
    let page = browser.send("GET", &whitelist, &[], b"").says(200);
    assert!(!page.text().contains(PROXY), "{page}");
}

/// Rule 9.8 of docs/policy.md.
#[tokio::test]
async fn bad_proxies_are_named_among_the_other_errors_of_settings() {
    let setup = Setup::sqlite()
        .flag("--trusted-proxy", "10.0.0.0/7")
        .flag("--trusted-proxy", "::/0")
        .flag("--session-idle", "0s");
    let (status, said) = setup.refused();
    assert!(!status.success());
    for part in [
        "3 settings are invalid",
        "--trusted-proxy: 10.0.0.0/7 is wider than an IPv4 /8",
        "--trusted-proxy: ::/0 allows every address",
        "--session-idle",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
