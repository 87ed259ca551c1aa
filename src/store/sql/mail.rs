//! The mails to admins: queueing them with the change that they report, and what became of them.
//!
//! What must stay true: a mail is queued in the transaction of what it reports, so there is neither
//! without the other; its id is made once; what was accepted stays accepted. A transaction that has the head row
//! may wait for a mail's row, never the other way round.
//!
//! The state `failing` covers whatever the relay did not take after `MAIL`, for now (4xx) or for good (5xx), and addresses
//! that it has no way to take (rule 4.12 of docs/policy.md). The comment in `migrations/postgres/0002_lifecycle.sql` names
//! only refused addresses: a released file stays as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::change::{Record, WriteTx};
use super::decode::notice_state;
use super::{Connection, Db, Handle, QueryBuilder, bulk, lifecycle, pending, push_ids};
use crate::clock::id_at;
use crate::model::{
    AuditAction, Context, Credential, FailingAddress, Invalidation, LeakLocation, Mail,
    MailFailure, MailState, Notice,
};
use crate::policy::id::{AccountId, MailId, PendingActionId, TokenId};
use crate::policy::time::Timestamp;
use crate::store::Result;
use crate::store::error::CorruptRow;

mod read;

/// What a mail is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum MailSubject<'a> {
    /// An action that was announced, by the change of this position; 0 for one that everybody knows.
    Notice(PendingActionId, TokenId, i64),
    /// An action that was carried out.
    CarriedOut(PendingActionId, TokenId),
    /// A token that expires at this instant.
    ExpiryNotice(TokenId, Timestamp),
    /// A token that expired at this instant.
    Expired(TokenId, Timestamp),
    /// Other admins: who they were, and who they are.
    AdminsChanged(&'a [String], &'a [String]),
    /// A secret that was reported as leaked, of what was revoked for that.
    Leaked(&'a MailedOwner<'a>, &'a LeakLocation),
}

impl MailSubject<'_> {
    fn kind(self) -> &'static str {
        match self {
            Self::Notice(..) => "notice",
            Self::CarriedOut(..) => "carried_out",
            Self::ExpiryNotice(..) => "expiry_notice",
            Self::Expired(..) => "expired",
            Self::AdminsChanged(..) => "admins_changed",
            Self::Leaked(..) => "leaked",
        }
    }
}

/// What a leaked secret opened.
#[derive(Debug, Clone, Copy)]
pub(super) enum MailedOwner<'a> {
    Token(TokenId),
    Credential(&'a Credential),
}

const INSERT: &str = "\
    INSERT INTO mail (mail_id, kind, account_id, token_id, pending_action_id, recipient, \
        payload_json, create_time, state, attempts, next_time, position, expire_time) ";

/// An admin who comes back gets the notice that was taken back, with its old id.
const REVIVE: &str = " DO UPDATE SET state = 'queued', attempts = 0, next_time = excluded.next_time \
    WHERE mail.state = 'withdrawn'";

/// Queues one mail for each recipient; nothing where they have it already.
pub(super) async fn queue(
    connection: &mut Connection,
    now: Timestamp,
    account: AccountId,
    about: MailSubject<'_>,
    recipients: &[String],
) -> Result<()> {
    let (mut position, mut action, mut token, mut payload, mut expiry) =
        (0, None, None, None, None);
    match about {
        MailSubject::Notice(id, of, announced) => {
            (action, token, position) = (Some(id.0), Some(of.0), announced);
        }
        MailSubject::CarriedOut(id, of) => (action, token) = (Some(id.0), Some(of.0)),
        MailSubject::ExpiryNotice(of, at) | MailSubject::Expired(of, at) => {
            (token, expiry) = (Some(of.0), Some(at.0));
        }
        MailSubject::AdminsChanged(before, after) => {
            payload = Some(json!({ "before": before, "after": after }).to_string());
        }
        MailSubject::Leaked(owner, LeakLocation { source, url }) => {
            let mut about = json!({ "source": source, "url": url });
            match owner {
                MailedOwner::Token(of) => token = Some(of.0),
                MailedOwner::Credential(credential) => {
                    about["credential_id"] = json!(credential.id.to_string());
                    about["credential_name"] = json!(credential.name);
                }
            }
            payload = Some(about.to_string());
        }
    }
    for recipients in recipients.chunks(super::IDS_AT_ONCE) {
        let mut query = QueryBuilder::new(INSERT);
        query.push_values(recipients, |mut row, recipient| {
            row.push_bind(id_at(now))
                .push_bind(about.kind())
                .push_bind(account.0)
                .push_bind(token)
                .push_bind(action)
                .push_bind(recipient.clone())
                .push_bind(payload.clone())
                .push_bind(now.0)
                .push_bind("queued")
                .push_bind(0)
                .push_bind(now.0)
                .push_bind(position)
                .push_bind(expiry);
        });
        query.push(" ON CONFLICT ").push(match expiry {
            Some(_) => "(token_id, expire_time, kind, recipient) WHERE expire_time IS NOT NULL",
            None => "(pending_action_id, kind, recipient)",
        });
        query.push(REVIVE).build().persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Withdraws the waiting mails for which the condition is true.
macro_rules! withdraw {
    ($condition:literal) => {
        concat!(
            "UPDATE mail SET state = 'withdrawn', fail_time = NULL, failure = NULL \
             WHERE state IN ('queued', 'failing') AND ",
            $condition
        )
    };
}

const WITHDRAW: &str = withdraw!("pending_action_id = $1 AND kind = 'notice'");

/// Takes back the notices of an action that were not accepted.
pub(super) async fn withdraw_notices(
    connection: &mut Connection,
    action: PendingActionId,
) -> Result<()> {
    sqlx::query::<Db>(WITHDRAW).bind(action.0).execute(connection).await?;
    Ok(())
}

const WITHDRAW_ONE: &str =
    withdraw!("pending_action_id = $1 AND recipient = $2 AND kind = 'notice'");

/// The same of one recipient. Whether there was one.
pub(super) async fn withdraw_notice(
    connection: &mut Connection,
    action: PendingActionId,
    recipient: &str,
) -> Result<bool> {
    let withdraw = sqlx::query::<Db>(WITHDRAW_ONE).bind(action.0).bind(recipient.to_owned());
    Ok(withdraw.execute(connection).await?.rows_affected() > 0)
}

const WITHDRAW_EXPIRY_NOTICES: &str = withdraw!("token_id = $1 AND kind = 'expiry_notice'");

/// Takes back the notices of a token's expiry that were not accepted.
pub(super) async fn withdraw_expiry_notices(
    connection: &mut Connection,
    token: TokenId,
) -> Result<()> {
    sqlx::query::<Db>(WITHDRAW_EXPIRY_NOTICES).bind(token.0).execute(connection).await?;
    Ok(())
}

const WITHDRAW_EXPIRY_NOTICES_OF_OTHERS: &str = withdraw!(
    "account_id = $1 AND kind = 'expiry_notice' \
     AND recipient NOT IN (SELECT email FROM account_admin WHERE account_id = $1)"
);

/// The same of an account, to those who are not its admins.
pub(super) async fn withdraw_expiry_notices_of_others(
    connection: &mut Connection,
    account: AccountId,
) -> Result<()> {
    let withdraw = sqlx::query::<Db>(WITHDRAW_EXPIRY_NOTICES_OF_OTHERS).bind(account.0);
    withdraw.execute(connection).await?;
    Ok(())
}

/// Of those who are admins.
const SELECT_EXPIRY_NOTICES: &str = "\
    SELECT recipient, state, accept_time, failure FROM mail \
    WHERE token_id = $1 AND expire_time = $2 AND kind = 'expiry_notice' AND state <> 'withdrawn' \
        AND recipient IN (SELECT email FROM account_admin WHERE account_id = mail.account_id)";

/// The notices of a token's expiry, sorted by address.
pub(super) async fn expiry_notices(
    connection: &mut Connection,
    token: TokenId,
    expires: Timestamp,
) -> Result<Vec<Notice>> {
    let query = sqlx::query_as::<Db, _>(SELECT_EXPIRY_NOTICES).bind(token.0).bind(expires.0);
    let rows: Vec<(String, String, Option<i64>, Option<String>)> =
        query.fetch_all(connection).await?;
    let notice = |(email, state, accepted, failure): (String, String, _, _)| {
        Ok(Notice { email, state: notice_state(Some(&state), accepted, failure)? })
    };
    let mut notices: Vec<_> = rows.into_iter().map(notice).collect::<Result<_>>()?;
    // Texts are ordered here, never by a database.
    notices.sort_by(|one, other| one.email.cmp(&other.email));
    Ok(notices)
}

const SELECT_DUE: &str = concat!(
    "SELECT mail_id FROM mail WHERE state IN ('queued', 'failing') AND ",
    not_of_closed_account!("mail"),
    " AND state = "
);

/// A notice says what is to come: not one of an expiry that was changed, or that is reached and not yet recorded.
const IS_TRUE: &str = "\
    (kind <> 'expiry_notice' OR EXISTS (SELECT 1 FROM token t WHERE t.token_id = mail.token_id \
        AND t.delete_time IS NULL AND t.expire_time = mail.expire_time AND t.expire_time > ";

/// Takes mails that are to be sent now, none of a closed account (docs/policy.md, rule 11.76); no other sender gets
/// them for so long. Those that failed for a reason of their own come last, and so hold up no others.
pub(super) async fn claim(
    store: &Handle,
    now: Timestamp,
    claim: Duration,
    known: i64,
    limit: u32,
) -> Result<Vec<Mail>> {
    let mut tx = store.write().await?;
    let mut ids: Vec<Uuid> = Vec::new();
    for state in ["queued", "failing"] {
        let left = i64::from(limit) - ids.len() as i64;
        if left == 0 {
            break;
        }
        let mut query = QueryBuilder::new(SELECT_DUE);
        query
            .push_bind(state)
            .push(" AND next_time <= ")
            .push_bind(now.0)
            .push(" AND position <= ")
            .push_bind(known)
            .push(" AND ")
            .push(IS_TRUE)
            .push_bind(now.0)
            .push("))")
            .push(" ORDER BY next_time, mail_id LIMIT ")
            .push_bind(left)
            .push(bulk::SKIP_LOCKED);
        ids.extend(query.build_query_scalar::<Uuid>().fetch_all(&mut *tx).await?);
    }
    for ids in ids.chunks(super::IDS_AT_ONCE) {
        let mut query = QueryBuilder::new("UPDATE mail SET next_time = ");
        query.push_bind(now.plus(claim).0).push(" WHERE mail_id IN (");
        push_ids(&mut query, ids.iter().copied());
        query.push(")");
        query.build().persistent(false).execute(&mut *tx).await?;
    }
    let mails = read::mails(&mut tx, &ids).await?;
    tx.commit().await?;
    Ok(mails)
}

const PROLONG: &str = concat!(
    "UPDATE mail SET next_time = $3 \
     WHERE mail_id = $1 AND next_time = $2 AND state IN ('queued', 'failing') AND ",
    not_of_closed_account!("mail")
);

/// Prolongs a claim that nobody else has taken over: when it ends.
pub(super) async fn prolong(
    store: &Handle,
    mail: &Mail,
    until: Timestamp,
) -> Result<Option<Timestamp>> {
    let until = until.max(mail.claimed);
    let mut tx = store.write().await?;
    let prolong = sqlx::query::<Db>(PROLONG)
        .bind(mail.id.0)
        .bind(mail.claimed.0)
        .bind(until.0)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok((prolong.rows_affected() > 0).then_some(until))
}

const ACCEPT: &str = "\
    UPDATE mail SET state = 'accepted', accept_time = $2, answer = $3, fail_time = NULL, failure = NULL \
    WHERE mail_id = $1 AND state <> 'accepted'";

/// In characters, as the table's constraint allows.
const LONGEST_ANSWER: usize = 400;

const SELECT_ACTION: &str =
    "SELECT pending_action_id FROM mail WHERE mail_id = $1 AND kind = 'notice'";

/// Notes that the mail server took a mail over; of one that was taken back meanwhile, too. The token
/// whose facts changed, where it was the last notice that an action waited for.
pub(super) async fn accepted(
    store: &Handle,
    ctx: &Context,
    id: MailId,
    answer: &str,
) -> Result<Option<TokenId>> {
    let answer: String = answer.chars().take(LONGEST_ANSWER).collect();
    let accept = || sqlx::query::<Db>(ACCEPT).bind(id.0).bind(ctx.now.0).bind(answer.clone());
    let action: Option<Uuid> =
        sqlx::query_scalar(SELECT_ACTION).bind(id.0).fetch_optional(&store.read()).await?;
    let Some(action) = action else {
        let mut tx = store.write().await?;
        accept().execute(&mut *tx).await?;
        tx.commit().await?;
        return Ok(None);
    };
    let mut change = WriteTx::begin(store, ctx).await?;
    accept().execute(&mut *change.tx).await?;
    let Some(action) = pending::live(&mut change.tx, PendingActionId(action)).await? else {
        change.finish().await?;
        return Ok(None);
    };
    let accepted = lifecycle::accepted(&mut change.tx, &action).await?;
    if accepted == action.accepted {
        change.finish().await?;
        return Ok(None);
    }
    pending::set_accepted(&mut change.tx, action.id, accepted).await?;
    let noticed = AuditAction::LifecycleNoticed;
    lifecycle::heir::touch(&mut change, action.token_id, action.account_id, noticed).await?;
    change
        .commit(Record {
            action: AuditAction::LifecycleNoticed,
            touched: Invalidation::Token(action.token_id),
            account_id: Some(action.account_id),
            token_id: Some(action.token_id),
            before: None,
            after: Some(json!({ "pending_action_id": action.id.to_string() })),
        })
        .await?;
    Ok(Some(action.token_id))
}

/// The newest ones, where they are too many: those of the admins at that time are among them.
const SELECT_NOTICES: &str = "\
    SELECT mail_id, recipient, state, create_time, accept_time, answer FROM ( \
        SELECT mail_id, recipient, state, create_time, accept_time, answer FROM mail \
        WHERE pending_action_id = $1 AND kind = 'notice' ORDER BY mail_id DESC LIMIT 1000 \
    ) newest ORDER BY mail_id";

/// A notice of an action, for evidence.
#[derive(sqlx::FromRow)]
pub(super) struct NoticeRow {
    pub(super) mail_id: Uuid,
    pub(super) recipient: String,
    pub(super) state: String,
    pub(super) create_time: i64,
    pub(super) accept_time: Option<i64>,
    pub(super) answer: Option<String>,
}

/// The notices of an action, also those to former admins.
pub(super) async fn notices(
    connection: &mut Connection,
    id: PendingActionId,
) -> Result<Vec<NoticeRow>> {
    Ok(sqlx::query_as(SELECT_NOTICES).bind(id.0).fetch_all(connection).await?)
}

const DEFER: &str = "\
    UPDATE mail SET attempts = attempts + 1, next_time = $3 \
    WHERE mail_id = $1 AND next_time = $2 AND state IN ('queued', 'failing')";

const FAIL: &str = "\
    UPDATE mail SET attempts = attempts + 1, next_time = $3, state = 'failing', failure = $4, \
        fail_time = coalesce(fail_time, $5) \
    WHERE mail_id = $1 AND next_time = $2 AND state IN ('queued', 'failing')";

const GIVE_UP: &str = "\
    UPDATE mail SET state = 'withdrawn', fail_time = NULL, failure = NULL \
    WHERE mail_id = $1 AND state = 'failing' AND fail_time <= $2 \
        AND recipient NOT IN (SELECT email FROM account_admin WHERE account_id = mail.account_id)";

/// For how long a mail to somebody who is no admin any more is tried where it may yet be taken: nothing
/// waits for it.
const FORMER_ADMIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Notes a failed attempt, unless another has claimed the mail since. A relay that takes no mail says
/// nothing about one that failed before, so that stays failing.
pub(super) async fn deferred(
    store: &Handle,
    now: Timestamp,
    mail: &Mail,
    next: Timestamp,
    failure: Option<MailFailure<'_>>,
) -> Result<()> {
    let query = sqlx::query::<Db>(if failure.is_some() { FAIL } else { DEFER });
    let mut query = query.bind(mail.id.0).bind(mail.claimed.0).bind(next.0);
    if let Some(failure) = failure {
        query = query.bind(failure.text.to_owned()).bind(now.0);
    }
    let mut tx = store.write().await?;
    let noted = query.execute(&mut *tx).await?.rows_affected() > 0;
    if let Some(failure) = failure.filter(|_| noted) {
        let since = if failure.address_refused { now } else { now.minus(FORMER_ADMIN) };
        sqlx::query::<Db>(GIVE_UP).bind(mail.id.0).bind(since.0).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

/// Of those who are admins: an action waits for nobody else.
const SELECT_FAILING: &str = "\
    SELECT recipient, failure, fail_time FROM mail WHERE state = 'failing' \
        AND recipient IN (SELECT email FROM account_admin WHERE account_id = mail.account_id) \
    ORDER BY fail_time";

const COUNT_WAITING: &str = "SELECT count(*), min(create_time) FROM mail WHERE state = 'queued'";

/// How the mails stand.
pub(super) async fn state(store: &Handle) -> Result<MailState> {
    let failing: Vec<(String, Option<String>, Option<i64>)> =
        sqlx::query_as(SELECT_FAILING).fetch_all(&store.read()).await?;
    let (waiting, oldest): (i64, Option<i64>) =
        sqlx::query_as(COUNT_WAITING).fetch_one(&store.read()).await?;
    // Of several mails to one address: failing since the first, for the reason of the last.
    let mut by_address: BTreeMap<String, FailingAddress> = BTreeMap::new();
    for (address, failure, since) in failing {
        let (Some(failure), Some(since)) = (failure, since) else {
            return Err(CorruptRow("a failing mail does not say why").into());
        };
        by_address
            .entry(address.clone())
            .and_modify(|known| known.failure.clone_from(&failure))
            .or_insert(FailingAddress { address, failure, since: Timestamp(since) });
    }
    Ok(MailState {
        failing: by_address.into_values().collect(),
        waiting: u64::try_from(waiting).unwrap_or(0),
        oldest: oldest.map(Timestamp),
    })
}
