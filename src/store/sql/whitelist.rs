//! Changes of a token's whitelist. What they come to is `policy`'s to say; here it is asked while no
//! other change can come between.

use serde_json::json;

use super::change::{Record, WriteTx};
use super::decode::whitelist_text;
use super::token::{self, whitelist_json};
use super::{Db, Handle, account};
use crate::model::{
    AccountRefusal, AuditAction, Context, Invalidation, WhitelistChanged, WhitelistRefused,
    WhitelistTarget,
};
use crate::policy::network::{Change, Limits, Whitelist, apply};
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;
use crate::policy::token::{Expiry, TokenState};
use crate::store::Result;

const UPDATE: &str = "UPDATE token SET whitelist = $2, whitelist_version = $3 WHERE token_id = $1";

pub(super) async fn change(
    store: &Handle,
    ctx: &Context,
    catalog: &Catalog,
    target: WhitelistTarget,
    wanted: &Change,
    limits: &Limits,
    dry_run: bool,
) -> Result<Option<Result<WhitelistChanged, WhitelistRefused>>> {
    let mut change = WriteTx::begin(store, ctx).await?;
    change.must_be_in_force(catalog)?;
    let Some(row) = token::row(&mut change.tx, target.token_id, target.only).await? else {
        change.undo().await;
        return Ok(None);
    };
    let before = row.whitelist()?;
    let narrows = matches!(wanted, Change::Edit { add, .. } if add.is_empty());
    let refused = match account::admit(&mut change.tx, ctx, row.account_id()).await? {
        // Its tokens count as deleted.
        Err(AccountRefusal::Closed | AccountRefusal::NotFound) => Some(WhitelistRefused::Deleted),
        Err(AccountRefusal::Suspended) if !narrows => {
            Some(WhitelistRefused::AccountSuspended(row.account_id()))
        }
        Err(AccountRefusal::Suspended) | Ok(()) => None,
    };
    if let Some(refused) = refused {
        change.undo().await;
        return Ok(Some(Err(refused)));
    }
    let judged = Judged { row: &row, whitelist: &before, now: ctx.now };
    let outcome = judged.judge(catalog, target.expected_version, wanted, limits)?;
    let changed = match outcome {
        Ok(changed) if changed.changed && !dry_run => changed,
        // The version that the check was made on: one that may never come would, sent back as
        // `expected_version`, pass for the next change of somebody else.
        Ok(checked) if checked.changed => {
            change.undo().await;
            let version = row.whitelist_version;
            return Ok(Some(Ok(WhitelistChanged { version, ..checked })));
        }
        refused_or_dry if refused_or_dry.is_err() || dry_run => {
            change.undo().await;
            return Ok(Some(refused_or_dry));
        }
        unchanged => {
            change.finish().await?;
            return Ok(Some(unchanged));
        }
    };
    sqlx::query::<Db>(UPDATE)
        .bind(target.token_id.0)
        .bind(whitelist_text(&changed.whitelist))
        .bind(changed.version)
        .execute(&mut *change.tx)
        .await?;
    let json = |whitelist, version| {
        Some(json!({ "whitelist": whitelist_json(whitelist), "version": version }))
    };
    change
        .commit(Record {
            action: AuditAction::WhitelistChange,
            touched: Invalidation::Token(target.token_id),
            account_id: Some(row.account_id()),
            token_id: Some(target.token_id),
            before: json(&before, row.whitelist_version),
            after: json(&changed.whitelist, changed.version),
        })
        .await?;
    Ok(Some(Ok(changed)))
}

/// A token whose whitelist is to be changed.
struct Judged<'a> {
    row: &'a token::Row,
    whitelist: &'a Whitelist,
    now: Timestamp,
}

impl Judged<'_> {
    /// What `wanted` comes to, or why it is refused.
    fn judge(
        &self,
        catalog: &Catalog,
        expected_version: Option<i64>,
        wanted: &Change,
        limits: &Limits,
    ) -> Result<Result<WhitelistChanged, WhitelistRefused>> {
        // Rule 3.14 of docs/policy.md.
        if self.row.state()? != TokenState::Active {
            return Ok(Err(WhitelistRefused::Deleted));
        }
        let expiry = Expiry::from(self.row.expires());
        if let Some(at) = expiry.time().filter(|_| expiry.is_reached(self.now)) {
            return Ok(Err(WhitelistRefused::Expired(at)));
        }
        let current = self.row.whitelist_version;
        // Rule 3.13 of docs/policy.md.
        if expected_version.is_some_and(|expected| expected != current) {
            return Ok(Err(WhitelistRefused::Stale { current }));
        }
        let required = self.row.grant()?.requires_whitelist(catalog);
        Ok(match apply(self.whitelist, wanted, required, limits) {
            Ok(changed) => Ok(WhitelistChanged {
                version: current + i64::from(changed.changed),
                whitelist: changed.whitelist,
                still_covered_by: changed.still_covered_by,
                changed: changed.changed,
            }),
            Err(error) => Err(error.into()),
        })
    }
}
