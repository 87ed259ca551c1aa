//! Why a command did not do what it was asked, for people and for programs, and its exit code.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::output::clean;
use crate::config::client::ClientSettingsError;
use crate::policy::duration;

/// Exit code: the server refused the request for a reason of the request.
pub const REFUSED: u8 = 1;
/// Exit code: wrong usage, or no answer was had.
pub const NO_ANSWER: u8 = 2;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// Wrong usage or settings, or input that can't be read. A sentence with its cure.
    Usage(String),
    /// Nothing could be reached at the server's address.
    NoServer {
        /// What was tried, and how it failed.
        message: String,
        /// Whether the host said that nothing listens there.
        refused: bool,
    },
    /// The server answered with an error.
    Status {
        /// Its answer.
        status: Box<Status>,
        /// Where the credential came from; `None` if there was none.
        credential: Option<String>,
    },
    /// Some items were refused, each reported before. Says how many.
    Refused(String),
    /// The store could not be opened, or refused.
    Store(String),
    /// The answer could not be written.
    Output(io::Error),
}

impl From<ClientSettingsError> for Failure {
    fn from(error: ClientSettingsError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl Failure {
    /// The exit code: see `docs/cli.md`.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Status { status, .. } => match status.code() {
                Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::Aborted
                | Code::OutOfRange => REFUSED,
                _ => NO_ANSWER,
            },
            Self::Refused(_) => REFUSED,
            _ => NO_ANSWER,
        }
    }

    /// The gRPC code by its name, or the word for an error on this side.
    fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) => "USAGE",
            Self::Refused(_) => "REFUSED",
            Self::NoServer { .. } => "UNAVAILABLE",
            Self::Status { status, .. } => code_name(status.code()),
            Self::Store(_) => "STORE",
            Self::Output(_) => "OUTPUT",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Usage(message)
            | Self::Refused(message)
            | Self::NoServer { message, .. }
            | Self::Store(message) => message.clone(),
            Self::Status { status, .. } if status.message().is_empty() => {
                format!("the server answered {}", code_name(status.code()))
            }
            Self::Status { status, .. } => status.message().to_owned(),
            Self::Output(error) => format!("the answer can't be written: {error}"),
        }
    }

    fn details(&self) -> ErrorDetails {
        match self {
            Self::Status { status, .. } => status.get_error_details(),
            _ => ErrorDetails::new(),
        }
    }

    /// Whether nobody reads the error: the reader of standard output went away.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Every error on a line of its own, then the cures.
    pub(super) fn for_people(&self) -> String {
        let details = self.details();
        let violations = details.bad_request().map(|b| b.field_violations.as_slice());
        let violations = violations.unwrap_or_default();
        let mut text = String::new();
        // Writing to a string can't fail.
        for violation in violations {
            let description = clean(&violation.description);
            let _ = if violation.field.is_empty() {
                writeln!(text, "error: {description}")
            } else {
                writeln!(text, "error: {}: {description}", clean(&violation.field))
            };
        }
        if violations.is_empty() {
            let _ = writeln!(text, "error: {}", clean(&self.message()));
        }
        for rule in details.precondition_failure().iter().flat_map(|p| &p.violations) {
            let subject = match rule.subject.as_str() {
                "" => String::new(),
                subject => format!(" ({})", clean(subject)),
            };
            let description = match rule.description.as_str() {
                description if description == self.message() => String::new(),
                description => format!(": {}", clean(description)),
            };
            let _ = writeln!(text, "  rule: {}{subject}{description}", clean(&rule.r#type));
        }
        for cure in self.cures(&details) {
            let _ = writeln!(text, "  help: {cure}");
        }
        text
    }

    /// One JSON object with every key always there.
    pub(super) fn for_programs(&self) -> Value {
        let details = self.details();
        let violations: Vec<Value> = details
            .bad_request()
            .iter()
            .flat_map(|b| &b.field_violations)
            .map(|v| json!({ "field": v.field, "description": v.description }))
            .collect();
        let precondition: Vec<Value> = details
            .precondition_failure()
            .iter()
            .flat_map(|p| &p.violations)
            .map(
                |v| json!({ "type": v.r#type, "subject": v.subject, "description": v.description }),
            )
            .collect();
        json!({
            "code": self.code(),
            "message": self.message(),
            "reason": details.error_info().map_or("", |info| info.reason.as_str()),
            "violations": violations,
            "precondition": precondition,
            "retry_after": retry_after(&details).map(duration::print),
        })
    }

    fn cures(&self, details: &ErrorDetails) -> Vec<String> {
        let mut cures = Vec::new();
        match self {
            // What rustls says of a server's certificate, or of one that it misses from us.
            Self::NoServer { message, .. } if message.contains("certificate") => cures.push(
                "name the authority that vouches for the server with --server-ca, and, where the \
                 server asks for one, your own certificate with --client-cert and --client-key"
                    .to_owned(),
            ),
            Self::NoServer { .. } => cures.push(
                "start one with `portcullis serve`, or name another with --server or \
                 PORTCULLIS_SERVER"
                    .to_owned(),
            ),
            Self::Status { status, .. }
                if status.code() == Code::Internal && details.request_info().is_some() =>
            {
                cures.extend(details.request_info().map(|info| {
                    let id = clean(&info.request_id);
                    format!("the server's log has the cause, in a line with the request id {id}")
                }));
            }
            Self::Status { status, credential } if !is_made(details) => {
                cures.extend(cure_of_code(status.code(), credential.as_deref()));
            }
            _ => {}
        }
        let rules = details.precondition_failure();
        let words: Vec<&str> = rules
            .iter()
            .flat_map(|p| &p.violations)
            .map(|rule| rule.r#type.as_str())
            .chain(details.error_info().map(|info| info.reason.as_str()))
            .collect();
        // The rules whose cure is a flag of this command; every other cure is in the server's message.
        if words.iter().any(|word| word.contains("NARROWING")) {
            cures.push("repeat it with --confirm-narrowing if that is meant".to_owned());
        }
        if words.iter().any(|word| ["WOULD_REMOVE_LAST", "EMPTY_REPLACE"].contains(word)) {
            cures.push(
                "to lift the restriction: portcullis whitelist replace TOKEN --allow-any-address"
                    .to_owned(),
            );
        }
        if let Some(delay) = retry_after(details) {
            cures.push(format!("try again in {}", duration::print(delay)));
        }
        cures
    }
}

/// Whether the message says already that the change is made, and what to do.
fn is_made(details: &ErrorDetails) -> bool {
    details.error_info().is_some_and(|info| info.reason == "NOT_PROPAGATED_YET")
}

fn retry_after(details: &ErrorDetails) -> Option<Duration> {
    details.retry_info()?.retry_delay
}

fn cure_of_code(code: Code, credential: Option<&str>) -> Option<String> {
    match (code, credential) {
        (Code::Unauthenticated, None) => Some(
            "no credential was given: put one in PORTCULLIS_CREDENTIAL, or in a file named by \
             --credential-file or PORTCULLIS_CREDENTIAL_FILE, or name the data directory of a \
             server on this host with --data-dir"
                .to_owned(),
        ),
        (Code::Unauthenticated, Some(source)) => Some(format!(
            "the credential came from {}; it may be mistyped, expired or revoked, or belong to another server",
            clean(source)
        )),
        (Code::Unimplemented, _) => Some(
            "the server does not know this call: is it the gRPC port of a Portcullis of this version?"
                .to_owned(),
        ),
        (Code::DeadlineExceeded, _) => Some(
            "a change may or may not be done: repeat it, with a longer --timeout if it waits for \
             replicas"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The code's name as `google.rpc.Code` writes it.
fn code_name(code: Code) -> &'static str {
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
    use std::collections::HashMap;

    fn status(code: Code, message: &str, details: ErrorDetails) -> Failure {
        Failure::Status {
            status: Box::new(Status::with_error_details(code, message, details)),
            credential: None,
        }
    }

    fn bad_request() -> Failure {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation(
                "whitelist",
                "10.0.0.5/24 has host bits set: did you mean ...",
            )
            .add_bad_request_violation("name", "is required\u{1b}[2J")
            .set_error_info("INVALID_REQUEST", "portcullis", HashMap::new());
        status(Code::InvalidArgument, "2 fields are invalid", details)
    }

    #[test]
    fn people_read_every_violation() {
        assert_eq!(
            bad_request().for_people(),
            "error: whitelist: 10.0.0.5/24 has host bits set: did you mean ...\n\
             error: name: is required<U+001B>[2J\n"
        );
        assert_eq!(bad_request().exit_code(), REFUSED);
    }

    #[test]
    fn people_read_the_rule_and_the_cure() {
        let mut details = ErrorDetails::new();
        details
            .add_precondition_failure_violation(
                "WOULD_REMOVE_LAST",
                "tok_1",
                "it is the last entry",
            )
            .set_error_info("WOULD_REMOVE_LAST", "portcullis", HashMap::new());
        assert_eq!(
            status(Code::FailedPrecondition, "the whitelist would be empty", details).for_people(),
            "error: the whitelist would be empty\n  \
               rule: WOULD_REMOVE_LAST (tok_1): it is the last entry\n  \
               help: to lift the restriction: portcullis whitelist replace TOKEN --allow-any-address\n"
        );
    }

    #[test]
    fn programs_read_every_key_always() {
        assert_eq!(
            bad_request().for_programs(),
            json!({
                "code": "INVALID_ARGUMENT",
                "message": "2 fields are invalid",
                "reason": "INVALID_REQUEST",
                "violations": [
                    { "field": "whitelist",
                      "description": "10.0.0.5/24 has host bits set: did you mean ..." },
                    { "field": "name", "description": "is required\u{1b}[2J" },
                ],
                "precondition": [],
                "retry_after": null,
            })
        );
        assert_eq!(
            Failure::Usage("so".to_owned()).for_programs(),
            json!({ "code": "USAGE", "message": "so", "reason": "", "violations": [],
                    "precondition": [], "retry_after": null })
        );
    }

    #[test]
    fn a_missing_credential_is_explained() {
        let failure =
            status(Code::Unauthenticated, "a credential is required", ErrorDetails::new());
        assert!(failure.for_people().contains("PORTCULLIS_CREDENTIAL"));
        assert_eq!(failure.exit_code(), NO_ANSWER);
        let failure = Failure::Status {
            status: Box::new(Status::unauthenticated("unknown")),
            credential: Some("data/operator-credential".to_owned()),
        };
        assert!(failure.for_people().contains("came from data/operator-credential"));
    }

    #[test]
    fn a_store_out_of_reach_says_when_to_retry() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1500)));
        let failure = status(Code::Unavailable, "the store is out of reach", details);
        assert_eq!(
            failure.for_people(),
            "error: the store is out of reach\n  help: try again in 1s500ms\n"
        );
        assert_eq!(failure.exit_code(), NO_ANSWER);
        assert_eq!(failure.for_programs()["retry_after"], "1s500ms");
    }

    #[test]
    fn a_reader_that_left_is_told_nothing() {
        assert!(Failure::Output(io::ErrorKind::BrokenPipe.into()).is_silent());
        assert!(!Failure::Output(io::ErrorKind::StorageFull.into()).is_silent());
    }
}
