//! The record of changes, and the store as a whole.

use std::time::Duration;

use portcullis::model::{
    Actor, AuditFilter, Context, NewSession, Role, StoreMode, WhitelistTarget,
};
use portcullis::policy::network::Limits;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind;

use crate::store::fixture::{
    Fixture, READ, all, ctx, new_account, new_credential, new_token, page, scope_names, toml,
};
use crate::store::whitelist::edit;

on_both!(
    the_clock_runs,
    the_mark_is_set_once,
    everything_survives_closing,
    events_are_filtered_and_paged,
    actors_have_names,
    a_dropped_change_leaves_nothing,
    no_digest_is_in_the_record,
    what_is_found_made_already_is_committed,
);

async fn the_clock_runs(f: Fixture) {
    let first = f.store.now().await.unwrap();
    // 2020 and 2100: microseconds, and not another unit.
    assert!((1_577_836_800_000_000..4_102_444_800_000_000).contains(&first.0));
    while f.store.now().await.unwrap() <= first {}
}

async fn the_mark_is_set_once(f: Fixture) {
    assert_eq!(f.store.mark().await.unwrap(), None);
    f.store.set_mark(StoreMode::Development).await.unwrap();
    f.store.set_mark(StoreMode::Development).await.unwrap();
    assert!(f.store.set_mark(StoreMode::Production).await.is_err());
    assert_eq!(f.store.mark().await.unwrap(), Some(StoreMode::Development));
    let f = f.reopen().await;
    assert_eq!(f.store.mark().await.unwrap(), Some(StoreMode::Development));
    assert_eq!(f.position().await, 0);
}

async fn everything_survives_closing(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadWrite, vec![], "10.0.0.1");
    let token = f.token(&catalog, &new).await;
    let (credential, digest) = new_credential(Role::Pep);
    let stored = f.store.create_credential(&ctx(4), &credential, &digest).await;
    stored.unwrap().unwrap();
    let events = f.events().await;
    let stored = f.store.catalog().await.unwrap();

    let f = f.reopen().await;
    assert_eq!(f.events().await, events);
    assert_eq!(f.store.catalog().await.unwrap(), stored);
    assert_eq!(f.store.token(new.id, None).await.unwrap(), Some(token));
    let live = f.store.live_credentials().await.unwrap();
    assert_eq!(live, [(credential, digest)]);
    f.check_record().await;
    f.store.close().await;
    assert!(f.store.now().await.is_err());
}

async fn events_are_filtered_and_paged(f: Fixture) {
    let (ours, theirs) = (f.account("ours").await, f.account("theirs").await);
    let catalog = f.catalog(&[READ]).await;
    let mut tokens = Vec::new();
    for (account, at) in [(ours, 10), (theirs, 11), (ours, 12)] {
        let new = new_token(account, TokenKind::ReadOnly, vec![], "");
        let stored = f.store.create_token(&ctx(at), &catalog, &new).await;
        tokens.push(stored.unwrap().unwrap().id);
    }
    let list = async |filter: AuditFilter, page| {
        let events = f.store.audit_events(&filter, page).await.unwrap();
        events.iter().map(|event| event.position).collect::<Vec<_>>()
    };
    let any = AuditFilter::default();
    assert_eq!(list(any, all()).await, [6, 5, 4, 3, 2, 1]);
    assert_eq!(list(any, page(Some(5), 2)).await, [4, 3]);
    let of_ours = AuditFilter { account_id: Some(ours), ..any };
    assert_eq!(list(of_ours, all()).await, [6, 4, 1]);
    // What comes meanwhile does not move the next page.
    f.account("late").await;
    assert_eq!(list(any, page(Some(3), 2)).await, [2, 1]);
    let of_token = AuditFilter { token_id: Some(tokens[1]), ..any };
    assert_eq!(list(of_token, all()).await, [5]);
    let hidden = AuditFilter { account_id: Some(ours), token_id: Some(tokens[1]), ..any };
    assert!(list(hidden, all()).await.is_empty());
    let between = AuditFilter { start: Some(Timestamp(10)), end: Some(Timestamp(12)), ..any };
    assert_eq!(list(between, all()).await, [5, 4]);

    let changes = f.store.changes(2, 3).await.unwrap();
    let positions: Vec<_> = changes.iter().map(|change| change.position).collect();
    assert_eq!(positions, [3, 4, 5]);
}

async fn actors_have_names(f: Fixture) {
    for (actor, name) in [
        (Actor::Development, "development"),
        (Actor::System, "system"),
        (Actor::CommandLine, "command line"),
    ] {
        let context = Context::new(actor, Timestamp(1), None);
        let account = new_account("acme");
        f.store.create_account(&context, &account).await.unwrap();
        let (event, _) = f.last().await;
        assert_eq!((event.actor.as_str(), event.actor_role.as_str()), (name, ""));
        assert_eq!(event.client, None);
    }
}

/// Rule 5.2.
async fn a_dropped_change_leaves_nothing(f: Fixture) {
    for micros in (0..4_000).step_by(100) {
        let account = new_account("gone");
        let context = ctx(1);
        let create = f.store.create_account(&context, &account);
        let kept = tokio::time::timeout(Duration::from_micros(micros), create).await;
        let read = f.store.account(account.id).await.unwrap();
        if kept.is_ok() {
            assert_eq!(read, Some(account));
        }
    }
    // A change that was dropped while it was being committed may stand, but then as a whole.
    f.account("stays").await;
    let accounts = f.store.accounts(None, all()).await.unwrap();
    assert_eq!(accounts.len() as i64, f.position().await);
    f.check_record().await;
}

async fn no_digest_is_in_the_record(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &new).await;
    f.store.delete_token(&ctx(5), new.id, None).await.unwrap();
    let (credential, digest) = new_credential(Role::Operator);
    let wanted = Some((&credential, &digest));
    f.store.set_settings_credential(&ctx(5), wanted).await.unwrap();
    f.store.set_settings_credential(&ctx(5), None).await.unwrap();
    f.store.add_secret_key(&ctx(5), &[0xab; 32], false).await.unwrap();
    let record = format!("{:?}", f.events().await).to_lowercase();
    for secret in [new.digest, digest, [0xab; 32]] {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!record.contains(&hex[..12]));
        let list = secret[..4].iter().map(u8::to_string).collect::<Vec<_>>();
        assert!(!record.contains(&list.join(",")) && !record.contains(&list.join(", ")));
    }
}

/// Rule 5.1: whoever repeats a change and hears that it is made may rely on that. So the answer rests on a
/// commit of its own: the first one may not have survived a failover.
async fn what_is_found_made_already_is_committed(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let token = f.token(&catalog, &new_token(account, TokenKind::ReadOnly, vec![], "")).await;
    let (credential, digest) = new_credential(Role::Pep);
    f.store.create_credential(&ctx(4), &credential, &digest).await.unwrap().unwrap();
    let session = NewSession { digest: [9; 32], credential_id: None, expires: Timestamp(9_000) };
    assert!(f.store.create_session(&ctx(5), &session).await.unwrap());
    let (now, limits) = (ctx(6), Limits::default());
    let mut commits = f.commits().await;
    /// The same twice: the second time nothing changes, and something is committed.
    macro_rules! twice {
        ($change:expr) => {
            $change;
            let (position, before) = (f.position().await, commits.number().await);
            $change;
            assert_eq!(f.position().await, position, "{}", stringify!($change));
            assert_ne!(commits.number().await, before, "{}", stringify!($change));
        };
    }
    let admins = ["zoe@acme.test".to_owned()];
    twice!(f.store.set_account_admins(&now, account, &admins).await.unwrap().unwrap());
    let target = WhitelistTarget { token_id: token.id, only: None, expected_version: None };
    let add = edit("192.0.2.1", "");
    twice!(
        f.store
            .change_whitelist(&now, &catalog, target, &add, &limits, false)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    );
    let (text, names) = (toml(&[READ]), scope_names(&[READ]));
    twice!(
        f.store.apply_catalog(&now, Some(catalog.version()), &text, &names).await.unwrap().unwrap()
    );
    twice!(f.store.end_session(&now, &session.digest, false).await.unwrap());
    twice!(f.store.revoke_credential(&now, credential.id).await.unwrap().unwrap().unwrap());
    twice!(f.store.delete_token(&now, token.id, None).await.unwrap().unwrap());
}
