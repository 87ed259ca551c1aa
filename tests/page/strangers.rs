//! Who has no session gets nothing, and who has another account's gets what there is not: nobody can tell
//! that an account or token of somebody else exists (docs/policy.md, rule 8.4).

use portcullis::policy::id::{AccountId, TokenId};
use uuid::Uuid;

use crate::page::checks::guarded;
use crate::page::stage::{Side, Stage, WHITELIST};
use crate::support::http::{Answer, decoded};

/// Every page about an account and its tokens.
fn pages(account: &str, token: &str) -> Vec<String> {
    vec![
        format!("/tokens/{token}"),
        format!("/tokens/{token}/whitelist"),
        format!("/tokens/{token}/whitelist?restore=1"),
        format!("/tokens/{token}/delete"),
        format!("/tokens/{token}/denials"),
        format!("/tokens/{token}/replace"),
        format!("/tokens/{token}/expire"),
        format!("/accounts/{account}"),
        format!("/accounts/{account}/credentials"),
    ]
}

/// Pages that operators narrow to an account.
fn narrowed(account: &str) -> [String; 3] {
    ["/tokens", "/tokens/new", "/pending"].map(|path| format!("{path}?account={account}"))
}

type Form = (String, Vec<(&'static str, &'static str)>);

/// Every form about a token, all of which would do something in the right hands.
fn forms(token: &str) -> Vec<Form> {
    let whitelist = format!("/tokens/{token}/whitelist");
    vec![
        (whitelist.clone(), vec![("step", "review"), ("add", "203.0.113.9"), ("version", "1")]),
        (whitelist.clone(), vec![("step", "add-mine"), ("add", ""), ("version", "1")]),
        (whitelist.clone(), vec![("step", "save"), ("add", "203.0.113.9"), ("version", "1")]),
        (whitelist.clone(), vec![("step", "save"), ("remove", WHITELIST[1]), ("version", "1")]),
        (whitelist.clone(), vec![("step", "lift"), ("confirm", "on"), ("version", "1")]),
        (format!("{whitelist}/preview"), vec![("add", "203.0.113.9"), ("version", "1")]),
        (format!("/tokens/{token}/delete"), vec![("confirm", "on")]),
        (format!("/tokens/{token}/replace"), vec![("overlap", "0s"), ("what", "same")]),
        (format!("/tokens/{token}/expire"), vec![("confirm", FAR)]),
    ]
}

/// An expiry of the year 2100.
pub(crate) const FAR: &str = "4102444800000000";

/// Of the right shape.
pub(crate) const FORM: &str = "000102030405060708090a0b0c0d0e0f";

#[tokio::test]
async fn strangers_are_sent_to_sign_in() {
    let stage = Stage::new().await;
    let mut stranger = stage.stranger();
    let home = stranger.get("/");
    guarded(&home);
    assert_eq!(home.says(303).location(), "/tokens");

    let never = (AccountId(Uuid::now_v7()).to_string(), TokenId(Uuid::now_v7()).to_string());
    let there = (&stage.ours.account, &stage.ours.token.token_id);
    let mut shapes = Vec::new();
    for (account, token) in [there, (&never.0, &never.1)] {
        let mut all = pages(account, token);
        all.extend(narrowed(account));
        all.extend(
            ["/tokens", "/tokens?q=Ours", "/tokens/new", "/pending", "/accounts"].map(String::from),
        );
        all.extend(["/credentials", "/status"].map(String::from));
        for path in all {
            let answer = stranger.get(&path);
            guarded(&answer);
            let answer = answer.says(303);
            let next = answer.location().strip_prefix("/sign-in").expect("sent to sign in");
            // Where everybody goes first needs no word.
            let next = next.strip_prefix("?next=").unwrap_or("/tokens");
            assert_eq!(decoded(next), path);
            assert_eq!(answer.header("set-cookie"), None, "a stranger gets no session: {answer}");
            let shape = decoded(answer.location());
            shapes.push(shape.replace(account, "ACCOUNT").replace(token, "TOKEN"));
        }
    }
    // What is there looks like what is not.
    let (there, absent) = shapes.split_at(shapes.len() / 2);
    assert_eq!(there, absent);
}

#[tokio::test]
async fn forms_of_strangers_do_nothing() {
    let stage = Stage::new().await;
    let mut stranger = stage.stranger();
    // A thief who saw a page may have this of it.
    let mut admin = stage.admin();
    let page = admin.get("/tokens/new");
    let (csrf, once) = (page.field("csrf"), page.field("form"));

    let before = stage.position().await;
    let mut all = forms(&stage.ours.token.token_id);
    all.push(("/sign-out".to_owned(), vec![("everywhere", "on")]));
    let new = [("name", "stolen"), ("kind", "READ_ONLY"), ("whitelist", "")];
    all.push(("/tokens/new".to_owned(), new.to_vec()));
    for (path, fields) in all {
        for more in [vec![], vec![("csrf", csrf.as_str()), ("form", &once)]] {
            let answer = stranger.post(&path, &[&fields[..], &more].concat());
            guarded(&answer);
            let answer = answer.says(401);
            assert!(stranger.cookies().is_empty(), "{answer}");
            assert!(answer.text().contains("/sign-in"), "says where to sign in: {answer}");
        }
    }
    assert_eq!(stage.position().await, before, "something was changed");
    assert_eq!(stage.names(&stage.ours.account).await, ["Ours writer", "Ours reader"]);
    admin.get("/tokens").says(200);
}

/// All of an answer, with what differs from one request to the next replaced.
fn whole(answer: &Answer, account: &str, token: &str) -> String {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date" && name != "x-request-id");
    let once = answer.try_field("form").unwrap_or_else(|| "no form".to_owned());
    let text = format!("{} {headers:?} {}", answer.status, answer.text());
    text.replace(account, "ACCOUNT").replace(token, "TOKEN").replace(&once, "FORM")
}

#[tokio::test]
async fn what_is_somebody_elses_is_not_there() {
    let stage = Stage::new().await;
    let mut thief = stage.thief();
    let csrf = thief.get("/tokens/new").field("csrf");
    let Side { account, token, open, .. } = &stage.ours;
    let before = stage.position().await;

    for victim in [token, open] {
        let never = (AccountId(Uuid::now_v7()).to_string(), TokenId(Uuid::now_v7()).to_string());
        let there = pages(account, &victim.token_id);
        for (path, none) in there.iter().zip(pages(&never.0, &never.1)) {
            let answer = thief.get(path);
            guarded(&answer);
            let absent = thief.get(&none).says(404);
            assert_eq!(
                whole(&answer, account, &victim.token_id),
                whole(&absent, &never.0, &never.1),
                "{path}"
            );
        }
        let there = forms(&victim.token_id);
        for ((path, fields), (none, _)) in there.iter().zip(forms(&never.1)) {
            let fields = [&fields[..], &[("csrf", csrf.as_str())]].concat();
            let answer = thief.post(path, &fields);
            guarded(&answer);
            let absent = thief.post(&none, &fields).says(404);
            assert_eq!(
                whole(&answer, account, &victim.token_id),
                whole(&absent, &never.0, &never.1),
                "{path} {fields:?}"
            );
        }
        for (path, none) in narrowed(account).iter().zip(narrowed(&never.0)) {
            let (answer, absent) = (thief.get(path), thief.get(&none));
            guarded(&answer);
            let absent = whole(&absent, &never.0, &never.1);
            assert_eq!(whole(&answer, account, &victim.token_id), absent, "{path}");
            assert!(!answer.text().contains("Ours"), "{answer}");
        }
    }
    assert_eq!(stage.position().await, before, "something was changed");
    assert_eq!(stage.now(token).await, *token);
    assert_eq!(stage.names(account).await, ["Ours writer", "Ours reader"]);
    assert_eq!(stage.names(&stage.theirs.account).await, ["Theirs writer", "Theirs reader"]);
    // Nor is anything made there: whatever the form says, its owner is the sender's account or none.
    for kind in ["READ_ONLY", "READ_WRITE"] {
        let once = thief.get("/tokens/new").field("form");
        let fields = [
            ("csrf", csrf.as_str()),
            ("form", &once),
            ("account", account),
            ("account_id", account),
            ("name", "planted"),
            ("kind", kind),
            ("whitelist", "192.0.2.1"),
        ];
        let answer = thief.post("/tokens/new", &fields);
        guarded(&answer);
        assert!(!answer.text().contains(account.as_str()), "{answer}");
    }
    assert_eq!(stage.names(account).await, ["Ours writer", "Ours reader"]);
}

#[tokio::test]
async fn lists_and_searches_stay_within_the_account() {
    let stage = Stage::new().await;
    let mut thief = stage.thief();
    let Side { account, token, open, .. } = &stage.ours;
    for path in [
        "/tokens",
        "/tokens?q=writer",
        "/tokens?sort=name",
        "/tokens?show=unrestricted",
        "/pending",
    ] {
        let list = thief.get(path).says(200);
        for hidden in ["Ours", account, &token.token_id, &open.token_id] {
            assert!(!list.text().contains(hidden), "{hidden}: {list}");
        }
    }
    let own = &stage.theirs.token.token_id;
    assert!(
        thief
            .get(&format!("/tokens?q={own}"))
            .says(200)
            .links()
            .contains(&format!("/tokens/{own}"))
    );
    let found = thief.get(&format!("/tokens?q={}", token.token_id)).says(200);
    assert!(!found.links().contains(&format!("/tokens/{}", token.token_id)), "{found}");
    assert!(!found.text().contains("Ours"), "{found}");
}

/// Rule 8.8.
#[tokio::test]
async fn pages_of_operators_are_not_there_for_admins() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let unknown =
        whole(&admin.get("/nothing-here").says(404), "-", "-").replace("/nothing-here", "PATH");
    let own = format!("/accounts/{}", stage.ours.account);
    for path in ["/accounts", "/status", &own] {
        let answer = admin.get(path).says(404);
        guarded(&answer);
        assert_eq!(whole(&answer, "-", "-").replace(path, "PATH"), unknown, "{path}");
    }
    // Nor are there links to them.
    let home = admin.get("/tokens").says(200);
    assert!(!home.links().iter().any(|link| link.starts_with("/accounts") || link == "/status"));
    let mut operator = stage.operator();
    for path in ["/accounts", "/status", &own] {
        guarded(&operator.get(path).says(200));
    }
    let everybody = operator.get("/tokens").says(200);
    everybody.shows(&["Ours writer", "Theirs writer"]);
    let narrowed = operator.get(&format!("/tokens?account={}", stage.ours.account)).says(200);
    let narrowed = narrowed.shows(&["Ours writer"]);
    assert!(!narrowed.text().contains("Theirs writer"), "{narrowed}");
}

#[tokio::test]
async fn a_pep_is_no_person() {
    let stage = Stage::new().await;
    let role = portcullis::grpc::proto::Role::Pep;
    let (_, pep) = crate::support::calls::credential(&stage.operator, role, "").await;
    let refused = stage.stranger().post("/sign-in", &[("credential", &pep), ("next", "/tokens")]);
    guarded(&refused);
    let refused = refused.says(401);
    assert_eq!(refused.header("set-cookie"), None, "{refused}");
    let alert = refused.tags().into_iter().find(|tag| tag.is("role", "alert"));
    assert!(alert.is_some(), "{refused}");
    assert!(!refused.text().contains(&pep), "the page repeats the credential");
}
