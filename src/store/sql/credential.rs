//! Callers' credentials.

use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::FromRow;
use uuid::Uuid;

use super::change::{Record, WriteTx};
use super::{Connection, Db, Handle, QueryBuilder, account, bulk, client_source, decode};
use crate::model::{
    AuditAction, Context, Credential, CredentialRefusal, CredentialUpdate, CredentialUpdateRefusal,
    Invalidation, LastOperatorCredential, Page, Role, SettingsCredential,
};
use crate::policy::client_certificate::Fingerprint;
use crate::policy::id::{AccountId, CredentialId};
use crate::policy::time::Timestamp;
use crate::policy::token::Expiry;
use crate::secret::Digest;
use crate::store::Result;

#[derive(FromRow)]
struct Row {
    credential_id: Uuid,
    role: String,
    account_id: Option<Uuid>,
    name: String,
    digest: Vec<u8>,
    from_settings: i16,
    create_time: i64,
    revoke_time: Option<i64>,
    client_source: Option<String>,
    client_certificates: Option<String>,
    expire_time: Option<i64>,
    last_use_time: Option<i64>,
}

const SELECT: &str = "\
    SELECT credential_id, role, account_id, name, digest, from_settings, create_time, \
        revoke_time, client_source, client_certificates, expire_time, last_use_time \
    FROM credential WHERE ";

const COUNT: &str = "SELECT count(*) FROM credential";

const INSERT: &str = "\
    INSERT INTO credential (credential_id, role, account_id, name, digest, from_settings, \
        create_time, revoke_time, client_source, client_certificates, expire_time) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

const UPDATE: &str = "UPDATE credential SET name = $2, expire_time = $3 WHERE credential_id = $1";

const RECORD_USE: &str = "\
    UPDATE credential SET last_use_time = $2 \
    WHERE credential_id = $1 AND (last_use_time IS NULL OR last_use_time < $2)";

const REVOKE: &str = "UPDATE credential SET revoke_time = $2 WHERE credential_id = $1";

pub(super) async fn one(store: &Handle, id: CredentialId) -> Result<Option<(Credential, Digest)>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push("credential_id = ").push_bind(id.0);
    let row: Option<Row> = query.build_query_as().fetch_optional(&store.read()).await?;
    row.map(Row::read).transpose()
}

pub(super) async fn live(store: &Handle) -> Result<Vec<(Credential, Digest)>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push("revoke_time IS NULL ORDER BY credential_id");
    let rows: Vec<Row> = query.build_query_as().fetch_all(&store.read()).await?;
    rows.into_iter().map(Row::read).collect()
}

pub(super) async fn list(
    store: &Handle,
    only: Option<AccountId>,
    page: Page<CredentialId>,
) -> Result<Vec<Credential>> {
    let mut query = QueryBuilder::new(SELECT);
    match page.after {
        Some(after) => query.push("credential_id > ").push_bind(after.0),
        None => query.push("1 = 1"),
    };
    if let Some(only) = only {
        query.push(" AND account_id = ").push_bind(only.0);
    }
    query.push(" ORDER BY credential_id LIMIT ").push_bind(i64::from(page.limit));
    let rows: Vec<Row> = query.build_query_as().fetch_all(&store.read()).await?;
    rows.into_iter().map(|row| Ok(row.read()?.0)).collect()
}

pub(super) async fn create(
    store: &Handle,
    ctx: &Context,
    new: &Credential,
    digest: &Digest,
) -> Result<Result<(), CredentialRefusal>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    if let Role::AccountAdmin(id) = new.role
        && let Err(refused) = account::admit(&mut change.tx, ctx, id).await?
    {
        change.undo().await;
        return Ok(Err(CredentialRefusal::Account(refused)));
    }
    if let Some(taken) = certificate_in_use(&mut change.tx, new, ctx.now).await? {
        change.undo().await;
        return Ok(Err(CredentialRefusal::CertificateInUse(taken)));
    }
    insert(&mut change.tx, new, digest).await?;
    change.commit(created(new)).await?;
    Ok(Ok(()))
}

pub(super) async fn create_first(
    store: &Handle,
    ctx: &Context,
    new: &Credential,
    digest: &Digest,
) -> Result<bool> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *change.tx).await?;
    if count > 0 {
        change.undo().await;
        return Ok(false);
    }
    insert(&mut change.tx, new, digest).await?;
    change.commit(created(new)).await?;
    Ok(true)
}

const LIVE_CERTIFICATES: &str = "\
    SELECT client_certificates FROM credential \
    WHERE revoke_time IS NULL AND client_certificates IS NOT NULL \
        AND (expire_time IS NULL OR expire_time > $1)";

/// A certificate of `new` that a valid credential is bound to. Rule 9.20 of docs/policy.md.
async fn certificate_in_use(
    connection: &mut Connection,
    new: &Credential,
    now: Timestamp,
) -> Result<Option<Fingerprint>> {
    if new.client_certificates.is_empty() {
        return Ok(None);
    }
    let live: Vec<String> = sqlx::query_scalar::<Db, String>(LIVE_CERTIFICATES)
        .bind(now.0)
        .fetch_all(connection)
        .await?;
    for text in live {
        let known = decode::client_certificates(&text)?;
        if let Some(taken) = new.client_certificates.iter().find(|&new| known.contains(new)) {
            return Ok(Some(*taken));
        }
    }
    Ok(None)
}

/// Rule 8.6 of docs/policy.md.
pub(super) async fn set_of_settings(
    store: &Handle,
    ctx: &Context,
    wanted: Option<(&Credential, &Digest)>,
) -> Result<SettingsCredential> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let mut query = QueryBuilder::new(SELECT);
    query.push("from_settings = 1 AND revoke_time IS NULL");
    let former = find(&mut change.tx, query).await?;
    let known = match wanted {
        None => None,
        Some((_, digest)) => {
            let mut query = QueryBuilder::new(SELECT);
            query.push("digest = ").push_bind(&digest[..]);
            find(&mut change.tx, query).await?
        }
    };
    let ended = |known: &Credential| {
        known.revoked.is_some() || known.expires.is_some_and(|at| at <= ctx.now)
    };
    let refused = match (&known, wanted) {
        (Some(known), _) if known.role != Role::Operator => Some(SettingsCredential::InUse),
        (Some(known), _) if ended(known) => Some(SettingsCredential::Ended),
        // It is no credential's, so what has it is or was a token.
        (None, Some((_, digest)))
            if !bulk::held_digests(&mut change.tx, &[*digest]).await?.is_empty() =>
        {
            Some(SettingsCredential::InUse)
        }
        _ => None,
    };
    if let Some(refused) = refused {
        change.undo().await;
        return Ok(refused);
    }
    // A credential that was created otherwise, and is now in the settings too, stays what it is.
    let former = former.filter(|former| known.as_ref().is_none_or(|known| known.id != former.id));
    let new = wanted.filter(|_| known.is_none());
    match (former, new) {
        (None, None) => {
            change.undo().await;
            return Ok(SettingsCredential::Unchanged);
        }
        (Some(former), None) => {
            set_revoked(&mut change.tx, former.id, ctx.now).await?;
            change.commit(revoked(&former)).await?;
        }
        (None, Some((new, digest))) => {
            insert(&mut change.tx, new, digest).await?;
            change.commit(created(new)).await?;
        }
        (Some(former), Some((new, digest))) => {
            set_revoked(&mut change.tx, former.id, ctx.now).await?;
            change.record_part(revoked(&former)).await?;
            insert(&mut change.tx, new, digest).await?;
            change.commit(created(new)).await?;
        }
    }
    Ok(SettingsCredential::Changed)
}

const OTHER_LIVE_OPERATORS: &str = "\
    SELECT count(*) FROM credential \
    WHERE role = 'operator' AND revoke_time IS NULL AND credential_id <> $1";

/// Rule 8.5 of docs/policy.md.
pub(super) async fn revoke(
    store: &Handle,
    ctx: &Context,
    id: CredentialId,
) -> Result<Option<Result<Credential, LastOperatorCredential>>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let found = by_id(&mut change.tx, id).await?;
    let mut credential = match found {
        Some(credential) if credential.revoked.is_none() => credential,
        unchanged => {
            change.finish().await?;
            return Ok(unchanged.map(Ok));
        }
    };
    if is_last_operator(&mut change.tx, &credential).await? {
        change.undo().await;
        return Ok(Some(Err(LastOperatorCredential)));
    }
    set_revoked(&mut change.tx, id, ctx.now).await?;
    change.commit(revoked(&credential)).await?;
    credential.revoked = Some(ctx.now);
    Ok(Some(Ok(credential)))
}

/// Whether nobody could operate the server without this valid credential.
pub(super) async fn is_last_operator(
    connection: &mut Connection,
    credential: &Credential,
) -> Result<bool> {
    if credential.role != Role::Operator {
        return Ok(false);
    }
    let others = sqlx::query_scalar::<Db, i64>(OTHER_LIVE_OPERATORS).bind(credential.id.0);
    Ok(others.fetch_one(connection).await? == 0)
}

/// Changes a credential's name, and brings its end nearer. Rules 11.83 and 11.84 of docs/policy.md.
pub(super) async fn update(
    store: &Handle,
    ctx: &Context,
    id: CredentialId,
    update: &CredentialUpdate,
) -> Result<Option<Result<Credential, CredentialUpdateRefusal>>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let Some(mut credential) = by_id(&mut change.tx, id).await? else {
        change.undo().await;
        return Ok(None);
    };
    let expires = match update.expires {
        _ if credential.revoked.is_some() => Err(CredentialUpdateRefusal::Revoked),
        None => Ok(credential.expires),
        Some(_) if credential.role == Role::Operator => Err(CredentialUpdateRefusal::Operator),
        Some(requested) => {
            let shortened = Expiry::from(credential.expires).shorten(requested, ctx.now);
            shortened.map(Expiry::time).map_err(CredentialUpdateRefusal::Expiry)
        }
    };
    let expires = match expires {
        Ok(expires) => expires,
        Err(refused) => {
            change.undo().await;
            return Ok(Some(Err(refused)));
        }
    };
    let before = summary(&credential, "live");
    credential.name = update.name.clone().unwrap_or(credential.name);
    credential.expires = expires;
    let after = summary(&credential, "live");
    if before == after {
        change.finish().await?;
        return Ok(Some(Ok(credential)));
    }
    let set = sqlx::query::<Db>(UPDATE).bind(id.0).bind(&credential.name);
    set.bind(expires.map(|at| at.0)).execute(&mut *change.tx).await?;
    let record = record(AuditAction::CredentialUpdate, &credential, Some(before), after);
    change.commit(record).await?;
    Ok(Some(Ok(credential)))
}

/// Moves the times of last use forward, without the head row: no decision rests on them.
pub(super) async fn record_uses(
    store: &Handle,
    ids: &[CredentialId],
    now: Timestamp,
) -> Result<()> {
    let mut ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    // In one order everywhere, so that two of these never wait for each other in a circle.
    ids.sort_unstable();
    let mut tx = store.write().await?;
    for id in ids {
        sqlx::query::<Db>(RECORD_USE).bind(id).bind(now.0).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

/// One credential, revoked ones included.
pub(super) async fn by_id(
    connection: &mut Connection,
    id: CredentialId,
) -> Result<Option<Credential>> {
    let mut query = QueryBuilder::new(SELECT);
    query.push("credential_id = ").push_bind(id.0);
    find(connection, query).await
}

async fn find(connection: &mut Connection, mut query: QueryBuilder) -> Result<Option<Credential>> {
    let row: Option<Row> = query.build_query_as().fetch_optional(connection).await?;
    row.map(|row| Ok(row.read()?.0)).transpose()
}

async fn insert(connection: &mut Connection, new: &Credential, digest: &Digest) -> Result<()> {
    sqlx::query::<Db>(INSERT)
        .bind(new.id.0)
        .bind(new.role.name())
        .bind(account_of(new).map(|id| id.0))
        .bind(&new.name)
        .bind(&digest[..])
        .bind(i16::from(new.from_settings))
        .bind(new.created.0)
        .bind(new.revoked.map(|at| at.0))
        .bind(new.client_source.as_deref().map(|source| client_source::json(source).to_string()))
        .bind(decode::client_certificates_text(&new.client_certificates))
        .bind(new.expires.map(|at| at.0))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn set_revoked(
    connection: &mut Connection,
    id: CredentialId,
    at: Timestamp,
) -> Result<()> {
    sqlx::query::<Db>(REVOKE).bind(id.0).bind(at.0).execute(connection).await?;
    Ok(())
}

pub(super) fn account_of(credential: &Credential) -> Option<AccountId> {
    match credential.role {
        Role::AccountAdmin(id) => Some(id),
        Role::Pep | Role::Operator => None,
    }
}

fn created(credential: &Credential) -> Record {
    let after = summary(credential, "live");
    record(AuditAction::CredentialCreate, credential, None, after)
}

fn revoked(credential: &Credential) -> Record {
    let before = summary(credential, "live");
    let after = summary(credential, "revoked");
    record(AuditAction::CredentialRevoke, credential, Some(before), after)
}

pub(super) fn record(
    action: AuditAction,
    credential: &Credential,
    before: Option<Value>,
    after: Value,
) -> Record {
    Record {
        action,
        touched: Invalidation::Credential(credential.id),
        account_id: account_of(credential),
        token_id: None,
        before,
        after: Some(after),
    }
}

pub(super) fn summary(credential: &Credential, state: &str) -> Value {
    let mut summary = json!({
        "credential_id": credential.id.to_string(),
        "role": credential.role.name(),
        "name": credential.name,
        "from_settings": credential.from_settings,
        "state": state,
    });
    if let Some(at) = credential.expires {
        summary["expire_time"] = json!(at.to_string());
    }
    if let Some(source) = &credential.client_source {
        summary["client_source"] = client_source::json(source);
    }
    if !credential.client_certificates.is_empty() {
        let certificates = credential.client_certificates.iter();
        summary["client_certificates"] = certificates.map(ToString::to_string).collect();
    }
    summary
}

impl Row {
    fn read(self) -> Result<(Credential, Digest)> {
        let credential = Credential {
            id: CredentialId(self.credential_id),
            role: decode::role(&self.role, self.account_id)?,
            name: self.name,
            created: Timestamp(self.create_time),
            revoked: self.revoke_time.map(Timestamp),
            expires: self.expire_time.map(Timestamp),
            last_use: self.last_use_time.map(Timestamp),
            from_settings: self.from_settings == 1,
            client_source: match &self.client_source {
                Some(text) => Some(Arc::new(client_source::read(text)?)),
                None => None,
            },
            client_certificates: match &self.client_certificates {
                Some(text) => decode::client_certificates(text)?,
                None => Vec::new(),
            },
        };
        Ok((credential, decode::digest(&self.digest)?))
    }
}
