//! What somebody found who knew only the rules and the running server: what pages claim of a change, and what
//! others can do to a session from elsewhere.

use crate::checks::{guarded, protected};
use crate::stage::{Stage, account};
use crate::support::postgres::Cluster;
use crate::support::server::Setup;
use crate::support::wait::until;

#[tokio::test]
async fn another_site_ends_no_session() {
    let stage = Stage::new().await;
    // A form on another site comes without the cookie, since that is SameSite=Strict.
    let mut elsewhere = stage.stranger();
    for path in
        ["/tokens/new", "/sign-out", &format!("/tokens/{}/delete", stage.ours.token.token_id)]
    {
        for headers in [
            [("sec-fetch-site", "cross-site"), ("origin", "http://evil.example")],
            [("sec-fetch-site", ""), ("origin", "http://evil.example")],
        ] {
            let answer = elsewhere.send("POST", path, &headers, b"everywhere=on");
            guarded(&answer);
            let answer = answer.says(403);
            assert_eq!(answer.all("set-cookie"), [""; 0], "{answer}");
        }
    }
}

#[tokio::test]
async fn a_link_claims_nothing_that_is_not_so() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    for done in ["deleted", "whitelist", "%3Cb%3Egone"] {
        let page =
            admin.get(&format!("/tokens/{}?done={done}", stage.ours.token.token_id)).says(200);
        let words = page.words();
        assert!(!words.contains("is deleted") && !words.contains("is changed"), "{words}");
    }
}

#[tokio::test]
async fn a_removal_says_what_still_covers_it() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let path = format!("/tokens/{}/whitelist", stage.ours.open.token_id);
    let page = admin.get(&path);
    let csrf = page.field("csrf");
    let mut save = |fields: &[(&str, &str)]| {
        let version = admin.get(&path).field("version");
        let own = [("csrf", csrf.as_str()), ("step", "save"), ("version", version.as_str())];
        let answer = admin.post(&path, &[&own, fields].concat());
        if answer.status == 303 { admin.get(answer.location()) } else { answer }
    };
    save(&[("add", "10.0.0.0/8, 10.1.0.0/16")]).says(200).shows(&["The whitelist is changed"]);
    let removed = save(&[("remove", "10.1.0.0/16")]).says(200);
    removed.shows(&["The whitelist is changed", "still covered", "10.0.0.0/8"]);
    // What is there already is no change, and is not called one.
    save(&[("add", "10.0.0.0/8")]).says(200).shows(&["Nothing is changed"]);
    save(&[("add", " ,, ,")]).says(422).shows(&["Nothing is to be changed"]);
    assert_eq!(stage.now(&stage.ours.open).await.whitelist_version, 3);
}

#[tokio::test]
async fn a_form_that_made_nothing_is_not_used_up() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let page = admin.get("/tokens/new");
    let (csrf, once) = (page.field("csrf"), page.field("form"));
    let mut send = |whitelist: &str| {
        let fields = [
            ("csrf", csrf.as_str()),
            ("form", once.as_str()),
            ("name", "mended"),
            ("kind", "READ_WRITE"),
            ("whitelist", whitelist),
        ];
        admin.post("/tokens/new", &fields)
    };
    // Sent, mended after Back, and sent again by mistake.
    send("").says(422);
    send("192.0.2.1").says(200);
    send("192.0.2.1").says(409);
    let names = stage.names(&stage.ours.account).await;
    assert_eq!(names.iter().filter(|name| *name == "mended").count(), 1, "{names:?}");
}

#[tokio::test]
async fn a_list_far_too_long_is_cut_short() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let path = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
    let page = admin.get(&path);
    let (csrf, version) = (page.field("csrf"), page.field("version"));
    let long: String = (0..8_000).map(|n| format!("10.{}.{}.1\n", n / 250, n % 250)).collect();
    for (step, status) in [("review", 200), ("save", 422)] {
        let fields = [
            ("csrf", csrf.as_str()),
            ("version", version.as_str()),
            ("step", step),
            ("add", long.as_str()),
        ];
        let answer = admin.post(&path, &fields).says(status);
        let answer = answer.shows(&["far more than a whitelist holds", "100 entries"]);
        // The list comes back in its field, and nothing of it besides.
        assert!(answer.text().len() < long.len() + 20_000, "{} bytes", answer.text().len());
    }
    assert_eq!(stage.now(&stage.ours.token).await, stage.ours.token);
}

/// A replica that is cut off makes no page from what it remembers, whether its lease lasts or not, and
/// nothing that was typed is lost (docs/policy.md, sections 6 and 8).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_nothing_is_shown_or_claimed() {
    let cluster = Cluster::with_fsync();
    let setup = Setup::postgres(&cluster.database()).flag("--lease", "2s");
    let stage = Stage::with(setup).await;
    let mut admin = stage.admin();
    let path = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
    let page = admin.get(&path);
    let (csrf, version) = (page.field("csrf"), page.field("version"));
    let fields = [
        ("csrf", csrf.as_str()),
        ("version", version.as_str()),
        ("step", "save"),
        ("add", "203.0.113.9"),
    ];
    let attempt = [("credential", stage.ours.admin.as_str()), ("next", "")];
    cluster.kill();
    until(|| stage.server.get("/readyz").0, |status| status.contains("503"));
    // More often than wrong credentials may be tried: these were not looked at.
    for _ in 0..12 {
        let refused = stage.stranger().post("/sign-in", &attempt);
        protected(&refused);
        refused.says(503);
    }
    for answer in [admin.get("/tokens"), admin.get(&path), admin.post(&path, &fields)] {
        protected(&answer);
        let answer = answer.says(503);
        assert!(answer.header("retry-after").is_some(), "{answer}");
        assert!(!answer.text().contains("Ours"), "{answer}");
    }
    cluster.start();
    until(|| stage.server.get("/readyz").0, |status| status.contains("200"));
    // The session is what it was, and the form still works.
    admin.post(&path, &fields).says(303);
    stage.stranger().post("/sign-in", &attempt).says(303);
}

#[tokio::test]
async fn a_server_that_observes_says_so() {
    let stage = Stage::with(Setup::sqlite().flag("--lifecycle-mode", "observe")).await;
    stage.admin().get("/pending").says(200).shows(&["only observes", "Nothing is pending"]);
}

#[tokio::test]
async fn accounts_are_paged() {
    let stage = Stage::new().await;
    let mut operator = stage.operator();
    for n in 0..49 {
        account(&stage.operator, &format!("Account {n}"), &["a@example.test"]).await;
    }
    let links = operator.get("/accounts").says(200).links();
    let next = links.into_iter().find(|link| link.starts_with("/accounts?page="));
    let next = next.expect("a next page");
    let second = operator.get(&next).says(200).shows(&["First page", "Account 48"]);
    assert!(!second.text().contains("rel=\"next\""), "{second}");
}
