//! A tonic service in its default build: the system's allocator, the runtime of `#[tokio::main]`,
//! `tonic::transport::Server`. Its messages are Portcullis', its answer a constant allow. Beside it, an axum handler
//! that answers a gateway's forward auth with the headers of a constant allow.

use std::io::Write as _;
use std::pin::Pin;

use axum::serve::ListenerExt as _;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use pb::authorization_service_server::{AuthorizationService, AuthorizationServiceServer};
use proto::envoy::config::core::v3 as core;
use proto::envoy::service::auth::v3 as auth;
use proto::portcullis::v1 as pb;

#[allow(clippy::all, dead_code)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

struct Bare;

/// As long in every field as the answers that it is compared with; the load generator checks that.
fn allow() -> pb::AuthorizeResponse {
    pb::AuthorizeResponse {
        decision: pb::Decision::Allow.into(),
        reason: pb::Reason::Allowed.into(),
        message: "Allowed.".to_owned(),
        token_id: "tok_0000000000000000000000".to_owned(),
        account_id: "acc_0000000000000000000000".to_owned(),
        required_scope: "transactions.read".to_owned(),
        matched_entry: "198.51.100.0/24".to_owned(),
        pending_action: None,
        revision: 100,
    }
}

#[tonic::async_trait]
impl AuthorizationService for Bare {
    async fn authorize(
        &self,
        _: Request<pb::AuthorizeRequest>,
    ) -> Result<Response<pb::AuthorizeResponse>, Status> {
        Ok(Response::new(allow()))
    }

    async fn batch_authorize(
        &self,
        request: Request<pb::BatchAuthorizeRequest>,
    ) -> Result<Response<pb::BatchAuthorizeResponse>, Status> {
        use pb::batch_authorize_result::Result as Item;
        let results = request.into_inner().requests.into_iter();
        let results = results
            .map(|_| pb::BatchAuthorizeResult { result: Some(Item::Response(allow())) })
            .collect();
        Ok(Response::new(pb::BatchAuthorizeResponse { results }))
    }

    type StreamAuthorizeStream =
        Pin<Box<dyn Stream<Item = Result<pb::StreamAuthorizeResponse, Status>> + Send>>;

    async fn stream_authorize(
        &self,
        request: Request<Streaming<pb::StreamAuthorizeRequest>>,
    ) -> Result<Response<Self::StreamAuthorizeStream>, Status> {
        use pb::stream_authorize_response::Result as Item;
        let answers = request.into_inner().map(|item| {
            item.map(|_| pb::StreamAuthorizeResponse { result: Some(Item::Response(allow())) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A header that replaces the client's, as Portcullis sends it.
fn header(name: &str, value: &str) -> core::HeaderValueOption {
    let header =
        core::HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() };
    #[allow(deprecated)]
    core::HeaderValueOption {
        header: Some(header),
        append: Some(false),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

/// An allow for Envoy, as long in every field as Portcullis'.
fn check_allow() -> auth::CheckResponse {
    let text = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let allow = allow();
    let headers = vec![
        header("portcullis-token-id", &allow.token_id),
        header("portcullis-account-id", &allow.account_id),
        header("portcullis-scope", &allow.required_scope),
        header("portcullis-reason", "ALLOWED"),
        header("portcullis-pending-action", "none"),
        header("portcullis-token-expires", "none"),
    ];
    let metadata = [
        ("decision", "ALLOW"),
        ("reason", "ALLOWED"),
        ("token_id", &allow.token_id),
        ("account_id", &allow.account_id),
        ("scope", &allow.required_scope),
    ];
    let fields = metadata.map(|(name, value)| (name.to_owned(), text(value))).into();
    auth::CheckResponse {
        status: Some(proto::google::rpc::Status::default()),
        http_response: Some(auth::check_response::HttpResponse::OkResponse(auth::OkHttpResponse {
            headers,
            ..Default::default()
        })),
        dynamic_metadata: Some(prost_types::Struct { fields }),
    }
}

#[tonic::async_trait]
impl auth::authorization_server::Authorization for Bare {
    async fn check(
        &self,
        _: Request<auth::CheckRequest>,
    ) -> Result<Response<auth::CheckResponse>, Status> {
        Ok(Response::new(check_allow()))
    }
}

/// The headers of an allow at `/forward-auth`.
async fn forward_auth() -> [(&'static str, &'static str); 7] {
    [
        ("portcullis-token-id", "tok_0000000000000000000000"),
        ("portcullis-account-id", "acc_0000000000000000000000"),
        ("portcullis-scope", "transactions.read"),
        ("portcullis-reason", "ALLOWED"),
        ("portcullis-pending-action", "none"),
        ("portcullis-token-expires", "none"),
        ("cache-control", "no-store"),
    ]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let gateway = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (grpc, gateway_address) = (listener.local_addr()?, gateway.local_addr()?);
    println!("bare ready grpc={grpc} http={grpc} gateway={gateway_address}");
    std::io::stdout().flush()?;
    let router = axum::Router::new().route("/forward-auth", axum::routing::any(forward_auth));
    tokio::spawn(
        axum::serve(gateway.tap_io(|socket| drop(socket.set_nodelay(true))), router).into_future(),
    );
    tonic::transport::Server::builder()
        .add_service(AuthorizationServiceServer::new(Bare))
        .add_service(auth::authorization_server::AuthorizationServer::new(Bare))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}
