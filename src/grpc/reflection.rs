//! Server reflection, v1 and v1alpha, which differ in nothing but their names: what this server offers, for
//! clients without its proto files (<https://github.com/grpc/grpc/blob/master/doc/server-reflection.md>).
//!
//! Must stay true: an unknown name is answered with an `error_response`, and the stream goes on, so that a
//! client can look a list of names up on one stream. (tonic-reflection ends the stream.) The caller's
//! credential is checked again for every request.

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, future};
use prost_reflect::{DescriptorError, DescriptorPool, FileDescriptor};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::{v1, v1alpha};

use super::gate::CallerCredential;
use super::status::status;
use crate::service::{Error, Services};

/// The largest request, in bytes. It holds one name, and comes back with the answer.
pub(super) const MAX_REQUEST: usize = 16 << 10;

/// The files that clients ask for.
#[derive(Debug)]
struct Files {
    pool: DescriptorPool,
    /// The names of everything that is defined in a file.
    symbols: HashMap<String, FileDescriptor>,
    services: Vec<String>,
}

/// The answer to one request, in whichever version.
enum ReflectionAnswer {
    File(Vec<u8>),
    ExtensionNumbers(String, Vec<i32>),
    Services(Vec<String>),
    Error(Code, &'static str),
}

impl Files {
    fn new() -> Result<Self, DescriptorError> {
        // As encoded, so that options which are extensions are kept.
        let mut pool = DescriptorPool::decode(super::proto::DESCRIPTORS)?;
        pool.decode_file_descriptor_set(super::proto::ENVOY_DESCRIPTORS)?;
        for set in [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_types::pb::FILE_DESCRIPTOR_SET,
            v1::FILE_DESCRIPTOR_SET,
            v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            let set = DescriptorPool::decode(set)?;
            // What several sets have is taken from the first. tonic-types has google/rpc/status.proto
            // by another name.
            let there = |file: &FileDescriptor| {
                file.messages().any(|m| pool.get_message_by_name(m.full_name()).is_some())
            };
            let more: Vec<_> = set
                .files()
                .filter(|file| !there(file))
                .map(|file| file.file_descriptor_proto().clone())
                .collect();
            pool.add_file_descriptor_protos(more)?;
        }
        let symbols = symbols(&pool);
        let services = pool.services().map(|service| service.full_name().to_owned()).collect();
        Ok(Self { pool, symbols, services })
    }

    fn by_name(&self, name: &str) -> ReflectionAnswer {
        file(self.pool.get_file_by_name(name).as_ref(), "there is no file of this name")
    }

    fn by_symbol(&self, name: &str) -> ReflectionAnswer {
        file(self.symbols.get(name), "nothing has this name: list_services has the services")
    }

    fn by_extension(&self, extended: &str, number: i32) -> ReflectionAnswer {
        let message = self.pool.get_message_by_name(extended);
        let found = u32::try_from(number).ok().and_then(|number| message?.get_extension(number));
        let found = found.map(|extension| extension.parent_file());
        file(found.as_ref(), "there is no extension of this message with this number")
    }

    fn extension_numbers(&self, extended: &str) -> ReflectionAnswer {
        let Some(message) = self.pool.get_message_by_name(extended) else {
            return ReflectionAnswer::Error(Code::NotFound, "there is no message of this name");
        };
        let numbers: BTreeSet<i32> =
            message.extensions().filter_map(|found| found.number().try_into().ok()).collect();
        ReflectionAnswer::ExtensionNumbers(extended.to_owned(), numbers.into_iter().collect())
    }
}

fn file(found: Option<&FileDescriptor>, missing: &'static str) -> ReflectionAnswer {
    found.map_or(ReflectionAnswer::Error(Code::NotFound, missing), |file| {
        ReflectionAnswer::File(file.encode_to_vec())
    })
}

/// Every name of the files' contents, as protobuf makes full names.
fn symbols(pool: &DescriptorPool) -> HashMap<String, FileDescriptor> {
    let mut symbols = HashMap::new();
    let mut add = |name: &str, file: FileDescriptor| symbols.insert(name.to_owned(), file);
    for message in pool.all_messages() {
        add(message.full_name(), message.parent_file());
        message.fields().for_each(|field| drop(add(field.full_name(), message.parent_file())));
        message.oneofs().for_each(|oneof| drop(add(oneof.full_name(), message.parent_file())));
    }
    for values in pool.all_enums() {
        add(values.full_name(), values.parent_file());
        values.values().for_each(|value| drop(add(value.full_name(), values.parent_file())));
    }
    for extension in pool.all_extensions() {
        add(extension.full_name(), extension.parent_file());
    }
    for service in pool.services() {
        add(service.full_name(), service.parent_file());
        service.methods().for_each(|method| drop(add(method.full_name(), service.parent_file())));
    }
    symbols
}

/// The service of both versions.
#[derive(Debug, Clone)]
pub(crate) struct Reflection {
    files: Arc<Files>,
    services: Arc<Services>,
}

impl Reflection {
    /// Answers callers that `services` knows.
    ///
    /// # Errors
    /// The descriptors can't be read: an error of the build.
    pub(crate) fn new(services: Arc<Services>) -> Result<Self, DescriptorError> {
        Ok(Self { files: Arc::new(Files::new()?), services })
    }

    /// The server of v1.
    pub(crate) fn v1(&self) -> v1::server_reflection_server::ServerReflectionServer<Self> {
        v1::server_reflection_server::ServerReflectionServer::new(self.clone())
            .max_decoding_message_size(MAX_REQUEST)
    }

    /// The server of v1alpha.
    pub(crate) fn v1alpha(
        &self,
    ) -> v1alpha::server_reflection_server::ServerReflectionServer<Self> {
        v1alpha::server_reflection_server::ServerReflectionServer::new(self.clone())
            .max_decoding_message_size(MAX_REQUEST)
    }

    /// Whether the caller of a stream may go on.
    async fn admit(&self, presented: CallerCredential) -> Result<(), Status> {
        let admitted = async {
            self.services.ready().await?;
            presented.role(&self.services)
        };
        admitted.await.map(drop).map_err(|error| status(&error))
    }
}

/// Implements the service for one version.
macro_rules! serve {
    ($version:ident) => {
        #[tonic::async_trait]
        impl $version::server_reflection_server::ServerReflection for Reflection {
            type ServerReflectionInfoStream = Pin<
                Box<dyn Stream<Item = Result<$version::ServerReflectionResponse, Status>> + Send>,
            >;

            async fn server_reflection_info(
                &self,
                request: Request<Streaming<$version::ServerReflectionRequest>>,
            ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                use $version::server_reflection_request::MessageRequest;
                use $version::server_reflection_response::MessageResponse;

                // The gate puts it there; without it nobody is known, so nothing is answered.
                let Some(&presented) = request.extensions().get::<CallerCredential>() else {
                    return Err(status(&Error::Unauthenticated("no caller is known")));
                };
                let this = self.clone();
                let answers = request.into_inner().then(move |request| {
                    let this = this.clone();
                    async move {
                        let request = request?;
                        this.admit(presented).await?;
                        let answer = match &request.message_request {
                            None => ReflectionAnswer::Error(
                                Code::InvalidArgument,
                                "nothing is asked for",
                            ),
                            Some(MessageRequest::FileByFilename(name)) => this.files.by_name(name),
                            Some(MessageRequest::FileContainingSymbol(name)) => {
                                this.files.by_symbol(name)
                            }
                            Some(MessageRequest::FileContainingExtension(extension)) => {
                                this.files.by_extension(
                                    &extension.containing_type,
                                    extension.extension_number,
                                )
                            }
                            Some(MessageRequest::AllExtensionNumbersOfType(name)) => {
                                this.files.extension_numbers(name)
                            }
                            Some(MessageRequest::ListServices(_)) => {
                                ReflectionAnswer::Services(this.files.services.clone())
                            }
                        };
                        let answer = match answer {
                            ReflectionAnswer::File(file) => {
                                let file_descriptor_proto = vec![file];
                                MessageResponse::FileDescriptorResponse(
                                    $version::FileDescriptorResponse { file_descriptor_proto },
                                )
                            }
                            ReflectionAnswer::ExtensionNumbers(
                                base_type_name,
                                extension_number,
                            ) => MessageResponse::AllExtensionNumbersResponse(
                                $version::ExtensionNumberResponse {
                                    base_type_name,
                                    extension_number,
                                },
                            ),
                            ReflectionAnswer::Services(names) => {
                                let service = names
                                    .into_iter()
                                    .map(|name| $version::ServiceResponse { name })
                                    .collect();
                                MessageResponse::ListServicesResponse(
                                    $version::ListServiceResponse { service },
                                )
                            }
                            ReflectionAnswer::Error(code, message) => {
                                MessageResponse::ErrorResponse($version::ErrorResponse {
                                    error_code: code.into(),
                                    error_message: message.to_owned(),
                                })
                            }
                        };
                        Ok($version::ServerReflectionResponse {
                            valid_host: request.host.clone(),
                            original_request: Some(request),
                            message_response: Some(answer),
                        })
                    }
                });
                // A stream ends after its first error.
                let answers = answers.scan(false, |failed, answer| {
                    let go_on = !*failed;
                    *failed = answer.is_err();
                    future::ready(go_on.then_some(answer))
                });
                Ok(Response::new(Box::pin(answers)))
            }
        }
    };
}

serve!(v1);
serve!(v1alpha);
