//! Suspending, resuming and closing accounts, as operators, admins and bearers see it (docs/policy.md, section 11).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::collections::HashMap;

use portcullis::grpc::proto::{
    AccountState, CloseAccountRequest, CloseAccountResponse, CreateCredentialRequest,
    DeleteTokenRequest, GetAccountRequest, GetSelfRequest, GetTokenRequest, ImportToken,
    ImportTokensRequest, ListCredentialsRequest, ManageWhitelistRequest, Reason,
    ReplaceTokenRequest, ResumeAccountRequest, RevokeSelfRequest, Role, StreamAuthorizeRequest,
    SuspendAccountRequest, TokenKind, TokenState, UpdateAccountRequest, UpdateCredentialRequest,
    UpdateTokenRequest,
};
use prost_types::FieldMask;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::calls::{credential, position};
use crate::support::client::{Client, question, reason, refusal};
use crate::support::server::Setup;
use crate::support::wait::until_async;

async fn close(
    client: &Client,
    account_id: &str,
    name: &str,
) -> Result<CloseAccountResponse, Status> {
    let request = CloseAccountRequest {
        account_id: account_id.to_owned(),
        confirm_name: name.to_owned(),
        validate_only: name.is_empty(),
        no_wait: false,
    };
    client.accounts().close_account(request).await.map(tonic::Response::into_inner)
}

/// Rules 11.70, 11.71, 11.72 and 11.73.
#[tokio::test]
async fn a_suspended_account_is_denied_and_its_admins_only_read_and_narrow() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account_id = operator.account().await.account_id;
    let entries = ["192.0.2.0/24", "198.51.100.7"];
    let (token, secret) = operator.token(&account_id, TokenKind::ReadOnly, &[], &entries).await;
    let (_, expired) = operator.token(&account_id, TokenKind::ReadOnly, &[], &[]).await;
    let (gone, deleted) = operator.token(&account_id, TokenKind::ReadOnly, &[], &[]).await;
    let admin = operator.with(&credential(&operator, Role::AccountAdmin, &account_id).await.1);
    let delete = DeleteTokenRequest { token_id: gone.token_id, no_wait: false };
    operator.tokens().delete_token(delete).await.unwrap();
    assert_eq!(reason(&operator, &secret).await, Reason::Allowed);

    let suspend = SuspendAccountRequest { account_id: account_id.clone(), no_wait: false };
    let refused = admin.accounts().suspend_account(suspend.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let suspended = operator.accounts().suspend_account(suspend).await.unwrap().into_inner();
    let account = suspended.account.unwrap();
    assert_eq!(account.state(), AccountState::Suspended);
    assert!(account.suspend_time.is_some() && suspended.propagation.unwrap().complete);
    let ask = question(&secret, "192.0.2.1", "transactions.read");
    let denied = operator.authorization().authorize(ask).await.unwrap().into_inner();
    assert_eq!(denied.reason(), Reason::AccountSuspended);
    let message = denied.message;
    assert!(message.contains("suspended since") && message.contains("resume"), "{message}");
    assert_eq!(reason(&operator, &deleted).await, Reason::TokenDeleted);
    assert_eq!(
        refusal(operator.with(&secret).own().get_self(GetSelfRequest {}).await),
        (Code::PermissionDenied, "ACCOUNT_SUSPENDED".to_owned())
    );

    // Its admins read.
    let get = GetAccountRequest { account_id: account_id.clone() };
    let got = admin.accounts().get_account(get).await.unwrap().into_inner().account.unwrap();
    assert_eq!(got.state(), AccountState::Suspended);
    let get = GetTokenRequest { token_id: token.token_id.clone() };
    assert!(admin.tokens().get_token(get).await.is_ok());
    // They narrow.
    let whitelist = |add: &[&str], remove: &[&str]| ManageWhitelistRequest {
        token_id: token.token_id.clone(),
        add: add.iter().map(|&entry| entry.to_owned()).collect(),
        remove: remove.iter().map(|&entry| entry.to_owned()).collect(),
        ..Default::default()
    };
    admin.tokens().manage_whitelist(whitelist(&[], &["198.51.100.7"])).await.unwrap();
    // And nothing else.
    let before = position(&operator).await;
    let wider = admin.tokens().manage_whitelist(whitelist(&["198.51.100.7"], &[])).await;
    let suspended = (Code::FailedPrecondition, "ACCOUNT_SUSPENDED".to_owned());
    assert_eq!(refusal(wider), suspended);
    let created = admin.try_token(&account_id, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(refusal(created), suspended);
    let replace = ReplaceTokenRequest { token_id: token.token_id.clone(), ..Default::default() };
    assert_eq!(refusal(admin.tokens().replace_token(replace).await), suspended);
    assert_eq!(position(&operator).await, before);
    // A bearer may always revoke.
    let revoked = operator.with(&expired).own().revoke_self(RevokeSelfRequest {}).await.unwrap();
    assert_eq!(revoked.into_inner().token.unwrap().state(), TokenState::Deleted);
    let delete = DeleteTokenRequest { token_id: token.token_id.clone(), no_wait: false };
    // Operators may do everything; what they create is denied too.
    let (_, new) = operator.token(&account_id, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(reason(&operator, &new).await, Reason::AccountSuspended);

    // It is in the store, not in this process.
    let mut server = server;
    server.kill9();
    server.restart();
    let operator = Client::operator(&server).await;
    assert_eq!(reason(&operator, &secret).await, Reason::AccountSuspended);
    let resume = ResumeAccountRequest { account_id };
    let resumed = operator.accounts().resume_account(resume).await.unwrap().into_inner();
    assert_eq!(resumed.account.unwrap().state(), AccountState::Active);
    assert_eq!(reason(&operator, &secret).await, Reason::Allowed);
    assert_eq!(reason(&operator, &new).await, Reason::Allowed);
    operator.tokens().delete_token(delete).await.unwrap();
    assert_eq!(reason(&operator, &secret).await, Reason::TokenDeleted);
}

/// Rules 11.74, 11.75, 11.76 and 11.77.
#[tokio::test]
async fn a_closure_needs_the_name_and_ends_everything_of_the_account() {
    let mut server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account_id = operator.account().await.account_id;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(operator.token(&account_id, TokenKind::ReadOnly, &[], &[]).await);
    }
    let admin = operator.with(&credential(&operator, Role::AccountAdmin, &account_id).await.1);
    let before = position(&operator).await;
    let preview = close(&operator, &account_id, "").await.unwrap();
    assert_eq!((preview.token_count, preview.propagation, preview.revision), (3, None, 0));
    let wrong = close(&operator, &account_id, "test").await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(
        wrong.message().contains("confirm_name") && wrong.message().contains("“Test”"),
        "{wrong:?}"
    );
    assert_eq!(position(&operator).await, before);
    assert_eq!(reason(&operator, &tokens[0].1).await, Reason::Allowed);

    let closed = close(&operator, &account_id, "Test").await.unwrap();
    assert_eq!((closed.token_count, closed.account.unwrap().state()), (3, AccountState::Closed));
    for (token, secret) in &tokens {
        assert_eq!(reason(&operator, secret).await, Reason::TokenDeleted);
        let get = GetTokenRequest { token_id: token.token_id.clone() };
        let read = operator.tokens().get_token(get).await.unwrap().into_inner().token.unwrap();
        assert_eq!(read.state(), TokenState::Deleted);
    }
    let get = GetAccountRequest { account_id: account_id.clone() };
    let refused = admin.accounts().get_account(get).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    let closed = (Code::FailedPrecondition, "ACCOUNT_CLOSED".to_owned());
    let created = operator.try_token(&account_id, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(refusal(created), closed);
    let item = ImportToken {
        name: "elsewhere".to_owned(),
        kind: TokenKind::ReadOnly.into(),
        secret_sha256: portcullis::secret::digest(b"elsewhere").to_vec(),
        ..Default::default()
    };
    let request = ImportTokensRequest {
        account_id: account_id.clone(),
        tokens: vec![item],
        ..Default::default()
    };
    assert_eq!(refusal(operator.tokens().import_tokens(request).await), closed);
    let request = CreateCredentialRequest {
        role: Role::AccountAdmin.into(),
        account_id: account_id.clone(),
        ..Default::default()
    };
    assert_eq!(refusal(operator.credentials().create_credential(request).await), closed);
    let resume = ResumeAccountRequest { account_id: account_id.clone() };
    assert_eq!(refusal(operator.accounts().resume_account(resume).await), closed);

    server.kill9();
    server.restart();
    let operator = Client::operator(&server).await;
    for (_, secret) in &tokens {
        assert_eq!(reason(&operator, secret).await, Reason::TokenDeleted);
    }
    assert_eq!(close(&operator, &account_id, "Test").await.unwrap().token_count, 0);
}

/// Rules 11.80, 11.81 and 11.82.
#[tokio::test]
async fn names_and_labels_are_changed_by_the_mask_and_errors_name_the_field_and_the_cure() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account_id = operator.account().await.account_id;
    let admin = operator.with(&credential(&operator, Role::AccountAdmin, &account_id).await.1);
    let (token, secret) = operator.token(&account_id, TokenKind::ReadOnly, &[], &[]).await;
    let labels = |labels: &[(&str, &str)]| -> HashMap<String, String> {
        labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let update = async |name: &str, given: &[(&str, &str)], mask: &[&str]| {
        let paths = mask.iter().map(|&path| path.to_owned()).collect();
        let request = UpdateTokenRequest {
            token_id: token.token_id.clone(),
            name: name.to_owned(),
            labels: labels(given),
            update_mask: (!mask.is_empty()).then_some(FieldMask { paths }),
        };
        let updated = admin.tokens().update_token(request).await?.into_inner();
        let token = updated.token.unwrap();
        Ok::<_, Status>((token.name, token.labels))
    };
    let team = [("team", "payments")];
    assert_eq!(update("new", &team, &[]).await.unwrap(), ("new".to_owned(), labels(&team)));
    // Only what the mask names, and where there is none, what is set.
    assert_eq!(update("x", &[], &["labels"]).await.unwrap(), ("new".to_owned(), labels(&[])));
    assert_eq!(update("", &team, &[]).await.unwrap(), ("new".to_owned(), labels(&team)));
    assert_eq!(update("newer", &[], &["name"]).await.unwrap(), ("newer".to_owned(), labels(&team)));
    assert_eq!(update("newest", &[], &["*"]).await.unwrap(), ("newest".to_owned(), labels(&[])));
    assert_eq!(reason(&operator, &secret).await, Reason::Allowed);

    let before = position(&operator).await;
    let many: Vec<_> = (0..17).map(|n| format!("k{n}")).collect();
    let many: Vec<_> = many.iter().map(|key| (key.as_str(), "")).collect();
    let long = "x".repeat(201);
    for (name, given, mask, field, cure) in [
        ("", &team[..0], &[][..], "update_mask", "say which of them"),
        ("", &team[..0], &["name"], "name", "is required"),
        ("", &team, &["scopes"], "update_mask.paths[0]", "name and labels"),
        ("", &many, &[], "labels", "16 is the most"),
        ("", &[("Team", "x")], &[], "labels", "begins with a letter"),
        ("", &[("", "x")], &[], "labels", "begins with a letter"),
        ("", &[("1", "x")], &[], "labels", "begins with a letter"),
        ("", &[("team", long.as_str())], &[], "labels[team]", "shorten it"),
        ("", &[("team", "a\u{202e}b")], &[], "labels[team]", "U+202E"),
    ] {
        let refused = update(name, given, mask).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        let fields = refused.get_error_details().bad_request().unwrap().field_violations.clone();
        let named = fields.iter().find(|violation| violation.field == field);
        assert!(named.is_some_and(|violation| violation.description.contains(cure)), "{fields:?}");
    }
    assert_eq!(position(&operator).await, before);

    let rename = UpdateAccountRequest { account_id: account_id.clone(), name: " Acme ".to_owned() };
    let refused = admin.accounts().update_account(rename.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let renamed = operator.accounts().update_account(rename).await.unwrap().into_inner();
    assert_eq!(renamed.account.unwrap().name, "Acme");
    let suspend = SuspendAccountRequest { account_id, no_wait: false };
    operator.accounts().suspend_account(suspend).await.unwrap();
    let suspended = (Code::FailedPrecondition, "ACCOUNT_SUSPENDED".to_owned());
    assert_eq!(refusal(update("x", &[], &[]).await), suspended);
}

/// Rules 11.83, 11.84 and 11.85.
#[tokio::test]
async fn a_credential_is_renamed_expires_and_shows_when_it_was_last_used() {
    let mut server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let account_id = operator.account().await.account_id;
    let (_, secret) = operator.token(&account_id, TokenKind::ReadOnly, &[], &[]).await;
    let (gateway, credential_secret) = credential(&operator, Role::Pep, "").await;
    let (unused, _) = credential(&operator, Role::Pep, "").await;
    assert_eq!(reason(&operator.with(&credential_secret), &secret).await, Reason::Allowed);
    let update = UpdateCredentialRequest {
        credential_id: gateway.credential_id.clone(),
        name: Some("checkout".to_owned()),
        ..Default::default()
    };
    let renamed = operator.credentials().update_credential(update).await.unwrap().into_inner();
    let renamed = renamed.credential.unwrap();
    assert_eq!((&renamed.name[..], renamed.expire_time), ("checkout", None));

    // The last uses are written when the server ends.
    server.terminate();
    server.restart();
    let operator = Client::operator(&server).await;
    let find = async |id: &str| {
        let listed = operator
            .credentials()
            .list_credentials(ListCredentialsRequest::default())
            .await
            .unwrap();
        let mut listed = listed.into_inner().credentials.into_iter();
        listed.find(|credential| credential.credential_id == id).unwrap()
    };
    let used = find(&gateway.credential_id).await;
    assert!(used.last_use_time.unwrap().seconds >= used.create_time.unwrap().seconds);
    assert_eq!(
        (&used.name[..], find(&unused.credential_id).await.last_use_time),
        ("checkout", None)
    );

    // It ends at its expiry by itself, without another call.
    let pep = operator.with(&credential_secret);
    assert_eq!(reason(&pep, &secret).await, Reason::Allowed);
    let ask = question(&secret, "192.0.2.1", "transactions.read");
    let (send, items) = tokio::sync::mpsc::channel(1);
    let item = StreamAuthorizeRequest { request: Some(ask.clone()) };
    send.send(item.clone()).await.unwrap();
    let items = tokio_stream::wrappers::ReceiverStream::new(items);
    let mut answers = pep.authorization().stream_authorize(items).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let ttl = |millis: i32| prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 };
    let update = |id: &str, ttl| UpdateCredentialRequest {
        credential_id: id.to_owned(),
        ttl: Some(ttl),
        ..Default::default()
    };
    let ends = update(&gateway.credential_id, ttl(300));
    let ending = operator.credentials().update_credential(ends).await.unwrap().into_inner();
    assert!(ending.credential.unwrap().expire_time.is_some());
    let refused = until_async(
        async || pep.authorization().authorize(ask.clone()).await.map(|_| ()),
        Result::is_err,
    )
    .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    // So does a stream that was opened before, with its next item.
    send.send(item).await.unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unauthenticated);
    let later = update(&gateway.credential_id, prost_types::Duration { seconds: 900, nanos: 0 });
    let later = operator.credentials().update_credential(later).await;
    assert_eq!(refusal(later), (Code::FailedPrecondition, "CREDENTIAL_EXPIRED".to_owned()));

    // A credential of an operator can't expire.
    let request = CreateCredentialRequest {
        role: Role::Operator.into(),
        ttl: Some(ttl(300)),
        ..Default::default()
    };
    let refused = operator.credentials().create_credential(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("ttl"), "{refused:?}");
}
