//! The token management page: HTML from the server, for account admins and operators.
//!
//! Must stay true: every page but the sign-in asks the store for its session first; every form of a session
//! carries what only its pages know ([`session::Sent`]); what people chose reaches HTML only through a
//! template, which escapes it; nothing here decides what may be done: that is the services' to say, asked
//! with the caller of the session. No secret is in an address, a log line or a page that may be kept.
//! A change that was begun runs to its end, also where the browser goes away.

mod accounts;
mod answer;
mod assets;
mod attempts;
mod create;
mod delete;
mod form;
mod frame;
mod history;
mod pending;
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
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, oneshot};
use tower_http::compression::CompressionLayer;

use crate::clock::Stopwatch;
use crate::lifecycle::Standing;
use crate::service::{Error, Services};
use crate::shutdown;
use answer::Fault;
use attempts::Attempts;
use frame::Place;
use session::Signed;

/// The largest form that is read of strangers, in bytes.
const MAX_FORM: usize = 256 << 10;
/// So much larger is one of somebody who is signed in, for each entry that a whitelist may have: one that
/// is added takes at most 70 bytes, one that is removed as many.
const FORM_OF_ENTRY: usize = 200;
/// Pages that are made at once; more are refused.
const AT_ONCE: usize = 64;
/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Nothing is taken from elsewhere, nothing runs but our script, nobody frames a page. A stylesheet and
/// the script are files, so no style or script within a page works, whoever put it there.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// The same for each answer. With `no-referrer`, browsers would hide where a form comes from.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// What all pages are made of.
struct Page {
    services: Arc<Services>,
    standing: Arc<Standing>,
    /// Whether browsers reach it by TLS alone.
    secure: bool,
    attempts: Attempts,
    room: Arc<Semaphore>,
}

impl Page {
    /// The largest form of somebody who is signed in, in bytes.
    fn max_form(&self) -> usize {
        MAX_FORM + self.services.limits.max_entries * FORM_OF_ENTRY
    }
}

/// The pages. `secure`: browsers reach them by TLS alone.
pub(super) fn routes(services: Arc<Services>, standing: Arc<Standing>, secure: bool) -> Router {
    let page = Arc::new(Page {
        services,
        standing,
        secure,
        attempts: Attempts::default(),
        room: Arc::new(Semaphore::new(AT_ONCE)),
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
        .route("/tokens/{id}/delete", get(delete::ask).post(delete::delete))
        .route("/pending", get(pending::list))
        .route("/accounts", get(accounts::list))
        .route("/accounts/{id}", get(accounts::show))
        .route("/status", get(status::show))
        .route("/assets/{name}", get(assets::send))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(middleware::from_fn_with_state(page.clone(), run))
        .layer(CompressionLayer::new())
        .layer(middleware::map_response(guard))
        .with_state(page)
}

/// Runs a request to its end, also where the browser goes away meanwhile: a change that was committed
/// must reach memory.
async fn run(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    let Ok(place) = page.room.clone().try_acquire_owned() else {
        page.services.metrics.shed.inc();
        return Fault::from(Error::Overloaded).into_response();
    };
    let (answer, answered) = oneshot::channel();
    shutdown::spawn("page", async move {
        let _place = place;
        let watch = Stopwatch::start();
        let response = next.run(request).await;
        page.services.metrics.pages.observe(watch.elapsed());
        // Nobody hears it where the browser has gone.
        let _ = answer.send(response);
    });
    match tokio::time::timeout(DEADLINE, answered).await {
        Ok(Ok(response)) => response,
        // It panicked, and the log says so.
        Ok(Err(_)) => Fault::from(Error::Internal).into_response(),
        Err(_) => Fault::from(Error::DeadlineExceeded).into_response(),
    }
}

async fn guard(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whoever is signed in is told that there is no such page; strangers are asked to sign in.
async fn nothing(signed: Signed) -> Fault {
    Fault::missing("There is no such page.").at(&signed, Place::None)
}

async fn not_so(method: Method) -> Fault {
    Fault::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "Not like this",
        format!("This page takes no {method} request."),
    )
}
