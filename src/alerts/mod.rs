//! Alerts that secrets leaked: signed requests over HTTP, as GitHub's secret scanning sends them to those who issue
//! tokens ("Secret scanning partner program" at docs.github.com), and other publishers with headers of other names.
//!
//! # Invariants
//! - Nothing is read from the store before the signature of a request is verified.
//! - Requests without a valid signature have one answer, whatever is wrong with them; no answer contains a secret.
//! - Strangers can make this keep `PLACES` bodies of `MAX_BODY` bytes, each for `ARRIVAL` and one reading of the keys,
//!   and cause one such reading in five minutes.
//!
//! Rules: docs/policy.md, 11.56 to 11.59.

mod keyring;
mod keys;
mod source;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use url::Url;

use crate::model::LeakOutcome;
use crate::net::{Limiter, Peer, Permit};
use crate::pem::TrustStore;
use crate::policy::client_source::{ClientSource, TrustedProxies};
use crate::secret;
use crate::service::leaks::{self, FoundSecret};
use crate::service::{Error, Services};
use crate::shutdown;
use keyring::{Found, INTERVAL, Keyring};
use keys::{MAX_ID, PublicKey};
use source::KeySource;
pub use source::UnreadableKeys;

/// Where alerts are received.
pub const PATH: &str = "/secret-scanning/alerts";
/// The largest request, in bytes.
const MAX_BODY: usize = 1 << 20;
/// How long it may take to arrive, from the end of its head.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Requests at once, and those of one subscriber.
const PLACES: (usize, usize) = (16, 4);
/// The longest signature in base64: in DER, one on P-256 has at most 72 bytes.
const MAX_SIGNATURE: usize = 96;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whose alerts are received, and how they are signed.
#[derive(Debug)]
pub struct Settings {
    /// Where the publisher's keys are.
    pub keys: KeyLocation,
    /// The header with the identifier of the key.
    pub key_id_header: HeaderName,
    /// The header with the signature.
    pub signature_header: HeaderName,
    /// The proxies whose `X-Forwarded-For` names the publisher's address.
    pub proxies: TrustedProxies,
}

/// A place that the publisher's keys are read from.
#[derive(Debug)]
pub enum KeyLocation {
    /// In a file.
    File(PathBuf),
    /// At a URL of `https`, or of `http` on this host, whose certificate may be from these authorities.
    Url(Url, TrustStore),
}

/// What receives alerts.
#[derive(Debug)]
pub struct Alerts {
    services: Arc<Services>,
    keys: Keyring,
    key_id_header: HeaderName,
    signature_header: HeaderName,
    client_source: ClientSource,
    places: Arc<Limiter>,
}

/// Why alerts were not carried out.
#[derive(Debug)]
enum Refusal {
    /// Too many are being received.
    Overloaded,
    /// It has more than [`MAX_BODY`] bytes.
    TooLarge,
    /// It took longer than [`ARRIVAL`], or its connection failed.
    CutOff,
    /// There is no valid signature.
    Unsigned,
    /// The keys can't be read, and the one that it is signed with is not known.
    NoKeys,
    /// It is signed, but is not a list of alerts.
    Malformed(&'static str),
    /// It is not known whether everything is revoked everywhere.
    Failed(Error),
}

/// One alert of a request.
#[derive(Debug)]
struct Alert {
    hash: String,
    kind: String,
    found: FoundSecret,
}

impl Alerts {
    /// Receives alerts for `services`. Keys in a file are read at once.
    ///
    /// # Errors
    /// The file can't be read, or has no usable key.
    pub async fn new(services: Arc<Services>, settings: Settings) -> Result<Self, UnreadableKeys> {
        let Settings { keys, key_id_header, signature_header, proxies } = settings;
        let (source, known) = match keys {
            KeyLocation::File(path) => {
                let source = KeySource::File(path);
                let known = source.read().await?;
                (source, known)
            }
            // The server starts also where the publisher is out of reach.
            KeyLocation::Url(url, trust) => (KeySource::url(url, trust), Default::default()),
        };
        Ok(Self {
            keys: Keyring::new(source, known, INTERVAL, services.metrics().clone()),
            services,
            key_id_header,
            signature_header,
            client_source: ClientSource::behind(proxies),
            places: Limiter::new(PLACES.0, PLACES.1),
        })
    }

    /// Carries out the alerts of a request. Rule 11.56 of docs/policy.md.
    async fn receive(&self, request: Request) -> Result<Response, Refusal> {
        let from = self.client(&request);
        let (head, body) = request.into_parts();
        // Before it has a place: strangers who name no key of the publisher take none.
        let (id, signature) = self.signature(&head.headers).ok_or(Refusal::Unsigned)?;
        let key: PublicKey = match self.keys.find(id).await {
            Found::Key(key) => key,
            Found::Unknown => return Err(Refusal::Unsigned),
            Found::NotReadable => return Err(Refusal::NoKeys),
        };
        let place = self.places.take(from, 1).ok_or(Refusal::Overloaded)?;
        let body = read(&head.headers, body).await?;
        if !key.verifies(&body, &signature) {
            return Err(Refusal::Unsigned);
        }
        let alerts = alerts(&body).map_err(Refusal::Malformed)?;
        drop(body);
        let key = id.to_owned();
        self.carry_out(alerts, key, from, place).await
    }

    /// Runs to its end, also where the publisher goes away meanwhile.
    async fn carry_out(
        &self,
        alerts: Vec<Alert>,
        key: String,
        from: IpAddr,
        place: Permit,
    ) -> Result<Response, Refusal> {
        let (send, outcome) = oneshot::channel();
        let services = self.services.clone();
        shutdown::spawn("leak-alerts", async move {
            let _place = place;
            let (found, named): (Vec<_>, Vec<_>) =
                alerts.into_iter().map(|alert| (alert.found, (alert.hash, alert.kind))).unzip();
            let outcomes = services.report_alerts(&found, Some(from)).await;
            // Nobody may wait for it any more.
            let _ = send.send(outcomes.map(|outcomes| (outcomes, named)));
        });
        let outcome = outcome.await.unwrap_or(Err(Error::Internal));
        let (outcomes, named) = outcome.map_err(Refusal::Failed)?;
        let known = outcomes.iter().filter(|&&outcome| outcome != LeakOutcome::Unknown).count();
        tracing::info!(key, %from, alerts = outcomes.len(), known, "alerts about leaked secrets");
        Ok(answer(&outcomes, named))
    }

    /// Where the publisher is: the peer, or what a trusted proxy says (Rule 9.8 of docs/policy.md).
    fn client(&self, request: &Request) -> IpAddr {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.canonical().ip());
        let lines = request.headers().get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        self.client_source.client_or_peer(peer.unwrap_or(IpAddr::from([0, 0, 0, 0])), lines)
    }

    /// The key's identifier and the signature; `None` where either is missing, there twice or malformed.
    fn signature<'h>(&self, headers: &'h HeaderMap) -> Option<(&'h str, Vec<u8>)> {
        let one = |name| {
            let mut values = headers.get_all(name).iter();
            let value = values.next()?.to_str().ok()?;
            values.next().is_none().then_some(value)
        };
        let id = one(&self.key_id_header).filter(|id| (1..=MAX_ID).contains(&id.len()))?;
        let signature = one(&self.signature_header).filter(|text| text.len() <= MAX_SIGNATURE)?;
        Some((id, STANDARD.decode(signature).ok()?))
    }
}

/// The endpoint, which no other route shares.
pub(super) fn routes(alerts: Arc<Alerts>) -> Router {
    Router::new().route(PATH, post(receive)).layer(DefaultBodyLimit::disable()).with_state(alerts)
}

async fn receive(State(alerts): State<Arc<Alerts>>, request: Request) -> Response {
    let received = alerts.receive(request).await;
    alerts.services.metrics().leak_alert(match &received {
        Ok(_) => "accepted",
        Err(refusal) => refusal.word(),
    });
    received.unwrap_or_else(Refusal::into_response)
}

/// Reads a body whole. Rule 11.59 of docs/policy.md.
async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if announced.and_then(|length| length.parse().ok()).is_some_and(|n: u64| n > MAX_BODY as u64) {
        return Err(Refusal::TooLarge);
    }
    let read = Limited::new(body, MAX_BODY).collect();
    let read = tokio::time::timeout(ARRIVAL, read).await.map_err(|_| Refusal::CutOff)?;
    read.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<LengthLimitError>() { Refusal::TooLarge } else { Refusal::CutOff }
    })
}

/// Reads `[{"token", "type", "url", "source"}]`, of which only the token has to be there.
///
/// # Errors
/// What is wrong with it, in a sentence.
fn alerts(body: &[u8]) -> Result<Vec<Alert>, &'static str> {
    let Ok(Value::Array(items)) = serde_json::from_slice(body) else {
        return Err("The body is not a JSON array.");
    };
    let alert = |item: &Value| {
        let text = |name: &str| item.get(name).and_then(Value::as_str);
        let token = text("token").filter(|token| !token.is_empty())?;
        let (source, url) = (text("source").unwrap_or_default(), text("url").unwrap_or_default());
        Some(Alert {
            hash: secret::hex(&secret::digest(token.as_bytes())),
            // It is answered, and no answer has a secret.
            kind: text("type").filter(|kind| !kind.contains(token)).unwrap_or_default().to_owned(),
            found: FoundSecret::new(token, leaks::location([token], source, url)),
        })
    };
    let alerts: Option<Vec<_>> = items.iter().map(alert).collect();
    alerts.ok_or("An item of the array is not an object with a \"token\".")
}

/// What the publisher learns of each token: whether it was one, by its digest. Rule 11.58 of docs/policy.md.
fn answer(outcomes: &[LeakOutcome], named: Vec<(String, String)>) -> Response {
    let items = outcomes.iter().zip(named).map(|(outcome, (hash, kind))| {
        let label = match outcome {
            LeakOutcome::Unknown => "false_positive",
            LeakOutcome::Token { .. } | LeakOutcome::Credential { .. } => "true_positive",
        };
        json!({ "token_hash": hash, "token_type": kind, "label": label })
    });
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], Value::Array(items.collect()).to_string()).into_response()
}

impl Refusal {
    /// As metrics name it.
    fn word(&self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::TooLarge => "too_large",
            Self::CutOff => "cut_off",
            Self::Unsigned => "unsigned",
            Self::NoKeys => "no_keys",
            Self::Malformed(_) => "malformed",
            Self::Failed(_) => "failed",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let again = "the alerts may be sent again";
        let (status, text) = match self {
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("Too many alerts are being received: {again}."),
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("The body is larger than {MAX_BODY} bytes: send fewer alerts at once."),
            ),
            Self::CutOff => (
                StatusCode::REQUEST_TIMEOUT,
                "The body did not arrive within 10 seconds.".to_owned(),
            ),
            Self::Unsigned => (
                StatusCode::FORBIDDEN,
                "The request has no valid signature of a known key.".to_owned(),
            ),
            Self::NoKeys => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("The publisher's keys can't be read now: {again}."),
            ),
            Self::Malformed(what) => (StatusCode::BAD_REQUEST, what.to_owned()),
            Self::Failed(Error::Internal) => {
                (StatusCode::INTERNAL_SERVER_ERROR, format!("An internal error: {again}."))
            }
            Self::Failed(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("It is not known whether everything is revoked: {again}."),
            ),
        };
        let mut response = (status, format!("{text}\n")).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_an_array_of_objects_with_a_token() {
        let read = |text: &str| alerts(text.as_bytes()).map(|alerts| alerts.len());
        assert_eq!(read("[]"), Ok(0));
        assert_eq!(read(r#"[{"token":"a"},{"token":"b","type":"t","url":null,"x":1}]"#), Ok(2));
        for text in ["", "{}", "[7]", r#"[{"type":"t"}]"#, r#"[{"token":""}]"#, r#"[{"token":7}]"#]
        {
            assert!(read(text).is_err(), "{text}");
        }
        let found = alerts(br#"[{"token":"abc","type":"t"}]"#).unwrap().remove(0);
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((&*found.hash, &*found.kind), (sha256, "t"));
    }

    #[test]
    fn documented_bounds_are_those_of_the_code() {
        let policy = include_str!("../../docs/policy.md");
        let bounds = format!("{} requests at once, {} of one address", PLACES.0, PLACES.1);
        for text in [bounds, format!("at most {} MiB in {} seconds", MAX_BODY >> 20, 10)] {
            assert!(policy.contains(&text), "docs/policy.md lacks: {text}");
        }
    }
}
