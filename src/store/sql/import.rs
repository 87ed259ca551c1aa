//! Tokens that were issued elsewhere: their import, and what each replica keeps of them.
//!
//! Must stay true: no digest is two tokens', or a token's and a credential's: the digests of tokens are unique, and
//! everything here runs under the head row, as does the creation of tokens and credentials. What one call imports has
//! one revision, one audit event and one change record. Rules: docs/policy.md, section 10.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use uuid::Uuid;

use super::change::{Record, WriteTx};
use super::decode::whitelist_text;
use super::token::{Row, SELECT, check_whitelist};
use super::{Connection, Db, Handle, QueryBuilder, account, bulk, lifecycle, pending};
use crate::model::{
    AccountRefusal, AuditAction, Context, ImportItem, ImportOutcome, ImportPosition, ImportRefused,
    Invalidation, NewImport, Token,
};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::lifecycle::{UsageState, Uses};
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;
use crate::policy::token::TokenState;
use crate::secret::Digest;
use crate::store::Result;

/// A token as the rows of an import say it.
pub(in super::super) struct ImportRow<'n> {
    pub(in super::super) new: &'n NewImport,
    pub(in super::super) whitelist: String,
    /// See [`UsageState::idle_since`].
    pub(in super::super) idle_since: Option<i64>,
}

/// In order of their revisions.
const SELECT_IMPORTED: &str = "\
    SELECT import_revision, token_id FROM token \
    WHERE import_revision IS NOT NULL AND (import_revision, token_id) > ($1, $2) \
    ORDER BY import_revision, token_id LIMIT $3";

/// What is kept of an imported token when its row is removed. Rule 10.6 of docs/policy.md.
const RETIRE: &str = "\
    INSERT INTO retired_digest (digest, account_id, delete_time, delete_cause, leaked, expire_time) \
    SELECT digest, account_id, delete_time, delete_cause, leaked, expire_time FROM token \
    WHERE token_id = $1 AND import_revision IS NOT NULL";

/// What a digest belongs to already.
enum Holder {
    /// A token of the account.
    Own(Box<Row>),
    /// A token of the account that ended, and whose row is removed by now.
    Retired(ImportRefused),
    /// Something else.
    Other,
}

/// Imports `items` into an account, in their order. With `dry_run` everything is checked and nothing written.
pub(super) async fn import(
    store: &Handle,
    ctx: &Context,
    catalog: &Catalog,
    account_id: AccountId,
    items: &[ImportItem],
    dry_run: bool,
) -> Result<Result<Vec<ImportOutcome>, AccountRefusal>> {
    // Before the head row is taken: changes wait for each other there.
    let prepared = items.iter().map(|item| {
        item.new.as_ref().map(|new| PreparedToken::new(new, ctx.now, catalog)).transpose()
    });
    let prepared: Vec<Option<PreparedToken<'_>>> = prepared.collect::<Result<_>>()?;
    let mut change = WriteTx::begin(store, ctx).await?;
    change.must_be_in_force(catalog)?;
    if let Err(refused) = account::admit(&mut change.tx, ctx, account_id).await? {
        change.undo().await;
        return Ok(Err(refused));
    }
    let digests: Vec<Digest> = items.iter().map(|item| item.digest).collect();
    let mut holders = holders(&mut change.tx, account_id, &digests).await?;
    let held: Vec<_> = holders
        .values()
        .filter_map(|holder| match holder {
            Holder::Own(row) => Some(row.id().0),
            Holder::Retired(_) | Holder::Other => None,
        })
        .collect();
    let mut pending = match held.is_empty() {
        true => HashMap::new(),
        false => pending::of_listed(&mut change.tx, &held).await?,
    };

    let mut outcomes: Vec<ImportOutcome> = Vec::with_capacity(items.len());
    let mut rows = Vec::with_capacity(items.len());
    // The place of the last item so far with each digest: what was refused must not pass for new then.
    let mut places: HashMap<Digest, usize> = HashMap::with_capacity(items.len());
    for (item, prepared) in items.iter().zip(prepared) {
        let before = places.insert(item.digest, outcomes.len()).map(|place| &outcomes[place]);
        match before {
            Some(ImportOutcome::Imported(token) | ImportOutcome::AlreadyExisted(token)) => {
                outcomes.push(ImportOutcome::AlreadyExisted(token.clone()));
                continue;
            }
            Some(&ImportOutcome::Refused(refused)) => {
                outcomes.push(ImportOutcome::Refused(refused));
                continue;
            }
            Some(ImportOutcome::NotFound) | None => {}
        }
        outcomes.push(match holders.remove(&item.digest) {
            Some(Holder::Own(row)) => {
                let actions = pending.remove(&row.id()).unwrap_or_default();
                let token = row.into_token(actions)?;
                match ended(&token, ctx.now) {
                    Some(refused) => ImportOutcome::Refused(refused),
                    None => ImportOutcome::AlreadyExisted(token),
                }
            }
            Some(Holder::Retired(refused)) => ImportOutcome::Refused(refused),
            Some(Holder::Other) => ImportOutcome::Refused(ImportRefused::InUse),
            None => match prepared {
                None => ImportOutcome::NotFound,
                Some(PreparedToken { token, row }) => {
                    rows.push(row);
                    ImportOutcome::Imported(token)
                }
            },
        });
    }
    if dry_run {
        change.undo().await;
    } else if rows.is_empty() {
        // What was found as wanted must be as safe from a failover as what is imported.
        change.finish().await?;
    } else {
        let (now, revision) = (ctx.now, change.position());
        bulk::import(&mut change.tx, account_id, now, revision, &rows).await?;
        let ids: Vec<_> = rows.iter().map(|row| row.new.token.id.to_string()).collect();
        // Rule 10.9 of docs/policy.md.
        let after = json!({ "count": ids.len(), "token_ids": ids });
        change
            .commit(Record {
                action: AuditAction::TokenImport,
                touched: Invalidation::Imports,
                account_id: Some(account_id),
                token_id: None,
                before: None,
                after: Some(after),
            })
            .await?;
    }
    Ok(Ok(outcomes))
}

/// A token as it will be, with its row.
struct PreparedToken<'n> {
    token: Token,
    row: ImportRow<'n>,
}

impl<'n> PreparedToken<'n> {
    fn new(new: &'n NewImport, now: Timestamp, catalog: &Catalog) -> Result<Self> {
        let NewImport { token: imported, created, last_use } = new;
        let uses = Uses { last: *last_use, ..Uses::default() };
        // Rule 10.4 of docs/policy.md: all clocks but that of the deletion start now.
        let imported = imported.token(now);
        let token = Token { created: *created, imported: Some(now), uses, ..imported };
        check_whitelist(&token, catalog)?;
        let (grant, uses) = (token.grant(), token.uses.clone());
        let state = UsageState { grant, created: now, uses, announced: Vec::new() };
        let idle_since = lifecycle::idle_since(&state).map(|at| at.0);
        let row = ImportRow { new, whitelist: whitelist_text(&token.whitelist), idle_since };
        Ok(Self { token, row })
    }
}

/// Why a token that has ended can't be imported again; `None` for one that has not.
fn ended(token: &Token, now: Timestamp) -> Option<ImportRefused> {
    match token.expired(now) {
        Some(at) => Some(ImportRefused::Expired(at)),
        None if token.state == TokenState::Active => None,
        None => Some(ImportRefused::Ended(token.state)),
    }
}

/// What these digests belong to, as `account_id` may learn it.
async fn holders(
    connection: &mut Connection,
    account_id: AccountId,
    digests: &[Digest],
) -> Result<HashMap<Digest, Holder>> {
    let mut holders = HashMap::new();
    let mut own = HashMap::new();
    for held in bulk::held_digests(connection, digests).await? {
        let digest = super::decode::digest(&held.digest)?;
        let ours = held.account_id == Some(account_id.0);
        let holder = match (held.token_id, held.delete_time, held.expire_time) {
            (Some(id), ..) if ours => {
                own.insert(id, digest);
                continue;
            }
            (None, None, Some(at)) if ours => {
                Holder::Retired(ImportRefused::Expired(Timestamp(at)))
            }
            (None, Some(_), _) if ours => Holder::Retired(ImportRefused::Ended(
                super::token::state(held.delete_time, held.delete_cause.as_deref(), held.leaked)?,
            )),
            _ => Holder::Other,
        };
        holders.insert(digest, holder);
    }
    if !own.is_empty() {
        let mut query = QueryBuilder::new(SELECT);
        query.push(" AND t.token_id IN (");
        super::push_ids(&mut query, own.keys().copied());
        query.push(")");
        let rows: Vec<Row> = query.build_query_as().fetch_all(connection).await?;
        for row in rows {
            if let Some(digest) = own.remove(&row.id().0) {
                holders.insert(digest, Holder::Own(Box::new(row)));
            }
        }
    }
    Ok(holders)
}

/// Imported tokens behind `after`, at most `limit`, with their positions in order. Purged ones are left out.
pub(super) async fn imported(
    store: &Handle,
    after: ImportPosition,
    limit: u32,
) -> Result<Vec<ImportPosition>> {
    let rows: Vec<(i64, Uuid)> = sqlx::query_as(SELECT_IMPORTED)
        .bind(after.revision)
        .bind(after.token_id.0)
        .bind(i64::from(limit))
        .fetch_all(&store.read())
        .await?;
    let position = |(revision, id)| ImportPosition { revision, token_id: TokenId(id) };
    Ok(rows.into_iter().map(position).collect())
}

/// Keeps the digest of a token that is about to be purged, where it was imported.
pub(super) async fn retire(connection: &mut Connection, id: Uuid) -> Result<()> {
    sqlx::query::<Db>(RETIRE).bind(id).execute(connection).await?;
    Ok(())
}

/// The scopes of every row, as they are stored.
pub(in super::super) fn scope_rows<'r>(
    rows: &'r [ImportRow<'_>],
) -> impl Iterator<Item = (TokenId, i32)> + 'r {
    rows.iter().flat_map(|row| {
        let token = &row.new.token;
        token.scopes.iter().map(|scope| (token.id, i32::from(scope.0)))
    })
}

/// A digest that something has already.
#[derive(sqlx::FromRow)]
pub(in super::super) struct HeldDigest {
    pub(in super::super) digest: Vec<u8>,
    /// `None` for a credential.
    pub(in super::super) account_id: Option<Uuid>,
    /// `None` for a credential, and for a token whose row is removed.
    pub(in super::super) token_id: Option<Uuid>,
    pub(in super::super) delete_time: Option<i64>,
    pub(in super::super) delete_cause: Option<String>,
    pub(in super::super) leaked: i16,
    pub(in super::super) expire_time: Option<i64>,
}

/// Each digest once, for a query that names them.
pub(in super::super) fn distinct(digests: &[Digest]) -> Vec<&[u8]> {
    let mut seen = HashSet::with_capacity(digests.len());
    digests.iter().filter(|digest| seen.insert(**digest)).map(|digest| &digest[..]).collect()
}
