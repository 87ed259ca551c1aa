//! Portcullis: a gRPC policy decision point for API tokens.
pub mod app;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod grpc;
pub mod http;
pub mod net;
pub mod policy;
pub mod secret;
pub mod service;
pub mod shutdown;
pub mod store;
pub mod telemetry;
