//! Compiles `proto/` without `protoc`, and keeps the descriptors, comments and all, for reflection.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

const PROTOS: [&str; 5] = [
    "portcullis/v1/authorization_service.proto",
    "portcullis/v1/token_service.proto",
    "portcullis/v1/account_service.proto",
    "portcullis/v1/catalog_service.proto",
    "portcullis/v1/credential_service.proto",
];

#[allow(clippy::disallowed_methods, reason = "OUT_DIR is no setting: cargo says where to write")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(PROTOS)?;
    let descriptors = compiler.file_descriptor_set();

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("portcullis.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(true)
        .codec_path("crate::grpc::codec::Codec")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .boxed(".portcullis.v1.BatchAuthorizeResult.result.response")
        // src/grpc/redacted.rs has these.
        .skip_debug([
            ".portcullis.v1.AuthorizeRequest",
            ".portcullis.v1.CreateTokenResponse",
            ".portcullis.v1.CreateCredentialResponse",
        ])
        // Skipped with the message that it stands in, though it shows no secret.
        .type_attribute(".portcullis.v1.AuthorizeRequest.operation", "#[derive(Debug)]")
        .compile_fds(descriptors)?;
    Ok(())
}
