//! The same messages as Portcullis', through tonic's own codec.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let protos =
        ["portcullis/v1/authorization_service.proto", "envoy/service/auth/v3/external_auth.proto"];
    let descriptors = protox::compile(protos, ["../../proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .include_file("mod.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
