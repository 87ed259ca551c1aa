//! The same messages as Portcullis', through tonic's own codec.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let proto = "portcullis/v1/authorization_service.proto";
    let descriptors = protox::compile([proto], ["../../proto"])?;
    tonic_prost_build::configure().build_client(false).compile_fds(descriptors)?;
    Ok(())
}
