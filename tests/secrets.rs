//! No secret in any output: a whole story at the most verbose log level on both stores, and then a
//! search of everything that came of it for every secret that was made in it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use crate::support::client::{Client, question};
use crate::support::command::Shell;
use crate::support::postgres::{self, Cluster};
use crate::support::server::{Server, Setup, random_credential};
use crate::support::tls::Authority;
use portcullis::grpc::proto::{
    BatchAuthorizeRequest, CreateAccountRequest, CreateCredentialRequest, CreateTokenRequest,
    DeleteTokenRequest, GetTokenRequest, ListAuditEventsRequest, ListCredentialsRequest,
    ListTokensRequest, ManageWhitelistRequest, RevokeCredentialRequest, Role,
    RotateSecretKeyRequest, TokenKind,
};
use portcullis::policy::id::read_base62;
use portcullis::secret::{KeyRing, ParsedSecret, SecretKey, SecretKind};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Certificate, ClientTlsConfig};
use uuid::Uuid;

/// Every secret of a story, in each form in which it could leak.
#[derive(Default)]
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    /// A secret made by the server: whole, without its prefix, and its random part as text, as hex
    /// and as bytes. Its id is no secret, and neither are its ends.
    fn add_made(&mut self, what: &str, secret: &str) {
        assert_eq!(secret.len(), "pcl_t1_".len() + 63, "the layout of secrets has changed");
        let body = &secret["pcl_t1_".len()..];
        let random = &body[24..46];
        let bits = read_base62(random.as_bytes()).expect("base 62");
        self.add(what, secret);
        self.add(&format!("{what}, less its prefix"), body);
        self.add(&format!("{what}, its random part"), random);
        self.add(&format!("{what}, half of its random part"), &random[..11]);
        self.add(&format!("{what}, its random part and tag"), &body[24..57]);
        self.add(&format!("{what}, its random part in hex"), &format!("{bits:032x}"));
        self.0.push((format!("{what}, its random bytes"), bits.to_be_bytes().to_vec()));
    }

    /// A secret that was chosen elsewhere: whole, and either half.
    fn add_chosen(&mut self, what: &str, secret: &str) {
        let (front, back) = secret.split_at(secret.len() / 2);
        self.add(what, secret);
        self.add(&format!("front half of {what}"), front);
        self.add(&format!("back half of {what}"), back);
    }

    fn add(&mut self, what: &str, text: &str) {
        self.0.push((what.to_owned(), text.as_bytes().to_vec()));
    }

    /// What of it stands in `output`.
    fn found_in(&self, output: &[u8]) -> Vec<&str> {
        let stands = |needle: &[u8]| output.windows(needle.len()).any(|window| window == needle);
        self.0.iter().filter(|(_, needle)| stands(needle)).map(|(what, _)| what.as_str()).collect()
    }
}

/// Everything that came of a story.
#[derive(Default)]
struct Outputs(Vec<(String, Vec<u8>)>);

impl Outputs {
    fn add(&mut self, what: impl Into<String>, output: impl Into<Vec<u8>>) {
        self.0.push((what.into(), output.into()));
    }

    /// An error of a call that must fail: all that a client can see of it.
    #[track_caller]
    fn add_error<T: std::fmt::Debug>(&mut self, what: &str, answer: Result<T, Status>) {
        let status = answer.map(|_| ()).expect_err(what);
        self.add(format!("{what}: debug"), format!("{status:?}"));
        self.add(format!("{what}: message"), status.message());
        self.add(format!("{what}: details"), status.details());
        let metadata = status.metadata().clone().into_headers();
        for (name, value) in &metadata {
            self.add(format!("{what}: {name}"), value.as_bytes());
        }
    }

    fn add_files(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            self.add(format!("file {file}"), fs::read(&path).unwrap());
        }
    }

    fn must_be_free_of(&self, secrets: &Secrets) {
        let mut leaks = Vec::new();
        for (what, output) in &self.0 {
            leaks.extend(secrets.found_in(output).iter().map(|secret| format!("{what}: {secret}")));
        }
        assert!(leaks.is_empty(), "secrets in outputs:\n{}", leaks.join("\n"));
    }
}

#[test]
fn the_search_finds_what_is_planted() {
    let keys = KeyRing::new(&[SecretKey::new(0, [7; 32])]).unwrap();
    let random = *b"\x01random bytes!\xff\xfe";
    let prefix = "pcl".parse().unwrap();
    let made = keys.make(SecretKind::Token, &prefix, Uuid::from_u128(7), &random);
    let (made, chosen) = (made.expose(), random_credential());
    let mut secrets = Secrets::default();
    secrets.add_made("made", made);
    secrets.add_chosen("chosen", &chosen);

    for clean in ["", "pcl_t1_", &made[..31], "an honest log line"] {
        assert_eq!(secrets.found_in(clean.as_bytes()), <[&str; 0]>::default(), "{clean}");
    }
    let bytes = [b"\x00\xff", &random[..], b"\x00"].concat();
    let planted = [
        format!("token={made} ").into_bytes(),
        made.as_bytes()[7..].to_vec(),
        format!("x{}x", &made[31..53]).into_bytes(),
        bytes,
        format!("\"{chosen}\"").into_bytes(),
        chosen.as_bytes()[24..].to_vec(),
    ];
    for output in planted {
        assert!(!secrets.found_in(&output).is_empty(), "{}", String::from_utf8_lossy(&output));
        let mut outputs = Outputs::default();
        outputs.add("planted", output);
        let failed = std::panic::catch_unwind(|| outputs.must_be_free_of(&secrets));
        assert!(failed.is_err());
    }
}

/// Rules 7.1, 7.2 and 7.8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_gets_out_on_sqlite() {
    let (mut secrets, mut outputs) = (Secrets::default(), Outputs::default());
    let logged = TempDir::new().unwrap();
    let setup = Setup::sqlite().log("trace").flag("--decision-log", logged.path().join("log"));
    let mut server = setup.flag("--decision-log-allows", "1").start();
    story(&server, &mut secrets, &mut outputs).await;
    // While it runs, the log of the database is full; afterwards, all is in one file.
    outputs.add_files(&server.data_dir());
    server.kill9();
    outputs.add_files(&server.data_dir());
    server.restart();
    assert!(server.terminate().success());
    outputs.add_files(&server.data_dir());
    outputs.add_files(logged.path());
    assert!(outputs.0.iter().any(|(what, bytes)| what == "file log" && bytes.len() > 4_096));
    assert!(outputs.0.iter().any(|(what, bytes)| what.ends_with("-wal") && bytes.len() > 4_096));
    finish(&server, &secrets, outputs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_gets_out_on_postgres() {
    let (mut secrets, mut outputs) = (Secrets::default(), Outputs::default());
    let cluster = Cluster::with_fsync();
    let password = random_credential();
    let url = with_password(&cluster, &password).await;
    secrets.add_chosen("the database password", &password);

    let wrong = random_credential();
    secrets.add_chosen("a wrong database password", &wrong);
    for url in [
        url.replace(&password, &wrong),
        url.replace(&password, &format!("{wrong}/#?")),
        format!("{}?pasword={wrong}", url.replace(&format!(":{password}"), "")),
        format!("postgres//app:{wrong}@127.0.0.1/x"),
        format!("postgres://app:{wrong}@127.0.0.1:1/x"),
    ] {
        let setup = Setup::postgres(&url).log("trace").flag("--wait-for-store", "0s");
        let (status, log) = setup.refused();
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains("error: "), "{log}");
        outputs.add("the log of a refused start", log);
        let shell = Shell::new().env("PORTCULLIS_DATABASE_URL", &url);
        let answer = shell.run(&["migrate", "--wait-for-store", "0s"]);
        outputs.add("migrate", answer.exits(2).printed());
    }
    let flag = Shell::new().run(&["migrate", "--database-url", &url]).exits(2);
    outputs.add("--database-url", flag.tells(&["`ps` shows flags"]).printed());

    let mut server = Setup::postgres(&url).log("trace").start();
    story(&server, &mut secrets, &mut outputs).await;
    cluster.stop();
    let client = Client::operator(&server).await;
    outputs.add_error(
        "without the database",
        client.tokens().list_tokens(ListTokensRequest::default()).await,
    );
    cluster.start();
    server.restart();
    let mut dump = postgres::program("pg_dump");
    let dump = dump.args(["--inserts", "--dbname", &url]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout.clone()).unwrap();
    assert!(text.contains("token.create") && text.contains("INSERT INTO public.credential"));
    outputs.add("the database", dump.stdout);
    finish(&server, &secrets, outputs);
}

/// The URL of a database whose user must give `password`.
async fn with_password(cluster: &Cluster, password: &str) -> String {
    let url = cluster.database();
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let hba: String = sqlx::query_scalar("SHOW hba_file").fetch_one(&mut admin).await.unwrap();
    let database: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(&mut admin).await.unwrap();
    let statements = format!(
        "CREATE ROLE app LOGIN PASSWORD '{password}'; \
         ALTER DATABASE {database} OWNER TO app; ALTER SCHEMA public OWNER TO app; \
         COPY (VALUES ('host all app 127.0.0.1/32 scram-sha-256'), ('local all all trust'), \
                      ('host all all 127.0.0.1/32 trust')) TO '{hba}'; \
         SELECT pg_reload_conf()"
    );
    admin.execute(sqlx::AssertSqlSafe(statements)).await.unwrap();
    let right = url.replace("postgres@", &format!("app:{password}@"));
    // The reload is not waited for by the one who asks for it.
    while PgConnection::connect(&right.replace(password, "wrong")).await.is_ok() {}
    right
}

async fn story(server: &Server, secrets: &mut Secrets, outputs: &mut Outputs) {
    secrets.add_chosen("the operator's credential", server.operator());
    let client = Client::operator(server).await;
    let account = client.account().await.account_id;

    let mut made = Vec::new();
    for (kind, scopes, whitelist) in [
        (TokenKind::ReadOnly, &[][..], &[][..]),
        (TokenKind::ReadWrite, &[], &["192.0.2.0/24"]),
        (TokenKind::Custom, &["transactions.read", "cards.reveal"], &["192.0.2.1"]),
    ] {
        let (token, secret) = client.token(&account, kind, scopes, whitelist).await;
        secrets.add_made("a token", &secret);
        made.push((token.token_id, secret));
    }
    let mut callers = Vec::new();
    for role in [Role::Pep, Role::AccountAdmin, Role::Operator] {
        let account_id = if role == Role::AccountAdmin { account.clone() } else { String::new() };
        let request =
            CreateCredentialRequest { role: role.into(), account_id, ..Default::default() };
        let answer = client.credentials().create_credential(request).await.unwrap();
        outputs.add("an answer, for debugging", format!("{answer:?}"));
        let answer = answer.into_inner();
        secrets.add_made("a credential", &answer.secret);
        callers.push((answer.credential.unwrap().credential_id, answer.secret));
    }
    client.credentials().rotate_secret_key(RotateSecretKeyRequest {}).await.unwrap();

    decisions(&client.with(&callers[0].1), &made, secrets, outputs).await;
    management(&client, &account, &made, outputs).await;
    refusals(server, &client, &account, &callers, secrets, outputs).await;
    commands(server, &account, secrets, outputs);
    debug_prints(&made[0].1, outputs);
    tls(secrets, outputs).await;
    outputs.add("/metrics", get(server, "/metrics"));
    outputs.add("/readyz", get(server, "/readyz"));
}

async fn decisions(
    client: &Client,
    made: &[(String, String)],
    secrets: &mut Secrets,
    outputs: &mut Outputs,
) {
    let thief = KeyRing::new(&[SecretKey::new(0, [9; 32])]).unwrap();
    let id = ParsedSecret::parse(made[0].1.as_bytes(), SecretKind::Token).unwrap().id;
    let mut random = [0; 16];
    getrandom::fill(&mut random).unwrap();
    let forged = thief.make(SecretKind::Token, &"pcl".parse().unwrap(), id, &random);
    let forged = forged.expose().to_owned();
    secrets.add_made("a forged token", &forged);
    let mistyped = made[1].1.replacen('_', "-", 1);

    let mut requests = Vec::new();
    for token in made.iter().map(|(_, secret)| secret).chain([&forged, &mistyped]) {
        for ip in ["192.0.2.1", "203.0.113.9", ""] {
            for scope in ["transactions.read", "cards.reveal"] {
                requests.push(question(token, ip, scope));
            }
        }
    }
    requests.push(question(&made[0].1, "no address", "no.such.scope"));
    outputs.add("a question, for debugging", format!("{requests:?}"));
    for request in &requests[..requests.len() - 1] {
        let answer = client.authorization().authorize(request.clone()).await.unwrap();
        outputs.add("a decision", format!("{answer:?}"));
    }
    let bad = requests.last().unwrap().clone();
    outputs.add_error("no decision", client.authorization().authorize(bad).await);
    let batch = BatchAuthorizeRequest { requests: requests.clone() };
    let batch = client.authorization().batch_authorize(batch).await.unwrap();
    outputs.add("a batch of decisions", format!("{batch:?}"));
    let too_many = vec![requests[0].clone(); 1_001];
    let too_many = BatchAuthorizeRequest { requests: too_many };
    outputs.add_error("too many", client.authorization().batch_authorize(too_many).await);
}

async fn management(
    client: &Client,
    account: &str,
    made: &[(String, String)],
    outputs: &mut Outputs,
) {
    let token_id = made[1].0.clone();
    let change = ManageWhitelistRequest {
        token_id: token_id.clone(),
        add: vec!["198.51.100.1".to_owned()],
        ..Default::default()
    };
    let changed = client.tokens().manage_whitelist(change.clone()).await.unwrap();
    outputs.add("a changed whitelist", format!("{changed:?}"));
    let stale = ManageWhitelistRequest { expected_version: Some(1), ..change.clone() };
    outputs.add_error("a stale change", client.tokens().manage_whitelist(stale).await);
    let bad = ManageWhitelistRequest { add: vec!["10.0.0.1/8".to_owned()], ..change };
    outputs.add_error("a bad entry", client.tokens().manage_whitelist(bad).await);
    let token = client.tokens().get_token(GetTokenRequest { token_id: token_id.clone() }).await;
    outputs.add("a token", format!("{:?}", token.unwrap()));
    let list = ListTokensRequest { account_id: account.to_owned(), ..Default::default() };
    outputs.add("tokens", format!("{:?}", client.tokens().list_tokens(list).await.unwrap()));
    let deleted = DeleteTokenRequest { token_id, no_wait: false };
    outputs
        .add("a deletion", format!("{:?}", client.tokens().delete_token(deleted).await.unwrap()));
    let listed = client.credentials().list_credentials(ListCredentialsRequest::default()).await;
    outputs.add("credentials", format!("{:?}", listed.unwrap()));
    let events = ListAuditEventsRequest { page_size: 1_000, ..Default::default() };
    let events = client.tokens().list_audit_events(events).await.unwrap();
    outputs.add("the record", format!("{events:?}"));
}

async fn refusals(
    server: &Server,
    client: &Client,
    account: &str,
    callers: &[(String, String)],
    secrets: &mut Secrets,
    outputs: &mut Outputs,
) {
    let list = || ListTokensRequest::default();
    let wrong = random_credential();
    secrets.add_chosen("a wrong credential", &wrong);
    let answer = client.with(&wrong).tokens().list_tokens(list()).await;
    outputs.add_error("a wrong credential", answer);
    outputs.add_error("no credential", client.anonymous().tokens().list_tokens(list()).await);
    let pep = client.with(&callers[0].1);
    outputs.add_error("a role that may not", pep.tokens().list_tokens(list()).await);
    let admin = client.with(&callers[1].1);
    let create = CreateAccountRequest::default();
    outputs.add_error("another role", admin.accounts().create_account(create).await);
    let create = CreateTokenRequest { account_id: account.to_owned(), ..Default::default() };
    outputs.add_error("nothing filled in", client.tokens().create_token(create).await);
    let revoke = RevokeCredentialRequest { credential_id: callers[2].0.clone(), no_wait: false };
    client.credentials().revoke_credential(revoke).await.unwrap();
    let revoked = client.with(&callers[2].1);
    outputs.add_error("a revoked credential", revoked.tokens().list_tokens(list()).await);
    // What is no gRPC at all, with the credential in it.
    for garbage in [
        format!("GET /{} HTTP/1.1\r\nauthorization: Bearer {}\r\n\r\n", wrong, server.operator()),
        server.operator().repeat(100),
    ] {
        let mut stream = TcpStream::connect(server.grpc()).unwrap();
        stream.write_all(garbage.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The other end may well reset the connection.
        let _ = stream.read_to_end(&mut answer);
        outputs.add("the answer to garbage", answer);
    }
}

fn commands(server: &Server, account: &str, secrets: &mut Secrets, outputs: &mut Outputs) {
    let shell = Shell::operator(server);
    let token = ["token", "create", "--account", account, "--name", "n", "--kind", "read-only"];
    let credential = ["credential", "create", "--role", "pep"];
    for (command, format) in [(&token[..], "text"), (&token[..], "json"), (&credential[..], "text")]
    {
        let command = [command, &["--output", format]].concat();
        let mut answer = shell.run(&command).exits(0);
        let secret = match format {
            "text" => std::mem::take(&mut answer.stdout).trim().to_owned(),
            _ => {
                let json: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
                let secret = json["secret"].as_str().unwrap().to_owned();
                answer.stdout = answer.stdout.replacen(&secret, "", 1);
                secret
            }
        };
        // But for that one place, which is what the command is for.
        outputs.add(format!("{command:?}"), answer.printed());
        secrets.add_made("a secret of the command", &secret);
        let check = ["check", "--scope", "transactions.read"];
        outputs.add("check", shell.run_with(&check, &secret).printed());
        let bad = ["check", "--scope", "no.such.scope"];
        outputs.add("check", shell.run_with(&bad, &secret).exits(2).printed());
        let given = Shell::operator(server).env("PORTCULLIS_TOKEN", &secret);
        outputs.add("check", given.run(&check).printed());
        let spaced = Shell::reaching(server).env("PORTCULLIS_CREDENTIAL", format!("{secret} x"));
        outputs.add("a bad credential", spaced.run(&["token", "list"]).exits(2).printed());
        let as_token = Shell::reaching(server).env("PORTCULLIS_CREDENTIAL", &secret);
        outputs.add("as credential", as_token.run(&["account", "list"]).printed());
        let far = ["token", "list", "--server", "http://192.0.2.1:1"];
        outputs.add("plaintext", shell.run(&far).exits(2).printed());
    }
    for command in
        [&["token", "list"][..], &["credential", "list"], &["audit"], &["account", "list"]]
    {
        outputs.add(format!("{command:?}"), shell.run(command).exits(0).printed());
    }
}

/// What a careless log line would print.
fn debug_prints(token: &str, outputs: &mut Outputs) {
    let parsed = ParsedSecret::parse(token.as_bytes(), SecretKind::Token).unwrap();
    outputs.add("WellFormed", format!("{parsed:?} {parsed:#?}"));
    let response = portcullis::grpc::proto::CreateTokenResponse {
        secret: token.to_owned(),
        ..Default::default()
    };
    outputs.add("CreateTokenResponse", format!("{response:?} {response:#?}"));
    let request = tonic::Request::new(question(token, "192.0.2.1", "transactions.read"));
    outputs.add("AuthorizeRequest", format!("{request:?} {request:#?}"));
    let secret: secrecy::SecretString = token.to_owned().into();
    let credential = portcullis::config::client::Credential { secret, source: "a file".to_owned() };
    outputs.add("Credential", format!("{credential:?}"));
    let url: secrecy::SecretString = format!("postgres://u:{token}@h/d").into();
    let store = portcullis::config::server::StoreSettings::Postgres {
        url,
        connections: 1,
        wait: std::time::Duration::ZERO,
    };
    outputs.add("StoreSettings", format!("{store:?}"));
}

/// A handshake that fails, one that does not, and the server's private key.
async fn tls(secrets: &mut Secrets, outputs: &mut Outputs) {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let identity = ours.server();
    for line in identity.key().lines().filter(|line| !line.starts_with("---")) {
        secrets.add("the server's private key", line);
    }
    let server = Setup::sqlite().log("trace").tls(&identity).start();
    secrets.add_chosen("another operator's credential", server.operator());
    for (authority, accepted) in [(&others, false), (&ours, true)] {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
        match Client::connect_tls(server.grpc(), server.operator(), tls).await {
            Ok(client) => {
                assert!(accepted);
                client.account().await;
            }
            Err(error) => {
                assert!(!accepted, "{error:?}");
                outputs.add("a failed handshake", format!("{error:?}"));
            }
        }
    }
    let mut plain = TcpStream::connect(server.grpc()).unwrap();
    plain.write_all(format!("authorization: Bearer {}\r\n", server.operator()).as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    outputs.add("the answer to plaintext", answer);
    assert!(server.log().contains("a TLS handshake failed"));
    outputs.add("the log of the TLS server", server.log());
}

fn get(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(server.http()).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}

fn finish(server: &Server, secrets: &Secrets, mut outputs: Outputs) {
    outputs.add("the server's log", server.log());
    assert!(secrets.0.len() > 60 && outputs.0.len() > 60, "the story was told");
    outputs.must_be_free_of(secrets);
}
