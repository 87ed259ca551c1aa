//! Whitelist changes: what policy says, once, in order, on the record.

use std::sync::Arc;

use portcullis::model::{Invalidation, WhitelistChanged, WhitelistRefused, WhitelistTarget};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::network::{Change, ChangeError, Limits, parse_entries};
use portcullis::policy::scope::Catalog;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{RequestedExpiry, TokenKind};
use portcullis::store::{Store, StoreError};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::store::fixture::{Fixture, READ, REVEAL, ctx, new_token, whitelist};

on_both!(
    a_change_is_made_and_recorded,
    what_changes_nothing_leaves_nothing,
    refusals_change_nothing,
    the_whitelist_of_an_expired_token_stays,
    the_rule_holds_in_the_transaction,
    one_of_two_with_the_same_version_wins,
    all_of_fifty_are_kept,
);

pub(crate) fn edit(add: &str, remove: &str) -> Change {
    let entries = |text| {
        let text = Some(text).filter(|text: &&str| !text.is_empty());
        parse_entries(text, &Limits::default()).unwrap()
    };
    Change::Edit { add: entries(add), remove: entries(remove) }
}

fn target(token_id: TokenId, expected_version: Option<i64>) -> WhitelistTarget {
    WhitelistTarget { token_id, only: None, expected_version }
}

async fn change(
    store: &dyn Store,
    catalog: &Catalog,
    target: WhitelistTarget,
    change: &Change,
) -> Result<WhitelistChanged, WhitelistRefused> {
    let limits = Limits::default();
    let changed = store.change_whitelist(&ctx(20), catalog, target, change, &limits, false).await;
    changed.unwrap().unwrap()
}

async fn stage(f: &Fixture, kind: TokenKind, entries: &str) -> (AccountId, Catalog, TokenId) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ, REVEAL]).await;
    let token = f.token(&catalog, &new_token(account, kind, vec![], entries)).await;
    (account, catalog, token.id)
}

async fn a_change_is_made_and_recorded(f: Fixture) {
    let (account, catalog, id) = stage(&f, TokenKind::ReadWrite, "10.0.0.0/24").await;
    let edit = edit("10.0.0.0/8,192.0.2.1", "10.0.0.0/24");
    let changed = change(&*f.store, &catalog, target(id, Some(1)), &edit).await.unwrap();
    assert_eq!(changed.version, 2);
    assert!(changed.changed);
    assert_eq!(changed.whitelist, whitelist("10.0.0.0/8,192.0.2.1"));
    assert_eq!(changed.still_covered_by.len(), 1);
    let facts = f.store.token_facts(id).await.unwrap().unwrap();
    assert_eq!(facts.whitelist, changed.whitelist);
    let token = f.store.token(id, None).await.unwrap().unwrap();
    assert_eq!((token.whitelist, token.whitelist_version), (changed.whitelist, 2));

    let (event, record) = f.last().await;
    assert_eq!(event.action.as_str(), "whitelist.change");
    assert_eq!((event.account_id, event.token_id), (Some(account), Some(id)));
    let json = |text: Option<String>| serde_json::from_str::<Value>(&text.unwrap()).unwrap();
    assert_eq!(json(event.before), json!({ "whitelist": ["10.0.0.0/24"], "version": 1 }));
    assert_eq!(
        json(event.after),
        json!({ "whitelist": ["10.0.0.0/8", "192.0.2.1"], "version": 2 })
    );
    assert_eq!(record.touched, Invalidation::Token(id));
}

async fn what_changes_nothing_leaves_nothing(f: Fixture) {
    let (_, catalog, id) = stage(&f, TokenKind::ReadWrite, "10.0.0.1").await;
    let before = f.position().await;
    let same = change(&*f.store, &catalog, target(id, None), &edit("10.0.0.1", "")).await;
    let same = same.unwrap();
    assert_eq!((same.version, same.changed), (1, false));

    let limits = Limits::default();
    let wanted = edit("10.0.0.2", "10.0.0.1");
    let dry = f
        .store
        .change_whitelist(&ctx(20), &catalog, target(id, Some(1)), &wanted, &limits, true)
        .await;
    let dry = dry.unwrap().unwrap().unwrap();
    assert_eq!((dry.version, dry.changed), (1, true), "the version that was checked");
    assert_eq!(dry.whitelist, whitelist("10.0.0.2"));
    assert_eq!(f.position().await, before);
    let token = f.store.token(id, None).await.unwrap().unwrap();
    assert_eq!((token.whitelist, token.whitelist_version), (whitelist("10.0.0.1"), 1));
    f.check_record().await;
}

/// Rule 3.14.
async fn the_whitelist_of_an_expired_token_stays(f: Fixture) {
    let (_, catalog, id) = stage(&f, TokenKind::ReadWrite, "10.0.0.1").await;
    let expiry = RequestedExpiry::At(Timestamp(20));
    f.store.set_token_expiry(&ctx(10), id, None, expiry).await.unwrap().unwrap().unwrap();
    let limits = Limits::default();
    let wanted = edit("10.0.0.2", "");
    let early = ctx(19);
    let early =
        f.store.change_whitelist(&early, &catalog, target(id, None), &wanted, &limits, false);
    assert_eq!(early.await.unwrap().unwrap().unwrap().version, 2);
    let before = f.position().await;
    for expected in [None, Some(1), Some(2)] {
        // At the instant of its expiry, whether or not a sweep has recorded it.
        let late = change(&*f.store, &catalog, target(id, expected), &edit("", "10.0.0.2")).await;
        assert_eq!(late, Err(WhitelistRefused::Expired(Timestamp(20))));
    }
    assert_eq!(f.position().await, before);
    f.check_record().await;
}

/// Rules 3.11 and 3.14.
async fn refusals_change_nothing(f: Fixture) {
    let (_, catalog, id) = stage(&f, TokenKind::ReadWrite, "10.0.0.1").await;
    let other = f.account("other").await;
    let before = f.position().await;
    let wanted = edit("10.0.0.2", "");
    let stale = change(&*f.store, &catalog, target(id, Some(2)), &wanted).await;
    assert_eq!(stale, Err(WhitelistRefused::Stale { current: 1 }));
    let last = change(&*f.store, &catalog, target(id, None), &edit("", "10.0.0.1")).await;
    assert_eq!(last, Err(WhitelistRefused::Rule(ChangeError::Required)));

    let limits = Limits::default();
    for (token_id, only) in [(TokenId(Uuid::now_v7()), None), (id, Some(other))] {
        let target = WhitelistTarget { token_id, only, expected_version: Some(9) };
        let none =
            f.store.change_whitelist(&ctx(1), &catalog, target, &wanted, &limits, false).await;
        assert_eq!(none.unwrap(), None);
    }
    assert_eq!(f.position().await, before);

    let newer = f.catalog(&[READ]).await;
    let target_of = target(id, None);
    let stale =
        f.store.change_whitelist(&ctx(1), &catalog, target_of, &wanted, &limits, false).await;
    assert!(matches!(stale, Err(StoreError::StaleCatalog)));

    f.store.delete_token(&ctx(30), id, None).await.unwrap();
    let before = f.position().await;
    for expected in [None, Some(1), Some(7)] {
        let deleted = change(&*f.store, &newer, target(id, expected), &wanted).await;
        assert_eq!(deleted, Err(WhitelistRefused::Deleted));
    }
    assert_eq!(f.position().await, before);
    f.check_record().await;
}

async fn the_rule_holds_in_the_transaction(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ, REVEAL]).await;
    let lift = Change::Replace { entries: vec![], allow_any_address: true };
    let scope = |name| vec![catalog.by_name(name).unwrap().id];
    let token = |kind, scopes| new_token(account, kind, scopes, "10.0.0.1");
    for new in [token(TokenKind::ReadWrite, vec![]), token(TokenKind::Custom, scope(REVEAL))] {
        f.token(&catalog, &new).await;
        let refused = change(&*f.store, &catalog, target(new.id, None), &lift).await;
        assert_eq!(refused, Err(WhitelistRefused::Rule(ChangeError::Required)));
    }
    for new in [token(TokenKind::ReadOnly, vec![]), token(TokenKind::Custom, scope(READ))] {
        f.token(&catalog, &new).await;
        let lifted = change(&*f.store, &catalog, target(new.id, None), &lift).await;
        assert_eq!(lifted.unwrap().whitelist, whitelist(""));
        let read = f.store.token_facts(new.id).await.unwrap().unwrap();
        assert_eq!(read.whitelist, whitelist(""));
    }
}

async fn one_of_two_with_the_same_version_wins(f: Fixture) {
    let (_, catalog, id) = stage(&f, TokenKind::ReadWrite, "10.0.0.1").await;
    let (first, second) = (edit("10.0.0.2", ""), edit("10.0.0.3", ""));
    let (first, second) = tokio::join!(
        change(&*f.store, &catalog, target(id, Some(1)), &first),
        change(&*f.store, &catalog, target(id, Some(1)), &second),
    );
    let (won, lost) = match (first, second) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        other => panic!("{other:?}"),
    };
    assert_eq!(lost, WhitelistRefused::Stale { current: 2 });
    let token = f.store.token(id, None).await.unwrap().unwrap();
    assert_eq!((token.whitelist, token.whitelist_version), (won.whitelist, 2));
    f.check_record().await;
}

async fn all_of_fifty_are_kept(f: Fixture) {
    let (_, catalog, id) = stage(&f, TokenKind::ReadWrite, "10.0.0.1").await;
    let catalog = Arc::new(catalog);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (store, catalog) = (f.store.clone(), catalog.clone());
        tasks.spawn(async move {
            let add = edit(&format!("192.0.2.{}", n + 1), "");
            change(&*store, &catalog, target(id, None), &add).await
        });
    }
    let mut versions = Vec::new();
    while let Some(changed) = tasks.join_next().await {
        versions.push(changed.unwrap().unwrap().version);
    }
    versions.sort_unstable();
    assert_eq!(versions, (2..=51).collect::<Vec<_>>());
    let token = f.store.token(id, None).await.unwrap().unwrap();
    assert_eq!(token.whitelist.entries().len(), 51);
    assert_eq!(token.whitelist_version, 51);
    f.check_record().await;
}
