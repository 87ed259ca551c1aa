//! `CatalogService`.

use tonic::{Request, Response, Status};

use super::convert;
use super::management::Management;
use super::proto::catalog_service_server::CatalogService;
use super::proto::{
    ApplyCatalogRequest, ApplyCatalogResponse, CatalogChange, GetCatalogRequest, GetCatalogResponse,
};
use crate::service::catalogs::ApplyCatalog;

#[tonic::async_trait]
impl CatalogService for Management {
    async fn get_catalog(
        &self,
        request: Request<GetCatalogRequest>,
    ) -> Result<Response<GetCatalogResponse>, Status> {
        self.run("GetCatalog", request, async |services, _caller, _r| {
            let in_force = services.get_catalog()?;
            Ok(GetCatalogResponse {
                version: in_force.catalog.version(),
                scopes: in_force.catalog.scopes().iter().map(convert::scope).collect(),
                toml: in_force.toml.clone(),
                apply_time: Some(convert::time(in_force.applied)),
            })
        })
        .await
    }

    async fn apply_catalog(
        &self,
        request: Request<ApplyCatalogRequest>,
    ) -> Result<Response<ApplyCatalogResponse>, Status> {
        self.run("ApplyCatalog", request, async |services, caller, r| {
            let apply = ApplyCatalog {
                toml: &r.toml,
                validate_only: r.validate_only,
                confirm_narrowing: r.confirm_narrowing,
                no_wait: r.no_wait,
            };
            let applied = services.apply_catalog(&caller, apply).await?;
            let changes = applied.impacts.into_iter().map(|impact| CatalogChange {
                scope: impact.scope.to_string(),
                summary: impact.summary,
                tokens_gaining: impact.gaining,
                tokens_losing: impact.losing,
            });
            Ok(ApplyCatalogResponse {
                version: applied.version,
                changes: changes.collect(),
                propagation: applied.propagation.map(convert::propagation),
                warnings: applied.warnings,
                revision: caller.shown_revision(applied.revision),
            })
        })
        .await
    }
}
