//! The Authorization API of AuthZEN 1.0 (openid.net/specs/authorization-api-1_0.html): evaluation, evaluations, and the
//! metadata that describes them.
//!
//! # Invariants
//! - Only the metadata are public, and nothing of a request is in them.
//! - A denial and a malformed item of a batch are answers; what ends a request is a status of 400 or more.

mod json;
mod question;

use std::borrow::Cow;
use std::time::Duration;

use futures_util::future;
use http::header::GetAll;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use self::json::{Json, Malformed};
use self::question::{Evaluations, Question, Semantic};
use super::answer::{self, Answer, Origin, UNDECIDED};
use super::body::BodyError;
use super::caller::{CallerError, Presented};
use super::{
    DEADLINE, HttpAnswer, Interface, Interfaces, JSON, PeerIdentity, Unidentified, in_time,
    json_answer, problem, undecided,
};
use crate::clock::Stopwatch;
use crate::net::Permit;
use crate::policy::decide::{Decision, Verdict};
use crate::service::decisions::Call;
use crate::service::{Error, Result};

pub(super) const EVALUATION: &str = "/access/v1/evaluation";
pub(super) const EVALUATIONS: &str = "/access/v1/evaluations";
pub(super) const METADATA: &str = "/.well-known/authzen-configuration";

/// A request that was read, and the caller who may have it answered.
struct Received {
    body: Json,
    presented: Presented,
    /// Held until the answer is sent.
    permit: Permit,
}

/// What became of one evaluation.
enum EvaluationOutcome {
    Decided(bool, Value),
    Malformed(String),
    Undecided(&'static str),
}

impl Interfaces {
    /// The metadata (AuthZEN 1.0, section 9.2): from the settings alone, since the client chooses the host that its
    /// request names.
    pub(super) fn metadata(&self) -> HttpAnswer {
        let url = &self.settings.public_url;
        let metadata = json!({
            "policy_decision_point": url,
            "access_evaluation_endpoint": format!("{url}{EVALUATION}"),
            "access_evaluations_endpoint": format!("{url}{EVALUATIONS}"),
        });
        json_answer(&metadata, None)
    }

    pub(super) async fn evaluation(
        &self,
        request: Request<Incoming>,
        peer: PeerIdentity,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        let (head, body) = request.into_parts();
        let received = self.receive(&head.headers, body, peer).await;
        match received {
            Err(refusal) => refusal,
            Ok(received) => match question::evaluation(&received.body) {
                Err(error) => self.malformed(error.to_string()),
                Ok(question) => self.answer_one(&head.headers, &question, received, known).await,
            },
        }
    }

    pub(super) async fn evaluations(
        &self,
        request: Request<Incoming>,
        peer: PeerIdentity,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        let (head, body) = request.into_parts();
        let received = self.receive(&head.headers, body, peer).await;
        match received {
            Err(refusal) => refusal,
            Ok(received) => match question::evaluations(&received.body) {
                Err(error) => self.malformed(error.to_string()),
                Ok(Evaluations::One(question)) => {
                    self.answer_one(&head.headers, &question, received, known).await
                }
                Ok(Evaluations::Several(semantic, questions)) => {
                    self.answer_several(&head.headers, semantic, &questions, received, known).await
                }
            },
        }
    }

    /// Reads a request of a caller who may ask.
    async fn receive(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        peer: PeerIdentity,
    ) -> std::result::Result<Received, HttpAnswer> {
        let values = headers.get_all(header::AUTHORIZATION);
        // A gateway that forwards AuthZEN requests may present its own where it always does.
        let beside = headers.get_all(super::CREDENTIAL);
        let certificate = peer.certificate;
        let is_there = |values: &GetAll<'_, _>| values.iter().next().is_some();
        let presented = match (is_there(&values), is_there(&beside)) {
            (true, true) => Err(CallerError::TwoCredentials),
            (false, true) => Presented::read(beside, certificate, self.settings.development),
            (_, false) => Presented::read(values, certificate, self.settings.development),
        };
        // Before anything of the body is read.
        let presented = presented
            .and_then(|presented| presented.gateway(&self.services).map(|_| presented))
            .map_err(|error| unauthorized(&error))?;
        if !is_json(headers) {
            let sentence = "The request's Content-Type is not application/json.";
            return Err(self.malformed(sentence));
        }
        let (body, permit) =
            self.bodies.read(headers, body, peer.address).await.map_err(body_error)?;
        let body = Json::parse(&body).map_err(|error| self.malformed(error.to_string()))?;
        Ok(Received { body, presented, permit })
    }

    async fn answer_one(
        &self,
        headers: &HeaderMap,
        question: &Question,
        received: Received,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        let Received { presented, permit, .. } = received;
        let asked = in_time(DEADLINE, async {
            match self.identify(Ok(presented), known).await {
                Ok(gateway) => {
                    let call = self.begin_call(Interface::AuthZen, gateway.credential, headers);
                    Ok(Ok(self.evaluate(question, call.as_deref()).await?))
                }
                Err(Unidentified::Caller(error)) => Ok(Err(error)),
                Err(Unidentified::NotReady(error)) => Err(error),
            }
        });
        let outcome = match asked.await {
            Ok(Ok((decision, context))) => EvaluationOutcome::Decided(decision, context),
            Ok(Err(error)) => return unauthorized(&error),
            Err(error) => EvaluationOutcome::from(error),
        };
        self.record(&outcome);
        match outcome {
            EvaluationOutcome::Decided(decision, context) => {
                json_answer(&json!({ "decision": decision, "context": context }), Some(permit))
            }
            EvaluationOutcome::Malformed(sentence) => {
                problem(&Answer::undecided(StatusCode::BAD_REQUEST, sentence))
            }
            EvaluationOutcome::Undecided(sentence) => {
                problem(&Answer::undecided(StatusCode::SERVICE_UNAVAILABLE, sentence))
            }
        }
    }

    async fn answer_several(
        &self,
        headers: &HeaderMap,
        semantic: Semantic,
        questions: &[std::result::Result<Question, Malformed>],
        received: Received,
        known: impl Fn() + Send,
    ) -> HttpAnswer {
        let Received { presented, permit, .. } = received;
        let started = Stopwatch::start();
        let identified =
            in_time(DEADLINE, async { Ok(self.identify(Ok(presented), known).await) }).await;
        let outcomes = match identified.unwrap_or_else(|error| Err(Unidentified::NotReady(error))) {
            Err(Unidentified::Caller(error)) => return unauthorized(&error),
            Err(Unidentified::NotReady(error)) => {
                let outcome = |question: &std::result::Result<_, Malformed>| match question {
                    Ok(_) => EvaluationOutcome::Undecided(undecided(&error)),
                    Err(error) => EvaluationOutcome::Malformed(error.to_string()),
                };
                let mut outcomes: Vec<_> = questions.iter().map(outcome).collect();
                shorten(semantic, &mut outcomes);
                outcomes
            }
            Ok(gateway) if semantic == Semantic::ExecuteAll => {
                let call = self.begin_call(Interface::AuthZen, gateway.credential, headers);
                let call = call.as_deref();
                let each = questions.iter().map(|question| self.outcome(question, started, call));
                future::join_all(each).await
            }
            Ok(gateway) => {
                let call = self.begin_call(Interface::AuthZen, gateway.credential, headers);
                let mut outcomes = Vec::with_capacity(questions.len());
                for question in questions {
                    let outcome = self.outcome(question, started, call.as_deref()).await;
                    let ends = semantic.ends_with(outcome.decision());
                    outcomes.push(outcome);
                    if ends {
                        break;
                    }
                }
                outcomes
            }
        };
        outcomes.iter().for_each(|outcome| self.record(outcome));
        let evaluations: Vec<_> = outcomes.into_iter().map(EvaluationOutcome::into_json).collect();
        json_answer(&json!({ "evaluations": evaluations }), Some(permit))
    }

    /// What becomes of one evaluation of a batch that was begun at `started`.
    async fn outcome(
        &self,
        question: &std::result::Result<Question, Malformed>,
        started: Stopwatch,
        call: Option<&Call>,
    ) -> EvaluationOutcome {
        match question {
            Err(error) => {
                self.services.metrics().decision_errors.inc();
                EvaluationOutcome::Malformed(error.to_string())
            }
            Ok(question) => {
                // Long paths cost time without waiting: others get their turn between two items, and no item begins
                // after the deadline.
                tokio::task::yield_now().await;
                let left: Duration = DEADLINE.saturating_sub(started.elapsed());
                if left.is_zero() {
                    return EvaluationOutcome::from(Error::DeadlineExceeded);
                }
                match in_time(left, self.evaluate(question, call)).await {
                    Ok((decision, context)) => EvaluationOutcome::Decided(decision, context),
                    Err(error) => EvaluationOutcome::from(error),
                }
            }
        }
    }

    async fn evaluate(&self, question: &Question, call: Option<&Call>) -> Result<(bool, Value)> {
        let token = question.token();
        let context = |decision: &Decision<'_>| {
            let allowed = matches!(decision.verdict, Verdict::Allow(_));
            (
                allowed,
                context(decision, &answer::detail(decision, &token, Origin::AuthZen), || {
                    self.services.calendar()
                }),
            )
        };
        self.decide(&question.input(), call, context).await
    }

    /// The answer to a request that is malformed as a whole.
    fn malformed(&self, sentence: impl Into<Cow<'static, str>>) -> HttpAnswer {
        self.count(Interface::AuthZen, "malformed");
        problem(&Answer::undecided(StatusCode::BAD_REQUEST, sentence))
    }

    fn record(&self, outcome: &EvaluationOutcome) {
        self.count(
            Interface::AuthZen,
            match outcome {
                EvaluationOutcome::Decided(true, _) => "allow",
                EvaluationOutcome::Decided(false, _) => "deny",
                EvaluationOutcome::Malformed(_) => "malformed",
                EvaluationOutcome::Undecided(_) => "undecided",
            },
        );
    }
}

impl From<Error> for EvaluationOutcome {
    fn from(error: Error) -> Self {
        match error {
            // Arguments that `Authorize` refuses: an unknown scope, or no address.
            Error::Invalid(_) => Self::Malformed(error.to_string()),
            error => Self::Undecided(undecided(&error)),
        }
    }
}

impl EvaluationOutcome {
    fn decision(&self) -> bool {
        matches!(self, Self::Decided(true, _))
    }

    /// An item of a batch (AuthZEN 1.0, section 7.2).
    fn into_json(self) -> Value {
        let failed = |status: StatusCode, message: &str| json!({ "status": status.as_u16(), "message": message });
        match self {
            Self::Decided(decision, context) => json!({ "decision": decision, "context": context }),
            Self::Malformed(sentence) => {
                let error = failed(StatusCode::BAD_REQUEST, &sentence);
                json!({ "decision": false, "context": { "error": error } })
            }
            Self::Undecided(sentence) => {
                let error = failed(StatusCode::SERVICE_UNAVAILABLE, sentence);
                json!({ "decision": false, "context": { "reason": UNDECIDED, "error": error } })
            }
        }
    }
}

/// Cuts off what follows the outcome that ends a batch.
fn shorten(semantic: Semantic, outcomes: &mut Vec<EvaluationOutcome>) {
    let last = outcomes.iter().position(|outcome| semantic.ends_with(outcome.decision()));
    if let Some(last) = last {
        outcomes.truncate(last + 1);
    }
}

/// What a decision says beside its value: what `Authorize` answers, by the same names.
fn context(
    decision: &Decision<'_>,
    message: &str,
    calendar: impl FnOnce() -> crate::policy::lifecycle::Calendar,
) -> Value {
    let mut context = Map::new();
    let mut put = |name: &str, value: String| context.insert(name.to_owned(), value.into());
    put("reason", decision.verdict.reason().word().to_owned());
    put("message", message.to_owned());
    if let Some(facts) = decision.token {
        put("token_id", (*facts.id).to_string());
        put("account_id", (*facts.account_id).to_string());
    }
    if let Some(scope) = decision.required {
        put("required_scope", scope.name.to_string());
    }
    if let Verdict::Allow(Some(entry)) = decision.verdict {
        put("matched_entry", entry.to_string());
    }
    let announced = decision.token.filter(|facts| !facts.announced.is_empty());
    if let Some(action) = announced.and_then(|facts| facts.upcoming(&calendar())) {
        let action = json!({
            "type": answer::action_word(action.action),
            "effective_time": action.effective.to_string(),
        });
        context.insert("pending_action".to_owned(), action);
    }
    if let Some(at) = decision.token.and_then(|facts| facts.expiry.time()) {
        context.insert("token_expire_time".to_owned(), at.to_string().into());
    }
    Value::Object(context)
}

/// Whether the body says that it is JSON, once.
fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let media_type = value.as_bytes().split(|&byte| byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(JSON.as_bytes())
}

fn body_error(error: BodyError) -> HttpAnswer {
    let (status, sentence) = match error {
        BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The request is larger than 1 MiB."),
        BodyError::CutOff => (StatusCode::REQUEST_TIMEOUT, "The request did not arrive in time."),
        BodyError::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, undecided(&Error::Overloaded)),
    };
    problem(&Answer::undecided(status, sentence))
}

/// A caller who may not ask (AuthZEN 1.0, section 10.1.1).
fn unauthorized(error: &CallerError) -> HttpAnswer {
    let status = match error {
        CallerError::WrongRole => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    };
    let mut response = problem(&Answer::undecided(status, error.to_string()));
    let challenge = match error {
        CallerError::WrongRole => return response,
        CallerError::Missing | CallerError::UnboundCertificate => {
            HeaderValue::from_static("Bearer realm=\"portcullis\"")
        }
        _ => HeaderValue::from_static("Bearer realm=\"portcullis\", error=\"invalid_token\""),
    };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
