//! A store with many tokens, made faster than by asking for each: rows as the server itself would
//! have written them, secrets made under its key.

use std::sync::Arc;

use portcullis::grpc::proto::account_service_client::AccountServiceClient;
use portcullis::grpc::proto::credential_service_client::CredentialServiceClient;
use portcullis::grpc::proto::{ClientSource, CreateAccountRequest, CreateCredentialRequest, Role};
use portcullis::policy::id::{AccountId, TokenId};
use portcullis::secret::{KeyRing, Prefix, SecretKey, SecretKind};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::questions::Token;
use super::side::Side;

/// Of every token; the one that lets the load's address in is as long as the constant answer's.
pub const WHITELIST: &str = "10.0.0.0/24,192.0.2.7,198.51.100.0/24,2001:db8::/32";
const ROWS_A_PART: usize = 20_000;

/// What a load needs to know of a store.
#[derive(Clone)]
pub struct Seeded {
    /// Each second one is READ_ONLY, the others READ_WRITE.
    pub tokens: Arc<[Token]>,
    pub credential: Arc<str>,
    pub key_number: u16,
}

/// Adds an account with `count` tokens, and a PEP's credential, to the store of `side` at `url`.
pub async fn seed(side: &Side, operator: &str, url: &str, count: usize) -> Seeded {
    let channel = tonic::transport::Endpoint::new(format!("http://{}", side.address));
    let channel = channel.expect("an address").connect().await.expect("the server");
    let bearer: tonic::metadata::MetadataValue<_> =
        format!("Bearer {operator}").parse().expect("a credential");
    let with_bearer = move |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("authorization", bearer.clone());
        Ok(request)
    };
    let account = AccountServiceClient::with_interceptor(channel.clone(), with_bearer.clone())
        .create_account(CreateAccountRequest {
            name: "Load".to_owned(),
            admin_emails: vec!["admin@example.com".to_owned()],
        })
        .await
        .expect("an account");
    let account = account.into_inner().account.expect("an account").account_id;
    let account: AccountId = account.parse().expect("an account's id");
    let credential = CredentialServiceClient::with_interceptor(channel, with_bearer)
        .create_credential(CreateCredentialRequest {
            role: Role::Pep.into(),
            account_id: String::new(),
            name: "load".to_owned(),
            client_source: Some(ClientSource {
                address_header: "x-forwarded-for".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
        .await
        .expect("a credential")
        .into_inner()
        .secret;

    let mut database = PgConnection::connect(url).await.expect("the database");
    let (number, key): (i32, Vec<u8>) =
        sqlx::query_as("SELECT number, key FROM secret_key ORDER BY number DESC LIMIT 1")
            .fetch_one(&mut database)
            .await
            .expect("the server's key");
    let number = u16::try_from(number).expect("a key's number");
    let key = SecretKey::new(number, key.try_into().expect("32 bytes"));
    let keys = KeyRing::new(&[key]).expect("one key");

    // Older ones would be announced as idle.
    let now: i64 =
        sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
            .fetch_one(&mut database)
            .await
            .expect("a time");

    let mut tokens = Vec::with_capacity(count);
    while tokens.len() < count {
        let part = ROWS_A_PART.min(count - tokens.len());
        let mut rows = String::with_capacity(part * 300);
        for _ in 0..part {
            let kind = if tokens.len() % 2 == 0 { "READ_WRITE" } else { "READ_ONLY" };
            let (token, id, digest) = make(&keys);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            rows.push_str(&format!(
                "{}\t{}\tload\t{kind}\t\\\\x{digest}\t{WHITELIST}\t1\t{now}\n",
                id.0, account.0
            ));
            tokens.push(token);
        }
        let mut copy = database
            .copy_in_raw(
                "COPY token (token_id, account_id, name, kind, digest, whitelist, \
                 whitelist_version, create_time) FROM STDIN",
            )
            .await
            .expect("COPY");
        copy.send(rows.as_bytes()).await.expect("rows");
        copy.finish().await.expect("rows");
    }
    let uses = "INSERT INTO token_use (token_id, idle_since) SELECT token_id, create_time FROM token \
                ON CONFLICT DO NOTHING";
    sqlx::query(uses).execute(&mut database).await.expect("a row of uses for each");
    // What autovacuum would do some time later, and then in the midst of a measurement.
    sqlx::query("VACUUM ANALYZE token, token_use").execute(&mut database).await.expect("VACUUM");
    sqlx::query("CHECKPOINT").execute(&mut database).await.expect("CHECKPOINT");
    Seeded { tokens: tokens.into(), credential: credential.into(), key_number: number }
}

/// Tokens of the right shape and checksum, made under a key of that number which is not the server's.
pub fn forge(key_number: u16, count: usize) -> Arc<[Token]> {
    let keys = KeyRing::new(&[SecretKey::new(key_number, random())]).expect("one key");
    (0..count).map(|_| make(&keys).0).collect()
}

fn make(keys: &KeyRing) -> (Token, TokenId, [u8; 32]) {
    let prefix: Prefix = "pcl".parse().expect("a prefix");
    let id = TokenId(Uuid::now_v7());
    let secret = keys.make(SecretKind::Token, &prefix, id.0, &random());
    let token = Token::new(secret.expose(), &id.to_string());
    (token, id, secret.digest())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("random bytes");
    bytes
}
