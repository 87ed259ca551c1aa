//! Calls of any method by its path, with any bytes: also what no generated client would send.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tower::ServiceExt as _;

use super::client::endpoint;

/// The first message of the answer (none where there was none), or the status.
pub type Answer = Result<Bytes, Status>;

/// A connection that takes bytes for messages.
#[derive(Clone)]
pub struct Raw(Channel);

impl Raw {
    /// Over plaintext.
    pub async fn connect(address: SocketAddr) -> Self {
        let channel = endpoint(format!("http://{address}")).connect().await;
        Self(channel.expect("a connection to the server"))
    }

    /// Calls `path` with one message and `authorization` as the header of that name. Streams and
    /// unary calls look alike on the wire: of a stream, the first answer counts.
    pub async fn call(
        &self,
        path: &str,
        authorization: Option<&str>,
        message: impl Into<Bytes>,
    ) -> Answer {
        let mut answers = self.exchange(path, authorization, vec![message.into()]).await?;
        Ok(answers.message().await?.unwrap_or_default())
    }

    /// The same with any number of messages, and all the answers.
    ///
    /// # Errors
    /// What ends the call before its first answer.
    pub async fn exchange(
        &self,
        path: &str,
        authorization: Option<&str>,
        messages: Vec<Bytes>,
    ) -> Result<Streaming<Bytes>, Status> {
        self.exchange_as(path, authorization.as_slice(), messages).await
    }

    /// The same with any number of `authorization` headers.
    ///
    /// # Errors
    /// What ends the call before its first answer.
    pub async fn exchange_as(
        &self,
        path: &str,
        authorizations: &[&str],
        messages: Vec<Bytes>,
    ) -> Result<Streaming<Bytes>, Status> {
        self.open(path, authorizations, futures_util::stream::iter(messages)).await
    }

    /// The same with messages that may be still to come.
    ///
    /// # Errors
    /// What ends the call before its first answer.
    pub async fn open(
        &self,
        path: &str,
        authorizations: &[&str],
        messages: impl futures_util::Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        let mut request = Request::new(messages);
        for value in authorizations {
            request.metadata_mut().append("authorization", value.parse().expect("a header"));
        }
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let path = PathAndQuery::try_from(path).expect("a path");
        Ok(grpc.streaming(request, path, RawCodec).await?.into_inner())
    }
}

impl Raw {
    /// The HTTP status of an answer to an empty request of this content type, or none if it is empty.
    pub async fn status(&self, path: &str, content_type: &str) -> StatusCode {
        let mut request = http::Request::post(path);
        if !content_type.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(Body::empty()).expect("a request");
        self.0.clone().oneshot(request).await.expect("an answer").status()
    }
}

#[derive(Clone, Copy)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}
