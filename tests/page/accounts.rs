//! Accounts on the page: suspended, resumed, renamed and closed by operators; names and labels of tokens.

use portcullis::grpc::proto::{GetAccountRequest, Reason};

use crate::page::stage::Stage;
use crate::support::client::reason;

impl Stage {
    async fn reason(&self) -> Reason {
        reason(&self.operator, &self.ours.secret).await
    }
}

/// Rules 8.8, 8.10, 11.70, 11.72 and 11.74.
#[tokio::test]
async fn operators_suspend_resume_rename_and_close_an_account_and_admins_do_not() {
    let stage = Stage::new().await;
    let id = &stage.ours.account;
    let (mut operator, mut admin) = (stage.operator(), stage.admin());
    let path = |change: &str| format!("/accounts/{id}/{change}");
    let csrf = operator.get(&path("suspend")).says(200).field("csrf");
    let own = admin.get("/tokens/new").says(200).field("csrf");
    for change in ["suspend", "resume", "close", "name"] {
        let fields = [("csrf", own.as_str()), ("confirm_name", "Ours"), ("name", "Mine")];
        admin.post(&path(change), &fields).says(404);
        operator.post(&path(change), &[("csrf", "forged"), ("confirm_name", "Ours")]).says(403);
    }
    assert_eq!(stage.reason().await, Reason::Allowed);

    let done = operator.post(&path("suspend"), &[("csrf", &csrf)]).says(303);
    operator.get(done.location()).says(200).shows(&["suspended, on every replica", "Resume"]);
    assert_eq!(stage.reason().await, Reason::AccountSuspended);
    let token = format!("/tokens/{}", stage.ours.open.token_id);
    admin.get(&token).says(200).shows(&["Its account has been suspended since"]);
    admin.get("/tokens").says(200).shows(&["account suspended"]);
    let fields = [("csrf", own.as_str()), ("name", "x"), ("labels", "")];
    admin.post(&format!("{token}/edit"), &fields).says(422).shows(&["account is suspended"]);
    let done = operator.post(&path("resume"), &[("csrf", &csrf)]).says(303);
    operator.get(done.location()).says(200).shows(&["The account is resumed"]);
    let list = admin.get("/tokens").says(200);
    assert!(!list.text().contains("account suspended"), "{list}");
    assert_eq!(stage.reason().await, Reason::Allowed);

    operator.post(&path("name"), &[("csrf", &csrf), ("name", "Ours & theirs")]).says(303);
    let page = operator.get(&path("close")).says(200);
    page.shows(&["Ours & theirs", "2 tokens", "nothing opens it again"]);
    let fields = [("csrf", csrf.as_str()), ("confirm_name", "Ours")];
    operator.post(&path("close"), &fields).says(400).shows(&["not the account's name"]);
    assert_eq!(stage.reason().await, Reason::Allowed);
    let fields = [("csrf", csrf.as_str()), ("confirm_name", "Ours & theirs")];
    let done = operator.post(&path("close"), &fields).says(303);
    operator.get(done.location()).says(200).shows(&["closed, on every replica"]);
    assert_eq!(stage.reason().await, Reason::TokenDeleted);
    operator.get(&path("close")).says(409).shows(&["closed, which nothing reverses"]);
    // Nobody is signed in any more.
    admin.get(&token).says(303);
    let get = GetAccountRequest { account_id: stage.theirs.account.clone() };
    let theirs = stage.operator.accounts().get_account(get).await.unwrap().into_inner();
    assert_eq!(theirs.account.unwrap().close_time, None);
}

/// Rules 11.80 and 11.81.
#[tokio::test]
async fn a_name_and_labels_are_edited_and_errors_keep_what_was_typed() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let path = format!("/tokens/{}/edit", stage.ours.token.token_id);
    let page = admin.get(&path).says(200);
    let csrf = page.field("csrf");
    assert_eq!(page.field("name"), "Ours writer");
    let send = |name, labels| [("csrf", csrf.as_str()), ("name", name), ("labels", labels)];
    let done = admin.post(&path, &send("New <name>", "team=payments\r\n\r\nenv = prod")).says(303);
    let page = admin.get(done.location()).says(200);
    page.shows(&["The name and labels are changed", "New <name>", "team=payments", "env=prod"]);
    for (name, labels, error) in [
        ("", "", "Name is required"),
        ("x", "team", "write key=value"),
        ("x", "a=1\na=2", "is there twice"),
        ("x", "Team=1", "begins with a letter"),
    ] {
        admin.post(&path, &send(name, labels)).says(422).shows(&[error]);
    }
    assert_eq!(stage.now(&stage.ours.token).await.labels.len(), 2);
    let done = admin.post(&path, &send("New <name>", "")).says(303);
    admin.get(done.location()).says(200);
    assert!(stage.now(&stage.ours.token).await.labels.is_empty());
    // Another account's does not exist.
    stage.thief().get(&path).says(404);
}
