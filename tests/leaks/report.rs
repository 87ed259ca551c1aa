//! Reports by operators: what they revoke on every replica, whom they mail, and what they answer.

use std::time::Duration;

use portcullis::grpc::proto::{
    DeleteTokenRequest, GetSelfRequest, GetTokenRequest, ImportToken, ImportTokensRequest,
    LeakReportOutcome as Outcome, LeakReportResult, ListPendingActionsRequest, Reason,
    ReportLeakedTokensRequest, ReportLeakedTokensResponse, Role, TokenKind, TokenState,
};
use portcullis::secret::digest;
use tonic::{Code, Status};

use crate::replicas::stage::Stage;
use crate::roles::plan_deletion;
use crate::support::calls::{credential, position};
use crate::support::client::{Client, reason};
use crate::support::command::Shell;
use crate::support::postgres;
use crate::support::server::Setup;
use crate::support::smtp::Sink;
use crate::support::wait::until;

async fn report(
    client: &Client,
    secrets: &[&str],
    digests: &[&str],
) -> Result<ReportLeakedTokensResponse, Status> {
    let request = ReportLeakedTokensRequest {
        secrets: secrets.iter().map(|&secret| secret.to_owned()).collect(),
        secret_sha256s: digests.iter().map(|of| digest(of.as_bytes()).to_vec()).collect(),
        source: "commit".to_owned(),
        url: "https://git.example/acme/pay/blob/1".to_owned(),
        no_wait: false,
    };
    client.tokens().report_leaked_tokens(request).await.map(tonic::Response::into_inner)
}

fn outcomes(answer: &ReportLeakedTokensResponse) -> Vec<Outcome> {
    answer.results.iter().map(LeakReportResult::outcome).collect()
}

/// Rule 11.50.
#[tokio::test]
async fn what_was_announced_for_a_leaked_token_is_withdrawn() {
    let url = postgres::database();
    let server = Setup::postgres(&url).start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    plan_deletion(&url, &account, &token.token_id).await;
    let pending = async || {
        let list =
            ListPendingActionsRequest { token_id: token.token_id.clone(), ..Default::default() };
        let listed = operator.tokens().list_pending_actions(list).await.unwrap().into_inner();
        let get = GetTokenRequest { token_id: token.token_id.clone() };
        let shown = operator.tokens().get_token(get).await.unwrap().into_inner().token.unwrap();
        (listed.pending_actions.len(), shown.pending_actions.len())
    };
    assert_eq!(pending().await, (1, 1));
    assert_eq!(outcomes(&report(&operator, &[&secret], &[]).await.unwrap()), [Outcome::Revoked]);
    assert_eq!(pending().await, (0, 0));
    assert_eq!(reason(&operator, &secret).await, Reason::TokenRevokedLeaked);
}

/// Rules 11.50 and 11.55.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaked_token_is_denied_on_every_replica_before_the_report_is_answered() {
    // So long that a report that waits for its end differs from one that a busy machine slows down.
    let lease = Duration::from_secs(30);
    let stage = Stage::leased(lease, 2, |_, setup| setup).await;
    for round in 0..10 {
        let (token, secret) = stage.token(round % 2).await;
        for at in 0..2 {
            stage.allows(at, &secret).await;
        }
        let began = std::time::Instant::now();
        let (secrets, digests) =
            if round < 5 { (vec![&*secret], vec![]) } else { (vec![], vec![&*secret]) };
        let answer = report(&stage.clients[round % 2], &secrets, &digests).await.unwrap();
        assert!(began.elapsed() < lease / 6, "it waited for a renewal: {:?}", began.elapsed());
        assert_eq!(outcomes(&answer), [Outcome::Revoked]);
        assert_eq!(answer.results[0].token_id, token.token_id);
        assert!(answer.propagation.unwrap().complete && answer.revision > 0);
        for client in &stage.clients {
            assert_eq!(reason(client, &secret).await, Reason::TokenRevokedLeaked);
        }
    }
}

/// Rules 11.51 and 11.52.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reported_secret_has_its_result_in_order() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let mut tokens = Vec::new();
    for _ in 0..4 {
        tokens.push(operator.token(&account, TokenKind::ReadOnly, &[], &[]).await);
    }
    let [(_, a), (_, b), (_, c), (gone, d)] = &tokens[..] else { panic!() };
    let delete = DeleteTokenRequest { token_id: gone.token_id.clone(), no_wait: false };
    operator.tokens().delete_token(delete).await.unwrap();
    let schemed = format!("secret-token:{b}");
    let answer = report(&operator, &[a, "pcl_nothing", &schemed, a, d], &[c, b]).await.unwrap();
    use Outcome::{AlreadyEnded, Revoked, Unknown};
    assert_eq!(
        outcomes(&answer),
        [Revoked, Unknown, Revoked, AlreadyEnded, AlreadyEnded, Revoked, AlreadyEnded]
    );
    assert_eq!(answer.results[2].token_id, tokens[1].0.token_id);
    assert_eq!(answer.results[2].account_id, account);
    assert_eq!(
        answer.results[1],
        LeakReportResult { outcome: Unknown.into(), ..Default::default() }
    );
    assert_eq!(reason(&operator, d).await, Reason::TokenDeleted);
    for (token, secret) in &tokens[..3] {
        let request = GetTokenRequest { token_id: token.token_id.clone() };
        let read = operator.tokens().get_token(request).await.unwrap().into_inner().token.unwrap();
        assert_eq!(read.state(), TokenState::RevokedLeaked);
        assert_eq!(read.last_use_time, None, "a report does not count as use");
        assert!(read.delete_time.is_some());
        assert_eq!(reason(&operator, secret).await, Reason::TokenRevokedLeaked);
        // The bearer is denied its own call for the same reason.
        let mut own = operator.with(secret).own();
        let denied = own.get_self(GetSelfRequest {}).await.unwrap_err();
        assert!(denied.message().contains("reported as leaked"), "{denied:?}");
    }
    // Nothing is known of these, and nothing is changed.
    let before = position(&operator).await;
    let answer = report(&operator, &["x"], &["y"]).await.unwrap();
    assert_eq!(outcomes(&answer), [Unknown, Unknown]);
    assert_eq!((answer.propagation, answer.revision), (None, 0));
    assert_eq!(position(&operator).await, before);
    let sample = "portcullis_leak_reports_total{outcome=\"revoked\"}";
    assert_eq!(server.metric(sample), Some(3));
}

/// Rule 11.51: who knows one form of a secret can present the others.
#[tokio::test]
async fn every_token_that_a_leaked_secret_opens_is_revoked() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    for reported in ["secret-of-elsewhere", "secret-token:secret-of-elsewhere"] {
        let account_id = operator.account().await.account_id;
        let secrets = ["secret-of-elsewhere", "secret-token:secret-of-elsewhere"]
            .map(|secret| format!("{secret}-{}", account_id));
        let tokens = secrets.iter().map(|secret| ImportToken {
            name: "elsewhere".to_owned(),
            kind: TokenKind::ReadOnly.into(),
            secret_sha256: digest(secret.as_bytes()).to_vec(),
            ..Default::default()
        });
        let request = ImportTokensRequest {
            tokens: tokens.collect(),
            account_id: account_id.clone(),
            validate_only: false,
        };
        operator.tokens().import_tokens(request).await.unwrap();
        for secret in &secrets {
            assert_eq!(reason(&operator, secret).await, Reason::Allowed);
        }
        let answer = report(&operator, &[&format!("{reported}-{account_id}")], &[]).await.unwrap();
        assert_eq!(outcomes(&answer), [Outcome::Revoked]);
        for secret in &secrets {
            assert_eq!(reason(&operator, secret).await, Reason::TokenRevokedLeaked, "{reported}");
        }
    }
}

/// Rule 11.51.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_reports_name_each_field_and_change_nothing() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let (_, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let send = async |request| operator.tokens().report_leaked_tokens(request).await.unwrap_err();
    let good = ReportLeakedTokensRequest { secrets: vec![secret.clone()], ..Default::default() };
    for (request, words) in [
        (ReportLeakedTokensRequest::default(), "secrets: is required"),
        (
            ReportLeakedTokensRequest { secret_sha256s: vec![vec![0; 31]], ..good.clone() },
            "secret_sha256s[0]: has 31 bytes",
        ),
        (
            ReportLeakedTokensRequest { secrets: vec![secret.clone(); 101], ..Default::default() },
            "the most is 100",
        ),
        (
            ReportLeakedTokensRequest {
                secrets: vec![secret.clone(), String::new(), "x".repeat(4_097)],
                ..Default::default()
            },
            "secrets[1]: is empty",
        ),
        (
            ReportLeakedTokensRequest { source: "s".repeat(201), ..good.clone() },
            "source: has 201 characters",
        ),
        (
            ReportLeakedTokensRequest { url: "u".repeat(2_001), ..good.clone() },
            "url: has 2001 characters",
        ),
    ] {
        let status = send(request).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(words), "{words}: {}", status.message());
        assert!(!status.message().contains(&secret));
    }
    assert_eq!(reason(&operator, &secret).await, Reason::Allowed);
    let (_, admin) = credential(&operator, Role::AccountAdmin, &account).await;
    let (_, pep) = credential(&operator, Role::Pep, "").await;
    for role in [admin, pep] {
        let denied = report(&operator.with(&role), &[&secret], &[]).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied);
    }
}

/// Rules 11.53 and 11.54.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_admin_is_mailed_at_once_and_no_mail_contains_the_secret() {
    let sink = Sink::start();
    let mut server = Setup::sqlite()
        .env("PORTCULLIS_SMTP_URL", sink.url())
        .flag("--mail-from", "portcullis@example.test")
        .start();
    let operator = Client::operator(&server).await;
    let request = portcullis::grpc::proto::CreateAccountRequest {
        name: "Acme Ltd".to_owned(),
        admin_emails: ["ann@acme.example", "bob@acme.example"].map(str::to_owned).to_vec(),
    };
    let account = operator.accounts().create_account(request).await.unwrap().into_inner();
    let account = account.account.unwrap().account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let (admin, admin_secret) = credential(&operator, Role::AccountAdmin, &account).await;

    report(&operator, &[&secret], &[]).await.unwrap();
    let mails = sink.wait_for(2);
    let mut recipients: Vec<_> = mails.iter().flat_map(|mail| mail.to.clone()).collect();
    recipients.sort();
    assert_eq!(recipients, ["ann@acme.example", "bob@acme.example"]);
    for mail in &mails {
        let subject = mail.header("Subject").unwrap();
        assert!(subject.contains("leaked and was revoked"), "{subject}");
        let text = mail.text();
        for part in [&*token.token_id, "commit", "https://git.example/acme/pay/blob/1", "audit"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains(&secret[8..]), "{text}");
    }
    let answer = report(&operator, &[&admin_secret], &[]).await.unwrap();
    assert_eq!(outcomes(&answer), [Outcome::Revoked]);
    let result = &answer.results[0];
    assert_eq!((&result.credential_id, &result.account_id), (&admin.credential_id, &account));
    let mails = sink.wait_for(4);
    for mail in &mails[2..] {
        assert!(mail.text().contains(&admin.credential_id), "{}", mail.text());
    }
    let mut revoked = operator.with(&admin_secret).tokens();
    let refused = revoked.get_token(GetTokenRequest { token_id: token.token_id }).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    // At its end all of the log is written.
    assert!(server.terminate().success());
    assert!(!server.log().contains(&secret[8..]));
}

/// Rule 11.54.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_operator_credential_stays_valid_and_alarms() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let own = server.operator().to_owned();
    let answer = report(&operator, &[&own], &[]).await.unwrap();
    assert_eq!(outcomes(&answer), [Outcome::LastOperator]);
    operator.account().await;
    // The log is written behind.
    let alarm = "the last operator credential was reported as leaked";
    let log = until(|| server.log(), |log| log.contains(alarm));
    assert!(!log.contains(&own));
    let sample = "portcullis_leak_reports_total{outcome=\"last_operator\"}";
    assert_eq!(server.metric(sample), Some(1));

    // Once there is another one, the report revokes it.
    let (_, second) = credential(&operator, Role::Operator, "").await;
    let answer = report(&operator.with(&second), &[], &[&own]).await.unwrap();
    assert_eq!(outcomes(&answer), [Outcome::Revoked]);
    let refused = report(&operator, &[&own], &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(reason(&operator.with(&second), "x").await, Reason::TokenMalformed);
}

/// Rule 11.51.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_reads_secrets_from_a_file_or_standard_input() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account = operator.account().await.account_id;
    let shell = Shell::operator(&server);
    let (first, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let (_, other) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let (_, third) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let file = server.data_dir().join("found.txt");
    let hex = portcullis::secret::hex(&digest(other.as_bytes()));
    std::fs::write(&file, format!("{secret}\n\nsha256:{hex}\nnothing\n")).unwrap();
    let path = file.to_str().unwrap();
    let args = ["token", "report-leaked", path, "--source", "commit", "--yes"];
    let said = shell.run(&args).exits(0);
    said.shows(&[&first.token_id, "revoked", "unknown", "LINE"]);
    let again = ["token", "report-leaked", path, "--yes", "--output", "json"];
    let again = shell.run(&again).json();
    let words: Vec<_> =
        (0..3).map(|at| again["results"][at]["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        words,
        [
            "LEAK_REPORT_OUTCOME_ALREADY_ENDED",
            "LEAK_REPORT_OUTCOME_ALREADY_ENDED",
            "LEAK_REPORT_OUTCOME_UNKNOWN"
        ]
    );
    let many = format!("{}secret-token:{third}\n", "nothing\n".repeat(150));
    let said = shell.run_with(&["token", "report-leaked", "--yes"], &many).exits(0);
    said.shows(&["151", "revoked"]);
    until(
        || server.metric("portcullis_leak_reports_total{outcome=\"revoked\"}"),
        |n| *n == Some(3),
    );
    shell.run(&["token", "show", &first.token_id]).exits(0).shows(&["revoked-leaked"]);
    let own = server.operator().to_owned();
    let said = shell.run_with(&["token", "report-leaked", "--yes"], &own).exits(0);
    said.shows(&["last-operator"]).tells(&["STAYS VALID"]);
}
