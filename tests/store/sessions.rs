//! Sessions of the management page: what ends them, and that a form is good for once.

use std::sync::Arc;
use std::time::Duration;

use portcullis::model::{Credential, Invalidation, NewSession, Role, Session, SettingsCredential};
use portcullis::policy::id::CredentialId;
use portcullis::policy::time::Timestamp;
use portcullis::secret::{Digest, digest};
use serde_json::{Value, json};
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::store::fixture::{Fixture, Place, ctx, new_credential};

on_both!(
    a_session_reads_back,
    it_ends_when_its_time_is_over,
    it_ends_when_it_is_idle,
    being_seen_is_noted_now_and_then,
    being_seen_need_not_be_noted,
    it_ends_by_signing_out,
    it_ends_everywhere,
    it_ends_with_its_credential,
    it_ends_with_the_credential_of_the_settings,
    none_begins_with_a_revoked_credential,
    none_begins_while_its_credential_is_revoked,
    what_is_over_is_forgotten,
    a_form_is_good_for_once,
    a_form_is_good_for_one_of_many,
    a_form_that_is_sent_while_signing_out_is_no_fault,
    sessions_survive_closing,
    no_digest_is_in_the_record,
    a_session_ends_when_its_credential_expires_and_none_begins,
);

const LONG: Duration = Duration::from_secs(60 * 60);
/// A tenth of it is 10 us.
const IDLE: Duration = Duration::from_micros(100);

fn secret() -> Digest {
    digest(Uuid::now_v7().as_bytes())
}

async fn credential(f: &Fixture, role: Role) -> Credential {
    let (credential, digest) = new_credential(role);
    let stored = f.store.create_credential(&ctx(4), &credential, &digest).await;
    stored.unwrap().unwrap();
    credential
}

fn new_session(credential_id: Option<CredentialId>, expires: i64) -> NewSession {
    NewSession { digest: secret(), credential_id, expires: Timestamp(expires) }
}

/// Begins a session at 1000 that ends at 9000.
async fn begin(f: &Fixture, credential: Option<CredentialId>) -> Digest {
    let new = new_session(credential, 9_000);
    assert!(f.store.create_session(&ctx(1_000), &new).await.unwrap());
    new.digest
}

async fn read(f: &Fixture, digest: &Digest, now: i64) -> Option<Session> {
    f.store.session(digest, Timestamp(now), LONG).await.unwrap()
}

async fn is_live(f: &Fixture, digest: &Digest, now: i64) -> bool {
    f.store.session(digest, Timestamp(now), IDLE).await.unwrap().is_some()
}

async fn revoke(f: &Fixture, id: CredentialId) {
    f.store.revoke_credential(&ctx(2_000), id).await.unwrap().unwrap().unwrap();
}

/// What the record says of one session of a credential.
fn summary(bearer: &Credential, state: &str) -> Value {
    json!({
        "credential_id": bearer.id.to_string(),
        "role": bearer.role.name(),
        "name": "a credential",
        "sessions": 1,
        "state": state,
    })
}

fn object(json: Option<String>) -> Value {
    serde_json::from_str(&json.unwrap()).unwrap()
}

async fn a_session_reads_back(f: Fixture) {
    let account = f.account("acme").await;
    for role in [Role::Operator, Role::AccountAdmin(account)] {
        let bearer = credential(&f, role).await;
        let digest = begin(&f, Some(bearer.id)).await;
        let (event, change) = f.last().await;
        let expected = Session {
            bearer: Some((bearer.id, role, "a credential".into())),
            created: Timestamp(1_000),
            expires: Timestamp(9_000),
        };
        assert_eq!(read(&f, &digest, 1_001).await, Some(expected));
        assert_eq!((event.action.as_str(), event.time), ("session.create", Timestamp(1_000)));
        let concerned = matches!(role, Role::AccountAdmin(_)).then_some(account);
        assert_eq!((event.account_id, event.token_id), (concerned, None));
        assert_eq!((event.before, object(event.after)), (None, summary(&bearer, "live")));
        assert_eq!(change.touched, Invalidation::Nothing);
    }
    let digest = begin(&f, None).await;
    assert_eq!(read(&f, &digest, 1_001).await.unwrap().bearer, None);
    assert_eq!(f.last().await.0.account_id, None);
    assert_eq!(read(&f, &secret(), 1_001).await, None);
    f.check_record().await;
}

async fn it_ends_when_its_time_is_over(f: Fixture) {
    let digest = begin(&f, None).await;
    assert!(read(&f, &digest, 8_999).await.is_some());
    assert_eq!(read(&f, &digest, 9_000).await, None);
    // It can't be signed out any more either.
    let before = f.position().await;
    assert_eq!(f.store.end_session(&ctx(9_000), &digest, true).await.unwrap(), 0);
    assert_eq!(f.position().await, before);
}

async fn it_ends_when_it_is_idle(f: Fixture) {
    let digest = begin(&f, None).await;
    let other = begin(&f, None).await;
    for now in [1_099, 1_198, 1_297] {
        assert!(is_live(&f, &digest, now).await, "{now}");
    }
    assert!(!is_live(&f, &digest, 1_397).await);
    // Whoever asks with more patience finds it: what is idle is a setting.
    assert!(read(&f, &digest, 1_397).await.is_some());
    // Another's use is none of this one's.
    assert!(!is_live(&f, &other, 1_100).await);
}

async fn being_seen_is_noted_now_and_then(f: Fixture) {
    let begun = f.position().await + 1;
    let digest = begin(&f, None).await;
    let seen = async || f.number("SELECT seen_time FROM session").await;
    for (now, noted) in [
        (1_000, 1_000),
        (1_009, 1_000),
        (1_010, 1_010),
        (1_015, 1_010),
        (1_025, 1_025),
        // A clock that is behind.
        (1_020, 1_025),
        (999, 1_025),
    ] {
        assert!(is_live(&f, &digest, now).await);
        assert_eq!(seen().await, noted, "{now}");
    }
    // Nor is it noted that somebody came too late.
    assert!(!is_live(&f, &digest, 1_125).await);
    assert_eq!(seen().await, 1_025);
    for later in (1_050..2_000).step_by(50) {
        tokio::join!(is_live(&f, &digest, later), is_live(&f, &digest, later - 10));
        assert_eq!(seen().await, later);
    }
    assert_eq!(f.position().await, begun);
}

async fn being_seen_need_not_be_noted(f: Fixture) {
    let digest = begin(&f, None).await;
    let refuse = match f.place {
        Place::Sqlite(_) => {
            "CREATE TRIGGER refuse BEFORE UPDATE ON session \
             BEGIN SELECT RAISE(ABORT, 'not now'); END"
        }
        Place::Postgres(_) => "ALTER TABLE session ADD CHECK (seen_time = create_time)",
    };
    f.execute(refuse, &[]).await.unwrap();
    for now in [1_050, 1_099] {
        assert!(is_live(&f, &digest, now).await);
    }
    // But then it counts as idle.
    assert!(!is_live(&f, &digest, 1_100).await);
}

async fn it_ends_by_signing_out(f: Fixture) {
    let account = f.account("acme").await;
    let bearer = credential(&f, Role::AccountAdmin(account)).await;
    let (first, second) = (begin(&f, Some(bearer.id)).await, begin(&f, Some(bearer.id)).await);
    assert_eq!(f.store.end_session(&ctx(2_000), &first, false).await.unwrap(), 1);
    let (event, change) = f.last().await;
    assert_eq!((event.action.as_str(), event.account_id), ("session.end", Some(account)));
    let [live, ended] = ["live", "ended"].map(|state| summary(&bearer, state));
    assert_eq!((object(event.before), object(event.after)), (live, ended));
    assert_eq!(change.touched, Invalidation::Nothing);
    assert_eq!(read(&f, &first, 2_000).await, None);
    assert!(read(&f, &second, 2_000).await.is_some());

    let before = f.position().await;
    for digest in [first, secret()] {
        for everywhere in [false, true] {
            let ended = f.store.end_session(&ctx(2_000), &digest, everywhere).await;
            assert_eq!(ended.unwrap(), 0);
        }
    }
    assert_eq!(f.position().await, before);
    assert!(read(&f, &second, 2_000).await.is_some());
    f.check_record().await;
}

async fn it_ends_everywhere(f: Fixture) {
    let (ours, theirs) =
        (credential(&f, Role::Operator).await, credential(&f, Role::Operator).await);
    let mut sessions = Vec::new();
    for id in [Some(ours.id), Some(theirs.id), None, Some(ours.id), None, Some(ours.id)] {
        sessions.push(begin(&f, id).await);
    }
    // One whose time is over is no more there to be ended.
    let new = new_session(Some(ours.id), 1_500);
    assert!(f.store.create_session(&ctx(1_000), &new).await.unwrap());
    let live = async || {
        let mut live = Vec::new();
        for digest in &sessions {
            live.push(read(&f, digest, 2_000).await.is_some());
        }
        live
    };
    assert_eq!(f.store.end_session(&ctx(2_000), &sessions[3], true).await.unwrap(), 3);
    assert_eq!(live().await, [false, true, true, false, true, false]);
    assert_eq!(object(f.last().await.0.after)["sessions"], json!(3));
    assert_eq!(f.store.end_session(&ctx(2_000), &sessions[2], true).await.unwrap(), 2);
    assert_eq!(live().await, [false, true, false, false, false, false]);
    assert_eq!(object(f.last().await.0.after)["credential_id"], Value::Null);
}

async fn it_ends_with_its_credential(f: Fixture) {
    let account = f.account("acme").await;
    let bearer = credential(&f, Role::AccountAdmin(account)).await;
    let other = credential(&f, Role::AccountAdmin(account)).await;
    let (first, second) = (begin(&f, Some(bearer.id)).await, begin(&f, Some(bearer.id)).await);
    let (others, nobodys) = (begin(&f, Some(other.id)).await, begin(&f, None).await);
    revoke(&f, bearer.id).await;
    for digest in [first, second] {
        assert_eq!(read(&f, &digest, 2_000).await, None);
        // Also by a clock that is behind.
        assert_eq!(read(&f, &digest, 1_500).await, None);
    }
    for digest in [others, nobodys] {
        assert!(read(&f, &digest, 2_000).await.is_some());
    }
    // Signing out still works.
    assert_eq!(f.store.end_session(&ctx(2_000), &first, true).await.unwrap(), 2);
}

async fn it_ends_with_the_credential_of_the_settings(f: Fixture) {
    let (mut wanted, digest) = new_credential(Role::Operator);
    wanted.from_settings = true;
    let set = f.store.set_settings_credential(&ctx(4), Some((&wanted, &digest))).await;
    assert_eq!(set.unwrap(), SettingsCredential::Changed);
    let session = begin(&f, Some(wanted.id)).await;
    assert!(read(&f, &session, 2_000).await.is_some());
    f.store.set_settings_credential(&ctx(2_000), None).await.unwrap();
    assert_eq!(read(&f, &session, 2_000).await, None);
}

async fn none_begins_with_a_revoked_credential(f: Fixture) {
    let bearer = credential(&f, Role::Pep).await;
    revoke(&f, bearer.id).await;
    let before = f.position().await;
    for id in [bearer.id, CredentialId(Uuid::now_v7())] {
        let new = new_session(Some(id), 9_000);
        // Whatever the clock says: a revocation is not taken back.
        for now in [1_000, 3_000] {
            assert!(!f.store.create_session(&ctx(now), &new).await.unwrap());
        }
        assert_eq!(read(&f, &new.digest, 3_000).await, None);
    }
    assert_eq!(f.number("SELECT count(*) FROM session").await, 0);
    assert_eq!(f.position().await, before);
}

async fn none_begins_while_its_credential_is_revoked(f: Fixture) {
    for _ in 0..10 {
        let bearer = credential(&f, Role::Pep).await;
        let new = new_session(Some(bearer.id), 9_000);
        let context = ctx(1_000);
        let begun = f.store.create_session(&context, &new);
        let (begun, revoked) = tokio::join!(begun, f.store.revoke_credential(&context, bearer.id));
        revoked.unwrap().unwrap().unwrap();
        begun.unwrap();
        assert_eq!(read(&f, &new.digest, 1_000).await, None);
    }
    f.check_record().await;
}

async fn what_is_over_is_forgotten(f: Fixture) {
    let bearer = credential(&f, Role::Operator).await;
    let mut sessions = Vec::new();
    for expires in [2_000, 3_000, 4_000] {
        let new = new_session(Some(bearer.id), expires);
        assert!(f.store.create_session(&ctx(1_000), &new).await.unwrap());
        for form in [[1; 16], [2; 16]] {
            assert!(f.store.use_form(&new.digest, &form).await.unwrap());
        }
        sessions.push(new.digest);
    }
    let left = async || {
        (
            f.number("SELECT count(*) FROM session").await,
            f.number("SELECT count(*) FROM session_form").await,
        )
    };
    assert_eq!(left().await, (3, 6));
    // One that does not begin forgets nothing.
    let new = new_session(Some(CredentialId(Uuid::now_v7())), 9_000);
    assert!(!f.store.create_session(&ctx(3_000), &new).await.unwrap());
    assert_eq!(left().await, (3, 6));
    let new = new_session(None, 9_000);
    assert!(f.store.create_session(&ctx(3_000), &new).await.unwrap());
    assert_eq!(left().await, (2, 2));
    assert!(read(&f, &sessions[2], 3_000).await.is_some());
    assert!(!f.store.use_form(&sessions[1], &[3; 16]).await.unwrap());
    // Signing out takes the forms along too.
    f.store.end_session(&ctx(3_000), &sessions[2], false).await.unwrap();
    assert_eq!(left().await, (1, 0));
}

async fn a_form_is_good_for_once(f: Fixture) {
    let (first, second) = (begin(&f, None).await, begin(&f, None).await);
    let before = f.position().await;
    for session in [first, second] {
        for form in [[0; 16], [7; 16], [255; 16]] {
            assert!(f.store.use_form(&session, &form).await.unwrap());
            assert!(!f.store.use_form(&session, &form).await.unwrap());
        }
    }
    assert!(!f.store.use_form(&secret(), &[9; 16]).await.unwrap());
    f.store.end_session(&ctx(2_000), &first, false).await.unwrap();
    assert!(!f.store.use_form(&first, &[9; 16]).await.unwrap());
    assert!(f.store.use_form(&second, &[9; 16]).await.unwrap());
    assert_eq!(f.position().await, before + 1);
}

async fn a_form_is_good_for_one_of_many(f: Fixture) {
    let session = begin(&f, None).await;
    for round in 0..10 {
        let barrier = Arc::new(Barrier::new(4));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (store, barrier) = (f.store.clone(), barrier.clone());
            tasks.spawn(async move {
                barrier.wait().await;
                store.use_form(&session, &[round; 16]).await.unwrap()
            });
        }
        let used = tasks.join_all().await;
        assert_eq!(used.iter().filter(|&&used| used).count(), 1, "{used:?}");
    }
}

async fn a_form_that_is_sent_while_signing_out_is_no_fault(f: Fixture) {
    for _ in 0..20 {
        let session = begin(&f, None).await;
        let sent = async {
            let mut form: u128 = 0;
            while f.store.use_form(&session, &form.to_be_bytes()).await.unwrap() {
                form += 1;
            }
        };
        let context = ctx(2_000);
        let ended = f.store.end_session(&context, &session, false);
        assert_eq!(tokio::join!(sent, ended).1.unwrap(), 1);
    }
    assert_eq!(f.number("SELECT count(*) FROM session_form").await, 0);
}

async fn sessions_survive_closing(f: Fixture) {
    let bearer = credential(&f, Role::Operator).await;
    let digest = begin(&f, Some(bearer.id)).await;
    assert!(f.store.use_form(&digest, &[1; 16]).await.unwrap());
    let session = read(&f, &digest, 2_000).await;
    let f = f.reopen().await;
    assert_eq!(read(&f, &digest, 2_000).await, session);
    assert!(!f.store.use_form(&digest, &[1; 16]).await.unwrap());
}

async fn no_digest_is_in_the_record(f: Fixture) {
    let account = f.account("acme").await;
    let (bearer, proof) = new_credential(Role::AccountAdmin(account));
    f.store.create_credential(&ctx(4), &bearer, &proof).await.unwrap().unwrap();
    let (first, second) = (begin(&f, Some(bearer.id)).await, begin(&f, Some(bearer.id)).await);
    f.store.use_form(&first, &[0xab; 16]).await.unwrap();
    f.store.end_session(&ctx(2_000), &first, false).await.unwrap();
    f.store.end_session(&ctx(2_000), &second, true).await.unwrap();
    let events = f.events().await;
    let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions[2..], ["session.create", "session.create", "session.end", "session.end"]);
    let record = format!("{events:?}").to_lowercase();
    for secret in [&first[..], &second, &proof, &[0xab; 16]] {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!record.contains(&hex[..12]));
        let list = secret[..4].iter().map(u8::to_string).collect::<Vec<_>>();
        assert!(!record.contains(&list.join(",")) && !record.contains(&list.join(", ")));
    }
}

/// Rules 8.9 and 11.84.
async fn a_session_ends_when_its_credential_expires_and_none_begins(f: Fixture) {
    let account = f.account("acme").await;
    let (bearer, digest) = new_credential(Role::AccountAdmin(account));
    let bearer = Credential { expires: Some(Timestamp(1_500)), ..bearer };
    f.store.create_credential(&ctx(4), &bearer, &digest).await.unwrap().unwrap();
    let session = begin(&f, Some(bearer.id)).await;
    assert!(read(&f, &session, 1_499).await.is_some());
    assert_eq!(read(&f, &session, 1_500).await, None);
    let new = new_session(Some(bearer.id), 9_000);
    assert!(!f.store.create_session(&ctx(1_500), &new).await.unwrap());
}
