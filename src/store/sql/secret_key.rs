//! The keys that secrets are made under.

use serde_json::json;

use super::change::{Record, WriteTx};
use super::{Db, Handle};
use crate::model::{AuditAction, Context, Invalidation};
use crate::secret::{MAX_KEY_NUMBER, SecretKey};
use crate::store::Result;
use crate::store::error::CorruptRow;

const SELECT: &str = "SELECT number, key FROM secret_key ORDER BY number";

const SELECT_NEWEST: &str = "SELECT max(number) FROM secret_key";

const INSERT: &str = "INSERT INTO secret_key (number, key, create_time) VALUES ($1, $2, $3)";

pub(super) async fn all(store: &Handle) -> Result<Vec<SecretKey>> {
    let rows: Vec<(i32, Vec<u8>)> = sqlx::query_as(SELECT).fetch_all(&store.read()).await?;
    rows.into_iter()
        .map(|(number, key)| {
            // Wiped on drop, however this ends.
            let key = zeroize::Zeroizing::new(key);
            let bytes = <[u8; 32]>::try_from(key.as_slice());
            let bytes = bytes.map_err(|_| CorruptRow("a stored key has not 32 bytes"))?;
            Ok(SecretKey::new(key_number(number)?, bytes))
        })
        .collect()
}

pub(super) async fn add(
    store: &Handle,
    ctx: &Context,
    key: &[u8; 32],
    only_first: bool,
) -> Result<u16> {
    let mut change = WriteTx::begin(store, ctx).await?;
    let newest: Option<i32> = sqlx::query_scalar(SELECT_NEWEST).fetch_one(&mut *change.tx).await?;
    let newest = newest.map(key_number).transpose()?;
    let number = match newest {
        Some(newest) if only_first => {
            change.undo().await;
            return Ok(newest);
        }
        Some(MAX_KEY_NUMBER) => {
            return Err(CorruptRow("every number that a key can have is used").into());
        }
        Some(newest) => newest + 1,
        None => 0,
    };
    sqlx::query::<Db>(INSERT)
        .bind(i32::from(number))
        .bind(&key[..])
        .bind(ctx.now.0)
        .execute(&mut *change.tx)
        .await?;
    change
        .commit(Record {
            action: if number == 0 {
                AuditAction::SecretKeyCreate
            } else {
                AuditAction::SecretKeyRotate
            },
            touched: Invalidation::SecretKeys,
            account_id: None,
            token_id: None,
            before: newest.map(|number| json!({ "number": number })),
            after: Some(json!({ "number": number })),
        })
        .await?;
    Ok(number)
}

fn key_number(number: i32) -> Result<u16> {
    let number = u16::try_from(number);
    Ok(number.map_err(|_| CorruptRow("a stored key number is out of range"))?)
}
