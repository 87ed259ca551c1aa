//! Signing in: with the right credential alone, only so often, from this site's own page, and to nowhere
//! else afterwards.

use url::Url;

use crate::page::checks::guarded;
use crate::page::sessions::cookie;
use crate::page::stage::Stage;
use crate::support::http::{Http, form};
use crate::support::server::Setup;

#[tokio::test]
async fn a_session_begins_only_with_the_right_credential() {
    let stage = Stage::new().await;
    let mut browser = stage.stranger();
    let page = browser.get("/sign-in?next=%2Fpending");
    guarded(&page);
    let page = page.says(200);
    assert_eq!(page.field("next"), "/pending");
    let field = page.tags().into_iter().find(|tag| tag.is("name", "credential")).unwrap();
    assert!(field.is("type", "password") && field.get("value").unwrap_or_default().is_empty());
    assert_eq!(page.header("set-cookie"), None, "no session before signing in: {page}");

    let half = &stage.ours.admin[..stage.ours.admin.len() - 1];
    let pasted = format!(" {}\n", stage.ours.admin);
    let wrong =
        ["", " ", "x", half, &stage.ours.secret, &"x".repeat(100_000), "\u{0}", "é", "' OR 1=1 --"];
    for credential in wrong {
        // Each from an address of its own: it isn't their number that they are refused for.
        let from = format!("127.0.1.{}", 1 + wrong.iter().position(|w| *w == credential).unwrap());
        let answer = browser
            .from(&from)
            .post("/sign-in", &[("credential", credential), ("next", "/pending")]);
        guarded(&answer);
        let answer = answer.says(401);
        assert_eq!(answer.header("set-cookie"), None, "{answer}");
        assert!(answer.tags().iter().any(|tag| tag.is("role", "alert")), "{answer}");
        assert_eq!(answer.field("next"), "/pending", "where to go next is kept");
        assert!(credential.len() < 2 || !answer.text().contains(credential), "{answer}");
    }
    for credential in [stage.ours.admin.as_str(), &pasted] {
        let fields = [("credential", credential), ("next", "/pending")];
        let answer = browser.stranger().post("/sign-in", &fields);
        guarded(&answer);
        let answer = answer.says(303);
        assert_eq!(answer.location(), "/pending");
        let (name, attributes) = cookie(&answer);
        assert_eq!(name, "portcullis");
        assert_eq!(attributes, ["httponly", "path=/", "samesite=strict"]);
    }
}

/// Rule 8.11.
#[tokio::test]
async fn guesses_are_limited() {
    let stage = Stage::new().await;
    let mut thief = stage.stranger();
    let guess = |thief: &mut Http, credential: &str, more: &[(&str, &str)]| {
        let body = form(&[("credential", credential), ("next", "")]);
        let answer = thief.send("POST", "/sign-in", more, body.as_bytes());
        guarded(&answer);
        answer
    };
    for number in 0..10 {
        // What a thief says of his own address counts for nothing.
        let said = format!("203.0.113.{number}");
        let more = [
            ("x-forwarded-for", said.as_str()),
            ("x-real-ip", &said),
            ("forwarded", &format!("for={said}")),
        ];
        guess(&mut thief, "wrong", &more).says(401);
    }
    // Whatever is wrong with a credential, the answer is the same.
    let role = portcullis::grpc::proto::Role::Pep;
    let (_, pep) = crate::support::calls::credential(&stage.operator, role, "").await;
    let half = &stage.ours.admin[..stage.ours.admin.len() - 1];
    let mut answers = Vec::new();
    for credential in ["wrong", "", half, &stage.ours.secret, &pep, &"x".repeat(100_000)] {
        let answer =
            guess(&mut thief, credential, &[("x-forwarded-for", "203.0.113.77")]).says(429);
        let after: u32 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!((1..=300).contains(&after), "{answer}");
        assert_eq!(answer.header("set-cookie"), None, "{answer}");
        answers.push(answer.text().to_owned());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    // Others go on, and so do sessions that are there.
    stage.stranger().from("127.0.0.2").sign_in(&stage.ours.admin).get("/tokens").says(200);
    guarded(&thief.get("/sign-in").says(200));
    // A right credential always signs in, also from that address: a thief there locks nobody out.
    for credential in [&stage.ours.admin, stage.server.operator()] {
        stage.stranger().sign_in(credential).get("/tokens").says(200);
        guess(&mut thief, "wrong", &[]).says(429);
    }
    // Each refusal is counted, and only the first ones are logged.
    let refused = stage.server.metric("portcullis_sign_in_failures_total");
    assert!(refused.is_some_and(|count| count >= 18), "{refused:?}");
    let logged = stage.server.log().matches("an attempt to sign in failed").count();
    assert_eq!(logged, 10);
}

/// Signing in right is no guess, however often.
#[tokio::test]
async fn the_right_credential_is_not_counted() {
    let stage = Stage::new().await;
    for _ in 0..15 {
        stage.admin();
    }
}

#[tokio::test]
async fn next_leads_nowhere_else() {
    let stage = Stage::new().await;
    let own = Url::parse(&stage.stranger().origin()).unwrap();
    let hostile = [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "\\/evil.example",
        "https://evil.example/",
        "https:evil.example",
        "http:/evil.example",
        "javascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "/\t/evil.example",
        "\t//evil.example",
        " //evil.example",
        "/\n/evil.example",
        "/\r\nset-cookie: stolen=1",
        "/tokens\r\nset-cookie: stolen=1",
        "/tokens\u{0}",
        "/%0d%0aset-cookie:%20stolen=1",
        "/%09/evil.example",
        "/.//evil.example",
        "/tokens/..//evil.example",
        "/%5cevil.example",
        "@evil.example",
        ".evil.example",
        "/\u{2028}/evil.example",
        "evil.example",
        "/é",
    ];
    for next in hostile {
        for method in ["field", "page", "already signed in"] {
            let mut browser = stage.stranger();
            let asked = form(&[("next", next)]);
            let answer = match method {
                "field" => {
                    browser.post("/sign-in", &[("credential", &stage.ours.admin), ("next", next)])
                }
                "page" => {
                    let page = browser.get(&format!("/sign-in?{asked}"));
                    guarded(&page);
                    let next = page.says(200).field("next");
                    browser.post("/sign-in", &[("credential", &stage.ours.admin), ("next", &next)])
                }
                _ => stage.admin().get(&format!("/sign-in?{asked}")),
            };
            guarded(&answer);
            if method != "already signed in" {
                assert_eq!(answer.status, 303, "{answer}");
                assert_eq!(answer.all("set-cookie").len(), 1, "{answer}");
            }
            let Some(location) = answer.header("location") else { continue };
            let reached = own.join(location).unwrap();
            assert_eq!(reached.origin(), own.origin(), "{method} {next:?}: {location}");
            let printable = location.bytes().all(|byte| (0x21..0x7f).contains(&byte));
            assert!(printable, "{next:?}: {location:?}");
            assert!(location.starts_with('/'), "{next:?}: {location}");
        }
    }
    for next in ["/pending", "/tokens?q=a%20b&page=2", "/tokens/new"] {
        let fields = [("credential", stage.ours.admin.as_str()), ("next", next)];
        assert_eq!(stage.stranger().post("/sign-in", &fields).says(303).location(), next);
    }
    let token = format!("/tokens/{}", stage.ours.token.token_id);
    let asked = stage.stranger().get(&token).says(303);
    let page = stage.stranger().get(asked.location()).says(200);
    assert_eq!(page.field("next"), token);
}

/// With `--dev` there is nothing to know, and nothing to type.
#[tokio::test]
async fn a_development_server_asks_for_no_credential() {
    let server = Setup::sqlite().without_operator().switch("--dev").start();
    let mut browser = Http::new(&server);
    browser.get("/tokens").says(303);
    let page = browser.get("/sign-in").says(200);
    guarded(&page);
    assert!(!page.tags().iter().any(|tag| tag.is("name", "credential")), "{page}");
    let answer = browser.post("/sign-in", &[("next", "/accounts")]).says(303);
    assert_eq!(answer.location(), "/accounts");
    cookie(&answer);
    browser.get("/accounts").says(200);
    // A page elsewhere can't begin one either.
    let headers = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
    let answer = Http::new(&server).send("POST", "/sign-in", &headers, b"next=").says(403);
    assert_eq!(answer.header("set-cookie"), None, "{answer}");
    // Nor one that calls this host by a name of its own, and so is of the same origin.
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:1", ""] {
        let origin = format!("http://{host}");
        let headers = [("host", host), ("origin", &origin)];
        let answer = Http::new(&server).send("POST", "/sign-in", &headers, b"next=");
        guarded(&answer);
        assert!((400..500).contains(&answer.status), "{host}: {answer}");
        assert_eq!(answer.header("set-cookie"), None, "{answer}");
        let answer = browser.send("GET", "/accounts", &headers, b"");
        assert!((400..500).contains(&answer.status), "{host}: {answer}");
    }
}

/// Browsers keep the cookie to themselves where somebody follows a link in a mail (`SameSite=Strict`); the
/// page has them ask once more, which is of the same site.
#[tokio::test]
async fn links_in_mails_lead_there() {
    let stage = Stage::new().await;
    let from_a_mail = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    for path in ["/pending", "/tokens?q=%22%3E%3Cscript%3E", "//evil.example/", "/sign-out"] {
        let answer = stage.stranger().send("GET", path, &from_a_mail, b"");
        assert!(answer.status < 500, "{answer}");
        assert!(!answer.text().contains("Ours"), "{answer}");
        assert!(!answer.text().to_ascii_lowercase().contains("<script>"), "{answer}");
        let refresh = answer.tags().into_iter().find(|tag| tag.is("http-equiv", "refresh"));
        let Some(refresh) = refresh else { continue };
        let content = refresh.get("content").unwrap().to_owned();
        let (_, to) = content.split_once("url=").unwrap_or_else(|| panic!("{answer}"));
        let to = to.trim_matches(['\'', '"']);
        let local = to.starts_with('/') && !to.starts_with("//") && !to.contains(['\\', ' ', '<']);
        assert!(local, "{answer}");
    }
    let answer = stage.stranger().send("GET", "/pending", &from_a_mail, b"").says(200);
    assert!(answer.text().contains("/pending"), "{answer}");
    // Only then: a form from elsewhere is not asked for again.
    let answer = stage.stranger().send("POST", "/sign-out", &from_a_mail, b"");
    assert!([401, 403].contains(&answer.status), "{answer}");
}
