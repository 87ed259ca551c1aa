//! Tokens that end by themselves, on the page: the field of a new one, and what is left of one that has ended
//! (docs/policy.md, rules 3.14, 11.2 and 11.3).

use portcullis::grpc::proto::{SetTokenExpiryRequest, TokenState};
use portcullis::policy::time::Timestamp;

use crate::page::checks::guarded;
use crate::page::stage::Stage;
use crate::page::strangers::FAR;
use crate::support::server::Setup;
use crate::support::wait::until_async;

/// The day that many days from now, as the page takes it.
fn day(days: i64) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64;
    Timestamp(now + days * 86_400_000_000).to_string()[..10].to_owned()
}

#[tokio::test]
async fn an_expiry_is_a_day_within_the_longest_lifetime() {
    let stage = Stage::with(Setup::sqlite().flag("--token-max-lifetime", "30d")).await;
    let mut admin = stage.admin();
    let mut create = |expires: &str| {
        let page = admin.get("/tokens/new").says(200).shows(&["At the latest 30 days from now"]);
        let (csrf, form) = (page.field("csrf"), page.field("form"));
        let fields = [
            ("csrf", csrf.as_str()),
            ("form", form.as_str()),
            ("name", "partner"),
            ("kind", "READ_ONLY"),
            ("whitelist", ""),
            ("expires", expires),
        ];
        admin.post("/tokens/new", &fields)
    };
    let before = stage.position().await;
    for (typed, wrong) in [
        ("tomorrow", "Is no day, such as 2027-01-31."),
        ("2027-02-30", "Is no day, such as 2027-01-31."),
        ("2020-01-01", "Choose a day in the future."),
        (&day(0), "Choose a day in the future."),
        (&day(32), "later than this server allows"),
    ] {
        let answer = create(typed).says(422);
        assert!(answer.words().contains(wrong), "{typed}: {answer}");
        assert_eq!(answer.field("expires"), typed, "what was typed stays");
    }
    assert_eq!(stage.position().await, before, "nothing was created");

    // The one that was chosen, and without one the latest.
    for (typed, shown) in [(day(10), day(10)), (String::new(), day(30))] {
        let page = create(&typed).says(200);
        let id = page.text().split("tok_").nth(1).unwrap()[..22].to_owned();
        let token = admin_page(&stage, &id);
        assert!(
            token.contains(&format!("<dt>Expires</dt><dd><time datetime=\"{shown}")),
            "{token}"
        );
    }
}

fn admin_page(stage: &Stage, id: &str) -> String {
    stage.admin().get(&format!("/tokens/tok_{id}")).says(200).text().to_owned()
}

#[tokio::test]
async fn the_whitelist_of_an_expired_token_is_shown_and_not_edited() {
    let stage = Stage::new().await;
    let token = &stage.ours.token;
    let mut admin = stage.admin();
    let path = format!("/tokens/{}/whitelist", token.token_id);
    let open = admin.get(&path).says(200);
    let (csrf, version) = (open.field("csrf"), open.field("version"));
    let request = SetTokenExpiryRequest {
        token_id: token.token_id.clone(),
        ttl: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    stage.operator.tokens().set_token_expiry(request).await.unwrap();
    let state = async || stage.now(token).await.state();
    until_async(state, |state| *state == TokenState::Expired).await;

    let page = admin.get(&format!("/tokens/{}", token.token_id)).says(200);
    let page = page.shows(&["Expired", "192.0.2.0/24"]);
    assert!(!page.text().contains("/whitelist\""), "{page}");
    admin.get(&path).says(409).shows(&["This token has expired"]);
    let fields = [
        ("csrf", csrf.as_str()),
        ("version", version.as_str()),
        ("step", "save"),
        ("add", "203.0.113.9"),
    ];
    for path in [path.clone(), format!("{path}/preview")] {
        let answer = admin.post(&path, &fields);
        assert_eq!(answer.status, 409, "{path}: {answer}");
    }
    assert_eq!(stage.now(token).await.whitelist, token.whitelist);
}

/// Rules 11.1 and 11.2.
#[tokio::test]
async fn an_expiry_is_brought_nearer_after_a_confirmation_and_never_moved_back() {
    let stage = Stage::new().await;
    let mut admin = stage.admin();
    let token = &stage.ours.token;
    let page = format!("/tokens/{}", token.token_id);
    let path = format!("{page}/expire");
    assert!(admin.get(&page).says(200).links().contains(&path));
    let form = admin.get(&path).says(200);
    guarded(&form);
    let form = form.shows(&["It does not expire"]);
    let csrf = form.field("csrf");
    let before = stage.position().await;
    let typed = |text: &str| [("csrf", csrf.clone()), ("expires", text.to_owned())];
    for (text, wrong) in [
        ("", "Expires: name a day"),
        ("tomorrow", "Expires: is no day, such as 2027-01-31"),
        ("2027-02-30", "Expires: is no day"),
        ("2020-01-01", "future"),
        ("999999999d", "Expires: "),
    ] {
        let fields = typed(text);
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = admin.post(&path, &fields).says(422).shows(&[wrong]);
        assert_eq!(answer.field("expires"), text, "what was typed stays");
    }
    // Shown, and nothing done yet.
    let ten = day(10);
    let asked = admin.post(&path, &[("csrf", &csrf), ("expires", &ten)]).says(200);
    guarded(&asked);
    let asked = asked.shows(&["Nothing moves an expiry to a later time"]);
    assert!(asked.text().contains(&format!("datetime=\"{ten}T00:00:00")), "{asked}");
    let confirm = asked.field("confirm");
    assert_eq!(stage.position().await, before, "nothing was changed");
    admin.post(&path, &[("csrf", "forged"), ("confirm", &confirm)]).says(403);
    let after_9999 = (Timestamp::LAST.0 + 1).to_string();
    admin.post(&path, &[("csrf", &csrf), ("confirm", &after_9999)]).says(422);
    assert_eq!(stage.now(token).await.expire_time, None);

    let done = admin.post(&path, &[("csrf", &csrf), ("confirm", &confirm)]).says(303);
    let shown = admin.get(done.location()).says(200).shows(&["The expiry is set"]);
    assert!(
        shown.text().contains(&format!("<dt>Expires</dt><dd><time datetime=\"{ten}")),
        "{shown}"
    );
    let set = stage.now(token).await.expire_time.unwrap();
    assert_eq!(set.seconds.to_string() + "000000", confirm);

    // Not to a later time, in either step; and nearer.
    for later in [day(11), "11d".to_owned()] {
        admin.post(&path, &[("csrf", &csrf), ("expires", &later)]).says(422).shows(&["Expires: "]);
    }
    admin.post(&path, &[("csrf", &csrf), ("confirm", FAR)]).says(422).shows(&["Expires: "]);
    assert_eq!(stage.now(token).await.expire_time, Some(set));
    let asked = admin.post(&path, &[("csrf", &csrf), ("expires", "1h")]).says(200);
    let confirm = asked.field("confirm");
    admin.post(&path, &[("csrf", &csrf), ("confirm", &confirm)]).says(303);
    assert!(stage.now(token).await.expire_time.unwrap().seconds < set.seconds);

    // Another account's token does not exist, and a deleted one has no expiry.
    stage.thief().get(&path).says(404);
    admin.post(&format!("{page}/delete"), &[("csrf", &csrf)]).says(303);
    admin.get(&path).says(409).shows(&["This token has ended already"]);
    admin.post(&path, &[("csrf", &csrf), ("expires", "30m")]).says(422);
    admin.post(&path, &[("csrf", &csrf), ("confirm", &confirm)]).says(422);
}
