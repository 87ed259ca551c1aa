//! Reports of leaked secrets: whose they are, what they end, and whom they mail (docs/policy.md, section 11).

use std::time::Duration;

use portcullis::model::{
    Invalidation, LeakLocation, LeakOutcome, LeakedCredential, MailContent, MailSecretOwner,
    NewToken, Role, SecretOwner,
};
use portcullis::policy::id::{CredentialId, TokenId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{TokenKind, TokenState};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::store::fixture::{Fixture, READ, ctx, new_credential, new_token};

on_both!(
    secrets_have_at_most_one_owner,
    a_leaked_token_is_revoked_once_and_its_admins_are_mailed,
    what_was_deleted_before_stays_so,
    an_expired_token_is_revoked_and_one_of_a_closed_account_stays_deleted,
    a_leaked_admin_credential_is_revoked_and_the_admins_are_mailed,
    a_leaked_pep_credential_is_revoked_without_a_mail,
    the_last_operator_credential_stays_and_that_is_recorded,
    a_leaked_token_keeps_its_reason_until_it_is_purged,
);

fn place() -> LeakLocation {
    LeakLocation { source: "commit".to_owned(), url: "https://git.example/1".to_owned() }
}

fn json(text: Option<&str>) -> Value {
    serde_json::from_str(text.unwrap()).unwrap()
}

async fn secrets_have_at_most_one_owner(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let token = new_token(account, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &token).await;
    let (credential, digest) = new_credential(Role::Pep);
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
    let unknown = [7; 32];
    let mut digests = vec![[8; 32]; 2_500];
    digests.extend([unknown, token.digest, digest]);
    let mut owners = f.store.secret_owners(&digests).await.unwrap();
    owners.sort_unstable();
    let mut wanted = [
        (token.digest, SecretOwner::Token(token.id)),
        (digest, SecretOwner::Credential(credential.id)),
    ];
    wanted.sort_unstable();
    assert_eq!(owners, wanted);
    assert!(f.store.secret_owners(&[]).await.unwrap().is_empty());
}

/// Rules 11.50 and 11.53.
async fn a_leaked_token_is_revoked_once_and_its_admins_are_mailed(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &new).await;
    let state = TokenState::RevokedLeaked { at: Timestamp(9) };
    let outcome = |revoked| LeakOutcome::Token { id: new.id, account_id: account, state, revoked };
    let owner = SecretOwner::Token(new.id);

    let revoked = f.store.revoke_leaked(&ctx(9), owner, &place()).await.unwrap();
    assert_eq!(revoked, outcome(true));
    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "token.revoke_leaked");
    assert_eq!((event.account_id, event.token_id), (Some(account), Some(new.id)));
    assert_eq!(change.touched, Invalidation::Token(new.id));
    let after = json(event.after.as_deref());
    assert_eq!(after["state"], "leaked");
    assert_eq!((&after["source"], &after["url"]), (&json!("commit"), &json!(place().url)));
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    assert_eq!(facts.state, state);
    let token = f.store.token(new.id, None).await.unwrap().unwrap();
    assert_eq!((token.state, token.uses.last), (state, None), "a report is no use");

    let hour = Duration::from_secs(3_600);
    let mut mails = f.store.claim_mails(Timestamp(9), hour, i64::MAX, 9).await.unwrap();
    mails.sort_by(|a, b| a.recipient.cmp(&b.recipient));
    let recipients: Vec<_> = mails.iter().map(|mail| mail.recipient.as_str()).collect();
    assert_eq!(recipients, ["adam@acme.test", "zoe@acme.test"]);
    for mail in &mails {
        let MailContent::Leaked(MailSecretOwner::Token(of), location) = &mail.content else {
            panic!("{mail:?}")
        };
        assert_eq!((of.id, location, mail.created), (new.id, &place(), Timestamp(9)));
        assert_eq!(f.store.mail_accepted(&ctx(10), mail.id, "250 taken").await.unwrap(), None);
    }

    let before = f.position().await;
    let again = f.store.revoke_leaked(&ctx(11), owner, &place()).await.unwrap();
    assert_eq!(again, outcome(false));
    let deleted = f.store.delete_token(&ctx(12), new.id, None).await.unwrap().unwrap();
    assert_eq!(deleted.state, state);
    let nobody = SecretOwner::Token(TokenId(Uuid::now_v7()));
    let unknown = f.store.revoke_leaked(&ctx(12), nobody, &place()).await.unwrap();
    assert_eq!(unknown, LeakOutcome::Unknown);
    assert_eq!(f.position().await, before);
    assert!(f.store.claim_mails(Timestamp(99), hour, i64::MAX, 9).await.unwrap().is_empty());
    f.check_record().await;
}

/// Rules 11.52 and 11.75.
async fn an_expired_token_is_revoked_and_one_of_a_closed_account_stays_deleted(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let [open, closed] = [f.account("acme").await, f.account("other").await];
    let [expired, left] = [open, closed].map(|account| NewToken {
        expires: Some(Timestamp(7)),
        ..new_token(account, TokenKind::ReadOnly, vec![], "")
    });
    for new in [&expired, &left] {
        f.token(&catalog, new).await;
    }
    f.store.close_account(&ctx(8), closed, "other").await.unwrap().unwrap();
    let leak =
        async |id| f.store.revoke_leaked(&ctx(9), SecretOwner::Token(id), &place()).await.unwrap();
    let state = TokenState::RevokedLeaked { at: Timestamp(9) };
    let revoked = LeakOutcome::Token { id: expired.id, account_id: open, state, revoked: true };
    assert_eq!(leak(expired.id).await, revoked);
    // Its deletion is not recorded yet.
    let state = TokenState::Deleted { at: Timestamp(8) };
    let unchanged = LeakOutcome::Token { id: left.id, account_id: closed, state, revoked: false };
    assert_eq!(leak(left.id).await, unchanged);
    let mails = f.store.claim_mails(Timestamp(99), Duration::from_secs(1), i64::MAX, 9).await;
    assert!(mails.unwrap().iter().all(|mail| mail.account.id == open));
}

/// Rule 11.52.
async fn what_was_deleted_before_stays_so(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &new).await;
    f.store.delete_token(&ctx(8), new.id, None).await.unwrap().unwrap();
    let owner = SecretOwner::Token(new.id);
    let outcome = f.store.revoke_leaked(&ctx(9), owner, &place()).await.unwrap();
    let state = TokenState::Deleted { at: Timestamp(8) };
    let unchanged = LeakOutcome::Token { id: new.id, account_id: account, state, revoked: false };
    assert_eq!(outcome, unchanged);
    assert_eq!(f.store.token_facts(new.id).await.unwrap().unwrap().state, state);
    let mails = f.store.claim_mails(Timestamp(99), Duration::from_secs(1), i64::MAX, 9).await;
    assert!(mails.unwrap().is_empty());
}

/// Rules 11.53 and 11.54.
async fn a_leaked_admin_credential_is_revoked_and_the_admins_are_mailed(f: Fixture) {
    let account = f.account("acme").await;
    let role = Role::AccountAdmin(account);
    let (credential, digest) = new_credential(role);
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
    let (id, owner) = (credential.id, SecretOwner::Credential(credential.id));
    let of = |outcome| LeakOutcome::Credential { id, role, outcome };

    let outcome = f.store.revoke_leaked(&ctx(9), owner, &place()).await.unwrap();
    assert_eq!(outcome, of(LeakedCredential::Revoked));
    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "credential.revoke_leaked");
    assert_eq!(event.account_id, Some(account));
    assert_eq!(change.touched, Invalidation::Credential(id));
    assert_eq!(json(event.after.as_deref())["url"], json!(place().url));
    assert!(f.store.live_credentials().await.unwrap().is_empty());
    let hour = Duration::from_secs(3_600);
    let mails = f.store.claim_mails(Timestamp(9), hour, i64::MAX, 9).await.unwrap();
    assert_eq!(mails.len(), 2);
    let owner_of_mail = MailSecretOwner::Credential { id, name: credential.name };
    assert_eq!(mails[0].content, MailContent::Leaked(owner_of_mail, place()));

    let before = f.position().await;
    let again = f.store.revoke_leaked(&ctx(10), owner, &place()).await.unwrap();
    assert_eq!(again, of(LeakedCredential::RevokedBefore));
    let nobody = SecretOwner::Credential(CredentialId(Uuid::now_v7()));
    let unknown = f.store.revoke_leaked(&ctx(10), nobody, &place()).await.unwrap();
    assert_eq!((unknown, f.position().await), (LeakOutcome::Unknown, before));
}

/// Rule 11.54.
async fn a_leaked_pep_credential_is_revoked_without_a_mail(f: Fixture) {
    let (credential, digest) = new_credential(Role::Pep);
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
    let owner = SecretOwner::Credential(credential.id);
    let LeakOutcome::Credential { outcome: LeakedCredential::Revoked, .. } =
        f.store.revoke_leaked(&ctx(9), owner, &place()).await.unwrap()
    else {
        panic!("it stays valid")
    };
    assert!(f.store.live_credentials().await.unwrap().is_empty());
    let mails = f.store.claim_mails(Timestamp(99), Duration::from_secs(1), i64::MAX, 9).await;
    assert!(mails.unwrap().is_empty());
}

/// Rule 11.54.
async fn the_last_operator_credential_stays_and_that_is_recorded(f: Fixture) {
    let mut made = Vec::new();
    for _ in 0..2 {
        let (credential, digest) = new_credential(Role::Operator);
        f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
        made.push(credential.id);
    }
    let report = async |id| {
        let owner = SecretOwner::Credential(id);
        let LeakOutcome::Credential { outcome, .. } =
            f.store.revoke_leaked(&ctx(9), owner, &place()).await.unwrap()
        else {
            panic!("it is a credential's")
        };
        outcome
    };
    assert_eq!(report(made[0]).await, LeakedCredential::Revoked);
    assert_eq!(report(made[1]).await, LeakedCredential::LastOperator);
    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "credential.report_leaked");
    assert_eq!(change.touched, Invalidation::Nothing);
    let live = f.store.live_credentials().await.unwrap();
    assert_eq!(live.iter().map(|(of, _)| of.id).collect::<Vec<_>>(), made[1..]);
    f.check_record().await;
}

/// Rule 11.52.
async fn a_leaked_token_keeps_its_reason_until_it_is_purged(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &new).await;
    let owner = SecretOwner::Token(new.id);
    f.store.revoke_leaked(&ctx(9), owner, &place()).await.unwrap();
    assert!(f.store.purge(&ctx(20), Timestamp(9), 10).await.unwrap().is_empty());
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    assert_eq!(facts.state, TokenState::RevokedLeaked { at: Timestamp(9) });
    assert_eq!(f.store.purge(&ctx(20), Timestamp(10), 10).await.unwrap(), [new.id]);
    assert_eq!(f.store.token_facts(new.id).await.unwrap(), None);
    assert!(f.store.secret_owners(&[new.digest]).await.unwrap().is_empty());
    let (event, _) = f.last().await;
    assert_eq!(event.action.as_str(), "token.purge");
    assert_eq!(json(event.before.as_deref())["state"], "leaked");
}
