//! The chain over audit events: each change extends it, old events are sealed, and pruning keeps where the rest begins.

use std::sync::Arc;

use portcullis::audit::{ChainHash, EventFields};
use portcullis::model::{AuditEvent, AuditFilter};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;

use crate::store::fixture::{Fixture, READ, ctx, new_account, new_token, page};

on_both!(
    each_change_extends_the_chain,
    concurrent_changes_make_one_chain,
    a_refused_change_leaves_the_chain_as_it_is,
    events_without_a_hash_are_sealed_in_order,
    events_of_a_program_without_the_chain_are_sealed_later,
    what_is_left_after_pruning_follows_from_what_was_pruned,
    records_of_removals_do_not_keep_what_is_after_them,
);

/// The hash of an event after `previous`, computed from what is listed.
fn hash(event: &AuditEvent, previous: &ChainHash) -> ChainHash {
    let text = |id: Option<String>| id.unwrap_or_default();
    EventFields {
        revision: event.position,
        time: &event.time.to_rfc_3339(),
        action: event.action.as_str(),
        actor: &event.actor,
        actor_role: &event.actor_role,
        client_address: event.client.as_deref().unwrap_or_default(),
        account_id: &text(event.account_id.map(|id| id.to_string())),
        token_id: &text(event.token_id.map(|id| id.to_string())),
        before_json: event.before.as_deref().unwrap_or_default(),
        after_json: event.after.as_deref().unwrap_or_default(),
    }
    .hash(previous)
}

/// Checks that the events are complete from the beginning of the chain, and one chain up to its head.
async fn check(f: &Fixture) -> Vec<AuditEvent> {
    let chain = f.store.audit_chain().await.unwrap();
    if chain.begin.revision == 0 {
        assert_eq!(chain.begin.hash, ChainHash::genesis(&chain.installation_id));
    }
    let filter = AuditFilter { oldest_first: true, ..AuditFilter::default() };
    let events = f.store.audit_events(&filter, page(None, 10_000)).await.unwrap();
    let mut last = chain.begin;
    for event in &events {
        assert_eq!(event.position, last.revision + 1);
        assert_eq!(event.hash, Some(hash(event, &last.hash)), "{event:?}");
        (last.revision, last.hash) = (event.position, event.hash.unwrap());
    }
    assert_eq!(last, chain.head);
    assert_eq!(last.revision, f.position().await);
    events
}

async fn each_change_extends_the_chain(f: Fixture) {
    assert_eq!(check(&f).await, []);
    let account = f.account("acme").await;
    assert_eq!(check(&f).await.len(), 1);
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &new).await;
    f.store.delete_token(&ctx(5), new.id, None).await.unwrap();
    let events = check(&f).await;
    assert_eq!(events.len(), 4);

    let f = f.reopen().await;
    assert_eq!(check(&f).await, events);
    f.account("another").await;
    assert_eq!(check(&f).await.len(), 5);
    let after = AuditFilter { after: Some(3), oldest_first: true, ..AuditFilter::default() };
    let positions = f.store.audit_events(&after, page(Some(4), 9)).await.unwrap();
    assert_eq!(positions.iter().map(|event| event.position).collect::<Vec<_>>(), [5]);
}

async fn concurrent_changes_make_one_chain(f: Fixture) {
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&f.store);
            tokio::spawn(async move {
                for _ in 0..5 {
                    store.create_account(&ctx(1), &new_account("acme")).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(check(&f).await.len(), 40);
}

async fn a_refused_change_leaves_the_chain_as_it_is(f: Fixture) {
    let account = f.account("acme").await;
    f.store.close_account(&ctx(2), account, "another name").await.unwrap().unwrap_err();
    assert_eq!(check(&f).await.len(), 1);
    f.account("another").await;
    assert_eq!(check(&f).await.len(), 2);
}

async fn events_without_a_hash_are_sealed_in_order(f: Fixture) {
    for _ in 0..5 {
        f.account("acme").await;
    }
    let before = check(&f).await;
    f.forget_hashes().await;
    // What is recorded meanwhile waits for what is before it.
    f.account("meanwhile").await;
    assert_eq!(f.last().await.0.hash, None);
    assert_eq!(f.store.seal_audit_events(4).await.unwrap(), 4);
    f.account("meanwhile").await;
    assert_eq!(f.last().await.0.hash, None);
    assert_eq!(f.store.seal_audit_events(4).await.unwrap(), 3);
    assert_eq!(f.store.seal_audit_events(4).await.unwrap(), 0);
    let sealed = check(&f).await;
    assert_eq!(sealed[..5], before);
    assert_eq!(sealed.len(), 7);
    f.account("afterwards").await;
    assert_eq!(check(&f).await.len(), 8);
}

async fn events_of_a_program_without_the_chain_are_sealed_later(f: Fixture) {
    f.account("acme").await;
    // As such a program writes them, beside this one.
    f.execute("UPDATE head SET position = 2", &[]).await.unwrap();
    f.execute(
        "INSERT INTO audit_event (position, time, action, actor, actor_role) \
         VALUES (2, 5, 'token.create', 'system', '')",
        &[],
    )
    .await
    .unwrap();
    f.account("another").await;
    let chain = f.store.audit_chain().await.unwrap();
    assert_eq!(chain.head.revision, 1);
    assert_eq!(f.store.seal_audit_events(100).await.unwrap(), 2);
    assert_eq!(check(&f).await.len(), 3);
}

async fn records_of_removals_do_not_keep_what_is_after_them(f: Fixture) {
    let prune =
        async |most| f.store.prune_audit_events(&ctx(9), Timestamp(10), most).await.unwrap();
    for _ in 0..3 {
        f.account("acme").await;
    }
    for _ in 0..3 {
        assert_eq!(prune(1).await, 1);
    }
    f.account("acme").await;
    assert_eq!(prune(3).await, 3);
    let left = check(&f).await;
    let actions: Vec<_> = left.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["account.create", "audit.prune"]);
}

async fn what_is_left_after_pruning_follows_from_what_was_pruned(f: Fixture) {
    for _ in 0..6 {
        f.account("acme").await;
    }
    let events = check(&f).await;
    // All of them are from instant 1.
    assert_eq!(f.store.prune_audit_events(&ctx(9), Timestamp(1), 100).await.unwrap(), 0);
    assert_eq!(f.store.prune_audit_events(&ctx(9), Timestamp(2), 4).await.unwrap(), 4);
    let chain = f.store.audit_chain().await.unwrap();
    assert_eq!((chain.begin.revision, Some(chain.begin.hash)), (4, events[3].hash));
    let left = check(&f).await;
    assert_eq!(left[..2], events[4..]);
    assert_eq!(left[2].action.as_str(), "audit.prune");
    let after: serde_json::Value = serde_json::from_str(left[2].after.as_ref().unwrap()).unwrap();
    assert_eq!((&after["revision"], &after["count"]), (&4.into(), &4.into()));
    assert_eq!(after["hash"], chain.begin.hash.to_string());

    // The record of a removal alone is no reason for another one.
    assert_eq!(f.store.prune_audit_events(&ctx(9), Timestamp(10), 100).await.unwrap(), 3);
    assert_eq!(check(&f).await.len(), 1);
    assert_eq!(f.store.prune_audit_events(&ctx(9), Timestamp(10), 100).await.unwrap(), 0);

    // What has no hash is not removed.
    let f = f.reopen().await;
    f.account("acme").await;
    f.execute("UPDATE audit_event SET hash = NULL WHERE position = 9", &[]).await.unwrap();
    assert_eq!(f.store.prune_audit_events(&ctx(9), Timestamp(10), 100).await.unwrap(), 0);
}
