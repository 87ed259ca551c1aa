//! `TokenService`.

use tonic::{Request, Response, Status};

use super::convert::{self, item};
use super::management::Management;
use super::proto::token_service_server::TokenService;
use super::proto::{
    CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, DeleteTokenResponse,
    GetTokenRequest, GetTokenResponse, GetTokenUsageRequest, GetTokenUsageResponse,
    ImportTokensRequest, ImportTokensResponse, ListAuditEventsRequest, ListAuditEventsResponse,
    ListDenialsRequest, ListDenialsResponse, ListPendingActionsRequest, ListPendingActionsResponse,
    ListTokensRequest, ListTokensResponse, ManageWhitelistRequest, ManageWhitelistResponse,
    PreviewLifecycleRequest, PreviewLifecycleResponse, ReplaceTokenRequest, ReplaceTokenResponse,
    ReportLeakedTokensRequest, ReportLeakedTokensResponse, SetTokenExpiryRequest,
    SetTokenExpiryResponse, UpdateTokenRequest, UpdateTokenResponse,
};
use crate::service::activity::DenialQuery;
use crate::service::import::ImportTokens;
use crate::service::leaks::{ReportLeaks, ReportedLeaks};
use crate::service::lists::{AuditQuery, Paging, PendingQuery};
use crate::service::replacements::{ReplaceToken, ReplacedToken};
use crate::service::tokens::{CreateToken, UpdateToken};
use crate::service::validate::FieldErrors;
use crate::service::whitelists::ManageWhitelist;

#[tonic::async_trait]
impl TokenService for Management {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        self.run("CreateToken", request, async |services, caller, r| {
            let expires = convert::requested_expiry(r.expire_time, r.ttl)?;
            let create = CreateToken {
                account_id: &r.account_id,
                name: &r.name,
                kind: convert::asked_kind(r.kind),
                scopes: &r.scopes,
                whitelist: &r.whitelist,
                expires,
                labels: Some(&r.labels),
                validate_only: r.validate_only,
            };
            let created = services.create_token(&caller, create).await?;
            let revision = caller.shown_revision(created.revision);
            let (described, secret) = created.value;
            let mut token = convert::described(described);
            if secret.is_none() {
                token.token_id.clear();
            }
            let secret = secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
            Ok(CreateTokenResponse { token: Some(token), secret, revision })
        })
        .await
    }

    async fn import_tokens(
        &self,
        request: Request<ImportTokensRequest>,
    ) -> Result<Response<ImportTokensResponse>, Status> {
        self.run("ImportTokens", request, async |services, caller, r| {
            let tokens: Vec<_> = r.tokens.iter().map(convert::import_token).collect();
            let (account_id, validate_only) = (&r.account_id, r.validate_only);
            let import = ImportTokens { account_id, tokens: &tokens, validate_only };
            let imported = services.import_tokens(&caller, import).await?;
            let revision = caller.shown_revision(imported.revision);
            Ok(convert::imported(imported.value, validate_only, revision))
        })
        .await
    }

    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        self.run("GetToken", request, async |services, caller, r| {
            let described = services.get_token(&caller, &r.token_id).await?;
            let mut token = convert::described(described);
            let addresses = services.recent_addresses(&caller, &r.token_id).await?;
            token.recent_addresses = addresses.into_iter().map(convert::seen_address).collect();
            Ok(GetTokenResponse { token: Some(token) })
        })
        .await
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        self.run("ListTokens", request, async |services, caller, r| {
            let paging = Paging { size: r.page_size, token: &r.page_token };
            let outlook = services.outlook();
            let show = |token, in_force: &_| item(convert::token(token, in_force, &outlook));
            let page =
                services.list_tokens(&caller, &r.account_id, r.show_deleted, paging, show).await?;
            Ok(ListTokensResponse { tokens: page.items, next_page_token: page.next })
        })
        .await
    }

    async fn delete_token(
        &self,
        request: Request<DeleteTokenRequest>,
    ) -> Result<Response<DeleteTokenResponse>, Status> {
        self.run("DeleteToken", request, async |services, caller, r| {
            let deleted = services.delete_token(&caller, &r.token_id, r.no_wait).await?;
            let (described, propagation) = deleted.value;
            Ok(DeleteTokenResponse {
                token: Some(convert::described(described)),
                propagation: Some(convert::propagation(propagation)),
                revision: caller.shown_revision(deleted.revision),
            })
        })
        .await
    }

    async fn set_token_expiry(
        &self,
        request: Request<SetTokenExpiryRequest>,
    ) -> Result<Response<SetTokenExpiryResponse>, Status> {
        self.run("SetTokenExpiry", request, async |services, caller, r| {
            let expires = convert::requested_expiry(r.expire_time, r.ttl)?;
            let set = services.set_token_expiry(&caller, &r.token_id, expires, r.no_wait).await?;
            let (described, propagation) = set.value;
            Ok(SetTokenExpiryResponse {
                token: Some(convert::described(described)),
                propagation: Some(convert::propagation(propagation)),
                revision: caller.shown_revision(set.revision),
            })
        })
        .await
    }

    async fn replace_token(
        &self,
        request: Request<ReplaceTokenRequest>,
    ) -> Result<Response<ReplaceTokenResponse>, Status> {
        self.run("ReplaceToken", request, async |services, caller, r| {
            let mut errors = FieldErrors::default();
            let overlap = r.overlap.map(|overlap| convert::length("overlap", overlap)).transpose();
            let replace = ReplaceToken {
                token_id: &r.token_id,
                overlap: errors.take(overlap).flatten(),
                scopes: &r.scopes,
                whitelist: &r.whitelist,
                expires: errors.take(convert::requested_expiry(r.expire_time, r.ttl)).flatten(),
                validate_only: r.validate_only,
                no_wait: r.no_wait,
            };
            let replaced = services.replace_token(&caller, replace, errors).await?;
            let revision = caller.shown_revision(replaced.revision);
            let ReplacedToken { successor, secret, replaced, proposal, propagation } =
                replaced.value;
            let proposal = convert::proposal(proposal, &successor.in_force);
            let mut token = convert::described(successor);
            if secret.is_none() {
                token.token_id.clear();
            }
            Ok(ReplaceTokenResponse {
                token: Some(token),
                secret: secret.map(|secret| secret.expose().to_owned()).unwrap_or_default(),
                replaced_token: Some(convert::described(replaced)),
                proposal: Some(proposal),
                propagation: propagation.map(convert::propagation),
                revision,
            })
        })
        .await
    }

    async fn report_leaked_tokens(
        &self,
        request: Request<ReportLeakedTokensRequest>,
    ) -> Result<Response<ReportLeakedTokensResponse>, Status> {
        self.run("ReportLeakedTokens", request, async |services, caller, r| {
            let report = ReportLeaks {
                secrets: &r.secrets,
                secret_sha256s: &r.secret_sha256s,
                source: &r.source,
                url: &r.url,
                no_wait: r.no_wait,
            };
            let reported = services.report_leaked_tokens(&caller, report).await?;
            let ReportedLeaks { outcomes, propagation } = reported.value;
            Ok(ReportLeakedTokensResponse {
                results: outcomes.into_iter().map(convert::leak_outcome).collect(),
                propagation: propagation.map(convert::propagation),
                revision: caller.shown_revision(reported.revision),
            })
        })
        .await
    }

    async fn update_token(
        &self,
        request: Request<UpdateTokenRequest>,
    ) -> Result<Response<UpdateTokenResponse>, Status> {
        self.run("UpdateToken", request, async |services, caller, r| {
            let update = UpdateToken {
                token_id: &r.token_id,
                name: &r.name,
                labels: &r.labels,
                update_mask: r.update_mask.as_ref().map_or(&[], |mask| &mask.paths),
            };
            let updated = services.update_token(&caller, update).await?;
            Ok(UpdateTokenResponse {
                token: Some(convert::described(updated.value)),
                revision: caller.shown_revision(updated.revision),
            })
        })
        .await
    }

    async fn manage_whitelist(
        &self,
        request: Request<ManageWhitelistRequest>,
    ) -> Result<Response<ManageWhitelistResponse>, Status> {
        self.run("ManageWhitelist", request, async |services, caller, r| {
            let replace = r.replace.as_ref();
            let manage = ManageWhitelist {
                token_id: &r.token_id,
                add: &r.add,
                remove: &r.remove,
                replace: replace.map(|r| (r.entries.as_slice(), r.allow_any_address)),
                expected_version: r.expected_version,
                validate_only: r.validate_only,
                no_wait: r.no_wait,
            };
            let managed = services.manage_whitelist(&caller, manage).await?;
            let outcome = managed.outcome;
            let entry_uses = match managed.read_only {
                Some(id) => services.entry_uses(&caller, id, outcome.whitelist.entries()).await?,
                None => Vec::new(),
            };
            Ok(ManageWhitelistResponse {
                entries: convert::entries(outcome.whitelist.entries()),
                version: outcome.version,
                still_covered_by: convert::entries(&outcome.still_covered_by),
                propagation: managed.propagation.map(convert::propagation),
                revision: caller.shown_revision(managed.revision),
                entry_uses: entry_uses.into_iter().map(convert::entry_use).collect(),
            })
        })
        .await
    }

    async fn list_pending_actions(
        &self,
        request: Request<ListPendingActionsRequest>,
    ) -> Result<Response<ListPendingActionsResponse>, Status> {
        self.run("ListPendingActions", request, async |services, caller, r| {
            let mut errors = FieldErrors::default();
            let before = convert::instant("effective_before", r.effective_before);
            let query = PendingQuery {
                account_id: &r.account_id,
                token_id: &r.token_id,
                action: errors.take(convert::asked_action_type(r.r#type)).flatten(),
                effective_before: errors.take(before).flatten(),
                paging: Paging { size: r.page_size, token: &r.page_token },
            };
            let in_force = services.get_catalog()?;
            let outlook = services.outlook();
            let show = |action| item(convert::pending_action(action, &in_force, &outlook));
            let page = services.list_pending_actions(&caller, query, errors, show).await?;
            Ok(ListPendingActionsResponse {
                pending_actions: page.items,
                next_page_token: page.next,
            })
        })
        .await
    }

    async fn preview_lifecycle(
        &self,
        request: Request<PreviewLifecycleRequest>,
    ) -> Result<Response<PreviewLifecycleResponse>, Status> {
        self.run("PreviewLifecycle", request, async |services, caller, r| {
            let preview = services.preview_lifecycle(&caller, &r.account_id).await?;
            Ok(convert::preview::response(preview))
        })
        .await
    }

    async fn get_token_usage(
        &self,
        request: Request<GetTokenUsageRequest>,
    ) -> Result<Response<GetTokenUsageResponse>, Status> {
        self.run("GetTokenUsage", request, async |services, caller, r| {
            Ok(convert::token_usage(services.token_usage(&caller, &r.token_id).await?))
        })
        .await
    }

    async fn list_denials(
        &self,
        request: Request<ListDenialsRequest>,
    ) -> Result<Response<ListDenialsResponse>, Status> {
        self.run("ListDenials", request, async |services, caller, r| {
            let query = DenialQuery {
                account_id: &r.account_id,
                token_id: &r.token_id,
                paging: Paging { size: r.page_size, token: &r.page_token },
            };
            let show = |denial, fix, in_force: &_| item(convert::denial(denial, fix, in_force));
            let listed = services.list_denials(&caller, query, show).await?;
            Ok(ListDenialsResponse {
                denials: listed.page.items,
                next_page_token: listed.page.next,
                unlisted_count: i64::try_from(listed.unlisted).unwrap_or(i64::MAX),
            })
        })
        .await
    }

    async fn list_audit_events(
        &self,
        request: Request<ListAuditEventsRequest>,
    ) -> Result<Response<ListAuditEventsResponse>, Status> {
        self.run("ListAuditEvents", request, async |services, caller, r| {
            let mut errors = FieldErrors::default();
            let query = AuditQuery {
                account_id: &r.account_id,
                token_id: &r.token_id,
                start: errors.take(convert::instant("start_time", r.start_time)).flatten(),
                end: errors.take(convert::instant("end_time", r.end_time)).flatten(),
                pending_action_id: &r.pending_action_id,
                oldest_first: r.oldest_first,
                after_revision: r.after_revision,
                paging: Paging { size: r.page_size, token: &r.page_token },
            };
            let show = |event| item(convert::audit_event(event, &caller));
            // Before the events, so that all up to its head were committed when these are read.
            let chain = if r.oldest_first { services.audit_chain(&caller).await? } else { None };
            let page = services.list_audit_events(&caller, query, errors, show).await?;
            Ok(ListAuditEventsResponse {
                audit_events: page.items,
                next_page_token: page.next,
                chain: chain.map(convert::audit_chain),
            })
        })
        .await
    }
}
