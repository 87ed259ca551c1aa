//! Compiles `proto/` without `protoc`, and keeps the descriptors, comments and all, for reflection.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost_types::{FileDescriptorSet, MethodDescriptorProto};

/// The contract.
const PROTOS: [&str; 7] = [
    "portcullis/v1/authorization_service.proto",
    "portcullis/v1/token_service.proto",
    "portcullis/v1/account_service.proto",
    "portcullis/v1/catalog_service.proto",
    "portcullis/v1/credential_service.proto",
    "portcullis/v1/self_service.proto",
    "portcullis/v1/webhook_service.proto",
];

/// Envoy's interface for external authorization: proto/README.md says where it comes from.
const ENVOY: &str = "envoy/service/auth/v3/external_auth.proto";

#[allow(clippy::disallowed_methods, reason = "OUT_DIR is no setting: cargo says where to write")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=migrations");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let descriptors = compile(&PROTOS, &out.join("portcullis.bin"))?;
    let envoy = compile(&[ENVOY], &out.join("envoy.bin"))?;
    // Tests and benchmarks alone use these messages: the server reads and writes them in place.
    let messages = out.join("envoy");
    fs::create_dir_all(&messages)?;
    tonic_prost_build::configure()
        .out_dir(messages)
        .include_file("mod.rs")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(envoy)?;

    frames(&descriptors, &out.join("frames"))?;
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
            ".portcullis.v1.ReportLeakedTokensRequest",
            ".portcullis.v1.CreateWebhookResponse",
            ".portcullis.v1.RotateWebhookSecretResponse",
        ])
        // Skipped with the message that it stands in, though it shows no secret.
        .type_attribute(".portcullis.v1.AuthorizeRequest.operation", "#[derive(Debug)]")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The descriptors of `files` and what they import; also written to `out`.
fn compile(files: &[&str], out: &Path) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    // Encoded by protox, not by prost, which drops the options that are extensions.
    fs::write(out, compiler.encode_file_descriptor_set())?;
    Ok(compiler.file_descriptor_set())
}

/// The streams of `AuthorizationService` with messages that stay bytes, for src/grpc/frame.rs.
fn frames(descriptors: &FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
    use tonic_prost_build::manual::{Builder, Method, Service};
    let file = descriptors.file.iter().find(|file| file.name() == PROTOS[0]);
    let [service] = file.map_or(&[][..], |file| &file.service) else {
        return Err("authorization_service.proto has one service".into());
    };
    let mut frames = Service::builder().name(service.name()).package("portcullis.v1");
    let streams =
        |method: &&MethodDescriptorProto| method.client_streaming() && method.server_streaming();
    for method in service.method.iter().filter(streams) {
        let frame = Method::builder()
            .name(snake_case(method.name()))
            .route_name(method.name())
            .input_type("crate::grpc::frame::Frame")
            .output_type("crate::grpc::frame::Frame")
            .codec_path("crate::grpc::frame::Codec")
            .client_streaming()
            .server_streaming();
        frames = frames.method(frame.build());
    }
    fs::create_dir_all(out)?;
    Builder::new().build_client(false).out_dir(out).compile(&[frames.build()]);
    Ok(())
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
