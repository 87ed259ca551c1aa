//! Envoy's messages for external authorization, and a gateway that sends them.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test support: each test uses a part of it, and a failure here is the test's failure"
)]

use std::net::SocketAddr;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::client::endpoint;

/// Generated from `proto/envoy` by build.rs.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoy/mod.rs"));
}

pub use generated::envoy::config::core::v3::header_value_option::HeaderAppendAction;
pub use generated::envoy::config::core::v3::{
    Address, HeaderMap, HeaderValue, HeaderValueOption, Pipe, SocketAddress, address,
};
pub use generated::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
pub use generated::envoy::service::auth::v3::authorization_client::AuthorizationClient;
pub use generated::envoy::service::auth::v3::check_response::HttpResponse;
pub use generated::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, attribute_context,
};

/// What a gateway knows of one request.
#[derive(Clone)]
pub struct Question {
    pub source: String,
    pub method: String,
    /// With its query.
    pub path: String,
    /// In order, those of the same name several times.
    pub headers: Vec<(String, String)>,
    pub extensions: Vec<(String, String)>,
}

impl Question {
    /// A request with `Authorization: Bearer TOKEN`.
    pub fn bearer(token: &str, source: &str, method: &str, path: &str) -> Self {
        Self {
            source: source.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            headers: vec![("authorization".to_owned(), format!("Bearer {token}"))],
            extensions: Vec::new(),
        }
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more entry of the route's `context_extensions`.
    #[must_use]
    pub fn extension(mut self, name: &str, value: &str) -> Self {
        self.extensions.push((name.to_owned(), value.to_owned()));
        self
    }

    /// As Envoy describes it: headers of the same name joined with commas.
    pub fn message(&self) -> CheckRequest {
        let mut request = self.without_headers();
        let http = http(&mut request);
        for (name, value) in self.pseudo().chain(self.headers.iter().cloned()) {
            http.headers
                .entry(name)
                .and_modify(|joined| {
                    joined.push(',');
                    joined.push_str(&value);
                })
                .or_insert(value);
        }
        request
    }

    /// As Envoy describes it with `encode_raw_headers`.
    pub fn raw_message(&self) -> CheckRequest {
        let mut request = self.without_headers();
        let headers = self.pseudo().chain(self.headers.iter().cloned());
        let headers = headers.map(|(key, value)| HeaderValue {
            key,
            raw_value: value.into_bytes(),
            ..Default::default()
        });
        http(&mut request).header_map = Some(HeaderMap { headers: headers.collect() });
        request
    }

    fn pseudo(&self) -> impl Iterator<Item = (String, String)> {
        [(":method", &self.method), (":path", &self.path)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into_iter()
    }

    fn without_headers(&self) -> CheckRequest {
        let peer = |address: &str| Peer {
            address: Some(socket(address)),
            principal: "spiffe://example.com/client".to_owned(),
            ..Default::default()
        };
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(peer(&self.source)),
                destination: Some(peer("192.0.2.250")),
                request: Some(attribute_context::Request {
                    time: None,
                    http: Some(HttpRequest {
                        id: "7".to_owned(),
                        method: self.method.clone(),
                        path: self.path.clone(),
                        host: "api.example.com".to_owned(),
                        scheme: "https".to_owned(),
                        protocol: "HTTP/2".to_owned(),
                        size: -1,
                        ..Default::default()
                    }),
                }),
                context_extensions: self.extensions.iter().cloned().collect(),
                ..Default::default()
            }),
        }
    }
}

/// The request within a message.
pub fn http(request: &mut CheckRequest) -> &mut HttpRequest {
    let attributes = request.attributes.as_mut().expect("attributes");
    attributes.request.as_mut().expect("a request").http.as_mut().expect("HTTP")
}

/// An address as Envoy describes a peer's.
pub fn socket(address: &str) -> Address {
    let socket = SocketAddress { address: address.to_owned(), ..Default::default() };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

/// What a gateway does with one answer, as Envoy reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether the request goes on: the status code is 0, or there is none.
    pub allowed: bool,
    /// The gRPC code in the answer.
    pub code: i32,
    /// The HTTP status of a refusal.
    pub status: i32,
    /// The headers that the service gets, or those of the refusal.
    pub headers: Vec<(String, String)>,
    /// Names that the service does not get.
    pub removed: Vec<String>,
    /// Headers of the client's response to an allowed request.
    pub warnings: Vec<(String, String)>,
    /// The body of a refusal.
    pub body: String,
    /// Dynamic metadata.
    pub metadata: Vec<(String, String)>,
}

impl Outcome {
    /// A header of the service's, or of the refusal.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// A text of the dynamic metadata; empty where there is none.
    pub fn metadata(&self, name: &str) -> &str {
        self.metadata.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }
}

/// Names and values; that each replaces what was there before.
fn headers(options: &[HeaderValueOption]) -> Vec<(String, String)> {
    let header = |option: &HeaderValueOption| {
        #[allow(deprecated, reason = "older versions of Envoy know nothing else")]
        let append = option.append;
        assert_eq!(append, Some(false), "{option:?}");
        assert_eq!(option.append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd);
        let header = option.header.as_ref().expect("a header");
        assert!(!header.value.is_empty() && header.raw_value.is_empty(), "{option:?}");
        (header.key.clone(), header.value.clone())
    };
    options.iter().map(header).collect()
}

/// Reads an answer; that it is consistent.
pub fn outcome(response: &CheckResponse) -> Outcome {
    use prost_types::value::Kind;
    let code = response.status.as_ref().map_or(0, |status| status.code);
    let metadata = response.dynamic_metadata.iter().flat_map(|metadata| &metadata.fields);
    let mut outcome = Outcome {
        allowed: code == 0,
        code,
        status: 0,
        headers: Vec::new(),
        removed: Vec::new(),
        warnings: Vec::new(),
        body: String::new(),
        metadata: metadata
            .map(|(name, value)| match &value.kind {
                Some(Kind::StringValue(text)) => (name.clone(), text.clone()),
                other => panic!("{name}: {other:?}"),
            })
            .collect(),
    };
    match response.http_response.as_ref().expect("an HTTP response") {
        HttpResponse::OkResponse(ok) => {
            assert!(outcome.allowed, "{response:?}");
            assert!(ok.query_parameters_to_set.is_empty());
            outcome.headers = headers(&ok.headers);
            outcome.removed = ok.headers_to_remove.clone();
            outcome.warnings = headers(&ok.response_headers_to_add);
            let both = outcome.removed.iter().find(|name| outcome.header(name).is_some());
            assert_eq!(both, None, "a name in both lists");
        }
        HttpResponse::DeniedResponse(denied) => {
            assert!(!outcome.allowed, "a refusal that lets the request pass: {response:?}");
            outcome.status = denied.status.as_ref().expect("a status").code;
            outcome.headers = headers(&denied.headers);
            outcome.body = denied.body.clone();
        }
        HttpResponse::ErrorResponse(error) => panic!("it would obey failure_mode_allow: {error:?}"),
    }
    outcome
}

/// A gateway with a credential.
#[derive(Clone)]
pub struct Gateway {
    pub client: AuthorizationClient<Channel>,
    credential: Option<MetadataValue<Ascii>>,
}

impl Gateway {
    /// One that presents `credential`.
    pub async fn connect(address: SocketAddr, credential: &str) -> Self {
        let channel = endpoint(format!("http://{address}")).connect().await.expect("a connection");
        let credential = (!credential.is_empty())
            .then(|| format!("Bearer {credential}").parse().expect("a credential"));
        let client = AuthorizationClient::new(channel).max_encoding_message_size(usize::MAX);
        Self { client, credential }
    }

    /// A call with the credential.
    pub fn request(&self, message: CheckRequest) -> Request<CheckRequest> {
        let mut request = Request::new(message);
        if let Some(credential) = &self.credential {
            request.metadata_mut().insert("authorization", credential.clone());
        }
        request
    }

    /// What becomes of a request.
    ///
    /// # Panics
    /// Where the call ends with an error of gRPC, which no call may.
    pub async fn check(&self, message: CheckRequest) -> Outcome {
        self.try_check(self.request(message)).await.expect("every call is answered")
    }

    /// What becomes of a call.
    ///
    /// # Errors
    /// Those of gRPC.
    pub async fn try_check(&self, request: Request<CheckRequest>) -> Result<Outcome, Status> {
        let response = self.client.clone().check(request).await?;
        Ok(outcome(response.get_ref()))
    }

    /// The outcome of a question, told in both families of headers.
    pub async fn ask(&self, question: &Question) -> Outcome {
        let joined = self.check(question.message()).await;
        assert_eq!(self.check(question.raw_message()).await, joined, "the families differ");
        joined
    }
}
