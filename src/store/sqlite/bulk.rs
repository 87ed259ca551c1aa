//! What SQLite does its own way: no row locks, since a transaction that writes is alone; and one
//! statement after another, which costs no round trips here.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};
use uuid::Uuid;

use super::sql::import::{HeldDigest, ImportRow, distinct, scope_rows};
use crate::policy::id::{AccountId, TokenId};
use crate::policy::lifecycle::Uses;
use crate::policy::time::Timestamp;
use crate::secret::Digest;
use crate::store::Result;

/// Nobody else has anything locked.
pub(super) const SKIP_LOCKED: &str = "";

/// Nobody else can take anything away.
pub(super) const KEEP: &str = "";

/// SQLite's `max` of two is null where either is.
const RECORD: &str = "\
    UPDATE token_use SET last_use = max(coalesce(last_use, $2), $2), \
        last_write_use = coalesce(max(last_write_use, $3), last_write_use, $3) \
    WHERE token_id = $1";

/// The conditions pass over what is gone.
const RECORD_SCOPE: &str = "\
    INSERT INTO scope_use (token_id, scope_id, last_use) SELECT $1, $2, $3 \
    WHERE EXISTS (SELECT 1 FROM token_use WHERE token_id = $1) \
        AND EXISTS (SELECT 1 FROM scope WHERE scope_id = $2) \
    ON CONFLICT (token_id, scope_id) DO UPDATE SET last_use = excluded.last_use \
    WHERE scope_use.last_use < excluded.last_use";

const HEIR: &str = "SELECT heir_id FROM token_use WHERE token_id = $1 AND heir_id IS NOT NULL";

const SET_IDLE: &str = "UPDATE token_use SET idle_since = $2 WHERE token_id = $1";

/// Takes the locks on these tokens' lifecycles: the transaction has them. Those that were replaced, each with its heir.
pub(super) async fn lock(
    connection: &mut SqliteConnection,
    ids: &[TokenId],
) -> Result<Vec<(TokenId, TokenId)>> {
    let mut heirs = Vec::new();
    for &id in ids {
        let heir: Option<Uuid> =
            sqlx::query_scalar(HEIR).bind(id.0).fetch_optional(&mut *connection).await?;
        heirs.extend(heir.map(|heir| (id, TokenId(heir))));
    }
    Ok(heirs)
}

/// Moves recorded uses forward, each token once.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    used: &[(TokenId, Uses)],
) -> Result<()> {
    for (id, uses) in used {
        sqlx::query::<Sqlite>(RECORD)
            .bind(id.0)
            .bind(uses.last.map(|time| time.0))
            .bind(uses.last_write.map(|time| time.0))
            .execute(&mut *connection)
            .await?;
        for (scope, time) in &uses.scopes {
            sqlx::query::<Sqlite>(RECORD_SCOPE)
                .bind(id.0)
                .bind(i32::from(scope.0))
                .bind(time.0)
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

/// Sets since when these tokens are idle.
pub(super) async fn set_idle(
    connection: &mut SqliteConnection,
    idle: &[(TokenId, Option<Timestamp>)],
) -> Result<()> {
    for (id, since) in idle {
        sqlx::query::<Sqlite>(SET_IDLE)
            .bind(id.0)
            .bind(since.map(|since| since.0))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Rows of one statement: SQLite binds at most 32,766 values.
const ROWS: usize = 1_000;

/// What has these digests already: tokens, retired ones, and credentials.
pub(super) async fn held_digests(
    connection: &mut SqliteConnection,
    digests: &[Digest],
) -> Result<Vec<HeldDigest>> {
    const HOLDERS: [&str; 3] = [
        "SELECT digest, account_id, token_id, delete_time, delete_cause, leaked, expire_time FROM token WHERE digest IN (",
        ") UNION ALL SELECT digest, account_id, NULL, delete_time, delete_cause, leaked, expire_time \
         FROM retired_digest WHERE digest IN (",
        ") UNION ALL SELECT digest, NULL, NULL, NULL, NULL, 0, NULL FROM credential WHERE digest IN (",
    ];
    let digests = distinct(digests);
    let mut query = QueryBuilder::<Sqlite>::new("");
    for holder in HOLDERS {
        query.push(holder);
        let mut list = query.separated(", ");
        for digest in &digests {
            list.push_bind(*digest);
        }
    }
    query.push(")");
    Ok(query.build_query_as().fetch_all(connection).await?)
}

/// Stores imported tokens, their uses and their scopes.
pub(super) async fn import(
    connection: &mut SqliteConnection,
    account_id: AccountId,
    now: Timestamp,
    revision: i64,
    rows: &[ImportRow<'_>],
) -> Result<()> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, whitelist_version, \
         create_time, expire_time, clock_time, import_time, import_revision) ",
    );
    query.push_values(rows, |mut values, row| {
        let token = &row.new.token;
        values
            .push_bind(token.id.0)
            .push_bind(account_id.0)
            .push_bind(token.name.as_str())
            .push_bind(token.kind.word())
            .push_bind(&token.digest[..])
            .push_bind(row.whitelist.as_str())
            .push_bind(1_i64)
            .push_bind(row.new.created.0)
            .push_bind(token.expires.map(|at| at.0))
            .push_bind(now.0)
            .push_bind(now.0)
            .push_bind(revision);
    });
    query.build().execute(&mut *connection).await?;

    let mut query =
        QueryBuilder::<Sqlite>::new("INSERT INTO token_use (token_id, last_use, idle_since) ");
    query.push_values(rows, |mut values, row| {
        values
            .push_bind(row.new.token.id.0)
            .push_bind(row.new.last_use.map(|at| at.0))
            .push_bind(row.idle_since);
    });
    query.build().execute(&mut *connection).await?;

    let scopes: Vec<_> = scope_rows(rows).collect();
    for scopes in scopes.chunks(ROWS) {
        let mut query =
            QueryBuilder::<Sqlite>::new("INSERT INTO token_scope (token_id, scope_id) ");
        query.push_values(scopes, |mut values, (id, scope)| {
            values.push_bind(id.0).push_bind(*scope);
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}
