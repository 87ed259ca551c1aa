//! What somebody found who knew only the rules and the running server: what pages claim of a change, and what
//! others can do to a session from elsewhere.

use crate::page::checks::{guarded, protected};
use crate::page::stage::{Stage, account};
use crate::support::postgres::{self, Cluster};
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
async fn a_list_that_is_too_long_is_refused_with_its_number() {
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
        let answer =
            answer.shows(&["8000 different entries", "at most 100", "--whitelist-max-entries"]);
        // The list comes back in its field, and nothing of it besides.
        assert!(answer.text().len() < long.len() + 20_000, "{} bytes", answer.text().len());
    }
    assert_eq!(stage.now(&stage.ours.token).await, stage.ours.token);
}

/// Rule 3.10: what the setting allows can be pasted, and taken out again, in one form.
#[tokio::test]
async fn a_form_takes_the_largest_whitelist() {
    let stage = Stage::with(Setup::sqlite().flag("--whitelist-max-entries", "10000")).await;
    let mut admin = stage.admin();
    let path = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
    let long = |n: u32| format!("2001:0db8:{n:04x}:0000:0000:{:04x}:255.255.255.255/128", n * 3);
    let pasted: String = (0..9_900).map(|n| format!("{}\r\n", long(n))).collect();
    // Twice the same is once.
    let pasted = format!("{pasted}{}\r\n2001:DB8::ffff:ffff", long(0));
    let page = admin.get(&path);
    let (csrf, version) = (page.field("csrf"), page.field("version"));
    let mut fields = vec![
        ("csrf", csrf.as_str()),
        ("version", version.as_str()),
        ("step", "save"),
        ("add", pasted.as_str()),
    ];
    admin.post(&path, &fields).says(303);
    let all = stage.now(&stage.ours.token).await.whitelist;
    assert!(all.len() > 9_900, "{}", all.len());

    let version = admin.get(&path).field("version");
    fields[1].1 = &version;
    fields[3].1 = "192.0.2.1";
    fields.extend(all.iter().map(|entry| ("remove", entry.as_str())));
    admin.post(&path, &fields).says(303);
    assert_eq!(stage.now(&stage.ours.token).await.whitelist, ["192.0.2.1"]);

    let account = stage.ours.token.account_id.as_str();
    let form = admin.get("/tokens/new").field("form");
    let create = [
        ("csrf", csrf.as_str()),
        ("form", form.as_str()),
        ("account", account),
        ("name", "large"),
        ("kind", "READ_ONLY"),
        ("whitelist", pasted.as_str()),
    ];
    admin.post("/tokens/new", &create).says(200).shows(&["Token created"]);

    let huge = "192.0.2.1 ".repeat(400_000);
    fields.truncate(3);
    fields.push(("add", huge.as_str()));
    admin.post(&path, &fields).says(413).shows(&["larger than", "bytes"]);
}

/// Rule 3.17: what is quoted is what was typed, and what is counted is what was refused.
#[tokio::test]
async fn a_refused_entry_is_shown_as_it_was_typed() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let path = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
    let page = admin.get(&path);
    let (csrf, version) = (page.field("csrf"), page.field("version"));
    let mut review = |add: &str| {
        let fields = [
            ("csrf", csrf.as_str()),
            ("version", version.as_str()),
            ("step", "review"),
            ("add", add),
        ];
        admin.post(&path, &fields).says(200).words()
    };
    for (typed, shown) in [
        ("office", "Refused. “office” is a host name"),
        ("Office", "Refused. “Office” is a host name"),
        ("\"192.0.2.7\"", "Refused. “\"192.0.2.7\"” has quotation marks: leave them out."),
        ("“192.0.2.7”", "Refused. ““192.0.2.7”” has quotation marks"),
        (
            "10.0.0.0/24;",
            "Refused. “10.0.0.0/24;” has the character “;”: separate entries with commas.",
        ),
        (
            "192.0.2.7 # the office, Berlin",
            "Refused. “# the office, Berlin” has a comment: leave it out.",
        ),
        ("192.0.2.7\u{200b}", "192.0.2.7<U+200B>"),
        ("192.0.2.7\u{200b}", "has the character U+200B"),
        ("203.0.113.7\u{a0}203.0.113.8\u{3000}203.0.113.9", "203.0.113.9 Is added."),
        ("10.0.0.5/24", "1 entry was refused: nothing is saved until each is corrected"),
        ("10.0.0.5/24 x.example 0.0.0.0/0 192.0.2.7 224.0.0.1", "4 entries were refused: nothing"),
    ] {
        let words = review(typed);
        assert!(words.contains(shown), "{typed}: {words}");
        assert!(!words.contains("can't be read"), "{words}");
    }
    let words = review(&"x.example,".repeat(150));
    assert!(words.contains("100 entries were refused, and what follows was not read"), "{words}");
}

/// Rule 1.16: what was stored before the rule is shown with the codes of what can't be seen.
#[tokio::test]
async fn a_stored_name_shows_its_hidden_characters() {
    let cluster = postgres::shared();
    let url = cluster.database();
    let stage = Stage::with(Setup::postgres(&url)).await;
    let id = &stage.ours.token.token_id;
    let database = url.rsplit('/').next().unwrap();
    cluster.sql(database, "UPDATE token SET name = E'Pay\\u202Ero\\u200Bll<b>'");
    let mut admin = stage.admin();
    for path in ["/tokens", &format!("/tokens/{id}"), &format!("/tokens/{id}/whitelist")] {
        let page = admin.get(path).says(200).shows(&["Pay<U+202E>ro<U+200B>ll<b>"]);
        assert!(!page.text().contains(['\u{202e}', '\u{200b}']), "{page}");
        assert!(!page.text().contains("<b>"), "{page}");
    }
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
