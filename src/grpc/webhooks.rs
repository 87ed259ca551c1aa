//! `WebhookService`.

use tonic::{Request, Response, Status};

use super::convert;
use super::management::Management;
use super::proto::webhook_service_server::WebhookService;
use super::proto::{
    CreateWebhookRequest, CreateWebhookResponse, DeleteWebhookRequest, DeleteWebhookResponse,
    GetWebhookRequest, GetWebhookResponse, ListWebhooksRequest, ListWebhooksResponse,
    RotateWebhookSecretRequest, RotateWebhookSecretResponse, TestWebhookRequest,
    TestWebhookResponse, UpdateWebhookRequest, UpdateWebhookResponse,
};
use crate::service::lists::Paging;
use crate::service::webhooks::{CreateWebhook, Tried, UpdateWebhook};

#[tonic::async_trait]
impl WebhookService for Management {
    async fn create_webhook(
        &self,
        request: Request<CreateWebhookRequest>,
    ) -> Result<Response<CreateWebhookResponse>, Status> {
        self.run("CreateWebhook", request, async |services, caller, r| {
            let create = CreateWebhook {
                name: &r.name,
                url: &r.url,
                event_types: &r.event_types,
                validate_only: r.validate_only,
            };
            let created = services.create_webhook(&caller, create).await?;
            let (webhook, secret) = created.value;
            let mut webhook = convert::webhook(webhook);
            if secret.is_none() {
                webhook.webhook_id.clear();
            }
            Ok(CreateWebhookResponse {
                webhook: Some(webhook),
                secret: secret.map(|secret| secret.expose().to_owned()).unwrap_or_default(),
                revision: caller.shown_revision(created.revision),
            })
        })
        .await
    }

    async fn get_webhook(
        &self,
        request: Request<GetWebhookRequest>,
    ) -> Result<Response<GetWebhookResponse>, Status> {
        self.run("GetWebhook", request, async |services, _caller, r| {
            let webhook = services.get_webhook(&r.webhook_id).await?;
            Ok(GetWebhookResponse { webhook: Some(convert::webhook(webhook)) })
        })
        .await
    }

    async fn list_webhooks(
        &self,
        request: Request<ListWebhooksRequest>,
    ) -> Result<Response<ListWebhooksResponse>, Status> {
        self.run("ListWebhooks", request, async |services, _caller, r| {
            let paging = Paging { size: r.page_size, token: &r.page_token };
            let show = |webhook| convert::item(convert::webhook(webhook));
            let page = services.list_webhooks(paging, show).await?;
            Ok(ListWebhooksResponse { webhooks: page.items, next_page_token: page.next })
        })
        .await
    }

    async fn update_webhook(
        &self,
        request: Request<UpdateWebhookRequest>,
    ) -> Result<Response<UpdateWebhookResponse>, Status> {
        self.run("UpdateWebhook", request, async |services, caller, r| {
            let update = UpdateWebhook {
                webhook_id: &r.webhook_id,
                name: r.name.as_deref(),
                url: r.url.as_deref(),
                event_types: r.event_types.as_ref().map(|types| types.names.as_slice()),
                enabled: r.enabled,
            };
            let updated = services.update_webhook(&caller, update).await?;
            Ok(UpdateWebhookResponse {
                webhook: Some(convert::webhook(updated.value)),
                revision: caller.shown_revision(updated.revision),
            })
        })
        .await
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<RotateWebhookSecretRequest>,
    ) -> Result<Response<RotateWebhookSecretResponse>, Status> {
        self.run("RotateWebhookSecret", request, async |services, caller, r| {
            let overlap =
                r.overlap.map(|overlap| convert::length("overlap", overlap)).transpose()?;
            let rotated = services.rotate_webhook_secret(&caller, &r.webhook_id, overlap).await?;
            let (webhook, secret) = rotated.value;
            Ok(RotateWebhookSecretResponse {
                webhook: Some(convert::webhook(webhook)),
                secret: secret.expose().to_owned(),
                revision: caller.shown_revision(rotated.revision),
            })
        })
        .await
    }

    async fn test_webhook(
        &self,
        request: Request<TestWebhookRequest>,
    ) -> Result<Response<TestWebhookResponse>, Status> {
        self.run("TestWebhook", request, async |services, _caller, r| {
            let Tried { message_id, outcome } = services.test_webhook(&r.webhook_id).await?;
            Ok(TestWebhookResponse {
                received: outcome.is_ok(),
                status: outcome.as_ref().copied().unwrap_or(0).into(),
                failure: outcome.err().unwrap_or_default(),
                message_id,
            })
        })
        .await
    }

    async fn delete_webhook(
        &self,
        request: Request<DeleteWebhookRequest>,
    ) -> Result<Response<DeleteWebhookResponse>, Status> {
        self.run("DeleteWebhook", request, async |services, caller, r| {
            let deleted = services.delete_webhook(&caller, &r.webhook_id, r.allow_missing).await?;
            Ok(DeleteWebhookResponse { revision: caller.shown_revision(deleted.revision) })
        })
        .await
    }
}
