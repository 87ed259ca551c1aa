//! `CredentialService`.

use tonic::{Request, Response, Status};

use super::convert;
use super::management::Management;
use super::proto::credential_service_server::CredentialService;
use super::proto::{
    CreateCredentialRequest, CreateCredentialResponse, ListCredentialsRequest,
    ListCredentialsResponse, RevokeCredentialRequest, RevokeCredentialResponse,
    RotateSecretKeyRequest, RotateSecretKeyResponse, UpdateCredentialRequest,
    UpdateCredentialResponse,
};
use crate::service::credentials::{CreateCredential, UpdateCredential};
use crate::service::lists::Paging;

#[tonic::async_trait]
impl CredentialService for Management {
    async fn create_credential(
        &self,
        request: Request<CreateCredentialRequest>,
    ) -> Result<Response<CreateCredentialResponse>, Status> {
        self.run("CreateCredential", request, async |services, caller, r| {
            let create = CreateCredential {
                role: convert::asked_role(r.role),
                account_id: &r.account_id,
                name: &r.name,
                client_source: r.client_source.as_ref().map(convert::client_source_fields),
                client_certificate_sha256s: &r.client_certificate_sha256s,
                expires: convert::requested_expiry(r.expire_time, r.ttl)?,
            };
            let created = services.create_credential(&caller, create).await?;
            let (credential, secret) = created.value;
            let revision = caller.shown_revision(created.revision);
            Ok(super::created_credential(credential, &secret, revision))
        })
        .await
    }

    async fn list_credentials(
        &self,
        request: Request<ListCredentialsRequest>,
    ) -> Result<Response<ListCredentialsResponse>, Status> {
        self.run("ListCredentials", request, async |services, _caller, r| {
            let paging = Paging { size: r.page_size, token: &r.page_token };
            let show = |credential| convert::item(convert::credential(credential));
            let page = services.list_credentials(None, paging, show).await?;
            Ok(ListCredentialsResponse { credentials: page.items, next_page_token: page.next })
        })
        .await
    }

    async fn update_credential(
        &self,
        request: Request<UpdateCredentialRequest>,
    ) -> Result<Response<UpdateCredentialResponse>, Status> {
        self.run("UpdateCredential", request, async |services, caller, r| {
            let update = UpdateCredential {
                credential_id: &r.credential_id,
                name: r.name.as_deref(),
                expires: convert::requested_expiry(r.expire_time, r.ttl)?,
                no_wait: r.no_wait,
            };
            let updated = services.update_credential(&caller, update).await?;
            let (credential, propagation) = updated.value;
            Ok(UpdateCredentialResponse {
                credential: Some(convert::credential(credential)),
                propagation: Some(convert::propagation(propagation)),
                revision: caller.shown_revision(updated.revision),
            })
        })
        .await
    }

    async fn revoke_credential(
        &self,
        request: Request<RevokeCredentialRequest>,
    ) -> Result<Response<RevokeCredentialResponse>, Status> {
        self.run("RevokeCredential", request, async |services, caller, r| {
            let revoked = services.revoke_credential(&caller, &r.credential_id, r.no_wait).await?;
            let (credential, propagation) = revoked.value;
            Ok(RevokeCredentialResponse {
                credential: Some(convert::credential(credential)),
                propagation: Some(convert::propagation(propagation)),
                revision: caller.shown_revision(revoked.revision),
            })
        })
        .await
    }

    async fn rotate_secret_key(
        &self,
        request: Request<RotateSecretKeyRequest>,
    ) -> Result<Response<RotateSecretKeyResponse>, Status> {
        self.run("RotateSecretKey", request, async |services, caller, _r| {
            let rotated = services.rotate_secret_key(&caller).await?;
            Ok(RotateSecretKeyResponse {
                key_number: i32::from(rotated.value),
                revision: caller.shown_revision(rotated.revision),
            })
        })
        .await
    }
}
