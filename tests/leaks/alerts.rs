//! Signed alerts of a publisher: over real HTTP, with keys made for the test, which a real HTTP server publishes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::grpc::proto::{Reason, TokenKind};
use portcullis::secret::{digest, hex};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::key_server::KeyServer;
use crate::replicas::stage::Stage;
use crate::support::calls::position;
use crate::support::client::{Client, reason};
use crate::support::http::{Answer, Http};
use crate::support::server::{Server, Setup};
use crate::support::smtp::Sink;
use crate::support::tls::Authority;
use crate::support::wait;

const PATH: &str = "/secret-scanning/alerts";
const ID: &str = "github-public-key-identifier";
const SIGNATURE: &str = "github-public-key-signature";

/// A publisher of alerts: a key, and the identifier that it is published with.
struct Publisher {
    id: String,
    key: KeyPair,
}

impl Publisher {
    fn new(id: &str) -> Self {
        Self { id: id.to_owned(), key: KeyPair::generate().unwrap() }
    }

    fn published(&self) -> Value {
        json!({ "key_identifier": self.id, "key": self.key.public_key_pem(), "is_current": true })
    }

    /// The two headers of a request with this body.
    fn headers(&self, body: &str) -> String {
        format!("{ID}: {}\r\n{SIGNATURE}: {}\r\n", self.id, self.sign(body))
    }

    fn sign(&self, body: &str) -> String {
        STANDARD.encode(self.key.sign(body.as_bytes()).unwrap())
    }

    /// Sends `body`, signed.
    fn send(&self, http: &mut Http, body: &str) -> Answer {
        post(http, &[(ID, &self.id), (SIGNATURE, &self.sign(body))], body)
    }
}

fn post(http: &mut Http, headers: &[(&str, &str)], body: &str) -> Answer {
    // What no publisher sends.
    let mut all =
        vec![("origin", ""), ("sec-fetch-site", ""), ("content-type", "application/json")];
    all.extend_from_slice(headers);
    http.send("POST", PATH, &all, body.as_bytes())
}

fn alert(token: &str) -> String {
    let url = format!("https://git.example/acme/pay/blob/1?q={token}");
    json!([{ "token": token, "type": "acme_token", "url": url, "source": "commit" }]).to_string()
}

fn keys(publishers: &[&Publisher]) -> String {
    let keys: Vec<_> = publishers.iter().map(|publisher| publisher.published()).collect();
    json!({ "public_keys": keys }).to_string()
}

/// Rules 11.55, 11.56, 11.57 and 11.58.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_alert_is_answered_once_every_replica_denies_the_token() {
    let publisher = Publisher::new("one");
    let published = KeyServer::start(&keys(&[&publisher]));
    // So long that an alert that waits for its end differs from one that a busy machine slows down.
    let lease = Duration::from_secs(30);
    let stage =
        Stage::leased(lease, 2, |_, setup| setup.flag("--leak-keys", published.url())).await;
    for round in 0..6 {
        let (_, secret) = stage.token(round % 2).await;
        for at in 0..2 {
            stage.allows(at, &secret).await;
        }
        let body = json!([
            { "token": "nothing", "type": "acme_token", "url": "", "source": "npm" },
            { "token": format!("secret-token:{secret}"), "type": "acme_token", "url": null },
        ]);
        let began = Instant::now();
        let mut http = Http::new(&stage.servers[round % 2]);
        let answer = publisher.send(&mut http, &body.to_string()).says(200);
        assert!(began.elapsed() < lease / 6, "it waited for a renewal: {:?}", began.elapsed());
        for client in &stage.clients {
            assert_eq!(reason(client, &secret).await, Reason::TokenRevokedLeaked);
        }
        let hash = |text: &str| hex(&digest(text.as_bytes()));
        let wanted = json!([
            { "token_hash": hash("nothing"), "token_type": "acme_token", "label": "false_positive" },
            {
                "token_hash": hash(&format!("secret-token:{secret}")), "token_type": "acme_token",
                "label": "true_positive",
            },
        ]);
        assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap(), wanted);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(!answer.text().contains(&secret[8..]));
    }
    assert_eq!(published.requests(), 2, "each replica reads the keys once");
}

/// Rules 11.53, 11.54 and 11.58.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_is_mailed_and_recorded_without_the_secret() {
    let publisher = Publisher::new("one");
    let published = KeyServer::start(&keys(&[&publisher]));
    let sink = Sink::start();
    let server = Setup::sqlite()
        .flag("--leak-keys", published.url())
        .env("PORTCULLIS_SMTP_URL", sink.url())
        .flag("--mail-from", "portcullis@example.test")
        .start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let mut http = Http::new(&server);
    publisher.send(&mut http, &alert(&secret)).says(200);
    let mail = sink.wait_for(1).remove(0);
    let text = mail.text();
    for part in [&*token.token_id, "commit", "https://git.example/acme/pay/blob/1?q=(secret)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let event = operator.audit().await.pop().unwrap();
    assert_eq!((&*event.action, &*event.actor), ("token.revoke_leaked", "secret scanning"));
    assert_eq!((event.token_id, &*event.client_address), (token.token_id, "127.0.0.1"));
    assert!(event.after_json.contains("?q=(secret)"), "{}", event.after_json);

    // Once more, and one for the last operator credential, which stays.
    let before = position(&operator).await;
    let again = publisher.send(&mut http, &alert(&secret)).says(200);
    assert!(again.text().contains("true_positive"));
    assert_eq!(position(&operator).await, before);
    let own = server.operator().to_owned();
    let kept = publisher.send(&mut http, &alert(&own)).says(200);
    assert!(kept.text().contains("true_positive"));
    operator.account().await;
    // The log is written behind.
    let alarm = "the last operator credential was reported as leaked";
    let log = wait::until(|| server.log(), |log| log.contains(alarm));
    assert!(!log.contains(&own) && !log.contains(&secret[8..]), "{log}");
    let accepted = "portcullis_leak_alerts_total{outcome=\"accepted\"}";
    assert_eq!(server.metric(accepted), Some(3));
    assert_eq!(published.requests(), 1);
}

/// Rules 11.56, 11.57 and 11.58.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_valid_signature_is_refused_alike_and_reads_the_keys_once() {
    let (publisher, other) = (Publisher::new("one"), Publisher::new("two"));
    let published = KeyServer::start(&keys(&[&publisher]));
    let server = Setup::sqlite().flag("--leak-keys", published.url()).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let mut http = Http::new(&server);
    publisher.send(&mut http, "[]").says(200);
    let before = position(&operator).await;

    let body = alert(&secret);
    let good = publisher.sign(&body);
    let foreign = other.sign(&body);
    let mut der = STANDARD.decode(&good).unwrap();
    der[20] ^= 1;
    let flipped = STANDARD.encode(der);
    let changed = body.replace("commit", "commiu");
    let requests: Vec<(Vec<(&str, &str)>, &str)> = vec![
        (vec![], &body),
        (vec![(ID, "one")], &body),
        (vec![(SIGNATURE, &good)], &body),
        (vec![(ID, "one"), (SIGNATURE, "")], &body),
        (vec![(ID, "one"), (SIGNATURE, "no base64!")], &body),
        (vec![(ID, "one"), (SIGNATURE, &flipped)], &body),
        (vec![(ID, "one"), (SIGNATURE, &foreign)], &body),
        (vec![(ID, "one"), (SIGNATURE, &good)], &changed),
        (vec![(ID, "two"), (SIGNATURE, &foreign)], &body),
        (vec![(ID, "two"), (SIGNATURE, &good)], &body),
        (vec![(ID, "one"), (ID, "two"), (SIGNATURE, &good)], &body),
        (vec![(ID, "one"), (SIGNATURE, &good), (SIGNATURE, &good)], &body),
        (vec![("x-key", "one"), ("x-signature", &good)], &body),
        (vec![(ID, "one"), (SIGNATURE, &foreign)], "no JSON"),
    ];
    let mut texts = std::collections::BTreeSet::new();
    for (headers, body) in &requests {
        texts.insert(post(&mut http, headers, body).says(403).text().to_string());
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    // Unknown keys from many, also once the publisher has the key.
    published.publish(&keys(&[&publisher, &other]));
    for at in 0..30 {
        let id = format!("unknown-{at}");
        post(&mut http, &[(ID, &id), (SIGNATURE, &foreign)], &body).says(403);
    }
    other.send(&mut http, &body).says(403);
    // The first reading was for a key that was not known yet.
    assert_eq!(published.requests(), 1);
    assert_eq!(reason(&operator, &secret).await, Reason::Allowed);
    assert_eq!(position(&operator).await, before);
    let sample = "portcullis_leak_alerts_total{outcome=\"unsigned\"}";
    assert_eq!(server.metric(sample), Some(requests.len() as i64 + 31));
    // It is the signature that makes the difference.
    publisher.send(&mut http, &body).says(200);
    assert_eq!(reason(&operator, &secret).await, Reason::TokenRevokedLeaked);
}

/// Rule 11.57.
#[test]
fn keys_that_cannot_be_read_are_asked_for_once_and_the_publisher_may_try_again() {
    let publisher = Publisher::new("one");
    let good = keys(&[&publisher]);
    let elsewhere = KeyServer::start(&good);
    for (status, headers, body) in [
        ("500 Internal Server Error", String::new(), good.clone()),
        ("302 Found", format!("location: {}\r\n", elsewhere.url()), String::new()),
        ("200 OK", String::new(), "{}".to_owned()),
        ("200 OK", String::new(), format!("{good}{}", " ".repeat(256 << 10))),
    ] {
        let published = KeyServer::start("");
        published.answer(status, &headers, &body);
        let server = Setup::sqlite().flag("--leak-keys", published.url()).start();
        let mut http = Http::new(&server);
        for _ in 0..5 {
            let refused = publisher.send(&mut http, "[]").says(503);
            assert!(refused.header("retry-after").is_some());
        }
        published.answer("200 OK", "", &good);
        publisher.send(&mut http, "[]").says(503);
        assert_eq!(published.requests(), 1, "{status}");
        post(&mut http, &[], "[]").says(403);
        let unread = "the keys of leak alerts can't be read";
        wait::until(|| server.log(), |log| log.contains(unread));
        let sample = "portcullis_leak_key_fetches_total{outcome=\"failed\"}";
        assert_eq!(server.metric(sample), Some(1));
    }
    assert_eq!(elsewhere.requests(), 0, "no redirect is followed");
}

/// Rule 11.57.
#[test]
fn keys_come_over_tls_from_a_host_that_an_authority_vouches_for() {
    let publisher = Publisher::new("one");
    let authority = Authority::new("keys");
    let published = KeyServer::start_tls(&keys(&[&publisher]), &authority.server());
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let trusting = Setup::sqlite().flag("--leak-keys", published.url()).flag("--leak-keys-ca", &ca);
    let server = trusting.start();
    publisher.send(&mut Http::new(&server), "[]").says(200);
    assert_eq!(published.requests(), 1);
    let server = Setup::sqlite().flag("--leak-keys", published.url()).start();
    publisher.send(&mut Http::new(&server), "[]").says(503);
    assert_eq!(published.requests(), 1, "nothing is sent to a host that no authority vouches for");
}

/// Rules 11.56 and 11.57.
#[test]
fn keys_in_a_file_are_read_at_the_start_and_again_for_an_unknown_one() {
    let (publisher, other) = (Publisher::new("one"), Publisher::new("two"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let setup = || Setup::sqlite().flag("--leak-keys", &path);
    let (status, said) = setup().refused();
    assert!(!status.success() && said.contains("--leak-keys: "), "{said}");
    std::fs::write(&path, "{}").unwrap();
    let (_, said) = setup().refused();
    assert!(said.contains("is not a JSON object with the list \"public_keys\""), "{said}");
    std::fs::write(&path, keys(&[&publisher])).unwrap();
    let server = setup()
        .flag("--leak-key-id-header", "X-Key")
        .flag("--leak-signature-header", "X-Signature")
        .start();
    let mut http = Http::new(&server);
    let mut send = |publisher: &Publisher| {
        let headers = [("x-key", &*publisher.id), ("x-signature", &publisher.sign("[]"))];
        post(&mut http, &headers, "[]")
    };
    send(&publisher).says(200);
    std::fs::write(&path, keys(&[&publisher, &other])).unwrap();
    send(&other).says(200);
    send(&Publisher::new("three")).says(403);
    publisher.send(&mut http, "[]").says(403);
}

/// Rule 11.56.
#[test]
fn nobody_is_asked_for_keys_where_no_publisher_is_named() {
    let server = Setup::sqlite().start();
    let publisher = Publisher::new("one");
    publisher.send(&mut Http::new(&server), "[]").says(404);
    for (value, words) in [
        ("http://keys.example/keys", "http:// only for this host"),
        ("https://user@keys.example/keys", "without a user name"),
        ("ftp://keys.example/keys", "is no URL of keys"),
    ] {
        let (status, said) = Setup::sqlite().flag("--leak-keys", value).refused();
        assert!(!status.success() && said.contains(words), "{said}");
    }
}

/// Rules 11.58 and 11.59.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_bounded_and_what_is_no_list_of_alerts_changes_nothing() {
    let publisher = Publisher::new("one");
    let published = KeyServer::start(&keys(&[&publisher]));
    let server = Setup::sqlite().flag("--leak-keys", published.url()).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let mut http = Http::new(&server);
    let before = position(&operator).await;
    for body in ["", "{}", "[7]", &format!(r#"[{{"token":"{secret}"}},{{"type":"x"}}]"#)] {
        publisher.send(&mut http, body).says(400);
    }
    let whole = |length: usize| {
        let alert = alert(&secret);
        format!("{}{alert}", " ".repeat(length - alert.len()))
    };
    let large = publisher.send(&mut http, &whole((1 << 20) + 1)).says(413);
    assert!(large.text().contains("1048576 bytes"), "{large}");
    assert_eq!(position(&operator).await, before);
    assert_eq!(reason(&operator, &secret).await, Reason::Allowed);

    // What one address withholds takes its places, not those of others.
    let headers = publisher.headers("[]");
    let mut slow = Vec::new();
    fill(
        &mut slow,
        || unfinished(&server, "127.0.0.1", &headers),
        || publisher.send(&mut http, "[]").status,
    );
    // Requests that name no key of the publisher take none.
    let unsigned = ["".to_owned(), Publisher::new("two").headers("[]")];
    let strange: Vec<_> =
        (0..8).map(|n| unfinished(&server, "127.0.0.2", &unsigned[n % 2])).collect();
    for mut stream in strange {
        assert!(answer(&mut stream).starts_with("HTTP/1.1 403 "));
    }
    publisher.send(&mut http.from("127.0.0.2"), &whole(1 << 20)).says(200);
    assert_eq!(reason(&operator, &secret).await, Reason::TokenRevokedLeaked);
    // All places of 16 are taken, and given back when their connections end.
    let mut others = ["127.0.0.3", "127.0.0.4", "127.0.0.5"].iter().cycle();
    let mut other = http.from("127.0.0.2");
    let mut more = Vec::new();
    let open = || unfinished(&server, others.next().unwrap(), &headers);
    fill(&mut more, open, || publisher.send(&mut other, "[]").status);
    drop(more);
    wait::until(|| publisher.send(&mut other, "[]").status, |status| *status == 200);
    let answers: Vec<_> = slow.iter_mut().map(answer).collect();
    let cut_off = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 408 ")).count();
    assert_eq!(cut_off, 4, "{answers:?}");
    publisher.send(&mut http, "[]").says(200);
}

/// Rule 11.59: behind a trusted proxy the places are those of the address that it names.
#[test]
fn one_ipv6_network_behind_a_trusted_proxy_has_four_places() {
    let publisher = Publisher::new("one");
    let published = KeyServer::start(&keys(&[&publisher]));
    let server = Setup::sqlite()
        .flag("--leak-keys", published.url())
        .flag("--trusted-proxy", "127.0.0.1")
        .start();
    let mut http = Http::new(&server);
    let mut send = |address: &str| {
        let signature = publisher.sign("[]");
        let headers =
            [(ID, &*publisher.id), (SIGNATURE, &*signature), ("x-forwarded-for", address)];
        post(&mut http, &headers, "[]").status
    };
    let mut addresses = 1..;
    let open = || {
        let forwarded = format!("x-forwarded-for: 2001:db8::{:x}\r\n", addresses.next().unwrap());
        unfinished(&server, "127.0.0.1", &(publisher.headers("[]") + &forwarded))
    };
    let mut slow = Vec::new();
    fill(&mut slow, open, || send("2001:db8::ffff"));
    assert_eq!(send("2001:db8:0:1::1"), 200);
    drop(slow);
    wait::until(|| send("2001:db8::5"), |status| *status == 200);
}

/// Opens requests until another one finds no place: that one may have taken the last place meanwhile.
fn fill(
    opened: &mut Vec<TcpStream>,
    mut open: impl FnMut() -> TcpStream,
    mut status: impl FnMut() -> u16,
) {
    let more = || {
        opened.push(open());
        status()
    };
    wait::until(more, |status| *status == 503);
}

/// What the server answers until it ends the connection.
fn answer(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut answer = String::new();
    // An answer to a request whose body did not come may end with a reset.
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// A request from this address with these headers, whose body does not come.
fn unfinished(server: &Server, from: &str, headers: &str) -> TcpStream {
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&server.http().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let head =
        format!("POST {PATH} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: 9\r\n\r\n[");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}
