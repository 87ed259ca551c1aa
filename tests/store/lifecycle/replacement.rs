//! Tokens that are replaced: one token to the lifecycle, however many secrets it has meanwhile.

use std::time::Duration;

use portcullis::model::{
    CarriedOut, Labels, MailContent, NoLongerHeld, NotReplaced, PendingAction, PendingFilter,
    Replaced, Replacement, Token, TokenUpdate, Use,
};
use portcullis::policy::id::TokenId;
use portcullis::policy::lifecycle::{ActionEffect, Mode, Settings};
use portcullis::policy::network::Whitelist;
use portcullis::policy::replacement::{
    DEFAULT_OVERLAP, MAX_OVERLAP, MAX_OVERLAPPING, ReplacementRefused, SuccessorExpiryRefused,
};
use portcullis::policy::token::{Grant, RequestedExpiry, TokenKind, TokenState};
use uuid::Uuid;

use super::{HOUR, Stage, day, on};
use crate::store::fixture::{ASK, Fixture, READ, REVEAL, all, new_token, scope_names, whitelist};

on_both!(
    a_successor_goes_on_where_the_old_token_is,
    a_successor_has_what_was_asked_for_of_what_the_old_token_has,
    a_successor_without_a_required_whitelist_is_refused,
    what_has_ended_or_has_a_successor_is_not_replaced,
    a_check_changes_nothing,
    the_old_token_ends_after_the_overlap,
    a_chain_has_a_bounded_number_of_tokens_that_last,
    a_chain_without_overlaps_is_bounded_as_well,
    what_was_never_used_counts_from_the_first_token,
    what_is_announced_moves_with_its_accepted_notices,
    a_notice_that_is_not_accepted_is_sent_once,
    replacing_every_six_days_delays_and_avoids_nothing,
    a_use_of_either_token_counts_for_the_successor,
    a_use_of_the_old_token_keeps_what_is_announced_for_the_successor,
    what_the_successor_loses_the_old_tokens_lose,
    an_unused_successor_and_the_old_tokens_are_deleted_together,
    what_is_announced_and_left_out_ends_with_the_old_token_in_time,
    a_downgrade_of_all_writes_takes_the_listed_ones_from_a_successor,
    a_successor_that_ends_gives_the_lifecycle_back,
    a_deletion_announced_for_a_narrower_successor_names_what_the_old_token_could_do,
    an_expiry_of_the_successor_gives_the_lifecycle_back,
    a_purged_token_takes_nothing_from_its_successor,
    what_is_only_observed_is_withdrawn_from_the_successor,
    two_replacements_at_once_make_one_successor,
    a_replacement_and_a_deletion_exclude_each_other,
    a_replacement_and_a_carrying_out_take_once,
    a_replacement_and_an_expiry_leave_the_nearer_one,
    a_replacement_loses_no_use,
);

/// One that leaves every choice to the defaults.
fn replacement() -> Replacement {
    let id = Uuid::now_v7();
    Replacement {
        id: TokenId(id),
        digest: portcullis::secret::digest(id.as_bytes()),
        overlap: DEFAULT_OVERLAP,
        scopes: Vec::new(),
        whitelist: None,
        expires: None,
        longest: None,
    }
}

impl Stage {
    async fn try_replace(
        &self,
        id: TokenId,
        new: &Replacement,
        n: i64,
    ) -> Result<Replaced, ReplacementRefused> {
        let (ctx, settings) = (on(n), &self.settings);
        let replace = self.store.replace_token(&ctx, &self.catalog, id, None, settings, new, false);
        replace.await.unwrap().unwrap().map_err(|refused| match refused {
            NotReplaced::Rule(refused) => refused,
            NotReplaced::Account(..) => panic!("{refused:?}"),
        })
    }

    /// Replaces a token as a whole on that day; the old one lasts for so many days.
    async fn replace(&self, id: TokenId, overlap: u32, n: i64) -> TokenId {
        let overlap = 24 * HOUR * overlap;
        let replaced = self.try_replace(id, &Replacement { overlap, ..replacement() }, n).await;
        let Replaced { successor, replaced } = replaced.unwrap();
        assert_eq!(self.read(successor.id).await, successor);
        assert_eq!(self.read(id).await, replaced);
        successor.id
    }

    async fn pending(&self, id: TokenId) -> Vec<PendingAction> {
        let filter = PendingFilter { token_id: Some(id), ..PendingFilter::default() };
        self.store.pending_actions(&filter, all()).await.unwrap()
    }

    /// A use that is recorded before it is answered.
    async fn use_first(&self, used: Use) -> Result<bool, NoLongerHeld> {
        let ctx = super::at(used.time);
        self.store.record_use_of_announced(&ctx, &self.catalog, &used).await.unwrap()
    }

    async fn delete(&self, id: TokenId, n: i64) {
        self.store.delete_token(&on(n), id, None).await.unwrap().unwrap();
    }

    async fn state(&self, id: TokenId) -> TokenState {
        self.facts(id).await.state
    }
}

/// Rules 11.30, 11.31 and 11.34 of docs/policy.md.
async fn a_successor_goes_on_where_the_old_token_is(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::Custom, &[READ, ASK]).await;
    s.record(old, READ, 20).await;
    s.record(old, ASK, 10).await;
    let labels = Labels::from([("team".to_owned(), "payments".to_owned())]);
    let update = TokenUpdate { name: None, labels: Some(labels) };
    s.store.update_token(&on(20), old, None, &update).await.unwrap().unwrap().unwrap();
    let before = s.read(old).await;
    let new = s.replace(old, 1, 30).await;
    let (successor, replaced) = (s.read(new).await, s.read(old).await);
    assert_eq!(
        Token { id: old, created: before.created, replaces: None, ..successor.clone() },
        before,
        "all else is as it was"
    );
    assert_eq!((successor.created, successor.clock_start), (day(30), day(0)));
    assert_eq!((successor.replaces, replaced.replaced_by), (Some(old), Some(new)));
    assert_eq!(replaced.expires, Some(day(31)));
    assert_eq!(s.idle(new).await, Some(day(10)));
    let facts = s.facts(new).await;
    assert_eq!(facts.grant, s.facts(old).await.grant);
    assert_ne!(facts.digest, s.facts(old).await.digest);
    let events: Vec<_> = s.f.events().await;
    let [replace, create] = &events[events.len() - 2..] else { panic!() };
    assert_eq!((replace.action.as_str(), replace.token_id), ("token.replace", Some(old)));
    assert_eq!((create.action.as_str(), create.token_id), ("token.create", Some(new)));
    assert!(create.after.as_ref().unwrap().contains(&old.to_string()));
    s.f.check_record().await;
}

async fn a_successor_has_what_was_asked_for_of_what_the_old_token_has(f: Fixture) {
    let s = Stage::new(f).await;
    let (read, ask, reveal) = (s.scope(READ), s.scope(ASK), s.scope(REVEAL));
    let old = s.token(TokenKind::ReadWrite, &[]).await;
    let narrow = Replacement {
        scopes: vec![ask, read],
        whitelist: Some(whitelist("10.0.0.2")),
        expires: Some(RequestedExpiry::At(day(90))),
        ..replacement()
    };
    let Replaced { successor, replaced } = s.try_replace(old, &narrow, 5).await.unwrap();
    assert_eq!(s.read(successor.id).await, successor);
    assert_eq!(successor.kind, TokenKind::Custom);
    let mut held = [read, ask];
    held.sort_unstable();
    assert_eq!(successor.scopes, held);
    assert_eq!(successor.whitelist, whitelist("10.0.0.2"));
    assert_eq!(successor.expires, Some(day(90)));
    assert_eq!(replaced.kind, TokenKind::ReadWrite);
    // Never more than the old token may do, and never later.
    let wide = Replacement { scopes: vec![read, reveal], ..replacement() };
    let refused = s.try_replace(successor.id, &wide, 6).await;
    assert_eq!(refused, Err(ReplacementRefused::NotGranted(vec![reveal])));
    let late = Replacement { expires: Some(RequestedExpiry::At(day(91))), ..replacement() };
    let refused = s.try_replace(successor.id, &late, 6).await;
    let after = SuccessorExpiryRefused::AfterOld(day(90));
    assert_eq!(refused, Err(ReplacementRefused::Expiry(after)));
    let longest = Replacement { longest: Some(24 * HOUR * 100), ..late };
    let renewed = s.try_replace(successor.id, &longest, 6).await.unwrap();
    assert_eq!(renewed.successor.expires, Some(day(91)));
    s.f.check_record().await;
}

async fn a_successor_without_a_required_whitelist_is_refused(f: Fixture) {
    let mut s = Stage::new(f).await;
    s.apply(&[ASK]).await;
    let scopes = vec![s.scope(READ), s.scope(REVEAL)];
    let new = new_token(s.account, TokenKind::Custom, scopes, "");
    let old = s.store.create_token(&on(0), &s.catalog, &new).await.unwrap().unwrap().id;
    // It becomes a write scope, which needs a whitelist.
    s.apply(&[ASK, REVEAL]).await;
    for scopes in [vec![], vec![s.scope(READ)]] {
        let narrow = Replacement { scopes, ..replacement() };
        let refused = s.try_replace(old, &narrow, 5).await;
        assert_eq!(refused, Err(ReplacementRefused::WhitelistRequired));
    }
    let with = Replacement { whitelist: Some(whitelist("10.0.0.2")), ..replacement() };
    let replaced = s.try_replace(old, &with, 5).await.unwrap();
    assert_eq!(replaced.successor.whitelist, whitelist("10.0.0.2"));
    assert_eq!(replaced.replaced.whitelist, Whitelist::Unrestricted);
    s.f.check_record().await;
}

/// Rule 11.30 of docs/policy.md.
async fn what_has_ended_or_has_a_successor_is_not_replaced(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::ReadOnly, &[]).await;
    let new = s.replace(old, 3, 1).await;
    let refused = s.try_replace(old, &replacement(), 2).await;
    assert_eq!(refused, Err(ReplacementRefused::Replaced(new)));
    // A chain is no matter; a successor that is gone brings nothing back.
    let newest = s.replace(new, 0, 2).await;
    s.delete(newest, 2).await;
    let refused = s.try_replace(newest, &replacement(), 2).await;
    assert_eq!(refused, Err(ReplacementRefused::Deleted));
    assert_eq!(
        s.try_replace(new, &replacement(), 2).await,
        Err(ReplacementRefused::Replaced(newest))
    );
    let expired = s.token(TokenKind::ReadOnly, &[]).await;
    let at = RequestedExpiry::At(day(3));
    s.store.set_token_expiry(&on(1), expired, None, at).await.unwrap().unwrap().unwrap();
    let refused = s.try_replace(expired, &replacement(), 3).await;
    assert_eq!(refused, Err(ReplacementRefused::Expired(day(3))));
    let stranger = s.f.account("other").await;
    let (ctx, new) = (on(2), replacement());
    let (catalog, settings) = (&s.catalog, &s.settings);
    let hidden =
        s.store.replace_token(&ctx, catalog, expired, Some(stranger), settings, &new, false);
    assert_eq!(hidden.await.unwrap(), None);
    s.f.check_record().await;
}

async fn a_check_changes_nothing(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::ReadOnly, &[]).await;
    s.noticed(old, 38).await;
    let (before, position) = (s.read(old).await, s.f.position().await);
    let new = replacement();
    let ctx = on(39);
    let check = s.store.replace_token(&ctx, &s.catalog, old, None, &s.settings, &new, true);
    let Replaced { successor, replaced } = check.await.unwrap().unwrap().unwrap();
    assert_eq!((successor.pending.len(), replaced.expires), (1, Some(day(40))));
    assert_eq!(s.read(old).await, before);
    assert_eq!(s.f.position().await, position);
    assert_eq!(s.store.token(new.id, None).await.unwrap(), None);
}

/// Rule 11.33 of docs/policy.md.
async fn the_old_token_ends_after_the_overlap(f: Fixture) {
    let s = Stage::new(f).await;
    for (overlap, expires, wanted) in [
        (Duration::ZERO, None, day(1)),
        (24 * HOUR, None, day(2)),
        (MAX_OVERLAP, None, day(31)),
        (MAX_OVERLAP, Some(10), day(10)),
    ] {
        let old = s.token(TokenKind::ReadOnly, &[]).await;
        if let Some(expires) = expires {
            let at = RequestedExpiry::At(day(expires));
            s.store.set_token_expiry(&on(1), old, None, at).await.unwrap().unwrap().unwrap();
        }
        let new = Replacement { overlap, ..replacement() };
        let replaced = s.try_replace(old, &new, 1).await.unwrap();
        assert_eq!(replaced.replaced.expires, Some(wanted));
        assert_eq!(s.facts(old).await.expiry.time(), Some(wanted));
        assert_eq!(replaced.successor.expires, expires.map(day));
        assert_eq!(s.use_first(s.used(old, READ, wanted.0 / day(1).0)).await, Err(NoLongerHeld));
    }
}

/// Rule 11.33 of docs/policy.md.
async fn a_chain_has_a_bounded_number_of_tokens_that_last(f: Fixture) {
    let s = Stage::new(f).await;
    let first = s.token(TokenKind::ReadOnly, &[]).await;
    let mut token = first;
    for _ in 0..MAX_OVERLAPPING {
        token = s.replace(token, 1, 1).await;
    }
    for overlap in [replacement().overlap, Duration::ZERO] {
        let new = Replacement { overlap, ..replacement() };
        let refused = s.try_replace(token, &new, 1).await;
        assert_eq!(refused, Err(ReplacementRefused::TooManyOverlapping), "{overlap:?}");
    }
    // All are of one instant: uses of the first count for the newest, and it ends none of the others.
    s.store.record_uses(&[s.used(first, READ, 1)]).await.unwrap();
    assert_eq!(s.read(token).await.uses.of(s.scope(READ)), Some(day(1)));
    let before = s.read(token).await.replaces.unwrap();
    s.delete(token, 1).await;
    assert!(s.idle(before).await.is_some(), "the newest that lasts has the lifecycle");
}

/// Rule 11.33 of docs/policy.md: a change of the newest locks those that ended a moment ago as well.
async fn a_chain_without_overlaps_is_bounded_as_well(f: Fixture) {
    let s = Stage::new(f).await;
    let mut token = s.token(TokenKind::ReadOnly, &[]).await;
    for _ in 0..MAX_OVERLAPPING {
        token = s.replace(token, 0, 1).await;
    }
    let new = Replacement { overlap: Duration::ZERO, ..replacement() };
    let refused = s.try_replace(token, &new, 1).await;
    assert_eq!(refused, Err(ReplacementRefused::TooManyOverlapping));
    s.try_replace(token, &new, 3).await.unwrap();
}

/// Rule 11.34 of docs/policy.md.
async fn what_was_never_used_counts_from_the_first_token(f: Fixture) {
    let s = Stage::new(f).await;
    let first = s.token(TokenKind::Custom, &[READ, ASK]).await;
    s.record(first, READ, 36).await;
    let new = s.replace(first, 0, 37).await;
    let newest = s.replace(new, 0, 37).await;
    assert_eq!(s.announce(newest, 37).await, None);
    let action = s.announce(newest, 38).await.unwrap();
    assert_eq!(action.takes, ActionEffect::Scopes(vec![s.scope(ASK)]));
    assert_eq!(action.basis, day(0));
}

/// Rule 11.35 of docs/policy.md.
async fn what_is_announced_moves_with_its_accepted_notices(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::ReadWrite, &[]).await;
    s.record(old, READ, 20).await;
    let action = s.noticed(old, 38).await;
    let before = s.pending(old).await;
    let new = s.replace(old, 30, 44).await;
    assert_eq!(s.pending(old).await, []);
    let moved = PendingAction { token_id: new, ..before[0].clone() };
    assert_eq!(s.pending(new).await, [moved]);
    assert_eq!(s.claim(44).await.len(), 0, "nobody is mailed again");
    assert_eq!(s.announce(new, 44).await, None);
    assert_eq!(s.announce(old, 44).await, None);
    let announced = s.facts(old).await.announced;
    assert_eq!(announced, s.facts(new).await.announced, "it takes from both");
    assert_eq!(announced.len(), 1);
    assert_eq!(s.due(44).await, []);
    assert_eq!(s.due(45).await, [action.id]);
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    assert_eq!(s.facts(new).await.grant, Grant::ReadOnly { downgraded: true });
    assert_eq!(s.facts(old).await.grant, Grant::ReadOnly { downgraded: true });
    assert_eq!(s.deliver(45).await.len(), 2, "one mail for each admin");
    s.f.check_record().await;
}

async fn a_notice_that_is_not_accepted_is_sent_once(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.announce(old, 38).await.unwrap();
    // One is in the hands of the mail server while the token is replaced.
    let mails = s.store.claim_mails(day(38), HOUR, i64::MAX, 1).await.unwrap();
    let [in_flight] = &mails[..] else { panic!() };
    let position = s.f.position().await;
    let new = s.replace(old, 1, 38).await;
    let known = s.store.claim_mails(day(38), HOUR, position, 10).await.unwrap();
    assert_eq!(known.len(), 0, "not before every replica knows the successor");
    assert_eq!(s.store.mail_accepted(&on(38), in_flight.id, "250 taken").await.unwrap(), None);
    assert_eq!(s.deliver(38).await.len(), 1);
    let pending = s.pending(new).await;
    assert_eq!((pending[0].id, pending[0].accepted), (action.id, Some(day(38))));
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    s.f.check_record().await;
}

/// Rule 11.35 of docs/policy.md: the dates are those that one token would have.
async fn replacing_every_six_days_delays_and_avoids_nothing(f: Fixture) {
    let s = Stage::new(f).await;
    let mut token = s.token(TokenKind::Custom, &[READ, ASK]).await;
    let mut last = token;
    let mut taken = None;
    for n in 0..=60 {
        // It is used for one scope each day, by the newest secret.
        s.store.record_uses(&[s.used(token, READ, n)]).await.unwrap();
        if n % 6 == 5 {
            last = token;
            token = s.replace(token, 6, n).await;
        }
        if s.announce(token, n).await.is_some() {
            assert_eq!(n, 38);
        }
        s.deliver(n).await;
        for action in s.due(n).await {
            assert_eq!(s.carry_out(action, n).await, CarriedOut::Done);
            assert_eq!(taken.replace(n), None);
            for id in [last, token] {
                assert!(!s.read(id).await.scopes.contains(&s.scope(ASK)), "{id} has it still");
            }
        }
    }
    assert_eq!(taken, Some(45));
    s.f.check_record().await;
}

/// Rule 11.34 of docs/policy.md.
async fn a_use_of_either_token_counts_for_the_successor(f: Fixture) {
    let s = Stage::new(f).await;
    let first = s.token(TokenKind::Custom, &[READ, ASK]).await;
    let second = s.replace(first, 30, 10).await;
    let third = s.replace(second, 30, 12).await;
    let uses = [s.used(first, READ, 14), s.used(second, ASK, 15), s.used(third, READ, 13)];
    s.store.record_uses(&uses).await.unwrap();
    let of = |token: &Token, name: &str| token.uses.of(s.scope(name));
    let (a, b, c) = (s.read(first).await, s.read(second).await, s.read(third).await);
    assert_eq!((of(&a, READ), of(&a, ASK), a.uses.last), (Some(day(14)), None, Some(day(14))));
    assert_eq!((of(&b, READ), of(&b, ASK), b.uses.last), (None, Some(day(15)), Some(day(15))));
    assert_eq!((of(&c, READ), of(&c, ASK)), (Some(day(14)), Some(day(15))));
    assert_eq!((c.uses.last, c.uses.last_write), (Some(day(15)), Some(day(15))));
    assert_eq!(s.announce(third, 51).await, None);
    let action = s.announce(third, 53).await.unwrap();
    assert_eq!(action.takes, ActionEffect::Token);
}

/// Rules 5.5 and 11.34 of docs/policy.md.
async fn a_use_of_the_old_token_keeps_what_is_announced_for_the_successor(f: Fixture) {
    let s = Stage::new(f).await;
    // Announced before the replacement, and after it.
    for replaced_on in [39, 30] {
        let old = s.token(TokenKind::Custom, &[READ, ASK]).await;
        s.record(old, READ, 20).await;
        let (new, action);
        if replaced_on == 39 {
            action = s.noticed(old, 38).await;
            new = s.replace(old, 30, 39).await;
        } else {
            new = s.replace(old, 30, 30).await;
            action = s.noticed(new, 38).await;
        }
        let live: Vec<_> = s.facts(old).await.announced.iter().map(|live| live.id).collect();
        assert_eq!(live, [action.id], "a use of the old token is recorded first");
        assert_eq!(s.use_first(s.used(old, ASK, 40)).await, Ok(true));
        assert_eq!((s.pending(new).await, s.facts(old).await.announced), (vec![], vec![]));
        assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::ActionEnded);
        // One that is written behind cancels likewise.
        let action = s.noticed(new, 58).await;
        assert_eq!(action.takes, ActionEffect::Scopes(vec![s.scope(READ)]));
        let late = s.store.record_uses(&[s.used(old, READ, 59)]).await.unwrap();
        assert_eq!(late, [new]);
        assert!(s.store.cancel_overtaken(&on(59), new).await.unwrap());
        assert_eq!(s.pending(new).await, []);
    }
    s.f.check_record().await;
}

/// Rule 11.36 of docs/policy.md.
async fn what_the_successor_loses_the_old_tokens_lose(f: Fixture) {
    let s = Stage::new(f).await;
    let first = s.token(TokenKind::Custom, &[READ, ASK, REVEAL]).await;
    s.store.record_uses(&[s.used(first, READ, 20), s.used(first, REVEAL, 20)]).await.unwrap();
    let second = s.replace(first, 30, 21).await;
    let third = s.replace(second, 30, 22).await;
    let action = s.noticed(third, 38).await;
    assert_eq!(action.takes, ActionEffect::Scopes(vec![s.scope(ASK)]));
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    for id in [first, second, third] {
        let token = s.read(id).await;
        assert!(!token.scopes.contains(&s.scope(ASK)));
        assert_eq!(token.taken, [(s.scope(ASK), day(45))]);
        assert_eq!(token.scopes.len(), 2);
    }
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::ActionEnded);
    assert_eq!(s.deliver(45).await.len(), 2);
    let ended = s.f.events().await;
    let downgrades = ended.iter().filter(|event| event.action.as_str() == "lifecycle.downgrade");
    let with = downgrades.filter(|event| event.after.as_ref().unwrap().contains("taken"));
    assert_eq!(with.count(), 3);
    s.f.check_record().await;
}

async fn an_unused_successor_and_the_old_tokens_are_deleted_together(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.noticed(old, 38).await;
    let new = s.replace(old, 30, 40).await;
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    let deleted = TokenState::DeletedUnused { at: day(45) };
    assert_eq!((s.state(old).await, s.state(new).await), (deleted, deleted));
    s.f.check_record().await;
}

/// Rule 11.35 of docs/policy.md.
async fn what_is_announced_and_left_out_ends_with_the_old_token_in_time(f: Fixture) {
    let s = Stage::new(f).await;
    for (overlap, ends) in [(24 * HOUR, 41), (MAX_OVERLAP, 45)] {
        let first = s.token(TokenKind::Custom, &[READ, ASK, REVEAL]).await;
        s.record(first, READ, 20).await;
        let second = s.replace(first, 30, 21).await;
        let action = s.noticed(second, 38).await;
        let scopes = vec![s.scope(READ), s.scope(ASK)];
        let narrow = Replacement { overlap, scopes, ..replacement() };
        let Replaced { successor, replaced } = s.try_replace(second, &narrow, 40).await.unwrap();
        assert_eq!(replaced.expires, Some(day(ends)));
        assert_eq!(s.read(first).await.expires, Some(day(ends)), "and the ones before it");
        let pending = s.pending(successor.id).await;
        assert_eq!(pending, successor.pending);
        assert_eq!(pending[0].takes, ActionEffect::Scopes(vec![s.scope(ASK)]));
        assert_eq!((pending[0].id, pending[0].accepted), (action.id, Some(day(38))));
        // Where nothing of it is left, it ends.
        let narrow = Replacement { scopes: vec![s.scope(READ)], ..replacement() };
        let newest = s.try_replace(successor.id, &narrow, 40).await.unwrap();
        assert_eq!((newest.successor.pending, s.live().await), (vec![], vec![]));
    }
    s.f.check_record().await;
}

async fn a_downgrade_of_all_writes_takes_the_listed_ones_from_a_successor(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::ReadWrite, &[]).await;
    s.record(old, READ, 30).await;
    let action = s.noticed(old, 38).await;
    let scopes = vec![s.scope(READ), s.scope(ASK)];
    let narrow = Replacement { scopes, overlap: MAX_OVERLAP, ..replacement() };
    let Replaced { successor, replaced } = s.try_replace(old, &narrow, 40).await.unwrap();
    assert_eq!(s.read(successor.id).await, successor);
    assert_eq!(successor.pending[0].takes, ActionEffect::Scopes(vec![s.scope(ASK)]));
    assert_eq!(replaced.expires, Some(day(45)), "it can't lose a part of its writes");
    assert_eq!(s.announce(successor.id, 44).await, None);
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    assert_eq!(s.read(successor.id).await.scopes, [s.scope(READ)]);
    s.f.check_record().await;
}

/// Rule 11.37 of docs/policy.md.
async fn a_successor_that_ends_gives_the_lifecycle_back(f: Fixture) {
    let s = Stage::new(f).await;
    let first = s.token(TokenKind::ReadOnly, &[]).await;
    let second = s.replace(first, 30, 37).await;
    let third = s.replace(second, 30, 38).await;
    let action = s.noticed(third, 39).await;
    s.delete(third, 40).await;
    let pending = s.pending(second).await;
    assert_eq!((pending[0].id, pending[0].accepted), (action.id, Some(day(39))));
    s.store.record_uses(&[s.used(second, READ, 3)]).await.unwrap();
    // The next one is deleted too, and the first has it.
    s.delete(second, 41).await;
    assert_eq!(s.facts(first).await.announced.len(), 1);
    assert_eq!(s.carry_out(action.id, 46).await, CarriedOut::Done);
    assert_eq!(s.state(first).await, TokenState::DeletedUnused { at: day(46) });
    // Where none lasts, it ends.
    let old = s.token(TokenKind::ReadOnly, &[]).await;
    let new = s.replace(old, 0, 38).await;
    s.noticed(new, 39).await;
    s.delete(new, 40).await;
    assert_eq!(s.live().await, []);
    s.f.check_record().await;
}

/// Rule 11.37 of docs/policy.md: what was announced for a successor named what that could do.
async fn a_deletion_announced_for_a_narrower_successor_names_what_the_old_token_could_do(
    f: Fixture,
) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::Custom, &[READ, ASK]).await;
    let narrow = Replacement { scopes: vec![s.scope(READ)], overlap: MAX_OVERLAP, ..replacement() };
    let successor = s.try_replace(old, &narrow, 36).await.unwrap().successor.id;
    let action = s.noticed(successor, 38).await;
    assert_eq!(action.taken, [s.scope(READ)]);
    s.delete(successor, 40).await;
    assert_eq!(s.carry_out(action.id, 46).await, CarriedOut::Done);
    assert_eq!(s.state(old).await, TokenState::DeletedUnused { at: day(46) });
    let mails = s.claim(46).await;
    assert_eq!(mails.len(), 2);
    for mail in mails {
        let MailContent::CarriedOut(token, done) = &mail.content else { panic!("{mail:?}") };
        let mut taken = done.taken.clone();
        taken.sort();
        let mut both = scope_names(&[READ, ASK]);
        both.sort();
        assert_eq!((token.id, taken), (old, both));
    }
    s.f.check_record().await;
}

async fn an_expiry_of_the_successor_gives_the_lifecycle_back(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::ReadOnly, &[]).await;
    let new = s.replace(old, 30, 36).await;
    let at = RequestedExpiry::At(day(40));
    s.store.set_token_expiry(&on(37), new, None, at).await.unwrap().unwrap().unwrap();
    let action = s.noticed(new, 38).await;
    assert_eq!(s.store.record_expiries(&on(40), 10).await.unwrap(), [new]);
    assert_eq!(s.pending(old).await[0].id, action.id);
    assert_eq!(s.idle(old).await, None, "its deletion is announced");
    assert_eq!(s.use_first(s.used(old, READ, 41)).await, Ok(true));
    assert_eq!(s.idle(old).await, Some(day(41)));
    s.f.check_record().await;
}

async fn a_purged_token_takes_nothing_from_its_successor(f: Fixture) {
    let s = Stage::new(f).await;
    let old = s.token(TokenKind::ReadOnly, &[]).await;
    let action = s.noticed(old, 38).await;
    let new = s.replace(old, 0, 39).await;
    assert_eq!(s.store.record_expiries(&on(39), 10).await.unwrap(), [old]);
    assert_eq!(s.store.purge(&on(40), day(40), 10).await.unwrap(), [old]);
    assert_eq!(s.store.token_facts(old).await.unwrap(), None);
    let pending = s.pending(new).await;
    assert_eq!((pending[0].id, pending[0].notices.len()), (action.id, 2));
    assert_eq!(s.read(new).await.replaces, Some(old));
    assert_eq!(s.carry_out(action.id, 45).await, CarriedOut::Done);
    s.f.check_record().await;
}

async fn what_is_only_observed_is_withdrawn_from_the_successor(f: Fixture) {
    let mut s = Stage::new(f).await;
    let old = s.token(TokenKind::Custom, &[READ, ASK]).await;
    s.record(old, READ, 20).await;
    s.noticed(old, 38).await;
    s.settings = Settings::new(Mode::Observe, s.settings.window(), s.settings.notice()).unwrap();
    // Nothing is taken, so nothing has to end in time.
    let narrow = Replacement { scopes: vec![s.scope(READ)], overlap: MAX_OVERLAP, ..replacement() };
    let replaced = s.try_replace(old, &narrow, 39).await.unwrap();
    assert_eq!(replaced.replaced.expires, Some(day(69)));
    let old = s.token(TokenKind::ReadOnly, &[]).await;
    let new = s.replace(old, 30, 1).await;
    s.settings = Settings::default();
    s.noticed(new, 38).await;
    assert_eq!(s.store.withdraw_actions(&on(39), 10).await.unwrap(), [new]);
    assert_eq!(s.facts(old).await.announced, []);
    s.f.check_record().await;
}

const ROUNDS: usize = 12;

/// Rule 11.30 of docs/policy.md.
async fn two_replacements_at_once_make_one_successor(f: Fixture) {
    let s = Stage::new(f).await;
    for _ in 0..ROUNDS {
        let old = s.token(TokenKind::ReadOnly, &[]).await;
        let (new, other) = (replacement(), replacement());
        let (a, b) = tokio::join!(s.try_replace(old, &new, 1), s.try_replace(old, &other, 1));
        let (made, refused) = if a.is_ok() { (a, b) } else { (b, a) };
        let successor = made.unwrap().successor.id;
        assert_eq!(refused, Err(ReplacementRefused::Replaced(successor)));
        assert_eq!(s.read(old).await.replaced_by, Some(successor));
    }
    assert_eq!(s.store.tokens(&Default::default(), all()).await.unwrap().len(), 2 * ROUNDS);
    s.f.check_record().await;
}

async fn a_replacement_and_a_deletion_exclude_each_other(f: Fixture) {
    let s = Stage::new(f).await;
    for _ in 0..ROUNDS {
        let old = s.token(TokenKind::ReadOnly, &[]).await;
        let action = s.noticed(old, 38).await;
        let new = replacement();
        let (replaced, ()) = tokio::join!(s.try_replace(old, &new, 39), s.delete(old, 39));
        assert_eq!(s.state(old).await, TokenState::Deleted { at: day(39) });
        let live = s.store.token(new.id, None).await.unwrap();
        match replaced {
            Ok(_) => assert_eq!(live.unwrap().pending[0].id, action.id),
            Err(refused) => {
                assert_eq!((refused, live), (ReplacementRefused::Deleted, None));
                assert!(s.live().await.iter().all(|live| live.id != action.id));
            }
        }
    }
    s.f.check_record().await;
}

async fn a_replacement_and_a_carrying_out_take_once(f: Fixture) {
    let s = Stage::new(f).await;
    for round in 0..ROUNDS {
        let kind = [TokenKind::ReadWrite, TokenKind::ReadOnly][round % 2];
        let old = s.token(kind, &[]).await;
        if kind == TokenKind::ReadWrite {
            s.record(old, READ, 20).await;
        }
        let action = s.noticed(old, 38).await;
        let new = replacement();
        let (replaced, done) =
            tokio::join!(s.try_replace(old, &new, 45), s.carry_out(action.id, 45));
        assert_eq!(done, CarriedOut::Done, "in either order");
        let read_only = |id| {
            let s = &s;
            async move { matches!(s.facts(id).await.grant, Grant::ReadOnly { .. }) }
        };
        match (kind, replaced) {
            (TokenKind::ReadWrite, replaced) => {
                assert_eq!(replaced.unwrap().successor.id, new.id);
                assert!(read_only(old).await && read_only(new.id).await);
            }
            (_, Ok(_)) => {
                let deleted = TokenState::DeletedUnused { at: day(45) };
                assert_eq!((s.state(old).await, s.state(new.id).await), (deleted, deleted));
            }
            (_, Err(refused)) => assert_eq!(refused, ReplacementRefused::Deleted),
        }
        assert_eq!(s.deliver(45).await.len(), 2);
    }
    s.f.check_record().await;
}

async fn a_replacement_and_an_expiry_leave_the_nearer_one(f: Fixture) {
    let s = Stage::new(f).await;
    for round in 0..ROUNDS {
        let old = s.token(TokenKind::ReadOnly, &[]).await;
        let nearer = day(1).plus(HOUR * if round % 2 == 0 { 12 } else { 48 });
        let (new, ctx) = (replacement(), on(1));
        let set = s.store.set_token_expiry(&ctx, old, None, RequestedExpiry::At(nearer));
        let (replaced, set) = tokio::join!(s.try_replace(old, &new, 1), set);
        let Replaced { successor, .. } = replaced.unwrap();
        let set = set.unwrap().unwrap();
        let ends = s.facts(old).await.expiry.time().unwrap();
        assert_eq!(ends, nearer.min(day(2)));
        // It was set before the replacement, and bounds the successor, or after it.
        match successor.expires {
            Some(at) => assert!(at == nearer && set.is_ok()),
            None => assert_eq!(set.is_ok(), nearer <= day(2)),
        }
    }
    s.f.check_record().await;
}

/// In either order: a use is recorded before the replacement and copied, or after it and counted for both.
async fn a_replacement_loses_no_use(f: Fixture) {
    let s = Stage::new(f).await;
    for _ in 0..ROUNDS {
        let old = s.token(TokenKind::Custom, &[READ, ASK]).await;
        s.record(old, READ, 30).await;
        let action = s.noticed(old, 38).await;
        let new = replacement();
        let uses = [s.used(old, ASK, 40)];
        let record = s.store.record_uses(&uses);
        let (replaced, overtaken) = tokio::join!(s.try_replace(old, &new, 40), record);
        assert!(replaced.is_ok());
        for id in overtaken.unwrap() {
            s.store.cancel_overtaken(&on(40), id).await.unwrap();
        }
        assert_eq!(s.read(new.id).await.uses.of(s.scope(ASK)), Some(day(40)));
        assert_ne!(s.carry_out(action.id, 45).await, CarriedOut::Done);
        assert_eq!(s.read(new.id).await.scopes.len(), 2);
    }
    s.f.check_record().await;
}
