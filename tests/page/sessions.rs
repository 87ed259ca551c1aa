//! Sessions: how one begins, that it ends when it should, and that nobody guesses or plants one.

use portcullis::grpc::proto::{CreateCredentialRequest, RevokeCredentialRequest, Role};

use crate::page::checks::guarded;
use crate::page::stage::Stage;
use crate::support::http::{Answer, Http};
use crate::support::postgres;
use crate::support::server::{Setup, random_credential};
use crate::support::tls::Authority;
use crate::support::wait::until;

/// That a session is over: pages send to sign in, forms do nothing and say so.
#[track_caller]
fn over(browser: &Http, csrf: &str) {
    let mut browser = browser.clone();
    let answer = browser.get("/tokens");
    guarded(&answer);
    assert!(answer.says(303).location().starts_with("/sign-in"));
    let fields = [("csrf", csrf), ("name", "late"), ("kind", "READ_ONLY"), ("whitelist", "")];
    let fields = [fields.as_slice(), &[("form", crate::page::strangers::FORM)]].concat();
    let answer = browser.post("/tokens/new", &fields);
    guarded(&answer);
    let answer = answer.says(401);
    assert!(answer.text().contains("/sign-in"), "says where to sign in: {answer}");
}

fn csrf(browser: &mut Http) -> String {
    browser.get("/tokens/new").says(200).field("csrf")
}

/// The attributes of the only cookie that is set, in lower case, and its name.
#[track_caller]
pub(crate) fn cookie(answer: &Answer) -> (String, Vec<String>) {
    let cookie = answer.header("set-cookie").unwrap_or_else(|| panic!("no cookie: {answer}"));
    let mut parts = cookie.split(';').map(str::trim);
    let (name, value) = parts.next().unwrap().split_once('=').unwrap();
    let random = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    assert!(value.len() >= 43 && random, "256 random bits: {value}");
    let mut attributes: Vec<_> = parts.map(str::to_ascii_lowercase).collect();
    // Its end may be told; the server keeps to it by itself.
    attributes.retain(|attribute| !attribute.starts_with("max-age="));
    attributes.sort();
    (name.to_owned(), attributes)
}

#[tokio::test]
async fn under_tls_the_cookie_stays_with_this_host() {
    let authority = Authority::new("the tests");
    let stage = Stage::with(Setup::sqlite().flag("--public-url", "https://tokens.example")).await;
    let fields = [("credential", stage.ours.admin.as_str()), ("next", "")];
    // Behind a proxy that ends TLS, the page's origin is the public one.
    let headers = [("host", "tokens.example"), ("origin", "https://tokens.example")];
    let body = crate::support::http::form(&fields);
    let answer = stage.stranger().send("POST", "/sign-in", &headers, body.as_bytes()).says(303);
    let (name, attributes) = cookie(&answer);
    assert_eq!(name, "__Host-portcullis");
    assert_eq!(attributes, ["httponly", "path=/", "samesite=strict", "secure"]);

    let setup = Setup::sqlite().tls(&authority.server());
    let server = setup.start();
    let mut browser = Http::tls(&server, &authority);
    let fields = [("credential", server.operator()), ("next", "")];
    let answer = browser.post("/sign-in", &fields);
    guarded(&answer);
    let (name, attributes) = cookie(&answer.says(303));
    assert_eq!(name, "__Host-portcullis");
    assert_eq!(attributes, ["httponly", "path=/", "samesite=strict", "secure"]);
    browser.get("/tokens").says(200);
    // A cookie of the other name may have been planted by a page of another port, over plain HTTP.
    let session = browser.session().to_owned();
    browser.stranger().with_cookie("portcullis", &session).get("/tokens").says(303);
}

#[tokio::test]
async fn a_session_that_the_client_chose_is_none() {
    let stage = Stage::new().await;
    let chosen = "A".repeat(43);
    let mut planted = stage.stranger().with_cookie("portcullis", &chosen);
    planted.get("/tokens").says(303);
    let answer =
        planted.post("/sign-in", &[("credential", &stage.ours.admin), ("next", "")]).says(303);
    cookie(&answer);
    let first = planted.session().to_owned();
    assert_ne!(first, chosen);
    stage.stranger().with_cookie("portcullis", &chosen).get("/tokens").says(303);
    // Signing in again makes another one.
    let again = planted.sign_in(&stage.ours.admin);
    assert_ne!(again.session(), first);

    // Nor is anything else that was never given out.
    let real = again.session().to_owned();
    let swapped: String = real
        .chars()
        .map(|c| if c.is_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
        .collect();
    let wrong = [
        "",
        "x",
        &real[1..],
        &format!("{real}A"),
        &swapped,
        &format!("\"{real}\""),
        &format!("{real}, {real}"),
        "%00",
        &"A".repeat(4_000),
        &stage.ours.admin,
        &stage.ours.credential_id,
    ];
    for value in wrong {
        let mut browser = stage.stranger();
        let header = [("cookie", format!("portcullis={value}"))];
        let header = header.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = browser.send("GET", "/tokens", &header, b"");
        guarded(&answer);
        answer.says(303);
    }
    let header = [("cookie", "; =; portcullis; ;;=portcullis")];
    guarded(&stage.stranger().send("GET", "/tokens", &header, b"").says(303));
}

/// Of several cookies of the session's name, one may have been planted by a neighbouring host or an earlier
/// page: which one is the person's own can't be known, so none counts.
#[tokio::test]
async fn several_session_cookies_are_none() {
    let stage = Stage::new().await;
    let own = stage.admin().session().to_owned();
    let other = stage.thief().session().to_owned();
    let unknown = "0".repeat(64);
    let one = |value: &str| format!("portcullis={value}");
    let answer = |lines: &[String]| {
        let lines: Vec<_> = lines.iter().map(|line| ("cookie", line.as_str())).collect();
        let mut browser = stage.stranger();
        let page = browser.send("GET", "/tokens", &lines, b"");
        guarded(&page);
        page
    };
    answer(&[one(&own)]).says(200);
    answer(&[format!("a=b; {}; c=d", one(&own))]).says(200);
    answer(&["a=b".to_owned(), one(&own), "Portcullis=x; portcullis2=y".to_owned()]).says(200);
    for second in [&other, &own, &unknown, &String::new(), &"x".to_owned()] {
        for (a, b) in [(&own, second), (second, &own)] {
            answer(&[format!("{}; {}", one(a), one(b))]).says(303);
            answer(&[one(a), one(b)]).says(303);
            answer(&[format!("{}; a=b", one(a)), format!("c=d;{}", one(b))]).says(303);
        }
    }
    // Nor does one of them send a form, or sign anybody out.
    let mut admin = stage.admin();
    let csrf = csrf(&mut admin);
    let two = format!("{}; {}", one(admin.session()), one(&own));
    let body = crate::support::http::form(&[("csrf", &csrf), ("everywhere", "on")]);
    stage.stranger().send("POST", "/sign-out", &[("cookie", &two)], body.as_bytes()).says(401);
    admin.get("/tokens").says(200);
    answer(&[one(&own)]).says(200);
}

/// Signing in gives a new session and ends the one that this browser had, whoever's that was.
#[tokio::test]
async fn a_new_session_ends_the_former_one_of_this_browser() {
    let stage = Stage::new().await;
    let elsewhere = stage.admin().session().to_owned();
    let opens = |session: &str| {
        stage.stranger().with_cookie("portcullis", session).get("/tokens").status == 200
    };
    let mut browser = stage.admin();
    for (credential, signs_in) in [
        (stage.ours.admin.as_str(), true),
        (stage.theirs.admin.as_str(), true),
        (stage.server.operator(), true),
        ("wrong", false),
    ] {
        let former = browser.session().to_owned();
        let fields = [("credential", credential), ("next", "")];
        let answer = browser.post("/sign-in", &fields);
        assert_eq!(answer.status == 303, signs_in, "{answer}");
        assert_eq!(opens(&former), !signs_in, "{credential}");
        assert!(opens(browser.session()));
        assert_eq!(browser.session() == former, !signs_in);
    }
    // Other browsers' sessions live on, also those of the same credential.
    assert!(opens(&elsewhere));
    // Of several, none is known to be this browser's, so none is ended.
    let (one, two) = (stage.admin(), stage.admin());
    let both = format!("portcullis={}; portcullis={}", one.session(), two.session());
    let body = crate::support::http::form(&[("credential", &stage.ours.admin), ("next", "")]);
    stage.stranger().send("POST", "/sign-in", &[("cookie", &both)], body.as_bytes()).says(303);
    assert!(opens(one.session()) && opens(two.session()));
}

#[tokio::test]
async fn signing_out_ends_it() {
    let stage = Stage::new().await;
    let (mut here, mut there, mut other) = (stage.admin(), stage.admin(), stage.thief());
    let csrf_here = csrf(&mut here);
    let kept = here.clone();
    let answer = here.post("/sign-out", &[("csrf", &csrf_here)]);
    guarded(&answer);
    let answer = answer.says(303);
    assert_eq!(answer.location(), "/sign-in");
    assert!(here.cookies().is_empty(), "the cookie is taken back: {answer}");
    over(&kept, &csrf_here);
    there.get("/tokens").says(200);

    let (mut third, csrf_there) = (stage.admin(), csrf(&mut there));
    let csrf_third = csrf(&mut third);
    let kept = [(there.clone(), csrf_there.clone()), (third.clone(), csrf_third)];
    there.post("/sign-out", &[("csrf", &csrf_there), ("everywhere", "on")]).says(303);
    for (browser, csrf) in &kept {
        over(browser, csrf);
    }
    other.get("/tokens").says(200);
}

/// Whoever uses a session keeps it; who leaves it alone finds it gone. Rule 8.9.
#[tokio::test]
async fn a_session_that_idles_ends() {
    let stage = Stage::with(Setup::sqlite().flag("--session-idle", "3s")).await;
    let (mut busy, mut idle) = (stage.admin(), stage.admin());
    let mark = csrf(&mut idle);
    let begun = portcullis::clock::Stopwatch::start();
    let enough = std::time::Duration::from_millis(4_500);
    until(|| busy.get("/tokens").says(200).status, |_| begun.elapsed() > enough);
    over(&idle, &mark);
    busy.get("/tokens").says(200);
}

/// However much it is used.
#[tokio::test]
async fn a_session_ends_after_its_lifetime() {
    let lifetime = std::time::Duration::from_secs(4);
    let setup = Setup::sqlite().flag("--session-lifetime", "4s").flag("--session-idle", "4s");
    let stage = Stage::with(setup).await;
    let begun = portcullis::clock::Stopwatch::start();
    let mut admin = stage.admin();
    let mark = csrf(&mut admin);
    let kept = admin.clone();
    until(|| admin.clone().get("/tokens").status, |status| *status == 303);
    assert!(begun.elapsed() >= lifetime, "it ended early: {:?}", begun.elapsed());
    over(&kept, &mark);
    // It is over for good, and the next one is as long.
    stage.admin().get("/tokens").says(200);
}

async fn revoked(stage: &Stage, at: &[&Http]) {
    let (credential, secret) =
        crate::support::calls::credential(&stage.operator, Role::AccountAdmin, &stage.ours.account)
            .await;
    let mut sessions: Vec<(Http, String)> = Vec::new();
    for browser in at {
        let mut browser = browser.stranger().sign_in(&secret);
        let mark = csrf(&mut browser);
        sessions.push((browser, mark));
    }
    // A session is good on every replica.
    for (session, _) in &sessions {
        for browser in at {
            let mut there = browser.stranger().with_cookie("portcullis", session.session());
            there.get("/tokens").says(200);
        }
    }
    let before = stage.names(&stage.ours.account).await;
    let request =
        RevokeCredentialRequest { credential_id: credential.credential_id, no_wait: false };
    stage.operator.credentials().revoke_credential(request).await.unwrap();
    for (session, mark) in &sessions {
        for browser in at {
            over(&browser.stranger().with_cookie("portcullis", session.session()), mark);
        }
    }
    for browser in at {
        let fields = [("credential", secret.as_str()), ("next", "")];
        let refused = browser.stranger().post("/sign-in", &fields).says(401);
        assert_eq!(refused.header("set-cookie"), None, "{refused}");
    }
    assert_eq!(stage.names(&stage.ours.account).await, before);
    stage.admin().get("/tokens").says(200);
}

/// Rule 8.9.
#[tokio::test]
async fn a_revoked_credential_ends_its_sessions() {
    let stage = Stage::new().await;
    revoked(&stage, &[&stage.stranger()]).await;
}

#[tokio::test]
async fn a_revoked_credential_ends_its_sessions_on_every_replica() {
    let url = postgres::database();
    let credential = random_credential();
    let stage = Stage::with(Setup::postgres(&url).operator(&credential)).await;
    let second = Setup::postgres(&url).operator(&credential).start();
    revoked(&stage, &[&stage.stranger(), &Http::new(&second)]).await;
}

#[tokio::test]
async fn a_session_outlives_a_restart_and_no_key_makes_one() {
    let mut stage = Stage::new().await;
    let session = stage.admin().session().to_owned();
    stage.server.restart();
    stage.stranger().with_cookie("portcullis", &session).get("/tokens").says(200);
    // The digest that the store keeps opens nothing.
    let digest = portcullis::secret::digest(session.as_bytes());
    let hex = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    stage.stranger().with_cookie("portcullis", &hex).get("/tokens").says(303);
}

/// The credential's label may be anything that the API takes, and the same for two of them.
#[tokio::test]
async fn two_credentials_of_one_label_are_two() {
    let stage = Stage::new().await;
    let mut made = Vec::new();
    for _ in 0..2 {
        let request = CreateCredentialRequest {
            role: Role::AccountAdmin.into(),
            account_id: stage.ours.account.clone(),
            name: "laptop".to_owned(),
            ..Default::default()
        };
        let answer = stage.operator.credentials().create_credential(request).await.unwrap();
        made.push(stage.stranger().sign_in(&answer.into_inner().secret));
    }
    let mark = csrf(&mut made[0]);
    made[0].post("/sign-out", &[("csrf", &mark), ("everywhere", "on")]).says(303);
    made[1].get("/tokens").says(200);
}
