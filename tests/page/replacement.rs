//! Replacing a token on the page: what the form proposes, and the secret, which is shown once.

use crate::page::checks::guarded;
use crate::page::stage::Stage;
use crate::support::client::question;

/// Rules 11.30 and 11.38 of docs/policy.md.
#[tokio::test]
async fn a_token_is_replaced_and_its_secret_shown_once() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let token = &stage.ours.token;
    let page = format!("/tokens/{}", token.token_id);
    let path = format!("{page}/replace");
    assert!(admin.get(&page).says(200).links().contains(&path));

    let form = admin.get(&path).says(200);
    guarded(&form);
    let csrf = form.field("csrf");
    // Nothing was used, so nothing is ticked; and without a tick there is nothing to replace it by.
    let none = [("csrf", csrf.as_str()), ("overlap", "24h"), ("what", "chosen")];
    admin.post(&path, &none).says(422).shows(&["Nothing was replaced", "at least one scope"]);
    for (overlap, text) in [("31d", "30 days"), ("soon", "overlap"), ("-1d", "overlap")] {
        let wrong = [("csrf", csrf.as_str()), ("overlap", overlap), ("what", "same")];
        admin.post(&path, &wrong).says(422).shows(&["Nothing was replaced", text]);
    }
    assert_eq!(stage.now(token).await, *token);

    let scope = ("scope", "transactions.read");
    let right = [("csrf", csrf.as_str()), ("overlap", "2d"), ("what", "chosen"), scope];
    let answer = admin.post(&path, &right).says(200);
    guarded(&answer);
    let old = stage.now(token).await;
    let secret = answer.text().split("pcl_").nth(1).unwrap().split('<').next().unwrap();
    let secret = format!("pcl_{secret}");
    let ask = question(&secret, "198.51.100.7", "transactions.read");
    let decided = stage.operator.authorization().authorize(ask).await.unwrap().into_inner();
    assert_eq!(decided.token_id, old.replaced_by_token_id);

    // The old one's page says what became of it, and neither page has the secret.
    let new = format!("/tokens/{}", old.replaced_by_token_id);
    let old_page = admin.get(&page).says(200).shows(&["Replaced by", "It was never used"]);
    assert!(old_page.links().contains(&new) && !old_page.links().contains(&path));
    let new_page = admin.get(&new).says(200).shows(&["Replaces"]);
    assert!(!old_page.text().contains(&secret) && !new_page.text().contains(&secret));
    admin.get(&path).says(409);
    admin.post(&path, &right).says(422).shows(&["was replaced by"]);
    stage.thief().get(&path).says(404);
}
