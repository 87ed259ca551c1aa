//! gRPC: proto messages to domain values and back, one file per service, and one place that makes a
//! `Status`. `tonic` and `prost` stay in here.

mod accounts;
mod answer;
mod authority;
mod authorization;
mod body;
mod catalogs;
pub mod codec;
pub mod connections;
mod convert;
mod credentials;
pub mod envoy;
mod frame;
mod gate;
mod gzip;
pub mod health;
mod management;
mod own_calls;
mod preface;
mod protobuf;
mod redacted;
mod reflection;
pub mod server;
mod status;
mod tokens;
mod unary;
mod webhooks;
mod write_buffer;

pub use authorization::wire;

/// Generated from `proto/portcullis/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("portcullis.v1");

    /// The descriptors of every service, comments included, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/portcullis.bin"));
    /// Those of Envoy's service for external authorization.
    pub const ENVOY_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"));
}

/// A new credential with its secret, as `CreateCredential` answers it.
pub fn created_credential(
    credential: crate::model::Credential,
    secret: &crate::secret::Secret,
    revision: i64,
) -> proto::CreateCredentialResponse {
    proto::CreateCredentialResponse {
        credential: Some(convert::credential(credential)),
        secret: secret.expose().to_owned(),
        revision,
    }
}
