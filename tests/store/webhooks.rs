//! Webhooks: who may deliver, how far a webhook got, and what a change of it does to that.

use portcullis::model::{
    AuditAction, Delivery, EventType, Failing, FormerSecret, SecretVersion, Webhook, WebhookState,
    WebhookUpdate,
};
use portcullis::policy::id::WebhookId;
use portcullis::policy::time::Timestamp;
use portcullis::store::MAX_WEBHOOKS;
use uuid::Uuid;

use crate::store::fixture::{Fixture, all, ctx, new_account, page};

on_both!(
    a_webhook_reads_back,
    there_are_not_more_than_the_most,
    one_claims_a_webhook_until_the_claim_ends,
    a_change_ends_a_claim,
    delivery_is_stored_only_by_who_has_the_claim,
    a_webhook_that_is_enabled_again_begins_at_that_change,
    what_is_not_for_a_webhook_is_passed,
    a_secret_has_one_former,
    one_that_is_gone_is_claimed_by_nobody,
    events_of_actions_are_read_in_order_and_in_bounds,
);

fn new_webhook(event_types: Option<Vec<EventType>>) -> Webhook {
    Webhook {
        id: WebhookId(Uuid::now_v7()),
        name: "alerts".to_owned(),
        url: "https://hooks.example/secret-path?key=1".to_owned(),
        event_types,
        created: Timestamp(4),
        secret: SecretVersion { key: 3, version: 1 },
        former_secret: None,
        state: WebhookState::Enabled,
        delivery: Delivery::default(),
    }
}

async fn webhook(f: &Fixture) -> Webhook {
    let new = new_webhook(None);
    assert!(f.store.create_webhook(&ctx(4), &new).await.unwrap());
    f.store.webhook(new.id).await.unwrap().unwrap()
}

/// Takes a webhook from 10 until 20.
async fn claim(f: &Fixture, webhook: &Webhook) -> Option<Webhook> {
    let position = webhook.delivery.position;
    f.store.claim_webhook(webhook.id, position, Timestamp(10), Timestamp(20)).await.unwrap()
}

async fn stored(f: &Fixture, webhook: &Webhook) -> Webhook {
    f.store.webhook(webhook.id).await.unwrap().unwrap()
}

async fn a_webhook_reads_back(f: Fixture) {
    f.account("acme").await;
    let types = vec![EventType::AccountSuspended, EventType::TokenLeaked];
    let new = new_webhook(Some(types));
    assert!(f.store.create_webhook(&ctx(4), &new).await.unwrap());
    // Its own creation is the first event for it.
    let delivery = Delivery { position: f.position().await - 1, ..Delivery::default() };
    let wanted = Webhook { delivery, ..new };
    let listed = f.store.webhooks(all()).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&wanted));
    assert_eq!(f.store.webhook(wanted.id).await.unwrap(), Some(wanted.clone()));
    let (event, _) = f.last().await;
    assert_eq!(event.action.as_str(), "webhook.create");
    let after = event.after.unwrap();
    assert!(after.contains("https://hooks.example") && !after.contains("secret-path"), "{after}");

    let update = WebhookUpdate {
        name: Some("pager".to_owned()),
        url: Some("https://other.example/".to_owned()),
        event_types: Some(None),
        enabled: Some(false),
    };
    let updated = f.store.update_webhook(&ctx(5), wanted.id, &update).await.unwrap().unwrap();
    assert_eq!(updated, stored(&f, &wanted).await);
    assert_eq!((updated.name.as_str(), updated.state), ("pager", WebhookState::Disabled));
    assert_eq!((updated.url.as_str(), updated.event_types), ("https://other.example/", None));
    let position = f.position().await;
    // The same again is no change.
    f.store.update_webhook(&ctx(6), wanted.id, &update).await.unwrap().unwrap();
    assert_eq!(f.position().await, position);

    assert!(f.store.delete_webhook(&ctx(7), wanted.id).await.unwrap());
    assert!(!f.store.delete_webhook(&ctx(8), wanted.id).await.unwrap());
    assert_eq!(f.store.webhook(wanted.id).await.unwrap(), None);
    assert_eq!(f.store.update_webhook(&ctx(9), wanted.id, &update).await.unwrap(), None);
    f.check_record().await;
}

/// Rule 14.1.
async fn there_are_not_more_than_the_most(f: Fixture) {
    for _ in 0..MAX_WEBHOOKS {
        webhook(&f).await;
    }
    let position = f.position().await;
    let one_more = new_webhook(None);
    assert!(!f.store.create_webhook(&ctx(4), &one_more).await.unwrap());
    assert_eq!(f.position().await, position);
    let listed = f.store.webhooks(all()).await.unwrap();
    assert_eq!(listed.len(), MAX_WEBHOOKS as usize);
    assert!(listed.is_sorted_by_key(|webhook| webhook.id));
    let rest = f.store.webhooks(page(Some(listed[9].id), 2)).await.unwrap();
    assert_eq!(rest, listed[10..12]);
}

/// Rule 14.18.
async fn one_claims_a_webhook_until_the_claim_ends(f: Fixture) {
    let webhook = webhook(&f).await;
    let claimed = claim(&f, &webhook).await.unwrap();
    assert_eq!(claimed.delivery.claimed_until, Timestamp(20));
    assert_eq!(claim(&f, &webhook).await, None);
    let (id, position) = (webhook.id, webhook.delivery.position);
    let at = async |now, until| {
        f.store.claim_webhook(id, position, Timestamp(now), Timestamp(until)).await.unwrap()
    };
    assert_eq!(at(19, 29).await, None);
    assert!(at(20, 30).await.is_some());
    // Somebody who has read an earlier position has nothing to send.
    let late = f.store.claim_webhook(id, position - 1, Timestamp(40), Timestamp(50)).await;
    assert_eq!(late.unwrap(), None);
}

async fn a_change_ends_a_claim(f: Fixture) {
    let webhook = webhook(&f).await;
    let mut claimed = claim(&f, &webhook).await.unwrap();
    let update =
        WebhookUpdate { url: Some("https://new.example/".to_owned()), ..Default::default() };
    f.store.update_webhook(&ctx(11), webhook.id, &update).await.unwrap().unwrap();
    claimed.delivery.position += 1;
    let until = Timestamp(20);
    assert!(!f.store.save_delivery(webhook.id, until, &claimed.delivery).await.unwrap());
    assert_eq!(stored(&f, &webhook).await.delivery, webhook.delivery);
    assert!(claim(&f, &webhook).await.is_some());
}

async fn delivery_is_stored_only_by_who_has_the_claim(f: Fixture) {
    let webhook = webhook(&f).await;
    claim(&f, &webhook).await.unwrap();
    let delivery = Delivery {
        position: 7,
        attempts: 2,
        next_attempt: Timestamp(40),
        claimed_until: Timestamp(0),
        failing: Some(Failing { since: Timestamp(12), event_time: Timestamp(4) }),
        last_success: Some(Timestamp(11)),
        last_failure: Some((Timestamp(13), "the answer is 500".to_owned())),
        delivered: 5,
        skipped: 6,
    };
    let save = async |claimed| {
        f.store.save_delivery(webhook.id, Timestamp(claimed), &delivery).await.unwrap()
    };
    assert!(!save(19).await);
    assert!(save(20).await);
    assert_eq!(stored(&f, &webhook).await.delivery, delivery);
    assert!(!save(20).await);
    // Not before it is due, unless it was tried out.
    let take = async |now: i64| {
        let until = Timestamp(now + 10);
        f.store.claim_webhook(webhook.id, 7, Timestamp(now), until).await.unwrap()
    };
    assert_eq!(take(39).await, None);
    f.store.retry_webhook(webhook.id).await.unwrap();
    assert!(take(15).await.is_some());
}

/// Rule 14.17.
async fn a_webhook_that_is_enabled_again_begins_at_that_change(f: Fixture) {
    let webhook = webhook(&f).await;
    let enabled = |enabled| WebhookUpdate { enabled: Some(enabled), ..Default::default() };
    let disabled = f.store.update_webhook(&ctx(5), webhook.id, &enabled(false)).await.unwrap();
    assert_eq!(disabled.unwrap().delivery.position, webhook.delivery.position);
    assert_eq!(claim(&f, &webhook).await, None);
    f.account("acme").await;
    let again = f.store.update_webhook(&ctx(6), webhook.id, &enabled(true)).await.unwrap().unwrap();
    assert_eq!(again.delivery.position, f.position().await);
    assert!(claim(&f, &again).await.is_some());
}

async fn what_is_not_for_a_webhook_is_passed(f: Fixture) {
    let webhook = webhook(&f).await;
    let position = webhook.delivery.position;
    f.store.pass_events(webhook.id, position - 1, 90).await.unwrap();
    assert_eq!(stored(&f, &webhook).await.delivery.position, position);
    f.store.pass_events(webhook.id, position, 90).await.unwrap();
    assert_eq!(stored(&f, &webhook).await.delivery.position, 90);
}

/// Rule 14.6.
async fn a_secret_has_one_former(f: Fixture) {
    let webhook = webhook(&f).await;
    let rotate = async |key, until: Option<i64>| {
        let until = until.map(Timestamp);
        let rotated = f.store.rotate_webhook_secret(&ctx(5), webhook.id, key, until).await;
        let rotated = rotated.unwrap().unwrap();
        assert_eq!(rotated, stored(&f, &webhook).await);
        (rotated.secret, rotated.former_secret)
    };
    let secret = |key, version| SecretVersion { key, version };
    let former = |key, until| Some(FormerSecret { key, until: Timestamp(until) });
    assert_eq!(rotate(4, Some(50)).await, (secret(4, 2), former(3, 50)));
    assert_eq!(rotate(5, Some(60)).await, (secret(5, 3), former(4, 60)));
    assert_eq!(rotate(5, None).await, (secret(5, 4), None));
    assert_eq!(f.last().await.0.action.as_str(), "webhook.rotate_secret");
}

/// Rule 14.14.
async fn one_that_is_gone_is_claimed_by_nobody(f: Fixture) {
    let webhook = webhook(&f).await;
    let mut claimed = claim(&f, &webhook).await.unwrap();
    claimed.delivery.claimed_until = Timestamp(0);
    claimed.delivery.last_failure = Some((Timestamp(12), "the answer is 410".to_owned()));
    let end = async |claimed_until| {
        let until = Timestamp(claimed_until);
        let delivery = &claimed.delivery;
        f.store.disable_gone_webhook(&ctx(12), webhook.id, until, delivery).await.unwrap()
    };
    let position = f.position().await;
    assert!(!end(19).await);
    assert_eq!(f.position().await, position);
    assert!(end(20).await);
    let gone = stored(&f, &webhook).await;
    assert_eq!((gone.state, &gone.delivery), (WebhookState::Gone, &claimed.delivery));
    assert_eq!(claim(&f, &gone).await, None);
    assert_eq!(f.last().await.0.action.as_str(), "webhook.disable");
    f.check_record().await;
}

async fn events_of_actions_are_read_in_order_and_in_bounds(f: Fixture) {
    let create = async |count: usize| {
        for _ in 0..count {
            f.store.create_account(&ctx(4), &new_account("acme")).await.unwrap();
        }
    };
    create(3).await;
    let first = webhook(&f).await;
    create(2).await;
    let read = async |actions: &[AuditAction], after, limit| {
        let batch = f.store.audit_events_of(actions, after, limit).await.unwrap();
        let positions: Vec<_> = batch.events.iter().map(|event| event.position).collect();
        (positions, batch.until, batch.more)
    };
    let accounts = [AuditAction::AccountCreate];
    let both = [AuditAction::AccountCreate, AuditAction::WebhookCreate];
    assert_eq!(read(&accounts, 0, 10).await, (vec![1, 2, 3, 5, 6], 6, false));
    assert_eq!(read(&both, 0, 10).await, (vec![1, 2, 3, 4, 5, 6], 6, false));
    assert_eq!(read(&both, 0, 2).await, (vec![1, 2], 2, true));
    assert_eq!(read(&both, 4, 2).await, (vec![5, 6], 6, true));
    assert_eq!(read(&both, 6, 2).await, (vec![], 6, false));
    assert_eq!(read(&[AuditAction::TokenDelete], 2, 10).await, (vec![], 6, false));
    assert_eq!(first.delivery.position, 3);
    assert_eq!(read(&first.actions(), first.delivery.position, 10).await, (vec![4], 6, false));
}
