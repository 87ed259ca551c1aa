//! What Postgres does its own way: row locks, and many rows in one statement.

use sqlx::PgConnection;
use uuid::Uuid;

use super::sql::import::{HeldDigest, ImportRow, distinct, scope_rows};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::lifecycle::Uses;
use crate::policy::time::Timestamp;
use crate::secret::Digest;
use crate::store::Result;

/// Behind a `SELECT`: locks its rows against other writers, and passes over those that another has
/// locked.
pub(super) const SKIP_LOCKED: &str = " FOR NO KEY UPDATE SKIP LOCKED";

/// Behind a `SELECT`: its rows stay until the transaction ends; what no key is in may change meanwhile.
pub(super) const KEEP: &str = " FOR KEY SHARE";

/// In the order of the ids, so that two of these never wait for each other in a circle.
const LOCK: &str = "\
    SELECT token_id, heir_id FROM token_use WHERE token_id = ANY($1) ORDER BY token_id FOR NO KEY UPDATE";

const RECORD: &str = "\
    UPDATE token_use u SET last_use = greatest(u.last_use, v.last_use), \
        last_write_use = greatest(u.last_write_use, v.last_write_use) \
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS v (token_id, last_use, last_write_use) \
    WHERE u.token_id = v.token_id AND (u.last_use IS NULL OR u.last_use < v.last_use \
        OR v.last_write_use > coalesce(u.last_write_use, v.last_write_use - 1))";

/// Joins pass over what is gone.
const RECORD_SCOPES: &str = "\
    INSERT INTO scope_use (token_id, scope_id, last_use) \
    SELECT v.token_id, v.scope_id, v.last_use \
    FROM unnest($1::uuid[], $2::integer[], $3::bigint[]) AS v (token_id, scope_id, last_use) \
    JOIN token_use u ON u.token_id = v.token_id JOIN scope s ON s.scope_id = v.scope_id \
    ON CONFLICT (token_id, scope_id) DO UPDATE SET last_use = excluded.last_use \
    WHERE scope_use.last_use < excluded.last_use";

const SET_IDLE: &str = "\
    UPDATE token_use u SET idle_since = v.idle_since \
    FROM unnest($1::uuid[], $2::bigint[]) AS v (token_id, idle_since) \
    WHERE u.token_id = v.token_id AND u.idle_since IS DISTINCT FROM v.idle_since";

/// Takes the locks on these tokens' lifecycles; rows that are gone are passed over. Those that were replaced, each with its
/// heir, as they are with the locks taken.
pub(super) async fn lock(
    connection: &mut PgConnection,
    ids: &[TokenId],
) -> Result<Vec<(TokenId, TokenId)>> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let rows: Vec<(Uuid, Option<Uuid>)> =
        sqlx::query_as(LOCK).bind(ids).fetch_all(connection).await?;
    let heirs = rows.into_iter().filter_map(|(id, heir)| Some((TokenId(id), TokenId(heir?))));
    Ok(heirs.collect())
}

/// Moves recorded uses forward, each token once. The locks must be taken.
pub(super) async fn record(connection: &mut PgConnection, used: &[(TokenId, Uses)]) -> Result<()> {
    let micros = |time: Option<Timestamp>| time.map(|time| time.0);
    let ids: Vec<_> = used.iter().map(|(id, _)| id.0).collect();
    let last: Vec<_> = used.iter().map(|(_, uses)| micros(uses.last)).collect();
    let last_write: Vec<_> = used.iter().map(|(_, uses)| micros(uses.last_write)).collect();
    sqlx::query(RECORD).bind(ids).bind(last).bind(last_write).execute(&mut *connection).await?;

    let (mut ids, mut scopes, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for (id, uses) in used {
        for (scope, time) in &uses.scopes {
            ids.push(id.0);
            scopes.push(i32::from(scope.0));
            times.push(time.0);
        }
    }
    sqlx::query(RECORD_SCOPES).bind(ids).bind(scopes).bind(times).execute(connection).await?;
    Ok(())
}

/// Sets since when these tokens are idle. The locks must be taken.
pub(super) async fn set_idle(
    connection: &mut PgConnection,
    idle: &[(TokenId, Option<Timestamp>)],
) -> Result<()> {
    let ids: Vec<_> = idle.iter().map(|(id, _)| id.0).collect();
    let since: Vec<_> = idle.iter().map(|(_, since)| since.map(|since| since.0)).collect();
    sqlx::query(SET_IDLE).bind(ids).bind(since).execute(connection).await?;
    Ok(())
}

/// Whose digests these are: tokens, retired ones, and credentials.
const HELD: &str = "\
    SELECT digest, account_id, token_id, delete_time, delete_cause, leaked, expire_time \
        FROM token WHERE digest = ANY($1) \
    UNION ALL \
    SELECT digest, account_id, NULL, delete_time, delete_cause, leaked, expire_time \
        FROM retired_digest WHERE digest = ANY($1) \
    UNION ALL \
    SELECT digest, NULL, NULL, NULL, NULL, CAST(0 AS SMALLINT), NULL FROM credential WHERE digest = ANY($1)";

const IMPORT: &str = "\
    INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, whitelist_version, \
        create_time, expire_time, clock_time, import_time, import_revision) \
    SELECT v.token_id, $8, v.name, v.kind, v.digest, v.whitelist, 1, v.create_time, v.expire_time, $9, $9, $10 \
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::bigint[], $7::bigint[]) \
        AS v (token_id, name, kind, digest, whitelist, create_time, expire_time)";

const IMPORT_USES: &str = "\
    INSERT INTO token_use (token_id, last_use, idle_since) \
    SELECT v.token_id, v.last_use, v.idle_since \
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS v (token_id, last_use, idle_since)";

const IMPORT_SCOPES: &str = "\
    INSERT INTO token_scope (token_id, scope_id) \
    SELECT v.token_id, v.scope_id FROM unnest($1::uuid[], $2::integer[]) AS v (token_id, scope_id)";

/// What has these digests already.
pub(super) async fn held_digests(
    connection: &mut PgConnection,
    digests: &[Digest],
) -> Result<Vec<HeldDigest>> {
    let query = sqlx::query_as(HELD).bind(distinct(digests));
    Ok(query.fetch_all(connection).await?)
}

/// Stores imported tokens, their uses and their scopes.
pub(super) async fn import(
    connection: &mut PgConnection,
    account_id: AccountId,
    now: Timestamp,
    revision: i64,
    rows: &[ImportRow<'_>],
) -> Result<()> {
    let tokens = || rows.iter().map(|row| &row.new.token);
    let ids: Vec<_> = tokens().map(|token| token.id.0).collect();
    let names: Vec<_> = tokens().map(|token| token.name.as_str()).collect();
    let kinds: Vec<_> = tokens().map(|token| token.kind.word()).collect();
    let digests: Vec<_> = tokens().map(|token| &token.digest[..]).collect();
    let whitelists: Vec<_> = rows.iter().map(|row| row.whitelist.as_str()).collect();
    let created: Vec<_> = rows.iter().map(|row| row.new.created.0).collect();
    let expires: Vec<_> = tokens().map(|token| token.expires.map(|at| at.0)).collect();
    sqlx::query(IMPORT)
        .bind(&ids)
        .bind(names)
        .bind(kinds)
        .bind(digests)
        .bind(whitelists)
        .bind(created)
        .bind(expires)
        .bind(account_id.0)
        .bind(now.0)
        .bind(revision)
        .execute(&mut *connection)
        .await?;

    let last: Vec<_> = rows.iter().map(|row| row.new.last_use.map(|at| at.0)).collect();
    let idle: Vec<_> = rows.iter().map(|row| row.idle_since).collect();
    sqlx::query(IMPORT_USES).bind(&ids).bind(last).bind(idle).execute(&mut *connection).await?;

    let (ids, scopes): (Vec<_>, Vec<_>) = scope_rows(rows).map(|(id, scope)| (id.0, scope)).unzip();
    if !ids.is_empty() {
        sqlx::query(IMPORT_SCOPES).bind(ids).bind(scopes).execute(connection).await?;
    }
    Ok(())
}
