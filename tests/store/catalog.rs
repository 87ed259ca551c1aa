//! The catalogue in force and the numbers of scopes.

use portcullis::model::{Invalidation, ScopesInUse};
use portcullis::policy::scope::ScopeId;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;
use portcullis::store::StoreError;
use serde_json::{Value, json};

use crate::store::fixture::{ASK, Fixture, READ, REVEAL, ctx, id_of, new_token, scope_names, toml};

on_both!(
    numbers_stay,
    a_catalogue_in_force_is_named,
    scopes_in_use_stay,
    one_of_two_catalogues_wins,
    grants_are_counted,
);

async fn numbers_stay(f: Fixture) {
    assert_eq!(f.store.catalog().await.unwrap(), None);
    f.catalog(&[REVEAL, READ]).await;
    f.catalog(&[ASK]).await;
    f.catalog(&[READ, "new.one", ASK]).await;
    let stored = f.store.catalog().await.unwrap().unwrap();
    assert_eq!(stored.version, 3);
    assert_eq!(stored.applied, Timestamp(2));
    assert_eq!(stored.toml, toml(&[READ, "new.one", ASK]));
    let ids = [REVEAL, READ, ASK, "new.one"].map(|name| id_of(&stored, name));
    assert_eq!(ids, [0, 1, 2, 3].map(ScopeId));
    assert_eq!(stored.scope_ids.len(), 4);

    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "catalog.apply");
    assert_eq!(event.before.as_deref(), Some(r#"{"version":2}"#));
    let after: Value = serde_json::from_str(&event.after.unwrap()).unwrap();
    assert_eq!(after, json!({ "version": 3, "added": [READ, "new.one"], "dropped": [] }));
    assert_eq!(change.touched, Invalidation::Catalog);
    f.check_record().await;
}

async fn a_catalogue_in_force_is_named(f: Fixture) {
    let names = scope_names(&[READ]);
    let apply =
        async |current, text: &str| f.store.apply_catalog(&ctx(5), current, text, &names).await;
    let wrong = apply(Some(1), &toml(&[READ])).await;
    assert!(matches!(wrong, Err(StoreError::StaleCatalog)));
    let first = apply(None, &toml(&[READ])).await.unwrap().unwrap();
    assert_eq!(first.version, 1);
    let wrong = apply(None, &toml(&[READ])).await;
    assert!(matches!(wrong, Err(StoreError::StaleCatalog)));
    assert_eq!(f.position().await, 1);
    let same = apply(Some(1), &toml(&[READ])).await.unwrap().unwrap();
    assert_eq!(same, first);
    assert_eq!(f.position().await, 1);
    let commented = format!("# a comment\n{}", toml(&[READ]));
    let second = apply(Some(1), &commented).await.unwrap().unwrap();
    assert_eq!((second.version, second.toml.as_str()), (2, commented.as_str()));
    assert_eq!(f.store.catalog().await.unwrap(), Some(second));
    f.check_record().await;
}

/// Rule 1.7.
async fn scopes_in_use_stay(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ, ASK, REVEAL]).await;
    let ids = |names: &[&str]| {
        let names = names.iter();
        names.map(|name| catalog.by_name(name).unwrap().id).collect()
    };
    let custom = |names| new_token(account, TokenKind::Custom, ids(names), "10.0.0.1");
    let (both, one) = (custom(&[ASK, REVEAL]), custom(&[ASK]));
    f.token(&catalog, &both).await;
    f.token(&catalog, &one).await;
    let whole = new_token(account, TokenKind::ReadWrite, vec![], "10.0.0.1");
    f.token(&catalog, &whole).await;
    let before = f.position().await;
    let apply = async || {
        let names = scope_names(&[READ]);
        let applied = f.store.apply_catalog(&ctx(5), Some(1), &toml(&[READ]), &names).await;
        applied.unwrap()
    };
    let [ask, reveal] = [ASK, REVEAL].map(|name| name.parse().unwrap());
    let in_use = vec![(reveal, 1), (ask, 2)];
    assert_eq!(apply().await, Err(ScopesInUse(in_use)));
    assert_eq!(f.position().await, before);
    let stored = f.store.catalog().await.unwrap().unwrap();
    assert_eq!(stored.version, 1);

    // Neither a deleted token nor a scope that was taken keeps a scope.
    f.store.delete_token(&ctx(6), both.id, None).await.unwrap();
    let take = "UPDATE token_scope SET taken_time = 1 WHERE token_id = $1";
    f.execute(take, &[one.id.0]).await.unwrap();
    assert_eq!(apply().await.unwrap().version, 2);
    f.check_record().await;
}

async fn one_of_two_catalogues_wins(f: Fixture) {
    let names = [scope_names(&[READ]), scope_names(&[ASK])];
    let texts = [toml(&[READ]), toml(&[ASK])];
    let context = ctx(1);
    let (first, second) = tokio::join!(
        f.store.apply_catalog(&context, None, &texts[0], &names[0]),
        f.store.apply_catalog(&context, None, &texts[1], &names[1]),
    );
    let (won, lost) = if first.is_ok() { (first, second) } else { (second, first) };
    assert!(matches!(lost, Err(StoreError::StaleCatalog)));
    let stored = f.store.catalog().await.unwrap();
    assert_eq!(stored, Some(won.unwrap().unwrap()));
    f.check_record().await;
}

async fn grants_are_counted(f: Fixture) {
    let empty = f.store.count_grants().await.unwrap();
    assert_eq!((empty.read_only, empty.read_write), (0, 0));
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ, ASK, REVEAL]).await;
    let [read, ask, reveal] = [READ, ASK, REVEAL].map(|name| catalog.by_name(name).unwrap().id);
    let mut last = None;
    for (kind, scopes, entries) in [
        (TokenKind::ReadOnly, vec![], ""),
        (TokenKind::ReadWrite, vec![], "10.0.0.1"),
        (TokenKind::ReadWrite, vec![], "10.0.0.1"),
        (TokenKind::Custom, vec![read, ask], ""),
        (TokenKind::Custom, vec![ask, reveal], "10.0.0.1"),
        (TokenKind::Custom, vec![read], ""),
    ] {
        let new = new_token(account, kind, scopes, entries);
        last = Some(f.token(&catalog, &new).await.id);
    }
    f.store.delete_token(&ctx(6), last.unwrap(), None).await.unwrap();
    let counts = f.store.count_grants().await.unwrap();
    assert_eq!((counts.read_only, counts.read_write), (1, 2));
    assert_eq!(counts.custom, [(read, 1, 1), (ask, 2, 1), (reveal, 1, 0)]);
}
