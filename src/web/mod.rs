//! The token management page: HTML from the server, for account admins and operators.
//!
//! Must stay true: every page but the sign-in asks the store for its session first; every form of a session
//! carries what only its pages know (`session::Sent`); what people chose reaches HTML only through a
//! template, which escapes it; nothing here decides what may be done: that is the services' to say, asked
//! with the caller of the session. No secret is in an address, a log line or a page that may be kept.
//! A change that was begun runs to its end, also where the browser goes away.

mod accounts;
mod activity;
mod answer;
mod arrival;
mod assets;
mod create;
mod credentials;
mod delete;
mod edit;
mod expire;
mod form;
mod frame;
mod history;
mod mails;
mod pending;
mod replace;
mod session;
mod status;
mod token;
mod tokens;
mod view;
mod whitelist;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use tokio::sync::oneshot;
use tower_http::compression::CompressionLayer;

use crate::clock::Stopwatch;
use crate::net::{Attempts, Limiter, Peer};
use crate::policy::client_source::{ClientSource, TrustedProxies};
use crate::service::{Error, Services};
use crate::shutdown;
use crate::telemetry::traces::{self, LateSpan};
use answer::PageError;
use arrival::{Arrivals, Arrived};
use frame::Place;
use session::Signed;

/// The largest form, in bytes, without the whitelist entries in it.
const MAX_FORM: usize = 256 << 10;
/// So much larger is a form for each entry that a whitelist may have: one that is added takes at most 70 bytes,
/// one that is removed as many.
const FORM_OF_ENTRY: usize = 200;
/// Pages that are made at once, and how many for one subscriber; more are refused.
const AT_ONCE: (usize, usize) = (128, 64);
/// Pages besides those, for addresses that have no place there, and how many for one subscriber.
const RESERVE: (usize, usize) = (32, 4);
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Nothing is taken from elsewhere, nothing runs but our script, nobody frames a page. A stylesheet and
/// the script are files, so no style or script within a page works, even an injected one.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The same for each answer. With `no-referrer`, browsers would hide where a form comes from.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Where a request's browser is, as far as is known.
#[derive(Debug, Clone, Copy)]
struct Client(IpAddr);

/// What all pages are made of.
struct Page {
    services: Arc<Services>,
    /// Whether browsers reach it by TLS alone.
    secure: bool,
    /// Where a browser's address is read from (Rule 9.8 of docs/policy.md).
    client_source: ClientSource,
    attempts: Attempts,
    arrivals: Arrivals,
    room: Arc<Limiter>,
    reserve: Arc<Limiter>,
}

impl Page {
    /// Where a browser is: the peer, or what a trusted proxy says (Rule 9.8 of docs/policy.md).
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        self.client_source.client_or_peer(peer, lines)
    }

    /// Whether `address` is one that browsers have, rather than a proxy's that stands for all of them.
    fn is_browser(&self, address: IpAddr) -> bool {
        !self.client_source.trusted_proxies.contain(address.into())
    }
}

/// The pages. `secure`: browsers reach them by TLS alone. `proxies` say where browsers are.
pub(super) fn routes(services: Arc<Services>, secure: bool, proxies: TrustedProxies) -> Router {
    // There are pages about mails with `--dev` only.
    let mails = match services.keeps_mails() {
        false => Router::new(),
        true => Router::new()
            .route("/mails", get(mails::list))
            .route("/mails/{id}", get(mails::show))
            .route("/mails/{id}/html", get(mails::html)),
    };
    let largest = MAX_FORM + services.limits().max_entries.saturating_mul(FORM_OF_ENTRY);
    let page = Arc::new(Page {
        services,
        secure,
        client_source: ClientSource::behind(proxies),
        attempts: Attempts::new(session::MAX_FAILURES),
        arrivals: Arrivals::new(largest),
        room: Limiter::new(AT_ONCE.0, AT_ONCE.1),
        reserve: Limiter::new(RESERVE.0, RESERVE.1),
    });
    Router::new()
        .route("/", get(async || Redirect::to("/tokens")))
        .route("/sign-in", get(session::ask).post(session::sign_in))
        .route("/sign-out", post(session::sign_out))
        .route("/tokens", get(tokens::list))
        .route("/tokens/new", get(create::ask).post(create::create))
        .route("/tokens/{id}", get(token::show))
        .route("/tokens/{id}/whitelist", get(whitelist::ask).post(whitelist::change))
        .route("/tokens/{id}/whitelist/preview", post(whitelist::preview))
        .route("/tokens/{id}/replace", get(replace::ask).post(replace::replace))
        .route("/tokens/{id}/expire", get(expire::ask).post(expire::expire))
        .route("/tokens/{id}/denials", get(activity::denials))
        .route("/tokens/{id}/edit", get(edit::ask).post(edit::change))
        .route("/tokens/{id}/delete", get(delete::ask).post(delete::delete))
        .route("/pending", get(pending::list))
        .route("/accounts", get(accounts::list))
        .route("/accounts/{id}", get(accounts::show))
        .route("/accounts/{id}/name", post(accounts::rename))
        .route("/accounts/{id}/suspend", get(accounts::ask_suspend).post(accounts::suspend))
        .route("/accounts/{id}/resume", get(accounts::ask_resume).post(accounts::resume))
        .route("/accounts/{id}/close", get(accounts::ask_close).post(accounts::close))
        .route("/accounts/{id}/credentials", get(credentials::of_account))
        .route("/credentials", get(credentials::list))
        .route("/credentials/{id}/revoke", get(credentials::ask).post(credentials::revoke))
        .route("/status", get(status::show))
        .merge(mails)
        .route("/assets/{name}", get(assets::send))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(page.clone(), run))
        .layer(CompressionLayer::new())
        .with_state(page)
}

/// Reads a request's form, then runs the request to its end, also where the browser goes away meanwhile: a
/// change that was committed must reach memory.
async fn run(State(page): State<Arc<Page>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.canonical().ip());
    let from = page.client(peer.unwrap_or(IpAddr::from([0, 0, 0, 0])), request.headers());
    request.extensions_mut().insert(Client(from));
    let mut form_places = Vec::new();
    if request.method() == Method::POST {
        let form = std::mem::take(request.body_mut());
        match page.arrivals.read(form, from).await {
            Ok(Arrived { form, places }) => {
                *request.body_mut() = form.into();
                form_places = places;
            }
            Err(error) => return error.into_response(),
        }
    }
    let Some(place) = page.room.take(from, 1).or_else(|| page.reserve.take(from, 1)) else {
        page.services.metrics().shed.inc();
        return PageError::from(Error::Overloaded).into_response();
    };
    let (answer, answered) = oneshot::channel();
    let span = LateSpan::default();
    request.extensions_mut().insert(span.clone());
    shutdown::spawn("page", async move {
        let _places = (place, form_places);
        let watch = Stopwatch::start();
        let response = span.within(next.run(request)).await;
        page.services.metrics().pages.observe(watch.elapsed());
        if let Some(span) = span.get() {
            traces::ended_with_status(span, response.status().as_u16());
        }
        // Nobody receives it where the browser has gone.
        let _ = answer.send(response);
    });
    match tokio::time::timeout(DEADLINE, answered).await {
        Ok(Ok(response)) => response,
        // It panicked, and the log says so.
        Ok(Err(_)) => PageError::from(Error::Internal).into_response(),
        Err(_) => PageError::from(Error::DeadlineExceeded).into_response(),
    }
}

/// Gives an answer the headers that each has. `secure`: browsers reach this server by TLS alone, and are asked
/// never to try without (RFC 6797), for this host only: of others below it nothing is known.
pub(super) fn guard(mut response: Response, secure: bool) -> Response {
    let headers = response.headers_mut();
    if secure {
        let year = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    for (name, value) in HEADERS {
        // A mail that is shown as it is has a narrower policy of its own.
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// There is no such page, for people who are signed in and for strangers alike: to sign in would lead nowhere.
async fn nothing(signed: std::result::Result<Signed, Response>) -> PageError {
    let error = PageError::missing("There is no such page.");
    match signed {
        Ok(signed) => error.at(&signed, Place::None),
        Err(_) => error,
    }
}

async fn not_so(method: Method) -> PageError {
    PageError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "Not like this",
        format!("This page accepts no {method} request."),
    )
}
