//! What an action was based on when it was carried out, for the audit record: so that its evidence outlives the token,
//! its mails and the settings (docs/audit.md).

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::super::Connection;
use super::super::mail::{self, NoticeRow};
use super::LockedToken;
use crate::model::PendingAction;
use crate::policy::duration;
use crate::policy::id::MailId;
use crate::policy::lifecycle::Settings;
use crate::policy::scope::Catalog;
use crate::policy::time::Timestamp;
use crate::store::Result;

/// The most uses that are listed, and the most notices. An account has at most 50 admins, whose notices come first.
const LISTED: usize = 100;

/// What the carrying out of `action` is based on, as a JSON object; read before anything is changed by it.
pub(super) async fn basis(
    connection: &mut Connection,
    locked: &LockedToken,
    action: &PendingAction,
    admins: &[String],
    settings: &Settings,
    catalog: &Catalog,
) -> Result<Value> {
    let mut notices = mail::notices(connection, action.id).await?;
    // Stable: within both groups in the order in which they were queued.
    notices.sort_by_key(|notice| !admins.contains(&notice.recipient));
    let uses = &locked.usage_state.uses;
    let scopes = action.taken.iter().filter_map(|&id| Some((uses.of(id)?, catalog.by_id(id)?)));
    let mut scopes: Vec<_> = scopes.collect();
    scopes.sort_by_key(|&(at, _)| Reverse(at));
    let scopes = scopes.iter().take(LISTED).map(
        |(at, scope)| json!({ "scope": scope.name.to_string(), "last_use_time": at.to_rfc_3339() }),
    );
    let time = |at: Option<Timestamp>| at.map(Timestamp::to_rfc_3339);
    Ok(json!({
        "announce_time": action.created.to_rfc_3339(),
        "basis_time": action.basis.to_rfc_3339(),
        "last_use_time": time(uses.last),
        "last_write_time": time(uses.last_write),
        "scope_uses": scopes.collect::<Vec<_>>(),
        "accepted_time": time(action.accepted),
        "notices": notices.iter().take(LISTED).map(notice).collect::<Vec<_>>(),
        "admins": admins,
        "settings": {
            "window": duration::print(settings.window()),
            "notice": duration::print(settings.notice()),
        },
    }))
}

fn notice(row: &NoticeRow) -> Value {
    json!({
        "mail_id": MailId(row.mail_id).to_string(),
        "recipient": row.recipient,
        "state": row.state,
        "create_time": Timestamp(row.create_time).to_rfc_3339(),
        "accept_time": row.accept_time.map(|at| Timestamp(at).to_rfc_3339()),
        "answer": row.answer,
    })
}
