//! What SQLite does its own way: no row locks, since a transaction that writes is alone; and one
//! statement after another, which costs no round trips here.

use sqlx::{Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::policy::id::TokenId;
use crate::policy::lifecycle::Uses;
use crate::policy::time::Timestamp;
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
