//! Denied requests of known tokens, by hour.
//!
//! # Invariants
//! - How many rows a token and an account get in an hour is bounded. What goes beyond is counted in a row of the token,
//!   or of the account: nothing is lost, however much is denied.
//! - The rows of the tokens are locked first, in one order, as in `activity`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::FromRow;
use uuid::Uuid;

use super::activity::{RecordLevel, commit, kept_tokens, purge_rows, read_address};
use super::decode::scope_id;
use super::{Handle, IDS_AT_ONCE, QueryBuilder, Transaction, bulk, push_ids};
use crate::clock::id_at;
use crate::model::{
    Denial, DenialCount, DenialFilter, DenialRest, MAX_ACCOUNT_DENIALS, MAX_TOKEN_DENIALS, Page,
};
use crate::policy::decide::Reason;
use crate::policy::id::{AccountId, DenialId, TokenId};
use crate::policy::scope::ScopeId;
use crate::policy::time::Timestamp;
use crate::store::Result;
use crate::store::error::CorruptRow;

/// The reason of a row that counts what is beyond a token's share.
const OTHERS: &str = "OTHERS";

/// Which denials are one row: reason, address and scope as they are written.
type Key = (TokenId, i64, &'static str, String, i32);

fn key(denial: &DenialCount) -> Key {
    let reason = denial.reason.map_or(OTHERS, Reason::word);
    let address = denial.address.map(|address| address.to_string()).unwrap_or_default();
    (denial.token_id, denial.hour, reason, address, scope_number(denial.scope_id))
}

fn scope_number(scope: Option<ScopeId>) -> i32 {
    scope.map_or(-1, |scope| i32::from(scope.0))
}

/// How often, and when.
#[derive(Debug, Clone, Copy)]
struct Tally {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// A row to add to or to make.
struct NewRow<'d> {
    key: Key,
    account_id: AccountId,
    operation: &'d str,
    tally: Tally,
}

/// What goes beyond the shares of accounts, by hour.
type Rests = BTreeMap<(AccountId, i64), Tally>;

fn add(to: &mut Rests, key: (AccountId, i64), tally: Tally) {
    to.entry(key).or_insert(Tally { count: 0, ..tally }).add(tally);
}

pub(super) async fn record(
    store: &Handle,
    denials: &[DenialCount],
    rests: &[DenialRest],
) -> Result<()> {
    let mut ids: Vec<TokenId> = denials.iter().map(|denial| denial.token_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut tx = store.write().await?;
    bulk::lock(&mut tx, &ids).await?;
    let kept = kept_tokens(&mut tx, &ids).await?;
    let known = KnownRows::read(&mut tx, &ids, denials).await?;
    let (rows, more) = known.apportion(
        denials.iter().filter(|denial| kept.get(&denial.token_id) >= Some(&RecordLevel::Denials)),
    );
    for rows in rows.chunks(IDS_AT_ONCE) {
        add_rows(&mut tx, rows).await?;
    }
    let mut all = more;
    for rest in rests {
        let DenialRest { account_id, hour, count, first, last } = *rest;
        add(&mut all, (account_id, hour), Tally { count, first, last });
    }
    let accounts = kept_accounts(&mut tx, &all).await?;
    all.retain(|(account_id, _), _| accounts.contains(account_id));
    let all: Vec<_> = all.into_iter().collect();
    for rests in all.chunks(IDS_AT_ONCE) {
        add_rests(&mut tx, rests).await?;
    }
    commit(tx).await
}

/// What there is of these tokens and their accounts, in the hours of what is to be recorded.
struct KnownRows {
    keys: BTreeSet<Key>,
    accounts: HashMap<(AccountId, i64), usize>,
}

#[derive(FromRow)]
struct KeyRow {
    token_id: Uuid,
    hour: i64,
    reason: String,
    address: String,
    scope_id: i32,
}

impl KnownRows {
    async fn read(tx: &mut Transaction, ids: &[TokenId], denials: &[DenialCount]) -> Result<Self> {
        let mut known = Self { keys: BTreeSet::new(), accounts: HashMap::new() };
        let hours = denials.iter().map(|denial| denial.hour);
        let (Some(first), Some(last)) = (hours.clone().min(), hours.max()) else {
            return Ok(known);
        };
        for ids in ids.chunks(IDS_AT_ONCE) {
            let mut query = QueryBuilder::new(
                "SELECT token_id, hour, reason, address, scope_id FROM denial WHERE hour >= ",
            );
            query.push_bind(first).push(" AND hour <= ").push_bind(last);
            query.push(" AND token_id IN (");
            push_ids(&mut query, ids.iter().map(|id| id.0));
            query.push(")");
            let rows: Vec<KeyRow> =
                query.build_query_as().persistent(false).fetch_all(&mut **tx).await?;
            for row in rows {
                // One of a later version counts as well.
                let reason = reason(&row.reason)?.map_or(OTHERS, Reason::word);
                let id = TokenId(row.token_id);
                known.keys.insert((id, row.hour, reason, row.address, row.scope_id));
            }
        }
        let accounts: BTreeSet<_> = denials.iter().map(|denial| denial.account_id).collect();
        let accounts: Vec<_> = accounts.into_iter().collect();
        for accounts in accounts.chunks(IDS_AT_ONCE) {
            let mut query =
                QueryBuilder::new("SELECT account_id, hour, count(*) FROM denial WHERE hour >= ");
            query.push_bind(first).push(" AND hour <= ").push_bind(last);
            query.push(" AND account_id IN (");
            push_ids(&mut query, accounts.iter().map(|id| id.0));
            query.push(") GROUP BY account_id, hour");
            let rows: Vec<(Uuid, i64, i64)> =
                query.build_query_as().persistent(false).fetch_all(&mut **tx).await?;
            known.accounts.extend(rows.into_iter().map(|(id, hour, count)| {
                ((AccountId(id), hour), usize::try_from(count).unwrap_or(usize::MAX))
            }));
        }
        Ok(known)
    }

    /// The rows to add to or to make, and what goes beyond the accounts' shares. Rule 12.11 of docs/policy.md.
    fn apportion<'d>(
        mut self,
        denials: impl Iterator<Item = &'d DenialCount>,
    ) -> (Vec<NewRow<'d>>, Rests) {
        let mut rows: BTreeMap<Key, (AccountId, &str, Tally)> = BTreeMap::new();
        let mut rests = Rests::new();
        for denial in denials {
            let DenialCount { token_id, account_id, hour, count, first, last, .. } = *denial;
            let tally = Tally { count, first, last };
            let mut key = key(denial);
            if !self.keys.contains(&key) {
                let share = (token_id, hour, "", String::new(), i32::MIN);
                let of_token = self.keys.range(share..);
                let of_token = of_token
                    .take_while(|(id, at, ..)| (*id, *at) == (token_id, hour))
                    .filter(|(_, _, reason, ..)| *reason != OTHERS)
                    .count();
                if of_token >= MAX_TOKEN_DENIALS {
                    key = (token_id, hour, OTHERS, String::new(), -1);
                }
            }
            if !self.keys.contains(&key) {
                let of_account = self.accounts.entry((account_id, hour)).or_default();
                if *of_account >= MAX_ACCOUNT_DENIALS {
                    add(&mut rests, (account_id, hour), tally);
                    continue;
                }
                *of_account += 1;
                self.keys.insert(key.clone());
            }
            let (_, _, known) = rows.entry(key).or_insert((
                account_id,
                &denial.operation,
                Tally { count: 0, ..tally },
            ));
            known.add(tally);
        }
        let row =
            |(key, (account_id, operation, tally))| NewRow { key, account_id, operation, tally };
        (rows.into_iter().map(row).collect(), rests)
    }
}

/// Those of the accounts that are not closed.
async fn kept_accounts(tx: &mut Transaction, rests: &Rests) -> Result<BTreeSet<AccountId>> {
    let ids: BTreeSet<_> = rests.keys().map(|&(id, _)| id).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let mut kept = BTreeSet::new();
    for ids in ids.chunks(IDS_AT_ONCE) {
        let mut query = QueryBuilder::new(
            "SELECT account_id FROM account WHERE close_time IS NULL AND account_id IN (",
        );
        push_ids(&mut query, ids.iter().map(|id| id.0));
        query.push(")");
        let found: Vec<Uuid> =
            query.build_query_scalar().persistent(false).fetch_all(&mut **tx).await?;
        kept.extend(found.into_iter().map(AccountId));
    }
    Ok(kept)
}

fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The ends of the assignments that merge a row with one of the same key.
macro_rules! merge {
    ($table:literal) => {
        concat!(
            "count = ",
            $table,
            ".count + excluded.count, \
             first_time = CASE WHEN excluded.first_time < ",
            $table,
            ".first_time \
                THEN excluded.first_time ELSE ",
            $table,
            ".first_time END, \
             last_time = CASE WHEN excluded.last_time > ",
            $table,
            ".last_time \
                THEN excluded.last_time ELSE ",
            $table,
            ".last_time END"
        )
    };
}

async fn add_rows(tx: &mut Transaction, rows: &[NewRow<'_>]) -> Result<()> {
    let mut query = QueryBuilder::new(
        "INSERT INTO denial (denial_id, token_id, account_id, hour, reason, address, scope_id, \
         operation, count, first_time, last_time) ",
    );
    query.push_values(rows, |mut row, new| {
        let NewRow { key, account_id, operation, tally } = new;
        let (token_id, hour, reason, address, scope) = key;
        row.push_bind(id_at(tally.first))
            .push_bind(token_id.0)
            .push_bind(account_id.0)
            .push_bind(*hour)
            .push_bind(*reason)
            .push_bind(address.clone())
            .push_bind(*scope)
            .push_bind((*operation).to_owned())
            .push_bind(stored(tally.count))
            .push_bind(tally.first.0)
            .push_bind(tally.last.0);
    });
    query.push(" ON CONFLICT (token_id, hour, reason, address, scope_id) DO UPDATE SET ");
    query.push(merge!("denial"));
    query.build().persistent(false).execute(&mut **tx).await?;
    Ok(())
}

async fn add_rests(tx: &mut Transaction, rests: &[((AccountId, i64), Tally)]) -> Result<()> {
    let mut query = QueryBuilder::new(
        "INSERT INTO denial_rest (account_id, hour, count, first_time, last_time) ",
    );
    query.push_values(rests, |mut row, ((account_id, hour), tally)| {
        row.push_bind(account_id.0)
            .push_bind(*hour)
            .push_bind(stored(tally.count))
            .push_bind(tally.first.0)
            .push_bind(tally.last.0);
    });
    query.push(" ON CONFLICT (account_id, hour) DO UPDATE SET ").push(merge!("denial_rest"));
    query.build().persistent(false).execute(&mut **tx).await?;
    Ok(())
}

#[derive(FromRow)]
struct Row {
    denial_id: Uuid,
    token_id: Uuid,
    account_id: Uuid,
    hour: i64,
    reason: String,
    address: String,
    scope_id: i32,
    operation: String,
    count: i64,
    first_time: i64,
    last_time: i64,
}

/// `None` for what is beyond a share.
fn reason(word: &str) -> Result<Option<Reason>> {
    if word == OTHERS {
        return Ok(None);
    }
    let known = Reason::ALL.into_iter().find(|(_, known)| *known == word);
    Ok(Some(known.ok_or(CorruptRow("a stored reason can't be read"))?.0))
}

impl Row {
    fn read(self) -> Result<Denial> {
        let count = u64::try_from(self.count);
        let scope_id = match self.scope_id {
            -1 => None,
            number => Some(scope_id(number)?),
        };
        let address = match self.address.as_str() {
            "" => None,
            text => Some(read_address(text)?),
        };
        Ok(Denial {
            id: DenialId(self.denial_id),
            denied: DenialCount {
                token_id: TokenId(self.token_id),
                account_id: AccountId(self.account_id),
                hour: self.hour,
                reason: reason(&self.reason)?,
                address,
                scope_id,
                operation: self.operation,
                count: count.map_err(|_| CorruptRow("a stored count of denials can't be read"))?,
                first: Timestamp(self.first_time),
                last: Timestamp(self.last_time),
            },
        })
    }
}

pub(super) async fn list(
    store: &Handle,
    filter: &DenialFilter,
    page: Page<DenialId>,
) -> Result<Vec<Denial>> {
    let mut query = QueryBuilder::new(
        "SELECT denial_id, token_id, account_id, hour, reason, address, scope_id, operation, count, \
         first_time, last_time FROM denial WHERE hour >= ",
    );
    query.push_bind(filter.since.hour());
    if let Some(id) = filter.account_id {
        query.push(" AND account_id = ").push_bind(id.0);
    }
    if let Some(id) = filter.token_id {
        query.push(" AND token_id = ").push_bind(id.0);
    }
    if let Some(after) = page.after {
        query.push(" AND denial_id < ").push_bind(after.0);
    }
    query.push(" ORDER BY denial_id DESC LIMIT ").push_bind(i64::from(page.limit));
    let rows: Vec<Row> = query.build_query_as().fetch_all(&store.read()).await?;
    rows.into_iter().map(Row::read).collect()
}

/// How many denials were counted for accounts alone, of `only` where given.
pub(super) async fn rest(store: &Handle, only: Option<AccountId>, since: Timestamp) -> Result<u64> {
    let mut query = QueryBuilder::new(
        "SELECT CAST(coalesce(sum(count), 0) AS BIGINT) FROM denial_rest WHERE hour >= ",
    );
    query.push_bind(since.hour());
    if let Some(only) = only {
        query.push(" AND account_id = ").push_bind(only.0);
    }
    let count: i64 = query.build_query_scalar().fetch_one(&store.read()).await?;
    Ok(u64::try_from(count).map_err(|_| CorruptRow("a stored count of denials can't be read"))?)
}

/// Rule 12.12 of docs/policy.md.
pub(super) async fn purge(store: &Handle, before: Timestamp, limit: u32) -> Result<u64> {
    let before = before.hour();
    let purged = purge_rows(store, "denial", "denial_id", "hour", before, limit).await?;
    let rests = purge_rows(store, "denial_rest", "account_id, hour", "hour", before, limit).await?;
    Ok(purged + rests)
}
