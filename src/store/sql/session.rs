//! Sessions of the management page, and the forms that were sent in them.
//!
//! What must stay true: a session is live only while its credential is, which is read with it each time, so
//! that a revocation ends it at once and everywhere; sessions begin and end under the head row, like
//! credentials, so none begins with one that is revoked; when a session was seen only moves forward, and
//! whether that could be noted decides nothing; no record holds a digest.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::FromRow;
use uuid::Uuid;

use super::change::{Record, WriteTx};
use super::{Db, Handle, QueryBuilder, bulk, credential, decode};
use crate::model::{AuditAction, Context, Credential, Invalidation, NewSession, Session};
use crate::policy::id::CredentialId;
use crate::policy::time::Timestamp;
use crate::policy::token::Expiry;
use crate::secret::Digest;
use crate::store::Result;
use crate::store::error::CorruptRow;

/// How long a page waits for the note that its session was seen: with what writes at that time, or for a
/// store that takes no writes.
const SEEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Their forms go with them.
const FORGET: &str = "DELETE FROM session WHERE expire_time <= $1";

const INSERT: &str = "\
    INSERT INTO session (digest, credential_id, create_time, expire_time, seen_time) \
    VALUES ($1, $2, $3, $4, $3)";

const SELECT: &str = "\
    SELECT s.create_time, s.expire_time, s.seen_time, s.credential_id, \
        c.role, c.account_id, c.name, c.revoke_time, c.expire_time AS credential_expire_time \
    FROM session s LEFT JOIN credential c ON c.credential_id = s.credential_id \
    WHERE s.digest = $1";

const SEE: &str = "UPDATE session SET seen_time = $2 WHERE digest = $1 AND seen_time < $2";

const SELECT_CREDENTIAL: &str =
    "SELECT credential_id FROM session WHERE digest = $1 AND expire_time > $2";

#[derive(FromRow)]
struct SessionRow {
    create_time: i64,
    expire_time: i64,
    seen_time: i64,
    credential_id: Option<Uuid>,
    role: Option<String>,
    account_id: Option<Uuid>,
    name: Option<String>,
    revoke_time: Option<i64>,
    credential_expire_time: Option<i64>,
}

pub(super) async fn create(store: &Handle, ctx: &Context, new: &NewSession) -> Result<bool> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let mut bearer = None;
    if let Some(id) = new.credential_id {
        bearer = credential::by_id(&mut change.tx, id).await?;
        let is_live = |bearer: &Credential| {
            let expiry = Expiry::from(bearer.expires);
            bearer.revoked.is_none() && !expiry.is_reached(ctx.now)
        };
        if !bearer.as_ref().is_some_and(is_live) {
            change.undo().await;
            return Ok(false);
        }
    }
    sqlx::query::<Db>(FORGET).bind(ctx.now.0).execute(&mut *change.tx).await?;
    sqlx::query::<Db>(INSERT)
        .bind(&new.digest[..])
        .bind(new.credential_id.map(|id| id.0))
        .bind(ctx.now.0)
        .bind(new.expires.0)
        .execute(&mut *change.tx)
        .await?;
    let after = summary(bearer.as_ref(), "live", 1);
    change.commit(record(AuditAction::SessionCreate, bearer.as_ref(), None, after)).await?;
    Ok(true)
}

pub(super) async fn one(
    store: &Handle,
    digest: &Digest,
    now: Timestamp,
    idle: Duration,
) -> Result<Option<Session>> {
    let query = sqlx::query_as::<Db, SessionRow>(SELECT).bind(&digest[..]);
    let Some(row) = query.fetch_optional(&store.read()).await? else { return Ok(None) };
    let seen = Timestamp(row.seen_time);
    let over = Timestamp(row.expire_time) <= now || seen.plus(idle) <= now;
    // Rules 8.9 and 11.84 of docs/policy.md.
    let expired = row.credential_expire_time.is_some_and(|at| Timestamp(at) <= now);
    if over || expired || row.revoke_time.is_some() {
        return Ok(None);
    }
    let session = row.read()?;
    if seen.plus(idle / 10) <= now {
        let noted = tokio::time::timeout(SEEN_TIMEOUT, see(store, digest, now)).await;
        match noted {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "that a session was seen can't be noted"),
            Err(_) => tracing::warn!("that a session was seen can't be noted in time"),
        }
    }
    Ok(Some(session))
}

async fn see(store: &Handle, digest: &Digest, now: Timestamp) -> Result<()> {
    let mut tx = store.write().await?;
    sqlx::query::<Db>(SEE).bind(&digest[..]).bind(now.0).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn end(
    store: &Handle,
    ctx: &Context,
    digest: &Digest,
    everywhere: bool,
) -> Result<u64> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let found = sqlx::query_scalar::<Db, Option<Uuid>>(SELECT_CREDENTIAL)
        .bind(&digest[..])
        .bind(ctx.now.0)
        .fetch_optional(&mut *change.tx)
        .await?;
    let Some(credential_id) = found else {
        change.finish().await?;
        return Ok(0);
    };
    let mut query = QueryBuilder::new("DELETE FROM session WHERE expire_time > ");
    query.push_bind(ctx.now.0);
    match (everywhere, credential_id) {
        (false, _) => query.push(" AND digest = ").push_bind(&digest[..]),
        (true, Some(id)) => query.push(" AND credential_id = ").push_bind(id),
        (true, None) => query.push(" AND credential_id IS NULL"),
    };
    let ended = query.build().execute(&mut *change.tx).await?.rows_affected();
    let bearer = match credential_id {
        Some(id) => credential::by_id(&mut change.tx, CredentialId(id)).await?,
        None => None,
    };
    let before = summary(bearer.as_ref(), "live", ended);
    let after = summary(bearer.as_ref(), "ended", ended);
    change.commit(record(AuditAction::SessionEnd, bearer.as_ref(), Some(before), after)).await?;
    Ok(ended)
}

/// The session can't end between being found and the form being noted, nor can another note the same form.
pub(super) async fn use_form(store: &Handle, session: &Digest, form: &[u8; 16]) -> Result<bool> {
    let mut query =
        QueryBuilder::new("INSERT INTO session_form (session_digest, form) SELECT digest, ");
    query
        .push_bind(&form[..])
        .push(" FROM session WHERE digest = ")
        .push_bind(&session[..])
        .push(bulk::KEEP)
        .push(" ON CONFLICT DO NOTHING");
    let mut tx = store.write().await?;
    let noted = query.build().execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    Ok(noted == 1)
}

fn record(
    action: AuditAction,
    bearer: Option<&Credential>,
    before: Option<Value>,
    after: Value,
) -> Record {
    Record {
        action,
        touched: Invalidation::Nothing,
        account_id: bearer.and_then(credential::account_of),
        token_id: None,
        before,
        after: Some(after),
    }
}

/// Of so many sessions of one credential, or of none where none is asked for.
fn summary(bearer: Option<&Credential>, state: &str, sessions: u64) -> Value {
    json!({
        "credential_id": bearer.map(|bearer| bearer.id.to_string()),
        "role": bearer.map(|bearer| bearer.role.name()),
        "name": bearer.map(|bearer| bearer.name.as_str()),
        "sessions": sessions,
        "state": state,
    })
}

impl SessionRow {
    fn read(self) -> Result<Session> {
        let bearer = match (self.credential_id, self.role, self.name) {
            (None, None, None) => None,
            (Some(id), Some(role), Some(name)) => {
                Some((CredentialId(id), decode::role(&role, self.account_id)?, name))
            }
            _ => return Err(CorruptRow("a session's credential is missing").into()),
        };
        Ok(Session {
            bearer,
            created: Timestamp(self.create_time),
            expires: Timestamp(self.expire_time),
        })
    }
}
