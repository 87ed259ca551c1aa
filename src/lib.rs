//! Portcullis: a gRPC policy decision point for API tokens.
pub mod app;
pub mod cli;
pub mod config;
pub mod grpc;
