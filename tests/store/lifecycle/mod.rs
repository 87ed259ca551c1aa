//! The lifecycle's use cases, day by day: whatever is due is asked for, never waited for.

use std::sync::Arc;
use std::time::Duration;

use portcullis::model::{
    Actor, CarriedOut, Context, Mail, MailFailure, NewToken, PendingAction, PendingFilter,
    StoredCatalog, Token, Use,
};
use portcullis::policy::catalog_file;
use portcullis::policy::id::{AccountId, PendingActionId, TokenId};
use portcullis::policy::lifecycle::Settings;
use portcullis::policy::scope::{Catalog, ScopeId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{TokenFacts, TokenKind};
use portcullis::store::Store;

use crate::store::fixture::{
    ASK, Fixture, READ, REVEAL, all, new_token, read_catalog, scope_names,
};

mod accounts;
mod actions;
mod admins;
mod between;
mod evidence;
mod expiry;
mod mails;
mod races;
mod replacement;
mod uses;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// What every name in the catalogue of these tests is.
const NAMES: [&str; 3] = [READ, ASK, REVEAL];

pub(crate) fn day(n: i64) -> Timestamp {
    Timestamp(n * 24 * HOUR.as_micros() as i64)
}

/// What a mail server said that refuses an address for good.
fn refused(text: &str) -> Option<MailFailure<'_>> {
    Some(MailFailure { text, address_refused: true })
}

/// A change by Portcullis itself on that day.
pub(crate) fn on(n: i64) -> Context {
    at(day(n))
}

fn at(now: Timestamp) -> Context {
    Context::new(Actor::System, now, None)
}

/// A store with a catalogue and an account of two admins, and the steps of its tokens' lives.
/// The window is 45 days, the notice period 7.
struct Stage {
    f: Fixture,
    store: Arc<dyn Store>,
    account: AccountId,
    catalog: Catalog,
    settings: Settings,
}

impl Stage {
    async fn new(f: Fixture) -> Self {
        let account = f.account("acme").await;
        let catalog = f.catalog(&NAMES).await;
        Self { store: f.store.clone(), f, account, catalog, settings: Settings::default() }
    }

    fn scope(&self, name: &str) -> ScopeId {
        self.catalog.by_name(name).unwrap().id
    }

    /// A new token, created on day 0.
    async fn token(&self, kind: TokenKind, scopes: &[&str]) -> TokenId {
        let scopes = scopes.iter().map(|name| self.scope(name)).collect();
        let new: NewToken = new_token(self.account, kind, scopes, "10.0.0.1");
        self.store.create_token(&on(0), &self.catalog, &new).await.unwrap().unwrap().id
    }

    fn used(&self, token_id: TokenId, name: &str, n: i64) -> Use {
        let scope = self.catalog.by_name(name).unwrap();
        let write = scope.access == portcullis::policy::scope::Access::Write;
        Use { token_id, scope_id: scope.id, write, time: day(n) }
    }

    /// Records a use; whether it overtakes something.
    async fn record(&self, id: TokenId, name: &str, n: i64) -> bool {
        let overtaken = self.store.record_uses(&[self.used(id, name, n)]).await.unwrap();
        assert!(overtaken.is_empty() || overtaken == [id]);
        !overtaken.is_empty()
    }

    async fn announce(&self, id: TokenId, n: i64) -> Option<PendingAction> {
        self.store.announce(&on(n), &self.catalog, id, &self.settings).await.unwrap()
    }

    async fn carry_out(&self, id: PendingActionId, n: i64) -> CarriedOut {
        self.store.carry_out(&on(n), id, &self.catalog, &self.settings).await.unwrap()
    }

    /// What is due to be sent on that day, for an hour.
    async fn claim(&self, n: i64) -> Vec<Mail> {
        self.store.claim_mails(day(n), HOUR, i64::MAX, 100).await.unwrap()
    }

    /// The mail server takes over every mail that is due on that day. Who got one.
    async fn deliver(&self, n: i64) -> Vec<String> {
        let mut recipients = Vec::new();
        for mail in self.claim(n).await {
            self.store.mail_accepted(&on(n), mail.id, "250 taken").await.unwrap();
            recipients.push(mail.recipient);
        }
        recipients.sort();
        recipients
    }

    /// Announced and accepted on that day.
    async fn noticed(&self, id: TokenId, n: i64) -> PendingAction {
        let action = self.announce(id, n).await.unwrap();
        assert_eq!(self.deliver(n).await.len(), action.notices.len());
        action
    }

    async fn due(&self, n: i64) -> Vec<PendingActionId> {
        let due = self.store.due_actions(&self.settings, day(n), 100).await.unwrap();
        due.into_iter().map(|(id, _)| id).collect()
    }

    async fn live(&self) -> Vec<PendingAction> {
        self.store.pending_actions(&PendingFilter::default(), all()).await.unwrap()
    }

    async fn facts(&self, id: TokenId) -> TokenFacts {
        self.store.token_facts(id).await.unwrap().unwrap()
    }

    async fn read(&self, id: TokenId) -> Token {
        self.store.token(id, None).await.unwrap().unwrap()
    }

    async fn idle(&self, id: TokenId) -> Option<Timestamp> {
        let tokens = self.store.active_tokens(None, all()).await.unwrap();
        tokens.into_iter().find(|token| token.id == id).unwrap().idle_since
    }

    async fn set_admins(&self, admins: &[&str], n: i64) -> Vec<TokenId> {
        let admins: Vec<_> = admins.iter().map(|&admin| admin.to_owned()).collect();
        let set = self.store.set_account_admins(&on(n), self.account, &admins).await;
        set.unwrap().unwrap().touched
    }

    /// Puts a catalogue in force in which these names are the write scopes.
    async fn apply(&mut self, writes: &[&str]) {
        let scope = |name: &&str| {
            let access = if writes.contains(name) { "write" } else { "read" };
            format!("[[scope]]\nname = \"{name}\"\naccess = \"{access}\"\n")
        };
        let toml: String = NAMES.iter().map(scope).collect();
        catalog_file::parse(&toml).unwrap();
        let current = Some(self.catalog.version());
        let stored = self.store.apply_catalog(&on(1), current, &toml, &scope_names(&NAMES)).await;
        let stored: StoredCatalog = stored.unwrap().unwrap();
        self.catalog = read_catalog(&stored);
    }

    /// What the newest audit event says was done.
    async fn last_event(&self) -> String {
        self.f.last().await.0.action.as_str().to_owned()
    }
}
