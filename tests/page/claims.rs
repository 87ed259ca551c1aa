//! What pages say a person can do, and what will happen: no more than their role may do, and no end that never
//! comes.

use portcullis::grpc::proto::{Role, TokenKind};
use portcullis::model;
use portcullis::service::access::Audience;

use crate::page::checks::walk;
use crate::page::stage::{Stage, named_token};
use crate::support::http::Answer;
use crate::support::server::Setup;

/// The commands of a page: what a person could paste.
fn commands(page: &Answer) -> Vec<String> {
    let codes = page.text().split("<pre").skip(1);
    let codes = codes.filter_map(|rest| rest.split("</pre>").next());
    codes.filter(|code| code.contains("portcullis ")).map(ToOwned::to_owned).collect()
}

/// The gRPC call that a command is said to make.
fn call(command: &str) -> Option<&str> {
    let (_, call) = command.split_once("# portcullis.v1.")?;
    call.split(|c: char| !c.is_ascii_alphanumeric() && c != '/').next()
}

#[tokio::test]
async fn nobody_is_shown_a_command_that_their_role_may_not_call() {
    let stage = Stage::new().await;
    let account = stage.ours.account.parse().unwrap();
    let created = |browser: &mut crate::support::http::Http| {
        let path = format!("/tokens/new?account={}", stage.ours.account);
        let page = browser.get(&path).says(200);
        let fields = [
            ("csrf", page.field("csrf")),
            ("form", page.field("form")),
            ("account", stage.ours.account.clone()),
            ("name", "made".to_owned()),
            ("kind", "READ_ONLY".to_owned()),
            ("whitelist", String::new()),
        ];
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        browser.post("/tokens/new", &fields).says(200)
    };
    for (mut browser, role, least) in [
        (stage.admin(), model::Role::AccountAdmin(account), 8),
        (stage.operator(), model::Role::Operator, 12),
    ] {
        let mut pages = walk(&mut browser, "/tokens");
        pages.push(created(&mut browser));
        let mut calls = Vec::new();
        for page in &pages {
            for command in commands(page) {
                let operators = ["portcullis check", "portcullis credential", "account set-admins"];
                let refused = operators.iter().any(|word| command.contains(word));
                assert!(role == model::Role::Operator || !refused, "{command}\n{page}");
                let Some(call) = call(&command) else { continue };
                let audience = Audience::of(&format!("/portcullis.v1.{call}"));
                assert!(audience.includes(role), "{call} is not for {role:?}: {page}");
                if !calls.contains(&call.to_owned()) {
                    calls.push(call.to_owned());
                }
            }
        }
        assert!(calls.len() >= least, "{role:?}: {calls:?}");
    }
    // A stranger is shown none at all.
    let page = stage.stranger().get("/sign-in").says(200);
    assert_eq!(commands(&page), [""; 0]);
}

/// The labels of the bars in a part of a page.
fn bars(part: &str) -> usize {
    part.matches("class=\"bar ").count()
}

/// A bar is for what is taken at its end: the token, the writes of a READ_WRITE token together, each scope of a
/// CUSTOM one (docs/policy.md, rule 4.3).
#[tokio::test]
async fn bars_end_with_something_that_is_taken() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let scopes = ["transactions.read", "cards.read"];
    let whitelist = ["192.0.2.1"];
    for (kind, scopes, whole, single) in [
        (TokenKind::ReadOnly, &[][..], 1, 0),
        (TokenKind::ReadWrite, &[][..], 2, 0),
        (TokenKind::Custom, &scopes[..], 1, 2),
    ] {
        let account = &stage.ours.account;
        let (token, _) =
            named_token(&stage.operator, account, "barred", kind, scopes, &whitelist).await;
        let page = admin.get(&format!("/tokens/{}", token.token_id)).says(200);
        let (top, rest) = page.text().split_once("id=\"scopes-title\"").unwrap();
        assert_eq!((bars(top), bars(rest)), (whole, single), "{kind:?}: {page}");
        let says = |words: &str| page.words().contains(words);
        assert!(says("it will be deleted"), "{page}");
        assert_eq!(says("it will become read only"), kind == TokenKind::ReadWrite, "{page}");
        assert_eq!(says("it will be removed"), kind == TokenKind::Custom, "{page}");
    }
    let (token, _) = named_token(
        &stage.operator,
        &stage.ours.account,
        "gone",
        TokenKind::ReadWrite,
        &[],
        &whitelist,
    )
    .await;
    let request = portcullis::grpc::proto::DeleteTokenRequest {
        token_id: token.token_id.clone(),
        no_wait: false,
    };
    stage.operator.tokens().delete_token(request).await.unwrap();
    let page = admin.get(&format!("/tokens/{}", token.token_id)).says(200);
    assert_eq!(bars(page.text()), 0, "{page}");
}

#[tokio::test]
async fn a_server_that_observes_claims_no_end() {
    let stage = Stage::with(Setup::sqlite().flag("--lifecycle-mode", "observe")).await;
    let (_, admin) =
        crate::support::calls::credential(&stage.operator, Role::AccountAdmin, &stage.ours.account)
            .await;
    let page =
        stage.stranger().sign_in(&admin).get(&format!("/tokens/{}", stage.ours.token.token_id));
    let words = page.words();
    assert!(words.contains("only observes"), "{page}");
    for claim in ["will be deleted", "will become", "will be removed", "is removed"] {
        assert!(!words.replace("nothing is removed", "").contains(claim), "{claim}: {page}");
    }
}
