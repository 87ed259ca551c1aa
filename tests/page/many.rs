//! An account with 10,000 tokens beside one with 200: the same pages, and as many statements for one as for
//! the other. How long they take is for benchmarks to say.

use std::fs;
use std::path::PathBuf;

use portcullis::grpc::proto::Role;
use portcullis::policy::id::AccountId;
use serde_json::json;

use crate::page::checks::guarded;
use crate::page::stage::account;
use crate::page::stories;
use crate::support::calls::credential;
use crate::support::client::Client;
use crate::support::http::Http;
use crate::support::postgres::Cluster;
use crate::support::server::{Server, Setup};
use crate::support::wait::until;

const MANY: usize = 10_000;
/// Each list of them has a second page already, which costs a count.
const FEW: usize = 200;
/// Each third token has a pending deletion.
const PENDING: usize = 3;
/// How often a page is requested. The server does other things now and then, and Postgres may log a statement after
/// the answer was sent, so a single count may be too high or too low; the median is neither.
const TIMES: usize = 7;

const DAY: i64 = 86_400_000_000;

struct Stage {
    cluster: Cluster,
    database: String,
    server: Server,
    /// The account of each size, and its admin's credential.
    few: (String, String),
    many: (String, String),
}

impl Stage {
    async fn new() -> Self {
        let cluster = Cluster::new(false);
        let url = cluster.database();
        let database = url.rsplit('/').next().unwrap().to_owned();
        // Nothing is to be swept meanwhile.
        let server = Setup::postgres(&url).flag("--lifecycle-sweep-interval", "1h").start();
        let operator = Client::operator(&server).await;
        let mut sides = Vec::new();
        for (name, count) in [("Few", FEW), ("Many", MANY)] {
            let admins = ["ann@many.example", "bo@many.example"];
            let account = account(&operator, name, &admins).await;
            let (_, admin) = credential(&operator, Role::AccountAdmin, &account).await;
            cluster.sql(&database, &rows(&account, count));
            sides.push((account, admin));
        }
        cluster.sql(&database, "ANALYZE");
        let many = sides.pop().unwrap();
        Self { cluster, database, server, few: sides.pop().unwrap(), many }
    }
}

/// Statements that make an account's tokens as the server itself would have: of each kind, used long ago,
/// with pending deletions of which one admin was told.
fn rows(account: &str, count: usize) -> String {
    let account = account.parse::<AccountId>().unwrap().0;
    let now = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let id = |salt: &str| {
        let random = format!("md5('{account}{salt}' || n)");
        format!("overlay(overlay({random} PLACING '7' FROM 13) PLACING '8' FROM 17)::uuid")
    };
    let (token, action) = (id("token"), id("action"));
    let series = format!("generate_series(1::bigint, {count}) n");
    let pending = format!("{series} WHERE n % {PENDING} = 0");
    let used = format!("{now} - 40 * {DAY} - n * 1000000");
    format!(
        "INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, whitelist_version, \
            create_time) \
         SELECT {token}, '{account}', 'token ' || lpad(n::text, 5, '0'), \
            (ARRAY['READ_ONLY', 'READ_WRITE', 'CUSTOM'])[(1 + n % 3)::int], \
            sha256(('{account}' || n)::bytea), \
            CASE WHEN n % 6 = 0 THEN 'any' ELSE '192.0.2.0/24,2001:db8::/48' END, 1, \
            {now} - 60 * {DAY} + n * 1000 FROM {series}; \
         INSERT INTO token_scope (token_id, scope_id) \
         SELECT {token}, scope_id FROM {series}, scope \
            WHERE n % 3 = 2 AND scope.name IN ('transactions.read', 'cards.reveal'); \
         INSERT INTO token_use (token_id, last_use, idle_since) \
         SELECT {token}, {used}, {used} FROM {series}; \
         INSERT INTO scope_use (token_id, scope_id, last_use) \
         SELECT {token}, scope_id, {used} FROM {series}, scope \
            WHERE scope.name IN ('transactions.read', 'cards.read'); \
         INSERT INTO pending_action (pending_action_id, token_id, account_id, takes, last_use, \
            last_use_of_taken, basis_time, create_time) \
         SELECT {action}, {token}, '{account}', 'token', {used}, {used}, {used}, {now} - {DAY} \
            FROM {pending}; \
         INSERT INTO mail (mail_id, kind, account_id, token_id, pending_action_id, recipient, position, \
            create_time, state, attempts, next_time, accept_time) \
         SELECT {}, 'notice', '{account}', {token}, {action}, 'ann@many.example', 0, {now} - {DAY}, \
            'accepted', 1, {now}, {now} - {DAY} FROM {pending}; \
         INSERT INTO mail (mail_id, kind, account_id, token_id, pending_action_id, recipient, position, \
            create_time, state, attempts, next_time) \
         SELECT {}, 'notice', '{account}', {token}, {action}, 'bo@many.example', 0, {now} - {DAY}, \
            'queued', 0, {now} + {DAY} FROM {pending};",
        id("ann"),
        id("bo"),
    )
}

/// Every page whose size depends on how many tokens there are; `{token}` is one of them.
const PAGES: [&str; 18] = [
    "/tokens",
    "/tokens?page=1",
    "/tokens?sort=name",
    "/tokens?sort=last-use",
    "/tokens?sort=created",
    "/tokens?q=TOKEN%2000",
    "/tokens?q=token%2000003",
    "/tokens?q=nothing",
    "/tokens?kind=READ_WRITE",
    "/tokens?kind=CUSTOM&sort=name",
    "/tokens?show=pending",
    "/tokens?show=unrestricted&sort=created",
    "/tokens?show=deleted",
    "/tokens/{token}",
    "/tokens/{token}/whitelist",
    "/tokens/{token}/delete",
    "/tokens/new",
    "/pending",
];

/// The first token that a list links to.
fn listed(browser: &mut Http, path: &str) -> Vec<String> {
    let links = browser.get(path).says(200).links();
    let ids = links.into_iter().filter_map(|link| {
        let id = link.strip_prefix("/tokens/")?;
        (id.starts_with("tok_") && !id.contains(['/', '?'])).then(|| id.to_owned())
    });
    ids.collect()
}

/// Counts the statements by which a database is read, by what it logs.
struct Statements {
    log: PathBuf,
}

impl Statements {
    fn of(cluster: &Cluster, database: &str, browser: &mut Http) -> Self {
        // Of this database alone, and of sessions that begin from now on.
        let log = "log_min_duration_statement = 0";
        cluster.sql("postgres", &format!("ALTER SYSTEM SET {log}"));
        cluster.sql("postgres", "ALTER SYSTEM SET log_line_prefix = '%d '");
        cluster.sql("postgres", "SELECT pg_reload_conf()");
        let data = cluster.sql(database, "SHOW data_directory");
        let mut log = PathBuf::from(data);
        log.set_file_name("log");
        let statements = Self { log };
        // A reload is not waited for by the one who asks for it.
        until(
            || {
                let before = statements.count(database);
                listed(browser, "/tokens");
                statements.count(database) > before
            },
            |logged| *logged,
        );
        statements
    }

    fn count(&self, database: &str) -> usize {
        let log = fs::read(&self.log).expect("the server's log");
        let log = String::from_utf8_lossy(&log);
        // What a page reads: no transaction's frame, whose end comes after the answer, and nothing of what
        // replicas send each other meanwhile.
        let reads = |line: &&str| {
            line.contains(" execute ")
                && ![" replica ", " head "].iter().any(|of| line.contains(of))
        };
        log.lines().filter(|line| line.starts_with(database)).filter(reads).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_ask_the_store_no_more_for_many_tokens_than_for_few() {
    let stage = Stage::new().await;
    let mut browser = Http::new(&stage.server).sign_in(&stage.few.1);
    let statements = Statements::of(&stage.cluster, &stage.database, &mut browser);
    let mut counted = Vec::new();
    for (account, admin) in [&stage.few, &stage.many] {
        let mut browser = Http::new(&stage.server).sign_in(admin);
        let token = listed(&mut browser, "/tokens?sort=created").remove(0);
        let mut operator = Http::new(&stage.server).sign_in(stage.server.operator());
        let median = |browser: &mut Http, path: &str| {
            let mut counts = Vec::from_iter((0..TIMES).map(|_| {
                let before = statements.count(&stage.database);
                let answer = browser.get(path);
                guarded(&answer);
                answer.says(200);
                statements.count(&stage.database) - before
            }));
            counts.sort_unstable();
            counts[TIMES / 2]
        };
        let mut counts = Vec::new();
        for path in PAGES {
            counts.push((path, median(&mut browser, &path.replace("{token}", &token))));
        }
        for path in ["/tokens?account=", "/pending?account=", "/tokens/new?account="] {
            counts.push((path, median(&mut operator, &format!("{path}{account}"))));
        }
        counts.push(("/accounts/", median(&mut operator, &format!("/accounts/{account}"))));
        counted.push(counts);
    }
    assert_eq!(counted[0], counted[1], "few, then many");
    // A page reads a session and a list at least: the counter counts.
    assert!(counted[0].iter().all(|(_, count)| (1..=20).contains(count)), "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tokens_are_paged_searched_and_sorted() {
    let stage = Stage::new().await;
    let mut browser = Http::new(&stage.server).sign_in(&stage.many.1);
    // Each stands on one page exactly, in each order.
    for sort in ["attention", "name", "last-use", "created"] {
        let mut seen = Vec::new();
        for page in [1, 2, MANY / 25 - 1, MANY / 25] {
            let path = format!("/tokens?sort={sort}&page={page}");
            let ids = listed(&mut browser, &path);
            assert_eq!(ids.len(), 25, "{path}");
            seen.extend(ids);
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 100, "{sort}: pages overlap");
        let beyond = browser.get(&format!("/tokens?sort={sort}&page={}", MANY / 25 + 1));
        guarded(&beyond);
        assert!([200, 303, 404].contains(&beyond.status), "{beyond}");
    }
    let first =
        browser.get("/tokens?sort=name").says(200).shows(&["10,000", "token 00001", "token 00025"]);
    assert!(!first.text().contains("token 00026"), "{first}");
    browser.get("/tokens?sort=name&page=400").says(200).shows(&["token 09976", "token 10000"]);
    browser.get("/tokens?sort=created").says(200).shows(&["token 10000", "token 09976"]);
    browser.get("/tokens?sort=last-use").says(200).shows(&["token 10000", "token 09976"]);
    browser
        .get("/tokens?q=TOKEN%200998&sort=name")
        .says(200)
        .shows(&["token 09980", "token 09989"]);
    assert_eq!(listed(&mut browser, "/tokens?q=TOKEN%200998").len(), 10);
    // What the database takes for a wildcard is none.
    for text in ["%25", "_____%2000001", "token%25", "%5C", "*", "?"] {
        assert_eq!(
            listed(&mut browser, &format!("/tokens?q={text}")),
            <[&str; 0]>::default(),
            "{text}"
        );
    }
    let pending = listed(&mut browser, "/tokens?show=pending&page=133");
    assert_eq!(pending.len(), 25);
    assert_eq!(
        listed(&mut browser, "/tokens?show=pending&page=134").len(),
        MANY / PENDING - 133 * 25
    );
    // What needs attention stands first.
    let attention = browser.get("/tokens").says(200);
    assert!(attention.words().contains("token 09999"), "the longest unused: {attention}");
}

/// In a browser: none of these pages is heavy, and none is too wide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_about_many_tokens_are_light() {
    let stage = Stage::new().await;
    let mut browser = Http::new(&stage.server).sign_in(&stage.many.1);
    let token = listed(&mut browser, "/tokens?sort=created").remove(0);
    let mut pages: Vec<String> = PAGES.iter().map(|path| path.replace("{token}", &token)).collect();
    pages.push("/tokens?page=400".to_owned());
    let (account, admin) = &stage.many;
    let scene = json!({
        "label": "many", "width": 360, "scheme": "light", "script": true,
        "account": account, "admin": admin, "paths": pages,
    });
    stories::tell(&stage.server, &["weight"], &[scene], json!({}));
}
