//! Server reflection, v1 and v1alpha: an unknown name is an answer, not the end of the stream. With raw
//! streams, grpcio-reflection, and grpcurl.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use crate::support::calls::credential;
use crate::support::client::Client;
use crate::support::raw::Raw;
use crate::support::server::{Server, Setup};
use crate::support::tools::{fail, grpcurl, python, source, succeed};
use bytes::Bytes;
use portcullis::grpc::proto::{RevokeCredentialRequest, Role};
use prost::Message as _;
use prost_reflect::{DescriptorPool, FileDescriptor, Value};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{
    ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse,
};

fn path(version: &str) -> String {
    format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
}

fn request(of: MessageRequest) -> ServerReflectionRequest {
    ServerReflectionRequest { host: "here".to_owned(), message_request: Some(of) }
}

/// What the answer to each request is: an error's code, or what was found.
fn summary(answer: &ServerReflectionResponse) -> Result<String, Code> {
    match answer.message_response.as_ref().expect("an answer") {
        MessageResponse::ErrorResponse(error) => {
            assert!(!error.error_message.is_empty());
            Err(error.error_code.into())
        }
        MessageResponse::FileDescriptorResponse(files) => {
            let [file] = &files.file_descriptor_proto[..] else { panic!("{files:?}") };
            Ok(prost_types::FileDescriptorProto::decode(&file[..]).unwrap().name().to_owned())
        }
        MessageResponse::ListServicesResponse(list) => {
            Ok(list.service.iter().map(|service| &service.name[..]).collect::<Vec<_>>().join(" "))
        }
        MessageResponse::AllExtensionNumbersResponse(numbers) => {
            Ok(format!("{} {:?}", numbers.base_type_name, numbers.extension_number))
        }
    }
}

/// The two versions are alike on the wire, so one set of messages speaks to both.
#[tokio::test]
async fn an_unknown_name_is_an_error_response_and_the_stream_goes_on() {
    let server = Setup::sqlite().start();
    let bearer = format!("Bearer {}", server.operator());
    let raw = Raw::connect(server.grpc()).await;
    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.to_owned());
    let file = |name: &str| MessageRequest::FileByFilename(name.to_owned());
    let extensions = |of: &str| MessageRequest::AllExtensionNumbersOfType(of.to_owned());
    let extension = |of: &str, number| {
        MessageRequest::FileContainingExtension(ExtensionRequest {
            containing_type: of.to_owned(),
            extension_number: number,
        })
    };
    let authorization = "portcullis/v1/authorization_service.proto";
    let found = |text: &str| Ok(text.to_owned());
    let missing = || Err(Code::NotFound);
    let services = "portcullis.v1.AuthorizationService portcullis.v1.TokenService \
                    portcullis.v1.AccountService portcullis.v1.CatalogService \
                    portcullis.v1.CredentialService \
                    portcullis.v1.SelfService portcullis.v1.WebhookService \
                    envoy.service.auth.v3.Authorization grpc.health.v1.Health \
                    grpc.reflection.v1.ServerReflection grpc.reflection.v1alpha.ServerReflection";
    let cases = [
        (symbol("no.such.Service"), missing()),
        (symbol(""), missing()),
        (symbol("portcullis.v1"), missing()),
        (symbol(".portcullis.v1.TokenService"), missing()),
        (symbol("portcullis.v1.TokenService"), found("portcullis/v1/token_service.proto")),
        (
            symbol("portcullis.v1.TokenService.ListTokens"),
            found("portcullis/v1/token_service.proto"),
        ),
        (symbol("portcullis.v1.TokenService.NoSuchCall"), missing()),
        (symbol("portcullis.v1.AuthorizeRequest.client_ip"), found(authorization)),
        (symbol("portcullis.v1.AuthorizeRequest.operation"), found(authorization)),
        (symbol("portcullis.v1.DECISION_ALLOW"), found(authorization)),
        (
            symbol("envoy.service.auth.v3.Authorization.Check"),
            found("envoy/service/auth/v3/external_auth.proto"),
        ),
        (extensions("google.protobuf.OneofOptions"), found("google.protobuf.OneofOptions [1071]")),
        (symbol("google.rpc.BadRequest.FieldViolation"), found("error_details.proto")),
        (file("no/such.proto"), missing()),
        (file(authorization), found(authorization)),
        (file("google/protobuf/timestamp.proto"), found("google/protobuf/timestamp.proto")),
        (extension("portcullis.v1.AuthorizeRequest", 100), missing()),
        (extension("no.such.Message", -1), missing()),
        (extensions("no.such.Message"), missing()),
        (extensions("portcullis.v1.Token"), found("portcullis.v1.Token []")),
        (MessageRequest::ListServices("*".to_owned()), found(services)),
    ];
    for version in ["v1", "v1alpha"] {
        let requests: Vec<_> = cases
            .iter()
            .map(|(of, _)| request(of.clone()))
            .chain([ServerReflectionRequest::default()])
            .collect();
        let messages = requests.iter().map(|request| request.encode_to_vec().into()).collect();
        let mut answers =
            raw.exchange(&path(version), Some(&bearer), messages).await.expect("a stream");
        for (at, request) in requests.into_iter().enumerate() {
            let answer = answers.message().await.unwrap().expect("an answer to each");
            let answer = ServerReflectionResponse::decode(answer).unwrap();
            let wanted =
                cases.get(at).map_or(Err(Code::InvalidArgument), |(_, wanted)| wanted.clone());
            assert_eq!(summary(&answer), wanted, "{version} {request:?}");
            assert_eq!(answer.valid_host, request.host);
            assert_eq!(answer.original_request, Some(request));
        }
        assert_eq!(answers.message().await.unwrap(), None, "the stream ends as the client ends it");
    }
}

/// Every file, with what it imports, so that a client can build all of them.
#[tokio::test]
async fn all_files_can_be_read() {
    let server = Setup::sqlite().start();
    let bearer = format!("Bearer {}", server.operator());
    let raw = Raw::connect(server.grpc()).await;
    let mut pool = DescriptorPool::decode(portcullis::grpc::proto::DESCRIPTORS).unwrap();
    pool.decode_file_descriptor_set(portcullis::grpc::proto::ENVOY_DESCRIPTORS).unwrap();
    pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
    let names: Vec<_> = pool.files().map(|file| file.name().to_owned()).collect();
    let messages = names
        .iter()
        .map(|name| request(MessageRequest::FileByFilename(name.clone())).encode_to_vec().into())
        .collect();
    let mut answers = raw.exchange(&path("v1"), Some(&bearer), messages).await.unwrap();
    for name in names {
        let answer = answers.message().await.unwrap().expect("an answer to each");
        let answer = ServerReflectionResponse::decode(answer).unwrap();
        let Some(MessageResponse::FileDescriptorResponse(file)) = answer.message_response else {
            panic!("{name}: {answer:?}");
        };
        let wanted = pool.get_file_by_name(&name).unwrap().encode_to_vec();
        assert!(file.file_descriptor_proto == [wanted], "{name} is another file");
    }
}

/// The comment that stands before an element of a file, one line.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let file = file.file_descriptor_proto();
    let places = &file.source_code_info.as_ref().expect("comments are kept").location;
    let place = places.iter().find(|place| place.path == path).expect("a place in the source");
    place.leading_comments().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What generators for other languages read besides names: packages, which fields a request requires, and
/// comments that stand as they are in documentation.
#[test]
fn contract_is_annotated_for_generators() {
    let pool = DescriptorPool::decode(portcullis::grpc::proto::DESCRIPTORS).unwrap();
    let behavior = pool.get_extension_by_name("google.api.field_behavior").unwrap();
    let (mut fields, mut required) = (0, 0);
    for file in pool.files().filter(|file| file.package_name() == "portcullis.v1") {
        let name = file.name();
        let options = file.file_descriptor_proto().options.as_ref().expect(name);
        assert!(options.go_package.is_some() && options.java_package.is_some(), "{name}");
        assert!(options.java_multiple_files(), "{name}");
        for service in file.services() {
            let text = comment(&file, service.path());
            assert!(text.starts_with(&format!("{} ", service.name())), "{text}");
            for method in service.methods() {
                let text = comment(&file, method.path());
                assert!(text.starts_with(&format!("{} ", method.name())), "{text}");
            }
        }
        for message in file.messages().filter(|message| message.name().ends_with("Request")) {
            for field in message.fields() {
                let text = comment(&file, field.path());
                let options = field.options();
                let value = options.get_extension(&behavior);
                let behaviors = value.as_list().expect("a list");
                let [Value::EnumNumber(behavior)] = behaviors else {
                    panic!("{}: {behaviors:?}", field.full_name());
                };
                // OPTIONAL is 1, REQUIRED 2.
                assert!([1, 2].contains(behavior), "{}: {behavior}", field.full_name());
                if text.contains("Required.") || text.contains("Required;") {
                    assert_eq!(*behavior, 2, "{}: {text}", field.full_name());
                }
                fields += 1;
                required += usize::from(*behavior == 2);
            }
        }
    }
    assert!(fields > 50 && required > 10, "{required} of {fields}");
}

#[tokio::test]
async fn a_request_is_small() {
    let server = Setup::sqlite().start();
    let bearer = format!("Bearer {}", server.operator());
    let raw = Raw::connect(server.grpc()).await;
    let large = MessageRequest::FileContainingSymbol("x".repeat(20_000));
    let message: Bytes = request(large).encode_to_vec().into();
    for version in ["v1", "v1alpha"] {
        let refused = raw.call(&path(version), Some(&bearer), message.clone()).await.unwrap_err();
        let expected = [Code::ResourceExhausted, Code::OutOfRange];
        assert!(expected.contains(&refused.code()), "{refused:?}");
    }
}

/// docs/policy.md, rule 8.5.
#[tokio::test]
async fn a_revoked_credential_ends_the_stream() {
    let server = Setup::sqlite().start();
    let operator = Client::operator(&server).await;
    let (made, secret) = credential(&operator, Role::Pep, "").await;
    let endpoint = Endpoint::new(format!("http://{}", server.grpc())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let (ask, requests) = tokio::sync::mpsc::unbounded_channel();
    let mut call = Request::new(UnboundedReceiverStream::new(requests));
    let bearer = MetadataValue::try_from(format!("Bearer {secret}")).unwrap();
    call.metadata_mut().insert("authorization", bearer);
    let list = || request(MessageRequest::ListServices(String::new()));
    ask.send(list()).unwrap();
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(call).await.unwrap().into_inner();
    answers.message().await.unwrap().expect("an answer");

    let revoke = RevokeCredentialRequest { credential_id: made.credential_id, no_wait: false };
    operator.credentials().revoke_credential(revoke).await.unwrap();
    ask.send(list()).unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unauthenticated);
}

#[test]
fn grpcio_reflection_goes_on_after_an_unknown_name() {
    let server = Setup::sqlite().start();
    let printed = succeed(
        python()
            .arg(source("tests/clients/python/reflect.py"))
            .arg(server.grpc().to_string())
            .env("TEST_CREDENTIAL", server.operator()),
    );
    assert!(printed.ends_with("ok  each answer names its request\n"), "{printed}");
}

#[test]
fn grpcurl_names_what_it_does_not_find() {
    let server = Setup::sqlite().start();
    let describe = |server: &Server, symbols: &[&str]| {
        let mut command = grpcurl();
        command.args(["-plaintext", "-max-time", "30", "-H"]);
        command.arg(format!("authorization: Bearer {}", server.operator()));
        command.arg(server.grpc().to_string()).arg("describe").args(symbols);
        command
    };
    let refusal = fail(&mut describe(&server, &["no.such.Service"]));
    assert!(refusal.contains("Symbol not found: no.such.Service"), "{refusal}");
    let found = succeed(&mut describe(&server, &["portcullis.v1.TokenService"]));
    assert!(found.contains("portcullis.v1.TokenService is a service"), "{found}");
}
