//! A token's row with its scopes and uses, and what it says.

use sqlx::FromRow;
use uuid::Uuid;

use super::super::decode::{labels, numbered_scopes, scope_times, whitelist};
use super::super::{Connection, QueryBuilder};
use crate::model::{IdleToken, Page, PendingAction, Token};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::lifecycle::{LiveAction, PendingPlan, UsageState, Uses};
use crate::policy::network::Whitelist;
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;
use crate::policy::token::{Grant, TokenState};
use crate::store::Result;
use crate::store::error::CorruptRow;

/// A token's row, its scopes, and its uses.
#[derive(FromRow)]
pub(in super::super) struct Row {
    token_id: Uuid,
    account_id: Uuid,
    name: String,
    kind: String,
    whitelist: String,
    labels: String,
    pub(in super::super) whitelist_version: i64,
    create_time: i64,
    delete_time: Option<i64>,
    delete_cause: Option<String>,
    leaked: i16,
    expire_time: Option<i64>,
    expiry_done: i16,
    noticed_expiry: Option<i64>,
    downgrade_time: Option<i64>,
    import_time: Option<i64>,
    scopes: Option<String>,
    last_use: Option<i64>,
    last_write_use: Option<i64>,
    idle_since: Option<i64>,
    heir_id: Option<Uuid>,
    replaces_token_id: Option<Uuid>,
    replaced_by_token_id: Option<Uuid>,
    clock_time: Option<i64>,
    scope_uses: Option<String>,
}

/// To be followed by ` AND ...`.
pub(in super::super) const SELECT: &str = "\
    SELECT t.token_id, t.account_id, t.name, t.kind, t.whitelist, t.labels, \
        t.whitelist_version, \
        t.create_time, t.delete_time, t.delete_cause, t.leaked, t.expire_time, t.expiry_done, \
        t.noticed_expiry, t.downgrade_time, t.import_time, \
        (SELECT string_agg(CAST(s.scope_id AS TEXT) || ':' || \
                           coalesce(CAST(s.taken_time AS TEXT), ''), ',') \
         FROM token_scope s WHERE s.token_id = t.token_id) AS scopes, \
        t.replaces_token_id, t.replaced_by_token_id, t.clock_time, \
        u.last_use, u.last_write_use, u.idle_since, u.heir_id, \
        (SELECT string_agg(CAST(x.scope_id AS TEXT) || ':' || CAST(x.last_use AS TEXT), ',') \
         FROM scope_use x WHERE x.token_id = t.token_id) AS scope_uses \
    FROM token t JOIN token_use u ON u.token_id = t.token_id WHERE 1 = 1";

/// Ends [`SELECT`] with a page of tokens, the oldest first. Both tables get the condition where it begins: else
/// Postgres may read one of them from its own beginning, for each page again.
pub(in super::super) fn page_of_tokens(query: &mut QueryBuilder, page: Page<TokenId>) {
    if let Some(after) = page.after {
        query.push(" AND t.token_id > ").push_bind(after.0);
        query.push(" AND u.token_id > ").push_bind(after.0);
    }
    query.push(" ORDER BY t.token_id LIMIT ").push_bind(i64::from(page.limit));
}

/// The row of one token, of `only` where given.
pub(in super::super) async fn row(
    connection: &mut Connection,
    id: TokenId,
    only: Option<AccountId>,
) -> Result<Option<Row>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND t.token_id = ").push_bind(id.0);
    if let Some(only) = only {
        query.push(" AND t.account_id = ").push_bind(only.0);
    }
    Ok(query.build_query_as().fetch_optional(connection).await?)
}

impl Row {
    pub(in super::super) fn id(&self) -> TokenId {
        TokenId(self.token_id)
    }

    pub(in super::super) fn account_id(&self) -> AccountId {
        AccountId(self.account_id)
    }

    pub(in super::super) fn name(&self) -> &str {
        &self.name
    }

    pub(in super::super) fn state(&self) -> Result<TokenState> {
        state(self.delete_time, self.delete_cause.as_deref(), self.leaked)
    }

    pub(in super::super) fn expires(&self) -> Option<Timestamp> {
        self.expire_time.map(Timestamp)
    }

    /// Whether its expiry is reached and recorded, so that nothing falls due for it any more.
    pub(in super::super) fn is_ended(&self) -> bool {
        self.expiry_done != 0
    }

    /// The expiry whose notices are queued.
    pub(in super::super) fn noticed_expiry(&self) -> Option<Timestamp> {
        self.noticed_expiry.map(Timestamp)
    }

    pub(in super::super) fn grant(&self) -> Result<Grant> {
        grant(&self.kind, self.downgrade_time, self.scopes.as_deref())
    }

    pub(in super::super) fn whitelist(&self) -> Result<Whitelist> {
        whitelist(&self.whitelist)
    }

    /// The newest of the tokens that replaced it, one after another.
    pub(in super::super) fn heir(&self) -> Option<TokenId> {
        self.heir_id.map(TokenId)
    }

    /// From when on the lifecycle counts what was never used. Rule 11.34 of docs/policy.md.
    fn clock_start(&self) -> Timestamp {
        Timestamp(self.clock_time.unwrap_or(self.create_time))
    }

    fn uses(&self) -> Result<Uses> {
        Ok(Uses {
            last: self.last_use.map(Timestamp),
            last_write: self.last_write_use.map(Timestamp),
            scopes: scope_times(self.scope_uses.as_deref())?,
        })
    }

    /// What the lifecycle of the token rests on, with these announced.
    pub(in super::super) fn usage_state(&self, announced: Vec<PendingPlan>) -> Result<UsageState> {
        let created = self.clock_start();
        Ok(UsageState { grant: self.grant()?, created, uses: self.uses()?, announced })
    }

    pub(in super::super) fn idle(&self, live: Vec<LiveAction>) -> Result<IdleToken> {
        Ok(IdleToken {
            id: self.id(),
            account_id: self.account_id(),
            name: self.name.clone(),
            idle_since: self.idle_since.map(Timestamp),
            expires: self.expires(),
            usage_state: self.usage_state(live.iter().map(LiveAction::announced).collect())?,
            live,
        })
    }

    /// The token as its owner sees it; `pending` in the order of announcement.
    pub(in super::super) fn into_token(self, pending: Vec<PendingAction>) -> Result<Token> {
        let scopes = numbered_scopes(self.scopes.as_deref())?;
        let mut taken: Vec<(ScopeId, Timestamp)> =
            scopes.iter().filter_map(|&(id, time)| Some((id, Timestamp(time?)))).collect();
        taken.sort_by_key(|&(id, time)| (time, id));
        let held = scopes.into_iter().filter(|(_, time)| time.is_none());
        Ok(Token {
            id: self.id(),
            account_id: self.account_id(),
            state: self.state()?,
            kind: self.grant()?.kind(),
            downgraded: self.downgrade_time.map(Timestamp),
            scopes: held.map(|(id, _)| id).collect(),
            taken,
            whitelist: self.whitelist()?,
            whitelist_version: self.whitelist_version,
            created: Timestamp(self.create_time),
            clock_start: self.clock_start(),
            replaces: self.replaces_token_id.map(TokenId),
            replaced_by: self.replaced_by_token_id.map(TokenId),
            expires: self.expires(),
            imported: self.import_time.map(Timestamp),
            labels: labels(&self.labels)?,
            uses: self.uses()?,
            name: self.name,
            pending,
            expiry_notices: Vec::new(),
        })
    }
}

pub(in super::super) fn state(
    delete_time: Option<i64>,
    delete_cause: Option<&str>,
    leaked: i16,
) -> Result<TokenState> {
    match (delete_time.map(Timestamp), delete_cause, leaked) {
        (None, None, 0) => Ok(TokenState::Active),
        (Some(at), Some("owner"), 0) => Ok(TokenState::Deleted { at }),
        (Some(at), Some("unused"), 0) => Ok(TokenState::DeletedUnused { at }),
        (Some(at), Some("owner"), 1) => Ok(TokenState::RevokedLeaked { at }),
        _ => Err(CorruptRow("a token's stored state can't be read").into()),
    }
}

pub(in super::super) fn grant(
    kind: &str,
    downgrade_time: Option<i64>,
    scopes: Option<&str>,
) -> Result<Grant> {
    match kind {
        "READ_ONLY" => Ok(Grant::ReadOnly { downgraded: downgrade_time.is_some() }),
        "READ_WRITE" => Ok(Grant::ReadWrite),
        "CUSTOM" => {
            let scopes = numbered_scopes(scopes)?;
            let (granted, taken): (Vec<_>, Vec<_>) =
                scopes.into_iter().partition(|(_, time)| time.is_none());
            Ok(Grant::Custom {
                granted: granted.into_iter().map(|(id, _)| id).collect(),
                taken: taken.into_iter().map(|(id, _)| id).collect(),
            })
        }
        _ => Err(CorruptRow("a token's stored kind can't be read").into()),
    }
}
