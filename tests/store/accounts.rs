//! Accounts and their admins.

use portcullis::model::{
    AccountRefusal, Actor, AuditFilter, CloseRefusal, Context, CredentialRefusal, Invalidation,
    Role, WhitelistRefused, WhitelistTarget,
};
use portcullis::policy::id::{AccountId, CredentialId};
use portcullis::policy::network::{Change, Limits};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{AccountRestriction, RequestedExpiry, TokenKind, TokenState};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::store::fixture::{
    Fixture, READ, all, ctx, new_account, new_credential, new_token, page,
};
use crate::store::whitelist::edit;

on_both!(
    an_account_reads_back,
    lists_are_by_age_and_paged,
    admins_change_as_a_whole,
    a_suspension_is_recorded_once_and_lifted,
    admins_of_a_suspended_account_only_narrow,
    a_closed_account_is_restricted_at_once_and_loses_its_tokens_step_by_step,
    a_name_changes_unless_the_account_is_closed,
);

async fn an_account_reads_back(f: Fixture) {
    let account = new_account("acme");
    f.store.create_account(&ctx(5), &account).await.unwrap();
    let read = f.store.account(account.id).await.unwrap();
    assert_eq!(read, Some(account.clone()));
    let nobody = AccountId(Uuid::now_v7());
    assert_eq!(f.store.account(nobody).await.unwrap(), None);

    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "account.create");
    assert_eq!(event.time.0, 5);
    assert_eq!(event.actor, "crd_0000000000000000000007");
    assert_eq!(event.actor_role, "operator");
    assert_eq!(event.client.as_deref(), Some("192.0.2.7"));
    assert_eq!((event.account_id, event.token_id), (Some(account.id), None));
    assert_eq!(event.before, None);
    let after: Value = serde_json::from_str(&event.after.unwrap()).unwrap();
    assert_eq!(after, json!({ "name": "acme", "admins": account.admins }));
    assert_eq!(change.touched, Invalidation::Nothing);
}

async fn lists_are_by_age_and_paged(f: Fixture) {
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        ids.push(f.account(name).await);
    }
    let read = f.store.accounts(None, page(None, 2)).await.unwrap();
    assert_eq!(read.iter().map(|a| a.id).collect::<Vec<_>>(), ids[..2]);
    assert_eq!(read[0].admins, ["zoe@a.test", "adam@a.test"]);
    // One that comes between two pages is on a later one.
    ids.push(f.account("f").await);
    let rest = f.store.accounts(None, page(Some(ids[1]), 10)).await;
    let rest: Vec<_> = rest.unwrap().iter().map(|a| a.id).collect();
    assert_eq!(rest, ids[2..]);
    let end = f.store.accounts(None, page(Some(ids[5]), 10)).await;
    assert!(end.unwrap().is_empty());

    let only = f.store.accounts(Some(ids[3]), all()).await.unwrap();
    assert_eq!(only.iter().map(|a| a.id).collect::<Vec<_>>(), [ids[3]]);
    let behind = f.store.accounts(Some(ids[3]), page(Some(ids[3]), 9)).await;
    assert!(behind.unwrap().is_empty());
    let nobody = AccountId(Uuid::now_v7());
    let none = f.store.accounts(Some(nobody), all()).await;
    assert!(none.unwrap().is_empty());
}

async fn admins_change_as_a_whole(f: Fixture) {
    let id = f.account("acme").await;
    let admins = ["new@acme.test".to_owned(), "zoe@acme.test".to_owned()];
    let changed = f.store.set_account_admins(&ctx(9), id, &admins).await;
    assert_eq!(changed.unwrap().unwrap().account.admins, admins);
    assert_eq!(f.store.account(id).await.unwrap().unwrap().admins, admins);
    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "account.set_admins");
    assert_eq!(event.account_id, Some(id));
    assert_eq!(event.before.as_deref(), Some(r#"{"admins":["zoe@acme.test","adam@acme.test"]}"#));
    assert_eq!(change.touched, Invalidation::Nothing);

    let before = f.position().await;
    let same = f.store.set_account_admins(&ctx(10), id, &admins).await;
    assert_eq!(same.unwrap().unwrap().account.admins, admins);
    let nobody = AccountId(Uuid::now_v7());
    let none = f.store.set_account_admins(&ctx(10), nobody, &admins).await;
    assert_eq!(none.unwrap(), Err(AccountRefusal::NotFound));
    assert!(f.store.set_account_admins(&ctx(10), id, &[]).await.is_err());
    assert_eq!(f.store.account(id).await.unwrap().unwrap().admins, admins);
    assert_eq!(f.position().await, before);
    let filter = AuditFilter { account_id: Some(id), ..Default::default() };
    let events = f.store.audit_events(&filter, all()).await.unwrap();
    assert_eq!(events.len(), 2);
}

/// An admin of the account.
fn admin(now: i64, account: AccountId) -> Context {
    let actor = Actor::Credential(CredentialId(Uuid::from_u128(8)), Role::AccountAdmin(account));
    Context::new(actor, Timestamp(now), None)
}

/// Rules 11.70 and 11.73.
async fn a_suspension_is_recorded_once_and_lifted(f: Fixture) {
    let id = f.account("acme").await;
    let other = f.account("other").await;
    assert_eq!(f.store.account_restriction(id).await.unwrap(), None);
    let suspended = f.store.suspend_account(&ctx(5), id).await.unwrap().unwrap();
    let restriction = AccountRestriction::Suspended { at: Timestamp(5) };
    assert_eq!(suspended.restriction(), Some(restriction));
    assert_eq!(f.store.account(id).await.unwrap(), Some(suspended.clone()));
    assert_eq!(f.store.account_restriction(id).await.unwrap(), Some(restriction));
    assert_eq!(f.store.restricted_accounts().await.unwrap(), [(id, restriction)]);
    let (event, change) = f.last().await;
    assert_eq!((event.action.as_str(), event.account_id), ("account.suspend", Some(id)));
    assert_eq!(event.after.as_deref(), Some(r#"{"name":"acme","state":"suspended"}"#));
    assert_eq!(change.touched, Invalidation::Account(id));

    let before = f.position().await;
    let again = f.store.suspend_account(&ctx(6), id).await.unwrap();
    assert_eq!(again, Ok(suspended), "since when it is suspended stays as it is");
    assert_eq!(f.store.resume_account(&ctx(6), other).await.unwrap().unwrap().suspended, None);
    assert_eq!(f.position().await, before);

    let resumed = f.store.resume_account(&ctx(7), id).await.unwrap().unwrap();
    assert_eq!(resumed.restriction(), None);
    assert_eq!(f.store.restricted_accounts().await.unwrap(), []);
    let (event, change) = f.last().await;
    assert_eq!((event.action.as_str(), event.account_id), ("account.resume", Some(id)));
    assert_eq!(change.touched, Invalidation::Account(id));
    let nobody = AccountId(Uuid::now_v7());
    let none = f.store.suspend_account(&ctx(8), nobody).await.unwrap();
    assert_eq!(none, Err(AccountRefusal::NotFound));
    f.check_record().await;
}

/// Rule 11.72.
async fn admins_of_a_suspended_account_only_narrow(f: Fixture) {
    let id = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(id, TokenKind::ReadOnly, vec![], "10.0.0.1,10.0.0.2");
    let token = f.token(&catalog, &new).await.id;
    f.store.suspend_account(&ctx(5), id).await.unwrap().unwrap();
    let before = f.position().await;

    let another = new_token(id, TokenKind::ReadOnly, vec![], "");
    let refused = f.store.create_token(&admin(6, id), &catalog, &another).await.unwrap();
    assert_eq!(refused.unwrap_err(), AccountRefusal::Suspended);
    let change = async |ctx: &Context, change: &Change| {
        let target = WhitelistTarget { token_id: token, only: None, expected_version: None };
        let limits = Limits::default();
        let store = &f.store;
        let changed = store.change_whitelist(ctx, &catalog, target, change, &limits, false).await;
        changed.unwrap().unwrap().map(|changed| changed.version)
    };
    let wider = Err(WhitelistRefused::AccountSuspended(id));
    assert_eq!(change(&admin(6, id), &edit("10.0.0.3", "")).await, wider);
    assert_eq!(change(&admin(6, id), &edit("10.0.0.3", "10.0.0.1")).await, wider);
    let replace = Change::Replace { entries: Vec::new(), allow_any_address: true };
    assert_eq!(change(&admin(6, id), &replace).await, wider);
    assert_eq!(f.position().await, before);

    assert_eq!(change(&admin(6, id), &edit("", "10.0.0.1")).await, Ok(2));
    let nearer = RequestedExpiry::At(Timestamp(100));
    let set = f.store.set_token_expiry(&admin(6, id), token, Some(id), nearer).await.unwrap();
    assert_eq!(set.unwrap().unwrap().expires, Some(Timestamp(100)));
    assert!(f.store.delete_token(&admin(7, id), token, Some(id)).await.unwrap().is_some());
    // Operators may do everything.
    assert!(f.store.create_token(&ctx(8), &catalog, &another).await.unwrap().is_ok());
    f.check_record().await;
}

/// Rules 11.74, 11.75, 11.76 and 11.77.
async fn a_closed_account_is_restricted_at_once_and_loses_its_tokens_step_by_step(f: Fixture) {
    let id = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let mut tokens = Vec::new();
    for _ in 0..5 {
        let new = new_token(id, TokenKind::ReadOnly, vec![], "");
        tokens.push(f.token(&catalog, &new).await.id);
    }
    let (credential, digest) = new_credential(Role::AccountAdmin(id));
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
    let (operator, digest) = new_credential(Role::Operator);
    f.store.create_credential(&ctx(4), &operator, &digest).await.unwrap().unwrap();
    f.store.delete_token(&ctx(5), tokens[0], None).await.unwrap();
    assert_eq!(f.store.count_tokens(id).await.unwrap(), 4);
    assert_eq!(f.store.continue_closure(&ctx(5), None, 2).await.unwrap(), None);
    assert_eq!(f.store.continue_closure(&ctx(5), Some(id), 2).await.unwrap(), None);
    assert!(!f.store.complete_closure(&ctx(5), id).await.unwrap(), "it is not closed");

    let before = f.position().await;
    let wrong = f.store.close_account(&ctx(6), id, "Acme").await.unwrap();
    assert_eq!(wrong, Err(CloseRefusal::NotConfirmed("acme".into())));
    let nobody = AccountId(Uuid::now_v7());
    let none = f.store.close_account(&ctx(6), nobody, "acme").await.unwrap();
    assert_eq!(none, Err(CloseRefusal::NotFound));
    assert_eq!(f.position().await, before);

    let closed = f.store.close_account(&ctx(7), id, "acme").await.unwrap().unwrap();
    let restriction = AccountRestriction::Closed { at: Timestamp(7) };
    assert_eq!(closed.restriction(), Some(restriction));
    assert_eq!(f.position().await, before + 2, "however many tokens there are");
    let events = f.events().await;
    let revoked = events.iter().filter(|event| event.action.as_str() == "credential.revoke");
    assert_eq!(revoked.count(), 1, "which a replica follows by itself");
    let (event, change) = f.last().await;
    assert_eq!(
        (event.action.as_str(), change.touched),
        ("account.close", Invalidation::Account(id))
    );
    let after: Value = serde_json::from_str(&event.after.unwrap()).unwrap();
    assert_eq!(after["revoked_credentials"], json!([credential.id.to_string()]));
    let live = f.store.live_credentials().await.unwrap();
    assert_eq!(live.iter().map(|(live, _)| live.id).collect::<Vec<_>>(), [operator.id]);

    // Nothing can be created any more, by anybody, and nothing opens it again.
    let before = f.position().await;
    let new = new_token(id, TokenKind::ReadOnly, vec![], "");
    let refused = f.store.create_token(&ctx(8), &catalog, &new).await.unwrap();
    assert_eq!(refused.unwrap_err(), AccountRefusal::Closed);
    let (another, digest) = new_credential(Role::AccountAdmin(id));
    let refused = f.store.create_credential(&ctx(8), &another, &digest).await.unwrap();
    assert_eq!(refused, Err(CredentialRefusal::Account(AccountRefusal::Closed)));
    let admins = ["new@acme.test".to_owned()];
    let refused = f.store.set_account_admins(&ctx(8), id, &admins).await.unwrap();
    assert_eq!(refused.unwrap_err(), AccountRefusal::Closed);
    assert_eq!(f.store.resume_account(&ctx(8), id).await.unwrap(), Err(AccountRefusal::Closed));
    assert_eq!(f.store.suspend_account(&ctx(8), id).await.unwrap(), Err(AccountRefusal::Closed));
    assert_eq!(f.store.close_account(&ctx(8), id, "acme").await.unwrap(), Ok(closed));
    assert_eq!(f.position().await, before);

    // After a crash, any sweeper goes on.
    let f = f.reopen().await;
    assert_eq!(f.store.restricted_accounts().await.unwrap(), [(id, restriction)]);
    let first = f.store.continue_closure(&ctx(9), None, 3).await.unwrap().unwrap();
    assert_eq!((&first.tokens[..], first.more), (&tokens[1..4], true));
    assert!(!f.store.complete_closure(&ctx(9), id).await.unwrap(), "a token is left");
    assert_eq!(f.store.restricted_accounts().await.unwrap(), [(id, restriction)]);
    let second = f.store.continue_closure(&ctx(10), Some(id), 3).await.unwrap().unwrap();
    assert_eq!((&second.tokens[..], second.more), (&tokens[4..], true));
    let third = f.store.continue_closure(&ctx(11), None, 3).await.unwrap().unwrap();
    assert_eq!((&third.tokens[..], third.more), (&[][..], false));
    assert!(f.store.complete_closure(&ctx(11), id).await.unwrap());
    assert!(!f.store.complete_closure(&ctx(11), id).await.unwrap(), "once");
    assert_eq!(f.store.continue_closure(&ctx(12), None, 3).await.unwrap(), None);
    assert_eq!(f.store.restricted_accounts().await.unwrap(), []);
    assert_eq!(f.store.account_restriction(id).await.unwrap(), Some(restriction));
    for (at, &token) in tokens.iter().enumerate() {
        let at = Timestamp(if at == 0 { 5 } else { 7 });
        let state = f.store.token_facts(token).await.unwrap().unwrap().state;
        assert_eq!(state, TokenState::Deleted { at });
    }
    let events = f.events().await;
    let deleted = events.iter().filter(|event| event.action.as_str() == "token.delete");
    assert_eq!(deleted.count(), 5, "each once");
    f.check_record().await;
}

/// Rule 11.82.
async fn a_name_changes_unless_the_account_is_closed(f: Fixture) {
    let id = f.account("acme").await;
    let renamed = f.store.update_account(&ctx(5), id, "Acme GmbH").await.unwrap().unwrap();
    assert_eq!(renamed.name, "Acme GmbH");
    assert_eq!(f.store.account(id).await.unwrap(), Some(renamed.clone()));
    let (event, change) = f.last().await;
    assert_eq!((event.action.as_str(), event.account_id), ("account.update", Some(id)));
    assert_eq!(event.before.as_deref(), Some(r#"{"name":"acme"}"#));
    assert_eq!(event.after.as_deref(), Some(r#"{"name":"Acme GmbH"}"#));
    assert_eq!(change.touched, Invalidation::Nothing);
    let before = f.position().await;
    let same = f.store.update_account(&ctx(6), id, "Acme GmbH").await.unwrap();
    assert_eq!((same, f.position().await), (Ok(renamed), before));
    let nobody = AccountId(Uuid::now_v7());
    let none = f.store.update_account(&ctx(6), nobody, "x").await.unwrap();
    assert_eq!(none, Err(AccountRefusal::NotFound));
    f.store.close_account(&ctx(7), id, "Acme GmbH").await.unwrap().unwrap();
    let closed = f.store.update_account(&ctx(8), id, "x").await.unwrap();
    assert_eq!(closed, Err(AccountRefusal::Closed));
    f.check_record().await;
}
