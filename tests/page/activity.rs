//! What is seen of a token's requests, on its page: how often it was used, from where, and what was denied.

use portcullis::grpc::proto::{AuthorizeRequest, Decision};

use crate::page::stage::Stage;
use crate::support::client::question;
use crate::support::server::Setup;
use crate::support::wait::until;

const READ: &str = "transactions.read";

async fn ask(stage: &Stage, request: AuthorizeRequest) -> Decision {
    let answer = stage.operator.authorization().authorize(request).await;
    answer.unwrap().into_inner().decision()
}

/// Rules 12.7 and 12.13.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_use_addresses_and_denials_and_fills_in_no_address() {
    let stage = Stage::with(Setup::sqlite().flag("--usage-flush-interval", "100ms")).await;
    let (id, secret) = (&stage.ours.token.token_id, &stage.ours.secret);
    for _ in 0..3 {
        let allowed = ask(&stage, question(secret, "192.0.2.77", READ)).await;
        assert_eq!(allowed, Decision::Allow);
    }
    for _ in 0..2 {
        assert_eq!(ask(&stage, question(secret, "203.0.113.9", READ)).await, Decision::Deny);
    }
    let mut admin = stage.admin();
    let path = format!("/tokens/{id}");
    let page = until(
        || admin.get(&path).says(200),
        |page| page.text().contains("3 allowed requests") && page.text().contains("192.0.2.77"),
    );
    let chart: Vec<_> = page.tags().into_iter().filter(|tag| tag.is("class", "chart")).collect();
    let [chart] = &chart[..] else { panic!("{}", page.text()) };
    assert!(chart.is("role", "img"));
    assert!(chart.get("aria-label").unwrap().starts_with("3 allowed requests in "));
    assert!(!page.text().contains("203.0.113.9"), "a denied address is not among the users'");

    let path = format!("/tokens/{id}/denials");
    let page = until(|| admin.get(&path).says(200), |page| page.text().contains("203.0.113.9"));
    let shown = page.words();
    assert!(shown.contains("Client ip not whitelisted") && shown.contains(READ), "{shown}");
    for tag in page.tags() {
        for attribute in ["value", "href", "action", "placeholder"] {
            let value = tag.get(attribute).unwrap_or_default();
            assert!(!value.contains("203.0.113.9"), "{attribute} has the address: {value}");
        }
    }
    let editor = admin.get(&format!("/tokens/{id}/whitelist")).says(200);
    assert!(!editor.text().contains("203.0.113.9"));
    // Another account's token does not exist.
    stage.thief().get(&path).says(404);
    stage.thief().get(&format!("/tokens/{id}")).says(404);
}
