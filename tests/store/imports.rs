//! Imported tokens in both databases (docs/policy.md, section 10).

use portcullis::model::{
    ImportItem, ImportOutcome, ImportPosition, ImportRefused, Invalidation, NewImport, NewToken,
    Role, Token,
};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::lifecycle::Settings;
use portcullis::policy::scope::{Catalog, ScopeId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{TokenKind, TokenState};
use portcullis::secret::{Digest, digest};

use super::fixture::{Fixture, READ, all, ctx, new_credential, new_token};
use super::lifecycle::{day, on};

on_both!(
    an_import_is_one_change_and_sending_it_again_none,
    a_digest_of_something_else_is_refused_and_so_is_one_that_ended,
    a_purged_import_leaves_its_digest_for_good,
    what_is_refused_is_refused_each_time_in_one_call,
    an_import_starts_every_clock_but_that_of_the_deletion,
    a_checked_import_writes_nothing,
    imported_tokens_are_listed_in_the_order_of_their_imports,
);

/// A token whose secret is this text.
fn item(account: AccountId, secret: &str, kind: TokenKind, scopes: Vec<ScopeId>) -> ImportItem {
    let entries = if kind == TokenKind::ReadWrite { "192.0.2.1" } else { "" };
    let token = new_token(account, kind, scopes, entries);
    let digest = digest(secret.as_bytes());
    let token = NewToken { digest, name: secret.to_owned(), ..token };
    ImportItem { digest, new: Some(NewImport { token, created: day(-30), last_use: None }) }
}

fn read_only(account: AccountId, secret: &str) -> ImportItem {
    item(account, secret, TokenKind::ReadOnly, Vec::new())
}

async fn import(
    f: &Fixture,
    catalog: &Catalog,
    account: AccountId,
    items: &[ImportItem],
) -> Vec<ImportOutcome> {
    f.store.import_tokens(&on(0), catalog, account, items, false).await.unwrap().unwrap()
}

fn token(outcome: &ImportOutcome) -> &Token {
    match outcome {
        ImportOutcome::Imported(token) | ImportOutcome::AlreadyExisted(token) => token,
        other => panic!("{other:?}"),
    }
}

fn name(outcome: &ImportOutcome) -> &'static str {
    match outcome {
        ImportOutcome::Imported(_) => "imported",
        ImportOutcome::AlreadyExisted(_) => "there",
        ImportOutcome::Refused(_) => "refused",
        ImportOutcome::NotFound => "not found",
    }
}

/// Rules 10.3 and 10.9.
async fn an_import_is_one_change_and_sending_it_again_none(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let account = f.account("acme").await;
    let scope = catalog.by_name(READ).unwrap().id;
    let items = [
        read_only(account, "one"),
        item(account, "two", TokenKind::ReadWrite, Vec::new()),
        item(account, "three", TokenKind::Custom, vec![scope]),
        read_only(account, "one"),
        ImportItem { digest: digest(b"four"), new: None },
    ];
    let before = f.position().await;
    let first = import(&f, &catalog, account, &items).await;
    let names: Vec<_> = first.iter().map(name).collect();
    assert_eq!(names, ["imported", "imported", "imported", "there", "not found"]);
    assert_eq!(token(&first[0]), token(&first[3]));
    assert_eq!(f.position().await, before + 1);
    let (event, change) = f.last().await;
    assert_eq!((event.action.as_str(), change.touched), ("token.import", Invalidation::Imports));
    let ids: Vec<_> = first[..3].iter().map(|outcome| token(outcome).id.to_string()).collect();
    let after = serde_json::json!({ "count": 3, "token_ids": ids });
    assert_eq!(event.after, Some(after.to_string()));
    for outcome in &first[..3] {
        let token = token(outcome);
        assert_eq!(f.store.token(token.id, None).await.unwrap().as_ref(), Some(token));
        assert_eq!((token.imported, token.created), (Some(day(0)), day(-30)));
        let facts = f.store.imported_token_facts(&digest(token.name.as_bytes())).await.unwrap();
        assert_eq!(facts, f.store.token_facts(token.id).await.unwrap());
        assert_eq!(*facts.unwrap().id, token.id);
        // One event is recorded for all of them.
        let filter =
            portcullis::model::AuditFilter { token_id: Some(token.id), ..Default::default() };
        let events = f.store.audit_events(&filter, all()).await.unwrap();
        assert_eq!(events.len(), 1, "{events:?}");
    }
    assert_eq!(f.store.imported_token_facts(&digest(b"four")).await.unwrap(), None);

    let again = import(&f, &catalog, account, &items).await;
    let names: Vec<_> = again.iter().map(name).collect();
    assert_eq!(names, ["there", "there", "there", "there", "not found"]);
    for (first, again) in first[..3].iter().zip(&again) {
        assert_eq!(token(first), token(again));
    }
    assert_eq!(f.position().await, before + 1);
    f.check_record().await;
}

/// Rules 10.5 and 10.6.
async fn a_digest_of_something_else_is_refused_and_so_is_one_that_ended(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let (account, other) = (f.account("acme").await, f.account("other").await);
    let own = f.token(&catalog, &new_token(account, TokenKind::ReadOnly, Vec::new(), "")).await;
    let foreign = f.token(&catalog, &new_token(other, TokenKind::ReadOnly, Vec::new(), "")).await;
    let (credential, of_credential) = new_credential(Role::Pep);
    f.store.create_credential(&ctx(4), &credential, &of_credential).await.unwrap().unwrap();
    // What the fixture makes of a token's id.
    let of = |token: &Token| -> Digest { digest(token.id.0.as_bytes()) };
    let lookup = |digest: Digest| {
        let item = read_only(account, "x");
        let mut new = item.new.unwrap();
        new.token.digest = digest;
        ImportItem { digest, new: Some(new) }
    };
    let items = [lookup(of(&own)), lookup(of(&foreign)), lookup(of_credential)];
    let outcomes = import(&f, &catalog, account, &items).await;
    assert_eq!(outcomes[0], ImportOutcome::AlreadyExisted(own.clone()));
    for outcome in &outcomes[1..] {
        assert_eq!(*outcome, ImportOutcome::Refused(ImportRefused::InUse));
    }

    let mut expiring = read_only(account, "expiring");
    expiring.new.as_mut().unwrap().token.expires = Some(day(3));
    let items = [read_only(account, "deleted"), expiring];
    let first = import(&f, &catalog, account, &items).await;
    f.store.delete_token(&on(1), token(&first[0]).id, None).await.unwrap();
    let at_day_3 = f.store.import_tokens(&on(3), &catalog, account, &items, false).await;
    let deleted = ImportRefused::Ended(TokenState::Deleted { at: day(1) });
    let ended = [deleted, ImportRefused::Expired(day(3))].map(ImportOutcome::Refused);
    assert_eq!(at_day_3.unwrap().unwrap(), ended);
    // To another account, whatever it is.
    let items = [read_only(other, "deleted"), read_only(other, "expiring")];
    let elsewhere = f.store.import_tokens(&on(3), &catalog, other, &items, false).await;
    let in_use = ImportOutcome::Refused(ImportRefused::InUse);
    assert_eq!(elsewhere.unwrap().unwrap(), [in_use.clone(), in_use]);
    f.check_record().await;
}

/// Rule 10.6.
async fn a_purged_import_leaves_its_digest_for_good(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let (account, other) = (f.account("acme").await, f.account("other").await);
    let mut expiring = read_only(account, "expiring");
    expiring.new.as_mut().unwrap().token.expires = Some(day(3));
    let items = [read_only(account, "deleted"), expiring];
    let first = import(&f, &catalog, account, &items).await;
    f.store.delete_token(&on(1), token(&first[0]).id, None).await.unwrap();
    f.store.record_expiries(&on(4), 10).await.unwrap();
    let purged = f.store.purge(&on(5), day(5), 10).await.unwrap();
    assert_eq!(purged.len(), 2);
    assert_eq!(f.store.imported_token_facts(&digest(b"deleted")).await.unwrap(), None);
    let again = f.store.import_tokens(&on(6), &catalog, account, &items, false).await;
    let deleted = ImportRefused::Ended(TokenState::Deleted { at: day(1) });
    let ended = [deleted, ImportRefused::Expired(day(3))].map(ImportOutcome::Refused);
    assert_eq!(again.unwrap().unwrap(), ended);
    let elsewhere = [read_only(other, "deleted")];
    let elsewhere = f.store.import_tokens(&on(6), &catalog, other, &elsewhere, false).await;
    assert_eq!(elsewhere.unwrap().unwrap(), [ImportOutcome::Refused(ImportRefused::InUse)]);
    f.check_record().await;
}

/// Rules 10.5 and 10.6.
async fn what_is_refused_is_refused_each_time_in_one_call(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let account = f.account("acme").await;
    let (credential, of_credential) = new_credential(Role::Pep);
    f.store.create_credential(&ctx(4), &credential, &of_credential).await.unwrap().unwrap();
    let ended = [read_only(account, "purged"), read_only(account, "deleted")];
    let first = import(&f, &catalog, account, &ended).await;
    f.store.delete_token(&on(1), token(&first[0]).id, None).await.unwrap();
    assert_eq!(f.store.purge(&on(5), day(5), 10).await.unwrap().len(), 1);
    f.store.delete_token(&on(6), token(&first[1]).id, None).await.unwrap();
    let before = f.position().await;
    let mut of_credential_item = read_only(account, "credential");
    of_credential_item.digest = of_credential;
    of_credential_item.new.as_mut().unwrap().token.digest = of_credential;
    let [purged, deleted] = ended;
    let items = [purged, deleted, of_credential_item];
    let items: Vec<_> = items.iter().chain(&items).cloned().collect();
    let outcomes = f.store.import_tokens(&on(7), &catalog, account, &items, false).await;
    let at = |at| ImportOutcome::Refused(ImportRefused::Ended(TokenState::Deleted { at: day(at) }));
    let refused = [at(1), at(6), ImportOutcome::Refused(ImportRefused::InUse)];
    let refused: Vec<_> = refused.iter().chain(&refused).cloned().collect();
    assert_eq!(outcomes.unwrap().unwrap(), refused);
    assert_eq!(f.position().await, before);
    f.check_record().await;
}

/// Rule 10.4.
async fn an_import_starts_every_clock_but_that_of_the_deletion(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let account = f.account("acme").await;
    let scope = catalog.by_name(READ).unwrap().id;
    let used = |secret, kind, scopes, last: Option<i64>| {
        let mut item = item(account, secret, kind, scopes);
        item.new.as_mut().unwrap().last_use = last.map(day);
        item
    };
    let items = [
        used("fresh", TokenKind::ReadOnly, Vec::new(), None),
        used("idle", TokenKind::ReadOnly, Vec::new(), Some(-20)),
        used("writes", TokenKind::ReadWrite, Vec::new(), Some(-2)),
        used("custom", TokenKind::Custom, vec![scope], Some(-2)),
    ];
    let outcomes = import(&f, &catalog, account, &items).await;
    let idle = f.store.idle_tokens(Timestamp(i64::MAX), 10).await.unwrap();
    let since = |at: usize| {
        let id = token(&outcomes[at]).id;
        let token = idle.iter().find(|token| token.id == id).unwrap();
        assert_eq!(token.idle_since, token.usage_state.idle_since(), "stored as computed");
        (token.idle_since, token.usage_state.uses.last, token.usage_state.uses.last_write)
    };
    assert_eq!(since(0), (Some(day(0)), None, None), "no time was named");
    assert_eq!(since(1), (Some(day(-20)), Some(day(-20)), None));
    assert_eq!(since(2), (Some(day(-2)), Some(day(-2)), None));
    assert_eq!(since(3), (Some(day(-2)), Some(day(-2)), None));
    // The deletion is due by the last use; writes and scopes by the import.
    let settings = Settings::default();
    let takes = async |at: usize, n: i64| {
        let id = token(&outcomes[at]).id;
        let announced = f.store.announce(&on(n), &catalog, id, &settings).await.unwrap();
        announced.map(|action| (action.takes, action.basis))
    };
    let whole = portcullis::policy::lifecycle::ActionEffect::Token;
    assert_eq!(takes(1, 17).await, None);
    assert_eq!(takes(1, 18).await, Some((whole.clone(), day(-20))));
    assert_eq!(takes(0, 37).await, None);
    assert_eq!(takes(0, 38).await, Some((whole, day(0))));
    f.check_record().await;
}

async fn a_checked_import_writes_nothing(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let account = f.account("acme").await;
    let items = [read_only(account, "one")];
    let before = f.position().await;
    let checked = f.store.import_tokens(&on(0), &catalog, account, &items, true).await;
    assert_eq!(name(&checked.unwrap().unwrap()[0]), "imported");
    assert_eq!(f.position().await, before);
    assert_eq!(f.store.imported_tokens(ImportPosition::START, 10).await.unwrap(), []);
    let nobody = AccountId(uuid::Uuid::now_v7());
    let items = [read_only(nobody, "one")];
    assert!(f.store.import_tokens(&on(0), &catalog, nobody, &items, false).await.unwrap().is_err());
    // A write token without a whitelist can't be stored, whatever the caller missed.
    let mut open = item(account, "open", TokenKind::ReadWrite, Vec::new());
    open.new.as_mut().unwrap().token.whitelist = super::fixture::whitelist("");
    f.store.import_tokens(&on(0), &catalog, account, &[open], false).await.unwrap_err();
    assert_eq!(f.position().await, before);
}

async fn imported_tokens_are_listed_in_the_order_of_their_imports(f: Fixture) {
    let catalog = f.catalog(&[READ]).await;
    let account = f.account("acme").await;
    let mut imported: Vec<TokenId> = Vec::new();
    for call in 0..3 {
        let secrets = (0..4).map(|number| format!("{call} {number}"));
        let items: Vec<_> = secrets.map(|secret| read_only(account, &secret)).collect();
        let outcomes = import(&f, &catalog, account, &items).await;
        let mut ids: Vec<_> = outcomes.iter().map(|outcome| token(outcome).id).collect();
        ids.sort_unstable();
        imported.extend(ids);
        // One that was made here is none of them.
        f.token(&catalog, &new_token(account, TokenKind::ReadOnly, Vec::new(), "")).await;
    }
    // Pages that end within a call's tokens.
    let (mut listed, mut after) = (Vec::new(), ImportPosition::START);
    loop {
        let page = f.store.imported_tokens(after, 3).await.unwrap();
        let Some(&last) = page.last() else { break };
        assert!(page.is_sorted() && page[0] > after);
        listed.extend(page.iter().map(|position| position.token_id));
        after = last;
    }
    assert_eq!(listed, imported);
}
