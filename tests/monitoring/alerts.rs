//! Real servers in the states that alerts are about, and a real Prometheus that notices. The alerts that need hours or
//! a flood have tests of their rules alone.

use portcullis::grpc::proto::{
    AuthorizeRequest, DeleteTokenRequest, ReportLeakedTokensRequest, SetAccountAdminsRequest,
    TokenKind,
};
use portcullis::secret::digest;

use super::prometheus::Prometheus;
use crate::support::client::{Client, forged, question};
use crate::support::http::Http;
use crate::support::postgres::Cluster;
use crate::support::server::{Server, Setup, random_credential};
use crate::support::tls::Authority;
use crate::support::wait::until;

const READ: &str = "transactions.read";

/// What clients, strangers and admins of `server` do that raises alerts. The id of a token that is denied very often.
async fn misuse(server: &Server) -> String {
    let operator = Client::operator(server).await;
    let account = operator.account().await.account_id;
    // The mail about it finds no relay.
    let admins = SetAccountAdminsRequest {
        account_id: account.clone(),
        admin_emails: vec!["new@example.com".to_owned()],
    };
    operator.accounts().set_account_admins(admins).await.unwrap();
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &["192.0.2.1"]).await;
    let forged = forged();
    // More than the alert's bound in each of two minutes, in case that a new one begins meanwhile.
    for number in 0..620 {
        let mut calls = operator.authorization();
        calls.authorize(question(&secret, "198.51.100.7", READ)).await.unwrap();
        if number % 20 == 0 {
            calls.authorize(question(&forged, "198.51.100.7", READ)).await.unwrap();
            calls.authorize(AuthorizeRequest::default()).await.unwrap_err();
            let stranger = operator.with("nobody");
            stranger.authorization().authorize(question(&secret, "", READ)).await.unwrap_err();
        }
    }
    let mut http = Http::new(server);
    for number in 0..30 {
        let wrong = format!("wrong-{number}");
        http.post("/sign-in", &[("credential", &wrong), ("next", "")]);
    }
    // Signed with a key that nobody publishes.
    let alert = [
        ("origin", ""),
        ("sec-fetch-site", ""),
        ("content-type", "application/json"),
        ("github-public-key-identifier", "unknown"),
        ("github-public-key-signature", "AAAA"),
    ];
    http.send("POST", "/secret-scanning/alerts", &alert, b"[]").says(503);
    let leaked = ReportLeakedTokensRequest {
        secret_sha256s: vec![digest(server.operator().as_bytes()).to_vec()],
        source: "test".to_owned(),
        ..Default::default()
    };
    operator.tokens().report_leaked_tokens(leaked).await.unwrap();
    token.token_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misused_servers_and_certificates_raise_their_alerts_and_a_healthy_server_none() {
    let authority = Authority::new("Test");
    let expired = authority.server_between((2020, 1, 1), (2021, 1, 1));
    let healthy = Setup::sqlite().start();
    let gone = Setup::sqlite().start();
    let misused = Setup::sqlite()
        .env("PORTCULLIS_SMTP_URL", "smtp://127.0.0.1:1")
        .flag("--mail-from", "portcullis@example.com")
        .flag("--leak-keys", "https://127.0.0.1:1/keys")
        .start();
    let stale = Setup::sqlite().tls(&expired).start();
    let (a, b, c, d) = (healthy.http(), gone.http(), misused.http(), stale.http());
    let prometheus = Prometheus::watching(&[a, b, c], &[d]);
    drop(gone);
    let denied = misuse(&misused).await;
    let warnings = || {
        let log = misused.stderr();
        let warned = log.lines().filter(|line| line.contains("a token is denied very often"));
        warned.map(str::to_owned).collect::<Vec<_>>()
    };
    let [warning] = &until(warnings, |warnings| !warnings.is_empty())[..] else {
        panic!("{:?}", warnings())
    };
    for part in [&denied[..], "CLIENT_IP_NOT_WHITELISTED", "acc_", "portcullis denials --token"] {
        assert!(warning.contains(part), "{part} is missing: {warning}");
    }
    prometheus.wait_for(&[
        ("PortcullisDown", Some(b)),
        ("PortcullisNoDecision", Some(c)),
        ("PortcullisTokenDenials", Some(c)),
        ("PortcullisForgedTokens", Some(c)),
        ("PortcullisCallersRefused", Some(c)),
        ("PortcullisSignInFailures", Some(c)),
        ("PortcullisMailRelayDown", Some(c)),
        ("PortcullisOperatorCredentialLeaked", Some(c)),
        ("PortcullisLeakKeysUnreadable", Some(c)),
        ("PortcullisErrorLogged", Some(c)),
        ("PortcullisWarningLogged", Some(c)),
        ("PortcullisCertificateExpired", Some(d)),
        // A certificate that has expired is served where there is no other, and never put in another one's place.
        ("PortcullisReloadFailed", Some(d)),
    ]);
    let of_healthy: Vec<_> =
        prometheus.firing().into_iter().filter(|(_, at)| *at == Some(a)).collect();
    assert!(of_healthy.is_empty(), "{of_healthy:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_without_their_database_or_each_other_raise_their_alerts() {
    let cluster = Cluster::new(false);
    let (url, operator) = (cluster.database(), random_credential());
    let replica = |notice: &str| {
        Setup::postgres(&url)
            .operator(&operator)
            .flag("--lease", "3s")
            .flag("--lifecycle-notice", notice)
            .flag("--lifecycle-sweep-interval", "1s")
            .start()
    };
    let (stays, mut killed) = (replica("7d"), replica("8d"));
    let (a, b) = (stays.http(), killed.http());
    let prometheus = Prometheus::watching(&[a, b], &[]);
    prometheus.wait_for(&[
        ("PortcullisLifecycleSettingsDiffer", Some(a)),
        ("PortcullisLifecycleSettingsDiffer", Some(b)),
    ]);
    killed.kill9();
    // It waits until the lease of the one that was killed has run out.
    let client = Client::operator(&stays).await;
    let account = client.account().await.account_id;
    let (token, _) = client.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let delete = DeleteTokenRequest { token_id: token.token_id, ..Default::default() };
    client.tokens().delete_token(delete).await.unwrap();
    prometheus.wait_for(&[
        ("PortcullisDown", Some(b)),
        ("PortcullisReplicaMissing", None),
        ("PortcullisChangesSlow", Some(a)),
    ]);
    cluster.stop();
    prometheus.wait_for(&[
        ("PortcullisStoreTrouble", Some(a)),
        ("PortcullisStoreErrors", Some(a)),
        ("PortcullisLeaseNotRenewed", Some(a)),
        ("PortcullisLeaseLapsed", Some(a)),
        ("PortcullisSweepFailed", Some(a)),
    ]);
}
