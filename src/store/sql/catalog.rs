//! The catalogue in force, the numbers of scope names, and what tokens may use.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::change::{Record, WriteTx};
use super::decode::{ANY_ADDRESS, scope_id, scope_name};
use super::{Connection, Db, Handle, QueryBuilder};
use crate::model::{AuditAction, Context, GrantCounts, Invalidation, ScopesInUse, StoredCatalog};
use crate::policy::catalog_file;
use crate::policy::scope::{ScopeId, ScopeName};
use crate::policy::time::Timestamp;
use crate::store::error::CorruptRow;
use crate::store::{Result, StoreError};

const SELECT: &str = "\
    SELECT c.version, c.toml, c.apply_time \
    FROM head h JOIN catalog c ON c.version = h.catalog_version WHERE h.id = 1";

const SELECT_SCOPES: &str = "SELECT scope_id, name FROM scope ORDER BY scope_id";

const INSERT: &str = "INSERT INTO catalog (version, toml, apply_time) VALUES ($1, $2, $3)";

const INSERT_SCOPES: &str = "INSERT INTO scope (scope_id, name) ";

const PUT_IN_FORCE: &str = "UPDATE head SET catalog_version = $1 WHERE id = 1";

/// Active `CUSTOM` tokens by a scope that they may use.
const FROM_HOLDERS: &str = "\
    FROM token_scope s JOIN token t ON t.token_id = s.token_id \
    WHERE s.taken_time IS NULL AND t.kind = 'CUSTOM' AND t.delete_time IS NULL AND t.expiry_done = 0";

const COUNT_KINDS: &str = "\
    SELECT kind, count(*) FROM token \
    WHERE delete_time IS NULL AND expiry_done = 0 AND kind <> 'CUSTOM' GROUP BY kind";

pub(super) async fn in_force(store: &Handle) -> Result<Option<StoredCatalog>> {
    let mut tx = store.read_steadily().await?;
    read(&mut tx).await
}

pub(super) async fn apply(
    store: &Handle,
    ctx: &Context,
    current: Option<i64>,
    toml: &str,
    names: &[ScopeName],
) -> Result<Result<StoredCatalog, ScopesInUse>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    if change.catalog_version != current.unwrap_or(0) {
        return Err(StoreError::StaleCatalog);
    }
    let former = read(&mut change.tx).await?;
    if let Some(former) = &former
        && former.toml == toml
    {
        change.finish().await?;
        return Ok(Ok(former.clone()));
    }
    let mut scope_ids = scopes(&mut change.tx).await?;

    let wanted: HashSet<&ScopeName> = names.iter().collect();
    let dropped: HashMap<ScopeId, &ScopeName> = scope_ids
        .iter()
        .filter(|(name, _)| !wanted.contains(name))
        .map(|(name, id)| (*id, name))
        .collect();
    let in_use = in_use(&mut change.tx, &dropped).await?;
    if !in_use.0.is_empty() {
        change.undo().await;
        return Ok(Err(in_use));
    }

    let new = number_new(&scope_ids, names)?;
    for chunk in new.chunks(SCOPES_AT_ONCE) {
        let mut query = QueryBuilder::new(INSERT_SCOPES);
        query.push_values(chunk, |mut row, (name, id)| {
            row.push_bind(i32::from(id.0)).push_bind(name.as_str());
        });
        query.build().execute(&mut *change.tx).await?;
    }
    scope_ids.extend(new);

    let version = change.catalog_version + 1;
    sqlx::query::<Db>(INSERT)
        .bind(version)
        .bind(toml)
        .bind(ctx.now.0)
        .execute(&mut *change.tx)
        .await?;
    sqlx::query::<Db>(PUT_IN_FORCE).bind(version).execute(&mut *change.tx).await?;
    let before = former.as_ref().map(|former| json!({ "version": former.version }));
    let (added, dropped) = difference(former.as_ref(), names);
    change
        .commit(Record {
            action: AuditAction::CatalogApply,
            touched: Invalidation::Catalog,
            account_id: None,
            token_id: None,
            before,
            after: Some(json!({ "version": version, "added": added, "dropped": dropped })),
        })
        .await?;
    Ok(Ok(StoredCatalog { version, toml: toml.to_owned(), applied: ctx.now, scope_ids }))
}

/// Far below what either database binds in one statement.
const SCOPES_AT_ONCE: usize = 1_000;

/// Numbers for the names that have none: above every number there ever was.
fn number_new(
    known: &[(ScopeName, ScopeId)],
    names: &[ScopeName],
) -> Result<Vec<(ScopeName, ScopeId)>> {
    let mut seen: HashSet<&ScopeName> = known.iter().map(|(name, _)| name).collect();
    let first = known.iter().map(|(_, id)| u32::from(id.0) + 1).max();
    names
        .iter()
        .filter(|name| seen.insert(name))
        .zip(first.unwrap_or(0)..)
        .map(|(name, number)| {
            let number = u16::try_from(number);
            let number = number.map_err(|_| CorruptRow("every scope number is used"))?;
            Ok((name.clone(), ScopeId(number)))
        })
        .collect()
}

/// The scopes that came and that went, for the audit record. All came where the former catalogue
/// can't be read any more.
fn difference(former: Option<&StoredCatalog>, names: &[ScopeName]) -> (Vec<String>, Vec<String>) {
    let former = former.and_then(|former| catalog_file::parse_stored(&former.toml).ok());
    let former: Vec<ScopeName> = former.into_iter().flatten().map(|scope| scope.name).collect();
    let without = |these: &[ScopeName], those: &[ScopeName]| {
        let those: HashSet<_> = those.iter().collect();
        let these = these.iter().filter(|name| !those.contains(name));
        these.map(ToString::to_string).collect()
    };
    (without(names, &former), without(&former, names))
}

async fn in_use(
    connection: &mut Connection,
    dropped: &HashMap<ScopeId, &ScopeName>,
) -> Result<ScopesInUse> {
    let mut in_use = Vec::new();
    let mut ids: Vec<_> = dropped.keys().collect();
    ids.sort_unstable();
    for ids in ids.chunks(SCOPES_AT_ONCE) {
        let mut query = QueryBuilder::new("SELECT s.scope_id, count(*) ");
        query.push(FROM_HOLDERS).push(" AND s.scope_id IN (");
        let mut list = query.separated(", ");
        for id in ids {
            list.push_bind(i32::from(id.0));
        }
        query.push(") GROUP BY s.scope_id");
        let counts: Vec<(i32, i64)> = query.build_query_as().fetch_all(&mut *connection).await?;
        for (id, count) in counts {
            if let Some(&name) = dropped.get(&scope_id(id)?) {
                in_use.push((name.clone(), count));
            }
        }
    }
    in_use.sort_unstable();
    Ok(ScopesInUse(in_use))
}

pub(super) async fn count_grants(store: &Handle) -> Result<GrantCounts> {
    let mut tx = store.read_steadily().await?;
    let kinds: Vec<(String, i64)> = sqlx::query_as(COUNT_KINDS).fetch_all(&mut *tx).await?;
    let mut query = QueryBuilder::new("SELECT s.scope_id, count(*), count(CASE t.whitelist WHEN ");
    query
        .push_bind(ANY_ADDRESS)
        .push(" THEN 1 END) ")
        .push(FROM_HOLDERS)
        .push(" GROUP BY s.scope_id ORDER BY s.scope_id");
    let custom: Vec<(i32, i64, i64)> = query.build_query_as().fetch_all(&mut *tx).await?;
    let count = |kind| {
        let of_kind = kinds.iter().find(|(name, _)| name == kind);
        of_kind.map_or(0, |&(_, count)| count)
    };
    Ok(GrantCounts {
        read_only: count("READ_ONLY"),
        read_write: count("READ_WRITE"),
        custom: custom
            .into_iter()
            .map(|(id, all, unrestricted)| Ok((scope_id(id)?, all, unrestricted)))
            .collect::<Result<_>>()?,
    })
}

async fn read(connection: &mut Connection) -> Result<Option<StoredCatalog>> {
    let row: Option<(i64, String, i64)> =
        sqlx::query_as(SELECT).fetch_optional(&mut *connection).await?;
    let Some((version, toml, applied)) = row else {
        return Ok(None);
    };
    Ok(Some(StoredCatalog {
        version,
        toml,
        applied: Timestamp(applied),
        scope_ids: scopes(connection).await?,
    }))
}

pub(super) async fn scopes(connection: &mut Connection) -> Result<Vec<(ScopeName, ScopeId)>> {
    let rows: Vec<(i32, String)> = sqlx::query_as(SELECT_SCOPES).fetch_all(connection).await?;
    rows.iter().map(|(id, name)| Ok((scope_name(name)?, scope_id(*id)?))).collect()
}
