//! Pending actions as they are read, each column with a value of its own: plain SQL writes them.

use std::time::Duration;

use portcullis::model::{Notice, NoticeState, PendingFilter, TokenFilter};
use portcullis::policy::id::{AccountId, PendingActionId, TokenId};
use portcullis::policy::lifecycle::{ActionEffect, Calendar, LiveAction, Mode, Settings};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{PendingActionType, TokenKind, UpcomingAction};
use uuid::Uuid;

use crate::store::fixture::{ASK, Fixture, READ, all, ctx, new_token, page};

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
    INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, last_use, \
        last_use_of_taken, basis_time, accepted_time, create_time) \
    VALUES ($1, $2, $3, 'scopes', 70, 60, 60, 890, 80)";
const DELETION: &str = "\
    INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, basis_time, \
        create_time) \
    VALUES ($1, $2, $3, 'token', 3, 81)";
const ENDED: &str = "\
    INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, basis_time, \
        create_time, end_time, outcome) \
    VALUES ($1, $2, $3, 'token', 1, 1, 2, 'cancelled')";

/// A window of 50 us, a notice period of 10 us.
fn calendar(now: i64) -> Calendar {
    let [window, notice] = [50, 10].map(Duration::from_micros);
    Calendar {
        settings: Settings::new(Mode::Enforce, window, notice).unwrap(),
        now: Timestamp(now),
    }
}

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
    ] {
        f.execute(sql, &[later.0]).await.unwrap();
    }
    let admins = ["z@acme.test", "B@acme.test", "a@acme.test", "q@acme.test"].map(str::to_owned);
    f.store.set_account_admins(&ctx(82), account, &admins).await.unwrap().unwrap();
    for sql in [
        "UPDATE mail SET state = 'accepted', accept_time = 85 \
         WHERE pending_action_id = $1 AND recipient = 'B@acme.test'",
        "UPDATE mail SET state = 'failing', fail_time = 84, failure = '550 no such user' \
         WHERE pending_action_id = $1 AND recipient = 'a@acme.test'",
        // No admin any more, and one whose notice was taken back.
        "UPDATE mail SET recipient = 'former@acme.test', state = 'accepted', accept_time = 83 \
         WHERE pending_action_id = $1 AND recipient = 'q@acme.test'",
        "UPDATE pending_action SET accepted_time = 890 WHERE pending_action_id = $1",
    ] {
        f.execute(sql, &[later.0]).await.unwrap();
    }
    f.execute("DELETE FROM mail WHERE pending_action_id = $1", &[sooner.0]).await.unwrap();
    let token = f.store.token(new.id, None).await.unwrap().unwrap();
    assert_eq!(token.pending.len(), 2);
    let [second, first] = &token.pending[..] else { panic!("{:?}", token.pending) };
    assert_eq!((first.id, first.action()), (sooner, PendingActionType::Deletion));
    assert_eq!((first.basis, first.accepted), (Timestamp(3), None));
    assert!(first.notices.is_empty() && first.taken.is_empty() && first.kept.is_empty());
    assert_eq!((first.last_use, first.last_use_of_taken), (None, None));
    assert_eq!((second.id, second.action()), (later, PendingActionType::Downgrade));
    assert_eq!((second.token_id, second.account_id), (new.id, account));
    assert_eq!((&second.kept[..], &second.taken[..]), (&[read][..], &[ask][..]));
    assert_eq!(second.last_use, Some(Timestamp(70)));
    assert_eq!(second.last_use_of_taken, Some(Timestamp(60)));
    assert_eq!((second.basis, second.accepted), (Timestamp(60), Some(Timestamp(890))));
    assert_eq!(second.created, Timestamp(80));
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
    let mut announced = facts.announced.clone();
    announced.sort_by_key(|action| action.id);
    let live = |id, takes, basis, accepted: Option<i64>| LiveAction {
        id,
        takes,
        basis: Timestamp(basis),
        accepted: accepted.map(Timestamp),
    };
    assert_eq!(
        announced,
        [
            live(later, ActionEffect::Scopes(vec![ask]), 60, Some(890)),
            live(sooner, ActionEffect::Token, 3, None),
        ]
    );
    // Not accepted yet, it moves on as time passes.
    for (now, id, action, effective) in [
        (880, sooner, PendingActionType::Deletion, 890),
        (890, sooner, PendingActionType::Deletion, 900),
        (891, later, PendingActionType::Downgrade, 900),
    ] {
        let upcoming = UpcomingAction { id, action, effective: Timestamp(effective) };
        assert_eq!(facts.upcoming(&calendar(now)), Some(upcoming), "{now}");
    }
    let mut observed = calendar(880);
    observed.settings.mode = Mode::Observe;
    assert_eq!(facts.upcoming(&observed), None);
}

/// Rule 4.11.
async fn they_are_filtered_and_paged(f: Fixture) {
    let (ours, theirs) = (f.account("ours").await, f.account("theirs").await);
    let catalog = f.catalog(&[READ]).await;
    let mut ids = Vec::new();
    let mut tokens = Vec::new();
    for account in [ours, theirs, ours] {
        let new = new_token(account, TokenKind::ReadOnly, vec![], "");
        f.token(&catalog, &new).await;
        ids.push(plan(&f, DOWNGRADE, new.id, account).await);
        let takes = "INSERT INTO pending_action_scope VALUES ($1, 0, 0)";
        f.execute(takes, &[ids.last().unwrap().0]).await.unwrap();
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
    let before = |instant, now| PendingFilter {
        effective_before: Some((Timestamp(instant), calendar(now))),
        ..any
    };
    // The downgrades take effect at 900; the deletions, of which nobody was told, 10 from now.
    assert_eq!(list(before(900, 880), page(None, 2)).await, [ids[1], ids[3]]);
    assert_eq!(list(before(901, 880), all()).await, ids);
    assert_eq!(list(before(901, 891), all()).await, [ids[0], ids[2], ids[4]]);
    assert!(list(before(900, 890), all()).await.is_empty());
    assert!(list(before(50, 0), all()).await.is_empty());

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
    plan(&f, DELETION, new.id, account).await;
    let deleted = f.store.delete_token(&ctx(90), new.id, None).await.unwrap();
    assert!(deleted.unwrap().pending.is_empty());
    let filter = PendingFilter::default();
    assert!(f.store.pending_actions(&filter, all()).await.unwrap().is_empty());
    let facts = f.store.token_facts(new.id).await.unwrap().unwrap();
    assert_eq!(facts.announced, []);
}
