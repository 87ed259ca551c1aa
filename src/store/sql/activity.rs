//! What is seen of the requests of tokens.
//!
//! # Invariants
//! - Writers lock the rows of the tokens first, in one order, as those that record uses do: two replicas never wait for
//!   each other in a circle, and the bounds of a token hold for all writers. A purge locks no token, and passes over
//!   rows that another transaction has locked.
//! - Nothing here takes the head row: no change waits for it.

use std::collections::{BTreeMap, HashSet};

use sqlx::FromRow;
use uuid::Uuid;

use super::decode::scope_id;
use super::{Connection, Db, Handle, IDS_AT_ONCE, QueryBuilder, Transaction, bulk, push_ids};
use crate::model::{AddressUse, EntryMatches, MAX_ADDRESSES, SeenAddress, UseCount};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::network::{Cidr, ClientAddr, Limits};
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;
use crate::store::error::CorruptRow;
use crate::store::{Result, StoreError};

pub(super) async fn record(
    store: &Handle,
    counts: &[UseCount],
    addresses: &[AddressUse],
) -> Result<()> {
    let mut ids: Vec<TokenId> = counts.iter().map(|count| count.token_id).collect();
    ids.extend(addresses.iter().map(|seen| seen.token_id));
    ids.sort_unstable();
    ids.dedup();
    let mut tx = store.write().await?;
    bulk::lock(&mut tx, &ids).await?;
    let kept = kept_tokens(&mut tx, &ids).await?;
    let scopes = kept_scopes(&mut tx, counts).await?;
    let counts: Vec<_> = counts
        .iter()
        .filter(|count| kept.contains_key(&count.token_id) && scopes.contains(&count.scope_id))
        .collect();
    // A late flush brings nothing back that was erased with its token.
    let addresses: Vec<_> = addresses
        .iter()
        .filter(|seen| kept.get(&seen.token_id) == Some(&RecordLevel::All))
        .collect();
    for counts in counts.chunks(IDS_AT_ONCE) {
        add_counts(&mut tx, counts).await?;
    }
    for addresses in addresses.chunks(IDS_AT_ONCE) {
        add_addresses(&mut tx, addresses).await?;
        add_matches(&mut tx, addresses).await?;
    }
    for ids in ids.chunks(IDS_AT_ONCE) {
        forget_surplus(&mut tx, ids).await?;
    }
    commit(tx).await
}

/// An answer of the database is certain: nothing was changed. Where there is none, counts must not be added again.
pub(super) async fn commit(tx: Transaction) -> Result<()> {
    tx.commit().await.map_err(|error| match error {
        sqlx::Error::Database(_) => error.into(),
        error => StoreError::Unknown(error),
    })
}

/// What may be recorded of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecordLevel {
    /// Numbers alone: its account is closed.
    Counts,
    /// Denials as well: it is deleted.
    Denials,
    /// Everything.
    All,
}

/// Those of the tokens that there are. Rule 12.4 of docs/policy.md.
pub(super) async fn kept_tokens(
    tx: &mut Transaction,
    ids: &[TokenId],
) -> Result<BTreeMap<TokenId, RecordLevel>> {
    let mut kept = BTreeMap::new();
    for ids in ids.chunks(IDS_AT_ONCE) {
        let mut query = QueryBuilder::new(
            "SELECT t.token_id, t.delete_time, a.close_time FROM token t \
             JOIN token_use u ON u.token_id = t.token_id \
             JOIN account a ON a.account_id = t.account_id WHERE t.token_id IN (",
        );
        push_ids(&mut query, ids.iter().map(|id| id.0));
        query.push(")");
        let rows: Vec<(Uuid, Option<i64>, Option<i64>)> =
            query.build_query_as().persistent(false).fetch_all(&mut **tx).await?;
        kept.extend(rows.into_iter().map(|(id, deleted, closed)| {
            let kept = match (closed, deleted) {
                (Some(_), _) => RecordLevel::Counts,
                (None, Some(_)) => RecordLevel::Denials,
                (None, None) => RecordLevel::All,
            };
            (TokenId(id), kept)
        }));
    }
    Ok(kept)
}

async fn kept_scopes(tx: &mut Transaction, counts: &[UseCount]) -> Result<HashSet<ScopeId>> {
    let mut wanted: Vec<ScopeId> = counts.iter().map(|count| count.scope_id).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut kept = HashSet::new();
    for wanted in wanted.chunks(IDS_AT_ONCE) {
        let mut query = QueryBuilder::new("SELECT scope_id FROM scope WHERE scope_id IN (");
        let mut list = query.separated(", ");
        for scope in wanted {
            list.push_bind(i32::from(scope.0));
        }
        query.push(")");
        let rows: Vec<i32> =
            query.build_query_scalar().persistent(false).fetch_all(&mut **tx).await?;
        let found = wanted.iter().filter(|scope| rows.contains(&i32::from(scope.0)));
        kept.extend(found.copied());
    }
    Ok(kept)
}

async fn add_counts(tx: &mut Transaction, counts: &[&UseCount]) -> Result<()> {
    let mut query = QueryBuilder::new("INSERT INTO token_usage (token_id, day, scope_id, count) ");
    query.push_values(counts, |mut row, count| {
        row.push_bind(count.token_id.0)
            .push_bind(count.day)
            .push_bind(i32::from(count.scope_id.0))
            .push_bind(i64::try_from(count.count).unwrap_or(i64::MAX));
    });
    query.push(
        " ON CONFLICT (token_id, day, scope_id) \
         DO UPDATE SET count = token_usage.count + excluded.count",
    );
    query.build().persistent(false).execute(&mut **tx).await?;
    Ok(())
}

/// The earliest first time and the latest last time count, whichever replica brings them. Rule 12.2 of docs/policy.md.
async fn add_addresses(tx: &mut Transaction, addresses: &[&AddressUse]) -> Result<()> {
    let mut query =
        QueryBuilder::new("INSERT INTO token_address (token_id, address, first_time, last_time) ");
    query.push_values(addresses, |mut row, seen| {
        row.push_bind(seen.token_id.0)
            .push_bind(seen.address.to_string())
            .push_bind(seen.first.0)
            .push_bind(seen.last.0);
    });
    query.push(
        " ON CONFLICT (token_id, address) DO UPDATE SET \
            first_time = CASE WHEN excluded.first_time < token_address.first_time \
                THEN excluded.first_time ELSE token_address.first_time END, \
            last_time = CASE WHEN excluded.last_time > token_address.last_time \
                THEN excluded.last_time ELSE token_address.last_time END",
    );
    query.build().persistent(false).execute(&mut **tx).await?;
    Ok(())
}

async fn add_matches(tx: &mut Transaction, addresses: &[&AddressUse]) -> Result<()> {
    let mut matches: BTreeMap<(TokenId, Cidr), Timestamp> = BTreeMap::new();
    for seen in addresses {
        let Some(entry) = seen.entry else { continue };
        let last = matches.entry((seen.token_id, entry)).or_insert(seen.last);
        *last = seen.last.max(*last);
    }
    if matches.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::new("INSERT INTO whitelist_match (token_id, entry, last_time) ");
    query.push_values(matches, |mut row, ((id, entry), last)| {
        row.push_bind(id.0).push_bind(entry.to_string()).push_bind(last.0);
    });
    query.push(
        " ON CONFLICT (token_id, entry) DO UPDATE SET last_time = excluded.last_time \
          WHERE whitelist_match.last_time < excluded.last_time",
    );
    query.build().persistent(false).execute(&mut **tx).await?;
    Ok(())
}

/// Rule 12.1 of docs/policy.md.
async fn forget_surplus(tx: &mut Transaction, ids: &[TokenId]) -> Result<()> {
    let mut query = QueryBuilder::new(
        "DELETE FROM token_address WHERE (token_id, address) IN ( \
            SELECT token_id, address FROM ( \
                SELECT token_id, address, row_number() OVER ( \
                    PARTITION BY token_id ORDER BY last_time DESC, first_time, address) AS place \
                FROM token_address WHERE token_id IN (",
    );
    push_ids(&mut query, ids.iter().map(|id| id.0));
    query.push(")) ranked WHERE place > ").push_bind(MAX_ADDRESSES as i64).push(")");
    query.build().persistent(false).execute(&mut **tx).await?;
    Ok(())
}

/// When the token was created, if there is one, of `only` where given.
async fn created(
    tx: &mut Transaction,
    id: TokenId,
    only: Option<AccountId>,
) -> Result<Option<Timestamp>> {
    let mut query = QueryBuilder::new("SELECT create_time FROM token WHERE token_id = ");
    query.push_bind(id.0);
    if let Some(only) = only {
        query.push(" AND account_id = ").push_bind(only.0);
    }
    let created: Option<i64> = query.build_query_scalar().fetch_optional(&mut **tx).await?;
    Ok(created.map(Timestamp))
}

#[derive(FromRow)]
struct AddressRow {
    address: String,
    first_time: i64,
    last_time: i64,
}

const SELECT_ADDRESSES: &str = "\
    SELECT address, first_time, last_time FROM token_address \
    WHERE token_id = $1 AND last_time >= $2";

pub(super) async fn addresses(
    store: &Handle,
    id: TokenId,
    only: Option<AccountId>,
    since: Timestamp,
) -> Result<Option<Vec<SeenAddress>>> {
    let mut tx = store.read_steadily().await?;
    if created(&mut tx, id, only).await?.is_none() {
        return Ok(None);
    }
    let rows: Vec<AddressRow> =
        sqlx::query_as(SELECT_ADDRESSES).bind(id.0).bind(since.0).fetch_all(&mut *tx).await?;
    let mut addresses = Vec::with_capacity(rows.len());
    for row in rows {
        addresses.push(SeenAddress {
            address: read_address(&row.address)?,
            first: Timestamp(row.first_time),
            last: Timestamp(row.last_time),
        });
    }
    addresses.sort_by_key(|seen| (std::cmp::Reverse(seen.last), seen.address));
    Ok(Some(addresses))
}

pub(super) fn read_address(text: &str) -> Result<ClientAddr> {
    text.parse().map_err(|_| CorruptRow("a stored address can't be read").into())
}

/// The whitelist as it is stands since its last change; replicas record since the migration.
const SELECT_SINCE: &str = "\
    SELECT start_time, \
        (SELECT max(time) FROM audit_event WHERE token_id = $1 AND action = $2) AS changed \
    FROM activity_record";

const SELECT_MATCHES: &str =
    "SELECT entry, last_time FROM whitelist_match WHERE token_id = $1 AND last_time >= $2";

pub(super) async fn matches(
    store: &Handle,
    id: TokenId,
    only: Option<AccountId>,
    since: Timestamp,
) -> Result<Option<EntryMatches>> {
    let mut tx = store.read_steadily().await?;
    let Some(created) = created(&mut tx, id, only).await? else { return Ok(None) };
    let (started, changed): (i64, Option<i64>) = sqlx::query_as(SELECT_SINCE)
        .bind(id.0)
        .bind(crate::model::AuditAction::WhitelistChange.as_str())
        .fetch_one(&mut *tx)
        .await?;
    let rows: Vec<(String, i64)> =
        sqlx::query_as(SELECT_MATCHES).bind(id.0).bind(since.0).fetch_all(&mut *tx).await?;
    let mut matches = Vec::with_capacity(rows.len());
    for (entry, last) in rows {
        let entry = Cidr::parse(&entry, &Limits::NONE)
            .map_err(|_| CorruptRow("a stored whitelist entry can't be read"))?;
        matches.push((entry, Timestamp(last)));
    }
    matches.sort_unstable();
    let since = created.max(Timestamp(started)).max(Timestamp(changed.unwrap_or(i64::MIN)));
    Ok(Some(EntryMatches { matches, since }))
}

const SELECT_COUNTS: &str = "\
    SELECT day, scope_id, count FROM token_usage WHERE token_id = $1 AND day >= $2 \
    ORDER BY day DESC, scope_id LIMIT $3";

pub(super) async fn counts(
    store: &Handle,
    id: TokenId,
    only: Option<AccountId>,
    since: Timestamp,
    limit: u32,
) -> Result<Option<Vec<UseCount>>> {
    let mut tx = store.read_steadily().await?;
    if created(&mut tx, id, only).await?.is_none() {
        return Ok(None);
    }
    let rows: Vec<(i64, i32, i64)> = sqlx::query_as(SELECT_COUNTS)
        .bind(id.0)
        .bind(since.day())
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
    let counts = rows.into_iter().map(|(day, scope, count)| {
        let count = u64::try_from(count);
        let count = count.map_err(|_| CorruptRow("a stored count of uses can't be read"))?;
        Ok(UseCount { token_id: id, scope_id: scope_id(scope)?, day, count })
    });
    counts.collect::<Result<_>>().map(Some)
}

/// Rule 12.3 of docs/policy.md.
pub(super) async fn purge(store: &Handle, before: Timestamp, limit: u32) -> Result<u64> {
    let mut purged = 0;
    for (table, key, time, before) in [
        ("token_address", "token_id, address", "last_time", before.0),
        ("whitelist_match", "token_id, entry", "last_time", before.0),
        ("token_usage", "token_id, day, scope_id", "day", before.day()),
    ] {
        purged += purge_rows(store, table, key, time, before, limit).await?;
    }
    Ok(purged)
}

/// Deletes at most `limit` rows of a table, the oldest first, whose `time` is before `before`. How many. Rows that
/// another transaction has locked, and may be about to update, are passed over.
pub(super) async fn purge_rows(
    store: &Handle,
    table: &'static str,
    key: &'static str,
    time: &'static str,
    before: i64,
    limit: u32,
) -> Result<u64> {
    let mut query = QueryBuilder::new("DELETE FROM ");
    query.push(table).push(" WHERE (").push(key).push(") IN (SELECT ").push(key);
    query.push(" FROM ").push(table).push(" WHERE ").push(time).push(" < ").push_bind(before);
    query
        .push(" ORDER BY ")
        .push(time)
        .push(" LIMIT ")
        .push_bind(i64::from(limit))
        .push(bulk::SKIP_LOCKED)
        .push(")");
    let mut tx = store.write().await?;
    let purged = query.build().execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(purged)
}

const ERASE: [&str; 3] = [
    "DELETE FROM denial WHERE token_id IN (",
    "DELETE FROM token_address WHERE token_id IN (",
    "DELETE FROM whitelist_match WHERE token_id IN (",
];

/// Erases what was seen of these tokens, which are locked, at most `IDS_AT_ONCE`. Where they are deleted, or of a
/// closed account, no replica brings anything back. Rule 12.4 of docs/policy.md.
pub(super) async fn erase(connection: &mut Connection, ids: &[TokenId]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    for sql in ERASE {
        let mut query = QueryBuilder::new(sql);
        push_ids(&mut query, ids.iter().map(|id| id.0));
        query.push(")");
        query.build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

const SELECT_TOKENS: &str = "\
    SELECT token_id FROM token WHERE account_id = $1 AND token_id > $2 ORDER BY token_id LIMIT $3";

/// At most a row for each hour of a week.
const ERASE_REST: &str = "DELETE FROM denial_rest WHERE account_id = $1";

/// Erases what was seen of a page of an account's tokens. For a closed account it is called after their deletion, so that
/// no replica brings anything back. Rule 12.4 of docs/policy.md.
pub(super) async fn erase_of_account(
    store: &Handle,
    account: AccountId,
    after: Option<TokenId>,
    limit: u32,
) -> Result<Option<TokenId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(SELECT_TOKENS)
        .bind(account.0)
        .bind(after.map_or(Uuid::nil(), |id| id.0))
        .bind(i64::from(limit))
        .fetch_all(&store.read())
        .await?;
    let ids: Vec<_> = ids.into_iter().map(TokenId).collect();
    let mut tx = store.write().await?;
    bulk::lock(&mut tx, &ids).await?;
    if after.is_none() {
        sqlx::query::<Db>(ERASE_REST).bind(account.0).execute(&mut *tx).await?;
    }
    erase(&mut tx, &ids).await?;
    tx.commit().await?;
    Ok(ids.last().copied())
}
