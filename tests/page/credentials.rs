//! Credentials on the page: operators see and revoke them, and nobody else does.

use portcullis::grpc::proto::{CreateCredentialRequest, Credential, ListCredentialsRequest, Role};

use crate::page::checks::guarded;
use crate::page::stage::Stage;

impl Stage {
    async fn credential(&self, id: &str) -> Credential {
        let list = ListCredentialsRequest { page_size: 1_000, ..Default::default() };
        let listed = self.operator.credentials().list_credentials(list).await.unwrap().into_inner();
        listed.credentials.into_iter().find(|one| one.credential_id == id).unwrap()
    }
}

/// Rules 8.3, 8.5 and 11.84.
#[tokio::test]
async fn operators_see_and_revoke_credentials_and_admins_do_not() {
    let stage = Stage::new().await;
    let (mut operator, mut admin) = (stage.operator(), stage.admin());
    let (ours, theirs) = (&stage.ours, &stage.theirs);
    let create = CreateCredentialRequest {
        role: Role::Pep.into(),
        name: "<b>checkout</b>".to_owned(),
        ttl: Some(prost_types::Duration { seconds: 86_400 * 3, nanos: 0 }),
        ..Default::default()
    };
    let made = stage.operator.credentials().create_credential(create).await.unwrap().into_inner();
    let (service, secret) = (made.credential.unwrap().credential_id, made.secret);

    let all = operator.get("/credentials").says(200);
    guarded(&all);
    let all = all.shows(&[
        &service,
        &ours.credential_id,
        &theirs.credential_id,
        "<b>checkout</b>",
        "service",
        "account admin",
        "operator",
        "from the settings",
        "yours",
        "in 2 days",
        "Does not expire",
    ]);
    assert!(!all.text().contains("<b>checkout"), "{all}");
    let list = format!("/accounts/{}/credentials", ours.account);
    assert!(operator.get(&format!("/accounts/{}", ours.account)).links().contains(&list));
    let own = operator.get(&list).says(200).shows(&[&ours.credential_id]);
    for other in [&service, &theirs.credential_id] {
        assert!(!own.text().contains(other.as_str()), "{own}");
    }
    for page in [&all, &own] {
        assert!(![&secret, &ours.admin].iter().any(|secret| page.text().contains(*secret)));
    }

    // Not for the admins of an account, whose page it looks like none.
    let revoke = format!("/credentials/{}/revoke", ours.credential_id);
    let (mark, csrf) = (admin.get("/tokens/new").field("csrf"), all.field("csrf"));
    for path in ["/credentials", &list, &revoke] {
        admin.get(path).says(404).shows(&["There is no such page"]);
    }
    admin.post(&revoke, &[("csrf", &mark)]).says(404);
    operator.post(&revoke, &[("csrf", &mark)]).says(403);
    assert_eq!(stage.credential(&ours.credential_id).await.revoke_time, None);

    // Confirmed, and then the sessions of that credential end.
    let asked = operator.get(&revoke).says(200);
    guarded(&asked);
    asked.shows(&["Nothing brings a revoked credential back", "account admin"]);
    let done = operator.post(&revoke, &[("csrf", &csrf)]).says(303);
    assert!(done.location().starts_with(&list), "{done}");
    operator.get(done.location()).says(200).shows(&["is revoked, on every replica", "Revoked"]);
    assert!(stage.credential(&ours.credential_id).await.revoke_time.is_some());
    admin.get("/tokens").says(303);
    operator.get(&revoke).says(409).shows(&["revoked already"]);
    // A link alone says nothing that is not so.
    let claimed = operator.get(&format!("/credentials?revoked={service}")).says(200);
    assert!(!claimed.text().contains("is revoked, on every replica"), "{claimed}");

    // The last operator's stays.
    let list = ListCredentialsRequest::default();
    let rows = stage.operator.credentials().list_credentials(list).await.unwrap();
    let rows = rows.into_inner().credentials;
    let last = rows.iter().find(|one| one.role() == Role::Operator).unwrap();
    let last = format!("/credentials/{}/revoke", last.credential_id);
    operator.get(&last).says(200).shows(&["You are signed in with it", "from the settings"]);
    operator.post(&last, &[("csrf", &csrf)]).says(422).shows(&["last valid credential"]);
    operator.get("/credentials/crd_0000000000000000000000/revoke").says(404);
}
