//! What is looked for, and a search in memory that the store's is compared with.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use portcullis::model::{NewToken, Token, TokenFilter, TokenOrder, TokenSearch, TokenShow, Use};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::lifecycle::{Calendar, Mode, Settings};
use portcullis::policy::network::Whitelist;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{TokenKind, TokenState};
use uuid::Uuid;

use crate::store::fixture::{ASK, Fixture, READ, all, ctx, new_token};

pub(super) const NAMES: [&str; 24] = [
    "alpha",
    "Alpha",
    "ALPHA beta",
    "alphabet",
    "alpha",
    "beta",
    "éclair",
    "Éclair",
    "e\u{301}clair",
    "Straße",
    "STRASSE",
    "İstanbul",
    "ıstanbul",
    "日本語トークン",
    "日本",
    "Ωmega",
    "ωMEGA",
    "مفتاح",
    "🙂 token",
    "100%",
    "under_score",
    "quo'te \"double\"",
    "back\\slash",
    "",
];
pub(super) const KINDS: [TokenKind; 3] =
    [TokenKind::ReadOnly, TokenKind::ReadWrite, TokenKind::Custom];

/// A window of 50 us, a notice period of 10 us.
pub(super) fn calendar(now: i64) -> Calendar {
    let [window, notice] = [50, 10].map(Duration::from_micros);
    let settings = Settings::new(Mode::Enforce, window, notice).unwrap();
    Calendar { settings, now: Timestamp(now) }
}

/// Announces for a token what was last used at `basis`, and whose notices were all `accepted`.
pub(super) async fn plan(
    f: &Fixture,
    token: &Token,
    takes: &str,
    basis: i64,
    accepted: Option<i64>,
) {
    let accepted = accepted.map_or("NULL".into(), |accepted| accepted.to_string());
    let sql = format!(
        "INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, basis_time, \
            accepted_time, create_time) \
         VALUES ($1, $2, $3, '{takes}', {basis}, {accepted}, 80)"
    );
    let ids = [Uuid::now_v7(), token.id.0, token.account_id.0];
    f.execute(sql.leak(), &ids).await.unwrap();
}

/// Two accounts with the same tokens, of every sort.
pub(super) async fn fill(f: &Fixture) -> [AccountId; 2] {
    let accounts = [f.account("ours").await, f.account("theirs").await];
    let catalog = f.catalog(&[READ, ASK]).await;
    let read = catalog.by_name(READ).unwrap().id;
    let (mut deferred, mut uses) = (Vec::new(), Vec::new());
    for (n, name) in NAMES.iter().cycle().take(3 * NAMES.len()).enumerate() {
        for account in accounts {
            let kind = KINDS[n % 3];
            let scopes = if kind == TokenKind::Custom { vec![read] } else { vec![] };
            let entries = if kind != TokenKind::ReadWrite && n % 4 < 2 { "" } else { "10.0.0.1" };
            let new =
                NewToken { name: (*name).into(), ..new_token(account, kind, scopes, entries) };
            // So that many are of the same age, and not all in the order of their ids.
            let at = ctx(10 - (n as i64 / 5) % 7);
            let token = f.store.create_token(&at, &catalog, &new).await.unwrap().unwrap();
            if n % 5 != 0 {
                let time = Timestamp(20 + (n as i64 * 7) % 11);
                uses.push(Use { token_id: token.id, scope_id: read, write: false, time });
            }
            if n % 2 == 0 {
                deferred.push(token.id);
            }
            let ended = "UPDATE pending_action SET end_time = 90, outcome = 'cancelled' \
                         WHERE token_id = $1";
            match n % 7 {
                0 => {
                    plan(f, &token, "token", 60 + n as i64 % 3, Some(90)).await;
                    f.execute(ended, &[token.id.0]).await.unwrap();
                }
                1 | 2 => {
                    let accepted = (n % 4 != 0).then_some(95 + n as i64 % 6);
                    plan(f, &token, "writes", 50 + (n as i64 * 3) % 20, accepted).await;
                    if n % 3 == 0 {
                        plan(f, &token, "token", 40 + n as i64 % 25, Some(97)).await;
                    }
                }
                3 => drop(f.store.delete_token(&ctx(100), token.id, None).await.unwrap()),
                4 => {
                    let never = "UPDATE token_use SET idle_since = NULL WHERE token_id = $1";
                    f.execute(never, &[token.id.0]).await.unwrap();
                }
                _ => {}
            }
        }
    }
    f.store.record_uses(&uses).await.unwrap();
    f.store.reschedule(&deferred).await.unwrap();
    accounts
}

/// What the store holds, and since when each token is idle.
pub(super) struct Memory {
    tokens: Vec<Token>,
    idle: HashMap<TokenId, Timestamp>,
}

impl Memory {
    pub(super) async fn read(f: &Fixture) -> Self {
        let filter = TokenFilter { deleted: true, ..TokenFilter::default() };
        let tokens = f.store.tokens(&filter, all()).await.unwrap();
        let active = f.store.active_tokens(None, all()).await.unwrap();
        let idle = active.iter().filter_map(|idle| Some((idle.id, idle.idle_since?)));
        Self { tokens, idle: idle.collect() }
    }

    pub(super) fn search(&self, search: &TokenSearch, calendar: &Calendar) -> Vec<Token> {
        let found = |token: &&Token| {
            let active = token.state == TokenState::Active;
            let shown = match search.show {
                TokenShow::Active => active,
                TokenShow::Pending => active && !token.pending.is_empty(),
                TokenShow::Unrestricted => active && token.whitelist == Whitelist::Unrestricted,
                TokenShow::Deleted => !active,
            };
            shown
                && search.account_id.is_none_or(|id| id == token.account_id)
                && search.kind.is_none_or(|kind| kind == token.kind)
                && token.name.to_ascii_lowercase().contains(&search.text.to_ascii_lowercase())
        };
        let mut tokens: Vec<Token> = self.tokens.iter().filter(found).cloned().collect();
        // `None` is less than anything.
        match search.order {
            TokenOrder::Attention => tokens.sort_by_key(|token| {
                let dates = token.pending.iter().map(|action| action.live().effective(calendar));
                let idle = self.idle.get(&token.id);
                let due = dates.min();
                (due.is_none(), due, idle.is_none(), idle.copied(), token.id)
            }),
            TokenOrder::Name => {
                tokens
                    .sort_by_key(|token| (token.name.to_ascii_lowercase().into_bytes(), token.id));
            }
            TokenOrder::LastUse => tokens.sort_by_key(|token| (token.uses.last, token.id)),
            TokenOrder::Created => tokens.sort_by_key(|token| Reverse((token.created, token.id))),
        }
        tokens
    }
}
