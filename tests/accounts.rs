//! Suspending, resuming and closing accounts, as operators, admins and bearers see it (docs/policy.md, section 11).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use portcullis::grpc::proto::{
    AccountState, CloseAccountRequest, CloseAccountResponse, CreateCredentialRequest,
    DeleteTokenRequest, GetAccountRequest, GetSelfRequest, GetTokenRequest, ManageWhitelistRequest,
    Reason, ResumeAccountRequest, RevokeSelfRequest, Role, SuspendAccountRequest, TokenKind,
    TokenState,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::calls::{credential, position};
use crate::support::client::{Client, question};
use crate::support::server::Setup;

async fn reason(client: &Client, secret: &str) -> (Reason, String) {
    let ask = question(secret, "192.0.2.1", "transactions.read");
    let answer = client.authorization().authorize(ask).await.unwrap().into_inner();
    (answer.reason(), answer.message)
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), status.get_error_details().error_info().unwrap().reason.clone())
}

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
    assert_eq!(reason(&operator, &secret).await.0, Reason::Allowed);

    let suspend = SuspendAccountRequest { account_id: account_id.clone(), no_wait: false };
    let refused = admin.accounts().suspend_account(suspend.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let suspended = operator.accounts().suspend_account(suspend).await.unwrap().into_inner();
    let account = suspended.account.unwrap();
    assert_eq!(account.state(), AccountState::Suspended);
    assert!(account.suspend_time.is_some() && suspended.propagation.unwrap().complete);
    let (why, message) = reason(&operator, &secret).await;
    assert_eq!(why, Reason::AccountSuspended);
    assert!(message.contains("suspended since") && message.contains("resume"), "{message}");
    assert_eq!(reason(&operator, &deleted).await.0, Reason::TokenDeleted);
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
    assert_eq!(position(&operator).await, before);
    // A bearer may always revoke.
    let revoked = operator.with(&expired).own().revoke_self(RevokeSelfRequest {}).await.unwrap();
    assert_eq!(revoked.into_inner().token.unwrap().state(), TokenState::Deleted);
    let delete = DeleteTokenRequest { token_id: token.token_id.clone(), no_wait: false };
    // Operators do what they like; what they create is denied too.
    let (_, new) = operator.token(&account_id, TokenKind::ReadOnly, &[], &[]).await;
    assert_eq!(reason(&operator, &new).await.0, Reason::AccountSuspended);

    // It is in the store, not in this process.
    let mut server = server;
    server.kill9();
    server.restart();
    let operator = Client::operator(&server).await;
    assert_eq!(reason(&operator, &secret).await.0, Reason::AccountSuspended);
    let resume = ResumeAccountRequest { account_id };
    let resumed = operator.accounts().resume_account(resume).await.unwrap().into_inner();
    assert_eq!(resumed.account.unwrap().state(), AccountState::Active);
    assert_eq!(reason(&operator, &secret).await.0, Reason::Allowed);
    assert_eq!(reason(&operator, &new).await.0, Reason::Allowed);
    operator.tokens().delete_token(delete).await.unwrap();
    assert_eq!(reason(&operator, &secret).await.0, Reason::TokenDeleted);
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
    assert_eq!(reason(&operator, &tokens[0].1).await.0, Reason::Allowed);

    let closed = close(&operator, &account_id, "Test").await.unwrap();
    assert_eq!((closed.token_count, closed.account.unwrap().state()), (3, AccountState::Closed));
    for (token, secret) in &tokens {
        assert_eq!(reason(&operator, secret).await.0, Reason::TokenDeleted);
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
        assert_eq!(reason(&operator, secret).await.0, Reason::TokenDeleted);
    }
    assert_eq!(close(&operator, &account_id, "Test").await.unwrap().token_count, 0);
}
