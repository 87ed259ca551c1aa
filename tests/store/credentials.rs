//! Callers' credentials, and the keys that secrets are made under.

use std::sync::Arc;

use portcullis::model::{
    AccountRefusal, AuditEvent, Credential, CredentialRefusal, CredentialUpdate,
    CredentialUpdateRefusal, Invalidation, LastOperatorCredential, Role, SettingsCredential,
};
use portcullis::policy::client_certificate::Fingerprint;
use portcullis::policy::client_source::{ClientSource, ClientSourceFields};
use portcullis::policy::id::{AccountId, CredentialId};
use portcullis::policy::network::Limits;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{ExpiryRefused, RequestedExpiry, TokenKind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::store::fixture::{Fixture, all, ctx, new_credential, new_token, page};

on_both!(
    credentials_read_back,
    client_sources_read_back_and_stand_in_the_audit_record,
    client_source_of_another_role_is_not_stored,
    client_certificates_read_back_and_stand_in_the_audit_record,
    client_certificate_of_a_valid_credential_is_refused_until_that_is_revoked,
    client_certificate_of_another_role_is_not_stored,
    a_credential_is_revoked_once,
    the_last_operator_stays,
    there_is_one_first_credential,
    the_settings_credential_changes,
    a_revoked_one_stays_revoked,
    one_that_was_made_here_may_stand_in_the_settings,
    the_secret_of_something_else_is_no_settings_credential,
    keys_are_numbered,
    there_is_one_first_key,
    a_name_and_an_end_change_and_the_end_only_comes_nearer,
    a_certificate_of_an_expired_credential_is_free,
    the_last_use_only_moves_forward_and_leaves_no_record,
);

async fn credentials_read_back(f: Fixture) {
    let account = f.account("acme").await;
    let mut made = Vec::new();
    for role in [Role::Pep, Role::AccountAdmin(account), Role::Operator] {
        let (credential, digest) = new_credential(role);
        let stored = f.store.create_credential(&ctx(4), &credential, &digest).await;
        assert_eq!(stored.unwrap(), Ok(()));
        let read = f.store.credential(credential.id).await.unwrap();
        assert_eq!(read, Some((credential.clone(), digest)));
        let (event, change) = f.last().await;
        assert_eq!(event.action.as_str(), "credential.create");
        let concerned = matches!(role, Role::AccountAdmin(_)).then_some(account);
        assert_eq!(event.account_id, concerned);
        assert_eq!(change.touched, Invalidation::Credential(credential.id));
        made.push((credential, digest));
    }
    assert_eq!(f.store.live_credentials().await.unwrap(), made);
    let listed: Vec<_> = made.iter().map(|(credential, _)| credential.clone()).collect();
    assert_eq!(f.store.credentials(None, all()).await.unwrap(), listed);
    let second = page(Some(listed[0].id), 1);
    assert_eq!(f.store.credentials(None, second).await.unwrap(), listed[1..2]);
    let only = f.store.credentials(Some(account), all()).await.unwrap();
    assert_eq!(only, listed[1..2], "those of its admins");
    let other = AccountId(Uuid::now_v7());
    assert_eq!(f.store.credentials(Some(other), all()).await.unwrap(), []);

    let before = f.position().await;
    let nobody = Role::AccountAdmin(AccountId(Uuid::now_v7()));
    let (credential, digest) = new_credential(nobody);
    let refused = f.store.create_credential(&ctx(4), &credential, &digest).await;
    assert_eq!(refused.unwrap(), Err(CredentialRefusal::Account(AccountRefusal::NotFound)));
    let absent = CredentialId(Uuid::now_v7());
    assert_eq!(f.store.credential(absent).await.unwrap(), None);
    assert_eq!(f.position().await, before);
}

/// Rule 9.2 of docs/policy.md.
async fn client_sources_read_back_and_stand_in_the_audit_record(f: Fixture) {
    let proxies = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"].map(String::from);
    let whole = ClientSourceFields {
        address_header: "Forwarded",
        trusted_proxies: &proxies,
        token_header: "X-Api-Key",
        method_header: "X-Method",
        uri_header: "X-Uri",
        forward_token: false,
    };
    let whole = ClientSource::parse(&whole, &Limits::default()).unwrap();
    for (source, recorded) in [
        (ClientSource::default(), json!({ "forward_token": true })),
        (
            ClientSource::development(),
            json!({ "address_header": "x-forwarded-for", "forward_token": true }),
        ),
        (
            whole,
            json!({
                "address_header": "forwarded",
                "trusted_proxies": ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"],
                "token_header": "x-api-key",
                "method_header": "x-method",
                "uri_header": "x-uri",
                "forward_token": false,
            }),
        ),
    ] {
        let (credential, digest) = new_credential(Role::Pep);
        let credential = Credential { client_source: Some(Arc::new(source)), ..credential };
        let stored = f.store.create_credential(&ctx(4), &credential, &digest).await;
        assert_eq!(stored.unwrap(), Ok(()));
        let after = |event: &AuditEvent| {
            let after: Value = serde_json::from_str(event.after.as_ref().unwrap()).unwrap();
            after["client_source"].clone()
        };
        assert_eq!(after(&f.last().await.0), recorded);
        let read = f.store.credential(credential.id).await.unwrap();
        assert_eq!(read, Some((credential.clone(), digest)));
        let listed = f.store.credentials(None, all()).await.unwrap();
        assert_eq!(listed.last(), Some(&credential));
        let revoked = f.store.revoke_credential(&ctx(8), credential.id).await.unwrap().unwrap();
        assert_eq!(revoked.unwrap().client_source, credential.client_source);
        assert_eq!(after(&f.last().await.0), recorded);
    }
    let (none, digest) = new_credential(Role::Pep);
    f.store.create_credential(&ctx(4), &none, &digest).await.unwrap().unwrap();
    assert!(!f.last().await.0.after.unwrap().contains("client_source"));
}

async fn client_source_of_another_role_is_not_stored(f: Fixture) {
    let (credential, digest) = new_credential(Role::Operator);
    let source = Some(Arc::new(ClientSource::default()));
    let credential = Credential { client_source: source, ..credential };
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap_err();
    assert_eq!(f.store.credential(credential.id).await.unwrap(), None);
}

async fn client_certificates_read_back_and_stand_in_the_audit_record(f: Fixture) {
    let (credential, digest) = new_credential(Role::Pep);
    let certificates = [&b"one"[..], b"two"].map(Fingerprint::of);
    let credential = Credential { client_certificates: certificates.to_vec(), ..credential };
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
    let after: Value = serde_json::from_str(&f.last().await.0.after.unwrap()).unwrap();
    let recorded = json!([certificates[0].to_string(), certificates[1].to_string()]);
    assert_eq!(after["client_certificates"], recorded);
    let read = f.store.credential(credential.id).await.unwrap();
    assert_eq!(read, Some((credential.clone(), digest)));
    assert_eq!(f.store.credentials(None, all()).await.unwrap().last(), Some(&credential));
    let live = f.store.live_credentials().await.unwrap();
    assert!(live.contains(&(credential, digest)));
}

/// Rule 9.20 of docs/policy.md.
async fn client_certificate_of_a_valid_credential_is_refused_until_that_is_revoked(f: Fixture) {
    let [one, two, three] = [&b"one"[..], b"two", b"three"].map(Fingerprint::of);
    let bound = |certificates: &[Fingerprint]| {
        let (credential, digest) = new_credential(Role::Pep);
        let client_certificates = certificates.to_vec();
        (Credential { client_certificates, ..credential }, digest)
    };
    let (first, first_digest) = bound(&[one, two]);
    f.store.create_credential(&ctx(4), &first, &first_digest).await.unwrap().unwrap();
    let before = f.last().await;
    let (second, second_digest) = bound(&[three, two]);
    let refused = f.store.create_credential(&ctx(5), &second, &second_digest).await.unwrap();
    assert_eq!(refused, Err(CredentialRefusal::CertificateInUse(two)));
    assert_eq!(f.last().await, before);
    assert_eq!(f.store.credential(second.id).await.unwrap(), None);
    f.store.revoke_credential(&ctx(6), first.id).await.unwrap().unwrap().unwrap();
    let stored = f.store.create_credential(&ctx(7), &second, &second_digest).await.unwrap();
    assert_eq!(stored, Ok(()));
}

async fn client_certificate_of_another_role_is_not_stored(f: Fixture) {
    let (credential, digest) = new_credential(Role::Operator);
    let client_certificates = vec![Fingerprint::of(b"one")];
    let credential = Credential { client_certificates, ..credential };
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap_err();
    assert_eq!(f.store.credential(credential.id).await.unwrap(), None);
}

async fn a_credential_is_revoked_once(f: Fixture) {
    let (credential, digest) = new_credential(Role::Pep);
    let stored = f.store.create_credential(&ctx(4), &credential, &digest).await;
    stored.unwrap().unwrap();
    let revoked = f.store.revoke_credential(&ctx(8), credential.id).await.unwrap();
    let revoked = revoked.unwrap().unwrap();
    assert_eq!(revoked.revoked, Some(Timestamp(8)));
    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "credential.revoke");
    assert_eq!(change.touched, Invalidation::Credential(credential.id));
    let before = f.position().await;
    let again = f.store.revoke_credential(&ctx(9), credential.id).await;
    assert_eq!(again.unwrap(), Some(Ok(revoked.clone())));
    let absent = CredentialId(Uuid::now_v7());
    let none = f.store.revoke_credential(&ctx(9), absent).await;
    assert_eq!(none.unwrap(), None);
    assert_eq!(f.position().await, before);
    assert!(f.store.live_credentials().await.unwrap().is_empty());
    let read = f.store.credential(credential.id).await.unwrap();
    assert_eq!(read, Some((revoked.clone(), digest)));
    assert_eq!(f.store.credentials(None, all()).await.unwrap(), [revoked]);
}

async fn there_is_one_first_credential(f: Fixture) {
    let made: Vec<_> = (0..8).map(|_| new_credential(Role::Operator)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (credential, digest) in made {
        let store = f.store.clone();
        tasks.spawn(async move {
            let first = store.create_first_credential(&ctx(1), &credential, &digest).await;
            first.unwrap()
        });
    }
    let first = tasks.join_all().await;
    assert_eq!(first.iter().filter(|&&first| first).count(), 1);
    let live = f.store.live_credentials().await.unwrap();
    assert_eq!(live.len(), 1);
    assert_eq!(f.position().await, 1);
    let (credential, digest) = new_credential(Role::Operator);
    let late = f.store.create_first_credential(&ctx(3), &credential, &digest).await;
    assert!(!late.unwrap());
    f.check_record().await;
}

async fn the_last_operator_stays(f: Fixture) {
    let create = async |role| {
        let (credential, digest) = new_credential(role);
        let stored = f.store.create_credential(&ctx(1), &credential, &digest).await;
        stored.unwrap().unwrap();
        credential.id
    };
    let (first, second) = (create(Role::Operator).await, create(Role::Operator).await);
    create(Role::Pep).await;
    let revoke = async |id| f.store.revoke_credential(&ctx(2), id).await.unwrap().unwrap();
    assert!(revoke(first).await.is_ok());
    let before = f.position().await;
    assert_eq!(revoke(second).await, Err(LastOperatorCredential));
    assert_eq!(f.position().await, before);
    assert!(revoke(first).await.is_ok(), "a revoked one stays revoked without a word");
}

fn of_settings() -> (Credential, [u8; 32]) {
    let (credential, digest) = new_credential(Role::Operator);
    let from_settings = true;
    (Credential { from_settings, ..credential }, digest)
}

async fn set(f: &Fixture, wanted: Option<&(Credential, [u8; 32])>) -> SettingsCredential {
    let wanted = wanted.map(|(credential, digest)| (credential, digest));
    f.store.set_settings_credential(&ctx(6), wanted).await.unwrap()
}

async fn the_settings_credential_changes(f: Fixture) {
    assert_eq!(set(&f, None).await, SettingsCredential::Unchanged);
    let (first, second) = (of_settings(), of_settings());
    assert_eq!(set(&f, Some(&first)).await, SettingsCredential::Changed);
    // At each start it comes with a new id.
    let (again, _) = of_settings();
    let again = (again, first.1);
    assert_eq!(set(&f, Some(&again)).await, SettingsCredential::Unchanged);
    assert_eq!(f.store.live_credentials().await.unwrap(), std::slice::from_ref(&first));
    assert_eq!(f.position().await, 1);

    assert_eq!(set(&f, Some(&second)).await, SettingsCredential::Changed);
    assert_eq!(f.store.live_credentials().await.unwrap(), std::slice::from_ref(&second));
    // Replicas must hear of both.
    let changes = f.store.changes(1, 10).await.unwrap();
    let touched: Vec<_> = changes.iter().map(|change| change.touched).collect();
    let (old, new) = (first.0.id, second.0.id);
    assert_eq!(touched, [Invalidation::Credential(old), Invalidation::Credential(new)]);

    assert_eq!(set(&f, None).await, SettingsCredential::Changed);
    assert!(f.store.live_credentials().await.unwrap().is_empty());
    assert_eq!(set(&f, None).await, SettingsCredential::Unchanged);
    f.check_record().await;
}

async fn a_revoked_one_stays_revoked(f: Fixture) {
    let (first, second) = (of_settings(), of_settings());
    set(&f, Some(&first)).await;
    set(&f, Some(&second)).await;
    let before = f.position().await;
    assert_eq!(set(&f, Some(&first)).await, SettingsCredential::Ended);
    assert_eq!(f.position().await, before);
    assert_eq!(f.store.live_credentials().await.unwrap(), [second]);
}

async fn one_that_was_made_here_may_stand_in_the_settings(f: Fixture) {
    let former = of_settings();
    set(&f, Some(&former)).await;
    let made = new_credential(Role::Operator);
    let stored = f.store.create_credential(&ctx(4), &made.0, &made.1).await;
    stored.unwrap().unwrap();
    let named = (of_settings().0, made.1);
    assert_eq!(set(&f, Some(&named)).await, SettingsCredential::Changed);
    assert_eq!(f.store.live_credentials().await.unwrap(), [made]);
    assert_eq!(set(&f, Some(&named)).await, SettingsCredential::Unchanged);
}

/// Rule 8.6.
async fn the_secret_of_something_else_is_no_settings_credential(f: Fixture) {
    let former = of_settings();
    set(&f, Some(&former)).await;
    let account = f.account("acme").await;
    let mut digests = Vec::new();
    for role in [Role::Pep, Role::AccountAdmin(account)] {
        let (other, digest) = new_credential(role);
        f.store.create_credential(&ctx(4), &other, &digest).await.unwrap().unwrap();
        digests.push(digest);
    }
    let catalog = f.catalog(&["a.read"]).await;
    let token = new_token(account, TokenKind::ReadOnly, Vec::new(), "");
    f.token(&catalog, &token).await;
    digests.push(token.digest);
    let before = f.position().await;
    for digest in digests {
        let named = (of_settings().0, digest);
        assert_eq!(set(&f, Some(&named)).await, SettingsCredential::InUse);
    }
    assert_eq!(f.position().await, before);
    assert!(f.store.live_credentials().await.unwrap().contains(&former));

    let (expiring, digest) = new_credential(Role::Operator);
    let expiring = Credential { expires: Some(ctx(5).now), ..expiring };
    f.store.create_credential(&ctx(4), &expiring, &digest).await.unwrap().unwrap();
    let named = (of_settings().0, digest);
    assert_eq!(set(&f, Some(&named)).await, SettingsCredential::Ended);
}

/// Rule 7.7.
async fn keys_are_numbered(f: Fixture) {
    assert!(f.store.secret_keys().await.unwrap().is_empty());
    let add = async |byte, only_first| {
        let added = f.store.add_secret_key(&ctx(1), &[byte; 32], only_first).await;
        added.unwrap()
    };
    assert_eq!(add(1, true).await, 0);
    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "secret_key.create");
    assert_eq!(change.touched, Invalidation::SecretKeys);
    assert_eq!(add(2, true).await, 0);
    assert_eq!(f.position().await, 1);
    assert_eq!(add(3, false).await, 1);
    assert_eq!(add(4, true).await, 1);
    let keys = f.store.secret_keys().await.unwrap();
    let keys: Vec<_> = keys.iter().map(|key| (key.number, *key.expose())).collect();
    assert_eq!(keys, [(0, [1; 32]), (1, [3; 32])]);

    let last = "UPDATE secret_key SET number = 3843 WHERE number = 1";
    f.execute(last, &[]).await.unwrap();
    let before = f.position().await;
    let none_left = f.store.add_secret_key(&ctx(1), &[5; 32], false).await;
    assert!(none_left.is_err());
    assert_eq!(f.position().await, before);
    f.check_record().await;
}

async fn there_is_one_first_key(f: Fixture) {
    let mut tasks = tokio::task::JoinSet::new();
    for byte in 0..8 {
        let store = f.store.clone();
        tasks.spawn(async move { store.add_secret_key(&ctx(1), &[byte; 32], true).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await, [0; 8]);
    assert_eq!(f.store.secret_keys().await.unwrap().len(), 1);
    assert_eq!(f.position().await, 1);
}

/// Rules 11.83 and 11.84.
async fn a_name_and_an_end_change_and_the_end_only_comes_nearer(f: Fixture) {
    let (credential, digest) = new_credential(Role::Pep);
    let credential = Credential { expires: Some(Timestamp(100)), ..credential };
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
    let id = credential.id;
    assert_eq!(f.store.credential(id).await.unwrap(), Some((credential.clone(), digest)));
    let update = async |now: i64, name: Option<&str>, expires: Option<i64>| {
        let expires = expires.map(|at| RequestedExpiry::At(Timestamp(at)));
        let update = CredentialUpdate { name: name.map(str::to_owned), expires };
        f.store.update_credential(&ctx(now), id, &update).await.unwrap().unwrap()
    };
    let renamed = update(5, Some("gate"), Some(50)).await.unwrap();
    let expected =
        Credential { name: "gate".into(), expires: Some(Timestamp(50)), ..credential.clone() };
    assert_eq!(renamed, expected);
    assert_eq!(f.store.credential(id).await.unwrap(), Some((expected.clone(), digest)));
    let (event, change) = f.last().await;
    assert_eq!(
        (event.action.as_str(), change.touched),
        ("credential.update", Invalidation::Credential(id))
    );
    let after: Value = serde_json::from_str(&event.after.unwrap()).unwrap();
    assert_eq!(
        (&after["name"], &after["expire_time"]),
        (&json!("gate"), &json!(Timestamp(50).to_string()))
    );

    let before = f.position().await;
    assert_eq!(update(6, Some("gate"), Some(50)).await, Ok(expected.clone()));
    let later = CredentialUpdateRefusal::Expiry(ExpiryRefused::Later(Timestamp(50)));
    assert_eq!(update(6, Some("other"), Some(51)).await, Err(later));
    let past = CredentialUpdateRefusal::Expiry(ExpiryRefused::Past);
    assert_eq!(update(6, None, Some(6)).await, Err(past));
    let ended = CredentialUpdateRefusal::Expiry(ExpiryRefused::Expired(Timestamp(50)));
    assert_eq!(update(50, None, Some(49)).await, Err(ended));
    let (operator, digest) = new_credential(Role::Operator);
    f.store.create_credential(&ctx(7), &operator, &digest).await.unwrap().unwrap();
    let ends = CredentialUpdate { name: None, expires: Some(RequestedExpiry::At(Timestamp(90))) };
    let refused = f.store.update_credential(&ctx(8), operator.id, &ends).await.unwrap().unwrap();
    assert_eq!(refused, Err(CredentialUpdateRefusal::Operator));
    assert_eq!(f.position().await, before + 1);
    let nobody = CredentialId(Uuid::now_v7());
    assert_eq!(f.store.update_credential(&ctx(8), nobody, &ends).await.unwrap(), None);
    f.store.revoke_credential(&ctx(9), id).await.unwrap().unwrap().unwrap();
    assert_eq!(update(10, Some("x"), None).await, Err(CredentialUpdateRefusal::Revoked));
    f.check_record().await;
}

/// Rules 9.20 and 11.84.
async fn a_certificate_of_an_expired_credential_is_free(f: Fixture) {
    let bound = || {
        let (credential, digest) = new_credential(Role::Pep);
        let client_certificates = vec![Fingerprint::of(b"one")];
        (Credential { client_certificates, expires: Some(Timestamp(50)), ..credential }, digest)
    };
    let ((first, first_digest), (second, second_digest)) = (bound(), bound());
    f.store.create_credential(&ctx(4), &first, &first_digest).await.unwrap().unwrap();
    let refused = f.store.create_credential(&ctx(49), &second, &second_digest).await.unwrap();
    assert_eq!(refused, Err(CredentialRefusal::CertificateInUse(Fingerprint::of(b"one"))));
    f.store.create_credential(&ctx(50), &second, &second_digest).await.unwrap().unwrap();
}

/// Rule 11.85.
async fn the_last_use_only_moves_forward_and_leaves_no_record(f: Fixture) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (credential, digest) = new_credential(Role::Pep);
        f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
        ids.push(credential.id);
    }
    let before = f.position().await;
    let nobody = CredentialId(Uuid::now_v7());
    f.store.record_credential_uses(&[ids[1], nobody, ids[0]], Timestamp(20)).await.unwrap();
    f.store.record_credential_uses(&[ids[1]], Timestamp(10)).await.unwrap();
    f.store.record_credential_uses(&[ids[0]], Timestamp(30)).await.unwrap();
    let listed = f.store.credentials(None, all()).await.unwrap();
    let uses: Vec<_> = listed.iter().map(|credential| credential.last_use).collect();
    assert_eq!(uses, [Some(Timestamp(30)), Some(Timestamp(20)), None]);
    assert_eq!(f.position().await, before);
}
