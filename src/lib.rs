//! Portcullis: a gRPC policy decision point for API tokens.
pub mod grpc;
pub mod policy;
pub mod secret;
pub mod store;
