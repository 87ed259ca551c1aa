//! Signing in and out, and what stands before every other page: a session, and for forms the proof that
//! one of our pages sent them.
//!
//! Must stay true: a request that may have been made by another site changes nothing, whatever it carries; a
//! cookie opens only what the store knows as live; nobody chooses the secret of a session but the server.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use cookie::{Cookie, SameSite};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::{PageError, Result, page};
use super::form::{self, Query, link};
use super::frame::{Frame, Place, Who};
use super::{Client, Page};
use crate::model::{Actor, Role};
use crate::net::ATTEMPTS_WINDOW;
use crate::policy::text::sentence;
use crate::service::access::Audience;
use crate::service::sessions::{FormId, SessionSecret, SignedIn};
use crate::service::{Caller, Error, Services};
use crate::telemetry::traces::{HeaderOrigin, LateSpan, TraceHeaders, TracedRequest};

/// Failed attempts to sign in from one address within [`ATTEMPTS_WINDOW`], after which it is asked to wait.
pub(super) const MAX_FAILURES: u32 = 10;

/// Somebody who is signed in, and what their pages are made of.
#[derive(Clone)]
pub(super) struct Signed {
    pub(super) page: Arc<Page>,
    who: SignedIn,
}

impl Signed {
    pub(super) fn caller(&self) -> &Caller {
        &self.who.caller
    }

    pub(super) fn services(&self) -> &Services {
        &self.page.services
    }

    pub(super) fn is_operator(&self) -> bool {
        self.who.caller.role == Role::Operator
    }

    /// Where they are, if that is known.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.who.caller.client.filter(|&address| self.page.is_browser(address))
    }

    /// Notes that a form which may be sent once was sent: see [`Services::use_form`].
    pub(super) async fn use_form(&self, form: FormId) -> Result<bool> {
        Ok(self.services().use_form(&self.who, form).await?)
    }

    /// What stands around their pages.
    pub(super) fn frame(&self, title: impl Into<String>, place: Place) -> Frame {
        let caller = &self.who.caller;
        let (role, operator) = match caller.role {
            Role::Operator => ("operator", true),
            Role::AccountAdmin(_) => ("account admin", false),
            Role::Pep => ("service", false),
        };
        let name = match caller.actor {
            _ if !self.who.name.is_empty() => self.who.name.clone(),
            Actor::Credential(id, _) => id.to_string(),
            Actor::Bearer(_)
            | Actor::Development
            | Actor::System
            | Actor::SecretScanning
            | Actor::CommandLine => "development".to_owned(),
        };
        let who = Who {
            name,
            role,
            may: caller.role,
            operator,
            mails: self.services().keeps_mails(),
            development: caller.actor == Actor::Development,
            form_token: self.who.form_token(),
        };
        Frame { who: Some(who), place, ..Frame::bare(title) }
    }

    /// Lets operators pass. Others get the answer of a path that does not exist.
    pub(super) fn must_be_operator(&self) -> Result<()> {
        match Audience::Operators.admit(self.who.caller.role) {
            Ok(()) => Ok(()),
            Err(_) => Err(PageError::missing("There is no such page.").at(self, Place::None)),
        }
    }
}

impl FromRequestParts<Arc<Page>> for Signed {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        page: &Arc<Page>,
    ) -> std::result::Result<Self, Response> {
        own_host(page, &parts.headers).map_err(|error| error.into_response())?;
        let cookie = cookie(page, &parts.headers);
        let had_none = cookie.is_none();
        let who = match cookie {
            None => None,
            Some(secret) => {
                let session = page.services.session(secret, client(&parts.extensions)).await;
                session.map_err(|error| PageError::from(error).into_response())?
            }
        };
        match who {
            Some(who) => {
                trace(page, parts).await;
                Ok(Self { page: page.clone(), who })
            }
            None if had_none && comes_from_elsewhere(parts) => Err(come_again(&parts.uri)),
            None => Err(ask_to_sign_in(page, parts, had_none)),
        }
    }
}

/// Begins the span of a request whose session is live, where it is traced: a stranger's request makes none.
async fn trace(page: &Page, parts: &Parts) {
    let late = parts.extensions.get::<LateSpan>();
    let (Some(traces), Some(late)) = (page.services.traces(), late) else { return };
    let route = parts.extensions.get::<MatchedPath>().map_or("unknown", MatchedPath::as_str);
    let request = TracedRequest::Page(parts.method.as_str(), route);
    let headers = TraceHeaders::of(&parts.headers);
    if let Some(span) = traces.begin(request, headers, HeaderOrigin::Caller) {
        late.begin(span).await;
    }
}

/// Somebody who is signed in and sent a form of one of their pages. Rule 8.10 of docs/policy.md.
pub(super) struct Sent<T> {
    pub(super) signed: Signed,
    pub(super) form: T,
}

/// What every form of a session has beside its own fields.
#[derive(Deserialize, Default)]
#[serde(default)]
struct FormToken {
    csrf: String,
}

impl<T: DeserializeOwned> FromRequest<Arc<Page>> for Sent<T> {
    type Rejection = Response;

    async fn from_request(
        request: Request,
        page: &Arc<Page>,
    ) -> std::result::Result<Self, Response> {
        // First: what another site sends comes without the cookie, and must not end the session.
        own_site(request.headers()).map_err(PageError::into_response)?;
        let (mut parts, body) = request.into_parts();
        let signed = Signed::from_request_parts(&mut parts, page).await?;
        let form = async {
            let form = body_of_form(Request::from_parts(parts, body), page).await?;
            let FormToken { csrf } = form::read(&form)?;
            if !signed.who.is_form_token(&csrf) {
                return Err(forged());
            }
            form::read(&form)
        };
        match form.await {
            Ok(form) => Ok(Self { signed, form }),
            Err(error) => Err(error.at(&signed, Place::None).into_response()),
        }
    }
}

async fn body_of_form(request: Request, page: &Arc<Page>) -> Result<Bytes> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let text = "Forms are sent as application/x-www-form-urlencoded.";
        return Err(PageError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Not like this", text));
    }
    // It has arrived: see [`super::arrival`].
    Ok(Bytes::from_request(request, page).await.map_err(|_| Error::Internal)?)
}

fn forged() -> PageError {
    let text = "This form does not come from a page of your session, so nothing was done. If you sent it \
                yourself, go back, load its page again, and send it again.";
    PageError::new(StatusCode::FORBIDDEN, "Not from here", text)
}

/// Where a request comes from.
fn client(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Client>().map(|client| client.0)
}

/// Lets pass what no other site made.
fn own_site(headers: &HeaderMap) -> Result<()> {
    if is_cross_site(headers) { Err(forged()) } else { Ok(()) }
}

/// Whether a browser says that another site made the request (Fetch Metadata), or, where it does not say
/// that, names another origin (RFC 6454). Requests of no browser say neither.
fn is_cross_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) => !origin.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// Without credentials, anybody who can reach this host by a name of their own is signed in: that must be nobody but a
/// browser that asked for this host itself.
fn own_host(page: &Page, headers: &HeaderMap) -> Result<()> {
    if !page.services.session_lengths().development {
        return Ok(());
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
    });
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback()) {
        return Ok(());
    }
    let text = "This server runs with --dev: ask for it as localhost.";
    Err(PageError::new(StatusCode::MISDIRECTED_REQUEST, "Not by this name", text))
}

/// Whether somebody follows a link on another site, such as a mail's: then the browser keeps the cookie to
/// itself.
fn comes_from_elsewhere(parts: &Parts) -> bool {
    let says = |name, value| parts.headers.get(name).is_some_and(|said| said == value);
    parts.method == Method::GET
        && says("sec-fetch-site", "cross-site")
        && says("sec-fetch-mode", "navigate")
}

/// Has the browser ask again by itself, and then it sends the cookie.
fn come_again(uri: &Uri) -> Response {
    #[derive(Template)]
    #[template(path = "page/again.html")]
    struct Again<'a> {
        path: &'a str,
    }
    let path = local(uri.path_and_query().map_or("/tokens", |path| path.as_str()));
    match (Again { path }).render() {
        Ok(text) => Html(text).into_response(),
        Err(_) => Redirect::to("/sign-in").into_response(),
    }
}

fn ask_to_sign_in(page: &Page, parts: &Parts, had_none: bool) -> Response {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        let text = "Your session has ended, so nothing was done. Sign in in another tab, come back to \
                    this one, load the form again with your browser's Back, and send it.";
        let error = PageError::new(StatusCode::UNAUTHORIZED, "Sign in again", text);
        let mut response = error.with_way("/sign-in", "Sign in").into_response();
        if !had_none {
            expire(page, &mut response);
        }
        return response;
    }
    let next = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let next = if next == "/tokens" { "" } else { next };
    Redirect::to(&link("/sign-in", &[("next", next)])).into_response()
}

/// A path of this site, or its first page where `next` is none.
fn local(next: &str) -> &str {
    let plain = next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    let own = plain && next.starts_with('/') && !next.starts_with("//");
    if own && !next.starts_with("/sign-") { next } else { "/tokens" }
}

/// Under TLS with a name that browsers take from this host alone (RFC 6265bis, section 4.1.3.2).
fn cookie_name(page: &Page) -> &'static str {
    if page.secure { "__Host-portcullis" } else { "portcullis" }
}

/// The session's secret; `None` also where there are several: one of them is somebody else's.
fn cookie(page: &Page, headers: &HeaderMap) -> Option<SessionSecret> {
    let name = cookie_name(page);
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let cookies = lines.flat_map(Cookie::split_parse).filter_map(std::result::Result::ok);
    let mut ours = cookies.filter(|cookie| cookie.name() == name);
    match (ours.next(), ours.next()) {
        (Some(cookie), None) => SessionSecret::read(cookie.value()),
        _ => None,
    }
}

fn set_cookie(page: &Page, response: &mut Response, value: &str, lifetime: Duration) {
    let cookie = Cookie::build((cookie_name(page), value))
        .path("/")
        .max_age(lifetime.try_into().unwrap_or(cookie::time::Duration::MAX))
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(page.secure);
    if let Ok(mut value) = HeaderValue::from_str(&cookie.to_string()) {
        value.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
}

fn expire(page: &Page, response: &mut Response) {
    set_cookie(page, response, "", Duration::ZERO);
}

#[derive(Template)]
#[template(path = "page/sign_in.html")]
struct SignInPage<'a> {
    frame: Frame,
    next: &'a str,
    error: &'a str,
    development: bool,
}

fn sign_in_page(of: &Page, status: StatusCode, next: &str, error: &str) -> Response {
    let frame = Frame::bare("Sign in");
    let development = of.services.session_lengths().development;
    page(status, &SignInPage { frame, next: local(next), error, development })
}

/// The form of signing in, or the query of its page.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct SignInForm {
    /// The address to go on to.
    next: String,
    credential: String,
}

pub(super) async fn ask(
    State(page): State<Arc<Page>>,
    headers: HeaderMap,
    Query(query): Query<SignInForm>,
) -> Result<Response> {
    own_host(&page, &headers)?;
    Ok(sign_in_page(&page, StatusCode::OK, &query.next, ""))
}

pub(super) async fn sign_in(State(page): State<Arc<Page>>, request: Request) -> Result<Response> {
    own_host(&page, request.headers())?;
    own_site(request.headers())?;
    let (parts, body) = request.into_parts();
    let (client, former) = (client(&parts.extensions), cookie(&page, &parts.headers));
    let form = body_of_form(Request::from_parts(parts, body), &page).await?;
    let SignInForm { next, credential } = &form::read(&form)?;
    let from = client.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let metrics = page.services.metrics();
    let credential = credential.trim();
    let credential = (!credential.is_empty()).then_some(credential);
    let begun = page.services.sign_in(credential, client).await;
    let secret = match begun {
        Ok(secret) => secret,
        Err(error @ (Error::Unauthenticated(_) | Error::Forbidden(_))) => {
            metrics.sign_in_failures.inc();
            if page.attempts.failed(from.into()) {
                let error = "Too many attempts from your address have failed: wait five minutes, or \
                             sign in with the right credential.";
                let mut response = sign_in_page(&page, StatusCode::TOO_MANY_REQUESTS, next, error);
                let after = HeaderValue::from(ATTEMPTS_WINDOW.as_secs());
                response.headers_mut().insert(header::RETRY_AFTER, after);
                return Ok(response);
            }
            tracing::info!(client = %from, "an attempt to sign in failed");
            let error = sentence(&error.to_string());
            return Ok(sign_in_page(&page, StatusCode::UNAUTHORIZED, next, &error));
        }
        // Says nothing of the credential.
        Err(error) => return Err(error.into()),
    };
    metrics.sign_ins.inc();
    if let Some(former) = former
        && let Ok(Some(former)) = page.services.session(former, client).await
        && let Err(error) = page.services.sign_out(&former, false).await
    {
        tracing::debug!(%error, "a former session is left to its end");
    }
    let mut response = Redirect::to(local(next)).into_response();
    set_cookie(&page, &mut response, secret.expose(), page.services.session_lengths().lifetime);
    Ok(response)
}

/// The form of signing out.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct SignOutForm {
    /// `on` to end every session of the credential.
    everywhere: String,
}

pub(super) async fn sign_out(Sent { signed, form }: Sent<SignOutForm>) -> Result<Response> {
    signed.services().sign_out(&signed.who, form.everywhere == "on").await?;
    let mut response = Redirect::to("/sign-in").into_response();
    expire(&signed.page, &mut response);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        for own in ["/tokens", "/tokens/tok_1?a=b&c=%2F", "/pending?page=2"] {
            assert_eq!(local(own), own);
        }
        for odd in [
            "",
            "//evil.test",
            "/\\evil.test",
            "https://evil.test",
            "javascript:alert(1)",
            "tokens",
            "/a\r\nset-cookie: x",
            "/a\tb",
            "/\u{e9}",
            "\\\\evil.test",
            "/sign-in",
            "/sign-out",
        ] {
            assert_eq!(local(odd), "/tokens", "{odd:?}");
        }
    }

    #[test]
    fn other_sites_are_known() {
        let case = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("pc.test:8080"));
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            is_cross_site(&headers)
        };
        assert!(!case(&[]));
        assert!(!case(&[("origin", "http://pc.test:8080")]));
        assert!(!case(&[("sec-fetch-site", "same-origin")]));
        // A proxy that names its own upstream.
        assert!(!case(&[("sec-fetch-site", "same-origin"), ("origin", "https://pages.test")]));
        for cross in [
            &[("origin", "http://evil.test")][..],
            &[("origin", "null")],
            &[("origin", "http://pc.test")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://pc.test:8080")],
        ] {
            assert!(case(cross), "{cross:?}");
        }
    }
}
