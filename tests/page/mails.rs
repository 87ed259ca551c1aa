//! Mails as people see them: on a telephone, and on the page of a server with `--dev`, which keeps them where no
//! mail server is configured.

use std::fs;
use std::time::Duration;

use portcullis::grpc::proto::{Decision, Reason, TokenKind};
use portcullis::mail::{
    Account, Action, Facts, LeakedOwner, Notice, ScopeUse, Subject, Takes, Token, render,
};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token;
use serde_json::Value;
use uuid::Uuid;

use crate::page::checks::{guarded, inert};
use crate::page::stage::{Stage, account, named_token};
use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::http::Http;
use crate::support::server::Setup;
use crate::support::smtp::Sink;
use crate::support::tools;
use crate::support::wait::until;

const AT: Timestamp = Timestamp(1_798_985_100_000_000);

/// Every kind of mail about names as long as they may be, and of one word each.
fn longest() -> Vec<(&'static str, Facts)> {
    let address = |n: u32| format!("{}{n}@{}.example", "a".repeat(60), "mail.".repeat(35) + "m");
    let scope =
        |n: u32, last_use| ScopeUse { scope: format!("{}{n:03}", "s".repeat(61)), last_use };
    let scopes = |some: std::ops::Range<u32>| -> Vec<ScopeUse> {
        some.map(|n| scope(n, (n % 3 == 0).then_some(AT))).collect()
    };
    let action = |takes, kind| Action {
        token: Token {
            id: TokenId(Uuid::from_u128(u128::MAX)),
            name: "W".repeat(200),
            kind,
            created: AT,
            last_use: Some(AT),
        },
        takes,
        lost: scopes(0..40),
        kept: scopes(40..60),
        last_use_of_lost: Some(AT),
        window: Duration::from_secs(45 * 86_400 + 1),
    };
    let facts = |subject| Facts {
        id: Uuid::from_u128(1),
        to: address(1),
        date: AT,
        account: Account { id: AccountId(Uuid::from_u128(u128::MAX)), name: "M".repeat(200) },
        notified: (1..=50).map(address).collect(),
        subject,
    };
    let mut mails = Vec::new();
    for (notice, done, takes, kind) in [
        ("notice-deletion", "deleted", Takes::Token, token::TokenKind::ReadWrite),
        ("notice-writes", "read-only", Takes::Writes, token::TokenKind::ReadWrite),
        ("notice-scopes", "fewer-scopes", Takes::Scopes, token::TokenKind::Custom),
    ] {
        let action = action(takes, kind);
        let announced = Notice { action: action.clone(), effective: AT };
        mails.push((notice, facts(Subject::Notice(announced))));
        mails.push((done, facts(Subject::CarriedOut { action, at: AT, noticed: Some(AT) })));
    }
    let changed = |before: &[u32], after: &[u32]| Subject::AdminsChanged {
        before: before.iter().copied().map(address).collect(),
        after: after.iter().copied().map(address).collect(),
        at: AT,
    };
    mails.push(("admin-new", facts(changed(&[2, 3], &[1, 3]))));
    mails.push(("admin-former", facts(changed(&[1, 2], &[2, 3]))));
    mails.push(("admin-still", facts(changed(&[1, 2], &[1, 3]))));
    let owner = LeakedOwner::Token(action(Takes::Token, token::TokenKind::Custom).token);
    let (source, url) = ("S".repeat(200), format!("https://git.example/{}", "u".repeat(1_980)));
    mails.push(("leaked", facts(Subject::Leaked { owner, source, url, at: AT })));
    mails
}

#[test]
fn every_mail_fits_a_telephone() {
    let directory = tools::source("target/mail-screenshots");
    fs::create_dir_all(&directory).unwrap();
    let page = "https://portcullis.a-long-name-of-a-host.example".parse().unwrap();
    for (name, facts) in longest() {
        let mail = render(&facts, Some(&page)).unwrap();
        fs::write(directory.join(format!("{name}.html")), mail.html).unwrap();
    }
    let mut node = tools::browser();
    let script = tools::source("tests/page/browser/fits.js");
    println!("{}", tools::succeed(node.arg(script).arg(directory)));
}

/// What `--dev` says of the lifecycle is so: a notice, a mail on the page, and a deletion, in seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_lifecycle_is_seen_without_a_mail_server() {
    let server = Setup::sqlite()
        .switch("--dev")
        .flag("--lifecycle-window", "6s")
        .flag("--lifecycle-notice", "3s")
        .flag("--lifecycle-sweep-interval", "200ms")
        .start();
    let hint = server.stdout();
    assert!(hint.contains(&format!("http://{}/mails", server.http())), "{hint}");
    let client = Client::operator(&server).await.anonymous();
    let account = account(&client, "Acme <b>Ltd</b>", &["ann@acme.example"]).await;
    let kind = TokenKind::ReadOnly;
    let (token, secret) = named_token(&client, &account, "un<i>used", kind, &[], &[]).await;

    let mut browser = Http::new(&server);
    browser.post("/sign-in", &[("next", "/mails")]).says(303);
    let listed = |browser: &mut Http, subject: &str| {
        let page = browser.get("/mails").says(200);
        guarded(&page);
        let about = format!("Token \"un<i>used\" {subject}");
        page.words().contains(&about).then(|| mail_link(&page, &about))
    };
    let notice = until(|| listed(&mut browser, "will be deleted"), Option::is_some).unwrap();
    let page = browser.get(&notice).says(200);
    guarded(&page);
    let page = page.shows(&["ann@acme.example", "un<i>used", &token.token_id, "How to keep it"]);
    assert!(page.text().contains(&format!("http://{}/tokens/", server.http())), "{page}");
    let html = format!("{notice}/html");
    assert!(page.links().contains(&html), "{page}");
    // A page of its own that can do nothing at all.
    let answer = browser.get(&html).says(200);
    let policy = answer.header("content-security-policy").unwrap();
    for directive in
        ["sandbox", "default-src 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    {
        assert!(policy.split(';').any(|part| part.trim() == directive), "{policy}");
    }
    assert!(!policy.contains("allow-") && !policy.contains("script"), "{policy}");
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let text = answer.text();
    assert!(text.contains("un&#60;i&#62;used") && !text.contains("<i>"), "{text}");

    // It counts as accepted, so what it announces comes.
    let done = until(|| listed(&mut browser, "was deleted"), Option::is_some).unwrap();
    browser.get(&done).says(200).shows(&["nothing brings it back"]);
    let ask = question(&secret, "192.0.2.1", "transactions.read");
    let answer = client.authorization().authorize(ask).await.unwrap().into_inner();
    assert_eq!(answer.decision(), Decision::Deny);
    assert_eq!(answer.reason(), Reason::TokenDeletedUnused);
    browser.get("/status").says(200).shows(&["it keeps mails"]);
    browser.get("/mails/x").says(404);
    browser.get(&format!("/mails/{}", Uuid::nil())).says(404);
    assert!(!server.get("/healthz").1.contains("no mail server"));

    // Nobody reads them without being signed in, and nobody but operators.
    for path in ["/mails", &notice, &html] {
        let answer = browser.stranger().get(path);
        guarded(&answer);
        answer.says(303);
    }
    let request = portcullis::grpc::proto::CreateCredentialRequest {
        role: portcullis::grpc::proto::Role::AccountAdmin.into(),
        account_id: account.clone(),
        name: String::new(),
        ..Default::default()
    };
    let admin = client.credentials().create_credential(request).await.unwrap().into_inner();
    let mut admin = browser.stranger().sign_in(&admin.secret);
    for path in ["/mails", &notice, &html] {
        let answer = admin.get(path);
        guarded(&answer);
        let answer = answer.says(404);
        inert(&answer);
        assert!(!answer.words().contains("un<i>used"), "{answer}");
    }
}

/// Where a subject of the list leads to.
fn mail_link(page: &crate::support::http::Answer, about: &str) -> String {
    let escaped = about.replace('"', "&#34;").replace('<', "&#60;").replace('>', "&#62;");
    let before = page.text().split(&escaped).next().unwrap();
    let (_, link) = before.rsplit_once("href=\"").unwrap();
    link.split('"').next().unwrap().to_owned()
}

/// Mails are kept nowhere but there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_are_kept_by_a_development_server_without_a_mail_server_only() {
    let stage = Stage::new().await;
    stage.operator().get("/mails").says(404);
    stage.stranger().get("/mails").says(404);
    assert!(!stage.operator().get("/tokens").text().contains("/mails"));

    let sink = Sink::start();
    let server = Setup::sqlite()
        .switch("--dev")
        .env("PORTCULLIS_SMTP_URL", sink.url())
        .flag("--mail-from", "portcullis@example.test")
        .flag("--lifecycle-window", "4s")
        .flag("--lifecycle-notice", "2s")
        .flag("--lifecycle-sweep-interval", "200ms")
        .start();
    sink.wait_for(1);
    let mut browser = Http::new(&server);
    browser.post("/sign-in", &[("next", "")]).says(303);
    browser.get("/mails").says(404);
    assert!(!server.stdout().contains("/mails"));
}

/// What `--dev` prints works as it is printed, whatever it was started with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_development_server_prints_names_its_own_ports() {
    let server = Setup::sqlite().switch("--dev").start();
    let printed = server.stdout();
    let commands: Vec<&str> = printed
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("portcullis pending"))
        .collect();
    assert_eq!(commands.len(), 2, "{printed}");
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        assert!(words.contains(&format!("http://{}", server.grpc()).as_str()), "{command}");
        let answer: Value = Shell::new().run(&[&words[..], &["--output", "json"]].concat()).json();
        assert!(answer.is_object(), "{command}");
    }
    // The start that it recommends listens where this one does, on the same data.
    let start = printed.split("start with").nth(1).unwrap();
    for flag in [
        "--listen 127.0.0.1:0".to_owned(),
        "--http-listen 127.0.0.1:0".to_owned(),
        format!("--data-dir {}", server.data_dir().display()),
    ] {
        assert!(start.contains(&flag), "{flag}: {printed}");
    }
}
