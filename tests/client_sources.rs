//! Where a gateway reads its client from, as a property of its credential (docs/policy.md, rules 9.2 to 9.7), through the
//! service.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portcullis::grpc::proto::{
    ClientSource, CreateCredentialRequest, Credential, Decision, ListCredentialsRequest,
    RevokeCredentialRequest, Role, TokenKind,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::calls::position;
use crate::support::client::{Client, question};
use crate::support::postgres;
use crate::support::server::{Server, Setup};

async fn create(
    operator: &Client,
    role: Role,
    source: Option<ClientSource>,
) -> Result<(Credential, String), Status> {
    let request =
        CreateCredentialRequest { role: role.into(), client_source: source, ..Default::default() };
    let made = operator.credentials().create_credential(request).await?.into_inner();
    Ok((made.credential.unwrap(), made.secret))
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// The bad fields that an error names, with what it says of each.
fn violations(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("bad fields").field_violations;
    violations.iter().map(|bad| (bad.field.clone(), bad.description.clone())).collect()
}

/// Rules 9.2 and 9.6 of docs/policy.md.
#[tokio::test]
async fn client_source_reads_back_in_canonical_form() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let written = ClientSource {
        address_header: "X-Forwarded-For".to_owned(),
        trusted_proxies: texts(&["2001:DB8::/32", "::ffff:10.0.0.0/104", "10.0.0.0/8"]),
        token_header: "X-API-Key".to_owned(),
        method_header: "X-Forwarded-Method".to_owned(),
        uri_header: "X-Forwarded-Uri".to_owned(),
        forward_token: None,
    };
    let kept = ClientSource {
        address_header: "x-forwarded-for".to_owned(),
        trusted_proxies: texts(&["10.0.0.0/8", "2001:db8::/32"]),
        token_header: "x-api-key".to_owned(),
        method_header: "x-forwarded-method".to_owned(),
        uri_header: "x-forwarded-uri".to_owned(),
        forward_token: Some(true),
    };
    let (created, _) = create(&operator, Role::Pep, Some(written)).await.unwrap();
    assert_eq!(created.client_source, Some(kept));
    let removed = ClientSource { forward_token: Some(false), ..Default::default() };
    let (removed_token, _) = create(&operator, Role::Pep, Some(removed.clone())).await.unwrap();
    assert_eq!(removed_token.client_source, Some(removed));
    let (none, _) = create(&operator, Role::Pep, None).await.unwrap();
    assert_eq!(none.client_source, None);

    let listed = operator.credentials().list_credentials(ListCredentialsRequest::default()).await;
    let listed = listed.unwrap().into_inner().credentials;
    assert_eq!(listed[1..], [created, removed_token, none]);
}

/// Rules 9.2 and 9.6 of docs/policy.md.
#[tokio::test]
async fn every_bad_field_is_refused_with_its_cure_and_nothing_is_created() {
    let server = Setup::sqlite().flag("--whitelist-widest-ipv4", "16").start();
    let operator = Client::operator(&server).await;
    let before = position(&operator).await;
    let source = ClientSource {
        address_header: "X_Forwarded_For".to_owned(),
        trusted_proxies: texts(&["192.0.2.1", "10.0.0.0/15", "0.0.0.0/0", "64:ff9b::/96", "a, b"]),
        token_header: "Portcullis-Credential".to_owned(),
        method_header: "Host".to_owned(),
        uri_header: "Authorization".to_owned(),
        forward_token: Some(true),
    };
    let status = create(&operator, Role::Pep, Some(source)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let wanted = [
        ("address_header", "write the name with -"),
        ("token_header", "name another header"),
        ("method_header", "name another header"),
        ("uri_header", "name another header"),
        ("trusted_proxies[1]", "wider than an IPv4 /16"),
        ("trusted_proxies[2]", "every address"),
        ("trusted_proxies[3]", "all IPv4 addresses"),
        ("trusted_proxies[4]", "one by one"),
    ];
    let found = violations(&status);
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for ((field, cure), (found_field, description)) in wanted.iter().zip(&found) {
        assert_eq!(*found_field, format!("client_source.{field}"));
        assert!(description.contains(cure), "{field}: {description}");
    }

    let many = (0..101).map(|n| format!("192.0.2.{n}")).collect();
    let many = ClientSource { trusted_proxies: many, ..Default::default() };
    let status = create(&operator, Role::Pep, Some(many)).await.unwrap_err();
    let [(field, description)] = &violations(&status)[..] else { panic!("{status:?}") };
    assert_eq!(field, "client_source.trusted_proxies");
    assert!(description.contains("has 101 entries, and 100 are allowed"), "{description}");

    for role in [Role::Operator, Role::Unspecified] {
        let status = create(&operator, role, Some(ClientSource::default())).await.unwrap_err();
        let [(field, _)] = &violations(&status)[..] else { panic!("{status:?}") };
        let wanted = if role == Role::Operator { "client_source" } else { "role" };
        assert_eq!(field, wanted);
    }
    assert_eq!(position(&operator).await, before);
}

/// Rule 9.7 of docs/policy.md.
#[tokio::test]
async fn gateway_credential_is_replaced_while_requests_run() {
    for server in [Setup::sqlite().start(), Setup::postgres(&postgres::database()).start()] {
        replaced_under_load(&server).await;
    }
}

async fn replaced_under_load(server: &Server) {
    let operator = Client::operator(server).await;
    let account = operator.account().await.account_id;
    let (token, secret) = operator.token(&account, TokenKind::ReadOnly, &[], &[]).await;
    let source = ClientSource { address_header: "Forwarded".to_owned(), ..Default::default() };
    let (first, first_secret) = create(&operator, Role::Pep, Some(source.clone())).await.unwrap();
    let (second, second_secret) = create(&operator, Role::Pep, Some(source)).await.unwrap();
    assert_eq!(first.client_source, second.client_source);

    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let replacement = operator.with(&second_secret);
    let running = async {
        while !stop.load(Ordering::Relaxed) {
            let request = question(&secret, "192.0.2.1", "transactions.read");
            let answer = replacement.authorization().authorize(request).await;
            let answer = answer.expect("the second credential always works").into_inner();
            assert_eq!(answer.decision(), Decision::Allow);
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    let more = async || {
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + 10 {
            tokio::task::yield_now().await;
        }
    };
    let gateway = operator.with(&first_secret);
    let ask = async || {
        let request = question(&secret, "192.0.2.1", "transactions.read");
        gateway.authorization().authorize(request).await
    };
    let replacing = async {
        more().await;
        assert_eq!(ask().await.unwrap().into_inner().token_id, token.token_id);
        let revoke = RevokeCredentialRequest { credential_id: first.credential_id, no_wait: false };
        let revoked = operator.credentials().revoke_credential(revoke).await.unwrap().into_inner();
        assert_eq!(revoked.credential.unwrap().client_source, first.client_source);
        assert_eq!(ask().await.unwrap_err().code(), Code::Unauthenticated);
        more().await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(running, replacing);
}

/// Rule 9.20 of docs/policy.md.
#[tokio::test]
async fn client_certificates_are_refused_with_each_bad_field_named_and_never_whose_they_are() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let bind = async |role: Role, list: &[&[u8]]| {
        let request = CreateCredentialRequest {
            role: role.into(),
            name: "ours".to_owned(),
            client_certificate_sha256s: list.iter().map(|bytes| bytes.to_vec()).collect(),
            ..Default::default()
        };
        operator.credentials().create_credential(request).await
    };
    let [one, two, three] = [[1; 32], [2; 32], [3; 32]];
    let made = bind(Role::Pep, &[&one, &two]).await.unwrap().into_inner();
    let made = made.credential.unwrap();
    assert_eq!(made.client_certificate_sha256s, [one, two]);
    let before = position(&operator).await;

    let refused = bind(Role::Pep, &[&three, &[1; 31], &three, &[]]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields: Vec<_> = violations(&refused).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, [1, 2, 3].map(|index| format!("client_certificate_sha256s[{index}]")));
    let five = [[5; 32], [6; 32], [7; 32], [8; 32], [9; 32]];
    let refused = bind(Role::Pep, &five.each_ref().map(|bytes| &bytes[..])).await.unwrap_err();
    assert!(violations(&refused)[0].1.contains("has 5 entries, and 4 are allowed"), "{refused:?}");
    let refused = bind(Role::Operator, &[&three]).await.unwrap_err();
    assert_eq!(violations(&refused)[0].0, "client_certificate_sha256s");

    let refused = bind(Role::Pep, &[&three, &two]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let details = refused.get_error_details();
    let violation = &details.precondition_failure().unwrap().violations[0];
    assert_eq!(violation.r#type, "CLIENT_CERTIFICATE_IN_USE");
    assert!(!format!("{refused:?}").contains(&made.credential_id), "{refused:?}");
    assert_eq!(position(&operator).await, before);
}
