//! What a decision costs without the network: its steps, one by one and together, over 100,000 tokens
//! in memory drawn at random. Prints each figure against its target.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that can't be made ends the run and says why"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use futures_util::FutureExt as _;
use portcullis::cache::{Cache, CacheEntry, CachedToken, Lookup};
use portcullis::clock::Clock;
use portcullis::grpc::proto::{
    AuthorizeRequest, HttpOperation, StreamAuthorizeRequest, authorize_request,
};
use portcullis::grpc::wire;
use portcullis::lifecycle::LifecycleStatus;
use portcullis::model::{Actor, Context};
use portcullis::pem::TrustStore;
use portcullis::policy::catalog_file;
use portcullis::policy::decide::{self, Operation, Presented, Request};
use portcullis::policy::destination::InternalHosts;
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::lifecycle;
use portcullis::policy::network::{CidrSet, ClientAddr, Limits, Whitelist, parse_entries};
use portcullis::policy::scope::{Catalog, ScopeId};
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::{Expiry, Grant, TokenFacts, TokenState};
use portcullis::replication::Replicas;
use portcullis::secret::{self, KeyRing, ParsedSecret, SecretKey, SecretKind};
use portcullis::service::decisions::{AuthorizeInput, RequestedOperation};
use portcullis::service::{Dependencies, Services};
use portcullis::store::sqlite::{self, SqliteStore};
use portcullis::store::{CatalogStore as _, Store};
use portcullis::telemetry::Metrics;
use portcullis::usage::Usage;
use portcullis::webhooks::Sender;
use portcullis::writes::Writes;
use prost::Message as _;
use sdd::Guard;
use sqlx::Connection as _;
use uuid::Uuid;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOKENS: usize = 100_000;
/// Questions of a batch.
const TOGETHER: usize = 100;
const CATALOG: &str = include_str!("../catalogs/mercury.toml");
const WHITELIST: &str = "10.0.0.0/24,192.0.2.7,198.51.100.0/24,2001:db8::/32";
const CLIENT_IP: &str = "198.51.100.23";
const SCOPE: &str = "transactions.read";

/// Services over a store with many tokens, and their secrets in no order.
async fn services(home: &std::path::Path) -> (Services, Arc<Cache>, Vec<String>) {
    sqlite::migrate(home).await.expect("a schema");
    let keys = KeyRing::new(&[SecretKey::new(0, [7; 32])]).expect("a key");
    let account = Uuid::now_v7();
    let url = format!("sqlite://{}", home.join(sqlite::FILE).display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.expect("the file");
    let mut change = database.begin().await.expect("a transaction");
    sqlx::query("INSERT INTO secret_key (number, key, create_time) VALUES (0, $1, 0)")
        .bind(&[7u8; 32][..])
        .execute(&mut *change)
        .await
        .expect("a key");
    sqlx::query("INSERT INTO account (account_id, name, create_time) VALUES ($1, 'bench', 0)")
        .bind(account)
        .execute(&mut *change)
        .await
        .expect("an account");
    let mut secrets = Vec::with_capacity(TOKENS);
    for _ in 0..TOKENS {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("random bytes");
        let id = Uuid::now_v7();
        let secret = keys.make(SecretKind::Token, &"pcl".parse().expect("a prefix"), id, &random);
        sqlx::query(
            "INSERT INTO token (token_id, account_id, name, kind, digest, whitelist, \
             whitelist_version, create_time) VALUES ($1, $2, 'bench', 'READ_WRITE', $3, $4, 1, 0)",
        )
        .bind(id)
        .bind(account)
        .bind(&secret.digest()[..])
        .bind(WHITELIST)
        .execute(&mut *change)
        .await
        .expect("a token");
        secrets.push(secret.expose().to_owned());
    }
    change.commit().await.expect("a commit");
    database.close().await.expect("an end");

    let store = Arc::new(SqliteStore::open(home, "the benchmark").await.expect("the store"));
    let now = store.now().await.expect("a time");
    let names: Vec<_> = catalog_file::parse(CATALOG)
        .expect("a catalogue")
        .into_iter()
        .map(|def| def.name)
        .collect();
    let ctx = Context::new(Actor::System, now, None);
    store
        .apply_catalog(&ctx, None, CATALOG, &names)
        .await
        .expect("the store")
        .expect("a catalogue");
    let metrics = Arc::new(Metrics::new());
    let runtime = tokio::runtime::Handle::current();
    let cache = Cache::load(store.clone(), 1_000_000, metrics.clone(), runtime.clone()).await;
    let cache = Arc::new(cache.expect("the store"));
    let clock = Arc::new(Clock::starting_at(now));
    let window = lifecycle::Settings::default().window();
    let replicas = Arc::new(Replicas::alone(cache.clone()));
    let writes = Writes::new(store.clone(), cache.clone(), replicas.clone(), metrics.clone());
    let writes = Arc::new(writes);
    let usage = Usage::new(
        store.clone(),
        cache.clone(),
        writes.clone(),
        clock.clone(),
        metrics.clone(),
        window,
        runtime,
    );
    for secret in &secrets {
        let parsed = ParsedSecret::parse(secret.as_bytes(), SecretKind::Token).expect("a token");
        let fact = cache.tokens.read(TokenId(parsed.id)).await.expect("the store");
        assert!(fact.is_some(), "a token is not in the store");
    }
    // Once more, since room for what is at hand grew meanwhile; the few that share a full bucket stay out.
    for secret in &secrets {
        cache.tokens.get(claimed(secret)).await;
    }
    secrets.retain(|secret| cache.tokens.get_near(claimed(secret), &Guard::new()).is_some());
    assert!(secrets.len() > TOKENS / 1000 * 999, "only {} are at hand", secrets.len());
    // Facts come from here and there in memory, as in a server that runs for a while. What is presented
    // is found in order, since a server finds it in the buffer that it has just read into.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for place in (1..secrets.len()).rev() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        secrets.swap(place, seed as usize % (place + 1));
    }
    let secrets = secrets.iter().map(String::clone).collect();
    let status = LifecycleStatus::new(store.clone(), clock.clone(), metrics.clone());
    let services = Services::new(Dependencies {
        token_max_lifetime: None,
        allow_admin_import: false,
        store,
        replicas,
        writes,
        cache: cache.clone(),
        usage: Arc::new(usage),
        decision_log: None,
        traces: None,
        status: Arc::new(status),
        mailbox: None,
        clock,
        mails: false,
        outbox_wakeup: Arc::default(),
        sweep_wakeup: Arc::default(),
        webhook_sender: Arc::new(Sender::new(
            TrustStore::public_and(None).expect("public authorities"),
            InternalHosts::default(),
            Duration::from_secs(1),
        )),
        metrics,
        prefix: "pcl".parse().expect("a prefix"),
        limits: Limits::default(),
        lifecycle: Default::default(),
        sessions: Default::default(),
    });
    (services, cache, secrets)
}

/// A token with as many whitelist entries as there may be, of which the last lets the client in.
fn whitelisted(entries: usize) -> TokenFacts {
    let text: Vec<String> = (1..entries)
        .map(|n| if n % 2 == 0 { format!("10.{n}.0.0/16") } else { format!("2001:db8:{n:x}::/48") })
        .chain([CLIENT_IP.to_owned()])
        .collect();
    let limits = Limits::default();
    let parsed = parse_entries(text.iter().map(String::as_str), &limits).expect("entries");
    assert_eq!(parsed.len(), entries);
    let entries = CidrSet::new(parsed, &limits).expect("not too many").expect("some");
    TokenFacts {
        id: TokenId(Uuid::now_v7()).into(),
        account_id: AccountId(Uuid::now_v7()).into(),
        digest: [0; 32],
        state: TokenState::Active,
        expiry: Expiry::NEVER,
        grant: Grant::ReadWrite,
        whitelist: Whitelist::Only(entries),
        announced: Vec::new(),
    }
}

/// The id that a token's text claims.
fn claimed(text: &str) -> TokenId {
    TokenId(secret::peek_id(text.as_bytes(), SecretKind::Token).expect("a token"))
}

/// A question about a token as its bytes come.
fn message(token: &str) -> Vec<u8> {
    let operation = authorize_request::Operation::Http(HttpOperation {
        method: "GET".to_owned(),
        path: "/api/v1/transaction/8d1f0c3e-1c4b-4d57-9a3e-0f5a3c2b1a00".to_owned(),
    });
    let request = AuthorizeRequest {
        token: token.to_owned(),
        client_ip: CLIENT_IP.to_owned(),
        operation: Some(operation),
        dry_run: false,
        at_least_as_fresh: 0,
    };
    request.encode_to_vec()
}

fn main() {
    let home = tempfile::TempDir::with_prefix("portcullis-bench-").expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (services, cache, secrets) = runtime.block_on(services(home.path()));
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(1));

    let mut next = {
        let (mut place, count) = (0, secrets.len());
        move || {
            place = (place + 1) % count;
            place
        }
    };
    fn parse(text: &str) -> ParsedSecret<'_> {
        ParsedSecret::parse(text.as_bytes(), SecretKind::Token).expect("a token")
    }
    group.bench_function("parse, all of it", |b| b.iter(|| black_box(parse(&secrets[next()]))));
    group.bench_function("parse, the id", |b| b.iter(|| black_box(claimed(&secrets[next()]))));
    let one = secrets[0].as_bytes();
    group.bench_function("digest", |b| b.iter(|| black_box(secret::digest(black_box(one)))));
    let messages: Vec<Vec<u8>> = secrets.iter().take(1_000).map(|token| message(token)).collect();
    let items: Vec<Vec<u8>> = messages
        .iter()
        .map(|request| {
            let request = AuthorizeRequest::decode(&request[..]).expect("a request");
            StreamAuthorizeRequest { request: Some(request) }.encode_to_vec()
        })
        .collect();
    let mut at = 0;
    group.bench_function("read a request", |b| {
        b.iter(|| {
            at = (at + 1) % messages.len();
            black_box(wire::parse(black_box(&messages[at])).is_ok())
        });
    });
    group.bench_function("read an item of a stream", |b| {
        b.iter(|| {
            at = (at + 1) % items.len();
            black_box(wire::parse_stream_item(black_box(&items[at])).is_ok())
        });
    });
    let ids: Vec<TokenId> = secrets.iter().map(|text| TokenId(parse(text).id)).collect();
    fn look<'g>(cache: &Cache, id: TokenId, guard: &'g Guard) -> &'g CachedToken {
        cache.tokens.get_near(id, guard).expect("a token is not in memory")
    }
    group.bench_function("look up", |b| {
        b.iter(|| {
            let guard = Guard::new();
            black_box(look(&cache, ids[next()], &guard).account_id)
        })
    });
    // What the near cache saves. The second-level cache also puts what it finds into the near cache, so that the time
    // without is an upper bound.
    fn look_behind(cache: &Cache, id: TokenId) -> CacheEntry {
        match cache.tokens.get(id).now_or_never() {
            Some(Lookup::Hit(entry)) => entry,
            _ => panic!("a token is not in memory"),
        }
    }
    group.bench_function("look up, without the near cache", |b| {
        b.iter(|| {
            let entry = look_behind(&cache, ids[next()]);
            black_box(entry.as_ref().map(|token| token.account_id))
        })
    });
    group.bench_function("look up and prove, with the near cache", |b| {
        b.iter(|| {
            let text = &secrets[next()];
            let guard = Guard::new();
            let token = look(&cache, claimed(text), &guard);
            black_box(secret::digest_eq(&token.digest, &secret::digest(text.as_bytes())))
        })
    });
    // A secret's tag is verified before the second-level cache is asked.
    group.bench_function("look up and prove, without the near cache", |b| {
        b.iter(|| {
            let text = &secrets[next()];
            let secret = parse(text);
            assert!(cache.keys().made(&secret), "a token that was made here");
            let entry = look_behind(&cache, TokenId(secret.id));
            let token = entry.as_ref().expect("a token");
            black_box(secret::digest_eq(&token.digest, &secret::digest(text.as_bytes())))
        })
    });

    let defs = catalog_file::parse(CATALOG).expect("a catalogue");
    let mut number = 0;
    let catalog = Catalog::new(1, defs, |_| {
        number += 1;
        ScopeId(number)
    });
    let client: ClientAddr = CLIENT_IP.parse().expect("an address");
    let scope = catalog.by_name(SCOPE).expect("a scope");
    let facts = whitelisted(100);
    let request = Request { client: Some(client), operation: Operation::Scope(scope) };
    group.bench_function("decide, 100 entries", |b| {
        b.iter(|| {
            let presented = Presented::Token(black_box(&facts));
            let decision =
                decide::decide(presented, &catalog, black_box(&request), black_box(Timestamp(1)));
            assert_eq!(decision.verdict.reason(), decide::Reason::Allowed);
        });
    });
    let path = "/api/v1/transaction/8d1f0c3e-1c4b-4d57-9a3e-0f5a3c2b1a00?start=2026-01-01";
    let upper_case = "/api/v1/transaction/tok_0351kjiHWKb8Zq?start=2026-01-01";
    let dotted = "/api/v1/transaction/statement.2026.pdf?start=2026-01-01";
    for (name, path) in [
        ("resolve a route", path),
        ("resolve a route, upper case", upper_case),
        ("resolve a route, dots", dotted),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let found = catalog.resolve(black_box("GET"), black_box(path));
                assert_eq!(found.ok().map(|scope| scope.name.as_str()), Some(SCOPE));
            });
        });
    }
    group.bench_function("whole: parse, digest, look up, decide", |b| {
        b.iter(|| {
            let presented = &secrets[next()];
            let guard = Guard::new();
            let facts = look(&cache, claimed(presented), &guard);
            assert!(secret::digest_eq(&facts.digest, &secret::digest(presented.as_bytes())));
            let decision =
                decide::decide(Presented::Token(facts), &catalog, &request, Timestamp(1));
            assert_eq!(decision.verdict.reason(), decide::Reason::Allowed);
        });
    });
    group.bench_function("whole: as the server asks", |b| {
        b.iter(|| {
            let secret = secrets[next()].as_bytes();
            let question = AuthorizeInput {
                token: secret,
                presented: secret,
                client_ip: CLIENT_IP,
                operation: RequestedOperation::Scope(SCOPE),
                dry_run: true,
                at_least_as_fresh: 0,
            };
            let context = services.decision_context(None).expect("a lease");
            let decision = context.evaluate(&question).expect("valid").expect("in memory");
            assert_eq!(decision.verdict.reason(), decide::Reason::Allowed);
        });
    });
    group.throughput(Throughput::Elements(TOGETHER as u64));
    group.bench_function("a hundred together: as the server asks", |b| {
        b.iter(|| {
            let questions: Vec<_> = (0..TOGETHER)
                .map(|_| {
                    let secret = secrets[next()].as_bytes();
                    Ok(AuthorizeInput {
                        token: secret,
                        presented: secret,
                        client_ip: CLIENT_IP,
                        operation: RequestedOperation::Scope(SCOPE),
                        dry_run: false,
                        at_least_as_fresh: 0,
                    })
                })
                .collect();
            let context = services.decision_context(None).expect("a lease");
            context.evaluate_batch(&questions, |_, evaluated| {
                let decision = evaluated.as_ref().expect("valid").expect("in memory");
                assert_eq!(decision.verdict.reason(), decide::Reason::Allowed);
            });
        });
    });
    group.finish();
    criterion.final_summary();
}
