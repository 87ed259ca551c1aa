//! Millions of tokens, made by the database itself: rows as the server would have written them over a
//! year. Most are in use; some are announced and not due; as many are due as with any other count.

use portcullis::policy::id::AccountId;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

/// Tokens to announce, and actions to carry out.
pub const DUE: u32 = 1_000;

/// Without the checks of foreign keys, which take longer than all else.
const PREPARE: &str = "\
    SET session_replication_role = replica; \
    SET synchronous_commit = off; \
    CREATE FUNCTION pg_temp.id(kind integer, n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql AS \
        $$ SELECT ('01900000-000' || kind::text || '-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$; \
    CREATE FUNCTION pg_temp.ago(days double precision) RETURNS bigint STABLE LANGUAGE sql AS \
        $$ SELECT ((extract(epoch FROM now())::double precision - days * 86400) * 1000000)::bigint $$; \
    CREATE FUNCTION pg_temp.part(n bigint, count bigint) RETURNS double precision IMMUTABLE \
        LANGUAGE sql AS $$ SELECT n::double precision / count $$";

/// In order; `$1` is the count, of which each hundredth number is announced, each twentieth was once,
/// each fiftieth is deleted.
const STATEMENTS: [&str; 9] = [
    "INSERT INTO account (account_id, name, create_time) \
     SELECT pg_temp.id(1, n), 'account ' || n, pg_temp.ago(500) \
     FROM generate_series(0, $1::bigint / 100) n",
    "INSERT INTO account_admin (account_id, ordinal, email) \
     SELECT pg_temp.id(1, n), 0, 'admin' || n || '@example.test' \
     FROM generate_series(0, $1::bigint / 100) n",
    "INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, whitelist_version, \
         create_time, delete_time, delete_cause) \
     SELECT pg_temp.id(2, n), pg_temp.id(1, n / 100), 'token ' || n, \
         CASE WHEN n % 10 < 4 THEN 'READ_ONLY' WHEN n % 10 < 7 THEN 'READ_WRITE' ELSE 'CUSTOM' END, \
         sha256(int8send(n)), '10.0.0.0/24,192.0.2.7', 1, pg_temp.ago(490 - 400 * pg_temp.part(n, $1)), \
         CASE WHEN n % 50 = 49 THEN pg_temp.ago(30) END, CASE WHEN n % 50 = 49 THEN 'unused' END \
     FROM generate_series(1, $1::bigint) n",
    "INSERT INTO token_scope (token_id, scope_id) \
     SELECT pg_temp.id(2, n), scope_id FROM generate_series(1, $1::bigint) n, scope \
     WHERE n % 10 >= 7 AND name = 'transactions.read'",
    "INSERT INTO token_use (token_id, last_use, last_write_use, idle_since) \
     SELECT pg_temp.id(2, n), last_use, CASE WHEN n % 10 BETWEEN 4 AND 6 THEN last_use END, idle \
     FROM generate_series(1, $1::bigint) n, LATERAL (SELECT \
         CASE WHEN n % 50 = 49 THEN pg_temp.ago(80) \
             WHEN n % ($1 / 1000) = 13 THEN pg_temp.ago(46 + pg_temp.part(n, $1)) \
             WHEN n % 100 = 13 THEN pg_temp.ago(40 + pg_temp.part(n, $1)) \
             WHEN n % ($1 / 1000) = 1 THEN pg_temp.ago(39 + pg_temp.part(n, $1)) \
             ELSE pg_temp.ago(3 * pg_temp.part(n, $1)) END AS last_use, \
         CASE WHEN n % 50 = 49 OR n % 100 = 13 THEN NULL \
             WHEN n % ($1 / 1000) = 1 THEN pg_temp.ago(39 + pg_temp.part(n, $1)) \
             ELSE pg_temp.ago(37 * pg_temp.part(n, $1)) END AS idle) made",
    "INSERT INTO scope_use (token_id, scope_id, last_use) \
     SELECT u.token_id, s.scope_id, u.last_use FROM token_use u, scope s \
     WHERE u.token_id BETWEEN pg_temp.id(2, 1) AND pg_temp.id(2, $1::bigint) \
         AND s.name = 'transactions.read'",
    "INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, last_use, \
         last_use_of_taken, basis_time, accepted_time, create_time, end_time, outcome) \
     SELECT pg_temp.id(3, n), t.token_id, t.account_id, 'token', u.last_use, u.last_use, u.last_use, \
         noticed, noticed, NULL, NULL \
     FROM generate_series(13, $1::bigint, 100) n JOIN token t ON t.token_id = pg_temp.id(2, n) \
         JOIN token_use u ON u.token_id = t.token_id, \
         LATERAL (SELECT pg_temp.ago(CASE WHEN n % ($1 / 1000) = 13 THEN 8 ELSE 2 END) AS noticed) m \
     UNION ALL \
     SELECT pg_temp.id(4, n), t.token_id, t.account_id, 'writes', pg_temp.ago(71), pg_temp.ago(110), \
         pg_temp.ago(110), pg_temp.ago(70), pg_temp.ago(71), pg_temp.ago(60), 'cancelled' \
     FROM generate_series(5, $1::bigint, 20) n JOIN token t ON t.token_id = pg_temp.id(2, n)",
    "INSERT INTO pending_action_scope (pending_action_id, scope_id, keeps) \
     SELECT p.pending_action_id, s.scope_id, 0 FROM pending_action p, scope s \
     WHERE s.name = 'transactions.read' AND $1::bigint > 0",
    "INSERT INTO mail (mail_id, kind, account_id, token_id, pending_action_id, recipient, position, \
         create_time, state, attempts, next_time, accept_time) \
     SELECT gen_random_uuid(), 'notice', p.account_id, p.token_id, p.pending_action_id, a.email, 0, \
         p.create_time, 'accepted', 0, p.create_time, p.accepted_time \
     FROM pending_action p JOIN account_admin a ON a.account_id = p.account_id WHERE $1::bigint > 0",
];

/// Adds `count` tokens of `count / 100` accounts to the store at `url`, which has a catalogue.
pub async fn fill(url: &str, count: u32) {
    let mut database = PgConnection::connect(url).await.expect("the database");
    database.execute(PREPARE).await.expect("functions");
    for statement in STATEMENTS {
        let insert = sqlx::query(statement).bind(i64::from(count));
        insert.execute(&mut database).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    database.execute("VACUUM ANALYZE").await.expect("VACUUM");
    database.execute("CHECKPOINT").await.expect("CHECKPOINT");
}

/// The id of one of the accounts.
pub fn account(n: u32) -> String {
    let id = format!("01900000-0001-7000-8000-{n:012x}");
    AccountId(id.parse::<Uuid>().expect("an id")).to_string()
}
