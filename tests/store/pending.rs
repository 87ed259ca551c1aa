//! Pending actions as they are read. No use case plans any yet: plain SQL does.

use portcullis::policy::id::{AccountId, PendingActionId, TokenId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{PendingActionType, TokenKind, UpcomingAction};
use portcullis::store::{Notice, NoticeState, PendingFilter, TokenFilter};
use uuid::Uuid;

use crate::fixture::{ASK, Fixture, READ, all, ctx, new_token, page};

on_both!(they_read_back, they_are_filtered_and_paged, deleting_a_token_withdraws_them,);

async fn plan(
    f: &Fixture,
    sql: &'static str,
    token: TokenId,
    account: AccountId,
) -> PendingActionId {
    let id = Uuid::now_v7();
    f.execute(sql, &[id, token.0, account.0]).await.unwrap();
    PendingActionId(id)
}

const DOWNGRADE: &str = "\
    INSERT INTO pending_action (pending_action_id, token_id, account_id, type, last_use, \
        last_use_of_taken, effective_time, create_time) \
    VALUES ($1, $2, $3, 'downgrade', 70, 60, 900, 80)";
const DELETION: &str = "\
    INSERT INTO pending_action (pending_action_id, token_id, account_id, type, effective_time, \
        create_time) \
    VALUES ($1, $2, $3, 'deletion', 800, 81)";
const ENDED: &str = "\
    INSERT INTO pending_action (pending_action_id, token_id, account_id, type, effective_time, \
        create_time, end_time, outcome) \
    VALUES ($1, $2, $3, 'deletion', 1, 1, 2, 'cancelled')";

async fn they_read_back(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ, ASK]).await;
    let [read, ask] = [READ, ASK].map(|name| catalog.by_name(name).unwrap().id);
    let new = new_token(account, TokenKind::Custom, vec![read, ask], "");
    f.token(&catalog, &new).await;
    plan(&f, ENDED, new.id, account).await;
    let later = plan(&f, DOWNGRADE, new.id, account).await;
    let sooner = plan(&f, DELETION, new.id, account).await;
    for sql in [
        "INSERT INTO pending_action_scope VALUES ($1, 0, 1)",
        "INSERT INTO pending_action_scope VALUES ($1, 1, 0)",
        "INSERT INTO notice VALUES ($1, 'z@acme.test', 'queued', NULL, NULL)",
        "INSERT INTO notice VALUES ($1, 'B@acme.test', 'accepted', 85, NULL)",
        "INSERT INTO notice VALUES ($1, 'a@acme.test', 'failing', NULL, '550 no such user')",
    ] {
        f.execute(sql, &[later.0]).await.unwrap();
    }
    let token = f.store.token(new.id, None).await.unwrap().unwrap();
    assert_eq!(token.pending.len(), 2);
    let [first, second] = &token.pending[..] else { panic!("{:?}", token.pending) };
    assert_eq!((first.id, first.action), (sooner, PendingActionType::Deletion));
    assert!(first.notices.is_empty() && first.taken.is_empty() && first.kept.is_empty());
    assert_eq!((first.last_use, first.last_use_of_taken), (None, None));
    assert_eq!((second.id, second.action), (later, PendingActionType::Downgrade));
    assert_eq!((second.token_id, second.account_id), (new.id, account));
    assert_eq!((&second.kept[..], &second.taken[..]), (&[read][..], &[ask][..]));
    assert_eq!(second.last_use, Some(Timestamp(70)));
    assert_eq!(second.last_use_of_taken, Some(Timestamp(60)));
    assert_eq!((second.effective, second.created), (Timestamp(900), Timestamp(80)));
    let notice = |email: &str, state| Notice { email: email.into(), state };
    assert_eq!(
        second.notices,
        [
            notice("B@acme.test", NoticeState::Accepted(Timestamp(85))),
            notice("a@acme.test", NoticeState::Failing("550 no such user".into())),
            notice("z@acme.test", NoticeState::Queued),
        ]
    );
    let listed = f.store.tokens(&TokenFilter::default(), all()).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&token));
    let filter = PendingFilter::default();
    let actions = f.store.pending_actions(&filter, all()).await.unwrap();
    assert_eq!(actions, [second.clone(), first.clone()]);
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    let upcoming = UpcomingAction {
        id: sooner,
        action: PendingActionType::Deletion,
        effective: Timestamp(800),
    };
    assert_eq!(facts.upcoming, Some(upcoming));
}

async fn they_are_filtered_and_paged(f: Fixture) {
    let (ours, theirs) = (f.account("ours").await, f.account("theirs").await);
    let catalog = f.catalog(&[READ]).await;
    let mut ids = Vec::new();
    let mut tokens = Vec::new();
    for account in [ours, theirs, ours] {
        let new = new_token(account, TokenKind::ReadOnly, vec![], "");
        f.token(&catalog, &new).await;
        ids.push(plan(&f, DOWNGRADE, new.id, account).await);
        ids.push(plan(&f, DELETION, new.id, account).await);
        tokens.push(new.id);
    }
    let list = async |filter: PendingFilter, page| {
        let actions = f.store.pending_actions(&filter, page).await.unwrap();
        actions.iter().map(|action| action.id).collect::<Vec<_>>()
    };
    let any = PendingFilter::default();
    assert_eq!(list(any, all()).await, ids);
    assert_eq!(list(any, page(Some(ids[1]), 3)).await, ids[2..5]);
    let of_theirs = PendingFilter { account_id: Some(theirs), ..any };
    assert_eq!(list(of_theirs, all()).await, ids[2..4]);
    let of_token = PendingFilter { token_id: Some(tokens[2]), ..any };
    assert_eq!(list(of_token, all()).await, ids[4..]);
    let none = PendingFilter { account_id: Some(ours), token_id: Some(tokens[1]), ..any };
    assert!(list(none, all()).await.is_empty());
    let downgrades = PendingFilter { action: Some(PendingActionType::Downgrade), ..any };
    assert_eq!(list(downgrades, all()).await, [ids[0], ids[2], ids[4]]);
    let soon = PendingFilter { effective_before: Some(Timestamp(900)), ..any };
    assert_eq!(list(soon, page(None, 2)).await, [ids[1], ids[3]]);

    let filter = TokenFilter { account_id: Some(ours), deleted: false };
    let listed = f.store.tokens(&filter, all()).await.unwrap();
    for token in &listed {
        assert_eq!(token.pending.len(), 2);
        assert!(token.pending.iter().all(|action| action.token_id == token.id));
    }
}

async fn deleting_a_token_withdraws_them(f: Fixture) {
    let account = f.account("acme").await;
    let catalog = f.catalog(&[READ]).await;
    let new = new_token(account, TokenKind::ReadOnly, vec![], "");
    f.token(&catalog, &new).await;
    plan(&f, DOWNGRADE, new.id, account).await;
    let deleted = f.store.delete_token(&ctx(90), new.id, None).await.unwrap();
    assert!(deleted.unwrap().pending.is_empty());
    let filter = PendingFilter::default();
    assert!(f.store.pending_actions(&filter, all()).await.unwrap().is_empty());
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    assert_eq!(facts.upcoming, None);
}
