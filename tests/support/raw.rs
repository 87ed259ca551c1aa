//! Calls of any method by its path, with any bytes: also what no generated client would send.

use std::net::SocketAddr;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

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
        let mut request =
            Request::new(futures_util::stream::once(std::future::ready(message.into())));
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().expect("a header"));
        }
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        let path = PathAndQuery::try_from(path).expect("a path");
        let mut answers = grpc.streaming(request, path, RawCodec).await?.into_inner();
        Ok(answers.message().await?.unwrap_or_default())
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
