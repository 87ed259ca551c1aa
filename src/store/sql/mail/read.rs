//! Reads mails with everything that their templates need: a fixed number of statements for however
//! many.

use std::collections::{BTreeSet, HashMap};

use sqlx::FromRow;
use uuid::Uuid;

use super::super::catalog;
use super::super::decode::{scope_ids, scope_times, takes};
use super::super::pending::taken_and_kept;
use super::super::token::grant;
use super::super::{Connection, IDS_AT_ONCE, QueryBuilder, push_ids};
use crate::model::{
    LeakLocation, Mail, MailAccount, MailAction, MailContent, MailSecretOwner, MailToken,
};
use crate::policy::id::{AccountId, MailId, PendingActionId, TokenId};
use crate::policy::scope::{ScopeId, ScopeName};
use crate::policy::time::Timestamp;
use crate::store::Result;
use crate::store::error::CorruptRow;

#[derive(FromRow)]
struct MailRow {
    mail_id: Uuid,
    kind: String,
    account_id: Uuid,
    token_id: Option<Uuid>,
    pending_action_id: Option<Uuid>,
    recipient: String,
    payload_json: Option<String>,
    create_time: i64,
    attempts: i32,
    state: String,
    next_time: i64,
    expire_time: Option<i64>,
}

#[derive(FromRow)]
struct AdminRow {
    account_id: Uuid,
    name: String,
    email: String,
}

#[derive(FromRow)]
struct TokenRow {
    token_id: Uuid,
    name: String,
    kind: String,
    downgrade_time: Option<i64>,
    create_time: i64,
    replaced_by_token_id: Option<Uuid>,
    last_use: Option<i64>,
    scope_uses: Option<String>,
    scopes: Option<String>,
}

#[derive(FromRow)]
struct ActionRow {
    pending_action_id: Uuid,
    takes: String,
    last_use_of_taken: Option<i64>,
    basis_time: i64,
    accepted_time: Option<i64>,
    create_time: i64,
    end_time: Option<i64>,
    scopes: Option<String>,
}

const SELECT: &str = "\
    SELECT mail_id, kind, account_id, token_id, pending_action_id, recipient, payload_json, \
        create_time, attempts, state, next_time, expire_time \
    FROM mail WHERE mail_id IN (";

const SELECT_ADMINS: &str = "\
    SELECT a.account_id, a.name, m.email \
    FROM account a JOIN account_admin m ON m.account_id = a.account_id WHERE a.account_id IN (";

const SELECT_TOKENS: &str = "\
    SELECT t.token_id, t.name, t.kind, t.downgrade_time, t.create_time, t.replaced_by_token_id, u.last_use, \
        (SELECT string_agg(CAST(x.scope_id AS TEXT) || ':' || CAST(x.last_use AS TEXT), ',') \
         FROM scope_use x WHERE x.token_id = t.token_id) AS scope_uses, \
        (SELECT string_agg(CAST(s.scope_id AS TEXT), ',') FROM token_scope s \
         WHERE s.token_id = t.token_id AND s.taken_time IS NULL) AS scopes \
    FROM token t JOIN token_use u ON u.token_id = t.token_id WHERE t.token_id IN (";

const SELECT_ACTIONS: &str = "\
    SELECT p.pending_action_id, p.takes, p.last_use_of_taken, p.basis_time, p.accepted_time, \
        p.create_time, p.end_time, \
        (SELECT string_agg(CAST(s.scope_id AS TEXT) || ':' || CAST(s.keeps AS TEXT), ',') \
         FROM pending_action_scope s WHERE s.pending_action_id = p.pending_action_id) AS scopes \
    FROM pending_action p WHERE p.pending_action_id IN (";

type Names = HashMap<ScopeId, ScopeName>;

/// These mails, in the order of their ids here.
pub(super) async fn mails(connection: &mut Connection, ids: &[Uuid]) -> Result<Vec<Mail>> {
    let mut mails = Vec::with_capacity(ids.len());
    if ids.is_empty() {
        return Ok(mails);
    }
    let scopes = catalog::scopes(connection).await?;
    let names: Names = scopes.into_iter().map(|(name, id)| (id, name)).collect();
    for ids in ids.chunks(IDS_AT_ONCE) {
        let rows: Vec<MailRow> = all(connection, SELECT, ids.iter().copied(), ")").await?;
        let of =
            |id: fn(&MailRow) -> Option<Uuid>| rows.iter().filter_map(id).collect::<BTreeSet<_>>();
        let accounts = of(|row| Some(row.account_id));
        let admins = all(connection, SELECT_ADMINS, accounts, ") ORDER BY m.ordinal").await?;
        let tokens = all(connection, SELECT_TOKENS, of(|row| row.token_id), ")").await?;
        let actions = all(connection, SELECT_ACTIONS, of(|row| row.pending_action_id), ")").await?;

        let mut accounts: HashMap<Uuid, MailAccount> = HashMap::new();
        for AdminRow { account_id, name, email } in admins {
            let id = AccountId(account_id);
            let account = MailAccount { id, name, admins: Vec::new() };
            accounts.entry(account_id).or_insert(account).admins.push(email);
        }
        let tokens: HashMap<Uuid, MailToken> = tokens
            .into_iter()
            .map(|row: TokenRow| Ok((row.token_id, row.read(&names)?)))
            .collect::<Result<_>>()?;
        let actions: HashMap<Uuid, MailAction> = actions
            .into_iter()
            .map(|row: ActionRow| Ok((row.pending_action_id, row.read(&names)?)))
            .collect::<Result<_>>()?;
        let mut rows: HashMap<Uuid, MailRow> =
            rows.into_iter().map(|row| (row.mail_id, row)).collect();
        for row in ids.iter().filter_map(|id| rows.remove(id)) {
            mails.push(row.read(&accounts, &tokens, &actions)?);
        }
    }
    Ok(mails)
}

async fn all<R>(
    connection: &mut Connection,
    select: &'static str,
    ids: impl IntoIterator<Item = Uuid>,
    rest: &'static str,
) -> Result<Vec<R>>
where
    R: for<'r> FromRow<'r, <super::Db as sqlx::Database>::Row> + Send + Unpin,
{
    let mut ids = ids.into_iter().peekable();
    if ids.peek().is_none() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::new(select);
    push_ids(&mut query, ids);
    query.push(rest);
    Ok(query.build_query_as().persistent(false).fetch_all(connection).await?)
}

/// By name: texts are ordered here, never by a database.
fn named(ids: &[ScopeId], names: &Names) -> Result<Vec<ScopeName>> {
    let named: Option<Vec<_>> = ids.iter().map(|id| names.get(id).cloned()).collect();
    let mut named = named.ok_or(CorruptRow("a stored scope has no name"))?;
    named.sort_unstable();
    Ok(named)
}

impl TokenRow {
    fn read(self, names: &Names) -> Result<MailToken> {
        let uses = scope_times(self.scope_uses.as_deref())?.into_iter();
        let uses: Option<Vec<_>> =
            uses.map(|(id, time)| Some((names.get(&id).cloned()?, time))).collect();
        let mut uses = uses.ok_or(CorruptRow("a stored scope has no name"))?;
        uses.sort_unstable();
        Ok(MailToken {
            id: TokenId(self.token_id),
            name: self.name,
            // Which of its scopes it has is the action's to say.
            kind: grant(&self.kind, self.downgrade_time, None)?.kind(),
            created: Timestamp(self.create_time),
            last_use: self.last_use.map(Timestamp),
            uses,
            replaced_by: self.replaced_by_token_id.map(TokenId),
            scopes: named(&scope_ids(self.scopes.as_deref())?, names)?,
        })
    }
}

impl ActionRow {
    fn read(self, names: &Names) -> Result<MailAction> {
        let (taken, kept) = taken_and_kept(self.scopes.as_deref())?;
        Ok(MailAction {
            id: PendingActionId(self.pending_action_id),
            takes: takes(&self.takes, &taken)?,
            taken: named(&taken, names)?,
            kept: named(&kept, names)?,
            basis: Timestamp(self.basis_time),
            accepted: self.accepted_time.map(Timestamp),
            last_use_of_taken: self.last_use_of_taken.map(Timestamp),
            created: Timestamp(self.create_time),
            ended: self.end_time.map(Timestamp),
        })
    }
}

impl MailRow {
    fn read(
        self,
        accounts: &HashMap<Uuid, MailAccount>,
        tokens: &HashMap<Uuid, MailToken>,
        actions: &HashMap<Uuid, MailAction>,
    ) -> Result<Mail> {
        let unreadable = || CorruptRow("a mail can't be read");
        let token = self.token_id.and_then(|id| tokens.get(&id).cloned());
        let action = self.pending_action_id.and_then(|id| actions.get(&id).cloned());
        let expiry = self.expire_time.map(Timestamp);
        let content = match (self.kind.as_str(), token, action, expiry, self.payload_json) {
            ("notice", Some(token), Some(action), None, None) => MailContent::Notice(token, action),
            ("carried_out", Some(token), Some(action), None, None) => {
                MailContent::CarriedOut(token, action)
            }
            ("expiry_notice", Some(token), None, Some(at), None) => {
                MailContent::ExpiryNotice(token, at)
            }
            ("expired", Some(token), None, Some(at), None) => MailContent::Expired(token, at),
            ("admins_changed", None, None, None, Some(json)) => {
                let mut lists: HashMap<String, Vec<String>> =
                    serde_json::from_str(&json).map_err(|_| unreadable())?;
                let mut list = |name| lists.remove(name).ok_or_else(unreadable);
                MailContent::AdminsChanged { before: list("before")?, after: list("after")? }
            }
            ("leaked", token, None, None, Some(json)) => {
                let mut texts: HashMap<String, String> =
                    serde_json::from_str(&json).map_err(|_| unreadable())?;
                let mut text = |name| texts.remove(name).ok_or_else(unreadable);
                let location = LeakLocation { source: text("source")?, url: text("url")? };
                let owner = match token {
                    Some(token) => MailSecretOwner::Token(token),
                    None => MailSecretOwner::Credential {
                        id: text("credential_id")?.parse().map_err(|_| unreadable())?,
                        name: text("credential_name")?,
                    },
                };
                MailContent::Leaked(owner, location)
            }
            _ => return Err(unreadable().into()),
        };
        Ok(Mail {
            id: MailId(self.mail_id),
            recipient: self.recipient,
            created: Timestamp(self.create_time),
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            failing: self.state == "failing",
            claimed: Timestamp(self.next_time),
            account: accounts.get(&self.account_id).cloned().ok_or_else(unreadable)?,
            content,
        })
    }
}
