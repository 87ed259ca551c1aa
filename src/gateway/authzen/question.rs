//! AuthZEN requests as questions about tokens (Rule 9.15 of docs/policy.md).

use super::json::{BODY, Json, Malformed, join};
use crate::gateway::request::ClientToken;
use crate::secret;
use crate::service::decisions::{AuthorizeInput, MAX_BATCH, RequestedOperation};

const SUBJECT: &str = "subject";
const ACTION: &str = "action";
const RESOURCE: &str = "resource";
const CONTEXT: &str = "context";

/// The type of resources whose id is a path.
const ROUTE: &str = "route";

const TWO_TOKENS: &str =
    "subject.id and subject.properties.token are different: send the token in one of them.";

/// One evaluation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// What the subject presents; `None` where it presents two.
    token: Option<String>,
    client_ip: String,
    operation: Operation,
    dry_run: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Operation {
    Http { method: String, path: String },
    Scope(String),
}

impl Question {
    /// The same as the arguments of `Authorize`.
    pub(super) fn input(&self) -> AuthorizeInput<'_> {
        let presented = self.token.as_deref().unwrap_or_default().as_bytes();
        AuthorizeInput {
            token: secret::without_mark(presented),
            presented,
            client_ip: &self.client_ip,
            operation: match &self.operation {
                Operation::Http { method, path } => RequestedOperation::Http { method, path },
                Operation::Scope(name) => RequestedOperation::Scope(name),
            },
            dry_run: self.dry_run,
            at_least_as_fresh: 0,
        }
    }

    /// The token, for what is answered.
    pub(super) fn token(&self) -> ClientToken<'_> {
        match &self.token {
            None => ClientToken::Malformed(TWO_TOKENS),
            Some(token) if token.is_empty() => ClientToken::Missing,
            Some(token) => ClientToken::Plain(token.as_bytes()),
        }
    }
}

/// How the evaluations of a batch depend on each other (AuthZEN 1.0, section 7.1.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

impl Semantic {
    /// Whether what follows an evaluation with this decision is not evaluated.
    pub(super) fn ends_with(self, decision: bool) -> bool {
        match self {
            Self::ExecuteAll => false,
            Self::DenyOnFirstDeny => !decision,
            Self::PermitOnFirstPermit => decision,
        }
    }
}

/// A request to evaluate one thing, or several.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Evaluations {
    One(Question),
    /// Each by itself: one that is malformed is denied in its place.
    Several(Semantic, Vec<Result<Question, Malformed>>),
}

/// The entities that evaluations may leave out, each of them whole.
struct Defaults<'j> {
    subject: Option<&'j Json>,
    action: Option<&'j Json>,
    resource: Option<&'j Json>,
    context: Option<&'j Json>,
}

/// Reads the request of a single evaluation.
pub(super) fn evaluation(body: &Json) -> Result<Question, Malformed> {
    question(BODY, body, &Defaults { subject: None, action: None, resource: None, context: None })
}

/// Reads a request with any number of evaluations. Without any it is a single one (AuthZEN 1.0, section 7.1).
pub(super) fn evaluations(body: &Json) -> Result<Evaluations, Malformed> {
    let items = match body.member(BODY, "evaluations")? {
        None | Some(Json::Null) => return evaluation(body).map(Evaluations::One),
        Some(Json::Array(items)) if items.is_empty() => {
            return evaluation(body).map(Evaluations::One);
        }
        Some(Json::Array(items)) => items,
        Some(_) => return Err(Malformed::new("evaluations", "is no array.")),
    };
    if items.len() > MAX_BATCH {
        let sentence = format!("has {} items; the most is {MAX_BATCH}.", items.len());
        return Err(Malformed::new("evaluations", &sentence));
    }
    let semantic = semantic(body)?;
    let defaults = Defaults {
        subject: entity(body, BODY, SUBJECT)?,
        action: entity(body, BODY, ACTION)?,
        resource: entity(body, BODY, RESOURCE)?,
        context: entity(body, BODY, CONTEXT)?,
    };
    let question = |(index, item)| question(&format!("evaluations[{index}]"), item, &defaults);
    let questions = items.iter().enumerate().map(question).collect();
    Ok(Evaluations::Several(semantic, questions))
}

fn semantic(body: &Json) -> Result<Semantic, Malformed> {
    let Some(options) = entity(body, BODY, "options")? else { return Ok(Semantic::ExecuteAll) };
    match options.text("options", "evaluations_semantic")? {
        None | Some("execute_all") => Ok(Semantic::ExecuteAll),
        Some("deny_on_first_deny") => Ok(Semantic::DenyOnFirstDeny),
        Some("permit_on_first_permit") => Ok(Semantic::PermitOnFirstPermit),
        Some(_) => Err(Malformed::new(
            "options.evaluations_semantic",
            "is none of execute_all, deny_on_first_deny and permit_on_first_permit.",
        )),
    }
}

/// A member that has to be an object; `None` also where it is null.
fn entity<'j>(json: &'j Json, at: &str, name: &str) -> Result<Option<&'j Json>, Malformed> {
    match json.member(at, name)? {
        None | Some(Json::Null) => Ok(None),
        Some(entity @ Json::Object(_)) => Ok(Some(entity)),
        Some(_) => Err(Malformed::new(&join(at, name), "is no object.")),
    }
}

/// Reads one evaluation at `at`. What it has replaces the default of that name as a whole.
fn question(at: &str, item: &Json, defaults: &Defaults<'_>) -> Result<Question, Malformed> {
    let part = |name, default: Option<_>| match item.member(at, name)? {
        // A caller that writes null for nobody must not be answered for somebody else.
        Some(Json::Null) if default.is_some() => {
            let sentence = "is null: leave it out for the request's own, or send an object.";
            Err(Malformed::new(&join(at, name), sentence))
        }
        _ => Ok(entity(item, at, name)?.or(default)),
    };
    let required = |name, default| {
        part(name, default)?.ok_or_else(|| Malformed::new(&join(at, name), "is required."))
    };
    let subject = required(SUBJECT, defaults.subject)?;
    let action = required(ACTION, defaults.action)?;
    let resource = required(RESOURCE, defaults.resource)?;
    let context = part(CONTEXT, defaults.context)?;

    let token = token(subject, &join(at, SUBJECT))?;
    let name = action.required_text(&join(at, ACTION), "name")?;
    let at_resource = join(at, RESOURCE);
    let kind = resource.required_text(&at_resource, "type")?;
    let id = resource.required_text(&at_resource, "id")?;
    let operation = match kind {
        ROUTE => Operation::Http { method: name.to_owned(), path: id.to_owned() },
        _ => Operation::Scope(format!("{kind}.{name}")),
    };
    let (mut client_ip, mut dry_run) = ("", false);
    if let Some(context) = context {
        let at_context = join(at, CONTEXT);
        client_ip = context.text(&at_context, "client_ip")?.unwrap_or_default();
        dry_run = context.flag(&at_context, "dry_run")?;
    }
    Ok(Question { token, client_ip: client_ip.to_owned(), operation, dry_run })
}

/// The secret that a subject presents: its id, or the property that has it, for those whose ids go into logs.
fn token(subject: &Json, at: &str) -> Result<Option<String>, Malformed> {
    subject.required_text(at, "type")?;
    let id = subject.text(at, "id")?;
    let property = match entity(subject, at, "properties")? {
        None => None,
        Some(properties) => properties.text(&join(at, "properties"), "token")?,
    };
    let token = match (id, property) {
        (None, None) => return Err(Malformed::new(&join(at, "id"), "is required.")),
        (Some(id), Some(property)) if id != property => return Ok(None),
        (Some(token), _) | (None, Some(token)) => token,
    };
    Ok(Some(token.to_owned()))
}

#[cfg(test)]
mod tests;
