//! Accounts and their admins.

use portcullis::model::{AuditFilter, Invalidation};
use portcullis::policy::id::AccountId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::store::fixture::{Fixture, all, ctx, new_account, page};

on_both!(an_account_reads_back, lists_are_by_age_and_paged, admins_change_as_a_whole,);

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
    assert_eq!(none.unwrap(), None);
    assert!(f.store.set_account_admins(&ctx(10), id, &[]).await.is_err());
    assert_eq!(f.store.account(id).await.unwrap().unwrap().admins, admins);
    assert_eq!(f.position().await, before);
    let filter = AuditFilter { account_id: Some(id), ..Default::default() };
    let events = f.store.audit_events(&filter, all()).await.unwrap();
    assert_eq!(events.len(), 2);
}
