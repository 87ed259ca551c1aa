//! What a client says about itself in headers reaches neither the decision nor the service.

use super::process::{Gateway, Kind};
use super::stage::{LISTED, Stage, UNLISTED};

const IDENTITY: [&str; 6] = [
    "Portcullis-Token-Id",
    "Portcullis-Account-Id",
    "Portcullis-Scope",
    "Portcullis-Reason",
    "Portcullis-Pending-Action",
    "Portcullis-Token-Expires",
];

/// Headers that name an address for some server or other.
const ADDRESS: [&str; 14] = [
    "X-Forwarded-For",
    "X-Real-IP",
    "X-Client-Address",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Envoy-External-Address",
    "X-Envoy-Original-Dst-Host",
    "X-Original-Forwarded-For",
    "X-ProxyUser-Ip",
    "True-Client-IP",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
    "Client-IP",
    "Via",
];

/// The same header as some servers read it too: underscores for all hyphens, or for the last.
fn spellings(name: &str) -> [String; 4] {
    let last = name.rfind('-').expect("a hyphen");
    [
        name.to_owned(),
        name.to_ascii_lowercase(),
        name.replace('-', "_"),
        format!("{}_{}", &name[..last], &name[last + 1..]),
    ]
}

/// Every value of headers that a service may read as `name`.
fn read_as<'h>(
    head: &'h super::exchange::Head,
    name: &str,
) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    let name = name.to_ascii_lowercase();
    head.headers().filter(move |(known, _)| known.replace('_', "-") == name).map(|(_, value)| value)
}

fn ask(stage: &Stage, gateway: &Gateway, token: &str, headers: &[String]) -> super::stage::Outcome {
    let bearer = format!("Authorization: Bearer {}", stage.token(token));
    let mut all = vec![bearer.as_str()];
    all.extend(headers.iter().map(String::as_str));
    stage.ask(gateway, UNLISTED, "GET /api/v1/cards", &all)
}

async fn forged_headers_are_not_believed(kind: Kind) {
    let stage = Stage::new().await;
    let gateway = stage.gateway(kind);

    // The service gets what Portcullis says, once, or nothing at all.
    for name in IDENTITY {
        for spelling in spellings(name) {
            let once = format!("{spelling}: forged");
            for headers in [vec![once.clone()], vec![once.clone(), once.clone()]] {
                let outcome = ask(&stage, &gateway, "read", &headers);
                if outcome.received.is_empty() {
                    outcome.closed();
                    continue;
                }
                let received = outcome.allowed();
                let values: Vec<_> = read_as(received, name).collect();
                assert_eq!(values.len(), 1, "{spelling}: {received:?}");
                assert_ne!(values[0], b"forged", "{spelling}: {received:?}");
            }
        }
    }

    // A client can't present the gateway's credential, or another one.
    for spelling in spellings("Portcullis-Credential") {
        let outcome = ask(&stage, &gateway, "read", &[format!("{spelling}: forged")]);
        for received in &outcome.received {
            assert_eq!(read_as(received, "Portcullis-Credential").count(), 0, "{received:?}");
        }
    }

    // Nor have the headers removed that a gateway adds.
    for name in IDENTITY.into_iter().chain(["Portcullis-Credential", "X-Forwarded-For"]) {
        for value in [format!("Connection: {name}"), format!("Connection: keep-alive, {name}")] {
            let outcome = ask(&stage, &gateway, "read", &[value]);
            for received in &outcome.received {
                for name in IDENTITY {
                    assert_eq!(read_as(received, name).count(), 1, "{name}: {received:?}");
                }
            }
        }
    }
}

async fn forged_addresses_are_not_believed(kind: Kind) {
    let stage = Stage::new().await;
    let gateway = stage.gateway(kind);
    let forged = [LISTED.to_string(), format!("{LISTED}:80"), format!("[::ffff:{LISTED}]")];
    for name in ADDRESS {
        for spelling in spellings(if name.contains('-') { name } else { "X-Via" }) {
            for value in &forged {
                let headers = vec![format!("{spelling}: {value}")];
                ask(&stage, &gateway, "write", &headers).closed();
                let headers = [&headers[..], &headers[..]].concat();
                ask(&stage, &gateway, "write", &headers).closed();
            }
            let list = format!("{spelling}: {LISTED}, {LISTED}");
            ask(&stage, &gateway, "write", &[list]).closed();
        }
    }
    for value in [
        format!("for={LISTED}"),
        format!("for=\"{LISTED}\";by={LISTED}"),
        format!("for={LISTED}, for={LISTED}"),
    ] {
        let forwarded = format!("Forwarded: {value}");
        let outcome = ask(&stage, &gateway, "write", std::slice::from_ref(&forwarded));
        outcome.denied(403, "CLIENT_IP_NOT_WHITELISTED");
        // The service isn't misled either: gateways that leave the header as it is are named in docs/gateways.md.
        let outcome = ask(&stage, &gateway, "read", &[forwarded]);
        for received in &outcome.received {
            assert_eq!(read_as(received, "forwarded").count(), 0, "{received:?}");
        }
    }
    // What would be the peer itself is found, through the same gateway.
    let bearer = format!("Authorization: Bearer {}", stage.token("write"));
    stage.ask(&gateway, LISTED, "GET /api/v1/cards", &[&bearer]).allowed();
}

/// What describes the request, in both families: a client can't choose what is decided on.
async fn forged_requests_are_not_believed(kind: Kind) {
    let stage = Stage::new().await;
    let gateway = stage.gateway(kind);
    let forged = [
        ("X-Forwarded-Uri", "/api/v1/cards"),
        ("X-Original-URI", "/api/v1/cards"),
        ("X-Original-URL", "/api/v1/cards"),
        ("X-Rewrite-URL", "/api/v1/cards"),
        ("X-Forwarded-Method", "GET"),
        ("X-Original-Method", "GET"),
        ("X-HTTP-Method-Override", "GET"),
        ("X-HTTP-Method", "GET"),
        ("X-Method-Override", "GET"),
    ];
    let bearer = format!("Authorization: Bearer {}", stage.token("read"));
    for (name, value) in forged {
        for spelling in spellings(name) {
            let header = format!("{spelling}: {value}");
            for line in ["POST /api/v1/cards", "GET /api/v1/cards/1/reveal", "DELETE /nothing"] {
                stage.ask(&gateway, UNLISTED, line, &[&bearer, &header]).closed();
                stage.ask(&gateway, UNLISTED, line, &[&header, &bearer, &header]).closed();
            }
        }
    }
    // Both families at once.
    let both = [&*bearer, "X-Forwarded-Uri: /api/v1/cards", "X-Original-URI: /api/v1/cards"];
    stage.ask(&gateway, UNLISTED, "POST /api/v1/cards", &both).closed();
}

macro_rules! each_gateway {
    ($($module:ident $kind:ident),+) => {$(
        mod $module {
            use super::super::process::Kind;

            #[tokio::test(flavor = "multi_thread")]
            async fn forged_identities_never_reach_the_service() {
                super::forged_headers_are_not_believed(Kind::$kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn forged_addresses_are_denied() {
                super::forged_addresses_are_not_believed(Kind::$kind).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn forged_methods_and_paths_are_denied() {
                super::forged_requests_are_not_believed(Kind::$kind).await;
            }
        }
    )+};
}

each_gateway!(nginx Nginx, caddy Caddy, traefik Traefik, envoy_grpc EnvoyGrpc, envoy_http EnvoyHttp);
