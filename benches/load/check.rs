//! A question as Envoy asks it about a browser's request: about 20 headers and a kilobyte.

use prost::Message as _;

#[allow(missing_docs, clippy::all, clippy::pedantic, dead_code)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoy/mod.rs"));
}

use generated::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, SocketAddress, address};
use generated::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use generated::envoy::service::auth::v3::{AttributeContext, CheckRequest};

/// The call.
pub const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

const TARGET: &str = "/api/v1/transactions?limit=50&order=desc";

/// A `CheckRequest` with the headers as they were sent (`encode_raw_headers`).
pub fn message(token: &[u8], client_ip: &str) -> Vec<u8> {
    let bearer = [b"Bearer ", token].concat();
    let headers: [(&str, &[u8]); 20] = [
        (":authority", b"api.example.com"),
        (":method", b"GET"),
        (":path", TARGET.as_bytes()),
        (":scheme", b"https"),
        ("accept", b"application/json, text/plain, */*"),
        ("accept-encoding", b"gzip, deflate, br, zstd"),
        ("accept-language", b"en-US,en;q=0.9"),
        ("authorization", &bearer),
        ("cache-control", b"no-cache"),
        ("origin", b"https://app.example.com"),
        ("pragma", b"no-cache"),
        ("referer", b"https://app.example.com/accounts"),
        ("sec-fetch-dest", b"empty"),
        ("sec-fetch-mode", b"cors"),
        ("sec-fetch-site", b"same-site"),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("x-envoy-external-address", client_ip.as_bytes()),
        ("x-forwarded-proto", b"https"),
        ("x-request-id", b"7c7cb3a1-5f0e-4a7e-9a35-6a0bb6b7a6d1"),
    ];
    let headers = headers.map(|(key, value)| HeaderValue {
        key: key.to_owned(),
        raw_value: value.to_vec(),
        ..Default::default()
    });
    let peer = |address: &str| {
        let socket = SocketAddress { address: address.to_owned(), ..Default::default() };
        let address = Address { address: Some(address::Address::SocketAddress(socket)) };
        Some(Peer { address: Some(address), ..Default::default() })
    };
    let http = HttpRequest {
        id: "7346153210932114243".to_owned(),
        method: "GET".to_owned(),
        path: TARGET.to_owned(),
        host: "api.example.com".to_owned(),
        scheme: "https".to_owned(),
        protocol: "HTTP/2".to_owned(),
        header_map: Some(HeaderMap { headers: headers.to_vec() }),
        ..Default::default()
    };
    let attributes = AttributeContext {
        source: peer(client_ip),
        destination: peer("192.0.2.250"),
        request: Some(Request { time: None, http: Some(http) }),
        ..Default::default()
    };
    CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}
