//! Portcullis: a gRPC policy decision point for API tokens.
pub mod cache;
pub mod clock;
pub mod grpc;
pub mod net;
pub mod policy;
pub mod secret;
pub mod service;
pub mod shutdown;
pub mod store;
pub mod telemetry;
