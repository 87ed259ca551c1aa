//! `AccountService`.

use tonic::{Request, Response, Status};

use super::convert;
use super::management::Management;
use super::proto::account_service_server::AccountService;
use super::proto::{
    CreateAccountRequest, CreateAccountResponse, GetAccountRequest, GetAccountResponse,
    ListAccountsRequest, ListAccountsResponse, SetAccountAdminsRequest, SetAccountAdminsResponse,
};
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
}
