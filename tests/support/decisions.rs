//! Decisions without a server: as `grpc` makes them, from memory where that is possible.

use portcullis::policy::decide::{Decision, Reason};
use portcullis::service::decisions::AuthorizeInput;
use portcullis::service::{Error, Services};

/// What `read` takes of the decision on `question`.
///
/// # Errors
/// Where no decision is reached.
pub async fn evaluate<T>(
    services: &Services,
    question: &AuthorizeInput<'_>,
    read: impl Fn(&Decision<'_>) -> T,
) -> Result<T, Error> {
    let from_memory = || -> Result<Option<T>, Error> {
        let Some(context) = services.decision_context() else { return Ok(None) };
        let decision = context.evaluate(question)?;
        Ok(decision.map(|decision| read(&decision)))
    };
    if let Some(read) = from_memory()? {
        return Ok(read);
    }
    let evaluation = services.evaluate_with_store(question).await?;
    Ok(read(&evaluation.decision(question)?))
}

/// The reason of the decision on `question`.
///
/// # Errors
/// Where no decision is reached.
pub async fn reason(services: &Services, question: &AuthorizeInput<'_>) -> Result<Reason, Error> {
    evaluate(services, question, |decision| decision.verdict.reason()).await
}
