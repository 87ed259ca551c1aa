//! The arguments of a question (docs/policy.md, rule 2.1).

use super::{AuthorizeInput, RequestedOperation};
use crate::policy::decide::{Operation, Request};
use crate::policy::network::{ClientAddr, InvalidAddr};
use crate::policy::scope::{Catalog, MAX_NAME_LEN, Scope};
use crate::policy::text::quote;
use crate::service::validate::FieldErrors;
use crate::service::{Error, Result};

/// The client and the scope of the question before: those of a batch often have the same.
#[derive(Default)]
pub(super) struct Memo<'a> {
    client: Option<(&'a str, ClientAddr)>,
    scope: Option<(&'a str, &'a Scope)>,
}

impl<'a> Memo<'a> {
    fn client(&mut self, text: &'a str) -> std::result::Result<ClientAddr, InvalidAddr> {
        match self.client {
            Some((before, client)) if before == text => Ok(client),
            _ => text.parse().inspect(|&client| self.client = Some((text, client))),
        }
    }

    /// Of the same catalogue at every call.
    fn scope(&mut self, name: &'a str, catalog: &'a Catalog) -> Option<&'a Scope> {
        match self.scope {
            Some((before, scope)) if before == name => Some(scope),
            _ => catalog.by_name(name).inspect(|scope| self.scope = Some((name, scope))),
        }
    }
}

/// Checks the arguments. Does not allocate where they are valid.
///
/// # Errors
/// [`Error::Invalid`] with every argument that is missing or invalid.
pub(super) fn check<'a>(
    input: &AuthorizeInput<'a>,
    catalog: &'a Catalog,
    memo: &mut Memo<'a>,
) -> Result<Request<'a>> {
    let client = match input.client_ip {
        "" => Ok(None),
        text => memo.client(text).map(Some),
    };
    let operation = match input.operation {
        RequestedOperation::Scope(name) if !name.is_empty() => {
            memo.scope(name, catalog).map(Operation::Scope)
        }
        RequestedOperation::Http { method, path } if !method.is_empty() && !path.is_empty() => {
            Some(Operation::Http { method, path })
        }
        RequestedOperation::Ambiguous(cause) => Some(Operation::Ambiguous(cause)),
        _ => None,
    };
    if let (Ok(client), Some(operation), 0..) = (&client, operation, input.at_least_as_fresh) {
        return Ok(Request { client: *client, operation });
    }

    let mut errors = FieldErrors::default();
    if let Err(error) = client {
        errors.add("client_ip", error.reason(), error);
    }
    if input.at_least_as_fresh < 0 {
        errors.add("at_least_as_fresh", "NEGATIVE", "is negative: a revision is 1 or more");
    }
    match input.operation {
        RequestedOperation::Nothing => errors.add(
            "operation",
            "REQUIRED",
            "is required: name a scope, or an HTTP method and path",
        ),
        RequestedOperation::Scope("") => errors.add("scope", "REQUIRED", "is required"),
        // Rule 2.15 of docs/policy.md.
        RequestedOperation::Scope(name) if operation.is_none() => {
            let shown = quote(name, MAX_NAME_LEN);
            errors.add(
                "scope",
                "UNKNOWN_SCOPE",
                format_args!("the catalogue has no scope {shown}: check its spelling"),
            );
        }
        RequestedOperation::Scope(_) | RequestedOperation::Ambiguous(_) => {}
        RequestedOperation::Http { method, path } => {
            if method.is_empty() {
                errors.add("http.method", "REQUIRED", "is required");
            }
            if path.is_empty() {
                errors.add("http.path", "REQUIRED", "is required");
            }
        }
    }
    errors.into_result()?;
    // One of the two was missing, so there was an error.
    Err(Error::Internal)
}
