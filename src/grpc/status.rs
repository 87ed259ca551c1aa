//! The one place that makes a `Status`: which error is which code, with which details.
//!
//! Must stay true: nothing internal is in it; it fits the 8 KiB of metadata that common clients
//! accept, so a long list of errors ends with how many more there are.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use prost::Message as _;
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, Status as ItemStatus, StatusExt as _};

use super::gzip;
use crate::gateway::answer;
use crate::policy::decide::Reason;
use crate::service::Error;
use crate::service::error::{Obstacle, Violation};
use crate::telemetry::request_id;

const DOMAIN: &str = "portcullis";
/// Bytes of details, before base64 makes them a third longer.
const DETAILS: usize = 3_600;
/// The same for each of a thousand items, whose answer has to fit the 4 MiB that clients take.
const ITEM_DETAILS: usize = 2_000;
/// Bytes of the message, of which hostile ones are escaped to three times their length.
const MESSAGE: usize = 700;

/// The status that answers `error`, with the id of the request that this thread works on: in the details and as metadata.
pub(crate) fn status(error: &Error) -> Status {
    let id = request_id::current();
    let mut status = status_within(error, DETAILS, id.as_ref());
    if let Some(id) = id.and_then(|id| AsciiMetadataValue::try_from(id.as_bytes()).ok()) {
        status.metadata_mut().insert(request_id::NAME, id);
    }
    status
}

/// The same, with so many bytes of details.
fn status_within(error: &Error, most: usize, id: Option<&HeaderValue>) -> Status {
    let mut details = ErrorDetails::new();
    let (code, reason) = match error {
        Error::Invalid(violations) => {
            add_violations(&mut details, violations, most);
            (Code::InvalidArgument, common_reason(violations))
        }
        Error::Refused(obstacles, violations) => {
            add_obstacles(&mut details, obstacles, most);
            if !violations.is_empty() {
                add_violations(&mut details, violations, most);
            }
            (Code::FailedPrecondition, obstacles.first().map_or("REFUSED", |first| first.rule))
        }
        Error::NotFound { kind, id } => {
            details.set_resource_info(*kind, id, "", "");
            (Code::NotFound, "NOT_FOUND")
        }
        Error::Aborted(_) => (Code::Aborted, "CHANGED_MEANWHILE"),
        Error::Unauthenticated(_) => (Code::Unauthenticated, "NO_VALID_CREDENTIAL"),
        Error::TokenDenied { reason, .. } => (denial_code(*reason), reason.word()),
        Error::TooManyFailures { retry } => {
            details.set_retry_info(Some(*retry));
            (Code::ResourceExhausted, "TOO_MANY_FAILURES")
        }
        Error::Forbidden(_) => (Code::PermissionDenied, "ROLE_NOT_ALLOWED"),
        Error::Unavailable { retry, .. } => {
            details.set_retry_info(Some(*retry));
            (Code::Unavailable, "UNAVAILABLE")
        }
        Error::TooLarge(_) => (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"),
        Error::UnknownCall => (Code::Unimplemented, "UNKNOWN_CALL"),
        Error::Compressed => (Code::Unimplemented, "COMPRESSED"),
        // Without RetryInfo: trying again blindly could make the change twice.
        Error::OutcomeUnknown => (Code::Unavailable, "OUTCOME_UNKNOWN"),
        Error::NotPropagatedYet => (Code::DeadlineExceeded, "NOT_PROPAGATED_YET"),
        Error::Overloaded => {
            details.set_retry_info(Some(Duration::from_millis(100)));
            (Code::Unavailable, "OVERLOADED")
        }
        Error::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        Error::Internal => (Code::Internal, "INTERNAL"),
    };
    details.set_error_info(reason, DOMAIN, HashMap::new());
    if let Some(id) = id.and_then(|id| id.to_str().ok()) {
        details.set_request_info(id, "");
    }
    let mut status = Status::with_error_details(code, cut(&error.to_string(), MESSAGE), details);
    if matches!(error, Error::Compressed) {
        let (name, accepted) = gzip::ACCEPTED;
        status.metadata_mut().insert(name, MetadataValue::from_static(accepted));
    }
    status
}

/// An error of one item: the same code, message and kinds of details that the call would have ended with.
pub(super) fn item_error(error: &Error) -> ItemStatus {
    // The call has the id of the request.
    let error = status_within(error, ITEM_DETAILS, None);
    let details = error.details();
    // The details of a status are a whole `google.rpc.Status`.
    ItemStatus::decode(details).ok().filter(|_| !details.is_empty()).unwrap_or_else(|| ItemStatus {
        code: error.code().into(),
        message: error.message().to_owned(),
        details: Vec::new(),
    })
}

fn common_reason(violations: &[Violation]) -> &'static str {
    match violations {
        [first, rest @ ..] if rest.iter().all(|other| other.reason == first.reason) => first.reason,
        _ => "INVALID_FIELDS",
    }
}

fn add_violations(details: &mut ErrorDetails, violations: &[Violation], most: usize) {
    let mut left = most;
    for (at, violation) in violations.iter().enumerate() {
        let description = cut(&violation.description, 500);
        let size = violation.field.len() + description.len() + 8;
        if size > left {
            let more = format!("and at least {} more: fix these first", violations.len() - at);
            details.add_bad_request_violation("", more);
            return;
        }
        left -= size;
        details.add_bad_request_violation(&violation.field, description);
    }
}

fn add_obstacles(details: &mut ErrorDetails, obstacles: &[Obstacle], most: usize) {
    let mut left = most;
    for (at, obstacle) in obstacles.iter().enumerate() {
        let description = cut(&obstacle.description, 500);
        let size = obstacle.rule.len() + obstacle.subject.len() + description.len() + 8;
        if size > left {
            let more = format!("and {} more", obstacles.len() - at);
            details.add_precondition_failure_violation("MORE", "", more);
            return;
        }
        left -= size;
        details.add_precondition_failure_violation(obstacle.rule, &obstacle.subject, description);
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} ...", &text[..end])
}

/// The code of a denial: whether another token is needed, or this one is not allowed it.
pub(super) fn denial_code(reason: Reason) -> Code {
    match answer::status(reason) {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        _ => Code::PermissionDenied,
    }
}

/// The code's name, for metrics.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_faults_fit_the_metadata_of_common_clients() {
        let violation = |at: usize| Violation {
            field: format!("whitelist[{at}]"),
            description: "\u{1f512}".repeat(300),
            reason: "X",
        };
        let status = status(&Error::Invalid((0..1_000).map(violation).collect()));
        assert!(status.details().len() * 4 / 3 + status.message().len() * 3 < 8_000);
        let details = status.get_error_details();
        let fields = details.bad_request().unwrap().field_violations.clone();
        assert!(fields.last().unwrap().description.contains("more"), "{fields:?}");
        assert_eq!(details.error_info().unwrap().reason, "X");

        let item = item_error(&Error::Invalid((0..1_000).map(violation).collect()));
        assert!(item.encoded_len() * 1_000 < 4 << 20, "{} bytes", item.encoded_len());
    }
}
