//! What is in memory follows every change at once: whoever asks after the answer to a change is
//! answered by what holds since, however many ask meanwhile (docs/policy.md, section 6).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a failure here is the test's failure"
)]

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::calls::credential;
use crate::support::client::{Client, question};
use crate::support::decisions::{self, InProcess};
use crate::support::server::Setup;
use portcullis::cache::{Cache, Lookup};
use portcullis::grpc::proto::stream_authorize_response::Result as Item;
use portcullis::grpc::proto::{
    ApplyCatalogRequest, AuthorizeRequest, BatchAuthorizeRequest, DeleteTokenRequest,
    ManageWhitelistRequest, Reason, RevokeCredentialRequest, Role, StreamAuthorizeRequest,
    StreamAuthorizeResponse, TokenKind, WhitelistReplacement, authorize_request,
    batch_authorize_result,
};
use portcullis::model::{Invalidation, NewToken};
use portcullis::policy::catalog_file;
use portcullis::policy::decide;
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::policy::network::Whitelist;
use portcullis::policy::time::Timestamp;
use portcullis::policy::token::TokenKind as Kind;
use portcullis::replication::Replicas;
use portcullis::secret::{KeyRing, SecretKey, SecretKind};
use portcullis::service::decisions::{AuthorizeInput, RequestedOperation};
use portcullis::service::tokens::CreateToken;
use portcullis::service::whitelists::ManageWhitelist;
use portcullis::service::{Caller, Services};
use portcullis::store::Store;
use portcullis::store::sqlite::SqliteStore;
use portcullis::telemetry::{Exposition, Metrics};
use sdd::Guard;
use tokio::runtime::Handle;
use tokio::sync::{Barrier, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

const SCOPE: &str = "transactions.read";
const HERE: &str = "192.0.2.1";
const THERE: &str = "198.51.100.1";

async fn reason(client: &Client, ask: AuthorizeRequest) -> Reason {
    client.authorization().authorize(ask).await.unwrap().into_inner().reason()
}

fn whitelist(token_id: &str, entries: &[&str]) -> ManageWhitelistRequest {
    let entries = entries.iter().map(|&entry| entry.to_owned()).collect();
    ManageWhitelistRequest {
        token_id: token_id.to_owned(),
        replace: Some(WhitelistReplacement { entries, allow_any_address: false }),
        ..Default::default()
    }
}

/// An open StreamAuthorize.
struct Stream {
    ask: mpsc::Sender<StreamAuthorizeRequest>,
    answers: Streaming<StreamAuthorizeResponse>,
}

impl Stream {
    async fn open(client: &Client) -> Self {
        let (ask, asked) = mpsc::channel(1);
        let answers = client.authorization().stream_authorize(ReceiverStream::new(asked)).await;
        Self { ask, answers: answers.unwrap().into_inner() }
    }

    async fn reason(&mut self, ask: AuthorizeRequest) -> Result<Reason, Status> {
        self.ask.send(StreamAuthorizeRequest { request: Some(ask) }).await.unwrap();
        match self.answers.message().await?.expect("an answer").result.unwrap() {
            Item::Response(response) => Ok(response.reason()),
            Item::Error(error) => panic!("no decision: {error:?}"),
        }
    }
}

/// Rule 6.2.
#[tokio::test]
async fn every_change_shows_in_the_next_decision() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    // Another connection, which another thread of the server serves.
    let other = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let mut stream = Stream::open(&other).await;
    for round in 0..50 {
        let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[HERE]).await;
        let id = token.token_id;
        let mut shows = async |expected| {
            let ask = question(&secret, HERE, SCOPE);
            assert_eq!(reason(&other, ask.clone()).await, expected, "round {round}");
            assert_eq!(reason(&operator, ask.clone()).await, expected, "round {round}");
            assert_eq!(stream.reason(ask.clone()).await.unwrap(), expected, "round {round}");
            let batch = BatchAuthorizeRequest { requests: vec![ask; 2] };
            let batch = other.authorization().batch_authorize(batch).await.unwrap().into_inner();
            for item in batch.results {
                let Some(batch_authorize_result::Result::Response(response)) = item.result else {
                    panic!("no decision")
                };
                assert_eq!(response.reason(), expected, "round {round}");
            }
        };
        shows(Reason::Allowed).await;
        operator.tokens().manage_whitelist(whitelist(&id, &[THERE])).await.unwrap();
        shows(Reason::ClientIpNotWhitelisted).await;
        let add = vec![HERE.to_owned()];
        let add = ManageWhitelistRequest { token_id: id.clone(), add, ..Default::default() };
        operator.tokens().manage_whitelist(add).await.unwrap();
        shows(Reason::Allowed).await;
        let remove = vec![HERE.to_owned()];
        let remove = ManageWhitelistRequest { token_id: id.clone(), remove, ..Default::default() };
        operator.tokens().manage_whitelist(remove).await.unwrap();
        shows(Reason::ClientIpNotWhitelisted).await;
        let delete = DeleteTokenRequest { token_id: id, no_wait: false };
        operator.tokens().delete_token(delete).await.unwrap();
        shows(Reason::TokenDeleted).await;
    }
}

/// Rule 2.29 of docs/policy.md.
#[tokio::test]
async fn a_batch_without_items_or_with_more_than_1000_is_refused_and_counted() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let item = || question("pcl_t1_mistyped", HERE, SCOPE);
    let batch = async |items: usize| {
        let requests = std::iter::repeat_with(item).take(items).collect();
        operator.authorization().batch_authorize(BatchAuthorizeRequest { requests }).await
    };
    for (items, text) in [(0, "is empty"), (1_001, "has 1001 items; the most is 1000")] {
        let error = batch(items).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.message().contains(text), "{error}");
    }
    assert_eq!(server.metric("portcullis_decision_errors_total"), Some(2));
    for items in [1, 1_000] {
        assert_eq!(batch(items).await.unwrap().into_inner().results.len(), items);
    }
}

/// What of a batch's questions is alike is read once, and what is not is not taken for it.
#[tokio::test]
async fn a_batch_answers_each_question_as_it_is_answered_alone() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let mut secrets = vec![String::new(), "pcl_t1_mistyped".to_owned()];
    for (kind, entries) in [
        (TokenKind::ReadOnly, &[][..]),
        (TokenKind::ReadOnly, &[HERE]),
        (TokenKind::ReadWrite, &["198.51.100.0/24", "2001:db8::/32"]),
    ] {
        secrets.push(operator.token(&account, kind, &[], entries).await.1);
    }
    let (deleted, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[HERE]).await;
    let delete = DeleteTokenRequest { token_id: deleted.token_id, no_wait: false };
    operator.tokens().delete_token(delete).await.unwrap();
    secrets.push(secret);

    let mut asked = Vec::new();
    for secret in &secrets {
        for client_ip in [HERE, THERE, "2001:db8::1", "", "192.0.2.1 ", "192.0.2"] {
            for scope in [SCOPE, "recipients.create", "transactions", ""] {
                asked.push(question(secret, client_ip, scope));
            }
        }
    }
    let mut alone = Vec::new();
    for ask in &asked {
        let answer = operator.authorization().authorize(ask.clone()).await;
        alone.push(
            answer
                .map(|answer| answer.into_inner())
                .map_err(|error| (error.code() as i32, error.message().to_owned())),
        );
    }
    let denied = alone.iter().flatten().filter(|answer| answer.reason() != Reason::Allowed).count();
    let allowed = alone.iter().flatten().count() - denied;
    assert!(allowed >= 5 && denied >= 20 && alone.iter().any(Result::is_err), "{allowed} {denied}");

    // In the order in which they were made, and in others, where neighbours have less in common.
    for step in [1, 5, 7, 35] {
        let order: Vec<_> = (0..asked.len()).map(|place| place * step % asked.len()).collect();
        let requests = order.iter().map(|&place| asked[place].clone()).collect();
        let batch = BatchAuthorizeRequest { requests };
        let batch = operator.authorization().batch_authorize(batch).await.unwrap().into_inner();
        assert_eq!(batch.results.len(), asked.len());
        for (item, place) in batch.results.into_iter().zip(order) {
            let answer = match item.result.unwrap() {
                batch_authorize_result::Result::Response(response) => Ok(*response),
                batch_authorize_result::Result::Error(error) => Err((error.code, error.message)),
            };
            assert_eq!(answer, alone[place], "{:?}", asked[place]);
        }
    }
}

#[tokio::test]
async fn a_catalogue_shows_in_the_next_decision() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let other = Client::operator(&server).await;
    let mut stream = Stream::open(&other).await;
    let http = |path: &str| AuthorizeRequest {
        operation: Some(authorize_request::Operation::Http(
            portcullis::grpc::proto::HttpOperation { method: "GET".into(), path: path.into() },
        )),
        ..question(&secret, HERE, "")
    };
    for round in 0..25 {
        for (access, route, expected) in [
            ("read", "GET /x", [Reason::Allowed, Reason::NoMatchingRoute]),
            ("write", "GET /x", [Reason::ScopeNotGranted, Reason::NoMatchingRoute]),
            ("read", "GET /y", [Reason::NoMatchingRoute, Reason::Allowed]),
        ] {
            let toml =
                format!("[[scope]]\nname = \"s\"\naccess = \"{access}\"\nroutes = [\"{route}\"]\n");
            let apply = ApplyCatalogRequest { toml, confirm_narrowing: true, ..Default::default() };
            operator.catalog().apply_catalog(apply).await.unwrap();
            for (path, expected) in ["/x", "/y"].into_iter().zip(expected) {
                assert_eq!(reason(&other, http(path)).await, expected, "{round} {access} {route}");
                assert_eq!(stream.reason(http(path)).await.unwrap(), expected, "{round} {route}");
            }
        }
    }
}

#[tokio::test]
async fn a_revoked_credential_decides_nothing_more() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let ask = || question(&secret, HERE, SCOPE);
    for _ in 0..20 {
        let (made, bearer) = credential(&operator, Role::Pep, "").await;
        let pep = operator.with(&bearer);
        let mut stream = Stream::open(&pep).await;
        let mut kept = Stream::open(&operator).await;
        assert_eq!(reason(&pep, ask()).await, Reason::Allowed);
        assert_eq!(stream.reason(ask()).await.unwrap(), Reason::Allowed);

        let revoke = RevokeCredentialRequest { credential_id: made.credential_id, no_wait: false };
        operator.credentials().revoke_credential(revoke).await.unwrap();
        let refused = pep.authorization().authorize(ask()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        // The stream was opened before, and ends at the next item.
        assert_eq!(stream.reason(ask()).await.unwrap_err().code(), Code::Unauthenticated);
        assert!(stream.answers.message().await.unwrap().is_none());
        assert_eq!(kept.reason(ask()).await.unwrap(), Reason::Allowed);
    }
}

/// What the controller has been told: a change that is under way may show or not.
const OPEN: u64 = 0;
const CLOSING: u64 = 1;
const CLOSED: u64 = 2;
const OPENING: u64 = 3;

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// Asks once whether the token may be used from [`HERE`].
type Ask = Box<dyn Fn() -> Pending<bool> + Send + Sync>;

/// Narrows and widens a whitelist `toggles` times while every one of `askers` asks without pause.
/// After the answer to a change, no decision that begins later rests on what was before it.
async fn hammer(toggles: u64, askers: Vec<Ask>, replace: impl AsyncFn(&'static str)) {
    // Counts up through the four phases, so that equal numbers before and after a decision mean
    // that it began and ended within one phase.
    let phase = Arc::new(AtomicU64::new(OPEN));
    let (judged, mut judgement) = watch::channel(0);
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = JoinSet::new();
    for ask in askers {
        let (phase, judged, stop) = (phase.clone(), judged.clone(), stop.clone());
        threads.spawn(async move {
            let mut decisions = [0u64; 4];
            while !stop.load(Ordering::SeqCst) {
                let begun = phase.load(Ordering::SeqCst);
                let allowed = ask().await;
                let ended = phase.load(Ordering::SeqCst);
                if begun == ended {
                    assert!(begun % 4 != OPEN || allowed, "denied after widening {}", begun / 4);
                    assert!(
                        begun % 4 != CLOSED || !allowed,
                        "allowed after narrowing {}",
                        begun / 4
                    );
                    decisions[(begun % 4) as usize] += 1;
                    judged.send_if_modified(|latest| begun > std::mem::replace(latest, begun));
                }
                // What is in memory is answered without a pause, and the others want their turn.
                tokio::task::yield_now().await;
            }
            decisions
        });
    }

    for toggle in 0..toggles {
        for (during, after, entry) in [(CLOSING, CLOSED, THERE), (OPENING, OPEN + 4, HERE)] {
            phase.store(toggle * 4 + during, Ordering::SeqCst);
            replace(entry).await;
            phase.store(toggle * 4 + after, Ordering::SeqCst);
            // Until somebody has decided in this phase, or has seen a wrong decision.
            tokio::select! {
                seen = judgement.wait_for(|latest| *latest >= toggle * 4 + after) => drop(seen),
                Some(early) = threads.join_next() => drop(early.expect("a wrong decision")),
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    let mut decisions = [0; 4];
    for counts in threads.join_all().await {
        decisions.iter_mut().zip(counts).for_each(|(all, one)| *all += one);
    }
    println!("{toggles} toggles; decisions while open, closing, closed, opening: {decisions:?}");
    assert!(decisions[0] >= toggles && decisions[2] >= toggles, "{decisions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_decision_begun_after_a_change_rests_on_what_was_before() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[HERE]).await;
    let mut askers: Vec<Ask> = Vec::new();
    for _ in 0..4 {
        let client = Client::operator(&server).await;
        let ask = question(&secret, HERE, SCOPE);
        askers.push(Box::new(move || {
            let (client, ask) = (client.clone(), ask.clone());
            Box::pin(async move { reason(&client, ask).await == Reason::Allowed })
        }));
    }
    hammer(100, askers, async |entry| {
        operator.tokens().manage_whitelist(whitelist(&token.token_id, &[entry])).await.unwrap();
    })
    .await;
}

/// The same without the sockets between, thousands of times.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_decision_begun_after_thousands_of_changes_rests_on_what_was_before() {
    let home = tempfile::TempDir::new().unwrap();
    let services = services(home.path()).await;
    let caller = Caller::development(None);
    let account = services.create_account(&caller, "x", &["a@b.c".into()]).await.unwrap().value;
    let account_id = account.id.to_string();
    let create = CreateToken {
        expires: None,
        account_id: &account_id,
        name: "x",
        kind: Some(Kind::ReadOnly),
        scopes: &[],
        whitelist: &[HERE.to_owned()],
        labels: None,
        validate_only: false,
    };
    let (described, secret) = services.create_token(&caller, create).await.unwrap().value;
    let (token_id, secret) = (described.token.id.to_string(), Arc::new(secret.unwrap()));
    let mut askers: Vec<Ask> = Vec::new();
    for _ in 0..8 {
        let (services, secret) = (services.clone(), secret.clone());
        askers.push(Box::new(move || {
            let (services, secret) = (services.clone(), secret.clone());
            Box::pin(
                async move { ask(&services, secret.expose()).await == decide::Reason::Allowed },
            )
        }));
    }
    hammer(3_000, askers, async |entry| {
        let entries = [entry.to_owned()];
        let change = ManageWhitelist {
            token_id: &token_id,
            add: &[],
            remove: &[],
            replace: Some((&entries, false)),
            expected_version: None,
            validate_only: false,
            no_wait: false,
        };
        services.manage_whitelist(&caller, change).await.unwrap();
    })
    .await;
}

fn asked(secret: &str) -> AuthorizeInput<'_> {
    let operation = RequestedOperation::Scope("s");
    AuthorizeInput {
        token: secret.as_bytes(),
        presented: secret.as_bytes(),
        client_ip: HERE,
        operation,
        dry_run: false,
        at_least_as_fresh: 0,
    }
}

async fn ask(services: &Services, secret: &str) -> decide::Reason {
    decisions::reason(services, &asked(secret)).await.unwrap()
}

/// Everything a server has in memory, over a store of its own.
async fn services(home: &std::path::Path) -> InProcess {
    let caller = Caller::development(None);
    let ctx = caller.context(Timestamp(0));
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(home, "test").await.unwrap());
    store.add_secret_key(&ctx, &[7; 32], true).await.unwrap();
    let toml = "[[scope]]\nname = \"s\"\naccess = \"read\"\n";
    let names: Vec<_> =
        catalog_file::parse(toml).unwrap().into_iter().map(|scope| scope.name).collect();
    store.apply_catalog(&ctx, None, toml, &names).await.unwrap().unwrap();
    let metrics = Arc::new(Metrics::new());
    let cache = Cache::load(store.clone(), 1_000, metrics.clone(), Handle::current()).await;
    let cache = Arc::new(cache.unwrap());
    let replicas = Replicas::alone(cache.clone());
    decisions::services(store, cache, replicas, metrics)
}

/// Tokens that belong where that one does at hand, one more than there is room for.
fn neighbours(id: TokenId) -> impl Iterator<Item = TokenId> {
    let (high, low) = id.0.as_u64_pair();
    (1..=8).map(move |other| TokenId(Uuid::from_u64_pair(high, low ^ other)))
}

async fn make_neighbours(services: &InProcess, account_id: AccountId, id: TokenId) {
    let ctx = Caller::development(None).context(Timestamp(1));
    let in_force = services.parts.cache.catalog().unwrap();
    for (number, id) in (0..).zip(neighbours(id)) {
        let new = NewToken {
            labels: Default::default(),
            expires: None,
            id,
            account_id,
            name: "neighbour".into(),
            digest: [number; 32],
            kind: Kind::ReadOnly,
            scopes: Vec::new(),
            whitelist: Whitelist::Unrestricted,
        };
        services.parts.store.create_token(&ctx, &in_force.catalog, &new).await.unwrap().unwrap();
        assert!(services.parts.cache.tokens.read(id).await.unwrap().is_some());
    }
}

/// Has the token displaced by its neighbours, which have filled its place before it came.
async fn displace(services: &InProcess, id: TokenId) {
    for id in neighbours(id) {
        assert!(matches!(services.parts.cache.tokens.get(id).await, Lookup::Hit(Some(_))));
    }
}

/// What is known of a token tells its secret from every other text that names it: when the store has to be asked
/// first, when the cache behind knows it, and when it is at hand. Rules 2.6 and 7.5.
#[tokio::test]
async fn a_known_token_is_opened_by_its_secret_alone() {
    let home = tempfile::TempDir::new().unwrap();
    let services = services(home.path()).await;
    let caller = Caller::development(None);
    let account = services.create_account(&caller, "x", &["a@b.c".into()]).await.unwrap().value;
    let create = CreateToken {
        expires: None,
        account_id: &account.id.to_string(),
        name: "x",
        kind: Some(Kind::ReadOnly),
        scopes: &[],
        whitelist: &[],
        labels: None,
        validate_only: false,
    };
    let (described, secret) = services.create_token(&caller, create).await.unwrap().value;
    let (id, secret) = (described.token.id, secret.unwrap());
    make_neighbours(&services, account.id, id).await;
    let secret = secret.expose();
    let other =
        services.parts.cache.keys().make(SecretKind::Token, &services.parts.prefix, id.0, &[1; 16]);
    let thief = KeyRing::new(&[SecretKey::new(0, [9; 32])]).unwrap();
    let forged = thief.make(SecretKind::Token, &services.parts.prefix, id.0, &[1; 16]);
    let mistyped = format!("{}{}", &secret[..69], if secret.ends_with('0') { '1' } else { '0' });
    let texts = [
        (secret, decide::Reason::Allowed),
        (other.expose(), decide::Reason::TokenNotFound),
        (forged.expose(), decide::Reason::TokenNotFound),
        (mistyped.as_str(), decide::Reason::TokenMalformed),
    ];
    // Each before anything is known: what was made here is looked for in the store, and nothing else is.
    for (text, reason) in texts {
        services.parts.cache.tokens.invalidate(id).await;
        let misses = services.parts.metrics.cache_misses.get();
        assert_eq!(ask(&services, text).await, reason, "{text}, from the store");
        let read = [secret, other.expose()].contains(&text);
        assert_eq!(services.parts.metrics.cache_misses.get() - misses, u64::from(read), "{text}");
    }
    // When only the cache behind knows, as of a token that others have displaced.
    let get_near = || services.parts.cache.tokens.get_near(id, &Guard::new()).is_some();
    assert_eq!(ask(&services, secret).await, decide::Reason::Allowed);
    let misses = services.parts.metrics.cache_misses.get();
    for (text, reason) in texts {
        displace(&services, id).await;
        assert!(!get_near());
        assert_eq!(ask(&services, text).await, reason, "{text}, from behind");
    }
    // When it is at hand.
    assert_eq!(ask(&services, secret).await, decide::Reason::Allowed);
    for _ in 0..2 {
        for (text, reason) in texts {
            assert!(get_near());
            assert_eq!(ask(&services, text).await, reason, "{text}, at hand");
        }
    }
    assert_eq!(services.parts.metrics.cache_misses.get(), misses, "it was known all the time");

    // And side by side in batches, whatever stands beside it; each is counted.
    let counted = |name: &str| {
        let metrics = services.parts.metrics.render(Exposition::Text);
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse::<usize>().unwrap()
    };
    const HITS: &str = "portcullis_cache_hits_total";
    let word =
        |reason| decide::Reason::ALL.into_iter().find(|(other, _)| *other == reason).unwrap().1;
    let name = |reason| format!("portcullis_decisions_total{{reason=\"{}\"}}", word(reason));
    let before = (counted(HITS), texts.map(|(_, reason)| counted(&name(reason))));
    for turn in 0..texts.len() {
        let mut texts = texts;
        texts.rotate_left(turn);
        let questions = texts.map(|(text, _)| Ok(asked(text)));
        let context = services.decision_context(None).unwrap();
        let mut reasons = Vec::new();
        context.evaluate_batch(&questions, |_, evaluated| {
            reasons.push(evaluated.as_ref().unwrap().unwrap().verdict.reason());
        });
        assert_eq!(reasons, texts.map(|(_, reason)| reason));
    }
    // Four times one by one, and four times together; only one of the texts was forged.
    assert_eq!(services.parts.metrics.forged.get(), 8);
    let after = (counted(HITS), texts.map(|(_, reason)| counted(&name(reason))));
    // All four name a token that is at hand, and two are answered alike.
    assert_eq!(after.0 - before.0, 16);
    let each: Vec<_> = after.1.iter().zip(before.1).map(|(after, before)| after - before).collect();
    assert_eq!(each, [4, 8, 8, 4]);
}

/// Absent tokens are remembered as such, and creation ends that, also for those who asked while it
/// was under way. Only here can an id be asked for before it exists: the server chooses ids itself,
/// and a made-up secret does not get as far as the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_asked_for_before_its_creation_is_found_after_it() {
    let home = tempfile::TempDir::new().unwrap();
    let services = services(home.path()).await;
    let caller = Caller::development(Some(IpAddr::from([127, 0, 0, 1])));
    let account = services.create_account(&caller, "x", &["a@b.c".into()]).await.unwrap().value;
    for round in 0..300 {
        let id = TokenId(Uuid::now_v7());
        let secret = services.parts.cache.keys().make(
            SecretKind::Token,
            &services.parts.prefix,
            id.0,
            &[1; 16],
        );
        let misses = services.parts.metrics.cache_misses.get();
        for _ in 0..3 {
            let reason = ask(&services, secret.expose()).await;
            assert_eq!(reason, decide::Reason::TokenNotFound, "round {round}");
        }
        assert_eq!(
            services.parts.metrics.cache_misses.get(),
            misses + 1,
            "an absent token is a fact"
        );

        let done = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(Barrier::new(2));
        let asker = tokio::spawn({
            let (services, text) = (services.clone(), secret.expose().to_owned());
            let (done, ready) = (done.clone(), ready.clone());
            async move {
                ready.wait().await;
                while !done.load(Ordering::SeqCst) {
                    // A read that begins before the commit and ends after it finds nothing.
                    services.parts.cache.tokens.invalidate(id).await;
                    ask(&services, &text).await;
                }
            }
        });
        ready.wait().await;
        let new = decisions::read_only(id, account.id, secret.digest());
        let ctx = caller.context(Timestamp(1));
        let in_force = services.parts.cache.catalog().unwrap();
        services.parts.store.create_token(&ctx, &in_force.catalog, &new).await.unwrap().unwrap();
        services.parts.cache.invalidate(Invalidation::Token(id)).await;
        let reason = ask(&services, secret.expose()).await;
        done.store(true, Ordering::SeqCst);
        asker.await.unwrap();
        assert_eq!(reason, decide::Reason::Allowed, "round {round}");
        assert_eq!(ask(&services, secret.expose()).await, decide::Reason::Allowed);
    }
}

/// The near cache may hold what the second-level cache can't find any more: a change of another token, whose
/// id falls into the same slot, is enough for that. An invalidation must not rely on the latter to clear the
/// former.
#[tokio::test]
async fn an_invalidation_clears_the_near_cache_whatever_the_second_level_cache_has() {
    let home = tempfile::TempDir::new().unwrap();
    let services = services(home.path()).await;
    let caller = Caller::development(None);
    let account = services.create_account(&caller, "x", &["a@b.c".into()]).await.unwrap().value;
    for (round, everything) in [(1, false), (2, true)] {
        // Alike in the 16 bits that choose the slot.
        let ids = [1, 2].map(|number| TokenId(Uuid::from_u64_pair(round << 8 | number, 7 << 16)));
        let mut secrets = Vec::new();
        for id in ids {
            let secret = services.parts.cache.keys().make(
                SecretKind::Token,
                &services.parts.prefix,
                id.0,
                &[1; 16],
            );
            let new = decisions::read_only(id, account.id, secret.digest());
            let ctx = caller.context(Timestamp(1));
            let in_force = services.parts.cache.catalog().unwrap();
            services
                .parts
                .store
                .create_token(&ctx, &in_force.catalog, &new)
                .await
                .unwrap()
                .unwrap();
            secrets.push(secret);
        }
        let secret = secrets[0].expose();
        assert_eq!(ask(&services, secret).await, decide::Reason::Allowed);
        services.parts.cache.invalidate(Invalidation::Token(ids[1])).await;
        let misses = services.parts.metrics.cache_misses.get();
        assert_eq!(ask(&services, secret).await, decide::Reason::Allowed);
        assert_eq!(
            services.parts.metrics.cache_misses.get(),
            misses,
            "it is not in the near cache"
        );
        if everything {
            let ctx = caller.context(Timestamp(2));
            services.parts.store.delete_token(&ctx, ids[0], None).await.unwrap();
            services.parts.cache.reload().await.unwrap();
        } else {
            services.delete_token(&caller, &ids[0].to_string(), false).await.unwrap();
        }
        assert_eq!(ask(&services, secret).await, decide::Reason::TokenDeleted, "round {round}");
    }
}
