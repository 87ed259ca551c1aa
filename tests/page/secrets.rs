//! No secret where it doesn't belong: a whole visit at the most verbose log level, and then a search of
//! everything that came of it (docs/policy.md, section 7).

use std::fs;

use portcullis::grpc::proto::ListAuditEventsRequest;

use crate::page::checks::{guarded, walk};
use crate::page::stage::Stage;
use crate::support::http::{Answer, Http};
use crate::support::postgres;
use crate::support::server::Setup;

/// What must not be found, and what to call it.
struct Secret {
    what: &'static str,
    text: String,
    /// Whether pages may have it: the mark of a session stands in each of its forms.
    in_pages: bool,
}

impl Secret {
    fn stands_in(&self, output: &[u8]) -> bool {
        // Half of a secret is too much of it. Ids are no secrets, and stand in front of what is.
        let half = &self.text.as_bytes()[self.text.len() / 2..];
        output.windows(half.len()).any(|window| window == half)
    }
}

#[test]
fn the_search_finds_what_is_planted() {
    let secret = Secret { what: "x", text: "abcdefgh".to_owned(), in_pages: false };
    assert!(secret.stands_in(b"..efgh.."));
    assert!(!secret.stands_in(b"abcdefg"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_gets_out_on_sqlite() {
    let mut stage = Stage::with(Setup::sqlite().log("trace")).await;
    let (secrets, answers) = visit(&stage).await;
    search(&secrets, &answers, &stage).await;
    let mut files = 0;
    stage.server.kill9();
    for entry in fs::read_dir(stage.server.data_dir()).unwrap() {
        let entry = entry.unwrap();
        // The operator's own file, where an embedded store leaves its first credential.
        if entry.file_name() != "operator-credential" {
            store(&secrets, &fs::read(entry.path()).unwrap());
            files += 1;
        }
    }
    assert!(files > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_gets_out_on_postgres() {
    let url = postgres::database();
    let stage = Stage::with(Setup::postgres(&url).log("trace")).await;
    let (secrets, answers) = visit(&stage).await;
    search(&secrets, &answers, &stage).await;
    let dump = postgres::program("pg_dump").args(["--inserts", "--dbname", &url]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    assert!(String::from_utf8_lossy(&dump.stdout).contains("session"));
    store(&secrets, &dump.stdout);
}

/// The store has digests alone.
#[track_caller]
fn store(secrets: &[Secret], bytes: &[u8]) {
    for secret in secrets {
        assert!(!secret.stands_in(bytes), "{} stands in the store", secret.what);
    }
}

/// Somebody does all there is to do. Gives what was secret, and each answer but the one that shows the new
/// token's secret.
async fn visit(stage: &Stage) -> (Vec<Secret>, Vec<Answer>) {
    let (mut secrets, mut answers) = (Vec::new(), Vec::new());
    let mut add = |what, text: &str, in_pages| {
        secrets.push(Secret { what, text: text.to_owned(), in_pages });
    };
    let wrong = "pcl_wrong_0123456789abcdefghijklmnopqrstuvwxyz";
    add("a wrong credential", wrong, false);
    let mut browser = stage.stranger();
    answers.push(browser.post("/sign-in", &[("credential", wrong), ("next", "/tokens")]));
    for (credential, what) in [
        (stage.ours.admin.as_str(), "an admin's credential"),
        (stage.server.operator(), "the operator's credential"),
    ] {
        add(what, credential, false);
        let mut browser = stage.stranger();
        answers.push(browser.get("/sign-in?next=%2Ftokens"));
        let signed_in =
            browser.post("/sign-in", &[("credential", credential), ("next", "/tokens")]);
        let session = browser.session().to_owned();
        add("a session", &session, false);
        // The one place where it must stand.
        let mut signed_in = signed_in.says(303);
        signed_in.headers.retain(|(name, _)| name != "set-cookie");
        answers.push(signed_in);

        let page = browser.get(&format!("/tokens/new?account={}", stage.ours.account));
        let csrf = page.field("csrf");
        add("the mark of a session", &csrf, true);
        let fields = [
            ("csrf", csrf.as_str()),
            ("form", &page.field("form")),
            ("account", &stage.ours.account),
            ("name", "made by the page"),
            ("kind", "READ_ONLY"),
            ("whitelist", ""),
        ];
        let made = browser.post("/tokens/new", &fields);
        guarded(&made);
        let made = made.says(200);
        let secret = shown_secret(&made);
        add("a new token's secret", &secret, false);
        assert!(!made.links().iter().any(|link| link.contains(&secret)), "{made}");
        answers.push(page);
        // The form again, and with a fault: neither shows what was shown once.
        answers.push(browser.post("/tokens/new", &fields).says(409));
        answers.push(browser.post("/tokens/new", &fields[..2]));
        answers.extend(walk(&mut browser, "/tokens"));
        let wrong = [("csrf", credential), ("everywhere", "on")];
        answers.push(browser.post("/sign-out", &wrong).says(403));
        answers.push(browser.post("/sign-out", &[("csrf", &csrf)]).says(303));
    }
    // A wrong session, and one that is over.
    let mut late: Http = stage.stranger().with_cookie("portcullis", &secrets[2].text);
    answers.push(late.get("/tokens").says(303));
    (secrets, answers)
}

/// The secret of the token that was just made.
#[track_caller]
fn shown_secret(made: &Answer) -> String {
    let tags = made.tags();
    let shown: Vec<_> = tags.iter().filter(|tag| tag.is("id", "secret")).collect();
    assert_eq!(shown.len(), 1, "{made}");
    let text = shown[0].get("value").unwrap_or(&shown[0].text).trim().to_owned();
    assert!(text.starts_with("pcl_t1_"), "{text}");
    let times = made.text().matches(&text).count();
    assert!(times >= 1, "{made}");
    text
}

async fn search(secrets: &[Secret], answers: &[Answer], stage: &Stage) {
    let log = stage.server.log();
    assert!(log.contains("an attempt to sign in failed"), "the visit is in the log: {log}");
    let metrics = stage.server.get("/metrics").1;
    let request = ListAuditEventsRequest { page_size: 1_000, ..Default::default() };
    let events = stage.operator.tokens().list_audit_events(request).await.unwrap();
    let events = format!("{events:?}");
    assert!(events.contains("session.create") && events.contains("session.end"), "{events}");
    for secret in secrets {
        for (place, output) in
            [("the log", &log), ("the metrics", &metrics), ("the audit record", &events)]
        {
            assert!(!secret.stands_in(output.as_bytes()), "{} stands in {place}", secret.what);
        }
        for answer in answers {
            let heads = answer.headers.iter().any(|(_, value)| secret.stands_in(value.as_bytes()));
            assert!(!heads, "{} stands in a header: {answer}", secret.what);
            assert!(
                !secret.stands_in(answer.asked.as_bytes()),
                "{}: {}",
                secret.what,
                answer.asked
            );
            let linked =
                answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html"))
                    && answer.links().iter().any(|link| secret.stands_in(link.as_bytes()));
            assert!(!linked, "{} stands in a link: {answer}", secret.what);
            let shown = !secret.in_pages && secret.stands_in(&answer.body);
            assert!(!shown, "{} stands on a page: {answer}", secret.what);
        }
    }
}
