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

/// What the browser asks for.
pub const TARGET: &str = "/api/v1/transactions?limit=50&order=desc";

/// The headers of a browser's request that say nothing about the decision.
pub const BROWSER: [(&str, &str); 14] = [
    ("accept", "application/json, text/plain, */*"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-US,en;q=0.9"),
    ("cache-control", "no-cache"),
    ("origin", "https://app.example.com"),
    ("pragma", "no-cache"),
    ("referer", "https://app.example.com/accounts"),
    ("sec-fetch-dest", "empty"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "same-site"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "7c7cb3a1-5f0e-4a7e-9a35-6a0bb6b7a6d1"),
];

/// A `CheckRequest` with the headers as they were sent (`encode_raw_headers`).
pub fn message(token: &[u8], client_ip: &str) -> Vec<u8> {
    let bearer = [b"Bearer ", token].concat();
    let own: [(&str, &[u8]); 6] = [
        (":authority", b"api.example.com"),
        (":method", b"GET"),
        (":path", TARGET.as_bytes()),
        (":scheme", b"https"),
        ("authorization", &bearer),
        ("x-envoy-external-address", client_ip.as_bytes()),
    ];
    let headers: Vec<_> =
        own.into_iter().chain(BROWSER.map(|(name, value)| (name, value.as_bytes()))).collect();
    let headers = headers.into_iter().map(|(key, value)| HeaderValue {
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
        header_map: Some(HeaderMap { headers: headers.collect() }),
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
