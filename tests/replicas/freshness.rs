//! Reading one's own write: a decision that rests on the revision which a change was answered with.
//! Rule: docs/policy.md, 6.12.

use std::time::Duration;

use portcullis::grpc::proto::{
    ApplyCatalogRequest, AuthorizeRequest, AuthorizeResponse, BatchAuthorizeRequest,
    CreateCredentialRequest, CreateTokenRequest, Decision, DeleteTokenRequest, GetCatalogRequest,
    ListAuditEventsRequest, ManageWhitelistRequest, Reason, RevokeCredentialRequest, Role,
    RotateSecretKeyRequest, SetAccountAdminsRequest, StreamAuthorizeRequest, TokenKind,
    batch_authorize_result, stream_authorize_response,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::replicas::proxy::Wire;
use crate::replicas::stage::Stage;
use crate::support::calls::credential;
use crate::support::client::{Client, question};
use crate::support::postgres;
use crate::support::server::{Server, Setup};

/// So long that no renewal shows a replica what it was not notified of.
const LEASE: Duration = Duration::from_secs(20);

fn fresh(secret: &str, revision: i64) -> AuthorizeRequest {
    AuthorizeRequest {
        at_least_as_fresh: revision,
        ..question(secret, "192.0.2.1", "transactions.read")
    }
}

async fn authorize(client: &Client, ask: AuthorizeRequest) -> Result<AuthorizeResponse, Status> {
    client.authorization().authorize(ask).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_that_is_behind_decides_on_the_requested_revision() {
    let stage = Stage::leased(LEASE, 2, |_, setup| setup).await;
    stage.wires[1].set(Wire { mute: true, ..Wire::default() });
    let other = &stage.clients[1];
    let mut stale = 0;
    for _ in 0..10 {
        let (token, secret) = stage.token(0).await;
        stage.allows(1, &secret).await;
        let deleted = stage.delete(0, &token.token_id, true).await.unwrap();
        assert!(deleted.revision > 0, "{deleted:?}");
        // It has not been notified, so memory says that the token is valid, but where it reads the record
        // just now for another reason.
        stale += u32::from(stage.ask(1, &secret).await.unwrap().decision() == Decision::Allow);
        let answer = authorize(other, fresh(&secret, deleted.revision)).await.unwrap();
        assert_eq!(answer.reason(), Reason::TokenDeleted, "{answer:?}");
        assert!(answer.revision >= deleted.revision, "{answer:?} {deleted:?}");
        // The one that made the change decides on it in any case.
        let answer = authorize(&stage.clients[0], fresh(&secret, deleted.revision)).await.unwrap();
        assert_eq!(answer.reason(), Reason::TokenDeleted, "{answer:?}");
    }
    assert!(stale > 5, "the replica was behind in {stale} of 10 rounds only");
}

/// The same in a batch and on a stream, item by item.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_batches_and_streams_ask_for_revisions_of_their_own() {
    let stage = Stage::leased(LEASE, 2, |_, setup| setup).await;
    stage.wires[1].set(Wire { mute: true, ..Wire::default() });
    let (token, secret) = stage.token(0).await;
    stage.allows(1, &secret).await;
    let revision = stage.delete(0, &token.token_id, true).await.unwrap().revision;
    let future = revision + 1_000_000;
    let asks = vec![fresh(&secret, revision), fresh(&secret, future), fresh(&secret, -1)];
    let wanted = [Ok(Reason::TokenDeleted), Err(Code::Unavailable), Err(Code::InvalidArgument)];

    let request = BatchAuthorizeRequest { requests: asks.clone() };
    let batch = stage.clients[1].authorization().batch_authorize(request).await.unwrap();
    let batch = batch.into_inner().results.into_iter().map(|item| match item.result.unwrap() {
        batch_authorize_result::Result::Response(answer) => Ok(answer.reason()),
        batch_authorize_result::Result::Error(error) => Err(Code::from(error.code)),
    });
    assert_eq!(batch.collect::<Vec<_>>(), wanted);

    let asks = asks.into_iter().map(|ask| StreamAuthorizeRequest { request: Some(ask) });
    let asks = tokio_stream::iter(asks.collect::<Vec<_>>());
    let stream = stage.clients[1].authorization().stream_authorize(asks).await.unwrap();
    let mut stream = stream.into_inner();
    for wanted in wanted {
        let answer = match stream.message().await.unwrap().unwrap().result.unwrap() {
            stream_authorize_response::Result::Response(answer) => Ok(answer.reason()),
            stream_authorize_response::Result::Error(error) => Err(Code::from(error.code)),
        };
        assert_eq!(answer, wanted);
    }
}

/// Rules 2.20 and 6.12.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_that_cannot_catch_up_answers_with_an_error_and_not_with_a_denial() {
    let stage = Stage::leased(LEASE, 2, |_, setup| setup).await;
    let (_, kept) = stage.token(0).await;
    let (token, secret) = stage.token(0).await;
    stage.allows(1, &kept).await;
    stage.allows(1, &secret).await;
    stage.cut(1, true);
    let revision = stage.delete(0, &token.token_id, true).await.unwrap().revision;
    for secret in [&kept, &secret] {
        let status = authorize(&stage.clients[1], fresh(secret, revision)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
    }
    // Whoever asks for no revision gets a decision from memory meanwhile.
    stage.allows(1, &kept).await;
    stage.cut(1, false);
    stage.comes_back(1, &kept).await;
    let answer = loop {
        match authorize(&stage.clients[1], fresh(&secret, revision)).await {
            Ok(answer) => break answer,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    };
    assert_eq!(answer.reason(), Reason::TokenDeleted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_answered_with_their_revision_on_sqlite() {
    changes_are_answered_with_their_revision(Setup::sqlite().start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_answered_with_their_revision_on_postgres() {
    changes_are_answered_with_their_revision(Setup::postgres(&postgres::database()).start()).await;
}

/// The newest revision in the audit record.
async fn newest(client: &Client) -> i64 {
    let request = ListAuditEventsRequest { page_size: 1, ..Default::default() };
    let events = client.tokens().list_audit_events(request).await.unwrap().into_inner();
    events.audit_events[0].revision
}

async fn changes_are_answered_with_their_revision(server: Server) {
    let client = Client::operator(&server).await;
    let (mut tokens, mut credentials) = (client.tokens(), client.credentials());
    let (mut accounts, mut catalog) = (client.accounts(), client.catalog());

    let account = client.account().await.account_id;
    let before = newest(&client).await;
    let admin_emails = vec!["other@example.com".to_owned()];
    let set = SetAccountAdminsRequest { account_id: account.clone(), admin_emails };
    let set = accounts.set_account_admins(set).await.unwrap().into_inner();
    assert_eq!(set.revision, newest(&client).await);
    assert!(set.revision > before);

    let create = CreateTokenRequest {
        account_id: account.clone(),
        name: "fresh".to_owned(),
        kind: TokenKind::ReadOnly.into(),
        ..Default::default()
    };
    let check = CreateTokenRequest { validate_only: true, ..create.clone() };
    assert_eq!(tokens.create_token(check).await.unwrap().into_inner().revision, 0);
    let created = tokens.create_token(create.clone()).await.unwrap().into_inner();
    assert_eq!(created.revision, newest(&client).await);
    let token_id = created.token.unwrap().token_id;
    let decided = authorize(&client, fresh(&created.secret, created.revision)).await.unwrap();
    assert_eq!(decided.decision(), Decision::Allow);
    assert!(decided.revision >= created.revision, "{decided:?}");

    let add = ManageWhitelistRequest {
        token_id: token_id.clone(),
        add: vec!["198.51.100.7".to_owned()],
        no_wait: true,
        ..Default::default()
    };
    let managed = tokens.manage_whitelist(add.clone()).await.unwrap().into_inner();
    assert_eq!(managed.revision, newest(&client).await);
    let decided = authorize(&client, fresh(&created.secret, managed.revision)).await.unwrap();
    assert_eq!(decided.reason(), Reason::ClientIpNotWhitelisted);
    // What changes nothing is answered with a revision that includes what is there.
    let again = tokens.manage_whitelist(add).await.unwrap().into_inner();
    assert_eq!(again.revision, managed.revision);
    let read = ManageWhitelistRequest { token_id: token_id.clone(), ..Default::default() };
    assert_eq!(tokens.manage_whitelist(read).await.unwrap().into_inner().revision, 0);

    let deletion = DeleteTokenRequest { token_id, no_wait: true };
    let deleted = tokens.delete_token(deletion).await.unwrap().into_inner();
    assert_eq!(deleted.revision, newest(&client).await);
    let decided = authorize(&client, fresh(&created.secret, deleted.revision)).await.unwrap();
    assert_eq!(decided.reason(), Reason::TokenDeleted);

    let pep = CreateCredentialRequest { role: Role::Pep.into(), ..Default::default() };
    let pep = credentials.create_credential(pep).await.unwrap().into_inner();
    assert_eq!(pep.revision, newest(&client).await);
    let credential_id = pep.credential.unwrap().credential_id;
    let revoke = RevokeCredentialRequest { credential_id, no_wait: true };
    let revoked = credentials.revoke_credential(revoke).await.unwrap().into_inner();
    assert_eq!(revoked.revision, newest(&client).await);
    let rotated = credentials.rotate_secret_key(RotateSecretKeyRequest {}).await.unwrap();
    assert_eq!(rotated.into_inner().revision, newest(&client).await);
    let toml = catalog.get_catalog(GetCatalogRequest {}).await.unwrap().into_inner().toml;
    let apply = ApplyCatalogRequest { toml: format!("{toml}\n# changed\n"), ..Default::default() };
    let applied = catalog.apply_catalog(apply).await.unwrap().into_inner();
    let newest = newest(&client).await;
    assert_eq!(applied.revision, newest);

    // A revision that the store has not given to any change, and one that can't be.
    let status = authorize(&client, fresh(&created.secret, newest + 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.get_details_retry_info().is_some(), "{status:?}");
    let status = authorize(&client, fresh(&created.secret, -1)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let fields = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields[0].field, "at_least_as_fresh");

    // Account admins are not shown how much happens in other accounts.
    let (_, secret) = credential(&client, Role::AccountAdmin, &account).await;
    let admin = Client::connect(server.grpc(), &secret).await;
    let created = admin.tokens().create_token(create).await.unwrap().into_inner();
    assert_eq!(created.revision, 0);
    let events = async |client: &Client| {
        let events = client.tokens().list_audit_events(ListAuditEventsRequest::default()).await;
        events.unwrap().into_inner().audit_events
    };
    assert!(events(&client).await.iter().all(|event| event.revision > 0));
    let shown = events(&admin).await;
    assert!(!shown.is_empty() && shown.iter().all(|event| event.revision == 0), "{shown:?}");
}
