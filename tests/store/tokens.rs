//! Tokens: what is stored is what decisions and lists read.

use portcullis::model::{
    AccountRefusal, Invalidation, Labels, NewToken, Token, TokenFilter, TokenUpdate,
    TokenUpdateRefusal,
};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::network::Whitelist;
use portcullis::policy::scope::ScopeSet;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{Grant, TokenKind, TokenState};
use portcullis::store::StoreError;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::store::fixture::{ASK, Fixture, READ, REVEAL, all, ctx, new_token, page};

on_both!(
    a_token_reads_back,
    what_was_taken_reads_back,
    creation_is_refused_and_leaves_nothing,
    lists_are_by_age_filtered_and_paged,
    a_token_is_deleted_once,
    others_tokens_are_hidden,
    what_cannot_be_read_is_an_error,
    a_name_and_labels_change_and_nothing_else_of_the_token,
);

/// Rule 1.8.
async fn a_token_reads_back(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ, ASK, REVEAL]).await;
    let id = |name| catalog.by_name(name).unwrap().id;
    let listed = vec![id(REVEAL), id(READ)];
    let granted: ScopeSet = listed.iter().copied().collect();
    let taken = ScopeSet::default();
    for (kind, scopes, entries, grant) in [
        (TokenKind::ReadOnly, vec![], "", Grant::ReadOnly { downgraded: false }),
        (TokenKind::ReadWrite, vec![], "2001:db8::/32,10.0.0.1", Grant::ReadWrite),
        (TokenKind::Custom, listed, "10.0.0.0/24", Grant::Custom { granted, taken }),
    ] {
        let new = new_token(account, kind, scopes.clone(), entries);
        let token = f.token(&catalog, &new).await;
        assert_eq!(token.kind, kind);
        assert_eq!(token.whitelist_version, 1);
        assert_eq!(token.created, Timestamp(3));
        let mut sorted = scopes;
        sorted.sort();
        assert_eq!(token.scopes, sorted);
        let read = f.store.token(new.id, None).await.unwrap();
        assert_eq!(read, Some(token));

        let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
        assert_eq!((*facts.id, *facts.account_id), (new.id, account));
        assert_eq!(facts.digest, new.digest);
        assert_eq!(facts.state, TokenState::Active);
        assert_eq!(facts.grant, grant);
        assert_eq!(facts.whitelist, new.whitelist);
        assert_eq!(facts.announced, []);

        let (event, change) = f.last().await;
        assert_eq!(event.action.as_str(), "token.create");
        assert_eq!((event.account_id, event.token_id), (Some(account), Some(new.id)));
        assert_eq!(change.touched, Invalidation::Token(new.id));
    }
    let after = f.last().await.0.after.unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&after).unwrap(),
        json!({
            "name": "a token",
            "kind": "CUSTOM",
            "scopes": [READ, REVEAL],
            "whitelist": ["10.0.0.0/24"],
        })
    );
    let nobody = TokenId(Uuid::now_v7());
    assert_eq!(f.store.token_facts(nobody).await.unwrap(), None);
    assert_eq!(f.store.token(nobody, None).await.unwrap(), None);
    f.check_record().await;
}

async fn what_was_taken_reads_back(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ, ASK, REVEAL]).await;
    let [read, ask, reveal] = [READ, ASK, REVEAL].map(|name| catalog.by_name(name).unwrap().id);
    let new = new_token(account, TokenKind::Custom, vec![reveal, ask, read], "10.0.0.1");
    f.token(&catalog, &new).await;
    let take = "UPDATE token_scope SET taken_time = 100 - scope_id \
                WHERE token_id = $1 AND scope_id > 0";
    f.execute(take, &[new.id.0]).await.unwrap();
    let token = f.store.token(new.id, None).await.unwrap().unwrap();
    assert_eq!(token.scopes, [read]);
    assert_eq!(token.taken, [(reveal, Timestamp(98)), (ask, Timestamp(99))]);
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    let grant = Grant::Custom {
        granted: [read].into_iter().collect(),
        taken: [ask, reveal].into_iter().collect(),
    };
    assert_eq!(facts.grant, grant);

    let new = new_token(account, TokenKind::ReadWrite, vec![], "10.0.0.1");
    f.token(&catalog, &new).await;
    let take = "UPDATE token SET kind = 'READ_ONLY', downgrade_time = 50 WHERE token_id = $1";
    f.execute(take, &[new.id.0]).await.unwrap();
    let take = "INSERT INTO token_scope (token_id, scope_id, taken_time) VALUES ($1, 1, 50)";
    f.execute(take, &[new.id.0]).await.unwrap();
    let token = f.store.token(new.id, None).await.unwrap().unwrap();
    assert_eq!(token.kind, TokenKind::ReadOnly);
    assert_eq!(token.downgraded, Some(Timestamp(50)));
    assert_eq!(token.taken, [(ask, Timestamp(50))]);
    assert!(token.scopes.is_empty());
    assert_eq!(token.whitelist, new.whitelist);
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    assert_eq!(facts.grant, Grant::ReadOnly { downgraded: true });
}

async fn creation_is_refused_and_leaves_nothing(f: Fixture) {
    let account = f.account("acme").await;
    let old = f.catalog(&[READ]).await;
    let catalog = f.catalog(&[READ, REVEAL]).await;
    let before = f.position().await;

    let nobody = new_token(AccountId(Uuid::now_v7()), TokenKind::ReadOnly, vec![], "");
    let refused = f.store.create_token(&ctx(4), &catalog, &nobody).await;
    assert_eq!(refused.unwrap(), Err(AccountRefusal::NotFound));

    let new = new_token(account, TokenKind::ReadOnly, vec![], "");
    let refused = f.store.create_token(&ctx(4), &old, &new).await;
    assert!(matches!(refused, Err(StoreError::StaleCatalog)));

    // Policy was asked before; the store doesn't rely on it.
    let reveal = catalog.by_name(REVEAL).unwrap().id;
    for (kind, scopes) in [(TokenKind::ReadWrite, vec![]), (TokenKind::Custom, vec![reveal])] {
        let open = new_token(account, kind, scopes, "");
        let refused = f.store.create_token(&ctx(4), &catalog, &open).await;
        assert!(matches!(refused, Err(StoreError::Internal(_))));
        assert_eq!(f.store.token(open.id, None).await.unwrap(), None);
    }
    assert_eq!(f.position().await, before);

    f.token(&catalog, &new).await;
    let twice = f.store.create_token(&ctx(4), &catalog, &new).await;
    assert!(matches!(twice, Err(StoreError::Internal(_))));
    assert_eq!(f.position().await, before + 1);
    f.check_record().await;
}

async fn lists_are_by_age_filtered_and_paged(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let (ours, theirs) = (f.account("ours").await, f.account("theirs").await);
    let mut ids = Vec::new();
    for n in 0..6 {
        let account = if n % 3 == 2 { theirs } else { ours };
        let new = new_token(account, TokenKind::Custom, vec![catalog.scopes()[0].id], "");
        ids.push(f.token(&catalog, &new).await.id);
    }
    let list = async |account_id, deleted, page| {
        let filter = TokenFilter { account_id, deleted };
        let tokens = f.store.tokens(&filter, page).await.unwrap();
        for token in &tokens {
            let one = f.store.token(token.id, None).await.unwrap();
            assert_eq!(one.as_ref(), Some(token));
        }
        tokens.iter().map(|token| token.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, false, all()).await, ids);
    assert_eq!(list(Some(theirs), false, all()).await, [ids[2], ids[5]]);
    let first = list(Some(ours), false, page(None, 2)).await;
    assert_eq!(first, ids[..2]);
    // Between two pages the last one seen goes, and another comes.
    f.store.delete_token(&ctx(9), ids[1], None).await.unwrap();
    let new = new_token(ours, TokenKind::ReadOnly, vec![], "");
    let late = f.token(&catalog, &new).await.id;
    let rest = list(Some(ours), false, page(Some(ids[1]), 10)).await;
    assert_eq!(rest, [ids[3], ids[4], late]);
    assert_eq!(list(Some(ours), true, page(Some(ids[0]), 2)).await, [ids[1], ids[3]]);
    assert!(!list(None, false, all()).await.contains(&ids[1]));
    assert_eq!(list(None, true, all()).await.len(), 7);
    assert!(list(Some(ours), false, page(Some(late), 1)).await.is_empty());
}

/// Rule 4.2.
async fn a_token_is_deleted_once(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &new).await;
    let deleted = f.store.delete_token(&ctx(9), new.id, None).await.unwrap();
    let deleted = deleted.unwrap();
    assert_eq!(deleted.state, TokenState::Deleted { at: Timestamp(9) });
    let (event, change) = f.last().await;
    assert_eq!(event.action.as_str(), "token.delete");
    assert_eq!((event.account_id, event.token_id), (Some(account), Some(new.id)));
    assert_eq!(change.touched, Invalidation::Token(new.id));
    let before = f.position().await;
    let again = f.store.delete_token(&ctx(10), new.id, Some(account)).await;
    assert_eq!(again.unwrap(), Some(deleted.clone()));
    assert_eq!(f.store.token(new.id, None).await.unwrap(), Some(deleted));
    let nobody = TokenId(Uuid::now_v7());
    assert_eq!(f.store.delete_token(&ctx(10), nobody, None).await.unwrap(), None);
    assert_eq!(f.position().await, before);
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    assert_eq!(facts.state, TokenState::Deleted { at: Timestamp(9) });

    let unused = "UPDATE token SET delete_cause = 'unused' WHERE token_id = $1";
    f.execute(unused, &[new.id.0]).await.unwrap();
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    assert_eq!(facts.state, TokenState::DeletedUnused { at: Timestamp(9) });
}

async fn others_tokens_are_hidden(f: Fixture) {
    let (ours, theirs) = (f.account("ours").await, f.account("theirs").await);
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(theirs, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &new).await;
    let before = f.position().await;
    assert_eq!(f.store.token(new.id, Some(ours)).await.unwrap(), None);
    let deleted = f.store.delete_token(&ctx(9), new.id, Some(ours)).await;
    assert_eq!(deleted.unwrap(), None);
    assert_eq!(f.position().await, before);
    let seen = f.store.token(new.id, Some(theirs)).await.unwrap();
    assert_eq!(seen.unwrap().state, TokenState::Active);
}

async fn what_cannot_be_read_is_an_error(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadWrite, vec![], "10.0.0.1");
    f.token(&catalog, &new).await;
    let open = "UPDATE token SET whitelist = 'any' WHERE token_id = $1";
    assert!(f.execute(open, &[new.id.0]).await.is_err());
    let empty = "UPDATE token SET whitelist = '' WHERE token_id = $1";
    assert!(f.execute(empty, &[new.id.0]).await.is_err());
    for spoil in [
        "UPDATE token SET whitelist = '10.0.0.1,bogus' WHERE token_id = $1",
        "UPDATE token SET whitelist = ',' WHERE token_id = $1",
        "UPDATE token SET whitelist = '0.0.0.0/0' WHERE token_id = $1",
    ] {
        f.execute(spoil, &[new.id.0]).await.unwrap();
        let facts = f.store.token_facts(new.id).await;
        assert!(matches!(facts, Err(StoreError::Internal(_))), "{spoil}");
        let token = f.store.token(new.id, None).await;
        assert!(matches!(token, Err(StoreError::Internal(_))), "{spoil}");
    }
    assert_ne!(new.whitelist, Whitelist::Unrestricted);
}

/// Rules 11.80 and 11.81.
async fn a_name_and_labels_change_and_nothing_else_of_the_token(f: Fixture) {
    let account = f.account("acme").await;
    let stranger = f.account("other").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadOnly, vec![], "10.0.0.1");
    let labels = Labels::from([("team".to_owned(), "payments \"€\"".to_owned())]);
    let token = f.token(&catalog, &NewToken { labels: labels.clone(), ..new }).await;
    let id = token.id;
    let read = async || f.store.token(id, None).await.unwrap().unwrap();
    assert_eq!((read().await.labels, token.labels.clone()), (labels.clone(), labels.clone()));
    let (event, _) = f.last().await;
    let after: serde_json::Value = serde_json::from_str(&event.after.unwrap()).unwrap();
    assert_eq!(after["labels"]["team"], "payments \"€\"");

    let facts = f.store.token_facts(id).await.unwrap();
    let name = TokenUpdate { name: Some("renamed".into()), labels: None };
    let hidden = f.store.update_token(&ctx(4), id, Some(stranger), &name).await.unwrap();
    assert_eq!(hidden, None);
    let renamed = f.store.update_token(&ctx(4), id, Some(account), &name).await.unwrap().unwrap();
    let expected = Token { name: "renamed".into(), ..token };
    assert_eq!((renamed.unwrap(), read().await), (expected.clone(), expected.clone()));
    let (event, change) = f.last().await;
    assert_eq!((event.action.as_str(), event.token_id), ("token.update", Some(id)));
    assert_eq!(change.touched, Invalidation::Nothing);
    let before = f.position().await;
    let same = f.store.update_token(&ctx(5), id, None, &name).await.unwrap().unwrap();
    assert_eq!((same.unwrap(), f.position().await), (expected.clone(), before));

    let none = TokenUpdate { name: None, labels: Some(Labels::new()) };
    let cleared = f.store.update_token(&ctx(5), id, None, &none).await.unwrap().unwrap();
    let expected = Token { labels: Labels::new(), ..expected };
    assert_eq!((cleared.unwrap(), read().await), (expected.clone(), expected));
    assert_eq!(f.store.token_facts(id).await.unwrap(), facts);

    f.store.delete_token(&ctx(6), id, None).await.unwrap();
    let refused = f.store.update_token(&ctx(7), id, None, &name).await.unwrap().unwrap();
    assert_eq!(refused, Err(TokenUpdateRefusal::Deleted));
    f.check_record().await;
}
