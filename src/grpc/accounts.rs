//! `AccountService`.

use tonic::{Request, Response, Status};

use super::convert;
use super::management::Management;
use super::proto::account_service_server::AccountService;
use super::proto::{
    CloseAccountRequest, CloseAccountResponse, CreateAccountRequest, CreateAccountResponse,
    GetAccountRequest, GetAccountResponse, ListAccountsRequest, ListAccountsResponse,
    ResumeAccountRequest, ResumeAccountResponse, SetAccountAdminsRequest, SetAccountAdminsResponse,
    SuspendAccountRequest, SuspendAccountResponse, UpdateAccountRequest, UpdateAccountResponse,
};
use crate::service::accounts::CloseAccount;
use crate::service::lists::Paging;

#[tonic::async_trait]
impl AccountService for Management {
    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<CreateAccountResponse>, Status> {
        self.run("CreateAccount", request, async |services, caller, r| {
            let created = services.create_account(&caller, &r.name, &r.admin_emails).await?;
            Ok(CreateAccountResponse {
                account: Some(convert::account(created.value)),
                revision: caller.shown_revision(created.revision),
            })
        })
        .await
    }

    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        self.run("GetAccount", request, async |services, caller, r| {
            let account = services.get_account(&caller, &r.account_id).await?;
            Ok(GetAccountResponse { account: Some(convert::account(account)) })
        })
        .await
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        self.run("ListAccounts", request, async |services, caller, r| {
            let paging = Paging { size: r.page_size, token: &r.page_token };
            let show = |account| convert::item(convert::account(account));
            let page = services.list_accounts(&caller, paging, show).await?;
            Ok(ListAccountsResponse { accounts: page.items, next_page_token: page.next })
        })
        .await
    }

    async fn set_account_admins(
        &self,
        request: Request<SetAccountAdminsRequest>,
    ) -> Result<Response<SetAccountAdminsResponse>, Status> {
        self.run("SetAccountAdmins", request, async |services, caller, r| {
            let set = services.set_account_admins(&caller, &r.account_id, &r.admin_emails).await?;
            Ok(SetAccountAdminsResponse {
                account: Some(convert::account(set.value)),
                revision: caller.shown_revision(set.revision),
            })
        })
        .await
    }

    async fn update_account(
        &self,
        request: Request<UpdateAccountRequest>,
    ) -> Result<Response<UpdateAccountResponse>, Status> {
        self.run("UpdateAccount", request, async |services, caller, r| {
            let updated = services.update_account(&caller, &r.account_id, &r.name).await?;
            Ok(UpdateAccountResponse {
                account: Some(convert::account(updated.value)),
                revision: caller.shown_revision(updated.revision),
            })
        })
        .await
    }

    async fn suspend_account(
        &self,
        request: Request<SuspendAccountRequest>,
    ) -> Result<Response<SuspendAccountResponse>, Status> {
        self.run("SuspendAccount", request, async |services, caller, r| {
            let suspended = services.suspend_account(&caller, &r.account_id, r.no_wait).await?;
            let (account, propagation) = suspended.value;
            Ok(SuspendAccountResponse {
                account: Some(convert::account(account)),
                propagation: Some(convert::propagation(propagation)),
                revision: caller.shown_revision(suspended.revision),
            })
        })
        .await
    }

    async fn resume_account(
        &self,
        request: Request<ResumeAccountRequest>,
    ) -> Result<Response<ResumeAccountResponse>, Status> {
        self.run("ResumeAccount", request, async |services, caller, r| {
            let resumed = services.resume_account(&caller, &r.account_id).await?;
            Ok(ResumeAccountResponse {
                account: Some(convert::account(resumed.value)),
                revision: caller.shown_revision(resumed.revision),
            })
        })
        .await
    }

    async fn close_account(
        &self,
        request: Request<CloseAccountRequest>,
    ) -> Result<Response<CloseAccountResponse>, Status> {
        self.run("CloseAccount", request, async |services, caller, r| {
            let close = CloseAccount {
                account_id: &r.account_id,
                confirm_name: &r.confirm_name,
                validate_only: r.validate_only,
                no_wait: r.no_wait,
            };
            let closed = services.close_account(&caller, close).await?;
            Ok(CloseAccountResponse {
                account: Some(convert::account(closed.value.account)),
                token_count: i64::try_from(closed.value.token_count).unwrap_or(i64::MAX),
                propagation: closed.value.propagation.map(convert::propagation),
                revision: caller.shown_revision(closed.revision),
            })
        })
        .await
    }
}
