//! gRPC: proto messages to domain values and back, one file per service, and one place that makes a
//! `Status`. `tonic` and `prost` stay in here.

pub mod codec;

/// Generated from `proto/portcullis/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("portcullis.v1");

    /// The descriptors of every service, comments included, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/portcullis.bin"));
}
