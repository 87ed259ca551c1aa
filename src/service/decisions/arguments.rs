//! The arguments of a question (docs/policy.md, rule 2.1).

use super::{Asked, Question};
use crate::policy::decide::{Operation, Request};
use crate::policy::network::{ClientAddr, InvalidAddr};
use crate::policy::scope::{Catalog, MAX_NAME_LEN, Scope};
use crate::policy::text::quote;
use crate::service::validate::Faults;
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
    question: &Question<'a>,
    catalog: &'a Catalog,
    memo: &mut Memo<'a>,
) -> Result<Request<'a>> {
    let client = match question.client_ip {
        "" => Ok(None),
        text => memo.client(text).map(Some),
    };
    let operation = match question.operation {
        Asked::Scope(name) if !name.is_empty() => memo.scope(name, catalog).map(Operation::Scope),
        Asked::Http { method, path } if !method.is_empty() && !path.is_empty() => {
            Some(Operation::Http { method, path })
        }
        _ => None,
    };
    if let (Ok(client), Some(operation), 0..) = (&client, operation, question.at_least_as_fresh) {
        return Ok(Request { client: *client, operation });
    }

    let mut faults = Faults::default();
    if let Err(error) = client {
        faults.add("client_ip", error.reason(), error);
    }
    if question.at_least_as_fresh < 0 {
        faults.add("at_least_as_fresh", "NEGATIVE", "is negative: a revision is 1 or more");
    }
    match question.operation {
        Asked::Nothing => faults.add(
            "operation",
            "REQUIRED",
            "is required: name a scope, or an HTTP method and path",
        ),
        Asked::Scope("") => faults.add("scope", "REQUIRED", "is required"),
        Asked::Scope(name) if operation.is_none() => {
            let shown = quote(name, MAX_NAME_LEN);
            faults.add(
                "scope",
                "UNKNOWN_SCOPE",
                format_args!("the catalogue has no scope {shown}: check its spelling"),
            );
        }
        Asked::Scope(_) => {}
        Asked::Http { method, path } => {
            if method.is_empty() {
                faults.add("http.method", "REQUIRED", "is required");
            }
            if path.is_empty() {
                faults.add("http.path", "REQUIRED", "is required");
            }
        }
    }
    faults.settle()?;
    // One of the two was missing, so there was a fault.
    Err(Error::Internal)
}
