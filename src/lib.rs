//! Portcullis: a gRPC policy decision point for API tokens.
pub mod config;
pub mod grpc;
