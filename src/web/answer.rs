//! Answers: a rendered page, and what went wrong as one, from an error of the services. The one place
//! where those become HTTP.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use super::frame::{Frame, Place};
use super::session::Signed;
use crate::policy::text::sentence;
use crate::service::Error;

pub(super) type Result<T> = std::result::Result<T, PageError>;

/// A page from its template.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a template failed");
            (StatusCode::INTERNAL_SERVER_ERROR, "internal error\n").into_response()
        }
    }
}

/// Why there is not what was asked for, as a page.
#[derive(Debug)]
pub(super) struct PageError {
    status: StatusCode,
    title: &'static str,
    text: String,
    retry: Option<u64>,
    frame: Option<Box<Frame>>,
    /// Where to go from here: a path, and what stands there.
    way: Option<(String, &'static str)>,
}

#[derive(Template)]
#[template(path = "page/error.html")]
struct ErrorPage<'a> {
    frame: &'a Frame,
    text: &'a str,
    way: Option<&'a (String, &'static str)>,
}

impl PageError {
    pub(super) fn new(status: StatusCode, title: &'static str, text: impl Into<String>) -> Self {
        Self { status, title, text: text.into(), retry: None, frame: None, way: None }
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn missing(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found", text)
    }

    /// Within the frame of a signed-in user.
    pub(super) fn at(mut self, signed: &Signed, place: Place) -> Self {
        self.frame = Some(Box::new(signed.frame(self.title, place)));
        self
    }

    pub(super) fn with_way(mut self, path: impl Into<String>, text: &'static str) -> Self {
        self.way = Some((path.into(), text));
        self
    }

    /// Why what a form asks for was not done.
    pub(super) fn of_change(error: Error) -> Self {
        // What else goes wrong with a change says of itself whether it was made.
        let unchanged = matches!(error, Error::Unavailable { .. });
        let mut error = Self::from(error);
        if unchanged {
            error.text.push_str(" Nothing was changed. What you typed still stands one page back.");
        }
        error
    }

    pub(super) fn after(mut self, seconds: u64) -> Self {
        self.retry = Some(seconds);
        self
    }
}

impl From<Error> for PageError {
    fn from(error: Error) -> Self {
        let text = sentence(&error.to_string());
        let (status, title) = match &error {
            Error::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "That can't be read"),
            Error::Refused(..) => (StatusCode::UNPROCESSABLE_ENTITY, "Refused"),
            Error::NotFound { .. } => (StatusCode::NOT_FOUND, "Not found"),
            Error::Aborted(_) => (StatusCode::CONFLICT, "Changed meanwhile"),
            Error::Unauthenticated(_) | Error::TokenDenied { .. } => {
                (StatusCode::UNAUTHORIZED, "Sign in")
            }
            Error::TooManyFailures { .. } => (StatusCode::TOO_MANY_REQUESTS, "Too many attempts"),
            Error::Forbidden(_) => (StatusCode::FORBIDDEN, "Not allowed"),
            Error::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
            Error::UnknownCall => (StatusCode::NOT_FOUND, "Not found"),
            Error::Compressed => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "Not like this"),
            Error::OutcomeUnknown | Error::DeadlineExceeded => {
                (StatusCode::GATEWAY_TIMEOUT, "No answer in time")
            }
            Error::NotPropagatedYet => {
                (StatusCode::GATEWAY_TIMEOUT, "Made, and not known everywhere yet")
            }
            Error::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Out of reach"),
            Error::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "Too busy"),
            Error::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
        };
        let page = Self::new(status, title, text);
        match error {
            Error::Unavailable { retry, .. } => page.after(retry.as_secs().max(1)),
            Error::Overloaded => page.after(1),
            _ => page,
        }
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let frame = self.frame.unwrap_or_else(|| Box::new(Frame::bare(self.title)));
        let template = ErrorPage { frame: &frame, text: &self.text, way: self.way.as_ref() };
        let mut response = page(self.status, &template);
        if let Some(seconds) = self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
