//! Requests that no browser sends: huge, broken, to odd paths, with methods that there are not. None is
//! answered with a fault of the server's, none changes anything, and all are guarded like any other.

use crate::page::checks::guarded;
use crate::page::stage::Stage;
use crate::support::http::{Answer, form};

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn bodies_that_are_no_forms() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let token = &stage.ours.token.token_id;
    let page = admin.get("/tokens/new");
    let (csrf, once) = (page.field("csrf"), page.field("form"));
    let right = form(&[
        ("csrf", &csrf),
        ("form", &once),
        ("name", "made"),
        ("kind", "READ_ONLY"),
        ("whitelist", ""),
    ]);
    let before = stage.position().await;
    let mut refused = |path: &str, headers: &[(&str, &str)], body: &[u8]| -> Answer {
        let answer = admin.send("POST", path, headers, body);
        guarded(&answer);
        assert!((400..500).contains(&answer.status), "{answer}");
        answer
    };
    let paths = [
        "/tokens/new".to_owned(),
        format!("/tokens/{token}/whitelist"),
        format!("/tokens/{token}/whitelist/preview"),
        format!("/tokens/{token}/delete"),
        "/sign-out".to_owned(),
        "/sign-in".to_owned(),
    ];
    let broken: [&[u8]; 10] = [
        b"",
        b"&&&&",
        b"=",
        b"%",
        b"csrf",
        b"csrf=%ff%fe&name=x",
        b"\xff\xfe\x00=\x00",
        b"csrf=%zz",
        b"{\"csrf\":\"x\"}",
        b"csrf[]=x&csrf[a]=y",
    ];
    for path in &paths {
        for body in broken {
            refused(path, &[], body);
        }
        let json = format!("{{\"csrf\":\"{csrf}\",\"form\":\"{once}\",\"name\":\"made\"}}");
        refused(path, &[("content-type", "application/json")], json.as_bytes());
        let lines = right.replace('&', "\r\n");
        refused(path, &[("content-type", "text/plain")], lines.as_bytes());
        let parts = format!(
            "--x\r\ncontent-disposition: form-data; name=\"csrf\"\r\n\r\n{csrf}\r\n--x--\r\n"
        );
        refused(path, &[("content-type", "multipart/form-data; boundary=x")], parts.as_bytes());
        refused(path, &[("content-encoding", "gzip")], b"\x1f\x8b\x08\x00");
        // Twice as much as fits, said or unsaid.
        let huge =
            [b"csrf=".as_slice(), csrf.as_bytes(), b"&name=", &vec![b'x'; 512 * 1024]].concat();
        let answer = refused(path, &[], &huge);
        assert_eq!(answer.status, 413, "{answer}");
        let mut chunks = Vec::new();
        for chunk in huge.chunks(16 * 1024) {
            chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            chunks.extend_from_slice(chunk);
            chunks.extend_from_slice(b"\r\n");
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        let unsaid = [("content-length", ""), ("transfer-encoding", "chunked")];
        assert_eq!(refused(path, &unsaid, &chunks).status, 413);
        refused(path, &[("content-type", "text/plain")], right.as_bytes());
        refused(path, &[("content-type", "")], right.as_bytes());
    }
    // Right fields in a wrong wrapping make nothing.
    assert_eq!(stage.position().await, before, "something was changed");
    let answer = admin.send(
        "POST",
        "/tokens/new",
        &[("content-type", &format!("{FORM}; charset=utf-8"))],
        right.as_bytes(),
    );
    guarded(&answer);
    answer.says(200);
}

#[tokio::test]
async fn fields_that_nobody_asked_for() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let token = &stage.ours.token.token_id;
    let whitelist = format!("/tokens/{token}/whitelist");
    let page = admin.get("/tokens/new");
    let (csrf, once) = (page.field("csrf"), page.field("form"));
    let base = [("csrf", csrf.as_str()), ("form", &once), ("name", "many"), ("kind", "CUSTOM")];

    // As many scopes as fit: none is granted that there is not, and the same one is granted once.
    let many: Vec<_> = (0..10_000).map(|_| ("scope", "transactions.read")).collect();
    let faulty: Vec<String> = (0..10_000).map(|number| format!("no.n{number}")).collect();
    let faulty: Vec<_> = faulty.iter().map(|name| ("scope", name.as_str())).collect();
    let answer = admin.post("/tokens/new", &[&base[..], &faulty].concat());
    guarded(&answer);
    assert_eq!(answer.status, 422, "{}", answer.status);
    assert!(answer.body.len() < 512 * 1024, "{} bytes of faults", answer.body.len());
    let once = admin.get("/tokens/new").field("form");
    let base = [("csrf", csrf.as_str()), ("form", &once), ("name", "many"), ("kind", "CUSTOM")];
    let answer = admin.post("/tokens/new", &[&base[..], &many].concat());
    guarded(&answer);
    assert!([200, 422].contains(&answer.status), "{}", answer.status);

    // Rights are not in a form.
    let page = admin.get("/tokens/new");
    let once = page.field("form");
    let more = [
        ("csrf", csrf.as_str()),
        ("form", &once),
        ("name", "modest"),
        ("kind", "READ_ONLY"),
        ("whitelist", ""),
        ("unknown", "x"),
        ("token_id", token),
        ("role", "ROLE_OPERATOR"),
        ("granted_scopes", "transactions.send"),
        ("allow_any_address", "true"),
        ("scope", "transactions.send"),
    ];
    let answer = admin.post("/tokens/new", &more);
    guarded(&answer);
    assert!([200, 422].contains(&answer.status), "{answer}");
    let names = stage.names(&stage.ours.account).await;
    assert_eq!(
        names.iter().filter(|name| *name == "modest").count(),
        usize::from(answer.status == 200)
    );

    // A READ_WRITE token has a whitelist, whatever is sent (docs/policy.md, rule 3.1).
    let entries: Vec<_> =
        stage.ours.token.whitelist.iter().map(|entry| ("remove", entry.as_str())).collect();
    let before = stage.now(&stage.ours.token).await;
    for step in ["save", "lift"] {
        for more in [vec![], vec![("confirm", "on"), ("allow_any_address", "on"), ("replace", "")]]
        {
            let fields =
                vec![("csrf", csrf.as_str()), ("step", step), ("version", "1"), ("add", "")];
            let answer = admin.post(&whitelist, &[fields, entries.clone(), more].concat());
            guarded(&answer);
            let answer = answer.says(422);
            // In words that help.
            assert!(answer.words().contains("whitelist"), "{answer}");
        }
    }
    assert_eq!(stage.now(&stage.ours.token).await, before);
    // One that needs none is lifted only on purpose (rule 3.3).
    let open = format!("/tokens/{}/whitelist", stage.ours.open.token_id);
    let send = |fields: &[(&'static str, &'static str)]| {
        let mut fields = fields.to_vec();
        fields.push(("csrf", csrf.as_str()));
        fields
    };
    let set = send(&[("step", "save"), ("version", "1"), ("add", "192.0.2.1")]);
    admin.post(&open, &set).says(303);
    let last = send(&[("step", "save"), ("version", "2"), ("add", ""), ("remove", "192.0.2.1")]);
    guarded(&admin.post(&open, &last).says(422));
    let unconfirmed = send(&[("step", "lift"), ("version", "2"), ("add", "")]);
    guarded(&admin.post(&open, &unconfirmed).says(422));
    assert_eq!(stage.now(&stage.ours.open).await.whitelist, ["192.0.2.1"]);
    let lift = send(&[("step", "lift"), ("confirm", "on"), ("version", "2"), ("add", "")]);
    admin.post(&open, &lift).says(303);
    assert!(stage.now(&stage.ours.open).await.whitelist.is_empty());
    // Steps that there are not.
    for step in ["", "SAVE", "delete", "review,save"] {
        let fields = send(&[("step", step), ("version", "3"), ("add", "192.0.2.9")]);
        let answer = admin.post(&open, &fields);
        guarded(&answer);
    }
    assert!(stage.now(&stage.ours.open).await.whitelist.is_empty());
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let stage = Stage::new().await;
    let (mut stranger, mut admin) = (stage.stranger(), stage.admin());
    let token = &stage.ours.token.token_id;
    let long = "x".repeat(4_000);
    let paths = [
        "//".to_owned(),
        "//tokens".to_owned(),
        "/tokens/".to_owned(),
        "/tokens//".to_owned(),
        "/tokens/x".to_owned(),
        "/tokens/tok_".to_owned(),
        format!("/tokens/{}", stage.ours.account),
        format!("/tokens/{}", token.to_uppercase()),
        format!("/tokens/{token}/"),
        format!("/tokens/{token}/nothing"),
        format!("/tokens/{token}/whitelist/nothing"),
        format!("/tokens/{token}%00"),
        format!("/tokens/{token}%2fwhitelist"),
        format!("/tokens/{token};x=y"),
        "/tokens/%ff%fe".to_owned(),
        "/tokens/%".to_owned(),
        "/tokens/%zz".to_owned(),
        "/tokens/../status".to_owned(),
        "/tokens/%2e%2e/status".to_owned(),
        "/tokens/..;/status".to_owned(),
        "/TOKENS".to_owned(),
        "/assets".to_owned(),
        "/assets/".to_owned(),
        "/assets/../Cargo.toml".to_owned(),
        "/assets/..%2f..%2fetc%2fpasswd".to_owned(),
        "/assets/%2e%2e/%2e%2e/etc/passwd".to_owned(),
        "/assets//etc/passwd".to_owned(),
        "/assets/style.css".to_owned(),
        "/templates/page/layout.html".to_owned(),
        "/.git/config".to_owned(),
        "/accounts/acc_x".to_owned(),
        "/favicon.ico".to_owned(),
        "/robots.txt".to_owned(),
        "/apple-touch-icon.png".to_owned(),
        "/.well-known/security.txt".to_owned(),
        "/sign-in/".to_owned(),
        "/status/x".to_owned(),
        "/mails".to_owned(),
        "/healthz/".to_owned(),
        "/metrics/x".to_owned(),
        format!("/{long}"),
    ];
    for path in &paths {
        for browser in [&mut stranger, &mut admin] {
            let answer = browser.get(path);
            guarded(&answer);
            // Known pages ask strangers to sign in, whatever id is in their path.
            let sent = answer.status == 303 && answer.location().starts_with("/sign-in");
            assert!(sent || answer.status == 404 || answer.status == 400, "{answer}");
            let page = path.trim_start_matches("/tokens/").trim_start_matches("/accounts/");
            let page = page.len() < path.len() && !page.is_empty() && !page.contains('/');
            assert!(page || !sent, "nobody signs in for what there is not: {answer}");
            assert!(!answer.text().contains("root:"), "{answer}");
        }
        let answer = admin.get(path);
        assert!([400, 404].contains(&answer.status), "{answer}");
    }
    for query in ["page=0", "page=-1", "page=99999999999999999999", "page=1000000000", "page=x"] {
        for path in ["/tokens", "/pending"] {
            guarded(&admin.get(&format!("{path}?{query}")));
        }
    }
    for query in ["q=%ff", "q=%", "q=%00", "q=a&q=b", "%ff=%ff", "sort=x&sort=name", "kind=NONE"] {
        guarded(&admin.get(&format!("/tokens?{query}")));
    }
    let long = format!("/tokens?q={}", "%41".repeat(4_000));
    guarded(&admin.get(&long));
    for restore in ["0", "-1", "99", "x", "99999999999999999999"] {
        guarded(&admin.get(&format!("/tokens/{token}/whitelist?restore={restore}")));
    }
}

#[tokio::test]
async fn methods_that_there_are_not() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let token = &stage.ours.token.token_id;
    let before = stage.position().await;
    let read = ["/tokens".to_owned(), format!("/tokens/{token}"), "/pending".to_owned()];
    let written = ["/sign-out".to_owned(), format!("/tokens/{token}/whitelist/preview")];
    let both = [
        "/sign-in".to_owned(),
        "/tokens/new".to_owned(),
        format!("/tokens/{token}/whitelist"),
        format!("/tokens/{token}/delete"),
    ];
    for (paths, methods) in [
        (&read[..], &["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"][..]),
        (&written[..], &["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]),
        (&both[..], &["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]),
    ] {
        for path in paths {
            for method in methods {
                let answer = admin.send(method, path, &[], b"");
                guarded(&answer);
                let answer = answer.says(405);
                let allowed = answer.header("allow").unwrap_or_default().to_owned();
                assert!(!allowed.is_empty() && !allowed.contains(method), "{answer}");
            }
        }
    }
    // HEAD is GET without its body.
    for path in read.iter().chain(&both) {
        let (head, get) = (admin.send("HEAD", path, &[], b""), admin.get(path));
        guarded(&head);
        assert_eq!(head.status, get.status, "{head}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
    assert_eq!(stage.position().await, before, "something was changed");
}
