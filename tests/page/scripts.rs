//! Script in every text that somebody else chose and the page shows: it reads as text and runs nowhere.
//! `browser/hostile.js` looks at the same pages with a browser.

use std::collections::BTreeSet;

use portcullis::grpc::proto::{
    ApplyCatalogRequest, CreateCredentialRequest, GetCatalogRequest, ManageWhitelistRequest, Role,
    SetAccountAdminsRequest, TokenKind, WhitelistReplacement,
};

use crate::page::checks::{guarded, inert, shown_as_text, walk};
use crate::page::stage::{Stage, account, named_token};
use crate::support::client::Client;
use crate::support::command::Shell;
use crate::support::http::{Http, form};
use crate::support::server::{Server, Setup};
use crate::support::smtp::{Sink, Step};
use crate::support::wait::until;

/// Each breaks out of another place: text, attributes in either quotes, a script, a title, an address.
pub(crate) const HOSTILE: [&str; 9] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' autofocus onfocus=alert(1) x='",
    "</title></textarea></script><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "&lt;b&gt; &amp; &#60;script&#62;",
    "<!-- --><a href=//evil.example>click</a>",
    "{{7*7}} {% raw %} ${7*7} <%= 7 %>",
    "\\\"); alert(1); //",
];

/// As much of it as a mail address may have.
pub(crate) const ADMIN: &str = "o'neil&`{alert}$!#%*+/=?^_|~@hostile.example";

/// What the mail server says of that address.
pub(crate) const REFUSAL: &str =
    "550 5.1.1 <script>alert(1)</script> \"><img src=x onerror=alert(1)>";

/// A server whose every text is hostile: accounts, tokens, admins, scopes, credentials, and the mail
/// server's words. Gives it with the credential of the account that has the most of it.
pub(crate) async fn hostile(sink: &Sink) -> (Server, String, String) {
    sink.at(Step::Rcpt).to(ADMIN).says(REFUSAL);
    // Short, so that there is a notice to refuse; and long enough that nothing is taken meanwhile.
    let setup = Setup::sqlite()
        .flag("--lifecycle-window", "1h")
        .flag("--lifecycle-notice", "59m59s")
        .flag("--lifecycle-sweep-interval", "200ms")
        .env("PORTCULLIS_SMTP_URL", sink.url())
        .flag("--mail-from", "portcullis@example.test")
        .flag("--mail-rate", "1000");
    let server = setup.start();
    let operator = Client::operator(&server).await;
    let mut catalog =
        operator.catalog().get_catalog(GetCatalogRequest {}).await.unwrap().into_inner();
    for (number, text) in HOSTILE.iter().enumerate() {
        let text = toml::Value::from(*text);
        catalog.toml.push_str(&format!(
            "\n[[scope]]\nname = \"hostile.n{number}\"\naccess = \"write\"\ndescription = {text}\n"
        ));
    }
    let request = ApplyCatalogRequest { toml: catalog.toml, ..Default::default() };
    operator.catalog().apply_catalog(request).await.unwrap();

    let mut accounts = Vec::new();
    for text in HOSTILE {
        accounts.push(account(&operator, text, &["ann@hostile.example"]).await);
    }
    let request = SetAccountAdminsRequest {
        account_id: accounts[0].clone(),
        admin_emails: vec!["ann@hostile.example".to_owned(), ADMIN.to_owned()],
    };
    operator.accounts().set_account_admins(request).await.unwrap();
    let scopes: Vec<_> = (0..HOSTILE.len()).map(|number| format!("hostile.n{number}")).collect();
    let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
    for text in HOSTILE {
        let kind = TokenKind::Custom;
        let (token, _) =
            named_token(&operator, &accounts[0], text, kind, &scopes, &["192.0.2.1"]).await;
        // History, with versions to go back to.
        let entries = vec!["198.51.100.0/24".to_owned()];
        let request = ManageWhitelistRequest {
            token_id: token.token_id,
            replace: Some(WhitelistReplacement { entries, allow_any_address: false }),
            ..Default::default()
        };
        operator.tokens().manage_whitelist(request).await.unwrap();
    }
    let request = CreateCredentialRequest {
        role: Role::AccountAdmin.into(),
        account_id: accounts[0].clone(),
        name: HOSTILE[0].to_owned(),
        ..Default::default()
    };
    let admin = operator.credentials().create_credential(request).await.unwrap().into_inner();
    let request = CreateCredentialRequest {
        role: Role::Operator.into(),
        account_id: String::new(),
        name: HOSTILE[1].to_owned(),
        ..Default::default()
    };
    let person = operator.credentials().create_credential(request).await.unwrap().into_inner();
    let shell = Shell::operator(&server);
    let refused = || {
        let answer = shell.run(&["pending", "--output", "json"]).json();
        answer.to_string().matches("NOTICE_STATE_FAILING").count()
    };
    until(refused, |refused| *refused == HOSTILE.len());
    (server, admin.secret, person.secret)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_wrote_runs_nowhere() {
    let sink = Sink::start();
    let (server, admin, operator) = hostile(&sink).await;
    for (credential, label) in [(&admin, HOSTILE[0]), (&operator, HOSTILE[1])] {
        let mut browser = Http::new(&server).sign_in(credential);
        let pages = walk(&mut browser, "/tokens");
        let shown: BTreeSet<&str> = HOSTILE
            .iter()
            .filter(|text| {
                let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
                pages.iter().any(|page| {
                    page.header("content-type").is_some_and(|kind| kind.starts_with("text/html"))
                        && page.words().contains(&squeezed)
                })
            })
            .copied()
            .collect();
        assert_eq!(shown.len(), HOSTILE.len(), "each of them is shown: {shown:?}");
        // Who is signed in, what the address is, and what the mail server said of it.
        shown_as_text(&pages[0], label);
        let pending = browser.get("/pending").says(200);
        shown_as_text(&pending, ADMIN);
        shown_as_text(&pending, &REFUSAL[10..]);
        let new = browser.get("/tokens/new").says(200);
        for text in HOSTILE {
            // Descriptions of scopes.
            shown_as_text(&new, text);
        }
    }
    let mut browser = Http::new(&server).sign_in(&operator);
    let status = browser.get("/status").says(200);
    shown_as_text(&status, ADMIN);
    shown_as_text(&status, &REFUSAL[10..]);
    let accounts = browser.get("/accounts").says(200);
    for text in HOSTILE {
        shown_as_text(&accounts, text);
    }
}

#[tokio::test]
async fn what_is_typed_comes_back_as_text() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let whitelist = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
    let csrf = admin.get(&whitelist).field("csrf");
    for text in HOSTILE {
        // The search, and whatever else a page takes from its address.
        let query = form(&[("q", text)]);
        shown_as_text(&admin.get(&format!("/tokens?{query}")).says(200), text);
        for field in ["account", "kind", "show", "sort", "page", "type", "restore", "unknown"] {
            let query = form(&[(field, text)]);
            for path in ["/tokens", "/tokens/new", "/pending", &whitelist, "/sign-in"] {
                guarded(&admin.get(&format!("{path}?{query}")));
            }
        }
        let next = form(&[("next", &format!("/tokens?q={text}"))]);
        guarded(&stage.stranger().get(&format!("/sign-in?{next}")).says(200));
        let path: String = form(&[("", text)])[1..].to_owned();
        for path in [format!("/{path}"), format!("/tokens/{path}"), format!("/accounts/{path}")] {
            guarded(&admin.get(&path).says(404));
        }

        // A new token's form with faults.
        let fields = [
            ("csrf", csrf.as_str()),
            ("name", text),
            ("kind", "CUSTOM"),
            ("scope", "transactions.read"),
            ("whitelist", text),
        ];
        let mut send = |more: &[(&str, &str)]| {
            let once = admin.get("/tokens/new").says(200).field("form");
            let mut fields = [&fields[..], &[("form", once.as_str())]].concat();
            for (field, value) in more {
                fields.retain(|(name, _)| name != field);
                fields.push((field, value));
            }
            let answer = admin.post("/tokens/new", &fields);
            guarded(&answer);
            answer
        };
        let faulty = send(&[]).says(422);
        shown_as_text(&faulty, text);
        assert_eq!(faulty.field("name"), text, "what was typed is kept");
        assert_eq!(faulty.field("whitelist").trim_start_matches('\n'), text);
        for field in ["kind", "scope", "account", "form"] {
            let answer = send(&[(field, text)]);
            assert!((400..500).contains(&answer.status), "{field}: {answer}");
        }

        // A whitelist with entries that are none.
        for (step, status) in [("review", 200), ("add-mine", 200), ("save", 422)] {
            let fields = [("csrf", csrf.as_str()), ("step", step), ("version", "1"), ("add", text)];
            let answer = admin.post(&whitelist, &fields);
            guarded(&answer);
            let answer = answer.says(status);
            let kept = answer.field("add");
            assert!(kept.trim_start_matches('\n').starts_with(text), "{step}: {kept}");
        }
        let fields = [("csrf", csrf.as_str()), ("version", "1"), ("add", text)];
        let preview = admin.post(&format!("{whitelist}/preview"), &fields);
        guarded(&preview);
        inert(&preview.says(200));
        for (field, value) in [("remove", text), ("version", text), ("step", text), ("csrf", text)]
        {
            let mut fields =
                vec![("csrf", csrf.as_str()), ("step", "save"), ("version", "1"), ("add", "")];
            fields.retain(|(name, _)| *name != field);
            fields.push((field, value));
            let answer = admin.post(&whitelist, &fields);
            guarded(&answer);
            assert!(answer.status != 303, "{field}: {answer}");
        }
        // Not one of those is somebody's credential.
        let from = format!("127.0.2.{}", 1 + HOSTILE.iter().position(|one| *one == text).unwrap());
        let fields = [("credential", text), ("next", text)];
        guarded(&stage.stranger().from(&from).post("/sign-in", &fields).says(401));
    }
    assert_eq!(stage.now(&stage.ours.token).await, stage.ours.token);
    assert_eq!(stage.names(&stage.ours.account).await.len(), 2);
}

/// What is refused is named, with the cure (docs/policy.md, rule 3.9).
#[tokio::test]
async fn each_entry_is_understood_or_refused_with_its_cure() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let whitelist = format!("/tokens/{}/whitelist", stage.ours.token.token_id);
    let page = admin.get(&whitelist).says(200);
    for entry in WHITELISTED {
        assert!(page.tags().iter().any(|tag| tag.is("name", "remove") && tag.is("value", entry)));
    }
    let (csrf, version) = (page.field("csrf"), page.field("version"));
    let pasted = "203.0.113.9\r\n10.0.0.5/24, 2001:DB8:0::/32\r\n\r\n  ::ffff:203.0.113.10/128 \t 010.0.0.1;localhost";
    let before = stage.position().await;
    for path in [whitelist.clone(), format!("{whitelist}/preview")] {
        let fields =
            [("csrf", csrf.as_str()), ("step", "review"), ("version", &version), ("add", pasted)];
        let answer = admin.post(&path, &fields);
        guarded(&answer);
        let answer = answer.says(200);
        // Understood, each in canonical form; refused, each with what was meant.
        answer.shows(&[
            "203.0.113.9",
            "2001:db8::/32",
            "203.0.113.10",
            "10.0.0.5/24",
            "10.0.0.0/24",
            "010.0.0.1",
            "localhost",
        ]);
    }
    let mine = [("csrf", csrf.as_str()), ("step", "add-mine"), ("version", &version), ("add", "")];
    let mine = admin.post(&whitelist, &mine).says(200);
    assert!(mine.field("add").contains("127.0.0.1"), "{mine}");
    let refused =
        [("csrf", csrf.as_str()), ("step", "save"), ("version", &version), ("add", pasted)];
    admin.post(&whitelist, &refused).says(422).shows(&["10.0.0.0/24"]);
    assert_eq!(stage.position().await, before, "one bad entry refuses the whole change");
    assert_eq!(stage.now(&stage.ours.token).await, stage.ours.token);
}

const WHITELISTED: [&str; 2] = crate::page::stage::WHITELIST;
