//! What the audit record keeps of the basis on which an action was carried out.

use portcullis::model::{AuditFilter, CarriedOut};
use portcullis::policy::token::TokenKind;
use serde_json::{Value, json};

use super::{Stage, day};
use crate::store::fixture::{ASK, Fixture, READ, all};

on_both!(
    a_deletion_records_what_it_was_based_on,
    a_downgrade_records_the_uses_of_what_it_takes,
    an_event_that_names_several_actions_is_found_by_each,
    the_events_of_an_action_are_found_by_its_id,
);

/// The actions of the listed events, the oldest first, and the evidence in the last of them.
async fn evidence(s: &Stage, filter: AuditFilter) -> (Vec<String>, Value) {
    let filter = AuditFilter { oldest_first: true, ..filter };
    let events = s.store.audit_events(&filter, all()).await.unwrap();
    let names = events.iter().map(|event| event.action.as_str().to_owned()).collect();
    let after: Value =
        serde_json::from_str(events.last().unwrap().after.as_ref().unwrap()).unwrap();
    (names, after["evidence"].clone())
}

async fn a_deletion_records_what_it_was_based_on(f: Fixture) {
    let s = Stage::new(f).await;
    s.set_admins(&["zoe@acme.test", "adam@acme.test"], 1).await;
    s.deliver(1).await;
    let id = s.token(TokenKind::ReadOnly, &[]).await;
    s.record(id, READ, 2).await;
    let action = s.noticed(id, 40).await;
    // A former admin was notified, too.
    s.set_admins(&["adam@acme.test"], 41).await;
    s.deliver(41).await;
    assert_eq!(s.carry_out(action.id, 47).await, CarriedOut::Done);

    let of = AuditFilter { pending_action_id: Some(action.id), ..AuditFilter::default() };
    let (_, basis) = evidence(&s, of).await;
    let time = |n| json!(day(n).to_rfc_3339());
    assert_eq!(basis["announce_time"], time(40));
    assert_eq!(basis["basis_time"], time(2));
    assert_eq!(basis["last_use_time"], time(2));
    assert_eq!(basis["last_write_time"], Value::Null);
    assert_eq!(basis["accepted_time"], time(40));
    assert_eq!(basis["scope_uses"][0], json!({ "scope": READ, "last_use_time": time(2) }));
    assert_eq!(basis["admins"], json!(["adam@acme.test"]));
    assert_eq!(basis["settings"], json!({ "window": "45d", "notice": "7d" }));
    let notices = basis["notices"].as_array().unwrap();
    let of = |at: usize, name: &str| notices[at][name].clone();
    assert_eq!(notices.len(), 2);
    assert_eq!(
        (of(0, "recipient"), of(1, "recipient")),
        ("adam@acme.test".into(), "zoe@acme.test".into())
    );
    for at in 0..2 {
        assert_eq!((of(at, "state"), of(at, "answer")), ("accepted".into(), "250 taken".into()));
        assert_eq!((of(at, "create_time"), of(at, "accept_time")), (time(40), time(40)));
        assert!(of(at, "mail_id").as_str().unwrap().starts_with("mail_"));
    }
}

async fn a_downgrade_records_the_uses_of_what_it_takes(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::Custom, &[READ, ASK]).await;
    s.record(id, ASK, 1).await;
    s.record(id, READ, 30).await;
    let action = s.noticed(id, 40).await;
    s.record(id, READ, 46).await;
    assert_eq!(s.carry_out(action.id, 47).await, CarriedOut::Done);
    let of = AuditFilter { pending_action_id: Some(action.id), ..AuditFilter::default() };
    let (names, basis) = evidence(&s, of).await;
    assert_eq!(names.last().unwrap(), "lifecycle.downgrade");
    let time = |n| json!(day(n).to_rfc_3339());
    assert_eq!(basis["scope_uses"], json!([{ "scope": ASK, "last_use_time": time(1) }]));
    assert_eq!((&basis["last_use_time"], &basis["basis_time"]), (&time(46), &time(1)));
}

async fn an_event_that_names_several_actions_is_found_by_each(f: Fixture) {
    let s = Stage::new(f).await;
    let id = s.token(TokenKind::Custom, &[READ, ASK]).await;
    s.record(id, READ, 20).await;
    // The downgrade waits for its notices, until the deletion is announced as well.
    let downgrade = s.announce(id, 38).await.unwrap();
    let deletion = s.announce(id, 59).await.unwrap();
    s.record(id, ASK, 60).await;
    assert!(s.store.cancel_overtaken(&super::on(60), id).await.unwrap());
    for action in [downgrade, deletion] {
        let of = AuditFilter {
            pending_action_id: Some(action.id),
            oldest_first: true,
            ..AuditFilter::default()
        };
        let events = s.store.audit_events(&of, all()).await.unwrap();
        let names: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(names, ["lifecycle.announce", "lifecycle.cancel"], "{:?}", action.takes);
    }
}

async fn the_events_of_an_action_are_found_by_its_id(f: Fixture) {
    let s = Stage::new(f).await;
    let (one, other) =
        (s.token(TokenKind::ReadOnly, &[]).await, s.token(TokenKind::ReadOnly, &[]).await);
    let (action, cancelled) = (s.noticed(one, 38).await, s.noticed(other, 38).await);
    s.record(other, READ, 39).await;
    assert!(s.store.cancel_overtaken(&super::on(39), other).await.unwrap());
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    let list = async |id| {
        let of = AuditFilter { pending_action_id: Some(id), ..AuditFilter::default() };
        evidence(&s, of).await.0
    };
    let expected = ["lifecycle.announce", "lifecycle.noticed", "lifecycle.delete"];
    assert_eq!(list(action.id).await, expected);
    let of = AuditFilter {
        pending_action_id: Some(cancelled.id),
        oldest_first: true,
        ..AuditFilter::default()
    };
    let events = s.store.audit_events(&of, all()).await.unwrap();
    let names: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(names, ["lifecycle.announce", "lifecycle.noticed", "lifecycle.cancel"]);

    // Those of before the chain are found once they are sealed.
    s.f.forget_hashes().await;
    while s.store.seal_audit_events(3).await.unwrap() > 0 {}
    assert_eq!(list(action.id).await, expected);
    assert_eq!(s.store.audit_events(&of, all()).await.unwrap(), events);
}
