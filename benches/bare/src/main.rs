//! A tonic service in its default build: the system's allocator, the runtime of `#[tokio::main]`,
//! `tonic::transport::Server`. Its messages are Portcullis', its answer a constant allow.

use std::io::Write as _;
use std::pin::Pin;

use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use proto::portcullis::v1 as pb;
use pb::authorization_service_server::{AuthorizationService, AuthorizationServiceServer};

#[allow(clippy::all)]
mod proto {
    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
    }
    pub mod portcullis {
        pub mod v1 {
            tonic::include_proto!("portcullis.v1");
        }
    }
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

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("bare ready grpc={0} http={0}", listener.local_addr()?);
    std::io::stdout().flush()?;
    tonic::transport::Server::builder()
        .add_service(AuthorizationServiceServer::new(Bare))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}
