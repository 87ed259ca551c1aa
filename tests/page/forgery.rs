//! Forms that the page didn't make: from elsewhere, without its mark, framed, or sent twice.

use portcullis::grpc::proto::Token;

use crate::page::checks::guarded;
use crate::page::stage::{Stage, WHITELIST};
use crate::page::strangers::FAR;
use crate::support::http::{Answer, Http, form};

/// Every form that changes something, as the page would send it but for `csrf`.
async fn forms(stage: &Stage, admin: &mut Http) -> Vec<(String, Vec<(String, String)>)> {
    let once = admin.get("/tokens/new").says(200).field("form");
    let own = |fields: &[(&str, &str)]| -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let whitelist = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
    let version = admin.get(&whitelist).says(200).field("version");
    let version = ("version", version.as_str());
    vec![
        (
            "/tokens/new".to_owned(),
            own(&[("form", &once), ("name", "forged"), ("kind", "READ_ONLY"), ("whitelist", "")]),
        ),
        (whitelist.clone(), own(&[("step", "save"), ("add", "203.0.113.9"), version])),
        (whitelist.clone(), own(&[("step", "save"), ("remove", WHITELIST[1]), version])),
        (format!("{whitelist}/preview"), own(&[("add", "203.0.113.9"), version])),
        (format!("/tokens/{}/expire", stage.ours.open.token_id), own(&[("confirm", FAR)])),
        (
            format!("/tokens/{}/replace", stage.ours.open.token_id),
            own(&[("overlap", "1h"), ("what", "same")]),
        ),
        (format!("/tokens/{}/delete", stage.ours.open.token_id), own(&[("confirm", "on")])),
        ("/sign-out".to_owned(), own(&[("everywhere", "on")])),
    ]
}

fn body(fields: &[(String, String)], csrf: Option<&str>) -> Vec<u8> {
    let mut fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    fields.extend(csrf.map(|csrf| ("csrf", csrf)));
    form(&fields).into_bytes()
}

async fn untouched(stage: &Stage, before: i64, admin: &mut Http) {
    assert_eq!(stage.position().await, before, "something was changed");
    assert_eq!(stage.now(&stage.ours.token).await, stage.ours.token);
    assert_eq!(stage.now(&stage.ours.open).await, stage.ours.open);
    assert_eq!(stage.names(&stage.ours.account).await.len(), 2);
    admin.get("/tokens").says(200);
}

/// Rule 8.10.
#[tokio::test]
async fn a_form_needs_the_mark_of_its_own_session() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let right = admin.get("/tokens/new").field("csrf");
    assert!(right.len() >= 22, "at least 128 bits: {right}");
    // Of the same credential, and of another account's.
    let again = stage.admin().get("/tokens/new").field("csrf");
    let theirs = stage.thief().get("/tokens/new").field("csrf");
    assert!(again != right && theirs != right && theirs != again);
    let session = admin.session().to_owned();
    let (shorter, longer) = (&right[..right.len() - 1], format!("{right}0"));
    let wrong = ["", "x", &again, &theirs, &session, shorter, &longer, &right.to_uppercase()];

    let before = stage.position().await;
    for (path, fields) in forms(&stage, &mut admin).await {
        let marks = wrong.iter().map(|mark| Some(*mark)).chain([None]);
        for csrf in marks.filter(|csrf| *csrf != Some(right.as_str())) {
            let answer = admin.send("POST", &path, &[], &body(&fields, csrf));
            guarded(&answer);
            answer.says(403);
        }
        // Where the right one stands: in the address it is none.
        let elsewhere = format!("{path}?csrf={right}");
        admin.send("POST", &elsewhere, &[], &body(&fields, None)).says(403);
        let header = [("x-csrf-token", right.as_str())];
        admin.send("POST", &path, &header, &body(&fields, None)).says(403);
    }
    untouched(&stage, before, &mut admin).await;
}

#[tokio::test]
async fn a_form_from_elsewhere_does_nothing() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let csrf = admin.get("/tokens/new").field("csrf");
    let port = stage.server.http().port();
    let sibling = format!("http://127.0.0.1:{}", port ^ 1);
    let look_alike = format!("http://127.0.0.1:{port}.evil.example");
    let named = format!("http://127.0.0.1:{port}@evil.example");
    // What a page's script can't write itself counts first; browsers that don't send it name the origin.
    let elsewhere: Vec<Vec<(&str, &str)>> = vec![
        vec![("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")],
        vec![("origin", "null"), ("sec-fetch-site", "cross-site")],
        vec![("origin", ""), ("sec-fetch-site", "cross-site")],
        vec![("sec-fetch-site", "cross-site")],
        vec![("origin", &sibling), ("sec-fetch-site", "same-site")],
        vec![("origin", "https://evil.example"), ("sec-fetch-site", "")],
        vec![("origin", "null"), ("sec-fetch-site", "")],
        vec![("origin", &sibling), ("sec-fetch-site", "")],
        vec![("origin", &look_alike), ("sec-fetch-site", "")],
        vec![("origin", &named), ("sec-fetch-site", "")],
        vec![("origin", "file://"), ("sec-fetch-site", "")],
    ];
    let before = stage.position().await;
    for (path, fields) in forms(&stage, &mut admin).await {
        for headers in &elsewhere {
            let answer = admin.send("POST", &path, headers, &body(&fields, Some(&csrf)));
            guarded(&answer);
            assert_eq!(answer.status, 403, "{headers:?}: {answer}");
        }
    }
    untouched(&stage, before, &mut admin).await;

    // Nobody is signed in as somebody else from elsewhere.
    let mut victim = stage.stranger();
    let fields = form(&[("credential", &stage.theirs.admin), ("next", "/tokens")]).into_bytes();
    for headers in &elsewhere {
        let answer = victim.send("POST", "/sign-in", headers, &fields);
        guarded(&answer);
        let answer = answer.says(403);
        assert_eq!(answer.header("set-cookie"), None, "{answer}");
    }
    assert_eq!(stage.position().await, before, "a session was begun");
}

/// The same forms do something where nothing is wrong with them: else these tests would show nothing.
#[tokio::test]
async fn the_same_forms_work_when_nothing_is_wrong() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let csrf = admin.get("/tokens/new").field("csrf");
    for (path, fields) in forms(&stage, &mut admin).await {
        let before = stage.position().await;
        let mut fields = fields;
        let whitelist = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
        if let Some((_, version)) = fields.iter_mut().find(|(name, _)| name == "version") {
            *version = admin.get(&whitelist).field("version");
        }
        let answer = admin.send("POST", &path, &[], &body(&fields, Some(&csrf)));
        guarded(&answer);
        assert!([200, 303].contains(&answer.status), "{answer}");
        let changed = !path.ends_with("/preview");
        assert_eq!(stage.position().await > before, changed, "{answer}");
    }
    admin.get("/tokens").says(303);
}

#[tokio::test]
async fn nothing_that_is_asked_changes_anything() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let csrf = admin.get("/tokens/new").field("csrf");
    let before = stage.position().await;
    for (path, fields) in forms(&stage, &mut admin).await {
        let query = String::from_utf8(body(&fields, Some(&csrf))).unwrap();
        for method in ["GET", "HEAD"] {
            let answer = admin.send(method, &format!("{path}?{query}"), &[], b"");
            guarded(&answer);
            assert!(answer.status < 500, "{answer}");
        }
    }
    untouched(&stage, before, &mut admin).await;
}

/// Every kind of answer that there is, by whoever can get it.
#[tokio::test]
async fn no_answer_can_be_framed_or_run_anything() {
    let stage = Stage::new().await;
    let mut kinds = Vec::new();
    let mut see = |answer: Answer| {
        guarded(&answer);
        kinds.push(answer.status);
        answer
    };
    let mut stranger = stage.stranger();
    see(stranger.get("/sign-in"));
    see(stranger.get("/tokens"));
    see(stranger.post("/sign-in", &[("credential", "wrong"), ("next", "")]));
    see(stranger.post("/tokens/new", &[]));
    let page = see(stage.admin().get("/tokens/new"));
    let assets: Vec<_> =
        page.links().into_iter().filter(|link| link.starts_with("/assets/")).collect();
    assert!(assets.iter().any(|link| link.contains(".css")), "{assets:?}");
    assert!(assets.iter().any(|link| link.contains(".js")), "{assets:?}");
    for asset in &assets {
        see(stranger.get(asset).says(200));
        see(stranger.send("HEAD", asset, &[], b""));
    }
    see(stranger.get("/assets/none.css").says(404));
    see(stranger.get("/favicon.ico"));

    let mut admin = stage.admin();
    let token = &stage.ours.token.token_id;
    let csrf = see(admin.get("/tokens/new")).field("csrf");
    see(admin.get("/nothing-here").says(404));
    see(admin.post(&format!("/tokens/{token}/whitelist"), &[]).says(403));
    see(admin.send("DELETE", &format!("/tokens/{token}"), &[], b"").says(405));
    let bad = [("csrf", csrf.as_str()), ("step", "save"), ("version", "1"), ("add", "10.0.0.5/24")];
    see(admin.post(&format!("/tokens/{token}/whitelist"), &bad).says(422));
    let stale = [("csrf", csrf.as_str()), ("step", "save"), ("version", "99"), ("add", "10.0.0.5")];
    see(admin.post(&format!("/tokens/{token}/whitelist"), &stale).says(409));
    see(admin.send("POST", "/tokens/new", &[], &vec![b'x'; 300 * 1024]).says(413));
    let mut guesser = stage.stranger();
    for _ in 0..12 {
        see(guesser.post("/sign-in", &[("credential", "wrong"), ("next", "")]));
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, [200, 303, 401, 403, 404, 405, 409, 413, 422, 429]);
}

/// Rule 8.10.
#[tokio::test]
async fn a_form_makes_one_token_however_often_it_is_sent() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let page = admin.get("/tokens/new");
    let (csrf, once) = (page.field("csrf"), page.field("form"));
    assert_ne!(once, admin.get("/tokens/new").field("form"), "each form is another one");
    let fields = [
        ("csrf", csrf.as_str()),
        ("form", &once),
        ("name", "once"),
        ("kind", "READ_ONLY"),
        ("whitelist", ""),
    ];
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let sending: Vec<_> = (0..8)
            .map(|_| {
                let mut browser = admin.clone();
                scope.spawn(move || browser.post("/tokens/new", &fields))
            })
            .collect();
        sending.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    let mut made = 0;
    for answer in &answers {
        guarded(answer);
        made += usize::from(answer.status == 200);
        let secret = answer.tags().iter().any(|tag| tag.is("id", "secret"));
        assert_eq!(secret, answer.status == 200, "{answer}");
    }
    assert_eq!(made, 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert!(answers.iter().all(|answer| [200, 409].contains(&answer.status)));
    let later = admin.post("/tokens/new", &fields).says(409);
    assert!(!later.tags().iter().any(|tag| tag.is("id", "secret")), "{later}");
    let other = [&fields[..4], &[("whitelist", "192.0.2.1")]].concat();
    admin.post("/tokens/new", &other).says(409);
    let twice = [fields.as_slice(), &[("whitelist", "192.0.2.1")]].concat();
    admin.post("/tokens/new", &twice).says(400);
    assert_eq!(stage.names(&stage.ours.account).await, ["Ours writer", "Ours reader", "once"]);
    // Without one, or with a thing that is none, nothing is made.
    for none in [None, Some(""), Some("x"), Some("00"), Some("é")] {
        let mut fields = fields.to_vec();
        fields.retain(|(name, _)| *name != "form");
        fields.extend(none.map(|none| ("form", none)));
        let answer = admin.post("/tokens/new", &fields);
        guarded(&answer);
        assert!((400..500).contains(&answer.status), "{answer}");
    }
    assert_eq!(stage.names(&stage.ours.account).await.len(), 3);
    // A form with faults was not used up: mended, it works.
    let page = admin.get("/tokens/new");
    let once = page.field("form");
    let mut fields = fields.to_vec();
    fields[1].1 = &once;
    fields[3].1 = "READ_WRITE";
    let faulty = admin.post("/tokens/new", &fields).says(422);
    let again = faulty.field("form");
    fields[1].1 = &again;
    fields[4].1 = "192.0.2.1";
    admin.post("/tokens/new", &fields).says(200);
}

#[tokio::test]
async fn a_replayed_change_does_nothing() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let Token { token_id, .. } = &stage.ours.token;
    let whitelist = format!("/tokens/{token_id}/whitelist");
    let page = admin.get(&whitelist);
    let (csrf, version) = (page.field("csrf"), page.field("version"));
    let save = |add: &'static str, remove: &'static str| {
        vec![
            ("csrf", csrf.as_str()),
            ("step", "save"),
            ("version", version.as_str()),
            ("add", add),
            ("remove", remove),
        ]
    };
    let first = save("203.0.113.9", WHITELIST[1]);
    let saved = admin.post(&whitelist, &first).says(303);
    assert!(saved.location().starts_with(&format!("/tokens/{token_id}")), "{saved}");
    let after = stage.now(&stage.ours.token).await;
    assert_eq!(after.whitelist_version, stage.ours.token.whitelist_version + 1);
    let before = stage.position().await;
    for fields in [first, save(WHITELIST[1], "203.0.113.9"), save("203.0.113.10", "")] {
        let mut fields = fields;
        fields.retain(|(name, value)| *name != "remove" || !value.is_empty());
        let answer = admin.post(&whitelist, &fields);
        guarded(&answer);
        answer.says(409);
    }
    assert_eq!(stage.now(&stage.ours.token).await, after);
    let delete = format!("/tokens/{token_id}/delete");
    let fields = [("csrf", csrf.as_str()), ("confirm", "on")];
    assert_eq!(stage.position().await, before, "something was changed");
    admin.post(&delete, &fields).says(303);
    let gone = stage.now(&stage.ours.token).await;
    let before = stage.position().await;
    guarded(&admin.post(&delete, &fields));
    assert_eq!(stage.position().await, before, "deleted twice");
    assert_eq!(stage.now(&stage.ours.token).await, gone);
}
